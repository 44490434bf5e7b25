"""What this library relies on in litellm: an upgrade that changes it fails here and not in production."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import select
import socket
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.core.call import Call, Failure, Reply, Usage
from router.core.faults import Fault
from router.core.policy import Model, Price
from router.core.pricing import Rates, cost_nusd
from router.models.litellm import LiteLLM
from router.models.litellm_faults import EXCEPTIONS, classify
from router.models.litellm_library import library, resender
from router.models.litellm_replies import read_tokens, read_usage, served_tier
from tests.support import make_policy
from tests.upstream import Upstream


@pytest.fixture(scope="module")
def litellm() -> Any:
    """litellm as the library imports it."""
    return library()


def test_every_exception_class_has_a_fault(litellm: Any) -> None:
    """The table of faults knows each exception class that litellm has, or the one that it derives from."""
    classes = [kind for kind in vars(litellm.exceptions).values() if _is_exception(kind)]
    assert len(classes) > 20
    bases = {"OpenAIError", "APIError"}  # Everything derives from these, so that they say nothing.
    listed = set(EXCEPTIONS) - bases
    unknown = [kind.__name__ for kind in classes if not {one.__name__ for one in kind.__mro__} & listed]
    assert set(unknown) <= bases


def _is_exception(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Exception)


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.BAD_REQUEST),
        (401, Fault.AUTH),
        (402, Fault.PAYMENT),
        (403, Fault.FORBIDDEN),
        (404, Fault.NOT_FOUND),
        (408, Fault.TIMEOUT),
        (409, Fault.SERVER_ERROR),
        (413, Fault.CONTEXT_TOO_LONG),
        (418, Fault.BAD_REQUEST),
        (422, Fault.BAD_REQUEST),
        (429, Fault.RATE_LIMITED),
        (500, Fault.SERVER_ERROR),
        (504, Fault.TIMEOUT),
        (529, Fault.SERVER_ERROR),
        (200, Fault.MALFORMED),
        (None, Fault.SERVER_ERROR),
    ],
)
def test_the_status_decides_where_a_class_has_several_causes(litellm: Any, status: int | None, fault: Fault) -> None:
    """litellm raises `APIError` for many statuses; the status says what happened."""
    error = litellm.exceptions.APIError(status or 500, "text", "provider", "model")
    assert classify(error, status) is fault


def test_an_unknown_subclass_is_what_its_parent_is(litellm: Any) -> None:
    """A class that a later litellm derives from a known one keeps the parent's fault."""
    child = type("NewRateLimit", (litellm.exceptions.RateLimitError,), {})
    assert classify(child("text", "provider", "model"), 429) is Fault.RATE_LIMITED


def test_the_hooks_that_the_door_uses_exist(litellm: Any) -> None:
    """Resending, parts of streams, the cache of clients and the mark for unheard calls are where the door looks."""
    from litellm._internal_context import is_internal_call
    from litellm.llms.base_llm.base_model_iterator import BaseModelResponseIterator
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    assert callable(resender(AsyncHTTPHandler))
    assert callable(BaseModelResponseIterator._handle_string_chunk)
    assert callable(litellm.CustomStreamWrapper.raise_on_model_repetition)
    assert type(litellm.in_memory_llm_clients_cache)() is not None
    assert is_internal_call.get() is False


def test_exact_names_have_prices_and_similar_ones_have_none() -> None:
    """The price map is read by exact name; litellm would invent a price for a name that only looks like another."""
    backend = LiteLLM()
    known = backend.facts(Model(litellm="anthropic/claude-haiku-4-5"))
    assert known.price is not None
    assert known.price.input_usd_per_mtok == Decimal(1)
    assert known.price.cached_read_usd_per_mtok == Decimal("0.1")
    assert (known.context_tokens, known.max_output_tokens) == (200000, 64000)
    for name in ("anthropic/claude-haiku-99", "ollama/llama3", "hosted_vllm/llama-3.1-8b", "no/such-model"):
        assert backend.facts(Model(litellm=name)).price is None


def test_a_price_by_length_changes_for_the_whole_request() -> None:
    """Above 200,000 tokens every token of Gemini 2.5 Pro costs what long requests cost; xAI begins at that length."""
    price = LiteLLM().facts(Model(litellm="gemini/gemini-2.5-pro")).price
    assert price is not None
    assert cost_nusd(Usage(200_000, output_tokens=10), price) == 200_000 * 1_250 + 10 * 10_000
    assert cost_nusd(Usage(100_000, 100_001, output_tokens=10), price) == 100_000 * 2_500 + 100_001 * 250 + 10 * 15_000
    grok = LiteLLM().facts(Model(litellm="xai/grok-4.7")).price
    assert grok is not None
    assert cost_nusd(Usage(199_999), grok) == 199_999 * 2_000
    assert cost_nusd(Usage(200_000), grok) == 200_000 * 4_000


def test_a_service_tier_has_the_price_of_the_map() -> None:
    """Flex, priority and batch as listed; a tier that is not listed has no known price."""
    price = LiteLLM().facts(Model(litellm="openai/gpt-5.5")).price
    assert price is not None
    rates, usage = Rates(price), Usage(8000, output_tokens=1000)
    amounts = [rates.cost_nusd(usage, tier=tier) for tier in ("", "flex", "priority", "batch", "scale")]
    assert amounts == [70_000_000, 35_000_000, 175_000_000, 35_000_000, None]
    # No price is listed for priority beyond 272,000 tokens, where the usual one doubles.
    assert rates.cost_nusd(Usage(272_001), tier="priority") is None
    assert rates.cost_nusd(Usage(272_001), tier="flex") == 272_001 * 5_000


def test_the_tier_that_was_served_is_read_off_the_reply() -> None:
    """OpenAI says it beside the usage, Anthropic within it, and a speed and a place with a price of their own too."""
    from litellm.types.utils import ModelResponse
    from litellm.types.utils import Usage as Reported

    usage: Any = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    flex = ModelResponse(usage=Reported(**usage), service_tier="flex")
    assert served_tier(flex.usage, flex) == "flex"  # type: ignore[attr-defined]
    assert served_tier(Reported(**usage, service_tier="standard")) == ""
    assert served_tier(Reported(**usage, speed="fast", inference_geo="us")) == "fast-us"
    price = LiteLLM().facts(Model(litellm="anthropic/claude-opus-5-5")).price
    assert price is not None
    amounts = [Rates(price).cost_nusd(Usage(1000), tier=tier) for tier in ("", "fast", "us", "fast-us")]
    assert amounts == [4_000_000, 8_000_000, 4_400_000, 8_800_000]
    priority = LiteLLM().facts(Model(litellm="openai/gpt-6-sol")).price
    assert priority is not None
    assert Rates(priority).cost_nusd(Usage(1000), tier="fast") == 4_000_000


def test_sound_is_a_bucket_of_its_own() -> None:
    """What litellm reports of it is taken out of the text; cached sound counts as cached."""
    from litellm.types.utils import Usage as Reported

    counted = Reported(
        prompt_tokens=1500,
        completion_tokens=800,
        total_tokens=2300,
        prompt_tokens_details={"audio_tokens": 1000, "cached_tokens": 600},
        completion_tokens_details={"audio_tokens": 600, "reasoning_tokens": 0},
    )
    usage = read_usage(counted)
    assert usage == Usage(0, 600, output_tokens=200, input_audio_tokens=900, output_audio_tokens=600)
    assert usage.total_tokens == 2300


def test_sound_and_images_have_prices_of_their_own() -> None:
    """An image of a Gemini model costs ten times its text."""
    price = LiteLLM().facts(Model(litellm="gemini/gemini-3-pro-image")).price
    assert price is not None
    assert cost_nusd(Usage(60, output_image_tokens=1120), price) == 134_520_000
    spoken = LiteLLM().facts(Model(litellm="openai/gpt-audio-1.5")).price
    assert spoken is not None
    assert (
        cost_nusd(Usage(500, output_tokens=200, input_audio_tokens=1000, output_audio_tokens=600), spoken) == 73_650_000
    )


def test_importing_through_the_door_neither_calls_home_nor_reads_env_files(tmp_path: Path) -> None:
    """litellm's fetches of its price map and of tokenizers and its hunt for `.env` files are off; no thread is left."""
    (tmp_path / ".env").write_text("FROM_ENV_FILE=1\n")
    code = """
import os, sys, threading
asked = []
network = {"socket.connect", "socket.getaddrinfo"}
sys.addaudithook(lambda event, arguments: asked.append(event) if event in network else None)
from router.models.litellm_library import library
litellm = library()
for name in ("openai/gpt-5.5", "anthropic/claude-haiku-4-5", "hosted_vllm/Llama-3.1-8B", "huggingface/Llama-2"):
    litellm.token_counter(model=name, text="hello")
print(asked, "FROM_ENV_FILE" in os.environ, litellm.suppress_debug_info, threading.active_count())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False True 1"


def test_nothing_of_litellm_s_acts_by_default(litellm: Any) -> None:
    """Its settings that would change a request, ask another model or answer from a cache are off until set."""
    changes = ["drop_params", "modify_params", "pre_call_rules", "post_call_rules", "callbacks", "cache"]
    asks_again = ["num_retries", "num_retries_per_request", "fallbacks", "model_fallbacks", "context_window_fallbacks"]
    assert [name for name in changes + asks_again if getattr(litellm, name, None)] == []


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "anthropic"])
@pytest.mark.parametrize("blocking", [True, False], ids=["send", "asend"])
def test_a_picture_by_address_is_passed_on_unseen(upstream: Upstream, provider: str, blocking: bool) -> None:
    """The provider fetches it; this machine asks nobody but the provider."""
    root = upstream.root if provider == "anthropic" else upstream.url
    with socket.create_server(("127.0.0.1", 0)) as pictures:
        address = f"https://127.0.0.1:{pictures.getsockname()[1]}/a.png"
        parts = [{"type": "text", "text": "say=yes"}, {"type": "image_url", "image_url": {"url": address}}]
        model = Model(litellm=f"{provider}/small", api_base=root, price=Price())
        call = Call("small", model, ({"role": "user", "content": parts},), {}, 40, api_key="x")
        assert isinstance(_send(call, blocking), Reply)
        assert select.select([pictures], [], [], 0)[0] == []


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
@pytest.mark.parametrize("blocking", [True, False], ids=["send", "asend"])
@pytest.mark.parametrize("fault", ["rate_limited_bare", "server_error", "reset", "drop", "truncated", "html"])
def test_one_send_is_one_request(upstream: Upstream, provider: str, blocking: bool, fault: str) -> None:
    """Whatever goes wrong, no layer below ours sends a request a second time."""
    call = _call(upstream, provider, f"fault={fault},ok say=second")
    outcome = _send(call, blocking)
    assert isinstance(outcome, Failure)
    assert len(upstream.bill()) == 1


def _call(upstream: Upstream, provider: str, text: str, **params: Any) -> Call:
    model = Model(litellm=f"{provider}/small", api_base=upstream.url, price=Price())
    return Call("small", model, ({"role": "user", "content": text},), params, 40)


def _send(call: Call, blocking: bool) -> Reply | Failure:
    backend = LiteLLM()
    return backend.send(call, 5.0) if blocking else asyncio.run(backend.asend(call, 5.0))


def test_blocking_calls_keep_their_connection_whatever_time_is_left(upstream: Upstream) -> None:
    """Time limits that differ a little are one limit to litellm, which opens a connection for each new one."""
    backend = LiteLLM()
    for number in range(20):
        outcome = backend.send(_call(upstream, "openai", f"say=yes id={number}"), 9.91 + number / 1000)
        assert isinstance(outcome, Reply)
    assert len({billed.connection for billed in upstream.bill()}) == 1


def test_usage_comes_in_disjoint_buckets(upstream: Upstream) -> None:
    """Cached input and reasoning are parts of litellm's totals; here each token is in one bucket."""
    cached = _send(_call(upstream, "openai", "fault=cached say=yes " + "x" * 400), True)
    reasoning = _send(_call(upstream, "openai", "fault=reasoning say=yes"), True)
    assert isinstance(cached, Reply)
    assert isinstance(reasoning, Reply)
    billed_cached, billed_reasoning = upstream.bill()
    assert cached.usage == Usage(
        input_tokens=billed_cached.input_tokens, cached_read_tokens=billed_cached.cached_tokens, output_tokens=1
    )
    assert reasoning.usage is not None
    assert reasoning.usage.reasoning_tokens == billed_reasoning.reasoning_tokens == 7
    assert reasoning.usage.all_output_tokens == billed_reasoning.output_tokens


def test_log_probabilities_come_through(upstream: Upstream) -> None:
    """An exact 0.0 stays 0.0."""
    outcome = _send(_call(upstream, "openai", "fault=logprobs say=yes", logprobs=True), True)
    assert isinstance(outcome, Reply)
    assert outcome.logprobs == (-0.25, 0.0, -1.5)
    assert (outcome.token_bytes, outcome.margins) == ((5, 3, 4), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("token", "size", "margin"),
    [
        ({"token": "é", "bytes": [195], "top_logprobs": [{"logprob": -0.1}, {"logprob": -2.6}]}, 1, 2.5),
        ({"token": "é", "top_logprobs": [{"logprob": -2.6}, {"logprob": -0.1}, {"logprob": -9.0}]}, 2, 2.5),
        ({"token": "é", "bytes": None, "top_logprobs": [{"logprob": -math.inf}, {"logprob": 0.0}]}, 2, 20.0),
        ({"token": None, "top_logprobs": [{"logprob": -0.1}]}, None, None),
        ({"top_logprobs": [{"logprob": math.nan}, {"logprob": -0.1}, {"logprob": None}]}, None, None),
    ],
)
def test_a_reply_keeps_what_is_told_of_its_tokens(
    token: dict[str, Any], size: int | None, margin: float | None
) -> None:
    """Length and margin of each, of mappings and objects; none of them where one token does not tell."""
    from types import SimpleNamespace

    told = {**token, "logprob": -0.1}
    plain = {"token": "x", "logprob": -0.2, "top_logprobs": [{"logprob": -0.2}, {"logprob": -1.2}]}
    for tokens in ([plain, told], [SimpleNamespace(**plain), SimpleNamespace(**told)]):
        found = read_tokens(tokens)
        assert found["logprobs"] == (-0.2, -0.1)
        assert found["token_bytes"] == (None if size is None else (1, size))
        assert found["margins"] == (None if margin is None else (1.0, pytest.approx(margin)))


@pytest.mark.parametrize("callbacks", [False, True], ids=["unheard", "heard"])
def test_callbacks_of_the_application_are_still_called(litellm: Any, upstream: Upstream, callbacks: bool) -> None:
    """litellm's bookkeeping is skipped only where nobody registered a callback."""
    import threading

    heard = threading.Event()
    litellm.success_callback = [lambda *_: heard.set()] if callbacks else []
    try:
        outcome = _send(_call(upstream, "openai", "say=yes"), True)
        assert isinstance(outcome, Reply)
        assert heard.wait(timeout=5.0 if callbacks else 0.0) is callbacks
    finally:
        litellm.success_callback = []


def test_a_fork_after_use_gives_the_child_connections_of_its_own(upstream: Upstream, tmp_path: Path) -> None:
    """Parent and child that both used the router get their own answers, over different connections."""
    code = f"""
import os, sys
from router import Router
from tests.support import make_policy
router = Router(make_policy(api_base={upstream.url!r}))
assert router.route("t", "say=before").text == "before"
pid = os.fork()
name = "child" if pid == 0 else "parent"
texts = [router.route("t", f"fault=slow say={{name}}{{n}}").text for n in range(3)]
os.write(1, f"{{name}} {{texts}}\\n".encode())  # In one piece: two processes share the pipe.
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == [
        "child ['child0', 'child1', 'child2']",
        "parent ['parent0', 'parent1', 'parent2']",
    ]
    sides = {side: {b.connection for b in upstream.bill() if side in b.message} for side in ("child", "parent")}
    assert sides["child"] & sides["parent"] == set()


def test_a_missing_key_names_its_variable(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key nothing is sent, and the reason names the variable to set."""
    monkeypatch.delenv("OPENAI_API_KEY")
    unnamed = _send(_call(upstream, "openai", "say=yes"), True)
    named = _send(Call("s", Model(litellm="openai/small", api_key_env="MY_KEY", api_base=upstream.url), _HI), True)
    assert isinstance(unnamed, Failure)
    assert isinstance(named, Failure)
    assert [unnamed.fault, named.fault] == [Fault.AUTH, Fault.AUTH]
    assert unnamed.detail == "environment variable OPENAI_API_KEY is not set"
    assert named.detail == "environment variable MY_KEY is not set"
    assert upstream.bill() == []


_HI = ({"role": "user", "content": "hi"},)


def test_headers_and_parameters_reach_the_provider(upstream: Upstream) -> None:
    """What the policy says of a model is sent with each request, and the output limit of the task too."""
    policy = make_policy({"threshold": 0.0}, api_base=upstream.url)
    model = policy.models["small"]
    object.__setattr__(model, "headers", {"X-Team": "search"})
    with Router(policy) as router:
        router.route("t", "say=one_two_three", params={"max_tokens": 2})
    (billed,) = upstream.bill()
    assert (billed.headers["x-team"], billed.max_tokens) == ("search", 2)


def test_providers_that_resend_are_told_to_send_once(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """For some providers litellm drops `max_retries` unless it is let through, and would send three times."""
    monkeypatch.setenv("NVIDIA_NIM_API_KEY", "not-a-key")
    for blocking in (True, False):
        upstream.reset()
        outcome = _send(_call(upstream, "nvidia_nim", f"fault=server_error,ok id={blocking}"), blocking)
        assert isinstance(outcome, Failure)
        assert len(upstream.bill()) == 1


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 500},
        {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10},
        {"prompt_tokens": 10**400, "completion_tokens": 2, "total_tokens": 0},
        {"prompt_tokens": True, "completion_tokens": 2, "total_tokens": 3},
    ],
    ids=["another_total", "half", "absurd", "bool"],
)
def test_usage_that_cannot_be_is_no_usage(usage: dict[str, Any]) -> None:
    """Counts that do not add up settle nothing: the cost is then an estimate and says so."""
    from types import SimpleNamespace

    from router.models.litellm_replies import read_reply

    message = SimpleNamespace(content="yes")
    choice = SimpleNamespace(finish_reason="stop", message=message, logprobs=None)
    response = SimpleNamespace(choices=[choice], usage=SimpleNamespace(**usage, cost=True), model="m")
    reply = read_reply(response)
    assert isinstance(reply, Reply)
    assert (reply.usage, reply.reported_cost_nusd) == (None, None)


def test_the_applications_own_retries_do_not_multiply_ours(litellm: Any, upstream: Upstream) -> None:
    """`litellm.num_retries` is for the application's calls; one of ours stays one request."""
    litellm.num_retries = 2
    try:
        outcome = _send(_call(upstream, "openai", "fault=server_error,ok say=second"), True)
    finally:
        litellm.num_retries = None
    assert isinstance(outcome, Failure)
    assert len(upstream.bill()) == 1


@pytest.mark.parametrize(
    ("cost", "nusd"),
    [
        (0.006, 6_000_000),
        ({"input_tokens_cost": 0.001, "request_cost": 0.005, "total_cost": 0.006}, 6_000_000),
        ({"total_cost": None}, None),
        ({"total_cost": -1}, None),
        ({}, None),
        ("0.006", None),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["reply", "empty", "filtered", "no_choices"])
def test_the_provider_s_own_figure_is_read(kind: str, cost: Any, nusd: int | None) -> None:
    """As a number or as a list of parts with their sum, of a usable answer and of one that is not."""
    from litellm.types.utils import Choices, Message, ModelResponse, Usage

    from router.models.litellm_replies import read_reply

    choice = Choices(
        finish_reason="content_filter" if kind == "filtered" else "stop",
        message=Message(content="" if kind == "empty" else "yes"),
    )
    usage = Usage(prompt_tokens=10, completion_tokens=2, total_tokens=12, cost=cost)
    response = ModelResponse(choices=[choice], model="m")
    setattr(response, "usage", usage)  # noqa: B010 - as litellm does it
    if kind == "no_choices":
        response.choices = []
    outcome = read_reply(response)
    assert isinstance(outcome, Reply) is (kind == "reply")
    assert outcome.reported_cost_nusd == nusd
