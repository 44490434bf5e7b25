"""`router models`: what each model of the policies costs, takes and can do, and whether it can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from router.cli.common import AsJson, Environment, Policies, print_json, print_table

if TYPE_CHECKING:
    from router.core.policy import Price, PriceTier


def models(policies: Policies = None, environment: Environment = None, as_json: AsJson = False) -> None:
    """Show each model of the policies: price, context window, capabilities, key, and the tasks that use it."""
    from time import time

    from router.core.dated import next_change, own_price, price_source
    from router.core.ladder import uses
    from router.core.policy import Price
    from router.core.pricing import merged
    from router.models.real import RealModels
    from router.spec import load

    loaded = load(policies, environment=environment)
    if loaded.folder is None:
        raise typer.Exit(2)
    backend, now_s = RealModels(loaded.folder), time()
    rows: list[dict[str, Any]] = []
    for name, model in loaded.policy.models.items():
        facts = backend.facts(model)
        own, change = own_price(model.price, now_s), next_change(model.price, facts.price, now_s)
        price = merged(own, facts.price)
        about = backend.about(model)
        rows.append(
            {
                "model": name,
                "litellm": model.litellm,
                **_amounts(price),
                **_machine(price),
                "tiers": [_tier(one) for one in price.tiers],
                "price_source": price_source(own, facts.price, facts.price_source) or None,
                "announced_price": None if change or own != Price() else _announced(model.litellm, now_s),
                "next_price": {"starts": _date(change.starts_s), **_amounts(change.price)} if change else None,
                "context_tokens": model.context_tokens or facts.context_tokens,
                "capabilities": list(about.capabilities),
                "key": about.key,
                "used_by": [task for task, one in loaded.policy.tasks.items() if uses(one.ladder, name)],
            }
        )
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_table(["model", row["model"]], _lines(row), numbers=())
        typer.echo("")


def _amounts(price: Price) -> dict[str, str | None]:
    from router.core.pricing import second_usd

    return {
        "input_usd_per_mtok": _plain(price.input_usd_per_mtok),
        "cached_read_usd_per_mtok": _plain(price.cached_read_usd_per_mtok),
        "cache_write_usd_per_mtok": _plain(price.cache_write_usd_per_mtok),
        "cache_write_1h_usd_per_mtok": _plain(price.cache_write_1h_usd_per_mtok),
        "output_usd_per_mtok": _plain(price.output_usd_per_mtok),
        "request_usd": _plain(price.request_usd),
        "gpu_second_usd": _plain(second_usd(price)),
    }


def _machine(price: Price) -> dict[str, Any]:
    """What the price of a second of one's own machine is made of, where it is given by the hour."""
    by_hour = price.gpu_hour_usd is not None
    return {
        "gpu_hour_usd": _plain(price.gpu_hour_usd),
        "gpu_concurrency": price.gpu_concurrency if by_hour else None,
        "gpu_utilisation": price.gpu_utilisation if by_hour else None,
    }


def _tier(tier: PriceTier) -> dict[str, Any]:
    """The prices of a tier that are known, and when they hold."""
    parts = (part.name for part in fields(tier) if part.name.endswith("_usd_per_mtok"))
    known = {name: _plain(getattr(tier, name)) for name in parts if getattr(tier, name) is not None}
    return {"service_tier": tier.service_tier, "above_input_tokens": tier.above_input_tokens, **known}


def _announced(litellm: str, now_s: float) -> dict[str, str | None] | None:
    """A change that the vendor has announced, for a model whose price nobody has written down."""
    from router.models.price_history import announced, history_name
    from router.pricing.vendors import vendor_of

    provider, _, name = litellm.partition("/")
    vendor = vendor_of(provider).history
    found = announced(vendor, name, datetime.fromtimestamp(now_s, UTC)) if vendor and name else None
    if found is None:
        return None
    starts, into, out = found
    prices = {"input_usd_per_mtok": _plain(into), "output_usd_per_mtok": _plain(out)}
    return {"starts": starts, **prices, "price_source": history_name()}


def _date(time_s: float) -> str:
    found = datetime.fromtimestamp(time_s, UTC)
    return found.strftime("%Y-%m-%d" if not time_s % 86_400 else "%Y-%m-%d %H:%M UTC")


def _said(row: Mapping[str, Any]) -> str:
    if row["gpu_second_usd"] is not None:
        return f"${row['gpu_second_usd']} a second{_of_hour(row)}"
    if row["input_usd_per_mtok"] is None or row["output_usd_per_mtok"] is None:
        return "unknown: give it a `price:`"
    each = f", ${row['request_usd']} a request" if row["request_usd"] else ""
    return f"${row['input_usd_per_mtok']} in, ${row['output_usd_per_mtok']} out, per million tokens{each}"


def _of_hour(row: Mapping[str, Any]) -> str:
    if row.get("gpu_hour_usd") is None:
        return ""
    busy = f"{row['gpu_utilisation']:.0%} busy"
    return f": ${row['gpu_hour_usd']} an hour, {row['gpu_concurrency']:g} at a time, {busy}"


def _cache(row: Mapping[str, Any]) -> str:
    """The prices of a prompt cache that are known, per million tokens."""
    names = {
        "cached_read_usd_per_mtok": "read",
        "cache_write_usd_per_mtok": "write",
        "cache_write_1h_usd_per_mtok": "write for 1 hour",
    }
    return ", ".join(f"${row[key]} {name}" for key, name in names.items() if row[key] is not None)


def _tiers(row: Mapping[str, Any]) -> list[list[str]]:
    """The tiers in a line or two; their prices are many, and `--json` has them."""
    lengths = sorted({one["above_input_tokens"] for one in row["tiers"]} - {0})
    named = sorted({one["service_tier"] for one in row["tiers"]} - {""})
    lines = [["longer", f"another price above {', '.join(f'{length:,}' for length in lengths)} input tokens"]]
    lines += [["tiers", f"{', '.join(named)}: prices in --json"]]
    return [line for line, there in zip(lines, (lengths, named), strict=True) if there]


def _told(row: Mapping[str, Any]) -> str:
    return f"${row['input_usd_per_mtok']} in, ${row['output_usd_per_mtok']} out, from {row['starts']}: use `changes:`"


def _lines(row: dict[str, Any]) -> list[list[str]]:
    coming = row["next_price"]
    context = f"{row['context_tokens']:,} tokens" if row["context_tokens"] else "unknown"
    return [
        ["name", row["litellm"]],
        ["price", _said(row)],
        *([["cache", _cache(row)]] if _cache(row) else []),
        *_tiers(row),
        *([["from", row["price_source"]]] if row["price_source"] else []),
        *([["announced", _told(row["announced_price"])]] if row["announced_price"] else []),
        *([["next", f"{_said(coming)}, from {coming['starts']}"]] if coming else []),
        ["context", context],
        ["can", ", ".join(row["capabilities"]) or "unknown"],
        ["key", row["key"]],
        ["used by", ", ".join(row["used_by"]) or "no task"],
    ]


def _plain(usd: Decimal | None) -> str | None:
    """Exact, and without the zeros that only say how it was computed."""
    return None if usd is None else f"{round(usd, 15).normalize():f}"
