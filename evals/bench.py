"""The speed budgets, measured: `python -m evals.bench [--json] [--calls N]`.

Ratios are of pairs taken in turn in one run, so that a machine that slows down slows both sides. Times are the
median of several rounds. No figure here is a test: machines differ.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

from router import Router
from router.core.answer import Attempt
from router.core.calibration import Calibrator
from router.core.call import Reply, Usage
from router.core.cascade import cascade
from router.core.checks import Verdict
from router.core.effects import Asked, Request
from router.core.limits import Allowance, Budgets
from router.core.pricing import Amount
from router.core.signals import read_signals
from router.models.litellm import LiteLLM
from router.testing import ScriptedModels
from tests.support import make_policy
from tests.upstream import Upstream

_BLOCK = 25


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    what: str
    measured: float
    unit: str
    budget: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench")
    parser.add_argument("--calls", type=int, default=1000, help="HTTP calls of each side for each ratio")
    parser.add_argument("--memory-calls", type=int, default=30_000, help="calls that memory is watched over")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    os.environ["OPENAI_API_KEY"] = "not-a-key"
    figures = [
        *over_http(options.calls),
        around_a_mock_reply(),
        flow_alone(),
        free_signals(),
        calibrator(),
        import_time(),
        help_time(),
        *memory(options.memory_calls),
    ]
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
        return 0
    width = max(len(figure.what) for figure in figures)
    print(f"{'what':{width}}  {'measured':>10}  {'budget':>10}")
    for figure in figures:
        least = figure.unit.endswith("at least")
        within = "" if (figure.measured >= figure.budget if least else figure.measured <= figure.budget) else "  missed"
        print(
            f"{figure.what:{width}}  {_shown(figure.measured, figure.unit):>10}  "
            f"{_shown(figure.budget, figure.unit):>10}{within}"
        )
    return 0


def over_http(calls: int) -> list[Figure]:
    """An accepted call with everything on, over loopback HTTP, against the same bare litellm call."""
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
    plain, calling = "say=yes is this a question?", "call=find:{} what is there?"
    with Upstream() as upstream, tempfile.TemporaryDirectory() as home, asyncio.Runner() as runner:
        policy = make_policy({"answer": {"choice": ["yes", "no"]}}, api_base=upstream.url)
        live_policy = make_policy({"ladder": ["small"]}, api_base=upstream.url)
        with Router(policy, home=home) as router, Router(live_policy, home=home) as live:
            sides = _Sides(router, live, upstream.url)
            loop = runner.get_loop()  # A blocking litellm call is slower in a thread without one.
            ratios = [
                ("route", _block(lambda: sides.ask(plain)), _block(lambda: sides.ask_bare(plain))),
                ("aroute", _ablock(lambda: sides.aask(plain), loop), _ablock(lambda: sides.aask_bare(plain), loop)),
                (
                    "route with tools",
                    _block(lambda: sides.ask(calling, tools=tools)),
                    _block(lambda: sides.ask_bare(calling, tools=tools, _skip_mcp_handler=True)),
                ),
                ("route(stream=True)", _block(lambda: sides.stream(plain)), _block(lambda: sides.stream_bare(plain))),
                (
                    "aroute(stream=True)",
                    _ablock(lambda: sides.astream(plain), loop),
                    _ablock(lambda: sides.astream_bare(plain), loop),
                ),
            ]
            figures = [
                Figure(f"{name} / bare litellm", _paired(ours, theirs, calls), "x", 1.08)
                for name, ours, theirs in ratios
            ]
            sides.litellm.success_callback = [lambda *_: None]
            heard = _paired(ratios[0][1], ratios[0][2], calls)
            sides.litellm.success_callback = []
            figures.append(Figure("route / bare litellm, callbacks in use", heard, "x", 1.08))
            figures.append(throughput(sides, loop, plain, calls))
    return figures


class _Sides:
    """The same call through us and bare, in every form."""

    def __init__(self, router: Router, live: Router, url: str) -> None:
        router.plan("t")  # Through our door first, or litellm calls home when it is imported.
        import litellm

        self.litellm: Any = litellm
        self._router, self._live = router, live
        self._bare: dict[str, Any] = {
            "model": "openai/small",
            "api_base": url,
            "max_tokens": 40,
            "max_retries": 0,
            "timeout": 600.0,
        }
        self._streamed = {**self._bare, "stream": True, "stream_options": {"include_usage": True}}

    def ask(self, prompt: str, **more: Any) -> None:
        assert self._router.route("t", prompt, feature="bench", user="u", **more).rung == 0

    def ask_bare(self, prompt: str, **more: Any) -> None:
        self.litellm.completion(messages=_messages(prompt), **self._bare, **more)

    async def aask(self, prompt: str) -> None:
        assert (await self._router.aroute("t", prompt, feature="bench", user="u")).rung == 0

    async def aask_bare(self, prompt: str) -> None:
        await self.litellm.acompletion(messages=_messages(prompt), **self._bare)

    def stream(self, prompt: str) -> None:
        for _ in self._live.route("t", prompt, stream=True, feature="bench", user="u"):
            pass

    def stream_bare(self, prompt: str) -> None:
        for _ in self.litellm.completion(messages=_messages(prompt), **self._streamed):
            pass

    async def astream(self, prompt: str) -> None:
        async for _ in await self._live.aroute("t", prompt, stream=True, feature="bench", user="u"):
            pass

    async def astream_bare(self, prompt: str) -> None:
        async for _ in await self.litellm.acompletion(messages=_messages(prompt), **self._streamed):
            pass


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def throughput(sides: _Sides, loop: asyncio.AbstractEventLoop, prompt: str, calls: int) -> Figure:
    """Calls a second with 64 at once, over bare litellm's: a share, of which more is better."""

    def at_once(call: Callable[[str], Awaitable[None]]) -> Callable[[int], float]:
        async def many(number: int) -> None:
            left = iter(range(number * 8))

            async def worker() -> None:
                for _ in left:
                    await call(prompt)

            await asyncio.gather(*(worker() for _ in range(64)))

        def run(number: int) -> float:
            started = time.perf_counter()
            loop.run_until_complete(many(number))
            return time.perf_counter() - started

        return run

    slowdown = _paired(at_once(sides.aask), at_once(sides.aask_bare), calls // 2)
    return Figure("throughput with 64 at once / bare litellm", 1 / slowdown, "x at least", 0.93)


def memory(calls: int) -> list[Figure]:
    """What the process grows by over many calls, after a start that fills the caches; over HTTP and around a reply."""
    figures = []
    with Upstream() as upstream, tempfile.TemporaryDirectory() as home:
        scripted = ScriptedModels({"small": "yes"})
        scripted.history = _Forgetful()
        kinds: list[tuple[str, Any]] = [("mock replies", scripted), ("HTTP calls", None)]
        for name, backend in kinds:
            policy = make_policy({"answer": {"choice": ["yes", "no"]}}, api_base=upstream.url)
            with Router(policy, home=home, backend=backend) as router:
                for _ in range(max(1, calls // 10)):
                    router.route("t", "say=yes", feature="bench", user="u")
                gc.collect()
                before = _resident_mb()
                for number in range(calls):
                    router.route("t", "say=yes", feature="bench", user="u")
                    if number % 500 == 0:
                        upstream.reset()
                gc.collect()
                grown = _resident_mb() - before
            figures.append(Figure(f"memory grown over {calls:,} {name}", grown, "MB", 5))
    return figures


class _Forgetful(list[Any]):
    """A history that keeps nothing: what a test wants to look at is no part of the measurement."""

    def append(self, _: Any) -> None:
        pass


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def around_a_mock_reply() -> Figure:
    """Our own processor time for an accepted call, ledger, fingerprints, event and four budgets included."""
    reply = Reply("yes", Usage(input_tokens=10, output_tokens=1), model_served="small")
    day = {"default": Allowance(usd_per_day=Decimal(1000), escalations_per_day=1000)}
    with tempfile.TemporaryDirectory() as home:
        policy = make_policy({"answer": {"choice": ["yes", "no"]}})
        policy = replace(policy, budgets=Budgets(task=day, feature=day, user=day, tenant=day))
        with Router(policy, home=home, backend=ScriptedModels({"small": reply})) as router:
            call = lambda: router.route("t", "is this a question?", feature="bench", user="u", tenant="x")  # noqa: E731
            return Figure("own CPU per accepted call, held to four budgets", _cpu_us(call, 2000), "us", 150)


def flow_alone() -> Figure:
    """The generator from start to answer, driven by hand."""
    router = Router(make_policy(), backend=LiteLLM(), home=tempfile.mkdtemp())
    plan = router.plan("t")
    request = Request("r", ({"role": "user", "content": "hi"},), 2)
    usage = Usage(input_tokens=10, output_tokens=1)
    attempt = Attempt("a", 0, "small", 1, "s", "s", None, None, usage, "provider", Amount("settled", 1, 1), 1.0)
    asked = Asked(Reply("yes", usage), (attempt,), 0.1)

    def run() -> None:
        flow = cascade(plan, request)
        next(flow)
        flow.send(asked)
        try:
            flow.send(None)
        except StopIteration:
            return

    return Figure("the flow alone, one rung", _cpu_us(run, 5000), "us", 10)


def free_signals() -> Figure:
    """All free signals of a 2 KB reply with log-probabilities."""
    text = " ".join(f"word{number % 97} and some more" for number in range(100))[:2048]
    reply = Reply(text, Usage(input_tokens=10, output_tokens=500), logprobs=(-0.1, 0.0, -0.3) * 150)
    verdict = Verdict(True, text)
    return Figure("free signals of a 2 KB reply", _cpu_us(lambda: read_signals(100, reply, verdict), 3000), "us", 60)


def calibrator() -> Figure:
    """One probability from six signals and an isotonic curve of 50 knots."""
    names = ("invalid", "truncated", "refusal", "output_chars", "lp_mean", "lp_min")
    knots = tuple(number / 49 for number in range(50))
    fitted = Calibrator(names, (0.1,) * 6, (0.5,) * 6, (0.3,) * 6, 0.2, knots_x=knots, knots_y=knots)
    signals = dict.fromkeys(names, 0.4)
    return Figure("a calibrator", _cpu_us(lambda: fitted.probability(signals), 20000), "us", 2)


def import_time() -> Figure:
    """`import router` in a fresh process, over a bare interpreter."""
    bare, ours = (_wall_ms([sys.executable, "-c", code]) for code in ("pass", "import router"))
    return Figure("import router", ours - bare, "ms", 100)


def help_time() -> Figure:
    """`router --help`, from start to end."""
    script = Path(sys.executable).with_name("router")
    return Figure("router --help", _wall_ms([str(script), "--help"]), "ms", 350)


def _block(call: Callable[[], None]) -> Callable[[int], float]:
    """Seconds that a number of calls take, one after the other."""

    def run(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            call()
        return time.perf_counter() - started

    return run


def _ablock(call: Callable[[], Awaitable[None]], loop: asyncio.AbstractEventLoop) -> Callable[[int], float]:
    """The same for calls that are awaited."""

    async def many(number: int) -> None:
        for _ in range(number):
            await call()

    def run(number: int) -> float:
        started = time.perf_counter()
        loop.run_until_complete(many(number))
        return time.perf_counter() - started

    return run


def _paired(ours: Callable[[int], float], theirs: Callable[[int], float], calls: int) -> float:
    """The median ratio of blocks taken in turn.

    Blocks and not single calls, because litellm finishes its bookkeeping for a call in another thread while the
    next one runs. Each side goes first every other time.
    """
    ours(_BLOCK)
    theirs(_BLOCK)
    # A walk of the collector over all that litellm has loaded takes 0.3 s and would fall on one block of many.
    gc.collect()
    gc.freeze()
    ratios = []
    for number in range(max(4, calls // _BLOCK)):
        if number % 2:
            mine = ours(_BLOCK)
            bare = theirs(_BLOCK)
        else:
            bare = theirs(_BLOCK)
            mine = ours(_BLOCK)
        ratios.append(mine / bare)
    return median(ratios)


def _cpu_us(call: Callable[[], object], number: int) -> float:
    """Processor time of one call, median of seven rounds."""
    rounds = []
    for _ in range(7):
        gc.collect()
        started = time.process_time()
        for _ in range(number):
            call()
        rounds.append((time.process_time() - started) / number * 1e6)
    return median(rounds)


def _wall_ms(command: list[str]) -> float:
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - started) * 1000)
    return median(times)


def _shown(value: float, unit: str) -> str:
    return f"{value:.3f} x" if unit.startswith("x") else f"{value:.1f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
