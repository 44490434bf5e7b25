"""Escalations and their marginal cost, by task, model, feature, user, tenant or time, from the hourly rollups."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from router.core.pricing import usd
from router.ledger import FoldReport, fold
from router.ledger.fold import READ_MODEL, connect
from router.ledger.schema import storable

Dimension = Literal["task", "model", "feature", "user", "tenant", "day", "hour"]
DIMENSIONS: tuple[str, ...] = get_args(Dimension)

_TIME_FORMATS = {"day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H:00Z"}


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One group of calls; for the dimension `model` one model's part in them."""

    key: str
    calls: int
    """Calls of the group; for a model, calls in which it was asked."""
    escalated: int
    """Calls that asked a rung above the first; for a model, drafts of it that were climbed past."""
    failed: int
    """Calls without an answer; for a model, calls in which it failed."""
    cost_nusd: int
    marginal_nusd: int
    """What climbing added; for a model, what climbing to it added."""
    unpriced: int
    """Calls whose cost is not in the sums, because a price is unknown."""
    saved_nusd: int | None
    """Baseline minus cost of the calls where both are known, signed; `None` where no call is."""

    @property
    def escalation_rate(self) -> float:
        """Share of the calls that climbed, 0 to 1."""
        return self.escalated / self.calls if self.calls else 0.0

    def as_json(self) -> dict[str, Any]:
        """The row with amounts in dollars for people, and exact ones as text."""
        return {
            "key": self.key,
            "calls": self.calls,
            "escalated": self.escalated,
            "escalation_rate": self.escalation_rate,
            "failed": self.failed,
            "cost_usd": usd(self.cost_nusd),
            "cost_nusd": str(self.cost_nusd),
            "marginal_cost_usd": usd(self.marginal_nusd),
            "marginal_nusd": str(self.marginal_nusd),
            "unpriced": self.unpriced,
            "saved_usd": usd(self.saved_nusd),
        }


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The rows, their total, and what the ledger cannot say for sure."""

    by: str
    rows: tuple[AuditRow, ...]
    total: AuditRow
    uncertain: int
    """Requests whose cost is not settled: timeouts, broken connections, replies without usage, dead processes."""
    uncertain_nusd: int
    """The most that those can have cost beyond what the sums hold."""
    unbounded: int
    """Requests among them with no bound at all."""
    fold: FoldReport

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain data."""
        return {
            "by": self.by,
            "rows": [row.as_json() for row in self.rows],
            "total": self.total.as_json(),
            "uncertain": {
                "requests": self.uncertain,
                "upper_usd": usd(self.uncertain_nusd),
                "unbounded": self.unbounded,
            },
            "ledger": {
                "torn": self.fold.torn,
                "corrupt": self.fold.corrupt,
                "cut": self.fold.cut,
                "orphans": self.fold.orphans,
                "lost": self.fold.lost,
            },
        }


@dataclass(frozen=True, slots=True)
class Filters:
    """Which calls count; `None` for all. Times in seconds since 1970, `until_s` not included, by whole hours."""

    since_s: float | None = None
    until_s: float | None = None
    task: str | None = None
    feature: str | None = None
    user: str | None = None
    tenant: str | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """The condition on a rollup and its values."""
        conditions, values = ["1"], []
        for name in ("task", "feature", "user", "tenant"):
            value = getattr(self, name)
            if value is not None:
                conditions.append(f'"{name}" = ?')
                values.append(storable(value))
        if self.since_s is not None:
            conditions.append("hour >= ?")
            values.append(int(self.since_s) // 3600 * 3600)
        if self.until_s is not None:
            conditions.append("hour < ?")
            values.append(self.until_s)
        return " AND ".join(conditions), values


def audit(home: Path, *, by: Dimension = "task", filters: Filters | None = None, folding: bool = True) -> AuditReport:
    """Calls, escalations and costs of a ledger.

    Parameters
    ----------
    home
        Folder of the ledger.
    by
        What to group by.
    filters
        Which calls count.
    folding
        Bring the read model up to date first.

    Raises
    ------
    LedgerError
        The ledger cannot be read.
    """
    report = fold(home) if folding else FoldReport()
    where, values = (filters or Filters()).sql()
    if not (home / READ_MODEL).exists():
        empty = AuditRow("total", 0, 0, 0, 0, 0, 0, None)
        return AuditReport(by, (), empty, 0, 0, 0, report)
    with connect(home) as database:
        database.execute("BEGIN")  # Another process may fold between two of the sums.
        rows = _model_rows(database, where, values) if by == "model" else _route_rows(database, by, where, values)
        total = next(iter(_route_rows(database, None, where, values)))
        uncertain, upper, unbounded = database.execute(
            "SELECT total(uncertain), total(uncertain_nusd), total(unbounded) "  # noqa: S608 - names of this module
            f"FROM hourly_attempts WHERE {where}",
            values,
        ).fetchone()
    return AuditReport(by, tuple(rows), total, int(uncertain), int(upper), int(unbounded), report)


def _route_rows(database: sqlite3.Connection, by: str | None, where: str, values: list[Any]) -> list[AuditRow]:
    key = {None: "'total'", "day": "hour / 86400 * 86400"}.get(by, f'"{by}"')
    found = database.execute(
        f"SELECT {key} AS k, total(calls), total(escalated), total(calls - answered), total(cost_nusd), "  # noqa: S608
        "total(marginal_nusd), total(unpriced), total(compared), total(baseline_nusd - compared_cost_nusd) "
        f"FROM hourly_routes WHERE {where} GROUP BY k ORDER BY total(cost_nusd) DESC, k",
        values,
    ).fetchall()
    rows = [_row(_label(by, key), sums, int(saved) if compared else None) for key, *sums, compared, saved in found]
    if by in _TIME_FORMATS:
        rows.sort(key=lambda row: row.key)
    return rows or ([AuditRow("total", 0, 0, 0, 0, 0, 0, None)] if by is None else [])


def _model_rows(database: sqlite3.Connection, where: str, values: list[Any]) -> list[AuditRow]:
    found = database.execute(
        "SELECT model, total(asked), total(escalated), total(failed), total(cost_nusd), total(climb_nusd), "  # noqa: S608
        f"total(unpriced) FROM hourly_steps WHERE {where} GROUP BY model ORDER BY min(rung), model",
        values,
    )
    return [_row(model, sums, None) for model, *sums in found]


def _row(key: str, sums: list[float], saved_nusd: int | None) -> AuditRow:
    calls, escalated, failed, cost, marginal, unpriced = map(int, sums)
    return AuditRow(key, calls, escalated, failed, cost, marginal, unpriced, saved_nusd)


def _label(by: str | None, key: Any) -> str:
    if by in _TIME_FORMATS:
        return datetime.fromtimestamp(key, UTC).strftime(_TIME_FORMATS[by])
    return str(key) if key != "" else "(none)"
