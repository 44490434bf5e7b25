"""Live answers as the chunks of another library: iterators and context managers, as its users know them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

from router.core.answer import Answer
from router.shapes.bodies import Body, Chunks
from router.stream import AnswerStream, AsyncAnswerStream

Make = Callable[[Body], Any]


class ChunkStream:
    """The chunks of one answer; `stream.router` is the answer itself, once the stream has been read to its end."""

    def __init__(self, stream: AnswerStream, chunks: Chunks, make: Make) -> None:
        self._stream = stream
        self._parts = _made(stream, chunks, make)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._parts)

    @property
    def router(self) -> Answer:
        """The whole answer, once the stream has been read to its end."""
        return self._stream.answer

    def close(self) -> None:
        """End the request where it is; what came is on record with about what it cost."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChunkStream:
    """The chunks of one answer, for `async for`; otherwise like `ChunkStream`."""

    def __init__(self, stream: AsyncAnswerStream, chunks: Chunks, make: Make) -> None:
        self._stream = stream
        self._parts = _amade(stream, chunks, make)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._parts)

    @property
    def router(self) -> Answer:
        """The whole answer, once the stream has been read to its end."""
        return self._stream.answer

    async def close(self) -> None:
        """End the request where it is; what came is on record with about what it cost."""
        await self._stream.aclose()

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


# No methods: a generator that holds its own stream would keep one that is dropped from ending its request.
def _made(stream: AnswerStream, chunks: Chunks, make: Make) -> Iterator[Any]:
    for part in stream:
        yield make(chunks.part(part))
    for body in chunks.ending(stream.answer):
        yield make(body)


async def _amade(stream: AsyncAnswerStream, chunks: Chunks, make: Make) -> AsyncIterator[Any]:
    async for part in stream:
        yield make(chunks.part(part))
    for body in chunks.ending(stream.answer):
        yield make(body)
