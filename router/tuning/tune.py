"""`tune`: from one eval run to a plan that is cheaper and provably close to the top rung, or to an honest refusal."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.tuned import Certificate, Statement, TunedPlan, TunedRung
from router.errors import TuningError
from router.tuning.certify import LossKind, Test, Tried, saves, statement, test_for, walk
from router.tuning.features import Floats
from router.tuning.fit import MAX_ROWS
from router.tuning.plans import Heads, Outcome, Scores, apply_rungs, follow, scores_of
from router.tuning.runs import EvalRun
from router.tuning.search import Family, Forecast, Setting, Trained, chain_of, choose, outcome_of, side_rungs
from router.tuning.table import Table, prepare, split

Method = Literal["split", "crossfit"]

# Of the rows, the part that the plan is chosen on. The certificate gains more from a row than the fit does: on rows where
# everything is known, a curve of a dozen numbers is nearly as good from half as many.
TRAIN_SHARE = 0.35
# Fewer rows cannot even tell two settings apart; the issue is the rows, not the target.
MIN_TRAIN_ROWS = 20
# Of the error budget, the part for "one cheaper rung alone", where the training rows call that hopeful.
SIDE_SHARE = 0.2
_POWER = NormalDist().inv_cdf(0.8)


@dataclass(frozen=True)
class Applied:
    """What a plan does on rows whose answers are all known, row by row."""

    models: tuple[str, ...]
    answered: NDArray[np.intp]
    """Index of the model that answered each row."""
    escalated: NDArray[np.bool_]
    """Whether a row asked more than the plan's first rung, or skipped it."""
    cost_nusd: Floats
    loss: Floats
    """The top rung's quality less the plan's."""
    top_cost_nusd: Floats

    @property
    def cost_change(self) -> float:
        """Mean cost against always the top rung: -0.3 is 30 % cheaper."""
        return float(self.cost_nusd.mean() / self.top_cost_nusd.mean() - 1.0)


@dataclass(frozen=True)
class Tuning:
    """What tuning found: a plan with its calibrators, and either a certificate or the reason why there is none."""

    task: str
    models: tuple[str, ...]
    plan: TunedPlan
    heads: Mapping[str, Heads]
    """Calibrators by model."""
    certificate: Certificate | None
    refusal: str = ""
    """Why the plan is always the top rung; empty where there is a certificate."""
    needed_rows: int | None = None
    """Rows of the kind seen with which the target could be met; `None` where no number of them would do."""
    certify_rows: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp), repr=False)
    """Rows of the run that had no part in choosing the plan, for reports."""

    @property
    def certified(self) -> bool:
        """Whether the plan carries a certificate."""
        return self.certificate is not None

    def apply(self, run: EvalRun) -> Applied:
        """Follow the plan over other rows, as `route` would call by call.

        Raises
        ------
        TuningError
            The run's models are not those that were tuned.
        """
        if run.models != self.models:
            raise TuningError(
                f"models: the plan was tuned for {', '.join(self.models)}, but the run has {', '.join(run.models)}; "
                "tune on this run, or name its models in the ladder",
                needed=0,
            )
        check = np.zeros_like(run.quality) if run.check_cost_nusd is None else np.nan_to_num(run.check_cost_nusd)
        table = Table(run, run.quality, run.cost_nusd, check, np.arange(run.rows), 0)
        heads = dict(self.heads)
        found = apply_rungs(table, self.plan.rungs, heads)
        for name, rungs in self.plan.groups.items():
            own = np.array([str(value) == name for value in run.group.tolist()]) if run.group is not None else False
            other = apply_rungs(table, rungs, heads)
            found = Outcome(*(np.where(own, theirs, ours) for theirs, ours in zip(other, found, strict=True)))
        return Applied(run.models, *found, top_cost_nusd=run.cost_nusd[:, -1])


class _Goal(NamedTuple):
    target: float
    budget: float
    """The error budget of this chain and its side chain together."""
    loss: LossKind


class _Found(NamedTuple):
    rungs: tuple[TunedRung, ...]
    statement: Statement
    family: Family | None


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
    _check_arguments(target, at_confidence, look, group, run, train_share)
    table = prepare(run)
    train, certify = _parts(table, method, train_share, seed, target, 1.0 - at_confidence)
    budget = (1.0 - at_confidence) * (1.0 if look is None else 2.0**-look)
    trained = Trained(table.take(train), seed)
    data_hash = run.data_hash or _digest(table)
    goal = _Goal(target, budget, "never_worse" if never_worse else "signed")
    parts = _groups(table, certify, group)
    each = goal._replace(budget=budget if each_alone else budget / max(1, len(parts)))
    best = choose(trained, target, each.budget, len(certify) // max(1, len(parts)))
    seed_of_order = int(hashlib.sha256(data_hash.encode()).hexdigest()[:8], 16)
    found: dict[str, _Found] = {}
    for name, rows in parts.items():
        kept = _certified(table.take(rows), trained, best, each, seed_of_order, rows if method == "crossfit" else None)
        if kept is not None:
            found[name] = kept
    heads = _heads(trained, [one.family for one in found.values() if one.family])
    top = (TunedRung(run.models[-1]),)
    if not found:
        why, needed = _refusal(trained, best, each, len(train), len(certify))
        return Tuning(run.task, run.models, TunedPlan(top), heads, None, why, needed, table_rows(table, certify))
    plan = TunedPlan(found["all"].rungs) if group is None else _by_group(group, top, found)
    certificate = Certificate(
        max_quality_loss=target,
        at_confidence=at_confidence,
        loss=goal.loss,
        test=test_for(table.take(certify), goal.loss, 0).kind,
        method=method,
        guarantee="guaranteed" if method == "split" else "simulation-checked",
        label_source=run.label_source,
        data_hash=data_hash,
        train_rows=len(train),
        dropped_rows=table.dropped,
        seed=seed,
        look=look or 1,
        statements={name: one.statement for name, one in found.items()},
        each_alone=each_alone,
    )
    return Tuning(run.task, run.models, plan, heads, certificate, certify_rows=table_rows(table, certify))


def _by_group(group: str, top: tuple[TunedRung, ...], found: Mapping[str, _Found]) -> TunedPlan:
    return TunedPlan(top, group, {name: one.rungs for name, one in found.items()})


def table_rows(table: Table, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of the table (copies and unlabelled rows left out)."""
    return rows if table.rows else np.empty(0, np.intp)


def _check_arguments(
    target: float, at_confidence: float, look: int | None, group: str | None, run: EvalRun, train_share: float
) -> None:
    for name, value in (("target", target), ("at_confidence", at_confidence), ("train_share", train_share)):
        if not 0.0 < value < 1.0:
            raise TuningError(f"{name}: {value} is not between 0 and 1; 0.02 is two points of accuracy", needed=0)
    if look is not None and look < 1:
        raise TuningError(f"look: {look} is below 1; the first look is 1", needed=0)
    if group is not None and run.group is None:
        raise TuningError(f"group: the run has no {group!r} for its rows; put it into their metadata", needed=0)


def _parts(
    table: Table, method: Method, train_share: float, seed: int, target: float, delta: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to choose on and rows to certify on; all of them twice for `crossfit`."""
    everything = np.arange(table.rows)
    if method == "crossfit":
        train, certify = everything, everything
    else:
        train, certify = split(table.unit, train_share, MAX_ROWS, seed)
    least = math.ceil(math.log(delta) / math.log1p(-target))
    if len(train) < MIN_TRAIN_ROWS or len(certify) < least:
        share = 1.0 if method == "crossfit" else 1.0 - train_share
        needed = max(math.ceil(least / share) + 1, math.ceil(MIN_TRAIN_ROWS / train_share) + 1)
        raise TuningError(
            f"{table.rows} labelled rows cannot show a loss of at most {target:g} at {1 - delta:g} confidence, even if no "
            f"answer were ever worse; that takes {needed} rows at least. Add rows, or loosen the target",
            needed=needed,
        )
    return train, certify


def _digest(table: Table) -> str:
    digest = hashlib.sha256(repr(table.run.models).encode())
    digest.update("\n".join(map(str, table.run.row_ids.tolist())).encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(table.quality).tobytes())
    return digest.hexdigest()[:16]


def _groups(table: Table, certify: NDArray[np.intp], group: str | None) -> dict[str, NDArray[np.intp]]:
    if group is None or table.run.group is None:
        return {"all": certify}
    names = np.array([str(value) for value in table.run.group.tolist()], dtype=object)
    return {name: certify[names[certify] == name] for name in sorted(set(names[certify].tolist()))}


def _certified(
    table: Table, trained: Trained, best: Forecast, goal: _Goal, order_seed: int, reused: NDArray[np.intp] | None
) -> _Found | None:
    """Walk the chain and the side chain over the certify rows; the cheapest plan that passed and saves."""
    chain = chain_of(best)
    test = test_for(table, goal.loss, order_seed)
    if reused is None:
        scores = scores_of(table, chain.family.rungs, chain.family.by, trained.heads(chain.family))
    else:
        scores = Scores(
            tuple(draft[reused] for draft in best.scores.draft), tuple(p[reused] for p in best.scores.prompt)
        )
    sides = side_rungs(trained.train, chain, goal.target, table.rows)
    cache: dict[tuple[bool, int], Tried] = {}

    def tried(side: bool, at: int) -> Tried:
        if (side, at) not in cache:
            outcome = (
                follow(table, (sides[at],), Scores(()), ())
                if side
                else outcome_of(table, chain.family, scores, chain.settings[at])
            )
            cache[side, at] = Tried(outcome.cost, outcome.loss, outcome.asked_more)
        return cache[side, at]

    passes = _both_chains(tried, len(chain.settings), len(sides), test, goal)
    top_cost = table.cost[:, table.top]
    cheapest = sorted(passes, key=lambda one: float(tried(one.side, one.at).cost.mean()))
    for one in cheapest:
        what = tried(one.side, one.at)
        if saves(what, top_cost):
            said = statement(what, top_cost, test, one.share, one.tested, one.p_value)
            if one.side:
                return _Found((TunedRung(table.run.models[sides[one.at]]),), said, None)
            return _Found(_rungs(table, chain.family, chain.settings[one.at]), said, chain.family)
    return None


class _Pass(NamedTuple):
    side: bool
    at: int
    share: float
    tested: int
    p_value: float


def _both_chains(tried: Any, settings: int, sides: int, test: Test, goal: _Goal) -> list[_Pass]:
    """Test both chains, each with a share of the budget; a chain that ran through hands its share to the other."""
    side_share = SIDE_SHARE * goal.budget if sides else 0.0
    side = walk(sides, lambda at: tried(True, at), test, goal.target, side_share)
    share = goal.budget if side.finished else goal.budget - side_share
    main = walk(settings, lambda at: tried(False, at), test, goal.target, share)
    if main.finished and not side.finished:
        side_share = goal.budget
        side = walk(sides, lambda at: tried(True, at), test, goal.target, side_share)
    tested = len(side.p_values) + len(main.p_values)
    return [
        *(_Pass(True, at, side_share, tested, side.p_values[at]) for at in side.passed),
        *(_Pass(False, at, share, tested, main.p_values[at]) for at in main.passed),
    ]


def _rungs(table: Table, family: Family, setting: Setting) -> tuple[TunedRung, ...]:
    names = table.run.models
    if setting.threshold is None:
        return (TunedRung(names[next(m for m, judged in zip(family.rungs, family.judged, strict=False) if judged)]),)
    thresholds = family.thresholds(setting.threshold)
    parts = zip(family.rungs[:-1], thresholds, family.by, family.gates, strict=True)
    climbing = [TunedRung(names[model], threshold, by, gate) for model, threshold, by, gate in parts]
    return (*climbing, TunedRung(names[family.rungs[-1]]))


def _heads(trained: Trained, used: list[Family]) -> dict[str, Heads]:
    """Calibrators of every model, so that any answer has a confidence; those of the plan have all they need."""
    names = trained.train.run.models
    heads = {name: Heads((trained.confidence(at).calibrator,)) for at, name in enumerate(names)}
    for family in used:
        heads |= {names[at]: own for at, own in zip(family.rungs, trained.heads(family), strict=False)}
    return heads


def _refusal(trained: Trained, best: Forecast, goal: _Goal, train: int, certify: int) -> tuple[str, int | None]:
    """Why nothing passed, and how many rows of this kind would do."""
    needed = needed_rows(trained, best, goal.target, goal.budget)
    total = train + certify
    if needed is None:
        return (
            f"no plan of this ladder is predicted to lose at most {goal.target:g} and to save at the same time; more "
            "rows of this kind would not change that. Loosen the target, add a signal, or put another model below the top",
            None,
        )
    rows = max(math.ceil(needed * total / certify), total + 1)
    return (
        f"nothing that saves could be shown to lose at most {goal.target:g} with {certify} rows to certify on; about "
        f"{rows} labelled rows in all would do, against {total} now. Add rows, or loosen the target",
        rows,
    )


def needed_rows(trained: Trained, found: Forecast, target: float, share: float) -> int | None:
    """Certify rows with which some setting that saves passes in four runs of five; `None` where none ever would."""
    table, family = trained.train, found.family
    least = math.log(share) / math.log1p(-target)
    counts = []
    for threshold in found.thresholds[found.cost < 1.0]:
        loss = follow(table, family.rungs, found.scores, family.thresholds(threshold), family.gates).loss
        room = target - float(loss.mean())
        if room > 0:
            spread = NormalDist().inv_cdf(1.0 - share) + _POWER
            counts.append(max(least, spread**2 * float(loss.var()) / room**2))
    return math.ceil(min(counts)) if counts else None
