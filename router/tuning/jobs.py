"""What an eval asks and tells: a question, the estimate before, the progress during, and the account after."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from router.tuning.rows import EvalRow


class Job(NamedTuple):
    """One question to one model."""

    row: EvalRow
    row_id: str
    model: str
    repeat: bool = False
    draft: str | None = None
    """The model's answer where the question is about it: to the judge, or of a panel."""
    question: str | None = None
    """Key of a panel's question about the answer; without one it is the judge's, who grades."""

    @property
    def key(self) -> tuple[str, str, bool]:
        """What makes it the same question in another session."""
        return self.row_id, self.question or self.model, self.repeat


class Estimate(NamedTuple):
    """What the rest of a run will cost, before it is asked."""

    requests: int
    usd: float | None
    """From the length of prompts and labels, or of the answers so far; `None` when a price is unknown."""
    upper_usd: float | None
    """What it cannot exceed when nothing is retried; `None` when an answer's length or a price is unknown."""
    unpriced: tuple[str, ...]


class Progress(NamedTuple):
    """How far a run is."""

    done: int
    total: int
    failed: int
    cost_usd: float
    """Of the whole run, earlier sessions included."""


class Evaluated(NamedTuple):
    """What a session of an eval did."""

    path: Path
    asked: int
    """Answers of this session, verdicts of a judge included."""
    kept: int
    """Answers that were there already."""
    failed: int
    """Questions that this session got no answer to."""
    left: int
    """Questions that are still open; the next session asks them."""
    cost_usd: float
    stopped: str
    """Why it stopped before the end, or nothing."""
    nonsense: int = 0
    """Replies of a judge in this session that are no verdict; they leave an answer without a grade."""
