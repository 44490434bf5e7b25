"""A provider's usage or cost export as CSV: what it says was used and billed, by day and model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from router.audit.csv_files import Table, columns_of, read_table
from router.core.pricing import NUSD_PER_USD
from router.errors import shown

# The names that exports of OpenAI and Anthropic use, and plain ones; the first that is there counts.
COLUMNS: dict[str, tuple[str, ...]] = {
    "day": ("usage_date_utc", "start_time_iso", "start_time", "date", "day", "usage_date", "timestamp"),
    "model": ("model", "model_version", "model_name", "snapshot_id", "line_item"),
    "requests": ("num_model_requests", "requests", "n_requests", "request_count"),
    "all_input": ("input_tokens", "prompt_tokens", "n_context_tokens_total"),
    "input": ("usage_input_tokens_no_cache", "uncached_input_tokens", "input_uncached_tokens"),
    "cached_read": (
        *("usage_input_tokens_cache_read", "input_cached_tokens", "cache_read_input_tokens"),
        *("cached_input_tokens", "n_cached_context_tokens_total"),
    ),
    "cache_write": (
        *("usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write", "cache_creation_input_tokens"),
        "input_cache_write_tokens",
    ),
    "cache_write_1h": ("usage_input_tokens_cache_write_1h",),
    "output": ("usage_output_tokens", "output_tokens", "completion_tokens", "n_generated_tokens_total"),
    "cost_usd": ("cost_usd", "amount_value", "amount_usd", "cost", "amount"),
    "currency": ("amount_currency", "currency"),
}
TOKENS = ("input", "cached_read", "cache_write", "cache_write_1h", "output")
# Anthropic's API counts what was cached beside `input_tokens`, OpenAI's within it.
_BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens")
_DATE_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")


@dataclass(slots=True)
class Billed:
    """What an export says of one model on one day; `None` for what it has no column of."""

    requests: int | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    cost_usd: Decimal | None = None
    credits_usd: Decimal = Decimal(0)
    """Negative amounts among them, such as refunds; they are in `cost_usd`."""
    lines: list[int] = field(default_factory=list)

    @property
    def cost_nusd(self) -> int | None:
        """The bill in whole nano-dollars."""
        return None if self.cost_usd is None else round(self.cost_usd * NUSD_PER_USD)


@dataclass(frozen=True, slots=True)
class Export:
    """An export as it was read."""

    path: Path
    cells: Mapping[tuple[str, str], Billed]
    """By day and model."""
    used: Mapping[str, str]
    """The file's column for each meaning."""
    unused: tuple[str, ...]
    repeated: tuple[tuple[int, int], ...]
    """Lines that repeat another one sign by sign: they count once."""


def plain_model(name: str) -> str:
    """A model's name without provider and date, as an export and a ledger agree on it."""
    return _DATE_SUFFIX.sub("", name.strip().rpartition("/")[2].lower())


def read_export(path: Path, columns: Mapping[str, str] | None = None) -> Export:
    """Read an export; `columns` names the file's own column for a meaning of `COLUMNS`.

    Raises
    ------
    InvalidFile
        A column that is needed is missing, or a value cannot be: a negative count, another currency, no date.
    """
    table = read_table(path)
    used = columns_of(table, COLUMNS, columns or {})
    _require(table, used)
    cells: dict[tuple[str, str], Billed] = {}
    for number, row in table.lines:
        day = _day(table, number, used["day"], row[used["day"]])
        name = row[used["model"]]
        # OpenAI's cost export has no model, but lines like `gpt-5.6-luna-2026-03-01, input`.
        model = plain_model(name.partition(",")[0] if used["model"] == "line_item" else name)
        if not model:
            raise table.fault(number, f"{used['model']}: is empty; a line without a model cannot be compared")
        _add(cells.setdefault((day, model), Billed()), table, number, used, row)
    unused = tuple(name for name in table.header if name not in used.values())
    return Export(path, cells, used, unused, table.repeated)


def _require(table: Table, used: Mapping[str, str]) -> None:
    quantities = used.keys() - {"day", "model", "currency"}
    missing = [name for name in ("day", "model") if name not in used] or ([] if quantities else ["cost_usd"])
    if missing:
        raise table.fault(
            1,
            f"no column is known to be the {missing[0]}; there is {', '.join(table.header)}. Say which with "
            f"--columns {missing[0]}=NAME",
        )


def _add(cell: Billed, table: Table, number: int, used: Mapping[str, str], row: Mapping[str, str]) -> None:
    currency = row[used["currency"]].strip() if "currency" in used else ""
    if currency and currency.lower() != "usd":
        raise table.fault(
            number, f"{used['currency']}: is {shown(currency)}; the ledger is in US dollars, so export it in USD"
        )
    cell.lines.append(number)
    if "requests" in used:
        cell.requests = (cell.requests or 0) + _whole(table, number, used["requests"], row)
    for bucket, count in _tokens(table, number, used, row).items():
        cell.tokens[bucket] = cell.tokens.get(bucket, 0) + count
    if "cost_usd" in used:
        amount = table.number(number, used["cost_usd"], row[used["cost_usd"]], least=None)
        cell.cost_usd = (cell.cost_usd or Decimal(0)) + amount
        cell.credits_usd += min(amount, Decimal(0))


def _tokens(table: Table, number: int, used: Mapping[str, str], row: Mapping[str, str]) -> dict[str, int]:
    found = {name: _whole(table, number, used[name], row) for name in TOKENS if name in used}
    if "input" in found or "all_input" not in used:
        return found
    found["input"] = _whole(table, number, used["all_input"], row)
    if used.get("cached_read") not in _BESIDE:
        found["input"] -= found.get("cached_read", 0)
    if found["input"] < 0:
        raise table.fault(number, f"{used['cached_read']}: is more than {used['all_input']}, which it is a part of")
    return found


def _whole(table: Table, number: int, name: str, row: Mapping[str, str]) -> int:
    value = table.number(number, name, row[name])
    if value != int(value):
        raise table.fault(number, f"{name}: is {value}, and must be a whole number")
    return int(value)


def _day(table: Table, number: int, name: str, text: str) -> str:
    """The day in UTC of a date, a moment, or seconds since 1970."""
    text = text.strip()
    try:
        if text.isdigit() and len(text) > 8:
            moment = datetime.fromtimestamp(int(text), UTC)
        else:
            moment = datetime.fromisoformat(text)
        day = (moment.astimezone(UTC) if moment.tzinfo else moment).date()
        if day.year < 1970:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise table.fault(number, f"{name}: {shown(text)} is no date; write it like 2026-11-20") from None
    return day.isoformat()
