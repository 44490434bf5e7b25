"""What tuning found for a task, as plain values: the plan that calls follow and the certificate behind it.

The tuner makes them, `policies/tuned/<task>.json` holds them, and the flow follows them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from router.core.grammar import STRICT, Count, Key, Limit, Share, Text

By = Literal["confidence", "gain"]


@dataclass(frozen=True, slots=True)
class TunedRung:
    """One model that a plan may ask, and when its draft is kept."""

    __pydantic_config__ = STRICT

    model: Key
    """The model's name in the policy."""
    threshold: float | None = None
    """Keep the draft when its score is at or above this. `null` on the last rung, which is always kept, and on a rung
    that is asked only so that a later draft can be compared with its own."""
    by: By = "confidence"
    """What the score is: the confidence, or 1 less the gain of climbing."""
    gate: float | None = None
    """Skip this rung when the confidence known from the prompt alone is below this; `null` never skips."""
    panel: Annotated[tuple[Key, ...], Limit(max_length=7)] = ()
    """Further members of a panel that begins with this model, in the order they are asked while no score reaches the
    threshold; `small#2` asks `small` a second time, `judge:mid` asks `mid` to judge this model's draft."""
    low: float | None = None
    """Do not ask the rest of the panel when the score is below this; `null` asks all of it."""

    def __post_init__(self) -> None:
        for name in ("threshold", "gate", "low"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is not finite")
        if self.panel and self.threshold is None:
            raise ValueError("a panel has no threshold, so that nothing says when it has been asked enough")
        if self.low is not None and not self.panel:
            raise ValueError("low needs a panel, the rest of which is not asked below it")

    @property
    def keys(self) -> tuple[str, ...]:
        """All models that it may ask, in order."""
        return (self.model, *self.panel)


_Rungs = Annotated[tuple[TunedRung, ...], Limit(min_length=1, max_length=8)]


@dataclass(frozen=True, slots=True)
class TunedPlan:
    """Which models a call asks, in which order, and when it stops."""

    __pydantic_config__ = STRICT

    rungs: _Rungs
    """In the order they are asked; one rung alone is a direct plan. With `group`, what calls of other groups get."""
    group: Text | None = None
    """Metadata key whose value chooses among `groups`."""
    groups: Mapping[Text, _Rungs] = field(default_factory=dict)
    """The rungs of each group that was certified."""

    def __post_init__(self) -> None:
        for rungs in (self.rungs, *self.groups.values()):
            names = [key for rung in rungs for key in rung.keys]
            if len(set(names)) != len(names):
                raise ValueError("rungs names one model twice")
            if rungs[-1].threshold is not None or rungs[-1].gate is not None:
                raise ValueError("the last rung has a threshold or a gate; nothing is above it")
        if self.groups and self.group is None:
            raise ValueError("groups needs `group`, the metadata key that chooses among them")

    @property
    def direct(self) -> bool:
        """Whether every call asks one model."""
        return all(len(rungs) == 1 for rungs in (self.rungs, *self.groups.values()))

    @property
    def models(self) -> frozenset[str]:
        """Every model that some call may ask."""
        return frozenset(key for rungs in (self.rungs, *self.groups.values()) for rung in rungs for key in rung.keys)

    def rungs_for(self, group: object) -> tuple[TunedRung, ...]:
        """The rungs for a call whose metadata has this value under the plan's key."""
        return self.rungs if group is None else self.groups.get(str(group), self.rungs)


@dataclass(frozen=True, slots=True)
class Statement:
    """What was shown of one plan on rows that had no part in choosing it; money as a share of always the top rung."""

    __pydantic_config__ = STRICT

    rows: Count
    """Rows of the certify split."""
    share: float
    """The share of the error budget, 1 less the confidence, that the test of this plan had."""
    tested: int
    """Settings tested, strict to loose, the first failure included."""
    p_value: float
    """Of the plan that was kept."""
    loss: float
    """Mean quality lost against the top rung; negative where the plan is better. With `clusters` the mean over them."""
    loss_upper: float
    """The smallest target that this plan, tested alone, would have met: how much room it has."""
    cost: float
    """Mean cost as a share of always the top rung."""
    cost_interval: tuple[float, float]
    """90 % interval of it."""
    escalated: float
    """Share of the rows that asked more than the plan's first rung, or skipped it."""
    clusters: Count | None = None
    """Clusters that the rows are of: each counts once, by the mean loss of its rows. `null` for rows one by one."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The statement behind a plan: `max_quality_loss` holds with probability `at_confidence` over the rows drawn."""

    __pydantic_config__ = STRICT

    max_quality_loss: Share
    """The target that the plan meets."""
    at_confidence: Share
    """How sure that is."""
    loss: Literal["signed", "never_worse"]
    """`never_worse` counts every row answered worse and gives no credit for those answered better."""
    test: Literal["exact", "betting"]
    """How p-values were computed."""
    method: Literal["split", "crossfit"]
    """Whether certified rows had no part in fitting (`split`), or were also fitted on (`crossfit`)."""
    guarantee: Literal["guaranteed", "simulation-checked"]
    """What the method deserves to be called."""
    label_source: Literal["labels", "disagreement", "judge"]
    """`disagreement`: the loss is how often an answer differs from the top model's, not how often it is worse. `judge`:
    the loss is what another model says, not what is true."""
    data_hash: Text
    """Digest of the rows and labels."""
    train_rows: int
    """Rows that the plan was chosen on."""
    dropped_rows: int
    """Rows left out: copies of another row, or without any label."""
    seed: int
    """Of the split."""
    look: int
    """How many times a certify split of this data was opened, this time included."""
    open_ended: bool
    """Whether more looks may follow: then look k has 2^-k of the error budget. Else this one had all of it."""
    statements: Mapping[Text, Statement]
    """By group; a plan without groups has one, named `all`."""
    each_alone: bool = False
    """With groups: each statement holds by itself at the confidence, not all of them together."""
    binds_to: Mapping[str, Any] = field(default_factory=dict)
    """What of the policy must be unchanged for this to hold."""
    issued: str = ""
    """Date, year first."""
    expires: str = ""
    """Date, year first; empty for never."""
