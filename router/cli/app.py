"""The `router` command: its subcommands, and how every error becomes a message and an exit code.

Exit codes: 0 fine, 1 a finding or a call without an answer, 2 a wrong call of the command or
a file with a fault, 3 a limit on cost, 4 data that cannot carry a certificate.
"""

from __future__ import annotations

import sys
import warnings

import typer

from router.cli import audit, check, demo, distill, evaluate, init, models, route, tune
from router.errors import (
    CostLimitExceeded,
    InvalidCall,
    PolicyError,
    RecordingError,
    ReplayMiss,
    RouterError,
    RouterWarning,
    UnknownTask,
)

app = typer.Typer(
    name="router",
    help="Answer each LLM call with the smallest competent model, and know what every escalation cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("check")(check.check)
app.command("route")(route.route)
app.command("audit")(audit.audit)
app.command("eval")(evaluate.evaluate)
app.command("tune")(tune.tune)
app.command("models")(models.models)
app.command("distill")(distill.distill)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"cascade-router {installed('cascade-router')}")
        raise typer.Exit


def main() -> None:
    """Run the command; errors of ours are messages on standard error, never tracebacks."""
    warnings.showwarning = _show_warning
    try:
        app(prog_name="router")
    except RouterError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(_exit_code(error))


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning of ours is one line: where in the code it was raised is of no use to who typed the command."""
    if issubclass(category, RouterWarning):
        typer.echo(f"warning: {message}", err=True)


def _exit_code(error: RouterError) -> int:
    match error:
        case CostLimitExceeded():
            return 3
        case ReplayMiss():
            return 1
        case PolicyError() | UnknownTask() | InvalidCall() | RecordingError():
            return 2
    return 1
