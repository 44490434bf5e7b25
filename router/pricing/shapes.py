"""The shapes in which vendors report usage, each read into disjoint buckets: their sum is what the vendor counted.

Which number includes which differs by vendor and is the largest single source of wrong bills. Field meanings are of
the vendors' own documentation and SDK types, August to November 2026.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from router.pricing.fields import Fields, invalid

# What a usage can be counted in. `cache_write` has the vendor's default lifetime: 5 minutes at Anthropic, 30 at OpenAI.
BUCKETS = (
    "input",
    "input_audio",
    "input_image",
    "input_video",
    "tool_input",
    "cache_read",
    "cache_read_audio",
    "cache_read_image",
    "cache_read_video",
    "cache_write",
    "cache_write_1h",
    "cache_write_12h",
    "output",
    "reasoning",
    "output_audio",
    "output_image",
    "output_video",
)
OUTPUT = ("output", "reasoning", "output_audio", "output_image", "output_video")
_MODALITIES = ("audio", "image", "video")


@dataclass(frozen=True, slots=True)
class Part:
    """One model's share of a request; nearly every request has one."""

    tokens: dict[str, int]
    """Tokens by bucket."""
    model: str | None = None
    """The model that did it, where it is another than the one that was asked."""
    label: str = ""
    """What it did, where that is not the answer itself: `compaction`, `advisor_message`."""
    refused: bool = False
    """The model refused before it gave anything."""
    notes: list[str] = field(default_factory=list)
    """What is not as it should be."""

    @property
    def prompt_tokens(self) -> int:
        """All input, however it was billed: what a price that depends on the length looks at."""
        return sum(count for bucket, count in self.tokens.items() if bucket not in OUTPUT)


Shape = Callable[[Fields], Part]


def openai(usage: Fields) -> Part:
    """Chat completions and Responses: cached and written are inside the input, reasoning is inside the output."""
    part = _openai(usage, reasoning_inside=True)
    _check_total(part, usage.tokens("total_tokens"))
    return part


def xai(usage: Fields) -> Part:
    """As OpenAI's, but chat completions count reasoning beside `completion_tokens` (docs.x.ai; its own tests agree).

    The total tells which convention a response follows; Responses have reasoning inside.
    """
    if usage.has("input_tokens", "output_tokens"):
        return openai(usage)
    reasoning = usage.inner("completion_tokens_details").count("reasoning_tokens")
    visible = usage.count("prompt_tokens") + usage.count("completion_tokens")
    total = usage.tokens("total_tokens")
    inside = bool(reasoning) and total == visible
    part = _openai(usage, reasoning_inside=inside)
    _check_total(part, total)
    return part


def _openai(usage: Fields, *, reasoning_inside: bool) -> Part:
    details = usage.inner("input_tokens_details", "prompt_tokens_details", "input_token_details")
    given = usage.inner("output_tokens_details", "completion_tokens_details", "output_token_details")
    hit, miss = usage.tokens("prompt_cache_hit_tokens"), usage.tokens("prompt_cache_miss_tokens")
    entire = usage.tokens("input_tokens", "prompt_tokens")
    part = Part({})
    if entire is None:
        entire = (hit or 0) + (miss or 0)
    elif hit is not None and miss is not None and hit + miss != entire:
        part.notes.append(f"hits {hit} and misses {miss} are not the {entire} prompt tokens")
    cached = details.tokens("cached_tokens")
    if cached is None:
        cached = usage.tokens("cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens") or 0
    _split_input(part, usage, details, entire, cached)
    out = usage.count("output_tokens", "completion_tokens")
    reasoning = given.count("reasoning_tokens")
    media = {f"output_{kind}": given.count(f"{kind}_tokens") for kind in _MODALITIES}
    plain = out - sum(media.values()) - (reasoning if reasoning_inside else 0)
    if plain < 0:
        raise invalid(given.place, reasoning + sum(media.values()), f"tokens are more than the {out} they are part of")
    part.tokens.update({"output": plain, "reasoning": reasoning, **media})
    return part


def _split_input(part: Part, usage: Fields, details: Fields, entire: int, cached: int) -> None:
    """The input by what it was and how it was billed; media that came from the cache are in both counts."""
    by_kind = details.inner("cached_tokens_details")
    written = details.count("cache_write_tokens", "cache_creation_tokens") or usage.count("cache_write_tokens")
    long = details.inner("cache_write_tokens_details").count("ttl_12h_tokens")
    if cached + written > entire:
        raise invalid(details.place, cached + written, f"cached and written tokens are more than the {entire} of input")
    if long > written:
        raise invalid(details.place, long, f"tokens written for 12 hours are more than the {written} written")
    left = cached
    for kind in _MODALITIES:
        media, read = details.count(f"{kind}_tokens"), by_kind.count(f"{kind}_tokens")
        if read > min(media, left):
            raise invalid(by_kind.place, read, f"cached {kind} tokens are more than there are")
        left -= read
        part.tokens[f"input_{kind}"] = media - read
        part.tokens[f"cache_read_{kind}"] = read
    media = sum(part.tokens[f"input_{kind}"] for kind in _MODALITIES)
    plain = entire - cached - written - media
    if plain < 0:  # Which of the media came from the cache was not told.
        if plain + left < 0:
            raise invalid(details.place, media, f"tokens are more than the {entire} of input")
        plain, left = _untold(part, plain, left)
    part.tokens.update({"input": plain, "cache_read": left, "cache_write": written - long, "cache_write_12h": long})


def _untold(part: Part, plain: int, left: int) -> tuple[int, int]:
    """Take the cached tokens that cannot be text from the media, which are then cached media."""
    part.notes.append("cached tokens were not told apart by kind; those that cannot be text count as media")
    missing = -plain
    for kind in _MODALITIES:
        moved = min(missing, part.tokens[f"input_{kind}"])
        part.tokens[f"input_{kind}"] -= moved
        part.tokens[f"cache_read_{kind}"] += moved
        missing -= moved
    return 0, left + plain


def anthropic(usage: Fields) -> Part:
    """Messages: input, read and written stand beside each other; thinking is inside the output."""
    written = usage.tokens("cache_creation_input_tokens")
    by_life = usage.inner("cache_creation")
    short, long = by_life.tokens("ephemeral_5m_input_tokens"), by_life.tokens("ephemeral_1h_input_tokens")
    part = Part({})
    if short is None and long is None:
        short, long = written or 0, 0
        if written:
            part.notes.append("cache writes were not told apart by lifetime and count as 5-minute writes")
    elif written is not None and (short or 0) + (long or 0) != written:
        raise invalid(by_life.place, (short or 0) + (long or 0), f"tokens are not the {written} that were written")
    output = usage.count("output_tokens")
    thinking = usage.inner("output_tokens_details").count("thinking_tokens")
    if thinking > output:
        raise invalid(usage.place, thinking, f"thinking tokens are more than the {output} of output")
    part.tokens.update(
        {
            "input": usage.count("input_tokens"),
            "cache_read": usage.count("cache_read_input_tokens"),
            "cache_write": short or 0,
            "cache_write_1h": long or 0,
            "output": output - thinking,
            "reasoning": thinking,
        }
    )
    return part


def converse(usage: Fields) -> Part:
    """Bedrock Converse: read and written stand beside the input, as Anthropic's do."""
    long = sum(one.count("inputTokens") for one in usage.items("cacheDetails") if one.text("ttl") == "1h")
    written = usage.count("cacheWriteInputTokens", "cacheWriteInputTokenCount")
    if long > written:
        raise invalid(usage.place, long, f"tokens written for an hour are more than the {written} written")
    part = Part(
        {
            "input": usage.count("inputTokens"),
            "cache_read": usage.count("cacheReadInputTokens", "cacheReadInputTokenCount"),
            "cache_write": written - long,
            "cache_write_1h": long,
            "output": usage.count("outputTokens"),
        }
    )
    _check_total(part, usage.tokens("totalTokens"))
    return part


def google(usage: Fields) -> Part:
    """Gemini: cached is inside the prompt, thoughts stand beside the candidates, tool results beside the prompt."""
    prompt = usage.count("promptTokenCount", "prompt_token_count", "total_input_tokens")
    cached = usage.count("cachedContentTokenCount", "cached_content_token_count", "total_cached_tokens")
    out = usage.count("candidatesTokenCount", "candidates_token_count", "responseTokenCount", "total_output_tokens")
    if cached > prompt:
        raise invalid(usage.place, cached, f"cached tokens are more than the {prompt} of the prompt")
    sent = _by_kind(usage, prompt, "promptTokensDetails", "prompt_tokens_details")
    read = _by_kind(usage, cached, "cacheTokensDetails", "cache_tokens_details")
    given = _by_kind(usage, out, "candidatesTokensDetails", "candidates_tokens_details", "responseTokensDetails")
    part = Part({})
    for kind in _MODALITIES:
        held = min(read[kind], sent[kind])
        read["text"] += read[kind] - held
        part.tokens[f"input_{kind}"] = sent[kind] - held
        part.tokens[f"cache_read_{kind}"] = held
        part.tokens[f"output_{kind}"] = given[kind]
    plain, left = sent["text"] - read["text"], read["text"]
    if plain < 0:
        plain, left = _untold(part, plain, left)
    part.tokens.update(
        {
            "input": plain,
            "cache_read": left,
            "tool_input": usage.count(
                "toolUsePromptTokenCount", "tool_use_prompt_token_count", "total_tool_use_tokens"
            ),
            "output": given["text"],
            "reasoning": usage.count("thoughtsTokenCount", "thoughts_token_count", "total_thought_tokens"),
        }
    )
    _check_total(part, usage.tokens("totalTokenCount", "total_token_count", "total_tokens"))
    return part


def _by_kind(usage: Fields, entire: int, *names: str) -> dict[str, int]:
    """Tokens of each modality; what no entry names is text, and documents are read as text and images alike."""
    kinds = dict.fromkeys(("text", *_MODALITIES), 0)
    for one in usage.items(*names):
        modality = one.text("modality")
        kind = modality if modality in _MODALITIES else "text"
        kinds[kind] += one.count("tokenCount", "token_count", "tokens")
    media = sum(kinds[kind] for kind in _MODALITIES)
    if media > entire:
        raise invalid(f"{usage.place}.{names[0]}", media, f"tokens are more than the {entire} they are part of")
    return kinds | {"text": entire - media}


def cohere(usage: Fields) -> Part:
    """Cohere: `billed_units` is the bill; `tokens` counts special tokens too, which are not billed."""
    units = usage.inner("billed_units")
    if units.data or not usage.has("tokens"):
        billed = units if units.data else usage
        return Part(
            {
                "input": billed.count("input_tokens"),
                "input_image": billed.count("image_tokens"),
                "output": billed.count("output_tokens"),
            }
        )
    tokens = usage.inner("tokens")
    note = "`billed_units` is missing; `tokens` counts more than is billed, so this is the most it can be"
    return Part({"input": tokens.count("input_tokens"), "output": tokens.count("output_tokens")}, notes=[note])


def _check_total(part: Part, total: int | None) -> None:
    counted = sum(part.tokens.values())
    if total is not None and total != counted:
        part.notes.append(f"the vendor's total of {total} tokens is not the {counted} that its counts add up to")
