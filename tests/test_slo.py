"""`slo` and `router slo` on ledgers that scripted models made: states, causes, windows, exit codes, bad input."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from router import Policy, Router, load_policy
from router.audit import SloReport, SloRow, prices_in_force, slo
from router.core.call import Failure, Outcome, Reply, Usage
from router.core.faults import Fault
from router.errors import InvalidCall, LadderExhausted, PolicyError
from router.ledger.days import DAY_S
from router.testing import ScriptedModels, SimulatedClock
from router.world import World
from tests.support import Cli, make_policy

# 10 tokens in and 1 out: 1,400 nano-dollars from the small model, 28,000 from the large one.
SMALL, LARGE = 1.4e-6, 2.8e-5
# 2023-11-14, 22:13:20 UTC.
NOW_S = 1_700_000_000.0


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The ledger folder of the test, in memory: not on a disk that waits for every commit of a fold."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        monkeypatch.setenv("ROUTER_HOME", f"{folder}/home")
        yield Path(folder) / "home"


@dataclass
class Past:
    """Calls at chosen moments: each kind is how the small model, and then the large one, answers."""

    home: Path
    latency_s: float = 0.0

    def calls(self, count: int, kind: str = "accepted", *, age_s: float, task: str = "t", **options: Any) -> None:
        """So many calls, that long before `NOW_S`."""
        usage = Usage(input_tokens=options.pop("input_tokens", 10), output_tokens=1)
        yes, no = Reply("yes", usage), Reply("maybe", usage)
        down = Failure(Fault.RATE_LIMITED)
        outcomes: dict[str, dict[str, list[Outcome]]] = {
            "accepted": {"small": [yes], "large": []},
            "climbed": {"small": [no], "large": [yes]},
            "down": {"small": [down, down], "large": [yes]},
            "failed": {"small": [no], "large": [Failure(Fault.AUTH)]},
        }
        clock = SimulatedClock(NOW_S - age_s)
        scripts = {model: [one for _ in range(count) for one in each] for model, each in outcomes[kind].items()}
        models = ScriptedModels({model: self._slow(clock, each) for model, each in scripts.items()})
        with Router(self._policy(task), home=self.home, backend=models, world=World(clock=clock)) as router:
            for _ in range(count):
                start_s = clock.time()
                try:
                    router.route(task, "hi", **options)
                except LadderExhausted:
                    assert kind == "failed"
                clock.sleep(start_s - clock.time())

    def _slow(self, clock: SimulatedClock, outcomes: list[Outcome]) -> Any:
        left = iter(outcomes)

        def answer(_: Any) -> Outcome:
            clock.sleep(self.latency_s)
            return next(left)

        return answer

    def _policy(self, task: str) -> Policy:
        policy = make_policy({"answer": {"choice": ["yes", "no"]}})
        return replace(policy, tasks={task: policy.tasks["t"]})


@pytest.fixture
def past(home: Path) -> Past:
    """Writes calls into the ledger of the test."""
    return Past(home)


def _policy(**objectives: Any) -> Policy:
    return make_policy({"slo": {"min_calls": 10, **objectives}})


def _slo(home: Path, policy: Policy, **options: Any) -> SloReport:
    return slo(home, policy, now_s=NOW_S, **options)


def _only(home: Path, policy: Policy, **options: Any) -> SloRow:
    (row,) = _slo(home, policy, **options).rows
    return row


@pytest.mark.parametrize(
    ("objective", "limit", "measured"),
    [
        ("usd_per_call", 2e-5, (15 * SMALL + 5 * (SMALL + LARGE)) / 20),
        ("usd_per_accepted", 2e-5, (15 * SMALL + 5 * (SMALL + LARGE)) / 20),
        ("escalation_rate", 0.4, 0.25),
    ],
)
def test_an_objective_holds_and_its_budget_is_used_in_part(
    objective: str, limit: float, measured: float, past: Past
) -> None:
    """Measured over the window's calls; what is left of the budget is what the calls might still have used."""
    past.calls(15, age_s=DAY_S)
    past.calls(5, "climbed", age_s=2 * DAY_S)
    row = _only(past.home, _policy(**{objective: limit}))
    assert (row.scope, row.name, row.objective, row.calls, row.state) == ("task", "t", objective, 20, "ok")
    assert row.measured == pytest.approx(measured)
    assert row.budget_left == pytest.approx(1 - measured / limit)
    assert (row.burn_1h, row.burn_6h, row.cause) == (None, None, "")


@pytest.mark.parametrize(("slow", "state", "p95_ms"), [(1, "ok", 100), (2, "breach", 900)])
def test_five_calls_of_a_hundred_may_be_slow(slow: int, state: str, p95_ms: float, past: Past) -> None:
    """The percentile is known to 2 %, and the objective holds as long as it is at or below it."""
    past.latency_s = 0.1
    past.calls(20 - slow, age_s=DAY_S)
    past.latency_s = 0.9
    past.calls(slow, age_s=DAY_S)
    row = _only(past.home, _policy(p95_latency_ms=500))
    assert row.state == state
    assert row.measured == pytest.approx(p95_ms, rel=0.02)
    assert row.budget_left == pytest.approx(1 - slow)


def test_few_calls_are_too_few_to_say(past: Past) -> None:
    """However bad they were; the figures are shown all the same."""
    past.calls(9, "climbed", age_s=DAY_S)
    row = _only(past.home, _policy(escalation_rate=0.1))
    assert (row.state, row.calls, row.measured, row.cause) == ("too few calls", 9, 1.0, "")


def test_calls_without_a_known_price_are_no_cheap_calls(past: Past) -> None:
    """They are not in the mean and not in its calls, and their number is shown."""
    past.calls(20, age_s=DAY_S)
    policy = _policy(usd_per_call=1e-6, escalation_rate=0.5)
    unpriced = replace(
        policy, models={name: replace(one, price=type(one.price)()) for name, one in policy.models.items()}
    )
    clock = SimulatedClock(NOW_S - DAY_S)
    with Router(unpriced, home=past.home, backend=ScriptedModels({"small": "yes"}), world=World(clock=clock)) as router:
        for _ in range(30):
            router.route("t", "hi")
    cost, rate = _slo(past.home, policy).rows
    assert (cost.calls, cost.unpriced, cost.state) == (20, 30, "breach")
    assert cost.measured == pytest.approx(SMALL)
    assert (rate.calls, rate.unpriced) == (50, 0)


def test_an_accepted_answer_carries_the_cost_of_those_that_failed(past: Past) -> None:
    """Where no call got an answer at all, the objective is missed, and the sentence says so."""
    past.calls(10, "failed", age_s=DAY_S)
    policy = _policy(usd_per_call=2e-6, usd_per_accepted=2e-6)
    per_call, per_answer = _slo(past.home, policy).rows
    assert per_call.state == "ok"
    assert (per_answer.state, per_answer.measured, per_answer.cause) == (
        "breach",
        float("inf"),
        "no call got an answer",
    )
    assert per_answer.as_json()["measured"] is None
    past.calls(10, age_s=DAY_S)
    per_call, per_answer = _slo(past.home, policy).rows
    assert per_call.measured == pytest.approx(SMALL)
    assert per_answer.measured == pytest.approx(2 * SMALL)


BEFORE_S, DURING_S = 40 * DAY_S, DAY_S


@pytest.mark.parametrize(
    ("objective", "kind", "options", "says"),
    [
        (
            {"usd_per_call": 1e-6},
            "climbed",
            {},
            "a call cost $0.000028000 more than in the 30 days before; all of that: "
            "`large` gave a reply in 100.0% of calls (before 0.0%)",
        ),
        (
            {"usd_per_accepted": 1e-6},
            "accepted",
            {"input_tokens": 110},
            "an accepted answer cost $0.000010000 more than in the 30 days before; all of that: "
            "the prompt of a request to `small` had 110 tokens (before 10)",
        ),
        (
            {"escalation_rate": 0.5},
            "down",
            {},
            "100.0% of calls climbed, 0.0% in the 30 days before; all of that: "
            "climbs past `small` because of the fault rate_limited were 100.0% of calls (before 0.0%)",
        ),
        (
            {"escalation_rate": 0.5},
            "climbed",
            {},
            "100.0% of calls climbed, 0.0% in the 30 days before; all of that: "
            "climbs past `small` because a draft was unusable were 100.0% of calls (before 0.0%)",
        ),
    ],
    ids=["climbs", "longer-prompts", "fault", "unusable"],
)
def test_a_breach_names_its_cause(
    objective: dict[str, float], kind: str, options: dict[str, Any], says: str, past: Past
) -> None:
    """The largest part of the change against the window before, with the figures of both."""
    past.calls(20, age_s=BEFORE_S)
    past.calls(20, kind, age_s=DURING_S, **options)
    row = _only(past.home, _policy(**objective))
    assert (row.state, row.cause) == ("breach", says)


def test_a_breach_of_latency_names_the_slower_model(past: Past) -> None:
    """Not only that calls were slow, but whose replies became slower."""
    past.latency_s = 0.1
    past.calls(20, "climbed", age_s=BEFORE_S)
    past.latency_s = 2.0
    past.calls(20, "climbed", age_s=DURING_S)
    row = _only(past.home, _policy(p95_latency_ms=1000))
    assert row.cause == (
        "100.0% of calls took longer than 1,000 ms, 0.0% in the 30 days before; all of that: "
        "of the calls that asked `small`, then `large` because a draft was unusable, 100.0% took longer than 1,000 ms "
        "(before 0.0%); a reply of `small` took 2,000 ms on average, before 100 ms"
    )


def test_a_part_that_is_larger_than_the_change_says_that_others_fell(past: Past) -> None:
    """Nobody reads of more than there is: unusable drafts went from none to all, and climbs for a fault to none."""
    past.calls(10, age_s=BEFORE_S)
    past.calls(10, "down", age_s=BEFORE_S)
    past.calls(20, "climbed", age_s=DURING_S)
    row = _only(past.home, _policy(escalation_rate=0.5))
    assert row.cause == (
        "100.0% of calls climbed, 50.0% in the 30 days before; "
        "one part alone added 100.0% of calls, while others fell: "
        "climbs past `small` because a draft was unusable were 100.0% of calls (before 0.0%)"
    )


def test_slow_calls_without_an_earlier_period_are_told_in_plain_words(past: Past) -> None:
    """The sentence says what was slow, and slower than what."""
    past.latency_s = 2.0
    past.calls(20, "climbed", age_s=DURING_S)
    row = _only(past.home, _policy(p95_latency_ms=1000))
    assert row.cause == (
        "the 30 days before had too few calls to compare with; 100.0% of the calls that took longer than 1,000 ms "
        "asked `small`, then `large` because a draft was unusable"
    )


def test_without_an_earlier_period_the_cause_is_the_largest_part(past: Past) -> None:
    """Nothing is said of a change that nobody can know."""
    past.calls(20, "climbed", age_s=DURING_S)
    row = _only(past.home, _policy(usd_per_call=1e-6))
    assert (
        row.cause
        == "the 30 days before had too few calls to compare with; 95.2% of the cost was for replies of `large`"
    )


def test_a_breach_that_is_no_worse_than_before_says_so(past: Past) -> None:
    """The objective was missed then, too."""
    for age_s in (BEFORE_S, DURING_S):
        past.calls(20, "climbed", age_s=age_s)
    row = _only(past.home, _policy(usd_per_call=1e-6))
    assert row.cause == "no more than 1% worse than in the 30 days before; 95.2% of the cost was for replies of `large`"


def test_a_budget_that_burns_too_fast_shows_before_it_is_gone(past: Past) -> None:
    """The last hour and its last 5 minutes climb and the window holds: today is compared with the days before."""
    past.calls(200, age_s=2 * DAY_S)
    past.calls(20, "climbed", age_s=60)
    row = _only(past.home, _policy(escalation_rate=0.25))
    assert (row.state, row.burn_1h, row.burn_6h) == ("burning", 4.0, 4.0)
    assert row.cause == (
        "100.0% of calls climbed, 0.0% in the days before 2023-11-14; all of that: "
        "climbs past `small` because a draft was unusable were 100.0% of calls (before 0.0%)"
    )
    past.calls(20, age_s=10)
    assert _only(past.home, _policy(escalation_rate=0.25)).state == "burning"  # Half of the hour's calls.
    past.calls(40, age_s=10)
    assert _only(past.home, _policy(escalation_rate=0.25)).state == "ok"


def test_the_window_is_whole_days_and_today(past: Past) -> None:
    """Of 2 days, yesterday counts from 0:00 UTC; what a clock put into the future does not, except later today."""
    midnight_age_s = NOW_S % DAY_S
    past.calls(1, age_s=midnight_age_s + DAY_S + 1)
    past.calls(2, age_s=midnight_age_s + DAY_S)
    past.calls(4, age_s=0)
    past.calls(8, age_s=-2 * DAY_S)
    policy = _policy(usd_per_call=1, window_days=2)
    row = _only(past.home, policy)
    assert (row.window_days, row.calls) == (2, 6)
    assert row.burn_1h == pytest.approx(SMALL)
    assert _only(past.home, policy, window_days=1).calls == 4
    assert _only(past.home, policy, window_days=366).calls == 7


def test_a_feature_counts_over_all_its_tasks(past: Past) -> None:
    """And nothing that was metered, for nobody routed it."""
    policy = make_policy({"slo": {"usd_per_call": 1}})
    feature = load_slos("slos: {feature: {in box: {escalation_rate: 0.5, min_calls: 1}}}")
    policy = replace(policy, slos=feature.slos)
    past.calls(3, age_s=DAY_S, feature="in box")
    past.calls(1, "climbed", age_s=DAY_S, task="other", feature="in box")
    past.calls(5, age_s=DAY_S)
    with Router(policy, home=past.home, world=World(clock=SimulatedClock(NOW_S))) as router:
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        router.meter({"model": "small", "choices": [], "usage": usage}, model="small", feature="in box")
    row = _only(past.home, policy, feature="in box")
    assert (row.scope, row.name, row.calls, row.measured) == ("feature", "in box", 4, 0.25)
    assert [one.name for one in _slo(past.home, policy).rows] == ["t", "in box"]
    assert [one.name for one in _slo(past.home, policy, task="t").rows] == ["t"]


def load_slos(text: str) -> Policy:
    """A policy of nothing but objectives."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.yml"
        path.write_text(f"version: 1\n{text}\n")
        return load_policy(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slos: {feature: {f: {}}}", "p.yml:2: slos.feature.f: names no objective; give one of usd_per_call, "),
        ("slos: {feature: {f: {window_days: 7}}}", "p.yml:2: slos.feature.f: names no objective"),
        ("slos: {feature: {f: {usd_per_call: -1}}}", "p.yml:2: slos.feature.f.usd_per_call: should be greater than 0"),
        ("slos: {feature: {f: {usd_per_call: 0}}}", "p.yml:2: slos.feature.f.usd_per_call: should be greater than 0"),
        ("slos: {feature: {f: {escalation_rate: 2}}}", "slos.feature.f.escalation_rate: should be less than or equal"),
        ("slos: {feature: {f: {p95_latency_ms: .nan}}}", "p.yml:2: slos.feature.f.p95_latency_ms: .nan is no number"),
        ("slos: {feature: {f: {usd_per_call: 1, window_days: 0}}}", "slos.feature.f.window_days: should be greater"),
        ("slos: {feature: {f: {p95_latency: 1}}}", "unknown key 'p95_latency'; did you mean 'p95_latency_ms'?"),
        ("slos: {features: {}}", "p.yml:2: slos.features: unknown key 'features'; did you mean 'feature'?"),
    ],
)
def test_an_objective_that_cannot_be_is_a_policy_error(text: str, says: str) -> None:
    """With file, line and path."""
    with pytest.raises(PolicyError) as raised:
        load_slos(text)
    assert says in str(raised.value)


def test_longer_prompts_are_weighed_by_the_prices_in_force(past: Past) -> None:
    """A model without a price in the policy has that of the plan; one that no task names any more has none."""
    policy = _policy(usd_per_call=1e-6)
    bare = replace(policy, models={name: replace(one, price=type(one.price)()) for name, one in policy.models.items()})
    with Router(policy, home=past.home, backend=ScriptedModels({})) as router:
        prices = prices_in_force(bare, router.plan)
        assert prices("t", "small") == router.plan("t").rungs[0].price
        assert prices_in_force(policy)("t", "small") == policy.models["small"].price
        assert (prices("gone", "small"), prices("t", "gone")) == (bare.models["small"].price, None)


def test_what_has_no_objective_is_a_wrong_call(past: Past) -> None:
    """The message says what there is; so is a window of no days."""
    policy = _policy(usd_per_call=1)
    for options, says in (
        ({"task": "tt"}, "task 'tt' has no objective; give it a `slo:`; did you mean 't'?"),
        ({"feature": "f"}, "feature 'f' has no objective; give it one below `slos: {feature: ...}`"),
        ({"window_days": 0}, "window_days: 0 is not 1 to 366 days"),
    ):
        with pytest.raises(InvalidCall, match=says.split(";", maxsplit=1)[0]) as raised:
            _slo(past.home, policy, **options)
        assert str(raised.value).startswith(says)


def test_a_ledger_of_an_earlier_release_gets_its_days(past: Past) -> None:
    """The tables are filled from its rows: the same report, and nothing counts twice."""
    past.calls(10, age_s=BEFORE_S)
    past.calls(10, "climbed", age_s=DURING_S)
    past.calls(3, "down", age_s=DURING_S)
    policy = _policy(usd_per_call=1e-6, escalation_rate=0.1, p95_latency_ms=1)
    expected = _slo(past.home, policy).rows
    with sqlite3.connect(past.home / "ledger.db") as database:
        days = [database.execute(f"SELECT * FROM {name}").fetchall() for name in ("daily_calls", "daily_requests")]
        database.execute("DROP TABLE daily_calls")
        database.execute("DROP TABLE daily_requests")
    assert _slo(past.home, policy).rows == expected
    with sqlite3.connect(past.home / "ledger.db") as database:
        assert days == [
            database.execute(f"SELECT * FROM {one}").fetchall() for one in ("daily_calls", "daily_requests")
        ]
    shutil.rmtree(past.home / "segments")
    assert _slo(past.home, policy).rows == expected


POLICY = """\
version: 1
models:
  small: {litellm: openai/small, price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}}
  large: {litellm: openai/large, price: {input_usd_per_mtok: 2, output_usd_per_mtok: 8}}
tasks:
  t:
    ladder: [small, large]
    slo: {usd_per_call: LIMIT, min_calls: 10}
"""


@pytest.fixture
def watched(cli: Cli, home: Path) -> Cli:
    """Commands in a folder with a policy; its ledger has 20 calls of today."""
    Path("policies").mkdir()
    past = Past(home)
    past.calls(20, age_s=NOW_S - time.time())
    return cli


def _limit(limit: float) -> None:
    Path("policies/p.yml").write_text(POLICY.replace("LIMIT", f"{limit:.9f}"))


@pytest.mark.parametrize(
    ("limit", "code", "state"), [(1.0, 0, "ok"), (1.4e-6, 0, "ok"), (1e-6, 3, "breach")], ids=["ok", "just", "breach"]
)
def test_the_command_exits_3_on_a_breach(limit: float, code: int, state: str, watched: Cli) -> None:
    """The table, then a sentence for each objective that does not hold; `--json` has the same."""
    _limit(limit)
    done = watched("slo")
    assert (done.code, done.err) == (code, "")
    header, row, *sentences = done.out.splitlines()
    assert header.split()[:4] == ["objective", "at", "most", "measured"]
    assert row.startswith("task t  usd_per_call")
    assert row.endswith(state)
    assert [line.split(":")[0] for line in sentences] == (["breach"] if code else [])
    document = watched("slo", "--json", "--window", "7d")
    assert (document.code, document.json["state"]) == (code, state)
    (objective,) = document.json["objectives"]
    assert (objective["window_days"], objective["calls"], objective["limit"]) == (7, 20, pytest.approx(limit))
    assert bool(objective["cause"]) == bool(code)


def test_the_command_without_calls_or_objectives_finds_nothing(cli: Cli) -> None:
    """No ledger is no breach, and a policy without objectives is told how to have one."""
    Path("policies").mkdir()
    _limit(1)
    done = cli("slo")
    assert (done.code, done.out.splitlines()[-1].split()[-3:]) == (0, ["too", "few", "calls"])
    Path("policies/p.yml").write_text("version: 1\n")
    done = cli("slo")
    assert (done.code, done.out.split(";")[0]) == (0, "the policies have no objective")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--window", "0"), "'0' is no window; give 1d to 366d, such as 7d"),
        (("--window", "30h"), "'30h' is no window"),
        (("--task", "x"), "task 'x' has no objective"),
        (("--feature", "x"), "feature 'x' has no objective"),
    ],
)
def test_a_wrong_call_of_the_command_exits_2(arguments: tuple[str, ...], says: str, watched: Cli) -> None:
    """With what would do."""
    _limit(1)
    done = watched("slo", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in " ".join(done.err.split())
