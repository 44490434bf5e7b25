"""Closer reading: signals of what a draft says and how it relates to its prompt. Free too, but only read where wanted.

They take longer than the free signals of every draft, so a call reads them only where a calibrator in force names one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from router.core.answer_tokens import answer_signals, margin_signals
from router.core.arithmetic import Sum, numbers_in, sums
from router.core.call import Reply
from router.core.signals import LP_CERTAIN, LP_FLOOR, unsure_tokens
from router.core.views import View, shortened

# By block the name of every signal of closer reading and what it means; the docs table is made from it. What one block
# needs is read in one go, so a block is the smallest part that a call can do without.
EVIDENCE: dict[str, dict[str, str]] = {
    "reasoning": {
        "sums_right": "sums in the draft that come out right, such as 6*7=42; all sums are those at its last eight =",
        "sum_wrong": "1 when some sum in the draft does not, else 0",
        "sum_negative": "1 when some sum in the draft is said to come to less than nothing, else 0",
        "sum_fraction": "1 when some sum of whole numbers in the draft comes to one that is not, else 0",
        "results_unused": "different results of the draft's sums that no sum is made of and that do not end it",
        "ends_on_sum": "1 when the draft's last number is what one of its right sums comes to, else 0",
        "reasons": "how often the draft says since or because",
        "turns": "different words in the draft that turn against what went before: however, but, actually",
    },
    "numbers": {
        "numbers_unused": "different numbers of the prompt that the draft never mentions",
        "numbers_new": "different numbers of the draft that neither the prompt nor a right sum gives",
        "numbers_new_share": "the same as a share of the draft's different numbers, 0 to 1",
        "prompt_numbers": "different numbers in the prompt",
        "last_number": "the draft's last number, without its sign",
        "last_is_fraction": "1 when the draft's last number is not whole, else 0",
        "largest_number": "the largest number of the draft",
        "has_fraction": "1 when some number of the draft is not whole, else 0",
        "prompt_has_fraction": "1 when some number of the prompt is not whole, else 0",
    },
    "wording": {
        "words_shared": "share of the prompt's different words that the draft has too, 0 to 1",
        "words_own": "share of the draft's different words that the prompt does not have, 0 to 1",
        "hedges": "different words of doubt in the draft: perhaps, approximately, I think",
    },
    "form": {
        "lines": "line breaks within the draft",
        "last_line_chars": "characters of the draft's last line",
        "open_end": "1 when the draft ends without a digit, a full stop or a closing mark, as a cut one does, else 0",
        "ends_in_digit": "1 when the draft's last visible character is a digit, else 0",
        "depth": "how deeply brackets and braces of the draft are nested",
    },
    "log-probabilities": {
        "lp_p10": "log-probability that a tenth of the tokens lie below, at most that of 0.95, in nats, -20 to -0.05",
        "lp_p25": "log-probability that a quarter of the tokens lie below, at most that of 0.95, in nats, -20 to -0.05",
        "lp_last": "log-probability of the draft's last token, in nats, -20 to 0",
        "lp_doubts": "tokens of the draft with a probability below one half",
    },
    "answer tokens": {
        "answer_lp_mean": "mean log-probability of the tokens of the answer in the draft, in nats, -20 to 0",
        "answer_lp_min": "smallest log-probability of any token of the answer, in nats, -20 to 0",
        "answer_margin": "smallest margin of any token of the answer, in nats, 0 to 20",
    },
    "margins": {
        "margin_mean": "mean of how far the likeliest token was above the next one, in nats, 0 to 20",
        "margin_min": "smallest such margin of any token of the draft, in nats, 0 to 20",
    },
}
BLOCKS: dict[str, str] = {name: block for block, names in EVIDENCE.items() for name in names}

_DOUBTS = """maybe perhaps possibly probably presumably approximately roughly apparently likely unclear uncertain
    unsure assume assuming guess seems appears might"""
_HEDGES = frozenset(_DOUBTS.encode().split())
# By their rarest word, without which they need not be looked for.
_HEDGING = {
    b"think": "i think",
    b"believe": "i believe",
    b"sure": "not sure",
    b"certain": "not certain",
    b"clear": "not clear",
    b"could": "could be",
    b"may": "may be",
}
_TURNS = frozenset((b"however", b"but", b"although", b"actually", b"instead"))
_NUMBER_WORDS = {
    b"half": 0.5,
    b"one": 1.0,
    b"two": 2.0,
    b"twice": 2.0,
    b"double": 2.0,
    b"three": 3.0,
    b"triple": 3.0,
    b"four": 4.0,
    b"five": 5.0,
    b"six": 6.0,
    b"seven": 7.0,
    b"eight": 8.0,
    b"nine": 9.0,
    b"ten": 10.0,
    b"twelve": 12.0,
    b"dozen": 12.0,
}
_CLOSING = ".!?)]}>\"'`”’»$%*|"
_NO_BRACKET = bytes(code for code in range(256) if code not in b"[]{}")
_LOG_HALF = math.log(0.5)


def read_evidence(
    prompt: View,
    draft: View,
    reply: Reply,
    answer: Any = None,
    blocks: Collection[str] = tuple(EVIDENCE),
    unsure: Sequence[float] = (),
) -> dict[str, float]:
    """Every signal that this draft has of these blocks, by name.

    Parameters
    ----------
    prompt
        What was asked.
    draft
        What came back: the text of the reply, or the arguments of its tool calls.
    reply
        What is known of the draft beside its text.
    answer
        What the task's check found in it.
    blocks
        What is wanted.
    unsure
        Its unsure tokens in order, where these are known already.
    """
    text = shortened(draft.text.rstrip())
    found: dict[str, float] = {}
    if "reasoning" in blocks or "numbers" in blocks:
        said, came_out = numbers_in(text), sums(text)
        if "reasoning" in blocks:
            found |= _of_reasoning(draft.words, said, came_out)
        if "numbers" in blocks:
            found |= _of_numbers(prompt, said, came_out)
    if "wording" in blocks:
        found |= _of_words(prompt, draft)
    if "form" in blocks:
        found |= _of_form(text)
    if reply.logprobs and "log-probabilities" in blocks:
        found |= _of_logprobs(reply.logprobs, unsure or unsure_tokens(reply.logprobs))
    if reply.token_bytes and "answer tokens" in blocks:
        found |= answer_signals(reply, answer)
    if reply.margins and "margins" in blocks:
        found |= margin_signals(reply)
    return found


def _of_reasoning(words: Mapping[bytes, int], said: Sequence[float], came_out: Sequence[Sum]) -> dict[str, float]:
    last = said[-1] if said else None
    right, below_nothing, breaks_whole, ends_on_sum = 0, False, False, False
    results, used = set(), {last}
    for result, is_right, operands in came_out:
        results.add(abs(result))
        used.update(operands)
        right += is_right
        below_nothing |= result < 0.0
        breaks_whole |= not result.is_integer() and all(map(float.is_integer, operands))
        ends_on_sum |= is_right and abs(result) == last
    found = {
        "sums_right": float(right),
        "sum_wrong": float(right < len(came_out)),
        "sum_negative": float(below_nothing),
        "sum_fraction": float(breaks_whole),
        "results_unused": float(len(results - used)),
        "reasons": float(words.get(b"since", 0) + words.get(b"because", 0)),
        "turns": float(len(_TURNS & words.keys())),
    }
    if said:
        found["ends_on_sum"] = float(ends_on_sum)
    return found


def _of_numbers(prompt: View, said: Sequence[float], came_out: Sequence[Sum]) -> dict[str, float]:
    given = prompt.numbers | {_NUMBER_WORDS[word] for word in _NUMBER_WORDS.keys() & prompt.words.keys()}
    different = set(said)
    new = len(different - given - {abs(one.result) for one in came_out if one.right})
    found = {
        "numbers_unused": float(len(given - different)),
        "numbers_new": float(new),
        "numbers_new_share": new / len(different) if different else 0.0,
        "prompt_numbers": float(len(given)),
        "prompt_has_fraction": float(not all(map(float.is_integer, given))),
        "has_fraction": float(not all(map(float.is_integer, different))),
    }
    if said:
        found["last_number"], found["largest_number"] = said[-1], max(different)
        found["last_is_fraction"] = float(not said[-1].is_integer())
    return found


def _of_words(prompt: View, draft: View) -> dict[str, float]:
    asked, said = prompt.words, draft.words
    both, hedges = len(asked.keys() & said.keys()), len(_HEDGES & said.keys())
    if begun := _HEDGING.keys() & said.keys():
        lower = shortened(draft.text).lower()
        hedges += sum([_HEDGING[word] in lower for word in begun])
    found = {"hedges": float(hedges)}
    if asked:
        found["words_shared"] = both / len(asked)
    if said:
        found["words_own"] = 1.0 - both / len(said)
    return found


def _of_form(draft: str) -> dict[str, float]:
    last = draft[-1:]
    return {
        "lines": float(draft.count("\n")),
        "last_line_chars": float(len(draft) - draft.rfind("\n") - 1),
        "open_end": float(not (last.isdigit() or last in _CLOSING)),
        "ends_in_digit": float(last.isdigit()),
        "depth": float(_depth(draft)),
    }


def _depth(draft: str) -> int:
    if "{" not in draft and "[" not in draft:
        return 0
    deepest = depth = 0
    for mark in draft.encode("utf-8", "surrogatepass").translate(None, _NO_BRACKET):
        depth = depth + 1 if mark in b"[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _of_logprobs(logprobs: Sequence[float], unsure: Sequence[float]) -> dict[str, float]:
    if math.isnan(sum(logprobs)):  # A provider that sends NaN has said nothing about its tokens.
        return {}
    last = len(logprobs) - 1
    tenth, quarter = round(0.10 * last), round(0.25 * last)
    return {
        "lp_p10": max(LP_FLOOR, unsure[tenth]) if tenth < len(unsure) else LP_CERTAIN,
        "lp_p25": max(LP_FLOOR, unsure[quarter]) if quarter < len(unsure) else LP_CERTAIN,
        "lp_last": min(0.0, max(LP_FLOOR, logprobs[-1])),
        "lp_doubts": float(bisect_left(unsure, _LOG_HALF)),
    }
