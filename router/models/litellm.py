"""The only door to litellm: provider translation, usage and price data. Never its retries, budgets, cache or costs.

litellm is imported on first use, with its network fetch at import and its own retries switched off. What it
raises becomes a `Failure`, what it returns becomes a `Reply`, and the odd success (no choices, no content, no
usage) is recognised here.
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from router.core.call import (
    Call,
    Failure,
    Outcome,
    input_tokens_bound,
    input_tokens_estimate,
    own_messages,
)
from router.core.faults import Fault
from router.core.policy import Model, Price
from router.core.pricing import exact_product
from router.errors import NetworkForbidden
from router.models import About, Facts
from router.models.litellm_faults import EXCEPTIONS, classify, lacks_credentials, nothing_came, retry_after_s
from router.models.litellm_replies import read_reply

# Set before litellm is imported, unless the operator has set them: without these it fetches its price map from the
# network and loads the nearest `.env` file while being imported.
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}

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

# No provider works longer than this on one request; litellm's own default is 6,000 s.
_LONGEST_REQUEST_S = 600.0

# Set by `router.testing.no_network`.
network_forbidden = False


@functools.cache
def _litellm() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Building this type warns. Where warnings are errors litellm would build it in a call, and every call would fail.
    with warnings.catch_warnings(action="ignore"):
        import litellm

        litellm.Message()
    # Otherwise litellm prints advice to standard output on every error.
    litellm.suppress_debug_info = True
    # Counting tokens would otherwise download a tokenizer for some model names.
    litellm.disable_hf_tokenizer_download = True
    _send_once()
    os.register_at_fork(after_in_child=_forget_clients)
    return litellm


# True while this module is inside litellm, so that the rest of the process keeps litellm as it is.
_ours: ContextVar[bool] = ContextVar("router_is_sending", default=False)

_CALLBACKS = (
    "callbacks",
    "success_callback",
    "failure_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


class _as_ours:  # noqa: N801 - reads as a verb where it is used
    """Marks a stay inside litellm, and spares it the bookkeeping for callbacks when there are none.

    That bookkeeping costs a tenth of a call, in a thread or task that outlives it.
    """

    __slots__ = ("_internal", "_ours", "_quiet")

    def __init__(self, litellm: Any) -> None:
        self._quiet = _internal_call()
        if self._quiet is not None and any(getattr(litellm, name, None) for name in _CALLBACKS):
            self._quiet = None

    def __enter__(self) -> None:
        self._ours = _ours.set(True)
        if self._quiet is not None:
            self._internal = self._quiet.set(True)

    def __exit__(self, *_: object) -> None:
        _ours.reset(self._ours)
        if self._quiet is not None:
            self._quiet.reset(self._internal)


@functools.cache
def _internal_call() -> ContextVar[bool] | None:
    """Litellm's own mark for calls that nobody outside listens to; without it a call is only slower."""
    try:
        from litellm._internal_context import is_internal_call
    except ImportError:
        return None
    return is_internal_call


def _send_once() -> None:
    """Keep litellm's async HTTP client from sending a request again when its connection breaks.

    It does so below `max_retries`, for every provider that does not use the OpenAI SDK. Both requests may be
    billed and only one would be on record; our own retry sees the failure instead.
    """
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    resend = AsyncHTTPHandler.single_connection_post_request

    async def once(handler: Any, *args: Any, **kwargs: Any) -> Any:
        broken = sys.exception()
        if _ours.get() and broken is not None:
            raise broken
        return await resend(handler, *args, **kwargs)

    setattr(AsyncHTTPHandler, resend.__name__, once)


class LiteLLM:
    """A backend for every real model."""

    def facts(self, model: Model) -> Facts:
        """Price and limits from litellm's map; exact names only, because it invents prices for similar ones."""
        entry = _entry(_litellm().model_cost, model.litellm)
        if entry is None:
            return Facts()
        return Facts(_price(entry), _tokens(entry, "max_input_tokens"), _tokens(entry, "max_output_tokens"))

    def about(self, model: Model) -> About:
        """Capabilities from litellm's map, and whether the key's environment variable is set."""
        litellm = _litellm()
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
        return int(_litellm().token_counter(model=call.model.litellm, messages=list(call.messages)))

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        """One request over the network."""
        litellm = _litellm()
        try:
            arguments = _arguments(call, timeout_s)
            with _as_ours(litellm):
                return read_reply(litellm.completion(**arguments))
        except _MissingKey as missing:
            return Failure(Fault.AUTH, detail=str(missing))
        except _raised(litellm) as error:
            return _failure(litellm, error, call)

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        """One request over the network, without blocking; the caller's cancelling is what ends it in time."""
        litellm = _litellm()
        try:
            arguments = _arguments(call, None)
            with _as_ours(litellm):
                return read_reply(await litellm.acompletion(**arguments))
        except _MissingKey as missing:
            return Failure(Fault.AUTH, detail=str(missing))
        except _raised(litellm) as error:
            return _failure(litellm, error, call)


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
        "model": model.litellm,
        "messages": own_messages(call.messages),  # litellm changes what it is given.
        "timeout": _rounded_up(_LONGEST_REQUEST_S if timeout_s is None else min(timeout_s, _LONGEST_REQUEST_S)),
        # litellm and the SDKs below it would otherwise send each request up to three times.
        "max_retries": 0,
    }
    if model.litellm.partition("/")[0] in _RESENDING:
        arguments["allowed_openai_params"] = ["max_retries"]
    if _litellm().num_retries:  # The application's own; an empty policy takes its place for this call.
        arguments["retry_policy"] = {"BadRequestErrorRetries": 0}
    if call.max_output_tokens is not None:
        arguments["max_tokens"] = call.max_output_tokens
    if model.api_base:
        arguments["api_base"] = model.api_base
    if model.headers:
        arguments["extra_headers"] = dict(model.headers)
    if model.api_key_env:
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
    if call.model.api_key_env or call.model.api_base:
        return False
    missing = litellm.validate_environment(call.model.litellm).get("missing_keys") or []
    return bool(missing) and all(name.endswith("_API_KEY") for name in missing)


def _missing_keys(litellm: Any, call: Call) -> str:
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


def _price(entry: Mapping[str, Any]) -> Price | None:
    """The entry's prices; `None` when it lists none or only zeros, which stand for "unknown" there."""
    fields = {
        "input_usd_per_mtok": "input_cost_per_token",
        "cached_read_usd_per_mtok": "cache_read_input_token_cost",
        "cache_write_usd_per_mtok": "cache_creation_input_token_cost",
        "cache_write_1h_usd_per_mtok": "cache_creation_input_token_cost_above_1hr",
        "output_usd_per_mtok": "output_cost_per_token",
        "reasoning_usd_per_mtok": "output_cost_per_reasoning_token",
    }
    found = {ours: exact_product(entry[theirs], 1_000_000) for ours, theirs in fields.items() if entry.get(theirs)}
    tiers = (re.search(r"_above_(\d+)k_tokens$", name) for name in entry)
    limits = [int(tier[1]) * 1000 for tier in tiers if tier]
    return Price(**found, up_to_input_tokens=min(limits, default=None)) if found else None


def _tokens(entry: Mapping[str, Any], name: str) -> int | None:
    value = entry.get(name)
    return value if isinstance(value, int) else None


# Clients of the parent process. They are kept, because closing one in a child takes the parent's sockets with it.
_parents_clients: list[Any] = []


def _forget_clients() -> None:
    """In a forked child: open connections of its own, because answers on a shared one go to either process."""
    litellm = _litellm()
    clients = litellm.in_memory_llm_clients_cache
    _parents_clients.append(clients)
    litellm.in_memory_llm_clients_cache = type(clients)()
