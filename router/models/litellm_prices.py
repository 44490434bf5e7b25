"""litellm's price map: an entry as a `Price` of the policy, and the map as it was shipped, read from its file."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from router.core.policy import Price, PriceTier
from router.core.pricing import exactly

_FILE = "model_prices_and_context_window_backup.json"


@functools.cache
def price_map() -> Mapping[str, Mapping[str, Any]]:
    """Every entry by its name; reading the file spares the library's import, and nobody has changed it."""
    found = find_spec("litellm")
    path = Path(next(iter(found.submodule_search_locations or ()), "")) / _FILE if found else Path(_FILE)
    if not path.is_file():  # litellm keeps it elsewhere now.
        from router.models.litellm_library import library

        entries: Mapping[str, Mapping[str, Any]] = library().model_cost
        return entries
    loaded: dict[str, Mapping[str, Any]] = json.loads(path.read_bytes())
    return loaded


@functools.cache
def map_name() -> str:
    """Which map it is, for the record of a price."""
    return f"litellm {version('litellm')}"


_FIELDS = {
    "input_usd_per_mtok": "input_cost_per_token",
    "cached_read_usd_per_mtok": "cache_read_input_token_cost",
    "cache_write_usd_per_mtok": "cache_creation_input_token_cost",
    "cache_write_1h_usd_per_mtok": "cache_creation_input_token_cost_above_1hr",
    "output_usd_per_mtok": "output_cost_per_token",
    "reasoning_usd_per_mtok": "output_cost_per_reasoning_token",
    "input_audio_usd_per_mtok": "input_cost_per_audio_token",
    "output_audio_usd_per_mtok": "output_cost_per_audio_token",
    "output_image_usd_per_mtok": "output_cost_per_image_token",
}
_TIER = re.compile(r"input_cost_per_token(?:_above_(\d+)k_tokens)?(?:_(flex|priority|ultrafast|batches))?$")


def price_of(entry: Mapping[str, Any]) -> Price | None:
    """The entry's prices; `None` when it lists none or only zeros, which stand for "unknown" there."""
    with exactly():
        return _price_of(entry)


def _price_of(entry: Mapping[str, Any]) -> Price | None:
    plain = _rates(entry, "")
    if not plain:
        return None
    usual = dict(plain)
    request = entry.get("input_cost_per_request")
    if request:
        usual["request_usd"] = Decimal(repr(request))
    # xAI's dearer prices begin at a length, all others' above it.
    edge = 1 if entry.get("litellm_provider") == "xai" else 0
    tiers, limits = [], []
    for above, tier in sorted({(found[1], found[2]) for name in entry if (found := _TIER.match(name))}, key=str):
        if not above and not tier:
            continue
        rates = _rates(entry, (f"_above_{above}k_tokens" if above else "") + (f"_{tier}" if tier else ""))
        longer = int(above) * 1000 - edge if above else 0
        if "input_usd_per_mtok" in rates and "output_usd_per_mtok" in rates:
            tiers.append(PriceTier(longer, "batch" if tier == "batches" else tier or "", **rates))
        elif not tier:
            limits.append(longer)
    tiers += [other for one in (PriceTier(**plain), *tiers) for other in _also(entry, one)]
    return Price(**usual, up_to_input_tokens=min(limits, default=None), tiers=tuple(tiers))


def _also(entry: Mapping[str, Any], price: PriceTier) -> Iterator[PriceTier]:
    """The same prices under a name of the vendor's own, or with its factors for a place and a speed."""
    if entry.get("litellm_provider") in ("openai", "azure") and price.service_tier == "priority":
        yield replace(price, service_tier="fast")
    factors = entry.get("provider_specific_entry") or {}
    if entry.get("litellm_provider") == "anthropic" and not price.service_tier:
        known = {name: Decimal(repr(factors[name])) for name in ("fast", "us") if name in factors}
        for name, factor in known.items():
            yield _times(price, name, factor)
        if len(known) > 1:
            yield _times(price, "-".join(known), math.prod(known.values(), start=Decimal(1)))


def _times(price: PriceTier, tier: str, factor: Decimal) -> PriceTier:
    rates = {name: getattr(price, name) for name in _FIELDS}
    rates = {name: rate if rate is None else rate * factor for name, rate in rates.items()}
    return PriceTier(price.above_input_tokens, tier, **rates)


def _rates(entry: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    found = {ours: entry.get(f"{theirs}{suffix}") for ours, theirs in _FIELDS.items()}
    return {name: Decimal(repr(value)) * 1_000_000 for name, value in found.items() if value}
