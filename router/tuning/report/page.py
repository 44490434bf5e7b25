"""The page: certificate first, then what stands behind it. One file, no script, nothing from outside."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from router.tuning.report import sections
from router.tuning.report.mistakes import Excerpt, excerpts
from router.tuning.report.numbers import Report, plain
from router.tuning.report.style import sheet
from router.tuning.report.text import Cell, escaped, isolated, percent, points, signed, table
from router.tuning.task import TaskTuning
from router.tuning.words import (
    certificate_words,
    idle_words,
    in_force_words,
    judge_words,
    label_words,
    plan_in_words,
    plan_words,
)

# More of the certificate, as with many groups, is folded away.
_SENTENCES = 8
_CHOSEN = "of the settings that passed on them, the cheapest was kept."
_NONE_CHOSEN = "no setting passed on them."
_SPLITS = {
    "certify": "They had no part in fitting or in choosing what to try; ",
    "test": "They had no part in fitting, in choosing or in certifying the plan.",
    "crossfit": "All rows were fitted on too; each is scored by the fit that left it out, which simulation has checked "
    "and no theorem.",
}


def page(tuned: TaskTuning, report: Report, *, examples: bool = True) -> str:
    """The report as one HTML document.

    Parameters
    ----------
    tuned
        The task that was tuned.
    report
        Its figures.
    examples
        Whether excerpts of prompts and answers may stand on the page.
    """
    models = tuned.run.models
    body = [
        _head(tuned, report),
        _statement(tuned, report),
        _plans(tuned),
        sections.cost_section(report, tuned.target.max_quality_loss),
        sections.confidence_section(report),
        sections.money_section(report.spend, models),
        sections.signals_section(report),
        sections.calls_section(report, _texts(tuned, report) if examples else None, models[-1]),
        _source(tuned, report),
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Tune report: {escaped(tuned.task)}</title><style>{sheet()}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(tuned: TaskTuning, report: Report) -> str:
    test = {"certify": "that certify", "test": "of the test split", "crossfit": "of the run"}[report.split]
    clusters = f" of {report.clusters:,} clusters" if report.clusters else ""
    told = _SPLITS[report.split]
    if report.split == "certify":
        told += _CHOSEN if tuned.tuning.certified else _NONE_CHOSEN
    return (
        f"<h1>Tune report: {isolated(tuned.task)}</h1>"
        f"<p class='note'>All figures are of the {report.rows:,} rows{clusters} {test}. {told}</p>"
    )


def _statement(tuned: TaskTuning, report: Report) -> str:
    """The certificate in plain words, or why there is none."""
    top, certificate = tuned.run.models[-1], tuned.certificate
    if certificate is None:
        told = [f"No plan is certified: {tuned.tuning.refusal}.", "The safe plan is always the top rung."]
        kind = "card refused"
    else:
        told, kind = certificate_words(certificate, top), "card"
    if report.clusters:
        told.append("In the figures below a loss is that of the mean cluster; in all else each row counts once.")
    lines = [f"<p>{isolated(line)}</p>" for line in told]
    first, more = "".join(lines[:_SENTENCES]), lines[_SENTENCES:]
    if more:
        first += f"<details><summary>{len(more)} more sentences</summary>{''.join(more)}</details>"
    return (
        f"<div class='{kind}'>{first}</div>{_tiles(tuned, report)}"
        "<p class='note'>Intervals are 90% everywhere on this page.</p>"
        f"<details><summary>The certificate as JSON</summary><pre>{escaped(_as_json(tuned))}</pre></details>"
    )


def _tiles(tuned: TaskTuning, report: Report) -> str:
    """The four figures that matter most."""
    plan, target = report.curve.plan, tuned.target
    (low, high), (least, most) = plan.cost_interval, plan.loss_interval
    tiles = [
        ("cost against always the top rung", signed(plan.cost - 1.0), f"{signed(low - 1)} to {signed(high - 1)}"),
        ("quality against it, points", points(-plan.loss), f"{points(-most)} to {points(-least)}"),
        ("calls that climb", percent(report.spend.climbed_share), ""),
        ("target, points", points(-target.max_quality_loss), f"at {percent(target.at_confidence, 0)} confidence"),
    ]
    shown = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>{f'<dd>{escaped(more)}</dd>' if more else ''}</div>"
        for name, value, more in tiles
    )
    return f"<dl class='tiles'>{shown}</dl>"


def _as_json(tuned: TaskTuning) -> str:
    certificate = asdict(tuned.certificate) if tuned.certificate else None
    told = {"plan": asdict(tuned.plan), "certificate": certificate, "refusal": tuned.tuning.refusal or None}
    return json.dumps(plain(told), indent=2, ensure_ascii=False, default=str)


def _plans(tuned: TaskTuning) -> str:
    rows: list[tuple[str | Cell, ...]] = [
        (f"in force: {in_force_words(tuned.in_force)}", plan_in_words(tuned.in_force)),
        *(("found" if tuned.tuning.certified else "what is left", line) for line in plan_words(tuned.plan)),
    ]
    idle = "".join(f"<p>{escaped(line)}</p>" for line in idle_words(tuned.idle_signals, tuned.idle_panels))
    return f"<h2>The plans</h2>{table('What a call does', ('', 'plan'), rows)}{idle}"


def _texts(tuned: TaskTuning, report: Report) -> dict[str, Excerpt]:
    source = tuned.run.provenance.get("run")
    wanted = {one.row_id for one in (*report.mistakes.kept, *report.mistakes.climbed)}
    names = {rung.model.litellm: rung.name for rung in tuned.in_force.rungs}
    return excerpts(Path(str(source)), wanted, names) if source and wanted else {}


def _source(tuned: TaskTuning, report: Report) -> str:
    rows: list[tuple[str | Cell, ...]] = [
        ("run", str(tuned.run.provenance.get("run", "given as columns"))),
        ("labelled rows", f"{tuned.run.rows:,}, of which {report.train_rows:,} chose the plan"),
        ("models, cheapest first", ", ".join(tuned.run.models)),
        ("digest of rows and labels", tuned.tuner.data_hash),
        ("split", f"seed {tuned.tuner.seed}, {tuned.tuner.method}"),
        ("label", label_words(tuned.run)),
        *(("judge", line) for line in judge_words(tuned.run)),
    ]
    return f"<h2>Where the figures come from</h2>{table('The run', ('', ''), rows)}"
