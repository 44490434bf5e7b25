"""Where the money went, line by line, and what the top rung alone would have cost.

Every request is on exactly one line, so the lines add up to everything that was spent.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from typing import Any, NamedTuple

from router.audit.query import Filters, Query
from router.core.pricing import usd
from router.ledger.families import ATTEMPTS, ROUTES
from router.ledger.lines import LINES

FEWEST_PAIRS = 30
"""Calls of a task with a draft and the top rung's answer that an interval needs."""
_Z95 = 1.959964

ABOUT: dict[str, str] = {
    "first": "first answers: the first rung that a call asked",
    "panel": "panels: answers of every further member",
    "sample": "samples: answers of a model that was asked again",
    "escalation": "escalations: answers of every rung above",
    "judge": "a judge's verdicts on drafts",
    "p_true": "P(True): a model's yes or no to a draft",
    "stated": "stated confidence: the chance that a model gives a draft",
    "retry": "retries: answers that came at the second try or later",
    "invalid": "invalid drafts: replies that did not fit the answer kind",
    "failed": "failed requests, as far as the provider bills them",
    "maybe_billed": "timeouts and broken connections: maybe billed",
    "unpriced": "replies of a model whose price is unknown",
    "unknown": "requests of processes that died, and replies nobody counted",
    "not_sent": "requests that never left, such as without a key",
}


@dataclass(frozen=True, slots=True)
class CostLine:
    """What one kind of request cost."""

    line: str
    requests: int
    cost_nusd: int
    upper_nusd: int
    """The most that its uncertain requests can have cost beyond that."""
    uncertain: int
    unbounded: int
    """Uncertain requests with no bound at all."""

    def as_json(self) -> dict[str, Any]:
        """The line as plain data."""
        return {
            "line": self.line,
            "about": ABOUT.get(self.line, self.line),
            "requests": self.requests,
            "cost_nusd": str(self.cost_nusd),
            "cost_usd": usd(self.cost_nusd),
            "upper_usd": usd(self.upper_nusd),
            "unbounded": self.unbounded,
        }


def cost_lines(database: sqlite3.Connection, filters: Filters) -> tuple[CostLine, ...]:
    """What every line cost, in the order of `LINES`; lines that nothing is on are left out."""
    sums = ("requests", "cost_nusd", "uncertain_nusd", "uncertain", "unbounded")
    found = {
        one.keys[0]: CostLine(one.keys[0], *one.sums)
        for one in Query(ATTEMPTS, ("line",), sums, filters).run(database)
        if any(one.sums)
    }
    order = {line: number for number, line in enumerate(LINES)}
    return tuple(sorted(found.values(), key=lambda line: order.get(line.line, len(order))))


class Baseline(NamedTuple):
    """What the top rung alone would have cost for the calls whose cost is known, too."""

    calls: int
    cost_nusd: int
    """What those calls really cost."""
    known_nusd: int
    """Where the top rung answered."""
    guessed: int
    """Calls where it did not."""
    guessed_nusd: int
    """For them: the top rung's price for the tokens of the draft that was accepted."""
    low_nusd: int | None
    """The 95 % interval for the same, from calls where draft and top rung are both known; `None` when too few are."""
    high_nusd: int | None
    without_interval: int
    """Calls of tasks that have too few such calls."""

    @property
    def saved_nusd(self) -> int:
        """Baseline minus cost, signed."""
        return self.known_nusd + self.guessed_nusd - self.cost_nusd

    @property
    def saved_range_nusd(self) -> tuple[int, int] | None:
        """The same over the interval."""
        if self.low_nusd is None or self.high_nusd is None:
            return None
        return self.known_nusd + self.low_nusd - self.cost_nusd, self.known_nusd + self.high_nusd - self.cost_nusd

    def as_json(self) -> dict[str, Any]:
        """The baseline as plain data."""
        range_ = self.saved_range_nusd
        return {
            "calls": self.calls,
            "known_usd": usd(self.known_nusd),
            "estimated_calls": self.guessed,
            "estimated_usd": usd(self.guessed_nusd),
            "estimated_range_usd": None if range_ is None else [usd(self.low_nusd), usd(self.high_nusd)],
            "without_interval": self.without_interval,
            "saved_usd": usd(self.saved_nusd) if self.calls else None,
            "saved_range_usd": None if range_ is None else [usd(range_[0]), usd(range_[1])],
        }


nothing_known = Baseline(0, 0, 0, 0, 0, None, None, 0)

_BASELINE_SUMS = (
    *("compared", "compared_cost_nusd", "baseline_nusd", "guessed", "guessed_nusd"),
    *("pairs", "pairs_known_nusd", "pairs_guess_nusd", "pairs_known_2", "pairs_both", "pairs_guess_2"),
)


def baseline(database: sqlite3.Connection, filters: Filters) -> Baseline:
    """Known and estimated baseline of all calls, with an interval where enough calls can carry one.

    The interval is that of a ratio estimator, task by task: on calls that climbed to the top, what the draft's tokens
    let expect is compared with what the top rung really cost. It covers chance, not a difference between calls that
    climb and calls that do not.
    """
    compared = cost = whole = guessed = guess = uncovered = 0
    centre = variance = 0.0
    for one in Query(ROUTES, ("task",), _BASELINE_SUMS, filters, order="compared_cost_nusd").run(database):
        calls, cost_nusd, baseline_nusd, count, guess_nusd, *pairs = one.sums
        compared, cost, whole = compared + calls, cost + cost_nusd, whole + baseline_nusd
        guessed, guess = guessed + count, guess + guess_nusd
        if not count:
            continue
        estimated = _ratio_estimate(count, guess_nusd, *pairs)
        if estimated is None:
            uncovered += count
            estimated = float(guess_nusd), 0.0
        centre, variance = centre + estimated[0], variance + estimated[1]
    if guessed == uncovered:
        return Baseline(compared, cost, whole - guess, guessed, guess, None, None, uncovered)
    half = _Z95 * math.sqrt(variance)
    low, high = max(0, round(centre - half)), round(centre + half)
    return Baseline(compared, cost, whole - guess, guessed, guess, low, high, uncovered)


def _ratio_estimate(
    count: int, guess_nusd: int, pairs: int, known: int, expected: int, known_2: float, both: float, expected_2: float
) -> tuple[float, float] | None:
    """Expected baseline of `count` calls and its variance, in nano-dollars; `None` with too few pairs."""
    if pairs < FEWEST_PAIRS or expected <= 0:
        return None
    ratio = known / expected
    # Squares are in micro-dollars; a residual is what the top rung cost less what the ratio lets expect.
    residual_2 = max(0.0, known_2 - 2 * ratio * both + ratio * ratio * expected_2) * 1e6 / (pairs - 1)
    of_ratio = residual_2 / (pairs * (expected / pairs) ** 2)
    return ratio * guess_nusd, guess_nusd**2 * of_ratio + count * residual_2
