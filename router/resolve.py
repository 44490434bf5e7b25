"""From policy to plan: prices and limits from the backend, calibrators from the tuned artefact, checks built once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from router.core.checks import Check, build_check
from router.core.plan import Plan, Rung
from router.core.policy import Policy, Task
from router.core.pricing import merged
from router.errors import PolicyError
from router.events import guarded
from router.models import Backend
from router.spec import Loaded, json_validator, load_tuned


def resolve(loaded: Loaded, name: str, backend: Backend, own_check: Callable[[Any], bool] | None) -> Plan:
    """The plan of one task.

    Raises
    ------
    PolicyError
        The task's tuned artefact cannot be used.
    """
    policy = loaded.policy
    task = policy.tasks[name]
    tuned = load_tuned(loaded.folder, name, policy) if loaded.folder else None
    check = task_check(task, own_check)
    rungs = []
    for rung, threshold in zip(task.ladder, (*task.thresholds(), None), strict=True):
        if not isinstance(rung, str):
            raise PolicyError("panels and fallbacks are not built yet", where=f"tasks.{name}.ladder")
        model = policy.models[rung]
        facts = backend.facts(model)
        rungs.append(
            Rung(
                name=rung,
                model=model,
                price=merged(model.price, facts.price),
                threshold=threshold,
                calibrators=tuned.calibrators.get(rung, ()) if tuned else (),
                confidence_source=tuned.source if tuned else "prior",
                context_tokens=model.context_tokens or facts.context_tokens,
                max_output_tokens=model.max_output_tokens or facts.max_output_tokens,
            )
        )
    plan_hash = _plan_hash(policy, name, tuned.source if tuned else "prior")
    return Plan(name, task, tuple(rungs), check, plan_hash, loaded.policy_hash)


def task_check(task: Task, own_check: Callable[[Any], bool] | None = None) -> Check:
    """What says whether a draft of this task is usable."""
    return build_check(
        task.answer,
        schema=json_validator(task.answer.json) if task.answer.json else None,
        own=guarded(own_check, False) if own_check else None,
    )


def _plan_hash(policy: Policy, name: str, confidence_source: str) -> str:
    """Changes with whatever changes answers or decisions, and with nothing else."""
    task = policy.tasks[name]
    models = [policy.models[rung] for rung in task.ladder if isinstance(rung, str)]
    binding = [
        [[model.litellm, dict(model.params), model.api_base] for model in models],
        task.thresholds(),
        dict(task.params),
        task.system,
        task.template_version,
        repr(task.answer),
        task.max_output_tokens,
        confidence_source,
    ]
    return hashlib.sha256(json.dumps(binding, sort_keys=True, default=str).encode()).hexdigest()[:16]
