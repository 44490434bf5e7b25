"""Two outcomes of each call, compared: means, and intervals of the mean difference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from router.core.pricing import NUSD_PER_USD
from router.tuning.simulate import Interval
from router.tuning.units import Floats, Units, error_of_mean, unit_count

ALL = "all"
NO_FEATURE = "(none)"


class Outcome(NamedTuple):
    """What one call came to under one plan; `None` is unknown."""

    model: str | None
    """Who answered; nobody where it is `None`."""
    said: Any
    """The answer, as `==` can compare it."""
    cost_nusd: int | None
    latency_ms: float | None
    quality: float | None
    escalated: bool


class Measure(NamedTuple):
    """One mean before and after, over the calls where both are known; `None` where there is no such call."""

    calls: int
    before: float | None
    after: float | None
    change: float | None
    interval: Interval | None
    """90 % interval of the change; `None` where calls are too few to tell."""


class Share(NamedTuple):
    """A change as a share of what it was before, below 0 where it is less."""

    change: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Calls of one feature, or all of them, before and after."""

    name: str
    calls: int
    cost_usd: Measure
    """Of a call."""
    cost_share: Share | None
    """The change of cost as a share of the cost before; `None` where that is nothing or unknown."""
    quality: Measure
    latency_s: Measure
    p95_latency_s: tuple[float, float] | None
    """Of the calls whose latency is known."""
    escalated: Measure
    unanswered: tuple[int, int]
    """Calls that ended without an answer."""
    changed: int
    """Calls with another answer."""
    better: int
    worse: int
    """Of the changed ones, those whose quality is known and other."""


Pair = tuple[Any, str | None, Outcome, Outcome]
"""A call's unit, its feature, and its two outcomes. Calls of one unit may hang together."""


def compared(pairs: Sequence[Pair], *, same: bool) -> tuple[Comparison, tuple[Comparison, ...]]:
    """All calls, and each feature by itself where any is named; `same` says that the two plans are one."""
    total = _Calls(ALL, pairs, same).comparison()
    counts = Counter(NO_FEATURE if feature is None else feature for _, feature, _, _ in pairs)
    if set(counts) == {NO_FEATURE}:
        return total, ()
    parts = {name: [pair for pair in pairs if (pair[1] or NO_FEATURE) == name] for name, _ in counts.most_common()}
    return total, tuple(_Calls(name, part, same).comparison() for name, part in parts.items())


@dataclass(frozen=True, slots=True)
class _Calls:
    name: str
    pairs: Sequence[Pair]
    same: bool

    def comparison(self) -> Comparison:
        outcomes = [(before, after) for _, _, before, after in self.pairs]
        changed = [(before.quality, after.quality) for before, after in outcomes if before.said != after.said]
        graded = [(one, other) for one, other in changed if one is not None and other is not None]
        return Comparison(
            name=self.name,
            calls=len(outcomes),
            cost_usd=self._measure(lambda one: one.cost_nusd, 1 / NUSD_PER_USD),
            cost_share=self._cost_share(),
            quality=self._measure(lambda one: one.quality, within=1.0),
            latency_s=self._measure(lambda one: one.latency_ms, 1 / 1000),
            p95_latency_s=self._p95(),
            escalated=self._measure(lambda one: float(one.escalated), within=1.0),
            unanswered=(
                sum(before.model is None for before, _ in outcomes),
                sum(after.model is None for _, after in outcomes),
            ),
            changed=len(changed),
            better=sum(other > one for one, other in graded),
            worse=sum(other < one for one, other in graded),
        )

    def _measure(
        self, of: Callable[[Outcome], float | None], scale: float = 1.0, *, within: float | None = None
    ) -> Measure:
        unit, before, after = self._known(of)
        if not len(unit):
            return Measure(0, None, None, None, None)
        change = (after - before) * scale
        found = interval_of_change(change, unit, within=None if self.same else within)
        return Measure(
            len(unit),
            float(before.mean()) * scale,
            float(after.mean()) * scale,
            float(change.mean()),
            found,
        )

    def _cost_share(self) -> Share | None:
        unit, before, after = self._known(lambda one: one.cost_nusd)
        if not before.any():
            return None
        base, change = float(before.mean()), float((after - before).mean() / before.mean())
        # Of a ratio: what is left of each difference when its share of the cost before is taken off.
        found = interval_of_change((after - (1.0 + change) * before) / base, unit)
        return Share(change, found and (change + found[0], change + found[1]))

    def _p95(self) -> tuple[float, float] | None:
        unit, before, after = self._known(lambda one: one.latency_ms)
        if not len(unit):
            return None
        return tuple(float(np.percentile(column, 95, method="inverted_cdf")) / 1000 for column in (before, after))  # type: ignore[return-value]

    def _known(self, of: Callable[[Outcome], float | None]) -> tuple[Units, Floats, Floats]:
        """Unit, before and after of the calls that both are known of."""
        numbers: dict[Any, int] = {}
        known = [
            (numbers.setdefault(unit, len(numbers)), one, other)
            for unit, _, before, after in self.pairs
            if (one := of(before)) is not None and (other := of(after)) is not None
        ]
        columns = list(zip(*known, strict=True)) or [(), (), ()]
        return np.array(columns[0], dtype=np.intp), np.array(columns[1], float), np.array(columns[2], float)


def interval_of_change(change: Floats, unit: Units, *, within: float | None = None) -> Interval | None:
    """90 % interval of a mean difference, by Student's approximation: a feature may have few calls.

    Calls of one unit may err together. Where a difference is at most `within`, two made-up calls count too, one with
    the largest gain and one with the largest loss: else a few calls that all agree would look like certainty. `None`
    where there is one unit only.
    """
    from scipy.special import stdtrit

    if within is not None:
        change = np.append(change, (within, -within))
        unit = np.append(unit, (unit.max() + 1, unit.max() + 2))
    units = unit_count(unit)
    if units < 2:
        return None
    error = error_of_mean(change, unit) * math.sqrt(units / (units - 1)) * float(stdtrit(units - 1, 0.95))
    low, high = float(change.mean()) - error, float(change.mean()) + error
    return (low, high) if within is None else (max(-within, low), min(within, high))
