"""A fault-injecting, OpenAI-compatible upstream on loopback that keeps its own bill.

The bill is the oracle a ledger is checked against: it records what the upstream *charged*, which
is not always what it said. It serves `POST .../chat/completions` (without streaming), `GET /bill`
and `POST /reset`. The last user message says what becomes of a request, in words `key=value`:

    fault=reset,ok    the nth request with this message takes the nth fault, the last one repeats
    say=an_answer     the text of the reply, underscores being spaces; otherwise `ok`

A script, the body of `POST /reset`, says the same for messages that do not, or throws dice:

    seed=7 rate=0.3 kinds=reset,timeout    one of these kinds with probability 0.3

    with Upstream() as upstream:
        litellm.completion("openai/small", messages, api_base=upstream.url, api_key="x")
        assert upstream.bill()[0].cost_nusd == 500
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from http.client import HTTPConnection, responses
from typing import Any, NamedTuple, Self


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
    TRUNCATED = "truncated"  # FIN before the announced length
    HTML = "html"
    BAD_JSON = "bad_json"
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
FINISH = {Fault.FILTERED_REPLY: "content_filter", Fault.TRUNCATED_ANSWER: "length"}
# The dice leave out what would hold a client that has no timeout for half a minute.
DICE = [kind for kind in Fault if kind not in {Fault.OK, Fault.TIMEOUT, Fault.TIMEOUT_BILLED}]

Prices = Mapping[str, tuple[int, int, int]]
"""Nano-US-dollars per input, cached and output token of each model."""
PRICES: Prices = {"small": (100, 25, 400), "large": (2_000, 500, 8_000)}
LOGPROBS = (-0.25, 0.0, -1.5)
REASONING_TOKENS = 7
RETRY_AFTER_S = 0.05
SLOW_S = 0.3
DRIP_PIECES, DRIP_S = 10, 0.1
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Billed:
    """One request that was fully read, with what it was charged: all zero if it was not."""

    index: int
    model: str
    message: str
    kind: Fault
    charged: bool
    input_tokens: int
    """Those not read from the cache."""
    cached_tokens: int
    output_tokens: int
    """Those of the reasoning included."""
    reasoning_tokens: int
    cost_nusd: int
    max_tokens: int | None
    headers: dict[str, str]
    """Those whose name begins with `x-`, in lower case."""
    connection: int


class Tokens(NamedTuple):
    """The tokens of one request, counted as in `Billed`."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Reply(NamedTuple):
    """What the upstream produced, whether or not any of it gets through."""

    text: str
    finish: str
    used: Tokens


def directive(key: str, *texts: str) -> str:
    """Return the value of the first `key=value` in these texts, or an empty string."""
    found = re.search(rf"(?<!\S){key}=(\S+)", "\n".join(texts))
    return found[1] if found else ""


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, whose content may be a string, a list of parts or null."""
    content = message.get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    return "".join(part.get("text", "") for part in parts)


def produce(fault: Fault, prompt: int, text: str, max_tokens: int | None) -> Reply:
    """Say the text within the limit, to a prompt of so many tokens."""
    said = text.split()
    reasoning = REASONING_TOKENS if fault is Fault.REASONING else 0
    # Reasoning comes first and counts against the limit, as it does in real models.
    limit = reasoning + len(said) if max_tokens is None else max_tokens
    reasoning = min(reasoning, limit)
    words = said[: limit - reasoning]
    finish = FINISH.get(fault, "stop" if words == said else "length")
    cached = prompt // 2 if fault is Fault.CACHED else 0
    used = Tokens(prompt - cached, cached, reasoning + len(words), reasoning)
    return Reply(" ".join(words), finish, used)


def completion(model: str, fault: Fault, reply: Reply) -> dict[str, Any]:
    """Build the body of a 200, with the flaw that the fault asks for."""
    content = None if fault is Fault.NULL_CONTENT else reply.text
    scores = [{"token": str(p), "logprob": p, "top_logprobs": []} for p in LOGPROBS]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": reply.finish,
        "logprobs": {"content": scores} if fault is Fault.LOGPROBS else None,
    }
    body = {
        "id": f"chatcmpl-{random.getrandbits(64):016x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [] if fault is Fault.EMPTY_CHOICES else [choice],
    }
    if fault is not Fault.MISSING_USAGE:
        body["usage"] = usage(Tokens() if fault is Fault.ZERO_USAGE else reply.used)
    return body


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


def respond(model: str, fault: Fault, reply: Reply) -> bytes:
    """Build the response to a chat request."""
    if fault.status >= 400:
        code, message = REASONS.get(fault, (None, fault.replace("_", " ")))
        kind = "server_error" if fault.status >= 500 else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        hint = [f"Retry-After: {RETRY_AFTER_S}"] if fault is Fault.RATE_LIMITED else []
        return encode(json.dumps({"error": error}), fault.status, *hint)
    if fault is Fault.HTML:
        return encode("<html><body>Please log in.</body></html>")
    text = json.dumps(completion(model, fault, reply))
    return encode(text[:-1] if fault is Fault.BAD_JSON else text)


def encode(text: str, status: int = 200, *headers: str) -> bytes:
    """Put a JSON or HTML text into a whole response."""
    body = text.encode()
    lines = [
        f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}",
        f"Content-Type: {'text/html' if text.startswith('<') else 'application/json'}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def receive(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    """Read a request: its verb, path, headers with names in lower case, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.strip().splitlines()
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    verb, path, _ = start.split()
    return verb, path, headers, body


async def drip(writer: asyncio.StreamWriter, response: bytes) -> None:
    """Send the head, then the body in pieces with a pause between them."""
    head, gap, body = response.partition(b"\r\n\r\n")
    writer.write(head + gap)
    size = -(-len(body) // DRIP_PIECES)
    for start in range(0, len(body), size):
        await asyncio.sleep(DRIP_S if start else 0)
        writer.write(body[start : start + size])


async def send(response: bytes, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Send the response as the fault has it, and say whether the connection lives on."""
    match fault:
        case Fault.TIMEOUT | Fault.TIMEOUT_BILLED:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), PATIENCE_S)
            return False
        case Fault.RESET | Fault.RESET_BILLED:
            # Closing a socket that may not linger sends RST in place of FIN.
            no_linger = struct.pack("ii", 1, 0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            return False
        case Fault.DROP:
            return False
        case Fault.TRUNCATED:
            writer.write(response[:-20])
            return False
        case Fault.DRIP:
            await drip(writer, response)
        case _:
            await asyncio.sleep(SLOW_S if fault is Fault.SLOW else 0)
            writer.write(response)
    await writer.drain()
    return True


class Server:
    """The upstream itself: its prices, its script and its bill."""

    def __init__(self, prices: Prices) -> None:
        # A model without a price of its own costs what the small one does.
        self.prices = {**PRICES, **prices}
        self.connections = 0
        self.reset("")

    def reset(self, script: str) -> None:
        """Forget the bill and the turns, and follow this script from now on."""
        self.script = script
        self.bill: list[Billed] = []
        self.turns: Counter[str] = Counter()
        self.dice = random.Random(directive("seed", script))
        self.rate = float(directive("rate", script) or 0)
        kinds = directive("kinds", script)
        self.kinds = [Fault(kind) for kind in kinds.split(",")] if kinds else DICE

    def choose(self, message: str) -> Fault:
        """Decide what becomes of the next request with this message."""
        if not (named := directive("fault", message, self.script)):
            return self.dice.choice(self.kinds) if self.dice.random() < self.rate else Fault.OK
        kinds = named.split(",")
        turn = min(self.turns[message], len(kinds) - 1)
        self.turns[message] += 1
        return Fault(kinds[turn])

    def answer(self, asked: Mapping[str, Any], headers: Mapping[str, str], connection: int) -> tuple[bytes, Fault]:
        """Put a chat request on the bill, and return the response and what becomes of it."""
        model, messages = asked["model"], asked["messages"]
        message = next((text_of(m) for m in reversed(messages) if m["role"] == "user"), "")
        fault = self.choose(message)
        prompt = max(1, sum(len(text_of(m).encode(errors="replace")) for m in messages) // 4)
        say = (directive("say", message, self.script) or "ok").replace("_", " ")
        limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
        reply = produce(fault, prompt, say, limit)
        tokens = reply.used if fault.status == 200 else Tokens()
        price = self.prices.get(model.rpartition("/")[2], self.prices["small"])
        row = Billed(
            index=len(self.bill),
            model=model,
            message=message,
            kind=fault,
            charged=fault.status == 200,
            # The fourth count, of reasoning, has no price: it is part of the third.
            cost_nusd=sum(unit * count for unit, count in zip(price, tokens, strict=False)),
            max_tokens=limit,
            headers={name: value for name, value in headers.items() if name.startswith("x-")},
            connection=connection,
            **tokens._asdict(),
        )
        self.bill.append(row)
        return respond(model, fault, reply), fault

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        """Answer one request, and say whether the connection lives on."""
        verb, path, headers, body = await receive(reader)
        match verb, path.rpartition("/")[2]:
            case "POST", "completions":
                response, fault = self.answer(json.loads(body), headers, connection)
                return await send(response, fault, reader, writer)
            case "GET", "bill":
                response = encode(json.dumps([asdict(row) for row in self.bill]))
            case "POST", "reset":
                self.reset(body.decode())
                response = encode("{}")
            case _:
                response = encode("{}", 404)
        return await send(response, Fault.OK, reader, writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until either side ends it."""
        self.connections += 1
        connection = self.connections
        # A client that goes away ends its connection and nothing else.
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.exchange(reader, writer, connection):
                pass

    async def run(self) -> None:
        """Listen on a free port of loopback, print it as one line, and serve for ever."""
        listener = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        print(listener.sockets[0].getsockname()[1], flush=True)
        await listener.serve_forever()


class Upstream:
    """The upstream in a child process, so that the test's own process stays as it is."""

    def __init__(self, prices: Prices | None = None) -> None:
        command = [sys.executable, "-I", __file__, "--prices", json.dumps(prices or {})]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._child.stdout
        self.port = int(self._child.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._child as child:
            child.terminate()

    def bill(self) -> list[Billed]:
        """Return the bill since the last reset, one row for each request that was fully read."""
        rows = json.loads(self._fetch("GET", "/bill"))
        return [Billed(**row | {"kind": Fault(row["kind"])}) for row in rows]

    def reset(self, script: str = "") -> None:
        """Forget the bill and the turns, and follow this script from now on."""
        self._fetch("POST", "/reset", script)

    def _fetch(self, verb: str, path: str, body: str | None = None) -> bytes:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(verb, path, body)
            return connection.getresponse().read()


def exit_with_parent() -> None:
    """End the process when standard input closes, so that a killed parent leaves no orphan."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def main() -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Faults: " + ", ".join(Fault),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prices_help = 'nano-USD per token for input, cached input, output: {"small": [100, 25, 400]}'
    parser.add_argument("--prices", default="{}", type=json.loads, help=prices_help)
    prices = parser.parse_args().prices
    threading.Thread(target=exit_with_parent, daemon=True).start()
    with suppress(KeyboardInterrupt):
        asyncio.run(Server(prices).run())


if __name__ == "__main__":
    main()
