"""RouteLLM's own data: GPT-4-1106 above Mixtral, measured as RouteLLM measures, and once more with the draft charged.

    python -m evals.routellm --data DIR [--repeats N] [--json]

DIR holds `routellm/records.jsonl.gz`. Everything is fitted by `router.tuning` and scored by what `route` uses. GSM8K:
ten folds, each scored by what the other nine gave. MMLU: 1,500 labelled prompts, drawn N times, scored on the others.
APGR and CPT as in RouteLLM's evaluation: ten equal shares of the scores as thresholds, trapezoids between them, and the
cost axis counts calls of the large model. `charged` has the real cost of every call, with its draft, on that axis. The
intervals of GSM8K hold 90 % of what the figures are on prompts drawn anew from those of the set.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.word_scores import Words, WordSignal
from router.tuning.features import score as score_columns
from router.tuning.fit import Fit
from router.tuning.loading import load_columns
from router.tuning.plans import by_gain
from router.tuning.table import Table, prepare
from router.tuning.texts import word_columns
from router.tuning.trained import Trained

Floats = NDArray[np.float64]

MODELS = ("Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
# The best of RouteLLM's own routers with labels of the set: APGR, CPT(50), CPT(80), from their paper.
THEIRS = {"gsm8k": (0.622, 0.336, 0.633), "mmlu": (0.603, 0.354, 0.716)}
THRESHOLDS = 10
MMLU_LABELS = 1500
# Draws of the bootstrap, and what lies within its interval: 90 %.
_DRAWS, _INNER = 200, (0.05, 0.95)


class Curve(NamedTuple):
    """Quality against what it takes, for one order of the prompts."""

    apgr: float
    cpt50: float
    cpt80: float


@dataclass(frozen=True)
class Line:
    """One method on one set, mean over its repeats."""

    set: str
    method: str
    sees_draft: bool
    labels: int
    apgr: float
    cpt50: float
    cpt80: float
    charged_apgr: float
    charged_cpt50: float
    """Share of always-large's cost at half the gain, with every draft paid where the method needs one."""
    repeats: int
    apgr_interval: tuple[float, float] | None
    """90 %, as far as it hangs on which prompts the set has; `None` where each repeat has prompts of its own."""
    cpt50_interval: tuple[float, float] | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.routellm")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--repeats", type=int, default=10, help="orders of the folds, and draws of the labels")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    path = options.data / "routellm" / "records.jsonl.gz"
    if not path.exists():
        print(f"skipped: {path} is not there", file=sys.stderr)
        return 0
    lines = [*gsm8k(path, options.repeats), *mmlu(path, options.repeats)]
    if options.json:
        print(json.dumps({"lines": [asdict(line) for line in lines], "theirs": THEIRS}))
        return 0
    for line in lines:
        print(
            f"{line.set:6} {line.method:34} {'draft' if line.sees_draft else 'prompt':7} APGR {line.apgr:.3f} "
            f"CPT(50) {line.cpt50:.1%} CPT(80) {line.cpt80:.1%} | charged: APGR {line.charged_apgr:.3f} "
            f"CPT(50) {line.charged_cpt50:.1%}"
        )
    return 0


def read(path: Path, task: str) -> Table:
    """The rows that RouteLLM evaluates on: without those that its own contamination check names."""
    run = load_columns(path, MODELS, task=task, group="contaminated", cluster="subject" if task == "mmlu" else None)
    assert run.group is not None
    run = run.take(np.flatnonzero(run.group != "True"))
    return prepare(replace(run, group=run.cluster, cluster=None))


def gsm8k(path: Path, repeats: int) -> list[Line]:
    """After the draft and before it, ten folds."""
    table = read(path, "gsm8k")
    heads: dict[str, Callable[[Trained], Fit]] = {
        "all signals": lambda one: one.confidence(0),
        "prompt words and length": lambda one: one.prompt(0),
        "last": lambda one: one.last(0, 1),
    }
    methods = {"all signals": True, "all signals, gain": True, "prompt words and length": False}
    lines = []
    found: dict[str, list[Floats]] = {name: [] for name in methods}
    for seed in range(repeats):
        scores = {name: np.empty(table.rows) for name in heads}
        folds = np.random.default_rng(seed).permutation(table.rows) % 10
        for fold in range(10):
            own, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            trained = Trained(table.take(others), seed)
            for name, head in heads.items():
                scores[name][own] = scored(trained, head(trained), table.take(own))
        scores["all signals, gain"] = by_gain(scores["last"], scores["all signals"])
        for name in methods:
            found[name].append(scores[name])
    for name, sees in methods.items():
        lines.append(_line("gsm8k", name, sees, table.rows * 9 // 10, [(table, one) for one in found[name]]))
    return [*lines, best(table), _line("gsm8k", "random", False, 0, _random(table, repeats))]


def best(table: Table) -> Line:
    """What nobody can beat: an order that knows how both models are graded on every prompt."""
    gain = table.quality[:, 0] - table.quality[:, 1]
    ties = 1e-6 * np.random.default_rng(0).random(table.rows)  # Equal scores would share one threshold.
    return _line("gsm8k", "knowing both grades", True, 0, [(table, gain + ties)])


def mmlu(path: Path, repeats: int) -> list[Line]:
    """Before the draft, from few labels."""
    table = read(path, "mmlu")
    found: dict[str, list[tuple[Table, Floats]]] = {"subject and words": [], "subject alone": []}
    for seed in range(repeats):
        order = np.random.default_rng(seed).permutation(table.rows)
        train, test = table.take(order[:MMLU_LABELS]), table.take(order[MMLU_LABELS:])
        for name, rows in found.items():
            rows.append((test, worth(train, test, seed, alone=name.endswith("alone"))))
    lines = [_line("mmlu", name, False, MMLU_LABELS, rows) for name, rows in found.items()]
    return [*lines, _line("mmlu", "random", False, 0, _random(table, repeats))]


def worth(train: Table, test: Table, seed: int, *, alone: bool) -> Floats:
    """By how much the small model is better, from the prompt: its chance to be right less the large one's."""
    if alone:
        train, test = _without_text(train), _without_text(test)
    small, large = Trained(train, seed).prompts
    chances = word_columns(test.run, 0, {"prompt_words": small.words, "last_words": large.words})
    return by_gain(chances["last_words"], chances["prompt_words"])


def _without_text(table: Table) -> Table:
    return replace(table, run=replace(table.run, prompts=np.full(table.rows, "", dtype=object)))


def scored(trained: Trained, head: Fit, rows: Table) -> Floats:
    """What a fitted head says of other rows."""
    words: dict[WordSignal, Words] = {**trained.words[0], "last_words": trained.prompts[1].words}
    columns = {**rows.columns(0), **word_columns(rows.run, 0, words)}
    return score_columns(head.calibrator, columns, rows.rows)


def _random(table: Table, repeats: int) -> list[tuple[Table, Floats]]:
    return [(table, np.random.default_rng(seed).random(table.rows)) for seed in range(repeats)]


def _line(name: str, method: str, sees: bool, labels: int, found: list[tuple[Table, Floats]]) -> Line:
    plain = np.mean([curve(table, score, None) for table, score in found], axis=0)
    charged = np.mean([curve(table, score, sees) for table, score in found], axis=0)
    figures = [float(one) for one in (*plain, *charged[:2])]
    apgr, cpt50 = intervals(found) if name == "gsm8k" else (None, None)
    return Line(
        name, method, sees, labels, figures[0], figures[1], figures[2], figures[3], figures[4], len(found), apgr, cpt50
    )


def intervals(found: list[tuple[Table, Floats]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of APGR and of CPT(50), by a bootstrap over the prompts, which all repeats must share."""
    table = found[0][0]
    drawn = []
    for seed in range(_DRAWS):
        rows = np.random.default_rng(seed).integers(0, table.rows, table.rows)
        some = table.take(rows)
        drawn.append(np.mean([curve(some, score[rows], None) for _, score in found], axis=0))
    low, high = np.quantile(drawn, _INNER, axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def curve(table: Table, keep: Floats, draft_paid: bool | None) -> Curve:
    """RouteLLM's figures for the order in which prompts keep the small model's answer.

    Parameters
    ----------
    table
        Two models: small and large.
    keep
        The higher, the sooner the small model's answer is kept.
    draft_paid
        `None` counts calls of the large model. Otherwise the axis is cost as a share of always-large's, and this says
        whether a call that climbs has paid for a draft.
    """
    weak, strong = table.quality[:, 0], table.quality[:, 1]
    wins = 1.0 - keep
    cuts = np.unique(np.quantile(wins, np.linspace(0.0, 1.0, THRESHOLDS + 1)))
    points = []
    for at, cut in enumerate(cuts):
        climbs = wins >= cut if at < len(cuts) - 1 else wins > cut
        quality = float(np.where(climbs, strong, weak).mean())
        points.append((_axis(table, climbs, draft_paid), quality))
    points.sort()
    x, y = np.array(points).T
    low, high = float(weak.mean()), float(strong.mean())
    area = float(np.trapezoid((y - low) / (high - low), x)) / float(x[-1] - x[0])
    cpt = [float(np.interp(low + share * (high - low), np.maximum.accumulate(y), x)) for share in (0.5, 0.8)]
    return Curve(area, *cpt)


def _axis(table: Table, climbs: NDArray[np.bool_], draft_paid: bool | None) -> float:
    if draft_paid is None:
        return float(climbs.mean())
    small, large = table.cost[:, 0], table.cost[:, 1]
    cost = np.where(climbs, large + (small if draft_paid else 0.0), small)
    return float(cost.mean() / large.mean())


if __name__ == "__main__":
    sys.exit(main())
