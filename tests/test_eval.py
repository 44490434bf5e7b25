"""Eval runs: every model is asked for every row through the production path, once, whatever happens in between."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Policy, Router
from router.core.call import Call, Failure, Reply, Usage
from router.core.faults import Fault
from router.core.policy import Model, Task
from router.errors import InvalidCall, RecordingError, ReplayMiss, TuningError, UnknownTask
from router.models.replay import Replay
from router.testing import ScriptedModels, SimulatedWorld
from router.tuning import Eval, EvalRow, load_run, read_rows
from router.tuning.evaluate import FEATURE
from router.tuning.runfile import RunFile, read_run
from tests.support import make_policy as upstream_policy
from tests.support import read_table
from tests.tuning_support import make_policy
from tests.upstream import Upstream

ROWS = [EvalRow(f"Which colour has item {number}?", ("red", "blue")[number % 2]) for number in range(10)]


def models(small: Any = "red", large: Any = "blue") -> ScriptedModels:
    """Two scripted models that answer with one colour each."""
    return ScriptedModels({"small": small, "large": large})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all examples of a law share."""
    return tmp_path_factory.mktemp("law")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A run file as rows."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluated(tmp_path: Path, rows: list[EvalRow] = ROWS, **more: Any) -> Eval:
    """An eval of made-up colours into `run.jsonl`."""
    given: dict[str, Any] = {"policies": make_policy(), "backend": models(), "concurrency": 1, **more}
    return Eval("colours", rows, tmp_path / "run.jsonl", **given)


def test_every_model_answers_every_row_once(tmp_path: Path) -> None:
    """One row of the file for each answer, with text, grade, cost and signals."""
    backend = models()
    done = evaluated(tmp_path, backend=backend).run()
    assert (done.asked, done.kept, done.failed, done.left, done.stopped) == (20, 0, 0, 0, "")
    assert done.cost_usd == pytest.approx(10 * (0.0001 + 0.001))
    rows = rows_of(done.path)
    assert Counter(row["name"] for row in rows) == {"small": 10, "large": 10}
    assert sum(row["quality"] for row in rows if row["name"] == "small") == 5
    one = next(row for row in rows if row["name"] == "small")
    assert (one["model"], one["response"], one["answer"], one["model_served"]) == ("x/small", "red", "red", "x/small")
    assert one["signals"]["output_chars"] == 3
    assert len(backend.history) == 20


def test_calls_of_an_eval_are_in_the_ledger(tmp_path: Path, home: Path) -> None:
    """As the calls of one rung each, of a feature of their own: an eval is money too."""
    evaluated(tmp_path, home=home).run()
    routes = read_table(home, "routes")
    assert {(row["feature"], row["model"], row["rung"]) for row in routes} == {
        (FEATURE, "small", 0),
        (FEATURE, "large", 0),
    }


def test_a_run_replays_with_the_same_signals_and_costs(tmp_path: Path) -> None:
    """A run file is a recording: the same ladder on it reads the same signals and pays the same."""
    reply = Reply("red", Usage(7, output_tokens=2, reasoning_tokens=5), logprobs=(-0.25, float("-inf")))
    done = evaluated(tmp_path, backend=models(small=reply)).run()
    recorded = {row["prompt"]: row for row in rows_of(done.path) if row["name"] == "small"}
    with Router(make_policy(), backend=Replay.load(done.path)) as router:
        for prompt, row in recorded.items():
            step = router.route("colours", prompt).steps[0]
            assert (step.signals, step.cost_nusd) == (row["signals"], round(row["cost_usd"] * 1e9))


def test_the_top_model_alone_is_not_asked_by_the_draft(tmp_path: Path) -> None:
    """The policy's own thresholds and tuned plans have no say: each model is a ladder of one rung."""
    policy = make_policy(threshold=1.0, deadline_s=5.0)
    backend = models()
    evaluated(tmp_path, policies=policy, backend=backend).run()
    assert Counter(call.name for call in backend.history) == {"small": 10, "large": 10}


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is there is not asked again; only what is missing."""
    evaluated(tmp_path, rows=ROWS[:4]).run()
    backend = models()
    work = evaluated(tmp_path, backend=backend)
    assert work.estimate().requests == 12
    done = work.run()
    assert (done.asked, done.kept) == (12, 8)
    assert len(backend.history) == 12
    assert len({(row["name"], row["prompt"]) for row in rows_of(done.path)}) == 20


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    """What a killed process leaves behind its last whole line is cut off, and nothing else."""
    path = evaluated(tmp_path).run().path
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(list(read_run(path))) == 19
    backend = models()
    done = evaluated(tmp_path, backend=backend).run()
    assert (done.asked, len(backend.history)) == (1, 1)
    assert len(rows_of(path)) == 20


def test_kill_9_loses_no_answer(tmp_path: Path, upstream: Upstream) -> None:
    """A process that is killed in the middle leaves every answer that it had; the rest is asked, and nothing twice."""
    script = """
import sys, json
from pathlib import Path
from tests.support import make_policy
from router.tuning import Eval, EvalRow
rows = [EvalRow(f"prompt {number} say=answer_{number}", "x") for number in range(60)]
work = Eval("t", rows, Path(sys.argv[2]), grader="f1", policies=make_policy(api_base=sys.argv[1]), concurrency=4)
work.run(lambda now: print(now.done, flush=True))
"""
    path = tmp_path / "run.jsonl"
    child = subprocess.Popen([sys.executable, "-c", script, upstream.url, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 40:
            break
    child.kill()
    child.wait()
    child.stdout.close()
    before = {(row["name"], row["prompt"]) for _, row in read_run(path)}
    assert len(before) >= 40

    rows = [EvalRow(f"prompt {number} say=answer_{number}", "x") for number in range(60)]
    done = Eval("t", rows, path, grader="f1", policies=upstream_policy(api_base=upstream.url)).run()
    assert (done.kept, done.asked, done.left) == (len(before), 120 - len(before), 0)
    answered = Counter((row["name"], row["prompt"]) for row in rows_of(path))
    assert set(answered.values()) == {1}
    assert len(answered) == 120
    asked = Counter((billed.model, billed.message) for billed in upstream.bill())
    twice = [key for key, count in asked.items() if count > 1]
    assert len(twice) <= 4  # Under way when it was killed.
    assert {(name, prompt) for name, prompt in before}.isdisjoint(twice)


def test_a_person_can_stop_a_run(tmp_path: Path) -> None:
    """Ctrl-C waits for the requests under way, keeps their answers, and leaves the rest for the next session."""

    def stop(now: Any) -> None:
        if now.done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, concurrency=2).run(stop)
    kept = len(rows_of(tmp_path / "run.jsonl"))
    assert 3 <= kept < 20
    done = evaluated(tmp_path).run()
    assert (done.kept, done.asked, done.left) == (kept, 20 - kept, 0)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_a_run_that_is_cut_anywhere_keeps_its_whole_rows(place: Path, data: st.DataObject) -> None:
    """Whatever byte a killed process got to: every row before it is read, and nothing is made of half a row."""
    rows = data.draw(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3), max_size=5))
    path = place / "run.jsonl"
    path.unlink(missing_ok=True)
    with RunFile(path) as file:
        for row in rows:
            file.append({"model": "m", **row})
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    read = [row for _, row in read_run(path)]
    assert read[:complete] == [{"model": "m", **row} for row in rows[:complete]]
    assert len(read) - complete in (0, 1)  # A last row that lacks nothing but its line end is whole.
    with RunFile(path) as file:
        assert file.torn == (len(read) == complete and cut > 0 and whole[cut - 1 : cut] != b"\n")
        file.append({"model": "n"})
    assert [row["model"] for _, row in read_run(path)] == ["m"] * len(read) + ["n"]


@pytest.mark.parametrize("content", [b"my notes", b'{"prompt": "a", "label": "b"}', b"[1, 2]", b'{"prompt": "a'])
def test_a_file_that_is_no_run_is_never_cut(tmp_path: Path, content: bytes) -> None:
    """Its only line lacks a line end as a torn one does, but is no row of ours."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"run\.jsonl"):
        evaluated(tmp_path).run()
    assert path.read_bytes() == content


def failing(text: str, label: Any) -> float:
    """A grader with a fault."""
    raise KeyError(label)


@pytest.mark.parametrize(
    ("grader", "says"),
    [(failing, "your own grader failed (KeyError"), (lambda *_: None, "TypeError"), (lambda *_: 7, "gave 7.0")],
)
def test_a_grader_that_fails_loses_no_answer(tmp_path: Path, grader: Any, says: str) -> None:
    """The answer is in the file without a grade; it is not asked again, and graded anew once the grader is mended."""
    with pytest.raises(TuningError) as caught:
        evaluated(tmp_path, grader=grader).run()
    assert says in str(caught.value)
    path = tmp_path / "run.jsonl"
    paid = len(rows_of(path))
    assert paid >= 1
    assert all(row["quality"] is None for row in rows_of(path))
    done = evaluated(tmp_path, grader=lambda text, label: float(text == label)).run()
    assert (done.kept, done.asked) == (paid, 20 - paid)
    with pytest.raises(RecordingError, match="has no grade, because your own grader failed"):
        load_run(path, "colours", policies=make_policy())
    run = load_run(path, "colours", policies=make_policy(), grader=lambda text, label: float(text == label))
    assert run.quality[:, 0].mean() == 0.5


def test_answers_come_through_real_http_with_retries(tmp_path: Path, upstream: Upstream) -> None:
    """A passing fault is retried inside the call and its cost is the row's; the run says how many attempts it took."""
    rows = [EvalRow("fault=server_error,ok say=red", "red"), EvalRow("say=blue", "blue")]
    policy = upstream_policy(api_base=upstream.url)
    done = Eval("t", rows, tmp_path / "run.jsonl", policies=policy, concurrency=1).run()
    found = {(row["name"], row["label"]): row for row in rows_of(done.path)}
    assert found["small", "red"]["attempts"] == 2
    assert {row["quality"] for row in found.values()} == {1.0}
    bill = sum(billed.cost_nusd for billed in upstream.bill())
    assert round(sum(row["cost_usd"] for row in found.values()) * 1e9) == bill


def test_a_passing_fault_is_asked_again_next_time(tmp_path: Path) -> None:
    """A row without an answer is on record with its cause, and the next session asks it."""
    failing = models(small=[Failure(Fault.RATE_LIMITED, 429)] * 3 + ["red"] * 9)
    world = SimulatedWorld()
    done = evaluated(tmp_path, backend=failing, world=world).run()
    assert (done.asked, done.failed, done.left) == (19, 1, 1)
    assert [row["error"]["fault"] for row in rows_of(done.path) if "error" in row] == ["rate_limited"]
    again = evaluated(tmp_path).run()
    assert (again.asked, again.left) == (1, 0)
    assert load_run(done.path, "colours", policies=make_policy()).rows == 10


def test_a_fault_of_the_request_is_final(tmp_path: Path) -> None:
    """A filtered prompt is filtered next time too: it is not asked again, and counts against the model."""
    filtered = models(small=[Failure(Fault.CONTENT_FILTER, 400)] + ["red"] * 9)
    done = evaluated(tmp_path, backend=filtered).run()
    assert (done.asked, done.failed, done.left) == (20, 0, 0)
    run = load_run(done.path, "colours", policies=make_policy())
    assert (run.quality[:, 0] != run.quality[:, 0]).sum() == 1  # Unknown, which tuning counts against it.
    assert run.provenance["failed_answers"] == 1


def test_a_model_that_cannot_be_asked_ends_the_session(tmp_path: Path) -> None:
    """A wrong key would fail on every row: it is told at once, and what was answered is kept."""
    broken = models(large=["blue", Failure(Fault.AUTH, 401)])
    with pytest.raises(TuningError, match=r"model 'large' cannot be asked \(auth: .*what was answered is kept"):
        evaluated(tmp_path, backend=broken).run()
    assert evaluated(tmp_path).run().left == 0


def test_the_spend_stays_below_the_limit(tmp_path: Path) -> None:
    """A question leaves only while its most would fit; the run says why it stopped, and goes on with more."""
    done = evaluated(tmp_path, max_usd=0.005).run()
    assert done.cost_usd <= 0.005
    assert done.asked == 9  # Four rows of both models for 0.0044, and one more of the small one.
    assert done.stopped == "the limit of $0.01 leaves no room for another answer"
    more = evaluated(tmp_path, max_usd=0.02).run()
    assert (more.kept, more.left, more.stopped) == (9, 0, "")


def test_earlier_sessions_count_towards_the_limit(tmp_path: Path) -> None:
    """The limit is the run's, not the session's."""
    evaluated(tmp_path, max_usd=0.005).run()
    backend = models()
    assert evaluated(tmp_path, max_usd=0.005, backend=backend).run().asked == 0
    assert backend.history == []


def test_requests_keep_the_rate(tmp_path: Path) -> None:
    """With 30 a minute, 20 requests start over 38 seconds."""
    world = SimulatedWorld()
    evaluated(tmp_path, per_minute=30, world=world).run()
    assert world.clock.monotonic() == pytest.approx(19 * 2.0)


def test_an_estimate_comes_before_the_money(tmp_path: Path) -> None:
    """Of the questions that are open, from prices; later from what answers did cost."""
    estimate = evaluated(tmp_path).estimate()
    assert (estimate.requests, estimate.unpriced) == (20, ())
    assert estimate.usd == pytest.approx(0.011)
    policy = Policy(1, {"small": Model("x/small"), "large": Model("x/large")}, {"colours": Task(("small", "large"))})
    unknown = evaluated(tmp_path / "other", policies=policy, grader="exact").estimate()
    assert (unknown.usd, unknown.upper_usd, unknown.unpriced) == (None, None, ("large", "small"))


def test_progress_is_told(tmp_path: Path) -> None:
    """With the cost so far, earlier sessions included."""
    told: list[Any] = []
    evaluated(tmp_path).run(told.append)
    assert [now.done for now in told] == sorted(now.done for now in told)
    assert (told[-1].done, told[-1].total) == (20, 20)
    assert told[-1].cost_usd == pytest.approx(0.011)


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    """A second process is told, before it asks anything."""
    path = tmp_path / "run.jsonl"
    with RunFile(path), pytest.raises(RecordingError, match="another process is writing this run"):
        evaluated(tmp_path).run()


def test_signals_of_another_version_are_read_anew_for_nothing(tmp_path: Path) -> None:
    """The answers are paid for: both who goes on with the run and who tunes on it are told how to keep them."""
    evaluated(tmp_path).run()
    old = tmp_path / "old.jsonl"
    text = (tmp_path / "run.jsonl").read_text()
    old.write_text(re.sub(r'"signals": "\w+"', '"signals": "former"', text))
    remedy = rf"--run NEW.jsonl --replay {re.escape(str(old))}"
    with pytest.raises(RecordingError, match=remedy):
        Eval("colours", ROWS, old, policies=make_policy(), backend=models(), concurrency=1)
    with pytest.raises(TuningError, match=remedy):
        load_run(old, "colours", policies=make_policy())
    (tmp_path / "new").mkdir()
    done = evaluated(tmp_path / "new", backend=Replay.load(old)).run()
    assert (done.asked, done.failed) == (20, 0)
    assert rows_of(done.path)[0]["bound"]["signals"] != "former"


def test_log_probabilities_that_are_none_do_not_stop_a_run(tmp_path: Path) -> None:
    """A provider that sends NaN has said nothing about its tokens; the answer was paid for and is kept."""
    odd = {
        name: Reply("red", Usage(7, 2), logprobs=(lp, -0.1)) for name, lp in (("small", math.nan), ("large", math.inf))
    }
    done = evaluated(tmp_path, backend=models(**odd)).run()
    assert (done.asked, done.failed) == (20, 0)


def test_a_run_belongs_to_its_policy(tmp_path: Path) -> None:
    """Answers under another system text, parameter or model are not mixed into it; the part that changed is named."""
    evaluated(tmp_path).run()
    with pytest.raises(RecordingError, match=r"run\.jsonl:1: was answered under another policy \(system changed"):
        evaluated(tmp_path, policies=make_policy(system="Be brief."))
    with pytest.raises(RecordingError, match="is an answer of 'small', which is not in the task's ladder"):
        evaluated(tmp_path, policies=make_policy(("tiny", "large")))
    assert evaluated(tmp_path, policies=make_policy(deadline_s=9.0)).estimate().requests == 0


def test_without_labels_the_top_model_is_asked_twice_on_a_sample(tmp_path: Path) -> None:
    """So that its disagreement with itself is known: no target can be finer than that."""
    rows = [EvalRow(f"item {number}") for number in range(200)]
    replies = iter(["red", "blue"] * 200)
    backend = ScriptedModels({"small": "red", "large": lambda _: next(replies)})
    done = evaluated(tmp_path, rows=rows, grader="disagreement", backend=backend).run()
    repeats = [row for row in rows_of(done.path) if row.get("repeat")]
    assert 20 <= len(repeats) <= 60
    assert {row["name"] for row in repeats} == {"large"}
    run = load_run(done.path, "colours", policies=make_policy())
    assert run.label_source == "disagreement"
    assert run.quality[:, 1].tolist() == [1.0] * 200
    assert 0.3 < run.quality[:, 0].mean() < 0.7
    own = run.provenance["self_disagreement"]
    assert own["rows"] == len(repeats)
    assert own["share"] > 0.3


def test_a_recording_that_lacks_an_answer_is_told(tmp_path: Path) -> None:
    """A replayed eval makes nothing up."""
    with pytest.raises(ReplayMiss):
        evaluated(tmp_path, backend=Replay([{"model": "x/small", "prompt": "other", "response": "red"}])).run()


def test_an_own_check_sees_what_production_sees(tmp_path: Path) -> None:
    """Registered as with `Router`; its verdict is the signal `invalid`, and the run is bound to having one."""
    checks: dict[str, Callable[[Any], bool]] = {"colours": lambda value: value != "green"}
    path = evaluated(tmp_path, checks=checks, backend=models(small="green")).run().path
    assert {row["signals"]["invalid"] for row in rows_of(path) if row["name"] == "small"} == {1.0}
    with pytest.raises(TuningError, match="own_check changed"):
        load_run(path, "colours", policies=make_policy())


def test_prompts_may_be_conversations(tmp_path: Path) -> None:
    """Chat messages are asked and kept as they are."""
    chat = [{"role": "system", "content": "Name a colour."}, {"role": "user", "content": "item 1"}]
    rows = [EvalRow(chat, "red"), EvalRow("item 2", "blue")]
    seen: list[Call] = []

    def answer(call: Call) -> str:
        seen.append(call)
        return "red"

    path = evaluated(tmp_path, rows=rows, backend=models(small=answer)).run().path
    assert chat in [list(call.messages) for call in seen]
    assert chat in [row["prompt"] for row in rows_of(path)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.jsonl", '{"prompt": "a", "label": "red"}\n', [("a", "red", {})]),
        ("r.jsonl", '{"text": "a", "reference": "red", "lang": "de"}\n', [("a", "red", {"lang": "de"})]),
        ("r.jsonl", '{"prompt": "a", "label": 3, "metadata": {"k": 1}}\n\n', [("a", 3, {"k": 1})]),
        ("r.csv", "prompt,label,lang\na,red,de\n", [("a", "red", {"lang": "de"})]),
        ("r.csv", '\ufeffprompt,label\n"a, b",red\n', [("a, b", "red", {})]),
    ],
)
def test_rows_are_read_from_files(tmp_path: Path, name: str, content: str, expected: list[Any]) -> None:
    """CSV or JSON lines; further columns are metadata, for groups and clusters."""
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert [(row.prompt, row.label, row.metadata) for row in read_rows(path)] == expected


BAD_ROWS = {
    "no_prompt": ("r.jsonl", b'{"question": "a"}\n', ":1: has no 'prompt' (it has question); name the column"),
    "empty_prompt": ("r.jsonl", b'{"prompt": "  "}\n', ":1: the prompt is empty; give some text; mend or delete"),
    "no_json": ("r.jsonl", b'{"prompt": "a"}\n{"prompt"\n', ":2: this line is no JSON in UTF-8; mend or delete it"),
    "latin_1": ("r.jsonl", b'{"prompt": "caf\xe9"}\n', ":1: this line is no JSON in UTF-8"),
    "latin_1_csv": ("r.csv", b"prompt,label\ncaf\xe9,a\n", ": is not UTF-8 after line"),
    "many_cells": ("r.csv", b"prompt,label\na,b,c\n", ":2: has more cells than the first line has names"),
    "no_gzip": ("r.jsonl.gz", b"prompt", ": cannot be read"),
    "no_object": ("r.jsonl", b"[1]\n", ":1: is no JSON object; mend or delete it"),
}


@pytest.mark.parametrize(("name", "content", "says"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_fault_of_a_row_file_is_located(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """File, line, what is wrong and what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}{says}")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(RecordingError, match=r"none\.csv: cannot be read"):
        read_rows(tmp_path / "none.csv")


BAD_LABELS: dict[str, tuple[list[EvalRow], dict[str, Any], type[Exception], str]] = {
    "none": ([], {}, TuningError, "there is no row to ask"),
    "missing": ([EvalRow("a", "red"), EvalRow("b", place="f.csv:3")], {}, RecordingError, "f.csv:3: has no 'label'"),
    "unknown": ([EvalRow("a", "pink", place="f:2")], {}, RecordingError, "f:2: the label 'pink' names none of the 3"),
    "one_class": ([EvalRow("a", "red"), EvalRow("b", "red")], {}, TuningError, "all 2 rows have the label 'red'"),
    "no_number": ([EvalRow("a", "x")], {"grader": "number"}, RecordingError, "the label 'x' is no number"),
    "no_pattern": ([EvalRow("a", "(")], {"grader": "pattern"}, RecordingError, "is no regular expression"),
    "no_json": ([EvalRow("a", "{")], {"grader": "json"}, RecordingError, "the label '{' is no JSON"),
    "twice": (
        [EvalRow("a", "red", place="f:1"), EvalRow("a", "red", place="f:2"), EvalRow("b", "blue")],
        {},
        RecordingError,
        r"f:2: repeats the prompt of f:1 \(1 rows repeat one\); drop the copies with --drop-duplicates",
    ),
    "contradiction": (
        [EvalRow("a", "red", place="f:1"), EvalRow("a", "blue", place="f:2")],
        {"drop_duplicates": True},
        RecordingError,
        "f:2: repeats the prompt of f:1 with another label",
    ),
    "grader": (ROWS, {"grader": "best"}, InvalidCall, "unknown grader 'best'"),
    "concurrency": (ROWS, {"concurrency": 0}, InvalidCall, "concurrency: is 0"),
    "rate": (ROWS, {"per_minute": 0.0}, InvalidCall, "per_minute: is 0.0"),
    "unpriced": (
        ROWS,
        {
            "policies": Policy(1, {"small": Model("x/small")}, {"colours": Task(("small",))}),
            "max_usd": 1.0,
            "grader": "exact",
        },
        InvalidCall,
        "the price of 'small' is unknown, so that no limit can hold",
    ),
    "limit": (ROWS, {"max_usd": float("nan")}, InvalidCall, "max_usd: is nan"),
}


@pytest.mark.parametrize(("rows", "more", "kind", "says"), BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_what_cannot_be_asked_is_told_before_any_money(
    tmp_path: Path, rows: list[EvalRow], more: Any, kind: type[Exception], says: str
) -> None:
    """Nothing was sent and no file was made."""
    backend = models()
    with pytest.raises(kind, match=says):
        evaluated(tmp_path, rows=rows, backend=backend, **more)
    assert backend.history == []
    assert not (tmp_path / "run.jsonl").exists()


def test_copies_can_be_dropped(tmp_path: Path) -> None:
    """Then each prompt is asked once."""
    rows = [EvalRow("a", "red"), EvalRow("a", "red"), EvalRow("b", "blue")]
    assert evaluated(tmp_path, rows=rows, drop_duplicates=True).run().asked == 4


def test_an_unknown_task_is_told(tmp_path: Path) -> None:
    """With the tasks that there are."""
    with pytest.raises(UnknownTask, match="unknown task 'colors'; there is colours"):
        Eval("colors", ROWS, tmp_path / "run.jsonl", policies=make_policy())


@pytest.mark.parametrize(
    ("path", "says"), [("run.jsonl.gz", "a run is written as plain JSON lines"), ("no/dir/", "cannot be written")]
)
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, path: str, says: str) -> None:
    """Before anything is asked."""
    (tmp_path / "no").write_text("a file")
    backend = models()
    with pytest.raises(RecordingError, match=says):
        Eval(
            "colours",
            ROWS,
            tmp_path / path / "x" if path.endswith("/") else tmp_path / path,
            policies=make_policy(),
            backend=backend,
        ).run()
    assert backend.history == []
