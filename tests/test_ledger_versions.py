"""Ledgers of another version and of a wrong clock: each has a stated rule, and no row is lost."""

from __future__ import annotations

import importlib
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router, RouterWarning
from router.audit import audit
from router.errors import LedgerError
from router.ledger import fold
from router.ledger.segments import frame, read_lines, segments_in
from router.ledger.verify import verify
from router.testing import ScriptedModels, SimulatedClock, SimulatedWorld
from router.world import World
from tests.support import make_policy, read_table

# The package exports the function under the module's name.
FOLD = importlib.import_module("router.ledger.fold")
DATABASE = importlib.import_module("router.ledger.database")
TIMES_S = {"1970": 0.0, "before 1970": -86_400.0, "2100": 4_102_444_800.0, "far out": 1e18, "further out": -1e18}


def _traffic(home: Path) -> Path:
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"}), home=home) as router:
        router.route("t", "hi", user="ann")
        router.route("t", "hi")
    (segment,) = segments_in(home / "segments")
    return segment


def _newer(segment: Path) -> bytes:
    """The segment as a later version would write it: version 2, and a field that this one does not know."""
    rows = [line.row for line in read_lines(segment, complete=True)]
    return b"".join(frame({**row, "v": 2, "carbon_g": 0.1}) for row in rows if row)


def test_rows_of_a_newer_version_wait_for_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fold says so, takes what comes before them, and leaves them where that version will find them."""
    segment = _traffic(home)
    newer = segment.with_name("newer.seg")
    own = b"".join(line + b"\n" for line in segment.read_bytes().splitlines()[:3])
    newer.write_bytes(own.replace(b'-1"', b'-9"') + _newer(segment))
    segment.unlink()
    for _ in range(2):  # A second look finds it where the first one left it.
        with pytest.warns(RouterWarning, match=r"newer version .* nothing of them is lost; upgrade cascade-router"):
            report = fold(home)
        assert report.newer == [f"newer.seg:{len(own)}"]
    with pytest.warns(RouterWarning):
        assert verify(home).newer == [f"newer.seg:{len(own)}"]
    with monkeypatch.context() as later:
        later.setattr(FOLD, "SCHEMA_VERSION", 2)
        later_report = fold(home)
        assert (later_report.rows, later_report.newer) == (6, [])
        assert audit(home).total.calls == 2


def test_a_living_segment_of_a_newer_version_is_not_closed_under_it(home: Path) -> None:
    """Its requests are not taken for those of a dead process."""
    segment = _traffic(home)
    newer = segment.with_name("newer.seg")
    intents = [line.row for line in read_lines(segment, complete=True) if line.row and line.row["kind"] == "intent"]
    newer.write_bytes(frame({**intents[0], "attempt_id": "c-1", "route_id": "c"}) + frame({"v": 2, "kind": "intent"}))
    with pytest.warns(RouterWarning):
        report = fold(home)
    assert report.orphans == 0
    assert {row["attempt_id"]: row["state"] for row in _attempts(home)}["c-1"] == "open"


def _attempts(home: Path) -> list[dict[str, Any]]:
    """The requests, where every fold warns."""
    with pytest.warns(RouterWarning):
        return read_table(home, "attempts")


def test_a_read_model_of_a_newer_version_is_left_as_it_is(home: Path) -> None:
    """The error names both versions and the remedy; not a byte changes, whatever that version set up."""
    _traffic(home)
    fold(home)
    path = home / "ledger.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA user_version = 7")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"ledger\.db: .* \(schema 7, this one reads 1\); upgrade cascade-router"):
        fold(home)
    assert path.read_bytes() == before
    report = verify(home)
    assert (report.rows, report.damaged, report.ok) == (6, [], False)
    assert "schema 7, this one reads 1" in report.differences[0]


def test_a_read_model_of_an_older_version_is_brought_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that came later are added, wherever they stand now; rows before and after are right."""
    _traffic(home)
    fold(home)
    with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as database:
        for table, column in (("attempts", "fault"), ("routes", "reason"), ("hourly_routes", "unpriced")):
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")  # In the middle of the others.
    monkeypatch.setattr(DATABASE, "SCHEMA_VERSION", 2)
    before = audit(home).total
    _traffic_more(home)
    total = audit(home).total
    assert (before.calls, total.calls, total.cost_nusd) == (2, 3, before.cost_nusd // 2 * 3)
    assert {row["outcome"] for row in read_table(home, "routes")} == {"answered"}
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)


def _traffic_more(home: Path) -> None:
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"}), home=home) as router:
        router.route("t", "hi")


class _JumpingClock(SimulatedClock):
    """A clock whose date is set anew between any two looks, while time goes on."""

    def __init__(self, dates_s: Iterator[float]) -> None:
        super().__init__()
        self._dates_s = dates_s

    def time(self) -> float:
        return next(self._dates_s, 0.0)


@pytest.mark.parametrize("time_s", TIMES_S.values(), ids=TIMES_S)
@pytest.mark.parametrize("by", ["task", "day", "hour"])
def test_a_call_of_any_date_is_recorded_and_shown(by: Any, time_s: float, home: Path) -> None:
    """Its time is wrong and nothing else: cost and latency are right, and every report can be printed."""
    clock = SimulatedClock(time_s)
    models = ScriptedModels({"small": "yes"}, latency_s={"small": 0.25}, clock=clock)
    with Router(make_policy(), backend=models, home=home, world=World(clock=clock)) as router:
        answer = router.route("t", "hi")
    (row,) = audit(home, by=by).rows
    (attempt,) = read_table(home, "attempts")
    assert (row.calls, row.cost_nusd, attempt["latency_ms"]) == (1, answer.cost_nusd, 250.0)
    assert verify(home).ok


@given(dates_s=st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30))
def test_a_clock_that_jumps_in_a_call_loses_no_row(dates_s: list[float]) -> None:
    """Intent, settle and route are there, and durations come from a clock that cannot be set."""
    world = SimulatedWorld()
    clock = _JumpingClock(iter(dates_s))
    models = ScriptedModels({"small": "perhaps", "large": "no"}, latency_s={"small": 0.25, "large": 0.5}, clock=clock)
    jumping = World(clock=clock, random=world.random, disk=world.disk, secret=b"s")
    policy = make_policy({"answer": {"choice": ["yes", "no"]}})
    with Router(policy, backend=models, world=jumping) as router:
        answer = router.route("t", "hi")
    content = b"".join(world.disk.files.values())
    assert [kind in content for kind in (b'"intent"', b'"settle"', b'"route"')] == [True] * 3
    assert content.count(b"\n") == 6
    assert answer.latency_ms == 750.0
    assert [attempt.latency_ms for attempt in answer.attempts] == [250.0, 500.0]


def test_a_time_that_is_no_number_of_seconds_stops_no_fold(home: Path) -> None:
    """JSON has numbers that no calendar has; the row counts in the first or last hour with a date."""
    segment = _traffic(home)
    *rows, _ = segment.read_bytes().splitlines()
    body = rows[-1][9:]
    time_s = body[body.index(b'"time_s":') + 9 :].split(b",")[0]
    body = body.replace(b'"time_s":' + time_s, b'"time_s":1e999', 1)
    segment.write_bytes(b"\n".join([*rows[:-1], b"%08x %s" % (zlib.crc32(body), body)]) + b"\n")
    assert [row.key for row in audit(home, by="day").rows][-1] == "9999-12-31"
