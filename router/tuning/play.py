"""Recorded calls through the production path under other policies: one `route` each, with only the models replayed.

The recorded latencies pass on a clock of their own, so that deadlines and pauses hold as they would and nobody waits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from router.api import Router
from router.core.answer import Answer, Attempt, costs
from router.core.call import Call, Failure, Outcome, Reply
from router.core.faults import Fault
from router.core.ladder import AGAIN
from router.core.policy import Model
from router.errors import InvalidCall, NoAnswer, ReplayMiss, RouterError
from router.models import Facts
from router.models.local import PREFIX
from router.models.real import RealModels
from router.models.replay import Key, Replay, key_of_row, outcome_of
from router.own_signals import OwnSignals
from router.spec import Loaded
from router.tuning.calls import RecordedCall
from router.world import SimulatedClock, World

Row = Mapping[str, Any]


class Played(NamedTuple):
    """What became of one call."""

    answer: Answer | None
    """`None` where the call ended without one."""
    attempts: tuple[Attempt, ...] = ()
    row: Row | None = None
    """The recorded row that holds the answer."""
    cost_nusd: int | None = None
    latency_ms: float | None = None
    """What the recorded latencies and the pauses come to; `None` where one of them was not recorded."""
    missing: ReplayMiss | None = None
    """Why the recording cannot tell: it lacks an answer of this model to this prompt."""
    error: RouterError | None = None
    """Why there is no answer, where production would have given none either."""


class Player:
    """Plays calls of one task, one after the other; `prepared` makes one."""

    def __init__(self, router: Router, backend: _Recorded, task: str) -> None:
        self.router = router
        self.plan = router.plan(task)
        """As it is before the first call."""
        self._backend = backend
        self._task = task

    def play(self, call: RecordedCall, system: str | None) -> Played:
        """One call; `system` is the system text of the policy that it was recorded under."""
        backend = self._backend
        backend.begin(call)
        started_s = backend.clock.monotonic()
        group = self.plan.task.group
        value = None if group is None else call.value(group)
        metadata = None if group is None or value is None else {group: str(value)}
        answer: Answer | None = None
        attempts: tuple[Attempt, ...] = ()
        error: RouterError | None = None
        try:
            answer = self.router.route(self._task, call.asked(system), metadata=metadata)
            attempts = answer.attempts
        except ReplayMiss as miss:
            return Played(None, missing=miss)
        except NoAnswer as ended:
            attempts, error = ended.attempts, ended
        except InvalidCall as refused:  # Such as a prompt that is longer than the task takes.
            error = refused
        seconds = backend.clock.monotonic() - started_s
        latency_ms = None if backend.untimed else seconds * 1000
        return Played(answer, attempts, _row_of(answer), costs(attempts).nusd, latency_ms, error=error)


@contextmanager
def prepared(
    task: str,
    rows: Sequence[Row],
    *,
    loaded: Loaded,
    checks: Mapping[str, Callable[[Any], bool]] | None = None,
    signals: OwnSignals | None = None,
    name: str = "recording",
) -> Iterator[Player]:
    """A player of these rows under these policies, with a ledger that goes away with it.

    Prices and limits are those of real models, and local models, which are free and at hand, are asked anew.
    """
    clock = SimulatedClock(time.time())
    models = {model.litellm for model in loaded.policy.models.values()}
    backend = _Recorded(rows, models, name, clock, RealModels(loaded.folder or Path()))
    with (
        tempfile.TemporaryDirectory() as home,
        Router(
            loaded,
            home=home,
            backend=backend,
            checks=checks,
            signals=signals,
            reload=False,
            world=World(clock, Random(0)),  # Pauses between retries are the same in every run.
        ) as router,
    ):
        yield Player(router, backend, task)


def _row_of(answer: Answer | None) -> Row | None:
    """The recorded row that an answer is; a local model's is none."""
    if answer is None or any(
        attempt.model == answer.model and attempt.model_asked.startswith(PREFIX) for attempt in answer.attempts
    ):
        return None
    row: Row = answer.response
    return row


class _Recorded(Replay):
    """A recording whose latencies pass on a clock, and that gives a call its own rows before those of others."""

    def __init__(
        self, rows: Iterable[Row], models: Collection[str], name: str, clock: SimulatedClock, real: RealModels
    ) -> None:
        super().__init__((row for row in rows if row["model"] in models), name=name)
        self._models = models
        self.clock = clock
        self.untimed = False
        """Whether a row without a latency was given in this call."""
        self._real = real
        self._own: dict[Key, list[Row]] = {}
        """Rows of this call that were not given yet, the next one last."""
        self._given: dict[Key, Row] = {}

    def begin(self, call: RecordedCall) -> None:
        """Whose requests come next."""
        self.untimed = False
        self._own.clear()
        self._given.clear()
        for row in reversed(sorted(call.rows, key=_sample)):
            if row["model"] in self._models:
                self._own.setdefault(key_of_row(row), []).append(row)

    def facts(self, model: Model) -> Facts:
        return self._real.facts(model)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        if call.model.litellm.startswith(PREFIX):
            outcome = self._real.send(call, timeout_s)
            self.clock.sleep((outcome.latency_ms or 0.0) / 1000 if isinstance(outcome, Reply) else 0.0)
            return outcome
        row = self._next(call)
        latency_s = row.get("latency_s")
        if latency_s is None:
            self.untimed = True
        elif timeout_s is not None and latency_s > timeout_s:
            self.clock.sleep(timeout_s)
            return Failure(Fault.TIMEOUT, detail=f"no answer within {timeout_s:.3f} s")
        else:
            self.clock.sleep(latency_s)
        # Who served it is unknown where the row does not say: that is no reason to take a plan for stale.
        return replace(outcome_of(row), model_served=row.get("model_served"))

    def _next(self, call: Call) -> Row:
        key = self._key(call)
        own, before = self._own.get(key), self._given.get(key)
        if own:
            row = own.pop()
        elif before is not None and before.get("error") is None:
            raise self._miss(call, "a panel asks it again, and one answer of it would agree with itself")
        elif own is None or before is None:
            row = super()._next(call)
        else:  # Another retry than were recorded.
            row = before
        self._given[key] = row
        return row


def _sample(row: Row) -> int:
    """Which time a panel asked the model; an eval run calls the second one `small#2`."""
    number = str(row.get("name", "")).partition(AGAIN)[2]
    return int(number) if number.isdecimal() else 1
