"""Arguments of a call: which ones a caller may set, which have a place of their own, and what is wrong with one."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from router.core.call import is_json
from router.errors import InvalidCall, shown

# What `route(params=...)` takes. Nothing here changes who is asked, how often, or who pays.
CALL_PARAMS = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
        "verbosity",
    }
)

# Parameters that a policy may not smuggle in, and what to use instead.
RESERVED_PARAMS: dict[str, str] = {
    "api_base": "use `api_base:` of the model",
    "api_key": "a key has no place in a file; use `api_key_env:` of the model",
    "extra_headers": "use `headers:` of the model",
    "extra_body": "what it sends cannot be bounded; name the parameter itself",
    "fallbacks": "the ladder is the fallback",
    "functions": "tools are the caller's: `route(tools=...)`",
    "headers": "use `headers:` of the model",
    "input_cost_per_token": "use `price:` of the model",
    "max_completion_tokens": "use `max_output_tokens:` of the task",
    "max_retries": "use `retry:` of the task",
    "max_tokens": "use `max_output_tokens:` of the task",
    "messages": "they are the caller's",
    "mock_response": "use router.testing.ScriptedModels",
    "model": "use `litellm:` of the model",
    "n": "one answer is one decision",
    "num_retries": "use `retry:` of the task",
    "output_cost_per_token": "use `price:` of the model",
    "retry_policy": "use `retry:` of the task",
    "stream": "it is the caller's to choose: `route(stream=True)`",
    "stream_options": "usage is always asked for",
    "tool_choice": "tools are the caller's: `route(tools=...)`",
    "tools": "tools are the caller's: `route(tools=...)`",
    "timeout": "use `deadline_s:` of the task",
}

# No model can say more, and a larger number is a slip.
_MOST_TOKENS = 10**9
# Of a call's own metadata: enough for a few keys, too little for a prompt.
_MAX_METADATA_CHARS = 2000
# Of a message that lists names: the longest that a name can be, and as many as a person reads.
_LONGEST_NAME = 100
_MOST_NAMES = 20


def positive(name: str, value: float | None) -> float | None:
    """A limit that a caller gave, which must be a finite number above 0."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise InvalidCall(f"{name}: is {shown(value)}; give a number above 0", argument=name)
    return value


def checked_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """A call's own parameters, with its output limit apart."""
    if not isinstance(params, Mapping):
        raise InvalidCall(f"params: is a {type(params).__name__}; give a mapping", argument="params")
    if not params:
        return {}, None
    rest = dict(params)
    for name in rest.keys() - CALL_PARAMS:
        raise InvalidCall(
            f"params: {shown(name)} cannot be set per call; {suggestion(str(name), CALL_PARAMS)}", argument="params"
        )
    if not is_json(rest):
        raise InvalidCall("params: holds something that is no JSON; give plain values", argument="params")
    limits = [rest.pop(name) for name in ("max_tokens", "max_completion_tokens") if name in rest]
    for limit in limits:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MOST_TOKENS:
            raise InvalidCall(f"params: max_tokens is {shown(limit)}; give a whole number above 0", argument="params")
    return rest, min(limits, default=None)


def checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A caller's own values for the ledger: plain and small."""
    if not _mapping("metadata", metadata):
        return None
    assert metadata is not None
    try:
        size = len(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidCall(
            "metadata: holds something that is no JSON; give plain values", argument="metadata"
        ) from error
    if size > _MAX_METADATA_CHARS:
        raise InvalidCall(
            f"metadata: has {size} characters of JSON; give at most {_MAX_METADATA_CHARS}", argument="metadata"
        )
    return dict(metadata)


# Headers that decide who is asked and who pays.
_OWNED_HEADERS = frozenset(
    [
        "api-key",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "ocp-apim-subscription-key",
        "openai-organization",
        "openai-project",
        "proxy-authorization",
        "transfer-encoding",
        "x-api-key",
        "x-goog-api-key",
    ]
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """A call's own HTTP headers: ASCII on one line, and none that carries a key."""
    for name, value in _mapping("extra_headers", headers).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name) or not _is_plain(value):
            raise InvalidCall(
                f"extra_headers: {name!r} is no header; give a name and a text in ASCII, on one line",
                argument="extra_headers",
            )
        if name.lower() in _OWNED_HEADERS:
            raise InvalidCall(
                f"extra_headers: {name!r} has a place of its own; use credentials=", argument="extra_headers"
            )
    return dict(headers or {})


def checked_keys(credentials: Mapping[str, str] | None, known: Iterable[str]) -> dict[str, str]:
    """A caller's own keys by model or provider; `known` are the names that the task's ladder has."""
    names = sorted(known) if credentials else []
    for name, key in _mapping("credentials", credentials).items():
        if name not in names:
            # Without the name: where somebody has swapped name and key, it is the key.
            raise InvalidCall(
                f"credentials: names something that is on no rung; {suggestion(str(name), names)}",
                argument="credentials",
            )
        if not _is_plain(key) or not key.strip():
            raise InvalidCall(
                f"credentials: the key for {name!r} is empty, or more than ASCII on one line", argument="credentials"
            )
    return dict(credentials or {})


def _mapping(argument: str, given: Any) -> Mapping[Any, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidCall(f"{argument}: is a {type(given).__name__}; give a mapping", argument=argument)
    return given or {}


def _is_plain(text: Any) -> bool:
    """Whether this is text that fits a line of HTTP."""
    return isinstance(text, str) and text.isascii() and text.isprintable()


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:_LONGEST_NAME], names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"there is {', '.join(map(repr, names[:_MOST_NAMES])) or 'none'}{more}"
