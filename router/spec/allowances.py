"""What is wrong with the shared limits of a policy, beyond what the types say."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from zoneinfo import available_timezones

from router.core.counters import counters
from router.core.limits import DEFAULT, KINDS
from router.core.params import suggestion
from router.core.policy import Policy
from router.errors import shown
from router.spec.document import Path_
from router.windows import zone_problem


def allowance_problems(policy: Policy) -> Iterator[tuple[Path_, str]]:
    """Each problem with its place."""
    budgets = policy.budgets
    yield from _zone(("budgets", "time_zone"), budgets.time_zone)
    for kind in KINDS:
        for name, allowance in getattr(budgets, kind).items():
            here: Path_ = ("budgets", kind, name)
            if allowance.time_zone is not None:
                yield from _zone((*here, "time_zone"), allowance.time_zone)
            if not list(counters(kind, allowance, budgets)):
                yield here, "sets no limit; give one, such as usd_per_day or escalations_per_day"
            if kind == "task" and name != DEFAULT and name not in policy.tasks:
                yield here, f"unknown task {shown(name)}; {suggestion(name, policy.tasks)}"
    for name, task in policy.tasks.items():
        own = budgets.task.get(name)
        if task.budget.usd_per_day is not None and own is not None and own.usd_per_day is not None:
            yield ("tasks", name, "budget", "usd_per_day"), f"stands in budgets.task.{name} too; keep one"


def _zone(here: Path_, time_zone: str) -> Iterator[tuple[Path_, str]]:
    problem = zone_problem(time_zone)
    if problem:
        known = {name.casefold(): name for name in available_timezones()}
        near = difflib.get_close_matches(time_zone[:60].casefold(), known, n=1)
        remedy = f"did you mean {known[near[0]]!r}?" if near else "give one like UTC or Europe/Berlin"
        yield here, f"{problem}; {remedy}" if known else f"{problem}; this machine has no time zones: install tzdata"
