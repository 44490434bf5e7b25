"""Structured output: an answer that must be JSON of a given shape, and how a model is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.core.checks import Check


@dataclass(frozen=True, slots=True)
class Shape:
    """What the answer must be: the JSON Schema that is sent, and the check that reads the caller's value from it."""

    name: str
    schema: Mapping[str, Any]
    check: Check
    strict: bool
    """Whether a provider's strict mode takes the schema."""

    @property
    def is_native(self) -> bool:
        """Whether a provider's own mode takes the schema at all: those want an object at its top."""
        return self.schema.get("type") == "object"

    def response_format(self) -> dict[str, Any]:
        """The parameter that turns a provider's own structured output on."""
        return {
            "type": "json_schema",
            "json_schema": {"name": self.name, "schema": dict(self.schema), "strict": self.strict},
        }

    def instruction(self) -> str:
        """The same in words, for a model whose provider has no such mode."""
        schema = json.dumps(self.schema, separators=(",", ":"))
        return f"Answer with JSON that fits this JSON Schema, and with nothing else:\n{schema}"


# What OpenAI documents for strict mode; it refuses a schema with any other word.
_STRICT_WORDS = frozenset(
    [
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "multipleOf",
        "pattern",
        "properties",
        "required",
        "title",
        "type",
    ]
)
_KINDS = frozenset(["$ref", "anyOf", "const", "enum", "type"])


def takes_strict_mode(schema: Any) -> bool:
    """Whether a schema is in the words of strict mode: each object requires all its properties and allows no others."""
    if not isinstance(schema, Mapping) or not schema.keys() <= _STRICT_WORDS or not schema.keys() & _KINDS:
        return False
    properties = schema.get("properties", {})
    is_closed = schema.get("additionalProperties") is False and set(schema.get("required", ())) == set(properties)
    if not is_closed and (schema.get("type") == "object" or properties):
        return False
    inner = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    return all(map(takes_strict_mode, [*inner, schema["items"]] if "items" in schema else inner))
