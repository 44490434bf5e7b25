"""What becomes known when a call has ended: its one event, the application's hook, and a warning for a rung gone."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from router import events
from router.core.effects import Finish
from router.core.faults import FAULTS
from router.errors import InvalidCall, warn
from router.ledger import Trace
from router.ledger.rows import call_summary


class Reporter:
    """Tells of each call once. Nothing that the application does with it can take an answer away."""

    def __init__(self, on_event: Callable[[events.Event], Any] | None) -> None:
        if on_event is not None and (not callable(on_event) or inspect.iscoroutinefunction(on_event)):
            raise InvalidCall("on_event: give a plain function of the event; an async one is not", argument="on_event")
        self._hook = events.guarded(on_event, None, then="the event is lost") if on_event else None
        self._warned: set[tuple[str, str, str]] = set()

    def __call__(self, trace: Trace, finish: Finish, latency_ms: float) -> None:
        wanted = events.wanted()
        if wanted or self._hook:
            fields = call_summary(trace, finish, latency_ms)
            if wanted:
                events.emit("route", fields)
            if self._hook:
                self._hook({"event": "route", **events.clean(fields)})
        for attempt in finish.attempts:
            if attempt.fault is not None:
                nothing_above = finish.answer is None and finish.steps[-1:] and finish.steps[-1].rung == attempt.rung
                self._warn_once(trace.task, attempt.model, attempt.fault, attempt.detail, bool(nothing_above))

    def _warn_once(self, task: str, model: str, fault: Any, detail: str, nothing_above: bool) -> None:
        """Say once that a rung is gone for good: calls go on, but at the price of the rung above."""
        rule = FAULTS[fault]
        key = (task, model, str(fault))
        if not rule.lasting or key in self._warned:
            return
        self._warned.add(key)
        problem = f"task {task!r}: rung {model!r} cannot be used ({fault}: {detail or rule.why})"
        events.emit("router.rung_failed", {"task": task, "model": model, "fault": str(fault)}, level=logging.WARNING)
        warn(f"{problem}; calls {'that reach it fail' if nothing_above else 'climb past it'} until that is mended")
