"""All figures of a tune report, computed once: the page, the terminal and `--json` show these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from router.core.tuned import By
from router.tuning.quality import Quality, quality_of
from router.tuning.report.curves import Bin, Curve, Interval, Kept, Point, bins_of, curve_of, risk_coverage
from router.tuning.report.held_out import HeldOut, held_out
from router.tuning.report.mistakes import Mistakes, mistakes_of
from router.tuning.report.spend import Spend, spend_of
from router.tuning.report.worth import Worth, worth_of
from router.tuning.simulate import Realised
from router.tuning.task import TaskTuning
from router.tuning.units import unit_count

# With fewer drafts a reliability diagram or the worth of a signal would be noise.
_FEWEST = 40


@dataclass(frozen=True)
class Drafts:
    """How good the confidence in one model's drafts, or in what a panel says, is on the held-out rows."""

    model: str
    """Its name, or the names of the panel's members that were asked."""
    quality: Quality | None
    """`None` where there are too few rows."""
    bins: tuple[Bin, ...]
    risk_coverage: tuple[Kept, ...]
    wrong: float
    """Share of the drafts that is wrong."""
    kept: Kept | None
    """Where the plan's threshold on this confidence stands; `None` where it has none, or one for each group."""
    signals: tuple[Worth, ...]


@dataclass(frozen=True)
class Report:
    """What a sceptic asks about a plan, from rows that had no part in choosing it."""

    split: str
    """`certify`, `test`, or `crossfit` for all rows, each scored by the fit that left it out."""
    rows: int
    train_rows: int
    clusters: int | None
    """Clusters that the rows are of; `None` for rows one by one."""
    direct: bool
    """Whether the plan asks one model in every call: then drafts and frontier are of the cascade that came closest."""
    by: By
    """What the cascade's thresholds are compared with."""
    curve: Curve
    in_force: Point
    """The plan that calls follow now; NaN where the run cannot tell."""
    drafts: tuple[Drafts, ...]
    """One for each model whose drafts are judged, in the order they are asked."""
    spend: Spend
    mistakes: Mistakes

    def as_json(self) -> Any:
        """The figures as plain JSON, `null` for one that is not known. Never a prompt or an answer."""
        return plain(self)


def plain(value: Any) -> Any:
    """A value as JSON has it: records as objects, and `null` for a number that is none."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_of(tuned: TaskTuning) -> Report:
    """The report on a tuned task."""
    held = held_out(tuned.tuner, tuned.tuning, tuned.certified_on, tuned.target.max_quality_loss)
    units = unit_count(held.table.unit)
    return Report(
        split=held.split,
        rows=held.table.rows,
        train_rows=len(held.tuner.train),
        clusters=units if units < held.table.rows else None,
        direct=tuned.plan.direct,
        by=held.family.by[-1],
        curve=curve_of(held, tuned.target.max_quality_loss),
        in_force=_as_point("in force", tuned.old),
        drafts=tuple(_drafts(held, position) for position in range(len(held.family.rungs) - 1)),
        spend=spend_of(held),
        mistakes=mistakes_of(held),
    )


def _as_point(name: str, one: Realised) -> Point:
    cost, loss = Interval(*one.cost_interval), Interval(*one.loss_interval)
    return Point(name, one.cost, cost, one.loss, loss, float(one.quality.mean()))


def _drafts(held: HeldOut, position: int) -> Drafts:
    """The drafts of one rung of the plan's cascade."""
    rungs, members, names = held.family.rungs, held.family.members(position), held.table.names
    model, earlier = rungs[position], rungs[position - 1] if position else None
    if len(members) > 1:
        p, outcome = held.panel(members)
    else:
        p, outcome = held.confidence(model, earlier), held.table.quality[:, model]
    known = ~np.isnan(p)
    enough = int(known.sum()) >= _FEWEST
    return Drafts(
        model=" + ".join(names[one] for one in members),
        quality=quality_of(p[known], outcome[known]) if enough else None,
        bins=bins_of(p[known], outcome[known]) if enough else (),
        risk_coverage=risk_coverage(p[known], outcome[known]) if enough else (),
        wrong=float(1.0 - outcome.mean()),
        kept=_kept(held, position),
        signals=worth_of(held, members, earlier) if enough else (),
    )


def _kept(held: HeldOut, position: int) -> Kept | None:
    """The share of all drafts at or above the plan's one threshold, and how many of those are wrong."""
    used = [part for part in held.parts if len(part.family.rungs) > 1]
    threshold = used[0].thresholds[position] if len(used) == 1 else None
    if threshold is None or used[0].family.by[position] != "confidence":
        return None
    family = used[0].family
    scores = held.scores(family)
    led = scores.leading[position] if position < len(scores.leading) else None
    kept = scores.draft[position] >= threshold
    whose = np.full(held.table.rows, family.rungs[position]) if led is None else led
    kept &= whose >= 0
    risk = float(1.0 - held.table.quality[kept, whose[kept]].mean()) if kept.any() else math.nan
    return Kept(float(kept.mean()), risk)
