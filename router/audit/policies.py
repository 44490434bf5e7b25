"""Which policies were in force, when, for how many calls, and what those cost: from the hashes in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.ledger import fold
from router.ledger.database import READ_MODEL, connect


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """One policy's part in the ledger."""

    policy_hash: str
    first_s: float
    """Time of its first call, seconds since 1970."""
    last_s: float
    calls: int
    cost_nusd: int
    unpriced: int
    """Calls that are not in the cost, because a price is unknown."""


def policy_history(home: Path) -> list[PolicyUse]:
    """Every policy that answered a call, the latest first.

    Raises
    ------
    LedgerError
        The ledger cannot be read.
    """
    fold(home)
    if not (home / READ_MODEL).exists():
        return []
    with connect(home) as database:
        rows = database.execute(
            "SELECT policy_hash, min(time_s), max(time_s), count(*), total(cost_nusd), sum(cost_nusd IS NULL) "
            "FROM routes GROUP BY policy_hash ORDER BY max(time_s) DESC"
        )
        return [
            PolicyUse(str(name), first, last, calls, int(cost), unpriced)
            for name, first, last, calls, cost, unpriced in rows
        ]
