"""Factors on all tokens of a request: where it was processed, and Anthropic's fast mode.

They hold for tokens and not for fees: "all token categories" says Anthropic, and the others are silent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from router.models.price_history import history
from router.pricing.cards import Card, find_entry
from router.pricing.request import Request
from router.pricing.vendors import Vendor, is_claude

_TENTH = Decimal("1.1")
_GEOGRAPHIES = ("us-gov", "us", "eu", "jp", "au", "apac", "in", "ca", "sa", "global")
_VERTEX_SURCHARGE_BEGAN = datetime(2026, 7, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Surcharge:
    """One factor on every token; an unknown one makes the price unknown."""

    label: str
    factor: Decimal | None


def surcharges(request: Request, card: Card) -> list[Surcharge]:
    """The factors that hold for a request, by the map where it has them and by the vendor's rule where not."""
    found = []
    if request.fast:
        found.append(Surcharge("fast mode", _fast(request, card)))
    by_zone = _ZONES.get(request.vendor.name)
    if request.zone and by_zone is not None:
        factor = by_zone(request.zone, card)
        if factor != 1:
            found.append(Surcharge(f"processed in {request.zone}", factor))
    return found


def _entry_factor(card: Card, *path: str) -> Decimal | None:
    value: Any = card.entry or {}
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return Decimal(repr(value)) if isinstance(value, int | float) and value > 0 else None


def _fast(request: Request, card: Card) -> Decimal | None:
    listed = _entry_factor(card, "provider_specific_entry", "fast")
    if listed is not None or card.dated is None:
        return listed
    swift = history(request.vendor.history or "", card.dated.model, request.at, {"speed": "fast"})
    if swift is None or "input_mtok" not in swift.variant:
        return None
    return swift.variant["input_mtok"][0][1] / swift.standard["input_mtok"][0][1]


def _anthropic(zone: str, card: Card) -> Decimal | None:
    """`inference_geo: us` on every token category, for 4.6 and later (platform.claude.com); older models refuse it."""
    if zone != "us":
        return None
    return _entry_factor(card, "provider_specific_entry", "us") or _TENTH


def _openai(zone: str, card: Card) -> Decimal | None:
    """The hosts `us.` and `eu.`, for models since 2026-03-05 (developers.openai.com); the map lists those."""
    if zone not in ("us", "eu") or card.entry is None:
        return None
    return _entry_factor(card, f"regional_processing_uplift_multiplier_{zone}") or Decimal(1)


def _vertex(_zone: str, card: Card) -> Decimal | None:
    """Endpoints of a region, since 2026-07-01, for what the map lists (cloud.google.com)."""
    if card.entry is None:
        return None
    if not is_claude(card.model) and card.at < _VERTEX_SURCHARGE_BEGAN:
        return Decimal(1)
    return _entry_factor(card, "regional_endpoint_uplift_multiplier") or Decimal(1)


def _xai(zone: str, _card: Card) -> Decimal | None:
    """The endpoint in the US (docs.x.ai)."""
    return _TENTH if zone.startswith("us") else Decimal(1)


def _fireworks(zone: str, card: Card) -> Decimal | None:
    """Serving in the US only, since 2026-09-01 (docs.fireworks.ai); names that end in `-us` have it in their price."""
    return Decimal("1.5") if zone.startswith("us") and not card.model.endswith("-us") else Decimal(1)


def _mistral(zone: str, _card: Card) -> Decimal | None:
    """The hosts `api.eu` and `api.us`, on top of any other factor (Mistral's pricing code, 2026-08-21)."""
    return _TENTH if zone in ("eu", "us") else None


def _azure(zone: str, card: Card) -> Decimal | None:
    """Data zones; a name that the map lists with its zone has it in its price (prices.azure.com, through the map).

    The US zone is 1.1 times; Europe and Asia are 1.2 times for the gpt-6 family and 1.1 times before it.
    """
    if card.name.startswith(f"azure/{zone}/"):
        return Decimal(1)
    if zone == "us":
        return _TENTH
    newer = re.search(r"gpt-6", card.model) is not None
    return (Decimal("1.2") if newer else _TENTH) if zone in ("eu", "apac") else None


def _bedrock(zone: str, card: Card) -> Decimal | None:
    """Profiles of a geography and single regions: a tenth more for Claude and OpenAI, a fifth in us-gov.

    Amazon's own models have prices of their own there, which only the map knows (AWS price list, through the map).
    """
    if _geography(card.name):
        return Decimal(1)
    if not is_claude(card.model) and "openai." not in card.model:
        return None
    return Decimal("1.2") if "gov" in zone else _TENTH


_ZONES = {
    "anthropic": _anthropic,
    "openai": _openai,
    "vertex": _vertex,
    "xai": _xai,
    "fireworks": _fireworks,
    "mistral": _mistral,
    "azure": _azure,
    "bedrock": _bedrock,
}


def located(vendor: Vendor, model: str, zone: str) -> tuple[str, str]:
    """The model and the zone under which to look: some vendors write the zone into the name.

    A name with its zone stays where the map lists it; otherwise the plain name is looked up and the zone is a factor.
    """
    if vendor.name == "azure":
        prefix, _, plain = model.removeprefix("azure/").rpartition("/")
        zone = prefix or zone
        full = f"{zone}/{plain}" if zone else plain
        return (full if zone and find_entry(vendor, full)[1] else plain), zone
    if vendor.name == "bedrock":
        prefix = _geography(model)
        plain = model.removeprefix(f"{prefix}.") if prefix else model
        inside = prefix or next((one for one in _GEOGRAPHIES[:-1] if zone.startswith(one)), "")
        if prefix == "global":
            return (model if find_entry(vendor, model)[1] else plain), ""
        full = f"{inside}.{plain}" if inside else plain
        return (full if find_entry(vendor, full)[1] else plain), prefix or zone
    return model, zone


def _geography(name: str) -> str:
    return next((one for one in _GEOGRAPHIES if name.startswith(f"{one}.")), "")
