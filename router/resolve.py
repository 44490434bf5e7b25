"""From policy to plan: prices and limits from the backend, what tuning found and whether it still holds, checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.core.answer import Attempt
from router.core.binding import binding, changed
from router.core.checks import Check, build_check
from router.core.dated import next_change, own_price, price_source, starts_s
from router.core.ladder import places
from router.core.plan import UNTUNED, Force, Plan, Rung, Standing, as_member, follow
from router.core.policy import PanelRung, Policy, Task
from router.core.pricing import NOTICE_S, merged
from router.core.tuned import TunedRung
from router.errors import PolicyError, warn
from router.events import guarded
from router.models import Backend
from router.models.local import PREFIX, classifier_path
from router.own_signals import OwnSignals
from router.spec import Loaded, Tuned, json_validator, load_tuned
from router.world import Clock

OwnCheck = Callable[[Any], bool]

# A certificate that runs out is announced this long before, so that an eval can be run in time.
EXPIRY_NOTICE_S = 14 * 86400.0


class Plans:
    """The plans of a policy, made on first use and made anew when what they stand on changes."""

    def __init__(
        self, loaded: Loaded, backend: Backend, checks: Mapping[str, OwnCheck], signals: OwnSignals, clock: Clock
    ) -> None:
        self._loaded = loaded
        self._backend = backend
        self._checks = checks
        self._signals = signals
        self._clock = clock
        # A plan that two threads build at once is the same plan.
        self._plans: dict[str, Plan] = {}
        self._unseen: dict[str, str] = {}
        self._warned: set[tuple[str, str]] = set()

    def get(self, task: str) -> Plan:
        """The plan of a task that the policy has; warns once of each thing that is wrong with its certificate.

        Raises
        ------
        PolicyError
            The task's tuned artefact cannot be used, or is stale and the policy says to refuse then.
        """
        known = self._plans.get(task)
        if known is not None and known.standing.check_again_s is None:
            return known
        now_s = self._clock.time()
        if known is None or (known.standing.check_again_s or 0.0) <= now_s:
            unseen = self._unseen.get(task, "")
            known = resolve(
                self._loaded,
                task,
                self._backend,
                self._checks.get(task),
                signals=self._signals,
                now_s=now_s,
                unseen=unseen,
            )
            self._plans[task] = known
            if self._unseen.get(task, "") != unseen:  # Another thread has learned meanwhile what is served now.
                self._plans.pop(task, None)
                return self.get(task)
            problem = known.standing.problem
            if problem and (task, problem) not in self._warned:
                self._warned.add((task, problem))
                warn(f"task {task!r}: {problem}")
        return known

    def saw(self, task: str, attempts: Sequence[Attempt]) -> None:
        """What the providers served: a model that the certificate's run never saw makes it stale from now on."""
        plan = self._plans.get(task)
        if plan is None or not plan.served or task in self._unseen:
            return
        for attempt in attempts:
            known = plan.served.get(attempt.model)
            if known and attempt.fault is None and attempt.model_served and attempt.model_served not in known:
                served = f"model {attempt.model!r} was served by {attempt.model_served!r}"
                self._unseen[task] = f"{served}, which the eval run never saw (it saw {', '.join(sorted(known))})"
                self._plans.pop(task, None)
                return


def resolve(
    loaded: Loaded,
    name: str,
    backend: Backend,
    own_check: OwnCheck | None,
    *,
    signals: OwnSignals | None = None,
    now_s: float = 0.0,
    unseen: str = "",
) -> Plan:
    """The plan of one task as of now; `unseen` says which served model the certificate's run never saw.

    Without `signals` those of the application count as registered: whoever only looks at a plan cannot know.

    Raises
    ------
    PolicyError
        The task's tuned artefact cannot be used, or is stale and the policy says to refuse then.
    """
    policy = loaded.policy
    task = policy.tasks[name]
    own = signals or {}
    tuned = load_tuned(loaded.folder, name, policy, own_signals=own) if loaded.folder else None
    standing = stand(
        loaded, name, tuned, own_check=own_check is not None, own_signals=signals, now_s=now_s, unseen=unseen
    )
    if standing.stale and task.on_stale == "refuse" and tuned is not None:
        raise PolicyError(f"{standing.problem}; `on_stale: refuse` stops calls until then", path=tuned.path)
    ladder = _ladder(policy, name, backend, tuned, own, now_s)
    standing = replace(standing, check_again_s=_next_look(standing, policy, name, now_s))
    plan = Plan(
        name,
        task,
        ladder,
        task_check(task, own_check),
        guarded(own_check, False, bool) if own_check else None,
        _plan_hash(policy, name, f"{standing.force}:{tuned.source if tuned else 'prior'}"),
        loaded.policy_hash,
        standing,
    )
    if standing.force == "top":
        return replace(plan, rungs=_top_only(ladder))
    if standing.force == "tuned" and tuned is not None and tuned.plan is not None:
        groups = {group: follow(ladder, rungs, tuned.panels) for group, rungs in tuned.plan.groups.items()}
        served = {model: frozenset(ids) for model, ids in tuned.served.items()}
        return replace(
            plan,
            rungs=follow(ladder, tuned.plan.rungs, tuned.panels),
            group=tuned.plan.group,
            groups=groups,
            served=served,
        )
    return plan


def bound(loaded: Loaded, task: str, *, own_check: bool = False, own_signals: Collection[str] = ()) -> dict[str, Any]:
    """What a certificate of this task binds to as of now; a local model also by its file, which may be trained anew."""
    found = binding(loaded.policy, task, own_check=own_check, own_signals=own_signals)
    for model in found["models"].values():
        if model["litellm"].startswith(PREFIX):
            path = classifier_path(loaded.folder or Path(), model["litellm"].removeprefix(PREFIX))
            model["contents"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None
    return found


def stand(
    loaded: Loaded,
    name: str,
    tuned: Tuned | None,
    *,
    own_check: bool = False,
    own_signals: Collection[str] | None = None,
    now_s: float = 0.0,
    unseen: str = "",
) -> Standing:
    """What is in force for a task: the tuned plan while its certificate holds, else what the policy says."""
    task = loaded.policy.tasks[name]
    if tuned is not None and tuned.edited:
        return _edited(task, name, tuned, loaded.policy)
    if tuned is None or tuned.plan is None:
        return Standing()
    certificate = tuned.certificate
    registered = tuned.own_signals if own_signals is None else own_signals
    now = bound(loaded, name, own_check=own_check, own_signals=registered)
    differs = changed(certificate.binds_to, now) if certificate else []
    differs += [unseen] if unseen else []
    if not differs and (misfit := _misfit(now["ladder"], tuned)):
        differs = [misfit]
    if differs:
        keep = task.on_stale == "keep" and not _misfit(now["ladder"], tuned)
        does = "it is kept, as `on_stale: keep` says" if keep else "every call asks the top rung"
        told = f"the tuned plan is stale: {'; '.join(differs)}. Run `router eval` and `router tune`; until then {does}"
        return Standing("tuned" if keep else "top", told, stale=True)
    return _dated(task, certificate.expires if certificate else "", now_s)


def _edited(task: Task, name: str, tuned: Tuned, policy: Policy) -> Standing:
    """What is in force with a file whose numbers are no longer those that were measured."""
    keep = task.on_stale == "keep" and not _misfit(binding(policy, name)["ladder"], tuned)
    does = "it is kept, as `on_stale: keep` says" if keep else "every call asks the top rung"
    redo = f"`router tune {name} --write`" if tuned.plan else f"`router distill {name}`"
    told = f"{tuned.path} was edited after it was written, so its numbers are no longer those that were measured"
    force: Force = "top" if not keep else "tuned" if tuned.plan else "policy"
    return Standing(force, f"{told}. Restore it, or run {redo}; until then {does}", stale=True)


def _dated(task: Task, expires: str, now_s: float) -> Standing:
    """A plan that matches its policy, by the date of its certificate."""
    if not expires:
        return Standing("tuned")
    expires_s = datetime.fromisoformat(expires).replace(tzinfo=UTC).timestamp()
    if now_s >= expires_s:
        top = task.on_expired == "top"
        does = "every call asks the top rung, as `on_expired: top` says" if top else "it is kept, as `on_expired` says"
        told = f"the certificate ran out on {expires}. Run `router eval` and `router tune`; until then {does}"
        return Standing("top" if top else "tuned", told, stale=True)
    if now_s >= expires_s - EXPIRY_NOTICE_S:
        told = f"the certificate runs out on {expires}; run `router eval` and `router tune` before that"
        return Standing("tuned", told, check_again_s=expires_s)
    return Standing("tuned", check_again_s=expires_s - EXPIRY_NOTICE_S)


def _misfit(ladder: Sequence[str], tuned: Tuned) -> str:
    """Why the plan cannot be followed on this ladder at all, or nothing."""
    if tuned.plan is None:
        return ""
    for rungs in (tuned.plan.rungs, *tuned.plan.groups.values()):
        models = [key for rung in rungs for key in rung.keys]
        if models != [model for model in ladder if model in models]:
            return f"the plan asks {' then '.join(models)}, which is no path up the ladder {' -> '.join(ladder)}"
    return ""


def _ladder(
    policy: Policy, name: str, backend: Backend, tuned: Tuned | None, own: OwnSignals, now_s: float
) -> tuple[Rung, ...]:
    """Every rung of the policy's ladder, with the calibrators that there are for it."""
    task = policy.tasks[name]
    rungs = []
    thresholds = (*task.thresholds(), None)
    asked = places(task.ladder)
    for place in asked:
        model, rung = policy.models[place.model], place.model
        facts = backend.facts(model)
        price, change = own_price(model.price, now_s), next_change(model.price, facts.price, now_s)
        one = Rung(
            name=rung,
            model=model,
            price=merged(price, facts.price),
            price_source=price_source(price, facts.price, facts.price_source),
            image_tokens=model.image_tokens or facts.image_tokens,
            change=change,
            change_is_near=change is not None and change.starts_s - now_s <= NOTICE_S,
            threshold=thresholds[place.rung],
            calibrators=tuned.calibrators.get(place.key, ()) if tuned else (),
            confidence_source=tuned.source if tuned else "prior",
            context_tokens=model.context_tokens or facts.context_tokens,
            max_output_tokens=model.max_output_tokens or facts.max_output_tokens,
            capabilities=facts.capabilities if model.capabilities is None else frozenset(model.capabilities),
            last=tuned.last.get(place.key, ()) if tuned else (),
            prompt=tuned.prompt.get(place.key, ()) if tuned else (),
            words=tuned.words.get(place.key, {}) if tuned else {},
            own_signals={signal: own[signal] for signal in tuned.named(place.key) if signal in own} if tuned else {},
            level=place.rung,
            key=place.key,
            kind=place.kind,
            skip=UNTUNED if place.kind else "",
        )
        if place.members > 1:
            keys = tuple(other.key for other in asked if other.rung == place.rung)
            one = as_member(one, keys, tuned.panels if tuned else {})
        rungs.append(one)
    return tuple(rungs)


def _next_look(standing: Standing, policy: Policy, name: str, now_s: float) -> float | None:
    """When the plan has to be made anew: its certificate runs out, or a price is about to change or changes."""
    prices = [policy.models[place.model].price for place in places(policy.tasks[name].ladder)]
    dates = [starts_s(date) for price in prices for date in price.changes or ()]
    looks = [at for date in dates for at in (date - NOTICE_S, date) if at > now_s]
    return min([*looks, *([] if standing.check_again_s is None else [standing.check_again_s])], default=None)


def _top_only(ladder: tuple[Rung, ...]) -> tuple[Rung, ...]:
    return follow(ladder, (TunedRung(ladder[-1].key),))


def task_check(task: Task, own_check: OwnCheck | None = None) -> Check:
    """What says whether a draft of this task is usable."""
    return build_check(
        task.answer,
        schema=json_validator(task.answer.json) if task.answer.json else None,
        own=guarded(own_check, False, bool) if own_check else None,
    )


def _plan_hash(policy: Policy, name: str, confidence_source: str) -> str:
    """Changes with whatever changes answers or decisions, and with nothing else."""
    task = policy.tasks[name]
    models = [policy.models[place.model] for place in places(task.ladder)]
    parts = [
        [[model.litellm, dict(model.params), model.api_base] for model in models],
        task.thresholds(),
        dict(task.params),
        task.system,
        task.template_version,
        repr(task.answer),
        task.max_output_tokens,
        confidence_source,
        *([repr(task.ladder)] if any(isinstance(rung, PanelRung) for rung in task.ladder) else []),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
