"""Plans and certificates in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from router.core.ladder import kind_of, model_of
from router.core.plan import Plan, Rung
from router.core.tuned import Certificate, Statement, TunedPlan, TunedRung
from router.core.words import points
from router.tuning.agreement import Agreement
from router.tuning.runs import EvalRun


def plan_words(plan: TunedPlan) -> list[str]:
    """What a call of the task does, one sentence for each group."""
    if plan.group is None:
        return [rungs_words(plan.rungs)]
    lines = [f"{plan.group} {name}: {rungs_words(rungs)}" for name, rungs in plan.groups.items()]
    return [*lines, f"any other {plan.group}: {rungs_words(plan.rungs)}"]


def rungs_words(rungs: Sequence[TunedRung]) -> str:
    """What a call does on these rungs, in one sentence."""
    if len(rungs) == 1:
        return f"always ask {rungs[0].model}."
    parts = []
    for rung in rungs[:-1]:
        gate = "" if rung.gate is None else f", unless the prompt alone gives it less than {rung.gate:.3f}"
        if rung.threshold is None:
            parts.append(f"ask {rung.model} to compare with{gate}")
            continue
        most = sum(kind_of(key) is None for key in rung.keys) > 1
        asked = f"ask {', then '.join(map(_place, rung.keys))}{gate}; keep {'what most say' if most else 'its draft'}"
        if rung.by == "gain":
            gain = min(max(1.0 - rung.threshold, 0.0), 1.0)
            beaten = f"would beat it in at most {gain:.1%} of such calls, ties counting half"
            parts.append(f"{asked} where {rungs[-1].model} {beaten}")
        else:
            parts.append(f"{asked} at confidence {rung.threshold:.3f} or above")
    return f"{'; else '.join(parts)}; else ask {rungs[-1].model}."


_ABOUT = {
    "judge": "to judge its draft",
    "p_true": "whether its draft is right",
    "stated": "how likely its draft is right",
}


def _place(key: str) -> str:
    """Who is asked, and what, where that is about the draft of the first one."""
    kind = kind_of(key)
    return key if kind is None else f"{model_of(key)} {_ABOUT[kind]}"


def idle_words(signals: Sequence[str], panels: Sequence[Sequence[str]]) -> list[str]:
    """The application's own signals that no call will read, and panels of which only the first member may be asked."""
    return [
        *(f"Your own signal {name} does not lower the held-out loss, so no call reads it." for name in signals),
        *(f"The panel of {', '.join(panel)} was tried and does not pay on these rows." for panel in panels),
    ]


def plan_in_words(plan: Plan) -> str:
    """What a call does under a plan, whoever made it."""
    words = rungs_words(_asked(plan.rungs))
    groups = [f"{plan.group} {name}: {rungs_words(_asked(rungs))}" for name, rungs in plan.groups.items()]
    return " ".join([*groups, f"any other {plan.group}: {words}"]) if groups else words


def _asked(rungs: Sequence[Rung]) -> list[TunedRung]:
    found: list[TunedRung] = []
    for rung in rungs:
        if rung.skip or rung.spare:
            continue
        if rung.member and found:
            found[-1] = replace(found[-1], panel=(*found[-1].panel, rung.key))
        else:
            found.append(TunedRung(rung.key, None if rung.compare_only else rung.threshold, rung.by, rung.gate))
    return found


def in_force_words(plan: Plan) -> str:
    """What is in force for a task."""
    return {"top": "top rung alone", "tuned": "tuned plan", "policy": "the policy"}[plan.standing.force]


def certificate_words(certificate: Certificate, top: str) -> list[str]:
    """The statement behind a plan, for somebody who did not read the statistics."""
    lines = [f"With {certificate.at_confidence:.0%} confidence {_promise(certificate, top)} ({_means(certificate)})."]
    if certificate.label_source == "disagreement":
        lines.append("The label is the top model's own answer: this says how often answers differ, not which is right.")
    if certificate.label_source == "judge":
        lines.append("The label is what a judge says, another model: the loss is the judge's opinion, not the truth.")
    for name, one in certificate.statements.items():
        lines.append(("" if name == "all" else f"{name}: ") + _statement_words(one, certificate.method == "crossfit"))
    if any(one.clusters for one in certificate.statements.values()):
        lines.append("Each cluster counts once, by the mean of its rows: the loss is that of a cluster, not of a call.")
    if len(certificate.statements) > 1:
        alone = "each of them holds by itself" if certificate.each_alone else "all of them hold together"
        lines.append(f"Groups: {alone}.")
    if certificate.method == "crossfit":
        lines.append(
            "Simulation-checked, not guaranteed: rows that were fitted on were certified on too, each scored by fits "
            "that never saw it; no theorem stands behind that, only simulation."
        )
    if own := certificate.binds_to.get("own_signals"):
        names = ", ".join(map(str, own))
        lines.append(f"It reads your own signals ({names}): a process that does not register them cannot follow it.")
    dates = f"Issued {certificate.issued}, runs out {certificate.expires}. " if certificate.expires else ""
    look = f"Look {certificate.look} at these rows" if certificate.open_ended else "The only look at these rows"
    chose = "they" if certificate.method == "crossfit" else f"{certificate.train_rows:,} others"
    lines.append(f"{dates}{look}; {chose} chose the plan.")
    return lines


def _promise(certificate: Certificate, top: str) -> str:
    most = f"{100 * certificate.max_quality_loss:g}"
    if certificate.label_source == "disagreement":
        return f"at most {most} of 100 calls like these rows are answered differently than by always asking {top}"
    judged = ", as the judge sees it," if certificate.label_source == "judge" else ""
    if certificate.loss == "never_worse":
        return f"at most {most} of 100 calls like these rows are answered worse{judged} than by always asking {top}"
    lost = points(certificate.max_quality_loss)
    return f"calls like these rows lose at most {lost} of quality{judged} against always asking {top}"


def _means(certificate: Certificate) -> str:
    return f"{certificate.guarantee}, {certificate.test} test"


def _statement_words(one: Statement, crossfit: bool) -> str:
    low, high = one.cost_interval
    of = f" in {one.clusters:,} clusters" if one.clusters else ""
    chose = "chose the plan too" if crossfit else "did not choose the plan"
    return (
        f"On {one.rows:,} rows{of} that {chose} it {_lost(one)}, cost {one.cost:.1%} of the top rung alone ({low:.1%} "
        f"to {high:.1%}) and climbed in {one.escalated:.1%} of the calls."
    )


# A hundredth of a point is the least that is shown; what is nearer to 0 comes from rounding.
_SHOWN = 0.000_05


def _lost(one: Statement) -> str:
    if one.loss > -_SHOWN:
        return f"lost {points(max(0.0, one.loss))} (at most {points(one.loss_upper)})"
    if one.loss_upper > -_SHOWN:
        return f"gained {points(-one.loss)} (a loss of at most {points(max(0.0, one.loss_upper))})"
    return f"gained {points(-one.loss)} (at least {points(-one.loss_upper)})"


def label_words(run: EvalRun) -> str:
    """Where the grades of a run come from."""
    if run.label_source == "judge":
        return f"what the judge says ({', '.join(run.provenance.get('judge', {}).get('models', ()))}), not labels"
    return "the top model's own answer" if run.label_source == "disagreement" else "labels of the run"


def judge_words(run: EvalRun) -> list[str]:
    """How good the judge of a run is, as far as anybody can tell; nothing where there is none."""
    told = run.provenance.get("judge")
    if not told:
        return []
    lines = [f"graded by the judge {', '.join(told['models'])}: the loss is what it says, not the truth"]
    lines += [Agreement(**one).words(model) for model, one in told["agreement"].items()]
    if told["saw_labels"]:
        lines.append("the judge saw the labels, so that it is not compared with them")
    if told["ungraded"]:
        lines.append(f"{told['ungraded']:,} answers have no verdict")
    return lines
