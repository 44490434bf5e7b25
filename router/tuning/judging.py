"""The judge of an eval: another model's verdict on each answer, asked, priced and kept like an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from router.api import Router
from router.core.binding import digest
from router.core.call import Message, has_media, to_messages
from router.core.checks import Verdict
from router.core.judge import JUDGE, MOST_OUTPUT_TOKENS, needs_no_judge, read_verdict
from router.core.ladder import places
from router.core.params import suggestion
from router.core.policy import Policy, Task
from router.errors import InvalidCall, NoAnswer, TuningError
from router.ledger.lines import JUDGE_FEATURE
from router.tuning.answers import Row, Tap, answer_row, failed_row
from router.tuning.graders import Grader
from router.tuning.jobs import Job
from router.tuning.rows import EvalRow

# Verdicts of a session before a judge that mostly gives none ends it, and the share of none that is too much.
# Chosen, not measured; tuning takes a run with at most 5 % of the grades missing.
_FEWEST_VERDICTS = 20
_MOST_NONSENSE = 0.2


@dataclass(frozen=True, slots=True)
class Judging:
    """Who judges, and what it is asked."""

    name: str
    """The judge's name in the policy."""
    task: str
    settings: Task
    """The task whose answers are judged."""
    policy: Policy
    show_label: bool
    """Whether it sees the label of a row that has one."""

    @classmethod
    def of(cls, grader: Grader, judge: str | None, policy: Policy, task: str, *, show_label: bool) -> Self | None:
        """The judge of an eval, or `None` where labels decide.

        Raises
        ------
        InvalidCall
            The grader `judge` has no judge, or one that is no model, or that would judge its own answers.
        """
        if not grader.asks_judge:
            if judge is not None or show_label:
                raise InvalidCall(f"judge: grader {grader.name!r} asks none; give grader='judge'", argument="judge")
            return None
        if judge is None or judge not in policy.models:
            which = "is missing" if judge is None else f"is unknown: {judge!r}"
            raise InvalidCall(
                f"judge: {which}; name a model of the policies that is not in the ladder "
                f"({suggestion(judge or '', policy.models)})",
                argument="judge",
            )
        settings = policy.tasks[task]
        for place in places(settings.ladder):
            if _served(policy, place.model) == _served(policy, judge):
                does = "already tells a panel what it says" if place.kind else "would judge its own answers"
                raise InvalidCall(
                    f"judge: {judge!r} is {place.model!r} of the ladder, and {does}; name another model",
                    argument="judge",
                )
        return cls(judge, task, settings, policy, show_label)

    def alone(self, *, native: bool) -> Policy:
        """The policy with the judge as the whole ladder of the task; `native` for a model with structured output."""
        params = JUDGE.params() if native else {}
        task = Task((self.name,), params=params, max_output_tokens=MOST_OUTPUT_TOKENS, retry=self.settings.retry)
        return replace(self.policy, tasks={self.task: task})

    @property
    def binding(self) -> dict[str, str]:
        """What makes verdicts comparable: the judge, its parameters, and what it is asked."""
        model = self.policy.models[self.name]
        parts = {
            "judge": model.litellm,
            "judge's parameters": dict(model.params),
            "judge's question": [JUDGE.instructions, dict(JUDGE.schema or {})],
            "show_label": self.show_label,
        }
        return {name: digest(value)[:8] for name, value in parts.items()}

    def require_text(self, rows: Iterable[EvalRow]) -> None:
        """Refuse what a judge cannot see.

        Raises
        ------
        InvalidCall
            A prompt holds more than text.
        """
        for row in rows:
            if has_media(to_messages(row.prompt, None)):
                raise InvalidCall(
                    f"judge: reads text only, and {row.place or 'a row'} holds an image, sound or file; leave the row "
                    "out, or grade by labels",
                    argument="judge",
                )

    def messages(self, row: EvalRow, draft: str) -> tuple[Message, ...]:
        """What the judge is sent about an answer."""
        label = str(row.label) if self.show_label and row.label is not None else None
        return JUDGE.messages(to_messages(row.prompt, self.settings.system), draft, label)

    def needless(self, row: EvalRow, draft: str, verdict: Verdict) -> str:
        """Why an answer is worth 0 before the judge is asked, or nothing."""
        return needs_no_judge(to_messages(row.prompt, self.settings.system), draft, self.settings.answer, verdict)

    def verdict(self, router: Router, job: Job, draft: str, limit_usd: float | None, tap: Tap) -> Row:
        """Ask for the verdict on an answer: a row of its own, which a replay answers from like any other."""
        messages = self.messages(job.row, draft)
        row: Row = {
            "model": self.policy.models[self.name].litellm,
            "name": self.name,
            "task": self.task,
            "judges": job.model,
            "prompt_id": job.row_id,
            "system": messages[0]["content"],
            "prompt": messages[1]["content"],
            "grader": "judge",
            "saw_label": self.show_label and job.row.label is not None,
            "bound": self.binding,
        }
        with tap.listening() as outcomes:
            try:
                answer = router.route(self.task, messages, feature=JUDGE_FEATURE, max_cost_usd=limit_usd)
            except NoAnswer as error:
                return {**row, **failed_row(error)}
        return {**row, **answer_row(answer, outcomes), "quality": read_verdict(answer.text)}


def _served(policy: Policy, name: str) -> str:
    """What a model is called wherever it is hosted: `gpt-5` for `openai/gpt-5` and for `azure/gpt-5`."""
    return policy.models[name].litellm.rpartition("/")[2]


def require_verdicts(name: str, verdicts: int, nonsense: int) -> None:
    """Stop asking a judge that does not do what it is asked: each further verdict would be paid for nothing.

    Raises
    ------
    TuningError
        Too many of its verdicts are none.
    """
    if verdicts >= _FEWEST_VERDICTS and nonsense > _MOST_NONSENSE * verdicts:
        raise TuningError(
            f"judge {name!r} gave no verdict in {nonsense} of {verdicts} replies; judge with another model into a new "
            "run file, and answer it from this one for nothing: --run NEW.jsonl --replay THIS.jsonl",
            needed=0,
        )
