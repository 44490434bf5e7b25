"""`tune`: from one eval run to a plan that is cheaper and provably close to the top rung, or to an honest refusal."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from router.core.tuned import Certificate, TunedPlan, TunedRung
from router.core.words import points
from router.errors import TuningError
from router.tuning.certify import test_for
from router.tuning.chains import Chains, Goal, Kept
from router.tuning.crossfit import LeftOut
from router.tuning.fit import MAX_ROWS
from router.tuning.least import MIN_TRAIN_ROWS, certify_least, confidence_words, least_units, too_few
from router.tuning.plans import Family, scores_of
from router.tuning.result import Tuning
from router.tuning.runs import EvalRun
from router.tuning.search import Forecast, chain_of, choose, needed_rows, side_rungs
from router.tuning.table import Rows, prepare, split
from router.tuning.trained import Trained
from router.tuning.units import unit_count

Method = Literal["split", "crossfit"]

# Of the rows, the part that the plan is chosen on. The certificate gains more from a row than the fit does: a curve of
# a dozen numbers is nearly as good from half as many rows.
TRAIN_SHARE = 0.35
# How many rows are advised where as many as there are were forecast to do and did not. Chosen, not measured.
_HALF_AGAIN = 1.5
# Beyond it the error budget is lost in rounding.
MAX_CONFIDENCE = 0.999_999


def tune(
    run: EvalRun,
    *,
    target: float,
    at_confidence: float = 0.95,
    never_worse: bool = False,
    method: Method = "split",
    seed: int = 0,
    look: int | None = None,
    group: str | None = None,
    each_alone: bool = False,
    train_share: float = TRAIN_SHARE,
) -> Tuning:
    """Find the cheapest plan that provably loses at most `target` quality against the top rung.

    Parameters
    ----------
    run
        Every model of the ladder on the same rows.
    target
        Largest mean loss of quality, 0 to 1: `0.02` is two points of accuracy.
    at_confidence
        How sure the certificate must be.
    never_worse
        Count every row that is answered worse, with no credit for rows that are answered better.
    method
        `split` keeps rows apart for the certificate and is guaranteed. `crossfit` uses every row for both, and its
        certificate says that it was only checked by simulation.
    seed
        Of the split.
    look
        `None` when the certify split is opened this once: the whole error budget. Otherwise the number of this look,
        from 1, among as many as may follow: look k is tested at 2^-k of the budget.
    group
        Metadata key of `run.group`, whose values are certified one by one; unseen values get the top rung.
    each_alone
        With groups: each certificate holds at the confidence by itself, instead of all of them together.
    train_share
        Share of the rows to choose the plan on.

    Raises
    ------
    TuningError
        The run or an argument cannot be used; `needed` says how many rows would do where that is the reason.
    """
    tuner = Tuner(run, method=method, seed=seed, train_share=train_share)
    return tuner.tune(
        target,
        at_confidence=at_confidence,
        never_worse=never_worse,
        look=look,
        group=group,
        each_alone=each_alone,
    )


class Tuner:
    """A run that is split and fitted once, for several targets. Every target tuned opens the certify split again.

    `allow` leaves kinds of plans out of the comparison; plain pairs are always in it.
    """

    def __init__(
        self,
        run: EvalRun,
        *,
        method: Method = "split",
        seed: int = 0,
        train_share: float = TRAIN_SHARE,
        allow: Callable[[Family], bool] | None = None,
    ) -> None:
        _require_share("train_share", train_share)
        if method not in ("split", "crossfit"):
            raise TuningError(f"method: {method!r} is neither split nor crossfit", needed=0)
        if seed < 0:
            raise TuningError(f"seed: {seed} is below 0", needed=0)
        self.run, self.method, self.seed, self.allow = run, method, seed, allow
        self.train_share = None if method == "crossfit" else train_share
        self.table = prepare(run)
        self.train, self.certify = self._split()
        self.trained = Trained(self.table.take(self.train), seed)
        # Of `crossfit`: fitted when it is asked.
        self.left_out = LeftOut(self.table, seed)
        self.data_hash = run.data_hash or self._digest()

    def _split(self) -> tuple[Rows, Rows]:
        """Rows to choose on and rows to certify on; all of them twice for `crossfit`."""
        if self.train_share is None:
            everything = np.arange(self.table.rows)
            return everything, everything
        return split(self.table.unit, self.train_share, MAX_ROWS, self.seed)

    @property
    def certify_units(self) -> int:
        """How many rows there are to certify on, or clusters of them: what counts once each."""
        return unit_count(self.table.unit[self.certify])

    def _digest(self) -> str:
        whole = hashlib.sha256(repr(self.run.models).encode())
        whole.update("\n".join(map(str, self.table.run.row_ids.tolist())).encode("utf-8", "surrogatepass"))
        whole.update(np.ascontiguousarray(self.table.quality).tobytes())
        return whole.hexdigest()[:16]

    def tune(
        self,
        target: float,
        *,
        at_confidence: float = 0.95,
        never_worse: bool = False,
        look: int | None = None,
        group: str | None = None,
        each_alone: bool = False,
    ) -> Tuning:
        """The same as `router.tuning.tune`, for one target."""
        parts, goal = self.goal(
            target,
            at_confidence=at_confidence,
            never_worse=never_worse,
            look=look,
            group=group,
            each_alone=each_alone,
        )
        best = choose(self.trained, target, goal.budget, max(1, self.certify_units // len(parts)), self.allow)
        kept = {name: one for name, rows in parts.items() if (one := self._certified(rows, best, goal)) is not None}
        heads = self.trained.fitted([one.family for one in kept.values() if one.family])
        if not kept:
            why, needed = self._refusal(best, goal, look)
            plan = TunedPlan((TunedRung(self.run.models[-1]),))
            return Tuning(self.run.task, self.run.models, plan, heads, None, why, needed, self.run.provenance)
        certificate = Certificate(
            max_quality_loss=target,
            at_confidence=at_confidence,
            loss=goal.loss,
            test=test_for(self.table.take(self.certify), goal.loss, 0).kind,
            method=self.method,
            guarantee="guaranteed" if self.method == "split" else "simulation-checked",
            label_source=self.run.label_source,
            data_hash=self.data_hash,
            train_rows=len(self.train),
            dropped_rows=self.table.dropped,
            seed=self.seed,
            look=look or 1,
            open_ended=look is not None,
            statements={name: one.statement for name, one in kept.items()},
            each_alone=each_alone,
        )
        plan = self._plan(kept, group)
        return Tuning(self.run.task, self.run.models, plan, heads, certificate, provenance=self.run.provenance)

    def goal(
        self,
        target: float,
        *,
        at_confidence: float = 0.95,
        never_worse: bool = False,
        look: int | None = None,
        group: str | None = None,
        each_alone: bool = False,
    ) -> tuple[dict[str, Rows], Goal]:
        """What is to be shown of which rows; refuses what can be refused without a look at them."""
        _require_share("target", target)
        budget = _budget(at_confidence, look)
        parts = self._groups(group)
        sharing = 1 if each_alone else max(1, len(parts))
        goal = Goal(target, budget / sharing, "never_worse" if never_worse else "signed")
        self._require_rows(goal, confidence_words(goal.budget, at_confidence, look, sharing))
        return parts, goal

    def _groups(self, group: str | None) -> dict[str, Rows]:
        if group is None:
            return {"all": self.certify}
        if self.table.run.group is None:
            raise TuningError(f"group: the run has no {group!r} for its rows; put it into their metadata", needed=0)
        names = np.array([str(value) for value in self.table.run.group[self.certify].tolist()], dtype=object)
        return {name: self.certify[names == name] for name in sorted(set(names.tolist()))}

    def _require_rows(self, goal: Goal, confidence: str) -> None:
        # What is fitted without a cluster needs another one.
        enough = max(certify_least(goal.target, goal.budget), 2 if self.method == "crossfit" else 1)
        if len(self.train) >= MIN_TRAIN_ROWS and self.certify_units >= enough:
            return
        rows, units = self.table.rows, unit_count(self.table.unit)
        train_least = math.ceil(MIN_TRAIN_ROWS * units / rows)
        least = least_units(goal.target, goal.budget, self.train_share, train_least)
        needed = max(math.ceil(least * rows / units), rows + 1)  # Clusters differ in size.
        raise TuningError(too_few(rows, _in_clusters(self.table.unit), goal.target, confidence, needed), needed=needed)

    def _certified(self, rows: Rows, best: Forecast, goal: Goal) -> Kept | None:
        """The cheapest plan that these certify rows certify, or `None`."""
        table, family = self.table.take(rows), best.family
        if self.method == "crossfit":  # Each row is scored by fits that saw nothing of its fold.
            fitted = self.left_out.scores(family, best.scores)
            scores = fitted.take(rows)
        else:
            heads = self.trained.fitted([family])
            fitted, scores = scores_of(self.trained.train, family, heads), scores_of(table, family, heads)
        units = unit_count(table.unit)
        chain = chain_of(best, fitted, units)
        alone = side_rungs(self.trained, chain, goal.target, units)
        order_seed = int(hashlib.sha256(self.data_hash.encode()).hexdigest()[:8], 16)
        return Chains(table, chain, scores, alone, test_for(table, goal.loss, order_seed), goal).best()

    def _plan(self, kept: dict[str, Kept], group: str | None) -> TunedPlan:
        if group is None:
            return TunedPlan(kept["all"].rungs)
        top = (TunedRung(self.run.models[-1]),)
        return TunedPlan(top, group, {name: one.rungs for name, one in kept.items()})

    def _refusal(self, best: Forecast, goal: Goal, look: int | None) -> tuple[str, int | None]:
        """Why nothing passed, and how many rows of this kind would do."""
        # More rows beside these are another look at these.
        budget, total = goal.budget if look is None else goal.budget / 2, self.table.rows
        needed = needed_rows(self.trained, best, goal.target, budget)
        if needed is None:
            return (
                f"no plan of this ladder is predicted to lose at most {points(goal.target)} and to save at the same "
                "time; more rows of this kind would not change that. Loosen the target, add a signal, or put another "
                "model below the top",
                None,
            )
        rows = math.ceil(needed * total / self.certify_units)
        if rows <= total:  # The training rows were too hopeful, and cannot say by how much.
            rows = math.ceil(_HALF_AGAIN * total)
        return (
            f"nothing that saves could be shown to lose at most {points(goal.target)} with {len(self.certify)} rows to "
            f"certify on{_in_clusters(self.table.unit[self.certify])}; about {rows} labelled rows in all "
            f"would do, against {total} now. Add rows, or loosen the target",
            rows,
        )


def require_rows(
    rows: int, target: float, at_confidence: float, *, method: Method = "split", only_look: bool = False
) -> None:
    """Refuse a target that so many rows could not show even if no answer were ever worse.

    Raises
    ------
    TuningError
        `needed` says how many rows are the least.
    """
    _require_share("target", target)
    look = None if only_look else 1
    budget = _budget(at_confidence, look)
    needed = least_units(target, budget, TRAIN_SHARE if method == "split" else None)
    if rows < needed:
        confidence = confidence_words(budget, at_confidence, look)
        raise TuningError(too_few(rows, "", target, confidence, needed), needed=needed)


def _budget(at_confidence: float, look: int | None) -> float:
    """The share of cases that a look may be wrong in."""
    _require_share("at_confidence", at_confidence)
    if at_confidence > MAX_CONFIDENCE:
        raise TuningError(f"at_confidence: {at_confidence} is above {MAX_CONFIDENCE}; 0.95 is usual", needed=0)
    if look is not None and look < 1:
        raise TuningError(f"look: {look} is below 1; the first look is 1", needed=0)
    return round(1.0 - at_confidence, 12) * (1.0 if look is None else 2.0**-look)


def _in_clusters(unit: Rows) -> str:
    """Words for what counts once each, where that is not the row."""
    units = unit_count(unit)
    return f" (in {units} clusters, each of which counts once)" if units < len(unit) else ""


def _require_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise TuningError(f"{name}: {value} is not between 0 and 1; 0.02 is two points of accuracy", needed=0)
