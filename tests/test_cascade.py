"""The flow of one call, driven by hand: it accepts, climbs, keeps, refuses, and accounts for everything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.answer import Answer, Attempt
from router.core.calibration import Calibrator
from router.core.call import Failure, Outcome, Reply, Usage
from router.core.cascade import cascade
from router.core.checks import build_check
from router.core.effects import Ask, Asked, CountTokens, Do, Effect, Finish, ReadClock, Request
from router.core.faults import FAULTS, Fault
from router.core.plan import Plan, Rung
from router.core.policy import AnswerKind, Model, Price, Retry, Task, TextAnswer
from router.core.pricing import settle, total
from router.errors import (
    ContentFiltered,
    CostLimitExceeded,
    DeadlineExceeded,
    InvalidCall,
    LadderExhausted,
    NoAnswer,
    RequestRefused,
    RouterError,
)
from tests.strategies import Turn, scripts

D = Decimal
NAMES = ("small", "middle", "large", "huge")
# 100 nano-dollars a token in, 400 out, and ten and a hundred times as much above.
PRICES = tuple(
    Price(input_usd_per_mtok=D("0.1") * 10**rung, output_usd_per_mtok=D("0.4") * 10**rung) for rung in range(4)
)
USAGE = Usage(input_tokens=100, output_tokens=10)
COSTS = (14_000, 140_000, 1_400_000, 14_000_000)
"""What `USAGE` costs at each rung, in nano-dollars."""
TEXT = AnswerKind(text=TextAnswer())
CHOICE = AnswerKind(choice=("bug", "other"))
# Confidence is the logistic function of 10 more than the mean log-probability: any value can be asked for.
STATED = Calibrator(("lp_mean",), (0.0,), (1.0,), (1.0,), 10.0)


def draft(confidence: float, text: str = "bug", usage: Usage | None = USAGE, **more: Any) -> Reply:
    """A reply that the calibrator gives this confidence."""
    return Reply(text, usage, logprobs=(math.log(confidence / (1 - confidence)) - 10,), **more)


def down(fault: Fault = Fault.SERVER_ERROR, **more: Any) -> Failure:
    """A rung that fails."""
    return Failure(fault, **more)


def make_plan(
    *thresholds: float,
    kind: AnswerKind = TEXT,
    rungs: Mapping[int, Mapping[str, Any]] | None = None,
    **task: Any,
) -> Plan:
    """A ladder with one threshold for each rung but the last."""
    ladder = tuple(
        replace(
            Rung(
                name, Model(f"a/{name}"), price, threshold, (STATED,), "tuned:test", max_output_tokens=100, level=number
            ),
            **(rungs or {}).get(number, {}),
        )
        for number, (name, price, threshold) in enumerate(zip(NAMES, PRICES, (*thresholds, None), strict=False))
    )
    return Plan("t", Task(NAMES[: len(ladder)], answer=kind, **task), ladder, build_check(kind))


def make_request(text: str = "Hello", **more: Any) -> Request:
    """One call."""
    return Request("r1", ({"role": "user", "content": text},), len(text), **more)


def attempts_of(ask: Ask, outcomes: Sequence[Outcome]) -> tuple[Attempt, ...]:
    """What a driver would record of the requests of one rung."""
    return tuple(
        Attempt(
            attempt_id=f"a{ask.rung}.{number}",
            rung=ask.rung,
            model=ask.call.name,
            number=number,
            model_asked=ask.call.model.litellm,
            model_served=outcome.model_served,
            fault=outcome.fault if isinstance(outcome, Failure) else None,
            status=outcome.status if isinstance(outcome, Failure) else None,
            usage=outcome.usage,
            usage_source="none" if outcome.usage is None else "provider",
            amount=settle(outcome, ask.rates, upper_nusd=ask.upper_nusd, estimate=Usage(10), seconds=1.0),
            latency_ms=5.0,
        )
        for number, outcome in enumerate(outcomes, 1)
    )


@dataclass(frozen=True)
class Played:
    """A call that was driven to its end."""

    effects: list[Effect]
    sent: list[Attempt]
    answer: Answer | None
    error: RouterError | None

    @property
    def asks(self) -> list[Ask]:
        """Every rung that was asked."""
        return [effect for effect in self.effects if isinstance(effect, Ask)]

    @property
    def counts(self) -> list[CountTokens]:
        """Every exact count that was asked for."""
        return [e.operation for e in self.effects if isinstance(e, Do) and isinstance(e.operation, CountTokens)]

    @property
    def finishes(self) -> list[Finish]:
        """Every end that was recorded."""
        return [e.operation for e in self.effects if isinstance(e, Do) and isinstance(e.operation, Finish)]

    @property
    def actions(self) -> list[tuple[str, str]]:
        """What happened at each rung."""
        return [(step.model, step.action) for step in self.finishes[-1].steps]

    @property
    def reasons(self) -> list[str]:
        """Why."""
        return [step.reason for step in self.finishes[-1].steps]


def play(plan: Plan, request: Request, *script: Outcome | Turn, tokens: int = 5) -> Played:
    """Drive a call: each rung does what stands at its place in the script."""
    flow = cascade(plan, request)
    effects: list[Effect] = []
    sent: list[Attempt] = []
    elapsed_s = 0.0
    result: Asked | int | float | None = None
    try:
        while True:
            effect = flow.send(result)
            effects.append(effect)
            match effect:
                case Ask():
                    turn = script[effect.rung]
                    turn = turn if isinstance(turn, Turn) else Turn((turn,))
                    outcomes = turn.outcomes[-effect.attempts :]  # A driver stops after the last attempt.
                    attempts = attempts_of(effect, outcomes)
                    sent += attempts
                    elapsed_s += turn.seconds
                    result = Asked(outcomes[-1], attempts, elapsed_s)
                case Do(CountTokens()):
                    result = tokens
                case Do(ReadClock()):
                    result = elapsed_s
                case Do(Finish()):
                    result = None
    except StopIteration as stop:
        return Played(effects, sent, stop.value, None)
    except RouterError as error:
        return Played(effects, sent, None, error)


def answered(played: Played) -> Answer:
    """The answer of a call that has one."""
    assert played.answer is not None
    return played.answer


# Accept and climb


def test_a_good_draft_is_accepted_at_the_first_rung() -> None:
    """Ask, finish, return: step by step."""
    flow = cascade(make_plan(0.8), make_request())
    ask = next(flow)
    assert isinstance(ask, Ask)
    assert (ask.rung, ask.call.name, ask.attempts) == (0, "small", 3)
    assert ask.call.messages == ({"role": "user", "content": "Hello"},)

    attempts = attempts_of(ask, [draft(0.9)])
    finish = flow.send(Asked(draft(0.9, response="raw"), attempts, 0.25))
    assert isinstance(finish, Do)

    with pytest.raises(StopIteration) as stop:
        flow.send(None)
    answer = stop.value.value
    assert finish.operation == Finish(answer, None, answer.steps, attempts)
    assert (answer.text, answer.parsed, answer.model, answer.rung) == ("bug", "bug", "small", 0)
    assert (answer.confidence, answer.confidence_source) == (pytest.approx(0.9), "tuned:test")
    assert (answer.task, answer.route_id, answer.escalated) == ("t", "r1", False)
    assert (answer.usage, answer.finish_reason, answer.latency_ms) == (USAGE, "stop", 250.0)
    assert (answer.cost_nusd, answer.cost_upper_nusd, answer.marginal_cost_nusd) == (COSTS[0], COSTS[0], 0)
    assert (answer.baseline_cost_nusd, answer.baseline_source) == (COSTS[1], "estimated")
    assert answer.response == "raw"
    assert answer.reason == "confidence 0.900 is at or above 0.800"
    assert answer.message == {"role": "assistant", "content": "bug"}
    assert str(answer) == "bug"


def test_a_doubtful_draft_climbs() -> None:
    """Below the threshold the next rung is asked, and its answer counts."""
    played = play(make_plan(0.8), make_request(), draft(0.5), draft(0.6, "other"))
    answer = answered(played)
    assert played.actions == [("small", "escalate"), ("middle", "accept")]
    assert played.reasons == ["confidence 0.500 is below 0.800", "last rung"]
    assert (answer.text, answer.rung, answer.escalated) == ("other", 1, True)
    assert answer.confidence == pytest.approx(0.6)


@pytest.mark.parametrize(("threshold", "asked"), [(0.0, 1), (0.4999, 1), (0.5001, 2), (1.0, 2)])
def test_a_draft_at_or_above_its_threshold_is_accepted(threshold: float, asked: int) -> None:
    """The same draft, and only the threshold decides."""
    assert len(play(make_plan(threshold), make_request(), draft(0.5), draft(0.9)).asks) == asked


def test_a_confidence_of_exactly_the_threshold_is_enough() -> None:
    """At or above: a calibrator that always says one half, and a threshold of one half."""
    half = {"calibrators": (Calibrator((), (), (), (), 0.0),)}
    assert len(play(make_plan(0.5, rungs={0: half}), make_request(), draft(0.9), draft(0.9)).asks) == 1


def test_an_unusable_draft_climbs_however_confident() -> None:
    """A draft that does not fit the answer kind is no answer."""
    played = play(make_plan(0.1, kind=CHOICE), make_request(), draft(0.99, "no idea"), draft(0.2))
    assert played.actions == [("small", "escalate"), ("middle", "accept")]
    assert played.reasons[0] == "the draft names none of the 2 labels"
    assert answered(played).parsed == "bug"


def test_each_rung_has_its_own_threshold() -> None:
    """Three rungs, two thresholds."""
    plan = make_plan(0.9, 0.3)
    assert [ask.rung for ask in play(plan, make_request(), draft(0.5), draft(0.5), draft(0.5)).asks] == [0, 1]
    assert [ask.rung for ask in play(plan, make_request(), draft(0.5), draft(0.2), draft(0.5)).asks] == [0, 1, 2]


def test_a_ladder_of_one_rung_takes_what_it_gets() -> None:
    """There is nothing to climb to."""
    answer = answered(play(make_plan(), make_request(), draft(0.01)))
    assert (answer.reason, answer.escalated, answer.marginal_cost_nusd) == ("last rung", False, 0)
    assert (answer.baseline_cost_nusd, answer.baseline_source) == (COSTS[0], "known")


def test_low_confidence_on_the_last_rung_is_an_answer() -> None:
    """It is no error, and the answer says so."""
    answer = answered(play(make_plan(0.8), make_request(), draft(0.5), draft(0.01)))
    assert answer.confidence == pytest.approx(0.01)
    assert answer.steps[-1].threshold is None


def test_an_unusable_answer_of_the_last_rung_says_so() -> None:
    """Its text is there, and no value is made of it."""
    script = (draft(0.5, "no clue"), draft(0.9, "no idea"))
    answer = answered(play(make_plan(0.8, kind=CHOICE), make_request(), *script))
    assert (answer.text, answer.parsed) == ("no idea", None)
    assert answer.reason == "last rung; the answer names none of the 2 labels"


def test_a_usable_draft_is_kept_when_the_last_rung_gives_an_unusable_answer() -> None:
    """A doubtful label is more use than a text that names none."""
    answer = answered(play(make_plan(0.8, kind=CHOICE), make_request(), draft(0.5), draft(0.9, "no idea")))
    assert (answer.parsed, answer.rung, answer.escalated) == ("bug", 0, True)
    assert [step.action for step in answer.steps] == ["escalate", "fail", "keep"]
    assert answer.steps[1].reason == "the last rung's answer names none of the 2 labels"


def test_without_a_calibrator_the_prior_decides_and_is_named() -> None:
    """No answer hides that no data stands behind its confidence."""
    plan = make_plan(0.8, rungs={0: {"calibrators": ()}})
    answer = answered(play(plan, make_request(), Reply("fine", USAGE), draft(0.9)))
    assert (answer.rung, answer.confidence_source) == (0, "prior")
    assert answer.confidence == pytest.approx(0.85)


def test_a_calibrator_that_lacks_its_signal_leaves_it_to_the_prior() -> None:
    """A draft without log-probabilities cannot be scored by a calibrator that needs them."""
    answer = answered(play(make_plan(0.8), make_request(), Reply("fine", USAGE), draft(0.9)))
    assert answer.confidence_source == "prior"


def test_a_step_keeps_what_was_decided_on() -> None:
    """Confidence, threshold and signals, for the audit."""
    step = answered(play(make_plan(0.8), make_request(), draft(0.9))).steps[0]
    assert (step.rung, step.threshold, step.cost_nusd, step.attempts) == (0, 0.8, COSTS[0], 1)
    assert step.signals["input_chars"] == 5.0
    assert step.signals["lp_mean"] == pytest.approx(math.log(9) - 10)


# Faults


@pytest.mark.parametrize("fault", [fault for fault, rule in FAULTS.items() if rule.then == "climb"])
def test_a_fault_of_the_rung_climbs(fault: Fault) -> None:
    """A small model that is down, retired or not paid for must not take the caller down."""
    played = play(make_plan(0.8), make_request(), down(fault, status=503), draft(0.6))
    assert played.actions == [("small", "fail"), ("middle", "accept")]
    assert played.reasons[0] == f"{fault} (HTTP 503): {FAULTS[fault].why}"
    assert answered(played).escalated is True


@pytest.mark.parametrize("fault", [fault for fault, rule in FAULTS.items() if rule.then == "raise"])
def test_a_fault_of_the_request_raises(fault: Fault) -> None:
    """Every other model would refuse it as well, so none is asked."""
    played = play(make_plan(0.8), make_request(), down(fault, status=400, provider_message="words"))
    error = played.error
    assert isinstance(error, RequestRefused)
    assert (error.status, error.provider_message) == (400, "words")
    assert (error.route_id, error.task, error.attempts) == ("r1", "t", tuple(played.sent))
    assert str(error) == (
        f"task 't': model 'small' refused the request: {fault} (HTTP 400): {FAULTS[fault].why}; "
        "the error's provider_message has the provider's own words"
    )
    assert len(played.asks) == 1


def test_a_content_filter_raises_where_the_policy_says_so() -> None:
    """That is the default: what one vendor filters is not shown to another without being asked."""
    played = play(make_plan(0.8), make_request(), down(Fault.CONTENT_FILTER), draft(0.9))
    assert isinstance(played.error, ContentFiltered)
    assert str(played.error).endswith("set `on_filter: climb` to ask the next rung instead")
    assert len(played.asks) == 1


def test_a_content_filter_climbs_where_the_policy_says_so() -> None:
    """`on_filter: climb` asks the next rung."""
    played = play(make_plan(0.8, on_filter="climb"), make_request(), down(Fault.CONTENT_FILTER), draft(0.9))
    assert played.actions == [("small", "fail"), ("middle", "accept")]


def test_a_failure_is_told_in_our_own_words() -> None:
    """The backend's detail where it has one, and how often it was tried."""
    turn = Turn((down(), down(), down(Fault.RATE_LIMITED, status=429, detail="the quota of the hour is used up")))
    played = play(make_plan(0.8), make_request(), turn, draft(0.9))
    assert played.reasons[0] == "rate_limited (HTTP 429) after 3 attempts: the quota of the hour is used up"
    assert answered(played).steps[0].attempts == 3


def test_when_every_rung_fails_the_ladder_is_exhausted() -> None:
    """The error has every attempt, and its message every rung."""
    played = play(make_plan(0.8), make_request(), down(Fault.AUTH), Turn((down(), down(Fault.TIMEOUT))))
    assert isinstance(played.error, LadderExhausted)
    assert [attempt.fault for attempt in played.error.attempts] == [Fault.AUTH, Fault.SERVER_ERROR, Fault.TIMEOUT]
    assert str(played.error) == (
        f"task 't': no rung gave a usable answer (small: auth: {FAULTS[Fault.AUTH].why}; "
        f"middle: timeout after 2 attempts: {FAULTS[Fault.TIMEOUT].why})"
    )


def test_an_unusable_draft_does_not_save_an_exhausted_ladder() -> None:
    """Only a usable draft is worth keeping."""
    played = play(make_plan(0.8, kind=CHOICE), make_request(), draft(0.9, "no idea"), down())
    assert isinstance(played.error, LadderExhausted)
    assert played.actions == [("small", "escalate"), ("middle", "fail")]


# Keeping a draft


def test_a_doubtful_draft_is_kept_when_the_top_fails() -> None:
    """A usable answer in hand is better than an error."""
    played = play(make_plan(0.8), make_request(), draft(0.5), down())
    answer = answered(played)
    assert played.actions == [("small", "escalate"), ("middle", "fail"), ("small", "keep")]
    assert answer.reason == "no rung above gave a usable answer"
    assert (answer.text, answer.rung, answer.escalated) == ("bug", 0, True)
    assert answer.confidence == pytest.approx(0.5)
    assert (answer.steps[-1].cost_nusd, answer.steps[-1].attempts) == (0, 0)


def test_the_highest_usable_draft_is_kept() -> None:
    """Not the most confident: each calibrator speaks of its own model."""
    played = play(make_plan(0.8, 0.8), make_request(), draft(0.7, "low"), draft(0.6, "high"), down())
    assert (answered(played).text, answered(played).rung) == ("high", 1)


def test_an_unusable_draft_above_does_not_replace_a_usable_one() -> None:
    """The last usable draft is kept."""
    plan = make_plan(0.8, 0.8, kind=CHOICE)
    played = play(plan, make_request(), draft(0.7), draft(0.9, "no idea"), down())
    assert (answered(played).text, answered(played).rung) == ("bug", 0)


def test_a_draft_is_kept_when_the_deadline_has_passed() -> None:
    """The rung above is not asked any more."""
    played = play(make_plan(0.8), make_request(deadline_s=2.0), Turn((draft(0.5),), seconds=2.0))
    assert played.actions == [("small", "escalate"), ("middle", "skip"), ("small", "keep")]
    assert played.reasons[1:] == ["the deadline passed", "no rung above gave a usable answer: the deadline passed"]
    assert (answered(played).rung, answered(played).escalated) == (0, False)


def test_a_draft_is_kept_when_the_cost_limit_leaves_no_room() -> None:
    """The rung above is not asked, because one request could cost more than is left."""
    played = play(make_plan(0.8), make_request(max_cost_nusd=100_000), draft(0.5))
    assert played.actions == [("small", "escalate"), ("middle", "skip"), ("small", "keep")]
    assert played.reasons[2] == "no rung above gave a usable answer: the cost limit leaves no room for it"


def test_a_draft_is_kept_when_the_prompt_is_too_long_for_the_top() -> None:
    """A top rung with a shorter context is skipped."""
    plan = make_plan(0.8, rungs={1: {"context_tokens": 10}})
    played = play(plan, make_request(), draft(0.5), tokens=11)
    assert played.actions == [("small", "escalate"), ("middle", "skip"), ("small", "keep")]
    assert answered(played).rung == 0


# Deadline


def test_a_deadline_without_a_usable_draft_raises() -> None:
    """The first rung failed and used up the time."""
    played = play(make_plan(0.8), make_request(deadline_s=2.0), Turn((down(),), seconds=2.5))
    error = played.error
    assert isinstance(error, DeadlineExceeded)
    assert (error.deadline_s, error.attempts) == (2.0, tuple(played.sent))
    assert str(error) == (
        f"task 't': no usable answer within 2.0 s (small: server_error: {FAULTS[Fault.SERVER_ERROR].why}); "
        "raise deadline_s, or put a faster model first"
    )


def test_a_deadline_that_passes_on_the_last_rung_is_a_deadline() -> None:
    """It is not the ladder that was exhausted."""
    played = play(make_plan(), make_request(deadline_s=2.0), Turn((down(Fault.TIMEOUT),), seconds=2.0))
    assert isinstance(played.error, DeadlineExceeded)


def test_an_accepted_draft_counts_although_it_came_late() -> None:
    """What was paid for and is good is not thrown away."""
    played = play(make_plan(0.8), make_request(deadline_s=2.0), Turn((draft(0.9),), seconds=3.0))
    assert answered(played).latency_ms == 3000.0


# Cost limit


def test_a_first_rung_beyond_the_cost_limit_raises_before_anything_is_sent() -> None:
    """The prompt has at most 37 tokens and the answer at most 100: 43,700 nano-dollars."""
    played = play(make_plan(0.8), make_request(max_cost_nusd=43_699))
    error = played.error
    assert isinstance(error, CostLimitExceeded)
    assert (error.limit_usd, error.spent_usd, error.needed_usd) == (0.000043699, 0.0, 0.0000437)
    assert error.attempts == ()
    assert str(error) == (
        "task 't': 0.000000 of 0.000044 USD may be spent already, and a request to 'small' can cost 0.000044 USD; "
        "raise the limit or lower max_output_tokens"
    )
    assert len(play(make_plan(0.8), make_request(max_cost_nusd=43_700), draft(0.9)).asks) == 1


@pytest.mark.parametrize(
    ("rung", "says"),
    [
        ({"price": Price()}, "its price is unknown; give the model a `price:`"),
        ({"max_output_tokens": None}, "its longest output is unknown; give the task a `max_output_tokens:`"),
    ],
    ids=["no_price", "no_longest_output"],
)
def test_a_cost_limit_with_an_unknown_cost_raises(rung: Mapping[str, Any], says: str) -> None:
    """What cannot be bounded cannot be kept below a limit, and the error says what to give."""
    played = play(make_plan(0.8, rungs={0: rung}), make_request(max_cost_nusd=10**12))
    error = played.error
    assert isinstance(error, CostLimitExceeded)
    assert error.needed_usd is None
    assert says in str(error)


def test_without_a_cost_limit_an_unknown_cost_is_no_hindrance() -> None:
    """The cost stays unknown, and is not 0."""
    answer = answered(play(make_plan(0.8, rungs={0: {"price": Price()}}), make_request(), draft(0.9)))
    assert (answer.cost_nusd, answer.cost_upper_nusd, answer.cost_usd) == (None, None, None)


def test_a_cost_limit_with_an_unknown_part_spent_raises() -> None:
    """A reply in a bucket without a price could have cost anything; raising the limit would not help."""
    plan = make_plan(0.8, kind=CHOICE, rungs={0: {"price": replace(PRICES[0], up_to_input_tokens=1000)}})
    reply = draft(0.9, "no idea", Usage(input_tokens=1001))
    error = play(plan, make_request(max_cost_nusd=10**12), reply).error
    assert isinstance(error, CostLimitExceeded)
    assert vars(error)["spent_usd"] is None
    assert str(error).startswith("task 't': an unknown part of 1000.000000 USD may be spent already, and an earlier")


@pytest.mark.parametrize(
    ("limit", "attempts"), [(None, 3), (43_700, 1), (2 * 43_700, 2), (3 * 43_700 - 1, 2), (10**9, 3)]
)
def test_a_cost_limit_bounds_the_attempts_of_a_rung(limit: int | None, attempts: int) -> None:
    """Every retry could cost the upper bound again."""
    played = play(make_plan(0.8), make_request(max_cost_nusd=limit), draft(0.9))
    assert (played.asks[0].attempts, played.asks[0].upper_nusd) == (attempts, 43_700)


def test_what_may_have_been_billed_counts_against_the_limit() -> None:
    """A timeout cost nothing that is known, and up to its bound."""
    played = play(make_plan(0.8), make_request(max_cost_nusd=437_000), down(Fault.TIMEOUT))
    error = played.error
    assert isinstance(error, CostLimitExceeded)
    assert (error.spent_usd, error.needed_usd) == (0.0000437, 0.000437)


def test_a_bill_above_the_limit_leaves_no_attempt() -> None:
    """A provider can report more than the bound; then less than no room is left, and nothing more is asked."""
    reply = draft(0.5, reported_cost_nusd=10**9)
    played = play(make_plan(0.8), make_request(max_cost_nusd=500_000), reply)
    assert played.actions == [("small", "escalate"), ("middle", "skip"), ("small", "keep")]


def test_a_free_rung_is_asked_whatever_was_spent() -> None:
    """It cannot break a limit."""
    free = {"price": Price(input_usd_per_mtok=D(0), output_usd_per_mtok=D(0)), "max_output_tokens": None}
    played = play(make_plan(0.8, rungs={0: free}), make_request(max_cost_nusd=1), draft(0.9))
    assert (played.asks[0].upper_nusd, played.asks[0].attempts) == (0, 3)


# Length


def test_a_prompt_too_long_for_the_task_is_refused_before_anything_is_sent() -> None:
    """The caller's argument is at fault, and the message says what to do."""
    played = play(make_plan(0.8, max_input_tokens=10), make_request(), tokens=11)
    error = played.error
    assert isinstance(error, InvalidCall)
    assert str(error) == (
        "prompt: is longer than the 10 tokens that task 't' takes; shorten it, or raise max_input_tokens"
    )
    assert (error.argument, played.asks, len(played.counts)) == ("prompt", [], 1)


def test_a_prompt_of_exactly_the_longest_length_is_taken() -> None:
    """The limit is part of the range."""
    played = play(make_plan(0.8, max_input_tokens=10), make_request(), draft(0.9), tokens=10)
    assert (answered(played).rung, len(played.counts)) == (0, 1)


@pytest.mark.parametrize(
    ("limit", "counted"), [(None, 0), (37, 0), (36, 1)], ids=["no_limit", "surely_within", "perhaps_beyond"]
)
def test_tokens_are_counted_only_where_the_bound_could_exceed_the_limit(limit: int | None, counted: int) -> None:
    """Counting is slow: "Hello" has at most 37 tokens, its template included."""
    task = play(make_plan(0.8, max_input_tokens=limit), make_request(), draft(0.9))
    rung = play(make_plan(0.8, rungs={0: {"context_tokens": limit}}), make_request(), draft(0.9))
    assert (len(task.counts), len(rung.counts)) == (counted, counted)


def test_a_prompt_that_holds_more_than_text_is_counted() -> None:
    """There is no bound for an image."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com"}}
    request = replace(make_request(), messages=({"role": "user", "content": [image]},))
    played = play(make_plan(0.8, max_input_tokens=10**6), request, draft(0.9))
    assert len(played.counts) == 1
    assert played.asks[0].upper_nusd is None


def test_a_rung_whose_context_is_too_short_is_skipped() -> None:
    """Its model is counted with, and the next rung is asked."""
    played = play(make_plan(0.8, rungs={0: {"context_tokens": 10}}), make_request(), down(), draft(0.9), tokens=11)
    answer = answered(played)
    assert played.actions == [("small", "skip"), ("middle", "accept")]
    assert played.reasons[0] == "the prompt is longer than its 10 tokens of context"
    assert [count.call.name for count in played.counts] == ["small"]
    assert (answer.escalated, answer.marginal_cost_nusd) == (True, 0)


def test_a_prompt_too_long_for_every_rung_is_refused() -> None:
    """Nothing was sent, so it is the argument that is at fault."""
    played = play(make_plan(0.8, rungs={n: {"context_tokens": 10} for n in (0, 1)}), make_request(), tokens=11)
    assert isinstance(played.error, InvalidCall)
    assert str(played.error).startswith(
        "prompt: no model of task 't' takes it (small: the prompt is longer than its 10"
    )
    assert played.actions == [("small", "skip"), ("middle", "skip")]


def test_a_prompt_too_long_for_one_rung_and_failed_by_the_other_exhausts_the_ladder() -> None:
    """Something was sent, so it is not the argument alone."""
    plan = make_plan(0.8, rungs={1: {"context_tokens": 10}})
    assert isinstance(play(plan, make_request(), down(), tokens=11).error, LadderExhausted)


# What is sent


def test_a_model_s_parameters_win_over_the_call_s_and_those_over_the_task_s() -> None:
    """The policy of a model is what its calibrator was fitted on."""
    plan = make_plan(0.8, params={"a": "task", "b": "task", "c": "task"})
    model = Model("a/small", params={"c": "model"})
    plan = replace(plan, rungs=(replace(plan.rungs[0], model=model), plan.rungs[1]))
    played = play(plan, make_request(params={"b": "call", "c": "call"}), draft(0.9))
    assert played.asks[0].call.params == {"a": "task", "b": "call", "c": "model"}


@pytest.mark.parametrize(
    ("task", "call", "sent", "bound"),
    [
        (None, None, None, 100),
        (50, None, 50, 50),
        (None, 50, 50, 50),
        (50, 20, 20, 20),
        (20, 50, 20, 20),
        (500, None, 500, 100),
    ],
)
def test_the_smallest_output_limit_is_sent_and_the_model_s_own_bounds_the_cost(
    task: int | None, call: int | None, sent: int | None, bound: int
) -> None:
    """The model's longest output truncates nothing."""
    played = play(make_plan(0.8, max_output_tokens=task), make_request(max_output_tokens=call), draft(0.9))
    assert played.asks[0].call.max_output_tokens == sent
    assert played.asks[0].upper_nusd == 37 * 100 + bound * 400


def test_the_task_s_attempts_are_asked_for() -> None:
    """The driver retries, the flow says how often."""
    assert play(make_plan(0.8, retry=Retry(attempts=7)), make_request(), draft(0.9)).asks[0].attempts == 7


# Money


def test_everything_after_the_first_rung_asked_is_marginal() -> None:
    """Attempts that failed included."""
    turn = Turn((down(Fault.EMPTY, usage=USAGE), draft(0.5)))
    answer = answered(play(make_plan(0.8, 0.8), make_request(), turn, down(usage=USAGE), draft(0.9)))
    assert answer.cost_nusd == 2 * COSTS[0] + COSTS[1] + COSTS[2]
    assert answer.marginal_cost_nusd == COSTS[1] + COSTS[2]
    assert [step.cost_nusd for step in answer.steps] == [2 * COSTS[0], COSTS[1], COSTS[2]]
    assert answer.cost_usd == pytest.approx(answer.cost_nusd / 1e9)
    assert answer.marginal_cost_usd == pytest.approx(answer.marginal_cost_nusd / 1e9)


def test_the_baseline_is_known_where_the_top_answered() -> None:
    """It is what the top rung itself cost."""
    answer = answered(play(make_plan(0.8), make_request(), draft(0.5), draft(0.9)))
    assert (answer.baseline_cost_nusd, answer.baseline_source) == (COSTS[1], "known")


def test_the_baseline_is_estimated_at_the_top_s_price_for_plain_input() -> None:
    """The draft's prompt cache is not the top's."""
    usage = Usage(input_tokens=40, cached_read_tokens=60, output_tokens=4, reasoning_tokens=6)
    cached = {0: {"price": replace(PRICES[0], cached_read_usd_per_mtok=D("0.01"))}}
    answer = answered(play(make_plan(0.8, rungs=cached), make_request(), draft(0.9, usage=usage)))
    assert answer.cost_nusd == 40 * 100 + 60 * 10 + 10 * 400
    assert (answer.baseline_cost_nusd, answer.baseline_source) == (COSTS[1], "estimated")
    assert answer.baseline_cost_usd == pytest.approx(COSTS[1] / 1e9)


@pytest.mark.parametrize(
    ("price", "usage"),
    [(Price(), USAGE), (Price(gpu_second_usd=D(1)), USAGE), (PRICES[1], None)],
    ids=["no_price", "price_by_the_second", "no_usage"],
)
def test_the_baseline_is_unknown_where_nothing_gives_it(price: Price, usage: Usage | None) -> None:
    """It is not made up."""
    plan = make_plan(0.8, rungs={1: {"price": price}})
    answer = answered(play(plan, make_request(), draft(0.9, usage=usage)))
    assert (answer.baseline_cost_nusd, answer.baseline_source) == (None, "unknown")


def test_the_baseline_of_a_top_rung_at_an_unknown_price_is_unknown() -> None:
    """Although the top answered."""
    plan = make_plan(0.8, rungs={1: {"price": Price()}})
    answer = answered(play(plan, make_request(), draft(0.5), draft(0.9)))
    assert (answer.baseline_cost_nusd, answer.baseline_source, answer.cost_nusd) == (None, "unknown", None)


def test_a_request_that_may_have_been_billed_counts_for_half_and_in_the_bound_for_all() -> None:
    """The cost is what is known and half of five estimated tokens; the bill lies below the bound."""
    answer = answered(play(make_plan(0.8), make_request(), Turn((down(Fault.TIMEOUT), draft(0.9)))))
    assert (answer.cost_nusd, answer.cost_upper_nusd) == (COSTS[0] + 500, COSTS[0] + 43_700)
    assert answer.cost_upper_usd == pytest.approx((COSTS[0] + 43_700) / 1e9)


def test_the_answer_has_the_usage_of_the_request_that_gave_it() -> None:
    """Not of the attempts before it, and not of the rungs above."""
    turn = Turn((down(Fault.EMPTY, usage=Usage(7)), draft(0.5)))
    answer = answered(play(make_plan(0.8), make_request(), turn, down(usage=Usage(9))))
    assert (answer.rung, answer.usage) == (0, USAGE)


# A call that is left


def test_a_call_that_is_left_ends_quietly() -> None:
    """The driver records it; the flow yields nothing more."""
    flow = cascade(make_plan(0.8), make_request())
    assert isinstance(next(flow), Ask)
    flow.close()
    assert list(flow) == []


# Laws


ODD_PRICES = (
    Price(),
    Price(gpu_second_usd=D("0.001")),
    Price(input_usd_per_mtok=D(0), output_usd_per_mtok=D(0)),
    replace(PRICES[0], cached_read_usd_per_mtok=D("0.3"), request_usd=D("0.000001"), up_to_input_tokens=1000),
    Price(input_usd_per_mtok=D("0.0005"), output_usd_per_mtok=D("0.0005"), reasoning_usd_per_mtok=D(5)),
)


# Strategies are made once: making them takes longer than drawing from them.
LIMITS = st.none() | st.integers(1, 1000)
THRESHOLDS = st.lists(st.floats(0, 1), max_size=3)
RUNGS = st.lists(
    st.fixed_dictionaries(
        {
            "calibrators": st.sampled_from([(), (STATED,)]),
            "context_tokens": st.none() | st.integers(1, 60),
            "max_output_tokens": LIMITS,
        },
        optional={"price": st.sampled_from(ODD_PRICES)},
    ),
    min_size=4,
    max_size=4,
)
TASKS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "kind": st.sampled_from([TEXT, CHOICE]),
        "max_input_tokens": st.none() | st.integers(20, 10**6),
        "max_output_tokens": LIMITS,
        "on_filter": st.sampled_from(["raise", "climb"]),
        "retry": st.integers(1, 4).map(Retry),
    }
)
REQUESTS = st.builds(
    make_request,
    deadline_s=st.none() | st.floats(0.01, 30),
    max_cost_nusd=st.none() | st.integers(0, 10**9),
    max_output_tokens=LIMITS,
)
SCRIPTS = scripts(4, st.sampled_from(["bug", "other", "no idea", "", "I'm sorry, but no."]))
TOKENS = st.integers(1, 80)

DrawnCall = tuple[Plan, Request, list[Turn], int]


@st.composite
def calls(draw_: st.DrawFn) -> DrawnCall:
    """A whole call: the plan, the request, what each rung does, and how many tokens the prompt has."""
    thresholds, rungs = draw_(THRESHOLDS), draw_(RUNGS)
    plan = make_plan(*thresholds, rungs=dict(enumerate(rungs)), **draw_(TASKS))
    return plan, draw_(REQUESTS), draw_(SCRIPTS), draw_(TOKENS)


def run(call: DrawnCall) -> Played:
    """Drive a drawn call."""
    plan, request, script, tokens = call
    return play(plan, request, *script, tokens=tokens)


LAW = settings(max_examples=80, deadline=None)


@given(calls())
@LAW
def test_every_call_ends_with_exactly_one_finish(call: DrawnCall) -> None:
    """Answered or failed: only RouterError is raised, and the last effect records just that."""
    played = run(call)
    finish = played.finishes[0]
    assert len(played.finishes) == 1
    assert played.effects[-1] == Do(finish)
    assert (finish.answer, finish.error) == (played.answer, played.error)
    assert (played.answer is None) is not (played.error is None)
    assert list(finish.attempts) == played.sent
    assert finish.outcome == ("answered" if played.answer else type(played.error).__name__)


@given(calls())
@LAW
def test_no_rung_is_asked_after_an_accepted_draft(call: DrawnCall) -> None:
    """Each rung is asked once at most, upwards, and accepting or keeping is the last step."""
    played = run(call)
    asked = [ask.rung for ask in played.asks]
    assert asked == sorted(set(asked))
    assert len(asked) <= len(call[0].rungs)
    actions = [step.action for step in played.finishes[0].steps]
    assert [action for action in actions[:-1] if action in ("accept", "keep")] == []
    assert (played.answer is not None) is (actions[-1:] in (["accept"], ["keep"]))


@given(calls())
@LAW
def test_every_step_has_a_reason(call: DrawnCall) -> None:
    """And each rung that was asked or passed over has a step."""
    steps = run(call).finishes[0].steps
    assert [step for step in steps if not step.reason.strip()] == []
    assert [step.model for step in steps] == [call[0].rungs[step.rung].name for step in steps]


@given(calls())
@LAW
def test_the_steps_account_for_every_attempt_and_its_cost(call: DrawnCall) -> None:
    """Numbers and amounts of the steps add up to those of the attempts, whatever the end."""
    played = run(call)
    steps, sent = played.finishes[0].steps, played.sent
    assert sum(step.attempts for step in steps) == len(sent)
    assert total([step.cost_nusd for step in steps]) == total([attempt.amount.nusd for attempt in sent])
    assert all(1 <= ask.attempts <= call[0].task.retry.attempts for ask in played.asks)


@given(calls())
@LAW
def test_the_cost_of_an_answer_is_the_sum_over_all_attempts(call: DrawnCall) -> None:
    """Rejected drafts, failures and retries included; an unknown part makes the whole unknown."""
    played = run(call)
    error, answer = played.error, played.answer
    assert not isinstance(error, NoAnswer) or list(error.attempts) == played.sent
    if answer is not None:
        amounts = [attempt.amount for attempt in played.sent]
        assert list(answer.attempts) == played.sent
        assert answer.cost_nusd == total([amount.nusd for amount in amounts])
        assert answer.cost_upper_nusd == total([amount.upper_nusd for amount in amounts])
        first = played.sent[0].rung
        assert answer.marginal_cost_nusd == total([a.amount.nusd for a in played.sent if a.rung != first])
        assert answer.escalated is any(attempt.rung > 0 for attempt in played.sent)
        assert answer.rung in {attempt.rung for attempt in played.sent}


@given(calls())
@LAW
def test_no_more_is_risked_than_the_cost_limit(call: DrawnCall) -> None:
    """Before each rung, what may be spent and what its attempts may cost together is within the limit."""
    plan, request, script, tokens = call
    played = play(plan, request, *script, tokens=tokens)
    if request.max_cost_nusd is not None:
        for ask in played.asks:
            spent = total([attempt.amount.upper_nusd for attempt in played.sent if attempt.rung < ask.rung])
            assert spent is not None
            assert ask.upper_nusd is not None
            assert ask.upper_nusd == 0 or spent + ask.attempts * ask.upper_nusd <= request.max_cost_nusd


@given(calls(), st.data())
@LAW
def test_a_higher_threshold_never_asks_fewer_rungs(call: DrawnCall, data: st.DataObject) -> None:
    """On the same script, with any one threshold raised."""
    plan, request, script, tokens = call
    number = data.draw(st.integers(0, len(plan.rungs) - 1))
    rung = plan.rungs[number]
    raised = replace(rung, threshold=None if rung.threshold is None else data.draw(st.floats(rung.threshold, 1)))
    stricter = replace(plan, rungs=(*plan.rungs[:number], raised, *plan.rungs[number + 1 :]))
    before = [ask.rung for ask in play(plan, request, *script, tokens=tokens).asks]
    after = [ask.rung for ask in play(stricter, request, *script, tokens=tokens).asks]
    assert after[: len(before)] == before


@given(calls())
@LAW
def test_the_same_call_takes_the_same_way(call: DrawnCall) -> None:
    """The flow has no clock and no randomness of its own."""
    assert run(call).finishes[0].steps == run(call).finishes[0].steps
