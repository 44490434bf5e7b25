"""The questions of a ladder's panels in an eval: asked about each first draft, priced and kept like an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from router.api import Router
from router.core.call import Message, has_media, to_messages
from router.core.checks import Check
from router.core.judge import MOST_OUTPUT_TOKENS, QUESTIONS, Question
from router.core.ladder import kind_of, model_of, panels
from router.core.policy import Policy, Task
from router.core.pricing import NUSD_PER_USD
from router.errors import InvalidCall, NoAnswer
from router.ledger.families import EVAL_FEATURE
from router.ledger.lines import JUDGE_FEATURE
from router.tuning.answers import Row, Tap, answer_row, failed_row, is_final, reply_of
from router.tuning.columns import Columns, Told
from router.tuning.jobs import Job
from router.tuning.rows import EvalRow


@dataclass(frozen=True, slots=True)
class Asking:
    """One question of a panel, about the drafts of the panel's first member."""

    key: str
    about: str
    """The first member."""
    task: str
    settings: Task

    @property
    def question(self) -> Question:
        """What is asked."""
        return QUESTIONS[kind_of(self.key) or ""]

    def alone(self, policy: Policy, can: Callable[[str], bool | None]) -> Policy:
        """The policy with the model that is asked as the whole ladder of the task."""
        params = self.question.params_for(can)
        retry = self.settings.retry
        task = Task((model_of(self.key),), params=params, max_output_tokens=MOST_OUTPUT_TOKENS, retry=retry)
        return replace(policy, tasks={self.task: task})

    def messages(self, row: EvalRow, draft: str) -> tuple[Message, ...]:
        """What is sent about a draft."""
        return self.question.messages(to_messages(row.prompt, self.settings.system), draft)

    def needless(self, row: EvalRow, draft: str, check: Check) -> bool:
        """Whether nobody is asked about a draft: what would be said is known, or cannot be."""
        asked = to_messages(row.prompt, self.settings.system)
        return has_media(asked) or self.foregone(asked, draft, check) is not None

    def foregone(self, asked: tuple[Message, ...], draft: str, check: Check) -> dict[str, float] | None:
        """The signals that are known without asking, or `None`."""
        return self.question.foregone(asked, draft, self.settings.answer, check(draft))

    def ask(self, router: Router, job: Job, policy: Policy, limit_usd: float | None, tap: Tap) -> Row:
        """Ask about a draft: a row of its own, which a replay answers from like any other."""
        messages = self.messages(job.row, job.draft or "")
        row: Row = {
            "model": policy.models[model_of(self.key)].litellm,
            "name": self.key,
            "task": self.task,
            "about": self.about,
            "prompt_id": job.row_id,
            "system": messages[0]["content"],
            "prompt": messages[1]["content"],
        }
        feature = JUDGE_FEATURE if self.question.name == "judge" else EVAL_FEATURE
        with tap.listening() as outcomes:
            try:
                answer = router.route(self.task, messages, feature=feature, max_cost_usd=limit_usd)
            except NoAnswer as error:
                return {**row, **failed_row(error)}
            except InvalidCall as error:
                return {**row, "error": {"fault": "context_too_long"}, "refused": str(error), "cost_usd": 0.0}
        return {**row, **answer_row(answer, outcomes)}


def askings(task: str, settings: Task) -> tuple[Asking, ...]:
    """Every question of a task's ladder."""
    return tuple(
        Asking(key, panel[0], task, settings) for panel in panels(settings.ladder) for key in panel if kind_of(key)
    )


class _First(NamedTuple):
    """The draft of a panel's first member."""

    row: int
    foregone: dict[str, float] | None
    asked: bool
    """Whether a question about it can be asked at all."""


@dataclass
class Questioned:
    """The questions of a run that is read, put to the rows that they are about."""

    askings: tuple[Asking, ...] = ()
    _rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    _firsts: dict[tuple[str, str], _First] = field(default_factory=dict)

    def asks(self, row: Mapping[str, Any]) -> bool:
        """Whether the ladder still asks this question."""
        return row.get("name") in [one.key for one in self.askings]

    def add(self, prompt: str, row: Mapping[str, Any], served: dict[str, set[str]]) -> None:
        """What was said, and who was `served`; what an earlier session got no answer to does not count."""
        if is_final(row):
            self._rows[prompt, str(row["name"])] = dict(row)
        if row.get("error") is None:
            served.setdefault(model_of(str(row["name"])), set()).add(str(row.get("model_served") or row["model"]))

    def drafted(self, prompt: str, at: int, row: Mapping[str, Any], check: Check, system: str | None) -> None:
        """A model's draft, which questions may be about."""
        for one in self.askings:
            if one.about == row["name"] and isinstance(row.get("response"), str) and row.get("prompt"):
                messages = to_messages(row["prompt"], row.get("system") or system)
                known = one.foregone(messages, row["response"], check)
                self._firsts[prompt, one.key] = _First(at, known, not has_media(messages))

    def put(self, columns: Columns) -> None:
        """Say of each row what its questions gave."""
        for (prompt, key), first in self._firsts.items():
            name = kind_of(key) or ""
            row = self._rows.get((prompt, key))
            if not first.asked:
                continue
            if first.foregone is not None:
                columns.tell(key, first.row, Told(first.foregone.get(name, math.nan), 0.0))
            else:
                columns.tell(key, first.row, None if row is None else _told(QUESTIONS[name], row))


def _told(question: Question, row: Row) -> Told:
    cost = math.nan if row.get("cost_usd") is None else float(round(row["cost_usd"] * NUSD_PER_USD))
    if row.get("error") is not None:
        return Told(math.nan, cost, answered=False)
    reply = reply_of(row)
    value = None if reply is None else question.read(reply)
    return Told(math.nan if value is None else value, cost)
