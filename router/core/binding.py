"""What a certificate binds to: everything of a policy that changes answers or decisions, and nothing else.

A budget, a deadline, a price or a retry may change without a new tuning; a model or the system text may not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from router.core.judge import QUESTIONS
from router.core.ladder import kind_of, model_of, panels, places
from router.core.policy import Policy
from router.core.signals import SIGNALS_VERSION

# How each part is called when it no longer matches.
PARTS: dict[str, str] = {
    "ladder": "the ladder",
    "panels": "the panels of the ladder",
    "questions": "what a question about a draft asks",
    "models": "a model's name or parameters",
    "params": "the task's parameters",
    "system": "the system text",
    "template_version": "template_version",
    "answer": "the answer kind",
    "agree_on": "agree_on",
    "max_output_tokens": "max_output_tokens",
    "group": "`group:`",
    "own_check": "whether an own check is registered",
    "signals": "the meaning of the signals",
    "own_signals": "whether your own signals that it reads are registered",
}

# What answers do not depend on, only which of them is given.
_OF_THE_PLAN = ("ladder", "panels", "questions", "models", "group", "agree_on", "own_signals")


def binding(policy: Policy, task: str, *, own_check: bool = False, own_signals: Collection[str] = ()) -> dict[str, Any]:
    """The binding of a task as plain JSON. Long or private parts are digests."""
    one = policy.tasks[task]
    asked = places(one.ladder)
    return {
        "ladder": [place.key for place in asked],
        "panels": [list(keys) for keys in panels(one.ladder)],
        "questions": {place.kind: _question(place.kind) for place in asked if place.kind},
        "models": {place.model: _model(policy, place.model) for place in asked},
        "params": _plain(one.params),
        "system": None if one.system is None else digest(one.system),
        "template_version": one.template_version,
        "answer": digest(asdict(one.answer)),
        "agree_on": list(one.agree_on),
        "max_output_tokens": one.max_output_tokens,
        "group": one.group,
        "own_check": own_check,
        "signals": SIGNALS_VERSION,
        **({"own_signals": sorted(own_signals)} if own_signals else {}),
    }


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What no longer matches, in words, each with its old and new value where it has short ones."""
    found = []
    for part, words in PARTS.items():
        before, after = then.get(part), now.get(part)
        if part == "models" and isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [
                f"model {name!r} was {_shown(before[name])}, is now {_shown(after[name])}"
                for name in after
                if name in before and before[name] != after[name]
            ]
        elif part == "own_signals":  # More of them may be registered than the plan reads.
            found += [
                f"your own signal {name!r}, which it reads, is not registered with `Router(signals=...)`"
                for name in before or ()
                if name not in (after or ())
            ]
        elif before != after and (part in then or after not in (None, False, [], {})):
            found.append(words if part in ("system", "answer") else f"{words} was {before!r}, is now {after!r}")
    return found


def row_binding(bound: Mapping[str, Any], model: str) -> dict[str, str]:
    """The binding of one model's answers, short enough to stand in every row of an eval run."""
    parts = {**bound["models"][model_of(model)], **{name: bound[name] for name in bound if name not in _OF_THE_PLAN}}
    if kind := kind_of(model):
        parts["question"] = bound["questions"][kind]
    return {name: digest(value)[:8] for name, value in parts.items()}


def changed_rows(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What changed since a row was answered, by the names of the parts."""
    return [name for name in now if then.get(name) != now[name]]


def digest(value: Any) -> str:
    """A short digest of a value, the same for equal JSON."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _question(kind: str) -> str:
    return digest([QUESTIONS[kind].instructions, dict(QUESTIONS[kind].schema or {})])


def _model(policy: Policy, name: str) -> dict[str, Any]:
    model = policy.models[name]
    return {"litellm": model.litellm, "model_params": _plain(model.params)}


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that what was written compares equal to what is in force."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def _shown(model: Mapping[str, Any]) -> str:
    params = model.get("model_params")
    contents = f" (file {model['contents']})" if model.get("contents") else ""
    return f"{model.get('litellm')!r}{contents}" + (f" with {params}" if params else "")
