"""How far a judge agrees with labels, and what the models' accuracy is when its errors are taken into account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Right and wrong answers with a label that a correction needs of each, and how much better than a coin the judge must
# be: below, the correction divides by next to nothing. Chosen, not measured.
FEWEST = 10
_LEAST_SKILL = 0.1
_Z90 = 1.644854


class Agreement(NamedTuple):
    """A judge beside the labels of the rows that have one, for one model's answers."""

    rows: int
    """Answers with a label and a verdict."""
    sensitivity: float | None
    """Of the answers that are right by their label, the share that the judge calls right; `None` without any."""
    specificity: float | None
    """Of those that are wrong, the share that it calls wrong."""
    judged: float | None
    """Share of all the model's answers that it calls right, labelled or not; `None` without a verdict."""
    corrected: float | None
    """The same with the judge's errors taken out; `None` where too few labels or too poor a judge allow it."""
    corrected_interval: tuple[float, float] | None
    """90 % interval of it."""

    def words(self, model: str) -> str:
        """The comparison in one line."""
        if self.judged is None:
            return f"{model}: no verdict"
        if not self.rows:
            return f"{model}: {self.judged:.1%} right by the judge; no row has a label to compare it with"
        told = [
            f"{share:.0%} of those {name} by their label"
            for name, share in (("right", self.sensitivity), ("wrong", self.specificity))
            if share is not None
        ]
        line = (
            f"{model}: {self.judged:.1%} right by the judge, which agrees on {' and '.join(told)} ({self.rows:,} rows)"
        )
        if self.corrected is None or self.corrected_interval is None:
            return f"{line}; too few labels to correct for its errors"
        low, high = self.corrected_interval
        return f"{line}; corrected for its errors {self.corrected:.1%} ({low:.1%} to {high:.1%}, 90 %)"


def agreement(pairs: Sequence[tuple[float, float]], verdicts: Sequence[float]) -> Agreement:
    """One model's verdicts beside its labels.

    Parameters
    ----------
    pairs
        For each labelled answer: how good it is by its label, and the judge's verdict; from one half on is right.
    verdicts
        All verdicts on the model's answers.

    Notes
    -----
    With q1 the sensitivity, q0 the specificity and p the share called right, the accuracy is
    (p + q0 - 1) / (q0 + q1 - 1) (Rogan and Gladen 1978; Lee et al. 2025 for judges), its variance by the delta method.
    It assumes that labelled rows are like the others.
    """
    right = [verdict >= 0.5 for truth, verdict in pairs if truth >= 0.5]
    wrong = [verdict < 0.5 for truth, verdict in pairs if truth < 0.5]
    judged = _share([verdict >= 0.5 for verdict in verdicts])
    q1, q0 = _share(right), _share(wrong)
    found = Agreement(len(pairs), q1, q0, judged, None, None)
    if judged is None or q1 is None or q0 is None or min(len(right), len(wrong)) < FEWEST or q0 + q1 - 1 < _LEAST_SKILL:
        return found
    corrected = min(1.0, max(0.0, (judged + q0 - 1) / (q0 + q1 - 1)))
    variance = (
        _variance(judged, len(verdicts))
        + (1 - corrected) ** 2 * _variance(q0, len(wrong))
        + corrected**2 * _variance(q1, len(right))
    )
    half = _Z90 * math.sqrt(variance) / (q0 + q1 - 1)
    interval = max(0.0, corrected - half), min(1.0, corrected + half)
    return found._replace(corrected=corrected, corrected_interval=interval)


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _variance(share: float, n: int) -> float:
    """Of a share among n, drawn towards one half, so that 0 of n and n of n are not taken for certain."""
    drawn = (share * n + 1) / (n + 2)
    return drawn * (1 - drawn) / (n + 2)
