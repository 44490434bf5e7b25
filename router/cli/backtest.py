"""`router backtest`: what another policy or plan would have changed in calls that are recorded."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import (
    AsJson,
    Environment,
    Policies,
    console,
    counted,
    dollars,
    percent,
    print_json,
    print_table,
    say,
)
from router.cli.evaluate import Fields, Tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.tuning import Backtest
    from router.tuning.paired import Comparison, Measure, Outcome, Share


def backtest(
    task: Annotated[str, typer.Argument(help="Name of the task in the policies.")],
    recording: Annotated[Path, typer.Option(help="What Router(record=...) or `router eval` wrote.")],
    candidate: Annotated[
        Path | None, typer.Option(help="To try: a policy file or folder, or a tuned .json beside those in force.")
    ] = None,
    threshold: Annotated[str | None, typer.Option(help="To try: this threshold; several with commas.")] = None,
    top: Annotated[bool, typer.Option("--top", help="To try: always the top rung.")] = False,
    labels: Annotated[Path | None, typer.Option(help="Labels of its prompts, .csv or .jsonl.")] = None,
    grader: Annotated[
        str | None, typer.Option(help="exact, choice, number, json, pattern or f1; else recorded marks, or by kind.")
    ] = None,
    tolerance: Tolerance = 0.0,
    fields: Fields = "",
    show: Annotated[int, typer.Option(min=0, help="Also show so many of the calls that are answered otherwise.")] = 0,
    policies: Policies = None,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Play recorded calls under another policy or plan, and show what changes in cost, quality and latency.

    Nothing is sent: every call takes the production path with the recorded answers, once under the policies in force
    and once under what is to be tried.
    """
    from router.tuning import Candidate, read_rows
    from router.tuning import backtest as run

    if sum((candidate is not None, threshold is not None, top)) != 1:
        raise typer.BadParameter(
            "say what to try: one of --candidate, --threshold and --top", param_hint="--candidate / --threshold / --top"
        )
    with console(stderr=True).status(f"playing {recording}"):
        found = run(
            task,
            recording,
            Candidate(candidate, _thresholds(threshold), top),
            policies=policies,
            environment=environment,
            labels=read_rows(labels) if labels else (),
            grader=grader,
            tolerance=tolerance,
            fields=[name.strip() for name in fields.split(",") if name.strip()],
        )
    if as_json:
        print_json(_as_plain(found))
    else:
        _print(found, show)


def _thresholds(given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no number", param_hint="--threshold") from None


def _print(found: Backtest, show: int) -> None:
    used = found.total.calls
    of = "" if used == found.calls else f"{used:,} of "
    say(f"{found.task}: {of}{counted(found.calls, 'call')} of {found.recording}")
    say(f"in force:  {found.in_force.words}")
    say(f"candidate: {found.candidate.words}")
    typer.echo("")
    columns = ["", "calls", "in force", "candidate", "change"]
    print_table(columns, _measures(found.total), numbers=columns[1:])
    if found.features:
        typer.echo("")
        columns = ["feature", "calls", "cost", "points of quality", "mean latency"]
        print_table(columns, [_feature(one) for one in found.features], numbers=columns[1:])
    typer.echo("90 % intervals of the change, call by call\n")
    say(_changed(found.total))
    for one in found.changed[:show]:
        say(f"  line {one.line}: {_answer(one.before)} -> {_answer(one.after)}")
    for model, count in found.lacking.items():
        say(
            f"left out: {counted(count, 'call')} for which no answer of {model!r} is recorded; what is left is no fair "
            "sample of the calls"
        )
    if others := [one for one in found.left_out if one.model is None]:
        say(f"left out: {counted(len(others), 'call')}: {others[0].why}")
    for note in found.notes:
        say(f"note: {note}")


def _measures(one: Comparison) -> list[list[str]]:
    p95 = one.p95_latency_s
    cost = _line("cost of a call", one.cost_usd, _money)
    return [
        [*cost[:-1], _share(one) or cost[-1]],
        _line("quality", one.quality, percent, _points),
        _line("latency, mean", one.latency_s, _seconds),
        ["latency, p95", f"{one.latency_s.calls:,}", *(map(_seconds, p95) if p95 else ["unknown"] * 2), ""],
        _line("escalated", one.escalated, percent, _points),
        ["without an answer", f"{one.calls:,}", *(f"{count:,}" for count in one.unanswered), ""],
    ]


def _feature(one: Comparison) -> list[str]:
    cost, quality, latency = one.cost_usd, one.quality, one.latency_s
    return [
        one.name,
        f"{one.calls:,}",
        _share(one) or _change(cost, _money),
        _change(quality, _points),
        "unknown" if latency.change is None else _signed(latency.change, _seconds),
    ]


def _line(
    name: str, one: Measure, told: Callable[[float], str], change: Callable[[float], str] | None = None
) -> list[str]:
    before, after = ("unknown" if side is None else told(side) for side in (one.before, one.after))
    return [name, f"{one.calls:,}", before, after, _change(one, change or told)]


def _share(one: Comparison) -> str:
    return _change(one.cost_share, percent) if one.cost_share else ""


def _change(one: Measure | Share, told: Callable[[float], str]) -> str:
    if one.change is None:
        return "unknown"
    if one.interval is None:
        return f"{_signed(one.change, told)} (too few calls)"
    low, high = one.interval
    return f"{_signed(one.change, told)} ({_signed(low, told)} to {_signed(high, told)})"


def _signed(value: float, told: Callable[[float], str]) -> str:
    """With a sign, unless it is told as nothing."""
    text = told(value)
    return f"{'+' * (value > 0)}{text}" if re.search("[1-9]", text) else text.lstrip("-")


def _changed(one: Comparison) -> str:
    told = f"{one.changed:,} of {counted(one.calls, 'call')} are answered otherwise"
    if not one.changed or not one.quality.calls:
        return told
    rest = one.changed - one.better - one.worse
    return f"{told}: {one.better:,} better, {one.worse:,} worse, {rest:,} as good or unknown"


def _answer(one: Outcome) -> str:
    quality = "" if one.quality is None else f" ({one.quality:.3g})"
    return f"{one.model or 'no answer'}{quality}"


def _money(usd: float) -> str:
    return dollars(round(usd * 1e9))


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s"


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def _as_plain(found: Backtest) -> dict[str, Any]:
    return {
        "task": found.task,
        "recording": str(found.recording),
        "calls": found.calls,
        "in_force": asdict(found.in_force),
        "candidate": asdict(found.candidate),
        "total": _plain_comparison(found.total),
        "features": [_plain_comparison(one) for one in found.features],
        "changed": [
            {**asdict(one), "before": _plain_outcome(one.before), "after": _plain_outcome(one.after)}
            for one in found.changed
        ],
        "left_out": [asdict(one) for one in found.left_out],
        "lacking": found.lacking,
        "notes": list(found.notes),
    }


def _plain_comparison(one: Comparison) -> dict[str, Any]:
    measures = {name: getattr(one, name)._asdict() for name in ("cost_usd", "quality", "latency_s", "escalated")}
    measures["cost_share"] = one.cost_share._asdict() if one.cost_share else None
    return {**asdict(one), **measures}


def _plain_outcome(one: Outcome) -> dict[str, Any]:
    """Without the answer itself, which may say what the prompt said."""
    return {name: value for name, value in one._asdict().items() if name != "said"}
