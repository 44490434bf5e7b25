"""CSV files that people give to an audit: columns by name in any order, and every fault with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from router.errors import InvalidFile, shown

_MOST_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class Table:
    """The lines of a file, each with its number and its cells by the column's own name."""

    path: Path
    header: tuple[str, ...]
    lines: tuple[tuple[int, dict[str, str]], ...]
    repeated: tuple[tuple[int, int], ...]
    """Lines that repeat another one sign by sign, with that one's number; they are not among `lines`."""

    def fault(self, line: int | None, problem: str) -> InvalidFile:
        """An error that says where."""
        place = f"{self.path}:{line}" if line else str(self.path)
        return InvalidFile(f"{place}: {problem}", path=str(self.path), line=line)

    def number(self, line: int, name: str, text: str, *, least: int | None = 0) -> Decimal:
        """A number of a cell; an empty cell is 0.

        Raises
        ------
        InvalidFile
            It is none, has no end, or is negative where that cannot be.
        """
        try:
            value = Decimal(text.strip().removeprefix("$") or 0)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or abs(value) > 10**15:
            raise self.fault(line, f"{name}: {shown(text)} is no number; write it like 1234.56, without a currency")
        if least is not None and value < least:
            raise self.fault(line, f"{name}: is {value}, and cannot be negative")
        return value


def read_table(path: Path) -> Table:
    """The lines of a CSV file with a header; the comma, semicolon or tab of its header divides the cells.

    Raises
    ------
    InvalidFile
        It cannot be read, is no UTF-8, has no header, or a line has more or fewer cells than that.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidFile(
                f"{path}: is larger than {_MOST_BYTES:,} bytes; cut it by month", path=str(path), line=None
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror})", path=str(path), line=None) from None
    except UnicodeDecodeError:
        raise InvalidFile(f"{path}: is no UTF-8; save it as CSV in UTF-8", path=str(path), line=None) from None
    first = text.partition("\n")[0]
    divider = max((",", ";", "\t"), key=first.count)
    empty = Table(path, (), (), ())
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise empty.fault(None, f"is no CSV ({error})") from None
    if not rows:
        raise empty.fault(None, "is empty; give a file with a header and at least one line")
    header = tuple(name.strip().lower() for name in rows[0][1])
    if twice := {name for name in header if header.count(name) > 1}:
        raise empty.fault(1, f"two columns are called {min(twice)!r}")
    return _checked(path, header, rows[1:])


def _checked(path: Path, header: tuple[str, ...], rows: Sequence[tuple[int, list[str]]]) -> Table:
    seen: dict[tuple[str, ...], int] = {}
    lines, repeated = [], []
    for number, row in rows:
        if len(row) != len(header):
            problem = f"has {len(row)} cells and the header has {len(header)}; quote cells that hold a comma"
            raise Table(path, header, (), ()).fault(number, problem)
        before = seen.setdefault(tuple(row), number)
        if before != number:
            repeated.append((number, before))
        else:
            lines.append((number, dict(zip(header, row, strict=True))))
    return Table(path, header, tuple(lines), tuple(repeated))


def columns_of(table: Table, names: Mapping[str, Sequence[str]], given: Mapping[str, str]) -> dict[str, str]:
    """The file's own column for each meaning: the one that was given, else the first of the names that is there.

    Raises
    ------
    InvalidFile
        A column that was given is not there, or means nothing here.
    """
    if unknown := [meaning for meaning in given if meaning not in names]:
        raise table.fault(None, f"columns: {unknown[0]!r} is none of {', '.join(names)}")
    found = {}
    for meaning, known in names.items():
        own = given.get(meaning, "").strip().lower()
        if own and own not in table.header:
            raise table.fault(1, f"columns: there is no column {own!r}; there is {', '.join(table.header)}")
        name = own or next((name for name in known if name in table.header), None)
        if name:
            found[meaning] = name
    return found
