"""`router slo`: whether the objectives hold, what is left of their error budgets, and why not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.common import AsJson, Environment, Home, Policies, dollars, percent, print_json, print_table, say

if TYPE_CHECKING:
    from router.audit import SloRow

_EXIT_CODES = {"breach": 3, "burning": 1}


def slo(
    policies: Policies = None,
    environment: Environment = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    window: Annotated[str | None, typer.Option(help="Days to look at, such as 7d; else each objective's own.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show whether the objectives of tasks and features hold, how much of their error budgets is left, and why not.

    Exits 3 with a breach, 1 when a budget burns too fast, and 0 otherwise; too few calls are no breach.
    """
    from router.api import Router, state_home
    from router.audit import prices_in_force
    from router.audit import slo as run
    from router.world import World

    router = Router(policies, environment=environment)
    report = run(
        state_home(home),
        router.policy,
        now_s=World().clock.time(),
        task=task,
        feature=feature,
        window_days=_window_days(window),
        prices=prices_in_force(router.policy, router.plan),
    )
    if as_json:
        print_json(report.as_json())
    elif not report.rows:
        say("the policies have no objective; give a task a `slo:`, or a feature one below `slos: {feature: ...}`")
    else:
        _print(report.rows)
    raise typer.Exit(_EXIT_CODES.get(report.state, 0))


def _window_days(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,3})d?", text)
    if not found or not 1 <= int(found[1]) <= 366:
        raise typer.BadParameter(f"{text!r} is no window; give 1d to 366d, such as 7d", param_hint="--window")
    return int(found[1])


def _print(rows: tuple[SloRow, ...]) -> None:
    columns = ["", "objective", "at most", "measured", "calls", "left", "burn 1h", "6h", "state"]
    cells = [
        [
            f"{row.scope} {row.name}",
            row.objective,
            _shown(row, row.limit),
            _shown(row, row.measured),
            f"{row.calls:,}",
            "" if row.budget_left is None else "none" if row.budget_left < -9.99 else percent(row.budget_left),
            _rate(row.burn_1h),
            _rate(row.burn_6h),
            row.state,
        ]
        for row in rows
    ]
    print_table(columns, cells, numbers=columns[2:-1])
    for row in rows:
        if row.cause:
            say(f"{row.state}: {row.scope} {row.name} {row.objective}: {row.cause}")
    if unpriced := max(row.unpriced for row in rows):
        say(f"not in the costs: up to {unpriced:,} calls of a model whose price is unknown")


def _shown(row: SloRow, value: float | None) -> str:
    """A value in the unit of its objective."""
    if value is None:
        return ""
    if value == float("inf"):
        return "no answer"
    match row.objective:
        case "escalation_rate":
            return percent(value)
        case "p95_latency_ms":
            return f"{value:,.0f} ms"
    return dollars(round(value * 1e9))


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
