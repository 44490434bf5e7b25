"""Panels from eval to certificate: every member is asked for every row, the plan decides how many pay, calls follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from router import Router
from router.core.call import Call
from router.core.tuned import TunedPlan, TunedRung
from router.testing import ScriptedModels
from router.tuning import Eval, TaskTuning, load_run, tune_task
from router.tuning.report import page, report_of
from router.tuning.rows import EvalRow
from router.tuning.simulate import simulate

LABELS = ["red", "green", "blue"]
# How often each model is right, by itself: two weak ones whose errors have nothing to do with each other.
RIGHT = {"one": 0.75, "two": 0.75, "large": 0.97}
USD = {"one": 0.0001, "two": 0.0001, "large": 0.01}
ROWS = [EvalRow(f"Which colour has item {at}?", LABELS[at % 3], {}, "") for at in range(500)]


def said(call: Call, time: int = 0) -> str:
    """What a model says: the same to the same question, and something else when it is asked again."""
    prompt = str(call.messages[-1]["content"])
    dice = Random(f"{call.name} {time} {prompt}")
    label = LABELS[int(prompt.split()[-1].strip("?")) % 3]
    return label if dice.random() < RIGHT[call.name] else dice.choice([one for one in LABELS if one != label])


class Again:
    """A model that gives another answer each time that it is asked the same."""

    def __init__(self) -> None:
        self.times: dict[str, int] = {}

    def __call__(self, call: Call) -> str:
        prompt = str(call.messages[-1]["content"])
        self.times[prompt] = self.times.get(prompt, -1) + 1
        return said(call, self.times[prompt])


def folder(path: Path, panel: list[str], **task: Any) -> Path:
    """Policies with this panel below one large model."""
    path.mkdir(parents=True, exist_ok=True)
    free = {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}
    data = {
        "version": 1,
        "models": {name: {"litellm": f"x/{name}", "price": {**free, "request_usd": usd}} for name, usd in USD.items()},
        "tasks": {
            "t": {
                "ladder": [{"panel": panel}, "large"],
                "answer": {"choice": LABELS},
                "target": {"max_quality_loss": 0.1, "at_confidence": 0.9},
                **task,
            }
        },
    }
    (path / "p.yml").write_text(json.dumps(data), encoding="utf-8")
    return path


def models() -> ScriptedModels:
    """The models of this test."""
    return ScriptedModels({"one": Again(), "two": said, "large": said})


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskTuning]:
    """A panel of two, evaluated, tuned and written."""
    home = tmp_path_factory.mktemp("panel")
    policies = folder(home / "policies", ["one", "two"])
    Eval("t", ROWS, home / "run.jsonl", policies=policies, home=home / "home", backend=models()).run()
    found = tune_task("t", home / "run.jsonl", policies=policies)
    assert found.certificate is not None, found.tuning.refusal
    found.write()
    return policies, found


def test_a_panel_pays_where_single_drafts_say_nothing(tuned: tuple[Path, TaskTuning]) -> None:
    """Without log-probabilities no draft tells right from wrong; whether two agree does."""
    rungs = tuned[1].plan.rungs
    assert [rung.keys for rung in rungs] == [("one", "two"), ("large",)]
    certificate = tuned[1].certificate
    assert certificate is not None
    assert certificate.binds_to["panels"] == [["one", "two"]]
    assert certificate.statements["all"].cost < 0.6


def test_calls_do_what_the_tuned_panel_says(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """Model, cost and escalation of every row, and both drafts are paid for."""
    policies, _ = tuned
    run = load_run(policies.parent / "run.jsonl", "t", policies=policies)
    with Router(policies, home=tmp_path, backend=models()) as router:
        expected = simulate(router.plan("t"), run)
        by_id = {row.row_id: router.route("t", row.prompt) for row in ROWS[:80]}
    for at, row_id in enumerate(run.row_ids.tolist()):
        if row_id in by_id:
            answer = by_id[row_id]
            assert answer.model == run.models[expected.model[at]]
            assert answer.cost_nusd == round(expected.cost_nusd[at])
            assert answer.escalated == expected.escalated[at]
            assert answer.confidence_source.startswith("tuned:")


def test_the_report_shows_what_the_members_say_together(tuned: tuple[Path, TaskTuning]) -> None:
    """Confidence of the first draft and of the panel, each against what came of it."""
    report = report_of(tuned[1])
    assert [drafts.model for drafts in report.drafts] == ["one", "one + two"]
    assert report.drafts[1].quality is not None
    assert report.drafts[1].quality.auroc.value > 0.7
    assert "one + two" in page(tuned[1], report)
    assert tuned[1].shown.quality["one + two"].auroc.value == report.drafts[1].quality.auroc.value
    worth = {one.signal: one for one in report.drafts[1].signals}
    assert worth["panel_votes"].auroc_alone > 0.7


def test_a_panel_that_does_not_pay_is_named(tuned: tuple[Path, TaskTuning]) -> None:
    """Where the plan asks no second member, whoever wrote the panel learns that it was tried."""
    found = tuned[1]
    assert found.idle_panels == ()
    without = replace(found, tuning=replace(found.tuning, plan=TunedPlan((TunedRung("large"),))))
    assert without.idle_panels == (("one", "two"),)
    assert "The panel of one, two was tried and does not pay" in page(without, report_of(without))


def test_changing_the_panel_makes_its_certificate_stale(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """The plan that was certified is of another panel."""
    policies, _ = tuned
    other = folder(tmp_path / "policies", ["two", "one"])
    (other / "tuned").mkdir()
    (other / "tuned" / "t.json").write_bytes((policies / "tuned" / "t.json").read_bytes())
    with Router(other, home=tmp_path, backend=models()) as router, pytest.warns(UserWarning, match="the panels of"):
        standing = router.plan("t").standing
    assert (standing.force, standing.stale) == ("top", True)


def test_second_samples_are_evaluated_and_tuned_like_any_member(tmp_path: Path) -> None:
    """A row of the run for each sample, a calibrator for what both say, and a plan that may use them."""
    policies = folder(tmp_path / "policies", ["one", "one"])
    run = tmp_path / "run.jsonl"
    # One by one: which of two samples comes first would otherwise be chance.
    done = Eval("t", ROWS, run, policies=policies, home=tmp_path, backend=models(), concurrency=1).run()
    assert done.left == 0
    names = [json.loads(line)["name"] for line in run.read_text(encoding="utf-8").splitlines()]
    assert sorted(set(names)) == ["large", "one", "one#2"]
    again = Eval("t", ROWS, run, policies=policies, home=tmp_path, backend=models())
    assert again.estimate().requests == 0
    found = tune_task("t", run, policies=policies)
    assert found.certificate is not None, found.tuning.refusal
    assert found.plan.rungs[0].keys == ("one", "one#2")
    found.write()
    with Router(policies, home=tmp_path, backend=models()) as router:
        answers = [router.route("t", row.prompt) for row in ROWS[:20]]
        assert router.plan("t").standing.force == "tuned"
    asked = [[attempt.model for attempt in answer.attempts] for answer in answers]
    assert ["one", "one"] in asked
