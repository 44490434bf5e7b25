"""Graders: how good an answer is beside its label, 0 to 1.

A grader is a function of the answer's text and the label. The built-in ones read both through the task's own check, so
that an answer is found in an eval as it is found in production; an answer without a usable value is worth 0.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Never

from router.core.checks import Check
from router.core.params import suggestion
from router.core.policy import AnswerKind
from router.errors import InvalidCall, TuningError, isolated

Grade = Callable[[str, Any], float]
"""From an answer's text and its label to 0 (wrong) .. 1 (right)."""

GRADERS: dict[str, str] = {
    "exact": "1 when answer and label are the same text but for white space at the ends",
    "choice": "1 when the answer names the label, as the task's `choice:` finds it",
    "number": "1 when the answer's number is within `tolerance` of the label",
    "json": "share of the label's fields that the answer has with equal values; `fields` names the ones that count",
    "pattern": "1 when the label, a regular expression, matches somewhere in the answer",
    "f1": "overlap of the words of answer and label: the harmonic mean of precision and recall",
    "disagreement": "no labels: agreement with the top model's answer, which is not whether it is right",
    "judge": "no labels needed: what another model says of the answer, which is not whether it is right",
}

_MARKS = ("quality", "correct", "score")
_ROUNDING = 1e-9
_WORD = re.compile(r"\w+")
_MISSING = object()


class Grader(NamedTuple):
    """A grader with its name."""

    name: str
    grade: Grade

    @property
    def without_labels(self) -> bool:
        """Whether the top model's answer stands in for the label."""
        return self.name == "disagreement"

    @property
    def asks_judge(self) -> bool:
        """Whether another model's verdict stands in for the label."""
        return self.name == "judge"

    @property
    def reads_labels(self) -> bool:
        """Whether every row must have a label."""
        return not (self.without_labels or self.asks_judge)


def default_grader(kind: AnswerKind) -> str:
    """The grader that follows from what a usable answer looks like."""
    if kind.choice is not None:
        return "choice"
    if kind.number is not None:
        return "number"
    if kind.json is not None:
        return "json"
    return "exact" if kind.pattern is not None else "f1"


def build_grader(
    grader: str | Callable[[str, Any], float] | None,
    kind: AnswerKind,
    check: Check,
    *,
    tolerance: float = 0.0,
    fields: Sequence[str] = (),
) -> Grader:
    """The grader of a task.

    Parameters
    ----------
    grader
        A name of `GRADERS`, an own function of the answer's text and the label, or `None` for the one that follows
        from the answer kind.
    kind, check
        The task's answer kind and the check that was built from it.
    tolerance
        Of the grader `number`: the largest distance that still counts as right.
    fields
        Of the grader `json`: the fields that count, dots for nested ones; all fields of the label when empty.

    Raises
    ------
    InvalidCall
        No grader has this name, or the tolerance is no number of 0 or more.
    """
    if not math.isfinite(tolerance) or tolerance < 0:
        raise InvalidCall(f"tolerance: is {tolerance!r}; give a number of 0 or more", argument="tolerance")
    if callable(grader):
        return Grader("own", _own(grader))
    name = grader or default_grader(kind)
    if name not in GRADERS:
        raise InvalidCall(f"grader: unknown grader {name!r}; {suggestion(name, GRADERS)}", argument="grader")
    return Grader(name, _built_in(name, kind, check, tolerance, tuple(fields)))


def recorded_mark(row: Mapping[str, Any]) -> float | None:
    """The mark that a row of a recording has beside its answer, in the column `quality`, `correct` or `score`.

    Raises
    ------
    ValueError
        It is no mark; says what is wrong with it.
    """
    mark = next((row[name] for name in _MARKS if row.get(name) is not None), None)
    if mark is None:
        return None
    if not isinstance(mark, int | float) or not 0.0 <= mark <= 1.0:
        raise ValueError(f"the mark {mark!r:.60}; a mark is a number from 0 (wrong) to 1 (right)")
    return float(mark)


def _built_in(name: str, kind: AnswerKind, check: Check, tolerance: float, fields: tuple[str, ...]) -> Grade:
    if name in ("disagreement", "judge"):
        # What would count as right counts as the same; free text is the same in as far as its words are. A judge is
        # compared with it where there are labels, too.
        return _built_in(default_grader(kind), kind, check, tolerance, fields)
    found: dict[str, Grade] = {
        "exact": lambda text, label: float(_plain(text) == _plain(label)),
        "choice": lambda text, label: _equal_values(check, text, label),
        "number": lambda text, label: _near(check, text, label, tolerance),
        "json": lambda text, label: _fields_right(check, text, label, fields),
        "pattern": lambda text, label: float(re.search(str(label), text) is not None),
        "f1": lambda text, label: token_f1(text, str(label)),
    }
    return found[name]


def _own(function: Callable[[str, Any], float]) -> Grade:
    def grade(text: str, label: Any) -> float:
        value: float = isolated(lambda: float(function(text, label)), _ungraded)
        if not 0.0 <= value <= 1.0:
            raise TuningError(f"grader: gave {value}; a grade is a number from 0 (wrong) to 1 (right)", needed=0)
        return value

    return grade


def _ungraded(error: Exception) -> Never:
    raise TuningError(
        f"grader: your own grader failed ({type(error).__name__}: {error!s:.200}); mend it, then grade anew with "
        "`grader=` of `tune_task`: answers are kept",
        needed=0,
    ) from error


def _plain(value: Any) -> str:
    return unicodedata.normalize("NFC", str(value)).strip()


def _equal_values(check: Check, text: str, label: Any) -> float:
    verdict, wanted = check(text), check(str(label))
    return float(verdict.valid and wanted.valid and verdict.value == wanted.value)


def _near(check: Check, text: str, label: Any, tolerance: float) -> float:
    value, wanted = check(text).value, number_of(label)
    if not isinstance(value, float) or wanted is None:
        return 0.0
    return float(math.isclose(value, wanted, rel_tol=_ROUNDING, abs_tol=tolerance))


def number_of(label: Any) -> float | None:
    """A label as a number, or `None` when it is none."""
    try:
        value = float(str(label).replace(",", "").strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _fields_right(check: Check, text: str, label: Any, fields: tuple[str, ...]) -> float:
    verdict = check(text)
    wanted = json_label(label)
    names = (fields or tuple(wanted)) if isinstance(wanted, Mapping) else ()
    if not verdict.valid or not names:
        return float(verdict.valid and bool(verdict.value == wanted))
    pairs = [(_field(wanted, name), _field(verdict.value, name)) for name in names]
    right = [bool(one == other) and one is not _MISSING for one, other in pairs]
    return sum(right) / len(names)


def json_label(label: Any) -> Any:
    """A label as JSON: parsed where it is text that is JSON, else as it is."""
    if not isinstance(label, str):
        return label
    try:
        return json.loads(label)
    except (ValueError, RecursionError):
        return label


def _field(value: Any, name: str) -> Any:
    """A field by its dotted name, or the mark of a missing one."""
    for part in (name,) if isinstance(value, Mapping) and name in value else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def token_f1(text: str, label: str) -> float:
    """How far two texts have the same words, whatever their order, case and punctuation."""
    said, wanted = (Counter(_WORD.findall(one.casefold())) for one in (text, label))
    common = sum((said & wanted).values())
    if not common:
        return float(not said and not wanted)
    return 2 * common / (sum(said.values()) + sum(wanted.values()))
