r"""A fault-injecting upstream on loopback that is asked as OpenAI and Anthropic are, and keeps its own bill.

The bill is the oracle a ledger is checked against: it records what the upstream *charged*, which
is not always what it said. It serves `POST .../chat/completions` and `POST .../v1/messages`, whole or as
a stream, and refuses what the vendor of that shape would (`upstream_openai.py`, `upstream_anthropic.py`).
A model whose name begins with `textonly` refuses images. `GET /bill` returns the bill, `POST /reset`
forgets it, and `GET /open` tells how many connections and streams there are at this moment, without the
connection that asks; clients keep connections, so a test of leaks has an upstream of its own.

The last message of a user or a tool says what becomes of a request, in words `key=value` (in Anthropic's
shape, what the user adds to the results of tools, or else the last result):

    fault=reset,ok    the nth request with this message takes the nth fault, the last one repeats
    say=an_answer     the text of the reply, underscores being spaces; otherwise `ok`
    say64=eyJhIjoxfQ  the same in base64, for any text
    call=look:{"a":1} call this tool, if the request has tools; several are separated by `|` or have
                      a directive each. The arguments are taken as they are, valid or not: `\u0020` is
                      a space, `\u007c` a bar. A reply with calls has a text only where the message
                      has `say` too. A tool that is forced is called with the text as its arguments.
                      Anthropic's whole answers have no place for arguments that are no object: `{}`.
    call_id=x.        the ids of the calls begin like this, and not with `call_` or `toolu_`
    usage=random      tokens by the dice, with cache reads, reasoning and, in Anthropic's shape, cache writes
    cut_after=3       a stream with the fault `cut`, `cut_reset`, `stalled` or `stream_error` breaks
                      after so many words; otherwise after 2

A script, the body of `POST /reset`, says the same for messages that do not (but calls nothing), or
throws dice:

    seed=7 rate=0.3 kinds=reset,timeout    one of these kinds with probability 0.3

A stream has one word in a chunk, or the name of a call, or eight characters of its arguments. Each is a
token, and is on the bill from the moment it is sent: what a stream that broke, or that the client left,
did not say is not charged. The whole input always is.

    with Upstream() as upstream:
        litellm.completion("openai/small", messages, api_base=upstream.url, api_key="x")
        assert upstream.bill()[0].cost_nusd == 500
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple, Self

if not __package__:  # Run as a script, this file knows its own folder at most.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import upstream_anthropic, upstream_openai
from tests.upstream_reply import (
    CUT_AFTER_WORDS,
    DICE,
    IN_STREAM,
    LOGPROBS,
    Answer,
    Asked,
    Billed,
    Fault,
    Invalid,
    Shape,
    Tokens,
    at_random,
    directive,
    last_text,
    pieces,
    produce,
)
from tests.upstream_wire import STREAM_HEAD, Connection, Sending, Streaming, encode, receive

__all__ = ["LOGPROBS", "Billed", "Fault", "Open", "Upstream"]

SHAPES: Mapping[str, Shape] = {"completions": upstream_openai, "messages": upstream_anthropic}

Prices = Mapping[str, tuple[int, ...]]
"""Nano-US-dollars per token of each model, in the order of `Tokens`; reasoning is part of the output and has none."""
PRICES: Prices = {"small": (100, 25, 400, 0, 125, 200), "large": (2_000, 500, 8_000, 0, 2_500, 4_000)}
RETRY_AFTER_S = 0.05


class Open(NamedTuple):
    """What the upstream holds at this moment, apart from the connection that asks."""

    connections: int
    streams: int


def respond(shape: Shape, answer: Answer) -> bytes:
    """Build the response to a valid request that is not streamed."""
    fault = answer.fault
    if fault.status >= 400:
        return refuse(shape, fault)
    if fault is Fault.HTML:
        return encode("<html><body>Please log in.</body></html>")
    text = json.dumps(shape.refusal(fault) if fault is Fault.STREAM_ERROR else shape.whole(answer))
    return encode(text[:-1] if fault is Fault.BAD_JSON else text)


def refuse(shape: Shape, fault: Fault, message: str | None = None) -> bytes:
    """Build a refusal."""
    hint = [f"Retry-After: {RETRY_AFTER_S}"] if fault is Fault.RATE_LIMITED else []
    return encode(json.dumps(shape.refusal(fault, message)), fault.status, *hint)


class Server:
    """The upstream itself: its prices, its script and its bill."""

    def __init__(self, prices: Prices) -> None:
        # A model without a price of its own costs what the small one does.
        self.prices = {**PRICES, **prices}
        self.connections = 0
        self.open = Open(0, 0)
        self.call_numbers = itertools.count(1)
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

    def handle(self, shape: Shape, body: bytes, headers: Mapping[str, str], connection: int) -> Sending:
        """Put a chat request on the bill, and return the response and what becomes of it."""
        row = Billed(
            index=len(self.bill),
            model="",
            message="",
            kind=Fault.BAD_REQUEST,
            charged=False,
            cost_nusd=0,
            max_tokens=None,
            headers={name: value for name, value in headers.items() if re.match("x-|authorization$", name)},
            connection=connection,
            **Tokens()._asdict(),
        )
        self.bill.append(row)
        try:
            asked = parse(body)
            row = replace(row, model=str(asked.get("model")), message=last_text(asked.get("messages")))
            return self.answer(shape, shape.read(asked, headers), row)
        except Invalid as invalid:
            self.bill[row.index] = replace(row, kind=invalid.fault)
            return Sending(refuse(shape, invalid.fault, str(invalid)))

    def answer(self, shape: Shape, asked: Asked, row: Billed) -> Sending:
        """Answer a valid request, and charge it."""
        message, bill = row.message, self.bill
        fault = self.choose(message)
        prompt = max(1, sum(len(text.encode(errors="replace")) for text in asked.texts) // 4)
        prefix = directive("call_id", message, self.script) or shape.CALL_ID
        ids = (f"{prefix}{number}" for number in self.call_numbers)
        reply = produce(fault, prompt, pieces(message, asked, self.script, ids), asked.max_tokens)
        if directive("usage", message, self.script) == "random":
            reply = at_random(reply, prompt, asked.max_tokens, self.dice, writes=shape is upstream_anthropic)
        row = replace(
            row,
            kind=fault,
            charged=fault.status == 200,
            max_tokens=asked.max_tokens,
            streamed=asked.streamed,
            response_format=asked.response_format,
        )

        def charge(words: int) -> None:
            tokens = reply.used._replace(output_tokens=reply.used.reasoning_tokens + words)
            bill[row.index] = self.charged(row, tokens, words if asked.streamed else 0)

        bill[row.index] = self.charged(row, reply.used if row.charged else Tokens())
        answer = Answer(asked, fault, reply)
        if not asked.streamed or fault.status >= 400 or fault is Fault.HTML:
            return Sending(respond(shape, answer), fault)
        cut_after = int(directive("cut_after", message, self.script) or CUT_AFTER_WORDS)
        sent = reply.pieces[:cut_after] if fault in IN_STREAM else reply.pieces
        return Sending(STREAM_HEAD, fault, Streaming(shape.stream(answer), sent, charge))

    def charged(self, row: Billed, tokens: Tokens, sent_words: int = 0) -> Billed:
        """Return the row with these tokens and their price."""
        price = self.prices.get(row.model.rpartition("/")[2], self.prices["small"])
        cost_nusd = sum(unit * count for unit, count in zip(price, tokens, strict=False))
        return replace(row, cost_nusd=cost_nusd, sent_words=sent_words, **tokens._asdict())

    async def exchange(self, connection: Connection) -> bool:
        """Answer one request, and say whether the connection lives on."""
        verb, path, headers, body = await receive(connection.reader)
        name = path.partition("?")[0].rpartition("/")[2]
        match verb, name:
            case "POST", shape if shape in SHAPES:
                sending = self.handle(SHAPES[shape], body, headers, connection.number)
                with self.holding(streams=bool(sending.stream)):
                    return await connection.send(sending)
            case "GET", "bill":
                response = encode(json.dumps([asdict(row) for row in self.bill]))
            case "GET", "open":
                response = encode(json.dumps([self.open.connections - 1, self.open.streams]))
            case "POST", "reset":
                self.reset(body.decode())
                response = encode("{}")
            case _:
                response = encode("{}", 404)
        return await connection.send(Sending(response))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until either side ends it."""
        self.connections += 1
        connection = Connection(reader, writer, self.connections)
        # A client that goes away ends its connection and nothing else.
        with self.holding(connections=1), closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.exchange(connection):
                pass

    @contextmanager
    def holding(self, connections: int = 0, streams: int = 0) -> Iterator[None]:
        """Count these as open for a while."""
        self.open = Open(self.open.connections + connections, self.open.streams + streams)
        try:
            yield
        finally:
            self.open = Open(self.open.connections - connections, self.open.streams - streams)

    async def run(self) -> None:
        """Listen on a free port of loopback, print it as one line, and serve for ever."""
        listener = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        print(listener.sockets[0].getsockname()[1], flush=True)
        await listener.serve_forever()


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request."""
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise Invalid(f"The body of your request is not valid JSON: {error}") from error
    if not isinstance(asked, dict):
        raise Invalid("The body of your request is not a JSON object.")
    return asked


class Upstream:
    """The upstream in a child process, so that the test's own process stays as it is."""

    def __init__(self, prices: Prices | None = None) -> None:
        command = [sys.executable, "-I", __file__, "--prices", json.dumps(prices or {})]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._child.stdout
        self.port = int(self._child.stdout.readline())
        self.root = f"http://127.0.0.1:{self.port}"
        """Where litellm finds the shape of Anthropic."""
        self.url = f"{self.root}/v1"

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

    def open(self) -> Open:
        """Return how many connections and streams there are, apart from the connection of this question."""
        return Open(*json.loads(self._fetch("GET", "/open")))

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
    prices_help = 'nano-USD per token of each kind, in the order of Tokens: {"small": [100, 25, 400]}'
    parser.add_argument("--prices", default="{}", type=json.loads, help=prices_help)
    prices = parser.parse_args().prices
    threading.Thread(target=exit_with_parent, daemon=True).start()
    with suppress(KeyboardInterrupt):
        asyncio.run(Server(prices).run())


if __name__ == "__main__":
    main()
