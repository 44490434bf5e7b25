"""litellm, imported once and tamed: no network at import, no advice on standard output, every request sent once."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from contextlib import suppress
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

# Set before litellm is imported, unless the operator has set them: without these it fetches its price map from the
# network and loads the nearest `.env` file while being imported.
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}


@functools.cache
def library() -> Any:
    """The module itself."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Building these warns. Where warnings are errors litellm would build them in a call, and every call would fail.
    with warnings.catch_warnings(action="ignore"):
        import litellm

        with suppress(ImportError):  # Not in every release.
            importlib.import_module("litellm.llms.github_copilot.per_user_auth")
        litellm.Message()
        litellm.types.utils.Delta()
    # Each part of a stream warns of what pydantic will no longer have, and would end a stream that is paid for.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"litellm\.")
    # Otherwise litellm prints advice to standard output on every error.
    litellm.suppress_debug_info = True
    # Counting tokens would otherwise download a tokenizer for some model names.
    litellm.disable_hf_tokenizer_download = True
    _send_once()
    _keep_the_mark_of_the_end()
    os.register_at_fork(after_in_child=_forget_clients)
    return litellm


@functools.cache
def without_mcp() -> dict[str, Any]:
    """What a call with tools needs: litellm looks for its proxy's tools with a package that it does not require."""
    return {"_skip_mcp_handler": True} if find_spec("mcp") is None else {}


# True while this module is inside litellm, so that the rest of the process keeps litellm as it is.
_ours: ContextVar[bool] = ContextVar("router_is_sending", default=False)

_CALLBACKS = (
    "callbacks",
    "success_callback",
    "failure_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


class as_ours:  # noqa: N801 - reads as a verb where it is used
    """Marks a stay inside litellm, and spares it the bookkeeping for callbacks when there are none.

    That bookkeeping costs a tenth of a call, in a thread or task that outlives it.
    """

    __slots__ = ("_internal", "_ours", "_quiet")

    def __init__(self, litellm: Any) -> None:
        self._quiet = _internal_call()
        if self._quiet is not None and any(map(vars(litellm).get, _CALLBACKS)):
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


def resender(handler: Any) -> Any:
    """The method with which litellm's async HTTP client sends again, or `None` in a release that names it anew.

    Nothing breaks without it: releases after 1.106 only send again what could not connect, which nobody bills.
    """
    names = ("single_connection_request", "single_connection_post_request")
    return next((getattr(handler, name) for name in names if hasattr(handler, name)), None)


def _send_once() -> None:
    """Keep litellm's async HTTP client from sending a request again when its connection breaks.

    It does so below `max_retries`, for every provider that does not use the OpenAI SDK. Both requests may be
    billed and only one would be on record; our own retry sees the failure instead.
    """
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    resend = resender(AsyncHTTPHandler)
    if resend is None:
        return

    async def once(handler: Any, *args: Any, **kwargs: Any) -> Any:
        broken = sys.exception()
        if _ours.get() and broken is not None:
            raise broken
        return await resend(handler, *args, **kwargs)

    setattr(AsyncHTTPHandler, resend.__name__, once)


def _keep_the_mark_of_the_end() -> None:
    """Keep litellm from dropping a part of a stream whose text has `[DONE]` in it, as the end of a stream does."""
    from litellm.llms.base_llm.base_model_iterator import BaseModelResponseIterator

    handle = BaseModelResponseIterator._handle_string_chunk

    def handled(iterator: Any, str_line: str) -> Any:
        part = iterator._string_to_dict_parser(str_line) if _ours.get() and "[DONE]" in str_line else None
        return iterator.chunk_parser(chunk=part) if part else handle(iterator, str_line)

    setattr(BaseModelResponseIterator, handle.__name__, handled)


# Clients of the parent process. They are kept, because closing one in a child takes the parent's sockets with it.
_parents_clients: list[Any] = []


def _forget_clients() -> None:
    """In a forked child: open connections of its own, because answers on a shared one go to either process."""
    litellm = library()
    clients = litellm.in_memory_llm_clients_cache
    _parents_clients.append(clients)
    litellm.in_memory_llm_clients_cache = type(clients)()
