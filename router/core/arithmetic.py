"""Numbers and sums written in a text, and whether these come out right: read as digits and signs, never run as code."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from operator import add, mul, sub, truediv
from typing import NamedTuple

from router.core.text_features import beyond_ascii

NUMBER = re.compile(r"\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,12})?")
# Of text without other digits the parts that numbers are in: splitting is several times as fast as looking everywhere.
_NO_NUMBER = bytes(code if code in b"0123456789,." else 32 for code in range(256))
_PLAIN_DIGITS = 15

# Only so many signs of equality are looked at, the last ones, and only so far to either side: the time is bounded for
# any text.
_MOST_SUMS, _REACH = 8, 60
_BESIDE_DIGITS = ".,$€£%()*/x×÷+-−\\ "
_ALLOWED = "0123456789" + _BESIDE_DIGITS
_TOKEN = re.compile(r"(\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,12})?)(%?)|([-+*/x×÷−()])")
_SIGNS = {"x": "*", "×": "*", "÷": "/", "−": "-"}
# Results are mostly written with two decimals.
_ROUNDED, _RELATIVE = 0.006, 1e-3

_Token = float | str

_SHORT = r"[$ ]*(\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,12})?)"
_TWO = re.compile(rf"{_SHORT} *([-+*/x×÷−]){_SHORT} *")
_RESULT = re.compile(rf"{_SHORT}[ .,]*(?![{re.escape(_ALLOWED)}])", re.ASCII)
_RUN = re.compile("==+")
_OPERATIONS: dict[str, Callable[[float, float], float]] = {"+": add, "-": sub, "*": mul, "/": truediv}
_OPERATIONS |= {written: _OPERATIONS[sign] for written, sign in _SIGNS.items()}


class Sum(NamedTuple):
    """One sum in a text."""

    result: float
    """What it is said to come to."""
    right: bool
    """Whether it does."""
    operands: tuple[float, ...]
    """The numbers it is made of."""


def number(text: str) -> float:
    """The value of a number as it is written."""
    return float(text.replace(",", "") if "," in text else text)


def numbers_in(text: str) -> list[float]:
    """The numbers in a text, each at least once; the last one comes last."""
    if not text.isascii() and any(map(str.isdecimal, beyond_ascii(text))):
        return list(map(number, NUMBER.findall(text)))
    found: list[float] = []
    parts = text.encode("ascii", "replace").translate(_NO_NUMBER).decode().split()
    for part in reversed(dict.fromkeys(reversed(parts))):
        if part.isdigit() and len(part) <= _PLAIN_DIGITS:
            found.append(float(part))
        elif part := part.strip(".,"):
            found += map(number, NUMBER.findall(part))
    return found


def sums(text: str) -> list[Sum]:
    """The sums at a text's last signs of equality, in order; `6*7=42` gives `Sum(42.0, True, (6.0, 7.0))`."""
    parts = text.rsplit("=", _MOST_SUMS)
    if "" in parts:  # A comparison of a program or a line under a heading is no sum.
        parts = _RUN.sub(" ", text).rsplit("=", _MOST_SUMS)
    return [one for before, after in pairwise(parts) if (one := _sum_of(before, after)) is not None]


def _sum_of(before: str, after: str) -> Sum | None:
    """What stands on either side of a sign of equality, or `None` where it is no sum."""
    tail, result = before[-_REACH:], _RESULT.match(after, 0, _REACH)
    left_text = tail[len(tail.rstrip(_ALLOWED)) :]
    if result and (two := _TWO.fullmatch(left_text)):  # Most sums are this short, and read several times as fast.
        one_text, sign, other_text = two.groups()
        operands: tuple[float, ...] = (number(one_text), number(other_text))
        try:
            return _compared(_OPERATIONS[sign](*operands), number(result[1]), operands)
        except ZeroDivisionError:
            return None
    head = after[:_REACH]
    right_text = head[: len(head) - len(head.lstrip(_ALLOWED))]
    if not left_text.strip(_BESIDE_DIGITS) or not right_text.strip(_BESIDE_DIGITS):  # No digit on one side.
        return None
    left = _last(_tokens(left_text))
    right: list[_Token] = [number(result[1])] if result else _first(_tokens(right_text))
    if len(left) < 3 and len(right) < 3:  # "x = 5" is no sum.
        return None
    sides = ([token for token in side if isinstance(token, float)] for side in (left, right))
    operands = tuple(value for side in sides if len(side) > 1 for value in side)
    one, other = _value(left), _value(right)
    return None if one is None or other is None else _compared(one, other, operands)


def _compared(one: float, other: float, operands: tuple[float, ...]) -> Sum:
    return Sum(other, abs(one - other) <= _ROUNDED + _RELATIVE * abs(other), operands)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    for digits, percent, sign in _TOKEN.findall(text):
        if digits:
            found.append(number(digits) / (100.0 if percent else 1.0))
        else:
            found.append(_SIGNS.get(sign, sign))
    return found


def _breaks(tokens: list[_Token]) -> list[int]:
    """Where one sum ends and another begins: between a number and one that follows it, or a bracket that opens."""
    return [
        at
        for at in range(1, len(tokens))
        if isinstance(tokens[at - 1], float) and (isinstance(tokens[at], float) or tokens[at] == "(")
    ]


def _last(tokens: list[_Token]) -> list[_Token]:
    tokens = tokens[(_breaks(tokens) or [0])[-1] :]
    while tokens and (tokens[0] in ("*", "/", "+", ")") or (tokens[0] == "(" and ")" not in tokens)):
        tokens = tokens[1:]
    return tokens


def _first(tokens: list[_Token]) -> list[_Token]:
    tokens = tokens[: (_breaks(tokens) or [len(tokens)])[0]]
    while tokens and (tokens[-1] in ("*", "/", "+", "-", "(") or (tokens[-1] == ")" and "(" not in tokens)):
        tokens = tokens[:-1]
    return tokens


def _value(tokens: list[_Token]) -> float | None:
    """What the tokens come to, or `None` where they are no sum."""
    reader = _Reader(tokens)
    try:
        found = reader.added()
    except (ValueError, ZeroDivisionError):
        return None
    return found if reader.at == len(tokens) else None


class _Reader:
    """Reads numbers, signs and brackets from left to right; at most `_REACH` of them, so it cannot nest deeply."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.at = tokens, 0

    def _sign(self, signs: str) -> str:
        """The next sign where it is one of these, else nothing."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if isinstance(token, str) and token and token in signs:
            self.at += 1
            return token
        return ""

    def added(self) -> float:
        found = self._multiplied()
        while sign := self._sign("+-"):
            other = self._multiplied()
            found = found + other if sign == "+" else found - other
        return found

    def _multiplied(self) -> float:
        found = self._single()
        while sign := self._sign("*/"):
            other = self._single()
            found = found * other if sign == "*" else found / other
        return found

    def _single(self) -> float:
        if self._sign("-"):
            return -self._single()
        if self._sign("("):
            found = self.added()
            if not self._sign(")"):
                raise ValueError("a bracket is not closed")
            return found
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if not isinstance(token, float):
            raise ValueError("no number where one must be")
        self.at += 1
        return token
