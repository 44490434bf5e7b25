"""A plan beside what else could be done, on one cost axis that charges every draft."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from router.tuning.result import Tuning
from router.tuning.runs import EvalRun


class Choice(NamedTuple):
    """One way to answer every row."""

    name: str
    cost: float
    """Mean cost as a share of always the top rung."""
    loss: float
    """Mean quality lost against the top rung."""


def compare(tuning: Tuning, run: EvalRun, target: float) -> tuple[Choice, ...]:
    """The plan, each model alone, the best of those within the target, climbing at random, and the oracle.

    `random` climbs from the cheapest model to the top as often as the plan climbs. `oracle` pays for the cheapest
    model's draft and climbs to the cheapest model that is better, where there is one.
    """
    quality, cost = run.quality, run.cost_nusd
    top = float(cost[:, -1].mean())
    lost = quality[:, -1:] - quality
    shares, losses = (cost.mean(axis=0) / top).tolist(), lost.mean(axis=0).tolist()
    alone = [Choice(*each) for each in zip(run.models, shares, losses, strict=True)]
    applied = tuning.apply(run)
    climbs = float(applied.escalated.mean())
    by_chance = Choice("random", alone[0].cost + climbs, (1.0 - climbs) * alone[0].loss)
    static = min((one for one in alone if one.loss <= target), key=lambda one: one.cost)
    best = np.argmax(quality == quality.max(axis=1, keepdims=True), axis=1)
    rows = np.arange(run.rows)
    price = cost[:, 0] + np.where(best > 0, cost[rows, best], 0.0)
    oracle = Choice("oracle", float(price.mean() / top), float(lost[rows, best].mean()))
    ours = Choice("plan", 1.0 + applied.cost_change, float(applied.loss.mean()))
    return (*alone, by_chance, static._replace(name=f"best alone ({static.name})"), oracle, ours)
