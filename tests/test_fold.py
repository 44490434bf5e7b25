"""The fold: whatever interrupts it or runs beside it, the read model holds each row once and its sums are exact."""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router
from router.core.call import Call, Reply, Usage
from router.errors import LedgerError
from router.ledger import LedgerWriter, fold
from router.ledger.database import connect
from router.ledger.rows import Row
from router.ledger.segments import frame, read_lines
from router.testing import ScriptedModels, SimulatedClock
from router.world import World
from tests.support import make_policy, read_table

# The package exports the function under the module's name.
MODULE = importlib.import_module("router.ledger.fold")
TABLES = tuple(f"{period}{table}" for period in ("", "hourly_", "daily_") for table in ("attempts", "routes", "steps"))
HOUR = 3600.0
# These tests commit thousands of times: not on a disk that waits for every commit.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
START_S = 1_700_000_000.0 // HOUR * HOUR


def _intent(call: str, number: int, **fields: Any) -> Row:
    known = {"rung": 0, "number": number, "model": "small", "model_asked": "openai/small", "upper_nusd": "900"}
    return {"v": 1, "kind": "intent", "attempt_id": f"{call}-{number}", **_who(call), **known, **fields}


def _settle(call: str, number: int, **fields: Any) -> Row:
    amounts = {"state": "settled", "cost_nusd": "100", "upper_nusd": "100", "cost_source": "price", "fault": None}
    usage = {**dict.fromkeys(Usage.__slots__, 0), "input_tokens": 10, "output_tokens": 2, "usage_source": "provider"}
    row = {"v": 1, "kind": "settle", "attempt_id": f"{call}-{number}", "time_s": START_S, "status": None}
    return {**row, "model_served": "small-1", **amounts, **usage, "latency_ms": 2.5, **fields}


def _route(call: str, **fields: Any) -> Row:
    step = {"rung": 0, "model": "small", "action": "accept", "reason": "last rung", "confidence": 0.9}
    step |= {"confidence_source": "prior", "threshold": None, "cost_nusd": "100", "attempts": 1, "signals": {"a": 1.0}}
    row = {"v": 1, "kind": "route", **_who(call), "outcome": "answered", "model": "small", "rung": 0}
    row |= {"escalated": False, "confidence": 0.9, "confidence_source": "prior", "cost_nusd": "100"}
    row |= {"upper_nusd": "100", "marginal_nusd": "0", "baseline_nusd": "1000", "baseline_source": "estimated"}
    return {
        **row,
        "latency_ms": 4.5,
        "reason": "last rung",
        "propensity": 1.0,
        "metadata": None,
        "steps": [step],
        **fields,
    }


def _who(call: str) -> Row:
    who = {"feature": None, "user": None, "tenant": None, "session": None}
    hashes = {"policy_hash": "p", "plan_hash": "q", "prompt_fp": "f", "prefix_fps": []}
    return {"route_id": call, "task": "t", "time_s": START_S, **who, **hashes}


def _one_call(call: str) -> list[Row]:
    return [_intent(call, 1), _settle(call, 1), _route(call)]


def _write(home: Path, name: str, rows: Sequence[Row]) -> Path:
    """A segment whose writer is dead."""
    path = home / "segments" / f"{name}.seg"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(map(frame, rows)))
    return path


def _dump(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of the read model but for how far segments were read."""
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        return {table: sorted(database.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in TABLES}


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The ledger folder of the test, in memory."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        monkeypatch.setenv("ROUTER_HOME", f"{folder}/home")
        yield Path(folder) / "home"


@pytest.fixture
def traffic(home: Path) -> Path:
    """The home of a ledger that a real router wrote: answers, escalations, retries."""

    def small(call: Call) -> str:
        return "yes" if len(call.messages[0]["content"]) % 3 else "perhaps"

    policy = make_policy({"answer": {"choice": ["yes", "no"]}})
    clock = SimulatedClock()  # Latencies whose sums are exact in any order.
    models = ScriptedModels({"small": small, "large": "no"}, latency_s={"small": 0.25, "large": 0.5}, clock=clock)
    with Router(policy, backend=models, world=World(clock=clock)) as router:
        for number in range(12):
            router.route("t", "x" * (number + 1), feature=f"f{number % 2}", user="ann")
    return home


def test_folding_twice_changes_nothing(traffic: Path) -> None:
    """A second fold finds no row and leaves the read model as it is."""
    first = fold(traffic)
    before = _dump(traffic)
    second = fold(traffic)
    assert (first.rows, second.rows) == (12 * 3 + 4 * 2, 0)
    assert _dump(traffic) == before


def test_folding_a_home_without_a_ledger_makes_nothing(home: Path) -> None:
    """Looking at a ledger that is not there does not make one."""
    assert fold(home).rows == 0
    assert not home.exists()


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_rows_of_one_call_may_fall_into_several_batches(
    batch: int, traffic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intent in one transaction and its settle in the next give what one transaction gives."""
    other = traffic.with_name("other")
    for segment in (traffic / "segments").iterdir():
        (other / "segments").mkdir(parents=True)
        (other / "segments" / segment.name).write_bytes(segment.read_bytes())
    fold(traffic)
    monkeypatch.setattr(MODULE, "_BATCH_ROWS", batch)
    fold(other)
    assert _dump(other) == _dump(traffic)


class _Crash(Exception):
    """A fold that ends in the middle."""


@pytest.mark.parametrize("batch", [1, 4, 20_000], ids=["after-each-row", "in-a-batch", "in-the-only-batch"])
def test_a_fold_that_crashes_goes_on_where_it_was(batch: int, traffic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a fold breaks off, the next one neither loses nor doubles a row."""
    fold(traffic)
    expected = _dump(traffic)
    left = 0

    def broken(path: Path, offset: int = 0, *, complete: bool) -> Iterator[Any]:
        nonlocal left
        for line in read_lines(path, offset, complete=complete):
            if left == 0:
                raise _Crash
            left -= 1
            yield line

    monkeypatch.setattr(MODULE, "_BATCH_ROWS", batch)
    for survived in range(0, 44, 8):
        (traffic / "ledger.db").unlink()
        monkeypatch.setattr(MODULE, "read_lines", broken)
        left = survived
        with pytest.raises(_Crash):
            fold(traffic)
        monkeypatch.setattr(MODULE, "read_lines", read_lines)
        fold(traffic)
        assert _dump(traffic) == expected, survived


def test_a_fold_that_fails_inside_a_transaction_takes_all_of_it_back(
    traffic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts that are stored already and sums that are not would never agree again."""

    def fail(*_: Any) -> None:
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr(MODULE.Batch, "_routes", fail)
        with pytest.raises(_Crash):
            fold(traffic)
    assert {table: len(rows) for table, rows in _dump(traffic).items()} == dict.fromkeys(TABLES, 0)
    assert fold(traffic).rows == 44


def test_a_fold_that_is_killed_goes_on_where_it_was(traffic: Path) -> None:
    """kill -9 between two transactions, or inside one, loses and doubles nothing."""
    code = """
import importlib, os, signal, sys
from pathlib import Path
module = importlib.import_module("router.ledger.fold")
module._BATCH_ROWS = 5
store = module.Batch._routes
left = int(sys.argv[2])
def killed(batch):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    store(batch)
module.Batch._routes = killed
module.fold(Path(sys.argv[1]))
"""
    for survived in ("0", "2", "3"):
        done = subprocess.run([sys.executable, "-c", code, traffic, survived], check=False)
        assert done.returncode == -signal.SIGKILL
    fold(traffic)
    resumed = _dump(traffic)
    (traffic / "ledger.db").unlink()
    fold(traffic)
    assert _dump(traffic) == resumed


def test_several_processes_fold_at_once(home: Path) -> None:
    """Readers that fold at the same time, while a writer writes, fold each row once into one read model."""
    code = """
import sys
from pathlib import Path
from router.ledger import fold
print(sum(fold(Path(sys.argv[1])).rows for _ in range(15)))
"""
    for number in range(6):
        calls = [f"{number}c{call}" for call in range(60)]
        _write(home, f"{number}", [row for call in calls for row in _one_call(call)])
    command = [sys.executable, "-c", code, str(home)]
    folding = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    writer = LedgerWriter(home / "segments", World())
    for number in range(300):
        for row in _one_call(f"w{number}"):
            writer.record(row)
    folded = [int(process.communicate(timeout=60)[0]) for process in folding]
    assert [process.returncode for process in folding] == [0] * 4
    writer.close()
    assert sum(folded) + fold(home).rows == 3 * 660
    (sums,) = read_table(home, "hourly_routes")
    assert (sums["calls"], sums["cost_nusd"], sums["baseline_nusd"]) == (660, 66_000, 660_000)
    (attempts,) = read_table(home, "hourly_attempts")
    assert (attempts["requests"], attempts["input_tokens"], attempts["uncertain"]) == (660, 6600, 0)
    before = _dump(home)
    (home / "ledger.db").unlink()
    fold(home)
    assert _dump(home) == before


def test_an_orphan_of_a_dead_writer_becomes_unknown(home: Path) -> None:
    """A request without its settle cost between nothing and its upper bound, once its writer is dead."""
    _write(home, "a", [_intent("c", 1), _intent("d", 1, upper_nusd=None), *_one_call("e")])
    assert fold(home).orphans == 2
    rows = {row["route_id"]: row for row in read_table(home, "attempts")}
    assert [(rows[c]["state"], rows[c]["fault"], rows[c]["upper_nusd"]) for c in "cd"] == [
        ("unknown", "orphaned", 900),
        ("unknown", "orphaned", None),
    ]
    assert (rows["c"]["cost_nusd"], rows["e"]["state"]) == (None, "settled")
    settled, lost = sorted(read_table(home, "hourly_attempts"), key=lambda sums: str(sums["line"]))
    assert (settled["line"], settled["requests"]) == ("first", 1)
    assert [lost[name] for name in ("line", "requests", "uncertain", "uncertain_nusd", "unbounded")] == [
        "unknown",
        2,
        2,
        900,
        1,
    ]
    assert fold(home).orphans == 0


def test_a_request_of_a_living_writer_stays_open(home: Path) -> None:
    """What is on its way is no orphan, and its settle in a later fold counts once."""
    writer = LedgerWriter(home / "segments", World())
    writer.record(_intent("c", 1))
    assert fold(home).orphans == 0
    assert [row["state"] for row in read_table(home, "attempts")] == ["open"]
    assert read_table(home, "hourly_attempts") == []
    writer.record(_settle("c", 1))
    assert fold(home).rows == 1
    writer.close()
    assert fold(home).orphans == 0
    assert [row["cost_nusd"] for row in read_table(home, "hourly_attempts")] == [100]


def test_an_unfinished_line_of_a_living_writer_is_read_when_it_is_whole(home: Path) -> None:
    """The fold stops before it and goes on from there; it is neither torn nor lost."""
    writer = LedgerWriter(home / "segments", World())
    writer.record(_intent("c", 1))
    (segment,) = (home / "segments").glob("*.seg")
    rest = frame(_settle("c", 1))
    with segment.open("ab") as file:
        file.write(rest[:30])
    report = fold(home)
    assert (report.rows, report.torn, report.corrupt) == (1, [], [])
    with segment.open("ab") as file:
        file.write(rest[30:])
    assert fold(home).rows == 1
    assert [row["state"] for row in read_table(home, "attempts")] == ["settled"]
    writer.close()


@dataclass(frozen=True)
class _Call:
    """One generated call: who made it, when, and how each of its requests ended; `None` for never."""

    hour: int
    task: str
    feature: str | None
    user: str | None
    outcome: str
    baseline: int | None
    requests: tuple[tuple[int, int | None, str | None], ...]
    """Rung, cost (`None` for unknown), state (`None` for no settle)."""

    @property
    def died(self) -> bool:
        return any(state is None for _, _, state in self.requests)

    @property
    def cost(self) -> int | None:
        costs = [cost for _, cost, _ in self.requests]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


@st.composite
def _calls(draw: st.DrawFn) -> _Call:
    states = st.sampled_from(["settled", "estimated", "maybe_billed", "unknown"])
    cost = st.none() | st.integers(0, 10**12)
    request: st.SearchStrategy[tuple[int, int | None, str | None]] = st.tuples(st.integers(0, 2), cost, states)
    requests = draw(st.lists(request, min_size=1, max_size=3))
    if draw(st.integers(0, 5)) == 0:  # The process died in the middle of the last request.
        requests[-1] = (requests[-1][0], None, None)
    names = st.none() | st.sampled_from(["a", "b"])
    return _Call(
        draw(st.integers(0, 2)),
        draw(st.sampled_from(["t", "u"])),
        draw(names),
        draw(names),
        draw(st.sampled_from(["answered", "LadderExhausted"])),
        draw(st.none() | st.integers(0, 10**12)),
        tuple(sorted(requests, key=lambda request: request[0])),
    )


def _text(amount: int | None) -> str | None:
    return None if amount is None else str(amount)


def _rows_of(name: str, call: _Call) -> list[Row]:
    who = {"time_s": START_S + HOUR * call.hour + 1.5, "task": call.task, "feature": call.feature, "user": call.user}
    rows: list[Row] = []
    for number, (rung, cost, state) in enumerate(call.requests, 1):
        model = f"m{rung}"
        rows.append(_intent(name, number, **who, rung=rung, model=model))
        if state is not None:
            upper = None if cost is None else cost if state == "settled" else cost + 7
            rows.append(_settle(name, number, state=state, cost_nusd=_text(cost), upper_nusd=_text(upper)))
    if not call.died:
        answered = call.outcome == "answered"
        rows.append(
            _route(
                name,
                **who,
                outcome=call.outcome,
                model="m0" if answered else None,
                escalated=any(rung for rung, _, _ in call.requests),
                cost_nusd=_text(call.cost),
                baseline_nusd=_text(call.baseline),
            )
        )
    return rows


def _expected(calls: Mapping[str, _Call]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The sums of requests and of calls, by brute force."""
    attempts: dict[Any, Any] = defaultdict(lambda: [0, 0, 0, 0, 0, 0])
    routes: dict[Any, Any] = defaultdict(lambda: [0, 0, 0, 0, 0, 0, 0])
    for call in calls.values():
        who = (int(START_S + HOUR * call.hour), call.task, call.feature or "", call.user or "", "")
        for number, (rung, cost, state) in enumerate(call.requests, 1):
            bound = 900 if state is None else None if cost is None else cost if state == "settled" else cost + 7
            unpriced = state == "unknown"  # A reply whose usage is known.
            unsure = state != "settled" and not unpriced
            above = (bound or 0) - (cost or 0) if unsure else 0
            amounts = [1, number > 1, cost or 0, unsure, max(0, above), unsure and bound is None]
            sums = attempts[(*who, f"m{rung}", rung)]
            sums[:] = [total + amount for total, amount in zip(sums, amounts, strict=True)]
        if call.died:
            continue
        compared = call.cost is not None and call.baseline is not None
        answered = call.outcome == "answered"
        amounts = [1, answered, call.cost or 0, call.cost is None, compared]
        amounts += [call.baseline or 0 if compared else 0, call.cost or 0 if compared else 0]
        sums = routes[(*who, "m0" if answered else "")]
        sums[:] = [total + amount for total, amount in zip(sums, amounts, strict=True)]
    return dict(attempts), dict(routes)


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(_calls(), max_size=8), segments=st.integers(1, 3), batch=st.integers(1, 6))
def test_rollups_are_the_sums_of_their_rows(calls: list[_Call], segments: int, batch: int) -> None:
    """By hour, task, feature, user, model and rung, however rows are spread over segments, folds and batches."""
    named = {f"c{number}": call for number, call in enumerate(calls)}
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        patch.setattr(MODULE, "_BATCH_ROWS", batch)
        for number, (name, call) in enumerate(named.items()):
            _write(home, f"s{number % segments}-{number // segments}", _rows_of(name, call))
            fold(home)
        with connect(home) as database:
            attempts = database.execute(
                'SELECT hour, task, feature, "user", tenant, model, rung, '
                "sum(requests), sum(retries), sum(cost_nusd), sum(uncertain), sum(uncertain_nusd), sum(unbounded) "
                "FROM hourly_attempts GROUP BY 1, 2, 3, 4, 5, 6, 7"
            ).fetchall()
            routes = database.execute(
                'SELECT hour, task, feature, "user", tenant, model, '
                "calls, answered, cost_nusd, unpriced, compared, baseline_nusd, compared_cost_nusd FROM hourly_routes"
            ).fetchall()
    expected_attempts, expected_routes = _expected(named)
    assert {row[:7]: list(row[7:]) for row in attempts} == expected_attempts
    assert {row[:6]: list(row[6:]) for row in routes} == expected_routes


@settings(max_examples=25, deadline=None)
@given(calls=st.lists(_calls(), min_size=1, max_size=6))
def test_a_deleted_read_model_is_rebuilt_as_it_was(calls: list[_Call]) -> None:
    """The segments are the truth: whatever the fold made of them once, it makes again."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        home = Path(folder)
        for number, call in enumerate(calls):
            _write(home, f"s{number}", _rows_of(f"c{number}", call))
            fold(home)
        before = _dump(home)
        (home / "ledger.db").unlink()
        fold(home)
        assert _dump(home) == before


def test_steps_are_summed_by_what_happened_at_each_rung(home: Path) -> None:
    """Asked, accepted, climbed past, failed and skipped, with the cost of the climb at the rung it climbed to."""
    (step,) = _route("c")["steps"]
    steps = [
        {**step, "action": "skip", "attempts": 0, "cost_nusd": "0"},
        {**step, "rung": 1, "model": "middle", "action": "escalate", "cost_nusd": "30"},
        {**step, "rung": 2, "model": "large", "action": "fail", "cost_nusd": None, "attempts": 2},
        {**step, "rung": 1, "model": "middle", "action": "keep", "cost_nusd": "0", "attempts": 0},
    ]
    _write(home, "a", [_route("c", steps=steps)])
    names = ("reached", "asked", "accepted", "escalated", "failed", "skipped", "climbs")
    amounts = ("cost_nusd", "climb_nusd", "unpriced")
    sums = {row["model"]: [row[name] for name in (*names, *amounts)] for row in read_table(home, "hourly_steps")}
    assert sums == {
        "small": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        "middle": [1, 1, 1, 1, 0, 0, 0, 30, 0, 0],
        "large": [1, 1, 0, 0, 1, 0, 1, 0, 0, 1],
    }
    assert [(row["position"], row["model"]) for row in read_table(home, "steps")] == list(
        enumerate(["small", "middle", "large", "middle"])
    )


def test_a_copy_of_a_segment_counts_once(home: Path) -> None:
    """Rows that are read twice, from a backup that came back, change no table and no sum."""
    path = _write(home, "a", [*_one_call("c"), *_one_call("d")])
    fold(home)
    before = _dump(home)
    path.with_name("b.seg").write_bytes(path.read_bytes())
    assert fold(home).rows == 6
    assert _dump(home) == before


def test_a_changed_line_is_reported_with_its_segment_and_offset(home: Path) -> None:
    """Damage is named where it stands, counted, and costs nothing around it."""
    path = _write(home, "a", [*_one_call("c"), *_one_call("d")])
    content = bytearray(path.read_bytes())
    start = len(frame(_intent("c", 1)))
    content[start + 40] ^= 1  # In the settle of the first call.
    path.write_bytes(content)
    report = fold(home)
    assert (report.corrupt, report.torn, report.rows, report.orphans) == ([f"a.seg:{start}"], [], 6, 1)
    assert [row["route_id"] for row in read_table(home, "routes")] == ["c", "d"]
    assert [row["broken"] for row in read_table(home, "segments")] == [1]


def test_gaps_add_up(home: Path) -> None:
    """What processes could not write is known by its number."""
    _write(home, "a", [{"v": 1, "kind": "gap", "time_s": START_S, "lost": 3}, {"v": 1, "kind": "gap", "lost": 4}])
    assert fold(home).lost == 7


def test_rows_of_an_unknown_kind_are_left_alone(home: Path) -> None:
    """A kind that this version does not know concerns no table of it."""
    _write(home, "a", [{"v": 1, "kind": "shadow", "n": 1}, *_one_call("c"), {"n": 1}])
    report = fold(home)
    assert (report.rows, report.corrupt) == (5, [])
    assert [row["calls"] for row in read_table(home, "hourly_routes")] == [1]


_IDENTITY = {"v", "kind", "time_s", "attempt_id", "route_id", "state", "lost"}


@pytest.mark.parametrize("kind", ["intent", "settle", "route"])
def test_rows_without_newer_fields_are_read(kind: str, home: Path) -> None:
    """A field that an older version did not write yet is unknown, and stops nothing."""
    for name in next(row for row in _one_call("c") if row["kind"] == kind):
        if name in _IDENTITY:
            continue
        rows = [
            {key: value for key, value in row.items() if key != name or row["kind"] != kind}
            for row in _one_call(f"without-{name}")
        ]
        _write(home, f"without-{name}", rows)
        report = fold(home)
        assert (report.rows, report.corrupt, report.orphans) == (3, [], 0)
    calls = read_table(home, "routes")
    assert (
        len(calls)
        == len(read_table(home, "attempts"))
        == sum(row["calls"] for row in read_table(home, "hourly_routes"))
    )


def test_steps_without_newer_fields_are_read(home: Path) -> None:
    """The same for the steps of a route row."""
    (step,) = _route("c")["steps"]
    for name in step:
        _write(home, "a", [_route(f"without-{name}", steps=[{key: step[key] for key in step if key != name}])])
    _write(home, "a", [{key: value for key, value in _route("none").items() if key != "steps"}])
    assert fold(home).rows == len(step) + 1
    assert len(read_table(home, "steps")) == len(step)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_served": "\ud800 and \udfff"},
        {"input_tokens": 10**30, "cost_nusd": str(10**33)},
        {"input_tokens": -(10**30)},
        {"status": 2**64},
        {"latency_ms": None},
        {"model_served": {"a": [1]}},
        {"model_served": "a\0b"},
    ],
    ids=["surrogates", "huge", "negative", "status", "no-latency", "mapping", "nul"],
)
def test_no_value_of_a_row_stops_the_fold(fields: dict[str, Any], home: Path) -> None:
    """A provider may report anything; a row that SQLite would refuse must not end all later folds."""
    _write(home, "a", [_intent("c", 1), _settle("c", 1, **fields), _route("c"), *_one_call("d")])
    assert fold(home).rows == 6
    assert {row["route_id"]: row["state"] for row in read_table(home, "attempts")} == {"c": "settled", "d": "settled"}


def test_a_provider_that_names_no_model_and_counts_no_tokens_is_recorded(home: Path) -> None:
    """The same from the front door: an odd reply is an answer, and the ledger stays readable."""
    odd = Reply("yes", Usage(input_tokens=10**25), model_served="\udc00", latency_ms=float("nan"))
    with Router(make_policy(), backend=ScriptedModels({"small": odd})) as router:
        router.route("t", "hi", feature="\ud800", tenant="\0")
    (row,) = read_table(home, "attempts")
    assert (row["feature"], row["tenant"], row["model_served"]) == ("?", "\0", "?")
    assert row["latency_ms"] >= 0
    assert row["input_tokens"] == 2**63 - 1


def test_a_read_model_of_a_newer_version_is_refused(traffic: Path) -> None:
    """An old library does not write into a new library's tables: it says what to do."""
    fold(traffic)
    with closing(sqlite3.connect(traffic / "ledger.db")) as database:
        database.execute("PRAGMA user_version = 99")
    before = _dump(traffic)
    with pytest.raises(LedgerError, match=r"ledger\.db: .* newer version .*\(schema 99, .*upgrade cascade-router"):
        fold(traffic)
    assert _dump(traffic) == before


def test_a_read_model_that_is_no_database_can_be_deleted(traffic: Path) -> None:
    """The error names the file and the remedy, and the remedy works."""
    path = traffic / "ledger.db"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.db: the read model cannot be used .*delete it to have it rebuilt"):
        fold(traffic)
    path.unlink()
    assert fold(traffic).rows == 44


def test_a_read_model_that_is_damaged_inside_is_an_error_of_ours(home: Path) -> None:
    """Damage that SQLite finds in the middle of a fold has the same remedy."""
    _write(home, "a", [row for number in range(200) for row in _one_call(f"c{number}")])
    fold(home)
    path = home / "ledger.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    _write(home, "b", _one_call("d"))
    with pytest.raises(LedgerError, match="delete it to have it rebuilt") as caught:
        fold(home)
    assert caught.value.path == str(path)


def test_a_home_that_cannot_be_written_is_an_error_of_ours(traffic: Path) -> None:
    """A fold that cannot take its lock says where and what to do."""
    (traffic / "fold.lock").mkdir()
    with pytest.raises(LedgerError, match=r"fold\.lock: cannot be written \(Is a directory\); make it writable"):
        fold(traffic)


def test_metadata_and_signals_are_kept_as_json(home: Path) -> None:
    """What is a mapping in a row is JSON in the read model."""
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router:
        router.route("t", "hi", metadata={"ticket": 7, "tags": ["a"]})
    (route,) = read_table(home, "routes")
    (step,) = read_table(home, "steps")
    assert json.loads(route["metadata"]) == {"ticket": 7, "tags": ["a"]}
    assert json.loads(step["signals"])["output_chars"] == 3


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "settle", "state": "settled"},
        {"kind": "intent", "attempt_id": "a"},
        {"kind": "route", "route_id": "r", "time_s": "1.5"},
        {"kind": "gap", "lost": "2"},
    ],
    ids=lambda row: str(row["kind"]),
)
def test_a_sound_line_with_a_row_of_no_sense_is_corrupt(row: dict[str, Any], home: Path) -> None:
    """A row that this library cannot have written is reported, and the rows around it are read."""
    folder = home / "segments"
    folder.mkdir(parents=True)
    good = {"kind": "gap", "lost": 3}
    (folder / "a.seg").write_bytes(frame(good) + frame(row) + frame(good))
    (folder / "folder.seg").mkdir()
    report = fold(home)
    assert (report.corrupt, report.lost) == ([f"a.seg:{len(frame(good))}"], 6)


def test_a_segment_that_was_cut_is_reported_and_nothing_counts_twice(home: Path) -> None:
    """A file that lost its end is named once; what was read of it stays, and what comes after it is read."""
    folder = home / "segments"
    folder.mkdir(parents=True)
    rows = [frame(row) for call in ("a", "b") for row in _one_call(call)]
    with (folder / "1-1.seg").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"".join(rows))
        file.flush()
        assert fold(home).rows == 6
        file.truncate(len(b"".join(rows[:3])))
        assert (fold(home).cut, fold(home).cut) == (["1-1.seg"], [])
        file.seek(0, 2)
        file.write(b"".join(frame(row) for row in _one_call("c")))
    report = fold(home)
    assert (report.cut, report.corrupt, report.rows) == ([], [], 3)
    assert {row["route_id"] for row in read_table(home, "routes")} == {"a", "b", "c"}
    assert sum(row["requests"] for row in read_table(home, "hourly_attempts")) == 3


def test_open_requests_of_a_deleted_segment_become_unknown(home: Path) -> None:
    """Where a segment went nobody knows; its requests do not stay open for ever."""
    folder = home / "segments"
    folder.mkdir(parents=True)
    path = folder / "1-1.seg"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(frame(_intent("a", 1)))
        file.flush()
        assert [row["state"] for row in read_table(home, "attempts")] == ["open"]
        path.unlink()
    assert (fold(home).orphans, fold(home).orphans) == (1, 0)
    assert [row["state"] for row in read_table(home, "attempts")] == ["unknown"]


def test_a_segment_that_cannot_be_opened_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that cannot read says which file, and what to do."""
    folder = home / "segments"
    folder.mkdir(parents=True)
    (folder / "1-1.seg").write_bytes(frame(_intent("a", 1)))
    real = fcntl.flock

    def flock(file: Any, operation: int) -> None:
        if operation & fcntl.LOCK_SH:
            raise OSError(errno.ENOLCK, "No locks available")
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(LedgerError, match=r"1-1\.seg: cannot be read \(No locks available\); make it readable"):
        fold(home)


def test_many_small_segments_share_a_transaction(home: Path) -> None:
    """A thousand processes that lived for one call cost few commits, not a thousand."""
    folder = home / "segments"
    folder.mkdir(parents=True)
    for number in range(50):
        (folder / f"{number:03}-1.seg").write_bytes(b"".join(frame(row) for row in _one_call(f"c{number}")))
    fold(home)
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        assert database.execute("SELECT count(*), sum(closed) FROM segments").fetchone() == (50, 50)
    # SQLite counts its commits in the file's header, bytes 24 to 27; the tables took some of them.
    commits = int.from_bytes((home / "ledger.db").read_bytes()[24:28], "big")
    assert commits < 50
