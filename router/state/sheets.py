"""Sheets: files of counters that one process keeps in memory and that outlive it, however it dies.

A counter is eight bytes that are written with one instruction, so that a reader finds the value before or after a
change and nothing between. The lock of the file says that its writer lives: the kernel lets go of it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

PLACES = 2048
_SIZE = PLACES * 16


class Sheet:
    """One file with a `used` and a `held` figure at each of its places; locked until it is closed."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.free = list(range(PLACES))[::-1]
        self._path = path
        draft = path.with_name(f".{path.name}")
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(file, bytes(_SIZE))  # The room is taken now: a full disk must fail here, not with a counter.
            self._map = mmap.mmap(file, _SIZE)  # It keeps the file, and so the lock, until it is let go of.
            draft.rename(path)  # It gets its name once it is locked: one without a lock is taken for a dead one's.
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        # Native integers: a change of one is a single store.
        self.cells = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Let go of the file; after a fork the child does, so that the parent's death still shows."""
        self.cells.release()
        self._map.close()

    def remove(self) -> None:
        """Close it for good: nothing refers to it any more."""
        self._path.unlink(missing_ok=True)
        self.close()


def lives(path: Path) -> bool:
    """Whether the process that writes this sheet is still there."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def read(path: Path, place: int) -> tuple[int, int] | None:
    """What another process's sheet says at a place, used and held; `None` when the file is gone."""
    try:
        with path.open("rb") as file:
            file.seek(place * 16)
            found = file.read(16)
    except FileNotFoundError:
        return None
    return struct.unpack("=qq", found) if len(found) == 16 else None
