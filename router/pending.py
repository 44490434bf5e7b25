"""A request that has left, its live answer as far as it has come, and the record of how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from router.core.answer import Attempt
from router.core.call import (
    BYTES_PER_TOKEN,
    Chunk,
    Failure,
    Outcome,
    Reply,
    Usage,
    byte_length,
    input_tokens_estimate,
)
from router.core.effects import Ask
from router.core.faults import Fault
from router.core.pricing import Rates, settle, used_source
from router.core.tools import Marks
from router.core.usual import Usual
from router.errors import RouterError
from router.state import Hold


@dataclass(slots=True)
class Pending:
    """A request that has left."""

    ask: Ask
    attempt_id: str
    number: int
    started_s: float
    rates: Rates
    """In force when it left."""
    first_token_s: float | None = None
    hold: Hold | None = None
    come_bytes: int = 0
    """Of a live answer: text, reasoning and tool calls together."""


@dataclass(slots=True)
class Live:
    """A live answer of which at least one part has come."""

    pending: Pending
    first: Chunk
    parts: Any
    """The generator of the parts that follow, and of the outcome."""
    before: int
    marks: Marks
    texts: list[str] = field(default_factory=list)
    """What the caller has been told so far."""

    def told(self, chunk: Chunk) -> Chunk:
        """A part as the caller sees it."""
        self.texts.append(chunk.text)
        self.pending.come_bytes += byte_length(chunk.text) + byte_length(chunk.reasoning)
        if not chunk.tool_calls:
            return chunk
        for part in chunk.tool_calls:
            self.pending.come_bytes += sum(byte_length(said or "") for said in part["function"].values())
        return replace(chunk, tool_calls=self.marks.parts(chunk.tool_calls))

    def broken(self, outcome: Outcome) -> Outcome:
        """How it ended; where it broke off, with what had come."""
        return replace(outcome, partial="".join(self.texts)) if isinstance(outcome, Failure) else outcome


def interrupted(error: BaseException) -> Failure:
    """What a request came to that an exception took the place of."""
    if isinstance(error, RouterError):  # Our own backends raise one before they send, never after.
        return Failure(Fault.NOT_SENT)
    return Failure(Fault.CRASHED if isinstance(error, Exception) else Fault.CANCELLED)


def attempt_of(pending: Pending, outcome: Outcome, seconds: float, usual: Usual) -> Attempt:
    """The record of a request."""
    ask, rates = pending.ask, pending.rates
    if isinstance(outcome, Reply) and outcome.latency_ms is not None:
        seconds = outcome.latency_ms / 1000
    failure = outcome if isinstance(outcome, Failure) else None
    come_bytes = pending.come_bytes or _size_bytes(outcome)
    came = bool(come_bytes or not failure)
    # What the texts alone let expect: it stands in for a usage, and shows by how much such guesses are off.
    input_tokens = input_tokens_estimate(ask.call.messages, ask.call.params.get("tools"))
    output_tokens = -(-come_bytes // BYTES_PER_TOKEN) if came else usual.output_tokens
    guess = outcome.usage or Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    usage = guess if came else outcome.usage
    amount = settle(
        outcome,
        rates,
        upper_nusd=ask.upper_nusd,
        estimate=guess,
        seconds=seconds,
        usual=usual,
        began=came,
    )
    if failure is None and amount.state == "settled":
        usual.learn(output_tokens, rates.guess_nusd(input_tokens, output_tokens, seconds), amount.nusd)
    return Attempt(
        attempt_id=pending.attempt_id,
        rung=ask.rung,
        model=ask.call.name,
        number=pending.number,
        model_asked=ask.call.model.litellm,
        model_served=outcome.model_served,
        fault=failure.fault if failure else None,
        status=failure.status if failure else None,
        usage=usage,
        usage_source="none" if usage is None else "estimated" if outcome.usage is None else "provider",
        amount=amount,
        latency_ms=seconds * 1000,
        first_token_ms=None if pending.first_token_s is None else pending.first_token_s * 1000,
        detail=failure.detail if failure else "",
        service_tier=outcome.service_tier if isinstance(outcome, Reply) else "",
        price_source=used_source(amount, rates),
    )


def _size_bytes(outcome: Outcome) -> int:
    """Of what a model said, tool calls included."""
    if isinstance(outcome, Failure):
        return byte_length(outcome.partial)
    return byte_length(outcome.text) + sum(byte_length(call.name + call.arguments) for call in outcome.tool_calls)
