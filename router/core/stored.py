"""Answers as plain JSON values, for those who keep them: everything but the backend's own object and the parsed value.

The parsed value is read from the text again, because only the caller's own types can make it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

from router.core.answer import Answer, Attempt, Step
from router.core.call import ToolCall, Usage
from router.core.checks import Check
from router.core.faults import Fault
from router.core.pricing import Amount

# Raised when an older version could not read what this one writes, or the other way round.
VERSION = 1


class Damaged(ValueError):
    """What was kept is no whole answer."""


_Made = TypeVar("_Made")


def plain(answer: Answer) -> dict[str, Any]:
    """The answer as JSON values."""
    values = asdict(replace(answer, parsed=None, response=None))
    del values["parsed"], values["response"]
    return {"v": VERSION, **values}


def restored(values: Mapping[str, Any], check: Check) -> Answer | None:
    """The answer again; `None` where another version wrote it.

    Raises
    ------
    Damaged
        It cannot be made of these values.
    """
    try:
        if values["v"] != VERSION:
            return None
        unread = _answer(values)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Damaged("is no whole answer") from error
    verdict = None if unread.tool_calls else check(unread.text)
    return replace(unread, parsed=verdict.value) if verdict and verdict.valid else unread


def _answer(values: Mapping[str, Any]) -> Answer:
    if not isinstance(values["text"], str):
        raise TypeError
    return _made(
        Answer,
        {
            **values,
            "parsed": None,
            "steps": tuple(_made(Step, step) for step in values["steps"]),
            "attempts": tuple(map(_attempt, values["attempts"])),
            "usage": _usage(values["usage"]),
            "tool_calls": tuple(_made(ToolCall, call) for call in values["tool_calls"]),
        },
    )


def _attempt(values: Mapping[str, Any]) -> Attempt:
    return _made(
        Attempt,
        {
            **values,
            "usage": _usage(values["usage"]),
            "amount": _made(Amount, values["amount"]),
            "fault": None if values["fault"] is None else Fault(values["fault"]),
        },
    )


def _usage(values: Mapping[str, Any] | None) -> Usage | None:
    return None if values is None else _made(Usage, values)


def _made(kind: type[_Made], values: Mapping[str, Any]) -> _Made:
    return kind(**{part.name: values[part.name] for part in fields(kind) if part.name in values})  # type: ignore[arg-type]
