"""The verdicts of a run that a judge graded, put to the answers that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from router.errors import TuningError
from router.tuning.agreement import agreement
from router.tuning.columns import Columns


class Answered(NamedTuple):
    """An answer that a judge is to grade."""

    row: int
    model: int
    worthless: bool
    """Whether it scores 0 without a judge."""
    by_label: float | None
    """How good it is by its row's label, where there is one."""


@dataclass
class Judged:
    """The answers and verdicts of a run, each by prompt and model; a verdict stands behind its answer in the file."""

    answers: dict[tuple[str, str], Answered] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], float | None] = field(default_factory=dict)
    judges: set[str] = field(default_factory=set)
    saw_labels: bool = False

    def add(self, prompt: str, row: Mapping[str, Any]) -> None:
        """A verdict; a later one stands in for one that was none."""
        key = prompt, str(row["judges"])
        self.judges.add(str(row.get("name") or row["model"]))
        self.saw_labels = self.saw_labels or bool(row.get("saw_label"))
        if row.get("quality") is not None or key not in self.verdicts:
            self.verdicts[key] = row.get("quality")

    def grade(self, columns: Columns, names: Sequence[str]) -> dict[str, Any]:
        """Give every answer its verdict, and say what the judge is: who, how often without a verdict, how good.

        Raises
        ------
        TuningError
            No answer has a grade.
        """
        if not self.verdicts and not any(answer.worthless for answer in self.answers.values()):
            raise TuningError(
                "the run has no verdict of a judge; run `router eval` with --grader judge --judge MODEL", needed=1
            )
        found: dict[str, list[float]] = {name: [] for name in names}
        pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        worthless = ungraded = 0
        for key, answer in self.answers.items():
            grade = 0.0 if answer.worthless else self.verdicts.get(key)
            worthless += answer.worthless
            if grade is None:
                ungraded += 1
                continue
            columns.grade(answer.row, answer.model, grade)
            found[key[1]].append(grade)
            if answer.by_label is not None and not self.saw_labels:
                pairs[key[1]].append((answer.by_label, grade))
        return {
            "models": sorted(self.judges),
            "verdicts": sum(map(len, found.values())) - worthless,
            "worthless": worthless,
            "ungraded": ungraded,
            "saw_labels": self.saw_labels,
            "agreement": {name: agreement(pairs[name], found[name])._asdict() for name in names},
        }
