"""What can go wrong, as one small tree: catch `RouterError` for everything, or a branch for one cause.

    RouterError
    ├── PolicyError (also ValueError)
    ├── UnknownTask (also LookupError)
    ├── InvalidCall (also ValueError)
    ├── InvalidUsage (also ValueError)
    ├── NoAnswer
    │   ├── RequestRefused
    │   ├── ContentFiltered
    │   ├── DeadlineExceeded
    │   ├── CostLimitExceeded
    │   ├── BudgetExceeded
    │   ├── StreamInterrupted
    │   └── LadderExhausted
    ├── LedgerError
    ├── UnknownRoute (also LookupError)
    ├── InvalidFile (also ValueError)
    ├── StateError
    ├── RecordingError (also ValueError)
    │   └── ReplayMiss (also LookupError)
    ├── TuningError
    └── NetworkForbidden
    RouterWarning (a UserWarning)

Low confidence is not an error: it is an `Answer` that says so. Errors are for "no answer".
Every error keeps its fields as attributes, survives pickling, and says what is wrong, where, and what to do.
No message carries a prompt, a key or a provider's own words.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.core.answer import Attempt


class RouterError(Exception):
    """Anything this library raises on purpose."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self._fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword fields are not in `args`, so the default reduction would lose them between processes.
        return (_rebuild, (type(self), self.args[0], self._fields))


def _rebuild(kind: type[RouterError], message: str, fields: dict[str, Any]) -> RouterError:
    error = kind.__new__(kind)
    RouterError.__init__(error, message, **fields)
    return error


class PolicyError(RouterError, ValueError):
    """A policy or tuned file cannot be used; `path`, `line` and `where` locate the fault."""

    path: str | None
    line: int | None
    where: str
    others: tuple[str, ...]
    """Further faults that were found, each a whole message."""

    def __init__(
        self,
        problem: str,
        *,
        path: str | None = None,
        line: int | None = None,
        where: str = "",
        others: tuple[str, ...] = (),
    ) -> None:
        place = ":".join(str(part) for part in (path, line) if part is not None)
        message = ": ".join(part for part in (place, where, problem) if part)
        super().__init__("\n".join((message, *others)), path=path, line=line, where=where, others=others)


class UnknownTask(RouterError, LookupError):
    """The policies name no such task; `task` is what was asked and `known` what there is."""

    task: str
    known: tuple[str, ...]


class InvalidCall(RouterError, ValueError):
    """An argument of `route` cannot be used; `argument` names it. Nothing was sent."""

    argument: str


class InvalidUsage(RouterError, ValueError):
    """A vendor's usage object, or what was told about it, holds what cannot be; `field` names it, `value` is it."""

    field: str
    value: str


class NoAnswer(RouterError):
    """The call ended without an answer; `attempts` holds what was tried and what it cost."""

    route_id: str
    task: str
    attempts: tuple[Attempt, ...]


class RequestRefused(NoAnswer):
    """A provider called the request itself invalid (400 or 422), so no other model was asked.

    `provider_message` holds the provider's own words. They may repeat the prompt, so they are never logged or printed.
    """

    status: int | None
    provider_message: str


class ContentFiltered(NoAnswer):
    """A provider's content filter stopped the request and the task says `on_filter: raise`."""


class DeadlineExceeded(NoAnswer):
    """The call's deadline passed before any usable answer; `deadline_s` is what it was."""

    deadline_s: float


class CostLimitExceeded(NoAnswer):
    """The next request could cost more than the call may; `limit_usd`, `spent_usd` and `needed_usd` say how much."""

    limit_usd: float
    spent_usd: float | None
    needed_usd: float | None


class BudgetExceeded(NoAnswer):
    """A budget that calls share has no room for the next request, or nothing bounds what that can cost.

    `budget` is its name in the policy, `key` whose it is (a user's fingerprint), `window` a minute, hour, day or month.
    `limit`, `spent` (held included) and `needed` are dollars or escalations; `needed` is `None` without any bound.
    """

    budget: str
    key: str
    window: str
    limit: float
    spent: float | None
    needed: float | None
    resets_at: str | None


class StreamInterrupted(NoAnswer):
    """A live answer broke off after its first part; `partial_text` is what had arrived, `attempts` what it cost."""

    partial_text: str


class LadderExhausted(NoAnswer):
    """No rung gave a usable answer: each failed, or gave a draft that the task's answer kind refuses."""


class LedgerError(RouterError):
    """The ledger cannot be written or read; `path` is the file."""

    path: str


class UnknownRoute(RouterError, LookupError):
    """The ledger holds no such call; `route_id` is what was asked and `known` the ids that begin with it."""

    route_id: str
    known: tuple[str, ...]


class InvalidFile(RouterError, ValueError):
    """A file that was given to an audit cannot be used; `path` and `line` locate the fault. Nothing was counted."""

    path: str
    line: int | None


class StateError(RouterError):
    """Budgets, or answers for their idempotency keys, cannot be kept; `path` is the folder. Nothing was sent."""

    path: str


class RecordingError(RouterError, ValueError):
    """A recording cannot be read or begun; `path` and `line` locate the fault."""

    path: str
    line: int | None


class ReplayMiss(RecordingError, LookupError):
    """The recording holds no answer of `model` to this prompt."""

    model: str


class TuningError(RouterError):
    """The data cannot carry what was asked of it; `needed` says how much would."""

    needed: int


class NetworkForbidden(RouterError):
    """A real model was about to be asked inside `router.testing.no_network()`."""


class RouterWarning(UserWarning):
    """Something works but is not as it should be: a rung that fails, a ledger that cannot be written."""


def shown(value: Any, most_chars: int = 60) -> str:
    """A value in a message: as Python writes it, and cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # A whole number with more digits than Python is willing to write.
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= most_chars else f"{text[:most_chars]}…"


def warn(message: str) -> None:
    """Warn at the line of the caller's own code.

    Neither a filter that makes warnings errors nor a hook that shows them may take a paid answer away.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("router."):
        level, frame = level + 1, frame.f_back
    # Two more frames: the lambda, and what calls it.
    isolated(lambda: warnings.warn(message, RouterWarning, stacklevel=level + 2), lambda _: None)


def isolated(call: Callable[[], Any], on_failure: Callable[[Exception], Any]) -> Any:
    """What a piece of the application's own code returns, or what is made of its exception."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - the one place that isolates the application's own code
        return on_failure(error)
