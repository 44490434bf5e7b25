"""Amounts and shares as people read them."""

from __future__ import annotations


def dollars(nusd: int | None) -> str:
    """Nano-dollars for people: at least two decimals, and as many as small amounts need."""
    if nusd is None:
        return "unknown"
    sign, amount = "-" if nusd < 0 else "", abs(nusd) / 1e9
    for limit, decimals in ((1.0, 2), (0.01, 4), (0.000_1, 6), (0.0, 9)):
        if amount >= limit and amount:
            return f"{sign}${amount:,.{decimals}f}"
    return "$0.00"


def points(share: float) -> str:
    """A difference of quality for people: hundredths of it, such as `1 point` or `-0.25 points`."""
    tiny = 0.0 < abs(share) < 0.000_05
    number = f"{100 * share:.1g}" if tiny else f"{100 * share:.2f}".rstrip("0").rstrip(".")
    return f"{number} point" if number == "1" else f"{number} points"


def percent(share: float) -> str:
    """A share for people."""
    return f"{share:.1%}"
