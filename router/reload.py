"""Reload: notices changed policy files, in a thread of its own, at most once a second.

A change is read when it has rested for one look, so that files which are still being written disturb nobody.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from router import events
from router.errors import RouterError, warn

INTERVAL_S = 1.0

Seen = tuple[tuple[str, int, int, int], ...]


class Reloader:
    """Calls `renew` when the files of a policy have changed; says once what is wrong with a change."""

    def __init__(self, source: Path, renew: Callable[[], str]) -> None:
        self._source = source
        self._renew = renew
        self._known = self._last = self._look()
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None
        self._pid = 0

    def start(self) -> None:
        """Watch from now on; a forked child watches for itself."""
        if self._stop is not None and self._pid == os.getpid():
            return
        if self._pid != os.getpid():
            self._lock = threading.Lock()
        with self._lock:
            if self._stop is None or self._pid != os.getpid():
                self._stop, self._pid = threading.Event(), os.getpid()
                arguments = (weakref.ref(self), self._stop)
                threading.Thread(target=_watch, args=arguments, name="router-reload", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def look(self) -> None:
        """Look once: take a change over that has rested since the last look."""
        seen = self._look()
        rested, self._last = seen == self._last, seen
        if seen == self._known or not rested:
            return
        self._known = seen
        try:
            policy_hash = self._renew()
        except (RouterError, OSError) as error:
            events.emit("router.policy_broken", {"problem": str(error)}, level=logging.ERROR)
            warn(f"the changed policy cannot be used, so the one before it stays in force: {error}")
        else:
            events.emit("router.policy_reloaded", {"policy_hash": policy_hash})

    def _look(self) -> Seen:
        folder = self._source if self._source.is_dir() else self._source.parent
        tuned = (folder / "tuned").glob("*.json")
        files = folder.glob("*.y*ml") if self._source.is_dir() else (self._source,)
        seen = []
        for path in sorted((*files, *tuned)):
            with suppress(OSError):
                about = path.stat()
                seen.append((str(path), about.st_mtime_ns, about.st_size, about.st_ino))
        return tuple(seen)


def _watch(reloader: weakref.ref[Reloader], stop: threading.Event) -> None:
    """Look until told to stop or nobody uses the reloader any more."""
    while not stop.wait(INTERVAL_S):
        there = reloader()
        if there is None:
            return
        there.look()
        del there
