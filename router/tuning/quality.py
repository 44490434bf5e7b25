"""How good a confidence is: five figures, each with an interval, none of which stands alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Groups of the jackknife: enough for a variance, few enough for a million rows.
_GROUPS = 20
_BINS = 10
_Z90 = 1.645
# Certainties count as within this of 0 and 1, as in scikit-learn's log loss for double precision.
_CLIP = float(np.finfo(np.float64).eps)


class Estimate(NamedTuple):
    """A figure with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """What a confidence is worth on rows that it was not fitted on."""

    rows: int
    brier: Estimate
    """Mean squared distance from what happened; 0 is best."""
    log_loss: Estimate
    """Mean of -ln(probability given to what happened), in nats."""
    auroc: Estimate
    """Chance that a right draft has more confidence than a wrong one; NaN where all are alike."""
    risk_coverage_area: Estimate
    """Mean share of wrong drafts among the surest, over every share kept; less is better."""
    calibration_error: Estimate
    """Mean distance between confidence and share right, in ten bins of equal count."""

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON, `null` for one that is not known."""
        figures = {name: getattr(self, name) for name in FIGURES}
        plain = {
            name: {part: value if math.isfinite(value) else None for part, value in one._asdict().items()}
            for name, one in figures.items()
        }
        return {"rows": self.rows, **plain}


def quality_of(p: Floats, outcome: Floats) -> Quality:
    """The five figures of a confidence.

    Parameters
    ----------
    p
        Confidence of each row.
    outcome
        How good each draft was, 0 to 1; for the AUROC above one half counts as right.
    """
    figures = {name: _with_interval(one, p, outcome) for name, one in FIGURES.items()}
    return Quality(rows=len(p), **figures)


def _with_interval(figure: Callable[[Floats, Floats], float], p: Floats, outcome: Floats) -> Estimate:
    """The figure with an interval that ends where the figure does: none is below 0, and only one can be above 1."""
    found = jackknife(lambda rows: figure(p[rows], outcome[rows]), len(p))
    most = math.inf if figure is log_loss else 1.0
    return Estimate(found.value, *(end if math.isnan(end) else min(max(end, 0.0), most) for end in found[1:]))


def jackknife(figure: Callable[[NDArray[np.bool_]], float], rows: int) -> Estimate:
    """A figure of some rows and its 90 % interval by the jackknife: each of twenty groups of rows is left out once."""
    value = figure(np.ones(rows, bool))
    if rows < 2 * _GROUPS or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    group = np.random.default_rng(0).permutation(rows) % _GROUPS
    parts = np.array([figure(group != one) for one in range(_GROUPS)])
    spread = math.sqrt((_GROUPS - 1) / _GROUPS * float(((parts - parts.mean()) ** 2).sum()))
    return Estimate(value, value - _Z90 * spread, value + _Z90 * spread)


def brier(p: Floats, outcome: Floats) -> float:
    """Mean squared distance between confidence and outcome."""
    return float(np.mean((p - outcome) ** 2))


def log_loss(p: Floats, outcome: Floats) -> float:
    """Mean of -ln(probability given to what happened)."""
    clipped = np.clip(p, _CLIP, 1.0 - _CLIP)
    return float(-np.mean(outcome * np.log(clipped) + (1.0 - outcome) * np.log(1.0 - clipped)))


def auroc(p: Floats, outcome: Floats) -> float:
    """Chance that a right draft is surer than a wrong one, ties counting half."""
    right = outcome > 0.5
    wins, losses = int(right.sum()), int((~right).sum())
    if not wins or not losses:
        return math.nan
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((rank[right].sum() - wins * (wins + 1) / 2) / (wins * losses))


def risk_coverage_area(p: Floats, outcome: Floats) -> float:
    """Mean share of wrong drafts among the surest 1, 2, ... n; equal confidences share their outcomes."""
    level = _surest_first(p, outcome)
    return float(np.mean(np.cumsum(1.0 - level) / np.arange(1, len(level) + 1)))


def calibration_error(p: Floats, outcome: Floats) -> float:
    """Mean distance between confidence and outcome in ten bins of equal count; equal confidences share outcomes."""
    sure, level = np.sort(p)[::-1], _surest_first(p, outcome)
    bins = zip(np.array_split(sure, _BINS), np.array_split(level, _BINS), strict=True)
    return float(sum(abs(float((one - other).sum())) for one, other in bins) / len(p))


def _surest_first(p: Floats, outcome: Floats) -> Floats:
    """Outcomes from the surest draft to the least sure; drafts of equal confidence get their mean."""
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    mean = np.bincount(place, weights=outcome) / count
    return np.asarray(np.repeat(mean, count)[::-1])


FIGURES: Mapping[str, Callable[[Floats, Floats], float]] = {
    "brier": brier,
    "log_loss": log_loss,
    "auroc": auroc,
    "risk_coverage_area": risk_coverage_area,
    "calibration_error": calibration_error,
}
