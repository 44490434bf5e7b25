"""Scripted models, no network, captured events and a simulated world: for tests of code that calls `router`.

>>> from router import Router
>>> from router.testing import ScriptedModels
>>> models = ScriptedModels({"luna": "billing"})
>>> router = Router("policies", backend=models)  # doctest: +SKIP
>>> router.route("classify-ticket", "I was charged twice").text  # doctest: +SKIP
'billing'
>>> [call.name for call in models.history]
[]
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from router import events
from router.core.call import (
    Call,
    Chunk,
    Failure,
    Outcome,
    Reply,
    ToolCall,
    Usage,
    input_tokens_estimate,
    output_tokens_estimate,
)
from router.core.faults import Fault
from router.core.policy import Model, Policy, Price, Task
from router.errors import InvalidCall, PolicyError, RouterError, shown
from router.models import Facts, whole_chunk
from router.models import litellm as _litellm_door
from router.spec import adopt
from router.world import AppendFile, Clock, SimulatedClock, SystemClock, World

__all__ = [
    "Call",
    "Failure",
    "Fault",
    "Reply",
    "Script",
    "ScriptExhausted",
    "Scripted",
    "ScriptedModels",
    "SimulatedClock",
    "SimulatedDisk",
    "SimulatedWorld",
    "ToolCall",
    "Usage",
    "capture",
    "no_network",
    "reply",
]

Scripted = str | Reply | Failure | Exception
Script = Scripted | Sequence[Scripted] | Callable[[Call], Scripted]


class ScriptExhausted(RouterError):
    """A scripted model was asked more often than its script has replies."""

    model: str


class ScriptedModels:
    """A backend whose models say what they are told, and that remembers what they were asked.

    Parameters
    ----------
    scripts
        By the model's name in the policy: one reply for every request, a list with one for each, or a function of the
        `Call`. A reply is text, a `Reply`, a `Failure`, or an exception to raise.
    latency_s
        How long each model takes, by name; a request that takes longer than its time limit fails as a timeout.
    clock
        Where latencies pass; give a `SimulatedWorld`'s clock for tests that take no time.
    facts
        Prices and limits by litellm name, for policies that name none.
    price
        What every other model costs where the policy names no price: cost limits refuse a model without one.

    Raises
    ------
    PolicyError
        The price is none that a policy could have.
    """

    def __init__(
        self,
        scripts: Mapping[str, Script],
        *,
        latency_s: Mapping[str, float] | None = None,
        clock: Clock | None = None,
        facts: Mapping[str, Facts] | None = None,
        price: Price | None = None,
    ) -> None:
        self._scripts = {name: _said(name, script) for name, script in scripts.items()}
        self._latency_s = dict(latency_s or {})
        self._clock = clock or SystemClock()
        self._facts = dict(facts or {})
        self._usual = Facts(price and _checked(price), price_source="script" if price else "")
        self.history: list[Call] = []
        """Every request, in the order in which they came."""

    def facts(self, model: Model) -> Facts:
        return self._facts.get(model.litellm, self._usual)

    def count_tokens(self, call: Call) -> int:
        return input_tokens_estimate(call.messages)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        latency_s = self._latency_s.get(call.name, 0.0)
        if timeout_s is not None and latency_s > timeout_s:
            self._clock.sleep(timeout_s)
            self.history.append(call)
            return Failure(Fault.TIMEOUT)
        if latency_s:
            self._clock.sleep(latency_s)
        return self._next(call)

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        latency_s = self._latency_s.get(call.name, 0.0)
        if timeout_s is not None and latency_s > timeout_s:
            await self._clock.asleep(timeout_s)
            self.history.append(call)
            return Failure(Fault.TIMEOUT)
        if latency_s:
            await self._clock.asleep(latency_s)
        return self._next(call)

    def stream(self, call: Call, timeout_s: float | None) -> Iterator[Chunk | Outcome]:
        """The reply word by word; a `Failure` with `partial` breaks off after that text."""
        yield from _in_words(self.send(call, timeout_s))

    async def astream(self, call: Call, timeout_s: float | None) -> AsyncIterator[Chunk | Outcome]:
        """The same without blocking."""
        for part in _in_words(await self.asend(call, timeout_s)):
            await asyncio.sleep(0)
            yield part

    def _next(self, call: Call) -> Outcome:
        self.history.append(call)
        if call.name not in self._scripts:
            raise ScriptExhausted(
                f"no script for model {call.name!r}; there is {', '.join(self._scripts) or 'none'}", model=call.name
            )
        said = self._scripts[call.name](call)
        if said is None:
            raise ScriptExhausted(f"the script of model {call.name!r} has no reply left; add one", model=call.name)
        if isinstance(said, Exception):
            raise said
        if not isinstance(said, str | Reply | Failure):
            raise _no_script(call.name, said)
        return reply(said, call) if isinstance(said, str) else said


def _checked(price: Price) -> Price:
    """A price as a policy would read it."""
    if not isinstance(price, Price):
        raise PolicyError(f"is {shown(price)}; give a `Price`, such as Price(request_usd=0.01)", where="price")
    one = Policy(1, {"price": Model("scripted", price=price)}, {"price": Task(("price",))})
    return adopt(one).policy.models["price"].price


def _in_words(outcome: Outcome) -> Iterator[Chunk | Outcome]:
    text = outcome.text if isinstance(outcome, Reply) else outcome.partial
    for word in re.findall(r"\s*\S+|\s+$", text):
        yield Chunk(word)
    if isinstance(outcome, Reply) and outcome.tool_calls:
        yield whole_chunk("", outcome.tool_calls)
    yield outcome


def _said(name: str, script: Script) -> Callable[[Call], Scripted | None]:
    """A script of any form as a function of the call; `None` when it has run out."""
    if isinstance(script, str | Reply | Failure | Exception):
        return lambda _: script
    if callable(script):
        return script
    if not isinstance(script, Iterable) or isinstance(script, bytes | Mapping):
        raise _no_script(name, script)
    replies = iter(script)
    return lambda _: next(replies, None)


def _no_script(name: str, said: object) -> InvalidCall:
    return InvalidCall(
        f"scripts: model {name!r} cannot say {said!r:.60}, which is of type {type(said).__name__}; give text, a Reply, "
        "a Failure or an exception, a list of them, or a function of the call",
        argument="scripts",
    )


def reply(text: str, call: Call) -> Reply:
    """A plain reply to a call, with about the usage that a provider would report."""
    usage = Usage(input_tokens=input_tokens_estimate(call.messages), output_tokens=output_tokens_estimate(text))
    return Reply(text, usage, model_served=call.model.litellm)


@contextmanager
def no_network() -> Iterator[None]:
    """Within this block asking a real model raises `NetworkForbidden`, before anything is sent."""
    before = _litellm_door.network_forbidden
    _litellm_door.network_forbidden = True
    try:
        yield
    finally:
        _litellm_door.network_forbidden = before


@contextmanager
def capture() -> Iterator[list[events.Event]]:
    """The events of every router in this process, as they come: one `route` for each call."""
    captured: list[events.Event] = []
    events.listeners = (*events.listeners, captured.append)
    try:
        yield captured
    finally:
        events.listeners = tuple(one for one in events.listeners if one != captured.append)


@dataclass(slots=True)
class SimulatedDisk:
    """A disk in memory that can be full or broken."""

    files: dict[Path, bytearray] = field(default_factory=dict)
    free_bytes: int | None = None
    """Bytes until the disk is full; a row that does not fit is cut short, as a real disk does."""
    error: OSError | None = None
    """Raised by every operation while it is set."""

    def append(self, path: Path) -> AppendFile:
        if self.error:
            raise self.error
        return _SimulatedFile(self, self.files.setdefault(path, bytearray()))


class _SimulatedFile:
    def __init__(self, disk: SimulatedDisk, content: bytearray) -> None:
        self._disk = disk
        self._content = content

    def write(self, data: bytes) -> int:
        disk = self._disk
        if disk.error:
            raise disk.error
        fits = len(data) if disk.free_bytes is None else min(len(data), disk.free_bytes)
        if disk.free_bytes is not None:
            disk.free_bytes -= fits
        self._content += data[:fits]
        return fits

    def sync(self) -> None:
        pass

    def size(self) -> int | None:
        return len(self._content)

    def close(self) -> None:
        pass


class SimulatedWorld(World):
    """A world made from a seed: the same seed and the same calls give the same ids, pauses and ledger bytes."""

    clock: SimulatedClock
    disk: SimulatedDisk

    def __init__(self, seed: int = 0) -> None:
        # A secret of its own: one that a seed gives away must never get into a real ledger's folder.
        super().__init__(SimulatedClock(), random.Random(seed), SimulatedDisk(), f"simulated {seed}".encode())
