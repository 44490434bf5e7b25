"""What the upstream is asked, what it says and what it charges, in whichever shape."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self


class Fault(StrEnum):
    """What the upstream does with a request it has fully read, and the status it answers.

    What has the status 200 is charged, whether or not an answer gets through.
    """

    status: int

    def __new__(cls, value: str, status: int = 200) -> Self:
        member = str.__new__(cls, value)
        member._value_, member.status = value, status
        return member

    OK = "ok"
    # Refused.
    RATE_LIMITED = "rate_limited", 429
    RATE_LIMITED_BARE = "rate_limited_bare", 429
    SERVER_ERROR = "server_error", 500
    UNAVAILABLE = "unavailable", 503
    OVERLOADED = "overloaded", 529
    BAD_GATEWAY = "bad_gateway", 502
    GATEWAY_TIMEOUT = "gateway_timeout", 504
    REQUEST_TIMEOUT = "request_timeout", 408
    BAD_REQUEST = "bad_request", 400
    UNPROCESSABLE = "unprocessable", 422
    UNAUTHORIZED = "unauthorized", 401
    PAYMENT = "payment", 402
    FORBIDDEN = "forbidden", 403
    NOT_FOUND = "not_found", 404
    CONTEXT_TOO_LONG = "context_too_long", 400
    CONTENT_FILTER = "content_filter", 400
    # Not answered.
    TIMEOUT = "timeout", 0
    TIMEOUT_BILLED = "timeout_billed"
    RESET = "reset", 0  # RST
    RESET_BILLED = "reset_billed"
    DROP = "drop", 0  # FIN
    # Late or broken.
    SLOW = "slow"
    DRIP = "drip"  # every read is on time, the whole is not
    TRUNCATED = "truncated"  # FIN before the announced length, or before the end of a stream
    HTML = "html"
    BAD_JSON = "bad_json"
    # Broken after some words of a stream; a whole answer lacks its end.
    CUT = "cut"  # FIN
    CUT_RESET = "cut_reset"  # RST
    STALLED = "stalled"
    STREAM_ERROR = "stream_error"  # an error in the middle, after a 200
    # Well-formed, with something to notice; what `usage` says need not be what was charged.
    EMPTY_CHOICES = "empty_choices"
    NULL_CONTENT = "null_content"
    MISSING_USAGE = "missing_usage"
    ZERO_USAGE = "zero_usage"
    FILTERED_REPLY = "filtered_reply"
    TRUNCATED_ANSWER = "truncated_answer"
    CACHED = "cached"
    REASONING = "reasoning"
    LOGPROBS = "logprobs"


IN_STREAM = {Fault.CUT, Fault.CUT_RESET, Fault.STALLED, Fault.STREAM_ERROR}
FINISH = {Fault.FILTERED_REPLY: "content_filter", Fault.TRUNCATED_ANSWER: "length"}
# The dice leave out what would hold a client that has no timeout for half a minute, and what is of streams.
DICE = [kind for kind in Fault if kind not in {Fault.OK, Fault.TIMEOUT, Fault.TIMEOUT_BILLED} | IN_STREAM]

LOGPROBS = (-0.25, 0.0, -1.5)
REASONING_TOKENS = 7
MOST_REASONING_TOKENS = 20
ARGUMENTS_TOKEN_CHARS = 8
CUT_AFTER_WORDS = 2


@dataclass(frozen=True, slots=True)
class Billed:
    """One request that was fully read, with what it was charged: all zero if it was not."""

    index: int
    model: str
    message: str
    """The text of the last message of a user or a tool, where the directives are."""
    kind: Fault
    """What became of it; an invalid request has `bad_request`, or `unauthorized` without a key."""
    charged: bool
    input_tokens: int
    """Those not read from the cache."""
    cached_tokens: int
    output_tokens: int
    """Those of the reasoning included; of a stream, those sent so far."""
    reasoning_tokens: int
    cost_nusd: int
    max_tokens: int | None
    headers: dict[str, str]
    """Those whose name begins with `x-`, and `authorization`; names in lower case."""
    connection: int
    streamed: bool = False
    sent_words: int = 0
    """How much of a stream was sent: words, names of calls and parts of their arguments."""
    response_format: str | None = None
    """The type of answer that was asked for, such as `json_schema`."""
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0


class Tokens(NamedTuple):
    """The tokens of one request, counted as in `Billed`."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0


class Call(NamedTuple):
    """A call of a tool, whose arguments are told in pieces."""

    number: int
    id: str
    name: str


class Piece(NamedTuple):
    """One token of a reply: a word, the name of a call (without text), or a part of its arguments."""

    text: str
    call: Call | None = None


class Reply(NamedTuple):
    """What the upstream produced, whether or not any of it gets through."""

    pieces: list[Piece]
    finish: str
    used: Tokens

    @property
    def text(self) -> str:
        """What it says apart from its calls."""
        return "".join(piece.text for piece in self.pieces if not piece.call)

    @property
    def calls(self) -> dict[Call, str]:
        """Each call with its arguments, as far as the limit let them come."""
        told: dict[Call, str] = {}
        for piece in self.pieces:
            if piece.call:
                told[piece.call] = told.get(piece.call, "") + piece.text
        return told


class Asked(NamedTuple):
    """What a valid request asks for."""

    model: str
    texts: list[str]
    max_tokens: int | None
    tools: list[str]
    """The names that may be called."""
    forced: str | None
    """The one that must be."""
    response_format: str | None
    streamed: bool
    include_usage: bool


class Answer(NamedTuple):
    """All that a shape needs to put a reply into words."""

    asked: Asked
    fault: Fault
    reply: Reply

    @property
    def shown(self) -> Tokens | None:
        """What `usage` says, if it is there at all."""
        match self.fault:
            case Fault.MISSING_USAGE:
                return None
            case Fault.ZERO_USAGE:
                return Tokens()
            case _:
                return self.reply.used


class Invalid(Exception):
    """A request that the vendor would refuse, and the fault that says so."""

    def __init__(self, message: str, fault: Fault = Fault.BAD_REQUEST) -> None:
        super().__init__(message)
        self.fault = fault


def require(holds: object, message: str) -> None:
    """Refuse the request unless this holds."""
    if not holds:
        raise Invalid(message)


class Stream(Protocol):
    """The server-sent events of one reply, each part as the text to send."""

    def opening(self) -> str: ...

    def piece(self, piece: Piece) -> str: ...

    def error(self) -> str: ...

    def ending(self) -> str: ...


class Shape(Protocol):
    """How one vendor is asked and how it answers; a module is one."""

    CALL_ID: str

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked: ...

    def refusal(self, fault: Fault, message: str | None = None) -> dict[str, Any]: ...

    def whole(self, answer: Answer) -> dict[str, Any]: ...

    def stream(self, answer: Answer) -> Stream: ...


def directives(key: str, text: str) -> list[str]:
    """Return the values of every `key=value` in the text."""
    return re.findall(rf"(?<!\S){key}=(\S+)", text)


def directive(key: str, *texts: str) -> str:
    """Return the value of the first `key=value` in these texts, or an empty string."""
    return next(iter(directives(key, "\n".join(texts))), "")


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message or of a tool's result: a string, a list of parts or null."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or text_of(part) for part in content if isinstance(part, dict))


def last_text(messages: object) -> str:
    """Return the text that a user or a tool wrote last, however wrong these messages are."""
    sound = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    last: dict[str, Any] = next((m for m in reversed(sound) if m.get("role") in {"user", "tool"}), {})
    content = last.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    results = [block for block in blocks if block.get("type") == "tool_result"]
    if not results:
        return text_of(last)
    # What a user adds to the results of tools comes after them.
    return text_of({"content": [block for block in blocks if block not in results]}) or text_of(results[-1])


def say(message: str, script: str) -> str:
    """Return the text that the directives of the message, or else of the script, want said."""
    for text in (message, script):
        if encoded := directive("say64", text):
            return base64.b64decode(encoded).decode()
        if spelt := directive("say", text):
            return " ".join(spelt.replace("_", " ").split())
    return ""


def calls(message: str, asked: Asked, script: str) -> list[tuple[str, str]]:
    """Return the names and the arguments of the calls to make."""
    named = [call for value in directives("call", message) for call in value.split("|")]
    if not asked.tools:
        return []
    if not named and asked.forced:
        return [(asked.forced, say(message, script) or "{}")]
    return [(name, arguments) for name, _, arguments in (call.partition(":") for call in named)]


def pieces(message: str, asked: Asked, script: str, ids: Iterator[str]) -> list[Piece]:
    """Return what is to be said in reply, token by token: words or calls, or words and then calls."""
    made = calls(message, asked, script)
    text = "" if made else say(message, script) or "ok"
    if made and directives("call", message):
        text = say(message, "")
    told = [Piece(word) for word in re.findall(r"\s*\S+(?:\s+$)?", text)]
    for number, (name, arguments) in enumerate(made):
        call = Call(number, next(ids), name)
        parts = re.findall(f"(?s).{{1,{ARGUMENTS_TOKEN_CHARS}}}", arguments)
        told += [Piece("", call), *(Piece(part, call) for part in parts)]
    return told


def produce(fault: Fault, prompt: int, told: list[Piece], max_tokens: int | None) -> Reply:
    """Say these pieces within the limit, to a prompt of so many tokens."""
    reasoning = REASONING_TOKENS if fault is Fault.REASONING else 0
    # Reasoning comes first and counts against the limit, as it does in real models.
    limit = reasoning + len(told) if max_tokens is None else max_tokens
    reasoning = min(reasoning, limit)
    within = told[: limit - reasoning]
    whole = "tool_calls" if any(piece.call for piece in within) else "stop"
    finish = FINISH.get(fault, whole if within == told else "length")
    cached = prompt // 2 if fault is Fault.CACHED else 0
    return Reply(within, finish, Tokens(prompt - cached, cached, reasoning + len(within), reasoning))


def at_random(reply: Reply, prompt: int, max_tokens: int | None, dice: random.Random, *, writes: bool) -> Reply:
    """The same reply with tokens as they may come: cache reads, writes where a shape tells them, and reasoning."""
    whole = dice.randint(max(1, prompt // 2), prompt * 2)
    weights = [dice.random(), *(dice.random() * dice.choice((0, 1)) for _ in range(3 if writes else 1))]
    cached, *written = [int(whole * weight / sum(weights)) for weight in weights[1:]]
    write, write_1h = written or (0, 0)
    said = len(reply.pieces)
    reasoning = dice.randint(0, max(0, min(MOST_REASONING_TOKENS, (max_tokens or said) - said)))
    plain = whole - cached - write - write_1h
    return reply._replace(used=Tokens(plain, cached, said + reasoning, reasoning, write, write_1h))
