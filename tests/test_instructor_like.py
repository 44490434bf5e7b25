"""instructor over a router: with the library where it is installed, and the calls that it makes where it is not."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from router import Router
from tests.support import make_policy
from tests.upstream import Upstream

SAID = '{"name": "Paris", "country": "France"}'
MESSAGES: list[Any] = [{"role": "user", "content": "Where is the Louvre?"}]
HAS_INSTRUCTOR = importlib.util.find_spec("instructor") is not None
instructor_only = pytest.mark.skipif(not HAS_INSTRUCTOR, reason="instructor is not installed")


class City(BaseModel):
    name: str
    country: str


@pytest.fixture
def client(upstream: Upstream) -> Iterator[Router]:
    """A router on the upstream, which says one city."""
    upstream.reset("say64=" + base64.b64encode(SAID.encode()).decode())
    with Router(make_policy(api_base=upstream.url)) as made:
        yield made


def test_the_call_of_its_tools_mode(client: Router) -> None:
    """One forced tool whose parameters are the model's schema; the arguments are read from the first call."""
    schema = City.model_json_schema()
    tool = {"type": "function", "function": {"name": "City", "description": "", "parameters": schema}}
    choice = {"type": "function", "function": {"name": "City"}}
    for made in (client.openai, client):
        response = made.chat.completions.create(
            model="task:t", messages=MESSAGES, tools=[tool], tool_choice=choice, stream=False
        )
        (call,) = response.choices[0].message.tool_calls
        assert City.model_validate_json(call.function.arguments, strict=True).name == "Paris"


def test_the_calls_of_its_json_modes(client: Router) -> None:
    """A strict schema, or any JSON object, and the text is read."""
    strict = {
        "type": "json_schema",
        "json_schema": {"name": "City", "schema": City.model_json_schema(), "strict": True},
    }
    for response_format in (strict, {"type": "json_object"}):
        response = client.openai.chat.completions.create(
            model="task:t", messages=MESSAGES, response_format=response_format
        )
        assert City.model_validate_json(response.choices[0].message.content).country == "France"


@instructor_only
@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "JSON", "MD_JSON"])
def test_from_openai_and_from_litellm_give_what_they_give_on_the_bare_client(
    client: Router, upstream: Upstream, mode: str
) -> None:
    """The same typed value from the SDK's own client, from ours, and from the litellm function."""
    import instructor

    chosen = instructor.Mode[mode]
    bare = instructor.from_openai(openai.OpenAI(base_url=upstream.url), mode=chosen)
    expected = bare.chat.completions.create(model="small", messages=MESSAGES, response_model=City)
    for made in (
        instructor.from_openai(client.openai, mode=chosen),
        instructor.from_litellm(client.completion, mode=chosen),
    ):
        city, response = made.chat.completions.create_with_completion(
            model="task:t", messages=MESSAGES, response_model=City
        )
        assert city.model_dump() == expected.model_dump() == json.loads(SAID)
        assert response.router.cost_nusd > 0


@instructor_only
def test_its_async_clients(client: Router) -> None:
    """`from_openai` over the asynchronous client, and `from_litellm` over `acompletion`."""
    import instructor

    async def main() -> list[Any]:
        made: tuple[Any, ...] = (
            instructor.from_openai(client.async_openai),
            instructor.from_litellm(client.acompletion),
        )
        return [
            await one.chat.completions.create(model="task:t", messages=MESSAGES, response_model=City) for one in made
        ]

    assert [city.model_dump() for city in asyncio.run(main())] == [json.loads(SAID)] * 2


@instructor_only
def test_its_partial_stream(client: Router) -> None:
    """A streamed answer is read part by part."""
    import instructor

    made: Any = instructor.from_openai(client.openai)
    parts = list(made.chat.completions.create_partial(model="task:t", messages=MESSAGES, response_model=City))
    assert parts[-1].model_dump() == json.loads(SAID)
