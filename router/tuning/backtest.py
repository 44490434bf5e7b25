"""`router backtest` as a library: recorded calls under the plan in force and under a candidate, call by call.

Both take the production path, and each call is compared with itself: what changes in cost, quality and latency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.core.answer import climbed
from router.core.binding import changed_rows, row_binding
from router.core.comparing import canonical
from router.core.params import suggestion
from router.core.plan import Force, Plan, Rung
from router.core.policy import Policy
from router.errors import InvalidCall, PolicyError, RecordingError, UnknownTask
from router.options import DISABLE_VARIABLE, top_only
from router.own_signals import OwnSignals
from router.resolve import bound, task_check
from router.spec import Loaded, loaded_of
from router.tuning.calls import Calls, RecordedCall, read_calls
from router.tuning.candidate import Candidate
from router.tuning.graders import Grader, build_grader, recorded_mark
from router.tuning.paired import Comparison, Outcome, compared
from router.tuning.play import Played, Player, prepared
from router.tuning.rows import EvalRow, prompt_id
from router.tuning.words import plan_in_words

Checks = Mapping[str, Callable[[Any], bool]]

# Of what a model's answers hang on, what a replay does not look at.
_UNSEEN = ("model_params", "params", "template_version", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two plans."""

    force: Force
    words: str
    """What a call does, in a sentence."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A call that the recording cannot tell about."""

    call: str
    line: int
    why: str
    model: str | None
    """The model whose answer is not recorded, by its litellm name."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A call that is answered otherwise."""

    call: str
    line: int
    feature: str | None
    before: Outcome
    after: Outcome


@dataclass(frozen=True, slots=True)
class Backtest:
    """What a candidate would have changed."""

    task: str
    recording: Path
    calls: int
    """In the recording, of this task."""
    in_force: Side
    candidate: Side
    total: Comparison
    features: tuple[Comparison, ...]
    """By feature, that with the most calls first; nothing where no call names one."""
    changed: tuple[Changed, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    """What is wrong with a certificate, what the recording cannot know of the candidate, and rows of other tasks."""

    @property
    def lacking(self) -> dict[str, int]:
        """Calls that are left out, by the model whose answer is not recorded."""
        found: dict[str, int] = {}
        for one in self.left_out:
            if one.model is not None:
                found[one.model] = found.get(one.model, 0) + 1
        return found


def backtest(
    task: str,
    recording: str | Path,
    candidate: Candidate,
    *,
    policies: str | Path | Policy | None = None,
    environment: str | None = None,
    checks: Checks | None = None,
    signals: OwnSignals | None = None,
    labels: Sequence[EvalRow] = (),
    grader: str | Callable[[str, Any], float] | None = None,
    tolerance: float = 0.0,
    fields: Sequence[str] = (),
) -> Backtest:
    """Play the recorded calls of a task under the plan in force and under a candidate.

    Parameters
    ----------
    task
        Name of a task of both policies; rows of other tasks are left out.
    recording
        What `Router(record=...)` or `router eval` wrote, or rows of the same columns.
    candidate
        What to try.
    policies, environment, checks, signals
        As for `Router`: what is in force. The candidate's files are read with the same environment.
    labels
        Labels of recorded prompts; those that the recording has itself are known already.
    grader, tolerance, fields
        See `build_grader`. A mark that the recording has counts, unless a grader is named.

    Raises
    ------
    UnknownTask, PolicyError, InvalidCall
        There is no such task, candidate or grader.
    RecordingError
        A row is broken, or the recording lacks every answer of a model that is needed.
    """
    if top_only():
        raise PolicyError("sends every call to the top rung, whatever the plan; unset it", where=DISABLE_VARIABLE)
    if grader in ("disagreement", "judge"):
        raise InvalidCall(
            f"grader: {grader!r} is none for a backtest, which asks nobody and counts the answers that change anyway; "
            "verdicts that the run has count already",
            argument="grader",
        )
    old = loaded_of(policies, environment)
    _require(old, task)
    recorded, name = read_calls(recording, task), str(recording)
    _label(recorded, labels)
    with ExitStack() as stack:
        new = stack.enter_context(candidate.loaded(old, task, environment))
        _require(new, task)
        players = [
            stack.enter_context(prepared(task, recorded.rows, loaded=loaded, checks=checks, signals=signals, name=name))
            for loaded in (old, new)
        ]
        for player in players:
            _require_names(player.plan)
        settings = old.policy.tasks[task]
        check = task_check(settings, (checks or {}).get(task))
        marks = _Marks(build_grader(grader, settings.answer, check, tolerance=tolerance, fields=fields), grader is None)
        notes = [*_unseen_changes(old, new, task), *_other_rows(recorded, old, task)]
        if grader is None and any(call.verdicts for call in recorded.calls):
            notes.append("quality is what a judge said of the answers, not whether they are right")
        return _Sides(task, recorded, players, marks, settings.system, settings.cluster).result(notes)


def _require(loaded: Loaded, task: str) -> None:
    known = tuple(sorted(loaded.policy.tasks))
    if task not in known:
        where = f" in {loaded.source}" if loaded.source else ""
        raise UnknownTask(f"unknown task {task!r}{where}; {suggestion(task, known)}", task=task, known=known)


def _require_names(plan: Plan) -> None:
    """A recording knows models by their litellm names; two rungs of one name would get each other's answers."""
    rungs: dict[str, Rung] = {}
    for rung in plan.rungs:
        other = rungs.setdefault(rung.model.litellm, rung)
        if other.model != rung.model:
            raise PolicyError(
                f"{other.name!r} and {rung.name!r} are both {rung.model.litellm!r}, and a recording cannot tell them "
                "apart; a backtest needs a ladder without the two",
                where=f"tasks.{plan.task_name}.ladder",
            )


def _label(recorded: Calls, labels: Sequence[EvalRow]) -> None:
    if not labels:
        return
    known = {row.row_id: row.label for row in labels}
    found = [call for call in recorded.calls if prompt_id(call.prompt) in known]
    if not found:
        raise RecordingError(
            f"{recorded.path}: none of its prompts is among the {len(known):,} labelled ones; they must be equal to "
            "the last character",
            path=str(recorded.path),
            line=None,
        )
    for call in found:
        call.label = known[prompt_id(call.prompt)]


@dataclass(frozen=True, slots=True)
class _Marks:
    """How good answers are, as far as anybody knows."""

    grader: Grader
    recorded_count: bool

    def quality(self, call: RecordedCall, played: Played) -> float | None:
        """0 to 1; a labelled call without an answer is worth nothing."""
        if call.label is None and not (self.recorded_count and call.is_marked):
            return None
        if played.answer is None:
            return 0.0
        if self.recorded_count and played.row is not None:
            if (mark := recorded_mark(played.row)) is not None:
                return mark
            by = played.row.get("grader")
            if by == "judge":
                name = str(played.row.get("name"))
                return 0.0 if played.row.get("worthless") else call.verdicts.get(name)
            if by in ("own", "disagreement"):  # No label was graded by these.
                return None
        return None if call.label is None else self.grader.grade(played.answer.text, call.label)


@dataclass(frozen=True, slots=True)
class _Sides:
    """Two players and what they play."""

    task: str
    recorded: Calls
    players: Sequence[Player]
    marks: _Marks
    system: str | None
    cluster: str | None

    def result(self, notes: Sequence[str]) -> Backtest:
        calls = self.recorded.calls
        played = [[player.play(call, self.system) for call in calls] for player in self.players]
        pairs = list(zip(calls, *played, strict=True))
        self._require_models([(before, after) for _, before, after in pairs])
        left_out = [one for call, before, after in pairs if (one := _left_out(call, before, after))]
        out = {one.call for one in left_out}
        used = [pair for pair in pairs if pair[0].name not in out]
        if not used:
            raise self._error(f"cannot tell anything of this candidate: {left_out[0].why}, in each of its calls")
        old, new = self.players
        outcomes = [
            (call, self._outcome(call, before, old), self._outcome(call, after, new)) for call, before, after in used
        ]
        changed = [
            Changed(call.name, call.line, call.feature, before, after)
            for call, before, after in outcomes
            if before.said != after.said
        ]
        columns = [(self._unit(call), call.feature, before, after) for call, before, after in outcomes]
        total, features = compared(columns, same=_same(old.plan, new.plan))
        return Backtest(
            task=self.task,
            recording=self.recorded.path,
            calls=len(calls),
            in_force=_side(old.plan),
            candidate=_side(new.plan),
            total=total,
            features=features,
            changed=tuple(changed),
            left_out=tuple(left_out),
            notes=(*self._problems(), *notes),
        )

    def _problems(self) -> list[str]:
        """Why a tuned plan is not followed, or soon will not be; a call may have found that out."""
        sides = zip(("what is in force", "the candidate"), self.players, strict=True)
        found = [(side, player.router.plan(self.task).standing.problem) for side, player in sides]
        return [f"{side}: {problem}" for side, problem in found if problem]

    def _outcome(self, call: RecordedCall, played: Played, player: Player) -> Outcome:
        answer = played.answer
        said: Any = None
        if answer is not None:
            said = canonical(answer.parsed) if answer.parsed is not None else answer.text.strip()
        return Outcome(
            model=answer.model if answer else None,
            said=said,
            cost_nusd=played.cost_nusd,
            latency_ms=played.latency_ms,
            quality=self.marks.quality(call, played),
            escalated=climbed(played.attempts, player.plan.first),
        )

    def _unit(self, call: RecordedCall) -> Any:
        """What calls err together by: their cluster, else their prompt."""
        value = None if self.cluster is None else call.value(self.cluster)
        return prompt_id(call.prompt) if value is None else ("cluster", canonical(value))

    def _require_models(self, pairs: Sequence[tuple[Played, Played]]) -> None:
        """A model that the recording has no answer of at all is named at once."""
        for at, side in enumerate(("what is in force", "the candidate")):
            misses = [pair[at].missing for pair in pairs]
            absent = [miss for miss in misses if miss is not None and miss.model not in self.recorded.models]
            if absent:
                model = absent[0].model
                there = ", ".join(sorted(self.recorded.models)[:12])
                asked = sum(miss.model == model for miss in absent)
                raise self._error(
                    f"holds no answer of {model!r}, which {side} asks in {asked:,} of {len(pairs):,} calls; it has "
                    f"answers of {there}. Record that model on these prompts (`router eval` asks every model of a "
                    "ladder), or try a plan that does not ask it"
                )

    def _error(self, problem: str) -> RecordingError:
        return RecordingError(f"{self.recorded.path}: {problem}", path=str(self.recorded.path), line=None)


def _left_out(call: RecordedCall, before: Played, after: Played) -> LeftOut | None:
    if call.has_tools:
        return LeftOut(call.name, call.line, "a model called tools, and which it was offered is not recorded", None)
    miss = before.missing or after.missing
    if miss is None:
        return None
    hint = str(miss).partition("; ")[2]
    return LeftOut(call.name, call.line, f"no answer of {miss.model!r} is recorded ({hint})", miss.model)


def _side(plan: Plan) -> Side:
    return Side(plan.standing.force, plan_in_words(plan))


def _same(old: Plan, new: Plan) -> bool:
    """Whether two plans do the same with every call, whatever it is."""
    return (old.task, old.rungs, old.group, old.groups) == (new.task, new.rungs, new.group, new.groups)


def _unseen_changes(old: Loaded, new: Loaded, task: str) -> list[str]:
    """Where the candidate would ask a model something else than what was recorded."""
    then, now = bound(old, task), bound(new, task)
    names = {model["litellm"]: name for name, model in then["models"].items()}
    notes = []
    for name, model in now["models"].items():
        if model["litellm"] in names:
            before, after = row_binding(then, names[model["litellm"]]), row_binding(now, name)
            if parts := [part for part in changed_rows(before, after) if part in _UNSEEN]:
                notes.append(
                    f"the candidate asks {name!r} with other {' and '.join(parts)} than were in force: its recorded "
                    "answers may not be what it would say"
                )
    return notes


def _other_rows(recorded: Calls, old: Loaded, task: str) -> list[str]:
    notes = []
    if recorded.other_tasks:
        count, there = sum(recorded.other_tasks.values()), ", ".join(sorted(recorded.other_tasks)[:12])
        notes.append(f"{count:,} rows of other tasks are left out: {there}")
    now = bound(old, task)
    parts = {
        part
        for row in recorded.rows
        if isinstance(row.get("bound"), Mapping) and row.get("name") in now["models"]
        for part in changed_rows(row["bound"], row_binding(now, row["name"]))
        if part in _UNSEEN
    }
    if parts:
        notes.append(f"the run was answered with other {' and '.join(sorted(parts))} than are in force now")
    return notes
