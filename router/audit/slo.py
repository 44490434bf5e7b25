"""`slo`: whether the objectives of tasks and features hold, what is left of their error budgets, and why not."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from router.audit.causes import CallRow, Period, Prices, RequestRow, cause
from router.audit.objectives import FAST, PAIRS, SLOW, Objective, State, Tally
from router.core.params import suggestion
from router.core.plan import Plan
from router.core.policy import Policy, Price
from router.core.pricing import NUSD_PER_USD
from router.core.slos import Slo
from router.errors import InvalidCall, shown
from router.ledger import FoldReport, fold
from router.ledger.database import READ_MODEL, connect
from router.ledger.days import DAY_S, bucket_ms, day_of, latency_bucket
from router.ledger.schema import storable

Scope = Literal["task", "feature"]
_METERED = "(metered)"


@dataclass(frozen=True, slots=True)
class SloRow:
    """One objective of one task or feature."""

    scope: Scope
    name: str
    objective: str
    limit: float
    window_days: int
    state: State
    measured: float | None
    """In the objective's own unit; `None` without any call."""
    calls: int
    """Calls of the window that could be judged: for a cost, those whose price is known."""
    unpriced: int
    budget_left: float | None
    """Part of the error budget that is left, 1 for all of it; below 0 it is overdrawn."""
    burn_1h: float | None
    burn_6h: float | None
    cause: str = ""
    """Why, in one sentence, for a breach or a budget that burns too fast."""

    def as_json(self) -> dict[str, Any]:
        """The row as plain data; a rate without an end is `null`, as one without any call."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


@dataclass(frozen=True, slots=True)
class SloReport:
    """All objectives that were asked for, in the order of the policy."""

    rows: tuple[SloRow, ...]
    fold: FoldReport

    @property
    def state(self) -> State:
        """The worst of the states."""
        found = {row.state for row in self.rows}
        order: tuple[State, ...] = ("breach", "burning", "ok")
        return next((state for state in order if state in found), "too few calls")

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {"state": self.state, "objectives": [row.as_json() for row in self.rows]}


def slo(
    home: str | Path,
    policy: Policy,
    *,
    now_s: float,
    task: str | None = None,
    feature: str | None = None,
    window_days: int | None = None,
    prices: Prices | None = None,
) -> SloReport:
    """Every objective of a policy against a ledger.

    Parameters
    ----------
    home
        Folder of the ledger.
    policy
        Whose `slo:` and `slos:` count.
    now_s
        The moment to look from, seconds since 1970.
    task, feature
        Only the objectives of this task, of this feature, or of both.
    window_days
        Days to look at, in place of each objective's own.
    prices
        What a task's model costs, to tell longer prompts from dearer tokens: `prices_in_force(policy, router.plan)`, or
        the policy's own prices when missing.

    Raises
    ------
    InvalidCall
        The task or feature has no objective, or the window is no number of days.
    LedgerError
        The ledger cannot be read.
    """
    if window_days is not None and not 1 <= window_days <= 366:
        raise InvalidCall(f"window_days: {shown(window_days)} is not 1 to 366 days", argument="window_days")
    home, subjects = Path(home), list(_subjects(policy, task, feature))
    report = fold(home)
    if not (home / READ_MODEL).exists():
        return SloReport(tuple(_empty(subject, window_days) for subject in subjects), report)
    with connect(home) as database:
        database.execute("BEGIN")  # Another process may fold between two of the sums.
        _keep_recent(database, now_s)
        look = prices or prices_in_force(policy)
        rows = tuple(
            _row(_View(database, subject, now_s, window_days or subject.slo.window_days), look) for subject in subjects
        )
    return SloReport(rows, report)


@dataclass(frozen=True, slots=True)
class _Subject:
    """One objective, and whose it is."""

    scope: Scope
    name: str
    slo: Slo
    objective: Objective


def _subjects(policy: Policy, task: str | None, feature: str | None) -> Iterator[_Subject]:
    slos: dict[Scope, dict[str, Slo]] = {
        "task": {name: one.slo for name, one in policy.tasks.items() if one.slo is not None},
        "feature": dict(policy.slos.feature),
    }
    wanted: dict[Scope, str | None] = {"task": task, "feature": feature}
    for scope, name in wanted.items():
        if name is not None and name not in slos[scope]:
            where = "give it a `slo:`" if scope == "task" else "give it one below `slos: {feature: ...}`"
            hint = suggestion(name, slos[scope])
            raise InvalidCall(f"{scope} {shown(name)} has no objective; {where}; {hint}", argument=scope)
    for scope, found in slos.items():
        if wanted[scope] is None and any(wanted.values()):
            continue
        for name, one in found.items():
            if wanted[scope] in (None, name):
                for objective, limit in one.objectives().items():
                    yield _Subject(scope, name, one, Objective(objective, limit, one.min_calls))


def _empty(subject: _Subject, window_days: int | None) -> SloRow:
    window = window_days or subject.slo.window_days
    return SloRow(
        subject.scope, subject.name, subject.objective.name, float(subject.objective.limit), window, "too few calls",
        None, 0, 0, None, None, None,
    )  # fmt: skip


def prices_in_force(policy: Policy, plan: Callable[[str], Plan] | None = None) -> Prices:
    """What each model costs, by the policy, and where it says nothing by the plans: give `router.plan`.

    A plan has litellm's prices. Loading litellm takes a second or two, and that happens only where a cause needs it.
    """

    def price(task: str, model: str) -> Price | None:
        own = policy.models[model].price if model in policy.models else None
        if own is not None and None not in (own.input_usd_per_mtok, own.output_usd_per_mtok):
            return own
        if plan is None or task not in policy.tasks:  # The ledger knows tasks that the policy names no more.
            return own
        return next((rung.price for rung in plan(task).rungs if rung.name == model), own)

    return price


class _View:
    """What the ledger says of the days that concern one objective."""

    def __init__(self, database: sqlite3.Connection, subject: _Subject, now_s: float, days: int) -> None:
        self.subject, self.objective, self.days, self.now_s = subject, subject.objective, days, now_s
        self._database = database
        self.today = day_of(now_s)
        self.begin, self.end = self.today - (days - 1) * DAY_S, self.today + DAY_S
        is_latency = self.objective.name == "p95_latency_ms"
        self.slow_from = latency_bucket(float(self.objective.limit)) + 1 if is_latency else 0
        self.where = f'"{subject.scope}" = ? AND task <> ?'
        self.values = [storable(subject.name), _METERED]

    def calls(self, begin: int, end: int) -> tuple[CallRow, ...]:
        """Calls of the days from `begin` on, `end` not included."""
        calls = self._database.execute(
            "SELECT task, path, why, sum(calls), sum(escalated), sum(answered), sum(priced), sum(priced_answered), "  # noqa: S608
            "sum(cost_nusd), sum(CASE WHEN latency_bucket >= ? THEN calls ELSE 0 END) "
            f"FROM {_days_table(self._database, begin, end)} WHERE {self.where} GROUP BY task, path, why",
            [self.slow_from, *self.values],
        )
        return tuple(CallRow(*row) for row in calls)

    def period(self, name: str, begin: int, end: int) -> Period:
        """The same days, with their requests."""
        requests = self._database.execute(
            "SELECT task, model, fault, sum(requests), sum(input_tokens), sum(cached_read_tokens), "  # noqa: S608
            "sum(output_tokens), sum(cost_nusd), sum(latency_ms) FROM daily_requests "
            f"WHERE {self.where} AND day >= ? AND day < ? GROUP BY task, model, fault",
            [*self.values, begin, end],
        )
        return Period(name, self.calls(begin, end), tuple(RequestRow(*row) for row in requests))

    def p95_ms(self) -> float | None:
        """The latency that 95 of 100 calls of the window stay within, to 2 %."""
        buckets = self._database.execute(
            "SELECT latency_bucket, sum(calls) "  # noqa: S608
            f"FROM {_days_table(self._database, self.begin, self.end)} WHERE {self.where} "
            "GROUP BY latency_bucket ORDER BY latency_bucket",
            self.values,
        ).fetchall()
        rank, seen = -(-95 * sum(calls for _, calls in buckets) // 100), 0
        for bucket, calls in buckets:
            seen += calls
            if seen >= rank:
                return bucket_ms(bucket)
        return None

    def recent(self, seconds: int) -> Tally:
        """What happened in the last seconds, from the calls themselves."""
        limit = float(self.objective.limit)
        calls, priced, priced_answered, cost, escalated, slow = self._database.execute(
            "SELECT count(*), count(cost_nusd), count(CASE WHEN outcome = 'answered' THEN cost_nusd END), "  # noqa: S608
            "total(cost_nusd), total(escalated), total(latency_ms > ?) FROM temp.recent "
            f"WHERE {self.where} AND time_s > ?",
            [limit, *self.values, self.now_s - seconds],
        ).fetchone()
        return _tally(self.objective, calls, priced, priced_answered, int(cost), int(escalated), int(slow))


def _keep_recent(database: sqlite3.Connection, now_s: float) -> None:
    """The calls of the last hours, read once for all objectives; none that a clock put into the future."""
    database.execute(
        "CREATE TEMP TABLE recent AS SELECT time_s, task, feature, outcome, escalated, cost_nusd, latency_ms "
        "FROM routes WHERE time_s > ? AND time_s <= ?",
        [now_s - SLOW.long_s, now_s],
    )


def _days_table(database: sqlite3.Connection, begin: int, end: int) -> str:
    """The name of a table of some days' calls, added up once for all objectives that look at them."""
    name = f'temp."days {begin} {end}"'
    database.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS {name.removeprefix('temp.')} AS SELECT task, feature, path, why, "  # noqa: S608
        "latency_bucket, sum(calls) AS calls, sum(escalated) AS escalated, sum(answered) AS answered, "
        "sum(priced) AS priced, sum(priced_answered) AS priced_answered, sum(cost_nusd) AS cost_nusd "
        "FROM daily_calls WHERE day >= ? AND day < ? GROUP BY task, feature, path, why, latency_bucket",
        [begin, end],
    )
    return name


def _tally(
    objective: Objective, calls: int, priced: int, priced_answered: int, cost: int, escalated: int, slow: int
) -> Tally:
    match objective.name:
        case "usd_per_call":
            return Tally(priced, priced, cost)
        case "usd_per_accepted":
            return Tally(priced, priced_answered, cost)
        case "escalation_rate":
            return Tally(calls, calls, escalated)
    return Tally(calls, calls, slow)


def _row(view: _View, prices: Prices) -> SloRow:
    objective = view.objective
    window = view.calls(view.begin, view.end)
    names = ("calls", "priced", "priced_answered", "cost_nusd", "escalated", "slow")
    sums = [sum(getattr(row, name) for row in window) for name in names]
    tally = _tally(objective, *sums)
    recent = [(view.recent(pair.long_s), view.recent(pair.short_s)) for pair in PAIRS]
    state = objective.state(tally, recent)
    used = objective.burn_rate(tally)
    return SloRow(
        scope=view.subject.scope,
        name=view.subject.name,
        objective=objective.name,
        limit=float(objective.limit),
        window_days=view.days,
        state=state,
        measured=_measured(view, tally),
        calls=tally.calls,
        unpriced=sums[0] - sums[1] if objective.is_cost else 0,
        budget_left=None if used is None else 1 - used,
        burn_1h=objective.burn_rate(recent[PAIRS.index(FAST)][0]),
        burn_6h=objective.burn_rate(recent[PAIRS.index(SLOW)][0]),
        cause=_cause(view, state, prices),
    )


def _measured(view: _View, tally: Tally) -> float | None:
    if view.objective.name == "p95_latency_ms":
        return view.p95_ms()
    if not tally.events:
        return math.inf if tally.used else None
    return tally.used / tally.events / (NUSD_PER_USD if view.objective.is_cost else 1)


def _cause(view: _View, state: State, prices: Prices) -> str:
    """A breach is compared with the window before it; a budget that burns, today with the days before."""
    if state == "breach":
        before = view.period(f"the {_days(view.days)} before", view.begin - view.days * DAY_S, view.begin)
        return cause(view.objective, before, view.period(_days(view.days), view.begin, view.end), prices)
    if state == "burning":
        today = datetime.fromtimestamp(view.today, UTC).strftime("%Y-%m-%d")
        before = view.period(f"the days before {today}", view.begin, view.today)
        return cause(view.objective, before, view.period(today, view.today, view.end), prices)
    return ""


def _days(days: int) -> str:
    return f"{days} day{'s' * (days != 1)}"
