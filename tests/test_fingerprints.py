"""Fingerprints: equal inputs of one installation are equal, and nothing else can be read off them."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router, RouterWarning
from router.errors import LedgerError
from router.ledger import Fingerprints, load_fingerprints, load_secret
from router.testing import ScriptedModels, SimulatedWorld
from router.world import World
from tests.support import make_policy, read_table

ONE = Fingerprints(b"one secret")
OTHER = Fingerprints(b"another secret")

_TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=6)
_MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": _TEXT}),
    min_size=1,
    max_size=4,
)


def _user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


@given(first=_MESSAGES, second=_MESSAGES)
def test_prompts_are_equal_exactly_where_their_fingerprints_are(first: Any, second: Any) -> None:
    """Equal messages have equal fingerprints, other messages have others."""
    assert (ONE.prompt(first)[0] == ONE.prompt(second)[0]) == (first == second)


@given(messages=_MESSAGES)
def test_another_secret_gives_other_fingerprints(messages: Any) -> None:
    """Without the secret nobody can find out what a fingerprint stands for by trying."""
    fingerprint, prefixes = ONE.prompt(messages)
    assert {fingerprint, *prefixes} & {OTHER.prompt(messages)[0], *OTHER.prompt(messages)[1]} == set()
    assert [len(one) for one in (fingerprint, *prefixes)] == [16] * len(messages)


@given(messages=_MESSAGES)
def test_prefixes_end_at_message_boundaries(messages: Any) -> None:
    """Each beginning of a conversation has the fingerprint that it would have alone, shortest first."""
    assert ONE.prompt(messages)[1] == tuple(ONE.prompt(messages[:size])[0] for size in range(1, len(messages)))


def test_long_conversations_keep_their_earliest_prefixes() -> None:
    """A row stays small: sixteen boundaries are kept, where a prompt cache can match."""
    messages = [_user(str(number)) for number in range(40)]
    assert ONE.prompt(messages)[1] == tuple(ONE.prompt(messages[:size])[0] for size in range(1, 17))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([_user("a\1assistant\0b")], [_user("a"), {"role": "assistant", "content": "b"}]),
        ([_user("ab")], [_user("a"), _user("b")]),
        ([_user("auserb")], [_user("a"), _user("b")]),
        ([_user("")], [_user(None)]),
        ([_user('["a"]')], [_user(["a"])]),
        ([_user("a")], [_user("a", name="ann")]),
        ([_user("a", tool_call_id="1")], [_user("a", tool_call_id="2")]),
        ([_user("a")], [{"role": "system", "content": "a"}]),
        ([_user([{"type": "text", "text": "a"}])], [_user([{"type": "text", "text": "b"}])]),
    ],
    ids=["separators", "split", "joined", "empty", "json", "name", "tool-call", "role", "parts"],
)
def test_prompts_that_look_alike_differ(one: list[Any], other: list[Any]) -> None:
    """No text can pass for another structure, and every part of a message counts."""
    assert ONE.prompt(one)[0] != ONE.prompt(other)[0]


def test_the_order_of_keys_does_not_matter() -> None:
    """A message is a mapping: the same keys and values are the same message."""
    one = [{"role": "user", "content": "a", "name": "ann"}]
    other = [{"name": "ann", "content": "a", "role": "user"}]
    assert ONE.prompt(one) == ONE.prompt(other)


def test_names_of_different_kinds_differ() -> None:
    """A user and a session of the same name cannot be joined; nobody stays nobody."""
    assert ONE.name("user", "ann") == ONE.name("user", "ann")
    assert len({ONE.name(kind, name) for kind in ("user", "session") for name in ("ann", "ben", "", "\ud800")}) == 8
    assert ONE.name("user", None) is None


def test_a_user_is_the_same_in_every_call_and_never_named(home: Path) -> None:
    """Rows carry fingerprints: equal for one user, other ones for another, and no id at all."""
    for users in (["ann", "ben"], ["ann"]):
        with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router:
            for user in users:
                router.route("t", "hi", user=user, session=user)
    rows = read_table(home, "routes")
    first, second, third = ((row["user"], row["session"]) for row in rows)
    assert first == third
    assert len({*first, *second}) == 4
    assert "ann" not in "".join(path.read_text() for path in (home / "segments").iterdir())


def test_the_secret_is_made_once_and_for_its_owner_only(home: Path) -> None:
    """The first use makes 64 hexadecimal digits in a file that nobody else can read; later ones read it."""
    secret = load_secret(home, World())
    path = home / "secret"
    assert (len(secret), int(secret, 16) > 0) == (64, True)
    assert (path.stat().st_mode & 0o777, home.stat().st_mode & 0o777) == (0o600, 0o700)
    assert path.read_bytes() == secret == load_secret(home, World())
    assert [one.name for one in home.iterdir()] == ["secret"]


def test_threads_that_race_agree_on_one_secret(tmp_path: Path) -> None:
    """Whoever is first, everybody gets the same."""
    for attempt in range(15):
        barrier = threading.Barrier(8)

        def first_use(home: Path, barrier: threading.Barrier = barrier) -> bytes:
            barrier.wait()
            return load_secret(home, World())

        with ThreadPoolExecutor(8) as pool:
            secrets = set(pool.map(first_use, [tmp_path / str(attempt)] * 8))
        assert len(secrets) == 1


def test_processes_that_race_agree_on_one_secret(home: Path) -> None:
    """The same across processes, and it leaves no draft behind."""
    code = """
import sys
from pathlib import Path
from router.ledger import load_secret
from router.world import World
sys.stdin.read()
print(load_secret(Path(sys.argv[1]), World()).decode())
"""
    command = [sys.executable, "-c", code, str(home)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(5)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    secrets = set()
    for process in processes:
        assert process.stdout is not None
        secrets.add(process.stdout.read())
        process.stdout.close()
    assert [process.wait(60) for process in processes] == [0] * 5
    assert secrets == {(home / "secret").read_text() + "\n"}
    assert [one.name for one in home.iterdir()] == ["secret"]


def test_router_secret_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet shares a secret through the environment; nothing is written then."""
    monkeypatch.setenv("ROUTER_SECRET", "shared by all machines")
    assert load_secret(home, World()) == b"shared by all machines"
    assert load_secret(home, SimulatedWorld()) == b"shared by all machines"
    assert not home.exists()


def test_an_empty_router_secret_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable that is set to nothing must not make every fingerprint guessable."""
    monkeypatch.setenv("ROUTER_SECRET", "")
    assert len(load_secret(home, World())) == 64


def test_a_simulated_world_leaves_no_secret_behind(home: Path) -> None:
    """A secret that a seed gives away never gets into a ledger's folder, where real calls would use it."""
    router = Router(make_policy(), backend=ScriptedModels({"small": "yes"}), world=SimulatedWorld(7))
    router.route("t", "hi", user="ann")
    assert not home.exists()
    assert load_secret(home, SimulatedWorld(7)) != load_secret(home, SimulatedWorld(8))


def test_an_unwritable_home_falls_back_to_a_secret_of_the_router(tmp_path: Path) -> None:
    """Calls go on: fingerprints then match within one router only, and they are still keyed."""
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(LedgerError, match=r"secret: .* neither read nor made \(Not a directory\)"):
        load_secret(file / "home", World())
    first, second = (load_fingerprints(file / "home", World()).name("user", "ann") for _ in range(2))
    assert len({first, second, None}) == 3


def test_a_secret_that_others_could_read_is_closed_to_them_and_told(home: Path) -> None:
    """An old or copied file keeps its key, so that fingerprints still match, and loses its rights."""
    home.mkdir(parents=True)
    path = home / "secret"
    path.write_bytes(b"k" * 64)
    path.chmod(0o644)
    with pytest.warns(RouterWarning, match="secret: others could read this key of the fingerprints and may have it"):
        assert load_secret(home, World()) == b"k" * 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_secret(home, World()) == b"k" * 64
