"""What each signal is worth: how much worse the confidence gets without it, on rows that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from router.tuning.features import Columns, Floats, first_score
from router.tuning.fit import FOLDS, fit
from router.tuning.quality import Estimate, auroc, jackknife, log_loss
from router.tuning.report.held_out import HeldOut
from router.tuning.table import folds_of


class Worth(NamedTuple):
    """One signal of one model's drafts."""

    signal: str
    known: float
    """Share of the drafts that have it."""
    auroc_drop: Estimate
    """How much less the confidence tells right from wrong without it; below 0 it does better without."""
    log_loss_rise: Estimate
    """How much worse the confidence fits what happened without it, in nats."""
    auroc_alone: float
    """What it tells without any other signal."""


def worth_of(held: HeldOut, model: int, earlier: int | None) -> tuple[Worth, ...]:
    """Every signal that the confidence in a model's drafts uses, the one that is missed most first.

    Parameters
    ----------
    held
        The rows.
    model
        Column of the model whose drafts are judged.
    earlier
        Column of the model that was asked before, for agreement; `None` for the first.
    """
    whole = held.tuner.trained.confidence(model, earlier).calibrator
    outcome, full = held.table.quality[:, model], held.confidence(model, earlier)
    columns = held.table.columns(model, earlier)
    found = []
    for name in dict.fromkeys(whole.signals):
        without = _refitted(held, model, earlier, {*columns} - {name})
        alone = _refitted(held, model, earlier, {name})
        known = float((~np.isnan(columns[name])).mean()) if name in columns else 0.0
        drop = _difference(auroc, full, without, outcome)
        rise = _difference(log_loss, without, full, outcome)
        found.append(Worth(name, known, drop, rise, auroc(alone, outcome)))
    return tuple(sorted(found, key=lambda one: -one.log_loss_rise.value))


def _refitted(held: HeldOut, model: int, earlier: int | None, wanted: Collection[str]) -> Floats:
    """The confidence of a fit to some of the signals."""
    train, rows = held.tuner.trained.train, held.table.rows

    def some(columns: Columns) -> dict[str, Floats]:
        return {name: values for name, values in columns.items() if name in wanted}

    folds = folds_of(train.unit, FOLDS, held.tuner.seed)
    fitted = fit(some(train.columns(model, earlier)), train.quality[:, model], folds)
    if held.crossfit:
        return fitted.out_of_fold[held.rows]
    p = first_score((fitted.calibrator,), some(held.table.columns(model, earlier)), rows)
    # Where none of the signals is at hand, all that is known is how often drafts are right.
    return np.where(np.isnan(p), train.quality[:, model].mean(), p)


def _difference(figure: Callable[[Floats, Floats], float], one: Floats, other: Floats, outcome: Floats) -> Estimate:
    usable = ~(np.isnan(one) | np.isnan(other))
    one, other, outcome = one[usable], other[usable], outcome[usable]
    return jackknife(lambda rows: figure(one[rows], outcome[rows]) - figure(other[rows], outcome[rows]), len(outcome))
