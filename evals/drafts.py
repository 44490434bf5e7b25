"""The recorded drafts of one model, as a table that confidence can be fitted on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from router.tuning.loading import load_columns
from router.tuning.table import Table, prepare


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
