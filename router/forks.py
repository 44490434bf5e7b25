"""A fork waits until no thread visits SQLite: a child would inherit the library's own locks as they are, for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Gate:
    """Who is on a visit. Visits may be under way at once, and one may hold another; a fork comes alone."""

    def __init__(self) -> None:
        # Reentrant, because a signal handler may visit, too.
        self._changed = threading.Condition(threading.RLock())
        self._visits: dict[int, int] = {}
        self._forks = 0

    def enter(self) -> None:
        me = threading.get_ident()
        with self._changed:
            # Whoever is inside already must get on, or the fork would wait for it for ever.
            self._changed.wait_for(lambda: not self._forks or me in self._visits)
            self._visits[me] = self._visits.get(me, 0) + 1

    def leave(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._visits[me] -= 1
            if not self._visits[me]:
                del self._visits[me]
                self._changed.notify_all()

    def close(self) -> None:
        """Wait until nobody but the thread that forks is inside; nobody comes in or goes until `open`."""
        me = threading.get_ident()
        self._changed.acquire()
        self._forks += 1
        self._changed.wait_for(lambda: not self._visits.keys() - {me})

    def open(self) -> None:
        self._forks -= 1
        self._changed.notify_all()
        self._changed.release()


_gate = _Gate()


@contextmanager
def visiting() -> Iterator[None]:
    """No fork happens within; for whatever a child must not inherit half done."""
    gate = _gate  # A child that is forked within has another afterwards.
    gate.enter()
    try:
        yield
    finally:
        gate.leave()


def _renew() -> None:
    global _gate
    _gate = _Gate()


os.register_at_fork(before=lambda: _gate.close(), after_in_parent=lambda: _gate.open(), after_in_child=_renew)
