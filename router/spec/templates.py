"""The policy templates that `router init` writes: in the wheel beside this package, in a checkout in `policies/`."""

from __future__ import annotations

from pathlib import Path

TEMPLATES: dict[str, str] = {
    "classification": "one label of a fixed list: tickets, intents, moderation",
    "extraction": "fields of a document as JSON that fits a schema",
    "text": "free text: answers, summaries, drafts",
}

_PACKAGE = Path(__file__).resolve().parents[1]


def template_text(name: str) -> str:
    """The YAML of a template, or of `models`, the file that all of them share."""
    return (_folder() / f"{name}.yml").read_text(encoding="utf-8")


def packaged_schema_text() -> str:
    """The JSON Schema that stands beside the templates."""
    return (_folder() / "policy.schema.json").read_text(encoding="utf-8")


def _folder() -> Path:
    packaged = _PACKAGE / "templates"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "policies"
