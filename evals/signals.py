"""What each signal costs and what it is worth: `python -m evals.signals --data DIR --pairs FILE [--json]`.

Microseconds of reading it for a 2 KB reply, together with all that is read in the same go; and on the recorded drafts
of each set the AUROC of the signal alone, and what its block adds to the AUROC of the free signals, out of fold. Each
figure is the mean over the drafts that have the signal; the last column says of how many models those are. The AUROC of
a signal alone counts either direction: 0.5 is worth nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.drafts import drafts_of
from router.core.call import Reply, Usage
from router.core.checks import Verdict
from router.core.evidence import BLOCKS, EVIDENCE, read_evidence
from router.core.signals import FREE_SIGNALS, read_signals
from router.core.word_scores import WORD_FEATURES, WORD_SIGNALS, Words
from router.tuning.fit import FOLDS, fit
from router.tuning.quality import quality_of
from router.tuning.table import folds_of
from router.tuning.trained import Trained

Floats = NDArray[np.float64]

_SENTENCE = "Then 12 * 3 = 36 eggs are sold, perhaps for $2.50 each, and none of the {} are left over in the end. "
_ROUNDS, _CALLS = 7, 50
MOST_ROWS = 3000


@dataclass(frozen=True)
class Line:
    """One signal."""

    signal: str
    block: str
    microseconds: float
    """Of its block."""
    sets: int
    alone: float
    """Mean AUROC of the signal by itself."""
    added: float
    """Mean gain in AUROC of the free signals with its block, over the free signals; NaN for a free signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.signals")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines that name the drafts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    lines = table(options.data, [json.loads(line) for line in options.pairs.read_text().splitlines() if line.strip()])
    if options.json:
        print(json.dumps([asdict(line) for line in lines]))
        return 0
    for line in lines:
        added = "" if np.isnan(line.added) else f"{line.added:+.3f}"
        print(
            f"{line.signal:22} {line.block:18} {line.microseconds:6.1f} us  {line.alone:.3f}  {added:7} {line.sets:3}"
        )
    return 0


def table(data: Path, pairs: Sequence[dict[str, Any]]) -> list[Line]:
    """A line for each signal, block by block."""
    alone: dict[str, list[float]] = {}
    added: dict[str, list[float]] = {}
    for name, task, model in sorted({(one["set"], one["task"] or "", one["cheap"]) for one in pairs}):
        worth(data / name / "records.jsonl.gz", task or None, model, alone, added)
    spent = microseconds()
    blocks: dict[str, str] = {name: "free" for name in FREE_SIGNALS}
    blocks |= BLOCKS
    blocks |= {name: name for name in WORD_SIGNALS}
    print(f"everything together: {spent['all']:.0f} us", file=sys.stderr)
    return [
        Line(name, block, spent[block], len(alone[name]), float(np.mean(alone[name])), _mean(added.get(block, [])))
        for name, block in blocks.items()
        if name in alone
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def worth(
    path: Path, task: str | None, model: str, alone: dict[str, list[float]], added: dict[str, list[float]]
) -> None:
    """Add what the signals of one model's drafts are worth."""
    if not path.exists():
        print(f"skipped: {path} is not there", file=sys.stderr)
        return
    drafts = drafts_of(path, model, task, MOST_ROWS)
    columns, outcome = Trained(drafts, 0).train.columns(0), drafts.quality[:, 0]
    folds = folds_of(np.arange(len(outcome)), FOLDS, 0)
    for name, column in columns.items():
        known = ~np.isnan(column)
        if known.sum() >= 100 and np.ptp(column[known]) > 0 and np.ptp(outcome[known]) > 0:
            found = _auroc(column[known], outcome[known])
            alone.setdefault(name, []).append(max(found, 1.0 - found))
    free = {name: column for name, column in columns.items() if name in FREE_SIGNALS}
    before = _auroc(fit(free, outcome, folds).out_of_fold, outcome)
    for block in (*EVIDENCE, *WORD_SIGNALS):
        more = {name: column for name, column in columns.items() if block in (name, BLOCKS.get(name))}
        if more:
            after = _auroc(fit({**free, **more}, outcome, folds).out_of_fold, outcome)
            added.setdefault(block, []).append(after - before)


def _auroc(p: Floats, outcome: Floats) -> float:
    return quality_of(p, outcome).auroc.value


def microseconds() -> dict[str, float]:
    """How long each block takes to read for a 2 KB reply."""
    draft = "".join(_SENTENCE.format(at) for at in range(100))[:2048]
    prompt, logprobs = draft[:600], tuple(-0.01 * (at % 40) for at in range(500))
    reply, verdict = Reply(draft, Usage(200, 500), logprobs=logprobs), Verdict(True)
    words = Words((0.01,) * WORD_FEATURES.buckets, 0.0)
    reads: dict[str, Callable[[], object]] = {
        "free": lambda: read_signals(600, reply, verdict),
        "prompt_words": lambda: words.chance(prompt),
        "draft_words": lambda: words.chance(draft),
    }
    reads |= {block: partial(read_evidence, prompt, draft, logprobs, (block,)) for block in EVIDENCE}
    reads["all"] = lambda: [read() for name, read in reads.items() if name != "all"]
    return {name: _timed(read) for name, read in reads.items()}


def _timed(read: Callable[[], object]) -> float:
    spent = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for _ in range(_CALLS):
            read()
        spent.append(1e6 * (time.process_time() - started) / _CALLS)
    return min(spent)


if __name__ == "__main__":
    sys.exit(main())
