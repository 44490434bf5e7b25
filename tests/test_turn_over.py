"""A writer begins another segment after a day or when one is large: no row is lost, and no call is torn in two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from router import Router, RouterWarning
from router.audit import audit
from router.core.call import Call
from router.ledger import LedgerWriter, fold
from router.ledger.compact import compact
from router.ledger.packs import packs_in
from router.ledger.segments import read_lines, segments_in, writer_lives
from router.ledger.verify import verify
from router.testing import ScriptedModels, SimulatedClock, SimulatedDisk
from router.world import AppendFile, World
from tests.support import make_policy, read_table

DAY_S = 86_400.0


def _kinds(segment: Path) -> list[str]:
    return [line.row["kind"] if line.row else "damaged" for line in read_lines(segment, complete=True)]


def _router(home: Path, clock: SimulatedClock, reply: Any = "yes") -> Router:
    return Router(make_policy(), backend=ScriptedModels({"small": reply}), home=home, world=World(clock=clock))


def test_a_service_that_lives_on_begins_a_segment_each_day(home: Path) -> None:
    """The old one is closed with its end, so that it can be folded for good and packed while its writer lives."""
    clock = SimulatedClock()
    router = _router(home, clock)
    for _ in range(3):
        router.route("t", "hi")
        clock.sleep(DAY_S)
    first, second, third = segments_in(home / "segments")
    assert [writer_lives(path) for path in (first, second, third)] == [False, False, True]
    assert [_kinds(first), _kinds(third)] == [["intent", "settle", "route", "end"], ["intent", "settle", "route"]]
    done = compact(home, older_than_s=DAY_S, apply=True, world=World(clock=clock))
    assert (done.segments, done.living) == ([first.name, second.name], 1)
    router.route("t", "hi")
    assert sum(row["calls"] for row in read_table(home, "hourly_routes")) == 4
    assert verify(home).ok


def test_a_call_stays_in_the_segment_that_it_began_in(home: Path) -> None:
    """Its segment lives until the call has ended, so its request is no orphan; calls that come later go to the next."""
    clock = SimulatedClock()

    def reply(call: Call) -> str:
        if call.messages[0]["content"] != "long":
            return "yes"
        clock.sleep(2 * DAY_S)
        router.route("t", "short")
        assert [writer_lives(path) for path in segments_in(home / "segments")] == [True, True]
        assert fold(home).orphans == 0
        return "yes"

    router = _router(home, clock, reply)
    router.route("t", "long")
    old, new = segments_in(home / "segments")
    assert [writer_lives(old), writer_lives(new)] == [False, True]
    assert [_kinds(old), _kinds(new)] == [["intent", "settle", "route", "end"], ["intent", "settle", "route"]]
    assert {row["state"] for row in read_table(home, "attempts")} == {"settled"}
    router.close()
    assert verify(home).ok


def test_a_large_segment_is_followed_by_another(tmp_path: Path) -> None:
    """Size is looked at once a second, so a segment grows a little beyond it."""
    clock = SimulatedClock()
    writer = LedgerWriter(tmp_path, World(clock=clock), segment_bytes=1000)
    for number in range(40):
        clock.sleep(0.5)
        writer.record({"kind": "x", "n": number, "pad": "x" * 100})
    writer.close()
    read = [[line.row for line in read_lines(path, complete=True)] for path in segments_in(tmp_path)]
    assert [row["n"] for rows in read for row in rows if row and row["kind"] == "x"] == list(range(40))
    assert len(read) > 2
    assert {rows[-1]["kind"] for rows in read if rows[-1]} == {"end"}


def test_a_folder_that_takes_no_new_file_keeps_the_old_one(tmp_path: Path) -> None:
    """Where the next segment cannot be made, the one that is open takes the rows, and nothing is lost."""
    clock, disk = SimulatedClock(), _Crowded()
    writer = LedgerWriter(tmp_path, World(clock=clock, disk=disk))
    writer.record({"kind": "x"})
    disk.crowded = True
    clock.sleep(2 * DAY_S)
    writer.record({"kind": "y"})
    assert len(disk.files) == 1
    disk.crowded = False
    clock.sleep(2)
    writer.record({"kind": "z"})
    first, second = disk.files.values()
    assert [first.count(b'"x"'), first.count(b'"y"'), first.count(b'"end"'), second.count(b'"z"')] == [1, 1, 1, 1]


class _Crowded(SimulatedDisk):
    """A disk on which no file can be opened for a while."""

    crowded = False

    def append(self, path: Path) -> AppendFile:
        if self.crowded:
            raise OSError(24, "Too many open files")
        return super().append(path)


def test_a_segment_that_is_deleted_under_a_long_call_is_told(home: Path) -> None:
    """The call goes on in the segment of the others, and the gap row counts what the old one held."""
    clock = SimulatedClock()

    def reply(call: Call) -> str:
        if call.messages[0]["content"] == "long":
            clock.sleep(2 * DAY_S)
            router.route("t", "short")
            segments_in(home / "segments")[0].unlink()
            clock.sleep(2)
        return "yes"

    router = _router(home, clock, reply)
    with pytest.warns(RouterWarning, match="was deleted or moved while it was written; up to 1 rows are lost"):
        router.route("t", "long")
    router.close()
    (left,) = segments_in(home / "segments")
    assert _kinds(left) == ["intent", "settle", "route", "gap", "settle", "route", "end"]


_SERVICE = """
import os, sys, threading
from router import Router
from router.testing import ScriptedModels
from router.world import SystemClock, World
from tests.support import make_policy

class Quick(SystemClock):
    "A clock by which two days pass with every look."
    looks = 0
    def monotonic(self):
        self.looks += 1
        return self.looks * 172_800.0

router = Router(make_policy(), backend=ScriptedModels({"small": "yes"}), home=sys.argv[1], world=World(clock=Quick()))
if len(sys.argv) > 2 and os.fork() == 0:
    sys.stdout = open(sys.argv[2], "w")
lock = threading.Lock()

def call():
    while True:
        answer = router.route("t", "hi")
        with lock:
            print(answer.route_id, flush=True)

for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
call()
"""


def _service(*arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _SERVICE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _whole_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_a_killed_service_that_turns_over_all_the_time_loses_no_answer(home: Path) -> None:
    """Real processes, threads and a fork, kill -9: every answer that was given is on record, whole and once."""
    others = home.parent / "others"
    with _service(home, others) as service:
        assert service.stdout
        answered = [service.stdout.readline().strip() for _ in range(300)]
        os.killpg(service.pid, signal.SIGKILL)
        answered += _whole_lines(service.stdout.read()) + _whole_lines(others.read_text())
    report = fold(home)
    recorded = Counter(row["route_id"] for row in read_table(home, "routes"))
    assert len(answered) >= 300
    assert [route_id for route_id in answered if recorded[route_id] != 1] == []
    assert report.orphans <= 8  # At most what was under way in the eight threads.
    assert report.corrupt == []
    segments = segments_in(home / "segments")
    assert len(segments) > 50
    assert len({path.name.rpartition("-")[2] for path in segments}) == 2
    assert verify(home).ok
    (home / "ledger.db").unlink()
    assert verify(home).ok


def test_processes_that_pack_at_once_beside_a_service_lose_no_call(home: Path) -> None:
    """Three of them pack all that was let go, again and again: every answer is in the sums, once."""
    pack = [
        sys.executable,
        "-c",
        "from router.cli import main; main()",
        "ledger",
        "compact",
        "--older-than",
        "0h",
        "--yes",
    ]
    environment, answered = {**os.environ, "ROUTER_HOME": str(home)}, 0
    with _service(home) as service:
        assert service.stdout
        for _ in range(3):
            packing = [subprocess.Popen(pack, stdout=subprocess.DEVNULL, env=environment) for _ in range(3)]
            for _ in range(60):
                answered += bool(service.stdout.readline())
            assert [one.wait() for one in packing] == [0, 0, 0]
        os.killpg(service.pid, signal.SIGKILL)
        answered += len(_whole_lines(service.stdout.read()))
    assert packs_in(home / "segments")
    for _ in range(2):
        assert answered <= audit(home).total.calls <= answered + 4
        assert verify(home).ok
        (home / "ledger.db").unlink()


def test_folds_beside_a_service_that_turns_over_make_no_orphan(home: Path) -> None:
    """A request whose segment is not the newest any more still belongs to a writer that lives."""
    orphans = 0
    with _service(home) as service:
        assert service.stdout
        for _ in range(20):
            for _ in range(10):
                service.stdout.readline()
            orphans += fold(home).orphans
        os.killpg(service.pid, signal.SIGKILL)
    assert orphans == 0
    assert fold(home).orphans <= 4
    assert verify(home).ok
