"""Idempotency keys: the same key and parameters give the same answer for a day, and ask for it once."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Answer, Router, RouterWarning
from router.audit import audit
from router.core.answer import Attempt, Step
from router.core.call import ToolCall, Usage
from router.core.checks import Verdict
from router.core.faults import Fault
from router.core.pricing import Amount
from router.core.stored import plain, restored
from router.errors import DeadlineExceeded, InvalidCall, LadderExhausted, RequestRefused, StateError
from router.state import AnswerStore, Claim
from router.testing import Call, Failure, Reply, ScriptedModels, SimulatedWorld, reply
from router.world import World
from tests.support import make_policy, read_table
from tests.upstream import Upstream


def _router(home: Path, script: Any = "yes", world: World | None = None, **task: Any) -> tuple[Router, ScriptedModels]:
    models = ScriptedModels({"small": script, "large": script})
    return Router(make_policy({"ladder": ["large"], **task}), home=home, backend=models, world=world), models


def _route(router: Router, prompt: Any = "p", **options: Any) -> Answer:
    answer: Answer = router.route("t", prompt, **options)
    return answer


def _aroute(router: Router, prompt: Any = "p", **options: Any) -> Answer:
    answer: Answer = asyncio.run(router.aroute("t", prompt, **options))
    return answer


def _streamed(router: Router, prompt: Any = "p", **options: Any) -> Answer:
    with router.route("t", prompt, stream=True, **options) as parts:
        assert "".join(map(str, parts)) == parts.answer.text
        return parts.answer


WAYS = [_route, _aroute, _streamed]


@pytest.mark.parametrize("first", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("second", WAYS, ids=lambda way: way.__name__)
def test_the_same_key_gives_the_same_answer(first: Any, second: Any, home: Path) -> None:
    """Whichever way it is asked and asked again: one request, and a second row that cost nothing and says why."""
    router, models = _router(home, iter_of("yes", "no"))
    with router:
        one = first(router, idempotency_key="k")
        two = second(router, idempotency_key="k")
        assert second(router, idempotency_key="other").text == "no"
    assert (one.text, two.text, len(models.history)) == ("yes", "yes", 2)
    assert (one.repeat_of, two.repeat_of) == (None, one.route_id)
    assert (two.cost_nusd, two.attempts, two.escalated) == (0, (), False)
    assert (two.parsed, two.confidence, two.model, two.usage) == (one.parsed, one.confidence, one.model, one.usage)
    assert two.reason == f"the answer of call {one.route_id}, which had the same idempotency key"
    rows = read_table(home, "routes")
    assert [(row["outcome"], row["repeat_of"]) for row in rows[:2]] == [("answered", None), ("answered", one.route_id)]
    assert rows[1]["cost_nusd"] == 0


def iter_of(*texts: str) -> Callable[[Call], Reply]:
    """Replies one after another."""
    left = iter(texts)
    return lambda call: reply(next(left), call)


def test_the_audit_counts_what_was_paid(home: Path) -> None:
    """A call that was given an earlier answer is a call, costs nothing, saves nothing and asks no model."""
    router, _ = _router(home)
    with router:
        cost = _route(router, idempotency_key="k").cost_nusd
        for _ in range(4):
            _route(router, idempotency_key="k")
    total = audit(home).total
    assert (total.calls, total.cost_nusd, total.saved_nusd, total.failed, total.escalated) == (5, cost, 0, 0, 0)
    (model,) = audit(home, by="model").rows
    assert (model.calls, model.cost_nusd) == (1, cost)


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "other"},
        {"params": {"temperature": 1.0}},
        {"params": {"max_tokens": 3}},
        {"schema": {"type": "object"}},
        {"tools": [{"type": "function", "function": {"name": "look"}}]},
    ],
    ids=["prompt", "parameter", "length", "schema", "tools"],
)
def test_a_key_for_something_else_is_refused(changed: dict[str, Any], home: Path) -> None:
    """Nothing is asked, the first answer stays, and the refusal is on record."""
    router, models = _router(home)
    with router:
        _route(router, idempotency_key="k")
        with pytest.raises(InvalidCall, match="was used for another task, prompt or parameters") as caught:
            _route(router, **{"prompt": "p", **changed}, idempotency_key="k")
        assert caught.value.argument == "idempotency_key"
        assert _route(router, idempotency_key="k").text == "yes"
    assert len(models.history) == 1
    assert [row["outcome"] for row in read_table(home, "routes")] == ["answered", "InvalidCall", "answered"]


def test_what_does_not_change_the_answer_may_differ(home: Path) -> None:
    """Attribution, limits and headers are no part of what was asked."""
    router, models = _router(home)
    with router:
        _route(router, idempotency_key="k", feature="a", deadline_s=5)
        _route(router, idempotency_key="k", feature="b", user="u", max_cost_usd=1, extra_headers={"x-a": "b"})
    assert len(models.history) == 1


def test_tenants_have_keys_of_their_own(home: Path) -> None:
    """One tenant is never given the answer of another."""
    router, models = _router(home, iter_of("for a", "for b"))
    with router:
        assert _route(router, idempotency_key="k", tenant="a").text == "for a"
        assert _route(router, idempotency_key="k", tenant="b").text == "for b"
    assert len(models.history) == 2


def test_no_tenant_and_key_are_taken_for_others(home: Path) -> None:
    """Whatever characters they have."""
    router, models = _router(home, iter_of("1", "2", "3"))
    with router:
        assert _route(router, idempotency_key="b\0c", tenant="a").text == "1"
        assert _route(router, idempotency_key="c", tenant="a\0b").text == "2"
        assert _route(router, idempotency_key="a\0b\0c").text == "3"
    assert len(models.history) == 3


@pytest.mark.parametrize("key", ["", "  ", 7, b"k"])
def test_a_key_is_some_text(key: Any, home: Path) -> None:
    """Anything else is refused before anything is sent."""
    router, models = _router(home)
    with router, pytest.raises(InvalidCall, match=r"idempotency_key: is .*; give some text"):
        _route(router, idempotency_key=key)
    assert models.history == []


def test_a_failure_is_not_kept(home: Path) -> None:
    """The next call with the key asks."""
    replies = iter([Failure(Fault.BAD_REQUEST), Failure(Fault.SERVER_ERROR)])
    router, models = _router(home, lambda call: next(replies, None) or reply("yes", call), retry={"attempts": 1})
    with router:
        for error in (RequestRefused, LadderExhausted):
            with pytest.raises(error):
                _route(router, idempotency_key="k")
        assert _route(router, idempotency_key="k").text == "yes"
    assert len(models.history) == 3


def test_an_answer_is_kept_for_a_day(home: Path) -> None:
    """After that the key is free, and its answer gone."""
    world = SimulatedWorld()
    router, models = _router(home, world=world)
    with router:
        _route(router, idempotency_key="k")
        world.clock.sleep(24 * 3600 - 1)
        assert _route(router, idempotency_key="k").repeat_of
        world.clock.sleep(2)
        assert _route(router, "another prompt", idempotency_key="k").repeat_of is None
    assert len(models.history) == 2


def test_nothing_that_was_asked_can_be_read_off_the_disk(home: Path) -> None:
    """Keys, prompts and tenants are fingerprints; only the answer itself is there, for the owner only."""
    router, _ = _router(home, "the answer")
    with router:
        _route(router, "the question", idempotency_key="the key", tenant="the tenant")
    files = [path for path in (home / "state").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"answers.db", "answers.db-journal"}
    content = b"".join(path.read_bytes() for path in files)
    assert b"the answer" in content
    assert not any(word in content for word in (b"the question", b"the key", b"the tenant"))
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (home / "state").stat().st_mode & 0o777 == 0o700


def test_structured_answers_come_back_as_the_callers_type(home: Path) -> None:
    """The value is made from the text again, with the type that this call brings."""

    @dataclass
    class Point:
        x: int

    router, _ = _router(home, '{"x": 3}')
    with router:
        assert [_route(router, idempotency_key="k", schema=Point).parsed for _ in range(2)] == [Point(3), Point(3)]


def test_tool_calls_come_back_with_their_ids(home: Path) -> None:
    """So that the loop goes on where it was."""
    calls = (ToolCall("c1", "look", '{"a": 1}'),)
    router, _ = _router(home, lambda call: Reply("", Usage(1, output_tokens=1), tool_calls=calls))
    tools = [{"type": "function", "function": {"name": "look"}}]
    with router:
        one, two = (_route(router, idempotency_key="k", tools=tools) for _ in range(2))
    assert two.tool_calls == one.tool_calls
    assert two.message == one.message


class _Gate:
    """A model that says when it was asked, and answers when it is let."""

    def __init__(self) -> None:
        self.asked, self.open = threading.Event(), threading.Event()

    def __call__(self, call: Call) -> Reply:
        self.asked.set()
        assert self.open.wait(30)
        return reply("yes", call)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_duplicates_at_the_same_time_wait_for_the_first(way: Any, home: Path) -> None:
    """All of them are given its answer; one request was made."""
    gate = _Gate()
    router, models = _router(home, gate)
    answers: list[Answer] = []
    with router:
        threads = [threading.Thread(target=lambda: answers.append(way(router, idempotency_key="k"))) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert gate.asked.wait(30)
        with pytest.raises(InvalidCall, match="was used for another"):
            way(router, "another prompt", idempotency_key="k")
        with pytest.raises(DeadlineExceeded, match=r"was still at work after 0\.05 s"):
            way(router, idempotency_key="k", deadline_s=0.05)
        gate.open.set()
        for thread in threads:
            thread.join(30)
    assert len(models.history) == 1
    assert len({answer.repeat_of for answer in answers}) == 2
    assert len({answer.text for answer in answers}) == 1


def test_waiting_does_not_block_the_loop(home: Path) -> None:
    """Two tasks of one loop with one key: the second waits while the first works."""
    release = threading.Event()

    class Slow(ScriptedModels):
        async def asend(self, call: Call, timeout_s: float | None) -> Any:
            while not release.is_set():
                await asyncio.sleep(0)
            return self.send(call, timeout_s)

    models = Slow({"large": "yes"})

    async def both(router: Router) -> list[Answer]:
        tasks = [asyncio.create_task(router.aroute("t", "p", idempotency_key="k")) for _ in range(2)]
        while not (home / "state" / "claims").exists():
            await asyncio.sleep(0)
        release.set()
        return list(await asyncio.gather(*tasks))

    with Router(make_policy({"ladder": ["large"]}), home=home, backend=models) as router:
        answers = asyncio.run(both(router))
    assert sorted(answer.repeat_of is None for answer in answers) == [False, True]
    assert len(models.history) == 1


def test_a_stream_is_not_waited_for_by_its_own_thread(home: Path) -> None:
    """It would be for ever; once the stream has been read, its answer is given."""
    router, models = _router(home)
    with router, router.route("t", "p", stream=True, idempotency_key="k") as parts:
        for way in (_route, _streamed):
            with pytest.raises(InvalidCall, match="would wait for itself; read it to its end or close it first"):
                way(router, idempotency_key="k")
        assert "".join(map(str, parts)) == "yes"
        assert _route(router, idempotency_key="k").repeat_of == parts.route_id
    assert len(models.history) == 1


def test_a_stream_is_not_waited_for_by_its_own_task(home: Path) -> None:
    """Another task of the same loop waits, and is given its answer."""

    async def ask(router: Router) -> None:
        parts = await router.aroute("t", "p", stream=True, idempotency_key="k")
        with pytest.raises(InvalidCall, match="would wait for itself"):
            await router.aroute("t", "p", idempotency_key="k")
        other = asyncio.create_task(router.aroute("t", "p", idempotency_key="k"))
        await asyncio.sleep(0)
        assert [str(part) async for part in parts] == ["yes"]
        assert (await other).repeat_of == parts.route_id

    router, models = _router(home)
    with router:
        asyncio.run(ask(router))
    assert len(models.history) == 1


@pytest.mark.parametrize("left", ["stream", "task"])
def test_a_call_that_was_left_frees_its_key(left: str, home: Path) -> None:
    """An answer that was not read to its end is not kept, and nobody waits for it."""
    router, _ = _router(home, "yes")
    with router:
        if left == "stream":
            router.route("t", "p", stream=True, idempotency_key="k").close()
        else:

            async def cancel() -> None:
                task = asyncio.create_task(router.aroute("t", "p", idempotency_key="k"))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            asyncio.run(cancel())
        assert _route(router, idempotency_key="k", deadline_s=5).text == "yes"
    assert list((home / "state" / "claims").iterdir()) == []


def test_a_store_that_cannot_be_used_refuses_before_asking(home: Path) -> None:
    """Once cannot be promised then; calls without a key go on."""
    home.mkdir()
    (home / "state").write_text("in the way")
    router, models = _router(home)
    with router:
        with pytest.raises(StateError, match="cannot be kept"):
            _route(router, idempotency_key="k")
        assert models.history == []
        assert _route(router).text == "yes"


@pytest.mark.parametrize("damage", ["no JSON", "5", "{}", '{"v": 1, "text": 5}'])
def test_a_damaged_answer_is_an_error_with_its_file(damage: str, home: Path) -> None:
    """Nothing is asked."""
    router, models = _router(home)
    with router:
        _route(router, idempotency_key="k")
        with closing(sqlite3.connect(home / "state" / "answers.db")) as database, database:
            database.execute("UPDATE answers SET answer = ?", (damage,))
        with pytest.raises(StateError, match=r"answers\.db: holds an answer that is damaged"):
            _route(router, idempotency_key="k")
    assert len(models.history) == 1


def test_a_store_that_breaks_takes_no_answer_away(home: Path) -> None:
    """The answer is paid for; a warning says that it is not kept."""

    def script(call: Call) -> Reply:
        (home / "state" / "answers.db").write_bytes(b"no database at all" * 100)
        return reply("yes", call)

    router, _ = _router(home, script)
    with router, pytest.warns(RouterWarning, match="an answer is not kept"):
        assert _route(router, idempotency_key="k").text == "yes"


_WORKER = """
import os, sys
from pathlib import Path
from router import Router
from tests.support import make_policy
url, home, prompt = sys.argv[1:]
with Router(make_policy({"ladder": ["large"]}, api_base=url), home=Path(home)) as router:
    os.write(1, b"ready\\n")
    sys.stdin.readline()
    answer = router.route("t", prompt, idempotency_key="k")
    print(answer.text, answer.repeat_of is None, flush=True)
"""


def _start(upstream: Upstream, home: Path, prompt: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WORKER, upstream.url, str(home), prompt]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_ask_once_between_them(upstream: Upstream, home: Path) -> None:
    """Four processes, one key, at the same moment: one request on the upstream's own bill."""
    workers = [_start(upstream, home, "say=yes") for _ in range(4)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = sorted(worker.communicate(timeout=60)[0] for worker in workers)
    assert said == ["yes False\n"] * 3 + ["yes True\n"]
    assert len(upstream.bill()) == 1


def _until_asked(upstream: Upstream) -> None:
    while not upstream.bill():
        os.sched_yield()


def test_the_key_of_a_killed_process_is_free(upstream: Upstream, home: Path) -> None:
    """Kill -9 while its request is under way: the next one asks at once."""
    with _start(upstream, home, "fault=timeout_billed,ok say=yes") as worker:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
        _until_asked(upstream)
        worker.kill()
    policy = make_policy({"ladder": ["large"]}, api_base=upstream.url)
    with Router(policy, home=home) as router:
        answer = router.route("t", "fault=timeout_billed,ok say=yes", idempotency_key="k", deadline_s=30)
    assert (answer.text, answer.repeat_of) == ("yes", None)


def test_a_fork_does_not_keep_the_claim_of_its_parent(home: Path) -> None:
    """A child that outlives its parent's call holds nobody up."""
    store = AnswerStore(home / "state")
    claim = store.claim("n", "b")
    assert isinstance(claim, Claim)
    (receiving, sending), (ready, tell) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(sending)
        os.write(tell, b"!")
        os.read(receiving, 1)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"!"
        assert store.claim("n", "b") == "b"
        os.close(claim._file or 0)  # As when the parent dies: the lock goes with its last descriptor.
        claim._file = None
        again = store.claim("n", "b")
        assert isinstance(again, Claim)
        again.release()
    finally:
        os.close(sending)
        os.waitpid(child, 0)
        for end in (receiving, ready, tell):
            os.close(end)
        claim._drop()


_TEXT = st.text(max_size=10)
_AMOUNT = st.builds(Amount, st.sampled_from(["settled", "maybe_billed"]), st.none() | st.integers(0), st.none())
_USAGE = st.none() | st.builds(Usage, *[st.integers(0, 99)] * 6)
_NUMBER = st.floats(allow_nan=False)
_ATTEMPT = st.builds(
    Attempt,
    *(_TEXT, st.integers(0, 3), _TEXT, st.integers(1, 3), _TEXT, st.none() | _TEXT, st.none() | st.sampled_from(Fault)),
    *(st.none() | st.integers(), _USAGE, st.sampled_from(["provider", "none"]), _AMOUNT, _NUMBER, st.none() | _NUMBER),
)
_STEP = st.builds(
    Step,
    *(st.integers(0, 3), _TEXT, st.sampled_from(["accept", "fail"]), _TEXT, st.none() | _NUMBER, st.none() | _TEXT),
    *(st.none() | _NUMBER, st.none() | st.integers(0), st.integers(0, 3), st.dictionaries(_TEXT, _NUMBER, max_size=2)),
)
_ANSWER = st.builds(
    Answer,
    *(_TEXT, st.none(), _TEXT, st.integers(0, 3), _NUMBER, _TEXT, st.booleans(), _TEXT, _TEXT),
    *(st.lists(_STEP, max_size=2).map(tuple), st.lists(_ATTEMPT, max_size=2).map(tuple), st.just("stop"), _USAGE),
    *(st.none() | st.integers(0), st.none(), st.integers(0), st.none(), st.just("unknown"), _NUMBER),
    tool_calls=st.lists(st.builds(ToolCall, _TEXT, _TEXT, _TEXT), max_size=2).map(tuple),
    extras=st.dictionaries(_TEXT, _TEXT, max_size=2),
)


@given(answer=_ANSWER)
def test_an_answer_survives_being_stored(answer: Answer) -> None:
    """All of it but the backend's object; the value is read from the text again."""
    values = json.loads(json.dumps(plain(answer), default=str))
    assert restored(values, lambda _: Verdict(False, None, "x")) == answer
    assert restored({**values, "v": 0}, lambda _: Verdict(True)) is None
