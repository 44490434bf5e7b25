"""What litellm streams, as parts and as one outcome at the end.

litellm makes up a finish reason where the connection simply ends, and counts tokens itself where the provider sent
no usage; here both are noticed: a stream without the provider's own finish reason was cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from router.core.call import Chunk, Failure, Outcome, Reply, ToolCall
from router.core.faults import Fault
from router.models.litellm_library import library
from router.models.litellm_replies import (
    extras_of,
    field_of,
    finish_reason,
    read_tokens,
    read_usage,
    reported_cost_nusd,
    served_tier,
    tokens_of,
)


@dataclass(slots=True)
class _Call:
    """A tool call as far as it has come."""

    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Gathered:
    """The parts of one live answer, put together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thought = False
        self._calls: list[_Call] = []
        self._places: dict[int, int] = {}
        self._tokens: list[Any] = []
        self._served: str | None = None

    def spare(self, wrapper: Any) -> None:
        """Let a model say the same part a hundred times, in a table or a rule: litellm ends such a stream."""
        wrapper.raise_on_model_repetition = lambda: None

    def add(self, part: Any) -> Chunk | None:
        """Take a chunk of litellm's; `None` where it says nothing."""
        self._served = self._served or field_of(part, "model")
        if not part.choices:
            return None
        choice = part.choices[0]
        delta = field_of(choice, "delta")
        text, reasoning = field_of(delta, "content") or "", field_of(delta, "reasoning_content") or ""
        calls = tuple(self._call(call) for call in field_of(delta, "tool_calls") or ())
        self._text.append(text)
        self._thought = self._thought or bool(reasoning or field_of(delta, "thinking_blocks"))
        self._tokens += tokens_of(choice)
        if not (text or reasoning or calls):
            return None
        return Chunk(text, reasoning, calls, part)

    def _call(self, part: Any) -> dict[str, Any]:
        """A part of a tool call; only the first has its id, and one has its name, which some providers repeat."""
        place = self._places.get(part.index)
        begins = place is None or (part.id and self._calls[place].id not in ("", part.id))
        if begins:  # Some providers give each call the index 0, and others do not begin with 0.
            place = self._places[part.index] = len(self._calls)
            self._calls.append(_Call(part.id or ""))
        assert place is not None
        call, name, arguments = self._calls[place], part.function.name or "", part.function.arguments or ""
        told = {"name": name, "arguments": arguments} if name and not call.name else {"arguments": arguments}
        call.name = call.name or name
        call.arguments.append(arguments)
        first = {"id": part.id, "type": "function"} if begins else {}
        return {"index": place, **first, "function": told}

    def outcome(self, wrapper: Any) -> Outcome:
        """How the stream ended; `wrapper` is litellm's own, which has what the provider really sent."""
        finished = wrapper.received_finish_reason or wrapper.intermittent_finish_reason
        reported = next(filter(None, (field_of(part, "usage") for part in reversed(wrapper.chunks))), None)
        usage = read_usage(reported)
        text = "".join(self._text)
        calls = tuple(ToolCall(call.id, call.name, "".join(call.arguments)) for call in self._calls)
        cost = reported_cost_nusd(reported)
        finish = finish_reason(finished)
        if finished is None:
            problem = Fault.CONNECTION, "the stream broke off"
        elif finish == "content_filter":
            problem = Fault.CONTENT_FILTER, "the reply was filtered"
        elif not text and not calls and finish != "length":
            problem = Fault.EMPTY, "the reply has no content"
        else:
            problem = None
        if problem:
            fault, detail = problem
            return Failure(
                fault, usage=usage, detail=detail, model_served=self._served, reported_cost_nusd=cost, arrived=True
            )
        if usage is not None and usage.all_output_tokens == 0:
            usage = None  # An answer without output tokens: half of the usage is missing.
        return Reply(
            text=text,
            usage=usage,
            finish_reason=finish,
            model_served=self._served,
            **read_tokens(self._tokens),
            reported_cost_nusd=cost,
            service_tier=served_tier(reported, *reversed(wrapper.chunks)),
            tool_calls=calls,
            extras=self._extras(wrapper) if calls and self._thought else {},
        )

    def _extras(self, wrapper: Any) -> dict[str, Any]:
        """Thinking in the form in which the vendor wants it back, its signature included."""
        return extras_of(library().stream_chunk_builder(wrapper.chunks).choices[0].message)
