"""What a caller may say beside task and prompt, and how it becomes a request."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

from router.core.call import Message, has_media, texts, to_messages
from router.core.checks import Verdict
from router.core.effects import Request
from router.core.params import (
    CALL_PARAMS,
    checked_headers,
    checked_keys,
    checked_metadata,
    checked_params,
    positive,
    suggestion,
)
from router.core.plan import Plan
from router.core.pricing import NUSD_PER_USD, exact_product
from router.core.structured import Shape
from router.errors import InvalidCall, PolicyError
from router.events import guarded
from router.ledger import Fingerprints, Trace
from router.spec import shape_of, tools_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Prompt = str | Sequence[Message]

DISABLE_VARIABLE = "ROUTER_DISABLE"


class Attribution(TypedDict, total=False):
    """Who the cost of a call belongs to."""

    feature: str | None
    user: str | None
    tenant: str | None
    session: str | None


class Options(Attribution, total=False):
    """Everything a call may be given beside task and prompt; `Router.route` says what each means."""

    deadline_s: float | None
    max_cost_usd: float | None
    params: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    schema: Any
    credentials: Mapping[str, str] | None
    extra_headers: Mapping[str, str] | None
    idempotency_key: str | None


OPTION_NAMES = frozenset(Options.__annotations__)
_ATTRIBUTION = tuple(Attribution.__annotations__)

_attributed: ContextVar[Attribution] = ContextVar("router_attribution", default={})  # noqa: B039 - never changed


@contextmanager
def attribute(
    *,
    feature: str | None = None,
    user: str | None = None,
    tenant: str | None = None,
    session: str | None = None,
) -> Iterator[None]:
    """Say for every call within this block who its cost belongs to; what a call says itself wins.

    Blocks nest: an inner one adds to the outer one. A thread that is started inside does not inherit it, a task does.
    """
    given = {"feature": feature, "user": user, "tenant": tenant, "session": session}
    own = checked_attribution({name: value for name, value in given.items() if value is not None})
    token = _attributed.set({**_attributed.get(), **own})
    try:
        yield
    finally:
        _attributed.reset(token)


def attribution(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Who this call belongs to: its own words, else those of the block it is in."""
    own = {name: given for name in _ATTRIBUTION if (given := options.get(name)) is not None}
    return {**_attributed.get(), **checked_attribution(own)}


def checked_attribution(given: Mapping[str, Any]) -> Attribution:
    """Names of people and things, as text."""
    for name, value in given.items():
        if not isinstance(value, str):
            raise InvalidCall(f"{name}: is a {type(value).__name__}; give text", argument=name)
    return cast(Attribution, dict(given))


def require_known(function: str, options: Iterable[str]) -> None:
    """Refuse an option that there is none of, as Python refuses a keyword.

    Raises
    ------
    TypeError
        Names the nearest one, or where it belongs.
    """
    for name in options:
        if name not in OPTION_NAMES:
            remedy = f"give params={{{name!r}: ...}}" if name in CALL_PARAMS else suggestion(name, OPTION_NAMES)
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; {remedy}")


def request_of(plan: Plan, prompt: Prompt, options: Mapping[str, Any], *, route_id: str, stream: bool) -> Request:
    """One call's request.

    Raises
    ------
    InvalidCall
        An argument cannot be used.
    TypeError
        There is no such argument.
    """
    require_known("route", options)
    try:
        messages = to_messages(prompt, plan.task.system)
    except ValueError as error:
        raise InvalidCall(f"prompt: {error}", argument="prompt") from None
    schema = options.get("schema")
    if stream and schema is not None:
        raise InvalidCall(
            "schema: cannot be checked before all of a stream has been shown; give schema= or stream=True, not both",
            argument="schema",
        )
    rest, max_output_tokens = checked_params(options.get("params") or {})
    deadline = positive("deadline_s", options.get("deadline_s"))
    limits = (plan.task.budget.usd_per_call, positive("max_cost_usd", options.get("max_cost_usd")))
    return Request(
        route_id=route_id,
        messages=messages,
        input_chars=sum(map(len, texts(messages))),
        params=rest,
        max_output_tokens=max_output_tokens,
        deadline_s=plan.task.deadline_s if deadline is None else deadline,
        max_cost_nusd=min([int(exact_product(usd, NUSD_PER_USD)) for usd in limits if usd is not None], default=None),
        stream=stream,
        tools=tools_of(options.get("tools"), options.get("tool_choice")),
        shape=_guarded(shape_of(schema)),
        keys=checked_keys(options["credentials"], plan.names) if options.get("credentials") else {},
        headers=checked_headers(options.get("extra_headers")),
        group=_group(plan.task.group, options.get("metadata")),
    )


def _group(key: str | None, metadata: Mapping[str, Any] | None) -> str | None:
    value = metadata.get(key) if key is not None and isinstance(metadata, Mapping) else None
    return None if value is None else str(value)


def allowed(plan: Plan, request: Request) -> Plan:
    """The plan that a request may follow: the top rung alone where the cascade is off, or its certificate silent.

    A certificate was made from calls without tools, schema, parameters or a system text of their own, and says nothing
    of others.

    Raises
    ------
    InvalidCall
        The task says `on_stale: refuse`, and the certificate does not cover the call.
    """
    if top_only():
        return plan.top_alone("ROUTER_DISABLE=top sends every call to the top rung")
    if plan.standing.force != "tuned" or plan.task.on_stale == "keep":
        return plan
    brought = [name for name, given in _brought(plan, request).items() if given]
    if not brought:
        return plan
    why = f"the tuned plan was certified without {brought[0]} of the call's own"
    if plan.task.on_stale == "refuse":
        raise InvalidCall(
            f"{brought[0]}: {why}, and task {plan.task_name!r} says `on_stale: refuse`; put them into the policy and "
            "tune again, or set `on_stale: top`",
            argument=brought[0] if brought[0] in OPTION_NAMES else "prompt",
        )
    return plan.top_alone(f"{why}, so the top rung is asked")


def _brought(plan: Plan, request: Request) -> dict[str, Any]:
    """What a call may bring along that no eval run of its task had."""
    first = request.messages[0]
    system = plan.task.system
    return {
        "tools": request.tools,
        "schema": request.shape,
        "params": request.params or request.max_output_tokens is not None,
        "system text": system is not None and first["role"] in ("system", "developer") and first["content"] != system,
        "images": has_media(request.messages),
    }


def top_only() -> bool:
    """Whether the operator has switched the cascade off with `ROUTER_DISABLE=top`.

    Raises
    ------
    PolicyError
        The variable says something else: a switch for emergencies must not be overlooked.
    """
    value = os.environ.get(DISABLE_VARIABLE)
    if value in (None, "", "top"):
        return value == "top"
    raise PolicyError(f"is {value!r:.40}; set it to 'top', or unset it", where=DISABLE_VARIABLE)


def trace_of(
    plan: Plan, request: Request, who: Mapping[str, Any], metadata: Any, fingerprints: Fingerprints, origin: str
) -> Trace:
    """Who and what one call belongs to."""
    fingerprints = fingerprints.of(who.get("user"))
    prompt, prefixes = fingerprints.prompt(request.messages)
    return Trace(
        request.route_id,
        plan.task_name,
        plan.policy_hash,
        plan.plan_hash,
        prompt,
        prefixes,
        who.get("feature"),
        fingerprints.user or fingerprints.name("user", who.get("user")),
        who.get("tenant"),
        fingerprints.name("session", who.get("session")),
        checked_metadata(metadata),
        origin,
    )


def _guarded(shape: Shape | None) -> Shape | None:
    """A shape whose type's own code may fail, as a validator of the caller's may: the draft is then not usable."""
    if shape is None:
        return None
    failed = Verdict(False, None, "cannot be read: the schema's own code failed")
    return replace(shape, check=guarded(shape.check, failed))
