"""`@routed` on functions that build prompts, and `attribute` around code that is far from the request."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import pytest

import router.default
from router import Answer, Router, RouterError, attribute, routed
from router.errors import InvalidCall
from router.testing import ScriptedModels
from tests.support import make_policy, read_table


@pytest.fixture
def models() -> ScriptedModels:
    """Models that always say the same."""
    return ScriptedModels({"small": "fine"})


@pytest.fixture
def client(models: ScriptedModels) -> Iterator[Router]:
    """A router on them."""
    with Router(make_policy(), backend=models) as made:
        yield made


@pytest.fixture
def shared(client: Router, monkeypatch: pytest.MonkeyPatch) -> Router:
    """The router that module-level functions use."""
    monkeypatch.setattr(router.default, "_default", client)
    return client


def _routes(home: Path, name: str) -> list[Any]:
    return [row[name] for row in read_table(home, "routes")]


def test_a_function_that_builds_a_prompt_gives_its_answer(shared: Router, models: ScriptedModels) -> None:
    """Called with its own arguments, it returns an `Answer`."""

    @routed("t")
    def ask(subject: str, *, tone: str = "kind") -> str:
        """Say something."""
        return f"Say something {tone} about {subject}"

    answer = ask("rain", tone="short")
    assert_type(answer, Answer)
    assert (str(answer), models.history[0].messages[-1]["content"]) == ("fine", "Say something short about rain")
    assert (ask.__name__, ask.__doc__) == ("ask", "Say something.")
    assert list(inspect.signature(ask).parameters) == ["subject", "tone"]


def test_an_async_function_is_awaited(client: Router, models: ScriptedModels) -> None:
    """An `async` function gives its answer when awaited."""

    @client.routed("t")
    async def ask(subject: str) -> list[dict[str, str]]:
        await asyncio.sleep(0)
        return [{"role": "user", "content": subject}]

    answer = asyncio.run(ask("rain"))
    assert answer.text == "fine"
    assert models.history[0].messages[-1]["content"] == "rain"


def test_the_nearest_options_win(client: Router, home: Path) -> None:
    """Options of the call win over those that the function returns, and these over the decorator's."""

    @client.routed("t", feature="decorator", tenant="decorator")
    def ask(subject: str) -> dict[str, Any]:
        return {"prompt": subject, "feature": "function", "session": "function"}

    @client.routed("t", feature="decorator")
    def plain(subject: str) -> str:
        return subject

    ask("one")
    ask.with_options(feature="call", metadata={"n": 2})("two")
    ask("three")
    plain("four")
    assert _routes(home, "feature") == ["function", "call", "function", "decorator"]
    assert _routes(home, "tenant") == ["decorator", "decorator", "decorator", None]
    assert _routes(home, "metadata") == ["null", '{"n": 2}', "null", "null"]


def test_a_method_is_decorated_like_a_function(client: Router, models: ScriptedModels) -> None:
    """In a class the instance is bound, and options still come before the call."""

    class Desk:
        language = "French"

        @client.routed("t")
        def ask(self, subject: str) -> str:
            return f"{subject} in {self.language}"

    desk: Any = Desk()
    assert (desk.ask("rain").text, desk.ask.with_options(user="ann")("snow").text) == ("fine", "fine")
    assert [call.messages[-1]["content"] for call in models.history] == ["rain in French", "snow in French"]


def test_no_router_is_made_before_the_first_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A decorator at import needs no policies yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(router.default, "_default", None)

    @routed("t")
    def ask() -> str:
        return "hello"

    with pytest.raises(RouterError, match="policies"):
        ask()


def test_bad_use_of_the_decorator_says_what_to_do(client: Router) -> None:
    """A mapping without a prompt, a prompt of a wrong type, and a decorator on nothing are typed errors."""

    @client.routed("t")
    def nothing() -> dict[str, Any]:
        return {"user": "ann"}

    @client.routed("t")
    def number() -> Any:
        return 7

    with pytest.raises(InvalidCall, match="without 'prompt'"):
        nothing()
    with pytest.raises(InvalidCall, match="is a int"):
        number()
    with pytest.raises(InvalidCall, match="for a function"):
        client.routed("t")("text")  # type: ignore[call-overload]


def test_attribution_nests_and_the_call_wins(client: Router, home: Path) -> None:
    """An inner block adds to the outer one, a call's own words win, and after the block nothing is left."""
    with attribute(feature="inbox", tenant="acme"):
        client.route("t", "one")
        with attribute(feature="search", user="ann"):
            client.route("t", "two")
            client.route("t", "three", feature="own")
        client.route("t", "four")
    client.route("t", "five")
    assert _routes(home, "feature") == ["inbox", "search", "own", "inbox", None]
    assert _routes(home, "tenant") == ["acme"] * 4 + [None]
    assert [user is not None for user in _routes(home, "user")] == [False, True, True, False, False]


def test_attribution_ends_with_its_block_even_by_an_error(client: Router, home: Path) -> None:
    """An exception does not leave it behind."""
    with pytest.raises(ZeroDivisionError), attribute(feature="inbox"):
        _ = 1 / 0
    client.route("t", "one")
    assert _routes(home, "feature") == [None]


def test_tasks_inherit_attribution_and_do_not_mix(client: Router, home: Path) -> None:
    """Many tasks at once each keep their own, and one that is started inside a block has the block's."""

    async def one(number: int) -> None:
        with attribute(feature=f"f{number}"):
            await asyncio.sleep(0)
            await asyncio.create_task(client.aroute("t", f"prompt {number}", metadata={"n": number}))

    async def main() -> None:
        await asyncio.gather(*map(one, range(20)))

    asyncio.run(main())
    rows = read_table(home, "routes")
    assert sorted((row["feature"], row["metadata"]) for row in rows) == sorted(
        (f"f{n}", f'{{"n": {n}}}') for n in range(20)
    )


def test_threads_start_without_attribution_unless_they_are_given_it(client: Router, home: Path) -> None:
    """A thread has a context of its own; `copy_context` hands the block's on."""
    with attribute(feature="inbox"):
        inherited = contextvars.copy_context()
        for thread in (
            threading.Thread(target=client.route, args=("t", "bare")),
            threading.Thread(target=inherited.run, args=(client.route, "t", "copied")),
        ):
            thread.start()
            thread.join()
    assert _routes(home, "feature") == [None, "inbox"]


def test_attribution_is_text() -> None:
    """A wrong type is refused where it is said, not where it is used."""
    with pytest.raises(InvalidCall, match="user: is a int"), attribute(user=7):  # type: ignore[arg-type]
        pass
