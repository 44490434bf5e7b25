"""Recordings: every column means what the data's own description says, and a broken file is refused by line."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from router import Policy, Router
from router.core.call import Call, Failure, Outcome, Reply, Usage
from router.core.faults import Fault
from router.core.policy import AnswerKind, Model, Task
from router.errors import RecordingError, ReplayMiss
from router.models.recording import read_recording
from router.models.replay import Replay
from router.testing import SimulatedWorld
from tests.support import make_policy

DATA = Path(os.environ.get("ROUTER_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
ROW: dict[str, Any] = {"model": "openai/small", "prompt": "6 times 7?", "response": "42"}


def _call(prompt: Any = "6 times 7?", model: str = "openai/small") -> Call:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return Call("small", Model(litellm=model), tuple(messages))


def _ask(*rows: dict[str, Any], call: Call | None = None) -> Outcome:
    return Replay(rows).send(call or _call(), None)


def _reply(**columns: Any) -> Reply:
    outcome = _ask({**ROW, **columns})
    assert isinstance(outcome, Reply)
    return outcome


def _write(path: Path, *rows: Any) -> Path:
    lines = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def test_a_row_without_more_is_a_plain_reply() -> None:
    """What was not recorded is unknown: no usage, no cost, no log-probabilities, no latency."""
    assert _reply() == Reply("42", None, model_served="openai/small", response=ROW)


@pytest.mark.parametrize(
    ("columns", "usage"),
    [
        ({"input_tokens": 9, "output_tokens": 1}, Usage(input_tokens=9, output_tokens=1)),
        ({"input_tokens": 0, "output_tokens": 0}, Usage()),
        ({"input_tokens": 9}, None),
        ({"input_tokens": 9, "output_tokens": None}, None),
    ],
    ids=["both", "zero", "one", "null"],
)
def test_usage_needs_both_counts(columns: dict[str, Any], usage: Usage | None) -> None:
    """Half a usage is none: the cost is then an estimate and says so."""
    assert _reply(**columns).usage == usage


@pytest.mark.parametrize(
    ("cost_usd", "nusd"),
    [
        (0, 0),
        (0.0003025, 302_500),
        (1, 10**9),
        (0.0000000005, 0),
        (0.0000000015, 2),
        (0.0000012355, 1236),
        (None, None),
    ],
    ids=str,
)
def test_a_recorded_cost_is_exact(cost_usd: float | None, nusd: int | None) -> None:
    """Dollars become nano-dollars as the decimal number that was written, half to even."""
    assert _reply(cost_usd=cost_usd).reported_cost_nusd == nusd


@pytest.mark.parametrize(
    ("logprob", "expected"),
    [
        ({"raw": -0.039}, (-0.039,)),
        ({"raw": -1e9}, (-math.inf,)),
        ({"raw": 0.0}, (0.0,)),
        ({"n": 3, "mean": -0.3, "min": -0.7, "tok": [-0.7, 0.0, -1e9]}, (-0.7, 0.0, -math.inf)),
        ({"tok": []}, None),
        ({"n": 3, "mean": -0.3, "min": -0.7}, None),
        ({}, None),
        (None, None),
    ],
    ids=["raw", "raw-minus-infinity", "raw-zero", "tok", "no-token", "summary", "empty", "null"],
)
def test_log_probabilities_are_those_of_the_tokens(logprob: Any, expected: tuple[float, ...] | None) -> None:
    """Every token's, or the one that was recorded; -1e9 stands for minus infinity, and exactly 0 is a value."""
    assert _reply(logprob=logprob).logprobs == expected


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [("length", "length"), ("tool_calls", "tool_calls"), ("max_tokens", "unknown"), (None, "stop"), ("", "stop")],
    ids=str,
)
def test_a_finish_reason_is_one_of_ours(recorded: str | None, expected: str) -> None:
    """A word that we do not know is `unknown`."""
    assert _reply(finish_reason=recorded).finish_reason == expected


def test_the_recorded_latency_is_reported_and_not_waited_for() -> None:
    """A replay answers at once, whatever the time limit; the attempt says how long the model took."""
    replay = Replay([{**ROW, "latency_s": 7200.5}])
    world = SimulatedWorld()
    answer = Router(make_policy(), backend=replay, world=world).route("t", "6 times 7?", deadline_s=1.0)
    assert answer.attempts[0].latency_ms == 7_200_500
    assert world.clock.monotonic() == 0


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            {"fault": "rate_limited", "status": 429, "retry_after_s": 1.5},
            Failure(Fault.RATE_LIMITED, 429, 1.5, detail="recorded"),
        ),
        ({"fault": "auth"}, Failure(Fault.AUTH, detail="recorded")),
        ("timeout", Failure(Fault.TIMEOUT, detail="recorded")),
        ("Connection reset by peer", Failure(Fault.SERVER_ERROR, detail="recorded")),
        ({"status": 500}, Failure(Fault.SERVER_ERROR, 500, detail="recorded")),
    ],
    ids=["full", "fault", "word", "other-words", "status"],
)
def test_an_error_is_replayed_as_its_fault(error: Any, failure: Failure) -> None:
    """By a word of the fault table, with status and pause; anything else was the server's fault."""
    assert _ask({**ROW, "response": None, "error": error}) == failure


def test_a_recording_answers_awaited_calls_too() -> None:
    """`aroute` gets what `route` gets."""
    answer = asyncio.run(Router(make_policy(), backend=Replay([ROW])).aroute("t", "6 times 7?"))
    assert answer.text == "42"


def test_rows_with_one_key_come_in_order_and_then_the_last_one() -> None:
    """Duplicates are the answers to the first, second, third request; the last of them answers all later ones."""
    replay = Replay({**ROW, "response": text} for text in "abc")
    texts = [outcome.text for outcome in (replay.send(_call(), None) for _ in range(5)) if isinstance(outcome, Reply)]
    assert texts == ["a", "b", "c", "c", "c"]


def test_errors_before_an_answer_replay_a_retry() -> None:
    """The same rung is asked again and answers, after the recorded pause on a clock that costs no time."""
    busy = {"fault": "rate_limited", "status": 429, "retry_after_s": 0.1}
    rows = [{**ROW, "response": None, "error": busy}, ROW]
    world = SimulatedWorld()
    answer = Router(make_policy(), backend=Replay(rows), world=world).route("t", "6 times 7?")
    assert [attempt.fault for attempt in answer.attempts] == ["rate_limited", None]
    assert (answer.text, answer.rung) == ("42", 0)
    assert world.clock.monotonic() == pytest.approx(0.1)


CONVERSATION = [
    {"role": "user", "content": "Remember 7."},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Times 6?"},
]
SYSTEM = {"role": "system", "content": "Answer with a number."}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "hi"}, [{"role": "user", "content": "hi"}]),
        ({"prompt": "hi", "system": SYSTEM["content"]}, [SYSTEM, {"role": "user", "content": "hi"}]),
        ({"prompt": [{"role": "user", "content": "hi"}]}, [{"role": "user", "content": "hi"}]),
        ({"prompt": CONVERSATION}, CONVERSATION),
        ({"prompt": CONVERSATION, "system": SYSTEM["content"]}, [SYSTEM, *CONVERSATION]),
        ({"prompt": [SYSTEM, *CONVERSATION]}, [SYSTEM, *CONVERSATION]),
        (
            {"prompt": [{"content": "hi", "role": "user", "name": "ann"}]},
            [{"role": "user", "name": "ann", "content": "hi"}],
        ),
    ],
    ids=["text", "system", "one-message", "turns", "system-and-turns", "system-in-turns", "named"],
)
def test_a_request_is_found_by_model_system_text_and_messages(row: Any, messages: Sequence[Any]) -> None:
    """In whichever form the recording holds the conversation, and for that conversation only."""
    replay = Replay([{**ROW, **row}])
    assert isinstance(replay.send(_call(messages), None), Reply)
    others = [[*messages, {"role": "user", "content": "more"}], [{"role": "system", "content": "other"}, *messages[1:]]]
    others += [[{**messages[-1], "name": "ben"}], [*messages[:-1], {"role": "user", "content": [{"text": "hi"}]}]]
    for other in others:
        with pytest.raises(ReplayMiss):
            replay.send(_call(other), None)
    with pytest.raises(ReplayMiss):
        replay.send(_call(messages, "openai/large"), None)


def test_system_text_may_come_in_parts() -> None:
    """A conversation whose system message is no plain text is one that the recording lacks, and no crash."""
    parts = {"role": "system", "content": [{"type": "text", "text": "Answer with a number."}]}
    with pytest.raises(ReplayMiss):
        _ask(ROW, call=_call([parts, {"role": "user", "content": "6 times 7?"}]))


def test_a_miss_says_what_to_look_at(tmp_path: Path) -> None:
    """The message names the recording and the model, never the prompt."""
    path = _write(tmp_path / "r.jsonl", ROW)
    with pytest.raises(ReplayMiss) as caught:
        Replay.load(path).send(_call("a secret question"), None)
    error = caught.value
    assert str(error) == (
        f"{path}: holds no answer of 'openai/small' to this prompt; record that model on it, or check that the prompt "
        "is the recorded one to the last character; what a judge is asked about a draft is a prompt of its own"
    )
    assert (error.path, error.line, error.model) == (str(path), None, "openai/small")


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {**ROW, "system": "Answer in words."},
            "to the same prompt with another system text: make the task's `system:`",
        ),
        ({**ROW, "model": "openai/large"}, "it holds one of 'openai/large': record this model too, or name that one"),
    ],
    ids=["system", "model"],
)
def test_a_near_miss_is_told(row: dict[str, Any], hint: str) -> None:
    """Where only the system text or the model differs, that is said."""
    with pytest.raises(ReplayMiss, match=re.escape(hint)):
        _ask(row, call=_call(ROW["prompt"]))


def test_recorded_counts_bound_the_prompt() -> None:
    """A task's input limit is held against the recorded count where there is one, else against an estimate."""
    replay = Replay([{**ROW, "input_tokens": 117}])
    assert replay.count_tokens(_call()) == 117
    assert replay.count_tokens(_call("x" * 400)) == 100


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
def test_a_recording_is_plain_or_gzipped(name: str, tmp_path: Path) -> None:
    """Either way the rows come in order, and blank lines are passed over."""
    path = _write(tmp_path / name, ROW, "", {**ROW, "model": "large", "response": "é\ud800"}, "   ")
    assert [row["response"] for row in read_recording(path)] == ["42", "é\ud800"]
    assert isinstance(Replay.load(path).send(_call(), None), Reply)


def test_only_the_rows_that_are_needed_are_kept(tmp_path: Path) -> None:
    """`models` and `task` choose rows; a row that is not needed may lack what a replay needs."""
    rows = [{**ROW, "task": "sums"}, {**ROW, "task": "other", "response": None}, {"model": "labels-only", "correct": 1}]
    path = _write(tmp_path / "r.jsonl", *rows)
    kept = list(read_recording(path, models=["openai/small"], task="sums"))
    assert kept == [rows[0]]
    assert isinstance(Replay.load(path, task="sums").send(_call(), None), Reply)
    with pytest.raises(RecordingError, match=r"r\.jsonl:3: this line lacks 'prompt'"):
        Replay.load(path, models=["labels-only"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"model": "m", "pro', r"is no JSON \(JSONDecodeError\)"),
        ("\xff\xfe", r"is no JSON \(\w+\)"),
        ("[" * 100_000, r"is no JSON \(RecursionError\)"),
        ("[1]", "is no JSON object with a 'model'"),
        ('{"model": 7, "prompt": "p", "response": "r"}', "is no JSON object with a 'model'"),
        ('{"prompt": "p", "response": "r"}', "lacks 'model'"),
        ('{"model": "m", "response": "r"}', "lacks 'prompt'"),
        ('{"model": "m", "prompt": "p"}', "has neither 'response' nor 'error'"),
        ('{"model": "m", "prompt": "p", "response": null}', "has neither 'response' nor 'error'"),
        ('{"model": "m", "prompt": 7, "response": "r"}', "has a 'prompt' that is a int"),
        ('{"model": "m", "prompt": [{"content": "p"}], "response": "r"}', "has a 'prompt' that message 0 has no role"),
        ('{"model": "m", "prompt": "p", "response": {"text": "r"}}', "has a 'response' that cannot be used"),
        ('{"model": "m", "prompt": "p", "response": "r", "system": 1}', "has a 'system' that cannot be used"),
        ('{"model": "m", "prompt": "p", "response": "r", "cost_usd": "0.1"}', "has a 'cost_usd' that cannot be used"),
        ('{"model": "m", "prompt": "p", "response": "r", "cost_usd": NaN}', "has a 'cost_usd' that cannot be used"),
        ('{"model": "m", "prompt": "p", "response": "r", "cost_usd": -1}', "has a 'cost_usd' that cannot be used"),
        ('{"model": "m", "prompt": "p", "response": "r", "latency_s": 1e999}', "has a 'latency_s' that cannot be used"),
        ('{"model": "m", "prompt": "p", "response": "r", "input_tokens": true}', "has a 'input_tokens' that cannot"),
        ('{"model": "m", "prompt": "p", "response": "r", "logprob": -0.1}', "has a 'logprob' that cannot be used"),
        ('{"model": "m", "prompt": "p", "response": "r", "logprob": {"tok": [null]}}', "has a 'logprob' that cannot"),
        (
            '{"model": "m", "prompt": "p", "response": "r", "logprob": {"tok": [-1], "bytes": [1, 2]}}',
            "has a 'logprob' that cannot",
        ),
        (
            '{"model": "m", "prompt": "p", "response": "r", "logprob": {"tok": [-1], "margin": ["x"]}}',
            "has a 'logprob' that cannot",
        ),
        ('{"model": "m", "prompt": "p", "error": 500}', "has a 'error' that cannot be used"),
        ('{"model": "m", "prompt": "p", "error": {"status": "500"}}', "has a 'error' that cannot be used"),
    ],
    ids=lambda value: value[:60] if value.startswith(("{", "[1")) else "",
)
def test_a_broken_line_is_refused_by_file_and_line(line: str, problem: str, tmp_path: Path) -> None:
    """Found when the recording is read, not in the middle of a call; nothing is skipped and nothing guessed."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(RecordingError, match=rf"r\.jsonl:3: this line {problem}.*; mend or delete it$") as caught:
        Replay.load(path)
    assert (caught.value.path, caught.value.line) == (str(path), 3)


def _truncated(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def _garbled(content: bytes) -> bytes:
    return content[:10] + b"\xff" * 20 + content[30:]  # Right after the header.


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncated, "end-of-stream"),
        (_garbled, "invalid block type"),
        (lambda _: b"plain text", "Not a gzipped file"),
    ],
    ids=["truncated", "garbled", "plain"],
)
def test_a_damaged_archive_says_how_far_it_was_read(damage: Any, reason: str, tmp_path: Path) -> None:
    """A download that broke off is no shorter recording."""
    rows = [{**ROW, "prompt": f"{number} {math.sin(number)}"} for number in range(3000)]
    path = _write(tmp_path / "r.jsonl.gz", *rows)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordingError, match=rf"r\.jsonl\.gz: cannot be read( after line \d+)?: .*{reason}"):
        Replay.load(path)


@pytest.mark.parametrize("name", ["nothing.jsonl", "nothing.jsonl.gz", "."])
def test_a_recording_that_is_not_there_is_an_error_of_ours(name: str, tmp_path: Path) -> None:
    """The message names the path and the system's reason."""
    with pytest.raises(RecordingError, match=r"cannot be read: (No such file|Is a directory)"):
        Replay.load(tmp_path / name)


def test_threads_share_the_duplicates_fairly() -> None:
    """However many ask at once, each duplicate but the last is given once."""
    replay = Replay({**ROW, "response": str(number)} for number in range(100))
    with ThreadPoolExecutor(8) as pool:
        outcomes = pool.map(lambda _: replay.send(_call(), None), range(150))
        texts = Counter(outcome.text for outcome in outcomes if isinstance(outcome, Reply))
    assert texts == {**{str(number): 1 for number in range(99)}, "99": 51}


@pytest.mark.skipif(not (DATA / "mz_mmlu").is_dir(), reason=f"the recorded answers are not in {DATA}")
def test_recorded_answers_of_real_models_cost_what_was_recorded(home: Path) -> None:
    """Fifty real prompts through the whole library: each call costs the recorded cost of the models it asked."""
    cheap, dear = "gpt-4o-mini", "gpt-4o"
    path = DATA / "mz_mmlu" / "records.jsonl.gz"
    by_model: dict[str, dict[str, Any]] = {cheap: {}, dear: {}}
    for row in read_recording(path, models=by_model):
        by_model[row["model"]].setdefault(row["prompt"], row)
    shared = list(islice((prompt for prompt in by_model[cheap] if prompt in by_model[dear]), 50))
    system = by_model[cheap][shared[0]]["system"]
    task = Task(ladder=("cheap", "dear"), system=system, answer=AnswerKind(choice=("A", "B", "C", "D")))
    models = {"cheap": Model(litellm=cheap), "dear": Model(litellm=dear)}
    policy = Policy(version=1, models=models, tasks={"mmlu": task})
    with Router(policy, backend=Replay.load(path, models=by_model)) as router:
        answers = {prompt: router.route("mmlu", prompt) for prompt in shared}
    rungs = Counter(answer.rung for answer in answers.values())
    assert len(answers) == 50
    assert rungs[0] > rungs[1] > 0
    for prompt, answer in answers.items():
        asked = [by_model[model][prompt] for model in (cheap, dear)[: answer.rung + 1]]
        assert answer.cost_usd == pytest.approx(sum(row["cost_usd"] for row in asked), rel=1e-9)
        assert answer.text == asked[-1]["response"]
        assert [attempt.amount.source for attempt in answer.attempts] == ["provider"] * len(asked)
        assert answer.attempts[0].latency_ms == pytest.approx(asked[0]["latency_s"] * 1000)
