"""The file that a run over many prompts is resumed from: a JSON line for each answer, written when it has come."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple, Self

from router.core.answer import Answer
from router.core.checks import Check
from router.core.stored import Damaged, plain, restored
from router.errors import InvalidCall, warn

# Every row begins like this, with its own number.
_BEGINNING = b'{"index":0,"asked":"'


class _Place(NamedTuple):
    start: int
    length: int
    line: int


class ResumeFile:
    """The answers of earlier runs, and those of this one. One process at a time writes it.

    A row is one system call. What a killed process left of its last row is cut off: nobody was given that answer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._lock = threading.Lock()
        self._warned = False
        # Where each row is; the answers stay on the disk.
        self._rows: dict[int, _Place] = {}

    def __enter__(self) -> Self:
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._refused(f"cannot be written ({error.strerror}); choose another path") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, BlockingIOError):
                raise self._refused("is in use by another run; wait for it, or choose another path") from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def find(self, index: int, binding: str, check: Check) -> Answer | None:
        """The answer of an earlier run.

        Raises
        ------
        InvalidCall
            The earlier run asked something else at this position, or its answer is damaged.
        """
        place = self._rows.get(index)
        if place is None:
            return None
        row = json.loads(os.pread(self._file, place.length, place.start))
        if row["asked"] != binding:
            raise self._refused(
                f"has the answer to another prompt at position {index}; give the prompts, the task and the parameters "
                "of the run that is resumed, or choose another path"
            )
        try:
            return restored(row["answer"], check)
        except Damaged:
            raise self._no_row(place.line) from None

    def write(self, index: int, binding: str, answer: Answer) -> None:
        """Put an answer down; it survives kill -9 from here on. A disk that refuses it is told of once."""
        try:
            row = {"index": index, "asked": binding, "answer": plain(answer)}
            data = json.dumps(row, separators=(",", ":"), default=str).encode() + b"\n"
            with self._lock:
                written = os.write(self._file, data)
                if written < len(data):  # Half a row must not stand before the next one.
                    os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                    raise OSError("the disk took only a part of the row")
        except (OSError, TypeError, ValueError, RecursionError) as error:  # It is paid for: nothing may take it away.
            if not self._warned:
                self._warned = True
                warn(
                    f"{self._path}: answers are not kept for a later run ({getattr(error, 'strerror', None) or error})"
                )

    def _read(self) -> None:
        end = 0
        with os.fdopen(os.dup(self._file), "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    if not self._rows and not _begins_a_row(line):  # A file of the user's: nothing of it is cut off.
                        raise self._no_row(number)
                    break
                self._rows[self._index(line, number)] = _Place(end, len(line), number)
                end += len(line)
        os.ftruncate(self._file, end)

    def _index(self, line: bytes, number: int) -> int:
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or type(row.get("index")) is not int or not {"asked", "answer"} <= row.keys():
            raise self._no_row(number)
        index: int = row["index"]
        return index

    def _no_row(self, number: int) -> InvalidCall:
        return self._refused(f"line {number} is no row of an earlier run; choose another path")

    def _refused(self, problem: str) -> InvalidCall:
        return InvalidCall(f"resume: {self._path}: {problem}", argument="resume")


def _begins_a_row(torn: bytes) -> bool:
    """Whether it can be what was left of a first row."""
    beginning = re.sub(rb"\d+", b"0", torn[: 2 * len(_BEGINNING)], count=1)
    return beginning.startswith(_BEGINNING) or _BEGINNING.startswith(beginning)
