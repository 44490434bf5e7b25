"""What the top rung alone would have cost: known where it answered, else its price for the draft's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from router.core.answer import Attempt
from router.core.call import Usage
from router.core.plan import Rung
from router.core.pricing import total


def baseline(
    top: Rung, attempts: Sequence[Attempt], draft: Usage | None
) -> tuple[int | None, Literal["known", "estimated", "unknown"]]:
    """The cost and how it is known; `draft` is the usage that the accepted draft reported."""
    asked = [attempt for attempt in attempts if attempt.rung == top.level]
    if asked and asked[-1].fault is None:
        cost = total([attempt.amount.nusd for attempt in asked])
        settled = all(attempt.amount.state == "settled" for attempt in asked)
        return cost, "unknown" if cost is None else "known" if settled else "estimated"
    cost = price_of(top, draft)
    return cost, "unknown" if cost is None else "estimated"


def price_of(top: Rung, usage: Usage | None) -> int | None:
    """The top rung's price for so many tokens."""
    if top.rates.by_second or usage is None:
        return None
    # The top rung's prompt cache is not the draft's, so all input counts as plain input.
    return top.rates.plain_nusd(usage.all_input_tokens, usage.all_output_tokens)
