"""What happened and what it cost: `Attempt` for one request, `Step` for one rung, `Answer` for the whole call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from router.core.call import FinishReason, ToolCall, Usage
from router.core.faults import Fault
from router.core.pricing import Amount, total, usd

Action = Literal["accept", "next", "escalate", "keep", "skip", "fail", "repeat"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to one model."""

    attempt_id: str
    rung: int
    model: str
    """The model's name in the policy."""
    number: int
    """1 for the first request to this rung, 2 for its first retry."""
    model_asked: str
    model_served: str | None
    fault: Fault | None
    status: int | None
    """HTTP status of a failure, where there was one."""
    usage: Usage | None
    usage_source: Literal["provider", "estimated", "none"]
    amount: Amount
    latency_ms: float
    first_token_ms: float | None = None
    """From sending to the first part of a live answer; `None` for an answer that came whole."""
    detail: str = ""
    """What went wrong, in our own words."""
    service_tier: str = ""
    """The tier that the provider served it in, where that is not its usual one."""
    price_source: str | None = None
    """Which price was used: `policy`, the price map by its version, both, or `provider` for its own figure."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one rung contributed to a call, and why the call stayed or climbed."""

    rung: int
    model: str
    action: Action
    """`accept` this draft, ask the `next` of the panel, `escalate` past it, `keep` it because nothing better came,
    `skip` or `fail` the rung.

    `repeat` gives the answer of an earlier call again."""
    reason: str
    confidence: float | None = None
    confidence_source: str | None = None
    threshold: float | None = None
    """What the confidence was compared with; `None` on the last rung."""
    cost_nusd: int | None = 0
    """All attempts of this rung; `None` when a price is unknown."""
    attempts: int = 0
    signals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of the smallest competent model, why it is this one, and what it cost. `str(answer)` is its text."""

    text: str
    parsed: Any
    """The value found in the text: the label, number, JSON or matched text; `None` when the text is not usable."""
    model: str
    """Name in the policy of the model that answered."""
    rung: int
    """Position of that model in the ladder, 0 for the cheapest."""
    confidence: float
    """Probability that the answer is right, 0 to 1."""
    confidence_source: str
    """Where the confidence comes from: `prior` is a guess that no data stands behind."""
    escalated: bool
    """Whether a rung above the first that the plan asks was asked."""
    task: str
    route_id: str
    steps: tuple[Step, ...]
    attempts: tuple[Attempt, ...]
    finish_reason: FinishReason
    usage: Usage | None
    """Tokens of the request that gave the answer; `attempts` has those of the others."""
    cost_nusd: int | None
    cost_upper_nusd: int | None
    marginal_cost_nusd: int | None
    baseline_cost_nusd: int | None
    baseline_source: Literal["known", "estimated", "unknown"]
    latency_ms: float
    tool_calls: tuple[ToolCall, ...] = ()
    """Tools that the model wants to be run; give each result back in a message with the call's `id`."""
    repeat_of: str | None = None
    """The call whose answer this is, where an idempotency key was used again."""
    baseline_estimate_nusd: int | None = None
    """Where the baseline is known: what the draft below the top let expect, to tell how good such estimates are."""
    extras: Mapping[str, Any] = field(default_factory=dict, repr=False)
    response: Any = field(default=None, repr=False)
    """The object that litellm returned."""

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from router.core.html import answer_html

        return answer_html(self)

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a chat message, to append to a conversation."""
        if not self.tool_calls:
            return {"role": "assistant", "content": self.text}
        calls = [call.part for call in self.tool_calls]
        return {"role": "assistant", "content": self.text or None, "tool_calls": calls, **self.extras}

    @property
    def reason(self) -> str:
        """Why the call ended where it did: the reason of its last step."""
        return self.steps[-1].reason

    @property
    def cost_usd(self) -> float | None:
        """What the call cost, all rungs and retries included; `None` when a price is unknown."""
        return usd(self.cost_nusd)

    @property
    def cost_upper_usd(self) -> float | None:
        """The most the call can have cost, with every request counted that may have been billed."""
        return usd(self.cost_upper_nusd)

    @property
    def marginal_cost_usd(self) -> float | None:
        """What climbing added: the cost of everything after the first rung that was asked."""
        return usd(self.marginal_cost_nusd)

    @property
    def baseline_cost_usd(self) -> float | None:
        """What the top rung alone would have cost; `baseline_source` says how it is known."""
        return usd(self.baseline_cost_nusd)


class Costs(NamedTuple):
    """What the attempts of one call cost, in nano-US-dollars; `None` where a price is unknown."""

    nusd: int | None
    upper_nusd: int | None
    marginal_nusd: int | None
    """Everything after the first rung that was asked."""


def costs(attempts: Sequence[Attempt]) -> Costs:
    """Add up the attempts of one call."""
    if len(attempts) == 1:
        amount = attempts[0].amount
        return Costs(amount.nusd, amount.upper_nusd, 0)
    first = attempts[0].rung if attempts else 0
    return Costs(
        total([attempt.amount.nusd for attempt in attempts]),
        total([attempt.amount.upper_nusd for attempt in attempts]),
        total([attempt.amount.nusd for attempt in attempts if attempt.rung != first]),
    )


def climbed(attempts: Sequence[Attempt], first_rung: int) -> bool:
    """Whether a rung above the first that the plan asks was asked, by a request that left."""
    return any(attempt.rung > first_rung and not never_left(attempt.fault, attempt.status) for attempt in attempts)


def never_left(fault: str | None, status: int | None) -> bool:
    """Whether a request failed here, before anything was sent: a key that is missing is no answer of a provider."""
    return fault == Fault.NOT_SENT or (fault == Fault.AUTH and status is None)
