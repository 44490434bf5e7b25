"""Any sequence of calls through the public API, against the upstream's own bill."""

from __future__ import annotations

import asyncio
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router import Answer, Router, RouterError, RouterWarning
from router.audit import audit
from router.errors import CostLimitExceeded, DeadlineExceeded, InvalidCall, LadderExhausted, NoAnswer, RequestRefused
from router.testing import capture
from tests.support import make_policy, read_table
from tests.test_traffic import agrees, pair_with_bill
from tests.upstream import Fault, Upstream

# Every kind but those that only end after the upstream's patience; a deadline has a rule of its own.
_KINDS = st.sampled_from([kind for kind in Fault if kind not in (Fault.TIMEOUT, Fault.TIMEOUT_BILLED, Fault.DRIP)])
_SCRIPTS = st.lists(_KINDS, min_size=1, max_size=4)
_WORDS = st.sampled_from(["yes", "no", "perhaps"])
_PEOPLE = st.sampled_from([None, "ann", "ben"])


class Traffic(RuleBasedStateMachine):
    """A router over real sockets; after each step the ledger must agree with the upstream's bill."""

    upstream: Upstream

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.home = Path(self._folder.name)
        self.upstream.reset()
        self.calls = 0
        self.answers: list[Answer] = []
        self._capture = capture()
        self.events = self._capture.__enter__()
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore", RouterWarning)

    @initialize(attempts=st.integers(1, 3), threshold=st.sampled_from([0.0, 0.8, 1.0]))
    def start(self, attempts: int, threshold: float) -> None:
        task = {
            "answer": {"choice": ["yes", "no"]},
            "threshold": threshold,
            "retry": {"attempts": attempts, "max_wait_s": 0.02},
            "on_filter": "climb",
        }
        self.policy = make_policy(task, api_base=self.upstream.url)
        self.router = Router(self.policy, home=self.home)

    def _prompt(self, kinds: list[Fault], word: str) -> str:
        self.calls += 1
        return f"fault={','.join(kinds)} say={word} id={self.calls}"

    def _run(self, blocking: bool, prompt: Any, **options: Any) -> Answer | None:
        try:
            if blocking:
                answer: Answer = self.router.route("t", prompt, **options)
            else:
                answer = asyncio.run(self.router.aroute("t", prompt, **options))
        except NoAnswer as error:
            expected = RequestRefused | LadderExhausted | CostLimitExceeded | DeadlineExceeded
            assert isinstance(error, expected)
            return None
        self.answers.append(answer)
        return answer

    @rule(blocking=st.booleans(), kinds=_SCRIPTS, word=_WORDS, feature=_PEOPLE, user=_PEOPLE)
    def call(self, blocking: bool, kinds: list[Fault], word: str, feature: str | None, user: str | None) -> None:
        """Any faults, then the last one for ever."""
        answer = self._run(blocking, self._prompt(kinds, word), feature=feature, user=user)
        if answer is not None:
            amounts = [attempt.amount.nusd for attempt in answer.attempts]
            assert answer.cost_nusd == sum(amount for amount in amounts if amount is not None)
            assert answer.rung == answer.attempts[-1].rung or answer.steps[-1].action == "keep"

    @rule(blocking=st.booleans(), kinds=_SCRIPTS, limit_nusd=st.integers(1, 400_000))
    def call_with_a_cost_limit(self, blocking: bool, kinds: list[Fault], limit_nusd: int) -> None:
        """Whatever happens, a call is never billed more than it may cost."""
        prompt = self._prompt(kinds, "perhaps")
        before = len(self.upstream.bill())
        self._run(blocking, prompt, max_cost_usd=limit_nusd / 1e9)
        assert sum(billed.cost_nusd for billed in self.upstream.bill()[before:]) <= limit_nusd

    @rule(kind=st.sampled_from([Fault.TIMEOUT, Fault.TIMEOUT_BILLED, Fault.SLOW]), blocking=st.booleans())
    def call_with_a_deadline(self, kind: Fault, blocking: bool) -> None:
        """A model that hangs costs the deadline."""
        self._run(blocking, self._prompt([kind], "yes"), deadline_s=0.05)

    @rule(kinds=_SCRIPTS, after_s=st.floats(0.0, 0.02))
    def cancel(self, kinds: list[Fault], after_s: float) -> None:
        """The caller leaves at some moment."""
        prompt = self._prompt(kinds, "yes")

        async def leave() -> None:
            task = asyncio.create_task(self.router.aroute("t", prompt))
            done, _ = await asyncio.wait({task}, timeout=after_s)
            if not done:
                task.cancel()
            with suppress(asyncio.CancelledError, NoAnswer):
                self.answers.append(await task)

        asyncio.run(leave())

    @rule(prompt=st.sampled_from(["", "   ", [], [{"content": "no role"}], 7]))
    def call_with_a_bad_prompt(self, prompt: Any) -> None:
        """A prompt that cannot be used sends nothing."""
        before = len(self.upstream.bill())
        try:
            self.router.route("t", prompt)
        except InvalidCall:
            assert len(self.upstream.bill()) == before
            return
        raise AssertionError(prompt)

    @precondition(lambda self: self.answers)
    @rule()
    def restart(self) -> None:
        """The process ends and another one goes on with the same folder."""
        self.router.close()
        self.router = Router(self.policy, home=self.home)

    @invariant()
    def the_ledger_agrees_with_the_bill(self) -> None:
        """Each counted request has a row, settled ones to the nano-dollar, the others within their bounds."""
        if not self.calls:
            return
        pairs = pair_with_bill(self.home, self.upstream.bill(), lost_allowed=True)
        assert [pair for pair in pairs if not agrees(*pair)] == []

    @invariant()
    def one_event_and_one_row_for_each_call(self) -> None:
        """However a call ends, it leaves exactly one event and one route row."""
        routes = [event for event in self.events if event["event"] == "route"]
        assert len(routes) == self.calls
        if self.calls:
            assert len(read_table(self.home, "routes")) == self.calls

    @invariant()
    def the_audit_adds_up(self) -> None:
        """The rollups hold what the answers say."""
        if not self.calls:
            return
        report = audit(self.home)
        assert report.total.calls == self.calls
        attempts = read_table(self.home, "attempts")
        assert report.total.cost_nusd == sum(row["cost_nusd"] or 0 for row in attempts)
        assert report.uncertain == sum(row["state"] != "settled" for row in attempts)
        answered = {answer.route_id: answer.cost_nusd for answer in self.answers}
        stored = {row["route_id"]: row["cost_nusd"] for row in read_table(self.home, "routes")}
        assert {route_id: stored[route_id] for route_id in answered} == answered

    def teardown(self) -> None:
        self.router.close()
        self._warnings.__exit__(None, None, None)
        self._capture.__exit__(None, None, None)
        self._folder.cleanup()


def test_any_history_agrees_with_the_bill(upstream: Upstream) -> None:
    """Calls, limits, deadlines, cancellations and restarts in any order leave a ledger that the bill confirms."""

    class Bound(Traffic):
        pass

    Bound.upstream = upstream
    try:
        Bound.TestCase.settings = settings(
            max_examples=25,
            stateful_step_count=10,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        Bound.TestCase("runTest").debug()
    except RouterError as error:
        raise AssertionError(f"an error that no rule expects: {error}") from error
