"""The life of a segment: it closes when its last call has ended, and its writer sees when it is taken away."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router import Router, RouterWarning
from router.core.call import Call
from router.ledger import LedgerWriter, fold
from router.ledger.segments import read_lines, segments_in, writer_lives
from router.testing import ScriptedModels, SimulatedClock, capture
from router.world import SystemClock, World
from tests.support import make_policy, read_table


def _segments(home: Path) -> list[Path]:
    return segments_in(home / "segments")


def _kinds(segment: Path) -> list[str]:
    return [line.row["kind"] if line.row else "damaged" for line in read_lines(segment, complete=True)]


def _router(reply: Any = "yes", **options: Any) -> Router:
    return Router(make_policy(), backend=ScriptedModels({"small": reply}), **options)


def _descriptors() -> int:
    """How many files this process has open, without what other tests have left to be collected."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


# Closing


def test_closing_waits_for_the_call_under_way(home: Path) -> None:
    """A call that began before `close` has all its rows in one segment, which is let go when the call has ended."""
    alive: list[bool] = []

    def leave(call: Call) -> str:
        router.close()
        alive.append(writer_lives(*_segments(home)))
        assert fold(home).orphans == 0
        return "yes"

    router = _router(leave)
    router.route("t", "hi")
    (segment,) = _segments(home)
    assert (alive, writer_lives(segment)) == ([True], False)
    assert _kinds(segment) == ["intent", "settle", "route", "end"]
    assert [row["state"] for row in read_table(home, "attempts")] == ["settled"]


def test_leaving_with_while_threads_call_makes_no_orphan(home: Path) -> None:
    """The last of several calls closes the segment, in whichever order they end."""
    inside, go = threading.Barrier(4), threading.Event()

    def wait(call: Call) -> str:
        inside.wait()
        go.wait()
        return "yes"

    with _router(wait) as router:
        threads = [threading.Thread(target=router.route, args=("t", f"hi {n}")) for n in range(3)]
        for thread in threads:
            thread.start()
        inside.wait()
    (segment,) = _segments(home)
    assert writer_lives(segment)
    assert fold(home).orphans == 0
    go.set()
    for thread in threads:
        thread.join()
    assert not writer_lives(segment)
    assert _segments(home) == [segment]
    assert {row["state"] for row in read_table(home, "attempts")} == {"settled"}


def test_a_cancelled_call_lets_a_closed_segment_go(home: Path) -> None:
    """A task that is cancelled after `close` still settles its request, and then the segment closes."""

    async def leave() -> None:
        models = ScriptedModels({"small": "yes"}, latency_s={"small": 3600.0}, clock=SystemClock())
        async with Router(make_policy(), backend=models) as router:
            task = asyncio.create_task(router.aroute("t", "hi"))
            while not _segments(home):
                await asyncio.sleep(0)
        assert writer_lives(*_segments(home))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    (segment,) = _segments(home)
    assert not writer_lives(segment)
    assert _kinds(segment) == ["intent", "settle", "route", "end"]


def test_a_call_after_close_has_a_segment_of_its_own(home: Path) -> None:
    """A closed router can be used again."""
    router = _router()
    for _ in range(2):
        router.route("t", "hi")
        router.close()
    assert [_kinds(segment) for segment in _segments(home)] == [["intent", "settle", "route", "end"]] * 2


def test_a_fork_during_a_call_leaves_the_call_to_the_parent(home: Path) -> None:
    """A child that is forked in the middle of a call closes what is its own and nothing of the parent's."""
    code = """
import json, os, sys
from pathlib import Path
from router import Router
from router.ledger.segments import segments_in, writer_lives
from router.testing import ScriptedModels
from tests.support import make_policy
folder = Path(sys.argv[1], "segments")
def fork(call):
    child = os.fork()
    if child == 0:
        inner.close()
        os._exit(writer_lives(*segments_in(folder)) is False)
    print(json.dumps([os.waitpid(child, 0)[1], writer_lives(*segments_in(folder))]))
    return "yes"
inner = Router(make_policy(), backend=ScriptedModels({"small": fork}), home=sys.argv[1])
with inner:
    inner.route("t", "hi")
"""
    done = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [0, True]
    (segment,) = _segments(home)
    assert _kinds(segment) == ["intent", "settle", "route", "end"]


def test_a_router_that_is_dropped_lets_go_of_its_segment(home: Path) -> None:
    """Without `close`, too: the descriptor and the lock go with the router."""
    before = _descriptors()
    for _ in range(5):
        _router().route("t", "hi")
    assert _descriptors() <= before
    assert [writer_lives(segment) for segment in _segments(home)] == [False] * 5


def test_a_file_system_without_locks_leaks_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a segment cannot be locked the ledger is unwritable: no descriptor and no half-made file stay behind."""

    def flock(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    before = _descriptors()
    for _ in range(5):
        with pytest.warns(RouterWarning, match="No locks available"):
            _router().route("t", "hi")
    assert _descriptors() <= before
    assert list((home / "segments").iterdir()) == []


# A segment that is taken away


def _delete(segment: Path) -> None:
    segment.unlink()


def _delete_all(segment: Path) -> None:
    shutil.rmtree(segment.parent)


def _move(segment: Path) -> None:
    segment.rename(segment.with_suffix(".old"))


def _replace(segment: Path) -> None:
    segment.unlink()
    segment.write_bytes(b"x" * 100_000)


def _cut(segment: Path) -> None:
    os.truncate(segment, 10)


@pytest.mark.parametrize("harm", [_delete, _delete_all, _move, _replace, _cut])
def test_a_segment_that_is_taken_away_is_told_and_replaced(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """The writer looks once a second: one alarm, a new segment, and a gap row with what was in the old one."""
    clock = SimulatedClock()
    alarms: list[str] = []
    folder = tmp_path / "home" / "segments"
    writer = LedgerWriter(folder, World(clock=clock), alarm=alarms.append)
    for number in range(3):
        writer.record({"n": number})
    (old,) = segments_in(folder)
    harm(old)
    clock.sleep(2)
    with pytest.warns(RouterWarning, match=r"while it was written; up to 3 rows are lost"):
        writer.record({"n": 3})
    writer.record({"n": 4})
    (new,) = (path for path in segments_in(folder) if path != old)
    gap, *rows = [line.row for line in read_lines(new, complete=True)]
    assert gap == {"v": 1, "kind": "gap", "time_s": clock.time(), "lost": 3}
    assert rows == [{"n": 3}, {"n": 4}]
    assert len(alarms) == 1


def test_a_segment_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """Looking changes nothing, however often."""
    clock = SimulatedClock()
    writer = LedgerWriter(tmp_path, World(clock=clock))
    for number in range(5):
        clock.sleep(2)
        writer.record({"n": number})
    (segment,) = segments_in(tmp_path)
    assert [line.row for line in read_lines(segment, complete=True)] == [{"n": number} for number in range(5)]


def test_a_segment_that_cannot_be_replaced_raises_the_alarm_of_a_broken_ledger(tmp_path: Path) -> None:
    """Deleted and unwritable at once is one outage with one alarm, and the gap counts everything that was lost."""
    clock = SimulatedClock()
    alarms: list[str] = []
    folder = tmp_path / "home" / "segments"
    writer = LedgerWriter(folder, World(clock=clock), alarm=alarms.append)
    for number in range(3):
        writer.record({"n": number})
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "home").write_text("in the way")
    clock.sleep(2)
    with pytest.warns(RouterWarning, match="the ledger cannot be written"):
        writer.record({"n": 3})
    writer.record({"n": 4})
    (tmp_path / "home").unlink()
    writer.record({"n": 5})
    (new,) = segments_in(folder)
    gap, *rows = [line.row for line in read_lines(new, complete=True)]
    assert gap is not None
    assert (gap["lost"], rows, len(alarms)) == (5, [{"n": 5}], 1)


def test_a_deleted_ledger_is_one_event_of_the_router(home: Path) -> None:
    """A running program whose ledger folder is removed says so and goes on recording."""
    clock = SimulatedClock()
    router = _router(world=World(clock=clock))
    router.route("t", "hi")
    shutil.rmtree(home / "segments")
    clock.sleep(2)
    with capture() as events, pytest.warns(RouterWarning, match="was deleted or moved"):
        router.route("t", "hi")
    router.close()
    assert [event["event"] for event in events] == ["router.ledger_failed", "route"]
    assert len(read_table(home, "routes")) == 1
