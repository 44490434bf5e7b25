"""`router distill`: make the cheapest rung that a high-volume classification can have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, Environment, Policies, percent, print_json

if TYPE_CHECKING:
    from router.core.plan import Plan
    from router.tuning import Distilled


def distill(
    task: Annotated[str, typer.Argument(help="Name of a task whose answer is a choice.")],
    source: Annotated[Path, typer.Option("--from", help="Labels: .csv or .jsonl with text and label, or a recording.")],
    name: Annotated[str | None, typer.Option(help="Name of the local model; else TASK-SIZE.")] = None,
    size: Annotated[str, typer.Option(help="small (kilobytes, microseconds) or large (megabytes).")] = "small",
    model: Annotated[str | None, typer.Option(help="Of a recording: the model whose answers are the labels.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split into training and held-out texts.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a model that is there.")] = False,
    policies: Policies = None,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Train a local classifier for a task, show what it is worth on unseen texts, and write it beside the policies."""
    from router.api import Router
    from router.core.policy import AnswerKind
    from router.models.local import PREFIX, classifier_path, save
    from router.models.text_features import SIZES
    from router.spec import ModelCalibrators, load, write_tuned
    from router.testing import ScriptedModels
    from router.tuning import distill as fit
    from router.tuning import read_labels

    if size not in SIZES:
        raise typer.BadParameter(f"{size!r} is neither of {', '.join(SIZES)}", param_hint="--size")
    loaded = load(policies, environment=environment)
    plan = Router(policies, environment=environment, backend=ScriptedModels({})).plan(task)
    kind: AnswerKind = plan.task.answer
    if kind.choice is None:
        typer.echo(f"error: task {task!r} has no `answer: {{choice: [...]}}`; only labels can be distilled", err=True)
        raise typer.Exit(2)
    local = name or f"{task}-{size}"
    path = classifier_path(loaded.folder or Path(), local)
    if path.exists() and not force:
        typer.echo(f"error: {path} is there already; nothing was written. Use --force to overwrite", err=True)
        raise typer.Exit(1)
    rows = read_labels(source, check=plan.check, model=model)
    found = fit(rows, size="large" if size == "large" else "small", seed=seed, source=source.name)
    entry = ModelCalibrators(model=local, litellm=f"{PREFIX}{local}", calibrators=(found.calibrator,))
    try:
        save(found.classifier, path)
        tuned = write_tuned(loaded.folder or Path(), task, entry, found.classifier.provenance)
    except OSError as error:
        typer.echo(f"error: {error.filename}: cannot be written ({error.strerror})", err=True)
        raise typer.Exit(1) from None
    report = _report(found, plan, path, tuned, local)
    if as_json:
        print_json(report)
    else:
        _print(report, plan, local)


def _report(found: Distilled, plan: Plan, path: Path, tuned: Path, local: str) -> dict[str, Any]:
    # As it will be in the ladder: one number counts for every rung, of a list the first.
    threshold = plan.task.threshold[0] if isinstance(plan.task.threshold, tuple) else plan.task.threshold
    kept, accuracy = found.accepted_at(threshold)
    return {
        "model": local,
        "written": [str(path), str(tuned)],
        "bytes": path.stat().st_size,
        "train_rows": found.train_rows,
        "test_rows": found.test_rows,
        "accuracy": found.accuracy,
        "majority_accuracy": found.majority_accuracy,
        "brier": found.brier,
        "calibration_error": found.calibration_error,
        "microseconds": found.microseconds,
        "threshold": threshold,
        "would_answer": kept,
        "accuracy_there": accuracy,
    }


def _print(report: dict[str, Any], plan: Plan, local: str) -> None:
    typer.echo(f"held-out accuracy  {percent(report['accuracy'])} of {report['test_rows']} texts it has not seen")
    typer.echo(
        f"                   {percent(report['majority_accuracy'])} would be right with the commonest label alone"
    )
    typer.echo(
        f"confidence         {percent(report['calibration_error'])} off on average; Brier score {report['brier']:.3f}"
    )
    typer.echo(f"speed and size     {report['microseconds']:.0f} us a text, {report['bytes'] / 1000:,.0f} kB on disk")
    others = [rung.name for rung in plan.rungs if rung.name != local]
    typer.echo(
        f"what it would save at a threshold of {percent(report['threshold'])} it answers "
        f"{percent(report['would_answer'])} of the calls itself"
    )
    if report["accuracy_there"] is not None:
        typer.echo(f"                   and is right in {percent(report['accuracy_there'])} of them")
    if others:
        left = percent(1 - report["would_answer"])
        typer.echo(f"                   {others[0]!r} is then asked for the other {left} only")
    for path in report["written"]:
        typer.echo(f"wrote {path}")
    typer.echo("next: put it first in the ladder, and say what a second of your machine costs:")
    typer.echo(f"  models:\n    {local}: {{litellm: local/{local}, price: {{gpu_second_usd: 0.00001}}}}")
    typer.echo(f"  tasks:\n    {plan.task_name}:\n      ladder: [{', '.join([local, *others])}]")
    if isinstance(plan.task.threshold, tuple) and len(others) == len(plan.rungs):
        thresholds = [report["threshold"], *plan.task.threshold]
        typer.echo(f"      threshold: [{', '.join(map(str, thresholds))}]")
