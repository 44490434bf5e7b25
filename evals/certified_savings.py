"""Certified savings on recorded answers: tune on 70 % of the rows of each pair, look at the 30 % that were kept away.

    python -m evals.certified_savings --data DIR --pairs FILE [--seeds N] [--jobs N] [--json]

DIR holds one folder per set with a `records.jsonl.gz`. FILE has one JSON object a line: `set`, `task` (or null),
`cheap`, `top`, `peers`. The ladder is the cheap model, its peers and the top, in order of what they cost. Everything
goes through `router.tuning`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import RouterError, TuningError
from router.tuning.loading import load_columns
from router.tuning.runs import EvalRun
from router.tuning.tune import Tuner

TARGETS = (0.01, 0.02, 0.03, 0.05)
CONFIDENCE = 0.90
TUNED_SHARE = 0.7
# A plan counts as dearer when its cost on the untouched rows is above always-top by more than this.
DEARER = 0.005
# One-sided 5 %: a loss further above the target than this many standard errors is no accident of the untouched rows.
BEYOND = 1.645


@dataclass(frozen=True)
class Realised:
    """What one tuning came to on the untouched rows."""

    pair: int
    seed: int
    target: float
    certified: bool
    cost_change: float
    loss: float
    standard_error: float
    plan: str


@dataclass(frozen=True)
class Summary:
    """All pairs and seeds of one target; every pair counts the same."""

    target: float
    cost_change: float
    missed: float
    """Share of runs whose realised loss is above the target."""
    missed_beyond_error: float
    """The same by more than the sampling error of the untouched rows, one-sided 5 %."""
    dearer: float
    certified: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _options(arguments)
    pairs = [json.loads(line) for line in options.pairs.read_text().splitlines() if line.strip()]
    found: list[Realised] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        work = partial(realise, data=options.data, seeds=options.seeds)
        for pair, rows in zip(pairs, pool.map(work, range(len(pairs)), pairs), strict=True):
            if not rows:
                print(f"skipped: {options.data / pair['set']} holds no such answers", file=sys.stderr)
                continue
            found += rows
            if not options.json:
                print(_line(pair, rows), flush=True)
    summaries = [summary(found, target) for target in TARGETS] if found else []
    if options.json:
        by_pair = [_by_pair(at, pair, found) for at, pair in enumerate(pairs)]
        print(json.dumps({"seeds": options.seeds, "summary": [asdict(one) for one in summaries], "pairs": by_pair}))
        return 0
    for one in summaries:
        print(
            f"target {one.target:.0%}: cost {one.cost_change:+.1%}, missed {one.missed:.1%} (beyond sampling error "
            f"{one.missed_beyond_error:.1%}), dearer {one.dearer:.1%}, certified {one.certified:.0%}"
        )
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evals.certified_savings")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines that name the pairs")
    parser.add_argument("--seeds", type=int, default=20, help="splits of each pair")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def realise(at: int, pair: dict[str, Any], *, data: Path, seeds: int) -> list[Realised]:
    """Every seed and target of one pair."""
    run = read_pair(data, pair)
    return [] if run is None else [one for seed in range(seeds) for one in _one_split(at, run, seed)]


def read_pair(data: Path, pair: dict[str, Any]) -> EvalRun | None:
    """The run of a pair and its peers, cheapest first; a peer that costs more than the top is left out."""
    folder = data / pair["set"]
    path = next((one for one in (folder / "records.jsonl.gz", folder / "records.jsonl") if one.exists()), None)
    if path is None:
        return None
    names = list(dict.fromkeys([pair["cheap"], *(pair.get("peers") or []), pair["top"]]))
    try:
        run = load_columns(path, names, task=pair.get("task"))
    except RouterError as error:
        print(f"error: {error}", file=sys.stderr)
        return None
    cost = dict(zip(names, np.nanmean(run.cost_nusd, axis=0), strict=True))
    below = sorted((name for name in names if cost[name] < cost[pair["top"]]), key=cost.__getitem__)
    return run.of([*(below or [pair["cheap"]]), pair["top"]])


def _one_split(at: int, run: EvalRun, seed: int) -> list[Realised]:
    tuned, untouched = parts(run, seed)
    mine, test = run.take(tuned), run.take(untouched)
    try:
        tuner = Tuner(mine, seed=seed)
    except TuningError:
        return [Realised(at, seed, target, False, 0.0, 0.0, 0.0, "top") for target in TARGETS]
    found = []
    for target in TARGETS:
        try:
            tuning = tuner.tune(target, at_confidence=CONFIDENCE)
        except TuningError:
            found.append(Realised(at, seed, target, False, 0.0, 0.0, 0.0, "top"))
            continue
        applied = tuning.apply(test)
        error = float(applied.loss.std(ddof=1)) / math.sqrt(len(applied.loss))
        plan = " > ".join(rung.model for rung in tuning.plan.rungs)
        loss = float(applied.loss.mean())
        found.append(Realised(at, seed, target, tuning.certified, applied.cost_change, loss, error, plan))
    return found


def parts(run: EvalRun, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to tune with and rows that nothing has seen; copies of a prompt stay together."""
    _, prompt = np.unique(run.row_ids.astype(str), return_inverse=True)
    place = np.random.default_rng(seed).permutation(int(prompt.max()) + 1)[prompt]
    inside = place < TUNED_SHARE * (prompt.max() + 1)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def summary(rows: Sequence[Realised], target: float) -> Summary:
    """Mean over the pairs, each a mean over its seeds."""
    pairs = sorted({row.pair for row in rows})
    means = [_means([row for row in rows if row.pair == pair and row.target == target]) for pair in pairs]
    return Summary(target, *(float(value) for value in np.mean(means, axis=0)))


def _means(rows: Sequence[Realised]) -> list[float]:
    n = len(rows)
    beyond = [row.loss - row.target > BEYOND * row.standard_error + 1e-12 for row in rows]
    return [
        sum(row.cost_change for row in rows) / n,
        sum(row.loss > row.target for row in rows) / n,
        sum(beyond) / n,
        sum(row.cost_change > DEARER for row in rows) / n,
        sum(row.certified for row in rows) / n,
    ]


def _by_pair(at: int, pair: dict[str, Any], rows: Sequence[Realised]) -> dict[str, Any]:
    own = {target: [row for row in rows if row.pair == at and row.target == target] for target in TARGETS}
    means = {f"{target:g}": _means(found) for target, found in own.items() if found}
    return {**pair, "cost_change": {target: round(one[0], 4) for target, one in means.items()}}


def _line(pair: dict[str, Any], rows: Sequence[Realised]) -> str:
    cells = []
    for target in TARGETS:
        cost, missed, beyond, *_ = _means([row for row in rows if row.target == target])
        cells.append(f"{target:.0%}: {cost:+.0%} (missed {missed:.0%}, {beyond:.0%})")
    return f"{pair['set']}/{pair.get('task') or 'all'} {pair['cheap']} -> {pair['top']}  " + "  ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
