"""The upstream streams, calls tools and refuses as the vendors do, and bills what was sent."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from typing import Any

import pytest

from tests.upstream import Billed, Fault, Open, Upstream
from tests.upstream_reply import IN_STREAM

LOOK = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": LOOK}}]
BLOCK_TOOLS = [{"name": "look", "input_schema": LOOK}]
IMAGE = "data:image/png;base64,eA=="
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
HEADERS = {"x-api-key": "x", "anthropic-version": "2023-06-01"}
WORDS = "say=one_two_three_four"
vendors = pytest.mark.parametrize("vendor", PATHS)


@pytest.fixture(scope="module")
def _unused() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def own(_unused: Upstream) -> Upstream:
    """An upstream without the connections that the clients of other tests keep."""
    _unused.reset()
    return _unused


def user(content: object) -> dict[str, Any]:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def request(upstream: Upstream, vendor: str, content: object, **body: object) -> HTTPConnection:
    """Send one chat request on a connection of its own."""
    asked = {"model": "small", "messages": [user(content)], "max_tokens": 99} | body
    connection = HTTPConnection("127.0.0.1", upstream.port, timeout=10)
    connection.request("POST", PATHS[vendor], json.dumps(asked), HEADERS)
    return connection


def ask(upstream: Upstream, vendor: str, content: object = "hi", **body: object) -> tuple[int, Any]:
    """Send one chat request; return the status and the body."""
    with closing(request(upstream, vendor, content, **body)) as connection:
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def events(upstream: Upstream, vendor: str, content: object, **body: object) -> Generator[Any, None, None]:
    """Yield the events of one streamed chat request, parsed where they are JSON."""
    with closing(request(upstream, vendor, content, stream=True, **body)) as connection:
        response = connection.getresponse()
        assert response.headers["Content-Type"] == "text/event-stream"
        rest = ""
        while part := response.read1().decode():
            *whole, rest = (rest + part).split("\n\n")
            for event in whole:
                name, _, data = event.rpartition("data: ")
                assert name == "" or name.startswith("event: ")
                yield data if data == "[DONE]" else json.loads(data)
        assert rest == ""


def said(event: Any) -> str:
    """Return the text of an event of either vendor."""
    if event == "[DONE]":
        return ""
    choices = event.get("choices")
    delta = choices[0]["delta"] if choices else event.get("delta", {})
    return delta.get("content") or delta.get("text") or ""


def only(rows: list[Billed]) -> Billed:
    """Return the only row of the bill."""
    (row,) = rows
    return row


def wait_until(holds: Callable[[], object]) -> None:
    """Ask again and again, for at most ten seconds."""
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until


def test_a_stream_has_the_chunks_of_openai(upstream: Upstream) -> None:
    """The role, a chunk for each word, the finish, the usage if it was asked for, and the end."""
    options = {"include_usage": True}
    first, *words, finish, usage, done = events(upstream, "openai", "say=one_two 123", stream_options=options)
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert [said(word) for word in words] == ["one", " two"]
    assert finish["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 5, "[DONE]")
    assert len({event["id"] for event in (first, *words, finish, usage)}) == 1
    assert not any("usage" in event for event in list(events(upstream, "openai", "say=x"))[:-1])


def test_a_stream_has_the_events_of_anthropic(upstream: Upstream) -> None:
    """The start has the tokens that went in, and what comes before the stop has those that came out."""
    told = list(events(upstream, "anthropic", "say=one_two 123"))
    assert [event["type"] for event in told] == [
        *("message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert told[0]["message"]["usage"]["input_tokens"] == 3
    assert told[-2]["usage"]["output_tokens"] == 2
    assert told[-2]["delta"]["stop_reason"] == "end_turn"
    assert "".join(map(said, told)) == "one two"


@vendors
def test_a_whole_stream_is_billed_like_a_whole_answer(upstream: Upstream, vendor: str) -> None:
    """The row of a stream says so, and how much was sent; its tokens and its cost are the same."""
    ask(upstream, vendor, f"fault=reasoning {WORDS}")
    list(events(upstream, vendor, f"fault=reasoning {WORDS}"))
    whole, streamed = upstream.bill()
    assert (whole.streamed, whole.sent_words) == (False, 0)
    assert (streamed.streamed, streamed.sent_words) == (True, 4)
    assert (streamed.output_tokens, streamed.cost_nusd) == (whole.output_tokens, whole.cost_nusd)
    assert streamed.output_tokens == 4 + 7


@vendors
@pytest.mark.parametrize("fault", sorted({*IN_STREAM, Fault.TRUNCATED} - {Fault.STALLED}))
def test_a_broken_stream_is_charged_for_what_was_sent(upstream: Upstream, vendor: str, fault: Fault) -> None:
    """It ends without its finish: by FIN, by RST or by an error in its place, after as many words as asked."""
    errors = {Fault.CUT_RESET: ConnectionResetError, Fault.STREAM_ERROR: None}
    told: list[Any] = []
    raised = None
    try:
        told.extend(events(upstream, vendor, f"fault={fault} cut_after=3 {WORDS}"))
    except (IncompleteRead, ConnectionResetError) as error:
        raised = type(error)
    assert raised is errors.get(fault, IncompleteRead)
    words = 4 if fault is Fault.TRUNCATED else 3
    assert "".join(map(said, told)) == " ".join(["one", "two", "three", "four"][:words])
    assert ("error" in told[-1]) == (fault is Fault.STREAM_ERROR)
    assert told[-1] != "[DONE]"
    row = only(upstream.bill())
    assert (row.charged, row.sent_words, row.output_tokens) == (True, words, words)
    assert row.cost_nusd == 100 * row.input_tokens + 400 * words


@vendors
def test_two_words_come_before_a_break_unless_told_otherwise(upstream: Upstream, vendor: str) -> None:
    """The break may even come before the first word."""
    for directive, words in (("", 2), ("cut_after=0", 0), ("cut_after=9", 4)):
        upstream.reset()
        list(events(upstream, vendor, f"fault=stream_error {directive} {WORDS}"))
        assert only(upstream.bill()).output_tokens == words


@vendors
@pytest.mark.parametrize("fault", [Fault.STALLED, Fault.DRIP])
def test_a_client_that_leaves_pays_for_what_was_sent_and_leaves_nothing(
    own: Upstream, vendor: str, fault: Fault
) -> None:
    """While a stream hangs it is counted as open; once its client has gone, nothing is."""
    wait_until(lambda: own.open() == Open(0, 0))
    stream = events(own, vendor, f"fault={fault} " + WORDS + "_more" * 20)
    text = ""
    while text != "one two":
        text += said(next(stream))
    assert own.open() == Open(1, 1)
    stream.close()
    wait_until(lambda: own.open() == Open(0, 0))
    row = only(own.bill())
    assert 2 <= row.sent_words == row.output_tokens < 24
    assert row.sent_words == 2 or fault is Fault.DRIP


def test_a_stream_keeps_its_connection(own: Upstream) -> None:
    """What was read to its end leaves the connection for the next request, even after an error in it."""
    with closing(HTTPConnection("127.0.0.1", own.port, timeout=10)) as connection:
        for content in (WORDS, "fault=stream_error", "fault=drip"):
            body = {"model": "small", "messages": [user(content)], "stream": True}
            connection.request("POST", PATHS["openai"], json.dumps(body))
            connection.getresponse().read()
        assert own.open() == Open(1, 0)
    assert len({row.connection for row in own.bill()}) == 1


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.status >= 400])
@vendors
def test_a_refusal_comes_before_the_stream(upstream: Upstream, vendor: str, fault: Fault) -> None:
    """It has its status and the shape of its vendor, and is free."""
    status, body = ask(upstream, vendor, f"fault={fault}", stream=True)
    assert status == fault.status
    assert body["error"]["message"]
    assert (body.get("type") == "error") == (vendor == "anthropic")
    row = only(upstream.bill())
    assert (row.kind, row.charged, row.cost_nusd, row.sent_words) == (fault, False, 0, 0)


def test_a_stream_has_the_flaw_that_was_asked_for(upstream: Upstream) -> None:
    """Usage, choices, content and log-probabilities are flawed as they are in a whole answer."""

    def stream(fault: Fault) -> list[Any]:
        return list(events(upstream, "openai", f"fault={fault} {WORDS}", stream_options={"include_usage": True}))

    assert not any("usage" in event for event in stream(Fault.MISSING_USAGE)[:-1])
    assert stream(Fault.ZERO_USAGE)[-2]["usage"]["total_tokens"] == 0
    assert not any(event["choices"] for event in stream(Fault.EMPTY_CHOICES)[:-1])
    assert "".join(map(said, stream(Fault.NULL_CONTENT))) == ""
    assert stream(Fault.FILTERED_REPLY)[-3]["choices"][0]["finish_reason"] == "content_filter"
    scored = [event["choices"][0]["logprobs"] for event in stream(Fault.LOGPROBS)[:-2]]
    assert [logprob["logprob"] for score in scored if score for logprob in score["content"]] == [-0.25, 0.0, -1.5]
    with pytest.raises(json.JSONDecodeError):
        stream(Fault.BAD_JSON)


def test_tools_are_called_in_the_shape_of_openai(upstream: Upstream) -> None:
    """Calls have ids of their own and no text, and their arguments may be as wrong as one likes."""
    content = 'call=look:{"a":"x\\u0020y"}|peek:{"a": call=third:'
    _, body = ask(upstream, "openai", content, tools=TOOLS)
    (choice,) = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    calls = choice["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == 3
    assert all(call["id"].startswith("call_") for call in calls)
    told = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    assert told == [("look", '{"a":"x\\u0020y"}'), ("peek", '{"a":'), ("third", "")]
    assert ask(upstream, "openai", content)[1]["choices"][0]["message"] == {"role": "assistant", "content": "ok"}


def test_a_stream_tells_calls_in_parts(upstream: Upstream) -> None:
    """The name comes first and the arguments in several chunks, whose text adds up."""
    told = list(events(upstream, "openai", 'call=look:{"a":"xyz"}|look:{} call_id=x.', tools=TOOLS))[:-1]
    parts = [call for event in told for call in event["choices"][0]["delta"].get("tool_calls", [])]
    assert [part["index"] for part in parts] == [0, 0, 0, 1, 1]
    assert [part["function"].get("name") for part in parts] == ["look", None, None, "look", None]
    assert all(part["id"].startswith("x.") for part in parts if "id" in part)
    assert "".join(part["function"]["arguments"] for part in parts) == '{"a":"xyz"}{}'
    assert only(upstream.bill()).output_tokens == 5


def test_tools_are_used_in_the_shape_of_anthropic(upstream: Upstream) -> None:
    """A text may come before the uses of tools; in a stream each is a block and its input is in parts."""
    content = 'say=let_me_see call=look:{"a":"x\\u0020y"}'
    _, body = ask(upstream, "anthropic", content, tools=BLOCK_TOOLS)
    text, use = body["content"]
    assert (text["text"], body["stop_reason"]) == ("let me see", "tool_use")
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "look", {"a": "x y"})
    told = list(events(upstream, "anthropic", content, tools=BLOCK_TOOLS))
    starts = [event["content_block"]["type"] for event in told if event["type"] == "content_block_start"]
    assert starts == ["text", "tool_use"]
    parts = [event["delta"]["partial_json"] for event in told if "partial_json" in event.get("delta", {})]
    assert json.loads("".join(parts)) == {"a": "x y"}


@vendors
def test_a_tool_that_is_forced_is_called_with_the_text(upstream: Upstream, vendor: str) -> None:
    """As models do, which makes a forced tool a way to ask for JSON."""
    text = "say64=" + base64.b64encode(b'{"a": 1}').decode()
    if vendor == "openai":
        chosen: dict[str, Any] = {"type": "function", "function": {"name": "look"}}
        (choice,) = ask(upstream, vendor, text, tools=TOOLS, tool_choice=chosen)[1]["choices"]
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    else:
        chosen = {"type": "tool", "name": "look"}
        assert ask(upstream, vendor, text, tools=BLOCK_TOOLS, tool_choice=chosen)[1]["content"][0]["input"] == {"a": 1}


def test_a_limit_cuts_calls_short(upstream: Upstream) -> None:
    """Arguments that the limit cut are no JSON, and the reply says that it was cut."""
    (choice,) = ask(upstream, "openai", 'call=look:{"a":"a_long_text"}', tools=TOOLS, max_tokens=2)[1]["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":"a_'


def test_raw_text_is_said_to_the_letter(upstream: Upstream) -> None:
    """Base64 says any text, white space included, and the bill has the format that was asked for."""
    text = ' {"a":\n 1}\n'
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": LOOK}}
    content = f"say64={base64.b64encode(text.encode()).decode()}"
    _, body = ask(upstream, "openai", content, response_format=schema)
    assert body["choices"][0]["message"]["content"] == text
    assert "".join(map(said, events(upstream, "openai", content))) == text
    ask(upstream, "anthropic", content, output_config={"format": {"type": "json_schema", "schema": LOOK}})
    assert [row.response_format for row in upstream.bill()] == ["json_schema", None, "json_schema"]


def test_a_model_without_eyes_refuses_images(upstream: Upstream) -> None:
    """Others accept them in the shape of either vendor."""
    part = {"type": "image_url", "image_url": {"url": IMAGE}}
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}
    for vendor, image in (("openai", part), ("anthropic", block)):
        content = [{"type": "text", "text": "what is it?"}, image]
        assert ask(upstream, vendor, content)[0] == 200
        status, body = ask(upstream, vendor, content, model="textonly-1")
        assert status == 400
        assert "image" in body["error"]["message"]


def called(*ids: str) -> dict[str, Any]:
    """Return a message of OpenAI's assistant that calls a tool once for each id."""
    function = {"name": "look", "arguments": "{}"}
    return {"role": "assistant", "tool_calls": [{"id": i, "type": "function", "function": function} for i in ids]}


def result(call_id: str, content: str = "done") -> dict[str, Any]:
    """Return OpenAI's message of a tool."""
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def used(*ids: str) -> dict[str, Any]:
    """Return a message of Anthropic's assistant that uses a tool once for each id."""
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": i, "name": "look", "input": {}} for i in ids],
    }


def results(*ids: str, content: object = "done") -> dict[str, Any]:
    """Return Anthropic's message with the results of tools."""
    return user([{"type": "tool_result", "tool_use_id": i, "content": content} for i in ids])


TEXT = {"type": "text", "text": "and?"}


@pytest.mark.parametrize(
    ("vendor", "messages"),
    [
        ("openai", [user("call=look:{}"), called("a", "b"), result("b"), result("a", "say=done")]),
        ("anthropic", [user("call=look:{}"), used("a", "b"), results("b", "a", content=[TEXT | {"text": "say=done"}])]),
    ],
)
def test_the_last_message_of_a_user_or_a_tool_says_what_happens(
    upstream: Upstream, vendor: str, messages: list[Any]
) -> None:
    """In a loop of tools the directive of the result counts, not that of the question before it."""
    _, body = ask(upstream, vendor, messages=messages, tools=TOOLS if vendor == "openai" else BLOCK_TOOLS)
    text = body["choices"][0]["message"]["content"] if vendor == "openai" else body["content"][0]["text"]
    assert text == "done"
    assert "say=done" in only(upstream.bill()).message


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [user("a"), called("a", "b"), result("a")]},
        {"messages": [user("a"), called("a", "b"), result("a"), user("b")]},
        {"messages": [user("a"), called("a"), result("b")]},
        {"messages": [user("a"), called("a"), result("a"), result("a")]},
        {"messages": [user("a"), result("a")]},
        {"messages": [user("a"), called("a" * 41), result("a" * 41)]},
        {"messages": [user("a"), {"role": "assistant", "content": None, "tool_calls": []}]},
        {"messages": [user("a") | {"provider_specific_fields": {}}]},
        {"messages": [user("a") | {"tool_calls": called("a")["tool_calls"]}]},
        {"messages": [user(None)]},
        {"messages": [user([{"type": "image"}])]},
        {"messages": [{"role": "nobody", "content": "a"}]},
        {"messages": ["a"]},
        {"messages": []},
        {"model": None},
        {"tools": []},
        {"tools": [{"type": "other"}]},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}]},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tool_choice": "auto"},
        {"max_completion_tokens": 9},
        {"max_tokens": 0},
        {"stream_options": {"include_usage": True}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        {"response_format": {"type": "xml"}},
    ],
)
def test_what_openai_refuses_is_refused(upstream: Upstream, wrong: dict[str, Any]) -> None:
    """An invalid request is an error of the client, and free."""
    status, body = ask(upstream, "openai", **wrong)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    row = only(upstream.bill())
    assert (row.kind, row.charged, row.cost_nusd) == (Fault.BAD_REQUEST, False, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [user("a"), used("a", "b"), results("a")]},
        {"messages": [user("a"), used("a"), user("b")]},
        {"messages": [user("a"), used("a")]},
        {"messages": [user("a"), used("a"), results("a", "b")]},
        {"messages": [user("a"), used("a"), results("a", "a")]},
        {"messages": [user("a"), used("a"), user([TEXT, *results("a")["content"]])]},
        {"messages": [user("a"), used("a.b"), results("a.b")]},
        {"messages": [user("a"), used("a", "a"), results("a")]},
        {"messages": [user("a"), user("b")]},
        {"messages": [{"role": "assistant", "content": "a"}, user("b")]},
        {"messages": [{"role": "system", "content": "a"}, user("b")]},
        {"messages": [user("a") | {"name": "b"}]},
        {"messages": [user("")]},
        {"messages": [user([{"type": "image_url", "image_url": {"url": IMAGE}}])]},
        {"messages": []},
        {"model": None},
        {"max_tokens": None},
        {"system": {"text": "a"}},
        {"temperature": 1.5},
        {"n": 1},
        {"tools": TOOLS},
        {"tools": [{"name": "a b", "input_schema": LOOK}]},
        {"tools": [{"name": "a", "input_schema": {}}]},
        {"tools": BLOCK_TOOLS, "tool_choice": {"type": "tool", "name": "other"}},
        {"tool_choice": {"type": "any"}},
    ],
)
def test_what_anthropic_refuses_is_refused(upstream: Upstream, wrong: dict[str, Any]) -> None:
    """An invalid request is an error of the client, and free."""
    status, body = ask(upstream, "anthropic", **wrong)
    assert (status, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    row = only(upstream.bill())
    assert (row.kind, row.charged, row.cost_nusd) == (Fault.BAD_REQUEST, False, 0)


def test_a_body_that_is_no_json_object_is_refused(upstream: Upstream) -> None:
    """Such a request has a row too, without a model."""
    for text in ("{", "[]"):
        with closing(HTTPConnection("127.0.0.1", upstream.port, timeout=10)) as connection:
            connection.request("POST", PATHS["openai"], text)
            assert connection.getresponse().status == 400
    assert [row.model for row in upstream.bill()] == ["", ""]


def test_anthropic_wants_its_headers(upstream: Upstream) -> None:
    """Without a key the request is not authorised, without a version it is invalid."""
    for missing, expected in (("x-api-key", 401), ("anthropic-version", 400)):
        with closing(HTTPConnection("127.0.0.1", upstream.port, timeout=10)) as connection:
            headers = {name: value for name, value in HEADERS.items() if name != missing}
            connection.request("POST", PATHS["anthropic"], "{}", headers)
            assert connection.getresponse().status == expected
    assert [row.kind for row in upstream.bill()] == [Fault.UNAUTHORIZED, Fault.BAD_REQUEST]


@pytest.fixture(scope="module")
def litellm() -> Any:
    """Load litellm without the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LITELLM_MODE", "PRODUCTION")
        return pytest.importorskip("litellm")


def complete(litellm: Any, blocking: bool, streamed: bool, **options: Any) -> Any:
    """Return litellm's whole response, built from its chunks if it was streamed."""
    # The handler needs a package that litellm alone does not bring, as soon as there are tools.
    asked = {"api_key": "x", "max_retries": 0, "_skip_mcp_handler": True, "stream": streamed} | options
    if streamed:
        asked["stream_options"] = {"include_usage": True}

    async def acomplete() -> Any:
        try:
            response = await litellm.acompletion(**asked)
            return [chunk async for chunk in response] if streamed else response
        finally:
            await litellm.close_litellm_async_clients()

    response = litellm.completion(**asked) if blocking else asyncio.run(acomplete())
    return litellm.stream_chunk_builder(list(response), asked["messages"]) if streamed else response


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("blocking", [False, True])
@vendors
def test_litellm_goes_through_a_loop_of_tools(
    litellm: Any, upstream: Upstream, vendor: str, blocking: bool, streamed: bool
) -> None:
    """It reads the calls and their ids, sends the results in the vendor's form, and sees what was billed."""
    where = {"model": f"{vendor}/small", "api_base": upstream.url if vendor == "openai" else upstream.root}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be brief"},
        user('call=look:{"a":"x\\u0020y"}|look:{"a":"z"}'),
    ]
    first = complete(litellm, blocking, streamed, messages=messages, tools=TOOLS, **where)
    (choice,) = first.choices
    calls = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in calls] == [{"a": "x y"}, {"a": "z"}]
    asked = [{"id": c.id, "type": "function", "function": {"name": "look", "arguments": "{}"}} for c in calls]
    messages.append({"role": "assistant", "content": None, "tool_calls": asked})
    messages += [result(call.id, "say=all_done") for call in calls]
    second = complete(litellm, blocking, streamed, messages=messages, tools=TOOLS, **where)
    assert second.choices[0].message.content == "all done"
    rows = upstream.bill()
    assert [row.streamed for row in rows] == [streamed, streamed]
    for response, row in zip((first, second), rows, strict=True):
        assert response.usage.prompt_tokens == row.input_tokens
        assert response.usage.completion_tokens == row.output_tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdk_of_openai_is_served(own: Upstream, streamed: bool) -> None:
    """It reads text, calls and usage, and raises its own error where a stream has one."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=own.url, api_key="x", max_retries=0) as client:
        asked: dict[str, Any] = {"model": "small", "messages": [user("call=look:{}")], "tools": TOOLS}
        if streamed:
            *_, finish, usage = client.chat.completions.create(
                **asked, stream=True, stream_options={"include_usage": True}
            )
            assert (finish.choices[0].finish_reason, usage.usage.completion_tokens) == ("tool_calls", 2)
            with pytest.raises(openai.APIError):
                list(client.chat.completions.create(model="small", messages=[user("fault=stream_error")], stream=True))
        else:
            assert client.chat.completions.create(**asked).choices[0].message.tool_calls[0].function.name == "look"
    wait_until(lambda: own.open() == Open(0, 0))
