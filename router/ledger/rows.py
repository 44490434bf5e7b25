"""The rows of the ledger: an intent before each request, a settle after it, one route row at the end of a call.

Amounts are integer nano-US-dollars, written as strings so that no JSON reader rounds them. A value that is not
known is `null`, never 0. `docs/ledger.md` describes every field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.core.answer import Attempt, Step, climbed, costs
from router.core.call import Usage
from router.core.effects import Ask, Finish
from router.core.pricing import usd
from router.ledger.lines import PRODUCTION

SCHEMA_VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trace:
    """Who and what a call belongs to; user, session and prompt are keyed fingerprints."""

    route_id: str
    task: str
    policy_hash: str
    plan_hash: str | None
    prompt: str | None
    prefixes: tuple[str, ...]
    feature: str | None = None
    user: str | None = None
    tenant: str | None = None
    session: str | None = None
    metadata: Mapping[str, Any] | None = None
    origin: str = PRODUCTION

    def recorded(self) -> Row:
        """What every row of the call's recording carries."""
        metadata = dict(self.metadata) if self.metadata else None
        return {"task": self.task, "route_id": self.route_id, "feature": self.feature, "metadata": metadata}

    def fields(self) -> Row:
        """What every row of the call carries."""
        return {
            "route_id": self.route_id,
            "origin": self.origin,
            "task": self.task,
            "feature": self.feature,
            "user": self.user,
            "tenant": self.tenant,
            "session": self.session,
            "policy_hash": self.policy_hash,
            "plan_hash": self.plan_hash,
            "prompt_fp": self.prompt,
            "prefix_fps": self.prefixes,
        }


def intent_row(trace: Trace, ask: Ask, attempt_id: str, number: int, time_s: float) -> Row:
    """A request is about to leave; it can cost at most `upper_nusd`."""
    return {
        "v": SCHEMA_VERSION,
        "kind": "intent",
        "time_s": time_s,
        "attempt_id": attempt_id,
        **trace.fields(),
        "rung": ask.rung,
        "number": number,
        "model": ask.call.name,
        "model_asked": ask.call.model.litellm,
        "upper_nusd": _text(ask.upper_nusd),
        **({"purpose": ask.purpose} if ask.purpose else {}),
    }


def settle_row(attempt: Attempt, time_s: float) -> Row:
    """How a request ended and what it cost."""
    usage = attempt.usage or Usage()
    return {
        "v": SCHEMA_VERSION,
        "kind": "settle",
        "time_s": time_s,
        "attempt_id": attempt.attempt_id,
        "model_served": attempt.model_served,
        "fault": attempt.fault,
        "status": attempt.status,
        "state": attempt.amount.state,
        "cost_nusd": _text(attempt.amount.nusd),
        "upper_nusd": _text(attempt.amount.upper_nusd),
        "cost_source": attempt.amount.source,
        "price_source": attempt.price_source,
        "service_tier": attempt.service_tier or None,
        "usage_source": attempt.usage_source,
        **{name: getattr(usage, name) for name in Usage.__slots__},
        # A backend may bring a latency of its own, and JSON has no NaN.
        "latency_ms": round(attempt.latency_ms, 3) if math.isfinite(attempt.latency_ms) else None,
        "first_token_ms": None if attempt.first_token_ms is None else round(attempt.first_token_ms, 3),
    }


def route_row(trace: Trace, finish: Finish, time_s: float, latency_ms: float) -> Row:
    """How a call ended: every step with its reason, and the answer's cost where there is one."""
    answer = finish.answer
    spent = costs(finish.attempts)
    return {
        "v": SCHEMA_VERSION,
        "kind": "route",
        "time_s": time_s,
        **trace.fields(),
        "outcome": finish.outcome,
        "model": answer.model if answer else None,
        "rung": answer.rung if answer else None,
        "escalated": climbed(finish.attempts, finish.first_rung),
        "confidence": answer.confidence if answer else None,
        "confidence_source": answer.confidence_source if answer else None,
        "cost_nusd": _text(spent.nusd),
        "upper_nusd": _text(spent.upper_nusd),
        "marginal_nusd": _text(spent.marginal_nusd),
        "baseline_nusd": _text(answer.baseline_cost_nusd) if answer else None,
        "baseline_source": answer.baseline_source if answer else "unknown",
        "baseline_estimate_nusd": _text(answer.baseline_estimate_nusd) if answer else None,
        "latency_ms": round(latency_ms, 3),
        "reason": finish.steps[-1].reason if finish.steps else None,
        # The probability with which this rung was chosen; below 1 only where exploration draws at random.
        "propensity": 1.0,
        # The call whose answer was given again, without any request.
        "repeat_of": answer.repeat_of if answer else None,
        "metadata": trace.metadata,
        "steps": [_step(step) for step in finish.steps],
    }


def metered_row(trace: Trace, step: Step, attempt: Attempt, time_s: float) -> Row:
    """A call that was not routed: one request that was made elsewhere, and that nothing decided."""
    row = route_row(trace, Finish(None, None, (step,), (attempt,)), time_s, attempt.latency_ms)
    return {**row, "outcome": "metered", "model": step.model, "rung": step.rung}


def _step(step: Step) -> Row:
    return {
        "rung": step.rung,
        "model": step.model,
        "action": step.action,
        "reason": step.reason,
        "confidence": step.confidence,
        "confidence_source": step.confidence_source,
        "threshold": step.threshold,
        "cost_nusd": _text(step.cost_nusd),
        "attempts": step.attempts,
        "signals": dict(step.signals),
    }


def call_summary(trace: Trace, finish: Finish, latency_ms: float) -> Row:
    """A call in one flat row with dollars for people: the fields of its one event."""
    answer, spent = finish.answer, costs(finish.attempts)
    return {
        "route_id": trace.route_id,
        "task": trace.task,
        "outcome": finish.outcome,
        "model": answer.model if answer else None,
        "rung": answer.rung if answer else None,
        "escalated": climbed(finish.attempts, finish.first_rung),
        "confidence": answer.confidence if answer else None,
        "confidence_source": answer.confidence_source if answer else None,
        "reason": finish.steps[-1].reason if finish.steps else None,
        "attempts": len(finish.attempts),
        "cost_usd": usd(spent.nusd),
        "marginal_cost_usd": usd(spent.marginal_nusd),
        "baseline_cost_usd": answer.baseline_cost_usd if answer else None,
        "latency_ms": round(latency_ms, 3),
        "feature": trace.feature,
        "tenant": trace.tenant,
        "user": trace.user,
    }


def _text(nusd: int | None) -> str | None:
    return None if nusd is None else str(nusd)
