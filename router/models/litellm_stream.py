"""What litellm streams, as parts and as one outcome at the end.

litellm makes up a finish reason where the connection simply ends, and counts tokens itself where the provider sent
no usage; here both are noticed: a stream without the provider's own finish reason was cut.
"""

from __future__ import annotations

from typing import Any

from router.core.call import Chunk, Failure, Outcome, Reply, ToolCall
from router.core.faults import Fault
from router.models.litellm_library import library
from router.models.litellm_replies import (
    extras_of,
    finish_reason,
    read_logprobs,
    read_usage,
    reported_cost_nusd,
    served_tier,
)


class Gathered:
    """The parts of one live answer, put together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thought = False
        self._calls: dict[int, list[str]] = {}
        self._logprobs: list[float] = []
        self._served: str | None = None

    def add(self, part: Any) -> Chunk | None:
        """Take a chunk of litellm's; `None` where it says nothing."""
        self._served = self._served or getattr(part, "model", None)
        if not part.choices:
            return None
        choice = part.choices[0]
        delta = choice.delta
        text, reasoning = delta.content or "", getattr(delta, "reasoning_content", None) or ""
        calls = tuple(self._call(call) for call in getattr(delta, "tool_calls", None) or ())
        self._text.append(text)
        self._thought = self._thought or bool(reasoning or getattr(delta, "thinking_blocks", None))
        self._logprobs += read_logprobs(choice) or ()
        if not (text or reasoning or calls):
            return None
        return Chunk(text, reasoning, calls, part)

    def _call(self, call: Any) -> dict[str, Any]:
        function = call.function
        known = self._calls.setdefault(call.index, ["", "", ""])
        known[0] = known[0] or call.id or ""
        known[1] = known[1] or function.name or ""
        known[2] += function.arguments or ""
        part = {"index": call.index, "function": {"arguments": function.arguments or ""}}
        if call.id or function.name:
            part = {"index": call.index, "id": call.id, "type": "function"}
            part["function"] = {"name": function.name, "arguments": function.arguments or ""}
        return part

    def outcome(self, wrapper: Any) -> Outcome:
        """How the stream ended; `wrapper` is litellm's own, which has what the provider really sent."""
        finished = wrapper.received_finish_reason or wrapper.intermittent_finish_reason
        reported = next((part.usage for part in reversed(wrapper.chunks) if getattr(part, "usage", None)), None)
        usage = read_usage(reported)
        text = "".join(self._text)
        calls = tuple(ToolCall(*self._calls[index]) for index in sorted(self._calls))
        if finished is None:
            return Failure(Fault.CONNECTION, usage=usage, detail="the stream broke off", model_served=self._served)
        finish = finish_reason(finished)
        if finish == "content_filter":
            return Failure(
                Fault.CONTENT_FILTER, usage=usage, detail="the reply was filtered", model_served=self._served
            )
        if not text and not calls and finish != "length":
            return Failure(Fault.EMPTY, usage=usage, detail="the reply has no content", model_served=self._served)
        if usage is not None and usage.all_output_tokens == 0:
            usage = None  # An answer without output tokens: half of the usage is missing.
        return Reply(
            text=text,
            usage=usage,
            finish_reason=finish,
            model_served=self._served,
            logprobs=tuple(self._logprobs) or None,
            reported_cost_nusd=reported_cost_nusd(reported),
            service_tier=served_tier(reported, *reversed(wrapper.chunks)),
            tool_calls=calls,
            extras=self._extras(wrapper) if calls and self._thought else {},
        )

    def _extras(self, wrapper: Any) -> dict[str, Any]:
        """Thinking in the form in which the vendor wants it back, its signature included."""
        return extras_of(library().stream_chunk_builder(wrapper.chunks).choices[0].message)
