"""What a model is asked and what comes back: `Call`, `Reply`, `Failure`, as plain values."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import add, attrgetter
from typing import Any, Literal

from router.core.faults import Fault
from router.core.policy import Model

Message = Mapping[str, Any]

# Keys of a message that `input_tokens_bound` can count; others are rendered in unknown ways.
_COUNTED_KEYS = frozenset({"role", "content", "name", "tool_call_id", "cache_control", "tool_calls"})
_IMAGES = frozenset({"image_url", "image"})
# A chat template adds a few tokens around each message (role, separators); no known template adds more than this.
TEMPLATE_TOKENS = 16
# English text has about four bytes a token; only used for estimates, never for bounds.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Call:
    """One question to one model; every attempt of a rung sends the same one."""

    name: str
    """The model's name in the policy."""
    model: Model
    messages: tuple[Message, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    """Everything sent beside the messages: the policy's parameters and the caller's."""
    max_output_tokens: int | None = None
    api_key: str | None = field(default=None, repr=False)
    """The caller's own key, in place of the operator's."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The caller's own HTTP headers, over the model's."""

    @property
    def wants_tools(self) -> bool:
        """Whether tools are offered."""
        return bool(self.params.get("tools"))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool that a model wants to be run."""

    id: str
    """Goes back to the model with the tool's result."""
    name: str
    arguments: str
    """JSON text, as the model wrote it."""

    @property
    def parsed(self) -> Any:
        """The arguments as values; a `ValueError` where they are no JSON, which an accepted draft's never are."""
        return json.loads(self.arguments or "{}", parse_constant=_no_constant)

    @property
    def part(self) -> dict[str, Any]:
        """The call as a part of a chat message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer that is still coming; `str(chunk)` is its text."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Parts of tool calls, each with the `index` of its call, as chat-completion chunks have them."""
    response: Any = field(default=None, repr=False)
    """The backend's own chunk, untouched; `None` where a whole draft comes as one chunk."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request in disjoint buckets: their sum is what the provider counted."""

    input_tokens: int = 0
    """Text and images that were neither read from nor written to a prompt cache."""
    cached_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    """Output without reasoning, sound and images."""
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0

    @property
    def buckets(self) -> tuple[int, ...]:
        """All of them, in order."""
        return _buckets(self)

    @property
    def all_input_tokens(self) -> int:
        """Input of every kind."""
        cached = self.cached_read_tokens + self.cache_write_tokens + self.cache_write_1h_tokens
        return self.input_tokens + cached + self.input_audio_tokens

    @property
    def all_output_tokens(self) -> int:
        """Output of every kind."""
        return self.output_tokens + self.reasoning_tokens + self.output_audio_tokens + self.output_image_tokens

    @property
    def total_tokens(self) -> int:
        """Everything the provider counted."""
        return self.all_input_tokens + self.all_output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(add, self.buckets, other.buckets))


_buckets = attrgetter(*Usage.__slots__)


FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "unknown"]


# A margin beyond this is as certain as evidence gets: the next token has 2e-9 of the likeliest one's probability.
MOST_MARGIN = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer to one request."""

    text: str
    usage: Usage | None
    """`None` when the provider reported none: the cost is then an estimate and says so."""
    finish_reason: FinishReason = "stop"
    model_served: str | None = None
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each output token; `None` when there are none, -inf is possible."""
    token_bytes: tuple[int, ...] | None = None
    """Length of each of those tokens in bytes of UTF-8; `None` where the provider does not tell."""
    margins: tuple[float, ...] | None = None
    """How far the likeliest token's log-probability was above the next one's, 0 to `MOST_MARGIN`; `None` where that was
    not asked for."""
    reported_cost_nusd: int | None = None
    """What the provider itself says the request cost."""
    service_tier: str = ""
    """The tier that the provider served it in, where that is not its usual one."""
    latency_ms: float | None = None
    """Time the request took where the backend knows better than the clock (a recording)."""
    tool_calls: tuple[ToolCall, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the same model wants back with its turn in a tool loop: signed thinking and the like."""
    response: Any = None
    """The backend's own object, untouched."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a usable answer. It is a value: the flow decides what it means."""

    fault: Fault
    status: int | None = None
    retry_after_s: float | None = None
    usage: Usage | None = None
    """Tokens that the provider reported although the answer is unusable."""
    detail: str = ""
    """Our own words: never a prompt, a key or a provider's text."""
    provider_message: str = field(default="", repr=False)
    """The provider's words, for the error that a caller may catch; kept out of logs and representations."""
    model_served: str | None = None
    partial: str = field(default="", repr=False)
    """The text that arrived before it broke."""
    reported_cost_nusd: int | None = None
    """What the provider itself says the request cost, although its answer is unusable."""
    arrived: bool | None = None
    """Whether the request surely came to the provider, because a response began, or surely did not."""


Outcome = Reply | Failure


# More than anybody's bill; sums of such figures must stay within the 63 bits that a ledger and a budget have.
MOST_NUSD = 10**15


def plausible(outcome: Outcome) -> Outcome:
    """The outcome without figures that cannot be; they then count as not reported. A backend may be anybody's."""
    usage = outcome.usage
    counts = (0,) if usage is None else usage.buckets
    wrong: dict[str, Any] = {}
    if set(map(type, counts)) != {int} or min(counts) < 0:
        wrong["usage"] = None
    cost = outcome.reported_cost_nusd
    if cost is not None and (type(cost) is not int or not 0 <= cost <= MOST_NUSD):
        wrong["reported_cost_nusd"] = None
    seconds = "latency_ms" if isinstance(outcome, Reply) else "retry_after_s"
    value = getattr(outcome, seconds)
    if value is not None and not 0 <= value < math.inf:  # Neither holds for NaN.
        wrong[seconds] = None
    return replace(outcome, **wrong) if wrong else outcome


_EMPTY = "is empty; give some text"
_NOT_SENDABLE = "holds something that no provider takes, such as half of a surrogate pair; remove it"


def to_messages(prompt: str | Sequence[Message], system: str | None) -> tuple[Message, ...]:
    """The chat messages of a prompt, with the task's system text first unless the prompt brings its own.

    Raises
    ------
    ValueError
        The prompt is empty, or is no list of messages with a role.
    """
    messages = _of_text(prompt) if isinstance(prompt, str) else _of_chat(prompt)
    if system and messages[0]["role"] not in ("system", "developer"):
        return ({"role": "system", "content": system}, *messages)
    return messages


def _of_text(prompt: str) -> tuple[Message, ...]:
    if not prompt.isascii() and not is_json(prompt):
        raise ValueError(_NOT_SENDABLE)
    if not prompt.strip():
        raise ValueError(_EMPTY)
    return ({"role": "user", "content": prompt},)


def _of_chat(prompt: Any) -> tuple[Message, ...]:
    if not isinstance(prompt, list | tuple):
        raise ValueError(f"is a {type(prompt).__name__}; give text or a list of chat messages")
    messages = tuple(map(_as_message, prompt))
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"message {number} has no role; give {{'role': 'user', 'content': ...}}")
        calls = message.get("tool_calls") or ()
        if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
            raise ValueError(f"message {number} has tool_calls that are no list of calls; give those of the answer")
        if not _is_plain(message) and not is_json(dict(message)):
            raise ValueError(_NOT_SENDABLE)
    if not any(text.strip() for text in texts(messages)) and not has_media(messages):
        raise ValueError(_EMPTY)
    return tuple(own_messages(messages))


def _as_message(message: Any) -> Any:
    """A message as a mapping, although it and its tool calls may be objects of the OpenAI SDK or of litellm."""
    if not isinstance(message, Mapping) and hasattr(message, "model_dump"):
        message = message.model_dump(exclude_none=True)
    if isinstance(message, Mapping) and isinstance(message.get("tool_calls"), list | tuple):
        return {**message, "tool_calls": [_as_message(call) for call in message["tool_calls"]]}
    return message


def _is_plain(message: Message) -> bool:
    """Whether a message surely is JSON: a role and a text in ASCII, as most are."""
    content = message.get("content")
    return len(message) == 2 and isinstance(content, str) and content.isascii() and message["role"].isascii()


def is_json(value: Any) -> bool:
    """Whether a value can be sent as JSON: plain data without NaN, endless numbers and halves of surrogate pairs."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False, sort_keys=True).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def own_messages(messages: Sequence[Message]) -> list[Message]:
    """Copies that nobody else can change: the caller goes on with the originals, and litellm edits what it gets."""
    return [
        dict(message) if len(message) == 2 and isinstance(message.get("content"), str) else copy.deepcopy(dict(message))
        for message in messages
    ]


def texts(messages: Sequence[Message]) -> list[str]:
    """Every piece of text in the messages, content parts included, in order."""
    found: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            found.append(content)
        elif isinstance(content, Sequence):
            parts = (part.get("text") for part in content if isinstance(part, Mapping))
            found += [text for text in parts if isinstance(text, str)]
    return found


def text_of(messages: Sequence[Message]) -> str:
    """A prompt as one text, as calls and tuning have it."""
    return "\n".join(texts(messages))


def has_media(messages: Sequence[Message]) -> bool:
    """Whether the messages hold more than text: images, sound, files."""
    return any(
        isinstance(part, Mapping) and part.get("type", "text") != "text"
        for message in messages
        if isinstance(message.get("content"), list | tuple)
        for part in message["content"]
    )


def input_tokens_bound(messages: Sequence[Message], image_tokens: int | None = None) -> int | None:
    """Tokens that the messages cannot exceed, or `None` when they hold more than text.

    `image_tokens` is what one image can count for at the most; with it, images are no more than text.

    Byte-level tokenizers never make more tokens than bytes, and other ones fall back to bytes; the rest is the
    chat template's.
    """
    size = TEMPLATE_TOKENS
    for message in messages:
        content = message.get("content")
        if isinstance(content, str) and len(message) == 2:  # A role and its text, as nearly all are.
            size += byte_length(content) + TEMPLATE_TOKENS
            continue
        parts = [content] if isinstance(content, str) else content
        if calls := message.get("tool_calls"):
            # Templates write a call with fewer signs than its JSON has, and mark its beginning and end.
            size += len(json.dumps(calls, default=str)) + TEMPLATE_TOKENS * len(calls)
            parts = parts or []
        if not isinstance(parts, Sequence) or any(message[key] for key in message.keys() - _COUNTED_KEYS):
            return None
        parts = [*parts, *(message[key] for key in ("name", "tool_call_id") if message.get(key) is not None)]
        for part in parts:
            if image_tokens is not None and isinstance(part, Mapping) and part.get("type") in _IMAGES:
                size += image_tokens
                continue
            text = part.get("text") if isinstance(part, Mapping) else part
            if not isinstance(text, str):
                return None
            size += byte_length(text)
        size += TEMPLATE_TOKENS
    return size


def byte_length(text: str) -> int:
    """Bytes of a text in UTF-8, lone surrogates included."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def input_tokens_estimate(messages: Sequence[Message], tools: Sequence[Any] | None = None) -> int:
    """About how many tokens the text of the messages and the tools have; at least one."""
    size = sum(map(byte_length, texts(messages))) + (len(json.dumps(tools)) if tools else 0)
    return max(1, size // BYTES_PER_TOKEN)


def output_tokens_estimate(text: str) -> int:
    """About how many tokens a text has."""
    return -(-byte_length(text) // BYTES_PER_TOKEN)
