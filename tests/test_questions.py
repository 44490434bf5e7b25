"""Questions about a panel's first draft, from eval to call: asked, charged, calibrated, and never deciding alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from evals.judge_attacks import drafts
from router import Router
from router.audit.costs import cost_lines
from router.audit.query import Filters
from router.audit.reading import reading
from router.core.answer import Answer
from router.core.call import Call, Failure, Reply
from router.core.faults import Fault
from router.core.judge import MOST_OUTPUT_TOKENS
from router.core.plan import UNTUNED
from router.models import Facts
from router.models.replay import Replay
from router.testing import ScriptedModels
from router.tuning import Candidate, Eval, EvalRow, TaskTuning, backtest, load_run, tune, tune_task
from router.tuning.report import page, report_of
from router.tuning.simulate import simulate
from router.tuning.words import rungs_words

LABELS = ["red", "green", "blue"]
USD = {"one": 0.0001, "two": 0.0001, "mid": 0.0005, "large": 0.01}
ROWS = [EvalRow(f"Which colour has item {at}?", LABELS[at % 3], {}, "") for at in range(500)]
PANEL = ["one", {"judge": "mid"}]
RIGHT, WRONG = '{"reason": "it is", "draft_grade": 1}', '{"reason": "it is not", "draft_grade": 0}'


def label_of(prompt: str) -> str:
    """The right answer."""
    return LABELS[int(prompt.split("item ")[1].split("?")[0]) % 3]


def said(call: Call) -> str:
    """What a model says: the large one is nearly always right, the small one in three of four calls."""
    prompt = str(call.messages[-1]["content"])
    dice = Random(f"{call.name} {prompt}")
    label = label_of(prompt)
    right = dice.random() < (0.97 if call.name == "large" else 0.75)
    return label if right else dice.choice([one for one in LABELS if one != label])


def judges(call: Call) -> str:
    """A judge that is right about 85 of 100 drafts."""
    text = str(call.messages[-1]["content"])
    draft = text.partition("<<<draft ")[2].partition(">>>\n")[2].partition("\n<<<end")[0]
    right = draft == label_of(text.partition("<<<request ")[2])
    return RIGHT if right == (Random(text).random() < 0.85) else WRONG


def models(**other: Any) -> ScriptedModels:
    """The models of these tests."""
    return ScriptedModels({"one": said, "two": said, "mid": judges, "large": said, **other})


def folder(path: Path, panel: list[Any], **task: Any) -> Path:
    """Policies with this panel below one large model."""
    path.mkdir(parents=True, exist_ok=True)
    free = {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}
    data = {
        "version": 1,
        "models": {name: {"litellm": f"x/{name}", "price": {**free, "request_usd": usd}} for name, usd in USD.items()},
        "tasks": {
            "t": {
                "ladder": [{"panel": panel}, "large"],
                "answer": {"text": {}},
                "target": {"max_quality_loss": 0.05, "at_confidence": 0.9},
                **task,
            }
        },
    }
    (path / "p.yml").write_text(json.dumps(data), encoding="utf-8")
    return path


def evaluated(home: Path, panel: list[Any], backend: ScriptedModels, rows: list[EvalRow] = ROWS, **task: Any) -> Path:
    """Policies with a whole run beside them."""
    policies = folder(home / "policies", panel, **task)
    Eval("t", rows, home / "run.jsonl", policies=policies, home=home / "home", backend=backend, grader="exact").run()
    return policies


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskTuning]:
    """One small model and a judge, evaluated, tuned and written."""
    home = tmp_path_factory.mktemp("judged")
    policies = evaluated(home, PANEL, models())
    found = tune_task("t", home / "run.jsonl", policies=policies)
    assert found.certificate is not None, found.tuning.refusal
    found.write()
    return policies, found


def routed(policies: Path, home: Path, backend: Any, prompt: Any = ROWS[0].prompt, **options: Any) -> Answer:
    """The answer of one call under the tuned plan."""
    with Router(policies, home=home, backend=backend) as router:
        assert router.plan("t").standing.force == "tuned"
        answer: Answer = router.route("t", prompt, **options)
        return answer


def keeping(policies: Path, home: Path, more: str = "") -> Path:
    """The same policies, which keep the plan where its certificate does not cover a call, and a second file of them."""
    kept = folder(home / "policies", PANEL, on_stale="keep")
    (kept / "more.yml").write_text(f"version: 1\n{more}", encoding="utf-8")
    (kept / "tuned").mkdir()
    (kept / "tuned" / "t.json").write_bytes((policies / "tuned" / "t.json").read_bytes())
    return kept


def actions(answer: Answer) -> list[tuple[str, str]]:
    """What happened at each place."""
    return [(step.model, step.action) for step in answer.steps]


# From eval to plan


def test_a_judge_pays_where_drafts_say_nothing(tuned: tuple[Path, TaskTuning]) -> None:
    """A judge that is right in 85 of 100 cases takes the bill from 85 % of always the large model to 56 %."""
    found = tuned[1]
    assert [rung.keys for rung in found.plan.rungs] == [("one", "judge:mid"), ("large",)]
    certificate = found.certificate
    assert certificate is not None
    assert certificate.statements["all"].cost < 0.6
    assert set(certificate.binds_to["questions"]) == {"judge"}
    assert certificate.binds_to["panels"] == [["one", "judge:mid"]]
    assert found.artefact is not None
    assert set(found.artefact.served) == {"one", "mid", "large"}
    assert rungs_words(found.plan.rungs).startswith("ask one, then mid to judge its draft; keep its draft ")
    without = tune(replace(found.run, panels=(), questions={}), target=0.05, at_confidence=0.9)
    assert without.certificate is None or without.certificate.statements["all"].cost > 0.75


def test_calls_do_what_the_tuned_panel_says(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """Model, cost and escalation of every row; the judge's request is paid for and on its own line."""
    policies, _ = tuned
    run = load_run(policies.parent / "run.jsonl", "t", policies=policies)
    with Router(policies, home=tmp_path, backend=models()) as router:
        expected = simulate(router.plan("t"), run)
        by_id = {row.row_id: router.route("t", row.prompt) for row in ROWS[:60]}
    climbed = 0
    for at, row_id in enumerate(run.row_ids.tolist()):
        if row_id in by_id:
            answer = by_id[row_id]
            climbed += answer.escalated
            assert answer.model == run.models[expected.model[at]]
            assert answer.cost_nusd == round(expected.cost_nusd[at])
            assert answer.escalated == expected.escalated[at]
            assert answer.steps[1].reason.startswith(("judge 1.000; ", "judge 0.000; "))
    assert 0 < climbed < 60
    with reading(tmp_path) as (database, _):
        assert database is not None
        lines = {line.line: line.requests for line in cost_lines(database, Filters())}
    assert lines == {"first": 60, "judge": 60, "escalation": climbed}


def test_an_eval_asks_each_question_once(tmp_path: Path) -> None:
    """Right after the draft, a row of its own, within the limit; a run that was stopped goes on where it was."""
    policies = folder(tmp_path / "policies", ["one", {"judge": "mid"}, {"p_true": "one"}])
    backend = models(one=lambda call: "yes" if "yes or no" in str(call.messages) else said(call))
    options: dict[str, Any] = {"policies": policies, "home": tmp_path, "backend": backend, "grader": "exact"}
    first = Eval("t", ROWS[:40], tmp_path / "run.jsonl", **options)
    assert first.estimate().requests == 160
    assert first.models == ["one", "large"]
    limited = Eval("t", ROWS[:40], tmp_path / "run.jsonl", max_usd=0.1, **options).run()
    assert limited.stopped
    assert 0 < limited.left < 160
    assert Eval("t", ROWS[:40], tmp_path / "run.jsonl", **options).estimate().requests == limited.left
    done = Eval("t", ROWS[:40], tmp_path / "run.jsonl", **options).run()
    assert (done.left, done.kept + done.asked) == (0, 160)
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert Counter(row["name"] for row in rows) == {"one": 40, "large": 40, "judge:mid": 40, "p_true:one": 40}
    assert {row.get("about") for row in rows if ":" in row["name"]} == {"one"}
    assert Eval("t", ROWS[:40], tmp_path / "run.jsonl", **options).estimate().requests == 0
    run = load_run(tmp_path / "run.jsonl", "t", policies=policies)
    assert run.models == ("one", "large")
    assert set(run.questions) == {"judge:mid", "p_true:one"}
    assert run.questions["p_true:one"].value.tolist() == [1.0] * 40
    asked = Counter(call.name for call in backend.history)
    replayed = Eval("t", ROWS[:40], tmp_path / "again.jsonl", **{**options, "backend": Replay(rows)}).run()
    assert (replayed.left, asked["mid"]) == (0, 40)


def test_rows_without_their_question_do_not_count(tmp_path: Path) -> None:
    """Until the eval has asked them; a draft that nobody need be asked about is whole."""
    policies = evaluated(tmp_path, PANEL, models(one=lambda call: "Solution:"), ROWS[:30])
    run = load_run(tmp_path / "run.jsonl", "t", policies=policies)
    asked = run.questions["judge:mid"]
    assert (asked.value.tolist(), asked.cost_nusd.tolist(), bool(asked.answered.all())) == (
        [0.0] * 30,
        [0.0] * 30,
        True,
    )
    evaluated(tmp_path / "other", PANEL, models(), ROWS[:30])
    path = tmp_path / "other" / "run.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if "judge:mid" in line)
    path.write_text("".join(lines[:first] + lines[first + 1 :]))
    assert load_run(path, "t", policies=policies).rows == 29


def test_a_backtest_plays_what_was_said_about_drafts(tuned: tuple[Path, TaskTuning]) -> None:
    """A question's row belongs to the call of the draft that it is about."""
    found = backtest("t", tuned[0].parent / "run.jsonl", Candidate(top=True), policies=tuned[0])
    assert (found.calls, found.left_out) == (500, ())


def test_the_report_shows_a_question_as_part_of_the_panel(tuned: tuple[Path, TaskTuning]) -> None:
    """Confidence of the draft alone and with the verdict, and the verdict's price as the price of checking."""
    report = report_of(tuned[1])
    assert [drafts.model for drafts in report.drafts] == ["one", "one + judge:mid"]
    assert report.drafts[1].quality is not None
    assert report.drafts[1].quality.auroc.value > 0.7
    parts = {(part.model, part.what) for part in report.spend.parts}
    assert ("judge:mid", "checks") in parts
    assert "judge:mid" in page(tuned[1], report)


# What goes wrong


FAULTS: Mapping[str, Any] = {
    "gone": Failure(Fault.NOT_FOUND),
    "refused": Failure(Fault.BAD_REQUEST),
    "filtered": Failure(Fault.CONTENT_FILTER),
}


@pytest.mark.filterwarnings("ignore:model 'mid'")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_question_that_fails_never_fails_the_call(tuned: tuple[Path, TaskTuning], tmp_path: Path, fault: str) -> None:
    """The panel goes on without it: the draft alone was not enough, so the call climbs."""
    answer = routed(tuned[0], tmp_path, models(mid=FAULTS[fault]))
    assert actions(answer) == [("one", "next"), ("mid", "fail"), ("large", "accept")]
    assert answer.model == "large"


def test_nonsense_leaves_the_signal_out(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """It is paid for, and says neither yes nor no."""
    answer = routed(tuned[0], tmp_path, models(mid="It is right: 1!"))
    assert actions(answer) == [("one", "next"), ("mid", "escalate"), ("large", "accept")]
    assert "judge" not in answer.steps[1].signals
    assert answer.steps[1].reason.startswith("no judge; ")
    assert [attempt.model for attempt in answer.attempts] == ["one", "mid", "large"]


def test_a_limit_without_room_for_the_question_does_without(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """The call does not end there; it ends where a rung has no room, with the draft that it holds."""
    answer = routed(tuned[0], tmp_path, models(), max_cost_usd=0.0004)
    assert actions(answer) == [("one", "next"), ("mid", "skip"), ("large", "skip"), ("one", "keep")]
    assert answer.steps[1].reason == "the cost limit leaves no room for it"


def test_a_budget_without_room_for_the_question_does_without(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """The first call spends what a second question would need; every request of both is held to the budget."""
    budgets = "budgets: {at_limit: first_rung, task: {default: {usd_per_day: 0.0008}}}"
    policies = keeping(tuned[0], tmp_path, budgets)
    with Router(policies, home=tmp_path, backend=models(mid=WRONG)) as router:
        first, second = (router.route("t", ROWS[0].prompt) for _ in range(2))
    assert actions(first) == [("one", "next"), ("mid", "escalate"), ("large", "skip"), ("one", "keep")]
    assert actions(second) == [("one", "next"), ("mid", "skip"), ("large", "skip"), ("one", "keep")]
    assert second.steps[1].reason == "a budget has no room for it"


def test_p_true_is_the_chance_of_the_word(tmp_path: Path) -> None:
    """Where log-probabilities tell it, and the model that has them is asked for them."""
    policies = folder(tmp_path / "policies", ["one", {"p_true": "one"}])
    reply = Reply("yes", None, logprobs=(math.log(0.7),))
    backend = models(one=lambda call: reply if "yes or no" in str(call.messages) else said(call))
    backend._facts = {"x/one": Facts(capabilities=frozenset({"logprobs"}))}
    options: dict[str, Any] = {"policies": policies, "home": tmp_path, "backend": backend, "grader": "exact"}
    Eval("t", ROWS[:6], tmp_path / "run.jsonl", **options).run()
    run = load_run(tmp_path / "run.jsonl", "t", policies=policies)
    assert run.questions["p_true:one"].value == pytest.approx(0.7)
    assert [call.params for call in backend.history if "yes or no" in str(call.messages)] == [{"logprobs": True}] * 6


def test_a_prompt_with_an_image_is_not_asked_about(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """A question reads text only."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
    prompt: Any = [{"role": "user", "content": [{"type": "text", "text": ROWS[0].prompt}, image]}]
    backend = models(one="red", large="red")
    answer = routed(keeping(tuned[0], tmp_path), tmp_path, backend, prompt)
    assert actions(answer) == [("one", "next"), ("mid", "skip"), ("large", "accept")]
    assert answer.steps[1].reason == "it reads text only"


def test_a_judge_with_structured_output_is_asked_for_it(tuned: tuple[Path, TaskTuning], tmp_path: Path) -> None:
    """The caller's own parameters and limits are not its; the messages are the same either way."""
    backend = models()
    backend._facts = {"x/mid": Facts(capabilities=frozenset({"json_schema"}))}
    routed(keeping(tuned[0], tmp_path), tmp_path, backend, params={"temperature": 0.5, "max_tokens": 3})
    call = next(call for call in backend.history if call.name == "mid")
    assert set(call.params) == {"response_format"}
    assert call.max_output_tokens == MOST_OUTPUT_TOKENS


def test_a_plan_above_the_questions_never_asks_them(tmp_path: Path) -> None:
    """Without a plan in force the place says why it is passed over."""
    policies = folder(tmp_path / "policies", PANEL)
    with Router(policies, home=tmp_path, backend=models()) as router:
        assert [rung.skip for rung in router.plan("t").rungs] == ["", UNTUNED, ""]
    with Router(policies, home=tmp_path, backend=models(mid=Failure(Fault.BAD_REQUEST))) as router:
        assert [attempt.model for attempt in router.route("t", ROWS[0].prompt).attempts] == ["one"]


# Attacks


def test_a_judge_that_always_says_1_changes_nothing(tmp_path: Path) -> None:
    """Its signal carries no information: nothing is certified that was not without it."""
    choice = {"choice": LABELS}
    policies = evaluated(tmp_path, ["one", {"judge": "mid"}, "two"], models(mid=RIGHT), answer=choice)
    run = load_run(tmp_path / "run.jsonl", "t", policies=policies)
    assert run.questions["judge:mid"].value.tolist() == [1.0] * 500
    unasked = replace(run, panels=(("one", "two"),), questions={})
    found, without = (tune(one, target=0.05, at_confidence=0.9) for one in (run, unasked))
    assert found.plan == without.plan
    assert [rung.keys for rung in found.plan.rungs] == [("one", "two"), ("large",)]


def test_hardly_an_attack_is_kept_through_a_judge_that_falls_for_it(
    tuned: tuple[Path, TaskTuning], tmp_path: Path
) -> None:
    """Of 1,000 attacks a tuned panel keeps at most 1 % by a verdict, although the judge says 1 to whatever it sees."""
    attacks = [one for one in drafts(1000, 4) if not one.family.startswith(("honest", "unseen"))][:1000]
    assert len(attacks) == 1000
    texts = iter([one.text for one in attacks])
    backend = models(one=lambda call: next(texts), mid=RIGHT, large="41")
    with Router(tuned[0], home=tmp_path, backend=backend) as router:
        steps = [router.route("t", one.prompt).steps for one in attacks]
    told = [step.action for call in steps for step in call if step.model == "mid"]
    assert len(told) > 400
    assert told.count("accept") <= 10
    assert Counter(call.name for call in backend.history)["mid"] <= 10
