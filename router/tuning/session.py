"""What an eval has behind it and under way: the answers of earlier sessions, the questions in flight, what is spent."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.core.binding import changed_rows, row_binding
from router.core.faults import FAULTS
from router.core.pricing import NUSD_PER_USD
from router.errors import RecordingError, TuningError
from router.tuning.answers import is_final, is_question, is_verdict
from router.tuning.jobs import Job
from router.tuning.judging import require_verdicts
from router.tuning.rows import EvalRow
from router.tuning.runfile import changed_since, read_run


@dataclass(frozen=True, slots=True)
class Past:
    """What a run file holds already."""

    done: frozenset[tuple[str, str, bool]] = frozenset()
    answers: int = 0
    spent_nusd: int = 0
    by_model: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Answers and what they cost, by model."""
    labels: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Label and metadata that the answers of a prompt were graded with."""
    drafts: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The answers of a panel's first members, which its questions are about, by prompt and model."""
    unjudged: Mapping[tuple[str, str, bool], str] = field(default_factory=dict)
    """Where a judge grades: the text of each answer that it gave no verdict on."""

    @classmethod
    def read(cls, path: Path, bound: Mapping[str, Any], judge: Mapping[str, str] | None = None) -> Past:
        """Read it, and refuse the run of another policy or of another judge: its rows would not be comparable."""
        done: set[tuple[str, str, bool]] = set()
        unjudged: dict[tuple[str, str, bool], str] = {}
        drafts: dict[tuple[str, str], str] = {}
        firsts = {panel[0] for panel in bound["panels"]}
        spent = 0
        sums: dict[str, tuple[int, int]] = {}
        labels: dict[str, tuple[Any, Any]] = {}
        for line, row in read_run(path):
            name = str(row.get("name", ""))
            nusd = round((row.get("cost_usd") or 0.0) * NUSD_PER_USD)
            _require_grading(path, line, row, judge)
            if is_verdict(row):
                spent += nusd
                if is_final(row):
                    unjudged.pop((row["prompt_id"], row["judges"], False), None)
                    _add(sums, name, nusd)
                continue
            _require_bound(path, line, row, bound)
            spent += nusd
            if is_question(row):
                if is_final(row):
                    done.add((row["prompt_id"], name, False))
                    _add(sums, name, nusd)
                continue
            if name in firsts and row.get("error") is None:
                drafts[row["prompt_id"], name] = row["response"]
            labels[row["prompt_id"]] = row.get("label"), row.get("metadata")
            if is_final(row):
                key = (row["prompt_id"], name, bool(row.get("repeat")))
                done.add(key)
                _add(sums, name, nusd)
                if judge is not None and row.get("error") is None and row.get("quality") is None:
                    unjudged[key] = row["response"]
        return cls(frozenset(done), len(done), spent, sums, labels, drafts, unjudged)

    def require_same(self, rows: Sequence[EvalRow], path: Path) -> None:
        """Refuse rows whose labels or metadata have changed since: their answers are graded with the old ones.

        Raises
        ------
        RecordingError
            A row differs; the answers need not be paid for again.
        """
        for row in rows:
            known = self.labels.get(row.row_id)
            if known is not None and known != (_plain(row.label), _plain(dict(row.metadata)) or None):
                raise RecordingError(
                    f"{row.place or 'a row'}: has another label or other metadata than in {path}; name another run "
                    f"file, and answer it from this one for nothing: --run NEW.jsonl --replay {path}",
                    path=str(path),
                    line=None,
                )

    def mean_nusd(self, model: str) -> int | None:
        """What an answer of this model cost so far, on average."""
        count, cost = self.by_model.get(model, (0, 0))
        return cost // count if count else None


def _add(sums: dict[str, tuple[int, int]], name: str, nusd: int) -> None:
    count, cost = sums.get(name, (0, 0))
    sums[name] = (count + 1, cost + nusd)


def _require_bound(path: Path, line: int, row: Mapping[str, Any], bound: Mapping[str, Any]) -> None:
    """A run is of one ladder under one policy."""
    name = str(row.get("name", ""))
    if name not in bound["ladder"] or not isinstance(row.get("bound"), dict):
        raise RecordingError(
            f"{path}:{line}: is an answer of {name or row['model']!r}, which is not in the task's ladder "
            f"({', '.join(bound['ladder'])}); name another run file",
            path=str(path),
            line=line,
        )
    if other := changed_rows(row["bound"], row_binding(bound, name)):
        raise RecordingError(changed_since(path, line, other), path=str(path), line=line)


def _require_grading(path: Path, line: int, row: Mapping[str, Any], judge: Mapping[str, str] | None) -> None:
    """A run has one source of grades: labels, or one judge that was asked one question."""
    other = ""
    if (row.get("grader") == "judge") != (judge is not None):
        other = f"was graded by {row.get('grader')!r}"
    elif judge is not None and is_verdict(row) and (changed := changed_rows(row.get("bound") or {}, judge)):
        other = f"is a verdict of another judge ({', '.join(changed)} changed since)"
    if other:
        raise RecordingError(
            f"{path}:{line}: {other}; name another run file, and answer it from this one for nothing: "
            f"--run NEW.jsonl --replay {path}",
            path=str(path),
            line=line,
        )


class Session:
    """The questions that are under way, and what is spent."""

    def __init__(self, spent_nusd: int) -> None:
        self.spent_nusd = spent_nusd
        self.held_nusd = 0
        self.asked = self.failed = self.verdicts = self.nonsense = 0
        self.spared = 0
        """Verdicts that nobody need ask for."""
        self.stopped = ""
        self.next_start_s = float("-inf")
        self.pending: dict[Future[Mapping[str, Any]], int] = {}
        self.due: deque[Job] = deque()
        """Questions that answers of this session led to; they go first."""
        self._new_nusd = 0

    def begin(self, future: Future[Mapping[str, Any]], hold: int) -> None:
        """A question left; it may cost this much."""
        self.pending[future] = hold
        self.held_nusd += hold

    def collect(self) -> None:
        """Wait for at least one answer and count what came."""
        for future in wait(self.pending, return_when=FIRST_COMPLETED).done:
            self.held_nusd -= self.pending.pop(future)
            row = future.result()
            cost = round((row.get("cost_usd") or 0.0) * NUSD_PER_USD)
            self.spent_nusd += cost
            self._new_nusd += cost
            if is_final(row):
                self.asked += 1
            else:
                self.failed += 1
            if is_verdict(row) and row.get("error") is None:
                self.verdicts += 1
                self.nonsense += row["quality"] is None
                require_verdicts(row["name"], self.verdicts, self.nonsense)
            _stop_if_lasting(row)

    def mean_nusd(self) -> int | None:
        """What an answer of this session cost so far, on average."""
        return self._new_nusd // self.asked if self.asked else None


def _stop_if_lasting(row: Mapping[str, Any]) -> None:
    """A model that cannot be asked at all ends the session: every further row would be without its answer."""
    fault = (row.get("error") or {}).get("fault")
    if fault in FAULTS and FAULTS[fault].lasting:
        raise TuningError(
            f"model {row['name']!r} cannot be asked ({fault}: {FAULTS[fault].why}); mend that and run the same command "
            "again: what was answered is kept",
            needed=0,
        )


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))
