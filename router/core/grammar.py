"""The words that the grammar of policies is written in: bounds of a value, and the types that fields share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

# Read by pydantic when `router.spec` validates; plain data here, so that this module needs nothing but Python.
STRICT = {
    "extra": "forbid",
    "strict": True,
    "allow_inf_nan": False,
    "use_attribute_docstrings": True,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on a value, enforced at load and shown in the JSON Schema: numbers, string lengths, list lengths."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        bounds = {name: getattr(self, name) for name in self.__slots__ if getattr(self, name) is not None}
        return {**handler(source), **bounds}


class Unbuilt:
    """Marks a field that the grammar has but the library does not act on yet; using it is refused."""


Name = Annotated[str, Limit(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$")]
# A place of a ladder: a model, `small#2` for the second time that a panel asks `small`, or `judge:mid` for a question.
Key = Annotated[str, Limit(pattern=r"^((judge|p_true|stated):)?[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}(#[2-8])?$")]
Share = Annotated[float, Limit(ge=0.0, le=1.0)]
Seconds = Annotated[float, Limit(gt=0.0)]
Count = Annotated[int, Limit(ge=1)]
Usd = Annotated[Decimal, Limit(ge=0, le=1_000_000_000)]
Text = Annotated[str, Limit(min_length=1)]
