"""Which tokens of a draft are its answer: their log-probabilities, and by how much each was preferred.

A draft of many words may be sure of its words and unsure of its answer.
"""

from __future__ import annotations

import math
import re
from typing import Any

from router.core.arithmetic import NUMBER, number
from router.core.call import MOST_MARGIN, Reply, byte_length
from router.core.signals import LP_FLOOR, draft_text

_TAIL_CHARS = 100


def answer_signals(reply: Reply, answer: Any) -> dict[str, float]:
    """What the tokens of the answer say, where it is known which they are."""
    tokens = answer_tokens(reply, answer)
    if tokens is None or not reply.logprobs:
        return {}
    lps, margins = reply.logprobs[slice(*tokens)], (reply.margins or ())[slice(*tokens)]
    found = {}
    if lps and not math.isnan(sum(lps)):
        if min(lps) < LP_FLOOR or max(lps) > 0.0:
            lps = tuple(min(0.0, max(LP_FLOOR, lp)) for lp in lps)
        found = {"answer_lp_mean": sum(lps) / len(lps), "answer_lp_min": min(lps) + 0.0}  # Never -0.0.
    if margins and 0.0 <= (least := min(margins)) <= MOST_MARGIN:
        found["answer_margin"] = least
    return found


def margin_signals(reply: Reply) -> dict[str, float]:
    """By how much the tokens of a draft were preferred to others; nothing where a margin cannot be one."""
    margins = reply.margins or (math.nan,)
    mean, least = sum(margins) / len(margins), min(margins)
    return {"margin_mean": mean, "margin_min": least} if least >= 0.0 and mean <= MOST_MARGIN else {}


def answer_tokens(reply: Reply, answer: Any) -> tuple[int, int] | None:
    """The first token that holds a part of the answer, and the one after the last."""
    sizes, draft = reply.token_bytes, draft_text(reply)
    span = answer_span(draft, answer) if sizes else None
    if not sizes or span is None:
        return None
    end = sum(sizes)
    # Some providers count the mark that ends a draft as its last token.
    if byte_length(draft) not in (end, end - sizes[-1]):
        return None
    start, stop = (byte_length(draft[:at]) for at in span)
    first = len(sizes)
    # Counted back from the end of the draft, near which most answers stand.
    while end - sizes[first - 1] >= stop:
        first, end = first - 1, end - sizes[first - 1]
    after = first
    while end > start:
        first, end = first - 1, end - sizes[first - 1]
    return first, after


def answer_span(draft: str, answer: Any) -> tuple[int, int] | None:
    """Where in a draft the answer stands that was found in it: the last place that says it."""
    if isinstance(answer, str) and answer:
        return _text_span(draft, answer)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return _number_span(draft, abs(answer))
    if isinstance(answer, dict | list):
        begins = [at for mark in "{[" if (at := draft.find(mark)) >= 0]
        span = (min(begins), 1 + max(map(draft.rfind, "}]"))) if begins else (0, 0)
        return span if span[0] < span[1] else None
    return None


def _text_span(draft: str, answer: str) -> tuple[int, int] | None:
    """The last place where a text stands as words of their own."""
    if answer in (draft, draft.strip()):  # An expression of a whole text takes a millisecond to make.
        return (start := draft.find(answer)), start + len(answer)
    alone = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)
    # One word cannot overlap itself, so its last place is the same from wherever it is looked for.
    for begin in (_tail(draft), 0) if answer.isalnum() else (0,):
        if spans := [match.span() for match in alone.finditer(draft, begin)]:
            return spans[-1]
    return None


def _number_span(draft: str, value: float) -> tuple[int, int] | None:
    """The last place where a number stands."""
    for begin in (_tail(draft), 0):
        for match in reversed(list(NUMBER.finditer(draft, begin))):
            whole = match.start() > begin or begin == 0  # A number may begin before the place that was looked from.
            if whole and number(match[0]) == value:
                return match.span()
    return None


def _tail(draft: str) -> int:
    """Where the end of a draft begins: most answers stand near it, so it is looked at first."""
    return max(0, len(draft) - _TAIL_CHARS)
