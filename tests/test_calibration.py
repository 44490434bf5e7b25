"""Calibrators: equal to scikit-learn, monotone, and open about what they do not know."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from router.core.calibration import SHAPES, Calibrator, Shape, confidence, interpolate, prior, sigmoid
from router.core.signals import FREE_SIGNALS
from tests.strategies import calibrators, signals

# Both sides compute in double precision; they differ in the order of a few additions only.
TOLERANCE = 1e-12
NAMES = ("lp_mean", "invalid", "output_chars")
MARKS = ("invalid", "empty", "refusal", "truncated", "repetition")
Array = np.ndarray[Any, np.dtype[np.float64]]


class Fitted(NamedTuple):
    """A fit by scikit-learn, and the same as plain numbers."""

    model: Any
    curve: Any
    plain: Calibrator
    stepped: Calibrator
    rows: Array


def fit(seed: int, steepness: float) -> Fitted:
    """Fit rows with ties; a steep relation gives probabilities of exactly 0 and 1."""
    random = np.random.default_rng(seed)
    rows = np.column_stack(
        [
            np.minimum(0.0, random.normal(-0.5, 1.0, 200).round(1)),  # Saturated and tied, as log-probabilities are.
            random.integers(0, 2, 200).astype(float),
            random.integers(1, 2000, 200).astype(float),
        ]
    )
    chance = 1 / (1 + np.exp(-(1 + steepness * rows[:, 0] - rows[:, 1])))
    right = random.random(200) < chance
    right[:2] = [True, False]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e6)).fit(rows, right)
    curve = IsotonicRegression(out_of_bounds="clip", y_min=0.0, y_max=1.0)
    curve.fit(model.predict_proba(rows)[:, 1], right.astype(float))
    scaler, logistic = model[0], model[1]
    parts: dict[str, Any] = {
        "signals": NAMES,
        "center": tuple(scaler.mean_.tolist()),
        "scale": tuple(scaler.scale_.tolist()),
        "weights": tuple(logistic.coef_[0].tolist()),
        "intercept": float(logistic.intercept_[0]),
    }
    knots: dict[str, Any] = {
        "knots_x": tuple(curve.X_thresholds_.tolist()),
        "knots_y": tuple(curve.y_thresholds_.tolist()),
    }
    return Fitted(model, curve, Calibrator(**parts), Calibrator(**parts, **knots), rows)


def scored(calibrator: Calibrator, rows: Array) -> list[float | None]:
    """Our probability of each row."""
    return [calibrator.probability(dict(zip(NAMES, row.tolist(), strict=True))) for row in rows]


@pytest.mark.parametrize("steepness", [0.5, 3.0, 100.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_calibrator_equals_scikit_learn(seed: int, steepness: float) -> None:
    """Standardised logistic regression, on the rows of the fit and on rows far outside it."""
    fitted = fit(seed, steepness)
    rows = np.vstack([fitted.rows, fitted.rows * 50, fitted.rows * -50])
    expected = fitted.model.predict_proba(rows)[:, 1]
    assert scored(fitted.plain, rows) == pytest.approx(expected.tolist(), abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("steepness", [0.5, 3.0, 100.0])
@pytest.mark.parametrize("seed", range(4))
def test_an_isotonic_calibrator_equals_scikit_learn(seed: int, steepness: float) -> None:
    """Isotonic regression on top, ties and flat ends included."""
    fitted = fit(seed, steepness)
    rows = np.vstack([fitted.rows, fitted.rows * 50, fitted.rows * -50])
    expected = fitted.curve.predict(fitted.model.predict_proba(rows)[:, 1])
    assert scored(fitted.stepped, rows) == pytest.approx(expected.tolist(), abs=TOLERANCE, rel=0)


def test_probabilities_of_exactly_0_and_1_equal_scikit_learn() -> None:
    """Saturation is the usual case with log-probabilities, in the logistic curve and in the steps."""
    fitted = fit(0, 100.0)
    rows = np.vstack([fitted.rows, fitted.rows * 50, fitted.rows * -50])
    p = fitted.model.predict_proba(rows)[:, 1]
    saturated = (p == 0.0) | (p == 1.0)
    assert {*p[saturated].tolist()} == {0.0, 1.0}
    assert scored(fitted.plain, rows[saturated]) == pytest.approx(p[saturated].tolist(), abs=TOLERANCE, rel=0)
    assert {0.0, 1.0} <= {*scored(fitted.stepped, rows)}


@given(
    st.lists(
        st.tuples(st.integers(0, 40).map(lambda n: n / 40), st.sampled_from([0.0, 1.0])), min_size=2, max_size=60
    ).filter(lambda pairs: len({x for x, _ in pairs}) > 1),
    st.lists(st.floats(0, 1), max_size=10),
)
@settings(max_examples=60, deadline=None)
def test_the_isotonic_curve_equals_scikit_learn(pairs: list[tuple[float, float]], places: list[float]) -> None:
    """At the knots, between them and outside them."""
    x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    curve = IsotonicRegression(out_of_bounds="clip").fit(x, y)
    knots_x, knots_y = tuple(curve.X_thresholds_.tolist()), tuple(curve.y_thresholds_.tolist())
    at = [*x, *places, 0.0, 1.0]
    assert [interpolate(value, knots_x, knots_y) for value in at] == pytest.approx(
        curve.predict(at).tolist(), abs=TOLERANCE, rel=0
    )


@pytest.mark.parametrize(
    ("logit", "p"), [(0.0, 0.5), (-1e9, 0.0), (1e9, 1.0), (-math.inf, 0.0), (math.inf, 1.0), (math.log(3), 0.75)]
)
def test_the_logistic_function_does_not_overflow(logit: float, p: float) -> None:
    """Either end is reached, and nothing is raised."""
    assert sigmoid(logit) == pytest.approx(p, abs=1e-15)


@pytest.mark.parametrize(
    ("x", "y"), [(-1.0, 0.25), (0.2, 0.25), (0.3, 0.5), (0.4, 0.75), (0.6, 0.75), (0.8, 0.75), (2.0, 0.75)]
)
def test_the_curve_is_straight_between_knots_and_flat_outside(x: float, y: float) -> None:
    """A knot itself has its own value."""
    assert interpolate(x, (0.2, 0.4, 0.8), (0.25, 0.75, 0.75)) == pytest.approx(y)


@given(calibrators(), signals())
def test_a_probability_lies_between_0_and_1(calibrator: Calibrator, known: dict[str, float]) -> None:
    """Whatever the numbers; it is missing exactly when a signal is."""
    p = calibrator.probability(known)
    assert (p is None) is (not set(calibrator.signals) <= known.keys())
    assert p is None or 0.0 <= p <= 1.0


@given(calibrators(), st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_a_calibrator_is_monotone_in_each_signal(calibrator: Calibrator, values: list[float]) -> None:
    """It rises with a signal of positive weight and falls with one of negative weight."""
    known = dict.fromkeys(FREE_SIGNALS, 0.5)
    for name, weight in zip(calibrator.signals, calibrator.weights, strict=True):
        ordered = sorted(values, reverse=weight < 0)
        curve = [calibrator.probability({**known, name: value}) or 0.0 for value in ordered]
        # A straight piece may end one rounding error above the knot that it leads to.
        assert all(b - a >= -1e-15 for a, b in pairwise(curve))


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_signal_gives_no_probability(missing: str) -> None:
    """A missing signal is not 0, so that nothing is made up for it."""
    calibrator = Calibrator(NAMES, (0.0,) * 3, (1.0,) * 3, (1.0,) * 3, 0.0)
    known = dict.fromkeys(NAMES, 0.0)
    assert calibrator.probability(known) == 0.5
    del known[missing]
    assert calibrator.probability(known) is None


def test_signals_that_a_calibrator_does_not_know_are_ignored() -> None:
    """More signals than it was fitted on change nothing."""
    calibrator = Calibrator(("invalid",), (0.0,), (1.0,), (-1.0,), 0.0)
    assert calibrator.probability({"invalid": 1.0, "lp_mean": -20.0}) == calibrator.probability({"invalid": 1.0})


def test_weights_beyond_all_floats_give_no_probability() -> None:
    """Infinity less infinity is no number, and no confidence either."""
    calibrator = Calibrator(("lp_mean", "lp_min"), (0.0, 0.0), (1e-300, 1e-300), (1e300, -1e300), 0.0)
    assert calibrator.probability({"lp_mean": -1.0, "lp_min": -1.0}) is None


# The prior


def test_the_prior_of_a_draft_with_nothing_against_it_is_85_percent() -> None:
    """A guess, written down once."""
    assert prior({}) == pytest.approx(0.85)
    assert prior(dict.fromkeys(MARKS, 0.0)) == pytest.approx(0.85)


@given(signals(), st.sampled_from(MARKS))
def test_a_mark_against_a_draft_lowers_the_prior(known: dict[str, float], mark: str) -> None:
    """Each mark by itself, whatever else is known."""
    marks = {name: min(1.0, abs(value)) for name, value in known.items() if name in MARKS}
    lp = {"lp_mean": -min(20.0, abs(known["lp_mean"]))} if "lp_mean" in known else {}
    assert prior({**marks, **lp, mark: 1.0}) < prior({**marks, **lp, mark: 0.0})


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_less_likely_tokens_lower_the_prior(one: float, other: float) -> None:
    """The mean log-probability counts in the same direction everywhere."""
    low, high = sorted([one, other])
    assert prior({"lp_mean": low}) <= prior({"lp_mean": high})


@pytest.mark.parametrize("mark", ["invalid", "empty", "refusal", "truncated", "repetition"])
def test_a_mark_alone_puts_the_prior_below_every_usual_threshold(mark: str) -> None:
    """Until a task is tuned, a draft with a mark climbs."""
    assert prior({mark: 1.0}) < 0.25


@given(signals())
def test_the_prior_lies_between_0_and_1(known: dict[str, float]) -> None:
    """For any signals."""
    assert 0.0 <= prior(known) <= 1.0


# Which calibrator counts


def constant(p: float, *names: str) -> Calibrator:
    """A calibrator that needs these signals and always says the same."""
    zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
    return Calibrator(names, zeros, ones, zeros, math.log(p / (1 - p)))


@pytest.mark.parametrize(
    ("known", "p", "index"),
    [
        ({"lp_mean": -1.0, "invalid": 0.0}, 0.9, 0),
        ({"invalid": 0.0}, 0.6, 1),
        ({}, 0.3, 2),
    ],
    ids=["all", "one", "none"],
)
def test_the_first_calibrator_whose_signals_are_known_counts(known: dict[str, float], p: float, index: int) -> None:
    """They are listed the best first."""
    listed = (constant(0.9, "lp_mean", "invalid"), constant(0.6, "invalid"), constant(0.3))
    found, at = confidence(listed, known)
    assert at == index
    assert found == pytest.approx(p)


def test_without_a_calibrator_the_prior_counts_and_is_named() -> None:
    """`None` in place of an index says that no data stands behind the number."""
    known = {"invalid": 1.0}
    assert confidence((), known) == (prior(known), None)
    assert confidence((constant(0.9, "lp_mean"),), known) == (prior(known), None)


# Shapes and missing signals


def test_a_shaped_calibrator_adds_up_its_terms() -> None:
    """A signal may enter in several shapes, together or apart; the logit is the sum of all terms."""
    shapes: tuple[Shape, ...] = ("linear", "ln", "ln1m", "ln1p", "linear", "exp", "ln1mexp", "ln")
    signals = ("a", "a", "a", "b", "c", "c", "c", "d")
    numbers = tuple(0.1 * (at + 1) for at in range(8))
    fitted = Calibrator(signals, numbers, numbers[::-1], numbers, -0.3, shapes)
    known = {"a": 0.7, "b": 12.0, "c": -0.4, "d": 0.0}
    terms = zip(signals, shapes, numbers, numbers[::-1], numbers, strict=True)
    logit = -0.3 + sum(w * ((SHAPES[shape](known[name]) - c) / s) for name, shape, c, s, w in terms)
    assert fitted.probability(known) == pytest.approx(sigmoid(logit), abs=TOLERANCE)


def test_a_signal_that_may_be_missing_adds_its_share() -> None:
    """One that may not gives no probability."""
    fitted = Calibrator(("a", "b"), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0), 0.5, missing=(-2.0, None))
    assert fitted.probability({"b": 1.0}) == pytest.approx(sigmoid(0.5 - 2.0 + 1.0))
    assert fitted.probability({"a": 1.0}) is None


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"shapes": ("linear",)}, "shapes has 1 entries for 2 signals"),
        ({"missing": (0.0,)}, "missing has 1 entries for 2 signals"),
        ({"missing": (0.0, math.inf)}, "holds a number that is not finite"),
        ({"signals": ("a", "a"), "shapes": ("ln", "ln")}, "signals names one signal twice in the same shape"),
    ],
)
def test_shapes_and_missing_values_are_checked(parts: dict[str, Any], says: str) -> None:
    """A file that was edited by hand is told what is wrong."""
    whole: dict[str, Any] = {"signals": ("a", "b"), "center": (0.0,) * 2, "scale": (1.0,) * 2, "weights": (1.0,) * 2}
    with pytest.raises(ValueError, match=says):
        Calibrator(**{**whole, "intercept": 0.0, **parts})


@given(calibrators(), signals())
@settings(max_examples=20)
def test_a_calibrator_survives_copies(fitted: Calibrator, known: dict[str, float]) -> None:
    """Between processes and within one."""
    for copied in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), replace(fitted)):
        assert copied == fitted
        assert copied.probability(known) == fitted.probability(known)
