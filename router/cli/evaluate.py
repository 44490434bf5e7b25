"""`router eval`: ask every model of a ladder for every labelled row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, Environment, Home, Policies, Refused, counted, print_json

if TYPE_CHECKING:
    from router.tuning import Estimate, Eval, Evaluated

Grader = Annotated[
    str | None,
    typer.Option(help="exact, choice, number, json, pattern, f1, disagreement or judge; else by answer kind."),
]
Tolerance = Annotated[float, typer.Option(help="Of the grader number: the largest distance that is right.")]
Fields = Annotated[str, typer.Option(help="Of the grader json: the fields that count, with commas; else all.")]

Judge = Annotated[str | None, typer.Option(help="Of the grader judge: the model that judges, none of the ladder.")]
ShowLabel = Annotated[bool, typer.Option("--show-label", help="Of the grader judge: let it see labels.")]


def evaluate(
    task: Annotated[str, typer.Argument(help="Name of the task in the policies.")],
    data: Annotated[Path, typer.Option(help="Labelled rows: .csv or .jsonl with prompt and label.")],
    run: Annotated[Path | None, typer.Option(help="Where the run goes; else runs/TASK.jsonl.")] = None,
    grader: Grader = None,
    tolerance: Tolerance = 0.0,
    fields: Fields = "",
    judge: Judge = None,
    show_label: ShowLabel = False,
    drop_duplicates: Annotated[bool, typer.Option(help="Drop rows that repeat an earlier prompt.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first so many rows.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at the same time.")] = 4,
    per_minute: Annotated[float | None, typer.Option(help="Requests started in a minute at the most.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="US dollars that the whole run may cost.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending.")] = False,
    replay: Annotated[Path | None, typer.Option(help="Answer from this recording instead of real models.")] = None,
    policies: Policies = None,
    environment: Environment = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Ask every model of a task's ladder for every labelled row, grade the answers, and keep them for `router tune`.

    A run that was stopped goes on where it was: answers that are there are not asked again. Exits 1 when answers are
    missing at the end, 3 when the limit on cost is reached.
    """
    done = run_eval(
        task,
        data,
        run,
        fields,
        yes=yes,
        replay=replay,
        limit=limit,
        quiet=as_json,
        grader=grader,
        tolerance=tolerance,
        judge=judge,
        show_label=show_label,
        drop_duplicates=drop_duplicates,
        concurrency=concurrency,
        per_minute=per_minute,
        max_usd=max_usd,
        policies=policies,
        environment=environment,
        home=home,
    )
    if as_json:
        print_json({**done._asdict(), "path": str(done.path)})
    else:
        _print(done, task)
    raise typer.Exit(3 if done.stopped else 1 if done.left else 0)


def run_eval(
    task: str,
    data: Path,
    run: Path | None,
    fields: str,
    *,
    yes: bool,
    replay: Path | None,
    quiet: bool,
    limit: int | None = None,
    **settings: Any,
) -> Evaluated:
    """Ask what is still open, after a yes where it costs money."""
    from router.models.replay import Replay
    from router.tuning import Eval, read_rows, run_path

    names = [name.strip() for name in fields.split(",") if name.strip()]
    backend = Replay.load(replay) if replay else None
    work = Eval(task, read_rows(data)[:limit], run or run_path(task), fields=names, backend=backend, **settings)
    estimate = work.estimate()
    if estimate.requests and replay is None:
        _require_keys(work)
        _ask_first(work, estimate, settings.get("max_usd"), yes=yes)
    return _run(work, estimate.requests, quiet=quiet)


def _require_keys(work: Eval) -> None:
    """A key that is missing is told before the question about money."""
    if missing := work.missing_keys():
        told = "; ".join(f"{key}, for {', '.join(names)}" for key, names in missing.items())
        raise Refused(f"a key is missing: {told}. Set it and run the same command; nothing was asked", exit_code=2)


def _ask_first(work: Eval, estimate: Estimate, max_usd: float | None, *, yes: bool) -> None:
    """Say what it will cost and go on only with a yes."""
    about = "unknown" if estimate.usd is None else f"about ${estimate.usd:,.4f}"
    most = "" if estimate.upper_usd is None else f", at most ${estimate.upper_usd:,.4f} without retries"
    judged = f", judged by {work.judge}" if work.judge else ""
    typer.echo(f"{counted(estimate.requests, 'request')} to {', '.join(work.models)}{judged}: {about}{most}", err=True)
    for name in estimate.unpriced:
        typer.echo(f"the price of {name!r} is unknown; give it a `price:` to know the cost before", err=True)
    if max_usd is not None:
        typer.echo(f"stops before ${max_usd:,.2f} are spent", err=True)
    if yes:
        return
    if not _somebody_is_there():
        typer.echo("error: this spends money and nobody is there to ask; add --yes", err=True)
        raise typer.Exit(2)
    typer.confirm("go on?", abort=True, err=True)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _run(work: Eval, requests: int, *, quiet: bool) -> Evaluated:
    """Run it behind a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("${task.fields[cost]:,.4f}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        shown = bar.add_task("eval", total=requests, cost=0.0)
        try:
            return work.run(lambda now: bar.update(shown, completed=now.done, total=now.total, cost=now.cost_usd))
        except KeyboardInterrupt:
            typer.echo("stopped; what was answered is kept, and the same command goes on from there", err=True)
            raise typer.Exit(130) from None


def _print(done: Evaluated, task: str) -> None:
    typer.echo(
        f"{counted(done.asked, 'answer')} asked, {done.kept:,} kept from before, {done.failed:,} failed; "
        f"the run cost ${done.cost_usd:,.4f}"
    )
    if done.nonsense:
        typer.echo(f"{counted(done.nonsense, 'answer')} without a grade: the judge's reply was no verdict")
    typer.echo(f"run: {done.path}")
    if done.stopped:
        typer.echo(f"stopped: {done.stopped}; raise --max-usd and run the same command to go on")
    elif done.left:
        typer.echo(f"{counted(done.left, 'answer')} missing; run the same command again, it asks only those")
    else:
        typer.echo(f"next: router tune {task}")
