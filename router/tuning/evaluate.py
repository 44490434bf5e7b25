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
from typing import Any

from router.api import Router
from router.core.binding import row_binding
from router.core.call import (
    Message,
    Outcome,
    text_of,
    to_messages,
)
from router.core.ladder import kind_of, model_of
from router.core.params import positive
from router.core.plan import Rung
from router.core.policy import Policy
from router.core.pricing import NUSD_PER_USD
from router.core.signals import read_own
from router.errors import InvalidCall, NoAnswer, UnknownTask
from router.models import Backend
from router.models.real import RealModels
from router.own_signals import OwnSignals, guarded_signals
from router.resolve import bound, task_check
from router.spec import adopt, load
from router.tuning.answers import Row, Tap, answer_row, failed_row, is_final
from router.tuning.estimate import ANY_DRAFT, estimate, upper_nusd
from router.tuning.graders import Grader, build_grader
from router.tuning.jobs import Estimate, Evaluated, Job, Progress
from router.tuning.judging import Judging
from router.tuning.questions import askings
from router.tuning.rows import EvalRow, checked_rows
from router.tuning.runfile import RunFile
from router.tuning.session import Past, Session
from router.world import World

FEATURE = "router-eval"
"""The feature that an eval's calls belong to in the ledger."""

# Of the rows, the share for which the top model is asked twice where its answers stand in for labels.
REPEAT_SHARE = 0.2


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
    judge
        Of the grader `judge`: the model of the policies that says how good an answer is. It is none of the ladder.
    show_label
        Of the grader `judge`: let it see the label of a row that has one. It is then not compared with labels.
    concurrency
        Requests at the same time.
    per_minute
        Requests that are started in a minute at the most.
    max_usd
        What the whole run may cost. A model without a price or a bound on its answers may pass it by one answer.
    policies, environment, home, backend, checks, signals, world
        As for `Router`; every one of the signals is read of every answer.

    Raises
    ------
    PolicyError, UnknownTask, InvalidCall
        There is no such task or grader, or a signal that is none.
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
        judge: str | None = None,
        show_label: bool = False,
        drop_duplicates: bool = False,
        concurrency: int = 4,
        per_minute: float | None = None,
        max_usd: float | None = None,
        policies: str | Path | Policy | None = None,
        environment: str | None = None,
        home: str | Path | None = None,
        backend: Backend | None = None,
        checks: Mapping[str, Callable[[Any], bool]] | None = None,
        signals: OwnSignals | None = None,
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
        self._signals = guarded_signals(signals)
        self._check = check = task_check(self._settings, self._checks.get(task))
        self.grader: Grader = build_grader(grader, self._settings.answer, check, tolerance=tolerance, fields=fields)
        self._rows = checked_rows(rows, self.grader, check, drop_duplicates=drop_duplicates)
        self._judging = Judging.of(self.grader, judge, loaded.policy, task, show_label=show_label)
        if self._judging:
            self._judging.require_text(self._rows)
        self._bound = bound(loaded, task, own_check=task in self._checks)
        self._questions = {one.key: one for one in askings(task, self._settings)}
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
        judged_by = self._judging.binding if self._judging else None
        self._past = Past.read(out, self._bound, judged_by) if out.exists() else Past()
        self._past.require_same(self._rows, out)
        self._jobs = self._open_jobs()
        self._open_questions = len(self._ahead())
        # A replay spends nothing; what its rows say that they cost counts.
        spends = getattr(backend, "origin", None) != "replay"
        if spends and self._max_nusd is not None and (unpriced := self.estimate().unpriced):
            raise InvalidCall(
                f"max_usd: the price of {unpriced[0]!r} is unknown, so that no limit can hold; give it a `price:`",
                argument="max_usd",
            )

    @property
    def models(self) -> list[str]:
        """The models that are asked, cheapest first; `small#2` is the second sample that a panel takes of `small`."""
        return [key for key in self._bound["ladder"] if kind_of(key) is None]

    @property
    def judge(self) -> str | None:
        """The model that grades the answers; `None` where labels do."""
        return self._judging.name if self._judging else None

    def missing_keys(self) -> dict[str, list[str]]:
        """What is lacking before real models can be asked, each with the models that need it."""
        found: dict[str, list[str]] = {}
        open_models = dict.fromkeys(self._asks(job) for job in self._ahead())
        if self._real is None:
            return found
        for name in open_models:
            told = self._real.about(self._policy.models[model_of(name)]).key
            if told.startswith("missing: "):
                found.setdefault(told.removeprefix("missing: "), []).append(name)
        return found

    def estimate(self) -> Estimate:
        """What the questions that are still open will cost."""
        rungs = {name: self._router(name).plan(self.task).rungs[0] for name in self._all_models()}
        asked = ((self._asks(job), job, self._messages(job)) for job in self._ahead())
        return estimate(asked, rungs, self._settings, self._past.mean_nusd)

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
            routers = {name: stack.enter_context(self._router(name)) for name in self._all_models()}
            pool = stack.enter_context(ThreadPoolExecutor(self._concurrency, thread_name_prefix="router-eval"))
            try:
                jobs = iter(self._jobs)
                while (job := session.due.popleft() if session.due else next(jobs, None)) or session.pending:
                    if job is None:
                        session.collect()
                    elif not self._start(job, routers, file, pool, session):
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
            self._open_questions - session.spared - session.asked,
            session.spent_nusd / NUSD_PER_USD,
            session.stopped,
            session.nonsense,
        )

    def _all_models(self) -> list[str]:
        return [*self.models, *self._questions, *([self._judging.name] if self._judging else [])]

    def _asks(self, job: Job) -> str:
        """The model that a question goes to."""
        if job.draft is None:
            return job.model
        return job.question or (self._judging.name if self._judging else job.model)

    def _later(self, job: Job, draft: str) -> list[Job]:
        """The questions that the answer to this one leads to: of the panel that it begins, and of the judge."""
        if job.draft is not None:
            return []
        about = [] if job.repeat else [one.key for one in self._questions.values() if one.about == job.model]
        asked = [job._replace(draft=draft, question=key) for key in about]
        return [*asked, job._replace(draft=draft)] if self._judging else asked

    def _ahead(self) -> list[Job]:
        """The questions that are still open, and those that their answers lead to."""
        return [*self._jobs, *(after for job in self._jobs for after in self._later(job, ANY_DRAFT))]

    def _messages(self, job: Job) -> tuple[Message, ...]:
        if job.question and job.draft is not None:
            return self._questions[job.question].messages(job.row, job.draft)
        if self._judging and job.draft is not None:
            return self._judging.messages(job.row, job.draft)
        return to_messages(job.row.prompt, self._settings.system)

    def _open_jobs(self) -> list[Job]:
        """In the order of the rows' digests, which is chance: a run that is stopped early is a fair sample."""
        jobs: list[Job] = []
        for row_id, row in sorted((row.row_id, row) for row in self._rows):
            jobs += [Job(row, row_id, model) for model in self.models]
            if self.grader.without_labels and int(row_id[:8], 16) < REPEAT_SHARE * 16**8:
                jobs.append(Job(row, row_id, self.models[-1], repeat=True))
            for one in self._questions.values():
                draft = self._past.drafts.get((row_id, one.about))
                if draft is not None and not one.needless(row, draft, self._check):
                    jobs.append(Job(row, row_id, one.about, draft=draft, question=one.key))
        unjudged = self._past.unjudged
        open_jobs = [job for job in jobs if job.key in unjudged or job.key not in self._past.done]
        return [job._replace(draft=unjudged.get(job.key, job.draft)) for job in open_jobs]

    def _router(self, model: str) -> Router:
        """A router whose task has this one rung, and no memory of earlier answers."""
        if asking := self._questions.get(model):
            rung = self._made(asking.alone(self._policy, lambda _: None)).plan(self.task).rungs[0]
            return self._made(asking.alone(self._policy, rung.can))
        alone = replace(self._settings, ladder=(model_of(model),), threshold=0.8, cache=None, shadow_rate=None)
        policy = replace(self._policy, tasks={self.task: alone})
        if self._judging and model == self._judging.name:
            policy = self._judging.alone(native=False)
            if self._made(policy).plan(self.task).rungs[0].can("json_schema"):
                policy = self._judging.alone(native=True)
            return self._made(policy)
        return self._made(policy, self._checks)

    def _made(self, policy: Policy, checks: Mapping[str, Callable[[Any], bool]] | None = None) -> Router:
        return Router(policy, home=self._home, backend=self._tap, checks=checks, world=self._world)

    def _start(
        self, job: Job, routers: Mapping[str, Router], file: RunFile, pool: ThreadPoolExecutor, session: Session
    ) -> bool:
        """Begin a question as soon as rate, money and hands allow it; `False` when money never will."""
        while len(session.pending) >= self._concurrency:
            session.collect()
        router = routers[self._asks(job)]
        upper = self._upper(job, router.plan(self.task).rungs[0])
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
        session.begin(pool.submit(self._ask, job, router, file, limit, session), hold)
        return True

    def _ask(
        self, job: Job, router: Router, file: RunFile, limit_usd: float | None, session: Session
    ) -> Mapping[str, Any]:
        """One question, and its row in the file."""
        if job.draft is not None:
            row = self._about(job, job.draft, router, limit_usd)
            file.append(row)
            return row
        outcomes: list[Outcome]
        text: str | None = None
        with self._tap.listening() as outcomes:
            try:
                answer = router.route(self.task, job.row.prompt, feature=FEATURE, max_cost_usd=limit_usd)
                row = answer_row(answer, outcomes)
                row["quality"], text = None, answer.text
                row["signals"] |= read_own(self._signals, text_of(self._messages(job)), text)
            except NoAnswer as error:
                row = failed_row(error)
            except InvalidCall as error:
                if error.argument != "prompt":
                    raise
                row = {"error": {"fault": "context_too_long"}, "refused": str(error), "cost_usd": 0.0}
        row = {**self._head(job), **row}
        try:
            if text is not None and self.grader.reads_labels:
                row["quality"] = self.grader.grade(text, job.row.label)
        finally:
            due = self._look_before(job, text, row, session)
            file.append(row)  # An answer that no grade was found for is paid for too.
            session.due.extend(due)  # What is said of it stands behind it in the file.
        return row

    def _about(self, job: Job, draft: str, router: Router, limit_usd: float | None) -> Row:
        """A question about an answer: of a panel, or to the judge who grades."""
        if job.question:
            row = self._questions[job.question].ask(router, job, self._policy, limit_usd, self._tap)
            row |= {"grader": self.grader.name, "bound": row_binding(self._bound, job.question)}
        else:
            assert self._judging
            row = self._judging.verdict(router, job, draft, limit_usd, self._tap)
        return {**row, "time_s": round(self._world.clock.time(), 3)}

    def _look_before(self, job: Job, text: str | None, row: Row, session: Session) -> list[Job]:
        """What to ask about an answer next, unless there is nothing to ask about."""
        due = []
        for later in self._later(job, text or ""):
            if text is not None and not self._needless(later, text, row):
                due.append(later)
            elif is_final(row):
                session.spared += 1
        return due

    def _needless(self, job: Job, text: str, row: Row) -> bool:
        """Whether nobody need be asked about an answer; one that is worth nothing to a judge is graded so."""
        if job.question:
            return self._questions[job.question].needless(job.row, text, self._check)
        if self._judging and (why := self._judging.needless(job.row, text, self._check(text))):
            row["quality"], row["worthless"] = 0.0, why
            return True
        return False

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
        return upper_nusd(job, self._messages(job), rung, self._settings)

    def _report(self, session: Session, progress: Callable[[Progress], None]) -> None:
        kept = self._past.answers
        done, everything = kept + session.asked, kept + self._open_questions - session.spared
        progress(Progress(done, everything, session.failed, session.spent_nusd / NUSD_PER_USD))
