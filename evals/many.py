"""Calls a second, many at once: `python -m evals.many [--calls N] [--rounds N] [--concurrency N] [--json]`.

`map` and `amap` against the same bare litellm calls at the same concurrency, in turn, over loopback HTTP. The ratio is
the median of the rounds' own ratios, so that a machine that slows down slows both sides; that of processor time is what
it would be on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from router import Router
from tests.support import make_policy
from tests.upstream import Upstream

PROMPT = "say=yes is this a question?"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m evals.many")
    parser.add_argument("--calls", type=int, default=256, help="calls of each side in each round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    with Upstream() as upstream, tempfile.TemporaryDirectory() as home, asyncio.Runner() as runner:
        policy = make_policy({"answer": {"choice": ["yes", "no"]}}, api_base=upstream.url)
        with Router(policy, home=home) as router:
            sides = _sides(router, upstream.url, options.concurrency, runner.get_loop())
            found = {name: _rate(*pair, options.calls, options.rounds) for name, pair in sides.items()}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, one in found.items():
            rates = f"{name:5} {one['ours']:6.0f} calls/s, bare {one['bare']:6.0f} calls/s"
            print(f"{rates}, ratio {one['ratio']:.3f}, of processor time {one['cpu_ratio']:.3f}")
    return 0


def _sides(
    router: Router, url: str, concurrency: int, loop: asyncio.AbstractEventLoop
) -> dict[str, tuple[Callable[[int], None], Callable[[int], None]]]:
    router.plan("t")  # Through our door first, or litellm calls home when it is imported.
    import litellm

    bare: dict[str, Any] = {"api_base": url, "max_tokens": 40, "max_retries": 0, "timeout": 600.0}
    bare |= {"model": "openai/small", "messages": [{"role": "user", "content": PROMPT}]}

    def ours(calls: int) -> None:
        assert all(one.answer for one in router.map("t", [PROMPT] * calls, concurrency=concurrency))

    def theirs(calls: int) -> None:
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(lambda _: litellm.completion(**bare), range(calls)))

    def aours(calls: int) -> None:
        async def run() -> None:
            async for one in router.amap("t", [PROMPT] * calls, concurrency=concurrency):
                assert one.answer

        loop.run_until_complete(run())

    def atheirs(calls: int) -> None:
        async def run() -> None:
            at_once = asyncio.Semaphore(concurrency)

            async def one() -> None:
                async with at_once:
                    await litellm.acompletion(**bare)

            await asyncio.gather(*(one() for _ in range(calls)))

        loop.run_until_complete(run())

    return {"map": (ours, theirs), "amap": (aours, atheirs)}


def _rate(ours: Callable[[int], None], bare: Callable[[int], None], calls: int, rounds: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    cpu: dict[str, list[float]] = {"ours": [], "bare": []}
    for run in (ours, bare):
        run(calls // 2)  # Opens the connections.
    for number in range(rounds):
        pair = [("ours", ours), ("bare", bare)]
        for name, run in pair if number % 2 else reversed(pair):
            started, worked = time.perf_counter(), time.process_time()
            run(calls)
            rates[name].append(calls / (time.perf_counter() - started))
            cpu[name].append((time.process_time() - worked) / calls)
    ratio = median(one / other for one, other in zip(rates["ours"], rates["bare"], strict=True))
    cpu_ratio = median(other / one for one, other in zip(cpu["ours"], cpu["bare"], strict=True))
    return {"ours": median(rates["ours"]), "bare": median(rates["bare"]), "ratio": ratio, "cpu_ratio": cpu_ratio}


if __name__ == "__main__":
    raise SystemExit(main())
