"""Copies of every policy that was in force, by its hash, so that an earlier one can be had back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from router.errors import PolicyError
from router.spec.load import Loaded, load, policy_files, policy_source

FOLDER = "policies"
_HASH_DIGITS = 16


class Restored(NamedTuple):
    """What a rollback did."""

    policy_hash: str
    written: tuple[Path, ...]
    removed: tuple[Path, ...]
    """Files that the earlier policy did not have; they are in `saved`, like all others."""
    saved: Path
    """Folder with the files as they were."""


def keep(loaded: Loaded, home: Path, draft: str) -> None:
    """Copy the files of a policy, unless there is one, the disk refuses it, or the files are another policy by now.

    `draft` is a name of its own.
    """

    def is_this_policy(copied: Path) -> bool:
        return load(copied, environment=loaded.environment).policy_hash == loaded.policy_hash

    if loaded.source is not None:
        with suppress(OSError, PolicyError):
            place = home / FOLDER / loaded.policy_hash
            if not place.exists():
                _copy(policy_files(loaded.source), place, draft, is_this_policy)


def kept(home: Path) -> set[str]:
    """The hashes of which there is a copy."""
    return {path.name for path in (home / FOLDER).glob("?" * _HASH_DIGITS)}


def restore(home: Path, wanted: str, *, source: str | Path | None, environment: str | None, draft: str) -> Restored:
    """Write the files of an earlier policy back, after a copy of the present ones.

    Parameters
    ----------
    home
        Folder of ledger and copies.
    wanted
        Hash of the earlier policy.
    source
        Policy file or folder that is written; as for `load`.
    environment
        Overlay with which the earlier policy was in force.
    draft
        A name of its own for the copy of the present files.

    Raises
    ------
    PolicyError
        There is no copy, it is another policy in this environment or has other files than the one that is given, or a
        file cannot be written.
    """
    place = home / FOLDER / wanted
    if not place.is_dir():
        raise PolicyError(f"there is no copy of policy {wanted!r}; `router policy history` lists those there are")
    found = load(place, environment=environment).policy_hash
    if found != wanted:
        raise PolicyError(
            f"the copy of {wanted} is policy {found} in this environment; give --env as it was when that was in force"
        )
    root = policy_source(source)
    copies = policy_files(place)
    is_file = root.is_file() or (root.suffix in (".yml", ".yaml") and not root.is_dir())
    if is_file and [copy.name for copy in copies] != [root.name]:  # Beside it may be files of other policies.
        names = ", ".join(copy.name for copy in copies)
        raise PolicyError(
            f"the copy of {wanted} holds {names}; give the folder or the file that is to be", path=str(root)
        )
    folder = root.parent if is_file else root
    saved = home / FOLDER / f"before-{draft}"
    try:
        present = policy_files(root) if root.exists() else []
        _copy(present, saved, f"{draft}-saved")
        folder.mkdir(parents=True, exist_ok=True)
        written = tuple(_replace(copy, folder / copy.name, draft) for copy in copies)
        removed = tuple(path for path in present if path.name not in {copy.name for copy in copies})
        for path in removed:
            path.unlink()
    except OSError as error:
        raise PolicyError(
            f"cannot be written ({error.strerror}); the files as they were are in {saved}", path=error.filename
        ) from error
    return Restored(wanted, written, removed, saved)


def _copy(files: list[Path], place: Path, draft: str, is_good: Callable[[Path], bool] = Path.is_dir) -> None:
    """Copy files to a new folder, which gets its name when it is whole and good."""
    unfinished = place.with_name(f".{draft}")
    for folder in (place.parent.parent, place.parent, unfinished):  # `mode` is only for the last that is made.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        for path in files:
            shutil.copyfile(path, unfinished / path.name)
        if is_good(unfinished):
            unfinished.rename(place)
    except OSError:
        if not place.is_dir():  # Otherwise another process was first.
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _replace(copy: Path, path: Path, draft: str) -> Path:
    """Put a copy in the place of a file, so that a reader sees one of them whole."""
    unfinished = path.with_name(f".{path.name}.{draft}")
    shutil.copyfile(copy, unfinished)
    return unfinished.replace(path)
