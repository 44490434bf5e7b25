"""Tuned artefacts: what is read from `tuned/<task>.json`, and how each fault is told."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from router.core.calibration import Calibrator
from router.core.policy import Model, Policy, Task
from router.errors import PolicyError
from router.spec import Tuned, load_tuned
from tests.strategies import calibrators

POLICY = Policy(1, {"small": Model("a/small"), "large": Model("a/large")}, {"t": Task(("small", "large"))})

CALIBRATOR = {
    "signals": ["lp_mean", "invalid"],
    "center": [-0.5, 0],
    "scale": [0.25, 1],
    "weights": [2, -1.5],
    "intercept": 0.5,
}
VALID: dict[str, Any] = {
    "version": 1,
    "task": "t",
    "models": [{"model": "small", "litellm": "a/small", "calibrators": [CALIBRATOR]}],
}
WHERE = "models.0.calibrators.0"


def write(folder: Path, content: Any) -> Path:
    """Write the artefact of task `t`: data, or text as it is."""
    path = folder / "tuned" / "t.json"
    path.parent.mkdir(exist_ok=True)
    raw = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    path.write_bytes(raw)
    return path


def changed(**fields: Any) -> dict[str, Any]:
    """The valid artefact with other fields at the top."""
    return {**copy.deepcopy(VALID), **fields}


def entry(**fields: Any) -> dict[str, Any]:
    """The valid artefact with other fields of its model."""
    return changed(models=[{**VALID["models"][0], **fields}])


def calibrator(**fields: Any) -> dict[str, Any]:
    """The valid artefact with other fields of its calibrator."""
    return entry(calibrators=[{**CALIBRATOR, **fields}])


def test_a_task_that_was_not_tuned_has_no_artefact(tmp_path: Path) -> None:
    """A missing file is no fault: the task works on the prior."""
    assert load_tuned(tmp_path, "t", POLICY) is None


def test_an_artefact_gives_the_calibrators_of_each_model(tmp_path: Path) -> None:
    """The numbers arrive as they were written, and the source names the file's content."""
    digest = hashlib.sha256(write(tmp_path, VALID).read_bytes()).hexdigest()[:12]
    expected = Calibrator(("lp_mean", "invalid"), (-0.5, 0.0), (0.25, 1.0), (2.0, -1.5), 0.5)
    path = str(tmp_path / "tuned" / "t.json")
    assert load_tuned(tmp_path, "t", POLICY) == Tuned({"small": (expected,)}, f"tuned:{digest}", path=path)


def test_an_artefact_may_say_where_it_comes_from(tmp_path: Path) -> None:
    """Provenance is kept and not used; null parts are not set."""
    write(tmp_path, changed(provenance={"run": "r1", "rows": 512}, plan=None, certificate=None))
    assert load_tuned(tmp_path, "t", POLICY) is not None


def test_another_content_is_another_source(tmp_path: Path) -> None:
    """An answer's `confidence_source` changes with the numbers behind it."""
    write(tmp_path, VALID)
    one = load_tuned(tmp_path, "t", POLICY)
    write(tmp_path, calibrator(intercept=0.75))
    two = load_tuned(tmp_path, "t", POLICY)
    assert one is not None
    assert two is not None
    assert one.source != two.source


@dataclass(frozen=True)
class Bad:
    """An artefact that is refused, where, and in which words."""

    content: Any
    says: str
    where: str = ""


BAD = {
    "other_task": Bad(changed(task="u"), "belongs to task 'u', not to 't'; tune that task", "task"),
    "other_version": Bad(
        changed(version=2), "should be 1, found 2; restore the file, or delete it and tune the task again", "version"
    ),
    "no_models": Bad({"version": 1, "task": "t"}, "'models' is missing; add it", "models"),
    "unknown_key": Bad(
        changed(thresholds=[0.5]), "unknown key 'thresholds'; another release wrote the file: delete it", "thresholds"
    ),
    "plan": Bad(changed(plan={}), "'rungs' is missing; add it", "plan.rungs"),
    "certificate": Bad(
        changed(certificate={"n": 1}), "'max_quality_loss' is missing; add it", "certificate.max_quality_loss"
    ),
    "unknown_model": Bad(entry(model="smal"), "unknown model 'smal'; did you mean 'small'?", "models.0"),
    "other_litellm_model": Bad(
        entry(litellm="a/older"),
        "was fitted on 'a/older', but 'small' is now 'a/small'; tune the task again",
        "models.0",
    ),
    "no_calibrator": Bad(
        entry(calibrators=[]), "should have at least 1 item, not 0; restore the file", "models.0.calibrators"
    ),
    "unknown_signal": Bad(
        calibrator(signals=["lp_men", "invalid"]), "unknown signal 'lp_men'; did you mean 'lp_mean'?", "models.0"
    ),
    "signal_twice": Bad(calibrator(signals=["invalid", "invalid"]), "signals names one signal twice", WHERE),
    "too_few_weights": Bad(calibrator(weights=[1]), "weights has 1 numbers for 2 signals", WHERE),
    "too_many_centers": Bad(calibrator(center=[1, 2, 3]), "center has 3 numbers for 2 signals", WHERE),
    "too_few_scales": Bad(calibrator(scale=[]), "scale has 0 numbers for 2 signals", WHERE),
    "scale_zero": Bad(calibrator(scale=[1, 0]), "scale must be above 0", WHERE),
    "one_knot": Bad(
        calibrator(knots_x=[0.5], knots_y=[0.5]),
        "knots_x and knots_y must be equally long, with no knot or at least two",
        WHERE,
    ),
    "knots_of_two_lengths": Bad(
        calibrator(knots_x=[0, 1], knots_y=[0, 0.5, 1]),
        "knots_x and knots_y must be equally long, with no knot or at least two",
        WHERE,
    ),
    "knots_x_descend": Bad(calibrator(knots_x=[1, 0], knots_y=[0, 1]), "knots_x must ascend", WHERE),
    "knots_x_tie": Bad(calibrator(knots_x=[0.5, 0.5], knots_y=[0, 1]), "knots_x must ascend", WHERE),
    "knots_y_descend": Bad(
        calibrator(knots_x=[0, 1], knots_y=[0.75, 0.5]), "knots_y must ascend within 0 and 1", WHERE
    ),
    "knots_y_above_1": Bad(calibrator(knots_x=[0, 1], knots_y=[0.5, 1.5]), "knots_y must ascend within 0 and 1", WHERE),
    "number_as_text": Bad(
        calibrator(intercept="0.5"), "should be a valid number, found '0.5'; restore the file", f"{WHERE}.intercept"
    ),
    "nan": Bad(json.dumps(calibrator(intercept=float("nan"))), "should be a finite number", f"{WHERE}.intercept"),
    "infinity": Bad(
        json.dumps(calibrator(weights=[1, float("-inf")])), "should be a finite number", f"{WHERE}.weights.1"
    ),
    "overflow": Bad(json.dumps(VALID).replace("0.25", "1e999"), "should be a finite number", f"{WHERE}.scale.0"),
    "no_object": Bad([], "should be an object; restore the file, or delete it and tune the task again"),
    "broken_json": Bad(
        '{"version": 1', "is no JSON (EOF while parsing an object at line 1 column 13); restore it, or delete it"
    ),
    "empty": Bad("", "is no JSON (EOF while parsing a value at line 1 column 0)"),
    "not_utf_8": Bad(b'{"version": "\xff"}', "is no JSON (invalid unicode code point at line 1 column 14)"),
    "too_large": Bad(" " * 1_024_001, "is larger than 1,024,000 bytes; it was not written by the tuner"),
    "too_deep": Bad("[" * 100_000, "is no JSON (recursion limit exceeded at"),
}


@pytest.mark.parametrize("bad", [pytest.param(bad, id=name) for name, bad in BAD.items()])
def test_a_fault_is_told_with_file_and_place(tmp_path: Path, bad: Bad) -> None:
    """An artefact that cannot be used is refused whole: a wrong number decides silently."""
    path = write(tmp_path, bad.content)
    with pytest.raises(PolicyError) as caught:
        load_tuned(tmp_path, "t", POLICY)
    error = caught.value
    told = ": ".join(part for part in (str(path), bad.where, bad.says) if part)
    assert str(error)[: len(told)] == told
    assert (error.path, error.where, error.line) == (str(path), bad.where, None)


def test_an_artefact_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Only a missing file means that the task was not tuned."""
    (tmp_path / "tuned" / "t.json").mkdir(parents=True)
    with pytest.raises(PolicyError, match=r"t\.json: cannot be read"):
        load_tuned(tmp_path, "t", POLICY)


@pytest.mark.parametrize(
    "change",
    [lambda p: {**p, "center": (float("nan"),)}, lambda p: {**p, "intercept": float("inf")}],
    ids=["nan", "infinity"],
)
def test_a_calibrator_built_in_python_is_finite_too(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The dataclass itself refuses what no score can come from."""
    parts: dict[str, Any] = {
        "signals": ("invalid",),
        "center": (0.0,),
        "scale": (1.0,),
        "weights": (1.0,),
        "intercept": 0.0,
    }
    with pytest.raises(ValueError, match="holds a number that is not finite"):
        Calibrator(**change(parts))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all examples of a law share."""
    return tmp_path_factory.mktemp("law")


@given(st.lists(calibrators(), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_calibrators_survive_a_round_trip(place: Path, fitted: list[Calibrator]) -> None:
    """What the tuner writes as JSON is read back to the last bit."""
    written = TypeAdapter(list[Calibrator]).dump_python(fitted, mode="json")
    write(place, entry(calibrators=written))
    tuned = load_tuned(place, "t", POLICY)
    assert tuned is not None
    assert tuned.calibrators == {"small": tuple(fitted)}


@given(st.binary(max_size=100) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused(place: Path, content: bytes) -> None:
    """No file raises anything but PolicyError."""
    write(place, content)
    with pytest.raises(PolicyError):
        load_tuned(place, "t", POLICY)
