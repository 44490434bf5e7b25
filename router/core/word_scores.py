"""What the words and the form of a text say: a linear score over hashed words, as plain numbers.

Fitted offline with scikit-learn; scoring here is plain Python and equals scikit-learn's own output to 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import mul
from typing import Annotated, Literal

from router.core.calibration import sigmoid
from router.core.grammar import STRICT, Limit, Text
from router.core.views import WORD_FEATURES, View

FORMS = 4
WordSignal = Literal["prompt_words", "last_words", "draft_words"]

# The docs table is made from it.
WORD_SIGNALS: dict[WordSignal, str] = {
    "prompt_words": "chance that the draft is right by the words and form of its prompt and the call's group, 0 to 1",
    "last_words": "the same of the plan's last rung: whether there is anything to gain by climbing, 0 to 1",
    "draft_words": "chance that the draft is right by its own words, 0 to 1",
}
# Those that are read off the prompt, and know the call's group.
PROMPT_WORDS: frozenset[WordSignal] = frozenset({"prompt_words", "last_words"})


@dataclass(frozen=True, slots=True)
class Words:
    """Plain numbers that turn the words of a text into a chance."""

    __pydantic_config__ = STRICT

    weights: Annotated[tuple[float, ...], Limit(min_length=1, max_length=WORD_FEATURES.buckets)]
    """Logistic weight of each bucket of hashed words, whose counts have the length 1 in all."""
    intercept: float
    """Logistic intercept."""
    groups: Mapping[Text, float] = field(default_factory=dict)
    """What a call's group adds to the logit: the value of the metadata key that the task's `group:` names."""
    form: tuple[float, ...] = ()
    """Logistic weights of the text's form: logarithms of its characters, digits, lines and characters to a word; empty
    where that does not count."""

    def __post_init__(self) -> None:
        if len(self.weights) != WORD_FEATURES.buckets:
            raise ValueError(f"weights has {len(self.weights)} numbers, not {WORD_FEATURES.buckets}")
        if len(self.form) not in (0, FORMS):
            raise ValueError(f"form has {len(self.form)} numbers, not {FORMS}")
        if not all(map(math.isfinite, (*self.weights, self.intercept, *self.groups.values(), *self.form))):
            raise ValueError("holds a number that is not finite")

    def chance(self, text: str, group: str | None = None) -> float:
        """The chance that the words of a text give, 0 to 1."""
        return self.chance_of(View(text), group)

    def chance_of(self, seen: View, group: str | None = None) -> float:
        """The same of a text that others read too."""
        logit = self.intercept + (self.groups.get(group, 0.0) if group is not None else 0.0)
        if self.form:
            logit += sum(map(mul, self.form, seen.form))
        buckets, weights, length = seen.hashed
        told = sum(map(mul, map(self.weights.__getitem__, buckets), weights))
        return sigmoid(logit + told / length if buckets else logit)
