"""Put every prompt of a recorded data set through `aroute`: each model of a ladder alone, then the cascade.

    python -m evals.replay_ladder --data DIR --set NAME --ladder SMALL,LARGE [--task T] [--answer KIND] [--json]

DIR holds one folder per set with a `records.jsonl.gz` in the columns of docs/replay.md. Every call takes the
production path: policy, flow, signals, the uncalibrated prior, ledger; only the models are recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from router import Policy, Router, RouterError
from router.core.policy import AnswerKind, Model, Retry, Task
from router.models.replay import Replay, read_recording

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What one ladder came to on the whole set."""

    ladder: list[str]
    prompts: int
    correct: int
    accuracy: float
    cost_usd: float
    escalated: float
    """Share of the prompts for which a rung above the first was asked."""
    marginal_cost_usd: float
    cost_per_correct_usd: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _options(arguments)
    path = options.data / options.set / "records.jsonl.gz"
    if not path.exists():
        print(f"skipped: {path} is not there; --data names the folder of the recorded sets", file=sys.stderr)
        return 0
    ladder = options.ladder.split(",")
    try:
        rows, left_out = _rows(path, ladder, options.task)
        results = asyncio.run(evaluate(rows, ladder, options.answer, options.threshold))
    except RouterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        report = {"set": options.set, "task": options.task, "threshold": options.threshold, "left_out": left_out}
        print(json.dumps({**report, "results": [asdict(result) for result in results]}, indent=2))
    else:
        _print(results, options, left_out)
    return 0


async def evaluate(rows: list[Row], ladder: list[str], answer: AnswerKind, threshold: float) -> list[Result]:
    """Each model alone, then the ladder as a cascade."""
    ladders = [[model] for model in ladder] + ([ladder] if len(ladder) > 1 else [])
    return [await _run(rows, one, answer, threshold) for one in ladders]


async def _run(rows: list[Row], ladder: list[str], answer: AnswerKind, threshold: float) -> Result:
    names = [f"rung-{number}" for number in range(len(ladder))]
    policy = Policy(
        version=1,
        models={name: Model(litellm=model) for name, model in zip(names, ladder, strict=True)},
        tasks={"eval": Task(ladder=tuple(names), threshold=threshold, answer=answer, retry=Retry(attempts=1))},
    )
    correct, escalated, cost_nusd, marginal_nusd = 0, 0, 0, 0
    prompts = [row for row in rows if row["model"] == ladder[0]]
    with tempfile.TemporaryDirectory() as home:
        async with Router(policy, home=home, backend=Replay(rows)) as router:
            for row in prompts:
                given = await router.aroute("eval", _messages(row))
                correct += int(given.response["correct"])
                escalated += given.escalated
                cost_nusd += given.cost_nusd or 0
                marginal_nusd += given.marginal_cost_nusd or 0
    return Result(
        ladder,
        len(prompts),
        correct,
        correct / len(prompts),
        cost_nusd / 1e9,
        escalated / len(prompts),
        marginal_nusd / 1e9,
        cost_nusd / 1e9 / correct if correct else None,
    )


def _messages(row: Row) -> list[dict[str, str]]:
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, {"role": "user", "content": row["prompt"]}]


def _rows(path: Path, ladder: list[str], task: str | None) -> tuple[list[Row], int]:
    """The ladder's rows of the prompts that every model of it answered, and how many prompts that leaves out."""
    rows = [row for row in read_recording(path) if row["model"] in ladder and task in (None, row["task"])]
    answered: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        answered.setdefault((row["task"], row["prompt_id"]), set()).add(row["model"])
    whole = {prompt for prompt, models in answered.items() if len(models) == len(set(ladder))}
    if not whole:
        raise RouterError(f"{path}: no prompt was answered by all of {', '.join(ladder)}; check --ladder and --task")
    return [row for row in rows if (row["task"], row["prompt_id"]) in whole], len(answered) - len(whole)


def _print(results: list[Result], options: argparse.Namespace, left_out: int) -> None:
    from rich.console import Console
    from rich.table import Table

    letters = dict(zip(results[-1].ladder, "ABCDEFGH", strict=False))
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(("ladder", "accuracy", "cost", "escalated", "for climbing", "per correct")):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for result in results:
        table.add_row(
            " → ".join(letters[model] for model in result.ladder) + (" alone" if len(result.ladder) == 1 else ""),
            f"{result.accuracy:.3f}",
            f"${result.cost_usd:.4f}",
            f"{result.escalated:.1%}",
            f"${result.marginal_cost_usd:.4f}",
            "none" if result.cost_per_correct_usd is None else f"${result.cost_per_correct_usd:.6f}",
        )
    print(f"{options.set}: {results[0].prompts:,} prompts, threshold {options.threshold}, uncalibrated prior")
    for model, letter in letters.items():
        print(f"{letter} = {model}")
    if left_out:
        print(f"{left_out:,} prompts left out: not every model of the ladder answered them")
    Console().print(table)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evals.replay_ladder", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the recorded sets")
    parser.add_argument("--set", required=True, help="name of the set")
    parser.add_argument("--task", help="only this task of the set")
    parser.add_argument("--ladder", required=True, help="models, cheapest first, separated by commas")
    parser.add_argument("--threshold", type=float, default=0.8, help="accept at or above this confidence")
    parser.add_argument("--answer", type=_answer, default=_answer('{"text": {}}'), help="answer kind, as in a policy")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _answer(text: str) -> AnswerKind:
    return TypeAdapter(AnswerKind).validate_json(text)


if __name__ == "__main__":
    sys.exit(main())
