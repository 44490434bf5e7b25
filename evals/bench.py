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
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from router import Router
from router.core.answer import Attempt
from router.core.calibration import Calibrator
from router.core.call import Reply, Usage
from router.core.cascade import Asked, Request, cascade
from router.core.checks import Verdict
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
    ]
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
        return 0
    width = max(len(figure.what) for figure in figures)
    print(f"{'what':{width}}  {'measured':>10}  {'budget':>10}")
    for figure in figures:
        within = "" if figure.measured <= figure.budget else "  over"
        print(
            f"{figure.what:{width}}  {_shown(figure.measured, figure.unit):>10}  "
            f"{_shown(figure.budget, figure.unit):>10}{within}"
        )
    return 0


def over_http(calls: int) -> list[Figure]:
    """An accepted call with everything on, over loopback HTTP, against the same bare litellm call."""
    with Upstream() as upstream, tempfile.TemporaryDirectory() as home:
        policy = make_policy({"answer": {"choice": ["yes", "no"]}}, api_base=upstream.url)
        with Router(policy, home=home) as router:
            router.plan("t")  # Through our door first, or litellm calls home when it is imported.
            import litellm

            bare: dict[str, Any] = {
                "model": "openai/small",
                "api_base": upstream.url,
                "max_tokens": 40,
                "max_retries": 0,
                "timeout": 600.0,
            }
            messages = [{"role": "user", "content": "say=yes is this a question?"}]
            prompt = messages[0]["content"]

            def ours() -> None:
                assert router.route("t", prompt, feature="bench", user="u").rung == 0

            def theirs() -> None:
                litellm.completion(messages=messages, **bare)

            async def aours() -> None:
                assert (await router.aroute("t", prompt, feature="bench", user="u")).rung == 0

            async def atheirs() -> None:
                await litellm.acompletion(messages=messages, **bare)

            with asyncio.Runner() as runner:
                loop = runner.get_loop()  # A blocking litellm call is slower in a thread without one.
                blocking = _paired(_block(ours), _block(theirs), calls)
                awaited = _paired(_ablock(aours, loop), _ablock(atheirs, loop), calls)
                litellm.success_callback = [lambda *_: None]
                heard = _paired(_block(ours), _block(theirs), calls)
                litellm.success_callback = []
    return [
        Figure("route over HTTP / bare litellm", blocking, "x", 1.08),
        Figure("aroute over HTTP / bare litellm", awaited, "x", 1.08),
        Figure("route over HTTP, litellm callbacks in use", heard, "x", 1.08),
    ]


def around_a_mock_reply() -> Figure:
    """Our own processor time for an accepted call, ledger, fingerprints and event included."""
    reply = Reply("yes", Usage(input_tokens=10, output_tokens=1), model_served="small")
    with tempfile.TemporaryDirectory() as home:
        policy = make_policy({"answer": {"choice": ["yes", "no"]}})
        with Router(policy, home=home, backend=ScriptedModels({"small": reply})) as router:
            call = lambda: router.route("t", "is this a question?", feature="bench", user="u")  # noqa: E731
            return Figure("own CPU per accepted call", _cpu_us(call, 2000), "us", 150)


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
    return f"{value:.3f} x" if unit == "x" else f"{value:.1f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
