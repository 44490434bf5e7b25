"""Graders: how good an answer is beside its label."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.checks import build_check
from router.core.policy import AnswerKind, NumberAnswer, TextAnswer
from router.errors import InvalidCall, TuningError
from router.tuning import GRADERS, build_grader
from router.tuning.graders import token_f1

CHOICE = AnswerKind(choice=("billing", "bug"))
NUMBER = AnswerKind(number=NumberAnswer())
JSON = AnswerKind(json={"type": "object"})
TEXT = AnswerKind(text=TextAnswer())
PATTERN = AnswerKind(pattern=r"INV-\d+")


def grade(kind: AnswerKind, text: str, label: Any, name: Any = None, **more: Any) -> float:
    """What a grader gives, built as an eval builds it."""
    return build_grader(name, kind, build_check(kind), **more).grade(text, label)


@pytest.mark.parametrize(
    ("kind", "text", "label", "expected"),
    [
        (CHOICE, "The category is: Billing.", "billing", 1.0),
        (CHOICE, "bug", "billing", 0.0),
        (CHOICE, "billing or bug?", "billing", 0.0),
        (NUMBER, "so it is 1,200.0", 1200, 1.0),
        (NUMBER, "so it is 1,200.0", "1,200", 1.0),
        (NUMBER, "1201", 1200, 0.0),
        (NUMBER, "none", 0, 0.0),
        (JSON, '{"a": 1, "b": 2}', {"a": 1, "b": 3}, 0.5),
        (JSON, 'Here: {"a": 1, "x": 9}', '{"a": 1}', 1.0),
        (JSON, "no", {"a": 1}, 0.0),
        (JSON, "[1, 2]", [1, 2], 0.0),  # The task asks for an object.
        (PATTERN, " INV-12 ", "INV-12", 1.0),
        (PATTERN, "INV-12", "INV-13", 0.0),
        (TEXT, "The cat sat", "the CAT sat!", 1.0),
        (TEXT, "a b", "b c", 0.5),
    ],
)
def test_the_default_follows_from_the_answer_kind(kind: AnswerKind, text: str, label: Any, expected: float) -> None:
    """A choice by its label, a number by its value, JSON by its fields, a pattern as it is, text by its words."""
    checked = AnswerKind(json={"type": "object"}) if kind is JSON else kind
    check = build_check(checked, schema=lambda value: "" if isinstance(value, dict) else "is no object")
    assert build_grader(None, kind, check).grade(text, label) == expected


@pytest.mark.parametrize(
    ("name", "text", "label", "more", "expected"),
    [
        ("exact", " yes\n", "yes", {}, 1.0),
        ("exact", "Yes", "yes", {}, 0.0),
        ("exact", "caf\u00e9", "cafe\u0301", {}, 1.0),
        ("pattern", "It costs 12 EUR.", r"\b12 (EUR|euros)", {}, 1.0),
        ("pattern", "It costs 120 EUR.", r"\b12 (EUR|euros)", {}, 0.0),
        ("f1", "", "", {}, 1.0),
        ("f1", "", "a", {}, 0.0),
    ],
)
def test_a_grader_can_be_named(name: str, text: str, label: Any, more: Any, expected: float) -> None:
    """Any of them on any task."""
    assert grade(TEXT, text, label, name, **more) == expected


def test_a_number_may_be_off_by_the_tolerance() -> None:
    """Exactly at the tolerance is right."""
    values = [grade(NUMBER, text, 10, tolerance=0.5) for text in ("10.5", "9.5", "10.51")]
    assert values == [1.0, 1.0, 0.0]


def test_json_may_be_graded_by_some_fields_only() -> None:
    """Nested ones by their dotted names; a field that the label lacks is never right."""
    text, label = '{"a": {"b": 1}, "c": 2, "d": null}', {"a": {"b": 1}, "c": 3, "d": None}
    assert grade(JSON, text, label, fields=("a.b",)) == 1.0
    assert grade(JSON, text, label, fields=("a.b", "c")) == 0.5
    assert grade(JSON, text, label, fields=("d",)) == 1.0
    assert grade(JSON, text, label, fields=("e",)) == 0.0


def test_an_own_function_grades() -> None:
    """It gets the answer's text and the label, and a yes counts as 1."""
    assert grade(TEXT, "abc", 2, lambda text, label: len(text) > label) == 1.0
    assert grade(TEXT, "abc", 0.25, lambda _, label: label) == 0.25


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_a_grade_is_within_0_and_1(value: float) -> None:
    """Anything else from an own function is refused."""
    with pytest.raises(TuningError, match="a grade is a number from 0"):
        grade(TEXT, "a", "a", lambda *_: value)


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("exakt", {}, "unknown grader 'exakt'; did you mean 'exact'"),
        ("number", {"tolerance": -1.0}, "tolerance: is -1.0"),
        ("number", {"tolerance": float("nan")}, "tolerance: is nan"),
    ],
)
def test_a_grader_that_cannot_be_is_refused(name: str, more: Any, says: str) -> None:
    """With what there is instead."""
    with pytest.raises(InvalidCall, match=says):
        grade(TEXT, "a", "a", name, **more)


@given(st.text(max_size=60), st.text(max_size=60))
def test_word_overlap_is_a_symmetric_share(one: str, other: str) -> None:
    """Within 0 and 1, the same both ways, and 1 for the same text."""
    assert 0.0 <= token_f1(one, other) == token_f1(other, one) <= 1.0
    assert token_f1(one, one) == 1.0


@given(st.sampled_from([name for name in GRADERS if name != "pattern"]), st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_a_grader(name: str, text: str, label: str) -> None:
    """Whatever models write, a grade comes out."""
    for kind in (CHOICE, NUMBER, JSON, TEXT, PATTERN):
        assert 0.0 <= grade(kind, text, label, name) <= 1.0
