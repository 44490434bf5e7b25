"""`router distill`: make the cheapest rung that a high-volume classification can have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, Environment, Policies, Refused, console, counted, percent, print_json, say

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
    from router.core.text_features import SIZES
    from router.models.local import classifier_path
    from router.spec import load
    from router.testing import ScriptedModels
    from router.tuning import distill as fit
    from router.tuning import read_labels

    if size not in SIZES:
        raise typer.BadParameter(f"{size!r} is neither of {', '.join(SIZES)}", param_hint="--size")
    loaded = load(policies, environment=environment)
    plan = Router(policies, environment=environment, backend=ScriptedModels({})).plan(task)
    kind: AnswerKind = plan.task.answer
    if kind.choice is None:
        problem = f"task {task!r} has no `answer: {{choice: [...]}}`; only labels can be distilled"
        raise Refused(problem, exit_code=2)
    # A task's name may hold signs that a file's may not, and be as long as a file's may be.
    local = name or f"{re.sub('[^A-Za-z0-9._-]', '-', task)[:90]}-{size}"
    folder = loaded.folder or Path()
    _refuse_overwriting(classifier_path(folder, local), force)
    with console(stderr=True).status(f"reading {source}") as status:
        rows = read_labels(source, check=plan.check, model=model)
        status.update(f"training on {counted(len(rows), 'text')}")
        found = fit(rows, size="large" if size == "large" else "small", seed=seed, source=source.name)
    try:
        path, tuned = _write(found, folder, task, local, force)
    except OSError as error:
        raise Refused(f"{error.filename}: cannot be written ({error.strerror})", exit_code=1) from None
    report = _report(found, plan, path, tuned, local)
    if as_json:
        print_json(report)
    else:
        _print(report, plan, local)


def _refuse_overwriting(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise Refused(f"{path} is there already; nothing was written. Use --force to overwrite", exit_code=1)


def _write(found: Distilled, folder: Path, task: str, local: str, force: bool) -> tuple[Path, Path]:
    """Classifier and calibrator belong together: both are written or neither, and nobody else writes meanwhile."""
    from router.models.local import PREFIX, classifier_path, save
    from router.spec import ModelCalibrators, exclusive, write_tuned

    path = classifier_path(folder, local)
    entry = ModelCalibrators(model=local, litellm=f"{PREFIX}{local}", calibrators=(found.calibrator,))
    with exclusive(folder / "tuned"):
        _refuse_overwriting(path, force)  # Another process may have been faster.
        before = path.read_bytes() if path.exists() else None
        save(found.classifier, path)
        try:
            return path, write_tuned(folder, task, entry, found.classifier.provenance)
        except BaseException:
            path.unlink() if before is None else path.write_bytes(before)
            raise


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
    def line(what: str, told: str) -> None:
        say(f"{what:<19}{told}")

    line("held-out accuracy", f"{percent(report['accuracy'])} of {report['test_rows']} texts it has not seen")
    line("", f"{percent(report['majority_accuracy'])} would be right with the commonest label alone")
    line("confidence", f"{percent(report['calibration_error'])} off on average; Brier score {report['brier']:.3f}")
    line("speed and size", f"{report['microseconds']:.0f} us a text, {report['bytes'] / 1000:,.0f} kB on disk")
    at = f"at a threshold of {percent(report['threshold'])} it answers"
    line("what it would save", f"{at} {percent(report['would_answer'])} of the calls itself")
    if report["accuracy_there"] is not None:
        line("", f"and is right in {percent(report['accuracy_there'])} of them")
    others = [rung.name for rung in plan.rungs if rung.name != local and not rung.kind]
    if not report["would_answer"]:
        line("", "so it would only add its own draft: label more texts, or lower the threshold")
    elif others:
        line("", f"{others[0]!r} is then asked for the other {percent(1 - report['would_answer'])} only")
    for path in report["written"]:
        typer.echo(f"wrote {path}")
    say("next: put it first in the ladder, and say what a second of your machine costs:")
    typer.echo("\n".join(f"  {line}" for line in _advised(report, plan, local, others)))


def _advised(report: dict[str, Any], plan: Plan, local: str, others: list[str]) -> list[str]:
    """The lines of YAML that put a rung into the policy; none is longer than its names make it."""
    lines = [
        "models:",
        f"  {local}:",
        f"    litellm: local/{local}",
        "    price: {gpu_second_usd: 0.00001}",
        "tasks:",
        f"  {plan.task_name}:",
        "    ladder:",
        *(f"      - {name}" for name in (local, *others)),
    ]
    if isinstance(plan.task.threshold, tuple) and len(others) == len(plan.rungs):
        lines.append(f"    threshold: [{', '.join(map(str, (report['threshold'], *plan.task.threshold)))}]")
    return lines
