"""Answers in parts: what comes when, what a broken, late or abandoned stream leaves behind, and what it costs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Answer, Router
from router.core.call import Call, Chunk, Failure, Outcome, Reply, ToolCall, Usage
from router.core.faults import Fault
from router.core.tools import Marks, marked
from router.errors import (
    ContentFiltered,
    CostLimitExceeded,
    DeadlineExceeded,
    InvalidCall,
    LadderExhausted,
    NoAnswer,
    RequestRefused,
    StreamInterrupted,
)
from router.testing import ScriptedModels, SimulatedWorld, capture
from tests.support import make_policy, read_table
from tests.upstream import Upstream

PROVIDERS = pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
BOTH = pytest.mark.parametrize("awaited", [False, True], ids=["route", "aroute"])
DIRECT = {"ladder": ["large"]}
CLIMBS = {"threshold": 1.0}
"""No draft is ever good enough, so the last rung always answers."""
ACCEPTS = {"threshold": 0.0}
LABELS = {"answer": {"choice": ["yes", "no"]}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]


def _read(router: Router, prompt: str, *, awaited: bool, **options: Any) -> tuple[list[Chunk], Answer]:
    """All parts of an answer, and the answer."""
    if not awaited:
        stream = router.route("t", prompt, stream=True, **options)
        return list(stream), stream.answer

    async def read() -> tuple[list[Chunk], Answer]:
        stream = await router.aroute("t", prompt, stream=True, **options)
        return [chunk async for chunk in stream], stream.answer

    return asyncio.run(read())


def _text(chunks: list[Chunk]) -> str:
    return "".join(map(str, chunks))


def _scripted(scripts: Any, task: Any = None, **options: Any) -> tuple[Router, ScriptedModels]:
    world = options.setdefault("world", SimulatedWorld())
    models = ScriptedModels(scripts, latency_s=options.pop("latency_s", None), clock=world.clock)
    return Router(make_policy(task), backend=models, **options), models


def _real(upstream: Upstream, task: Any = None, provider: str = "openai") -> Router:
    return Router(make_policy(task, api_base=upstream.url, provider=provider))


def _say(text: str) -> str:
    return "say64=" + base64.b64encode(text.encode()).decode()


def _until_no_stream_is_open(upstream: Upstream) -> None:
    """Wait for the server to notice; its streams would go on for much longer."""
    give_up = time.monotonic() + 10
    while upstream.open().streams:
        assert time.monotonic() < give_up, "the connection was not closed"


# What comes when


@BOTH
def test_an_accepted_draft_comes_as_one_chunk(awaited: bool) -> None:
    """A draft is judged whole before any of it is shown."""
    router, _ = _scripted({"small": "one two three"}, ACCEPTS)
    chunks, answer = _read(router, "hello", awaited=awaited)
    assert chunks == [Chunk("one two three")]
    assert (answer.text, answer.model, answer.attempts[0].first_token_ms) == ("one two three", "small", None)


@BOTH
def test_the_last_rung_is_live_and_drafts_before_it_are_not_shown(awaited: bool) -> None:
    """What the caller sees is the last rung's, as it comes; the draft is only paid for."""
    router, _ = _scripted({"small": "never shown", "large": "one two three"}, CLIMBS)
    chunks, answer = _read(router, "hello", awaited=awaited)
    assert [chunk.text for chunk in chunks] == ["one", " two", " three"]
    assert (answer.text, answer.model) == ("one two three", "large")
    assert [attempt.first_token_ms is None for attempt in answer.attempts] == [True, False]


@BOTH
def test_a_plan_of_one_rung_is_live(awaited: bool) -> None:
    """Without a draft nothing has to be judged first."""
    router, _ = _scripted({"large": "one two"}, DIRECT)
    assert [chunk.text for chunk in _read(router, "hello", awaited=awaited)[0]] == ["one", " two"]


def test_the_draft_is_asked_whole_and_the_last_rung_live(upstream: Upstream) -> None:
    """Only what is shown as it comes is asked for as a stream."""
    _read(_real(upstream, CLIMBS), "say=one_two", awaited=False)
    assert [(billed.model, billed.streamed) for billed in upstream.bill()] == [("small", False), ("large", True)]


def test_a_backend_that_cannot_stream_gives_its_answer_in_one_part() -> None:
    """Recordings and local rungs work with `stream=True`, too."""

    class Whole:
        """A backend without `stream`."""

        def __init__(self) -> None:
            models = ScriptedModels({"large": "one two"})
            self.facts, self.count_tokens = models.facts, models.count_tokens
            self.send, self.asend = models.send, models.asend

    router = Router(make_policy(DIRECT), backend=Whole())
    for awaited in (False, True):
        chunks, answer = _read(router, "hello", awaited=awaited)
        assert (chunks, answer.text) == ([Chunk("one two")], "one two")


def test_when_the_last_rung_fails_before_its_first_part_the_held_draft_comes_whole() -> None:
    """Nothing of the last rung was shown, so the draft can still be kept."""
    router, _ = _scripted({"small": "a draft", "large": Failure(Fault.AUTH)}, CLIMBS)
    with pytest.warns(UserWarning, match="cannot be used"):
        chunks, answer = _read(router, "hello", awaited=False)
    assert (chunks, answer.text, answer.steps[-1].action) == ([Chunk("a draft")], "a draft", "keep")


@BOTH
def test_what_was_shown_stays_even_where_it_is_not_usable(awaited: bool) -> None:
    """A last rung whose whole answer is not usable cannot be taken back in favour of the held draft."""
    router, _ = _scripted({"small": "yes", "large": "perhaps so"}, {**CLIMBS, **LABELS})
    chunks, answer = _read(router, "hello", awaited=awaited)
    assert _text(chunks) == answer.text == "perhaps so"
    assert (answer.parsed, answer.reason) == (None, "last rung; the answer names none of the 2 labels")


# Real streams

TEXTS = {
    "plain": "one two three",
    "edges": " lead and trail \n\n",
    "wide": "é ü \U0001f600 日本",
    "lines": "a\r\nb\u2028c \u0085 d",
    "marks": "</s> <s> <|im_end|> data: [DONE] more",
    "repeats": "---- " * 150,
    "long": "x" * 3000,
}


@PROVIDERS
@BOTH
@pytest.mark.parametrize("name", TEXTS)
def test_the_parts_add_up_to_the_answer_and_to_what_was_said(
    upstream: Upstream, provider: str, awaited: bool, name: str
) -> None:
    """Nothing is lost, doubled or trimmed, whatever the text; and the cost is what was billed."""
    task = {**DIRECT, "max_output_tokens": 400}
    chunks, answer = _read(_real(upstream, task, provider), _say(TEXTS[name]), awaited=awaited)
    (billed,) = upstream.bill()
    assert _text(chunks) == answer.text == TEXTS[name]
    assert len(chunks) == billed.sent_words
    assert (answer.cost_nusd, answer.attempts[0].amount.state) == (billed.cost_nusd, "settled")


@PROVIDERS
@BOTH
@pytest.mark.parametrize("fault", ["cached", "reasoning", "logprobs", "slow", "drip", "truncated_answer"])
def test_usage_is_always_asked_for_and_the_settled_cost_is_the_bill(
    upstream: Upstream, provider: str, awaited: bool, fault: str
) -> None:
    """Streams report no usage unless it is asked for; here it always is."""
    _, answer = _read(_real(upstream, DIRECT, provider), f"fault={fault} say=one_two_three", awaited=awaited)
    (billed,) = upstream.bill()
    assert (answer.cost_nusd, answer.attempts[0].usage_source) == (billed.cost_nusd, "provider")
    assert answer.finish_reason == ("length" if fault == "truncated_answer" else "stop")


@PROVIDERS
@BOTH
@pytest.mark.parametrize("fault", ["missing_usage", "zero_usage"])
def test_a_stream_without_usage_is_an_estimate_with_a_bound(
    upstream: Upstream, provider: str, awaited: bool, fault: str
) -> None:
    """litellm would count tokens itself and call that usage; the ledger says that it is a guess."""
    _, answer = _read(_real(upstream, DIRECT, provider), f"fault={fault} say=one_two", awaited=awaited)
    (billed,) = upstream.bill()
    (attempt,) = answer.attempts
    assert (attempt.amount.state, attempt.usage_source) == ("estimated", "estimated")
    assert attempt.amount.upper_nusd is not None
    assert billed.cost_nusd <= attempt.amount.upper_nusd


@PROVIDERS
@BOTH
def test_log_probabilities_of_a_stream_give_the_confidence_of_a_whole_answer(
    upstream: Upstream, provider: str, awaited: bool
) -> None:
    """Signals are read off the answer put together again."""
    router = Router(make_policy({**DIRECT, "params": {"logprobs": True}}, api_base=upstream.url, provider=provider))
    prompt = "fault=logprobs say=one_two"
    _, answer = _read(router, prompt, awaited=awaited)
    assert answer.steps[0].signals == router.route("t", prompt).steps[0].signals


# Errors come at the call, and retries only before the first part


@PROVIDERS
@BOTH
@pytest.mark.parametrize(
    ("fault", "kind", "requests"),
    [
        ("bad_request", RequestRefused, 1),
        ("unprocessable", RequestRefused, 1),
        ("content_filter", ContentFiltered, 1),
        ("context_too_long", LadderExhausted, 1),
        ("unauthorized", LadderExhausted, 1),
        ("payment", LadderExhausted, 1),
        ("forbidden", LadderExhausted, 1),
        ("not_found", LadderExhausted, 1),
        ("rate_limited", LadderExhausted, 2),
        ("server_error", LadderExhausted, 2),
        ("overloaded", LadderExhausted, 2),
        ("reset", LadderExhausted, 2),
        ("drop", LadderExhausted, 2),
        ("html", LadderExhausted, 2),
        ("bad_json", LadderExhausted, 2),
        ("empty_choices", LadderExhausted, 2),
        ("null_content", LadderExhausted, 2),
    ],
)
@pytest.mark.filterwarnings("ignore::router.errors.RouterWarning")
def test_what_is_wrong_from_the_start_is_raised_at_the_call(
    upstream: Upstream, provider: str, awaited: bool, fault: str, kind: type[NoAnswer], requests: int
) -> None:
    """The caller's loop never begins: a refusal is raised where `route` is called, after the usual retries."""
    router = _real(upstream, DIRECT, provider)

    async def begin() -> None:
        await router.aroute("t", f"fault={fault} say=one_two", stream=True)

    with pytest.raises(kind) as caught:
        asyncio.run(begin()) if awaited else router.route("t", f"fault={fault} say=one_two", stream=True)
    assert len(upstream.bill()) == len(caught.value.attempts) == requests


@PROVIDERS
@BOTH
@pytest.mark.parametrize("fault", ["rate_limited", "server_error", "reset", "null_content"])
def test_a_passing_fault_before_the_first_part_is_tried_again(
    upstream: Upstream, provider: str, awaited: bool, fault: str
) -> None:
    """An empty stream counts as one; each attempt has a row of its own."""
    chunks, answer = _read(_real(upstream, DIRECT, provider), f"fault={fault},ok say=one_two", awaited=awaited)
    assert _text(chunks) == "one two"
    assert [attempt.fault is None for attempt in answer.attempts] == [False, True]
    assert [attempt.first_token_ms is None for attempt in answer.attempts] == [True, False]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"schema": {"type": "object"}},
            InvalidCall,
            "schema: cannot be checked before all of a stream",
        ),
        ({"max_cost_usd": 1e-9}, CostLimitExceeded, "can cost"),
        ({"deadline_s": 0.5}, DeadlineExceeded, "no usable answer within 0.5 s"),
    ],
)
def test_limits_are_raised_at_the_call(options: Any, kind: type[Exception], message: str) -> None:
    """A stream that cannot begin is an error where it is asked for."""
    router, _ = _scripted({"large": "yes"}, DIRECT, latency_s={"large": 9.0})
    with pytest.raises(kind, match=message):
        router.route("t", "hello", stream=True, **options)


# Streams that break


@PROVIDERS
@BOTH
@pytest.mark.parametrize("fault", ["cut", "cut_reset", "stream_error", "truncated"])
def test_a_cut_stream_says_what_had_come_and_what_it_cost(
    upstream: Upstream, home: Path, provider: str, awaited: bool, fault: str
) -> None:
    """Nothing is asked again, no draft takes the place of what was shown, and the cost is within its bound."""
    router = _real(upstream, CLIMBS, provider)
    prompt = f"fault=ok,{fault} say=one_two_three_four id={awaited}"
    with pytest.raises(StreamInterrupted) as caught:
        _read(router, prompt, awaited=awaited)
    error, bill = caught.value, upstream.bill()
    assert "one two three four".startswith(error.partial_text)
    assert error.partial_text.startswith("one two")
    draft, cut = error.attempts
    assert [billed.model for billed in bill] == ["small", "large"]
    assert draft.amount.nusd == bill[0].cost_nusd
    assert (cut.fault, cut.amount.state, cut.usage_source) == ("connection", "estimated", "estimated")
    assert cut.amount.nusd is not None
    assert cut.amount.upper_nusd is not None
    assert max(cut.amount.nusd, bill[1].cost_nusd) <= cut.amount.upper_nusd
    (route,) = read_table(home, "routes")
    assert (route["outcome"], route["cost_nusd"]) == ("StreamInterrupted", draft.amount.nusd + cut.amount.nusd)
    assert read_table(home, "attempts")[1]["first_token_ms"] > 0


@PROVIDERS
@BOTH
@pytest.mark.parametrize("fault", ["stalled", "drip"])
def test_the_deadline_holds_in_the_middle_of_a_stream(
    upstream: Upstream, home: Path, provider: str, awaited: bool, fault: str
) -> None:
    """A model that falls silent, or is too slow although each part is in time, is left when the time is over."""
    words = "_".join(["word"] * 38)
    with pytest.raises(StreamInterrupted, match="broke off after") as caught:
        _read(_real(upstream, DIRECT, provider), f"fault={fault} say={words}", awaited=awaited, deadline_s=0.6)
    (attempt,) = caught.value.attempts
    assert (attempt.fault, attempt.amount.state) == ("timeout", "estimated")
    assert caught.value.partial_text.startswith("word word")
    _until_no_stream_is_open(upstream)


@PROVIDERS
@BOTH
@pytest.mark.parametrize("on_filter", ["raise", "climb"])
def test_a_filter_that_stops_a_stream_is_an_interruption(
    upstream: Upstream, provider: str, awaited: bool, on_filter: str
) -> None:
    """What was shown cannot be taken back; the provider reported what it cost."""
    task = {**DIRECT, "on_filter": on_filter}
    with pytest.raises(StreamInterrupted, match="content_filter: the reply was filtered") as caught:
        _read(_real(upstream, task, provider), "fault=filtered_reply say=one_two", awaited=awaited)
    (attempt,) = caught.value.attempts
    assert (caught.value.partial_text, attempt.amount.nusd) == ("one two", upstream.bill()[0].cost_nusd)


@BOTH
def test_a_stream_that_broke_has_no_answer(awaited: bool) -> None:
    """After the error the stream is at its end, and asking for its answer says so."""
    router, _ = _scripted({"large": Failure(Fault.CONNECTION, partial="one two")}, DIRECT)

    async def read() -> None:
        stream = await router.aroute("t", "hello", stream=True)
        with pytest.raises(StreamInterrupted):
            [chunk async for chunk in stream]
        assert [chunk async for chunk in stream] == []
        with pytest.raises(InvalidCall, match="answer: the stream has not been read to its end"):
            _ = stream.answer

    if awaited:
        asyncio.run(read())
        return
    stream = router.route("t", "hello", stream=True)
    with pytest.raises(StreamInterrupted):
        list(stream)
    assert list(stream) == []
    with pytest.raises(InvalidCall, match="answer: the stream has not been read to its end"):
        _ = stream.answer


def test_what_had_come_is_text_and_all_of_it_is_paid_for() -> None:
    """Arguments of tools and reasoning are no text to show, but they are output that the provider made."""

    class Breaks(ScriptedModels):
        def stream(self, call: Call, timeout_s: float | None) -> Iterator[Chunk | Outcome]:
            yield Chunk("Wait", "r" * 40)
            yield Chunk(tool_calls=({"index": 0, "id": "x", "function": {"name": "look", "arguments": '{"a"'}},))
            yield Failure(Fault.CONNECTION)

    router = Router(make_policy(DIRECT), backend=Breaks({}))
    stream = router.route("t", "hello", stream=True, tools=TOOLS)
    with pytest.raises(StreamInterrupted) as caught:
        list(stream)
    (attempt,) = caught.value.attempts
    assert (caught.value.partial_text, attempt.usage and attempt.usage.output_tokens) == ("Wait", (4 + 40 + 8) // 4)


# Streams that are left


def _close(stream: Any) -> None:
    stream.close()


def _leave_with(stream: Any) -> None:
    with stream:
        next(stream)


def _raise_inside(stream: Any) -> None:
    with contextlib.suppress(KeyError), stream:
        raise KeyError("the caller's own")


def _drop(stream: Any) -> None:
    """Nothing: the caller forgets the stream."""


LONG = "fault=drip say=" + "_".join(["word"] * 39)
"""About four seconds of words."""


@PROVIDERS
@pytest.mark.parametrize("leave", [_close, _leave_with, _raise_inside, _drop])
def test_a_stream_that_is_left_settles_its_row_and_closes_its_connection(
    upstream: Upstream, home: Path, provider: str, leave: Callable[[Any], None]
) -> None:
    """However it is left: what came is on record with about what it cost, and the provider can stop."""
    router = _real(upstream, DIRECT, provider)
    with capture() as events:
        stream: Any = router.route("t", LONG, stream=True)
        next(stream)
        leave(stream)
        del stream
        gc.collect()
    _until_no_stream_is_open(upstream)
    _check_that_it_was_left(upstream, home, events)


def _check_that_it_was_left(upstream: Upstream, home: Path, events: list[dict[str, Any]]) -> None:
    (billed,) = upstream.bill()
    assert billed.sent_words < 39
    (attempt,) = read_table(home, "attempts")
    assert (attempt["fault"], attempt["state"], attempt["usage_source"]) == ("cancelled", "estimated", "estimated")
    assert 0 < attempt["cost_nusd"] <= attempt["upper_nusd"]
    assert attempt["first_token_ms"] > 0
    (route,) = read_table(home, "routes")
    assert (route["outcome"], route["cost_nusd"]) == ("aborted", attempt["cost_nusd"])
    assert [(event["event"], event["outcome"]) for event in events] == [("route", "aborted")]


async def _aclose(stream: Any) -> None:
    await stream.aclose()


async def _leave_async_with(stream: Any) -> None:
    async with stream:
        await anext(stream)


async def _break(stream: Any) -> None:
    async for _ in stream:
        break


async def _cancel(stream: Any) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _time_out(stream: Any) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            async for _ in stream:
                pass


@PROVIDERS
@pytest.mark.parametrize("leave", [_aclose, _leave_async_with, _break, _cancel, _time_out])
def test_an_async_stream_that_is_left_does_the_same(
    upstream: Upstream, home: Path, provider: str, leave: Callable[[Any], Any]
) -> None:
    """Closing, leaving the block, breaking out of the loop, cancelling the task, the caller's own timeout.

    The connection is closed by then, whatever the caller does to the loop next; only a stream that was dropped needs
    the loop once more.
    """
    router = _real(upstream, DIRECT, provider)

    async def main() -> None:
        stream: Any = await router.aroute("t", LONG, stream=True)
        await anext(stream)
        await leave(stream)
        del stream
        while leave is _break and upstream.open().streams:
            await asyncio.sleep(0)
        _until_no_stream_is_open(upstream)

    with capture() as events:
        asyncio.run(main())
    _check_that_it_was_left(upstream, home, events)


@BOTH
def test_cancelled_before_the_first_part_is_settled_too(upstream: Upstream, home: Path, awaited: bool) -> None:
    """A request that is on its way when the caller leaves has a row like any other."""
    router = _real(upstream, DIRECT)

    async def main() -> None:
        task = asyncio.create_task(router.aroute("t", "fault=timeout say=one", stream=True))
        while not upstream.bill():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (attempt,) = read_table(home, "attempts")
    assert (attempt["fault"], attempt["state"], attempt["first_token_ms"]) == ("cancelled", "maybe_billed", None)
    assert [route["outcome"] for route in read_table(home, "routes")] == ["aborted"]


@BOTH
def test_leaving_after_an_accepted_draft_changes_nothing(awaited: bool) -> None:
    """The draft was answered and paid for before its first part was shown."""
    router, _ = _scripted({"small": "yes"}, ACCEPTS)

    async def begin() -> None:
        await (await router.aroute("t", "hello", stream=True)).aclose()

    with capture() as events:
        if awaited:
            asyncio.run(begin())
        else:
            router.route("t", "hello", stream=True).close()
    assert [event["outcome"] for event in events] == ["answered"]


def test_a_stream_read_in_another_thread_is_one_call(upstream: Upstream, home: Path) -> None:
    """Frameworks begin a stream in one thread and read it in another."""
    import threading

    stream = _real(upstream, DIRECT).route("t", "say=one_two_three", stream=True)
    chunks: list[Chunk] = []
    thread = threading.Thread(target=lambda: chunks.extend(stream))
    thread.start()
    thread.join()
    assert _text(chunks) == stream.answer.text == "one two three"
    assert [route["outcome"] for route in read_table(home, "routes")] == ["answered"]


# The answer and the record


@BOTH
def test_the_answer_is_there_at_the_end_and_not_before(awaited: bool) -> None:
    """Until the stream has been read to its end nobody knows what the answer is."""
    router, _ = _scripted({"large": "one two"}, DIRECT)

    async def read() -> Answer:
        stream = await router.aroute("t", "hello", stream=True)
        with pytest.raises(InvalidCall, match="iterate it first") as caught:
            _ = stream.answer
        assert caught.value.argument == "answer"
        [chunk async for chunk in stream]
        return stream.answer

    if awaited:
        assert asyncio.run(read()).text == "one two"
        return
    stream = router.route("t", "hello", stream=True)
    next(stream)
    with pytest.raises(InvalidCall, match="iterate it first"):
        _ = stream.answer
    assert (list(map(str, stream)), stream.answer.text) == ([" two"], "one two")


def test_time_to_the_first_token_is_on_record(upstream: Upstream, home: Path) -> None:
    """Of a live answer, from sending to its first part; of an answer that came whole there is none."""
    _, answer = _read(_real(upstream, CLIMBS), "fault=slow say=one_two", awaited=False)
    draft, live = read_table(home, "attempts")
    assert draft["first_token_ms"] is None
    # The server waits 300 ms before it says anything.
    assert 300 <= live["first_token_ms"] <= live["latency_ms"]
    assert answer.attempts[1].first_token_ms == pytest.approx(live["first_token_ms"], abs=0.001)


def test_a_streamed_call_is_one_event_and_one_row_as_any_other(upstream: Upstream, home: Path) -> None:
    """Streaming changes how the answer comes, and nothing about how it is recorded."""
    router = _real(upstream, CLIMBS)
    with capture() as events:
        router.route("t", "say=one_two")
        _read(router, "say=one_two", awaited=False)
    whole, streamed = ({k: v for k, v in event.items() if k not in ("route_id", "latency_ms")} for event in events)
    assert whole == streamed
    first, second = read_table(home, "routes")
    assert (first["outcome"], first["cost_nusd"]) == (second["outcome"], second["cost_nusd"])


def test_tool_calls_come_in_parts_with_the_ids_of_the_answer(upstream: Upstream) -> None:
    """Put together, the parts are the answer's calls: same ids, names and arguments."""
    for provider in ("openai", "hosted_vllm"):
        for awaited in (False, True):
            prompt = 'call=look:{"a":12345678}|look:{"a":2} say=Wait'
            chunks, answer = _read(_real(upstream, DIRECT, provider), prompt, awaited=awaited, tools=TOOLS)
            assert _joined(chunks) == [call.part for call in answer.tool_calls]
            assert all(call.id.endswith("--r0") for call in answer.tool_calls)
            assert (_text(chunks), answer.finish_reason) == ("Wait", "tool_calls")
            assert answer.cost_nusd == upstream.bill()[-1].cost_nusd


def _joined(chunks: list[Chunk]) -> list[dict[str, Any]]:
    """Tool calls put together as the OpenAI SDK does it: texts are added up, so an id may come only once."""
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for chunk in chunks for part in chunk.tool_calls):
        call = calls.setdefault(
            part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] += part.get("id") or ""
        for key, value in part["function"].items():
            call["function"][key] += value or ""
    return [calls[index] for index in sorted(calls)]


def _deltas(*parts: tuple[int, str | None, str | None, str]) -> list[Any]:
    from types import SimpleNamespace as Part

    return [
        Part(
            model="m",
            choices=[
                Part(
                    logprobs=None,
                    delta=Part(
                        content=None,
                        tool_calls=[Part(index=i, id=call_id, function=Part(name=name, arguments=arguments))],
                    ),
                )
            ],
        )
        for i, call_id, name, arguments in parts
    ]


@pytest.mark.parametrize(
    "parts",
    [
        [(0, "x", "look", ""), (0, None, None, '{"a"'), (0, None, None, ":1}"), (1, "y", "look", '{"a":2}')],
        [(1, "x", "look", '{"a":1}'), (2, "y", "look", '{"a":2}')],
        [(0, "x", "look", '{"a":1}'), (0, "y", "look", '{"a":2}')],
        [(0, "x", "look", '{"a"'), (0, "x", "look", ":1}"), (1, "y", None, ""), (1, None, "look", '{"a":2}')],
        [(0, None, "look", '{"a"'), (0, "x", None, ":1}"), (1, None, "look", '{"a":2}')],
        [(0, "x", "look", '{"a":1}'), (1, "x", "look", '{"a":2}')],
    ],
    ids=["usual", "begins_with_1", "all_are_0", "repeats_id_and_name", "without_ids", "the_same_id"],
)
def test_whatever_way_a_provider_tells_its_calls_the_parts_are_the_answers(parts: Any) -> None:
    """Providers number, name and repeat in ways of their own; a caller sees one way."""
    from types import SimpleNamespace

    from router.models.litellm_stream import Gathered

    gathered, marks = Gathered(), Marks(0, "r1")
    chunks = [chunk for delta in _deltas(*parts) if (chunk := gathered.add(delta))]
    told = [Chunk(tool_calls=marks.parts(chunk.tool_calls)) for chunk in chunks]
    wrapper = SimpleNamespace(received_finish_reason="tool_calls", intermittent_finish_reason=None, chunks=[])
    reply = gathered.outcome(wrapper)
    assert isinstance(reply, Reply)
    assert _joined(told) == [call.part for call in marked(reply.tool_calls, 0, "r1")]
    assert [(call.name, call.parsed) for call in reply.tool_calls] == [("look", {"a": 1}), ("look", {"a": 2})]


# Laws

_TOOL_CALLS = st.lists(
    st.builds(ToolCall, st.text(max_size=3), st.just("look"), st.integers().map(lambda a: json.dumps({"a": a}))),
    max_size=2,
).map(tuple)
_USAGES = st.none() | st.builds(Usage, input_tokens=st.integers(1, 99), output_tokens=st.integers(1, 99))
_REPLIES = st.builds(Reply, st.text(min_size=1, max_size=40), _USAGES, tool_calls=_TOOL_CALLS)
_FAILURES = st.builds(Failure, st.sampled_from([Fault.SERVER_ERROR, Fault.EMPTY, Fault.CONTEXT_TOO_LONG]))
_SCRIPTS = st.fixed_dictionaries(
    {name: st.lists(_REPLIES | _FAILURES, min_size=2, max_size=2) for name in ("small", "large")}
)


@settings(max_examples=150, deadline=None)
@given(scripts=_SCRIPTS, threshold=st.sampled_from([0.0, 0.5, 0.8, 1.0]), awaited=st.booleans())
def test_streaming_changes_neither_answer_nor_cost(scripts: Any, threshold: float, awaited: bool) -> None:
    """For any script: the same text, calls, steps and amounts, or the same error, as without `stream`."""
    task = {"threshold": threshold}
    whole, streamed = (_scripted(scripts, task, world=SimulatedWorld(seed=1))[0] for _ in range(2))
    expected: Any
    got: Any
    try:
        answer = whole.route("t", "hello", tools=TOOLS)
    except NoAnswer as error:
        expected = (type(error), str(error), [attempt.amount for attempt in error.attempts])
        with pytest.raises(NoAnswer) as caught:
            _read(streamed, "hello", awaited=awaited, tools=TOOLS)
        got = (type(caught.value), str(caught.value), [attempt.amount for attempt in caught.value.attempts])
    else:
        chunks, live = _read(streamed, "hello", awaited=awaited, tools=TOOLS)
        assert _text(chunks) == live.text
        assert _joined(chunks) == [call.part for call in live.tool_calls]
        expected, got = (
            (a.text, a.tool_calls, a.steps, a.cost_nusd, a.cost_upper_nusd, a.baseline_cost_nusd)
            for a in (answer, live)
        )
    assert got == expected


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text(min_size=1, max_size=5), max_size=6), left=st.integers(0, 7), ends=st.booleans())
def test_wherever_a_stream_is_left_its_call_is_settled_once(words: list[str], left: int, ends: bool) -> None:
    """One settle and one end for each call, in the order in which they happened."""

    class Told(ScriptedModels):
        def stream(self, call: Call, timeout_s: float | None) -> Iterator[Chunk | Outcome]:
            yield from map(Chunk, words)
            text = "".join(words)
            yield Reply(text, None) if ends and text else Failure(Fault.CONNECTION)

        async def astream(self, call: Call, timeout_s: float | None) -> AsyncIterator[Chunk | Outcome]:
            for part in self.stream(call, timeout_s):
                yield part

    with capture() as events:
        router = Router(make_policy({**DIRECT, "retry": {"attempts": 1}}), backend=Told({}), world=SimulatedWorld())
        with contextlib.suppress(NoAnswer), router.route("t", "hello", stream=True) as stream:
            for number, _ in enumerate(stream):
                if number == left:
                    break
    (event,) = (event for event in events if event["event"] == "route")
    expected = "answered" if ends and words else "StreamInterrupted" if words else "LadderExhausted"
    assert event["outcome"] == ("aborted" if left < len(words) else expected)
    assert event["attempts"] == 1


class _Settings(ScriptedModels):
    """A backend whose `stream` is a setting of its own."""

    stream = astream = False  # type: ignore[assignment]


def test_what_is_no_method_does_not_stream(home: Path) -> None:
    """A backend with such an attribute gives its answer as one chunk."""
    with Router(make_policy({"ladder": ["large"]}), backend=_Settings({"large": ["yes"]}), home=home) as router:
        assert "".join(chunk.text for chunk in router.route("t", "?", stream=True)) == "yes"
