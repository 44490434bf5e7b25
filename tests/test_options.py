"""Options of a call: whose key and headers it has, who its cost belongs to, and what is wrong with a misspelt one."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from router import Answer, Router
from router.core.call import Message
from router.errors import CostLimitExceeded, InvalidCall, LadderExhausted, NoAnswer, RouterWarning
from router.options import attribute
from router.testing import ScriptedModels, SimulatedWorld, capture
from tests.support import make_policy, read_table
from tests.upstream import Upstream

PROVIDERS = pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
KEY = "sk-tenant-4711"


def _router(scripts: Any, task: Any = None) -> tuple[Router, ScriptedModels]:
    models = ScriptedModels(scripts)
    return Router(make_policy(task), backend=models, world=SimulatedWorld()), models


def _real(upstream: Upstream, task: Any = None, provider: str = "openai") -> Router:
    return Router(make_policy({"ladder": ["small"], **(task or {})}, api_base=upstream.url, provider=provider))


def _run(router: Router, how: str, prompt: str, **options: Any) -> str:
    """The text of one call in one of the three ways."""
    if how == "stream":
        return "".join(map(str, router.route("t", prompt, stream=True, **options)))
    awaited = how == "aroute"
    answer: Answer = (
        asyncio.run(router.aroute("t", prompt, **options)) if awaited else router.route("t", prompt, **options)
    )
    return answer.text


WAYS = pytest.mark.parametrize("how", ["route", "aroute", "stream"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("featur", "route() got an unexpected keyword argument 'featur'; did you mean 'feature'?"),
        ("temperature", "route() got an unexpected keyword argument 'temperature'; give params={'temperature': ...}"),
        ("max_tokens", "route() got an unexpected keyword argument 'max_tokens'; give params={'max_tokens': ...}"),
        ("api_key", "route() got an unexpected keyword argument 'api_key'; there is 'credentials', 'deadline_s', "),
    ],
)
def test_an_unknown_option_is_a_type_error_with_a_suggestion(option: str, message: str) -> None:
    """As Python says it of a function, and with the word that was meant."""
    router, models = _router({})
    given: dict[str, Any] = {option: KEY}
    with pytest.raises(TypeError) as caught:
        router.route("t", "hello", **given)
    assert str(caught.value).startswith(message)
    assert KEY not in str(caught.value)
    assert models.history == []


# Credentials


@PROVIDERS
@WAYS
def test_the_callers_key_is_sent_in_place_of_the_operators(
    upstream: Upstream, monkeypatch: Any, provider: str, how: str
) -> None:
    """By provider or by model, the model's own first; the next call has the operator's again."""
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "not-a-key")
    router = _real(upstream, provider=provider)
    for credentials in ({provider: KEY}, {"small": KEY}, {provider: "sk-other", "small": KEY}, None):
        _run(router, how, "say=yes", credentials=credentials)
    sent = [billed.headers["authorization"] for billed in upstream.bill()]
    assert sent == [f"Bearer {KEY}"] * 3 + ["Bearer not-a-key"]


@PROVIDERS
def test_one_tenants_key_is_never_used_for_another(upstream: Upstream, provider: str) -> None:
    """litellm keeps clients with their keys; calls of many tenants at once each carry their own."""
    router = _real(upstream, {"max_output_tokens": 99}, provider)

    def call(number: int) -> None:
        tenant = number % 7
        how = ("route", "aroute", "stream")[number % 3]
        _run(router, how, f"say=tenant_{tenant} id={number}", credentials={provider: f"sk-{tenant}"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(63)))
    bill = upstream.bill()
    assert len(bill) == 63
    for billed in bill:
        number = int(billed.message.rpartition("=")[2])
        assert billed.headers["authorization"] == f"Bearer sk-{number % 7}"


@WAYS
@pytest.mark.parametrize("fault", ["ok", "unauthorized", "bad_request", "cut", "reset"])
def test_a_key_is_nowhere_to_be_read(
    upstream: Upstream, home: Path, caplog: pytest.LogCaptureFixture, how: str, fault: str
) -> None:
    """Not in logs, events, the ledger, the answer or an error, whatever becomes of the call."""
    caplog.set_level(logging.DEBUG)
    router = _real(upstream, {"retry": {"attempts": 1}})
    seen: list[Any] = []
    with capture() as events, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            seen.append(_run(router, how, f"fault={fault} say=one_two_three", credentials={"openai": KEY}))
            seen.append(router.route("t", "say=yes", credentials={"openai": KEY}))
        except NoAnswer as error:
            seen += [error, error.args, vars(error), pickle.dumps(error)]
    router.close()
    told = [*map(repr, [*seen, *events, *warned]), *(record.getMessage() for record in caplog.records)]
    told += [path.read_bytes().decode("utf-8", "replace") for path in home.rglob("*") if path.is_file()]
    assert [text for text in told if KEY in text] == []
    assert f"Bearer {KEY}" in [billed.headers["authorization"] for billed in upstream.bill()]


def test_what_the_flow_holds_does_not_show_keys_or_headers() -> None:
    """Requests and calls are printed in tracebacks and debuggers."""
    router, models = _router({"small": "yes"}, {"ladder": ["small"]})
    router.route("t", "hello", credentials={"openai": KEY}, extra_headers={"X-Trace": "header-value"})
    (call,) = models.history
    assert (call.api_key, call.headers) == (KEY, {"X-Trace": "header-value"})
    assert KEY not in repr(call)
    assert "header-value" not in repr(call)


def test_a_refused_key_says_whose_it_was(upstream: Upstream) -> None:
    """The remedy is the caller's; the key itself is not repeated."""
    with (
        pytest.warns(RouterWarning, match="the caller's own key was refused"),
        pytest.raises(LadderExhausted) as caught,
    ):
        _real(upstream).route("t", "fault=unauthorized", credentials={"openai": KEY})
    assert "auth (HTTP 401): the caller's own key was refused" in str(caught.value)


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        ({"opnai": KEY}, "credentials: names something that is on no rung; did you mean 'openai'?"),
        ({KEY: "openai"}, "credentials: names something that is on no rung; there is 'large', 'openai', 'small'"),
        ({"openai": ""}, "credentials: the key for 'openai' is empty, or more than ASCII on one line"),
        ({"openai": " "}, "credentials: the key for 'openai' is empty, or more than ASCII on one line"),
        ({"openai": KEY + "\n"}, "credentials: the key for 'openai' is empty, or more than ASCII on one line"),
        ({"openai": KEY + "ü"}, "credentials: the key for 'openai' is empty, or more than ASCII on one line"),
        ({"openai": None}, "credentials: the key for 'openai' is empty, or more than ASCII on one line"),
        (KEY, "credentials: is a str; give a mapping"),
        ([KEY], "credentials: is a list; give a mapping"),
    ],
)
def test_bad_credentials_are_refused_without_repeating_them(credentials: Any, message: str) -> None:
    """Even where name and key are swapped, the message has no key."""
    router, models = _router({})
    with pytest.raises(InvalidCall) as caught:
        router.route("t", "hello", credentials=credentials)
    assert str(caught.value) == message
    assert (caught.value.argument, models.history) == ("credentials", [])


# Headers


@PROVIDERS
@WAYS
def test_extra_headers_reach_the_provider_over_the_models_own(upstream: Upstream, provider: str, how: str) -> None:
    """However they are written, the call's win; the policy's others stay."""
    router = _real(upstream, provider=provider)
    object.__setattr__(router.policy.models["small"], "headers", {"X-Team": "search", "X-App": "desk"})
    _run(router, how, "say=yes", extra_headers={"x-team": "billing", "X-Trace": "t1"})
    _run(router, how, "say=yes")
    first, second = (billed.headers for billed in upstream.bill())
    assert [first.get(name) for name in ("x-team", "x-app", "x-trace")] == ["billing", "desk", "t1"]
    assert [second.get(name) for name in ("x-team", "x-app", "x-trace")] == ["search", "desk", None]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        *(
            ({name: KEY}, f"extra_headers: {name!r} has a place of its own; use credentials=")
            for name in ("Authorization", "authorization", "X-API-Key", "api-key", "x-goog-api-key", "Cookie", "Host")
        ),
        *(
            (headers, f"extra_headers: {name!r} is no header; give a name and a text in ASCII, on one line")
            for name, headers in [
                ("X-A", {"X-A": "a\r\nAuthorization: Bearer x"}),
                ("X-A", {"X-A": 7}),
                ("X-A", {"X-A": "Jürgen"}),
                ("X-A\nB", {"X-A\nB": "x"}),
                ("X A", {"X A": "x"}),
                ("X-Ä", {"X-Ä": "x"}),
                ("X:", {"X:": "x"}),
                ("", {"": "x"}),
                (7, {7: "x"}),
            ]
        ),
        ([("X-A", "x")], "extra_headers: is a list; give a mapping"),
    ],
)
def test_headers_that_carry_keys_or_break_the_line_are_refused(headers: Any, message: str) -> None:
    """A header is text for the provider; who pays and where it goes is not decided there."""
    router, models = _router({})
    with pytest.raises(InvalidCall) as caught:
        router.route("t", "hello", extra_headers=headers)
    assert (str(caught.value), caught.value.argument, models.history) == (message, "extra_headers", [])


# Who it belongs to


def _who(home: Path) -> list[tuple[Any, Any, bool]]:
    return [(row["feature"], row["tenant"], row["user"] is not None) for row in read_table(home, "routes")]


def _plain() -> Router:
    return Router(make_policy({"threshold": 0.0}), backend=ScriptedModels({"small": "yes"}))


def test_a_block_says_who_its_calls_belong_to(home: Path) -> None:
    """Inner blocks add to outer ones, a call's own words win, and after the block it is over."""
    router = _plain()
    with attribute(feature="inbox", tenant="acme"):
        router.route("t", "hello")
        with attribute(user="ann", feature="search"):
            router.route("t", "hello")
            router.route("t", "hello", feature="export", tenant="other")
        with pytest.raises(KeyError), attribute(tenant="lost"):
            raise KeyError
        router.route("t", "hello")
    router.route("t", "hello")
    assert _who(home) == [
        ("inbox", "acme", False),
        ("search", "acme", True),
        ("export", "other", True),
        ("inbox", "acme", False),
        (None, None, False),
    ]


def test_tasks_inherit_a_block_and_threads_begin_without_one(home: Path) -> None:
    """Each task has its own from where it was made; what one says does not reach another."""
    router = _plain()

    async def serve(feature: str, ready: asyncio.Barrier) -> None:
        with attribute(feature=feature):
            await ready.wait()
            await router.aroute("t", "hello")

    async def main() -> None:
        ready = asyncio.Barrier(3)
        with attribute(tenant="acme"):
            await asyncio.gather(*(serve(feature, ready) for feature in "abc"))
            thread = threading.Thread(target=router.route, args=("t", "hello"))
            thread.start()
            thread.join()
            await asyncio.to_thread(router.route, "t", "hello")

    asyncio.run(main())
    who = _who(home)
    assert sorted(who[:3]) == [(feature, "acme", False) for feature in "abc"]
    assert who[3:] == [(None, None, False), (None, "acme", False)]


def test_a_stream_belongs_to_the_block_it_was_begun_in(home: Path) -> None:
    """Where it is read does not matter: web frameworks read it after the handler is done."""
    router = _plain()
    with attribute(feature="chat"):
        stream = router.route("t", "hello", stream=True)
    list(stream)
    assert _who(home) == [("chat", None, False)]


@pytest.mark.parametrize("name", ["feature", "user", "tenant", "session"])
def test_names_are_text(name: str) -> None:
    """A number that slips in is refused where it is said."""
    router, _ = _router({})
    given: dict[str, Any] = {name: 7}
    with pytest.raises(InvalidCall, match=f"{name}: is a int; give text"):
        router.route("t", "hello", **given)
    with pytest.raises(InvalidCall, match=f"{name}: is a int; give text"), attribute(**given):
        pass


# Content


def test_content_parts_pass_through_untouched() -> None:
    """Images, sound and files go to the model as the caller wrote them, and the caller's own are not changed."""
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}},
    ]
    prompt: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    router, models = _router({"small": "a cat"}, {"ladder": ["small"]})
    assert router.route("t", prompt).text == "a cat"
    assert list(models.history[0].messages) == prompt
    assert models.history[0].messages[1]["content"] is not parts


def test_an_image_has_no_bound_so_a_cost_limit_refuses_it() -> None:
    """Nobody can say beforehand how many tokens an image is; the message says what is missing."""
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
    router, models = _router({})
    with pytest.raises(CostLimitExceeded, match="the prompt holds an image, sound or file"):
        router.route("t", image, max_cost_usd=1.0)
    assert models.history == []
