"""Price raw usage objects of vendors with known amounts, and put litellm's own calculator beside.

    python -m evals.vendor_costs --examples FILE [--json] [--write docs/costs.md]

FILE is a list of cases with `id`, `title`, `vendor`, `model`, `usage`, `context` and `total_usd`. litellm reads the
same raw usage with its own translation and prices it with its own calculator. Without FILE it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from router import RouterError, price_usage
from router.pricing import Priced

Case = Mapping[str, Any]

# What the title of a case says and neither its usage nor its context does; it matches once the context says so too.
TOLD: dict[str, dict[str, Any]] = {
    "O13": {"host": "eu.api.openai.com"},
    "O19": {"endpoint": "/v1/decisions"},
}
_NANO = Decimal("1e-9")
_BEGIN, _END = "<!-- begin of the runner's table -->", "<!-- end of the runner's table -->"
_PROVIDERS = {
    "google": "gemini",
    "together": "together_ai",
    "fireworks": "fireworks_ai",
    "bedrock": "bedrock_converse",
}


@dataclass(frozen=True)
class Row:
    """One case: what it should come to, ours, and litellm's."""

    id: str
    title: str
    total_usd: str
    ours_usd: str | None
    matched: bool
    reason: str
    """Why ours is another amount, where it is."""
    litellm_usd: str | None
    litellm_off_usd: str | None
    """litellm's amount less the right one; `None` where it has none."""
    litellm_note: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _options(arguments)
    if not options.examples.is_file():
        print(f"skipped: there is no {options.examples}; --examples names the file of cases", file=sys.stderr)
        return 0
    rows = [evaluate(case) for case in json.loads(options.examples.read_text())]
    if options.json:
        print(json.dumps({"versions": _versions(), "cases": [asdict(row) for row in rows]}, indent=2))
    elif options.write:
        page = options.write.read_text()
        head, _, rest = page.partition(_BEGIN)
        options.write.write_text(f"{head}{_BEGIN}\n{markdown(rows)}\n{_END}{rest.partition(_END)[2]}")
    else:
        print(markdown(rows))
    return 0


def evaluate(case: Case) -> Row:
    """One case priced by both."""
    total = Decimal(case["total_usd"])
    ours = _ours(case, {})
    off = _off(ours.usd, total)
    litellm_usd, note = litellm_price(case)
    litellm_off = None if litellm_usd is None else _off(litellm_usd, total)
    return Row(
        case["id"],
        case["title"],
        _plain(total),
        None if ours.usd is None else _plain(ours.usd),
        off == 0,
        "" if off == 0 else _reason(case, ours, total),
        None if litellm_usd is None else _plain(litellm_usd),
        None if litellm_off is None else _plain(litellm_off),
        note,
    )


def _ours(case: Case, told: Mapping[str, Any]) -> Priced:
    return price_usage(
        vendor=case["vendor"], model=case["model"], usage=case["usage"], context={**case["context"], **told}
    )


def _off(usd: Decimal | None, total: Decimal) -> Decimal | None:
    """The difference in whole nano-dollars; `None` when there is no amount."""
    return None if usd is None else (usd - total).quantize(_NANO)


def _reason(case: Case, ours: Priced, total: Decimal) -> str:
    told = TOLD.get(case["id"])
    if told and _ours(case, told).usd == total:
        said = ", ".join(f"`{name}: {value}`" for name, value in told.items())
        return f"only its title says so; matches with {said} in the context"
    return "; ".join(ours.notes) or "another price"


def litellm_price(case: Case) -> tuple[Decimal | None, str]:
    """What litellm's calculator makes of the raw usage, after litellm's own translation of it; or why it does not."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    provider = _PROVIDERS.get(case["vendor"], case["vendor"])
    try:
        usage = _translated(case)
        cost = _calculated(case, provider, usage)
    # Whatever the library raises is what its user would see.
    except Exception as error:  # noqa: BLE001
        return None, f"refuses: {type(error).__name__}"
    return Decimal(repr(cost)).quantize(Decimal("1e-12")).normalize(), ""


def _translated(case: Case) -> Any:
    """litellm's usage object of a raw one, by the code that it runs on responses of that kind."""
    from litellm.llms.anthropic.chat.transformation import AnthropicConfig
    from litellm.llms.bedrock.chat.converse_transformation import AmazonConverseConfig
    from litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini import VertexGeminiConfig
    from litellm.responses.utils import ResponseAPILoggingUtils
    from litellm.types.utils import Usage

    raw = dict(case["usage"])
    if case["vendor"] == "anthropic":
        return AnthropicConfig().calculate_usage(usage_object=raw, reasoning_content=None, speed=raw.get("speed"))
    if "inputTokens" in raw:
        block = {"totalTokens": raw["inputTokens"] + raw["outputTokens"], **raw}
        return AmazonConverseConfig().transform_usage(block)  # type: ignore[arg-type]
    if "promptTokenCount" in raw:
        body: Any = {"usageMetadata": {"totalTokenCount": 0, **raw}}
        return VertexGeminiConfig._calculate_usage(completion_response=body)
    if "input_tokens" in raw:
        return ResponseAPILoggingUtils._transform_response_api_usage_to_chat_usage(
            {"total_tokens": raw["input_tokens"] + raw["output_tokens"], **raw}
        )
    return Usage(**raw)


def _calculated(case: Case, provider: Any, usage: Any) -> float:
    from litellm.cost_calculator import batch_cost_calculator, completion_cost, cost_per_token
    from litellm.types.utils import ModelResponse

    raw, model = case["usage"], case["model"]
    if units := raw.get("billed_units"):
        more: Any = {"rerank_billed_units": units, "call_type": "rerank"}
        return sum(cost_per_token(model=model, custom_llm_provider=provider, **more))
    if raw.get("batch") or raw.get("service_tier") == "batch":
        return sum(batch_cost_calculator(usage=usage, model=model, custom_llm_provider=provider))
    response = ModelResponse(model=model, usage=usage)
    tier = raw.get("service_tier") or raw.get("serviceTier") or raw.get("header", "").partition(": ")[2] or None
    kind: Any = "embedding" if "embedding" in model else "completion"
    return completion_cost(response, model=model, custom_llm_provider=provider, service_tier=tier, call_type=kind)


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/costs.md."""
    matched = sum(row.matched for row in rows)
    differs = [row for row in rows if row.litellm_usd is None or Decimal(row.litellm_off_usd or 0)]
    lines = [
        f"{matched} of {len(rows)} cases to the nano-dollar, with {_versions()}; "
        f"litellm's calculator gives another amount or none for {len(differs)}.",
        "",
        "| case | what | total, USD | ours | litellm | litellm is off by |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        ours = "same" if row.matched else row.ours_usd or "unknown"
        theirs = row.litellm_usd or row.litellm_note
        off = row.litellm_off_usd if row.litellm_off_usd not in (None, "0") else ""
        title = row.title.replace("|", "/")
        lines.append(f"| {row.id} | {title} | {row.total_usd} | {ours} | {theirs} | {off} |")
    lines += ["", "Not matched:", ""]
    lines += [f"- {row.id}: {row.reason}." for row in rows if not row.matched]
    return "\n".join(lines)


def _versions() -> str:
    return " and ".join(f"{name} {version(name)}" for name in ("litellm", "genai-prices"))


def _plain(amount: Decimal) -> str:
    text = f"{amount.normalize():f}"
    return "0" if not amount else text


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=Path, required=True, help="file of the cases")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--write", type=Path, help="page whose table is written anew")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RouterError as error:
        sys.exit(f"error: {error}")
