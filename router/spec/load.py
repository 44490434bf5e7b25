"""Find policy files, merge them, validate them into a `Policy`, and say where each fault stands."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from router.core.dated import starts_s
from router.core.params import RESERVED_PARAMS, suggestion
from router.core.policy import AnswerKind, Policy, Price
from router.errors import PolicyError, shown
from router.spec.allowances import allowance_problems
from router.spec.document import Document, Path_, dotted, merge, read_document
from router.spec.ladders import NO_RUNG, ladder_problems
from router.spec.schema import allowed_keys, schema_problem, unbuilt_fields

ENVIRONMENT_VARIABLE = "ROUTER_ENV"
POLICIES_VARIABLE = "ROUTER_POLICIES"
DEFAULT_FOLDER = "policies"

# As many as a person mends before the next try.
_MOST_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy and where it comes from."""

    policy: Policy
    policy_hash: str
    """Changes whenever any value of the policy changes."""
    files: tuple[Path, ...]
    folder: Path | None
    """Where `tuned/` stands; `None` for a policy that was built in Python."""
    document: Document
    source: Path | None = None
    """The file or folder that was read."""
    environment: str | None = None
    """The overlay that was applied."""


@dataclass(frozen=True, slots=True)
class _Problem:
    where: Path_
    text: str


def load_policy(source: str | Path | None = None, *, environment: str | None = None) -> Policy:
    """The policy of a file or folder, checked in full.

    Parameters
    ----------
    source
        A YAML file or a folder of them; `ROUTER_POLICIES`, else `./policies`, when missing.
    environment
        Name of the overlay to apply; `ROUTER_ENV` when missing.

    Raises
    ------
    PolicyError
        There is no policy, or it has a fault: names file, line, path and remedy.
    """
    return load(source, environment=environment).policy


def load(source: str | Path | None = None, *, environment: str | None = None) -> Loaded:
    """The same, with its hash and its files."""
    root = policy_source(source)
    environment = environment or os.environ.get(ENVIRONMENT_VARIABLE) or None
    document, used = _merge_files(policy_files(root), environment)
    loaded = _loaded(document, used, root if root.is_dir() else root.parent, root)
    return replace(loaded, environment=environment)


def loaded_of(policies: str | Path | Policy | Loaded | None, environment: str | None = None) -> Loaded:
    """Policies however they were given."""
    if isinstance(policies, Loaded):
        return policies
    return adopt(policies) if isinstance(policies, Policy) else load(policies, environment=environment)


def policy_source(source: str | Path | None) -> Path:
    """Where policies are read from: the argument, `ROUTER_POLICIES`, else `./policies`."""
    return Path(source or os.environ.get(POLICIES_VARIABLE) or DEFAULT_FOLDER)


def adopt(policy: Policy) -> Loaded:
    """A policy that was built in Python, checked like one that was read."""
    try:
        given = _adapter().dump_python(policy, warnings=False)
        data = _adapter().dump_python(policy, mode="json", exclude_none=True, warnings=False)
        json.dumps(data)
    except ValueError as error:
        raise PolicyError("holds a value that no file could; use text, numbers, lists and mappings") from error
    _refuse_endless(given, ())
    return _loaded(Document(data), (), None)


def _refuse_endless(value: Any, where: Path_) -> None:
    """NaN and infinity: JSON has no word for them, so that a limit would turn into none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PolicyError(f"should be a finite number, found {value}", where=dotted(where))
    if isinstance(value, Mapping | list | tuple):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            _refuse_endless(part, (*where, key))


def _loaded(document: Document, files: tuple[Path, ...], folder: Path | None, source: Path | None = None) -> Loaded:
    policy = _validate(document)
    canonical = json.dumps(document.data, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Loaded(policy, digest, files, folder, document, source)


def policy_files(root: Path) -> list[Path]:
    """The policy files of a folder, overlays included, or the one file.

    Raises
    ------
    PolicyError
        There is none.
    """
    if root.is_file():
        return [root]
    files = sorted(path for path in root.glob("*.y*ml") if path.suffix in (".yml", ".yaml")) if root.is_dir() else []
    if not files:
        what = "holds no policy (*.yml)" if root.is_dir() else "is not there"
        raise PolicyError(
            f"{what}; run `router init` to write one from a template, or set {POLICIES_VARIABLE}", path=str(root)
        )
    return files


def _merge_files(files: list[Path], environment: str | None) -> tuple[Document, tuple[Path, ...]]:
    documents = {path: read_document(path) for path in files}
    overlays = {path: d for path, d in documents.items() if isinstance(d.data.get("environment"), str)}
    merged = Document(marks={(): (str(files[0]), 1)})
    used: list[Path] = []
    for path, document in documents.items():
        _refuse_version(document)
        if path not in overlays:
            _refuse_twice(merged, document)
            merged = merge(merged, document)
            used.append(path)
    chosen = [path for path, document in overlays.items() if document.data["environment"] == environment]
    if environment and not chosen:
        known = sorted({document.data["environment"] for document in overlays.values()})
        raise PolicyError(
            f"no file says `environment: {environment}`; there is {', '.join(known) or 'no overlay'}",
            path=str(files[0].parent),
        )
    for path in chosen:
        merged = merge(merged, documents[path])
        used.append(path)
    if not used:
        raise PolicyError(
            f"is an overlay for environment {documents[files[0]].data['environment']!r}; "
            "give the folder that has the file it changes, too",
            path=str(files[0]),
        )
    return merged, tuple(used)


def _refuse_version(document: Document) -> None:
    """Each file by itself: after the merge, only the last file's version would be seen, and `true` equals 1."""
    version = document.data.get("version", 1)
    if type(version) is not int or version != 1:
        path, line = document.locate(("version",))
        raise PolicyError(f"should be 1, found {version!r:.60}", path=path, line=line, where="version")


def _refuse_twice(merged: Document, document: Document) -> None:
    """Two base files may not define the same name: which one counts would hang on the file's name."""
    for part, entries in document.data.items():
        known = merged.data.get(part)
        if part == "version":
            continue
        twice = (
            [part] if not isinstance(known, dict) or not isinstance(entries, dict) else sorted({*known} & {*entries})
        )
        if known is not None and twice:
            where: Path_ = (part,) if twice == [part] else (part, twice[0])
            path, line = document.locate(where)
            other, other_line = merged.locate(where)
            raise PolicyError(
                f"is defined in {other}:{other_line} too; "
                "keep one, or mark this file as an overlay with `environment:`",
                path=path,
                line=line,
                where=dotted(where),
            )


@functools.cache
def _adapter() -> TypeAdapter[Policy]:
    """Built once: that takes longer than a load."""
    return TypeAdapter(Policy)


def _validate(document: Document) -> Policy:
    try:
        text = json.dumps(document.data)
        policy = _adapter().validate_json(text.encode("utf-8", "surrogatepass"))
    except ValidationError as error:
        raise _policy_error(document, list(_explain(document.data, error))) from None
    if problems := list(_cross_check(policy)):
        raise _policy_error(document, problems)
    return policy


def _policy_error(document: Document, problems: list[_Problem]) -> PolicyError:
    """One error for all problems, in the order of the files."""
    located = [(*document.locate(problem.where), problem) for problem in problems]
    placed = sorted(located, key=lambda place: (place[0] or "", place[1] or 0))
    errors = [
        PolicyError(problem.text, path=path, line=line, where=dotted(problem.where)) for path, line, problem in placed
    ]
    path, line, first = placed[0]
    others = tuple(str(error) for error in errors[1:_MOST_PROBLEMS])
    if len(errors) > _MOST_PROBLEMS:
        others += (f"and {len(errors) - _MOST_PROBLEMS:,} more",)
    return PolicyError(first.text, path=path, line=line, where=dotted(first.where), others=others)


def _explain(data: Any, error: ValidationError) -> Iterator[_Problem]:
    """Pydantic's findings in our words, without those of union branches that were never meant."""
    found: dict[Path_, list[tuple[str, str]]] = {}
    for entry in error.errors(include_url=False):
        where, value = _data_path(data, entry["loc"])
        if where[:1] == ("tasks",) and where[2:3] == ("ladder",) and len(where) > 3 and not isinstance(value, str):
            found[where[:4]] = [("rung", NO_RUNG)]
            continue
        found.setdefault(where, []).append((entry["type"], _text(entry, where, value)))
    for where, entries in found.items():
        # A branch for another type only says that the value has not its type.
        telling = [(kind, text) for kind, text in entries if not kind.endswith("_type")] or entries
        # Pydantic counts the good items of a list only, and the bad ones are told by themselves.
        if telling[0][0] != "too_short" or not any(where == other[:-1] for other in found if other):
            yield _Problem(where, telling[0][1])


def _data_path(data: Any, loc: tuple[str | int, ...]) -> tuple[Path_, Any]:
    """The part of pydantic's location that exists in the data; the rest names types."""
    where: list[str | int] = []
    for part in loc:
        is_key = isinstance(data, dict) and part in data
        is_index = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if is_key or is_index:
            data = data[part]
            where.append(part)
    return tuple(where), data


def _text(entry: Mapping[str, Any], where: Path_, value: Any) -> str:
    kind = entry["type"]
    name = str(entry["loc"][-1]) if entry["loc"] else ""
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        if name in RESERVED_PARAMS:
            return f"unknown key {name!r}: {RESERVED_PARAMS[name]}"
        keys = allowed_keys(where[:-1])
        unit = " Prices are US dollars, those of tokens per million." if "price" in where[:-1] else ""
        return f"unknown key {shown(name)}; {suggestion(name, keys)}{unit}"
    if kind in ("missing", "missing_argument"):
        return f"{name!r} is missing; add it"
    if kind == "string_pattern_mismatch" and "api_key_env" in where:
        # Whoever put the key itself here must not find it in a log.
        return "is no name of an environment variable; give a name like OPENAI_API_KEY, never the key"
    if kind == "string_pattern_mismatch":
        return "is no name; use letters, digits and any of ._@+- (a letter or digit first, at most 100 characters)"
    message = str(entry["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^(?:Input|String|Tuple) should", "should", message)
    if kind in ("decimal_parsing", "decimal_type"):
        message = "should be US dollars as a plain number, such as 0.25"
    if name == "gpu_utilisation":
        message += ", a share such as 0.8 for 80 %"
    if (
        isinstance(value, str | int | float | bool)
        and kind != "value_error"
        and not {"headers", "api_key_env"} & {*where}
    ):
        return f"{message}, found {value if not isinstance(value, str) else repr(value[:60])}"
    return message


def _cross_check(policy: Policy) -> Iterator[_Problem]:
    """What the types alone cannot say."""
    for where, name in unbuilt_fields(policy):
        yield _Problem((*where, name), "is part of the grammar but not built yet; remove it")
    for name, model in policy.models.items():
        yield from _reserved(("models", name, "params"), model.params)
        yield from _price_problems(("models", name, "price"), model.price)
    for name, task in policy.tasks.items():
        here: Path_ = ("tasks", name)
        yield from _reserved((*here, "params"), task.params)
        yield from _answer_problems((*here, "answer"), task.answer)
        yield from (_Problem((*here, *where), text) for where, text in ladder_problems(task, policy))
    yield from starmap(_Problem, allowance_problems(policy))


def _price_problems(here: Path_, price: Price) -> Iterator[_Problem]:
    if price.gpu_second_usd is not None and price.gpu_hour_usd is not None:
        yield _Problem((*here, "gpu_hour_usd"), "stands beside gpu_second_usd, and they say the same; keep one")
    shared = (price.gpu_concurrency, price.gpu_utilisation) != (1.0, 1.0)
    if shared and price.gpu_hour_usd is None:
        yield _Problem(here, "gpu_concurrency and gpu_utilisation divide gpu_hour_usd, which is missing; give it")
    yield from _change_problems((*here, "changes"), price.changes or {})
    places = [(one.above_input_tokens, one.service_tier) for one in price.tiers]
    for index, place in enumerate(places):
        if place in [(0, ""), *places[:index]]:
            problem = "holds where other prices hold already; give it its own above_input_tokens or service_tier"
            yield _Problem((*here, "tiers", index), problem)


def _change_problems(here: Path_, changes: Mapping[str, Price]) -> Iterator[_Problem]:
    last_s = None
    for date, price in changes.items():
        try:
            begins_s = starts_s(date)
        except (ValueError, OverflowError):
            yield _Problem((*here, date), "is no date; write 2026-12-01, or 2026-12-01T08:00+08:00 with a time")
            continue
        if last_s is not None and begins_s <= last_s:
            twice = "begins when the one above it does; keep one"
            order = "is before the one above it; put the dates in order"
            yield _Problem((*here, date), twice if begins_s == last_s else order)
        last_s = begins_s
        if price.changes is not None:
            yield _Problem((*here, date, "changes"), "a change has none of its own; put its dates beside this one")
        elif price == Price():
            yield _Problem((*here, date), "changes nothing; name the parts of the price that change, or remove it")
        if price.gpu_second_usd is not None and price.gpu_hour_usd is not None:
            yield _Problem((*here, date), "has gpu_hour_usd and gpu_second_usd, and they say the same; keep one")


def _reserved(here: Path_, params: Mapping[str, Any]) -> Iterator[_Problem]:
    for name in params:
        if name in RESERVED_PARAMS:
            yield _Problem((*here, name), f"{name!r} cannot be a parameter: {RESERVED_PARAMS[name]}")


def _answer_problems(here: Path_, answer: AnswerKind) -> Iterator[_Problem]:
    if answer.choice is not None and not all(map(str.strip, answer.choice)):
        yield _Problem((*here, "choice"), "a label is blank, so that no answer can name it; remove it")
    elif answer.choice is not None and len({label.casefold().strip() for label in answer.choice}) != len(answer.choice):
        yield _Problem((*here, "choice"), "two labels are the same but for upper and lower case; keep one")
    if answer.pattern is not None:
        try:
            re.compile(answer.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield _Problem((*here, "pattern"), f"is no regular expression: {error!s:.300}")
    if answer.number is not None and _is_above(answer.number.min, answer.number.max):
        yield _Problem((*here, "number"), "min is above max, so that no answer can fit; swap them")
    if answer.text is not None and _is_above(answer.text.min_chars, answer.text.max_chars):
        yield _Problem((*here, "text"), "min_chars is above max_chars, so that no answer can fit; swap them")
    if answer.json is not None and (problem := schema_problem(answer.json)):
        yield _Problem((*here, "json"), f"is no JSON Schema: {problem:.300}")


def _is_above(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low > high
