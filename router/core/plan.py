"""A plan: a task with everything resolved that a call of it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    rates: Rates = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", Rates(self.price))


@dataclass(frozen=True, slots=True)
class Plan:
    """A task with everything resolved that a call needs: built once, when its policy is loaded."""

    task_name: str
    task: Task
    rungs: tuple[Rung, ...]
    check: Check
    plan_hash: str = ""
    policy_hash: str = ""
