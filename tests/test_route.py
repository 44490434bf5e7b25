"""The public door: what an answer says, and how options of a call act, on scripted models and a simulated world."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import router as package
from router import Answer, Policy, Router
from router.core.call import Call, Failure, Reply, Usage
from router.core.faults import Fault
from router.core.policy import Model, Price, Task
from router.errors import ContentFiltered, CostLimitExceeded, DeadlineExceeded, RequestRefused
from router.testing import ScriptedModels, SimulatedWorld, capture, no_network
from router.world import World
from tests.support import make_policy, read_table

TEXT_PRICE = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))
LABELS = {"answer": {"choice": ["yes", "no"]}}


def _reply(text: str, input_tokens: int = 10, output_tokens: int = 1, **fields: Any) -> Reply:
    return Reply(text, Usage(input_tokens=input_tokens, output_tokens=output_tokens), **fields)


def _router(scripts: Any, task: Any = None, **options: Any) -> tuple[Router, ScriptedModels]:
    world = options.setdefault("world", SimulatedWorld())
    models = ScriptedModels(scripts, latency_s=options.pop("latency_s", None), clock=world.clock)
    return Router(make_policy(task or LABELS), backend=models, **options), models


def test_an_accepted_draft_says_everything_about_itself() -> None:
    """Text, value, model, confidence and its source, costs and the estimated baseline of one call."""
    router, _ = _router({"small": _reply("Yes.", model_served="small-0613")})
    answer = router.route("t", "Is it?")
    assert (str(answer), answer.parsed, answer.model, answer.rung) == ("Yes.", "yes", "small", 0)
    assert answer.confidence == pytest.approx(0.85)
    assert answer.confidence_source == "prior"
    assert (answer.escalated, answer.reason) == (False, "confidence 0.850 is at or above 0.800")
    assert answer.message == {"role": "assistant", "content": "Yes."}
    assert (answer.finish_reason, answer.tool_calls) == ("stop", ())
    assert answer.usage == Usage(input_tokens=10, output_tokens=1)
    # 10 tokens at 100 and one at 400 nano-dollars; the top rung's are 2,000 and 8,000.
    assert (answer.cost_nusd, answer.marginal_cost_nusd) == (1_400, 0)
    assert (answer.baseline_cost_nusd, answer.baseline_source) == (28_000, "estimated")
    assert (answer.cost_usd, answer.marginal_cost_usd, answer.baseline_cost_usd) == (1.4e-6, 0.0, 2.8e-5)
    (attempt,) = answer.attempts
    assert (attempt.model_asked, attempt.model_served, attempt.number) == ("openai/small", "small-0613", 1)


def test_an_escalation_shows_what_it_added() -> None:
    """The marginal cost is everything after the first rung; the baseline is the top rung's, as sure as its requests."""
    router, _ = _router({"small": _reply("perhaps"), "large": [Failure(Fault.SERVER_ERROR), _reply("no")]})
    answer = router.route("t", "Is it?")
    assert (answer.text, answer.rung, answer.escalated) == ("no", 1, True)
    assert [(step.model, step.action, step.reason) for step in answer.steps] == [
        ("small", "escalate", "the draft names none of the 2 labels"),
        ("large", "accept", "last rung"),
    ]
    assert (answer.cost_nusd, answer.marginal_cost_nusd) == (1_400 + 28_000, 28_000)
    assert (answer.baseline_cost_nusd, answer.baseline_source) == (28_000, "estimated")
    # The failed request may have been billed: it is in the upper bound and nowhere else.
    failed = answer.attempts[1].amount
    assert (failed.state, failed.nusd) == ("maybe_billed", 0)
    assert answer.cost_upper_nusd == 1_400 + 28_000 + (failed.upper_nusd or 0)


def test_low_confidence_on_the_last_rung_is_an_answer() -> None:
    """Nothing is above the last rung: its answer comes back and says how sure it is."""
    router, _ = _router({"small": _reply("perhaps"), "large": _reply("perhaps")})
    answer = router.route("t", "Is it?")
    assert (answer.text, answer.parsed, answer.rung) == ("perhaps", None, 1)
    assert answer.confidence < 0.2
    assert answer.reason == "last rung; the answer names none of the 2 labels"


def test_log_probabilities_decide_where_there_are_any() -> None:
    """A draft that the model itself found unlikely climbs."""
    router, _ = _router({"small": [_reply("yes", logprobs=(-0.01,)), _reply("yes", logprobs=(-1.2,))], "large": "yes"})
    assert [router.route("t", "Is it?").rung for _ in range(2)] == [0, 1]


def test_a_calibrator_file_replaces_the_prior(tmp_path: Path) -> None:
    """The tuned artefact decides, and the answer names it as its source."""
    policies = tmp_path / "policies"
    (policies / "tuned").mkdir(parents=True)
    (policies / "p.yml").write_text(
        "version: 1\nmodels: {small: {litellm: a/small}, large: {litellm: a/large}}\n"
        "tasks: {t: {ladder: [small, large], answer: {choice: ['yes', 'no']}}}\n"
    )
    calibrator = {"signals": ["output_chars"], "center": [3], "scale": [1], "weights": [-2], "intercept": 2}
    models = [{"model": "small", "litellm": "a/small", "calibrators": [calibrator]}]
    artefact = policies / "tuned" / "t.json"
    artefact.write_text(json.dumps({"version": 1, "task": "t", "models": models}))
    router = Router(policies, backend=ScriptedModels({"small": ["yes", "yes, yes!"], "large": "no"}))
    first, second = (router.route("t", "Is it?") for _ in range(2))
    assert (first.rung, round(first.confidence, 3)) == (0, 0.881)
    assert first.confidence_source.startswith("tuned:")
    assert (second.rung, second.confidence_source) == (1, "prior")
    assert second.steps[0].confidence_source == first.confidence_source


def test_a_deadline_bounds_the_whole_call() -> None:
    """Rungs, retries and pauses share one deadline; a usable draft is kept when it passes."""
    router, _ = _router(
        {"small": _reply("yes", logprobs=(-2.0,)), "large": "no"}, latency_s={"small": 3.0, "large": 3.0}
    )
    kept = router.route("t", "Is it?", deadline_s=4.0)
    assert (kept.text, kept.rung, kept.steps[-1].action) == ("yes", 0, "keep")
    assert kept.latency_ms == pytest.approx(4000)
    with pytest.raises(DeadlineExceeded, match=r"no usable answer within 2.0 s .*raise deadline_s") as caught:
        router.route("t", "Is it?", deadline_s=2.0)
    assert [attempt.fault for attempt in caught.value.attempts] == [Fault.TIMEOUT]


def test_a_cost_limit_is_never_passed() -> None:
    """A request that could break the limit is not sent: the draft is kept, or the error says what is needed."""
    router, models = _router({"small": _reply("yes", logprobs=(-2.0,)), "large": "no"})
    kept = router.route("t", "Is it?", max_cost_usd=0.0001)
    assert (kept.text, kept.rung, [call.name for call in models.history]) == ("yes", 0, ["small"])
    with pytest.raises(CostLimitExceeded, match=r"a request to .small. can cost") as caught:
        router.route("t", "Is it?", max_cost_usd=1e-9)
    assert caught.value.limit_usd == 1e-9
    assert caught.value.needed_usd is not None
    assert len(models.history) == 1


def test_a_cost_limit_needs_a_known_price() -> None:
    """What cannot be bounded cannot be promised: the error says what to add."""
    policy = make_policy({"max_output_tokens": None})
    router = Router(policy, backend=ScriptedModels({"small": "yes"}))
    with pytest.raises(CostLimitExceeded, match="has no bound: its longest output is unknown"):
        router.route("t", "Is it?", max_cost_usd=1.0)


IMAGE: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
]


@pytest.mark.parametrize(
    ("model", "task", "prompt", "says"),
    [
        ({}, {}, "hi", "its price is unknown; give the model a `price:`, or `ScriptedModels(price=...)` in a test"),
        ({"price": TEXT_PRICE}, {}, IMAGE, "the prompt holds an image, sound or file, and nothing says how many"),
        ({"price": Price(gpu_second_usd=Decimal(1))}, {}, "hi", "priced by the second; give the task a `deadline_s:`"),
        ({"price": replace(TEXT_PRICE, up_to_input_tokens=1)}, {}, "hi", "give the model `tiers:` in its `price:`"),
        ({"price": TEXT_PRICE}, {"max_output_tokens": None}, "hi", "its longest output is unknown"),
    ],
    ids=["price", "image", "seconds", "length", "output"],
)
def test_a_cost_limit_says_what_it_lacks(model: Any, task: Any, prompt: Any, says: str) -> None:
    """Each missing bound by itself, with what helps."""
    models = {"m": Model(litellm="m", **model)}
    tasks = {"t": Task(ladder=("m",), **{"max_output_tokens": 10, **task})}
    router = Router(Policy(version=1, models=models, tasks=tasks), backend=ScriptedModels({"m": "yes"}))
    with pytest.raises(CostLimitExceeded, match=re.escape(says)):
        router.route("t", prompt, max_cost_usd=1.0)


def test_scripted_models_may_have_a_price() -> None:
    """So that tests of tasks with cost limits need no price in the policy."""
    policy = Policy(version=1, models={"m": Model(litellm="m")}, tasks={"t": Task(ladder=("m",), max_output_tokens=10)})
    models = ScriptedModels({"m": "yes"}, price=TEXT_PRICE)
    answer = Router(policy, backend=models).route("t", "hi", max_cost_usd=1.0)
    assert answer.cost_nusd == 1_000 + 2_000
    assert answer.attempts[0].price_source == "script"


def test_images_are_bounded_by_what_the_vendor_says() -> None:
    """A limit that a thousand tokens keep admits one such image and not two."""
    models = {"m": Model(litellm="m", price=TEXT_PRICE, image_tokens=1000)}
    policy = Policy(version=1, models=models, tasks={"t": Task(ladder=("m",), max_output_tokens=10)})
    router = Router(policy, backend=ScriptedModels({"m": "yes"}))
    assert router.route("t", IMAGE, max_cost_usd=0.0012).text == "yes"
    with pytest.raises(CostLimitExceeded, match=r"can cost 0\.002"):
        router.route("t", [{"role": "user", "content": IMAGE[0]["content"] * 2}], max_cost_usd=0.0012)


def test_an_unknown_price_is_no_free_call() -> None:
    """A model without a price costs `None`, in the answer and in its row, and never 0."""
    policy = make_policy()
    for model in policy.models.values():
        object.__setattr__(model, "price", type(model.price)())
    answer = Router(policy, backend=ScriptedModels({"small": "yes"})).route("t", "Is it?")
    assert (answer.cost_usd, answer.marginal_cost_usd, answer.baseline_cost_usd) == (None, 0.0, None)
    assert answer.attempts[0].amount.state == "unknown"


def test_the_callers_mistake_raises_at_once() -> None:
    """A request that a provider calls invalid is not tried on dearer models; its words are kept apart."""
    refused = Failure(Fault.BAD_REQUEST, status=400, provider_message="you said PROMPT")
    router, models = _router({"small": refused, "large": "yes"})
    with pytest.raises(RequestRefused) as caught:
        router.route("t", "PROMPT")
    assert (caught.value.status, caught.value.provider_message) == (400, "you said PROMPT")
    assert "PROMPT" not in str(caught.value)
    assert len(models.history) == 1


@pytest.mark.parametrize(("on_filter", "rung"), [("raise", None), ("climb", 1)])
def test_the_policy_says_what_a_content_filter_leads_to(on_filter: str, rung: int | None) -> None:
    """Raise, or ask the next vendor."""
    router, _ = _router({"small": Failure(Fault.CONTENT_FILTER), "large": "yes"}, {**LABELS, "on_filter": on_filter})
    if rung is None:
        with pytest.raises(ContentFiltered, match="set `on_filter: climb`"):
            router.route("t", "Is it?")
    else:
        assert router.route("t", "Is it?").rung == rung


def test_system_text_parameters_and_limits_reach_the_model() -> None:
    """A call is the policy's system text, the caller's prompt, and parameters of task, call and model in that order."""
    task = {**LABELS, "system": "Be brief.", "params": {"temperature": 0.5, "top_p": 0.9}}
    router, models = _router({"small": "yes"}, task)
    router.route("t", "Is it?", params={"temperature": 0.1, "max_tokens": 7})
    (call,) = models.history
    assert [message["content"] for message in call.messages] == ["Be brief.", "Is it?"]
    assert (dict(call.params), call.max_output_tokens) == ({"temperature": 0.1, "top_p": 0.9}, 7)


def test_messages_are_passed_on_as_they_are() -> None:
    """A conversation keeps its own system text, and the caller's list is not changed."""
    messages = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Is it?"}]
    before = copy.deepcopy(messages)
    router, models = _router({"small": "yes"}, {**LABELS, "system": "The task's."})
    router.route("t", messages)
    assert list(models.history[0].messages) == messages == before


def test_who_a_call_belongs_to_is_on_record(home: Path) -> None:
    """Feature and tenant as given, user and session as fingerprints, metadata as it is."""
    router, _ = _router({"small": "yes"}, world=World())
    router.route("t", "Is it?", feature="inbox", user="ann", tenant="acme", session="s1", metadata={"lang": "en"})
    (row,) = read_table(home, "routes")
    assert (row["feature"], row["tenant"], json.loads(row["metadata"])) == ("inbox", "acme", {"lang": "en"})
    assert {len(row["user"]), len(row["session"])} == {16}
    assert row["user"] != row["session"]
    everything = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"ann" not in everything
    assert b"Is it?" not in everything


def test_an_answer_survives_pickling_and_copying() -> None:
    """Answers travel between processes."""
    router, _ = _router({"small": _reply("yes")})
    answer = router.route("t", "Is it?")
    assert pickle.loads(pickle.dumps(answer)) == answer == copy.deepcopy(answer)


def test_the_default_router_reads_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """`router.route` and `router.aroute` use one router, made from ROUTER_POLICIES and ROUTER_HOME on first use."""
    import router.default

    (tmp_path / "p.yml").write_text(
        "version: 1\nmodels: {m: {litellm: openai/m, api_base: 'http://127.0.0.1:9'}}\ntasks: {t: {ladder: [m]}}\n"
    )
    monkeypatch.setenv("ROUTER_POLICIES", str(tmp_path))
    monkeypatch.setattr(router.default, "_default", None)
    with no_network():
        with pytest.raises(package.RouterError, match="inside no_network"):
            package.route("t", "hi")
        with pytest.raises(package.RouterError, match="inside no_network"):
            asyncio.run(package.aroute("t", "hi"))
    first = router.default.default_router()
    assert first is router.default.default_router()
    assert len(read_table(home, "routes")) == 2
    first.close()


def test_context_managers_close_and_a_closed_router_can_be_used(home: Path) -> None:
    """`with` and `async with` close the segment; a later call opens a new one."""

    async def main() -> Answer:
        async with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router:
            return await router.aroute("t", "Is it?")

    assert asyncio.run(main()).text == "yes"
    router = Router(make_policy(), backend=ScriptedModels({"small": "yes"}))
    for _ in range(2):
        with router:
            router.route("t", "Is it?")
    assert len(read_table(home, "routes")) == 3


def test_many_calls_at_once_keep_apart() -> None:
    """Concurrent calls of one router get their own answers, attempts and events."""

    def echo(call: Call) -> str:
        return str(call.messages[-1]["content"])

    router, _ = _router({"small": echo}, {"answer": {"text": {}}})

    async def main() -> list[Answer]:
        return list(await asyncio.gather(*(router.aroute("t", f"answer {n}") for n in range(100))))

    with capture() as events:
        answers = asyncio.run(main())
    assert [answer.text for answer in answers] == [f"answer {n}" for n in range(100)]
    assert len({answer.route_id for answer in answers}) == len(events) == 100
    assert {len(answer.attempts) for answer in answers} == {1}
