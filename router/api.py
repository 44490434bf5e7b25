"""Assembly: `Router` puts policies, backend, ledger and events together; `route` and `aroute` use a default one."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from router import events
from router.core.answer import Answer, climbed, costs
from router.core.call import Message, texts, to_messages
from router.core.cascade import Finish, Flow, Plan, Request, Rung, cascade
from router.core.checks import build_check
from router.core.faults import FAULTS
from router.core.params import CALL_PARAMS
from router.core.policy import Policy
from router.core.pricing import NUSD_PER_USD, merged, usd
from router.drive import Ride, adrive, drive
from router.errors import InvalidCall, PolicyError, RouterWarning, UnknownTask
from router.ledger import Fingerprints, LedgerWriter, Trace, load_secret
from router.ledger.fold import SEGMENTS_FOLDER
from router.models import Backend
from router.models.litellm import LiteLLM
from router.spec import adopt, json_validator, load, load_tuned, suggestion
from router.world import World

HOME_VARIABLE = "ROUTER_HOME"
DEFAULT_HOME = ".router"

Prompt = str | Sequence[Message]

# Of a call's own metadata: enough for a few keys, too little for a prompt.
_MAX_METADATA_CHARS = 2000


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
        What answers the calls: litellm when missing, or a recording, or scripted models.
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
        self._backend = backend or LiteLLM()
        self._world = world or World()
        self._checks = dict(checks or {})
        for task in self._checks:
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
            known = self._plans[task] = self._build_plan(task)
        return known

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
        plan = self.plan(task)
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
            _checked_metadata(metadata),
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
        rest, max_output_tokens = _checked_params(params or {})
        deadline = _positive("deadline_s", deadline_s)
        limits = [
            limit
            for limit in (plan.task.budget.usd_per_call, _positive("max_cost_usd", max_cost_usd))
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

    def _build_plan(self, name: str) -> Plan:
        self._require_task(name)
        policy, folder = self._loaded.policy, self._loaded.folder
        task = policy.tasks[name]
        tuned = load_tuned(folder, name, policy) if folder else None
        own = self._checks.get(name)
        check = build_check(
            task.answer,
            schema=json_validator(task.answer.json) if task.answer.json else None,
            own=events.guarded(own, False) if own else None,
        )
        rungs = []
        thresholds = (*task.thresholds(), None)
        for rung, threshold in zip(task.ladder, thresholds, strict=True):
            if not isinstance(rung, str):
                raise PolicyError("panels and fallbacks are not built yet", where=f"tasks.{name}.ladder")
            model = policy.models[rung]
            facts = self._backend.facts(model)
            rungs.append(
                Rung(
                    name=rung,
                    model=model,
                    price=merged(model.price, facts.price),
                    threshold=threshold,
                    calibrators=tuned.calibrators.get(rung, ()) if tuned else (),
                    confidence_source=tuned.source if tuned else "prior",
                    context_tokens=model.context_tokens or facts.context_tokens,
                    max_output_tokens=model.max_output_tokens or facts.max_output_tokens,
                )
            )
        source = tuned.source if tuned else "prior"
        return Plan(name, task, tuple(rungs), check, _plan_hash(policy, name, source), self._loaded.policy_hash)

    def _load_fingerprints(self) -> Fingerprints:
        self._fingerprints = Fingerprints(load_secret(self._home, self._world))
        return self._fingerprints

    def _on_finish(self, trace: Trace, finish: Finish, latency_ms: float) -> None:
        if events.wanted():
            events.emit("route", _event(trace, finish, latency_ms))
        for attempt in finish.attempts:
            if attempt.fault is not None:
                self._warn_once(trace.task, attempt.model, attempt.fault, attempt.detail)

    def _warn_once(self, task: str, model: str, fault: Any, detail: str) -> None:
        """Say once that a rung is gone for good: calls go on, but at the price of the rung above."""
        rule = FAULTS[fault]
        key = (task, model, str(fault))
        if rule.retry or rule.then != "climb" or key in self._warned:
            return
        self._warned.add(key)
        problem = f"task {task!r}: rung {model!r} cannot be used ({fault}: {detail or rule.why})"
        events.emit("router.rung_failed", {"task": task, "model": model, "fault": str(fault)}, level=logging.WARNING)
        warnings.warn(f"{problem}; calls climb past it until that is mended", RouterWarning, stacklevel=2)


def _event(trace: Trace, finish: Finish, latency_ms: float) -> dict[str, Any]:
    """The fields of the one event of a call."""
    answer, spent = finish.answer, costs(finish.attempts)
    return {
        "route_id": trace.route_id,
        "task": trace.task,
        "outcome": finish.outcome,
        "model": answer.model if answer else None,
        "rung": answer.rung if answer else None,
        "escalated": climbed(finish.attempts),
        "confidence": answer.confidence if answer else None,
        "confidence_source": answer.confidence_source if answer else None,
        "reason": finish.steps[-1].reason if finish.steps else None,
        "attempts": len(finish.attempts),
        "cost_usd": usd(spent.nusd),
        "marginal_cost_usd": usd(spent.marginal_nusd),
        "baseline_cost_usd": answer.baseline_cost_usd if answer else None,
        "latency_ms": round(latency_ms, 3),
        "feature": trace.feature,
        "tenant": trace.tenant,
        "user": trace.user,
    }


def _plan_hash(policy: Policy, name: str, confidence_source: str) -> str:
    """Changes with whatever changes answers or decisions, and with nothing else."""
    task = policy.tasks[name]
    models = [policy.models[rung] for rung in task.ladder if isinstance(rung, str)]
    binding = [
        [[model.litellm, dict(model.params), model.api_base] for model in models],
        task.thresholds(),
        dict(task.params),
        task.system,
        task.template_version,
        repr(task.answer),
        task.max_output_tokens,
        confidence_source,
    ]
    return hashlib.sha256(json.dumps(binding, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _positive(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InvalidCall(f"{name}: is {value!r}; give a number above 0", argument=name)
    return value


def _checked_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """A call's own parameters, with its output limit apart."""
    rest = dict(params)
    if unknown := sorted(set(rest) - CALL_PARAMS):
        raise InvalidCall(
            f"params: {unknown[0]!r} cannot be set per call; {suggestion(unknown[0], CALL_PARAMS)}", argument="params"
        )
    limits = [rest.pop(name) for name in ("max_tokens", "max_completion_tokens") if name in rest]
    for limit in limits:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidCall(f"params: max_tokens is {limit!r}; give a whole number above 0", argument="params")
    return rest, min(limits, default=None)


def _checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not metadata:
        return None
    try:
        size = len(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidCall(
            "metadata: holds something that is no JSON; give plain values", argument="metadata"
        ) from error
    if size > _MAX_METADATA_CHARS:
        raise InvalidCall(
            f"metadata: has {size} characters of JSON; give at most {_MAX_METADATA_CHARS}", argument="metadata"
        )
    return dict(metadata)


_default: Router | None = None
# Two first calls at once must not make two routers, whose ledgers would be two segments of one process.
_default_lock = threading.Lock()


def default_router() -> Router:
    """The router that `route` and `aroute` share, made on first use from the environment."""
    global _default  # noqa: PLW0603
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
