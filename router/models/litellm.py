"""The only door to litellm: provider translation, usage and price data. Never its retries, budgets, cache or costs.

What litellm raises becomes a `Failure`, what it returns becomes a `Reply`, and the odd success (no choices, no
content, no usage) is recognised.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from router.core.call import (
    Call,
    Chunk,
    Failure,
    Outcome,
    input_tokens_bound,
    input_tokens_estimate,
    own_messages,
)
from router.core.faults import Fault
from router.core.policy import Model
from router.errors import NetworkForbidden
from router.models import About, Facts
from router.models.litellm_faults import (
    EXCEPTIONS,
    arrived,
    classify,
    lacks_credentials,
    nothing_came,
    retry_after_s,
    was_silent,
)
from router.models.litellm_library import as_ours, library, without_mcp
from router.models.litellm_prices import map_name, price_of
from router.models.litellm_replies import read_reply
from router.models.litellm_stream import Gathered

_CAPABILITIES = {
    "images": "supports_vision",
    "json_schema": "supports_response_schema",
    "reasoning": "supports_reasoning",
    "system": "supports_system_messages",
    "tools": "supports_function_calling",
}

# Providers for which litellm drops `max_retries` unless it is told to let it through, and then sends three times.
_RESENDING = frozenset(
    [
        "ai21",
        "ai21_chat",
        "baseten",
        "codestral",
        "deepinfra",
        "featherless_ai",
        "hyperbolic",
        "inception",
        "nscale",
        "nvidia_nim",
        "sambanova",
        "zai",
    ]
)

# platform.claude.com, "Vision": images are made smaller until they have no more, on models with the highest resolution.
_ANTHROPIC_IMAGE_TOKENS = 4_784

# No provider works longer than this on one request; litellm's own default is 6,000 s.
_LONGEST_REQUEST_S = 600.0

# Set by `router.testing.no_network`.
network_forbidden = False


class LiteLLM:
    """A backend for every real model."""

    def facts(self, model: Model) -> Facts:
        """Price and limits from litellm's map; exact names only, because it invents prices for similar ones."""
        entry = _entry(library().model_cost, model.litellm)
        if entry is None:
            return Facts()
        return Facts(
            price_of(entry),
            _tokens(entry, "max_input_tokens"),
            _tokens(entry, "max_output_tokens"),
            frozenset(name for name, flag in _CAPABILITIES.items() if entry.get(flag)),
            _ANTHROPIC_IMAGE_TOKENS if model.litellm.startswith("anthropic/") else None,
            map_name(),
        )

    def about(self, model: Model) -> About:
        """Capabilities from litellm's map, and whether the key's environment variable is set."""
        litellm = library()
        entry = _entry(litellm.model_cost, model.litellm) or {}
        can = [name for name, flag in _CAPABILITIES.items() if entry.get(flag)]
        unknown = About(tuple(can), "unknown: litellm knows no such provider", callable=False)
        if not _knows_provider(litellm, model):
            return unknown
        try:
            can += ["logprobs"] if "logprobs" in (litellm.get_supported_openai_params(model.litellm) or ()) else []
            missing = litellm.validate_environment(model.litellm).get("missing_keys") or []
        except _raised(litellm):
            return unknown
        if model.api_key_env:
            missing = [] if os.environ.get(model.api_key_env) else [model.api_key_env]
        return About(
            tuple(sorted(can)), f"missing: set {_variables(missing)}" if missing else "present, or none needed"
        )

    def count_tokens(self, call: Call) -> int:
        """What litellm's tokenizer for the model counts."""
        if input_tokens_bound(call.messages) is None:  # litellm would fetch images to count them.
            return input_tokens_estimate(call.messages)
        return int(library().token_counter(model=call.model.litellm, messages=list(call.messages)))

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        """One request over the network."""
        litellm = library()
        try:
            arguments = _arguments(call, timeout_s)
            with as_ours(litellm):
                return read_reply(litellm.completion(**arguments))
        except _MissingKey as missing:
            return Failure(Fault.AUTH, detail=str(missing))
        except _raised(litellm) as error:
            return _failure(litellm, error, call)

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        """One request over the network, without blocking; the caller's cancelling is what ends it in time."""
        litellm = library()
        try:
            arguments = _arguments(call, None)
            with as_ours(litellm):
                return read_reply(await litellm.acompletion(**arguments))
        except _MissingKey as missing:
            return Failure(Fault.AUTH, detail=str(missing))
        except _raised(litellm) as error:
            return _failure(litellm, error, call)

    def stream(self, call: Call, timeout_s: float | None) -> Iterator[Chunk | Outcome]:
        """One request over the network, its answer in parts."""
        litellm = library()
        gathered, wrapper = Gathered(), None
        try:
            arguments = _arguments(call, timeout_s) | _LIVE
            with as_ours(litellm):
                wrapper = litellm.completion(**arguments)
            gathered.spare(wrapper)
            while True:
                with as_ours(litellm):
                    part = next(wrapper, None)
                if part is None:
                    break
                if chunk := gathered.add(part):
                    yield chunk
            yield gathered.outcome(wrapper)
        except _MissingKey as missing:
            yield Failure(Fault.AUTH, detail=str(missing))
        except _raised(litellm) as error:
            yield _stream_failure(litellm, error, call)
        finally:
            _hang_up(wrapper)

    async def astream(self, call: Call, timeout_s: float | None) -> AsyncIterator[Chunk | Outcome]:
        """One request over the network, its answer in parts, without blocking."""
        litellm = library()
        gathered, wrapper = Gathered(), None
        try:
            arguments = _arguments(call, None) | _LIVE
            with as_ours(litellm):
                wrapper = await litellm.acompletion(**arguments)
            gathered.spare(wrapper)
            while True:
                with as_ours(litellm):
                    part = await anext(wrapper, None)
                if part is None:
                    break
                if chunk := gathered.add(part):
                    yield chunk
            yield gathered.outcome(wrapper)
        except _MissingKey as missing:
            yield Failure(Fault.AUTH, detail=str(missing))
        except _raised(litellm) as error:
            yield _stream_failure(litellm, error, call)
        finally:
            await _ahang_up(wrapper)


# Without being asked, most providers stream no usage.
_LIVE = {"stream": True, "stream_options": {"include_usage": True}}


def _hang_up(wrapper: Any) -> None:
    """Close the connection of a stream that was left early; at its end there is nothing left to close.

    For most providers litellm keeps only the lines of the response, and ending those ends it.
    """
    stream = getattr(wrapper, "completion_stream", None)
    for held in (stream, getattr(stream, "streaming_response", None)):
        close = getattr(held, "close", None)
        if close is not None:
            close()


async def _ahang_up(wrapper: Any) -> None:
    """The same without blocking; the connection is closed when this returns."""
    if wrapper is not None:
        await wrapper.aclose()
        # The loop closes the socket in its next turn: a caller who keeps the loop busy would let the provider go on.
        await asyncio.sleep(0)


def _stream_failure(litellm: Any, error: Exception, call: Call) -> Failure:
    """Litellm wraps what breaks a stream; the cause says what it was."""
    cause = getattr(error, "original_exception", None)
    failure = _failure(litellm, cause if isinstance(cause, _raised(litellm)) else error, call)
    return replace(failure, fault=Fault.TIMEOUT) if was_silent(error) else failure


class _MissingKey(Exception):
    """The environment variable that should hold the key is not set."""


def _arguments(call: Call, timeout_s: float | None) -> dict[str, Any]:
    if network_forbidden:
        raise NetworkForbidden(
            f"model {call.name!r} ({call.model.litellm}) was about to be asked inside no_network(); "
            "give the Router scripted models: Router(backend=router.testing.ScriptedModels(...))"
        )
    model = call.model
    arguments: dict[str, Any] = {
        **call.params,
        **(without_mcp() if call.wants_tools else {}),
        "model": model.litellm,
        "messages": own_messages(call.messages),  # litellm changes what it is given.
        "timeout": _rounded_up(_LONGEST_REQUEST_S if timeout_s is None else min(timeout_s, _LONGEST_REQUEST_S)),
        # litellm and the SDKs below it would otherwise send each request up to three times.
        "max_retries": 0,
    }
    if model.litellm.partition("/")[0] in _RESENDING:
        arguments["allowed_openai_params"] = ["max_retries"]
    if library().num_retries:  # The application's own; an empty policy takes its place for this call.
        arguments["retry_policy"] = {"BadRequestErrorRetries": 0}
    if call.max_output_tokens is not None:
        arguments["max_tokens"] = call.max_output_tokens
    if model.api_base:
        arguments["api_base"] = model.api_base
    if model.headers or call.headers:
        own = {name.lower() for name in call.headers}
        theirs = {name: value for name, value in model.headers.items() if name.lower() not in own}
        arguments["extra_headers"] = {**theirs, **call.headers}
    if call.api_key:
        arguments["api_key"] = call.api_key
    elif model.api_key_env:
        key = os.environ.get(model.api_key_env)
        if not key:
            raise _MissingKey(f"environment variable {model.api_key_env} is not set")
        arguments["api_key"] = key
    return arguments


def _rounded_up(timeout_s: float) -> float:
    """The time to two significant digits: litellm opens a new connection for every timeout it has not seen before."""
    timeout_s = max(timeout_s, 0.001)  # Without any time left a request fails at once; 0 would mean no limit at all.
    unit = 10.0 ** (math.floor(math.log10(timeout_s)) - 1)
    return round(math.ceil(timeout_s / unit - 1e-9) * unit, 6)


@functools.cache
def _raised(litellm: Any) -> tuple[type[Exception], ...]:
    """What litellm raises: most of it derives from the OpenAI SDK's base class, the rest is listed."""
    listed = (getattr(litellm.exceptions, name, None) for name in EXCEPTIONS)
    return tuple(kind for kind in listed if kind is not None)


def _failure(litellm: Any, error: Exception, call: Call) -> Failure:
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) else None
    fault = classify(error, status)
    if lacks_credentials(error) or (nothing_came(error) and _key_is_missing(litellm, call)):
        fault, status = Fault.AUTH, None
    if fault in (Fault.SERVER_ERROR, Fault.TIMEOUT) and nothing_came(error):
        # litellm invents a status where no response arrived; without headers there was none.
        fault, status = Fault.CONNECTION if fault is Fault.SERVER_ERROR else fault, None
    elif fault is Fault.CONNECTION:
        status = None  # There was a response, but what broke was the connection.
    detail = _missing_keys(litellm, call) if fault is Fault.AUTH else ""
    if fault is Fault.BAD_REQUEST and nothing_came(error) and not _knows_provider(litellm, call.model):
        fault, status, detail = (
            Fault.NOT_FOUND,
            None,
            "its name begins with no provider that litellm knows",
        )
    return Failure(
        fault,
        status=status,
        retry_after_s=retry_after_s(error),
        detail=detail,
        arrived=arrived(error) if fault is Fault.CONNECTION else None,
        provider_message=str(getattr(error, "message", ""))[:2000],
    )


def _knows_provider(litellm: Any, model: Model) -> bool:
    """Whether litellm can tell from a model's name and address whom to ask."""
    try:
        litellm.get_llm_provider(model.litellm, api_base=model.api_base)
    except _raised(litellm):
        return False
    return True


def _key_is_missing(litellm: Any, call: Call) -> bool:
    """Whether a provider that always wants a key has none: its client then refuses to start, in words of its own."""
    if call.api_key or call.model.api_key_env or call.model.api_base:
        return False
    missing = litellm.validate_environment(call.model.litellm).get("missing_keys") or []
    return bool(missing) and all(name.endswith("_API_KEY") for name in missing)


def _missing_keys(litellm: Any, call: Call) -> str:
    if call.api_key:
        return "the caller's own key was refused"
    if call.model.api_key_env:
        return f"the key in {call.model.api_key_env} was refused"
    missing = litellm.validate_environment(call.model.litellm).get("missing_keys") or []
    return f"environment variable {_variables(missing)} is not set" if missing else "the key was refused"


def _variables(names: list[str]) -> str:
    """Several keys are spellings of one; a key, an address and a version are all needed."""
    return (" or " if all(name.endswith("_API_KEY") for name in names) else " and ").join(names)


def _entry(prices: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The price map's own entry for a model, with or without the provider's prefix."""
    if name in prices:
        found: Mapping[str, Any] = prices[name]
        return found
    provider, _, rest = name.partition("/")
    entry = prices.get(rest)
    return entry if entry is not None and str(entry.get("litellm_provider", "")).startswith(provider) else None


def _tokens(entry: Mapping[str, Any], name: str) -> int | None:
    value = entry.get(name)
    return value if isinstance(value, int) else None
