"""Calls held to budgets: what is reserved, what counts, and what becomes of a call at a limit."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from router import Router, attribute
from router.audit.forget import forget
from router.errors import BudgetExceeded, RouterWarning, StateError
from router.ledger import Fingerprints, load_secret
from router.testing import Failure, Fault, Reply, ScriptedModels, SimulatedClock, SimulatedWorld, Usage
from router.world import World
from tests.budget_support import in_use, policy_with
from tests.support import Cli, read_table

# What costs 1,000 + 400 nano-dollars on `small`, and 20,000 + 8,000 on `large`. The prompt "hi" is at most 34 tokens:
# a request is bounded by 19,400 on `small` and by 388,000 on `large`.
USAGE = Usage(input_tokens=10, output_tokens=1)
YES, MAYBE = Reply("yes", USAGE), Reply("perhaps", USAGE)
SMALL, LARGE, BOUND_SMALL, BOUND_LARGE = 1_400, 28_000, 19_400, 388_000


def usd(nusd: int) -> str:
    """Dollars as a policy has them."""
    return f"{nusd / 1e9:.9f}"


def day(nusd: int, **more: Any) -> dict[str, Any]:
    """A budget of a day for each user."""
    return {"user": {"default": {"usd_per_day": usd(nusd), **more}}}


class Case:
    """A router on scripted models in a simulated world."""

    def __init__(self, home: Path, budgets: dict[str, Any], *, small: Any = YES, large: Any = YES, **task: Any) -> None:
        self.home, self.world = home, SimulatedWorld()
        self.models = ScriptedModels({"small": small, "large": large}, clock=self.world.clock)
        self.router = Router(policy_with(budgets, task), home=home, backend=self.models, world=self.world)

    def spent(self, start: str = "user.") -> list[tuple[int, int]]:
        return [(one.spent, one.held) for name, one in in_use(self.home, self.world).items() if name.startswith(start)]


@pytest.fixture
def case(home: Path) -> Iterator[Any]:
    """Makes cases, and closes their routers."""
    made: list[Case] = []

    def make(*arguments: Any, **more: Any) -> Case:
        made.append(Case(home, *arguments, **more))
        return made[-1]

    yield make
    for one in made:
        one.router.close()


def test_a_call_counts_with_what_it_cost(case: Any) -> None:
    """Its bound is held while it is under way, and given back but for the cost."""
    one = case(day(BOUND_SMALL + SMALL))
    seen: list[Any] = []

    def answer(_: Any) -> Reply:
        seen.append(one.spent())
        return YES

    one.models._scripts["small"] = answer
    one.router.route("t", "hi", user="u")
    one.router.route("t", "hi", user="u")
    assert seen == [[(0, BOUND_SMALL)], [(SMALL, BOUND_SMALL)]]
    assert one.spent() == [(2 * SMALL, 0)]
    with pytest.raises(BudgetExceeded):
        one.router.route("t", "hi", user="u")
    assert one.router.route("t", "hi", user="v").text == "yes"
    assert one.router.route("t", "hi").text == "yes"


def test_a_call_that_does_not_fit_is_refused_before_anything_leaves(case: Any) -> None:
    """The error says which budget, whose, how much of it is spent, and when it begins anew."""
    one = case(day(BOUND_SMALL - 1))
    with pytest.raises(BudgetExceeded) as caught:
        one.router.route("t", "hi", user="someone@example.com")
    error = pickle.loads(pickle.dumps(caught.value))
    assert one.models.history == []
    fingerprint = Fingerprints(load_secret(one.home, one.world)).name("user", "someone@example.com")
    assert (error.budget, error.key, error.window) == ("user.usd_per_day", fingerprint, "day")
    assert (error.limit, error.spent, error.needed) == (19_399e-9, 0.0, 19_400e-9)
    assert error.resets_at == "2023-11-15T00:00:00+00:00"
    assert (error.task, error.attempts) == ("t", ())
    assert "someone" not in str(error)
    assert str(error) == (
        f"task 't': a request to 'small' is not sent: the budget user.usd_per_day:{fingerprint} has no room for it: "
        "0.000000 USD of 0.000019 USD are spent or held and it can cost 0.000019 USD; the next day begins at "
        "2023-11-15T00:00:00+00:00"
    )
    assert [row["outcome"] for row in read_table_of(one)] == ["BudgetExceeded"]


def test_why_a_call_was_refused_is_on_record(case: Any, cli: Cli) -> None:
    """Its only step is the request that was not sent, with the budget's reason, which the audit shows."""
    one = case(day(BOUND_SMALL - 1))
    with pytest.raises(BudgetExceeded) as caught:
        one.router.route("t", "hi", user="u")
    (row,) = read_table_of(one)
    assert row["reason"].startswith("the budget user.usd_per_day:")
    assert row["reason"] in str(caught.value)
    shown = cli("audit", "show", row["route_id"], "--home", one.home).out
    assert f"small: skip, {row['reason']}" in shown
    assert "no request was sent" in shown


def read_table_of(one: Case) -> list[dict[str, Any]]:
    """The route rows of a simulated disk."""
    for path, content in one.world.disk.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return read_table(one.home, "routes")


def test_at_the_first_rung_the_best_draft_is_kept(case: Any) -> None:
    """A higher rung that does not fit is not asked, and the reason says which budget."""
    one = case({**day(BOUND_LARGE), "at_limit": "first_rung"}, answer={"text": {}}, threshold=1.0)
    answer = one.router.route("t", "hi", user="u")
    assert (answer.model, answer.escalated, [call.name for call in one.models.history]) == ("small", False, ["small"])
    skipped, kept = answer.steps[-2:]
    assert (skipped.action, kept.action) == ("skip", "keep")
    assert re.search("has no room for it: .* are spent or held", skipped.reason)  # The figures stand there alone.
    assert re.fullmatch(
        r"no rung above gave a usable answer: the budget user\.usd_per_day:[0-9a-f]{16} has no room for it", kept.reason
    )


def test_a_refused_climb_is_an_error_although_there_is_a_draft(case: Any) -> None:
    """`at_limit: refuse` gives no answer that the policy finds too weak."""
    one = case(day(BOUND_LARGE), answer={"text": {}}, threshold=1.0)
    with pytest.raises(BudgetExceeded, match="a request to 'large' is not sent") as caught:
        one.router.route("t", "hi", user="u")
    assert [attempt.model for attempt in caught.value.attempts] == ["small"]
    assert one.spent() == [(SMALL, 0)]


def test_without_a_usable_draft_there_is_nothing_to_stay_on(case: Any) -> None:
    """The first rung's answer is no label, so the call ends with the budget's error."""
    one = case({**day(BOUND_LARGE), "at_limit": "first_rung"}, small=MAYBE)
    with pytest.raises(BudgetExceeded, match=r"user\.usd_per_day"):
        one.router.route("t", "hi", user="u")


def test_a_call_that_waits_goes_on_in_the_next_window(case: Any) -> None:
    """`at_limit: wait` waits until the budget begins anew, where that is before the deadline."""
    one = case({"user": {"default": {"usd_per_minute": usd(BOUND_SMALL)}}, "at_limit": "wait"}, deadline_s=90)
    one.router.route("t", "hi", user="u")
    before = one.world.clock.monotonic()
    assert one.router.route("t", "hi", user="u").text == "yes"
    assert 0 < one.world.clock.monotonic() - before <= 60


@pytest.mark.parametrize("deadline_s", [5, None])
def test_a_call_waits_no_longer_than_its_deadline(case: Any, deadline_s: float | None) -> None:
    """Without a deadline it does not wait at all."""
    one = case({**day(BOUND_SMALL), "at_limit": "wait"}, deadline_s=deadline_s)
    one.router.route("t", "hi", user="u")
    before = one.world.clock.monotonic()
    with pytest.raises(BudgetExceeded) as caught:
        one.router.route("t", "hi", user="u")
    assert ("the call waited 5.0 s for room" in str(caught.value)) is bool(deadline_s)
    assert ("waited" in str(caught.value)) is bool(deadline_s)
    assert one.world.clock.monotonic() - before == pytest.approx(deadline_s or 0.0, abs=1e-6)


def test_a_call_that_no_window_has_room_for_does_not_wait(case: Any) -> None:
    """Its bound is above the whole limit."""
    one = case({**day(BOUND_SMALL - 1), "at_limit": "wait"}, deadline_s=90)
    with pytest.raises(BudgetExceeded):
        one.router.route("t", "hi", user="u")
    assert one.world.clock.monotonic() == 0.0


def test_a_waiting_call_goes_on_when_another_gives_its_room_back(home: Path) -> None:
    """Two tasks on a budget with room for one request at a time are both answered."""
    policy = policy_with(
        {"task": {"default": {"usd_per_day": usd(BOUND_SMALL + SMALL)}}, "at_limit": "wait"}, {"deadline_s": 60}
    )

    async def both() -> list[str]:
        models = ScriptedModels({"small": YES}, latency_s={"small": 0.05})
        async with Router(policy, home=home, backend=models) as router:
            return [str(answer) for answer in await asyncio.gather(*(router.aroute("t", "hi") for _ in range(2)))]

    assert asyncio.run(both()) == ["yes", "yes"]
    assert [(one.spent, one.held) for one in in_use(home).values()] == [(2 * SMALL, 0)]


def test_what_may_have_been_billed_counts_in_full(case: Any) -> None:
    """A timeout and a reply without usage count with their bounds, a refusal of the provider with nothing."""
    silent, free = Failure(Fault.TIMEOUT), Failure(Fault.RATE_LIMITED, retry_after_s=0.0)
    one = case(day(10 * BOUND_SMALL), small=[silent, YES, free, YES, Reply("yes", None)])
    for _ in range(3):
        one.router.route("t", "hi", user="u")
    assert one.spent() == [(BOUND_SMALL + SMALL + SMALL + BOUND_SMALL, 0)]


@pytest.mark.parametrize("figure", [10**15 + 1, 2**63, 10**40])
def test_a_figure_that_nobody_can_be_billed_counts_as_none(case: Any, figure: int) -> None:
    """The price of what was used takes its place, and nothing stays held."""
    one = case(day(10**9), small=Reply("yes", USAGE, reported_cost_nusd=figure))
    assert one.router.route("t", "hi", user="u").cost_nusd == SMALL
    assert one.spent() == [(SMALL, 0)]


def test_tokens_that_nobody_can_pay_leave_no_hold(case: Any) -> None:
    """Whatever a backend says was used, the budget is simply spent."""
    one = case(day(10**9), small=Reply("yes", Usage(input_tokens=10**30)))
    assert one.router.route("t", "hi", user="u").text == "yes"
    assert one.spent() == [(10**18, 0)]
    with pytest.raises(BudgetExceeded):
        one.router.route("t", "hi", user="u")


def test_a_retry_is_a_request_of_its_own(case: Any) -> None:
    """One that does not fit any more is not made, and the call climbs or ends as after the last attempt."""
    one = case(day(2 * BOUND_SMALL - 1), small=Failure(Fault.TIMEOUT), ladder=["small"])
    with pytest.raises(Exception, match="no rung gave a usable answer"):
        one.router.route("t", "hi", user="u")
    assert len(one.models.history) == 1
    assert one.spent() == [(BOUND_SMALL, 0)]


def test_a_request_that_nothing_bounds_is_refused_with_what_is_missing(case: Any) -> None:
    """A budget cannot hold what it does not know."""
    one = case(day(10**12), max_output_tokens=None)
    with pytest.raises(
        BudgetExceeded, match="its longest output is unknown; give the task a `max_output_tokens:`"
    ) as caught:
        one.router.route("t", "hi", user="u")
    assert (caught.value.needed, caught.value.spent) == (None, None)
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    with pytest.raises(BudgetExceeded, match="the prompt holds an image, sound or file"):
        one.router.route("t", [{"role": "user", "content": picture}], user="u", params={"max_tokens": 5})


def test_a_user_who_forces_escalation_stops_at_the_quota(case: Any) -> None:
    """From then on the first rung answers, and nobody else notices."""
    budgets = {"user": {"default": {"escalations_per_day": 2}}, "at_limit": "first_rung"}
    one = case(budgets, answer={"text": {}}, threshold=1.0)
    models = [one.router.route("t", "hi", user="attacker").model for _ in range(5)]
    assert models == ["large", "large", "small", "small", "small"]
    assert one.router.route("t", "hi", user="somebody").model == "large"
    assert sorted(one.spent()) == [(1, 0), (2, 0)]


def test_the_task_may_have_a_limit_of_its_own(case: Any) -> None:
    """`budget.usd_per_day` holds for all calls of the task."""
    one = case({}, budget={"usd_per_day": usd(BOUND_SMALL)})
    one.router.route("t", "hi")
    with pytest.raises(BudgetExceeded, match=r"the budget task\.usd_per_day:t has no room"):
        one.router.route("t", "hi", user="u")


def test_a_named_entry_takes_the_place_of_the_default(case: Any) -> None:
    """Users are named as the application calls them; what an entry does not say is not limited."""
    one = case({"user": {"default": {"usd_per_day": 0}, "vip": {"escalations_per_day": 5}}})
    assert one.router.route("t", "hi", user="vip").text == "yes"
    with pytest.raises(BudgetExceeded), attribute(user="default"):
        one.router.route("t", "hi")


def test_a_named_entry_stays_with_a_user_who_was_forgotten(home: Path) -> None:
    """A running process finds it by the name that the policy has, whatever the user is called in the ledger."""
    budgets = {"user": {"default": {"usd_per_day": 0}, "vip": {"usd_per_day": usd(10**9)}}}
    clock = SimulatedClock()
    backend = ScriptedModels({"small": YES})
    with Router(policy_with(budgets), home=home, backend=backend, world=World(clock=clock)) as router:
        router.route("t", "hi", user="vip")
        forget(home, "vip")
        clock.sleep(1.0)
        assert router.route("t", "hi", user="vip").text == "yes"
        used = in_use(home, World(clock=clock)).values()
        assert [one.spent for one in used] == [SMALL, SMALL]  # The second as somebody new.


def test_users_whose_keys_cannot_be_read_have_no_budget_to_spend(home: Path) -> None:
    """Each process would begin its own; calls that no budget of a user holds go on, and so do all when it is mended."""
    home.mkdir()
    (home / "users.db").write_bytes(b"no database" * 100)
    backend = ScriptedModels({"small": YES})
    policy = policy_with({"user": {"ann": {"usd_per_day": usd(10**9)}}})
    with Router(policy, home=home, backend=backend) as router:
        with pytest.warns(RouterWarning, match=r"users\.db"):
            assert router.route("t", "hi", user="ben").text == "yes"
        for _ in range(2):
            with pytest.raises(
                StateError, match=r"users\.db: the keys of the users cannot be used .* nothing was sent"
            ):
                router.route("t", "hi", user="ann")
        assert len(backend.history) == 1
        (home / "users.db").unlink()
        assert router.route("t", "hi", user="ann").text == "yes"


def test_users_have_no_budget_to_spend_under_a_secret_that_nobody_shares(home: Path, cli: Cli) -> None:
    """Each router would make up a key and begin every budget of a user anew; other calls go on, with one warning."""
    (home / "secret").mkdir(parents=True)  # Cannot be read, by an administrator either.
    backend = ScriptedModels({"small": YES})
    policy = policy_with({"user": {"ann": {"usd_per_day": usd(10**9)}}})
    with Router(policy, home=home, backend=backend) as router:
        with pytest.warns(RouterWarning, match=r"secret: the key of the fingerprints can be neither read nor made"):
            assert router.route("t", "hi", user="ben").text == "yes"
        for _ in range(2):
            with pytest.raises(StateError, match=r"secret: .* or set ROUTER_SECRET; .* nothing was sent"):
                router.route("t", "hi", user="ann")
    assert len(backend.history) == 1
    done = cli("audit", "--user", "ben", "--home", str(home))
    assert (done.code, "or set ROUTER_SECRET" in done.err) == (1, True)
    (home / "secret").rmdir()
    with Router(policy, home=home, backend=backend) as router:
        assert router.route("t", "hi", user="ann").text == "yes"


def test_streams_and_shapes_are_held_too(case: Any) -> None:
    """A stream that is left early counts with its bound."""
    one = case({"feature": {"default": {"usd_per_day": usd(10**9)}}}, ladder=["small"])
    assert [str(part) for part in one.router.route("t", "hi", stream=True, feature="f")] == ["yes"]
    assert one.spent("feature.") == [(SMALL, 0)]
    one.models._scripts["small"] = lambda _: Reply("yes and more", None)
    stream = one.router.route("t", "hi", stream=True, feature="f")
    next(iter(stream))
    assert one.spent("feature.") == [(SMALL, BOUND_SMALL)]
    stream.close()
    assert one.spent("feature.") == [(SMALL + BOUND_SMALL, 0)]


def test_an_answer_that_is_given_again_is_free(case: Any) -> None:
    """An idempotency key that is used again asks nobody and reserves nothing."""
    one = case(day(BOUND_SMALL))
    first = one.router.route("t", "hi", user="u", idempotency_key="k")
    assert one.router.route("t", "hi", user="u", idempotency_key="k").repeat_of == first.route_id
    assert one.spent() == [(SMALL, 0)]


def test_what_was_metered_is_spent(case: Any) -> None:
    """Also beyond the limit: it is paid for."""
    one = case(day(1_000))
    usage = SimpleNamespace(prompt_tokens=20, completion_tokens=0, total_tokens=20)
    one.router.meter(SimpleNamespace(model="small", usage=usage), user="u")
    assert one.spent() == [(2_000, 0)]
    with pytest.raises(BudgetExceeded):
        one.router.route("t", "hi", user="u")


def test_a_call_that_breaks_leaves_no_hold(case: Any) -> None:
    """What a backend raised may have been billed; what was cancelled, too."""
    one = case(day(10**9), small=ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        one.router.route("t", "hi", user="u")
    assert one.spent() == [(BOUND_SMALL, 0)]


def test_a_cancelled_call_leaves_no_hold(home: Path) -> None:
    """It counts with its bound."""

    async def leave(router: Router) -> None:
        call = asyncio.ensure_future(router.aroute("t", "hi", user="u"))
        while not any(one.held for one in in_use(home).values()):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    models = ScriptedModels({"small": YES}, latency_s={"small": 60})
    with Router(policy_with(day(10**9)), home=home, backend=models) as router:
        asyncio.run(leave(router))
        assert [(one.spent, one.held) for one in in_use(home).values()] == [(BOUND_SMALL, 0)]


def test_a_disk_that_cannot_be_written_refuses_what_a_budget_holds(home: Path) -> None:
    """Calls of nobody with a budget go on."""
    home.mkdir()
    (home / "state").write_text("in the way")
    with Router(policy_with(day(10**9)), home=home, backend=ScriptedModels({"small": YES})) as router:
        with pytest.raises(StateError, match="the budgets cannot be kept"):
            router.route("t", "hi", user="u")
        assert router.route("t", "hi").text == "yes"


def test_a_forked_child_spends_from_blocks_of_its_own(home: Path) -> None:
    """What parent and child spend adds up."""
    with Router(policy_with(day(10**9)), home=home, backend=ScriptedModels({"small": YES})) as router:
        router.route("t", "hi", user="u")
        child = os.fork()
        if child == 0:
            router.route("t", "hi", user="u")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        router.route("t", "hi", user="u")
        assert [(one.spent, one.held) for one in in_use(home, World()).values()] == [(3 * SMALL, 0)]


def test_children_that_are_forked_while_threads_call_go_on(home: Path) -> None:
    """No child inherits SQLite in the middle of a visit, where it would wait for ever for a thread it does not have."""
    # A limit so small that every call visits the shared store.
    with Router(policy_with(day(BOUND_SMALL)), home=home, backend=ScriptedModels({"small": YES})) as router:
        over = threading.Event()

        def call(user: str) -> None:
            with suppress(BudgetExceeded):
                router.route("t", "hi", user=user)

        def call_on() -> None:
            while not over.is_set():
                call("ann")

        threads = [threading.Thread(target=call_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(30):
            children.append(os.fork())
            if children[-1] == 0:
                signal.alarm(30)  # What ends one that hangs.
                call(f"user {number}")
                os._exit(0)
        over.set()
        for thread in threads:
            thread.join()
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 30


def test_the_command_lists_every_budget_in_use(home: Path, cli: Cli) -> None:
    """Limit, spent, held, left and when it begins anew; a user is found by the application's id."""
    nothing = "no policy is found, and no budget is in use; name the policy with --policies\n"
    assert cli("budgets").out == nothing
    limits = {"usd_per_day": "0.5", "escalations_per_day": 3}
    budgets = {"user": {"default": limits}, "task": {"default": {"usd_per_month": 2}}, "time_zone": "Asia/Tokyo"}
    with Router(policy_with(budgets), home=home, backend=ScriptedModels({"small": MAYBE, "large": YES})) as router:
        router.route("t", "hi", user="ann")
        told = cli("budgets", "--json").json["budgets"]
    assert [(one["budget"], one.get("spent_nusd", one.get("spent"))) for one in told] == [
        ("task.usd_per_month", str(SMALL + LARGE)),
        ("user.escalations_per_day", 1),
        ("user.usd_per_day", str(SMALL + LARGE)),
    ]
    assert (told[0]["key"], told[0]["limit_nusd"], told[0]["held_nusd"]) == ("t", "2000000000", "0")
    assert told[0]["left_nusd"] == str(2_000_000_000 - SMALL - LARGE)
    assert told[2]["resets_at"].endswith("T00:00:00+09:00")
    named = [{**one, "name": "ann"} for one in told[1:]]
    assert cli("budgets", "--user", "ann", "--json").json["budgets"] == named
    assert cli("budgets", "--user", "bob", "--json").json["budgets"] == []
    head, first, quota, _ = cli("budgets").out.splitlines()
    assert head.split() == ["budget", "key", "limit", "spent", "held", "left", "begins", "anew"]
    assert first.split()[:6] == ["task.usd_per_month", "t", "$2.00", "$0.000029400", "$0.00", "$2.00"]
    assert quota.split()[2:6] == ["3", "1", "0", "2"]


def test_the_command_lists_the_limits_of_the_policy(home: Path, cli: Cli) -> None:
    """Also before the first call; named users by their names; and it marks what the policy no longer has."""
    models = {"small": {"litellm": "x/small", "price": {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4}}}
    base = {"version": 1, "models": models, "tasks": {"t": {"ladder": ["small"], "max_output_tokens": 9}}}
    limits: dict[str, Any] = {"user": {"ann": {"usd_per_day": 3}, "default": {"usd_per_day": 1}}}
    limits["tenant"] = {"acme": {"usd_per_day": 5}}
    Path("p.yml").write_text(json.dumps({**base, "budgets": limits}))

    def rows(*options: str) -> list[tuple[str, str, str | None, bool]]:
        told = cli("budgets", "-p", "p.yml", "--json", *options).json["budgets"]
        return [(one["name"], one["limit_nusd"][:-9], one["spent_nusd"], one["in_policy"]) for one in told]

    assert rows() == [
        ("ann", "3", "0", True),
        ("each user without its own", "1", None, True),
        ("acme", "5", "0", True),
    ]
    assert rows("--user", "bob") == [("bob", "1", "0", True)]
    assert not home.exists()
    with Router("p.yml", home=home, backend=ScriptedModels({"small": YES})) as router:
        for user in ("ann", "bob"):
            router.route("t", "hi", user=user, tenant="acme")
    prints = {one.key for one in in_use(home, World()).values() if one.counter == "user.usd_per_day"}
    del limits["tenant"]
    limits["user"]["ann"] = {"usd_per_day": 4}
    Path("p.yml").write_text(json.dumps({**base, "budgets": limits}))
    first, default, other, gone = rows()
    assert (first, default[2]) == (("ann", "4", str(SMALL), True), None)
    assert (other[0] in prints, *other[1:]) == (True, "1", str(SMALL), True)
    assert gone == ("acme", "5", str(2 * SMALL), False)
    assert rows("--user", "bob") == [("bob", "1", str(SMALL), True)]
    lines = cli("budgets", "-p", "p.yml").out.splitlines()
    assert [line.endswith("no longer in the policy") for line in lines[1:]] == [False, False, False, True]
    assert lines[1].split()[1:6] == ["ann", "$4.00", "$0.000001400", "$0.00", "$4.00"]


def test_a_damaged_store_says_what_to_do(home: Path) -> None:
    """Nothing is sent on the word of a file that cannot be read."""
    (home / "state").mkdir(parents=True)
    (home / "state" / "budgets.db").write_bytes(b"no database" * 100)
    models = ScriptedModels({"small": YES})
    router = Router(policy_with(day(10**9)), home=home, backend=models)
    with router, pytest.raises(StateError, match=r"restore budgets\.db, or delete it"):
        router.route("t", "hi", user="u")
    assert models.history == []


def test_a_sheet_that_is_gone_counts_in_full(home: Path) -> None:
    """What nobody can tell any more is taken for spent: the whole block of a process that is dead."""
    with Router(policy_with(day(10**9)), home=home, backend=ScriptedModels({"small": YES})) as router:
        child = os.fork()
        if child == 0:
            router.route("t", "hi", user="u")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    (sheet,) = (home / "state" / "budgets").iterdir()
    sheet.unlink()
    assert [(one.spent, one.held) for one in in_use(home, World()).values()] == [(10**9 // 50, 0)]
