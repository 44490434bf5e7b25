"""A change between two periods, taken apart into what brought it about; the parts add up to it exactly.

A mean that is a product of factors changes with all of them at once. Each gets the mean, over all orders in which the
factors can change one after the other, of what its own change adds: its Shapley value. All arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from math import factorial
from typing import NamedTuple

Key = tuple[str, ...]


class Part(NamedTuple):
    """One part of a change: what changed, of what, by how much, and the figure behind it in both periods."""

    kind: str
    key: Key
    amount: Fraction
    before: Fraction
    after: Fraction


class Line(NamedTuple):
    """What one model did for one task in a period: replies, their tokens and cost, and what failed requests cost."""

    replies: int = 0
    input_tokens: int = 0
    cached_read_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0
    failed_nusd: int = 0


class Weights(NamedTuple):
    """What a model's tokens cost beside one another; they say what longer prompts add, and not what anything costs."""

    input: Fraction = Fraction(1)
    cached_read: Fraction = Fraction(1)
    output: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Spending:
    """What the calls of a period cost, by task and model. `nusd` may hold more or less than the lines explain."""

    calls: int
    nusd: int
    lines: Mapping[Key, Line] = field(default_factory=dict)
    accepted: int = 0
    """Calls with an answer."""


class Group(NamedTuple):
    """Calls that went the same way: how many, and how many of those were slow."""

    calls: int = 0
    slow: int = 0


def shapley(
    value: Callable[[Sequence[Fraction]], Fraction], before: Sequence[Fraction], after: Sequence[Fraction]
) -> list[Fraction]:
    """Each factor's part in the change of a value that is made of them."""
    places = range(len(before))
    parts = [Fraction(0)] * len(before)
    for size in range(len(before)):
        weight = Fraction(factorial(size) * factorial(len(before) - size - 1), factorial(len(before)))
        for changed in combinations(places, size):
            mixed = [after[place] if place in changed else before[place] for place in places]
            start = value(mixed)
            for place in set(places) - set(changed):
                parts[place] += weight * (value([*mixed[:place], after[place], *mixed[place + 1 :]]) - start)
    return parts


def cost_parts(before: Spending, after: Spending, weights: Mapping[Key, Weights] | None = None) -> list[Part]:
    """The parts of the change of the mean cost of a call, in nano-dollars."""
    parts: list[Part] = []
    for key in sorted({*before.lines, *after.lines}):
        old, new = before.lines.get(key, Line()), after.lines.get(key, Line())
        parts += _line_parts(key, (old, before.calls), (new, after.calls), (weights or {}).get(key, Weights()))
        failed = [_ratio(line.failed_nusd, calls) for line, calls in ((old, before.calls), (new, after.calls))]
        parts.append(Part("failed", key, failed[1] - failed[0], failed[0], failed[1]))
    means = [_ratio(spending.nusd, spending.calls) for spending in (before, after)]
    other = means[1] - means[0] - sum(part.amount for part in parts)
    return [*parts, Part("other", (), other, Fraction(0), other)]


def accepted_cost_parts(before: Spending, after: Spending, weights: Mapping[Key, Weights] | None = None) -> list[Part]:
    """The parts of the change of the mean cost of an accepted answer, where both periods have some."""
    means = [_ratio(spending.nusd, spending.calls) for spending in (before, after)]
    tries = [Fraction(spending.calls, spending.accepted) for spending in (before, after)]
    scale, mean = (tries[0] + tries[1]) / 2, (means[0] + means[1]) / 2
    parts = [part._replace(amount=part.amount * scale) for part in cost_parts(before, after, weights)]
    unanswered = [1 - 1 / each for each in tries]
    return [*parts, Part("unanswered", (), (tries[1] - tries[0]) * mean, unanswered[0], unanswered[1])]


def share_parts(before: Mapping[Key, int], after: Mapping[Key, int], calls: tuple[int, int]) -> list[Part]:
    """The parts of the change of a share of calls that is counted by its reason."""
    shares = {
        key: (_ratio(before.get(key, 0), calls[0]), _ratio(after.get(key, 0), calls[1]))
        for key in sorted({*before, *after})
    }
    return [Part("climbed", key, new - old, old, new) for key, (old, new) in shares.items()]


def slow_parts(before: Mapping[Key, Group], after: Mapping[Key, Group]) -> list[Part]:
    """The parts of the change of the share of slow calls: slower calls of a kind, and more calls of a slow kind."""
    totals = [sum(group.calls for group in groups.values()) for groups in (before, after)]
    parts: list[Part] = []
    for key in sorted({*before, *after}):
        groups = before.get(key, Group()), after.get(key, Group())
        shares = [_ratio(group.calls, total) for group, total in zip(groups, totals, strict=True)]
        slow = _filled([Fraction(group.slow, group.calls) if group.calls else None for group in groups])
        more, slower = shapley(lambda each: each[0] * each[1], *zip(shares, slow, strict=True))
        parts.append(Part("more", key, more, *shares))
        parts.append(Part("slower", key, slower, *slow))
    return parts


_FACTORS = ("asked", "input", "cached", "output", "price")


def _line_parts(key: Key, old: tuple[Line, int], new: tuple[Line, int], weights: Weights) -> Iterator[Part]:
    """One model's replies: how often it was asked, how long prompts and answers were, and what a token cost."""
    periods = (old, new)
    asked = [_ratio(line.replies, calls) for line, calls in periods]
    sizes = [_sizes(line) for line, _ in periods]
    inputs, cached, outputs = (_filled([size[place] for size in sizes]) for place in range(3))
    weighted = [_weighted(size, weights) for size in zip(inputs, cached, outputs, strict=True)]
    if not all(weighted):  # No tokens that cost anything: by the reply.
        each = _filled([Fraction(line.cost_nusd, line.replies) if line.replies else None for line, _ in periods])
        parts = shapley(lambda one: one[0] * one[1], *zip(asked, each, strict=True))
        yield Part("asked", key, parts[0], *asked)
        yield Part("reply", key, parts[1], *each)
        return
    prices = _filled(
        [
            Fraction(line.cost_nusd, line.replies) / size if line.replies else None
            for (line, _), size in zip(periods, weighted, strict=True)
        ]
    )
    factors = (asked, inputs, cached, outputs, prices)
    parts = shapley(lambda one: one[0] * _weighted(one[1:4], weights) * one[4], *zip(*factors, strict=True))
    for name, amount, (before, after) in zip(_FACTORS, parts, factors, strict=True):
        yield Part(name, key, amount, before, after)


def _sizes(line: Line) -> tuple[Fraction | None, Fraction | None, Fraction | None]:
    """Input tokens of a reply, the share of them read from a cache, output tokens; `None` where there is none."""
    if not line.replies:
        return None, None, None
    cached = Fraction(line.cached_read_tokens, line.input_tokens) if line.input_tokens else None
    return Fraction(line.input_tokens, line.replies), cached, Fraction(line.output_tokens, line.replies)


def _weighted(sizes: Sequence[Fraction], weights: Weights) -> Fraction:
    inputs, cached, outputs = sizes
    return inputs * (weights.input + cached * (weights.cached_read - weights.input)) + outputs * weights.output


def _filled(pair: Sequence[Fraction | None]) -> tuple[Fraction, Fraction]:
    """A figure of both periods; one that a period lacks did not change."""
    known = [one for one in pair if one is not None] or [Fraction(0)]
    before, after = (known[0] if one is None else one for one in pair)
    return before, after


def _ratio(amount: int, count: int) -> Fraction:
    return Fraction(amount, count) if count else Fraction(0)
