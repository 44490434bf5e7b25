"""The charts of a report: figures in, SVG out."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from string import ascii_uppercase

from router.tuning.report.curves import Bin, Curve, Kept, Point
from router.tuning.report.spend import Part, Spend
from router.tuning.report.svg import WIDTH, Axis, Frame, Shape, axis, picture, text
from router.tuning.report.text import percent, points

_SHARE = Axis(0.0, 1.0, "", lambda value: f"{100 * value:.0f}%")
# The bars of the money, and the room of each.
_BAR, _BAR_STEP = 26.0, 62.0
# Height of the strip of a reliability diagram that the counts stand in.
_COUNTS = 0.2
# What loses more than so many times the target would squeeze all that matters.
_FAR = 8.0


def letters(curve: Curve) -> dict[str, str]:
    """The letter of each single model's point."""
    return {one.name: ascii_uppercase[at % len(ascii_uppercase)] for at, one in enumerate(curve.models)}


def cost_quality(curve: Curve, target: float, in_force: Point) -> str:
    """Cost against quality, every draft charged."""
    frame = _plane(curve, target, in_force)
    at = {one.name: (one.cost, -one.loss) for one in curve.models}
    oracle = (curve.oracle.cost, -curve.oracle.loss)
    old = [(in_force.cost, -in_force.loss)] if isfinite(in_force.cost) else []
    plan, (low, high), (left, right) = curve.plan, curve.plan.loss_interval, curve.plan.cost_interval
    parts = [
        frame.grid(),
        frame.line([(frame.x.low, -target), (frame.x.high, -target)], "limit"),
        frame.line([at[name] for name in curve.mix], "chance"),
        frame.line([(one.cost, -one.loss) for one in curve.frontier], "ours"),
        *(frame.marker(at[name], "square" if name == curve.best_alone else "circle", "alone") for name in at),
        frame.marker(oracle, "triangle", "oracle"),
        *(frame.marker(one, "cross", "old") for one in old),
        frame.whisker((plan.cost, -high), (plan.cost, -low), "ours"),
        frame.whisker((left, -plan.loss), (right, -plan.loss), "ours"),
        frame.marker((plan.cost, -plan.loss), "diamond", "ours"),
        frame.labels(
            [(letter, at[name]) for name, letter in letters(curve).items()],
            [oracle, *old, (plan.cost, -plan.loss)],
        ),
    ]
    said = (
        f"The plan costs {percent(plan.cost)} of always the top rung and its quality differs by {points(-plan.loss)} "
        "points. The table has every point."
    )
    return picture("cost", "Cost against quality", said, "".join(parts))


def _plane(curve: Curve, target: float, in_force: Point) -> Frame:
    """Axes that hold what matters: a model that loses many times the target stands on the edge."""
    shown = [*curve.models, curve.oracle, in_force]
    losses = [*(one.loss for one in shown), *(one.loss for one in curve.frontier)]
    losses = [min(loss, _FAR * target) for loss in losses] + [target, *curve.plan.loss_interval]
    worst = max(map(abs, losses))
    costs = [0.0, 1.0, *curve.plan.cost_interval, *(one.cost for one in shown)]
    costs += [one.cost for one in curve.frontier]
    return Frame(
        axis(costs, "cost, % of always the top rung", lambda share: f"{100 * share:.0f}"),
        axis(
            [-loss for loss in losses],
            "quality against it, points",
            lambda share: points(share, 0 if worst > 0.03 else 1),
        ),
    )


def reliability(model: int, bins: Sequence[Bin]) -> str:
    """Confidence against what happened, with the count of each bin below."""
    frame = Frame(
        Axis(0.0, 1.0, "confidence; above it how many drafts", _SHARE.written),
        Axis(-_COUNTS, 1.0, "drafts that are right", _SHARE.written),
    )
    parts = [frame.grid(), frame.line([(0.0, 0.0), (1.0, 1.0)], "chance")]
    parts.append(frame.line([(one.confidence, one.right) for one in bins], "ours"))
    for one in bins:
        low, high = one.interval
        parts.append(frame.upright((one.confidence, -_COUNTS + 0.015), f"{one.rows:,}"))
        parts.append(frame.whisker((one.confidence, low), (one.confidence, high), "ours"))
        parts.append(frame.marker((one.confidence, one.right), "circle", "ours"))
    total = sum(one.rows for one in bins)
    off = max(bins, key=lambda one: abs(one.right - one.confidence))
    said = (
        f"{len(bins)} bins of {total} drafts. Furthest from the diagonal: at confidence {percent(off.confidence, 0)}, "
        f"{percent(off.right, 0)} are right."
    )
    return picture(f"reliability-{model}", "Confidence against what happened", said, "".join(parts))


def risk(model: int, curve: Sequence[Kept], wrong: float, area: float, kept: Kept | None) -> str:
    """The share of wrong drafts among the surest, for every share kept."""
    frame = Frame(
        Axis(0.0, 1.0, "drafts kept, the surest first", _SHARE.written),
        axis([0.0, wrong, *(one.risk for one in curve)], "wrong among them", lambda value: f"{100 * value:g}%"),
    )
    best = [(0.0, 0.0), (1.0 - wrong, 0.0)]
    best += [(at, (at - 1.0 + wrong) / at) for at in (1.0 - wrong + wrong * step / 20 for step in range(1, 21)) if at]
    parts = [
        frame.grid(),
        frame.line([(0.0, wrong), (1.0, wrong)], "chance"),
        frame.line(best, "oracle"),
        frame.line([(one.coverage, one.risk) for one in curve], "ours"),
    ]
    if kept is not None and kept.risk == kept.risk:
        parts.append(frame.marker((kept.coverage, kept.risk), "diamond", "ours"))
    said = f"Area under the curve {area:.3f}; kept at random {percent(wrong)} would be wrong."
    return picture(f"risk-{model}", "Risk and coverage", said, "".join(parts))


def money(spend: Spend, models: Sequence[str]) -> str:
    """Two bars: always the top rung, and the plan in its parts."""
    whole = max(1.0, sum(part.share for part in spend.parts))
    room = WIDTH - 24.0
    top = _stretch(12.0, 24.0, room / whole, "top")
    parts = [text(12, 18, "always the top rung: 100%", "label"), top]
    x, y = 12.0, 24.0 + _BAR_STEP
    total = sum(part.share for part in spend.parts)
    parts.append(text(12, y - 6, f"the plan: {percent(total)}", "label"))
    for part in spend.parts:
        width = room * part.share / whole
        parts.append(_stretch(x, y, width, money_class(part, models)))
        x += width
    said = "; ".join(f"{part.model} {part.what} {percent(part.share)}" for part in spend.parts) or "nothing is paid"
    return picture("money", "Where the money goes", said, "".join(parts), y + _BAR + 8)


def _stretch(x: float, y: float, width: float, kind: str) -> str:
    return f'<rect class="bar {kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{_BAR}"/>'


def money_class(part: Part, models: Sequence[str]) -> str:
    """How a part is drawn: the top rung, a cheaper model's answers, its lost drafts, or checks."""
    if part.what == "checks":
        return "checks"
    if part.model == models[-1]:
        return "top"
    return "small" if part.what == "answers" else "lost"


KEY: tuple[tuple[Shape | None, str, str], ...] = (
    ("diamond", "ours", "the plan that was found, with its 90% interval"),
    (None, "ours", "the tuner's settings, strict (right) to loose (left)"),
    ("circle", "alone", "one model alone"),
    ("square", "alone", "the best static choice: the cheapest alone that keeps the target"),
    (None, "chance", "the best two models mixed at random, without drafts"),
    ("triangle", "oracle", "oracle: pays the cheapest draft, climbs only where that helps"),
    ("cross", "old", "the plan in force"),
    (None, "limit", "the target"),
)
