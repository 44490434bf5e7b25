"""What each signal costs and what it is worth: `python -m evals.signals --data DIR --pairs FILE [--json]`.

Microseconds of a 2 KB reply: for the free signals what they take together, for any other what its block adds to those.
On the recorded drafts of each set the AUROC of the signal alone, and what it adds out of fold: a free signal to the
other free ones, any other with its block to all of those. Each figure is the mean over the sets and tasks whose drafts
have the signal, each the mean over its models; the last column says how many they are. The AUROC of a signal alone
counts either direction: 0.5 is worth nothing. Drafts are those of FILE, in the columns of `evals.certified_savings`,
and those of `evals.drafts`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.drafts import drafts_of, wanted
from router.core.calibration import Calibrator
from router.core.call import Reply, Usage
from router.core.checks import Verdict
from router.core.effects import Request
from router.core.evidence import BLOCKS, EVIDENCE
from router.core.plan import Rung
from router.core.policy import Model, Price
from router.core.reading import draft_signals
from router.core.signals import FREE_SIGNALS, LP_FLOOR
from router.core.views import WORD_FEATURES
from router.core.word_scores import FORMS, PROMPT_WORDS, WORD_SIGNALS, Words
from router.tuning.fit import FOLDS, fit
from router.tuning.quality import quality_of
from router.tuning.table import folds_of
from router.tuning.trained import Trained

Floats = NDArray[np.float64]

_SENTENCE = "Then 12 * 3 = 36 eggs are sold, perhaps for $2.50 each, and none of the {} are left over in the end. "
_DRAFT = "".join(_SENTENCE.format(at) for at in range(100))[:2048]
# Short rounds, so that some fall between what else the machine does.
_ROUNDS, _CALLS = 200, 5
MOST_ROWS = 3000


@dataclass(frozen=True)
class Line:
    """One signal."""

    signal: str
    block: str
    microseconds: float
    """Of its block."""
    sets: int
    """Sets and tasks whose drafts have it."""
    alone: float | None
    """Mean AUROC of the signal by itself; `None` where no recorded draft has it."""
    added: float | None
    """Mean gain in AUROC: of a free signal over the other free ones, of a block over all free ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.signals")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines that name the drafts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    spent = microseconds()
    lines = table(options.data, options.pairs, spent)
    if options.json:
        print(json.dumps({"microseconds": spent["all"], "signals": [asdict(line) for line in lines]}, indent=1))
        return 0
    print(f"everything together: {spent['all']:.0f} us")
    for line in lines:
        alone, added = (
            "" if one is None else format(one, way) for one, way in ((line.alone, ".3f"), (line.added, "+.3f"))
        )
        print(f"{line.signal:22} {line.block:18} {line.microseconds:6.1f} us  {alone:5}  {added:7} {line.sets:3}")
    return 0


def table(data: Path, pairs: Path, spent: Mapping[str, float]) -> list[Line]:
    """A line for each signal, block by block."""
    found: dict[tuple[str, str], list[Worth]] = {}
    for name, task, model in wanted(data, pairs):
        found.setdefault((name, task), []).append(worth(data / name / "records.jsonl.gz", task or None, model))
    blocks: dict[str, str] = dict.fromkeys(FREE_SIGNALS, "free") | BLOCKS
    blocks |= {name: name for name in WORD_SIGNALS}
    lines = []
    for name, block in blocks.items():
        gain = name if block == "free" else block
        alone = [_mean([one.alone[name] for one in of if name in one.alone]) for of in found.values()]
        added = [_mean([one.added[gain] for one in of if gain in one.added]) for of in found.values()]
        sets = sum(one is not None for one in alone)
        lines.append(Line(name, block, spent[block], sets, _mean(alone), _mean(added) if sets else None))
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


class Worth(NamedTuple):
    """What the signals of one model's drafts are worth."""

    alone: dict[str, float]
    """AUROC by signal."""
    added: dict[str, float]
    """Gain in AUROC by free signal and by block."""


def worth(path: Path, task: str | None, model: str) -> Worth:
    """What the signals of one model's drafts are worth."""
    drafts = drafts_of(path, model, task, MOST_ROWS)
    columns, outcome = Trained(drafts, 0).train.columns(0), drafts.quality[:, 0]
    folds = folds_of(np.arange(len(outcome)), FOLDS, 0)
    found = Worth({}, {})
    for name, column in columns.items():
        known = ~np.isnan(column)
        if known.sum() >= 100 and np.ptp(column[known]) > 0 and np.ptp(outcome[known]) > 0:
            auroc = _auroc(column[known], outcome[known])
            found.alone[name] = max(auroc, 1.0 - auroc)
    free = {name: column for name, column in columns.items() if name in FREE_SIGNALS}
    whole = _auroc(fit(free, outcome, folds).out_of_fold, outcome)
    for name in free:
        others = {other: column for other, column in free.items() if other != name}
        found.added[name] = whole - _auroc(fit(others, outcome, folds).out_of_fold, outcome)
    for block in (*EVIDENCE, *WORD_SIGNALS):
        more = {name: column for name, column in columns.items() if block in (name, BLOCKS.get(name))}
        if more:
            found.added[block] = _auroc(fit({**free, **more}, outcome, folds).out_of_fold, outcome) - whole
    return found


def _auroc(p: Floats, outcome: Floats) -> float:
    return quality_of(p, outcome).auroc.value


def microseconds() -> dict[str, float]:
    """How long a 2 KB reply takes to read: the free signals, what each block adds to these, and all in one go."""
    spent = {name: _timed(read) for name, read in reads().items()}
    return {name: us if name in ("free", "all") else us - spent["free"] for name, us in spent.items()}


Read = Callable[[Request], dict[str, float]]


def asked() -> Request:
    """A new request, none of whose words have been read."""
    prompt = _DRAFT[:600]
    return Request("r", ({"role": "user", "content": prompt},), len(prompt), group="sums")


def reads() -> dict[str, Read]:
    """By block, and for all together, what a call reads of a 2 KB reply whose calibrator names a signal of each."""
    # Two in three tokens have a probability above 0.99, one in twenty one below one half, in no order.
    drawn = random.Random(0)
    lps = tuple(max(LP_FLOOR, -0.01 * drawn.expovariate(1.0) ** 4) for _ in range(500))
    sizes = tuple(len(_DRAFT[at::500]) for at in range(500))
    reply = Reply(_DRAFT, Usage(200, 500), logprobs=lps, token_bytes=sizes, margins=tuple(-lp for lp in lps))
    return {
        "free": _reading((), reply),
        **{block: _reading(names, reply) for block, names in EVIDENCE.items()},
        **{name: _reading((name,), reply) for name in WORD_SIGNALS},
        "all": _reading((*BLOCKS, *WORD_SIGNALS), reply),
    }


def _reading(signals: Iterable[str], reply: Reply) -> Read:
    """What a call reads whose calibrator names these signals."""
    names = tuple(signals)
    number = (1.0,) * len(names)
    of_draft = Words((0.01,) * WORD_FEATURES.buckets, 0.0)
    of_prompt = replace(of_draft, groups={"sums": 0.1}, form=(0.01,) * FORMS)
    words = {name: of_prompt if name in PROMPT_WORDS else of_draft for name in WORD_SIGNALS}
    calibrators = (Calibrator(names, number, number, number, 0.0),)
    rung = Rung("small", Model("x/small"), Price(), 0.5, calibrators, words=words)
    verdict = Verdict(True, 2.5)
    return lambda request: draft_signals(rung, request, reply, verdict, 1.0)


def _timed(read: Read) -> float:
    spent = []
    for _ in range(_ROUNDS):
        requests = [asked() for _ in range(_CALLS)]
        started = time.process_time()
        for request in requests:
            read(request)
        spent.append(1e6 * (time.process_time() - started) / _CALLS)
    return min(spent)


if __name__ == "__main__":
    sys.exit(main())
