"""The ledger beside a provider's bill, by day and model, with every difference explained as far as it can be.

What the ledger knows is a range: from what is settled to that and the upper bounds of every uncertain request. A bill
within it agrees; one outside is a finding.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.audit.periods import DAY_S
from router.audit.reading import reading
from router.audit.usage_export import TOKENS, Billed, Export, plain_model, read_export
from router.core.pricing import usd

# Providers round each line of a bill; what is less than a hundredth of a cent a day and model is no finding.
ROUNDING_NUSD = 100_000

_BUCKETS = (
    *("input_tokens + input_audio_tokens", "cached_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    "output_tokens + reasoning_tokens + output_audio_tokens + output_image_tokens",
)
_OPEN = "state != 'settled' AND line IS NOT 'unpriced'"
_SUMS = (
    *("usage_source IN ('provider', 'estimated')", "state IN ('maybe_billed', 'unknown') AND line IS NOT 'unpriced'"),
    *("usage_source = 'estimated'", "line = 'unpriced'", "cost_nusd"),
    f"CASE WHEN {_OPEN} THEN max(0, coalesce(upper_nusd, 0) - coalesce(cost_nusd, 0)) END",
    f"{_OPEN} AND upper_nusd IS NULL",
    f"CASE WHEN {_OPEN} THEN upper_nusd END",
    "CASE WHEN state = 'settled' AND usage_source = 'provider' THEN cost_nusd END",
    f"CASE WHEN state = 'settled' AND usage_source = 'provider' THEN {' + '.join(_BUCKETS)} END",
    *_BUCKETS,
    *(f"CASE WHEN usage_source = 'provider' THEN {bucket} END" for bucket in _BUCKETS),
)
_LEDGER = f"""
SELECT strftime('%Y-%m-%d', time_s, 'unixepoch'), coalesce(nullif(model_served, ''), model_asked, model),
    coalesce(model_asked, ''), {", ".join(f"coalesce(sum({amount}), 0)" for amount in _SUMS)}
FROM attempts WHERE time_s >= ? AND time_s < ? AND state != 'open' AND origin IS NOT 'replay' AND line != 'not_sent'
GROUP BY 1, 2, 3
"""  # noqa: S608 - names of ours


@dataclass(slots=True)
class Recorded:
    """What the ledger says of one model on one day."""

    requests: int = 0
    """Requests that were answered."""
    uncertain: int = 0
    """Requests beyond those that the provider may have answered: timeouts, broken connections, dead processes."""
    estimated: int = 0
    """Answers among `requests` that came without usage, so that their tokens are an estimate."""
    unpriced: int = 0
    cost_nusd: int = 0
    upper_nusd: int = 0
    unbounded: int = 0
    open_nusd: int = 0
    """The most that everything which is not settled can have cost."""
    settled_nusd: int = 0
    """What `settled_tokens` cost: by it, tokens are weighed against `open_nusd`."""
    settled_tokens: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    sure_tokens: dict[str, int] = field(default_factory=dict)
    """Those of them that a provider reported."""

    def add(self, sums: tuple[Any, ...]) -> None:
        """Add a row of the ledger's query."""
        names = (
            *("requests", "uncertain", "estimated", "unpriced", "cost_nusd", "upper_nusd", "unbounded"),
            *("open_nusd", "settled_nusd", "settled_tokens"),
        )
        for name, amount in zip(names, sums, strict=False):
            setattr(self, name, getattr(self, name) + int(amount))
        counts = sums[len(names) :]
        for found, amounts in ((self.tokens, counts[: len(TOKENS)]), (self.sure_tokens, counts[len(TOKENS) :])):
            for bucket, count in zip(TOKENS, amounts, strict=True):
                found[bucket] = found.get(bucket, 0) + int(count)


@dataclass(frozen=True, slots=True)
class Compared:
    """One day and model on both sides."""

    day: str
    model: str
    billed: Billed | None
    recorded: Recorded | None
    agrees: bool
    """Whether money (to a rounding), tokens and requests of the bill are all within the ledger's range."""
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The line as plain data."""
        billed, recorded = self.billed, self.recorded
        cost = billed.cost_nusd if billed else None
        return {
            "day": self.day,
            "model": self.model,
            "agrees": self.agrees,
            "billed": billed
            and {
                "requests": billed.requests,
                "tokens": billed.tokens,
                "cost_nusd": None if cost is None else str(cost),
                "cost_usd": usd(cost),
                "lines": billed.lines,
            },
            "ledger": recorded
            and {
                "requests": recorded.requests,
                "uncertain": recorded.uncertain,
                "tokens": recorded.tokens,
                "cost_nusd": str(recorded.cost_nusd),
                "cost_usd": usd(recorded.cost_nusd),
                "most_usd": usd(recorded.cost_nusd + recorded.upper_nusd),
                "unbounded": recorded.unbounded,
                "unpriced": recorded.unpriced,
            },
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Every day and model, and what of the file was not compared."""

    rows: tuple[Compared, ...]
    export: Export
    other_models: tuple[str, ...]
    """Models of the ledger in those days that the bill has no line of: of another provider, or missing there."""

    @property
    def agrees(self) -> bool:
        """Whether every line does."""
        return all(row.agrees for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The whole comparison as plain data."""
        return {
            "agrees": self.agrees,
            "rows": [row.as_json() for row in self.rows],
            "columns": dict(self.export.used),
            "columns_not_used": list(self.export.unused),
            "repeated_lines": [{"line": line, "repeats": of} for line, of in self.export.repeated],
            "other_models": list(self.other_models),
        }


def reconcile(home: Path, path: Path, *, columns: Mapping[str, str] | None = None) -> Reconciliation:
    """Compare the ledger with a provider's usage export; days are those of UTC, replayed answers are left out.

    Parameters
    ----------
    home
        Folder of the ledger.
    path
        The export: CSV with a header. Lines that repeat another sign by sign count once.
    columns
        The file's own column for a meaning of `COLUMNS`, where its name is not known.

    Raises
    ------
    InvalidFile
        The file cannot be used; nothing was compared.
    LedgerError
        The ledger cannot be read.
    """
    export = read_export(path, columns)
    days = sorted({day for day, _ in export.cells})
    with reading(home) as (database, _):
        recorded, providers = _recorded(database, days) if database and days else ({}, {})
    billed_models = {model for _, model in export.cells}
    # A model that no line names belongs to this bill where its provider does: it shares it with a model that is named.
    theirs = {providers[model] for model in billed_models if model in providers} - {""}
    keys = export.cells.keys() | {key for key in recorded if key[1] in billed_models or providers[key[1]] in theirs}
    rows = [_compared(key, export.cells.get(key), recorded.get(key)) for key in sorted(keys)]
    others = {model for _, model in recorded} - {row.model for row in rows}
    return Reconciliation(tuple(rows), export, tuple(sorted(others)))


def _recorded(database: sqlite3.Connection, days: list[str]) -> tuple[dict[tuple[str, str], Recorded], dict[str, str]]:
    """What the ledger has from the first of these days to the last, and the provider of each model."""
    since, last = (datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() for day in (days[0], days[-1]))
    cells: dict[tuple[str, str], Recorded] = {}
    providers: dict[str, str] = {}
    for day, served, asked, *sums in database.execute(_LEDGER, [since, last + DAY_S]):
        model = plain_model(served)
        cells.setdefault((day, model), Recorded()).add(tuple(sums))
        providers[model] = asked.partition("/")[0] if "/" in asked else providers.get(model, "")
    return cells, providers


def _compared(key: tuple[str, str], billed: Billed | None, recorded: Recorded | None) -> Compared:
    if recorded is None:
        assert billed is not None
        nothing = not (billed.cost_nusd or billed.requests or any(billed.tokens.values()))
        why = "not in the ledger: asked past the router, with another home folder, or lost with a segment"
        return Compared(*key, billed, None, nothing, () if nothing else (why,))
    if billed is None:
        agrees = recorded.cost_nusd <= ROUNDING_NUSD and not recorded.requests
        why = "not on the bill: another key or project, an export that ends too early, or not billed"
        return Compared(*key, None, recorded, agrees, (why,))
    tokens_fit = _tokens_fit(billed, recorded)
    reasons = [*_counts(billed, recorded, tokens_fit), *_money(billed, recorded)]
    agrees = bool(_requests_fit(billed, recorded) and tokens_fit and _money_fits(billed, recorded))
    return Compared(*key, billed, recorded, agrees, tuple(reasons))


def _requests_fit(billed: Billed, recorded: Recorded) -> bool:
    return billed.requests is None or 0 <= billed.requests - recorded.requests <= recorded.uncertain


def _tokens_fit(billed: Billed, recorded: Recorded) -> bool | None:
    """Whether the bill's tokens are those that were reported and what the others explain; `None`: cannot be told."""
    more = {name: count - recorded.sure_tokens.get(name, 0) for name, count in billed.tokens.items()}
    if any(gap < 0 for gap in more.values()):
        return False
    if not any(more.values()):
        return True
    billed_after_all = billed.requests is None or billed.requests > recorded.requests
    if not recorded.estimated and not (recorded.uncertain and billed_after_all):
        return False
    if recorded.settled_nusd and not recorded.unbounded:
        # The ledger has their bound in money: what tokens of this day and model cost makes it one in tokens.
        return sum(more.values()) * recorded.settled_nusd <= recorded.open_nusd * recorded.settled_tokens
    return True if _outside(billed, recorded) == 0 else None


def _money_fits(billed: Billed, recorded: Recorded) -> bool:
    outside = _outside(billed, recorded)
    # Without a price, the tokens alone say whether it is the same usage.
    tokens_decide = billed.cost_nusd is None or (bool(billed.tokens) and not recorded.unbounded)
    return outside == 0 or (outside is None and tokens_decide)


def _outside(billed: Billed, recorded: Recorded) -> int | None:
    """How far the bill is from the ledger's range, signed; 0 within it, `None` where that cannot be told."""
    cost = billed.cost_nusd
    if cost is None:
        return None
    high = recorded.cost_nusd + recorded.upper_nusd
    if cost < recorded.cost_nusd - ROUNDING_NUSD:
        return cost - recorded.cost_nusd
    if cost <= high + ROUNDING_NUSD:
        return 0
    return None if recorded.unbounded or recorded.unpriced else cost - high


def _gaps(billed: Billed, recorded: Recorded) -> dict[str, int]:
    """Bill less ledger, for each bucket that the bill has."""
    return {name: count - recorded.tokens.get(name, 0) for name, count in billed.tokens.items()}


def _counts(billed: Billed, recorded: Recorded, tokens_fit: bool | None) -> list[str]:
    found = []
    if billed.requests is not None and (more := billed.requests - recorded.requests):
        if 0 < more <= recorded.uncertain:
            found.append(f"{more:,} of {recorded.uncertain:,} uncertain requests were billed")
        elif more > 0:
            found.append(f"{more - recorded.uncertain:,} requests on the bill that the ledger does not have")
        else:
            found.append(f"{-more:,} requests of the ledger are not on the bill")
    gaps = _gaps(billed, recorded)
    if (moved := gaps.get("cached_read", 0)) and gaps.get("input") == -moved:
        found.append(f"{abs(moved):,} input tokens are {'cached' if moved > 0 else 'plain'} on the bill alone")
        gaps = {name: gap for name, gap in gaps.items() if name not in ("input", "cached_read")}
    for name, gap in gaps.items():
        if gap:
            found.append(f"{name.replace('_', ' ')}: {abs(gap):,} tokens {'more' if gap > 0 else 'fewer'} on the bill")
    if recorded.estimated and any(gaps.values()):
        found.append(f"the ledger estimates the tokens of {recorded.estimated:,} replies that came without usage")
    if tokens_fit is None:
        found.append("whether uncertain requests explain these tokens cannot be told: nothing bounds them")
    elif not tokens_fit and recorded.uncertain + recorded.estimated:
        found.append("uncertain requests do not explain these tokens")
    return found


def _money(billed: Billed, recorded: Recorded) -> list[str]:
    outside, cost = _outside(billed, recorded), billed.cost_nusd
    found = []
    if recorded.unpriced:
        found.append(f"the ledger knows no price for {recorded.unpriced:,} requests, so it has no upper bound")
    if billed.credits_usd:
        found.append(f"the bill has credits of {-billed.credits_usd} dollars")
    if cost is not None and outside == 0 and abs(cost - recorded.cost_nusd) > ROUNDING_NUSD:
        found.append("within the range that uncertain requests leave open")
    if cost is not None and outside is None and not _money_fits(billed, recorded):
        found.append("whether uncertain requests explain these dollars cannot be told: nothing bounds them")
    if outside and cost is not None:
        same_counts = bool(billed.tokens) and not any(_gaps(billed, recorded).values())
        if same_counts and recorded.cost_nusd:
            share = cost / recorded.cost_nusd
            found.append(
                f"the same tokens at {share:.2%} of the ledger's price: a discount, or a price that is not theirs"
            )
        else:
            side = "above" if outside > 0 else "below"
            found.append(f"the bill is {abs(outside) / 1e9:.6f} dollars {side} the ledger's range")
    return found
