"""The only door to genai-prices: what a model costs at an instant, with the changes that are announced.

Importing it takes a tenth of a second and opens no connection; the prices are those of the installed release.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any

Steps = tuple[tuple[int, Decimal], ...]
"""A price by length of the prompt: it holds for prompts longer than the number beside it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The prices of one model at one instant, by the library's names for them."""

    model: str
    """The library's own name of the model."""
    standard: Mapping[str, Steps]
    variant: Mapping[str, Steps]
    """Prices that differ in the tier that was asked for; empty where the library lists no such tier."""
    dated: bool
    """Whether the library knows of a change, past or to come."""
    begun: bool
    """Whether the price in force began at a known date, rather than before all known ones."""


def history(provider: str, model: str, at: datetime, when: Mapping[str, str]) -> Snapshot | None:
    """What the library knows of a model, or `None`. `when` names a tier in its words: `{"processing": "batch"}`."""
    found = _find(provider, model)
    if found is None:
        return None
    conditional = found.prices if isinstance(found.prices, list) else []
    active = [one for one in conditional if one.constraint is not None and one.constraint.active(at)]
    return Snapshot(
        found.id,
        _steps(found.get_prices(at)),
        _variant(found, at, when),
        dated=any(one.constraint is not None for one in conditional),
        begun=bool(active),
    )


def announced(provider: str, model: str, at: datetime) -> tuple[str, Decimal, Decimal] | None:
    """The next change that the library knows of: its date, and the prices of a million tokens in and out."""
    found = _find(provider, model)
    prices = found.prices if found is not None and isinstance(found.prices, list) else []
    dated = [(getattr(one.constraint, "start_date", None), one.prices) for one in prices]
    coming = sorted(((date, one) for date, one in dated if date and date > at.date()), key=lambda pair: pair[0])
    for date, one in coming:
        into, out = (dict(_steps(one).get(name, ())).get(-1) for name in ("input_mtok", "output_mtok"))
        if into is not None and out is not None:
            return date.isoformat(), into, out
    return None


@functools.cache
def history_name() -> str:
    """Which release it is, for the record of a price."""
    return f"genai-prices {version('genai-prices')}"


@functools.lru_cache(maxsize=1024)
def _find(provider: str, model: str) -> Any:
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider_model(model, None, provider, None)[1]
    except LookupError:
        return None


def _variant(model: Any, at: datetime, when: Mapping[str, str]) -> dict[str, Steps]:
    prices: dict[str, Steps] = {}
    for variant in model.price_variants or () if when else ():
        if variant.when == when and (variant.constraint is None or variant.constraint.active(at)):
            prices = _steps(variant.prices) | prices
    return prices


def _steps(prices: Any) -> dict[str, Steps]:
    return {name: _as_steps(price) for name, price in vars(prices).items() if price is not None}


def _as_steps(price: Any) -> Steps:
    if isinstance(price, Decimal):
        return ((-1, price),)
    return ((-1, price.base), *((tier.start, tier.price) for tier in price.tiers))
