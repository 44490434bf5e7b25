"""What fits say of rows that they were not fitted on, where every row is fitted on: one whole fit for each fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from router.tuning.features import Floats
from router.tuning.fit import FOLDS
from router.tuning.plans import Family, Scores, scores_of
from router.tuning.table import Rows, Table, folds_of
from router.tuning.trained import Trained

# How finely places among scores are told apart.
_PLACES = 201


class LeftOut:
    """For each fold a fit on the rows of the others, of everything: words, choice of signals, strengths and curves."""

    def __init__(self, table: Table, seed: int) -> None:
        self._table, self._seed = table, seed
        self._scores: dict[Family, Scores] = {}

    @cached_property
    def _parts(self) -> list[tuple[Rows, Table, Trained]]:
        folds = folds_of(self._table.unit, FOLDS, self._seed)
        parts = [(np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)) for fold in range(FOLDS)]
        # Their own scores only place those of the rows that were left out: five folds of few rows do for that.
        return [
            (own, self._table.take(own), Trained(self._table.take(others), self._seed, FOLDS)) for own, others in parts
        ]

    def read(self, read: Callable[[Trained, Table], Floats]) -> Floats:
        """What is read off each fold's rows by the fit without them, in the order of the table."""
        return self._joined([read(trained, rows) for _, rows, trained in self._parts])

    def scores(self, family: Family, used: Scores) -> Scores:
        """What a family's thresholds and gates are compared with, for every row, on the scale of the fit that is used.

        Parameters
        ----------
        family
            The plans.
        used
            Out-of-fold scores of the fit on every row. Fits differ in how far apart their scores lie, so a score counts
            by its place among those of its own fit, and becomes what is at that place among these.
        """
        if family not in self._scores:
            parts = []
            for _, rows, trained in self._parts:
                found, own = scores_of(rows, family, trained.fitted([family])), trained.scores(family)
                draft = tuple(map(on_scale, found.draft, own.draft, used.draft))
                prompt = tuple(map(on_scale, found.prompt, own.prompt, used.prompt))
                parts.append(Scores(draft, prompt, found.leading))
            drafts, prompts, leading = zip(*parts, strict=True)
            self._scores[family] = Scores(
                tuple(self._joined(one) for one in zip(*drafts, strict=True)),
                tuple(self._joined(one) for one in zip(*prompts, strict=True)),
                tuple(self._leading(one) for one in zip(*leading, strict=True)),
            )
        return self._scores[family]

    def _leading(self, parts: Sequence[Rows | None]) -> Rows | None:
        known = [one.astype(float) for one in parts if one is not None]
        return self._joined(known).astype(np.intp) if known else None

    def _joined(self, parts: Sequence[Floats]) -> Floats:
        whole = np.empty(self._table.rows)
        for (own, _, _), values in zip(self._parts, parts, strict=True):
            whole[own] = values
        return whole


def on_scale(values: Floats, own: Floats, wanted: Floats) -> Floats:
    """Values on the scale of other scores: each becomes what stands among `wanted` where it stands among `own`."""
    own, wanted = own[~np.isnan(own)], wanted[~np.isnan(wanted)]
    if not len(own) or not len(wanted):
        return values
    shares = np.linspace(0.0, 1.0, _PLACES)
    known, place = np.unique(np.quantile(own, shares), return_inverse=True)
    # Scores that tie are at the middle of their places.
    there = np.quantile(wanted, np.bincount(place, weights=shares) / np.bincount(place))
    beyond = np.minimum(values - known[0], 0.0) + np.maximum(values - known[-1], 0.0)
    return np.asarray(np.interp(values, known, there) + beyond)
