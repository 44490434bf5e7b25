"""What the tests of tuning share: a made-up ladder whose answers are known, as recorded rows, and a policy for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

from pydantic import TypeAdapter

from router.core.policy import Policy

DATA = Path(os.environ.get("ROUTER_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")

LABELS = ("red", "green", "blue")
# By model: how often it is right on easy and on hard prompts, and what an answer costs in dollars.
MODELS: dict[str, tuple[float, float, float]] = {
    "tiny": (0.90, 0.30, 0.000_01),
    "small": (0.97, 0.55, 0.000_1),
    "large": (0.98, 0.93, 0.001),
}

Row = dict[str, Any]


def recorded(count: int, *, seed: int = 0, models: tuple[str, ...] = ("small", "large")) -> list[Row]:
    """Rows of a recording: `count` prompts, answered by each model; hard prompts give low log-probabilities."""
    dice = Random(seed)
    rows: list[Row] = []
    for number in range(count):
        label = dice.choice(LABELS)
        hard = dice.random() < 0.3
        prompt = f"Which colour has item {number}?" + (" It was seen at dusk, by somebody else." if hard else "")
        language = dice.choice(("de", "en"))
        for model in models:
            easy_p, hard_p, usd = MODELS[model]
            right = dice.random() < (hard_p if hard else easy_p)
            said = label if right else dice.choice([other for other in LABELS if other != label])
            text = "I cannot say." if dice.random() < 0.02 else said
            spread = 1.2 if hard else 0.1
            rows.append(
                {
                    "task": "colours",
                    "prompt_id": f"p{number}",
                    "model": f"x/{model}",
                    "prompt": prompt,
                    "response": text,
                    "reference": label,
                    "correct": int(text == label),
                    "input_tokens": len(prompt) // 4,
                    "output_tokens": 2,
                    "cost_usd": round(usd * dice.uniform(0.8, 1.2), 9),
                    "latency_s": 0.1,
                    "logprob": {"tok": [-round(dice.expovariate(1 / (spread * (0.3 if right else 1.0))), 4)]},
                    "meta": {"language": language, "customer": f"c{number // 3}"},
                }
            )
    return rows


def write_rows(path: Path, rows: list[Row]) -> Path:
    """A JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def policy_data(models: tuple[str, ...] = ("small", "large"), **task: Any) -> dict[str, Any]:
    """A policy of one task `colours` on these models, as plain data."""
    settings: dict[str, Any] = {
        "ladder": list(models),
        "answer": {"choice": list(LABELS)},
        "target": {"max_quality_loss": 0.04, "at_confidence": 0.9},
        **task,
    }
    free = {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}
    entries = {name: {"litellm": f"x/{name}", "price": {**free, "request_usd": MODELS[name][2]}} for name in models}
    return {"version": 1, "models": entries, "tasks": {"colours": settings}}


def make_policy(models: tuple[str, ...] = ("small", "large"), **task: Any) -> Policy:
    """The same as a `Policy`."""
    return TypeAdapter(Policy).validate_json(json.dumps(policy_data(models, **task)))


def write_policy(folder: Path, models: tuple[str, ...] = ("small", "large"), **task: Any) -> Path:
    """The same as a folder of policies; YAML takes JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.yml").write_text(json.dumps(policy_data(models, **task)), encoding="utf-8")
    return folder
