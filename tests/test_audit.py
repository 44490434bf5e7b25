"""The audit against sums made by hand: every dimension, every filter, and what cannot be known for sure."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router import Router
from router.audit import AuditReport, AuditRow, Filters, audit
from router.core.call import Failure, Reply, Usage
from router.core.faults import Fault
from router.core.policy import Model, Policy
from router.errors import LadderExhausted
from router.ledger import stored_user
from router.testing import Script, ScriptedModels, SimulatedClock
from router.world import World
from tests.support import Cli, make_policy

# 10 tokens in and 1 out: 1,400 nano-dollars from the small model, 28,000 from the large one.
USAGE = Usage(input_tokens=10, output_tokens=1)
SMALL, LARGE = 1_400, 28_000
# The most that a request of "hi" to the small model can cost: 34 tokens in at 100, 40 out at 400 nano-dollars.
BOUND = 34 * 100 + 40 * 400
# 2023-11-14, 22:13:20 UTC: the second hour after it is another day.
START_S = 1_700_000_000.0


def _reply(text: str, **fields: Any) -> Reply:
    return Reply(text, USAGE, **fields)


def _policy() -> Policy:
    policy = make_policy({"answer": {"choice": ["yes", "no"]}})
    task = replace(policy.tasks["t"], ladder=("odd",))
    return replace(
        policy, models={**policy.models, "odd": Model(litellm="openai/odd")}, tasks={**policy.tasks, "odd-jobs": task}
    )


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The ledger folder of the test, in memory: not on a disk that waits for every commit of a fold."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        monkeypatch.setenv("ROUTER_HOME", f"{folder}/home")
        yield Path(folder) / "home"


@pytest.fixture
def ledger(home: Path) -> Path:
    """Five calls: accepted, escalated, failed, an hour later; of an unpriced model, two hours later."""
    clock = SimulatedClock(START_S)
    busy = Failure(Fault.RATE_LIMITED)
    scripts: dict[str, Script] = {
        "small": [
            _reply("yes"),
            _reply("maybe"),
            Failure(Fault.SERVER_ERROR),
            Failure(Fault.SERVER_ERROR),
            _reply("no"),
        ],
        "large": [_reply("no"), busy, busy],
        "odd": "yes",
    }
    with Router(_policy(), backend=ScriptedModels(scripts), world=World(clock=clock)) as router:
        router.route("t", "hi", feature="inbox", user="ann", tenant="acme")
        router.route("t", "hi", feature="inbox", user="ben", tenant="acme")
        with pytest.raises(LadderExhausted):
            router.route("t", "hi", user="ann")
        clock.sleep(3600)
        router.route("t", "hi", feature="search", user="ann", tenant="acme")
        clock.sleep(3600)
        router.route("odd-jobs", "hi", feature="search")
    return home


# What each of the five calls adds, by hand: one call, escalated, failed, cost, marginal, unpriced, saved.
ACCEPTED = (1, 0, 0, SMALL, 0, 0, LARGE - SMALL)
ESCALATED = (1, 1, 0, SMALL + LARGE, LARGE, 0, -SMALL)
FAILED = (1, 1, 1, 0, 0, 0, None)
UNPRICED = (1, 0, 0, 0, 0, 1, None)
T, ODD = (ACCEPTED, ESCALATED, FAILED, ACCEPTED), (UNPRICED,)


def _sum(key: str, *calls: tuple[int | None, ...]) -> AuditRow:
    *sums, saved = ([amount for amount in column if amount is not None] for column in zip(*calls, strict=True))
    count, escalated, failed, cost, marginal, unpriced = map(sum, sums)
    return AuditRow(key, count, escalated, failed, cost, marginal, unpriced, sum(saved) if saved else None)


def _user(home: Path, name: str) -> str:
    return stored_user(home, World(), name)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("task", [_sum("t", *T), _sum("odd-jobs", *ODD)]),
        ("feature", [_sum("inbox", ACCEPTED, ESCALATED), _sum("search", ACCEPTED, UNPRICED), _sum("(none)", FAILED)]),
        ("tenant", [_sum("acme", ACCEPTED, ESCALATED, ACCEPTED), _sum("(none)", FAILED, UNPRICED)]),
        ("day", [_sum("2023-11-14", *T), _sum("2023-11-15", *ODD)]),
        (
            "hour",
            [
                _sum("2023-11-14T22:00Z", ACCEPTED, ESCALATED, FAILED),
                _sum("2023-11-14T23:00Z", ACCEPTED),
                _sum("2023-11-15T00:00Z", UNPRICED),
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calls_are_summed_by_each_dimension(by: str, expected: list[AuditRow], ledger: Path) -> None:
    """Dearest first, or in order of time; the total is the same whatever they are grouped by."""
    report = audit(ledger, by=by)
    assert list(report.rows) == expected
    assert report.total == _sum("total", *T, *ODD)
    assert report.by == by


def test_users_are_summed_by_their_fingerprints(ledger: Path) -> None:
    """The ledger knows no ids; the same user has the same fingerprint in every call."""
    expected = [
        _sum(_user(ledger, "ben"), ESCALATED),
        _sum(_user(ledger, "ann"), ACCEPTED, FAILED, ACCEPTED),
        _sum("(none)", UNPRICED),
    ]
    assert list(audit(ledger, by="user").rows) == expected


def test_models_are_summed_by_what_they_were_asked(ledger: Path) -> None:
    """Calls that asked it, drafts that were climbed past, failures, its own cost, and what climbing to it added."""
    expected = [
        AuditRow("odd", 1, 0, 0, 0, 0, 1, None),
        AuditRow("small", 4, 1, 1, 3 * SMALL, 0, 0, None),
        AuditRow("large", 2, 0, 1, LARGE, LARGE, 0, None),
    ]
    assert list(audit(ledger, by="model").rows) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"task": "t"}, T),
        ({"feature": "inbox"}, (ACCEPTED, ESCALATED)),
        ({"tenant": "acme"}, (ACCEPTED, ESCALATED, ACCEPTED)),
        ({"feature": "search", "tenant": "acme"}, (ACCEPTED,)),
        ({"since_s": START_S + 3600}, (ACCEPTED, UNPRICED)),
        ({"until_s": START_S // 3600 * 3600 + 3600}, (ACCEPTED, ESCALATED, FAILED)),
        ({"since_s": START_S + 3600, "until_s": START_S + 3600 + 1}, (ACCEPTED,)),
    ],
    ids=["task", "feature", "tenant", "two", "since", "until", "between"],
)
def test_filters_choose_the_calls_that_count(filters: dict[str, Any], expected: Any, ledger: Path) -> None:
    """Total, groups and models hold the chosen calls only; times count by whole hours."""
    chosen = Filters(**filters)
    report = audit(ledger, filters=chosen)
    assert report.total == _sum("total", *expected)
    assert sum(row.calls for row in report.rows) == len(expected)
    models = audit(ledger, by="model", filters=chosen)
    assert sum(row.cost_nusd for row in models.rows) == report.total.cost_nusd == models.total.cost_nusd


def test_a_user_is_chosen_by_fingerprint(ledger: Path) -> None:
    """The caller of the audit turns the id into the fingerprint."""
    report = audit(ledger, filters=Filters(user=_user(ledger, "ann")))
    assert report.total == _sum("total", ACCEPTED, FAILED, ACCEPTED)


@pytest.mark.parametrize("value", ["nobody", "", "' OR 1=1 --", "\ud800", "\0"], ids=repr)
def test_a_filter_that_matches_nothing_gives_an_empty_report(value: str, ledger: Path) -> None:
    """Any text can be asked for; it is a value and never a part of the query."""
    report = audit(ledger, filters=Filters(task=value))
    assert (report.rows, report.total, report.uncertain) == ((), _total(), 0)


def _total(**changes: Any) -> AuditRow:
    return replace(AuditRow("total", 0, 0, 0, 0, 0, 0, None), **changes)


@pytest.mark.parametrize("by", ["task", "model", "hour"])
def test_an_empty_ledger_is_an_empty_report(by: str, home: Path) -> None:
    """Before the first call there is nothing to sum, and asking makes no folder."""
    report = audit(home, by=by)
    assert (report.rows, report.total, report.uncertain, report.uncertain_nusd) == ((), _total(), 0, 0)
    assert not home.exists()


def test_uncertain_amounts_stand_on_their_own_line(ledger: Path) -> None:
    """Requests that may have been billed are in no sum; the most they can have cost is told apart."""
    report = audit(ledger)
    # Two server errors up to their bound; the unpriced reply is no question of billing.
    assert (report.uncertain, report.uncertain_nusd, report.unbounded) == (2, 2 * BOUND, 0)
    failed = audit(ledger, filters=Filters(user=_user(ledger, "ann"), until_s=START_S + 1))
    assert (failed.uncertain, failed.uncertain_nusd, failed.unbounded) == (2, 2 * BOUND, 0)


def test_an_estimate_counts_as_far_as_it_goes(home: Path) -> None:
    """A reply without usage is in the sums by its estimate, and the rest of its bound is uncertain."""
    with Router(make_policy(), backend=ScriptedModels({"small": Reply("yes", None)})) as router:
        answer = router.route("t", "hi")
    assert answer.cost_nusd is not None
    report = audit(home)
    assert (report.total.cost_nusd, report.uncertain) == (answer.cost_nusd, 1)
    assert report.uncertain_nusd == BOUND - answer.cost_nusd


def test_unpriced_calls_are_counted_and_never_free(ledger: Path) -> None:
    """An unknown price is in no sum and has no saving: the count says what the sums lack."""
    (row,) = audit(ledger, filters=Filters(task="odd-jobs")).rows
    assert (row.calls, row.cost_nusd, row.unpriced, row.saved_nusd) == (1, 0, 1, None)


def test_savings_have_a_sign(home: Path) -> None:
    """A cascade that always climbs costs more than the top rung alone, and the audit says so."""
    policy = make_policy({"answer": {"choice": ["yes", "no"]}})
    with Router(policy, backend=ScriptedModels({"small": _reply("maybe"), "large": _reply("no")})) as router:
        for _ in range(3):
            router.route("t", "hi")
    report = audit(home)
    assert report.total.saved_nusd == -3 * SMALL
    assert report.total.escalation_rate == 1.0
    assert report.as_json()["total"]["saved_usd"] == pytest.approx(-4.2e-6)


def test_a_report_is_plain_data(ledger: Path) -> None:
    """Exact amounts are text, dollars are numbers, unknown is `None`."""
    data = audit(ledger, by="tenant").as_json()
    assert data["rows"][0] == {
        "key": "acme",
        "calls": 3,
        "escalated": 1,
        "escalation_rate": pytest.approx(1 / 3),
        "failed": 0,
        "cost_usd": pytest.approx(3.22e-5),
        "cost_nusd": "32200",
        "marginal_cost_usd": pytest.approx(2.8e-5),
        "marginal_nusd": "28000",
        "unpriced": 0,
        "saved_usd": pytest.approx(5.18e-5),
    }
    assert data["rows"][1]["saved_usd"] is None
    assert data["uncertain"] == {"requests": 2, "upper_usd": pytest.approx(2 * BOUND / 1e9), "unbounded": 0}
    assert data["ledger"] == {
        "torn": [],
        "corrupt": [],
        "cut": [],
        "cut_packs": [],
        "duplicates": [],
        "orphans": 0,
        "lost": 0,
    }


def test_an_audit_without_folding_shows_what_was_folded(ledger: Path) -> None:
    """`folding=False` reads the read model as it is, for a process that may not write."""

    def calls(**options: Any) -> int:
        report: AuditReport = audit(ledger, **options)
        return report.total.calls

    assert [calls(folding=False), calls(), calls(folding=False)] == [0, 5, 5]


def test_a_call_that_climbs_over_a_skipped_rung_has_no_marginal_cost(home: Path) -> None:
    """Climbing costs what comes after the first rung that was asked: a rung that was never asked adds nothing."""
    policy = make_policy()
    models = {**policy.models, "small": replace(policy.models["small"], context_tokens=5)}
    replies = ScriptedModels({"large": _reply("yes")})
    with Router(replace(policy, models=models), backend=replies) as router:
        router.route("t", "a prompt that is longer than five tokens")
    (row,) = audit(home).rows
    assert (row.escalated, row.cost_nusd, row.marginal_nusd, row.saved_nusd) == (1, LARGE, 0, 0)
    small, large = audit(home, by="model").rows
    assert (small.key, small.calls, small.escalated, small.failed) == ("small", 0, 0, 0)
    assert (large.key, large.calls, large.marginal_nusd) == ("large", 1, 0)


def test_of_times_the_latest_groups_are_shown(ledger: Path) -> None:
    """In their order; what is older is one row, and the rows still add up."""
    report = audit(ledger, by="hour", most=2)
    assert [(row.key, row.calls) for row in report.rows] == [
        ("2023-11-14T23:00Z", 1),
        ("2023-11-15T00:00Z", 1),
        ("(others)", 3),
    ]


@pytest.mark.parametrize(
    "options",
    [("--user", "nobody"), ("--feature", "nope"), ("--since", "2030-01-01"), ("--movers", "--since", "1h")],
    ids=lambda options: options[0],
)
def test_filters_that_no_call_matches_are_told_from_a_ledger_without_calls(
    options: tuple[str, ...], ledger: Path, cli: Cli
) -> None:
    """The folder is right, so it is not blamed."""
    done = cli("audit", *options, "--home", ledger)
    assert done.out.splitlines()[0] == (
        "no call matches these filters; without them, and with --origin all, there are 5"
    )
