"""Real requests over loopback: every fault of the upstream, blocking and not, against the upstream's own bill."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from router import Answer, Router
from router.errors import NoAnswer
from router.ledger import load_fingerprints
from router.world import World
from tests.support import make_policy, read_table
from tests.upstream import Billed, Fault, Upstream

pytestmark = pytest.mark.filterwarnings("ignore::router.errors.RouterWarning")

# Kinds that end only with our own time limit, and that limit.
_HANGING_S = {Fault.TIMEOUT: 0.7, Fault.TIMEOUT_BILLED: 0.7, Fault.STALLED: 3.0}


def _prompts() -> list[str]:
    """One prompt for each fault alone, and one for each fault followed by an answer."""
    return [f"fault={kind}{after} say=the_answer id={kind}{after}" for kind in Fault for after in ("", ",ok")]


def _deadline_s(prompt: str) -> float:
    return next((limit_s for kind, limit_s in _HANGING_S.items() if f"fault={kind}" in prompt), 20.0)


def _route(router: Router, prompt: str) -> Answer | NoAnswer:
    try:
        return router.route("t", prompt, deadline_s=_deadline_s(prompt))
    except NoAnswer as error:
        return error


async def _aroute(router: Router, prompt: str) -> Answer | NoAnswer:
    try:
        return await router.aroute("t", prompt, deadline_s=_deadline_s(prompt))
    except NoAnswer as error:
        return error


def _all_blocking(router: Router, prompts: list[str]) -> list[Answer | NoAnswer]:
    def one(prompt: str) -> Answer | NoAnswer:
        loop = asyncio.new_event_loop()  # litellm would make one for the thread and leave it open.
        asyncio.set_event_loop(loop)
        try:
            return _route(router, prompt)
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, prompts))


def _all_awaited(router: Router, prompts: list[str]) -> list[Answer | NoAnswer]:
    async def main() -> list[Answer | NoAnswer]:
        results: list[Answer | NoAnswer] = []
        for start in range(0, len(prompts), 8):
            results += await asyncio.gather(*(_aroute(router, prompt) for prompt in prompts[start : start + 8]))
        return results

    return asyncio.run(main())


def pair_with_bill(
    home: Path, bill: list[Billed], *, lost_allowed: bool = False
) -> list[tuple[dict[str, Any], Billed]]:
    """Each counted request with its row, matched by prompt and order; every one must have a row.

    The other way round holds unless `lost_allowed`: a request that died on its way has a row and no bill.
    """
    prints = load_fingerprints(home, World())
    own = [prints.of(user) for user in (None, "ann", "ben")]  # The prompts of a user are under the user's key.
    recorded: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_table(home, "attempts"):
        recorded[row["prompt_fp"]].append(row)
    billed: dict[str, list[Billed]] = defaultdict(list)
    for one in bill:
        keys = [each.prompt([{"role": "user", "content": one.message}])[0] for each in own]
        billed[next((key for key in keys if key in recorded), keys[0])].append(one)
    for key in recorded.keys() | billed.keys():
        rows, counted = len(recorded[key]), len(billed[key])
        assert rows == counted or (lost_allowed and rows > counted), (rows, billed[key])
    return [pair for key, rows in recorded.items() for pair in _aligned(rows, billed[key])]


def _aligned(rows: list[dict[str, Any]], bill: list[Billed]) -> list[tuple[dict[str, Any], Billed]]:
    """Rows and records in their order, past rows of requests that never arrived: the pairing that agrees, if any."""
    pairings = (list(zip(chosen, bill, strict=True)) for chosen in combinations(rows, len(bill)))
    first = next(pairings)
    return next((pairs for pairs in (first, *pairings) if all(agrees(*pair) for pair in pairs)), first)


def agrees(row: dict[str, Any], billed: Billed) -> bool:
    """A settled row is the bill to the nano-dollar; of any other the bill is within its bounds."""
    if row["state"] == "settled":
        return bool(row["cost_nusd"] == billed.cost_nusd)
    return bool(row["upper_nusd"] is not None and 0 <= billed.cost_nusd <= row["upper_nusd"])


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
@pytest.mark.parametrize("run", [_all_blocking, _all_awaited], ids=["route", "aroute"])
def test_the_ledger_agrees_with_the_bill(run: Any, provider: str, upstream: Upstream, home: Path) -> None:
    """Every request that the upstream counted has a row; settled costs are exact, the rest holds it in bounds."""
    prompts = _prompts()
    with Router(make_policy(api_base=upstream.url, provider=provider)) as router:
        results = run(router, prompts)
    pairs = pair_with_bill(home, upstream.bill())
    assert len(results) == len(prompts)
    wrong = [
        (row["fault"], row["state"], row["cost_nusd"], row["upper_nusd"], billed.kind, billed.cost_nusd)
        for row, billed in pairs
        if not agrees(row, billed)
    ]
    assert wrong == []
    assert {row["state"] for row, _ in pairs} == {"settled", "estimated", "maybe_billed"}
    settled = sum(row["cost_nusd"] for row, _ in pairs if row["state"] == "settled")
    uncertain = sum(row["upper_nusd"] for row, _ in pairs if row["state"] != "settled")
    assert settled <= sum(billed.cost_nusd for _, billed in pairs) <= settled + uncertain


def test_blocking_and_awaited_calls_decide_alike(upstream: Upstream, tmp_path: Path) -> None:
    """The same prompts give the same answers, rungs, faults and settled costs from `route` and `aroute`."""
    prompts = [prompt for prompt in _prompts() if _deadline_s(prompt) > 1 and "drip" not in prompt]
    seen = []
    for run in (_all_blocking, _all_awaited):
        upstream.reset()
        with Router(make_policy(api_base=upstream.url), home=tmp_path / run.__name__) as router:
            seen.append([_essence(result) for result in run(router, prompts)])
    assert seen[0] == seen[1]


def _essence(result: Answer | NoAnswer) -> Any:
    # What is estimated hangs on the replies before it, whose order nobody knows.
    faults = [
        (one.model, one.fault, one.amount.state, one.amount.state == "settled" and one.amount.nusd)
        for one in result.attempts
    ]
    if isinstance(result, NoAnswer):
        return type(result), faults
    return result.text, result.rung, [step.reason for step in result.steps], faults


@pytest.mark.parametrize("run", [_route, None], ids=["route", "aroute"])
def test_retry_after_is_honoured(run: Any, upstream: Upstream) -> None:
    """A rate limit that says when to come back is waited out and the same rung answers."""
    prompt = "fault=rate_limited,ok say=fine"
    with Router(make_policy(api_base=upstream.url)) as router:
        answer = router.route("t", prompt) if run else asyncio.run(router.aroute("t", prompt))
    assert (answer.text, answer.rung, len(answer.attempts)) == ("fine", 0, 2)
    assert answer.latency_ms >= 50  # The upstream's Retry-After.


def test_a_hanging_model_is_left_at_the_deadline(upstream: Upstream) -> None:
    """A model that never answers costs the deadline and no more, and the error says what was tried."""
    with Router(make_policy({"retry": {"attempts": 1}}, api_base=upstream.url)) as router:
        result = asyncio.run(_aroute(router, "fault=timeout"))
    assert isinstance(result, NoAnswer)
    assert [attempt.fault for attempt in result.attempts] == ["timeout"]
