"""Prices that change at a date: in force from then on, over every edge, with faults told by place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Policy, Router, load_policy
from router.core.call import Call, Outcome, Reply, Usage
from router.core.dated import next_change, own_price, price_source, starts_s
from router.core.limits import Allowance, Budgets
from router.core.policy import Model, Price, Retry, Task
from router.core.pricing import Rates
from router.errors import CostLimitExceeded, PolicyError
from router.models import Facts
from router.testing import Failure, Fault, ScriptedModels, SimulatedWorld
from tests.budget_support import in_use
from tests.strategies import prices, usages
from tests.support import Cli, read_table

D = Decimal
FIRST, SECOND = "2026-12-01", "2027-01-01T08:00+08:00"
OWN = Price(
    input_usd_per_mtok=D(1),
    output_usd_per_mtok=D(4),
    changes={FIRST: Price(input_usd_per_mtok=D(2)), SECOND: Price(output_usd_per_mtok=D(2))},
)
EDGE_S = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


def test_a_date_without_a_zone_is_utc() -> None:
    """And one with a zone is that instant."""
    assert starts_s(FIRST) == starts_s("2026-12-01T00:00Z") == EDGE_S
    assert starts_s(SECOND) == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now_s", "into", "out"),
    [
        pytest.param(EDGE_S - 1, 1, 4, id="before"),
        pytest.param(EDGE_S, 2, 4, id="from_the_first_second_on"),
        pytest.param(starts_s(SECOND), 2, 2, id="changes_add_up"),
    ],
)
def test_a_change_names_what_is_another_price_from_then_on(now_s: float, into: int, out: int) -> None:
    """What it does not name stays as it was."""
    price = own_price(OWN, now_s)
    assert (price.input_usd_per_mtok, price.output_usd_per_mtok) == (D(into), D(out))
    assert price.changes is None


def test_the_next_change_is_a_whole_price() -> None:
    """With the map's parts where the policy names none; there is none after the last."""
    listed = Price(cached_read_usd_per_mtok=D("0.1"))
    change = next_change(OWN, listed, EDGE_S - 1)
    assert change is not None
    assert change.starts_s == EDGE_S
    assert change.price == Price(D(2), D("0.1"), output_usd_per_mtok=D(4))
    assert next_change(OWN, listed, starts_s(SECOND)) is None


def test_a_machine_may_become_one_that_is_paid_by_the_hour() -> None:
    """The two ways to say it replace each other."""
    own = Price(gpu_second_usd=D(1), changes={FIRST: Price(gpu_hour_usd=D(36), gpu_concurrency=2.0)})
    assert own_price(own, EDGE_S) == Price(gpu_hour_usd=D(36), gpu_concurrency=2.0)


@given(prices(complete=True), prices(complete=True), usages(1000), st.booleans())
def test_a_request_over_the_edge_costs_at_most_its_bound(now: Price, then: Price, usage: Usage, after: bool) -> None:
    """Whichever price it is billed at."""
    rates = Rates(now, "policy", (EDGE_S, then))
    bound = rates.upper_nusd(usage.all_input_tokens, usage.all_output_tokens, None)
    cost = rates.at(EDGE_S if after else EDGE_S - 0.001).cost_nusd(usage)
    assert bound is not None
    assert cost == Rates(then if after else now).cost_nusd(usage)
    assert cost is None or cost <= bound


def _router(world: SimulatedWorld, reply: Any, **task: Any) -> Router:
    models = {"m": Model(litellm="m", price=OWN)}
    tasks = {"t": Task(ladder=("m",), max_output_tokens=1000, **task)}
    return Router(Policy(version=1, models=models, tasks=tasks), backend=ScriptedModels({"m": reply}), world=world)


def _at(time_s: float) -> SimulatedWorld:
    world = SimulatedWorld()
    world.clock.sleep(time_s - world.clock.time())
    return world


REPLY = Reply("yes", Usage(1000, output_tokens=1000))


def test_calls_cost_what_is_in_force_when_they_are_made() -> None:
    """The same router before and after; nobody has to make it anew."""
    world = _at(EDGE_S - 100_000)
    router = _router(world, REPLY)
    costs = [router.route("t", "hi").cost_nusd]
    for seconds in (96_400 + 3599.0, 1.0, 40 * 86_400.0):
        world.clock.sleep(seconds)
        costs.append(router.route("t", "hi").cost_nusd)
    assert costs == [5_000_000, 5_000_000, 6_000_000, 4_000_000]


def test_a_retry_that_leaves_after_the_edge_costs_the_new_price() -> None:
    """Each request by itself, within one call."""
    world = _at(EDGE_S - 0.5)

    def script(_: Call) -> Outcome:
        if world.clock.time() >= EDGE_S:
            return Reply("yes", Usage(1000))
        world.clock.sleep(1.0)
        return Failure(Fault.EMPTY, usage=Usage(1000))

    answer = _router(world, script, retry=Retry(attempts=2)).route("t", "hi")
    assert [attempt.amount.nusd for attempt in answer.attempts] == [1_000_000, 2_000_000]


@pytest.mark.parametrize(("before_s", "room"), [(7200.0, True), (60.0, False)])
def test_a_bound_near_the_edge_covers_both_prices(before_s: float, room: bool) -> None:
    """An hour before a price rises, a limit that only the old price keeps is no limit any more."""
    router = _router(_at(EDGE_S - before_s), Reply("yes", Usage(1)))
    long = "x" * 10_000
    limit_usd = (10_100 * 1_000 + 1_000 * 4_000) / 1e9
    if room:
        assert router.route("t", long, max_cost_usd=limit_usd).text == "yes"
    else:
        with pytest.raises(CostLimitExceeded):
            router.route("t", long, max_cost_usd=limit_usd)


def test_a_call_that_waits_past_an_edge_leaves_with_room_for_the_new_price(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began long before the change, so its bound covers both prices from the start."""
    world = _at(EDGE_S - 86_400.0)
    sleep = world.clock.sleep
    monkeypatch.setattr(world.clock, "sleep", lambda seconds: sleep(seconds * 600))  # A day of short pauses is many.
    held: list[int] = []

    def script(_: Call) -> Outcome:
        held.extend(one.held for one in in_use(home, world).values())
        return Reply("yes", Usage(30, output_tokens=1000))

    budgets = Budgets(task={"default": Allowance(usd_per_day=D("0.006"), at_limit="wait")})
    policy = Policy(1, {"m": Model("m", price=OWN)}, {"t": Task(("m",), max_output_tokens=1000)}, budgets=budgets)
    with Router(policy, home=home, backend=ScriptedModels({"m": script}), world=world) as router:
        costs = [router.route("t", "hi").cost_nusd, router.route("t", "hi", deadline_s=200_000).cost_nusd]
    assert costs == [30_000 + 4_000_000, 60_000 + 4_000_000]
    assert held == [34_000 + 4_000_000, 68_000 + 4_000_000]


def test_the_ledger_says_which_price_and_which_tier_were_used(home: Path) -> None:
    """The policy's, the map's, both, the provider's own figure, or none where nothing was computed."""
    listed = Price(input_usd_per_mtok=D(1), output_usd_per_mtok=D(2))
    flex = Price(D(1), output_usd_per_mtok=D(2))
    models = {
        "own": Model(litellm="a", price=flex),
        "map": Model(litellm="b"),
        "both": Model(litellm="b", price=Price(input_usd_per_mtok=D(3))),
        "none": Model(litellm="c"),
    }
    tasks = {name: Task(ladder=(name,)) for name in models}
    facts = {"b": Facts(price=listed, price_source="a map 1.0")}
    reply = Reply("yes", Usage(10))
    scripts = dict.fromkeys(models, reply) | {"own": [reply, Reply("yes", None, reported_cost_nusd=5)]}
    backend = ScriptedModels(scripts, facts=facts)
    with Router(Policy(version=1, models=models, tasks=tasks), backend=backend, home=home) as router:
        for task in ("own", "own", "map", "both", "none"):
            router.route(task, "hi")
    sources = [row["price_source"] for row in read_table(home, "attempts")]
    assert sources == ["policy", "provider", "a map 1.0", "policy and a map 1.0", None]


def test_the_served_tier_is_on_record(home: Path, cli: Cli) -> None:
    """In the provider's word; nothing for the usual one."""
    scripts = {"m": [Reply("yes", Usage(1), service_tier="flex"), Reply("yes", Usage(1))]}
    policy = Policy(version=1, models={"m": Model(litellm="m")}, tasks={"t": Task(ladder=("m",))})
    with Router(policy, backend=ScriptedModels(scripts), home=home) as router:
        router.route("t", "hi")
        router.route("t", "hi")
    rows = read_table(home, "attempts")
    assert [row["service_tier"] for row in rows] == ["flex", None]
    shown = [cli("audit", "show", row["route_id"], "--home", home).out for row in rows]
    assert ["(tier flex)" in text for text in shown] == [True, False]


def test_a_source_is_named_only_where_it_gave_something() -> None:
    """A whole price of the policy needs no map, and nothing at all has no source."""
    assert price_source(Price(), None, "map") == ""
    assert price_source(Price(gpu_second_usd=D(1)), OWN, "map") == "policy"


def _write(folder: Path, changes: str) -> Path:
    path = folder / "p.yml"
    path.write_text(
        "version: 1\n"
        "models:\n"
        "  m:\n"
        "    litellm: hosted_vllm/m\n"
        "    price:\n"
        "      input_usd_per_mtok: 1\n"
        f"      changes: {changes}\n"
        "tasks: {t: {ladder: [m]}}\n"
    )
    return path


def test_a_policy_may_schedule_changes(tmp_path: Path) -> None:
    """By date, in quotes or not."""
    text = "{2026-12-01: {input_usd_per_mtok: 2}, '2027-01-01T08:00+08:00': {input_usd_per_mtok: 3}}"
    price = load_policy(_write(tmp_path, text)).models["m"].price
    assert [own_price(price, at).input_usd_per_mtok for at in (0, EDGE_S, EDGE_S * 2)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "place", "problem"),
    [
        ("{soon: {input_usd_per_mtok: 2}}", "changes.soon", "is no date; write 2026-12-01"),
        ("{2026-13-01: {input_usd_per_mtok: 2}}", "changes.2026-13-01", "is no date"),
        ("{2027-01-01: {request_usd: 1}, 2026-01-01: {request_usd: 2}}", "changes.2026-01-01", "in order"),
        ("{2027-01-01: {request_usd: 1}, 2027-01-01: {request_usd: 2}}", "changes", "stands twice"),
        (
            "{2027-01-01: {request_usd: 1}, 2027-01-01T00:00Z: {request_usd: 2}}",
            "changes.2027-01-01T00:00Z",
            "keep one",
        ),
        ("{2027-01-01: {}}", "changes.2027-01-01", "changes nothing"),
        ("{2027-01-01: {input_usd_per_mtok: -1}}", "changes.2027-01-01.input_usd_per_mtok", "greater than or equal"),
        ("{2027-01-01: {input_usd_per_ktok: 1}}", "changes.2027-01-01.input_usd_per_ktok", "input_usd_per_mtok"),
        ("{2027-01-01: {changes: {2028-01-01: {}}}}", "changes.2027-01-01.changes", "has none of its own"),
        ("{2027-01-01: {gpu_hour_usd: 1, gpu_second_usd: 1}}", "changes.2027-01-01", "keep one"),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_place(tmp_path: Path, changes: str, place: str, problem: str) -> None:
    """No date, out of order, twice, empty, or a price that could not stand alone either."""
    with pytest.raises(PolicyError) as caught:
        load_policy(_write(tmp_path, changes))
    assert caught.value.where == f"models.m.price.{place}"
    assert caught.value.line == 7
    assert problem in str(caught.value)


DAYS = st.datetimes(datetime.fromisoformat("1970-01-02"), datetime.fromisoformat("2999-01-01"))


@given(DAYS, st.integers(-23 * 60, 23 * 60) | st.none())
def test_every_date_is_the_instant_that_it_names(date: datetime, minutes: int | None) -> None:
    """To the second, in every zone."""
    zone = UTC if minutes is None else timezone(timedelta(minutes=minutes))
    whole = date.replace(microsecond=0, tzinfo=zone)
    text = whole.isoformat() if minutes is not None else whole.replace(tzinfo=None).isoformat()
    assert starts_s(text) == whole.timestamp()
    assert starts_s(text[:10]) == whole.replace(hour=0, minute=0, second=0, tzinfo=UTC).timestamp()
