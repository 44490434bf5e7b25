"""The fewest labelled rows that could carry a certificate at all: some choose a plan, the others certify it."""

from __future__ import annotations

import math

from router.core.words import points
from router.tuning.fit import MAX_ROWS

# With fewer rows not even two settings can be told apart.
MIN_TRAIN_ROWS = 20


def certify_least(target: float, budget: float) -> int:
    """The fewest that show a loss of at most `target`, an error in `budget` of the cases, if none is ever worse."""
    return math.ceil(math.log(budget) / math.log1p(-target))


def least_units(target: float, budget: float, train_share: float | None, train_least: int = MIN_TRAIN_ROWS) -> int:
    """The fewest rows, or clusters of them, of which enough choose a plan and enough certify it.

    Parameters
    ----------
    target, budget
        See `certify_least`.
    train_share
        Share of them that `split` takes to choose the plan on; `None` where each does both.
    train_least
        The fewest to choose a plan on.
    """
    certify = certify_least(target, budget)
    if train_share is None:
        return max(train_least, certify)
    # From below what either part takes, upwards, because the split rounds.
    units = int(max((train_least - 1) / train_share, min((certify - 1) / (1.0 - train_share), certify - 1 + MAX_ROWS)))
    while (train := _trained(units, train_share)) < train_least or units - train < certify:
        units += 1
    return units


def _trained(units: int, share: float) -> int:
    """How many of them `split` takes to train on."""
    return max(1, min(round(share * units), MAX_ROWS))


def too_few(rows: int, of: str, target: float, confidence: str, needed: int) -> str:
    """Why so many rows cannot do, and how many could; `of` says what counts once where that is not the row."""
    return (
        f"{rows} labelled row{'s' * (rows != 1)}{of} cannot show a loss of at most {points(target)} at {confidence}, "
        f"even if no answer were ever worse; {needed} are the least. Add rows, or loosen the target"
    )


def confidence_words(budget: float, asked: float, look: int | None, groups: int = 1) -> str:
    """How sure a certificate must be, and why that is more than was asked."""
    why = []
    if look is not None:
        why.append(
            "a first look leaves room for others, --only-look spends all"
            if look == 1
            else f"look {look} has what earlier ones left"
        )
    if groups > 1:
        why.append(f"{groups} groups share it")
    return f"{1.0 - budget:g} confidence" + (f" ({asked:g} asked; {'; '.join(why)})" if why else "")
