"""Bad input at the public door: a clear typed error that names value, place and remedy, and nothing lost."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router import Router, RouterWarning
from router.audit import audit
from router.core.call import Failure
from router.core.faults import Fault
from router.errors import InvalidCall, LadderExhausted, LedgerError, PolicyError, ReplayMiss, UnknownTask, shown
from router.models.replay import Replay
from router.testing import ScriptedModels, capture
from tests.support import make_policy, read_table
from tests.upstream import Upstream


def _router(scripts: Any = None, **task: Any) -> tuple[Router, ScriptedModels]:
    models = ScriptedModels(scripts or {"small": "yes", "large": "yes"})
    return Router(make_policy(task), backend=models), models


def test_an_unknown_task_suggests_the_nearest(home: Path) -> None:
    """The error names what was asked, the nearest task and all there are; nothing is recorded."""
    router = Router("policies", backend=ScriptedModels({}))
    with pytest.raises(UnknownTask, match="did you mean 'classify-ticket'") as caught:
        router.route("clasify-ticket", "hello")
    assert caught.value.known == ("answer-question", "classify-ticket", "extract-invoice")
    assert not home.exists()


@pytest.mark.parametrize("prompt", ["", "  \n\t", [], [{"role": "user", "content": ""}]], ids=repr)
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    """A prompt without text sends nothing."""
    router, models = _router()
    with pytest.raises(InvalidCall, match=r"prompt: is empty; give some text") as caught:
        router.route("t", prompt)
    assert (caught.value.argument, models.history) == ("prompt", [])


@pytest.mark.parametrize("prompt", [7, None, b"bytes", [{"content": "x"}], ["text"], {"role": "user"}], ids=repr)
def test_a_prompt_of_another_type_is_refused(prompt: Any) -> None:
    """Neither text nor chat messages: the error says what to give."""
    router, models = _router()
    with pytest.raises(InvalidCall, match=r"^prompt: .*; give "):
        router.route("t", prompt)
    assert models.history == []


def test_a_prompt_over_the_limit_is_refused_before_anything_is_sent() -> None:
    """The error names the limit and the task."""
    router, models = _router(max_input_tokens=50)
    with pytest.raises(InvalidCall, match="longer than the 50 tokens that task 't' takes"):
        router.route("t", "word " * 500)
    assert models.history == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline_s": 0}, r"deadline_s: is 0; give a number above 0"),
        ({"deadline_s": math.nan}, r"deadline_s: is nan"),
        ({"deadline_s": "4"}, r"deadline_s: is '4'"),
        ({"max_cost_usd": -1}, r"max_cost_usd: is -1"),
        ({"max_cost_usd": math.inf}, r"max_cost_usd: is inf"),
        ({"params": {"temprature": 0}}, r"params: 'temprature' cannot be set per call; did you mean 'temperature'\?"),
        ({"params": {"api_key": "secret"}}, r"params: 'api_key' cannot be set per call"),
        ({"params": {"max_tokens": 0}}, r"params: max_tokens is 0"),
        ({"feature": 3}, r"feature: is a int; give text"),
        ({"user": object()}, r"user: is a object; give text"),
        ({"deadline_s": 10**400}, r"deadline_s: is 1000+…; give a number above 0"),
        ({"max_cost_usd": 10**5000}, r"max_cost_usd: is a huge int; give a number above 0"),
        ({"params": {1: 2}}, r"params: 1 cannot be set per call; there is 'frequency_penalty'"),
        ({"params": [1]}, r"params: is a list; give a mapping"),
        ({"params": {"x" * 10**6: 1}}, r"params: 'x{59}… cannot be set per call"),
        ({"params": {"max_tokens": 10**400}}, r"params: max_tokens is 1000+…; give a whole number above 0"),
        ({"params": {"temperature": math.nan}}, r"params: holds something that is no JSON"),
        ({"params": {"temperature": 10**5000}}, r"params: holds something that is no JSON"),
        ({"params": {"stop": object()}}, r"params: holds something that is no JSON"),
        ({"params": {"stop": "\ud800"}}, r"params: holds something that is no JSON"),
        ({"metadata": ["a"]}, r"metadata: is a list; give a mapping"),
        ({"metadata": {"a": object()}}, r"metadata: holds something that is no JSON"),
        ({"metadata": {"a": math.nan}}, r"metadata: holds something that is no JSON"),
        ({"metadata": {"a": "x" * 5000}}, r"metadata: has \d+ characters of JSON; give at most 2000"),
    ],
    ids=lambda value: shown(value, 40),
)
def test_an_argument_that_cannot_be_used_is_named(options: dict[str, Any], message: str) -> None:
    """Each bad argument is an `InvalidCall` that names it, before anything is sent or recorded."""
    router, models = _router()
    with pytest.raises(InvalidCall, match=message) as caught:
        router.route("t", "hello", **options)
    assert caught.value.argument == next(iter(options))
    assert models.history == []
    assert "secret" not in str(caught.value)


def test_metadata_that_names_a_group_has_to_be_a_mapping(home: Path) -> None:
    """Also where a task's groups have plans of their own, which are looked up first."""
    router = Router(make_policy({"group": "tier"}), backend=ScriptedModels({"small": "yes"}), home=home)
    with pytest.raises(InvalidCall, match="metadata: is a str; give a mapping"):
        router.route("t", "hello", metadata="gold")  # type: ignore[call-overload]
    plan = replace(router.plan("t"), group="tier")
    assert plan.chosen("gold") is plan  # type: ignore[arg-type]


def test_no_policies_name_the_command_that_writes_some(tmp_path: Path) -> None:
    """A first call without policies says what to run."""
    with pytest.raises(PolicyError, match="run `router init`"):
        Router(tmp_path / "nowhere")


def test_a_missing_key_climbs_loudly_and_says_what_to_set(upstream: Upstream, monkeypatch: Any) -> None:
    """Without any key nothing is sent, the warning comes once for each rung, and the error says what to set."""
    monkeypatch.delenv("OPENAI_API_KEY")
    router = Router(make_policy(api_base=upstream.url))
    for expected in (2, 0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RouterWarning)
            with pytest.raises(LadderExhausted, match="environment variable OPENAI_API_KEY is not set"):
                router.route("t", "hello")
        ours = [str(one.message) for one in caught if one.category is RouterWarning]
        assert len(ours) == expected
        assert all("OPENAI_API_KEY is not set" in message for message in ours)
    assert upstream.bill() == []
    assert {row["state"] for row in read_table(Path(router._home), "attempts")} == {"settled"}


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A ledger folder that no user, root included, can make: it lies below a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "home"


def test_an_unwritable_ledger_alarms_once_and_calls_go_on(unwritable: Path) -> None:
    """By default the answer matters more than its record; the loss is said once, not swallowed."""
    router = Router(make_policy(), home=unwritable, backend=ScriptedModels({"small": "yes"}))
    lost = "cannot be written .*; calls are not recorded"
    with capture() as events, pytest.warns(RouterWarning, match=lost) as caught:
        answers = [router.route("t", "hello").text for _ in range(3)]
    assert answers == ["yes"] * 3
    assert len(caught) == 1
    assert [event["event"] for event in events].count("router.ledger_failed") == 1


@pytest.mark.filterwarnings("ignore::router.errors.RouterWarning")
def test_an_unwritable_ledger_refuses_where_the_policy_says_so(unwritable: Path) -> None:
    """With `on_failure: refuse` nothing is sent that cannot be recorded."""
    models = ScriptedModels({"small": "yes"})
    router = Router(make_policy(ledger={"on_failure": "refuse"}), home=unwritable, backend=models)
    with pytest.raises(LedgerError, match="was not sent; make the folder writable"):
        router.route("t", "hello")
    assert models.history == []


def _route_many(home: str, number: int) -> None:
    with Router(make_policy(), home=home, backend=ScriptedModels({"small": "yes"})) as router:
        for _ in range(number):
            router.route("t", "hello", feature=multiprocessing.current_process().name)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_processes_at_once_share_a_ledger_folder(home: Path, method: str) -> None:
    """Each process writes a segment of its own; the audit has the calls of both."""
    context: Any = multiprocessing.get_context(method)
    processes = [context.Process(target=_route_many, args=(str(home), 40), name=name) for name in ("one", "two")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert {row.key: row.calls for row in audit(home, by="feature").rows} == {"one": 40, "two": 40}
    assert len(list((home / "segments").iterdir())) == 2


def test_a_cancelled_coroutine_is_settled_and_stays_cancelled(upstream: Upstream, home: Path) -> None:
    """Cancelling a call cancels it: the request has a terminal row, the call a row and an event."""

    async def main() -> None:
        task = asyncio.create_task(router.aroute("t", "fault=timeout"))
        while not upstream.bill():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with capture() as events, Router(make_policy(api_base=upstream.url)) as router:
        asyncio.run(main())
    (attempt,) = read_table(home, "attempts")
    assert (attempt["fault"], attempt["state"]) == ("cancelled", "maybe_billed")
    assert 0 < attempt["cost_nusd"] < attempt["upper_nusd"]
    (route,) = read_table(home, "routes")
    assert (route["outcome"], route["upper_nusd"]) == ("aborted", attempt["upper_nusd"])
    assert [event["outcome"] for event in events] == ["aborted"]


def test_a_recording_with_a_broken_line_names_it(tmp_path: Path) -> None:
    """A broken line is an error with its number; nothing is skipped silently."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"model": "m", "prompt": "p", "response": "r"}\n{"model": "m", "pro\n')
    with pytest.raises(ValueError, match=rf"{path}:2: this line is no JSON .*; mend or delete it"):
        Replay.load(path)


def test_a_replay_miss_is_raised_and_recorded_as_not_sent(home: Path) -> None:
    """A prompt that the recording lacks is no model failure: it does not climb, and it cost nothing."""
    router = Router(make_policy(), backend=Replay([{"model": "openai/small", "prompt": "p", "response": "r"}]))
    with pytest.raises(ReplayMiss, match="holds no answer of 'openai/small' to this prompt"):
        router.route("t", "another prompt")
    (attempt,) = read_table(home, "attempts")
    assert (attempt["fault"], attempt["state"], attempt["cost_nusd"]) == ("not_sent", "settled", 0)


def test_a_check_that_raises_is_a_draft_that_is_not_usable() -> None:
    """A user's own check cannot take a paid answer down: the draft climbs and the class of the error is an event."""

    def check(value: object) -> bool:
        raise KeyError(value)

    models = ScriptedModels({"small": "yes", "large": "yes"})
    router = Router(make_policy(), backend=models, checks={"t": check})
    with capture() as events:
        answer = router.route("t", "hello")
    assert (answer.rung, answer.parsed) == (1, None)
    assert [event["error"] for event in events if event["event"] == "router.hook_failed"] == ["KeyError", "KeyError"]


def test_a_check_for_an_unknown_task_is_refused() -> None:
    """A misspelt task in `checks` would otherwise never run."""
    with pytest.raises(UnknownTask, match="unknown task 'tt'; did you mean 't'"):
        Router(make_policy(), checks={"tt": bool})


def test_a_bug_in_a_backend_is_a_bug_and_leaves_a_row(home: Path) -> None:
    """An exception that is no fault of the provider is not climbed past; the request is settled as maybe billed."""
    router, _ = _router({"small": ZeroDivisionError("bug")})
    with pytest.raises(ZeroDivisionError):
        router.route("t", "hello")
    (attempt,) = read_table(home, "attempts")
    assert (attempt["fault"], attempt["state"]) == ("crashed", "maybe_billed")


def test_a_backend_that_raises_stop_iteration_does_not_end_the_flow() -> None:
    """`StopIteration` from a backend is an error of the backend, not an answer."""
    router, _ = _router({"small": StopIteration("odd")})
    with pytest.raises((StopIteration, RuntimeError)):
        router.route("t", "hello")


def test_a_call_inside_an_except_block_settles_as_usual(home: Path) -> None:
    """What the caller is handling at the moment has no bearing on the record."""
    router, _ = _router({"small": Failure(Fault.TIMEOUT), "large": "yes"}, retry={"attempts": 1})
    try:
        raise PolicyError("the caller's own")
    except PolicyError:
        assert router.route("t", "hello").rung == 1
    assert [row["state"] for row in read_table(home, "attempts")] == ["maybe_billed", "settled"]


@pytest.mark.parametrize(
    "prompt",
    [
        "half \ud800",
        [{"role": "user", "content": [{"type": "text", "text": "half \udfff"}]}],
        [{"role": "user", "content": "hi", "x": object()}],
        [{"role": "user", "content": "hi", 1: 2}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"n": 10**5000}]}],
        [{"role": "user", "content": "hi", "n": math.nan}],
    ],
    ids=["surrogate", "surrogate_part", "object", "key", "endless", "nan"],
)
def test_a_prompt_that_no_provider_takes_is_refused(prompt: Any) -> None:
    """It fails before anything is sent, as the caller's fault; no rung is blamed or climbed past."""
    router, models = _router()
    with pytest.raises(InvalidCall, match="prompt: holds something that no provider takes, such as"):
        router.route("t", prompt)
    assert models.history == []


def test_an_unknown_task_with_a_huge_name_is_shortened() -> None:
    """A message is for people: it never repeats a megabyte."""
    router, _ = _router()
    with pytest.raises(UnknownTask) as caught:
        router.route("x" * 10**6, "hello")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("form", ["whole", "stream"])
def test_warnings_as_errors_do_not_reach_into_litellm(upstream: Upstream, form: str) -> None:
    """What litellm warns of is built when it is imported or let pass, so that no call fails that is paid for."""
    code = """
import sys, warnings
import litellm
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=ResourceWarning)
from router import Router
from tests.support import make_policy
with Router(make_policy({"ladder": ["large"]}, api_base=sys.argv[1])) as router:
    answer = router.route("t", "say=yes", stream=sys.argv[2] == "stream")
    print("".join(map(str, answer)) if sys.argv[2] == "stream" else answer.text)
"""
    command = [sys.executable, "-c", code, upstream.url, form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "yes\n"
    assert len(upstream.bill()) == 1


@pytest.mark.parametrize("name", ["my-model", "mymodel/x"])
@pytest.mark.parametrize("blocking", [True, False], ids=["sync", "async"])
def test_a_model_without_a_provider_is_the_rung_s_fault(name: str, blocking: bool, upstream: Upstream) -> None:
    """Nobody can be asked for it, and the request is sound: the call climbs, with one warning that says why."""
    policy = make_policy(api_base=upstream.url)
    object.__setattr__(policy.models["small"], "litellm", name)
    object.__setattr__(policy.models["small"], "api_base", None)
    with Router(policy) as router, pytest.warns(RouterWarning, match="begins with no provider that litellm knows"):
        answer = router.route("t", "hi") if blocking else asyncio.run(router.aroute("t", "hi"))
    assert (answer.model, answer.attempts[0].fault, answer.attempts[0].amount.nusd) == ("large", "not_found", 0)
