"""The calls of a recording: which rows belong to one call, what it asked, and what is known of its answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from router.core.call import to_messages
from router.errors import RecordingError
from router.models.recording import numbered_rows
from router.models.replay import key_of_row
from router.options import Prompt
from router.tuning.answers import is_final, is_question, is_verdict
from router.tuning.graders import recorded_mark

Row = Mapping[str, Any]


@dataclass(slots=True)
class RecordedCall:
    """One call, with the rows of every model that was asked."""

    name: str
    """Its `route_id`, else its task and `prompt_id`, else the line of its first row."""
    line: int
    """Of its first row."""
    prompt: Prompt
    system: str | None
    feature: str | None
    rows: list[Row]
    label: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    has_marks: bool = False
    """Whether some answer has a mark beside it."""
    verdicts: dict[str, float] = field(default_factory=dict)
    """What a judge said of answers, by the names of the models that gave them."""
    has_tools: bool = False
    """Whether some model called tools: which ones it was offered is not recorded."""

    @property
    def is_marked(self) -> bool:
        """Whether the recording says of some answer how good it is."""
        return self.has_marks or bool(self.verdicts)

    def value(self, key: str) -> Any:
        """What its metadata, or a column of its first row, says under this key; `None` where neither does."""
        return self.metadata.get(key, self.rows[0].get(key))

    def asked(self, system: str | None) -> Prompt:
        """What to give to `route` where the task in force has this system text; one of the call's own goes along."""
        if self.system is None or system is not None:
            return self.prompt
        return to_messages(self.prompt, self.system)


class Calls(NamedTuple):
    """A recording, call by call."""

    path: Path
    calls: tuple[RecordedCall, ...]
    """In the order of their first rows."""
    rows: tuple[Row, ...]
    models: Mapping[str, int]
    """Rows by the model that gave them."""
    other_tasks: Mapping[str, int]
    """Rows of other tasks, which are left out."""


def read_calls(path: str | Path, task: str | None, *, models: Collection[str] | None = None) -> Calls:
    """The calls of one task in a recording or an eval run, or of all; rows that name no task are of any.

    With `models` only the rows of these are read.

    Rows of one `route_id` are one call, as are those of one `prompt_id`. Where rows have neither, the n-th answers of
    the models to the same prompt are the n-th call of it.

    Raises
    ------
    RecordingError
        The file cannot be read, a row is broken, or none is of the task: names the line, or the tasks there are.
    """
    reader = _Reader(Path(path), task)
    for line, row in numbered_rows(path, models=models):
        reader.add(line, row)
    return reader.calls()


class _Reader:
    def __init__(self, path: Path, task: str | None) -> None:
        self._path = path
        self._task = task
        self._calls: dict[Any, RecordedCall] = {}
        self._rows: list[Row] = []
        self._answered: dict[Any, int] = {}
        self._models: dict[str, int] = {}
        self._others: dict[str, int] = {}

    def _add_about(self, call: RecordedCall | None, row: Row, mark: float | None) -> None:
        """What another model said about an answer: a grade, or what a panel asks."""
        if call is not None and is_question(row):
            call.rows.append(row)
            self._rows.append(row)
        elif call is not None and mark is not None:
            call.verdicts[str(row["judges"])] = mark

    def add(self, line: int, row: Row) -> None:
        task = row.get("task")
        if self._task is not None and task is not None and task != self._task:
            self._others[str(task)] = self._others.get(str(task), 0) + 1
            return
        # Of an eval run: second answers of the top model, and questions that a later session asked again.
        if row.get("repeat") or ("bound" in row and not is_final(row)):
            return
        try:
            mark = recorded_mark(row)
        except ValueError as problem:
            raise self._error(f"has {problem}", line) from None
        key = self._key(row)
        call = self._calls.get(key)
        if is_verdict(row) or is_question(row):  # Behind the answer that it is about.
            self._add_about(call, row, mark)
            return
        if call is None:
            name = str(key) if isinstance(key, str) else f"line {line}"
            feature = row.get("feature")
            feature = None if feature is None else str(feature)
            call = self._calls[key] = RecordedCall(name, line, row["prompt"], row.get("system"), feature, [])
        if _answers_again(call, row):
            raise self._error(f"answers a prompt of {row['model']!r} a second time; delete one of the rows", line)
        call.rows.append(row)
        self._rows.append(row)
        self._models[row["model"]] = self._models.get(row["model"], 0) + 1
        label = row.get("label", row.get("reference"))
        call.label = label if call.label is None else call.label
        call.has_marks |= mark is not None or bool(row.get("worthless"))
        call.has_tools |= bool(row.get("tool_calls"))
        for part in (row.get("meta"), row.get("metadata")):
            if isinstance(part, Mapping):
                call.metadata.update(part)

    def calls(self) -> Calls:
        if not self._calls:
            there = ", ".join(sorted(self._others)[:12])
            has = f"it has calls of {there}; name one of these" if there else "record some with `Router(record=...)`"
            what = "call" if self._task is None else f"call of task {self._task!r}"
            raise self._error(f"holds no {what}; {has}", None)
        return Calls(self._path, tuple(self._calls.values()), tuple(self._rows), self._models, self._others)

    def _key(self, row: Row) -> Any:
        """What the rows of one call share."""
        if row.get("route_id") is not None:
            return str(row["route_id"])
        if row.get("prompt_id") is not None:
            return f"{row.get('task', '')}/{row['prompt_id']}"
        key = key_of_row(row)
        number = self._answered.get(key, 0)
        if row.get("error") is None:
            self._answered[key] = number + 1
        return (*key[1:], number)

    def _error(self, problem: str, line: int | None) -> RecordingError:
        where = str(self._path) if line is None else f"{self._path}:{line}"
        return RecordingError(f"{where}: {problem}", path=str(self._path), line=line)


def _answers_again(call: RecordedCall, row: Row) -> bool:
    """Whether a row of a `prompt_id` answers what its model has answered; a panel's samples have names of their own."""
    if row.get("route_id") is not None or row.get("error") is not None:
        return False
    same = (row["model"], row.get("name"))
    return any((known["model"], known.get("name")) == same and known.get("error") is None for known in call.rows)
