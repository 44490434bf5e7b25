"""Measures the figures that the documentation shows, into docs/figures.json; `docs/generate.py` makes the tables of it.

`python docs/figures.py` runs the demo on this machine; with `--data DIR`, the folder of the recorded sets, the evals of
`evals/runs.txt` too. What is not measured stays as it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from router.demo import prepare, run
from router.models.local import classifier_path

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures.json"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the recorded sets")
    data = parser.parse_args().data
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    figures["demo"] = demo()
    if data:
        figures["evals"] = evals(data)
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def demo() -> dict[str, Any]:
    """What `router demo` trains and shows."""
    with tempfile.TemporaryDirectory() as place:
        policies = Path(place, "policies")
        policies.mkdir()
        fitted = prepare(policies)
        found = run(policies, Path(place, "home"), shown=0)
        rungs = {
            name: {
                "train_rows": one.train_rows,
                "accuracy": one.accuracy,
                "calibration_error": one.calibration_error,
                "brier": one.brier,
                "microseconds": one.microseconds,
                "bytes": classifier_path(policies, name).stat().st_size,
            }
            for name, one in fitted.items()
        }
    return {"tickets": found.tickets, "rungs": rungs, "lines": [asdict(line) for line in found.lines]}


def evals(data: Path) -> list[dict[str, Any]]:
    """What the runner prints with `--json`, for each line of `evals/runs.txt`."""
    lines = (ROOT / "evals" / "runs.txt").read_text(encoding="utf-8").splitlines()
    return [{"arguments": line, **evaluated(line, data)} for line in lines if line.strip()]


def evaluated(line: str, data: Path) -> dict[str, Any]:
    """One run."""
    command = [sys.executable, "-m", "evals.replay_ladder", "--data", str(data), *line.split(), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    if not done.stdout:
        raise SystemExit(f"{shlex.join(command)}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
