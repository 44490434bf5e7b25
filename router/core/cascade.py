"""The flow of one call: a generator that yields effects and is sent their results as values.

It asks a rung, reads the draft's confidence, and accepts or climbs. It never sends, sleeps, reads a clock or
writes: `router.drive` performs what it yields, once for each kind of caller.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

from router.core import compose
from router.core.answer import Action, Answer, Attempt, Step, climbed, costs
from router.core.baseline import baseline, price_of
from router.core.call import Call, Failure, Reply, Usage, has_media, input_tokens_bound
from router.core.comparing import answer_of
from router.core.counters import Line, Refusal, Unbounded
from router.core.decision import Judged, first_probability, judge, skip_reason
from router.core.effects import Ask, Asked, CountTokens, Do, Effect, Finish, Flow, ReadClock, Request, Reserve, Wait
from router.core.endings import Endings, failed
from router.core.faults import FAULTS
from router.core.judge import QUESTIONS
from router.core.panel import Vote
from router.core.panel_state import Draft, PanelState
from router.core.plan import NOT_IN_PLAN, Plan, Rung
from router.core.pricing import total
from router.core.reading import draft_signals, prompt_signals, verdict_of
from router.core.signals import agreement
from router.core.tools import marked, rung_of
from router.errors import RouterError

# Pauses of a call that waits for room in a budget.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


def _raise(error: RouterError) -> NoReturn:
    raise error


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
        self.held: Draft | None = None
        self.panel = PanelState()
        self.given_up: int | None = None  # The rung of a panel whose other members are not asked.
        self.goes_on: int | None = None
        self.shown = False
        self.down = False  # Whether the rung that was asked last could not be reached.
        self.said: list[str | None] = []  # What every draft so far says, to be compared.
        self.usage_below: Usage | None = None  # As reported for the last draft below the top rung.
        self.input_bound = input_tokens_bound(request.messages)

    @property
    def endings(self) -> Endings:
        """The errors that the call may end with; most end with none."""
        return Endings(self.plan, self.request, self.steps, self.attempts)

    def run(self) -> Flow:
        limit = self.plan.task.max_input_tokens
        surely = compose.surely_fits(limit, self.input_bound)
        if not surely and (yield from self._exceeds(compose.call(self.plan, 0, self.request), limit)):
            raise self.endings.too_long(limit)
        self.goes_on = rung_of(self.request.messages)
        for index, rung in enumerate(self.plan.rungs):
            if self._passed_over(index):
                continue
            answer = yield from (self._question(index) if rung.kind else self._draft(index))
            if answer:
                return answer
        return self._ended()

    def _draft(self, index: int) -> Generator[Effect, Any, Answer | None]:
        """Ask a model for its draft; the answer of the call where it ends here."""
        rung = self.plan.rungs[index]
        call = compose.call(self.plan, index, self.request)
        surely = compose.surely_fits(rung.context_tokens, self.input_bound)
        if not surely and (yield from self._exceeds(call, rung.context_tokens)):
            self._step(index, "skip", f"the prompt is longer than its {rung.context_tokens} tokens of context")
            return None
        yield from self._read_clock()
        if self._out_of_time():
            return self._kept(index, "the deadline passed") or _raise(self.endings.deadline())
        upper = compose.upper_nusd(rung, call, self.request, self.input_bound)
        if (attempts := self._affordable(upper)) == 0:
            kept, spent = self._kept(index, "the cost limit leaves no room for it"), self._spent_upper()
            return kept or _raise(self.endings.cost_limit(rung, call, upper, spent, self.input_bound))
        if self.budgets and (kept := (yield from self._reserve(index, call, upper))):
            return kept
        live = self.request.stream and rung.threshold is None
        ask = Ask(rung.level, call, attempts, rung.rates, upper, live, index, rung.purpose)
        return self._done(self._read(index, (yield ask)))

    def _question(self, index: int) -> Generator[Effect, Any, Answer | None]:
        """Ask about the draft of the panel's first member; what fails or has no room is done without."""
        rung = self.plan.rungs[index]
        first = self.panel.first(rung)
        assert rung.kind and first  # noqa: PT018 - both, or the place is passed over
        question, text = QUESTIONS[rung.kind], first.reply.text
        known = question.foregone(self.request.messages, text, self.plan.task.answer, first.verdict)
        if known is not None:
            return self._done(self._told(index, known, ()))
        request = compose.question(rung, self.request, text)
        call, bound = compose.call(self.plan, index, request), input_tokens_bound(request.messages)
        upper = compose.upper_nusd(rung, call, request, bound)
        if why := (yield from self._no_room(index, call, upper, bound)):
            self._step(index, "skip", why)
            return None
        ask = Ask(rung.level, call, self._affordable(upper), rung.rates, upper, False, index, rung.purpose)
        asked: Asked = yield ask
        self.attempts += asked.attempts
        self.elapsed_s = asked.elapsed_s
        if isinstance(asked.outcome, Failure):
            self._step(index, "fail", failed(asked.outcome, asked.attempts), asked.attempts)
            return None
        return self._done(self._told(index, question.signals(asked.outcome), asked.attempts))

    def _no_room(self, index: int, call: Call, upper: int | None, bound: int | None) -> Generator[Effect, Any, str]:
        """Why a question is not sent, or ""."""
        rung = self.plan.rungs[index]
        surely = compose.surely_fits(rung.context_tokens, bound)
        if not surely and (yield from self._exceeds(call, rung.context_tokens)):
            return f"the question is longer than its {rung.context_tokens} tokens of context"
        yield from self._read_clock()
        if self._out_of_time():
            return "the deadline passed"
        if self._affordable(upper) == 0:
            return "the cost limit leaves no room for it"
        if upper is None and any(line.counter.unit == "usd" for line in self.budgets):
            return "nothing bounds what it costs, and a budget is in force"
        if self.budgets and (yield self._reservation(index, upper)) is not None:
            return "a budget has no room for it"
        return ""

    def _told(self, index: int, signals: Mapping[str, float], attempts: tuple[Attempt, ...]) -> Draft:
        """What a panel says with the answer to a question: whose draft leads, and what follows."""
        rung = self.plan.rungs[index]
        self.panel.tell(signals)
        led, judged, together = self.panel.judge(rung)
        told = ", ".join(f"{name} {value:.3f}" for name, value in signals.items()) or f"no {rung.kind}"
        return self._decided(index, led, judged._replace(reason=f"{told}; {judged.reason}"), together, attempts)

    def _done(self, draft: Draft | None) -> Answer | None:
        """The answer of the call, where this draft is it; else it is held when it is usable."""
        if draft is not None and draft.step and draft.step.action == "accept":
            return self._answer(draft)
        if draft is not None and draft.verdict.valid:
            self.held = draft
        return None

    def _ended(self) -> Answer:
        """What is left when every rung has been asked: the best usable draft, if there is one."""
        error = self.endings.deadline() if self._out_of_time() else self.endings.exhausted()
        return self._kept(None, "") or _raise(error)

    def _reserve(self, index: int, call: Call, upper: int | None) -> Generator[Effect, Any, Answer | None]:
        """Take room in every budget for the first request to a rung; where there is none, the draft that is kept."""
        if upper is None and (line := next((one for one in self.budgets if one.counter.unit == "usd"), None)):
            why = compose.unbounded(self.plan.rungs[index], call, self.request, self.input_bound)
            return self._at_limit(index, Unbounded(line, why))
        pause_s, began_s = _FIRST_PAUSE_S, self.elapsed_s
        while (found := (yield self._reservation(index, upper))) is not None:
            if isinstance(found, RouterError):
                raise found
            waits = found.line.counter.at_limit == "wait" and self.request.deadline_s is not None
            if not waits or found.hopeless or self._out_of_time():
                return self._at_limit(index, found._replace(waited_s=self.elapsed_s - began_s))
            yield Wait(min(pause_s, found.resets_in_s))
            self.elapsed_s = yield Do(ReadClock())
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return None

    def _reservation(self, index: int, upper: int | None) -> Effect:
        """Room in every budget for a request to a place."""
        level = self.plan.rungs[index].level
        return Do(Reserve(upper, level > self.first and not climbed(self.attempts, self.first)))

    def _at_limit(self, index: int, found: Refusal | Unbounded) -> Answer:
        """What becomes of a call that a budget has no room for."""
        why, before = found.why(), self.endings.history()
        if found.line.counter.at_limit != "refuse" and (kept := self._kept(index, why)):
            return kept
        self._step(index, "skip", why)  # On record, too: a refused call may have no other step.
        raise self.endings.budget(self.plan.rungs[index].name, found, before)

    def _read(self, index: int, asked: Asked) -> Draft | None:
        """The draft of a rung that was asked; `None` where it gave none."""
        self.attempts += asked.attempts
        self.elapsed_s, self.shown = asked.elapsed_s, asked.shown
        self.down = isinstance(asked.outcome, Failure)
        if isinstance(asked.outcome, Failure):
            self._failed(index, asked.outcome, asked.attempts)
            return None
        return self._judge(index, asked.outcome, asked.attempts)

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
            self._done_without(index)
        return bool(unfit)

    def _done_without(self, index: int) -> None:
        """A member gave no draft: before tuning nobody is asked then who cannot change the outcome any more."""
        rung = self.plan.rungs[index]
        if rung.members > 1 and not rung.kind and not rung.skip and self.panel.lost(rung) and not rung.tuned:
            self.given_up = rung.level

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
        if rung.kind:
            return self._nothing_to_ask(rung)
        lacking = compose.lacking(rung, self.request)
        return f"it cannot take {lacking}; if it can, say so in its `capabilities:`" if lacking else ""

    def _nothing_to_ask(self, rung: Rung) -> str:
        """Why a question about the draft of the panel's first member cannot be asked, or ""."""
        first = self.panel.first(rung)
        if first is None or first.reply.tool_calls:
            return "there is no draft of the panel's first member to ask about"
        return "it reads text only" if has_media(self.request.messages) else ""

    def _exceeds(self, call: Call, limit: int | None) -> Generator[Effect, Any, bool]:
        """Whether a prompt is over a limit; counting is slow, and only done where its bound does not tell."""
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
        cost, place = total([attempt.amount.nusd for attempt in attempts]), self.plan.rungs[rung]
        self.steps.append(Step(place.level, place.name, action, reason, cost_nusd=cost, attempts=len(attempts)))

    def _failed(self, index: int, failure: Failure, attempts: tuple[Attempt, ...]) -> None:
        self._step(index, "fail", failed(failure, attempts), attempts)
        self._done_without(index)
        then = FAULTS[failure.fault].then
        if then == "on_filter":
            then = self.plan.task.on_filter
        if self.shown:
            raise self.endings.interrupted(failure)
        if then == "raise":
            raise self.endings.refused(failure)

    def _judge(self, index: int, reply: Reply, attempts: tuple[Attempt, ...]) -> Draft:
        rung = self.plan.rungs[index]
        verdict = verdict_of(self.plan, self.request, reply)
        said = answer_of(reply, verdict, self.plan.task.agree_on, shaped=self.request.shape is not None)
        # Members of a panel are compared with all others, not with the one before.
        agrees = agreement(self.said[-1], said) if self.said and rung.members == 1 else None
        signals: Mapping[str, float] = draft_signals(rung, self.request, reply, verdict, agrees)
        self.said.append(said)
        draft = Draft(index, reply, verdict, attempts[-1].usage, signals)
        # Who goes on after tool calls does so alone.
        if rung.members > 1 and self.goes_on is None:
            self.panel.add(rung, draft, Vote(said, first_probability(rung.alone, signals)))
            draft, judged, together = self.panel.judge(rung)
            signals = {**signals, **together}
        else:
            judged = judge(rung, signals, verdict.problem)
        if index < len(self.plan.rungs) - 1:
            self.usage_below = reply.usage
        return self._decided(index, draft, judged, signals, attempts)

    def _decided(
        self, index: int, draft: Draft, judged: Judged, signals: Mapping[str, float], attempts: tuple[Attempt, ...]
    ) -> Draft:
        """The draft that leads, with the step of the place that was asked last."""
        rung = self.plan.rungs[index]
        if judged.give_up:
            self.given_up = rung.level
        action: Action = "accept" if judged.keep else "escalate"
        reason = judged.reason
        if not judged.keep and rung.member < rung.members - 1 and self.given_up != rung.level:
            action = "next"
        if judged.keep and not draft.verdict.valid and self.held is not None and not self.shown:
            action, reason = "fail", f"the last rung's answer {draft.verdict.problem}"
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
        return draft._replace(step=step)

    def _kept(self, blocked: int | None, why: str) -> Answer | None:
        """The best usable draft so far, when nothing above it can be had; the skipped rung's step says why in full."""
        if self.held is None:
            return None
        reason = ": ".join(filter(None, ("no rung above gave a usable answer", why.partition(": ")[0])))
        if blocked is not None:
            self._step(blocked, "skip", why)
        step, name = self.held.step, self.plan.rungs[self.held.place].name
        assert step is not None
        self.steps.append(replace(step, model=name, action="keep", reason=reason, cost_nusd=0, attempts=0, signals={}))
        return self._answer(self.held)

    def _answer(self, draft: Draft) -> Answer:
        assert draft.step is not None
        spent, rung, top = costs(self.attempts), self.plan.rungs[draft.place], self.plan.rungs[-1]
        cost, source = baseline(top, self.attempts, draft.reply.usage)
        estimate = price_of(top, self.usage_below) if source == "known" else None
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
            baseline_cost_nusd=cost,
            baseline_source=source,
            baseline_estimate_nusd=estimate,
            latency_ms=self.elapsed_s * 1000,
            tool_calls=marked(draft.reply.tool_calls, draft.place, self.request.route_id),
            extras=draft.reply.extras,
            response=draft.reply.response,
        )
