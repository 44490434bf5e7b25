"""Labelled rows: what every model of a ladder is asked in an eval, read from a file or given as values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.core.call import Message, to_messages
from router.core.checks import Check
from router.errors import RecordingError, TuningError
from router.tuning.graders import Grader, json_label, number_of
from router.tuning.tables import read_table

_PROMPTS, _LABELS = ("prompt", "text"), ("label", "reference")
_OWN = frozenset({*_PROMPTS, *_LABELS, "metadata", "meta"})


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One prompt with its label."""

    prompt: str | Sequence[Message]
    label: Any = None
    """What a right answer is; not used by the grader `disagreement`, and by `judge` only to be compared with."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What `group:` and `cluster:` of the task look up."""
    place: str = ""
    """File and line, for messages."""

    @property
    def row_id(self) -> str:
        """What the row is about: a digest of its prompt. Copies share it."""
        return prompt_id(self.prompt)


def prompt_id(prompt: str | Sequence[Message]) -> str:
    """A digest of a prompt without the task's system text."""
    messages = [dict(message) for message in to_messages(prompt, None)]
    text = json.dumps(messages, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_rows(path: Path) -> list[EvalRow]:
    """The rows of a `.csv` or `.jsonl` file: `prompt` (or `text`), `label` (or `reference`), `metadata`.

    Every further column is metadata too.

    Raises
    ------
    RecordingError
        The file cannot be read, or a line has no prompt: names the line.
    """
    found: list[EvalRow] = []
    for line, row in read_table(path, ()):
        prompt = _first(row, _PROMPTS)
        if prompt is None:
            columns = ", ".join(map(str, row))
            raise RecordingError(
                f"{path}:{line}: has no 'prompt' (it has {columns}); name the column `prompt`, or delete the line",
                path=str(path),
                line=line,
            )
        try:
            to_messages(prompt, None)
        except ValueError as problem:
            raise RecordingError(
                f"{path}:{line}: the prompt {problem}; mend or delete the line", path=str(path), line=line
            ) from None
        found.append(EvalRow(prompt, _first(row, _LABELS), _metadata(row), f"{path}:{line}"))
    return found


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    more = row.get("metadata") or row.get("meta")
    loose = {name: value for name, value in row.items() if name not in _OWN and value is not None}
    return {**loose, **more} if isinstance(more, Mapping) else loose


def checked_rows(rows: Sequence[EvalRow], grader: Grader, check: Check, *, drop_duplicates: bool) -> list[EvalRow]:
    """The rows that an eval asks, or an error that names the first fault before any money is spent.

    Raises
    ------
    RecordingError
        A row has no label, or one that no answer can match; or two rows have the same prompt.
    TuningError
        There is no row, or all labels are the same.
    """
    if not rows:
        raise TuningError("there is no row to ask; give at least one line with a prompt and a label", needed=1)
    if grader.reads_labels:
        for row in rows:
            if problem := _label_problem(row.label, grader, check):
                raise _fault(row, problem)
        labels = {json.dumps(row.label, sort_keys=True, default=str) for row in rows}
        if len(labels) == 1 and len(rows) > 1 and grader.name in ("exact", "choice", "number", "json"):
            raise TuningError(
                f"all {len(rows)} rows have the label {str(rows[0].label)[:60]!r}: nothing can be learned of the "
                "others; add rows with other labels",
                needed=2,
            )
    return _without_copies(rows, drop_duplicates)


def _without_copies(rows: Sequence[EvalRow], drop: bool) -> list[EvalRow]:
    seen: dict[str, EvalRow] = {}
    copies: list[tuple[EvalRow, EvalRow]] = []
    for row in rows:
        first = seen.setdefault(row.row_id, row)
        if first is row:
            continue
        if first.label != row.label:
            raise _fault(row, f"repeats the prompt of {first.place or 'an earlier row'} with another label")
        copies.append((first, row))
    if copies and not drop:
        first, row = copies[0]
        raise _fault(
            row,
            f"repeats the prompt of {first.place or 'an earlier row'} ({len(copies)} rows repeat one); "
            "drop the copies with --drop-duplicates (drop_duplicates=True)",
        )
    return list(seen.values())


def _label_problem(label: Any, grader: Grader, check: Check) -> str:
    """Why no answer can be right beside this label, or nothing."""
    if label is None:
        return "has no 'label'; add it, or grade with `judge` or `disagreement`, which need none"
    text = label if isinstance(label, str) else json.dumps(label)
    if grader.name == "number" and number_of(label) is None:
        return f"the label {text[:60]!r} is no number; mend it"
    if grader.name == "pattern":
        try:
            re.compile(text)
        except re.error as error:
            return f"the label {text[:60]!r} is no regular expression ({error}); mend it"
    if grader.name == "json" and isinstance(label, str) and json_label(label) is label:
        return f"the label {text[:60]!r} is no JSON; mend it"
    if grader.name == "choice" and not (verdict := check(text)).valid:
        return f"the label {text[:60]!r} {verdict.problem}, so that no answer can match it; mend it"
    return ""


def _fault(row: EvalRow, problem: str) -> RecordingError:
    path, _, line = row.place.rpartition(":")
    return RecordingError(
        f"{row.place or 'row'}: {problem}", path=path or row.place, line=int(line) if line.isdigit() else None
    )
