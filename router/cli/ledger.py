"""`router ledger`: whether the ledger can be trusted, and letting go of what it no longer needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.common import AsJson, Environment, Home, Policies, counted, dollars, print_json, say

if TYPE_CHECKING:
    from router.ledger.compact import CompactReport
    from router.ledger.damage import Damage
    from router.ledger.verify import VerifyReport

_DAY_S = 86_400.0
app = typer.Typer(help="Check the ledger, forget a user, and pack what is old.", no_args_is_help=True)


@app.command("verify")
def verify(home: Home = None, as_json: AsJson = False) -> None:
    """Read every byte of the ledger, and name each line that was changed. Repairs nothing."""
    from router.api import state_home
    from router.ledger.verify import verify as run

    report = run(state_home(home))
    if as_json:
        print_json(report.as_json())
    else:
        _print_verified(report)
    raise typer.Exit(0 if report.ok else 1)


def _print_verified(report: VerifyReport) -> None:
    if report.missing:
        say(f"no ledger: there is no folder {report.missing}; ROUTER_HOME or --home names the folder above it")
        return
    kept = set(report.kept)
    for damage in report.damaged:
        rows = ", ".join(
            f"{row.kind} {row.id}".strip() + (" (the read model has it)" if row in kept else "") for row in damage.rows
        )
        say(f"damaged: {_place(damage)}; lost: {rows}")
    for damage in report.torn:
        say(f"torn: {_place(damage)}; a writer died or its disk was full, no row that was acknowledged is lost")
    for problem in report.cut:
        say(f"missing: {problem}")
    for name in report.duplicates:
        say(f"left out: {name} is a copy of what is packed, and counted already")
    for problem in report.differences:
        say(f"read model: {problem}")
    for item in report.newer:
        say(f"waits: {item}; a newer version wrote the rows from here on, upgrade cascade-router")
    if report.gone:
        say(f"deleted: {counted(len(report.gone), 'segment')} after a fold; the read model alone has their rows")
    if report.lost:
        say(f"not written: up to {counted(report.lost, 'row')}, by the account of their own processes")
    _print_conclusion(report)


def _print_conclusion(report: VerifyReport) -> None:
    broken = len(report.damaged) + len(report.cut)
    say(
        f"{counted(report.segments, 'segment')}, {counted(report.rows, 'row')} read; "
        f"{counted(broken, 'place')} damaged, {counted(len(report.differences), 'difference')}"
    )
    if report.cut:
        say("next: restore these files from a backup, and delete ledger.db only then: it may alone have what they lack")
    elif report.damaged:
        say("next: restore these segments from a backup, then delete ledger.db to have it rebuilt")
    elif report.differences:
        say("next: delete ledger.db to have it rebuilt from the segments")


def _place(damage: Damage) -> str:
    return f"{damage.segment}, line {damage.line}, bytes {damage.start:,} to {damage.end:,}"


@app.command("forget")
def forget(
    user: Annotated[str, typer.Option(help="The id, as the application knows it.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Destroy what ties a user to the ledger's rows; sums stay as they are. Cannot be undone."""
    from router.api import state_home
    from router.audit.forget import forget as run

    place = state_home(home)
    done = run(place, user)
    if as_json:
        print_json({"known": done is not None, **(done.as_json() if done else {})})
    elif done is None:
        say("the ledger knows no such user; ids are compared letter by letter")
    else:
        stays = f"{counted(done.calls, 'call')} for {dollars(done.cost_nusd)}"
        say(f"forgotten: {stays} stay in the sums under no name; {counted(done.answers, 'kept answer')} deleted")
        say(
            f"not touched: recordings, files to resume from, backups of {place}, and what the application logged itself"
        )
    raise typer.Exit(0 if done else 1)


@app.command("compact")
def compact(
    older_than: Annotated[
        str | None, typer.Option(help="How old: 90d, or 48h; else what the policy says in `ledger: {keep_days: ...}`.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only show what would be done.")] = False,
    policies: Policies = None,
    environment: Environment = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Replace old segments by their hourly sums. Hourly sums stay; single calls of that time are gone."""
    from router.api import state_home
    from router.ledger.compact import compact as run

    age_s = _kept_s(policies, environment) if older_than is None else _seconds(older_than)
    report = run(state_home(home), older_than_s=age_s, apply=yes)
    if as_json:
        print_json(report.as_json())
    else:
        _print_compacted(report)


def _print_compacted(report: CompactReport) -> None:
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(report.before_s, UTC).strftime("%Y-%m-%d %H:%MZ")
    done = "packed" if report.applied else "would pack"
    what = f"{counted(len(report.segments), 'segment')}, {counted(report.rows, 'row')}, {report.bytes:,} bytes"
    say(f"{done}: {what}; all of it older than {moment}")
    if report.living:
        say(f"left alone: {counted(report.living, 'segment')} of processes that still run")
    for name in report.copied:
        say(f"left alone: {name} has a copy that stays; delete one of the two")
    for name in report.damaged:
        say(f"left alone: {name} is damaged; router ledger verify says where")
    if report.segments and not report.applied:
        say("next: the same with --yes; every sum by the hour stays, single calls of that time cannot be shown then")


def _kept_s(policies: Path | None, environment: str | None) -> float:
    """How long the policy keeps single calls."""
    from router.spec import load

    days = load(policies, environment=environment).policy.ledger.keep_days
    if days is None:
        raise typer.BadParameter(
            "the policy does not say how long single calls are kept; add `ledger: {keep_days: 90}` to it, or give an "
            "age such as 90d",
            param_hint="--older-than",
        )
    return days * _DAY_S


def _seconds(text: str) -> float:
    age = re.fullmatch(r"([0-9]{1,5})([hd])", text)
    if age is None:
        raise typer.BadParameter(f"{text!r} is no age; give 90d or 48h", param_hint="--older-than")
    return int(age[1]) * {"h": 3600.0, "d": _DAY_S}[age[2]]
