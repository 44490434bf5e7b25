"""Answer each LLM call with the smallest competent model, and know what every escalation cost.

>>> import router
>>> answer = router.route("classify-ticket", "I was charged twice")  # doctest: +SKIP
>>> answer.text, answer.model, answer.cost_usd  # doctest: +SKIP
('billing', 'small', 0.000112)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.api import Router, aroute, route
    from router.core.answer import Answer, Attempt, Step
    from router.core.call import Call, Failure, Reply
    from router.core.policy import Policy
    from router.errors import RouterError, RouterWarning
    from router.pricing import price_usage
    from router.spec import load_policy

__all__ = [
    "Answer",
    "Attempt",
    "Call",
    "Failure",
    "Policy",
    "Reply",
    "Router",
    "RouterError",
    "RouterWarning",
    "Step",
    "__version__",
    "aroute",
    "load_policy",
    "price_usage",
    "route",
]

# Names are resolved on first use, so that `import router` costs nothing and loads no library.
_HOMES = {
    "Answer": "router.core.answer",
    "Attempt": "router.core.answer",
    "Call": "router.core.call",
    "Failure": "router.core.call",
    "Policy": "router.core.policy",
    "Reply": "router.core.call",
    "Router": "router.api",
    "RouterError": "router.errors",
    "RouterWarning": "router.errors",
    "Step": "router.core.answer",
    "aroute": "router.api",
    "load_policy": "router.spec",
    "price_usage": "router.pricing",
    "route": "router.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cascade-router")
    if name not in _HOMES:
        raise AttributeError(f"module 'router' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
