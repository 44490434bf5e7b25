"""The only door to ruamel.yaml: text to plain data, with the line of every value, within strict limits.

Only the values of JSON come through. Duplicate keys, unknown tags, NaN, deep nesting and aliases that multiply are
refused before anything is built from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.errors import PolicyError, shown

# A real policy of a hundred tasks has about 60 KB, 3,000 values and six levels.
MAX_BYTES = 256_000
MAX_VALUES = 20_000
MAX_DEPTH = 32
MAX_ALIASES = 100
_MAX_INT_BITS = 64
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value"))

Path_ = tuple[str | int, ...]


@dataclass(slots=True)
class Document:
    """The data of one file, or of several merged ones, and where each value stands."""

    data: dict[str, Any] = field(default_factory=dict)
    marks: dict[Path_, tuple[str, int]] = field(default_factory=dict)
    """File and line (from 1) of each value, by its path."""

    def locate(self, where: Path_) -> tuple[str | None, int | None]:
        """File and line of a value, or of its nearest parent."""
        for end in range(len(where), -1, -1):
            if where[:end] in self.marks:
                return self.marks[where[:end]]
        return None, None


def read_document(path: Path) -> Document:
    """The data of a YAML file.

    Raises
    ------
    PolicyError
        The file cannot be read, is too large, or holds more than plain data.
    """
    try:
        with path.open("rb") as file:  # Not the whole of a file that is far too large, or has no end.
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            f"cannot be read ({error.strerror}); check the name and its rights", path=str(path)
        ) from error
    if len(raw) > MAX_BYTES:
        raise PolicyError(f"is larger than {MAX_BYTES:,} bytes; split it into several files", path=str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"is not UTF-8 at byte {error.start}; save it as UTF-8", path=str(path)) from error
    return _Reader(path).read(text)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._yaml = YAML(typ="safe", pure=True)
        self._yaml.composer.warn_double_anchors = False  # YAML 1.2 allows an anchor to be set again.
        self._values = 0
        self._document = Document()

    def read(self, text: str) -> Document:
        try:
            self._check_shape(text)
            root = self._yaml.compose(text)
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            told = [getattr(error, name, None) for name in ("context", "problem")]
            problem = ", ".join(str(part) for part in told if part) or "it holds a character that YAML does not allow"
            remedy = "; indent with spaces" if r"'\t'" in problem else ""
            line = mark.line + 1 if mark else None
            raise PolicyError(f"is no YAML: {problem}{remedy}", path=self._path, line=line) from error
        except PolicyError:
            raise
        except (ValueError, OverflowError, AssertionError) as error:
            # ruamel.yaml lets these through for an escape beyond Unicode and for a %YAML version it does not know.
            problem = "is no YAML: it has an escape or a %YAML line that cannot be read; write the character itself"
            raise PolicyError(problem, path=self._path) from error
        self._document.marks[()] = (self._path, 1)
        data = {} if root is None else self._value(root, ())
        if not isinstance(data, dict):
            raise self._error("a policy is a mapping with the key `version:`", root)
        self._document.data = data
        return self._document

    def _check_shape(self, text: str) -> None:
        """Depth and aliases, from the stream of events: it does not recurse, whatever the text."""
        depth = aliases = 0
        for event in self._yaml.parse(text):
            depth += isinstance(event, MappingStartEvent | SequenceStartEvent)
            depth -= isinstance(event, MappingEndEvent | SequenceEndEvent)
            aliases += isinstance(event, AliasEvent)
            if depth > MAX_DEPTH:
                raise self._error(f"is nested deeper than {MAX_DEPTH} levels; a policy needs about six", event)
            if aliases > MAX_ALIASES:
                raise self._error(f"has more than {MAX_ALIASES} aliases; write the values out", event)

    def _value(self, node: Node, where: Path_) -> Any:
        self._values += 1
        if self._values > MAX_VALUES or len(where) > MAX_DEPTH:
            raise self._error(f"grows beyond {MAX_VALUES:,} values; write its aliases out", node)
        self._document.marks.setdefault(where, (self._path, node.start_mark.line + 1))
        if isinstance(node, MappingNode):
            self._refuse_tag(node, where, f"{_TAG}map")
            return self._mapping(node, where)
        if isinstance(node, SequenceNode):
            self._refuse_tag(node, where, f"{_TAG}seq")
            return [self._value(item, (*where, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node, where)

    def _mapping(self, node: MappingNode, where: Path_) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if key is None or _has_surrogate(key):
                raise self._error("a key must be plain text", key_node, where)
            self._refuse_tag(key_node, where, *_SCALAR_TAGS)
            if key in data:
                raise self._error(f"the key {shown(key)} stands twice; keep one", key_node, where)
            self._document.marks[(*where, key)] = (self._path, key_node.start_mark.line + 1)
            data[key] = self._value(value_node, (*where, key))
        return data

    def _refuse_tag(self, node: Node, where: Path_, *allowed: str) -> None:
        if node.tag not in allowed:
            raise self._error(f"the tag {shown(node.tag)} is not one that a policy may use; remove it", node, where)

    def _scalar(self, node: ScalarNode, where: Path_) -> Any:
        self._refuse_tag(node, where, *_SCALAR_TAGS)
        try:
            value = self._yaml.constructor.construct_object(node)
        except (YAMLError, ValueError, LookupError) as error:  # LookupError: `!!bool x`, `!!int ""`.
            raise self._error(
                f"the value {node.value[:40]!r} has a form that a policy may not use; put it in quotes", node, where
            ) from error
        if isinstance(value, str) and _has_surrogate(value):
            raise self._error("holds half of a surrogate pair, which is no character; remove it", node, where)
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            raise self._error("is too large a number; give a smaller one", node, where)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(f"{node.value:.60} is no number that a policy may use; give a finite one", node, where)
        if value is not None and not isinstance(value, str | int | float | bool):
            raise self._error(f"{shown(node.value)} reads as a {type(value).__name__}; put it in quotes", node, where)
        return value

    def _error(self, problem: str, node: Any, where: Path_ = ()) -> PolicyError:
        line = node.start_mark.line + 1 if node is not None else None
        return PolicyError(problem, path=self._path, line=line, where=dotted(where))


def _has_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which neither JSON nor a provider takes."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def dotted(where: Path_) -> str:
    """A path as people write it: `tasks.classify.ladder.1`."""
    return ".".join(f"{part!s:.100}" for part in where)


def merge(base: Document, over: Document) -> Document:
    """One document over another: mappings merge key by key, everything else (lists too) is replaced."""
    merged = Document(_merged(base.data, over.data), dict(base.marks))
    for where in over.marks:  # A replaced value's own marks would point into the wrong file.
        if where in merged.marks and not _is_mapping(over.data, where):
            for stale in [known for known in merged.marks if known[: len(where)] == where]:
                del merged.marks[stale]
    merged.marks.update({where: mark for where, mark in over.marks.items() if where})
    return merged


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        result[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def _is_mapping(data: Any, where: Path_) -> bool:
    for part in where:
        data = data[part]
    return isinstance(data, dict)
