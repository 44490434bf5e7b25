"""Many calls at once: bounded, lazy, in order or as they end, resumable, and none of them takes the others down."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router, RouterWarning
from router.batch import Mapped, Progress
from router.core.faults import Fault
from router.errors import InvalidCall, LadderExhausted, NoAnswer, UnknownTask
from router.options import attribute
from router.testing import Call, Failure, Reply, ScriptedModels, reply
from tests.support import make_policy, read_table
from tests.upstream import Upstream

Run = Callable[..., list[Mapped]]


def _echo(call: Call) -> Reply | Failure:
    text = call.messages[-1]["content"]
    return Failure(Fault.NOT_FOUND) if "gone" in text else reply(f"to {text}", call)


def _router(home: Path, script: Any = _echo, **options: Any) -> Router:
    return Router(make_policy({"ladder": ["large"]}), home=home, backend=ScriptedModels({"large": script}), **options)


def _run(router: Router, prompts: Iterable[Any], **options: Any) -> list[Mapped]:
    return list(router.map("t", prompts, **options))


def _arun(router: Router, prompts: Iterable[Any], **options: Any) -> list[Mapped]:
    async def gather() -> list[Mapped]:
        return [mapped async for mapped in router.amap("t", prompts, **options)]

    return asyncio.run(gather())


@pytest.fixture(params=[_run, _arun], ids=["map", "amap"])
def run(request: pytest.FixtureRequest) -> Run:
    """The same run, blocking and not."""
    found: Run = request.param
    return found


def _texts(results: list[Mapped]) -> list[str | None]:
    return [one.answer.text if one.answer else None for one in results]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 40), concurrency=st.integers(1, 9), ordered=st.booleans(), gone=st.sets(st.integers(0, 39)))
def test_every_prompt_has_its_result_once(count: int, concurrency: int, ordered: bool, gone: set[int]) -> None:
    """Whatever the order and the failures: one result for each prompt, with its own index."""
    import tempfile

    prompts = [f"{'gone' if number in gone else 'p'} {number}" for number in range(count)]
    with tempfile.TemporaryDirectory() as home, _router(Path(home)) as router:
        router._report._warned.add(("t", "large", "not_found"))
        for results in (
            _run(router, prompts, concurrency=concurrency, ordered=ordered),
            _arun(router, prompts, concurrency=concurrency, ordered=ordered),
        ):
            if ordered:
                assert [one.index for one in results] == list(range(count))
            assert sorted(one.index for one in results) == list(range(count))
            for one in results:
                assert (one.answer is None) is (one.index in gone) is isinstance(one.error, NoAnswer)
                assert one.answer is None or one.answer.text == f"to p {one.index}"


def test_one_failure_does_not_end_the_rest(home: Path, run: Run) -> None:
    """The error stands where the answer would; a prompt that cannot be used is one, too."""
    with _router(home) as router, pytest.warns(RouterWarning, match="cannot be used"):
        results = run(router, ["one", "gone", "", None, "five"])
    assert _texts(results) == ["to one", None, None, None, "to five"]
    assert [type(one.error) for one in results[1:4]] == [LadderExhausted, InvalidCall, InvalidCall]


def test_an_exception_of_a_backend_is_one_prompts(home: Path, run: Run) -> None:
    """Whatever its class."""

    def script(call: Call) -> Reply:
        if "odd" in call.messages[-1]["content"]:
            raise LookupError("odd")
        return reply("x", call)

    with _router(home, script) as router:
        results = run(router, ["a", "odd", "c"])
    assert [type(one.error) for one in results] == [type(None), LookupError, type(None)]
    assert _texts(results) == ["x", None, "x"]


def _circular() -> list[Any]:
    message: dict[str, Any] = {"role": "user", "content": "p"}
    message["content"] = [message]
    return [message]


def _deep() -> list[Any]:
    content: Any = "p"
    for _ in range(100_000):
        content = [content]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("odd", [[{1: "p", "role": "user"}], _circular(), _deep()], ids=["key", "circular", "deep"])
def test_a_prompt_that_cannot_be_written_is_one_error(odd: Any, home: Path, tmp_path: Path, run: Run) -> None:
    """The others are answered, and kept in the file."""
    path = tmp_path / "answers.jsonl"
    with _router(home) as router:
        results = run(router, ["a", odd, "c"], resume=path)
    assert _texts(results) == ["to a", None, "to c"]
    assert isinstance(results[1].error, InvalidCall)
    assert sorted(json.loads(line)["index"] for line in path.read_text().splitlines()) == [0, 2]


def test_prompts_that_end_with_an_error_give_what_was_begun_first(home: Path) -> None:
    """Its answers are paid for; the error comes after them."""

    def prompts() -> Iterator[str]:
        yield from ("a", "b")
        raise LookupError("no more")

    async def gather(router: Router, given: list[Mapped]) -> None:
        async for one in router.amap("t", prompts()):
            given += [one]

    with _router(home) as router:
        given: list[Mapped] = []
        with pytest.raises(LookupError, match="no more"):
            given.extend(router.map("t", prompts()))
        assert _texts(given) == ["to a", "to b"]
        given.clear()
        with pytest.raises(LookupError, match="no more"):
            asyncio.run(gather(router, given))
        assert _texts(given) == ["to a", "to b"]


class _Gate:
    """Models that answer only when they are let, and that count who waits."""

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.at_work = self.most = 0
        self.began = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(self, call: Call) -> Reply:
        with self._lock:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        self.began.release()
        assert self.open.acquire(timeout=30)
        with self._lock:
            self.at_work -= 1
        return reply("x", call)


def test_concurrency_is_bounded_and_reached(home: Path) -> None:
    """So many calls at the same time, and never one more."""
    gate = _Gate()
    with _router(home, gate) as router:
        results: list[Mapped] = []
        thread = threading.Thread(target=lambda: results.extend(router.map("t", ["p"] * 20, concurrency=3)))
        thread.start()
        for _ in range(3):
            assert gate.began.acquire(timeout=30)
        gate.open.release(20)
        thread.join(30)
    assert (gate.most, len(results)) == (3, 20)


def test_prompts_are_taken_when_there_is_room(home: Path, run: Run) -> None:
    """A generator is never far ahead of what was given: a million prompts need the memory of a few."""
    taken = itertools.count(1)
    given, furthest = 0, 0

    def prompts() -> Iterator[str]:
        nonlocal furthest
        for number in range(300):
            furthest = max(furthest, next(taken) - given)
            yield f"p {number}"

    def seen(_: Progress) -> None:
        nonlocal given
        given += 1

    with _router(home) as router:
        assert len(run(router, prompts(), concurrency=2, on_progress=seen)) == 300
    assert furthest <= 2 * 4 + 1


def test_a_slow_prompt_holds_nobody_up_out_of_order(home: Path) -> None:
    """Unordered results come as they end; ordered ones wait for the slow one."""
    slow = threading.Event()

    def script(call: Call) -> Reply:
        if "slow" in call.messages[-1]["content"]:
            assert slow.wait(30)
        return reply("x", call)

    with _router(home, script) as router:
        with closing(router.map("t", ["slow", "a", "b"], concurrency=2, ordered=False)) as results:
            assert [next(results).index, next(results).index] == [1, 2]
            slow.set()
            assert next(results).index == 0
        assert [one.index for one in router.map("t", ["slow", "a"], concurrency=2)] == [0, 1]


def test_asynchronous_prompts(home: Path) -> None:
    """`amap` takes them; `map` says who does."""

    async def prompts() -> AsyncIterator[str]:
        for number in range(3):
            yield f"p {number}"

    async def gather(router: Router) -> list[Mapped]:
        return [one async for one in router.amap("t", prompts())]

    with _router(home) as router:
        assert _texts(asyncio.run(gather(router))) == ["to p 0", "to p 1", "to p 2"]
        with pytest.raises(InvalidCall, match=r"use amap\(\)"):
            list(router.map("t", prompts()))  # type: ignore[arg-type]


def test_progress_counts_and_its_faults_are_its_own(home: Path, run: Run) -> None:
    """Called after every prompt; one that raises is reported once and changes nothing."""
    seen: list[Progress] = []
    with _router(home) as router:
        run(router, ["a", "", "c"], on_progress=seen.append, concurrency=1)
        assert seen == [Progress(1, 0, 3), Progress(2, 1, 3), Progress(3, 1, 3)]
        run(router, iter(["a"]), on_progress=seen.append)
        assert seen[-1] == Progress(1, 0, None)
        with pytest.warns(RouterWarning, match="raised ZeroDivisionError; progress is not shown"):
            assert len(run(router, ["a", "b"], on_progress=lambda _: 1 / 0)) == 2


@pytest.mark.parametrize(
    ("prompts", "options", "argument"),
    [
        ("one text", {}, "prompts"),
        ({"role": "user"}, {}, "prompts"),
        (7, {}, "prompts"),
        ([], {"concurrency": 0}, "concurrency"),
        ([], {"concurrency": True}, "concurrency"),
        ([], {"concurrency": 2.5}, "concurrency"),
        ([], {"on_progress": "print"}, "on_progress"),
        ([], {"idempotency_key": "k"}, "idempotency_key"),
        ([], {"stream": True}, "stream"),
        ([], {"resume": 5}, "resume"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(prompts: Any, options: Any, argument: str, home: Path) -> None:
    """Before anything is asked, by the name of the argument."""
    with _router(home) as router:
        for function in (router.map, router.amap):
            with pytest.raises(InvalidCall) as caught:
                function("t", prompts, **options)
            assert caught.value.argument == argument
        with pytest.raises(UnknownTask):
            router.map("nothing", ["p"])
        with pytest.raises(TypeError, match="unexpected keyword argument 'feture'"):
            list(router.map("t", ["p"], feture="f"))  # type: ignore[call-arg]


def test_options_and_attribution_reach_every_call(home: Path, run: Run) -> None:
    """What is said for the run or around it is said for each prompt."""
    with _router(home) as router, attribute(feature="import"):
        run(router, ["a", "b"], tenant="acme")
    assert {(row["feature"], row["tenant"]) for row in read_table(home, "routes")} == {("import", "acme")}


def test_a_run_is_resumed_where_it_ended(home: Path, tmp_path: Path, run: Run) -> None:
    """What has an answer is given again without a request; what failed is asked again."""
    path, asked = tmp_path / "answers.jsonl", []
    broken = True

    def script(call: Call) -> Reply | Failure:
        asked.append(call.messages[-1]["content"])
        return Failure(Fault.BAD_REQUEST) if broken and asked[-1] == "b" else reply(f"to {asked[-1]}", call)

    with _router(home, script) as router:
        first = run(router, ["a", "b", "c"], resume=path)
        broken = False
        second = run(router, ["a", "b", "c", "d"], resume=path)
    assert _texts(first) == ["to a", None, "to c"]
    assert _texts(second) == ["to a", "to b", "to c", "to d"]
    assert sorted(asked) == ["a", "b", "b", "c", "d"]
    for before, after in zip(first, second, strict=False):
        if before.answer:
            assert after.answer == before.answer
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("prompts", "options"),
    [(["a", "other"], {}), (["b", "a"], {}), (["a", "b"], {"params": {"temperature": 1}})],
    ids=["prompt", "order", "parameters"],
)
def test_another_run_does_not_resume_this_one(prompts: Any, options: Any, home: Path, tmp_path: Path, run: Run) -> None:
    """An answer to something else is never given; the file stays as it is."""
    path = tmp_path / "answers.jsonl"
    with _router(home) as router:
        run(router, ["a", "b"], resume=path)
        before = path.read_bytes()
        with pytest.raises(InvalidCall, match=r"has the answer to another prompt at position \d"):
            run(router, prompts, resume=path, **options)
    assert path.read_bytes() == before


def test_a_torn_row_is_asked_again(home: Path, tmp_path: Path, run: Run) -> None:
    """What a killed process left of its last row is cut off, and the next row stands on a line of its own."""
    path = tmp_path / "answers.jsonl"
    with _router(home) as router:
        run(router, ["a", "b"], resume=path, concurrency=1)
        path.write_bytes(path.read_bytes()[:-7])
        assert _texts(run(router, ["a", "b"], resume=path)) == ["to a", "to b"]
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("kept", [0, 1, 9, 10, 30])
def test_a_torn_first_row_is_asked_again(kept: int, home: Path, tmp_path: Path, run: Run) -> None:
    """Wherever it ends."""
    path = tmp_path / "answers.jsonl"
    with _router(home) as router:
        run(router, ["a"], resume=path)
        path.write_bytes(path.read_bytes()[:kept])
        assert _texts(run(router, ["a"], resume=path)) == ["to a"]
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0]


@pytest.mark.parametrize("content", ['{"my": "data"}', '{"index": 7}', '{"index":7}', "[]", "notes"])
def test_a_file_without_a_newline_is_not_cut_off(content: str, home: Path, tmp_path: Path, run: Run) -> None:
    """Only what begins like a row of ours is the rest of one."""
    path = tmp_path / "mine.json"
    path.write_text(content)
    with _router(home) as router, pytest.raises(InvalidCall, match="line 1 is no row of an earlier run"):
        run(router, ["a"], resume=path)
    assert path.read_text() == content


@pytest.mark.parametrize(
    "damage",
    [
        {"index": "x"},
        {"index": None},
        {"index": 1e999},
        {"index": True},
        {"answer": 5},
        {"answer": {}},
        {"answer": {"v": 1}},
        {"answer": {"v": 1, "text": 5}},
    ],
    ids=str,
)
def test_a_damaged_row_is_named(damage: Any, home: Path, tmp_path: Path, run: Run) -> None:
    """By file and line; the file stays as it is."""
    path = tmp_path / "answers.jsonl"
    with _router(home) as router:
        run(router, ["a", "b"], resume=path, concurrency=1)
        first, second = path.read_text().splitlines()
        path.write_text(f"{first}\n{json.dumps(json.loads(second) | damage)}\n")
        before = path.read_bytes()
        with pytest.raises(InvalidCall, match=r"answers\.jsonl: line 2 is no row of an earlier run"):
            run(router, ["a", "b"], resume=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", ["steps", "attempts", "usage", "tool_calls"])
def test_a_damaged_answer_is_named(part: str, home: Path, tmp_path: Path, run: Run) -> None:
    """Whichever part of it is missing, or something else."""
    path = tmp_path / "answers.jsonl"
    with _router(home) as router:
        run(router, ["a"], resume=path)
        row = json.loads(path.read_text())
        for answer in ({k: v for k, v in row["answer"].items() if k != part}, row["answer"] | {part: 5}):
            path.write_text(json.dumps(row | {"answer": answer}) + "\n")
            with pytest.raises(InvalidCall, match="line 1 is no row of an earlier run"):
                run(router, ["a"], resume=path)


def test_a_full_disk_takes_no_answer_away(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """One warning; what could be written can be read, and the rest is asked again."""
    path, real = tmp_path / "answers.jsonl", os.write
    with _router(home) as router:
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // (1 + (b'"index":1,' in data))]))
        with pytest.warns(RouterWarning, match="answers are not kept for a later run") as warned:
            assert _texts(run(router, ["a", "b", "c"], resume=path)) == ["to a", "to b", "to c"]
        monkeypatch.setattr(os, "write", real)
        assert _texts(run(router, ["a", "b", "c"], resume=path)) == ["to a", "to b", "to c"]
    assert len(warned) == 1
    assert sorted(json.loads(line)["index"] for line in path.read_text().splitlines()) == [0, 1, 2]


def test_a_file_of_something_else_is_refused_and_kept(home: Path, tmp_path: Path, run: Run) -> None:
    """So is one that another run is writing, and one that cannot be made."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with _router(home) as router:
        with pytest.raises(InvalidCall, match="line 1 is no row of an earlier run"):
            run(router, ["a"], resume=path)
        with pytest.raises(InvalidCall, match="cannot be written"):
            run(router, ["a"], resume=tmp_path / "nowhere" / "answers.jsonl")
        mine = tmp_path / "answers.jsonl"
        with closing(router.map("t", ["a", "b"], resume=mine)) as results:
            next(results)
            with pytest.raises(InvalidCall, match="in use by another run"):
                run(router, ["a", "b"], resume=mine)
    assert path.read_text() == "my notes\n"


def test_leaving_early_settles_everything(upstream: Upstream, home: Path) -> None:
    """No prompt is begun after that, no thread or task is left, and every request has its end on record."""
    endless = (f"say=yes id={number}" for number in itertools.count())
    with Router(make_policy({"ladder": ["large"]}, api_base=upstream.url), home=home) as router:
        with closing(router.map("t", endless, concurrency=4)) as results:
            assert next(results).answer
        assert not [one for one in threading.enumerate() if one.name.startswith("router-map")]

        async def leave() -> None:
            async with aclosing(router.amap("t", endless, concurrency=4)) as results:
                assert (await anext(results)).answer
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(leave())
    states = {row["state"] for row in read_table(home, "attempts")}
    assert states <= {"settled", "maybe_billed"}
    assert len(read_table(home, "routes")) < 100


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the open files as Linux lists them")
def test_blocking_threads_leave_nothing_open(upstream: Upstream, home: Path) -> None:
    """Run after run, the process has no more files, sockets or pipes than after the first ones."""
    with Router(make_policy({"ladder": ["large"]}, api_base=upstream.url), home=home) as router:
        for _ in range(2):
            _run(router, ["say=yes"] * 16, concurrency=8)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(6):
            _run(router, ["say=yes"] * 16, concurrency=8)
        # Between runs of different luck the pool keeps up to eight connections more; a leak would keep one for each of
        # 96 calls, or of 48 threads.
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 16


_INTERRUPTED = """
import itertools, signal, sys
from pathlib import Path
from router import Router
from tests.support import make_policy
signal.signal(signal.SIGINT, signal.default_int_handler)  # A test run in the background ignores it.
url, home, resume = sys.argv[1:]
router = Router(make_policy({"ladder": ["large"]}, api_base=url), home=Path(home))
try:
    for one in router.map("t", (f"say=yes id={n}" for n in itertools.count()), concurrency=4, resume=resume):
        sys.stdout.write(f"{one.index} {one.answer.text}\\n")  # In one piece: the signal may come at any time.
        sys.stdout.flush()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_an_interrupted_run_loses_nothing(sent: signal.Signals, upstream: Upstream, home: Path, tmp_path: Path) -> None:
    """Ctrl-C ends it with all rows settled; after either signal, what was given is not asked again."""
    resume = tmp_path / "answers.jsonl"
    command = [sys.executable, "-c", _INTERRUPTED, upstream.url, str(home), str(resume)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout
        given = [process.stdout.readline() for _ in range(20)]
        process.send_signal(sent)
        given += process.stdout.read().splitlines()
    assert (given[-1] == "interrupted") is (sent == signal.SIGINT)
    if sent == signal.SIGINT:
        assert {row["state"] for row in read_table(home, "attempts")} == {"settled"}
    indices = [int(line.split()[0]) for line in given if line.strip() not in ("", "interrupted")]
    kept = [json.loads(line)["index"] for line in resume.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert set(indices) <= set(kept)
    upstream.reset()
    prompts = [f"say=yes id={number}" for number in range(len(indices))]
    with Router(make_policy({"ladder": ["large"]}, api_base=upstream.url), home=home) as router:
        assert {text for text in _texts(_run(router, prompts, resume=resume))} == {"yes"}
    assert len(upstream.bill()) == len(set(range(len(indices))) - set(kept))
