"""Recordings that a router writes: what they hold is given again, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Answer, Router, RouterWarning
from router.core.call import Chunk, Outcome, ToolCall, Usage, to_messages
from router.core.faults import Fault
from router.core.policy import Model
from router.core.pricing import Rates, settle
from router.errors import DeadlineExceeded, RecordingError, StreamInterrupted
from router.models.record import Recorder, row_of
from router.models.recording import parts_of, read_recording
from router.models.replay import Replay, key_of
from router.testing import Call, Failure, Reply, ScriptedModels
from router.world import World
from tests.support import make_policy, read_table
from tests.upstream import Upstream

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
RATES = Rates(make_policy().models["small"].price)


def _gist(answer: Answer) -> tuple[Any, ...]:
    """Everything of an answer that does not hang on the moment or the call's id."""
    steps = [
        (s.model, s.action, s.reason, s.confidence, s.cost_nusd, s.attempts, dict(s.signals)) for s in answer.steps
    ]
    attempts = [(a.model, a.fault, a.status, a.usage, a.usage_source, a.amount.nusd, a.detail) for a in answer.attempts]
    money = (answer.cost_nusd, answer.cost_upper_nusd, answer.marginal_cost_nusd, answer.baseline_cost_nusd)
    calls = [(call.name, call.arguments, call.id) for call in answer.tool_calls]
    return (
        answer.text,
        answer.parsed,
        answer.model,
        answer.finish_reason,
        calls,
        answer.usage,
        *money,
        steps,
        attempts,
    )


PROMPTS: list[tuple[Any, dict[str, Any]]] = [
    ("say=yes id=1", {}),
    ("say=perhaps id=2", {}),
    ("fault=rate_limited,ok say=yes id=3", {}),
    ("fault=missing_usage say=yes id=4", {}),
    ("fault=server_error,server_error,ok say=no id=5", {}),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say=yes id=6"}], {}),
    ('call=look:{"a":1} id=7', {"tools": [TOOL]}),
]


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_recording_gives_the_same_answers_costs_and_decisions(
    name: str, stream: bool, upstream: Upstream, home: Path, tmp_path: Path
) -> None:
    """Climbs, retries, tools and replies without usage, whole and as streams, against real HTTP."""
    policy = make_policy({"answer": {"choice": ["yes", "no"]}}, api_base=upstream.url)
    path = tmp_path / "runs" / name

    def ask(router: Router) -> list[tuple[Any, ...]]:
        found = []
        for prompt, options in PROMPTS:
            if stream:
                with router.route("t", prompt, stream=True, **options) as parts:
                    text = "".join(map(str, parts))
                    assert text == parts.answer.text
                    found.append(_gist(parts.answer))
            else:
                found.append(_gist(router.route("t", prompt, **options)))
        return found

    with Router(policy, home=home, record=path) as router:
        first = ask(router)
    with Router(policy, home=tmp_path / "other", backend=Replay.load(path)) as router:
        assert ask(router) == first
    tasks = {row["task"] for row in read_recording(path)}
    assert tasks == {"t"}
    assert path.stat().st_mode & 0o777 == 0o600
    replayed, recorded = (read_table(place, "routes") for place in (tmp_path / "other", home))
    assert [row["cost_nusd"] for row in replayed] == [row["cost_nusd"] for row in recorded]


def test_a_cut_stream_is_recorded_as_far_as_it_came(upstream: Upstream, home: Path, tmp_path: Path) -> None:
    """The replay breaks off at the same place, with the same text and the same cost."""
    policy = make_policy({"ladder": ["large"]}, api_base=upstream.url)
    path = tmp_path / "r.jsonl.gz"

    def ask(router: Router) -> tuple[str, str, list[Any]]:
        with router.route("t", "fault=cut say=one_two_three_four cut_after=3", stream=True) as parts:
            told = ""
            try:
                for part in parts:
                    told += part.text
            except StreamInterrupted as error:
                return told, error.partial_text, [attempt.amount for attempt in error.attempts]
        raise AssertionError("the stream did not break off")

    with Router(policy, home=home, record=path) as router:
        first = ask(router)
    with Router(policy, home=home, backend=Replay.load(path)) as router:
        assert ask(router) == first


def test_what_is_left_or_cancelled_is_not_recorded(upstream: Upstream, home: Path, tmp_path: Path) -> None:
    """It has no outcome that could be given again."""
    policy = make_policy({"ladder": ["large"]}, api_base=upstream.url)
    path = tmp_path / "r.jsonl"
    with Router(policy, home=home, record=path) as router:
        with router.route("t", "say=one_two_three", stream=True) as parts:
            next(parts)

        async def cancel() -> None:
            async with await router.aroute("t", "say=one_two_three", stream=True) as parts:
                await anext(parts)

        asyncio.run(cancel())
    assert list(read_recording(path)) == []
    assert {row["fault"] for row in read_table(home, "attempts")} == {"cancelled"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_deadline_is_recorded_as_a_timeout(stream: bool, upstream: Upstream, home: Path, tmp_path: Path) -> None:
    """Also where it cancels what waits, so that the replay has something to give."""
    policy = make_policy({"ladder": ["large"]}, api_base=upstream.url)
    path = tmp_path / "r.jsonl"

    async def ask(router: Router) -> None:
        if stream:
            await router.aroute("t", "fault=timeout", stream=True, deadline_s=0.2)
        else:
            await router.aroute("t", "fault=timeout", deadline_s=0.2)

    with Router(policy, home=home, record=path) as router, pytest.raises(DeadlineExceeded):
        asyncio.run(ask(router))
    assert [row["error"]["fault"] for row in read_recording(path)] == ["timeout"]


_TEXT = st.text(max_size=30)
_SOME_TEXT = _TEXT.filter(lambda text: bool(text.strip()))
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": _SOME_TEXT},
    optional={"name": st.text("ab", min_size=1)},
)


@given(prompt=_SOME_TEXT | st.lists(_MESSAGE, min_size=1, max_size=4), system=st.none() | _TEXT)
def test_every_prompt_is_found_again(prompt: Any, system: str | None) -> None:
    """Whatever the messages, the columns `system` and `prompt` give them back exactly, through JSON."""
    messages = to_messages(prompt, system)
    call = Call("small", Model(litellm="openai/small"), messages)
    row = json.loads(json.dumps(row_of(call, Reply("x", None), RATES, {"task": "t"})))
    assert key_of(row["model"], to_messages(row["prompt"], row.get("system"))) == key_of("openai/small", messages)
    assert Replay([row]).send(call, None).usage is None


_COUNT = st.integers(0, 10**6)
_USAGE = st.none() | st.builds(Usage, *[_COUNT] * 6)
_TOKEN = st.tuples(st.floats(-50, 0) | st.just(-math.inf), st.integers(0, 20), st.floats(0, 20))


def _of_tokens(reply: Reply, tokens: list[tuple[float, int, float]], told: bool) -> Reply:
    """The reply with tokens of these log-probabilities, and their lengths and margins where those are told."""
    lps, sizes, margins = zip(*tokens, strict=True) if tokens else ((), (), ())
    further: dict[str, Any] = {"token_bytes": sizes, "margins": margins} if told and tokens else {}
    return replace(reply, logprobs=lps or None, **further)


_REPLY = st.builds(
    _of_tokens,
    st.builds(
        Reply,
        text=_TEXT,
        usage=_USAGE,
        finish_reason=st.sampled_from(["stop", "length", "tool_calls", "unknown"]),
        model_served=st.sampled_from(["openai/small", "small-2026"]),
        reported_cost_nusd=st.none() | st.integers(0, 10**12),
        latency_ms=st.integers(0, 10**7).map(lambda microseconds: microseconds / 1000),
        tool_calls=st.lists(st.builds(ToolCall, _TEXT, _TEXT, _TEXT), max_size=2).map(tuple),
        extras=st.dictionaries(st.text("ab", min_size=1), _TEXT, max_size=2),
    ),
    st.lists(_TOKEN, max_size=3),
    st.booleans(),
)
_FAILURE = st.builds(
    Failure,
    fault=st.sampled_from(Fault),
    status=st.none() | st.sampled_from([400, 429, 500]),
    retry_after_s=st.none() | st.floats(0, 60),
    usage=_USAGE,
    detail=_TEXT,
    model_served=st.none() | st.just("small-2026"),
    partial=_TEXT,
)


@given(outcome=_REPLY | _FAILURE)
def test_every_outcome_comes_back(outcome: Outcome) -> None:
    """All that decides or costs anything survives the row, and the replay costs what the original cost."""
    call = Call("small", Model(litellm="openai/small"), ({"role": "user", "content": "p"},))
    row = json.loads(json.dumps(row_of(call, outcome, RATES, {"task": "t"})))
    again = Replay(list(_read(row))).send(call, None)
    if isinstance(outcome, Failure):
        assert again == outcome
        return
    assert isinstance(again, Reply)
    assert isinstance(outcome, Reply)
    kept = ("text", "usage", "finish_reason", "logprobs", "token_bytes", "margins", "tool_calls", "extras")
    assert [getattr(again, name) for name in kept] == [getattr(outcome, name) for name in kept]
    costs = [
        settle(one, RATES, upper_nusd=None, estimate=Usage(output_tokens=1), seconds=1.0) for one in (outcome, again)
    ]
    assert (costs[0].nusd, costs[0].state) == (costs[1].nusd, costs[1].state)


def _read(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row through a file, so that it passes the checks of a reader."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.jsonl"
        path.write_text(json.dumps(row) + "\n")
        return list(read_recording(path))


def test_an_unlisted_price_is_in_the_recording(home: Path, tmp_path: Path) -> None:
    """A price that the backend knew and the policy does not name: the replay costs the same."""
    from router.models import Facts

    policy = make_policy({"ladder": ["large"]})
    free = type(policy)(1, {name: Model(litellm=model.litellm) for name, model in policy.models.items()}, policy.tasks)
    models = ScriptedModels({"large": "x"}, facts={"openai/large": Facts(policy.models["large"].price)})
    path = tmp_path / "r.jsonl"
    with Router(free, home=home, backend=models, record=path) as router:
        cost = router.route("t", "p").cost_nusd
    with Router(free, home=home, backend=Replay.load(path)) as router:
        assert router.route("t", "p").cost_nusd == cost
    assert cost


def _mask(text: str) -> str:
    return text.replace("ann@example.org", "[mail]")


def test_redaction_reaches_every_text(home: Path, tmp_path: Path) -> None:
    """Prompts, system texts, replies and arguments are redacted in the file, and only there; a replay finds them."""
    reply = Reply("for ann@example.org", None, tool_calls=(ToolCall("c", "look", '{"to": "ann@example.org"}'),))
    prompt: list[dict[str, Any]] = [
        {"role": "system", "content": "about ann@example.org"},
        {"role": "user", "content": [{"type": "text", "text": "ann@example.org?"}]},
    ]
    path, policy = tmp_path / "r.jsonl", make_policy({"ladder": ["large"]})
    models = ScriptedModels({"large": reply})
    with Router(policy, home=home, backend=models, record=path, redact=_mask) as router:
        answer = router.route("t", prompt, tools=[TOOL])
    assert "ann@example.org" in answer.text
    assert "ann@example.org" in answer.tool_calls[0].arguments
    assert "ann@example.org" in str(models.history[0].messages)
    assert "ann@example.org" not in path.read_text()
    assert path.read_text().count("[mail]") == 4
    with Router(policy, home=home, backend=Replay.load(path, redact=_mask)) as router:
        assert router.route("t", prompt, tools=[TOOL]).text == "for [mail]"


@pytest.mark.parametrize("broken", [lambda _: 1 / 0, lambda _: None], ids=["raises", "no text"])
def test_a_redaction_that_fails_writes_nothing_of_the_text(broken: Any, home: Path, tmp_path: Path) -> None:
    """It is reported once, and the answer is the caller's all the same."""
    path = tmp_path / "r.jsonl"
    models = ScriptedModels({"large": "a secret"})
    policy = make_policy({"ladder": ["large"]})
    with (
        pytest.warns(RouterWarning, match=r"counts as '\[redacted\]'"),
        Router(policy, home=home, backend=models, record=path, redact=broken) as router,
    ):
        assert router.route("t", "another secret").text == "a secret"
    (row,) = read_recording(path)
    assert (row["prompt"], row["response"]) == ("[redacted]", "[redacted]")


def test_a_prompt_that_is_redacted_to_nothing_can_be_read(home: Path, tmp_path: Path) -> None:
    """No prompt is empty, so it is marked instead."""
    path, models = tmp_path / "r.jsonl", ScriptedModels({"large": "x"})
    with Router(make_policy({"ladder": ["large"]}), home=home, backend=models, record=path, redact=lambda _: "") as r:
        r.route("t", "a secret")
    assert Replay.load(path, redact=lambda _: "")


def test_a_path_that_is_there_is_refused_and_kept(home: Path, tmp_path: Path) -> None:
    """A typed error before anything is asked; `record_append` adds a part and the reader reads both."""
    path, policy = tmp_path / "r.jsonl.gz", make_policy({"ladder": ["large"]})

    def record(text: str, **options: Any) -> None:
        with Router(policy, home=home, backend=ScriptedModels({"large": text}), record=path, **options) as router:
            router.route("t", f"p {text}")

    record("one")
    before = path.read_bytes()
    with pytest.raises(RecordingError, match=r"is there already; choose another path, or say record_append=True"):
        record("two")
    record("two", record_append=True)
    assert path.read_bytes() == before
    assert [row["response"] for row in read_recording(path)] == ["one", "two"]
    path.unlink()
    with pytest.raises(RecordingError, match="is there already"):  # Its parts are.
        record("three")


@pytest.mark.parametrize("place", ["folder", "file/r.jsonl"])
def test_a_path_that_cannot_be_written_is_refused(place: str, home: Path, tmp_path: Path) -> None:
    """Also before anything is asked."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match=r"(is there already|cannot be written)"):
        Router(make_policy(), home=home, record=tmp_path / place)


def test_a_full_disk_takes_no_answer_away(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One alarm; half a row is taken back, so that what follows can be read."""
    path, real = tmp_path / "r.jsonl.gz", os.write
    models = ScriptedModels({"large": "x"})
    with Router(make_policy({"ladder": ["large"]}), home=home, backend=models, record=path) as router:
        router.route("t", "one")
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // (1 + (data[:1] == b"\x1f"))]))
        with pytest.warns(RouterWarning, match="answers are not recorded") as caught:
            texts = [router.route("t", prompt).text for prompt in ("two", "three")]
        monkeypatch.setattr(os, "write", real)
        router.route("t", "four")
    assert (texts, len(caught)) == (["x", "x"], 1)
    assert [row["prompt"] for row in read_recording(path)] == ["one", "four"]


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
def test_a_last_row_that_was_cut_is_left_out_and_told(name: str, tmp_path: Path) -> None:
    """At whatever byte its writer died."""
    row = {"model": "m", "prompt": "p", "response": "r"}
    recorder = Recorder(tmp_path / name, world=World())
    recorder.write(row)
    whole = (tmp_path / name).stat().st_size
    recorder.write(row)
    recorder.close()
    data = (tmp_path / name).read_bytes()
    for cut in range(whole + 1, len(data)):
        (tmp_path / name).write_bytes(data[:cut])
        if name.endswith(".jsonl") and cut == len(data) - 1:  # Only the newline is missing.
            assert len(list(read_recording(tmp_path / name))) == 2
            continue
        with pytest.warns(RouterWarning, match="its last row was cut short"):
            assert list(read_recording(tmp_path / name))[:1] == [row]


def test_threads_write_whole_rows(home: Path, tmp_path: Path) -> None:
    """However many record at once."""
    path, models = tmp_path / "r.jsonl.gz", ScriptedModels({"large": "x" * 5000})
    policy = make_policy({"ladder": ["large"]})
    with Router(policy, home=home, backend=models, record=path) as router, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: router.route("t", f"p {number}"), range(100)))
    assert {row["prompt"] for row in read_recording(path)} == {f"p {number}" for number in range(100)}


_KILLED = """
import os, sys, itertools
from pathlib import Path
from router import Router
from router.testing import ScriptedModels
from tests.support import make_policy
home, path = sys.argv[1:]
models = ScriptedModels({"large": "x" * 200_000})
router = Router(make_policy({"ladder": ["large"]}), home=Path(home), backend=models, record=path)
for child in range(3):
    if os.fork() == 0:
        break
else:
    child = "parent"
for number in itertools.count():
    router.route("t", f"{child} {number}")
    os.write(1, f"{child} {number}\\n".encode())
"""


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
def test_kill_nine_loses_no_acknowledged_row(name: str, home: Path, tmp_path: Path) -> None:
    """A process and three forked children record large rows as fast as they can, and all are killed."""
    import signal

    path = tmp_path / name
    command = [sys.executable, "-c", _KILLED, str(home), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(40)]
        os.killpg(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
    acknowledged = {line.decode().strip() for line in lines if line.endswith(b"\n")}
    assert len(parts_of(path)) in (2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("router.models.recording.warn", lambda _: None)
        recorded = {row["prompt"] for row in read_recording(path)}
    assert acknowledged <= recorded


def test_reading_a_stream_back_needs_one_chunk() -> None:
    """A recorded answer is given whole."""
    from router.models import parts

    replay = Replay([{"model": "m", "prompt": "p", "response": "r"}])
    call = Call("m", Model(litellm="m"), ({"role": "user", "content": "p"},))
    assert [one for one in parts(replay, call, None) if isinstance(one, Chunk)] == [Chunk("r")]


def test_recording_is_gzip_that_any_tool_reads(home: Path, tmp_path: Path) -> None:
    """Members one after another are one gzip file."""
    path, models = tmp_path / "r.jsonl.gz", ScriptedModels({"large": "x"})
    with Router(make_policy({"ladder": ["large"]}), home=home, backend=models, record=path) as router:
        for number in range(3):
            router.route("t", f"p {number}")
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 3
