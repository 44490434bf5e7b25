"""Free signals: each number, and that every number is finite."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.call import Reply, Usage
from router.core.checks import Verdict
from router.core.comparing import canonical
from router.core.signals import FREE_SIGNALS, LP_FLOOR, agreement, read_signals, repetition
from tests.strategies import replies

LOGPROB_SIGNALS = {"lp_mean", "lp_min", "lp_first"}


def signals_of(reply: Reply, *, valid: bool = True, input_chars: int = 0) -> dict[str, float]:
    """The signals of one draft."""
    return read_signals(input_chars, reply, Verdict(valid))


def test_a_plain_draft_has_every_signal() -> None:
    """With usage and log-probabilities nothing is missing."""
    reply = Reply("a good answer", Usage(100, output_tokens=3, reasoning_tokens=50), logprobs=(-0.5, -2.0, -0.5))
    assert signals_of(reply, input_chars=400) == {
        "invalid": 0.0,
        "empty": 0.0,
        "truncated": 0.0,
        "refusal": 0.0,
        "repetition": 0.0,
        "input_chars": 400.0,
        "output_chars": 13.0,
        "output_tokens": 3.0,
        "lp_mean": -1.0,
        "lp_min": -2.0,
        "lp_first": -0.5,
    }


def test_every_signal_is_documented() -> None:
    """The table of signals is the list of what can be read, and each has a meaning."""
    reply = Reply("x", Usage(), logprobs=(-1.0,))
    assert signals_of(reply).keys() | {"agreement"} == FREE_SIGNALS.keys()
    assert all(FREE_SIGNALS.values())


@pytest.mark.parametrize(
    ("reply", "missing"),
    [
        (Reply("x", None, logprobs=(-1.0,)), {"output_tokens"}),
        (Reply("x", Usage()), LOGPROB_SIGNALS),
        (Reply("x", Usage(), logprobs=()), LOGPROB_SIGNALS),
        (Reply("x", Usage(), logprobs=(-1.0, math.nan)), LOGPROB_SIGNALS),
    ],
    ids=["no_usage", "no_logprobs", "empty_logprobs", "nan_logprob"],
)
def test_a_signal_that_cannot_be_read_is_absent(reply: Reply, missing: set[str]) -> None:
    """A missing signal is a state of its own and never 0."""
    assert FREE_SIGNALS.keys() - signals_of(reply).keys() == missing | {"agreement"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("A", "A", 1.0),
        ("A", "B", 0.0),
        (None, None, 0.0),
        ({"a": [1], "b": 2}, {"b": 2.0, "a": [1.0]}, 1.0),
        ({"a": 1}, {"a": True}, 0.0),
    ],
    ids=["equal", "other", "unusable", "json", "truth"],
)
def test_drafts_agree_when_their_usable_answers_are_equal(one: Any, other: Any, expected: float) -> None:
    """Two drafts without an answer agree on nothing; whole numbers are equal however they are written."""
    assert agreement(canonical(one), canonical(other)) == expected


@pytest.mark.parametrize("value", [{"other": 1}, [1], "text", None], ids=["lacks_it", "list", "text", "nothing"])
def test_an_object_without_the_fields_that_count_agrees_with_nothing(value: Any) -> None:
    """Not even with itself: a misspelt field must not make every draft agree."""
    assert canonical(value, ["label"]) is None
    assert canonical({"label": 1, "why": value}, ["label"]) == canonical({"label": 1.0}, ["label"])


@pytest.mark.parametrize(
    ("reply", "valid", "name"),
    [
        (Reply("x", None), False, "invalid"),
        (Reply(" \n\t", None), True, "empty"),
        (Reply("", None), True, "empty"),
        (Reply("x", None, "length"), True, "truncated"),
    ],
    ids=["invalid", "blank", "empty", "truncated"],
)
def test_a_mark_against_a_draft_is_1(reply: Reply, valid: bool, name: str) -> None:
    """The marks are 0 or 1, each on its own."""
    marks = ("invalid", "empty", "truncated", "refusal")
    assert {mark: value for mark, value in signals_of(reply, valid=valid).items() if mark in marks} == {
        mark: float(mark == name) for mark in marks
    }


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m really sorry, but no.",
        "Sorry, I cannot do that.",
        "Sorry but that is not possible.",
        "I am sorry, but no.",
        "I cannot assist with this request.",
        "I can't answer.",
        "I can’t answer.",
        "I am unable to say.",
        "I'm not able to see images.",
        "I won't do that.",
        "As an AI language model, I have no opinion.",
        "Unfortunately, I cannot open links.",
        "\n\ni apologize, but no",
        "I apologise for that.",
    ],
)
def test_the_words_of_a_refusal_are_seen(text: str) -> None:
    """Curly and straight apostrophes, any case, leading space."""
    assert signals_of(Reply(text, None))["refusal"] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "billing",
        "The customer is sorry, they say.",
        "He cannot log in.",
        "Sorry-looking reviews are common.",
        "I can see a bug.",
        "I canter on my horse.",
        "As an airline, we care.",
        "Unfortunately the parcel is late.",
    ],
)
def test_the_same_words_about_something_else_are_no_refusal(text: str) -> None:
    """Only the opening counts, and only whole words."""
    assert signals_of(Reply(text, None))["refusal"] == 0.0


@pytest.mark.parametrize(
    ("logprobs", "mean", "least", "first"),
    [
        ((-math.inf,), LP_FLOOR, LP_FLOOR, LP_FLOOR),
        ((-1e9, 0.0), LP_FLOOR / 2, LP_FLOOR, LP_FLOOR),
        ((-9999.0, -20.0), LP_FLOOR, LP_FLOOR, LP_FLOOR),
        ((0.5, math.inf), 0.0, 0.0, 0.0),
        ((-3.0, 1000.0), -1.5, -3.0, -3.0),
        ((1e-7, -1.0), -0.5, -1.0, 0.0),
    ],
    ids=["minus_infinity", "minus_a_billion", "minus_9999", "positive", "one_positive", "rounded_above_0"],
)
def test_log_probabilities_are_clipped(logprobs: tuple[float, ...], mean: float, least: float, first: float) -> None:
    """What providers write for "impossible" and "certain" becomes -20 and 0."""
    signals = signals_of(Reply("x", None, logprobs=logprobs))
    assert (signals["lp_mean"], signals["lp_min"], signals["lp_first"]) == (mean, least, first)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("a b a b a", 0.0),
        ("one two three four five six", 0.0),
        ("a b c a b c", 0.25),
        ("no " * 102, 0.99),
        (" ".join(map(str, range(1000))) + " no" * 130, 1 - 1 / 126),
        ("no " * 1000 + " ".join(map(str, range(128))), 0.0),
    ],
    ids=["empty", "too_short_to_tell", "no_repetition", "one_of_four", "a_loop", "a_loop_at_the_end", "none_there"],
)
def test_repetition_is_the_share_of_repeated_word_triples(text: str, share: float) -> None:
    """Near 1 for a model that loops, 0 for a short text."""
    assert repetition(text) == pytest.approx(share)


@given(replies(), st.booleans(), st.integers(0, 10**9))
def test_every_value_is_finite_and_in_its_range(reply: Reply, valid: bool, input_chars: int) -> None:
    """Whatever a model sends, a calibrator can score it."""
    signals = signals_of(reply, valid=valid, input_chars=input_chars)
    assert signals.keys() <= FREE_SIGNALS.keys()
    assert [name for name, value in signals.items() if not math.isfinite(value)] == []
    assert all(LP_FLOOR <= signals[name] <= 0.0 for name in LOGPROB_SIGNALS & signals.keys())
    assert all(0.0 <= signals[name] <= 1.0 for name in ("invalid", "empty", "truncated", "refusal", "repetition"))


@given(st.lists(st.floats(max_value=1e9), min_size=1))
def test_the_mean_lies_between_the_least_and_0(logprobs: list[float]) -> None:
    """The three log-probability signals agree with each other."""
    signals = signals_of(Reply("x", None, logprobs=tuple(logprobs)))
    assert signals["lp_min"] - 1e-9 <= signals["lp_mean"] <= 0.0
    assert signals["lp_min"] <= signals["lp_first"]
