"""What each signal is worth: how much worse the confidence gets without it, on rows that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from router.tuning.features import Columns, Floats, first_score
from router.tuning.fit import fit, fold_count
from router.tuning.quality import Estimate, auroc, jackknife, log_loss
from router.tuning.report.held_out import HeldOut
from router.tuning.table import Rows, Table, folds_of
from router.tuning.trained import Trained

# More rows than these change no digit that is shown.
_FIT_ROWS, _SHOWN_ROWS = 5_000, 10_000


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


def worth_of(held: HeldOut, members: tuple[int, ...], earlier: int | None = None) -> tuple[Worth, ...]:
    """Every signal that the confidence in drafts uses, the one that is missed most first.

    Parameters
    ----------
    held
        The rows.
    members
        Column of the model whose drafts are judged, or of the panel's members that were asked.
    earlier
        Column of the model that was asked before, for agreement; `None` for the first, and for a panel.
    """
    panel, trained = len(members) > 1, held.tuner.trained
    refits = _of_panel(held, members) if panel else _of_drafts(held, members[0], earlier)
    used = (trained.panel(members) if panel else trained.confidence(members[0], earlier)).calibrator.signals
    outcome, names = refits.outcome, set(refits.columns)
    full = refits.confidence(names)
    found = []
    for name in dict.fromkeys(used):
        without, alone = refits.confidence(names - {name}), refits.confidence({name})
        known = float((~np.isnan(refits.columns[name])).mean()) if name in names else 0.0
        drop = _difference(auroc, full, without, outcome)
        rise = _difference(log_loss, without, full, outcome)
        found.append(Worth(name, known, drop, rise, auroc(alone, outcome)))
    return tuple(sorted(found, key=lambda one: -one.log_loss_rise.value))


@dataclass(frozen=True, eq=False)
class _Refits:
    """Fits to some of the signals, on as many rows as it takes to tell them apart."""

    crossfit: bool
    trained: Columns
    trained_outcome: Floats
    folds: Rows
    columns: Columns
    outcome: Floats
    own_signals: Collection[str] = ()

    def confidence(self, names: set[str]) -> Floats:
        """The confidence in the drafts, from these signals only."""
        fitted = fit(_some(self.trained, names), self.trained_outcome, self.folds, own_signals=self.own_signals)
        if self.crossfit:
            return fitted.out_of_fold
        p = first_score((fitted.calibrator,), _some(self.columns, names), len(self.outcome))
        # Where none of the signals is at hand, all that is known is how often drafts are right.
        return np.where(np.isnan(p), self.trained_outcome.mean(), p)


def _of_drafts(held: HeldOut, model: int, earlier: int | None) -> _Refits:
    trained, train, shown = _samples(held)
    return _Refits(
        crossfit=held.crossfit,
        trained=train.columns(model, earlier),
        trained_outcome=train.quality[:, model],
        folds=folds_of(train.unit, fold_count(train.rows), held.tuner.seed),
        columns=trained.columns(shown, model, earlier),
        outcome=shown.quality[:, model],
        own_signals=train.run.own_signals,
    )


def _of_panel(held: HeldOut, members: tuple[int, ...]) -> _Refits:
    trained, train, shown = _samples(held)
    signals, lead = trained.panel_signals(members)
    rows = _sample(trained.train, _FIT_ROWS)
    known, leads = ({name: one[rows] for name, one in signals.items()}, lead[rows])
    columns, shown_leads = (known, leads) if held.crossfit else trained.panel_columns(shown, members)
    return _Refits(
        crossfit=held.crossfit,
        trained=known,
        trained_outcome=train.led_quality(leads),
        folds=folds_of(train.unit, fold_count(train.rows), held.tuner.seed),
        columns=columns,
        outcome=shown.led_quality(shown_leads),
    )


def _samples(held: HeldOut) -> tuple[Trained, Table, Table]:
    """What was fitted, some of the rows that it was fitted on, and some that it is shown on."""
    trained = held.tuner.trained
    train = trained.train.take(_sample(trained.train, _FIT_ROWS))
    return trained, train, train if held.crossfit else held.table.take(_sample(held.table, _SHOWN_ROWS))


def _sample(table: Table, most: int) -> Rows:
    return np.sort(np.random.default_rng(0).permutation(table.rows)[:most])


def _some(columns: Columns, names: set[str]) -> dict[str, Floats]:
    return {name: values for name, values in columns.items() if name in names}


def _difference(figure: Callable[[Floats, Floats], float], one: Floats, other: Floats, outcome: Floats) -> Estimate:
    return jackknife(lambda rows: figure(one[rows], outcome[rows]) - figure(other[rows], outcome[rows]), len(outcome))
