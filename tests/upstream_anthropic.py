"""Anthropic's shape of a chat: what it accepts, what it answers, whole or as a stream."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.upstream_reply import Answer, Asked, Call, Fault, Invalid, Piece, Tokens, require, text_of

CALL_ID = "toolu_"
BODY_KEYS = {
    *("model", "messages", "max_tokens", "system", "metadata", "stop_sequences", "stream", "temperature", "top_k"),
    *("top_p", "tools", "tool_choice", "thinking", "service_tier", "container", "output_config", "output_format"),
    *("cache_control", "context_management", "mcp_servers"),
}
BLOCKS = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ID = re.compile(r"[a-zA-Z0-9_-]+")

TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Clients look at these messages, which have no code.
REASONS = {
    Fault.CONTEXT_TOO_LONG: "prompt is too long: 9001 tokens > 8192 maximum",
    Fault.CONTENT_FILTER: "Output blocked by content filtering policy",
}
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
    """Say what is asked for, or refuse what Anthropic would refuse."""
    if "x-api-key" not in headers and "authorization" not in headers:
        raise Invalid("x-api-key header is required", Fault.UNAUTHORIZED)
    require("anthropic-version" in headers, "anthropic-version: header is required")
    for key in body.keys() - BODY_KEYS:
        raise Invalid(f"{key}: this key is not known")
    model, messages, limit = body.get("model"), body.get("messages"), body.get("max_tokens")
    require(isinstance(model, str) and model, "model: field required")
    require(isinstance(limit, int) and limit >= 1, "max_tokens: a value of at least 1 is required")
    require(isinstance(messages, list) and messages, "messages: at least one message is required")
    require(0 <= body.get("temperature", 1) <= 1, "temperature: must be from 0 to 1")
    assert isinstance(model, str)
    assert isinstance(messages, list)
    check_system(body.get("system", ""))
    check_messages(model, messages)
    tools = check_tools(body.get("tools", []))
    choice = body.get("tool_choice", {"type": "auto"})
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    return Asked(
        model=model,
        texts=[text_of({"content": body.get("system")}), *(text_of(message) for message in messages)],
        max_tokens=limit,
        tools=[] if choice.get("type") == "none" else tools,
        forced=check_choice(choice, tools),
        response_format=wanted.get("type"),
        streamed=bool(body.get("stream")),
        include_usage=True,
    )


def check_system(system: object) -> None:
    """Refuse a system prompt that is not text."""
    if isinstance(system, list):
        check_texts(system, "system")
        require(all(block.get("type") == "text" for block in system), "system: only text blocks are allowed")
    else:
        require(isinstance(system, str), "system: must be a string or a list of text blocks")


def check_texts(blocks: Sequence[Any], at: str) -> None:
    """Refuse blocks that are not objects, and text blocks without text."""
    for number, block in enumerate(blocks):
        require(isinstance(block, dict), f"{at}.{number}: must be an object")
        if block.get("type") == "text":
            text = block.get("text")
            require(isinstance(text, str) and text.strip(), f"{at}.{number}: text content blocks must be non-empty")


def check_messages(model: str, messages: Sequence[Any]) -> None:
    """Refuse messages that do not alternate, and uses of tools that the next message does not answer."""
    expected, uses = "user", set[str]()
    for number, message in enumerate(messages):
        at = f"messages.{number}"
        require(isinstance(message, dict), f"{at}: must be an object")
        for key in message.keys() - {"role", "content"}:
            raise Invalid(f"{at}.{key}: extra keys are not permitted")
        role = message.get("role")
        require(role in BLOCKS, f"{at}.role: must be 'user' or 'assistant', a system prompt is the top-level 'system'")
        require(role == expected, f"{at}: roles must alternate between 'user' and 'assistant', beginning with 'user'")
        expected = "assistant" if role == "user" else "user"
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        require(isinstance(blocks, list) and blocks, f"{at}.content: must be a string or a list of blocks")
        check_blocks(model, role, blocks, f"{at}.content")
        if role == "user":
            check_results(blocks, uses, at)
        uses = {block["id"] for block in blocks if block["type"] == "tool_use"}
    require(not uses, f"messages: tool_use without tool_result in the next message: {', '.join(sorted(uses))}")


def check_blocks(model: str, role: str, blocks: Sequence[Any], at: str) -> None:
    """Refuse blocks of a wrong form, and images for a model that cannot see."""
    check_texts(blocks, at)
    seen = set()
    for number, block in enumerate(blocks):
        where, kind = f"{at}.{number}", block.get("type")
        require(kind in BLOCKS[role], f"{where}.type: {kind!r} is not allowed in a message of role {role!r}")
        if kind == "image":
            require(isinstance(block.get("source"), dict), f"{where}.source: field required")
            blind = model.rpartition("/")[2].startswith("textonly")
            require(not blind, f"{where}: this model does not support image content")
        if kind == "tool_use":
            use_id = block.get("id") or ""
            require(ID.fullmatch(use_id), f"{where}.id: {use_id!r} does not match {ID.pattern}")
            require(use_id not in seen, f"{where}.id: tool_use ids must be unique")
            seen.add(use_id)
            require(NAME.fullmatch(block.get("name") or ""), f"{where}.name: does not match {NAME.pattern}")
            require(isinstance(block.get("input"), dict), f"{where}.input: must be an object")


def check_results(blocks: Sequence[Any], uses: set[str], at: str) -> None:
    """Refuse results of tools that are not first, or not one for each use in the message before."""
    kinds = [block["type"] == "tool_result" for block in blocks]
    require(kinds == sorted(kinds, reverse=True), f"{at}: tool_result blocks must come before other content")
    ids = [block.get("tool_use_id") for block in blocks if block["type"] == "tool_result"]
    stray = [str(result_id) for result_id in ids if result_id not in uses]
    require(not stray, f"{at}: tool_result without a tool_use in the previous message: {', '.join(stray)}")
    require(len(ids) == len(set(ids)), f"{at}: each tool_use must have a single tool_result")
    missing = uses - set(ids)
    require(not missing, f"{at}: tool_use without tool_result in the next message: {', '.join(sorted(missing))}")


def check_tools(tools: object) -> list[str]:
    """Refuse tools of a wrong form, and return their names."""
    require(isinstance(tools, list), "tools: must be a list")
    assert isinstance(tools, list)
    for number, tool in enumerate(tools):
        at = f"tools.{number}"
        require(tool.get("type", "custom") == "custom", f"{at}.type: {tool.get('type')!r} is not known")
        require(NAME.fullmatch(tool.get("name") or ""), f"{at}.name: does not match {NAME.pattern}")
        is_object = (tool.get("input_schema") or {}).get("type") == "object"
        require(is_object, f"{at}.input_schema.type: must be 'object'")
    return [tool["name"] for tool in tools]


def check_choice(choice: Mapping[str, Any], tools: Sequence[str]) -> str | None:
    """Refuse a choice that cannot be made, and return the tool that must be called."""
    match choice.get("type"):
        case "auto" | "none":
            return None
        case "any":
            require(tools, "tool_choice: may only be specified while providing tools")
            return tools[0]
        case "tool":
            name = choice.get("name")
            require(name in tools, f"tool_choice: {name!r} is not among the tools")
            return name
        case kind:
            raise Invalid(f"tool_choice.type: {kind!r} is not known")


def refusal(fault: Fault, message: str | None = None) -> dict[str, Any]:
    """Build the body of an error."""
    # An error that comes after a 200 is the server's.
    kind = TYPES.get(fault.status, "invalid_request_error" if 400 <= fault.status < 500 else "api_error")
    reason = REASONS.get(fault, fault.replace("_", " "))
    return {"type": "error", "error": {"type": kind, "message": message or reason}}


def whole(answer: Answer) -> dict[str, Any]:
    """Build the body of a 200, with the flaw that the fault asks for."""
    reply = answer.reply
    content: list[dict[str, Any]] = []
    if reply.text or not reply.calls:
        content.append({"type": "text", "text": "" if answer.fault is Fault.NULL_CONTENT else reply.text})
    content += [use(call, arguments_of(text)) for call, text in reply.calls.items()]
    body = envelope(answer) | {
        "content": [] if answer.fault is Fault.EMPTY_CHOICES else content,
        "stop_reason": STOP_REASONS[reply.finish],
    }
    return body if answer.shown is None else body | {"usage": usage(answer.shown)}


def envelope(answer: Answer) -> dict[str, Any]:
    """Build a message that says nothing yet."""
    return {
        "id": f"msg_{random.getrandbits(64):016x}",
        "type": "message",
        "role": "assistant",
        "model": answer.asked.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def use(call: Call, arguments: dict[str, Any]) -> dict[str, Any]:
    """Tell a call with its id and name."""
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def arguments_of(text: str) -> dict[str, Any]:
    """Read the arguments of a call; what is not an object has no place in a whole answer."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def usage(used: Tokens) -> dict[str, Any]:
    """Tell the tokens as Anthropic does: those from the cache are counted apart."""
    return {
        "input_tokens": used.input_tokens,
        "cache_creation_input_tokens": used.cache_write_tokens + used.cache_write_1h_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.cache_write_tokens,
            "ephemeral_1h_input_tokens": used.cache_write_1h_tokens,
        },
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.output_tokens,
    }


def stream(answer: Answer) -> Events:
    """Begin the stream of a reply."""
    return Events(answer)


class Events:
    """The events of one reply: the start, one block for the text and for each call, why it stopped, the stop."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.blocks = 0
        self.within: Call | str | None = None
        """The block that is open: a call, `text`, or none."""

    def opening(self) -> str:
        """Tell the message without its content, and the tokens that went in."""
        message, shown = envelope(self.answer), self.answer.shown
        if shown is not None:
            message["usage"] = usage(shown._replace(output_tokens=min(1, shown.output_tokens)))
        return self.event("message_start", message=message) + self.event("ping")

    def piece(self, piece: Piece) -> str:
        """Tell a word, or the beginning or a part of a call, in a block of its own."""
        if self.answer.fault is Fault.EMPTY_CHOICES:
            return self.event("ping")
        turn = "" if self.within == (piece.call or "text") else self.stop() + self.start(piece.call)
        if piece.call:
            delta = {"type": "input_json_delta", "partial_json": piece.text}
        else:
            silent = self.answer.fault is Fault.NULL_CONTENT
            delta = {"type": "text_delta", "text": "" if silent else piece.text}
        return turn + self.event("content_block_delta", index=self.blocks - 1, delta=delta)

    def error(self) -> str:
        """Tell an error, and nothing after it."""
        error = {"type": "overloaded_error", "message": "The provider behind this model failed."}
        return self.event("error", error=error)

    def ending(self) -> str:
        """Tell why it stopped, and the tokens that came out."""
        delta = {"stop_reason": STOP_REASONS[self.answer.reply.finish], "stop_sequence": None}
        shown = self.answer.shown
        told = {} if shown is None else {"usage": {"output_tokens": shown.output_tokens}}
        return self.stop() + self.event("message_delta", delta=delta, **told) + self.event("message_stop")

    def start(self, call: Call | None) -> str:
        """Open a block."""
        self.within = call or "text"
        self.blocks += 1
        block = use(call, {}) if call else {"type": "text", "text": ""}
        return self.event("content_block_start", index=self.blocks - 1, content_block=block)

    def stop(self) -> str:
        """Close the block that is open, if there is one."""
        return self.event("content_block_stop", index=self.blocks - 1) if self.within else ""

    def event(self, kind: str, **body: Any) -> str:
        """Put one event into words."""
        text = json.dumps({"type": kind} | body)
        return f"event: {kind}\ndata: {text[:-1] if self.answer.fault is Fault.BAD_JSON else text}\n\n"
