"""Segments: files of CRC-framed JSON lines that only grow, one per process, one system call per row.

A row is the CRC-32 of its JSON in 8 hexadecimal digits, a space, the JSON, and a newline. It is acknowledged when the
system call returns and survives kill -9 from then on; with `sync: full` it also survives a power loss. A process
that dies in the middle of a write leaves a torn last line in its own file and nowhere else.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from router.errors import LedgerError, warn
from router.ledger.rows import SCHEMA_VERSION, Row
from router.world import AppendFile, World

# How often a writer looks whether its file is still there: a look costs as much as a row.
_LOOK_EVERY_S = 1.0

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=str).encode


def frame(row: Row) -> bytes:
    """The bytes of one row. ASCII only, so that lone surrogates and control characters are harmless."""
    body = _encode(row).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def unframe(line: bytes) -> Row | None:
    """The row of one line without its newline, or `None` when it is torn or changed."""
    if line[:9] != b"%08x " % zlib.crc32(line[9:]):
        return None
    try:
        row = json.loads(line[9:])
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


class LedgerWriter:
    """The one writer of this process's segment; opened by the first row, and anew after a fork."""

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        on_failure: Literal["allow", "refuse"] = "allow",
        sync: Literal["normal", "full"] = "normal",
        alarm: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._world = world
        self._refuse = on_failure == "refuse"
        self._sync = sync == "full"
        self._alarm = alarm
        self._segment: _Segment | None = None
        self._lost = 0
        self._alarmed = False
        # Calls between their first intent and their route row: closing waits for them.
        self._under_way: set[str] = set()
        self._closing = False
        # An intent and its settle belong in one segment, a half line is closed by the next row, and no row goes to a
        # descriptor that another thread closes. Reentrant, because a signal handler may route, too.
        self._lock = threading.RLock()
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (method := forked()) and method())

    def intent(self, row: Row) -> None:
        """Record that a request is about to leave; its call is under way from here on.

        Raises
        ------
        LedgerError
            The row cannot be written and the policy says `on_failure: refuse`.
        """
        with self._lock:
            self._under_way.add(row["route_id"])
        if not self._write(row) and self._refuse:
            raise LedgerError(
                f"{self._folder}: the ledger cannot be written and the policy says `on_failure: refuse`, so the "
                "request was not sent; make the folder writable, or set ROUTER_HOME",
                path=str(self._folder),
            )

    def record(self, row: Row) -> None:
        """Record what already happened; a failure raises an alarm and never takes the answer away."""
        self._write(row)
        if row.get("kind") == "route":
            with self._lock:
                self._under_way.discard(row["route_id"])
                if self._closing:
                    self.close()

    def close(self) -> None:
        """Close the segment once no call is under way; a later row opens a new one.

        A lock that is let go of says that the writer is dead, and the requests of a dead writer are orphans.
        """
        with self._lock:
            self._closing = bool(self._under_way)
            if self._segment is not None and not self._closing:
                self._segment.file.close()
                self._segment = None

    def _forked(self) -> None:
        # The child's copy of the descriptor shares the parent's lock and must not outlive the parent's.
        self._lock = threading.RLock()
        self._under_way = set()  # The parent's calls end in the parent.
        self._lost, self._alarmed = 0, False
        self.close()

    def _write(self, row: Row) -> bool:
        problem = ""
        try:
            data = frame(row)
            with self._lock:
                segment = self._segment or self._open()
                if problem := self._damage(segment):
                    self._lost += segment.rows
                    segment.file.close()
                    segment = self._open()
                if self._lost:
                    now_s = self._world.clock.time()
                    gap = {"v": SCHEMA_VERSION, "kind": "gap", "time_s": now_s, "lost": self._lost}
                    segment.write(frame(gap), sync=self._sync)
                    self._lost, self._alarmed = 0, False
                segment.write(data, sync=self._sync)
        except (OSError, ValueError, RecursionError) as error:  # The disk, or a row that is no JSON.
            self._failed(error)
            return False
        if problem:
            self._tell(problem, "nothing but the fold needs to touch it")
        return True

    def _open(self) -> _Segment:
        self._segment = None
        path = self._folder / f"{self._world.new_id()}-{os.getpid()}.seg"
        self._segment = _Segment(path, self._world.disk.append(path), self._world.clock.monotonic())
        return self._segment

    def _damage(self, segment: _Segment) -> str:
        """What somebody did to the segment under its writer, or an empty text; looked at once a second."""
        now_s = self._world.clock.monotonic()
        if now_s - segment.seen_s < _LOOK_EVERY_S:
            return ""
        segment.seen_s = now_s
        size = segment.file.size()
        if size is not None and size >= segment.size:
            return ""
        done = "deleted or moved" if size is None else "cut"
        return f"{segment.path}: was {done} while it was written; up to {segment.rows} rows are lost"

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._lost += 1
            if self._alarmed:
                return
            self._alarmed = True
        reason = getattr(error, "strerror", None) or error
        self._tell(
            f"{self._folder}: the ledger cannot be written ({reason}); calls are not recorded",
            "make the folder writable, or set ROUTER_HOME",
        )

    def _tell(self, problem: str, remedy: str) -> None:
        if self._alarm:
            self._alarm(problem)
        warn(f"{problem}; {remedy}")


@dataclass(slots=True)
class _Segment:
    """An open segment and what went into it."""

    path: Path
    file: AppendFile
    seen_s: float
    """When the file was last looked at."""
    rows: int = 0
    size: int = 0
    """Bytes that were written."""
    torn: bool = False

    def write(self, data: bytes, *, sync: bool) -> None:
        if self.torn:  # Close the half line first, so that it costs only itself.
            data = b"\n" + data
        written = self.file.write(data)
        self.size += written
        self.torn = written < len(data)
        if self.torn:
            raise OSError("the disk took only a part of the row")
        self.rows += 1
        if sync:
            self.file.sync()


class Line(NamedTuple):
    """One line of a segment."""

    row: Row | None
    """`None` when the line is torn or was changed."""
    start: int
    end: int
    """Offset of the byte after it."""
    ended: bool
    """Whether a newline ends it; where none does, its writer died in the middle of it."""


def read_lines(path: Path, offset: int = 0, *, complete: bool) -> Iterator[Line]:
    """The lines of a segment from an offset on.

    A last line without newline is still being written, unless the segment is `complete`: then it is torn.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            ended = line.endswith(b"\n")
            if not ended and not complete:
                return
            start, offset = offset, offset + len(line)
            body = line.rstrip(b"\n")
            if body:
                yield Line(unframe(body), start, offset, ended)


def writer_lives(path: Path) -> bool:
    """Whether the process that writes this segment is still there: it holds the file's lock while it lives."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
        return False


def segments_in(folder: Path) -> list[Path]:
    """The segments of a folder, oldest first."""
    return sorted(path for path in folder.glob("[!.]*.seg") if path.is_file())
