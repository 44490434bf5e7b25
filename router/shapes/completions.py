"""`completion` and `acompletion`: chat completions with the arguments and the objects of litellm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.core.answer import Answer
from router.models import litellm_objects as objects
from router.shapes import bodies
from router.shapes.arguments import Wanted, read
from router.shapes.bodies import Chunks
from router.shapes.routes import Routes
from router.shapes.streams import AsyncChunkStream, ChunkStream


def completion(router: Routes, model: str, messages: Any, arguments: Mapping[str, Any]) -> Any:
    """A `ModelResponse`, or with `stream=True` an iterator of `ModelResponseStream`."""
    wanted = read(router, model, messages, arguments)
    if not wanted.stream:
        return _response(router.route(wanted.task, wanted.prompt, **wanted.options))
    stream = router.route(wanted.task, wanted.prompt, stream=True, **wanted.options)
    return ChunkStream(stream, _chunks(wanted, stream.route_id), objects.chunk)


async def acompletion(router: Routes, model: str, messages: Any, arguments: Mapping[str, Any]) -> Any:
    """The same without blocking."""
    wanted = read(router, model, messages, arguments)
    if not wanted.stream:
        return _response(await router.aroute(wanted.task, wanted.prompt, **wanted.options))
    stream = await router.aroute(wanted.task, wanted.prompt, stream=True, **wanted.options)
    return AsyncChunkStream(stream, _chunks(wanted, stream.route_id), objects.chunk)


def _response(answer: Answer) -> Any:
    return objects.response(bodies.completion(answer), answer)


def _chunks(wanted: Wanted, route_id: str) -> Chunks:
    return Chunks(route_id, f"task:{wanted.task}", include_usage=wanted.include_usage)
