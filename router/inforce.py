"""The policies in force: one set with the plans made from it, replaced whole when the files change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from router.core.answer import Attempt
from router.core.counters import Line
from router.core.params import suggestion
from router.core.plan import Plan
from router.core.usual import Usual
from router.errors import UnknownTask, shown
from router.ledger import Fingerprints, Trace
from router.limits import Limits
from router.models import Backend, checked_backend, origin
from router.models.real import RealModels
from router.own_signals import OwnSignals
from router.resolve import Plans
from router.spec import Loaded
from router.world import Clock

Checks = Mapping[str, Callable[[Any], bool]]


class InForce:
    """Policies, what answers their calls, and their plans. A call keeps the set that it began with."""

    def __init__(
        self, loaded: Loaded, backend: Backend | None, checks: Checks, signals: OwnSignals, clock: Clock
    ) -> None:
        self.loaded = loaded
        self.backend = checked_backend(backend) or RealModels(loaded.folder or Path())
        self.origin = origin(self.backend)
        """Where its calls come from, as the ledger marks them."""
        self._own_backend = backend
        self._checks = checks
        self._signals = signals
        self._clock = clock
        self.usual: dict[str, defaultdict[str, Usual]] = defaultdict(lambda: defaultdict(Usual))
        """By task and model, what requests usually come to."""
        self._limits = Limits(loaded.policy)
        self._plans = Plans(loaded, self.backend, checks, signals, clock)
        for task in checks:
            self._require(task)

    def plan(self, task: str) -> Plan:
        """What a call of this task does.

        Raises
        ------
        UnknownTask
            The policies name no such task.
        PolicyError
            The task's tuned artefact cannot be used.
        """
        self._require(task)
        return self._plans.get(task)

    def lines(self, trace: Trace, user: str | None, fingerprints: Fingerprints) -> tuple[Line, ...]:
        """The budgets that a call of this user is held to.

        Raises
        ------
        StateError
            The user has a budget, and a name in it that other processes do not know.
        """
        return self._limits.of(trace, user, fingerprints)

    def saw(self, task: str, attempts: Sequence[Attempt]) -> None:
        """What the providers served for a call of this task."""
        self._plans.saw(task, attempts)

    def renewed(self, loaded: Loaded) -> Self:
        """The same with other policies, every plan made: whatever is wrong with one shows now."""
        new = type(self)(loaded, self._own_backend, self._checks, self._signals, self._clock)
        for task in loaded.policy.tasks:
            new.plan(task)
        return new

    def _require(self, task: str) -> None:
        tasks = self.loaded.policy.tasks
        if task not in tasks:
            raise UnknownTask(
                f"unknown task {shown(task)}; {suggestion(str(task), tasks)}", task=task, known=tuple(sorted(tasks))
            )
