"""Hypothesis strategies that several tests share: values of the core, policies as plain data, scripts of outcomes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from router.core.calibration import Calibrator
from router.core.call import Failure, Outcome, Reply, Usage
from router.core.faults import FAULTS, Fault
from router.core.policy import Price
from router.core.signals import FREE_SIGNALS

PRICE_PARTS = (
    "input_usd_per_mtok",
    "cached_read_usd_per_mtok",
    "cache_write_usd_per_mtok",
    "cache_write_1h_usd_per_mtok",
    "output_usd_per_mtok",
    "reasoning_usd_per_mtok",
)

Data = dict[str, Any]

_PIECES = """
a b: - ? : [ ] { } , &a *a ! !x !!str !!int !!bool !!float !!timestamp !!null !!set !!omap !!binary !!map !!seq
!!python/object:os.system !<tag:yaml.org,2002:int> > | |2- ' " \\x \\u12 \\U0011FFFF \\ud800 %YAML %TAG --- ... #
<<: = ~ yes 0x 0b1 0o8 1_ _ 1e5 .inf .nan 1:2 2024-01-01 2024-99-99 null true @ ` !%ff version: models: tasks:
"""


def usages(most: int = 1_000_000) -> st.SearchStrategy[Usage]:
    """Tokens in every bucket; each is often empty."""
    tokens = st.one_of(st.just(0), st.integers(0, most))
    return st.builds(Usage, *[tokens] * 6)


def usd(most: int = 1000) -> st.SearchStrategy[Decimal]:
    """Dollars as people write them in a price list."""
    return st.integers(0, most * 10_000).map(lambda n: Decimal(n) / 10_000)


def prices(*, complete: bool = False, by_second: bool = False) -> st.SearchStrategy[Price]:
    """Prices by token, with any part missing unless `complete`; or by the second."""
    part = usd() if complete else st.none() | usd()
    by_token = st.builds(Price, **dict.fromkeys(PRICE_PARTS, part), request_usd=st.none() | usd(1))
    return by_token | st.builds(Price, gpu_second_usd=usd(1), request_usd=st.none() | usd(1)) if by_second else by_token


def replies(text: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Reply]:
    """Whatever a model may answer, oddities of its log-probabilities included."""
    return st.builds(
        Reply,
        text=st.text(max_size=60) if text is None else text,
        usage=st.none() | usages(),
        finish_reason=st.sampled_from(["stop", "length", "content_filter", "tool_calls", "unknown"]),
        logprobs=st.none() | st.lists(st.floats() | st.floats(-3, 0), max_size=8).map(tuple),
        reported_cost_nusd=st.none() | st.integers(0, 10**9),
        latency_ms=st.none() | st.floats(0, 10_000),
    )


def failures(*faults: Fault) -> st.SearchStrategy[Failure]:
    """A request that came to nothing, by any fault or by one of these."""
    return st.builds(
        Failure,
        fault=st.sampled_from(faults or tuple(Fault)),
        status=st.none() | st.integers(400, 599),
        retry_after_s=st.none() | st.floats(0, 100),
        usage=st.none() | usages(),
        provider_message=st.text(max_size=20),
    )


def signals() -> st.SearchStrategy[dict[str, float]]:
    """Some of the free signals with finite values."""
    return st.dictionaries(st.sampled_from(sorted(FREE_SIGNALS)), st.floats(-1e6, 1e6))


@st.composite
def calibrators(draw: st.DrawFn) -> Calibrator:
    """Numbers as a fit would give them, with and without an isotonic curve."""
    names = draw(st.lists(st.sampled_from(sorted(FREE_SIGNALS)), unique=True, max_size=4))
    size = len(names)
    knots_x = sorted(draw(st.sets(st.floats(0, 1), min_size=2, max_size=6))) if draw(st.booleans()) else []
    knots_y = sorted(draw(st.lists(st.floats(0, 1), min_size=len(knots_x), max_size=len(knots_x))))
    return Calibrator(
        signals=tuple(names),
        center=tuple(draw(st.lists(st.floats(-100, 100), min_size=size, max_size=size))),
        scale=tuple(draw(st.lists(st.floats(0.01, 100), min_size=size, max_size=size))),
        weights=tuple(draw(st.lists(st.floats(-10, 10), min_size=size, max_size=size))),
        intercept=draw(st.floats(-10, 10)),
        knots_x=tuple(knots_x),
        knots_y=tuple(knots_y),
    )


@dataclass(frozen=True)
class Turn:
    """What one rung does when it is asked: the outcome of each attempt, and how long they take together."""

    outcomes: tuple[Outcome, ...]
    seconds: float = 0.1


def turns(text: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Turn]:
    """Some passing faults, then a reply or any fault."""
    passing = [fault for fault, rule in FAULTS.items() if rule.retry]
    before = st.lists(failures(*passing), max_size=2)
    outcomes = st.tuples(before, replies(text) | failures()).map(lambda parts: (*parts[0], parts[1]))
    return st.builds(Turn, outcomes, st.floats(0, 10))


def scripts(rungs: int, text: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[list[Turn]]:
    """One turn for each rung."""
    return st.lists(turns(text), min_size=rungs, max_size=rungs)


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON, as far as YAML can say it."""
    numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | numbers | plain_text()
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text(), inner, max_size=3),
        max_leaves=6,
    )


def plain_text(min_size: int = 0) -> st.SearchStrategy[str]:
    """Text that stands in a YAML file as it is: no control characters, no line separators."""
    characters = st.characters(exclude_categories=["Cs", "Cc", "Cn", "Cf", "Zl", "Zp"])
    return st.text(characters, min_size=min_size, max_size=12)


def names() -> st.SearchStrategy[str]:
    """Names of models and tasks."""
    return st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,9}", fullmatch=True)


def yaml_text(data: Mapping[str, Any]) -> str:
    """A file with this content: JSON is YAML, one line for each value."""
    return json.dumps(data, indent=1, ensure_ascii=False)


def yamlish() -> st.SearchStrategy[str]:
    """Text from the pieces that YAML is made of, mostly broken."""
    spaces = [" ", "  ", "\n", "\t", "\ufeff", "\x85", "\u2028", "\r", "%YAML 1.1\n", "%YAML 1.9\n"]
    return st.lists(st.sampled_from(_PIECES.split()) | st.sampled_from(spaces), max_size=14).map("".join)


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Data]:
    return st.fixed_dictionaries({}, optional=fields)


def _number_answers() -> st.SearchStrategy[Data]:
    bounds = st.lists(st.integers(-100, 100), min_size=2, max_size=2).map(sorted)
    both = bounds.map(lambda pair: {"min": pair[0], "max": pair[1]})
    return st.just({}) | both | _optional(max=st.floats(-100, 100))


def _answers() -> st.SearchStrategy[Data]:
    labels = st.lists(
        plain_text(1).filter(lambda label: label.strip() != ""),
        min_size=2,
        max_size=4,
        unique_by=lambda label: label.casefold().strip(),
    )
    schemas = st.sampled_from([{}, {"type": "object"}, {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array"}}}])
    return st.one_of(
        labels.map(lambda choice: {"choice": choice}),
        _number_answers().map(lambda number: {"number": number}),
        schemas.map(lambda schema: {"json": schema}),
        st.sampled_from(["[a-z]+", r"\d{4}", "(yes|no)"]).map(lambda pattern: {"pattern": pattern}),
        _optional(min_chars=st.integers(1, 5), max_chars=st.integers(5, 99)).map(lambda text: {"text": text}),
    )


def _models() -> st.SearchStrategy[Data]:
    return st.fixed_dictionaries(
        {"litellm": plain_text(1)},
        optional={
            "params": _optional(temperature=st.floats(0, 2), logprobs=st.booleans(), stop=st.lists(plain_text())),
            "api_base": plain_text(),
            "api_key_env": st.just("SOME_API_KEY"),
            "headers": st.dictionaries(st.sampled_from(["X-Team", "X-App"]), plain_text()),
            "context_tokens": st.integers(1, 10**6),
            "max_output_tokens": st.integers(1, 10**6),
            "price": _optional(**{part: st.floats(0, 1000) | st.integers(0, 100) for part in PRICE_PARTS}),
        },
    )


@st.composite
def _tasks(draw: st.DrawFn, models: list[str]) -> Data:
    ladder = draw(st.lists(st.sampled_from(models), min_size=1, max_size=8, unique=True))
    task = draw(
        _optional(
            answer=_answers(),
            system=plain_text(),
            template_version=plain_text(),
            params=_optional(top_p=st.floats(0, 1)),
            max_input_tokens=st.integers(1, 10**6),
            max_output_tokens=st.integers(1, 10**6),
            deadline_s=st.floats(0.1, 1000),
            retry=_optional(attempts=st.integers(1, 10), max_wait_s=st.floats(0, 60)),
            on_filter=st.sampled_from(["raise", "climb"]),
            budget=_optional(usd_per_call=st.floats(0, 100)),
        )
    )
    steps = len(ladder) - 1
    shares = st.floats(0, 1)
    if draw(st.booleans()):
        task["threshold"] = draw(st.lists(shares, min_size=steps, max_size=steps) if steps else shares)
    return {"ladder": ladder, **task}


@st.composite
def policies(draw: st.DrawFn) -> Data:
    """Policies that are valid under the grammar, as plain data."""
    models = draw(st.dictionaries(names(), _models(), min_size=1, max_size=3))
    tasks = draw(st.dictionaries(names(), _tasks(sorted(models)), max_size=2))
    rest = draw(_optional(ledger=_optional(on_failure=st.just("refuse"), sync=st.sampled_from(["normal", "full"]))))
    return {"version": 1, "models": models, "tasks": tasks, **rest}
