"""`router tune`: the cheapest plan that provably keeps the target, and whether the plans in force still do."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from router.cli.common import AsJson, Environment, Policies, Refused, percent, print_json, print_table, say
from router.cli.evaluate import Fields, Grader, Judge, ShowLabel, Tolerance, run_eval
from router.errors import TuningError

if TYPE_CHECKING:
    from router.tuning import Realised, Shown, TaskTuning, Verified

_FINDING, _NOT_CERTIFIABLE = 1, 4


def tune(
    task: Annotated[str | None, typer.Argument(help="Name of the task; with --check all of them when missing.")] = None,
    run: Annotated[Path | None, typer.Option(help="The eval run; else runs/TASK.jsonl.")] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled rows to ask first, as `router eval` does.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="With --data: US dollars that the run may cost.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --data: do not ask before spending.")] = False,
    replay: Annotated[Path | None, typer.Option(help="With --data: answer from this recording.")] = None,
    max_loss: Annotated[float | None, typer.Option(help="Largest loss, 0.02 is 2 points; else `target:`.")] = None,
    confidence: Annotated[
        float | None, typer.Option(max=0.999_999, help="How sure to be, 0.95; else `target:`.")
    ] = None,
    never_worse: Annotated[bool | None, typer.Option(help="No credit for answers that are better.")] = None,
    method: Annotated[str, typer.Option(help="split (guaranteed) or crossfit (simulation-checked).")] = "split",
    each_alone: Annotated[bool, typer.Option(help="With `group:`: each certificate by itself.")] = False,
    only_look: Annotated[bool, typer.Option(help="Spend the rows' whole error budget on this look.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    test_share: Annotated[
        float, typer.Option(min=0.0, max=0.8, help="Share of the rows that is only reported on.")
    ] = 0.0,
    valid_days: Annotated[int, typer.Option(min=1, max=36_500, help="Days until the certificate runs out.")] = 180,
    grader: Grader = None,
    tolerance: Tolerance = 0.0,
    fields: Fields = "",
    judge: Judge = None,
    show_label: ShowLabel = False,
    write: Annotated[bool, typer.Option("--write", help="Write tuned/TASK.json, which calls then follow.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write all figures as a web page, one file.")] = None,
    examples: Annotated[bool, typer.Option(help="With --report: show excerpts of misjudged prompts.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Only check that plans in force keep their target.")] = False,
    policies: Policies = None,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest plan that provably keeps a task's target, and show it beside the plan in force.

    With --data it asks the models first, or what is still missing. Nothing is written without --write. Exits 4 when
    nothing can be certified, 1 when --check finds something.
    """
    from router.tuning import check_tuned, tune_task

    if check:
        found = check_tuned(task, run, policies=policies, environment=environment)
        _print_checks(found, as_json=as_json)
        raise typer.Exit(_FINDING if any(one.findings for one in found) else 0)
    if task is None:
        raise typer.BadParameter("name a task; only --check takes all of them", param_hint="TASK")
    _require_place(report)
    if method not in ("split", "crossfit"):
        raise typer.BadParameter(f"{method!r} is neither split nor crossfit", param_hint="--method")
    if max_loss is not None and not 0.0 < max_loss < 1.0:
        raise typer.BadParameter(f"{max_loss} is not between 0 and 1; 0.02 is two points", param_hint="--max-loss")
    if data is None and (judge is not None or show_label):
        raise typer.BadParameter("is asked with --data; `router eval` asks it too", param_hint="--judge")
    where: dict[str, Any] = {"policies": policies, "environment": environment}
    if data is not None:
        wanted = {"max_quality_loss": max_loss, "at_confidence": confidence, "test_share": test_share}
        _require_target(task, data, **where, **wanted, method=method, only_look=only_look)
        done = run_eval(
            task,
            data,
            run,
            fields,
            yes=yes,
            replay=replay,
            quiet=as_json,
            grader=grader,
            tolerance=tolerance,
            judge=judge,
            show_label=show_label,
            max_usd=max_usd,
            **where,
        )
        if done.stopped:
            typer.echo(f"stopped: {done.stopped}; nothing was tuned", err=True)
            raise typer.Exit(3)
    try:
        tuned = tune_task(
            task,
            run,
            **where,
            grader=grader,
            tolerance=tolerance,
            fields=[name.strip() for name in fields.split(",") if name.strip()],
            max_quality_loss=max_loss,
            at_confidence=confidence,
            never_worse=never_worse,
            method=cast("Literal['split', 'crossfit']", method),
            each_alone=each_alone,
            only_look=only_look,
            seed=seed,
            test_share=test_share,
            valid_days=valid_days,
        )
    except TuningError as error:
        typer.echo(f"not certifiable: {error}; nothing was written", err=True)
        raise typer.Exit(_NOT_CERTIFIABLE) from None
    _show(tuned, tuned.write() if write and tuned.tuning.certified else None, report, examples, as_json=as_json)
    raise typer.Exit(0 if tuned.tuning.certified else _NOT_CERTIFIABLE)


def _show(tuned: TaskTuning, written: Path | None, report: Path | None, examples: bool, *, as_json: bool) -> None:
    """The result in the terminal or as JSON, and as a page where one is wanted."""
    from router.tuning.report import page, report_of

    figures = report_of(tuned) if report is not None or as_json else None
    if as_json:
        print_json({**_as_plain(tuned, written), "report": figures.as_json() if figures else None})
    else:
        _print(tuned, written)
    if report is None or figures is None:
        return
    try:
        report.write_text(page(tuned, figures, examples=examples), encoding="utf-8")
    except OSError as error:
        raise Refused(f"{report}: cannot be written ({error.strerror}); choose another --report", exit_code=1) from None
    if not as_json:
        say(f"wrote {report}" + ("; it holds excerpts of prompts, --no-examples leaves them out" if examples else ""))


def _require_place(report: Path | None) -> None:
    """A page that could not be written is refused before a look is spent."""
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise typer.BadParameter(f"{str(report)!r} is no file in a folder that is there", param_hint="--report")


def _require_target(task: str, data: Path, **settings: Any) -> None:
    """What no answers could mend is said before any is paid for."""
    from router.tuning import read_rows
    from router.tuning.task import require_target

    try:
        require_target(task, read_rows(data), **settings)
    except TuningError as error:
        typer.echo(f"not certifiable: {error}; nothing was asked", err=True)
        raise typer.Exit(_NOT_CERTIFIABLE) from None


def _print(tuned: TaskTuning, written: Path | None) -> None:
    from router.tuning.words import certificate_words, idle_words, in_force_words, judge_words, plan_words

    top = tuned.run.models[-1]
    rows = len(tuned.new.model)
    noted = f"nothing was written but the look, in {tuned.looks}"
    typer.echo(f"{tuned.task}: {tuned.run.rows:,} rows; the figures are of the {rows:,} rows for certifying\n")
    for line in judge_words(tuned.run):
        say(line)
    _print_report(tuned, tuned.shown, in_force_words(tuned.in_force))
    if tuned.test is not None:
        typer.echo(f"test split: {tuned.test.rows:,} rows that had no part in choosing or certifying\n")
        _print_report(tuned, tuned.test, in_force_words(tuned.in_force))
    if not tuned.tuning.certified:
        say(f"not certifiable: {tuned.tuning.refusal}")
        say(f"{noted}. The safe plan is always the top rung: `ladder: [{top}]`")
        return
    typer.echo("plan")
    for line in [*plan_words(tuned.plan), *idle_words(tuned.idle_signals, tuned.idle_panels)]:
        say(f"  {line}")
    typer.echo("certificate")
    if tuned.certificate is not None:
        for line in certificate_words(tuned.certificate, top):
            say(f"  {line}")
    typer.echo("a stricter target")
    for one in tuned.stricter:
        say(f"  {_stricter(one.max_quality_loss, one.rows, tuned.run.rows)}")
    say(f"wrote {written}" if written else f"{noted}; --write puts the plan into tuned/{tuned.task}.json")


def _print_report(tuned: TaskTuning, shown: Shown, in_force: str) -> None:
    """What could be done with these rows, what is done now and what was found; drafts are charged everywhere."""
    columns = ["", "cost", "points lost", "escalated"]
    others = [one for one in shown.choices if one.name in (*tuned.run.models, "random", "oracle")]
    lines = [
        [
            f"always {one.name}" if one.name in tuned.run.models else one.name,
            percent(one.cost),
            f"{100 * one.loss:.2f}",
            "",
        ]
        for one in others
    ]
    lines.append(_line(f"in force: {in_force}", shown.old))
    if tuned.tuning.certified:
        lines.append(_line("found", shown.new))
    print_table(columns, lines, numbers=columns[1:])
    if tuned.tuning.certified:
        cost, lost = shown.change.cost, shown.change.loss
        (low, high), (least, most) = shown.change.cost_interval, shown.change.loss_interval
        say(
            f"found instead of in force: cost {100 * cost:+.1f}% ({100 * low:+.1f}% to {100 * high:+.1f}%) of the top "
            f"rung, points lost {100 * lost:+.2f} ({100 * least:+.2f} to {100 * most:+.2f})"
        )
    if shown.new.clusters:
        say(
            f"points lost are those of the mean of {shown.new.clusters:,} clusters; cost and escalated of the mean call"
        )
    typer.echo("intervals are 90 %\n")
    _print_quality(shown, tuned.run.models[-1])


def _print_quality(shown: Shown, top: str) -> None:
    """What the fitted confidence is worth, model by model; the top rung's decides nothing."""
    drafts = {name: one for name, one in shown.quality.items() if name != top}
    if not drafts:
        return
    figures = {
        "Brier score": "brier",
        "log loss": "log_loss",
        "AUROC": "auroc",
        "risk-coverage area": "risk_coverage_area",
        "calibration error": "calibration_error",
    }
    lines = [[title, *(_figure(getattr(one, name)) for one in drafts.values())] for title, name in figures.items()]
    columns = ["confidence in", *drafts]
    print_table(columns, lines, numbers=columns[1:])
    typer.echo("of drafts that it was not fitted on\n")


def _figure(one: Any) -> str:
    if not isfinite(one.value):
        return "unknown"
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" if isfinite(one.low) else f"{one.value:.3f}"


def _line(name: str, one: Realised) -> list[str]:
    (low, high), (least, most) = one.cost_interval, one.loss_interval
    return [
        name,
        f"{percent(one.cost)} ({percent(low)} to {percent(high)})",
        f"{100 * one.loss:.2f} ({100 * least:.2f} to {100 * most:.2f})",
        percent(one.escalated_share),
    ]


def _stricter(loss: float, rows: int | None, have: int) -> str:
    target = f"{100 * loss:g} points"
    if rows is None:
        return f"{target}: no number of rows like these would do; it takes a better signal or another ladder"
    if rows <= have:
        return f"{target}: these rows may do, at the price of another look"
    return f"{target}: about {rows:,} labelled rows in all"


def _as_plain(tuned: TaskTuning, written: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "task": tuned.task,
        "target": asdict(tuned.target),
        "rows": tuned.run.rows,
        "look": tuned.look,
        "certified": tuned.tuning.certified,
        "refusal": tuned.tuning.refusal or None,
        "needed_rows": tuned.tuning.needed_rows,
        "in_force": {"force": tuned.in_force.standing.force, **tuned.old.as_json()},
        "found": tuned.new.as_json(),
        "plan": asdict(tuned.plan),
        "certificate": asdict(tuned.certificate) if tuned.certificate else None,
        "idle_signals": list(tuned.idle_signals),
        "idle_panels": list(map(list, tuned.idle_panels)),
        "stricter": [one._asdict() for one in tuned.stricter],
        "quality": {name: one.as_json() for name, one in tuned.shown.quality.items()},
        "choices": [one._asdict() for one in tuned.shown.choices],
        "change": tuned.shown.change._asdict(),
        "test": tuned.test.as_json() if tuned.test else None,
        "written": str(written) if written else None,
    }


def _print_checks(found: list[Verified], *, as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "task": one.task,
                    "force": one.standing.force,
                    "run": str(one.run) if one.run else None,
                    **(one.realised.as_json() if one.realised else {}),
                    "notes": [one.standing.problem] if one.standing.problem and not one.standing.stale else [],
                    "findings": list(one.findings),
                }
                for one in found
            ]
        )
        return
    if not found:
        typer.echo("no task has a target or a tuned plan")
    for one in found:
        if one.realised is not None:
            loss, cost = 100 * one.realised.loss, percent(one.realised.cost)
            of = f" (the mean of {one.realised.clusters:,} clusters)" if one.realised.clusters else ""
            typer.echo(f"{one.task}: loses {loss:.2f} points{of} and costs {cost} of the top rung alone on {one.run}")
        if one.standing.problem and not one.standing.stale:
            typer.echo(f"{one.task}: {one.standing.problem}")
        for finding in one.findings:
            typer.echo(f"finding: task {one.task!r}: {finding}")
        if not one.findings:
            typer.echo(f"{one.task}: meets its target")
