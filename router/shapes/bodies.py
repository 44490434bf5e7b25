"""Answers as the JSON bodies of chat completions, whole or in chunks, to make each library's objects from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from router.core.answer import Answer
from router.core.call import Chunk, Usage

Body = dict[str, Any]

# What chat completions know of why a model stopped.
_FINISH = frozenset(["stop", "length", "tool_calls", "content_filter"])


def completion(answer: Answer) -> Body:
    """A whole answer."""
    choice = {
        "index": 0,
        "finish_reason": _finish(answer),
        "message": answer.message,
        "logprobs": _logprobs(answer),
    }
    body = {
        "id": answer.route_id,
        "object": "chat.completion",
        "created": created_s(answer.route_id),
        "model": answer.model,
        "choices": [choice],
    }
    return body if answer.usage is None else {**body, "usage": usage(answer.usage)}


class Chunks:
    """The bodies of one stream's chunks: role, parts, why it ended, and the usage where that was asked for."""

    def __init__(self, route_id: str, model: str, *, include_usage: bool) -> None:
        self._envelope: Body = {
            "id": route_id,
            "object": "chat.completion.chunk",
            "created": created_s(route_id),
            "model": model,
        }
        self._include_usage = include_usage
        self._opened = False

    def part(self, chunk: Chunk) -> Body:
        """A part of the answer; the first one has the role."""
        delta: Body = {} if self._opened else {"role": "assistant"}
        self._opened = True
        if chunk.text or not (chunk.tool_calls or chunk.reasoning):
            delta["content"] = chunk.text
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.tool_calls:
            delta["tool_calls"] = [dict(call) for call in chunk.tool_calls]
        return self._chunk(delta)

    def ending(self, answer: Answer) -> Iterator[Body]:
        """What follows the last part."""
        yield self._chunk({}, _finish(answer))
        if self._include_usage:
            told = {} if answer.usage is None else {"usage": usage(answer.usage)}
            yield {**self._envelope, "choices": [], **told}

    def _chunk(self, delta: Body, finish_reason: str | None = None) -> Body:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self._envelope, "choices": [choice]}


def usage(used: Usage) -> Body:
    """Tokens as chat completions count them: cached and reasoning tokens are part of the totals."""
    inputs = {"cached_tokens": used.cached_read_tokens}
    written = used.cache_write_tokens + used.cache_write_1h_tokens
    if written:  # OpenAI's name for it, and litellm's.
        inputs |= {"cache_write_tokens": written, "cache_creation_tokens": written}
    return {
        "prompt_tokens": used.all_input_tokens,
        "completion_tokens": used.all_output_tokens,
        "total_tokens": used.total_tokens,
        "prompt_tokens_details": inputs,
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }


def created_s(route_id: str) -> int:
    """When a call began, in seconds since 1970: its id begins with the milliseconds."""
    return int(route_id[:12], 16) // 1000


def _finish(answer: Answer) -> str:
    return answer.finish_reason if answer.finish_reason in _FINISH else "stop"


def _logprobs(answer: Answer) -> Any:
    """The log-probabilities of the backend's own object, where they were asked for."""
    choices = getattr(answer.response, "choices", None)
    found: Any = getattr(choices[0], "logprobs", None) if choices else None
    return found.model_dump() if hasattr(found, "model_dump") else found
