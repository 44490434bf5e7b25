"""How long `router slo` takes on a large ledger: `python -m evals.slo_speed FOLDER --calls 8000000`.

Makes the read model of so many calls of 30 days once, 5 requests for 4 calls, and times every objective of it.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router.audit.slo import slo
from router.core.policy import Policy, Task
from router.core.slos import Slo, Slos
from router.ledger.database import connect
from router.ledger.days import DAY_S, Days
from router.ledger.schema import ROUTES

NOW_S = 1_700_000_000.0
TASKS = [f"task-{number}" for number in range(10)]
FEATURES = [f"feature-{number}" for number in range(10)]
SLO = Slo(usd_per_call=1, usd_per_accepted=1, escalation_rate=0.05, p95_latency_ms=900)  # type: ignore[arg-type]
POLICY = Policy(
    version=1,
    tasks={name: Task(ladder=("small",), slo=SLO) for name in TASKS},
    slos=Slos(feature=dict.fromkeys(FEATURES, SLO)),
)


def calls(count: int) -> Iterator[dict[str, Any]]:
    """Calls over 60 days, in order of time."""
    dice = random.Random(6)
    for number in range(count):
        climbs = dice.random() < 0.2
        cost = 1_400 + 28_000 * climbs
        yield {
            "route_id": f"{number:032x}",
            "time_s": NOW_S - 60 * DAY_S * (1 - number / count),
            "task": dice.choice(TASKS),
            "feature": dice.choice(FEATURES),
            "user": f"user-{dice.randrange(10_000)}",
            "outcome": "answered",
            "model": "large" if climbs else "small",
            "escalated": climbs,
            "cost_nusd": cost,
            "latency_ms": dice.lognormvariate(6, 0.5) * (1 + climbs),
            "steps": [
                {
                    "model": "small",
                    "attempts": 1,
                    "action": "escalate" if climbs else "accept",
                    "reason": "confidence ",
                },
                *([{"model": "large", "attempts": 1, "action": "accept"}] if climbs else []),
            ],
        }


def build(home: Path, count: int) -> None:
    """Write the read model, a batch of calls at a time."""
    home.mkdir(parents=True)
    batch: list[dict[str, Any]] = []
    with connect(home) as database:
        for row in calls(count):
            batch.append(row)
            if len(batch) == 100_000 or int(row["route_id"], 16) == count - 1:
                database.execute("BEGIN")
                days = Days()
                for one in batch:
                    days.add_call(one, one["steps"])
                    for rung, step in enumerate(one["steps"]):
                        intent = {**one, "model": step["model"], "rung": rung}
                        days.add_request(intent, {"input_tokens": 100, "output_tokens": 5, "cost_nusd": 1_400})
                days.store(database)
                ROUTES.insert(database, batch)
                database.execute("COMMIT")
                batch.clear()


def main() -> None:
    """Build once, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--calls", type=int, default=8_000_000)
    arguments = parser.parse_args()
    if not arguments.home.exists():
        began = time.perf_counter()
        build(arguments.home, arguments.calls)
        print(f"built in {time.perf_counter() - began:.0f} s")
    for _ in range(3):
        began = time.perf_counter()
        report = slo(arguments.home, POLICY, now_s=NOW_S)
        print(f"{len(report.rows)} objectives in {time.perf_counter() - began:.2f} s: {report.state}")
    began = time.perf_counter()
    slo(arguments.home, POLICY, now_s=NOW_S, task=TASKS[0])
    print(f"one task in {time.perf_counter() - began:.2f} s")
    with connect(arguments.home) as database:
        for table in ("daily_calls", "daily_requests", "routes"):
            print(table, database.execute(f"SELECT count(*) FROM {table}").fetchone()[0], "rows")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at the most")


if __name__ == "__main__":
    main()
