"""One call on its way: it knows the time, the backend and the ledger, so that the flow need not.

A request is recorded before it leaves and settled whatever happens to it, an exception or a cancellation included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from router.core.answer import Attempt
from router.core.call import (
    Chunk,
    Failure,
    Outcome,
    plausible,
)
from router.core.counters import Line, Refusal
from router.core.effects import Ask, Asked, CountTokens, Do, Effect, Finish, ReadClock, Reserve, Wait
from router.core.faults import Fault
from router.core.tools import Marks
from router.core.usual import Usual
from router.errors import StateError
from router.ledger import LedgerWriter, Trace
from router.ledger.rows import intent_row, route_row, settle_row
from router.models import Backend, aparts, parts, retry
from router.pending import Live, Pending, attempt_of, interrupted
from router.state import Hold, SharedBudgets
from router.world import World

_Result = TypeVar("_Result")
OnFinish = Callable[[Trace, Finish, float], None]


class Ride:
    """What the drivers perform the effects of one call with."""

    def __init__(
        self,
        trace: Trace,
        *,
        world: World,
        backend: Backend,
        ledger: LedgerWriter,
        budgets: SharedBudgets,
        lines: Sequence[Line],
        max_wait_s: float,
        deadline_s: float | None,
        usual: Mapping[str, Usual],
        on_finish: OnFinish,
    ) -> None:
        self._trace = trace
        self._world = world
        self._backend = backend
        self._ledger = ledger
        self._budgets = budgets
        self._lines = lines
        self._hold: Hold | None = None  # Room for the request that leaves next.
        self._max_wait_s = max_wait_s
        self._deadline_s = deadline_s
        self._usual = usual
        self._on_finish = on_finish
        self._started_s = world.clock.monotonic()
        self._attempts: list[Attempt] = []
        self._finished = False

    @property
    def route_id(self) -> str:
        """The call's id."""
        return self._trace.route_id

    def ask(self, ask: Ask) -> Asked:
        """Ask one rung, with its retries."""
        before = len(self._attempts)
        outcome = retry.ask(lambda: self._send(ask, before), self._limits(ask), self._world)
        return self._asked(outcome, before)

    async def aask(self, ask: Ask) -> Asked:
        """Ask one rung, with its retries, without blocking."""
        before = len(self._attempts)
        outcome = await retry.aask(lambda: self._asend(ask, before), self._limits(ask), self._world)
        return self._asked(outcome, before)

    def open(self, ask: Ask) -> Asked | Live:
        """Ask one rung for a live answer, with retries until its first part."""
        before = len(self._attempts)
        opened = retry.ask(lambda: self._open(ask, before), self._limits(ask), self._world)
        return opened if isinstance(opened, Live) else self._asked(opened, before)

    async def aopen(self, ask: Ask) -> Asked | Live:
        """Ask one rung for a live answer, with retries until its first part, without blocking."""
        before = len(self._attempts)
        opened = await retry.aask(lambda: self._aopen(ask, before), self._limits(ask), self._world)
        return opened if isinstance(opened, Live) else self._asked(opened, before)

    def show(self, live: Live) -> Generator[Chunk, None, Asked]:
        """Give the parts of a live answer; returns how it ended."""
        part: Chunk | Outcome = live.first
        try:
            while isinstance(part, Chunk):
                yield live.told(part)
                part = self._too_late(live) or next(live.parts)
            outcome = live.broken(plausible(part))
        except BaseException as error:
            self._end(live.pending, live.broken(interrupted(error)))
            raise
        else:
            self._end(live.pending, outcome)
        finally:
            live.parts.close()
        return self._asked(outcome, live.before, shown=True)

    async def ashow(self, live: Live) -> AsyncGenerator[Chunk | Asked, None]:
        """The same without blocking; how it ended comes last."""
        part: Chunk | Outcome = live.first
        try:
            while isinstance(part, Chunk):
                yield live.told(part)
                part = self._too_late(live) or await self._next(live.parts, self._remaining_s())
            outcome = live.broken(plausible(part))
        except BaseException as error:
            self._end(live.pending, live.broken(interrupted(error)))
            raise
        else:
            self._end(live.pending, outcome)
        finally:  # The row is ended by now: the caller may cancel the closing, too.
            await live.parts.aclose()
        yield self._asked(outcome, live.before, shown=True)

    def perform(self, effect: Effect) -> Any:
        """What the flow wants done; returns what it is sent back."""
        match effect:
            case Ask():
                return self.ask(effect)
            case Do():
                return self._do(effect.operation)
            case Wait(seconds):
                self._world.clock.sleep(self._at_most(seconds))
                return None

    async def aperform(self, effect: Effect) -> Any:
        """The same without blocking."""
        match effect:
            case Ask():
                return await self.aask(effect)
            case Do():
                return self._do(effect.operation)
            case Wait(seconds):
                await self._world.clock.asleep(self._at_most(seconds))
                return None

    def _do(self, operation: CountTokens | ReadClock | Reserve | Finish) -> int | float | Refusal | StateError | None:
        match operation:
            case Finish():
                self._finish(operation)
                return None
            case Reserve():
                return self._reserve(operation.upper_nusd, escalates=operation.escalates)
            case ReadClock():
                return self._elapsed_s()
            case CountTokens():
                return self._backend.count_tokens(operation.call)

    def _reserve(self, upper_nusd: int | None, *, escalates: bool = False) -> Refusal | StateError | None:
        """Take room for one request; what is said where there is none."""
        try:
            found = self._budgets.reserve(self._lines, upper_nusd or 0, escalates=escalates)
        except StateError as error:
            return error
        if isinstance(found, Refusal):
            return found
        self._hold = found
        return None

    def _at_most(self, seconds: float) -> float:
        remaining_s = self._remaining_s()
        return seconds if remaining_s is None else min(seconds, remaining_s)

    def leave(self) -> None:
        """Record a call that neither answered nor failed: it was cancelled, or something broke."""
        if not self._finished:
            self._finish(Finish(None, None, (), tuple(self._attempts)))

    def _finish(self, finish: Finish) -> None:
        self._finished = True
        if self._hold is not None:
            self._budgets.drop(self._hold)
            self._hold = None
        latency_ms = self._elapsed_s() * 1000
        self._ledger.record(route_row(self._trace, finish, self._world.clock.time(), latency_ms))
        self._on_finish(self._trace, finish, latency_ms)

    def _asked(self, outcome: Outcome, before: int, *, shown: bool = False) -> Asked:
        return Asked(outcome, tuple(self._attempts[before:]), self._elapsed_s(), shown)

    def _limits(self, ask: Ask) -> retry.Limits:
        if not self._lines:
            return retry.Limits(ask.attempts, self._max_wait_s, self._remaining_s)
        has_room = lambda: self._reserve(ask.upper_nusd) is None  # noqa: E731
        return retry.Limits(ask.attempts, self._max_wait_s, self._remaining_s, has_room)

    def _elapsed_s(self) -> float:
        return self._world.clock.monotonic() - self._started_s

    def _remaining_s(self) -> float | None:
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self._elapsed_s())

    def _send(self, ask: Ask, before: int) -> Outcome:
        pending = self._begin(ask, before)
        try:
            outcome = plausible(self._backend.send(ask.call, self._remaining_s()))
        except BaseException as error:
            self._end(pending, interrupted(error))
            raise
        self._end(pending, outcome)
        return outcome

    async def _asend(self, ask: Ask, before: int) -> Outcome:
        pending = self._begin(ask, before)
        try:
            outcome = plausible(
                await self._within(self._remaining_s(), lambda left: self._backend.asend(ask.call, left))
            )
        except BaseException as error:
            self._end(pending, interrupted(error))
            raise
        self._end(pending, outcome)
        return outcome

    def _open(self, ask: Ask, before: int) -> Outcome | Live:
        pending = self._begin(ask, before)
        coming = parts(self._backend, ask.call, self._remaining_s())
        try:
            first = next(coming)
        except BaseException as error:
            self._end(pending, interrupted(error))
            raise
        return self._opened(pending, first, coming, before)

    async def _aopen(self, ask: Ask, before: int) -> Outcome | Live:
        pending = self._begin(ask, before)
        remaining_s = self._remaining_s()
        coming: Any = aparts(self._backend, ask.call, remaining_s)
        try:
            first = await self._next(coming, remaining_s)
        except BaseException as error:
            self._end(pending, interrupted(error))
            await coming.aclose()
            raise
        opened = self._opened(pending, first, coming, before)
        if not isinstance(opened, Live):
            await coming.aclose()
        return opened

    def _opened(self, pending: Pending, first: Chunk | Outcome, coming: Any, before: int) -> Outcome | Live:
        if isinstance(first, Chunk):
            pending.first_token_s = self._world.clock.monotonic() - pending.started_s
            return Live(pending, first, coming, before, Marks(pending.ask.place, self._trace.route_id))
        outcome = plausible(first)
        self._end(pending, outcome)
        return outcome

    async def _next(self, coming: Any, remaining_s: float | None) -> Chunk | Outcome:
        part: Chunk | Outcome = await self._within(remaining_s, lambda _: anext(coming))
        return part

    async def _within(
        self, remaining_s: float | None, work: Callable[[float | None], Awaitable[_Result]]
    ) -> _Result | Failure:
        """Work until it is done or the call's time is over."""
        try:
            async with asyncio.timeout(remaining_s) as deadline:
                return await work(remaining_s)
        except TimeoutError:
            if not deadline.expired():
                raise
            return Failure(Fault.TIMEOUT, detail=f"no answer within {remaining_s:.3f} s")

    def _too_late(self, live: Live) -> Failure | None:
        """Each part may be in time and the whole not."""
        if self._remaining_s() == 0.0:
            return Failure(Fault.TIMEOUT, detail="the deadline passed")
        return None

    def _begin(self, ask: Ask, before: int) -> Pending:
        number = len(self._attempts) - before + 1
        attempt_id = f"{self._trace.route_id}-{len(self._attempts) + 1}"
        time_s = self._world.clock.time()
        pending = Pending(ask, attempt_id, number, self._world.clock.monotonic(), ask.rates.at(time_s))
        self._ledger.intent(intent_row(self._trace, ask, pending.attempt_id, number, time_s))
        pending.hold, self._hold = self._hold, None
        return pending

    def _end(self, pending: Pending, outcome: Outcome) -> None:
        usual = self._usual[pending.ask.call.name]
        attempt = attempt_of(pending, outcome, self._world.clock.monotonic() - pending.started_s, usual)
        self._attempts.append(attempt)
        self._ledger.record(settle_row(attempt, self._world.clock.time()))
        if pending.hold is not None:  # What may have been billed counts in full.
            most = attempt.amount.upper_nusd
            self._budgets.settle(pending.hold, pending.ask.upper_nusd or 0 if most is None else most)
