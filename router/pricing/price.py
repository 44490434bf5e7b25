"""A vendor's raw usage object to money: every line, every factor, every fee, and the sum, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Any, Literal

from router.core.pricing import NUSD_PER_USD
from router.pricing.cards import Card, Rate, card_for
from router.pricing.fees import Fee, fees, found_free
from router.pricing.fields import Fields
from router.pricing.gpu import read_second_usd
from router.pricing.request import PLACEHOLDER_TOKENS, Request, is_refusal, read_request
from router.pricing.shapes import BUCKETS, Part
from router.pricing.surcharges import Surcharge, located, surcharges
from router.pricing.vendors import PREPAID, STANDARD, Vendor, read_part, vendor_of
from router.pricing.windows import calendar_ends

_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_TICKS_PER_USD = 10**10  # docs.x.ai: `cost_in_usd_ticks`.
_PER_MTOK = 1_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """Tokens of one kind at their price."""

    bucket: str
    tokens: int
    usd_per_mtok: Decimal | None
    """`None` when no source lists it."""
    usd: Decimal | None
    model: str
    source: str


@dataclass(frozen=True, slots=True)
class Priced:
    """What one request cost, and how that came about."""

    vendor: str
    model: str
    usd: Decimal | None
    """The exact amount; `None` when any part of it is unknown. Never 0 for that."""
    lines: tuple[Line, ...]
    surcharges: tuple[Surcharge, ...]
    """Factors on the sum of the lines."""
    fees: tuple[Fee, ...]
    source: Literal["price", "provider", "none"]
    """Whose figure `usd` is: prices times usage, or the vendor's own in the usage object."""
    computed_usd: Decimal | None
    """What prices times usage come to, also where the vendor's own figure counts."""
    estimated: bool
    """Whether the counts are somebody's estimate rather than the vendor's."""
    notes: tuple[str, ...]
    """What is unknown or uncertain, and why."""

    @property
    def nusd(self) -> int | None:
        """The amount in nano-dollars, rounded half to even, once."""
        if self.usd is None:
            return None
        with localcontext(_EXACT):
            return int((self.usd * NUSD_PER_USD).to_integral_value())


def price_usage(
    *,
    vendor: str,
    model: str,
    usage: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
) -> Priced:
    """What the request cost that a vendor reported this `usage` for, exactly as it stood in the response.

    Parameters
    ----------
    vendor
        Who billed: `anthropic`, `openai`, `azure`, `google`, `vertex`, `bedrock`, `mistral`, `deepseek`, `groq`,
        `together`, `fireworks`, `xai`, `cohere`, `openrouter`; another one has the prices that the sources list.
    model
        The model's name as the vendor writes it.
    usage
        The response's usage object. `service_tier`, `stop_reason` and headers of the response may stand in it.
    context
        What the usage does not tell: `at` or `date` (now when missing), `batch`, `service_tier` that was served,
        `host`, `region`, `endpoint`, `status` and `code` of an error, `holiday`, `free_quota`; `gpu_hour_usd`,
        `gpus`, `concurrency` and `utilisation` for a model of your own.

    Raises
    ------
    InvalidUsage
        A count is negative, not finite, not whole or beyond belief, or parts are more than their whole.
    """
    with localcontext(_EXACT):
        told, given = Fields(usage), Fields(context or {}, "context")
        if given.has("gpu_hour_usd"):
            return _by_second(vendor, model, told, given)
        return _price(vendor_of(vendor), model, told, given)


def _price(vendor: Vendor, model: str, usage: Fields, context: Fields) -> Priced:
    request = read_request(vendor, model, usage, context)
    looked_up, zone = located(request.vendor, model, request.zone)
    request = replace(request, zone=zone)
    parts = _parts(request)
    notes = [*request.notes, *(note for part in parts for note in part.notes)]
    lines: list[Line] = []
    for part in parts:
        card = _card(request, part.model or looked_up, part.prompt_tokens)
        lines += _lines(part, card, _free(request, part))
    card = _card(request, looked_up, sum(part.prompt_tokens for part in parts))
    factors, extra = surcharges(request, card), fees(request, card)
    notes += _unknowns(request, card, lines, factors, extra)
    computed = _total(request, lines, factors, extra)
    reported = _reported(request)
    return Priced(
        request.vendor.name,
        model,
        computed if reported is None else reported,
        tuple(lines),
        tuple(factors),
        tuple(extra),
        "provider" if reported is not None else "none" if computed is None else "price",
        computed,
        request.estimated,
        tuple(notes),
    )


def _parts(request: Request) -> list[Part]:
    """The models' shares. Anthropic's `iterations` are the bill where they are given: its top level leaves some out.

    An attempt that gave way to a fallback before any output was a refusal, which is not billed.
    """
    iterations = request.usage.items("iterations")
    if not iterations:
        part = read_part(request.vendor, request.model, request.usage)
        return [replace(part, refused=is_refusal(request.usage, request.context))]
    parts = []
    for one, after in zip(iterations, [*iterations[1:], Fields({})], strict=True):
        part = read_part(request.vendor, request.model, one)
        kind, other = one.text("type"), one.value("model")
        gave_way = after.text("type").startswith("fallback") and one.count("output_tokens") <= PLACEHOLDER_TOKENS
        parts.append(
            replace(
                part,
                model=other if isinstance(other, str) else None,
                label="" if kind == "message" else kind,
                refused=gave_way or is_refusal(one, Fields({})),
            )
        )
    return parts


def _card(request: Request, model: str, prompt_tokens: int) -> Card:
    tier = STANDARD if request.tier in (None, PREPAID) else request.tier
    assert tier is not None
    return card_for(request.vendor, model, request.at, tier, prompt_tokens, request.holiday)


def _free(request: Request, part: Part) -> Mapping[str, str]:
    """The buckets of a part that cost nothing, each with the reason."""
    if request.billed == "no":
        return dict.fromkeys(BUCKETS, "not billed with this status")
    if part.refused:
        return dict.fromkeys(BUCKETS, "refused before any output")
    if request.tier == PREPAID:
        return dict.fromkeys(BUCKETS, "bought ahead")
    return {"tool_input": "found by a search"} if found_free(request) else {}


def _lines(part: Part, card: Card, free: Mapping[str, str]) -> list[Line]:
    lines = []
    for bucket in BUCKETS:
        tokens = part.tokens.get(bucket, 0)
        if not tokens:
            continue
        name = f"{part.label} {bucket}".strip()
        rate = Rate(Decimal(0), free[bucket]) if bucket in free else card.rate(bucket)
        if rate is None:
            lines.append(Line(name, tokens, None, None, card.model, "no source"))
            continue
        amount = tokens * rate.usd_per_mtok / _PER_MTOK
        lines.append(Line(name, tokens, rate.usd_per_mtok, amount, card.model, rate.source))
    return lines


def _total(request: Request, lines: list[Line], factors: list[Surcharge], extra: list[Fee]) -> Decimal | None:
    if request.billed == "unknown" or request.tier is None:
        return None
    if not lines and not extra and not _counted(request.usage):
        return None
    total = Decimal(0)
    for line in lines:
        if line.usd is None:
            return None
        total += line.usd
    for one in factors:
        if one.factor is None:
            return None
        total *= one.factor
    for fee in extra:
        if fee.usd is None:
            return None
        total += Decimal(0) if request.billed == "no" else fee.usd
    return total.normalize()


def _counted(usage: Fields) -> bool:
    """Whether the vendor counted anything at all, be it nothing: an object without counts says nothing of the cost."""
    return any(isinstance(value, int | float) for value in usage.data.values())


def _reported(request: Request) -> Decimal | None:
    """The vendor's own figure, which includes discounts and fees that nobody else sees.

    OpenRouter's `cost` is what its account is charged; with a key of one's own the maker's bill comes on top.
    """
    ticks = request.usage.tokens("cost_in_usd_ticks") if request.vendor.name == "xai" else None
    if ticks is not None:
        return (Decimal(ticks) / _TICKS_PER_USD).normalize()
    cost = request.usage.value("cost")
    if isinstance(cost, Mapping):
        return request.usage.inner("cost").quantity("total_cost")
    own = request.usage.quantity("cost")
    if own is not None and request.usage.value("is_byok") is True:
        upstream = request.usage.inner("cost_details").quantity("upstream_inference_cost")
        return None if upstream is None else own + upstream
    return own


def _unknowns(request: Request, card: Card, lines: list[Line], factors: list[Surcharge], extra: list[Fee]) -> list[str]:
    """Everything that makes the amount unknown or less than sure, in words."""
    notes = []
    if request.tier is None:
        notes.append(f"nobody says what service tier {request.tier_word!r} costs at {request.vendor.name}")
    if request.billed == "unknown":
        notes.append(f"{request.vendor.name} does not say whether this status is billed")
    if not card.known and lines:
        notes.append(f"neither price source lists {card.model!r} of {request.vendor.name}")
    else:
        notes += [f"no source has a price for {line.bucket} of {line.model}" for line in lines if line.usd is None]
    notes += [f"no source has a factor for: {one.label}" for one in factors if one.factor is None]
    notes += [f"no source has a price for: {fee.label}" for fee in extra if fee.usd is None]
    if card.entry and "off_peak_pricing" in card.entry and request.holiday is None and calendar_ends(request.at):
        notes.append("the public holidays of that year are not known here; say `holiday` in the context")
    return notes


def _by_second(vendor: str, model: str, usage: Fields, context: Fields) -> Priced:
    """A model on one's own machine: its seconds at the machine's price, and its tokens are free."""
    unit = read_second_usd(context)
    seconds = usage.quantity("gpu_seconds", "seconds", "duration_s")
    notes = () if seconds is not None else ("usage has no `gpu_seconds`",)
    fee = () if seconds is None else (Fee("gpu second", seconds, unit, "context"),)
    total = None if seconds is None else (seconds * unit).normalize()
    source: Literal["price", "none"] = "none" if total is None else "price"
    return Priced(vendor, model, total, (), (), fee, source, total, estimated=False, notes=notes)
