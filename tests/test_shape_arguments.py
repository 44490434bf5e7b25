"""Bad input of the call-site shapes: typed errors that name the remedy, nothing sent, nothing lost."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router import Router
from router.core.params import CALL_PARAMS
from router.errors import InvalidCall, RequestRefused, RouterError, UnknownTask
from router.options import OPTION_NAMES
from router.shapes.arguments import REMEDIES
from tests.support import make_policy, read_table
from tests.upstream import Upstream

HELLO = [{"role": "user", "content": "say=hello"}]
IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
LOOK = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": LOOK}}

Create = Callable[..., Any]


def _tool(**function: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "look", **function}}]


@pytest.fixture
def client(upstream: Upstream) -> Iterator[Router]:
    """A router on the upstream."""
    with Router(make_policy(api_base=upstream.url)) as made:
        yield made


@pytest.fixture(params=["litellm", "openai", "openai client"])
def create(request: pytest.FixtureRequest, client: Router) -> Create:
    """Each shape's function."""
    completions = {"openai": client.chat, "openai client": client.openai.chat}
    if request.param == "litellm":
        return lambda model, messages, **arguments: client.completion(model, messages, **arguments)
    made: Create = completions[request.param].completions.create
    return made


BAD_MODELS = ["gpt-4o", "t", "task", "", None, 7, ["task:t"]]


@pytest.mark.parametrize("model", BAD_MODELS, ids=repr)
def test_a_model_that_is_no_task_is_refused(create: Create, upstream: Upstream, home: Path, model: Any) -> None:
    """The message has what was given and the tasks that there are."""
    with pytest.raises(InvalidCall, match="'task:t'") as caught:
        create(model=model, messages=HELLO)
    assert (caught.value.argument, repr(model) in str(caught.value)) == ("model", True)
    assert (upstream.bill(), home.exists()) == ([], False)


def test_an_unknown_task_is_refused(create: Create) -> None:
    """A task that the policies do not name is the error that `route` raises."""
    with pytest.raises(UnknownTask, match="unknown task 'u'"):
        create(model="task:u", messages=HELLO)


BAD_ARGUMENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"temprature": 0}, "temprature", "did you mean 'temperature'"),
    ({"foo_bar": 1}, "foo_bar", "`params:` of the model"),
    ({"n": 2}, "n", "one answer is one decision"),
    ({"functions": []}, "functions", "use tools="),
    ({"base_url": "http://127.0.0.1"}, "base_url", "`api_base:` of the model"),
    ({"max_retries": 3}, "max_retries", "`retry:` of the task"),
    ({"fallbacks": ["a"]}, "fallbacks", "the ladder is the fallback"),
    ({"mock_response": "hi"}, "mock_response", "ScriptedModels"),
    ({"stream": True, "response_format": SCHEMA}, "schema", "not both"),
    ({"response_format": {"type": "grammar"}}, "response_format", "'grammar'"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "'json_schema'"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}}, "schema", "JSON Schema"),
    ({"response_format": 7}, "schema", "is a int"),
    ({"response_format": SCHEMA, "schema": LOOK}, "response_format", "give one"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream=True"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options", "include_usage"),
    ({"stream": True, "stream_options": "usage"}, "stream_options", "include_usage"),
    ({"timeout": "ten"}, "timeout", "seconds"),
    ({"timeout": -1}, "deadline_s", "above 0"),
    ({"timeout": 3, "deadline_s": 3}, "timeout", "give one"),
    ({"extra_body": {"top_kk": 3}}, "extra_body", "'top_kk'"),
    ({"extra_body": [1]}, "extra_body", "mapping"),
    ({"api_key": ""}, "credentials", "empty"),
    ({"api_key": "k", "credentials": {"openai": "k"}}, "api_key", "give one"),
    ({"extra_headers": {"Authorization": "Bearer x"}}, "extra_headers", "credentials="),
    ({"metadata": {"x": "y" * 3000}}, "metadata", "at most"),
    ({"user": 7}, "user", "give text"),
    ({"max_tokens": 0}, "params", "above 0"),
    ({"tools": {"type": "function"}}, "tools", "give a list"),
    ({"tools": [{"name": "look"}]}, "tools", "is no function"),
    ({"tools": _tool(parameters={"type": "objekt"})}, "tools", "is no JSON Schema"),
    ({"tools": _tool() * 2}, "tools", "second with the name"),
    ({"tools": _tool(), "tool_choice": {"type": "function", "function": {"name": "see"}}}, "tool_choice", "'look'"),
    ({"tool_choice": "required"}, "tool_choice", "without tools"),
]


@pytest.mark.parametrize(("arguments", "named", "says"), BAD_ARGUMENTS, ids=lambda value: str(value)[:40])
def test_an_argument_that_cannot_be_used_is_refused(
    create: Create, upstream: Upstream, home: Path, arguments: dict[str, Any], named: str, says: str
) -> None:
    """The error names the argument and the remedy; nothing is sent, and no row is written."""
    with pytest.raises(InvalidCall) as caught:
        create(model="task:t", messages=HELLO, **arguments)
    assert caught.value.argument == named
    assert says in str(caught.value)
    assert upstream.bill() == []
    assert not (home / "segments").exists()


BAD_MESSAGES: list[Any] = [None, [], {}, 7, [{"content": "x"}], [{"role": "user", "content": ""}], ["hello"]]


@pytest.mark.parametrize("messages", BAD_MESSAGES, ids=repr)
def test_messages_that_are_none_are_refused(create: Create, upstream: Upstream, messages: Any) -> None:
    """Empty or malformed messages are the error that `route` raises."""
    with pytest.raises(InvalidCall, match="prompt:"):
        create(model="task:t", messages=messages)
    assert upstream.bill() == []


def test_messages_may_be_any_iterable(create: Create) -> None:
    """A generator of messages is read once."""
    assert create(model="task:t", messages=iter(HELLO)).choices[0].message.content == "hello"


def test_one_key_is_not_sent_to_two_providers(upstream: Upstream) -> None:
    """With two providers on the ladder the error says how to name one."""
    policy = make_policy(api_base=upstream.url)
    object.__setattr__(policy.models["large"], "litellm", "anthropic/large")
    with Router(policy) as client, pytest.raises(InvalidCall, match=r"anthropic, openai.*credentials=\{'anthropic'"):
        client.completion("task:t", HELLO, api_key="sk-mine")
    assert upstream.bill() == []


def test_a_call_to_a_tool_that_was_not_offered_climbs(create: Create, home: Path) -> None:
    """The draft is on record, and so is the answer of the rung above; the last rung's is given with its flaw."""
    response = create(
        model="task:t",
        messages=[{"role": "user", "content": "call=smell:{}"}],
        tools=_tool(parameters=LOOK),
    )
    assert [row["model"] for row in read_table(home, "attempts")] == ["small", "large"]
    assert [step.reason for step in response.router.steps] == [
        "the draft calls a tool that was not offered",
        "last rung; the answer calls a tool that was not offered",
    ]


def test_an_image_for_a_rung_that_sees_nothing_skips_it(upstream: Upstream, home: Path) -> None:
    """A rung that is known to take text only is skipped; without another the call fails before it is sent."""
    messages: list[Any] = [{"role": "user", "content": [*IMAGE, {"type": "text", "text": "say=seen"}]}]
    policy = make_policy(api_base=upstream.url)
    object.__setattr__(policy.models["small"], "capabilities", ("tools",))
    with Router(policy) as client:
        answer = client.completion("task:t", messages).router
        assert (answer.model, answer.steps[0].action, answer.text) == ("large", "skip", "seen")
        object.__setattr__(policy.models["large"], "capabilities", ())
    with Router(policy) as blind, pytest.raises(InvalidCall, match="large: it cannot take images"):
        blind.completion("task:t", messages)
    assert [row.model for row in upstream.bill()] == ["large"]
    assert [row["outcome"] for row in read_table(home, "routes")] == ["answered", "InvalidCall"]


def test_what_the_provider_refuses_is_typed_and_on_record(create: Create, home: Path) -> None:
    """A request that the provider calls invalid is `RequestRefused`, whatever the shape."""
    with pytest.raises(RequestRefused):
        create(model="task:t", messages=[{"role": "user", "content": "fault=bad_request"}])
    assert [row["outcome"] for row in read_table(home, "routes")] == ["RequestRefused"]


def test_a_draft_that_is_no_json_climbs(create: Create, home: Path) -> None:
    """With a format, a draft of words climbs and the last rung's answer says what is wrong with it."""
    answer = create(model="task:t", messages=HELLO, response_format=SCHEMA).router
    assert (answer.rung, answer.parsed, len(read_table(home, "attempts"))) == (1, None, 2)


def test_every_known_argument_is_taken_or_has_a_remedy() -> None:
    """What litellm and the SDK name in their signatures is an option, a parameter, or refused with words of its own."""
    import inspect

    import litellm
    import openai

    taken = {
        "model",
        "messages",
        "stream",
        "stream_options",
        "timeout",
        "response_format",
        "api_key",
        "extra_body",
        "n",
    }
    known = OPTION_NAMES | CALL_PARAMS | REMEDIES.keys() | taken
    theirs = set(inspect.signature(litellm.main.completion).parameters)
    theirs |= set(inspect.signature(openai.resources.chat.Completions.create).parameters)
    general = {
        *("kwargs", "self", "deployment_id", "include_server_side_tool_invocations", "shared_session"),
        *("enable_json_schema_validation", "extra_query", "moderation", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "safety_identifier", "store", "model_list"),
    }
    assert theirs - known - general == set()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.dictionaries(
        st.sampled_from(
            sorted(
                (OPTION_NAMES | CALL_PARAMS | REMEDIES.keys() | {"stream", "stream_options", "timeout"})
                - {"model", "messages"}
            )
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
            max_leaves=4,
        ),
        max_size=3,
    )
)
def test_no_arguments_raise_anything_but_our_errors(arguments: dict[str, Any]) -> None:
    """Whatever the arguments hold, the shape answers or raises one of our errors."""
    from router.testing import ScriptedModels, SimulatedWorld

    world = SimulatedWorld()
    text = json.dumps({"a": base64.b64encode(b"x").decode()})
    models = ScriptedModels({"small": text, "large": text}, clock=world.clock)
    with Router(make_policy(), backend=models, world=world) as client:
        try:
            made = client.completion("task:t", HELLO, **arguments)
            list(made) if arguments.get("stream") else made.choices[0].message.content
        except RouterError:
            pass
