"""Reading a vendor's JSON: counts and quantities by name, and a clear error for what they cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from router.errors import InvalidUsage

# Beyond these a vendor's figure is a mistake: no context window and no bill comes near.
_MOST_TOKENS = 10**10
_MOST = 10**12


class Fields:
    """One JSON object, read by the names that vendors use for the same thing; the first that is there counts."""

    def __init__(self, data: Any, place: str = "usage") -> None:
        if not isinstance(data, Mapping):
            raise InvalidUsage(
                f"{place}: {type(data).__name__} found; give the object that the vendor sent, as a mapping",
                field=place,
                value=_shown(data),
            )
        self.data: Mapping[str, Any] = data
        self.place = place

    def value(self, *names: str) -> Any:
        """What stands under the first name that is there and not null."""
        return self._found(*names)[1]

    def tokens(self, *names: str) -> int | None:
        """A count of tokens or requests; `None` when no name is there."""
        name, value = self._found(*names)
        return None if value is None else count(value, self._at(name))

    def count(self, *names: str) -> int:
        """A count, 0 when it is not there."""
        return self.tokens(*names) or 0

    def quantity(self, *names: str) -> Decimal | None:
        """A quantity that need not be whole: seconds, hours, dollars."""
        name, value = self._found(*names)
        return None if value is None else quantity(value, self._at(name))

    def text(self, *names: str) -> str:
        """A word in lower case; empty when it is not there."""
        value = self.value(*names)
        return value.strip().lower() if isinstance(value, str) else ""

    def inner(self, *names: str) -> Fields:
        """An object inside; an empty one when it is not there."""
        name, value = self._found(*names)
        return Fields({} if value is None else value, self._at(name))

    def items(self, *names: str) -> list[Fields]:
        """The objects of a list inside."""
        name, value = self._found(*names)
        if value is None:
            return []
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise invalid(self._at(name), value, "is no list")
        return [Fields(one, f"{self._at(name)}[{number}]") for number, one in enumerate(value)]

    def has(self, *names: str) -> bool:
        """Whether any of the names is there."""
        return any(self.data.get(name) is not None for name in names)

    def _found(self, *names: str) -> tuple[str, Any]:
        for name in names:
            value = self.data.get(name)
            if value is not None:
                return name, value
        return names[0], None

    def _at(self, name: str) -> str:
        return f"{self.place}.{name}"


def count(value: Any, place: str) -> int:
    """A whole number from 0 up; vendors that count in floats send `3.0`."""
    number = _number(value)
    if number is None or number > _MOST_TOKENS or number != int(number):
        raise invalid(place, value, f"is no whole number from 0 to {_MOST_TOKENS}")
    return int(number)


def quantity(value: Any, place: str) -> Decimal:
    """A finite number from 0 up, exactly as it was written."""
    number = _number(value)
    if number is None or number > _MOST:
        raise invalid(place, value, f"is no number from 0 to {_MOST}")
    return number


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    # An integer may have more digits than Python writes out.
    number = Decimal(value) if isinstance(value, int | Decimal) else Decimal(repr(value))
    return number if number.is_finite() and number >= 0 else None


def invalid(place: str, value: Any, problem: str) -> InvalidUsage:
    """The error for a value that cannot be."""
    return InvalidUsage(
        f"{place}: {_shown(value)} {problem}; give the usage object as the vendor sent it",
        field=place,
        value=_shown(value),
    )


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 100:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
