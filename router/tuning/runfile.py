"""The file of an eval run: JSON lines in the columns of a recording, one for each answer; a killed process loses none.

A row is written with one system call when its answer is there. A torn last line, which only a killed process leaves, is
cut off when the run goes on; what is no row of ours is never cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from router.errors import RecordingError
from router.models.recording import unreadable

Row = dict[str, Any]

# How every row that an eval writes begins.
_START = b'{"model": "'


class RunFile:
    """An eval run that is being written; it is this process's alone until it is closed."""

    def __init__(self, path: Path) -> None:
        if path.suffix == ".gz":
            raise RecordingError(
                f"{path}: a run is written as plain JSON lines; leave .gz away", path=str(path), line=None
            )
        self.path = path
        self.torn = False
        """Whether a torn last line was cut off."""
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RecordingError(f"{path}: cannot be written ({error.strerror})", path=str(path), line=None) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise RecordingError(
                f"{path}: another process is writing this run; wait for it, or name another file",
                path=str(path),
                line=None,
            ) from None
        try:
            self._mend()
        except RecordingError:
            os.close(self._fd)
            raise

    def _mend(self) -> None:
        """End a whole last row that lacks only its line end, and cut off half of one."""
        size = end = os.fstat(self._fd).st_size
        while end:
            start = max(0, end - 65536)
            at = os.pread(self._fd, end - start, start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        if end == size:
            return
        tail = os.pread(self._fd, size - end, end)
        if _whole(tail):
            os.write(self._fd, b"\n")
        elif tail.startswith(_START[: len(tail)]) and not _is_json(tail):
            self.torn = True
            os.ftruncate(self._fd, end)
        else:
            raise RecordingError(
                f"{self.path}: its last line is no row of an eval run; name another file",
                path=str(self.path),
                line=None,
            )

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, whole or not at all."""
        data = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogatepass")
        with self._lock:
            written = os.write(self._fd, data)
            if written != len(data):
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                raise RecordingError(f"{self.path}: the disk is full; nothing was lost", path=str(self.path), line=None)

    def close(self) -> None:
        """Let others write."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _whole(line: bytes) -> bool:
    """Whether a line is a row, from its first to its last character."""
    row = json.loads(line) if _is_json(line) else None
    return isinstance(row, dict) and isinstance(row.get("model"), str)


def read_run(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a run or a recording, each with its line; a torn last line is passed over.

    Raises
    ------
    RecordingError
        The file cannot be read, or a line that is not the last is no row.
    """
    import gzip
    import zlib

    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    if (row := _row(line, path, number)) is None:
                        return
                    yield number, row
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, number, error) from error


def _row(line: bytes, path: Path, number: int) -> Row | None:
    """A line as a row; `None` for a torn last one, which alone has no line end."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            return None
        encoding = " in UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise RecordingError(
            f"{path}:{number}: this line is no JSON{encoding}; mend or delete it", path=str(path), line=number
        ) from None
    if not isinstance(row, dict) or not isinstance(row.get("model"), str):
        raise RecordingError(
            f"{path}:{number}: is no JSON object with a 'model'; mend or delete it", path=str(path), line=number
        )
    return row


def changed_since(path: Path, line: int, changed: Sequence[str]) -> str:
    """Why a row of a run no longer fits its task, and the way out; `changed` names the parts of its binding."""
    if list(changed) == ["signals"]:
        return (
            f"{path}:{line}: has signals that this version reads otherwise; have them read anew from its answers, for "
            f"nothing: `router eval` with --run NEW.jsonl --replay {path}"
        )
    return (
        f"{path}:{line}: was answered under another policy ({', '.join(changed)} changed since); run `router eval` "
        "into another file"
    )
