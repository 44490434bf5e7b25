"""A panel: models that are asked the same, one after the other, and what their answers say together.

The panel's answer is the one that most of its members gave so far; where several lead, the one that was given first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# By name, what is known once some members of a panel have answered; the docs table is made from it.
PANEL_SIGNALS: dict[str, str] = {
    "panel_votes": "share of the members asked so far that give the panel's answer, 0 to 1",
    "panel_first": "1 when the first member gives it, else 0",
    "panel_own": "confidence in the draft that it is taken from, read off that draft alone, 0 to 1",
    "panel_support": "largest confidence in another draft that gives it too, 0 to 1; 0 when there is none",
    "panel_against": "largest confidence in a draft that gives another answer, 0 to 1; 0 when there is none",
}


class Vote(NamedTuple):
    """What one member said: its answer, `None` where it gave none that is usable, and how sure its draft looks."""

    value: str | None
    alone: float | None
    """Confidence read off its draft alone; `None` where no calibrator says it."""


def leading(votes: Sequence[Vote]) -> int | None:
    """Position of the draft that the panel's answer is taken from; `None` while no answer is usable."""
    best, most = None, 0
    for at, vote in enumerate(votes):
        count = 0 if vote.value is None else agreeing(votes, at)
        if count > most:
            best, most = at, count
    return best


def agreeing(votes: Sequence[Vote], at: int) -> int:
    """How many members gave this member's answer, itself included."""
    value = votes[at].value
    return sum(vote.value == value for vote in votes)


def panel_signals(votes: Sequence[Vote]) -> dict[str, float]:
    """The signals of a panel as far as it has been asked."""
    lead = leading(votes)
    if lead is None:
        return {"panel_votes": 0.0}
    value = votes[lead].value
    found = {"panel_votes": agreeing(votes, lead) / len(votes), "panel_first": float(lead == 0)}
    others = [vote for at, vote in enumerate(votes) if at != lead and vote.value is not None]
    if votes[lead].alone is None or any(vote.alone is None for vote in others):
        return found
    support = [vote.alone or 0.0 for vote in others if vote.value == value]
    against = [vote.alone or 0.0 for vote in others if vote.value != value]
    return {
        **found,
        "panel_own": votes[lead].alone or 0.0,
        "panel_support": max(support, default=0.0),
        "panel_against": max(against, default=0.0),
    }


def settled(votes: Sequence[Vote], voters: int) -> bool:
    """Whether more than half of all that draft gave one answer, so that the rest cannot change it."""
    lead = leading(votes)
    return lead is not None and 2 * agreeing(votes, lead) > voters


def hopeless(votes: Sequence[Vote], voters: int, lost: int = 0) -> bool:
    """Whether no answer can reach more than half of all that draft any more; `lost` of them gave no draft."""
    lead = leading(votes)
    most = 0 if lead is None else agreeing(votes, lead)
    return 2 * (most + voters - lost - len(votes)) <= voters
