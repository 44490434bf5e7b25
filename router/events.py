"""The only door to structlog: one event per call, and one sink that keeps every field on one clean line.

Where the application has configured structlog, events go through its processors. Elsewhere they are JSON lines on
the standard logger `router`, silent until that logger is set to INFO.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from router.errors import isolated, warn

Event = dict[str, Any]
Listener = Callable[[Event], None]

_MAX_FIELD_CHARS = 4096
# C0 and C1 controls, bidirectional overrides and lone surrogates: what could forge a line or a terminal's colours.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_plain_logger = logging.getLogger("router")
_plain_logger.addHandler(logging.NullHandler())

# Listeners of `router.testing.capture`, replaced whole on every change so that readers need no lock.
listeners: tuple[Listener, ...] = ()


def wanted(level: int = logging.INFO) -> bool:
    """Whether anybody listens: building an event for nobody is waste."""
    return bool(listeners) or structlog.is_configured() or _plain_logger.isEnabledFor(level)


def emit(name: str, fields: Mapping[str, Any], *, level: int = logging.INFO) -> None:
    """Send one event, unless nobody listens."""
    if not wanted(level):
        return
    event = {key: clean(value) for key, value in fields.items()}
    for listener in listeners:
        listener({"event": name, **event})
    if structlog.is_configured():
        # By name, because not every wrapper class that an application may choose takes a number.
        method = logging.getLevelName(level).lower()
        isolated(lambda: getattr(structlog.get_logger("router"), method)(name, **event), _lost)
    elif _plain_logger.isEnabledFor(level):
        isolated(lambda: _json_logger.log(level, name, **event), _lost)


def _lost(error: Exception) -> None:
    warn(f"an event was lost: the application's log handlers or structlog processors raised {type(error).__name__}")


def clean(value: Any) -> Any:
    """A value that fits one line of strict JSON: text without control characters, numbers that are finite."""
    if isinstance(value, str):
        if len(value) > _MAX_FIELD_CHARS:
            value = value[:_MAX_FIELD_CHARS] + "…"
        return _UNSAFE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value if value is None or isinstance(value, bool | int) else clean(str(value))


def guarded(
    hook: Callable[[Any], Any], default: Any, read: Callable[[Any], Any] | None = None, *, then: str = ""
) -> Callable[[Any], Any]:
    """A user's function whose exceptions become `default` and one event: it must not take a paid answer down.

    `read` makes plain what the function returns, such as `bool`: odd objects raise then and not later. `then` says in
    the warning what a failure means; otherwise that what the function was asked counts as `default`.
    """
    warned = False

    def failed(error: Exception) -> Any:
        nonlocal warned
        # The class only: the text of an exception may hold the prompt.
        name, kind = getattr(hook, "__qualname__", "hook"), type(error).__name__
        emit("router.hook_failed", {"hook": name, "error": kind}, level=logging.ERROR)
        if not warned:
            warned = True
            warn(f"your function {name} raised {kind}; {then or f'what it was asked counts as {default!r}'}")
        return default

    if read is None:
        return lambda value: isolated(lambda: hook(value), failed)
    return lambda value: isolated(lambda: read(hook(value)), failed)


def guarded_text(hook: Callable[[str], Any], default: str) -> Callable[[str], str]:
    """The same for a function that must give text."""

    def text(value: str) -> str:
        found = hook(value)
        if not isinstance(found, str):
            raise TypeError(f"gave a {type(found).__name__}")
        return found

    functools.update_wrapper(text, hook, assigned=("__name__", "__qualname__"), updated=())
    return guarded(text, default)


_json_logger = structlog.wrap_logger(
    _plain_logger,
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.JSONRenderer(allow_nan=False),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
)
