"""Eval runs from files: what counts as a row, which grade holds, and every fault with its remedy."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import Router
from router.core.call import Reply
from router.core.evidence import read_evidence
from router.core.views import View
from router.errors import RecordingError, TuningError, UnknownTask
from router.models.replay import Replay
from router.testing import ScriptedModels
from router.tuning import Eval, EvalRow, load_columns, load_run
from router.tuning.rows import prompt_id
from tests.tuning_support import DATA, make_policy, policy_data, recorded, write_rows

Row = dict[str, Any]
ROWS = recorded(60)


def run_of(tmp_path: Path, rows: list[Row], **more: Any) -> Any:
    """The run of task `colours` from these rows."""
    given = {"policies": make_policy(), **more}
    return load_run(write_rows(tmp_path / "run.jsonl", rows), "colours", **given)


def in_order(model: str, rows: list[Row] = ROWS) -> list[Row]:
    """The rows of one model in the order of a run: that of the prompts' digests."""
    return sorted((row for row in rows if row["model"] == f"x/{model}"), key=lambda row: prompt_id(row["prompt"]))


def changed(at: int, **columns: Any) -> list[Row]:
    """The rows with other columns in one of them."""
    return [{**row, **columns} if index == at else row for index, row in enumerate(ROWS)]


def test_a_recording_becomes_a_run(tmp_path: Path) -> None:
    """Marks, costs and answers by model in the order of the ladder, rows in the order of their ids."""
    run = run_of(tmp_path, ROWS)
    assert (run.rows, run.models, run.label_source) == (60, ("small", "large"), "labels")
    by_model = [in_order(name) for name in run.models]
    assert run.quality.T.tolist() == [[float(row["correct"]) for row in rows] for rows in by_model]
    assert run.cost_nusd.T.tolist() == [[round(row["cost_usd"] * 1e9) for row in rows] for rows in by_model]
    said = [[row["response"] if row["response"] != "I cannot say." else None for row in rows] for rows in by_model]
    assert run.answers.T.tolist() == said
    assert run.provenance["served"] == {"small": ["x/small"], "large": ["x/large"]}


def test_signals_are_those_of_production(tmp_path: Path) -> None:
    """Whatever `route` reads off the same answer stands in the run."""
    run = run_of(tmp_path, ROWS)
    with Router(make_policy(threshold=0.0), backend=Replay(ROWS)) as router:
        for at, row in enumerate(in_order("small")):
            signals = router.route("colours", row["prompt"]).steps[0].signals
            found = {name: column[at] for name, column in run.signals["small"].items()}
            closer = read_evidence(
                View(row["prompt"]),
                View(row["response"]),
                Reply(row["response"], None, logprobs=tuple(row["logprob"]["tok"])),
            )
            assert found == {**signals, **closer}


def test_rows_are_joined_whatever_their_order(tmp_path: Path) -> None:
    """By their prompt, or by `prompt_id` where there is one; the data's digest is the same."""
    one = run_of(tmp_path, ROWS)
    other = run_of(tmp_path, sorted(ROWS, key=lambda row: (row["model"], row["prompt_id"][::-1])))
    bare = run_of(tmp_path, [{name: row[name] for name in row if name != "prompt_id"} for row in ROWS])
    for again in (other, bare):
        assert again.data_hash == one.data_hash
        assert again.row_ids.tolist() == one.row_ids.tolist()
        assert again.quality.tolist() == one.quality.tolist()


def test_another_label_is_other_data(tmp_path: Path) -> None:
    """The digest is of rows and labels; answers asked anew are the same data."""
    one = run_of(tmp_path, ROWS).data_hash
    relabelled = [{**row, "reference": "red"} if row["prompt_id"] == "p0" else row for row in ROWS]
    assert run_of(tmp_path, relabelled).data_hash != one
    assert run_of(tmp_path, changed(0, response="blue", cost_usd=1.0)).data_hash == one


@pytest.mark.parametrize(
    ("columns", "quality"),
    [
        ({"correct": 0}, 0.0),
        ({"correct": None, "score": 0.25}, 0.25),
        ({"correct": 0, "quality": 0.5}, 0.5),
        ({"correct": None, "response": "red", "reference": "red"}, 1.0),
        ({"correct": None, "response": "blue", "label": "red"}, 0.0),
    ],
)
def test_the_grade_that_is_there_counts(tmp_path: Path, columns: Row, quality: float) -> None:
    """`quality`, then `correct`, then `score`; without any of them the label decides."""
    run = run_of(tmp_path, changed(0, **columns))
    assert run.quality[run.row_ids.tolist().index(prompt_id(ROWS[0]["prompt"])), 0] == quality


def test_a_named_grader_grades_anew(tmp_path: Path) -> None:
    """An own function sees every answer with its label, whatever the marks say."""
    run = run_of(tmp_path, ROWS, grader=lambda text, label: text == label == "red")
    wanted = [float(row["response"] == row["reference"] == "red") for row in in_order("small")]
    assert run.quality[:, 0].tolist() == wanted


def test_copies_share_an_id(tmp_path: Path) -> None:
    """Two rows with one prompt never straddle a split: tuning sees that they are copies."""
    prompts = {"p0": ROWS[0]["prompt"], "p1": ROWS[0]["prompt"]}
    run = run_of(tmp_path, [{**row, "prompt": prompts.get(row["prompt_id"], row["prompt"])} for row in ROWS])
    assert (run.rows, len(set(run.row_ids))) == (60, 59)


def test_group_and_cluster_come_from_metadata(tmp_path: Path) -> None:
    """By the keys that the task names."""
    run = run_of(tmp_path, ROWS, policies=make_policy(group="language", cluster="customer"))
    small = in_order("small")
    assert run.group.tolist() == [row["meta"]["language"] for row in small]
    assert run.cluster.tolist() == [row["meta"]["customer"] for row in small]


def test_rows_that_a_model_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    """Only rows that every model was asked for can be compared."""
    run = run_of(tmp_path, ROWS[:-1])
    assert (run.rows, run.provenance["incomplete_rows"]) == (59, 1)


def test_prompts_that_production_refuses_are_left_out(tmp_path: Path) -> None:
    """A prompt beyond the task's own limit never reaches a model, so that it says nothing of them."""
    rows = [
        EvalRow("item " * (30 if number == 3 else 1) + str(number), "red" if number % 2 else "blue")
        for number in range(20)
    ]
    policy = make_policy(max_input_tokens=20)
    backend = ScriptedModels({"small": "red", "large": "blue"})
    path = Eval("colours", rows, tmp_path / "run.jsonl", policies=policy, backend=backend).run().path
    run = load_run(path, "colours", policies=policy)
    assert (run.rows, run.provenance["refused_rows"]) == (19, 1)


def test_compressed_recordings_are_read(tmp_path: Path) -> None:
    """`.gz` as everywhere."""
    path = tmp_path / "run.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    assert load_run(path, "colours", policies=make_policy()).rows == 60


FAULTS: dict[str, tuple[list[Row], dict[str, Any], type[Exception], str]] = {
    "no_label": (
        [{name: row[name] for name in row if name not in ("correct", "reference")} for row in ROWS],
        {},
        RecordingError,
        r"run\.jsonl:1: has neither a mark .* nor a `label`",
    ),
    "mark_above_1": (changed(4, correct=2), {}, RecordingError, r"run\.jsonl:5: has the mark 2; a mark is a number"),
    "mark_as_text": (changed(4, correct="yes"), {}, RecordingError, r"run\.jsonl:5: has the mark 'yes'"),
    "mark_nan": (changed(4, correct=math.nan), {}, RecordingError, r"run\.jsonl:5: has the mark nan"),
    "half_a_character": (
        changed(4, prompt="\ud83d x"),
        {},
        RecordingError,
        r"run\.jsonl:5: has a 'prompt' that holds something that no provider takes, such as half of a surrogate",
    ),
    "row_twice": ([*ROWS, ROWS[0]], {}, RecordingError, r"run\.jsonl:121: answers a prompt of 'small' a second time"),
    "no_key": (
        [{name: row[name] for name in row if name not in ("prompt", "prompt_id")} for row in ROWS],
        {},
        RecordingError,
        "has neither 'prompt_id' nor 'prompt'",
    ),
    "other_models": (
        ROWS,
        {"policies": make_policy(("tiny", "large"))},
        TuningError,
        "holds no answer of 'tiny'; it has answers of large, x/small",
    ),
    "no_group": (
        ROWS,
        {"policies": make_policy(group="tier")},
        RecordingError,
        "has no metadata 'tier', which `group:",
    ),
    "no_cluster": (
        ROWS,
        {"policies": make_policy(cluster="doc")},
        RecordingError,
        "has no metadata 'doc', which `clus",
    ),
    "unknown_task": (ROWS, {"task": "colors"}, UnknownTask, "unknown task 'colors'; did you mean 'colours'"),
}


@pytest.mark.parametrize(("rows", "more", "kind", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_a_run_is_told(
    tmp_path: Path, rows: list[Row], more: dict[str, Any], kind: type[Exception], says: str
) -> None:
    """Where it is, what is wrong and what to do."""
    given = {"task": "colours", "policies": make_policy(), **more}
    with pytest.raises(kind, match=says):
        load_run(write_rows(tmp_path / "run.jsonl", rows), **given)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"model": "x/small"\n{"model": "x/large"}\n', ":1: this line is no JSON; mend or delete it"),
        (b'{"model": "x/small", "prompt": "caf\xe9"}\n', ":1: this line is no JSON in UTF-8"),
        (b'{"prompt": "a"}\n', ":1: is no JSON object with a 'model'"),
        (b"[]\n", ":1: is no JSON object with a 'model'"),
    ],
)
def test_a_broken_file_is_told_by_line(tmp_path: Path, content: bytes, says: str) -> None:
    """A wrong encoding too."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        load_run(path, "colours", policies=make_policy())
    assert str(caught.value).startswith(f"{path}{says}")


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By its name, with the command that makes one."""
    with pytest.raises(RecordingError, match=r"none\.jsonl: there is no eval run; make one with `router eval"):
        load_run(tmp_path / "none.jsonl", "colours", policies=make_policy())


def test_columns_need_no_policy(tmp_path: Path) -> None:
    """Models by the names that the file has, and a recorded confidence as a signal."""
    rows = [{**row, "conf": 0.5} for row in ROWS]
    run = load_columns(write_rows(tmp_path / "t" / "r.jsonl", rows), ["x/small", "x/large"], group="language")
    assert (run.rows, run.task, run.models) == (60, "t", ("x/small", "x/large"))
    assert set(run.signals["x/small"]["conf"]) == {0.5}
    assert run.group is not None
    assert set(run.group.tolist()) == {"de", "en"}
    with pytest.raises(TuningError, match="holds no answer of 'x/tiny'"):
        load_columns(tmp_path / "t" / "r.jsonl", ["x/tiny", "x/large"])


def test_columns_may_have_marks_only(tmp_path: Path) -> None:
    """Without prompt and reply there is nothing to read off them, and nothing is made up."""
    keep = ("task", "prompt_id", "model", "correct", "cost_usd", "output_tokens", "input_tokens")
    rows = [{**{name: row[name] for name in keep}, "conf": 0.25} for row in ROWS]
    run = load_columns(write_rows(tmp_path / "r.jsonl", rows), ["x/small", "x/large"], task="colours")
    assert {model: sorted(own) for model, own in run.signals.items()} == {
        "x/small": ["conf", "output_tokens"],
        "x/large": ["conf", "output_tokens"],
    }
    assert run.prompt_signals == {}


@pytest.mark.parametrize(
    ("name", "models", "task", "rows"),
    [
        ("mz_mmlu", ["gpt-4o-mini", "gpt-4o"], None, 1813),
        ("mcqa_msp", ["Llama-2-13b-chat", "Llama-2-70b-chat"], "arc", 2590),
        ("bfcl_dev", ["claude-3-haiku-20240307", "claude-3-5-sonnet-20240620"], None, 876),
    ],
)
def test_recorded_sets_are_read(name: str, models: list[str], task: str | None, rows: int) -> None:
    """Every prompt of a set, with the accuracies of its own description."""
    path = DATA / name / "records.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the recorded answers are not in {DATA}")
    run = load_columns(path, models, task=task)
    assert run.rows == rows
    assert not np.isnan(run.quality).any()


def test_a_policy_file_can_be_given(tmp_path: Path) -> None:
    """Policies are found as `Router` finds them."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.yml").write_text(json.dumps(policy_data()))
    path = write_rows(tmp_path / "run.jsonl", ROWS)
    assert load_run(path, "colours", policies=tmp_path / "policies").rows == 60
