"""How a call ends without an answer: the error that says what was asked, what came of it, and what helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.core import compose
from router.core.answer import Attempt, Step
from router.core.call import Call, Failure
from router.core.counters import Refusal, Unbounded
from router.core.effects import Request
from router.core.faults import FAULTS, Fault
from router.core.plan import Plan, Rung
from router.core.pricing import usd
from router.errors import (
    BudgetExceeded,
    ContentFiltered,
    CostLimitExceeded,
    DeadlineExceeded,
    InvalidCall,
    LadderExhausted,
    RequestRefused,
    RouterError,
    StreamInterrupted,
)


class Endings:
    """The errors of one call, from what it has done so far."""

    def __init__(self, plan: Plan, request: Request, steps: Sequence[Step], attempts: Sequence[Attempt]) -> None:
        self._plan = plan
        self._request = request
        self._steps = steps
        self._attempts = attempts

    def too_long(self, limit: int | None) -> RouterError:
        """The prompt is longer than the task takes."""
        return InvalidCall(
            f"prompt: is longer than the {limit} tokens that task {self._plan.task_name!r} takes; "
            "shorten it, or raise max_input_tokens",
            argument="prompt",
        )

    def refused(self, failure: Failure) -> RouterError:
        """A request that no other rung would take either."""
        task, last = self._plan.task_name, self._steps[-1]
        if failure.fault is Fault.CONTENT_FILTER:
            return ContentFiltered(
                f"task {task!r}: {last.reason}; set `on_filter: climb` to ask the next rung instead", **self._fields()
            )
        return RequestRefused(
            f"task {task!r}: model {last.model!r} refused the request: {last.reason}; "
            "the error's provider_message has the provider's own words",
            status=failure.status,
            provider_message=failure.provider_message,
            **self._fields(),
        )

    def interrupted(self, failure: Failure) -> RouterError:
        """A live answer that broke off."""
        last = self._steps[-1]
        return StreamInterrupted(
            f"task {self._plan.task_name!r}: the answer of {last.model!r} broke off after "
            f"{len(failure.partial)} characters ({last.reason}); what was shown cannot be taken back, so "
            "nothing was asked again",
            partial_text=failure.partial,
            **self._fields(),
        )

    def deadline(self) -> RouterError:
        """No usable answer in time."""
        return DeadlineExceeded(
            f"task {self._plan.task_name!r}: no usable answer within {self._request.deadline_s} s"
            f"{self.history()}; raise deadline_s, or put a faster model first",
            deadline_s=self._request.deadline_s,
            **self._fields(),
        )

    def budget(self, name: str, found: Refusal | Unbounded, before: str) -> RouterError:
        """No budget has room for a request to this model; `before` is the history without that."""
        problem = f"task {self._plan.task_name!r}: a request to {name!r} is not sent: {found.why()}{before}"
        return BudgetExceeded(problem, **found.fields(), **self._fields())

    def cost_limit(
        self, rung: Rung, call: Call, upper: int | None, spent_nusd: int | None, input_bound: int | None
    ) -> RouterError:
        """The call's own limit leaves no room for a request to this rung."""
        limit, spent, needed = usd(self._request.max_cost_nusd) or 0.0, usd(spent_nusd), usd(upper)
        already = "an unknown part" if spent is None else f"{spent:.6f}"
        if needed is None:
            remedy = compose.unbounded(rung, call, self._request, input_bound)
        elif spent is None:
            remedy = "an earlier request has no bound; give every model a `price:` and the task a `max_output_tokens:`"
        else:
            remedy = f"a request to {rung.name!r} can cost {needed:.6f} USD; raise the limit or lower max_output_tokens"
        return CostLimitExceeded(
            f"task {self._plan.task_name!r}: {already} of {limit:.6f} USD may be spent already, and {remedy}"
            f"{self.history()}",
            limit_usd=limit,
            spent_usd=spent,
            needed_usd=needed,
            **self._fields(),
        )

    def exhausted(self) -> RouterError:
        """No rung gave a usable answer."""
        if not self._attempts:
            return InvalidCall(
                f"prompt: no model of task {self._plan.task_name!r} takes it{self.history()}; shorten it, or put a "
                "model that takes it on the ladder",
                argument="prompt",
            )
        return LadderExhausted(
            f"task {self._plan.task_name!r}: no rung gave a usable answer{self.history()}", **self._fields()
        )

    def history(self) -> str:
        """What every rung came to."""
        tried = "; ".join(f"{step.model}: {step.reason}" for step in self._steps)
        return f" ({tried})" if tried else ""

    def _fields(self) -> dict[str, Any]:
        return {
            "route_id": self._request.route_id,
            "task": self._plan.task_name,
            "attempts": tuple(self._attempts),
        }


def failed(failure: Failure, attempts: Sequence[Attempt]) -> str:
    """Why a place that was asked gave nothing."""
    tries = f" after {len(attempts)} attempts" if len(attempts) > 1 else ""
    status = f" (HTTP {failure.status})" if failure.status else ""
    return f"{failure.fault}{status}{tries}: {failure.detail or FAULTS[failure.fault].why}"
