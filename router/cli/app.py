"""The `router` command: its subcommands, and how every error becomes a message and an exit code.

Exit codes: 0 fine, 1 a finding or a call without an answer, 2 a wrong call of the command or
a file with a fault, 3 a limit on cost or an objective that does not hold, 4 data that cannot carry a certificate.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import typer

from router.cli import (
    audit,
    backtest,
    budgets,
    check,
    demo,
    distill,
    evaluate,
    init,
    ledger,
    models,
    policy,
    route,
    slo,
    tune,
)
from router.cli.common import Refused, print_json, say
from router.errors import (
    BudgetExceeded,
    CostLimitExceeded,
    InvalidCall,
    InvalidFile,
    LadderExhausted,
    PolicyError,
    RecordingError,
    ReplayMiss,
    RouterError,
    RouterWarning,
    TuningError,
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
app.command("budgets")(budgets.budgets)
app.command("slo")(slo.slo)
app.command("eval")(evaluate.evaluate)
app.command("tune")(tune.tune)
app.command("backtest")(backtest.backtest)
app.command("models")(models.models)
app.command("distill")(distill.distill)
app.command("demo")(demo.demo)
app.add_typer(audit.app, name="audit")
app.add_typer(policy.app, name="policy")
app.add_typer(ledger.app, name="ledger")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"cascade-router {installed('cascade-router')}")
        raise typer.Exit


# What an error may tell a program. Not the provider's own words and not the attempts: they may repeat the prompt.
_TOLD = ("path", "line", "where", "task", "known", "argument", "model", "status", "needed", "route_id")
_TOLD_OF_LIMITS = (
    *("deadline_s", "limit_usd", "spent_usd", "needed_usd"),
    *("budget", "key", "window", "limit", "spent", "resets_at"),
)
# typer does not export the class of a wrong call itself.
_UsageError: Any = typer.BadParameter.__mro__[1]


def main() -> None:
    """Run the command; errors of ours are messages on standard error, never tracebacks."""
    _forget_empty_keys()
    warned: list[str] = []
    warnings.showwarning = lambda message, category, *_, **__: _note(warned, message, category)
    try:
        code = app(prog_name="router", standalone_mode=False)
    except RouterError as error:
        # What an exhausted ladder died of stands in its error, with the same words.
        _print_warnings([] if isinstance(error, LadderExhausted) else warned)
        say(f"error: {error}", err=True)
        if advice := _advice(error):
            say(f"next: {advice}", err=True)
        code = _exit_code(error)
        _tell_programs(error, str(error), code)
    except _UsageError as error:
        error.show()
        code = 2
        _tell_programs(error, error.format_message(), code)
    except typer.Abort:  # Ctrl-C, or "no" to a question.
        say("nothing more was done", err=True)
        code = 1
    except OSError as error:  # Mostly standard output, full or gone: files of ours have errors of their own.
        problem = error.filename or "the output"
        typer.echo(f"error: {problem} cannot be used ({error.strerror or error})", err=True)
        _forget_output()
        code = 1
    else:
        _print_warnings(warned)
    sys.exit(code or 0)


def _forget_output() -> None:
    """Let Python end without a second complaint about what it could not write."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def _forget_empty_keys() -> None:
    """A variable that is set to nothing, as in many an .env file, holds no key; litellm takes it for one."""
    for name in [name for name, value in os.environ.items() if name.endswith(("_KEY", "_TOKEN")) and not value.strip()]:
        del os.environ[name]


def _note(warned: list[str], message: Warning | str, category: type[Warning]) -> None:
    """A warning of ours is one line: where in the code it was raised is of no use to who typed the command."""
    if issubclass(category, RouterWarning):
        warned.append(str(message))


def _print_warnings(warned: list[str]) -> None:
    for message in warned:
        say(f"warning: {message}", err=True)


def _tell_programs(error: Exception, message: str, code: int) -> None:
    """With `--json` there is always one JSON document on standard output."""
    if "--json" in sys.argv[1:]:
        fields: dict[str, Any] = {name: getattr(error, name, None) for name in (*_TOLD, *_TOLD_OF_LIMITS)}
        told = {name: value for name, value in fields.items() if value is not None and value != ""}
        ours = isinstance(error, RouterError)
        about = {"type": type(error).__name__ if ours else "Usage", "message": message, "exit_code": code}
        print_json({"error": {**about, **(told if ours else {})}})


def _advice(error: RouterError) -> str:
    """What to type next, where the message itself does not say so."""
    if isinstance(error, LadderExhausted) and re.search(r"environment variable \S+ .*is not set", str(error)):
        return "set a key, or look with `router models` which are missing"
    return ""


def _exit_code(error: RouterError) -> int:
    match error:
        case Refused():
            return error.exit_code
        case CostLimitExceeded() | BudgetExceeded():
            return 3
        case ReplayMiss():
            return 1
        case PolicyError() | UnknownTask() | InvalidCall() | InvalidFile() | RecordingError() | TuningError():
            return 2
    return 1
