"""Prices in a policy: lengths, tiers and machines as people write them, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import load_policy
from router.core.call import Usage
from router.core.pricing import cost_nusd
from router.errors import PolicyError


def write(folder: Path, price: str) -> Path:
    """A policy whose one model has this price."""
    path = folder / "p.yml"
    path.write_text(
        f"version: 1\nmodels: {{m: {{litellm: hosted_vllm/m, price: {price}}}}}\ntasks: {{t: {{ladder: [m]}}}}\n"
    )
    return path


def test_a_policy_may_price_lengths_tiers_and_machines(tmp_path: Path) -> None:
    """As nested mappings, exact like every price."""
    text = (
        "{input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.5, tiers: "
        "[{above_input_tokens: 100000, input_usd_per_mtok: 0.5, output_usd_per_mtok: 2.5}, "
        "{service_tier: flex, input_usd_per_mtok: 0.05, output_usd_per_mtok: 0.25}]}"
    )
    price = load_policy(write(tmp_path, text)).models["m"].price
    assert cost_nusd(Usage(100_000), price) == 10_000_000
    assert cost_nusd(Usage(100_001), price) == 50_000_500
    machine = load_policy(write(tmp_path, "{gpu_hour_usd: 7.2, gpu_concurrency: 8, gpu_utilisation: 0.25}"))
    assert cost_nusd(Usage(5), machine.models["m"].price, 1.0) == 1_000_000


@pytest.mark.parametrize(
    ("price", "place", "problem"),
    [
        ("{gpu_hour_usd: 1, gpu_second_usd: 1}", "models.m.price.gpu_hour_usd", "keep one"),
        ("{gpu_second_usd: 1, gpu_concurrency: 4}", "models.m.price", "which is missing"),
        ("{gpu_hour_usd: 1, gpu_utilisation: 0}", "models.m.price.gpu_utilisation", "greater than 0"),
        ("{gpu_hour_usd: 1, gpu_utilisation: 1.5}", "models.m.price.gpu_utilisation", "less than or equal to 1"),
        ("{input_usd_per_mtok: -1}", "models.m.price.input_usd_per_mtok", "greater than or equal to 0"),
        ("{input_usd_per_mtok: .nan}", "models.m.price.input_usd_per_mtok", "finite"),
        ("{input_usd_per_ktok: 1}", "models.m.price.input_usd_per_ktok", "input_usd_per_mtok"),
        ("{input_usd_per_token: 1}", "models.m.price.input_usd_per_token", "those of tokens per million"),
        ("{input_eur_per_mtok: 1}", "models.m.price.input_eur_per_mtok", "Prices are US dollars"),
        (
            "{input_usd_per_mtok: 5 EUR}",
            "models.m.price.input_usd_per_mtok",
            "a plain number, such as 0.25, found '5 EUR'",
        ),
        ("{input_usd_per_mtok: true}", "models.m.price.input_usd_per_mtok", "a plain number, such as 0.25, found True"),
        ("{input_usd_per_mtok: 'NaN'}", "models.m.price.input_usd_per_mtok", "finite"),
        ("{gpu_hour_usd: 1, gpu_concurrency: 0}", "models.m.price.gpu_concurrency", "greater than 0"),
        ("{gpu_hour_usd: 1, gpu_utilisation: 80}", "models.m.price.gpu_utilisation", "such as 0.8 for 80 %"),
        ("{tiers: [{input_usd_per_mtok: 1}]}", "models.m.price.tiers.0", "holds where other prices hold already"),
        ("{tiers: [{service_tier: flex}, {service_tier: flex}]}", "models.m.price.tiers.1", "hold already"),
    ],
)
def test_a_price_that_cannot_be_is_refused_by_place(tmp_path: Path, price: str, place: str, problem: str) -> None:
    """Negative, not finite, of an unknown unit, twice, or of parts that do not go together."""
    with pytest.raises(PolicyError) as caught:
        load_policy(write(tmp_path, price))
    assert caught.value.where.replace("[", ".").replace("]", "") == place
    assert problem in str(caught.value)
    assert (caught.value.path, caught.value.line) == (str(tmp_path / "p.yml"), 2)
