"""The JSON Schema of policies, made from the dataclasses, and JSON Schema checks of answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from router.core.grammar import Unbuilt
from router.core.policy import Policy
from router.spec.document import Path_

NOT_BUILT = "Part of the grammar, not built yet: using it is refused. "


@functools.cache
def policy_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors and for the reference page."""
    schema = TypeAdapter(Policy).json_schema()
    for definition in (schema, *schema["$defs"].values()):
        for name in _unbuilt_names(definition["title"]):
            field = definition["properties"][name]
            field["description"] = NOT_BUILT + field.get("description", "")
        for field in definition["properties"].values():
            if "patternProperties" in field:
                field["additionalProperties"] = False  # A name that does not match would pass unseen.
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The schema as the committed file has it."""
    return json.dumps(policy_schema(), indent=2) + "\n"


def allowed_keys(where: Path_) -> list[str]:
    """The keys that may stand at a path of a policy."""
    schema: Mapping[str, Any] = policy_schema()
    for part in where:
        schema = _child(schema, part)
    return sorted(_resolved(schema).get("properties", {}))


def _child(schema: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
    for branch in _branches(schema):
        if isinstance(part, int) and "items" in branch:
            return dict(branch["items"])
        if part in branch.get("properties", {}):
            return dict(branch["properties"][part])
        if isinstance(branch.get("additionalProperties"), dict):
            return dict(branch["additionalProperties"])
        if "patternProperties" in branch:
            return dict(next(iter(branch["patternProperties"].values())))
    return {}


def _branches(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    schema = _resolved(schema)
    return [_resolved(branch) for branch in schema.get("anyOf", [schema])]


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "anyOf" in schema:
        branches = [branch for branch in schema["anyOf"] if branch.get("type") != "null"]
        schema = branches[0] if len(branches) == 1 else schema
    if "$ref" in schema:
        return dict(policy_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    return schema


@functools.cache
def _types() -> dict[str, type]:
    """Every dataclass of the grammar, by name."""
    found: dict[str, type] = {}
    pending: list[Any] = [Policy]
    while pending:
        kind = pending.pop()
        pending += get_args(kind)
        if is_dataclass(kind) and isinstance(kind, type) and kind.__name__ not in found:
            found[kind.__name__] = kind
            pending += get_type_hints(kind, include_extras=True).values()
    return found


@functools.cache
def _unbuilt_names(type_name: str) -> frozenset[str]:
    hints = get_type_hints(_types()[type_name], include_extras=True)
    return frozenset(name for name, hint in hints.items() if _is_unbuilt(hint))


def _is_unbuilt(hint: Any) -> bool:
    return Unbuilt in getattr(hint, "__metadata__", ())


def unbuilt_fields(value: Any, where: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """Every field that is set although the library does not act on it yet: the path of its owner, and its name."""
    if is_dataclass(value) and not isinstance(value, type):
        unbuilt = _unbuilt_names(type(value).__name__)
        for field in fields(value):
            inner = getattr(value, field.name)
            if field.name in unbuilt and inner is not None:
                yield where, field.name
            else:
                yield from unbuilt_fields(inner, (*where, field.name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from unbuilt_fields(inner, (*where, key))


def schema_problem(schema: Mapping[str, Any]) -> str:
    """What is wrong with a JSON Schema, or an empty text."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(dict(schema))
        root = DRAFT202012.create_resource(dict(schema))
        resolver = Registry().resolver_with_root(root)
        return next(_dead_references(root, resolver, set()), "")
    except SchemaError as error:
        return str(error.message)
    except (OverflowError, RecursionError) as error:  # A `pattern` that Python cannot compile.
        return str(error)


def _dead_references(resource: Any, resolver: Any, seen: set[int]) -> Iterator[str]:
    """Every `$ref` that leads nowhere or out of the schema: a check of an answer opens no connection.

    What it leads to is checked, too: it may stand where no schema is expected.
    """
    from jsonschema import Draft202012Validator
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if id(resource.contents) in seen:
        return
    seen.add(id(resource.contents))

    contents = resource.contents if isinstance(resource.contents, Mapping) else {}
    for key in ("$ref", "$dynamicRef"):
        if key in contents:
            try:
                found = resolver.lookup(contents[key])
            except (Unresolvable, ValueError):  # ValueError: `#/allOf/x`.
                found = None
            if found is None or not isinstance(found.contents, Mapping | bool):
                yield f"its {key} {contents[key]!r} is not in the schema; put the definition into `$defs`"
            else:
                Draft202012Validator.check_schema(found.contents)
                yield from _dead_references(DRAFT202012.create_resource(found.contents), found.resolver, seen)
    for inner in resource.subresources():
        yield from _dead_references(inner, resolver.in_subresource(inner), seen)


def json_validator(schema: Mapping[str, Any]) -> Callable[[Any], str]:
    """A function that says what is wrong with a value, or nothing; built once when the policy is loaded."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # An empty registry: the default one opens a connection for a reference that it does not know.
    validator = Draft202012Validator(dict(schema), registry=Registry())

    def problem(value: Any) -> str:
        error = next(iter(validator.iter_errors(value)), None)
        if error is None:
            return ""
        # The schema's own words: the message and the place in the answer would repeat the answer's text.
        place = "/".join(map(str, error.absolute_schema_path))
        return f"does not fit the JSON Schema at {place[:200]}"

    return problem
