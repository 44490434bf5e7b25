"""The cause of a breach in one sentence: the largest part of the change against an earlier period, with its figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from router.audit.changes import (
    Group,
    Key,
    Line,
    Part,
    Spending,
    Weights,
    accepted_cost_parts,
    cost_parts,
    share_parts,
    slow_parts,
)
from router.audit.objectives import Objective
from router.core.faults import Fault
from router.core.policy import Price
from router.core.words import dollars, percent

Prices = Callable[[str, str], Price | None]
"""The price of a task's model, by their names."""


# A change below this part of what is measured now explains nothing.
_WORTH_A_WORD = Fraction(1, 100)


class CallRow(NamedTuple):
    """Calls of a period that went the same way."""

    task: str
    path: str
    """The models that were asked, in order."""
    why: str
    """Why there was more than one request: a fault, `unsure`, `unusable`, `compare` or `retried`."""
    calls: int
    escalated: int
    answered: int
    priced: int
    priced_answered: int
    cost_nusd: int
    slow: int


class RequestRow(NamedTuple):
    """Requests of a period to one model, with one fault or none."""

    task: str
    model: str
    fault: str
    requests: int
    input_tokens: int
    cached_read_tokens: int
    output_tokens: int
    cost_nusd: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Period:
    """What the ledger says of some days of a task or feature."""

    name: str = ""
    """The days, as they stand in a sentence."""
    calls: Sequence[CallRow] = ()
    requests: Sequence[RequestRow] = field(default=(), repr=False)

    @property
    def count(self) -> int:
        """All calls."""
        return sum(row.calls for row in self.calls)


def change_parts(objective: Objective, before: Period, after: Period, prices: Prices) -> list[Part]:
    """The parts of the change of what an objective measures, the one that worsened it most first."""
    match objective.name:
        case "escalation_rate":
            parts = share_parts(_climbs(before), _climbs(after), (before.count, after.count))
        case "p95_latency_ms":
            parts = slow_parts(_groups(before), _groups(after))
        case name:
            old, new = _spending(before), _spending(after)
            weights = {key: _weights(prices(*key)) for key in {*old.lines, *new.lines}}
            by_answer = name == "usd_per_accepted" and old.accepted and new.accepted
            parts = (accepted_cost_parts if by_answer else cost_parts)(old, new, weights)
    return sorted(parts, key=lambda part: part.amount, reverse=True)


def cause(objective: Objective, before: Period, after: Period, prices: Prices) -> str:
    """Why an objective is worse than before, in one sentence; without an earlier period, what it mainly consists of."""
    if objective.name == "usd_per_accepted" and not any(row.answered for row in after.calls):
        return "no call got an answer"
    if before.count < objective.min_calls:
        return _largest(objective, before, after, prices)
    parts = change_parts(objective, before, after, prices)
    total = sum((part.amount for part in parts), Fraction(0))
    level = sum((part.amount for part in change_parts(objective, Period(), after, prices)), Fraction(0))
    if total <= level * _WORTH_A_WORD:
        return f"no more than 1% worse than in {before.name}; " + _largest(objective, Period(), after, prices)
    words = _words(objective, parts[0], before, after)
    return f"{_change(objective, level, total, before.name)}; {_most(objective, parts[0], total)}: {words}"


def _change(objective: Objective, level: Fraction, total: Fraction, before: str) -> str:
    """How much worse it became, in the unit of what is measured."""
    if objective.is_cost:
        what = "an accepted answer" if objective.name == "usd_per_accepted" else "a call"
        return f"{what} cost {dollars(round(total))} more than in {before}"
    did = "climbed" if objective.name == "escalation_rate" else _was_slow(objective)
    return f"{percent(float(level))} of calls {did}, {percent(float(level - total))} in {before}"


def _most(objective: Objective, part: Part, total: Fraction) -> str:
    """How much of the change the largest part brought about; where it is more than the change, others fell."""
    if part.amount > total:
        amount = dollars(round(part.amount)) if objective.is_cost else f"{percent(float(part.amount))} of calls"
        return f"one part alone added {amount}, while others fell"
    return "all of that" if part.amount == total else f"{percent(float(part.amount / total))} of that"


def _was_slow(objective: Objective) -> str:
    return f"took longer than {float(objective.limit):,.0f} ms"


def _largest(objective: Objective, before: Period, after: Period, prices: Prices) -> str:
    """What the measured value mainly consists of: its change from nothing."""
    parts = change_parts(objective, Period(), after, prices)
    total = sum((part.amount for part in parts), Fraction(0))
    missing = f"{before.name} had too few calls to compare with; " if before.name else ""
    if not parts or total <= 0:
        return missing + "no part of it stands out"
    part = parts[0]
    # Requests can cost more than the calls of the period, where they belong to calls whose cost is unknown.
    share = percent(float(part.amount / total)) if part.amount <= total else "most"
    match part.kind:
        case "climbed":
            return f"{missing}{share} of the climbs were {_place(part).removeprefix('climbs ')}"
        case "more" | "slower":
            return f"{missing}{share} of the calls that {_was_slow(objective)} {_way(part.key)}"
    return f"{missing}{share} of the cost was for {_place(part)}"


# What changed, with the figure of both periods, by the kind of part.
_SENTENCES = {
    "asked": "{model} gave a reply in {new} of calls (before {old})",
    "input": "the prompt of a request to {model} had {tokens}",
    "output": "an answer of {model} had {tokens}",
    "cached": "the share of {model} input that was read from a prompt cache was {new} (before {old})",
    "price": "the same tokens of {model} cost {times} what they cost before",
    "reply": "a reply of {model} cost {costs}",
    "failed": "failed requests to {model}{fault} came to {costs} for each call",
    "unanswered": "{new} of calls (before {old}) had no answer",
    "climbed": "{place} were {new} of calls (before {old})",
    "more": "{place} were {new} of all calls (before {old})",
    "slower": "of the {place}, {new} {slow} (before {old}){slower}",
    "other": "{place}",
}


def _words(objective: Objective, part: Part, before: Period, after: Period) -> str:
    new, old = float(part.after), float(part.before)
    return _SENTENCES[part.kind].format(
        model=f"`{part.key[1]}`" if part.key else "",
        place=_place(part),
        new=percent(new),
        old=percent(old),
        tokens=f"{new:,.0f} tokens (before {old:,.0f})",
        costs=f"{dollars(round(new))} (before {dollars(round(old))})",
        times=f"{new / old:.2f} times" if old else "more than",
        slow=_was_slow(objective),
        fault=_fault(part.key, after),
        slower=_slower_model(part.key, before, after) if part.kind == "slower" else "",
    )


def _place(part: Part) -> str:
    """Where a part belongs."""
    match part.kind:
        case "climbed":
            return f"climbs past `{part.key[1]}` {_reason(part.key[2])}"
        case "more" | "slower":
            return f"calls that {_way(part.key)}"
        case "failed":
            return f"failed requests to `{part.key[1]}`"
        case "unanswered":
            return "calls without an answer"
        case "other":
            return "requests that belong to no priced call of these days"
    return f"replies of `{part.key[1]}`"


def _reason(why: str) -> str:
    known = {
        "unsure": "because a draft's confidence was below the threshold",
        "unusable": "because a draft was unusable",
        "compare": "so that drafts could be compared",
    }
    return known.get(why) or (f"because of the fault {why}" if why in set(Fault) else "for another reason")


def _way(key: Key) -> str:
    _, path, why = key
    models = ", then ".join(f"`{model}`" for model in path.split(" > ")) if path else "no model"
    if why == "retried":
        return f"asked {models} more than once after a fault"
    return f"asked {models}" + (f" {_reason(why)}" if why else " alone" if path else "")


def _fault(key: Key, after: Period) -> str:
    """The fault that most requests to a model failed with."""
    counts = {row.fault: row.requests for row in after.requests if (row.task, row.model) == key and row.fault}
    return f" (mostly {max(counts, key=lambda fault: counts[fault])})" if counts else ""


def _slower_model(key: Key, before: Period, after: Period) -> str:
    """The model of a path whose replies became slower by most."""
    task, path, _ = key
    means = [_mean_latency(period, task) for period in (before, after)]
    grown = {
        model: means[1][model] - means[0][model]
        for model in path.split(" > ")
        if model in means[0] and model in means[1]
    }
    slowest = max(grown, key=lambda model: grown[model], default="")
    if not slowest or grown[slowest] <= 0:
        return ""
    return f"; a reply of `{slowest}` took {means[1][slowest]:,.0f} ms on average, before {means[0][slowest]:,.0f} ms"


def _mean_latency(period: Period, task: str) -> dict[str, float]:
    return {row.model: row.latency_ms / row.requests for row in period.requests if row.task == task and not row.fault}


def _climbs(period: Period) -> dict[Key, int]:
    climbs: defaultdict[Key, int] = defaultdict(int)
    for row in period.calls:
        if row.escalated:
            climbs[row.task, row.path.partition(" > ")[0], row.why] += row.escalated
    return climbs


def _groups(period: Period) -> dict[Key, Group]:
    return {(row.task, row.path, row.why): Group(row.calls, row.slow) for row in period.calls}


def _spending(period: Period) -> Spending:
    lines: defaultdict[Key, Line] = defaultdict(Line)
    for row in period.requests:
        line = lines[row.task, row.model]
        if row.fault:
            lines[row.task, row.model] = line._replace(failed_nusd=line.failed_nusd + row.cost_nusd)
        else:
            lines[row.task, row.model] = line._replace(
                replies=row.requests,
                input_tokens=row.input_tokens,
                cached_read_tokens=row.cached_read_tokens,
                output_tokens=row.output_tokens,
                cost_nusd=row.cost_nusd,
            )
    priced, nusd, accepted = (
        sum(getattr(row, name) for row in period.calls) for name in ("priced", "cost_nusd", "priced_answered")
    )
    return Spending(priced, nusd, lines, accepted)


def _weights(price: Price | None) -> Weights:
    """What a model's kinds of tokens cost beside one another; alike where nobody knows."""
    if price is None or price.input_usd_per_mtok is None or price.output_usd_per_mtok is None:
        return Weights()
    reading = price.cached_read_usd_per_mtok
    parts = (price.input_usd_per_mtok, price.input_usd_per_mtok if reading is None else reading)
    return Weights(*map(Fraction, (*parts, price.output_usd_per_mtok)))
