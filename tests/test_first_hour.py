"""The first hour of a stranger, in one process: the demo, the models, a rung of one's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from router import Router
from router.demo import tickets
from router.testing import no_network
from tests.support import Cli


def test_the_demo_saves_and_says_so(cli: Cli) -> None:
    """The demo trains, routes, tells what was saved, and leaves a router and a ledger to look at."""
    text = cli("demo", "--keep", "kept")
    assert text.code == 0, text.err
    assert "The cascade costs" in text.out
    assert "unseen tickets" in text.out
    with no_network(), Router("kept/policies", home="kept/router-home") as router:
        answer = router.route("triage", "I want my money back for order 5512")
    assert answer.confidence_source.startswith("tuned:")
    by_model = json.loads(cli("audit", "--by", "model", "--home", "kept/router-home", "--json").out)
    assert {row["key"] for row in by_model["rows"]} == {"small", "large"}


def test_the_demo_as_json_adds_up(cli: Cli) -> None:
    """What climbing added is the cascade's cost beyond the small rung's, and the shown calls carry their reasons."""
    found = json.loads(cli("demo", "--json").out)
    small, large, cascade = found["lines"]
    assert small["usd_per_million"] < cascade["usd_per_million"] < large["usd_per_million"]
    assert small["accuracy"] < cascade["accuracy"]
    assert 0 < cascade["escalated"] < 1
    assert cascade["marginal_usd_per_million"] < cascade["usd_per_million"]
    assert len(found["shown"]) == 6
    assert all(step["reason"] for shown in found["shown"] for step in shown["steps"])


def test_models_show_prices_and_missing_keys_but_no_key(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is present or missing; what it is appears nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    assert cli("init").code == 0
    text, plain = cli("models"), cli("models", "--json")
    assert "sk-canary" not in text.out + text.err + plain.out + plain.err
    assert "missing: set ANTHROPIC_API_KEY" in text.out
    models = {row["model"]: row for row in json.loads(plain.out)}
    assert models["luna"]["key"] == "present, or none needed"
    assert sorted(models["opus"]["used_by"]) == ["answer-question", "classify-ticket", "extract-invoice"]


def _labels(path: Path) -> None:
    names = {"billing": "billing", "bug": "bug", "how-to": "how-to"}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row.text, names.get(row.label, "other")] for row in tickets()[:400])


def test_a_distilled_rung_works_where_it_is_put(cli: Cli) -> None:
    """Labels in, a rung out: measured on unseen texts, written once, and used as the command advises."""
    assert cli("init", "classification").code == 0
    _labels(Path("labels.csv"))
    done = cli("distill", "classify-ticket", "--from", "labels.csv", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["accuracy"] > report["majority_accuracy"]
    again = cli("distill", "classify-ticket", "--from", "labels.csv")
    assert again.code == 1
    assert "nothing was written" in again.err
    policy = Path("policies/classification.yml")
    policy.write_text(policy.read_text().replace("[luna, opus] ", "[classify-ticket-small, luna, opus] "))
    models = Path("policies/models.yml")
    entry = "  classify-ticket-small: {litellm: local/classify-ticket-small, price: {gpu_second_usd: 0.00001}}\n"
    models.write_text(models.read_text() + entry)
    with no_network(), Router("policies") as router:
        answer = router.route("classify-ticket", "The app crashes with an error whenever I open it")
    assert (answer.model, answer.rung) == ("classify-ticket-small", 0)
    assert answer.attempts[0].amount.state == "settled"


def test_only_labels_can_be_distilled(cli: Cli) -> None:
    """A task of another answer kind is refused with the reason."""
    assert cli("init", "text").code == 0
    done = cli("distill", "answer-question", "--from", "nowhere.csv")
    assert done.code == 2
    assert "only labels can be distilled" in done.err
