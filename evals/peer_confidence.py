"""cascadeflow's confidence beside ours, on the same recorded drafts.

    python -m evals.peer_confidence --data DIR --pairs FILE [--peer PYTHON] [--rows N] [--json]

PYTHON is the interpreter of an environment of its own that has `cascadeflow`; it is never a dependency of this
project. Without it the figures are ours alone. FILE names the drafts, in the columns of `evals.certified_savings`;
further ones stand in `evals.drafts`. Drafts without a text are left out: there is nothing that either could read.

Ours is fitted on four fifths of the rows and read off the rest, five times in turn, with no other model's answer and no
recorded confidence. Theirs takes no labels, as it is shipped; what it would be with an isotonic curve fitted on top
stands beside it. Both see the prompt, the draft, its log-probabilities and how it ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.drafts import Drafts, drafts_of, wanted
from router.core.call import Reply, text_of, to_messages
from router.core.checks import Verdict
from router.core.effects import Request
from router.core.plan import Rung
from router.core.policy import Model, Price
from router.core.reading import draft_signals
from router.models.recording import read_recording
from router.models.replay import outcome_of
from router.tuning.features import score
from router.tuning.fit import isotonic
from router.tuning.plans import Heads, with_used
from router.tuning.quality import quality_of
from router.tuning.table import Table, folds_of
from router.tuning.texts import word_columns
from router.tuning.trained import Trained

Floats = NDArray[np.float64]
FOLDS = 5
_TIMED = 200
# Of fewer rows one division into folds says little: the figures are the mean of twelve.
_FEW_ROWS, _DIVISIONS = 500, 12

# Runs in the other environment: a JSON line for each draft in, a confidence and its microseconds out.
_WORKER = """
import json, logging, sys, time
logging.disable(logging.CRITICAL)
from cascadeflow.quality.confidence import ProductionConfidenceEstimator
estimator = ProductionConfidenceEstimator("openai")
for line in sys.stdin:
    one = json.loads(line)
    started = time.perf_counter()
    found = estimator.estimate(one["draft"], query=one["prompt"], logprobs=one["logprobs"], temperature=0.0,
                               finish_reason=one["finish"])
    print(json.dumps([found.final_confidence, 1e6 * (time.perf_counter() - started)]))
"""


@dataclass(frozen=True)
class Line:
    """One confidence on the drafts of one model."""

    set: str
    model: str
    rows: int
    whose: str
    auroc: float
    brier: float
    calibration_error: float
    microseconds: float
    """Median, of reading one draft."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.peer_confidence")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--pairs", type=Path, required=True, help="JSON lines that name the drafts")
    parser.add_argument("--peer", type=Path, help="interpreter that has cascadeflow")
    parser.add_argument("--rows", type=int, default=2000, help="most drafts of each model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if why := _lacking(options.peer):
        print(f"cascadeflow is left out: {why}", file=sys.stderr)
    lines: list[Line] = []
    for drafts in wanted(options.data, options.pairs):
        lines += compare(options.data, drafts, options.peer if not why else None, options.rows)
    lines.sort(key=lambda line: (line.set, line.model, line.whose))
    if options.json:
        print(json.dumps([asdict(line) for line in lines]))
        return 0
    for line in lines:
        print(
            f"{line.set:36} {line.model:32} {line.rows:5} {line.whose:22} AUROC {line.auroc:.3f} "
            f"Brier {line.brier:.3f} calibration {line.calibration_error:.3f} {line.microseconds:6.0f} us"
        )
    return 0


def _lacking(peer: Path | None) -> str:
    if peer is None:
        return "no --peer was given"
    done = subprocess.run([str(peer), "-c", "import cascadeflow"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{peer} cannot import it"


def compare(data: Path, drafts: Drafts, peer: Path | None, most: int) -> list[Line]:
    """Both confidences on the drafts of one model."""
    name, task, model = drafts
    label, path = f"{name} {task}".strip(), data / name / "records.jsonl.gz"
    table = drafts_of(path, model, task or None, most)
    if table.run.drafts is None or table.run.prompts is None:
        print(f"skipped: {label} has no texts of {model}", file=sys.stderr)
        return []
    outcome, read = table.quality[:, 0], recorded(path, model, task or None, table)
    seeds = range(1, 1 + (_DIVISIONS if table.rows < _FEW_ROWS else 1))
    own = [ours(table, read, seed) for seed in seeds]
    found = [_line(label, model, "ours", [p for p, _ in own], own[0][1], outcome)]
    if peer is not None:
        p, spent = theirs(read, peer)
        found.append(_line(label, model, "cascadeflow", [p], spent, outcome))
        again = [refitted(p, outcome, seed) for seed in seeds]
        found.append(_line(label, model, "cascadeflow, refitted", again, spent, outcome))
    return found


class Draft(NamedTuple):
    """A prompt, what was answered to it, and when that ended."""

    request: Request
    reply: Reply
    prompt: str


def recorded(path: Path, model: str, task: str | None, table: Table) -> list[Draft]:
    """The recorded drafts in the order of the table's rows."""
    replies: dict[tuple[str, str], Reply] = {}
    for row in read_recording(path, models=(model,), task=task):
        reply = outcome_of(row)
        if isinstance(reply, Reply) and row.get("prompt"):
            replies.setdefault((text_of(to_messages(row["prompt"], row.get("system"))), row["response"] or ""), reply)
    run, found = table.run, []
    assert run.prompts is not None
    assert run.drafts is not None
    for prompt, draft in zip(run.prompts.tolist(), run.drafts[:, 0].tolist(), strict=True):
        request = Request("", ({"role": "user", "content": prompt},), len(prompt))
        found.append(Draft(request, replies.get((prompt, draft), Reply(draft or "", None)), prompt))
    return found


def ours(table: Table, drafts: Sequence[Draft], seed: int) -> tuple[Floats, float]:
    """Confidence of each row by a fit without it, and the median microseconds of reading and scoring a draft."""
    folds = folds_of(table.unit, FOLDS, seed)
    p = np.empty(table.rows)
    for fold in range(FOLDS):
        own, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        trained = Trained(table.take(others), 0)
        calibrator, test = trained.confidence(0).calibrator, table.take(own)
        heads = with_used(Heads((calibrator,)), trained.words[0])
        columns = {**test.columns(0), **word_columns(test.run, 0, heads.words)}
        p[own] = score(calibrator, columns, test.rows)
        p[own] = np.where(np.isnan(p[own]), table.quality[others, 0].mean(), p[own])
    rung = Rung("model", Model("x/model"), Price(), 0.5, heads.confidence, words=heads.words)
    usable, spent = Verdict(True), []
    for request, reply, _ in drafts[:_TIMED]:
        started = time.perf_counter()
        calibrator.probability(draft_signals(rung, request, reply, usable, None))
        spent.append(1e6 * (time.perf_counter() - started))
    return p, float(np.median(spent))


def theirs(drafts: Sequence[Draft], peer: Path) -> tuple[Floats, float]:
    """The peer's confidence of each draft, and its median microseconds."""
    asked = [
        {
            "prompt": draft.prompt,
            "draft": draft.reply.text,
            "logprobs": [max(one, -100.0) for one in draft.reply.logprobs] if draft.reply.logprobs else None,
            "finish": draft.reply.finish_reason,
        }
        for draft in drafts
    ]
    lines = "".join(json.dumps(one) + "\n" for one in asked)
    done = subprocess.run([str(peer), "-c", _WORKER], input=lines, capture_output=True, text=True, check=True)
    found = np.array([json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")])
    return found[:, 0], float(np.median(found[:_TIMED, 1]))


def refitted(p: Floats, outcome: Floats, seed: int) -> Floats:
    """A confidence with an isotonic curve on top, fitted on the other rows."""
    folds, found = folds_of(np.arange(len(p)), FOLDS, seed), np.empty(len(p))
    for fold in range(FOLDS):
        own, others = folds == fold, folds != fold
        found[own] = np.interp(p[own], *isotonic(p[others], outcome[others]))
    return found


def _line(label: str, model: str, whose: str, p: Sequence[Floats], spent: float, outcome: Floats) -> Line:
    """The mean of the figures over all divisions into folds."""
    found = [quality_of(one, outcome) for one in p]
    figures = [(one.auroc.value, one.brier.value, one.calibration_error.value) for one in found]
    auroc, brier, error = (float(one) for one in np.mean(figures, axis=0))
    return Line(label, model, len(outcome), whose, auroc, brier, error, spent)


if __name__ == "__main__":
    sys.exit(main())
