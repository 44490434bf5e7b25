"""Scores of rows that are fitted on and certified on: each by fits that never saw it, nor any row of its fold."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from router.tuning.features import Floats, first_score
from router.tuning.fit import FOLDS
from router.tuning.plans import Scores, scores_of
from router.tuning.search import Family, Trained
from router.tuning.table import Rows, Table, folds_of


class LeftOut:
    """One whole fit for each fold, on the rows of the others: words, choice of signals, strengths and curves."""

    def __init__(self, table: Table, seed: int) -> None:
        self._table, self._seed = table, seed
        self._found: dict[Family, Scores] = {}

    @cached_property
    def _parts(self) -> list[tuple[Rows, Table, Trained]]:
        folds = folds_of(self._table.unit, FOLDS, self._seed)
        parts = [(np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)) for fold in range(FOLDS)]
        return [(own, self._table.take(own), Trained(self._table.take(others), self._seed)) for own, others in parts]

    def scores(self, family: Family) -> Scores:
        """What a family's thresholds and gates are compared with, for every row."""
        if family not in self._found:
            parts = [scores_of(table, family.rungs, family.by, one.heads(family)) for _, table, one in self._parts]
            self._found[family] = Scores(
                *(tuple(map(self._joined, zip(*kind, strict=True))) for kind in zip(*parts, strict=True))
            )
        return self._found[family]

    def confidence(self, model: int, earlier: int | None = None) -> Floats:
        """Confidence in a model's drafts, for every row; NaN where there is none."""
        return self._joined(
            [
                first_score(
                    (one.confidence(model, earlier).calibrator,), one.columns(table, model, earlier), table.rows
                )
                for _, table, one in self._parts
            ]
        )

    def _joined(self, by_fold: Iterable[Floats]) -> Floats:
        whole = np.full(self._table.rows, np.nan)
        for (own, _, _), values in zip(self._parts, by_fold, strict=True):
            whole[own] = values
        return whole
