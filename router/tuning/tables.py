"""Rows of a CSV or JSON-lines file as mappings, with every fault of the file named by line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from router.errors import RecordingError
from router.models.recording import unreadable

# Enough for a million tickets; a larger file is more than tuning has use for.
MAX_BYTES = 500_000_000
_ENDINGS = (".csv", ".json", ".jsonl", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")

Row = Mapping[str, Any]


def read_table(
    path: Path, columns: Collection[str], *, instead: Mapping[str, str] | None = None
) -> Iterator[tuple[int, Row]]:
    """The rows of a `.csv`, `.jsonl` or `.jsonl.gz` file, each with its line; `columns` are those that a CSV must have.

    `instead` says what may stand in place of a column.

    Raises
    ------
    RecordingError
        The file is too large, cannot be read, is not UTF-8, or has a line that is no row: names the line.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, 0, error) from error
    if size > MAX_BYTES:
        raise RecordingError(
            f"{path}: has {size:,} bytes, more than {MAX_BYTES:,}; take a sample of it", path=str(path), line=None
        )
    if not path.name.endswith(_ENDINGS) and path.is_file():
        raise RecordingError(
            f"{path}: is neither .csv nor .jsonl; save it as one of them, in UTF-8", path=str(path), line=None
        )
    return _csv_rows(path, columns, instead or {}) if path.suffix == ".csv" else _json_rows(path)


def _csv_rows(path: Path, columns: Collection[str], instead: Mapping[str, str]) -> Iterator[tuple[int, Row]]:
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if missing := {name for name in columns if name not in found and instead.get(name) not in found}:
                names = " and ".join(f"`{name}`" for name in columns)
                raise RecordingError(
                    f"{path}:1: has no column {min(missing)!r}; the first line names the columns {names}, "
                    "with a comma between",
                    path=str(path),
                    line=1,
                )
            for row in reader:
                line = reader.line_num
                if None in row:
                    raise _fault(path, line, "has more cells than the first line has names")
                yield line, row
    except UnicodeDecodeError as error:
        raise RecordingError(
            f"{path}: is not UTF-8 after line {line}; save it as UTF-8", path=str(path), line=line
        ) from error
    except OSError as error:
        raise unreadable(path, 0, error) from error
    except csv.Error as error:
        raise RecordingError(f"{path}:{line}: is no CSV ({error})", path=str(path), line=line) from error


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(line, path, number)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, number, error) from error


def _parsed(line: bytes, path: Path, number: int) -> Row:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise RecordingError(
            f"{path}:{number}: this line is no JSON in UTF-8; mend or delete it", path=str(path), line=number
        ) from error
    if not isinstance(row, dict):
        raise RecordingError(f"{path}:{number}: is no JSON object; mend or delete it", path=str(path), line=number)
    return row


def _fault(path: Path, line: int, problem: str) -> RecordingError:
    return RecordingError(f"{path}:{line}: {problem}; mend or delete the line", path=str(path), line=line)
