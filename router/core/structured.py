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
    """Whether the schema is closed enough (every property required, no other allowed) for a provider's strict mode."""

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


def is_closed(schema: Any) -> bool:
    """Whether every object of a JSON Schema requires all its properties and allows no others."""
    if isinstance(schema, list):
        return all(map(is_closed, schema))
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, Mapping):
        required = set(schema.get("required") or ())
        if schema.get("additionalProperties") is not False or required != set(properties or ()):
            return False
    return all(map(is_closed, schema.values()))
