"""The rows that a report speaks of, and what plan and confidence say of them without having seen their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.tuned import TunedRung
from router.tuning.features import Floats
from router.tuning.plans import Family, Outcome, Scores, family_of, follow, scores_of
from router.tuning.result import Tuning
from router.tuning.search import between, choose, drafts_of
from router.tuning.table import Rows, Table
from router.tuning.trained import Trained
from router.tuning.tune import Tuner


class Part(NamedTuple):
    """Rows that one sequence of rungs answers: all of them, or those of a group."""

    inside: NDArray[np.bool_]
    family: Family
    thresholds: tuple[float | None, ...]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows with the plan that was found for them, scored by fits that these rows had no part in."""

    tuner: Tuner
    rows: Rows
    table: Table
    parts: tuple[Part, ...]
    family: Family
    """Of the plan's cascade; for a plan of one rung the family that was predicted to be cheapest."""

    @property
    def crossfit(self) -> bool:
        """Whether every row was also fitted on, and is scored by the fit that left it out."""
        return self.tuner.method == "crossfit"

    @property
    def split(self) -> str:
        """Which part of the run it is."""
        if self.crossfit:
            return "crossfit"
        return "certify" if bool(np.isin(self.rows, self.tuner.certify).all()) else "test"

    def scores(self, family: Family) -> Scores:
        """What the thresholds and gates of a family are compared with."""
        trained = self.tuner.trained
        if self.crossfit:
            return self.tuner.left_out.scores(family, trained.scores(family)).take(self.rows)
        return scores_of(self.table, family, trained.fitted([family]))

    def confidence(self, model: int, earlier: int | None = None) -> Floats:
        """Confidence in a model's drafts; NaN where there is none."""
        return self._read(lambda trained, table: trained.confidence_of(table, model, earlier))

    def panel(self, members: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Confidence in what a panel's first members say together, NaN where there is none, and how good that is."""
        p = self._read(lambda trained, table: trained.panel_of(table, members)[0])
        lead = self._read(lambda trained, table: trained.panel_of(table, members)[1].astype(float)).astype(np.intp)
        return p, self.table.led_quality(lead)

    def _read(self, read: Callable[[Trained, Table], Floats]) -> Floats:
        """What fits say of the rows that had no part in them."""
        if self.crossfit:
            return self.tuner.left_out.read(read)[self.rows]
        return read(self.tuner.trained, self.table)

    def settings(self, most: int) -> Floats:
        """Thresholds of the family at equal shares of the training drafts, strict to loose."""
        trained, family = self.tuner.trained, self.family
        scores = (
            self.tuner.left_out.scores(family, trained.scores(family))
            if self.crossfit
            else scores_of(trained.train, family, trained.fitted([family]))
        )
        drafts = drafts_of(family, scores)
        return between(drafts, np.quantile(drafts, np.linspace(0.0, 1.0, most))) if len(drafts) else drafts

    def outcome(self, table: Table | None = None) -> Outcome:
        """What the plan does on the rows, or on the same rows with other costs."""
        table = table or self.table
        found: Outcome | None = None
        for part in self.parts:
            own = follow(table, part.family, self.scores(part.family), part.thresholds)
            found = own if found is None else _where(part.inside, own, found)
        assert found is not None
        return found

    def charged(self, costs: Floats, checks: Floats | None = None) -> Floats:
        """What the plan costs on the rows if answers cost this and judging drafts that, or nothing."""
        return self.outcome(
            replace(self.table, cost=costs, check_cost=np.zeros_like(costs) if checks is None else checks)
        ).cost


def held_out(tuner: Tuner, tuning: Tuning, rows: Rows, target: float) -> HeldOut:
    """The rows of a run that a report on this tuning speaks of.

    Parameters
    ----------
    tuner
        What the tuning came from, with its fits.
    tuning
        The plan.
    rows
        Places of the rows in the tuner's table.
    target
        Largest mean loss that was asked for.
    """
    table, plan = tuner.table.take(rows), tuning.plan
    names = None if table.run.group is None else np.array([str(value) for value in table.run.group.tolist()], object)
    parts = [_part(np.ones(table.rows, bool), plan.rungs, table.names)]
    if names is not None:
        parts += [_part(names == name, rungs, table.names) for name, rungs in plan.groups.items()]
    cascade = next((part.family for part in reversed(parts) if len(part.family.rungs) > 1), None)
    if cascade is None:
        confidence = tuning.certificate.at_confidence if tuning.certificate else 0.95
        cascade = choose(tuner.trained, target, 1.0 - confidence, len(tuner.certify)).family
    return HeldOut(tuner, rows, table, tuple(parts), cascade)


def _part(inside: NDArray[np.bool_], rungs: Sequence[TunedRung], models: Sequence[str]) -> Part:
    return Part(inside, *family_of(rungs, models))


def _where(inside: NDArray[np.bool_], own: Outcome, other: Outcome) -> Outcome:
    return Outcome(*(np.where(inside, one, rest) for one, rest in zip(own, other, strict=True)))
