"""What is broken in a segment: which bytes, which rows stood there, and whether it was the death of a writer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from router.ledger.fold import is_newer, is_sound
from router.ledger.rows import Row
from router.ledger.segments import Line, read_lines, unframe

# What of a broken row can mostly still be read: its kind, and the request or call that it is of.
_NAMED = re.compile(rb'"kind":"(\w+)"(?:(?!"kind":).)*?"(attempt_id|route_id)":"([0-9a-f-]+)"')
_KIND = re.compile(rb'"kind":"')


@dataclass(frozen=True, slots=True)
class LostRow:
    """A row that can no longer be trusted, as far as it says itself what it was."""

    kind: str
    """`unknown` where it cannot be read."""
    id: str = ""
    """The `attempt_id` or `route_id`."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that hold no sound row: one line, or several that lie beside each other."""

    segment: str
    line: int
    """Number of the first line, from 1."""
    start: int
    end: int
    """Offset of the byte after the last one."""
    torn: bool
    """Whether a writer left it half written, because it died or its disk was full; no acknowledged row is lost then."""
    rows: tuple[LostRow, ...]


@dataclass(slots=True)
class Numbers:
    """Which numbers of rows there are. A signal handler that routes may write one before the one below it."""

    next: int = 1
    """All below it are there."""
    ahead: set[int] = field(default_factory=set)

    def see(self, number: int) -> None:
        """Note a row."""
        if number > self.next:
            self.ahead.add(number)
        elif number == self.next:
            self.next += 1
            while self.next in self.ahead:
                self.ahead.remove(self.next)
                self.next += 1

    def missing(self) -> int:
        """How many there must have been that are not there."""
        return max(self.ahead) + 1 - self.next - len(self.ahead) if self.ahead else 0


@dataclass(slots=True)
class Reading:
    """What one look at a segment found, beside its sound rows."""

    damage: list[Damage]
    newer_from: int | None = None
    """Where the rows of a newer version begin."""
    numbers: Numbers = field(default_factory=Numbers)
    """Of its rows."""

    def missing(self) -> str:
        """Which rows are neither sound nor damaged, in words; empty when there are none."""
        gone = self.numbers.missing() - sum(len(damage.rows) for damage in self.damage if not damage.torn)
        if gone <= 0:
            return ""
        return f"{gone:,} of its rows {'is' if gone == 1 else 'are'} gone, from row {self.numbers.next:,} on"


def sound_rows(path: Path, reading: Reading, *, complete: bool) -> Iterator[tuple[Row, int]]:
    """Every sound row of a segment with the offset after it; what is broken goes into the reading."""
    broken: list[Line] = []
    for line in read_lines(path, complete=complete):
        newer = line.row is not None and is_newer(line.row)
        if line.row is None or not (newer or is_sound(line.row)):
            if broken and not _touches(broken[-1], line):
                reading.damage.append(_damage(path, broken, None))
                broken = []
            broken.append(line)
            continue
        if broken:
            reading.damage.append(_damage(path, broken, line.row))
            broken = []
        if newer:
            reading.newer_from = line.start
            return
        if isinstance(line.number, int):
            reading.numbers.see(line.number)
        if line.row.get("kind") != "end":
            yield line.row, line.end
    if broken:
        reading.damage.append(_damage(path, broken, None))


def _touches(one: Line, next_one: Line) -> bool:
    """Whether nothing but an empty line is between: a byte that became a newline makes two lines of one."""
    return next_one.start - one.end <= 1


def _damage(path: Path, lines: list[Line], after: Row | None) -> Damage:
    start, end = lines[0].start, lines[-1].end
    with path.open("rb") as file:
        number = sum(block.count(b"\n") for block in _blocks(file.read, start)) + 1
        file.seek(start)
        raw = file.read(end - start)
    rows = [LostRow(kind.decode(), name.decode()) for kind, _, name in _NAMED.findall(raw)]
    # A byte that was a newline joins two rows in one line.
    unnamed = max(1, len(_KIND.findall(raw))) - len(rows)
    torn = _is_torn(path, raw, lines[-1].ended, after)
    return Damage(path.name, number, start, end, torn, (*rows, *[LostRow("unknown")] * unnamed))


def _blocks(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        block = read(min(size, 1 << 20))
        if not block:
            return
        size -= len(block)
        yield block


def _is_torn(path: Path, raw: bytes, ended: bool, after: Row | None) -> bool:
    """Whether a writer stopped in the middle of the line, and nobody changed it.

    It is the last line and has no end, or the gap row after it counts it. In both cases a line that is whole but for
    its last byte was not cut: that byte was changed.
    """
    if path.suffix == ".pack":  # It got its name when it was whole.
        return False
    if not ended:
        return unframe(raw[:-1]) is None
    counted = after is not None and after.get("kind") == "gap"
    return counted and unframe(raw[:-2] + b"}") is None and not raw.rstrip(b"\n").endswith(b"}")
