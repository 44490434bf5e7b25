"""`router policy`: which policies were in force, and an earlier one back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from router.cli.audit_more import packed_hint
from router.cli.common import AsJson, Environment, Home, Policies, dollars, print_json, print_table, say

app = typer.Typer(help="List the policies that were in force, and have an earlier one back.", no_args_is_help=True)


@app.command("history")
def history(
    policies: Policies = None, environment: Environment = None, home: Home = None, as_json: AsJson = False
) -> None:
    """List every policy that answered a call, with its calls and cost, the latest first."""
    from router.api import state_home
    from router.audit import packed, policy_history
    from router.errors import PolicyError
    from router.spec import kept, load

    place = state_home(home)
    try:
        now = load(policies, environment=environment).policy_hash
    except PolicyError:  # The list is wanted most when the files are broken.
        now = ""
    copies = kept(place)
    rows: list[dict[str, Any]] = [
        {
            "policy_hash": use.policy_hash,
            "in_force": use.policy_hash == now,
            "first": _moment(use.first_s),
            "last": _moment(use.last_s),
            "calls": use.calls,
            "cost_nusd": str(use.cost_nusd),
            "unpriced": use.unpriced,
            "copy": use.policy_hash in copies,
        }
        for use in policy_history(place)
    ]
    if as_json:
        print_json({"policies": rows})
        return
    away = packed(place)
    if not rows and not away:
        typer.echo("the ledger holds no calls here; ROUTER_HOME or --home names its folder")
        return
    columns = ["policy", "", "first call", "last call", "calls", "cost", "copy"]
    cells = [
        [
            row["policy_hash"],
            "now" if row["in_force"] else "",
            row["first"],
            row["last"],
            f"{row['calls']:,}",
            dollars(int(row["cost_nusd"])),
            "yes" if row["copy"] else "no",
        ]
        for row in rows
    ]
    print_table(columns, cells, numbers=["calls", "cost"])
    if away:
        say(f"{packed_hint(away)}, so no policy above counts them")


@app.command("rollback")
def rollback(
    policy_hash: Annotated[str, typer.Argument(help="Its hash, or the beginning of it; `router policy history`.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    policies: Policies = None,
    environment: Environment = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write the files of an earlier policy back. The present ones are saved first; tuned files stay as they are."""
    from router.api import state_home
    from router.spec import kept, restore
    from router.world import World

    place = state_home(home)
    found = sorted(name for name in kept(place) if name.startswith(policy_hash))
    if len(found) > 1:
        typer.echo(f"error: {policy_hash!r} is the beginning of {' and '.join(found)}; give more of it", err=True)
        raise typer.Exit(2)
    wanted = found[0] if found else policy_hash
    if found and not yes and not typer.confirm(f"Write the files of policy {wanted} over the present ones?", err=True):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)
    done = restore(place, wanted, source=policies, environment=environment, draft=World().new_id())
    if as_json:
        paths = {"written": [*map(str, done.written)], "removed": [*map(str, done.removed)], "saved": str(done.saved)}
        print_json({"policy_hash": done.policy_hash, **paths})
        return
    for path in done.written:
        typer.echo(f"wrote {path}")
    for path in done.removed:
        typer.echo(f"removed {path}")
    typer.echo(f"the files as they were: {done.saved}")


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
