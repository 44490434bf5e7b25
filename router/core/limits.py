"""Limits that calls share, as a policy says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from router.core.grammar import STRICT, Limit, Text, Usd

AtLimit = Literal["first_rung", "refuse", "wait"]
Kind = Literal["task", "feature", "user", "tenant"]
Unit = Literal["usd", "escalations"]
Window = Literal["minute", "hour", "day", "month"]

KINDS: tuple[Kind, ...] = ("task", "feature", "user", "tenant")
UNITS: tuple[Unit, ...] = ("usd", "escalations")
WINDOWS: tuple[Window, ...] = ("minute", "hour", "day", "month")
DEFAULT = "default"

Times = Annotated[int, Limit(ge=0, le=1_000_000_000)]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one task, feature, user or tenant may spend, and how often its calls may climb. All that is given holds."""

    __pydantic_config__ = STRICT

    usd_per_minute: Usd | None = None
    """Dollars in a minute."""
    usd_per_hour: Usd | None = None
    """Dollars in an hour."""
    usd_per_day: Usd | None = None
    """Dollars in a day of the time zone."""
    usd_per_month: Usd | None = None
    """Dollars in a month of the time zone."""
    escalations_per_minute: Times | None = None
    """Calls in a minute that may ask a rung above their first."""
    escalations_per_hour: Times | None = None
    """The same in an hour."""
    escalations_per_day: Times | None = None
    """The same in a day of the time zone."""
    escalations_per_month: Times | None = None
    """The same in a month of the time zone."""
    at_limit: AtLimit | None = None
    """What becomes of a call that does not fit; that of `budgets:` when missing."""
    time_zone: Text | None = None
    """Whose days and months; that of `budgets:` when missing."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits that all calls of a task, feature, user or tenant share, in every process with the same state folder."""

    __pydantic_config__ = STRICT

    time_zone: Text = "UTC"
    """Whose days and months, such as `Europe/Berlin`."""
    at_limit: AtLimit = "refuse"
    """What becomes of a call that does not fit: it keeps the best usable draft (`first_rung`), is refused, or waits
    until there is room again, but not past its deadline."""
    task: Mapping[Text, Allowance] = field(default_factory=dict)
    """By task; `default` holds for each one without an entry of its own, and so for the three below."""
    feature: Mapping[Text, Allowance] = field(default_factory=dict)
    """By feature."""
    user: Mapping[Text, Allowance] = field(default_factory=dict)
    """By user, as the application calls them."""
    tenant: Mapping[Text, Allowance] = field(default_factory=dict)
    """By tenant."""
