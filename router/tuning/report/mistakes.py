"""Calls that a plan got wrong, in both directions, and what was asked and answered in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.call import texts, to_messages
from router.errors import RecordingError
from router.tuning.features import Floats
from router.tuning.plans import Scores
from router.tuning.report.held_out import HeldOut, Part
from router.tuning.rows import prompt_id
from router.tuning.runfile import read_run

EXAMPLES = 10
# How much of a prompt and of an answer is shown.
_PROMPT_CHARS, _ANSWER_CHARS = 280, 120


class Mistake(NamedTuple):
    """One call."""

    row_id: str
    model: str
    """Whose draft was misjudged."""
    score: float
    """What the threshold was compared with; NaN where there is none."""
    threshold: float | None
    skipped: bool
    """Whether the draft was not even asked for."""


class Mistakes(NamedTuple):
    """Both directions; `*_rows` counts all of them, of which at most ten are named."""

    kept_rows: int
    kept: tuple[Mistake, ...]
    """A draft was kept where the top rung's answer is better, the surest first."""
    climbed_rows: int
    climbed: tuple[Mistake, ...]
    """The call climbed although the draft is right, the least sure first."""


class Excerpt(NamedTuple):
    """What a row was about, cut short."""

    prompt: str
    label: str
    answers: Mapping[str, str]
    """By model."""


def mistakes_of(held: HeldOut, most: int = EXAMPLES) -> Mistakes:
    """The calls that the plan got wrong on these rows."""
    kept: list[tuple[float, Mistake]] = []
    climbed: list[tuple[float, Mistake]] = []
    outcome, quality = held.outcome(), held.table.quality
    groups = np.zeros(held.table.rows, np.intp)
    for number, part in enumerate(held.parts):
        groups[part.inside] = number
    for number, part in enumerate(held.parts):
        inside, rungs = groups == number, part.family.rungs
        scores = held.scores(part.family)
        for position, model in enumerate(rungs):
            wrong = inside & (outcome.answered == model) & (outcome.loss > 0)
            last = position == len(rungs) - 1
            score = np.full(held.table.rows, np.nan) if last else scores.draft[position]
            threshold = None if last else part.thresholds[position]
            kept += _named(held, wrong, model, score if last else _kept_at(part, scores, position), threshold)
            led = scores.leading[position] if not last and scores.leading else None
            own = quality[:, model] if led is None else quality[np.arange(len(inside)), led] * (led >= 0)
            right = (own >= np.maximum(quality[np.arange(len(inside)), outcome.answered], 0.5)) & ~last
            needless = inside & (outcome.answered == rungs[-1]) & right & (position == len(rungs) - 2)
            gate = part.family.gates[position] if not last else None
            skipped = np.zeros(len(inside), bool) if gate is None else scores.prompt[position] < gate
            climbed += _named(held, needless & ~held.table.refused(model), model, score, threshold, skipped)
    kept.sort(key=lambda one: -one[0])
    climbed.sort(key=lambda one: one[0])
    return Mistakes(
        len(kept), tuple(one for _, one in kept[:most]), len(climbed), tuple(one for _, one in climbed[:most])
    )


def _kept_at(part: Part, scores: Scores, position: int) -> Floats:
    """The score that a draft was kept at: its own, or that of its panel when it had been asked enough."""
    start, stop = part.family.panel
    if not start <= position < stop:
        return scores.draft[position]
    found = np.full_like(scores.draft[position], np.nan)
    for at in range(start, stop):
        threshold = part.thresholds[at]
        if threshold is not None:
            found = np.where(np.isnan(found) & (scores.draft[at] >= threshold), scores.draft[at], found)
    return found


def _named(
    held: HeldOut,
    rows: NDArray[np.bool_],
    model: int,
    score: Floats,
    threshold: float | None,
    skipped: NDArray[np.bool_] | None = None,
) -> list[tuple[float, Mistake]]:
    name, ids = held.table.names[model], held.table.run.row_ids
    return [
        (
            float(np.nan_to_num(score[at])),
            Mistake(str(ids[at]), name, float(score[at]), threshold, bool(skipped is not None and skipped[at])),
        )
        for at in np.flatnonzero(rows).tolist()
    ]


def excerpts(path: Path, wanted: Collection[str], names: Mapping[str, str]) -> dict[str, Excerpt]:
    """What the run file says of these rows; empty where it is gone or has no texts.

    Parameters
    ----------
    path
        The run file.
    wanted
        Ids of the rows.
    names
        Names of models in the policy by the names that the file may have.
    """
    found: dict[str, dict[str, Any]] = {}
    try:
        for _, row in read_run(path):
            prompt = row.get("prompt")
            key = prompt_id(prompt) if prompt else f"{row.get('task', '')}/{row.get('prompt_id')}"
            if key in wanted and not row.get("repeat"):
                one = found.setdefault(key, {"prompt": "", "label": row.get("label", row.get("reference")), "said": {}})
                one["prompt"] = one["prompt"] or _prompt(prompt)
                name = str(row.get("name") or names.get(row["model"], row["model"]))
                one["said"][name] = _cut(str(row.get("response") or row.get("answer") or ""), _ANSWER_CHARS)
    except RecordingError:
        return {}
    return {
        key: Excerpt(one["prompt"], _cut(str("" if one["label"] is None else one["label"]), _ANSWER_CHARS), one["said"])
        for key, one in found.items()
    }


def _prompt(prompt: Any) -> str:
    """The text of a prompt; of a conversation its last message, which is what was asked."""
    if not prompt:
        return ""
    if isinstance(prompt, str):
        return _cut(prompt, _PROMPT_CHARS)
    messages = to_messages(prompt, None)
    return _cut(" ".join(texts(messages[-1:])), _PROMPT_CHARS)


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
