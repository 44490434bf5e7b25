"""`client.chat.completions` of the OpenAI SDK: its calls, and its own objects."""

from __future__ import annotations

import functools
from typing import Any

from router.core.answer import Answer
from router.errors import InvalidCall
from router.shapes import bodies
from router.shapes.arguments import Wanted, read
from router.shapes.bodies import Body, Chunks
from router.shapes.routes import Routes
from router.shapes.streams import AsyncChunkStream, ChunkStream


class Completions:
    """`client.chat.completions`."""

    def __init__(self, router: Routes) -> None:
        self._router = router

    def create(self, *, messages: Any, model: str, **arguments: Any) -> Any:
        """A `ChatCompletion`, or with `stream=True` a stream of `ChatCompletionChunk`; `model` is `task:NAME`."""
        wanted = read(self._router, model, messages, arguments)
        if not wanted.stream:
            return _completion(self._router.route(wanted.task, wanted.prompt, **wanted.options))
        stream = self._router.route(wanted.task, wanted.prompt, stream=True, **wanted.options)
        return ChunkStream(stream, _chunks(wanted, stream.route_id), _chunk)

    def parse(self, *, messages: Any, model: str, **arguments: Any) -> Any:
        """A `ParsedChatCompletion`: with `response_format=` a type, `choices[0].message.parsed` is its value."""
        wanted = read(self._router, model, messages, {**arguments, "stream": False})
        return _parsed(self._router.route(wanted.task, wanted.prompt, **wanted.options))


class AsyncCompletions:
    """`client.chat.completions` of an asynchronous client."""

    def __init__(self, router: Routes) -> None:
        self._router = router

    async def create(self, *, messages: Any, model: str, **arguments: Any) -> Any:
        """See `Completions.create`."""
        wanted = read(self._router, model, messages, arguments)
        if not wanted.stream:
            return _completion(await self._router.aroute(wanted.task, wanted.prompt, **wanted.options))
        stream = await self._router.aroute(wanted.task, wanted.prompt, stream=True, **wanted.options)
        return AsyncChunkStream(stream, _chunks(wanted, stream.route_id), _chunk)

    async def parse(self, *, messages: Any, model: str, **arguments: Any) -> Any:
        """See `Completions.parse`."""
        wanted = read(self._router, model, messages, {**arguments, "stream": False})
        return _parsed(await self._router.aroute(wanted.task, wanted.prompt, **wanted.options))


class Chat:
    """`client.chat`."""

    def __init__(self, router: Routes) -> None:
        self.completions = Completions(router)


class AsyncChat:
    """`client.chat` of an asynchronous client."""

    def __init__(self, router: Routes) -> None:
        self.completions = AsyncCompletions(router)


def client(router: Routes) -> Any:
    """An `openai.OpenAI` whose `chat` is a router's."""
    return _client("OpenAI")(Chat(router))


def async_client(router: Routes) -> Any:
    """An `openai.AsyncOpenAI` whose `chat` is a router's."""
    return _client("AsyncOpenAI")(AsyncChat(router))


@functools.cache
def _client(name: str) -> type[Any]:
    """A client of the SDK that sends nothing: its `chat` is ours, and everything else of it is refused."""
    import openai

    base: Any = getattr(openai, name)

    class Client(base):  # type: ignore[misc]
        def __init__(self, chat: Chat | AsyncChat) -> None:
            super().__init__(api_key="none", max_retries=0)
            self.__dict__["chat"] = chat  # Where the SDK keeps its own.

        def request(self, cast_to: Any, options: Any, **_: Any) -> Any:
            raise InvalidCall(
                f"{options.url}: a router's client has chat.completions.create and parse only; use a client of "
                "OpenAI's own, and router.meter(response) for the cost",
                argument="client",
            )

        def copy(self, **_: Any) -> Any:
            raise InvalidCall("with_options: a router's client has none; give them to the call", argument="client")

        with_options = copy

    Client.__name__ = Client.__qualname__ = name
    return Client


def _completion(answer: Answer) -> Any:
    return _made(_routed("ChatCompletion"), bodies.completion(answer), answer)


def _parsed(answer: Answer) -> Any:
    body = bodies.completion(answer)
    made = _made(_routed("ParsedChatCompletion"), body, answer)
    made.choices[0].message.parsed = answer.parsed
    return made


def _made(kind: Any, body: Body, answer: Answer) -> Any:
    made = kind.construct(**body)  # As the SDK itself does; it validates nothing, and need not.
    made._router = answer
    return made


def _chunk(body: Body) -> Any:
    from openai.types.chat import ChatCompletionChunk

    return ChatCompletionChunk.construct(**body)


def _chunks(wanted: Wanted, route_id: str) -> Chunks:
    return Chunks(route_id, f"task:{wanted.task}", include_usage=wanted.include_usage)


@functools.cache
def _routed(name: str) -> type[Any]:
    """One of the SDK's types with a place for the answer that is no field of it, so that no dump has it."""
    from openai.types import chat

    base: Any = getattr(chat, name)

    class Routed(base):  # type: ignore[misc]
        _router: Any = None

        @property
        def router(self) -> Answer:
            """The answer, with confidence, reasons and the cost of every request."""
            answer: Answer = self._router
            return answer

    # Where pickle looks for it, and what people see.
    Routed.__name__ = Routed.__qualname__ = name
    return Routed


def __getattr__(name: str) -> Any:
    if name in ("ChatCompletion", "ParsedChatCompletion"):
        return _routed(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
