"""A plan: a task with everything resolved that a call of it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from router.core.calibration import Calibrator
from router.core.checks import Check
from router.core.policy import Model, Price, Task
from router.core.pricing import Rates


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung as a plan uses it: its model, what that costs and takes, and how its drafts are judged."""

    name: str
    model: Model
    price: Price
    threshold: float | None
    """`None` on the last rung."""
    calibrators: tuple[Calibrator, ...] = ()
    confidence_source: str = "prior"
    """What stands behind the calibrators."""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] | None = None
    """What the model can do; `None` where nobody knows."""
    rates: Rates = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", Rates(self.price))

    def can(self, capability: str) -> bool | None:
        """Whether the model can do this; `None` where nobody knows."""
        return None if self.capabilities is None else capability in self.capabilities


@dataclass(frozen=True, slots=True)
class Plan:
    """A task with everything resolved that a call needs: built once, when its policy is loaded."""

    task_name: str
    task: Task
    rungs: tuple[Rung, ...]
    check: Check
    own_check: Callable[[Any], bool] | None = None
    """The user's own function, which `check` ends with; also asked where a call brings a shape of its own."""
    plan_hash: str = ""
    policy_hash: str = ""

    @property
    def names(self) -> set[str]:
        """The models of the ladder, and their providers."""
        return {name for rung in self.rungs for name in (rung.name, rung.model.litellm.partition("/")[0])}
