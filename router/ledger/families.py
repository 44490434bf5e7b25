"""What is summed of calls, requests and steps, each sum defined once as SQL, for the fold and for scans.

A family is one base table with the dimensions it can be grouped by and the sums over its rows. A rollup holds the
same sums by some of the dimensions, so that whatever a rollup can answer a scan answers alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.core.call import Usage

# No single amount counts for more: 20,000 rows of a batch, each of them absurd, still fit in 64 bits.
_MOST = 400_000_000_000_000
_WHO = ("origin", "task", "feature", "user", "tenant")
# The feature by which evals of releases without an origin can be told.
EVAL_FEATURE = "router-eval"


@dataclass(frozen=True, slots=True)
class Family:
    """One base table: where its rows are, what they are grouped by, what is summed."""

    name: str
    base: str
    """What stands behind FROM."""
    id: str
    """The column by which the fold chooses the rows of a batch."""
    time: str
    where: str
    keys: Mapping[str, str]
    """Dimensions of the rollups, each with its expression."""
    others: Mapping[str, str]
    """Dimensions that only a scan knows."""
    sums: Mapping[str, str]
    """The amount of one row, by the name of its sum."""
    floats: frozenset[str] = frozenset({"latency_ms"})

    def total(self, name: str) -> str:
        """The aggregate over rows of the base table."""
        amount = self.sums[name]
        if name in self.floats:
            return f"total({amount})"
        return f"sum(min(max(CAST(coalesce({amount}, 0) AS INTEGER), -{_MOST}), {_MOST}))"


def _text(alias: str, *names: str, **renamed: str) -> dict[str, str]:
    """Dimensions that are columns; a key cannot be NULL, so "not given" is the empty text."""
    columns = {name: name for name in names} | renamed
    return {name: f"coalesce({alias}.\"{column}\", '')" for name, column in columns.items()}


_COMPARED = "r.cost_nusd IS NOT NULL AND r.baseline_nusd IS NOT NULL"
_GUESSED = f"{_COMPARED} AND r.baseline_source IS NOT 'known'"
# Calls whose baseline is known although a lower rung made a draft: what its tokens let expect, beside what it was.
_PAIRED = "r.baseline_source IS 'known' AND r.baseline_nusd IS NOT NULL AND r.baseline_estimate_nusd IS NOT NULL"
_KNOWN, _GUESS = "(r.baseline_nusd / 1000.0)", "(r.baseline_estimate_nusd / 1000.0)"

ROUTES = Family(
    "routes",
    "routes r",
    "r.route_id",
    "r.time_s",
    "1",
    _text("r", *_WHO, "model"),
    _text("r", "session", "outcome", policy="policy_hash", plan="plan_hash"),
    {
        "calls": "1",
        "answered": "r.outcome IN ('answered', 'metered')",
        "escalated": "r.escalated",
        "cost_nusd": "r.cost_nusd",
        "without_feature_nusd": "CASE WHEN coalesce(r.feature, '') = '' THEN r.cost_nusd END",
        "without_user_nusd": "CASE WHEN coalesce(r.user, '') = '' THEN r.cost_nusd END",
        "unpriced": "r.cost_nusd IS NULL",
        "marginal_nusd": "r.marginal_nusd",
        # Savings compare calls whose cost and baseline are both known.
        "compared": _COMPARED,
        "compared_cost_nusd": f"CASE WHEN {_COMPARED} THEN r.cost_nusd END",
        "baseline_nusd": f"CASE WHEN {_COMPARED} THEN r.baseline_nusd END",
        "guessed": _GUESSED,
        "guessed_nusd": f"CASE WHEN {_GUESSED} THEN r.baseline_nusd END",
        "pairs": _PAIRED,
        "pairs_known_nusd": f"CASE WHEN {_PAIRED} THEN r.baseline_nusd END",
        "pairs_guess_nusd": f"CASE WHEN {_PAIRED} THEN r.baseline_estimate_nusd END",
        # Squares in micro-dollars: whole nano-dollars squared would not fit.
        "pairs_known_2": f"CASE WHEN {_PAIRED} THEN {_KNOWN} * {_KNOWN} END",
        "pairs_both": f"CASE WHEN {_PAIRED} THEN {_KNOWN} * {_GUESS} END",
        "pairs_guess_2": f"CASE WHEN {_PAIRED} THEN {_GUESS} * {_GUESS} END",
        "latency_ms": "r.latency_ms",
    },
    frozenset({"pairs_known_2", "pairs_both", "pairs_guess_2", "latency_ms"}),
)

_UNSURE = "a.state IS NOT 'settled' AND a.line IS NOT 'unpriced'"

ATTEMPTS = Family(
    "attempts",
    "attempts a",
    "a.attempt_id",
    "a.time_s",
    "a.state IS NOT 'open'",
    _text("a", *_WHO, "model", "rung", "line"),
    _text("a", "session", "fault", "state", policy="policy_hash", plan="plan_hash"),
    {
        "requests": "1",
        "retries": "a.number > 1",
        "failures": "a.fault IS NOT NULL",
        "cost_nusd": "a.cost_nusd",
        "unpriced": "a.line IS 'unpriced'",
        "uncertain": _UNSURE,
        "uncertain_nusd": f"CASE WHEN {_UNSURE} THEN max(0, coalesce(a.upper_nusd, 0) - coalesce(a.cost_nusd, 0)) END",
        "unbounded": f"{_UNSURE} AND a.upper_nusd IS NULL",
        **{name: f"a.{name}" for name in Usage.__slots__},
        "latency_ms": "a.latency_ms",
    },
)

_ASKED = "coalesce(s.attempts, 0) > 0"
_CLIMBED = (
    "EXISTS (SELECT 1 FROM steps e WHERE e.route_id = s.route_id AND e.position < s.position "
    "AND coalesce(e.attempts, 0) > 0)"
)

STEPS = Family(
    "steps",
    "steps s JOIN routes r ON r.route_id = s.route_id",
    "s.route_id",
    "r.time_s",
    "1",
    _text("r", *_WHO) | _text("s", "model", "rung"),
    _text("r", "session", "outcome", policy="policy_hash", plan="plan_hash"),
    {
        "reached": "s.action NOT IN ('keep', 'repeat')",
        "asked": _ASKED,
        "accepted": "s.action IN ('accept', 'keep')",
        "escalated": "s.action = 'escalate'",
        "failed": "s.action = 'fail'",
        "skipped": "s.action = 'skip'",
        "climbs": f"{_ASKED} AND {_CLIMBED}",
        "cost_nusd": "s.cost_nusd",
        "climb_nusd": f"CASE WHEN {_CLIMBED} THEN s.cost_nusd END",
        "unpriced": "s.cost_nusd IS NULL",
    },
    frozenset(),
)
FAMILIES = {family.name: family for family in (ROUTES, ATTEMPTS, STEPS)}
