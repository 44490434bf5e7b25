"""kill -9 in the middle of traffic loses nothing that was acknowledged and nothing that was billed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from router.ledger import fold
from tests.support import read_table
from tests.test_traffic import agrees, pair_with_bill
from tests.upstream import Upstream

KILLS = 50


def test_fifty_kills_lose_nothing(upstream: Upstream, home: Path) -> None:
    """Each acknowledged call is on record as a whole, and each request that the upstream counted has a row."""
    command = [sys.executable, "-m", "tests.kill_harness", upstream.url, str(home), str(KILLS), "20261120"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    acknowledged = [json.loads(line) for line in output.splitlines()]
    assert {one["child"] for one in acknowledged} == set(range(KILLS))

    report = fold(home)
    routes = {row["route_id"] for row in read_table(home, "routes")}
    assert {one["route_id"] for one in acknowledged} <= routes
    assert report.corrupt == []

    attempts = read_table(home, "attempts")
    assert all(row["state"] != "open" for row in attempts)
    of_acknowledged = {one["route_id"] for one in acknowledged}
    assert {row["state"] for row in attempts if row["route_id"] in of_acknowledged} == {"settled"}
    orphans = [row for row in attempts if row["state"] == "unknown"]
    assert report.orphans == len(orphans) > 0

    pairs = pair_with_bill(home, upstream.bill(), lost_allowed=True)
    assert [pair for pair in pairs if not agrees(*pair)] == []
    settled = sum(row["cost_nusd"] for row in attempts if row["state"] == "settled")
    bounds = sum(row["upper_nusd"] for row in orphans)
    assert settled <= sum(billed.cost_nusd for billed in upstream.bill()) <= settled + bounds
