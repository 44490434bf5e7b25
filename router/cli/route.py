"""`router route`: one call from the shell."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from router.cli.common import AsJson, Environment, Home, Policies, dollars, print_json, say
from router.core.answer import Answer
from router.errors import InvalidCall


def route(
    task: Annotated[str, typer.Argument(help="Name of the task in the policies.")],
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    feature: Annotated[str | None, typer.Option(help="Feature that the cost belongs to.")] = None,
    user: Annotated[str | None, typer.Option(help="User that the cost belongs to; stored as a fingerprint.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds for the whole call.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="US dollars that the call may cost.")] = None,
    replay: Annotated[str | None, typer.Option(help="Answer from this recording instead of real models.")] = None,
    policies: Policies = None,
    environment: Environment = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt and say which model answered, why, and what it cost."""
    from router.api import Router
    from router.models.replay import Replay

    text = _standard_input() if prompt == "-" else prompt
    backend = Replay.load(replay) if replay is not None else None
    with Router(policies, environment=environment, home=home, backend=backend) as router:
        answer = router.route(task, text, feature=feature, user=user, deadline_s=deadline, max_cost_usd=max_cost)
    if as_json:
        print_json(as_plain(answer))
        return
    # A model's text may hold lone surrogates, which no terminal and no file takes.
    typer.echo(answer.text.encode("utf-8", "replace").decode())
    say(explanation(answer), err=True)


def _standard_input() -> str:
    if sys.stdin is None:
        raise InvalidCall("prompt: standard input is closed; give the prompt itself", argument="prompt")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidCall(f"prompt: standard input is not UTF-8 ({error.reason})", argument="prompt") from None


def explanation(answer: Answer) -> str:
    """A few lines for people: every step with its reason, then the cost."""
    lines = [f"{step.model}: {step.action} - {step.reason}" for step in answer.steps]
    source = " (uncalibrated prior)" if answer.confidence_source == "prior" else f" ({answer.confidence_source})"
    lines.append(f"confidence {answer.confidence:.3f}{source}")
    cost = f"cost {dollars(answer.cost_nusd)}, of it {dollars(answer.marginal_cost_nusd)} for climbing"
    baseline = f"{dollars(answer.baseline_cost_nusd)} ({answer.baseline_source})"
    lines.append(f"{cost}; the top rung alone: {baseline}" if answer.baseline_source != "unknown" else cost)
    return "\n".join(lines)


def as_plain(answer: Answer) -> dict[str, Any]:
    """The answer as plain data, without the backend's own object."""
    return {
        "text": answer.text,
        "parsed": answer.parsed,
        "model": answer.model,
        "rung": answer.rung,
        "confidence": answer.confidence,
        "confidence_source": answer.confidence_source,
        "escalated": answer.escalated,
        "finish_reason": answer.finish_reason,
        "task": answer.task,
        "route_id": answer.route_id,
        "cost_usd": answer.cost_usd,
        "cost_upper_usd": answer.cost_upper_usd,
        "marginal_cost_usd": answer.marginal_cost_usd,
        "baseline_cost_usd": answer.baseline_cost_usd,
        "baseline_source": answer.baseline_source,
        "latency_ms": answer.latency_ms,
        "usage": asdict(answer.usage) if answer.usage else None,
        "steps": [asdict(step) for step in answer.steps],
        "attempts": [asdict(attempt) for attempt in answer.attempts],
    }
