"""The words of the flow: what a call asks for, what the flow yields, and what it is sent back.

yielded            sent back
Ask                Asked        one rung, with all its retries; live where its parts go to the caller as they come
Do(CountTokens)    int          an exact count, only where an estimate could change the decision
Do(ReadClock)      float        seconds since the call began, before another rung is asked
Do(Reserve)        Refusal      or None where every budget has room, or the error that says why nobody can tell
Wait               None         for something that happens elsewhere, such as the same call in another process
Do(Finish)         None         the last effect of every call, answered or not
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from router.core.answer import Answer, Attempt, Step
from router.core.call import Call, Message, Outcome, text_of
from router.core.pricing import Rates
from router.core.structured import Shape
from router.core.tools import Tools
from router.core.views import View
from router.errors import RouterError


@dataclass(frozen=True, slots=True)
class Request:
    """What one call of `route` asks for."""

    route_id: str
    messages: tuple[Message, ...]
    input_chars: int
    params: Mapping[str, Any] = field(default_factory=dict)
    max_output_tokens: int | None = None
    deadline_s: float | None = None
    max_cost_nusd: int | None = None
    stream: bool = False
    """Whether the caller wants the answer of the last rung as it comes."""
    tools: Tools | None = None
    shape: Shape | None = None
    """The structured output that the answer must be; takes the place of the task's answer kind."""
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The caller's own keys, by model or provider."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    group: str | None = None
    """The value of the metadata key that the task's `group:` names."""
    _prompt: View | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def prompt(self) -> View:
        """The messages as one text, read once for all rungs."""
        seen = self._prompt
        if seen is None:
            seen = View(text_of(self.messages))
            object.__setattr__(self, "_prompt", seen)
        return seen


Purpose = Literal["panel", "sample", "judge", "p_true", "stated"]


class Ask(NamedTuple):
    """Ask one model: at most `attempts` requests, each of which costs at most `upper_nusd`."""

    rung: int
    """Position in the ladder."""
    call: Call
    attempts: int
    rates: Rates
    upper_nusd: int | None
    live: bool = False
    place: int = 0
    """Position among all models of the plan, panels taken apart."""
    purpose: Purpose | None = None
    """What the request is for where it is no rung's first draft."""


class Asked(NamedTuple):
    """How asking a rung ended."""

    outcome: Outcome
    attempts: tuple[Attempt, ...]
    elapsed_s: float
    """Seconds since the call began."""
    shown: bool = False
    """Whether the caller has seen a part of the outcome: it can no longer be taken back."""


class CountTokens(NamedTuple):
    """Count the input tokens of a call exactly."""

    call: Call


class ReadClock(NamedTuple):
    """Tell how long the call has taken, in seconds."""


class Reserve(NamedTuple):
    """Take room in every budget of the call before a rung is asked; its retries take theirs under `Ask`."""

    upper_nusd: int | None
    escalates: bool
    """Whether it is the call's first request above the first rung."""


class Wait(NamedTuple):
    """Let some time pass."""

    seconds: float


class Finish(NamedTuple):
    """Write the call's row and event: it ended with an answer or with an error."""

    answer: Answer | None
    error: RouterError | None
    steps: tuple[Step, ...]
    attempts: tuple[Attempt, ...]
    first_rung: int = 0
    """Position of the first rung that the plan asks."""

    @property
    def outcome(self) -> str:
        """`answered`, the error's class, or `aborted` when the call was cancelled or something broke."""
        if self.answer is not None:
            return "answered"
        return type(self.error).__name__ if self.error else "aborted"


class Do(NamedTuple):
    """An operation beside asking."""

    operation: CountTokens | ReadClock | Reserve | Finish


Effect = Ask | Do | Wait
Flow = Generator[Effect, Any, Answer]
