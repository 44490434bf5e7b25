"""Raw usage of every vendor to money: the rules of their documentation, each to the last digit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from evals import vendor_costs
from router import price_usage
from router.errors import InvalidUsage
from router.models.price_history import history
from router.pricing import Priced

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = Path(
    os.environ.get("ROUTER_VENDOR_EXAMPLES") or ROOT.parent / "shared/reference/vendor-pricing-examples.json"
)
NOVEMBER = {"at": "2026-11-20T12:00:00Z"}


def priced(vendor: str, model: str, usage: dict[str, Any], **context: Any) -> Priced:
    """The price on a Friday in November 2026 unless the context says when."""
    when = {} if "date" in context else NOVEMBER
    return price_usage(vendor=vendor, model=model, usage=usage, context={**when, **context})


def usd(vendor: str, model: str, usage: dict[str, Any], **context: Any) -> str | None:
    """The exact amount as plain text."""
    amount = priced(vendor, model, usage, **context).usd
    return None if amount is None else f"{amount:f}"


@pytest.mark.skipif(not EXAMPLES.is_file(), reason=f"{EXAMPLES} is not there; ROUTER_VENDOR_EXAMPLES names the file")
def test_every_published_example_comes_out_to_the_nano_dollar() -> None:
    """All but those that litellm's installed map does not list, and two whose host or endpoint only a title tells."""
    cases = {case["id"]: case for case in json.loads(EXAMPLES.read_text())}
    off = {
        name
        for name, case in cases.items()
        if usd(case["vendor"], case["model"], case["usage"], **case["context"]) != _plain(case["total_usd"])
    }
    assert off - {"C03"} == set(vendor_costs.TOLD) & cases.keys()
    for name in vendor_costs.TOLD.keys() & cases.keys():
        case = cases[name]
        told = vendor_costs.TOLD[name]
        assert usd(case["vendor"], case["model"], case["usage"], **told) == _plain(case["total_usd"])


def _plain(amount: str) -> str:
    value = Decimal(amount)
    return f"{value.normalize():f}" if value else "0"


@pytest.mark.skipif(not EXAMPLES.is_file(), reason=f"{EXAMPLES} is not there; ROUTER_VENDOR_EXAMPLES names the file")
def test_the_page_of_costs_names_every_case() -> None:
    """The table that the runner wrote has a row for each case."""
    page = (ROOT / "docs" / "costs.md").read_text()
    assert [case["id"] for case in json.loads(EXAMPLES.read_text()) if f"| {case['id']} |" not in page] == []


def test_the_runner_says_why_it_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the file of cases it ends well and names what is missing."""
    assert vendor_costs.main(["--examples", str(tmp_path / "none.json")]) == 0
    assert "none.json" in capsys.readouterr().err


CLAUDE = {"input_tokens": 1000, "output_tokens": 1000}
CHAT = {"prompt_tokens": 10000, "completion_tokens": 1000}
GEMINI = {"promptTokenCount": 800, "candidatesTokenCount": 600}


@pytest.mark.parametrize(
    ("model", "usage", "context", "expected"),
    [
        ("claude-haiku-5-5", {"input_tokens": 100_001, "output_tokens": 1000}, {}, "0.0525005"),
        ("claude-opus-5-5", {**CLAUDE, "speed": "fast", "cache_read_input_tokens": 1000}, {}, "0.0484"),
        ("claude-fable-5-2", {**CLAUDE, "speed": "fast"}, {}, "0.096"),
        ("claude-opus-5-5", {**CLAUDE, "speed": "fast", "inference_geo": "us"}, {}, "0.0528"),
        ("claude-opus-5-5", {**CLAUDE, "inference_geo": "mars"}, {}, None),
        ("claude-sonnet-4-6", {**CLAUDE, "speed": "fast"}, {}, None),
        ("claude-sonnet-5-5", {**CLAUDE, "code_execution_hours": 2}, {}, "0.112"),
        ("claude-sonnet-5-5", {**CLAUDE, "server_tool_use": {"code_execution_requests": 1}}, {}, None),
        ("claude-sonnet-5-5", {**CLAUDE, "server_tool_use": {"time_travel_requests": 1}}, {}, None),
        ("claude-opus-5-5", {**CLAUDE, "result_type": "expired"}, {"batch": True}, "0"),
        ("claude-opus-5-5", {**CLAUDE, "status": 529}, {}, "0"),
        ("claude-opus-5-5", {**CLAUDE, "stop_reason": "refusal"}, {"content_empty": True}, "0"),
        ("claude-opus-5-5", {**CLAUDE, "service_tier": "priority"}, {}, "0"),
        ("claude-opus-5-5", {**CLAUDE, "service_tier": "warp"}, {}, None),
        ("claude-unheard-of", CLAUDE, {}, None),
    ],
)
def test_anthropic(model: str, usage: dict[str, Any], context: dict[str, Any], expected: str | None) -> None:
    """Length, fast mode, residency, server tools, batches and refusals; what nobody explains is unknown."""
    assert usd("anthropic", model, usage, **context) == expected


@pytest.mark.parametrize(
    ("model", "usage", "context", "expected"),
    [
        ("gpt-6-sol", {"input_tokens": 272_001, "output_tokens": 2000}, {}, "1.118004"),
        ("gpt-5.5", {"service_tier": "default", "input_tokens": 8000, "output_tokens": 1000}, {}, "0.07"),
        ("gpt-6-sol", {"service_tier": "fast", **CHAT}, {}, "0.06"),
        ("gpt-4o", CHAT, {"host": "eu.api.openai.com"}, "0.035"),
        ("gpt-5.6-sol", CHAT, {"date": "2026-08-20"}, "0.08"),
        ("gpt-4.1", {**CHAT, "batch": True, "prompt_tokens_details": {"cached_tokens": 4000}}, {}, "0.014"),
        ("gpt-5.4", {**CHAT, "service_tier": "flex", "prompt_tokens_details": {"cached_tokens": 5000}}, {}, "0.0144"),
        ("gpt-4o-mini", {**CHAT, "web_search_calls": 1}, {}, "0.0271"),
        ("gpt-6-sol", {**CHAT, "file_search_calls": 2}, {}, "0.035"),
        ("gpt-6-sol", {**CHAT, "code_interpreter_sessions": 1}, {}, "0.06"),
        ("whisper-1", {"type": "duration", "seconds": 60}, {}, "0.006"),
        ("gpt-6-sol", {**CHAT, "status": 429}, {}, "0"),
        ("gpt-6-sol-2026-09-01", CHAT, {}, "0.03"),
    ],
)
def test_openai(model: str, usage: dict[str, Any], context: dict[str, Any], expected: str | None) -> None:
    """Length, served tiers, hosts, dates, batches without a cached rate, fees and sound."""
    assert usd("openai", model, usage, **context) == expected


def test_an_attempt_that_gave_way_before_any_output_is_not_billed() -> None:
    """A fallback on the server: each attempt at its own model's price, the refused one for nothing."""
    attempts = [
        {"type": "message", "model": "claude-fable-5-2", "input_tokens": 1000, "output_tokens": 1},
        {"type": "fallback_message", "model": "claude-opus-5-5", "input_tokens": 1000, "output_tokens": 100},
    ]
    usage = {"input_tokens": 1000, "output_tokens": 100, "iterations": attempts}
    assert usd("anthropic", "claude-fable-5-2", usage) == "0.006"
    attempts[0]["output_tokens"] = 100
    assert usd("anthropic", "claude-fable-5-2", usage) == "0.018"


def test_an_image_model_s_output_is_images() -> None:
    """The images endpoint does not tell its output apart."""
    assert usd("openai", "gpt-image-2", {"input_tokens": 50, "output_tokens": 1056}) == "0.03193"
    assert usd("openai", "gpt-image-2", {"input_tokens": 50, "output_tokens": 1056, "batch": True}) == "0.015965"


def test_cached_sound_is_not_counted_twice() -> None:
    """A realtime usage counts cached audio as cached and as audio; it is one bucket here."""
    usage = {
        "input_tokens": 1500,
        "input_token_details": {
            "text_tokens": 500,
            "audio_tokens": 1000,
            "cached_tokens": 700,
            "cached_tokens_details": {"text_tokens": 200, "audio_tokens": 500},
        },
        "output_tokens": 800,
        "output_token_details": {"text_tokens": 200, "audio_tokens": 600},
    }
    lines = {line.bucket: line.tokens for line in priced("openai", "gpt-realtime", usage).lines}
    assert lines == {
        "input": 300,
        "input_audio": 500,
        "cache_read": 200,
        "cache_read_audio": 500,
        "output": 200,
        "output_audio": 600,
    }
    assert usd("openai", "gpt-realtime", usage) == "0.05908"


@pytest.mark.parametrize(
    ("vendor", "model", "usage", "context", "expected"),
    [
        ("google", "gemini-3.8-flash", {**GEMINI, "webSearchQueries": 4}, {}, "0.05885"),
        ("google", "gemini-3.8-flash", {**GEMINI, "webSearchQueries": 4}, {"free_quota": True}, "0.00285"),
        (
            "google",
            "gemini-3.8-flash",
            {**GEMINI, "webSearchQueries": ["a"], "toolUsePromptTokenCount": 9},
            {},
            "0.01685",
        ),
        ("google", "gemini-3.8-flash", GEMINI, {"location": "europe-west1"}, "0.003135"),
        ("vertex", "gemini-3.8-flash", {**GEMINI, "trafficType": "ON_DEMAND_PRIORITY"}, {}, "0.00513"),
        ("vertex", "gemini-3.8-flash", {**GEMINI, "trafficType": "PROVISIONED_THROUGHPUT"}, {}, "0"),
        ("google", "gemini-3.8-flash", GEMINI, {"date": "2027-01-01"}, "0.0057"),
        ("google", "gemini-3.8-flash", {**GEMINI, "storage_mtok_hours": 0.5}, {}, "0.25285"),
        ("google", "gemini-2.5-flash", {**GEMINI, "cachedContentTokenCount": 400, "batch": True}, {}, "0.000822"),
        (
            "google",
            "gemini-4-argon",
            {**GEMINI, "headers": {"x-gemini-service-tier": "flex"}},
            {"date": "2026-12-02"},
            "0.0076",
        ),
        ("google", "gemini-3.1-pro-preview", {**GEMINI, "promptTokenCount": 210_000, "batch": True}, {}, "0.4254"),
        ("vertex", "claude-opus-5-5", {**CLAUDE, "service_tier": "batch"}, {}, "0.012"),
        ("bedrock", "global.anthropic.claude-opus-5-5", {"inputTokens": 1000, "outputTokens": 1000}, {}, "0.024"),
        (
            "bedrock",
            "anthropic.claude-opus-5-5",
            {"inputTokens": 1000, "outputTokens": 1000},
            {"region": "us-east-1"},
            "0.0264",
        ),
        ("bedrock", "eu.amazon.nova-pro-v1:0", {"inputTokens": 1000, "outputTokens": 1000}, {}, "0.00525"),
        (
            "bedrock",
            "openai.gpt-oss-120b-1:0",
            {"inputTokens": 10000, "outputTokens": 1000, "serviceTier": {"type": "priority"}},
            {},
            "0.003675",
        ),
        (
            "bedrock",
            "anthropic.claude-opus-5-5",
            {"inputTokens": 10, "outputTokens": 1, "serviceTier": "flex"},
            {},
            None,
        ),
        ("azure", "us/gpt-6-sol", CHAT, {}, "0.033"),
        ("azure", "apac/gpt-6-sol", CHAT, {}, "0.036"),
        ("azure", "gpt-6-sol", {**CHAT, "web_search_calls": 1}, {}, "0.044"),
        ("azure", "gpt-6-sol", {"status": 408, "prompt_tokens_estimated": 3000}, {}, "0.006"),
        ("azure", "gpt-6-sol", {"status": 429, "prompt_tokens_estimated": 3000}, {}, "0"),
        ("azure", "gpt-6-sol", {"status": 503, "prompt_tokens_estimated": 3000}, {}, None),
    ],
)
def test_clouds(vendor: str, model: str, usage: dict[str, Any], context: dict[str, Any], expected: str | None) -> None:
    """Grounding, regions, traffic types, announced changes and statuses of Google, Amazon and Microsoft."""
    assert usd(vendor, model, usage, **context) == expected


@pytest.mark.parametrize(
    ("vendor", "model", "usage", "context", "expected"),
    [
        ("mistral", "mistral-large-4", CHAT, {"date": "2026-10-25"}, "0.01778"),
        ("mistral", "mistral-large-4", {**CHAT, "batch": True}, {}, "0.00455"),
        ("mistral", "mistral-large-latest", CHAT, {}, "0.0065"),
        ("mistral", "mistral-ocr-4-1", {"usage_info": {"pages_processed": 10}}, {}, "0.04"),
        ("mistral", "mistral-ocr-4-1", {"pages_processed": 10, "annotated_pages": 2}, {"batch": True}, "0.021"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-11-20T00:59:59Z"}, "0.00858"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-11-20T01:00:00Z"}, "0.01716"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-11-20T03:59:59Z"}, "0.01716"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-11-20T04:00:00Z"}, "0.00858"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-11-22T23:59:59Z"}, "0.00858"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-11-23T09:00:00+08:00"}, "0.01716"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-10-01T02:00:00Z"}, "0.00858"),
        ("deepseek", "deepseek-v4-pro", CHAT, {"at": "2026-11-20T02:00:00Z", "holiday": True}, "0.00858"),
        ("deepseek", "deepseek-v4-pro", {**CHAT, "batch": True}, {}, None),
        (
            "groq",
            "openai/gpt-oss-120b",
            {**CHAT, "batch": True, "prompt_tokens_details": {"cached_tokens": 4096}},
            {},
            "0.00105",
        ),
        ("groq", "openai/gpt-oss-120b", {**CHAT, "service_tier": "flex"}, {}, "0.0021"),
        ("groq", "whisper-large-v3", {"type": "duration", "seconds": 4}, {}, "0.0003083"),
        ("fireworks", "accounts/fireworks/models/deepseek-v4p1-flash", CHAT, {"region": "us"}, "0.0063"),
        ("fireworks", "accounts/fireworks/routers/deepseek-v4p1-flash-us", CHAT, {"region": "us"}, "0.0063"),
        ("xai", "grok-4.7", {"prompt_tokens": 200_000, "completion_tokens": 500}, {}, "0.806"),
        ("xai", "grok-4.7", CHAT, {"host": "us-east-1.api.x.ai"}, "0.0286"),
        (
            "cohere",
            "command-a-03-2025",
            {"billed_units": {"input_tokens": 10.0}, "tokens": {"input_tokens": 99}},
            {},
            "0.000025",
        ),
        ("cohere", "command-a-plus", {"billed_units": {"input_tokens": 10.0}}, {}, None),
        ("openrouter", "openai/gpt-4o", {**CHAT, "cost": 0.00123}, {}, "0.00123"),
        (
            "openrouter",
            "x/y",
            {"cost": 0.0001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.002}},
            {},
            "0.0021",
        ),
        ("perplexity", "sonar", {"cost": {"total_cost": 0.006}}, {}, "0.006"),
        ("perplexity", "sonar", {**CHAT, "search_context_size": "low"}, {}, "0.016"),
        ("novita", "nobody/knows", CHAT, {}, None),
        ("together", "nobody/knows", {**CHAT, "status": 500}, {}, None),
    ],
)
def test_hosts(vendor: str, model: str, usage: dict[str, Any], context: dict[str, Any], expected: str | None) -> None:
    """Clocks, holidays, dates, pages, batches and the vendors' own figures."""
    assert usd(vendor, model, usage, **context) == expected


@pytest.mark.parametrize(("total", "output"), [(1160, 160), (1100, 100), (1234, 160)])
def test_xai_s_total_tells_whether_reasoning_is_inside(total: int, output: int) -> None:
    """Beside the completion as documented, inside it where the total says so, and flagged where it says neither."""
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "completion_tokens_details": {"reasoning_tokens": 60},
        "total_tokens": total,
    }
    result = priced("xai", "grok-4.7", usage)
    assert sum(line.tokens for line in result.lines if line.bucket in ("output", "reasoning")) == output
    assert bool(result.notes) is (total == 1234)


def test_the_vendor_s_own_figure_wins_and_ours_stands_beside_it() -> None:
    """xAI counts in ten-billionths of a dollar."""
    result = priced("xai", "grok-4.7", {**CHAT, "cost_in_usd_ticks": 123})
    assert (result.source, result.usd, result.computed_usd) == ("provider", Decimal("1.23E-8"), Decimal("0.026"))
    assert result.nusd == 12


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({"gpu_hour_usd": 3.6}, "0.003"),
        ({"gpu_hour_usd": 3.6, "gpus": 2, "concurrency": 4, "utilisation": 0.5}, "0.003"),
    ],
)
def test_a_model_of_one_s_own_costs_its_share_of_the_machine(context: dict[str, Any], expected: str) -> None:
    """Seconds at the hour's price; requests share the machine, and carry its idle time."""
    assert usd("own", "llama", {"gpu_seconds": 3, "prompt_tokens": 5}, **context) == expected
    assert usd("own", "llama", {"prompt_tokens": 5}, **context) is None


@pytest.mark.parametrize(
    ("usage", "field"),
    [
        ({"prompt_tokens": -1}, "usage.prompt_tokens"),
        ({"prompt_tokens": float("nan")}, "usage.prompt_tokens"),
        ({"prompt_tokens": 1.5}, "usage.prompt_tokens"),
        ({"prompt_tokens": True}, "usage.prompt_tokens"),
        ({"prompt_tokens": "12"}, "usage.prompt_tokens"),
        ({"prompt_tokens": 10**5000}, "usage.prompt_tokens"),
        ({"prompt_tokens": 5, "prompt_tokens_details": 3}, "usage.prompt_tokens_details"),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}, "usage.prompt_tokens_details"),
        (
            {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}},
            "usage.completion_tokens_details",
        ),
        ({"cost": float("inf")}, "usage.cost"),
        ({"iterations": 3}, "usage.iterations"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(usage: dict[str, Any], field: str) -> None:
    """Negative, not a number, not whole, beyond belief, of another kind, or more than its whole."""
    with pytest.raises(InvalidUsage) as caught:
        priced("openai", "gpt-6-sol", usage)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "context",
    [{"at": "yesterday"}, {"at": 5}, {"batch": "yes"}, {"gpu_hour_usd": 1, "utilisation": 2}, {"gpu_hour_usd": -1}],
)
def test_a_context_that_cannot_be_is_an_error_too(context: dict[str, Any]) -> None:
    """A price by the clock needs a clock that can be read."""
    with pytest.raises(InvalidUsage, match="context"):
        priced("openai", "gpt-6-sol", {**CHAT, "gpu_seconds": 1}, **context)


def test_an_unread_word_of_the_context_is_named() -> None:
    """A slip of the pen must not change a price silently."""
    assert any("'batched'" in note for note in priced("openai", "gpt-6-sol", CHAT, batched=True).notes)


def test_both_price_sources_are_read_without_a_connection() -> None:
    """Loading them in a process that has no sockets gives a price."""
    code = (
        "import sys\n"
        "def refuse(event, given):\n"
        "    assert event not in ('socket.connect', 'socket.getaddrinfo'), event\n"
        "sys.addaudithook(refuse)\n"
        "from router import price_usage\n"
        "given = dict(vendor='mistral', model='mistral-large-4', context={'date': '2026-11-20'})\n"
        "print(price_usage(usage={'prompt_tokens': 10000, 'completion_tokens': 1000}, **given).usd)\n"
        "assert 'litellm' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("0.0091", 0), done.stderr


def test_a_model_that_the_history_does_not_know_has_none() -> None:
    """Neither a vendor nor a model is guessed."""
    now = datetime(2026, 11, 20, tzinfo=UTC)
    assert history("openai", "gpt-99", now, {}) is None
    assert history("nobody", "gpt-6-sol", now, {}) is None
