"""Ten turns with tools that climb in the fourth: valid for either vendor at each turn, scripted and over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from router import Answer, Router
from router.core.call import Call, Message, Reply, ToolCall, Usage
from router.core.policy import Policy
from router.core.tools import rung_of
from router.testing import ScriptedModels
from tests.support import PRICES, read_table
from tests.upstream import Upstream

LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Find an order.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "integer", "minimum": 1}},
            "required": ["order"],
            "additionalProperties": False,
        },
    },
}
GOOD, BAD = 'look_up:{"order":7}', 'look_up:{"order":"seven"}'

# What each turn brings: a question, or the results of the calls of the turn before.
TURNS: list[tuple[str, str]] = [
    ("user", f"call={GOOD}"),  # 1: the small model calls
    ("tool", f"call={GOOD}|{GOOD}"),  # 2: it goes on, with two calls at once
    ("tool", "say=it_is_on_its_way"),  # 3: it has finished
    ("user", ""),  # 4: what the small model drafts is no good, and the large one answers
    ("tool", f"call={GOOD}"),  # 5: the large one goes on, although the small one could have
    ("tool", f"call={GOOD}|{GOOD}"),  # 6
    ("tool", "say=it_was_lost"),  # 7: the large one has finished
    ("user", f"call={GOOD}"),  # 8: a new question begins with the small model again
    ("tool", f"call={GOOD}"),  # 9
    ("tool", "say=a_new_one_is_on_its_way"),  # 10
]
ANSWERED_BY = [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]


def _policy(small: str, large: str, upstream: Upstream) -> Policy:
    bases = {"openai": upstream.url, "anthropic": upstream.root}
    models = {
        name: {
            "litellm": litellm,
            "price": PRICES[name],
            "api_base": bases[litellm.partition("/")[0]],
            "capabilities": ["tools", "system"],
        }
        for name, litellm in (("small", small), ("large", large))
    }
    tasks = {"t": {"ladder": ["small", "large"], "threshold": 0.5, "max_output_tokens": 100, "system": "Be brief."}}
    return TypeAdapter(Policy).validate_json(json.dumps({"version": 1, "models": models, "tasks": tasks}))


def _converse(ask: Callable[[list[Any]], Answer], fourth: str) -> list[Answer]:
    """Ten turns of an application that keeps its history as chat completions have it."""
    history: list[Any] = []
    answers: list[Answer] = []
    for number, (role, text) in enumerate(TURNS, 1):
        if role == "user":
            history.append({"role": "user", "content": f"{text or fourth} turn={number}"})
        else:
            calls = answers[-1].tool_calls
            assert calls
            history += [{"role": "tool", "tool_call_id": call.id, "content": f"{text} turn={number}"} for call in calls]
        answers.append(ask(list(history)))
        history.append(answers[-1].message)
    return answers


def _assert_as_planned(answers: list[Answer]) -> None:
    assert [answer.rung for answer in answers] == ANSWERED_BY
    assert [len(answer.tool_calls) for answer in answers] == [1, 2, 0, 1, 1, 2, 0, 1, 1, 0]
    assert all(call.parsed == {"order": 7} for answer in answers for call in answer.tool_calls)
    assert answers[4].steps[0].reason == "rung 'large' made the tool calls that are answered here, so it goes on"
    ids = [call.id for answer in answers for call in answer.tool_calls]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("way", ["blocking", "awaited", "live"])
@pytest.mark.parametrize(
    ("small", "large"),
    [("anthropic/small", "openai/large"), ("openai/small", "anthropic/large"), ("openai/small", "openai/large")],
    ids=["anthropic_to_openai", "openai_to_anthropic", "openai_to_openai"],
)
def test_ten_turns_over_http(
    small: str,
    large: str,
    way: str,
    upstream: Upstream,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The upstream refuses, as the vendor does, any turn whose calls, results, ids or keys are not in order."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-a-key")
    with Router(_policy(small, large, upstream)) as router, asyncio.Runner() as runner:

        def ask(history: list[Any]) -> Answer:
            if way == "awaited":
                return runner.run(router.aroute("t", history, tools=[LOOK_UP]))
            if way == "blocking":
                return router.route("t", history, tools=[LOOK_UP])
            with router.route("t", history, tools=[LOOK_UP], stream=True) as stream:
                text = "".join(map(str, stream))
            assert text == stream.answer.text
            return stream.answer

        # The first of two requests with this message is the small model's, and is cut short.
        answers = _converse(ask, f"fault=truncated_answer,ok call={GOOD}")
    _assert_as_planned(answers)
    assert [row.kind for row in upstream.bill() if not row.charged] == []
    assert sum(answer.cost_nusd or 0 for answer in answers) == sum(row.cost_nusd for row in upstream.bill())
    assert {row["state"] for row in read_table(home, "attempts")} == {"settled"}


def test_ten_turns_with_scripted_models() -> None:
    """The same without a network, and what each model is sent holds no mark and no turn of the other's own making."""
    models = ScriptedModels({"small": _scripted, "large": _scripted})
    policy = _scripted_policy()
    with Router(policy, backend=models) as router:
        answers = _converse(lambda history: router.route("t", history, tools=[LOOK_UP]), f"call={BAD}")
    _assert_as_planned(answers)
    assert answers[3].steps[0].reason.startswith("the draft calls 'look_up' with arguments that do not fit")
    for call in models.history:
        _assert_in_order(call.messages)


def _scripted_policy() -> Policy:
    models = {name: {"litellm": f"a/{name}", "price": price} for name, price in PRICES.items()}
    tasks = {"t": {"ladder": ["small", "large"], "threshold": 0.5}}
    return TypeAdapter(Policy).validate_json(json.dumps({"version": 1, "models": models, "tasks": tasks}))


def _scripted(call: Call) -> Reply:
    """Say what the last message asks for; the large model puts right what the small one gets wrong."""
    text = str(call.messages[-1]["content"])
    said = text.partition("say=")[2].split(" ")[0].replace("_", " ")
    asked = text.partition("call=")[2].split(" ")[0]
    calls = tuple(
        ToolCall(f"{call.name}{len(call.messages)}{number}", *part.split(":", 1))
        for number, part in enumerate(asked.split("|") if asked else [])
    )
    if call.name == "large":
        calls = tuple(ToolCall(one.id, one.name, one.arguments.replace('"seven"', "7")) for one in calls)
    usage = Usage(input_tokens=10, output_tokens=5)
    return Reply(said, usage, "tool_calls" if calls else "stop", tool_calls=calls)


def _assert_in_order(messages: tuple[Message, ...]) -> None:
    """Every result follows the call that it answers, and nothing of ours is in what is sent."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert waiting == []
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
    assert waiting == []
    assert "--r" not in json.dumps([dict(message) for message in messages])
    assert rung_of(messages) is None
