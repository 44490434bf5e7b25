"""The application's own signals: registered by name, kept where they pay, and never able to take a call down."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from router import Router, RouterWarning
from router.cli.app import app
from router.core.signals import read_own
from router.errors import InvalidCall, PolicyError
from router.models.replay import Replay
from router.own_signals import BUILT_IN, LARGEST, guarded_signals
from router.testing import capture
from router.tuning import Eval, EvalRow, TaskTuning, check_tuned, load_run, simulate, tune_task
from tests.tuning_support import Row, recorded, write_policy, write_rows

Sign = Callable[[str, str], Any]


def stars(prompt: str, draft: str) -> float | None:
    """How many stars a draft has; nothing of a draft without one."""
    return float(draft.count("*")) if "*" in draft else None


def noise(prompt: str, draft: str) -> float:
    """What says nothing."""
    return float(len(prompt) % 7)


def starred(count: int, *, seed: int = 3) -> list[Row]:
    """Rows without log-probabilities, whose drafts have two stars when they are right and one when they are wrong."""
    rows, dice = recorded(count, seed=seed), Random(seed)
    for row in rows:
        row.pop("logprob")
        right = bool(row["correct"]) != (dice.random() < 0.03)
        row["response"] += " **" if right else " *"
    return rows


def policy_of(folder: Path, **task: Any) -> Path:
    """A policy folder whose answers are any text."""
    return write_policy(folder, answer={"text": {}}, target={"max_quality_loss": 0.04, "at_confidence": 0.9}, **task)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> TaskTuning:
    """A task tuned with one signal that tells and one that does not, and written."""
    place = tmp_path_factory.mktemp("own")
    run = write_rows(place / "run.jsonl", starred(1200))
    found = tune_task("colours", run, policies=policy_of(place / "policies"), signals={"stars": stars, "noise": noise})
    assert found.tuning.certified, found.tuning.refusal
    found.write()
    return found


def folder_of(tuned: TaskTuning) -> Path:
    """The policies that it was written beside."""
    assert tuned.folder is not None
    return tuned.folder


def test_a_signal_that_pays_is_bound_to_and_one_that_does_not_is_left_out(tuned: TaskTuning) -> None:
    """The certificate names what its plan reads; the rest is told and costs calls nothing."""
    assert tuned.certificate is not None
    assert tuned.certificate.binds_to["own_signals"] == ["stars"]
    assert tuned.idle_signals == ("noise",)


def test_calls_read_what_the_plan_needs_and_do_what_tuning_computed(tuned: TaskTuning) -> None:
    """On unseen rows `route`, the simulation and the tuner agree; what does not pay is not called."""
    called: list[str] = []

    def counted(prompt: str, draft: str) -> float:
        called.append(draft)
        return 0.0

    unseen = starred(200, seed=9)
    path = write_rows(folder_of(tuned).parent / "unseen.jsonl", unseen)
    run = load_run(path, "colours", policies=folder_of(tuned), signals={"stars": stars})
    expected = [run.models[at] for at in tuned.tuning.apply(run).answered]
    with Router(folder_of(tuned), backend=Replay(unseen), signals={"stars": stars, "noise": counted}) as router:
        assert run.prompts is not None
        answers = [router.route("colours", prompt) for prompt in run.prompts]
        plan = router.plan("colours")
    assert [answer.model for answer in answers] == expected
    assert [run.models[at] for at in simulate(plan, run).model] == expected
    assert {answer.steps[0].signals["stars"] for answer in answers} == {1.0, 2.0}
    assert {"small", "large"} == set(expected)
    assert not called


def test_a_plan_is_stale_without_a_signal_that_it_reads(tuned: TaskTuning) -> None:
    """Calls then ask the top rung, and one warning names the signal and what to do."""
    rows = starred(3)
    with Router(folder_of(tuned), backend=Replay(rows), signals={"noise": noise}) as router:
        with pytest.warns(
            RouterWarning, match=r"'stars', which it reads, is not registered with `Router\(signals="
        ) as seen:
            answer = router.route("colours", rows[0]["prompt"])
        assert (answer.model, router.plan("colours").standing.stale) == ("large", True)
    assert len(seen) == 1


def test_a_kept_plan_climbs_where_a_signal_is_missing(tuned: TaskTuning, tmp_path: Path) -> None:
    """`on_stale: keep` follows the plan; a draft without a signal that no training row lacked is not kept."""
    folder = policy_of(tmp_path / "policies", on_stale="keep")
    (folder / "tuned").mkdir()
    (folder / "tuned" / "colours.json").write_bytes((folder_of(tuned) / "tuned" / "colours.json").read_bytes())
    rows = starred(3)
    with Router(folder, backend=Replay(rows)) as router, pytest.warns(RouterWarning, match="it is kept"):
        answer = router.route("colours", rows[0]["prompt"])
    assert answer.steps[0].reason == "the draft lacks signals that the tuned plan needs"


def test_without_the_functions_a_run_is_tuned_and_checked_by_what_it_holds(tmp_path: Path) -> None:
    """An eval stores its signals, so that the command line needs no code: it shows what a process must register."""
    folder, rows = policy_of(tmp_path / "policies"), starred(900)
    asked = [EvalRow(row["prompt"], row["reference"]) for row in rows if row["model"] == "x/small"]
    done = Eval(
        "colours",
        asked,
        tmp_path / "run.jsonl",
        policies=folder,
        backend=Replay(rows),
        home=tmp_path / "home",
        grader=lambda answer, label: float(answer.split()[0] == label),
        signals={"stars": stars},
    ).run()
    stored = [json.loads(line) for line in done.path.read_text().splitlines()]
    assert {row["signals"]["stars"] for row in stored} == {1.0, 2.0}

    found = CliRunner().invoke(app, ["tune", "colours", "--run", str(done.path), "--policies", str(folder), "--write"])
    assert found.exit_code == 0, found.output
    assert "It reads your own signals (stars)" in found.output
    told = CliRunner().invoke(app, ["check", "--policies", str(folder)])
    assert "note: task 'colours': the tuned plan reads your own signals (stars)" in told.output
    assert "in force for colours: the tuned plan" in told.output
    told = CliRunner().invoke(app, ["tune", "--check", "--policies", str(folder)])
    assert told.exit_code == 0, told.output
    assert check_tuned("colours", policies=folder, signals={})[0].standing.stale
    assert not check_tuned("colours", policies=folder, signals={"stars": stars})[0].findings


def test_a_run_that_lacks_a_signal_gets_it_from_its_texts(tmp_path: Path) -> None:
    """What the file has counts; where it has nothing, or what is no number, the function is asked."""
    rows = starred(30)
    rows[0]["signals"] = {"stars": 7.0}
    rows[2]["signals"] = {"stars": "many", "lines": 3.0, "a b": 1.0}
    folder, path = policy_of(tmp_path / "policies"), write_rows(tmp_path / "run.jsonl", rows)
    run = load_run(path, "colours", policies=folder, signals={"stars": stars})
    assert run.own_signals == {"stars"}
    assert run.signals["small"]["stars"].tolist().count(7.0) == 1
    assert set(run.signals["small"]["stars"].tolist()) == {1.0, 2.0, 7.0}
    assert load_run(path, "colours", policies=folder).own_signals == {"stars"}


def test_a_tuned_file_may_name_a_registered_signal(tuned: TaskTuning, tmp_path: Path) -> None:
    """Calibrators without a certificate say nothing of what they bind to, so an unknown name is refused as before."""
    content = json.loads((folder_of(tuned) / "tuned" / "colours.json").read_text())
    for part in ("plan", "certificate", "served", "digest"):
        content.pop(part, None)
    folder = policy_of(tmp_path / "policies")
    (folder / "tuned").mkdir()
    (folder / "tuned" / "colours.json").write_text(json.dumps(content))
    rows = starred(3)
    with Router(folder, backend=Replay(rows), signals={"stars": stars}) as router:
        assert "stars" in router.route("colours", rows[0]["prompt"]).steps[0].signals
    with Router(folder) as router, pytest.raises(PolicyError, match="unknown signal 'stars'"):
        router.plan("colours")


def _raises(prompt: str, draft: str) -> float:
    raise ValueError(f"the secret prompt: {prompt}")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_raises, "raised ValueError"),
        (lambda prompt: 1.0, "raised TypeError"),
        (lambda prompt, draft: math.nan, "gave NaN"),
        (lambda prompt, draft: -math.inf, "gave a number beyond"),
        (lambda prompt, draft: 10**400, "raised OverflowError"),
        (lambda prompt, draft: True, "gave a bool, not a number"),
        (lambda prompt, draft: np.True_, "gave a bool, not a number"),
        (lambda prompt, draft: "high", "gave a str, not a number"),
        (lambda prompt, draft: Decimal(1), "gave a Decimal, not a number"),
        (lambda prompt, draft: [1.0], "gave a list, not a number"),
    ],
)
def test_what_is_no_number_is_a_missing_signal(function: Sign, says: str) -> None:
    """One warning for each signal names it and never carries a text; an event tells of each time."""
    read = guarded_signals({"tone": function})
    with capture() as events, pytest.warns(RouterWarning, match=f"your signal 'tone' {says}") as caught:
        assert [read_own(read, "my secret", "draft") for _ in range(3)] == [{}] * 3
    assert len(caught) == 1
    assert "secret" not in str(caught[0].message) + str(events)
    assert [event["event"] for event in events] == ["router.hook_failed"] * 3


def test_a_call_goes_on_without_a_signal_that_fails(tuned: TaskTuning) -> None:
    """Even where warnings are errors: the draft is not kept, the next rung answers."""
    rows = starred(3)
    with (
        warnings.catch_warnings(action="error"),
        Router(folder_of(tuned), backend=Replay(rows), signals={"stars": _raises}) as router,
    ):
        answer = router.route("colours", rows[0]["prompt"])
    assert answer.model == "large"
    assert "stars" not in answer.steps[0].signals


@given(st.floats(-LARGEST, LARGEST) | st.integers(-(10**15), 10**15) | st.none())
def test_every_number_is_taken_as_it_is(value: float | None) -> None:
    """Of Python or of numpy; `None` says nothing, and warns of nothing."""
    for given_value in (value, None if value is None else np.float64(value)):
        with warnings.catch_warnings(action="error"):
            found = read_own(guarded_signals({"x": lambda prompt, draft: given_value}), "p", "d")  # noqa: B023
        assert found == ({} if value is None else {"x": float(value)})


async def _later(prompt: str, draft: str) -> float:
    return 1.0


TAKEN = ("invalid", "lines", "draft_words", "panel_votes")


@pytest.mark.parametrize(
    ("signals", "says"),
    [
        *(({name: stars}, "is a built-in signal; choose another name") for name in TAKEN),
        ({"two words": stars}, "cannot be a name"),
        ({"": stars}, "cannot be a name"),
        ({"x" * 65: stars}, "cannot be a name"),
        ({7: stars}, "cannot be a name"),
        ({"tone": 1.0}, "'tone' is a float; give a function"),
        ({"tone": _later}, "'tone' is async; give a plain function"),
    ],
)
def test_what_cannot_be_a_signal_is_refused_at_once(tmp_path: Path, signals: Any, says: str) -> None:
    """By `Router` and by an eval, before anything is asked."""
    folder = policy_of(tmp_path / "policies")
    with pytest.raises(InvalidCall, match=says):
        Router(folder, signals=signals)
    with pytest.raises(InvalidCall, match=says):
        Eval(
            "colours",
            [EvalRow("a", "red"), EvalRow("b", "blue")],
            tmp_path / "run.jsonl",
            policies=folder,
            signals=signals,
        )


def test_every_built_in_name_is_taken() -> None:
    """No function can stand in for what a calibrator means by a name of ours."""
    for name in BUILT_IN:
        with pytest.raises(InvalidCall, match="is a built-in signal"):
            guarded_signals({name: stars})
