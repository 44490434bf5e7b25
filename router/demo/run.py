"""Train two local rungs on the demo's tickets, route the unseen ones, and compare with each rung alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from router.api import Router
from router.core.answer import Answer
from router.models.local import PREFIX, classifier_path, save
from router.spec import ModelCalibrators, write_tuned
from router.tuning import Distilled, LabelledText, distill

TASK = "triage"
SMALL, LARGE, API = "small", "large", "api"

# What a second of a rented machine costs here, $0.36 an hour: made up, like any price until it is yours.
SECOND_USD = "0.0001"

# The cheapest current model of each vendor whose key may be there.
_API_MODELS = {"OPENAI_API_KEY": "openai/gpt-5.6-luna", "ANTHROPIC_API_KEY": "anthropic/claude-haiku-5-5"}

_POLICY = """\
version: 1
models:
  small: {{litellm: local/small, price: {{gpu_second_usd: {second}}}}}
  large: {{litellm: local/large, price: {{gpu_second_usd: {second}}}}}
{api}tasks:
  triage:
    ladder: [{ladder}]
    threshold: 0.70
    answer: {{choice: [{labels}]}}
    max_output_tokens: 64
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One way to answer all unseen tickets."""

    name: str
    accuracy: float
    usd_per_million: float
    """Dollars for a million calls."""
    escalated: float
    marginal_usd_per_million: float


@dataclass(frozen=True, slots=True)
class Shown:
    """One call with the label that a person gave its ticket."""

    text: str
    label: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo measured."""

    lines: tuple[Line, ...]
    shown: tuple[Shown, ...]
    tickets: int


def tickets() -> list[LabelledText]:
    """The demo's tickets, with their split."""
    text = (files("router.demo") / "tickets.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return [LabelledText(row["text"], row["label"], row["split"]) for row in rows]


def api_model() -> str | None:
    """A real model that a key in the environment allows, for the third rung."""
    return next((model for variable, model in _API_MODELS.items() if os.environ.get(variable)), None)


def prepare(folder: Path, *, progress: Callable[[str], None] = lambda _: None) -> Mapping[str, Distilled]:
    """Train both rungs and write them, with a policy that uses them, into a folder."""
    rows = tickets()
    labels = sorted({row.label for row in rows})
    fitted = {}
    for name in (SMALL, LARGE):
        progress(f"training the {name} classifier on {sum(row.split == 'train' for row in rows)} tickets")
        fitted[name] = distill(rows, size="small" if name == SMALL else "large", source="tickets.jsonl")
        save(fitted[name].classifier, classifier_path(folder, name))
        entry = ModelCalibrators(name, f"{PREFIX}{name}", (fitted[name].calibrator,))
        write_tuned(folder, TASK, entry, fitted[name].classifier.provenance)
    api = api_model()
    policy = _POLICY.format(
        second=SECOND_USD,
        api=f"  api: {{litellm: {api}}}\n" if api else "",
        ladder=", ".join([SMALL, LARGE, *([API] if api else [])]),
        labels=", ".join(labels),
    )
    (folder / "demo.yml").write_text(policy, encoding="utf-8")
    return fitted


def run(folder: Path, home: Path, *, shown: int = 6, progress: Callable[[str], None] = lambda _: None) -> Demo:
    """Route the unseen tickets: each local rung alone, then both as a cascade; show a few calls in full.

    The table never asks the API rung: with a key there, only the calls that are shown may.
    """
    test = [row for row in tickets() if row.split == "test"]
    lines: list[Line] = []
    answers: list[Answer] = []
    for name, ladder in ((f"{SMALL} alone", [SMALL]), (f"{LARGE} alone", [LARGE]), ("cascade", [SMALL, LARGE])):
        progress(f"routing {len(test)} unseen tickets: {name}")
        with Router(_with_ladder(folder, ladder), home=home) as router:
            answers = [router.route(TASK, row.text, feature="demo") for row in test]
        lines.append(_line(name, test, answers))
    with Router(folder, home=home) as router:
        chosen = _interesting(test, answers, shown)
        calls = tuple(Shown(row.text, row.label, router.route(TASK, row.text, feature="demo")) for row in chosen)
    return Demo(tuple(lines), calls, len(test))


def _with_ladder(folder: Path, ladder: list[str]) -> Path:
    """The demo's policy with another ladder, beside it so that it finds the same classifiers."""
    policy = (folder / "demo.yml").read_text(encoding="utf-8")
    lines = [f"    ladder: [{', '.join(ladder)}]" if "ladder:" in line else line for line in policy.splitlines()]
    path = folder / f"{'-'.join(ladder)}.demo"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _line(name: str, test: list[LabelledText], answers: list[Answer]) -> Line:
    count = len(test)
    return Line(
        name,
        sum(answer.parsed == row.label for row, answer in zip(test, answers, strict=True)) / count,
        sum(answer.cost_nusd or 0 for answer in answers) / count / 1000,
        sum(answer.escalated for answer in answers) / count,
        sum(answer.marginal_cost_nusd or 0 for answer in answers) / count / 1000,
    )


def _interesting(test: list[LabelledText], answers: list[Answer], number: int) -> list[LabelledText]:
    """Short tickets, half of them accepted at the first rung and half that climbed, taken in turn."""
    pairs = [(row, answer) for row, answer in zip(test, answers, strict=True) if 20 <= len(row.text) <= 70]
    kept = [row for row, answer in pairs if not answer.escalated]
    climbed = [row for row, answer in pairs if answer.escalated]
    mixed = [row for pair in zip(kept, climbed, strict=False) for row in pair]
    return mixed[:number]
