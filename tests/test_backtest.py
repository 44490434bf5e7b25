"""`router backtest`: recorded calls under another plan, each compared with itself, and what a recording cannot tell."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Policy, Router, RouterWarning
from router.core.policy import Budget, Model, PanelRung
from router.errors import InvalidCall, PolicyError, RecordingError, UnknownTask
from router.testing import Failure, Fault, Reply, ScriptedModels, Usage
from router.tuning import Backtest, Candidate, EvalRow, backtest, tune_task
from router.tuning.paired import Outcome, compared, interval_of_change
from tests.support import Cli
from tests.tuning_support import LABELS, make_policy, policy_data, recorded, write_policy, write_rows

# A confidence of about 0.97 and one of about 0.5 by the uncalibrated prior.
SURE, UNSURE = {"tok": [-0.001]}, {"tok": [-0.7]}


def _row(number: int, model: str, said: str, **more: Any) -> dict[str, Any]:
    usd = {"small": 0.001, "large": 0.01}[model]
    row = {"task": "colours", "prompt_id": f"p{number}", "model": f"x/{model}", "prompt": f"Item {number}?"}
    return {**row, "response": said, "cost_usd": usd, "latency_s": usd * 100, "logprob": SURE, **more}


def _run(tmp_path: Path, rows: list[dict[str, Any]], candidate: Candidate, **settings: Any) -> Backtest:
    settings.setdefault("policies", make_policy())
    return backtest("colours", write_rows(tmp_path / "r.jsonl", rows), candidate, **settings)


FOUR = [
    _row(1, "small", "red", label="red", feature="inbox"),
    _row(1, "large", "red", label="red", feature="inbox"),
    _row(2, "small", "green", label="blue", feature="inbox", logprob=UNSURE),
    _row(2, "large", "blue", label="blue", feature="inbox"),
    _row(3, "small", "red", label="blue", feature="chat"),
    _row(3, "large", "blue", label="blue", feature="chat"),
    _row(4, "small", "green", label="green"),
    _row(4, "large", "blue", label="green"),
]


def test_figures_are_those_of_a_calculation_by_hand(tmp_path: Path) -> None:
    """Four calls, one of which climbs now: always the top costs 10 a call in place of 3.5, one better and one worse."""
    found = _run(tmp_path, FOUR, Candidate(top=True))
    assert (found.calls, found.total.calls, found.left_out) == (4, 4, ())
    assert found.total.cost_usd[:4] == pytest.approx((4, 0.0035, 0.01, 0.0065))
    assert found.total.cost_share is not None
    assert found.total.cost_share.change == pytest.approx(6.5 / 3.5)
    assert found.total.quality[:4] == (4, 0.75, 0.75, 0.0)
    assert found.total.latency_s[:4] == pytest.approx((4, 0.35, 1.0, 0.65))
    assert found.total.p95_latency_s == pytest.approx((1.1, 1.0))
    assert found.total.escalated[:4] == (4, 0.25, 0.0, -0.25)
    assert (found.total.changed, found.total.better, found.total.worse) == (2, 1, 1)
    assert [(one.line, one.before.model, one.after.model, one.after.quality) for one in found.changed] == [
        (5, "small", "large", 1.0),
        (7, "small", "large", 0.0),
    ]
    assert [(one.name, one.calls, one.quality.change) for one in found.features] == [
        ("inbox", 2, 0.0),
        ("chat", 1, 1.0),
        ("(none)", 1, -1.0),
    ]
    assert found.in_force.words == "ask small; keep its draft at confidence 0.800 or above; else ask large."
    assert found.candidate.words == "always ask large."


def test_what_is_in_force_is_played_as_it_was(tmp_path: Path, home: Path) -> None:
    """Prompts that come again, retries and climbs: each recorded call costs and answers what it did."""
    dice = Random(3)

    def small(_: Any) -> Reply | Failure:
        if dice.random() < 0.2:
            return Failure(Fault.RATE_LIMITED, status=429, retry_after_s=0.001)
        return Reply(dice.choice(LABELS), Usage(20, output_tokens=2), logprobs=(-dice.expovariate(3),))

    models = ScriptedModels(
        {"small": small, "large": lambda _: Reply(dice.choice(LABELS), Usage(30, output_tokens=dice.randint(1, 9)))}
    )
    policy = make_policy()
    with Router(policy, home=home, backend=models, record=tmp_path / "r.jsonl") as router:
        answers = [router.route("colours", f"Item {n % 17}?", feature="ab"[n % 2]) for n in range(60)]
    found = backtest("colours", tmp_path / "r.jsonl", Candidate(threshold=0.0), policies=policy)
    assert (found.calls, found.left_out) == (60, ())
    assert [(one.name, one.calls) for one in found.features] == [("a", 30), ("b", 30)]
    assert found.total.cost_usd.before == pytest.approx(sum(answer.cost_usd or 0.0 for answer in answers) / 60)
    assert found.total.escalated.before == sum(answer.escalated for answer in answers) / 60
    assert 0.0 < found.total.escalated.before < 1.0
    assert found.total.escalated.after == 0.0
    assert {one.call for one in found.changed} <= {answer.route_id for answer in answers if answer.escalated}


_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "small": st.sampled_from([*LABELS, "none of them"]),
            "large": st.sampled_from([*LABELS, None]),
            "label": st.sampled_from([*LABELS, None]),
            "feature": st.sampled_from(["inbox", "chat", None]),
            "logprob": st.sampled_from([SURE, UNSURE, None]),
            "latency_s": st.none() | st.floats(0, 9),
            "cost_usd": st.none() | st.floats(0, 0.1),
            "prompt": st.sampled_from(["Item 1?", "Item 2?", "Item 3?"]),
        }
    ),
    min_size=1,
    max_size=12,
)


def _rows_of(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for number, call in enumerate(calls):
        both = {name: call[name] for name in ("label", "feature", "logprob", "latency_s", "cost_usd", "prompt")}
        both = {name: value for name, value in both.items() if value is not None}
        rows += [_row(number, model, call[model], **both) for model in ("small", "large") if call[model]]
    return rows


@settings(max_examples=25, deadline=None)
@given(calls=_CALLS)
def test_the_same_plan_changes_exactly_nothing(calls: list[dict[str, Any]], tmp_path_factory: Any) -> None:
    """Whatever is recorded, two plans that are one differ by 0 with an interval of 0 in every figure that is known."""
    try:
        found = _run(tmp_path_factory.mktemp("r"), _rows_of(calls), Candidate(threshold=0.8))
    except RecordingError:  # No call has the answer that is needed.
        return
    for part in (found.total, *found.features):
        for measure in (part.cost_usd, part.quality, part.latency_s, part.escalated):
            assert measure.change in (None, 0.0)
            assert measure.interval in (None, (0.0, 0.0))
            assert measure.before == measure.after
        assert part.cost_share in (None, (0.0, None), (0.0, (0.0, 0.0)))
    assert found.changed == ()


@settings(max_examples=25, deadline=None)
@given(calls=_CALLS, threshold=st.sampled_from([0.0, 0.6, 1.0]))
def test_every_call_is_counted_once(calls: list[dict[str, Any]], threshold: float, tmp_path_factory: Any) -> None:
    """Calls are compared or left out with the model that is lacking, and those compared add up over the features."""
    try:
        found = _run(tmp_path_factory.mktemp("r"), _rows_of(calls), Candidate(threshold=threshold))
    except RecordingError as error:
        assert "x/large" in str(error)
        return
    assert found.total.calls + len(found.left_out) == found.calls == len(calls)
    assert found.lacking == ({"x/large": len(found.left_out)} if found.left_out else {})
    for name in ("calls", "changed", "better", "worse"):
        parts = [getattr(part, name) for part in found.features]
        assert not parts or sum(parts) == getattr(found.total, name)
    for measure in ("cost_usd", "quality", "latency_s", "escalated"):
        total, parts = getattr(found.total, measure), [getattr(part, measure) for part in found.features]
        if total.change is not None and parts:
            assert total.change == pytest.approx(sum(one.calls * (one.change or 0.0) for one in parts) / total.calls)


_OUTCOME = st.builds(
    Outcome,
    st.sampled_from(["small", "large", None]),
    st.sampled_from("abc"),
    st.none() | st.integers(0, 10**9),
    st.none() | st.floats(0, 1e5),
    st.none() | st.floats(0, 1),
    st.booleans(),
)
_PAIRS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", None]), _OUTCOME, _OUTCOME), min_size=1, max_size=20
)


@given(pairs=_PAIRS)
def test_the_other_way_round_everything_is_its_opposite(pairs: Any) -> None:
    """With the sides exchanged each change has the other sign, each interval is mirrored, and better means worse."""
    there, _ = compared(pairs, same=False)
    back, _ = compared([(unit, feature, new, old) for unit, feature, old, new in pairs], same=False)
    assert (there.better, there.worse, there.changed) == (back.worse, back.better, back.changed)
    for name in ("cost_usd", "quality", "latency_s", "escalated"):
        one, other = getattr(there, name), getattr(back, name)
        assert (one.before, one.after, one.calls) == (other.after, other.before, other.calls)
        if one.change is not None:
            assert one.change == pytest.approx(-other.change)
        if one.interval is not None:
            assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


@pytest.mark.parametrize("size", [1, 5], ids=["calls", "clusters"])
@pytest.mark.parametrize("units", [12, 300])
@pytest.mark.parametrize("bounded", [False, True], ids=["money", "quality"])
def test_intervals_cover_what_they_should(size: int, units: int, bounded: bool) -> None:
    """Of 2,000 samples of calls, alone or in clusters that err together, about 90 % have the true change within."""
    dice = np.random.default_rng(7)
    unit, covered = np.repeat(np.arange(units), size), 0
    for _ in range(2000):
        shared = np.repeat(dice.random(units), size)
        climbs = dice.random(units * size) < shared  # Those of a cluster are alike; half of them on average.
        change = np.where(climbs, dice.choice([-1.0, 0.0, 1.0], units * size, p=[0.2, 0.4, 0.4]), 0.0)
        found = interval_of_change(change, unit, within=1.0 if bounded else None)
        assert found is not None
        covered += found[0] <= 0.1 <= found[1]
    assert 0.87 <= covered / 2000 <= (1.0 if units == 12 and bounded else 0.93)  # Two made-up calls are many among 12.


def test_a_few_calls_that_do_not_change_are_no_certainty(tmp_path: Path) -> None:
    """Other thresholds may change the next call: ten without a change leave room, and one alone tells nothing."""
    rows = [_row(n, model, "red", label="red") for n in range(10) for model in ("small", "large")]
    found = _run(tmp_path, rows, Candidate(threshold=0.1))
    assert found.changed == ()
    assert found.total.quality.change == 0.0
    assert found.total.quality.interval == pytest.approx((-0.2, 0.2), abs=0.05)
    alone = _run(tmp_path, rows[:2], Candidate(top=True))
    assert alone.total.cost_usd.change == pytest.approx(0.009)
    assert alone.total.cost_usd.interval is None


def test_calls_of_one_cluster_err_together(tmp_path: Path) -> None:
    """Ten calls of two customers tell less than ten of ten, and a prompt that comes again is no new evidence."""
    rows = [
        _row(n, model, "red" if model == "large" or n < 5 else "blue", label="red", meta={"customer": n // 5, "own": n})
        for n in range(10)
        for model in ("small", "large")
    ]

    def width(**task: Any) -> float:
        interval = _run(tmp_path, rows, Candidate(top=True), policies=make_policy(**task)).total.quality.interval
        assert interval is not None
        return interval[1] - interval[0]

    assert width(cluster="customer") > 1.5 * width(cluster="own")
    assert width(cluster="own") == width() == width(cluster="unheard-of")
    for row in rows:
        row["prompt"] = f"Item {row['meta']['customer']}?"
    assert width() == width(cluster="customer")


def test_a_call_is_given_its_own_rows(tmp_path: Path) -> None:
    """A prompt that came twice had two answers: where only the second call climbs, it gets that call's answer."""
    rows = [
        _row(1, "small", "green", route_id="a", prompt="Item?"),
        _row(1, "large", "red", route_id="a", prompt="Item?"),
        _row(2, "small", "green", route_id="b", prompt="Item?", logprob=UNSURE),
        _row(2, "large", "blue", route_id="b", prompt="Item?"),
    ]
    found = _run(tmp_path, rows, Candidate(threshold=0.8), policies=make_policy(threshold=1.0))
    assert [one.call for one in found.changed] == ["a"]
    alone = _run(tmp_path, rows[1:], Candidate(threshold=0.8), policies=make_policy(threshold=1.0))
    assert (alone.total.calls, alone.left_out) == (2, ())  # Any answer to the same prompt is better than none.


def test_a_panel_needs_an_answer_for_each_time_that_it_asks(tmp_path: Path) -> None:
    """Samples are given in their order, whatever the file's; one answer is never taken for two that agree."""
    models = make_policy().models
    warm = {**models, "small": replace(models["small"], params={"temperature": 1.0})}
    plain = make_policy()
    twice = replace(plain.tasks["colours"], ladder=(PanelRung(panel=("small", "small")), "large"))
    panel = Policy(1, warm, {"colours": twice})
    rows = [
        _row(1, "small", "green", name="small#2"),
        _row(1, "small", "red", name="small"),
        _row(1, "large", "blue", name="large"),
        _row(2, "small", "red", name="small"),
        _row(2, "large", "blue", name="large"),
        _row(3, "small", "red", name="small"),
        _row(3, "small", "red", name="small#2"),
    ]
    found = _run(tmp_path, rows, Candidate(panel), policies=Policy(1, warm, plain.tasks))
    assert found.candidate.words == (
        "ask small, then small#2; keep what most say at confidence 0.800 or above; else ask large."
    )
    assert [(one.before.said, one.after.said) for one in found.changed] == [("red", "blue")]
    assert [(one.line, one.model) for one in found.left_out] == [(4, "x/small")]
    assert found.left_out[0].why.endswith("(a panel asks it again, and one answer of it would agree with itself)")


def test_a_retry_is_played_from_another_call_too(tmp_path: Path) -> None:
    """Where a call has no answer of its own, that of another call to the same prompt is given with its retries."""
    failed = {name: value for name, value in _row(1, "large", "").items() if name != "response"}
    rows = [
        _row(1, "small", "green", route_id="a", prompt="Item?"),
        {**failed, "route_id": "b", "prompt": "Item?", "error": {"fault": "rate_limited"}},
        _row(2, "large", "blue", route_id="b", prompt="Item?"),
    ]
    found = _run(tmp_path, rows, Candidate(top=True))
    assert [(one.before.said, one.after.said) for one in found.changed] == [("green", "blue")] * 2


def test_a_deadline_cuts_off_what_was_slow(tmp_path: Path) -> None:
    """Recorded latencies pass without waiting: a candidate with less time gets no answer where it took longer."""
    rows = [_row(1, "small", "red", label="red"), _row(2, "small", "red", label="red", latency_s=50.0)]
    found = _run(tmp_path, rows, Candidate(make_policy(deadline_s=5.0)))
    assert found.total.unanswered == (0, 1)
    assert found.total.quality[:4] == (2, 1.0, 0.5, -0.5)
    assert found.total.latency_s.before == pytest.approx(25.05)
    assert found.total.latency_s.after == pytest.approx(2.55)


def test_what_is_unknown_is_unknown(tmp_path: Path) -> None:
    """Without labels, latencies and prices there is no figure, never a 0; the answers that change are counted."""
    rows = [
        {
            "model": f"x/{model}",
            "prompt": f"Item {n}?",
            "response": "red" if n or model == "small" else "blue",
            "logprob": SURE,
        }
        for n in range(3)
        for model in ("small", "large")
    ]
    data = policy_data()
    for model in data["models"].values():
        del model["price"]
    policies = tmp_path / "p.yml"
    policies.write_text(json.dumps(data), encoding="utf-8")
    found = _run(tmp_path, rows, Candidate(top=True), policies=policies)
    unknown = (0, None, None, None, None)
    assert found.total.cost_usd == found.total.quality == found.total.latency_s == unknown
    assert (found.total.p95_latency_s, found.total.cost_share) == (None, None)
    assert (found.total.calls, found.total.changed) == (3, 1)


def test_shared_budgets_do_not_hold_a_replay(tmp_path: Path) -> None:
    """A recording is paid for already, so that a day's budget stops no call of it."""
    tight = make_policy()
    task = replace(tight.tasks["colours"], budget=Budget(usd_per_day=Decimal("0.000001")))
    found = _run(tmp_path, FOUR, Candidate(replace(tight, tasks={"colours": task})))
    assert found.total.unanswered == (0, 0)
    assert found.total.cost_usd.change == 0.0


def test_a_model_without_any_answer_is_named(tmp_path: Path) -> None:
    """A candidate that asks a model which is not recorded is refused with the model, the count and the remedy."""
    rows = [row for row in FOUR if row["model"] == "x/small" and row["logprob"] is SURE]
    with pytest.raises(RecordingError) as caught:
        _run(tmp_path, rows, Candidate(threshold=1.0))
    assert str(caught.value).startswith(
        f"{tmp_path}/r.jsonl: holds no answer of 'x/large', which the candidate asks in 3 of 3 calls; it has answers "
        "of x/small. Record that model on these prompts"
    )
    with pytest.raises(RecordingError, match="which what is in force asks in 1 of 1 calls"):
        _run(tmp_path, FOUR[2:3], Candidate(threshold=0.0))


def test_calls_that_lack_an_answer_are_left_out_and_named(tmp_path: Path) -> None:
    """What is not recorded is never made up: the call is left out on both sides, with line, model and reason."""
    found = _run(tmp_path, FOUR[:5], Candidate(top=True))
    assert (found.calls, found.total.calls) == (3, 2)
    (one,) = found.left_out
    assert (one.line, one.model) == (5, "x/large")
    assert one.why.startswith("no answer of 'x/large' is recorded (it holds one of 'x/small': record this model too")
    assert found.lacking == {"x/large": 1}


def test_another_system_text_is_another_request(tmp_path: Path) -> None:
    """Answers to an old system text say nothing of a new one, whether it was changed, added or taken away."""
    rows = [{**row, "system": "Be brief."} for row in FOUR]
    asked = make_policy(system="Be brief.")
    assert _run(tmp_path, rows, Candidate(top=True), policies=asked).total.calls == 4
    assert _run(tmp_path, rows, Candidate(top=True)).total.calls == 4  # The callers' own, then.
    for other in ("Be kind.", None):
        with pytest.raises(RecordingError, match="in each of its calls") as caught:
            _run(tmp_path, rows, Candidate(make_policy(system=other)), policies=asked)
        assert "with another system text" in str(caught.value)
        assert "Item" not in str(caught.value)


def test_other_parameters_are_noted(tmp_path: Path) -> None:
    """Where the candidate would ask a recorded model otherwise, the result says that its answers may differ."""
    base = make_policy()
    warm = replace(base, models={**base.models, "small": replace(base.models["small"], params={"temperature": 1})})
    assert _run(tmp_path, FOUR, Candidate(base)).notes == ()
    (note,) = _run(tmp_path, FOUR, Candidate(warm)).notes
    assert note.startswith("the candidate asks 'small' with other model_params than were in force")
    (note,) = _run(tmp_path, [*FOUR, {**FOUR[0], "task": "other"}], Candidate(top=True)).notes
    assert note == "1 rows of other tasks are left out: other"


def test_calls_with_tools_are_left_out(tmp_path: Path) -> None:
    """Which tools a call offered is not recorded, so that no plan can be held to it."""
    tool = {"id": "c", "name": "look", "arguments": "{}"}
    found = _run(tmp_path, [*FOUR, _row(5, "small", "", tool_calls=[tool])], Candidate(top=True))
    assert [(one.line, one.model, one.why) for one in found.left_out] == [
        (9, None, "a model called tools, and which it was offered is not recorded")
    ]
    assert found.total.calls == 4


def test_labels_may_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    """They are found by the prompt and graded; a file that has none of the prompts is refused."""
    rows = [{name: value for name, value in row.items() if name != "label"} for row in FOUR]
    labels = [EvalRow("Item 2?", "blue"), EvalRow("Item 3?", "blue"), EvalRow("Item 99?", "red")]
    found = _run(tmp_path, rows, Candidate(top=True), labels=labels)
    assert found.total.quality[:4] == (2, 0.5, 1.0, 0.5)
    with pytest.raises(RecordingError, match="none of its prompts is among the 1 labelled ones"):
        _run(tmp_path, rows, Candidate(top=True), labels=labels[2:])


def test_a_recorded_mark_counts_unless_a_grader_is_named(tmp_path: Path) -> None:
    """Somebody who marked the answers knew more than a comparison with a label."""
    rows = [{**row, "score": 0.25} for row in FOUR]
    assert _run(tmp_path, rows, Candidate(top=True)).total.quality.before == 0.25
    graded = _run(tmp_path, rows, Candidate(top=True), grader="exact")
    assert graded.total.quality.before == 0.75
    own = _run(tmp_path, rows, Candidate(top=True), grader=lambda text, label: 0.5)
    assert own.total.quality.before == 0.5


def test_the_verdicts_of_a_judge_count_and_are_named(tmp_path: Path) -> None:
    """An eval run that a judge graded: its verdicts are the quality, which the result says; a grader reads labels."""
    said: dict[str, Any] = {"name": "judge", "grader": "judge"}
    rows = []
    for row in FOUR:
        name, red = row["model"].removeprefix("x/"), row["response"] == "red"
        rows.append({**row, "name": name, "grader": "judge", "quality": None})
        verdict = {"judges": name, "quality": float(red), "prompt": [{"role": "user", "content": "Is it right?"}]}
        rows.append({**row, **said, "model": "x/judge", "response": "{}", **verdict})
    found = _run(tmp_path, rows, Candidate(top=True))
    assert found.total.quality[:4] == (4, 0.5, 0.25, -0.25)
    assert found.notes == ("quality is what a judge said of the answers, not whether they are right",)
    graded = _run(tmp_path, rows, Candidate(top=True), grader="choice")
    assert (graded.total.quality.before, graded.notes) == (0.75, ())


def test_a_tuned_file_and_a_threshold_under_a_tuned_plan(tmp_path: Path) -> None:
    """A tuned file is tried under the policy in force; a threshold is that of the policy's ladder, without the plan."""
    rows = recorded(600)
    policies = write_policy(tmp_path / "policies")
    served = [{**row, "model_served": f"{row['model']}-2026"} for row in rows]
    run = write_rows(tmp_path / "runs" / "colours.jsonl", served)
    tuned = tune_task("colours", run, policies=policies).write()
    plain = _run(tmp_path, rows, Candidate(make_policy()), policies=policies)
    aside = _run(tmp_path, rows, Candidate(threshold=0.8), policies=policies)
    assert plain.in_force.force == "tuned"
    assert plain.candidate.force == aside.candidate.force == "policy"
    assert plain.total == aside.total
    assert plain.total.quality.calls == 600
    assert plain.notes == ()  # Who served a row that does not say it is no reason to call the plan stale.
    others = [{**row, "model_served": "x/other"} for row in rows]
    with pytest.warns(RouterWarning, match="the eval run never saw"):
        (note,) = _run(tmp_path, others, Candidate(threshold=0.8), policies=policies).notes
    assert note.startswith("what is in force: the tuned plan is stale: model 'small' was served by 'x/other'")
    kept = tuned.rename(tmp_path / "kept.json")
    back = _run(tmp_path, rows, Candidate(kept), policies=policies)
    assert (back.in_force.force, back.candidate.force) == ("policy", "tuned")
    assert back.total.cost_usd.before == plain.total.cost_usd.after
    assert back.total.cost_usd.after == plain.total.cost_usd.before
    with pytest.raises(InvalidCall, match=r"gone\.json is no file"):
        _run(tmp_path, rows, Candidate(tmp_path / "gone.json"))


def test_own_signals_are_read_as_in_production(tmp_path: Path) -> None:
    """A plan that was tuned with a signal of the application's own is played with it, and noted where it is lacking."""
    rows = recorded(600)
    right = {(row["prompt"], row["response"]) for row in rows if row["correct"]}
    for row in rows:
        row.pop("logprob")

    def own(prompt: str, draft: str) -> float:
        return float((prompt, draft) in right)

    policies = write_policy(tmp_path / "policies", answer={"text": {}})
    run = write_rows(tmp_path / "runs" / "colours.jsonl", rows)
    tuned = tune_task("colours", run, policies=policies, signals={"stars": own})
    tuned.write()
    found = _run(tmp_path, rows, Candidate(threshold=0.8), policies=policies, signals={"stars": own})
    assert (found.in_force.force, found.notes) == ("tuned", ())
    with pytest.warns(RouterWarning, match="stars"):
        lacking = _run(tmp_path, rows, Candidate(threshold=0.8), policies=policies)
    assert lacking.in_force.force == "top"
    assert lacking.notes[0].startswith("what is in force: ")


def test_a_group_is_known_from_the_row(tmp_path: Path) -> None:
    """A plan with groups asks what it asks in production: the metadata of the recorded call chooses."""
    rows = recorded(900, models=("small", "large"))
    for row in rows:  # The small model is good at German only.
        if row["model"] == "x/small" and row["meta"]["language"] == "en":
            row["correct"] = 0
    policies = write_policy(tmp_path / "policies", group="language")
    run = write_rows(tmp_path / "runs" / "colours.jsonl", rows)
    tune_task("colours", run, policies=policies).write()
    found = _run(tmp_path, rows, Candidate(top=True), policies=policies)
    assert found.in_force.words.startswith("language de: ask small")
    assert found.in_force.words.endswith("any other language: always ask large.")
    in_german = {row["prompt_id"] for row in rows if row["meta"]["language"] == "de"}
    kept = {one.call.partition("/")[2] for one in found.changed if one.before.model == "small"}
    assert kept
    assert kept <= in_german


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "holds no call of task 'colours'; record some"),
        ([{**FOUR[0], "task": "shapes"}], "holds no call of task 'colours'; it has calls of shapes"),
        ([{**FOUR[0], "score": float("nan")}], "r.jsonl:1: has the mark nan; a mark is a number"),
        ([{**FOUR[0], "cost_usd": 10**400}], "r.jsonl:1: this line has a 'cost_usd' that cannot be used"),
        ([{**FOUR[0], "latency_s": 1e300}], "r.jsonl:1: this line has a 'latency_s' that cannot be used"),
        ([*FOUR, FOUR[1]], "r.jsonl:9: answers a prompt of 'x/large' a second time; delete one of the rows"),
        ([{**FOUR[0], "score": [1]}], "r.jsonl:1: has the mark [1]; a mark is a number"),
        ([FOUR[0], {"model": "x/large", "prompt": "p"}], "r.jsonl:2: this line has neither 'response' nor 'error'"),
    ],
)
def test_a_recording_that_cannot_be_used_says_where(rows: list[Any], problem: str, tmp_path: Path) -> None:
    """Empty, of another task, with a mark that is none, or with half a row: the file, the line, and what to do."""
    with pytest.raises(RecordingError) as caught:
        _run(tmp_path, rows, Candidate(top=True))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (("small", "large"), "3 are given for a ladder of 2 rungs; give 1"),
        (("small", "mid", "mini", "large"), "2 are given for a ladder of 4 rungs; give 1 for all, or 3: one for each"),
    ],
)
def test_as_many_thresholds_as_the_ladder_takes(models: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """The message says how many, whatever the length of the ladder."""
    task = replace(make_policy().tasks["colours"], ladder=models)
    policy = Policy(1, {name: Model(f"x/{name}") for name in models}, {"colours": task})
    given = [0.5] * int(says[0])
    with pytest.raises(InvalidCall, match=f"threshold: {says}"):
        _run(tmp_path, FOUR, Candidate(threshold=given), policies=policy)


def test_what_cannot_be_tried_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates, a threshold that is none, a task that only one side has, models of one name, the switch."""
    with pytest.raises(InvalidCall, match="give one thing to try"):
        Candidate(threshold=0.5, top=True)
    with pytest.raises(InvalidCall, match="give one thing to try"):
        Candidate()
    for threshold, problem in ((1.5, "no confidence"), (float("nan"), "no confidence"), ([0.1, 0.2], "2 are given")):
        with pytest.raises(InvalidCall, match=problem):
            _run(tmp_path, FOUR, Candidate(threshold=threshold))
    base = make_policy()
    with pytest.raises(UnknownTask, match="unknown task 'colours'"):
        _run(tmp_path, FOUR, Candidate(replace(base, tasks={"other": base.tasks["colours"]})))
    twins = Policy(1, {**base.models, "large": Model(litellm="x/small")}, base.tasks)
    with pytest.raises(PolicyError, match="'small' and 'large' are both 'x/small'"):
        _run(tmp_path, FOUR, Candidate(twins))
    for grader in ("disagreement", "judge"):
        with pytest.raises(InvalidCall, match=f"'{grader}' is none for a backtest"):
            _run(tmp_path, FOUR, Candidate(top=True), grader=grader)
    monkeypatch.setenv("ROUTER_DISABLE", "top")
    with pytest.raises(PolicyError, match="ROUTER_DISABLE: sends every call to the top rung"):
        _run(tmp_path, FOUR, Candidate(threshold=0.5))


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """A folder with policies and a recording of four calls."""
    write_policy(Path("policies"))
    write_rows(Path("r.jsonl"), FOUR)
    return cli


def test_the_command_shows_both_sides_and_the_change(shop: Cli) -> None:
    """One table of all calls, one by feature, what is answered otherwise, and nothing of prompts or answers."""
    done = shop("backtest", "colours", "--recording", "r.jsonl", "--top", "--show", 1)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:4] == [
        "colours: 4 calls of r.jsonl",
        "in force:  ask small; keep its draft at confidence 0.800 or above; else ask large.",
        "candidate: always ask large.",
        "",
    ]
    told = {re.split("  +", line)[0]: re.split("  +", line)[1:] for line in lines[5:]}
    assert told["cost of a call"][:3] == ["4", "$0.003500", "$0.0100"]
    assert told["cost of a call"][3].startswith("+185.7% (")
    assert told["quality"][:3] == ["4", "75.0%", "75.0%"]
    assert told["latency, p95"] == ["4", "1.100 s", "1.000 s"]
    assert told["chat"][:2] == ["1", "+900.0% (too few calls)"]
    assert lines[-2:] == [
        "2 of 4 calls are answered otherwise: 1 better, 1 worse, 0 as good or unknown",
        "  line 5: small (0) -> large (1)",
    ]
    assert "Item" not in done.out


def test_json_has_everything_but_prompts_and_answers(shop: Cli) -> None:
    """Every figure with its interval, the calls that change, and those that are left out."""
    write_rows(Path("r.jsonl"), FOUR[:5])
    found = shop("backtest", "colours", "--recording", "r.jsonl", "--top", "--json").json
    assert (found["calls"], found["total"]["calls"], found["lacking"]) == (3, 2, {"x/large": 1})
    assert found["total"]["cost_usd"]["before"] == pytest.approx(0.006)
    assert found["total"]["cost_share"]["change"] == pytest.approx(4 / 6)
    assert found["features"][0]["name"] == "inbox"
    assert found["left_out"][0]["line"] == 5
    assert found["in_force"]["force"] == "policy"
    assert "Item" not in json.dumps(found)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--recording", "r.jsonl"), "say what to try"),
        (("--recording", "r.jsonl", "--top", "--threshold", "0.5"), "say what to try"),
        (("--recording", "r.jsonl", "--threshold", "high"), "'high' is no number"),
        (("--recording", "gone.jsonl", "--top"), "gone.jsonl: cannot be read"),
        (("--recording", "small.jsonl", "--top"), "holds no answer of 'x/large'"),
        (("--recording", "r.jsonl", "--candidate", "gone"), "gone: is not there"),
        (("--recording", "r.jsonl", "--candidate", "gone.json"), "gone.json is no file"),
    ],
)
def test_bad_input_exits_2(shop: Cli, arguments: tuple[str, ...], problem: str) -> None:
    """What is wrong, where, and the remedy; with --json as a document too."""
    write_rows(Path("small.jsonl"), FOUR[::2])
    done = shop("backtest", "colours", *arguments, "--json")
    assert done.code == 2
    assert problem in " ".join(done.err.replace("│", " ").split())
    assert done.json["error"]["exit_code"] == 2
