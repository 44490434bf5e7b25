"""Segments: files of CRC-framed JSON lines that only grow, each written by one process.

A row is the CRC-32 of its JSON in 8 hexadecimal digits, a space, the JSON, and a newline. The JSON begins with the
number of the row in its segment, from 1, so that a line that is gone shows. Rows of earlier releases have none.
"""

from __future__ import annotations

import fcntl
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from router.ledger.rows import Row

SEGMENTS_FOLDER = "segments"

# Rows are made here and hold themselves nowhere: looking for that takes time.
_encode = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"), default=str
).encode
_decode = json.JSONDecoder().decode


def encode(row: Row) -> bytes:
    """The JSON of a row. ASCII only, so that lone surrogates and control characters are harmless."""
    return _encode(row).encode("ascii")


def frame(row: Row) -> bytes:
    """The bytes of a row that has no number."""
    body = encode(row)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def frame_numbered(body: bytes, number: int) -> bytes:
    """The bytes of a row with its number, from its JSON, which is not empty."""
    body = b'{"row":%d,%s' % (number, body[1:])
    return b"%08x %s\n" % (zlib.crc32(body), body)


def unframe(line: bytes) -> Row | None:
    """The row of one line without its newline, or `None` when it is torn or changed."""
    if line[:9] != b"%08x " % zlib.crc32(line[9:]):
        return None
    try:
        row = _decode(line[9:].decode())
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


class Line(NamedTuple):
    """One line of a segment."""

    row: Row | None
    """`None` when the line is torn or was changed."""
    number: int | None
    """Of the row in its segment, from 1; `None` where it has none."""
    start: int
    end: int
    """Offset of the byte after it."""
    ended: bool
    """Whether a newline ends it; where none does, its writer died in the middle of it."""


def read_lines(path: Path, offset: int = 0, *, complete: bool) -> Iterator[Line]:
    """The lines of a segment from an offset on.

    A last line without newline is still being written, unless the segment is `complete`: then it is torn.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            ended = line.endswith(b"\n")
            if not ended and not complete:
                return
            start, offset = offset, offset + len(line)
            body = line.rstrip(b"\n")
            if body:
                row = unframe(body)
                yield Line(row, row.pop("row", None) if row else None, start, offset, ended)


def writer_lives(path: Path) -> bool:
    """Whether the process that writes this segment is still there: it holds the file's lock while it lives."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
        return False


def segments_in(folder: Path) -> list[Path]:
    """The segments of a folder, oldest first."""
    return sorted(path for path in folder.glob("[!.]*.seg") if path.is_file())
