"""Which family of plans to certify, and its settings from strict to loose: all of it decided on the training rows.

A family is the models that are asked, in order, and what their drafts are judged by. Its settings differ in one number
only, the threshold. Nothing here sees a certify row, so nothing here can make a certificate wrong, only a plan dearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from router.core.tuned import By
from router.tuning.features import Floats
from router.tuning.plans import Family, Outcome, Scores, follow
from router.tuning.table import Table
from router.tuning.trained import Trained

# A chain of tests has at most this many settings; more would only be finer than the certify split can tell apart.
MAX_SETTINGS = 25
_BY: tuple[By, ...] = ("confidence", "gain")
# Thresholds that a family is first looked at with, at equal shares of the drafts.
_LOOKS = 60
# A gate skips the drafts of this share of the prompts, those with the least chance.
_GATE_SHARES = (0.1, 0.25, 0.5)
# The rest of a panel is not asked for this share of the first drafts, those with the least score.
_LOW_SHARES = (0.1, 0.25)
# Settings whose loss is predicted further above the target than this many standard errors are not worth a test.
_HOPELESS = 2.0
# A setting predicted below it by this many can hardly fail, and whatever is stricter need not be tested.
_SURE = 5.0
# How far the loosest threshold lies below every score.
_BELOW = 1e-3
# A third rung, a gate or the gain must save more than the plain pair with this one-sided confidence (90 % interval).
_PAYS = 1.645


class Setting(NamedTuple):
    """One setting of a chain: a threshold, or `None` for always the family's first judged rung."""

    threshold: float | None


class Chain(NamedTuple):
    """What will be tested on the certify split, in this order, up to the first failure."""

    family: Family
    settings: tuple[Setting, ...]


class Forecast(NamedTuple):
    """What the training rows say of one family."""

    family: Family
    scores: Scores
    thresholds: Floats
    """Strict to loose."""
    z: Floats
    """By how many standard errors of the certify split each setting is predicted to miss the target."""
    cost: Floats
    """Mean cost of each setting as a share of always the top rung."""
    best: int | None
    """The cheapest setting that is predicted to pass with all before it; `None` when none is."""
    judged: Floats
    """Every score that a threshold is compared with, sorted."""
    units: int
    """How many training rows there are, or clusters of them."""

    def spread(self, first: int, last: int, most: int, drafts: Floats) -> Floats:
        """At most so many thresholds for `drafts`, keeping equally spaced shares from setting `first` to `last`."""
        low, high = np.searchsorted(self.judged, (self.thresholds[last], self.thresholds[first])) / len(self.judged)
        return between(drafts, np.quantile(drafts, np.linspace(low, high, most)))

    @property
    def promise(self) -> float:
        """The predicted cost: always the top rung where no setting is predicted to pass."""
        return float(self.cost[self.best]) if self.best is not None else 1.0


def families(table: Table, trained: Trained) -> Iterator[Family]:
    """Every pair by confidence and by gain, gated where prompts say anything, and every three with a comparison."""
    alone = _alone(table)
    for low, high in combinations(alone, 2):
        for by in _BY:
            yield Family((low, high), (by,), (True,))
        if table.run.prompt_signals:
            chance = trained.prompt(low).out_of_fold
            for gate in np.unique(np.quantile(chance, _GATE_SHARES)):
                yield Family((low, high), ("confidence",), (True,), float(gate))
    for rungs in combinations(alone, 3):
        for first_judged in (True, False):
            yield Family(rungs, ("confidence", "confidence"), (first_judged, True))
    if table.run.answers is not None:
        yield from _panels(table, trained)


def _panels(table: Table, trained: Trained) -> Iterator[Family]:
    """Panels of two and three models below a last rung, by confidence and by gain, asked in full or given up early."""
    above = [model for model in _alone(table) if model not in _members(table)]
    panels = {rungs[:-1] for size in (2, 3) for rungs in combinations(above, size + 1)}
    for panel in table.run.panels:
        whole = tuple(map(table.names.index, panel))
        # Whether a question about the first draft pays shows beside the same panel without it.
        for one in (whole, tuple(filter(table.drafts, whole))):
            panels |= {one[:size] for size in range(2, len(one) + 1)}
    for members in sorted(panels):
        lasts = [model for model in above if model > max(filter(table.drafts, members))]
        for last, by in product(lasts, _BY):
            size = len(members)
            plain = Family((*members, last), (by,) * size, (True,) * size, panel=(0, size))
            yield plain
            first = trained.scores(plain).draft[0]
            for low in np.unique(np.quantile(first[~np.isnan(first)], _LOW_SHARES)):
                yield replace(plain, low=float(low))


def _members(table: Table) -> set[int]:
    return {table.names.index(key) for panel in table.run.panels for key in panel}


def _alone(table: Table) -> list[int]:
    """Models that may be asked without others: of a declared panel the first one."""
    firsts = {table.run.models.index(panel[0]) for panel in table.run.panels}
    return [model for model in range(len(table.run.models)) if model in firsts or model not in _members(table)]


def forecast(trained: Trained, family: Family, target: float, share: float, certify_units: int) -> Forecast:
    """What the training rows say of a family's settings."""
    table = trained.train
    scores = trained.scores(family)
    drafts = drafts_of(family, scores)
    thresholds = between(drafts, np.quantile(drafts, np.linspace(0.0, 1.0, _LOOKS + 1)))
    top = table.cost[:, table.top].mean()
    z, cost = np.empty(len(thresholds)), np.empty(len(thresholds))
    for at, threshold in enumerate(thresholds):
        outcome = follow(table, family, scores, family.thresholds(threshold))
        z[at] = _standard_errors(trained.by_unit(outcome.loss), target, certify_units)
        cost[at] = outcome.cost.mean() / top
    passing = np.logical_and.accumulate(z <= -_normal(share))
    candidates = np.flatnonzero(passing & (cost < 1.0))
    best = int(candidates[np.argmin(cost[candidates])]) if len(candidates) else None
    return Forecast(family, scores, thresholds, z, cost, best, drafts, trained.units)


def drafts_of(family: Family, scores: Scores) -> Floats:
    """Every score that a family's threshold is compared with, sorted."""
    judged = np.concatenate([draft for draft, used in zip(scores.draft, family.judged, strict=True) if used])
    return np.sort(judged[~np.isnan(judged)])


def between(scores: Floats, wanted: Floats) -> Floats:
    """Thresholds that keep the scores at or above each wanted one, strict to loose.

    Each lies between two scores, so that no rounding can move a draft across it.
    """
    known = np.unique(scores)
    at = np.unique(np.searchsorted(known, wanted).clip(0, len(known) - 1))[::-1]
    return np.asarray(np.where(at > 0, (known[at] + known[np.maximum(at - 1, 0)]) / 2, known[0] - _BELOW))


def _standard_errors(loss: Floats, target: float, units: int) -> float:
    """How far the mean loss lies above the target, in standard errors of so many units."""
    n = len(loss)
    # Half a row more is lost than was seen, so that no loss in a few rows does not look like none in many.
    mean = (loss.sum() + 0.5) / (n + 1)
    variance = max(float(((loss - loss.mean()) ** 2).sum() + 0.5) / (n + 1), 1e-12)
    return float(mean - target) / math.sqrt(variance / units)


def _normal(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(1.0 - share)


def choose(
    trained: Trained,
    target: float,
    share: float,
    certify_units: int,
    allow: Callable[[Family], bool] | None = None,
) -> Forecast:
    """The family that is predicted to be cheapest once certified, of those that are allowed; plain pairs always are.

    Anything longer than a pair by confidence must pay: its saving over the best pair, row by row, has a 90 % interval
    above 0. So must questions about a draft, over the best of the same models without them.
    """
    plain: list[Forecast] = []
    more: list[Forecast] = []
    for family in families(trained.train, trained):
        simple = family.by == ("confidence",) and family.gate is None and len(family.rungs) == 2
        if allow and not simple and not allow(family):
            continue
        found = forecast(trained, family, target, share, certify_units)
        (plain if simple else more).append(found)
    best = min(plain, key=_rank)
    for one in sorted(more, key=_rank):
        if _rank(one) < _rank(best) and _pays(trained.train, one, best):
            unasked = _without_questions(trained.train, one, (*plain, *more))
            if unasked is None or _pays(trained.train, one, unasked):
                return one
    return best


def _without_questions(table: Table, one: Forecast, others: Sequence[Forecast]) -> Forecast | None:
    """The best of the same models without questions; `None` where it has none."""
    drafting = tuple(filter(table.drafts, one.family.rungs))
    if drafting == one.family.rungs:
        return None
    return min((other for other in others if other.family.rungs == drafting), key=_rank, default=None)


def _rank(one: Forecast) -> tuple[float, float]:
    useful = one.z[one.cost < 1.0]
    return one.promise, float(useful.min()) if len(useful) else math.inf


def _pays(table: Table, one: Forecast, other: Forecast) -> bool:
    saved = _costs(table, other) - _costs(table, one)
    return float(saved.mean()) > _PAYS * float(saved.std()) / math.sqrt(len(saved))


def _costs(table: Table, one: Forecast) -> Floats:
    if one.best is None:
        return table.cost[:, table.top]
    family = one.family
    threshold = float(one.thresholds[one.best])
    return follow(table, family, one.scores, family.thresholds(threshold)).cost


def chain_of(found: Forecast, scores: Scores, certify_units: int) -> Chain:
    """At most `MAX_SETTINGS` settings of a family: from the loosest that can hardly fail to the loosest that may pass.

    Where even the strictest may fail, the chain begins with the strictest that saves.

    Parameters
    ----------
    found
        The forecast from out-of-fold scores.
    scores
        What the calibrators that will be used say of the same rows; thresholds are on their scale.
    certify_units
        How many rows, or clusters of them, the chain will be tested on.
    """
    saves = np.flatnonzero(found.cost < 1.0)
    if not len(saves):
        return Chain(found.family, ())
    # The forecast is from few rows itself: its own error counts as much as that of the certify rows.
    z = found.z / math.sqrt(1.0 + certify_units / found.units)
    sure = np.flatnonzero(np.logical_and.accumulate(z[saves[0] :] <= -_SURE))
    first = int(saves[0] + (sure[-1] if len(sure) else 0))
    hopeless = np.flatnonzero((z > _HOPELESS) & (np.arange(len(z)) > first))
    last = int(hopeless[0]) if len(hopeless) else len(z) - 1
    settings = tuple(
        Setting(float(threshold))
        for threshold in found.spread(first, last, MAX_SETTINGS - 1, drafts_of(found.family, scores))
    )
    return Chain(found.family, settings if len(hopeless) else (*settings, Setting(None)))


def direct_to(family: Family) -> int:
    """The model that answers everything when a family's threshold is below every score."""
    return next(model for model, judged in zip(family.rungs, family.judged, strict=False) if judged)


def outcome_of(table: Table, family: Family, scores: Scores, setting: Setting) -> Outcome:
    """What one setting does."""
    if setting.threshold is None:
        return follow(table, Family((direct_to(family),)))
    return follow(table, family, scores, family.thresholds(setting.threshold))


def side_rungs(trained: Trained, chain: Chain, target: float, certify_units: int) -> tuple[int, ...]:
    """Rungs that the chain does not end at and that might do alone, cheapest first."""
    table = trained.train
    costs = table.cost.mean(axis=0)
    ends = direct_to(chain.family) if chain.settings and chain.settings[-1].threshold is None else None
    found = []
    for model in _alone(table)[:-1]:
        loss = table.quality[:, table.top] - table.quality[:, model]
        hopeful = _standard_errors(trained.by_unit(loss), target, certify_units) < -1.0
        if hopeful and model != ends and costs[model] < costs[table.top]:
            found.append(model)
    return tuple(sorted(found, key=lambda model: float(costs[model])))


def needed_rows(trained: Trained, found: Forecast, target: float, share: float) -> int | None:
    """Certify rows, or clusters, with which one that saves passes in four runs of five; `None` where none would."""
    table, family = trained.train, found.family
    least = math.log(share) / math.log1p(-target)
    spread = _normal(share) + _normal(0.2)
    counts = []
    for threshold in found.thresholds[found.cost < 1.0]:
        outcome = follow(table, family, found.scores, family.thresholds(threshold))
        loss = trained.by_unit(outcome.loss)
        room = target - float(loss.mean())
        if room > 0:
            counts.append(max(least, spread**2 * float(loss.var()) / room**2))
    return math.ceil(min(counts)) if counts else None
