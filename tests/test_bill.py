"""The ledger against the bill of an upstream that bills at random, a small run of `python -m evals.bill`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evals import bill


def test_a_thousand_calls_of_two_processes_agree_with_the_bill(tmp_path: Path) -> None:
    """Settled rows are exact, the bill is within its bounds, nothing is settled twice, the estimate is near."""
    found = bill.compare(tmp_path, calls=1000, processes=2, world=bill.World())
    assert (found.not_exact, found.out_of_bounds, found.twice, found.unsettled) == (0, 0, 0, 0)
    assert found.settled_nusd <= found.billed_nusd <= found.upper_nusd
    assert set(found.states) == {"settled", "estimated", "maybe_billed"}
    assert min(sums["rows"] for sums in found.states.values()) > 20
    # Twenty thousand calls come within two per cent; the dice of a thousand are coarser.
    assert abs(found.off) <= 0.05


def test_a_bill_that_does_not_hold_says_why() -> None:
    """Each reason with its criterion, also where every count is 0."""
    good = bill.Bill(10, 10, 0, 1000, 900, 1200, 1010, 0, 0, 0, 0, 1.0, {})
    assert good.holds
    (reason,) = replace(good, estimated_nusd=1030).problems
    assert reason.startswith("the point estimate is off by +3.00%, where at most 2% either way may be")
    assert replace(good, twice=2).problems == ["2 rows are settled twice, where none may be"]
    assert not replace(good, upper_nusd=999).holds
