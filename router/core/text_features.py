"""Text to hashed features: words and character n-grams, counted, without a vocabulary to keep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal
from zlib import crc32

# What is in no word becomes a space. An expression takes long, so it is for texts with many marks beyond ASCII.
_NO_WORD, _FEW_MARKS = re.compile(r"[^\x00-\x7f\w]+"), 12
_ASCII_WORDS = bytes(code if code > 127 or re.match(rb"\w", bytes([code])) else 32 for code in range(256)).lower()
_ASCII = bytes(range(128))

Size = Literal["small", "large"]


def beyond_ascii(text: str) -> set[str]:
    """The different characters of a text that are not ASCII."""
    return set(text.encode("utf-8", "surrogatepass").translate(None, _ASCII).decode("utf-8", "surrogatepass"))


def words_of(text: str) -> list[bytes]:
    """The words of a text in lower case, in order, as they are hashed: runs of letters, digits and underscores."""
    if not text.isascii():
        text = text.lower()
        marks = [char for char in beyond_ascii(text) if not char.isalnum()]
        if len(marks) > _FEW_MARKS:
            text = _NO_WORD.sub(" ", text)
        else:
            for mark in marks:
                text = text.replace(mark, " ")
    return text.encode().translate(_ASCII_WORDS).split()


@dataclass(frozen=True, slots=True)
class Features:
    """Which n-grams count and into how many buckets they are hashed."""

    words: tuple[int, int]
    """Shortest and longest run of words."""
    chars: tuple[int, int] | None
    """Shortest and longest run of characters within a word; `None` for none."""
    buckets: int
    """A power of two."""

    def counts(self, text: str) -> dict[int, float]:
        """The weight of each bucket that the text fills: 1 + ln(count)."""
        mask = self.buckets - 1
        found: dict[int, int] = {}
        for gram, count in Counter(self._grams(words_of(text))).items():  # Most come again: each is hashed once.
            bucket = crc32(gram) & mask
            found[bucket] = found.get(bucket, 0) + count
        return {bucket: 1.0 + log(count) if count > 1 else 1.0 for bucket, count in found.items()}

    def hashed(self, grams: Mapping[bytes, int]) -> tuple[list[int], list[float]]:
        """The bucket and the weight of each n-gram, where they are counted already; two may share a bucket."""
        mask = self.buckets - 1
        weights = [1.0 + log(count) if count > 1 else 1.0 for count in grams.values()]
        return [code & mask for code in map(crc32, grams)], weights

    def _grams(self, words: list[bytes]) -> list[bytes]:
        grams = [
            b" ".join(words[at : at + size])
            for size in range(self.words[0], self.words[1] + 1)
            for at in range(len(words) - size + 1)
        ]
        if self.chars:
            shortest, longest = self.chars
            for word in words:
                # A mark no word contains tells "in" at a word's start from "in" within it.
                marked = b"\n%b\n" % word
                grams += [
                    marked[at : at + size]
                    for size in range(shortest, longest + 1)
                    for at in range(len(marked) - size + 1)
                ]
        return grams


# Chosen, not measured: single words in a few kilobytes, or word pairs and word parts in a few megabytes.
SIZES: dict[Size, Features] = {
    "small": Features(words=(1, 1), chars=None, buckets=2**10),
    "large": Features(words=(1, 2), chars=(2, 5), buckets=2**17),
}
