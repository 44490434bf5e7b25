"""What several tests share: a policy for the upstream, and the ledger as plain rows."""

from __future__ import annotations

import errno
import functools
import json
import os
import pty
import re
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.cells import cell_len

from router.core.policy import Policy
from router.ledger import fold

# The upstream's own prices, in dollars: 100, 25 and 400 nano-dollars a token, and 2,000, 500 and 8,000.
PRICES: dict[str, dict[str, float]] = {
    "small": {"input_usd_per_mtok": 0.1, "cached_read_usd_per_mtok": 0.025, "output_usd_per_mtok": 0.4},
    "large": {"input_usd_per_mtok": 2.0, "cached_read_usd_per_mtok": 0.5, "output_usd_per_mtok": 8.0},
}


def make_policy(
    task: Mapping[str, Any] | None = None,
    *,
    api_base: str | None = None,
    provider: str = "openai",
    ledger: Mapping[str, Any] | None = None,
) -> Policy:
    """A policy of one task `t` on a small and a large model with known prices."""
    models = {
        name: {"litellm": f"{provider}/{name}", "price": price, **({"api_base": api_base} if api_base else {})}
        for name, price in PRICES.items()
    }
    settings = {"ladder": ["small", "large"], "max_output_tokens": 40, "retry": {"attempts": 2, "max_wait_s": 0.2}}
    data = {"version": 1, "models": models, "tasks": {"t": {**settings, **(task or {})}}, "ledger": dict(ledger or {})}
    return _adapter().validate_json(json.dumps(data))


@functools.cache
def _adapter() -> TypeAdapter[Policy]:
    return TypeAdapter(Policy)


def read_table(home: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table of the read model, after a fold, in order of time."""
    fold(home)
    with sqlite3.connect(home / "ledger.db") as database:
        database.row_factory = sqlite3.Row
        order = "time_s" if table in ("attempts", "routes") else "rowid" if table == "segments" else "1"
        rows = [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY {order}")]
    database.close()
    return rows


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on standard output, which has nothing but what JSON allows."""

        def refuse(constant: str) -> float:
            raise AssertionError(constant)

        return json.loads(self.out, parse_constant=refuse)


Cli = Callable[..., Done]

ROUTER = str(Path(sys.executable).with_name("router"))
_STYLES = re.compile("\x1b\\[[0-9;]*m")
# What a spinner sends: hide and show the cursor, go up, clear the line.
_UP = "\x1b[1A"
_MOVES = re.compile("\x1b\\[(?:\\?25[lh]|[0-9]*[AKJ])")


def in_terminal(*arguments: str, columns: int = 80, codes: Collection[int] = (0,), styled: bool = True) -> list[str]:
    """The lines that a command leaves on a terminal of so many columns, with its styles."""
    receiving, sending = pty.openpty()
    ioctl(sending, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    command = subprocess.Popen(
        [ROUTER, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=sending,
        stderr=sending,
        env={**clean, "TERM": "xterm-256color", **({} if styled else {"NO_COLOR": "1"})},
    )
    os.close(sending)
    output = b""
    while True:
        try:
            more = os.read(receiving, 65536)
        except OSError as error:  # Linux says so when the last writer has closed.
            assert error.errno == errno.EIO
            break
        if not more:
            break
        output += more
    os.close(receiving)
    assert command.wait(60) in codes, output.decode()
    lines: list[str] = []
    for line in output.decode().replace("\r\n", "\n").rstrip("\n").split("\n"):
        if _UP in line:  # A spinner takes its last line back.
            lines.pop()
        lines.append(line)
    return lines


def seen(line: str) -> str:
    """What of a line stays on the screen when a spinner has turned on it, with its styles."""
    return _MOVES.sub("", line.rpartition("\r")[2])


def unstyled(line: str) -> str:
    """The same without the styles."""
    return _STYLES.sub("", seen(line))


def columns_of(line: str) -> int:
    """The columns that the widest state of a line takes; wide characters take two."""
    return max(cell_len(unstyled(part)) for part in line.split("\r"))
