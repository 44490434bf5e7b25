"""Sixty-four workers on one budget, against an upstream that keeps its own bill: not a cent too much, nothing lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from router import Policy, Router
from router.state.sheets import lives
from tests.budget_harness import aspend, spend
from tests.budget_support import in_use, policy_with
from tests.support import read_table
from tests.upstream import Upstream

WORKERS = 64
NAME = "feature.usd_per_day:f"
# No request of these prompts can cost more: 70 tokens and 40 of output on the dearer model. Room for a few hundred.
BOUND_LARGE = 70 * 2_000 + 40 * 8_000
LIMIT = 4_000_000
FAULTS = "seed=5 rate=0.2 kinds=reset_billed,truncated,server_error,rate_limited,missing_usage,html"
RETRY = {"retry": {"attempts": 2, "max_wait_s": 0.05}}


def policy(upstream: Upstream) -> Policy:
    """The policy of all workers."""
    return policy_with({"feature": {"default": {"usd_per_day": f"{LIMIT / 1e9:.9f}"}}}, RETRY, api_base=upstream.url)


def check_spent(home: Path, upstream: Upstream, *, exactly: bool = True) -> None:
    """The bill is within what counts as spent, that is within the limit, and what is left fits no request.

    What counts is what the ledger says that each request can have cost; of a process that was killed between the two
    it may be more.
    """
    budget = in_use(home)[NAME]
    bill = sum(row.cost_nusd for row in upstream.bill())
    assert budget.held == 0
    assert bill <= budget.spent <= LIMIT
    assert LIMIT - budget.spent < BOUND_LARGE
    bounds = sum(row["upper_nusd"] or 0 for row in read_table(home, "attempts"))
    if exactly:
        assert budget.spent == bounds
    assert budget.spent >= bounds


def test_threads(upstream: Upstream, home: Path) -> None:
    """Each routes until it is refused."""
    upstream.reset(FAULTS)
    with Router(policy(upstream), home=home) as router:
        threads = [threading.Thread(target=spend, args=(router, str(number))) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_spent(home, upstream)
    check_spent(home, upstream)


def test_tasks(upstream: Upstream, home: Path) -> None:
    """Each routes until it is refused."""
    upstream.reset(FAULTS)

    async def all_of_them(router: Router) -> None:
        await asyncio.gather(*(aspend(router, str(number)) for number in range(WORKERS)))

    with Router(policy(upstream), home=home) as router:
        asyncio.run(all_of_them(router))
        check_spent(home, upstream)


def harness(upstream: Upstream, home: Path, kills: int) -> Counter[str]:
    """How many processes ended in which way."""
    command = [sys.executable, "-m", "tests.budget_harness", upstream.url, str(home), str(LIMIT), str(WORKERS)]
    done = subprocess.run([*command, str(kills)], capture_output=True, text=True, timeout=300, check=True)
    return Counter(done.stdout.split())


def test_processes(upstream: Upstream, home: Path) -> None:
    """Each routes until it is refused; what is left at the end fits no request of any of them."""
    upstream.reset(FAULTS)
    assert harness(upstream, home, 0) == {"refused": WORKERS}
    check_spent(home, upstream)


def test_killed_processes_take_nothing_along(upstream: Upstream, home: Path) -> None:
    """What the killed had spent or under way counts; the rest of their blocks is spent by the others."""
    upstream.reset("")
    ended = harness(upstream, home, 20)
    assert set(ended) <= {"killed", "refused"}
    assert ended["killed"] > 0
    check_spent(home, upstream, exactly=False)
    orphans = [row for row in read_table(home, "attempts") if row["state"] == "unknown"]
    assert orphans
    sheets = home / "state" / "budgets"
    assert [path for path in sheets.iterdir() if lives(path)] == []
