"""An eval run as columns: every model of a ladder on the same rows, which is all that tuning reads.

`router eval` makes one by asking; a recording or a table of columns gives one without a request. Tuning cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from router.errors import TuningError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Strings = NDArray[np.object_]

LabelSource = Literal["labels", "disagreement", "judge"]


class QuestionColumns(NamedTuple):
    """What a question about the draft of a panel's first member gave, row by row."""

    value: Floats
    """The signal, 0 to 1; NaN where the reply was not what was asked for."""
    cost_nusd: Floats
    """What asking cost; 0 where nobody had to be asked, NaN where unknown."""
    answered: NDArray[np.bool_]
    """Whether it was answered, or known without asking; a plan decides nothing where it was not."""

    def take(self, rows: NDArray[np.intp]) -> QuestionColumns:
        """The same for these rows only."""
        return QuestionColumns(self.value[rows], self.cost_nusd[rows], self.answered[rows])


@dataclass(frozen=True, eq=False)
class EvalRun:
    """What every model of a ladder did on the same n rows. Arrays are n, or n by one column a model, models in order.

    Raises
    ------
    TuningError
        A column has another length, or holds a number that cannot be: the message names column and row.
    """

    task: str
    models: tuple[str, ...]
    """Names in the policy, cheapest first; the last one is the top rung."""
    row_ids: Strings
    """What a row is about, such as a digest of its prompt. Rows of one id are copies and never straddle a split."""
    quality: Floats
    """0 to 1: how good each model's answer is; NaN where it was not asked or has no label."""
    cost_nusd: Floats
    """What each answer cost, all attempts included; NaN where unknown."""
    latency_ms: Floats | None = None
    check_cost_nusd: Floats | None = None
    """What judging each draft costs on top (a self-check, a judge); charged where a plan judges that draft."""
    signals: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)
    """By model, then by name, the signals of its draft; NaN where a draft lacks one."""
    own_signals: frozenset[str] = frozenset()
    """Those of them that are the application's own; the fit keeps one only where it pays."""
    prompt_signals: Mapping[str, Floats] = field(default_factory=dict)
    """By name, what is known of a row before any model is asked."""
    answers: Strings | None = None
    """The answer found in each draft, comparable by `==`; `None` where none was found. For agreement."""
    prompts: Strings | None = None
    """The text of each prompt, for the words in it; `None` where there is none."""
    drafts: Strings | None = None
    """The text of each model's draft."""
    cluster: Strings | None = None
    """Rows of one cluster (a document, a customer) never straddle a split."""
    group: Strings | None = None
    """Which group a row belongs to where groups are certified one by one."""
    panels: tuple[tuple[str, ...], ...] = ()
    """Models that the ladder asks as one panel, in order; a plan asks as many of them as pay, from the first on."""
    questions: Mapping[str, QuestionColumns] = field(default_factory=dict)
    """By key (`judge:mid`), what is asked about the draft of a panel's first member."""
    label_source: LabelSource = "labels"
    """`disagreement`: quality says whether an answer equals the top model's, which is not whether it is right. `judge`:
    it is what another model says of an answer, which is not that either."""
    data_hash: str = ""
    """Digest of the rows and labels; seeds the one shuffle of the certify split."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the run comes from: file, date, versions, litellm names and served ids. Kept, never used."""

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.row_ids)

    def failed(self, model: str) -> NDArray[np.bool_]:
        """Rows in which a model gave no draft at all: it is unusable, and not even known to be empty."""
        import numpy as np

        own = self.signals.get(model, {})
        if "invalid" not in own or "empty" not in own:
            return np.zeros(self.rows, bool)
        return np.asarray((own["invalid"] >= 0.5) & np.isnan(own["empty"]))

    def take(self, rows: NDArray[np.intp]) -> EvalRun:
        """The same run with only these rows, in this order."""
        from dataclasses import replace

        def cut(column: Any) -> Any:
            return None if column is None else column[rows]

        return replace(
            self,
            row_ids=self.row_ids[rows],
            quality=self.quality[rows],
            cost_nusd=self.cost_nusd[rows],
            latency_ms=cut(self.latency_ms),
            check_cost_nusd=cut(self.check_cost_nusd),
            signals={
                model: {name: column[rows] for name, column in own.items()} for model, own in self.signals.items()
            },
            prompt_signals={name: column[rows] for name, column in self.prompt_signals.items()},
            questions={key: columns.take(rows) for key, columns in self.questions.items()},
            answers=cut(self.answers),
            prompts=cut(self.prompts),
            drafts=cut(self.drafts),
            cluster=cut(self.cluster),
            group=cut(self.group),
        )

    def of(self, models: Sequence[str]) -> EvalRun:
        """The same rows for these models only, in this order."""
        from dataclasses import replace

        if unknown := [model for model in models if model not in self.models]:
            raise TuningError(f"models: {unknown[0]!r} is no model of the run ({', '.join(self.models)})", needed=0)
        at = [self.models.index(model) for model in models]
        tables = ("quality", "cost_nusd", "latency_ms", "check_cost_nusd", "answers", "drafts")
        picked: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[:, at] for name in tables
        }
        signals = {model: own for model, own in self.signals.items() if model in models}
        known = {*models, *self.questions}
        panels = tuple(panel for panel in self.panels if all(key in known for key in panel))
        questions = {key: self.questions[key] for panel in panels for key in panel if key in self.questions}
        return replace(self, models=tuple(models), signals=signals, panels=panels, questions=questions, **picked)


def _check_shapes(run: EvalRun) -> None:
    n, k = len(run.row_ids), len(run.models)
    if len(set(run.models)) != k or k < 1:
        raise TuningError(f"models: {list(run.models)} must name at least one model, each once", needed=0)
    columns: dict[str, Any] = {f"signals.{m}.{name}": c for m, own in run.signals.items() for name, c in own.items()}
    columns |= {f"prompt_signals.{name}": column for name, column in run.prompt_signals.items()}
    columns |= {f"questions.{key}.{name}": c for key, o in run.questions.items() for name, c in o._asdict().items()}
    columns |= {"cluster": run.cluster, "group": run.group, "prompts": run.prompts}
    names = ("quality", "cost_nusd", "latency_ms", "check_cost_nusd", "answers", "drafts")
    tables = {name: getattr(run, name) for name in names}
    for shape, named in (((n,), columns), ((n, k), tables)):
        for name, column in named.items():
            if column is not None and column.shape != shape:
                raise TuningError(f"{name}: has the shape {column.shape}, not {shape}", needed=0)
    if unknown := set(run.signals) - set(run.models):
        raise TuningError(f"signals: {min(unknown)!r} is no model of the run ({', '.join(run.models)})", needed=0)


def _check_values(run: EvalRun) -> None:
    import numpy as np

    for key, own in run.questions.items():
        if ((own.value < 0) | (own.value > 1)).any():
            raise TuningError(f"questions.{key}.value: holds a number that is not within 0 to 1", needed=0)

    ranges: list[tuple[str, Floats | None, float, float]] = [
        ("quality", run.quality, 0.0, 1.0),
        ("cost_nusd", run.cost_nusd, 0.0, 1e18),
        ("latency_ms", run.latency_ms, 0.0, 1e12),
        ("check_cost_nusd", run.check_cost_nusd, 0.0, 1e18),
    ]
    for name, column, low, high in ranges:
        if column is None:
            continue
        wrong = np.argwhere((column < low) | (column > high))  # NaN is neither.
        if len(wrong):
            row, model = wrong[0]
            raise TuningError(
                f"{name}: {column[row, model]} of {run.models[model]!r} in row {row} is not within {low:g} to {high:g}",
                needed=0,
            )
    named = {f"signals.{m}.{s}": column for m, own in run.signals.items() for s, column in own.items()}
    named |= {f"prompt_signals.{name}": column for name, column in run.prompt_signals.items()}
    for name, column in named.items():
        if np.isinf(column).any():
            row = int(np.flatnonzero(np.isinf(column))[0])
            raise TuningError(f"{name}: is infinite in row {row}; clip it, or make it NaN for missing", needed=0)
