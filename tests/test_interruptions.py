"""Streams that break and calls that are cancelled, by the thousand: every row ends, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.errors import NoAnswer, StreamInterrupted
from router.ledger import fold
from tests.support import make_policy, read_table
from tests.upstream import Upstream

MANY = 1000
AT_ONCE = 50
WORDS = "one_two_three_four_five_six_seven_eight"


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    """An upstream of the test's own, whose connections are all ours."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    with Upstream() as own:
        yield own


@pytest.fixture
def router(upstream: Upstream) -> Router:
    """One rung, so that every stream is live."""
    return Router(make_policy({"ladder": ["small"], "retry": {"attempts": 1}}, api_base=upstream.url))


async def _many(work: Any) -> None:
    """Do the same many times, some at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            await work(number)

    await asyncio.gather(*(one(number) for number in range(MANY)))


async def _left_running(router: Router, work: Any) -> set[Any]:
    """Do the same many times; the tasks that do not end by themselves afterwards, but for litellm's own."""
    before = asyncio.all_tasks()
    await _many(work)
    await router.aclose()
    left = {task for task in asyncio.all_tasks() - before if "litellm" not in repr(task)}
    # A stream that was dropped is closed by a task of the loop's.
    return (await asyncio.wait(left, timeout=5.0))[1] if left else left


def _assert_all_ended(home: Path, upstream: Upstream, calls: int) -> None:
    """Every request has its end, every call its row, and what each can have cost covers the upstream's bill."""
    report = fold(home)
    assert (report.torn, report.corrupt, report.orphans, report.lost) == ([], [], 0, 0)
    attempts, routes = read_table(home, "attempts"), read_table(home, "routes")
    assert len(routes) == calls
    assert {row["state"] for row in attempts} <= {"settled", "estimated", "maybe_billed"}
    billed = sum(row.cost_nusd for row in upstream.bill())
    assert sum(row["upper_nusd"] for row in attempts) >= billed
    until = time.monotonic() + 5.0
    while (left := upstream.open()).streams and time.monotonic() < until:
        pass  # The upstream notices that a client has left when it sends the next word.
    assert left.streams == 0
    assert left.connections <= AT_ONCE  # What litellm keeps for the next call: never more than were in use at once.


def test_a_thousand_streams_that_are_cut_at_random(router: Router, upstream: Upstream, home: Path) -> None:
    """By the provider, with FIN or RST, or by the caller, after any number of parts."""
    dice = random.Random(7)
    ends: Counter[str] = Counter()

    async def one(number: int) -> None:
        kind = dice.choice(["fault=cut", "fault=cut_reset", "left", "dropped"])
        after = dice.randrange(9)
        prompt = f"{kind} cut_after={after} say={WORDS} id={number}"
        try:
            async with await router.aroute("t", prompt, stream=True) as stream:
                seen = 0
                async for _ in stream:
                    seen += 1
                    if not kind.startswith("fault") and seen > after:
                        break
                else:
                    assert stream.answer.text.split() == WORDS.split("_")
                    ends["whole"] += 1
                    return
            ends["left"] += 1
        except StreamInterrupted as error:
            assert WORDS.replace("_", " ").startswith(error.partial_text)
            ends["interrupted"] += 1
        except NoAnswer:
            ends["nothing came"] += 1

    assert asyncio.run(_left_running(router, one)) == set()
    assert sum(ends.values()) == MANY
    assert min(ends[kind] for kind in ("left", "interrupted", "nothing came", "whole")) > 10
    _assert_all_ended(home, upstream, MANY)


def test_a_thousand_calls_that_are_cancelled_at_random(router: Router, upstream: Upstream, home: Path) -> None:
    """Before, while and after the answer comes, as a stream or whole; the cancelling itself is never swallowed."""
    dice = random.Random(8)
    ends: Counter[str] = Counter()

    async def call(number: int, live: bool) -> None:
        prompt = f"fault={dice.choice(['slow', 'drip', 'ok'])} say={WORDS} id={number}"
        if not live:
            await router.aroute("t", prompt)
            return
        async with await router.aroute("t", prompt, stream=True) as stream:
            async for _ in stream:
                pass

    async def one(number: int) -> None:
        task = asyncio.create_task(call(number, dice.random() < 0.5))
        done, _ = await asyncio.wait([task], timeout=dice.random() * 0.4)
        task.cancel()
        try:
            await task
            ends["answered"] += 1
            assert done
        except asyncio.CancelledError:
            ends["cancelled"] += 1

    assert asyncio.run(_left_running(router, one)) == set()
    assert sum(ends.values()) == MANY
    assert min(ends["answered"], ends["cancelled"]) > 10
    routes = read_table(home, "routes")
    assert Counter(row["outcome"] for row in routes)["answered"] == ends["answered"]
    _assert_all_ended(home, upstream, len(routes))
    assert MANY - len(routes) <= AT_ONCE  # A task that is cancelled before its first step has not called at all.
