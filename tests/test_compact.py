"""Packing: what is old becomes its hourly sums, no sum changes, and whoever is killed meanwhile loses nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.audit import Filters, audit
from router.audit.forget import forget
from router.core.call import Call
from router.errors import LedgerError
from router.ledger import Fingerprints, fold, load_secret
from router.ledger.compact import compact
from router.ledger.packs import packs_in
from router.ledger.segments import frame, read_lines, segments_in
from router.ledger.verify import verify
from router.testing import ScriptedModels, SimulatedClock
from router.world import World
from tests.support import Cli, make_policy, read_table

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
DAY_S = 86_400.0
NOW_S = 1_700_000_000.0
NOW = World(clock=SimulatedClock(NOW_S))


@pytest.fixture
def home() -> Iterator[Path]:
    """A ledger of three segments, 200, 100 and 1 days old, folded, in memory."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        home = Path(folder) / "home"
        for days in (200, 100, 1):
            with _router(home, days) as router:
                for number in range(4):
                    router.route(
                        "t", "x" * (number + 1), feature=f"f{number % 2}", user="ann", idempotency_key=f"{number}"
                    )
        fold(home)
        yield home


def _router(home: Path, days: float) -> Router:
    def small(call: Call) -> str:
        return "yes" if len(call.messages[0]["content"]) % 2 else "perhaps"

    clock = SimulatedClock(NOW_S - days * DAY_S)
    models = ScriptedModels({"small": small, "large": "no"}, latency_s={"small": 0.25, "large": 0.5}, clock=clock)
    return Router(
        make_policy({"answer": {"choice": ["yes", "no"]}}), backend=models, home=home, world=World(clock=clock)
    )


def _sums(home: Path) -> list[Any]:
    """Everything that an audit shows."""
    reports = [audit(home, by=by) for by in ("task", "feature", "user", "model", "day", "hour")]
    return [(report.rows, report.total, report.uncertain) for report in reports]


def _compact(home: Path, days: float = 90, *, apply: bool = True) -> Any:
    return compact(home, older_than_s=days * DAY_S, apply=apply, world=NOW)


def test_old_segments_become_their_sums_and_nothing_else_changes(home: Path) -> None:
    """Files and rows of that time are gone, every figure of the audit stays, and verify agrees."""
    before = _sums(home)
    newest = segments_in(home / "segments")[-1]
    report = _compact(home)
    assert (len(report.segments), report.rows, report.applied) == (2, 2 * (4 * 3 + 2 * 2), True)
    assert segments_in(home / "segments") == [newest]
    assert len(read_table(home, "routes")) == 4
    assert {row["segment"] for row in read_table(home, "attempts")} == {newest.name}
    assert (_sums(home), verify(home).differences, verify(home).gone) == (before, [], [])


@pytest.mark.parametrize(
    ("by", "tz", "stays"),
    [
        *((by, "UTC", True) for by in ("tenant", "rung", "origin", "line", "week", "month", "feature,model")),
        *((by, "UTC", False) for by in ("session", "policy", "plan", "outcome", "fault", "state", "minute")),
        *((by, "Europe/Berlin", True) for by in ("feature", "hour", "day", "feature,month")),
        *((by, "Asia/Kolkata", False) for by in ("feature", "hour", "day", "feature,month")),
    ],
)
def test_what_the_hourly_sums_do_not_name_is_missing(by: str, tz: str, stays: bool, home: Path) -> None:
    """As the page on the ledger says."""

    def calls() -> Any:
        report = audit(home, by=by, filters=Filters(tz=tz))
        return (report.rows, report.total)

    before = calls()
    _compact(home)
    assert (calls() == before) is stays


def test_a_read_model_that_is_made_anew_has_the_same_sums(home: Path) -> None:
    """The packs are part of the truth."""
    before = _sums(home)
    _compact(home)
    (home / "ledger.db").unlink()
    assert (_sums(home), verify(home).ok) == (before, True)


def test_without_a_yes_nothing_is_changed(home: Path) -> None:
    """What would be done is said first."""
    files = {path: path.read_bytes() for path in home.rglob("*.seg")}
    report = _compact(home, apply=False)
    assert (len(report.segments), report.applied) == (2, False)
    assert {path: path.read_bytes() for path in home.rglob("*.seg")} == files
    assert len(read_table(home, "routes")) == 12


def test_packing_again_packs_what_has_grown_old_since(home: Path) -> None:
    """Packs add up; with nothing old there is nothing to do."""
    before = _sums(home)
    assert [len(_compact(home, days).segments) for days in (150, 90, 90, 0.5)] == [1, 1, 0, 1]
    assert len(packs_in(home / "segments")) == 3
    (home / "ledger.db").unlink()
    assert (_sums(home), verify(home).ok) == (before, True)


def test_a_segment_that_is_still_written_is_left_alone(home: Path) -> None:
    """However old its rows are."""
    router = _router(home, 300)
    router.route("t", "hi")
    (living,) = set(segments_in(home / "segments")) - {*segments_in(home / "segments")[1:]}
    report = _compact(home)
    assert (report.living, len(report.segments), living.exists()) == (1, 2, True)
    router.route("t", "hi")
    router.close()
    assert (audit(home).total.calls, verify(home).ok) == (14, True)
    assert len(_compact(home).segments) == 1


def test_a_damaged_segment_is_left_for_whoever_repairs_it(home: Path) -> None:
    """A half line of a dead writer is no damage."""
    oldest, old, _ = segments_in(home / "segments")
    oldest.write_bytes(oldest.read_bytes().replace(b'"fault":null', b'"fault":NULL', 1))
    with old.open("ab") as file:
        file.write(b"0123")
    before = _sums(home)
    report = _compact(home)
    assert (report.damaged, report.segments) == ([oldest.name], [old.name])
    assert _sums(home) == before


def test_a_read_model_that_is_brought_up_keeps_what_is_packed(home: Path) -> None:
    """Its rollups are summed anew from rows and packs."""
    _compact(home)
    before = _sums(home)
    with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE hourly_routes DROP COLUMN unpriced")
        database.execute("ALTER TABLE daily_attempts DROP COLUMN retries")
    assert _sums(home) == before
    assert verify(home).ok


class _SetClock(SimulatedClock):
    """A clock whose date somebody sets."""

    date_s = 0.0

    def time(self) -> float:
        return self.date_s


def test_rows_of_another_time_keep_their_segment(home: Path) -> None:
    """A clock that was wrong for a while makes no new row old."""
    clock = _SetClock()
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"}), home=home, world=World(clock=clock)) as router:
        router.route("t", "hi")
        clock.date_s = NOW_S
        clock.sleep(2)
        router.route("t", "hi")
    assert len(_compact(home).segments) == 2
    assert len([row for row in read_table(home, "routes") if row["time_s"] < DAY_S]) == 1


_KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from router.ledger.compact import compact
from router.ledger import compact as _, fold, packs
from router.testing import SimulatedClock
from router.world import World

home, seen = Path(sys.argv[1]), 0
FILES = tuple(f"ledger/{name}.py" for name in ("compact", "packs", "fold"))

def run(home, kill_at):
    global seen
    seen = 0
    def line(frame, event, argument):
        global seen
        if event == "line":
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return line
    def call(frame, event, argument):
        return line if frame.f_code.co_filename.endswith(FILES) else None
    sys.settrace(call)
    compact(home, older_than_s=90 * 86400.0, apply=True, world=World(clock=SimulatedClock(1_700_000_000.0)))
    sys.settrace(None)
    return seen

def child(name, kill_at):
    copy = home.with_name(name)
    shutil.copytree(home, copy)
    pid = os.fork()
    if pid == 0:
        lines = run(copy, kill_at)
        (copy / "lines").write_text(str(lines))
        os._exit(0)
    os.waitpid(pid, 0)
    return copy

total = int((child("whole", 0) / "lines").read_text())
steps = sorted({round(number * total / 60) for number in range(1, 61)} | set(range(total - 20, total)))
print(json.dumps([str(child(f"killed-{step}", step)) for step in steps if step > 0]))
"""


def test_whoever_is_killed_while_packing_loses_nothing(home: Path) -> None:
    """Killed at any line, before, within or after: the next fold has the same sums, and packing again ends it."""
    before = _sums(home)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(home)], capture_output=True, text=True, check=True, timeout=300
    )
    states = set()
    for copy in map(Path, json.loads(done.stdout)):
        folder = copy / "segments"
        states.add((len(segments_in(folder)), len(packs_in(folder))))
        assert not (copy / "lines").exists()
        assert _sums(copy) == before, copy
        assert verify(copy).ok, (copy, verify(copy).differences)
        _compact(copy)
        assert (_sums(copy), verify(copy).ok, len(segments_in(folder))) == (before, True, 1), copy
        (copy / "ledger.db").unlink()
        assert _sums(copy) == before, copy
    assert states >= {(3, 0), (3, 1), (2, 1), (1, 1)}


def test_a_read_model_older_than_a_pack_is_made_anew(home: Path) -> None:
    """A copy of it from before knows only some of the segments: the error says so, and the remedy works."""
    before, oldest = _sums(home), segments_in(home / "segments")[0]
    with tempfile.TemporaryDirectory(dir=MEMORY) as other:
        (Path(other) / "segments").mkdir()
        (Path(other) / "segments" / oldest.name).write_bytes(oldest.read_bytes())
        fold(Path(other))
        _compact(home)
        (home / "ledger.db").write_bytes((Path(other) / "ledger.db").read_bytes())
    with pytest.raises(LedgerError, match=r"\.pack: replaces segments of which .* delete ledger\.db"):
        fold(home)
    (home / "ledger.db").unlink()
    assert _sums(home) == before


def test_a_changed_byte_of_a_pack_is_named(home: Path) -> None:
    """Verify reads packs as it reads segments; without the line that names the segments nothing can be made anew."""
    _compact(home)
    (pack,) = packs_in(home / "segments")
    content = pack.read_bytes()
    for offset, line in ((len(content) - 10, content.count(b"\n")), (20, 1)):
        pack.write_bytes(content[:offset] + b"?" + content[offset + 1 :])
        assert [(damage.segment, damage.line) for damage in verify(home).damaged] == [(pack.name, line)]
    (home / "ledger.db").unlink()
    with pytest.raises(LedgerError, match="the first line, which names the segments that it replaces, was changed"):
        fold(home)
    pack.write_bytes(content)
    assert verify(home).ok


def _without_line(content: bytes, number: int) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(line for line in lines if line != lines[number])


@pytest.mark.parametrize("rebuilt", [False, True])
@pytest.mark.parametrize(
    "cut",
    [
        lambda content: content[:-1],
        lambda content: content[:-20],
        lambda content: content[: len(content) // 2],
        lambda content: content[: content.rindex(b"\n", 0, len(content) // 2) + 1],
        lambda content: _without_line(content, 3),
        lambda content: _without_line(content, 0),
        lambda content: _without_line(content, -2),
        lambda content: _without_line(content, -1),
        lambda content: b"",
    ],
    ids=["newline", "end", "half", "half by lines", "a line", "first line", "last sum", "end line", "all"],
)
def test_a_pack_that_is_not_as_long_as_it_was_written_is_a_finding(
    cut: Callable[[bytes], bytes], rebuilt: bool, home: Path
) -> None:
    """A pack is written whole, so nothing that is missing of it is the death of a writer; the fold says so, too."""
    _compact(home)
    (pack,) = packs_in(home / "segments")
    before, content = _sums(home), pack.read_bytes()
    pack.write_bytes(cut(content))
    if rebuilt:
        (home / "ledger.db").unlink()
    assert not verify(home).ok
    if rebuilt and cut(content)[:50] != content[:50]:
        with pytest.raises(LedgerError, match="the first line"):
            fold(home)
    else:
        assert [item.startswith(f"{pack.name}: ") for item in fold(home).cut_packs] == [True]
    pack.write_bytes(content)
    (home / "ledger.db").unlink()
    assert (_sums(home), verify(home).ok, fold(home).cut_packs) == (before, True, [])


def test_a_pack_of_an_earlier_release_does_not_say_how_long_it_is(home: Path) -> None:
    """It is read as before."""
    _compact(home)
    (pack,) = packs_in(home / "segments")
    before = _sums(home)
    rows = [line.row for line in read_lines(pack, complete=True) if line.row and line.row["kind"] != "pack_end"]
    header = {name: value for name, value in rows[0].items() if name not in ("firsts", "ends")}
    pack.write_bytes(b"".join(map(frame, [header, *rows[1:]])))
    (home / "ledger.db").unlink()
    assert (_sums(home), verify(home).ok) == (before, True)


def test_copies_of_what_is_packed_are_left_out_and_told(home: Path, cli: Cli) -> None:
    """Of a segment, whole or cut, and of a pack; whether the read model is made anew or not, and packing again."""
    oldest, folder = segments_in(home / "segments")[0], home / "segments"
    content = oldest.read_bytes()
    before = _sums(home)
    _compact(home)
    (pack,) = packs_in(folder)
    (folder / "0-restored.seg").write_bytes(content)
    (folder / "z-restored.seg").write_bytes(content[: len(content) // 2])
    (folder / "z-restored.pack").write_bytes(pack.read_bytes())
    copies = {"0-restored.seg", "z-restored.seg", "z-restored.pack"}
    for _ in range(2):
        assert (_sums(home), set(fold(home).duplicates), set(verify(home).duplicates)) == (before, copies, copies)
        assert (verify(home).ok, verify(home).gone, _compact(home).segments) == (True, [], [])
        (home / "ledger.db").unlink()
    assert "left out: 0-restored.seg is a copy of what is packed" in cli("ledger", "verify", "--home", str(home)).out
    assert "ledger: z-restored.pack is a copy of what is packed" in cli("audit", "--home", str(home)).out


def test_a_segment_stays_as_long_as_a_copy_that_cannot_be_packed(home: Path) -> None:
    """Packed, the shorter of the two would hide what only the other one holds."""
    oldest, old, _ = segments_in(home / "segments")
    lines = oldest.read_bytes().splitlines(keepends=True)
    oldest.with_name("0-backup.seg").write_bytes(b"".join(lines[:6]))
    oldest.write_bytes(b"".join(lines[:-2]) + lines[-2].replace(b'"fault":null', b'"fault":NULL').replace(b"f1", b"f2"))
    before = _sums(home)
    report = _compact(home)
    assert (report.copied, report.damaged, report.segments) == (["0-backup.seg"], [oldest.name], [old.name])
    assert _sums(home) == before


def test_forgetting_reaches_the_packs_of_an_earlier_release(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sums carry names, too."""
    with monkeypatch.context() as patch, suppress(FileNotFoundError):
        patch.setattr("router.api.load_fingerprints", lambda home, world, _: Fingerprints(load_secret(home, world)))
        with _router(home, 300) as router:
            router.route("t", "hi", user="ann")
    _compact(home)
    name = str(Fingerprints(load_secret(home, World())).name("user", "ann")).encode()
    before, (pack,) = _sums(home), packs_in(home / "segments")
    assert name in pack.read_bytes()
    assert forget(home, "ann") is not None
    assert name not in pack.read_bytes()
    assert [total for _, total, _ in _sums(home)] == [total for _, total, _ in before]
    (home / "ledger.db").unlink()
    assert verify(home).ok


def test_the_command_shows_first_and_packs_with_yes(home: Path, cli: Cli) -> None:
    """An age that is none is a wrong call; all segments are older than the machine's day."""
    shown = cli("ledger", "compact", "--older-than", "90d", "--home", str(home))
    assert (shown.code, shown.out.startswith("would pack: 3 segments, 48 rows, ")) == (0, True)
    assert "next: the same with --yes" in shown.out
    done = cli("ledger", "compact", "--older-than", "48h", "--yes", "--home", str(home), "--json")
    assert (done.code, done.json["applied"], done.json["rows"]) == (0, True, 48)
    assert [cli("ledger", "compact", "--older-than", age).code for age in ("soon", "999999d")] == [2, 2]
    assert "would pack: 0 segments" in cli("ledger", "compact", "--older-than", "99999d", "--home", str(home)).out


def test_the_policy_says_how_long_calls_are_kept(home: Path, tmp_path: Path, cli: Cli) -> None:
    """`keep_days` stands for an age that nobody gave, in an overlay too; without both it is a wrong call."""
    policies = tmp_path / "policies"
    policies.mkdir()
    base = "version: 1\nmodels: {small: {litellm: openai/small}}\ntasks: {t: {ladder: [small]}}\n"
    years = int(time.time() - NOW_S + 150 * DAY_S) // int(DAY_S)
    (policies / "all.yml").write_text(base)
    (policies / "prod.yml").write_text(f"version: 1\nenvironment: prod\nledger: {{keep_days: {years}}}\n")
    command = ("ledger", "compact", "--yes", "--json", "--home", str(home), "--policies", str(policies))
    refused = cli(*command)
    assert (refused.code, "add `ledger: {keep_days: 90}` to it" in " ".join(refused.err.split())) == (2, True)
    assert len(cli(*command, "--env", "prod").json["segments"]) == 1
    assert len(cli(*command, "--env", "prod", "--older-than", "1h").json["segments"]) == 2


def test_what_packed_calls_no_longer_have_is_told(home: Path, tmp_path: Path, cli: Cli) -> None:
    """Rows by session or fault do not add up to the total, and a packed call has no id: each place says so."""
    route_id = read_table(home, "routes")[0]["route_id"]
    assert "packed" not in cli("audit", "--by", "session", "--home", home).out
    _compact(home)
    hint = "8 calls are packed: they have sums by hour, but no session, policy, plan, outcome, fault or state, so no"
    for by in ("session", "policy", "fault", "minute"):
        assert hint in cli("audit", "--by", by, "--home", home).out, by
    assert hint in cli("audit", "--by", "day", "--tz", "Asia/Kolkata", "--home", home).out
    assert "packed" not in cli("audit", "--by", "feature,model", "--home", home).out
    assert "8 calls are packed" in cli("audit", "show", route_id, "--home", home).err
    assert hint in cli("audit", "export", tmp_path / "calls.csv", "--home", home).out
    assert hint in cli("policy", "history", "--home", home).out


def test_a_folder_without_a_ledger_is_no_green_light(tmp_path: Path, cli: Cli) -> None:
    """Whoever mistypes the folder must not be told that all is well."""
    done = cli("ledger", "verify", "--home", tmp_path / "nowhere")
    assert (done.code, done.out.startswith("no ledger: there is no folder ")) == (1, True)
