"""The recorded drafts of one model, as a table that confidence can be fitted on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from router.models.recording import read_recording
from router.tuning.loading import load_columns
from router.tuning.table import Table, prepare


class Drafts(NamedTuple):
    """Whose drafts of which task."""

    set: str
    task: str
    """Empty for the whole set."""
    model: str


# Of sets and tasks with recorded texts that no pair names; without a model those of every model.
FURTHER = (
    Drafts("openqa_tokprob_dev", "sciq_verbal", "gemma-2-2b-it"),
    Drafts("openqa_tokprob_dev", "triviaqa_verbal", "gemma-2-2b-it"),
    Drafts("mot_samples", "date", "gpt-3.5-turbo:cot"),
    Drafts("mot_samples", "gsm", "llama-2-13b-chat:pot"),
    Drafts("mot_samples", "crepe", "llama-2-13b-chat:pot"),
    Drafts("alpaca_chat_v1", "", ""),
)


def wanted(data: Path, pairs: Path) -> list[Drafts]:
    """The cheap models of the pairs in a file, then the further ones; without those whose recording is not there."""
    lines = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines() if line.strip()]
    named = sorted({Drafts(one["set"], one["task"] or "", one["cheap"]) for one in lines})
    found: list[Drafts] = []
    for one in (*named, *FURTHER):
        path = data / one.set / "records.jsonl.gz"
        if not path.exists():
            print(f"skipped: {path} is not there", file=sys.stderr)
        elif one.model:
            found.append(one)
        else:
            models = sorted({str(row["model"]) for row in read_recording(path, task=one.task or None)})
            found += [one._replace(model=model) for model in models]
    return found


def drafts_of(path: Path, model: str, task: str | None, most: int) -> Table:
    """At most so many rows, drawn by chance, without a recorded confidence: only what can be read off the draft.

    The model stands there twice, because a table is of a ladder; nothing looks at the second rung.
    """
    run = load_columns(path, (model,), task=task)
    own = {signal: column for signal, column in run.signals[model].items() if signal != "conf"}
    parts: dict[str, Any] = {
        name: None if (column := getattr(run, name)) is None else np.repeat(column, 2, axis=1)
        for name in ("quality", "answers", "drafts")
    }
    parts["cost_nusd"] = np.ones_like(parts["quality"])
    table = prepare(
        replace(run, models=(model, "top"), latency_ms=None, check_cost_nusd=None, signals={model: own}, **parts)
    )
    return table.take(np.random.default_rng(0).permutation(table.rows)[:most])
