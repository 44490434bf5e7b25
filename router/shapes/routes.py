"""What the shapes need of a router."""

from __future__ import annotations

from typing import Literal, Protocol, Unpack, overload

from router.core.answer import Answer
from router.core.plan import Plan
from router.core.policy import Policy
from router.options import Options, Prompt
from router.stream import AnswerStream, AsyncAnswerStream


class Routes(Protocol):
    """A router, by the part of it that answers calls."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        ...

    def plan(self, task: str) -> Plan:
        """What a call of this task does."""
        ...

    @overload
    def route(
        self, task: str, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[Options]
    ) -> Answer: ...

    @overload
    def route(
        self, task: str, prompt: Prompt, *, stream: Literal[True], **options: Unpack[Options]
    ) -> AnswerStream: ...

    @overload
    async def aroute(
        self, task: str, prompt: Prompt, *, stream: Literal[False] = False, **options: Unpack[Options]
    ) -> Answer: ...

    @overload
    async def aroute(
        self, task: str, prompt: Prompt, *, stream: Literal[True], **options: Unpack[Options]
    ) -> AsyncAnswerStream: ...
