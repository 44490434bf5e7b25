"""Prices by the clock: hours and weekdays in which one holds, and the public holidays that count as weekends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

# Public holidays of 2026 in China, on which DeepSeek's peak price does not hold (its pricing page, August 2026). Days:
# the State Council's notice of 4 November 2025, from the beginning of that price. Later ones: `holiday` in the context.
_HOLIDAYS = frozenset(
    [
        *(date(2026, 9, day) for day in (25, 26, 27)),
        *(date(2026, 10, day) for day in range(1, 8)),
    ]
)
_ANNOUNCED = frozenset({2026})
_CHINA = timedelta(hours=8)


def in_window(windows: Iterable[Mapping[str, Any]], at: datetime, holiday: bool | None) -> bool:
    """Whether an instant lies in one of litellm's windows: hours in UTC, from the first to before the last."""
    at = at.astimezone(UTC)
    if holiday if holiday is not None else is_holiday(at):
        return True
    return any(
        at.isoweekday() in window.get("weekdays", range(1, 8)) and _in_hours(window["hours_utc"], at.time())
        for window in windows
    )


def is_holiday(at: datetime) -> bool:
    """Whether an instant is in a public holiday in China, as far as they are announced."""
    return (at.astimezone(UTC) + _CHINA).date() in _HOLIDAYS


def calendar_ends(at: datetime) -> bool:
    """Whether no holidays are known for the year of an instant, so that a price may be the dearer one."""
    return at.astimezone(UTC).year not in _ANNOUNCED


def _in_hours(hours: str | Sequence[str], now: time) -> bool:
    for span in [hours] if isinstance(hours, str) else hours:
        start, end = (time.fromisoformat(edge) for edge in span.split("-"))
        if start <= now and (now < end or end == time(0)):
            return True
    return False
