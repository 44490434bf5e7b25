"""Columns of an eval run, collected row by row: each answer goes into its place in a table of rows by models."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from router.errors import TuningError
from router.tuning.runs import EvalRun, LabelSource, QuestionColumns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Of more answers than this the texts are not kept: they would not fit into memory, and so many rows tell enough.
MAX_TEXTS = 200_000


class Cell(NamedTuple):
    """What one model did on one row."""

    quality: float
    """NaN where only the comparison of answers will tell."""
    cost_nusd: float
    latency_ms: float
    check_cost_nusd: float
    answer: Any
    signals: Mapping[str, float]
    text: str | None = None
    """The draft itself, where it is known."""


class Told(NamedTuple):
    """What a question about a draft gave."""

    value: float
    cost_nusd: float
    answered: bool = True


class Columns:
    """A table of rows by models that grows answer by answer; 8 bytes a number, so that a million rows fit."""

    def __init__(self, models: Sequence[str], questions: Sequence[str] = ()) -> None:
        self.models = tuple(models)
        self._told: dict[str, dict[int, Told]] = {key: {} for key in questions}
        self._open: dict[str, set[int]] = {key: set() for key in questions}
        self._rows: dict[str, int] = {}
        self._row_ids: list[str] = []
        self._labels: list[str] = []
        self._clusters: list[Any] = []
        self._groups: list[Any] = []
        self._prompt_chars = array("d")
        self._prompts: list[str | None] = []
        self._texts: list[str | None] = []
        self._place: dict[tuple[int, int], int] = {}
        self._at = array("q")
        self._numbers = {name: array("d") for name in ("quality", "cost_nusd", "latency_ms", "check_cost_nusd")}
        self._answers: list[Any] = []
        self._signals: dict[tuple[int, str], tuple[array[int], array[float]]] = {}

    def row(
        self,
        key: str,
        *,
        row_id: str,
        label: Any,
        cluster: Any,
        group: Any,
        prompt_chars: float,
        prompt: str | None = None,
    ) -> int:
        """The place of a row, made when it is new."""
        at = self._rows.get(key)
        if at is None:
            at = self._rows[key] = len(self._row_ids)
            self._row_ids.append(row_id)
            self._labels.append("" if label is None else json.dumps(label, sort_keys=True, default=str))
            self._clusters.append(cluster)
            self._groups.append(group)
            self._prompt_chars.append(prompt_chars)
            self._prompts.append(prompt)
        return at

    def add(self, row: int, model: int, cell: Cell) -> bool:
        """Put an answer into its place; `False` when there is one already."""
        if (row, model) in self._place:
            return False
        self._place[row, model] = len(self._at)
        self._at.append(row * len(self.models) + model)
        for name, column in self._numbers.items():
            column.append(getattr(cell, name))
        self._answers.append(cell.answer)
        self._texts.append(cell.text)
        for name, value in cell.signals.items():
            rows, values = self._signals.setdefault((model, name), (array("q"), array("d")))
            rows.append(row)
            values.append(value)
        return True

    def grade(self, row: int, model: int, quality: float) -> None:
        """Say afterwards how good an answer is."""
        self._numbers["quality"][self._place[row, model]] = quality

    def tell(self, key: str, row: int, told: Told | None) -> None:
        """What a question about a row's first draft gave; `None` where it has still to be asked."""
        if told is None:
            self._open[key].add(row)
        else:
            self._told[key][row] = told

    def run(self, task: str, *, label_source: LabelSource, provenance: Mapping[str, Any], min_rows: int) -> EvalRun:
        """The run of all rows that every model was asked for.

        Raises
        ------
        TuningError
            Too few such rows.
        """
        import numpy as np

        n, k = len(self._row_ids), len(self.models)
        asked = np.zeros(n * k, dtype=bool)
        asked[np.asarray(self._at)] = True
        complete: NDArray[np.bool_] = np.asarray(asked.reshape(n, k).all(axis=1))
        for waiting in self._open.values():
            complete[list(waiting)] = False
        whole = np.flatnonzero(complete)
        # In the order of their ids: answers come in any order, and the same rows must be split the same way.
        keys = list(self._rows)
        whole = np.array(sorted(whole.tolist(), key=lambda at: (self._row_ids[at], keys[at])), dtype=np.intp)
        if len(whole) < min_rows:
            counts = dict(zip(self.models, asked.reshape(n, k).sum(axis=0).tolist(), strict=True))
            counts |= {key: n - len(waiting) for key, waiting in self._open.items()}
            raise TuningError(_too_few(n, len(whole), counts), needed=min_rows)
        tables = {name: self._table(column, n, k) for name, column in self._numbers.items()}
        answers = np.full(n * k, None, dtype=object)
        answers[np.asarray(self._at)] = self._answers
        signals: dict[str, dict[str, NDArray[np.float64]]] = {model: {} for model in self.models}
        for (model, name), (rows, values) in sorted(self._signals.items()):
            column = np.full(n, np.nan)
            column[np.asarray(rows)] = np.asarray(values)
            signals[self.models[model]][name] = column
        chars = np.asarray(self._prompt_chars)
        run = EvalRun(
            task=task,
            models=self.models,
            row_ids=np.array(self._row_ids, dtype=object),
            quality=tables["quality"],
            cost_nusd=tables["cost_nusd"],
            latency_ms=_or_none(tables["latency_ms"]),
            check_cost_nusd=_or_none(tables["check_cost_nusd"]),
            signals=signals,
            prompt_signals={} if np.isnan(chars).all() else {"input_chars": chars},
            answers=answers.reshape(n, k),
            prompts=self._few(_objects(self._prompts)),
            drafts=self._few(self._drafts(n, k)),
            cluster=_objects(self._clusters),
            group=_objects(self._groups),
            questions={key: self._question(key, n) for key in self._told},
            label_source=label_source,
            provenance={**provenance, "rows": len(whole), "incomplete_rows": n - len(whole)},
        )
        from dataclasses import replace

        labels = [self._labels[row] for row in whole]
        run = run.take(whole)
        return replace(run, data_hash=_data_hash(list(run.row_ids), labels))

    def _question(self, key: str, n: int) -> QuestionColumns:
        import numpy as np

        value, cost, answered = np.full(n, np.nan), np.zeros(n), np.zeros(n, bool)
        for row, told in self._told[key].items():
            value[row], cost[row], answered[row] = told
        return QuestionColumns(value, cost, answered)

    def _few(self, texts: NDArray[np.object_] | None) -> NDArray[np.object_] | None:
        return texts if len(self._at) <= MAX_TEXTS else None

    def _drafts(self, n: int, k: int) -> NDArray[np.object_] | None:
        import numpy as np

        if all(text is None for text in self._texts):
            return None
        drafts = np.full(n * k, None, dtype=object)
        drafts[np.asarray(self._at)] = self._texts
        return drafts.reshape(n, k)

    def _table(self, column: array[float], n: int, k: int) -> NDArray[np.float64]:
        import numpy as np

        table = np.full(n * k, np.nan)
        table[np.asarray(self._at)] = np.asarray(column)
        return table.reshape(n, k)


def _data_hash(row_ids: Sequence[str], labels: Sequence[str]) -> str:
    """Of rows and labels, in any order: the same rows asked again are the same data."""
    whole = hashlib.sha256()
    for pair in sorted(zip(row_ids, labels, strict=True)):
        whole.update(json.dumps(pair).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()[:16]


def _or_none(table: NDArray[np.float64]) -> NDArray[np.float64] | None:
    import numpy as np

    return None if np.isnan(table).all() else table


def _objects(values: Sequence[Any]) -> NDArray[np.object_] | None:
    import numpy as np

    return None if all(value is None for value in values) else np.array([str(v) for v in values], dtype=object)


def _too_few(rows: int, whole: int, counts: Mapping[str, int]) -> str:
    behind = min(counts, key=lambda name: counts[name])
    return (
        f"{whole} of {rows} rows were answered by every model ({behind!r} has {counts[behind]}); "
        "run `router eval` again, it asks what is missing, or add rows"
    )
