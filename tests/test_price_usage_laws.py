"""Laws of `price_usage`: nothing unknown becomes 0, buckets add up, more never costs less, and no object breaks it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import price_usage
from router.errors import InvalidUsage
from router.pricing import Priced

CONTEXT = {"at": "2026-11-20T12:00:00Z"}
COUNTS = st.integers(0, 400_000)
CHATS = [
    ("openai", "gpt-6-sol"),
    ("openai", "gpt-4o-mini"),
    ("azure", "eu/gpt-6-sol"),
    ("mistral", "mistral-large-4"),
    ("groq", "openai/gpt-oss-120b"),
    ("xai", "grok-4.7"),
    ("bedrock", "us.openai.gpt-6-sol"),
]
TIERS = st.sampled_from([{}, {"batch": True}, {"service_tier": "flex"}, {"service_tier": "priority"}])


@pytest.fixture(scope="module", autouse=True)
def _sources() -> None:
    """Both sources loaded, so that no example pays for it."""
    price("openai", "gpt-6-sol", {"prompt_tokens": 1})


def price(vendor: str, model: str, usage: dict[str, Any], **context: Any) -> Priced:
    """The price at one instant, so that nothing changes between two of them."""
    return price_usage(vendor=vendor, model=model, usage=usage, context={**CONTEXT, **context})


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """A usage in OpenAI's shape of Responses, where every part is within its whole."""
    plain, cached, written, visible, reasoning = (draw(COUNTS) for _ in range(5))
    return {
        "input_tokens": plain + cached + written,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": visible + reasoning,
        "output_tokens_details": {"reasoning_tokens": reasoning},
    }


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A usage in Anthropic's shape."""
    short, long = draw(COUNTS), draw(COUNTS)
    return {
        "input_tokens": draw(COUNTS),
        "cache_read_input_tokens": draw(COUNTS),
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": draw(COUNTS),
    }


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """A usage in Gemini's shape."""
    audio, image, text, tools, thoughts, out = (draw(COUNTS) for _ in range(6))
    prompt = audio + image + text
    return {
        "promptTokenCount": prompt,
        "cachedContentTokenCount": draw(st.integers(0, prompt)),
        "promptTokensDetails": [
            {"modality": "AUDIO", "tokenCount": audio},
            {"modality": "IMAGE", "tokenCount": image},
            {"modality": "TEXT", "tokenCount": text},
        ],
        "toolUsePromptTokenCount": tools,
        "candidatesTokenCount": out,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + tools + out + thoughts,
    }


def _counted(usage: dict[str, Any]) -> int:
    """What the vendor counted in all, each by its own convention."""
    if "totalTokenCount" in usage:
        return int(usage["totalTokenCount"])
    beside = ("cache_read_input_tokens", "cache_creation_input_tokens")
    return int(sum(usage.get(name, 0) for name in ("input_tokens", "output_tokens", *beside)))


USAGES = st.one_of(
    st.tuples(st.sampled_from(CHATS), chats()),
    st.tuples(st.just(("anthropic", "claude-haiku-5-5")), messages()),
    st.tuples(st.sampled_from([("google", "gemini-2.5-flash"), ("google", "gemini-3.8-flash")]), contents()),
)


@given(USAGES, TIERS)
def test_buckets_are_disjoint_and_add_up_to_what_the_vendor_counted(
    case: tuple[tuple[str, str], dict[str, Any]], tier: dict[str, Any]
) -> None:
    """No token is billed twice and none is lost."""
    (vendor, model), usage = case
    result = price(vendor, model, {**usage, **tier})
    assert sum(line.tokens for line in result.lines) == _counted(usage)
    assert len({line.bucket for line in result.lines}) == len(result.lines)
    assert all(line.tokens > 0 for line in result.lines)


@given(USAGES, TIERS)
def test_the_amount_is_the_exact_sum_of_its_lines(
    case: tuple[tuple[str, str], dict[str, Any]], tier: dict[str, Any]
) -> None:
    """Lines times factors plus fees, unknown where a line is, and the nano-dollars are whole and half-even."""
    (vendor, model), usage = case
    result = price(vendor, model, {**usage, **tier})
    amounts = [line.usd for line in result.lines]
    if None in amounts or not result.lines:
        assert result.usd in (None, 0)
        assert result.usd is None or not result.lines
        return
    total = sum((amount for amount in amounts if amount is not None), Decimal(0))
    for factor in result.surcharges:
        assert factor.factor is not None
        total *= factor.factor
    assert result.usd == total
    assert result.nusd == int((total * 10**9).to_integral_value(rounding="ROUND_HALF_EVEN"))


@given(USAGES, st.sampled_from(["input_tokens", "output_tokens", "promptTokenCount", "candidatesTokenCount"]), COUNTS)
def test_more_tokens_never_cost_less(case: tuple[tuple[str, str], dict[str, Any]], name: str, more: int) -> None:
    """Not of input and not of output, and not across a length at which prices change."""
    (vendor, model), usage = case
    if name not in usage:
        return
    grown = {**usage, name: usage[name] + more}
    grown.pop("totalTokenCount", None)
    before, after = price(vendor, model, usage), price(vendor, model, grown)
    assert before.usd is not None
    assert after.usd is not None
    assert after.usd >= before.usd


@given(USAGES, st.randoms())
def test_the_order_of_keys_means_nothing(case: tuple[tuple[str, str], dict[str, Any]], random: Any) -> None:
    """JSON objects have none."""
    (vendor, model), usage = case
    names = list(usage)
    random.shuffle(names)
    assert price(vendor, model, {name: usage[name] for name in names}) == price(vendor, model, usage)


@given(USAGES, st.text("abcdefghij-", min_size=8, max_size=20))
def test_an_unknown_model_never_costs_nothing(case: tuple[tuple[str, str], dict[str, Any]], name: str) -> None:
    """Its price is unknown, whoever bills it, unless nothing was counted."""
    (vendor, _), usage = case
    result = price(vendor, name, usage)
    assert result.usd is None or not result.lines
    assert result.usd is None or result.usd == 0


@given(USAGES, st.text("abcdefghij-", min_size=3, max_size=12))
def test_an_unknown_service_tier_is_an_unknown_price(case: tuple[tuple[str, str], dict[str, Any]], tier: str) -> None:
    """A word that nobody has explained is not the standard tier."""
    (vendor, model), usage = case
    result = price(vendor, model, {**usage, "service_tier": tier})
    assert result.usd is None
    assert any(tier in note for note in result.notes)


NAMES = [
    *("input_tokens", "prompt_tokens", "output_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost"),
    *("prompt_tokens_details", "input_tokens_details", "output_tokens_details", "cache_creation", "iterations"),
    *("promptTokenCount", "promptTokensDetails", "cacheTokensDetails", "inputTokens", "cacheDetails", "billed_units"),
    *("service_tier", "speed", "status", "batch", "server_tool_use", "webSearchQueries", "inference_geo", "header"),
    *("type", "seconds", "usage_info", "session_hours", "cost_in_usd_ticks", "stop_reason", "grounding_tool_count"),
]
ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 10**12),
        st.just(10**400),
        st.floats(),
        st.sampled_from([Decimal("NaN"), Decimal("sNaN"), Decimal("-0"), Decimal("1e99"), Decimal("2.5")]),
        st.text("ab1:- ", max_size=4),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)),
    max_leaves=5,
)


@given(
    st.sampled_from(
        [*CHATS, ("anthropic", "claude-opus-5-5"), ("google", "gemini-3.8-flash"), ("cohere", "command-r")]
    ),
    st.dictionaries(st.sampled_from(NAMES), ODD, max_size=4),
)
def test_no_object_breaks_it(who: tuple[str, str], usage: dict[str, Any]) -> None:
    """Any object is priced, unknown, or an error that names the field; amounts are finite and not negative."""
    try:
        result = price(*who, usage)
    except InvalidUsage as error:
        assert error.field.startswith("usage")
        return
    assert result.usd is None or (result.usd.is_finite() and result.usd >= 0)
    if result.source == "price" and any(line.usd is None for line in result.lines):
        pytest.fail("a line without a price, and still an amount")
