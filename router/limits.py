"""Which budgets a call is held to, by the policy and by who the call belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from router.core.counters import Counter, Line, counters
from router.core.limits import DEFAULT, KINDS, Allowance, Kind
from router.core.policy import Policy
from router.ledger import Fingerprints, Trace
from router.ledger.lines import REPLAY

# Callers whose lines are kept ready; beyond them all are made anew.
_MOST_CALLERS = 10_000

_Counters = tuple[Counter, ...]


def allowances(policy: Policy, kind: Kind) -> dict[str, Allowance]:
    """What each task, feature, user or tenant may spend by the policy, `default` for those without an entry."""
    found: dict[str, Allowance] = dict(getattr(policy.budgets, kind))
    if kind == "task":
        for name, task in policy.tasks.items():
            if task.budget.usd_per_day is not None:
                own = found.get(name, found.get(DEFAULT, Allowance()))
                found[name] = replace(own, usd_per_day=task.budget.usd_per_day)
    return found


class Limits:
    """The budgets of one policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._tasks = frozenset(policy.tasks)
        self._entries: dict[Kind, Mapping[str, _Counters]] = {kind: self._of_kind(kind) for kind in KINDS}
        self._any = any(self._entries.values())
        self._lines: dict[tuple[str | None, ...], tuple[Line, ...]] = {}

    def of(self, trace: Trace, user: str | None, fingerprints: Fingerprints) -> tuple[Line, ...]:
        """What a call of this user is held to; nothing where it says of none of them whose it is.

        Raises
        ------
        StateError
            The user has a budget, and a name in it that other processes do not know.
        """
        if not self._any or trace.origin == REPLAY:  # A recording is paid for already.
            return ()
        who = (trace.task, trace.feature, user, trace.tenant, trace.user)
        lines = self._lines.get(who)
        if lines is None:  # Of a user without a shared name there are none yet: that raises each time.
            own = fingerprints.shared(user) if user is not None and self._at("user", user) else None
            if len(self._lines) >= _MOST_CALLERS:
                self._lines.clear()
            lines = self._lines[who] = tuple(self._made(who[:4], own))
        return lines

    def _made(self, who: tuple[str | None, ...], own: Fingerprints | None) -> list[Line]:
        # A call that was not routed is of no task of the policy.
        keys = (who[0] if who[0] in self._tasks else None, *who[1:])
        found: list[Line] = []
        for kind, key in zip(KINDS, keys, strict=True):
            if key is not None:
                # An entry is found by the name that the policy has, and counts under one that nobody can read.
                name = own.name("user", key) or "" if kind == "user" and own else key
                found += [Line.of(counter, name) for counter in self._at(kind, key)]
        return found

    def _at(self, kind: Kind, key: str) -> _Counters:
        entries = self._entries[kind]
        return entries.get(f"={key}", entries.get(DEFAULT, ()))

    def _of_kind(self, kind: Kind) -> dict[str, _Counters]:
        """The counters by key, each after `=` so that none is taken for the default."""
        budgets = self._policy.budgets
        return {
            DEFAULT if name == DEFAULT else f"={name}": tuple(counters(kind, allowance, budgets))
            for name, allowance in allowances(self._policy, kind).items()
        }
