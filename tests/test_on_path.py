"""A tuned artefact on the path: what `route` does with it on untouched rows is what tuning computed, call by call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from router import Router, load_policy
from router.core.answer import Answer
from router.core.binding import binding
from router.core.judge import QUESTIONS
from router.core.tuned import TunedPlan, TunedRung
from router.models.recording import read_recording
from router.models.replay import Replay
from router.spec import write_artefact
from router.tuning import EvalRun, Tuner, load_run, simulate, tune_task
from router.tuning.plans import Fitted, Heads
from router.tuning.result import Applied, Tuning
from router.tuning.rows import prompt_id
from tests.tuning_support import DATA, LABELS, policy_data, recorded, write_policy, write_rows

Row = dict[str, Any]


def _split(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Whole prompts for tuning and whole prompts that it never sees."""
    prompts = sorted({row["prompt_id"] for row in rows})
    chosen = np.random.default_rng(7).permutation(len(prompts))[: round(share * len(prompts))]
    inside = {prompts[at] for at in chosen}
    return [row for row in rows if row["prompt_id"] in inside], [row for row in rows if row["prompt_id"] not in inside]


def _in_order(rows: Sequence[Row], run: EvalRun) -> list[Row]:
    """One row for each prompt, in the order of the run; prompts that are copies stand in the order of their ids."""
    first = {row["prompt_id"]: row for row in reversed(rows)}
    found = sorted(first.values(), key=lambda row: (prompt_id(row["prompt"]), f"{row['task']}/{row['prompt_id']}"))
    assert [prompt_id(row["prompt"]) for row in found] == run.row_ids.tolist()
    return found


def _messages(row: Row) -> list[dict[str, str]]:
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, {"role": "user", "content": row["prompt"]}]


def _follow(folder: Path, tmp_path: Path, task: str, rows: list[Row], key: str | None = None) -> None:
    """Tune on one part of the rows, route the other, and compare every call with what the tuning says of it."""
    tuning_rows, untouched = _split(rows, 0.7)
    tuned = tune_task(task, write_rows(tmp_path / "tuning.jsonl", tuning_rows), policies=folder)
    assert tuned.tuning.certified, tuned.tuning.refusal
    tuned.write()

    run = load_run(write_rows(tmp_path / "untouched.jsonl", untouched), task, policies=folder)
    expected = tuned.tuning.apply(run)
    prompts = _in_order(untouched, run)
    assert 0.0 < expected.escalated.mean() < 1.0, "the plan is no cascade, so that this test shows nothing"
    with Router(folder, backend=Replay(untouched)) as router:
        assert router.plan(task).standing.force == "tuned"
        answers = [
            router.route(task, _messages(row), metadata={key: row["meta"][key]} if key else None) for row in prompts
        ]
    names = [run.models[model] for model in expected.answered]
    kept = [at for at, answer in enumerate(answers) if answer.steps[-1].action == "keep"]
    same = [at for at in range(run.rows) if at not in kept]
    assert [answers[at].model for at in same] == [names[at] for at in same]
    assert [answer.cost_nusd for answer in answers] == [round(cost) for cost in expected.cost_nusd]
    assert [answer.escalated for answer in answers] == expected.escalated.tolist()
    # Where the last rung's answer is unusable the call keeps a usable draft, which tuning counts as lost: never worse.
    quality = np.array([float(answer.response["correct"]) for answer in answers])
    loss = run.quality[:, -1] - quality
    assert loss[same].tolist() == expected.loss[same].tolist()
    assert (loss <= expected.loss).all()
    assert {answer.confidence_source for answer in answers} <= {router.plan(task).rungs[0].confidence_source}


@pytest.mark.parametrize("models", [("small", "large"), ("tiny", "small", "large")], ids=["pair", "three"])
def test_route_does_what_tuning_computed(tmp_path: Path, models: tuple[str, ...]) -> None:
    """Model, cost, escalation and loss of every untouched call, on made-up data."""
    folder = write_policy(tmp_path / "policies", models)
    _follow(folder, tmp_path, "colours", recorded(1500, models=models))


def test_route_follows_the_plan_of_each_group(tmp_path: Path) -> None:
    """The same with a plan for each value of a metadata key."""
    folder = write_policy(tmp_path / "policies", group="language", target={"max_quality_loss": 0.08})
    _follow(folder, tmp_path, "colours", recorded(3000), key="language")


def _same(made: Tuning, run: EvalRun, folder: Path, rows: Sequence[Row]) -> tuple[Applied, list[Answer]]:
    """Follow a plan that was written in calls, in columns and row by row, and compare everything that each says."""
    expected, models = made.apply(run), list(run.models)
    drafts = [row for row in rows if row.get("about") is None]
    with Router(folder, backend=Replay(rows)) as router:
        plan = router.plan("colours")
        assert plan.standing.force == "tuned"
        answers = [router.route("colours", row["prompt"]) for row in _in_order(drafts, run)]
    simulated = simulate(plan, run)
    assert simulated.model.tolist() == [models.index(answer.model) for answer in answers]
    assert [round(cost) for cost in simulated.cost_nusd] == [answer.cost_nusd for answer in answers]
    assert simulated.escalated.tolist() == [answer.escalated for answer in answers]
    kept = np.array([answer.steps[-1].action == "keep" for answer in answers])
    assert (expected.answered[~kept] == simulated.model[~kept]).all()
    assert np.allclose(expected.cost_nusd, simulated.cost_nusd)
    assert (expected.escalated == simulated.escalated).all()
    return expected, answers


MADE = {
    "gain": (TunedRung("small", 0.45, by="gain"), TunedRung("large")),
    "gate": (TunedRung("small", 0.6, gate=0.8), TunedRung("large")),
    "comparison": (TunedRung("tiny"), TunedRung("small", 0.8), TunedRung("large")),
    "three": (TunedRung("tiny", 0.9), TunedRung("small", 0.7), TunedRung("large")),
    "lower_pair": (TunedRung("tiny", 0.7), TunedRung("small")),
    "outer_pair": (TunedRung("tiny", 0.7), TunedRung("large")),
    "middle_alone": (TunedRung("small"),),
    "panel": (TunedRung("tiny", 0.8, panel=("small",)), TunedRung("large")),
    "panel_by_gain": (TunedRung("tiny", 0.45, by="gain", panel=("small",)), TunedRung("large")),
    "panel_given_up": (TunedRung("tiny", 0.8, panel=("small",), low=0.65), TunedRung("large")),
    "panel_gated": (TunedRung("tiny", 0.8, gate=0.62, panel=("small",)), TunedRung("large")),
}


@pytest.mark.parametrize("failing", ["tiny", "small"])
@pytest.mark.parametrize("name", MADE)
def test_what_a_failed_answer_leads_to_is_charged(tmp_path: Path, name: str, failing: str) -> None:
    """The rung that is asked in place of a plan's last one, and the climb of a panel that lacks a member."""
    models = ("tiny", "small", "large")
    folder = write_policy(tmp_path / "policies", models)
    lost = {"error": {"fault": "context_too_long", "status": 400}, "cost_usd": 0.0}
    known = ("task", "prompt_id", "model", "prompt", "reference", "meta")
    rows = [
        {key: row[key] for key in known} | lost if _fails(row, failing) else row for row in recorded(400, models=models)
    ]
    made, run = _made(MADE[name], folder, write_rows(tmp_path / "run.jsonl", rows))
    expected = made.apply(run)
    with Router(folder, backend=Replay(rows)) as router:
        answers = [router.route("colours", row["prompt"]) for row in _in_order(rows, run)]
        simulated = simulate(router.plan("colours"), run)
    assert [round(cost) for cost in expected.cost_nusd] == [answer.cost_nusd for answer in answers]
    assert np.allclose(expected.cost_nusd, simulated.cost_nusd)


def _fails(row: Row, model: str) -> bool:
    return row["model"] == f"x/{model}" and int(row["prompt_id"][1:]) % 25 == 0


PANEL = ("tiny", "judge:mid", "small", "p_true:tiny")
ASKED = {
    "question": (TunedRung("tiny", 0.8, panel=PANEL[1:2]), TunedRung("large")),
    "question_by_gain": (TunedRung("tiny", 0.45, by="gain", panel=PANEL[1:2]), TunedRung("large")),
    "question_and_member": (TunedRung("tiny", 0.9, panel=PANEL[1:3]), TunedRung("large")),
    "question_given_up": (TunedRung("tiny", 0.9, panel=PANEL[1:3], low=0.5), TunedRung("large")),
    "two_questions": (TunedRung("tiny", 0.9, panel=PANEL[1:]), TunedRung("large")),
    "without_its_question": (TunedRung("tiny", 0.8, panel=PANEL[2:3]), TunedRung("large")),
}


def _questions(rows: Sequence[Row]) -> list[Row]:
    """What a judge and the first model itself say of its drafts: mostly right, at times nonsense or nothing at all."""
    found: list[Row] = []
    for number, row in enumerate(row for row in rows if row["model"] == "x/tiny" and row["response"] in LABELS):
        dice = Random(f"question {number}")
        right = (row["response"] == row["reference"]) == (dice.random() < 0.85)
        said = {"judge:mid": '{"draft_grade": %s}' % (0.9 if right else 0.2), "p_true:tiny": "yes" if right else "no"}
        for key, text in said.items():
            kind, _, model = key.partition(":")
            system, user = QUESTIONS[kind].messages(({"role": "user", "content": row["prompt"]},), row["response"])
            reply: Row = {"response": "I would rather not say." if dice.random() < 0.1 else text}
            if dice.random() < 0.05:
                reply = {"error": {"fault": "bad_request", "status": 400}, "cost_usd": 0.0}
            found.append(
                {
                    "name": key,
                    "about": "tiny",
                    "model": f"x/{model}",
                    "prompt_id": row["prompt_id"],
                    "task": row["task"],
                    "system": system["content"],
                    "prompt": user["content"],
                    "cost_usd": round(0.00005 * dice.uniform(0.8, 1.2), 9),
                    "latency_s": 0.1,
                    **reply,
                }
            )
    return found


@pytest.mark.parametrize("name", ASKED)
def test_every_panel_with_a_question_is_followed(tmp_path: Path, name: str) -> None:
    """Flow, vectorised tuning and simulation agree on what a question adds, what it costs and where it says nothing."""
    models = ("tiny", "small", "large")
    members = ["tiny", {"judge": "mid"}, "small", {"p_true": "tiny"}]
    data = policy_data(models, ladder=[{"panel": members}, "large"])
    data["models"]["mid"] = {"litellm": "x/mid", "price": data["models"]["tiny"]["price"]}
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "policy.yml").write_text(json.dumps(data), encoding="utf-8")
    drafts = recorded(400, models=models)
    rows = [*drafts, *_questions(drafts)]
    run = load_run(write_rows(tmp_path / "run.jsonl", rows), "colours", policies=folder)
    assert run.panels == (PANEL,)
    asked = run.questions["judge:mid"]
    assert 0.8 < asked.answered.mean() < 1.0
    assert 0.02 < np.isnan(asked.value[asked.answered]).mean() < 0.2
    tuner = Tuner(run)
    found = tuner.tune(0.1, at_confidence=0.8)
    fits, columns = tuner.trained, tuner.trained.train.names
    heads = {
        model: Heads((fits.confidence(at).calibrator,), (fits.last(at, 2).calibrator,))
        for at, model in enumerate(models)
    }
    keys = [key for rung in ASKED[name] for key in rung.keys][:-1]
    states = [tuple(keys[:size]) for size in range(2, len(keys) + 1)]
    places = {state: tuple(columns.index(key) for key in state) for state in states}
    panels = {
        state: Heads((fits.panel(at).calibrator,), (fits.panel(at, 2).calibrator,)) for state, at in places.items()
    }
    made = replace(found, plan=TunedPlan(ASKED[name]), fitted=Fitted(heads, panels))
    if made.certificate is None:
        made = replace(made, certificate=Tuner(run).tune(0.6, at_confidence=0.6).certificate)
    litellm = {model: f"x/{model}" for model in models}
    write_artefact(folder, made.artefact(litellm, binds_to=binding(load_policy(folder), "colours")))
    expected, answers = _same(made, run, folder, rows)
    assert 0.02 < expected.escalated.mean() < 0.98
    with_question = name != "without_its_question"
    assert with_question == any(attempt.model == "mid" for answer in answers for attempt in answer.attempts)


def _made(rungs: tuple[TunedRung, ...], folder: Path, path: Path) -> tuple[Tuning, EvalRun]:
    """A plan of these rungs over three models, fitted on this run and written."""
    models = ("tiny", "small", "large")
    run = load_run(path, "colours", policies=folder)
    tuner = Tuner(run)
    found = tuner.tune(0.1, at_confidence=0.8)
    fits = tuner.trained
    heads = {
        model: Heads(
            (*((fits.confidence(at, at - 1).calibrator,) if at else ()), fits.confidence(at).calibrator),
            (fits.last(at, 2).calibrator,),
            (fits.prompt(at).calibrator,),
        )
        for at, model in enumerate(models)
    }
    state = fits.panel((0, 1)), fits.panel((0, 1), 2)
    panels: dict[tuple[str, ...], Heads] = {("tiny", "small"): Heads((state[0].calibrator,), (state[1].calibrator,))}
    made = replace(found, plan=TunedPlan(rungs), fitted=Fitted(heads, panels))
    litellm = {model: f"x/{model}" for model in models}
    write_artefact(folder, made.artefact(litellm, binds_to=binding(load_policy(folder), "colours")))
    return made, run


@pytest.mark.parametrize("name", MADE)
def test_every_kind_of_plan_is_followed(tmp_path: Path, name: str) -> None:
    """Flow, vectorised tuning and row-by-row simulation agree on gates, gains, comparisons and skipped rungs."""
    models = ("tiny", "small", "large")
    folder = write_policy(tmp_path / "policies", models)
    rows = recorded(400, models=models)
    made, run = _made(MADE[name], folder, write_rows(tmp_path / "run.jsonl", rows))
    expected, _ = _same(made, run, folder, rows)
    assert len(MADE[name]) == 1 or 0.02 < expected.escalated.mean() < 0.98 or MADE[name][0].threshold is None


PAIRS = {
    "mz_mmlu": (("gpt-4o-mini", "gpt-4o"), {"choice": ["A", "B", "C", "D"]}, None),
    "mz_triviaqa": (("gpt-4o-mini", "gpt-4o"), {"text": {}}, None),
    "openqa_tokprob_dev": (("gemma-2-2b-it", "gemma-2-27b-it"), {"text": {}}, "triviaqa_direct"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_route_does_what_tuning_computed_on_recorded_answers(tmp_path: Path, name: str) -> None:
    """The same on answers of real models."""
    path = DATA / name / "records.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the recorded answers are not in {DATA}")
    models, answer, task = PAIRS[name]
    rows = list(read_recording(path, models=models, task=task))
    whole = {row["prompt_id"] for row in rows if row["model"] == models[0]}
    rows = [row for row in rows if row["prompt_id"] in whole]
    policy = {
        "version": 1,
        "models": {model: {"litellm": model} for model in models},
        "tasks": {
            "t": {"ladder": models, "answer": answer, "target": {"max_quality_loss": 0.05, "at_confidence": 0.9}}
        },
    }
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "p.yml").write_text(json.dumps(policy))
    _follow(folder, tmp_path, "t", rows)
