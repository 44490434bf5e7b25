"""`router init`: write a first policy from a template."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.cli.common import AsJson, Refused, print_json, say


def init(
    template: Annotated[
        str, typer.Argument(help="classification, extraction, text, or all.", show_default=True)
    ] = "all",
    folder: Annotated[Path, typer.Option("--folder", help="Where the policies go.")] = Path("policies"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write policies to start from: a file of models, a task for each template, and the JSON Schema for editors."""
    from router.spec.templates import TEMPLATES, packaged_schema_text, template_text

    names = list(TEMPLATES) if template == "all" else [template]
    if unknown := [name for name in names if name not in TEMPLATES]:
        raise Refused(f"unknown template {unknown[0]!r}; there is {', '.join(TEMPLATES)}, or all", exit_code=2)
    contents = {folder / f"{name}.yml": template_text(name) for name in names}
    models = folder / "models.yml"
    if force or not models.exists():  # Shared by all templates, and the user's own once it is there.
        contents = {models: template_text("models"), **contents}
    contents[folder / "policy.schema.json"] = packaged_schema_text()
    there = [path for path, text in contents.items() if path.exists() and not _holds(path, text)]
    if there and not force:
        raise Refused(f"{there[0]} is there already; nothing was written. Use --force to overwrite", exit_code=1)
    unchanged = [path for path, text in contents.items() if _holds(path, text)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in contents.items():
            if path not in unchanged:
                path.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = f"{error.filename}: cannot be written ({error.strerror}); choose another --folder"
        raise Refused(problem, exit_code=1) from None
    if as_json:
        written = [str(path) for path in contents if path not in unchanged]
        print_json({"written": written, "unchanged": [str(path) for path in unchanged]})
        return
    for path in contents:
        typer.echo(f"{'unchanged' if path in unchanged else 'wrote'} {path}")
    where = "" if folder == Path("policies") else f" --policies {folder}"
    if not _is_ignored():
        say("keep the ledger out of git: echo .router/ >> .gitignore")
    say(f"next: edit {folder / names[0]}.yml, then run `router check{where}`")


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _is_ignored() -> bool:
    """Whether git is told already to leave the ledger alone."""
    from router.api import DEFAULT_HOME

    try:
        lines = Path(".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip().strip("/") == DEFAULT_HOME for line in lines)
