"""What is wrong with a ladder beyond its types: models that are not there, rungs that nothing can be asked of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from router.core.ladder import members_of
from router.core.params import suggestion
from router.core.policy import Model, PanelQuestion, PanelRung, Policy, Task

NO_RUNG = (
    "a rung is the name of a model, or `{panel: [a, b]}` of two to eight, each a model or one question such as "
    "`{judge: c}`; fallbacks are part of the grammar but not built yet"
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
        drafting = _drafting(rung)
        for at, model in enumerate(members_of(rung)):
            where = here if isinstance(rung, str) else (*here, "panel", at)
            if model not in policy.models:
                yield where, f"unknown model {model[:60]!r}; {suggestion(model, policy.models)}"
            elif at in drafting and model in seen:
                yield where, f"model {model!r} stands twice in the ladder; name each rung once"
        seen |= set(drafting.values())
        if isinstance(rung, PanelRung):
            last = index == len(task.ladder) - 1
            yield from ((here, text) for text in _panel_problems(rung, task, policy, last=last))
    yield from _question_problems(task, policy)
    if task.agree_on and task.answer.json is None:
        yield ("agree_on",), "names fields of a JSON answer, and the answer kind is another one; remove it"


def _panel_problems(rung: PanelRung, task: Task, policy: Policy, *, last: bool) -> Iterator[str]:
    if last:
        yield "a panel cannot be the last rung: what it is worth is measured against one model; put a model above it"
    drafting = _drafting(rung)
    if task.answer.text is not None and len(drafting) > 1:
        yield (
            "answers in free text are hardly ever equal, so that a panel could never agree; give the task an `answer:` "
            "of kind choice, number, json or pattern"
        )
    for model, times in Counter(drafting.values()).items():
        if times > 1 and (found := policy.models.get(model)) and _always_the_same(found, task):
            yield (
                f"asks {model!r} {times} times, and it gives the same answer each time; give it a `temperature` above "
                "0, or ask another model"
            )


def _question_problems(task: Task, policy: Policy) -> Iterator[tuple[Where, str]]:
    """Questions that have no draft to ask about, that say nothing new, or that a model would answer about itself."""
    drafting = [model for rung in task.ladder for model in _drafting(rung).values()]
    seen: set[PanelQuestion] = set()
    for index, rung in enumerate(task.ladder):
        kinds: set[str] = set()
        for at, member in enumerate(rung.panel if isinstance(rung, PanelRung) else ()):
            if not isinstance(member, PanelQuestion):
                continue
            where: Where = ("ladder", index, "panel", at)
            if at == 0:
                yield (
                    where,
                    "a panel begins with a model that drafts; a question is about the draft of the first member",
                )
            if member.kind in kinds:
                yield where, f"the panel asks {member.kind!r} twice, which is one signal; ask one model"
            elif member in seen:
                yield where, f"'{member.kind}: {member.model}' stands twice in the ladder; ask it in one panel"
            kinds.add(member.kind)
            seen.add(member)
            if member.kind == "judge" and (same := _same_model(member.model, drafting, policy)):
                yield where, f"{member.model!r} is {same!r} of the ladder, and would judge its own answers; ask another"


def _same_model(judge: str, drafting: list[str], policy: Policy) -> str | None:
    """The model of the ladder that a judge is, whatever it is called there."""
    litellm = {name: policy.models[name].litellm for name in (judge, *drafting) if name in policy.models}
    return next((name for name in drafting if name == judge or litellm.get(name, "") == litellm.get(judge)), None)


def _drafting(rung: object) -> dict[int, str]:
    """The models of a rung that draft, by their position in it."""
    members = rung.panel if isinstance(rung, PanelRung) else (rung,)
    return {at: member for at, member in enumerate(members) if isinstance(member, str)}


def _always_the_same(model: Model, task: Task) -> bool:
    temperature = {**task.params, **model.params}.get("temperature")
    return temperature == 0 or model.litellm.startswith(_LOCAL)
