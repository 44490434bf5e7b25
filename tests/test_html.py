"""What a notebook shows of an answer: readable in light and dark, escaped, without scripts."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Answer, Router
from router.testing import Reply, ScriptedModels, SimulatedWorld, ToolCall, Usage
from tests.support import make_policy

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


def _answer(small: Any, large: Any = "bug", **options: Any) -> Answer:
    models = ScriptedModels({"small": small, "large": large})
    policy = make_policy({"answer": {"choice": ["billing", "bug"]}})
    with Router(policy, backend=models, world=SimulatedWorld(1)) as client:
        answer: Answer = client.route("t", "Why was I charged twice?", **options)
    return answer


class _Reader(HTMLParser):
    """Collects the text, the tags that are open, and every attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.stack: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack.append(tag)
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_it_says_what_matters() -> None:
    """Text, model, rung, confidence and its source, costs, and each step with its reason."""
    said = _Reader(_answer("billing? bug?", Reply("bug", Usage(10, output_tokens=1)))._repr_html_()).said
    for expected in ("bug", "large, rung 1", "$0.000028", "the draft names 2 of the 2 labels", "last rung", "escalate"):
        assert expected in said
    assert any(part.endswith("(prior)") for part in said)


@pytest.mark.parametrize(
    ("cost", "baseline", "expected"),
    [
        (2_000_000_000, 3_000_000_000, "+$1.00, +33% (estimated)"),
        (3_000_000_000, 2_000_000_000, "−$1.00, −50% (estimated)"),
        (1_000, 3_000, "+$0.000002, +67% (estimated)"),
        (0, 0, "$0.00 (estimated)"),
        (None, 2, "unknown"),
        (2, None, "unknown"),
    ],
)
def test_savings_have_a_sign(cost: int | None, baseline: int | None, expected: str) -> None:
    """A call that cost more than the top rung alone says so; what is unknown is never 0."""
    answer = replace(_answer("billing"), cost_nusd=cost, baseline_cost_nusd=baseline, baseline_source="estimated")
    assert expected in _Reader(answer._repr_html_()).said


def test_tool_calls_are_shown() -> None:
    """An answer that is a call shows it."""
    call = ToolCall("c", "look", '{"city": "<b>Paris</b>"}')
    answer = _answer(Reply("", Usage(1, output_tokens=1), tool_calls=(call,)), tools=TOOLS)
    assert 'look({"city": "<b>Paris</b>"})' in "".join(_Reader(answer._repr_html_()).said)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60), name=st.text(max_size=10))
def test_text_is_shown_and_never_run(text: str, name: str) -> None:
    """Whatever a model says or a policy names, it is text: no tag and no attribute comes from it."""
    hostile = f"<script>alert(1)</script>\"'>{text}"
    answer = replace(_PLAIN, text=hostile, model=name, task=hostile)
    read = _Reader(answer._repr_html_())
    assert hostile.replace("\r\n", "\n") in "".join(read.said) or "\r" in hostile or "\0" in hostile
    assert read.seen <= {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert read.attributes <= {"style", "scope", "colspan"}
    assert read.stack == []


_PLAIN = _answer("billing")


def test_its_colours_are_the_pages() -> None:
    """No colour of its own: text and lines take the page's, so light and dark both fit."""
    page = _PLAIN._repr_html_()
    assert "color-scheme:light dark" in page
    assert "currentColor" in page
    assert re.findall(r"#[0-9a-f]{3,6}|rgb\(|\bwhite(?!-)|\bblack\b", page) == []


def test_a_long_text_is_cut() -> None:
    """A notebook does not keep a megabyte for every cell."""
    assert len(replace(_PLAIN, text="x" * 1_000_000)._repr_html_()) < 30_000
