"""Objectives as arithmetic: an error budget, how much of it is left, and how fast it burns.

Every objective allows something per event: so many nano-dollars for each call or accepted answer, or a share of calls
that may climb or be slow. The error budget of a period is that allowance times its events. What was used of it,
divided by it, is the burn rate: at 1 the budget lasts exactly as long as the period.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, NamedTuple

from router.core.pricing import NUSD_PER_USD

State = Literal["ok", "burning", "breach", "too few calls"]

SLOW_SHARE = Fraction(5, 100)
"""Share of calls that may be slower than a 95th percentile."""
_COSTS = ("usd_per_call", "usd_per_accepted")


class Tally(NamedTuple):
    """What happened in a period: calls that can be judged, events that each bring an allowance, and what was used."""

    calls: int
    events: int
    used: int


class Pair(NamedTuple):
    """A long and a short period in which a budget must burn too fast before it counts as burning."""

    long_s: int
    short_s: int


# The two pairs of periods that pages go by in chapter 5 of Google's Site Reliability Workbook, "Alerting on SLOs".
FAST, SLOW = Pair(3600, 300), Pair(6 * 3600, 1800)
PAIRS = (FAST, SLOW)
# The rates from the same place: 2 % of a budget of 30 days in an hour, 5 % in six hours.
_RATES = {FAST: Fraction(144, 10), SLOW: Fraction(6)}
# A share of 0.25 cannot burn faster than 4, so such rates would never be seen: this part of what should be good is bad.
_PART_OF_GOOD = {FAST: Fraction(1, 2), SLOW: Fraction(1, 4)}
# Nor does a mean cost grow 14 times: twice the objective, and half as much again.
_COST_RATES = {FAST: Fraction(2), SLOW: Fraction(3, 2)}
# A short period needs a tenth of the calls of a long one.
_SHORT_PART = 10


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective: its name in the policy, and what it allows per event, nano-dollars or a share of calls."""

    name: str
    limit: float | Decimal
    min_calls: int = 100

    @property
    def is_cost(self) -> bool:
        """Whether money is what it allows."""
        return self.name in _COSTS

    @property
    def allowed(self) -> Fraction:
        """What each event may use."""
        if self.name == "p95_latency_ms":
            return SLOW_SHARE
        return exact(self.limit) * (NUSD_PER_USD if self.is_cost else 1)

    def burn_rate(self, tally: Tally) -> float | None:
        """How many times the allowance was used; `None` when nothing happened."""
        rate = self._burn(tally)
        return None if rate is None else float(rate)

    def state(self, window: Tally, recent: Sequence[tuple[Tally, Tally]] = ()) -> State:
        """What to say of a window, and of the long and short periods of each of `PAIRS`."""
        used = self._burn(window)
        if window.calls < self.min_calls or used is None:
            return "too few calls"
        if used > 1:
            return "breach"
        return "burning" if any(map(self._burns, PAIRS, recent)) else "ok"

    def alarm_rate(self, pair: Pair) -> Fraction:
        """The burn rate from which on a pair of periods counts."""
        if self.is_cost:
            return _COST_RATES[pair]
        return min(_RATES[pair], 1 + _PART_OF_GOOD[pair] * (1 / self.allowed - 1))

    def _burns(self, pair: Pair, tallies: tuple[Tally, Tally]) -> bool:
        needed = (self.min_calls, -(-self.min_calls // _SHORT_PART))
        for tally, calls in zip(tallies, needed, strict=True):
            rate = self._burn(tally)
            if tally.calls < calls or rate is None or rate <= 1 or rate < self.alarm_rate(pair):
                return False
        return True

    def _burn(self, tally: Tally) -> Fraction | float | None:
        if tally.events:
            return tally.used / (self.allowed * tally.events)
        return math.inf if tally.used else None


def exact(limit: float | Decimal) -> Fraction:
    """A number of a policy as people wrote it: 0.1 is a tenth."""
    return Fraction(str(limit))
