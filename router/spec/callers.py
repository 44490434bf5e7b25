"""What a caller brings along: tools as JSON, and the shape of an answer as a type or a JSON Schema, made ready once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from router.core.checks import Check, Verdict, build_check
from router.core.policy import AnswerKind
from router.core.structured import Shape, takes_strict_mode
from router.core.tools import Tools
from router.errors import InvalidCall
from router.spec.schema import json_validator, schema_problem

# The pattern and length that OpenAI documents for the name of a function and of a schema.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHOICES = ("auto", "none", "required")


def tools_of(tools: Sequence[Mapping[str, Any]] | None, choice: Any) -> Tools | None:
    """The tools of a call, as chat completions have them.

    Raises
    ------
    InvalidCall
        A tool or the choice cannot be used; the message says which, and why.
    """
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidCall("tool_choice: is given without tools; give tools=[...], too", argument="tool_choice")
        return None
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise InvalidCall(f"tools: is a {type(tools).__name__}; give a list of tools", argument="tools")
    given: list[Any] = list(tools)
    if function := next((tool for tool in given if callable(tool)), None):
        raise InvalidCall(
            f"tools: {getattr(function, '__name__', 'one')} is a function; describe it as {{'type': 'function', "
            "'function': {'name': ..., 'parameters': ...}}, and run it yourself when the answer calls it",
            argument="tools",
        )
    try:
        key = json.dumps(given, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidCall("tools: hold something that is no JSON; give plain values", argument="tools") from None
    problems = _problems(key)
    if not (choice is None or choice in _CHOICES or _named(choice) in problems):
        known = ", ".join(map(repr, problems))
        raise InvalidCall(
            f"tool_choice: is {choice!r}; give 'auto', 'none', 'required', or {{'type': 'function', 'function': "
            f"{{'name': ...}}}} with one of {known}",
            argument="tool_choice",
        )
    return Tools(tuple(json.loads(key)), problems, choice)


def _named(choice: Any) -> str:
    """The function that a choice names, or ""."""
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else ""


@lru_cache(maxsize=256)
def _problems(key: str) -> dict[str, Callable[[Any], str]]:
    """By tool: the function that says what is wrong with its arguments."""
    found: dict[str, Callable[[Any], str]] = {}
    for number, tool in enumerate(json.loads(key)):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            raise InvalidCall(
                f"tools[{number}]: is no function; give {{'type': 'function', 'function': {{'name': ..., "
                "'parameters': ...}}",
                argument="tools",
            )
        name, schema = function.get("name"), function.get("parameters")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidCall(
                f"tools[{number}]: has the name {name!r}; give 1 to 64 letters, digits, '_' or '-'", argument="tools"
            )
        if name in found:
            raise InvalidCall(f"tools[{number}]: is the second with the name {name!r}; rename one", argument="tools")
        where = f"tools[{number}].function.parameters"
        found[name] = _validator(where, {} if schema is None else schema, "tools")
    return found


def _validator(where: str, schema: Any, argument: str) -> Callable[[Any], str]:
    problem = schema_problem(schema) if isinstance(schema, Mapping) else "it is no mapping"
    if problem:
        raise InvalidCall(f"{where}: is no JSON Schema: {problem}", argument=argument)
    return json_validator(schema)


def shape_of(schema: Any) -> Shape | None:
    """The shape that an answer must have: of a pydantic model, a dataclass, another type, or a JSON Schema.

    Raises
    ------
    InvalidCall
        It is none of these, or the JSON Schema has a fault.
    """
    if schema is None:
        return None
    if not isinstance(schema, Mapping):
        try:
            return _of_type(schema)
        except TypeError:  # A type that has no hash cannot be remembered.
            return _of_type.__wrapped__(schema)
    try:
        return _of_schema(json.dumps(dict(schema), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidCall):
            raise
        raise InvalidCall("schema: holds something that is no JSON; give a JSON Schema", argument="schema") from None


@lru_cache(maxsize=256)
def _of_schema(key: str) -> Shape:
    schema = json.loads(key)
    validator = _validator("schema", schema, "schema")
    name = schema.get("title") if isinstance(schema.get("title"), str) else ""
    check = build_check(AnswerKind(json=schema), schema=validator)
    return Shape(_name(name), schema, check, takes_strict_mode(schema))


@lru_cache(maxsize=256)
def _of_type(kind: Any) -> Shape:
    if not isinstance(kind, type) and get_origin(kind) is None:
        raise InvalidCall(
            f"schema: is a {type(kind).__name__}; give a pydantic model, a dataclass or a JSON Schema",
            argument="schema",
        )
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        schema = _closed(adapter.json_schema())
    except (PydanticUserError, TypeError, NameError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise InvalidCall(
            f"schema: {getattr(kind, '__name__', kind)} has no JSON Schema: {why}; give a pydantic model, a dataclass "
            "or a JSON Schema",
            argument="schema",
        ) from error
    name = _name(getattr(kind, "__name__", ""))
    return Shape(name, schema, _typed(adapter, name, schema), takes_strict_mode(schema))


def _closed(schema: Any) -> Any:
    """A generated schema that allows no further properties, as strict modes want it; what is optional stays so."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _closed(part) for key, part in schema.items()}
    if inner.get("type") == "object" and "properties" in inner:
        inner.setdefault("additionalProperties", False)
    return inner


def _typed(adapter: TypeAdapter[Any], name: str, schema: Any) -> Check:
    """Reads JSON from a draft and a value of the caller's type from that."""
    find_json = build_check(AnswerKind(json={}))
    known = set(_properties(schema))

    def check(text: str) -> Verdict:
        found = find_json(text)
        if not found.valid:
            return found
        try:
            return Verdict(True, adapter.validate_json(json.dumps(found.value)))
        except ValidationError as error:
            # The place only, and of that what the schema says: pydantic's own words repeat the answer's, and a place
            # has the keys of the answer.
            parts = error.errors(include_input=False, include_url=False)[0]["loc"]
            place = ".".join(str(part) if isinstance(part, int) or part in known else "*" for part in parts)
            return Verdict(False, found.value, f"does not fit the schema at {place[:200] or 'its top'}")
        except RecursionError:
            return Verdict(False, None, "is nested too deep to compare with the schema")

    check.__qualname__ = name  # What the message about a type whose own code fails calls it.
    return check


def _properties(schema: Any) -> Iterator[str]:
    """The names of all properties of a schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _properties(part)


def _name(given: str) -> str:
    return given if _NAME.fullmatch(given) else "answer"
