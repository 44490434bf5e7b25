"""Budgets: what a call may spend with others, what becomes of it at a limit, and when a window begins."""

from __future__ import annotations

import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router
from router.core.counters import Counter, Line, Refusal
from router.core.limits import Window
from router.errors import BudgetExceeded
from router.state import Hold, SharedBudgets
from router.testing import Reply, ScriptedModels, SimulatedWorld, Usage
from router.windows import moment_text, span
from tests.budget_support import policy_with

YES = Reply("yes", Usage(input_tokens=10, output_tokens=1))


# The arithmetic


def line(limit: int, name: str = "k", **fields: Any) -> Line:
    """A line of dollars in a day, unless it says something else."""
    counter = Counter(
        **{
            "kind": "user",
            "unit": "usd",
            "window": "day",
            "at_limit": "refuse",
            "time_zone": "UTC",
            "limit": limit,
            **fields,
        }
    )
    return Line.of(counter, name)


@settings(max_examples=25, deadline=None)
@given(
    limit=st.integers(0, 2_000),
    calls=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 3)), max_size=60),
)
def test_no_sequence_of_reserving_and_settling_passes_a_limit(
    tmp_path_factory: pytest.TempPathFactory, limit: int, calls: list[tuple[int, int, int]]
) -> None:
    """Two processes' budgets on one store: spent and held never exceed the limit, and at the end nothing is held."""
    folder = tmp_path_factory.mktemp("state")
    world = SimulatedWorld()
    sides = [SharedBudgets(folder, world), SharedBudgets(folder, world)]
    lines = [line(limit)]
    open_holds: list[tuple[SharedBudgets, Hold, int]] = []
    spent = held = 0
    for upper, actual, choice in calls:
        side = sides[choice % 2]
        if choice >= 2 and open_holds:
            owner, hold, reserved = open_holds.pop(0)
            cost = min(actual, reserved)
            owner.settle(hold, cost)
            spent, held = spent + cost, held - reserved
        else:
            found = side.reserve(lines, upper)
            if isinstance(found, Hold):
                held += upper
                open_holds.append((side, found, upper))
            else:
                assert found.needed == upper
        assert spent + held <= limit
    for owner, hold, reserved in open_holds:
        owner.settle(hold, reserved)
        spent += reserved
    for side in sides:
        side.close()
    known = sides[0].in_use()
    assert [(one.spent, one.held) for one in known] == ([(spent, 0)] if known else [])
    assert spent == sum(one.spent for one in known)


def test_the_last_cent_can_be_spent(tmp_path: Path) -> None:
    """What one process gives back as the budget nears its end is there for another: nothing is left that fits."""
    world = SimulatedWorld()
    sides = [SharedBudgets(tmp_path, world) for _ in range(5)]
    lines, granted = [line(1_000)], 0
    going = list(sides)
    while going:
        for side in tuple(going):
            found = side.reserve(lines, 7)
            if isinstance(found, Hold):
                side.settle(found, 7)
                granted += 7
            else:
                going.remove(side)
    assert 1_000 - granted < 7
    assert sides[0].in_use()[0].spent == granted


def test_a_budget_without_room_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """All or none: the first budget gets its room back when the second has none."""
    budgets = SharedBudgets(tmp_path, SimulatedWorld())
    wide, narrow = line(1_000, "a"), line(5, "b")
    refused = budgets.reserve([wide, narrow], 10)
    assert isinstance(refused, Refusal)
    assert refused.line.key == "b"
    assert (refused.spent, refused.needed, refused.hopeless) == (0, 10, True)
    assert [(one.spent, one.held) for one in budgets.in_use()] == [(0, 0), (0, 0)]
    assert isinstance(budgets.reserve([wide], 1_000), Hold)


def test_who_is_refused_keeps_no_room_from_the_next(tmp_path: Path) -> None:
    """The rest of a block is back with the refusal itself; to give it back later would refuse both of two who ask."""
    one, other = (SharedBudgets(tmp_path, SimulatedWorld()) for _ in range(2))
    lines = [line(100)]
    for side in (one, other):
        hold = side.reserve(lines, 45)
        assert isinstance(hold, Hold)
        side.settle(hold, 5)
    visits = 0
    meanwhile: list[Hold | Refusal] = []

    def between(_: object, event: str, called: object) -> None:
        nonlocal visits
        visits += event == "c_call" and called is sqlite3.connect
        if visits == 2 and not meanwhile:  # The refusal is decided; what the refused one does now, it does later.
            meanwhile.append(other.reserve(lines, 80))

    sys.setprofile(between)
    try:
        refused = one.reserve(lines, 80)
    finally:
        sys.setprofile(None)
    assert isinstance(refused, Refusal)
    found = meanwhile[0] if meanwhile else other.reserve(lines, 80)
    assert isinstance(found, Hold)


def test_others_see_at_once_what_a_request_cost_above_its_bound(tmp_path: Path) -> None:
    """Also while the process that sent it keeps its block, and does nothing."""
    world = SimulatedWorld()
    one, other = SharedBudgets(tmp_path, world), SharedBudgets(tmp_path, world)
    first, second = one.reserve([line(1_000)], 10), one.reserve([line(1_000)], 10)
    assert isinstance(first, Hold)
    assert isinstance(second, Hold)
    one.settle(first, 900)
    assert isinstance(other.reserve([line(1_000)], 91), Refusal)
    assert isinstance(other.reserve([line(1_000)], 90), Hold)
    one.settle(second, 10)
    assert [(use.spent, use.held) for use in other.in_use()] == [(910, 90)]


def test_a_limit_that_changes_holds_from_then_on(tmp_path: Path) -> None:
    """What was spent under the old limit counts under the new one."""
    budgets = SharedBudgets(tmp_path, SimulatedWorld())
    hold = budgets.reserve([line(1_000)], 400)
    assert isinstance(hold, Hold)
    budgets.settle(hold, 400)
    assert isinstance(budgets.reserve([line(500)], 101), Refusal)
    assert isinstance(budgets.reserve([line(500)], 100), Hold)


def test_more_keys_than_a_process_keeps_lose_no_count(tmp_path: Path) -> None:
    """Blocks of users who come and go are given back, so that many users need no more than one sheet at a time."""
    budgets = SharedBudgets(tmp_path, SimulatedWorld())
    lines = [line(100, f"user-{number}") for number in range(1_050)]
    for one in lines:
        hold = budgets.reserve([one], 60)
        assert isinstance(hold, Hold)
        budgets.settle(hold, 60)
    assert isinstance(budgets.reserve([lines[0]], 41), Refusal)
    assert isinstance(budgets.reserve([lines[-1]], 40), Hold)
    assert sum(one.spent for one in budgets.in_use()) == 1_050 * 60


# Windows


@settings(deadline=None)
@given(
    window=st.sampled_from(["minute", "hour", "day", "month"]),
    zone=st.sampled_from(
        [
            "UTC",
            "Europe/Berlin",
            "America/Havana",
            "America/Sao_Paulo",
            "Asia/Beirut",
            "Australia/Lord_Howe",
            "Asia/Kathmandu",
            "Pacific/Apia",
            "Africa/Cairo",
            "America/Scoresbysund",
            "Pacific/Kiritimati",
        ]
    ),
    now_s=st.floats(946_684_800, 4_000_000_000),
)
def test_windows_follow_each_other_without_a_gap(window: Window, zone: str, now_s: float) -> None:
    """Each moment is in exactly one window, whatever the clocks of a place do."""
    here = span(window, zone, now_s)
    assert here.start_s <= now_s < here.end_s
    assert span(window, zone, here.start_s) == here
    assert span(window, zone, here.end_s).start_s == here.end_s
    assert span(window, zone, here.start_s - 1).end_s == here.start_s


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-07-01", 24)], ids=["spring", "autumn", "summer"]
)
def test_a_day_is_as_long_as_it_is(day: str, hours: int) -> None:
    """Where clocks are changed a day has 23 or 25 hours."""
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    found = span("day", "Europe/Berlin", noon)
    assert found.end_s - found.start_s == hours * 3600
    assert moment_text(found.start_s, "Europe/Berlin").startswith(f"{day}T00:00:00")


@pytest.mark.parametrize(("month", "days"), [("2026-02", 28), ("2028-02", 29), ("2026-12", 31), ("2026-04", 30)])
def test_a_month_ends_where_the_next_begins(month: str, days: int) -> None:
    """Also in leap years and at the end of a year."""
    last = datetime.fromisoformat(f"{month}-{days}T23:59:59").replace(tzinfo=UTC)
    found = span("month", "UTC", last.timestamp())
    assert found.end_s == (last + timedelta(seconds=1)).timestamp()
    assert found.end_s - found.start_s == days * 86400


def test_a_new_window_begins_with_nothing_spent(home: Path) -> None:
    """What a call was held to in the old window stays there."""
    world = SimulatedWorld()
    policy = policy_with({"user": {"default": {"usd_per_hour": "0.00002"}}})
    with Router(policy, home=home, backend=ScriptedModels({"small": YES}), world=world) as router:
        router.route("t", "hi", user="u")
        with pytest.raises(BudgetExceeded) as caught:
            router.route("t", "hi", user="u")
        assert caught.value.resets_at == moment_text(span("hour", "UTC", world.clock.time()).end_s, "UTC")
        world.clock.sleep(3600)
        assert router.route("t", "hi", user="u").text == "yes"


def test_a_clock_that_is_set_back_opens_no_window_again(tmp_path: Path) -> None:
    """Each window keeps its count: whatever the clock does, none of them is spent twice."""
    world = SimulatedWorld()
    budgets = SharedBudgets(tmp_path, world)
    lines = [line(100)]
    for days, room in [(0, True), (1, True), (0, False), (3650, True), (1, False), (-3650, True), (0, False)]:
        world.clock._passed_s = days * 86400.0
        found = budgets.reserve(lines, 100)
        assert isinstance(found, Hold) is room, days
        if isinstance(found, Hold):
            budgets.settle(found, 100)


@pytest.mark.parametrize("window", ["minute", "day", "month"])
@pytest.mark.parametrize("now_s", [-1e18, -62_135_596_801.0, 253_402_300_800.0, 1e18])
def test_a_clock_beyond_every_date_keeps_its_budgets(tmp_path: Path, now_s: float, window: Window) -> None:
    """It stands at the first or the last window that there is, wherever that is."""
    world = SimulatedWorld()
    world.clock._passed_s = now_s - world.clock.time()
    budgets = SharedBudgets(tmp_path, world)
    for zone in ("Pacific/Kiritimati", "Pacific/Midway"):
        lines = [line(100, zone, window=window, time_zone=zone)]
        hold = budgets.reserve(lines, 100)
        assert isinstance(hold, Hold)
        budgets.settle(hold, 100)
        assert isinstance(budgets.reserve(lines, 1), Refusal)
    assert [one.spent for one in budgets.in_use()] == [100, 100]
    assert all(one.resets_at for one in budgets.in_use())


def test_a_request_counts_in_the_window_in_which_it_left(tmp_path: Path) -> None:
    """Also when its answer comes in the next one."""
    world = SimulatedWorld()
    budgets = SharedBudgets(tmp_path, world)
    hold = budgets.reserve([line(100)], 100)
    world.clock.sleep(86400)
    assert isinstance(hold, Hold)
    later = budgets.reserve([line(100)], 60)
    assert isinstance(later, Hold)
    budgets.settle(hold, 90)
    assert [(one.spent, one.held) for one in budgets.in_use()] == [(0, 60)]
    budgets.settle(later, 60)
    world.clock._passed_s = 0.0
    assert [(one.spent, one.held) for one in budgets.in_use()] == [(90, 0)]
