"""Where the money of a plan goes: answers that were kept, drafts that were not, and judging them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from router.core.pricing import NUSD_PER_USD
from router.tuning.features import Floats
from router.tuning.report.held_out import HeldOut


class Part(NamedTuple):
    """One share of the money."""

    model: str
    what: str
    """`answers`: of this model, given to the caller. `drafts`: paid and not kept. `checks`: judging its drafts."""
    usd_per_call: float
    share: float
    """Of what always the top rung costs."""


class Spend(NamedTuple):
    """What a call costs on average, and on what."""

    top_usd_per_call: float
    """Always the top rung."""
    plan_usd_per_call: float
    parts: tuple[Part, ...]
    """They add up to the plan; parts without money are left out."""
    climbed_share: float
    """Share of the calls that asked more than the first rung, or skipped it."""
    climbing: float
    """What everything asked after the first rung costs, as a share of always the top rung."""
    skipped_share: float
    """Share of the calls whose first draft was skipped, and so not paid."""


def spend_of(held: HeldOut) -> Spend:
    """Split the plan's cost on these rows by model and by what became of the answer."""
    table, whole = held.table, held.outcome()
    top = float(table.cost[:, table.top].mean())
    parts, first_cost, skipped = [], np.zeros(table.rows), np.zeros(table.rows, bool)
    for at, name in enumerate(table.names):
        paid = held.charged(_only(table.cost, at))
        asked = held.charged(_only(np.ones_like(table.cost), at)) > 0
        checks = held.charged(np.zeros_like(table.cost), _only(table.check_cost, at))
        first = np.zeros(table.rows, bool)
        for part in held.parts:
            first = np.where(part.inside, part.family.rungs[0] == at, first)
        first_cost += np.where(first, paid + checks, 0.0)
        skipped |= first & ~asked
        kept = whole.answered == at
        answers, drafts = (paid * kept, paid * ~kept) if table.drafts(at) else (0.0 * paid, 0.0 * paid)
        checks = checks if table.drafts(at) else paid
        for what, cost in (("answers", answers), ("drafts", drafts), ("checks", checks)):
            if cost.any():
                mean = float(cost.mean())
                parts.append(Part(name, what, mean / NUSD_PER_USD, mean / top))
    return Spend(
        top_usd_per_call=top / NUSD_PER_USD,
        plan_usd_per_call=float(whole.cost.mean()) / NUSD_PER_USD,
        parts=tuple(parts),
        climbed_share=float(whole.asked_more.mean()),
        climbing=float((whole.cost - first_cost).mean()) / top,
        skipped_share=float(skipped.mean()),
    )


def _only(costs: Floats, model: int) -> Floats:
    """The same costs with every other model for nothing."""
    one = np.zeros_like(costs)
    one[:, model] = costs[:, model]
    return one
