"""Certifying: test a chain of settings on rows that had no part in choosing it, and keep the cheapest that passed."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.tuned import Statement
from router.tuning.pvalues import betting, binomial, trinomial
from router.tuning.table import Table
from router.tuning.units import error_of_mean, unit_count, unit_losses

Floats = NDArray[np.float64]
LossKind = Literal["signed", "never_worse"]
TestKind = Literal["exact", "betting"]

# How far above the mean an upper bound is looked for, in standard errors; the bisection steps, which leave it a
# twentieth of a standard error wide at most; and how often the normal curve may say where to look before.
_REACH, _STEPS, _GUESSES = 6.0, 7, 4
_Z90 = 1.645


class Test(NamedTuple):
    """How a loss is tested: which losses count, and with which p-value."""

    loss: LossKind
    kind: TestKind
    unit: NDArray[np.intp]
    """The unit of each certify row; more rows than units mean that rows hang together."""
    order_seed: int
    """Of the one shuffle that the betting test needs; taken from the data, never drawn again."""

    def p_value(self, loss: Floats, target: float, share: float) -> float:
        """p-value of "the loss is at least the target"."""
        if self.kind == "exact" and self.loss == "never_worse":
            return binomial(len(loss), int((loss > 0).sum()), target)
        if self.kind == "exact":
            return trinomial(len(loss), int((loss > 0).sum()), int((loss < 0).sum()), target)
        by_unit = self.by_unit(loss)
        order = np.random.default_rng(self.order_seed).permutation(len(by_unit))
        return betting(by_unit[order], target, share)

    def by_unit(self, loss: Floats) -> Floats:
        """What counts of each unit: the mean of its rows."""
        return unit_losses(self.counted(loss), self.unit)

    def counted(self, loss: Floats) -> Floats:
        """The part of each row's loss that counts."""
        return (loss > 0).astype(float) if self.loss == "never_worse" else loss

    def upper(self, loss: Floats, share: float) -> float:
        """The smallest target that this plan alone would have met."""
        counted = self.by_unit(loss)
        mean, spread, root = float(counted.mean()), float(counted.std()), math.sqrt(len(counted))
        low = min(max(mean, 0.0 if self.loss == "never_worse" else -1.0), 0.999)
        high = min(1.0, low + _REACH * (spread + 1.0 / root) / root)
        if self.p_value(loss, high, share) > share:
            high = 1.0
        enough, beyond = (high - low) / 2**_STEPS, _quantile(share)
        # Where the normal curve has it, which of many rows is nearly right; else halving goes on.
        guess, guesses = mean + beyond * spread / root, _GUESSES
        while high - low > enough * (1.0 + 1e-9):
            middle = guess if guesses > 0 and low < guess < high else (low + high) / 2
            p = self.p_value(loss, middle, share)
            low, high = (low, middle) if p <= share else (middle, high)
            # As far on as the curve says, and a little further: to the other side of it.
            guess = middle + (beyond - _quantile(p)) * spread / root + (-enough if p <= share else enough) / 2
            guesses -= 1
        return high


def _quantile(p: float) -> float:
    return NormalDist().inv_cdf(1.0 - min(max(p, 1e-12), 1.0 - 1e-12))


def test_for(table: Table, loss: LossKind, data_seed: int) -> Test:
    """The test that these rows allow: exact for right-or-wrong labels of rows drawn one by one, else betting."""
    graded = not np.isin(table.quality, (0.0, 1.0)).all()
    clustered = table.run.cluster is not None and unit_count(table.unit) < table.rows
    exact = not clustered and (loss == "never_worse" or not graded)
    return Test(loss, "exact" if exact else "betting", table.unit, data_seed)


class Tried(NamedTuple):
    """One setting on the certify split."""

    cost: Floats
    loss: Floats
    asked_more: NDArray[np.bool_]


class Passed(NamedTuple):
    """The settings of a chain that passed, and how the tests went."""

    passed: tuple[int, ...]
    p_values: tuple[float, ...]
    """Of every setting tested; only the last can have failed."""

    @property
    def finished(self) -> bool:
        """Whether no setting failed."""
        return len(self.passed) == len(self.p_values)


def walk(count: int, tried: Callable[[int], Tried], test: Test, target: float, share: float) -> Passed:
    """Test settings from strict to loose, each at the whole share, and stop at the first that fails.

    Because a setting is only tested when all before it have passed, no error budget is spent twice.
    """
    p_values: list[float] = []
    for at in range(count):
        p = test.p_value(tried(at).loss, target, share)
        p_values.append(p)
        if not p <= share:
            return Passed(tuple(range(at)), tuple(p_values))
    return Passed(tuple(range(count)), tuple(p_values))


def saves(tried: Tried, top_cost: Floats, unit: NDArray[np.intp]) -> bool:
    """The break-even guard: cheaper than always the top rung with 90 % confidence, not only on average."""
    saved = top_cost - tried.cost
    return bool(saved.mean() > 1.282 * error_of_mean(saved, unit))


def statement(tried: Tried, top_cost: Floats, test: Test, share: float, tested: int, p_value: float) -> Statement:
    """What was shown of one plan."""
    ratio = tried.cost.mean() / top_cost.mean()
    # The delta method for a ratio of two means of the same rows.
    spread = error_of_mean(tried.cost - ratio * top_cost, test.unit) / float(top_cost.mean())
    units = unit_count(test.unit)
    return Statement(
        rows=len(top_cost),
        clusters=units if units < len(top_cost) else None,
        share=share,
        tested=tested,
        p_value=p_value,
        loss=float(test.by_unit(tried.loss).mean()),
        loss_upper=test.upper(tried.loss, share),
        cost=float(ratio),
        cost_interval=(float(ratio - _Z90 * spread), float(ratio + _Z90 * spread)),
        escalated=float(tried.asked_more.mean()),
    )
