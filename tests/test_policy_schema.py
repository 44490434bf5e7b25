"""The JSON Schema of policies: it says what the loader does, and documents every field."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from decimal import Decimal
from inspect import cleandoc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from router.core import limits
from router.core import policy as grammar
from router.core.policy import Budget, Cache, Model, Policy, Task
from router.errors import PolicyError
from router.spec import json_validator, load, policy_schema
from router.spec.schema import NOT_BUILT, allowed_keys, schema_problem, schema_text, unbuilt_fields
from tests.strategies import policies

CLASSES = {
    name: kind
    for name, kind in {**vars(limits), **vars(grammar)}.items()
    if is_dataclass(kind) and isinstance(kind, type) and name != "Limit"
}
UNBUILT = {
    "Ledger": {"store_content"},
    "Task": {
        "cache",
        "prompt_cache",
        "shadow_rate",
    },
}

MODELS = "version: 1\nmodels: {small: {litellm: a/small}, large: {litellm: a/large}}\n"
TASK = MODELS + "tasks: {t: {ladder: [small, large]%s}}\n"

GOOD = {
    "nothing": "version: 1\n",
    "models": MODELS,
    "task": TASK % "",
    "threshold_list": TASK % ", threshold: [0.5]",
    "choice": TASK % ", answer: {choice: [yes, no]}",
    "number": TASK % ", answer: {number: {min: 0}}",
    "json": TASK % ", answer: {json: {type: object}}",
    "limits": TASK % ", deadline_s: 4, max_output_tokens: 8, retry: {attempts: 1}, budget: {usd_per_call: 0.01}",
    "prices": "version: 1\nmodels: {a: {litellm: x/y, price: {input_usd_per_mtok: '0.25', output_usd_per_mtok: 1}}}\n",
    "overlay": "version: 1\nenvironment: prod\ntasks: {}\n",
    "null": TASK % ", cache: null",
}
BAD = {
    "unknown_key": TASK % ", treshold: 0.5",
    "unknown_key_at_the_top": "version: 1\nmodles: {}\n",
    "version": "version: 2\n",
    "version_true": "version: true\n",
    "no_version": "models: {}\n",
    "threshold": TASK % ", threshold: 1.5",
    "threshold_text": TASK % ", threshold: high",
    "one_label": TASK % ", answer: {choice: [a]}",
    "on_filter": TASK % ", on_filter: maybe",
    "no_litellm": "version: 1\nmodels: {a: {}}\n",
    "model_name": "version: 1\nmodels: {'a b': {litellm: x/y}}\n",
    "attempts": TASK % ", retry: {attempts: 0}",
    "price": "version: 1\nmodels: {a: {litellm: x/y, price: {request_usd: -1}}}\n",
    "empty_ladder": MODELS + "tasks: {t: {ladder: []}}\n",
}


def definition(name: str) -> dict[str, Any]:
    """The schema of one dataclass of the grammar."""
    schema = policy_schema()
    found: dict[str, Any] = schema if name == "Policy" else schema["$defs"][name]
    return found


def problems(data: Any) -> list[str]:
    """What the schema says against a policy."""
    return [error.message for error in Draft202012Validator(policy_schema()).iter_errors(data)]


def test_the_schema_is_a_json_schema() -> None:
    """Editors can use it."""
    Draft202012Validator.check_schema(policy_schema())
    assert policy_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_text_of_the_schema_is_the_schema() -> None:
    """What is committed beside the policies says the same, and ends with a line end."""
    assert json.loads(schema_text()) == policy_schema()
    assert schema_text().endswith("}\n")


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in GOOD.items()])
def test_the_schema_accepts_what_the_loader_accepts(tmp_path: Path, text: str) -> None:
    """An editor marks nothing in a file that loads."""
    (tmp_path / "base.yml").write_text("version: 1\n")
    (tmp_path / "p.yml").write_text(text)
    environment = "prod" if "prod" in text else None
    assert problems(load(tmp_path, environment=environment).document.data) == []


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in BAD.items()])
def test_the_schema_refuses_what_the_loader_refuses(tmp_path: Path, text: str) -> None:
    """An editor marks keys, types and bounds that the loader refuses."""
    from ruamel.yaml import YAML

    (tmp_path / "p.yml").write_text(text)
    with pytest.raises(PolicyError):
        load(tmp_path / "p.yml")
    assert problems(YAML(typ="safe", pure=True).load(text)) != []


@given(policies())
@settings(max_examples=40, deadline=None)
def test_the_schema_accepts_every_valid_policy(data: dict[str, Any]) -> None:
    """The law behind the examples."""
    assert problems(data) == []


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_field_is_described(name: str) -> None:
    """The docstring of each field of each dataclass is its documentation."""
    properties = definition(name)["properties"]
    assert sorted(properties) == sorted(field.name for field in fields(CLASSES[name]))
    assert [key for key, value in properties.items() if not value.get("description", "").strip(". ")] == []
    assert definition(name)["description"] == cleandoc(CLASSES[name].__doc__ or "")


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_field_that_is_not_built_says_so(name: str) -> None:
    """The editor shows it before the loader refuses it; no other field says so."""
    properties = definition(name)["properties"]
    marked = {key for key, value in properties.items() if value["description"].startswith(NOT_BUILT)}
    assert marked == UNBUILT.get(name, set())


def test_every_unbuilt_field_that_is_set_is_found() -> None:
    """The owner's path and the field's name, wherever they stand."""
    policy = Policy(
        1,
        {"m": Model("a/b", capabilities=("tools",))},
        {"t": Task(("m",), cache=Cache(5.0), budget=Budget(usd_per_call=Decimal(1)), prompt_cache="system")},
    )
    assert sorted(unbuilt_fields(policy)) == [(("tasks", "t"), "cache"), (("tasks", "t"), "prompt_cache")]


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ((), ["budgets", "environment", "ledger", "models", "slos", "tasks", "version"]),
        (("tasks", "t", "retry"), ["attempts", "max_wait_s"]),
        (("tasks", "t", "answer"), ["choice", "json", "number", "pattern", "text"]),
        (("tasks", "t", "answer", "number"), ["max", "min"]),
        (("tasks", "t", "budget"), ["usd_per_call", "usd_per_day"]),
        (("models", "m", "params"), []),
        (("nowhere", 5), []),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_the_keys_of_a_place_are_known(where: tuple[str | int, ...], keys: list[str]) -> None:
    """A message about an unknown key can name the ones there are."""
    assert allowed_keys(where) == keys


# JSON Schemas of answers


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "required": ["a"]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        {"$id": "https://example.com/s", "$ref": "a", "$defs": {"x": {"$id": "a"}}},
        {"properties": {"$ref": {"type": "string"}}},
        {"const": {"$ref": "#/nowhere"}},
        {"$dynamicRef": "#node", "$defs": {"x": {"$dynamicAnchor": "node"}}},
    ],
    ids=str,
)
def test_a_schema_whose_references_resolve_is_fine(schema: dict[str, Any]) -> None:
    """Definitions may be named in each of the ways of JSON Schema."""
    assert schema_problem(schema) == ""


@pytest.mark.parametrize(
    ("schema", "reference"),
    [
        ({"$ref": "#/$defs/a"}, "$ref '#/$defs/a'"),
        ({"properties": {"a": {"anyOf": [{"$ref": "file:///etc/passwd"}]}}}, "$ref 'file:///etc/passwd'"),
        (
            {"$ref": "https://json-schema.org/draft/2020-12/schema"},
            "$ref 'https://json-schema.org/draft/2020-12/schema'",
        ),
        ({"$dynamicRef": "#x"}, "$dynamicRef '#x'"),
        ({"$ref": "#/type", "type": "string"}, "$ref '#/type'"),
        ({"$ref": "#/allOf/x", "allOf": [{}]}, "$ref '#/allOf/x'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_reference_that_leads_nowhere_is_told(schema: dict[str, Any], reference: str) -> None:
    """It would fail in the middle of a call, or open a connection."""
    assert schema_problem(schema) == f"its {reference} is not in the schema; put the definition into `$defs`"


def test_the_validator_names_the_place_and_not_the_value() -> None:
    """What is wrong with an answer never repeats the answer."""
    problem = json_validator({"properties": {"a": {"items": {"type": "integer"}}}})
    assert problem({"a": [1, 2]}) == ""
    assert problem({"a": [1, "secret"]}) == "does not fit the JSON Schema at properties/a/items/type"
    assert json_validator({"type": "object"})("secret") == "does not fit the JSON Schema at type"
