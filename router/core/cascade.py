"""The flow of one call: a generator that yields effects and is sent their results as values.

It asks a rung, reads the draft's confidence, and accepts or climbs. It never sends, sleeps, reads a clock or
writes: `router.drive` performs what it yields, once for sync and once for async callers.

    yielded            sent back
    Ask                Asked        one rung, with all its retries
    Do(CountTokens)    int          an exact count, only where an estimate could change the decision
    Do(Finish)         None         the last effect of every call, answered or not
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, NoReturn

from router.core.answer import Action, Answer, Attempt, Step, climbed, costs
from router.core.call import Call, Failure, Message, Outcome, Reply, Usage, input_tokens_bound
from router.core.checks import Verdict
from router.core.decision import judge, skip_reason
from router.core.faults import FAULTS, Fault
from router.core.plan import Plan, Rung
from router.core.pricing import Rates, total, usd
from router.core.signals import agreement, read_signals
from router.errors import (
    ContentFiltered,
    CostLimitExceeded,
    DeadlineExceeded,
    InvalidCall,
    LadderExhausted,
    RequestRefused,
    RouterError,
)


@dataclass(frozen=True, slots=True)
class Request:
    """What one call of `route` asks for."""

    route_id: str
    messages: tuple[Message, ...]
    input_chars: int
    params: Mapping[str, Any] = field(default_factory=dict)
    max_output_tokens: int | None = None
    deadline_s: float | None = None
    max_cost_nusd: int | None = None


class Ask(NamedTuple):
    """Ask one rung: at most `attempts` requests, each of which costs at most `upper_nusd`."""

    rung: int
    call: Call
    attempts: int
    rates: Rates
    upper_nusd: int | None


class Asked(NamedTuple):
    """How asking a rung ended."""

    outcome: Outcome
    attempts: tuple[Attempt, ...]
    elapsed_s: float
    """Seconds since the call began."""


class CountTokens(NamedTuple):
    """Count the input tokens of a call exactly."""

    call: Call


class Finish(NamedTuple):
    """Write the call's row and event: it ended with an answer or with an error."""

    answer: Answer | None
    error: RouterError | None
    steps: tuple[Step, ...]
    attempts: tuple[Attempt, ...]
    first_rung: int = 0
    """Position of the first rung that the plan asks."""

    @property
    def outcome(self) -> str:
        """`answered`, the error's class, or `aborted` when the call was cancelled or something broke."""
        if self.answer is not None:
            return "answered"
        return type(self.error).__name__ if self.error else "aborted"


class Do(NamedTuple):
    """An operation beside asking."""

    operation: CountTokens | Finish


Effect = Ask | Do
Flow = Generator[Effect, Any, Answer]


class _Draft(NamedTuple):
    """A reply that was judged."""

    rung: int
    reply: Reply
    verdict: Verdict
    step: Step
    usage: Usage | None
    """As recorded: estimated where the provider reported none."""


def cascade(plan: Plan, request: Request) -> Flow:
    """Climb the ladder until a draft is good enough.

    Raises
    ------
    InvalidCall
        The prompt is longer than the task or every model takes.
    NoAnswer
        One of its branches: no rung gave a usable answer, or a limit was reached before one did.
    """
    climb = _Climb(plan, request)
    try:
        answer = yield from climb.run()
    except RouterError as error:
        yield Do(Finish(None, error, tuple(climb.steps), tuple(climb.attempts), plan.first))
        raise
    yield Do(Finish(answer, None, answer.steps, answer.attempts, plan.first))
    return answer


class _Climb:
    """The state of one call while it climbs."""

    def __init__(self, plan: Plan, request: Request) -> None:
        self.plan = plan
        self.request = request
        self.steps: list[Step] = []
        self.attempts: list[Attempt] = []
        self.elapsed_s = 0.0
        self.held: _Draft | None = None
        self.down = False  # Whether the rung that was asked last could not be reached.
        self.before: Verdict | None = None
        self.input_bound = input_tokens_bound(request.messages)
        self.output_limit = _smaller(plan.task.max_output_tokens, request.max_output_tokens)

    def run(self) -> Flow:
        limit = self.plan.task.max_input_tokens
        if not self._surely_fits(limit):
            yield from self._check_input(limit)
        for index, rung in enumerate(self.plan.rungs):
            if why := skip_reason(rung, self.request.input_chars, self.down):
                self._step(index, "skip", why)
                continue
            call = self._call(rung)
            if not self._surely_fits(rung.context_tokens) and (yield from self._too_long(call, rung.context_tokens)):
                self._step(index, "skip", f"the prompt is longer than its {rung.context_tokens} tokens of context")
                continue
            if self._out_of_time():
                return self._kept(index, "the deadline passed") or self._raise_deadline()
            upper = self._upper(rung, call)
            attempts = self._affordable(upper)
            if attempts == 0:
                return self._kept(index, "the cost limit leaves no room for it") or self._raise_cost_limit(
                    rung.name, upper
                )
            asked: Asked = yield Ask(index, call, attempts, rung.rates, upper)
            self.attempts += asked.attempts
            self.elapsed_s = asked.elapsed_s
            self.down = isinstance(asked.outcome, Failure)
            if isinstance(asked.outcome, Failure):
                self._failed(index, asked.outcome, asked.attempts)
                continue
            draft = self._judge(index, asked.outcome, asked.attempts)
            if draft.step.action == "accept":
                return self._answer(draft)
            if draft.verdict.valid:
                self.held = draft
        return self._kept(None, "") or self._raise_exhausted()

    def _check_input(self, limit: int | None) -> Generator[Effect, Any, None]:
        if (yield from self._too_long(self._call(self.plan.rungs[0]), limit)):
            raise InvalidCall(
                f"prompt: is longer than the {limit} tokens that task {self.plan.task_name!r} takes; "
                "shorten it, or raise max_input_tokens",
                argument="prompt",
            )

    def _surely_fits(self, limit: int | None) -> bool:
        """Whether the prompt is within a limit without counting: counting is slow, and rarely needed."""
        return limit is None or (self.input_bound is not None and self.input_bound <= limit)

    def _too_long(self, call: Call, limit: int | None) -> Generator[Effect, Any, bool]:
        counted: int = yield Do(CountTokens(call))
        return limit is not None and counted > limit

    def _call(self, rung: Rung) -> Call:
        task, model = self.plan.task, rung.model
        params = {**task.params, **self.request.params, **model.params}
        return Call(rung.name, model, self.request.messages, params, self.output_limit)

    def _upper(self, rung: Rung, call: Call) -> int | None:
        output = _smaller(self.output_limit, rung.max_output_tokens)
        bound = self.input_bound
        if bound is not None:
            # A schema among the parameters is input too; its JSON has at least as many bytes as it has tokens.
            nested = [value for value in call.params.values() if isinstance(value, dict | list)]
            bound += len(json.dumps(nested, default=str)) if nested else 0
        return rung.rates.upper_nusd(bound, output, self.request.deadline_s)

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
        if then == "raise":
            self._raise_failure(failure)

    def _judge(self, index: int, reply: Reply, attempts: tuple[Attempt, ...]) -> _Draft:
        rung = self.plan.rungs[index]
        verdict = self.plan.check(reply.text)
        signals = read_signals(self.request.input_chars, reply, verdict)
        if self.before is not None:
            signals["agreement"] = agreement(self.before, verdict)
        self.before = verdict
        judged = judge(rung, signals, verdict.problem)
        action: Action = "accept" if judged.keep else "escalate"
        reason = judged.reason
        if judged.keep and not verdict.valid and self.held is not None:
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
        return _Draft(index, reply, verdict, step, attempts[-1].usage)

    def _kept(self, blocked: int | None, why: str) -> Answer | None:
        """The best usable draft so far, when nothing above it can be had."""
        if self.held is None:
            return None
        reason = f"no rung above gave a usable answer: {why}" if why else "no rung above gave a usable answer"
        if blocked is not None:
            self._step(blocked, "skip", why)
        step = replace(self.held.step, action="keep", reason=reason, cost_nusd=0, attempts=0, signals={})
        self.steps.append(step)
        return self._answer(self.held)

    def _answer(self, draft: _Draft) -> Answer:
        spent = costs(self.attempts)
        baseline, source = self._baseline(draft)
        return Answer(
            text=draft.reply.text,
            parsed=draft.verdict.value if draft.verdict.valid else None,
            model=self.plan.rungs[draft.rung].name,
            rung=draft.rung,
            confidence=draft.step.confidence or 0.0,
            confidence_source=draft.step.confidence_source or "prior",
            escalated=climbed(self.attempts, self.plan.first),
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
            latency_ms=self.elapsed_s * 1000,
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
        rates, usage = self.plan.rungs[top].rates, draft.reply.usage
        if rates.by_second or usage is None:
            return None, "unknown"
        # The top rung's prompt cache is not the draft's, so all input counts as plain input.
        cost = rates.plain_nusd(usage.all_input_tokens, usage.all_output_tokens)
        return cost, "unknown" if cost is None else "estimated"

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

    def _raise_deadline(self) -> NoReturn:
        raise DeadlineExceeded(
            f"task {self.plan.task_name!r}: no usable answer within {self.request.deadline_s} s"
            f"{self._history()}; raise deadline_s, or put a faster model first",
            deadline_s=self.request.deadline_s,
            **self._error_fields(),
        )

    def _raise_cost_limit(self, model: str, upper: int | None) -> NoReturn:
        limit, spent, needed = usd(self.request.max_cost_nusd) or 0.0, usd(self._spent_upper()), usd(upper)
        already = "an unknown part" if spent is None else f"{spent:.6f}"
        remedy = (
            f"a request to {model!r} has no bound: its price, its longest output or the size of the prompt is unknown; "
            "give the model a `price:` and the task a `max_output_tokens:`"
            if needed is None or spent is None
            else f"a request to {model!r} can cost {needed:.6f} USD; raise the limit or lower max_output_tokens"
        )
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
                f"prompt: is longer than any model of task {self.plan.task_name!r} takes; shorten it", argument="prompt"
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


def _smaller(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
