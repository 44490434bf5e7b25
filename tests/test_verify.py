"""Verify: every changed byte is named with its line, the rest is read, and the read model is held to the rows."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router
from router.core.call import Call
from router.ledger import LedgerWriter, fold
from router.ledger.damage import Damage, LostRow, Numbers
from router.ledger.segments import Line, frame, read_lines, segments_in
from router.ledger.verify import VerifyReport, verify
from router.testing import ScriptedModels
from router.world import World
from tests.support import Cli, make_policy

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def _traffic(home: Path, calls: int = 4) -> None:
    """Calls of two routers, some of which climb."""

    def small(call: Call) -> str:
        return "yes" if len(call.messages[0]["content"]) % 2 else "perhaps"

    policy = make_policy({"answer": {"choice": ["yes", "no"]}})
    for _ in range(2):
        with Router(policy, backend=ScriptedModels({"small": small, "large": "no"}), home=home) as router:
            for number in range(calls):
                router.route("t", "x" * (number + 1), feature=f"f{number % 2}", user="ann")


@pytest.fixture
def home() -> Iterator[Path]:
    """The folder of a ledger with two segments, folded, in memory."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        _traffic(Path(folder) / "home")
        fold(Path(folder) / "home")
        yield Path(folder) / "home"


@dataclass(frozen=True)
class _Ledger:
    """Two segments with every line of theirs, for tests that change one byte many times."""

    home: Path
    contents: dict[Path, bytes]
    lines: dict[Path, list[Line]]

    @property
    def rows(self) -> int:
        return sum(_is_row(line) for lines in self.lines.values() for line in lines)


def _is_row(line: Line) -> bool:
    """Whether a line is more than the end of its segment."""
    return line.row is not None and line.row["kind"] != "end"


@pytest.fixture(scope="module")
def sound() -> Iterator[_Ledger]:
    """A ledger that was folded."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        home = Path(folder) / "home"
        _traffic(home, calls=2)
        fold(home)
        paths = segments_in(home / "segments")
        yield _Ledger(
            home,
            {path: path.read_bytes() for path in paths},
            {path: list(read_lines(path, complete=True)) for path in paths},
        )


def test_a_sound_ledger_has_no_finding(home: Path) -> None:
    """Every row is read, and the read model says the same."""
    report = verify(home)
    assert (report.segments, report.rows, report.ok) == (2, 2 * (4 * 3 + 2 * 2), True)
    assert (report.torn, report.differences, report.newer, report.gone, report.lost) == ([], [], [], [], 0)


def test_a_home_without_a_ledger_is_a_finding(tmp_path: Path) -> None:
    """It says which folder is missing; looking at a ledger that is not there does not make one."""
    report = verify(tmp_path / "home")
    assert (report, report.ok) == (VerifyReport(missing=str(tmp_path / "home" / "segments")), False)
    assert not (tmp_path / "home").exists()


@given(data=st.data())
def test_any_changed_byte_is_named_with_exactly_its_line(sound: _Ledger, data: st.DataObject) -> None:
    """One place is damaged, it holds the byte's line and no other, and every other row is read.

    A newline that was changed joins its line and the next one, so that place holds both.
    """
    path = data.draw(st.sampled_from(sorted(sound.contents)))
    content = bytearray(sound.contents[path])
    offset = data.draw(st.integers(0, len(content) - 1) | st.sampled_from([one.end - 1 for one in sound.lines[path]]))
    value = data.draw(st.sampled_from([content[offset] ^ 1 << bit for bit in range(8)] + [10, 13, 32, 125]))
    touched = [one for one in sound.lines[path] if one.start <= offset < one.end or offset == one.start - 1]
    changes = value != content[offset]
    content[offset] = value
    path.write_bytes(content)
    try:
        report = verify(sound.home)
    finally:
        path.write_bytes(sound.contents[path])
    if not changes:
        assert report.ok
        return
    (damage,) = report.damaged
    assert (damage.segment, report.torn, report.differences) == (path.name, [], [])
    assert touched[0].start <= damage.start <= touched[0].start + 1
    assert damage.start <= offset + 1
    assert touched[-1].end - 1 <= damage.end <= touched[-1].end  # A newline at either end leaves an empty line there.
    assert damage.line == content[: damage.start].count(b"\n") + 1
    assert report.rows == sound.rows - sum(map(_is_row, touched))
    assert len(damage.rows) == len(touched)
    assert not report.ok


def test_it_says_which_rows_are_lost_and_which_the_read_model_has(home: Path) -> None:
    """A row that was folded before its line was changed is lost from the segment only."""
    path = segments_in(home / "segments")[0]
    lines = list(read_lines(path, complete=True))
    content = path.read_bytes()
    settle = lines[1].row
    assert settle is not None
    path.write_bytes(content.replace(b'"fault":null', b'"fault":NULL', 1))
    report = verify(home)
    row = LostRow("settle", settle["attempt_id"])
    assert report.damaged == [Damage(path.name, 2, lines[1].start, lines[1].end, False, (row,))]
    assert report.kept == [row]
    (home / "ledger.db").unlink()
    fresh = verify(home)
    assert (len(fresh.damaged), fresh.kept, fresh.differences) == (1, [], [])


def test_a_torn_last_line_is_no_damage(home: Path) -> None:
    """A process that is killed while it writes leaves half a line; nothing that was acknowledged is lost."""
    path = segments_in(home / "segments")[0]
    content = path.read_bytes()
    path.with_name("zz.seg").write_bytes(content[:-20])
    report = verify(home)
    assert [damage.segment for damage in report.torn] == ["zz.seg"]
    assert report.ok


def test_half_a_line_of_a_full_disk_is_no_damage(home: Path) -> None:
    """The writer closed it and counted it: its gap row comes next."""
    row = {"v": 1, "kind": "settle", "attempt_id": "c-1", "time_s": 1.0, "state": "settled"}
    gap = {"v": 1, "kind": "gap", "time_s": 1.0, "lost": 1}
    (home / "segments" / "zz.seg").write_bytes(frame(row)[:30] + b"\n" + frame(gap))
    report = verify(home)
    assert ([damage.line for damage in report.torn], report.lost, report.ok) == ([1], 1, True)
    (home / "segments" / "zz.seg").write_bytes(frame(row)[:-2] + b"]\n" + frame(gap))
    assert [damage.line for damage in verify(home).damaged] == [1]


def test_a_segment_that_is_still_written_is_read_as_far_as_it_goes(home: Path) -> None:
    """An unfinished last line of a living writer is neither torn nor damaged, and later rows are no difference."""
    world = World()
    writer = LedgerWriter(home / "segments", world)
    who = {"route_id": "c", "task": "t", "time_s": 1.0, "model": "small", "rung": 0, "number": 1}
    writer.intent({"v": 1, "kind": "intent", "attempt_id": "c-1", **who})
    path = segments_in(home / "segments")[-1]
    with path.open("ab") as file:
        file.write(b"0123")
    report = verify(home)
    assert (report.ok, report.torn, report.segments) == (True, [], 3)
    writer.record({"v": 1, "kind": "route", **who})
    writer.close()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE attempts SET cost_nusd = cost_nusd + 1 WHERE rowid_ = 0", "the settle of .* says cost_nusd"),
        ("DELETE FROM routes WHERE rowid_ = 0", "the route of .* is not in the read model"),
        ("UPDATE routes SET user = 'x' WHERE rowid_ = 0", "the route of .* says user"),
        ("UPDATE hourly_routes SET cost_nusd = cost_nusd - 1 WHERE feature = 'f0'", "hourly_routes, .* cost_nusd is"),
        ("DELETE FROM hourly_steps WHERE model = 'large'", "hourly_steps, .* is missing"),
        ("UPDATE hourly_attempts SET requests = 9 WHERE feature = 'f1'", "requests is 9, its rows say 4"),
        (
            "INSERT INTO attempts (attempt_id, segment, state) SELECT 'x', segment, 'open' FROM attempts LIMIT 1",
            "1 intent row of it",
        ),
    ],
)
def test_a_read_model_that_says_something_else_is_a_finding(statement: str, said: str, home: Path) -> None:
    """Rows are compared one by one, sums with the rows; the remedy, to delete the read model, works."""
    with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as database:
        for table, key in (("attempts", "attempt_id"), ("routes", "route_id")):
            statement = statement.replace(
                "rowid_ = 0", f"{key} = (SELECT min({key}) FROM {table})" if table in statement else "rowid_ = 0"
            )
        database.execute(statement)
    report = verify(home)
    assert report.damaged == []
    assert any(re.search(said, problem) for problem in (*report.differences, *report.cut)), report.differences
    (home / "ledger.db").unlink()
    assert verify(home).ok


@pytest.mark.parametrize("kind", ["intent", "settle", "route"])
def test_a_row_that_was_removed_is_a_finding_while_the_read_model_has_it(kind: str, home: Path, cli: Cli) -> None:
    """The file is shorter than when it was read; where it has grown since, the rows that are left say so."""
    segment = segments_in(home / "segments")[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    removed = next(line for line in lines if f'"kind":"{kind}"'.encode() in line)
    left = b"".join(line for line in lines if line != removed)
    segment.write_bytes(left)
    report = verify(home)
    assert report.ok is False
    assert f"{segment.name}: is {len(removed):,} bytes shorter than when it was read" in report.cut
    segment.write_bytes(left + frame({"kind": "gap", "lost": 0, "pad": "x" * len(removed)}))
    report = verify(home)
    assert f"{segment.name}: the read model has 1 {kind} row of it that it does not hold" in report.cut
    assert f"missing: {report.cut[0]}" in cli("ledger", "verify", "--home", str(home)).out


def test_a_segment_that_was_cut_within_a_line_is_a_finding(home: Path) -> None:
    """What looks like the half line of a dead writer had been read as a whole one."""
    segment = segments_in(home / "segments")[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole[: whole.rindex(b"\n", 0, -1) - 30])
    report = verify(home)
    assert (len(report.torn), report.ok, len(report.cut)) == (1, False, 2)


def test_any_line_that_is_gone_shows_without_the_read_model(home: Path, cli: Cli) -> None:
    """Rows are numbered, and the last one of a closed segment is its end: a gap in the numbers is a finding."""
    segment = segments_in(home / "segments")[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    for gone in range(len(lines) - 1):
        segment.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
        (home / "ledger.db").unlink()
        report = verify(home)
        assert report.cut == [f"{segment.name}: 1 of its rows is gone, from row {gone + 1} on"]
    done = cli("ledger", "verify", "--home", str(home))
    assert (done.code, f"missing: {report.cut[0]}\n" in done.out) == (1, True)
    segment.write_bytes(b"".join(lines[:2] + lines[4:6] + lines[7:]))
    assert f"{segment.name}: 3 of its rows are gone, from row 3 on" in verify(home).cut


def test_a_line_that_is_gone_shows_beside_one_that_is_damaged(home: Path) -> None:
    """A damaged row is not there either, and counts as damaged only."""
    segment = segments_in(home / "segments")[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"v":1', b'"v":7')
    segment.write_bytes(b"".join(lines))
    (home / "ledger.db").unlink()
    report = verify(home)
    assert (len(report.damaged), report.cut) == (1, [])
    segment.write_bytes(b"".join(lines[:7] + lines[8:]))
    assert f"{segment.name}: 1 of its rows is gone, from row 4 on" in verify(home).cut


@given(order=st.permutations(range(1, 7)), gone=st.sets(st.integers(1, 6)))
def test_numbers_tell_what_is_missing_in_any_order(order: list[int], gone: set[int]) -> None:
    """What lies below the highest number and is not there; a number that stands twice does not fill a gap."""
    numbers = Numbers()
    left = [number for number in order if number not in gone]
    for number in left * 2:
        numbers.see(number)
    missing = set(range(1, max(left, default=0) + 1)) - set(left)
    assert numbers.missing() == len(missing)
    if missing:
        assert numbers.next == min(missing)


def test_rows_of_a_release_without_numbers_are_read(home: Path) -> None:
    """Nothing is said of what such a segment lacks; all the rest of it is checked."""
    for segment in segments_in(home / "segments"):
        rows = [line.row for line in read_lines(segment, complete=True) if _is_row(line)]
        segment.write_bytes(b"".join(frame(row) for row in rows if row))
    (home / "ledger.db").unlink()
    report = verify(home)
    assert (report.rows, report.ok) == (32, True)


def test_a_call_whose_rows_are_in_two_segments_is_no_finding(home: Path) -> None:
    """A writer whose segment was moved away for a moment goes on in another one."""
    first, second = segments_in(home / "segments")
    lines = first.read_bytes().splitlines(keepends=True)
    (home / "ledger.db").unlink()
    first.write_bytes(b"".join(lines[:-2]))
    second.write_bytes(b"".join(lines[-2:]) + second.read_bytes())
    report = verify(home)
    assert report.cut == []


def test_a_settle_without_an_intent_is_a_finding(home: Path) -> None:
    """A request cannot end that never began."""
    row = {"v": 1, "kind": "settle", "attempt_id": "c-1", "time_s": 1.0, "state": "settled"}
    (home / "segments" / "zz.seg").write_bytes(frame(row))
    assert verify(home).differences == ["zz.seg: the settle of c-1 has no intent"]


def test_an_orphan_and_a_copy_of_a_segment_are_no_finding(home: Path) -> None:
    """What the fold makes of a dead writer's request agrees with the segment, and a copy says the same again."""
    path = segments_in(home / "segments")[0]
    lines = path.read_bytes().splitlines(keepends=True)
    shutil.copy(path, path.with_name("copy.seg"))
    orphan = json.loads(lines[0][9:]) | {"attempt_id": "c-1", "route_id": "c"}
    path.with_name("orphan.seg").write_bytes(frame(orphan))
    report = verify(home)
    assert (report.ok, report.segments) == (True, 4), report.differences


def test_a_segment_that_was_deleted_after_a_fold_is_told_and_no_finding(home: Path) -> None:
    """The read model has its rows, and its sums are still theirs."""
    path = segments_in(home / "segments")[0]
    path.unlink()
    report = verify(home)
    assert (report.gone, report.ok) == ([path.name], True)


def test_segments_are_read_where_the_read_model_cannot_be(home: Path) -> None:
    """A read model that is no database, or of a newer version, is a finding of its own."""
    rows = verify(home).rows
    (home / "ledger.db").write_bytes(b"no database" * 100)
    report = verify(home)
    assert (report.rows, report.damaged, len(report.differences), report.ok) == (rows, [], 1, False)
    assert "the read model cannot be used" in report.differences[0]


def test_rows_of_a_newer_version_are_told(home: Path) -> None:
    """They wait; verify says from where on."""
    (home / "segments" / "zz.seg").write_bytes(frame({"v": 99, "kind": "intent"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = verify(home)
    assert (report.newer, report.ok) == (["zz.seg:0"], True)


def test_the_command_prints_what_was_found_and_exits_1(home: Path, cli: Cli) -> None:
    """0 for a sound ledger, 1 for a finding; JSON has the same."""
    done = cli("ledger", "verify", "--home", str(home))
    assert (done.code, done.out) == (0, "2 segments, 32 rows read; 0 places damaged, 0 differences\n")
    path = segments_in(home / "segments")[0]
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    done = cli("ledger", "verify", "--home", str(home))
    assert done.code == 1
    assert f"damaged: {path.name}, line 1, bytes 0 to" in done.out
    assert "(the read model has it)" in done.out
    assert "1 place damaged, 0 differences" in done.out
    told = cli("ledger", "verify", "--home", str(home), "--json")
    assert (told.code, told.json["ok"], told.json["damaged"][0]["line"]) == (1, False, 1)
