"""An eval run made ready for tuning: rows that count, what each model did on them, and who shares a split with whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.core.ladder import kind_of
from router.errors import TuningError
from router.tuning.features import Columns
from router.tuning.runs import EvalRun, QuestionColumns
from router.tuning.units import codes_of, units_of

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# A few answers may fail for good; with more of them missing, what is left says little about the traffic.
MAX_UNKNOWN_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a run that tuning uses, with no gap left in quality or cost."""

    run: EvalRun
    quality: Floats
    cost: Floats
    """One column for each model, and one for each question about a draft."""
    check_cost: Floats
    unit: Rows
    """Rows of one unit (a cluster) stay on one side of every split."""
    dropped: int
    """Rows left out: copies of another row, or rows without any label."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.unit)

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns of `cost` are of: models, then questions by their keys."""
        return (*self.run.models, *self.run.questions)

    def drafts(self, column: int) -> bool:
        """Whether a column is of a model that drafts, and not of a question."""
        return column <= self.top

    @property
    def top(self) -> int:
        """Column of the top rung."""
        return len(self.run.models) - 1

    def columns(self, model: int, earlier: int | None = None) -> Columns:
        """The signals of a prompt and its draft; with an earlier draft also whether both give the same answer."""
        own = dict(self.run.signals.get(self.run.models[model], {}))
        own.pop("agreement", None)
        for name, values in self.run.prompt_signals.items():  # Known of a prompt whose draft failed, too.
            own[name] = np.where(np.isnan(own[name]), values, own[name]) if name in own else values
        if earlier is not None and self.run.answers is not None:
            own["agreement"] = agreement(self.run.answers[:, model], self.run.answers[:, earlier])
        return own

    def panel(self, members: Sequence[int], alone: Sequence[Floats]) -> tuple[dict[str, Floats], Rows]:
        """What members of a panel say together: its signals, and whose draft its answer is taken from, -1 for none.

        `alone` has the confidence in the draft of each member that drafts, read off that draft alone.
        """
        drafting = [one for one in members if self.drafts(one)]
        columns, lead = panel_columns([self._answers(model) for model in drafting], alone)
        lead = np.where(lead < 0, -1, np.asarray(drafting)[lead])
        for key in (self.names[one] for one in members if not self.drafts(one)):
            asked = self.run.questions[key]
            columns[kind_of(key) or ""] = asked.value
            lead = np.where(asked.answered, lead, -1)
        return {**self.run.prompt_signals, **columns}, lead

    def led(self, model: int) -> Rows:
        """A panel of one: its column, or -1 where it gave no answer that others could be compared with."""
        answered = np.array([answer is not None for answer in self._answers(model).tolist()])
        return np.where(answered, model, -1)

    def led_quality(self, lead: Rows) -> Floats:
        """How good a panel's answers are, by whose draft each is taken from; where there is none it is wrong."""
        return np.where(lead < 0, 0.0, self.quality[np.arange(self.rows), lead])

    def _answers(self, model: int) -> NDArray[np.object_]:
        """The usable answers of a model, `None` for a draft without one."""
        assert self.run.answers is not None
        found = self.run.answers[:, model].copy()
        found[self.refused(model)] = None
        return found

    def refused(self, model: int) -> NDArray[np.bool_]:
        """Drafts that the task's check refuses; no threshold keeps them. A question has no draft of its own."""
        if not self.drafts(model):
            return np.zeros(self.rows, bool)
        invalid = self.run.signals.get(self.run.models[model], {}).get("invalid")
        return np.zeros(self.rows, bool) if invalid is None else invalid >= 0.5

    def take(self, rows: Rows) -> Table:
        """The same with only these rows."""
        return Table(
            self.run.take(rows),
            self.quality[rows],
            self.cost[rows],
            self.check_cost[rows],
            self.unit[rows],
            self.dropped,
        )


def agreement(one: NDArray[np.object_], other: NDArray[np.object_]) -> Floats:
    """1 where both drafts hold the same answer, else 0; drafts without an answer agree with nothing."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return np.array([a is not None and a == b for a, b in pairs], dtype=float)


def panel_columns(answers: Sequence[NDArray[np.object_]], alone: Sequence[Floats]) -> tuple[dict[str, Floats], Rows]:
    """`router.core.panel` for whole columns: the signals of a panel, and the position of the leading member or -1."""
    count, n = len(answers), len(answers[0])
    same = np.zeros((count, count, n), bool)
    for one in range(count):
        for other in range(one, count):
            same[one, other] = same[other, one] = agreement(answers[one], answers[other]) > 0.0
    votes = same.sum(axis=0)
    lead = np.where(votes.max(axis=0) > 0, votes.argmax(axis=0), -1)
    rows, known = np.arange(n), lead >= 0
    with_it = same[lead, :, rows].T & known  # Whose answer is the panel's.
    against = np.array([same[at, at] for at in range(count)]) & ~with_it
    p = np.array(alone)
    usable = np.array([same[at, at] for at in range(count)])
    unknown = (np.isnan(p) & usable).any(axis=0) | ~known
    others = with_it & (np.arange(count)[:, None] != lead)
    found = {
        "panel_votes": np.where(known, votes.max(axis=0) / count, 0.0),
        "panel_first": np.where(known, lead == 0, np.nan),
        "panel_own": np.where(unknown, np.nan, p[lead, rows]),
        "panel_support": np.where(unknown, np.nan, np.where(others, p, 0.0).max(axis=0)),
        "panel_against": np.where(unknown, np.nan, np.where(against, p, 0.0).max(axis=0)),
    }
    return found, lead


def prepare(run: EvalRun, *, filled: bool = True) -> Table:
    """The rows that count, gaps filled against the plan.

    A lower rung that failed counts as wrong and a top rung that failed as right, so that gaps never help a plan.

    Raises
    ------
    TuningError
        Labels or prices are missing, or the labels are all the same; the message says what would do.
    """
    _check_models(run)
    known = ~np.isnan(run.quality)
    first = _first_copies(run.row_ids)
    rows = np.flatnonzero(first & known.any(axis=1))
    if not len(rows):
        raise TuningError("quality: no row has a label; grade the answers first (`router eval`)", needed=1)
    kept, known = run.take(rows), known[rows]
    share = 1.0 - known.mean(axis=0)
    worst = int(np.argmax(share))
    if share[worst] > MAX_UNKNOWN_SHARE:
        lacking = int((~known[:, worst]).sum())
        raise TuningError(
            f"quality: {run.models[worst]!r} has no label in {lacking} of {len(rows)} rows; ask it for all rows "
            "(`router eval` goes on where it stopped), or tune without it",
            needed=lacking,
        )
    quality = filled_against(kept.quality)
    if filled and quality.min() == quality.max() and len(rows) > 1:
        raise TuningError(
            f"quality: is {quality.min():g} for every model in all {len(rows)} rows, so nothing can be told from it; "
            "check the grader, or add rows that tell the models apart",
            needed=len(rows) + 1,
        )
    if kept.cluster is not None:
        _require_clusters(kept.cluster)
    units = units_of(kept.cluster, len(rows))
    return table_of(kept, quality, _costs(kept), units, run.rows - len(rows))


def table_of(run: EvalRun, quality: Floats, cost: Floats, unit: Rows, dropped: int = 0) -> Table:
    """A table of a run's models with one column of cost more for each question; an unknown one counts as their mean."""
    check = np.zeros_like(quality) if run.check_cost_nusd is None else np.nan_to_num(run.check_cost_nusd)
    asking = [np.where(np.isnan(one.cost_nusd), _known_mean(one.cost_nusd), one.cost_nusd) for one in _questions(run)]
    checking = [np.zeros(run.rows) for _ in asking]
    return Table(run, quality, np.column_stack([cost, *asking]), np.column_stack([check, *checking]), unit, dropped)


def _questions(run: EvalRun) -> list[QuestionColumns]:
    """What was asked about drafts, as far as its cost is known.

    Raises
    ------
    TuningError
        Nobody knows what a question costs.
    """
    for key, own in run.questions.items():
        if np.isnan(own.cost_nusd).mean() > MAX_UNKNOWN_SHARE:
            raise TuningError(
                f"cost_nusd: {key!r} has no known cost in {int(np.isnan(own.cost_nusd).sum())} of {run.rows} rows; "
                "give the model a `price:` in the policy, so that plans can be compared",
                needed=0,
            )
    return list(run.questions.values())


def _known_mean(cost: Floats) -> float:
    known = cost[~np.isnan(cost)]
    return float(known.mean()) if len(known) else 0.0


def filled_against(quality: Floats) -> Floats:
    """Quality without gaps, which never help a plan: a lower rung that failed is wrong, the top one right."""
    found = np.nan_to_num(quality, nan=0.0)
    found[np.isnan(quality[:, -1]), -1] = 1.0
    return found


def _require_clusters(cluster: NDArray[np.object_]) -> None:
    for at, value in enumerate(cluster.tolist()):
        if value is None or value != value:  # NaN is not itself.
            raise TuningError(
                f"cluster: is missing in row {at} of those with a label; name a cluster for each", needed=0
            )


def _check_models(run: EvalRun) -> None:
    if len(run.models) < 2:
        raise TuningError(
            f"models: {run.models[0]!r} is alone; a ladder needs a cheaper model and a top one to tune", needed=2
        )


def _costs(run: EvalRun) -> Floats:
    """What each answer cost; one that is unknown counts as its model's mean."""
    known = ~np.isnan(run.cost_nusd)
    for at, model in enumerate(run.models):
        if known[:, at].mean() < 1.0 - MAX_UNKNOWN_SHARE:
            raise TuningError(
                f"cost_nusd: {model!r} has no known cost in {int((~known[:, at]).sum())} of {run.rows} rows; give the "
                "model a `price:` in the policy, so that plans can be compared",
                needed=0,
            )
    means = np.nansum(run.cost_nusd, axis=0) / known.sum(axis=0)
    if means[-1] <= 0:
        raise TuningError(f"cost_nusd: {run.models[-1]!r} costs nothing, so no plan can be cheaper", needed=0)
    return np.where(known, run.cost_nusd, means)


def _first_copies(row_ids: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether each row is the first of its id."""
    if len(set(row_ids.tolist())) == len(row_ids):
        return np.ones(len(row_ids), bool)
    seen: dict[Any, int] = {}
    first = [seen.setdefault(one, at) == at for at, one in enumerate(row_ids.tolist())]
    return np.array(first, dtype=np.bool_)


def split(units: Rows, share: float, most: int, seed: int) -> tuple[Rows, Rows]:
    """Rows of the train and of the certify split: whole units, drawn by chance, whatever their sizes.

    Units are counted, not their rows: a share of the rows would put large units on one side more often than on the
    other, and those that certify would no longer be like those to come.

    Parameters
    ----------
    units
        The unit of each row.
    share
        Share of the units to train on.
    most
        The most rows to train on, but for one unit that is larger.
    seed
        The same seed gives the same split.
    """
    place = _shuffled(units, seed)
    rows_to = np.cumsum(np.bincount(place))
    fitting = int(np.searchsorted(rows_to, most, side="right"))
    inside = place < max(1, min(round(share * len(rows_to)), fitting))
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def folds_of(units: Rows, folds: int, seed: int) -> Rows:
    """The cross-validation fold of each row; a unit is in one fold."""
    return _shuffled(units, seed) % folds


def _shuffled(units: Rows, seed: int) -> Rows:
    """The place of each row's unit in a random order."""
    codes = codes_of(units)
    count = int(codes.max()) + 1 if len(codes) else 0
    return np.random.default_rng(seed).permutation(count)[codes].astype(np.intp)
