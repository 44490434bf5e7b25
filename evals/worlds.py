"""Made-up worlds for testing certificates: rows whose true loss under any plan can be measured on as many as needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.tuning.runs import EvalRun

Floats = NDArray[np.float64]
Random = np.random.Generator

# Sizes of heavy-tailed clusters: without their cap neither the variance nor, nearly, the mean would be finite.
_PARETO, _MEAN_SIZE = 1.1, 5


@dataclass(frozen=True)
class World:
    """One made-up task, and what is asked of its tuning."""

    name: str
    rows: int
    target: float
    draw: Callable[[Random, int], EvalRun]
    at_confidence: float = 0.9
    never_worse: bool = False
    method: str = "split"
    group: str | None = None
    looks: tuple[float, ...] = ()
    """Targets of several looks at the same certify rows, instead of `target`."""
    fresh_rows: int = 40_000
    """Rows that the true loss is measured on."""


def _run(random: Random, right: Floats, signals: Floats | dict[str, Floats], **more: Any) -> EvalRun:
    """Right-or-wrong answers with these chances; signals belong to every rung but the last."""
    n, rungs = right.shape
    quality = (random.random((n, rungs)) < right).astype(float)
    named = signals if isinstance(signals, dict) else {"lp_mean": signals}
    models = tuple(f"m{at}" for at in range(rungs))
    price = np.asarray(10.0 ** (3.0 + 1.3 * np.arange(rungs)) * np.exp(random.normal(0.0, 0.3, (n, 1))), float)
    return EvalRun(
        task="world",
        models=models,
        row_ids=np.arange(n).astype(object),
        quality=more.pop("quality", quality),
        cost_nusd=price,
        signals={model: dict(named) for model in models[:-1]},
        **more,
    )


def _chance(logit: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def _pair(small: float, large: float, sharpness: float, noise: float) -> Callable[[Random, int], EvalRun]:
    """A small and a large model whose rows are hard for both; the signal sees the hardness through noise."""

    def draw(random: Random, n: int) -> EvalRun:
        hard = random.normal(size=n)
        right = np.column_stack([_chance(small - sharpness * hard), _chance(large - sharpness * hard)])
        return _run(random, right, np.minimum(0.0, -1.0 - hard + noise * random.normal(size=n)))

    return draw


def _tied(random: Random, n: int) -> EvalRun:
    """Log-probabilities that are exactly 0 for most rows, and sometimes at the floor."""
    run = _pair(1.5, 2.5, 1.5, 0.5)(random, n)
    lp = run.signals["m0"]["lp_mean"].round(0)
    lp = np.where(random.random(n) < 0.5, 0.0, np.where(random.random(n) < 0.03, -20.0, lp))
    return _with_signals(run, {"lp_mean": lp})


def _two_way(random: Random, n: int) -> EvalRun:
    """Models that are right on different rows, so that the signed loss varies much around nothing."""
    hard, taste = random.normal(size=n), random.normal(size=n)
    right = np.column_stack([_chance(1.0 + 2.0 * taste), _chance(1.15 - 2.0 * taste)])
    return _run(random, right, -np.abs(hard) + 0.2 * taste)


def _useless(random: Random, n: int) -> EvalRun:
    """Signals that say nothing, and a small model just below the target."""
    right = np.column_stack([np.full(n, 0.80), np.full(n, 0.85)])
    return _run(random, right, -np.abs(random.normal(size=n)))


def _three(random: Random, n: int) -> EvalRun:
    """Three rungs whose wrong answers spread over four, so that agreement says something."""
    hard = random.normal(size=n)
    right = np.column_stack([_chance(level - 1.5 * hard) for level in (0.6, 1.0, 2.2)])
    run = _run(random, right, np.minimum(0.0, -1.0 - 0.4 * hard + random.normal(size=n)))
    wrong = random.integers(1, 5, run.quality.shape)
    return _replaced(run, answers=np.where(run.quality > 0.5, 0, wrong).astype(object))


def _missing(random: Random, n: int) -> EvalRun:
    """Log-probabilities that are missing for one row in three, mostly hard ones."""
    hard = random.normal(size=n)
    right = np.column_stack([_chance(1.2 - 1.5 * hard), _chance(2.2 - 1.5 * hard)])
    lp = np.minimum(0.0, -1.0 - hard + 0.5 * random.normal(size=n))
    lp = np.where(random.random(n) < _chance(hard - 0.7), np.nan, lp)
    return _run(random, right, {"lp_mean": lp, "output_chars": np.exp(4 + 0.3 * hard + random.normal(size=n)).round()})


def _graded(random: Random, n: int) -> EvalRun:
    """Grades between 0 and 1."""
    hard = random.normal(size=n)
    grade = np.column_stack([_chance(level - 1.2 * hard + 0.5 * random.normal(size=n)) for level in (1.8, 2.3)])
    return _run(random, grade, np.minimum(0.0, -1.0 - hard + 0.5 * random.normal(size=n)), quality=grade)


def _clustered(random: Random, n: int) -> EvalRun:
    """Rows of one document, up to eight, share their hardness."""
    document = np.sort(random.integers(0, max(1, n // 4), n))
    hard = random.normal(size=n // 4 + 1)[document] + 0.3 * random.normal(size=n)
    right = np.column_stack([_chance(1.6 - 1.5 * hard), _chance(2.2 - 1.5 * hard)])
    run = _run(random, right, np.minimum(0.0, -1.0 - hard + 0.5 * random.normal(size=n)))
    return _replaced(run, cluster=document.astype(object))


def _heavy_clustered(random: Random, n: int) -> EvalRun:
    """Documents of 1 to 300 rows, Pareto, each right or wrong as a whole; the small model does worse in the short ones.

    So rows lose less than documents do, a few documents hold a large part of all rows, and many have only one.
    """
    sizes = np.minimum(np.ceil(random.random(n // _MEAN_SIZE) ** (-1.0 / _PARETO)), 300).astype(int)
    hard = random.normal(size=len(sizes))
    small = 1.2 + 0.5 * np.log(sizes)
    right = np.column_stack([_chance(small - 1.5 * hard), _chance(2.4 - 1.5 * hard)])
    quality = (random.random(right.shape) < right).astype(float)
    document = np.repeat(np.arange(len(sizes)), sizes)
    signal = np.minimum(0.0, -1.0 - hard[document] + 0.5 * random.normal(size=len(document)))
    run = _run(random, right[document], signal, quality=quality[document])
    return _replaced(run, cluster=document.astype(object))


def _grouped(random: Random, n: int) -> EvalRun:
    """Three groups, of which the small model does badly in one."""
    group = random.integers(0, 3, n)
    hard = random.normal(size=n)
    small = np.array([1.8, 1.4, 0.2])[group]
    right = np.column_stack([_chance(small - 1.5 * hard), _chance(2.2 - 1.5 * hard)])
    run = _run(random, right, np.minimum(0.0, -1.0 - hard + 0.7 * random.normal(size=n)))
    return _replaced(run, group=np.array(["one", "two", "three"], dtype=object)[group])


def _gated(random: Random, n: int) -> EvalRun:
    """Prompts whose length tells how hard they are, drafts that tell little more, and a top rung not much dearer."""
    hard = random.normal(size=n)
    right = np.column_stack([_chance(1.0 - 2.5 * hard), _chance(3.0 - 1.0 * hard)])
    run = _run(random, right, np.minimum(0.0, -1.0 - 0.3 * hard + random.normal(size=n)))
    price = run.cost_nusd[:, :1] * np.array([[1.0, 2.5]])
    return _replaced(run, cost_nusd=price, prompt_signals={"input_chars": np.exp(5.0 + hard).round()})


def _specialist(random: Random, n: int) -> EvalRun:
    """A top rung that is right on prompts of its own kind only, so that gain and confidence are not the same."""
    hard, kind = random.normal(size=n), random.normal(size=n)
    right = np.column_stack([_chance(1.0 - 1.5 * hard), _chance(1.6 - 1.5 * hard + 2.0 * kind)])
    lp = np.minimum(0.0, -1.0 - hard + 0.5 * random.normal(size=n))
    return _run(random, right, {"lp_mean": lp, "taste": kind + 0.3 * random.normal(size=n)})


def _worded(random: Random, n: int) -> EvalRun:
    """Prompts and drafts whose words tell something, among others that do not, and many signals that tell nothing."""
    hard, luck = random.normal(size=n), random.normal(size=n)
    right = np.column_stack([_chance(1.4 - 1.5 * hard - luck), _chance(2.4 - 1.2 * hard)])
    noise = {f"noise_{at}": random.normal(size=n) for at in range(12)}
    run = _run(random, right, {"lp_mean": np.minimum(0.0, -1.0 - hard + 2.0 * random.normal(size=n)), **noise})
    drafts = _texts(random, luck)
    return _replaced(run, prompts=_texts(random, hard), drafts=np.column_stack([drafts, drafts]))


def _texts(random: Random, told: Floats) -> Any:
    """Five words each, of which the first is a common one for much and another for little."""
    words = random.integers(0, 300, (len(told), 4))
    first = np.round(told + 0.5 * random.normal(size=len(told))).astype(int)
    return np.array([f"told{a} " + " ".join(map("w{}".format, b)) for a, b in zip(first, words, strict=True)], object)


def _panel(random: Random, n: int) -> EvalRun:
    """Three cheap rungs of nearly the same price whose errors have nothing to do with each other, and a dear one."""
    hard = random.normal(size=n)
    right = np.column_stack([_chance(level - 0.6 * hard) for level in (1.1, 1.1, 1.2, 3.0)])
    run = _run(random, right, np.minimum(0.0, -1.0 - 0.3 * hard + random.normal(size=n)))
    wrong = random.integers(1, 5, run.quality.shape)
    price = run.cost_nusd[:, :1] * np.array([[1.0, 1.1, 1.2, 40.0]])
    return _replaced(run, cost_nusd=price, answers=np.where(run.quality > 0.5, 0, wrong).astype(object))


def _with_signals(run: EvalRun, named: dict[str, Floats]) -> EvalRun:
    return _replaced(run, signals={model: dict(named) for model in run.models[:-1]})


def _replaced(run: EvalRun, **fields: Any) -> EvalRun:
    from dataclasses import replace

    return replace(run, **fields)


WORLDS = (
    World("a pair, 5 points, 400 rows", 400, 0.05, _pair(1.2, 2.2, 1.5, 0.5)),
    World("a pair, 2 points, 1,200 rows", 1200, 0.02, _pair(1.2, 2.2, 1.5, 0.5)),
    World("weak signal, never worse, 3 points", 800, 0.03, _pair(1.6, 2.0, 1.5, 3.0), never_worse=True),
    World("ties and saturation, 5 points", 700, 0.05, _tied),
    World("each model right on rows of its own, 3 points", 700, 0.03, _two_way),
    World("no signal, loss just at the target, 5 points", 600, 0.05, _useless),
    World("three rungs with agreement, 3 points", 700, 0.03, _three),
    World("missing signals, 3 points", 700, 0.03, _missing),
    World("graded quality (betting), 3 points", 700, 0.03, _graded),
    World("clusters of rows (betting), 5 points", 900, 0.05, _clustered),
    World("three groups together, 5 points", 1200, 0.05, _grouped, group="group"),
    World("three looks at 3, 4 and 5 points", 600, 0.05, _pair(1.2, 2.2, 1.5, 0.5), looks=(0.03, 0.04, 0.05)),
)
# Not guaranteed by any theorem, so looked at all the more: fitted and certified on the same rows.
CROSSFIT = World("crossfit: a pair, 3 points", 400, 0.03, _pair(1.2, 2.2, 1.5, 0.5), method="crossfit")
HEAVY_CLUSTERS = World(
    "clusters of very unlike sizes (betting), 5 points", 4000, 0.05, _heavy_clustered, fresh_rows=100_000
)
MORE = (
    World("gates: the prompt tells, 3 points", 700, 0.03, _gated),
    World("gain: the top rung is a specialist, 3 points", 700, 0.03, _specialist),
    World("words that tell and signals that do not, 4 points", 700, 0.04, _worded, fresh_rows=20_000),
    World("panels of three with errors of their own, 3 points", 700, 0.03, _panel),
    World(
        "crossfit: words that tell and signals that do not, 4 points",
        400,
        0.04,
        _worded,
        method="crossfit",
        fresh_rows=20_000,
    ),
    World("crossfit: no signal, loss just at the target, 5 points", 300, 0.05, _useless, method="crossfit"),
    World("crossfit: panels of three, 3 points", 400, 0.03, _panel, method="crossfit"),
    World("crossfit: the top rung is a specialist, 3 points", 400, 0.03, _specialist, method="crossfit"),
)
# In the order of their seeds: a new one comes last, so that what was counted in the others still holds.
EVERY = (*WORLDS, CROSSFIT, HEAVY_CLUSTERS, *MORE)
