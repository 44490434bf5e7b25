"""The places of a ladder: every request that a call may come to, in order, panels taken apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from router.core.policy import FallbackRung, PanelRung

AGAIN = "#"
"""Between a model's name and a number above 1: the same model asked again, as `small#2`."""


class Place(NamedTuple):
    """One request of a ladder: a rung that is one model, or one member of a panel."""

    key: str
    """What tells it from all others: the model's name, `small#2` for the second time that a panel asks it."""
    model: str
    """The model's name in the policy."""
    rung: int
    """Position in the ladder, 0 for the cheapest."""
    member: int = 0
    """Position in its panel; 0 for the first, and for a rung that is one model."""
    members: int = 1
    """How many its panel has; 1 for a rung that is one model."""


def places(ladder: Sequence[str | PanelRung | FallbackRung]) -> tuple[Place, ...]:
    """Every place of a ladder, in the order in which they are asked."""
    found: list[Place] = []
    for index, rung in enumerate(ladder):
        models = members_of(rung)
        times: Counter[str] = Counter()
        for member, model in enumerate(models):
            times[model] += 1
            key = model if times[model] == 1 else f"{model}{AGAIN}{times[model]}"
            found.append(Place(key, model, index, member, len(models)))
    return tuple(found)


def model_of(key: str) -> str:
    """The model's name in the policy."""
    return key.partition(AGAIN)[0]


def uses(ladder: Sequence[str | PanelRung | FallbackRung], model: str) -> bool:
    """Whether some rung asks this model."""
    return any(model in members_of(rung) for rung in ladder)


def members_of(rung: str | PanelRung | FallbackRung) -> tuple[str, ...]:
    """The models of one rung."""
    match rung:
        case PanelRung(panel=models) | FallbackRung(fallback=models):
            return models
    return (rung,)
