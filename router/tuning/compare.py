"""A plan beside what else could be done, on one cost axis that charges every draft; and one plan against another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from router.core.plan import Plan
from router.tuning.result import Tuning
from router.tuning.runs import EvalRun
from router.tuning.simulate import Interval, Realised, interval, simulate
from router.tuning.units import Floats, Units, unit_losses, units_of


class Choice(NamedTuple):
    """One way to answer every row."""

    name: str
    cost: float
    """Mean cost as a share of always the top rung."""
    loss: float
    """Mean quality lost against the top rung: by row, or by cluster where the run has clusters."""


class Change(NamedTuple):
    """What one plan costs and loses more than another on the same rows; below 0 where it is less."""

    cost: float
    """As a share of always the top rung."""
    cost_interval: Interval
    loss: float
    """By row, or by cluster where the run has clusters."""
    loss_interval: Interval


def compare(tuning: Tuning, run: EvalRun, target: float, *, in_force: Plan | None = None) -> tuple[Choice, ...]:
    """The plan, each model alone, the best of those within the target, climbing at random, and the oracle.

    `random` climbs from the cheapest model to the top as often as the plan climbs. `oracle` pays for the cheapest
    model's draft and climbs to the cheapest model that is better, where there is one. With `in_force`, such as
    `Router().plan(task)`, also what calls do now.
    """
    quality, cost, unit = run.quality, run.cost_nusd, units_of(run.cluster, run.rows)
    top = float(cost[:, -1].mean())
    lost = quality[:, -1:] - quality
    shares = (cost.mean(axis=0) / top).tolist()
    losses = [float(unit_losses(lost[:, at], unit).mean()) for at in range(len(run.models))]
    alone = [Choice(*each) for each in zip(run.models, shares, losses, strict=True)]
    applied = tuning.apply(run)
    climbs = float(applied.escalated.mean())
    by_chance = Choice("random", alone[0].cost + climbs, (1.0 - climbs) * alone[0].loss)
    static = min((one for one in alone if one.loss <= target), key=lambda one: one.cost)
    best, price = oracle_of(quality, cost)
    spared = unit_losses(lost[np.arange(run.rows), best], unit)
    oracle = Choice("oracle", float(price.mean() / top), float(spared.mean()))
    old = [] if in_force is None else [_now(simulate(in_force, run))]
    ours = Choice("plan", 1.0 + applied.cost_change, float(unit_losses(applied.loss, unit).mean()))
    return (*alone, by_chance, static._replace(name=f"best alone ({static.name})"), oracle, *old, ours)


def oracle_of(quality: Floats, cost: Floats) -> tuple[Units, Floats]:
    """Which model an oracle keeps in each row, the cheapest of the best, and what that costs with the first draft."""
    best = np.argmax(quality == quality.max(axis=1, keepdims=True), axis=1)
    return best, cost[:, 0] + np.where(best > 0, cost[np.arange(len(cost)), best], 0.0)


def _now(realised: Realised) -> Choice:
    return Choice("in force", realised.cost, realised.loss)


def change(old: Realised, new: Realised) -> Change:
    """What the new plan costs and loses more than the old one, row by row, with 90 % intervals."""
    top = float(new.top_cost_nusd.mean())
    cost = (new.cost_nusd - old.cost_nusd) / top
    loss = new.unit_losses(old.quality - new.quality)
    return Change(float(cost.mean()), interval(cost, new.unit), float(loss.mean()), interval(loss))
