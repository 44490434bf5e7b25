"""From a file to an eval run: what `router eval` wrote, a recording with labels, or plain columns of marks.

`load_run` reads a file for a task of the policies, and sees each answer as production sees it. `load_columns` needs no
policy: it takes the models by the names that the file has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router.core.binding import changed_rows, row_binding
from router.core.call import Reply, text_of, texts, to_messages
from router.core.checks import Check, Verdict, build_check
from router.core.comparing import canonical
from router.core.evidence import read_evidence
from router.core.ladder import kind_of, model_of, panels
from router.core.params import suggestion
from router.core.policy import AnswerKind, Policy, TextAnswer
from router.core.pricing import NUSD_PER_USD
from router.core.signals import FREE_SIGNALS, OwnSignal, draft_text, read_own, read_signals
from router.core.views import View
from router.errors import RecordingError, TuningError, UnknownTask
from router.models.replay import outcome_of
from router.own_signals import OwnSignals, guarded_signals, is_own, is_value
from router.resolve import bound, task_check
from router.spec import Loaded, adopt, load
from router.tuning.answers import is_final, is_question, is_verdict, reply_of
from router.tuning.columns import Cell, Columns
from router.tuning.graders import Grader, build_grader, recorded_mark
from router.tuning.judged import Answered, Judged
from router.tuning.questions import Questioned, askings
from router.tuning.rows import prompt_id
from router.tuning.runfile import changed_since, read_run
from router.tuning.runs import EvalRun, LabelSource

Row = Mapping[str, Any]

_SELF_CHECK = "selfcheck_cost_usd"


def load_run(
    path: str | Path,
    task: str,
    *,
    policies: str | Path | Policy | Loaded | None = None,
    environment: str | None = None,
    checks: Mapping[str, Callable[[Any], bool]] | None = None,
    signals: OwnSignals | None = None,
    grader: str | Callable[[str, Any], float] | None = None,
    tolerance: float = 0.0,
    fields: Sequence[str] = (),
    min_rows: int = 1,
) -> EvalRun:
    """The eval run of a task, from what `router eval` wrote or from a recording with labels.

    A grade that the file has counts, unless a `grader` is named: then every answer is graded anew. Of the application's
    own `signals` what the file has counts, too; the others are read off its texts.

    Raises
    ------
    RecordingError
        The file cannot be read, or a row has no label: names the line.
    TuningError
        The run is of other models or of another policy, has too few whole rows, no costs, or nothing to tell apart.
    """
    if isinstance(policies, Loaded):
        loaded = policies
    else:
        loaded = adopt(policies) if isinstance(policies, Policy) else load(policies, environment=environment)
    if task not in loaded.policy.tasks:
        known = tuple(sorted(loaded.policy.tasks))
        raise UnknownTask(f"unknown task {task!r}; {suggestion(task, known)}", task=task, known=known)
    if not Path(path).exists():
        raise RecordingError(
            f"{path}: there is no eval run; make one with `router eval {task} --data FILE`, or name it with --run",
            path=str(path),
            line=None,
        )
    settings, own = loaded.policy.tasks[task], (checks or {}).get(task)
    binds_to = bound(loaded, task, own_check=own is not None)
    check = task_check(settings, own)
    drafting = tuple(key for key in binds_to["ladder"] if kind_of(key) is None)
    reader = _Reader(
        Path(path),
        names=drafting,
        litellm={loaded.policy.models[model_of(key)].litellm: key for key in reversed(drafting)},
        check=check,
        grader=build_grader(grader, settings.answer, check, tolerance=tolerance, fields=fields),
        regrade=grader not in (None, "judge"),
        system=settings.system,
        cluster=settings.cluster,
        group=settings.group,
        bound=binds_to,
        own=guarded_signals(signals),
        agree_on=settings.agree_on,
        questions=Questioned(askings(task, settings)),
    )
    return replace(reader.read(task, min_rows), panels=panels(settings.ladder))


def load_columns(
    path: str | Path,
    models: Sequence[str],
    *,
    task: str | None = None,
    answer: AnswerKind | None = None,
    grader: str | Callable[[str, Any], float] | None = None,
    cluster: str | None = None,
    group: str | None = None,
    min_rows: int = 1,
) -> EvalRun:
    """An eval run from a table of recorded answers or marks, for the models with these names, cheapest first.

    The file is JSON lines in the columns of a recording, with `correct`, `score` or a `reference`; `task` keeps the
    rows of one task only. `cluster` and `group` are columns, or keys of a row's `meta`.
    """
    kind = answer or AnswerKind(text=TextAnswer())
    check = build_check(kind)
    reader = _Reader(
        Path(path),
        names=tuple(models),
        litellm={model: model for model in models},
        check=check,
        grader=build_grader(grader, kind, check),
        regrade=grader is not None,
        only=task,
        cluster=cluster,
        group=group,
    )
    return reader.read(task or Path(path).parent.name, min_rows)


@dataclass
class _Reader:
    """Reads one file into columns."""

    path: Path
    names: tuple[str, ...]
    litellm: Mapping[str, str]
    """Names in the policy by the names that the file may have."""
    check: Check
    grader: Grader
    regrade: bool
    system: str | None = None
    only: str | None = None
    cluster: str | None = None
    group: str | None = None
    agree_on: Sequence[str] = ()
    bound: Mapping[str, Any] | None = None
    """What the policy binds to; `None` for plain columns, whose signals are whatever they have."""
    own: Mapping[str, OwnSignal] = field(default_factory=dict)
    own_seen: set[str] = field(default_factory=set)
    served: dict[str, set[str]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    graders: set[str] = field(default_factory=set)
    failed: int = 0
    texts: dict[tuple[int, int], str] = field(default_factory=dict)
    """Of a run without labels, every model's answer by row."""
    repeats: list[tuple[int, str]] = field(default_factory=list)
    """The top model's second answers."""
    judged: Judged = field(default_factory=Judged)
    questions: Questioned = field(default_factory=Questioned)

    def read(self, task: str, min_rows: int) -> EvalRun:
        columns = Columns(self.names, [one.key for one in self.questions.askings])
        refused: set[str] = set()
        for line, row in self._rows():
            if row.get("refused"):
                refused.add(str(row["prompt_id"]))
                continue
            self._add(columns, line, row)
        if missing := [name for name in self.names if name not in self.asked]:
            raise TuningError(self._no_models(missing), needed=min_rows)
        provenance = self._provenance(refused)
        if self.texts:
            provenance["self_disagreement"] = self._compare_with_top(columns)
        source: LabelSource = "disagreement" if self.texts else "labels"
        if self.judged.answers:
            source, provenance["judge"] = "judge", self.judged.grade(columns, self.names)
        self.questions.put(columns)
        found = columns.run(task, label_source=source, provenance=provenance, min_rows=min_rows)
        return replace(found, own_signals=frozenset(self.own_seen))

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """The rows of the ladder's models, without questions that an earlier session got no answer to."""
        answered: set[tuple[str, str, bool]] = set()
        open_rows: dict[tuple[str, str, bool], tuple[int, Row]] = {}
        for line, row in read_run(self.path):
            if is_verdict(row):
                self.judged.add(self._key(row, line), row)
                continue
            if is_question(row) and self.questions.asks(row):
                self._require_binding(line, row["name"], row)
                self.questions.add(self._key(row, line), row, self.served)
                continue
            name = row.get("name") if row.get("name") in self.names else self.litellm.get(row["model"])
            if name is None:
                self.others.add(str(row.get("name") or row["model"]))
                continue
            if self.only is not None and row.get("task") != self.only:
                continue
            self._require_binding(line, name, row)
            row = {**row, "name": name}
            key = (self._key(row, line), name, bool(row.get("repeat")))
            if row.get("error") is not None and not is_final(row):
                open_rows[key] = (line, row)
                continue
            if key in answered:
                raise self._fault(line, f"answers a prompt of {name!r} a second time; delete one of the rows")
            answered.add(key)
            open_rows.pop(key, None)
            yield line, row

    def _add(self, columns: Columns, line: int, row: Row) -> None:
        label = row.get("label", row.get("reference"))
        at = columns.row(
            self._key(row, line),
            row_id=self._prompt_id(row, line) if row.get("prompt") else self._key(row, line),
            label=label,
            cluster=self._metadata(line, row, self.cluster, "cluster"),
            group=self._metadata(line, row, self.group, "group"),
            prompt_chars=self._prompt_chars(row),
            prompt=self._prompt(row),
        )
        name = row["name"]
        if row.get("repeat"):
            self.repeats.append((at, str(row.get("response") or "")))
            return
        model = self.names.index(name)
        self.asked.add(name)
        columns.add(at, model, self._cell(line, row, label))
        self.questions.drafted(self._key(row, line), at, row, self.check, self.system)
        if row.get("grader"):
            self.graders.add(str(row["grader"]))
        if row.get("error") is not None:
            return
        self.served.setdefault(model_of(name), set()).add(str(row.get("model_served") or row["model"]))
        if self._by_judge(row):
            by_label = None if label is None else self.grader.grade(str(row.get("response") or ""), label)
            self.judged.answers[self._key(row, line), name] = Answered(at, model, bool(row.get("worthless")), by_label)
        elif self._without_label(row):
            self.texts[at, model] = str(row.get("response") or "")

    def _compare_with_top(self, columns: Columns) -> dict[str, Any]:
        """Grade every answer by the top model's, and the top model's second answers by its first ones."""
        top = len(self.names) - 1
        for (at, model), text in self.texts.items():
            if (at, top) in self.texts:
                columns.grade(at, model, 1.0 if model == top else self.grader.grade(text, self.texts[at, top]))
        again = [self.grader.grade(text, self.texts[at, top]) for at, text in self.repeats if (at, top) in self.texts]
        return {"rows": len(again), "share": 1.0 - sum(again) / len(again) if again else None}

    def _cell(self, line: int, row: Row, label: Any) -> Cell:
        cost, latency = row.get("cost_usd"), row.get("latency_s")
        cost_nusd = math.nan if cost is None else round(cost * NUSD_PER_USD)
        latency_ms = math.nan if latency is None else latency * 1000.0
        if row.get("error") is not None:  # No answer to grade; tuning counts it against the plan.
            self.failed += 1
            return Cell(math.nan, 0.0 if cost is None else cost_nusd, latency_ms, math.nan, None, {"invalid": 1.0})
        verdict = self._verdict(row)
        signals = {**self._signals(row, verdict), **self._own_signals(row)}
        # Production makes no self-check and finds answers itself; plain columns have both as they were recorded.
        check_usd = (row.get("meta") or {}).get(_SELF_CHECK) if self.bound is None else None
        recorded = "answer" in row and (self.bound is None or "bound" in row)
        found = row["answer"] if recorded else verdict.value if verdict.valid else None
        return Cell(
            self._quality(line, row, label),
            cost_nusd,
            latency_ms,
            math.nan if check_usd is None else check_usd * NUSD_PER_USD,
            canonical(found, self.agree_on),
            signals,
            draft_text(reply) if (reply := reply_of(row)) else None,
        )

    def _quality(self, line: int, row: Row, label: Any) -> float:
        if self._without_label(row) or self._by_judge(row):
            return math.nan
        try:
            mark = None if self.regrade else recorded_mark(row)
        except ValueError as problem:
            raise self._fault(line, f"has {problem}") from None
        if mark is not None:
            return mark
        if row.get("grader") == "own" and not self.regrade:
            raise self._fault(line, "has no grade, because your own grader failed on it; grade anew with `grader=`")
        if label is None or row.get("response") is None:
            raise self._fault(
                line,
                "has neither a mark (`quality`, `correct`, `score`) nor a `label` to grade the answer with; add one, "
                "or grade with `judge` or `disagreement`",
            )
        return self.grader.grade(row["response"], label)

    def _without_label(self, row: Row) -> bool:
        """Whether the top model's answer stands in for the label."""
        return self.grader.without_labels or (not self.regrade and row.get("grader") == "disagreement")

    def _by_judge(self, row: Row) -> bool:
        """Whether a judge's verdict, which is a row of its own, is the grade."""
        return not self.regrade and (self.grader.asks_judge or row.get("grader") == "judge")

    def _verdict(self, row: Row) -> Verdict:
        if self.bound is None and "answer" in row and canonical(row["answer"]) is None:
            return Verdict(False, None, "has no answer in it")  # Whoever made the columns looked for one.
        return self.check(row["response"]) if isinstance(row.get("response"), str) else Verdict(True)

    def _signals(self, row: Row, verdict: Verdict) -> Mapping[str, float]:
        reply = reply_of(row)
        answer = verdict.value if verdict.valid else None
        closer = read_evidence(View(self._prompt(row) or ""), View(draft_text(reply)), reply, answer) if reply else {}
        if isinstance(row.get("signals"), dict):
            return closer | {name: float(row["signals"][name]) for name in row["signals"] if name in FREE_SIGNALS}
        own: dict[str, float] = {}
        whole = outcome_of({**row, "response": row.get("response") or "", "model_served": None})
        if isinstance(whole, Reply):
            chars = self._prompt_chars(row)
            own = read_signals(0 if math.isnan(chars) else int(chars), whole, verdict) | closer
        if reply is None:  # Marks without a text: nothing can be read off a text.
            known = {"output_tokens", "lp_mean", "lp_min", "lp_first"}
            own = {name: value for name, value in own.items() if name in known}
        if self.bound is None and row.get("conf") is not None:
            own["conf"] = float(row["conf"])
        return own

    def _own_signals(self, row: Row) -> Mapping[str, float]:
        """The application's own signals: those that the row has, and the others off its texts."""
        stored = row["signals"].items() if isinstance(row.get("signals"), dict) else ()
        found = {name: float(value) for name, value in stored if is_own(name) and is_value(value)}
        others = {name: read for name, read in self.own.items() if name not in found}
        if others and (reply := reply_of(row)):
            found |= read_own(others, self._prompt(row) or "", draft_text(reply))
        self.own_seen |= found.keys()
        return found

    def _prompt(self, row: Row) -> str | None:
        return text_of(to_messages(row["prompt"], row.get("system") or self.system)) if row.get("prompt") else None

    def _prompt_chars(self, row: Row) -> float:
        if not row.get("prompt"):
            return math.nan
        signals = row.get("signals")
        if isinstance(signals, dict) and "input_chars" in signals:
            return float(signals["input_chars"])
        return float(sum(map(len, texts(to_messages(row["prompt"], row.get("system") or self.system)))))

    def _metadata(self, line: int, row: Row, key: str | None, what: str) -> Any:
        if key is None:
            return None
        metadata = {**row, **(row.get("meta") or {}), **(row.get("metadata") or {})}
        if metadata.get(key) is None:
            raise self._fault(line, f"has no metadata {key!r}, which `{what}:` of the task names; add it")
        return metadata[key]

    def _key(self, row: Row, line: int) -> str:
        if row.get("prompt_id") is not None:
            return f"{row.get('task', '')}/{row['prompt_id']}"
        if not row.get("prompt"):
            raise self._fault(line, "has neither 'prompt_id' nor 'prompt'; add one")
        return self._prompt_id(row, line)

    def _prompt_id(self, row: Row, line: int) -> str:
        try:
            return prompt_id(row["prompt"])
        except ValueError as problem:
            raise self._fault(line, f"has a 'prompt' that {problem}") from None

    def _require_binding(self, line: int, name: str, row: Row) -> None:
        if self.bound is None or not isinstance(row.get("bound"), dict):
            return
        if other := changed_rows(row["bound"], row_binding(self.bound, name)):
            raise TuningError(changed_since(self.path, line, other), needed=0)

    def _fault(self, line: int, problem: str) -> RecordingError:
        return RecordingError(f"{self.path}:{line}: {problem}", path=str(self.path), line=line)

    def _no_models(self, missing: list[str]) -> str:
        there = ", ".join(sorted({*self.asked, *self.others})[:12]) or "no model"
        return (
            f"{self.path}: holds no answer of {', '.join(map(repr, missing))}; it has answers of {there}. Run "
            "`router eval` for this ladder, or name the run of it"
        )

    def _provenance(self, refused: set[str]) -> dict[str, Any]:
        return {
            "run": str(self.path),
            "served": {name: sorted(ids) for name, ids in sorted(self.served.items())},
            "grader": self.grader.name if self.regrade else ", ".join(sorted(self.graders)),
            "failed_answers": self.failed,
            "refused_rows": len(refused),
        }
