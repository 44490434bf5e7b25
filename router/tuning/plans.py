"""What a plan does on rows whose answers are all known: which rung answers, what it costs, what it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.calibration import Calibrator
from router.core.tuned import By, TunedRung
from router.core.word_scores import Words, WordSignal
from router.tuning.features import Floats, first_score
from router.tuning.table import Rows, Table
from router.tuning.texts import word_columns


@dataclass(frozen=True)
class Heads:
    """The calibrators of one model's drafts, as an artefact holds them."""

    confidence: tuple[Calibrator, ...] = ()
    last: tuple[Calibrator, ...] = ()
    prompt: tuple[Calibrator, ...] = ()
    words: Mapping[WordSignal, Words] = field(default_factory=dict)


def with_used(heads: Heads, words: Mapping[WordSignal, Words]) -> Heads:
    """The same with those of the words that some calibrator names."""
    named = {name for one in (*heads.confidence, *heads.last, *heads.prompt) for name in one.signals}
    return replace(heads, words={name: fitted for name, fitted in words.items() if name in named})


@dataclass(frozen=True)
class Family:
    """Plans that differ in one threshold: which models are asked, in which order, and what their drafts are judged by.

    A family of one model asks it in every call.
    """

    rungs: tuple[int, ...]
    """Columns of the models, in the order they are asked."""
    by: tuple[By, ...] = ()
    """One for each model but the last."""
    judged: tuple[bool, ...] = ()
    """Whether a model's draft may be kept, or is only compared with the next one."""
    gate: float | None = None
    """Below this chance the first rung is skipped."""
    panel: tuple[int, int] = (0, 1)
    """Places of the first model of the panel and of the first after it; a panel of one is none."""
    low: float | None = None
    """Below this score the rest of the panel is not asked."""

    def thresholds(self, threshold: float) -> tuple[float | None, ...]:
        """The threshold of each model but the last."""
        return tuple(threshold if judged else None for judged in self.judged)

    @property
    def gates(self) -> tuple[float | None, ...]:
        """The gate of each model but the last."""
        return tuple(self.gate if at == 0 else None for at in range(len(self.judged)))

    def opens_panel(self, at: int) -> bool:
        """Whether the model at this place is the first of a panel."""
        return at == self.panel[0] and self.panel[1] - self.panel[0] > 1

    def members(self, at: int) -> tuple[int, ...]:
        """The columns of a panel's members up to this place; one for a model that is in no panel."""
        start, stop = self.panel
        return self.rungs[start : at + 1] if start <= at < stop else self.rungs[at : at + 1]


class Outcome(NamedTuple):
    """What a plan did, row by row."""

    answered: NDArray[np.intp]
    """Column of the model that answered."""
    asked_more: NDArray[np.bool_]
    """Whether the call asked more than the plan's first rung, or skipped that."""
    cost: Floats
    loss: Floats
    """The top rung's quality less the plan's."""


class Scores(NamedTuple):
    """What the drafts and prompts of one family of plans are judged by, NaN where there is no score."""

    draft: tuple[Floats, ...]
    """One for each model but the last."""
    prompt: tuple[Floats, ...] = ()
    """The same for gates; empty for no gate."""
    leading: tuple[Rows | None, ...] = ()
    """For each member of a panel whose draft the panel's answer is taken from, -1 for none; `None` outside a panel."""

    def take(self, rows: Rows) -> Scores:
        """The same for these rows only."""
        leading = tuple(None if one is None else one[rows] for one in self.leading)
        return Scores(tuple(one[rows] for one in self.draft), tuple(one[rows] for one in self.prompt), leading)


_NO_SCORES = Scores(())


def follow(
    table: Table, family: Family, scores: Scores = _NO_SCORES, thresholds: Sequence[float | None] = ()
) -> Outcome:
    """Follow a plan over all rows, as the flow does call by call.

    Parameters
    ----------
    table
        The rows.
    family
        The models in the order they are asked.
    scores
        What thresholds and gates are compared with.
    thresholds
        One for each model but the last.
    """
    n, last = table.rows, len(family.rungs) - 1
    start, stop = family.panel
    answered = np.full(n, family.rungs[-1], dtype=np.intp)
    held = np.full(n, -1, dtype=np.intp)
    cost, asked_more = np.zeros(n), np.zeros(n, bool)
    going_on, given_up, missing = np.ones(n, bool), np.zeros(n, bool), np.zeros(n, bool)
    for at, model in enumerate(family.rungs):
        asked = going_on & ~given_up if start < at < stop else going_on
        if at == 0 and family.gate is not None:
            skipped = scores.prompt[0] < family.gate  # Without a score the rung is asked.
            asked, given_up = asked & ~skipped, skipped & (start == 0)
        cost[asked] += table.cost[asked, model]
        led = scores.leading[at] if at < len(scores.leading) else None
        draft = np.where(table.refused(model), -1, model) if led is None else led
        usable = asked & (draft >= 0)
        failed = asked & table.run.failed(table.names[model])
        if at == last:
            break
        held[usable] = draft[usable]
        threshold = thresholds[at]
        if threshold is not None:
            cost[asked] += table.check_cost[asked, model]
            # Nothing is known of a panel that lacks a member.
            missing = missing | failed if start < stop - 1 and start <= at < stop else np.zeros(n, bool)
            kept = usable & ~missing & (scores.draft[at] >= threshold)
            answered[kept] = draft[kept]
            going_on = going_on & ~kept
            if family.low is not None and start <= at < stop:
                given_up |= usable & ~missing & (scores.draft[at] < family.low)
        if at == 0 or (start == 0 and at < stop):
            asked_more = going_on
    # A last rung whose answer is no use gives way to the best draft that is.
    answered = np.where(going_on & ~usable & (held >= 0), held, answered)
    if model < table.top:  # One that failed, to the rung above it.
        answered[failed], asked_more = model + 1, asked_more | failed
        cost[failed] += table.cost[failed, model + 1]
    loss = table.quality[:, table.top] - table.quality[np.arange(n), answered]
    return Outcome(answered, asked_more, cost, loss)


class Fitted(NamedTuple):
    """All calibrators of a tuning."""

    models: Mapping[str, Heads]
    """Of each model's drafts alone."""
    panels: Mapping[tuple[str, ...], Heads]
    """By the members asked so far, of what they say together."""


def scores_of(table: Table, family: Family, fitted: Fitted) -> Scores:
    """The scores that the flow would give, from calibrators."""
    names = table.names
    draft, prompt, leading = [], [], []
    for at, model in enumerate(family.rungs[:-1]):
        own, members, led = fitted.models.get(names[model], Heads()), family.members(at), None
        columns: dict[str, Floats] = {}
        if table.drafts(model):
            earlier = next((one for one in reversed(family.rungs[:at]) if table.drafts(one)), None)
            columns = {**table.columns(model, earlier if len(members) == 1 else None)}
            columns |= word_columns(table.run, model, own.words)
        prompt.append(first_score(own.prompt, columns, table.rows))
        if family.opens_panel(at):
            led = table.led(model)
        if len(members) > 1:
            own = fitted.panels.get(tuple(names[one] for one in members), Heads())
            columns, led = panel_of(table, members, fitted)
        leading.append(led)
        p = first_score(own.confidence, columns, table.rows)
        if family.by[at] == "gain":
            p = by_gain(first_score(own.last, columns, table.rows), p)
        draft.append(p)
    return Scores(tuple(draft), tuple(prompt), tuple(leading))


def by_gain(last: Floats, draft: Floats) -> Floats:
    """1 less the gain of climbing for every row, as `router.core.decision` has it for one call."""
    return np.asarray(1.0 - (1.0 + last - draft) / 2.0)


def panel_of(table: Table, members: Sequence[int], fitted: Fitted) -> tuple[dict[str, Floats], Rows]:
    """The signals of a panel's members that were asked, and whose draft leads, -1 for none."""
    return table.panel(members, [alone_score(table, one, fitted) for one in members if table.drafts(one)])


def alone_score(table: Table, model: int, fitted: Fitted) -> Floats:
    """Confidence in a model's drafts, read off each alone."""
    own = fitted.models.get(table.run.models[model], Heads())
    columns = {**table.columns(model), **word_columns(table.run, model, own.words)}
    return first_score(own.confidence, columns, table.rows)


def family_of(rungs: Sequence[TunedRung], models: Sequence[str]) -> tuple[Family, tuple[float | None, ...]]:
    """The rungs of an artefact as a family, with their thresholds."""
    places = [(rung, name) for rung in rungs for name in (rung.model, *rung.panel)]
    below = [rung for rung, _ in places[:-1]]
    starts = {id(rung): at for at, (rung, name) in reversed(list(enumerate(places)))}
    panel = next(((starts[id(rung)], starts[id(rung)] + 1 + len(rung.panel)) for rung in rungs if rung.panel), (0, 1))
    family = Family(
        rungs=tuple(models.index(name) for _, name in places),
        by=tuple(rung.by for rung in below),
        judged=tuple(rung.threshold is not None for rung in below),
        gate=rungs[0].gate,
        panel=panel,
        low=next((rung.low for rung in rungs if rung.panel), None),
    )
    return family, tuple(rung.threshold for rung in below)


def apply_rungs(table: Table, rungs: Sequence[TunedRung], fitted: Fitted) -> Outcome:
    """Follow the rungs of an artefact."""
    family, thresholds = family_of(rungs, table.names)
    return follow(table, family, scores_of(table, family, fitted), thresholds)
