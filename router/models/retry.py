"""The only door to tenacity: ask one rung again after a passing fault, within attempts, deadline and `Retry-After`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_result

from router.core.call import Failure
from router.core.faults import FAULTS
from router.world import World

# First pause of the exponential backoff with full jitter; chosen, not measured.
_BASE_WAIT_S = 0.5


_Ended = TypeVar("_Ended")


class Limits(NamedTuple):
    """What bounds the retries of one rung."""

    attempts: int
    max_wait_s: float
    remaining_s: Callable[[], float | None]
    """Seconds left of the call's deadline; `None` without one."""
    has_room: Callable[[], bool] = lambda: True
    """Takes room in the budgets for one more request, and says whether there was any."""


def ask(send: Callable[[], _Ended], limits: Limits, world: World) -> _Ended:
    """Send until something that is no passing fault, or a limit; returns the last outcome."""
    first = send()
    if limits.attempts == 1 or not _is_passing(first):  # The common case needs no loop.
        return first
    pending = [first]
    rule = _Rule(limits, world)
    retrying = Retrying(
        retry=_passing, stop=rule.stop, wait=rule.wait, sleep=world.clock.sleep, retry_error_callback=_outcome
    )
    return retrying(lambda: pending.pop() if pending else send())


async def aask(send: Callable[[], Awaitable[_Ended]], limits: Limits, world: World) -> _Ended:
    """The same without blocking."""
    first = await send()
    if limits.attempts == 1 or not _is_passing(first):
        return first
    pending = [first]
    rule = _Rule(limits, world)
    retrying = AsyncRetrying(
        retry=_passing, stop=rule.stop, wait=rule.wait, sleep=world.clock.asleep, retry_error_callback=_outcome
    )

    async def once() -> _Ended:  # tenacity awaits only what is declared as a coroutine function.
        return pending.pop() if pending else await send()

    return await retrying(once)


class _Rule:
    """When to stop and how long to wait."""

    def __init__(self, limits: Limits, world: World) -> None:
        self._limits = limits
        self._world = world

    def wait(self, state: RetryCallState) -> float:
        """What the provider asked for, else a random part of a pause that doubles."""
        failure = _outcome(state)
        if isinstance(failure, Failure) and failure.retry_after_s is not None:
            return failure.retry_after_s
        pause = min(self._limits.max_wait_s, _BASE_WAIT_S * 2.0 ** (state.attempt_number - 1))
        return self._world.random.random() * pause

    def stop(self, state: RetryCallState) -> bool:
        """After the last attempt, or when the next pause is longer than allowed or than the time that is left.

        Or when the budgets have no room for another.
        """
        if state.attempt_number >= self._limits.attempts or state.upcoming_sleep > self._limits.max_wait_s:
            return True
        remaining = self._limits.remaining_s()
        return (remaining is not None and state.upcoming_sleep >= remaining) or not self._limits.has_room()


def _is_passing(outcome: object) -> bool:
    return isinstance(outcome, Failure) and FAULTS[outcome.fault].retry


_passing = retry_if_result(_is_passing)


def _outcome(state: RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()
