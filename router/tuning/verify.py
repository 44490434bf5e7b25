"""`router tune --check` as a library: whether what is in force for a task still meets its target on its stored run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.core.plan import Plan, Standing
from router.core.policy import Policy, Target
from router.errors import PolicyError, RecordingError, TuningError
from router.models.replay import Replay
from router.own_signals import OwnSignals, guarded_signals
from router.resolve import resolve
from router.spec import Loaded, Tuned, adopt, load, load_tuned
from router.tuning.loading import load_run
from router.tuning.runs import EvalRun
from router.tuning.simulate import Realised, simulate
from router.tuning.table import Rows
from router.tuning.task import run_path
from router.tuning.units import unit_losses
from router.world import World

Checks = Mapping[str, Callable[[Any], bool]]


@dataclass(frozen=True)
class Verified:
    """One task's plan in force, on its stored run."""

    task: str
    target: Target | None
    standing: Standing
    run: Path | None
    realised: Realised | None
    """`None` where there is no run that could be read."""
    findings: tuple[str, ...]
    """What is wrong; nothing when the task meets its target."""


def check_tuned(
    task: str | None = None,
    run: str | Path | None = None,
    *,
    policies: str | Path | Policy | None = None,
    environment: str | None = None,
    checks: Checks | None = None,
    signals: OwnSignals | None = None,
    world: World | None = None,
) -> list[Verified]:
    """Check one task, or every task that has a target or a tuned plan.

    Parameters
    ----------
    task
        Name of a task; all of them when missing.
    run
        The run file, in place of the one that the task was tuned on; only with `task`.
    policies, environment, checks, world
        As for `Router`.
    signals
        As for `Router`; without them those that a plan reads count as registered.
    """
    loaded = adopt(policies) if isinstance(policies, Policy) else load(policies, environment=environment)
    names = [task] if task is not None else list(loaded.policy.tasks)
    now_s = (world or World()).clock.time()
    own = None if signals is None else guarded_signals(signals)
    found = []
    for name in names:
        tuned = None
        if loaded.folder and name in loaded.policy.tasks:
            tuned = load_tuned(loaded.folder, name, loaded.policy, own_signals=own or ())
        if task is not None or loaded.policy.tasks[name].target or (tuned and tuned.plan):
            found.append(_Check(loaded, name, tuned, checks or {}, own, now_s).result(Path(run) if run else None))
    return found


@dataclass
class _Check:
    loaded: Loaded
    task: str
    tuned: Tuned | None
    checks: Checks
    signals: OwnSignals | None
    now_s: float

    def result(self, run: Path | None) -> Verified:
        target = self.loaded.policy.tasks[self.task].target
        try:
            own_check = self.checks.get(self.task)
            plan = resolve(self.loaded, self.task, Replay(()), own_check, signals=self.signals, now_s=self.now_s)
        except PolicyError as error:  # `on_stale: refuse`.
            return Verified(self.task, target, Standing(stale=True), None, None, (str(error),))
        findings = [plan.standing.problem] if plan.standing.stale else []
        findings += self._promise(target)
        path = run or self._stored()
        realised = None
        try:
            data = self._rows(path)
            realised = simulate(plan, data)
            findings += _misses(realised, data, target, plan)
        except (RecordingError, TuningError) as error:
            findings.append(str(error))
        return Verified(self.task, target, plan.standing, path, realised, tuple(findings))

    def _stored(self) -> Path:
        """The run that the task was tuned on, else the one where `router eval` puts it."""
        return Path(self.tuned.run) if self.tuned and self.tuned.run else run_path(self.task)

    def _rows(self, path: Path) -> EvalRun:
        data = load_run(path, self.task, policies=self.loaded, checks=self.checks, signals=self.signals)
        certificate = self.tuned.certificate if self.tuned else None
        if certificate and data.data_hash != certificate.data_hash and path == self._stored():
            raise TuningError(f"{path}: holds other rows or labels than the task was tuned on; tune it again", needed=0)
        return data

    def _promise(self, target: Target | None) -> list[str]:
        """Where the policy now asks for more than was certified."""
        certificate = self.tuned.certificate if self.tuned else None
        if target is None or certificate is None:
            return []
        found = []
        if target.max_quality_loss < certificate.max_quality_loss:
            found.append(
                f"the policy's target is {target.max_quality_loss:g}, but the plan is certified for "
                f"{certificate.max_quality_loss:g} only; run `router tune {self.task} --write`"
            )
        if target.at_confidence > certificate.at_confidence:
            found.append(
                f"the policy asks for {target.at_confidence:.0%} confidence, but the certificate has "
                f"{certificate.at_confidence:.0%}; run `router tune {self.task} --write`"
            )
        if target.never_worse and certificate.loss != "never_worse":
            found.append(
                "the policy says `never_worse: true`, but the certificate gives credit for better answers; run "
                f"`router tune {self.task} --write`"
            )
        return found


def _misses(realised: Realised, data: EvalRun, target: Target | None, plan: Plan) -> list[str]:
    found = []
    for where, rows in _parts(data, plan).items():
        if target is None:
            break
        loss = _loss(realised, rows, never_worse=target.never_worse)
        if loss > target.max_quality_loss:
            found.append(
                f"on its stored run it loses {100 * loss:.2f} points of quality{where}; the target is "
                f"{100 * target.max_quality_loss:g}"
            )
    if realised.cost > 1.0 and plan.standing.force != "top":
        found.append(f"on its stored run it costs {realised.cost:.1%} of always asking the top rung")
    return found


def _parts(data: EvalRun, plan: Plan) -> dict[str, Rows]:
    """All rows, and those of each certified group, which has a promise of its own."""
    parts = {"": np.arange(data.rows)}
    if data.group is not None:
        names = np.array([str(value) for value in data.group.tolist()], dtype=object)
        parts |= {f" where {plan.group} is {name}": np.flatnonzero(names == name) for name in plan.groups}
    return {where: rows for where, rows in parts.items() if len(rows)}


def _loss(realised: Realised, rows: Rows, *, never_worse: bool) -> float:
    """The mean loss of these rows as a certificate counts it: by row, or by cluster."""
    lost = (realised.top_quality - realised.quality)[rows]
    lost = (lost > 0).astype(float) if never_worse else lost
    return float(unit_losses(lost, realised.unit[rows]).mean())
