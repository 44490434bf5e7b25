"""Structured output: a value of the caller's own type, by the provider's own mode or in words."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, NotRequired

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator
from typing_extensions import TypedDict

from router import Router
from router.core.call import Reply
from router.core.structured import takes_strict_mode
from router.errors import InvalidCall
from router.spec import shape_of
from router.testing import ScriptedModels, SimulatedWorld, capture
from tests.support import make_policy
from tests.upstream import Upstream


class Ticket(BaseModel):
    """A closed model: everything is required."""

    label: Literal["bug", "other"]
    due: date


class Optional(BaseModel):
    """A model with something that may be missing."""

    label: str
    note: str = ""


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int


class Row(TypedDict):
    """A typed mapping."""

    name: str
    size: NotRequired[int]


SCHEMA = {
    "title": "ticket",
    "type": "object",
    "properties": {"label": {"enum": ["bug", "other"]}},
    "required": ["label"],
    "additionalProperties": False,
}


def _router(scripts: Any, task: Any = None, **options: Any) -> tuple[Router, ScriptedModels]:
    models = ScriptedModels(scripts)
    policy = make_policy({"threshold": 0.0, **(task or {})})
    for name in options.pop("native", ()):
        object.__setattr__(policy.models[name], "capabilities", ("json_schema", "system", "tools"))
    return Router(policy, backend=models, world=SimulatedWorld(), **options), models


# The value


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (Ticket, '{"label": "bug", "due": "2026-05-01"}', Ticket(label="bug", due=date(2026, 5, 1))),
        (Optional, 'Here it is:\n```json\n{"label": "x"}\n```', Optional(label="x")),
        (Point, 'The point is {"x": 1, "y": 2}.', Point(1, 2)),
        (Row, '{"name": "a"}', {"name": "a"}),
        (list[int], "[1, 2]", [1, 2]),
        (list[Point], '[{"x": 1, "y": 2}]', [Point(1, 2)]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Ticket | Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (Literal["bug", "other"], '"bug"', "bug"),
        (Annotated[int, Field(gt=3)], "4", 4),
        (bool, "true", True),
        (SCHEMA, '{"label": "bug"}', {"label": "bug"}),
        ({}, "[1]", [1]),
    ],
)
def test_the_value_has_the_callers_type(schema: Any, text: str, value: Any) -> None:
    """`answer.parsed` is what the type makes of the JSON in the text, fences and phrases around it aside."""
    router, _ = _router({"small": text})
    answer = router.route("t", "hello", schema=schema)
    assert (answer.parsed, type(answer.parsed), answer.text) == (value, type(value), text)


@pytest.mark.parametrize(
    "text", ["no JSON", '{"label": "feature", "due": "2026-05-01"}', '{"label": "bug"}', "[]", "null"]
)
@pytest.mark.parametrize("schema", [Ticket, SCHEMA | {"required": ["label", "due"], "additionalProperties": True}])
def test_a_draft_that_does_not_fit_climbs(schema: Any, text: str) -> None:
    """The rung above gives the value; its own misfit would come back with `parsed` empty and the reason."""
    good = '{"label": "bug", "due": "2026-05-01"}'
    router, _ = _router({"small": text, "large": good})
    answer = router.route("t", "hello", schema=schema)
    assert (answer.rung, answer.parsed is not None, answer.steps[0].action) == (1, True, "escalate")
    router, _ = _router({"small": text, "large": text})
    answer = router.route("t", "hello", schema=schema)
    assert (answer.rung, answer.parsed) == (1, None)
    assert answer.reason.startswith("last rung; the answer ")


def test_the_shape_takes_the_place_of_the_tasks_answer_kind() -> None:
    """A task of labels can be asked for a value of another shape; its own check still has the last word."""
    seen: list[Any] = []

    def check(value: Any) -> bool:
        seen.append(value)
        return bool(value == Point(3, 4))

    texts = {"small": '{"x": 1, "y": 2}', "large": '{"x": 3, "y": 4}'}
    router, _ = _router(texts, {"answer": {"choice": ["yes", "no"]}}, checks={"t": check})
    answer = router.route("t", "hello", schema=Point)
    assert (answer.parsed, seen) == (Point(3, 4), [Point(1, 2), Point(3, 4)])
    assert answer.steps[0].reason == "the draft is refused by the task's own check"


def test_a_type_whose_own_code_fails_takes_no_paid_answer_down() -> None:
    """What a validator raises beside `ValueError` is a bug of the caller's: the draft is not usable, and it is said."""

    class Buggy(BaseModel):
        label: str

        @field_validator("label")
        @classmethod
        def known(cls, value: str) -> str:
            return {"a": "b"}[value]

    router, _ = _router({"small": '{"label": "secret"}', "large": '{"label": "a"}'})
    with capture() as events, pytest.warns(UserWarning, match="your function Buggy raised KeyError"):
        answer = router.route("t", "hello", schema=Buggy)
    assert (answer.rung, answer.parsed) == (1, Buggy.model_construct(label="b"))
    assert answer.steps[0].reason == "the draft cannot be read: the schema's own code failed"
    assert [event["error"] for event in events if event["event"] == "router.hook_failed"] == ["KeyError"]


# How a model is told


def test_the_providers_own_mode_is_used_where_it_is_known(upstream: Upstream) -> None:
    """A model that is known to take a schema is sent one; one that nobody knows reads it in the system text."""
    for capabilities, expected in ((("json_schema", "system"), "json_schema"), (None, None), (("system",), None)):
        upstream.reset()
        policy = make_policy({"ladder": ["small"], "max_output_tokens": 99}, api_base=upstream.url)
        object.__setattr__(policy.models["small"], "capabilities", capabilities)
        answer = Router(policy).route("t", 'say={"x":1,"y":2}', schema=Point)
        assert answer.parsed == Point(1, 2)
        assert [billed.response_format for billed in upstream.bill()] == [expected]


@pytest.mark.parametrize("schema", [list[int], int, Point | Ticket, {"anyOf": [SCHEMA]}, {}])
def test_a_shape_that_is_no_object_is_told_in_words(upstream: Upstream, schema: Any) -> None:
    """Vendors refuse a schema without an object at its top, and a refusal would end the call."""
    policy = make_policy({"ladder": ["small"]}, api_base=upstream.url)
    object.__setattr__(policy.models["small"], "capabilities", ("json_schema", "system"))
    Router(policy).route("t", "say=1", schema=schema)
    assert [billed.response_format for billed in upstream.bill()] == [None]


def test_the_instruction_joins_the_system_text() -> None:
    """After the task's own or the caller's words, and before the prompt where there are none."""
    shape = shape_of(Point)
    assert shape is not None
    told = shape.instruction()
    assert told.startswith("Answer with JSON that fits this JSON Schema, and with nothing else:\n{")
    for prompt, system, expected in [
        ("hello", None, told),
        ("hello", "Be brief.", f"Be brief.\n\n{told}"),
        ([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}], "x", f"Be kind.\n\n{told}"),
    ]:
        router, models = _router({"small": '{"x":1,"y":2}'}, {"system": system} if system else {})
        router.route("t", prompt, schema=Point)  # type: ignore[arg-type]
        assert models.history[0].messages == (
            {"role": "system", "content": expected},
            {"role": "user", "content": "hello"},
        )
        assert "response_format" not in models.history[0].params


def test_each_rung_is_told_in_its_own_way() -> None:
    """A draft in words, the rung above by its own mode; neither sees what the other was told."""
    router, models = _router({"small": "?", "large": '{"x":1,"y":2}'}, native=["large"])
    assert router.route("t", "hello", schema=Point).parsed == Point(1, 2)
    small, large = models.history
    assert (len(small.messages), small.params) == (2, {})
    assert (len(large.messages), large.params["response_format"]["json_schema"]["name"]) == (1, "Point")


@pytest.mark.parametrize(
    ("schema", "name", "strict"),
    [
        (Ticket, "Ticket", True),
        (Point, "Point", True),
        (Optional, "Optional", False),
        (Row, "Row", False),
        (create_model("Open", __config__=ConfigDict(extra="allow"), label=(str, ...)), "Open", False),
        (create_model("Free", value=(Any, ...)), "Free", False),
        (create_model("Sizes", sizes=(dict[str, int], ...)), "Sizes", False),
        (create_model("Nested", tickets=(list[Ticket], ...), first=(Ticket | None, ...)), "Nested", True),
        (create_model("Short", label=(Annotated[str, Field(max_length=3)], ...)), "Short", False),
        (create_model("default", default=(str, ...)), "default", True),
        (SCHEMA, "ticket", True),
        (SCHEMA | {"title": "my ticket"}, "answer", True),
        (SCHEMA | {"additionalProperties": True}, "ticket", False),
        (SCHEMA | {"required": []}, "ticket", False),
        ({"type": "object"}, "answer", False),
    ],
)
def test_strict_mode_is_asked_for_only_where_the_schema_is_in_its_words(schema: Any, name: str, strict: bool) -> None:
    """A provider refuses a strict schema that leaves something open or has a word it does not know."""
    router, models = _router({"small": "{}", "large": "{}"}, native=["small", "large"])
    router.route("t", "hello", schema=schema)
    sent = models.history[0].params["response_format"]
    assert sent["type"] == "json_schema"
    assert (sent["json_schema"]["name"], sent["json_schema"]["strict"]) == (name, strict)


@pytest.mark.parametrize(
    "schema",
    [True, {}, {"type": "string", "minLength": 1}, {"oneOf": []}, {"type": "array", "items": {}}, {"items": {}}],
)
def test_what_strict_mode_does_not_know_is_not_strict(schema: Any) -> None:
    """In doubt the schema is only a hint to the provider; the check here is the same."""
    assert not takes_strict_mode(schema)


def test_the_bound_counts_the_schema_however_it_is_told() -> None:
    """As a parameter or as words it is input, and the cost limit knows."""
    size = len(json.dumps(_schema_of(Point)))
    for native in ((), ("small",)):
        router, _ = _router({"small": Reply('{"x":1,"y":2}', None)}, {"ladder": ["small"]}, native=native)
        plain, told = (router.route("t", "hello", schema=schema).cost_upper_nusd for schema in (None, Point))
        assert plain is not None
        assert told is not None
        assert told - plain >= 100 * size


def _schema_of(kind: Any) -> Any:
    shape = shape_of(kind)
    assert shape is not None
    return shape.schema


# Bad input


class Plain:
    """A class that says nothing of its fields."""


_BAD = {
    "text": ("{}", "schema: is a str; give a pydantic model, a dataclass or a JSON Schema"),
    "instance": (Point(1, 2), "schema: is a Point; give a pydantic model, a dataclass or a JSON Schema"),
    "number": (7, "schema: is a int; give a pydantic model, a dataclass or a JSON Schema"),
    "function": (len, "schema: is a builtin_function_or_method; give a pydantic model, a dataclass or a JSON Schema"),
    "class": (Plain, "schema: Plain has no JSON Schema: Unable to generate pydantic-core schema for ..."),
    "no_json": (
        create_model("Hooks", hook=(Callable[[], None], ...)),
        "schema: Hooks has no JSON Schema: Cannot generate a JsonSchema for ...",
    ),
    "no_mapping": ({"type": {1}}, "schema: holds something that is no JSON; give a JSON Schema"),
    "nan": ({"const": float("nan")}, "schema: holds something that is no JSON; give a JSON Schema"),
    "no_schema": (
        {"type": "thing"},
        "schema: is no JSON Schema: 'thing' is not valid under any of the given schemas",
    ),
    "remote": (
        {"$ref": "http://example.com/schema"},
        "schema: is no JSON Schema: its $ref 'http://example.com/schema' is not in the schema; put the definition into "
        "`$defs`",
    ),
}


@pytest.mark.parametrize("name", _BAD)
def test_what_is_no_shape_is_refused_before_anything_is_sent(name: str) -> None:
    """The message says what it is and what to give."""
    schema, message = _BAD[name]
    router, models = _router({})
    with pytest.raises(InvalidCall) as caught:
        router.route("t", "hello", schema=schema)
    told, cut, _ = message.partition("...")  # The rest is pydantic's.
    assert str(caught.value) == message if not cut else str(caught.value).startswith(told)
    assert str(caught.value).endswith(" JSON Schema") or not cut
    assert (caught.value.argument, models.history) == ("schema", [])


def test_a_schema_and_a_stream_exclude_each_other() -> None:
    """What does not fit could not be taken back."""
    router, models = _router({})
    with pytest.raises(InvalidCall) as caught:
        router.route("t", "hello", stream=True, schema=Point)
    assert str(caught.value) == (
        "schema: cannot be checked before all of a stream has been shown; give schema= or stream=True, not both"
    )
    assert models.history == []


class Tree(BaseModel):
    """A type that holds itself."""

    children: list[Tree] = []


@pytest.mark.parametrize("schema", [Tree, list[Any], {"type": "array", "items": {"$ref": "#"}}, {}])
@pytest.mark.parametrize(
    "text", ["[" * 99_999, '{"children":[' * 400 + "]}" * 400, "[" * 900 + "]" * 900, "1e999", "9" * 9999]
)
def test_hostile_answers_are_not_usable_and_crash_nothing(schema: Any, text: str) -> None:
    """Nesting without end and numbers without end are drafts like any other."""
    router, _ = _router({"small": text, "large": text})
    answer = router.route("t", "hello", schema=schema)
    assert answer.rung in (0, 1)


# What is kept


def test_types_that_are_made_for_one_call_do_not_stay_for_ever() -> None:
    """A program that makes a model for each call must not grow with each."""
    router, _ = _router({"small": "{}", "large": "{}"})
    first = create_model("M", a=(int, ...))
    gone = weakref.ref(first)
    router.route("t", "hello", schema=first)
    del first
    for number in range(300):
        shape_of(create_model(f"M{number}", a=(int, ...)))
    gc.collect()
    assert gone() is None


def test_a_shape_is_made_once_for_each_type() -> None:
    """Building one takes a millisecond; a call takes a tenth of that."""
    assert shape_of(Point) is shape_of(Point)
    assert shape_of(list[Point]) is shape_of(list[Point])
    assert shape_of(SCHEMA) is shape_of(dict(SCHEMA))


_SECRET = "ACCOUNT-4711"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (dict[str, int], {_SECRET: "x"}),
        (dict[str, Point], {_SECRET: {"x": _SECRET}}),
        (create_model("Closed", __config__=ConfigDict(extra="forbid"), a=(int, 1)), {_SECRET: 1}),
        (Ticket, {"label": _SECRET, "due": _SECRET}),
        (Literal["a", "b"], _SECRET),
        ({"additionalProperties": {"type": "integer"}}, {_SECRET: "x"}),
        (SCHEMA, {"label": _SECRET}),
        (SCHEMA, {"label": "bug", _SECRET: 1}),
    ],
)
def test_no_reason_repeats_the_answer(schema: Any, value: Any) -> None:
    """Reasons go into ledger and events, where no answer belongs: neither values nor keys that a model made up."""
    router, _ = _router({"small": json.dumps(value), "large": json.dumps(value)})
    with capture() as events:
        answer = router.route("t", "hello", schema=schema)
    assert answer.parsed is None
    assert _SECRET not in json.dumps([[step.reason for step in answer.steps], events], default=str)


def test_the_place_in_a_reason_is_the_schemas_own() -> None:
    """Names of fields and positions in lists say where to look."""
    router, _ = _router({"small": '{"rows": [{"x": 1, "y": "?"}]}', "large": "{}"})
    answer = router.route("t", "hello", schema=create_model("Rows", rows=(list[Point], ...)))
    assert answer.steps[0].reason == "the draft does not fit the schema at rows.0.y"


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_json_is_read_as_the_same_value(value: Any) -> None:
    """A shape that allows everything gives back exactly what was said."""
    shape = shape_of({})
    assert shape is not None
    assert shape.check(json.dumps(value)) == (True, value, "")
