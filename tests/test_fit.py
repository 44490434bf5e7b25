"""Fitting: plain numbers that score as scikit-learn does, whatever is tied, saturated or missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from router.core.calibration import SHAPES, Calibrator
from router.tuning.features import COLUMN_SHAPES, Floats, Term, first_score, matrix, score, terms_of
from router.tuning.fit import FOLDS, ISOTONIC_ROWS, STRENGTHS, fit, isotonic, log_loss
from router.tuning.table import folds_of

TOLERANCE = 1e-12


def columns(seed: int, rows: int, missing: float = 0.2) -> dict[str, Floats]:
    """Signals of every kind, with ties, exact ends and gaps."""
    random = np.random.default_rng(seed)
    lp = np.minimum(0.0, random.normal(-0.5, 1.0, rows).round(1))
    found = {
        "lp_mean": np.maximum(lp, -20.0),
        "conf": random.choice([0.0, 0.25, 0.9, 1.0], rows),
        "output_chars": random.integers(0, 4000, rows).astype(float),
        "invalid": (random.random(rows) < 0.1).astype(float),
        "odd": random.normal(size=rows),
        "constant": np.full(rows, 3.0),
    }
    for name in ("lp_mean", "constant"):
        found[name] = np.where(random.random(rows) < missing, np.nan, found[name])
    return found


def outcome(seed: int, known: dict[str, Floats]) -> Floats:
    """Right or wrong, depending on the signals."""
    random = np.random.default_rng(seed + 1)
    logit = 1.0 + 1.5 * np.nan_to_num(known["lp_mean"], nan=-1.0) + known["conf"] - 2.0 * known["invalid"]
    right = (random.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(float)
    right[:2] = 1.0, 0.0
    return right


def test_few_rows_bear_a_weaker_pull_than_many() -> None:
    """The strength that says most of held-out rows rises with the rows."""
    pulls = []
    for rows in (60, 6000):
        random = np.random.default_rng(2)
        known = {f"s{at}": random.normal(size=rows) for at in range(12)}
        right = (random.random(rows) < 1 / (1 + np.exp(-known["s0"]))).astype(float)
        fitted = fit(known, right, np.arange(rows) % FOLDS).calibrator
        pulls.append(fitted.weights[fitted.signals.index("s0")])
    assert pulls[0] < pulls[1]


def row(known: dict[str, Floats], at: int) -> dict[str, float]:
    """The signals of one row as production has them: a missing one is absent."""
    return {name: float(values[at]) for name, values in known.items() if not math.isnan(values[at])}


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_a_fit_scores_as_scikit_learn_does(seed: int, missing: float) -> None:
    """The exported numbers give scikit-learn's own probability of every row to 1e-12, at one of its strengths."""
    known = columns(seed, 300, missing)
    right = outcome(seed, known)
    fitted = fit(known, right, np.arange(300) % FOLDS).calibrator
    table = matrix(known, terms_of(known))
    table = table[:, table.std(axis=0) > 1e-9]
    plain = np.array([fitted.probability(row(known, at)) for at in range(300)])
    off = []
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, solver="newton-cholesky", max_iter=1000))
        off.append(abs(model.fit(table, right).predict_proba(table)[:, 1] - plain).max())
    assert min(off) <= TOLERANCE


@given(st.integers(0, 1000), st.floats(0, 0.5))
@settings(max_examples=15, deadline=None)
def test_columns_score_as_rows_do(seed: int, missing: float) -> None:
    """Tuning scores whole columns and production single rows: the same number to 1e-12."""
    known = columns(seed, 80, missing)
    fitted = fit(known, outcome(seed, known), np.arange(80) % FOLDS).calibrator
    by_row = [fitted.probability(row(known, at)) for at in range(80)]
    by_column = score(fitted, known, 80).tolist()
    assert [math.nan if p is None else p for p in by_row] == pytest.approx(by_column, abs=TOLERANCE, nan_ok=True)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@given(value=st.floats(-1e6, 1e6))
def test_both_forms_of_a_shape_agree(shape: Any, value: float) -> None:
    """For rows and for columns, and finite for every value."""
    plain = SHAPES[shape](value)
    assert math.isfinite(plain)
    assert COLUMN_SHAPES[shape](np.array([value]))[0] == pytest.approx(plain, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "shapes"),
    [
        ([0.0, 1.0, 1.0], ["linear"]),
        ([0.1, 0.5, 1.0], ["linear", "ln", "ln1m"]),
        ([-3.0, -0.5, 0.0], ["linear", "exp", "ln1mexp"]),
        ([3.0, 40.0, 500.0], ["ln1p"]),
        ([-3.0, 0.0, 5.0], ["linear"]),
        ([2.0, 2.0, 2.0], []),
        ([math.nan] * 3, []),
    ],
    ids=["mark", "probability", "log-probability", "count", "any number", "constant", "unknown"],
)
def test_a_signal_gets_the_shapes_that_its_values_deserve(values: list[float], shapes: list[str]) -> None:
    """Read off the values, never off the name."""
    assert [term.shape for term in terms_of({"any": np.array(values)})] == shapes


def test_a_signal_that_is_sometimes_missing_has_a_term_for_that() -> None:
    """Missing is a state of its own."""
    assert terms_of({"a": np.array([1.0, 2.0, 7.0, math.nan])}) == (Term("a", "ln1p"), Term("a", None))


def test_a_signal_that_says_something_only_by_being_missing_is_used() -> None:
    """Its value never varies, yet its absence does."""
    random = np.random.default_rng(0)
    absent = random.random(400) < 0.5
    right = (random.random(400) < np.where(absent, 0.2, 0.9)).astype(float)
    known = {"a": np.where(absent, np.nan, 1.0)}
    fitted = fit(known, right, np.arange(400) % FOLDS).calibrator
    with_it, without = fitted.probability({"a": 1.0}), fitted.probability({})
    assert with_it is not None
    assert without is not None
    assert with_it > 0.8 > 0.3 > without


def test_one_outcome_only_gives_a_constant_that_is_never_certain() -> None:
    """All drafts right is no proof that the next one is."""
    known = columns(0, 50)
    found = fit(known, np.ones(50), np.arange(50) % FOLDS)
    assert found.calibrator.signals == ()
    assert found.calibrator.probability({}) == pytest.approx(51 / 52)


def test_no_signal_at_all_gives_the_base_rate() -> None:
    """There is nothing else to go by."""
    right = (np.arange(100) % 4 > 0).astype(float)
    assert fit({}, right, np.arange(100) % FOLDS).calibrator.probability({}) == pytest.approx(76 / 102)


def test_graded_outcomes_count_as_shares() -> None:
    """Fitting grades equals fitting each row twice, with its grade and the rest as weights."""
    random = np.random.default_rng(2)
    x = random.normal(size=200)
    grade = 1 / (1 + np.exp(-x))
    fitted = fit({"x": x}, grade, np.arange(200) % FOLDS).calibrator
    p = score(fitted, {"x": x}, 200)
    assert np.corrcoef(p, grade)[0, 1] > 0.99


def test_scores_out_of_fold_do_not_come_from_their_own_row() -> None:
    """Labels without meaning are not learned by heart, nor does choosing a strength make anything of them."""
    inside, outside = [], []
    for seed in range(8):
        random = np.random.default_rng(seed)
        known = {f"s{at}": random.normal(size=100) for at in range(20)}
        right = random.integers(0, 2, 100).astype(float)
        found = fit(known, right, folds_of(np.arange(100), FOLDS, 0))
        inside.append(log_loss(score(found.calibrator, known, 100), right))
        outside.append(found.log_loss)
    assert np.mean(inside) < math.log(2) < np.mean(outside)


def test_an_isotonic_curve_is_used_where_it_is_better_and_rows_allow() -> None:
    """A relation with a step is no logistic curve; a thousand rows show that."""
    random = np.random.default_rng(1)
    for rows, stepped in ((ISOTONIC_ROWS - 1, False), (4 * ISOTONIC_ROWS, True)):
        x = random.uniform(-5, 5, rows)
        right = (random.random(rows) < np.where(x < 0, 0.3, 0.95)).astype(float)
        found = fit({"x": x + 5.0}, right, np.arange(rows) % FOLDS)
        assert bool(found.calibrator.knots_x) is stepped


@given(st.integers(0, 10_000), st.integers(5, 300))
@settings(max_examples=40, deadline=None)
def test_an_isotonic_curve_rises_strictly_between_its_ends(seed: int, rows: int) -> None:
    """So that no two drafts tie that did not before; the numbers are those a calibrator accepts."""
    random = np.random.default_rng(seed)
    p = random.random(rows).round(2)
    x, y = isotonic(p, (random.random(rows) < p).astype(float))
    assert np.all(np.diff(x) > 0)
    assert np.all(np.diff(y) >= 0)
    assert (x[0], x[-1]) == (0.0, 1.0)
    Calibrator((), (), (), (), 0.0, knots_x=tuple(x.tolist()), knots_y=tuple(y.tolist()))


def test_the_log_loss_equals_scikit_learn() -> None:
    """On probabilities that are not certain."""
    random = np.random.default_rng(0)
    p, right = random.uniform(0.01, 0.99, 500), random.integers(0, 2, 500)
    assert log_loss(p, right.astype(float)) == pytest.approx(sklearn_log_loss(right, p), abs=1e-12)


def test_the_first_calibrator_that_has_its_signals_counts_in_columns_too() -> None:
    """Row by row."""
    needs = Calibrator(("a",), (0.0,), (1.0,), (1.0,), 0.0)
    rest = Calibrator((), (), (), (), -2.0)
    found = first_score((needs, rest), {"a": np.array([0.0, math.nan])}, 2)
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(2))])
    assert np.isnan(first_score((needs,), {}, 2)).all()
