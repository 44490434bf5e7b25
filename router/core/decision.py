"""Whether a draft is kept: one rule for the flow, for tuning and for checks of a tuned plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from router.core.calibration import Calibrator, confidence
from router.core.panel import Vote, agreeing, hopeless, leading, settled
from router.core.plan import NOT_IN_PLAN, Rung


class Judged(NamedTuple):
    """What a draft's signals say, and what follows."""

    confidence: float
    """Probability that the draft is right, 0 to 1."""
    source: str
    """What stands behind the confidence."""
    keep: bool
    reason: str
    score: float | None = None
    """What the threshold was compared with; `None` where nothing was."""
    give_up: bool = False
    """Whether the rest of a panel is not worth asking."""


def judge(rung: Rung, signals: Mapping[str, float], problem: str) -> Judged:
    """Keep a draft or climb; `problem` says why the draft is unusable, or nothing."""
    p, fitted = confidence(rung.calibrators, signals)
    source = "prior" if fitted is None else rung.confidence_source
    if rung.threshold is None:
        return Judged(p, source, True, "last rung" + (f"; the answer {problem}" if problem else ""))
    if problem:
        return Judged(p, source, False, f"the draft {problem}")
    if rung.compare_only:
        return Judged(p, source, False, "asked so that the next draft can be compared with it")
    last = first_probability(rung.last, signals) if rung.by == "gain" else None
    if (rung.tuned and fitted is None) or (rung.by == "gain" and last is None):
        return Judged(p, source, False, "the draft lacks signals that the tuned plan needs")
    if last is not None:
        score = 1.0 - gain(last, p)
        keep = score >= rung.threshold
        shown = f"1 less the gain of climbing, {score:.3f}, is {_where(keep)} {rung.threshold:.3f}"
        return Judged(p, source, keep, shown, score)
    keep = p >= rung.threshold
    return Judged(p, source, keep, f"confidence {p:.3f} is {_where(keep)} {rung.threshold:.3f}", p)


def gain(last: float, draft: float) -> float:
    """How often the last rung beats a draft, a tie counting half, from the chance of each to be right."""
    return (1.0 + last - draft) / 2.0


def judge_panel(
    rung: Rung, signals: Mapping[str, float], votes: Sequence[Vote], problem: str, *, whole: bool = True, lost: int = 0
) -> Judged:
    """Keep what a panel has said so far, ask its next member, or give it up.

    A fitted confidence decides alone. Without one more than half of all that draft must agree, and nobody is asked who
    cannot change that: a question never, and no one after a majority that looks doubtful. `lost` members gave no draft.
    Nothing fitted is known of a panel that is not `whole` up to here.
    """
    judged = judge(rung, signals, problem)
    if rung.tuned and not whole and not problem:
        return judged._replace(keep=False, reason="a member is missing, and the plan knows nothing without it")
    if rung.threshold is None or problem:
        return judged._replace(give_up=hopeless(votes, rung.voters, lost) and not rung.tuned)
    if rung.tuned or judged.source != "prior":
        low = rung.low is not None and judged.score is not None and judged.score < rung.low
        told = f"{judged.reason}; below {rung.low:.3f} the rest of the panel is not asked" if low else judged.reason
        return judged._replace(reason=told, give_up=low)
    lead = leading(votes)
    count = 0 if lead is None else agreeing(votes, lead)
    told = f"{count} of {rung.voters} members give this answer"
    if not settled(votes, rung.voters):
        open_still = len(votes) + lost < rung.voters
        told = f"the members do not agree yet: {told}" if open_still else f"the members differ: {told}"
        return judged._replace(keep=False, reason=told, give_up=hopeless(votes, rung.voters, lost))
    told = f"{told}; {judged.reason}" if rung.voters > 1 else judged.reason
    return judged._replace(reason=told, give_up=not judged.keep)


def skip_reason(rung: Rung, prompt_signals: Mapping[str, float], down: bool) -> str:
    """Why a call does without this rung, or nothing; `down` says that the rung below could not be reached."""
    if rung.spare and not down:
        return NOT_IN_PLAN
    return rung.skip or gate_reason(rung, prompt_signals)


def gate_reason(rung: Rung, prompt_signals: Mapping[str, float]) -> str:
    """Why a draft of this rung is not worth its price for this prompt, or nothing."""
    if rung.gate is None:
        return ""
    p = first_probability(rung.prompt, prompt_signals)
    if p is None or p >= rung.gate:
        return ""
    return f"from the prompt alone its confidence is {p:.3f}, below {rung.gate:.3f}"


def first_probability(calibrators: tuple[Calibrator, ...], signals: Mapping[str, float]) -> float | None:
    """The probability from the first calibrator that has all its signals."""
    found = (calibrator.probability(signals) for calibrator in calibrators)
    return next((p for p in found if p is not None), None)


def _where(keep: bool) -> str:
    return "at or above" if keep else "below"
