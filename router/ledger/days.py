"""What objectives are measured with: calls by day, by the rungs they asked and by their latency; requests by day.

Rollups by the hour know sums only. Here each call is counted in a latency bucket that is 4 % wide, so that a share of
slow calls and a percentile can be read off a month of any size; the middle of a bucket is within 2 % of all its calls.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby

from router.core.call import Usage
from router.ledger.lines import PRODUCTION, origin_of
from router.ledger.rollups import Rollup, hour_of
from router.ledger.rows import Row
from router.ledger.schema import ATTEMPTS, DAILY_CALLS, DAILY_REQUESTS, ROUTES, STEPS, Table

DAY_S = 86_400
PATH_SEPARATOR = " > "
_BUCKET_RATIO = 1.04
_LAST_BUCKET = 600  # Half a year.
_OUTPUT_TOKENS = ("output_tokens", "reasoning_tokens", "output_audio_tokens", "output_image_tokens")
_INPUT_TOKENS = tuple(name for name in Usage.__slots__ if name not in _OUTPUT_TOKENS)


def day_of(time_s: float) -> int:
    """The first second of the UTC day that a moment is in."""
    return hour_of(time_s) // DAY_S * DAY_S


def latency_bucket(latency_ms: float) -> int:
    """The bucket of a latency: 0 up to a millisecond, then one for each 4 %."""
    if not latency_ms > 1:
        return 0
    return min(_LAST_BUCKET, 1 + int(math.log(latency_ms) / math.log(_BUCKET_RATIO)))


def bucket_ms(bucket: int) -> float:
    """The latency in the middle of a bucket, at most 2 % from any in it."""
    return _BUCKET_RATIO ** (bucket - 0.5) if bucket else 1.0


class Days:
    """Counts of calls and requests by day, gathered in memory and added to their tables at once."""

    def __init__(self) -> None:
        self._calls, self._requests = Rollup(DAILY_CALLS), Rollup(DAILY_REQUESTS)
        self.rollups = {DAILY_CALLS.name: self._calls, DAILY_REQUESTS.name: self._requests}

    def add_call(self, row: Row, steps: Sequence[Row]) -> None:
        """Count a call once; evals and replays are held to no objective."""
        if origin_of(row) != PRODUCTION:
            return
        priced, answered = row.get("cost_nusd") is not None, row.get("outcome") in ("answered", "metered")
        key = {
            **row,
            "day": day_of(row["time_s"]),
            "path": PATH_SEPARATOR.join(str(step.get("model")) for step in steps if step.get("attempts")),
            "why": _why(row, steps),
            "latency_bucket": latency_bucket(row.get("latency_ms") or 0),
        }
        self._calls.add(
            key,
            {
                "calls": 1,
                "escalated": bool(row.get("escalated")),
                "answered": answered,
                "priced": priced,
                "priced_answered": priced and answered,
                "cost_nusd": int(row.get("cost_nusd") or 0),
            },
        )

    def add_request(self, intent: Row, settle: Row) -> None:
        """Count a request that ended, of a call that counts."""
        if origin_of(intent) != PRODUCTION:
            return
        self._requests.add(
            {**intent, "day": day_of(intent["time_s"]), "fault": settle.get("fault")},
            {
                "requests": 1,
                "input_tokens": sum(settle.get(name) or 0 for name in _INPUT_TOKENS),
                "cached_read_tokens": settle.get("cached_read_tokens") or 0,
                "output_tokens": sum(settle.get(name) or 0 for name in _OUTPUT_TOKENS),
                "cost_nusd": int(settle.get("cost_nusd") or 0),
                "latency_ms": settle.get("latency_ms") or 0,
            },
        )

    def store(self, database: sqlite3.Connection) -> None:
        """Add the counts to the tables."""
        self._calls.store(database)
        self._requests.store(database)


def _why(row: Row, steps: Sequence[Row]) -> str:
    """Why a call took more than one request to one rung, in a word; nothing when it did not.

    A fault of the fault table, or `unsure`, `unusable` and `compare` for a draft that was climbed past, or `retried`.
    """
    if not row.get("escalated"):
        return "retried" if any((step.get("attempts") or 0) > 1 for step in steps) else ""
    for step in steps:
        reason = str(step.get("reason") or "")
        if step.get("action") == "fail":
            return reason.partition(" ")[0].rstrip(":")
        if step.get("action") == "escalate":
            return next((why for begin, why in _DRAFT_REASONS.items() if reason.startswith(begin)), "unusable")
    return ""


# How the flow begins the reason of a draft that is climbed past.
_DRAFT_REASONS = {
    "confidence ": "unsure",
    "1 less the gain": "unsure",
    "asked so that": "compare",
    "the members": "unsure",
    "the draft lacks signals": "unsure",
    "a member is missing": "unsure",
}


def add_missing_days(database: sqlite3.Connection) -> None:
    """Give the database of an earlier release these tables, filled from its rows."""
    if _is_there(database):
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        if not _is_there(database):  # Nobody was quicker.
            for table in (DAILY_CALLS, DAILY_REQUESTS):
                database.execute(table.sql())
            add_days(database)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _is_there(database: sqlite3.Connection) -> bool:
    found = database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", [DAILY_REQUESTS.name])
    return found.fetchone() is not None


def add_days(database: sqlite3.Connection) -> None:
    """Count every row into the tables by day, which are empty."""
    days = Days()
    for route, steps in _calls(database):
        days.add_call(route, steps)
    for request in _columns(database, ATTEMPTS, _OF_REQUESTS, "WHERE state <> 'open'"):
        days.add_request(request, request)
    days.store(database)


_OF_CALLS = ("route_id", "time_s", "origin", "task", "feature", "outcome", "escalated", "cost_nusd", "latency_ms")
_OF_STEPS = ("route_id", "model", "action", "reason", "attempts")
_OF_REQUESTS = (
    "time_s",
    "origin",
    "task",
    "feature",
    "model",
    "rung",
    "fault",
    "cost_nusd",
    "latency_ms",
    *Usage.__slots__,
)


def _columns(database: sqlite3.Connection, table: Table, names: tuple[str, ...], rest: str) -> Iterator[Row]:
    for values in database.execute(f"SELECT {', '.join(names)} FROM {table.name} {rest}"):  # noqa: S608 - own names
        yield dict(zip(names, values, strict=True))


def _calls(database: sqlite3.Connection) -> Iterator[tuple[Row, list[Row]]]:
    """Every call with its steps."""
    each_step = _columns(database, STEPS, _OF_STEPS, "ORDER BY route_id, position")
    steps = groupby(each_step, key=lambda step: step["route_id"])
    ahead = next(steps, None)
    for route in _columns(database, ROUTES, _OF_CALLS, "ORDER BY route_id"):
        while ahead is not None and ahead[0] < route["route_id"]:
            ahead = next(steps, None)
        if ahead is not None and ahead[0] == route["route_id"]:
            yield route, list(ahead[1])
            ahead = next(steps, None)
        else:
            yield route, []
