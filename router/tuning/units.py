"""What counts once: a row that was drawn by itself, or a cluster of rows, by the mean of its rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Units = NDArray[np.intp]


def units_of(cluster: NDArray[np.object_] | None, rows: int) -> Units:
    """The unit of each row: its cluster, or itself."""
    if cluster is None:
        return np.arange(rows)
    number: dict[Any, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in cluster.tolist()], dtype=np.intp)


def unit_count(unit: Units) -> int:
    """How many different units there are."""
    return int(np.count_nonzero(np.bincount(unit)))  # Units are small numbers: counting them beats sorting them.


def codes_of(unit: Units) -> Units:
    """The units numbered from 0 on, without gaps."""
    there = np.bincount(unit) > 0
    return np.asarray((np.cumsum(there) - 1)[unit])


def unit_losses(loss: Floats, unit: Units) -> Floats:
    """One loss for each unit, the mean of its rows: each unit counts once, however many rows it has.

    So its bounds, -1 and 1, are known beforehand. Weights by rows would need a bound on the size of units to come,
    which the largest one seen is not.
    """
    if unit_count(unit) == len(unit):
        return loss
    codes = codes_of(unit)
    return np.asarray(np.bincount(codes, weights=loss) / np.bincount(codes))


def error_of_mean(values: Floats, unit: Units) -> float:
    """The standard error of the mean over rows, of which those of one unit may hang together."""
    spread = values - values.mean()
    if unit_count(unit) == len(unit):
        return float(values.std()) / math.sqrt(len(values))
    sums = np.bincount(unit, weights=spread)
    return math.sqrt(float((sums**2).sum())) / len(values)
