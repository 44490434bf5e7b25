"""Named numbers to a probability: a logistic curve over shaped signals, with isotonic steps on top where there are any.

The numbers are fitted offline with scikit-learn and stored as JSON; scoring here is plain Python and equals
scikit-learn's own output to 1e-12.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from router.core.grammar import STRICT, Limit, Text

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


class _Prepared:
    """Room for what a calibrator works out once, beside the numbers that it is stored as."""

    __slots__ = ("_terms",)
    _terms: tuple[tuple[str, float | None, str, tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class Calibrator(_Prepared):
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
        object.__setattr__(self, "_terms", _grouped(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Calibrator, tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def probability(self, signals: Mapping[str, float]) -> float | None:
        """The probability that the draft is right, 0 to 1, or `None` when a signal it needs is missing."""
        logit = self.intercept
        for name, absent, kind, numbers in self._terms:
            value = signals.get(name)
            if value is None:
                if absent is None:
                    return None
                logit += absent
            elif kind == "linear":
                center, scale, weight = numbers
                logit += weight * ((value - center) / scale)
            else:
                logit += _KINDS[kind](value, numbers)
        if math.isnan(logit):  # Infinity less infinity, from weights that no fit would give.
            return None
        p = sigmoid(logit)
        return interpolate(p, self.knots_x, self.knots_y) if self.knots_x else p


def _grouped(fitted: Calibrator) -> tuple[tuple[str, float | None, str, _Numbers], ...]:
    """The terms signal by signal: its name, what it adds when missing, its shapes, and their numbers in a row.

    Looking a signal up once and taking its shapes in one step halves the time of a score.
    """
    size = len(fitted.signals)
    plain: Shape = "linear"
    shapes = fitted.shapes or (plain,) * size
    missing = fitted.missing or (None,) * size
    found: list[tuple[str, float | None, str, _Numbers]] = []
    at = 0
    while at < size:
        for kind in ("linear ln ln1m", "linear exp ln1mexp", shapes[at]):
            end = at + len(kind.split())
            if list(shapes[at:end]) == kind.split() and len(set(fitted.signals[at:end])) == 1:
                break
        absent = missing[at:end]
        added = None if None in absent else math.fsum(one for one in absent if one is not None)
        parts = zip(fitted.center[at:end], fitted.scale[at:end], fitted.weights[at:end], strict=True)
        found.append((fitted.signals[at], added, kind, tuple(number for part in parts for number in part)))
        at = end
    return tuple(found)


def _ln1p(value: float, numbers: _Numbers) -> float:
    center, scale, weight = numbers
    return weight * ((math.log1p(value if value > 0.0 else 0.0) - center) / scale)


def _of_probability(value: float, numbers: _Numbers) -> float:
    """`linear`, `ln` and `ln1m` of one signal."""
    c0, s0, w0, c1, s1, w1, c2, s2, w2 = numbers
    low = math.log(value if value > TINY else TINY)
    rest = 1.0 - value
    high = math.log(rest if rest > TINY else TINY)
    return w0 * ((value - c0) / s0) + w1 * ((low - c1) / s1) + w2 * ((high - c2) / s2)


def _of_log_probability(value: float, numbers: _Numbers) -> float:
    """`linear`, `exp` and `ln1mexp` of one signal."""
    c0, s0, w0, c1, s1, w1, c2, s2, w2 = numbers
    capped = value if value < 0.0 else 0.0
    rest = -math.expm1(capped)
    high = math.log(rest if rest > TINY else TINY)
    return w0 * ((value - c0) / s0) + w1 * ((math.exp(capped) - c1) / s1) + w2 * ((high - c2) / s2)


def _single(shape: Callable[[float], float]) -> Callable[[float, _Numbers], float]:
    def term(value: float, numbers: _Numbers) -> float:
        center, scale, weight = numbers
        return weight * ((shape(value) - center) / scale)

    return term


_KINDS: dict[str, Callable[[float, _Numbers], float]] = {
    **{name: _single(shape) for name, shape in SHAPES.items()},
    "ln1p": _ln1p,
    "linear ln ln1m": _of_probability,
    "linear exp ln1mexp": _of_log_probability,
}


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
# A panel that is of one mind raises the odds by a factor of about 7, one that is divided does not.
_PRIOR_VOTES = 2.0
# Some repetition is style (lists, sums); a draft that repeats most of its phrases is a loop.
_PRIOR_LOOP, _LOOP_FROM = -3.0, 0.5


def prior(signals: Mapping[str, float]) -> float:
    """The uncalibrated guess that serves until a task is tuned; every answer that used it says so."""
    logit = _PRIOR_LOGIT + _PRIOR_LP_MEAN * signals.get("lp_mean", 0.0)
    for name, weight in _PRIOR_MARKS:
        logit += weight * signals.get(name, 0.0)
    if "panel_votes" in signals:
        logit += _PRIOR_VOTES * (2.0 * signals["panel_votes"] - 1.0)
    if signals.get("repetition", 0.0) > _LOOP_FROM:
        logit += _PRIOR_LOOP
    return sigmoid(logit)
