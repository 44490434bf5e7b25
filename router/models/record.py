"""Recording: a backend that writes down what another one answers, in the columns that `Replay` reads.

Each process appends to a file of its own, one system call for a row and a gzip member for each row, so that what was
acknowledged survives kill -9. The first process writes the path that was named, every other a part beside it.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import math
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from router.core.call import Call, Chunk, Failure, Message, Outcome, Reply, Usage
from router.core.dated import own_price
from router.core.faults import Fault
from router.core.policy import Model
from router.core.pricing import Rates, merged, settle, usd
from router.errors import RecordingError, warn
from router.models import Backend, Facts, aparts, parts
from router.models.recording import logprob_column, part_path, parts_of, redacted
from router.world import World

Redact = Callable[[str], str]


class Recorder:
    """The files of one recording; safe to use from threads and forked children.

    Raises
    ------
    RecordingError
        The path is there already, unless `append` says to add a part to it, or it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        world: World,
        append: bool = False,
        redact: Redact | None = None,
        alarm: Callable[[str], None] | None = None,
    ) -> None:
        self._path = Path(path)
        self._world = world
        self._alarm = alarm
        self.redact = redact
        self._failed = False
        self._file: int | None = None
        # One row at a time; reentrant, because a signal handler may route, too.
        self._lock = threading.RLock()
        if not append and (os.path.lexists(self._path) or parts_of(self._path)):
            raise self._there()
        try:
            self._file = self._open(first=not append or not os.path.lexists(self._path))
        except FileExistsError:
            raise self._there() from None
        except OSError as error:
            raise self._error(f"cannot be written ({error.strerror}); choose another path") from error
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (method := forked()) and method())

    def of(self, backend: Backend, about: Mapping[str, Any]) -> Recording:
        """The backend, recorded as answering one call; `about` are the columns that say which."""
        return Recording(backend, self, about)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row. A disk that refuses it raises an alarm once and takes no answer away."""
        try:
            data = json.dumps(row, allow_nan=False, separators=(",", ":"), default=str).encode() + b"\n"
            if self._path.suffix == ".gz":
                data = gzip.compress(data, mtime=0)
            with self._lock:
                if self._file is None:
                    self._file = self._open(first=False)
                self._put(self._file, data)
        except (OSError, ValueError, RecursionError) as error:  # The disk, or a row that is no JSON.
            self._fail(error)

    def close(self) -> None:
        """Close the file; a later row begins a part."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _forked(self) -> None:
        self._lock = threading.RLock()
        self.close()

    def _open(self, *, first: bool) -> int:
        path = self._path if first else part_path(self._path, self._world.new_id())
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _put(self, file: int, data: bytes) -> None:
        written = os.write(file, data)
        if written < len(data):  # Half a row would make all that follow it unreadable.
            os.ftruncate(file, os.fstat(file).st_size - written)
            raise OSError("the disk took only a part of the row")

    def _fail(self, error: Exception) -> None:
        with self._lock:
            told, self._failed = self._failed, True
        if not told:
            problem = f"{self._path}: answers are not recorded ({getattr(error, 'strerror', None) or error})"
            if self._alarm:
                self._alarm(problem)
            warn(problem)

    def _there(self) -> RecordingError:
        return self._error("is there already; choose another path, or say record_append=True to add a part to it")

    def _error(self, problem: str) -> RecordingError:
        return RecordingError(f"{self._path}: {problem}", path=str(self._path), line=None)


_rates = functools.lru_cache(maxsize=256)(Rates)


class Recording:
    """A backend whose every outcome is written down: of a live answer the whole, with what had come where it broke."""

    def __init__(self, backend: Backend, recorder: Recorder, about: Mapping[str, Any]) -> None:
        self._backend = backend
        self._recorder = recorder
        self._about = about

    def facts(self, model: Model) -> Facts:
        return self._backend.facts(model)

    def count_tokens(self, call: Call) -> int:
        return self._backend.count_tokens(call)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        started_s = time.monotonic()
        return self._record(call, self._backend.send(call, timeout_s), started_s)

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        started_s = time.monotonic()
        with self._noting_time(call, timeout_s, started_s):
            return self._record(call, await self._backend.asend(call, timeout_s), started_s)

    def stream(self, call: Call, timeout_s: float | None) -> Iterator[Chunk | Outcome]:
        started_s, told = time.monotonic(), ""
        with closing(parts(self._backend, call, timeout_s)) as coming:
            for part in coming:
                if isinstance(part, Chunk):
                    told += _said(part)
                    yield part
                else:
                    yield self._record(call, part, started_s, told)

    async def astream(self, call: Call, timeout_s: float | None) -> AsyncIterator[Chunk | Outcome]:
        started_s, told = time.monotonic(), ""
        async with aclosing(aparts(self._backend, call, timeout_s)) as coming:
            while True:
                with self._noting_time(call, timeout_s, started_s, told):
                    part = await anext(coming)
                if not isinstance(part, Chunk):
                    yield self._record(call, part, started_s, told)
                    return
                told += _said(part)
                yield part

    @contextmanager
    def _noting_time(self, call: Call, timeout_s: float | None, started_s: float, told: str = "") -> Iterator[None]:
        """A call that waits without blocking is cancelled when its time is over; for a replay that is a timeout."""
        try:
            yield
        except asyncio.CancelledError:
            if timeout_s is not None and time.monotonic() - started_s >= timeout_s:
                self._record(call, Failure(Fault.TIMEOUT, detail="no answer in time"), started_s, told)
            raise

    def _record(self, call: Call, outcome: Outcome, started_s: float, told: str = "") -> Outcome:
        """Write an outcome down; returns it with the latency that is on record, so that a replay costs the same."""
        if isinstance(outcome, Reply):
            own_ms = outcome.latency_ms
            measured = own_ms is None or not math.isfinite(own_ms) or own_ms < 0
            seconds = time.monotonic() - started_s if measured else (own_ms or 0.0) / 1000
            outcome = replace(outcome, latency_ms=round(seconds, 6) * 1000)
        else:
            seconds = time.monotonic() - started_s
            outcome = replace(outcome, partial=told) if told else outcome
        rates = _rates(merged(own_price(call.model.price, time.time()), self._backend.facts(call.model).price))
        row = row_of(call, outcome, rates, self._about, self._recorder.redact)
        self._recorder.write({**row, "latency_s": round(seconds, 6)})
        return outcome


def row_of(
    call: Call, outcome: Outcome, rates: Rates, about: Mapping[str, Any], redact: Redact | None = None
) -> dict[str, Any]:
    """The row that replays an outcome."""
    messages: Any = call.messages
    if redact:
        messages, outcome = redacted(messages, redact), _redacted(outcome, redact)
    system, prompt = _split(messages)
    counted = asdict(outcome.usage) if outcome.usage else {}
    row = {
        **about,
        "model": call.model.litellm,
        "system": system,
        "prompt": prompt,
        **(_reply_columns(outcome, rates) if isinstance(outcome, Reply) else {"error": _error(outcome)}),
        **{name: count for name, count in counted.items() if count or name in ("input_tokens", "output_tokens")},
        "model_served": outcome.model_served,
    }
    return {name: value for name, value in row.items() if value is not None}


def _reply_columns(reply: Reply, rates: Rates) -> dict[str, Any]:
    seconds = (reply.latency_ms or 0.0) / 1000
    amount = settle(reply, rates, upper_nusd=None, estimate=Usage(), seconds=seconds)
    return {
        "response": reply.text,
        "tool_calls": [asdict(call) for call in reply.tool_calls] or None,
        "extras": dict(reply.extras) or None,
        "finish_reason": reply.finish_reason,
        # What is only estimated is estimated again.
        "cost_usd": usd(amount.nusd) if amount.state == "settled" else None,
        "latency_s": round(seconds, 6),
        "logprob": logprob_column(reply),
    }


def _error(failure: Any) -> dict[str, Any]:
    fields = {"fault": str(failure.fault), "status": failure.status, "retry_after_s": failure.retry_after_s}
    known = {name: value for name, value in fields.items() if value is not None}
    return {**known, "detail": failure.detail, **({"partial": failure.partial} if failure.partial else {})}


def _redacted(outcome: Outcome, redact: Redact) -> Outcome:
    """An outcome without what must not be written; the caller's own stays as it is."""
    if not isinstance(outcome, Reply):
        return replace(outcome, partial=redacted(outcome.partial, redact))
    calls = tuple(replace(call, arguments=redacted(call.arguments, redact)) for call in outcome.tool_calls)
    text, extras = redacted(outcome.text, redact), redacted(outcome.extras, redact)
    sizes = outcome.token_bytes if text == outcome.text else None  # Tokens of another text.
    return replace(outcome, text=text, tool_calls=calls, extras=extras, token_bytes=sizes)


def _split(messages: tuple[Message, ...]) -> tuple[str | None, Any]:
    """System text and prompt as a person would write them, where the messages come back from them exactly."""
    system, rest = None, list(messages)
    if len(rest) > 1 and _is_plain(rest[0], "system") and rest[1]["role"] not in ("system", "developer"):
        system = rest.pop(0)["content"]
    if len(rest) == 1 and _is_plain(rest[0], "user"):
        return system, rest[0]["content"]
    return system, [dict(message) for message in rest]


def _is_plain(message: Message, role: str) -> bool:
    """Whether a message is nothing but a role and some text."""
    return (
        len(message) == 2
        and message["role"] == role
        and bool(message.get("content"))
        and (isinstance(message["content"], str))
    )


def _said(chunk: Chunk) -> str:
    return chunk.text + "".join(part.get("function", {}).get("arguments") or "" for part in chunk.tool_calls)
