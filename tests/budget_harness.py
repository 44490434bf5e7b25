"""Many processes on one budget: `python -m tests.budget_harness URL HOME LIMIT_NUSD WORKERS KILLS`.

The parent has litellm imported and no thread. Each child routes until its budget refuses it, or until it is killed in
the middle of a request: the first `KILLS` of them are. Prints how the others ended, one word for each.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from router import Router
from router.errors import BudgetExceeded, NoAnswer
from tests.budget_support import policy_with


def main(url: str, home: str, limit_nusd: int, workers: int, kills: int) -> None:
    """Fork, kill some, wait for the rest."""
    budgets = {"feature": {"default": {"usd_per_day": f"{limit_nusd / 1e9:.9f}"}}}
    router = Router(policy_with(budgets, {"retry": {"attempts": 2, "max_wait_s": 0.05}}, api_base=url), home=Path(home))
    router.plan("t")
    children = [_child(router, number) for number in range(workers)]
    dice = random.Random(20261121)
    for pid, receiving in children[:kills]:
        for _ in range(dice.randint(1, 3)):  # As many answers, and then a part of the next request.
            if not os.read(receiving, 1):
                break
        select.select([], [], [], dice.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
    for pid, receiving in children:
        while os.read(receiving, 4096):
            pass
        status = os.waitpid(pid, 0)[1]
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else f"{_ENDS[os.WEXITSTATUS(status)]}\n")


_ENDS = ("refused", "broken")


def _child(router: Router, number: int) -> tuple[int, int]:
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid:
        os.close(sending)
        return pid, receiving
    os.close(receiving)
    code = 1
    try:
        spend(router, str(number), sending)
        code = 0
    finally:
        os._exit(code)


def spend(router: Router, name: str, told: int | None = None) -> None:
    """Route until the budget refuses."""
    turn = 0
    while True:
        turn += 1
        try:
            router.route("t", f"say={'perhaps' if turn % 3 == 0 else 'yes'} id={name}-{turn}", feature="f")
        except BudgetExceeded:
            return
        except NoAnswer:
            pass
        if told is not None:
            os.write(told, b".")


async def aspend(router: Router, name: str) -> None:
    """The same without blocking."""
    turn = 0
    while True:
        turn += 1
        try:
            await router.aroute("t", f"say={'perhaps' if turn % 3 == 0 else 'yes'} id={name}-{turn}", feature="f")
        except BudgetExceeded:
            return
        except NoAnswer:
            pass


def run(arguments: Sequence[str]) -> None:
    """The command."""
    url, home, *numbers = arguments
    main(url, home, *map(int, numbers))


if __name__ == "__main__":
    run(sys.argv[1:])
