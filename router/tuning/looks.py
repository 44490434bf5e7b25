"""How often rows were looked at: each look at them has half of what is left of the error budget.

Kept in one small file for all runs of a folder, by digest of the data and with a sample of the rows: neither a copy of
a run is fresh, nor one with a few more rows or with other labels. The same question asked again gives the same answer
and is no new look.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from router.core.binding import digest
from router.errors import RecordingError, TuningError

# Of each data set so many rows, those with the smallest digests: where two sets share a tenth of their rows, some of
# these are in both samples all but certainly. Chosen, not measured.
_SAMPLE = 128


def looks_path(run: Path) -> Path:
    """Where the looks at the runs of a folder are kept."""
    return run.with_name("looks.json")


class Look(NamedTuple):
    """One look at the certify rows, before it is taken."""

    number: int | None
    """From 1; `None` for the only one there will be, which has the whole error budget."""
    path: Path
    data_hash: str
    mark: str
    sample: list[str]

    def remember(self) -> None:
        """Note it, before it is taken; one that was there already is not noted again.

        Hold the folder from `next_look` to here, so that no other process takes the same number.

        Raises
        ------
        RecordingError
            The file of looks cannot be written, so that the result must not be used.
        """
        every = _read(self.path)
        seen = every.setdefault(self.data_hash, {"looks": {}, "rows": self.sample})
        if self.mark not in seen["looks"]:
            seen["looks"][self.mark] = self.number
            _write(self.path, every)


def next_look(run: Path, data_hash: str, rows: Iterable[str], question: Mapping[str, Any], *, only: bool) -> Look:
    """The look at a run that this question is.

    Parameters
    ----------
    run
        The run file.
    data_hash
        Digest of the rows and labels.
    rows
        What tells each row from others, in whichever file it is.
    question
        Everything that the outcome depends on beside the data.
    only
        Spend the whole budget on this look, so that no other can follow.

    Raises
    ------
    TuningError
        The whole budget is spent, or would be although there were looks before.
    RecordingError
        The file of looks cannot be read.
    """
    path, mark = looks_path(run), digest(question)
    every, sample = _read(path), _sample(rows)
    own = every[data_hash]["looks"] if data_hash in every else {}
    if mark in own and (not only or own[mark] is None):
        return Look(own[mark], path, data_hash, mark, sample)
    shared = [one["looks"].values() for one in every.values() if not set(sample).isdisjoint(one["rows"])]
    seen = [number for numbers in shared for number in numbers]
    if None in seen:
        raise TuningError(
            f"{path}: the whole error budget of these rows, or of some of them, was spent on an earlier look; tune on "
            "fresh rows alone",
            needed=1,
        )
    if only and seen:
        raise TuningError(
            f"{path}: these rows, or some of them, were looked at {len(seen)} times already; leave --only-look "
            "away, or tune on fresh rows alone",
            needed=1,
        )
    return Look(None if only else len(seen) + 1, path, data_hash, mark, sample)


def _sample(rows: Iterable[str]) -> list[str]:
    return sorted({sha256(row.encode("utf-8", "surrogatepass")).hexdigest()[:16] for row in rows})[:_SAMPLE]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read; mend or delete it", path=str(path), line=None) from error
    if not isinstance(found, dict) or not all(map(_is_seen, found.values())):
        raise RecordingError(f"{path}: is no list of looks; mend or delete it", path=str(path), line=None)
    return found


def _is_seen(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("looks"), dict) and isinstance(one.get("rows"), list)


def _write(path: Path, every: Mapping[str, Mapping[str, Any]]) -> None:
    try:
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be written ({error.strerror}); copy the run to where it can be", path=str(path), line=None
        ) from error
