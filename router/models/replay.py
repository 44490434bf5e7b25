"""Answers from a recording: text, usage, log-probabilities, latency and errors of real models, asked again for free.

A recording is in the columns of `docs/replay.md`. A request is looked up by model name, system text and prompt. Rows
with the same key are given in the order of the file, one for each request, and the last of them from then on: an
error followed by an answer replays a retry.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from router.core.call import (
    Call,
    Failure,
    FinishReason,
    Message,
    Outcome,
    Reply,
    ToolCall,
    Usage,
    input_tokens_estimate,
    to_messages,
)
from router.core.faults import Fault
from router.core.policy import Model
from router.core.pricing import NUSD_PER_USD, exact_product
from router.errors import ReplayMiss
from router.models import Facts
from router.models.recording import read_recording, redacted

# The model's name, then each message: role and text, or its JSON where it holds more.
Key = tuple[str | tuple[str, str], ...]

# Recordings write -1e9 for a log-probability of minus infinity.
_MINUS_INFINITY = -1e8


class Replay:
    """A backend that answers from recorded rows; `redact` is the function that they were recorded with."""

    origin = "replay"
    """What it answers costs nothing: the audit keeps it apart from money that was spent."""

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        name: str = "recording",
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self._name = name
        self._redact = redact
        self._rows: dict[Key, list[Mapping[str, Any]]] = {}
        for row in rows:
            self._rows.setdefault(key_of_row(row), []).append(row)
        self._served: dict[Key, int] = {}
        # Guards the count of served duplicates when several threads ask.
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        models: Collection[str] | None = None,
        task: str | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> Replay:
        """Read a recording; `models` and `task` keep only the rows that are needed.

        Raises
        ------
        RecordingError
            A line is broken, or one that is needed lacks a column; names the line. Nothing is skipped silently.
        """
        return cls(read_recording(path, models=models, task=task), name=str(path), redact=redact)

    def facts(self, model: Model) -> Facts:
        """Nothing: recorded rows carry their own cost."""
        return Facts()

    def count_tokens(self, call: Call) -> int:
        """The recorded count, else an estimate."""
        rows = self._rows.get(self._key(call), ())
        counted = next((row for row in rows if row.get("input_tokens") is not None), None)
        if counted is None:
            return input_tokens_estimate(call.messages)
        return Usage(*(int(counted.get(name) or 0) for name in Usage.__slots__)).all_input_tokens

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        """The next recorded outcome of this request; at once, whatever the recorded latency.

        Raises
        ------
        ReplayMiss
            The recording holds no row for the model and the prompt.
        """
        return outcome_of(self._next(call))

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        return self.send(call, timeout_s)

    def _next(self, call: Call) -> Mapping[str, Any]:
        """The row whose turn it is."""
        key = self._key(call)
        rows = self._rows.get(key)
        if rows is None:
            raise self._miss(call, self._hint(key))
        with self._lock:
            index = self._served.get(key, 0)
            self._served[key] = index + 1
        return rows[min(index, len(rows) - 1)]

    def _miss(self, call: Call, hint: str) -> ReplayMiss:
        problem = f"{self._name}: holds no answer of {call.model.litellm!r} to this prompt; {hint}"
        return ReplayMiss(problem, path=self._name, line=None, model=call.model.litellm)

    def _key(self, call: Call) -> Key:
        messages = redacted(call.messages, self._redact) if self._redact else call.messages
        return key_of(call.model.litellm, messages)

    def _hint(self, key: Key) -> str:
        """What is there instead, nearest first."""
        model, *messages = key
        if any(known[0] == model and _asked(known[1:]) == _asked(messages) for known in self._rows):
            return "it holds one to the same prompt with another system text: make the task's `system:` that of the row"
        if others := sorted({str(known[0]) for known in self._rows if _asked(known[1:]) == _asked(messages)}):
            named = ", ".join(map(repr, others[:3]))
            return f"it holds one of {named}: record this model too, or name that one in the policy's `litellm:`"
        return (
            "record that model on it, or check that the prompt is the recorded one to the last character; what a judge "
            "is asked about a draft is a prompt of its own"
        )


def key_of(model: str, messages: Iterable[Message]) -> Key:
    """What a request is looked up by."""
    return (model, *map(_message_key, messages))


def key_of_row(row: Mapping[str, Any]) -> Key:
    """The same of the request that a row answers."""
    return key_of(row["model"], to_messages(row["prompt"], row.get("system")))


def _asked(messages: Sequence[str | tuple[str, str]]) -> list[str | tuple[str, str]]:
    """The messages without the system text."""
    return [message for message in messages if not (isinstance(message, tuple) and message[0] == "system")]


def _message_key(message: Message) -> str | tuple[str, str]:
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return (message["role"], content)
    return json.dumps(dict(message), sort_keys=True, default=str)


def outcome_of(row: Mapping[str, Any]) -> Outcome:
    """What a row of a recording says came back."""
    if row.get("error") is not None:
        return _failure(row)
    cost, latency = row.get("cost_usd"), row.get("latency_s")
    finish: Any = row.get("finish_reason") or "stop"
    return Reply(
        text=row["response"],
        usage=_usage(row),
        finish_reason=finish if finish in get_args(FinishReason) else "unknown",
        model_served=row.get("model_served") or row["model"],
        logprobs=_logprobs(row.get("logprob")),
        token_bytes=_told(row, "bytes"),
        margins=_told(row, "margin"),
        reported_cost_nusd=None if cost is None else round(exact_product(cost, NUSD_PER_USD)),
        latency_ms=None if latency is None else latency * 1000,
        tool_calls=tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in row.get("tool_calls") or ()),
        extras=row.get("extras") or {},
        response=row,
    )


def _usage(row: Mapping[str, Any]) -> Usage | None:
    """What the row counts; `None` when it lacks one of the two counts that every provider gives."""
    if row.get("input_tokens") is None or row.get("output_tokens") is None:
        return None
    return Usage(*(int(row.get(name) or 0) for name in Usage.__slots__))


def _failure(row: Mapping[str, Any]) -> Failure:
    """A recorded error; one that names no fault of ours is the server's."""
    error = row["error"]
    fields: Mapping[str, Any] = {"fault": error} if isinstance(error, str) else error
    name = fields.get("fault")
    return Failure(
        Fault(name) if name in set(Fault) else Fault.SERVER_ERROR,
        status=fields.get("status"),
        retry_after_s=fields.get("retry_after_s"),
        usage=_usage(row),
        detail=fields.get("detail", "recorded"),
        model_served=row.get("model_served"),
        partial=fields.get("partial") or "",
    )


def _told(row: Mapping[str, Any], what: str) -> tuple[Any, ...] | None:
    told = (row.get("logprob") or {}).get(what)
    return tuple(told) if told else None


def _logprobs(recorded: Mapping[str, Any] | None) -> tuple[float, ...] | None:
    if not recorded:
        return None
    tokens = recorded.get("tok")
    if tokens is None:
        tokens = [recorded["raw"]] if recorded.get("raw") is not None else []
    return tuple(-math.inf if value <= _MINUS_INFINITY else float(value) for value in tokens) or None
