"""The tune report: figures from held-out rows with every draft charged, on a page that needs nothing from outside."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.tuning import TaskTuning, tune_task
from router.tuning.report import page, report_of
from router.tuning.report.curves import bins_of, risk_coverage, wilson
from router.tuning.report.style import COLOURS
from router.tuning.report.svg import Frame, axis
from router.tuning.report.text import escaped
from router.tuning.shown import planned
from router.tuning.simulate import simulate
from tests.support import Cli
from tests.tuning_support import Row, make_policy, recorded, write_policy, write_rows

PAIR, THREE = ("small", "large"), ("tiny", "small", "large")
MAX_BYTES = 300_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

Tuned = Callable[..., TaskTuning]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Tune made-up rows, or the rows given; what was tuned before is taken as it is."""
    known: dict[str, TaskTuning] = {}

    def tune(
        rows: list[Row] | None = None, models: tuple[str, ...] = PAIR, method: Any = "split", **task: Any
    ) -> TaskTuning:
        key = json.dumps([rows, models, method, task])
        if key not in known:
            path = tmp_path_factory.mktemp("run") / "run.jsonl"
            write_rows(path, recorded(900, models=models) if rows is None else rows)
            known[key] = tune_task("colours", path, policies=make_policy(models, **task), method=method)
        return known[key]

    return tune


class Page(HTMLParser):
    """Reads a page, and refuses tags that do not balance."""

    EMPTY = frozenset({"meta", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


# The figures


def without_texts(rows: list[Row]) -> list[Row]:
    """Marks and costs only: nothing that a signal could be read off."""
    return [{name: row[name] for name in ("task", "prompt_id", "model", "correct", "cost_usd")} for row in rows]


CASES: dict[str, dict[str, Any]] = {
    "a pair": {},
    "three rungs": {"models": THREE},
    "groups": {"group": "language"},
    "a target that cannot be met": {"rows": without_texts(recorded(900))},
    "one cheaper rung alone": {"target": {"max_quality_loss": 0.3, "at_confidence": 0.9}},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_figures_are_those_that_calls_would_have(tuned: Tuned, case: dict[str, Any]) -> None:
    """Cost and loss of the plan are those of production's own decisions, and the money adds up to the cost."""
    found = tuned(**case)
    report = report_of(found)
    realised = simulate(planned(found.in_force, found.tuning), found.tuner.table.run.take(found.certified_on))
    assert report.curve.plan.cost == pytest.approx(realised.cost)
    assert report.curve.plan.loss == pytest.approx(realised.loss)
    assert report.curve.plan.cost_interval == pytest.approx(realised.cost_interval, abs=1e-4)
    assert report.curve.plan.loss_interval == pytest.approx(realised.loss_interval, abs=1e-4)
    assert report.spend.climbed_share == pytest.approx(realised.escalated_share)
    assert sum(part.share for part in report.spend.parts) == pytest.approx(realised.cost)
    assert report.rows == len(found.certified_on)


def test_failed_answers_leave_no_figure_unknown(tuned: Tuned) -> None:
    """A lower rung that failed is wrong and a top rung that failed is right, in the plan in force too."""
    rows = recorded(900)
    for at in (7, 40, 88, 1201):
        kept = {name: row for name, row in rows[at].items() if name not in ("correct", "response", "logprob")}
        rows[at] = {**kept, "error": {"fault": "content_filter", "status": 400}}
    found = tuned(rows)
    report = report_of(found)
    assert report.curve.plan.loss == pytest.approx(found.new.loss)
    assert report.in_force.loss == pytest.approx(found.old.loss)
    assert json.dumps(report.as_json(), allow_nan=False)


def test_the_rows_had_no_part_in_fitting(tuned: Tuned) -> None:
    """Every figure is of rows outside the training split; with `crossfit` the report says that there are none."""
    found = tuned()
    assert set(found.certified_on.tolist()) & set(found.tuner.train.tolist()) == set()
    assert report_of(found).split == "certify"
    assert report_of(tuned(method="crossfit")).split == "crossfit"


def test_the_draft_is_charged(tuned: Tuned) -> None:
    """A cascade that keeps no draft costs more than the top rung, and the oracle pays drafts too."""
    curve = report_of(tuned()).curve
    small, large = curve.models
    assert large.cost < curve.frontier[0].cost <= large.cost + small.cost
    assert curve.oracle.cost >= small.cost
    assert curve.oracle.loss <= min(one.loss for one in (*curve.models, curve.plan))
    assert curve.oracle.loss <= min(one.loss for one in curve.frontier)
    assert [one.threshold for one in curve.frontier] == sorted((one.threshold for one in curve.frontier), reverse=True)


def test_the_best_static_choice_keeps_the_target(tuned: Tuned) -> None:
    """It is the cheapest model that alone loses no more than the target: here the top rung, or the small one."""
    assert report_of(tuned()).curve.best_alone == "large"
    loose = {"max_quality_loss": 0.3, "at_confidence": 0.9}
    curve = report_of(tuned(target=loose)).curve
    assert curve.best_alone == "small"
    assert curve.mix == ("small", "large")


def test_mistakes_are_mistakes(tuned: Tuned) -> None:
    """Drafts that were kept are worse than the top rung's answer, drafts that were left are right; ten of each."""
    found = tuned()
    report = report_of(found)
    table = found.tuner.table
    place = {str(row_id): at for at, row_id in enumerate(table.run.row_ids.tolist())}
    shown = set(found.certified_on.tolist())
    for one in report.mistakes.kept:
        small, large = table.quality[place[one.row_id]]
        assert (small, large) == (0.0, 1.0)
        assert one.threshold is not None
        assert one.score >= one.threshold
    for one in report.mistakes.climbed:
        assert table.quality[place[one.row_id], 0] == 1.0
        assert one.threshold is not None
        assert one.score < one.threshold
    for named, rows in (
        (report.mistakes.kept, report.mistakes.kept_rows),
        (report.mistakes.climbed, report.mistakes.climbed_rows),
    ):
        assert {place[one.row_id] for one in named} <= shown
        assert len(named) == min(10, rows)
    scores = [one.score for one in report.mistakes.kept]
    assert scores == sorted(scores, reverse=True)


def test_a_signal_that_says_nothing_is_worth_nothing(tuned: Tuned) -> None:
    """Of two signals, only the one that tells right from wrong is missed when it is left out."""
    worth = {one.signal: one for one in report_of(tuned()).drafts[0].signals}
    assert worth["repetition"].auroc_alone == pytest.approx(0.5, abs=0.05) if "repetition" in worth else True
    assert worth["lp_mean"].auroc_alone > 0.75
    assert worth["lp_mean"].auroc_alone > worth["output_chars"].auroc_alone
    assert worth["output_chars"].log_loss_rise.low <= 0.002
    assert all(0.0 <= one.known <= 1.0 for one in worth.values())


def test_the_only_signal_is_missed() -> None:
    """Without its one signal a confidence is chance: the drop in AUROC is all that was above one half."""
    from router.tuning import EvalRun, Tuner
    from router.tuning.report.held_out import held_out
    from router.tuning.report.worth import worth_of

    rng = np.random.default_rng(0)
    hard, noise = rng.normal(size=1200), rng.normal(size=1200)
    right = np.column_stack([rng.random(1200) < 1 / (1 + np.exp(-level + 2 * hard)) for level in (1.0, 3.0)])
    run = EvalRun(
        task="t",
        models=PAIR,
        row_ids=np.arange(1200).astype(object),
        quality=right.astype(float),
        cost_nusd=np.array([[1.0, 20.0]] * 1200),
        signals={"small": {"told": -hard, "noise": noise}},
    )
    tuner = Tuner(run)
    held = held_out(tuner, tuner.tune(0.05), tuner.certify, 0.05)
    told, nothing = worth_of(held, (0,))
    assert (told.signal, nothing.signal) == ("told", "noise")
    assert told.auroc_drop.low > 0.2
    assert told.log_loss_rise.low > 0.05
    assert told.auroc_alone - told.auroc_drop.value == pytest.approx(0.5, abs=0.06)
    assert nothing.auroc_drop.value == pytest.approx(0.0, abs=0.01)


CONFIDENCES = st.lists(
    st.tuples(st.sampled_from([0.1, 0.5, 0.5001, 0.9, 0.99, 1.0]) | st.floats(0, 1), st.booleans()),
    min_size=1,
    max_size=300,
)


@given(CONFIDENCES)
def test_bins_hold_every_draft_once(drafts: list[tuple[float, bool]]) -> None:
    """Counts add up, bins rise, drafts of equal confidence are together, and shares lie within their intervals."""
    p, right = np.array([p for p, _ in drafts]), np.array([float(r) for _, r in drafts])
    bins = bins_of(p, right)
    assert sum(one.rows for one in bins) == (len(p) if len(p) >= 20 else 0)
    assert len(bins) <= 10
    centers = [one.confidence for one in bins]
    assert all(b - a >= 0.0399 for a, b in pairwise(centers))
    for one in bins:
        assert one.interval.low <= one.right <= one.interval.high


@given(CONFIDENCES)
def test_risk_and_coverage_end_at_everything(drafts: list[tuple[float, bool]]) -> None:
    """All drafts kept are as wrong as all drafts are, coverage only rises, and no risk is outside 0 to 1."""
    p, right = np.array([p for p, _ in drafts]), np.array([float(r) for _, r in drafts])
    curve = risk_coverage(p, right)
    assert curve[-1].coverage == 1.0
    assert curve[-1].risk == pytest.approx(1.0 - right.mean())
    coverage = [one.coverage for one in curve]
    assert coverage == sorted(set(coverage))
    assert all(-1e-12 <= one.risk <= 1.0 for one in curve)


def test_wilson_is_the_textbook_interval() -> None:
    """8 of 10 at 90 %, and the ends, where the plain interval would be empty."""
    assert wilson(0.8, 10) == pytest.approx((0.5408, 0.9315), abs=1e-3)
    assert wilson(0.0, 20).low == pytest.approx(0.0)
    assert wilson(0.0, 20).high > 0.1


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_an_axis_holds_its_values_and_has_round_ticks(values: list[float]) -> None:
    """Every value lies on it, and there are a few ticks, all within."""
    found = axis(values, "x", str)
    assert all(found.low <= value <= found.high for value in values)
    assert 2 <= len(found.ticks) <= 7
    assert all(found.low - 1e-6 <= tick <= found.high + 1e-6 for tick in found.ticks)


# The page


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_page_is_whole_and_needs_nothing_from_outside(tuned: Tuned, case: dict[str, Any]) -> None:
    """Balanced tags, no script, no address, small; charts with title, description and a table that says the same."""
    found = tuned(**case)
    text = page(found, report_of(found))
    read = Page(text)
    assert len(text.encode()) < MAX_BYTES
    assert "script" not in read.names()
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=", text)
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    charts = [
        attributes for tag, attributes in read.tags if tag == "svg" and "swatch" not in attributes.get("class", "")
    ]
    for attributes in charts:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= set(ids)
    assert read.names().count("title") == len(charts) + 1
    assert read.names().count("desc") == len(charts)
    assert read.names().count("table") >= len(charts)
    assert read.names().count("table") == read.names().count("caption")
    assert "nan" not in read.text.lower().split()


@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.sampled_from([(9, -7), (-9, -7), (9, 15), (-9, 15), (0, -11)]))
def test_a_label_makes_way_for_other_marks(x: float, y: float, beside: tuple[int, int]) -> None:
    """The letter of a model does not stand on the plan in force or on the new one."""
    frame = Frame(axis([0.0, 1.0], "x", str), axis([0.0, 1.0], "y", str))
    at = frame.at(x, y)
    whole = frame.at(1.0, 1.0), frame.at(0.0, 0.0)
    wide, high = whole[0][0] - whole[1][0], whole[1][1] - whole[0][1]
    other = (x + beside[0] / wide, y - (beside[1] - 4) / high)
    label = re.search(r'x="([\d.]+)" y="([\d.]+)">A<', frame.labels([("A", (x, y))], [other]))
    assert label is not None
    spot = frame.at(*other)
    assert math.dist((float(label[1]), float(label[2]) - 4), spot) > 8.0
    assert math.dist((float(label[1]), float(label[2])), at) < 22.0


def test_the_certificate_comes_first_in_words_and_as_json(tuned: Tuned) -> None:
    """Before any figure stands what is promised; the JSON is the certificate that is written."""
    found = tuned()
    text = page(found, report_of(found))
    said = Page(text).text
    promise = said.index("With 90% confidence calls like these rows lose at most 4 points")
    assert promise < said.index("Cost and quality")
    shown = json.loads(html.unescape(text[text.index("<pre>") + 5 : text.index("</pre>")]))
    assert found.certificate is not None
    assert shown["certificate"]["data_hash"] == found.certificate.data_hash
    assert shown["plan"]["rungs"][0]["threshold"] == found.plan.rungs[0].threshold


MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "no signals": ({"rows": without_texts(recorded(900))}, "No signal is in use"),
    "a refusal": (CASES["a target that cannot be met"], "No plan is certified: "),
    "a direct plan": (CASES["one cheaper rung alone"], "The plan asks one model and needs no confidence"),
    "no climbing": (CASES["one cheaper rung alone"], "The plan never climbs: each call pays one answer."),
    "no prompts": (
        {"rows": [{name: row[name] for name in row if name != "prompt"} for row in recorded(900)]},
        "whose text the run lacks",
    ),
    "few rows": (
        {"rows": recorded(58), "target": {"max_quality_loss": 0.3, "at_confidence": 0.5}},
        "are too few to say",
    ),
    "crossfit": ({"method": "crossfit"}, "each is scored by the fit that left it out"),
    "clusters": ({"cluster": "customer"}, "In the figures below a loss is that of the mean cluster"),
}


@pytest.mark.parametrize(("case", "says"), MISSING.values(), ids=MISSING.keys())
def test_what_does_not_exist_is_said_in_a_sentence(tuned: Tuned, case: dict[str, Any], says: str) -> None:
    """The section stays, with the reason in place of figures."""
    found = tuned(**case)
    said = Page(page(found, report_of(found))).text
    assert says in said
    for head in ("Cost and quality", "Is the confidence honest?", "Where the money goes", "What each signal is worth"):
        assert head in said


HOSTILE = (
    "<script>alert(1)</script>",
    "</title></svg></pre><img src=x onerror=alert(1)>",
    "\u202eright to left \u0627\u0644\u0633\u0644\u0627\u0645",
    "W" * 4000,
    "\U0001f9d1\u200d\U0001f680 \u0000\u0007\u001b[31m \ud800 &amp; \"quoted\" 'single'",
    "\n\n\t   ",
)


def hostile(rows: list[Row]) -> list[Row]:
    """The same rows with texts that would break a careless page."""
    found = []
    for row in rows:
        nasty = HOSTILE[int(row["prompt_id"][1:]) % len(HOSTILE)]
        meta = {**row["meta"], "language": nasty or "x"}
        printable = nasty.replace("\ud800", "")  # A prompt with half of a surrogate pair never left.
        found.append(
            {**row, "prompt": f"{printable} {row['prompt']}", "response": f"{row['response']} {nasty}", "meta": meta}
        )
    return found


def test_hostile_texts_stay_text(tuned: Tuned) -> None:
    """Markup, right-to-left marks, endless words, emoji and control characters in prompts, answers and groups."""
    rows = hostile(recorded(1800))
    found = tuned(rows, group="language")
    text = page(found, report_of(found))
    text.encode("utf-8")
    read = Page(text)
    assert {"script", "img"} & set(read.names()) == set()
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
    assert len(text.encode()) < MAX_BYTES
    assert "\u202e" not in re.sub(r"<bdi[^>]*>[^<]*</bdi>|<pre>[^<]*</pre>", "", text)


@given(st.text())
def test_escaped_text_is_read_back_as_it_was(words: str) -> None:
    """A page says what was written, but for characters that no page may hold."""
    read = Page(f"<p>{escaped(words)}</p>")
    assert read.names() == ["p"]
    assert len("".join(read.said)) == len(words)


def test_colours_can_be_told_from_their_ground() -> None:
    """Text has a contrast of 4.5 to 1 on page and cards, drawings 3 to 1, in light and in dark."""
    for side in (0, 1):
        for name, colours in COLOURS.items():
            if name in ("ground", "card", "grid"):
                continue
            least = 4.5 if name in ("ink", "muted") else 3.0
            for behind in ("ground", "card"):
                assert _contrast(colours[side], COLOURS[behind][side]) >= least, (name, behind, side)


def _contrast(one: str, other: str) -> float:
    """As the accessibility guidelines define it."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# The command


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """A folder with policies and the task's run."""
    write_policy(Path("policies"))
    write_rows(Path("runs/colours.jsonl"), recorded(900))
    return cli


def test_the_command_writes_the_page_and_warns_of_prompts(shop: Cli) -> None:
    """The terminal grows by one line, which says that the file holds prompts."""
    plain = shop("tune", "colours")
    done = shop("tune", "colours", "--report", "out.html")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("wrote out.html; it holds excerpts of prompts, --no-examples leaves them out\n")
    assert len(done.out.splitlines()) == len(plain.out.splitlines()) + 1
    assert "Which colour has item" in Page(Path("out.html").read_text(encoding="utf-8")).text


def test_no_examples_leaves_every_prompt_out(shop: Cli) -> None:
    """Neither prompts nor answers are on the page, which says how many calls it does not show."""
    done = shop("tune", "colours", "--report", "out.html", "--no-examples")
    assert done.out.endswith("wrote out.html\n")
    said = Page(Path("out.html").read_text(encoding="utf-8")).text
    assert "Which colour" not in said
    assert "They are left out of this page." in said


def test_json_has_the_same_figures_and_no_prompt(shop: Cli) -> None:
    """Under `report`, with or without a page; `null` for what is not known."""
    done = shop("tune", "colours", "--json", "--report", "out.html")
    found, library = done.json["report"], report_of(tune_task("colours"))
    assert found == json.loads(json.dumps(library.as_json(), allow_nan=False))
    assert found["curve"]["plan"]["cost"] == pytest.approx(done.json["found"]["cost"])
    assert "Which colour" not in done.out
    assert Path("out.html").exists()


@pytest.mark.parametrize("place", ["policies", "nowhere/out.html"])
def test_a_place_that_cannot_be_is_refused_before_a_look_is_spent(shop: Cli, place: str) -> None:
    """Exit code 2, nothing tuned."""
    done = shop("tune", "colours", "--report", place)
    assert done.code == 2
    assert "--report" in done.err
    assert [path.name for path in Path("runs").iterdir()] == ["colours.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said(shop: Cli) -> None:
    """Exit code 1 with the file and the reason."""
    done = shop("tune", "colours", "--report", "/dev/full")
    assert done.code == 1
    assert "/dev/full: cannot be written" in done.err


def test_a_refusal_has_a_page_too(shop: Cli) -> None:
    """Exit code 4, and the page says why and shows the curves."""
    write_rows(Path("runs/colours.jsonl"), without_texts(recorded(900)))
    done = shop("tune", "colours", "--report", "out.html")
    assert done.code == 4
    said = Page(Path("out.html").read_text(encoding="utf-8")).text
    assert "No plan is certified" in said
    assert "Cost and quality" in said


# In a real browser

_LOOK = """
const page = document.querySelector('iframe').contentDocument, root = page.documentElement, faults = [];
const width = root.clientWidth;
if (root.scrollWidth > width) faults.push(`the page is ${root.scrollWidth} wide`);
for (const svg of page.querySelectorAll('figure > svg')) {
  const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(one => one.getBoundingClientRect());
  if (frame.right > width) faults.push('a chart leaves the page');
  boxes.forEach((box, at) => {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
      faults.push(`clipped: ${texts[at].textContent}`);
    if (parseFloat(getComputedStyle(texts[at]).fontSize) * frame.width / 360 < 10)
      faults.push(`too small: ${texts[at].textContent}`);
    boxes.slice(at + 1).forEach((other, more) => {
      if (box.left < other.right - 1 && other.left < box.right - 1 && box.top < other.bottom - 2
          && other.top < box.bottom - 2) faults.push(`${texts[at].textContent} on ${texts[at + 1 + more].textContent}`);
    });
  });
}
document.body.innerHTML = `<pre id="found">${faults.length ? faults.join('; ') : 'fine'}</pre>`;
"""


def look_at(text: str, width: int, folder: Path) -> str:
    """What a browser finds wrong with a page of this width, or `fine`."""
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(text)}"></iframe>'
    outer = folder / "outer.html"
    outer.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><body>{frame}<script>onload = () => {{{_LOOK}}}</script></body>',
        encoding="utf-8",
    )
    quiet = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *quiet, "--disable-component-update"]
    command += [f"--user-data-dir={folder / 'browser'}", "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return found[1]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_or_overlaps_in_a_browser(tuned: Tuned, tmp_path: Path, width: int) -> None:
    """On a telephone and on a desk: no sideways scrolling, no clipped, tiny or overlapping text in a chart."""
    rows = hostile(recorded(1800, models=THREE))
    for found in (tuned(models=THREE), tuned(rows, models=THREE, group="language")):
        assert look_at(page(found, report_of(found)), width, tmp_path) == "fine"
