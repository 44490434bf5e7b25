"""What requests usually come to: learned from settled replies, used where nobody reported what was used."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router
from router.core.call import Call, Failure, Outcome, Reply, Usage
from router.core.policy import Model
from router.core.usual import Usual
from router.errors import NoAnswer
from router.models.litellm import LiteLLM
from router.testing import Fault, Scripted, ScriptedModels, SimulatedWorld
from tests.support import make_policy, read_table
from tests.upstream import Upstream

ONE_RUNG = {"ladder": ["small"], "retry": {"attempts": 1}}


def test_a_guess_stands_until_something_is_known() -> None:
    """Before the first reply it is the length of the texts, and no output."""
    assert (Usual().expected_nusd(70), Usual().output_tokens) == (70, 0)


def test_guesses_are_put_right_by_what_replies_cost() -> None:
    """Three times as much as their texts had said, and five tokens of output each."""
    usual = Usual()
    usual.learn(4, 100, 300)
    usual.learn(6, 300, 900)
    assert (usual.expected_nusd(70), usual.output_tokens) == (210, 5)


def test_what_has_no_price_teaches_nothing_of_costs() -> None:
    """Nor does a figure that no guess explains."""
    usual = Usual()
    usual.learn(0, None, 300)
    usual.learn(0, 0, 300)
    usual.learn(0, 1, 10**9)
    assert usual.expected_nusd(70) == 70


@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20))
def test_the_same_requests_again_are_expected_to_cost_the_same(seen: list[tuple[int, int]]) -> None:
    """Summed over all of them, and but for the rounding of each."""
    usual = Usual()
    for guessed, settled in seen:
        usual.learn(0, guessed, settled)
    learned = [(guessed, settled) for guessed, settled in seen if settled <= 1000 * guessed]
    expected = sum(usual.expected_nusd(guessed) for guessed, _ in learned)
    assert abs(expected - sum(settled for _, settled in learned)) <= len(learned)


def test_a_timeout_is_expected_to_cost_half_of_what_the_model_usually_does(home: Path) -> None:
    """The same prompt, answered and then not: nobody knows whether that is billed."""
    scripts: list[Scripted] = [Reply("yes", Usage(200, output_tokens=20)), Failure(Fault.TIMEOUT)]
    router = Router(make_policy(ONE_RUNG), backend=ScriptedModels({"small": scripts}), home=home)
    answer = router.route("t", "x" * 400)
    with pytest.raises(NoAnswer) as caught:
        router.route("t", "x" * 400)
    (attempt,) = caught.value.attempts
    assert answer.cost_nusd == 200 * 100 + 20 * 400
    assert attempt.amount.state == "maybe_billed"
    assert attempt.amount.nusd == pytest.approx(answer.cost_nusd / 2, abs=1)
    assert attempt.usage is None
    rows = read_table(home, "attempts")
    assert [row["cost_nusd"] for row in rows] == [28_000, attempt.amount.nusd]


def test_no_estimate_is_made_of_an_unknown_price() -> None:
    """Neither of a timeout nor of a reply without usage: unknown never becomes 0."""
    policy = make_policy({**ONE_RUNG, "retry": {"attempts": 2}})
    unpriced = {"small": Model(litellm="small")}
    object.__setattr__(policy, "models", {**policy.models, **unpriced})
    models = ScriptedModels({"small": [Failure(Fault.TIMEOUT), Reply("yes", None)]})
    answer = Router(policy, backend=models, world=SimulatedWorld()).route("t", "hello")
    assert [attempt.amount.state for attempt in answer.attempts] == ["unknown", "unknown"]
    assert (answer.cost_usd, answer.cost_upper_usd) == (None, None)


def _asked(model: Model, prompt: str, *, awaits: bool) -> Outcome:
    call = Call("m", model, ({"role": "user", "content": prompt},), {}, 40, "not-a-key")
    return asyncio.run(LiteLLM().asend(call, None)) if awaits else LiteLLM().send(call, 20.0)


@pytest.mark.parametrize("awaits", [False, True], ids=["send", "asend"])
@pytest.mark.parametrize(
    ("fault", "arrived"),
    [("truncated", True), ("html", True), ("bad_json", True), ("reset", None), ("drop", None), ("server_error", None)],
)
def test_a_response_that_began_surely_arrived(
    fault: str, arrived: bool | None, awaits: bool, upstream: Upstream
) -> None:
    """However it was spoilt; a connection that just ends says nothing."""
    for model in (
        Model(litellm="openai/small", api_base=upstream.url),
        Model(litellm="anthropic/large", api_base=upstream.root),
    ):
        outcome = _asked(model, f"fault={fault} say=one_two_three", awaits=awaits)
        assert isinstance(outcome, Failure)
        assert outcome.arrived is arrived


@pytest.mark.parametrize("awaits", [False, True], ids=["send", "asend"])
def test_a_request_without_a_connection_surely_did_not_arrive(awaits: bool) -> None:
    """Nobody listens at the port, so that nobody can bill."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # Bound and not listening: whoever connects is refused.
        base = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        outcome = _asked(Model(litellm="openai/small", api_base=base), "hi", awaits=awaits)
    assert isinstance(outcome, Failure)
    assert outcome.arrived is False
