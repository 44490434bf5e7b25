"""Many processes on one budget: `python -m tests.budget_harness URL HOME LIMIT_NUSD WORKERS KILLS`.

Each child routes until its budget refuses it, or until it is killed in the middle of a request: the first `KILLS` of
them are. Prints how each ended, in one word. The children ask over plain HTTP: sixty-four times litellm's first call
is two minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from router import Router
from router.core.call import Call, Failure, Outcome, Reply, Usage, input_tokens_estimate
from router.core.faults import Fault
from router.core.policy import Model
from router.errors import BudgetExceeded, NoAnswer
from router.models import Facts
from tests.budget_support import policy_with


def main(url: str, home: str, limit_nusd: int, workers: int, kills: int) -> None:
    """Fork, kill some, wait for the rest."""
    budgets = {"feature": {"default": {"usd_per_day": f"{limit_nusd / 1e9:.9f}"}}}
    policy = policy_with(budgets, {"retry": {"attempts": 2, "max_wait_s": 0.05}})
    backend = Plain(url)
    router = Router(policy, home=Path(home), backend=backend)
    children = [_child(router, backend, number) for number in range(workers)]
    dice = random.Random(20261121)
    for pid, receiving in children[:kills]:
        for _ in range(2 * dice.randint(1, 3) + 1):  # As many requests with their ends, and then one that has left.
            if not os.read(receiving, 1):
                break
        if dice.random() < 0.5:
            select.select([], [], [], dice.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
    for pid, receiving in children:
        while os.read(receiving, 4096):
            pass
        status = os.waitpid(pid, 0)[1]
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else f"{_ENDS[os.WEXITSTATUS(status)]}\n")


_ENDS = ("refused", "broken")


class Plain:
    """A backend that asks the upstream over a connection of its own for each request."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self.told: int | None = None
        """Where to tell that a request is about to leave."""

    def facts(self, model: Model) -> Facts:
        return Facts()

    def count_tokens(self, call: Call) -> int:
        return input_tokens_estimate(call.messages)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        body = {"model": call.name, "messages": call.messages, "max_tokens": call.max_output_tokens}
        head = {"Content-Type": "application/json", "Authorization": "Bearer x"}
        if self.told is not None:
            os.write(self.told, b">")
        with closing(HTTPConnection(str(self._url.hostname), self._url.port, timeout=60)) as connection:
            try:
                connection.request("POST", f"{self._url.path}/chat/completions", json.dumps(body), head)
                response = connection.getresponse()
                text = response.read()
            except (OSError, HTTPException):
                return Failure(Fault.CONNECTION)
        if response.status != 200:
            return Failure(Fault.RATE_LIMITED if response.status == 429 else Fault.SERVER_ERROR, response.status)
        try:
            said = json.loads(text)
        except ValueError:
            return Failure(Fault.MALFORMED)
        used = said.get("usage")
        usage = Usage(input_tokens=used["prompt_tokens"], output_tokens=used["completion_tokens"]) if used else None
        return Reply(said["choices"][0]["message"]["content"], usage, model_served=call.name)

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        return await asyncio.to_thread(self.send, call, timeout_s)


def _child(router: Router, backend: Plain, number: int) -> tuple[int, int]:
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid:
        os.close(sending)
        return pid, receiving
    os.close(receiving)
    code = 1
    try:
        backend.told = sending
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
