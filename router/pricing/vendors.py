"""What each vendor calls things, which shape its usage has, and the discounts and surcharges that it states as rules.

A rule here is a factor that a vendor's documentation gives for all its models ("batch is half price"); prices of
models are not here but in the two price sources. Each rule names its source; all were read August to November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from router.pricing.fields import Fields
from router.pricing.shapes import Part, Shape, anthropic, cohere, converse, google, openai, xai

STANDARD, BATCH, FLEX, PRIORITY, ULTRAFAST, DECISIONS = (
    "standard",
    "batch",
    "flex",
    "priority",
    "ultrafast",
    "decisions",
)
PREPAID = "prepaid"
"""Capacity that was bought ahead: its tokens cost nothing more."""

_HALF, _SAME = Decimal("0.5"), Decimal(1)

# Words for the tier that was served, common to the vendors.
_TIERS = {
    "": STANDARD,
    "standard": STANDARD,
    "default": STANDARD,
    "auto": STANDARD,
    "standard_only": STANDARD,
    "on_demand": STANDARD,
    "batch": BATCH,
    "flex": FLEX,
    "priority": PRIORITY,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A factor on a model's standard prices."""

    factor: Decimal
    always: bool = False
    """It holds for every model, whatever the price sources list; otherwise only where they list nothing."""
    cached: str = "same"
    """What cached input costs then: `same` factor, the `input` price of the tier, or its `standard` price."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor's names and rules."""

    name: str
    names_in_map: tuple[str, ...]
    """How litellm's price map writes a model of this vendor, the likeliest first."""
    provider: tuple[str, ...]
    """Beginnings of the map's `litellm_provider` for them."""
    history: str | None = None
    """The vendor's id in genai-prices."""
    tiers: Mapping[str, str] = field(default_factory=dict)
    """Words for service tiers beyond the common ones."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """Discounts and surcharges by tier."""
    inclusive_band: bool = False
    """A prompt of exactly the length at which prices change already costs more."""


def _vendor(name: str, *names: str, provider: tuple[str, ...] = (), **more: object) -> Vendor:
    return Vendor(name, names or (f"{name}/{{}}", "{}"), provider or (name,), **more)  # type: ignore[arg-type]


VENDORS: Mapping[str, Vendor] = MappingProxyType(
    {
        vendor.name: vendor
        for vendor in (
            # platform.claude.com: batch halves every category of usage and stacks with cache rates, residency and
            # length. The Priority Tier is capacity bought ahead.
            _vendor(
                "anthropic",
                "{}",
                "anthropic/{}",
                history="anthropic",
                tiers={PRIORITY: PREPAID},
                rules={BATCH: Rule(_HALF, always=True)},
            ),
            # developers.openai.com: batch and flex at half price; `fast` is the new name of `priority`. Where the batch
            # table has no cached rate, cached input costs what other input does.
            _vendor(
                "openai",
                "{}",
                "openai/{}",
                history="openai",
                tiers={"fast": PRIORITY, ULTRAFAST: ULTRAFAST, "scale": PREPAID},
                rules={BATCH: Rule(_HALF, cached="input"), FLEX: Rule(_HALF)},
            ),
            # learn.microsoft.com: as OpenAI; provisioned deployments are bought ahead.
            _vendor(
                "azure",
                "azure/{}",
                "azure_ai/{}",
                history="azure",
                tiers={"fast": PRIORITY, "provisioned": PREPAID, "scale": PREPAID},
                rules={BATCH: Rule(_HALF, cached="input"), FLEX: Rule(_HALF)},
            ),
            # ai.google.dev: batch and flex at half price, priority at 1.8 times. Batch leaves the cached price of older
            # models as it is.
            _vendor(
                "google",
                "gemini/{}",
                provider=("gemini",),
                history="google",
                rules={
                    BATCH: Rule(_HALF, cached="standard"),
                    FLEX: Rule(_HALF, cached="standard"),
                    PRIORITY: Rule(Decimal("1.8")),
                },
            ),
            # cloud.google.com: as AI Studio, in words of its own.
            _vendor(
                "vertex",
                "vertex_ai/{}",
                "{}",
                provider=("vertex_ai",),
                history="google",
                tiers={
                    "on_demand_priority": PRIORITY,
                    "on_demand_flex": FLEX,
                    "provisioned_throughput": PREPAID,
                },
                rules={
                    BATCH: Rule(_HALF, cached="standard"),
                    FLEX: Rule(_HALF, cached="standard"),
                    PRIORITY: Rule(Decimal("1.8")),
                },
            ),
            # docs.aws.amazon.com/bedrock: batch at half price and without caching; other tiers as the map lists them.
            _vendor(
                "bedrock",
                "{}",
                "bedrock/{}",
                provider=("bedrock",),
                history="aws",
                tiers={"reserved": PREPAID},
                rules={BATCH: Rule(_HALF, cached="input")},
            ),
            # Mistral's pricing page and its code: batch halves every price, priority is 1.75 times every price.
            _vendor(
                "mistral",
                "mistral/{}",
                history="mistral",
                rules={BATCH: Rule(_HALF, always=True), PRIORITY: Rule(Decimal("1.75"), always=True)},
            ),
            _vendor("deepseek", "deepseek/{}", history="deepseek"),
            # console.groq.com: batch halves everything and does not stack with caching; flex has the usual price.
            _vendor(
                "groq",
                "groq/{}",
                history="groq",
                rules={BATCH: Rule(_HALF, always=True, cached="input"), FLEX: Rule(_SAME, always=True)},
            ),
            _vendor("together", "together_ai/{}", provider=("together",), history="together"),
            # docs.fireworks.ai: batch at half of serverless; nothing is said of cached input.
            _vendor(
                "fireworks",
                "fireworks_ai/{}",
                "fireworks_ai/accounts/fireworks/models/{}",
                provider=("fireworks",),
                history="fireworks",
                rules={BATCH: Rule(_HALF, cached="standard")},
            ),
            # docs.x.ai: batch is 20 to 50 % off by model, cached input included; 20 % where nothing else is listed.
            # Prices change at 200,000 tokens "or more".
            _vendor(
                "xai",
                "xai/{}",
                history="x-ai",
                rules={BATCH: Rule(Decimal("0.8"))},
                inclusive_band=True,
            ),
            _vendor("cohere", "{}", "cohere/{}", "cohere_chat/{}", provider=("cohere",), history="cohere"),
            _vendor("openrouter", "openrouter/{}", history="openrouter"),
        )
    }
)

_ALIASES = {
    "claude": "anthropic",
    "azure_openai": "azure",
    "azure_ai": "azure",
    "gemini": "google",
    "google_ai_studio": "google",
    "vertex_ai": "vertex",
    "google_vertex": "vertex",
    "aws": "bedrock",
    "amazon_bedrock": "bedrock",
    "aws_bedrock": "bedrock",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "x_ai": "xai",
}


def vendor_of(name: str) -> Vendor:
    """The vendor of a name; one that is not known by rules of its own still has prices in the map."""
    known = name.strip().lower().replace("-", "_").replace(" ", "_").replace(".", "_")
    known = _ALIASES.get(known, known)
    return VENDORS.get(known) or Vendor(known, (f"{known}/{{}}",), (known,), history=known)


def is_claude(model: str) -> bool:
    """Whether a model is Anthropic's, whoever hosts it."""
    return "claude" in model.lower()


def tier_of(vendor: Vendor, word: str) -> str | None:
    """The tier that a vendor's word means; `None` for a word that nobody has explained."""
    return vendor.tiers.get(word) or _TIERS.get(word)


def rule_of(vendor: Vendor, model: str, tier: str) -> Rule | None:
    """The vendor's rule for a tier. Claude in batches is half price wherever it is hosted."""
    if tier == BATCH and is_claude(model):
        return Rule(_HALF, always=True)
    return vendor.rules.get(tier)


_GOOGLE_KEYS = ("promptTokenCount", "prompt_token_count", "total_input_tokens", "candidatesTokenCount")
_CONVERSE_KEYS = ("inputTokens", "outputTokens", "cacheReadInputTokens")
_ANTHROPIC_KEYS = ("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation")


def read_part(vendor: Vendor, model: str, usage: Fields) -> Part:
    """A usage in the shape that it has: hosts pass on the shape of whoever made the model."""
    return _shape(vendor, model, usage)(usage)


def _shape(vendor: Vendor, model: str, usage: Fields) -> Shape:
    if usage.has(*_GOOGLE_KEYS):
        return google
    if usage.has(*_CONVERSE_KEYS):
        return converse
    if vendor.name == "cohere":
        return cohere
    foreign = usage.has("prompt_tokens", "input_tokens_details", "prompt_tokens_details")
    if usage.has(*_ANTHROPIC_KEYS) or ((vendor.name == "anthropic" or is_claude(model)) and not foreign):
        return anthropic
    return xai if vendor.name == "xai" else openai
