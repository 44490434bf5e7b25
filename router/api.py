"""Assembly: `Router` puts policies, backend, ledger and events together; `route` and `aroute` use a default one."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from router import events
from router.core.answer import Answer
from router.core.call import Message, texts, to_messages
from router.core.cascade import Finish, Flow, Request, cascade
from router.core.faults import FAULTS
from router.core.params import checked_metadata, checked_params, positive, suggestion
from router.core.plan import Plan
from router.core.policy import Policy
from router.core.pricing import NUSD_PER_USD
from router.drive import Ride, adrive, drive
from router.errors import InvalidCall, UnknownTask, warn
from router.ledger import Fingerprints, LedgerWriter, Trace, load_secret
from router.ledger.fold import SEGMENTS_FOLDER
from router.ledger.rows import call_summary
from router.models import Backend
from router.models.real import RealModels
from router.resolve import Plans
from router.spec import adopt, load
from router.world import World

HOME_VARIABLE = "ROUTER_HOME"
DEFAULT_HOME = ".router"

Prompt = str | Sequence[Message]


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
        self._backend = backend or RealModels(self._loaded.folder or Path())
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
        self._plans = Plans(self._loaded, self._backend, self._checks, self._world.clock)
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
        self._require_task(task)
        return self._plans.get(task)

    def route(
        self,
        task: str,
        prompt: Prompt,
        *,
        feature: str | None = None,
        user: str | None = None,
        tenant: str | None = None,
        session: str | None = None,
        deadline_s: float | None = None,
        max_cost_usd: float | None = None,
        params: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Answer a prompt with the smallest competent model of a task's ladder.

        Parameters
        ----------
        task
            Name of the task in the policies.
        prompt
            Text, or a list of chat messages.
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

        Returns
        -------
        Answer
            With text, model, confidence, the reason of every step, and the cost of every request.

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
        flow, ride = self._begin(
            task, prompt, feature, user, tenant, session, deadline_s, max_cost_usd, params, metadata
        )
        return drive(flow, ride)

    async def aroute(
        self,
        task: str,
        prompt: Prompt,
        *,
        feature: str | None = None,
        user: str | None = None,
        tenant: str | None = None,
        session: str | None = None,
        deadline_s: float | None = None,
        max_cost_usd: float | None = None,
        params: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Answer:
        """See `route`."""
        flow, ride = self._begin(
            task, prompt, feature, user, tenant, session, deadline_s, max_cost_usd, params, metadata
        )
        return await adrive(flow, ride)

    aroute.__doc__ = route.__doc__

    def close(self) -> None:
        """Close the ledger's segment. A later call opens a new one."""
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

    def _begin(
        self,
        task: str,
        prompt: Prompt,
        feature: str | None,
        user: str | None,
        tenant: str | None,
        session: str | None,
        deadline_s: float | None,
        max_cost_usd: float | None,
        params: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
    ) -> tuple[Flow, Ride]:
        plan = self.plan(task).chosen(metadata)
        for name, value in (("feature", feature), ("user", user), ("tenant", tenant), ("session", session)):
            if value is not None and not isinstance(value, str):
                raise InvalidCall(f"{name}: is a {type(value).__name__}; give text", argument=name)
        request = self._request(plan, prompt, deadline_s, max_cost_usd, params)
        fingerprints = self._fingerprints or self._load_fingerprints()
        fingerprint, prefixes = fingerprints.prompt(request.messages)
        trace = Trace(
            request.route_id,
            task,
            plan.policy_hash,
            plan.plan_hash,
            fingerprint,
            prefixes,
            feature,
            fingerprints.name("user", user),
            tenant,
            fingerprints.name("session", session),
            checked_metadata(metadata),
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

    def _request(
        self,
        plan: Plan,
        prompt: Prompt,
        deadline_s: float | None,
        max_cost_usd: float | None,
        params: Mapping[str, Any] | None,
    ) -> Request:
        try:
            messages = to_messages(prompt, plan.task.system)
        except ValueError as error:
            raise InvalidCall(f"prompt: {error}", argument="prompt") from None
        rest, max_output_tokens = checked_params(params or {})
        deadline = positive("deadline_s", deadline_s)
        limits = [
            limit
            for limit in (plan.task.budget.usd_per_call, positive("max_cost_usd", max_cost_usd))
            if limit is not None
        ]
        return Request(
            route_id=self._world.new_id(),
            messages=messages,
            input_chars=sum(map(len, texts(messages))),
            params=rest,
            max_output_tokens=max_output_tokens,
            deadline_s=plan.task.deadline_s if deadline is None else deadline,
            max_cost_nusd=min((int(limit * NUSD_PER_USD) for limit in limits), default=None),
        )

    def _require_task(self, task: str) -> None:
        tasks = self._loaded.policy.tasks
        if task not in tasks:
            raise UnknownTask(
                f"unknown task {task!r}; {suggestion(str(task), tasks)}", task=task, known=tuple(sorted(tasks))
            )

    def _load_fingerprints(self) -> Fingerprints:
        self._fingerprints = Fingerprints(load_secret(self._home, self._world))
        return self._fingerprints

    def _on_finish(self, trace: Trace, finish: Finish, latency_ms: float) -> None:
        if events.wanted():
            events.emit("route", call_summary(trace, finish, latency_ms))
        self._plans.saw(trace.task, finish.attempts)
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
        warn(f"{problem}; calls climb past it until that is mended")


_default: Router | None = None
# Two first calls at once must not make two routers, whose ledgers would be two segments of one process.
_default_lock = threading.Lock()


def _renew_lock() -> None:
    """In a forked child: the thread that may hold the lock is not there to release it."""
    global _default_lock
    _default_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def default_router() -> Router:
    """The router that `route` and `aroute` share, made on first use from the environment."""
    global _default
    if _default is None:
        with _default_lock:
            _default = _default or Router()
    return _default


def route(
    task: str,
    prompt: Prompt,
    *,
    feature: str | None = None,
    user: str | None = None,
    tenant: str | None = None,
    session: str | None = None,
    deadline_s: float | None = None,
    max_cost_usd: float | None = None,
    params: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Answer:
    """See `Router.route`."""
    return default_router().route(
        task,
        prompt,
        feature=feature,
        user=user,
        tenant=tenant,
        session=session,
        deadline_s=deadline_s,
        max_cost_usd=max_cost_usd,
        params=params,
        metadata=metadata,
    )


async def aroute(
    task: str,
    prompt: Prompt,
    *,
    feature: str | None = None,
    user: str | None = None,
    tenant: str | None = None,
    session: str | None = None,
    deadline_s: float | None = None,
    max_cost_usd: float | None = None,
    params: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Answer:
    """See `Router.route`."""
    return await default_router().aroute(
        task,
        prompt,
        feature=feature,
        user=user,
        tenant=tenant,
        session=session,
        deadline_s=deadline_s,
        max_cost_usd=max_cost_usd,
        params=params,
        metadata=metadata,
    )


route.__doc__ = aroute.__doc__ = Router.route.__doc__
