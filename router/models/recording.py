"""Recordings as files: every row is read, and what is wrong with one is found and located before anything is asked.

A recording is JSON lines, plain or gzipped, and the parts that further processes wrote beside it (`x.part-*.jsonl`).
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from router.core.call import Reply, Usage, to_messages
from router.errors import RecordingError, warn

# Of tokens, dollars or seconds: beyond it sums are no longer exact. Chosen, not measured.
_MOST = 10**15
_AMOUNTS = (*Usage.__slots__, "cost_usd", "latency_s")


# Keys of messages whose values are no words of anybody's.
_STRUCTURE = frozenset({"role", "type", "id", "tool_call_id", "cache_control"})
REDACTED = "[redacted]"


def redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """Messages, or any part of them, with each text redacted; blank ones are marked, because no prompt is empty."""
    if isinstance(value, str):
        text = redact(value)
        return text if text.strip() or not value.strip() else REDACTED
    if isinstance(value, Mapping):
        return {key: part if key in _STRUCTURE else redacted(part, redact) for key, part in value.items()}
    return [redacted(part, redact) for part in value] if isinstance(value, list | tuple) else value


# How a recording writes a log-probability of minus infinity.
MINUS_INFINITY = -1e9


def logprob_column(reply: Reply) -> dict[str, list[Any]] | None:
    """What a recording holds of a reply's tokens; never their texts, which a redacted one must not have."""
    if not reply.logprobs or any(map(math.isnan, reply.logprobs)):  # NaN says nothing, and JSON has no word for it.
        return None
    found: dict[str, list[Any]] = {"tok": [min(0.0, max(one, MINUS_INFINITY)) for one in reply.logprobs]}
    for name, told in (("bytes", reply.token_bytes), ("margin", reply.margins)):
        if told:
            found[name] = list(told)
    return found


def part_path(path: Path, name: str) -> Path:
    """A further file of a recording: `x.jsonl.gz` has `x.part-NAME.jsonl.gz`."""
    zipped = ".gz" if path.suffix == ".gz" else ""
    plain = path.with_name(path.name.removesuffix(zipped))
    return plain.with_name(f"{plain.stem}.part-{name}{plain.suffix}{zipped}")


def parts_of(path: Path) -> list[Path]:
    """The further files of a recording, oldest first."""
    if not path.name:  # Some folder.
        return []
    mark = "*"
    pattern = part_path(path, mark).name.split(mark)
    return sorted(
        one for one in path.parent.glob("*.part-*") if one.name.startswith(pattern[0]) and one.name.endswith(pattern[1])
    )


def read_recording(
    path: str | Path, *, models: Collection[str] | None = None, task: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a recording, in order; `models` and `task` keep only the rows that are needed.

    Raises
    ------
    RecordingError
        The file cannot be read, or a line is no row.
    """
    return (row for _, row in numbered_rows(path, models=models, task=task))


def numbered_rows(
    path: str | Path, *, models: Collection[str] | None = None, task: str | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same, each row with the number of its line."""
    path = Path(path)
    for file in (path, *parts_of(path)):
        yield from _read_file(file, models, task)


def _read_file(path: Path, models: Collection[str] | None, task: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number > 1 and not line.endswith(b"\n") and _is_cut(line):
                    _warn_cut(path)
                    return
                row = _parse(line, path, number) if line.strip() else None
                if row is None or (models is not None and row.get("model") not in models):
                    continue
                if task is None or row.get("task") == task:
                    yield number, _checked(row, path, number)
    except (OSError, EOFError, zlib.error) as error:
        if number and _last_member_is_cut(path):
            _warn_cut(path)
            return
        raise unreadable(path, number, error) from error


def unreadable(path: Path, number: int, error: Exception) -> RecordingError:
    """What to raise where a file of lines cannot be opened, or not be read on after so many of them."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    after = f" after line {number}" if number else ""
    return RecordingError(f"{path}: cannot be read{after}: {reason}", path=str(path), line=number or None)


def _is_cut(line: bytes) -> bool:
    """Whether the last line of a file is the beginning of a row and no more."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def _last_member_is_cut(path: Path) -> bool:
    """Whether a gzipped file has a row in each member and ends within one, as only a recorder that died leaves it."""
    member, lines = zlib.decompressobj(31), 0
    with suppress(zlib.error, OSError), path.open("rb") as file:
        while block := file.read(1 << 16):
            while block:
                lines += member.decompress(block).count(b"\n")
                if not member.eof:
                    break
                if lines != 1:
                    return False
                block, member, lines = member.unused_data, zlib.decompressobj(31), 0
        return lines <= 1
    return False


def _warn_cut(path: Path) -> None:
    warn(f"{path}: its last row was cut short when the process that wrote it died; it is left out")


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _broken(f"is no JSON ({type(error).__name__})", path, number) from None
    if not isinstance(row, dict) or not isinstance(row.get("model", ""), str):
        raise _broken("is no JSON object with a 'model'", path, number)
    return row


def _checked(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """A row that can be replayed: found out here, where the line is known, not in the middle of a call."""
    if missing := [name for name in ("model", "prompt") if row.get(name) is None]:
        raise _broken(f"lacks {missing[0]!r}", path, number)
    if row.get("response") is None and row.get("error") is None:
        raise _broken("has neither 'response' nor 'error'", path, number)
    try:
        to_messages(row["prompt"], row.get("system"))
    except ValueError as problem:
        raise _broken(f"has a 'prompt' that {problem}", path, number) from None
    error, logprob = row.get("error"), row.get("logprob")
    shapes = [
        ("system", isinstance(row.get("system"), str | None)),
        ("response", isinstance(row.get("response"), str | None)),
        ("error", isinstance(error, str | None) or (isinstance(error, dict) and _is_error(error))),
        ("logprob", logprob is None or (isinstance(logprob, dict) and _are_logprobs(logprob))),
        ("tool_calls", row.get("tool_calls") is None or _are_tool_calls(row["tool_calls"])),
        ("extras", isinstance(row.get("extras"), dict | None)),
        ("model_served", isinstance(row.get("model_served"), str | None)),
        *((name, row.get(name) is None or _is_amount(row[name])) for name in _AMOUNTS),
    ]
    if wrong := [name for name, right in shapes if not right]:
        raise _broken(f"has a {wrong[0]!r} that cannot be used", path, number)
    return row


def _broken(problem: str, path: Path, number: int) -> RecordingError:
    return RecordingError(f"{path}:{number}: this line {problem}; mend or delete it", path=str(path), line=number)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _MOST  # Neither holds for NaN.


def _is_error(error: Mapping[str, Any]) -> bool:
    retry_after_s = error.get("retry_after_s")
    return (
        all(isinstance(error.get(name), str | None) for name in ("fault", "detail", "partial"))
        and isinstance(error.get("status"), int | None)
        and (retry_after_s is None or (_is_number(retry_after_s) and 0 <= retry_after_s < math.inf))
    )


def _are_logprobs(recorded: Mapping[str, Any]) -> bool:
    tokens, raw = recorded.get("tok"), recorded.get("raw")
    further = [recorded[name] for name in ("bytes", "margin") if recorded.get(name) is not None]
    count = len(tokens) if isinstance(tokens, list) else 0
    return (
        (tokens is None or (isinstance(tokens, list) and all(map(_is_number, tokens))))
        and (raw is None or _is_number(raw))
        and all(isinstance(one, list) and len(one) == count and all(map(_is_amount, one)) for one in further)
    )


def _are_tool_calls(recorded: Any) -> bool:
    return isinstance(recorded, list) and all(
        isinstance(call, dict) and all(isinstance(call.get(name), str) for name in ("id", "name", "arguments"))
        for call in recorded
    )
