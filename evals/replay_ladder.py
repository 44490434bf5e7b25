"""Put every prompt of a recorded data set through `route`: each model of a ladder alone, then the cascade.

    python -m evals.replay_ladder --data DIR --set NAME --ladder SMALL,LARGE [--task T] [--answer KIND] [--json]

DIR holds one folder per set with a `records.jsonl.gz` in the columns of docs/replay.md. Every call takes the
production path: policy, flow, signals, the uncalibrated prior, ledger; only the models are recorded.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from router import Answer, Policy, RouterError
from router.core.policy import AnswerKind, Model, Retry, Task
from router.spec import adopt
from router.tuning.calls import Calls, read_calls
from router.tuning.play import Played, prepared


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
    folder = options.data / options.set
    path = next((one for one in (folder / "records.jsonl.gz", folder / "records.jsonl") if one.exists()), None)
    if path is None:
        print(f"skipped: {folder} holds no records.jsonl.gz; --data names the folder of the sets", file=sys.stderr)
        return 0
    ladder = options.ladder.split(",")
    try:
        recorded = read_calls(path, options.task, models=ladder)
        results, answers = evaluate(recorded, ladder, options.answer, options.threshold)
    except RouterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    left_out = len(recorded.calls) - results[0].prompts
    if options.json:
        report = {"set": options.set, "task": options.task, "threshold": options.threshold, "left_out": left_out}
        print(json.dumps({**report, "results": [asdict(result) for result in results]}, indent=2))
    else:
        _print_calls(answers[: options.show])
        _print(results, options, left_out)
    return 0


def evaluate(
    recorded: Calls, ladder: list[str], answer: AnswerKind, threshold: float
) -> tuple[list[Result], list[Answer]]:
    """Each model alone, then the ladder as a cascade, on the prompts that all of them answered; with its answers."""
    ladders = [[model] for model in ladder] + ([ladder] if len(ladder) > 1 else [])
    columns = [_run(recorded, one, answer, threshold) for one in ladders]
    whole = [row for row in zip(*columns, strict=True) if not any(played.missing for played in row)]
    if not whole:
        names = ", ".join(ladder)
        raise RouterError(f"{recorded.path}: no prompt was answered by all of {names}; check --ladder and --task")
    if errors := [played.error for row in whole for played in row if played.error]:
        raise errors[0]
    answers = [[played.answer for played in column if played.answer] for column in zip(*whole, strict=True)]
    return [_result(*each) for each in zip(ladders, answers, strict=True)], answers[-1]


def _run(recorded: Calls, ladder: list[str], answer: AnswerKind, threshold: float) -> list[Played]:
    # A recorded model's own name where the grammar allows it: names there have no slash and no space.
    names = [re.sub(r"[^A-Za-z0-9._@+-]", "-", model) for model in ladder]
    policy = Policy(
        version=1,
        models={name: Model(litellm=model) for name, model in zip(names, ladder, strict=True)},
        tasks={"eval": Task(ladder=tuple(names), threshold=threshold, answer=answer, retry=Retry(attempts=1))},
    )
    with prepared("eval", recorded.rows, loaded=adopt(policy)) as player:
        return [player.play(call, None) for call in recorded.calls]


def _result(ladder: list[str], answers: list[Answer]) -> Result:
    correct = sum(int(given.response["correct"]) for given in answers)
    cost_nusd = sum(given.cost_nusd or 0 for given in answers)
    return Result(
        ladder,
        len(answers),
        correct,
        correct / len(answers),
        cost_nusd / 1e9,
        sum(given.escalated for given in answers) / len(answers),
        sum(given.marginal_cost_nusd or 0 for given in answers) / 1e9,
        cost_nusd / 1e9 / correct if correct else None,
    )


def _print_calls(answers: list[Answer]) -> None:
    """One call in a few lines: the prompt, what each rung did and why, and what it cost."""
    for given in answers:
        print(f"{given.response['prompt'][:76]}")
        for step in given.steps:
            print(f"    {step.model}: {step.action}, {step.reason}")
        print(f"    {given.text!r} for ${given.cost_usd:.6f}, of it ${given.marginal_cost_usd:.6f} for climbing\n")


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
    cascade, top = results[-1], results[-2]
    if cascade.ladder != top.ladder and top.cost_usd:
        saved = 1 - cascade.cost_usd / top.cost_usd
        less = f"{saved:.1%} less" if saved >= 0 else f"{-saved:.1%} more"
        points = 100 * (cascade.accuracy - top.accuracy)
        print(f"the cascade costs {less} than {letters[top.ladder[0]]} alone, with {points:+.1f} points of accuracy")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evals.replay_ladder", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the recorded sets")
    parser.add_argument("--set", required=True, help="name of the set")
    parser.add_argument("--task", help="only this task of the set")
    parser.add_argument("--ladder", required=True, help="models, cheapest first, separated by commas")
    parser.add_argument("--threshold", type=float, default=0.8, help="accept at or above this confidence")
    parser.add_argument("--answer", type=_answer, default=_answer('{"text": {}}'), help="answer kind, as in a policy")
    parser.add_argument("--show", type=int, default=0, help="also print this many calls in full")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _answer(text: str) -> AnswerKind:
    return TypeAdapter(AnswerKind).validate_json(text)


if __name__ == "__main__":
    sys.exit(main())
