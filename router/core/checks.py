"""Kinds of answer: find the answer in a draft and say whether it is usable."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from router.core.policy import AnswerKind, NumberAnswer, TextAnswer


class Verdict(NamedTuple):
    """Whether a draft is usable, the value found in it, and why not."""

    valid: bool
    value: Any = None
    problem: str = ""


Check = Callable[[str], Verdict]
REFUSED = "is refused by the task's own check"

# Marks that models wrap around a label: quotes, brackets, emphasis, a full stop.
_WRAPPING = " \t\r\n\"'`*_.:;,!()[]{}<>“”‘’"
_STATED = re.compile(r"(?:answer|label|category|choice|option)\s*(?:is|:|=)?\s*[:=]?\s*(.+)", re.IGNORECASE)
# A negation right before a label: "not a bug" does not say that it is one.
_NEGATED = re.compile(r"(?:\b(?:not|no|never|nor|neither|without)|n['’]t)\s+(?:(?:an?|the)\s+)?[\"'`*_“‘]*$")
_NEGATION_CHARS = 20
# What stands in round brackets is an aside: "42 (100% sure)".
_ASIDE = re.compile(r"\([^()]*\)")
# Thousands separators only between groups of three digits, so that "1, 2" is two numbers.
_NUMBER = re.compile(r"(?<![\w.])[-+−]?[$€£¥]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?")
_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)


def build_check(
    kind: AnswerKind,
    *,
    schema: Callable[[Any], str] | None = None,
    own: Callable[[Any], bool] | None = None,
) -> Check:
    """The check of one task, built once when its policy is loaded.

    Parameters
    ----------
    kind
        What the policy says a usable answer looks like.
    schema
        Says what is wrong with a value, or "": the policy's JSON Schema, which needs a library this module may not use.
    own
        The user's function: takes the value found and says whether it is usable.
    """
    check = _kind_check(kind, schema)
    if own is None:
        return check

    def with_own(text: str) -> Verdict:
        verdict = check(text)
        if verdict.valid and not own(verdict.value):
            return Verdict(False, verdict.value, REFUSED)
        return verdict

    return with_own


def _kind_check(kind: AnswerKind, schema: Callable[[Any], str] | None) -> Check:
    if kind.choice is not None:
        folded = {label.casefold().strip(): label for label in kind.choice}
        bare = _bare(folded)
        return lambda text: _choice(text, folded, bare)
    if kind.number is not None:
        bounds = kind.number
        return lambda text: _number(text, bounds)
    if kind.json is not None:
        return lambda text: _json(text, schema)
    if kind.pattern is not None:
        pattern = re.compile(kind.pattern, re.DOTALL)
        return lambda text: _pattern(text, pattern)
    limits = kind.text or TextAnswer()
    return lambda text: _text(text, limits)


def _bare(folded: dict[str, str]) -> dict[str, str]:
    """The labels by their text without wrapping, where that is one label's alone."""
    keys = [key.strip(_WRAPPING) for key in folded]
    return {key: label for key, label in zip(keys, folded.values(), strict=True) if key and keys.count(key) == 1}


def _choice(text: str, folded: dict[str, str], bare: dict[str, str]) -> Verdict:
    """The one label that the draft gives: alone, after "answer:", or as the only label it mentions."""
    for candidate in _candidates(text):
        key = candidate.casefold()
        label = folded.get(key.strip()) or bare.get(key.strip(_WRAPPING))
        if label is not None:
            return Verdict(True, label)
    low = text.casefold()
    mentioned = [label for key, label in folded.items() if _mentions(low, key)]
    if len(mentioned) == 1:
        return Verdict(True, mentioned[0])
    return Verdict(False, None, f"names {len(mentioned) or 'none'} of the {len(folded)} labels")


def _candidates(text: str) -> Iterator[str]:
    """All of the draft, its first and last line, and what it says after "answer:"; most drafts need only the first."""
    yield text
    lines = [line for line in text.splitlines() if line.strip(_WRAPPING)]
    stated = [match[1] for line in reversed(lines) if (match := _STATED.search(line))]
    yield from (*lines[:1], *lines[-1:], *stated[:1])


def _mentions(text: str, label: str) -> bool:
    if len(label) == 1:  # "A" is a word of English; as a label it stands before a bracket, a colon or a full stop.
        return re.search(rf"^\W*{re.escape(label)}\s*[.:)]", text) is not None
    found = (match.start() for match in re.finditer(rf"(?<!\w){re.escape(label)}(?!\w)", text))
    return any(_NEGATED.search(text, max(0, start - _NEGATION_CHARS), start) is None for start in found)


def _number(text: str, bounds: NumberAnswer) -> Verdict:
    """The last number of the draft, where models put their result; one in brackets only where no other is."""
    found = _numbers(_ASIDE.sub(" ", text)) or _numbers(text)
    if not found:
        return Verdict(False, None, "holds no number")
    value = float(found[-1])
    if not math.isfinite(value):
        return Verdict(False, None, "holds a number that is too large")
    if (bounds.min is not None and value < bounds.min) or (bounds.max is not None and value > bounds.max):
        return Verdict(False, value, "is out of range")
    return Verdict(True, value)


def _numbers(text: str) -> list[str]:
    found = (match.translate(_PLAIN_DIGITS) for match in _NUMBER.findall(text))
    return [match for match in found if any(map(str.isdigit, match))]


_PLAIN_DIGITS = str.maketrans({"−": "-", **dict.fromkeys(",$€£¥", "")})


def _json(text: str, schema: Callable[[Any], str] | None) -> Verdict:
    """The JSON of the draft: all of it, its fenced block, or its first object or array."""
    for candidate in (text, *_FENCE.findall(text)):
        try:
            return _fits(_DECODER.decode(candidate), schema)
        except (ValueError, RecursionError):
            continue
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start >= 0:
        try:
            return _fits(_DECODER.raw_decode(text, start)[0], schema)
        except (ValueError, RecursionError):
            pass
    return Verdict(False, None, "is no JSON")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_constant(digits)


# JSON has no NaN and no infinity, and "1e999" would become one.
# Not strict: models put raw line breaks into strings, and what they mean is plain.
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant, strict=False)


def _fits(value: Any, schema: Callable[[Any], str] | None) -> Verdict:
    try:
        problem = schema(value) if schema else ""
    except (OverflowError, RecursionError):
        problem = "is too large or too deep to compare with the JSON Schema"
    return Verdict(not problem, value, problem)


def _pattern(text: str, pattern: re.Pattern[str]) -> Verdict:
    match = pattern.fullmatch(text.strip())
    return Verdict(True, match[0]) if match else Verdict(False, None, "does not match the pattern")


def _text(text: str, limits: TextAnswer) -> Verdict:
    size = len(text.strip())
    if size < (limits.min_chars or 1):
        return Verdict(False, text, "is too short" if size else "is empty")
    if limits.max_chars is not None and size > limits.max_chars:
        return Verdict(False, text, "is too long")
    return Verdict(True, text)
