"""Calls, escalations and their marginal cost by any dimension, with what the sums leave out."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from router.audit.costs import Baseline, CostLine, baseline, cost_lines, nothing_known
from router.audit.packed import calls as calls_of
from router.audit.packed import packed_calls
from router.audit.query import Filters, Found, Query, dimensions, family_of
from router.audit.reading import reading
from router.core.pricing import usd
from router.ledger import FoldReport
from router.ledger.families import ATTEMPTS, ROUTES, Family
from router.ledger.lines import PRODUCTION

MOST_ROWS = 50
"""Groups that are shown one by one; the cheaper ones, of times the earlier ones, are one row together."""
OTHERS = "(others)"

# What stands in the columns of a row, by family: calls, escalated, failed, cost, marginal, unpriced, then savings.
_SUMS = {
    "routes": ("calls", "escalated", "answered", "cost_nusd", "marginal_nusd", "unpriced"),
    "steps": ("asked", "escalated", "failed", "cost_nusd", "climb_nusd", "unpriced"),
    "attempts": ("requests", "retries", "failures", "cost_nusd", "uncertain_nusd", "unpriced"),
}
_SAVINGS = ("compared", "compared_cost_nusd", "baseline_nusd")


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One group of calls; for `model` and `rung` one model's part in them, for `fault` and the like its requests."""

    key: str
    calls: int
    """Calls of the group; for a model, calls in which it was asked."""
    escalated: int
    """Calls that asked a rung above the first; for a model, drafts of it that were climbed past; of requests, retries.
    """
    failed: int
    """Calls without an answer; for a model, calls in which it failed."""
    cost_nusd: int
    marginal_nusd: int
    """What climbing added; for a model, what climbing to it added; of requests, what they can have cost beyond."""
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
class LeftOut:
    """Calls that the report does not hold because they are no production: evals and replayed answers."""

    origin: str
    calls: int
    cost_nusd: int


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
    kind: str = "routes"
    """What the rows are made of: `routes` (whole calls), `steps` (a model's part in them) or `attempts` (requests)."""
    lines: tuple[CostLine, ...] = ()
    baseline: Baseline = nothing_known
    unlabelled_nusd: tuple[tuple[str, int], ...] = ()
    """What was spent without a feature, and without a user."""
    left_out: tuple[LeftOut, ...] = ()
    shown: int = 0
    """Rows that are groups of their own; the one after them holds all others."""
    all_calls: int = 0
    """Calls of the ledger without any filter, where no call matches the filters."""
    packed: int = 0
    """Calls that no row counts: they are packed, and sums do not have this dimension or filter."""

    @property
    def counts(self) -> str:
        """What the rows count: calls, or requests for dimensions of single requests."""
        return "requests" if self.kind == ATTEMPTS.name else "calls"

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain data."""
        return {
            "by": self.by,
            "counts": self.counts,
            "rows": [row.as_json() for row in self.rows],
            "total": self.total.as_json(),
            "lines": [line.as_json() for line in self.lines],
            "baseline": self.baseline.as_json(),
            "unlabelled": {name: {"cost_nusd": str(nusd)} for name, nusd in self.unlabelled_nusd},
            "all_calls": self.all_calls,
            "packed": self.packed,
            "left_out": [
                {"origin": one.origin, "calls": one.calls, "cost_nusd": str(one.cost_nusd)} for one in self.left_out
            ],
            "uncertain": {
                "requests": self.uncertain,
                "upper_usd": usd(self.uncertain_nusd),
                "unbounded": self.unbounded,
            },
            "ledger": {
                "torn": self.fold.torn,
                "corrupt": self.fold.corrupt,
                "cut": self.fold.cut,
                "cut_packs": self.fold.cut_packs,
                "duplicates": self.fold.duplicates,
                "orphans": self.fold.orphans,
                "lost": self.fold.lost,
            },
        }


def audit(
    home: Path,
    *,
    by: str = "task",
    filters: Filters | None = None,
    folding: bool = True,
    most: int = MOST_ROWS,
) -> AuditReport:
    """Calls, escalations and costs of a ledger.

    Parameters
    ----------
    home
        Folder of the ledger.
    by
        What to group by, one of `DIMENSIONS` or two with a comma between them.
    filters
        Which calls count.
    folding
        Bring the read model up to date first.
    most
        Groups that are shown one by one.

    Raises
    ------
    LedgerError
        The ledger cannot be read.
    InvalidCall
        There is no such dimension, or no such time zone.
    """
    names, chosen = dimensions(by), filters or Filters()
    family = family_of(names)
    with reading(home, folding=folding) as (database, report):
        if database is None:
            return AuditReport(by, (), _empty(), 0, 0, 0, report, kind=family.name)
        total = _total(database, chosen)
        rows = _rows(database, family, names, chosen, most)
        kept = len(rows)
        if kept == most:
            rows += _others(database, family, chosen, rows)
        lines = cost_lines(database, chosen)
        no_sums = Query(family, names, (), chosen).scans(database)
        return AuditReport(
            by,
            tuple(rows),
            total,
            sum(line.uncertain for line in lines),
            sum(line.upper_nusd for line in lines),
            sum(line.unbounded for line in lines),
            report,
            kind=family.name,
            lines=lines,
            baseline=baseline(database, chosen),
            unlabelled_nusd=_unlabelled(database, chosen),
            left_out=_left_out(database, chosen),
            shown=kept,
            all_calls=0 if total.calls else calls_of(database, Filters(origin=None)),
            packed=packed_calls(database, chosen) if no_sums else 0,
        )


def _empty() -> AuditRow:
    return AuditRow("total", 0, 0, 0, 0, 0, 0, None)


def _sums(family: Family) -> tuple[str, ...]:
    return (*_SUMS[family.name], *(_SAVINGS if family is ROUTES else ()))


def _rows(
    database: sqlite3.Connection, family: Family, by: tuple[str, ...], filters: Filters, most: int | None
) -> list[AuditRow]:
    found = [_row(family, one) for one in Query(family, by, _sums(family), filters, most).run(database)]
    if by in (("model",), ("rung",)):  # In the order of the ladder, so that climbing reads downwards.
        rungs = _rungs(database, filters) if by == ("model",) else {}
        found.sort(key=lambda row: (rungs.get(row.key, 0), row.key))
    return found


def _rungs(database: sqlite3.Connection, filters: Filters) -> dict[str, int]:
    """The lowest rung that each model has been on."""
    rungs: dict[str, int] = {}
    for one in Query(family_of(("model",)), ("model", "rung"), ("cost_nusd",), filters).run(database):
        model, rung = one.keys
        position = int(rung) if rung.isdigit() else 0
        rungs[model] = min(rungs.get(model, position), position)
    return rungs


def _row(family: Family, found: Found) -> AuditRow:
    calls, escalated, failed, cost, marginal, unpriced, *savings = found.sums
    if family is not ROUTES:
        return AuditRow(", ".join(found.keys), calls, escalated, failed, cost, marginal, unpriced, None)
    compared, compared_cost, of_top = savings
    saved = of_top - compared_cost if compared else None
    # The family counts answered calls; what failed is the rest.
    return AuditRow(", ".join(found.keys) or "total", calls, escalated, calls - failed, cost, marginal, unpriced, saved)


def _total(database: sqlite3.Connection, filters: Filters) -> AuditRow:
    return _row(ROUTES, next(Query(ROUTES, (), _sums(ROUTES), filters).run(database)))


def _others(database: sqlite3.Connection, family: Family, filters: Filters, rows: Sequence[AuditRow]) -> list[AuditRow]:
    """One row for the groups that are not shown: everything less what is."""
    whole = _row(family, next(Query(family, (), _sums(family), filters).run(database)))
    sums = {
        name: getattr(whole, name) - sum(getattr(row, name) for row in rows)
        for name in ("calls", "escalated", "failed", "cost_nusd", "marginal_nusd", "unpriced")
    }
    if not any(sums.values()):
        return []
    saved = None if whole.saved_nusd is None else whole.saved_nusd - sum(row.saved_nusd or 0 for row in rows)
    return [AuditRow(OTHERS, **sums, saved_nusd=saved)]


def _unlabelled(database: sqlite3.Connection, filters: Filters) -> tuple[tuple[str, int], ...]:
    """What calls without a feature, and without a user, have cost."""
    sums = next(Query(ROUTES, (), ("cost_nusd", "without_feature_nusd", "without_user_nusd"), filters).run(database))
    return tuple(zip(("feature", "user"), sums.sums[1:], strict=True))


def _left_out(database: sqlite3.Connection, filters: Filters) -> tuple[LeftOut, ...]:
    if filters.origin != PRODUCTION:
        return ()
    query = Query(ROUTES, ("origin",), ("calls", "cost_nusd"), replace(filters, origin=None))
    return tuple(
        LeftOut(one.keys[0], *one.sums) for one in query.run(database) if one.keys[0] != PRODUCTION and one.sums[0]
    )
