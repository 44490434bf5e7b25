"""Usage to money: exact decimals summed per request, rounded half-even once, to integer nano-US-dollars.

An unknown price gives `None`, never 0. An amount that is not settled has a point and an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from typing import Literal, NamedTuple

from router.core.call import Failure, Outcome, Reply, Usage
from router.core.faults import billed_share, is_free
from router.core.policy import Price, PriceTier
from router.core.usual import Usual

NUSD_PER_USD = 1_000_000_000
# A plan is made anew so long before a price changes, and its bounds cover both prices from then on. Those of a call
# that may last longer, because it waits for room in a budget, always do.
NOTICE_S = 3600.0
_SECONDS_PER_HOUR = 3600
_NUSD_PER_USD_PER_MTOK = Decimal(1000)  # 1e9 nano-dollars a dollar / 1e6 tokens
# The program around us may have set a coarse decimal context for its own sums, or traps.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])

Settled = Literal["settled", "estimated", "maybe_billed", "unknown"]


@dataclass(frozen=True, slots=True)
class Amount:
    """What one request cost, and how sure that is.

    `settled`: `nusd` is exact. `estimated`: usage was not reported, `nusd` is what such a reply usually costs.
    `maybe_billed`: no answer came, the provider charged between 0 and `upper_nusd`; `nusd` is what a request usually
    costs times the share of such failures that is billed (`router.core.faults.BILLED_SHARE`). `unknown`: no price.
    """

    state: Settled
    nusd: int | None
    upper_nusd: int | None
    source: Literal["price", "provider", "none"] = "price"


FREE = Amount("settled", 0, 0, "none")


def settle(
    outcome: Outcome,
    rates: Rates,
    *,
    upper_nusd: int | None,
    estimate: Usage,
    seconds: float,
    usual: Usual | None = None,
    began: bool = False,
) -> Amount:
    """What a request cost, from what came back.

    The provider's own figure wins; then its usage at our price. `estimate`, put right by what is `usual`, stands in
    where no usage was reported, and `upper_nusd` bounds what cannot be settled. `began`: a part of the answer came.
    """
    if outcome.reported_cost_nusd is not None:
        return Amount("settled", outcome.reported_cost_nusd, outcome.reported_cost_nusd, "provider")
    if isinstance(outcome, Failure) and outcome.usage is None and is_free(outcome.fault, outcome.arrived):
        return FREE
    if outcome.usage is not None or rates.by_second:
        tier = outcome.service_tier if isinstance(outcome, Reply) else ""
        exact = rates.cost_nusd(outcome.usage or Usage(), seconds, tier)
        return Amount("unknown", None, None) if exact is None else Amount("settled", exact, exact)
    came = began or isinstance(outcome, Reply) or bool(outcome.partial)
    share = 1.0 if isinstance(outcome, Reply) or came else billed_share(outcome.fault, outcome.status, outcome.arrived)
    if not share:
        return Amount("maybe_billed", 0, upper_nusd)
    guess = rates.cost_nusd(estimate, seconds)
    if guess is None:
        return Amount("unknown", None, None)
    guess = round((usual.expected_nusd(guess) if usual else guess) * share)
    state: Settled = "estimated" if came else "maybe_billed"
    return Amount(state, guess if upper_nusd is None else min(guess, upper_nusd), upper_nusd)


Buckets = tuple[int | None, ...]
"""Scaled rates in the order of `Usage`; `None` where a price is unknown."""

# What a length that is known can hold: an input with sound has none.
_INPUTS = (0, 1, 2, 3)
_OUTPUTS = (4, 5, 7, 8)


class Band(NamedTuple):
    """The scaled rates for inputs longer than `above`, and the dearest ones of input and of output."""

    above: int
    buckets: Buckets
    worst_input: int | None
    worst_output: int | None

    @classmethod
    def of(cls, above: int, buckets: Buckets) -> Band:
        """The band with these rates. A cache write costs more than plain input, so the dearest bounds all of them."""
        if buckets[0] is None or buckets[4] is None:
            return cls(above, buckets, None, None)
        inputs, outputs = ([buckets[place] or 0 for place in places] for places in (_INPUTS, _OUTPUTS))
        return cls(above, buckets, max(inputs), max(outputs))


class Rates:
    """A price made ready for use: integers, so that a cost takes a microsecond and stays exact.

    Every rate is in nano-dollars a token times `scale`, the power of ten that makes all of them whole.
    """

    __slots__ = (
        "_bands",
        "_flat",
        "_limit",
        "_near",
        "_next",
        "_request",
        "_scale",
        "_second",
        "_usual",
        "by_second",
        "source",
    )

    def __init__(
        self, price: Price, source: str = "", following: tuple[float, Price] | None = None, *, near: bool = True
    ) -> None:
        """`following` is the price that takes the place of this one, after the instant that it begins at.

        `near`: a call that begins now may see it begin.
        """
        self.source = source
        self._next = (following[0], Rates(following[1], source)) if following else None
        self._near = near
        with localcontext(_EXACT):
            self._make(price)

    def _make(self, price: Price) -> None:
        rated = [(one.above_input_tokens, one.service_tier, _rates(one)) for one in price.tiers]
        rated.append((0, "", _rates(price)))
        request = (price.request_usd or Decimal(0)) * NUSD_PER_USD
        known = [rate for _, _, rates in rated for rate in rates if rate is not None]
        digits = max(0, *(-_exponent(rate) for rate in (*known, request)))
        self._scale: int = 10**digits
        self._request = int(request * self._scale)
        self._limit = price.up_to_input_tokens
        # By service tier: the rates by length of the input, the longest first.
        self._bands: dict[str, list[Band]] = {}
        for above, tier, rates in sorted(rated, key=lambda one: -one[0]):
            scaled = tuple(None if rate is None else int(rate * self._scale) for rate in rates)
            self._bands.setdefault(tier, []).append(Band.of(above, scaled))
        self._usual = self._bands[""]
        # Nearly every price is the same for all lengths, and then nothing has to be looked up.
        self._flat = self._usual[0].buckets if len(self._usual) == 1 and self._limit is None else None
        second = second_usd(price)
        self.by_second = second is not None
        self._second = (second or Decimal(0)) * NUSD_PER_USD

    def cost_nusd(self, usage: Usage, seconds: float = 0.0, tier: str = "") -> int | None:
        """The exact cost of a request in nano-dollars, or `None` when a price that it needs is unknown.

        `seconds` is the time the request took; it only counts for a model that is priced by the second. `tier` is the
        service tier that was served, empty for the usual one.
        """
        if self.by_second:
            return self._of_seconds(seconds)
        buckets = self._buckets(usage.all_input_tokens, tier) if tier or not self._flat else self._flat
        if buckets is None:
            return None
        total = self._request
        for count, rate in zip(usage.buckets, buckets, strict=True):
            if count:
                if rate is None:
                    return None
                total += count * rate
        return _half_even(total, self._scale)

    def at(self, time_s: float) -> Rates:
        """The rates of a request that leaves at this instant."""
        return self._next[1] if self._next and time_s >= self._next[0] else self

    def plain_nusd(self, input_tokens: int, output_tokens: int) -> int | None:
        """The cost of so many tokens without cache and reasoning; `None` when a price is unknown."""
        buckets = self._buckets(input_tokens, "")
        if buckets is None or buckets[0] is None or buckets[4] is None:
            return None
        return _half_even(self._request + input_tokens * buckets[0] + output_tokens * buckets[4], self._scale)

    def guess_nusd(self, input_tokens: int, output_tokens: int, seconds: float) -> int | None:
        """The cost of so many tokens without cache and reasoning, or of so many seconds where those are priced."""
        return self._of_seconds(seconds) if self.by_second else self.plain_nusd(input_tokens, output_tokens)

    def upper_nusd(
        self, input_tokens: int | None, output_tokens: int | None, seconds: float | None, tier: str = ""
    ) -> int | None:
        """The most a request can cost with at most so many tokens, or `None` when nothing bounds it.

        A request for a service tier may be served in the usual one, so both bound it; so does a price that may begin
        within these seconds, which are those that the whole call may take.
        """
        own = self._upper_nusd(input_tokens, output_tokens, seconds, tier)
        if self._next is None or own is None or not (self._near or (seconds or 0.0) > NOTICE_S):
            return own
        following = self._next[1].upper_nusd(input_tokens, output_tokens, seconds, tier)
        return None if following is None else max(own, following)

    def _upper_nusd(
        self, input_tokens: int | None, output_tokens: int | None, seconds: float | None, tier: str
    ) -> int | None:
        if self.by_second:
            return None if seconds is None else self._of_seconds(seconds)
        if self._limit is not None and (input_tokens is None or input_tokens > self._limit):
            return None
        bands = self._usual
        if tier:
            if tier not in self._bands:
                return None
            bands = [*bands, *self._bands[tier]]
        most = 0
        for above, _, worst_input, worst_output in bands:
            if above and input_tokens is not None and input_tokens <= above:
                continue
            if (input_tokens is None and worst_input != 0) or (output_tokens is None and worst_output != 0):
                return None
            if worst_input is None or worst_output is None:
                return None
            total = (input_tokens or 0) * worst_input + (output_tokens or 0) * worst_output
            most = max(most, total)
        return -(-(most + self._request) // self._scale)

    def _buckets(self, input_tokens: int, tier: str) -> Buckets | None:
        """The rates for an input of this length; `None` where only the usual tier has a price for one so long."""
        if self._limit is not None and input_tokens > self._limit:
            return None
        usual = _at_length(self._usual, input_tokens)
        if not tier:
            return usual.buckets
        bands = self._bands.get(tier)
        if bands is None:
            return None
        band = _at_length(bands, input_tokens)
        return band.buckets if band.above >= usual.above else None

    def _of_seconds(self, seconds: float) -> int:
        with localcontext(_EXACT):
            total = self._second * Decimal(repr(float(seconds))) + Decimal(self._request) / self._scale
            return int(total.quantize(Decimal(1)))


def _at_length(bands: list[Band], input_tokens: int) -> Band:
    for band in bands:
        if input_tokens > band.above:
            return band
    return bands[-1]


# In the order of `_rates`.
_PARTS = (
    *("input", "cached_read", "cache_write", "cache_write_1h", "output", "reasoning"),
    *("input_audio", "output_audio", "output_image"),
)


def _rates(price: Price | PriceTier) -> tuple[Decimal | None, ...]:
    """Nano-dollars a token in the order of `Usage`.

    Reasoning is billed as output where it has no price of its own; sound and images are not billed as text.
    """
    usd = (
        price.input_usd_per_mtok,
        price.cached_read_usd_per_mtok,
        price.cache_write_usd_per_mtok,
        price.cache_write_1h_usd_per_mtok,
        price.output_usd_per_mtok,
        price.output_usd_per_mtok if price.reasoning_usd_per_mtok is None else price.reasoning_usd_per_mtok,
        price.input_audio_usd_per_mtok,
        price.output_audio_usd_per_mtok,
        price.output_image_usd_per_mtok,
    )
    return tuple(None if one is None else one * _NUSD_PER_USD_PER_MTOK for one in usd)


def missing_parts(price: Price) -> list[tuple[str, list[str]]]:
    """Each tier that lacks parts which the price has, in words, with the names of those parts."""
    found = []
    for tier in price.tiers if second_usd(price) is None else ():
        pairs = zip(_PARTS, _rates(price), _rates(tier), strict=True)
        length = f"above {tier.above_input_tokens:,} input tokens" if tier.above_input_tokens else ""
        place = " ".join(filter(None, (f"`{tier.service_tier}`" if tier.service_tier else "", length)))
        if parts := [name for name, usual, own in pairs if usual is not None and own is None and name != "reasoning"]:
            found.append((place, parts))
    return found


def second_usd(price: Price) -> Decimal | None:
    """What a second of one request costs on a machine that several share and that is not always busy."""
    if price.gpu_hour_usd is None:
        return price.gpu_second_usd
    shared = Decimal(repr(price.gpu_concurrency)) * Decimal(repr(price.gpu_utilisation))
    return price.gpu_hour_usd / _SECONDS_PER_HOUR / shared


# What providers call the tier of their list prices.
_USUAL = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})


def used_source(amount: Amount, rates: Rates) -> str | None:
    """Which price an amount was computed with; `None` where it needed none, or there is none."""
    if amount.source == "provider":
        return "provider"
    return rates.source or None if amount.source == "price" and amount.nusd is not None else None


def tier_name(tier: object, speed: object = None, place: object = None) -> str:
    """What a `PriceTier` calls a service tier with Anthropic's speed and place; empty for that of the list prices."""
    if not (tier or speed or place):
        return ""
    word = tier.lower() if isinstance(tier, str) else ""
    parts = ("" if word in _USUAL else word, "fast" if speed == "fast" else "", "us" if place == "us" else "")
    return "-".join(filter(None, parts))


def cost_nusd(usage: Usage, price: Price, seconds: float = 0.0) -> int | None:
    """The exact cost of one request at a price; see `Rates.cost_nusd`."""
    return Rates(price).cost_nusd(usage, seconds)


def upper_bound_nusd(
    price: Price, input_tokens: int | None, output_tokens: int | None, seconds: float | None
) -> int | None:
    """The most one request can cost at a price; see `Rates.upper_nusd`."""
    return Rates(price).upper_nusd(input_tokens, output_tokens, seconds)


def merged(own: Price, listed: Price | None) -> Price:
    """The policy's price with its missing parts from the price map; a price by the second stands alone.

    The map's tiers belong to the map's prices: beside one of the policy's own, an input as long as their shortest has
    an unknown price, and so have service tiers.
    """
    if listed is None or own.gpu_second_usd is not None or own.gpu_hour_usd is not None:
        return own
    parts = {part.name: getattr(own, part.name) for part in fields(Price)}
    parts = {name: getattr(listed, name) if value is None else value for name, value in parts.items()}
    if own == Price():
        parts["tiers"] = listed.tiers
    elif not own.tiers and own.up_to_input_tokens is None:
        lengths = [one.above_input_tokens for one in listed.tiers if one.above_input_tokens]
        parts["up_to_input_tokens"] = min(lengths, default=listed.up_to_input_tokens)
    return Price(**parts)


def exactly() -> AbstractContextManager[Context]:
    """A block whose decimals keep every digit, whatever context the program has set for its own."""
    return localcontext(_EXACT)


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
