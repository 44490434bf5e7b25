"""Closer reading of a draft: sums that come out, numbers and words it shares with its prompt, and how it ends."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.answer_tokens import answer_span, answer_tokens
from router.core.arithmetic import numbers_in, sums
from router.core.call import Reply
from router.core.evidence import BLOCKS, EVIDENCE
from router.core.evidence import read_evidence as read
from router.core.signals import FREE_SIGNALS, LP_FLOOR, draft_text
from router.core.text_features import words_of
from router.core.views import MOST_CHARS, View


def read_evidence(prompt: str, draft: str, logprobs: Any = None, blocks: Any = tuple(EVIDENCE)) -> dict[str, float]:
    """Closer reading of a draft of this text and these log-probabilities."""
    reply = Reply(draft, None, logprobs=None if logprobs is None else tuple(logprobs))
    return read(View(prompt), View(draft), reply, None, blocks)


def read_answer(reply: Reply, answer: Any) -> dict[str, float]:
    """Closer reading of a draft in which this answer was found."""
    return read(View(""), View(draft_text(reply)), reply, answer)


any_text = st.text(st.characters(exclude_categories=()), max_size=200)
sums_text = st.text("0123456789.,()+-*/x×÷−%$= \n", max_size=200)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12*3=36", [(36.0, True)]),
        ("12 * 3 = 35", [(35.0, False)]),
        ("so $5 + $2.50 = $7.50 in all", [(7.5, True)]),
        ("<<9*2=18>>18", [(18.0, True)]),
        ("425/5+17 = 91+17 = 108", [(108.0, False), (108.0, True)]),
        ("(1 + 2) × 3 = 9", [(9.0, True)]),
        ("100 ÷ 3 = 33.33", [(33.33, True)]),
        ("50% x 10 = 5", [(5.0, True)]),
        ("1,200 - 200 = 1,000", [(1000.0, True)]),
        ("in 2008, 5 + 3 = 8", [(8.0, True)]),
        ("20 * 5 = 100 (2 + 2 = 4)", [(100.0, True), (4.0, True)]),
        ("x = 5", []),
        ("a == b = c", []),
        ("5 + 3 = 8\u0663", [(8.0, True)]),
        ("5 / 0 = 0", []),
        ("3 + = 4", []),
        ("no sums here", []),
    ],
)
def test_sums_are_checked(text: str, found: list[tuple[float, bool]]) -> None:
    """What a sum is said to come to, and whether it does; what is no sum is passed over."""
    assert [(one.result, one.right) for one in sums(text)] == found


@given(st.integers(0, 9999), st.integers(0, 9999), st.sampled_from("+-*"))
def test_every_whole_sum_is_read(one: int, other: int, sign: str) -> None:
    """A sum that is right counts as right, and one that is off by one as wrong, whatever its numbers."""
    result = {"+": one + other, "-": one - other, "*": one * other}[sign]
    assert sums(f"{one} {sign} {other} = {result}") == [(float(result), True, (float(one), float(other)))]
    wrong = result + max(1, abs(result) // 100)
    assert [found.right for found in sums(f"{one} {sign} {other} = {wrong}")] == [False]


@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from("+-*/x×÷−"), st.integers(0, 99))
def test_a_short_sum_is_read_as_any_other(one: int, other: int, sign: str, result: int) -> None:
    """Brackets make a sum too long for the quick way, and change nothing."""
    assert sums(f"{one} {sign} {other} = {result}") == sums(f"({one} {sign} {other}) = ({result})")


def test_the_last_sums_of_a_long_draft_are_read() -> None:
    """The answer stands near the end, so the sums there are looked at, and at most eight of them."""
    read = sums("; ".join(f"{at} + 1 = {at + 1}" for at in range(20)))
    assert [one.result for one in read] == [13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0]
    underlined = sums(f"48/2=24 and a == b\n{'=' * 30}\nso 24+1=25, of " + "==" * 20)
    assert [one.result for one in underlined] == [24.0, 25.0]


@given(sums_text)
def test_no_text_of_signs_and_digits_is_too_much(text: str) -> None:
    """Any of them is read without an error, and every result is a finite number."""
    assert all(math.isfinite(value) for one in sums(text) for value in (one.result, *one.operands))


PROMPT = "Anna has 12 eggs and sells three of them for $2.50 each. What does she get?"


def test_numbers_are_compared_with_the_prompt() -> None:
    """Unused and new numbers are counted; numbers in words count as the prompt's, results of right sums are not new."""
    found = read_evidence(PROMPT, "She gets 3 * 2.50 = 7.50 dollars, not 99.")
    assert found["sums_right"] == 1.0
    assert found["sum_wrong"] == 0.0
    assert found["numbers_unused"] == 1.0  # 12
    assert found["numbers_new"] == 1.0  # 99
    assert found["numbers_new_share"] == 0.25
    assert found["last_number"] == 99.0
    assert found["ends_on_sum"] == 0.0
    assert read_evidence(PROMPT, "3 * 2.50 = 7.50")["ends_on_sum"] == 1.0


@pytest.mark.parametrize(
    ("draft", "found"),
    [
        ("3 * 4 = 12, then 12 + 1 = 13. It is 13.", {}),
        ("3 * 4 = 12 and 2 * 5 = 10, so 10", {"results_unused": 1}),
        ("3 - 12 = -9, so -9 + 12 = 3 remain", {"sum_negative": 1}),
        ("12 / 5 = 2.4, so 2.4", {"sum_fraction": 1}),
        ("2.5 * 3 = 7.5, so 7.5", {}),
        ("2*3 = 6. 42 = 6*7. So 42", {}),
    ],
)
def test_sums_that_lead_nowhere_or_break_are_told(draft: str, found: dict[str, float]) -> None:
    """Results that nothing goes on with, results below nothing, and whole numbers that come to a fraction."""
    names = ("results_unused", "sum_negative", "sum_fraction")
    told = read_evidence(PROMPT, draft)
    assert {name: told[name] for name in names} == dict.fromkeys(names, 0.0) | found


def test_a_draft_without_numbers_or_words_lacks_their_signals() -> None:
    """What cannot be read is absent, never 0."""
    assert "last_number" not in read_evidence(PROMPT, "seven")
    assert "words_own" not in read_evidence(PROMPT, "?!")
    assert "words_shared" not in read_evidence("?", "seven")
    assert not read_evidence(PROMPT, "7", None).keys() & EVIDENCE["log-probabilities"].keys()


def test_words_and_doubts_are_counted() -> None:
    """Words are compared without case and marks; a word of doubt counts once."""
    found = read_evidence("Who sells eggs?", "Perhaps ANNA sells eggs. Perhaps. I think so")
    assert found["words_shared"] == pytest.approx(2 / 3)
    assert found["words_own"] == pytest.approx(5 / 7)
    assert found["hedges"] == 2.0
    assert found["turns"] == found["reasons"] == 0.0
    found = read_evidence("", "Seven, because there are eight. However, since one broke and since it did, but seven.")
    assert (found["turns"], found["reasons"]) == (2.0, 3.0)
    assert read_evidence("", "Sincerely, a button.")["reasons"] == 0.0


@pytest.mark.parametrize(
    ("draft", "open_end", "digit"),
    [("Done.", 0, 0), ("so 7", 0, 1), ("so 7\n\n", 0, 1), ("and then", 1, 0), ("{}", 0, 0)],
)
def test_a_cut_draft_ends_open(draft: str, open_end: int, digit: int) -> None:
    """A draft that stops within a sentence says so even where no finish reason was recorded."""
    found = read_evidence("", draft)
    assert (found["open_end"], found["ends_in_digit"]) == (open_end, digit)


def test_log_probabilities_have_quantiles() -> None:
    """Low quantiles, the last token and tokens below one half; one above 0.95 counts as that in a quantile."""
    found = read_evidence("", "x", [-0.1, -5.0, -math.inf, -0.2, -0.3, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    assert found["lp_p10"] == -5.0
    assert found["lp_doubts"] == 3.0
    assert found["lp_p25"] == -1.0
    assert found["lp_last"] == -1.0
    assert read_evidence("", "x", [-0.01] * 8 + [-9.0])["lp_p25"] == math.log(0.95)
    assert read_evidence("", "x", [-math.inf] * 3)["lp_p10"] == LP_FLOOR
    assert not read_evidence("", "x", [-0.1, math.nan]).keys() & EVIDENCE["log-probabilities"].keys()


@given(any_text, any_text, st.none() | st.lists(st.floats(), max_size=20))
def test_every_value_is_finite_and_named(prompt: str, draft: str, logprobs: list[float] | None) -> None:
    """Whatever the texts, every signal has a name of the table and a finite value."""
    found = read_evidence(prompt, draft, logprobs)
    assert found.keys() <= BLOCKS.keys()
    assert all(math.isfinite(value) for value in found.values())
    assert not BLOCKS.keys() & FREE_SIGNALS.keys()


@settings(max_examples=25)
@given(any_text, any_text, st.sets(st.sampled_from(sorted(EVIDENCE))))
def test_only_the_wanted_blocks_are_read(prompt: str, draft: str, blocks: set[str]) -> None:
    """A block is all or nothing, and no other block changes it."""
    every = read_evidence(prompt, draft, [-0.5])
    found = read_evidence(prompt, draft, [-0.5], blocks)
    assert found == {name: value for name, value in every.items() if BLOCKS[name] in blocks}


@pytest.mark.parametrize("unit", ["1 ", "1=", "(", "1,", "a", "=", "[", "9" * 50])
def test_a_huge_draft_is_read_at_both_ends(unit: str) -> None:
    """What is read of a text is bounded, so the time is too: its middle makes no difference."""
    huge = unit * (100 * MOST_CHARS // len(unit)) + "."
    ends = huge[: MOST_CHARS // 2] + huge[-MOST_CHARS // 2 :]
    assert read_evidence(huge, huge) == read_evidence(ends, ends)


def tokenised(*tokens: str, logprobs: tuple[float, ...] = (), margins: tuple[float, ...] | None = None) -> Reply:
    """A draft of these tokens; the last one may be an end mark that is no part of its text."""
    sizes = tuple(len(token.encode()) for token in tokens)
    text = "".join(token for token in tokens if token != "<end>")
    return Reply(text, None, logprobs=logprobs or (-0.1,) * len(tokens), token_bytes=sizes, margins=margins)


@pytest.mark.parametrize(
    ("tokens", "answer", "expected"),
    [
        (("The", " answer", " is", " bug", "."), "bug", (3, 4)),
        (("I", " say", " how", "-", "to"), "how-to", (2, 5)),
        (("Bug", ", no", ": how", "-", "to", "!"), "how-to", (2, 5)),
        (("B", "ILLING"), "billing", (0, 2)),
        (("é", "tat ", "ja"), "ja", (2, 3)),
        (("so ", "1", ",2", "00", " in all", "<end>"), 1200.0, (1, 4)),
        (("7 of ", "7"), 7.0, (1, 2)),
        (("so ", "-", "7"), -7.0, (2, 3)),
        (("Here: ", "{", '"a"', ": 1", "}", " Fine"), {"a": 1}, (1, 5)),
        (("[", "]"), [], (0, 2)),
        (("All", " of", " it"), "All of it", (0, 3)),
        ((" \n", "all", " of it", " "), "all of it", (1, 3)),
        (("The", " debugger"), "bug", None),
        (("none",), 7.0, None),
        (("none",), {"a": 1}, None),
        (("none",), None, None),
        (("none",), True, None),
        (("",), "", None),
    ],
)
def test_the_tokens_of_the_answer_are_found(tokens: tuple[str, ...], answer: Any, expected: Any) -> None:
    """The last place of the draft that says it, whole tokens; none where the draft does not say it."""
    assert answer_tokens(tokenised(*tokens), answer) == expected


def test_the_answer_has_log_probabilities_of_its_own() -> None:
    """Of its tokens alone, within the same bounds as all others; margins where they were asked for."""
    logprobs, margins = (-0.1, -math.inf, -1.0, -3.0), (5.0, 0.1, 2.0, 20.0)
    found = read_answer(tokenised("It ", "is ", "4", "2", logprobs=logprobs, margins=margins), 42.0)
    assert (found["answer_lp_mean"], found["answer_lp_min"], found["answer_margin"]) == (-2.0, -3.0, 2.0)
    assert found["margin_mean"] == pytest.approx(27.1 / 4)
    assert found["margin_min"] == 0.1
    without = read_answer(tokenised("It ", "is ", "4", "2", logprobs=logprobs), 42.0)
    assert not without.keys() & {"answer_margin", *EVIDENCE["margins"]}
    assert read_answer(tokenised("4", logprobs=(-math.inf,)), 4.0)["answer_lp_min"] == LP_FLOOR


def test_tokens_that_are_not_those_of_the_text_say_nothing_of_the_answer() -> None:
    """Absent, never 0: lengths that do not add up, a NaN, or no lengths at all."""
    blocks = EVIDENCE["answer tokens"].keys() | EVIDENCE["margins"].keys()
    for reply in (
        Reply("it is 42", None, logprobs=(-0.1, -0.2), token_bytes=(1, 2)),
        Reply("42", None, logprobs=(-0.1,)),
        Reply("42", None, logprobs=(math.nan,), token_bytes=(2,), margins=(math.nan,)),
        Reply("42", None, token_bytes=(2,)),
    ):
        assert not read_answer(reply, 42.0).keys() & blocks


@given(st.lists(st.text(max_size=4), max_size=12), st.integers(0, 40), st.integers(0, 40))
def test_an_answer_is_within_its_tokens(tokens: list[str], start: int, size: int) -> None:
    """However a draft was cut into tokens, those of an answer hold it and no token beside it that has none of it."""
    text = "".join(tokens)
    answer = text[start : start + size]
    span, held = answer_span(text, answer), answer_tokens(tokenised(*tokens), answer) if tokens else None
    assert (span is None) == (held is None)
    if span is None or held is None:
        return
    assert text[slice(*span)] in "".join(tokens[slice(*held)])
    assert len("".join(tokens[: held[0] + 1])) > span[0]
    assert len("".join(tokens[: held[1] - 1])) < span[1]


@given(any_text | st.text("0123456789., ax\n"))
def test_numbers_are_read_as_one_expression_reads_them(text: str) -> None:
    """The quick way for ASCII text finds the same numbers, and the same one last."""
    found, every = numbers_in(text), re.findall(r"\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,12})?", text)
    every = [float(one.replace(",", "")) for one in every]
    assert (set(found), found[-1:]) == (set(every), every[-1:])


@given(any_text | st.text(st.characters(max_codepoint=127)))
def test_words_are_read_as_one_expression_reads_them(text: str) -> None:
    """So are the words of a text that is all ASCII."""
    assert [word.decode("utf-8", "surrogatepass") for word in words_of(text)] == re.findall(r"\w+", text.lower())
