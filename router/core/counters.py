"""The counters that a call is held to, and what is said of one without room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from router.core.limits import UNITS, WINDOWS, Allowance, AtLimit, Budgets, Kind, Unit, Window
from router.core.pricing import NUSD_PER_USD, exact_product


@dataclass(frozen=True, slots=True)
class Counter:
    """One limit on one unit in one window, without whose it is."""

    kind: Kind
    unit: Unit
    window: Window
    limit: int
    """Nano-dollars or escalations."""
    at_limit: AtLimit
    time_zone: str

    @property
    def field(self) -> str:
        """Its name in a policy, such as `usd_per_day`."""
        return f"{self.unit}_per_{self.window}"


def counters(kind: Kind, allowance: Allowance, budgets: Budgets) -> Iterator[Counter]:
    """Every limit that an allowance sets, in a fixed order."""
    at_limit, time_zone = allowance.at_limit or budgets.at_limit, allowance.time_zone or budgets.time_zone
    for unit in UNITS:
        for window in WINDOWS:
            amount = getattr(allowance, f"{unit}_per_{window}")
            if amount is not None:
                limit = int(exact_product(amount, NUSD_PER_USD)) if unit == "usd" else amount
                yield Counter(kind, unit, window, limit, at_limit, time_zone)


@dataclass(frozen=True, slots=True)
class Line:
    """A counter with whose it is: one thing that a call is held to."""

    name: str
    counter: Counter
    key: str
    """Whose it is; a user's fingerprint."""

    @classmethod
    def of(cls, counter: Counter, key: str) -> Line:
        """The line of this counter and key."""
        return cls(f"{counter.kind}.{counter.field}:{key}", counter, key)


class Refusal(NamedTuple):
    """A budget without room for a request."""

    line: Line
    spent: int
    """What is spent, or held for requests under way."""
    needed: int
    resets_at: str
    """When the next window begins, with its offset from UTC."""
    resets_in_s: float
    waited_s: float = 0.0
    """How long the call waited for room."""

    @property
    def hopeless(self) -> bool:
        """Whether no window ever has room for it."""
        return self.needed > self.line.counter.limit

    def why(self) -> str:
        """What is full, in words."""
        counter = self.line.counter
        limit, spent, needed = (_told(counter, units) for units in (counter.limit, self.spent, self.needed))
        asked = f"it can cost {needed}" if counter.unit == "usd" else "it would be one more"
        return (
            f"the budget {self.line.name} has no room for it: {spent} of {limit} are spent or held and {asked}; "
            f"the next {counter.window} begins at {self.resets_at}"
            f"{f'; the call waited {self.waited_s:.1f} s for room' if self.waited_s else ''}"
        )

    def fields(self) -> dict[str, Any]:
        """The same for programs."""
        counter = self.line.counter
        limit, spent, needed = (_amount(counter, units) for units in (counter.limit, self.spent, self.needed))
        found = {"limit": limit, "spent": spent, "needed": needed, "resets_at": self.resets_at}
        return {**_names(self.line), **found}


class Unbounded(NamedTuple):
    """A budget that cannot hold a request of which nobody knows what it can cost."""

    line: Line
    problem: str

    def why(self) -> str:
        """What is missing, in words."""
        return f"the budget {self.line.name} cannot hold it, for {self.problem}"

    def fields(self) -> dict[str, Any]:
        """The same for programs."""
        limit = _amount(self.line.counter, self.line.counter.limit)
        return {**_names(self.line), "limit": limit, "spent": None, "needed": None, "resets_at": None}


def _names(line: Line) -> dict[str, str]:
    return {"budget": f"{line.counter.kind}.{line.counter.field}", "key": line.key, "window": line.counter.window}


def _amount(counter: Counter, units: int) -> float:
    return units / NUSD_PER_USD if counter.unit == "usd" else units


def _told(counter: Counter, units: int) -> str:
    return f"{units / NUSD_PER_USD:.6f} USD" if counter.unit == "usd" else f"{units:,} escalations"
