"""Writes docs/demo.md and its pictures: `router demo` on real terminals of 80 and 120 columns, with and without colour.

`python -m docs.captures` runs the demo four times and keeps what stays on the screen. `tests/test_demo.py` checks that
the words on the page are those of the demo; times and amounts, which vary, are left out of that.
"""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.support import in_terminal, seen, unstyled

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "demo.md"
WIDTHS = (80, 120)

_KEYS = re.compile(r"_KEY$|_TOKEN$|^ROUTER_")

_PICTURE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {height}">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" fill="#292929"/>
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</svg>
"""

_HEAD = """\
# The demo on a terminal

`router demo`, without a key, as it stands on terminals of 80 and 120 columns, with colour and with `NO_COLOR=1`. This
page and its pictures are made by `python -m docs.captures`; times and amounts are of a machine with two cores, and
differ with each run. The tests compare the words with those of a run of their own, and the widths of all four.
"""


def main() -> int:
    """Write the page and the pictures."""
    for name in [name for name in os.environ if _KEYS.search(name)]:
        del os.environ[name]
    parts = [_HEAD]
    for width in WIDTHS:
        plain = "\n".join(captured(width, colour=False)).strip()
        parts.append(f"## {width} columns, without colour\n\n```text\n$ NO_COLOR=1 router demo\n{plain}\n```\n")
        name = f"demo-{width}.svg"
        (DOCS / name).write_text(picture(captured(width, colour=True), width), encoding="utf-8")
        parts.append(f"## {width} columns, with colour\n\n![router demo on {width} columns]({name})\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    return 0


def captured(width: int, *, colour: bool) -> list[str]:
    """The lines that the demo leaves on a terminal, with its styles."""
    return [seen(line) for line in in_terminal("demo", columns=width, styled=colour)]


def words(text: str) -> str:
    """A text without styles, and with one sign for every figure that varies."""
    return " ".join(re.sub(r"\$?[+-]?\d[\d.,]*", "#", unstyled(text)).split())


def picture(lines: list[str], width: int) -> str:
    """A terminal with these lines as a picture."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    return console.export_svg(code_format=_PICTURE, unique_id="demo")


if __name__ == "__main__":
    sys.exit(main())
