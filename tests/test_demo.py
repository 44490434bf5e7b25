"""The demo: an honest corpus, a cascade that saves, an API key that is never used behind one's back, and 80 columns."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from docs.captures import PAGE, WIDTHS, words
from router import Router, load_policy
from router.demo import Demo, api_model, prepare, run, tickets
from router.demo.run import SECOND_USD
from router.models.local import load
from router.testing import no_network
from router.tuning import Distilled
from tests.support import ROUTER, Cli, columns_of, in_terminal, read_table, seen, unstyled

CANARY = "sk-canary-7f3a91"
README = (files("router.demo") / "README.md").read_text(encoding="utf-8")
KEYS = {"OPENAI_API_KEY": "openai/gpt-5.6-luna", "ANTHROPIC_API_KEY": "anthropic/claude-haiku-5-5"}


class Prepared(NamedTuple):
    """What one full run of the demo left behind, with a key in the environment."""

    policies: Path
    home: Path
    fitted: Mapping[str, Distilled]
    demo: Demo
    attempts: list[dict[str, Any]]
    routes: list[dict[str, Any]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The demo as it is, trained and routed once, where any request over the network is an error."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as environment, no_network():
        for name in ("ANTHROPIC_API_KEY", "ROUTER_ENV"):
            environment.delenv(name, raising=False)
        environment.setenv("OPENAI_API_KEY", CANARY)
        (folder / "policies").mkdir()
        fitted = prepare(folder / "policies")
        demo = run(folder / "policies", folder / "home", shown=0)
    tables = (read_table(folder / "home", name) for name in ("attempts", "routes"))
    return Prepared(folder / "policies", folder / "home", fitted, demo, *tables)


# --- tickets


def _raw() -> list[dict[str, Any]]:
    text = (files("router.demo") / "tickets.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_tickets_are_well_formed() -> None:
    """Each has its five columns, an id of its own, and text that somebody may have typed."""
    rows = _raw()
    assert len(rows) >= 600
    assert {frozenset(row) for row in rows} == {frozenset({"id", "text", "label", "split", "hard"})}
    assert [row["id"] for row in rows] == [f"t{number:04}" for number in range(1, len(rows) + 1)]
    assert {type(row["hard"]) for row in rows} == {bool}
    assert [row["text"] for row in rows if not 1 <= len(row["text"].split()) <= 100] == []
    assert [row["text"] for row in rows if row["text"] != row["text"].strip() or not row["text"].isprintable()] == []


def test_no_ticket_is_told_twice() -> None:
    """No text stands on both sides of the split, nor twice on one, in whatever case and spacing."""
    texts = Counter(" ".join(re.findall(r"\w+", row["text"].lower())) for row in _raw())
    assert [text for text, count in texts.items() if count > 1] == []


def test_tickets_name_nobody() -> None:
    """The mail addresses that occur are of the domain that belongs to nobody."""
    domains = {domain for row in _raw() for domain in re.findall(r"@([\w-]+\.[\w.-]*\w)", row["text"])}
    assert domains
    assert [domain for domain in domains if not f".{domain}".endswith(".example.com")] == []


def test_the_corpus_is_as_its_page_says() -> None:
    """Labels and counts of the README are those of the file, by split and hardness; both splits have every label."""
    counts = Counter((row["label"], row["split"], row["hard"]) for row in _raw())
    table = README.partition("## Counts")[2].partition("## Labels")[0]
    told = re.findall(r"^\| ([a-z-]+) \| (\d+) \((\d+)\) \| (\d+) \((\d+)\) \|$", table, re.MULTILINE)
    labels = {row["label"] for row in _raw()}
    assert len(labels) >= 8
    assert {label for label, *_ in told} == labels
    for label, *numbers in told:
        found = [
            number
            for split in ("train", "test")
            for number in (counts[label, split, True] + counts[label, split, False], counts[label, split, True])
        ]
        assert list(map(int, numbers)) == found, label
        assert min(found) > 0, label
    assert set(re.findall(r"^\| `([a-z-]+)` \|", README.partition("## Labels")[2], re.MULTILINE)) == labels
    assert f"`tickets.jsonl`: {len(_raw()):,} short support messages" in README
    assert "Synthetic" in README


def test_tickets_are_the_files_rows() -> None:
    """What the demo trains on is the file, in its order."""
    assert [tuple(row) for row in tickets()] == [(row["text"], row["label"], row["split"]) for row in _raw()]


# --- the run


def test_every_way_answers_every_unseen_ticket(prepared: Prepared) -> None:
    """Three lines over the same tickets, none of which was trained on."""
    test = sum(row["split"] == "test" for row in _raw())
    assert prepared.demo.tickets == test
    assert [line.name for line in prepared.demo.lines] == ["small alone", "large alone", "cascade"]
    assert len(prepared.routes) == 3 * test
    assert [(one.train_rows, one.test_rows) for one in prepared.fitted.values()] == [(len(_raw()) - test, test)] * 2


def test_the_large_rung_is_better_and_the_cascade_is_nearly_as_good(prepared: Prepared) -> None:
    """What the demo is there to show: most of the large one's accuracy, and only a part of the calls climbs."""
    small, large, cascade = prepared.demo.lines
    assert large.accuracy > small.accuracy + 0.04
    assert cascade.accuracy > large.accuracy - 0.03
    assert 0.2 < cascade.escalated < 0.8
    assert (small.escalated, large.escalated) == (0, 0)


def test_the_rungs_differ_in_size_and_cost(prepared: Prepared) -> None:
    """The large one takes several times as long for an answer and as many bytes on the disk."""
    small, large = (prepared.fitted[name] for name in ("small", "large"))
    assert large.microseconds > 2 * small.microseconds
    sizes = [(prepared.policies / "local" / f"{name}.npz").stat().st_size for name in ("small", "large")]
    assert sizes[1] > 5 * sizes[0]
    assert load(prepared.policies / "local" / "small.npz").labels == small.classifier.labels


def test_the_cascade_costs_less_than_the_large_rung(prepared: Prepared) -> None:
    """Every call pays the small rung, those that climbed pay the large one too, and that is less than large alone."""
    # Medians, because a busy machine stretches single calls, and a second of it is what they cost.
    small, large = (
        median(row["cost_nusd"] for row in prepared.attempts if row["model"] == name) for name in ("small", "large")
    )
    assert small + prepared.demo.lines[2].escalated * large < 0.9 * large


def test_the_table_adds_up(prepared: Prepared) -> None:
    """Each line's cost is the sum of its attempts in the ledger, and what climbing cost is that of the second rung."""
    count = prepared.demo.tickets
    for number, line in enumerate(prepared.demo.lines):
        routes = prepared.routes[number * count : (number + 1) * count]
        ids = {route["route_id"] for route in routes}
        attempts = [attempt for attempt in prepared.attempts if attempt["route_id"] in ids]
        climbing = [attempt for attempt in attempts if attempt["rung"] > 0]
        assert line.usd_per_million == pytest.approx(sum(one["cost_nusd"] for one in attempts) / count / 1000)
        assert line.marginal_usd_per_million == pytest.approx(sum(one["cost_nusd"] for one in climbing) / count / 1000)
        assert line.escalated == pytest.approx(len(climbing) / count)
        assert len(attempts) == count + len(climbing)
        assert line.marginal_usd_per_million < line.usd_per_million
    assert prepared.demo.lines[2].marginal_usd_per_million > 0


def test_an_attempt_costs_its_own_seconds(prepared: Prepared) -> None:
    """Nothing but the latency of each attempt, at the price that the policy names, makes the amounts of the table."""
    for row in prepared.attempts:
        assert row["cost_nusd"] == pytest.approx(row["latency_ms"] / 1000 * float(SECOND_USD) * 1e9, abs=0.51)


def test_confidence_is_calibrated(prepared: Prepared) -> None:
    """Each answer names the artefact as the source of its confidence, never the prior."""
    assert {route["confidence_source"].partition(":")[0] for route in prepared.routes} == {"tuned"}


# --- the third rung


@pytest.mark.parametrize(("variable", "model"), KEYS.items())
def test_a_key_chooses_the_model_of_its_vendor(variable: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key there is no third rung, and an empty variable is no key."""
    assert api_model() is None
    monkeypatch.setenv(variable, "")
    assert api_model() is None
    monkeypatch.setenv(variable, CANARY)
    assert api_model() == model


def test_a_key_adds_the_third_rung(prepared: Prepared) -> None:
    """The policy's ladder ends with the real model, at the price that litellm knows."""
    policy = load_policy(prepared.policies)
    assert policy.tasks["triage"].ladder == ("small", "large", "api")
    assert policy.models["api"].litellm == KEYS["OPENAI_API_KEY"]
    with Router(prepared.policies, home=prepared.home) as router:
        price = router.plan("triage").rungs[2].price
    assert price.input_usd_per_mtok is not None
    assert price.output_usd_per_mtok is not None


def test_the_table_never_asks_the_real_model(prepared: Prepared) -> None:
    """With a key in the environment too, every request of the table was answered on this machine."""
    assert {row["model"] for row in prepared.attempts} == {"small", "large"}
    assert {row["model_asked"] for row in prepared.attempts} == {"local/small", "local/large"}


def test_the_key_is_written_nowhere(prepared: Prepared) -> None:
    """No file that the demo leaves holds the key's value."""
    left = [path for path in prepared.home.parent.rglob("*") if path.is_file()]
    assert len(left) > 5
    assert [path for path in left if CANARY.encode() in path.read_bytes()] == []


def test_shown_calls_are_half_accepted_and_half_climbed(prepared: Prepared, tmp_path: Path) -> None:
    """Calls that are shown have short texts and the reason of each step; three end at the first rung, three climb."""
    policy = (prepared.policies / "demo.yml").read_text(encoding="utf-8")
    # The policy as it is written without a key: the classifiers are the same.
    local = policy.replace(f"  api: {{litellm: {KEYS['OPENAI_API_KEY']}}}\n", "").replace(", api]", "]")
    (tmp_path / "policies").mkdir()
    for name in ("local", "tuned"):
        (tmp_path / "policies" / name).symlink_to(prepared.policies / name)
    (tmp_path / "policies" / "demo.yml").write_text(local, encoding="utf-8")
    with no_network():
        demo = run(tmp_path / "policies", tmp_path / "home")
    assert [shown.answer.escalated for shown in demo.shown] == [False, True] * 3
    labels = {row["text"]: row["label"] for row in _raw() if row["split"] == "test"}
    assert all(labels[shown.text] == shown.label and len(shown.text) <= 70 for shown in demo.shown)
    assert all(step.reason for shown in demo.shown for step in shown.answer.steps)
    assert [line.accuracy for line in demo.lines] == [line.accuracy for line in prepared.demo.lines]


# --- the command


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str, Path]:
    """What `router demo --keep` prints in a shell of 80 columns without colour and without keys."""
    folder = tmp_path_factory.mktemp("shell")
    kept = {name: value for name, value in os.environ.items() if name not in KEYS and not name.startswith("ROUTER_")}
    done = subprocess.run(
        [ROUTER, "demo", "--keep", "kept"],
        cwd=folder,
        env={**kept, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "xterm-256color"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines(), done.stderr, folder


def test_the_output_fits_80_columns_without_escape_codes(printed: tuple[list[str], str, Path]) -> None:
    """No line is longer than a narrow terminal, and NO_COLOR means plain text."""
    lines, err, _ = printed
    assert [line for line in lines if len(line) > 80] == []
    assert "\x1b" not in "\n".join(lines) + err
    assert "Traceback" not in err


def test_the_output_shows_calls_table_and_next_step(printed: tuple[list[str], str, Path]) -> None:
    """Six calls with rung, confidence and reason, one table, what was saved, and what to type next."""
    lines, _, _ = printed
    text = "\n".join(lines)
    assert len(re.findall(r"^“.+”$", text, re.MULTILINE)) == 6
    accepted = r"^    small: accept, confidence 0\.\d{3} is at or above 0\.700$"
    climbed = r"^    small: escalate, confidence 0\.\d{3} is below 0\.700\n    large: accept, last rung$"
    assert len(re.findall(accepted, text, re.MULTILINE)) == 3
    assert len(re.findall(climbed, text, re.MULTILINE)) == 3
    assert len(re.findall(r"^    -> [a-z-]+ \((?:right|a person said [a-z-]+)\)$", text, re.MULTILINE)) == 6
    row = r"^{} +\d+\.\d% +\$\d\.\d{{4}} +\d+\.\d% +\$\d\.\d{{4}}$"
    for name in ("small alone", "large alone", "cascade"):
        assert len(re.findall(row.format(name), text, re.MULTILINE)) == 1, name
    assert re.search(r"^The cascade costs \d+% (?:less|more) than the large one alone", text, re.MULTILINE)
    assert lines[-1] == "next: router init && router check, then wrap a call: route(task, prompt)"


def test_what_is_kept_can_be_looked_at(printed: tuple[list[str], str, Path]) -> None:
    """`--keep` leaves policies that are sound and a ledger, and the command that it names shows it."""
    lines, _, folder = printed
    (advice,) = [line.removeprefix("kept: router ") for line in lines if line.startswith("kept: ")]
    for arguments in (advice.split(), ["check", "--policies", "kept/policies"]):
        done = subprocess.run([ROUTER, *arguments], cwd=folder, capture_output=True, text=True, check=True)
        assert "large" in done.stdout
    assert load_policy(folder / "kept" / "policies").tasks["triage"].ladder == ("small", "large")


@pytest.mark.parametrize("styled", [True, False], ids=["colour", "no-color"])
@pytest.mark.parametrize("columns", WIDTHS)
def test_the_demo_fits_its_terminal(columns: int, styled: bool, printed: tuple[list[str], str, Path]) -> None:
    """On a real terminal no line, the spinner's too, is wider than it; the words are a pipe's and the docs'."""
    lines = in_terminal("demo", columns=columns, styled=styled)
    assert [line for line in lines if columns_of(line) > columns] == []
    left = "\n".join(map(seen, lines))
    assert ("\x1b[" in left) == styled
    piped = "\n".join(line for line in printed[0] if not line.startswith("kept: "))
    # No word is cut in two by a line: each line is one of those that were printed.
    assert [words(line) for line in lines if unstyled(line)] == [words(line) for line in piped.split("\n") if line]
    assert words(left) in words(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("place", ["policies", "router-home"])
def test_keep_overwrites_nothing(place: str, cli: Cli) -> None:
    """A folder with policies or a ledger of somebody's own is refused before anything is trained or written."""
    Path(place).mkdir()
    Path(place, "mine.yml").write_text("mine")
    done = cli("demo", "--keep", ".")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {place} is there already; nothing was written. Give --keep a new folder\n"
    assert [path.read_text() for path in Path().rglob("*") if path.is_file()] == ["mine"]


def test_keep_where_nothing_can_be_written_says_so(cli: Cli) -> None:
    """A folder below a file is no traceback."""
    Path("file").write_text("in the way")
    done = cli("demo", "--keep", "file/kept", "--json")
    assert done.code == 1
    assert done.json["error"]["message"].startswith("file/kept")
    assert done.err.startswith("error: file/kept")


def test_a_closed_pipe_ends_the_demo_quietly() -> None:
    """`router demo | head` is no traceback."""
    done = subprocess.run(f"{ROUTER} demo | head -n 1", shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("Two classifiers, trained just now on tickets written for this demo\n", "")
