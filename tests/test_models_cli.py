"""`router models`: what each model costs, takes and can do, whether its key is there, and never the key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import load_policy
from router.core.text_features import SIZES
from router.models.local import Classifier, classifier_path, save
from router.models.price_history import announced
from tests.support import Cli, Done

CANARY = "sk-canary-5d20c8"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "MY_OWN_KEY")

POLICY = """\
version: 1
models:
  luna: {litellm: openai/gpt-5.6-luna}
  haiku: {litellm: anthropic/claude-haiku-5-5, price: {input_usd_per_mtok: 0.07}}
  tenant: {litellm: openai/gpt-5.6-luna, api_key_env: MY_OWN_KEY}
  own: {litellm: my/own, context_tokens: 4096}
  hosted: {litellm: hosted_vllm/llama-3.1-8b, api_base: http://localhost:8000/v1, price: {gpu_second_usd: 0.00055}}
  unpriced: {litellm: hosted_vllm/llama-3.1-8b}
  tiny: {litellm: local/tiny, price: {gpu_second_usd: 0.00001}}
tasks:
  classify: {ladder: [tiny, luna, haiku]}
  write: {ladder: [luna]}
"""


@pytest.fixture
def cli(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The same, with a policy and its local model, without any key."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    buckets = SIZES["small"].buckets
    numbers = np.ones((buckets, 2), np.float32), np.ones(buckets, np.float32), np.ones(2, np.float32)
    save(Classifier("small", ("a", "b"), *numbers, {}), classifier_path(Path("policies"), "tiny"))
    Path("policies/p.yml").write_text(POLICY)
    return cli


def _models(done: Done) -> dict[str, dict[str, Any]]:
    """The document that `--json` prints, by model."""
    return {row["model"]: row for row in done.json}


def _blocks(text: str) -> dict[str, dict[str, str]]:
    """The printed lines of each model, by name."""
    lines = [block.splitlines() for block in text.strip().split("\n\n")]
    blocks = [{line[:9].strip(): line[9:] for line in block} for block in lines]
    return {block["model"]: block for block in blocks}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts keys into the environment."""

    def put(*names: str) -> None:
        for name in names:
            monkeypatch.setenv(name, CANARY)

    return put


def test_each_model_is_shown_with_what_it_costs_and_can(cli: Cli) -> None:
    """Every model of the policies in its order: litellm's price, the policy's own where it has one, and who uses it."""
    done = cli("models")
    found = _blocks(done.out)
    assert (done.code, done.err) == (0, "")
    assert list(found) == ["luna", "haiku", "tenant", "own", "hosted", "unpriced", "tiny"]
    lines = {"can", "context", "key", "model", "name", "price", "used by"}
    assert [sorted(block.keys() - {"from", "cache", "longer", "tiers"}) for block in found.values()] == [
        sorted(lines)
    ] * 7
    sources = {name: block.get("from", "").partition(" 1.")[0] for name, block in found.items()}
    assert sources == {
        "luna": "litellm",
        "haiku": "policy and litellm",
        "tenant": "litellm",
        "own": "",
        "hosted": "policy",
        "unpriced": "",
        "tiny": "policy",
    }
    assert found["luna"]["price"] == "$0.2 in, $1.2 out, per million tokens"
    assert found["haiku"]["price"] == "$0.07 in, $0.5 out, per million tokens"
    assert found["luna"]["context"] == "922,000 tokens"
    assert {"json_schema", "logprobs", "tools"} <= set(found["luna"]["can"].split(", "))
    assert found["luna"]["used by"] == "classify, write"
    assert found["tenant"]["used by"] == "no task"


def test_without_keys_each_says_what_to_set(cli: Cli) -> None:
    """A missing key is named by its environment variable; a model on this machine needs none."""
    found = _blocks(cli("models").out)
    assert {name: block["key"] for name, block in found.items()} == {
        "luna": "missing: set OPENAI_API_KEY",
        "haiku": "missing: set ANTHROPIC_API_KEY",
        "tenant": "missing: set MY_OWN_KEY",
        "own": found["own"]["key"],
        "hosted": "present, or none needed",
        "unpriced": "present, or none needed",
        "tiny": "none needed",
    }


def test_an_unknown_provider_is_said_to_be_unknown(cli: Cli) -> None:
    """A misspelt provider is the first mistake there is: nobody may read that its key is present."""
    assert _blocks(cli("models").out)["own"]["key"] == "unknown: litellm knows no such provider"


def test_an_empty_key_is_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set to nothing, as in many a template of an .env file, holds no key."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert _blocks(cli("models").out)["luna"]["key"] == "missing: set OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("names", "present"),
    [
        (("OPENAI_API_KEY",), {"luna"}),
        (("ANTHROPIC_API_KEY",), {"haiku"}),
        (("MY_OWN_KEY",), {"tenant"}),
        (KEYS, {"luna", "haiku", "tenant"}),
    ],
    ids=["openai", "anthropic", "own", "all"],
)
def test_a_key_that_is_there_is_present(names: tuple[str, ...], present: set[str], cli: Cli, keys: Any) -> None:
    """Each key counts for the models that use it, and for no other."""
    keys(*names)
    found = _models(cli("models", "--json"))
    asked = {"luna", "haiku", "tenant"}
    assert {name for name in asked if found[name]["key"] == "present, or none needed"} == present
    assert {name for name in asked if found[name]["key"].startswith("missing: set ")} == asked - present


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_a_key_is_never_shown(flags: tuple[str, ...], cli: Cli, keys: Any) -> None:
    """No part of a key's value is printed, on either stream."""
    keys(*KEYS)
    done = cli("models", *flags)
    assert done.code == 0
    assert not any(CANARY[at : at + 6] in done.out + done.err for at in range(len(CANARY) - 5))


def test_unpriced_models_say_what_is_missing(cli: Cli) -> None:
    """An unknown price is unknown, in words or as null, and never 0."""
    text, data = _blocks(cli("models").out), _models(cli("models", "--json"))
    for name in ("own", "unpriced"):
        assert text[name]["price"] == "unknown: give it a `price:`"
        assert [data[name][f"{part}_usd_per_mtok"] for part in ("input", "output")] == [None, None]
        assert data[name]["gpu_second_usd"] is None
    assert (text["own"]["context"], text["unpriced"]["context"]) == ("4,096 tokens", "unknown")
    assert text["own"]["can"] == "unknown"


def test_local_models_are_priced_by_the_second(cli: Cli) -> None:
    """A classifier on this machine knows how sure it is, and a small price is written out."""
    text, row = _blocks(cli("models").out)["tiny"], _models(cli("models", "--json"))["tiny"]
    assert (text["name"], text["price"], text["can"]) == ("local/tiny", "$0.00001 a second", "logprobs")
    assert float(row["gpu_second_usd"]) == 0.00001
    assert (row["key"], row["capabilities"], row["used_by"]) == ("none needed", ["logprobs"], ["classify"])
    assert _blocks(cli("models").out)["hosted"]["price"] == "$0.00055 a second"


def test_a_machine_by_the_hour_shows_what_its_second_is_made_of(cli: Cli) -> None:
    """Hour price, requests at a time and how busy it is, in both forms."""
    hour = "{gpu_hour_usd: 3.6, gpu_concurrency: 4, gpu_utilisation: 0.5}"
    Path("policies/p.yml").write_text(POLICY.replace("{gpu_second_usd: 0.00055}", hour))
    shown, row = _blocks(cli("models").out)["hosted"], _models(cli("models", "--json"))["hosted"]
    assert shown["price"] == "$0.0005 a second: $3.6 an hour, 4 at a time, 50% busy"
    assert (row["gpu_hour_usd"], row["gpu_concurrency"], row["gpu_utilisation"]) == ("3.6", 4, 0.5)


def test_the_prices_of_the_cache_and_the_tiers_are_shown(cli: Cli) -> None:
    """Those of the cache in the text, those of each tier for programs; a model without any has no such line."""
    cache = "cached_read_usd_per_mtok: 0.1, cache_write_usd_per_mtok: 1.5, cache_write_1h_usd_per_mtok: 2"
    flex = "{service_tier: flex, input_usd_per_mtok: 0.5, output_usd_per_mtok: 2}"
    tiers = f"[{{above_input_tokens: 1000, input_usd_per_mtok: 2}}, {flex}]"
    own = f"price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 4, {cache}, tiers: {tiers}}}"
    Path("policies/p.yml").write_text(POLICY.replace("context_tokens: 4096", own))
    found = _blocks(cli("models").out)
    assert found["own"]["cache"] == "$0.1 read, $1.5 write, $2 write for 1 hour"
    assert found["own"]["longer"] == "another price above 1,000 input tokens"
    assert found["own"]["tiers"] == "flex: prices in --json"
    assert not {"cache", "longer", "tiers"} & found["hosted"].keys()
    assert _models(cli("models", "--json"))["own"]["tiers"] == [
        {"service_tier": "", "above_input_tokens": 1000, "input_usd_per_mtok": "2"},
        {
            "service_tier": "flex",
            "above_input_tokens": 0,
            "input_usd_per_mtok": "0.5",
            "output_usd_per_mtok": "2",
        },
    ]


def test_programs_are_told_the_same(cli: Cli) -> None:
    """`--json` has one object for each model with exact decimals as text."""
    done = cli("models", "--json")
    row = _models(done)["luna"]
    assert (done.code, done.err, len(_models(done))) == (0, "", 7)
    assert (row["input_usd_per_mtok"], row["output_usd_per_mtok"], row["context_tokens"]) == ("0.2", "1.2", 922_000)
    assert row["litellm"] == "openai/gpt-5.6-luna"
    assert row["used_by"] == ["classify", "write"]
    assert set(row["capabilities"]) >= {"json_schema", "logprobs", "tools"}


@pytest.mark.parametrize("template", [True, False], ids=["shipped", "own"])
def test_the_output_fits_80_columns(template: bool, cli: Cli) -> None:
    """No line is longer than a narrow terminal, for the shipped templates and for models of every kind."""
    if template:
        Path("policies/p.yml").unlink()
        assert cli("init").code == 0
    done = cli("models")
    assert done.code == 0
    priced = sum(
        line.startswith(("from ", "announced ", "cache ", "longer ", "tiers ")) for line in done.out.splitlines()
    )
    assert len(done.out.splitlines()) == 8 * len(load_policy().models) + priced
    assert [line for line in done.out.splitlines() if len(line) > 80] == []
    assert "\x1b" not in done.out


def test_a_missing_classifier_says_what_to_run(cli: Cli) -> None:
    """A local model without its file is a fault of the policies, with the command that makes the file."""
    classifier_path(Path("policies"), "tiny").unlink()
    done = cli("models")
    assert (done.code, done.out) == (2, "")
    expected = "error: policies/local/tiny.npz: is not there; run `router distill TASK --from LABELS` to make it\n"
    assert done.err == expected


def test_without_policies_the_error_names_init(cli: Cli) -> None:
    """A newcomer's first call of the command says what to do."""
    Path("policies/p.yml").unlink()
    done = cli("models")
    assert (done.code, done.out) == (2, "")
    assert "run `router init` to write one from a template" in done.err


def test_an_overlay_counts(cli: Cli) -> None:
    """`--env` shows what that environment would pay and use."""
    Path("policies/prod.yml").write_text(
        "version: 1\nenvironment: prod\nmodels: {own: {price: {gpu_second_usd: 2}}}\ntasks: {write: {ladder: [own]}}\n"
    )
    found = _blocks(cli("models", "--env", "prod").out)
    assert (found["own"]["price"], found["own"]["used by"]) == ("$2 a second", "write")
    assert found["luna"]["used by"] == "classify"


def test_prices_to_come_are_shown(cli: Cli) -> None:
    """The policy's next change, or else one that the vendor has announced and that nobody has written down."""
    Path("policies/p.yml").write_text(
        "version: 1\n"
        "models:\n"
        "  ours: {litellm: my/own, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2, changes: "
        "{2100-01-01: {input_usd_per_mtok: 3}}}}\n"
        "tasks: {t: {ladder: [ours]}}\n"
    )
    found = _blocks(cli("models").out)["ours"]
    assert found["price"] == "$1 in, $2 out, per million tokens"
    assert found["next"] == "$3 in, $2 out, per million tokens, from 2100-01-01"
    row = _models(cli("models", "--json"))["ours"]
    assert (row["next_price"]["starts"], row["next_price"]["input_usd_per_mtok"]) == ("2100-01-01", "3")


def test_an_announced_change_is_known_until_its_date() -> None:
    """From the installed release of genai-prices: Gemini 4 Argon doubles on the first of December."""
    before, after = (datetime(2026, 12, day, tzinfo=UTC) - timedelta(hours=1) for day in (1, 2))
    assert announced("google", "gemini-4-argon", before) == ("2026-12-01", Decimal(4), Decimal(20))
    assert announced("google", "gemini-4-argon", after) is None
    assert announced("google", "no-such-model", before) is None
