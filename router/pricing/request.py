"""What a price depends on beside the tokens: when, in which tier, through which address, and whether it was billed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from router.pricing.fields import Fields, invalid
from router.pricing.vendors import BATCH, DECISIONS, VENDORS, Vendor, tier_of

Billed = Literal["yes", "no", "unknown"]

# A stream of Claude's begins with so many output tokens that are none yet.
PLACEHOLDER_TOKENS = 3
CONTEXT_KEYS = frozenset(
    (
        *("at", "date", "holiday", "batch", "service_tier", "headers", "header", "speed", "endpoint"),
        *("host", "region", "location", "data_zone", "inference_geo", "search_context_size", "free_quota"),
        *("status", "code", "content_empty", "gpu_hour_usd", "gpus", "concurrency", "utilisation"),
    )
)

# What of a refused or broken request is billed, by vendor and HTTP status. What is not here is not said by the vendor.
# Anthropic: "failed requests aren't charged" (support article 8977456). AI Studio: 400 and 500 are not charged; Vertex:
# only 200 is. Azure: charged where processing was done, so 408 and 400 for a filter or too long an input; 401 and 429
# are not (learn.microsoft.com, 2026-09-11). Novita: a client's own disconnect, 499, is charged. Elsewhere a refusal
# before any work, 400 to 429, is taken as free, as nothing says otherwise.
_NOT_BILLED = {
    "anthropic": range(400, 600),
    "google": range(400, 600),
    "vertex": range(300, 600),
    "openai": range(400, 600),
    "bedrock": range(400, 600),
    "azure": (400, 401, 403, 404, 422, 429),
    "novita": (400, 401, 403, 429, 500, 503, 504),
    "groq": (400, 401, 403, 404, 413, 422, 429, 498),
}
_REFUSALS = (400, 401, 402, 403, 404, 422, 429)
_BILLED = {("azure", 408), ("novita", 499)}
_AZURE_PROCESSED = ("content_filter", "context_length_exceeded", "input_limit")
# Results of a batch that never were answers.
_NO_ANSWERS = ("errored", "canceled", "cancelled", "expired", "failed")


@dataclass(frozen=True, slots=True)
class Request:
    """Everything about a request that its usage and its context tell, beside tokens."""

    vendor: Vendor
    model: str
    at: datetime
    tier: str | None
    """The tier that was served; `None` when the vendor's word for it has not been explained."""
    tier_word: str
    fast: bool
    zone: str
    """Where it was processed, where that has a price: `us`, `eu`, `apac`; empty for everywhere."""
    billed: Billed
    estimated: bool
    holiday: bool | None
    context: Fields
    usage: Fields
    notes: list[str]


def read_request(vendor: Vendor, model: str, usage: Fields, context: Fields) -> Request:
    """What usage and context tell; what the usage says wins, because it is what was served."""
    estimated = any(name.endswith("_estimated") for name in usage.data)
    usage = Fields({name.removesuffix("_estimated"): value for name, value in usage.data.items()}, usage.place)
    zone = _zone(usage, context)
    if vendor.name == "google" and (zone or usage.has("trafficType", "traffic_type")):
        vendor = VENDORS["vertex"]  # Only there has a place or a type of traffic a meaning.
    word = _tier_word(usage) or _tier_word(context)
    tier = BATCH if _flag(usage, "batch") or _flag(context, "batch") else tier_of(vendor, word)
    if (usage.text("endpoint") or context.text("endpoint")).rstrip("/").endswith("decisions"):
        tier = DECISIONS
    unread = sorted(context.data.keys() - CONTEXT_KEYS)
    return Request(
        vendor,
        model,
        _instant(context),
        tier,
        word,
        "fast" in (usage.text("speed"), context.text("speed")),
        zone,
        _billed(vendor, usage, context),
        estimated,
        _optional_flag(context, "holiday"),
        context,
        usage,
        [f"context holds {name!r}, which nothing here depends on" for name in unread],
    )


def is_refusal(usage: Fields, context: Fields) -> bool:
    """Whether Claude refused before any output, which is not billed although the usage shows tokens.

    A stream begins with a placeholder of up to three output tokens, so that many are none (Anthropic's
    documentation of refusals and of streams, August 2026).
    """
    if usage.text("stop_reason", "stopReason") != "refusal":
        return False
    empty = _optional_flag(context, "content_empty")
    return usage.count("output_tokens", "outputTokens") <= PLACEHOLDER_TOKENS if empty is None else empty


def _tier_word(fields: Fields) -> str:
    tier = fields.value("service_tier", "serviceTier", "trafficType", "traffic_type")
    if isinstance(tier, Mapping):  # Bedrock wraps it.
        tier = tier.get("type")
    if isinstance(tier, str):
        return tier.strip().lower().removeprefix("traffic_type_")
    headers = fields.value("header", "headers")
    lines = [f"{name}: {value}" for name, value in headers.items()] if isinstance(headers, Mapping) else [headers]
    found = re.search(r"service-tier:\s*(\w+)", "\n".join(map(str, lines)).lower())
    return found[1] if found else ""


def _instant(context: Fields) -> datetime:
    """When the request began; now when nobody says. Without a time zone it is UTC."""
    value = context.value("at", "date")
    if value is None:
        return datetime.now(UTC)
    try:
        moment = value if isinstance(value, date) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise invalid("context.at", value, "is no date and time; write it as 2026-11-20T02:00:00Z") from None
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _zone(usage: Fields, context: Fields) -> str:
    for fields in (usage, context):
        said = fields.text("inference_geo", "data_zone", "region", "location")
        if said:
            return "" if said in ("global", "default", "not_available") else said
        words = re.split(r"[.\-/:]", fields.text("host"))
        if zone := next((word for word in words if word in ("us", "eu", "apac")), ""):
            return zone
    return ""


def _billed(vendor: Vendor, usage: Fields, context: Fields) -> Billed:
    result = usage.text("result_type", "batch_result") or usage.text("result")
    if result in _NO_ANSWERS:
        return "no"
    status = usage.tokens("status", "status_code", "http_status")
    status = context.tokens("status") if status is None else status
    if status is None or 200 <= status < 300:
        return "yes"
    code = usage.text("code") or context.text("code")
    processed = vendor.name == "azure" and status == 400 and code in _AZURE_PROCESSED
    if processed or (vendor.name, status) in _BILLED:
        return "yes"
    return "no" if status in _NOT_BILLED.get(vendor.name, _REFUSALS) else "unknown"


def _flag(fields: Fields, name: str) -> bool:
    return _optional_flag(fields, name) or False


def _optional_flag(fields: Fields, name: str) -> bool | None:
    value = fields.value(name)
    if value is None or isinstance(value, bool):
        return value
    raise invalid(f"{fields.place}.{name}", value, "is neither true nor false")
