"""When a window of a budget begins and ends. Minutes and hours are those of UTC; days and months those of a place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from router.core.limits import Window

_SECONDS = {"minute": 60, "hour": 3600}
# The years 2 to 9998: beyond them a window of some place would begin or end at no date that there is.
_FIRST_S, _LAST_S = -62_104_060_800.0, 253_368_086_400.0


class Span(NamedTuple):
    """A window in seconds since 1970: its first moment, and the first one after it."""

    start_s: int
    end_s: int


def dated(time_s: float) -> float:
    """A moment with a date; a clock that is far out stands at the first or the last one."""
    return max(_FIRST_S, min(_LAST_S, time_s))


def span(window: Window, time_zone: str, now_s: float) -> Span:
    """The window that a moment is in.

    Windows of one kind follow each other without a gap and without overlapping, also where clocks are changed: a day
    then has 23 or 25 hours, and one whose midnight does not exist begins when the clock is changed.
    """
    if window in _SECONDS:
        length = _SECONDS[window]
        start = int(now_s // length) * length
        return Span(start, start + length)
    zone = _zone(time_zone)
    local = datetime.fromtimestamp(now_s, zone)
    first = datetime(local.year, local.month, local.day if window == "day" else 1)  # noqa: DTZ001 - see `_moment`
    after = first + timedelta(days=1) if window == "day" else (first + timedelta(days=31)).replace(day=1)
    return Span(_moment(first, zone), _moment(after, zone))


def moment_text(moment_s: float, time_zone: str) -> str:
    """A moment for people, with its offset from UTC."""
    return datetime.fromtimestamp(moment_s, _zone(time_zone)).isoformat(timespec="seconds")


def zone_problem(time_zone: str) -> str:
    """Why a time zone cannot be used, or nothing."""
    try:
        _zone(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of the database, such as `Europe`.
        return f"unknown time zone {time_zone!r:.60}"
    return ""


def _moment(midnight: datetime, zone: tzinfo) -> int:
    return int(midnight.replace(tzinfo=zone).timestamp())


@lru_cache(maxsize=64)
def _zone(time_zone: str) -> tzinfo:
    # UTC needs no database, which a small container may lack.
    return UTC if time_zone == "UTC" else ZoneInfo(time_zone)
