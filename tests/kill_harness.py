"""Kill children in the middle of traffic: `python -m tests.kill_harness UPSTREAM_URL HOME KILLS SEED`.

The parent has litellm imported and no thread. It forks children that route through real HTTP as fast as they can
and acknowledge each answer over a pipe; after a random number of acknowledgements the child is killed. What was
acknowledged is printed as JSON lines.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import select
import signal
import sys
import threading
from pathlib import Path

from router import Router
from tests.support import make_policy


def main(url: str, home: str, kills: int, seed: int) -> None:
    """Fork, let run, kill, `kills` times."""
    policy = make_policy({"answer": {"choice": ["yes", "no"]}}, api_base=url)
    # Made before the fork, with litellm imported, as in a server that preloads its application.
    router = Router(policy, home=Path(home))
    router.plan("t")
    if "litellm" not in sys.modules or threading.active_count() != 1:
        raise SystemExit("the parent must have litellm imported and no thread but its own")
    dice = random.Random(seed)
    for child in range(kills):
        acknowledged = _one_child(router, child, dice)
        for line in acknowledged:
            print(json.dumps({"child": child, "route_id": line}), flush=True)


def _one_child(router: Router, child: int, dice: random.Random) -> list[str]:
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        _work(router, child, sending)
    os.close(sending)
    wanted = dice.randint(1, 6)
    received = b""
    while received.count(b"\n") < wanted:
        received += os.read(receiving, 4096)
    # A random moment of the next request: it is being recorded, sent, answered or settled.
    select.select([], [], [], dice.random() * 0.006)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(receiving, 4096):
        received += more
    os.close(receiving)
    return received.decode().split("\n")[:-1]  # A last line without its end was never acknowledged.


def _work(router: Router, child: int, sending: int) -> None:
    """Route until killed; every third prompt climbs, every odd child awaits."""
    for number in itertools.count():
        prompt = f"say={'perhaps' if number % 3 == 0 else 'yes'} id={child}-{number}"
        answer = asyncio.run(router.aroute("t", prompt)) if child % 2 else router.route("t", prompt)
        os.write(sending, f"{answer.route_id}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
