"""`router budgets`: what is spent of each budget, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, Home, dollars, print_json, print_table, say

if TYPE_CHECKING:
    from router.state import InUse


def budgets(
    user: Annotated[str | None, typer.Option(help="Only this user: the id, as the application knows it.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show every budget in use: its limit, what is spent and held, what is left, and when it begins anew."""
    from router.api import state_home
    from router.ledger import stored_user
    from router.state import SharedBudgets
    from router.world import World

    place, world = state_home(home), World()
    found = SharedBudgets(place / "state", world).in_use() if (place / "state").is_dir() else []
    if user is not None:
        key = stored_user(place, world, user)
        found = [one for one in found if one.counter.startswith("user.") and one.key == key]
    if as_json:
        print_json({"budgets": [_told(one) for one in found]})
    elif not found:
        say("no budget is in use; a budget of the policy shows here once a call was held to it")
    else:
        _print(found)


def _print(found: list[InUse]) -> None:
    columns = ["budget", "key", "limit", "spent", "held", "left", "begins anew"]
    rows = []
    for one in found:
        amounts = (one.limit, one.spent, one.held, one.left)
        shown = map(dollars, amounts) if one.in_dollars else (f"{amount:,}" for amount in amounts)
        rows.append([one.counter, one.key, *shown, one.resets_at])
    print_table(columns, rows, numbers=columns[2:6])


def _told(one: InUse) -> dict[str, Any]:
    """A budget for programs: nano-dollars as text, as in the ledger, or whole escalations."""
    amounts = {"limit": one.limit, "spent": one.spent, "held": one.held, "left": one.left}
    if one.in_dollars:
        figures: dict[str, Any] = {f"{name}_nusd": str(amount) for name, amount in amounts.items()}
    else:
        figures = dict(amounts)
    return {"budget": one.counter, "key": one.key, **figures, "resets_at": one.resets_at}
