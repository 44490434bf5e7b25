"""Usage to money: exact decimals summed per request, rounded half-even once, to integer nano-US-dollars.

An unknown price gives `None`, never 0. An amount that is not settled has a point and an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from typing import Literal

from router.core.call import Failure, Outcome, Usage
from router.core.faults import FAULTS
from router.core.policy import Price

NUSD_PER_USD = 1_000_000_000
_NUSD_PER_USD_PER_MTOK = Decimal(1000)  # 1e9 nano-dollars a dollar / 1e6 tokens
# The program around us may have set a coarse decimal context for its own sums, or traps.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])

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


def settle(outcome: Outcome, rates: Rates, *, upper_nusd: int | None, estimate: Usage, seconds: float) -> Amount:
    """What a request cost, from what came back.

    The provider's own figure wins; then its usage at our price. `estimate` stands in for a reply without usage and
    for an answer that broke off, and `upper_nusd` bounds what cannot be settled.
    """
    if outcome.reported_cost_nusd is not None:
        return Amount("settled", outcome.reported_cost_nusd, outcome.reported_cost_nusd, "provider")
    if isinstance(outcome, Failure) and outcome.usage is None and FAULTS[outcome.fault].billed == "no":
        return FREE
    if outcome.usage is not None or rates.by_second:
        exact = rates.cost_nusd(outcome.usage or Usage(), seconds)
        return Amount("unknown", None, None) if exact is None else Amount("settled", exact, exact)
    if isinstance(outcome, Failure) and not outcome.partial:
        return Amount("maybe_billed", 0, upper_nusd)
    guess = rates.cost_nusd(estimate, seconds)
    if guess is None:
        return Amount("unknown", None, None)
    return Amount("estimated", guess if upper_nusd is None else min(guess, upper_nusd), upper_nusd)


class Rates:
    """A price made ready for use: integers, so that a cost takes one microsecond and stays exact.

    Every rate is in nano-dollars a token times `scale`, the power of ten that makes all of them whole.
    """

    __slots__ = ("_buckets", "_limit", "_request", "_scale", "_second", "_worst_input", "_worst_output", "by_second")

    def __init__(self, price: Price) -> None:
        with localcontext(_EXACT):
            self._make(price)

    def _make(self, price: Price) -> None:
        reasoning = price.output_usd_per_mtok if price.reasoning_usd_per_mtok is None else price.reasoning_usd_per_mtok
        inputs = (
            price.input_usd_per_mtok,
            price.cached_read_usd_per_mtok,
            price.cache_write_usd_per_mtok,
            price.cache_write_1h_usd_per_mtok,
        )
        rates = [
            None if usd is None else usd * _NUSD_PER_USD_PER_MTOK
            for usd in (*inputs, price.output_usd_per_mtok, reasoning)
        ]
        request = (price.request_usd or Decimal(0)) * NUSD_PER_USD
        digits = max(0, *(-_exponent(rate) for rate in (*rates, request) if rate is not None))
        self._scale: int = 10**digits
        self._buckets = tuple(None if rate is None else int(rate * self._scale) for rate in rates)
        self._request = int(request * self._scale)
        self._limit = price.up_to_input_tokens
        self.by_second = price.gpu_second_usd is not None
        self._second = (price.gpu_second_usd or Decimal(0)) * NUSD_PER_USD
        # A cache write costs more than plain input, so the dearest known input price bounds all of them.
        known = price.input_usd_per_mtok is not None and price.output_usd_per_mtok is not None
        self._worst_input = max(rate for rate in self._buckets[:4] if rate is not None) if known else None
        self._worst_output = max(rate for rate in self._buckets[4:] if rate is not None) if known else None

    def cost_nusd(self, usage: Usage, seconds: float = 0.0) -> int | None:
        """The exact cost of a request in nano-dollars, or `None` when a price that it needs is unknown.

        `seconds` is the time the request took; it only counts for a model that is priced by the second.
        """
        if self.by_second:
            return self._of_seconds(seconds)
        if self._limit is not None and usage.all_input_tokens > self._limit:
            return None
        total = self._request
        tokens = (
            usage.input_tokens,
            usage.cached_read_tokens,
            usage.cache_write_tokens,
            usage.cache_write_1h_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        )
        for count, rate in zip(tokens, self._buckets, strict=True):
            if count:
                if rate is None:
                    return None
                total += count * rate
        return _half_even(total, self._scale)

    def plain_nusd(self, input_tokens: int, output_tokens: int) -> int | None:
        """The cost of so many tokens without cache and reasoning; `None` when a price is unknown."""
        input_rate, output_rate = self._buckets[0], self._buckets[4]
        if input_rate is None or output_rate is None or (self._limit is not None and input_tokens > self._limit):
            return None
        return _half_even(self._request + input_tokens * input_rate + output_tokens * output_rate, self._scale)

    def upper_nusd(self, input_tokens: int | None, output_tokens: int | None, seconds: float | None) -> int | None:
        """The most a request can cost with at most so many tokens, or `None` when nothing bounds it."""
        if self.by_second:
            return None if seconds is None else self._of_seconds(seconds)
        if self._worst_input is None or self._worst_output is None:
            return None
        if self._limit is not None and (input_tokens is None or input_tokens > self._limit):
            return None
        total = self._request
        for count, rate in ((input_tokens, self._worst_input), (output_tokens, self._worst_output)):
            if rate:
                if count is None:
                    return None
                total += count * rate
        return -(-total // self._scale)

    def _of_seconds(self, seconds: float) -> int:
        with localcontext(_EXACT):
            total = self._second * Decimal(repr(float(seconds))) + Decimal(self._request) / self._scale
            return int(total.quantize(Decimal(1)))


def cost_nusd(usage: Usage, price: Price, seconds: float = 0.0) -> int | None:
    """The exact cost of one request at a price; see `Rates.cost_nusd`."""
    return Rates(price).cost_nusd(usage, seconds)


def upper_bound_nusd(
    price: Price, input_tokens: int | None, output_tokens: int | None, seconds: float | None
) -> int | None:
    """The most one request can cost at a price; see `Rates.upper_nusd`."""
    return Rates(price).upper_nusd(input_tokens, output_tokens, seconds)


def merged(own: Price, listed: Price | None) -> Price:
    """The policy's price with its missing parts from the price map; a per-second price stands alone."""
    if listed is None or own.gpu_second_usd is not None:
        return own
    parts = {part.name: getattr(own, part.name) for part in fields(Price)}
    return Price(**{name: getattr(listed, name) if value is None else value for name, value in parts.items()})


def exact_product(amount: Decimal | float, times: int) -> Decimal:
    """An amount so many times, with every digit, whatever decimal context the program has set."""
    return _EXACT.multiply(amount if isinstance(amount, Decimal) else Decimal(repr(amount)), Decimal(times))


def usd(nusd: int | None) -> float | None:
    """Dollars for people; `None` stays unknown."""
    return None if nusd is None else nusd / NUSD_PER_USD


def total(amounts: Sequence[int | None]) -> int | None:
    """The sum, or `None` when any part is unknown."""
    known = 0
    for amount in amounts:
        if amount is None:
            return None
        known += amount
    return known


def _exponent(rate: Decimal) -> int:
    exponent = rate.normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # Policies and the price map hold finite prices only.
    return exponent


def _half_even(total: int, scale: int) -> int:
    whole, rest = divmod(total, scale)
    return whole + (2 * rest > scale or (2 * rest == scale and whole % 2 == 1))
