"""The helpers that users test their own code with: scripted models, no network, captured events, a simulated world."""

from __future__ import annotations

import asyncio
import importlib
import math
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.core.call import Call, Failure, Reply, Usage
from router.core.faults import Fault
from router.core.policy import Price
from router.errors import DeadlineExceeded, InvalidCall, NetworkForbidden, PolicyError, RequestRefused, RouterError
from router.models import Facts
from router.testing import (
    Script,
    ScriptedModels,
    ScriptExhausted,
    SimulatedClock,
    SimulatedDisk,
    SimulatedWorld,
    capture,
    no_network,
    reply,
)
from tests.support import make_policy, read_table

LABELS = {"answer": {"choice": ["yes", "no"]}}
BUSY = Failure(Fault.RATE_LIMITED, status=429)


def _router(scripts: dict[str, Script], world: SimulatedWorld | None = None, **options: Any) -> Router:
    world = world or SimulatedWorld()
    models = ScriptedModels(scripts, clock=world.clock, **options)
    return Router(make_policy(LABELS), backend=models, world=world)


def _shout(call: Call) -> str:
    return "yes" if call.messages[-1]["content"].isupper() else "no"


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        ("yes", ["yes", "yes", "yes"]),
        (Reply("no", None), ["no", "no", "no"]),
        (["yes", Reply("no", None), "yes"], ["yes", "no", "yes"]),
        (("no", "no", "yes"), ["no", "no", "yes"]),
        (_shout, ["no", "yes", "no"]),
    ],
    ids=["text", "reply", "list", "tuple", "function"],
)
def test_a_script_is_a_reply_a_list_or_a_function(script: Script, texts: list[str]) -> None:
    """One reply for every request, one for each, or whatever a function makes of the call."""
    router = _router({"small": script})
    assert [router.route("t", prompt).text for prompt in ("hi", "HI", "hi")] == texts


def test_a_scripted_failure_is_what_the_model_came_to() -> None:
    """Faults are retried, climbed past or raised as real ones are."""
    refused = Failure(Fault.BAD_REQUEST, status=400, provider_message="no such parameter")
    router = _router({"small": [BUSY, BUSY], "large": ["yes", refused]})
    answer = router.route("t", "hi")
    assert [(attempt.model, attempt.fault) for attempt in answer.attempts] == [
        ("small", Fault.RATE_LIMITED),
        ("small", Fault.RATE_LIMITED),
        ("large", None),
    ]
    with pytest.raises(RequestRefused) as caught:
        _router({"small": refused}).route("t", "hi")
    assert caught.value.provider_message == "no such parameter"


@pytest.mark.parametrize("script", [KeyError("a bug"), [KeyError("a bug")]], ids=["always", "once"])
def test_a_scripted_exception_is_raised(script: Script) -> None:
    """For tests of what happens when a backend breaks."""
    with pytest.raises(KeyError, match="a bug"):
        _router({"small": script}).route("t", "hi")


def test_a_script_that_has_run_out_says_so() -> None:
    """A request too many is a mistake of the test: it raises, names the model, and does not climb."""
    router = _router({"small": ["yes"], "large": "no"})
    router.route("t", "hi")
    with pytest.raises(ScriptExhausted, match="the script of model 'small' has no reply left; add one") as caught:
        router.route("t", "hi")
    assert caught.value.model == "small"
    assert isinstance(caught.value, RouterError)


@pytest.mark.parametrize(("scripts", "there"), [({"large": "no"}, "large"), ({}, "none")], ids=["one", "none"])
def test_a_model_without_a_script_says_so(scripts: dict[str, Script], there: str) -> None:
    """A model that the test did not expect to be asked is no model that failed."""
    with pytest.raises(ScriptExhausted, match=f"no script for model 'small'; there is {there}"):
        _router(scripts).route("t", "hi")


def test_the_history_has_every_request_in_order() -> None:
    """Retries and climbs included, with what each model was sent."""
    models = ScriptedModels({"small": [BUSY, "maybe"], "large": "no"})
    router = Router(make_policy({**LABELS, "system": "Be brief."}), backend=models, world=SimulatedWorld())
    router.route("t", "hi", params={"temperature": 0.5})
    assert [call.name for call in models.history] == ["small", "small", "large"]
    assert models.history[0].messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    )
    assert (models.history[2].params, models.history[2].max_output_tokens) == ({"temperature": 0.5}, 40)


def test_a_text_carries_about_the_usage_of_a_real_reply() -> None:
    """Costs of scripted calls are of the right size without a word about tokens."""
    answer = _router({"small": "yes"}).route("t", "x" * 400)
    assert answer.usage == Usage(input_tokens=100, output_tokens=1)
    (attempt,) = answer.attempts
    assert (attempt.amount.state, attempt.model_served) == ("settled", "openai/small")
    call = Call("small", make_policy().models["small"], ({"role": "user", "content": ""},))
    assert reply("", call).usage == Usage(input_tokens=1)


def test_facts_stand_in_for_the_price_map() -> None:
    """A policy without prices gets them from the backend, by litellm name."""
    policy = make_policy()
    price = Price(**{name: value for name, value in _parts(policy.models["large"].price)})
    models = {**policy.models, "small": type(policy.models["small"])(litellm="openai/small")}
    facts = {"openai/small": Facts(price=price, context_tokens=50)}
    backend = ScriptedModels({"small": "yes", "large": "yes"}, facts=facts)
    router = Router(type(policy)(version=1, models=models, tasks=policy.tasks), backend=backend)
    answer = router.route("t", "x" * 40)
    assert answer.cost_nusd == 10 * 2000 + 8000
    assert router.route("t", "x" * 400).model == "large"


def _parts(price: Price) -> list[tuple[str, Any]]:
    return [(name, getattr(price, name)) for name in ("input_usd_per_mtok", "output_usd_per_mtok")]


@pytest.mark.parametrize("awaited", [False, True], ids=["route", "aroute"])
def test_latencies_pass_on_the_simulated_clock(awaited: bool) -> None:
    """A slow model takes its time there and none of ours; one that is too slow for the deadline times out at it."""
    world = SimulatedWorld()
    router = _router({"small": "maybe", "large": "no"}, world, latency_s={"small": 40.0, "large": 50.0})

    def route(**options: Any) -> Any:
        return asyncio.run(router.aroute("t", "hi", **options)) if awaited else router.route("t", "hi", **options)

    started = time.monotonic()
    answer = route()
    assert (answer.latency_ms, [attempt.latency_ms for attempt in answer.attempts]) == (90_000, [40_000, 50_000])
    with pytest.raises(DeadlineExceeded) as caught:
        route(deadline_s=60.0)
    assert [(attempt.fault, attempt.latency_ms) for attempt in caught.value.attempts] == [
        (None, 40_000),
        (Fault.TIMEOUT, 20_000),
    ]
    assert world.clock.monotonic() == 150
    assert time.monotonic() - started < 5


def test_a_request_that_times_out_uses_up_no_reply() -> None:
    """The next request gets the reply that the script has for it."""
    models = ScriptedModels({"small": ["yes"]}, latency_s={"small": 2.0}, clock=SimulatedClock())
    call = Call("small", make_policy().models["small"], ({"role": "user", "content": "hi"},))
    assert models.send(call, 1.0) == Failure(Fault.TIMEOUT)
    assert asyncio.run(models.asend(call, 1.0)) == Failure(Fault.TIMEOUT)
    outcome = models.send(call, 2.0)
    assert isinstance(outcome, Reply)
    assert outcome.text == "yes"
    assert len(models.history) == 3


def test_retries_on_a_simulated_clock_take_no_time() -> None:
    """Pauses are drawn from the seed, pass on the simulated clock, and a test does not wait for them."""
    world = SimulatedWorld(3)
    policy = make_policy({"retry": {"attempts": 8, "max_wait_s": 600}})
    models = ScriptedModels({"small": [BUSY] * 7 + ["yes"]}, clock=world.clock)
    started = time.monotonic()
    answer = Router(policy, backend=models, world=world).route("t", "hi")
    assert len(answer.attempts) == 8
    assert answer.latency_ms > 5000
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("awaited", [False, True], ids=["route", "aroute"])
def test_no_network_raises_before_anything_is_sent(awaited: bool, upstream: Any, home: Path) -> None:
    """A forgotten script costs nothing: the model is named, and the remedy; the ledger says it was not sent."""
    router = Router(make_policy(api_base=upstream.url))
    message = r"model 'small' \(openai/small\) was about to be asked inside no_network\(\); .*ScriptedModels"
    with no_network(), pytest.raises(NetworkForbidden, match=message):
        asyncio.run(router.aroute("t", "hi")) if awaited else router.route("t", "hi")
    assert upstream.bill() == []
    (attempt,) = read_table(home, "attempts")
    assert (attempt["fault"], attempt["state"], attempt["cost_nusd"]) == ("not_sent", "settled", 0)
    assert router.route("t", "say=yes").text == "yes"


def _forbidden() -> bool:
    # Read anew: the flag is the litellm door's own.
    return bool(importlib.import_module("router.models.litellm").network_forbidden)


def test_no_network_nests_and_is_lifted_by_the_outermost() -> None:
    """An inner block does not lift the outer one, and an exception lifts its own."""
    seen = []

    def nested() -> None:
        with no_network():
            with no_network():
                seen.append(_forbidden())
            seen.append(_forbidden())
            raise KeyError

    with pytest.raises(KeyError):
        nested()
    assert [*seen, _forbidden()] == [True, True, False]


def test_capture_hears_every_router_until_it_ends() -> None:
    """Events of all routers of the process, each capture with a list of its own; later ones are not heard."""
    one, other = _router({"small": "yes"}), _router({"small": "no"})
    with capture() as outer:
        one.route("t", "hi", feature="first")
        with capture() as inner:
            other.route("t", "hi", feature="second")
    one.route("t", "hi", feature="third")
    assert [event["feature"] for event in outer] == ["first", "second"]
    assert [event["feature"] for event in inner] == ["second"]
    assert [event["event"] for event in outer] == ["route", "route"]


def test_captures_of_equal_content_end_apart() -> None:
    """Two captures that heard the same are still two: the end of one does not end the other."""
    router = _router({"small": "yes"})
    first = capture()
    heard_first = first.__enter__()
    with capture() as heard_second:
        first.__exit__(None, None, None)
        router.route("t", "hi")
    assert (len(heard_first), len(heard_second)) == (0, 1)


def test_a_capture_ends_with_an_exception() -> None:
    """A failed test does not go on listening."""
    with pytest.raises(KeyError), capture() as events:
        raise KeyError
    _router({"small": "yes"}).route("t", "hi")
    assert events == []


def _history(seed: int) -> tuple[list[bytes], list[str]]:
    """A history with retries, climbs, failures and users: its segments, and its ids."""
    world = SimulatedWorld(seed)
    scripts: dict[str, Script] = {"small": [BUSY, "maybe", "yes", BUSY, BUSY], "large": ["no", BUSY, "yes"]}
    router = _router(scripts, world, latency_s={"large": 0.7})
    ids = [router.route("t", f"prompt {number}", user=f"user {number}").route_id for number in range(3)]
    return [bytes(content) for content in world.disk.files.values()], ids


def test_a_seed_is_a_history() -> None:
    """The same seed and the same calls give the same ids, pauses and ledger bytes; another seed gives others."""
    first, second, other = _history(1), _history(1), _history(2)
    assert first == second
    assert first[0] != other[0]
    assert set(first[1]) & set(other[1]) == set()
    assert len(first[0]) == 1


def test_a_history_does_not_hang_on_the_folder(home: Path) -> None:
    """A real ledger's secret in the same folder changes nothing in a simulated one."""
    before = _history(1)
    home.mkdir()
    (home / "secret").write_bytes(b"of the real ledger")
    assert _history(1) == before


def test_the_simulated_clock_moves_only_when_somebody_sleeps() -> None:
    """Wall clock and stop watch go together, forward by what was slept."""
    clock = SimulatedClock(1000.0)
    before = (clock.time(), clock.monotonic())
    clock.sleep(2.5)
    asyncio.run(clock.asleep(0.5))
    assert (before, clock.time(), clock.monotonic()) == ((1000.0, 0.0), 1003.0, 3.0)


def test_the_simulated_disk_cuts_what_does_not_fit() -> None:
    """A full disk takes a part of a row, as a real one does, and then nothing; a broken one raises."""
    disk = SimulatedDisk(free_bytes=5)
    file = disk.append(Path("a"))
    assert [file.write(b"abc"), file.write(b"def"), file.write(b"ghi")] == [3, 2, 0]
    file.sync()
    file.close()
    assert disk.files == {Path("a"): bytearray(b"abcde")}
    disk.error = OSError("unplugged")
    with pytest.raises(OSError, match="unplugged"):
        file.write(b"x")
    with pytest.raises(OSError, match="unplugged"):
        disk.append(Path("b"))


def test_the_fixture_makes_routers_on_scripted_models(
    scripted_router: Callable[..., Router], tmp_path: Path, home: Path
) -> None:
    """`scripted_router` takes scripts and policies, keeps a ledger in the test's folder, and closes what it made."""
    router = scripted_router({"small": ["yes"], "large": "no"}, make_policy(LABELS))
    assert router.route("t", "hi").text == "yes"
    assert len(read_table(tmp_path / "router-home", "routes")) == 1


def test_the_fixture_takes_models_with_a_history(scripted_router: Callable[..., Router], tmp_path: Path) -> None:
    """A test that looks at the requests brings the models, and may say where the ledger goes."""
    models = ScriptedModels({"small": "yes"})
    scripted_router(models, make_policy(LABELS), home=tmp_path / "elsewhere").route("t", "hi")
    assert [call.name for call in models.history] == ["small"]
    assert (tmp_path / "elsewhere" / "segments").is_dir()


def test_the_fixture_forbids_the_network(scripted_router: Callable[..., Router]) -> None:
    """A router that the code under test makes on its own asks no real model."""
    assert scripted_router({}, make_policy()).policy.tasks
    with pytest.raises(NetworkForbidden):
        Router(make_policy()).route("t", "hi")


def test_the_fixture_reads_policies_from_a_path(scripted_router: Callable[..., Router], tmp_path: Path) -> None:
    """What a user's own policies folder says is what is tested."""
    path = tmp_path / "p.yml"
    path.write_text("version: 1\nmodels: {m: {litellm: a/m}}\ntasks: {greet: {ladder: [m]}}\n")
    assert scripted_router({"m": "hello"}, policies=path).route("greet", "hi").text == "hello"


@pytest.mark.parametrize("said", [3, None, b"billing", {"a": "b"}, ["billing", 3]], ids=repr)
def test_a_script_of_another_type_is_refused(said: Any) -> None:
    """What no model can say is named with the model, and what it could say instead."""
    with pytest.raises(InvalidCall, match=r"scripts: model 'small' cannot say .*; give text, a Reply") as caught:
        _say_twice(said)
    assert caught.value.argument == "scripts"


def _say_twice(said: Any) -> None:
    with Router(make_policy(), backend=ScriptedModels({"small": said, "large": "b"})) as router:
        router.route("t", "hi")
        router.route("t", "hi")


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        (Price(request_usd=Decimal(-1)), "request_usd: should be greater than or equal to 0"),
        (Price(request_usd=Decimal("NaN")), "request_usd: should be a finite number"),
        (Price(input_usd_per_mtok=math.nan), "input_usd_per_mtok: should be a finite number"),  # type: ignore[arg-type]
        (Price(request_usd="cheap"), "request_usd: "),  # type: ignore[arg-type]
        ("0.01", "price: is .*; give a `Price`"),
    ],
)
def test_a_price_that_no_policy_could_have_is_refused(price: Any, problem: str) -> None:
    """Before any call: a negative one would give room back to every budget."""
    with pytest.raises(PolicyError, match=problem):
        ScriptedModels({"small": "yes"}, price=price)


@pytest.mark.parametrize("backend", [{}, {"small": "yes"}, "replay.jsonl"], ids=repr)
def test_a_backend_of_another_type_is_refused(backend: Any) -> None:
    """The scripts alone are no backend: the message says what to wrap them in, before any call."""
    with pytest.raises(InvalidCall, match=r"backend: is of type (?:dict|str); give .*ScriptedModels\(\{\.\.\.\}\)"):
        Router(make_policy(), backend=backend)
