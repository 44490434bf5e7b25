"""`router eval`, `router tune` and `router tune --check` from the shell, and the library functions behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import TypeAdapter

from router import Policy, Router, load_policy
from router.core.checks import build_check
from router.core.policy import AnswerKind
from router.errors import PolicyError, TuningError
from router.models.replay import Replay
from router.testing import ScriptedModels, SimulatedWorld
from router.tuning import EvalRow, check_tuned, load_run, read_labels, read_rows, tune_task
from router.tuning.looks import looks_path
from router.tuning.words import certificate_words, plan_words
from tests.support import Cli
from tests.support import make_policy as upstream_policy
from tests.tuning_support import Row, make_policy, policy_data, recorded, write_policy, write_rows
from tests.upstream import Upstream

ROWS = recorded(900)
LABELLED = [
    {"prompt": row["prompt"], "label": row["reference"], **row["meta"]} for row in ROWS if row["model"] == "x/small"
]


@pytest.fixture
def shop(cli: Cli) -> Cli:
    """A folder with policies, labelled rows and a recording that answers them."""
    write_policy(Path("policies"))
    write_rows(Path("rows.jsonl"), LABELLED)
    write_rows(Path("recording.jsonl"), ROWS)
    return cli


@pytest.fixture
def run(shop: Cli) -> Cli:
    """The same with the task's eval run where it is looked for."""
    write_rows(Path("runs/colours.jsonl"), ROWS)
    return shop


def test_the_whole_way_from_labels_to_a_cheaper_plan(shop: Cli) -> None:
    """Eval, tune, write, check, and calls that follow the plan: five commands and no other file."""
    asked = shop("eval", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl")
    assert (asked.code, asked.err) == (0, "")
    assert asked.out.startswith("1,800 answers asked, 0 kept from before, 0 failed; the run cost $0.")
    assert asked.out.endswith("next: router tune colours\n")

    tuned = shop("tune", "colours", "--write")
    assert (tuned.code, tuned.err) == (0, "")
    assert "wrote policies/tuned/colours.json" in tuned.out
    assert shop("tune", "--check").out.endswith("colours: meets its target\n")
    checked = shop("check")  # Of its findings only the made-up provider `x/` is left.
    assert checked.out.count("finding:") == checked.out.count("nobody knows whom to ask")
    assert "in force for colours: the tuned plan, not the policy's threshold" in checked.out

    with Router(backend=Replay.load("runs/colours.jsonl")) as router:
        answers = [router.route("colours", row["prompt"]) for row in LABELLED]
    spent = sum(answer.cost_nusd or 0 for answer in answers)
    top = sum(row["cost_usd"] * 1e9 for row in ROWS if row["model"] == "x/large")
    realised = check_tuned("colours")[0].realised
    assert realised is not None
    assert spent / top == pytest.approx(realised.cost)
    assert spent < 0.6 * top


def test_the_next_command_is_one_that_works(shop: Cli) -> None:
    """It names the run and the policies where those were named."""
    Path("policies").rename("my policies")
    here = ("--run", "runs/few.jsonl", "--policies", "my policies")
    asked = shop("eval", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl", *here)
    assert asked.out.endswith("next: router tune colours --run runs/few.jsonl --policies 'my policies'\n")
    assert shop("tune", "colours", *here).code == 0


def test_tune_shows_old_and_new_plan_and_the_certificate(run: Cli) -> None:
    """In words that need no statistics, with intervals; nothing is written unasked."""
    done = run("tune", "colours")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("colours: 900 rows; the figures are of the ")
    assert [line.split("  ")[0] for line in lines[3:9]] == [
        "always small",
        "always large",
        "random",
        "oracle",
        "in force: the policy",
        "found",
    ]
    assert lines[9].startswith("found instead of in force: cost ")
    assert "test split" not in done.out
    assert "ask small; keep its draft " in done.out
    assert (
        "With 90% confidence calls like these rows lose at most 4 points of quality against always asking large"
        in done.out
    )
    assert "Look 1 at these rows; " in done.out
    assert "  2 points: " in done.out
    assert "  1 points: " in done.out
    assert " ".join(done.out.split()).endswith(
        "nothing was written but the look, in runs/looks.json; --write puts the plan into tuned/colours.json"
    )
    assert not Path("policies/tuned").exists()


def test_tune_says_the_same_to_programs(run: Cli) -> None:
    """One JSON document with plan, certificate and both sides of the comparison."""
    found = run("tune", "colours", "--json", "--write").json
    library = tune_task("colours")
    assert found["certified"] is True
    assert found["plan"]["rungs"][0]["threshold"] == library.plan.rungs[0].threshold
    assert found["certificate"]["expires"] == library.certificate.expires if library.certificate else False
    assert (found["found"]["cost"], found["found"]["loss"]) == (library.new.cost, library.new.loss)
    assert found["in_force"]["force"] == "policy"
    assert library.in_force.standing.force == "tuned"  # Written by the command above.
    assert library.old.cost == library.new.cost
    assert found["written"] == "policies/tuned/colours.json"


def test_a_missing_key_is_told_before_the_question_about_money(shop: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a yes: which variable, for which model, and that nothing was asked."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data = policy_data()
    data["models"]["large"]["litellm"] = "openai/gpt-4o"
    Path("policies/policies.yml").unlink(missing_ok=True)
    for path in Path("policies").glob("*.y*ml"):
        path.unlink()
    Path("policies/all.yml").write_text(json.dumps(data))
    done = shop("eval", "colours", "--data", "rows.jsonl", "--yes")
    assert (done.code, done.out) == (2, "")
    assert "OPENAI_API_KEY" in done.err
    assert "for large" in done.err
    assert "nothing was asked" in done.err
    assert "about $" not in done.err


def test_a_run_that_is_not_there_names_the_command_that_makes_it(shop: Cli) -> None:
    """Not only that a file cannot be read."""
    done = shop("tune", "colours")
    assert done.code == 2
    assert "there is no eval run; make one with `router eval colours --data FILE`" in done.err


@pytest.mark.parametrize("target", [0, 1])
def test_check_tells_what_no_tuning_could_meet(shop: Cli, target: int) -> None:
    """A target of 0 or 1, before an eval is paid for."""
    write_policy(Path("policies"), target={"max_quality_loss": target, "at_confidence": 0.9})
    assert f"finding: task 'colours': `max_quality_loss: {target}` cannot be tuned for" in shop("check").out


def test_check_tells_of_labels_that_the_system_text_does_not_name(shop: Cli) -> None:
    """As after a change of `choice:` alone; a system text that names them all, in any case, is fine."""
    write_policy(Path("policies"), system="Answer Red or yellow.")
    assert "note: task 'colours': the system text does not name 'green', 'blue'" in shop("check").out
    write_policy(Path("policies"), system="Answer Red, Green or Blue.")
    assert "does not name" not in shop("check").out


@pytest.mark.parametrize("head", ["prompt,label", "text,label", " prompt , label ", "text ,label"])
def test_eval_and_distill_read_the_same_files(shop: Cli, head: str) -> None:
    """`prompt` or `text`, with or without spaces around the names."""
    path = Path("rows.csv")
    path.write_text(head + "\nwhat is it,red\nand that,blue\n")
    assert [(row.prompt, row.label) for row in read_rows(path)] == [("what is it", "red"), ("and that", "blue")]
    check = build_check(AnswerKind(choice=("red", "blue")))
    assert [(one.text, one.label) for one in read_labels(path, check=check)] == [
        ("what is it", "red"),
        ("and that", "blue"),
    ]


def test_a_plan_in_force_is_compared_with_the_one_found(run: Cli) -> None:
    """On the same rows, so that the difference has an interval of its own; nothing differs where both are the same."""
    run("tune", "colours", "--write")
    found = run("tune", "colours", "--json").json
    choices = {one["name"]: one for one in found["choices"]}
    assert choices["in force"]["cost"] == pytest.approx(choices["plan"]["cost"])
    assert choices["plan"]["loss"] == pytest.approx(found["found"]["loss"])
    assert found["change"] == {"cost": 0.0, "cost_interval": [0.0, 0.0], "loss": 0.0, "loss_interval": [0.0, 0.0]}
    assert found["test"] is None


def test_a_test_split_has_no_part_in_anything(run: Cli) -> None:
    """Its rows are the same for every seed, neither choose nor certify, and are reported on."""
    library = tune_task("colours", test_share=0.25)
    assert library.certificate is not None
    assert library.test is not None
    certificate, apart = library.certificate, library.test.rows
    assert apart == 225
    assert certificate.train_rows + certificate.statements["all"].rows + apart == 900
    other = tune_task("colours", test_share=0.25, seed=1).test
    assert other is not None
    assert other.new.top_cost_nusd.tolist() == library.test.new.top_cost_nusd.tolist()
    done = run("tune", "colours", "--test-share", "0.25")
    assert "test split: 225 rows that had no part in choosing or certifying" in done.out
    assert done.out.count("found instead of in force: ") == 2
    assert run("tune", "colours", "--test-share", "0.9").code == 2


def test_with_clusters_every_loss_is_the_mean_of_clusters(run: Cli) -> None:
    """Table, certificate and check speak of the same thing, and say so."""
    write_policy(Path("policies"), cluster="customer", target={"max_quality_loss": 0.1, "at_confidence": 0.9})
    library = tune_task("colours", method="split")
    assert library.certificate is not None
    shown, said = library.shown, library.certificate.statements["all"]
    assert shown.new.clusters == said.clusters
    assert shown.new.loss == pytest.approx(said.loss)
    assert shown.new.cost_interval == pytest.approx(said.cost_interval, rel=1e-2)
    assert next(one.loss for one in shown.choices if one.name == "plan") == pytest.approx(said.loss)
    done = run("tune", "colours", "--write")
    assert f"points lost are those of the mean of {said.clusters:,} clusters" in done.out
    assert "points (the mean of 300 clusters) and costs" in run("tune", "--check").out


def test_what_cannot_be_certified_is_exit_code_4(run: Cli) -> None:
    """With the rows that would do, and nothing written although it was asked for."""
    done = run("tune", "colours", "--max-loss", "0.002", "--write")
    assert done.code == 4
    assert "not certifiable: " in done.out + done.err
    assert "rows" in done.out + done.err
    assert "nothing was written" in done.out + done.err
    assert not Path("policies/tuned").exists()


FEW = ROWS[:24]
ALL_RIGHT = [{**row, "correct": 1} for row in ROWS]
REFUSED: dict[str, tuple[list[dict[str, Any]], list[str], int, str]] = {
    "12_rows": (
        FEW,
        [],
        4,
        "12 labelled rows cannot show a loss of at most 4 points at 0.95 confidence (0.9 asked; a first look leaves",
    ),
    "one_class": (ALL_RIGHT, [], 4, "is 1 for every model in all 900 rows, so nothing can be told from it"),
    "no_price": (
        [{name: row[name] for name in row if name != "cost_usd"} for row in ROWS],
        [],
        4,
        "'small' has no known cost in 900 of 900 rows; give the model a `price:`",
    ),
    "models": (
        [{**row, "model": "y"} for row in ROWS],
        [],
        4,
        "holds no answer of 'small', 'large'; it has answers of y",
    ),
    "no_label": ([{**row, "correct": None, "reference": None} for row in ROWS], [], 2, "has neither a mark"),
    "target_1": (ROWS, ["--max-loss", "1.0"], 2, "1.0 is not between 0 and 1"),
    "method": (ROWS, ["--method", "magic"], 2, "'magic' is neither split nor crossfit"),
    "seed": (ROWS, ["--seed", "-1"], 2, "--seed"),
    "too_sure": (ROWS, ["--confidence", "0.9999999999999999"], 2, "--confidence"),
    "valid_days": (ROWS, ["--valid-days", "99999999"], 2, "--valid-days"),
    "grader": (ROWS, ["--grader", "magic"], 2, "unknown grader 'magic'"),
}


@pytest.mark.parametrize(("rows", "options", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_runs_are_refused(shop: Cli, rows: Any, options: list[str], code: int, says: str) -> None:
    """A clear message, no traceback, nothing written and no look spent."""
    path = write_rows(Path("runs/colours.jsonl"), rows)
    done = shop("tune", "colours", "--write", *options)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert not Path("policies/tuned").exists()
    assert not looks_path(path).exists()


def test_without_a_run_the_message_says_where_it_was_looked_for(shop: Cli) -> None:
    """And that is a wrong call, not a verdict on the data."""
    done = shop("tune", "colours")
    assert (done.code, done.out) == (2, "")
    assert "runs/colours.jsonl: there is no eval run; make one with `router eval colours" in done.err


def test_without_a_target_nothing_can_be_tuned(shop: Cli) -> None:
    """The message shows how to give one; on the command line it overrides the policy."""
    write_policy(Path("policies"), target=None)
    write_rows(Path("runs/colours.jsonl"), ROWS)
    done = shop("tune", "colours")
    assert done.code == 2
    assert "tasks.colours: task 'colours' has no target; add `target: {max_quality_loss: 0.02}`" in done.err
    assert shop("tune", "colours", "--max-loss", "0.05", "--confidence", "0.8").code == 0
    assert shop("tune").code == 2


def test_looks_are_counted(run: Cli) -> None:
    """The same question is the same look; another one is the next, with half of what is left; `--only-look` ends it."""
    assert run("tune", "colours", "--json").json["look"] == 1
    assert run("tune", "colours", "--json").json["look"] == 1
    second = run("tune", "colours", "--json", "--max-loss", "0.06").json
    assert second["look"] == 2
    assert sum(one["share"] for one in second["certificate"]["statements"].values()) <= 0.1 / 4
    refused = run("tune", "colours", "--only-look", "--max-loss", "0.07")
    assert refused.code == 4
    assert "these rows, or some of them, were looked at 2 times already" in refused.err


def test_a_copy_of_a_run_is_no_fresh_one(run: Cli) -> None:
    """Looks go by what the rows say, not by the name of their file."""
    assert run("tune", "colours", "--json").json["look"] == 1
    copy = write_rows(Path("runs/copy.jsonl"), ROWS)
    assert run("tune", "colours", "--json", "--run", str(copy), "--max-loss", "0.06").json["look"] == 2
    assert run("tune", "colours", "--json", "--run", str(copy)).json["look"] == 1


def test_rows_of_an_earlier_look_are_not_fresh_among_others(run: Cli) -> None:
    """Neither with more rows beside them nor labelled anew; rows that share nothing with them are."""
    assert run("tune", "colours", "--json").json["look"] == 1
    more = write_rows(Path("runs/more.jsonl"), [*ROWS, *other_rows("These", 20)])
    assert run("tune", "colours", "--json", "--run", str(more)).json["look"] == 2
    anew = [{**row, "correct": 0} if row["prompt_id"] == "p1" else row for row in ROWS]
    assert run("tune", "colours", "--json", "--run", str(write_rows(Path("runs/anew.jsonl"), anew))).json["look"] == 3
    fresh = write_rows(Path("runs/fresh.jsonl"), other_rows("Those", 900))
    assert run("tune", "colours", "--json", "--run", str(fresh)).json["look"] == 1
    assert run("tune", "colours", "--json", "--run", str(more)).json["look"] == 2
    spent = run("tune", "colours", "--only-look", "--run", str(more))
    assert (spent.code, spent.out) == (4, "")
    assert "these rows, or some of them, were looked at 3 times already" in spent.err


def other_rows(which: str, count: int) -> list[Row]:
    """Rows about other items."""
    rows = recorded(count, seed=1)
    return [{**row, "prompt": f"{which}: {row['prompt']}", "prompt_id": f"{which} {row['prompt_id']}"} for row in rows]


def test_the_only_look_has_the_whole_budget_and_is_the_last(run: Cli) -> None:
    """Asked again it gives the same; another question is refused."""
    first = run("tune", "colours", "--json", "--only-look").json
    assert first["look"] is None
    assert first["certificate"]["open_ended"] is False
    assert run("tune", "colours", "--json", "--only-look").json == first
    refused = run("tune", "colours", "--max-loss", "0.06")
    assert refused.code == 4
    assert "was spent on an earlier look; tune on fresh rows alone" in refused.err


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_a_broken_file_of_looks_is_told(run: Cli, content: str) -> None:
    """It is the memory of what was seen: it is not passed over."""
    looks_path(Path("runs/colours.jsonl")).write_text(content)
    done = run("tune", "colours")
    assert done.code == 2
    assert "runs/looks.json: " in done.err


def tuned_shop(cli: Cli, *options: str) -> None:
    """Tune and write."""
    assert cli("tune", "colours", "--write", *options).code == 0


def test_check_passes_while_the_target_is_met(run: Cli) -> None:
    """Exit code 0, with the figures."""
    tuned_shop(run)
    done = run("tune", "--check")
    assert done.code == 0
    found = run("tune", "--check", "--json").json
    assert [(one["task"], one["force"], one["findings"]) for one in found] == [("colours", "tuned", [])]
    assert 0 < found[0]["cost"] < 1


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "stricter_target": ({"target": {"max_quality_loss": 0.001}}, "the plan is certified for 0.04 only"),
    "surer": ({"target": {"max_quality_loss": 0.04, "at_confidence": 0.99}}, "the certificate has 90%"),
    "never_worse": (
        {"target": {"max_quality_loss": 0.04, "at_confidence": 0.9, "never_worse": True}},
        "gives credit for better answers",
    ),
    "stale": ({"max_output_tokens": 9}, "the tuned plan is stale: max_output_tokens was None, is now 9"),
    "refusing": ({"max_output_tokens": 9, "on_stale": "refuse"}, "`on_stale: refuse` stops calls until then"),
}


@pytest.mark.parametrize(("task", "says"), CHANGES.values(), ids=CHANGES.keys())
def test_check_fails_when_the_policy_left_its_certificate(run: Cli, task: dict[str, Any], says: str) -> None:
    """Exit code 1: a CI that runs it stops the change."""
    tuned_shop(run)
    write_policy(Path("policies"), **task)
    done = run("tune", "--check")
    assert done.code == 1
    assert says in done.out


def test_check_fails_when_the_run_no_longer_carries_the_plan(run: Cli) -> None:
    """Rows that changed, a run that is gone, or labels that now say otherwise."""
    tuned_shop(run)
    path = Path("runs/colours.jsonl")
    write_rows(path, [{**row, "correct": 0} if row["model"] == "x/small" else row for row in ROWS])
    assert "points of quality; the target is 4" in run("tune", "--check").out
    write_rows(path, ROWS[:600])
    assert "holds other rows or labels than the task was tuned on" in run("tune", "--check").out
    path.unlink()
    done = run("tune", "--check")
    assert (done.code, "there is no eval run" in done.out) == (1, True)


def test_check_holds_an_untuned_task_to_its_target(run: Cli) -> None:
    """A threshold that somebody guessed has to keep the target too, on the run that is there."""
    write_policy(Path("policies"), threshold=0.0)
    done = run("tune", "--check")
    assert done.code == 1
    assert "on its stored run it loses" in done.out
    write_policy(Path("policies"), threshold=1.0)
    dear = run("tune", "--check")
    assert "of always asking the top rung" in dear.out


def test_check_without_anything_to_check_is_fine(shop: Cli) -> None:
    """A policy without targets makes no promise."""
    write_policy(Path("policies"), target=None)
    done = shop("tune", "--check")
    assert (done.code, done.out) == (0, "no task has a target or a tuned plan\n")


def test_check_says_when_a_certificate_runs_out(run: Cli) -> None:
    """From 14 days before, which is no finding yet."""
    tuned_shop(run, "--valid-days", "10")
    done = run("tune", "--check")
    assert done.code == 0
    assert "the certificate runs out on " in done.out
    world = SimulatedWorld()
    world.clock.sleep(1e9)
    assert "ran out on" in check_tuned(world=world)[0].findings[0]


def test_router_check_reports_a_stale_certificate(run: Cli) -> None:
    """As a finding, with what calls do until then."""
    tuned_shop(run)
    write_policy(Path("policies"), system="Be brief.")
    done = run("check")
    assert done.code == 1
    assert "finding: task 'colours': the tuned plan is stale: the system text" in done.out
    assert "in force for colours: the top rung alone" in done.out
    assert run("check", "--json").json["tasks"][0]["in_force"] == "top"


def test_groups_are_tuned_shown_and_checked(run: Cli) -> None:
    """One statement for each; what was not certified asks the top rung."""
    write_policy(Path("policies"), group="language", target={"max_quality_loss": 0.1, "at_confidence": 0.8})
    done = run("tune", "colours", "--write")
    assert done.code == 0
    assert "language de: " in done.out
    assert "any other language: always ask large." in done.out
    assert "Groups: all of them hold together." in done.out
    assert run("tune", "--check").code == 0
    assert "language en" in run("check").out
    alone = run("tune", "colours", "--each-alone")
    assert "Groups: each of them holds by itself." in alone.out


def test_check_holds_each_group_to_the_target(run: Cli) -> None:
    """A group that loses is found, though all rows together keep the target."""
    write_policy(Path("policies"), group="language", target={"max_quality_loss": 0.1, "at_confidence": 0.8})
    tuned_shop(run)
    spoiled = [
        {**row, "correct": 0} if (row["model"], row["meta"]["language"]) == ("x/small", "de") else row for row in ROWS
    ]
    better = [
        {**row, "correct": 0} if (row["model"], row["meta"]["language"]) == ("x/large", "en") else row
        for row in spoiled
    ]
    done = run("tune", "--check", "colours", "--run", str(write_rows(Path("runs/other.jsonl"), better)))
    assert done.code == 1
    assert done.out.count("points of quality") == 1
    assert "points of quality where language is de; the target is 10" in done.out


def test_money_is_asked_for_first(shop: Cli) -> None:
    """With an estimate; where nobody can be asked, only `--yes` spends."""
    done = shop("eval", "colours", "--data", "rows.jsonl", "--max-usd", "3")
    assert (done.code, done.out) == (2, "")
    assert "1,800 requests to small, large: about $0.99" in done.err
    assert "stops before $3.00 are spent" in done.err
    assert "error: this spends money and nobody is there to ask; add --yes" in done.err
    assert not Path("runs").exists()


def test_a_person_is_asked_on_a_terminal(shop: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No is no, and nothing is sent."""
    asked: list[str] = []

    def refuse(text: str, **_: Any) -> None:
        asked.append(text)
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", refuse)
    monkeypatch.setattr("router.cli.evaluate._somebody_is_there", lambda: True)
    assert shop("eval", "colours", "--data", "rows.jsonl").code == 1
    assert asked == ["go on?"]
    assert not Path("runs").exists()


def test_the_limit_on_cost_is_exit_code_3(shop: Cli) -> None:
    """The run can go on with more."""
    arguments = ("eval", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl")
    done = shop(*arguments, "--max-usd", "0.1")
    assert done.code == 3
    assert "stopped: the limit of $0.10 leaves no room for another answer; raise --max-usd" in done.out
    assert shop(*arguments).code == 0


def test_missing_answers_are_exit_code_1(shop: Cli) -> None:
    """And the same command asks them."""
    busy = {"error": {"fault": "rate_limited", "status": 429}}
    rows = [{**ROWS[0], **busy, "response": None} for _ in range(3)] + ROWS
    write_rows(Path("recording.jsonl"), rows)
    write_policy(Path("policies"), retry={"attempts": 3, "max_wait_s": 0.01})
    arguments = ("eval", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl", "--limit", "1", "--json")
    done = shop(*arguments)
    assert (done.code, done.json["left"], done.json["failed"]) == (1, 1, 1)
    write_rows(Path("recording.jsonl"), ROWS)
    assert shop(*arguments).code == 0


def test_a_target_finer_than_the_top_models_own_noise_is_refused(shop: Cli) -> None:
    """Without labels nothing can be shown that the top model does not hold against itself."""
    from router.tuning import Eval

    replies = iter(["red", "blue", "red"] * 2000)
    backend = ScriptedModels({"small": "red", "large": lambda _: next(replies)})
    rows = [EvalRow(f"item {number}") for number in range(300)]
    Eval("colours", rows, Path("runs/colours.jsonl"), grader="disagreement", backend=backend, concurrency=1).run()
    done = shop("tune", "colours")
    assert done.code == 4
    assert "the top model disagrees with itself on " in done.err
    write_rows(Path("runs/colours.jsonl"), [{**row, "grader": "disagreement"} for row in ROWS])
    assert "the top model was not asked twice on any row" in shop("tune", "colours").err


def test_disagreement_is_called_that_in_the_certificate(shop: Cli) -> None:
    """It is not quality, and the words say so."""
    rows = [{**row, "grader": "disagreement", "correct": None} for row in ROWS]
    again = [{**row, "repeat": True} for row in rows if row["model"] == "x/large"][:200]
    write_rows(Path("runs/colours.jsonl"), [*rows, *again])
    done = shop("tune", "colours", "--max-loss", "0.15")
    assert done.code == 0
    assert "at most 15 of 100 calls like these rows are answered differently than by always asking large" in done.out
    assert "this says how often answers differ, not which is right" in done.out


def test_a_policy_without_a_folder_has_nowhere_to_write(run: Cli) -> None:
    """A policy built in Python can be tuned; its artefact needs a place."""
    tuned = tune_task("colours", policies=make_policy())
    with pytest.raises(PolicyError, match="has no folder"):
        tuned.write()


def test_a_refusal_is_never_written(run: Cli) -> None:
    """Where the draft costs as much as the top rung, no plan saves: always the top rung, and no file says otherwise."""
    write_rows(Path("runs/colours.jsonl"), [{**row, "cost_usd": 0.001} for row in ROWS])
    done = run("tune", "colours", "--write")
    assert done.code == 4
    assert "not certifiable: " in done.out
    last = (
        "nothing was written but the look, in runs/looks.json. The safe plan is always the top rung: `ladder: [large]`"
    )
    assert " ".join(done.out.split()).endswith(last)
    refused = tune_task("colours")
    assert [rung.model for rung in refused.plan.rungs] == ["large"]
    assert refused.certificate is None
    with pytest.raises(TuningError, match="nothing was written"):
        refused.write()


def test_crossfit_is_called_simulation_checked(run: Cli) -> None:
    """Wherever it shows."""
    tuned = tune_task("colours", method="crossfit")
    assert tuned.certificate is not None
    said = " ".join(certificate_words(tuned.certificate, "large"))
    assert "simulation-checked" in said
    assert "no theorem stands behind that" in said
    assert plan_words(tuned.plan)[0].endswith("else ask large.")


def test_a_csv_of_labels_does_too(shop: Cli) -> None:
    """The way most people have them."""
    lines = ["prompt,label", *(f'"{row["prompt"]}",{row["label"]}' for row in LABELLED)]
    Path("rows.csv").write_text("\n".join(lines))
    done = shop("eval", "colours", "--data", "rows.csv", "--replay", "recording.jsonl", "--limit", "100", "--json")
    assert (done.code, done.json["asked"]) == (0, 200)
    assert load_run("runs/colours.jsonl", "colours").rows == 100
    assert json.loads(Path("policies/policy.yml").read_text()) == policy_data()


def test_tuning_is_one_command_on_labelled_rows(shop: Cli) -> None:
    """`router tune TASK --data rows.csv --write`: it asks what is missing, then tunes, then writes."""
    done = shop("tune", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl", "--write")
    assert (done.code, done.err) == (0, "")
    assert "wrote policies/tuned/colours.json" in done.out
    Path("recording.jsonl").write_text("")
    again = shop("tune", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl")
    assert again.code == 0  # Nothing was left to ask.


def test_tuning_does_not_go_on_without_the_answers(shop: Cli) -> None:
    """Where the money ends, or nobody said yes, nothing is tuned."""
    done = shop("tune", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl", "--max-usd", "0.1")
    assert (done.code, done.out) == (3, "")
    assert "nothing was tuned" in done.err
    assert shop("tune", "colours", "--data", "rows.jsonl").code == 2


def test_a_limit_holds_in_a_replay_of_models_without_a_price(cli: Cli) -> None:
    """A replay spends nothing, so no price is needed: what the recording says that its answers cost counts."""
    data = policy_data()
    for model in data["models"].values():
        model.pop("price", None)
    Path("policies").mkdir()
    Path("policies/policy.yml").write_text(json.dumps(data))
    write_rows(Path("rows.jsonl"), LABELLED)
    write_rows(Path("recording.jsonl"), ROWS)
    replay = ("eval", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl")
    short = cli(*replay, "--max-usd", "0.1")
    assert (short.code, short.err) == (3, "")
    assert "stopped: the limit of $0.10 leaves no room" in short.out
    whole = cli(*replay, "--max-usd", "5")
    assert (whole.code, whole.err) == (0, "")


def test_a_yes_on_the_command_line_spends(cli: Cli, upstream: Upstream) -> None:
    """Real requests over HTTP, whose bill is what the run says it cost."""
    Path("policies").mkdir()
    policy = upstream_policy({"answer": {"choice": ["yes", "no"]}}, api_base=upstream.url)
    Path("policies/p.yml").write_bytes(TypeAdapter(Policy).dump_json(policy, exclude_none=True))
    rows = [{"prompt": f"say={word} number {at}", "label": word} for at, word in enumerate(("yes", "no", "yes", "no"))]
    write_rows(Path("rows.jsonl"), rows)
    done = cli("eval", "t", "--data", "rows.jsonl", "--yes", "--max-usd", "1", online=True)
    assert done.code == 0
    assert "8 requests to small, large: about $0." in done.err
    bill = sum(billed.cost_nusd for billed in upstream.bill())
    assert len(upstream.bill()) == 8
    assert f"the run cost ${bill / 1e9:,.4f}" in done.out
    run = load_run("runs/t.jsonl", "t")
    assert run.quality.tolist() == [[1.0, 1.0]] * 4
    assert run.cost_nusd.sum() == bill


def test_a_ladder_of_local_models_is_tuned_without_a_key(cli: Cli) -> None:
    """Classifiers on this machine: eval, tune and check agree on which files the certificate binds to."""
    from router.demo import prepare
    from router.tuning import Eval

    folder = Path("policies")
    folder.mkdir()
    prepare(folder, progress=lambda _: None)
    name, task = next(iter(load_policy(folder).tasks.items()))
    labels = task.answer.choice or ()
    rows = [EvalRow(f"{labels[at % len(labels)]} please help, case {at}", labels[at % len(labels)]) for at in range(80)]
    Eval(name, rows, Path("runs/t.jsonl"), policies=folder, concurrency=1).run()
    run = load_run("runs/t.jsonl", name, policies=folder)
    assert run.rows == 80
    [checked] = check_tuned(name, "runs/t.jsonl", policies=folder)
    assert checked.realised is not None
    for weights in folder.rglob("*.npz"):
        weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(TuningError, match="contents changed"):
        load_run("runs/t.jsonl", name, policies=folder)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((), 2, "task 'colours' has no target; add `target: {max_quality_loss: 0.02}`, or give --max-loss"),
        (("--max-loss", "3"), 2, "3.0 is not between 0 and 1"),
        (("--max-loss", "0.0001"), 4, "900 labelled rows cannot show a loss of at most 0.01 points"),
    ],
    ids=["no_target", "no_share", "too_strict"],
)
def test_what_no_answer_could_mend_is_said_before_any_is_paid_for(
    cli: Cli, options: tuple[str, ...], code: int, says: str
) -> None:
    """`tune --data` looks at the target first."""
    write_policy(Path("policies"), target=None)
    write_rows(Path("rows.jsonl"), LABELLED)
    write_rows(Path("recording.jsonl"), ROWS)
    done = cli("tune", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl", *options)
    assert done.code == code
    assert says in done.err
    assert not Path("runs").exists()


def test_corrected_labels_are_not_passed_over(shop: Cli) -> None:
    """The answers of a run are graded with the labels of then; others want a run of their own, which costs nothing."""
    changed = [{**row, "label": "blue" if row["label"] != "blue" else "red"} for row in LABELLED]
    write_rows(Path("corrected.jsonl"), changed)
    assert shop("eval", "colours", "--data", "rows.jsonl", "--replay", "recording.jsonl").code == 0
    refused = shop("eval", "colours", "--data", "corrected.jsonl", "--replay", "recording.jsonl")
    assert refused.code == 2
    assert "has another label or other metadata than in runs/colours.jsonl" in refused.err
    answered = shop(
        "eval", "colours", "--data", "corrected.jsonl", "--run", "new.jsonl", "--replay", "runs/colours.jsonl"
    )
    assert (answered.code, answered.err) == (0, "")
