"""Every pair of docs/wrapping.md: the call site before with its real client, and after; both print the same."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import router.default
from tests.support import read_table
from tests.upstream import Upstream

PAGE = Path(__file__).resolve().parents[1] / "docs" / "wrapping.md"

# What the upstream answers, by section; elsewhere `billing`.
REPLIES = {
    "OpenAI SDK, streaming": "Paris, of course",
    "OpenAI SDK, tools": '{"customer": "ann"}',
    "OpenAI SDK, structured output": '{"name": "Paris", "country": "France"}',
    "instructor": '{"name": "Paris", "country": "France"}',
    "litellm, asynchronous and streaming": "Paris, of course",
}
POLICY = """
version: 1
models:
  luna: {{litellm: openai/small, api_base: "{url}", price: {{input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}}}}
  opus: {{litellm: openai/large, api_base: "{url}", price: {{input_usd_per_mtok: 2, output_usd_per_mtok: 8}}}}
tasks:
  classify-ticket: {{ladder: [luna, opus], threshold: 0.8, answer: {{choice: [billing, bug, how-to, other]}}}}
  answer-question: {{ladder: [luna, opus], threshold: 0.8}}
"""


class Pair(NamedTuple):
    section: str
    before: str
    after: str


def _pairs() -> list[Pair]:
    found = []
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        blocks = re.findall(r"<!-- not run: [^\n]+ -->\n+```python\n(.*?)```", section, re.S)
        if blocks:
            found.append(Pair(section.partition("\n")[0], *blocks))
    return found


@pytest.fixture
def folder(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with policies, and an environment in which the clients find the upstream."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "tickets.yml").write_text(POLICY.format(url=upstream.url), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    monkeypatch.setattr(router.default, "_default", None)
    return tmp_path


def _printed(code: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, str(PAGE), "exec"), {"__name__": "example"})
    return output.getvalue()


def test_the_page_has_a_pair_for_every_shape() -> None:
    """Each section with code that is run here has two blocks, and each shape of the table a section."""
    assert len(_pairs()) == 12
    assert set(REPLIES) <= {pair.section for pair in _pairs()}


@pytest.mark.parametrize("pair", _pairs(), ids=lambda pair: pair.section)
def test_a_call_site_prints_the_same_after_as_before(pair: Pair, folder: Path, home: Path, upstream: Upstream) -> None:
    """The old code with its own client and the new code print the same, and only the new has a ledger."""
    if pair.section == "instructor" and importlib.util.find_spec("instructor") is None:
        pytest.skip("instructor is not installed; test_instructor_like.py makes its calls")
    said = REPLIES.get(pair.section, "billing")
    upstream.reset("say64=" + base64.b64encode(said.encode()).decode())
    before = _printed(pair.before)
    assert not home.exists()
    after = _printed(pair.after)
    assert (after, before.strip() != "") == (before, True)
    assert {row["state"] for row in read_table(home, "attempts")} == {"settled"}


def test_the_remedies_of_the_page_are_those_of_the_code() -> None:
    """Each refused argument of the page is refused by those words."""
    rows: list[Any] = re.findall(
        r"^\| `(\w+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8").split("begin refused")[1], re.M
    )
    from router.shapes.arguments import REMEDIES

    assert {name: REMEDIES[name] for name, _ in rows} == dict(rows)
