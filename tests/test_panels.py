"""Panels: models asked one after the other until enough of them agree, each answer paid for and on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from router import Router, load_policy
from router.audit.costs import cost_lines
from router.audit.query import Filters
from router.audit.reading import reading
from router.core.answer import Answer
from router.core.call import Failure, Reply, ToolCall, Usage
from router.core.faults import Fault
from router.core.ladder import places
from router.core.panel import Vote, agreeing, hopeless, leading, panel_signals, settled
from router.core.policy import PanelRung, Price
from router.errors import BudgetExceeded, CostLimitExceeded
from router.testing import ScriptedModels
from router.tuning.table import panel_columns

POLICY = """\
version: 1
models:
  a: {litellm: x/a}
  b: {litellm: x/b}
  c: {litellm: x/c}
  large: {litellm: x/large}
tasks:
  t:
    ladder: [{panel: PANEL}, large]
    threshold: 0.8
    answer: {choice: [bug, billing, how-to]}
    max_output_tokens: 8
"""
PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=1, request_usd="0.001")  # type: ignore[arg-type]


def asked(
    folder: Path,
    script: Mapping[str, Any],
    panel: Sequence[str] = ("a", "b", "c"),
    *,
    policy: str = POLICY,
    **options: Any,
) -> tuple[Answer, list[tuple[str, str]]]:
    """The answer of one call, and what happened at each model."""
    path = folder / "policies"
    path.mkdir(exist_ok=True)
    (path / "p.yml").write_text(policy.replace("PANEL", f"[{', '.join(panel)}]"), encoding="utf-8")
    with Router(path, home=folder / "home", backend=ScriptedModels(script, price=PRICE)) as router:
        answer = router.route("t", "It crashed", **options)
    return answer, [(step.model, step.action) for step in answer.steps]


# What the members say


def test_two_that_agree_are_a_majority_of_three(tmp_path: Path) -> None:
    """The third is not asked, the answer is the first one's draft, and nothing was escalated."""
    answer, actions = asked(tmp_path, {"a": "bug", "b": "Bug.", "c": "never"})
    assert actions == [("a", "next"), ("b", "accept")]
    assert (answer.text, answer.parsed, answer.model, answer.rung) == ("bug", "bug", "a", 0)
    assert (answer.escalated, answer.marginal_cost_nusd) == (False, 0)
    assert answer.cost_nusd == sum(attempt.amount.nusd or 0 for attempt in answer.attempts)
    assert len(answer.attempts) == 2
    assert answer.steps[0].reason == "the members do not agree yet: 1 of 3 members give this answer"
    assert answer.steps[1].reason.startswith("2 of 3 members give this answer; confidence 0.")


def test_the_third_breaks_a_tie(tmp_path: Path) -> None:
    """The majority is the second and the third: the answer is the second one's, who said it first."""
    answer, actions = asked(tmp_path, {"a": "bug", "b": "billing", "c": "billing"}, policy=POLICY.replace("0.8", "0.7"))
    assert actions == [("a", "next"), ("b", "next"), ("c", "accept")]
    assert (answer.parsed, answer.model, answer.rung, len(answer.attempts)) == ("billing", "b", 0, 3)


def test_members_that_differ_climb(tmp_path: Path) -> None:
    """Every member was paid for, and the call says so."""
    answer, actions = asked(tmp_path, {"a": "bug", "b": "billing", "c": "how-to", "large": "bug"})
    assert actions == [("a", "next"), ("b", "next"), ("c", "escalate"), ("large", "accept")]
    assert (answer.model, answer.rung, answer.escalated, len(answer.attempts)) == ("large", 1, True, 4)
    assert answer.steps[2].reason == "the members differ: 1 of 3 members give this answer"
    assert answer.marginal_cost_nusd == answer.attempts[-1].amount.nusd


def test_nobody_is_asked_who_cannot_change_the_outcome(tmp_path: Path) -> None:
    """Of four, two that differ leave three for one answer, three that differ only two, which is no majority."""
    script = {"a": "bug", "b": "billing", "c": "how-to", "d": "never", "large": "bug"}
    policy = POLICY.replace("  large:", "  d: {litellm: x/d}\n  large:")
    _, actions = asked(tmp_path, script, ("a", "b", "c", "d"), policy=policy)
    assert actions == [("a", "next"), ("b", "next"), ("c", "escalate"), ("large", "accept")]


def test_an_unusable_draft_has_no_vote(tmp_path: Path) -> None:
    """Two of three usable ones agree, whatever the first one rambled."""
    policy = POLICY.replace("0.8", "0.7")
    answer, actions = asked(tmp_path, {"a": "hm", "b": "bug", "c": "bug"}, policy=policy)
    assert actions == [("a", "next"), ("b", "next"), ("c", "accept")]
    assert (answer.parsed, answer.model) == ("bug", "b")


def test_a_panel_of_two_that_says_nothing_usable_climbs(tmp_path: Path) -> None:
    """As a single model's draft would."""
    answer, actions = asked(tmp_path, {"a": "hm", "b": "hm", "large": "bug"}, ("a", "b"))
    assert answer.model == "large"
    assert actions[-1] == ("large", "accept")


def test_a_member_that_is_down_is_done_without(tmp_path: Path) -> None:
    """The two others are a majority of three."""
    policy = POLICY.replace("0.8", "0.7")
    script = {"a": "bug", "b": Failure(Fault.NOT_FOUND), "c": "bug"}
    with pytest.warns(UserWarning, match="b"):
        answer, actions = asked(tmp_path, script, policy=policy)
    assert actions == [("a", "next"), ("b", "fail"), ("c", "accept")]
    assert answer.model == "a"


def test_a_second_sample_is_another_vote(tmp_path: Path) -> None:
    """A model that stands twice is asked twice."""
    answer, actions = asked(tmp_path, {"a": ["bug", "bug"]}, ("a", "a"))
    assert actions == [("a", "next"), ("a", "accept")]
    assert (answer.model, len(answer.attempts)) == ("a", 2)


def test_json_answers_agree_on_the_fields_that_count(tmp_path: Path) -> None:
    """Two models never reason in the same words."""
    policy = POLICY.replace("{choice: [bug, billing, how-to]}", "{json: {}}\n    agree_on: [label]")
    script = {"a": '{"why": "it crashed", "label": "bug"}', "b": '{"why": "a fault", "label": "bug"}'}
    answer, actions = asked(tmp_path, script, ("a", "b"), policy=policy)
    assert actions == [("a", "next"), ("b", "accept")]
    assert answer.parsed == {"why": "it crashed", "label": "bug"}


@pytest.mark.parametrize("said", ['{"error": 1}', "null", "[]"])
def test_json_that_lacks_what_counts_has_no_vote(tmp_path: Path, said: str) -> None:
    """Members that all say nothing to the point are no majority."""
    policy = POLICY.replace("{choice: [bug, billing, how-to]}", "{json: {}}\n    agree_on: [label]")
    answer, actions = asked(tmp_path, {"a": said, "b": said, "large": '{"label": 1}'}, ("a", "b"), policy=policy)
    assert actions == [("a", "escalate"), ("large", "accept")]  # With one vote of two missing, none is a majority.
    assert answer.steps[0].reason == "the draft holds nothing to be compared"


class Label(BaseModel):
    """A caller's own type that cannot be compared."""

    label: str
    why: str = ""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("secret")

    __hash__ = None  # type: ignore[assignment]


def test_a_shape_of_the_caller_s_own_is_compared_as_json(tmp_path: Path) -> None:
    """By the fields that count, whatever the type makes of them."""
    policy = POLICY.replace("{choice: [bug, billing, how-to]}", "{json: {}}\n    agree_on: [label]")
    script = {"a": '{"label": "bug", "why": "1"}', "b": '{"label": "bug", "why": "2"}'}
    answer, actions = asked(tmp_path, script, ("a", "b"), policy=policy, schema=Label)
    assert actions == [("a", "next"), ("b", "accept")]
    assert answer.parsed.why == "1"


def test_tool_calls_agree_by_name_and_arguments(tmp_path: Path) -> None:
    """The ids that models make up, and the spaces between their arguments, do not count."""
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    script = {
        name: Reply("", Usage(10, output_tokens=5), tool_calls=(ToolCall(f"id-{name}", "f", arguments),))
        for name, arguments in (("a", '{"x": 1}'), ("b", '{ "x":1 }'))
    }
    answer, actions = asked(tmp_path, script, ("a", "b"), tools=[{"type": "function", "function": tool}])
    assert actions == [("a", "next"), ("b", "accept")]
    assert [call.name for call in answer.tool_calls] == ["f"]


def test_a_majority_that_looks_doubtful_is_not_asked_further(tmp_path: Path) -> None:
    """Nobody's vote would change what the drafts look like."""
    policy = POLICY.replace("0.8", "0.99")
    _, actions = asked(tmp_path, {"a": "bug", "b": "bug", "large": "bug"}, policy=policy)
    assert actions == [("a", "next"), ("b", "escalate"), ("large", "accept")]


def test_nobody_is_asked_when_too_many_are_down(tmp_path: Path) -> None:
    """One of two can never be more than half."""
    with pytest.warns(UserWarning, match="a"):
        _, actions = asked(tmp_path, {"a": Failure(Fault.NOT_FOUND), "b": "never", "large": "bug"}, ("a", "b"))
    assert actions == [("a", "fail"), ("large", "accept")]


# Limits and records


def test_a_limit_in_the_middle_keeps_what_the_panel_said(tmp_path: Path) -> None:
    """The draft that leads is the best there is."""
    one = asked(tmp_path, {"a": "bug", "b": "bug"})[0].attempts[0].amount.upper_nusd
    assert one is not None
    answer, actions = asked(tmp_path, {"a": "bug", "b": "bug"}, max_cost_usd=1.5 * one / 1e9)
    assert actions == [("a", "next"), ("b", "skip"), ("a", "keep")]
    assert answer.text == "bug"
    with pytest.raises(CostLimitExceeded):
        asked(tmp_path, {"a": "hm"}, max_cost_usd=1.5 * one / 1e9)


def test_members_of_the_first_panel_are_no_escalations(tmp_path: Path) -> None:
    """A quota of escalations stops the call where it would leave the panel."""
    policy = POLICY + "budgets: {at_limit: refuse, user: {default: {escalations_per_day: 1}}}\n"
    asked(tmp_path, {"a": "bug", "b": "billing", "c": "how-to", "large": "bug"}, policy=policy, user="ann")
    answer, _ = asked(tmp_path, {"a": "bug", "b": "bug"}, policy=policy, user="ann")
    assert len(answer.attempts) == 2
    with pytest.raises(BudgetExceeded):
        asked(tmp_path, {"a": "bug", "b": "billing", "c": "how-to", "large": "bug"}, policy=policy, user="ann")


def test_further_members_and_samples_are_lines_of_their_own(tmp_path: Path) -> None:
    """The bill tells what the panel cost beside the first answers, and what climbing did."""
    asked(tmp_path, {"a": "bug", "b": "bug"})
    asked(tmp_path, {"a": "bug", "b": "billing", "c": "how-to", "large": "bug"})
    asked(tmp_path, {"a": ["bug", "bug"]}, ("a", "a"))
    with reading(tmp_path / "home") as (database, _):
        assert database is not None
        lines = {line.line: line.requests for line in cost_lines(database, Filters())}
    assert lines == {"first": 3, "panel": 3, "sample": 1, "escalation": 1}


# The rules, as laws

answers = st.sampled_from(["red", "green", "blue", None])
sure = st.one_of(st.none(), st.floats(0.0, 1.0))
members = st.lists(st.builds(Vote, answers, sure), min_size=1, max_size=6)


@given(members)
def test_the_leading_answer_has_the_most_votes_and_came_first(votes: list[Vote]) -> None:
    """No other answer has more, and no earlier draft has as many."""
    lead = leading(votes)
    usable = [at for at, vote in enumerate(votes) if vote.value is not None]
    if lead is None:
        assert not usable
        return
    most = agreeing(votes, lead)
    assert all(agreeing(votes, at) <= most for at in usable)
    assert all(agreeing(votes, at) < most for at in usable if at < lead)


@given(members, st.integers(0, 4))
def test_what_is_settled_cannot_change_and_what_is_hopeless_cannot_settle(votes: list[Vote], more: int) -> None:
    """Whatever the members say that were not asked yet."""
    size = len(votes) + more
    lead = leading(votes)
    for value in ("red", "green", None):
        whole = [*votes, *[Vote(value, None)] * more]
        if settled(votes, size):
            assert lead is not None
            assert whole[leading(whole) or 0].value == votes[lead].value
        if hopeless(votes, size):
            assert not settled(whole, size)


@given(st.lists(st.tuples(*[st.builds(Vote, answers, sure)] * 3), min_size=1, max_size=20), st.integers(1, 3))
def test_columns_say_what_calls_say(rows: list[tuple[Vote, ...]], size: int) -> None:
    """Whole columns and row by row, the leading member and every signal."""
    said = [np.array([row[at].value for row in rows], dtype=object) for at in range(size)]
    alone = [np.array([np.nan if row[at].alone is None else row[at].alone for row in rows]) for at in range(size)]
    columns, lead = panel_columns(said, alone)
    for at, row in enumerate(rows):
        votes = row[:size]
        found = leading(votes)
        assert lead[at] == (-1 if found is None else found)
        known = {name: values[at] for name, values in columns.items() if not np.isnan(values[at])}
        assert known == pytest.approx(panel_signals(votes))


def test_places_tell_samples_apart() -> None:
    """Keys are unique, and members know their rung and their panel."""
    found = places((PanelRung(("a", "b", "a")), "large"))
    assert [place.key for place in found] == ["a", "b", "a#2", "large"]
    assert [(place.rung, place.member, place.members) for place in found] == [
        (0, 0, 3),
        (0, 1, 3),
        (0, 2, 3),
        (1, 0, 1),
    ]


def test_a_policy_may_name_a_panel(tmp_path: Path) -> None:
    """It loads as plain data."""
    (tmp_path / "p.yml").write_text(POLICY.replace("PANEL", "[a, b]"), encoding="utf-8")
    assert load_policy(tmp_path).tasks["t"].ladder == (PanelRung(("a", "b")), "large")


# Questions about the first draft


def test_before_tuning_no_question_is_asked(tmp_path: Path) -> None:
    """A panel of one model and a question does what the model alone does, whether its draft is kept or not."""
    answer, actions = asked(tmp_path, {"a": "bug"}, ("a", "{judge: b}"), policy=POLICY.replace("0.8", "0.5"))
    assert (answer.model, actions) == ("a", [("a", "accept")])
    answer, actions = asked(tmp_path, {"a": "hm", "large": "bug"}, ("a", "{judge: b}"))
    assert (answer.model, actions) == ("large", [("a", "escalate"), ("large", "accept")])


def test_a_question_has_no_vote(tmp_path: Path) -> None:
    """Of a judge and two models the two are all that can agree."""
    answer, actions = asked(tmp_path, {"a": "bug", "b": "bug"}, ("a", "{judge: c}", "b"))
    assert (answer.model, actions) == ("a", [("a", "next"), ("c", "skip"), ("b", "accept")])
    assert answer.steps[1].reason == "a question about a draft is asked by a tuned plan only"
    assert answer.steps[2].reason.startswith("2 of 2 members give this answer; ")
