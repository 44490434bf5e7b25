"""How the upstream's responses are sent, and how they are broken on the way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import responses
from typing import NamedTuple

from tests.upstream_reply import Fault, Piece, Stream

SLOW_S = 0.3
DRIP_PIECES, DRIP_S = 10, 0.1
RESET_AFTER_S = 0.05
PATIENCE_S = 30.0
BROKEN = {Fault.TRUNCATED, Fault.CUT, Fault.CUT_RESET, Fault.STALLED}


class Streaming(NamedTuple):
    """The pieces to send one by one."""

    events: Stream
    pieces: Sequence[Piece]
    charge: Callable[[int], None]
    """Told how many were sent, before the client can know it."""


class Sending(NamedTuple):
    """A response, whole or followed by a stream, and how it is to be sent."""

    response: bytes
    fault: Fault = Fault.OK
    stream: Streaming | None = None


def encode(text: str, status: int = 200, *headers: str) -> bytes:
    """Put a JSON or HTML text into a whole response."""
    body = text.encode()
    kind = "text/html" if text.startswith("<") else "application/json"
    return head(status, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers) + body


def head(status: int, *headers: str) -> bytes:
    """Begin a response."""
    return "\r\n".join([f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}", *headers, "", ""]).encode()


STREAM_HEAD = head(200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")


def chunk(text: str) -> bytes:
    """Put a text into one chunk of a response; the empty one ends it."""
    body = text.encode()
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


async def receive(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    """Read a request: its verb, path, headers with names in lower case, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.strip().splitlines()
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    verb, path, _ = start.split()
    return verb, path, headers, body


class Connection(NamedTuple):
    """One client, and what can be done to it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def send(self, sending: Sending) -> bool:
        """Send a response as its fault has it, and say whether the connection lives on."""
        response, fault = sending.response, sending.fault
        match fault:
            case Fault.TIMEOUT | Fault.TIMEOUT_BILLED:
                return await self.wait()
            case Fault.RESET | Fault.RESET_BILLED:
                return self.abort()
            case Fault.DROP:
                return False
        await asyncio.sleep(SLOW_S if fault is Fault.SLOW else 0)
        if sending.stream:
            return await self.stream(sending, sending.stream)
        match fault:
            case broken if broken in BROKEN:
                self.writer.write(response[:-20])
                return await self.break_off(fault)
            case Fault.DRIP:
                await self.drip(response)
            case _:
                self.writer.write(response)
        await self.writer.drain()
        return True

    async def stream(self, sending: Sending, stream: Streaming) -> bool:
        """Send the events of a reply until it ends, breaks or is left by the client."""
        fault, writer = sending.fault, self.writer
        stream.charge(0)
        writer.write(sending.response + chunk(stream.events.opening()))
        for words, piece in enumerate(stream.pieces, 1):
            await asyncio.sleep(DRIP_S if fault is Fault.DRIP else 0)
            await writer.drain()
            if self.reader.at_eof():
                return False
            stream.charge(words)
            writer.write(chunk(stream.events.piece(piece)))
        if fault in BROKEN:
            return await self.break_off(fault)
        last = stream.events.error() if fault is Fault.STREAM_ERROR else stream.events.ending()
        writer.write(chunk(last) + chunk(""))
        await writer.drain()
        return True

    async def break_off(self, fault: Fault) -> bool:
        """Leave what was sent without its end."""
        await self.writer.drain()
        if fault is Fault.STALLED:
            return await self.wait()
        if fault is Fault.CUT_RESET:
            # What is sent just before a reset may be lost with it.
            await asyncio.sleep(RESET_AFTER_S)
            return self.abort()
        return False

    async def drip(self, response: bytes) -> None:
        """Send the head, then the body in pieces with a pause between them."""
        head, gap, body = response.partition(b"\r\n\r\n")
        self.writer.write(head + gap)
        size = -(-len(body) // DRIP_PIECES)
        for start in range(0, len(body), size):
            await asyncio.sleep(DRIP_S if start else 0)
            self.writer.write(body[start : start + size])

    async def wait(self) -> bool:
        """Say nothing until the client goes away."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.reader.read(1), PATIENCE_S)
        return False

    def abort(self) -> bool:
        """See to it that the connection ends with RST."""
        # Closing a socket that may not linger sends RST in place of FIN.
        no_linger = struct.pack("ii", 1, 0)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        return False
