"""Backends: one protocol for everything that can answer a call."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from router.core.call import Call, Outcome
from router.core.policy import Model, Price
from router.errors import InvalidCall


class Facts(NamedTuple):
    """What a backend knows of a model; `None` where it does not know."""

    price: Price | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None


class About(NamedTuple):
    """What people want to know of a model before they call it."""

    capabilities: tuple[str, ...]
    """What it can do, as far as the backend knows."""
    key: str
    """Whether its key is there: never the key itself."""


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


def checked_backend(backend: Backend | None) -> Backend | None:
    """The backend that a caller gave, unless it is something else, such as the scripts of one."""
    if backend is None or callable(getattr(backend, "send", None)):
        return backend
    raise InvalidCall(
        f"backend: is of type {type(backend).__name__}; give one with `send` and `asend`, such as "
        "router.testing.ScriptedModels({...}) or router.models.replay.Replay.load(path)",
        argument="backend",
    )


__all__ = ["About", "Backend", "Facts", "checked_backend"]
