"""Where the money went: every request on one line, origins apart, changes split exactly, one call in full."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router
from router.audit import DIMENSIONS, Filters, audit, movers, show
from router.audit.movers import split
from router.audit.query import Query, dimensions, family_of
from router.audit.reading import reading
from router.core.call import Call, Failure, Reply, Usage
from router.core.faults import Fault
from router.core.policy import Model
from router.errors import InvalidCall, LadderExhausted, LedgerError, UnknownRoute
from router.ledger import fold
from router.models import Backend
from router.models.replay import Replay
from router.testing import ScriptedModels, SimulatedClock
from router.world import World
from tests.support import Cli, make_policy, read_table

# 10 tokens in and 1 out: 1,400 nano-dollars from the small model, 28,000 from the large one.
USAGE = Usage(input_tokens=10, output_tokens=1)
SMALL, LARGE = 1_400, 28_000
# The most that a request of one letter can cost: 33 tokens in at 100, 40 out at 400 nano-dollars.
BOUND = 33 * 100 + 40 * 400
START_S = 1_700_000_000.0


def _small(call: Call) -> Any:
    """What the small model makes of a letter."""
    word = call.messages[0]["content"]
    if word == "t":
        return Failure(Fault.TIMEOUT)
    if word == "k":
        return Failure(Fault.AUTH, detail="environment variable KEY is not set")
    if word == "b":
        return Failure(Fault.RATE_LIMITED, usage=USAGE)
    return Reply("maybe" if word == "m" else "yes", USAGE)


def _large(call: Call) -> Any:
    word = call.messages[0]["content"]
    return Failure(Fault.AUTH, detail="environment variable KEY is not set") if word == "k" else Reply("no", USAGE)


def _write(home: Path, words: str, *, origin: str | None = None, clock: SimulatedClock | None = None) -> None:
    """One call for each letter; half of them with a feature, a third with a user, twenty minutes apart."""
    models = ScriptedModels({"small": _small, "large": _large})
    if origin:
        models.origin = origin  # type: ignore[attr-defined]
    policy = make_policy({"answer": {"choice": ["yes", "no"]}, "retry": {"attempts": 2, "max_wait_s": 0}})
    clock = clock or SimulatedClock(START_S)
    with Router(policy, home=home, backend=models, world=World(clock=clock)) as router:
        for number, word in enumerate(words):
            try:
                router.route(
                    "t",
                    word,
                    feature=("inbox", None)[number % 2],
                    user=("ann", None, None)[number % 3],
                    session=f"s{number % 4}",
                )
            except LadderExhausted:
                assert word == "k"
            clock.sleep(1200)


@pytest.fixture
def ledger(home: Path) -> Path:
    """Accepted, an invalid draft that climbs, timeouts that climb, and calls that never left."""
    _write(home, "yymtkb")
    return home


def test_every_request_is_on_one_line(ledger: Path) -> None:
    """First answers, escalations, invalid drafts, timeouts up to their bound, requests that never left."""
    lines = {line.line: (line.requests, line.cost_nusd, line.upper_nusd) for line in audit(ledger).lines}
    requests, guess, more = lines.pop("maybe_billed")
    assert requests == 2
    assert 0 < guess < 2 * BOUND
    assert guess + more == 2 * BOUND
    assert lines == {
        "first": (2, 2 * SMALL, 0),
        "escalation": (3, 3 * LARGE, 0),
        "invalid": (1, SMALL, 0),
        "failed": (2, 2 * SMALL, 0),
        "not_sent": (2, 0, 0),
    }


def test_a_retry_that_answers_is_its_own_line(home: Path) -> None:
    """What a second try cost is no first answer."""
    models = ScriptedModels({"small": [Failure(Fault.RATE_LIMITED), Reply("yes", USAGE)]})
    with Router(make_policy({"retry": {"attempts": 2, "max_wait_s": 0}}), backend=models) as router:
        router.route("t", "hi")
    assert {line.line: line.cost_nusd for line in audit(home).lines} == {"failed": 0, "retry": SMALL}


def test_calls_that_never_left_are_not_escalated(ledger: Path) -> None:
    """A missing key climbs to a rung whose key is missing, too: nothing was asked, so nothing escalated."""
    report = audit(ledger, by="outcome")
    assert {row.key: (row.calls, row.escalated) for row in report.rows} == {
        "answered": (5, 3),
        "LadderExhausted": (1, 0),
    }


def test_an_unpriced_reply_is_no_uncertain_request(home: Path) -> None:
    """Its usage is known and settled; only its price is not."""
    policy = make_policy()
    models = {name: Model(litellm=f"openai/{name}") for name in policy.models}
    with Router(replace(policy, models=models), backend=ScriptedModels({"small": "yes"})) as router:
        router.route("t", "hi")
    report = audit(home)
    assert (report.total.unpriced, report.uncertain, report.unbounded) == (1, 0, 0)
    assert [line.line for line in report.lines] == ["unpriced"]


def test_the_total_of_the_lines_says_what_it_does_not_know(home: Path, cli: Cli) -> None:
    """A sum that lacks the cost of a reply is never told as if it were whole."""
    models = {"small": Model(litellm="openai/small"), "large": make_policy().models["large"]}
    policy = replace(make_policy({"answer": {"choice": ["yes", "no"]}}), models=models)
    scripts = ScriptedModels({"small": ["yes", "maybe"], "large": [Reply("no", USAGE)]})
    with Router(policy, backend=scripts) as router:
        router.route("t", "hi")
        assert cli("audit", "--lines").out.splitlines()[2].split() == ["total", "1", "unknown", "$0.00"]
        router.route("t", "hi")
    total = next(line for line in cli("audit", "--lines").out.splitlines() if line.startswith("total"))
    assert total.split()[1:5] == ["3", "at", "least", "$0.000028000"]


@settings(max_examples=25, deadline=None)
@given(words=st.text("ymtkb", max_size=14))
def test_lines_rollups_and_scans_come_to_the_same(words: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Lines add up to the total, whatever it is grouped by; a rollup says what a scan of the rows says."""
    home = tmp_path_factory.mktemp("home")
    _write(home, words)
    report = audit(home)
    attempts = read_table(home, "attempts") if words else []
    assert sum(line.cost_nusd for line in report.lines) == sum(row["cost_nusd"] or 0 for row in attempts)
    assert sum(line.requests for line in report.lines) == len(attempts)
    assert report.total.cost_nusd == sum(line.cost_nusd for line in report.lines)
    for by in DIMENSIONS:
        rows = audit(home, by=by).rows
        assert sum(row.cost_nusd for row in rows) == report.total.cost_nusd, by
    with reading(home) as (database, _):
        for by in ("task", "feature", "user", "model", "rung", "line", "day", "hour", "feature,model") if words else ():
            names = dimensions(by)
            family = family_of(names)
            # A filter that only a scan knows and that every row fulfils turns the same question into a scan.
            scanned = replace(family, keys={}, others={**family.keys, **family.others})
            sums = tuple(family.sums)
            assert database is not None
            rolled = [tuple(one) for one in Query(family, names, sums, Filters(), order=sums[0]).run(database)]
            direct = [tuple(one) for one in Query(scanned, names, sums, Filters(), order=sums[0]).run(database)]
            assert rolled == direct, by


def test_a_draft_found_invalid_in_a_later_fold_changes_its_line(home: Path) -> None:
    """The rollups follow: what was a first answer while the call was under way is an invalid draft after it."""
    seen: list[dict[str, int]] = []

    def large(_: Call) -> Reply:
        seen.append({line.line: line.cost_nusd for line in audit(home).lines})
        return Reply("no", USAGE)

    policy = make_policy({"answer": {"choice": ["yes", "no"]}})
    with Router(policy, backend=ScriptedModels({"small": Reply("maybe", USAGE), "large": large})) as router:
        router.route("t", "hi")
    after = {line.line: line.cost_nusd for line in audit(home).lines}
    assert (seen, after) == ([{"first": SMALL}], {"invalid": SMALL, "escalation": LARGE})


def test_evals_and_replays_stand_apart(ledger: Path) -> None:
    """The audit is of production and says what it leaves out; asked for them, it shows them."""
    _write(ledger, "ym", origin="eval")
    row = {"model": "openai/small", "prompt": "hi", "response": "yes", "input_tokens": 10, "output_tokens": 1}
    backend: Backend = Replay([{**row, "finish_reason": "stop", "cost_usd": 0.5}])
    with Router(make_policy(), home=ledger, backend=backend) as router:
        router.route("t", "hi")
    report = audit(ledger)
    assert report.total.calls == 6
    assert {one.origin: (one.calls, one.cost_nusd) for one in report.left_out} == {
        "eval": (2, 2 * SMALL + LARGE),
        "replay": (1, 500_000_000),
    }
    assert audit(ledger, filters=Filters(origin="eval")).total.calls == 2
    assert audit(ledger, filters=Filters(origin=None)).total.calls == 9
    assert audit(ledger, filters=Filters(origin=None)).left_out == ()


def test_spend_without_a_label_is_told(ledger: Path) -> None:
    """Its own row, and its share of everything."""
    report = audit(ledger, by="feature")
    (without,) = [row for row in report.rows if row.key == "(none)"]
    assert dict(report.unlabelled_nusd)["feature"] == without.cost_nusd
    (nobody,) = [row for row in audit(ledger, by="user").rows if row.key == "(none)"]
    assert dict(report.unlabelled_nusd)["user"] == nobody.cost_nusd


def test_cheaper_groups_are_one_row(ledger: Path) -> None:
    """Whatever is not shown one by one stands together, so that rows still add up to the total."""
    report = audit(ledger, by="session", most=2)
    assert (len(report.rows), report.rows[-1].key, report.shown) == (3, "(others)", 2)
    for name in ("calls", "escalated", "failed", "cost_nusd", "marginal_nusd", "saved_nusd"):
        assert sum(getattr(row, name) or 0 for row in report.rows) == (getattr(report.total, name) or 0), name


@pytest.mark.parametrize(
    ("by", "problem"),
    [
        ("colour", "'colour' is none of task, feature"),
        ("task,feature,user", "names too many"),
        ("task,task", "names too many"),
        ("outcome,fault", "cannot be combined"),
        ("", "'' is none of"),
    ],
)
def test_what_cannot_be_grouped_by_is_refused(by: str, problem: str, ledger: Path) -> None:
    """The message names the dimensions that there are."""
    with pytest.raises(InvalidCall, match=problem):
        audit(ledger, by=by)


@pytest.mark.parametrize("tz", ["Mars", "", "../etc/passwd", "Europe"])
def test_an_unknown_time_zone_is_refused(tz: str, ledger: Path) -> None:
    """The message shows the form that works."""
    with pytest.raises(InvalidCall, match=r"there is no time zone .* give a name like Europe/Berlin"):
        audit(ledger, filters=Filters(tz=tz))


@pytest.mark.parametrize(
    ("tz", "days"),
    [
        # 22:13 of UTC on the 14th, and calls every twenty minutes after it.
        (None, {"2023-11-14": 6, "2023-11-15": 2}),
        ("Europe/Berlin", {"2023-11-14": 3, "2023-11-15": 5}),
        ("Asia/Kolkata", {"2023-11-15": 8}),
        ("America/St_Johns", {"2023-11-14": 8}),
    ],
)
def test_days_begin_where_the_zone_says(tz: str | None, days: dict[str, int], home: Path) -> None:
    """Zones that are half an hour off are counted from the rows themselves."""
    _write(home, "y" * 8)
    assert {row.key: row.calls for row in audit(home, by="day", filters=Filters(tz=tz)).rows} == days


def test_an_hour_that_comes_twice_is_two_hours(home: Path) -> None:
    """When clocks go back, the same local hour has two offsets."""
    _write(home, "y" * 9, clock=SimulatedClock(1_698_537_600.0))  # 2023-10-29, 00:00 UTC.
    rows = audit(home, by="hour", filters=Filters(tz="Europe/Berlin")).rows
    assert [(row.key, row.calls) for row in rows] == [
        ("2023-10-29T02:00+02:00", 3),
        ("2023-10-29T02:00+01:00", 3),
        ("2023-10-29T03:00+01:00", 3),
    ]


def test_an_estimated_baseline_has_an_interval_where_enough_calls_carry_it(home: Path) -> None:
    """It needs thirty calls of the task that climbed to the top; with fewer the report says so."""
    _write(home, "m" * 29 + "y" * 10)
    few = audit(home).baseline
    assert (few.guessed, few.guessed_nusd, few.low_nusd, few.without_interval) == (10, 10 * LARGE, None, 10)
    _write(home, "m" * 5)
    base = audit(home).baseline
    assert (base.known_nusd, base.guessed, base.without_interval) == (34 * LARGE, 10, 0)
    # The top rung used as many tokens as the draft, so that the estimate is right and the interval a point.
    assert (base.low_nusd, base.high_nusd) == (10 * LARGE, 10 * LARGE)
    assert base.saved_range_nusd == (base.saved_nusd, base.saved_nusd)


def test_the_interval_grows_with_the_scatter_and_corrects_the_estimate(home: Path) -> None:
    """A top rung that writes twice what the draft did costs more than the draft's tokens let expect."""
    count = 0

    def large(_: Call) -> Reply:
        nonlocal count
        count += 1
        return Reply("no", Usage(input_tokens=10, output_tokens=1 + 2 * (count % 2)))

    policy = make_policy({"answer": {"choice": ["yes", "no"]}})
    with Router(policy, backend=ScriptedModels({"small": _small, "large": large})) as router:
        for word in "m" * 40 + "y" * 40:
            router.route("t", word)
    base = audit(home).baseline
    assert base.low_nusd is not None
    assert base.high_nusd is not None
    truth = 40 * (LARGE + 8_000)  # On average one token more, at 8,000 nano-dollars.
    assert base.guessed_nusd < base.low_nusd < truth < base.high_nusd


_side = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 10**6), st.integers(0, 10**15)), max_size=4)


@given(before=_side, now=_side)
def test_effects_add_up_to_the_change_exactly(before: Any, now: Any) -> None:
    """Volume, mix and price of every group are its change, and their sums are the change of the bill."""
    rows = split(before, now)
    for row in rows:
        assert row.volume_nusd + row.mix_nusd + row.price_nusd == row.change_nusd
    change = sum(cost for _, cost in now.values()) - sum(cost for _, cost in before.values())
    assert sum(row.volume_nusd + row.mix_nusd + row.price_nusd for row in rows) == change


def test_each_effect_has_its_cause() -> None:
    """All traffic doubled; one group moved; one group became dearer."""
    doubled = split({"a": (10, 1000)}, {"a": (20, 2000)})
    assert [(row.volume_nusd, row.mix_nusd, row.price_nusd) for row in doubled] == [(1000, 0, 0)]
    moved = {row.key: row for row in split({"a": (10, 1000), "b": (10, 4000)}, {"a": (5, 500), "b": (15, 6000)})}
    assert (moved["a"].mix_nusd, moved["b"].mix_nusd, moved["b"].volume_nusd) == (-500, 2000, 0)
    dearer = split({"a": (10, 1000)}, {"a": (10, 1500)})
    assert [(row.volume_nusd, row.mix_nusd, row.price_nusd) for row in dearer] == [(0, 0, 500)]


def test_movers_compare_with_the_period_before(home: Path) -> None:
    """Periods of the same length, side by side; what is in neither does not count."""
    _write(home, "y" * 9 + "m" * 9)  # Three calls an hour.
    start = START_S // 3600 * 3600
    filters = Filters(since_s=start + 4 * 3600, until_s=start + 6 * 3600)
    report = movers(home, by="task", filters=filters, now_s=start + 10 * 3600)
    assert (report.before, report.now) == ((start + 7200, start + 14400), (start + 14400, start + 21600))
    (row,) = report.rows
    assert (row.calls_before, row.calls, row.volume_nusd) == (6, 6, 0)
    assert row.change_nusd == row.price_nusd > 0
    assert report.total == replace(row, key="total")


def test_movers_without_calls_before_compare_nothing(home: Path, cli: Cli) -> None:
    """All of a first week is no change of the mix; groups of time are never in both periods."""
    _write(home, "yy")
    day = ("--since", "2023-11-14", "--until", "2023-11-15", "--home", str(home))
    assert cli("audit", "--movers", *day).out.startswith("no calls before: there is none from 2023-11-13 00:00 to ")
    assert cli("audit", "--movers", *day, "--json").json["comparable"] is False
    refused = cli("audit", "--by", "day", "--movers", *day)
    assert (refused.code, "by: day has no group that is in both periods" in refused.err) == (2, True)


def test_lines_are_of_all_calls(ledger: Path, cli: Cli) -> None:
    """A dimension beside them would be ignored."""
    assert "give it without --by" in cli("audit", "--lines", "--by", "feature").err
    assert cli("audit", "--lines", "--home", ledger).code == 0


@pytest.mark.parametrize("by", ["fault", "state", "line"])
def test_requests_have_a_total(by: str, ledger: Path, cli: Cli) -> None:
    """It is that of the requests; one without a fault says so."""
    out = cli("audit", "--by", by, "--home", ledger).out
    (total,) = [line.split() for line in out.splitlines() if line.startswith("total")]
    assert int(total[1]) == len(read_table(ledger, "attempts"))
    assert ("no fault" in out) == (by == "fault")
    assert "(none)" not in out


def test_the_headline_and_its_interval_say_what_they_are(home: Path, cli: Cli) -> None:
    """The table is not corrected, and the interval is, so that one may lie outside the other."""
    _write(home, "m" * 34 + "y" * 10)
    assert "saved: for 10 of 44 calls the table takes the top rung's price for the draft's tokens; corrected" in (
        cli("audit", "--home", home).out
    )


def test_movers_need_a_beginning(ledger: Path) -> None:
    """Without a period there is none before it; a period of no hour is refused, too."""
    with pytest.raises(InvalidCall, match="needs a beginning"):
        movers(ledger, filters=Filters(), now_s=START_S)
    with pytest.raises(InvalidCall, match="no hour"):
        movers(ledger, filters=Filters(since_s=START_S + 7200), now_s=START_S)


def test_one_call_in_full(ledger: Path, cli: Cli) -> None:
    """Every request with its place in time, every step with its reason, and who it belongs to; a prefix is enough."""
    climbed = next(row for row in read_table(ledger, "routes") if row["escalated"] and row["confidence"])
    report = show(ledger, climbed["route_id"])
    assert [(row["model"], row["line"]) for row in report.attempts] == [("small", "invalid"), ("large", "escalation")]
    assert [(step["model"], step["action"]) for step in report.steps] == [("small", "escalate"), ("large", "accept")]
    assert show(ledger, climbed["route_id"][:20].upper()) == report
    assert json.loads(json.dumps(report.as_json()))["route"]["cost_nusd"] == SMALL + LARGE
    text = cli("audit", "show", climbed["route_id"]).out
    for part in ("#", "small: escalate", "large: accept", "feature inbox", "origin production", "(known)"):
        assert part in text
    assert cli("audit", "show", climbed["route_id"], "--json").json["attempts"][0]["state"] == "settled"


@pytest.mark.parametrize("route_id", ["ffff", "", "%", "0' OR 1=1", "\U0010ffff", "\ud800"])
def test_an_unknown_call_is_an_error_with_the_next_command(route_id: str, ledger: Path) -> None:
    """Any text can be asked for."""
    with pytest.raises(UnknownRoute, match=r"holds no call .*router audit export"):
        show(ledger, route_id)


def test_a_prefix_of_several_calls_names_them(ledger: Path) -> None:
    """So that the next try can be longer."""
    with pytest.raises(UnknownRoute, match="several calls begin with '0'") as caught:
        show(ledger, "0")
    assert len(caught.value.known) > 1


def test_a_call_whose_process_died_is_shown(home: Path) -> None:
    """It has requests and no end."""
    _write(home, "m")
    (segment,) = (home / "segments").iterdir()
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:1]))
    (attempt,) = read_table(home, "attempts")
    report = show(home, attempt["route_id"])
    assert (report.route, report.attempts[0]["line"], report.steps) == (None, "unknown", ())


def test_a_read_model_of_an_earlier_release_is_renewed(ledger: Path) -> None:
    """Its rows get their lines and origins, its rollups are summed anew, once, and nothing is lost."""
    _write(ledger, "ym", origin="eval")
    expected = {by: audit(ledger, by=by, filters=Filters(origin=None)).rows for by in ("line", "task", "model")}
    with closing(sqlite3.connect(ledger / "ledger.db", isolation_level=None)) as database:
        for table in ("attempts", "routes", "steps"):
            for kind in ("hourly", "daily"):
                database.execute(f"DROP TABLE {kind}_{table}")
        database.execute("CREATE TABLE hourly_routes (hour INTEGER PRIMARY KEY, calls INTEGER) WITHOUT ROWID")
        database.execute("ALTER TABLE attempts DROP COLUMN line")
        for table in ("attempts", "routes"):
            database.execute(f"ALTER TABLE {table} DROP COLUMN origin")
        database.execute("ALTER TABLE routes DROP COLUMN baseline_estimate_nusd")
    renewed = {by: audit(ledger, by=by, filters=Filters(origin=None)).rows for by in ("line", "task", "model")}
    assert renewed == expected
    _write(ledger, "y", clock=SimulatedClock(START_S + 10**6))
    assert Counter(row["origin"] for row in read_table(ledger, "routes")) == {"production": 9}


def test_a_ledger_of_a_newer_release_is_refused(ledger: Path) -> None:
    """Nothing is read from tables that may mean something else."""
    fold(ledger)
    with closing(sqlite3.connect(ledger / "ledger.db")) as database:
        database.execute("PRAGMA user_version = 99")
    for ask in (lambda: audit(ledger), lambda: show(ledger, "0")):
        with pytest.raises(LedgerError, match="newer version"):
            ask()
