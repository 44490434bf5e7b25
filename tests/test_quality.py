"""Figures of a confidence: what scikit-learn or brute force also compute is equal to 1e-9."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from router.tuning.quality import FIGURES, quality_of, risk_coverage_area

PAIRS = st.lists(
    st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.sampled_from([0.0, 1.0])), min_size=4, max_size=80
).filter(lambda rows: len({right for _, right in rows}) == 2)


@given(PAIRS)
@settings(deadline=None)
def test_figures_equal_scikit_learn(rows: list[tuple[float, float]]) -> None:
    """With ties, zeros and ones."""
    p, right = (np.array(part) for part in zip(*rows, strict=True))
    assert FIGURES["brier"](p, right) == pytest.approx(brier_score_loss(right, p), abs=1e-9)
    assert FIGURES["auroc"](p, right) == pytest.approx(roc_auc_score(right, p), abs=1e-9)
    assert FIGURES["log_loss"](p, right) == pytest.approx(log_loss(right, p), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_the_risk_coverage_area_is_the_mean_over_every_order_of_ties(rows: list[tuple[int, int]]) -> None:
    """Drafts of equal confidence come in no order, so all orders count alike."""
    areas = []
    for order in itertools.permutations(rows):
        if all(one[0] >= other[0] for one, other in itertools.pairwise(order)):
            wrong = np.cumsum([1 - right for _, right in order])
            areas.append(float(np.mean(wrong / np.arange(1, len(order) + 1))))
    p, right = (np.array(part, float) for part in zip(*rows, strict=True))
    assert risk_coverage_area(p, right) == pytest.approx(float(np.mean(areas)), abs=1e-9)


def test_an_honest_confidence_has_little_calibration_error_and_a_boastful_one_much() -> None:
    """In the units of confidence."""
    random = np.random.default_rng(0)
    p = random.random(20_000)
    right = (random.random(20_000) < p).astype(float)
    assert quality_of(p, right).calibration_error.value < 0.02
    assert quality_of(np.sqrt(p), right).calibration_error.value == pytest.approx(1 / 6, abs=0.02)


def test_every_figure_has_an_interval_that_holds_it() -> None:
    """Nine times of ten the interval holds the value of many rows."""
    random = np.random.default_rng(1)
    held = dict.fromkeys(("brier", "auroc", "log_loss"), 0)
    p = random.random(200_000)
    truth = quality_of(p, (random.random(200_000) < p).astype(float))
    for _ in range(100):
        p = random.random(400)
        found = quality_of(p, (random.random(400) < p).astype(float))
        for name in held:
            estimate = getattr(found, name)
            held[name] += estimate.low <= getattr(truth, name).value <= estimate.high
    assert all(80 <= count <= 98 for count in held.values())


def test_one_outcome_only_has_no_auroc() -> None:
    """There is nothing to tell apart."""
    assert math.isnan(quality_of(np.linspace(0, 1, 50), np.ones(50)).auroc.value)


def test_few_rows_have_no_interval() -> None:
    """Twenty groups of one or two rows say nothing of the spread."""
    assert math.isnan(quality_of(np.array([0.2, 0.9]), np.array([0.0, 1.0])).brier.low)
