"""`router check`: whether the policies are sound, and what is in force."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from router.cli.common import AsJson, Environment, Policies, counted, dollars, print_json, print_table, say
from router.core.params import suggestion
from router.core.pricing import NUSD_PER_USD, exact_product

if TYPE_CHECKING:
    from router.core.plan import Plan, Rung
    from router.core.policy import Policy
    from router.models.real import RealModels
    from router.spec import Loaded


def check(policies: Policies = None, environment: Environment = None, as_json: AsJson = False) -> None:
    """Check the policies and show each task's ladder, what is in force for it and where its confidence comes from.

    Exits 1 with a finding, such as a stale certificate or a model whose price nobody knows, and 2 when a policy has a
    fault. A note is no finding: a missing key, a model that no task uses, a rung that costs more than the one above it.
    """
    import warnings

    from router.api import Router
    from router.errors import RouterWarning
    from router.models.real import RealModels
    from router.options import top_only
    from router.spec import load

    warnings.simplefilter("ignore", RouterWarning)  # What a call would warn of is a finding here.

    loaded = load(policies, environment=environment)
    router = Router(policies, environment=environment, signals=dict.fromkeys(_own_signals(loaded), _unread))
    models = RealModels(loaded.folder or Path())
    tasks: list[dict[str, Any]] = []
    findings: list[str] = []
    notes: list[str] = []
    for name in loaded.policy.tasks:
        plan = router.plan(name)
        findings += [found for found in _checks(loaded, plan, models) if found not in findings]
        notes += _dearer_first(plan) + _unnamed_labels(plan) + _own_signals_read(plan)
        tasks.append(_about(plan) | {"limits": _limits(loaded.policy, name)})
    findings += _stray_tuned(loaded)
    notes += [*_missing_keys(loaded), *_unused(loaded), *_undigested(loaded)]
    if top_only():
        findings.append("ROUTER_DISABLE=top is set: every call goes to the top rung; unset it to have the cascade back")
    if as_json:
        files = [str(path) for path in loaded.files]
        about = {"policy_hash": loaded.policy_hash, "files": files, "tasks": tasks}
        print_json({**about, "findings": findings, "notes": notes})
    else:
        _print(tasks, loaded.policy_hash, len(loaded.files))
        for note in notes:
            say(f"note: {note}")
        for finding in findings:
            say(f"finding: {finding}")
        if not findings:
            typer.echo("no findings")
    raise typer.Exit(1 if findings else 0)


def _own_signals(loaded: Loaded) -> set[str]:
    """Signals of the application that tuned plans read; whether a process registers them cannot be seen from here."""
    from router.spec import load_tuned

    tuned = [load_tuned(loaded.folder, name, loaded.policy) for name in loaded.policy.tasks] if loaded.folder else []
    return {name for one in tuned if one for name in one.own_signals}


def _unread(prompt: str, draft: str) -> None:
    """In place of a signal of the application: nothing is asked here, so no draft is read."""


def _own_signals_read(plan: Plan) -> list[str]:
    paths = (plan.rungs, *plan.groups.values())
    names = sorted({name for rungs in paths for rung in rungs for name in rung.own_signals})
    told = f"task {plan.task_name!r}: the tuned plan reads your own signals ({', '.join(names)})"
    return [f"{told}; it is stale where `Router(signals=...)` does not register them"] if names else []


def _about(plan: Plan) -> dict[str, Any]:
    """A task as `--json` shows it."""
    return {
        "task": plan.task_name,
        "plan_hash": plan.plan_hash,
        "in_force": plan.standing.force,
        "rungs": [_rung(rung) for rung in plan.rungs],
        "group": plan.group,
        "groups": {group: [_rung(rung) for rung in own] for group, own in plan.groups.items()},
    }


def _limits(policy: Policy, name: str) -> dict[str, Any]:
    """What limits the calls of a task: tokens and dollars of each, then what they share."""
    from router.core.limits import DEFAULT, UNITS, WINDOWS, Allowance
    from router.limits import allowances

    task, shared = policy.tasks[name], allowances(policy, "task")
    own = shared.get(name, shared.get(DEFAULT, Allowance()))
    found = {
        "max_input_tokens": task.max_input_tokens,
        "max_output_tokens": task.max_output_tokens,
        "usd_per_call": task.budget.usd_per_call,
        **{f"{unit}_per_{window}": getattr(own, f"{unit}_per_{window}") for unit in UNITS for window in WINDOWS},
    }
    return {key: value for key, value in found.items() if value is not None}


def _said(limits: dict[str, Any]) -> str:
    """Limits in one short line."""
    told = []
    for key, value in limits.items():
        unit, _, window = key.partition("_per_")
        amount = (
            dollars(int(exact_product(value, NUSD_PER_USD)))
            if unit == "usd"
            else counted(value, "escalation")
            if window
            else f"{value:,}"
        )
        told.append(
            f"{amount} a{'n' * (window == 'hour')} {window}" if window else f"{amount} {key[4:].replace('_', ' ')}"
        )
    return ", ".join(told)


def _checks(loaded: Loaded, plan: Plan, models: RealModels) -> list[str]:
    return _findings(plan, models) + _unheld(loaded.policy, plan) + _holed_tiers(plan)


def _findings(plan: Plan, models: RealModels) -> list[str]:
    """What is wrong with a task."""
    from router.core.policy import Price

    task = f"task {plan.task_name!r}"
    found = [
        f"{task}: model {rung.name!r} has no known price, so its costs are unknown; give it a `price:`"
        for rung in plan.rungs
        if rung.price == Price()
    ]
    found += [
        f"{task}: nobody knows whom to ask for {rung.model.litellm!r}; begin its name with a provider, such as "
        "`openai/`"
        for rung in plan.rungs
        if not models.about(rung.model).callable
    ]
    if plan.standing.problem:
        found.append(f"{task}: {plan.standing.problem}")
    target = plan.task.target
    if target is not None and target.max_quality_loss in (0.0, 1.0):
        found.append(
            f"{task}: `max_quality_loss: {target.max_quality_loss:g}` cannot be tuned for; give a share between 0 and "
            "1, such as 0.02 for two points"
        )
    return found + _unaffordable(plan)


def _unnamed_labels(plan: Plan) -> list[str]:
    """Labels that the system text does not name, most likely because it names those of another task."""
    labels, system = plan.task.answer.choice, plan.task.system
    if not labels or not system:
        return []
    unnamed = [label for label in labels if label.casefold() not in system.casefold()]
    told = f"task {plan.task_name!r}: the system text does not name {', '.join(map(repr, unnamed))}"
    return [f"{told} of `answer: {{choice: ...}}`; models can only answer what they are told of"] if unnamed else []


def _rung(rung: Rung) -> dict[str, Any]:
    from router.core.policy import Price

    return {
        "model": rung.key,
        "member": rung.member,
        "litellm": rung.model.litellm,
        "accept": _accept(rung),
        "threshold": rung.threshold,
        "confidence_source": rung.confidence_source if rung.calibrators else "prior",
        "own_signals": sorted(rung.own_signals),
        "priced": rung.price != Price(),
    }


def _accept(rung: Rung) -> str:
    """When an answer of this rung is kept, in a word or two."""
    if rung.skip:
        return "not asked"
    if rung.spare:
        return "if others are down"
    if rung.threshold is None:
        return "last rung"
    if rung.compare_only:
        return "to compare"
    if rung.by == "gain":
        return f"gain up to {min(max(1.0 - rung.threshold, 0.0), 1.0):.1%}"
    return f"{rung.threshold:.1%}"


def _least_bound_nusd(plan: Plan, rung: Rung) -> int | None:
    """The upper bound of a request to a rung with an empty prompt; a question has a bound of its own."""
    from router.core.judge import MOST_OUTPUT_TOKENS

    if rung.kind:
        return rung.rates.upper_nusd(0, MOST_OUTPUT_TOKENS, plan.task.deadline_s)
    longest = min(filter(None, (plan.task.max_output_tokens, rung.max_output_tokens)), default=None)
    return rung.rates.upper_nusd(0, longest, plan.task.deadline_s)


def _unheld(policy: Policy, plan: Plan) -> list[str]:
    """Rungs without an upper bound, which no shared budget in dollars can hold."""
    from router.core.limits import DEFAULT, KINDS, WINDOWS
    from router.core.policy import Price
    from router.limits import allowances

    held = [one for kind in KINDS if kind != "task" for one in allowances(policy, kind).values()]
    tasks = allowances(policy, "task")
    if own := tasks.get(plan.task_name, tasks.get(DEFAULT)):
        held.append(own)
    if all(getattr(one, f"usd_per_{window}") is None for one in held for window in WINDOWS):
        return []
    return [
        f"task {plan.task_name!r}: budgets in dollars refuse every request to {rung.name!r}, for nothing bounds what "
        f"one costs; give the task a `{'deadline_s' if rung.rates.by_second else 'max_output_tokens'}:`"
        for rung in plan.rungs
        if rung.price != Price() and _least_bound_nusd(plan, rung) is None
    ]


def _unaffordable(plan: Plan) -> list[str]:
    """Rungs that the task's own limit leaves no room for, however short the prompt."""
    limit = plan.task.budget.usd_per_call
    if limit is None:
        return []
    found = []
    for rung in plan.rungs:
        upper = _least_bound_nusd(plan, rung)
        if upper is None or upper > exact_product(limit, NUSD_PER_USD):
            found.append(
                f"task {plan.task_name!r}: `usd_per_call: {limit}` never leaves room for a request to {rung.name!r}; "
                "give the task a `max_output_tokens:` or raise the limit"
            )
    return found


def _holed_tiers(plan: Plan) -> list[str]:
    """Tiers of a policy's price that lack a part which the price has: what needs it there has no known cost."""
    from router.core.policy import Price
    from router.core.pricing import missing_parts

    return [
        f"model {rung.name!r}: the tier {place} has no {' and no '.join(parts)} price although the price has one; "
        f"{_TIERED.get(parts[0], 'requests that need it')} there have no known cost"
        for rung in plan.rungs
        if rung.model.price != Price()  # The price map's own tiers are nobody's to mend.
        for place, parts in missing_parts(rung.price)
    ]


_TIERED = {"cached_read": "requests that read the cache", "input": "requests", "output": "requests"}


def _stray_tuned(loaded: Loaded) -> list[str]:
    """Tuned files that no task reads, because their names are nobody's."""
    files = sorted((loaded.folder / "tuned").glob("*.json")) if loaded.folder else []
    return [
        f"{path}: no task is called {path.stem!r}; {suggestion(path.stem, loaded.policy.tasks)}"
        for path in files
        if path.stem not in loaded.policy.tasks
    ]


def _dearer_first(plan: Plan) -> list[str]:
    """Rungs that cost at least as much for every token as the one above them: climbing would save."""
    found = []
    for rung, above in pairwise(rung for rung in plan.rungs if not rung.kind):
        here, there = ((one.price.input_usd_per_mtok, one.price.output_usd_per_mtok) for one in (rung, above))
        pairs = [(a, b) for a, b in zip(here, there, strict=True) if a is not None and b is not None]
        if (
            rung.level != above.level
            and len(pairs) == 2
            and all(a >= b for a, b in pairs)
            and any(a > b for a, b in pairs)
        ):
            problem = f"task {plan.task_name!r}: rung {rung.name!r} costs more than {above.name!r} above it"
            found.append(f"{problem}; a ladder goes from the cheapest model to the dearest")
    return found


def _missing_keys(loaded: Loaded) -> list[str]:
    """What to set before the tasks' models can be asked; one line for each variable."""
    from router.models.real import RealModels

    backend = RealModels(loaded.folder or Path())
    waiting: dict[str, list[str]] = {}
    for name, model in loaded.policy.models.items():
        if _users(loaded, name):
            waiting.setdefault(backend.about(model).key, []).append(name)
    return [
        f"{key.removeprefix('missing: ')} before {', '.join(names)} can be asked"
        for key, names in waiting.items()
        if key.startswith("missing: ")
    ]


def _undigested(loaded: Loaded) -> list[str]:
    """Tuned files that cannot tell whether they were edited."""
    from router.spec import load_tuned

    return [
        f"{tuned.path}: was written before tuned files carried a digest, so an edit would not be noticed; "
        f"`router tune {name} --write` gives it one"
        for name in loaded.policy.tasks
        if loaded.folder and (tuned := load_tuned(loaded.folder, name, loaded.policy)) and not tuned.digest
    ]


def _unused(loaded: Loaded) -> list[str]:
    names = [name for name in loaded.policy.models if not _users(loaded, name)]
    return [f"no task uses {', '.join(names)}"] if names else []


def _users(loaded: Loaded, model: str) -> list[str]:
    from router.core.ladder import uses

    return [name for name, task in loaded.policy.tasks.items() if uses(task.ladder, model)]


def _print(tasks: list[dict[str, Any]], policy_hash: str, files: int) -> None:
    typer.echo(f"policy {policy_hash}: {counted(files, 'file')}, {counted(len(tasks), 'task')}")
    rows = []
    for task in tasks:
        paths = [(task["task"], task["rungs"])]
        paths += [(f"  {task['group']} {name}", rungs) for name, rungs in task["groups"].items()]
        for title, rungs in paths:
            rows += [_row(title if at == 0 else "", rung) for at, rung in enumerate(rungs)]
    if rows:
        print_table(["task", "rung", "model", "accept at", "confidence"], rows, numbers=["accept at"])
    for task in tasks:
        if task["limits"]:
            say(f"limits of {task['task']}: at most {_said(task['limits'])}")
        if task["in_force"] != "policy":
            what = "the tuned plan" if task["in_force"] == "tuned" else "the top rung alone"
            say(f"in force for {task['task']}: {what}, not the policy's threshold")


def _row(title: str, rung: dict[str, Any]) -> list[str]:
    source = "uncalibrated" if rung["confidence_source"] == "prior" else rung["confidence_source"]
    name = f"+ {rung['model']}" if rung["member"] else rung["model"]
    return [title, name, rung["litellm"], rung["accept"], source]
