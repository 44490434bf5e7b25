"""A plan: a task with everything resolved that a call of it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from router.core.calibration import Calibrator
from router.core.checks import Check
from router.core.effects import Purpose
from router.core.evidence import BLOCKS
from router.core.ladder import kind_of
from router.core.policy import Kind, Model, Price, Task
from router.core.pricing import Rates
from router.core.signals import OwnSignal
from router.core.tuned import By, TunedRung
from router.core.word_scores import Words, WordSignal

NOT_IN_PLAN = "the plan in force does not ask it"
UNTUNED = "a question about a draft is asked by a tuned plan only"
Force = Literal["policy", "tuned", "top"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung as a plan uses it: its model, what that costs and takes, and how its drafts are judged."""

    name: str
    model: Model
    price: Price
    threshold: float | None
    """`None` where every answer is kept: on the last rung."""
    calibrators: tuple[Calibrator, ...] = ()
    confidence_source: str = "prior"
    """What stands behind the calibrators."""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] | None = None
    """What the model can do; `None` where nobody knows."""
    tuned: bool = False
    """Whether the threshold was tuned: then it only holds for a confidence that was fitted."""
    by: By = "confidence"
    """What the threshold is compared with."""
    last: tuple[Calibrator, ...] = ()
    """The chance that the plan's last rung would be right, seen a draft."""
    gate: float | None = None
    """Skip the rung when the confidence known from the prompt alone is below this."""
    prompt: tuple[Calibrator, ...] = ()
    """The confidence known from the prompt alone."""
    compare_only: bool = False
    """Whether it is asked only so that a later draft can be compared with its own."""
    skip: str = ""
    """Why it is never asked, or nothing."""
    spare: bool = False
    """Whether it is asked only when the rung below it could not be reached."""
    image_tokens: int | None = None
    """What one image counts for at the most; `None` where nothing bounds it."""
    price_source: str = ""
    """Where the price comes from: the policy, the price map by its version, or both."""
    change: tuple[float, Price] | None = None
    """The price that takes the place of this one, after the instant that it begins at."""
    change_is_near: bool = True
    """Whether a call of usual length may see it begin."""
    words: Mapping[WordSignal, Words] = field(default_factory=dict)
    """What the words of a prompt and of a draft say."""
    own_signals: Mapping[str, OwnSignal] = field(default_factory=dict)
    """Signals of the application that some calibrator of it names."""
    level: int = 0
    """Position of its rung in the ladder, which all members of a panel share."""
    member: int = 0
    """Position in its panel; 0 for a rung that is one model."""
    members: int = 1
    """How many models its panel has; 1 for a rung that is one model."""
    key: str = ""
    """What tells it from all others: its name, or `small#2` where a panel asks a model again."""
    alone: tuple[Calibrator, ...] = ()
    """Of a panel's member: the confidence in its draft alone. `calibrators` then say what all drafts so far do."""
    low: float | None = None
    """Do not ask the rest of the panel when the score is below this."""
    kind: Kind | None = None
    """What it is asked about the draft of its panel's first member; `None` for a model that drafts."""
    voters: int = 1
    """How many of its panel's members draft."""
    rates: Rates = field(init=False, compare=False)
    blocks: frozenset[str] = field(init=False, compare=False)
    """What closer reading some calibrator of it needs; nothing else is read."""
    needs_words: frozenset[WordSignal] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or self.name)
        object.__setattr__(self, "rates", Rates(self.price, self.price_source, self.change, near=self.change_is_near))
        own = (*self.calibrators, *self.last, *self.prompt, *self.alone)
        named = {name for one in own for name in one.signals}
        object.__setattr__(self, "blocks", frozenset(BLOCKS[name] for name in named if name in BLOCKS))
        object.__setattr__(self, "needs_words", frozenset(name for name in self.words if name in named))

    @property
    def purpose(self) -> Purpose | None:
        """What a request to it is for where it is no first draft of a rung."""
        if not self.member:
            return None
        if self.kind:
            return self.kind
        return "panel" if self.key == self.name else "sample"

    def can(self, capability: str) -> bool | None:
        """Whether the model can do this; `None` where nobody knows."""
        return None if self.capabilities is None else capability in self.capabilities


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in force for a task, and why it is that."""

    force: Force = "policy"
    """The policy's ladder and threshold, the tuned plan, or the top rung alone."""
    problem: str = ""
    """Why the tuned plan is not in force, or soon will not be; nothing when all is well."""
    stale: bool = False
    """Whether the certificate no longer matches the policy, or is past its date."""
    check_again_s: float | None = None
    """When this can change by the date alone, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A task with everything resolved that a call needs: built once, when its policy is loaded."""

    task_name: str
    task: Task
    rungs: tuple[Rung, ...]
    """The whole ladder; a rung that the plan does not ask says so."""
    check: Check
    own_check: Callable[[Any], bool] | None = None
    """The user's own function, which `check` ends with; also asked where a call brings a shape of its own."""
    plan_hash: str = ""
    policy_hash: str = ""
    standing: Standing = field(default_factory=Standing)
    group: str | None = None
    """Metadata key that chooses among `groups`."""
    groups: Mapping[str, tuple[Rung, ...]] = field(default_factory=dict)
    served: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By model, the served ids that the certificate's run saw; a model without any is not watched."""

    @property
    def names(self) -> set[str]:
        """The models of the ladder, and their providers."""
        return {name for rung in self.rungs for name in (rung.name, rung.model.litellm.partition("/")[0])}

    @property
    def first(self) -> int:
        """Position in the ladder of the first rung that calls ask."""
        return next((rung.level for rung in self.rungs if not rung.skip and not rung.spare), 0)

    def chosen(self, metadata: Mapping[str, Any] | None) -> Plan:
        """The plan for a call with this metadata: that of its group, where groups have plans of their own."""
        if self.group is None:
            return self
        # A group may be called "None"; a call that says nothing of its group is in none. Arguments are checked later.
        value = metadata.get(self.group) if isinstance(metadata, Mapping) else None
        rungs = None if value is None else self.groups.get(str(value))
        return self if rungs is None else replace(self, rungs=rungs)

    def top_alone(self, why: str) -> Plan:
        """The plan that asks the top rung and no other."""
        *below, top = self.rungs
        top = replace(top, threshold=None, skip="", spare=False, gate=None, compare_only=False)
        return replace(self, rungs=(*(replace(rung, skip=why) for rung in below), top))


class Panel(NamedTuple):
    """The calibrators of what a panel's first members say together."""

    calibrators: tuple[Calibrator, ...] = ()
    last: tuple[Calibrator, ...] = ()


Panels = Mapping[tuple[str, ...], Panel]
"""By the keys of the members asked so far."""


def follow(ladder: tuple[Rung, ...], tuned: tuple[TunedRung, ...], panels: Panels | None = None) -> tuple[Rung, ...]:
    """The ladder as a tuned plan uses it: its rungs with their thresholds, the others skipped or kept as a spare."""
    wanted = {key: one for one in tuned for key in one.keys}
    last = max(index for index, rung in enumerate(ladder) if rung.key in wanted)
    found: list[Rung] = []
    for index, rung in enumerate(ladder):
        one = wanted.get(rung.key)
        if one is not None:
            compare_only = index < last and one.threshold is None
            threshold = 1.0 if compare_only else one.threshold
            rung = replace(rung, threshold=threshold, compare_only=compare_only, tuned=True, by=one.by, skip="")
            rung = replace(rung, calibrators=rung.alone or rung.calibrators, gate=one.gate, member=0, members=1)
            if one.panel:
                level = next((before.level for before in found if before.key == one.model), rung.level)
                rung = as_member(replace(rung, low=one.low, level=level), one.keys, panels or {})
            found.append(rung)
        elif index > last and not rung.kind:
            found.append(replace(rung, threshold=None, spare=True))
        else:
            found.append(replace(rung, skip=NOT_IN_PLAN))
    return tuple(found)


def as_member(rung: Rung, keys: tuple[str, ...], panels: Panels) -> Rung:
    """A rung as a member of the panel with these keys."""
    member = keys.index(rung.key)
    voters = sum(kind_of(key) is None for key in keys)
    rung = replace(rung, member=member, members=len(keys), voters=voters, alone=rung.calibrators)
    if member == 0:
        return rung
    together = panels.get(keys[: member + 1], Panel())
    return replace(rung, calibrators=together.calibrators, last=together.last, gate=None)
