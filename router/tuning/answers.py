"""From an answered call to a row of a run: the columns of a recording, the signals, and what the provider served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from router.core.answer import Answer, costs
from router.core.call import Call, Outcome, Reply
from router.core.faults import FAULTS
from router.core.policy import Model
from router.core.pricing import usd
from router.errors import NoAnswer
from router.models import Backend, Facts, origin
from router.models.recording import logprob_column
from router.models.replay import outcome_of

Row = dict[str, Any]

_heard: ContextVar[list[Outcome] | None] = ContextVar("router_eval_heard", default=None)


class Tap:
    """A backend that passes everything through, and lets who asked hear what came back."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.origin = "replay" if origin(inner) == "replay" else "eval"

    @contextmanager
    def listening(self) -> Iterator[list[Outcome]]:
        """Every outcome of the calls that this thread or task makes within the block."""
        heard: list[Outcome] = []
        token = _heard.set(heard)
        try:
            yield heard
        finally:
            _heard.reset(token)

    def facts(self, model: Model) -> Facts:
        return self._inner.facts(model)

    def count_tokens(self, call: Call) -> int:
        return self._inner.count_tokens(call)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        return _note(self._inner.send(call, timeout_s))

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        return _note(await self._inner.asend(call, timeout_s))


def _note(outcome: Outcome) -> Outcome:
    heard = _heard.get()
    if heard is not None:
        heard.append(outcome)
    return outcome


def answer_row(answer: Answer, outcomes: list[Outcome]) -> Row:
    """The row of an answer; a replay of it gives the same signals and the same cost."""
    last = answer.attempts[-1]
    reply = next(outcome for outcome in reversed(outcomes) if isinstance(outcome, Reply))
    row: Row = {
        "response": answer.text,
        "answer": answer.parsed,
        "cost_usd": answer.cost_usd,
        "latency_s": round(last.latency_ms / 1000, 6),
        "finish_reason": answer.finish_reason,
        "model_served": last.model_served,
        "attempts": len(answer.attempts),
        "signals": dict(answer.steps[-1].signals),
    }
    if reply.usage is not None:
        # The signals count output without reasoning, so a replay must too.
        row["input_tokens"] = reply.usage.all_input_tokens
        row["output_tokens"] = reply.usage.output_tokens
        row["reasoning_tokens"] = reply.usage.reasoning_tokens
    if logprob := logprob_column(reply):
        row["logprob"] = logprob
    return row


def failed_row(error: NoAnswer) -> Row:
    """The row of a call that gave no answer."""
    last = error.attempts[-1] if error.attempts else None
    fault = last.fault if last else None
    return {
        "error": {"fault": str(fault) if fault else "cost_limit", "status": last.status if last else None},
        "cost_usd": usd(costs(error.attempts).nusd),
        "attempts": len(error.attempts),
    }


def is_final(row: Mapping[str, Any]) -> bool:
    """Whether asking again would give the same: an answer, or a fault that is the request's and not the moment's.

    A judge's reply that is no verdict is asked for again.
    """
    error = row.get("error")
    if error is None:
        return not is_verdict(row) or row.get("quality") is not None
    fault = error.get("fault") if isinstance(error, Mapping) else error
    return fault in FAULTS and not FAULTS[fault].retry and not FAULTS[fault].lasting


def is_verdict(row: Mapping[str, Any]) -> bool:
    """Whether a row is what a judge said of an answer, and no answer itself."""
    return row.get("judges") is not None


def is_question(row: Mapping[str, Any]) -> bool:
    """Whether a row is what was said about a draft, and no draft itself."""
    return row.get("about") is not None


def reply_of(row: Mapping[str, Any]) -> Reply | None:
    """The reply of a row that has a text."""
    if row.get("response") is None:
        return None
    found = outcome_of({**row, "model_served": None})
    return found if isinstance(found, Reply) else None
