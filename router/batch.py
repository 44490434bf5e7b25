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
from typing import Any, NamedTuple, Protocol

from router import events
from router.core.answer import Answer
from router.core.plan import Plan
from router.errors import InvalidCall, RouterError
from router.ledger import Fingerprints
from router.options import Options, Prompt
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
    error: RouterError | None = None


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
        _check(prompts, self.options, concurrency, on_progress)
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
            known = self._resume.find(index, self._binding(prompt), self._check())
            if known is not None:
                self.end(Mapped(index, known))
                return None
        return index

    def answered(self, index: int, prompt: Prompt, answer: Answer) -> Mapped:
        """An answer; from here on a later run need not ask for it."""
        if self._resume is not None:
            self._resume.write(index, self._binding(prompt), answer)
        return Mapped(index, answer)

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


def _check(prompts: Any, options: Mapping[str, Any], concurrency: Any, on_progress: Any) -> None:
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable | AsyncIterable):
        raise InvalidCall(f"prompts: is a {type(prompts).__name__}; give a list of prompts", argument="prompts")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InvalidCall(f"concurrency: is {concurrency!r:.40}; give a whole number from 1 on", argument="concurrency")
    if on_progress is not None and not callable(on_progress):
        raise InvalidCall("on_progress: is no function; give one of the progress", argument="on_progress")
    for name in ("idempotency_key", "stream"):
        if options.get(name):
            raise InvalidCall(f"{name}: is for a single call; use route() or aroute() with it", argument=name)


def run(job: Job) -> Generator[Mapped, None, None]:
    """Every prompt in a thread. Leaving it early begins nothing more and waits for the requests under way."""
    if isinstance(job.prompts, AsyncIterable):
        raise InvalidCall("prompts: come asynchronously; use amap() for them", argument="prompts")
    prompts = iter(job.prompts)
    done: SimpleQueue[Future[Mapped]] = SimpleQueue()

    def ask(index: int, prompt: Prompt) -> Mapped:
        try:
            answer = job.router.route(job.task, prompt, **job.options)
        except RouterError as error:
            return Mapped(index, error=error)
        return job.answered(index, prompt, answer)

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
                    pool.submit(copy_context().run, ask, index, prompt).add_done_callback(done.put)
            yield from job.ready()
            if job.is_over and not more:
                return
            if not job.is_over:
                job.end(done.get().result())


async def arun(job: Job) -> AsyncGenerator[Mapped, None]:
    """Every prompt in a task. Leaving it early cancels the requests under way."""
    prompts = _one_by_one(job.prompts)
    at_once = asyncio.Semaphore(job.concurrency)
    running: set[asyncio.Task[Mapped]] = set()
    done: asyncio.Queue[asyncio.Task[Mapped]] = asyncio.Queue()

    async def ask(index: int, prompt: Prompt) -> Mapped:
        async with at_once:
            try:
                answer = await job.router.aroute(job.task, prompt, **job.options)
            except RouterError as error:
                return Mapped(index, error=error)
            return job.answered(index, prompt, answer)

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
                        running.add(task)
                        task.add_done_callback(done.put_nowait)
                for mapped in job.ready():
                    yield mapped
                if job.is_over and not more:
                    return
                if not job.is_over:
                    ended = await done.get()
                    running.discard(ended)
                    job.end(ended.result())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await prompts.aclose()


async def _one_by_one(prompts: Iterable[Prompt] | AsyncIterable[Prompt]) -> AsyncGenerator[Prompt, None]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt
