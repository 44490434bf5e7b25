"""Chat completions as litellm's own objects, made from plain bodies."""

from __future__ import annotations

import functools
from typing import Any

from router.core.answer import Answer
from router.models.litellm_library import library


def response(body: dict[str, Any], answer: Answer) -> Any:
    """A `ModelResponse` that knows its answer."""
    made = _routed_response()(**body)
    made._hidden_params = {"response_cost": answer.cost_usd}
    made._router = answer
    return made


def chunk(body: dict[str, Any]) -> Any:
    """A `ModelResponseStream` as the installed litellm makes them."""
    litellm = library()
    choices = body["choices"]
    # Before 1.110 there is a choice even where only the usage is told.
    if not choices and not hasattr(litellm.CustomStreamWrapper, "_new_usage_chunk"):
        choices = [{"index": 0, "delta": {}, "finish_reason": None}]
    return litellm.types.utils.ModelResponseStream(**{**body, "choices": choices})


@functools.cache
def _routed_response() -> type[Any]:
    """`ModelResponse` with a place for the answer that is no field of it, so that no dump has it."""

    class ModelResponse(library().types.utils.ModelResponse):  # type: ignore[misc]
        _router: Any = None

        @property
        def router(self) -> Answer:
            """The answer, with confidence, reasons and the cost of every request."""
            answer: Answer = self._router
            return answer

    # Where pickle looks for it.
    ModelResponse.__qualname__ = "ModelResponse"
    return ModelResponse


def __getattr__(name: str) -> Any:
    if name == "ModelResponse":
        return _routed_response()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
