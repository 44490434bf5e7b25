"""Periods and time zones: where days begin for people, told to a database that counts seconds since 1970."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from router.errors import InvalidCall

TIMES = ("minute", "hour", "day", "week", "month")
HOUR_S, DAY_S = 3600, 86400


def zone_of(name: str | None) -> tzinfo:
    """A time zone by its name, such as `Europe/Berlin`; UTC without one.

    Raises
    ------
    InvalidCall
        There is no such zone here.
    """
    if name in (None, "UTC"):
        return UTC
    with suppress(OSError, ValueError, KeyError):  # What is no zone: a folder, a path outside, an unknown name.
        return ZoneInfo(str(name))
    raise InvalidCall(
        f"tz: there is no time zone {name!r} here; give a name like Europe/Berlin, or UTC "
        "(where no zone is known, install the package tzdata)",
        argument="tz",
    )


@dataclass(frozen=True, slots=True)
class Offsets:
    """What a zone adds to UTC over a period: `(from second, seconds to add)`, in order."""

    steps: tuple[tuple[int, int], ...]

    @property
    def whole_hours(self) -> bool:
        """Whether every hour of UTC is an hour of the zone, too."""
        return all(offset % HOUR_S == 0 for _, offset in self.steps)

    def sql(self, time: str) -> str:
        """Local seconds of an expression that is seconds since 1970."""
        (_, first), *later = self.steps
        if not later:
            return f"({time} + {first})" if first else f"({time})"
        cases = " ".join(f"WHEN {time} >= {start} THEN {offset}" for start, offset in reversed(later))
        return f"({time} + CASE {cases} ELSE {first} END)"


def offsets(zone: tzinfo, since_s: int, until_s: int) -> Offsets:
    """The offsets of a zone between two moments."""
    if zone is UTC:
        return Offsets(((since_s, 0),))
    steps = [(since_s, _offset_s(zone, since_s))]
    for day in range(since_s // DAY_S * DAY_S, until_s + DAY_S, DAY_S):
        if _offset_s(zone, day + DAY_S) != steps[-1][1]:
            start = next(s for s in range(day, day + DAY_S + 900, 900) if _offset_s(zone, s) != steps[-1][1])
            steps.append((start, _offset_s(zone, start)))
    return Offsets(tuple(steps))


def _offset_s(zone: tzinfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, zone).utcoffset() or timedelta()
    return int(offset.total_seconds())


def key_sql(unit: str, time: str, local: Offsets) -> str:
    """The group that a moment belongs to; hours and minutes by UTC, for in autumn a local hour comes twice."""
    if unit in ("minute", "hour"):
        size = 60 if unit == "minute" else HOUR_S
        return f"{time} / {size} * {size}"
    seconds = local.sql(time)
    if unit == "month":
        return f"strftime('%Y-%m', {seconds}, 'unixepoch')"
    return f"{seconds} / {DAY_S}" if unit == "day" else f"({seconds} / {DAY_S} + 3) / 7"


def label(unit: str, key: int | str, zone: tzinfo) -> str:
    """A group for people: `2026-11-20`, `2026-W47`, `2026-11`, an hour with its offset."""
    if unit == "month":
        return str(key)
    if unit in ("minute", "hour"):
        at = datetime.fromtimestamp(int(key), zone)
        text = at.strftime("%Y-%m-%dT%H:%M" if unit == "minute" or at.minute else "%Y-%m-%dT%H:00")
        offset = at.strftime("%z")
        return text + ("Z" if zone is UTC else f"{offset[:3]}:{offset[3:]}")
    first = date(1970, 1, 1)
    if unit == "day":
        return (first + timedelta(days=int(key))).isoformat()
    year, week, _ = (first + timedelta(days=7 * int(key) - 3)).isocalendar()
    return f"{year}-W{week:02}"
