"""Certified savings on recorded answers: tune on 70 % of the rows of each pair, look at the 30 % that were kept away.

    python -m evals.certified_savings --data DIR --pairs FILE [--seeds N] [--methods NAME ...] [--jobs N] [--json]
    python -m evals.certified_savings --data DIR --pairs FILE --levers [--seeds N] [--jobs N] [--json]

DIR holds one folder per set with a `records.jsonl.gz`. FILE has one JSON object a line: `set`, `task` (or null),
`cheap`, `top`, `peers`. The ladder is the cheap model, its peers and the top, in order of what they cost. Everything
goes through `router.tuning`. The method `split` is guaranteed, `crossfit` is simulation-checked. With `--levers` the
same splits are tuned with everything, and again without each part of it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.evidence import BLOCKS
from router.errors import RouterError, TuningError
from router.tuning.loading import load_columns
from router.tuning.plans import Family
from router.tuning.runs import EvalRun
from router.tuning.tune import Method, Tuner

TARGETS = (0.01, 0.02, 0.03, 0.05)
CONFIDENCE = 0.90
TUNED_SHARE = 0.7
# A plan counts as dearer when its cost on the untouched rows is above always-top by more than this.
DEARER = 0.005
# One-sided 5 %: a loss further above the target than this many standard errors is no accident of the untouched rows.
BEYOND = 1.645


# What every method deserves to be called.
METHODS: dict[Method, str] = {"split": "guaranteed", "crossfit": "simulation-checked"}


class Lever(NamedTuple):
    """One way to tune: with all there is, or without a part of it."""

    name: str
    method: Method = "split"
    run: Callable[[EvalRun], EvalRun] = lambda run: run
    allow: Callable[[Family], bool] | None = None


def _without_words(run: EvalRun) -> EvalRun:
    return replace(run, prompts=None, drafts=None)


def _without_reading(run: EvalRun) -> EvalRun:
    kept = {model: {name: one for name, one in own.items() if name not in BLOCKS} for model, own in run.signals.items()}
    return replace(run, signals=kept)


LEVERS = (
    Lever("everything"),
    Lever("without words", run=_without_words),
    Lever("without closer reading", run=_without_reading),
    Lever("without gain", allow=lambda family: "gain" not in family.by),
    Lever("without gates", allow=lambda family: family.gate is None),
    Lever("without panels", allow=lambda family: family.panel[1] - family.panel[0] == 1),
    Lever("without third rungs", allow=lambda family: len(family.rungs) == 2),
)


@dataclass(frozen=True)
class Realised:
    """What one tuning came to on the untouched rows."""

    way: str
    """The method, or with `--levers` the lever."""
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
    ways = LEVERS if options.levers else [Lever(method, method) for method in options.methods]
    pairs = [json.loads(line) for line in options.pairs.read_text().splitlines() if line.strip()]
    found: list[Realised] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        work = partial(realise, data=options.data, seeds=options.seeds, ways=[way.name for way in ways])
        for pair, rows in zip(pairs, pool.map(work, range(len(pairs)), pairs), strict=True):
            if not rows:
                print(f"skipped: {options.data / pair['set']} holds no such answers", file=sys.stderr)
                continue
            found += rows
            if not options.json:
                for way in ways:
                    print(_line(pair, way.name, [row for row in rows if row.way == way.name]), flush=True)
    summaries = {way.name: [summary(found, way.name, target) for target in TARGETS] for way in ways} if found else {}
    if options.json:
        by_way = {name: [asdict(one) for one in rows] for name, rows in summaries.items()}
        by_pair = [_by_pair(at, pair, found) for at, pair in enumerate(pairs)]
        print(json.dumps({"seeds": options.seeds, "summary": by_way, "pairs": by_pair}, indent=1))
        return 0
    said: dict[str, str] = dict(METHODS.items())
    for name, means in summaries.items():
        for one in means:
            print(
                f"{said.get(name, name)}, target {one.target:.0%}: cost {one.cost_change:+.1%}, missed "
                f"{one.missed:.1%} (beyond sampling error {one.missed_beyond_error:.1%}), dearer {one.dearer:.1%}, "
                f"certified {one.certified:.0%}"
            )
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evals.certified_savings")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines that name the pairs")
    parser.add_argument("--seeds", type=int, default=20, help="splits of each pair")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS), help="else both")
    parser.add_argument("--levers", action="store_true", help="say what each part is worth, by leaving it out")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def realise(at: int, pair: dict[str, Any], *, data: Path, seeds: int, ways: Sequence[str]) -> list[Realised]:
    """Every way, seed and target of one pair."""
    run = read_pair(data, pair)
    if run is None:
        return []
    known = {way.name: way for way in (*LEVERS, *(Lever(method, method) for method in METHODS))}
    return [one for name in ways for seed in range(seeds) for one in _one_split(at, run, seed, known[name])]


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


def _one_split(at: int, run: EvalRun, seed: int, way: Lever) -> list[Realised]:
    tuned, untouched = parts(run, seed)
    mine, test = way.run(run.take(tuned)), way.run(run.take(untouched))
    found = []
    tuner: Tuner | None = None
    for target in TARGETS:
        try:
            tuner = tuner or Tuner(mine, method=way.method, seed=seed, allow=way.allow)
            tuning = tuner.tune(target, at_confidence=CONFIDENCE)
        except TuningError:
            found.append(Realised(way.name, at, seed, target, False, 0.0, 0.0, 0.0, "top"))
            continue
        applied = tuning.apply(test)
        error = float(applied.loss.std(ddof=1)) / math.sqrt(len(applied.loss))
        plan = " > ".join(rung.model for rung in tuning.plan.rungs)
        loss = float(applied.loss.mean())
        found.append(Realised(way.name, at, seed, target, tuning.certified, applied.cost_change, loss, error, plan))
    return found


def parts(run: EvalRun, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to tune with and rows that nothing has seen; copies of a prompt stay together."""
    _, prompt = np.unique(run.row_ids.astype(str), return_inverse=True)
    place = np.random.default_rng(seed).permutation(int(prompt.max()) + 1)[prompt]
    inside = place < TUNED_SHARE * (prompt.max() + 1)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def summary(rows: Sequence[Realised], way: str, target: float) -> Summary:
    """Mean over the pairs, each a mean over its seeds."""
    rows = [row for row in rows if row.way == way and row.target == target]
    pairs = sorted({row.pair for row in rows})
    means = [_means([row for row in rows if row.pair == pair]) for pair in pairs]
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
    changes: dict[str, dict[str, float]] = {}
    for way, target in dict.fromkeys((row.way, row.target) for row in rows if row.pair == at):
        own = [row for row in rows if (row.pair, row.way, row.target) == (at, way, target)]
        changes.setdefault(way, {})[f"{target:g}"] = round(_means(own)[0], 4)
    return {**pair, "cost_change": changes}


def _line(pair: dict[str, Any], way: str, rows: Sequence[Realised]) -> str:
    cells = []
    for target in TARGETS:
        cost, missed, beyond, *_ = _means([row for row in rows if row.target == target])
        cells.append(f"{target:.0%}: {cost:+.0%} (missed {missed:.0%}, {beyond:.0%})")
    return f"{pair['set']}/{pair.get('task') or 'all'} {pair['cheap']} -> {pair['top']} {way}  " + "  ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
