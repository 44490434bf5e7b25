"""Plans and certificates in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from router.core.plan import Plan
from router.core.tuned import Certificate, Statement, TunedPlan, TunedRung


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
        elif rung.by == "gain":
            parts.append(
                f"ask {rung.model}{gate}; keep its draft where climbing gains {1 - rung.threshold:.3f} or less"
            )
        else:
            parts.append(f"ask {rung.model}{gate}; keep its draft at confidence {rung.threshold:.3f} or above")
    return f"{'; else '.join(parts)}; else ask {rungs[-1].model}."


def in_force_words(plan: Plan) -> str:
    """What is in force for a task."""
    return {"top": "top rung alone", "tuned": "tuned plan", "policy": "the policy"}[plan.standing.force]


def certificate_words(certificate: Certificate, top: str) -> list[str]:
    """The statement behind a plan, for somebody who did not read the statistics."""
    lines = [f"With {certificate.at_confidence:.0%} confidence {_promise(certificate, top)} ({_means(certificate)})."]
    if certificate.label_source == "disagreement":
        lines.append("The label is the top model's own answer: this says how often answers differ, not which is right.")
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
            "that never saw it. No theorem stands behind that, only simulation."
        )
    dates = f"Issued {certificate.issued}, runs out {certificate.expires}. " if certificate.expires else ""
    look = f"Look {certificate.look} at these rows" if certificate.open_ended else "The only look at these rows"
    chose = "they" if certificate.method == "crossfit" else f"{certificate.train_rows:,} others"
    lines.append(f"{dates}{look}; {chose} chose the plan.")
    return lines


def _promise(certificate: Certificate, top: str) -> str:
    most = _points(certificate.max_quality_loss)
    if certificate.label_source == "disagreement":
        return f"at most {most} of 100 calls like these rows are answered differently than by always asking {top}"
    if certificate.loss == "never_worse":
        return f"at most {most} of 100 calls like these rows are answered worse than by always asking {top}"
    return f"calls like these rows lose at most {most} points of quality against always asking {top}"


def _means(certificate: Certificate) -> str:
    return f"{certificate.guarantee}, {certificate.test} test"


def _statement_words(one: Statement, crossfit: bool) -> str:
    low, high = one.cost_interval
    of = f" in {one.clusters:,} clusters" if one.clusters else ""
    chose = "chose the plan too" if crossfit else "did not choose the plan"
    return (
        f"On {one.rows:,} rows{of} that {chose} it lost {_points(one.loss)} points (at most "
        f"{_points(one.loss_upper)}), cost {one.cost:.1%} of the top rung alone ({low:.1%} to {high:.1%}) and climbed "
        f"in {one.escalated:.1%} of the calls."
    )


def _points(share: float) -> str:
    return f"{100 * share:.2f}".rstrip("0").rstrip(".")
