"""Everything the library takes from outside: time, randomness and the ledger's disk.

Handed in as one `World`, so that a test can replace it and a seed becomes a history.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import random
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def time(self) -> float:
        """Seconds since 1970, for people and periods; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, for durations; never goes back."""
        ...

    def sleep(self, seconds: float) -> None: ...

    async def asleep(self, seconds: float) -> None: ...


class AppendFile(Protocol):
    """A file that only grows and that one process writes."""

    def write(self, data: bytes) -> int:
        """Append with one system call; returns the bytes written, which a full disk may cut short."""
        ...

    def sync(self) -> None:
        """Wait until what was written survives a power loss."""
        ...

    def size(self) -> int | None:
        """Bytes in the file now; `None` when it is no longer found under its name."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """Where the ledger's segments are."""

    def append(self, path: Path) -> AppendFile:
        """Create a file and hold it as its only writer until it is closed or the process ends."""
        ...


class Random(Protocol):
    """Where randomness comes from."""

    def random(self) -> float: ...

    def getrandbits(self, bits: int, /) -> int: ...


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SimulatedClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._start_s = start_s
        self._passed_s = 0.0

    def time(self) -> float:
        return self._start_s + self._passed_s

    def monotonic(self) -> float:
        return self._passed_s

    def sleep(self, seconds: float) -> None:
        self._passed_s += seconds

    async def asleep(self, seconds: float) -> None:
        self._passed_s += seconds
        await asyncio.sleep(0)


_write = ctypes.PyDLL(None, use_errno=True).write
_write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_write.restype = ctypes.c_ssize_t


class _SystemFile:
    def __init__(self, path: Path) -> None:
        import fcntl

        for folder in (path.parent.parent, path.parent):  # `mode` is only for the last of the folders that are made.
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # It gets its name once it is locked: a fold that finds a segment without a lock closes it for good.
        draft = path.with_name(f".{path.name}")
        self._path = path
        self._fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # A router that is dropped without `close` lets go of its file, too.
        self._close = weakref.finalize(self, os.close, self._fd)
        self._close.atexit = False  # Threads may still write then; the end of the process closes it anyway.
        try:
            # The lock says "my writer lives": the kernel drops it when the process dies, however it dies.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
        except OSError:
            self._close()
            draft.unlink(missing_ok=True)
            raise

    def write(self, data: bytes) -> int:
        # `os.write` lets go of the interpreter, and with 64 calls at once another thread has it for half a millisecond;
        # this takes two microseconds.
        while (written := int(_write(self._fd, data, len(data)))) < 0:
            if (code := ctypes.get_errno()) != errno.EINTR:
                raise OSError(code, os.strerror(code), str(self._path))
        return written

    def sync(self) -> None:
        os.fsync(self._fd)

    def size(self) -> int | None:
        try:
            named = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return named.st_size if os.path.samestat(named, os.fstat(self._fd)) else None

    def close(self) -> None:
        self._close()


class SystemDisk:
    """The machine's file system."""

    def append(self, path: Path) -> AppendFile:
        return _SystemFile(path)


@dataclass(frozen=True, slots=True)
class World:
    """Time, randomness and disk."""

    clock: Clock = field(default_factory=SystemClock)
    # The operating system's generator keeps no state, so a forked child cannot repeat its parent's ids.
    random: Random = field(default_factory=random.SystemRandom)
    disk: Disk = field(default_factory=SystemDisk)
    # Key of the fingerprints, in place of the one that is kept in the ledger's folder.
    secret: bytes | None = field(default=None, repr=False)

    def new_id(self) -> str:
        """A new identifier of 32 hexadecimal digits: milliseconds since 1970, then 80 random bits. Sorts by time."""
        return f"{int(self.clock.time() * 1000) & 0xFFFFFFFFFFFF:012x}{self.random.getrandbits(80):020x}"
