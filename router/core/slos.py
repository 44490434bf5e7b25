"""Objectives of a policy: what the calls of a task or feature shall cost, how often they climb, how long they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated

from router.core.grammar import STRICT, Count, Limit, Text

OBJECTIVES = ("usd_per_call", "usd_per_accepted", "escalation_rate", "p95_latency_ms")

PositiveUsd = Annotated[Decimal, Limit(gt=0, le=1_000_000_000)]


@dataclass(frozen=True, slots=True)
class Slo:
    """Objectives that `router slo` watches; at least one of them."""

    __pydantic_config__ = STRICT

    usd_per_call: PositiveUsd | None = None
    """Mean cost of a call."""
    usd_per_accepted: PositiveUsd | None = None
    """Mean cost of an accepted answer: what all calls cost, those without an answer too, for each that has one."""
    escalation_rate: Annotated[float, Limit(gt=0.0, le=1.0)] | None = None
    """Share of calls that climb."""
    p95_latency_ms: Annotated[float, Limit(gt=0.0)] | None = None
    """Latency that 95 of 100 calls stay within."""
    window_days: Annotated[int, Limit(ge=1, le=366)] = 30
    """Days over which they must hold, today included; a day begins at 0:00 UTC."""
    min_calls: Count = 100
    """With fewer calls in the window nothing is said."""

    def __post_init__(self) -> None:
        if not self.objectives():
            raise ValueError(f"names no objective; give one of {', '.join(OBJECTIVES)}")

    def objectives(self) -> dict[str, float | Decimal]:
        """The objectives that are given, by name."""
        given = {name: getattr(self, name) for name in OBJECTIVES}
        return {name: limit for name, limit in given.items() if limit is not None}


@dataclass(frozen=True, slots=True)
class Slos:
    """Objectives beyond those of the tasks."""

    __pydantic_config__ = STRICT

    feature: Mapping[Text, Slo] = field(default_factory=dict)
    """Objectives of a feature, over all its tasks, by the name that callers give as `feature=`."""
