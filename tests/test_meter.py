"""`meter`: calls that are not routed, in the same ledger, with usage and price; an unknown price is never 0."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import litellm
import openai
import pytest
from typer.testing import CliRunner

from router import Router, attribute
from router.audit import audit
from router.cli.app import app
from router.core.policy import Price
from router.errors import InvalidCall
from router.models import Facts
from router.testing import ScriptedModels, capture
from tests.support import make_policy, read_table
from tests.upstream import Upstream

FACTS = {
    "openai/embed": Facts(Price(input_usd_per_mtok=Decimal("0.02"), output_usd_per_mtok=Decimal(0))),
    "claude": Facts(
        Price(
            input_usd_per_mtok=Decimal(3),
            cached_read_usd_per_mtok=Decimal("0.3"),
            cache_write_usd_per_mtok=Decimal("3.75"),
            output_usd_per_mtok=Decimal(15),
        )
    ),
}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@pytest.fixture
def client() -> Iterator[Router]:
    """A router that knows some prices."""
    with Router(make_policy(), backend=ScriptedModels({"small": "fine"}, facts=FACTS)) as made:
        yield made


@pytest.mark.parametrize("library", ["litellm", "openai"])
def test_a_real_response_costs_what_the_provider_charges(
    client: Router, upstream: Upstream, home: Path, library: str
) -> None:
    """Usage at the policy's price is the upstream's own bill, and the rows belong to whom it says."""
    messages: list[Any] = [{"role": "user", "content": "fault=cached say=one_two_three " + "word " * 40}]
    response: Any
    if library == "litellm":
        response = litellm.completion("openai/small", messages, api_base=upstream.url)
    else:
        response = openai.OpenAI(base_url=upstream.url).chat.completions.create(model="small", messages=messages)
    cost = client.meter(response, feature="inbox", user="ann", metadata={"n": 1})
    (billed,) = upstream.bill()
    assert (cost, billed.cached_tokens > 0) == (billed.cost_nusd / 1e9, True)
    (attempt,), (route,) = read_table(home, "attempts"), read_table(home, "routes")
    assert (attempt["state"], attempt["cost_nusd"], attempt["cached_read_tokens"]) == (
        "settled",
        billed.cost_nusd,
        billed.cached_tokens,
    )
    assert (route["task"], route["outcome"], route["feature"], route["model"]) == (
        "(metered)",
        "metered",
        "inbox",
        response.model,
    )
    assert (route["prompt_fp"], route["plan_hash"], route["baseline_nusd"], route["confidence"]) == (None,) * 4
    assert (route["cost_nusd"], route["escalated"]) == (billed.cost_nusd, 0)


def test_the_usage_chunk_of_a_stream_will_do(client: Router, upstream: Upstream) -> None:
    """The last chunk has model and usage."""
    stream = openai.OpenAI(base_url=upstream.url).chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "say=one_two"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    *_, last = stream
    assert client.meter(last) == upstream.bill()[0].cost_nusd / 1e9


SHAPES: list[tuple[str, dict[str, Any], float]] = [
    ("embeddings", {"model": "embed", "usage": {"prompt_tokens": 100, "total_tokens": 100}}, 100 * 0.02e-6),
    (
        "responses",
        {
            "model": "claude",
            "usage": {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 40},
                "output_tokens": 7,
                "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": 107,
            },
        },
        (60 * 3 + 40 * 0.3 + 7 * 15) / 1e6,
    ),
    (
        "anthropic",
        {
            "model": "claude",
            "usage": {
                "input_tokens": 60,
                "cache_read_input_tokens": 40,
                "cache_creation_input_tokens": 20,
                "output_tokens": 7,
            },
        },
        (60 * 3 + 40 * 0.3 + 20 * 3.75 + 7 * 15) / 1e6,
    ),
    ("reported", {"model": "nobody", "usage": {**USAGE, "cost": 0.25}}, 0.25),
]


@pytest.mark.parametrize(
    ("shape", "response", "cost"), SHAPES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_shape_of_usage_is_read(client: Router, shape: str, response: dict[str, Any], cost: float) -> None:
    """Embeddings, Responses, Anthropic's messages and a provider's own figure, as mappings."""
    model = "openai/embed" if shape == "embeddings" else None
    assert client.meter(response, model=model) == pytest.approx(cost, rel=1e-12)


def test_real_embedding_objects_are_read(client: Router) -> None:
    """litellm's and OpenAI's embedding responses have usage without output."""
    for response in (
        litellm.EmbeddingResponse(model="embed", usage=litellm.Usage(prompt_tokens=50, total_tokens=50)),
        openai.types.CreateEmbeddingResponse.construct(
            model="embed", data=[], object="list", usage={"prompt_tokens": 50, "total_tokens": 50}
        ),
    ):
        assert client.meter(response, model="openai/embed") == pytest.approx(50 * 0.02e-6)


@pytest.mark.parametrize(
    "response",
    [
        {"model": "nobody-knows", "usage": USAGE},
        {"model": "small", "usage": None},
        {"model": "small", "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        {"model": "small", "usage": {"prompt_tokens": -3, "completion_tokens": 5}},
        {"model": "small", "usage": {"prompt_tokens": "many", "completion_tokens": 5}},
        {"model": "small", "usage": {"input_tokens": "many", "output_tokens": None}},
    ],
    ids=str,
)
def test_what_is_not_known_is_none_and_on_record(client: Router, home: Path, response: Any) -> None:
    """Without a price, or without counts that can be, the cost is `None` and the row says `unknown`."""
    assert client.meter(response) is None
    (attempt,), (route,) = read_table(home, "attempts"), read_table(home, "routes")
    assert (attempt["state"], attempt["cost_nusd"], route["cost_nusd"]) == ("unknown", None, None)


def test_two_prices_for_one_name_are_no_price() -> None:
    """Where two models of the policy share a litellm name and not a price, nobody guesses."""
    policy = make_policy()
    object.__setattr__(policy.models["large"], "litellm", "openai/small")
    with Router(policy, backend=ScriptedModels({})) as client:
        assert client.meter({"model": "openai/small", "usage": USAGE}) is None
        assert client.meter({"model": "x", "usage": USAGE}, model="large") == 6e-05


@pytest.mark.parametrize("response", [None, 7, "text", {}, {"usage": USAGE}, {"model": "small"}, [1]], ids=repr)
def test_what_is_no_response_is_refused(client: Router, home: Path, response: Any) -> None:
    """The error says what to give; nothing is written."""
    with pytest.raises(InvalidCall, match="has no model and usage"):
        client.meter(response)
    assert not (home / "segments").exists()


def test_a_routed_response_is_on_record_already(client: Router, home: Path) -> None:
    """Metering it would count it twice."""
    message: list[Any] = [{"role": "user", "content": "hi"}]
    for response in (
        client.completion("task:t", message),
        client.chat.completions.create(model="task:t", messages=message),
    ):
        with pytest.raises(InvalidCall, match="on record already"):
            client.meter(response)
    assert [row["outcome"] for row in read_table(home, "routes")] == ["answered", "answered"]


def test_the_audit_counts_metered_calls(client: Router, home: Path) -> None:
    """By task they are `(metered)`, by model their own, never failed, and without a saving."""
    client.route("t", "hello", feature="inbox")
    with attribute(feature="search"):
        client.meter({"model": "small", "usage": USAGE})
        client.meter({"model": "small", "usage": USAGE})
        client.meter({"model": "nobody-knows", "usage": USAGE})
    client.close()
    rows = {row.key: row for row in audit(home, by="task").rows}
    metered = rows["(metered)"]
    assert (metered.calls, metered.failed, metered.escalated, metered.unpriced) == (3, 0, 0, 1)
    assert (metered.cost_nusd, metered.saved_nusd) == (2 * (10 * 100 + 5 * 400), None)
    assert {row.key: row.calls for row in audit(home, by="feature").rows} == {"inbox": 1, "search": 3}
    assert {row.key: row.calls for row in audit(home, by="model").rows} == {"small": 3, "nobody-knows": 1}
    shown = CliRunner().invoke(app, ["audit", "--home", str(home), "--task", "(metered)"])
    assert (shown.exit_code, "(metered)" in shown.output, "1 call" in shown.output) == (0, True, True)


def test_metering_is_one_event(client: Router) -> None:
    """Listeners hear of it, without the person's name."""
    with capture() as seen:
        client.meter({"model": "small", "usage": USAGE}, feature="inbox", user="ann")
    (event,) = seen
    assert (event["event"], event["model"], event["cost_usd"]) == ("meter", "small", 3e-06)
    assert event["user"] != "ann"


def test_metering_is_safe_from_tasks(client: Router, home: Path) -> None:
    """Many at once lose nothing."""

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(client.meter, {"model": "small", "usage": USAGE}) for _ in range(40)))

    asyncio.run(main())
    assert {row["state"] for row in read_table(home, "attempts")} == {"settled"}
    assert len(read_table(home, "routes")) == 40
