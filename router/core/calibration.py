"""Named numbers to a probability: a logistic curve over shaped signals, with isotonic steps on top where there are any.

The numbers are fitted offline with scikit-learn and stored as JSON; scoring here is plain Python and equals
scikit-learn's own output to 1e-12.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from router.core.policy import STRICT, Limit, Text

_Numbers = tuple[float, ...]
Shape = Literal["linear", "ln1p", "ln", "ln1m", "exp", "ln1mexp"]

# Below this a probability, or its distance from 1, counts as this: log-probabilities saturate at exactly 0 and at -inf.
TINY = 1e-6

SHAPES: dict[Shape, Callable[[float], float]] = {
    "linear": lambda value: value,
    # A count matters by its factor: 10 to 20 words is as far as 100 to 200.
    "ln1p": lambda value: math.log1p(max(value, 0.0)),
    # A probability matters by its distance from either end.
    "ln": lambda value: math.log(max(value, TINY)),
    "ln1m": lambda value: math.log(max(1.0 - value, TINY)),
    # The same for a log-probability.
    "exp": lambda value: math.exp(min(value, 0.0)),
    "ln1mexp": lambda value: math.log(max(-math.expm1(min(value, 0.0)), TINY)),
}


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Plain numbers that turn signals into the probability that a draft is right."""

    __pydantic_config__ = STRICT

    signals: Annotated[tuple[Text, ...], Limit(max_length=256)]
    """The signal of each term. A signal may have several terms, each with a shape of its own."""
    center: _Numbers
    """Mean of each term in the training rows."""
    scale: _Numbers
    """Standard deviation of each term in the training rows, never 0."""
    weights: _Numbers
    """Logistic weight of each standardised term."""
    intercept: float
    """Logistic intercept."""
    shapes: tuple[Shape, ...] = ()
    """How each signal enters its term; empty for all as they are."""
    missing: tuple[float | None, ...] = ()
    """What each term adds to the logit where its signal is missing; `null`, or empty for all: it cannot be missing."""
    knots_x: _Numbers = ()
    """Logistic probabilities at which the isotonic curve bends, ascending; empty for no isotonic curve."""
    knots_y: _Numbers = ()
    """Probability at each knot, ascending, 0 to 1."""

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in ("center", "scale", "weights")}
        if wrong := [name for name, size in sizes.items() if size != len(self.signals)]:
            raise ValueError(f"{wrong[0]} has {sizes[wrong[0]]} numbers for {len(self.signals)} signals")
        for name in ("shapes", "missing"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.signals):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {len(self.signals)} signals")
        if len(set(zip(self.signals, self.shapes or self.signals, strict=True))) != len(self.signals):
            raise ValueError("signals names one signal twice" + (" in the same shape" if self.shapes else ""))
        added = [value for value in self.missing if value is not None]
        numbers = (*self.center, *self.scale, *self.weights, self.intercept, *self.knots_x, *added)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("holds a number that is not finite")
        if any(scale <= 0 for scale in self.scale):
            raise ValueError("scale must be above 0")
        if len(self.knots_x) != len(self.knots_y) or len(self.knots_x) == 1:
            raise ValueError("knots_x and knots_y must be equally long, with no knot or at least two")
        if any(a >= b for a, b in zip(self.knots_x, self.knots_x[1:], strict=False)):
            raise ValueError("knots_x must ascend")
        if any(a > b for a, b in zip(self.knots_y, self.knots_y[1:], strict=False)) or any(
            not 0.0 <= y <= 1.0 for y in self.knots_y
        ):
            raise ValueError("knots_y must ascend within 0 and 1")

    def probability(self, signals: Mapping[str, float]) -> float | None:
        """The probability that the draft is right, 0 to 1, or `None` when a signal it needs is missing."""
        logit = self._shaped(signals) if self.shapes or self.missing else self._linear(signals)
        if logit is None or math.isnan(logit):  # Infinity less infinity, from weights that no fit would give.
            return None
        p = sigmoid(logit)
        return interpolate(p, self.knots_x, self.knots_y) if self.knots_x else p

    def _linear(self, signals: Mapping[str, float]) -> float | None:
        logit = self.intercept
        for name, center, scale, weight in zip(self.signals, self.center, self.scale, self.weights, strict=True):
            value = signals.get(name)
            if value is None:
                return None
            logit += weight * ((value - center) / scale)
        return logit

    def _shaped(self, signals: Mapping[str, float]) -> float | None:
        logit = self.intercept
        shapes = self.shapes or ("linear",) * len(self.signals)
        added = self.missing or (None,) * len(self.signals)
        for name, shape, center, scale, weight, absent in zip(
            self.signals, shapes, self.center, self.scale, self.weights, added, strict=True
        ):
            value = signals.get(name)
            if value is not None:
                logit += weight * (((value if shape == "linear" else SHAPES[shape](value)) - center) / scale)
            elif absent is None:
                return None
            else:
                logit += absent
        return logit


def sigmoid(logit: float) -> float:
    """The logistic function, without overflow at either end."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    e = math.exp(logit)
    return e / (1.0 + e)


def interpolate(x: float, knots_x: _Numbers, knots_y: _Numbers) -> float:
    """The curve through the knots at `x`: straight between them, flat outside them."""
    at = bisect_right(knots_x, x)
    if at == 0:
        return knots_y[0]
    if at == len(knots_x):
        return knots_y[-1]
    x0, x1, y0, y1 = knots_x[at - 1], knots_x[at], knots_y[at - 1], knots_y[at]
    return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))


def confidence(calibrators: tuple[Calibrator, ...], signals: Mapping[str, float]) -> tuple[float, int | None]:
    """The probability from the first calibrator that has all its signals, and its index; else the prior and `None`."""
    for index, calibrator in enumerate(calibrators):
        p = calibrator.probability(signals)
        if p is not None:
            return p, index
    return prior(signals), None


# Chosen, not measured: a draft with nothing against it is right in 85 of 100 calls, each mark against it lowers the
# odds by a factor of about 20 to 150, and a mean log-probability of -0.5 nats a token lowers them by about 3.
_PRIOR_LOGIT = math.log(0.85 / 0.15)
_PRIOR_MARKS = (("invalid", -4.0), ("empty", -5.0), ("refusal", -4.0), ("truncated", -3.0))
_PRIOR_LP_MEAN = 2.35
# Some repetition is style (lists, sums); a draft that repeats most of its phrases is a loop.
_PRIOR_LOOP, _LOOP_FROM = -3.0, 0.5


def prior(signals: Mapping[str, float]) -> float:
    """The uncalibrated guess that serves until a task is tuned; every answer that used it says so."""
    logit = _PRIOR_LOGIT + _PRIOR_LP_MEAN * signals.get("lp_mean", 0.0)
    for name, weight in _PRIOR_MARKS:
        logit += weight * signals.get(name, 0.0)
    if signals.get("repetition", 0.0) > _LOOP_FROM:
        logit += _PRIOR_LOOP
    return sigmoid(logit)
