"""What a request was paid for: the lines that the cost of every call falls into, each request on exactly one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from router.core.answer import never_left
from router.core.effects import Purpose
from router.ledger.families import EVAL_FEATURE

Line = Literal[
    "first",
    "panel",
    "sample",
    "escalation",
    "judge",
    "p_true",
    "stated",
    "retry",
    "invalid",
    "failed",
    "maybe_billed",
    "unpriced",
    "unknown",
    "not_sent",
]
LINES: tuple[str, ...] = get_args(Line)
PURPOSES: tuple[str, ...] = get_args(Purpose)

PRODUCTION, EVAL, REPLAY = "production", "eval", "replay"
JUDGE_FEATURE = "router-judge"
"""The feature that a judge's verdicts belong to."""


def line_of(attempt: Mapping[str, Any], first_rung: int | None) -> Line:
    """The line of a request that has ended; `first_rung` is the rung that its call asked first."""
    if never_left(attempt.get("fault"), attempt.get("status")):
        return "not_sent"
    if attempt["state"] == "unknown":
        return "unpriced" if attempt.get("usage_source") == "provider" else "unknown"
    if attempt["state"] == "maybe_billed":
        return "maybe_billed"
    if attempt.get("fault") is not None:
        return "failed"
    if (attempt.get("number") or 1) > 1:
        return "retry"
    if attempt.get("feature") == JUDGE_FEATURE:
        return "judge"
    purpose = attempt.get("purpose")
    if purpose in PURPOSES:
        return purpose  # type: ignore[no-any-return]
    return "first" if attempt.get("rung") == first_rung else "escalation"


def invalid_drafts(row: Mapping[str, Any]) -> Iterator[str]:
    """The requests of a call whose replies did not fit the answer kind and were not used."""
    asked = 0
    for step in row.get("steps", []):
        attempts = step.get("attempts") or 0
        asked += attempts
        if (
            attempts
            and step.get("action") in ("next", "escalate", "fail")
            and (step.get("signals") or {}).get("invalid")
        ):
            yield f"{row['route_id']}-{asked}"


def origin_of(row: Mapping[str, Any]) -> str:
    """Where a call came from; rows of releases without an origin tell an eval by its feature."""
    return row.get("origin") or (EVAL if row.get("feature") == EVAL_FEATURE else PRODUCTION)


_OLD_ORIGIN = (
    f"SET origin = CASE feature WHEN '{EVAL_FEATURE}' THEN '{EVAL}' ELSE '{PRODUCTION}' END WHERE origin IS NULL"
)
# The same for the read model of a release that had neither lines nor origins.
FOR_OLD_ROWS = (
    f"UPDATE routes {_OLD_ORIGIN}",
    f"UPDATE attempts {_OLD_ORIGIN}",
    """UPDATE attempts SET line = CASE
        WHEN fault = 'not_sent' OR (fault = 'auth' AND status IS NULL) THEN 'not_sent'
        WHEN state = 'unknown' THEN CASE usage_source WHEN 'provider' THEN 'unpriced' ELSE 'unknown' END
        WHEN state = 'maybe_billed' THEN 'maybe_billed'
        WHEN fault IS NOT NULL THEN 'failed'
        WHEN number > 1 THEN 'retry'
        WHEN rung IS (SELECT f.rung FROM attempts f WHERE f.attempt_id = attempts.route_id || '-1') THEN 'first'
        ELSE 'escalation' END
    WHERE line IS NULL AND state IS NOT 'open'""",
    """UPDATE attempts SET line = 'invalid' WHERE line IN ('first', 'escalation') AND attempt_id IN (
        SELECT s.route_id || '-' || (
            SELECT sum(e.attempts) FROM steps e WHERE e.route_id = s.route_id AND e.position <= s.position)
        FROM steps s WHERE s.attempts > 0 AND s.action IN ('escalate', 'fail')
            AND json_extract(s.signals, '$.invalid') > 0)""",
)
