"""Small pure functions that write SVG: axes with round ticks, lines, bands, markers and bars, all text escaped.

A chart is 360 units wide, the width of a telephone, so that its 11-unit text is never smaller than 11 pixels there.
Colours come from classes, which the page gives a light and a dark form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from router.tuning.report.text import escaped

WIDTH, HEIGHT = 360.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 12.0, 42.0

Shape = Literal["circle", "square", "diamond", "triangle", "cross"]
Place = tuple[float, float]

# Where a label may stand beside its marker, the best place first.
_AROUND: tuple[Place, ...] = ((9, -7), (-9, -7), (9, 15), (-9, 15), (0, -11), (0, 20), (16, 4), (-16, 4))
_LABEL_SIZE = 12.0


@dataclass(frozen=True)
class Axis:
    """One axis: its ends, and how its numbers are written."""

    low: float
    high: float
    title: str
    written: Callable[[float], str]

    @property
    def ticks(self) -> tuple[float, ...]:
        """Round numbers within the axis."""
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(round(at * step, 12) for at in range(first, last + 1))


def axis(values: Iterable[float], title: str, written: Callable[[float], str]) -> Axis:
    """An axis that holds all of these values with a little room, and starts at 0 where they do."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = max(0.04 * (high - low), 0.002)
    return Axis(low - room if low else 0.0, high + room, title, written)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is not less."""
    scale = 10.0 ** math.floor(math.log10(least))
    return next(step * scale for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * scale >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Frame:
    """Where values of two axes stand in the picture."""

    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> Place:
        """The place of a value, held within the frame."""
        across = (min(max(x, self.x.low), self.x.high) - self.x.low) / (self.x.high - self.x.low)
        up = (min(max(y, self.y.low), self.y.high) - self.y.low) / (self.y.high - self.y.low)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        """Grid, ticks and titles of both axes."""
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        parts = []
        for value in self.y.ticks:
            _, y = self.at(self.x.low, value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
            parts.append(text(_LEFT - 6, y + 3.5, self.y.written(value), "tick end"))
        for value in self.x.ticks:
            x, _ = self.at(value, self.y.low)
            parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
            parts.append(text(min(x, right - 8), bottom + 17, self.x.written(value), "tick middle"))
        parts.append(text((_LEFT + right) / 2, HEIGHT - 6, self.x.title, "tick middle"))
        middle = (_TOP + bottom) / 2
        turned = f"translate(12 {middle:.1f}) rotate(-90)"
        parts.append(f'<text class="tick middle" transform="{turned}">{escaped(self.y.title)}</text>')
        return "".join(parts)

    def line(self, points: Sequence[Place], kind: str) -> str:
        """A line through values."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        return f'<polyline class="line {kind}" points="{places}"/>' if points else ""

    def whisker(self, one: Place, other: Place, kind: str) -> str:
        """An interval: a line with a foot at either end."""
        (x0, y0), (x1, y1) = self.at(*one), self.at(*other)
        dx, dy = (0, 3) if abs(x1 - x0) > abs(y1 - y0) else (3, 0)
        feet = "".join(f"M{x - dx:.1f} {y - dy:.1f}L{x + dx:.1f} {y + dy:.1f}" for x, y in ((x0, y0), (x1, y1)))
        return f'<path class="whisker {kind}" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}{feet}"/>'

    def bar(self, low: Place, high: Place, kind: str) -> str:
        """A rectangle between two values."""
        (x0, y0), (x1, y1) = self.at(*low), self.at(*high)
        return f'<rect class="bar {kind}" x="{x0:.1f}" y="{y1:.1f}" width="{x1 - x0:.1f}" height="{y0 - y1:.1f}"/>'

    def upright(self, point: Place, words: str) -> str:
        """Text that runs upwards from a value, so that neighbours have room."""
        x, y = self.at(*point)
        return f'<text class="tick" transform="translate({x + 3.5:.1f} {y:.1f}) rotate(-90)">{escaped(words)}</text>'

    def marker(self, point: Place, shape: Shape, kind: str) -> str:
        """A marker at a value."""
        return marker(*self.at(*point), shape, kind)

    def labels(self, named: Sequence[tuple[str, Place]], others: Sequence[Place] = ()) -> str:
        """Short labels beside their markers, moved about so that none covers another one, a marker or another place."""
        spots = [self.at(*point) for _, point in named]
        taken = [*spots, *(self.at(*point) for point in others)]
        parts = []
        for (label, _), spot in zip(named, spots, strict=True):
            near = [one for one in taken if one is not spot]
            x, y = max(((spot[0] + dx, spot[1] + dy) for dx, dy in _AROUND), key=lambda at: _room(at, near))
            taken.append((x, y - 4))
            parts.append(text(x, y, label, "label middle"))
        return "".join(parts)


def _room(at: Place, others: Sequence[Place]) -> float:
    """How far a label is from what it may cover; no better than free, and worse outside the frame."""
    x, y = at
    inside = _LEFT < x < WIDTH - _RIGHT and _TOP < y < HEIGHT - _BOTTOM
    nearest = min((math.hypot(x - ox, y - 4 - oy) for ox, oy in others), default=math.inf)
    return min(nearest, _LABEL_SIZE) - (0.0 if inside else _LABEL_SIZE)


def text(x: float, y: float, words: str, kind: str) -> str:
    """A piece of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escaped(words)}</text>'


def marker(x: float, y: float, shape: Shape, kind: str) -> str:
    """A marker; its shape tells it apart where colours do not."""
    outlines: dict[Shape, str] = {
        "circle": f"M{x - 4.5:.1f} {y:.1f}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8Z",
        "diamond": f"M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5Z",
        "triangle": f"M{x:.1f} {y - 5.5:.1f}l5.5 9.5h-11Z",
        "cross": f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8",
    }
    return f'<path class="marker {kind}" d="{outlines[shape]}"/>'


def picture(name: str, title: str, description: str, content: str, height: float = HEIGHT) -> str:
    """The whole picture, with a title and a description for who cannot see it.

    Parameters
    ----------
    name
        Unlike any other id of the page.
    title, description
        What it is, and what it shows in a sentence.
    content
        The drawing.
    height
        In units.
    """
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escaped(title)}</title><desc id="{name}-d">{escaped(description)}</desc>{content}</svg>'
    )


def swatch(shape: Shape | None, kind: str) -> str:
    """A marker or a piece of line as a key shows it; what it means stands beside it."""
    drawn = marker(9, 8, shape, kind) if shape else f'<path class="line {kind}" d="M0 8H18"/>'
    return f'<svg class="swatch" viewBox="0 0 18 16" aria-hidden="true">{drawn}</svg>'
