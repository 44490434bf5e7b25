"""Whether two answers are the same: one form of every answer, for calls and for tuning alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from router.core.call import Reply
from router.core.checks import Verdict, build_check
from router.core.policy import AnswerKind

_ANY_JSON = build_check(AnswerKind(json={}))


def canonical(value: Any, agree_on: Sequence[str] = ()) -> str | None:
    """An answer as a text that equal answers share, or `None` where there is nothing to compare.

    1 and 1.0 are one number, and no truth value is a number. With `agree_on` these fields of an object count, and an
    object that lacks one, like anything that is no object, has nothing to compare.
    """
    if agree_on:
        if not isinstance(value, Mapping) or any(name not in value for name in agree_on):
            return None
        value = {name: value[name] for name in agree_on}
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    try:
        return json.dumps(_plain(value), sort_keys=True, default=str)
    except RecursionError:  # Nested so deeply that nothing reads it.
        return None


def answer_of(reply: Reply, verdict: Verdict, agree_on: Sequence[str], *, shaped: bool) -> str | None:
    """What a draft says, to be compared: its tool calls, its JSON, or the value that the task's check found.

    With a shape of the caller's own it is the JSON of the text that counts, not the caller's object made of it.
    """
    if not verdict.valid:
        return None
    if reply.tool_calls:
        return canonical([[call.name, _arguments(call.arguments)] for call in reply.tool_calls])
    return canonical(_ANY_JSON(reply.text).value if shaped else verdict.value, agree_on)


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain(value: Any) -> Any:
    """The same with every whole number as an integer."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
