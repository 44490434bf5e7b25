"""The writer of this process's segments: one system call per row, and another segment each day.

A row is acknowledged when the system call returns and survives kill -9 from then on; with `sync: full` it also survives
a power loss. A process that dies in the middle of a write leaves a torn last line in its own file and nowhere else.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from router.errors import LedgerError, warn
from router.ledger.rows import SCHEMA_VERSION, Row
from router.ledger.segments import encode, frame_numbered
from router.world import AppendFile, World

# How often a writer looks at its file: a look costs as much as a row.
_LOOK_EVERY_S = 1.0
# When a segment is full: after a day, so that what a service of months wrote can be packed; and before what reads one
# whole lacks room. Chosen, not measured.
_SEGMENT_S = 86_400
_SEGMENT_BYTES = 256 << 20


class LedgerWriter:
    """The one writer of this process's segments; the first row opens one, and so does the first after a fork.

    After a day, or when it is large, the next one begins. Calls that are under way stay where they began, and a segment
    is let go of when the last of them has ended.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        on_failure: Literal["allow", "refuse"] = "allow",
        sync: Literal["normal", "full"] = "normal",
        segment_bytes: int = _SEGMENT_BYTES,
        alarm: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._world = world
        self._refuse = on_failure == "refuse"
        self._sync = sync == "full"
        self._segment_bytes = segment_bytes
        self._alarm = alarm
        self._segment: _Segment | None = None
        self._lost = 0
        self._alarmed = False
        # Calls between their first intent and their route row, each with the segment that its rows are in: a segment
        # that is let go of says that its writer is dead, and open requests of the dead are orphans.
        self._under_way: dict[str, _Segment | None] = {}
        self._closing = False
        # A half line is closed by the next row, a number is given once, and no row goes to a descriptor that another
        # thread closes. Reentrant, because a signal handler may route, too.
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
            self._under_way.setdefault(row["route_id"], None)
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
                self._let_go(self._under_way.pop(row["route_id"], None))
                if self._closing:
                    self.close()

    def close(self) -> None:
        """Close the segment once no call is under way; a later row opens a new one."""
        with self._lock:
            self._closing = bool(self._under_way)
            if not self._closing:
                done, self._segment = self._segment, None
                self._let_go(done)

    def _forked(self) -> None:
        # The child's copies of the descriptors share the parent's locks and must not outlive the parent's.
        for segment in {self._segment, *self._under_way.values()} - {None}:
            segment.file.close()  # type: ignore[union-attr]
        self._lock = threading.RLock()
        self._segment, self._under_way = None, {}  # The parent's calls end in the parent.
        self._lost, self._alarmed, self._closing = 0, False, False

    def _write(self, row: Row) -> bool:
        problem = ""
        try:
            data = encode(row)
            with self._lock:
                call = row.get("route_id") or str(row.get("attempt_id")).partition("-")[0]
                segment = self._place(call)
                if segment.is_due(self._world.clock.monotonic()):
                    problem = self._look(segment)
                    segment = self._place(call)
                if self._lost:
                    now_s = self._world.clock.time()
                    gap = {"v": SCHEMA_VERSION, "kind": "gap", "time_s": now_s, "lost": self._lost}
                    segment.write(encode(gap), sync=self._sync)
                    self._lost, self._alarmed = 0, False
                segment.write(data, sync=self._sync)
                if call in self._under_way:
                    self._under_way[call] = segment
        except (OSError, ValueError, RecursionError) as error:  # The disk, or a row that is no JSON.
            self._failed(error)
            return False
        if problem:
            self._tell(problem, "nothing but the fold needs to touch it")
        return True

    def _place(self, call: str) -> _Segment:
        """The segment for a row of this call."""
        segment = self._under_way.get(call) or self._segment
        if segment is None:
            segment = self._segment = self._open()
        return segment

    def _open(self) -> _Segment:
        path = self._folder / f"{self._world.new_id()}-{os.getpid()}.seg"
        now_s = self._world.clock.monotonic()
        return _Segment(path, self._world.disk.append(path), now_s, now_s)

    def _look(self, segment: _Segment) -> str:
        """Leave a segment that somebody harmed, and say so; begin another one when it is time to."""
        if problem := segment.damage():
            self._lost += segment.rows
            segment.file.close()
            self._under_way = {call: None if at is segment else at for call, at in self._under_way.items()}
            self._segment = None if segment is self._segment else self._segment
        elif segment is self._segment and (
            segment.size >= self._segment_bytes or segment.seen_s - segment.begun_s >= _SEGMENT_S
        ):
            with suppress(OSError):  # Then this one takes further rows, and a second later it is tried again.
                self._segment = self._open()
                self._let_go(segment)
        return problem

    def _let_go(self, segment: _Segment | None) -> None:
        """Close a segment that gets no further rows."""
        if segment and segment is not self._segment and segment not in self._under_way.values():
            with suppress(OSError):  # It says how many rows there are, and a reader does without.
                row = {"v": SCHEMA_VERSION, "kind": "end", "time_s": self._world.clock.time()}
                segment.write(encode(row), sync=self._sync)
            segment.file.close()

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


@dataclass(slots=True, eq=False)
class _Segment:
    """An open segment and what went into it."""

    path: Path
    file: AppendFile
    begun_s: float
    seen_s: float
    """When the file was last looked at; by a clock that nobody sets, as the other."""
    rows: int = 0
    size: int = 0
    """Bytes that were written."""
    torn: bool = False

    def write(self, body: bytes, *, sync: bool) -> None:
        self.rows += 1  # First: a signal handler that routes here needs a number of its own.
        data = frame_numbered(body, self.rows)
        if self.torn:  # Close the half line first, so that it costs only itself.
            data = b"\n" + data
        try:
            written = self.file.write(data)
            self.size += written
            self.torn = written < len(data)
            if self.torn:
                raise OSError("the disk took only a part of the row")
        except OSError:
            self.rows -= 1
            raise
        if sync:
            self.file.sync()

    def is_due(self, now_s: float) -> bool:
        """Whether it is time to look at it again."""
        if now_s - self.seen_s < _LOOK_EVERY_S:
            return False
        self.seen_s = now_s
        return True

    def damage(self) -> str:
        """What somebody did to the file under its writer, or an empty text."""
        size = self.file.size()
        if size is not None and size >= self.size:
            return ""
        done = "deleted or moved" if size is None else "cut"
        return f"{self.path}: was {done} while it was written; up to {self.rows} rows are lost"
