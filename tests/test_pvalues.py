"""p-values: exact where they say so, valid everywhere, and equal to what brute force and scipy compute."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from router.tuning.certify import Test as LossTest
from router.tuning.pvalues import NUISANCE_SHARE, betting, binomial, trinomial
from router.tuning.units import unit_losses

TARGETS = st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.3])


def outcomes(rows: int) -> Iterator[tuple[int, int]]:
    """Every pair of counts of rows that lose and rows that gain."""
    return ((worse, better) for worse in range(rows + 1) for better in range(rows + 1 - worse))


def chance(rows: int, worse: int, better: int, p_worse: float, p_better: float) -> float:
    """The trinomial probability of these counts."""
    ways = math.comb(rows, worse) * math.comb(rows - worse, better)
    return ways * p_worse**worse * p_better**better * max(0.0, 1.0 - p_worse - p_better) ** (rows - worse - better)


@given(st.integers(0, 400), st.integers(0, 400), TARGETS)
def test_the_binomial_p_value_equals_scipy(rows: int, worse: int, target: float) -> None:
    """It is the distribution function of the binomial, to 1e-9."""
    worse = min(worse, rows)
    expected = binom.cdf(worse, rows, target) if rows else 1.0
    assert binomial(rows, worse, target) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("rows", "target"), [(8, 0.3), (14, 0.15), (22, 0.05)])
def test_the_trinomial_test_holds_its_level_by_brute_force(rows: int, target: float) -> None:
    """Over every outcome of few rows and a fine grid of the boundary, no level is exceeded."""
    p_values = {counts: trinomial(rows, *counts, target) for counts in outcomes(rows)}
    for level in (0.005, 0.02, 0.05, 0.1, 0.3):
        rejected = [counts for counts, p in p_values.items() if p <= level]
        for p_better in np.linspace(0.0, (1.0 - target) / 2, 60):
            p_worse = min(p_better + target, 1.0 - p_better)
            size = sum(chance(rows, *counts, p_worse, float(p_better)) for counts in rejected)
            assert size <= level + 1e-9


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (2, 1), (4, 4), (1, 7)])
def test_the_trinomial_p_value_bounds_its_supremum_closely(worse: int, better: int) -> None:
    """Above brute force over the nuisance, and not by more than its stated share and tolerance where it matters."""
    rows, target = 20, 0.3
    p_values = {counts: trinomial(rows, *counts, target) for counts in outcomes(rows)}
    p = p_values[worse, better]
    region = [counts for counts, other in p_values.items() if other <= p]
    reached = max(
        sum(chance(rows, *counts, float(b) + target, float(b)) for counts in region) for b in np.linspace(0, 0.35, 36)
    )
    assert reached - 1e-9 <= p <= 1.3 * reached + 2 * NUISANCE_SHARE


@given(st.integers(1, 2000), st.integers(0, 300), st.integers(0, 300), TARGETS)
@settings(max_examples=30, deadline=None)
def test_a_p_value_is_a_share_and_falls_as_fewer_rows_lose(rows: int, worse: int, better: int, target: float) -> None:
    """One row less that loses, or one more that gains, never speaks against a plan."""
    worse, better = min(worse, rows // 2), min(better, rows // 2)
    p = trinomial(rows, worse, better, target)
    assert 0.0 < p <= 1.0
    # The bound is within 4 % of the supremum, so that neighbours may cross by that much.
    if worse:
        assert trinomial(rows, worse - 1, better, target) <= 1.05 * p + 1e-9
    if worse + better < rows:
        assert trinomial(rows, worse, better + 1, target) <= 1.05 * p + 1e-9


def test_a_loss_at_the_target_or_above_is_never_rejected() -> None:
    """What was seen is no evidence against itself."""
    assert trinomial(100, 5, 0, 0.05) == 1.0
    assert trinomial(100, 9, 1, 0.05) == 1.0
    assert trinomial(0, 0, 0, 0.05) == 1.0


def test_without_any_loss_the_rule_of_three_holds() -> None:
    """299 rows without a loss show 1 % at 95 %, as everybody's table says."""
    assert trinomial(310, 0, 0, 0.01) <= 0.05 < trinomial(290, 0, 0, 0.01)


def reference_betting(loss: list[float], target: float, share: float) -> float:
    """The betting p-value, one step after the other as it is written down."""
    n, m, total, squares, fortune, best = len(loss), (target + 1) / 2, 0.5, 0.25, 1.0, 1.0
    variance = 0.25
    for step, one in enumerate(loss, 1):
        x = (one + 1) / 2
        bet = min(math.sqrt(2 * math.log(1 / share) / (n * variance)), 0.75 / (1 - m))
        fortune *= 1 - bet * (x - m)
        best = max(best, fortune)
        total += x
        squares += (x - total / (step + 1)) ** 2
        variance = squares / (step + 1)
    return 1 / best


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), TARGETS, st.sampled_from([0.05, 0.1]))
@settings(max_examples=60, deadline=None)
def test_the_betting_p_value_equals_the_procedure_step_by_step(loss: list[float], target: float, share: float) -> None:
    """The columns compute what the loop computes, to 1e-9."""
    assert betting(np.array(loss), target, share) == pytest.approx(reference_betting(loss, target, share), rel=1e-9)


@pytest.mark.parametrize("spread", [0.05, 0.3])
def test_the_betting_test_holds_its_level(spread: float) -> None:
    """Losses with a mean exactly at the target are called smaller in at most one run of ten."""
    random = np.random.default_rng(7)
    called = 0
    for _ in range(400):
        loss = np.where(random.random(300) < 0.5, 0.03 - spread, 0.03 + spread)
        called += betting(loss, 0.03, 0.1) <= 0.1
    assert called / 400 <= 0.1 + 3 * math.sqrt(0.09 / 400)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1, 1)), min_size=1, max_size=30))
def test_each_unit_counts_once_by_the_mean_of_its_rows(rows: list[tuple[int, float]]) -> None:
    """So every loss stays within -1 and 1, whatever the sizes of the units."""
    unit, loss = np.array([one for one, _ in rows]), np.array([one for _, one in rows])
    by_unit = unit_losses(loss, unit)
    assert np.all((by_unit >= -1 - 1e-12) & (by_unit <= 1 + 1e-12))
    if len(by_unit) < len(rows):
        assert by_unit.tolist() == pytest.approx([loss[unit == one].mean() for one in np.unique(unit)], abs=1e-12)


def test_a_rare_large_unit_does_not_widen_the_bounds_of_the_others() -> None:
    """What is lost in few large units is called small in at most one run of ten, seen or not."""
    random, called = np.random.default_rng(11), 0
    for _ in range(300):
        large = random.random(400) < 0.1  # Each loses half: the mean over units is exactly the target.
        unit = np.repeat(np.arange(400), np.where(large, 50, 1))
        loss = np.repeat(np.where(large, 0.5, 0.0), np.where(large, 50, 1))
        called += LossTest("signed", "betting", unit, 0).p_value(loss, 0.05, 0.1) <= 0.1
    assert called / 300 <= 0.1 + 3 * math.sqrt(0.09 / 300)


@pytest.mark.parametrize("kind", ["exact", "betting"])
@pytest.mark.parametrize("loss_kind", ["signed", "never_worse"])
def test_an_upper_bound_is_where_the_p_value_crosses_the_share(kind: str, loss_kind: str) -> None:
    """A target at the bound is met, one clearly below it is not."""
    random = np.random.default_rng(3)
    loss = random.choice([0.0, 1.0, -1.0], 500, p=[0.9, 0.06, 0.04])
    test = LossTest(loss_kind, kind, np.arange(500), 0)  # type: ignore[arg-type]
    upper = test.upper(loss, 0.05)
    assert float(test.counted(loss).mean()) < upper < 0.2
    assert test.p_value(loss, upper, 0.05) <= 0.05
    assert test.p_value(loss, upper - 0.005, 0.05) > 0.05


@pytest.mark.parametrize("loss", [[1.0, 0, 0, 1, 0, 0], [0.5, 1, 1]])
def test_a_few_graded_losses_have_a_bound(loss: list[float]) -> None:
    """Even where nothing short of losing everything can be ruled out."""
    found = LossTest("signed", "betting", np.arange(len(loss)), 0)
    upper = found.upper(np.array(loss), 0.05)
    assert np.mean(loss) <= upper <= 1.0
    assert found.p_value(np.array(loss), upper, 0.05) <= 0.05


@given(st.integers(1, 400), st.integers(0, 10**6), st.sampled_from([0.01, 0.05, 0.1]), st.booleans())
def test_a_bound_is_tight_and_safe(rows: int, seed: int, share: float, graded: bool) -> None:
    """The test rejects at the bound, and no longer a little below it."""
    random = np.random.default_rng(seed)
    loss = random.choice([-1.0, 0.0, 0.5 if graded else 0.0, 1.0], p=[0.05, 0.6, 0.2, 0.15], size=rows)
    found = LossTest("signed", "betting" if graded else "exact", np.arange(rows), 0)
    upper = found.upper(loss, share)
    if upper < 1.0:
        assert found.p_value(loss, upper, share) <= share
        below = upper - (1.0 - float(loss.mean())) / 2**6
        assert below <= loss.mean() or found.p_value(loss, below, share) > share
