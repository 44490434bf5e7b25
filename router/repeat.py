"""Idempotency keys: the same key and parameters give the same answer for a day, without another request.

`Repeats.once` puts itself around the flow of a call. The first caller of a key asks; whoever comes meanwhile, from
any process, waits for it; whoever comes later is given the answer that was kept. A failure is not kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from router import events
from router.core.answer import Answer, Step
from router.core.checks import Check
from router.core.effects import Do, Effect, Finish, Flow, ReadClock, Request, Wait
from router.core.plan import Plan
from router.core.stored import Damaged, plain, restored
from router.errors import DeadlineExceeded, InvalidCall, RouterError, StateError, warn
from router.ledger import Fingerprints, Trace
from router.state import AnswerStore, Claim, Kept
from router.world import World

KEPT_S = 24 * 3600
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.25


class Key(NamedTuple):
    """An idempotency key and what it is for, as fingerprints."""

    name: str
    binding: str
    user: str | None = None
    """Whose answer it is, so that it goes when the user is forgotten."""


def key_of(plan: Plan, request: Request, options: Mapping[str, Any], trace: Trace, prints: Fingerprints) -> Key | None:
    """The key of a call, if it has one. Tenants have keys of their own.

    Raises
    ------
    InvalidCall
        The key is no text, or empty.
    """
    given = options.get("idempotency_key")
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip():
        raise InvalidCall(f"idempotency_key: is {given!r:.40}; give some text", argument="idempotency_key")
    system = {"role": "system", "content": plan.task.system}
    asked = [
        plan.task_name,
        [message for message in request.messages if dict(message) != system],
        dict(request.params),
        request.max_output_tokens,
        request.tools.params() if request.tools else None,
        dict(request.shape.schema) if request.shape else None,
    ]
    binding = prints.name("asked", json.dumps(asked, sort_keys=True, default=str))
    name = prints.name("idempotency", json.dumps([trace.tenant, given]))
    return Key(name or "", binding or "", trace.user)


class Repeats:
    """Gives an answer again to who brings its key."""

    def __init__(self, folder: Path, world: World) -> None:
        self._store = AnswerStore(folder)
        self._world = world

    def once(self, flow: Flow, key: Key, plan: Plan, request: Request) -> Flow:
        """The flow, or the answer that it gave before.

        Raises
        ------
        InvalidCall
            The key was used for something else, or this very thread or task has a stream with it open.
        StateError
            Nothing can be kept, so that "once" cannot be promised; nothing was asked.
        """
        claims: list[Claim] = []
        try:
            try:
                answer = yield from self._kept(key, plan, request, claims)
            except RouterError as error:
                yield Do(Finish(None, error, (), ()))
                raise
            if answer is not None:
                yield Do(Finish(answer, None, answer.steps, ()))
                return answer
            answer = yield from flow
            self._keep(key, answer)
            return answer
        finally:
            for claim in claims:
                claim.release()

    def _kept(
        self, key: Key, plan: Plan, request: Request, claims: list[Claim]
    ) -> Generator[Effect, Any, Answer | None]:
        """The answer that is kept, once nobody is asking for it any more; `None` when this call is to ask."""
        pause_s = _FIRST_PAUSE_S
        while True:
            found = self._store.find(key.name, self._world.clock.time())
            elapsed_s: float = yield Do(ReadClock())
            if found is not None:
                _refuse_other(found.binding, key)
                check = request.shape.check if request.shape else plan.check
                first = self._restored(found.answer, check)
                if first is not None:
                    return _again(first, request.route_id, elapsed_s)
            if claims:
                return None
            claim = self._store.claim(key.name, key.binding)
            if isinstance(claim, Claim):  # The answer may have been kept since it was looked for: look again.
                claims.append(claim)
                continue
            _refuse_other(claim or key.binding, key)
            if self._store.is_mine(key.name):
                raise _waits_for_itself()
            if request.deadline_s is not None and elapsed_s >= request.deadline_s:
                raise _late(plan, request)
            yield Wait(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def _restored(self, answer: str, check: Check) -> Answer | None:
        try:
            return restored(json.loads(answer), check)
        except (Damaged, json.JSONDecodeError, TypeError, RecursionError) as error:
            raise self._store.damaged() from error

    def _keep(self, key: Key, answer: Answer) -> None:
        now_s = self._world.clock.time()
        try:
            kept = Kept(key.binding, json.dumps(plain(answer), default=str))
            self._store.keep(key.name, kept, user=key.user, now_s=now_s, expires_s=now_s + KEPT_S)
        except (StateError, ValueError, RecursionError) as error:  # It is paid for and there: nothing may take it away.
            events.emit("router.state_failed", {"problem": str(error)}, level=logging.ERROR)
            warn(f"an answer is not kept for its idempotency key: {error}")


def _refuse_other(binding: str, key: Key) -> None:
    if binding != key.binding:
        raise InvalidCall(
            "idempotency_key: was used for another task, prompt or parameters in the last 24 hours; give each call a "
            "key of its own, and the same key only to the same call",
            argument="idempotency_key",
        )


def _waits_for_itself() -> InvalidCall:
    return InvalidCall(
        "idempotency_key: this thread or task has a stream with this key open, and would wait for itself; read it to "
        "its end or close it first",
        argument="idempotency_key",
    )


def _again(first: Answer, route_id: str, elapsed_s: float) -> Answer:
    """An answer that was given before, as the answer of a call that asked nobody."""
    step = Step(
        rung=first.rung,
        model=first.model,
        action="repeat",
        reason=f"the answer of call {first.route_id}, which had the same idempotency key",
        confidence=first.confidence,
        confidence_source=first.confidence_source,
    )
    return replace(
        first,
        route_id=route_id,
        repeat_of=first.route_id,
        steps=(step,),
        attempts=(),
        escalated=False,
        cost_nusd=0,
        cost_upper_nusd=0,
        marginal_cost_nusd=0,
        baseline_cost_nusd=0,
        baseline_source="known",
        latency_ms=elapsed_s * 1000,
    )


def _late(plan: Plan, request: Request) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"task {plan.task_name!r}: another call with this idempotency key was still at work after "
        f"{request.deadline_s} s; raise deadline_s, or ask again later",
        deadline_s=request.deadline_s,
        route_id=request.route_id,
        task=plan.task_name,
        attempts=(),
    )
