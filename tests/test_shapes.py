"""litellm's and OpenAI's shapes: their own objects, whole and in chunks, beside those of the bare libraries."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import litellm
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ParsedChatCompletion
from pydantic import BaseModel

import router.default
from router import Router
from router.errors import DeadlineExceeded, InvalidCall, StreamInterrupted
from router.testing import Reply, ScriptedModels, SimulatedWorld, Usage
from tests.support import make_policy, read_table
from tests.upstream import Upstream

LOOK = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": LOOK}}]
USAGE_TOO = {"stream": True, "stream_options": {"include_usage": True}}

Create = Callable[..., Any]


def says(text: str) -> list[dict[str, Any]]:
    """The messages of one user turn."""
    return [{"role": "user", "content": text}]


@pytest.fixture
def routed(upstream: Upstream) -> Iterator[Router]:
    """A router on the upstream whose drafts are taken."""
    with Router(make_policy(api_base=upstream.url)) as made:
        yield made


@pytest.fixture
def direct(upstream: Upstream) -> Iterator[Router]:
    """A router on the upstream with one rung, which streams live."""
    with Router(make_policy({"ladder": ["small"]}, api_base=upstream.url)) as made:
        yield made


def _openai_like(client: Any) -> Create:
    def create(**arguments: Any) -> Any:
        return client.chat.completions.create(model="task:t", **arguments)

    return create


def _ours(client: Router) -> dict[str, Create]:
    """The ways into a router, by the library whose shape they have."""
    return {
        "litellm": lambda **arguments: client.completion("task:t", **arguments),
        "openai": _openai_like(client),
        "openai client": _openai_like(client.openai),
    }


def _theirs(upstream: Upstream) -> dict[str, Create]:
    """The bare libraries on the same upstream."""
    client = openai.OpenAI(base_url=upstream.url)
    # litellm asks for a package that it does not require as soon as there are tools.
    bare = {"api_base": upstream.url, "_skip_mcp_handler": True}
    return {
        "litellm": lambda **arguments: litellm.completion("openai/small", **bare, **arguments),
        "openai": lambda **arguments: client.chat.completions.create(model="small", **arguments),
    }


SHAPES = ["litellm", "openai", "openai client"]


def _plain(response: Any) -> dict[str, Any]:
    """A response without what differs between two calls."""
    body: dict[str, Any] = response.model_dump(exclude_none=True)
    for name in ("id", "created", "model"):
        assert body.pop(name)
    for choice in body["choices"]:
        for part in (choice, choice.get("message") or choice["delta"]):
            part.pop("provider_specific_fields", None)
            part.pop("refusal", None)
            for call in part.get("tool_calls", ()):
                call.pop("id", None)
    return body


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", ["say=one_two_three", 'call=look:{"a":1}'])
def test_a_response_is_what_the_library_itself_returns(
    routed: Router, upstream: Upstream, shape: str, text: str
) -> None:
    """Class, message, tool calls, finish reason and usage are those of the bare library's own response."""
    ours = _ours(routed)[shape](messages=says(text), tools=TOOLS)
    theirs = _theirs(upstream)[shape.partition(" ")[0]](messages=says(text), tools=TOOLS)
    assert isinstance(ours, type(theirs))
    assert _plain(ours) == _plain(theirs)
    assert (ours.model, ours.id) == ("small", ours.router.route_id)
    assert [call.id for call in ours.router.tool_calls] == [
        call.id for call in ours.choices[0].message.tool_calls or ()
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_are_what_the_library_itself_streams(direct: Router, upstream: Upstream, shape: str) -> None:
    """A live answer has the library's own chunks: role, words, finish reason, usage."""
    ours = list(_ours(direct)[shape](messages=says("say=one_two_three"), **USAGE_TOO))
    theirs = list(_theirs(upstream)[shape.partition(" ")[0]](messages=says("say=one_two_three"), **USAGE_TOO))
    assert {type(chunk) for chunk in ours} == {type(chunk) for chunk in theirs}
    spoken = [chunk for chunk in theirs if not chunk.choices or chunk.choices[0].delta.content != ""]
    told = [_plain(chunk) for chunk in ours]
    assert told[0]["choices"][0]["delta"].pop("role") == "assistant"  # Theirs has a chunk of its own for it.
    expected = [_plain(chunk) for chunk in spoken]
    for chunk in expected:
        for choice in chunk["choices"]:
            choice["delta"].pop("role", None)
    assert told == expected
    assert len({chunk.id for chunk in ours}) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_draft_comes_as_chunks_of_the_same_shape(routed: Router, shape: str) -> None:
    """A buffered draft is one chunk and an ending, and no usage where nobody asked for it."""
    with _ours(routed)[shape](messages=says("say=one_two_three"), stream=True) as stream:
        chunks = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["one two three", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "stop"]
    assert (stream.router.text, stream.router.rung) == ("one two three", 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("which", ["routed", "direct"])
def test_streamed_tool_calls_put_together_are_the_whole_ones(
    which: str, shape: str, request: pytest.FixtureRequest
) -> None:
    """The parts of each call, by its index, make the call with its marked id."""
    stream = _ours(request.getfixturevalue(which))[shape](
        messages=says('call=look:{"a":1}|look:{"a":22222222222}'), tools=TOOLS, stream=True
    )
    calls: dict[int, list[str]] = {}
    for chunk in stream:
        for part in chunk.choices[0].delta.tool_calls or ():
            call = calls.setdefault(part.index, ["", "", ""])
            told = (part.id, part.function.name, part.function.arguments)
            calls[part.index] = [had + (new or "") for had, new in zip(call, told, strict=True)]
    expected = [[call.id, call.name, call.arguments] for call in stream.router.tool_calls]
    assert list(calls.values()) == expected
    assert all(call[0].endswith("--r0") for call in expected)


def test_litellm_builds_a_response_from_our_chunks(direct: Router) -> None:
    """`stream_chunk_builder` makes of the chunks what the whole call returns."""
    chunks = list(direct.completion("task:t", says("say=one_two_three"), **USAGE_TOO))
    built: Any = litellm.stream_chunk_builder(chunks)
    assert (built.choices[0].message.content, built.usage.completion_tokens) == ("one two three", 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tool_loop_goes_on_with_the_librarys_own_message(routed: Router, upstream: Upstream, shape: str) -> None:
    """The message object is appended as it is, and the rung that made the call takes it back."""
    messages: list[Any] = says('call=look:{"a":1}')
    create = _ours(routed)[shape]
    message = create(messages=messages, tools=TOOLS).choices[0].message
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "say=seen"}]
    assert create(messages=messages, tools=TOOLS).choices[0].message.content == "seen"
    assert [(row.model, row.kind) for row in upstream.bill()] == [("small", "ok")] * 2


@pytest.mark.parametrize("shape", SHAPES)
def test_leaving_a_stream_early_settles_its_row(direct: Router, upstream: Upstream, home: Path, shape: str) -> None:
    """What was shown is on record with about what it cost, and the connection is closed."""
    with _ours(direct)[shape](messages=says("say=" + "word_" * 500), stream=True) as stream:
        assert next(iter(stream)).choices[0].delta.content == "word"
    (row,) = read_table(home, "attempts")
    assert (row["fault"], row["state"], row["usage_source"]) == ("cancelled", "estimated", "estimated")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_that_is_dropped_settles_its_row(direct: Router, home: Path, shape: str) -> None:
    """The last reference that goes ends the request, without waiting for the garbage collector."""
    gc.disable()
    try:
        next(iter(_ours(direct)[shape](messages=says("say=" + "word_" * 500), stream=True)))
        assert [row["fault"] for row in read_table(home, "attempts")] == ["cancelled"]
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cut_stream_is_our_typed_error(direct: Router, shape: str) -> None:
    """A stream that breaks after its first chunk raises `StreamInterrupted` with what arrived."""
    with pytest.raises(StreamInterrupted) as caught:
        list(_ours(direct)[shape](messages=says("say=one_two_three fault=cut cut_after=2"), stream=True))
    assert caught.value.partial_text == "one two"


async def _async_shapes(client: Router, messages: list[Any], **arguments: Any) -> list[Any]:
    return [
        await client.acompletion("task:t", messages, **arguments),
        await client.async_openai.chat.completions.create(model="task:t", messages=messages, **arguments),
    ]


def test_the_async_twins_give_the_same(direct: Router) -> None:
    """Awaited, both shapes give what the blocking ones give, whole and in chunks."""

    async def main() -> tuple[list[Any], list[list[Any]]]:
        whole = await _async_shapes(direct, says("say=one_two"))
        streams = await _async_shapes(direct, says("say=one_two"), **USAGE_TOO)
        told = []
        for stream in streams:
            async with stream:
                told.append([chunk async for chunk in stream])
            assert stream.router.text == "one two"
        return whole, told

    whole, told = asyncio.run(main())
    blocking = [create(messages=says("say=one_two")) for create in (_ours(direct)["litellm"], _ours(direct)["openai"])]
    assert list(map(_plain, whole)) == list(map(_plain, blocking))
    assert [type(one) for one in whole] == [type(one) for one in blocking]
    for chunks in told:
        said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert "".join(filter(None, said)) == "one two"
        assert chunks[-1].usage.completion_tokens == 2


def test_leaving_an_async_stream_early_settles_its_row(direct: Router, home: Path) -> None:
    """`async with` ends the request of both shapes."""

    async def main() -> None:
        for stream in await _async_shapes(direct, says("say=" + "word_" * 500), stream=True):
            async with stream:
                await anext(stream)

    asyncio.run(main())
    assert [row["fault"] for row in read_table(home, "attempts")] == ["cancelled", "cancelled"]


class City(BaseModel):
    name: str


def test_parse_gives_the_typed_value(upstream: Upstream) -> None:
    """`parse` returns a `ParsedChatCompletion` with the caller's own type; a draft that does not fit climbs."""
    models = ScriptedModels({"small": "Paris", "large": '{"name": "Paris"}'})
    arguments: dict[str, Any] = {"messages": says("where?"), "response_format": City}
    with Router(make_policy(), backend=models) as client:
        parsed: Any = client.chat.completions.parse(model="task:t", **arguments)
        again = asyncio.run(client.async_openai.chat.completions.parse(model="task:t", **arguments))
    assert issubclass(type(parsed), ParsedChatCompletion)
    assert parsed.choices[0].message.parsed == again.choices[0].message.parsed == City(name="Paris")
    assert parsed.router.escalated


@pytest.mark.parametrize("shape", ["litellm", "openai"])
def test_a_response_can_be_copied_pickled_and_dumped(routed: Router, shape: str) -> None:
    """The answer goes along into copies and processes, and into no dump."""
    response = _ours(routed)[shape](messages=says("say=one"))
    for twin in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        assert (twin.router.text, twin.choices[0].message.content) == ("one", "one")
    assert "router" not in response.model_dump()
    assert "route_id" not in response.model_dump_json()


def test_the_cost_is_where_litellm_has_it(routed: Router, upstream: Upstream) -> None:
    """`_hidden_params` holds the cost of the whole call, and `None` where a price is unknown."""
    response = routed.completion("task:t", says("say=one"))
    assert response._hidden_params["response_cost"] == response.router.cost_usd
    assert response.router.cost_nusd == upstream.bill()[0].cost_nusd
    models = ScriptedModels({"small": "fine"})
    policy = make_policy()
    object.__setattr__(policy.models["small"], "price", type(policy.models["small"].price)())
    with Router(policy, backend=models) as unpriced:
        assert unpriced.completion("task:t", says("hi"))._hidden_params["response_cost"] is None


def test_arguments_reach_the_model(routed: Router, upstream: Upstream, home: Path) -> None:
    """Known arguments become parameters, headers and attribution, wherever they are given."""
    routed.chat.completions.create(
        model="task:t",
        messages=says("hello"),
        max_tokens=7,
        n=1,
        stop=None,
        seed=openai.NOT_GIVEN,
        temperature=0.5,
        user="ann",
        metadata={"build": 7},
        extra_headers={"x-trace": "abc"},
        extra_body={"feature": "inbox"},
        parallel_tool_calls=None,
    )
    (billed,) = upstream.bill()
    assert (billed.max_tokens, billed.headers["x-trace"]) == (7, "abc")
    (row,) = read_table(home, "routes")
    assert (row["feature"], row["metadata"]) == ("inbox", '{"build": 7}')
    assert row["user"] not in (None, "ann")


def test_a_timeout_is_the_deadline_of_the_call() -> None:
    """`timeout=` bounds the whole call."""
    world = SimulatedWorld()
    models = ScriptedModels({"small": "late", "large": "late"}, latency_s={"small": 2, "large": 2}, clock=world.clock)
    with Router(make_policy(), backend=models, world=world) as client, pytest.raises(DeadlineExceeded) as caught:
        client.completion("task:t", says("hello"), timeout=1.5)
    assert caught.value.deadline_s == 1.5


def test_an_api_key_is_the_callers_own(routed: Router, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """`api_key=` is sent in place of the operator's; without any the upstream refuses."""
    monkeypatch.delenv("OPENAI_API_KEY")
    assert routed.completion("task:t", says("say=mine"), api_key="sk-mine").choices[0].message.content == "mine"


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "found", "schema": LOOK}}, {"title": "found", **LOOK}),
    ],
)
def test_a_response_format_is_a_schema(response_format: Any, schema: Any) -> None:
    """Each format is checked as what it says, and the model is told."""
    models = ScriptedModels({"small": '{"a": 1}'})
    with Router(make_policy(), backend=models) as client:
        answer = client.completion("task:t", says("hello"), response_format=response_format).router
    (call,) = models.history
    assert answer.parsed == ('{"a": 1}' if schema is None else {"a": 1})
    assert ("JSON Schema" in str(call.messages)) == (schema is not None)


def test_logprobs_come_along(routed: Router) -> None:
    """What was asked for with `logprobs=True` is in the choice."""
    response = routed.chat.completions.create(model="task:t", messages=says("fault=logprobs"), logprobs=True)
    assert [token.logprob for token in response.choices[0].logprobs.content] == [-0.25, 0.0, -1.5]


def test_reasoning_and_cached_tokens_are_part_of_the_totals() -> None:
    """Usage counts as chat completions count."""
    models = ScriptedModels({"small": Reply("fine", Usage(10, 20, 30, 0, 4, 5), finish_reason="unknown")})
    with Router(make_policy(), backend=models) as client:
        for response in (
            client.completion("task:t", says("a")),
            client.openai.chat.completions.create(model="task:t", messages=says("a")),
        ):
            used = response.usage
            assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (60, 9, 69)
            assert used.prompt_tokens_details.cached_tokens == 20
            assert used.prompt_tokens_details.cache_write_tokens == 30
            assert used.completion_tokens_details.reasoning_tokens == 5
            assert response.choices[0].finish_reason == "stop"


def test_a_routers_client_is_one_of_the_sdk_and_sends_nothing(routed: Router, upstream: Upstream) -> None:
    """`isinstance` holds; whatever is not routed is refused with a remedy and without a request."""
    assert isinstance(routed.openai, openai.OpenAI)
    assert isinstance(routed.async_openai, openai.AsyncOpenAI)
    with pytest.raises(InvalidCall, match=r"/embeddings: .*router\.meter"):
        routed.openai.embeddings.create(model="e", input="text")
    with pytest.raises(InvalidCall, match=r"/embeddings: .*router\.meter"):
        asyncio.run(routed.async_openai.embeddings.create(model="e", input="text"))
    with pytest.raises(InvalidCall, match="with_options"):
        routed.openai.with_options(timeout=3)
    assert upstream.bill() == []


def test_the_shared_router_has_the_same_shapes(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`router.completion` and `router.acompletion` use the router of the environment."""
    text = f"""
version: 1
models: {{small: {{litellm: openai/small, api_base: "{upstream.url}"}}}}
tasks: {{t: {{ladder: [small]}}}}
"""
    (tmp_path / "policy.yml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("ROUTER_POLICIES", str(tmp_path / "policy.yml"))
    monkeypatch.setattr(router.default, "_default", None)
    assert router.completion("task:t", says("say=one")).choices[0].message.content == "one"
    response = asyncio.run(router.acompletion("task:t", says("say=two")))
    assert response.choices[0].message.content == "two"
    assert isinstance(response, litellm.ModelResponse)


def test_the_objects_are_the_librarys_classes(routed: Router) -> None:
    """Type checks of other people's code hold."""
    assert isinstance(routed.completion("task:t", says("x")), litellm.ModelResponse)
    assert isinstance(routed.chat.completions.create(model="task:t", messages=says("x")), ChatCompletion)
    chunks = routed.chat.completions.create(model="task:t", messages=says("x"), stream=True)
    assert {type(chunk) for chunk in chunks} == {ChatCompletionChunk}
