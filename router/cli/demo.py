"""`router demo`: see a cascade decide and save, on this machine, without a key."""

from __future__ import annotations

import shlex
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.common import AsJson, Refused, console, percent, print_json, print_table, say

if TYPE_CHECKING:
    from router.demo import Demo

HOME = "router-home"


def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep policies and ledger in this folder, to look around.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train two small classifiers, route tickets they have not seen, and show what the cascade saves and why."""
    from router.demo import api_model, prepare, run

    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="router-demo-")))
        policies = _empty(folder)
        try:
            with console(stderr=True).status("starting") as status:
                fitted = prepare(policies, progress=status.update)
                found = run(policies, folder / HOME, progress=status.update)
        except OSError as error:
            raise Refused(f"{error.filename}: cannot be written ({error.strerror})", exit_code=1) from None
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
        typer.echo(f"\nkept: router audit --home {shlex.quote(str(folder / HOME))} --by model")
    typer.echo("\nnext: router init && router check, then wrap a call: route(task, prompt)")


def _empty(folder: Path) -> Path:
    """The folder for the demo's policies, made now; policies and ledgers that are somebody's own stay as they are."""
    for place in (folder / "policies", folder / HOME):
        if place.exists():
            raise Refused(f"{place} is there already; nothing was written. Give --keep a new folder", exit_code=1)
    try:
        (folder / "policies").mkdir(parents=True)
    except OSError as error:
        raise Refused(
            f"{error.filename}: cannot be written ({error.strerror}); choose another --keep", exit_code=1
        ) from None
    return folder / "policies"


def _print(found: Demo) -> None:
    from rich.text import Text

    from router.events import clean

    out = console()
    for shown in found.shown:
        answer = shown.answer
        say(f"“{clean(shown.text)}”")
        for step in answer.steps:
            action = (step.action, "green" if step.action == "accept" else "yellow")
            out.print(Text.assemble(f"    {step.model}: ", action, f", {step.reason}"), soft_wrap=True)
        verdict = ("right", "green") if answer.parsed == shown.label else (f"a person said {shown.label}", "red")
        out.print(Text.assemble("    -> ", (clean(answer.text), "bold"), " (", verdict, ")\n"), soft_wrap=True)
    say(f"{found.tickets} unseen tickets; dollars for a million calls, this machine at $0.36 an hour:\n")
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
