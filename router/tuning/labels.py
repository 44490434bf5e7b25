"""Labelled texts from CSV, JSON lines or a recording, with every fault of the file named by line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from router.core.call import to_messages
from router.core.checks import Check
from router.errors import RecordingError
from router.models.local import last_user_text
from router.models.recording import numbered_rows

# Enough for a million tickets; a larger file is more than a linear classifier has use for.
MAX_BYTES = 500_000_000
_ENDINGS = (".csv", ".json", ".jsonl", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")


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
        `.csv` with the columns `text` and `label`, or `.jsonl` (also `.gz`) with the same keys or with the columns of a
        recording. A column `split` may say `train` or `test`.
    check
        The task's own check: what it finds in a label is the label; what it refuses is an error.
    model
        Of a recording, the model whose answers are the labels.

    Raises
    ------
    RecordingError
        The file is too large, not UTF-8, lacks a column, or has a label that the task does not know: names the line.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})", path=str(path), line=None) from error
    if size > MAX_BYTES:
        raise RecordingError(
            f"{path}: has {size:,} bytes, more than {MAX_BYTES:,}; take a sample of it", path=str(path), line=None
        )
    if not path.name.endswith(_ENDINGS) and path.is_file():
        raise RecordingError(
            f"{path}: is neither .csv nor .jsonl; save it as one of them, in UTF-8", path=str(path), line=None
        )
    rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path, model)
    found = []
    for line, row in rows:
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


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"text", "label"} - set(reader.fieldnames or ())
            if missing:
                raise RecordingError(
                    f"{path}:1: has no column {min(missing)!r}; the first line names the columns `text` and `label`, "
                    "with a comma between",
                    path=str(path),
                    line=1,
                )
            for row in reader:
                line = reader.line_num
                yield line, row
    except UnicodeDecodeError as error:
        raise RecordingError(
            f"{path}: is not UTF-8 after line {line}; save it as UTF-8", path=str(path), line=line
        ) from error
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})", path=str(path), line=None) from error
    except csv.Error as error:
        raise RecordingError(f"{path}:{line}: is no CSV ({error})", path=str(path), line=line) from error


def _json_rows(path: Path, model: str | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = _parsed(line, path, number)
                if "prompt" in row and "text" not in row:
                    break  # The columns of a recording.
                yield number, row
            else:
                return
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecordingError(
            f"{path}: cannot be read after line {number} ({reason})", path=str(path), line=number or None
        ) from error
    yield from _recorded_rows(path, model)


def _parsed(line: bytes, path: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordingError(
            f"{path}:{number}: this line is no JSON in UTF-8; mend or delete it", path=str(path), line=number
        ) from error
    if not isinstance(row, dict):
        raise RecordingError(f"{path}:{number}: is no JSON object; mend or delete it", path=str(path), line=number)
    return row


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
