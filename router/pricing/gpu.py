"""What a self-hosted model's request costs: its share of an accelerator that is paid by the hour."""

from __future__ import annotations

from decimal import Decimal

from router.pricing.fields import Fields, invalid

SECONDS_PER_HOUR = 3600


def second_usd(hour_usd: Decimal, gpus: Decimal, concurrency: Decimal, utilisation: Decimal) -> Decimal:
    """The price of one second of one request.

    `concurrency` requests share the machine at a time, and it is busy for the share `utilisation` of its hours; the
    idle ones are paid too, so a request carries its part of them.
    """
    return hour_usd * gpus / SECONDS_PER_HOUR / (concurrency * utilisation)


def read_second_usd(context: Fields) -> Decimal:
    """The price of a second from the context: `gpu_hour_usd`, `gpus`, `concurrency`, `utilisation`."""
    one = Decimal(1)
    hour = context.quantity("gpu_hour_usd") or Decimal(0)
    gpus, concurrency = (_or(context.quantity(name), one) for name in ("gpus", "concurrency"))
    utilisation = _or(context.quantity("utilisation"), one)
    if not 0 < utilisation <= 1:
        raise invalid("context.utilisation", utilisation, "is no share above 0 and up to 1")
    for name, value in (("gpus", gpus), ("concurrency", concurrency)):
        if value <= 0:
            raise invalid(f"context.{name}", value, "is not above 0")
    return second_usd(hour, gpus, concurrency, utilisation)


def _or(value: Decimal | None, default: Decimal) -> Decimal:
    return default if value is None else value
