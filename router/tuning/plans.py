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
from router.tuning.table import Table
from router.tuning.texts import word_columns


@dataclass(frozen=True)
class Heads:
    """The calibrators of one model's drafts, as an artefact holds them."""

    confidence: tuple[Calibrator, ...] = ()
    gain: tuple[Calibrator, ...] = ()
    prompt: tuple[Calibrator, ...] = ()
    words: Mapping[WordSignal, Words] = field(default_factory=dict)


def with_used(heads: Heads, words: Mapping[WordSignal, Words]) -> Heads:
    """The same with those of the words that some calibrator names."""
    named = {name for one in (*heads.confidence, *heads.gain, *heads.prompt) for name in one.signals}
    return replace(heads, words={name: fitted for name, fitted in words.items() if name in named})


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
    """Scores of the drafts and prompts of one family of plans, NaN where there is none."""

    draft: tuple[Floats, ...]
    """One for each rung but the last."""
    prompt: tuple[Floats, ...] = ()
    """The same for gates; empty for no gate."""


def follow(
    table: Table,
    rungs: Sequence[int],
    scores: Scores,
    thresholds: Sequence[float | None],
    gates: Sequence[float | None] = (),
) -> Outcome:
    """Follow a plan over all rows, as the flow does call by call.

    Parameters
    ----------
    table
        The rows.
    rungs
        Columns of the models in the order they are asked.
    scores
        What thresholds and gates are compared with.
    thresholds, gates
        One for each rung but the last.
    """
    n, last = table.rows, len(rungs) - 1
    answered = np.full(n, rungs[-1], dtype=np.intp)
    held = np.full(n, -1, dtype=np.intp)
    cost = np.zeros(n)
    going_on = np.ones(n, bool)
    for at, model in enumerate(rungs):
        asked, gate = going_on, gates[at] if at < len(gates) else None
        if gate is not None:
            asked = asked & ~(scores.prompt[at] < gate)  # Without a score the rung is asked.
        cost[asked] += table.cost[asked, model]
        usable = asked & ~table.refused(model)
        if at == last:
            break
        held[usable] = model
        threshold = thresholds[at]
        if threshold is not None:
            cost[asked] += table.check_cost[asked, model]
            kept = usable & (scores.draft[at] >= threshold)
            answered[kept] = model
            going_on = going_on & ~kept
        if at == 0:
            asked_more = going_on
    # A last rung whose answer is no use gives way to the best draft that is.
    answered = np.where(going_on & ~usable & (held >= 0), held, answered)
    loss = table.quality[:, table.top] - table.quality[np.arange(n), answered]
    return Outcome(answered, asked_more if last else np.zeros(n, bool), cost, loss)


def scores_of(table: Table, rungs: Sequence[int], by: Sequence[By], heads: Sequence[Heads]) -> Scores:
    """The scores that the flow would give, from calibrators."""
    draft, prompt = [], []
    for at, model in enumerate(rungs[:-1]):
        columns = {**table.columns(model, rungs[at - 1] if at else None)}
        columns |= word_columns(table.run, model, heads[at].words)
        fitted = heads[at].gain if by[at] == "gain" else heads[at].confidence
        p = first_score(fitted, columns, table.rows)
        draft.append(1.0 - p if by[at] == "gain" else p)
        prompt.append(first_score(heads[at].prompt, columns, table.rows))
    return Scores(tuple(draft), tuple(prompt))


def apply_rungs(table: Table, rungs: Sequence[TunedRung], heads: Mapping[str, Heads]) -> Outcome:
    """Follow the rungs of an artefact."""
    at = [table.run.models.index(rung.model) for rung in rungs]
    scores = scores_of(table, at, [rung.by for rung in rungs], [heads.get(rung.model, Heads()) for rung in rungs])
    return follow(table, at, scores, [rung.threshold for rung in rungs[:-1]], [rung.gate for rung in rungs[:-1]])
