"""Money: hand-computed costs, one rounding, unknown prices that stay unknown, and bounds that hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Context, Decimal, FloatOperation, Inexact, Rounded, localcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Policy, Router
from router.core.call import Call, Failure, Outcome, Reply, Usage
from router.core.faults import BILLED_SHARE, FAULTS, Fault
from router.core.policy import Model, Price, PriceTier, Retry, Task
from router.core.pricing import FREE, Amount, Rates, cost_nusd, merged, settle, tier_name, total, upper_bound_nusd, usd
from router.models.replay import Replay
from router.testing import ScriptedModels, SimulatedWorld
from tests.strategies import PRICE_PARTS, failures, prices, replies, usages
from tests.support import make_policy

D = Decimal
# Dollars per million tokens, so that each bucket's nano-dollars a token are a round number.
PRICE = Price(
    input_usd_per_mtok=D("3"),
    cached_read_usd_per_mtok=D("0.3"),
    cache_write_usd_per_mtok=D("3.75"),
    cache_write_1h_usd_per_mtok=D("6"),
    output_usd_per_mtok=D("15"),
)
BUCKETS = (
    ("input_tokens", "input_usd_per_mtok"),
    ("cached_read_tokens", "cached_read_usd_per_mtok"),
    ("cache_write_tokens", "cache_write_usd_per_mtok"),
    ("cache_write_1h_tokens", "cache_write_1h_usd_per_mtok"),
    ("output_tokens", "output_usd_per_mtok"),
    ("reasoning_tokens", "reasoning_usd_per_mtok"),
)


@pytest.mark.parametrize(
    ("usage", "nusd"),
    [
        pytest.param(Usage(), 0, id="nothing"),
        pytest.param(Usage(input_tokens=1000), 3_000_000, id="input"),
        pytest.param(Usage(cached_read_tokens=1000), 300_000, id="cached_read"),
        pytest.param(Usage(cache_write_tokens=1000), 3_750_000, id="cache_write"),
        pytest.param(Usage(cache_write_1h_tokens=1000), 6_000_000, id="cache_write_1h"),
        pytest.param(Usage(output_tokens=1000), 15_000_000, id="output"),
        pytest.param(Usage(reasoning_tokens=1000), 15_000_000, id="reasoning_at_the_output_price"),
        pytest.param(Usage(1000, 1000, 1000, 1000, 1000, 1000), 43_050_000, id="all_together"),
    ],
)
def test_each_bucket_has_its_own_price(usage: Usage, nusd: int) -> None:
    """A thousand tokens at three dollars a million cost three million nano-dollars."""
    assert cost_nusd(usage, PRICE) == nusd


def test_reasoning_may_have_a_price_of_its_own() -> None:
    """And may be free where the price says so."""
    usage = Usage(output_tokens=10, reasoning_tokens=1000)
    assert cost_nusd(usage, replace(PRICE, reasoning_usd_per_mtok=D("4"))) == 150_000 + 4_000_000
    assert cost_nusd(usage, replace(PRICE, reasoning_usd_per_mtok=D(0))) == 150_000


def test_a_request_may_have_a_price_of_its_own() -> None:
    """It is added once, whatever the tokens."""
    price = replace(PRICE, request_usd=D("0.005"))
    assert cost_nusd(Usage(), price) == 5_000_000
    assert cost_nusd(Usage(input_tokens=1), price) == 5_003_000


def test_a_model_may_be_priced_by_the_second() -> None:
    """Then tokens are free, and a price of the request still counts."""
    price = Price(gpu_second_usd=D("0.00055"), input_usd_per_mtok=D("3"))
    assert cost_nusd(Usage(input_tokens=10**9), price, 2.0) == 1_100_000
    assert cost_nusd(Usage(), replace(price, request_usd=D("0.001")), 0.1) == 1_055_000
    assert cost_nusd(Usage(), price) == 0


def test_seconds_and_request_are_rounded_together() -> None:
    """Half a nano-dollar each are one."""
    price = Price(gpu_second_usd=D("0.0000000005"), request_usd=D("0.0000000005"))
    assert cost_nusd(Usage(), price, 1.0) == 1
    assert cost_nusd(Usage(), price, 0.0) == 0


@given(st.integers(0, 10**6), st.integers(0, 10**6), prices(complete=True), st.none() | st.integers(1, 10**6))
def test_plain_tokens_cost_what_a_usage_of_them_costs(
    inputs: int, outputs: int, price: Price, limit: int | None
) -> None:
    """The short way to the cost without cache and reasoning, up to the length that the price holds for."""
    price = replace(price, up_to_input_tokens=limit)
    usage = Usage(input_tokens=inputs, output_tokens=outputs)
    assert Rates(price).plain_nusd(inputs, outputs) == cost_nusd(usage, price)


@pytest.mark.parametrize("missing", ["input_usd_per_mtok", "output_usd_per_mtok"])
def test_plain_tokens_at_an_unknown_price_cost_an_unknown_amount(missing: str) -> None:
    """Either price is needed."""
    without: dict[str, Any] = {missing: None}
    assert Rates(replace(PRICE, **without)).plain_nusd(10, 10) is None


@pytest.mark.parametrize(("tokens", "nusd"), [(200, 600_000), (201, None)])
def test_plain_tokens_are_priced_up_to_the_price_s_length(tokens: int, nusd: int | None) -> None:
    """The limit is part of the range."""
    assert Rates(replace(PRICE, up_to_input_tokens=200)).plain_nusd(tokens, 0) == nusd


@pytest.mark.parametrize(("tokens", "nusd"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_dollar_goes_to_the_even_side(tokens: int, nusd: int) -> None:
    """0.5 is 0, 1.5 is 2, 2.5 is 2, 3.5 is 4."""
    assert cost_nusd(Usage(input_tokens=tokens), Price(input_usd_per_mtok=D("0.0005"))) == nusd


def test_rounding_happens_once() -> None:
    """Two halves are one: rounding each bucket by itself would make them nothing."""
    price = Price(input_usd_per_mtok=D("0.0005"), output_usd_per_mtok=D("0.0005"))
    assert cost_nusd(Usage(input_tokens=1), price) == 0
    assert cost_nusd(Usage(output_tokens=1), price) == 0
    assert cost_nusd(Usage(input_tokens=1, output_tokens=1), price) == 1


def test_a_cost_does_not_depend_on_the_program_s_own_decimal_context() -> None:
    """A caller that computes with few digits does not change what a call costs."""
    usage, price = Usage(input_tokens=1_234_567, output_tokens=7), replace(PRICE, input_usd_per_mtok=D("0.123456"))
    by_second = Price(gpu_second_usd=D("0.123456"))
    with localcontext(prec=3):
        assert cost_nusd(usage, price) == 152_414_704 + 105_000
        assert cost_nusd(usage, by_second, 1.234567) == 152_414_704


def test_prices_hold_up_to_their_input_length() -> None:
    """A longer input has another price, so that its cost is unknown; all input counts for the length."""
    price = replace(PRICE, up_to_input_tokens=200)
    assert cost_nusd(Usage(input_tokens=200), price) == 600_000
    assert cost_nusd(Usage(input_tokens=201), price) is None
    assert cost_nusd(Usage(input_tokens=100, cached_read_tokens=101), price) is None
    assert cost_nusd(Usage(input_tokens=200, output_tokens=10_000), price) == 150_600_000


@given(usages(), prices())
def test_a_cost_is_exact_or_unknown(usage: Usage, price: Price) -> None:
    """Compared with fractions: unknown exactly when a bucket that was used has no price, else rounded once."""
    parts = [(getattr(usage, tokens), getattr(price, part)) for tokens, part in BUCKETS]
    if price.reasoning_usd_per_mtok is None:
        parts[-1] = (usage.reasoning_tokens, price.output_usd_per_mtok)
    used = [(tokens, usd_per_mtok) for tokens, usd_per_mtok in parts if tokens]
    exact = Fraction(price.request_usd or 0) * 10**9
    exact += sum(tokens * Fraction(usd_per_mtok or 0) * 1000 for tokens, usd_per_mtok in used)
    known = all(usd_per_mtok is not None for _, usd_per_mtok in used)
    assert cost_nusd(usage, price) == (round(exact) if known else None)


@given(usages(), usages(), prices(complete=True))
def test_more_tokens_never_cost_less(usage: Usage, more: Usage, price: Price) -> None:
    """In any bucket."""
    one, both = cost_nusd(usage, price), cost_nusd(usage + more, price)
    assert one is not None
    assert both is not None
    assert both >= one


# Upper bounds


@pytest.mark.parametrize(
    ("price", "input_tokens", "output_tokens", "bound"),
    [
        pytest.param(PRICE, 1000, 100, 6_000_000 + 1_500_000, id="dearest_input"),
        pytest.param(replace(PRICE, reasoning_usd_per_mtok=D(20)), 0, 100, 2_000_000, id="dearest_output"),
        pytest.param(replace(PRICE, request_usd=D("0.001")), 0, 0, 1_000_000, id="request"),
        pytest.param(PRICE, None, 100, None, id="input_unbounded"),
        pytest.param(PRICE, 1000, None, None, id="output_unbounded"),
        pytest.param(Price(), 10, 10, None, id="no_price"),
        pytest.param(Price(input_usd_per_mtok=D(1)), 10, 10, None, id="no_output_price"),
        pytest.param(Price(output_usd_per_mtok=D(1)), 10, 10, None, id="no_input_price"),
        pytest.param(Price(input_usd_per_mtok=D(0), output_usd_per_mtok=D(0)), None, None, 0, id="free"),
        pytest.param(replace(PRICE, up_to_input_tokens=999), 1000, 10, None, id="beyond_the_price"),
    ],
)
def test_the_upper_bound_of_a_request(
    price: Price, input_tokens: int | None, output_tokens: int | None, bound: int | None
) -> None:
    """All input at the dearest input price, all output at the dearest output price; unknown where nothing bounds it."""
    assert upper_bound_nusd(price, input_tokens, output_tokens, None) == bound


def test_the_upper_bound_of_a_model_by_the_second_is_its_deadline() -> None:
    """Without a deadline nothing bounds it."""
    price = Price(gpu_second_usd=D("0.001"))
    assert upper_bound_nusd(price, None, None, 4.0) == 4_000_000
    assert upper_bound_nusd(price, 10, 10, None) is None


def test_an_upper_bound_rounds_up() -> None:
    """A bound of half a nano-dollar is one: rounded to even it would be nothing."""
    price = Price(input_usd_per_mtok=D("0.0005"), output_usd_per_mtok=D("0.0005"))
    assert upper_bound_nusd(price, 1, 0, None) == 1
    assert upper_bound_nusd(price, 1, 1, None) == 1
    assert upper_bound_nusd(price, 1, 2, None) == 2


@given(usages(), prices(), st.integers(0, 1000), st.integers(0, 1000))
def test_no_usage_within_the_bound_costs_more(usage: Usage, price: Price, more_in: int, more_out: int) -> None:
    """Whatever the split between the buckets, where both are known."""
    bound = upper_bound_nusd(price, usage.all_input_tokens + more_in, usage.all_output_tokens + more_out, None)
    exact = cost_nusd(usage, price)
    assert bound is None or exact is None or exact <= bound


# Prices from two sources


def test_the_policy_s_parts_win_over_the_price_map() -> None:
    """Each part by itself; 0 is a price."""
    own = Price(input_usd_per_mtok=D(0), request_usd=D("0.1"))
    assert merged(own, PRICE) == replace(PRICE, input_usd_per_mtok=D(0), request_usd=D("0.1"))


def test_without_a_listed_price_the_policy_s_is_all_there_is() -> None:
    """What is missing stays missing."""
    own = Price(input_usd_per_mtok=D(1))
    assert merged(own, None) == own


def test_an_hour_s_price_is_shared_by_the_requests_of_the_machine() -> None:
    """Half idle and four at a time: each second of a request costs half of a second of the machine."""
    price = Price(gpu_hour_usd=D("3.6"), gpu_concurrency=4.0, gpu_utilisation=0.5)
    assert cost_nusd(Usage(10**6), price, 2.0) == 1_000_000
    assert Rates(price).by_second
    assert merged(price, PRICE) == price


BANDED = replace(
    PRICE,
    tiers=(
        PriceTier(above_input_tokens=1000, input_usd_per_mtok=D(6), output_usd_per_mtok=D(30)),
        PriceTier(service_tier="flex", input_usd_per_mtok=D("1.5"), output_usd_per_mtok=D("7.5")),
        PriceTier(above_input_tokens=1000, service_tier="flex", input_usd_per_mtok=D(3), output_usd_per_mtok=D(15)),
        PriceTier(service_tier="priority", input_usd_per_mtok=D(12), output_usd_per_mtok=D(60)),
    ),
)


@pytest.mark.parametrize(
    ("usage", "tier", "nusd"),
    [
        pytest.param(Usage(1000), "", 3_000_000, id="up_to_the_length"),
        pytest.param(Usage(1001), "", 6_006_000, id="above_it"),
        pytest.param(Usage(1, 1000), "", None, id="cached_counts_and_has_no_price_there"),
        pytest.param(Usage(1000, output_tokens=10), "flex", 1_575_000, id="a_tier"),
        pytest.param(Usage(1001), "flex", 3_003_000, id="a_tier_above_the_length"),
        pytest.param(Usage(1001), "priority", None, id="a_tier_that_ends_there"),
        pytest.param(Usage(1), "ultrafast", None, id="an_unknown_tier"),
    ],
)
def test_long_inputs_and_service_tiers_have_prices_of_their_own(usage: Usage, tier: str, nusd: int | None) -> None:
    """The tier that was served and the length of the whole input decide; what has no price there is unknown."""
    assert Rates(BANDED).cost_nusd(usage, tier=tier) == nusd


def test_a_reply_is_settled_at_the_tier_that_was_served() -> None:
    """Whatever was asked for."""
    reply = Reply("", Usage(1000), service_tier="flex")
    amount = settle(reply, Rates(BANDED), upper_nusd=None, estimate=Usage(), seconds=0.0)
    assert amount == Amount("settled", 1_500_000, 1_500_000)


@pytest.mark.parametrize(
    ("inputs", "tier", "nusd"), [(1000, "", 6_000_000), (1001, "", 6_006_000), (1000, "priority", 12_000_000)]
)
def test_an_upper_bound_covers_every_length_and_tier_that_can_come(inputs: int, tier: str, nusd: int) -> None:
    """A shorter input may cost more by its cache writes, and a tier may not be granted."""
    assert Rates(BANDED).upper_nusd(inputs, 0, None, tier) == nusd
    assert Rates(BANDED).upper_nusd(None, 0, None, tier) is None
    assert Rates(BANDED).upper_nusd(inputs, 0, None, "ultrafast") is None


def test_the_map_s_tiers_go_with_the_map_s_prices_only() -> None:
    """Beside a price of the policy's own a long input has an unknown one, unless the policy gives that too."""
    assert merged(Price(), BANDED) == BANDED
    own = merged(Price(input_usd_per_mtok=D(1)), BANDED)
    assert (own.tiers, own.up_to_input_tokens) == ((), 1000)
    assert merged(Price(tiers=BANDED.tiers[:1]), BANDED).tiers == BANDED.tiers[:1]


@given(
    usage=usages(2000),
    lengths=st.lists(st.integers(1, 3000), max_size=2, unique=True),
    bases=st.lists(prices(complete=True), min_size=6, max_size=6),
    asked=st.sampled_from(["", "flex"]),
    served=st.sampled_from(["", "flex"]),
)
def test_no_usage_of_any_length_and_tier_costs_more_than_the_bound(
    usage: Usage, lengths: list[int], bases: list[Price], asked: str, served: str
) -> None:
    """A request for a tier costs at most its bound, whether the tier is granted or not."""
    places = [(above, tier) for above in (0, *lengths) for tier in ("", "flex") if above or tier]
    tiers = tuple(
        PriceTier(above, tier, **{name: getattr(base, name) for name in PRICE_PARTS})
        for (above, tier), base in zip(places, bases[1:], strict=False)
    )
    rates = Rates(replace(bases[0], tiers=tiers))
    cost = rates.cost_nusd(usage, tier=served)
    bound = rates.upper_nusd(usage.all_input_tokens, usage.all_output_tokens, None, asked)
    assert bound is not None
    if cost is not None and served in ("", asked):
        assert cost <= bound


@pytest.mark.parametrize(("said", "tier"), [("default", ""), (None, ""), (7, ""), ("Flex", "flex"), ("on_demand", "")])
def test_the_usual_tier_has_many_names(said: object, tier: str) -> None:
    """Each provider calls it otherwise."""
    assert tier_name(said) == tier


def test_a_price_by_the_second_stands_alone() -> None:
    """A self-hosted model has no price by token, whatever the map says of its name."""
    own = Price(gpu_second_usd=D(1))
    assert merged(own, PRICE) == own


@given(prices(), prices())
def test_a_merged_price_has_every_part_that_either_has(own: Price, listed: Price) -> None:
    """And the policy's where both have one."""
    for part in PRICE_PARTS:
        mine, theirs = getattr(own, part), getattr(listed, part)
        assert getattr(merged(own, listed), part) == (theirs if mine is None else mine)


# What a request came to

USAGE = Usage(input_tokens=1000, output_tokens=100)
COST = 4_500_000
UPPER = 9_000_000
ESTIMATE = Usage(input_tokens=500, output_tokens=50)


SECONDS = Price(gpu_second_usd=D("0.001"))


@dataclass(frozen=True)
class Case:
    """What came back, at which price, and what it came to."""

    outcome: Outcome
    expected: Amount
    price: Price = PRICE
    upper: int | None = UPPER


UNKNOWN = Amount("unknown", None, None)
EXACT = Amount("settled", COST, COST)
TWO_SECONDS = Amount("settled", 2_000_000, 2_000_000)
NO_PRICE = Price()

CASES = {
    "reply": Case(Reply("x", USAGE), EXACT),
    "provider_s_figure": Case(Reply("x", USAGE, reported_cost_nusd=7), Amount("settled", 7, 7, "provider")),
    "provider_s_figure_of_a_failure": Case(
        Failure(Fault.EMPTY, usage=USAGE, reported_cost_nusd=7), Amount("settled", 7, 7, "provider")
    ),
    "provider_s_figure_where_none_was_expected": Case(
        Failure(Fault.RATE_LIMITED, reported_cost_nusd=7), Amount("settled", 7, 7, "provider")
    ),
    "provider_says_free": Case(Reply("x", None, reported_cost_nusd=0), Amount("settled", 0, 0, "provider"), NO_PRICE),
    "no_price": Case(Reply("x", USAGE), UNKNOWN, NO_PRICE),
    "no_usage": Case(Reply("x", None), Amount("estimated", COST // 2, UPPER)),
    "estimate_above_the_bound": Case(Reply("x", None), Amount("estimated", 100, 100), upper=100),
    "estimate_without_a_bound": Case(Reply("x", None), Amount("estimated", COST // 2, None), upper=None),
    "no_usage_and_no_price": Case(Reply("x", None), UNKNOWN, NO_PRICE),
    "certainly_unbilled": Case(Failure(Fault.RATE_LIMITED), FREE),
    "unbilled_at_no_price": Case(Failure(Fault.RATE_LIMITED), FREE, NO_PRICE, None),
    "half_of_the_estimate_where_nobody_knows": Case(Failure(Fault.TIMEOUT), Amount("maybe_billed", COST // 4, UPPER)),
    "all_of_it_where_an_answer_began": Case(
        Failure(Fault.CONNECTION, arrived=True), Amount("maybe_billed", COST // 2, UPPER)
    ),
    "nothing_where_no_connection_came_about": Case(Failure(Fault.CONNECTION, arrived=False), FREE),
    "nothing_of_it_where_a_gateway_refused": Case(Failure(Fault.TIMEOUT, status=504), Amount("maybe_billed", 0, UPPER)),
    "no_expectation_above_the_bound": Case(Failure(Fault.TIMEOUT), Amount("maybe_billed", 100, 100), upper=100),
    "maybe_billed_at_no_price": Case(Failure(Fault.TIMEOUT), UNKNOWN, NO_PRICE, None),
    "unlikely_to_be_billed_at_no_price": Case(
        Failure(Fault.SERVER_ERROR), Amount("maybe_billed", 0, None), NO_PRICE, None
    ),
    "failure_with_usage": Case(Failure(Fault.EMPTY, usage=USAGE), EXACT),
    "usage_counts_where_none_was_expected": Case(Failure(Fault.RATE_LIMITED, usage=USAGE), EXACT),
    "failure_at_no_price": Case(Failure(Fault.EMPTY, usage=USAGE), UNKNOWN, NO_PRICE),
    "seconds": Case(Reply("x", None), TWO_SECONDS, SECONDS),
    "seconds_of_a_failure": Case(Failure(Fault.TIMEOUT), TWO_SECONDS, SECONDS),
    "no_seconds_where_nothing_ran": Case(Failure(Fault.AUTH), FREE, SECONDS),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_a_request_is_settled_estimated_maybe_billed_or_unknown(case: Case) -> None:
    """The provider's figure, then usage at our price, then a guess, then a bound; never a made-up 0."""
    amount = settle(case.outcome, Rates(case.price), upper_nusd=case.upper, estimate=ESTIMATE, seconds=2.0)
    assert amount == case.expected


@pytest.mark.parametrize("fault", Fault)
def test_a_failure_without_usage_costs_nothing_or_up_to_its_bound(fault: Fault) -> None:
    """As the fault table says."""
    billed = FAULTS[fault].billed
    expected = FREE if billed == "no" else Amount("maybe_billed", int(COST // 2 * BILLED_SHARE[billed]), UPPER)
    assert settle(Failure(fault), Rates(PRICE), upper_nusd=UPPER, estimate=ESTIMATE, seconds=2.0) == expected


@given(
    replies() | failures(),
    prices(by_second=True),
    usages(),
    st.none() | st.integers(0, 10**12),
    st.floats(0, 1000),
)
def test_the_bill_lies_between_the_amount_and_its_upper_bound(
    outcome: Outcome, price: Price, estimate: Usage, upper: int | None, seconds: float
) -> None:
    """For every outcome; settled means that both are the same, unknown that there is neither."""
    amount = settle(outcome, Rates(price), upper_nusd=upper, estimate=estimate, seconds=seconds)
    assert (amount.nusd is None) is (amount.state == "unknown")
    assert amount.nusd is None or amount.nusd >= 0
    assert amount.nusd is None or amount.upper_nusd is None or amount.nusd <= amount.upper_nusd
    assert amount.state != "settled" or amount.nusd == amount.upper_nusd
    assert amount.state != "unknown" or amount.upper_nusd is None


@given(
    usage=usages(1000) | st.none(),
    price=prices(),
    fault=st.none() | st.sampled_from([Fault.TIMEOUT, Fault.EMPTY, Fault.CONNECTION]),
)
def test_an_unknown_price_never_becomes_nothing_on_its_way_through_a_call(
    usage: Usage | None, price: Price, fault: Fault | None
) -> None:
    """Through flow, answer and row: what a request cost is known exactly when all prices are that it needs."""
    said: Outcome = Reply("yes", usage) if fault is None else Failure(fault, usage=usage)
    policy = Policy(
        version=1,
        models={"m": Model(litellm="m", price=price), "top": Model(litellm="top", price=PRICE)},
        tasks={"t": Task(ladder=("m", "top"), retry=Retry(attempts=1), threshold=0.0)},
    )
    router = Router(policy, backend=ScriptedModels({"m": said, "top": "yes"}), world=SimulatedWorld())
    answer = router.route("t", "Is it?")
    first = answer.attempts[0]
    if usage is not None:
        assert first.amount.nusd == cost_nusd(usage, price)
    else:
        assert (first.amount.nusd is None) is (price.input_usd_per_mtok is None or not _outputs(price, fault))
    assert (answer.cost_nusd is None) is (first.amount.nusd is None)
    assert answer.steps[0].cost_nusd == first.amount.nusd


def _outputs(price: Price, fault: Fault | None) -> bool:
    """Whether the output of a request without usage can be priced: a failure is not known to have had any."""
    return price.output_usd_per_mtok is not None or fault is not None


# Sums


@pytest.mark.parametrize(("amounts", "expected"), [([], 0), ([1, 2], 3), ([1, None, 2], None), ([None], None)], ids=str)
def test_a_sum_with_an_unknown_part_is_unknown(amounts: list[int | None], expected: int | None) -> None:
    """An unknown part is never counted as nothing."""
    assert total(amounts) == expected


def test_dollars_for_people_keep_the_unknown() -> None:
    """A nano-dollar is a billionth of a dollar."""
    assert usd(1_500_000_000) == 1.5
    assert usd(1) == 1e-9
    assert usd(None) is None


# The program around us


@contextmanager
def _coarse_decimals() -> Iterator[None]:
    """Three digits, rounded up, and no inexact result allowed: what a program may have set for sums of its own."""
    with localcontext(Context(prec=3, rounding=ROUND_UP, traps=[Inexact, Rounded, FloatOperation])):
        yield


def test_the_program_s_decimal_context_changes_no_amount(tmp_path: Path) -> None:
    """Prices from file, map and provider, limits and by-second costs are exact, however the program computes."""
    from router.models.litellm import LiteLLM
    from router.models.litellm_replies import read_reply

    text = json.dumps({"model": "m", "prompt": "hi", "response": "yes", "cost_usd": 0.0001234567})
    path = tmp_path / "recording.jsonl"
    path.write_text(text)
    usage = SimpleNamespace(prompt_tokens=10, completion_tokens=2, total_tokens=12, cost=0.000123456789)
    choice = SimpleNamespace(finish_reason="stop", message=SimpleNamespace(content="yes"), logprobs=None)
    call = Call("m", Model(litellm="m"), ({"role": "user", "content": "hi"},))
    price = Price(input_usd_per_mtok=D("1.2345"), output_usd_per_mtok=D("2.3456"))

    def everything() -> list[object]:
        reply = read_reply(SimpleNamespace(choices=[choice], usage=usage, model="m"))
        policy = make_policy({"budget": {"usd_per_call": 0.0123456}})
        router = Router(policy, backend=ScriptedModels({"small": "yes"}), world=SimulatedWorld())
        answer = router.route("t", "hi", max_cost_usd=0.0123457)
        facts = LiteLLM().facts(Model(litellm="openai/gpt-4o-mini"))
        return [
            answer.cost_nusd,
            facts.price,
            reply,
            Replay.load(path).send(call, None),
            cost_nusd(Usage(input_tokens=12_345, output_tokens=6_789), price),
            cost_nusd(Usage(), Price(gpu_second_usd=D("0.00055")), 1.23456789),
        ]

    expected = everything()
    with _coarse_decimals():
        assert everything() == expected


@pytest.mark.parametrize(
    ("wrong", "cost"),
    [
        ({"usage": Usage(input_tokens=-5, output_tokens=1)}, "estimated"),
        ({"usage": Usage(input_tokens=1.5, output_tokens=1)}, "estimated"),  # type: ignore[arg-type]
        ({"usage": None, "reported_cost_nusd": -1}, "estimated"),
        ({"latency_ms": math.nan}, "settled"),
        ({"latency_ms": -1.0}, "settled"),
        ({"latency_ms": math.inf}, "settled"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("price", [PRICE, SECONDS], ids=["by_token", "by_second"])
def test_figures_that_cannot_be_are_as_good_as_none(wrong: dict[str, Any], cost: str, price: Price) -> None:
    """A backend of the user's own may count anything; what makes no sense is not charged and breaks no call."""
    reply = replace(Reply("yes", Usage(input_tokens=4, output_tokens=1)), **wrong)
    policy = make_policy({"deadline_s": 60})
    object.__setattr__(policy.models["small"], "price", price)
    router = Router(policy, backend=ScriptedModels({"small": reply}), world=SimulatedWorld())
    (attempt,) = router.route("t", "hi").attempts
    assert attempt.amount.state == ("settled" if price is SECONDS else cost)
    assert attempt.amount.nusd is not None
    assert attempt.amount.nusd >= 0
    assert attempt.latency_ms == 0


def test_a_pause_that_cannot_be_is_as_good_as_none() -> None:
    """Not a number of seconds to wait: the pause is the router's own."""
    world = SimulatedWorld()
    models = ScriptedModels({"small": [Failure(Fault.RATE_LIMITED, retry_after_s=math.nan), "yes"]})
    assert Router(make_policy(), backend=models, world=world).route("t", "hi").text == "yes"
    assert world.clock.monotonic() < 1
