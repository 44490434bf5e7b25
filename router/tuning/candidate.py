"""What a backtest tries in place of what is in force: other policies, a tuned file, a threshold, or the top rung."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from router.core.policy import Policy
from router.errors import InvalidCall, shown
from router.models.local import FOLDER
from router.spec import Loaded, adopt, load_tuned, loaded_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing to try."""

    policies: str | Path | Policy | None = None
    """Other policies, a file or a folder; a `.json` file is a tuned file under the policies in force."""
    threshold: float | Sequence[float] | None = None
    """For the policy's own ladder. A tuned plan is left aside then: it would win over the threshold."""
    top: bool = False
    """Always the top rung."""

    def __post_init__(self) -> None:
        if sum((self.policies is not None, self.threshold is not None, self.top)) != 1:
            raise InvalidCall(
                "candidate: give one thing to try: other policies or a tuned file, a threshold, or the top rung",
                argument="candidate",
            )

    @contextmanager
    def loaded(self, in_force: Loaded, task: str, environment: str | None) -> Iterator[Loaded]:
        """The candidate as policies, given those that are in force.

        Raises
        ------
        InvalidCall, PolicyError
            It is none that could be in force.
        """
        if self.policies is None:
            yield self._changed(in_force, task)
        elif not isinstance(self.policies, Policy) and Path(self.policies).suffix == ".json":
            with tempfile.TemporaryDirectory() as folder:
                yield _beside(Path(self.policies), in_force, task, Path(folder))
        else:
            yield loaded_of(self.policies, environment)

    def _changed(self, in_force: Loaded, task: str) -> Loaded:
        """The policy in force with another threshold, or with the top rung alone."""
        settings, plan = in_force.policy.tasks[task], None
        if self.top:
            settings = replace(settings, ladder=settings.ladder[-1:], threshold=0.8)
        else:
            settings = replace(settings, threshold=_threshold(self.threshold, len(settings.ladder) - 1))
            tuned = load_tuned(in_force.folder, task, in_force.policy) if in_force.folder else None
            plan = tuned.plan if tuned else None
        policy = replace(in_force.policy, tasks={**in_force.policy.tasks, task: settings})
        # Calibrators without a plan stay: the threshold is one for their confidence.
        return replace(adopt(policy), folder=None if self.top or plan else in_force.folder)


def _threshold(given: Any, count: int) -> float | tuple[float, ...]:
    values = [given] if isinstance(given, int | float | str) else list(given)
    if len(values) not in (1, count):
        raise InvalidCall(
            f"threshold: {len(values)} are given; give one, or {count}, one for each rung but the last",
            argument="threshold",
        )
    for value in values:
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0.0 <= value <= 1.0:
            raise InvalidCall(f"threshold: {shown(value)} is no confidence; give 0 to 1", argument="threshold")
    return float(values[0]) if len(values) == 1 else tuple(map(float, values))


def _beside(tuned: Path, in_force: Loaded, task: str, folder: Path) -> Loaded:
    """The policies in force with another tuned file; local models stay where they are."""
    if not tuned.is_file():
        raise InvalidCall(
            f"candidate: {tuned} is no file; name a tuned file, a policy file or a folder", argument="candidate"
        )
    (folder / "tuned").mkdir()
    shutil.copyfile(tuned, folder / "tuned" / f"{task}.json")
    if in_force.folder is not None and (in_force.folder / FOLDER).is_dir():
        (folder / FOLDER).symlink_to((in_force.folder / FOLDER).resolve(), target_is_directory=True)
    return replace(in_force, folder=folder)
