"""What is billed beside tokens: searches and other tools of the vendor's, sessions, pages, seconds, requests.

Unit prices come from the sources where they list them. The rest are the vendors' own fees, the same for all models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from router.pricing.cards import Card
from router.pricing.fields import Fields, count
from router.pricing.request import Request
from router.pricing.vendors import BATCH, rule_of

# Dollars for one call, hour or session. Anthropic: web search 10 for 1,000, web fetch free, sessions of managed agents
# 0.08 and containers of code execution 0.05 an hour (platform.claude.com, 2026-08-21). OpenAI: file search 2.50 for
# 1,000 (its pricing page, through genai-prices 0.2.3). xAI: by tool, for 1,000 (docs.x.ai, 2026-10). Azure: web search
# 14 for 1,000 (prices.azure.com, through the map). Groq: web search of its compound models 5 for 1,000.
_FEES = {
    "anthropic": {
        "web_search": "0.01",
        "web_fetch": "0",
        "session_hour": "0.08",
        "code_execution_hour": "0.05",
    },
    "openai": {"file_search": "0.0025"},
    "azure": {"web_search": "0.014", "file_search": "0.0025"},
    "groq": {"web_search": "0.005"},
    "xai": {
        "web_search": "0.005",
        "x_search": "0.005",
        "code_execution": "0.005",
        "attachment_search": "0.01",
        "collections_search": "0.0025",
    },
}
# Vendor-wide fees that win over the map, which lists another figure for some of the vendor's models.
_OVER_MAP = frozenset({"azure"})
_SAME_TOOL = {
    "code_interpreter": "code_execution",
    "document_search": "attachment_search",
    "google_search": "web_search",
    "google_maps": "maps_search",
}
# Storage of explicit caches a million tokens and hour (ai.google.dev, 2026-09): Pro; Flash; 3.6 to 3.8 Flash.
_STORAGE = (("pro", "4.5"), (r"3\.[678]-flash", "0.5"), ("flash", "1"))
_TOOL_OBJECTS = ("server_tool_use", "server_side_tool_usage_details", "server_side_tool_usage", "tool_usage")
_TOOL_COUNTS = ("web_search_calls", "web_search_requests", "file_search_calls", "maps_search_calls")


@dataclass(frozen=True, slots=True)
class Fee:
    """Something that is billed by its number rather than its tokens."""

    label: str
    quantity: Decimal
    unit_usd: Decimal | None
    source: str

    @property
    def usd(self) -> Decimal | None:
        """What it costs; `None` when its price is unknown and there is any of it."""
        if self.unit_usd is None:
            return None if self.quantity else Decimal(0)
        return self.quantity * self.unit_usd


def fees(request: Request, card: Card) -> list[Fee]:
    """Everything beside tokens that a usage says was used."""
    found = [_tool(name, number, request, card) for name, number in _tools(request.usage).items()]
    for read in _READERS:
        found += read(request, card)
    return found


def _tools(usage: Fields) -> dict[str, int]:
    """Calls of the vendor's own tools by their plain names."""
    calls: dict[str, int] = {}
    for place in _TOOL_OBJECTS:
        inner = usage.inner(place)
        for name in inner.data:
            value = inner.value(name)
            number = 0 if value is None else count(value, f"{inner.place}.{name}")
            calls[_plain(name)] = calls.get(_plain(name), 0) + number
    for name in _TOOL_COUNTS:
        if usage.has(name):
            calls[_plain(name)] = calls.get(_plain(name), 0) + usage.count(name)
    for used in usage.items("grounding_tool_count"):
        name = _plain(used.text("type", "tool"))
        calls[name] = calls.get(name, 0) + used.count("count")
    searches = usage.value("webSearchQueries", "web_search_queries")
    if searches is not None:
        number = len(searches) if isinstance(searches, list | tuple) else usage.count("webSearchQueries")
        calls["web_search"] = calls.get("web_search", 0) + number
    return calls


def _plain(name: str) -> str:
    plain = name.lower().removeprefix("server_side_tool_").removesuffix("_calls").removesuffix("_requests")
    return _SAME_TOOL.get(plain, plain)


def _tool(name: str, number: int, request: Request, card: Card) -> Fee:
    vendor = request.vendor.name
    quantity = Decimal(number)
    if request.context.value("free_quota") is True:
        return Fee(name, quantity, Decimal(0), "within the free quota")
    if name == "web_search":
        quantity, unit, source = _search(quantity, request, card)
        return Fee("grounded prompt" if _by_prompt(request) else name, quantity, unit, source)
    if name == "maps_search":
        return Fee(name, quantity, *_of_map(card, "google_maps_grounding_cost_per_query"))
    if name == "code_execution" and vendor == "anthropic" and _with_web(request):
        return Fee(name, quantity, Decimal(0), "free beside web search and web fetch")
    if name == "file_search" and vendor == "xai":
        name = "collections_search"
    fee = _FEES.get(vendor, {}).get(name)
    return Fee(name, quantity, None if fee is None else Decimal(fee), "vendor's fee" if fee else "no source")


def _with_web(request: Request) -> bool:
    used = request.usage.inner("server_tool_use")
    return bool(used.count("web_search_requests") + used.count("web_fetch_requests"))


def _by_prompt(request: Request) -> bool:
    """Gemini before 3 bills a grounded prompt once, however many queries it took; later ones bill each query."""
    return 0 < _generation(request) < 3


def _generation(request: Request) -> int:
    found = re.search(r"gemini-(\d+)", request.model)
    return int(found[1]) if found else 0


def found_free(request: Request) -> bool:
    """Whether tokens that tools brought into the prompt are free: Gemini 3 and later do not charge what a search found.

    A usage does not tell them from what other tools brought, so only a request that used nothing else counts.
    """
    used = [name for name, number in _tools(request.usage).items() if number]
    return used == ["web_search"] and _generation(request) >= 3


def _search(quantity: Decimal, request: Request, card: Card) -> tuple[Decimal, Decimal | None, str]:
    if _by_prompt(request):
        quantity = min(quantity, Decimal(1))
    fee = _FEES.get(request.vendor.name, {}).get("web_search")
    if fee is not None and request.vendor.name in _OVER_MAP:
        return quantity, Decimal(fee), "vendor's fee"
    size = request.usage.text("search_context_size") or request.context.text("search_context_size") or "medium"
    unit, source = _of_map(card, "search_context_cost_per_query", f"search_context_size_{size}")
    if unit is None and card.dated is not None and "web_searches_kcount" in card.dated.standard:
        unit, source = card.dated.standard["web_searches_kcount"][0][1] / 1000, card.dated.model
    if unit is None and fee is not None:
        unit, source = Decimal(fee), "vendor's fee"
    return quantity, unit, source


def _sessions(request: Request, card: Card) -> Iterator[Fee]:
    own = _FEES.get(request.vendor.name, {})
    for label, names in (
        ("session_hour", ("session_hours",)),
        ("code_execution_hour", ("code_execution_hours", "container_hours")),
    ):
        hours = request.usage.quantity(*names)
        if hours is not None:
            yield Fee(label, hours, Decimal(own[label]) if label in own else None, "vendor's fee")
    sessions = request.usage.tokens("code_interpreter_sessions", "container_sessions")
    if sessions is not None:
        container = Card(card.vendor, "container", card.at, card.tier, 0, name="container", entry=_container(request))
        yield Fee(
            "code_interpreter_session", Decimal(sessions), *_of_map(container, "code_interpreter_cost_per_session")
        )


def _container(request: Request) -> Any:
    from router.models.litellm_prices import price_map

    return price_map().get(f"{request.vendor.name}/container")


def _units(request: Request, card: Card) -> Iterator[Fee]:
    """Cohere's search units, classifications, images and pages."""
    units = request.usage.inner("billed_units")
    for name, key in (
        ("search_units", "input_cost_per_query"),
        ("classifications", "input_cost_per_classification"),
        ("images", "input_cost_per_image"),
        ("pages", "ocr_cost_per_page"),
    ):
        number = units.quantity(name)
        if number:
            yield Fee(name.rstrip("s"), number, *_of_map(card, key))


def _pages(request: Request, card: Card) -> Iterator[Fee]:
    """Pages of documents that were read; those with annotations have a price that includes the reading."""
    places = (request.usage.inner("usage_info"), request.usage)
    pages = max(place.count("pages_processed", "pages") for place in places)
    annotated = max(place.count("annotated_pages", "pages_annotated") for place in places)
    if annotated:
        yield Fee("annotated page", Decimal(annotated), *_tiered(card, "annotation_cost_per_page"))
    if pages > annotated:
        yield Fee("page", Decimal(pages - annotated), *_tiered(card, "ocr_cost_per_page"))


def _seconds(request: Request, card: Card) -> Iterator[Fee]:
    """Sound by its length, where it is billed so; Groq bills at least ten seconds."""
    usage = request.usage
    seconds = usage.quantity("audio_seconds", "prompt_audio_seconds", "input_audio_seconds")
    if seconds is None and usage.text("type") == "duration":
        seconds = usage.quantity("seconds", "duration")
    if not seconds:
        return
    if request.vendor.name == "groq":
        seconds = max(seconds, Decimal(10))
    unit, source = _of_map(card, "input_cost_per_second")
    hourly = card.dated.standard.get("audio_hours") if card.dated else None
    if unit is None and hourly:
        assert card.dated is not None
        seconds, unit, source = seconds / 3600, hourly[0][1], card.dated.model
        yield Fee("audio hour", seconds, unit, source)
        return
    yield Fee("audio second", seconds, unit, source)


def _storage(request: Request, _card: Card) -> Iterator[Fee]:
    hours = request.usage.quantity("storage_mtok_hours", "cache_storage_mtok_hours")
    if hours:
        found = next((usd for part, usd in _STORAGE if re.search(part, request.model)), None)
        known = found is not None and request.vendor.name in ("google", "vertex")
        yield Fee("cache storage, Mtok hour", hours, Decimal(found) if found and known else None, "vendor's fee")


def _requests(request: Request, card: Card) -> Iterator[Fee]:
    """A price for the request itself, where there is one; Perplexity's depends on how much its search reads."""
    size = request.usage.text("search_context_size") or request.context.text("search_context_size")
    if request.vendor.name == "perplexity" and size:
        key = f"search_context_size_{size}"
        yield Fee("searching request", Decimal(1), *_of_map(card, "search_context_cost_per_query", key))
        return
    unit, source = _of_map(card, "input_cost_per_request")
    thousand = card.dated.standard.get("requests_kcount") if card.dated else None
    if unit is None and thousand:
        assert card.dated is not None
        unit, source = thousand[0][1] / 1000, card.dated.model
    if unit is not None:
        yield Fee("request", Decimal(1), unit, source)


_READERS: Sequence[Callable[[Request, Card], Iterator[Fee]]] = (
    _sessions,
    _units,
    _pages,
    _seconds,
    _storage,
    _requests,
)


def _tiered(card: Card, key: str) -> tuple[Decimal | None, str]:
    if card.tier != BATCH:
        return _of_map(card, key)
    listed, source = _of_map(card, f"{key}_batches")
    rule = rule_of(card.vendor, card.model, BATCH)
    unit, base = _of_map(card, key)
    if listed is not None or rule is None or unit is None:
        return listed, source
    return unit * rule.factor, f"{base} x {rule.factor} ({BATCH})"


def _of_map(card: Card, *path: str) -> tuple[Decimal | None, str]:
    value: Any = card.entry or {}
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, int | float) or not value > 0:
        return None, "no source"
    return Decimal(repr(value)), card.name
