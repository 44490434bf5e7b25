"""Kinds of answer: what is found in the texts that models write, and what is not."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.checks import Check, Verdict, build_check
from router.core.policy import AnswerKind, NumberAnswer, TextAnswer
from router.spec import json_validator
from tests.strategies import json_values

LABELS = build_check(AnswerKind(choice=("billing", "bug", "how-to", "other")))
LETTERS = build_check(AnswerKind(choice=("A", "B", "C")))
NUMBER = build_check(AnswerKind(number=NumberAnswer()))
JSON = build_check(AnswerKind(json={}))
TEXT = build_check(AnswerKind(text=TextAnswer()))


def with_schema(schema: dict[str, Any]) -> Check:
    """The check of a JSON answer with a schema."""
    return build_check(AnswerKind(json=schema), schema=json_validator(schema))


# Choice


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("billing", "billing"),
        ("Billing", "billing"),
        ("  bug \n", "bug"),
        ("bug.", "bug"),
        ("**bug**", "bug"),
        ("`other`", "other"),
        ('"how-to"', "how-to"),
        ("“how-to”", "how-to"),
        ("[bug]", "bug"),
        ("<label>bug</label>", "bug"),
        ("- bug", "bug"),
        ("1. bug", "bug"),
        ("```\nbug\n```", "bug"),
        ("```text\nbug\n```", "bug"),
        ('{"label": "bug"}', "bug"),
        ("Answer: bug", "bug"),
        ("Category: **Billing**\n\nThe customer asks for a refund.", "billing"),
        ('The answer is: "how-to".', "how-to"),
        ("label = other", "other"),
        ("The customer reports a crash.\n\nbug", "bug"),
        ("It names a bug, but it asks for money back.\nFinal answer: billing", "billing"),
        ("It is a bug because the page crashes.", "bug"),
        ("This is a bug, not billing.", "bug"),
        ("This is not a bug but billing.", "billing"),
        ("It isn't a bug, it isn’t *how-to*: other", "other"),
        ("Not a bug in the bank, but a bug here.", "bug"),
    ],
)
def test_the_label_of_a_draft_is_found(text: str, label: str) -> None:
    """Alone, wrapped, on a line of its own, after "answer:", or as the only one that is mentioned."""
    assert LABELS(text) == Verdict(True, label)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", "none"),
        ("...", "none"),
        ("I do not know.", "none"),
        ("debugging", "none"),
        ("This is not a bug.", "none"),
        ("Answer: not a bug", "none"),
        ("There is no “bug” here.", "none"),
        ("Neither a bug nor billing.", "none"),
        ("It isn't the bug.", "none"),
        ("This is not just a bug, it is billing.", 2),
        ("how to", "none"),
        ("bug or billing", 2),
        ("bug / billing / other", 3),
        ("One of billing, bug, how-to and other.", 4),
    ],
)
def test_a_draft_that_names_no_label_or_several_is_not_usable(text: str, count: int | str) -> None:
    """Guessing between labels would be an answer that nobody gave."""
    assert LABELS(text) == Verdict(False, None, f"names {count} of the 4 labels")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("**B**", "B"),
        ("Answer: B", "B"),
        ("The answer is (B).", "B"),
        ("A) It is a refund.", "A"),
        ("B: the second, since A is about refunds", "B"),
        ("A long thought about A and C.\nB", "B"),
    ],
)
def test_a_letter_is_found_where_it_is_a_label(text: str, label: str) -> None:
    """Labels of one letter are found alone, stated, or before a bracket, colon or full stop."""
    assert LETTERS(text) == Verdict(True, label)


@pytest.mark.parametrize("text", ["A refund is due.", "It was a bug", "A or B", "The answer is B, not A"])
def test_a_letter_that_is_a_word_is_no_label(text: str) -> None:
    """The English word "A" is not the label A; what is not clear climbs."""
    assert LETTERS(text).valid is False


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (("yes", "yes!"), "yes!", "yes!"),
        (("yes", "yes!"), "Answer: yes", "yes"),
        (("(a)", "(b)"), "(b)", "(b)"),
        (("(a)", "(b)"), "b", "(b)"),
        (("Straße", "Weg"), "Es ist eine Straße hier.", "Straße"),
        (("c++", "c"), "It is written in C++ only.", "c++"),
        (("!!!", "???"), "???", "???"),
        ((" spaced ", "other"), "spaced", " spaced "),
        (("spam", "not spam"), "This is not spam.", "not spam"),
        (("spam", "not spam"), "This is spam.", "spam"),
        (("no", "yes"), "no", "no"),
        (("no", "yes"), "I say no.", "no"),
    ],
)
def test_labels_of_any_form_are_found(labels: tuple[str, ...], text: str, label: str) -> None:
    """Marks, umlauts and spaces in a label do not hide it; the exact text wins over the same without marks."""
    assert build_check(AnswerKind(choice=labels))(text) == Verdict(True, label)


def test_marks_alone_name_no_label() -> None:
    """A reply of marks is not the label that happens to be made of marks."""
    assert build_check(AnswerKind(choice=("!!!", "ok")))("...").valid is False


@given(
    st.lists(
        st.text(min_size=1, max_size=10).filter(lambda label: label.strip() != ""),
        min_size=2,
        max_size=5,
        unique_by=lambda label: label.casefold().strip(),
    )
)
def test_a_label_itself_is_always_that_label(labels: list[str]) -> None:
    """Whatever the labels of a policy are, each can be answered."""
    check = build_check(AnswerKind(choice=tuple(labels)))
    assert [check(label) for label in labels] == [Verdict(True, label) for label in labels]


# Number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("42.", 42),
        ("The answer is 42.", 42),
        ("**42**", 42),
        ("-5", -5),
        ("−5", -5),
        ("+7", 7),
        ("$1,234", 1234),
        ("1,234,567.89 EUR", 1234567.89),
        (".5", 0.5),
        ("0.1.", 0.1),
        ("5%", 5),
        ("1e5", 100_000),
        ("2.5E-3", 0.0025),
        ("x=5", 5),
        ("12 + 30 = 42", 42),
        ("Step 1: 12 apples\nStep 2: 30 pears\nAnswer: 42", 42),
        ("3-5", 5),
        ("1, 2", 2),
        ("1,2345", 2345),
        ("42 km", 42),
        ("٣", 3),
        ("-$5", -5),
        ("−€1,234.50", -1234.5),
        ("$-5", -5),
        ("+£7", 7),
        ("$3-$5", 5),
        ("42 (100% sure)", 42),
        ("The answer is 42 (out of 50).", 42),
        ("(42)", 42),
        ("Answer: (-7)", -7),
        ("f(2) = 4", 4),
        ("four (4)", 4),
        ("(1) (2)", 2),
        ("5 (in words (as asked): 6)", 6),
    ],
)
def test_the_last_number_of_a_draft_is_found(text: str, value: float) -> None:
    """With signs, currencies, thousands separators, units and the steps before it; one in brackets is an aside."""
    assert NUMBER(text) == Verdict(True, value)


@pytest.mark.parametrize("text", ["", "none", "NaN", "inf", "H2O", "½", "-", "v1.2.3"])
def test_a_draft_without_a_number_is_not_usable(text: str) -> None:
    """Digits inside a word are no number."""
    assert NUMBER(text) == Verdict(False, None, "holds no number")


@pytest.mark.parametrize("text", ["1e400", "9" * 5000, "-1e999"])
def test_a_number_beyond_all_floats_is_not_usable(text: str) -> None:
    """Infinity is no answer, and the reason says so."""
    assert NUMBER(text) == Verdict(False, None, "holds a number that is too large")


@pytest.mark.parametrize(("text", "valid"), [("0", True), ("100", True), ("-0.001", False), ("100.5", False)], ids=str)
def test_a_number_out_of_range_is_not_usable(text: str, valid: bool) -> None:
    """The bounds of the policy are part of the range."""
    check = build_check(AnswerKind(number=NumberAnswer(min=0, max=100)))
    assert check(text) == Verdict(valid, float(text), "" if valid else "is out of range")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_a_round_trip(value: float) -> None:
    """What Python prints is found again, to the last bit."""
    assert NUMBER(repr(value)) == Verdict(True, value)


@given(st.integers(-(10**15), 10**15))
def test_thousands_separators_survive_a_round_trip(value: int) -> None:
    """So is a number with separators, in the middle of a sentence."""
    assert NUMBER(f"It costs {value:,} dollars.") == Verdict(True, float(value))


# JSON


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("[1, 2]", [1, 2]),
        ('"text"', "text"),
        ("42", 42),
        ("null", None),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```\n{"a": 1}```', {"a": 1}),
        ('Here it is:\n\n```json\n{"a": 1}\n```\nDone.', {"a": 1}),
        ('Sure! {"a": {"b": [1]}} Anything else?', {"a": {"b": [1]}}),
        ('{"a": 1}{"b": 2}', {"a": 1}),
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
        ('{"a": "}"} trailing', {"a": "}"}),
    ],
)
def test_the_json_of_a_draft_is_found(text: str, value: Any) -> None:
    """The whole text, its fenced block, or its first object or array."""
    assert JSON(text) == Verdict(True, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "{a: 1}",
        "{'a': 1}",
        '{"a": 1',
        "NaN",
        '{"a": NaN}',
        '{"a": -Infinity}',
        "1e999",
        '{"a": 1e999}',
        '{"a":' * 5000,
        "[" * 100_000,
        "1" * 5000,
    ],
    ids=lambda text: text[:12],
)
def test_a_draft_without_json_is_not_usable(text: str) -> None:
    """JSON has no NaN, no infinity and no single quotes; depth and size cannot break the check."""
    assert JSON(text) == Verdict(False, None, "is no JSON")


def test_json_that_does_not_fit_its_schema_is_not_usable() -> None:
    """The value is found, and the reason names the place and not the content."""
    check = with_schema({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})
    assert check('{"age": 7}') == Verdict(True, {"age": 7})
    assert check('{"age": "seven"}') == Verdict(
        False, {"age": "seven"}, "does not fit the JSON Schema at properties/age/type"
    )
    assert check("{}") == Verdict(False, {}, "does not fit the JSON Schema at required")


@pytest.mark.parametrize(
    ("schema", "text"),
    [({"multipleOf": 0.01}, "1" + "0" * 400), ({"$ref": "#"}, "{}")],
    ids=["huge_number", "endless_schema"],
)
def test_json_that_cannot_be_compared_with_its_schema_is_not_usable(schema: dict[str, Any], text: str) -> None:
    """Where the schema library gives up, the draft climbs."""
    verdict = with_schema(schema)(text)
    assert (verdict.valid, verdict.problem) == (False, "is too large or too deep to compare with the JSON Schema")


@given(json_values())
def test_json_survives_a_round_trip(value: Any) -> None:
    """What was written as JSON is found as it was, alone and fenced."""
    text = json.dumps(value, allow_nan=False)
    assert JSON(text) == Verdict(True, value)
    assert JSON(f"```json\n{text}\n```") == Verdict(True, value)


# Pattern and text


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("AB-123", Verdict(True, "AB-123")),
        ("  AB-123\n", Verdict(True, "AB-123")),
        ("AB-1234", Verdict(False, None, "does not match the pattern")),
        ("The id is AB-123", Verdict(False, None, "does not match the pattern")),
    ],
)
def test_a_pattern_matches_the_whole_draft(text: str, verdict: Verdict) -> None:
    """From end to end, but for space around it."""
    assert build_check(AnswerKind(pattern=r"[A-Z]{2}-\d{3}"))(text) == verdict


def test_a_dot_matches_a_line_end() -> None:
    """A pattern is about the whole answer, whose lines are not its concern."""
    assert build_check(AnswerKind(pattern="a.*z"))("a\nz") == Verdict(True, "a\nz")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ab", ""),
        ("  ab\n", ""),
        ("abcd", ""),
        ("", "is empty"),
        (" \n", "is empty"),
        ("a", "is too short"),
        ("abcde", "is too long"),
    ],
)
def test_a_text_keeps_its_bounds(text: str, problem: str) -> None:
    """Lengths count without the space around, and the text stays as it is."""
    check = build_check(AnswerKind(text=TextAnswer(min_chars=2, max_chars=4)))
    assert check(text) == Verdict(not problem, text, problem)


def test_any_text_with_a_visible_character_is_an_answer() -> None:
    """Free text has one rule of its own: it is not empty."""
    assert TEXT(".") == Verdict(True, ".")
    assert TEXT(" \t\n") == Verdict(False, " \t\n", "is empty")


# Own checks


@pytest.mark.parametrize(("text", "valid"), [("4", True), ("5", False)])
def test_a_task_s_own_check_has_the_last_word(text: str, valid: bool) -> None:
    """The user's function sees the value that was found, not the text."""
    check = build_check(AnswerKind(number=NumberAnswer()), own=lambda value: value % 2 == 0)
    problem = "" if valid else "is refused by the task's own check"
    assert check(text) == Verdict(valid, float(text), problem)


def test_a_task_s_own_check_sees_valid_answers_only() -> None:
    """It need not care for texts that the kind of answer already refused."""
    seen: list[Any] = []

    def own(value: Any) -> bool:
        seen.append(value)
        return True

    check = build_check(AnswerKind(number=NumberAnswer()), own=own)
    assert [check(text).valid for text in ("no number", "7")] == [False, True]
    assert seen == [7.0]


# Laws

CHECKS = {
    "choice": LABELS,
    "letters": LETTERS,
    "number": NUMBER,
    "json": JSON,
    "json_schema": with_schema({"type": "object", "properties": {"a": {"multipleOf": 0.5}}, "required": ["a"]}),
    "pattern": build_check(AnswerKind(pattern=r"\w+")),
    "text": TEXT,
}
PIECES = st.sampled_from(
    [
        "bug",
        "billing",
        "A",
        "B)",
        "Answer:",
        " is ",
        "\n",
        "```",
        "```json\n",
        "{",
        "}",
        "[",
        '"a":',
        "1,234",
        "-",
        "−",
        "1e9",
        ".",
        ",",
        "NaN",
        "\ud800",
        "ß",
    ]
)


@pytest.mark.parametrize("name", CHECKS)
@given(st.text() | st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=80)
def test_no_text_breaks_a_check(name: str, text: str) -> None:
    """Every text has a verdict; one that is not usable has a reason, and a number is finite."""
    verdict = CHECKS[name](text)
    assert bool(verdict.problem) is not verdict.valid
    assert not isinstance(verdict.value, float) or math.isfinite(verdict.value)
