"""OpenAI's shape of a chat: what it accepts, what it answers, whole or as a stream."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.upstream_reply import LOGPROBS, Answer, Asked, Call, Fault, Invalid, Piece, Tokens, require, text_of

CALL_ID = "call_"
MESSAGE_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "function_call"}
ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
PARTS = {"text", "image_url", "input_audio", "file", "refusal"}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ID_MAX_CHARS = 40

# The code and the message of a refusal, where clients look at more than its status.
REASONS = {
    Fault.CONTEXT_TOO_LONG: (
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in"
        " 9001 tokens. Please reduce the length of the messages.",
    ),
    Fault.CONTENT_FILTER: (
        "content_policy_violation",
        "Your request was rejected as a result of our safety system.",
    ),
}


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """Say what is asked for, or refuse what OpenAI would refuse."""
    model, messages = body.get("model"), body.get("messages")
    require(isinstance(model, str), "Missing required parameter: 'model'.")
    require(isinstance(messages, list) and messages, "Invalid 'messages': expected an array of at least one message.")
    assert isinstance(model, str)
    assert isinstance(messages, list)
    check_messages(model, messages)
    check_options(body)
    tools = body.get("tools")
    choice = body.get("tool_choice", "auto")
    names = check_tools(tools, choice) if tools is not None or "tool_choice" in body else []
    forced = choice["function"]["name"] if isinstance(choice, dict) else names[0] if choice == "required" else None
    return Asked(
        model=model,
        texts=[text_of(message) for message in messages],
        max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
        tools=[] if choice == "none" else names,
        forced=forced,
        response_format=check_format(body.get("response_format")),
        streamed=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def check_options(body: Mapping[str, Any]) -> None:
    """Refuse options that contradict one another."""
    limits = [body[key] for key in ("max_tokens", "max_completion_tokens") if body.get(key) is not None]
    require(len(limits) < 2, "'max_tokens' and 'max_completion_tokens' cannot both be set.")
    require(all(limit >= 1 for limit in limits), "Invalid 'max_tokens': expected a value of at least 1.")
    streamed = bool(body.get("stream"))
    require(streamed or not body.get("stream_options"), "'stream_options' is only allowed when 'stream' is true.")


def check_messages(model: str, messages: Sequence[Any]) -> None:
    """Refuse messages of a wrong form, and calls that are not answered one for one by tools."""
    waiting: list[str] = []
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        require(isinstance(message, dict), f"Invalid type for '{at}': expected an object.")
        role = message.get("role")
        require(role in ROLES, f"Invalid value for '{at}.role': {role!r}.")
        for key in message.keys() - MESSAGE_KEYS:
            raise Invalid(f"Additional properties are not allowed ({key!r} was unexpected) - '{at}'")
        check_content(model, message, at)
        if role == "tool":
            answered = message.get("tool_call_id")
            require(answered in waiting, f"'{at}' of role 'tool' must answer a preceding message with 'tool_calls'.")
            waiting.remove(answered)
            continue
        require(not waiting, unanswered(waiting))
        require(role == "assistant" or "tool_calls" not in message, f"'{at}.tool_calls' is not allowed here.")
        waiting = check_calls(message, at)
    require(not waiting, unanswered(waiting))


def unanswered(ids: Sequence[str]) -> str:
    """Say which calls lack the message of a tool."""
    return (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'."
        f" No response for: {', '.join(ids)}"
    )


def check_content(model: str, message: Mapping[str, Any], at: str) -> None:
    """Refuse content that is not text or parts, and images for a model that cannot see."""
    content = message.get("content")
    if content is None:
        require(message["role"] == "assistant", f"Invalid value for '{at}.content': expected a string, got null.")
        return
    if isinstance(content, str):
        return
    require(isinstance(content, list) and content, f"Invalid type for '{at}.content'.")
    for part in content:
        kind = part.get("type")
        require(kind in PARTS, f"Invalid value for '{at}.content': {kind!r} is not a type of content.")
        require(kind != "text" or isinstance(part.get("text"), str), f"Missing 'text' in '{at}.content'.")
        if kind == "image_url":
            require(isinstance((part.get("image_url") or {}).get("url"), str), f"Missing 'url' in '{at}.content'.")
            blind = model.rpartition("/")[2].startswith("textonly")
            require(not blind, "Invalid content type: 'image_url' is not supported by this model.")


def check_calls(message: Mapping[str, Any], at: str) -> list[str]:
    """Refuse calls of a wrong form, and return their ids."""
    if "tool_calls" not in message:
        return []
    made = message["tool_calls"]
    require(isinstance(made, list) and made, f"Invalid '{at}.tool_calls': expected at least one call.")
    for number, call in enumerate(made):
        where = f"{at}.tool_calls[{number}]"
        call_id, function = call.get("id"), call.get("function") or {}
        require(isinstance(call_id, str), f"Missing required parameter: '{where}.id'.")
        too_long = f"Invalid '{where}.id': expected at most {ID_MAX_CHARS} characters, got {len(call_id)}."
        require(len(call_id) <= ID_MAX_CHARS, too_long)
        require(call.get("type") == "function", f"Invalid value for '{where}.type': {call.get('type')!r}.")
        require(NAME.fullmatch(function.get("name") or ""), f"Invalid '{where}.function.name'.")
        require(isinstance(function.get("arguments"), str), f"Invalid '{where}.function.arguments': not a string.")
    return [call["id"] for call in made]


def check_tools(tools: object, choice: object) -> list[str]:
    """Refuse tools of a wrong form, and return their names."""
    require(tools, "'tool_choice' and 'tools' go together, and 'tools' has at least one.")
    require(isinstance(tools, list), "Invalid type for 'tools': expected an array.")
    assert isinstance(tools, list)
    names = []
    for number, tool in enumerate(tools):
        at = f"tools[{number}]"
        require(tool.get("type") == "function", f"Invalid value for '{at}.type': {tool.get('type')!r}.")
        function = tool.get("function") or {}
        name, parameters = function.get("name") or "", function.get("parameters", {"type": "object"})
        require(NAME.fullmatch(name), f"Invalid '{at}.function.name': {name!r} does not match {NAME.pattern}.")
        is_object = isinstance(parameters, dict) and parameters.get("type") == "object"
        require(is_object, f"Invalid schema for function {name!r}: it must be of type 'object'.")
        names.append(name)
    if isinstance(choice, dict):
        chosen = (choice.get("function") or {}).get("name")
        require(chosen in names, f"Tool choice {chosen!r} not found in 'tools' parameter.")
    else:
        require(choice in {"auto", "none", "required"}, f"Invalid value for 'tool_choice': {choice!r}.")
    return names


def check_format(wanted: Mapping[str, Any] | None) -> str | None:
    """Refuse a format of a wrong form, and return its type."""
    if wanted is None:
        return None
    kind = wanted.get("type")
    require(kind in {"text", "json_object", "json_schema"}, f"Invalid value for 'response_format.type': {kind!r}.")
    if kind == "json_schema":
        schema = wanted.get("json_schema") or {}
        require(NAME.fullmatch(schema.get("name") or ""), "Missing or invalid 'response_format.json_schema.name'.")
        require(isinstance(schema.get("schema"), dict), "Missing or invalid 'response_format.json_schema.schema'.")
        top = f"Invalid schema for response_format: schema must be a JSON Schema of 'type: \"object\"', got {schema!r}"
        require(schema["schema"].get("type") == "object", top)
    return str(kind)


def refusal(fault: Fault, message: str | None = None) -> dict[str, Any]:
    """Build the body of an error."""
    code, reason = REASONS.get(fault, (None, fault.replace("_", " ")))
    # An error that comes after a 200 is the server's.
    kind = "invalid_request_error" if 400 <= fault.status < 500 else "server_error"
    return {"error": {"message": message or reason, "type": kind, "param": None, "code": code}}


def whole(answer: Answer) -> dict[str, Any]:
    """Build the body of a 200, with the flaw that the fault asks for."""
    fault, reply = answer.fault, answer.reply
    silent = fault is Fault.NULL_CONTENT or (reply.calls and not reply.text)
    message: dict[str, Any] = {"role": "assistant", "content": None if silent else reply.text}
    if reply.calls:
        message["tool_calls"] = [named(call, arguments) for call, arguments in reply.calls.items()]
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": reply.finish,
        "logprobs": scores() if fault is Fault.LOGPROBS else None,
    }
    body = envelope("chatcmpl", "chat.completion", answer)
    body["choices"] = [] if fault is Fault.EMPTY_CHOICES else [choice]
    if answer.shown is not None:
        body["usage"] = usage(answer.shown)
    return body


def envelope(prefix: str, kind: str, answer: Answer) -> dict[str, Any]:
    """Build what a completion and each chunk of a stream begin with."""
    return {
        "id": f"{prefix}-{random.getrandbits(64):016x}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.asked.model,
    }


def named(call: Call, arguments: str) -> dict[str, Any]:
    """Tell a call with its id and name."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def scores() -> dict[str, Any]:
    """Tell the log-probabilities of some tokens."""
    content = []
    for p in LOGPROBS:
        top = [{"token": str(one), "bytes": None, "logprob": one} for one in (p, p - 0.5)]
        content.append({**top[0], "bytes": list(str(p).encode()), "top_logprobs": top})
    return {"content": content}


def usage(used: Tokens) -> dict[str, Any]:
    """Tell the tokens as OpenAI does: cached and reasoning tokens are part of the totals."""
    prompt_tokens = used.input_tokens + used.cached_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": prompt_tokens + used.output_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }


def stream(answer: Answer) -> Chunks:
    """Begin the stream of a reply."""
    return Chunks(answer)


class Chunks:
    """The chunks of one reply: the role, the pieces, how it finished, perhaps the usage, `[DONE]`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.envelope = envelope("chatcmpl", "chat.completion.chunk", answer)
        self.unscored = answer.fault is Fault.LOGPROBS

    def opening(self) -> str:
        """Tell the role."""
        return self.chunk({"role": "assistant", "content": None if self.answer.reply.calls else "", "refusal": None})

    def piece(self, piece: Piece) -> str:
        """Tell a word, or the beginning or a part of a call."""
        call = piece.call
        if call is None:
            return self.chunk({"content": None if self.answer.fault is Fault.NULL_CONTENT else piece.text})
        told = {"function": {"arguments": piece.text}} if piece.text else named(call, "")
        return self.chunk({"tool_calls": [{"index": call.number} | told]})

    def error(self) -> str:
        """Tell an error, and nothing after it."""
        return self.event(refusal(self.answer.fault, "The provider behind this model failed."))

    def ending(self) -> str:
        """Tell how it finished, the usage if that was asked for, and that this was all."""
        told = self.chunk({}, self.answer.reply.finish)
        shown = self.answer.shown
        if self.answer.asked.include_usage and shown is not None:
            told += self.event(self.envelope | {"choices": [], "usage": usage(shown)})
        return told + "data: [DONE]\n\n"

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> str:
        """Tell one delta; the first that has text has all log-probabilities."""
        scored = self.unscored and bool(delta.get("content"))
        self.unscored = self.unscored and not scored
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": scores() if scored else None}
        empty = self.answer.fault is Fault.EMPTY_CHOICES
        return self.event(self.envelope | {"choices": [] if empty else [choice]})

    def event(self, body: dict[str, Any]) -> str:
        """Put one event into words."""
        text = json.dumps(body)
        return f"data: {text[:-1] if self.answer.fault is Fault.BAD_JSON else text}\n\n"
