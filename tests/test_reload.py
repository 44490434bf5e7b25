"""Policies that change: taken over off the request path, kept by their hashes, and had back."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router import Answer, Router, RouterWarning, events
from router.cli.app import app
from router.core.call import Call
from router.errors import InvalidCall, PolicyError
from router.spec import kept, load, restore
from router.testing import ScriptedModels, capture
from tests.support import make_policy

MODELS = "version: 1\nmodels:\n  small: {litellm: openai/small}\n  large: {litellm: openai/large}\n"


def _tasks(ladder: str, more: str = "") -> str:
    return f"version: 1\ntasks:\n  t: {{ladder: [{ladder}], answer: {{choice: ['yes', 'no']}}}}\n{more}"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A folder with a policy of two files."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "models.yml").write_text(MODELS)
    (folder / "tasks.yml").write_text(_tasks("small"))
    return folder


@pytest.fixture
def router(policies: Path, home: Path) -> Iterator[Router]:
    """A router that reloads, and that has answered a call."""
    with Router(policies, home=home, backend=ScriptedModels({"small": "yes", "large": "no"}), reload=True) as router:
        router.route("t", "p")
        yield router


def _look(router: Router, times: int = 2) -> None:
    assert router._reloader
    for _ in range(times):
        router._reloader.look()


def test_a_change_is_taken_over(router: Router, policies: Path) -> None:
    """After it has rested for a look: ladder, plan and hash are the new ones, and an event says so."""
    before = router.route("t", "p")
    (policies / "tasks.yml").write_text(_tasks("large"))
    with capture() as seen:
        _look(router, 1)
        assert router.route("t", "p").model == "small"
        _look(router, 1)
        after = router.route("t", "p")
        _look(router)
    assert (before.model, after.model) == ("small", "large")
    assert [event["policy_hash"] for event in seen if event["event"] == "router.policy_reloaded"] == [
        load(policies).policy_hash
    ]


@pytest.mark.parametrize(
    "broken",
    [
        "version: 1\ntasks: {t: {ladder: [nobody]}}\n",
        "version: 1\ntasks: {t: {lad",
        "",
        _tasks("small", "  u: {ladder: [small], wrong: 1}\n"),
        "version: 1\ntasks: {other: {ladder: [small]}}\n",
    ],
    ids=["unknown model", "half a file", "empty", "another task", "a task with a check is gone"],
)
def test_a_broken_change_keeps_the_old_policy(broken: str, policies: Path, home: Path) -> None:
    """It is said once, calls go on, and the mended files are taken over."""
    backend = ScriptedModels({"small": "yes", "large": "no"})
    with Router(policies, home=home, backend=backend, reload=True, checks={"t": lambda _: True}) as router:
        hash_before = router.plan("t").policy_hash
        (policies / "tasks.yml").write_text(broken)
        with capture() as seen, pytest.warns(RouterWarning, match="the one before it stays in force") as warned:
            _look(router, 5)
        assert len([event for event in seen if event["event"] == "router.policy_broken"]) == len(warned) == 1
        assert router.route("t", "p").model == "small"
        assert router.plan("t").policy_hash == hash_before
        (policies / "tasks.yml").write_text(_tasks("large"))
        _look(router)
        assert router.route("t", "p").model == "large"


def test_a_broken_tuned_file_keeps_the_old_policy(router: Router, policies: Path) -> None:
    """Every plan is made before anything is taken over."""
    (policies / "tuned").mkdir()
    (policies / "tuned" / "t.json").write_text("{")
    with pytest.warns(RouterWarning, match="stays in force"):
        _look(router)
    assert router.route("t", "p").model == "small"


def test_calls_under_way_keep_what_they_began_with(policies: Path, home: Path) -> None:
    """A change in the middle of a call is for the next one."""
    asked, go_on = threading.Event(), threading.Event()

    def slow(call: Call) -> str:
        asked.set()
        assert go_on.wait(30)
        return "perhaps" if call.name == "small" else "no"

    (policies / "tasks.yml").write_text(_tasks("small, large"))
    answers: list[Answer] = []
    with Router(policies, home=home, backend=ScriptedModels({"small": slow, "large": "no"}), reload=True) as router:
        thread = threading.Thread(target=lambda: answers.append(router.route("t", "p")))
        thread.start()
        assert asked.wait(30)
        (policies / "tasks.yml").write_text(_tasks("large"))
        _look(router)
        assert [step.model for step in router.route("t", "p").steps] == ["large"]
        go_on.set()
        thread.join(30)
    assert [step.model for step in answers[0].steps] == ["small", "large"]


def test_a_thread_of_its_own_does_the_looking(policies: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with the first call, ends with the router, and is at work between them."""
    monkeypatch.setattr("router.reload.INTERVAL_S", 0.01)
    reloaded = threading.Event()

    def listen(event: events.Event) -> None:
        if event["event"] == "router.policy_reloaded":
            reloaded.set()

    monkeypatch.setattr(events, "listeners", (listen,))

    others = set(threading.enumerate())  # Another test's may still be on their way out.

    def watching() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "router-reload" and one not in others]

    with Router(policies, home=home, backend=ScriptedModels({"small": "yes", "large": "no"}), reload=True) as router:
        assert watching() == []
        router.route("t", "p")
        (thread,) = watching()
        (policies / "tasks.yml").write_text(_tasks("large"))
        assert reloaded.wait(30)
        assert router.route("t", "p").model == "large"
    thread.join(30)
    assert not thread.is_alive()

    router = Router(policies, home=home, backend=ScriptedModels({"large": "no"}), reload=True)
    router.route("t", "p")
    (thread,) = watching()
    del router
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_nothing_is_watched_unless_wanted(policies: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the argument, or by the environment where there is no argument; a policy of Python has no files."""
    models = ScriptedModels({"small": "yes"})
    assert Router(policies, home=home, backend=models)._reloader is None
    monkeypatch.setenv("ROUTER_RELOAD", "1")
    assert Router(policies, home=home, backend=models)._reloader
    assert Router(policies, home=home, backend=models, reload=False)._reloader is None
    assert Router(make_policy(), home=home, backend=models)._reloader is None
    with pytest.raises(InvalidCall, match="has no files to watch"):
        Router(make_policy(), home=home, backend=models, reload=True)


def _command(*arguments: str, stdin: str = "") -> Any:
    return CliRunner().invoke(app, ["policy", *arguments], input=stdin)


def test_every_policy_that_answered_is_in_the_history(router: Router, policies: Path, home: Path) -> None:
    """With its calls and costs, the latest first, and whether a copy is there."""
    first = load(policies).policy_hash
    (policies / "tasks.yml").write_text(_tasks("large"))
    _look(router)
    for _ in range(3):
        router.route("t", "p")
    done = _command("history", "--policies", str(policies), "--json")
    rows = json.loads(done.output)["policies"]
    assert [(row["policy_hash"], row["calls"], row["in_force"], row["copy"]) for row in rows] == [
        (load(policies).policy_hash, 3, True, True),
        (first, 1, False, True),
    ]
    text = _command("history", "--policies", str(policies)).output
    assert first in text
    assert "now" in text
    assert {place.stat().st_mode & 0o777 for place in (home, home / "policies")} == {0o700}


def test_an_empty_ledger_has_no_history() -> None:
    """And says where it looked."""
    assert "holds no calls here" in _command("history").output


def test_a_rollback_writes_the_earlier_files_back(router: Router, policies: Path, home: Path) -> None:
    """Exactly: a file that came later goes, and everything as it was is saved first."""
    first, texts = load(policies).policy_hash, {path.name: path.read_bytes() for path in policies.glob("*.yml")}
    (policies / "tasks.yml").write_text(_tasks("large") + "# my comment\n")
    (policies / "more.yml").write_text("version: 1\ntasks: {u: {ladder: [small]}}\n")
    changed = {path.name: path.read_bytes() for path in policies.glob("*.yml")}
    _look(router)
    router.route("t", "p")

    refused = _command("rollback", first, "--policies", str(policies), stdin="n\n")
    assert (refused.exit_code, "nothing was changed" in refused.output) == (1, True)
    assert {path.name: path.read_bytes() for path in policies.glob("*.yml")} == changed

    done = _command("rollback", first[:6], "--yes", "--json", "--policies", str(policies))
    assert done.exit_code == 0
    report = json.loads(done.output)
    assert {path.name: path.read_bytes() for path in policies.iterdir()} == texts
    assert report["removed"] == [str(policies / "more.yml")]
    assert {path.name: path.read_bytes() for path in Path(report["saved"]).iterdir()} == changed
    _look(router)
    assert router.route("t", "p").model == "small"
    assert load(policies).policy_hash == first


def test_a_rollback_mends_a_broken_policy(router: Router, policies: Path, home: Path) -> None:
    """It is needed most when the present files cannot be read; they are saved all the same."""
    first = load(policies).policy_hash
    (policies / "tasks.yml").write_text("half a fi")
    done = restore(home, first, source=policies, environment=None, draft="d")
    assert load(policies).policy_hash == first
    assert (done.saved / "tasks.yml").read_text() == "half a fi"


def test_a_rollback_writes_over_no_file_of_another_policy(tmp_path: Path, home: Path) -> None:
    """A copy of a folder, or of a file with another name, is refused where a single file is given."""
    folder = tmp_path / "pol"
    folder.mkdir()
    (folder / "a.yml").write_text(MODELS + _tasks("small").removeprefix("version: 1\n"))
    with Router(folder, home=home, backend=ScriptedModels({"small": "yes"})) as router:
        router.route("t", "p")
    (name,) = kept(home)
    (folder / "a.yml").write_text("# mine\n")
    (folder / "b.yml").write_text("# mine, too\n")
    for source in (folder / "b.yml", folder / "missing.yml"):
        with pytest.raises(PolicyError, match=rf"the copy of {name} holds a\.yml; give the folder or the file"):
            restore(home, name, source=source, environment=None, draft="d")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "a.yml": "# mine\n",
        "b.yml": "# mine, too\n",
    }
    assert restore(home, name, source=folder / "a.yml", environment=None, draft="d").written == (folder / "a.yml",)
    assert load(folder / "a.yml").policy_hash == name


def test_a_rollback_to_nothing_changes_nothing(router: Router, policies: Path, home: Path) -> None:
    """An unknown hash, a hash of several, and another environment are refused."""
    before = {path.name: path.read_bytes() for path in policies.glob("*.yml")}
    with pytest.raises(PolicyError, match="there is no copy of policy 'feedfeedfeedfeed'"):
        restore(home, "feedfeedfeedfeed", source=policies, environment=None, draft="d")
    (name,) = kept(home)
    (policies / "tasks.yml").write_text(_tasks("large"))
    _look(router)
    router.route("t", "p")
    shared = _command("rollback", "", "--yes", "--policies", str(policies))
    assert (shared.exit_code, "is the beginning of" in shared.output) == (2, True)
    (home / "policies" / name / "prod.yml").write_text("environment: prod\ntasks: {t: {ladder: [large]}}\n")
    with pytest.raises(PolicyError, match="give --env as it was"):
        restore(home, name, source=policies, environment="prod", draft="d")
    (policies / "tasks.yml").write_bytes(before["tasks.yml"])
    assert {path.name: path.read_bytes() for path in policies.glob("*.yml")} == before


@pytest.mark.parametrize("now", [_tasks("large"), "half a fi"], ids=["another policy", "no policy"])
def test_no_copy_has_a_hash_that_is_not_its_own(now: str, policies: Path, home: Path) -> None:
    """Files that changed between the load and the first call are not kept as what was loaded."""
    with Router(policies, home=home, backend=ScriptedModels({"small": "yes"})) as router:
        (policies / "tasks.yml").write_text(now)
        router.route("t", "p")
    assert list((home / "policies").iterdir()) == []


def test_a_copy_of_an_environment_is_kept(policies: Path, home: Path) -> None:
    """By its hash with the overlay."""
    (policies / "prod.yml").write_text("environment: prod\ntasks: {t: {ladder: [large]}}\n")
    with Router(policies, environment="prod", home=home, backend=ScriptedModels({"large": "yes"})) as router:
        router.route("t", "p")
    assert kept(home) == {load(policies, environment="prod").policy_hash}


def test_a_copy_is_written_once_and_whole(policies: Path, home: Path) -> None:
    """By whichever of the processes was first; a home that cannot be written is no reason to refuse a call."""
    for _ in range(2):
        with Router(policies, home=home, backend=ScriptedModels({"small": "yes"})) as router:
            router.route("t", "p")
    assert [path.name for path in (home / "policies").iterdir()] == [load(policies).policy_hash]
    blocked = home / "blocked"
    blocked.mkdir()
    (blocked / "policies").write_text("in the way")
    with Router(policies, home=blocked, backend=ScriptedModels({"small": "yes"})) as router:
        assert router.route("t", "p").text == "yes"
