"""Do certificates hold? Tune in made-up worlds again and again, and count the certificates that are false.

    python -m evals.validity [--pipelines N] [--worlds TEXT ...] [--jobs N] [--out FILE] [--json]

A pipeline draws rows, tunes, and measures the plan's true loss on 40,000 fresh rows or more, by row or by cluster as
the certificate counts it. A certificate is false when that is above its target; with groups or looks, when any of its
statements is. With `--out` the counts so far are kept, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from evals.worlds import EVERY, World
from router.errors import TuningError
from router.tuning.result import Tuning
from router.tuning.runs import EvalRun
from router.tuning.tune import Tuner
from router.tuning.units import unit_losses

BLOCK = 25
SEED = 20_260_101

Counts = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.validity")
    parser.add_argument("--pipelines", type=int, default=40, help="pipelines in each world")
    parser.add_argument("--worlds", nargs="+", default=[""], help="parts of the names of the worlds; else all of them")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="JSON file to keep the counts in")
    parser.add_argument("--commit", default="", help="commit to note in the JSON")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    done: dict[str, Counts] = _known(options.out)
    chosen = _chosen(options.worlds)
    todo = [
        (at, start, min(BLOCK, options.pipelines - start))
        for start in range(0, options.pipelines, BLOCK)
        for at in chosen
        if done.get(EVERY[at].name, {}).get("pipelines", 0) <= start
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        for (at, _, _), counts in zip(todo, pool.map(_block, todo), strict=True):
            own = done.setdefault(EVERY[at].name, dict.fromkeys(counts, 0.0))
            for name, value in counts.items():
                own[name] += value
            if options.out:
                _keep(options.out, done, options.commit)
    rows = [_row(EVERY[at], done[EVERY[at].name]) for at in chosen]
    if options.json:
        print(json.dumps({"seed": SEED, "rows": rows}, indent=1))
    else:
        for row in rows:
            print(
                f"{row['world']:58} {row['guarantee']}: false {row['false']:.1%} of {row['pipelines']}, allowed "
                f"{row['allowed']:.1%}; certified {row['certified']:.0%}, cost {row['cost_change']:+.0%}"
            )
    return int(any(row["false"] > row["allowed"] for row in rows))


def _chosen(wanted: Sequence[str]) -> list[int]:
    """The worlds with one of these texts in their names; a world's place is its seed."""
    for text in wanted:
        if not any(text in world.name for world in EVERY):
            raise SystemExit(
                f"--worlds: no world has {text!r} in its name; there are: {'; '.join(w.name for w in EVERY)}"
            )
    return [at for at, world in enumerate(EVERY) if any(text in world.name for text in wanted)]


def _known(path: Path | None) -> dict[str, Counts]:
    if path is None or not path.exists():
        return {}
    kept: dict[str, Any] = json.loads(path.read_text())
    if kept.get("seed") != SEED:
        raise SystemExit(f"{path}: has another seed; name another file")
    return {str(name): dict(counts) for name, counts in kept["worlds"].items()}


def _keep(path: Path, done: dict[str, Counts], commit: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps({"seed": SEED, "commit": commit, "worlds": done}, indent=1) + "\n")
    draft.replace(path)


def _row(world: World, counts: Counts) -> dict[str, Any]:
    """One line of the table; at most the error budget and three standard deviations may be false."""
    budget, pipelines = 1.0 - world.at_confidence, counts["pipelines"]
    return {
        "world": world.name,
        "guarantee": "guaranteed" if world.method == "split" else "simulation-checked",
        "pipelines": int(pipelines),
        "false": counts["false"] / pipelines,
        "allowed": budget + 3.0 * math.sqrt(budget * (1.0 - budget) / pipelines),
        "certified": counts["certified"] / pipelines,
        "cost_change": counts["cost_change"] / pipelines,
    }


def _block(work: tuple[int, int, int]) -> Counts:
    at, start, count = work
    results = [pipeline(EVERY[at], SEED + 1000 * at, start + number) for number in range(count)]
    return {
        "pipelines": float(count),
        "false": float(sum(false for false, _, _ in results)),
        "certified": float(sum(certified for _, certified, _ in results)),
        "cost_change": float(sum(cost for *_, cost in results)),
    }


def pipeline(world: World, seed: int, number: int) -> tuple[bool, bool, float]:
    """Draw, tune and measure once: whether any statement is false, whether there is one, and the cost change."""
    random = np.random.default_rng((seed, number))
    run = world.draw(random, world.rows)
    fresh = world.draw(random, world.fresh_rows)
    tuner = Tuner(run, method=world.method, seed=number)  # type: ignore[arg-type]
    false, certified, cost = False, False, 0.0
    for at, target in enumerate(world.looks or (world.target,)):
        try:
            tuning = tuner.tune(
                target,
                at_confidence=world.at_confidence,
                never_worse=world.never_worse,
                group=world.group,
                look=at + 1 if world.looks else None,
            )
        except TuningError:
            continue
        if tuning.certified:
            certified = True
            false |= _is_false(world, tuning, fresh, target)
            cost = tuning.apply(fresh).cost_change
    return false, certified, cost


def _is_false(world: World, tuning: Tuning, fresh: EvalRun, target: float) -> bool:
    loss = tuning.apply(fresh).loss
    counted = (loss > 0).astype(float) if world.never_worse else loss
    parts = [counted]
    if fresh.cluster is not None:
        parts = [unit_losses(counted, fresh.cluster.astype(np.intp))]
    elif tuning.plan.group is not None and fresh.group is not None:
        parts = [counted[fresh.group == name] for name in tuning.plan.groups]
    return any(float(one.mean()) > target for one in parts)


if __name__ == "__main__":
    sys.exit(main())
