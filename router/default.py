"""The router that the functions of the package share: `router.route(...)` without a `Router` of one's own."""

from __future__ import annotations

import os
import threading
from typing import Literal, Unpack, overload

from router.api import Router
from router.core.answer import Answer
from router.options import Options, Prompt
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
