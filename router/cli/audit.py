"""`router audit`: what happened and what it cost, by any dimension; its subcommands are in `audit_more`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli import audit_more
from router.cli.common import AsJson, Home, counted, dollars, percent, print_json, print_table, say

if TYPE_CHECKING:
    from router.audit import AuditReport, AuditRow, Filters, MoversReport
    from router.audit.costs import CostLine
    from router.audit.units import Margin

app = typer.Typer(help="Show calls, escalations and costs, from the ledger.", invoke_without_command=True)
app.command("show")(audit_more.show)
app.command("reconcile")(audit_more.reconcile)
app.command("export")(audit_more.export)


@app.callback()
def audit(
    ctx: typer.Context,
    by: Annotated[
        str | None, typer.Option(help="A dimension, or two like feature,model; see docs/audit.md. Else task.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="From here on: 24h, 7d, or a date like 2026-11-20.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to here, not included; same forms.")] = None,
    period: Annotated[str | None, typer.Option(help="The last 24h or 7d; the same as --since.")] = None,
    tz: Annotated[str | None, typer.Option(help="Time zone of days and dates, like Europe/Berlin; else UTC.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user: the id, as the application knows it.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session; with --user where it has one.")] = None,
    origin: Annotated[str, typer.Option(help="production, eval, replay, or all of them.")] = "production",
    top: Annotated[int, typer.Option(min=1, help="Groups that are shown one by one.")] = 50,
    lines: Annotated[bool, typer.Option("--lines", help="What the money went to, line by line.")] = False,
    movers: Annotated[bool, typer.Option("--movers", help="What changed against the period before.")] = False,
    units: Annotated[Path | None, typer.Option(help="CSV of units and revenue_usd by the same dimension.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show calls, escalations and what climbing added, from the ledger."""
    if ctx.invoked_subcommand:
        return
    from router.api import state_home
    from router.audit import audit as run

    place = state_home(home)
    named = {"task": task, "feature": feature, "tenant": tenant}
    filters = _filters(place, (since, until, period, tz), named, user, session, origin)
    if sum((lines, movers, units is not None)) > 1:
        raise typer.BadParameter("give one of --lines, --movers and --units")
    if lines and by is not None:
        raise typer.BadParameter("--lines is of all calls that the filters choose; give it without --by")
    by = by or "task"
    if movers:
        _movers(place, by, filters, top, as_json=as_json)
        return
    if units is not None:
        _units(place, by, filters, top, units, as_json=as_json)
        return
    report = run(place, by=by, filters=filters, most=top)
    if as_json:
        print_json(report.as_json())
        return
    if not report.total.calls and not report.rows:
        say(_nothing(report.all_calls))
    elif lines:
        _print_lines(report)
    else:
        _print(report)
    _print_notes(report, saved=not lines and report.kind == "routes")


def _filters(
    home: Path,
    times: tuple[str | None, ...],
    named: dict[str, str | None],
    user: str | None,
    session: str | None,
    origin: str,
) -> Filters:
    """What was asked for, with people by their fingerprints."""
    from router.audit import Filters
    from router.audit.periods import zone_of
    from router.ledger import stored_session, stored_user
    from router.world import World

    since, until, period, tz = times
    if period is not None and (since or until):
        raise typer.BadParameter("give --period, or --since and --until", param_hint="--period")
    if origin not in ("production", "eval", "replay", "all"):
        raise typer.BadParameter(f"{origin!r} is none of production, eval, replay, all", param_hint="--origin")
    zone_of(tz)
    world = World()
    now_s = world.clock.time()
    start = audit_more.moment(since, now_s, "--since", tz) if period is None else _ago(period, now_s)
    return Filters(
        start,
        audit_more.moment(until, now_s, "--until", tz),
        **named,
        user=None if user is None else stored_user(home, world, user),
        session=None if session is None else stored_session(home, world, session, user),
        origin=None if origin == "all" else origin,
        tz=tz,
    )


def _ago(period: str, now_s: float) -> float | None:
    if not re.fullmatch(r"[0-9]{1,6}[hd]", period):
        raise typer.BadParameter(f"{period!r} is no period; give 24h or 7d", param_hint="--period")
    return audit_more.moment(period, now_s, "--period", None)


def _print(report: AuditReport) -> None:
    of_requests = report.kind == "attempts"
    columns = [report.by, *(("requests", "retries") if of_requests else ("calls", "escalated")), "failed", "cost"]
    columns.append("up to more" if of_requests else "marginal")
    rows = [_cells(row) for row in report.rows]
    total = None if of_requests else _cells(report.total)
    if report.kind == "routes":
        columns.append("saved")
        rows = [[*cells, _saved(row)] for cells, row in zip(rows, report.rows, strict=True)]
        total = [*_cells(report.total), _saved(report.total)]
    if of_requests:
        names = ("calls", "escalated", "failed", "cost_nusd", "marginal_nusd", "unpriced")
        sums = {name: sum(getattr(row, name) for row in report.rows) for name in names}
        total = _cells(replace(report.total, saved_nusd=None, **sums))
    print_table(columns, rows, numbers=columns[1:], footer=total)
    if report.kind == "steps" and not _adds_up(report):
        say(
            "rows count calls in which a model was asked, climbed past or failed; the total counts each call once, and "
            "as failed only without an answer, so rows need not add up to it"
        )


def _adds_up(report: AuditReport) -> bool:
    names = ("calls", "escalated", "failed")
    return all(sum(getattr(row, name) for row in report.rows) == getattr(report.total, name) for name in names)


def _print_lines(report: AuditReport) -> None:
    from router.audit.costs import ABOUT

    whole = sum(line.cost_nusd for line in report.lines)
    rows = [
        [
            ABOUT.get(line.line, line.line),
            f"{line.requests:,}",
            "unknown" if _unknown(line) else dollars(line.cost_nusd),
            percent(line.cost_nusd / whole) if whole else "",
            ("no bound" if line.unbounded else "") if not line.upper_nusd else f"{dollars(line.upper_nusd)}",
        ]
        for line in report.lines
    ]
    columns = ["what it went to", "requests", "cost", "share", "up to more"]
    requests = sum(line.requests for line in report.lines)
    most = sum(line.upper_nusd for line in report.lines)
    print_table(
        columns, rows, numbers=columns[1:], footer=["total", f"{requests:,}", _whole(report), "", dollars(most)]
    )
    if whole != report.total.cost_nusd:
        rest = whole - report.total.cost_nusd
        say(f"of this {dollars(rest)} belongs to calls whose whole cost is not known, and to no call's sum")
    base = report.baseline
    if base.calls:
        say(f"the top rung alone: {dollars(base.known_nusd)} known, {dollars(base.guessed_nusd)} estimated")
    if base.without_interval:
        about = counted(base.without_interval, "call")
        say(f"no interval for the estimate of {about}: their task has too few calls that climbed to the top")


def _unknown(line: CostLine) -> bool:
    return line.line in ("unpriced", "unknown") and not line.cost_nusd


def _whole(report: AuditReport) -> str:
    """What all lines cost; the least that it can be where the cost of one is unknown."""
    whole = sum(line.cost_nusd for line in report.lines)
    if not any(map(_unknown, report.lines)):
        return dollars(whole)
    return f"at least {dollars(whole)}" if whole else "unknown"


def _print_margins(by: str, found: list[Margin]) -> None:
    columns = [by, "cost", "units", "cost per unit", "revenue", "margin"]
    rows = [
        [
            one.key,
            dollars(one.cost_nusd),
            "" if one.units is None else f"{one.units:,}",
            "" if one.unit_cost_nusd is None else dollars(one.unit_cost_nusd),
            "" if one.revenue_nusd is None else dollars(one.revenue_nusd),
            "" if one.margin_nusd is None else dollars(one.margin_nusd),
        ]
        for one in found
    ]
    print_table(columns, rows, numbers=columns[1:])


def _print_notes(report: AuditReport, *, saved: bool) -> None:
    base = report.baseline
    if saved and base.saved_range_nusd:
        low, high = map(dollars, base.saved_range_nusd)
        of = f"{base.guessed:,} of {counted(base.calls, 'call')}"
        say(
            f"saved: for {of} the table takes the top rung's price for the draft's tokens; corrected by what it really "
            f"cost where it answered, the total is {low} to {high} (95 %)"
        )
    for name, nusd in report.unlabelled_nusd:
        if nusd and report.total.cost_nusd:
            say(f"no {name}: {dollars(nusd)}, {percent(nusd / report.total.cost_nusd)} of the cost")
    if report.packed:
        say(f"{audit_more.packed_hint(report.packed)}, so no row above counts them")
    for one in report.left_out:
        say(f"left out: {counted(one.calls, 'call')} of origin {one.origin}, {dollars(one.cost_nusd)}")
    if report.total.unpriced:
        say(f"not in the costs: {counted(report.total.unpriced, 'call')} of a model whose price is unknown")
    if report.uncertain:
        more = f", {report.unbounded:,} of them without a bound" if report.unbounded else ""
        most = dollars(report.uncertain_nusd)
        bound = "with no bound" if report.unbounded == report.uncertain else f"up to {most} more{more}"
        say(f"not settled: {counted(report.uncertain, 'request')}, {bound}")
    _print_damage(report)


def _print_damage(report: AuditReport) -> None:
    for problem, items in (("torn last line", report.fold.torn), ("unreadable line", report.fold.corrupt)):
        for item in items:
            say(f"ledger: {problem} in {item}; nothing else of it is lost")
    for item in report.fold.cut_packs:
        say(f"ledger: {item}; sums may be missing, and `router ledger verify` says more")
    for item in report.fold.duplicates:
        say(f"ledger: {item} is a copy of what is packed, and counted already; it is left out")
    for item in report.fold.cut:
        say(f"ledger: {item} is shorter than it was; rows that were not read before are lost")
    if report.fold.lost:
        say(f"ledger: up to {counted(report.fold.lost, 'row')} could not be written, or were deleted since")


def _nothing(all_calls: int) -> str:
    """Why there is nothing to show."""
    if not all_calls:
        return "the ledger holds no calls here; ROUTER_HOME or --home names its folder"
    return f"no call matches these filters; without them, and with --origin all, there are {all_calls:,}"


_ALL_GROUPS = 1_000_000


def _units(home: Path, by: str, filters: Filters, top: int, file: Path, *, as_json: bool) -> None:
    from router.audit import audit as run
    from router.audit import margins, read_units, unmatched
    from router.ledger import stored_user
    from router.world import World

    world = World()
    sold = read_units(file, by, name=(lambda user: stored_user(home, world, user)) if by == "user" else None)
    # A group of the file may be among the cheapest.
    report = run(home, by=by, filters=filters, most=_ALL_GROUPS)
    found, alone = margins(report.rows, sold), unmatched(report.rows, sold)
    if as_json:
        margin = [one.as_json() for one in found]
        print_json({**report.as_json(), "margins": margin, "unmatched_lines": alone})
        return
    if not found:
        say(_nothing(report.all_calls))
    else:
        shown = [one for number, one in enumerate(found) if number < top or one.units is not None]
        _print_margins(report.by, shown)
        if len(found) > len(shown):
            say(f"{counted(len(found) - len(shown), 'group')} more, which the file does not name; --top shows them")
    if alone:
        say(f"{counted(alone, 'line')} of the file {'matches' if alone == 1 else 'match'} no group of these calls")
    _print_notes(report, saved=False)


def _movers(home: Path, by: str, filters: Filters, top: int, *, as_json: bool) -> None:
    from router.audit import movers
    from router.world import World

    report = movers(home, by=by, filters=filters, now_s=World().clock.time())
    if as_json:
        print_json(report.as_json())
    elif not report.rows:
        say(_nothing(report.all_calls))
    else:
        _print_movers(report, top)


def _print_movers(report: MoversReport, top: int) -> None:
    if not report.comparable:
        first, last = map(audit_more.when, report.before)
        now = f"{counted(report.total.calls, 'call')}, {dollars(report.total.cost_nusd)}"
        say(f"no calls before: there is none from {first} to {last} UTC to compare with; now: {now}")
        return
    columns = [report.by, "before", "now", "change", "volume", "mix", "price"]

    def cells(row: object) -> list[str]:
        names = ("cost_before_nusd", "cost_nusd", "change_nusd", "volume_nusd", "mix_nusd", "price_nusd")
        return [str(row.key), *(dollars(getattr(row, name)) for name in names)]  # type: ignore[attr-defined]

    rows = [cells(row) for row in report.rows[:top]]
    print_table(columns, rows, numbers=columns[1:], footer=cells(report.total))
    if len(report.rows) > top:
        say(f"{counted(len(report.rows) - top, 'group')} more in the total; --top shows them")
    first, last = (audit_more.when(second) for second in (report.before[0], report.before[1]))
    say(f"before: {first} to {last}; now: {last} to {audit_more.when(report.now[1])}, whole hours, UTC")


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
