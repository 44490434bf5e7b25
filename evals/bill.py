"""Does the ledger agree with the bill? Several processes call an upstream that keeps its own, and the two are compared.

    python -m evals.bill [--calls N] [--processes N] [--faults SHARE] [--billed SHARE] [--json]

Over loopback, through one home. The upstream bills random tokens and breaks a share of the calls in every way that it
knows; some calls stream, some are cancelled, some streams are left. Of the requests that nobody answered it bills a
share, half unless `--billed` says otherwise. Exits 1 where the ledger and the bill disagree: a settled row that is not
exact, a bill outside its bounds, a point estimate that is off by more than two per cent, a row settled twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from router import Policy, Router
from router.core.policy import AnswerKind, Model, Price, Retry, Task
from router.errors import NoAnswer
from router.ledger.segments import read_lines, segments_in
from tests.support import read_table
from tests.test_traffic import agrees, pair_with_bill
from tests.upstream import PRICES, Fault, Upstream

AT_ONCE = 16
MOST_OFF = 0.02
# Longer than any answer takes on a machine that is busy, but for one that never comes.
PATIENCE_S = 1.5
SEED = 20_261_121

_REFUSED = (Fault.RATE_LIMITED, Fault.SERVER_ERROR, Fault.UNAVAILABLE, Fault.OVERLOADED, Fault.BAD_GATEWAY)
# Nobody answers, and the dice say whether that is billed.
_SILENT = (Fault.TIMEOUT, Fault.RESET)
_BILLED = {Fault.TIMEOUT: Fault.TIMEOUT_BILLED, Fault.RESET: Fault.RESET_BILLED}
_ODD = (Fault.EMPTY_CHOICES, Fault.NULL_CONTENT, Fault.MISSING_USAGE, Fault.ZERO_USAGE, Fault.FILTERED_REPLY)
_SPOILT = (Fault.HTML, Fault.BAD_JSON, Fault.TRUNCATED, Fault.GATEWAY_TIMEOUT)
_IN_STREAM = (Fault.CUT, Fault.CUT_RESET, Fault.STALLED, Fault.STREAM_ERROR)


@dataclass(frozen=True)
class World:
    """How the upstream behaves."""

    faults: float = 0.2
    """Share of the calls whose first request goes wrong."""
    billed: float = 0.5
    """Share of the requests without an answer that it bills."""
    seed: int = SEED


@dataclass(frozen=True)
class Bill:
    """What the upstream charged beside what the ledger says, in nano-dollars."""

    calls: int
    requests: int
    faults: int
    billed_nusd: int
    settled_nusd: int
    upper_nusd: int
    """Settled, and the upper bounds of everything else."""
    estimated_nusd: int
    """The point estimate: settled, and what the rest usually costs."""
    not_exact: int
    out_of_bounds: int
    twice: int
    unsettled: int
    seconds: float
    states: dict[str, dict[str, int]]

    @property
    def off(self) -> float:
        """How far the point estimate is from the bill, as a share of the bill."""
        return (self.estimated_nusd - self.billed_nusd) / self.billed_nusd

    @property
    def problems(self) -> list[str]:
        """What is not as it must be, with the criterion."""
        counts = {
            "settled rows are not exact": self.not_exact,
            "rows are out of bounds": self.out_of_bounds,
            "rows are settled twice": self.twice,
            "requests are not settled": self.unsettled,
        }
        found = [f"{count:,} {what}, where none may be" for what, count in counts.items() if count]
        if not self.settled_nusd <= self.billed_nusd <= self.upper_nusd:
            found.append("the bill is not between what is settled and the upper bound")
        if abs(self.off) > MOST_OFF:
            found.append(
                f"the point estimate is off by {self.off:+.2%}, where at most {MOST_OFF:.0%} either way may be; "
                "a run of few calls can miss it by chance"
            )
        return found

    @property
    def holds(self) -> bool:
        """Whether everything is as it must be."""
        return not self.problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.bill")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--faults", type=float, default=0.2, help="share of the calls whose first request goes wrong")
    parser.add_argument("--billed", type=float, default=0.5, help="share of the requests without an answer it bills")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        world = World(options.faults, options.billed, options.seed)
        bill = compare(Path(home), options.calls, options.processes, world)
    if options.json:
        print(json.dumps({**asdict(bill), "off": bill.off, "holds": bill.holds}, indent=2))
    else:
        _show(bill)
    return 0 if bill.holds else 1


def compare(home: Path, calls: int, processes: int, world: World) -> Bill:
    """Make so many calls from so many processes, and hold the ledger against the bill."""
    started = time.monotonic()
    shares = [calls // processes + (number < calls % processes) for number in range(processes)]
    with Upstream() as upstream:
        upstream.reset(f"seed={world.seed} usage=random")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
            jobs = [pool.submit(work, upstream.root, home, world, number, share) for number, share in enumerate(shares)]
            for job in jobs:
                job.result()
        rows = upstream.bill()
    return _compared(home, calls, rows, time.monotonic() - started)


def _compared(home: Path, calls: int, billed: Any, seconds: float) -> Bill:
    pairs = pair_with_bill(home, billed, lost_allowed=True)
    found = read_table(home, "attempts")
    ends: Counter[str] = Counter()
    for segment in segments_in(home / "segments"):
        rows = [line.row for line in read_lines(segment, complete=True) if line.row]
        ends.update(row["attempt_id"] for row in rows if row["kind"] == "settle")
    states: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("rows", "estimated", "billed"), 0))
    for row in found:
        states[row["state"]]["rows"] += 1
        states[row["state"]]["estimated"] += row["cost_nusd"] or 0
    for row, one in pairs:
        states[row["state"]]["billed"] += one.cost_nusd
    settled = states["settled"]["estimated"]
    return Bill(
        calls=calls,
        requests=len(found),
        faults=sum(one.kind is not Fault.OK for one in billed),
        billed_nusd=sum(one.cost_nusd for one in billed),
        settled_nusd=settled,
        upper_nusd=settled + sum(row["upper_nusd"] for row in found if row["state"] != "settled"),
        estimated_nusd=sum(row["cost_nusd"] for row in found),
        not_exact=sum(row["state"] == "settled" and not agrees(row, one) for row, one in pairs),
        out_of_bounds=sum(row["state"] != "settled" and not agrees(row, one) for row, one in pairs),
        twice=sum(count > 1 for count in ends.values()),
        unsettled=sum(row["state"] in ("open", "unknown") for row in found) + len(found) - len(ends),
        seconds=round(seconds, 1),
        states=dict(states),
    )


def policy(root: str) -> Policy:
    """A ladder that climbs, and each of its models alone, in the shapes of two vendors."""
    shapes = {"small": ("openai/small", f"{root}/v1"), "large": ("anthropic/large", root)}
    models = {
        name: Model(litellm=litellm, api_base=base, price=_price(PRICES[name]))
        for name, (litellm, base) in shapes.items()
    }
    label, retry = AnswerKind(choice=("yes", "no")), Retry(attempts=3, max_wait_s=0.1)
    tasks = {
        "climb": Task(ladder=("small", "large"), answer=label, max_output_tokens=40, retry=retry),
        "small": Task(ladder=("small",), max_output_tokens=40, retry=retry, on_filter="climb"),
        "large": Task(ladder=("large",), max_output_tokens=40, retry=retry, on_filter="climb"),
    }
    return Policy(version=1, models=models, tasks=tasks)


def _price(nusd: tuple[int, ...]) -> Price:
    """Nano-dollars a token, as the upstream has them, are dollars per million tokens over a thousand."""
    plain, cached, output, _, write, write_1h = (Decimal(one) / 1000 for one in nusd)
    return Price(
        input_usd_per_mtok=plain,
        cached_read_usd_per_mtok=cached,
        cache_write_usd_per_mtok=write,
        cache_write_1h_usd_per_mtok=write_1h,
        output_usd_per_mtok=output,
    )


def work(root: str, home: Path, world: World, process: int, calls: int) -> None:
    """One process with its share of the calls."""
    os.environ |= {"OPENAI_API_KEY": "not-a-key", "ANTHROPIC_API_KEY": "not-a-key"}
    warnings.simplefilter("ignore")
    dice = random.Random(f"{world.seed} {process}")

    async def run() -> None:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with places:
                await _call(router, dice, world, f"{process}-{number}")

        async with Router(policy(root), home=home) as router:
            await asyncio.gather(*(one(number) for number in range(calls)))

    asyncio.run(run())


async def _call(router: Router, dice: random.Random, world: World, name: str) -> None:
    """One call of some kind, however it ends."""
    wrong, ease = dice.random() < world.faults, "x" * dice.randint(0, 600)
    task, streams = dice.choice(("climb", "climb", "small", "large")), dice.random() < 0.4
    words = "_".join(["yes", *(["or", "no"] * dice.randint(0, 5))])
    said = dice.choice(("yes", "no", "yes", "perhaps")) if task == "climb" else words
    kinds = _REFUSED + _SILENT + _ODD + _SPOILT + (_IN_STREAM if streams else ())
    fault = dice.choice(kinds) if wrong else Fault.OK
    cancelled = fault is Fault.TIMEOUT and dice.random() < 0.5
    deadline_s = PATIENCE_S if fault in (Fault.TIMEOUT, Fault.STALLED) else None
    fault = _BILLED.get(fault, fault) if dice.random() < world.billed else fault
    left = streams and not wrong and dice.random() < 0.1
    goes = "drip" if left else f"{fault}{dice.choice(('', ',ok'))}"
    prompt = f"fault={goes} say={said} id={name} {ease}"
    asking = _stream(router, task, prompt, deadline_s, left) if streams else _whole(router, task, prompt, deadline_s)
    doing = asyncio.create_task(asking)
    with suppress(NoAnswer, asyncio.CancelledError):
        if cancelled:
            await asyncio.wait([doing], timeout=0.5 + dice.random() * 0.5)
            doing.cancel()
        await doing


async def _whole(router: Router, task: str, prompt: str, deadline_s: float | None) -> None:
    options: Any = {"deadline_s": deadline_s} if deadline_s else {}
    await router.aroute(task, prompt, **options)


async def _stream(router: Router, task: str, prompt: str, deadline_s: float | None, left: bool) -> None:
    options: Any = {"deadline_s": deadline_s} if deadline_s else {}
    async with await router.aroute(task, prompt, stream=True, **options) as stream:
        async for _ in stream:
            if left:
                return


def _show(bill: Bill) -> None:
    print(f"{bill.calls:,} calls, {bill.requests:,} requests, {bill.faults:,} of them faults, {bill.seconds:.0f} s")
    print(f"billed          {_usd(bill.billed_nusd)}")
    print(f"settled         {_usd(bill.settled_nusd)}")
    print(f"upper bound     {_usd(bill.upper_nusd)}")
    print(f"point estimate  {_usd(bill.estimated_nusd)}, off by {bill.off:+.2%} (at most {MOST_OFF:.0%} either way)")
    print(f"settled rows that are not exact {bill.not_exact}, rows out of bounds {bill.out_of_bounds}")
    print(f"settled twice {bill.twice}, not settled {bill.unsettled}")
    for state, sums in sorted(bill.states.items()):
        told = f"{sums['rows']:>7,} rows, estimate {_usd(sums['estimated'])}, billed {_usd(sums['billed'])}"
        print(f"  {state:12} {told}")
    print("holds" if bill.holds else f"DOES NOT HOLD: {'; '.join(bill.problems)}")


def _usd(nusd: int) -> str:
    return f"{Decimal(nusd) / 10**9:.9f} USD"


if __name__ == "__main__":
    raise SystemExit(main())
