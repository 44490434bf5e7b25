"""How often the certify rows of a data set were looked at: each look has half of what is left of the error budget.

Kept by digest of the data in one small file for all runs of a folder, so that a copy of a run is no fresh one. The same
question asked again gives the same answer and is no new look.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from router.core.binding import digest
from router.errors import RecordingError, TuningError

# Marks the only look at some rows.
_ONLY = "only:"


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

    def remember(self) -> None:
        """Note it, before it is taken; one that was there already is not noted again.

        Hold the folder from `next_look` to here, so that no other process takes the same number.

        Raises
        ------
        RecordingError
            The file of looks cannot be written, so that the result must not be used.
        """
        every = _read(self.path)
        seen = every.setdefault(self.data_hash, [])
        if self.mark not in seen:
            seen.append(self.mark)
            _write(self.path, every)


def next_look(run: Path, data_hash: str, question: Mapping[str, Any], *, only: bool) -> Look:
    """The look at a run that this question is.

    Parameters
    ----------
    run
        The run file.
    data_hash
        Digest of the rows and labels.
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
    path = looks_path(run)
    seen = _read(path).get(data_hash, [])
    mark = digest(question)
    if f"{_ONLY}{mark}" in seen:
        return Look(None, path, data_hash, f"{_ONLY}{mark}")
    if any(one.startswith(_ONLY) for one in seen):
        raise TuningError(
            f"{path}: the whole error budget of these rows was spent on an earlier look; add fresh rows", needed=1
        )
    if mark in seen:
        return Look(seen.index(mark) + 1, path, data_hash, mark)
    if only and seen:
        raise TuningError(
            f"{path}: these rows were looked at {len(seen)} times already; leave --only-look away, or add fresh rows",
            needed=1,
        )
    return Look(None if only else len(seen) + 1, path, data_hash, f"{_ONLY}{mark}" if only else mark)


def _read(path: Path) -> dict[str, list[str]]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read; mend or delete it", path=str(path), line=None) from error
    if not isinstance(found, dict) or not all(isinstance(seen, list) for seen in found.values()):
        raise RecordingError(f"{path}: is no list of looks; mend or delete it", path=str(path), line=None)
    return found


def _write(path: Path, every: Mapping[str, list[str]]) -> None:
    try:
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be written ({error.strerror}); copy the run to where it can be", path=str(path), line=None
        ) from error
