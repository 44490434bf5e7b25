"""`router audit`: escalations with their marginal cost."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, cast

import typer

from router.cli.common import AsJson, Home, counted, dollars, percent, print_json, print_table, say

if TYPE_CHECKING:
    from router.audit.escalations import AuditReport, AuditRow, Dimension


def audit(
    by: Annotated[str, typer.Option(help="task, model, feature, user, tenant, day or hour.")] = "task",
    since: Annotated[str | None, typer.Option(help="From here on: 24h, 7d, or a date like 2026-11-20.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to here, not included; same forms.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user: the id, as the application knows it.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show calls, escalations and what climbing added, from the ledger."""
    from router.api import state_home
    from router.audit import DIMENSIONS, Filters
    from router.audit import audit as run
    from router.ledger import stored_user
    from router.world import World

    if by not in DIMENSIONS:
        raise typer.BadParameter(f"{by!r} is none of {', '.join(DIMENSIONS)}", param_hint="--by")
    place, world = state_home(home), World()
    now_s = world.clock.time()
    user_fp = stored_user(place, world, user) if user is not None else None
    filters = Filters(
        since_s=_moment(since, now_s, "--since"),
        until_s=_moment(until, now_s, "--until"),
        task=task,
        feature=feature,
        user=user_fp,
        tenant=tenant,
    )
    report = run(place, by=cast("Dimension", by), filters=filters)
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)


def _print(report: AuditReport) -> None:
    if not report.total.calls and not report.rows:
        say("the ledger holds no calls here; ROUTER_HOME or --home names its folder")
        return
    columns = [report.by, "calls", "escalated", "failed", "cost", "marginal"]
    rows = [_cells(row) for row in report.rows]
    total = _cells(report.total)
    if report.by != "model":
        columns.append("saved")
        rows = [[*cells, _saved(row)] for cells, row in zip(rows, report.rows, strict=True)]
        total.append(_saved(report.total))
    print_table(columns, rows, numbers=columns[1:], footer=total)
    if report.by == "model" and sum(row.calls for row in report.rows) != report.total.calls:
        say("a call counts once for each model that it asked, and once in the total")
    if report.total.unpriced:
        say(f"not in the costs: {counted(report.total.unpriced, 'call')} of a model whose price is unknown")
    if report.uncertain:
        more = f", {report.unbounded:,} of them without a bound" if report.unbounded else ""
        most = dollars(report.uncertain_nusd)
        bound = "with no bound" if report.unbounded == report.uncertain else f"up to {most} more{more}"
        say(f"not settled: {counted(report.uncertain, 'request')}, {bound}")
    for problem, items in (("torn last line", report.fold.torn), ("unreadable line", report.fold.corrupt)):
        for item in items:
            say(f"ledger: {problem} in {item}; nothing else of it is lost")
    for item in report.fold.cut:
        say(f"ledger: {item} is shorter than it was; rows that were not read before are lost")
    if report.fold.lost:
        say(f"ledger: up to {counted(report.fold.lost, 'row')} could not be written, or were deleted since")


def _cells(row: AuditRow) -> list[str]:
    return [
        row.key,
        f"{row.calls:,}",
        f"{row.escalated:,} ({_rate(row.escalation_rate)})",
        f"{row.failed:,}",
        *(["unknown"] * 2 if row.unpriced == row.calls > 0 else [dollars(row.cost_nusd), dollars(row.marginal_nusd)]),
    ]


def _rate(share: float) -> str:
    return percent(share) if 0 < share < 0.1 else f"{share:.0%}"


def _saved(row: AuditRow) -> str:
    return "unknown" if row.saved_nusd is None else dollars(row.saved_nusd)


def _moment(text: str | None, now_s: float, option: str) -> float | None:
    """A moment from `24h`, `7d` or a date, in UTC."""
    from datetime import UTC, datetime

    if text is None:
        return None
    if ago := re.fullmatch(r"([0-9]{1,6})([hd])", text):
        return now_s - int(ago[1]) * {"h": 3600, "d": 86400}[ago[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no moment; give 24h, 7d, or a date like 2026-11-20", param_hint=option
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
