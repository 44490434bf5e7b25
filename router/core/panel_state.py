"""What the panel that a call is at has said so far: drafts, votes, and what questions about the first draft gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from router.core.answer import Step
from router.core.call import Reply, Usage
from router.core.checks import Verdict
from router.core.decision import Judged, judge_panel
from router.core.panel import Vote, hopeless, leading, panel_signals
from router.core.plan import Rung


class Draft(NamedTuple):
    """A reply that was judged."""

    place: int
    reply: Reply
    verdict: Verdict
    usage: Usage | None
    """As recorded: estimated where the provider reported none."""
    signals: Mapping[str, float]
    step: Step | None = None
    """What was decided of it."""


class PanelState:
    """The members of one panel that were asked; another panel begins anew."""

    __slots__ = ("_answers", "_drafts", "_first", "_level", "_lost", "_votes")

    def __init__(self) -> None:
        self._level: int | None = None
        self._drafts: list[Draft] = []
        self._votes: list[Vote] = []
        self._answers: list[Mapping[str, float]] = []
        self._first: Draft | None = None
        self._lost = 0

    def first(self, rung: Rung) -> Draft | None:
        """The draft of the first member of this rung's panel, or `None` where it gave none."""
        return self._first if self._level == rung.level else None

    def add(self, rung: Rung, draft: Draft, vote: Vote) -> None:
        """A member drafted."""
        self._begin(rung)
        self._first = draft if rung.member == 0 else self._first
        self._drafts.append(draft)
        self._votes.append(vote)

    def lost(self, rung: Rung) -> bool:
        """A member gave no draft; whether the others can no longer agree by more than half."""
        self._begin(rung)
        self._lost += 1
        return hopeless(self._votes, rung.voters, self._lost)

    def _begin(self, rung: Rung) -> None:
        if self._level != rung.level:
            self._level, self._drafts, self._votes, self._answers, self._first = rung.level, [], [], [], None
            self._lost = 0

    def tell(self, signals: Mapping[str, float]) -> None:
        """A question about the first draft was answered; with nothing where the reply is not what was asked for."""
        self._answers.append(signals)

    def judge(self, rung: Rung) -> tuple[Draft, Judged, Mapping[str, float]]:
        """Whose draft leads, what follows, and the signals of all that was said, as of this member."""
        votes, lead = self._votes, leading(self._votes)
        led = self._drafts[lead or 0]
        if lead is None and led.verdict.valid:  # `null`, or an object without the fields that count.
            led = led._replace(verdict=led.verdict._replace(valid=False, problem="holds nothing to be compared"))
        # With a member missing nothing is known of what the others say without it.
        whole = len(votes) + len(self._answers) == rung.member + 1
        together: dict[str, float] = {}
        if rung.member and (whole or not rung.tuned):
            together = panel_signals(votes) if len(votes) > 1 or self._answers else {}
            for signals in self._answers:
                together |= signals
        judged = judge_panel(
            rung, {**led.signals, **together}, votes, led.verdict.problem, whole=whole, lost=self._lost
        )
        return led, judged, together
