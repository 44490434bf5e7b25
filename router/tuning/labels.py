"""Labelled texts from CSV, JSON lines or a recording, with every fault of the file named by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from router.core.call import to_messages
from router.core.checks import Check
from router.errors import RecordingError
from router.models.local import last_user_text
from router.models.recording import numbered_rows
from router.tuning.tables import read_table


class LabelledText(NamedTuple):
    """One text with its label; `split` is `train`, `test`, or `None` to let chance decide."""

    text: str
    label: str
    split: str | None


def read_labels(path: Path, *, check: Check, model: str | None = None) -> list[LabelledText]:
    """Labelled texts of a task.

    Parameters
    ----------
    path
        `.csv` with the columns `text` (or `prompt`) and `label`, or `.jsonl` (also `.gz`) with the same keys or with
        the columns of a recording. A column `split` may say `train` or `test`.
    check
        The task's own check: what it finds in a label is the label; what it refuses is an error.
    model
        Of a recording, the model whose answers are the labels.

    Raises
    ------
    RecordingError
        The file is too large, not UTF-8, lacks a column, or has a label that the task does not know: names the line.
    """
    found = []
    for line, row in _labelled(path, model):
        text, label = row.get("text"), row.get("label")
        has_text = isinstance(text, str) and text.strip()
        if not has_text or label is None or label == "":
            lacking = "label" if has_text else "text"
            raise RecordingError(
                f"{path}:{line}: has no {lacking!r}; add it or delete the line", path=str(path), line=line
            )
        if not isinstance(label, str | int | float):
            raise RecordingError(
                f"{path}:{line}: the label is of type {type(label).__name__}; give one label as text",
                path=str(path),
                line=line,
            )
        verdict = check(str(label))
        if not verdict.valid:
            raise RecordingError(
                f"{path}:{line}: the label {str(label)[:60]!r} {verdict.problem} of the task; mend it, or add it to "
                "`answer: {choice: [...]}`",
                path=str(path),
                line=line,
            )
        found.append(LabelledText(str(text), str(verdict.value), row.get("split") or None))
    return found


def _labelled(path: Path, model: str | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with `text` and `label`, from a table or from the columns of a recording."""
    for line, row in read_table(path, ("text", "label"), instead={"text": "prompt"}):
        if "prompt" in row and "text" not in row and row.get("label") not in (None, "") and "response" not in row:
            yield line, {**row, "text": row["prompt"]}
            continue
        if "prompt" in row and "text" not in row and path.suffix != ".csv":
            yield from _recorded_rows(path, model)
            return
        yield line, row


def _recorded_rows(path: Path, model: str | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The answers of one model of a recording, as labels of their prompts."""
    seen: set[str] = set()
    for number, row in numbered_rows(path):
        if model in (None, row["model"]) and row.get("response") is not None:
            seen.add(row["model"])
            asked = last_user_text(to_messages(row["prompt"], None))
            yield number, {"text": asked, "label": row["response"], "split": None}
    if len(seen) != 1:
        problem = f"answers of {', '.join(sorted(seen))}" if seen else f"no answer of {model or 'any model'}"
        raise RecordingError(
            f"{path}: holds {problem}; --model names the recording's model whose answers are the labels",
            path=str(path),
            line=None,
        )
