"""The upstream answers as it is told to, and its bill is right whatever it answered."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from typing import Any

import pytest

from tests import upstream as module
from tests.upstream import LOGPROBS, Billed, Fault, Upstream

REFUSED = [fault for fault in Fault if fault.status >= 400]
SILENT = {Fault.TIMEOUT, Fault.TIMEOUT_BILLED}
CUT = {Fault.RESET, Fault.RESET_BILLED, Fault.DROP, Fault.TRUNCATED}
# A whole answer with these lacks its end, or is an error.
IN_STREAM = {Fault.CUT, Fault.CUT_RESET, Fault.STALLED, Fault.STREAM_ERROR}
FLAWED = {Fault.HTML, Fault.BAD_JSON, Fault.EMPTY_CHOICES}
ANSWERED = [f for f in Fault if f.status == 200 and f not in SILENT | CUT | FLAWED | IN_STREAM]


@pytest.fixture(scope="module")
def shared() -> Iterator[Upstream]:
    """One child process serves all tests."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(shared: Upstream) -> Upstream:
    """Each test begins with an empty bill and no script."""
    shared.reset()
    return shared


def connect(upstream: Upstream, timeout: float = 10) -> HTTPConnection:
    """Return a connection that opens itself on first use."""
    return HTTPConnection("127.0.0.1", upstream.port, timeout=timeout)


def post(connection: HTTPConnection, content: object, **body: object) -> tuple[int, Any, Any]:
    """Send one chat request; return the status, the headers and the body, parsed where it is JSON."""
    messages = [{"role": "user", "content": content}]
    asked = {"model": "small", "messages": messages} | body
    headers = {"X-Call-Id": "c1", "Authorization": "Bearer x"}
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
    response = connection.getresponse()
    text = response.read().decode()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, response.headers, json.loads(text) if is_json else text


def ask(upstream: Upstream, content: object, **body: object) -> tuple[int, Any, Any]:
    """Send one chat request on a connection of its own."""
    with closing(connect(upstream)) as connection:
        return post(connection, content, **body)


def only(rows: list[Billed]) -> Billed:
    """Return the only row of the bill."""
    (row,) = rows
    return row


def test_a_plain_request_is_answered_in_the_shape_of_openai(upstream: Upstream) -> None:
    """Without a directive the reply is `ok`, with usage, and everything OpenAI sends is there."""
    status, _, body = ask(upstream, "12345678", model="openai/small")
    assert status == 200
    assert body.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert (body["object"], body["model"]) == ("chat.completion", "openai/small")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ok"},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 1,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_the_bill_records_the_request_and_its_exact_cost(upstream: Upstream) -> None:
    """A row has what was asked and what it cost: 10 tokens in at 2000, 3 out at 8000 nano-USD."""
    message = "say=three_short_words".ljust(43)
    ask(upstream, message, model="x/large", max_tokens=9)
    assert only(upstream.bill()) == Billed(
        index=0,
        model="x/large",
        message=message,
        kind=Fault.OK,
        charged=True,
        input_tokens=10,
        cached_tokens=0,
        output_tokens=3,
        reasoning_tokens=0,
        cost_nusd=10 * 2_000 + 3 * 8_000,
        max_tokens=9,
        headers={"x-call-id": "c1", "authorization": "Bearer x"},
        connection=upstream.bill()[0].connection,
    )


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refusal_is_an_error_body_and_costs_nothing(upstream: Upstream, fault: Fault) -> None:
    """Each refusal has its status and OpenAI's error shape, keeps the connection, and is free."""
    with closing(connect(upstream)) as connection:
        status, _, body = post(connection, f"fault={fault},ok")
        assert post(connection, f"fault={fault},ok")[0] == 200
    assert status == fault.status
    assert body["error"].keys() == {"message", "type", "param", "code"}
    refused, answered = upstream.bill()
    assert (refused.kind, refused.charged, refused.cost_nusd) == (fault, False, 0)
    assert (refused.input_tokens, refused.output_tokens) == (0, 0)
    assert answered.charged
    assert refused.connection == answered.connection


def test_only_a_rate_limit_that_is_not_bare_says_when_to_retry(upstream: Upstream) -> None:
    """`rate_limited` has a `Retry-After` in fractions of a second, `rate_limited_bare` has none."""
    assert ask(upstream, "fault=rate_limited")[1]["Retry-After"] == "0.05"
    assert ask(upstream, "fault=rate_limited_bare")[1]["Retry-After"] is None


@pytest.mark.parametrize("fault", ANSWERED)
def test_an_answer_is_charged_for_its_true_tokens(upstream: Upstream, fault: Fault) -> None:
    """Whatever a 200 says about usage, the bill has one word out and all bytes in."""
    message = f"fault={fault}".ljust(80)
    status, _, body = ask(upstream, message)
    row = only(upstream.bill())
    cached, reasoning = row.cached_tokens, row.reasoning_tokens
    assert (status, row.kind, row.charged) == (200, fault, True)
    assert row.input_tokens + cached == 20
    assert row.output_tokens == 1 + reasoning
    assert cached == (10 if fault is Fault.CACHED else 0)
    assert reasoning == (7 if fault is Fault.REASONING else 0)
    assert row.cost_nusd == 100 * row.input_tokens + 25 * cached + 400 * row.output_tokens
    match fault:
        case Fault.MISSING_USAGE:
            assert "usage" not in body
        case Fault.ZERO_USAGE:
            assert body["usage"]["total_tokens"] == 0
        case _:
            assert body["usage"]["total_tokens"] == 20 + row.output_tokens


@pytest.mark.parametrize(
    ("fault", "key", "value"),
    [
        (Fault.FILTERED_REPLY, "finish_reason", "content_filter"),
        (Fault.TRUNCATED_ANSWER, "finish_reason", "length"),
        (Fault.NULL_CONTENT, "message", {"role": "assistant", "content": None}),
    ],
)
def test_an_answer_has_the_flaw_that_was_asked_for(upstream: Upstream, fault: Fault, key: str, value: object) -> None:
    """Filtered, cut and empty answers are well-formed replies that say so."""
    assert ask(upstream, f"fault={fault}")[2]["choices"][0][key] == value


def test_logprobs_include_one_that_is_exactly_zero(upstream: Upstream) -> None:
    """A certain token has log-probability 0.0, which must not be taken for a missing one."""
    content = ask(upstream, "fault=logprobs")[2]["choices"][0]["logprobs"]["content"]
    assert tuple(token["logprob"] for token in content) == LOGPROBS
    assert 0.0 in LOGPROBS


@pytest.mark.parametrize("fault", sorted(FLAWED))
def test_a_useless_200_is_charged_all_the_same(upstream: Upstream, fault: Fault) -> None:
    """A page, broken JSON and an answer without choices all cost what a good answer costs."""
    if fault is Fault.BAD_JSON:
        with pytest.raises(json.JSONDecodeError):
            ask(upstream, f"fault={fault}")
    else:
        status, _, body = ask(upstream, f"fault={fault}")
        assert status == 200
        assert body.startswith("<html>") if fault is Fault.HTML else body["choices"] == []
    assert only(upstream.bill()).output_tokens == 1


@pytest.mark.parametrize(
    ("fault", "error", "charged"),
    [
        (Fault.RESET, ConnectionResetError, False),
        (Fault.RESET_BILLED, ConnectionResetError, True),
        (Fault.DROP, RemoteDisconnected, False),
        (Fault.TRUNCATED, IncompleteRead, True),
        (Fault.TIMEOUT, TimeoutError, False),
        (Fault.TIMEOUT_BILLED, TimeoutError, True),
    ],
)
def test_a_lost_answer_is_charged_only_if_it_was_produced(
    upstream: Upstream, fault: Fault, error: type[Exception], charged: bool
) -> None:
    """The client sees the same broken connection, and the bill alone knows what it cost."""
    with closing(connect(upstream, timeout=0.1)) as connection, pytest.raises(error) as raised:
        post(connection, f"fault={fault}")
    # `RemoteDisconnected` is a reset too, so the class alone would not tell RST from FIN.
    assert raised.type is error
    row = only(upstream.bill())
    assert (row.charged, row.cost_nusd > 0) == (charged, charged)


def test_a_drip_defeats_a_timeout_on_each_read(upstream: Upstream) -> None:
    """Every read is on time, and the answer as a whole takes most of a second."""
    began = time.monotonic()
    with closing(connect(upstream, timeout=0.5)) as connection:
        assert post(connection, "fault=drip")[0] == 200
    assert time.monotonic() - began >= 0.85


def test_slow_answers_do_not_wait_for_one_another(upstream: Upstream) -> None:
    """Requests on different connections are served at the same time, and each gets its row."""
    threads = [threading.Thread(target=ask, args=(upstream, "fault=slow")) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.3 <= time.monotonic() - began < 1.2
    rows = upstream.bill()
    assert len({row.connection for row in rows}) == len(rows) == 8


def test_a_sequence_of_faults_belongs_to_one_message(upstream: Upstream) -> None:
    """The nth request with a message takes the nth fault, the last repeats, others do not count."""
    first, second = "fault=unavailable,payment,ok first", "fault=unavailable,ok second"
    asked = [first, second, first, first, second, first]
    assert [ask(upstream, m)[0] for m in asked] == [503, 503, 402, 200, 200, 200]


def test_a_script_speaks_for_messages_without_a_directive(upstream: Upstream) -> None:
    """The message's own words win over the script's."""
    upstream.reset("fault=payment,ok say=from_script")
    assert ask(upstream, "plain")[0] == 402
    assert ask(upstream, "fault=not_found")[0] == 404
    assert ask(upstream, "plain")[2]["choices"][0]["message"]["content"] == "from script"


def test_a_seed_gives_a_history(upstream: Upstream) -> None:
    """The same seed gives the same faults again, another one others, at about the rate asked for."""

    def history(seed: int) -> list[int]:
        upstream.reset(f"seed={seed} rate=0.3 kinds=unavailable,payment,null_content")
        with closing(connect(upstream)) as connection:
            statuses = [post(connection, str(n))[0] for n in range(200)]
        faults = sum(row.kind is not Fault.OK for row in upstream.bill())
        assert math.isclose(faults, 60, abs_tol=25)
        return statuses

    assert history(1) == history(1) != history(2)


def test_a_reset_forgets_bill_turns_and_script(upstream: Upstream) -> None:
    """After a reset the same request has the same fate again."""
    upstream.reset("fault=payment")
    assert [ask(upstream, m)[0] for m in ("fault=payment,ok", "plain")] == [402, 402]
    upstream.reset()
    assert upstream.bill() == []
    assert [ask(upstream, m)[0] for m in ("fault=payment,ok", "plain")] == [402, 200]


def test_a_limit_cuts_the_reply(upstream: Upstream) -> None:
    """No more words than the limit are said or charged, under either name of the limit."""
    for name in ("max_tokens", "max_completion_tokens"):
        _, _, body = ask(upstream, "say=one_two_three", **{name: 2})
        assert body["choices"][0]["message"]["content"] == "one two"
        assert body["choices"][0]["finish_reason"] == "length"
    assert [(row.max_tokens, row.output_tokens) for row in upstream.bill()] == [(2, 2), (2, 2)]


def test_reasoning_counts_against_the_limit(upstream: Upstream) -> None:
    """Reasoning may use up the whole limit and leave an empty answer, which is charged."""
    _, _, body = ask(upstream, "fault=reasoning", max_tokens=5)
    assert body["choices"][0]["message"]["content"] == ""
    assert body["usage"]["completion_tokens"] == 5
    row = only(upstream.bill())
    assert (row.output_tokens, row.reasoning_tokens) == (5, 5)


def test_all_messages_and_all_text_parts_count(upstream: Upstream) -> None:
    """Tokens are counted in bytes over every message, and directives are read from the last user's."""
    parts = [
        {"type": "text", "text": "fault=slow é"},
        {"type": "image_url", "image_url": {"url": "data:,x"}},
        {"type": "text", "text": " "},
    ]
    messages = [
        {"role": "system", "content": "12345"},
        {"role": "user", "content": "fault=payment"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "ab"},
    ]
    ask(upstream, "", messages=messages)
    row = only(upstream.bill())
    assert (row.kind, row.message) == (Fault.SLOW, "fault=slow é ")
    assert row.input_tokens == (5 + 13 + 14 + 2) // 4


def test_connections_are_numbered(upstream: Upstream) -> None:
    """Requests that share a connection share its number, and a new one has a new number."""
    with closing(connect(upstream)) as connection:
        post(connection, "a")
        post(connection, "b")
    ask(upstream, "c")
    a, b, c = (row.connection for row in upstream.bill())
    assert a == b != c


def test_prices_can_be_given_and_an_unknown_model_costs_what_small_does() -> None:
    """A model is priced by the last part of its name."""
    with Upstream({"small": (1, 2, 3), "tiny": (0, 0, 1)}) as upstream:
        for model in ("a/b/tiny", "small", "nobody"):
            ask(upstream, "abcd", model=model)
        assert [row.cost_nusd for row in upstream.bill()] == [1, 4, 4]


def test_the_child_exits_with_its_parent() -> None:
    """Standard input closes when the parent dies, however it dies, and ends the child."""
    command = [sys.executable, module.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout
        assert child.stdin
        assert int(child.stdout.readline()) > 0
        child.stdin.close()
        assert child.wait(timeout=5) == 0


def test_help_names_every_fault() -> None:
    """The module can be used by hand, and says how."""
    command = [sys.executable, module.__file__, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(fault in shown for fault in Fault)


# Pydantic complains about litellm's own types, once in a process.
noisy = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """Load litellm without the network, and lend it the loop it would otherwise make and never close."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LITELLM_MODE", "PRODUCTION")
        yield pytest.importorskip("litellm")
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def complete(litellm: Any, upstream: Upstream) -> Callable[..., Any]:
    """Return a call of litellm to the upstream, which takes one message."""

    def call(content: str, send: Any = litellm.completion, **options: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        where = {"model": "openai/small", "api_base": upstream.url, "api_key": "x"}
        return send(messages=messages, max_retries=0, **where, **options)

    return call


@noisy
def test_litellm_reads_the_usage_that_was_billed(complete: Callable[..., Any], upstream: Upstream) -> None:
    """What litellm reports and what the bill has are the same tokens."""
    usage = complete("fault=cached say=four_words_of_answer " + "x" * 100).usage
    row = only(upstream.bill())
    assert usage.prompt_tokens == row.input_tokens + row.cached_tokens
    assert usage.prompt_tokens_details.cached_tokens == row.cached_tokens > 0
    assert usage.completion_tokens == row.output_tokens == 4


@noisy
def test_litellm_makes_one_request_and_sees_the_status(
    litellm: Any, complete: Callable[..., Any], upstream: Upstream
) -> None:
    """A refusal reaches the caller as litellm's own error, with its status and headers."""
    with pytest.raises(litellm.RateLimitError) as raised:
        complete("fault=rate_limited")
    assert raised.value.litellm_response_headers["retry-after"] == "0.05"
    with pytest.raises(litellm.ContextWindowExceededError):
        complete("fault=context_too_long")
    with pytest.raises(litellm.ContentPolicyViolationError):
        complete("fault=content_filter")
    assert len(upstream.bill()) == 3


@noisy
def test_litellm_async_is_served_at_the_same_time(
    litellm: Any, complete: Callable[..., Any], upstream: Upstream
) -> None:
    """Concurrent calls all arrive and all are billed."""

    async def burst() -> list[Any]:
        calls = (complete(f"say=n{n}", litellm.acompletion) for n in range(20))
        try:
            return await asyncio.gather(*calls)
        finally:
            await litellm.close_litellm_async_clients()

    replies = asyncio.run(burst())
    assert [r.choices[0].message.content for r in replies] == [f"n{n}" for n in range(20)]
    assert sum(row.charged for row in upstream.bill()) == 20
