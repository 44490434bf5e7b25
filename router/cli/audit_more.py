"""`router audit show`, `reconcile` and `export`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, Home, counted, dollars, print_json, print_table, say

if TYPE_CHECKING:
    from router.audit.call import CallReport
    from router.audit.reconcile import Compared, Reconciliation

_BAR = 30

Since = Annotated[str | None, typer.Option(help="From here on: 24h, 7d, or a date like 2026-11-20.")]
Until = Annotated[str | None, typer.Option(help="Up to here, not included; same forms.")]


def show(
    route_id: Annotated[str, typer.Argument(help="The call's id, or its beginning.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one call in full: every request over time, every step with its reason, who it belongs to."""
    from router.api import state_home
    from router.audit import show as run

    report = run(state_home(home), route_id)
    if as_json:
        print_json(report.as_json())
    else:
        _print_call(report)


def reconcile(
    file: Annotated[Path, typer.Argument(help="The provider's usage or cost export, as CSV.")],
    columns: Annotated[
        str | None, typer.Option(help="Columns whose names are not known: day=Date,model=Deployment,cost_usd=Total.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare the ledger with a provider's bill, by day and model; exit code 1 where they do not agree."""
    from router.api import state_home
    from router.audit import reconcile as run

    report = run(state_home(home), file, columns=_pairs(columns))
    if as_json:
        print_json(report.as_json())
    else:
        _print_reconciliation(report)
    raise typer.Exit(0 if report.agrees else 1)


def export(
    file: Annotated[Path, typer.Argument(help="The file to write; .csv or .parquet.")],
    what: Annotated[str, typer.Option(help="attempts, calls or steps.")] = "calls",
    since: Since = None,
    until: Until = None,
    origin: Annotated[str, typer.Option(help="production, eval, replay, or all of them.")] = "production",
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write the ledger's rows to a file, with the columns of docs/ledger.md."""
    from router.api import state_home
    from router.audit import Filters, packed
    from router.audit import export as run
    from router.world import World

    now_s = World().clock.time()
    since_s, until_s = moment(since, now_s, "--since", None), moment(until, now_s, "--until", None)
    filters = Filters(since_s, until_s, origin=None if origin == "all" else origin)
    count = run(state_home(home), file, what=what, filters=filters, force=force)
    if as_json:
        print_json({"path": str(file), "what": what, "rows": count})
    else:
        say(f"{file}: {counted(count, 'row')} of {what}")
        if away := packed(state_home(home), filters):
            say(f"{packed_hint(away)}, so no rows of them are in the file")


def packed_hint(calls: int) -> str:
    """What is left of packed calls."""
    are = "are packed: they have" if calls != 1 else "is packed: it has"
    return f"{counted(calls, 'call')} {are} sums by hour, but no session, policy, plan, outcome, fault or state"


def moment(text: str | None, now_s: float, option: str, tz: str | None) -> float | None:
    """A moment from `24h`, `7d` or a date, which is one of the time zone."""
    from datetime import datetime

    from router.audit.periods import zone_of

    if text is None:
        return None
    if ago := re.fullmatch(r"([0-9]{1,6})([hd])", text):
        return now_s - int(ago[1]) * {"h": 3600, "d": 86400}[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no moment; give 24h, 7d, or a date like 2026-11-20", param_hint=option
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=zone_of(tz))).timestamp()


def when(second: float) -> str:
    """A moment for people, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M")


def _pairs(text: str | None) -> dict[str, str]:
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    if wrong := [name for name, _, value in pairs if not value.strip()]:
        raise typer.BadParameter(f"{wrong[0]!r} names no column; give day=Date,model=Name", param_hint="--columns")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _print_call(report: CallReport) -> None:
    about, route = report.about, report.route or {}
    outcome = route.get("outcome") or "not ended, or its process died"
    say(f"{report.route_id}  {about['task']}, {when(report.started_s)} UTC, {report.length_ms:,.0f} ms: {outcome}")
    columns = ["request", "model", "over time", "ms", "first", "state", "tokens", "cost"]
    if report.attempts:
        print_table(columns, [_request(report, one) for one in report.attempts], numbers=("ms", "first", "cost"))
    else:
        say("no request was sent")
    for step in report.steps:
        sure = "" if step["confidence"] is None else f" ({_confidence(step)})"
        say(f"{step['model']}: {step['action']}{sure}, {step['reason']}")
    if route:
        _print_money(route)
    who = [f"{name} {about[name]}" for name in ("feature", "user", "tenant", "session") if about.get(name)]
    plan = about.get("plan_hash") or "none"
    say(f"{', '.join(who) or 'no attribution'}; policy {about['policy_hash']}, plan {plan}, origin {about['origin']}")


def _confidence(step: dict[str, Any]) -> str:
    threshold = "" if step["threshold"] is None else f", threshold {step['threshold']:.2f}"
    return f"confidence {step['confidence']:.2f}{threshold}"


def _print_money(route: dict[str, Any]) -> None:
    most = "" if route["upper_nusd"] == route["cost_nusd"] else f", at most {dollars(route['upper_nusd'])}"
    line = f"cost {dollars(route['cost_nusd'])}{most}; climbing added {dollars(route['marginal_nusd'])}"
    if route["baseline_source"] in ("known", "estimated"):
        line += f"; the top rung alone {dollars(route['baseline_nusd'])} ({route['baseline_source']})"
    say(line)


def _request(report: CallReport, one: dict[str, Any]) -> list[str]:
    from router.audit.call import buckets

    tokens = ", ".join(f"{count:,} {name.removesuffix('_tokens')}" for name, count in buckets(one).items())
    cost = dollars(one["cost_nusd"])
    tier = f" (tier {one['service_tier']})" if one["service_tier"] else ""
    if one["state"] in ("maybe_billed", "estimated", "unknown"):
        most = "no bound" if one["upper_nusd"] is None else dollars(one["upper_nusd"])
        if one["cost_nusd"] is not None or one["upper_nusd"] is not None:
            cost = f"{cost} to {most}"
    return [
        f"{one['attempt_id'].rpartition('-')[2]}, rung {one['rung']}",
        one["model"] or "",
        bar((one["time_s"] - report.started_s) * 1000, one["latency_ms"] or 0, report.length_ms),
        "" if one["latency_ms"] is None else f"{one['latency_ms']:,.0f}",
        "" if one["first_token_ms"] is None else f"{one['first_token_ms']:,.0f}",
        ": ".join(part for part in (one["state"], one["fault"]) if part) + tier,
        tokens,
        cost,
    ]


def bar(start_ms: float, length_ms: float, whole_ms: float) -> str:
    """A request over the time of its call: dots before it, at least one sign of it, dots after."""
    scale = _BAR / whole_ms if whole_ms > 0 else 0.0
    first = min(_BAR - 1, max(0, int(start_ms * scale)))
    last = min(_BAR, max(first + 1, round((start_ms + length_ms) * scale)))
    return "." * first + "#" * (last - first) + "." * (_BAR - last)


def _print_reconciliation(report: Reconciliation) -> None:
    columns = ["day", "model", "bill", "ledger", "up to", "requests", ""]
    rows = [_compared(row) for row in report.rows]
    print_table(columns, rows, numbers=("bill", "ledger", "up to", "requests"))
    for row in report.rows:
        for reason in row.reasons:
            say(f"{row.day} {row.model}: {reason}")
    for line, of in report.export.repeated:
        say(f"line {line} repeats line {of} sign by sign: it counts once")
    if report.export.unused:
        say(f"columns that were not used: {', '.join(report.export.unused)}")
    if report.other_models:
        say(f"in the ledger in these days, and not in this bill: {', '.join(report.other_models)}")
    differ = sum(not row.agrees for row in report.rows)
    say(f"{counted(differ, 'line')} of {len(report.rows):,} differ" if differ else "the bill agrees with the ledger")


def _compared(row: Compared) -> list[str]:
    billed, recorded = row.billed, row.recorded
    requests = "" if billed is None or billed.requests is None else f"{billed.requests:,}"
    ours = f"{recorded.requests:,}" if recorded else "0"
    no_bound = recorded is not None and (recorded.unbounded or recorded.unpriced)
    return [
        row.day,
        row.model,
        dollars(billed.cost_nusd) if billed and billed.cost_nusd is not None else "-",
        dollars(recorded.cost_nusd) if recorded else "-",
        "no bound" if no_bound else dollars(recorded.cost_nusd + recorded.upper_nusd) if recorded else "-",
        f"{requests or '-'} / {ours}",
        "agrees" if row.agrees else "differs",
    ]
