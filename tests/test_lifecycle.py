"""A router through its life: used from everywhere, forked, switched to the top, told about, closed and used again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router import Router, RouterWarning
from router.cli.app import app
from router.errors import InvalidCall, LadderExhausted, PolicyError
from router.models.recording import parts_of, read_recording
from router.testing import ScriptedModels
from tests.support import make_policy, read_table
from tests.upstream import Upstream


@pytest.mark.parametrize("kind", ["preload", "prefork", "spawn"])
def test_servers_that_fork_and_spawn(kind: str, upstream: Upstream, home: Path) -> None:
    """Every call of every worker is on record once, and no worker's answer went to another."""
    command = [sys.executable, "-m", "tests.lifecycle_harness", kind, upstream.url, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    assert len({pid for pid, _ in said}) >= 3
    ids = [one for _, one in said]
    assert len(set(ids)) == len(ids)
    routes = {row["route_id"] for row in read_table(home, "routes") if row["outcome"] == "answered"}
    assert set(ids) <= routes
    settled = {row["route_id"] for row in read_table(home, "attempts") if row["state"] == "settled"}
    assert set(ids) <= settled
    if kind == "preload":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("router.models.recording.warn", lambda _: None)
            assert len(list(read_recording(home / "r.jsonl"))) >= len(ids)
        assert len(parts_of(home / "r.jsonl")) >= 3


def test_blocking_calls_work_inside_a_running_loop(upstream: Upstream, home: Path) -> None:
    """As in a notebook, whose loop always runs: whole, streamed and many at once."""
    with Router(make_policy({"ladder": ["large"]}, api_base=upstream.url), home=home) as router:

        async def cell() -> list[str]:
            whole = router.route("t", "say=yes").text
            with router.route("t", "say=yes", stream=True) as parts:
                streamed = "".join(map(str, parts))
            many = [one.answer.text for one in router.map("t", ["say=yes"] * 3) if one.answer]
            awaited = (await router.aroute("t", "say=yes")).text
            return [whole, streamed, awaited, *many]

        assert asyncio.run(cell()) == ["yes"] * 6


def test_several_loops_and_threads_share_a_router(upstream: Upstream, home: Path) -> None:
    """Each thread with a loop of its own and blocking calls between."""
    with Router(make_policy({"ladder": ["large"]}, api_base=upstream.url), home=home) as router:
        texts: list[str] = []

        def work() -> None:
            for _ in range(3):
                texts.append(asyncio.run(router.aroute("t", "say=yes")).text)
                texts.append(router.route("t", "say=yes").text)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert texts == ["yes"] * 24
    assert len(upstream.bill()) == 24


def test_a_closed_router_begins_anew(home: Path) -> None:
    """Closing twice, asynchronously, or before anything happened is fine; a later call opens new files."""
    router = Router(make_policy({"ladder": ["large"]}), home=home, backend=ScriptedModels({"large": "x"}))
    router.close()
    with router:
        router.route("t", "p")
    router.close()

    async def again() -> None:
        async with router:
            await router.aroute("t", "p")
        await router.aclose()

    asyncio.run(again())
    assert len(read_table(home, "routes")) == 2
    assert len(list((home / "segments").iterdir())) == 2


def _both(home: Path, **options: Any) -> Router:
    models = ScriptedModels({"small": "yes", "large": "no"})
    return Router(make_policy({"answer": {"choice": ["yes", "no"]}}), home=home, backend=models, **options)


def test_the_cascade_can_be_switched_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ROUTER_DISABLE=top` sends each call to the top rung, its row says why, and unsetting it is enough."""
    with _both(home) as router:
        assert router.route("t", "p").model == "small"
        monkeypatch.setenv("ROUTER_DISABLE", "top")
        answer = router.route("t", "p")
        with router.route("t", "p", stream=True) as parts:
            list(parts)
        monkeypatch.delenv("ROUTER_DISABLE")
        assert router.route("t", "p").model == "small"
    assert (answer.model, parts.answer.model, answer.cost_nusd) == ("large", "large", answer.baseline_cost_nusd)
    assert [(step.action, step.reason) for step in answer.steps] == [
        ("skip", "ROUTER_DISABLE=top sends every call to the top rung"),
        ("accept", "last rung"),
    ]
    reasons = [row["reason"] for row in read_table(home, "steps") if row["action"] == "skip"]
    assert reasons == ["ROUTER_DISABLE=top sends every call to the top rung"] * 2


def test_a_switch_that_says_something_else_is_not_overlooked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when the router is made nor later; an empty one is off."""
    monkeypatch.setenv("ROUTER_DISABLE", "")
    with _both(home) as router:
        router.route("t", "p")
        monkeypatch.setenv("ROUTER_DISABLE", "bottom")
        with pytest.raises(PolicyError, match="ROUTER_DISABLE: is 'bottom'; set it to 'top', or unset it"):
            router.route("t", "p")
    with pytest.raises(PolicyError, match="ROUTER_DISABLE"):
        _both(home)


def test_check_says_that_the_cascade_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody forgets it after the emergency."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(app, ["init"]).exit_code == 0
    monkeypatch.setenv("ROUTER_DISABLE", "top")
    checked = runner.invoke(app, ["check"])
    assert (checked.exit_code, "ROUTER_DISABLE=top is set" in checked.output) == (1, True)


def test_the_hook_is_told_of_every_call_once(home: Path) -> None:
    """Answered or not, with the fields of the event, whether or not anybody else listens."""
    seen: list[dict[str, Any]] = []
    models = ScriptedModels({"small": "yes", "large": ["x"]})
    policy = make_policy({"ladder": ["large"], "answer": {"choice": ["x", "y"]}, "retry": {"attempts": 1}})
    with Router(policy, home=home, backend=models, on_event=seen.append) as router:
        router.route("t", "p", feature="f\n")
        with pytest.raises(InvalidCall):
            router.route("t", "x" * 10, max_cost_usd=-1)
    assert [(one["event"], one["task"], one["outcome"], one["feature"]) for one in seen] == [
        ("route", "t", "answered", "f\ufffd")
    ]
    assert seen[0]["cost_usd"]


def test_a_hook_that_raises_takes_nothing_away(home: Path) -> None:
    """It is reported once; one that cannot be called, or only awaited, is refused at once."""

    def broken(event: dict[str, Any]) -> None:
        raise KeyError(event["task"])

    async def awaited(event: dict[str, Any]) -> None: ...

    with _both(home, on_event=broken) as router:
        with pytest.warns(RouterWarning, match="raised KeyError; the event is lost") as warned:
            texts = [router.route("t", "p").text for _ in range(3)]
        assert (texts, len(warned)) == (["yes"] * 3, 1)
    for wrong in (awaited, "print"):
        with pytest.raises(InvalidCall, match="on_event"):
            _both(home, on_event=wrong)


def test_a_switched_off_cascade_fails_with_its_top(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing below is asked in its place: that is what was switched off."""
    from router.core.faults import Fault
    from router.testing import Failure

    monkeypatch.setenv("ROUTER_DISABLE", "top")
    models = ScriptedModels({"small": "yes", "large": Failure(Fault.SERVER_ERROR)})
    policy = make_policy({"answer": {"choice": ["yes", "no"]}, "retry": {"attempts": 1}})
    with Router(policy, home=home, backend=models) as router, pytest.raises(LadderExhausted):
        router.route("t", "p")
    assert [call.name for call in models.history] == ["large"]
