"""Error budgets, burn rates and causes as arithmetic: what must hold whatever the ledger says."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.audit.changes import (
    Group,
    Key,
    Line,
    Spending,
    Weights,
    accepted_cost_parts,
    cost_parts,
    shapley,
    share_parts,
    slow_parts,
)
from router.audit.objectives import FAST, SLOW, Objective, Tally
from router.core.slos import OBJECTIVES
from router.ledger.days import DAY_S, bucket_ms, day_of, latency_bucket

NAMES = st.sampled_from(OBJECTIVES)
COUNTS = st.integers(0, 10**6)
KEYS: st.SearchStrategy[Key] = st.tuples(st.sampled_from("tu"), st.sampled_from("ab"))


@st.composite
def _objectives(draw: st.DrawFn) -> Objective:
    name = draw(NAMES)
    limit = Decimal(draw(st.integers(1, 10**6))) / 10**6 if name.startswith("usd") else draw(st.floats(0.001, 1))
    return Objective(name, limit, min_calls=draw(st.integers(1, 200)))


@st.composite
def _tallies(draw: st.DrawFn) -> Tally:
    calls = draw(COUNTS)
    return Tally(calls, draw(st.integers(0, calls)), draw(COUNTS))


@st.composite
def _lines(draw: st.DrawFn) -> Line:
    replies = draw(st.integers(0, 1000))
    inputs = draw(COUNTS) if replies else 0
    cost, output = (draw(COUNTS) if replies else 0 for _ in range(2))
    return Line(replies, inputs, draw(st.integers(0, inputs)), output, cost, draw(COUNTS))


@st.composite
def _spendings(draw: st.DrawFn) -> Spending:
    accepted = draw(st.integers(1, 1000))
    lines = draw(st.dictionaries(KEYS, _lines(), max_size=4))
    return Spending(accepted + draw(st.integers(0, 100)), draw(COUNTS), lines, accepted)


WEIGHTS = st.dictionaries(KEYS, st.builds(Weights, *[st.fractions(0, 100, max_denominator=1000)] * 3))


@given(_objectives(), _tallies(), st.lists(st.tuples(_tallies(), _tallies()), max_size=2))
def test_few_calls_are_never_a_breach(objective: Objective, window: Tally, recent: list[tuple[Tally, Tally]]) -> None:
    """Below the least number of calls nothing is said, whatever they cost; above it the budget decides."""
    state = objective.state(window, recent)
    rate = objective.burn_rate(window)
    if window.calls < objective.min_calls or rate is None:
        assert state == "too few calls"
    else:
        exact = math.inf if not window.events else Fraction(window.used) / (objective.allowed * window.events)
        assert (state == "breach") == (exact > 1)


@given(_objectives(), st.lists(_tallies(), min_size=1, max_size=5))
def test_the_burn_rate_of_a_period_is_the_mean_of_its_parts(objective: Objective, parts: list[Tally]) -> None:
    """By their events: so that a budget of 1 is used up exactly when the rates average 1."""
    whole = Tally(*map(sum, zip(*parts, strict=True)))
    if all(part.events for part in parts):
        mean = sum(Fraction(objective.burn_rate(part) or 0) * part.events for part in parts) / whole.events
        assert objective.burn_rate(whole) == pytest.approx(float(mean))


@pytest.mark.parametrize(
    ("objective", "tally", "rate"),
    [
        (Objective("usd_per_call", Decimal("0.001")), Tally(200, 200, 100_000_000), 0.5),
        (Objective("usd_per_accepted", Decimal("0.001")), Tally(200, 100, 200_000_000), 2.0),
        (Objective("escalation_rate", 0.2), Tally(200, 200, 50), 1.25),
        (Objective("p95_latency_ms", 900), Tally(200, 200, 10), 1.0),
        (Objective("usd_per_accepted", Decimal(1)), Tally(200, 0, 1), math.inf),
        (Objective("usd_per_call", Decimal(1)), Tally(0, 0, 0), None),
    ],
    ids=lambda value: value.name if isinstance(value, Objective) else "",
)
def test_what_a_burn_rate_is(objective: Objective, tally: Tally, rate: float | None) -> None:
    """What was used, divided by what the events allow: money, climbs, or the 5 % of calls that may be slow."""
    assert objective.burn_rate(tally) == rate


@pytest.mark.parametrize(
    ("objective", "fast", "slow"),
    [
        (Objective("usd_per_call", Decimal(1)), 2, 1.5),
        (Objective("p95_latency_ms", 900), 10.5, 5.75),
        (Objective("escalation_rate", 0.25), 2.5, 1.75),
        (Objective("escalation_rate", 0.001), 14.4, 6),
    ],
)
def test_the_rates_of_an_alarm_can_be_reached(objective: Objective, fast: float, slow: float) -> None:
    """Those of the field where a share is small, else half or a quarter of what should be good; twice the money."""
    assert [float(objective.alarm_rate(pair)) for pair in (FAST, SLOW)] == [fast, slow]


def test_a_budget_burns_only_when_the_short_period_agrees() -> None:
    """An hour that is bad, and over, is no alarm any more; nor is one bad minute, or an hour of few calls."""
    objective, good = Objective("escalation_rate", 0.25), Tally(1000, 1000, 100)
    bad, short = Tally(100, 100, 80), Tally(10, 10, 8)
    for recent, state in [
        ([(bad, short)], "burning"),
        ([(bad, Tally(10, 10, 0))], "ok"),
        ([(good, short)], "ok"),
        ([(Tally(99, 99, 99), short)], "ok"),
        ([(bad, Tally(9, 9, 9))], "ok"),
        ([(good, good), (bad, short)], "burning"),
    ]:
        assert objective.state(good, recent) == state


@given(st.floats(1e-3, 1e10))
def test_a_bucket_is_within_2_percent_of_its_latencies(latency_ms: float) -> None:
    """From a millisecond on; below that, a millisecond is what it says."""
    assert bucket_ms(latency_bucket(latency_ms)) == pytest.approx(max(latency_ms, 1.0), rel=0.02)


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_buckets_are_in_order(one: float, other: float) -> None:
    """A longer latency is never in a lower bucket; what is no number is in the lowest."""
    low, high = sorted((one, other))
    assert latency_bucket(low) <= latency_bucket(high)
    assert latency_bucket(math.nan) == 0


@given(st.floats(-1e9, 1e11))
def test_a_day_holds_its_moments(time_s: float) -> None:
    """A day begins at 0:00 UTC, before 1970 too."""
    assert day_of(time_s) <= time_s < day_of(time_s) + DAY_S
    assert day_of(time_s) % DAY_S == 0


@given(st.lists(st.tuples(st.fractions(), st.fractions()), min_size=1, max_size=5))
def test_factors_share_the_change_of_their_product(factors: list[tuple[Fraction, Fraction]]) -> None:
    """The parts add up to it exactly, and a factor that did not change has none."""
    before, after = zip(*factors, strict=True)
    parts = shapley(math.prod, before, after)  # type: ignore[arg-type]
    assert sum(parts) == math.prod(after) - math.prod(before)
    assert all(part == 0 for part, (old, new) in zip(parts, factors, strict=True) if old == new)


@given(_spendings(), _spendings(), WEIGHTS)
def test_the_parts_of_a_cost_add_up_to_its_change(
    before: Spending, after: Spending, weights: dict[Key, Weights]
) -> None:
    """For a call and for an accepted answer, exactly, whatever is missing in one of the periods."""
    means = [Fraction(one.nusd, one.calls) for one in (before, after)]
    assert sum(part.amount for part in cost_parts(before, after, weights)) == means[1] - means[0]
    means = [Fraction(one.nusd, one.accepted) for one in (before, after)]
    assert sum(part.amount for part in accepted_cost_parts(before, after, weights)) == means[1] - means[0]


@given(_spendings(), WEIGHTS)
def test_nothing_changed_has_no_parts(spending: Spending, weights: dict[Key, Weights]) -> None:
    """Every part of no change is 0."""
    assert not any(part.amount for part in accepted_cost_parts(spending, spending, weights))


GROUPS = st.dictionaries(KEYS, st.integers(1, 1000).flatmap(lambda n: st.builds(Group, st.just(n), st.integers(0, n))))


@given(GROUPS, GROUPS)
def test_the_parts_of_a_share_add_up_to_its_change(before: dict[Key, Group], after: dict[Key, Group]) -> None:
    """Of slow calls by the way they went, and of climbs by their reason."""
    calls = [sum(group.calls for group in groups.values()) for groups in (before, after)]
    shares = [
        Fraction(sum(group.slow for group in groups.values()), max(1, count))
        for groups, count in zip((before, after), calls, strict=True)
    ]
    old, new = ({key: group.slow for key, group in groups.items()} for groups in (before, after))
    assert sum(part.amount for part in slow_parts(before, after)) == shares[1] - shares[0]
    assert sum(part.amount for part in share_parts(old, new, (calls[0], calls[1]))) == shares[1] - shares[0]


ONE = Line(100, 100_000, 0, 1_000, 1_000_000)


@pytest.mark.parametrize(
    ("after", "kind", "amount"),
    [
        (Line(200, 200_000, 0, 2_000, 2_000_000), "asked", 10_000),
        (ONE._replace(input_tokens=200_000, cost_nusd=1_900_000), "input", 9_000),
        (ONE._replace(output_tokens=2_000, cost_nusd=1_100_000), "output", 1_000),
        (ONE._replace(cached_read_tokens=100_000, cost_nusd=190_000), "cached", -8_100),
        (ONE._replace(cost_nusd=3_000_000), "price", 20_000),
        (ONE._replace(failed_nusd=500_000), "failed", 5_000),
    ],
    ids=["more-climbs", "longer-prompts", "longer-answers", "cache", "dearer", "failed"],
)
def test_a_single_cause_gets_the_whole_change(after: Line, kind: str, amount: int) -> None:
    """Of 100 calls with 1,000 tokens in at 9 nano-dollars, 0.9 from the cache, and 10 out at 100."""
    key = ("t", "m")
    lines = ONE._replace(cost_nusd=1_000_000)
    before, now = (
        Spending(100, 1_000_000, {key: lines}),
        Spending(100, after.cost_nusd + after.failed_nusd, {key: after}),
    )
    weights: dict[Key, Weights] = {key: Weights(Fraction(9), Fraction(9, 10), Fraction(100))}
    found = {part.kind: part.amount for part in cost_parts(before, now, weights) if part.amount}
    assert found == {kind: amount}
