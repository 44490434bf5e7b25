"""What the questions of an eval will cost, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from router.core.call import Message, input_tokens_bound, input_tokens_estimate, output_tokens_estimate
from router.core.judge import JUDGE, MOST_OUTPUT_TOKENS, VERDICT_TOKENS
from router.core.plan import Rung
from router.core.policy import Task
from router.core.pricing import total, usd
from router.core.worthless import MOST_DRAFT_CHARS
from router.tuning.jobs import Estimate, Job

ANY_DRAFT = "?" * 200
"""Stands for an answer that is not there yet, where a question about it is estimated; the bound takes the longest."""
_MOST_BYTES = 4 * MOST_DRAFT_CHARS


def estimate(
    asked: Iterable[tuple[str, Job, Sequence[Message]]],
    rungs: Mapping[str, Rung],
    settings: Task,
    mean_nusd: Callable[[str], int | None],
) -> Estimate:
    """The cost of these questions, each with who is asked and what is sent.

    Parameters
    ----------
    asked
        The questions.
    rungs
        By who is asked, prices and limits.
    settings
        The task.
    mean_nusd
        What an answer cost so far on average, by who gave it.
    """
    points: list[int | None] = []
    uppers: list[int | None] = []
    unpriced: set[str] = set()
    for name, job, messages in asked:
        mean, rung = mean_nusd(name), rungs[name]
        guess = VERDICT_TOKENS if job.draft is not None else output_tokens_estimate(str(job.row.label or "")) or 1
        point = rung.rates.plain_nusd(input_tokens_estimate(messages), guess) if mean is None else mean
        if point is None and rung.rates.by_second:
            point = 0
        points.append(point)
        uppers.append(upper_nusd(job, messages, rung, settings))
        if point is None:
            unpriced.add(name)
    return Estimate(len(points), usd(total(points)), usd(total(uppers)), tuple(sorted(unpriced)))


def upper_nusd(job: Job, messages: Sequence[Message], rung: Rung, settings: Task) -> int | None:
    """The most that one question can cost; `None` where nothing bounds it."""
    limits = [settings.max_output_tokens, rung.max_output_tokens]
    bound, deadline_s = input_tokens_bound(messages), settings.deadline_s
    if job.draft is not None:
        limits[0], deadline_s = MOST_OUTPUT_TOKENS, None
        bound = None if bound is None else bound + len(str(JUDGE.params())) + (job.draft == ANY_DRAFT) * _MOST_BYTES
    output = min((limit for limit in limits if limit is not None), default=None)
    return rung.rates.upper_nusd(bound, output, deadline_s)
