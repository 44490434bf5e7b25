"""`router budgets`: what the policy allows, what is spent of it, and what is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, Environment, Home, Policies, dollars, print_json, print_table, say

if TYPE_CHECKING:
    from router.core.counters import Counter
    from router.core.limits import Kind
    from router.core.policy import Policy
    from router.state import InUse
    from router.world import World


@dataclass(frozen=True, slots=True)
class _Row:
    """A limit of one key, or of each key without an entry of its own; nano-dollars, or escalations."""

    budget: str
    key: str
    """Whose it is; a user's fingerprint, or `default`."""
    name: str
    """The same for people."""
    limit: int
    used: InUse | None
    """What is known of its window; nothing where no call was held to it, and for a default."""
    resets_at: str
    in_policy: bool | None
    """`None` where no policy was found."""

    @property
    def amounts(self) -> dict[str, int | None]:
        """Limit, spent, held and left; of a default only the limit, for each key spends by itself."""
        spent, held = (self.used.spent, self.used.held) if self.used else (0, 0)
        if self.key == "default" and self.used is None:
            return {"limit": self.limit, "spent": None, "held": None, "left": None}
        return {"limit": self.limit, "spent": spent, "held": held, "left": max(0, self.limit - spent - held)}


def budgets(
    policies: Policies = None,
    environment: Environment = None,
    user: Annotated[str | None, typer.Option(help="Only this user: the id, as the application knows it.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show every budget of the policy and every one in use: limit, spent, held, left, and when it begins anew.

    Where no policy is found, those in use alone. A budget in use that the policy no longer has is marked.
    """
    from router.api import state_home
    from router.core.limits import DEFAULT
    from router.ledger import stored_user
    from router.state import SharedBudgets
    from router.world import World

    place, world, policy = state_home(home), World(), _policy(policies, environment)
    found = SharedBudgets(place / "state", world).in_use() if (place / "state").is_dir() else []
    named = [name for name in policy.budgets.user if name != DEFAULT] if policy else []
    known = named if user is None else [user]
    # Without a call there is no user to find, and no secret to make for that.
    users = {stored_user(place, world, name): name for name in known} if found else {name: name for name in known}
    if user is not None:
        found = [one for one in found if one.counter.startswith("user.") and one.key in users]
    rows = list(_rows(policy, found, users, user, world)) if policy else [_unlisted(one, users, None) for one in found]
    if as_json:
        print_json({"budgets": [_told(one) for one in rows]})
    elif rows:
        _print(rows)
    elif policy:
        say("the policy has no budget here, and none is in use")
    else:
        say("no policy is found, and no budget is in use; name the policy with --policies")


def _policy(source: Path | None, environment: str | None) -> Policy | None:
    """The policy in force; nothing where none is named and none is in the usual place."""
    from router.spec import load
    from router.spec.load import POLICIES_VARIABLE, policy_source

    if source is None and not os.environ.get(POLICIES_VARIABLE) and not policy_source(None).exists():
        return None
    return load(source, environment=environment).policy


def _rows(policy: Policy, found: list[InUse], users: dict[str, str], user: str | None, world: World) -> Iterator[_Row]:
    """The limits of the policy in its order, then what is in use and no longer in it."""
    from router.core.limits import KINDS

    left, now_s = list(found), world.clock.time()
    for kind in KINDS if user is None else ("user",):
        for key, counter in _configured(policy, kind, users, user):
            for row in _of_limit(policy, kind, key, counter, left, users, now_s):
                if row.used:
                    left.remove(row.used)
                yield row
    yield from (_unlisted(one, users, in_policy=False) for one in left)


def _configured(policy: Policy, kind: Kind, users: dict[str, str], user: str | None) -> Iterator[tuple[str, Counter]]:
    """The limits of one kind, by key; those of each key without an entry come last."""
    from router.core.counters import counters
    from router.core.limits import DEFAULT, Allowance
    from router.limits import allowances

    entries = allowances(policy, kind)
    if user is not None:
        entries = {user: entries.get(user, entries.get(DEFAULT, Allowance()))}
    keys = {name: key for key, name in users.items()} if kind == "user" else {}
    for name in sorted(entries, key=lambda name: name == DEFAULT and user is None):
        for counter in counters(kind, entries[name], policy.budgets):
            yield keys.get(name, name), counter


def _of_limit(
    policy: Policy, kind: Kind, key: str, counter: Counter, left: list[InUse], users: dict[str, str], now_s: float
) -> Iterator[_Row]:
    """The row of one limit; of a default also those of the keys that it holds for."""
    from router.core.limits import DEFAULT
    from router.limits import allowances
    from router.windows import moment_text, span

    budget, window = f"{kind}.{counter.field}", span(counter.window, counter.time_zone, now_s)
    resets_at = moment_text(window.end_s, counter.time_zone)
    open_now = {one.key: one for one in left if one.counter == budget and one.span == window}
    if key != DEFAULT:
        name = users.get(key, key) if kind == "user" else key
        yield _Row(budget, key, name, counter.limit, open_now.get(key), resets_at, in_policy=True)
        return
    yield _Row(budget, DEFAULT, f"each {kind} without its own", counter.limit, None, resets_at, in_policy=True)
    own = set(users) if kind == "user" else set(allowances(policy, kind))
    for found_key, one in open_now.items():
        if found_key not in own and (kind != "task" or found_key in policy.tasks):
            yield _Row(budget, found_key, found_key, counter.limit, one, resets_at, in_policy=True)


def _unlisted(one: InUse, users: dict[str, str], in_policy: bool | None) -> _Row:
    name = users.get(one.key, one.key) if one.counter.startswith("user.") else one.key
    return _Row(one.counter, one.key, name, one.limit, one, one.resets_at, in_policy)


def _print(found: list[_Row]) -> None:
    columns = ["budget", "key", "limit", "spent", "held", "left", "begins anew"]
    gone = any(one.in_policy is False for one in found)
    rows = []
    for one in found:
        shown = [_shown(one, amount) for amount in one.amounts.values()]
        mark = ["no longer in the policy" if one.in_policy is False else ""] if gone else []
        rows.append([one.budget, one.name, *shown, one.resets_at, *mark])
    print_table([*columns, *([""] if gone else [])], rows, numbers=columns[2:6])


def _in_dollars(row: _Row) -> bool:
    return ".usd_per_" in row.budget


def _shown(row: _Row, amount: int | None) -> str:
    if amount is None:
        return ""
    return dollars(amount) if _in_dollars(row) else f"{amount:,}"


def _told(one: _Row) -> dict[str, Any]:
    """A budget for programs: nano-dollars as text, as in the ledger, or whole escalations."""
    if _in_dollars(one):
        figures: dict[str, Any] = {
            f"{name}_nusd": None if amount is None else str(amount) for name, amount in one.amounts.items()
        }
    else:
        figures = dict(one.amounts)
    about = {"budget": one.budget, "key": one.key, "name": one.name}
    return {**about, **figures, "resets_at": one.resets_at, "in_policy": one.in_policy}
