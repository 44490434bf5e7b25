"""A text as the signals see it: what several signals or several rungs read off it is found once, for one call."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from router.core.arithmetic import numbers_in
from router.core.text_features import SIZES, words_of

WORD_FEATURES = SIZES["small"]
# What is read of a text: its beginning and its end. What a very long text says in between is left out.
MOST_CHARS = 8000


class Hashed(NamedTuple):
    """Words by the buckets that they are hashed into; two may share one."""

    buckets: list[int]
    weights: list[float]
    """1 + ln(count) for each word."""
    length: float
    """The root of the sum of their squares; 0 for no word."""


class View:
    """A text, and what was found in it so far; it lives no longer than its call."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> Mapping[bytes, int]:
        """How often it says each of its different words."""
        return Counter(words_of(shortened(self.text)))

    @cached_property
    def numbers(self) -> set[float]:
        """Its different numbers."""
        return set(numbers_in(shortened(self.text)))

    @cached_property
    def hashed(self) -> Hashed:
        """Its different words, hashed."""
        buckets, weights = WORD_FEATURES.hashed(self.words)
        return Hashed(buckets, weights, math.hypot(*weights))

    @cached_property
    def form(self) -> tuple[float, ...]:
        """What it looks like."""
        return form_of(self.text)


def shortened(text: str) -> str:
    """The beginning and the end of a text that is longer than `MOST_CHARS`."""
    return text if len(text) <= MOST_CHARS else text[: MOST_CHARS // 2] + text[-MOST_CHARS // 2 :]


def form_of(text: str) -> tuple[float, ...]:
    """What a text looks like: how long it is, how many digits and lines it has, and how far its blanks stand apart."""
    text = shortened(text)
    coded, chars = text.encode("utf-8", "surrogatepass"), len(text) + 1
    return (
        math.log(chars),
        math.log(len(coded) - len(coded.translate(None, b"0123456789")) + 1),
        math.log(text.count("\n") + 1),
        math.log(chars / (text.count(" ") + 1)),
    )
