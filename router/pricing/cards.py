"""The price of a bucket for one request, out of the two sources: litellm's map and genai-prices.

litellm's map knows more tiers, regions and weekly windows; genai-prices knows dates. Where both list a model and
disagree, a dated price wins over an undated one, and the map's tiers then count as ratios.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from router.models.litellm_prices import map_name, price_map
from router.models.price_history import Snapshot, history, history_name
from router.pricing.shapes import OUTPUT
from router.pricing.vendors import BATCH, DECISIONS, STANDARD, Rule, Vendor, is_claude, rule_of
from router.pricing.windows import in_window

_PER_MTOK = 1_000_000

# Beginnings of the map's keys, and the library's names, for each bucket.
_STEMS = {
    "input": "input_cost_per_token",
    "input_audio": "input_cost_per_audio_token",
    "input_image": "input_cost_per_image_token",
    "input_video": "input_cost_per_video_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_read_audio": "cache_read_input_audio_token_cost",
    "cache_read_image": "cache_read_input_image_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "cache_write_12h": "cache_creation_input_token_cost_above_12hr",
    "output": "output_cost_per_token",
    "reasoning": "output_cost_per_reasoning_token",
    "output_audio": "output_cost_per_audio_token",
    "output_image": "output_cost_per_image_token",
    "output_video": "output_cost_per_video_token",
}
_DATED = {
    "input": "input_mtok",
    "input_audio": "input_audio_mtok",
    "input_image": "input_image_mtok",
    "input_video": "input_video_mtok",
    "cache_read": "cache_read_mtok",
    "cache_read_audio": "cache_audio_read_mtok",
    "cache_read_image": "cache_image_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
    "output_audio": "output_audio_mtok",
    "output_image": "output_image_mtok",
    "output_video": "output_video_mtok",
}
_SUFFIXES = {BATCH: "_batches", STANDARD: ""}
_BAND = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_CACHED = ("cache_read", "cache_read_audio", "cache_read_image", "cache_read_video")


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of a bucket."""

    usd_per_mtok: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that the price of a bucket depends on."""

    vendor: Vendor
    model: str
    at: datetime
    tier: str
    prompt_tokens: int
    holiday: bool | None = None
    """Whether it was a public holiday where the vendor is; `None` when that is for the calendar to say."""
    name: str = ""
    entry: Mapping[str, Any] | None = None
    dated: Snapshot | None = None

    @property
    def known(self) -> bool:
        """Whether either source lists the model."""
        return self.entry is not None or self.dated is not None

    def rate(self, bucket: str) -> Rate | None:
        """The price of a bucket in the tier that was served; `None` when nobody lists it."""
        for other, factor in _chain(bucket, claude=is_claude(self.model)):
            found = self._price(other)
            if found is not None:
                note = "" if other == bucket else f", as {factor}x {other}" if factor != 1 else f", as {other}"
                return Rate(found.usd_per_mtok * factor, found.source + note)
        return None

    def _price(self, bucket: str) -> Rate | None:
        standard = self._standard(bucket)
        if self.tier == STANDARD:
            return standard
        if self.tier == DECISIONS:
            return _decision(bucket, standard)
        if bucket == "reasoning" and standard == self._standard("output"):
            return None  # It is output, and the tier's price for that holds.
        rule = rule_of(self.vendor, self.model, self.tier)
        listed = None if rule and rule.always else self._listed_tier(bucket)
        if listed is not None or rule is None or standard is None:
            return listed
        return self._by_rule(rule, bucket, standard)

    def _by_rule(self, rule: Rule, bucket: str, standard: Rate) -> Rate | None:
        if bucket in _CACHED and rule.cached != "same":
            return None if rule.cached == "input" else standard
        return Rate(standard.usd_per_mtok * rule.factor, f"{standard.source} x {rule.factor} ({self.tier})")

    def _standard(self, bucket: str) -> Rate | None:
        ours, theirs = self._mapped(bucket, STANDARD), self._stepped(bucket, STANDARD)
        if not self.outdated:
            return ours or theirs
        return theirs or self._moved(ours, "output" if bucket in OUTPUT else "input", STANDARD)

    def _listed_tier(self, bucket: str) -> Rate | None:
        ours, theirs = self._mapped(bucket, self.tier), self._stepped(bucket, self.tier)
        if self.outdated:
            return theirs or self._moved(ours, bucket, self.tier)
        # In a longer band the map's tiers have gaps, and genai-prices says where none is published.
        return (theirs or ours or self._scaled(bucket)) if self._band else (ours or theirs)

    def _moved(self, price: Rate | None, beside: str, tier: str) -> Rate | None:
        """A price of the outdated map, changed as the price `beside` it has changed since."""
        old, new = self._mapped(beside, STANDARD), self._stepped(beside, STANDARD)
        if price is None or old is None or new is None:
            return None
        return _in_proportion(price, old, new, tier)

    def _scaled(self, bucket: str) -> Rate | None:
        """A tier whose price for long prompts is not listed: in proportion to the standard ones."""
        short = replace(self, prompt_tokens=0)
        tier, old, new = short._mapped(bucket, self.tier), short._mapped(bucket, STANDARD), self._standard(bucket)
        return None if tier is None or old is None or new is None else _in_proportion(tier, old, new, self.tier)

    @property
    def disagrees(self) -> bool:
        """Whether both sources list the model at different prices."""
        for bucket in ("input", "output"):
            ours, theirs = self._mapped(bucket, STANDARD), self._stepped(bucket, STANDARD)
            if ours and theirs and ours.usd_per_mtok != theirs.usd_per_mtok:
                return True
        return False

    @property
    def outdated(self) -> bool:
        """Whether the map's price is not the one in force: a dated one of the very same model says something else."""
        if self.entry is None or self.dated is None or not self.dated.dated:
            return False
        if "off_peak_pricing" in self.entry and self.dated.begun:
            return False  # The map's windows know weekdays, the library's only hours.
        same = any(one in (self.dated.model, f"{self.dated.model}-0") for one in _spellings(self.vendor, self.model))
        return same and self.disagrees

    @property
    def _band(self) -> str:
        """The part of the map's keys for a prompt of this length; empty up to the first length that has its own."""
        edge = 1 if self.vendor.inclusive_band else 0
        limits = {int(found[1]) for name in self.entry or () if (found := _BAND.match(name))}
        over = [limit for limit in limits if self.prompt_tokens + edge > limit * 1000]
        return f"_above_{max(over)}k_tokens" if over else ""

    def _mapped(self, bucket: str, tier: str) -> Rate | None:
        stem = _STEMS.get(bucket)
        if self.entry is None or stem is None:
            return None
        suffix = _SUFFIXES.get(tier, f"_{tier}")
        value = self.entry.get(f"{stem}{self._band}{suffix}")
        if not value and self._band and bucket not in ("input", "output", "reasoning"):
            value = None if self.entry.get(f"{stem}{self._band}") else self.entry.get(f"{stem}{suffix}")
        windows = self.entry.get("off_peak_pricing")
        if windows and tier == STANDARD and in_window(windows["windows"], self.at, self.holiday):
            value = windows.get(stem, value)
        if not isinstance(value, int | float) or not value > 0:  # A zero stands for "unknown" in the map.
            return None
        return Rate(Decimal(repr(value)) * _PER_MTOK, f"{map_name()} {self.name}")

    def _stepped(self, bucket: str, tier: str) -> Rate | None:
        if self.dated is None:
            return None
        prices = self.dated.standard if tier == STANDARD else self.dated.variant
        steps = prices.get(_DATED.get(bucket, ""))
        if steps is None:
            return None
        price = next(price for start, price in reversed(steps) if self.prompt_tokens > start)
        return Rate(price, f"{history_name()} {self.dated.model}") if price else None


def _in_proportion(price: Rate, old: Rate, new: Rate, tier: str) -> Rate:
    amount = new.usd_per_mtok * price.usd_per_mtok / old.usd_per_mtok
    return Rate(amount, f"{new.source}, {tier} in the proportion of {price.source}")


def card_for(vendor: Vendor, model: str, at: datetime, tier: str, prompt_tokens: int, holiday: bool | None) -> Card:
    """The card of a request."""
    name, entry = find_entry(vendor, model)
    dated = None
    if vendor.history:
        plain = next(_spellings(vendor, model))
        dated = history(vendor.history, plain, at, _when(tier))
        if dated is None and "@" in plain:
            dated = history(vendor.history, plain.partition("@")[0], at, _when(tier))
    card = Card(vendor, model, at, tier, prompt_tokens, holiday, name, entry, dated)
    # Another price that is not a dated one is another model's, or of another place.
    return replace(card, dated=None) if card.disagrees and not card.outdated else card


def find_entry(vendor: Vendor, model: str) -> tuple[str, Mapping[str, Any] | None]:
    """The map's entry for a vendor's model and its name there; a dated name falls back on the undated one."""
    for spelling in _spellings(vendor, model):
        for pattern in vendor.names_in_map:
            name = pattern.format(spelling)
            entry = price_map().get(name)
            if entry and str(entry.get("litellm_provider", "")).startswith(vendor.provider):
                return name, entry
    return "", None


def _spellings(vendor: Vendor, model: str) -> Iterator[str]:
    plain = model.strip()
    for prefix in (*(pattern.removesuffix("{}") for pattern in vendor.names_in_map), "models/"):
        if prefix.endswith("/"):
            plain = plain.removeprefix(prefix)
    yield plain
    undated = re.sub(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|@[\w-]+)$", "", plain)
    if undated != plain:
        yield undated


def _when(tier: str) -> Mapping[str, str]:
    if tier == STANDARD:
        return {}
    return {"processing": BATCH} if tier == BATCH else {"service_tier": tier}


def _decision(bucket: str, standard: Rate | None) -> Rate | None:
    """OpenAI's decisions: output is free, and cached input costs what other input does (its guide, October 2026)."""
    if bucket in ("output", "reasoning"):
        return Rate(Decimal(0), "free in decisions")
    return None if bucket.startswith("cache") else standard


def _chain(bucket: str, *, claude: bool) -> Iterator[tuple[str, Decimal]]:
    """The bucket, then what it costs where nobody lists it: the price of another one, at a factor of the vendor's.

    Anthropic writes for an hour at twice the input price and for five minutes at 1.25 times (its documentation);
    OpenAI writes for 12 hours at 2.5 times, twice what it takes for 30 minutes (its SDK 3.52).
    """
    one, two = Decimal(1), Decimal(2)
    yield bucket, one
    kind = bucket.rpartition("_")[2]
    if bucket == "reasoning":
        yield "output", one
    elif bucket == "output":  # A model that makes images only has no price for text.
        yield "output_image", one
    elif bucket == "cache_write_12h":
        yield "cache_write", two
        yield "input", Decimal("2.5")
    elif bucket == "cache_write_1h" and claude:
        yield "input", two
    elif bucket == "cache_write":
        yield "input", Decimal("1.25") if claude else one
    elif bucket.startswith("cache_read"):
        if kind != "read":
            yield f"input_{kind}", one
            yield "cache_read", one
        if not claude:  # Its discount differs by model.
            yield "input", one
    elif bucket.startswith("input_") or bucket == "tool_input":
        yield "input", one
