"""The places of a ladder: every request that a call may come to, in order, panels taken apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, cast, get_args

from router.core.policy import FallbackRung, Kind, PanelQuestion, PanelRung

AGAIN = "#"
"""Between a model's name and a number above 1: the same model asked again, as `small#2`."""
ABOUT = ":"
"""Between the kind of a question and the model that is asked it, as `judge:mid`."""
KINDS: tuple[str, ...] = get_args(Kind)

Ladder = Sequence[str | PanelRung | FallbackRung]


class Place(NamedTuple):
    """One request of a ladder: a rung that is one model, or one member of a panel."""

    key: str
    """What tells it from all others: the model's name, `small#2` for the second time that a panel asks it, `judge:mid`
    for a question."""
    model: str
    """The model's name in the policy."""
    rung: int
    """Position in the ladder, 0 for the cheapest."""
    member: int = 0
    """Position in its panel; 0 for the first, and for a rung that is one model."""
    members: int = 1
    """How many its panel has; 1 for a rung that is one model."""
    kind: Kind | None = None
    """What is asked about the first member's draft; `None` for a place that drafts."""


def places(ladder: Ladder) -> tuple[Place, ...]:
    """Every place of a ladder, in the order in which they are asked."""
    found: list[Place] = []
    for index, rung in enumerate(ladder):
        members = _members(rung)
        times: Counter[str] = Counter()
        for at, member in enumerate(members):
            kind = member.kind if isinstance(member, PanelQuestion) else None
            model = member.model if isinstance(member, PanelQuestion) else member
            key = model if kind is None else f"{kind}{ABOUT}{model}"
            times[key] += 1
            key = key if times[key] == 1 else f"{key}{AGAIN}{times[key]}"
            found.append(Place(key, model, index, at, len(members), kind))
    return tuple(found)


def panels(ladder: Ladder) -> tuple[tuple[str, ...], ...]:
    """The keys of every panel of a ladder."""
    asked = places(ladder)
    rungs = dict.fromkeys(place.rung for place in asked if place.members > 1)
    return tuple(tuple(place.key for place in asked if place.rung == rung) for rung in rungs)


def model_of(key: str) -> str:
    """The model's name in the policy."""
    return key.rpartition(ABOUT)[2].partition(AGAIN)[0]


def kind_of(key: str) -> Kind | None:
    """What a place asks about a draft; `None` for a place that drafts."""
    kind, about, _ = key.partition(ABOUT)
    return cast(Kind, kind) if about else None


def uses(ladder: Ladder, model: str) -> bool:
    """Whether some rung asks this model."""
    return any(model in members_of(rung) for rung in ladder)


def members_of(rung: str | PanelRung | FallbackRung) -> tuple[str, ...]:
    """The models that one rung asks, for a draft or about one."""
    return tuple(one.model if isinstance(one, PanelQuestion) else one for one in _members(rung))


def _members(rung: str | PanelRung | FallbackRung) -> tuple[str | PanelQuestion, ...]:
    match rung:
        case PanelRung(panel=members):
            return members
        case FallbackRung(fallback=models):
            return models
    return (rung,)
