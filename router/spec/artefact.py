"""Tuned artefacts, `policies/tuned/<task>.json`: calibrators as plain numbers, never a pickle."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from router.core.binding import digest
from router.core.calibration import Calibrator
from router.core.evidence import BLOCKS
from router.core.grammar import STRICT, Key, Limit, Name, Text
from router.core.ladder import KINDS, model_of
from router.core.panel import PANEL_SIGNALS
from router.core.params import suggestion
from router.core.plan import Panel, Panels
from router.core.policy import Policy
from router.core.signals import FREE_SIGNALS
from router.core.tuned import Certificate, TunedPlan
from router.core.word_scores import WORD_SIGNALS, Words, WordSignal
from router.errors import PolicyError
from router.spec.document import MAX_BYTES, dotted

_MAX_BYTES = 4 * MAX_BYTES  # An isotonic curve may have thousands of knots.
_LOCAL = "local/"  # What `router distill` wrote may wait for its place in the policy.


@dataclass(frozen=True, slots=True)
class ModelCalibrators:
    """The calibrators of one model of the ladder."""

    __pydantic_config__ = STRICT

    model: Key
    """The model's name in the policy."""
    litellm: Text
    """What the name stood for when it was fitted; another model needs another calibrator."""
    calibrators: Annotated[tuple[Calibrator, ...], Limit(min_length=1, max_length=16)]
    """One for each set of signals that may be known, the best first; the first that has all its signals is used."""
    last: Annotated[tuple[Calibrator, ...], Limit(max_length=16)] = ()
    """The same for the chance that the plan's last rung would be right, seen this draft; the gain is made of it."""
    prompt: Annotated[tuple[Calibrator, ...], Limit(max_length=16)] = ()
    """The confidence that is known before the model is asked, from the prompt alone; what a gate compares."""
    words: Mapping[WordSignal, Words] = field(default_factory=dict)
    """What the words of a prompt and of a draft say; calibrators name them as signals."""


@dataclass(frozen=True, slots=True)
class PanelCalibrators:
    """The calibrators of what the first members of a panel say together."""

    __pydantic_config__ = STRICT

    members: Annotated[tuple[Key, ...], Limit(min_length=2, max_length=8)]
    """Those that have been asked, in order; `small#2` is the second time that `small` is, `judge:mid` a question."""
    calibrators: Annotated[tuple[Calibrator, ...], Limit(min_length=1, max_length=16)]
    """Confidence in the panel's answer."""
    last: Annotated[tuple[Calibrator, ...], Limit(max_length=16)] = ()
    """The chance that the plan's last rung would be right."""


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
    plan: TunedPlan | None = None
    """The chosen plan with its thresholds; without one the policy's ladder and threshold hold."""
    certificate: Certificate | None = None
    """The statement behind the plan."""
    served: Mapping[Name, tuple[Text, ...]] = field(default_factory=dict)
    """By model, the ids that providers served in the eval run; another one makes the certificate stale."""
    panels: tuple[PanelCalibrators, ...] = ()
    """Calibrators of panels, one entry for each number of members that were asked."""
    provenance: Mapping[str, Any] | None = None
    """Where the numbers come from, by model: data, rows, versions. Not used, only kept."""
    digest: Text | None = None
    """Of all the rest as it was written. It tells an edit by hand from what was measured; it is no protection against
    somebody who means to deceive."""


_ADAPTER = TypeAdapter(Artefact)


@dataclass(frozen=True, slots=True)
class Tuned:
    """An artefact in force."""

    calibrators: Mapping[str, tuple[Calibrator, ...]]
    """By model name."""
    source: str
    """What an answer names as the source of its confidence."""
    plan: TunedPlan | None = None
    """What calls follow instead of the policy's ladder and threshold, while the certificate binds."""
    certificate: Certificate | None = None
    last: Mapping[str, tuple[Calibrator, ...]] = field(default_factory=dict)
    """Calibrators of the chance that the plan's last rung would be right, by model name."""
    prompt: Mapping[str, tuple[Calibrator, ...]] = field(default_factory=dict)
    """Calibrators of what a gate compares, by model name."""
    words: Mapping[str, Mapping[WordSignal, Words]] = field(default_factory=dict)
    """What words say, by model name."""
    panels: Panels = field(default_factory=dict)
    """What panels say, by the members asked so far."""
    served: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By model name, the ids that the run was served by."""
    path: str = ""
    """The file."""
    run: str = ""
    """The eval run that it was tuned on, where it says so."""
    digest: str = ""
    """What the file says it held when it was written; empty in files older than digests."""
    edited: bool = False
    """Whether it holds something else by now."""

    @property
    def own_signals(self) -> tuple[str, ...]:
        """The application's own signals that the certificate's plan reads."""
        return _own_signals(self.certificate)

    def named(self, model: str) -> list[str]:
        """The signals of a model's drafts that some calibrator names."""
        fitted = (*self.calibrators.get(model, ()), *self.last.get(model, ()))
        return sorted({name for one in fitted for name in one.signals})


def load_tuned(folder: Path, task: str, policy: Policy, *, own_signals: Collection[str] = ()) -> Tuned | None:
    """The artefact of a task, or `None` when it has not been tuned; `own_signals` are the application's.

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
        artefact = _ADAPTER.validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PolicyError(_told(first), path=str(path), where=dotted(first["loc"])) from None
    _check(artefact, path, task, policy, own_signals)
    by_model = {
        part: {entry.model: getattr(entry, part) for entry in artefact.models if getattr(entry, part)}
        for part in ("calibrators", "last", "prompt", "words")
    }
    source = f"tuned:{hashlib.sha256(raw).hexdigest()[:12]}"
    return Tuned(
        source=source,
        plan=artefact.plan,
        certificate=artefact.certificate,
        served=artefact.served,
        panels={one.members: Panel(one.calibrators, one.last) for one in artefact.panels},
        path=str(path),
        run=str((artefact.provenance or {}).get("run", "")),
        digest=artefact.digest or "",
        edited=_edited(artefact, raw),
        **by_model,
    )


def _told(entry: Mapping[str, Any]) -> str:
    """One of pydantic's findings in our words, with the remedy."""
    kind, name = entry["type"], str(entry["loc"][-1]) if entry["loc"] else ""
    if kind == "json_invalid":
        return f"is no JSON ({entry['ctx']['error']}); restore it, or delete it and tune the task again"
    if kind in ("missing", "missing_argument"):
        return f"{name!r} is missing; add it"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {name!r}; another release wrote the file: delete it and tune the task again"
    message = str(entry["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    problem = re.sub(r"^(?:Input|String|Tuple) should", "should", message)
    if isinstance(value := entry["input"], str | int | float) and kind != "value_error":
        problem += f", found {value!r:.60}"
    return f"{problem}; restore the file, or delete it and tune the task again"


def write_tuned(folder: Path, task: str, entry: ModelCalibrators, provenance: Mapping[str, Any]) -> Path:
    """Put one model's calibrators and their provenance into the artefact of a task; all that is others' stays.

    Two processes that may write at once hold `exclusive` meanwhile, or one of them is lost.

    A plan that asks this model goes with its certificate: what was certified was another model.

    Raises
    ------
    PolicyError
        The artefact that is there cannot be read, or was edited by hand.
    """
    path = folder / "tuned" / f"{task}.json"
    before = Artefact(version=1, task=task, models=())
    if path.exists():
        try:
            raw = path.read_bytes()
            before = _ADAPTER.validate_json(raw)
        except ValidationError as error:
            raise PolicyError("cannot be read, so nothing was written; delete it first", path=str(path)) from error
        if _edited(before, raw):  # A new digest would pass the edit off as measured.
            raise PolicyError(
                "was edited by hand, so nothing was written; restore it, or delete it first",
                path=str(path),
            )
    if before.plan and entry.model in before.plan.models:
        before = replace(before, plan=None, certificate=None, served={}, panels=())
    others = tuple(one for one in before.models if one.model != entry.model)
    known = {**(before.provenance or {}), entry.model: dict(provenance)}
    return write_artefact(folder, replace(before, models=(*others, entry), provenance=known))


def write_artefact(folder: Path, artefact: Artefact) -> Path:
    """Write the artefact of a task with its digest, whole or not at all."""
    path = folder / "tuned" / f"{artefact.task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        sealed = replace(artefact, digest=_content_digest(_dumped(replace(artefact, digest=None))))
        draft.write_bytes(_dumped(sealed) + b"\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _dumped(artefact: Artefact) -> bytes:
    return _ADAPTER.dump_json(artefact, indent=2, exclude_none=True)


def _edited(artefact: Artefact, raw: bytes) -> bool:
    """Whether a file no longer holds what was written; one that is older than digests cannot tell."""
    return artefact.digest is not None and artefact.digest != _content_digest(raw)


def _content_digest(raw: bytes) -> str:
    """Of every value in a file but its digest, the same however its JSON is laid out."""
    content = json.loads(raw, parse_float=_number)
    content.pop("digest", None)
    return digest(content)


def _number(text: str) -> float | int:
    """1.0 and 1 are one number, and some formatters write the one for the other."""
    value = float(text)
    return int(value) if value.is_integer() else value


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


def _check(artefact: Artefact, path: Path, task: str, policy: Policy, own_signals: Collection[str]) -> None:
    def refuse(problem: str, where: str) -> PolicyError:
        return PolicyError(problem, path=str(path), where=where)

    if artefact.task != task:
        raise refuse(f"belongs to task {artefact.task!r}, not to {task!r}; tune that task", "task")
    if artefact.certificate:
        try:
            date.fromisoformat(artefact.certificate.expires or "2000-01-01")
        except ValueError:
            raise refuse("is no date; write it like 2026-11-20", "certificate.expires") from None
    if problem := _unproven(artefact):
        raise refuse(f"{problem}; restore the file, or run `router tune {task} --write`", "plan")
    if found := next(chain(_signal_problems(artefact, own_signals), _without_last(artefact)), None):
        raise refuse(*found)
    for index, entry in enumerate(artefact.models):
        # Whether the models of a certificate are still those of the policy is a question of staleness.
        certificate = artefact.certificate
        if problem := _other_model(entry, certificate) if certificate else _model_problem(entry, policy):
            raise refuse(problem, f"models.{index}")


def _unproven(artefact: Artefact) -> str:
    """Where the plan is not the one that the certificate speaks of."""
    plan, certificate = artefact.plan, artefact.certificate
    if plan is None:
        return ""
    if certificate is None:
        return "has no certificate behind it"
    if other := sorted(set(certificate.statements) ^ (set(plan.groups) if plan.group else {"all"})):
        return f"plan and certificate are not of the same groups: only one of them has {other[0]!r}"
    if plan.group is None:
        return ""
    ladder = certificate.binds_to.get("ladder")
    top = ladder[-1] if isinstance(ladder, Sequence) and ladder else plan.rungs[-1].model
    if len(plan.rungs) > 1 or plan.rungs[0].model != top:
        return f"calls of a group without a certificate must ask {top!r} alone"
    return ""


def _without_last(artefact: Artefact) -> Iterator[tuple[str, str]]:
    """Rungs by gain without one of the two chances that it is made of: their drafts would all be paid and dropped."""
    plan = artefact.plan
    known: set[tuple[str, ...]] = {(entry.model,) for entry in artefact.models if entry.last}
    known |= {entry.members for entry in artefact.panels if entry.last}
    for rungs in (plan.rungs, *plan.groups.values()) if plan else ():
        for rung in rungs[:-1]:
            judged = rung.by == "gain" and rung.threshold is not None
            states = [rung.keys[:size] for size in range(1, len(rung.keys) + 1)] if judged else []
            if lacking := next((state for state in states if state not in known), None):
                yield (
                    f"the plan asks {' + '.join(lacking)} by gain, and `last` has no calibrators of that; restore the "
                    f"file, or delete it and run `router tune {artefact.task} --write`",
                    "plan",
                )


def _other_model(entry: ModelCalibrators, certificate: Certificate) -> str:
    models = certificate.binds_to.get("models")
    told = models.get(model_of(entry.model)) if isinstance(models, Mapping) else None
    if not isinstance(told, Mapping) or told.get("litellm") == entry.litellm:
        return ""
    return (
        f"was fitted on {entry.litellm!r}, but the certificate is of {told.get('litellm')!r}; restore the file, or run "
        "`router tune --write`"
    )


def _model_problem(entry: ModelCalibrators, policy: Policy) -> str:
    model = policy.models.get(model_of(entry.model))
    if model is None and entry.litellm.startswith(_LOCAL):
        return ""
    if model is None:
        return f"unknown model {entry.model!r}; {suggestion(entry.model, policy.models)}"
    if model.litellm != entry.litellm:
        return f"was fitted on {entry.litellm!r}, but {entry.model!r} is now {model.litellm!r}; tune the task again"
    return ""


def _own_signals(certificate: Certificate | None) -> tuple[str, ...]:
    told = certificate.binds_to.get("own_signals") if certificate else None
    return tuple(name for name in told if isinstance(name, str)) if isinstance(told, Sequence) else ()


def _signal_problems(artefact: Artefact, own_signals: Collection[str]) -> Iterator[tuple[str, str]]:
    """What calibrators name that nobody reads, each with its place."""
    for index, panel in enumerate(artefact.panels):
        if problem := _unknown_signal((*panel.calibrators, *panel.last), {*FREE_SIGNALS, *PANEL_SIGNALS, *KINDS}):
            yield problem, f"panels.{index}"
    known = {*own_signals, *_own_signals(artefact.certificate)}
    for index, entry in enumerate(artefact.models):
        if problem := _signal_problem(entry, known):
            yield problem, f"models.{index}"


def _signal_problem(entry: ModelCalibrators, own_signals: Collection[str]) -> str:
    fitted = (*entry.calibrators, *entry.last, *entry.prompt)
    known = {*FREE_SIGNALS, *BLOCKS, *entry.words, *own_signals}
    lacking = sorted({name for one in fitted for name in one.signals} & WORD_SIGNALS.keys() - known)
    if lacking:
        return (
            f"a calibrator names {lacking[0]!r}, which `words` does not have; restore the file, or tune the task again"
        )
    return _unknown_signal(fitted, known)


def _unknown_signal(fitted: Sequence[Calibrator], known: Collection[str]) -> str:
    name = min({name for one in fitted for name in one.signals} - set(known), default="")
    registered = "one of your own must be registered with `Router(signals=...)`"
    return f"unknown signal {name!r}; {suggestion(name, sorted(known))}; {registered}" if name else ""
