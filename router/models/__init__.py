"""Backends: one protocol for everything that can answer a call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import NamedTuple, Protocol

from router.core.call import Call, Chunk, Outcome, Reply, ToolCall
from router.core.policy import Model, Price
from router.errors import InvalidCall


class Facts(NamedTuple):
    """What a backend knows of a model; `None` where it does not know."""

    price: Price | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] | None = None
    """What it can do, by the words of `capabilities:` in a policy."""
    image_tokens: int | None = None
    """What one image counts for at the most."""
    price_source: str = ""
    """Name and version of the list that the price is from."""


class About(NamedTuple):
    """What people want to know of a model before they call it."""

    capabilities: tuple[str, ...]
    """What it can do, as far as the backend knows."""
    key: str
    """Whether its key is there: never the key itself."""
    callable: bool = True
    """Whether anybody can tell whom to ask for it."""


class Backend(Protocol):
    """Sends one request at a time and retries nothing: whatever goes wrong comes back as a `Failure`."""

    def facts(self, model: Model) -> Facts:
        """Price and limits of a model; asked once for each model of a policy."""
        ...

    def count_tokens(self, call: Call) -> int:
        """The input tokens of a call, as exactly as the backend can count them."""
        ...

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        """Send one request and wait for its answer, at most `timeout_s`."""
        ...

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        """The same without blocking; the caller also enforces `timeout_s` by cancelling."""
        ...


class Streams(Protocol):
    """What a backend has, too, that can give an answer while it comes.

    Both yield any number of `Chunk`s, none of them empty, and then one `Outcome`, the whole reply or what went wrong.
    """

    def stream(self, call: Call, timeout_s: float | None) -> Iterator[Chunk | Outcome]:
        """Send one request; a silence of more than `timeout_s` is a failure."""
        ...

    def astream(self, call: Call, timeout_s: float | None) -> AsyncIterator[Chunk | Outcome]:
        """The same without blocking."""
        ...


def parts(backend: Backend, call: Call, timeout_s: float | None) -> Generator[Chunk | Outcome, None, None]:
    """The answer of any backend in parts; one part where it cannot stream."""
    stream = getattr(backend, "stream", None)  # A look at the protocol of `Streams` takes 4 µs.
    if callable(stream):
        yield from stream(call, timeout_s)
    else:
        yield from _whole(backend.send(call, timeout_s))


async def aparts(backend: Backend, call: Call, timeout_s: float | None) -> AsyncGenerator[Chunk | Outcome, None]:
    """The same without blocking."""
    astream = getattr(backend, "astream", None)
    if callable(astream):
        coming = astream(call, timeout_s)
        try:
            async for part in coming:
                yield part
        finally:  # A generator that is left early would otherwise end only when it is collected.
            if isinstance(coming, AsyncGenerator):
                await coming.aclose()
    else:
        for part in _whole(await backend.asend(call, timeout_s)):
            yield part


def _whole(outcome: Outcome) -> Iterator[Chunk | Outcome]:
    if isinstance(outcome, Reply):
        yield whole_chunk(outcome.text, outcome.tool_calls)
    elif outcome.partial:
        yield Chunk(outcome.partial)
    yield outcome


def origin(backend: Backend) -> str:
    """Where the calls of a backend come from, as the ledger marks them: `production` unless it says otherwise."""
    return str(getattr(backend, "origin", "production"))


def whole_chunk(text: str, tool_calls: tuple[ToolCall, ...]) -> Chunk:
    """A whole answer as one part."""
    return Chunk(text, tool_calls=tuple({"index": index, **call.part} for index, call in enumerate(tool_calls)))


def checked_backend(backend: Backend | None) -> Backend | None:
    """The backend that a caller gave, unless it is something else, such as the scripts of one."""
    if backend is None or callable(getattr(backend, "send", None)):
        return backend
    raise InvalidCall(
        f"backend: is of type {type(backend).__name__}; give one with `send` and `asend`, such as "
        "router.testing.ScriptedModels({...}) or router.models.replay.Replay.load(path)",
        argument="backend",
    )


__all__ = ["About", "Backend", "Facts", "Streams", "aparts", "checked_backend", "origin", "parts", "whole_chunk"]
