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


class LeftOut:
    """For each fold a fit on the rows of the others, of everything: words, choice of signals, strengths and curves."""

    def __init__(self, table: Table, seed: int) -> None:
        self._table, self._seed = table, seed
        self._scores: dict[Family, Scores] = {}

    @cached_property
    def _parts(self) -> list[tuple[Rows, Table, Trained]]:
        folds = folds_of(self._table.unit, FOLDS, self._seed)
        parts = [(np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)) for fold in range(FOLDS)]
        return [(own, self._table.take(own), Trained(self._table.take(others), self._seed)) for own, others in parts]

    def read(self, read: Callable[[Trained, Table], Floats]) -> Floats:
        """What is read off each fold's rows by the fit without them, in the order of the table."""
        return self._joined([read(trained, rows) for _, rows, trained in self._parts])

    def scores(self, family: Family) -> Scores:
        """What a family's thresholds and gates are compared with, for every row."""
        if family not in self._scores:
            parts = [scores_of(rows, family, trained.fitted([family])) for _, rows, trained in self._parts]
            draft, prompt, leading = zip(*parts, strict=True)
            self._scores[family] = Scores(
                tuple(self._joined(one) for one in zip(*draft, strict=True)),
                tuple(self._joined(one) for one in zip(*prompt, strict=True)),
                tuple(
                    None if one[0] is None else self._joined(one).astype(np.intp) for one in zip(*leading, strict=True)
                ),
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
