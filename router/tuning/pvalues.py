"""p-values for "the plan loses more than the target", valid at every sample size.

The loss of a row is the top rung's quality less the plan's, -1 to 1. Three tests:

- `trinomial`: exact, for losses of -1, 0 and 1, which is what right-or-wrong labels give. About half the rows of the
  betting test give the same power (`docs/decisions/0011-exact-test.md`).
- `binomial`: exact, for counting rows that are answered worse.
- `betting`: for graded losses and for clusters of rows (Waudby-Smith and Ramdas, 2024).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The part of each exact p-value that pays for leaving unlikely nuisance values out (Berger and Boos, 1994): small
# against any error budget in use, and large enough to keep the interval short.
NUISANCE_SHARE = 0.0005
# Cells of the nuisance interval are split until the bound is within 4 % of the supremum, always on the safe side.
_TIGHT, _CELLS, _SPLIT, _MAX_SPLITS = 0.04, 16, 4, 60
# Counts further than this many standard deviations are left out; their probability is added to the p-value.
_WINDOW = 6.5
# The largest bet as a share of all that may be lost (Waudby-Smith and Ramdas use one half or three quarters).
_LARGEST_BET = 0.75


def binomial(rows: int, worse: int, target: float) -> float:
    """Exact p-value of "at least `target` of all rows are answered worse", from how many were."""
    from scipy.special import bdtr

    return float(bdtr(worse, rows, target)) if rows else 1.0


def betting(loss: Floats, target: float, share: float) -> float:
    """p-value of "the mean loss is at least `target`", from losses within -1 and 1 in an order drawn beforehand.

    A gambler bets on each loss with what the losses before it suggest; the largest fortune bounds the p-value
    (Ville's inequality). `share` is the error budget that the bets aim at.
    """
    n = len(loss)
    if n == 0:
        return 1.0
    if target >= 1.0:  # Nothing loses more than 1: one row that loses less refutes it.
        return float(loss.min() >= 1.0)
    x, m = (loss + 1.0) / 2.0, (target + 1.0) / 2.0
    seen = np.arange(2, n + 2)
    mean = (0.5 + np.cumsum(x)) / seen
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / seen
    before = np.r_[0.25, variance[:-1]]
    bets = np.minimum(np.sqrt(2.0 * math.log(1.0 / share) / (n * before)), _LARGEST_BET / (1.0 - m))
    fortune = np.cumsum(np.log1p(-bets * (x - m)))
    return min(1.0, math.exp(-max(0.0, float(fortune.max()))))


def trinomial(rows: int, worse: int, better: int, target: float) -> float:
    """Exact p-value of "the mean loss is at least `target`", from how many rows lose 1 and how many gain 1.

    Outcomes are ordered by their score statistic. What is not known, how many rows gain 1, is taken at its worst within
    an interval that holds it with probability 1 - `NUISANCE_SHARE`, and that share is added.
    """
    if rows == 0 or worse - better >= target * rows:
        return 1.0
    from scipy.stats import beta

    half = NUISANCE_SHARE / 2
    low = float(beta.ppf(half, better, rows - better + 1)) if better else 0.0
    high = float(beta.ppf(1.0 - half, better + 1, rows - better)) if better < rows else 1.0
    high = min(high, (1.0 - target) / 2)  # Both probabilities add up to at most 1.
    region = _Region(rows, worse, better, target, min(low, high), high)
    return min(1.0, region.supremum() + NUISANCE_SHARE)


class _Region:
    """All pairs of counts that speak against the hypothesis at least as clearly as the one seen."""

    def __init__(self, rows: int, worse: int, better: int, target: float, low: float, high: float) -> None:
        from scipy.special import gammaln

        self.rows, self.target, self.low, self.high = rows, target, low, high
        reach = _WINDOW * np.sqrt(rows * np.array([low, high]) + 4.0)
        first, last = max(0, int(rows * low - reach[0])), min(rows, int(rows * high + reach[1]) + 1)
        self.gains = np.arange(first, last + 1, dtype=float)
        self.others = rows - self.gains
        self.ways = gammaln(rows + 1) - gammaln(self.gains + 1) - gammaln(rows - self.gains + 1)
        bound = _score(np.array([float(worse)]), np.array([float(better)]), rows, target)[0]
        most = self._most_losses(bound + 1e-12)
        self.none, self.all = most < 0, most >= self.others
        # The binomial distribution function as an incomplete beta function.
        self.tail = np.maximum(self.others - most, 1e-300), np.maximum(most, 0.0) + 1.0

    def _most_losses(self, bound: float) -> Floats:
        """For each count of gains the largest count of losses within the region, -1 for none, by bisection."""
        inside, outside = np.full(len(self.gains), -1.0), self.rows - self.gains + 1.0
        while (outside - inside).max() > 1.0:
            middle = np.floor((inside + outside) / 2)
            within = _score(np.maximum(middle, 0.0), self.gains, self.rows, self.target) <= bound
            within |= middle < 0
            inside = np.where(within, middle, inside)
            outside = np.where(within, outside, np.maximum(middle, inside + 1))
        return np.asarray(np.minimum(inside, self.rows - self.gains))

    def supremum(self) -> float:
        """A bound on the region's probability over all nuisance values of the interval.

        Between two nuisance values the probability is at most that with the losses of the one and the gains of the
        other, because the region only ever grows with gains and shrinks with losses.
        """
        edges = np.unique(np.linspace(self.low, self.high, _CELLS + 1))
        cells = list(pairwise(edges)) or [(self.low, self.low)]
        bounds = [self.probability(low + self.target, high) for low, high in cells]
        for _ in range(_MAX_SPLITS):
            worst = int(np.argmax(bounds))
            low, high = cells[worst]
            if bounds[worst] < NUISANCE_SHARE / 10 or bounds[worst] <= (1 + _TIGHT) * self.probability(
                low + self.target, low
            ):
                break
            edges = np.linspace(low, high, _SPLIT + 1)
            parts = list(pairwise(edges))
            cells[worst : worst + 1] = parts
            bounds[worst : worst + 1] = [self.probability(low + self.target, high) for low, high in parts]
        return max(bounds)

    def probability(self, p_loss: float, p_gain: float) -> float:
        """The region's probability when a row loses and gains 1 with these probabilities; what is cut off counts."""
        from scipy.special import betainc, xlogy

        part = self._likely(p_gain)
        gains, others = self.gains[part], self.others[part]
        weight = np.exp(self.ways[part] + xlogy(gains, p_gain) + others * math.log1p(-p_gain))
        lost = min(1.0, p_loss / (1.0 - p_gain))
        below = betainc(self.tail[0][part], self.tail[1][part], 1.0 - lost)
        below = np.where(self.none[part], 0.0, np.where(self.all[part], 1.0, below))
        return float(weight @ below + max(0.0, 1.0 - weight.sum()))

    def _likely(self, p_gain: float) -> slice:
        """The counts of gains that this probability makes likely."""
        center = self.rows * p_gain - self.gains[0]
        reach = _WINDOW * math.sqrt(self.rows * p_gain + 4.0)
        return slice(max(0, int(center - reach)), int(center + reach) + 2)


def _score(worse: Floats, better: Floats, rows: int, target: float) -> Floats:
    """The score statistic of "mean loss = target": how many standard errors, at the likeliest nuisance, below it."""
    lost, gained = worse / rows, better / rows
    # The likeliest probability of a gain under the hypothesis solves 2 b^2 - slope b - gained target (1 - target) = 0.
    slope = (lost + gained) * (1 - target) - 2 * gained * target - 2 * (1 - lost - gained) * target
    b = (slope + np.sqrt(slope * slope + 8 * gained * target * (1 - target))) / 4
    variance = np.maximum(2 * b + target - target * target, 1e-300)
    return (lost - gained - target) * np.sqrt(rows / variance)
