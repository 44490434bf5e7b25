"""What changed the bill against the period before: group by group, by volume, mix and price, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from router.audit.packed import calls as calls_of
from router.audit.periods import HOUR_S, TIMES
from router.audit.query import Filters, Query, dimensions, family_of
from router.audit.reading import reading
from router.core.pricing import usd
from router.errors import InvalidCall

_COUNTS = {"routes": "calls", "steps": "asked", "attempts": "requests"}


@dataclass(frozen=True, slots=True)
class Mover:
    """One group's part in the change of the bill; `volume + mix + price` is the change, to the nano-dollar."""

    key: str
    calls_before: int
    calls: int
    cost_before_nusd: int
    cost_nusd: int
    volume_nusd: int
    """What it would have cost more if all traffic had grown alike, at the price per call of before."""
    mix_nusd: int
    """What its traffic grew more or less than all traffic, at that price; a new group is in here whole."""
    price_nusd: int
    """What its calls of now cost more each than those of before."""

    @property
    def change_nusd(self) -> int:
        """What it changed the bill by."""
        return self.cost_nusd - self.cost_before_nusd

    def as_json(self) -> dict[str, Any]:
        """The group as plain data."""
        amounts = {
            "cost_before": self.cost_before_nusd,
            "cost": self.cost_nusd,
            "change": self.change_nusd,
            "volume": self.volume_nusd,
            "mix": self.mix_nusd,
            "price": self.price_nusd,
        }
        exact = {f"{name}_nusd": str(nusd) for name, nusd in amounts.items()}
        dollars = {f"{name}_usd": usd(nusd) for name, nusd in amounts.items()}
        return {"key": self.key, "calls_before": self.calls_before, "calls": self.calls, **exact, **dollars}


@dataclass(frozen=True, slots=True)
class MoversReport:
    """Every group that changed the bill, the largest change first, and their sum."""

    by: str
    before: tuple[int, int]
    """First second of the period before, and the one after its last."""
    now: tuple[int, int]
    rows: tuple[Mover, ...]
    total: Mover
    all_calls: int = 0
    """Calls of the ledger without any filter, where none is in either period."""

    @property
    def comparable(self) -> bool:
        """Whether there were calls before; without them, volume, mix and price mean nothing."""
        return self.total.calls_before > 0

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "by": self.by,
            "before": {"since_s": self.before[0], "until_s": self.before[1]},
            "now": {"since_s": self.now[0], "until_s": self.now[1]},
            "rows": [row.as_json() for row in self.rows],
            "total": self.total.as_json(),
            "all_calls": self.all_calls,
            "comparable": self.comparable,
        }


def movers(home: Path, *, by: str = "feature", filters: Filters, now_s: float) -> MoversReport:
    """The change of the bill from the period just before to the one that the filters name.

    Parameters
    ----------
    home
        Folder of the ledger.
    by
        What to group by, as for `audit`.
    filters
        Which calls count; `since_s` is needed, `until_s` is now when missing. Periods are whole hours.
    now_s
        The present, seconds since 1970.

    Raises
    ------
    InvalidCall
        There is no beginning, the period is empty, or the dimension is one of time: no hour is in both periods.
    LedgerError
        The ledger cannot be read.
    """
    names = dimensions(by)
    if times := [name for name in names if name in TIMES]:
        raise InvalidCall(
            f"by: {times[0]} has no group that is in both periods; leave it out of --movers", argument="by"
        )
    if filters.since_s is None:
        raise InvalidCall("since: what is compared needs a beginning; give --since 7d or --period 7d", argument="since")
    since = int(filters.since_s) // HOUR_S * HOUR_S
    until = int(-(-min(filters.until_s or now_s, now_s) // HOUR_S)) * HOUR_S
    if until <= since:
        raise InvalidCall("since: the period has no hour in it; give an earlier one", argument="since")
    before = 2 * since - until, since
    earlier = _groups(home, names, replace(filters, since_s=before[0], until_s=before[1]))
    later = _groups(home, names, replace(filters, since_s=since, until_s=until))
    rows = sorted(split(earlier, later), key=lambda row: (-abs(row.change_nusd), row.key))
    return MoversReport(by, before, (since, until), tuple(rows), _summed(rows), 0 if rows else _all_calls(home))


def _all_calls(home: Path) -> int:
    with reading(home, folding=False) as (database, _):
        return calls_of(database, Filters(origin=None)) if database else 0


def _groups(home: Path, by: tuple[str, ...], filters: Filters) -> dict[str, tuple[int, int]]:
    """Calls and cost of each group."""
    family = family_of(by)
    with reading(home) as (database, _):
        if database is None:
            return {}
        found = Query(family, by, (_COUNTS[family.name], "cost_nusd"), filters).run(database)
        return {", ".join(one.keys): (int(one.sums[0]), int(one.sums[1])) for one in found}


def split(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> list[Mover]:
    """Volume, mix and price of every group that was there before or is there now."""
    calls_before = sum(calls for calls, _ in before.values())
    growth = Fraction(sum(calls for calls, _ in now.values()), calls_before) if calls_before else Fraction(1)
    rows = []
    for key in before.keys() | now.keys():
        (n0, c0), (n1, c1) = before.get(key, (0, 0)), now.get(key, (0, 0))
        volume = round(c0 * (growth - 1))
        # Without a call before there was no price per call: the group is new, and all of it is a change of the mix.
        mix = round(Fraction(c0, n0) * n1 - c0 * growth) if n0 else c1 - c0 - volume
        rows.append(Mover(key, n0, n1, c0, c1, volume, mix, c1 - c0 - volume - mix))
    return rows


def _summed(rows: list[Mover]) -> Mover:
    names = ("calls_before", "calls", "cost_before_nusd", "cost_nusd", "volume_nusd", "mix_nusd", "price_nusd")
    return Mover("total", *(sum(getattr(row, name) for row in rows) for name in names))
