"""The flow of one call: a generator that yields effects and is sent their results as values.

It asks a rung, reads the draft's confidence, and accepts or climbs. It never sends, sleeps, reads a clock or
writes: `router.drive` performs what it yields, once for each kind of caller.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, NoReturn

from router.core import compose
from router.core.answer import Action, Answer, Attempt, Step, climbed, costs
from router.core.call import Call, Failure, Reply, Usage, input_tokens_bound
from router.core.checks import REFUSED, Verdict
from router.core.counters import Line, Refusal, Unbounded
from router.core.decision import Judged, first_probability, judge, judge_panel, skip_reason
from router.core.effects import Ask, Asked, CountTokens, Do, Effect, Finish, Flow, ReadClock, Request, Reserve, Wait
from router.core.endings import Endings
from router.core.faults import FAULTS
from router.core.panel import Vote, leading, panel_signals
from router.core.plan import NOT_IN_PLAN, Plan, Rung
from router.core.pricing import total
from router.core.reading import draft_signals, prompt_signals
from router.core.signals import compared
from router.core.tools import marked, rung_of
from router.errors import RouterError

# Pauses of a call that waits for room in a budget.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


def _raise(error: RouterError) -> NoReturn:
    raise error


class _Draft(NamedTuple):
    """A reply that was judged."""

    place: int
    reply: Reply
    verdict: Verdict
    usage: Usage | None
    """As recorded: estimated where the provider reported none."""
    signals: Mapping[str, float]
    step: Step | None = None
    """What was decided of it."""


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
        self.panel: list[tuple[_Draft, Vote]] = []  # Of the rung that is being asked, where that is a panel.
        self.given_up: int | None = None  # The rung of a panel whose other members are not asked.
        self.goes_on: int | None = None
        self.shown = False
        self.down = False  # Whether the rung that was asked last could not be reached.
        self.before: Verdict | None = None
        self.usage_below: Usage | None = None  # As reported for the last draft below the top rung.
        self.input_bound = input_tokens_bound(request.messages)
        self.endings = Endings(plan, request, self.steps, self.attempts)

    def run(self) -> Flow:
        yield from self._check_input(self.plan.task.max_input_tokens)
        self.goes_on = rung_of(self.request.messages)
        for index, rung in enumerate(self.plan.rungs):
            if self._passed_over(index):
                continue
            call = compose.call(self.plan, index, self.request)
            if not self._surely_fits(rung.context_tokens) and (yield from self._too_long(call, rung.context_tokens)):
                self._step(index, "skip", f"the prompt is longer than its {rung.context_tokens} tokens of context")
                continue
            yield from self._read_clock()
            if self._out_of_time():
                return self._kept(index, "the deadline passed") or _raise(self.endings.deadline())
            upper = compose.upper_nusd(rung, call, self.request, self.input_bound)
            if (attempts := self._affordable(upper)) == 0:
                kept = self._kept(index, "the cost limit leaves no room for it")
                spent = self._spent_upper()
                return kept or _raise(self.endings.cost_limit(rung, call, upper, spent, self.input_bound))
            if self.budgets and (kept := (yield from self._reserve(index, call, upper))):
                return kept
            live = self.request.stream and rung.threshold is None
            ask = Ask(rung.level, call, attempts, rung.rates, upper, live, index, rung.purpose)
            draft = self._read(index, (yield ask))
            if draft is None:
                continue
            if draft.step and draft.step.action == "accept":
                return self._answer(draft)
            if draft.verdict.valid:
                self.held = draft
        return self._ended()

    def _ended(self) -> Answer:
        """What is left when every rung has been asked: the best usable draft, if there is one."""
        if kept := self._kept(None, ""):
            return kept
        raise self.endings.deadline() if self._out_of_time() else self.endings.exhausted()

    def _reserve(self, index: int, call: Call, upper: int | None) -> Generator[Effect, Any, Answer | None]:
        """Take room in every budget for the first request to a rung; where there is none, the draft that is kept."""
        in_dollars = [line for line in self.budgets if line.counter.unit == "usd"]
        if upper is None and in_dollars:
            why = compose.unbounded(self.plan.rungs[index], call, self.request, self.input_bound)
            return self._at_limit(index, Unbounded(in_dollars[0], why))
        pause_s, began_s = _FIRST_PAUSE_S, self.elapsed_s
        level = self.plan.rungs[index].level
        reserve = Do(Reserve(upper, level > self.first and not climbed(self.attempts, self.first)))
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
        why, before = found.why(), self.endings.history()
        if found.line.counter.at_limit != "refuse" and (kept := self._kept(index, why)):
            return kept
        self._step(index, "skip", why)  # On record, too: a refused call may have no other step.
        raise self.endings.budget(self.plan.rungs[index].name, found, before)

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
            raise self.endings.too_long(limit)

    def _passed_over(self, index: int) -> bool:
        """Whether a rung is not asked; its step says why, but for the rest of a panel that was given up."""
        rung = self.plan.rungs[index]
        if rung.member and rung.level == self.given_up:
            return True
        unfit = self._unfit(index)
        if unfit:
            self._step(index, "skip", unfit)
            if rung.gate is not None:  # It is the first of a panel, if of any: what it skips is all of it.
                self.given_up = rung.level
        return bool(unfit)

    def _unfit(self, index: int) -> str:
        """Why a rung is not asked at all, or ""."""
        goes_on = self.goes_on
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
        cost = total([attempt.amount.nusd for attempt in attempts])
        place = self.plan.rungs[rung]
        self.steps.append(Step(place.level, place.name, action, reason, cost_nusd=cost, attempts=len(attempts)))

    def _failed(self, index: int, failure: Failure, attempts: tuple[Attempt, ...]) -> None:
        tries = f" after {len(attempts)} attempts" if len(attempts) > 1 else ""
        status = f" (HTTP {failure.status})" if failure.status else ""
        why = failure.detail or FAULTS[failure.fault].why
        self._step(index, "fail", f"{failure.fault}{status}{tries}: {why}", attempts)
        then = FAULTS[failure.fault].then
        if then == "on_filter":
            then = self.plan.task.on_filter
        if self.shown:
            raise self.endings.interrupted(failure)
        if then == "raise":
            raise self.endings.refused(failure)

    def _judge(self, index: int, reply: Reply, attempts: tuple[Attempt, ...]) -> _Draft:
        rung = self.plan.rungs[index]
        verdict = self._verdict(reply)
        # Members of a panel are compared with all others, not with the one before.
        before = None if rung.members > 1 else self.before
        agree_on = self.plan.task.agree_on
        signals: Mapping[str, float] = draft_signals(rung, self.request, reply, verdict, before, agree_on)
        self.before = verdict
        draft = _Draft(index, reply, verdict, attempts[-1].usage, signals)
        # Who goes on after tool calls does so alone.
        if rung.members > 1 and self.goes_on is None:
            draft, judged, signals = self._judge_panel(rung, draft)
        else:
            judged = judge(rung, signals, verdict.problem)
        action: Action = "accept" if judged.keep else "escalate"
        reason = judged.reason
        if not judged.keep and rung.member < rung.members - 1 and self.given_up != rung.level:
            action = "next"
        if judged.keep and not draft.verdict.valid and self.held is not None and not self.shown:
            action, reason = "fail", f"the last rung's answer {verdict.problem}"
        step = Step(
            rung.level,
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
        return draft._replace(step=step)

    def _judge_panel(self, rung: Rung, draft: _Draft) -> tuple[_Draft, Judged, Mapping[str, float]]:
        """What a panel says with one more draft: whose draft leads, what follows, and the signals of the new one."""
        if rung.member == 0:
            self.panel = []
        value = compared(draft.verdict.value, self.plan.task.agree_on) if draft.verdict.valid else None
        self.panel.append((draft, Vote(value, first_probability(rung.alone, draft.signals))))
        votes = [vote for _, vote in self.panel]
        led = self.panel[leading(votes) or 0][0]
        # With a member missing nothing is known of what the others say without it.
        whole = len(votes) == rung.member + 1
        together = panel_signals(votes) if len(votes) > 1 and (whole or not rung.tuned) else {}
        judged = judge_panel(rung, {**led.signals, **together}, votes, led.verdict.problem)
        if judged.give_up:
            self.given_up = rung.level
        return led, judged, {**draft.signals, **together}

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
        assert self.held.step is not None
        name = self.plan.rungs[self.held.place].name
        step = replace(self.held.step, model=name, action="keep", reason=reason, cost_nusd=0, attempts=0, signals={})
        self.steps.append(step)
        return self._answer(self.held)

    def _answer(self, draft: _Draft) -> Answer:
        assert draft.step is not None
        spent, rung = costs(self.attempts), self.plan.rungs[draft.place]
        baseline, source = self._baseline(draft)
        estimate = self._top_price_of(self.usage_below) if source == "known" else None
        return Answer(
            text=draft.reply.text,
            parsed=draft.verdict.value if draft.verdict.valid else None,
            model=rung.name,
            rung=rung.level,
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
            tool_calls=marked(draft.reply.tool_calls, draft.place, self.request.route_id),
            extras=draft.reply.extras,
            response=draft.reply.response,
        )

    def _baseline(self, draft: _Draft) -> tuple[int | None, Literal["known", "estimated", "unknown"]]:
        """What the top rung alone costs: known where it answered, else its price for the draft's tokens."""
        top = self.plan.rungs[-1].level
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
