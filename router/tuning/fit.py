"""Fitting: columns of signals and outcomes to a `Calibrator` of plain numbers. The door to scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.calibration import Calibrator, Shape
from router.core.evidence import BLOCKS
from router.core.word_scores import WORD_SIGNALS
from router.tuning.features import Columns, Floats, Term, matrix, score, terms_of

# Below a thousand rows an isotonic curve follows the noise (scikit-learn's user guide on calibration says the same).
ISOTONIC_ROWS = 1000
# The folds of a whole fit each; five is what cross-validation is mostly done with.
FOLDS = 5
# With fewer rows than this each of them tells: out-of-fold scores are of ten folds, so that they are nearly as good as
# those of the fit that calls use, and how strongly to fit is chosen. With more rows neither makes a difference.
FEW_ROWS = 5000
# A curve of a dozen numbers is as good from twenty thousand rows as from a million.
MAX_ROWS = 20_000
_CLIP = 1e-9
# Strengths of the fit that are tried, the inverse of the ridge penalty on standardised signals: with many rows any of
# them does, and few rows bear only a weak pull by each signal.
STRENGTHS = (1.0, 0.1, 0.01)
# With more signals than every call reads the pull is no stronger than this while they are chosen.
_CAREFUL = 0.03
# By how many standard errors a block must lower the held-out loss to be read at all: the one-standard-error rule.
_PAYS = 1.0


class Fit(NamedTuple):
    """A calibrator and what it says of its own training rows when each is left out of the fit."""

    calibrator: Calibrator
    out_of_fold: Floats
    log_loss: float
    """Held-out, in nats a row."""


def fold_count(rows: int) -> int:
    """How many folds out-of-fold scores of so many rows are made with."""
    return 2 * FOLDS if rows < FEW_ROWS else FOLDS


def fit(columns: Columns, outcome: Floats, folds: NDArray[np.intp], *, own_signals: Collection[str] = ()) -> Fit:
    """Fit the probability of an outcome from signals.

    Parameters
    ----------
    columns
        Signals by name, NaN where missing.
    outcome
        0 to 1; a graded outcome counts as that share of a success.
    folds
        The fold of each row, from 0 on; copies and clusters share one.
    own_signals
        Names of the signals that are the application's own.
    """
    columns, strength, held_out = _selected(columns, outcome, folds, own_signals)
    plain = _logistic(columns, outcome, terms_of(columns), strength)
    loss = log_loss(held_out, outcome)
    if len(outcome) < ISOTONIC_ROWS or not folds.any():  # Nor is there a curve for rows of one cluster.
        return Fit(plain, held_out, loss)
    stepped = np.empty(len(outcome))
    for fold in range(int(folds.max()) + 1):
        own, others = folds == fold, folds != fold
        knots_x, knots_y = isotonic(held_out[others], outcome[others])
        stepped[own] = np.interp(held_out[own], knots_x, knots_y)
    stepped_loss = log_loss(stepped, outcome)
    if stepped_loss >= loss:
        return Fit(plain, held_out, loss)
    knots_x, knots_y = isotonic(held_out, outcome)
    return Fit(replace(plain, knots_x=tuple(knots_x), knots_y=tuple(knots_y)), stepped, stepped_loss)


def _selected(
    columns: Columns, outcome: Floats, folds: NDArray[np.intp], own_signals: Collection[str]
) -> tuple[Columns, float, Floats]:
    """The columns that say something of held-out rows, how strongly they are fitted, and those rows' probabilities.

    Signals that every call reads are all kept: they cost nothing more. A block of further ones is kept only when it
    lowers the held-out loss by more than its standard error, the best block first. Each of the application's own
    signals is a block by itself.
    """
    blocks: dict[str, list[str]] = {}
    for name in columns:
        alone = name in WORD_SIGNALS or name in own_signals
        blocks.setdefault(name if alone else BLOCKS.get(name, ""), []).append(name)
    kept = {name: columns[name] for name in blocks.pop("", ())}
    strength, best = _strongest(kept, outcome, folds)
    careful = min(strength, _CAREFUL)

    def tried(block: str) -> tuple[float, dict[str, Floats], Floats]:
        more = kept | {name: columns[name] for name in blocks[block]}
        held_out = _out_of_fold(more, outcome, folds, careful)
        gain = row_losses(best, outcome) - row_losses(held_out, outcome)
        error = float(gain.std()) / math.sqrt(len(gain))
        return float(gain.mean()) - _PAYS * error, more, held_out

    free = len(kept)
    first = {block: tried(block) for block in blocks}
    for block in sorted(first, key=lambda block: -first[block][0]):
        gain, more, held_out = first[block] if len(kept) == free else tried(block)
        if gain > 0.0:
            kept, best = more, held_out
    if len(kept) > free:
        strength, best = _strongest(kept, outcome, folds)
    return kept, strength, best


def _strongest(columns: Columns, outcome: Floats, folds: NDArray[np.intp]) -> tuple[float, Floats]:
    """The strength with the lowest held-out loss, and the held-out probabilities; of many rows the first does."""
    strengths = STRENGTHS if len(outcome) < FEW_ROWS else STRENGTHS[:1]
    tried = [(strength, _out_of_fold(columns, outcome, folds, strength)) for strength in strengths]
    return min(tried, key=lambda one: log_loss(one[1], outcome))


def _out_of_fold(columns: Columns, outcome: Floats, folds: NDArray[np.intp], strength: float) -> Floats:
    held_out = np.empty(len(outcome))
    terms = terms_of(columns)
    for fold in range(int(folds.max()) + 1):
        own, others = folds == fold, folds != fold
        part = _logistic(_rows(columns, others), outcome[others], terms, strength)
        held_out[own] = score(part, _rows(columns, own), int(own.sum()))
    # A signal that was missing in this fold only has no score there: all that is known is how often it went well.
    return np.where(np.isnan(held_out), outcome.mean(), held_out)


def _rows(columns: Columns, rows: NDArray[np.bool_]) -> dict[str, Floats]:
    return {name: values[rows] for name, values in columns.items()}


def _logistic(columns: Columns, outcome: Floats, terms: tuple[Term, ...], strength: float) -> Calibrator:
    """Standardised logistic regression; without terms or with one outcome only, the mean as a constant."""
    from sklearn.linear_model import LogisticRegression

    if not terms or not len(outcome) or outcome.min() == outcome.max():
        return _constant(outcome)
    table = matrix(columns, terms)
    spread = table.std(axis=0)
    used = [at for at, _ in enumerate(terms) if spread[at] > 1e-12 * max(1.0, abs(table[:, at]).max())]
    if not used:
        return _constant(outcome)
    center, scale = table[:, used].mean(axis=0), spread[used]
    rows, right, weight = weighted(outcome)
    x = ((table[:, used] - center) / scale)[rows]
    model = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=1000).fit(x, right, sample_weight=weight)
    return _plain([terms[at] for at in used], center, scale, model.coef_[0], float(model.intercept_[0]))


def weighted(outcome: Floats) -> tuple[slice | NDArray[np.intp], NDArray[np.bool_], Floats | None]:
    """Which rows scikit-learn gets, as what and with what weights: a graded one as a success and as a failure."""
    if np.isin(outcome, (0.0, 1.0)).all():
        return slice(None), outcome > 0.5, None
    won, lost = np.flatnonzero(outcome > 0.0), np.flatnonzero(outcome < 1.0)
    right = np.r_[np.ones(len(won), bool), np.zeros(len(lost), bool)]
    return np.r_[won, lost], right, np.r_[outcome[won], 1.0 - outcome[lost]]


def _constant(outcome: Floats) -> Calibrator:
    # One success and one failure more than seen, so that nothing is ever certain (Laplace's rule).
    p = (outcome.sum() + 1.0) / (len(outcome) + 2.0)
    return Calibrator((), (), (), (), float(np.log(p / (1.0 - p))))


def _plain(terms: list[Term], center: Floats, scale: Floats, weights: Floats, intercept: float) -> Calibrator:
    """The fit as numbers: the terms that say "missing" become what their signal's first term adds when it is."""
    absent: dict[str, float] = {}
    for (signal, shape), c, s, w in zip(terms, center, scale, weights, strict=True):
        if shape is None:
            intercept -= float(w * c / s)
            absent[signal] = float(w / s)
    kept = [(term, c, s, w) for term, c, s, w in zip(terms, center, scale, weights, strict=True) if term.shape]
    # A signal that says something only by being missing.
    silent = sorted(set(absent) - {term.signal for term, *_ in kept})
    kept += [(Term(signal, "linear"), 0.0, 1.0, 0.0) for signal in silent]
    added: list[float | None] = []
    for (signal, _), *_ in kept:
        first = signal not in [term.signal for term, *_ in kept[: len(added)]]
        # An imputed term is at its center, so it adds nothing of its own. What closer reading found in every training
        # row may be missing later (a draft without a number), and then says nothing.
        unseen = 0.0 if signal in BLOCKS else None
        added.append((absent[signal] if first else 0.0) if signal in absent else unseen)
    shapes: tuple[Shape, ...] = tuple(term.shape for term, *_ in kept if term.shape)
    return Calibrator(
        signals=tuple(term.signal for term, *_ in kept),
        center=tuple(float(c) for _, c, _, _ in kept),
        scale=tuple(float(s) for _, _, s, _ in kept),
        weights=tuple(float(w) for *_, w in kept),
        intercept=intercept,
        shapes=shapes if any(shape != "linear" for shape in shapes) else (),
        missing=tuple(added) if any(value is not None for value in added) else (),
    )


def isotonic(p: Floats, outcome: Floats) -> tuple[Floats, Floats]:
    """The knots of a centered isotonic curve from probabilities to outcomes.

    scikit-learn's isotonic regression finds the blocks of equal outcome. Each becomes one knot at its center, so that
    the curve rises strictly between them (Oron and Flournoy, 2017) and from 0 to 1 at its ends: a flat piece would make
    all its drafts tie, and no threshold could come between them.
    """
    from sklearn.isotonic import IsotonicRegression

    level = IsotonicRegression(y_min=0.0, y_max=1.0).fit(p, outcome).predict(p)
    height, block, size = np.unique(level, return_inverse=True, return_counts=True)
    center = np.bincount(block, weights=p) / size
    inner = (center > 0.0) & (center < 1.0)
    x, y = np.r_[0.0, center[inner], 1.0], np.r_[0.0, height[inner], 1.0]
    rising = np.r_[True, np.diff(x) > 0]
    return x[rising], y[rising]


def log_loss(p: Floats, outcome: Floats) -> float:
    """Mean of -ln(probability given to what happened); certainties count as within a billionth."""
    return float(row_losses(p, outcome).mean())


def row_losses(p: Floats, outcome: Floats) -> Floats:
    """The same, row by row."""
    clipped = np.clip(p, _CLIP, 1.0 - _CLIP)
    return np.asarray(-(outcome * np.log(clipped) + (1.0 - outcome) * np.log1p(-clipped)))
