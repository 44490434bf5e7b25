"""Columns of signals to the terms of a logistic curve, and whole columns scored at once.

Which shapes a signal gets is read off its values, never off its name, so that a user's own signal is treated like ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.calibration import TINY, Calibrator, Shape

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]

# The same functions as `router.core.calibration.SHAPES`, for columns; a test holds the two together.
COLUMN_SHAPES: dict[Shape, Callable[[Floats], Floats]] = {
    "linear": lambda values: values,
    "ln1p": lambda values: np.log1p(np.maximum(values, 0.0)),
    "ln": lambda values: np.log(np.maximum(values, TINY)),
    "ln1m": lambda values: np.log(np.maximum(1.0 - values, TINY)),
    "exp": lambda values: np.exp(np.minimum(values, 0.0)),
    "ln1mexp": lambda values: np.log(np.maximum(-np.expm1(np.minimum(values, 0.0)), TINY)),
}


class Term(NamedTuple):
    """One column of the fit: a signal in a shape, or `None` for whether the signal is missing."""

    signal: str
    shape: Shape | None


def terms_of(columns: Columns) -> tuple[Term, ...]:
    """The terms that these columns deserve; a signal that never varies has none."""
    found: list[Term] = []
    for name in sorted(columns):
        values = columns[name]
        known = values[~np.isnan(values)]
        found += [Term(name, shape) for shape in _shapes(known)]
        if 0 < len(known) < len(values):
            found.append(Term(name, None))
    return tuple(found)


def _shapes(known: Floats) -> Sequence[Shape]:
    if not len(known) or known.min() == known.max():
        return ()
    low, high = known.min(), known.max()
    if _is_mark(known, low, high):
        return ("linear",)
    if low >= 0 and high <= 1:
        return ("linear", "ln", "ln1m")
    if high <= 0:
        return ("linear", "exp", "ln1mexp")
    return ("ln1p",) if low >= 0 else ("linear",)


def _is_mark(known: Floats, low: float, high: float) -> bool:
    """Whether a signal has two values only, so that every shape of it says the same."""
    return bool(((known == low) | (known == high)).all())


def matrix(columns: Columns, terms: Sequence[Term]) -> Floats:
    """One column for each term; a missing value becomes the mean of the known ones, its own term says that it is."""
    table = np.empty((len(next(iter(columns.values()), ())), len(terms)))
    for at, (signal, shape) in enumerate(terms):
        values = columns[signal]
        absent = np.isnan(values)
        if shape is None:
            table[:, at] = absent
            continue
        shaped = COLUMN_SHAPES[shape](values)
        if absent.any():
            shaped = np.where(absent, shaped[~absent].mean() if not absent.all() else 0.0, shaped)
        table[:, at] = shaped
    return table


def score(calibrator: Calibrator, columns: Columns, rows: int) -> Floats:
    """What `Calibrator.probability` gives for each row, NaN for `None`."""
    logit = np.full(rows, calibrator.intercept)
    shapes = calibrator.shapes or ("linear",) * len(calibrator.signals)
    added = calibrator.missing or (None,) * len(calibrator.signals)
    parts = zip(calibrator.signals, shapes, calibrator.center, calibrator.scale, calibrator.weights, added, strict=True)
    for name, shape, center, scale, weight, absent in parts:
        values = columns.get(name)
        if values is None:
            logit += np.nan if absent is None else absent
            continue
        term = weight * ((COLUMN_SHAPES[shape](values) - center) / scale)
        logit += term if absent is None else np.where(np.isnan(values), absent, term)
    # Either branch of the sigmoid is computed for all rows; neither overflows.
    small = np.exp(-np.abs(logit))
    p = np.where(logit >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    return np.asarray(np.interp(p, calibrator.knots_x, calibrator.knots_y)) if calibrator.knots_x else p


def first_score(calibrators: Sequence[Calibrator], columns: Columns, rows: int) -> Floats:
    """The probability from the first calibrator that has all its signals, row by row; NaN where none has."""
    found = np.full(rows, np.nan)
    for calibrator in calibrators:
        open_rows = np.isnan(found)
        if not open_rows.any():
            break
        found = np.where(open_rows, score(calibrator, columns, rows), found)
    return found
