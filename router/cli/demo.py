"""`router demo`: see a cascade decide and save, on this machine, without a key."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, percent, print_json, print_table

if TYPE_CHECKING:
    from router.demo import Demo


def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep policies and ledger in this folder, to look around.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train two small classifiers, route tickets they have not seen, and show what the cascade saves and why."""
    from rich.console import Console

    from router.demo import api_model, prepare, run

    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-demo-")))
        policies = folder / "policies"
        policies.mkdir(parents=True, exist_ok=True)
        err = Console(stderr=True)
        with err.status("starting") as status:
            fitted = prepare(policies, progress=status.update)
            found = run(policies, folder / "router-home", progress=status.update)
    if as_json:
        print_json(_as_plain(found))
        return
    sizes = ", ".join(f"{name} {one.microseconds:.0f} us a call" for name, one in fitted.items())
    typer.echo(f"Two classifiers, trained just now on tickets written for this demo\n({sizes}).")
    if api := api_model():
        typer.echo(f"A key is set, so the calls below may climb to {api};\nthe table uses the local rungs only.")
    typer.echo("")
    _print(found)
    if keep:
        typer.echo(f"\nkept: router audit --home {folder / 'router-home'} --by model")
    typer.echo("\nnext: router init && router check, then wrap a call: route(task, prompt)")


def _print(found: Demo) -> None:
    for shown in found.shown:
        answer = shown.answer
        typer.echo(f"“{shown.text}”")
        for step in answer.steps:
            typer.echo(f"    {step.model}: {step.action}, {step.reason}")
        verdict = "right" if answer.parsed == shown.label else f"a person said {shown.label}"
        typer.echo(f"    -> {answer.text} ({verdict})\n")
    typer.echo(f"{found.tickets} unseen tickets; dollars for a million calls, this machine at $0.36 an hour:\n")
    columns = ["", "accuracy", "cost", "escalated", "for climbing"]
    rows = [
        [
            line.name,
            percent(line.accuracy),
            f"${line.usd_per_million:.4f}",
            percent(line.escalated),
            f"${line.marginal_usd_per_million:.4f}",
        ]
        for line in found.lines
    ]
    print_table(columns, rows, numbers=columns[1:])
    large, cascade = found.lines[1], found.lines[2]
    saved = 1 - cascade.usd_per_million / large.usd_per_million
    points = 100 * (cascade.accuracy - large.accuracy)
    word = "less" if saved >= 0 else "more"
    typer.echo(
        f"\nThe cascade costs {abs(saved):.0%} {word} than the large one alone, at {points:+.1f} points of accuracy:\n"
        "where the small one is sure enough it answers, and only the rest climbs."
    )


def _as_plain(found: Demo) -> dict[str, Any]:
    from dataclasses import asdict

    shown = [
        {
            "text": one.text,
            "label": one.label,
            "answer": one.answer.text,
            "steps": [asdict(s) for s in one.answer.steps],
        }
        for one in found.shown
    ]
    return {"tickets": found.tickets, "lines": [asdict(line) for line in found.lines], "shown": shown}
