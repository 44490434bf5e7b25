"""Answers from a recording: text, usage, log-probabilities, latency and errors of real models, asked again for free.

A recording is JSON lines, plain or gzipped, in the columns of `docs/replay.md`. A request is looked up by model
name, system text and prompt. Rows with the same key are given in the order of the file, one for each request, and
the last of them from then on: an error followed by an answer replays a retry.
"""

from __future__ import annotations

import gzip
import json
import math
import threading
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from router.core.call import (
    Call,
    Failure,
    FinishReason,
    Message,
    Outcome,
    Reply,
    Usage,
    input_tokens_estimate,
    to_messages,
)
from router.core.faults import Fault
from router.core.policy import Model
from router.core.pricing import NUSD_PER_USD
from router.errors import RecordingError, ReplayMiss
from router.models import Facts

# The model's name, then each message: role and text, or its JSON where it holds more.
Key = tuple[str | tuple[str, str], ...]

# Recordings write -1e9 for a log-probability of minus infinity.
_MINUS_INFINITY = -1e8
_NUMBERS = ("input_tokens", "output_tokens", "cost_usd", "latency_s")


class Replay:
    """A backend that answers from recorded rows."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], *, name: str = "recording") -> None:
        self._name = name
        self._rows: dict[Key, list[Mapping[str, Any]]] = {}
        for row in rows:
            key = _key(row["model"], to_messages(row["prompt"], row.get("system")))
            self._rows.setdefault(key, []).append(row)
        self._served: dict[Key, int] = {}
        # Guards the count of served duplicates when several threads ask.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path, *, models: Collection[str] | None = None, task: str | None = None) -> Replay:
        """Read a recording; `models` and `task` keep only the rows that are needed.

        Raises
        ------
        RecordingError
            A line is broken, or one that is needed lacks a column; names the line. Nothing is skipped silently.
        """
        return cls(read_recording(path, models=models, task=task), name=str(path))

    def facts(self, model: Model) -> Facts:
        """Nothing: recorded rows carry their own cost."""
        return Facts()

    def count_tokens(self, call: Call) -> int:
        """The recorded count, else an estimate."""
        rows = self._rows.get(_key(call.model.litellm, call.messages))
        recorded = rows[0].get("input_tokens") if rows else None
        return int(recorded) if recorded is not None else input_tokens_estimate(call.messages)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        """The next recorded outcome of this request; at once, whatever the recorded latency.

        Raises
        ------
        ReplayMiss
            The recording holds no row for the model and the prompt.
        """
        key = _key(call.model.litellm, call.messages)
        rows = self._rows.get(key)
        if rows is None:
            raise ReplayMiss(
                f"{self._name}: holds no answer of {call.model.litellm!r} to this prompt; record that model on it, "
                "or check that the policy's `litellm:` is the recording's model name and `system:` its system text",
                path=self._name,
                line=None,
                model=call.model.litellm,
            )
        with self._lock:
            index = self._served.get(key, 0)
            self._served[key] = index + 1
        return outcome_of(rows[min(index, len(rows) - 1)])

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        return self.send(call, timeout_s)


def read_recording(
    path: str | Path, *, models: Collection[str] | None = None, task: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a recording, in order; `models` and `task` keep only the rows that are needed.

    Raises
    ------
    RecordingError
        The file cannot be read, or a line is no row.
    """
    path = Path(path)
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = _parse(line, path, number) if line.strip() else None
                if row is None or (models is not None and row.get("model") not in models):
                    continue
                if task is None or row.get("task") == task:
                    yield _checked(row, path, number)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecordingError(
            f"{path}: cannot be read after line {number}: {reason}", path=str(path), line=number or None
        ) from error


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _broken(f"is no JSON ({type(error).__name__})", path, number) from None
    if not isinstance(row, dict) or not isinstance(row.get("model", ""), str):
        raise _broken("is no JSON object with a 'model'", path, number)
    return row


def _checked(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """A row that can be replayed: found out here, where the line is known, not in the middle of a call."""
    if missing := [name for name in ("model", "prompt") if row.get(name) is None]:
        raise _broken(f"lacks {missing[0]!r}", path, number)
    if row.get("response") is None and row.get("error") is None:
        raise _broken("has neither 'response' nor 'error'", path, number)
    try:
        to_messages(row["prompt"], row.get("system"))
    except ValueError as problem:
        raise _broken(f"has a 'prompt' that {problem}", path, number) from None
    error, logprob = row.get("error"), row.get("logprob")
    shapes = [
        ("system", isinstance(row.get("system"), str | None)),
        ("response", isinstance(row.get("response"), str | None)),
        ("served", isinstance(row.get("served"), str | None)),
        ("error", isinstance(error, str | None) or (isinstance(error, dict) and _is_error(error))),
        ("logprob", logprob is None or (isinstance(logprob, dict) and _are_logprobs(logprob))),
        *((name, row.get(name) is None or _is_amount(row[name])) for name in _NUMBERS),
    ]
    if wrong := [name for name, right in shapes if not right]:
        raise _broken(f"has a {wrong[0]!r} that cannot be used", path, number)
    return row


def _broken(problem: str, path: Path, number: int) -> RecordingError:
    return RecordingError(f"{path}:{number}: this line {problem}; mend or delete it", path=str(path), line=number)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value >= 0


def _is_error(error: Mapping[str, Any]) -> bool:
    retry_after_s = error.get("retry_after_s")
    return (
        isinstance(error.get("fault"), str | None)
        and isinstance(error.get("status"), int | None)
        and (retry_after_s is None or _is_amount(retry_after_s))
    )


def _are_logprobs(recorded: Mapping[str, Any]) -> bool:
    tokens, raw = recorded.get("tok"), recorded.get("raw")
    return (tokens is None or (isinstance(tokens, list) and all(map(_is_number, tokens)))) and (
        raw is None or _is_number(raw)
    )


def _key(model: str, messages: Iterable[Message]) -> Key:
    return (model, *map(_message_key, messages))


def _message_key(message: Message) -> str | tuple[str, str]:
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return (message["role"], content)
    return json.dumps(dict(message), sort_keys=True, default=str)


def outcome_of(row: Mapping[str, Any]) -> Outcome:
    """What a row of a recording says came back."""
    if row.get("error") is not None:
        return _failure(row["error"])
    usage = None
    if row.get("input_tokens") is not None and row.get("output_tokens") is not None:
        usage = Usage(input_tokens=int(row["input_tokens"]), output_tokens=int(row["output_tokens"]))
    cost, latency = row.get("cost_usd"), row.get("latency_s")
    finish: Any = row.get("finish_reason") or "stop"
    return Reply(
        text=row["response"],
        usage=usage,
        finish_reason=finish if finish in get_args(FinishReason) else "unknown",
        model_served=row.get("served") or row["model"],
        logprobs=_logprobs(row.get("logprob")),
        reported_cost_nusd=None if cost is None else round(Decimal(repr(cost)) * NUSD_PER_USD),
        latency_ms=None if latency is None else latency * 1000,
        response=row,
    )


def _failure(error: Mapping[str, Any] | str) -> Failure:
    """A recorded error; one that names no fault of ours is the server's."""
    fields: Mapping[str, Any] = {"fault": error} if isinstance(error, str) else error
    name = fields.get("fault")
    fault = Fault(name) if name in set(Fault) else Fault.SERVER_ERROR
    return Failure(fault, status=fields.get("status"), retry_after_s=fields.get("retry_after_s"), detail="recorded")


def _logprobs(recorded: Mapping[str, Any] | None) -> tuple[float, ...] | None:
    if not recorded:
        return None
    tokens = recorded.get("tok")
    if tokens is None:
        tokens = [recorded["raw"]] if recorded.get("raw") is not None else []
    return tuple(-math.inf if value <= _MINUS_INFINITY else float(value) for value in tokens) or None
