"""What litellm returns, as replies and faults: a success without choices, content or usage is recognised here."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from router.core.call import MOST_MARGIN, Failure, FinishReason, Outcome, Reply, ToolCall, Usage, byte_length
from router.core.faults import Fault
from router.core.pricing import NUSD_PER_USD, exact_product, tier_name

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}

# What a vendor wants back with its own turn in a tool loop.
_EXTRAS = ("thinking_blocks", "reasoning_content")

# Beyond these a provider's figure is a mistake: no context window and no price comes near.
_MOST_TOKENS = 10**10
_MOST_USD = 10**6
# A log-probability of minus infinity, as recordings write it.
_IMPOSSIBLE = -1e9
_NO_MODEL = object()


def field_of(holder: Any, name: str) -> Any:
    """What an object of litellm's says of this, or `None`.

    pydantic takes two microseconds to say that there is no such field, and a reply lacks a dozen of those it may have.
    """
    own = getattr(holder, "__dict__", {})
    if name in own:
        return own[name]
    kind: Any = type(holder)
    extra: Any = getattr(holder, "__pydantic_extra__", _NO_MODEL)
    if extra is _NO_MODEL or _is_of_class(kind, name):
        return getattr(holder, name, None)
    return extra.get(name) if extra else None


@functools.lru_cache(maxsize=1024)
def _is_of_class(kind: Any, name: str) -> bool:
    """Whether a class has this, as it has its properties, where its objects may not."""
    return hasattr(kind, name)


def read_reply(response: Any) -> Outcome:
    """The reply of a response, or the fault that it is."""
    reported = field_of(response, "usage")
    usage, cost = read_usage(reported), reported_cost_nusd(reported)
    served = field_of(response, "model")

    def unusable(fault: Fault, detail: str) -> Failure:
        return Failure(fault, usage=usage, detail=detail, model_served=served, reported_cost_nusd=cost)

    choices = field_of(response, "choices")
    if not choices:
        return unusable(Fault.EMPTY, "the reply has no choices")
    choice = choices[0]
    calls = _tool_calls(choice.message)
    if (choice.message.content or calls) and usage is not None and usage.all_output_tokens == 0:
        usage = None  # An answer without output tokens: half of the usage is missing.
    finish = finish_reason(choice.finish_reason)
    content = choice.message.content
    if finish == "content_filter":
        return unusable(Fault.CONTENT_FILTER, "the reply was filtered")
    if not content and not calls and finish != "length":
        return unusable(Fault.EMPTY, "the reply has no content")
    return Reply(
        text=content or "",
        usage=usage,
        finish_reason=finish,
        model_served=served,
        **read_tokens(tokens_of(choice)),
        reported_cost_nusd=cost,
        service_tier=served_tier(reported, response),
        tool_calls=calls,
        extras=extras_of(choice.message) if calls else {},
        response=response,
    )


def extras_of(message: Any) -> dict[str, Any]:
    """What the vendor wants back with its own turn in a tool loop."""
    return {name: value for name in _EXTRAS if (value := field_of(message, name))}


def finish_reason(said: str | None) -> FinishReason:
    """Why the model stopped."""
    return _FINISH.get(said or "stop", "unknown")


def _tool_calls(message: Any) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(call.id or "", call.function.name or "", call.function.arguments or "")
        for call in field_of(message, "tool_calls") or ()
    )


def read_usage(reported: Any) -> Usage | None:
    """The provider's counts in disjoint buckets; `None` when it reported none, or counts that cannot be.

    litellm includes cache reads and writes in `prompt_tokens`, and reasoning in `completion_tokens`, for every
    provider; it reports zeros where there was no usage at all.
    """
    prompt, completion = _count(reported, "prompt_tokens"), _count(reported, "completion_tokens")
    total = _count(reported, "total_tokens")
    if prompt <= 0 or completion < 0 or (total and total != prompt + completion):
        return None
    inputs = field_of(reported, "prompt_tokens_details")
    read, written = _count(inputs, "cached_tokens"), _count(inputs, "cache_creation_tokens")
    written_1h = _count(field_of(inputs, "cache_creation_token_details"), "ephemeral_1h_input_tokens")
    outputs = field_of(reported, "completion_tokens_details")
    reasoning, spoken, drawn = (_count(outputs, f"{kind}_tokens") for kind in ("reasoning", "audio", "image"))
    # What of the sound came from the cache is not told; it counts as cached there.
    heard = min(_count(inputs, "audio_tokens"), prompt - read - written)
    plain, said = prompt - read - written - heard, completion - reasoning - spoken - drawn
    buckets = (plain, read, written - written_1h, written_1h, said, reasoning, heard, spoken, drawn)
    return Usage(*buckets) if min(buckets) >= 0 else None


def served_tier(usage: Any, *responses: Any) -> str:
    """The service tier that was served, where it is not the usual one, and what else Anthropic has a price for."""
    said = (tier_name(field_of(holder, "service_tier")) for holder in (*responses, usage))
    tier = next(filter(None, said), "")
    return tier_name(tier, field_of(usage, "speed"), field_of(usage, "inference_geo"))


def _count(holder: Any, name: str) -> int:
    """A count of tokens; 0 where there is none, and -1 where it is no number that a count can be."""
    value = field_of(holder, name)
    if value is None:
        return 0
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else -1


def reported_cost_nusd(usage: Any) -> int | None:
    """The provider's own figure of what the request cost."""
    cost = field_of(usage, "cost")
    if isinstance(cost, Mapping):  # Perplexity lists its parts beside the sum.
        cost = cost.get("total_cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost <= _MOST_USD:
        return None
    return round(exact_product(cost, NUSD_PER_USD))


def tokens_of(choice: Any) -> Sequence[Any]:
    """The tokens of a choice, or of a part of one, where log-probabilities were asked for."""
    return field_of(field_of(choice, "logprobs"), "content") or ()


def read_tokens(tokens: Sequence[Any]) -> dict[str, Any]:
    """What a reply keeps of its tokens: their log-probabilities, lengths and margins, as far as they are told."""
    if not tokens:
        return {}
    sizes, margins = [_size(token) for token in tokens], [_margin(token) for token in tokens]
    return {
        "logprobs": tuple(_part(token, "logprob") for token in tokens),
        "token_bytes": None if None in sizes else tuple(sizes),
        "margins": None if None in margins else tuple(margins),
    }


def _part(token: Any, name: str) -> Any:
    return token.get(name) if isinstance(token, Mapping) else getattr(token, name, None)


def _size(token: Any) -> int | None:
    """Length of a token in bytes; its text is not exact where it holds a part of a character only."""
    raw, text = _part(token, "bytes"), _part(token, "token")
    if isinstance(raw, Sized):
        return len(raw)
    return byte_length(text) if isinstance(text, str) else None


def _margin(token: Any) -> float | None:
    told = (_part(one, "logprob") for one in _part(token, "top_logprobs") or ())
    likely = sorted((max(lp, _IMPOSSIBLE) for lp in told if isinstance(lp, int | float) and lp <= 0), reverse=True)
    return min(MOST_MARGIN, float(likely[0] - likely[1])) if len(likely) > 1 else None
