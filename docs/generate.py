"""Rewrite the generated parts of the documentation from the code that they describe.

`python -m docs.generate` rewrites what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in each page.
With `--check` it changes nothing, names each file that is not current, and exits 1 when there is one.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import os
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import router.errors
from router import Policy, Router
from router.cli.app import app
from router.core import limits
from router.core import policy as grammar
from router.core.binding import PARTS as PARTS_OF_BINDING
from router.core.calibration import prior
from router.core.evidence import EVIDENCE
from router.core.faults import FAULTS
from router.core.panel import PANEL_SIGNALS
from router.core.params import CALL_PARAMS, RESERVED_PARAMS
from router.core.policy import AnswerKind, FallbackRung, Model, PanelRung, Task
from router.core.signals import FREE_SIGNALS
from router.core.word_scores import WORD_SIGNALS
from router.errors import PolicyError
from router.ledger import schema as read_model
from router.ledger.segments import unframe
from router.options import OPTION_NAMES
from router.shapes.arguments import REMEDIES
from router.spec import adopt, document, policy_schema
from router.spec.schema import NOT_BUILT
from router.testing import ScriptedModels, SimulatedWorld
from router.tuning import GRADERS

DOCS = Path(__file__).resolve().parent

Schema = Mapping[str, Any]

# Every dataclass of the policy grammar by its name, and what they import.
_GRAMMAR: Mapping[str, Any] = {**vars(limits), **vars(grammar)}

_BEGIN = re.compile(r"<!-- begin ([\w-]+) -->")

# What every field of a ledger row means, by the kind of row; the fields themselves are read from real rows.
MEANINGS: dict[str, dict[str, str]] = {
    "every row": {
        "row": "number of the row in its segment, from 1",
        "v": "version of the row format",
        "kind": "`intent`, `settle`, `route`, `gap` or `end`",
        "time_s": "when the row was written, seconds since 1970, UTC",
    },
    "call": {
        "route_id": "the call: 12 hexadecimal digits of milliseconds since 1970, then 20 random ones",
        "origin": "`production`, `eval` or `replay`; a backend may say another",
        "task": "task that was named; `(metered)` for a call that was not routed",
        "feature": "feature, as given; `null` when none was",
        "user": "fingerprint of the user id; `null` when none was given",
        "tenant": "tenant, as given; `null` when none was",
        "session": "fingerprint of the session id; `null` when none was given",
        "policy_hash": "the policy in force; changes with any value of it",
        "plan_hash": "the task's plan; changes only with what can change answers or decisions; `null` when metered",
        "prompt_fp": "fingerprint of all messages; `null` when metered, for nobody showed them",
        "prefix_fps": "fingerprints of the beginnings that end at a message, shortest first, at most 16",
    },
    "intent": {
        "attempt_id": "the request: the `route_id`, a dash, and its number within the call",
        "rung": "position in the ladder, 0 for the cheapest",
        "number": "1 for the first request to this rung, 2 for its first retry",
        "model": "name in the policy of the model that is asked",
        "model_asked": "litellm name of the model that is asked",
        "upper_nusd": "the most the request can cost; `null` when nothing bounds it",
    },
    "settle": {
        "attempt_id": "the request that ended; its intent has the rest",
        "model_served": "model that the provider says it used; `null` when it did not say",
        "fault": "what went wrong, a word of the fault table; `null` for a reply",
        "status": "HTTP status of a failure, where there was one",
        "state": "how sure the cost is: `settled`, `estimated`, `maybe_billed` or `unknown`",
        "cost_nusd": "what it cost; what it is expected to when not settled, `null` when a price is unknown",
        "upper_nusd": "the most it can have cost; `null` when nothing bounds it",
        "cost_source": "`price` (usage at the price in force), `provider` (its own figure) or `none`",
        "price_source": "`policy`, the price map by name and version, both, or `provider`; `null` where none was used",
        "service_tier": "tier that the provider says it served; `null` for its usual one",
        "usage_source": "`provider`, `estimated` (from the texts' length) or `none`",
        "input_tokens": "text and images that were neither read from nor written to a prompt cache",
        "cached_read_tokens": "input read from the provider's prompt cache",
        "cache_write_tokens": "input written to the provider's prompt cache with its default lifetime",
        "cache_write_1h_tokens": "input written to the provider's prompt cache for one hour",
        "output_tokens": "output without reasoning, sound and images",
        "reasoning_tokens": "reasoning",
        "input_audio_tokens": "sound in the input",
        "output_audio_tokens": "sound in the output",
        "output_image_tokens": "images in the output",
        "latency_ms": "how long the request took; `null` when a backend said something that is no number",
        "first_token_ms": "from sending to the first part of a live answer; `null` for one that came whole",
    },
    "route": {
        "outcome": "`answered`, `metered`, the error's class, or `aborted` when it was cancelled or something broke",
        "model": "name in the policy of the model that answered; `null` without an answer",
        "rung": "its position in the ladder; `null` without an answer",
        "escalated": "whether a rung above the first of the ladder was asked",
        "confidence": "probability that the answer is right; `null` without an answer",
        "confidence_source": "`prior`, or the tuned file by its hash; `null` without an answer",
        "cost_nusd": "all requests of the call; `null` when a price is unknown",
        "upper_nusd": "the most the call can have cost; `null` when nothing bounds it",
        "marginal_nusd": "all requests after the first rung that was asked; `null` when a price is unknown",
        "baseline_nusd": "what the top rung alone would have cost; `null` when unknown",
        "baseline_source": "`known` (the top rung answered), `estimated` or `unknown`",
        "baseline_estimate_nusd": "where it is known: what the last draft below the top let expect; else `null`",
        "latency_ms": "how long the call took",
        "reason": "reason of the last step",
        "propensity": "probability with which this rung was chosen; 1 without exploration",
        "repeat_of": "the call whose answer was given again for its idempotency key; `null` for every other",
        "metadata": "the caller's own values, as given",
        "steps": "what each rung contributed, in order; see below",
    },
    "step": {
        "rung": "position in the ladder, 0 for the cheapest",
        "model": "name in the policy",
        "action": "`accept`, `escalate`, `keep`, `skip`, `fail` or `repeat`",
        "reason": "why, in words",
        "confidence": "probability that the draft is right; `null` when there was none to judge",
        "confidence_source": "`prior`, or the tuned file by its hash",
        "threshold": "what the confidence was compared with; `null` on the last rung",
        "cost_nusd": "all requests to this rung; `null` when a price is unknown",
        "attempts": "number of requests to this rung",
        "signals": "the draft's signals by name; one that could not be read is absent",
    },
    "gap": {
        "lost": "rows before it that this process could not write, or that were in a segment taken away from it",
    },
    "end": {},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the files, or check them."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is not current")
    check = parser.parse_args(arguments).check
    parts = {name: make().strip() for name, make in PARTS.items()}
    used: set[str] = set()
    stale = []
    readme = DOCS.parent / "README.md"
    for path in [*([readme] if readme.exists() else []), *sorted(DOCS.rglob("*.md"))]:
        old = path.read_text(encoding="utf-8")
        used |= set(_BEGIN.findall(old))
        new = filled(old, parts)
        if new != old:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        problem = "is not current; run `python -m docs.generate`" if check else "rewritten"
        sys.stderr.write(f"{path.relative_to(DOCS.parent)}: {problem}\n")
    for name in sorted(parts.keys() - used):
        sys.stderr.write(f"no file has the part {name!r}\n")
    return 1 if (stale and check) or parts.keys() - used else 0


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The text with every generated part as it should be."""
    for name in _BEGIN.findall(text):
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if name not in parts or end not in text:
            raise SystemExit(f"part {name!r} is unknown or has no end; there is {', '.join(parts)}")
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{parts[name]}\n{end}{rest.partition(end)[2]}"
    return text


def policy_reference() -> str:
    """A table for each dataclass of the policy grammar."""
    schema = policy_schema()
    definitions: dict[str, Schema] = {"Policy": schema, **schema["$defs"]}
    built = set(_reached(definitions, built_only=True)) - _refused_rungs()
    sections = []
    for name in _reached(definitions, built_only=False):
        definition = definitions[name]
        mark = "" if name in built else "**Not built yet:** using it is refused. "
        rows = [_field_row(part, definition["properties"][part.name]) for part in fields(_GRAMMAR[name])]
        head = f"### {name}\n\n{mark}{_one_line(definition['description'])}"
        sections.append(f"{head}\n\n{_table(('field', 'type', 'default', 'meaning'), rows)}")
    return "\n\n".join(sections)


def _reached(definitions: Mapping[str, Schema], *, built_only: bool) -> list[str]:
    """The dataclasses in the order in which a reader of the tables meets them."""
    names = ["Policy"]
    for name in names:
        for part in definitions[name]["properties"].values():
            if not built_only or not part.get("description", "").startswith(NOT_BUILT):
                names += [ref for ref in _references(part) if ref not in names]
    return names


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield schema["$ref"].rsplit("/", 1)[1]
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            yield from _references(inner)


def _refused_rungs() -> set[str]:
    """The kinds of rung that loading refuses, found by trying."""
    refused = set()
    models = {name: Model(litellm=name) for name in ("a", "b", "c")}
    labels = AnswerKind(choice=("x", "y"))
    for rung in (PanelRung(panel=("a", "b")), FallbackRung(fallback=("a", "b"))):
        try:
            adopt(Policy(version=1, models=models, tasks={"t": Task(ladder=(rung, "c"), answer=labels)}))
        except PolicyError as error:
            if "not built yet" not in str(error):
                raise
            refused.add(type(rung).__name__)
    return refused


def _field_row(part: Field[Any], schema: Schema) -> tuple[str, ...]:
    meaning = _one_line(schema.get("description", ""))
    if meaning.startswith(NOT_BUILT):
        meaning = f"**Not built yet.** {meaning.removeprefix(NOT_BUILT)}"
    return (f"`{part.name}`", _words(schema), _default(part), meaning)


def _default(part: Field[Any]) -> str:
    if part.default is MISSING and part.default_factory is MISSING:
        return "required"
    value = part.default if part.default_factory is MISSING else part.default_factory()
    return "not set" if value is None else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A default as one would write it in a policy."""
    if is_dataclass(value):
        given = {part.name: getattr(value, part.name) for part in fields(value)}
        value = {name: inner for name, inner in given.items() if inner is not None and inner != _plain(value, name)}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any, name: str) -> Any:
    default = next(part.default for part in fields(value) if part.name == name)
    return None if default is MISSING else default


def _words(schema: Schema) -> str:
    """A type in the words of YAML."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return _either([branch for branch in schema["anyOf"] if branch.get("type") != "null"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    return _KINDS[schema["type"]](schema)


def _either(branches: Sequence[Schema]) -> str:
    kinds = {branch.get("type") for branch in branches}
    if kinds == {"number", "string"}:  # An exact decimal: a number, or the same in quotes.
        branches = [branch for branch in branches if branch["type"] == "number"]
    return ", or ".join(map(_words, branches))


def _number_words(schema: Schema) -> str:
    word = "whole number" if schema["type"] == "integer" else "number"
    low, high, above = (schema.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
    if above is not None:
        return f"{word} above {above:g}"
    if low is not None and high is not None:
        return f"{word} {low:g} to {high:,g}" if high < 1e6 else f"{word} {low:g} to {int(high):,}"
    return f"{word}, {low:g} or more" if low is not None else word


def _text_words(schema: Schema) -> str:
    if "pattern" in schema:
        return "name"
    return "text, not empty" if schema.get("minLength") else "text"


def _list_words(schema: Schema) -> str:
    low, high = schema.get("minItems"), schema.get("maxItems")
    size = f" ({low} to {high})" if high else f" ({low} or more)" if low else ""
    return f"list{size} of {_words(schema['items'])}"


def _mapping_words(schema: Schema) -> str:
    inner = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
    return f"mapping of name to {_words(inner)}" if isinstance(inner, Mapping) else "mapping"


_KINDS: dict[str, Callable[[Schema], str]] = {
    "array": _list_words,
    "boolean": lambda _: "`true` or `false`",
    "integer": _number_words,
    "number": _number_words,
    "object": _mapping_words,
    "string": _text_words,
}


def policy_limits() -> str:
    """What a policy file may not exceed."""
    rows = [
        ("size", f"{document.MAX_BYTES:,} bytes"),
        ("values, aliases written out", f"{document.MAX_VALUES:,}"),
        ("nesting", f"{document.MAX_DEPTH} levels"),
        ("aliases", f"{document.MAX_ALIASES}"),
        ("rungs of a ladder", f"{policy_schema()['$defs']['Task']['properties']['ladder']['maxItems']}"),
    ]
    return _table(("what", "at most"), rows)


def not_built() -> str:
    """Every field and kind of rung that is refused."""
    definitions: dict[str, Schema] = {"Policy": policy_schema(), **policy_schema()["$defs"]}
    found = [
        f"`{part}` of [{name}](#{name.lower()})"
        for name in _reached(definitions, built_only=True)
        for part, schema in definitions[name]["properties"].items()
        if schema.get("description", "").startswith(NOT_BUILT)
    ]
    found += [f"a rung of kind [{name}](#{name.lower()})" for name in sorted(_refused_rungs())]
    return "\n".join(f"- {one}" for one in found)


def reserved_params() -> str:
    """The parameters that a policy may not set, and what to use instead."""
    return _table(("parameter", "instead"), [(f"`{name}`", remedy) for name, remedy in RESERVED_PARAMS.items()])


def call_params() -> str:
    """The parameters that a caller may set."""
    return ", ".join(f"`{name}`" for name in sorted(CALL_PARAMS)) + "."


def refused_arguments() -> str:
    """The arguments of other libraries that a routed call refuses, and what to use instead."""
    known = OPTION_NAMES | CALL_PARAMS | {"messages", "model", "stream", "stream_options", "timeout", "api_key", "n"}
    rows = [(f"`{name}`", remedy) for name, remedy in sorted(REMEDIES.items()) if name not in known | {"extra_body"}]
    return _table(("argument", "instead"), rows)


def signal_table() -> str:
    """Every free signal, and what the prior makes of it alone."""
    base = prior({})
    rows = []
    for name, meaning in FREE_SIGNALS.items():
        value = -1.0 if name.startswith("lp_") else 1.0
        p = prior({name: value})
        rows.append((f"`{name}`", meaning, "not used" if p == base else f"{p:.3f} at {value:g}"))
    return _table(("signal", "meaning", "prior with this signal alone"), rows)


def closer_table() -> str:
    """Every signal of closer reading and of words, block by block."""
    rows = [(f"`{name}`", block, meaning) for block, names in EVIDENCE.items() for name, meaning in names.items()]
    rows += [(f"`{name}`", "words", meaning) for name, meaning in WORD_SIGNALS.items()]
    return _table(("signal", "block", "meaning"), rows)


def signal_worth() -> str:
    """What each signal costs and adds, as `python -m evals.signals` measured it."""
    kept = _result("signals")
    rows = [
        (
            f"`{one['signal']}`",
            one["block"],
            f"{one['microseconds']:.0f} µs",
            "not recorded" if one["alone"] is None else f"{one['alone']:.3f}",
            "" if one["added"] is None else f"{one['added']:+.3f}",
            str(one["sets"]),
        )
        for one in kept["signals"]
    ]
    table = _table(("signal", "block", "time", "alone", "adds", "sets"), rows)
    return f"{table}\n\nEverything, read in one go: {kept['microseconds']:.0f} µs. No plan needs all of it."


def panel_table() -> str:
    """What the members of a panel say together."""
    return _table(("signal", "meaning"), [(f"`{name}`", meaning) for name, meaning in PANEL_SIGNALS.items()])


def prior_values() -> str:
    """What the prior says of some typical drafts."""
    drafts: list[tuple[str, dict[str, float]]] = [
        ("nothing against it", {}),
        ("mean log-probability -0.05", {"lp_mean": -0.05}),
        ("mean log-probability -0.5", {"lp_mean": -0.5}),
        ("a third of its word triples repeat an earlier one", {"repetition": 0.33}),
        ("nine in ten of its word triples repeat an earlier one", {"repetition": 0.9}),
        ("cut at the output limit", {"truncated": 1.0}),
        ("opens like a refusal", {"refusal": 1.0}),
        ("does not fit the answer kind", {"invalid": 1.0}),
        ("does not fit and is cut", {"invalid": 1.0, "truncated": 1.0}),
    ]
    return _table(("draft", "confidence"), [(draft, f"{prior(signals):.3f}") for draft, signals in drafts])


def fault_table() -> str:
    """The fault table."""
    then = {"climb": "climb", "raise": "raise", "on_filter": "what `on_filter:` says"}
    rows = [
        (f"`{fault}`", "yes" if rule.retry else "no", then[rule.then], rule.billed, rule.why)
        for fault, rule in FAULTS.items()
    ]
    return _table(("fault", "retried", "then", "billed", "why"), rows)


def error_tree() -> str:
    """The tree that the docstring of `router.errors` draws."""
    text = inspect.getdoc(router.errors) or ""
    tree = next(block for block in text.split("\n\n") if block.startswith("    RouterError"))
    return f"```text\n{textwrap.dedent(tree)}\n```"


def ledger_rows() -> str:
    """The fields of each kind of row, from rows that were really written."""
    found = _written_rows()
    found["step"] = found["route"]["steps"][0]
    sections = []
    unused = {(group, name) for group, meanings in MEANINGS.items() for name in meanings}
    for kind in ("intent", "settle", "route", "step", "gap", "end"):
        rows = []
        for name in found[kind]:
            group = next((group for group in (kind, "call", "every row") if name in MEANINGS[group]), None)
            if group is None:
                raise SystemExit(f"field {name!r} of the {kind} row has no meaning in MEANINGS; add it")
            unused.discard((group, name))
            rows.append((f"`{name}`", MEANINGS[group][name]))
        title = "Each of the `steps` of a route row" if kind == "step" else f"Row `{kind}`"
        sections.append(f"### {title}\n\n{_table(('field', 'meaning'), rows)}")
    if unused:
        raise SystemExit(f"MEANINGS describes fields that no row has: {sorted(unused)}; remove them")
    return "\n\n".join(sections)


def _written_rows() -> dict[str, dict[str, Any]]:
    """One row of each kind, of a call on scripted models; its segment stays in memory."""
    models = {name: Model(litellm=name) for name in ("small", "large")}
    policy = Policy(version=1, models=models, tasks={"t": Task(ladder=("small", "large"))})
    world = SimulatedWorld()
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = ScriptedModels({"small": "Fine.", "large": "Fine."})
        with Router(policy, home=home, backend=backend, world=world) as answering:
            world.disk.error = OSError("unplugged")
            answering.route("t", "is this lost?")
            world.disk.error = None
            answering.route("t", "is this kept?")
    lines = b"".join(world.disk.files.values()).splitlines()
    rows = [row for row in map(unframe, lines) if row is not None]
    return {row["kind"]: row for row in rows}


def ledger_tables() -> str:
    """The tables of the read model with their columns."""
    tables = [value for value in vars(read_model).values() if isinstance(value, read_model.Table)]
    rows = []
    for table in tables:
        names = [f"`{name}`" for name in table.columns]
        rows.append((f"`{table.name}`", ", ".join(names[: table.keys]), ", ".join(names[table.keys :])))
    return _table(("table", "key", "other columns"), rows)


def cli_help() -> str:
    """The help of every command."""
    names = [command.name for command in app.registered_commands if command.name]
    for group in app.registered_groups:
        commands = group.typer_instance.registered_commands if group.typer_instance else []
        names += [f"{group.name}", *(f"{group.name} {command.name}" for command in commands)]
    sections = []
    for name in ("", *names):
        arguments = [*name.split(), "--help"]
        given = CliRunner().invoke(app, arguments, prog_name="router", terminal_width=78)
        if given.exit_code:
            raise SystemExit(f"router {name} --help failed: {given.output}")
        sections.append(f"## router {name}".rstrip() + f"\n\n```text\n{given.output.rstrip()}\n```")
    return "\n\n".join(sections)


def _figures() -> dict[str, Any]:
    """What `python docs/figures.py` measured."""
    found: dict[str, Any] = json.loads((DOCS / "figures.json").read_text(encoding="utf-8"))
    return found


def demo_table() -> str:
    """Each rung of the demo alone, and the cascade."""
    found = _figures()["demo"]
    columns = (f"{found['tickets']} unseen tickets", "accuracy", "cost of a million calls", "escalated")
    rows = [
        (
            line["name"] + (", threshold 0.7" if line["escalated"] else ""),
            f"{line['accuracy']:.1%}",
            f"${line['usd_per_million']:.4f}",
            f"{line['escalated']:.1%}" if line["escalated"] else "",
        )
        for line in found["lines"]
    ]
    return _table(columns, rows)


def local_table() -> str:
    """The two sizes of a local rung."""
    found = _figures()["demo"]
    columns = (
        f"{found['tickets']} unseen tickets",
        "accuracy",
        "confidence off by",
        "Brier",
        "an answer takes",
        "on disk",
    )
    rows = [
        (
            name,
            f"{one['accuracy']:.1%}",
            f"{100 * one['calibration_error']:.1f} points",
            f"{one['brier']:.3f}",
            f"{one['microseconds']:.0f} us",
            f"{one['bytes'] / 1000:,.0f} kB",
        )
        for name, one in found["rungs"].items()
    ]
    return _table(columns, rows)


def eval_table(number: int) -> str:
    """One run of `evals/runs.txt`, with its command."""
    found = _figures()["evals"][number]
    results = found["results"]
    letters = dict(zip(results[-1]["ladder"], "ABCDEFGH", strict=False))
    rows = []
    for result in results:
        alone = len(result["ladder"]) == 1
        one = result["ladder"][0]
        rows.append(
            (
                f"{letters[one]} = {one} alone" if alone else " → ".join(letters[model] for model in result["ladder"]),
                f"{result['accuracy']:.3f}",
                f"${result['cost_usd']:.4f}",
                "" if alone else f"{result['escalated']:.1%}",
                "" if alone else f"${result['marginal_cost_usd']:.4f}",
                f"${result['cost_per_correct_usd']:.6f}",
            )
        )
    options = re.split(
        r" (?=--)", "python -m evals.replay_ladder --data DIR " + re.sub(r"\{.*\}", r"'\g<0>'", found["arguments"])
    )
    lines = [options[0]]
    for option in options[1:]:
        if len(lines[-1]) + len(option) > 100:
            lines.append(" ")
        lines[-1] += f" {option}"
    command = " \\\n".join(lines)
    columns = (f"{results[0]['prompts']:,} prompts", "accuracy", "cost", "escalated", "for climbing", "per correct")
    return f"```console\n{command}\n```\n\n{_table(columns, rows)}"


def graders() -> str:
    """The graders that have a name."""
    return _table(("grader", "grade"), [(f"`{name}`", meaning) for name, meaning in GRADERS.items()])


def binding_parts() -> str:
    """What a certificate binds to."""
    return "\n".join(f"- {words}" for words in PARTS_OF_BINDING.values())


_TUNE_EXAMPLE = (
    "router eval classify-ticket --data rows.jsonl --replay recording.jsonl",
    "router tune classify-ticket --max-loss 0.03 --confidence 0.9 --write",
    "router tune --check",
)


def tune_example() -> str:
    """The commands of tune-your-own.md on the rows that its first block makes, in a folder of their own."""
    shown = _transcript("tune-your-own.md", _TUNE_EXAMPLE, before=("init",))
    # Dates change by the day.
    return re.sub(r"Issued \S+, runs out \S+\.", "Issued 2026-11-20, runs out 2027-05-19.", shown)


_BACKTEST_EXAMPLES = ("router backtest classify-ticket --recording calls.jsonl --threshold 0.7 --show 3",)


def backtest_example() -> str:
    """The commands of backtest.md on the recording that its first block makes."""
    return _transcript("backtest.md", _BACKTEST_EXAMPLES, before=("init",))


_AUDIT_EXAMPLES = (
    "router audit --by feature",
    "router audit --lines",
    "router audit --by feature --movers --since 2025-11-21 --until 2025-11-22",
    "router audit --by feature --units units.csv",
    "router audit show 019a9e8f9000",
    "router audit reconcile usage.csv",
)
_AUDIT_FILES = {
    "units.csv": "feature,units,revenue_usd\ninbox,1200,30\nsearch,800,\n",
    "usage.csv": "start_time_iso,model,num_model_requests,input_tokens,output_tokens,amount_value,amount_currency\n"
    "2025-11-20T00:00:00+00:00,luna,118,51630,2360,0.006107,usd\n"
    "2025-11-20T00:00:00+00:00,opus,33,14455,790,0.0334685,usd\n",
}


def audit_example() -> str:
    """The commands of audit.md on the ledger that its first block makes."""
    # Fingerprints must not change from run to run.
    settings = {"ROUTER_SECRET": "audit-example", "ROUTER_HOME": ".router", "COLUMNS": "110"}
    shown = _transcript("audit.md", _AUDIT_EXAMPLES, files=_AUDIT_FILES, settings=settings)
    bill = _AUDIT_FILES["usage.csv"]
    return shown.replace("$ router audit reconcile", f"$ cat usage.csv\n{bill}\n$ router audit reconcile")


def _transcript(
    page: str,
    commands: Sequence[str],
    *,
    before: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> str:
    """What commands print after a page's first block has run, in a folder of their own; exit 1 is a finding."""
    code = re.search(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    runner, here = CliRunner(env=settings), Path.cwd()
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name, text in (files or {}).items():
                Path(name).write_text(text, encoding="utf-8")
            if before:
                runner.invoke(app, list(before))
            with runner.isolation():
                exec(code[1] if code else "", {"__name__": "example"})
            for command in commands:
                given = runner.invoke(app, command.split()[1:], prog_name="router")
                if given.exit_code > 1 or (given.exception and not isinstance(given.exception, SystemExit)):
                    raise SystemExit(f"{command} failed: {given.output} {given.exception}")
                shown.append(f"$ {command}\n{given.stdout}")
        finally:
            os.chdir(here)
    return "```text\n" + "\n".join(shown).rstrip() + "\n```"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


# The lines of evals/runs.txt in their order.
_EVALS = ("evals-gsm-gpt", "evals-gsm-llama", "evals-mmlu", "evals-functions")


# What each method deserves to be called, in the order of the tables.
_METHODS = {"split": "guaranteed", "crossfit": "simulation-checked"}


def certified_savings() -> str:
    """Targets by what the plans of either method cost and lost on untouched rows, then pair by pair."""
    kept = _result("certified_savings")
    total = [
        (f"{guaranteed['target']:.0%}", *_summed(guaranteed), *_summed(checked))
        for guaranteed, checked in zip(*(kept["summary"][method] for method in _METHODS), strict=True)
    ]
    columns = ("cost", "above target", "beyond sampling error", "dearer", "certified")
    head = ("target", *(f"{said}: {column}" for said in _METHODS.values() for column in columns))
    pairs = [
        (
            f"{one['set']} {one['task'] or ''}".strip(),
            f"{one['cheap']} → {one['top']}",
            *(
                " / ".join(f"{one['cost_change'][method][target]:+.0%}" for method in _METHODS)
                for target in one["cost_change"]["split"]
            ),
        )
        for one in kept["pairs"]
    ]
    targets = [f"{one['target']:.0%}" for one in kept["summary"]["split"]]
    return f"{_table(head, total)}\n\n{_table(('set', 'pair', *targets), pairs)}"


def _summed(one: Mapping[str, float]) -> tuple[str, ...]:
    shares = (one[name] for name in ("missed", "missed_beyond_error", "dearer"))
    return (f"{one['cost_change']:+.1%}", *(f"{share:.1%}" for share in shares), f"{one['certified']:.0%}")


def _points(share: float) -> str:
    return f"{100 * share:g} point" + ("" if share == 0.01 else "s")


def savings_summary() -> str:
    """The targets of the certified savings, for people in a hurry, with the command."""
    summary = _result("certified_savings")["summary"]
    rows = [
        (
            _points(one["target"]),
            f"{one['cost_change']:+.1%}",
            f"{one['missed_beyond_error']:.1%}",
            f"{one['dearer']:.1%}",
            f"{checked['cost_change']:+.1%}",
            f"{checked['missed_beyond_error']:.1%}",
        )
        for one, checked in zip(summary["split"], summary["crossfit"], strict=True)
    ]
    head = (
        "may lose at most",
        "guaranteed: mean cost",
        "tunings that lost more, beyond sampling error",
        "tunings that were dearer",
        "simulation-checked: mean cost",
        "tunings that lost more",
    )
    command = "python -m evals.certified_savings --data DIR --pairs FILE"
    return f"```console\n{command}\n```\n\n{_table(head, rows)}"


def savings_levers() -> str:
    """What the mean plan costs with everything, and without one part of it after the other."""
    summary = _result("savings_levers")["summary"]
    targets = [f"{one['target']:.0%}" for one in summary["everything"]]
    rows = [(name, *(f"{one['cost_change']:+.1%}" for one in means)) for name, means in summary.items()]
    return _table(("tuned", *targets), rows)


_SETS = {"gsm8k": "GSM8K", "mmlu": "MMLU"}


def routellm() -> str:
    """Methods by RouteLLM's own measures, theirs among them, on each set."""
    kept = _result("routellm")
    rows = []
    for key, name in _SETS.items():
        for one in (line for line in kept["lines"] if line["set"] == key):
            sees = "draft" if one["sees_draft"] else "prompt"
            apgr, cpt50 = one["apgr_interval"], one["cpt50_interval"]
            own = (
                f"{one['apgr']:.3f}" + (f" ({apgr[0]:.2f} to {apgr[1]:.2f})" if apgr else ""),
                f"{one['cpt50']:.1%}" + (f" ({cpt50[0]:.1%} to {cpt50[1]:.1%})" if cpt50 else ""),
                f"{one['cpt80']:.1%}",
            )
            rows.append((name, one["method"], sees, *own, f"{one['charged_apgr']:.3f}", f"{one['charged_cpt50']:.1%}"))
        apgr, cpt50, cpt80 = kept["theirs"][key]
        rows.append((name, "RouteLLM's best", "prompt", f"{apgr:.3f}", f"{cpt50:.1%}", f"{cpt80:.1%}", "", ""))
    return _table(("set", "method", "sees", "APGR", "CPT(50)", "CPT(80)", "charged APGR", "charged CPT(50)"), rows)


def validity() -> str:
    """Made-up worlds by their share of false certificates."""
    kept = _result("validity")
    rows = [
        (
            one["world"],
            one["guarantee"],
            str(one["pipelines"]),
            f"{one['false']:.1%}",
            f"{one['allowed']:.1%}",
            f"{one['certified']:.0%}",
            f"{one['cost_change']:+.0%}",
        )
        for one in kept["rows"]
    ]
    head = ("world", "called", "pipelines", "false", "allowed (budget + 3σ)", "certified", "mean cost change")
    return _table(head, rows)


_WHOSE = ("ours", "cascadeflow", "cascadeflow, refitted")
# A set with more models than this is shown as their mean.
_MOST_MODELS = 5


def peer_confidence() -> str:
    """Set by set and model by model, both confidences on the same drafts."""
    by_set: dict[str, dict[str, dict[str, Any]]] = {}
    for line in _result("peer_confidence"):
        by_set.setdefault(line["set"], {}).setdefault(line["model"], {})[line["whose"]] = line
    rows = []
    for name, models in by_set.items():
        if len(models) > _MOST_MODELS:
            rows.append(_compared(name, f"mean of {len(models)} models", list(models.values())))
        else:
            rows += [_compared(name, model, [whose]) for model, whose in models.items()]
    figures = ("AUROC ours / theirs", *(f"{one} ours / theirs / refitted" for one in ("Brier", "calibration error")))
    return _table(("set", "model", "drafts", *figures, "ours ahead", "µs ours / theirs"), rows)


def _compared(name: str, model: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """One row: the means over these models, and of how many all three figures are better than the peer's as shipped."""

    def means(figure: str, whose: Sequence[str], form: str) -> str:
        return " / ".join(format(sum(one[who][figure] for one in lines) / len(lines), form) for who in whose)

    ahead = sum(_ahead(one["ours"], one["cascadeflow"]) for one in lines)
    return [
        name,
        model,
        str(sum(one["ours"]["rows"] for one in lines)),
        means("auroc", _WHOSE[:2], ".3f"),
        means("brier", _WHOSE, ".3f"),
        means("calibration_error", _WHOSE, ".3f"),
        f"{ahead} of {len(lines)}" if len(lines) > 1 else "yes" if ahead else "no",
        means("microseconds", _WHOSE[:2], ".0f"),
    ]


def _ahead(ours: Mapping[str, float], theirs: Mapping[str, float]) -> bool:
    less = ("brier", "calibration_error", "microseconds")
    return ours["auroc"] > theirs["auroc"] and all(ours[figure] < theirs[figure] for figure in less)


def tune_speed() -> str:
    """Rows by time and memory of one tuning."""
    rows = [
        (f"{one['rows']:,}", f"{one['seconds']:.1f} s", f"{one['cpu_seconds']:.1f} s", f"{one['peak_mb']:,.0f} MB")
        for one in _result("tune_speed")
    ]
    return _table(("rows × 3 rungs", "time", "processor time", "peak memory"), rows)


def _result(name: str) -> Any:
    """What a runner printed with `--json`, as it is kept beside these pages."""
    return json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))


PARTS: dict[str, Callable[[], str]] = {
    "audit-example": audit_example,
    "backtest-example": backtest_example,
    "certified-savings": certified_savings,
    "validity": validity,
    "tune-speed": tune_speed,
    "policy-reference": policy_reference,
    "policy-limits": policy_limits,
    "not-built": not_built,
    "reserved-params": reserved_params,
    "call-params": call_params,
    "refused-arguments": refused_arguments,
    "signal-table": signal_table,
    "signal-worth": signal_worth,
    "peer-confidence": peer_confidence,
    "closer-table": closer_table,
    "panel-table": panel_table,
    "prior-values": prior_values,
    "fault-table": fault_table,
    "error-tree": error_tree,
    "ledger-rows": ledger_rows,
    "ledger-tables": ledger_tables,
    "cli-help": cli_help,
    "demo-table": demo_table,
    "local-table": local_table,
    **{name: functools.partial(eval_table, number) for number, name in enumerate(_EVALS)},
    "savings-summary": savings_summary,
    "savings-levers": savings_levers,
    "routellm": routellm,
    "graders": graders,
    "binding": binding_parts,
    "tune-example": tune_example,
}


if __name__ == "__main__":
    sys.exit(main())
