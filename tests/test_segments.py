"""Segments: what was written is read again, damage costs what it hits, and a broken disk never takes a call down."""

from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router, RouterWarning
from router.core.call import Call
from router.errors import LedgerError
from router.ledger import LedgerWriter, fold
from router.ledger.rows import Row
from router.ledger.segments import encode, frame, read_lines, segments_in, unframe, writer_lives
from router.testing import ScriptedModels, SimulatedDisk, SimulatedWorld, capture
from router.world import AppendFile, Random, World
from tests.support import make_policy, read_table

FOLDER = Path("segments")
BROKEN = OSError(28, "No space left on device")

_TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=8)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
)
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3))


def _content(disk: SimulatedDisk) -> bytes:
    """Everything that was written, one segment after the other."""
    return b"".join(disk.files.values())


def _rows(content: bytes) -> list[Row | None]:
    """The rows of a segment without their numbers, `None` for each line that is damaged."""
    rows = [unframe(line) for line in content.split(b"\n") if line]
    return [row and {name: value for name, value in row.items() if name != "row"} for row in rows]


def _numbers(folder: Path) -> list[int]:
    """What the tests' own rows say, in the order of the segments."""
    lines = [line for path in segments_in(folder) for line in read_lines(path, complete=True)]
    return [_whole(line.row)["n"] for line in lines if _whole(line.row).get("kind") != "end"]


@contextmanager
def _quietly() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@given(st.dictionaries(_TEXT, _JSON, max_size=4))
def test_a_row_is_written_as_json_writes_it(row: Row) -> None:
    """In ASCII, without a space, and what is no JSON as its text."""
    row = {**row, "path": Path("a")}
    assert encode(row) == json.dumps(row, separators=(",", ":"), default=str).encode("ascii")


@given(row=st.dictionaries(_TEXT, _JSON, max_size=4))
def test_any_row_comes_back_as_it_was(row: Row) -> None:
    """Whatever JSON can hold, lone surrogates included, is one ASCII line that reads back equal."""
    line = frame(row)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert unframe(line[:-1]) == row


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=str)
def test_a_row_with_a_number_that_json_lacks_is_refused(number: float) -> None:
    """NaN and infinity never get into a segment, where strict readers would stop at them."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        frame({"n": [number]})


@pytest.mark.parametrize("line", [b"", b"0", b"[]", frame({})[:8], b"00000000 ", b"zzzzzzzz {}"], ids=repr)
def test_a_line_that_is_no_row_is_none(line: bytes) -> None:
    """Any bytes can be looked at; what is no whole row is `None` and no exception."""
    assert unframe(line) is None


def test_a_list_with_the_right_checksum_is_no_row() -> None:
    """A row is an object; other JSON is damage, whoever framed it."""
    assert unframe(frame([1])[:-1]) is None  # type: ignore[arg-type]


def test_a_row_too_deep_to_read_is_damage() -> None:
    """A line that Python cannot parse costs itself and does not stop its readers."""
    body = b"[" * 100_000
    assert unframe(b"%08x %s" % (zlib.crc32(body), body)) is None


def test_every_changed_byte_is_found_and_costs_its_own_line(tmp_path: Path) -> None:
    """A flipped byte anywhere is detected; all other rows are read. A changed newline costs the two rows it parted."""
    rows: list[Row] = [{"n": 1}, {"": "\n"}, {"n": 3}]
    lines = [frame(row) for row in rows]
    whole = b"".join(lines)
    path = tmp_path / "a.seg"
    for position, byte in enumerate(whole):
        hit = whole[:position].count(b"\n")
        lost = {hit, min(hit + 1, 2)} if byte == ord("\n") else {hit}
        for other in {byte ^ 1 << bit for bit in range(8)} | {0, ord("\n"), ord(" ")} - {byte}:
            path.write_bytes(whole[:position] + bytes([other]) + whole[position + 1 :])
            read = [line.row for line in read_lines(path, complete=True)]
            assert None in read, (position, other)
            kept = [row for row in read if row is not None]
            assert kept == [row for index, row in enumerate(rows) if index not in lost], (position, other)


def test_a_torn_last_line_of_a_dead_writer_is_reported_and_costs_nothing_else(home: Path) -> None:
    """However much of the last line is there, the rows before it are read and the segment is named once."""
    first, last = frame({"kind": "x", "n": 1}), frame({"kind": "x", "n": 2})
    folder = home / "segments"
    folder.mkdir(parents=True)
    for cut in range(1, len(last) - 1):
        (folder / f"{cut:03}.seg").write_bytes(first + last[:cut])
    report = fold(home)
    names = [f"{cut:03}.seg" for cut in range(1, len(last) - 1)]
    assert (report.torn, report.corrupt, report.rows) == (names, [], 2 * len(names))
    assert fold(home).torn == []


def test_a_last_line_that_lacks_only_its_newline_is_a_row(tmp_path: Path) -> None:
    """The checksum says that it is whole."""
    path = tmp_path / "a.seg"
    path.write_bytes(frame({"n": 1})[:-1])
    assert [line.row for line in read_lines(path, complete=True)] == [{"n": 1}]


def test_an_unfinished_last_line_of_a_living_writer_waits(tmp_path: Path) -> None:
    """A line without its end may still grow: it is read when it is whole, from where reading stopped."""
    first, second = frame({"n": 1}), frame({"n": 2})
    path = tmp_path / "a.seg"
    path.write_bytes(first + second[:-1])
    (line,) = read_lines(path, complete=False)
    assert (line.row, line.start, line.end, line.ended) == ({"n": 1}, 0, len(first), True)
    path.write_bytes(first + second)
    assert [line.row for line in read_lines(path, line.end, complete=False)] == [{"n": 2}]


def test_a_short_write_costs_its_row_only() -> None:
    """Wherever the disk cuts a row, the next one starts on a line of its own, after a row that counts the loss."""
    cut_row = frame({"row": 2, "n": 2})
    for fits in range(len(cut_row)):
        world = SimulatedWorld()
        writer = LedgerWriter(FOLDER, world)
        writer.record({"n": 1})
        world.disk.free_bytes = fits
        with pytest.warns(RouterWarning, match="the disk took only a part of the row"):
            writer.record({"n": 2})
        world.disk.free_bytes = None
        writer.record({"n": 3})
        gap = {"v": 1, "kind": "gap", "time_s": world.clock.time(), "lost": 1}
        half = [] if fits == 0 else [{"n": 2}] if fits == len(cut_row) - 1 else [None]
        assert _rows(_content(world.disk)) == [{"n": 1}, *half, gap, {"n": 3}]


def test_a_disk_that_stays_full_counts_every_lost_row() -> None:
    """The gap row says how many rows were lost, and is written once."""
    world = SimulatedWorld()
    writer = LedgerWriter(FOLDER, world)
    world.disk.free_bytes = 5
    with _quietly() as caught:
        for number in range(7):
            writer.record({"n": number})
    world.disk.free_bytes = None
    writer.record({"n": 8})
    writer.record({"n": 9})
    torn, gap, *rest = _rows(_content(world.disk))
    assert (torn, rest, len(caught)) == (None, [{"n": 8}, {"n": 9}], 1)
    assert gap is not None
    assert (gap["kind"], gap["lost"]) == ("gap", 7)


def test_a_row_that_is_no_json_is_lost_and_counted() -> None:
    """A backend's NaN costs its row and raises an alarm; it does not take the answer away."""
    world = SimulatedWorld()
    writer = LedgerWriter(FOLDER, world)
    with pytest.warns(RouterWarning, match="Out of range float values"):
        writer.record({"n": math.nan})
    writer.record({"n": 1})
    assert [row and row.get("lost", row) for row in _rows(_content(world.disk))] == [1, {"n": 1}]


def _router(world: World, on_failure: str, models: ScriptedModels | None = None, **options: Any) -> Router:
    policy = make_policy(ledger={"on_failure": on_failure})
    return Router(policy, backend=models or ScriptedModels({"small": "yes"}), world=world, **options)


def test_a_broken_disk_raises_one_alarm_and_calls_go_on() -> None:
    """`on_failure: allow`: calls are answered, one warning and one event tell, and a later gap row has the number."""
    world = SimulatedWorld()
    world.disk.error = BROKEN
    router = _router(world, "allow")
    with capture() as events, _quietly() as caught:
        answers = [router.route("t", "hi").text for _ in range(3)]
    assert answers == ["yes"] * 3
    assert [(one.category, "No space left on device" in str(one.message)) for one in caught] == [(RouterWarning, True)]
    (alarm,) = (event for event in events if event["event"] == "router.ledger_failed")
    assert "segments: the ledger cannot be written (No space left on device)" in alarm["problem"]
    world.disk.error = None
    router.route("t", "hi")
    kinds = [(row["kind"], row.get("lost")) for row in map(_whole, _rows(_content(world.disk)))]
    assert kinds == [("gap", 9), ("intent", None), ("settle", None), ("route", None)]


def _whole(row: Row | None) -> Row:
    assert row is not None
    return row


def test_a_second_failure_raises_a_second_alarm() -> None:
    """An alarm stands for one outage: after a recovery the next outage has its own."""
    world = SimulatedWorld()
    alarms: list[str] = []
    writer = LedgerWriter(FOLDER, world, alarm=alarms.append)
    with _quietly():
        for error in (BROKEN, BROKEN, None, BROKEN):
            world.disk.error = error
            writer.record({"n": 1})
    assert len(alarms) == 2


def test_a_refused_call_sends_nothing() -> None:
    """`on_failure: refuse`: no request leaves without its intent, and calls are answered again after a recovery."""
    world = SimulatedWorld()
    world.disk.error = BROKEN
    models = ScriptedModels({"small": "yes"})
    router = _router(world, "refuse", models)
    with _quietly(), pytest.raises(LedgerError, match="was not sent; make the folder writable") as caught:
        router.route("t", "hi")
    assert caught.value.path.endswith("segments")
    assert models.history == []
    world.disk.error = None
    assert router.route("t", "hi").text == "yes"


def test_a_failure_after_the_request_never_takes_the_answer_away() -> None:
    """Even under `refuse`, an answer that was paid for comes back."""
    world = SimulatedWorld()

    def unplug(call: Call) -> str:
        world.disk.error = BROKEN
        return "yes"

    router = _router(world, "refuse", ScriptedModels({"small": unplug}))
    with _quietly() as caught:
        assert router.route("t", "hi").text == "yes"
    assert len(caught) == 1


@pytest.mark.parametrize("on_failure", ["allow", "refuse"])
def test_a_folder_that_cannot_be_made_is_an_unwritable_ledger(on_failure: str, tmp_path: Path) -> None:
    """A home below a file behaves as a broken disk does, and heals when the file is gone."""
    file = tmp_path / "file"
    file.write_text("in the way")
    router = _router(World(), on_failure, home=file / "home")
    with _quietly() as caught:
        if on_failure == "refuse":
            with pytest.raises(LedgerError, match="the ledger cannot be written"):
                router.route("t", "hi")
        else:
            assert router.route("t", "hi").text == "yes"
    assert ["Not a directory" in str(one.message) for one in caught] == [True]
    file.unlink()
    with router:
        assert router.route("t", "hi").text == "yes"
    assert len(read_table(file / "home", "routes")) == 1


@dataclass
class _Log:
    """A disk that remembers what was done, and whether two threads were at it at once."""

    done: list[str] = field(default_factory=list)
    inside: int = 0
    overlaps: int = 0
    broken: bool = False

    def append(self, path: Path) -> AppendFile:
        self.done.append("open")
        return self

    def write(self, data: bytes) -> int:
        self.inside += 1
        self.overlaps += self.inside > 1
        os.sched_yield()
        self.inside -= 1
        if self.broken:
            raise BROKEN
        self.done.append((_whole(unframe(data[:-1]))).get("kind", "row"))
        return len(data)

    def sync(self) -> None:
        self.done.append("sync")

    def size(self) -> int | None:
        return None if self.broken else sys.maxsize

    def close(self) -> None:
        self.done.append("close")


@pytest.mark.parametrize(("sync", "after"), [("normal", []), ("full", ["sync"])], ids=["normal", "full"])
def test_sync_full_waits_for_the_disk_after_each_row(sync: str, after: list[str]) -> None:
    """`sync: full` syncs once for every row, before the call goes on; `normal` never does."""
    log = _Log()
    policy = make_policy(ledger={"sync": sync})
    with Router(policy, backend=ScriptedModels({"small": "yes"}), world=World(disk=log)) as router:
        router.route("t", "hi")
    assert log.done == ["open", "intent", *after, "settle", *after, "route", *after, "end", *after, "close"]


def test_a_real_disk_can_be_waited_for(home: Path) -> None:
    """`sync: full` works on the machine's own file system."""
    with Router(make_policy(ledger={"sync": "full"}), backend=ScriptedModels({"small": "yes"})) as router:
        router.route("t", "hi")
    assert len(read_table(home, "routes")) == 1


def test_threads_write_one_row_at_a_time() -> None:
    """Rows of many threads never overlap, go to one segment, and a gap is told once."""
    log = _Log(broken=True)
    writer = LedgerWriter(FOLDER, World(disk=log))
    with ThreadPoolExecutor(8) as pool, _quietly():
        list(pool.map(lambda n: writer.record({"n": n}), range(200)))
        log.broken = False
        list(pool.map(lambda n: writer.record({"n": n}), range(200)))
    assert log.overlaps == 0
    assert [log.done.count(what) for what in ("open", "gap", "row")] == [1, 1, 200]


def test_first_rows_of_two_threads_make_one_segment(tmp_path: Path) -> None:
    """An intent and its settle belong in one segment, even when many threads start at once."""
    writer = LedgerWriter(tmp_path, World())
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        writer.record({"n": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    writer.close()
    assert len(segments_in(tmp_path)) == 1
    assert sorted(_numbers(tmp_path)) == list(range(8))


def test_closing_while_others_write_loses_nothing(tmp_path: Path) -> None:
    """A row never goes to a descriptor that another thread has closed: it opens a segment of its own."""
    writer = LedgerWriter(tmp_path, World())
    with ThreadPoolExecutor(4) as pool:
        rows = [pool.submit(writer.record, {"n": number}) for number in range(400)]
        for _ in range(40):
            writer.close()
        for row in rows:
            row.result()
    writer.close()
    assert sorted(_numbers(tmp_path)) == list(range(400))


def test_a_forked_child_has_a_segment_of_its_own(tmp_path: Path) -> None:
    """After a fork the child opens its own file, and its end does not let go of the parent's."""
    code = """
import json, os, sys
from pathlib import Path
from router.ledger import LedgerWriter
from router.ledger.segments import segments_in, writer_lives
from router.world import World
folder = Path(sys.argv[1])
writer = LedgerWriter(folder, World())
writer.record({"who": "parent", "n": 1})
child = os.fork()
if child == 0:
    writer.record({"who": "child", "n": 2})
    os._exit(0)
os.waitpid(child, 0)
(before,) = (path for path in segments_in(folder) if path.name.endswith(f"-{os.getpid()}.seg"))
lives = writer_lives(before)
writer.record({"who": "parent", "n": 3})
print(json.dumps([os.getpid(), child, lives]))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    parent, child, lives = json.loads(done.stdout)
    rows = {
        path.stem.partition("-")[2]: [_whole(line.row)["n"] for line in read_lines(path, complete=True)]
        for path in segments_in(tmp_path)
    }
    assert lives
    assert rows == {str(parent): [1, 3], str(child): [2]}


def test_a_writer_lives_until_it_is_closed(tmp_path: Path) -> None:
    """The lock on a segment says whether its writer is there; a segment is readable by its owner only."""
    writer = LedgerWriter(tmp_path / "segments", World())
    writer.record({"n": 1})
    (segment,) = segments_in(tmp_path / "segments")
    assert writer_lives(segment)
    assert (segment.stat().st_mode & 0o777, segment.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    writer.close()
    assert not writer_lives(segment)


def test_a_fold_at_the_birth_of_a_segment_does_not_bury_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment gets its name only once it is locked, so that no fold takes it for a dead writer's."""
    real = fcntl.flock
    folds = []

    def flock(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX | fcntl.LOCK_NB:  # The writer's own lock.
            folds.append(fold(home))
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router:
        router.route("t", "hi")
    assert len(folds) == 1
    assert len(read_table(home, "routes")) == 1


class _Same:
    """Randomness that repeats itself."""

    def random(self) -> float:
        return 0.0

    def getrandbits(self, bits: int, /) -> int:
        return 0


def test_segments_sort_by_the_time_of_their_first_row(tmp_path: Path) -> None:
    """Names begin with the time, so that the fold reads old segments first."""
    simulated = SimulatedWorld()
    random: Random = _Same()
    world = World(clock=simulated.clock, random=random)
    for number in range(3):
        writer = LedgerWriter(tmp_path, world)
        writer.record({"n": number})
        writer.close()
        world.clock.sleep(60)
    assert _numbers(tmp_path) == [0, 1, 2]
