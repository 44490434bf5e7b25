"""An eval: every model of a ladder is asked for every labelled row, through the same code as in production.

One model at a time is a ladder of one rung: retries, prices, ledger rows and signals are those of a real call. Each
answer is written to the run file as it comes; a run that was stopped, however it was stopped, goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from router.api import Router
from router.core.binding import row_binding
from router.core.call import Outcome, input_tokens_bound, input_tokens_estimate, output_tokens_estimate, to_messages
from router.core.ladder import model_of
from router.core.params import positive
from router.core.plan import Rung
from router.core.policy import Policy
from router.core.pricing import NUSD_PER_USD, total, usd
from router.errors import InvalidCall, NoAnswer, UnknownTask
from router.models import Backend
from router.models.real import RealModels
from router.resolve import bound, task_check
from router.spec import adopt, load
from router.tuning.answers import Tap, answer_row, failed_row
from router.tuning.graders import Grader, build_grader
from router.tuning.rows import EvalRow, checked_rows
from router.tuning.runfile import RunFile
from router.tuning.session import Past, Session
from router.world import World

FEATURE = "router-eval"
"""The feature that an eval's calls belong to in the ledger."""

# Of the rows, the share for which the top model is asked twice where its answers stand in for labels.
REPEAT_SHARE = 0.2


class Job(NamedTuple):
    """One question to one model."""

    row: EvalRow
    row_id: str
    model: str
    repeat: bool = False

    @property
    def key(self) -> tuple[str, str, bool]:
        """What makes it the same question in another session."""
        return self.row_id, self.model, self.repeat


class Estimate(NamedTuple):
    """What the rest of a run will cost, before it is asked."""

    requests: int
    usd: float | None
    """From the length of prompts and labels, or of the answers so far; `None` when a price is unknown."""
    upper_usd: float | None
    """What it cannot exceed when nothing is retried; `None` when an answer's length or a price is unknown."""
    unpriced: tuple[str, ...]


class Progress(NamedTuple):
    """How far a run is."""

    done: int
    total: int
    failed: int
    cost_usd: float
    """Of the whole run, earlier sessions included."""


class Evaluated(NamedTuple):
    """What a session of an eval did."""

    path: Path
    asked: int
    """Answers of this session."""
    kept: int
    """Answers that were there already."""
    failed: int
    """Questions that this session got no answer to."""
    left: int
    """Questions that are still open; the next session asks them."""
    cost_usd: float
    stopped: str
    """Why it stopped before the end, or nothing."""


class Eval:
    """An eval of one task, ready to run.

    Parameters
    ----------
    task
        Name of a task of the policies.
    rows
        What is asked; `read_rows` reads them from a file.
    out
        The run file. Answers that it holds are not asked again.
    grader, tolerance, fields
        See `build_grader`.
    concurrency
        Requests at the same time.
    per_minute
        Requests that are started in a minute at the most.
    max_usd
        What the whole run may cost. A model without a price or a bound on its answers may pass it by one answer.
    policies, environment, home, backend, checks, world
        As for `Router`.

    Raises
    ------
    PolicyError, UnknownTask, InvalidCall
        There is no such task or grader.
    RecordingError, TuningError
        A row cannot be asked or graded, or the run file belongs to another policy. Nothing was sent.
    """

    def __init__(
        self,
        task: str,
        rows: Sequence[EvalRow],
        out: Path,
        *,
        grader: str | Callable[[str, Any], float] | None = None,
        tolerance: float = 0.0,
        fields: Sequence[str] = (),
        drop_duplicates: bool = False,
        concurrency: int = 4,
        per_minute: float | None = None,
        max_usd: float | None = None,
        policies: str | Path | Policy | None = None,
        environment: str | None = None,
        home: str | Path | None = None,
        backend: Backend | None = None,
        checks: Mapping[str, Callable[[Any], bool]] | None = None,
        world: World | None = None,
    ) -> None:
        loaded = adopt(policies) if isinstance(policies, Policy) else load(policies, environment=environment)
        if task not in loaded.policy.tasks:
            known = tuple(sorted(loaded.policy.tasks))
            raise UnknownTask(f"unknown task {task!r}; there is {', '.join(known)}", task=task, known=known)
        if concurrency < 1:
            raise InvalidCall(f"concurrency: is {concurrency}; give 1 or more", argument="concurrency")
        self.task = task
        self._settings = loaded.policy.tasks[task]
        self._checks = dict(checks or {})
        check = task_check(self._settings, self._checks.get(task))
        self.grader: Grader = build_grader(grader, self._settings.answer, check, tolerance=tolerance, fields=fields)
        self._rows = checked_rows(rows, self.grader, check, drop_duplicates=drop_duplicates)
        self._bound = bound(loaded, task, own_check=task in self._checks)
        self._out = out
        self._concurrency = concurrency
        self._pause_s = 0.0 if per_minute is None else 60.0 / (positive("per_minute", per_minute) or 1.0)
        self._max_nusd = None if max_usd is None else int((positive("max_usd", max_usd) or 0) * NUSD_PER_USD)
        self._world = world or World()
        real = RealModels(loaded.folder or Path())
        self._real = None if backend else real
        self._tap = Tap(backend or real)
        self._policy = loaded.policy
        self._home = home
        self._past = Past.read(out, self._bound) if out.exists() else Past()
        self._past.require_same(self._rows, out)
        self._jobs = self._open_jobs()
        if self._max_nusd is not None and (unpriced := self.estimate().unpriced):
            raise InvalidCall(
                f"max_usd: the price of {unpriced[0]!r} is unknown, so that no limit can hold; give it a `price:`",
                argument="max_usd",
            )

    @property
    def models(self) -> list[str]:
        """The models that are asked, cheapest first; `small#2` is the second sample that a panel takes of `small`."""
        return list(self._bound["ladder"])

    def missing_keys(self) -> dict[str, list[str]]:
        """What is lacking before real models can be asked, each with the models that need it."""
        found: dict[str, list[str]] = {}
        open_models = dict.fromkeys(job.model for job in self._jobs)
        if self._real is None:
            return found
        for name in open_models:
            told = self._real.about(self._policy.models[model_of(name)]).key
            if told.startswith("missing: "):
                found.setdefault(told.removeprefix("missing: "), []).append(name)
        return found

    def estimate(self) -> Estimate:
        """What the questions that are still open will cost."""
        points: list[int | None] = []
        uppers: list[int | None] = []
        unpriced: set[str] = set()
        rungs = {name: self._router(name).plan(self.task).rungs[0] for name in self.models}
        for job in self._jobs:
            messages = to_messages(job.row.prompt, self._settings.system)
            mean, rung = self._past.mean_nusd(job.model), rungs[job.model]
            guess = output_tokens_estimate(str(job.row.label or "")) or 1
            point = rung.rates.plain_nusd(input_tokens_estimate(messages), guess) if mean is None else mean
            if point is None and rung.rates.by_second:
                point = 0
            points.append(point)
            uppers.append(self._upper(job, rung))
            if point is None:
                unpriced.add(job.model)
        return Estimate(len(self._jobs), usd(total(points)), usd(total(uppers)), tuple(sorted(unpriced)))

    def run(self, progress: Callable[[Progress], None] = lambda _: None) -> Evaluated:
        """Ask everything that is still open.

        Raises
        ------
        TuningError
            A model cannot be asked at all: its key is missing, or it is gone. What was answered is kept.
        """
        session = Session(self._past.spent_nusd)
        with ExitStack() as stack:
            file = stack.enter_context(RunFile(self._out))
            routers = {name: stack.enter_context(self._router(name)) for name in self.models}
            pool = stack.enter_context(ThreadPoolExecutor(self._concurrency, thread_name_prefix="router-eval"))
            try:
                for job in self._jobs:
                    if not self._start(job, routers, file, pool, session):
                        break
                    self._report(session, progress)
                while session.pending:
                    session.collect()
                    self._report(session, progress)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return Evaluated(
            self._out,
            session.asked,
            self._past.answers,
            session.failed,
            len(self._jobs) - session.asked,
            session.spent_nusd / NUSD_PER_USD,
            session.stopped,
        )

    def _open_jobs(self) -> list[Job]:
        """In the order of the rows' digests, which is chance: a run that is stopped early is a fair sample."""
        jobs: list[Job] = []
        for row_id, row in sorted((row.row_id, row) for row in self._rows):
            jobs += [Job(row, row_id, model) for model in self.models]
            if self.grader.without_labels and int(row_id[:8], 16) < REPEAT_SHARE * 16**8:
                jobs.append(Job(row, row_id, self.models[-1], repeat=True))
        return [job for job in jobs if job.key not in self._past.done]

    def _router(self, model: str) -> Router:
        """A router whose task has this one rung, and no memory of earlier answers."""
        alone = replace(self._settings, ladder=(model_of(model),), threshold=0.8, cache=None, shadow_rate=None)
        policy = replace(self._policy, tasks={self.task: alone})
        return Router(policy, home=self._home, backend=self._tap, checks=self._checks, world=self._world)

    def _start(
        self, job: Job, routers: Mapping[str, Router], file: RunFile, pool: ThreadPoolExecutor, session: Session
    ) -> bool:
        """Begin a question as soon as rate, money and hands allow it; `False` when money never will."""
        while len(session.pending) >= self._concurrency:
            session.collect()
        upper = self._upper(job, routers[job.model].plan(self.task).rungs[0])
        hold = upper if upper is not None else 2 * (session.mean_nusd() or 0)
        while self._max_nusd is not None and session.spent_nusd + session.held_nusd + hold > self._max_nusd:
            if not session.pending:
                session.stopped = f"the limit of ${self._max_nusd / 1e9:,.2f} leaves no room for another answer"
                return False
            session.collect()
        clock = self._world.clock
        if (early_s := session.next_start_s - clock.monotonic()) > 0:
            clock.sleep(early_s)
        session.next_start_s = max(session.next_start_s, clock.monotonic()) + self._pause_s
        limit = hold / NUSD_PER_USD if self._max_nusd is not None and upper else None
        session.begin(pool.submit(self._ask, job, routers[job.model], file, limit), hold)
        return True

    def _ask(self, job: Job, router: Router, file: RunFile, limit_usd: float | None) -> Mapping[str, Any]:
        """One question, and its row in the file."""
        outcomes: list[Outcome]
        text: str | None = None
        with self._tap.listening() as outcomes:
            try:
                answer = router.route(self.task, job.row.prompt, feature=FEATURE, max_cost_usd=limit_usd)
                row = answer_row(answer, outcomes)
                row["quality"], text = None, answer.text
            except NoAnswer as error:
                row = failed_row(error)
            except InvalidCall as error:
                if error.argument != "prompt":
                    raise
                row = {"error": {"fault": "context_too_long"}, "refused": str(error), "cost_usd": 0.0}
        row = {**self._head(job), **row}
        try:
            if text is not None and not self.grader.without_labels:
                row["quality"] = self.grader.grade(text, job.row.label)
        finally:
            file.append(row)  # An answer that no grade was found for is paid for too.
        return row

    def _head(self, job: Job) -> dict[str, Any]:
        head: dict[str, Any] = {
            "model": self._policy.models[model_of(job.model)].litellm,
            "name": job.model,
            "task": self.task,
            "prompt_id": job.row_id,
            "prompt": job.row.prompt if isinstance(job.row.prompt, str) else [dict(one) for one in job.row.prompt],
            "label": job.row.label,
            "grader": self.grader.name,
            "bound": row_binding(self._bound, job.model),
            "time_s": round(self._world.clock.time(), 3),
        }
        if self._settings.system is not None:
            head["system"] = self._settings.system
        if job.row.metadata:
            head["metadata"] = dict(job.row.metadata)
        if job.repeat:
            head["repeat"] = True
        return head

    def _upper(self, job: Job, rung: Rung) -> int | None:
        messages = to_messages(job.row.prompt, self._settings.system)
        limits = (self._settings.max_output_tokens, rung.max_output_tokens)
        output = min((limit for limit in limits if limit is not None), default=None)
        return rung.rates.upper_nusd(input_tokens_bound(messages), output, self._settings.deadline_s)

    def _report(self, session: Session, progress: Callable[[Progress], None]) -> None:
        done, everything = self._past.answers + session.asked, self._past.answers + len(self._jobs)
        progress(Progress(done, everything, session.failed, session.spent_nusd / NUSD_PER_USD))
