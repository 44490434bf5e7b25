"""What a plan does on the rows of an eval run: the decisions of production, made on stored signals.

Row by row through `router.core.decision`, which the flow uses too, so that what is reported here is what calls get.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from router.core.decision import Judged, first_probability, gate_reason, judge, judge_panel
from router.core.panel import Vote, leading, panel_signals
from router.core.plan import Plan, Rung
from router.core.views import View
from router.core.word_scores import PROMPT_WORDS
from router.tuning.runs import EvalRun, QuestionColumns
from router.tuning.table import filled_against
from router.tuning.texts import texts_of
from router.tuning.units import Units, error_of_mean, unit_count, unit_losses, units_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Interval = tuple[float, float]

# Two-sided 90 %.
_Z90 = 1.6448536269514722


@dataclass(frozen=True, eq=False)
class Realised:
    """A plan on a run, row by row; models count in the order of the run."""

    model: NDArray[np.intp]
    """Whose answer each row gets."""
    quality: Floats
    cost_nusd: Floats
    escalated: NDArray[np.bool_]
    """Whether a rung above the first that the plan asks was asked."""
    top_quality: Floats
    top_cost_nusd: Floats
    unit: Units
    """Rows of one unit are of one cluster; without clusters each row is a unit of its own."""

    @property
    def clusters(self) -> int | None:
        """How many clusters the loss is the mean of; `None` where each row counts once."""
        count = unit_count(self.unit)
        return count if count < len(self.unit) else None

    def unit_losses(self, by_row: Floats) -> Floats:
        """Losses of rows as they count: one for each row, or the mean of each cluster."""
        return unit_losses(by_row, self.unit)

    @property
    def loss(self) -> float:
        """Mean quality lost against always asking the top rung; negative where the plan is better.

        As certificates count it: with clusters it is the mean over clusters, each of which counts once.
        """
        return float(self.unit_losses(self.top_quality - self.quality).mean())

    @property
    def loss_interval(self) -> Interval:
        """90 % interval of the loss, by the normal approximation."""
        return interval(self.unit_losses(self.top_quality - self.quality))

    @property
    def cost(self) -> float:
        """Cost as a share of always asking the top rung."""
        top = float(self.top_cost_nusd.sum())
        return float(self.cost_nusd.sum()) / top if top else math.nan

    @property
    def cost_interval(self) -> Interval:
        """90 % interval of the cost share, by the normal approximation of the ratio."""
        top, share = float(self.top_cost_nusd.mean()), self.cost
        if not top:
            return math.nan, math.nan
        low, high = interval((self.cost_nusd - share * self.top_cost_nusd) / top, self.unit)
        return share + low, share + high

    @property
    def escalated_share(self) -> float:
        """Share of the rows that climbed."""
        return float(self.escalated.mean())

    def as_json(self) -> dict[str, Any]:
        """The figures, for machines."""
        return {
            "rows": len(self.model),
            "clusters": self.clusters,
            "loss": self.loss,
            "loss_interval": self.loss_interval,
            "cost": self.cost,
            "cost_interval": self.cost_interval,
            "escalated": self.escalated_share,
        }


def simulate(plan: Plan, run: EvalRun) -> Realised:
    """What a plan would have done on these rows."""
    names = {name: at for at, name in enumerate(run.models)}
    keys = [*plan.groups, None]
    paths = {key: _Path(plan.groups[key] if key is not None else plan.rungs, names, run) for key in keys}
    groups = run.group if plan.group is not None and run.group is not None else None
    taken = [paths.get(None if groups is None else str(groups[row]), paths[None]).take(row) for row in range(run.rows)]
    model = np.array([one for one, _, _ in taken], dtype=np.intp)
    rows = np.arange(run.rows)
    top, quality = len(run.models) - 1, filled_against(run.quality)
    return Realised(
        model,
        quality[rows, model],
        np.array([cost for _, cost, _ in taken]),
        np.array([climbed for _, _, climbed in taken], dtype=bool),
        quality[:, top],
        run.cost_nusd[:, top],
        units_of(run.cluster, run.rows),
    )


@dataclass
class _Path:
    """The rungs of one plan, with their columns of the run."""

    rungs: tuple[Rung, ...]
    names: Mapping[str, int]
    run: EvalRun
    asked: list[tuple[Rung, int]] = field(init=False)
    failed: dict[str, NDArray[np.bool_]] = field(init=False)
    """By key, where it gave no draft at all."""

    def __post_init__(self) -> None:
        self.asked = [(rung, self.names.get(rung.key, -1)) for rung in self.rungs if not rung.skip and not rung.spare]
        self.failed = {rung.key: self.run.failed(rung.key) for rung, _ in self.asked}

    def take(self, row: int) -> tuple[int, float, bool]:
        """Whose answer this row gets, what the call costs, and whether it climbed."""
        run, cost, held, earlier = self.run, 0.0, None, None
        panel = _PanelRow(self, row)
        for rung, model in self.asked:
            if rung.member and panel.given_up == rung.level:
                continue
            if gate_reason(rung, _known(run.prompt_signals, row) | self._words(rung, model, row)):
                panel.given_up = rung.level
                continue
            cost += self._cost(rung, model, row)
            failed = self.failed[rung.key][row]
            if failed and rung.members > 1:
                continue
            if failed and rung is self.asked[-1][0] and model + 1 < len(run.models):  # The rung above is asked instead.
                return model + 1, cost + float(run.cost_nusd[row, model + 1]), True
            if rung.kind:
                said = panel.told(rung, run.questions[rung.key])
            else:
                said = self._said(rung, model, row, earlier, panel)
                earlier = model
            if said is None:
                continue
            judged, model, usable = said
            if judged.keep and (usable or held is None):
                return model, cost, rung.level != self.asked[0][0].level
            if usable:
                held = model
        return (model if held is None else held), cost, True

    def _cost(self, rung: Rung, model: int, row: int) -> float:
        known = self.run.questions[rung.key].cost_nusd[row] if rung.kind else self.run.cost_nusd[row, model]
        return float(known)

    def _said(
        self, rung: Rung, model: int, row: int, earlier: int | None, panel: _PanelRow
    ) -> tuple[Judged, int, bool]:
        """What follows from a draft, whose draft leads, and whether that is usable."""
        run = self.run
        signals = _known(run.signals.get(rung.key, {}), row) | self._words(rung, model, row)
        if rung.members > 1:
            return panel.judge(rung, model, signals)
        if earlier is not None and run.answers is not None:
            one, other = run.answers[row, model], run.answers[row, earlier]
            signals["agreement"] = float(one is not None and one == other)
        usable = not signals.get("invalid")
        return judge(rung, signals, "" if usable else "is not usable"), model, usable

    def _words(self, rung: Rung, model: int, row: int) -> dict[str, float]:
        """What the words of this row say."""
        found: dict[str, float] = {}
        views: dict[str, View] = {}
        for name in rung.needs_words:
            texts = texts_of(self.run, model, name)
            if texts is not None and texts[row] is not None:
                groups = self.run.group if name in PROMPT_WORDS else None
                seen = views.setdefault(texts[row], View(texts[row]))
                found[name] = rung.words[name].chance_of(seen, None if groups is None else str(groups[row]))
        return found


class _PanelRow:
    """What the members of a panel said in one row, as far as they were asked."""

    def __init__(self, path: _Path, row: int) -> None:
        self.given_up: int | None = None
        self._answers = path.run.answers
        self._row = row
        self._said: list[tuple[int, dict[str, float], Vote]] = []
        self._answers_about: list[dict[str, float]] = []

    def judge(self, rung: Rung, model: int, signals: dict[str, float]) -> tuple[Judged, int, bool]:
        """What follows, whose draft leads, and whether that is usable."""
        if rung.member == 0:
            self._said, self._answers_about = [], []
        usable = not signals.get("invalid") and self._answers is not None
        value = self._answers[self._row, model] if usable and self._answers is not None else None
        self._said.append((model, signals, Vote(value, first_probability(rung.alone, signals))))
        return self._judged(rung)

    def told(self, rung: Rung, asked: QuestionColumns) -> tuple[Judged, int, bool] | None:
        """The same after a question; `None` where it was not answered."""
        if not asked.answered[self._row]:
            return None
        self._answers_about.append(_known({rung.kind or "": asked.value}, self._row))
        return self._judged(rung)

    def _judged(self, rung: Rung) -> tuple[Judged, int, bool]:
        votes = [vote for *_, vote in self._said]
        led = leading(votes)
        model, own, _ = self._said[led or 0]
        together: dict[str, float] = {}
        whole = len(votes) + len(self._answers_about) == rung.member + 1
        if rung.member and whole:
            together = panel_signals(votes)
            for signals in self._answers_about:
                together |= signals
        judged = judge_panel(rung, own | together, votes, "is not usable" if led is None else "", whole=whole)
        if judged.give_up:
            self.given_up = rung.level
        return judged, model, led is not None


def _known(columns: Mapping[str, Floats], row: int) -> dict[str, float]:
    """The signals of one row; a missing one is absent, as in production."""
    return {name: float(values[row]) for name, values in columns.items() if not math.isnan(values[row])}


def interval(values: Floats, unit: Units | None = None) -> Interval:
    """90 % interval of a mean, by the normal approximation; values of one unit may hang together."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return -math.inf, math.inf
    error = error_of_mean(values, np.arange(n) if unit is None else unit) * math.sqrt(n / (n - 1))
    return mean - _Z90 * error, mean + _Z90 * error
