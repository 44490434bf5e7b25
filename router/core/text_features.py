"""Text to hashed features: words and character n-grams, counted, without a vocabulary to keep."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

_WORD = re.compile(r"\w+")
# Of ASCII text the same words, several times as fast: whatever is in none becomes a space.
_NO_WORD = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}

Size = Literal["small", "large"]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, in order: runs of letters, digits and underscores."""
    lower = text.lower()
    return lower.translate(_NO_WORD).split() if lower.isascii() else _WORD.findall(lower)


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
        for gram, count in Counter(self._grams(text)).items():  # Most words come again: each is hashed once.
            bucket = crc32(gram.encode("utf-8", "surrogatepass") if isinstance(gram, str) else gram) & mask
            found[bucket] = found.get(bucket, 0) + count
        return {bucket: 1.0 + math.log(count) if count > 1 else 1.0 for bucket, count in found.items()}

    def _grams(self, text: str) -> Sequence[str | bytes]:
        words = words_of(text)
        if self.words == (1, 1) and not self.chars:
            return words
        grams: list[str | bytes] = [
            " ".join(words[at : at + size])
            for size in range(self.words[0], self.words[1] + 1)
            for at in range(len(words) - size + 1)
        ]
        if self.chars:
            shortest, longest = self.chars
            for word in words:
                # A mark no word contains tells "in" at a word's start from "in" within it.
                marked = f"\n{word}\n".encode("utf-8", "surrogatepass")
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
