"""What was found beside what is in force, on some rows: what `router tune` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.core.plan import Panel, Plan, follow
from router.core.policy import Target
from router.errors import TuningError
from router.tuning.compare import Change, Choice, change, compare
from router.tuning.plans import Heads
from router.tuning.quality import Quality
from router.tuning.result import Tuning
from router.tuning.runs import EvalRun
from router.tuning.simulate import Realised, simulate
from router.tuning.table import Rows, Table, prepare, split

# Plans are shown on at most so many rows, which stand in the order of digests: a fair sample.
SHOWN_ROWS = 50_000
# Of the test split alone: the same rows whatever the seed of the tuning, so that no other seed ever tunes on them.
_TEST_SEED = 20_261
MAX_TEST_SHARE = 0.8


@dataclass(frozen=True)
class Shown:
    """Old and new plan on the same rows, among everything else that could be done."""

    rows: int
    old: Realised
    """The plan in force."""
    new: Realised
    """The plan that was found."""
    change: Change
    """What the new plan costs and loses more than the old one."""
    choices: tuple[Choice, ...]
    """Each model alone, chance, an oracle, the plan in force and the plan found."""
    quality: Mapping[str, Quality]
    """By model, and by the members of a panel, what the fitted confidence in drafts is worth."""

    def as_json(self) -> dict[str, Any]:
        """The figures, for machines."""
        return {
            "rows": self.rows,
            "in_force": self.old.as_json(),
            "found": self.new.as_json(),
            "change": self.change._asdict(),
            "choices": [one._asdict() for one in self.choices],
            "quality": {name: one.as_json() for name, one in self.quality.items()},
        }


def shown_on(in_force: Plan, found: Tuning, run: EvalRun, target: Target) -> Shown:
    """The report on the rows of a run."""
    rows = run if run.rows <= SHOWN_ROWS else run.take(np.arange(SHOWN_ROWS))
    old, new = simulate(in_force, rows), simulate(planned(in_force, found), rows)
    choices = compare(found, rows, target.max_quality_loss, in_force=in_force)
    return Shown(rows.rows, old, new, change(old, new), choices, found.calibration(rows))


def held_out(run: EvalRun, share: float) -> tuple[EvalRun, EvalRun | None]:
    """The rows to tune with, and those of the test split, which tuning never sees: whole clusters, drawn by chance.

    Raises
    ------
    TuningError
        The share is not within 0 and 0.8.
    """
    if not 0.0 <= share <= MAX_TEST_SHARE:
        raise TuningError(f"test_share: {share} is not within 0 to {MAX_TEST_SHARE:g}", needed=0)
    if share == 0.0:
        return run, None
    table = prepare(run)
    test, mine = split(table.unit, share, table.rows, _TEST_SEED)
    return table.run.take(mine), filled(table, test)


def filled(table: Table, rows: Rows) -> EvalRun:
    """These rows of a run with every gap filled against the plan, as tuning has them."""
    run, models = table.run.take(rows), len(table.run.models)
    asking = dict(zip(run.questions, table.cost[rows, models:].T, strict=True))
    questions = {key: own._replace(cost_nusd=asking[key]) for key, own in run.questions.items()}
    return replace(run, quality=table.quality[rows], cost_nusd=table.cost[rows, :models], questions=questions)


def planned(plan: Plan, found: Tuning) -> Plan:
    """The plan that calls would follow if what was found were in force."""
    heads = {rung.key: found.fitted.models.get(rung.key, Heads()) for rung in plan.rungs}  # A question has none.
    ladder = tuple(
        replace(
            rung,
            calibrators=heads[rung.key].confidence,
            last=heads[rung.key].last,
            prompt=heads[rung.key].prompt,
            words=heads[rung.key].words,
            alone=(),
            confidence_source="tuned",
            threshold=None,
            skip="",
            spare=False,
        )
        for rung in plan.rungs
    )
    panels = {keys: Panel(own.confidence, own.last) for keys, own in found.fitted.panels.items()}
    groups = {name: follow(ladder, rungs, panels) for name, rungs in found.plan.groups.items()}
    return replace(plan, rungs=follow(ladder, found.plan.rungs, panels), group=found.plan.group, groups=groups)
