"""Answers in parts: iterate the stream, then read its `answer`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Self

from router.core.answer import Answer
from router.core.call import Chunk
from router.errors import InvalidCall

_UNREAD = "answer: the stream has not been read to its end; iterate it first"


class _Ending:
    """What both kinds of stream have when they have been read."""

    _answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer with its confidence, reasons and cost, once the stream has been read to its end.

        Raises
        ------
        InvalidCall
            The stream has not ended yet.
        """
        if self._answer is None:
            raise InvalidCall(_UNREAD, argument="answer")
        return self._answer


class AnswerStream(_Ending):
    """The parts of one answer as they come; `str(chunk)` is a part's text.

    A context manager: leaving it, `close`, or dropping the stream ends the request and settles its row.
    """

    def __init__(self, parts: Generator[Chunk | Answer, None, None], route_id: str = "") -> None:
        self._parts = parts
        self.route_id = route_id
        # Drafts are judged, and what is wrong is raised, here and not in the caller's loop.
        self._first: Chunk | Answer | None = next(parts)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        part = self._first if self._first is not None else next(self._parts)
        self._first = None
        if isinstance(part, Answer):
            self._answer = part
            self._parts.close()
            raise StopIteration
        return part

    def close(self) -> None:
        """End the request where it is; what came is on record with about what it cost."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncAnswerStream(_Ending):
    """The parts of one answer as they come, for `async for`; otherwise like `AnswerStream`."""

    def __init__(self, parts: AsyncGenerator[Chunk | Answer, None], first: Chunk | Answer, route_id: str = "") -> None:
        self._parts = parts
        self.route_id = route_id
        self._first: Chunk | Answer | None = first

    @classmethod
    async def begun(cls, parts: AsyncGenerator[Chunk | Answer, None], route_id: str = "") -> Self:
        """A stream whose first part has come."""
        return cls(parts, await anext(parts), route_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        part = self._first if self._first is not None else await anext(self._parts)
        self._first = None
        if isinstance(part, Answer):
            self._answer = part
            await self._parts.aclose()
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """End the request where it is; what came is on record with about what it cost."""
        await self._parts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()
