"""Tool calls: what a model asked to be run, whether it can be, and how a conversation with them changes models.

The id of every tool call that leaves here ends with a mark of the rung that made it (`call_x8--r1`). The mark comes
back with the tool's result, from whichever process, and says which rung goes on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from router.core.call import Message, ToolCall
from router.core.checks import Verdict

_MARK = re.compile(r"--r(\d)$")  # A ladder has at most eight rungs.
# What every vendor takes as an id: Anthropic these characters, OpenAI at most 40 of them.
_PORTABLE_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
_PORTABLE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "cache_control")
# What SDKs put into a message that no vendor wants back and some refuse, and what is wanted in a tool loop only.
_OUTPUT_ONLY_KEYS = frozenset(["provider_specific_fields", "annotations", "audio", "refusal"])
_LOOP_ONLY_KEYS = frozenset(["reasoning_content", "thinking_blocks"])


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that a call offers."""

    definitions: tuple[Mapping[str, Any], ...]
    problems: Mapping[str, Callable[[Any], str]]
    """By tool: what is wrong with its arguments, or ""."""
    choice: Any = None

    def params(self) -> dict[str, Any]:
        """The parameters that offer them."""
        offered: dict[str, Any] = {"tools": [dict(one) for one in self.definitions]}
        return offered if self.choice is None else {**offered, "tool_choice": self.choice}

    def verdict(self, calls: Sequence[ToolCall]) -> Verdict | None:
        """Whether the calls can be run; `None` where there are none and none are needed."""
        for call in calls:
            problem = self._problem(call)
            if problem:
                return Verdict(False, None, problem)
        if calls:
            return Verdict(True)
        wanted = self.choice == "required" or self._named is not None
        return Verdict(False, None, "calls no tool, although one is required") if wanted else None

    @property
    def _named(self) -> str | None:
        """The one tool that must be called."""
        return self.choice["function"]["name"] if isinstance(self.choice, Mapping) else None

    def _problem(self, call: ToolCall) -> str:
        known = self.problems.get(call.name)
        if known is None:
            return "calls a tool that was not offered"
        if self.choice == "none" or self._named not in (None, call.name):
            return f"calls {call.name!r}, which the call's tool_choice rules out"
        try:
            arguments = call.parsed
        except (ValueError, RecursionError):
            return f"calls {call.name!r} with arguments that are no JSON"
        if not isinstance(arguments, Mapping):
            return f"calls {call.name!r} with arguments that are no JSON object"
        try:
            problem = known(arguments)
        except RecursionError:  # A schema that refers to itself without end.
            problem = "their JSON Schema has no end"
        return f"calls {call.name!r} with arguments that do not fit: {problem}" if problem else ""


class Marks:
    """Gives the tool calls of one answer ids that are theirs alone and that name the rung that made them."""

    def __init__(self, rung: int, route_id: str) -> None:
        self._rung = rung
        self._route_id = route_id
        self._ids: dict[int, str] = {}

    def id(self, index: int, given: str | None) -> str:
        """The id of the call at this position; some models repeat an id, or give none."""
        if index not in self._ids:
            own = given if given and given not in self._ids.values() else f"call_{self._route_id[:24]}_{index}"
            self._ids[index] = own
        return f"{self._ids[index]}--r{self._rung}"

    def parts(self, parts: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        """Parts of live tool calls; the first part of each call has its id."""
        return tuple(
            part if part["index"] in self._ids else {**part, "id": self.id(part["index"], part.get("id"))}
            for part in parts
        )


def marked(calls: Sequence[ToolCall], rung: int, route_id: str) -> tuple[ToolCall, ...]:
    """Whole tool calls with their marked ids."""
    if not calls:
        return ()
    marks = Marks(rung, route_id)
    return tuple(replace(call, id=marks.id(index, call.id)) for index, call in enumerate(calls))


_SPOKEN_TO = ("user", "system", "developer")


def rung_of(messages: Sequence[Message]) -> int | None:
    """The rung that goes on: the one whose tool calls the last messages answer; `None` outside a tool loop."""
    for message in reversed(messages):
        if message.get("role") == "tool":
            continue
        return _made_by(message) if message.get("role") == "assistant" else None
    return None


def _made_by(message: Message) -> int | None:
    for call in message.get("tool_calls") or ():
        found = _MARK.search(_id(call))
        if found:
            return int(found[1])
    return None


def translated(messages: Sequence[Message], rung: int) -> tuple[Message, ...]:
    """A conversation as one rung takes it: its own turns as it gave them, those of other models stripped to text
    and tool calls, ids without our marks, in characters that every vendor takes and each used once.
    """
    for message in messages:
        if message.get("role") not in _SPOKEN_TO:
            break
    else:  # Nobody has answered yet, as in most calls.
        return tuple(messages)
    ids = _Ids(messages, rung)
    told = []
    for message in messages:
        if message.get("role") == "assistant":
            message = _assistant(message, rung, ids)
        elif message.get("role") == "tool":
            message = {**message, "tool_call_id": ids.of_result(str(message.get("tool_call_id", "")))}
        told.append(message)
    return tuple(told)


class _Ids:
    """The ids of tool calls as one rung is sent them: its own as it gave them."""

    def __init__(self, messages: Sequence[Message], rung: int) -> None:
        own = (message for message in messages if _is_own(message, rung))
        self._taken = {_bare(_id(call)) for message in own for call in message.get("tool_calls") or ()}
        self._sent: dict[str, str] = {}

    def of_call(self, call_id: str, *, own: bool) -> str:
        """What a call's id becomes. Small servers give the same ids in every turn, which others refuse."""
        self._sent[call_id] = sent = _bare(call_id) if own else self._free(_bare(call_id))
        self._taken.add(sent)
        return sent

    def of_result(self, call_id: str) -> str:
        """The id of the call that a result belongs to: the last one that had this id."""
        return self._sent[call_id] if call_id in self._sent else self.of_call(call_id, own=False)

    def _free(self, bare: str) -> str:
        found, number = bare, 0
        while found in self._taken or not _PORTABLE_ID.fullmatch(found):
            found = f"call_{hashlib.sha256(f'{bare} {number}'.encode(errors='replace')).hexdigest()[:24]}"
            number += 1
        return found


def _is_own(message: Message, rung: int) -> bool:
    """Whether a turn was this rung's, or was not made here at all."""
    return message.get("role") == "assistant" and _made_by(message) in (None, rung)


def _assistant(message: Message, rung: int, ids: _Ids) -> Message:
    kept = {key: value for key, value in message.items() if key not in _OUTPUT_ONLY_KEYS and value is not None}
    kept["content"] = message.get("content")
    calls = kept.pop("tool_calls", None)
    if not calls:
        return {key: value for key, value in kept.items() if key not in _LOOP_ONLY_KEYS}
    own = _is_own(message, rung)
    if not own:
        kept = {key: value for key, value in kept.items() if key in _PORTABLE_KEYS}
    kept["tool_calls"] = [{**(call if own else _plain(call)), "id": ids.of_call(_id(call), own=own)} for call in calls]
    return kept


def _plain(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "type": "function",
        "function": {"name": function.get("name"), "arguments": function.get("arguments")},
    }


def _id(call: Mapping[str, Any]) -> str:
    return str(call.get("id", ""))


def _bare(call_id: str) -> str:
    return _MARK.sub("", call_id)
