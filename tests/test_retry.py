"""Retries of one rung: bounded by attempts, by the longest pause, by the deadline and by what the provider asks for."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.call import Failure, Outcome, Reply
from router.core.faults import FAULTS, Fault
from router.models import retry
from router.testing import SimulatedWorld

OK = Reply("fine", None)
BUSY = Failure(Fault.RATE_LIMITED)


def _ask(outcomes: list[Outcome], limits: retry.Limits, world: SimulatedWorld, blocking: bool) -> tuple[Outcome, int]:
    """The outcome, and how many requests it took."""
    left = list(outcomes)

    async def asend() -> Outcome:
        return left.pop(0)

    if blocking:
        outcome = retry.ask(lambda: left.pop(0), limits, world)
    else:
        outcome = asyncio.run(retry.aask(asend, limits, world))
    return outcome, len(outcomes) - len(left)


def _limits(attempts: int = 3, max_wait_s: float = 8.0, remaining_s: float | None = None) -> retry.Limits:
    return retry.Limits(attempts, max_wait_s, lambda: remaining_s)


both = pytest.mark.parametrize("blocking", [True, False], ids=["ask", "aask"])


@both
def test_an_answer_needs_one_request(blocking: bool) -> None:
    """The first answer is the result, and no time passes."""
    world = SimulatedWorld()
    assert _ask([OK, OK], _limits(), world, blocking) == (OK, 1)
    assert world.clock.monotonic() == 0


@both
def test_a_passing_fault_is_asked_again(blocking: bool) -> None:
    """An answer after two busy replies is the result of three requests."""
    world = SimulatedWorld()
    assert _ask([BUSY, BUSY, OK], _limits(), world, blocking) == (OK, 3)
    assert world.clock.monotonic() > 0


@both
def test_attempts_are_bounded(blocking: bool) -> None:
    """The last failure is the result when the attempts are used up; no pause follows it."""
    world = SimulatedWorld()
    last = Failure(Fault.SERVER_ERROR)
    assert _ask([BUSY, last, OK], _limits(attempts=2), world, blocking) == (last, 2)


@both
@pytest.mark.parametrize("fault", [fault for fault in Fault if not FAULTS[fault].retry])
def test_a_lasting_fault_is_not_asked_again(fault: Fault, blocking: bool) -> None:
    """What will not pass by itself is one request."""
    failure = Failure(fault)
    assert _ask([failure, OK], _limits(), SimulatedWorld(), blocking) == (failure, 1)


@both
def test_retry_after_is_waited_exactly(blocking: bool) -> None:
    """The provider's own figure takes the place of the backoff."""
    world = SimulatedWorld()
    busy = Failure(Fault.RATE_LIMITED, retry_after_s=3.25)
    assert _ask([busy, OK], _limits(), world, blocking) == (OK, 2)
    assert world.clock.monotonic() == 3.25


@both
def test_a_longer_retry_after_than_allowed_is_not_waited_for(blocking: bool) -> None:
    """Coming back before the provider said is pointless, so the rung gives up at once."""
    world = SimulatedWorld()
    busy = Failure(Fault.RATE_LIMITED, retry_after_s=9.0)
    assert _ask([busy, OK], _limits(max_wait_s=8.0), world, blocking) == (busy, 1)
    assert world.clock.monotonic() == 0


@both
def test_a_pause_that_outlasts_the_deadline_is_not_begun(blocking: bool) -> None:
    """With less time left than the pause takes, the rung gives up at once."""
    world = SimulatedWorld()
    busy = Failure(Fault.RATE_LIMITED, retry_after_s=2.0)
    assert _ask([busy, OK], _limits(remaining_s=2.0), world, blocking) == (busy, 1)
    assert world.clock.monotonic() == 0


@given(seed=st.integers(0, 10_000), attempts=st.integers(2, 8), max_wait_s=st.floats(0.0, 10.0))
def test_backoff_doubles_within_its_limit(seed: int, attempts: int, max_wait_s: float) -> None:
    """Each pause is a random part of one that doubles from half a second up to the longest allowed."""
    world = SimulatedWorld(seed)
    moments: list[float] = []

    def send() -> Outcome:
        moments.append(world.clock.monotonic())
        return BUSY

    assert retry.ask(send, _limits(attempts, max_wait_s), world) is BUSY
    pauses = [after - before for before, after in pairwise(moments)]
    assert len(moments) == attempts
    assert all(0 <= pause <= min(max_wait_s, 0.5 * 2**n) + 1e-9 for n, pause in enumerate(pauses))


@both
def test_an_exception_passes_through(blocking: bool) -> None:
    """What a backend raises is no outcome and is not retried."""
    with pytest.raises(IndexError):
        _ask([], _limits(), SimulatedWorld(), blocking)
