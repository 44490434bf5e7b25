"""What is wrong with a ladder beyond its types: models that are not there, rungs that nothing can be asked of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from router.core.ladder import members_of
from router.core.params import suggestion
from router.core.policy import Model, PanelRung, Policy, Task

NO_RUNG = (
    "a rung is the name of a model, or `{panel: [a, b]}` of two to eight; fallbacks are part of the grammar but not "
    "built yet"
)
Where = tuple[str | int, ...]

_LOCAL = "local/"


def ladder_problems(task: Task, policy: Policy) -> Iterator[tuple[Where, str]]:
    """Every fault, with its place within the task."""
    seen: set[str] = set()
    for index, rung in enumerate(task.ladder):
        here: Where = ("ladder", index)
        if not isinstance(rung, str | PanelRung):
            yield here, NO_RUNG
            continue
        for at, model in enumerate(members_of(rung)):
            where = here if isinstance(rung, str) else (*here, "panel", at)
            if model not in policy.models:
                yield where, f"unknown model {model[:60]!r}; {suggestion(model, policy.models)}"
            elif model in seen:
                yield where, f"model {model!r} stands twice in the ladder; name each rung once"
        seen |= set(members_of(rung))
        if isinstance(rung, PanelRung):
            last = index == len(task.ladder) - 1
            yield from ((here, text) for text in _panel_problems(rung, task, policy, last=last))
    if task.agree_on and task.answer.json is None:
        yield ("agree_on",), "names fields of a JSON answer, and the answer kind is another one; remove it"


def _panel_problems(rung: PanelRung, task: Task, policy: Policy, *, last: bool) -> Iterator[str]:
    if last:
        yield "a panel cannot be the last rung: what it is worth is measured against one model; put a model above it"
    if task.answer.text is not None:
        yield (
            "answers in free text are hardly ever equal, so that a panel could never agree; give the task an `answer:` "
            "of kind choice, number, json or pattern"
        )
    for model, times in Counter(rung.panel).items():
        if times > 1 and (found := policy.models.get(model)) and _always_the_same(found, task):
            yield (
                f"asks {model!r} {times} times, and it gives the same answer each time; give it a `temperature` above "
                "0, or ask another model"
            )


def _always_the_same(model: Model, task: Task) -> bool:
    temperature = {**task.params, **model.params}.get("temperature")
    return temperature == 0 or model.litellm.startswith(_LOCAL)
