"""`router models`: what each model of the policies costs, takes and can do, and whether it can be asked."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import typer

from router.cli.common import AsJson, Environment, Policies, print_json, print_table


def models(policies: Policies = None, environment: Environment = None, as_json: AsJson = False) -> None:
    """Show each model of the policies: price, context window, capabilities, key, and the tasks that use it."""
    from router.core.pricing import merged, second_usd
    from router.models.real import RealModels
    from router.spec import load

    loaded = load(policies, environment=environment)
    if loaded.folder is None:
        raise typer.Exit(2)
    backend = RealModels(loaded.folder)
    rows: list[dict[str, Any]] = []
    for name, model in loaded.policy.models.items():
        facts = backend.facts(model)
        price = merged(model.price, facts.price)
        about = backend.about(model)
        rows.append(
            {
                "model": name,
                "litellm": model.litellm,
                "input_usd_per_mtok": _plain(price.input_usd_per_mtok),
                "output_usd_per_mtok": _plain(price.output_usd_per_mtok),
                "gpu_second_usd": _plain(second_usd(price)),
                "context_tokens": model.context_tokens or facts.context_tokens,
                "capabilities": list(about.capabilities),
                "key": about.key,
                "used_by": [task for task, one in loaded.policy.tasks.items() if name in one.ladder],
            }
        )
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_table(["model", row["model"]], _lines(row), numbers=())
        typer.echo("")


def _lines(row: dict[str, Any]) -> list[list[str]]:
    if row["gpu_second_usd"] is not None:
        price = f"${row['gpu_second_usd']} a second"
    elif row["input_usd_per_mtok"] is None or row["output_usd_per_mtok"] is None:
        price = "unknown: give it a `price:`"
    else:
        into, out = row["input_usd_per_mtok"], row["output_usd_per_mtok"]
        price = f"${into} in, ${out} out, per million tokens"
    context = f"{row['context_tokens']:,} tokens" if row["context_tokens"] else "unknown"
    return [
        ["name", row["litellm"]],
        ["price", price],
        ["context", context],
        ["can", ", ".join(row["capabilities"]) or "unknown"],
        ["key", row["key"]],
        ["used by", ", ".join(row["used_by"]) or "no task"],
    ]


def _plain(usd: Decimal | None) -> str | None:
    """Exact, and without the zeros that only say how it was computed."""
    return None if usd is None else f"{round(usd, 15).normalize():f}"
