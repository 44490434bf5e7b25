"""The two drivers: perform what the flow yields, send the results back, return its answer.

`drive` blocks, `adrive` awaits; everything else is written once, in `Ride`. A request is recorded before it
leaves and settled whatever happens to it, an exception or a cancellation included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from router.core.answer import Answer, Attempt
from router.core.call import Failure, Outcome, Reply, Usage, input_tokens_estimate, output_tokens_estimate, plausible
from router.core.cascade import Ask, Asked, CountTokens, Do, Finish, Flow
from router.core.faults import Fault
from router.core.pricing import settle
from router.errors import RouterError
from router.ledger import LedgerWriter, Trace
from router.ledger.rows import intent_row, route_row, settle_row
from router.models import Backend, retry
from router.world import World

OnFinish = Callable[[Trace, Finish, float], None]


def drive(flow: Flow, ride: Ride) -> Answer:
    """Run one call to its end, blocking."""
    result: Any = None
    try:
        while True:
            try:
                effect = flow.send(result)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            match effect:
                case Ask():
                    result = ride.ask(effect)
                case Do():
                    result = ride.do(effect.operation)
    finally:
        flow.close()
        ride.leave()


async def adrive(flow: Flow, ride: Ride) -> Answer:
    """Run one call to its end, without blocking."""
    result: Any = None
    try:
        while True:
            try:
                effect = flow.send(result)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            match effect:
                case Ask():
                    result = await ride.aask(effect)
                case Do():
                    result = ride.do(effect.operation)
    finally:
        flow.close()
        ride.leave()


class Ride:
    """One call on its way: it knows the time, the backend and the ledger, so that the flow need not."""

    def __init__(
        self,
        trace: Trace,
        *,
        world: World,
        backend: Backend,
        ledger: LedgerWriter,
        max_wait_s: float,
        deadline_s: float | None,
        on_finish: OnFinish,
    ) -> None:
        self._trace = trace
        self._world = world
        self._backend = backend
        self._ledger = ledger
        self._max_wait_s = max_wait_s
        self._deadline_s = deadline_s
        self._on_finish = on_finish
        self._started_s = world.clock.monotonic()
        self._attempts: list[Attempt] = []
        self._finished = False

    def ask(self, ask: Ask) -> Asked:
        """Ask one rung, with its retries."""
        before = len(self._attempts)
        outcome = retry.ask(lambda: self._send(ask, before), self._limits(ask), self._world)
        return Asked(outcome, tuple(self._attempts[before:]), self._elapsed_s())

    async def aask(self, ask: Ask) -> Asked:
        """Ask one rung, with its retries, without blocking."""
        before = len(self._attempts)
        outcome = await retry.aask(lambda: self._asend(ask, before), self._limits(ask), self._world)
        return Asked(outcome, tuple(self._attempts[before:]), self._elapsed_s())

    def do(self, operation: CountTokens | Finish) -> int | None:
        """Perform an operation that waits for nobody."""
        match operation:
            case CountTokens(call):
                return self._backend.count_tokens(call)
            case Finish():
                self._finish(operation)
                return None

    def leave(self) -> None:
        """Record a call that neither answered nor failed: it was cancelled, or something broke."""
        if not self._finished:
            self._finish(Finish(None, None, (), tuple(self._attempts)))

    def _finish(self, finish: Finish) -> None:
        self._finished = True
        latency_ms = self._elapsed_s() * 1000
        self._ledger.record(route_row(self._trace, finish, self._world.clock.time(), latency_ms))
        self._on_finish(self._trace, finish, latency_ms)

    def _limits(self, ask: Ask) -> retry.Limits:
        return retry.Limits(ask.attempts, self._max_wait_s, self._remaining_s)

    def _elapsed_s(self) -> float:
        return self._world.clock.monotonic() - self._started_s

    def _remaining_s(self) -> float | None:
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self._elapsed_s())

    def _send(self, ask: Ask, before: int) -> Outcome:
        pending = self._begin(ask, before)
        try:
            outcome = plausible(self._backend.send(ask.call, self._remaining_s()))
        except BaseException as error:
            self._end(pending, _interrupted(error))
            raise
        self._end(pending, outcome)
        return outcome

    async def _asend(self, ask: Ask, before: int) -> Outcome:
        pending = self._begin(ask, before)
        remaining_s = self._remaining_s()
        try:
            async with asyncio.timeout(remaining_s) as deadline:
                outcome = plausible(await self._backend.asend(ask.call, remaining_s))
        except BaseException as error:
            if not (isinstance(error, TimeoutError) and deadline.expired()):
                self._end(pending, _interrupted(error))
                raise
            outcome = Failure(Fault.TIMEOUT, detail=f"no answer within {remaining_s:.3f} s")
        self._end(pending, outcome)
        return outcome

    def _begin(self, ask: Ask, before: int) -> _Pending:
        number = len(self._attempts) - before + 1
        attempt_id = f"{self._trace.route_id}-{len(self._attempts) + 1}"
        pending = _Pending(ask, attempt_id, number, self._world.clock.monotonic())
        time_s = self._world.clock.time()
        self._ledger.intent(intent_row(self._trace, ask, pending.attempt_id, number, time_s))
        return pending

    def _end(self, pending: _Pending, outcome: Outcome) -> None:
        attempt = _attempt(pending, outcome, self._world.clock.monotonic() - pending.started_s)
        self._attempts.append(attempt)
        self._ledger.record(settle_row(attempt, self._world.clock.time()))


class _Pending(NamedTuple):
    """A request that has left."""

    ask: Ask
    attempt_id: str
    number: int
    started_s: float


def _interrupted(error: BaseException) -> Failure:
    """What a request came to that an exception took the place of."""
    if isinstance(error, RouterError):  # Our own backends raise one before they send, never after.
        return Failure(Fault.NOT_SENT)
    return Failure(Fault.CRASHED if isinstance(error, Exception) else Fault.CANCELLED)


def _attempt(pending: _Pending, outcome: Outcome, seconds: float) -> Attempt:
    """The record of a request."""
    ask = pending.ask
    usage = estimate = outcome.usage
    if isinstance(outcome, Reply):
        if outcome.latency_ms is not None:
            seconds = outcome.latency_ms / 1000
        if usage is None:
            usage = estimate = Usage(
                input_tokens=input_tokens_estimate(ask.call.messages),
                output_tokens=output_tokens_estimate(outcome.text),
            )
    failure = outcome if isinstance(outcome, Failure) else None
    return Attempt(
        attempt_id=pending.attempt_id,
        rung=ask.rung,
        model=ask.call.name,
        number=pending.number,
        model_asked=ask.call.model.litellm,
        model_served=outcome.model_served,
        fault=failure.fault if failure else None,
        status=failure.status if failure else None,
        usage=usage,
        usage_source=_usage_source(outcome),
        amount=settle(outcome, ask.rates, upper_nusd=ask.upper_nusd, estimate=estimate or Usage(), seconds=seconds),
        latency_ms=seconds * 1000,
        detail=failure.detail if failure else "",
    )


def _usage_source(outcome: Outcome) -> Literal["provider", "estimated", "none"]:
    if outcome.usage is not None:
        return "provider"
    return "estimated" if isinstance(outcome, Reply) else "none"
