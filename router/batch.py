"""Many calls at once: bounded, in order or as they end, and resumable. `run` has threads, `arun` has tasks.

Prompts are taken when there is room for them and not before, so that a generator of a million of them needs the
memory of a few. Blocking calls go to threads: measured against an event loop in a thread they give more calls a
second, and a backend that blocks stops nobody else.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, cast

from router import events
from router.core.answer import Answer
from router.core.plan import Plan
from router.errors import InvalidCall
from router.ledger import Fingerprints
from router.options import Options, Prompt, require_known
from router.resume import ResumeFile

# Prompts that may be begun ahead of the one that is given next, for each one at work: a slow one holds nobody up.
_AHEAD = 4
_END = object()
_SHAPING = ("params", "tools", "tool_choice", "schema")


class Routes(Protocol):
    """What is needed of a router."""

    @property
    def route(self) -> Callable[..., Any]: ...

    @property
    def aroute(self) -> Callable[..., Any]: ...

    def plan(self, task: str) -> Plan: ...


@dataclass(frozen=True, slots=True)
class Mapped:
    """What became of one prompt: an answer, or the error in its place."""

    index: int
    """Position of the prompt, from 0."""
    answer: Answer | None = None
    error: Exception | None = None
    """A `RouterError`, or what a backend of your own raised."""


class Progress(NamedTuple):
    """How far it is, whenever a prompt is done."""

    done: int
    """Prompts that have an answer or an error, those of an earlier run included."""
    failed: int
    total: int | None
    """`None` where the prompts have no length."""


class MapOptions(Options, total=False):
    """Everything that `Router.map` may be given beside task and prompts."""

    concurrency: int
    ordered: bool
    on_progress: Callable[[Progress], Any] | None
    resume: str | Path | None


_DEFAULTS = {"concurrency": 8, "ordered": True, "on_progress": None, "resume": None}


class Job:
    """One run over many prompts: what was begun, what is done, and what is given next."""

    def __init__(
        self,
        router: Routes,
        task: str,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        options: Mapping[str, Any],
        fingerprints: Fingerprints,
    ) -> None:
        own: dict[str, Any] = {**_DEFAULTS, **{name: value for name, value in options.items() if name in _DEFAULTS}}
        concurrency, on_progress = own["concurrency"], own["on_progress"]
        self.options: Any = {name: value for name, value in options.items() if name not in _DEFAULTS}
        _check(prompts, self.options, concurrency, on_progress, own["resume"])
        self.router, self.task, self.prompts = router, task, prompts
        self.concurrency: int = concurrency
        self.plan = router.plan(task)
        self._ordered = own["ordered"]
        self._on_progress = events.guarded(on_progress, None, then="progress is not shown") if on_progress else None
        self._resume_path: Path | None = own["resume"]
        self._resume: ResumeFile | None = None
        self._fingerprints = fingerprints
        self._total = len(prompts) if isinstance(prompts, Sized) else None
        self._begun = self._given = self._done = self._failed = 0
        # Done and not given; in order, those that are waited for are `None`.
        self._waiting: deque[Mapped | None] = deque()

    def open(self, stack: ExitStack) -> None:
        """Open the file to resume from, until the stack is left."""
        if self._resume_path is not None:
            self._resume = stack.enter_context(ResumeFile(Path(self._resume_path)))

    @property
    def has_room(self) -> bool:
        """Whether another prompt may be begun."""
        return self._begun - self._given < self.concurrency * _AHEAD

    @property
    def is_over(self) -> bool:
        """Whether nothing is at work."""
        return self._begun == self._done

    def begin(self, prompt: Prompt) -> int | None:
        """Number a prompt; `None` when an earlier run has its answer."""
        index = self._begun
        self._begun += 1
        if self._ordered:
            self._waiting.append(None)
        if self._resume is not None:
            try:
                asked = self._binding(prompt)
            except (TypeError, ValueError, RecursionError) as error:
                self.end(Mapped(index, error=_odd(error)))
                return None
            known = self._resume.find(index, asked, self._check())
            if known is not None:
                self.end(Mapped(index, known))
                return None
        return index

    def answered(self, index: int, prompt: Prompt, answer: Answer) -> Mapped:
        """An answer; from here on a later run need not ask for it."""
        if self._resume is not None:
            self._resume.write(index, self._binding(prompt), answer)
        return Mapped(index, answer)

    def settle(self, index: int, asked: Future[Mapped] | asyncio.Task[Mapped]) -> None:
        """Take what became of a call: whatever was raised is one prompt's, and ends no other."""
        error = asked.exception()
        self.end(Mapped(index, error=error) if isinstance(error, Exception) else asked.result())

    def end(self, mapped: Mapped) -> None:
        """Take a result."""
        self._done += 1
        self._failed += mapped.error is not None
        if self._ordered:
            self._waiting[mapped.index - self._given] = mapped
        else:
            self._waiting.append(mapped)
        if self._on_progress:
            self._on_progress(Progress(self._done, self._failed, self._total))

    def ready(self) -> Generator[Mapped, None, None]:
        """What can be given now."""
        while self._waiting and (mapped := self._waiting[0]) is not None:
            self._waiting.popleft()
            self._given += 1
            yield mapped

    def _binding(self, prompt: Prompt) -> str:
        shaping = {name: self.options.get(name) for name in _SHAPING}
        asked = json.dumps([self.task, prompt, shaping], sort_keys=True, default=str)
        return self._fingerprints.name("asked", asked) or ""

    def _check(self) -> Any:
        from router.spec import shape_of

        shape = shape_of(self.options.get("schema"))
        return shape.check if shape else self.plan.check


def _check(prompts: Any, options: Mapping[str, Any], concurrency: Any, on_progress: Any, resume: Any) -> None:
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable | AsyncIterable):
        raise InvalidCall(f"prompts: is a {type(prompts).__name__}; give a list of prompts", argument="prompts")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InvalidCall(f"concurrency: is {concurrency!r:.40}; give a whole number from 1 on", argument="concurrency")
    if on_progress is not None and not callable(on_progress):
        raise InvalidCall("on_progress: is no function; give one of the progress", argument="on_progress")
    if not isinstance(resume, str | Path | None):
        raise InvalidCall(f"resume: is a {type(resume).__name__}; give the path of a file", argument="resume")
    require_known("map", options.keys() - {"stream"})
    for name in ("idempotency_key", "stream"):
        if options.get(name):
            raise InvalidCall(f"{name}: is for a single call; use route() or aroute() with it", argument=name)


def _odd(error: Exception) -> InvalidCall:
    # The class only: the text may hold the prompt.
    return InvalidCall(
        f"prompt: cannot be written as JSON ({type(error).__name__}); give text, or messages of plain values",
        argument="prompt",
    )


def run(job: Job) -> Generator[Mapped, None, None]:
    """Every prompt in a thread. Leaving it early begins nothing more and waits for the requests under way."""
    if isinstance(job.prompts, AsyncIterable):
        raise InvalidCall("prompts: come asynchronously; use amap() for them", argument="prompts")
    fault = _Fault()
    prompts = _each(job.prompts, fault)
    done: SimpleQueue[tuple[int, Future[Mapped]]] = SimpleQueue()

    def ask(index: int, prompt: Prompt) -> Mapped:
        return job.answered(index, prompt, job.router.route(job.task, prompt, **job.options))

    with ExitStack() as stack:
        job.open(stack)
        pool = ThreadPoolExecutor(job.concurrency, "router-map")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        more = True
        while True:
            while more and job.has_room:
                prompt: Any = next(prompts, _END)
                more = prompt is not _END
                if more and (index := job.begin(prompt)) is not None:
                    # With the caller's context, so that `attribute` reaches the threads.
                    asked = pool.submit(copy_context().run, ask, index, prompt)
                    asked.add_done_callback(lambda ended, index=index: done.put((index, ended)))  # type: ignore[misc]
            yield from job.ready()
            if job.is_over and not more:
                fault.tell()
                return
            if not job.is_over:
                job.settle(*done.get())


async def arun(job: Job) -> AsyncGenerator[Mapped, None]:
    """Every prompt in a task. Leaving it early cancels the requests under way."""
    fault = _Fault()
    prompts = _aeach(job.prompts, fault)
    at_once = asyncio.Semaphore(job.concurrency)
    running: dict[asyncio.Task[Mapped], int] = {}
    done: asyncio.Queue[asyncio.Task[Mapped]] = asyncio.Queue()

    async def ask(index: int, prompt: Prompt) -> Mapped:
        async with at_once:
            return job.answered(index, prompt, await job.router.aroute(job.task, prompt, **job.options))

    with ExitStack() as stack:
        job.open(stack)
        more = True
        try:
            while True:
                while more and job.has_room:
                    prompt: Any = await anext(prompts, _END)
                    more = prompt is not _END
                    if more and (index := job.begin(prompt)) is not None:
                        task = asyncio.create_task(ask(index, prompt))
                        running[task] = index
                        task.add_done_callback(done.put_nowait)
                for mapped in job.ready():
                    yield mapped
                if job.is_over and not more:
                    fault.tell()
                    return
                if not job.is_over:
                    ended = await done.get()
                    job.settle(running.pop(ended), ended)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await prompts.aclose()


class _Fault:
    """What the prompts themselves raised: it waits until the answers under way, which are paid for, were given."""

    _error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._error = error
        return isinstance(error, Exception)

    def tell(self) -> None:
        """Raise it, if there is one."""
        if self._error is not None:
            raise self._error


def _each(prompts: Iterable[Prompt], fault: _Fault) -> Generator[Prompt, None, None]:
    with fault:
        left = iter(prompts)
        # Without `yield from`, which would close the caller's own generator.
        while (prompt := next(left, _END)) is not _END:
            yield cast("Prompt", prompt)


async def _aeach(prompts: Iterable[Prompt] | AsyncIterable[Prompt], fault: _Fault) -> AsyncGenerator[Prompt, None]:
    with fault:
        if isinstance(prompts, AsyncIterable):
            async for prompt in prompts:
                yield prompt
        else:
            for prompt in prompts:
                yield prompt
