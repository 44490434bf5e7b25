"""Assembly: `Router` puts policies, backend, ledger and events together."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

from router import batch, events
from router.batch import Job, MapOptions, Mapped
from router.core.answer import Answer
from router.core.cascade import cascade
from router.core.effects import Finish, Flow
from router.core.plan import Plan
from router.core.policy import Policy
from router.drive import adrive, adrive_live, drive, drive_live
from router.errors import InvalidCall
from router.inforce import Checks, InForce
from router.ledger import Fingerprints, LedgerWriter, Trace, load_fingerprints
from router.ledger.segments import SEGMENTS_FOLDER
from router.models import Backend
from router.models.record import Recorder
from router.models.recording import REDACTED
from router.options import Options, Prompt, allowed, attribution, request_of, top_only, trace_of
from router.own_signals import OwnSignals, guarded_signals
from router.reload import Reloader
from router.repeat import Repeats, key_of
from router.report import Reporter
from router.ride import Ride
from router.shapes import completions, openai_client
from router.shapes.meter import Meter, Metered
from router.shapes.routed import Decorator
from router.spec import Loaded, keep, load, loaded_of
from router.state import SharedBudgets
from router.stream import AnswerStream, AsyncAnswerStream
from router.world import World

RELOAD_VARIABLE = "ROUTER_RELOAD"
HOME_VARIABLE = "ROUTER_HOME"
DEFAULT_HOME = ".router"


def state_home(home: str | Path | None = None) -> Path:
    """Where ledger and state live: the argument, `ROUTER_HOME`, else `./.router`."""
    return Path(home or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)


class Router:
    """Answers calls by the policies it was given; safe to use from threads, tasks and forked children.

    Parameters
    ----------
    policies
        A policy file, a folder of them, or a `Policy`; `ROUTER_POLICIES`, else `./policies`, when missing.
    environment
        Name of the policy overlay to apply; `ROUTER_ENV` when missing.
    home
        Folder of the ledger; `ROUTER_HOME`, else `./.router`, when missing.
    backend
        What answers the calls: real models when missing, or a recording, or scripted models.
    checks
        Own checks by task: a function of the value found in the draft that says whether it is usable.
    signals
        Own signals by name: a function of prompt and draft that gives a number or `None`; read where a tuned plan
        needs it.
    record, record_append
        Write every answer to this file, for `Replay`; it must not exist, unless a part may be added to it.
    redact
        A function of text that takes out what must not be in the recording.
    on_event
        A function that is told of every call once, when it has ended: the fields of its event.
    reload
        Take changed policy files over while it works; `ROUTER_RELOAD=1`, else not, when missing.
    world
        Time, randomness and disk; the machine's own when missing.

    Raises
    ------
    PolicyError
        There is no policy, or it has a fault.
    InvalidCall
        A check or a signal cannot be used.
    """

    def __init__(
        self,
        policies: str | Path | Policy | Loaded | None = None,
        *,
        environment: str | None = None,
        home: str | Path | None = None,
        backend: Backend | None = None,
        checks: Checks | None = None,
        signals: OwnSignals | None = None,
        record: str | Path | None = None,
        record_append: bool = False,
        redact: Callable[[str], str] | None = None,
        on_event: Callable[[events.Event], Any] | None = None,
        reload: bool | None = None,
        world: World | None = None,
    ) -> None:
        loaded = loaded_of(policies, environment)
        for task, check in (checks or {}).items():
            if inspect.iscoroutinefunction(check):
                raise InvalidCall(f"checks: the check of {task!r} is async; give a plain function", argument="checks")
        top_only()  # A switch that says something else must show now, not at the first call.
        self._home = state_home(home)
        self._world = world or World()
        self._in_force = InForce(loaded, backend, dict(checks or {}), guarded_signals(signals), self._world.clock)
        self._report = Reporter(on_event)
        ledger = loaded.policy.ledger
        self._ledger = LedgerWriter(
            self._home / SEGMENTS_FOLDER,
            self._world,
            on_failure=ledger.on_failure,
            sync=ledger.sync,
            alarm=_alarm("router.ledger_failed"),
        )
        self._recorder = self._recording(record, record_append, redact) if record is not None else None
        self._kept: InForce | None = None
        self._reloader = self._reloading(policies, environment, reload)
        self._repeats = Repeats(self._home / "state", self._world)
        self._budgets = SharedBudgets(self._home / "state", self._world, synchronous=ledger.sync == "full")
        self._fingerprints: Fingerprints | None = None

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._in_force.loaded.policy

    def plan(self, task: str) -> Plan:
        """What a call of this task does: its rungs with prices, thresholds and calibrators.

        Raises
        ------
        UnknownTask
            The policies name no such task.
        """
        return self._in_force.plan(task)

    @overload
    def route(
        self, task: str, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[Options]
    ) -> Answer: ...

    @overload
    def route(
        self, task: str, prompt: Prompt, *, stream: Literal[True], **options: Unpack[Options]
    ) -> AnswerStream: ...

    def route(
        self, task: str, prompt: Prompt, *, stream: bool = False, **options: Unpack[Options]
    ) -> Answer | AnswerStream:
        """Answer a prompt with the smallest competent model of a task's ladder.

        Parameters
        ----------
        task
            Name of the task in the policies.
        prompt
            Text, or a list of chat messages.
        stream
            Give the answer in parts: drafts are judged whole, the last rung's answer comes as it is made.
        feature, user, tenant, session
            Who the cost belongs to. User and session are stored as keyed fingerprints only.
        deadline_s
            Seconds for the whole call, in place of the task's own. A model that works when it passes is abandoned.
        max_cost_usd
            The most this call may cost; lowers the task's own limit, never raises it.
        params
            Parameters of this call, such as `temperature`; a model's own in the policy win.
        metadata
            A few values of your own for the ledger. Stored as they are: put no prompt and no secret there.
        tools, tool_choice
            Tools that the model may call, as chat completions have them. A draft whose calls do not fit climbs.
        schema
            A pydantic model, a dataclass or a JSON Schema that the answer must fit; `answer.parsed` is its value.
        credentials
            The caller's own keys by model or provider, in place of the operator's. Never logged or stored.
        extra_headers
            HTTP headers of this call.
        idempotency_key
            The same key gives the same answer for 24 hours, without another request. It is kept for that.

        Returns
        -------
        Answer
            With text, model, confidence, the reason of every step, and the cost of every request.
            With `stream=True` an `AnswerStream`: iterate it, then read `stream.answer`.

        Raises
        ------
        UnknownTask
            The policies name no such task.
        InvalidCall
            An argument cannot be used: the prompt is empty or too long, a parameter is unknown.
        NoAnswer
            No rung gave a usable answer, the request was refused, or a limit was reached before an answer.
        LedgerError
            The ledger cannot be written and the policy says to refuse calls then.
        """
        flow, ride = self._begin(task, prompt, options, stream=stream)
        return AnswerStream(drive_live(flow, ride), ride.route_id) if stream else drive(flow, ride)

    @overload
    async def aroute(
        self, task: str, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[Options]
    ) -> Answer: ...

    @overload
    async def aroute(
        self, task: str, prompt: Prompt, *, stream: Literal[True], **options: Unpack[Options]
    ) -> AsyncAnswerStream: ...

    async def aroute(
        self, task: str, prompt: Prompt, *, stream: bool = False, **options: Unpack[Options]
    ) -> Answer | AsyncAnswerStream:
        """See `route`."""
        flow, ride = self._begin(task, prompt, options, stream=stream)
        if stream:
            return await AsyncAnswerStream.begun(adrive_live(flow, ride), ride.route_id)
        return await adrive(flow, ride)

    aroute.__doc__ = route.__doc__

    def completion(self, model: str, messages: Any = None, **arguments: Any) -> Any:
        """`litellm.completion` with `model="task:NAME"`: its arguments and objects; `response.router` is the answer."""
        return completions.completion(self, model, messages, arguments)

    async def acompletion(self, model: str, messages: Any = None, **arguments: Any) -> Any:
        """See `completion`."""
        return await completions.acompletion(self, model, messages, arguments)

    @property
    def chat(self) -> openai_client.Chat:
        """`chat.completions.create(model="task:NAME", ...)` with the arguments and objects of the OpenAI SDK."""
        return openai_client.Chat(self)

    @cached_property
    def openai(self) -> Any:
        """An `openai.OpenAI` whose `chat.completions` is ours, for code that insists on the class."""
        return openai_client.client(self)

    @cached_property
    def async_openai(self) -> Any:
        """The `openai.AsyncOpenAI` to it."""
        return openai_client.async_client(self)

    def routed(self, task: str, **options: Unpack[Options]) -> Decorator:
        """Make a function that builds a prompt give the answer to it; see `router.routed`."""
        return Decorator(lambda: self, task, options)

    def meter(self, response: Any, *, model: str | None = None, **options: Unpack[Metered]) -> float | None:
        """Put a call on record that was not routed: a response of litellm or the OpenAI SDK, embeddings included.

        Returns what it cost in dollars, by the provider's figure or the price of its model; `None` when unknown.
        """
        in_force, prints = self._in_force, self._fingerprints or self._load_fingerprints()
        spent = lambda trace, user, nusd: self._budgets.charge(in_force.lines(trace, user, prints), nusd)  # noqa: E731
        meter = Meter(in_force.loaded, in_force.backend, self._ledger, prints, self._world, spent)
        return meter.record(response, model, options)

    def map(self, task: str, prompts: Iterable[Prompt], **options: Unpack[MapOptions]) -> Generator[Mapped, None, None]:
        """Answer many prompts, several at once: an iterator of each one's index with its answer or its error.

        Parameters
        ----------
        task
            Name of the task in the policies.
        prompts
            Any iterable; taken from when there is room, so that a generator needs little memory.
        concurrency
            Calls at the same time; 8 when missing.
        ordered
            Give results in the order of the prompts, as is done when missing; otherwise as they come.
        on_progress
            A function that is told after every prompt how many are done, have failed, and are there.
        resume
            A file of answers. It is made when it is missing; what it has an answer to is not asked again.

        All others are options of `route`, for every prompt.

        Raises
        ------
        InvalidCall
            An argument cannot be used, or the file has answers to other prompts.
        """
        return batch.run(self._job(task, prompts, options))

    def amap(
        self, task: str, prompts: Iterable[Prompt] | AsyncIterable[Prompt], **options: Unpack[MapOptions]
    ) -> AsyncGenerator[Mapped, None]:
        """See `map`; the prompts may come asynchronously."""
        return batch.arun(self._job(task, prompts, options))

    def close(self) -> None:
        """Close the files of ledger and recording once no call is under way, and watch no policy any more.

        A later call begins anew.
        """
        if self._reloader:
            self._reloader.stop()
            self._kept = None
        self._ledger.close()
        self._budgets.close()
        if self._recorder:
            self._recorder.close()

    async def aclose(self) -> None:
        """The same, for `async with`."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _begin(self, task: str, prompt: Prompt, options: Mapping[str, Any], *, stream: bool) -> tuple[Flow, Ride]:
        in_force = self._in_force
        plan = in_force.plan(task).chosen(options.get("metadata"))
        request = request_of(plan, prompt, options, route_id=self._world.new_id(), stream=stream)
        plan = allowed(plan, request)
        if self._kept is not in_force:
            self._keep(in_force)
        prints = self._fingerprints or self._load_fingerprints()
        who = attribution(options)
        trace = trace_of(plan, request, who, options.get("metadata"), prints, in_force.origin)
        lines = in_force.lines(trace, who.get("user"), prints)
        ride = Ride(
            trace,
            world=self._world,
            backend=self._recorder.of(in_force.backend, trace.recorded()) if self._recorder else in_force.backend,
            ledger=self._ledger,
            budgets=self._budgets,
            lines=lines,
            max_wait_s=plan.task.retry.max_wait_s,
            deadline_s=request.deadline_s,
            usual=in_force.usual[task],
            on_finish=lambda *ended: self._finished(in_force, *ended),
        )
        flow = cascade(plan, request, lines)
        key = key_of(plan, request, options, trace, prints)
        return self._repeats.once(flow, key, plan, request) if key else flow, ride

    def _finished(self, in_force: InForce, trace: Trace, finish: Finish, latency_ms: float) -> None:
        in_force.saw(trace.task, finish.attempts)
        self._report(trace, finish, latency_ms)

    def _job(self, task: str, prompts: Any, options: Mapping[str, Any]) -> Job:
        return Job(self, task, prompts, options, self._fingerprints or self._load_fingerprints())

    def _keep(self, in_force: InForce) -> None:
        """Once for each set of policies in each process: keep a copy, and begin to watch the files."""
        self._kept = in_force
        if self._world.secret is None:  # A simulated world leaves nothing on a real disk.
            keep(in_force.loaded, self._home, self._world.new_id())
        if self._reloader:
            self._reloader.start()

    def _reloading(self, source: Any, environment: str | None, wanted: bool | None) -> Reloader | None:
        root = self._in_force.loaded.source
        if wanted and root is None:
            raise InvalidCall("reload: this policy was built in Python and has no files to watch", argument="reload")
        if root is None or not (os.environ.get(RELOAD_VARIABLE) == "1" if wanted is None else wanted):
            return None

        def renew() -> str:
            new = self._in_force.renewed(load(source, environment=environment))
            self._keep(new)
            self._in_force = new  # From here on; calls under way keep what they began with.
            return new.loaded.policy_hash

        return Reloader(root, renew)

    def _recording(self, path: str | Path, append: bool, redact: Callable[[str], str] | None) -> Recorder:
        hook = events.guarded_text(redact, REDACTED) if redact else None
        return Recorder(path, world=self._world, append=append, redact=hook, alarm=_alarm("router.recording_failed"))

    def _load_fingerprints(self) -> Fingerprints:
        sync = self._in_force.loaded.policy.ledger.sync
        self._fingerprints = load_fingerprints(self._home, self._world, sync)
        return self._fingerprints


def _alarm(event: str) -> Callable[[str], None]:
    return lambda problem: events.emit(event, {"problem": problem}, level=logging.ERROR)
