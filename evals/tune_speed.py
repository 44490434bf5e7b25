"""How long tuning takes and how much memory: three rungs, stored signals, with a certificate.

    python -m evals.tune_speed [--rows 10000,100000,1000000] [--json]

Each size runs in a process of its own, so that its peak memory is its own. Making the rows is not counted in the time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from router.tuning.runs import EvalRun
from router.tuning.tune import tune

# The budgets of a million rows.
BUDGET_S, BUDGET_MB = 15.0, 2000.0


@dataclass(frozen=True)
class Speed:
    """One size."""

    rows: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Of the whole process, the rows themselves included."""
    certified: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.tune_speed")
    parser.add_argument("--rows", default="10000,100000,1000000", help="sizes, with commas")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(asdict(measure(options.one))))
        return 0
    command = [sys.executable, "-m", "evals.tune_speed", "--one"]
    texts = [subprocess.check_output([*command, size], text=True) for size in options.rows.split(",")]
    found = [Speed(**json.loads(text)) for text in texts]
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return 0
    for one in found:
        print(
            f"{one.rows:>9,} rows: {one.seconds:5.1f} s ({one.cpu_seconds:.1f} s of processor), {one.peak_mb:,.0f} MB"
        )
    return 0


def measure(rows: int) -> Speed:
    """Tune a made-up run of this size."""
    run = made_up(rows)
    started, cpu = time.perf_counter(), time.process_time()
    found = tune(run, target=0.02, at_confidence=0.95)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Speed(rows, seconds, cpu, peak_mb, found.certified)


def made_up(rows: int) -> EvalRun:
    """Three rungs with six signals a draft, and answers that can be compared."""
    random = np.random.default_rng(0)
    hard = random.normal(size=rows)
    chance = [1 / (1 + np.exp(-(level - 1.5 * hard))) for level in (0.8, 1.4, 2.2)]
    quality = (random.random((rows, 3)) < np.column_stack(chance)).astype(float)
    models = ("small", "middle", "large")
    chars = np.exp(6 + 0.3 * random.normal(size=rows)).round()
    signals = {
        model: {
            "lp_mean": np.minimum(0.0, -0.3 - 0.4 * hard + 0.3 * random.normal(size=rows)),
            "lp_min": np.minimum(0.0, -1.0 - hard + random.normal(size=rows)),
            "output_chars": np.exp(4 + 0.3 * hard + 0.5 * random.normal(size=rows)).round(),
            "output_tokens": np.exp(3 + 0.3 * hard + 0.5 * random.normal(size=rows)).round(),
            "invalid": (random.random(rows) < 0.02).astype(float),
            "input_chars": chars,
        }
        for model in models
    }
    return EvalRun(
        task="speed",
        models=models,
        row_ids=np.arange(rows).astype(object),
        quality=quality,
        cost_nusd=np.array([1e3, 5e3, 3e4]) * np.exp(0.2 * random.normal(size=(rows, 1))),
        signals=signals,
        prompt_signals={"input_chars": chars},
        answers=np.where(quality > 0.5, 0, random.integers(1, 4, (rows, 3))).astype(object),
    )


if __name__ == "__main__":
    sys.exit(main())
