"""The router that the functions of the package share: `router.route(...)` without a `Router` of one's own."""

from __future__ import annotations

import os
import threading
from typing import Any, Literal, Unpack, overload

from router.api import Router
from router.core.answer import Answer
from router.options import Options, Prompt
from router.shapes.meter import Metered
from router.shapes.routed import Decorator
from router.stream import AnswerStream, AsyncAnswerStream

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


@overload
def route(task: str, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[Options]) -> Answer: ...


@overload
def route(task: str, prompt: Prompt, *, stream: Literal[True], **options: Unpack[Options]) -> AnswerStream: ...


def route(task: str, prompt: Prompt, *, stream: bool = False, **options: Unpack[Options]) -> Answer | AnswerStream:
    """See `Router.route`."""
    router = default_router()
    return router.route(task, prompt, stream=True, **options) if stream else router.route(task, prompt, **options)


@overload
async def aroute(
    task: str, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[Options]
) -> Answer: ...


@overload
async def aroute(
    task: str, prompt: Prompt, *, stream: Literal[True], **options: Unpack[Options]
) -> AsyncAnswerStream: ...


async def aroute(
    task: str, prompt: Prompt, *, stream: bool = False, **options: Unpack[Options]
) -> Answer | AsyncAnswerStream:
    """See `Router.route`."""
    router = default_router()
    if stream:
        return await router.aroute(task, prompt, stream=True, **options)
    return await router.aroute(task, prompt, **options)


route.__doc__ = aroute.__doc__ = Router.route.__doc__


def completion(model: str, messages: Any = None, **arguments: Any) -> Any:
    """`litellm.completion` with `model="task:NAME"`: its arguments, its objects; `response.router` is the answer."""
    return default_router().completion(model, messages, **arguments)


async def acompletion(model: str, messages: Any = None, **arguments: Any) -> Any:
    """See `Router.completion`."""
    return await default_router().acompletion(model, messages, **arguments)


def meter(response: Any, *, model: str | None = None, **options: Unpack[Metered]) -> float | None:
    """See `Router.meter`."""
    return default_router().meter(response, model=model, **options)


def routed(task: str, **options: Unpack[Options]) -> Decorator:
    """Make a function that builds a prompt give the answer to it.

    The function returns text, messages, or a mapping of `prompt` and options of `route`. Its own arguments stay as
    they are; further options go to `with_options`: `ask.with_options(user="ann")("Where is it?")`.
    """
    return Decorator(default_router, task, options)
