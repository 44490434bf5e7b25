"""Prices that change at a date: which one is in force at an instant, and which comes next.

Instants are seconds since 1970; whoever knows the time gives it.
"""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from dataclasses import fields, replace
from typing import NamedTuple

from router.core.policy import Price
from router.core.pricing import merged

_DEFAULT = Price()
_TIME = r"[T ](\d\d):(\d\d)(?::(\d\d))?(Z|[+-]([01]\d|2[0-3]):?([0-5]\d))?"
_DATE = re.compile(rf"([12]\d{{3}})-(\d\d)-(\d\d)(?:{_TIME})?")


class Change(NamedTuple):
    """A price that begins at an instant."""

    starts_s: float
    price: Price


def starts_s(date: str) -> float:
    """When a change begins; UTC where the date has no zone. A `ValueError` where it is no date."""
    found = _DATE.fullmatch(date)
    if found is None:
        raise ValueError(f"{date!r} is no date")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.group(1, 2, 3, 4, 5, 6))
    if not (1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1] and hour < 24 and minute < 60 and second < 60):
        raise ValueError(f"{date!r} is no day or time that there is")
    east_s = 0 if found[7] in (None, "Z") else int(f"{found[7][0]}1") * (int(found[8]) * 60 + int(found[9])) * 60
    return float(timegm((year, month, day, hour, minute, second)) - east_s)


def own_price(own: Price, now_s: float) -> Price:
    """What a policy says of a price as of now: its first price with every change that has begun."""
    price = replace(own, changes=None)
    for date, change in (own.changes or {}).items():
        if starts_s(date) > now_s:
            break
        price = _changed(price, change)
    return price


def next_change(own: Price, listed: Price | None, now_s: float) -> Change | None:
    """The price that comes next, in whole, with the map's parts where the policy names none."""
    coming = [at for date in own.changes or () if (at := starts_s(date)) > now_s]
    return Change(coming[0], merged(own_price(own, coming[0]), listed)) if coming else None


def _changed(price: Price, change: Price) -> Price:
    """A price with the parts that a change names; a machine's price per hour and per second replace each other."""
    named = {
        one.name: value for one in fields(Price) if (value := getattr(change, one.name)) != getattr(_DEFAULT, one.name)
    }
    if {"gpu_hour_usd", "gpu_second_usd"} & {*named}:
        price = replace(price, gpu_hour_usd=None, gpu_second_usd=None)
    return replace(price, **named)


def price_source(own: Price, listed: Price | None, map_name: str) -> str:
    """Where the parts of a price come from: `policy`, the map by name and version, or both; nothing where none is."""
    named = replace(own, changes=None, gpu_concurrency=1.0, gpu_utilisation=1.0) != _DEFAULT
    whole = merged(own, listed) == replace(own, changes=None)
    return " and ".join([*(["policy"] if named else []), *([map_name] if listed is not None and not whole else [])])
