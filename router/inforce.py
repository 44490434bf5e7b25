"""The policies in force: one set with the plans made from it, replaced whole when the files change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from router.core.params import suggestion
from router.core.plan import Plan
from router.errors import UnknownTask, shown
from router.models import Backend, checked_backend
from router.models.real import RealModels
from router.resolve import resolve
from router.spec import Loaded

Checks = Mapping[str, Callable[[Any], bool]]


class InForce:
    """Policies, what answers their calls, and their plans. A call keeps the set that it began with."""

    def __init__(self, loaded: Loaded, backend: Backend | None, checks: Checks) -> None:
        self.loaded = loaded
        self.backend = checked_backend(backend) or RealModels(loaded.folder or Path())
        self._own_backend = backend
        self._checks = checks
        # Filled on first use; a plan that two threads build at once is the same plan.
        self._plans: dict[str, Plan] = {}
        for task in checks:
            self._require(task)

    def plan(self, task: str) -> Plan:
        """What a call of this task does.

        Raises
        ------
        UnknownTask
            The policies name no such task.
        """
        known = self._plans.get(task)
        if known is None:
            self._require(task)
            known = self._plans[task] = resolve(self.loaded, task, self.backend, self._checks.get(task))
        return known

    def renewed(self, loaded: Loaded) -> Self:
        """The same with other policies, every plan made: whatever is wrong with one shows now."""
        new = type(self)(loaded, self._own_backend, self._checks)
        for task in loaded.policy.tasks:
            new.plan(task)
        return new

    def _require(self, task: str) -> None:
        tasks = self.loaded.policy.tasks
        if task not in tasks:
            raise UnknownTask(
                f"unknown task {shown(task)}; {suggestion(str(task), tasks)}", task=task, known=tuple(sorted(tasks))
            )
