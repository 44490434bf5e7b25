"""Tuned artefacts, `policies/tuned/<task>.json`: calibrators as plain numbers, never a pickle."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from router.core.calibration import Calibrator
from router.core.params import suggestion
from router.core.policy import STRICT, Limit, Name, Policy, Text, Unbuilt
from router.core.signals import FREE_SIGNALS
from router.errors import PolicyError
from router.spec.document import MAX_BYTES, dotted

_MAX_BYTES = 4 * MAX_BYTES  # An isotonic curve may have thousands of knots.
_LOCAL = "local/"  # What `router distill` wrote may wait for its place in the policy.


@dataclass(frozen=True, slots=True)
class ModelCalibrators:
    """The calibrators of one model of the ladder."""

    __pydantic_config__ = STRICT

    model: Name
    """The model's name in the policy."""
    litellm: Text
    """What the name stood for when it was fitted; another model needs another calibrator."""
    calibrators: Annotated[tuple[Calibrator, ...], Limit(min_length=1, max_length=16)]
    """One for each set of signals that may be known, the best first; the first that has all its signals is used."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """What tuning found for one task."""

    __pydantic_config__ = STRICT

    version: Literal[1]
    """Version of this format."""
    task: Name
    """The task it belongs to."""
    models: tuple[ModelCalibrators, ...]
    """Calibrators by model."""
    plan: Annotated[Mapping[str, Any] | None, Unbuilt] = None
    """The chosen plan with its thresholds."""
    certificate: Annotated[Mapping[str, Any] | None, Unbuilt] = None
    """The statement behind the plan."""
    provenance: Mapping[str, Any] | None = None
    """Where the numbers come from, by model: data, rows, versions. Not used, only kept."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """An artefact in force."""

    calibrators: Mapping[str, tuple[Calibrator, ...]]
    """By model name."""
    source: str
    """What an answer names as the source of its confidence."""


def load_tuned(folder: Path, task: str, policy: Policy) -> Tuned | None:
    """The artefact of a task, or `None` when it has not been tuned.

    Raises
    ------
    PolicyError
        The file cannot be used: broken JSON, a number that is not finite, an unknown signal, or another model.
    """
    path = folder / "tuned" / f"{task}.json"
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PolicyError(f"cannot be read ({error.strerror})", path=str(path)) from error
    if len(raw) > _MAX_BYTES:
        raise PolicyError(f"is larger than {_MAX_BYTES:,} bytes; it was not written by the tuner", path=str(path))
    try:
        artefact = TypeAdapter(Artefact).validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PolicyError(_told(first), path=str(path), where=dotted(first["loc"])) from None
    _check(artefact, path, task, policy)
    calibrators = {entry.model: entry.calibrators for entry in artefact.models}
    return Tuned(calibrators, f"tuned:{hashlib.sha256(raw).hexdigest()[:12]}")


def _told(entry: Mapping[str, Any]) -> str:
    """One of pydantic's findings in our words, with the remedy."""
    kind, name = entry["type"], str(entry["loc"][-1]) if entry["loc"] else ""
    if kind == "json_invalid":
        return f"is no JSON ({entry['ctx']['error']}); restore it, or delete it and tune the task again"
    if kind in ("missing", "missing_argument"):
        return f"{name!r} is missing; add it"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {name!r}; remove it"
    message = str(entry["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    problem = re.sub(r"^(?:Input|String|Tuple) should", "should", message)
    if isinstance(value := entry["input"], str | int | float) and kind != "value_error":
        problem += f", found {value!r:.60}"
    return f"{problem}; restore the file, or delete it and tune the task again"


def write_tuned(folder: Path, task: str, entry: ModelCalibrators, provenance: Mapping[str, Any]) -> Path:
    """Put one model's calibrators and their provenance into the artefact of a task; all that is others' stays.

    Two processes that may write at once hold `exclusive` meanwhile, or one of them is lost.

    Raises
    ------
    PolicyError
        The artefact that is there cannot be read.
    """
    path = folder / "tuned" / f"{task}.json"
    adapter = TypeAdapter(Artefact)
    before = Artefact(version=1, task=task, models=())
    if path.exists():
        try:
            before = adapter.validate_json(path.read_bytes())
        except ValidationError as error:
            raise PolicyError("cannot be read, so nothing was written; delete it first", path=str(path)) from error
    others = tuple(one for one in before.models if one.model != entry.model)
    known = {**(before.provenance or {}), entry.model: dict(provenance)}
    artefact = replace(before, models=(*others, entry), provenance=known)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(adapter.dump_json(artefact, indent=2, exclude_none=True) + b"\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Wait until no other process holds this folder; a process that dies lets go of it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _check(artefact: Artefact, path: Path, task: str, policy: Policy) -> None:
    def refuse(problem: str, where: str) -> PolicyError:
        return PolicyError(problem, path=str(path), where=where)

    if artefact.task != task:
        raise refuse(f"belongs to task {artefact.task!r}, not to {task!r}; tune that task", "task")
    for part in ("plan", "certificate"):
        if getattr(artefact, part) is not None:
            raise refuse("is part of the format but not built yet; remove it", part)
    for index, entry in enumerate(artefact.models):
        model = policy.models.get(entry.model)
        if model is None and entry.litellm.startswith(_LOCAL):
            continue
        if model is None:
            raise refuse(f"unknown model {entry.model!r}; {suggestion(entry.model, policy.models)}", f"models.{index}")
        if model.litellm != entry.litellm:
            raise refuse(
                f"was fitted on {entry.litellm!r}, but {entry.model!r} is now {model.litellm!r}; tune the task again",
                f"models.{index}",
            )
        unknown = {name for one in entry.calibrators for name in one.signals} - set(FREE_SIGNALS)
        if unknown:
            name = min(unknown)
            raise refuse(f"unknown signal {name!r}; {suggestion(name, FREE_SIGNALS)}", f"models.{index}")
