"""Assembly: `Router` puts policies, backend, ledger and events together."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

from router import events
from router.core.answer import Answer
from router.core.cascade import cascade
from router.core.effects import Finish, Flow
from router.core.faults import FAULTS
from router.core.params import checked_metadata, suggestion
from router.core.plan import Plan
from router.core.policy import Policy
from router.drive import adrive, adrive_live, drive, drive_live
from router.errors import InvalidCall, UnknownTask, shown, warn
from router.ledger import Fingerprints, LedgerWriter, Trace, load_secret
from router.ledger.fold import SEGMENTS_FOLDER
from router.ledger.rows import call_summary
from router.models import Backend, checked_backend
from router.models.real import RealModels
from router.options import Options, Prompt, attribution, request_of
from router.resolve import resolve
from router.ride import Ride
from router.shapes import completions, openai_client
from router.shapes.meter import Meter, Metered
from router.shapes.routed import Decorator
from router.spec import adopt, load
from router.stream import AnswerStream, AsyncAnswerStream
from router.world import World

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
    world
        Time, randomness and disk; the machine's own when missing.

    Raises
    ------
    PolicyError
        There is no policy, or it has a fault.
    """

    def __init__(
        self,
        policies: str | Path | Policy | None = None,
        *,
        environment: str | None = None,
        home: str | Path | None = None,
        backend: Backend | None = None,
        checks: Mapping[str, Callable[[Any], bool]] | None = None,
        world: World | None = None,
    ) -> None:
        self._loaded = adopt(policies) if isinstance(policies, Policy) else load(policies, environment=environment)
        self._home = state_home(home)
        self._backend = checked_backend(backend) or RealModels(self._loaded.folder or Path())
        self._world = world or World()
        self._checks = dict(checks or {})
        for task, check in self._checks.items():
            if inspect.iscoroutinefunction(check):
                raise InvalidCall(f"checks: the check of {task!r} is async; give a plain function", argument="checks")
            self._require_task(task)
        ledger = self._loaded.policy.ledger
        self._ledger = LedgerWriter(
            self._home / SEGMENTS_FOLDER,
            self._world,
            on_failure=ledger.on_failure,
            sync=ledger.sync,
            alarm=lambda problem: events.emit("router.ledger_failed", {"problem": problem}, level=logging.ERROR),
        )
        # Filled on first use; a plan that two threads build at once is the same plan.
        self._plans: dict[str, Plan] = {}
        self._fingerprints: Fingerprints | None = None
        self._warned: set[tuple[str, str, str]] = set()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._loaded.policy

    def plan(self, task: str) -> Plan:
        """What a call of this task does: its rungs with prices, thresholds and calibrators.

        Raises
        ------
        UnknownTask
            The policies name no such task.
        """
        known = self._plans.get(task)
        if known is None:
            self._require_task(task)
            known = self._plans[task] = resolve(self._loaded, task, self._backend, self._checks.get(task))
        return known

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
            The same key gives the same answer for 24 hours, without another request.

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
        fingerprints = self._fingerprints or self._load_fingerprints()
        return Meter(self._loaded, self._backend, self._ledger, fingerprints, self._world).record(
            response, model, options
        )

    def close(self) -> None:
        """Close the ledger's segment, once no call is under way. A later call opens a new one."""
        self._ledger.close()

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
        plan = self.plan(task)
        request = request_of(plan, prompt, options, route_id=self._world.new_id(), stream=stream)
        fingerprints = self._fingerprints or self._load_fingerprints()
        fingerprint, prefixes = fingerprints.prompt(request.messages)
        who = attribution(options)
        trace = Trace(
            request.route_id,
            task,
            plan.policy_hash,
            plan.plan_hash,
            fingerprint,
            prefixes,
            who.get("feature"),
            fingerprints.name("user", who.get("user")),
            who.get("tenant"),
            fingerprints.name("session", who.get("session")),
            checked_metadata(options.get("metadata")),
        )
        ride = Ride(
            trace,
            world=self._world,
            backend=self._backend,
            ledger=self._ledger,
            max_wait_s=plan.task.retry.max_wait_s,
            deadline_s=request.deadline_s,
            on_finish=self._on_finish,
        )
        return cascade(plan, request), ride

    def _require_task(self, task: str) -> None:
        tasks = self._loaded.policy.tasks
        if task not in tasks:
            raise UnknownTask(
                f"unknown task {shown(task)}; {suggestion(str(task), tasks)}", task=task, known=tuple(sorted(tasks))
            )

    def _load_fingerprints(self) -> Fingerprints:
        self._fingerprints = Fingerprints(load_secret(self._home, self._world))
        return self._fingerprints

    def _on_finish(self, trace: Trace, finish: Finish, latency_ms: float) -> None:
        if events.wanted():
            events.emit("route", call_summary(trace, finish, latency_ms))
        for attempt in finish.attempts:
            if attempt.fault is not None:
                self._warn_once(trace.task, attempt.model, attempt.fault, attempt.detail)

    def _warn_once(self, task: str, model: str, fault: Any, detail: str) -> None:
        """Say once that a rung is gone for good: calls go on, but at the price of the rung above."""
        rule = FAULTS[fault]
        key = (task, model, str(fault))
        if not rule.lasting or key in self._warned:
            return
        self._warned.add(key)
        problem = f"task {task!r}: rung {model!r} cannot be used ({fault}: {detail or rule.why})"
        events.emit("router.rung_failed", {"task": task, "model": model, "fault": str(fault)}, level=logging.WARNING)
        is_top = model == self.plan(task).rungs[-1].name
        warn(f"{problem}; calls {'that reach it fail' if is_top else 'climb past it'} until that is mended")
