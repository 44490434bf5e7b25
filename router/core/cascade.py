"""The flow of one call: a generator that yields effects and is sent their results as values.

It asks a rung, reads the draft's confidence, and accepts or climbs. It never sends, sleeps, reads a clock or
writes: `router.drive` performs what it yields, once for each kind of caller.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, NoReturn

from router.core import compose
from router.core.answer import Action, Answer, Attempt, Step, climbed, costs
from router.core.call import Call, Failure, Reply, Usage, input_tokens_bound
from router.core.checks import REFUSED, Verdict
from router.core.counters import Line, Refusal, Unbounded
from router.core.decision import judge, skip_reason
from router.core.effects import Ask, Asked, CountTokens, Do, Effect, Finish, Flow, ReadClock, Request, Reserve, Wait
from router.core.faults import FAULTS, Fault
from router.core.plan import NOT_IN_PLAN, Plan, Rung
from router.core.pricing import total, usd
from router.core.reading import draft_signals, prompt_signals
from router.core.tools import marked, rung_of
from router.errors import (
    BudgetExceeded,
    ContentFiltered,
    CostLimitExceeded,
    DeadlineExceeded,
    InvalidCall,
    LadderExhausted,
    RequestRefused,
    RouterError,
    StreamInterrupted,
)

# Pauses of a call that waits for room in a budget.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


class _Draft(NamedTuple):
    """A reply that was judged."""

    rung: int
    reply: Reply
    verdict: Verdict
    step: Step
    usage: Usage | None
    """As recorded: estimated where the provider reported none."""


def cascade(plan: Plan, request: Request, budgets: Sequence[Line] = ()) -> Flow:
    """Climb the ladder until a draft is good enough, within the budgets that the call is held to.

    Raises
    ------
    InvalidCall
        The prompt is longer than the task or every model takes.
    NoAnswer
        One of its branches: no rung gave a usable answer, or a limit was reached before one did.
    """
    climb = _Climb(plan, request, budgets)
    try:
        answer = yield from climb.run()
    except RouterError as error:
        yield Do(Finish(None, error, tuple(climb.steps), tuple(climb.attempts), climb.first))
        raise
    yield Do(Finish(answer, None, answer.steps, answer.attempts, climb.first))
    return answer


class _Climb:
    """The state of one call while it climbs."""

    def __init__(self, plan: Plan, request: Request, budgets: Sequence[Line]) -> None:
        self.plan = plan
        self.request = request
        self.budgets = budgets
        self.first = plan.first
        self.steps: list[Step] = []
        self.attempts: list[Attempt] = []
        self.elapsed_s = 0.0
        self.held: _Draft | None = None
        self.shown = False
        self.down = False  # Whether the rung that was asked last could not be reached.
        self.before: Verdict | None = None
        self.usage_below: Usage | None = None  # As reported for the last draft below the top rung.
        self.input_bound = input_tokens_bound(request.messages)

    def run(self) -> Flow:
        yield from self._check_input(self.plan.task.max_input_tokens)
        goes_on = rung_of(self.request.messages)
        for index, rung in enumerate(self.plan.rungs):
            if unfit := self._unfit(index, goes_on):
                self._step(index, "skip", unfit)
                continue
            call = compose.call(self.plan, index, self.request)
            if not self._surely_fits(rung.context_tokens) and (yield from self._too_long(call, rung.context_tokens)):
                self._step(index, "skip", f"the prompt is longer than its {rung.context_tokens} tokens of context")
                continue
            yield from self._read_clock()
            if self._out_of_time():
                return self._kept(index, "the deadline passed") or self._raise_deadline()
            upper = compose.upper_nusd(rung, call, self.request, self.input_bound)
            if (attempts := self._affordable(upper)) == 0:
                kept = self._kept(index, "the cost limit leaves no room for it")
                return kept or self._raise_cost_limit(rung, call, upper)
            if self.budgets and (kept := (yield from self._reserve(index, call, upper))):
                return kept
            live = self.request.stream and rung.threshold is None
            draft = self._read(index, (yield Ask(index, call, attempts, rung.rates, upper, live)))
            if draft is None:
                continue
            if draft.step.action == "accept":
                return self._answer(draft)
            if draft.verdict.valid:
                self.held = draft
        return self._kept(None, "") or self._raise_exhausted()

    def _reserve(self, index: int, call: Call, upper: int | None) -> Generator[Effect, Any, Answer | None]:
        """Take room in every budget for the first request to a rung; where there is none, the draft that is kept."""
        in_dollars = [line for line in self.budgets if line.counter.unit == "usd"]
        if upper is None and in_dollars:
            why = compose.unbounded(self.plan.rungs[index], call, self.request, self.input_bound)
            return self._at_limit(index, Unbounded(in_dollars[0], why))
        pause_s, began_s = _FIRST_PAUSE_S, self.elapsed_s
        reserve = Do(Reserve(upper, index > self.first and not climbed(self.attempts, self.first)))
        while (found := (yield reserve)) is not None:
            if isinstance(found, RouterError):
                raise found
            waits = found.line.counter.at_limit == "wait" and self.request.deadline_s is not None
            if not waits or found.hopeless or self._out_of_time():
                return self._at_limit(index, found._replace(waited_s=self.elapsed_s - began_s))
            yield Wait(min(pause_s, found.resets_in_s))
            self.elapsed_s = yield Do(ReadClock())
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return None

    def _at_limit(self, index: int, found: Refusal | Unbounded) -> Answer:
        """What becomes of a call that a budget has no room for."""
        why, before = found.why(), self._history()
        if found.line.counter.at_limit != "refuse" and (kept := self._kept(index, why)):
            return kept
        self._step(index, "skip", why)  # On record, too: a refused call may have no other step.
        name = self.plan.rungs[index].name
        problem = f"task {self.plan.task_name!r}: a request to {name!r} is not sent: {why}{before}"
        raise BudgetExceeded(problem, **found.fields(), **self._error_fields())

    def _read(self, index: int, asked: Asked) -> _Draft | None:
        """The draft of a rung that was asked; `None` where it gave none."""
        self.attempts += asked.attempts
        self.elapsed_s, self.shown = asked.elapsed_s, asked.shown
        self.down = isinstance(asked.outcome, Failure)
        if isinstance(asked.outcome, Failure):
            self._failed(index, asked.outcome, asked.attempts)
            return None
        return self._judge(index, asked.outcome, asked.attempts)

    def _check_input(self, limit: int | None) -> Generator[Effect, Any, None]:
        if self._surely_fits(limit):
            return
        if (yield from self._too_long(compose.call(self.plan, 0, self.request), limit)):
            raise InvalidCall(
                f"prompt: is longer than the {limit} tokens that task {self.plan.task_name!r} takes; "
                "shorten it, or raise max_input_tokens",
                argument="prompt",
            )

    def _unfit(self, index: int, goes_on: int | None) -> str:
        """Why a rung is not asked at all, or ""."""
        if goes_on is not None and index < goes_on < len(self.plan.rungs):
            return f"rung {self.plan.rungs[goes_on].name!r} made the tool calls that are answered here, so it goes on"
        rung = self.plan.rungs[index]
        # The rung that made the calls goes on, although a plan of today would not have asked it.
        bound = index == goes_on and rung.skip in ("", NOT_IN_PLAN)
        known = {} if rung.gate is None else prompt_signals(rung, self.request)
        if not bound and (why := skip_reason(rung, known, self.down)):
            return why
        lacking = compose.lacking(rung, self.request)
        return f"it cannot take {lacking}; if it can, say so in its `capabilities:`" if lacking else ""

    def _surely_fits(self, limit: int | None) -> bool:
        """Whether the prompt is within a limit without counting: counting is slow, and rarely needed."""
        return limit is None or (self.input_bound is not None and self.input_bound <= limit)

    def _too_long(self, call: Call, limit: int | None) -> Generator[Effect, Any, bool]:
        counted: int = yield Do(CountTokens(call))
        return limit is not None and counted > limit

    def _read_clock(self) -> Generator[Effect, Any, None]:
        if self.request.deadline_s is not None and self.attempts:  # A check of the caller's own may have been slow.
            self.elapsed_s = yield Do(ReadClock())

    def _out_of_time(self) -> bool:
        return self.request.deadline_s is not None and self.elapsed_s >= self.request.deadline_s

    def _affordable(self, upper: int | None) -> int:
        """Attempts that the cost limit leaves room for; an unknown bound leaves none."""
        allowed = self.plan.task.retry.attempts
        if self.request.max_cost_nusd is None:
            return allowed
        spent = self._spent_upper()
        if upper is None or spent is None:
            return 0
        room = self.request.max_cost_nusd - spent
        # A provider can bill more than the bound said, so that less than no room is left.
        return max(0, min(allowed, room // upper)) if upper else allowed

    def _spent_upper(self) -> int | None:
        return costs(self.attempts).upper_nusd

    def _step(
        self, rung: int, action: Literal["skip", "fail"], reason: str, attempts: tuple[Attempt, ...] = ()
    ) -> None:
        name, cost = self.plan.rungs[rung].name, total([attempt.amount.nusd for attempt in attempts])
        self.steps.append(Step(rung, name, action, reason, cost_nusd=cost, attempts=len(attempts)))

    def _failed(self, index: int, failure: Failure, attempts: tuple[Attempt, ...]) -> None:
        tries = f" after {len(attempts)} attempts" if len(attempts) > 1 else ""
        status = f" (HTTP {failure.status})" if failure.status else ""
        why = failure.detail or FAULTS[failure.fault].why
        self._step(index, "fail", f"{failure.fault}{status}{tries}: {why}", attempts)
        then = FAULTS[failure.fault].then
        if then == "on_filter":
            then = self.plan.task.on_filter
        if self.shown:
            self._raise_interrupted(failure)
        if then == "raise":
            self._raise_failure(failure)

    def _judge(self, index: int, reply: Reply, attempts: tuple[Attempt, ...]) -> _Draft:
        rung = self.plan.rungs[index]
        verdict = self._verdict(reply)
        signals = draft_signals(rung, self.request, reply, verdict, self.before)
        self.before = verdict
        judged = judge(rung, signals, verdict.problem)
        action: Action = "accept" if judged.keep else "escalate"
        reason = judged.reason
        if judged.keep and not verdict.valid and self.held is not None and not self.shown:
            action, reason = "fail", f"the last rung's answer {verdict.problem}"
        step = Step(
            index,
            rung.name,
            action,
            reason,
            judged.confidence,
            judged.source,
            rung.threshold,
            total([attempt.amount.nusd for attempt in attempts]),
            len(attempts),
            signals,
        )
        self.steps.append(step)
        if index < len(self.plan.rungs) - 1:
            self.usage_below = reply.usage
        return _Draft(index, reply, verdict, step, attempts[-1].usage)

    def _verdict(self, reply: Reply) -> Verdict:
        request = self.request
        verdict = request.tools.verdict(reply.tool_calls) if request.tools else None
        if verdict or not request.shape:
            return verdict or self.plan.check(reply.text)
        verdict, own = request.shape.check(reply.text), self.plan.own_check
        refused = verdict.valid and own is not None and not own(verdict.value)
        return verdict._replace(valid=False, problem=REFUSED) if refused else verdict

    def _kept(self, blocked: int | None, why: str) -> Answer | None:
        """The best usable draft so far, when nothing above it can be had; the skipped rung's step says why in full."""
        if self.held is None:
            return None
        reason = ": ".join(filter(None, ("no rung above gave a usable answer", why.partition(": ")[0])))
        if blocked is not None:
            self._step(blocked, "skip", why)
        step = replace(self.held.step, action="keep", reason=reason, cost_nusd=0, attempts=0, signals={})
        self.steps.append(step)
        return self._answer(self.held)

    def _answer(self, draft: _Draft) -> Answer:
        spent = costs(self.attempts)
        baseline, source = self._baseline(draft)
        estimate = self._top_price_of(self.usage_below) if source == "known" else None
        return Answer(
            text=draft.reply.text,
            parsed=draft.verdict.value if draft.verdict.valid else None,
            model=self.plan.rungs[draft.rung].name,
            rung=draft.rung,
            confidence=draft.step.confidence or 0.0,
            confidence_source=draft.step.confidence_source or "prior",
            escalated=climbed(self.attempts, self.first),
            task=self.plan.task_name,
            route_id=self.request.route_id,
            steps=tuple(self.steps),
            attempts=tuple(self.attempts),
            finish_reason=draft.reply.finish_reason,
            usage=draft.usage,
            cost_nusd=spent.nusd,
            cost_upper_nusd=spent.upper_nusd,
            marginal_cost_nusd=spent.marginal_nusd,
            baseline_cost_nusd=baseline,
            baseline_source=source,
            baseline_estimate_nusd=estimate,
            latency_ms=self.elapsed_s * 1000,
            tool_calls=marked(draft.reply.tool_calls, draft.rung, self.request.route_id),
            extras=draft.reply.extras,
            response=draft.reply.response,
        )

    def _baseline(self, draft: _Draft) -> tuple[int | None, Literal["known", "estimated", "unknown"]]:
        """What the top rung alone costs: known where it answered, else its price for the draft's tokens."""
        top = len(self.plan.rungs) - 1
        asked = [attempt for attempt in self.attempts if attempt.rung == top]
        if asked and asked[-1].fault is None:
            cost = total([attempt.amount.nusd for attempt in asked])
            settled = all(attempt.amount.state == "settled" for attempt in asked)
            return cost, "unknown" if cost is None else "known" if settled else "estimated"
        cost = self._top_price_of(draft.reply.usage)
        return cost, "unknown" if cost is None else "estimated"

    def _top_price_of(self, usage: Usage | None) -> int | None:
        rates = self.plan.rungs[-1].rates
        if rates.by_second or usage is None:
            return None
        # The top rung's prompt cache is not the draft's, so all input counts as plain input.
        return rates.plain_nusd(usage.all_input_tokens, usage.all_output_tokens)

    def _raise_failure(self, failure: Failure) -> NoReturn:
        fields = self._error_fields()
        task, reason = self.plan.task_name, self.steps[-1].reason
        if failure.fault is Fault.CONTENT_FILTER:
            raise ContentFiltered(
                f"task {task!r}: {reason}; set `on_filter: climb` to ask the next rung instead", **fields
            )
        raise RequestRefused(
            f"task {task!r}: model {self.steps[-1].model!r} refused the request: {reason}; "
            "the error's provider_message has the provider's own words",
            status=failure.status,
            provider_message=failure.provider_message,
            **fields,
        )

    def _raise_interrupted(self, failure: Failure) -> NoReturn:
        raise StreamInterrupted(
            f"task {self.plan.task_name!r}: the answer of {self.steps[-1].model!r} broke off after "
            f"{len(failure.partial)} characters ({self.steps[-1].reason}); what was shown cannot be taken back, so "
            "nothing was asked again",
            partial_text=failure.partial,
            **self._error_fields(),
        )

    def _raise_deadline(self) -> NoReturn:
        raise DeadlineExceeded(
            f"task {self.plan.task_name!r}: no usable answer within {self.request.deadline_s} s"
            f"{self._history()}; raise deadline_s, or put a faster model first",
            deadline_s=self.request.deadline_s,
            **self._error_fields(),
        )

    def _raise_cost_limit(self, rung: Rung, call: Call, upper: int | None) -> NoReturn:
        limit, spent, needed = usd(self.request.max_cost_nusd) or 0.0, usd(self._spent_upper()), usd(upper)
        already = "an unknown part" if spent is None else f"{spent:.6f}"
        if needed is None:
            remedy = compose.unbounded(rung, call, self.request, self.input_bound)
        elif spent is None:
            remedy = "an earlier request has no bound; give every model a `price:` and the task a `max_output_tokens:`"
        else:
            remedy = f"a request to {rung.name!r} can cost {needed:.6f} USD; raise the limit or lower max_output_tokens"
        raise CostLimitExceeded(
            f"task {self.plan.task_name!r}: {already} of {limit:.6f} USD may be spent already, and {remedy}"
            f"{self._history()}",
            limit_usd=limit,
            spent_usd=spent,
            needed_usd=needed,
            **self._error_fields(),
        )

    def _raise_exhausted(self) -> NoReturn:
        if self._out_of_time():
            self._raise_deadline()
        if not self.attempts:
            raise InvalidCall(
                f"prompt: no model of task {self.plan.task_name!r} takes it{self._history()}; shorten it, or put a "
                "model that takes it on the ladder",
                argument="prompt",
            )
        raise LadderExhausted(
            f"task {self.plan.task_name!r}: no rung gave a usable answer{self._history()}", **self._error_fields()
        )

    def _history(self) -> str:
        tried = "; ".join(f"{step.model}: {step.reason}" for step in self.steps)
        return f" ({tried})" if tried else ""

    def _error_fields(self) -> dict[str, Any]:
        return {
            "route_id": self.request.route_id,
            "task": self.plan.task_name,
            "attempts": tuple(self.attempts),
        }
