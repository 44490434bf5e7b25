"""The numbers of a report's curves: cost against quality with every draft charged, reliability, risk and coverage."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from router.tuning.compare import oracle_of
from router.tuning.features import Floats
from router.tuning.plans import follow
from router.tuning.report.held_out import HeldOut
from router.tuning.simulate import interval
from router.tuning.table import Table
from router.tuning.units import unit_losses

# Two-sided 90 %.
Z90 = 1.6448536269514722
# Thresholds of the frontier, at equal shares of the drafts.
_SETTINGS = 41
# Bins of a reliability diagram, and the fewest rows that deserve a bin.
_BINS, _BIN_ROWS = 10, 20
# Bins whose mean confidences are closer could not be told apart in a diagram.
_APART = 0.04
# Places of a curve that a chart can tell apart.
_PLACES = 120


class Interval(NamedTuple):
    """The ends of a 90 % interval."""

    low: float
    high: float


class Point(NamedTuple):
    """One way to answer every row."""

    name: str
    cost: float
    """Mean cost as a share of always the top rung, drafts and checks included."""
    cost_interval: Interval
    loss: float
    """Mean quality lost against always the top rung: by row, or by cluster where the run has clusters."""
    loss_interval: Interval
    quality: float
    """Mean quality."""


class Setting(NamedTuple):
    """One threshold of the plan's family."""

    threshold: float
    cost: float
    loss: float


class Curve(NamedTuple):
    """Cost against quality."""

    models: tuple[Point, ...]
    """Each model alone; the last one is the top rung."""
    best_alone: str
    """The cheapest model that alone keeps the target on these rows."""
    mix: tuple[str, str]
    """The two models whose random mix loses least for what it saves; it is the straight line between their points."""
    oracle: Point
    """Pays the cheapest draft and climbs only where that helps."""
    frontier: tuple[Setting, ...]
    """Strict to loose, thresholds from the training rows."""
    plan: Point


class Bin(NamedTuple):
    """Drafts of about the same confidence."""

    rows: int
    confidence: float
    right: float
    """Share of them that is right."""
    interval: Interval


class Kept(NamedTuple):
    """The surest drafts."""

    coverage: float
    """Their share of all drafts."""
    risk: float
    """Share of them that is wrong."""


def curve_of(held: HeldOut, target: float) -> Curve:
    """Every way to answer the rows, on one cost axis."""
    table = held.table
    models = tuple(
        _point(name, table, table.cost[:, at], table.quality[:, at]) for at, name in enumerate(table.run.models)
    )
    plan = held.outcome()
    return Curve(
        models=models,
        best_alone=min((one for one in models if one.loss <= target), key=lambda one: one.cost).name,
        mix=_mix(models),
        oracle=_oracle(table),
        frontier=_frontier(held),
        plan=_point("plan", table, plan.cost, table.quality[np.arange(table.rows), plan.answered]),
    )


def _point(name: str, table: Table, cost: Floats, quality: Floats) -> Point:
    top_cost, lost = table.cost[:, table.top], unit_losses(table.quality[:, table.top] - quality, table.unit)
    share = float(cost.mean() / top_cost.mean())
    # The delta method for a ratio of two means of the same rows.
    low, high = interval((cost - share * top_cost) / top_cost.mean(), table.unit)
    cost_interval = Interval(share + low, share + high)
    return Point(name, share, cost_interval, float(lost.mean()), Interval(*interval(lost)), float(quality.mean()))


def _mix(models: tuple[Point, ...]) -> tuple[str, str]:
    top = models[-1]
    cheaper = [one for one in models[:-1] if one.cost < top.cost] or [models[0]]
    return min(cheaper, key=lambda one: one.loss / max(top.cost - one.cost, 1e-12)).name, top.name


def _oracle(table: Table) -> Point:
    best, cost = oracle_of(table.quality, table.cost[:, : table.top + 1])
    return _point("oracle", table, cost, table.quality[np.arange(table.rows), best])


def _frontier(held: HeldOut) -> tuple[Setting, ...]:
    family, table = held.family, held.table
    scores, top = held.scores(family), float(table.cost[:, table.top].mean())
    found = []
    for threshold in held.settings(_SETTINGS).tolist():
        one = follow(table, family, scores, family.thresholds(threshold))
        found.append(Setting(threshold, float(one.cost.mean()) / top, float(unit_losses(one.loss, table.unit).mean())))
    return tuple(found)


def bins_of(p: Floats, outcome: Floats) -> tuple[Bin, ...]:
    """Drafts in at most ten bins of about equal count, unsure to sure; neighbours of nearly one confidence merged."""
    count = min(_BINS, len(p) // _BIN_ROWS)
    if not count:
        return ()
    _, place, size = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(size) - size / 2
    bins = np.minimum((middle * count / len(p)).astype(int), count - 1)[place]
    found: list[Bin] = []
    members = np.zeros(len(p), bool)
    for one in np.unique(bins):
        inside = bins == one
        apart = not found or p[inside].mean() - found[-1].confidence >= _APART
        members = inside if apart else members | inside
        right, rows = float(outcome[members].mean()), int(members.sum())
        merged = Bin(rows, float(p[members].mean()), right, wilson(right, rows))
        found = [*found, merged] if apart else [*found[:-1], merged]
    return tuple(found)


def wilson(share: float, rows: int) -> Interval:
    """The 90 % interval of a share by Wilson's score, which is never outside 0 to 1 nor empty at its ends."""
    z2 = Z90**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z90 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def risk_coverage(p: Floats, outcome: Floats) -> tuple[Kept, ...]:
    """How many of the surest drafts are wrong, for every share kept that some threshold can keep."""
    _, place, size = np.unique(-p, return_inverse=True, return_counts=True)
    kept = np.cumsum(size)
    wrong = np.cumsum(np.bincount(place, weights=1.0 - outcome))
    coverage, risk = kept / len(p), wrong / kept
    shown = np.unique(np.searchsorted(coverage, np.linspace(0.0, 1.0, _PLACES + 1)[1:]).clip(0, len(coverage) - 1))
    return tuple(Kept(float(coverage[at]), float(risk[at])) for at in shown)
