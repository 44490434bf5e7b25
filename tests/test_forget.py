"""Forgetting a user: the sums stay, and no file says any more which rows were theirs."""

from __future__ import annotations

import importlib
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from router import Router, RouterWarning
from router.audit import Filters, audit
from router.audit.forget import Forgotten, forget
from router.errors import LedgerError, StateError
from router.ledger import Fingerprints, load_fingerprints, load_secret, stored_user
from router.ledger.segments import segments_in
from router.ledger.users import UserKeys
from router.ledger.verify import verify
from router.state import AnswerStore
from router.testing import ScriptedModels, SimulatedClock, SimulatedWorld
from router.world import World
from tests.support import Cli, make_policy, read_table

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
SCRUB = importlib.import_module("router.ledger.scrub")
PROMPT = "my name is Ann, and it broke"


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder in memory: not on a disk that waits for every commit."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "home"


def _router(home: Path, clock: SimulatedClock | None = None) -> Router:
    world = World(clock=clock) if clock else World()
    return Router(make_policy(), backend=ScriptedModels({"small": "yes"}), home=home, world=world)


def _traffic(home: Path) -> None:
    with _router(home) as router:
        for user in ("ann", "ben", "ann"):
            router.route("t", PROMPT, user=user, session=f"session of {user}", feature="inbox")
        router.route("t", PROMPT, feature="inbox")


def _traffic_of_an_earlier_release(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("router.api.load_fingerprints", lambda home, world, _: Fingerprints(load_secret(home, world)))
        _traffic(home)


def _sums(home: Path) -> list[Any]:
    return [audit(home, by=by).rows for by in ("task", "feature", "model", "tenant")] + [audit(home).total]


def _calls(home: Path, user: str) -> int:
    return audit(home, filters=Filters(user=stored_user(home, World(), user))).total.calls


def _bytes(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def _guessed(home: Path, user: str) -> list[bytes]:
    """All that somebody who has the secret can make of what they know of a user."""
    prints = Fingerprints(load_secret(home, World()))
    names = [prints.name("user", user), prints.name("session", f"session of {user}")]
    return [str(one).encode() for one in (*names, prints.prompt([{"role": "user", "content": PROMPT}])[0])]


def test_a_forgotten_user_is_neither_found_nor_counted_and_every_sum_stays(home: Path) -> None:
    """The rows are there, under a name that nobody can make again; others are found as before."""
    _traffic(home)
    before, stored = _sums(home), stored_user(home, World(), "ann")
    assert _calls(home, "ann") == 2
    assert forget(home, "ann") == Forgotten(2, before[-1].cost_nusd // 2, 0)
    assert (_calls(home, "ann"), _calls(home, "ben")) == (0, 1)
    assert _sums(home) == before
    assert stored_user(home, World(), "ann") != stored
    assert [row["calls"] for row in read_table(home, "hourly_routes") if row["user"] == stored] == [2]
    assert verify(home).ok


def test_no_file_says_whose_rows_they_were(home: Path) -> None:
    """Not even who has the secret, the id, the session and the prompt finds one of them, and the key is gone."""
    _traffic(home)
    with closing(sqlite3.connect(home / "users.db")) as database:
        name = Fingerprints(load_secret(home, World())).name("user", "ann")
        key = database.execute("SELECT key FROM users WHERE name = ?", (name,)).fetchone()[0]
    assert key in (home / "users.db").read_bytes()
    forget(home, "ann")
    content = _bytes(home)
    assert key not in content
    user, session, _ = _guessed(home, "ann")
    assert (user in content, session in content) == (False, False)
    with _router(home) as router:  # The same user, session and prompt, later.
        router.route("t", PROMPT, user="ann", session="session of ann")
    rows = read_table(home, "routes")
    later, earlier = rows[-1], rows[:-1]
    for column in ("user", "session"):
        assert later[column] not in [row[column] for row in earlier]
    assert later["prompt_fp"] not in [row["prompt_fp"] for row in earlier]


def test_sums_stay_when_the_read_model_is_made_anew(home: Path) -> None:
    """The segments have no more than the read model had."""
    _traffic(home)
    before = _sums(home)
    forget(home, "ann")
    (home / "ledger.db").unlink()
    assert (_sums(home), _calls(home, "ann")) == (before, 0)


def test_a_user_that_nobody_knows_is_a_finding(home: Path) -> None:
    """Nobody is forgotten twice, and looking for somebody makes no key."""
    assert forget(home, "ann") is None
    assert not home.exists()
    _traffic(home)
    assert forget(home, "Ann") is None
    assert forget(home, "ann") is not None
    assert forget(home, "ann") is None
    assert _calls(home, "ben") == 1


def test_answers_kept_for_the_user_go_too(home: Path) -> None:
    """What an idempotency key would give again is in plain text, so it goes; answers of others stay."""
    with _router(home) as router:
        for user in ("ann", "ben", None):
            router.route("t", PROMPT, user=user, idempotency_key=f"key of {user}")
        done = forget(home, "ann")
        assert done is not None
        assert done.answers == 1
        again = {
            user: router.route("t", PROMPT, user=user, idempotency_key=f"key of {user}") for user in ("ann", "ben")
        }
    assert {user: answer.repeat_of is not None for user, answer in again.items()} == {"ann": False, "ben": True}


def test_answers_of_an_earlier_release_are_still_given(home: Path) -> None:
    """Its table has no users; it gets the column, and its answers end with their day."""
    (home / "state").mkdir(parents=True)
    with closing(sqlite3.connect(home / "state" / "answers.db")) as database:
        database.execute("CREATE TABLE answers (name TEXT PRIMARY KEY, binding TEXT, answer TEXT, expires_s REAL)")
        database.execute("INSERT INTO answers VALUES ('n', 'b', '{}', 9e9)")
        database.commit()
    store = AnswerStore(home / "state")
    assert store.find("n", 0.0) == ("b", "{}")
    assert store.drop("u") == 0
    assert store.find("n", 0.0) == ("b", "{}")


def test_a_running_router_lets_go_of_the_name_within_a_second(home: Path) -> None:
    """Then the user is a new one, for it and for every other process alike."""
    clock = SimulatedClock()
    with _router(home, clock) as router:
        router.route("t", "hi", user="ann")
        forget(home, "ann")
        clock.sleep(1.0)
        router.route("t", "hi", user="ann")
    with _router(home) as router:
        router.route("t", "hi", user="ann")
    names = [row["user"] for row in read_table(home, "routes")]
    assert (len(set(names)), _calls(home, "ann")) == (2, 2)


def test_forgetting_while_threads_call_loses_no_row(home: Path) -> None:
    """Every call is on record, whoever it counts for, and the ledger is sound."""
    with _router(home) as router:

        def call() -> None:
            for _ in range(25):
                router.route("t", "hi", user="ann")

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            forget(home, "ann")
        for thread in threads:
            thread.join()
    forget(home, "ann")
    assert (audit(home).total.calls, verify(home).differences, _calls(home, "ann")) == (100, [], 0)


def test_processes_that_race_agree_on_one_key(home: Path) -> None:
    """Whoever sees a user first makes the key, and all write the same name."""
    code = """
import sys
from pathlib import Path
from router.ledger import load_fingerprints
from router.world import World
sys.stdin.read()
print(load_fingerprints(Path(sys.argv[1]), World()).of("ann").name("user", "ann"))
"""
    command = [sys.executable, "-c", code, str(home)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    names = set()
    for process in processes:
        assert process.stdout is not None
        names.add(process.stdout.read().strip())
        process.stdout.close()
        process.wait(60)
    assert names == {stored_user(home, World(), "ann")}
    assert (home / "users.db").stat().st_mode & 0o777 == 0o600


def test_a_key_that_a_thread_read_before_it_was_destroyed_is_not_kept(home: Path) -> None:
    """The cache that it goes into is no longer the one that is asked."""
    clock = SimulatedClock()

    class Overtaken(UserKeys):
        """Once, between reading a key and giving it, the key is destroyed and another thread notices."""

        def key(self, name: str) -> bytes:
            found = super().key(name)
            if not read:
                read.append(found)
                UserKeys(home, World()).destroy(name, lambda: None)
                clock.sleep(1.0)
                prints.of("ben")
            return found

    read: list[bytes] = []
    prints = Fingerprints(load_secret(home, World()), Overtaken(home, World(clock=clock)))
    first = prints.of("ann").name("user", "ann")
    assert first == Fingerprints(read[0]).name("user", "ann")
    assert prints.of("ann").name("user", "ann") == stored_user(home, World(), "ann") != first


def test_calls_go_on_where_keys_cannot_be_kept(home: Path) -> None:
    """A damaged file of keys is told once; rows keep a name of this process, and no key of the installation."""
    home.mkdir()
    (home / "users.db").write_bytes(b"no database" * 100)
    with _router(home) as router, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for user in ("ann", "ben", "ann"):
            router.route("t", "hi", user=user)
    (only,) = told
    assert isinstance(only.message, RouterWarning)
    assert re.search(r"users\.db: the keys of the users cannot be used", str(only.message))
    first, second, third = (row["user"] for row in read_table(home, "routes"))
    assert (first == third, first == second) == (True, False)
    with pytest.raises(LedgerError, match=r"users\.db"):
        forget(home, "ann")


def test_a_simulated_world_leaves_no_keys_behind(home: Path) -> None:
    """The same seed gives the same names, and nothing is on a real disk."""
    names = {load_fingerprints(home, SimulatedWorld(3)).of("ann").name("user", "ann") for _ in range(2)}
    assert (len(names), home.exists()) == (1, False)


def test_a_key_stays_where_the_answers_cannot_be_deleted(home: Path) -> None:
    """A user is forgotten as a whole or not at all."""
    _traffic(home)
    (home / "state").mkdir()
    (home / "state" / "answers.db").write_bytes(b"no database" * 100)
    with pytest.raises(StateError):
        forget(home, "ann")
    assert _calls(home, "ann") == 2
    (home / "state" / "answers.db").unlink()
    assert forget(home, "ann") is not None


def test_rows_of_an_earlier_release_are_changed_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names came from the secret alone, so they are changed in segments and read model; all else stays."""
    _traffic_of_an_earlier_release(home, monkeypatch)
    _traffic(home)
    before, others = _sums(home), _calls(home, "ben")
    sizes = [path.stat().st_size for path in segments_in(home / "segments")]
    assert _guessed(home, "ann")[0] in _bytes(home)
    done = forget(home, "ann")
    assert done is not None
    assert done.calls == 4
    content = _bytes(home)
    assert [guess in content for guess in _guessed(home, "ann")[:2]] == [False, False]
    assert _guessed(home, "ben")[0] in content
    assert (_sums(home), _calls(home, "ben"), _calls(home, "ann")) == (before, others, 0)
    assert [path.stat().st_size for path in segments_in(home / "segments")] == sizes
    assert verify(home).ok
    (home / "ledger.db").unlink()
    assert _sums(home) == before


@pytest.mark.parametrize("step", ["_rewrite", "_scrub_read_model"])
def test_a_change_of_old_rows_that_breaks_off_is_ended_by_the_next(
    step: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the key is destroyed the user is known, and the same names are made again."""
    for _ in range(2):
        _traffic_of_an_earlier_release(home, monkeypatch)
    before = _sums(home)
    original, left = getattr(SCRUB, step), 1 if step == "_rewrite" else 0

    def broken(*arguments: Any) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SCRUB, step, broken)
        with pytest.raises(KeyboardInterrupt):
            forget(home, "ann")
    assert forget(home, "ann") is not None
    assert (_sums(home), verify(home).differences) == (before, [])
    assert _guessed(home, "ann")[0] not in _bytes(home)


def test_a_running_process_of_an_earlier_release_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its segment cannot be changed under it; nothing is changed, and the remedy works."""
    with monkeypatch.context() as patch:
        patch.setattr("router.api.load_fingerprints", lambda home, world, _: Fingerprints(load_secret(home, world)))
        with _router(home) as router:
            router.route("t", "hi", user="ann")
            with pytest.raises(LedgerError, match="a running process of an earlier release"):
                forget(home, "ann")
    assert forget(home, "ann") is not None


def test_the_command_says_what_stays_and_what_went(home: Path, cli: Cli) -> None:
    """0 when somebody was forgotten, 1 when nobody was known; no name of the rows is printed."""
    _traffic(home)
    done = cli("ledger", "forget", "--user", "ann", "--home", str(home))
    assert done.code == 0
    assert "forgotten: 2 calls for $0.0" in done.out
    assert "0 kept answers deleted" in done.out
    assert "not touched: recordings" in done.out
    again = cli("ledger", "forget", "--user", "ann", "--home", str(home), "--json")
    assert (again.code, again.json) == (1, {"known": False})
    assert "no such user" in cli("ledger", "forget", "--user", "ann", "--home", str(home)).out
