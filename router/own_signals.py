"""The application's own signals: functions of a prompt and its draft, registered in Python by name.

What one of them does wrong costs its signal for that draft and one warning, never the call.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

from router.core.evidence import BLOCKS
from router.core.ladder import KINDS
from router.core.panel import PANEL_SIGNALS
from router.core.signals import FREE_SIGNALS, OwnSignal
from router.core.word_scores import WORD_SIGNALS
from router.errors import InvalidCall, isolated, shown, warn
from router.events import emit

OwnSignals = Mapping[str, OwnSignal]

BUILT_IN = frozenset({*FREE_SIGNALS, *BLOCKS, *WORD_SIGNALS, *PANEL_SIGNALS, *KINDS})
# Squares of it, and sums of those over a million rows, are still exact enough to fit on.
LARGEST = 1e15
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


class _Unusable(Exception):
    """A function gave what is no signal; the message says in our words what it was."""


def is_own(name: object) -> bool:
    """Whether a signal of the application may have this name."""
    return isinstance(name, str) and name not in BUILT_IN and _NAME.fullmatch(name) is not None


def is_value(value: object) -> bool:
    """Whether a signal of the application may have this value: a finite number that is no bool, within ±1e15."""
    try:
        _number(value)
    except (_Unusable, OverflowError):
        return False
    return True


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _Unusable(f"gave a {type(value).__name__}, not a number")
    found = float(value)
    if not abs(found) <= LARGEST:  # Nor does NaN hold.
        raise _Unusable("gave NaN" if math.isnan(found) else "gave a number beyond ±1e15")
    return found


def guarded_signals(signals: OwnSignals | None) -> dict[str, OwnSignal]:
    """The same functions, each of which gives a finite number or `None` whatever happens in it.

    Raises
    ------
    InvalidCall
        A name is that of a built-in signal or cannot be one, or what it names is no plain function.
    """
    if signals is not None and not isinstance(signals, Mapping):
        raise InvalidCall(
            f"signals: is a {type(signals).__name__}; give a mapping from names to functions", argument="signals"
        )
    for name, function in (signals or {}).items():
        if problem := _problem(name, function):
            raise InvalidCall(f"signals: {problem}", argument="signals")
    return {name: _guarded(name, function) for name, function in (signals or {}).items()}


def _problem(name: object, function: object) -> str:
    if name in BUILT_IN:
        return f"{name!r} is a built-in signal; choose another name"
    if not is_own(name):
        return f"{shown(name)} cannot be a name; give a letter, then at most 63 letters, digits and `_`, `.`, `-`"
    if not callable(function):
        return f"{name!r} is a {type(function).__name__}; give a function of a prompt and its draft"
    asynchronous = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
    return f"{name!r} is async; give a plain function" if asynchronous else ""


def _guarded(name: str, function: OwnSignal) -> OwnSignal:
    warned = False

    def failed(error: Exception) -> None:
        nonlocal warned
        # The class only: the text of an exception may hold the prompt.
        kind = type(error).__name__
        emit("router.hook_failed", {"hook": name, "error": kind}, level=logging.ERROR)
        if not warned:
            warned = True
            what = str(error) if isinstance(error, _Unusable) else f"raised {kind}"
            warn(f"your signal {name!r} {what}; it is missing from every draft where that happens")

    def read(prompt: str, draft: str) -> Any:
        found = function(prompt, draft)
        return None if found is None else _number(found)

    return lambda prompt, draft: isolated(lambda: read(prompt, draft), failed)
