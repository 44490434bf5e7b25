"""Usage to money: exact decimals summed per request, rounded half-even once, to integer nano-US-dollars.

An unknown price gives `None`, never 0. An amount that is not settled has a point and an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Literal

from router.core.call import Failure, Outcome, Reply, Usage
from router.core.faults import FAULTS
from router.core.policy import Price

NUSD_PER_USD = 1_000_000_000
_NUSD_PER_USD_PER_MTOK = Decimal(1000)  # 1e9 nano-dollars a dollar / 1e6 tokens
# The program around us may have set a coarse decimal context for its own sums.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)

Settled = Literal["settled", "estimated", "maybe_billed", "unknown"]


@dataclass(frozen=True, slots=True)
class Amount:
    """What one request cost, and how sure that is.

    `settled`: `nusd` is exact. `estimated`: usage was not reported, `nusd` is a guess up to `upper_nusd`.
    `maybe_billed`: no answer came, the provider charged between 0 and `upper_nusd`; `nusd` is 0. `unknown`: no price.
    """

    state: Settled
    nusd: int | None
    upper_nusd: int | None
    source: Literal["price", "provider", "none"] = "price"


FREE = Amount("settled", 0, 0, "none")


def settle(outcome: Outcome, price: Price, *, upper_nusd: int | None, estimate: Usage, seconds: float) -> Amount:
    """What a request cost, from what came back.

    The provider's own figure wins; then its usage at our price. `estimate` stands in for a reply without usage,
    and `upper_nusd` bounds what cannot be settled.
    """
    if isinstance(outcome, Reply):
        if outcome.reported_cost_nusd is not None:
            return Amount("settled", outcome.reported_cost_nusd, outcome.reported_cost_nusd, "provider")
    elif outcome.usage is None and FAULTS[outcome.fault].billed == "no":
        return FREE
    if outcome.usage is not None or price.gpu_second_usd is not None:
        exact = cost_nusd(outcome.usage or Usage(), price, seconds)
        return Amount("unknown", None, None) if exact is None else Amount("settled", exact, exact)
    if isinstance(outcome, Failure):
        return Amount("maybe_billed", 0, upper_nusd)
    guess = cost_nusd(estimate, price, seconds)
    if guess is None:
        return Amount("unknown", None, None)
    return Amount("estimated", guess if upper_nusd is None else min(guess, upper_nusd), upper_nusd)


def cost_nusd(usage: Usage, price: Price, seconds: float = 0.0) -> int | None:
    """The exact cost of a request in nano-US-dollars, or `None` when a price that it needs is unknown.

    `seconds` is the time the request took; it only counts for a model that is priced by the second.
    """
    with localcontext(_EXACT):
        return _cost_nusd(usage, price, seconds)


def _cost_nusd(usage: Usage, price: Price, seconds: float) -> int | None:
    total = (price.request_usd or Decimal(0)) * NUSD_PER_USD
    if price.gpu_second_usd is not None:
        total += price.gpu_second_usd * NUSD_PER_USD * Decimal(repr(seconds))
        return _rounded(total)
    if price.up_to_input_tokens is not None and usage.all_input_tokens > price.up_to_input_tokens:
        return None
    reasoning = price.reasoning_usd_per_mtok
    for tokens, usd_per_mtok in (
        (usage.input_tokens, price.input_usd_per_mtok),
        (usage.cached_read_tokens, price.cached_read_usd_per_mtok),
        (usage.cache_write_tokens, price.cache_write_usd_per_mtok),
        (usage.cache_write_1h_tokens, price.cache_write_1h_usd_per_mtok),
        (usage.output_tokens, price.output_usd_per_mtok),
        (usage.reasoning_tokens, price.output_usd_per_mtok if reasoning is None else reasoning),
    ):
        if tokens:
            if usd_per_mtok is None:
                return None
            total += tokens * usd_per_mtok * _NUSD_PER_USD_PER_MTOK
    return _rounded(total)


def upper_bound_nusd(
    price: Price, input_tokens: int | None, output_tokens: int | None, seconds: float | None
) -> int | None:
    """The most one request can cost, or `None` when nothing bounds it.

    All input counts at the dearest input price (a cache write costs more than plain input), all output at the
    dearer of output and reasoning.
    """
    if price.gpu_second_usd is not None:
        return None if seconds is None else cost_nusd(Usage(), price, seconds)
    dearest_input = _dearest(
        price.input_usd_per_mtok,
        price.cached_read_usd_per_mtok,
        price.cache_write_usd_per_mtok,
        price.cache_write_1h_usd_per_mtok,
    )
    dearest_output = _dearest(price.output_usd_per_mtok, price.reasoning_usd_per_mtok)
    if price.input_usd_per_mtok is None or price.output_usd_per_mtok is None:
        return None
    if (input_tokens is None and dearest_input) or (output_tokens is None and dearest_output):
        return None
    bound = Price(
        input_usd_per_mtok=dearest_input,
        output_usd_per_mtok=dearest_output,
        request_usd=price.request_usd,
        up_to_input_tokens=price.up_to_input_tokens,
    )
    return cost_nusd(Usage(input_tokens=input_tokens or 0, output_tokens=output_tokens or 0), bound)


def merged(own: Price, listed: Price | None) -> Price:
    """The policy's price with its missing parts from the price map; a per-second price stands alone."""
    if listed is None or own.gpu_second_usd is not None:
        return own
    parts = {part.name: getattr(own, part.name) for part in fields(Price)}
    return Price(**{name: getattr(listed, name) if value is None else value for name, value in parts.items()})


def usd(nusd: int | None) -> float | None:
    """Dollars for people; `None` stays unknown."""
    return None if nusd is None else nusd / NUSD_PER_USD


def total(amounts: Iterable[int | None]) -> int | None:
    """The sum, or `None` when any part is unknown."""
    known = 0
    for amount in amounts:
        if amount is None:
            return None
        known += amount
    return known


def _dearest(*prices: Decimal | None) -> Decimal | None:
    return max((price for price in prices if price is not None), default=None)


def _rounded(nusd: Decimal) -> int:
    return int(nusd.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
