"""`router tune` as a library: from a task's stored run to a plan, beside the one in force, and into the artefact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from router.core.ladder import model_of
from router.core.params import suggestion
from router.core.plan import Plan
from router.core.policy import Policy, Target
from router.core.tuned import Certificate, TunedPlan
from router.errors import PolicyError, TuningError, UnknownTask
from router.models.replay import Replay
from router.own_signals import OwnSignals
from router.resolve import bound, resolve
from router.spec import Artefact, Loaded, adopt, exclusive, load, write_artefact
from router.tuning.loading import load_run
from router.tuning.looks import next_look
from router.tuning.result import Tuning
from router.tuning.rows import EvalRow
from router.tuning.runs import EvalRun
from router.tuning.search import choose, needed_rows
from router.tuning.shown import SHOWN_ROWS, Shown, filled, held_out, shown_on
from router.tuning.simulate import Realised
from router.tuning.table import Rows
from router.tuning.tune import Method, Tuner, require_rows
from router.world import World

RUNS_FOLDER = "runs"
VALID_DAYS = 180
MAX_VALID_DAYS = 36_500
# Stricter targets that are worth telling about, as shares of the one that was asked for.
_STRICTER = (0.5, 0.25)


def run_path(task: str) -> Path:
    """Where a task's eval run is when nobody says otherwise."""
    return Path(RUNS_FOLDER) / f"{task}.jsonl"


class Stricter(NamedTuple):
    """What a stricter target would take."""

    max_quality_loss: float
    rows: int | None
    """Labelled rows in all; `None` where no number of them would do with this ladder."""


@dataclass(frozen=True)
class TaskTuning:
    """A task tuned: the plan in force, the plan that was found, and what stands behind it."""

    task: str
    target: Target
    run: EvalRun
    tuning: Tuning
    look: int | None
    """Which look at these rows it was; `None` for the only one."""
    looks: Path
    """The file that the look was noted in, whether the plan is written or not."""
    in_force: Plan
    shown: Shown
    """Old and new plan on the rows that the certificate stands on."""
    test: Shown | None
    """The same on the rows of the test split, which had no part in anything; `None` without one."""
    stricter: tuple[Stricter, ...]
    artefact: Artefact | None
    """What `write` writes; `None` where nothing could be certified."""
    folder: Path | None
    tuner: Tuner = field(repr=False)
    """What it was tuned with: the fits, and the rows as they were split."""
    certified_on: Rows = field(repr=False)
    """Places in the tuner's table of the rows that the certificate stands on, at most 50,000."""

    @property
    def old(self) -> Realised:
        """The plan in force on the rows that the certificate stands on."""
        return self.shown.old

    @property
    def new(self) -> Realised:
        """The plan that was found, on the same rows."""
        return self.shown.new

    @property
    def plan(self) -> TunedPlan:
        """The plan that was found; always the top rung where nothing could be certified."""
        return self.tuning.plan

    @property
    def certificate(self) -> Certificate | None:
        """What stands behind the plan, with what it binds to."""
        return self.artefact.certificate if self.artefact else None

    @property
    def idle_signals(self) -> tuple[str, ...]:
        """The application's own signals that do not pay: nothing that was fitted reads them."""
        return tuple(sorted(self.run.own_signals - _named(self.tuning)))

    @property
    def idle_panels(self) -> tuple[tuple[str, ...], ...]:
        """Panels of the ladder that do not pay: the plan asks no second member of theirs."""
        rungs = [rung for path in (self.plan.rungs, *self.plan.groups.values()) for rung in path]
        used = {rung.model for rung in rungs if rung.panel}
        return tuple(panel for panel in self.run.panels if panel[0] not in used)

    def write(self) -> Path:
        """Write `tuned/<task>.json` beside the policies; from then on `route` follows it.

        Raises
        ------
        TuningError
            Nothing was certified, so there is nothing to write.
        PolicyError
            The policy was built in Python and has no folder.
        """
        if self.artefact is None:
            raise TuningError(f"nothing was written: {self.tuning.refusal}", needed=self.tuning.needed_rows or 0)
        if self.folder is None:
            raise PolicyError("a policy that was built in Python has no folder; write it to a file first")
        return write_artefact(self.folder, self.artefact)


def tune_task(
    task: str,
    run: str | Path | None = None,
    *,
    policies: str | Path | Policy | None = None,
    environment: str | None = None,
    checks: Mapping[str, Callable[[Any], bool]] | None = None,
    signals: OwnSignals | None = None,
    grader: str | Callable[[str, Any], float] | None = None,
    tolerance: float = 0.0,
    fields: Sequence[str] = (),
    max_quality_loss: float | None = None,
    at_confidence: float | None = None,
    never_worse: bool | None = None,
    method: Method = "split",
    each_alone: bool = False,
    only_look: bool = False,
    seed: int = 0,
    test_share: float = 0.0,
    valid_days: int = VALID_DAYS,
    world: World | None = None,
) -> TaskTuning:
    """Tune a task on its eval run.

    Parameters
    ----------
    task
        Name of a task of the policies.
    run
        The run file; `runs/<task>.jsonl` when missing.
    policies, environment, checks, world
        As for `Router`.
    signals
        As for `Router`; not needed for those that the run file has.
    grader, tolerance, fields
        Grade every answer anew; see `build_grader`.
    max_quality_loss, at_confidence, never_worse
        In place of the task's `target:`.
    method, each_alone, seed
        See `tune`.
    only_look
        Spend the whole error budget of these rows on this look.
    test_share
        Share of the rows to keep out of everything and to report on. None by default: the rows that certify had no part
        in choosing either, and what is kept out makes the certificate weaker.
    valid_days
        After so many days the certificate runs out.

    Raises
    ------
    UnknownTask, PolicyError
        There is no such task, or it has no target.
    RecordingError, TuningError
        The run cannot be read, is of another policy, or cannot carry a certificate; says how many rows would do.
    """
    if not 1 <= valid_days <= MAX_VALID_DAYS:
        raise TuningError(f"valid_days: {valid_days} is not within 1 to {MAX_VALID_DAYS}", needed=0)
    loaded = adopt(policies) if isinstance(policies, Policy) else load(policies, environment=environment)
    target = _target(loaded, task, max_quality_loss, at_confidence, never_worse)
    path = Path(run) if run is not None else run_path(task)
    data = load_run(
        path,
        task,
        policies=loaded,
        checks=checks,
        signals=signals,
        grader=grader,
        tolerance=tolerance,
        fields=fields,
    )
    _refuse_noise(data, target)
    mine, apart = held_out(data, test_share)
    settings = loaded.policy.tasks[task]
    binds_to = bound(loaded, task, own_check=task in (checks or {}))
    question = {
        "target": [target.max_quality_loss, target.at_confidence, target.never_worse],
        "how": [method, each_alone, seed, settings.group, settings.cluster, *([test_share] if apart else [])],
        "answers": [data.quality.tobytes().hex(), binds_to, *_asked(data)],
    }
    tuner = Tuner(mine, method=method, seed=seed)
    asked: dict[str, Any] = {
        "target": target.max_quality_loss,
        "at_confidence": target.at_confidence,
        "never_worse": target.never_worse,
        "group": settings.group,
        "each_alone": each_alone,
    }
    # Of two processes one is first, and what is looked at is noted before it is seen.
    with exclusive(path.parent):
        look = next_look(path, data.data_hash, map(str, data.row_ids.tolist()), question, only=only_look)
        tuner.goal(**asked, look=look.number)
        look.remember()
    found = tuner.tune(**asked, look=look.number)
    now = (world or World()).clock.time()
    in_force = resolve(_answering(loaded, task), task, Replay(()), (checks or {}).get(task), now_s=now)
    artefact = _artefact(loaded, data, found, binds_to, now, valid_days) if found.certified else None
    return TaskTuning(
        task=task,
        target=target,
        run=data,
        tuning=found,
        look=look.number,
        looks=look.path,
        in_force=in_force,
        shown=shown_on(in_force, found, filled(tuner.table, tuner.certify), target),
        test=shown_on(in_force, found, apart, target) if apart else None,
        stricter=_stricter(tuner, target, look.number, test_share) if found.certified else (),
        artefact=artefact,
        folder=loaded.folder,
        tuner=tuner,
        certified_on=tuner.certify[:SHOWN_ROWS],
    )


def require_target(
    task: str,
    rows: Sequence[EvalRow],
    *,
    policies: str | Path | Policy | None = None,
    environment: str | None = None,
    max_quality_loss: float | None = None,
    at_confidence: float | None = None,
    test_share: float = 0.0,
    method: Method = "split",
    only_look: bool = False,
) -> None:
    """Refuse what no answers could mend, before any is paid for: no target, one that is none, too few rows.

    Raises
    ------
    UnknownTask, PolicyError
        There is no such task, or it has no target.
    TuningError
        The target is no share, or the rows are too few for it even if no answer were ever worse.
    """
    loaded = adopt(policies) if isinstance(policies, Policy) else load(policies, environment=environment)
    target = _target(loaded, task, max_quality_loss, at_confidence, None)
    tuned = math.floor(len({row.row_id for row in rows}) * (1.0 - test_share))
    require_rows(tuned, target.max_quality_loss, target.at_confidence, method=method, only_look=only_look)
    group = loaded.policy.tasks[task].group
    lacking = next((row for row in rows if group is not None and group not in row.metadata), None)
    if lacking is not None:
        raise TuningError(
            f"{lacking.place or 'a row'}: has no metadata {group!r}, which the task's `group:` names; add it", needed=0
        )


def _answering(loaded: Loaded, task: str) -> Loaded:
    """The policies with a stale plan sending calls to the top: one that refuses them must still be seen and redone."""
    settings = replace(loaded.policy.tasks[task], on_stale="top")
    if loaded.policy.tasks[task].on_stale != "refuse":
        return loaded
    return replace(loaded, policy=replace(loaded.policy, tasks={**loaded.policy.tasks, task: settings}))


def _asked(run: EvalRun) -> list[str]:
    """What questions about drafts gave: other verdicts are other data."""
    return [one.value.tobytes().hex() for _, one in sorted(run.questions.items())]


def _target(
    loaded: Loaded, task: str, loss: float | None, at_confidence: float | None, never_worse: bool | None
) -> Target:
    if task not in loaded.policy.tasks:
        known = tuple(sorted(loaded.policy.tasks))
        raise UnknownTask(f"unknown task {task!r}; {suggestion(task, known)}", task=task, known=known)
    own = loaded.policy.tasks[task].target
    if own is None and loss is None:
        raise PolicyError(
            f"task {task!r} has no target; add `target: {{max_quality_loss: 0.02}}`, or give --max-loss",
            where=f"tasks.{task}",
        )
    base = own or Target(max_quality_loss=loss or 0.0)
    return Target(
        max_quality_loss=base.max_quality_loss if loss is None else loss,
        at_confidence=base.at_confidence if at_confidence is None else at_confidence,
        never_worse=base.never_worse if never_worse is None else never_worse,
    )


def _refuse_noise(run: EvalRun, target: Target) -> None:
    """Where the top model stands in for the truth, no target can be finer than the top model's own change of mind."""
    if run.label_source != "disagreement":
        return
    own = run.provenance.get("self_disagreement") or {}
    share, rows = own.get("share"), own.get("rows", 0)
    if share is None:
        raise TuningError(
            "the top model was not asked twice on any row, so that its own disagreement is unknown; run `router eval "
            "--grader disagreement`, which does that, or use labels",
            needed=1,
        )
    if target.max_quality_loss < share:
        raise TuningError(
            f"the top model disagrees with itself on {share:.1%} of {rows} rows that it was asked twice; a target of "
            f"{target.max_quality_loss:.1%} is below that. Loosen the target, or use labels",
            needed=0,
        )


def _named(found: Tuning) -> set[str]:
    """The signals that some calibrator of a draft names."""
    fitted = [one for heads in found.fitted.models.values() for one in (*heads.confidence, *heads.last)]
    return {signal for one in fitted for signal in one.signals}


def _artefact(
    loaded: Loaded, run: EvalRun, found: Tuning, binds_to: Mapping[str, Any], now_s: float, valid_days: int
) -> Artefact:
    today = datetime.fromtimestamp(now_s, tz=UTC).date()
    own = sorted(run.own_signals & _named(found))
    artefact = found.artefact(
        {key: loaded.policy.models[model_of(key)].litellm for key in found.models},
        binds_to={**binds_to, **({"own_signals": own} if own else {})},
        issued=today.isoformat(),
        expires=(today + timedelta(days=valid_days)).isoformat(),
        served={name: tuple(ids) for name, ids in run.provenance.get("served", {}).items()},
    )
    return replace(artefact, provenance={**run.provenance, "cascade_router": version("cascade-router")})


def _stricter(tuner: Tuner, target: Target, look: int | None, test_share: float) -> tuple[Stricter, ...]:
    """What stricter targets would take, from the rows that the plan was chosen on: the others stay unseen."""
    certify, total = tuner.certify_units, round(tuner.table.rows / (1.0 - test_share))
    # As a further look at these rows would have it, or the only look at fresh ones.
    budget = (1.0 - target.at_confidence) * (1.0 if look is None else 2.0 ** -(look + 1))
    found = []
    for share in _STRICTER:
        stricter = target.max_quality_loss * share
        needed = needed_rows(tuner.trained, choose(tuner.trained, stricter, budget, certify), stricter, budget)
        found.append(Stricter(stricter, None if needed is None else max(certify, needed) * total // certify))
    return tuple(found)
