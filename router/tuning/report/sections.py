"""The sections of the page, each a piece of HTML from figures; what does not exist is said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.tuning.quality import Quality
from router.tuning.report import charts
from router.tuning.report.curves import Curve, Interval, Point
from router.tuning.report.mistakes import Excerpt, Mistake
from router.tuning.report.numbers import Drafts, Report
from router.tuning.report.spend import Part, Spend
from router.tuning.report.svg import swatch
from router.tuning.report.text import Cell, dollars, escaped, figure, isolated, percent, points, ranged, table

_FIGURES = (
    ("Brier score", "brier", "0 is best"),
    ("log loss", "log_loss", "0 is best, in nats"),
    ("AUROC", "auroc", "1 is best, 0.5 is chance"),
    ("calibration error", "calibration_error", "0 is best; ten bins of equal count"),
    ("risk-coverage area", "risk_coverage_area", "0 is best"),
)
_SCORES = {"confidence": "its confidence", "gain": "1 less the gain"}
_WHAT = {"answers": "answers given", "drafts": "drafts paid and not kept", "checks": "judging its drafts"}


def cost_section(report: Report, target: float) -> str:
    """Cost against quality."""
    curve, letters = report.curve, charts.letters(report.curve)
    rows: list[tuple[str | Cell, ...]] = [_point("the plan", curve.plan), _point("in force", report.in_force)]
    for one in curve.models:
        best = ", best static choice" if one.name == curve.best_alone else ""
        name = Cell(f"<b>{letters[one.name]}</b> {isolated(one.name)} alone{best}")
        rows.append((name, *_point("", one)[1:]))
    rows.append(_point("oracle", curve.oracle))
    columns = ("", "cost, share of always the top rung", "quality against it, points", "quality")
    key = _key([(swatch(shape, kind), words) for shape, kind, words in charts.KEY])
    settings = table(
        "The tuner's settings, strict to loose; their thresholds come from the training rows",
        (f"keep a draft at or above, {_SCORES[report.by]}", "cost", "points"),
        [(f"{one.threshold:.4f}", percent(one.cost), points(-one.loss)) for one in curve.frontier],
    )
    return (
        "<h2>Cost and quality</h2>"
        f"<p>Every draft is charged, the ones that were not kept too. {_against(curve)}</p>"
        f"<div class='pair'><figure>{charts.cost_quality(curve, target, report.in_force)}{key}</figure>"
        f"<div>{table('Every point, with 90% intervals', columns, rows)}"
        f"<details><summary>The {len(curve.frontier)} settings on the line</summary>{settings}</details></div></div>"
    )


def _against(curve: Curve) -> str:
    """The plan beside what a sceptic would do: at the same cost, a random mix."""
    low, high = (next(one for one in curve.models if one.name == name) for name in curve.mix)
    if not low.cost < curve.plan.cost < high.cost:
        return ""
    share = (curve.plan.cost - low.cost) / (high.cost - low.cost)
    mixed = (1.0 - share) * low.loss + share * high.loss
    return (
        f"For the plan's money, {isolated(low.name)} and {isolated(high.name)} mixed at random differ from the top "
        f"rung by {points(-mixed)} points, the plan by {points(-curve.plan.loss)}."
    )


def _point(name: str, one: Point) -> tuple[str | Cell, ...]:
    return name, _ranged(one.cost, one.cost_interval), _lost(one.loss, one.loss_interval), percent(one.quality)


def _ranged(share: float, interval: Interval) -> Cell:
    return ranged(percent(share), *map(percent, interval))


def _lost(loss: float, interval: Interval) -> Cell:
    low, high = interval
    return ranged(points(-loss), points(-high), points(-low))


def confidence_section(report: Report) -> str:
    """Reliability, and risk against coverage, of every judged draft."""
    known = [(at, one, one.quality) for at, one in enumerate(report.drafts) if one.quality is not None]
    parts = ["<h2>Is the confidence honest?</h2>"]
    if report.direct:
        parts.append(
            _none("The plan asks one model and needs no confidence; this is of the cascade that came closest.")
        )
    if not known:
        return "".join(parts) + _none("The rows are too few to say how good the confidence is.")
    if not any(one.signals for one in report.drafts):
        parts.append(_none("No signal tells the drafts apart: each has the same confidence."))
    for at, one, quality in known:
        parts += [
            f"<h3>Drafts of {isolated(one.model)}</h3>",
            f"<div class='pair'>{_reliability(at, one)}{_risk(at, one, quality)}</div>",
            _figures(one, quality),
        ]
    return "".join(parts)


def _reliability(at: int, one: Drafts) -> str:
    rows: list[tuple[str | Cell, ...]] = [
        (percent(each.confidence), f"{each.rows:,}", _ranged(each.right, each.interval)) for each in one.bins
    ]
    behind = table(
        "Drafts by confidence; those that are equally sure share a bin; 90% intervals",
        ("mean confidence", "drafts", "right"),
        rows,
    )
    return (
        "<figure><figcaption>Of the drafts that it calls 80% sure, are 80% right? On the diagonal, yes.</figcaption>"
        f"{charts.reliability(at, one.bins)}<details><summary>The {len(one.bins)} bins</summary>{behind}</details>"
        "</figure>"
    )


def _risk(at: int, one: Drafts, quality: Quality) -> str:
    area = quality.risk_coverage_area.value
    step = max(1, len(one.risk_coverage) // 20)
    places = one.risk_coverage[step - 1 :: step]
    rows: list[tuple[str | Cell, ...]] = [(percent(each.coverage), percent(each.risk)) for each in places]
    plan = ""
    if one.kept is not None and one.kept.risk == one.kept.risk:
        plan = (
            f" The diamond is the plan's threshold: {percent(one.kept.coverage)} kept, {percent(one.kept.risk)} wrong."
        )
    behind = table("Wrong drafts among the surest", ("kept", "wrong among them"), rows)
    return (
        "<figure><figcaption>Keep only the surest drafts: how many of them are wrong? "
        f"Area {area:.3f}; dashed: at random, and the best order.{plan}</figcaption>"
        f"{charts.risk(at, one.risk_coverage, one.wrong, area, one.kept)}"
        f"<details><summary>The numbers</summary>{behind}</details></figure>"
    )


def _figures(one: Drafts, quality: Quality) -> str:
    rows: list[tuple[str | Cell, ...]] = []
    for title, name, means in _FIGURES:
        estimate = getattr(quality, name)
        rows.append((title, figure(estimate.value, estimate.low, estimate.high), means))
    caption = f"On {quality.rows:,} drafts, of which {percent(one.wrong)} are wrong; 90% intervals"
    return table(caption, ("", "value", ""), rows)


def money_section(spend: Spend, models: Sequence[str]) -> str:
    """Where the money goes."""
    rows: list[tuple[str | Cell, ...]] = [
        (
            Cell(f"{swatch('square', charts.money_class(part, models))} {isolated(part.model)}: {_what(part)}"),
            dollars(1000 * part.usd_per_call),
            percent(part.share),
        )
        for part in spend.parts
    ]
    rows.append(("the plan", dollars(1000 * spend.plan_usd_per_call), percent(_ratio(spend))))
    rows.append(("always the top rung", dollars(1000 * spend.top_usd_per_call), percent(1.0)))
    lost = sum(part.share for part in spend.parts if part.what == "drafts")
    skipped = f" {percent(spend.skipped_share)} skipped the first draft." if spend.skipped_share else ""
    climbs = (
        f"<p>{percent(spend.climbed_share)} of the calls climbed, which costs {percent(spend.climbing)} of always the "
        f"top rung; drafts that were not kept cost {percent(lost)}.{skipped}</p>"
        if spend.climbed_share
        else _none("The plan never climbs: each call pays one answer.")
    )
    columns = ("", "per 1,000 calls", "of always the top rung")
    return (
        f"<h2>Where the money goes</h2>{climbs}<div class='pair'><figure>{charts.money(spend, models)}</figure>"
        f"<div>{table('Mean cost on these rows', columns, rows)}"
        "<p class='note'>Retries are within each answer's cost; the run does not keep them apart.</p></div></div>"
    )


def _what(part: Part) -> str:
    return _WHAT[part.what]


def _ratio(spend: Spend) -> float:
    return spend.plan_usd_per_call / spend.top_usd_per_call


def signals_section(report: Report) -> str:
    """What each signal is worth."""
    head = "<h2>What each signal is worth</h2>"
    known = [one for one in report.drafts if one.signals]
    if not known:
        return head + _none("No signal is in use, or the rows are too few to tell its worth.")
    parts = [
        head,
        "<p>The confidence is fitted again on the training rows without one signal, and tried on rows that it has not "
        "seen. Signals that say the same cover for one another, so that none of them is missed: the first column has "
        "each by itself.</p>",
    ]
    columns = ("", "AUROC alone", "AUROC lost without it", "log loss added without it", "known in")
    for one in known:
        rows: list[tuple[str | Cell, ...]] = [
            (
                each.signal,
                figure(each.auroc_alone),
                figure(*each.auroc_drop),
                figure(*each.log_loss_rise, digits=4),
                percent(each.known, 0),
            )
            for each in one.signals
        ]
        parts.append(table(f"Drafts of {one.model}; 90% intervals", columns, rows))
    return "".join(parts)


def calls_section(report: Report, texts: Mapping[str, Excerpt] | None, top: str) -> str:
    """Calls that the plan got wrong; `texts` is `None` where nobody wants them on the page."""
    head, found = "<h2>Calls that the plan got wrong</h2>", report.mistakes
    if texts is None:
        return (
            f"{head}<p>{found.kept_rows:,} calls kept a draft where the top rung is better; {found.climbed_rows:,} "
            "climbed although the draft is right. They are left out of this page.</p>"
        )
    note = (
        "<p class='note'>This part holds excerpts of prompts and answers; <code>--no-examples</code> leaves them "
        "out.</p>"
    )
    if report.by == "gain":
        head += "<p class='note'>A score is 1 less the gain: below 0.5 the top rung is likelier to beat the draft.</p>"
    return (
        f"{head}{note if texts else ''}<div class='pair'>"
        f"<div><h3>Kept, and the top rung is better: {_of(found.kept, found.kept_rows)}</h3>"
        f"{_calls(found.kept, texts, top) or _none('There is none on these rows.')}</div>"
        f"<div><h3>Climbed, and the draft is right: {_of(found.climbed, found.climbed_rows)}</h3>"
        f"{_calls(found.climbed, texts, top) or _none('There is none on these rows.')}</div></div>"
    )


def _of(shown: Sequence[Mistake], rows: int) -> str:
    return f"{len(shown)} of {rows:,}" if rows > len(shown) else f"{rows:,}"


def _calls(calls: Sequence[Mistake], texts: Mapping[str, Excerpt], top: str) -> str:
    return f"<ol class='calls'>{''.join(_call(one, texts.get(one.row_id), top) for one in calls)}</ol>" if calls else ""


def _call(one: Mistake, said: Excerpt | None, top: str) -> str:
    prompt = isolated(said.prompt) if said and said.prompt else f"row {isolated(one.row_id)}, whose text the run lacks"
    told = []
    if one.score == one.score:
        limit = f", threshold {one.threshold:.3f}" if one.threshold is not None else ""
        told.append(f"score {one.score:.3f}{limit}")
    if one.skipped:
        told.append("skipped by the gate")
    if said:
        answers = [(one.model, said.answers.get(one.model, "")), (top, said.answers.get(top, ""))]
        told += [f"{isolated(name)}: {isolated(answer)}" for name, answer in answers if answer]
        told += [f"label: {isolated(said.label)}"] if said.label else []
    return f"<li><q>{prompt}</q><span class='note'>{' · '.join(told)}</span></li>"


def _key(entries: Sequence[tuple[str, str]]) -> str:
    return (
        f"<ul class='key'>{''.join(f'<li>{drawn}<span>{escaped(words)}</span></li>' for drawn, words in entries)}</ul>"
    )


def _none(sentence: str) -> str:
    return f"<p>{escaped(sentence)}</p>"
