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
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from router.core.call import Call, Failure, Message, Outcome, Reply, Usage, input_tokens_estimate
from router.core.faults import Fault
from router.core.policy import Model
from router.core.pricing import NUSD_PER_USD
from router.errors import RecordingError, ReplayMiss
from router.models import Facts

Key = tuple[str, str, str]

# Recordings write -1e9 for a log-probability of minus infinity.
_MINUS_INFINITY = -1e8


class Replay:
    """A backend that answers from recorded rows."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], *, name: str = "recording") -> None:
        self._name = name
        self._rows: dict[Key, list[Mapping[str, Any]]] = {}
        for row in rows:
            self._rows.setdefault(_row_key(row), []).append(row)
        self._served: dict[Key, int] = {}
        # Guards the count of served duplicates when several threads ask.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path, *, models: Collection[str] | None = None, task: str | None = None) -> Replay:
        """Read a recording; `models` and `task` keep only the rows that are needed.

        Raises
        ------
        RecordingError
            A line is broken or lacks a column; names the line. Nothing is skipped silently.
        """
        rows = (
            row
            for row in read_recording(path)
            if (models is None or row["model"] in models) and (task is None or row.get("task") == task)
        )
        return cls(rows, name=str(path))

    def facts(self, model: Model) -> Facts:
        """Nothing: recorded rows carry their own cost."""
        return Facts()

    def count_tokens(self, call: Call) -> int:
        """The recorded count, else an estimate."""
        rows = self._rows.get(_call_key(call))
        recorded = rows[0].get("input_tokens") if rows else None
        return int(recorded) if recorded is not None else input_tokens_estimate(call.messages)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        """The next recorded outcome of this request; at once, whatever the recorded latency.

        Raises
        ------
        ReplayMiss
            The recording holds no row for the model and the prompt.
        """
        key = _call_key(call)
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
        return _outcome(rows[min(index, len(rows) - 1)])

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        return self.send(call, timeout_s)


def read_recording(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a recording, in order.

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
                if line.strip():
                    yield _parse(line, path, number)
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecordingError(
            f"{path}: cannot be read after line {number}: {reason}", path=str(path), line=number or None
        ) from error


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        problem = f"is no JSON ({error.__class__.__name__})"
    else:
        if not isinstance(row, dict):
            problem = "is no JSON object"
        elif missing := [name for name in ("model", "prompt") if name not in row]:
            problem = f"lacks {missing[0]!r}"
        elif row.get("response") is None and row.get("error") is None:
            problem = "has neither 'response' nor 'error'"
        else:
            return row
    raise RecordingError(
        f"{path}:{number}: this line {problem}; mend or delete it", path=str(path), line=number
    ) from None


def _row_key(row: Mapping[str, Any]) -> Key:
    return (row["model"], row.get("system") or "", _canonical(row["prompt"]))


def _call_key(call: Call) -> Key:
    messages = call.messages
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    return (call.model.litellm, system, _canonical(messages[1:] if system else messages))


def _canonical(prompt: str | Iterable[Message]) -> str:
    """One user message is its text; a longer conversation is its JSON."""
    if isinstance(prompt, str):
        return prompt
    messages = list(prompt)
    if len(messages) == 1 and messages[0].get("role") == "user" and isinstance(messages[0].get("content"), str):
        return str(messages[0]["content"])
    return json.dumps(messages, sort_keys=True)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    if row.get("error") is not None:
        return _failure(row["error"])
    usage = None
    if row.get("input_tokens") is not None and row.get("output_tokens") is not None:
        usage = Usage(input_tokens=int(row["input_tokens"]), output_tokens=int(row["output_tokens"]))
    cost, latency = row.get("cost_usd"), row.get("latency_s")
    return Reply(
        text=str(row["response"]),
        usage=usage,
        finish_reason=row.get("finish_reason") or "stop",
        model_served=row["model"],
        logprobs=_logprobs(row.get("logprob")),
        reported_cost_nusd=None if cost is None else round(float(cost) * NUSD_PER_USD),
        latency_ms=None if latency is None else float(latency) * 1000,
        response=row,
    )


def _failure(error: Mapping[str, Any] | str) -> Failure:
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
