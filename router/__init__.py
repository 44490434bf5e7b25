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
    from router.api import Router
    from router.core.answer import Answer
    from router.core.policy import Policy
    from router.default import acompletion, aroute, completion, meter, route, routed
    from router.errors import RouterError, RouterWarning
    from router.options import attribute
    from router.pricing import price_usage
    from router.spec import load_policy

__all__ = [
    "Answer",
    "Policy",
    "Router",
    "RouterError",
    "RouterWarning",
    "__version__",
    "acompletion",
    "aroute",
    "attribute",
    "completion",
    "load_policy",
    "meter",
    "price_usage",
    "route",
    "routed",
]

# Names are resolved on first use, so that `import router` costs nothing and loads no library.
_HOMES = {
    "Answer": "router.core.answer",
    "Policy": "router.core.policy",
    "Router": "router.api",
    "RouterError": "router.errors",
    "RouterWarning": "router.errors",
    "acompletion": "router.default",
    "aroute": "router.default",
    "attribute": "router.options",
    "completion": "router.default",
    "load_policy": "router.spec",
    "meter": "router.default",
    "price_usage": "router.pricing",
    "route": "router.default",
    "routed": "router.default",
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
