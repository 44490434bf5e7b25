"""The command line: each command from the shell's side, its exit codes, and output for people and for programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router import Router, RouterWarning, load_policy
from router.cli.app import app
from router.cli.common import counted, dollars, percent
from router.core.call import Failure, Reply, Usage
from router.core.faults import Fault
from router.core.policy import Model
from router.errors import RequestRefused
from router.spec.schema import schema_text
from router.spec.templates import TEMPLATES
from router.testing import Script, ScriptedModels, SimulatedClock
from router.world import World
from tests.support import ROUTER, Cli, Done, columns_of, in_terminal, make_policy, unstyled

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(command.name or "" for command in app.registered_commands)
USAGE = Usage(input_tokens=10, output_tokens=1)
START_S = 1_700_000_000.0

POLICY = """\
version: 1
models:
  small: {litellm: openai/small, price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}}
  large: {litellm: openai/large, price: {input_usd_per_mtok: 2, output_usd_per_mtok: 8}}
tasks:
  classify: {ladder: [small, large], answer: {choice: [billing, bug]}, max_output_tokens: 8}
"""
RECORDING: list[dict[str, Any]] = [
    {"model": "openai/small", "prompt": "charged twice", "response": "billing", "input_tokens": 10, "output_tokens": 1},
    {"model": "openai/small", "prompt": "it broke", "response": "hm", "input_tokens": 10, "output_tokens": 1},
    {"model": "openai/large", "prompt": "it broke", "response": "bug", "input_tokens": 10, "output_tokens": 1},
    {"model": "openai/small", "prompt": "both down", "error": {"fault": "auth", "status": 401}},
    {"model": "openai/large", "prompt": "both down", "error": {"fault": "payment", "status": 402}},
    {
        "model": "openai/small",
        "prompt": "odd text",
        "response": "billing \ud800",
        "input_tokens": 1,
        "output_tokens": 1,
    },
]


@pytest.fixture
def routing(cli: Cli) -> Cli:
    """The same, in a folder with a policy and a recording."""
    Path("policies").mkdir()
    Path("policies/p.yml").write_text(POLICY)
    Path("r.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in RECORDING))
    return cli


def _route(cli: Cli, *arguments: object, **options: Any) -> Done:
    return cli("route", *arguments, "--replay", "r.jsonl", **options)


# --- the command itself


def test_the_version_is_the_packages() -> None:
    """`--version` from a real shell, through the installed script."""
    done = subprocess.run([ROUTER, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert (done.stdout, done.stderr) == (f"cascade-router {version[1]}\n", "")


def test_without_a_command_the_commands_are_listed(cli: Cli) -> None:
    """Help on standard output, whichever way one asks for it."""
    asked, bare = cli("--help"), cli()
    listed = re.findall(r"^  ([a-z]+)  ", asked.out, re.MULTILINE)
    assert sorted(listed) == sorted([*COMMANDS, "audit", "ledger", "policy"])
    assert asked.code == 0
    assert asked.out.strip() in (bare.out + bare.err).strip()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_each_command_has_help_that_fits(command: str, flag: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and every option of its own says what it does, in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    done = cli(command, flag)
    assert done.code == 0
    assert done.out.startswith(f"Usage: router {command} ")
    assert max(map(len, done.out.splitlines())) <= 80
    options = done.out.partition("Options:")[2]
    bare = [line for line in re.findall(r"^  -.*(?:\n {6,}.*)*", options, re.MULTILINE) if not _explained(line)]
    assert bare == []


def _explained(option: str) -> bool:
    return len(re.split(r"\s{2,}", option.strip(), maxsplit=1)) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nothing",), "No such command 'nothing'"),
        (("check", "--nothing"), "No such option: --nothing"),
        (("route", "classify"), "Missing argument"),
        (("route", "classify", "hi", "--deadline", "soon"), "Invalid value for '--deadline'"),
        (("audit", "--by", "colour"), "'colour' is none of task, feature, user, tenant, session, model"),
    ],
    ids=["command", "option", "argument", "number", "by"],
)
def test_a_wrong_call_is_exit_code_2(arguments: tuple[str, ...], problem: str, cli: Cli) -> None:
    """What is wrong stands on standard error, and nothing on standard output."""
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err


def test_errors_are_no_tracebacks_in_a_real_shell(tmp_path: Path) -> None:
    """A fault in a policy is a line with file and line number on standard error."""
    (tmp_path / "p.yml").write_text(POLICY.replace("ladder: [small, large]", "ladder: [smal, large]"))
    done = subprocess.run(
        [ROUTER, "check", "--policies", "p.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    message = "error: p.yml:6: tasks.classify.ladder.0: unknown model 'smal'; did you mean 'small'?\n"
    assert done.stderr == message


def test_standard_input_and_output_are_a_pipe(tmp_path: Path, home: Path) -> None:
    """`-` reads the prompt, the answer alone is on standard output, and why it is that one on standard error."""
    (tmp_path / "p.yml").write_text(POLICY)
    (tmp_path / "r.jsonl").write_text(json.dumps(RECORDING[0]))
    command = [ROUTER, "route", "classify", "-", "-p", "p.yml", "--replay", "r.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, input=b"charged twice", capture_output=True, check=True)
    assert done.stdout == b"billing\n"
    assert done.stderr.decode().splitlines() == [
        "small: accept - confidence 0.850 is at or above 0.800",
        "confidence 0.850 (uncalibrated prior)",
        "cost $0.000001400, of it $0.00 for climbing; the top rung alone: $0.000028000 (estimated)",
    ]


@pytest.mark.parametrize(
    ("arguments", "kind", "fields"),
    [
        (("route", "clasify", "hi"), "UnknownTask", {"exit_code": 2, "task": "clasify", "known": ["classify"]}),
        (("route", "classify", " "), "InvalidCall", {"exit_code": 2, "argument": "prompt"}),
        (("route", "classify", "new", "--replay", "r.jsonl"), "ReplayMiss", {"exit_code": 1, "model": "openai/small"}),
        (("route", "classify"), "Usage", {"exit_code": 2}),
        (("audit", "--by", "colour"), "InvalidCall", {"exit_code": 2, "argument": "by"}),
        (("audit", "--period", "soon"), "Usage", {"exit_code": 2}),
        (("check", "-p", "none.yml"), "PolicyError", {"exit_code": 2, "path": "none.yml"}),
        (("init", "poetry"), "Refused", {"exit_code": 2}),
        (("distill", "classify", "--from", "none.csv"), "RecordingError", {"exit_code": 2, "path": "none.csv"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_programs_are_told_of_every_failure(
    arguments: tuple[str, ...], kind: str, fields: dict[str, Any], routing: Cli
) -> None:
    """With `--json` standard output is one document in any case; message and exit code are those without it."""
    plain, done = routing(*arguments), routing(*arguments, "--json")
    error = done.json["error"]
    assert error["type"] == kind
    assert {name: error[name] for name in fields} == fields
    assert (plain.code, plain.out, plain.err) == (done.code, "", done.err)
    assert done.code == error["exit_code"]
    assert error["message"] in done.err


def test_a_failed_ladder_is_told_once(routing: Cli) -> None:
    """Each missing key is named once, with what to type next, and no warning says the same before."""
    done = routing("route", "classify", "both down", "--replay", "r.jsonl")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: task 'classify': no rung gave a usable answer (small: auth")
    assert "warning" not in done.err


# --- init


@pytest.mark.parametrize("template", [*TEMPLATES, "all"])
def test_each_template_loads_and_passes_check(template: str, cli: Cli) -> None:
    """What `init` writes is a policy without a finding: every model of it has a known price."""
    written = cli("init", template)
    names = list(TEMPLATES) if template == "all" else [template]
    files = [f"policies/{name}.yml" for name in ["models", *names]] + ["policies/policy.schema.json"]
    assert written.code == 0
    assert written.out.splitlines()[:-2] == [f"wrote {name}" for name in files]
    assert written.out.splitlines()[-2] == "keep the ledger out of git: echo .router/ >> .gitignore"
    assert written.out.splitlines()[-1] == f"next: edit policies/{names[0]}.yml, then run `router check`"
    assert len(load_policy().tasks) == len(names)
    done = cli("check")
    assert (done.code, done.out.splitlines()[-1]) == (0, "no findings")


def test_init_refuses_to_overwrite(cli: Cli) -> None:
    """A file that somebody edited stays, and nothing beside it is written; `--force` is for those who mean it."""
    Path("policies").mkdir()
    path = Path("policies/text.yml")
    path.write_text("mine")
    done = cli("init", "text")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: policies/text.yml is there already; nothing was written. Use --force to overwrite\n"
    assert [one.name for one in Path("policies").iterdir()] == ["text.yml"]
    assert path.read_text() == "mine"
    assert cli("init", "text", "--force").code == 0
    assert path.read_text() != "mine"


def test_init_again_changes_nothing(cli: Cli) -> None:
    """Files that are there as they would be written are no obstacle, so that a second template can follow."""
    assert [cli("init", name).code for name in ("text", "text", "extraction")] == [0, 0, 0]
    assert set(load_policy().tasks) == {"answer-question", "extract-invoice"}


def test_init_with_an_unknown_template_names_those_there_are(cli: Cli) -> None:
    """Nothing is written."""
    done = cli("init", "poetry")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: unknown template 'poetry'; there is classification, extraction, text, or all\n"
    assert not Path("policies").exists()


def test_init_where_git_knows_says_nothing_of_it(cli: Cli) -> None:
    """Who ignores the ledger already is not told to."""
    Path(".gitignore").write_text("dist\n/.router/\n")
    assert ".gitignore" not in cli("init").out


def test_init_tells_programs_what_it_wrote(cli: Cli) -> None:
    """`--json` lists the files; `--folder` says where."""
    done = cli("init", "text", "--folder", "elsewhere", "--json")
    assert done.json == {
        "written": ["elsewhere/models.yml", "elsewhere/text.yml", "elsewhere/policy.schema.json"],
        "unchanged": [],
    }
    assert all(Path(path).is_file() for path in done.json["written"])
    again = cli("init", "text", "--folder", "elsewhere", "--json").json
    assert again == {"written": [], "unchanged": done.json["written"][1:]}


def test_init_elsewhere_says_how_to_check_it(cli: Cli) -> None:
    """The next command works as it is printed."""
    advice = cli("init", "text", "--folder", "elsewhere").out.splitlines()[-1]
    assert advice == "next: edit elsewhere/text.yml, then run `router check --policies elsewhere`"
    assert cli(*advice.partition("`router ")[2].rstrip("`").split()).code == 0


def test_init_where_nothing_can_be_written_says_so(cli: Cli) -> None:
    """A folder below a file is no traceback."""
    Path("file").write_text("in the way")
    done = cli("init", "--folder", "file/policies")
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: file/policies: cannot be written (Not a directory); choose another --folder\n"


def test_the_committed_schema_is_the_generated_one() -> None:
    """Editors check policies against what the code accepts today."""
    assert (ROOT / "policies" / "policy.schema.json").read_text(encoding="utf-8") == schema_text()


# --- check


def test_check_shows_what_is_in_force(routing: Cli) -> None:
    """Each task's ladder with thresholds, and that its confidence is uncalibrated."""
    done = routing("check")
    assert done.code == 0
    header, columns, first, second, limits, note, verdict = done.out.splitlines()
    assert re.fullmatch(r"policy [0-9a-f]{16}: 1 file, 1 task", header)
    assert columns.split("  ")[0] == "task"
    assert first.split() == ["classify", "small", "openai/small", "80.0%", "uncalibrated"]
    assert second.split() == ["large", "openai/large", "last", "rung", "uncalibrated"]
    assert limits == "limits of classify: at most 8 output tokens"
    assert note == "note: set OPENAI_API_KEY before small, large can be asked"
    assert verdict == "no findings"


def test_check_shows_what_limits_the_calls_of_a_task(routing: Cli) -> None:
    """Tokens and dollars of a call, and what its calls share; a task without an entry has the default's."""
    limits = "max_input_tokens: 4000, max_output_tokens: 8, budget: {usd_per_call: 0.02, usd_per_day: 20}}"
    text = POLICY.replace("max_output_tokens: 8}", limits) + "  plain: {ladder: [large]}\n"
    Path("policies/p.yml").write_text(f"{text}budgets: {{task: {{default: {{escalations_per_hour: 5}}}}}}\n")
    assert [line for line in routing("check").out.splitlines() if line.startswith("limits")] == [
        "limits of classify: at most 4,000 input tokens, 8 output tokens, $0.0200 a call, $20.00 a day, "
        "5 escalations an hour",
        "limits of plain: at most 5 escalations an hour",
    ]
    first, second = (task["limits"] for task in routing("check", "--json").json["tasks"])
    assert (first["max_input_tokens"], first["usd_per_day"]) == (4000, "20")
    assert second == {"escalations_per_hour": 5}


def test_check_notes_what_is_no_fault(routing: Cli) -> None:
    """A dearer rung first, models that nobody uses and missing keys are told, and change no exit code."""
    policy = POLICY.replace("[small, large]", "[large, small]").replace("tasks:", "  spare: {litellm: x/y}\ntasks:")
    Path("policies/p.yml").write_text(policy)
    done = routing("check")
    notes = [
        "task 'classify': rung 'large' costs more than 'small' above it; "
        "a ladder goes from the cheapest model to the dearest",
        "set OPENAI_API_KEY before small, large can be asked",
        "no task uses spare",
    ]
    assert (done.code, [line for line in done.out.splitlines() if "note: " in line]) == (
        0,
        [f"note: {note}" for note in notes],
    )
    assert routing("check", "--json").json["notes"] == notes


def test_check_with_a_key_has_no_note(routing: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is there is not asked for; one that is empty is not there."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    assert "note" not in routing("check").out
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert "note: set OPENAI_API_KEY" in routing("check").out


def test_check_of_a_policy_without_tasks_has_nothing_to_show(cli: Cli) -> None:
    """A file of models alone is sound."""
    Path("p.yml").write_text("version: 1\n")
    done = cli("check", "--policies", "p.yml")
    assert done.code == 0
    assert re.fullmatch(r"policy [0-9a-f]{16}: 1 file, 0 tasks\nno findings\n", done.out)


def test_check_tells_programs_the_same(routing: Cli) -> None:
    """`--json` has hashes, files, rungs and findings."""
    done = routing("check", "--json")
    data = done.json
    (task,) = data["tasks"]
    assert (data["files"], data["findings"], task["task"]) == (["policies/p.yml"], [], "classify")
    assert re.fullmatch("[0-9a-f]{16}", data["policy_hash"])
    assert [(rung["model"], rung["threshold"], rung["priced"]) for rung in task["rungs"]] == [
        ("small", 0.8, True),
        ("large", None, True),
    ]


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_an_unpriced_model_is_a_finding(flags: tuple[str, ...], routing: Cli) -> None:
    """A model that nobody has a price for makes costs unknown: exit code 1, and what to add."""
    text = POLICY.replace(
        "{litellm: openai/small, price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}}", "{litellm: openai/own}"
    )
    Path("policies/p.yml").write_text(text)
    done = routing("check", *flags)
    finding = "task 'classify': model 'small' has no known price, so its costs are unknown; give it a `price:`"
    assert done.code == 1
    assert (done.json["findings"] == [finding]) if flags else (done.out.splitlines()[-1] == f"finding: {finding}")


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (("price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}", "price: {gpu_hour_usd: 2}"), "deadline_s"),
        ((", max_output_tokens: 8", ""), "max_output_tokens"),
    ],
    ids=["by-the-second", "any-length"],
)
@pytest.mark.parametrize("budgets", ["task: {default: {usd_per_day: 1}}", "user: {default: {usd_per_hour: 1}}"])
def test_a_rung_that_no_shared_budget_can_hold_is_a_finding(
    change: tuple[str, str], remedy: str, budgets: str, routing: Cli
) -> None:
    """Every call would be refused or stay below, and the policy looks sound; a limit that is met is none."""
    text = POLICY.replace(*change)
    assert text != POLICY
    Path("policies/p.yml").write_text(text)
    assert routing("check", "--json").json["findings"] == []
    Path("policies/p.yml").write_text(f"{text}budgets: {{{budgets}}}\n")
    found = routing("check", "--json").json["findings"]
    told = "task 'classify': budgets in dollars refuse every request to 'small', for nothing bounds what one costs"
    assert f"{told}; give the task a `{remedy}:`" in found
    Path("policies/p.yml").write_text(f"{POLICY}budgets: {{{budgets}}}\n")
    assert routing("check", "--json").json["findings"] == []


def test_a_tier_that_lacks_a_part_of_its_price_is_a_finding(routing: Cli) -> None:
    """A request that needs the part has no known cost; reasoning is billed as output, and a full tier lacks nothing."""
    tiers = "tiers: [{above_input_tokens: 1000, input_usd_per_mtok: 2, output_usd_per_mtok: 8}, {service_tier: flex}]"
    parts = "input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4, reasoning_usd_per_mtok: 1"
    text = POLICY.replace("output_usd_per_mtok: 0.4}", f"output_usd_per_mtok: 0.4, {tiers}}}", 1)
    text = text.replace("input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4", f"{parts}, cached_read_usd_per_mtok: 0.1")
    Path("policies/p.yml").write_text(f"{text}  again: {{ladder: [small, large]}}\n")
    done = routing("check", "--json")
    assert (done.code, done.json["findings"]) == (
        1,
        [
            "model 'small': the tier above 1,000 input tokens has no cached_read price although the price has one; "
            "requests that read the cache there have no known cost",
            "model 'small': the tier `flex` has no input and no cached_read and no output price although the price has "
            "one; requests there have no known cost",
        ],
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ladder:", "lader:", "p.yml:6: tasks.classify.lader: unknown key 'lader'; did you mean 'ladder'?"),
        ("version: 1", "version: 2", "p.yml:1: version: should be 1, found 2"),
        ("billing, bug]", "billing", "p.yml:6: "),
        (
            "max_output_tokens: 8",
            "shadow_rate: 0.1",
            "p.yml:6: tasks.classify.shadow_rate: is part of the grammar but not built yet",
        ),
    ],
    ids=["typo", "version", "yaml", "not-built"],
)
def test_a_fault_in_a_policy_is_exit_code_2(old: str, new: str, message: str, routing: Cli) -> None:
    """File, line, path and remedy on standard error, no traceback."""
    Path("policies/p.yml").write_text(POLICY.replace(old, new))
    done = routing("check")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: policies/p.yml:")
    assert f"policies/{message}" in done.err
    assert "Traceback" not in done.err


def test_check_of_an_environment_applies_its_overlay(routing: Cli) -> None:
    """`--env` shows what is in force there, and names the overlays when there is no such one."""
    Path("policies/prod.yml").write_text("version: 1\nenvironment: prod\ntasks: {classify: {threshold: 0.95}}\n")
    assert "95.0%" in routing("check", "--env", "prod").out
    assert "80.0%" in routing("check").out
    done = routing("check", "-e", "staging")
    assert done.code == 2
    assert "no file says `environment: staging`; there is prod" in done.err


@pytest.mark.parametrize("command", [("check",), ("route", "classify", "hi")], ids=["check", "route"])
def test_without_policies_the_error_names_init(command: tuple[str, ...], cli: Cli) -> None:
    """The first thing a new user may see says what to do."""
    done = cli(*command)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: policies: is not there; run `router init` to write one from a template")


# --- route


def test_route_prints_the_answer_and_why(routing: Cli) -> None:
    """An escalation shows both rungs, the confidence, and what climbing added."""
    done = _route(routing, "classify", "it broke", "--feature", "inbox", "--user", "ann")
    assert (done.code, done.out) == (0, "bug\n")
    assert done.err.splitlines() == [
        "small: escalate - the draft names none of the 2 labels",
        "large: accept - last rung",
        "confidence 0.850 (uncalibrated prior)",
        "cost $0.000029400, of it $0.000028000 for climbing; the top rung alone: $0.000028000 (known)",
    ]


def test_route_tells_programs_everything(routing: Cli) -> None:
    """`--json` is one strict document with steps, attempts and costs, and nothing on standard error."""
    done = _route(routing, "classify", "it broke", "--json")
    data = done.json
    expected = {"text": "bug", "parsed": "bug", "model": "large", "rung": 1, "escalated": True, "task": "classify"}
    expected |= {"confidence_source": "prior", "baseline_source": "known", "finish_reason": "stop"}
    assert {name: data[name] for name in expected} == expected
    assert (data["cost_usd"], data["marginal_cost_usd"], data["baseline_cost_usd"]) == (2.94e-5, 2.8e-5, 2.8e-5)
    assert [step["action"] for step in data["steps"]] == ["escalate", "accept"]
    assert [attempt["amount"]["nusd"] for attempt in data["attempts"]] == [1400, 28000]
    assert data["usage"]["input_tokens"] == 10
    assert done.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("clasify", "hi"), 2, "unknown task 'clasify'; did you mean 'classify'?"),
        (("classify", ""), 2, "prompt: is empty; give some text"),
        (("classify", "hi", "--deadline", "-1"), 2, "deadline_s: is -1.0; give a number above 0"),
        (("classify", "hi", "--max-cost", "0"), 2, "max_cost_usd: is 0.0; give a number above 0"),
        (("classify", "never recorded"), 1, "r.jsonl: holds no answer of 'openai/small' to this prompt"),
        (("classify", "charged twice", "--max-cost", "0.0000001"), 3, "can cost"),
    ],
    ids=["task", "prompt", "deadline", "limit", "miss", "cost"],
)
def test_a_call_that_cannot_be_answered_has_an_exit_code(
    arguments: tuple[str, ...], code: int, message: str, routing: Cli
) -> None:
    """2 for a wrong call, 3 for a limit on cost, 1 where there is no answer; the message says what to do."""
    done = _route(routing, *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert message in done.err


@pytest.mark.filterwarnings("ignore::router.errors.RouterWarning")
def test_a_ladder_that_failed_says_how(routing: Cli) -> None:
    """No rung gave an answer: exit code 1, with what each came to."""
    done = _route(routing, "classify", "both down")
    assert (done.code, done.out) == (1, "")
    assert "no rung gave a usable answer (small: auth (HTTP 401): recorded; large: payment (HTTP 402)" in done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "r2.jsonl: cannot be read: No such file"), ("{", "r2.jsonl:1: this line is no JSON")],
    ids=["missing", "broken"],
)
def test_a_recording_that_cannot_be_read_is_a_wrong_call(content: str | None, message: str, routing: Cli) -> None:
    """Exit code 2, with file and line."""
    if content is not None:
        Path("r2.jsonl").write_text(content)
    done = routing("route", "classify", "hi", "--replay", "r2.jsonl")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")


def test_standard_input_that_is_no_text_is_a_wrong_call(routing: Cli) -> None:
    """Bytes that are no UTF-8 are refused in words."""
    done = _route(routing, "classify", "-", stdin=b"\xff\xfe")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: prompt: standard input is not UTF-8 (invalid start byte)\n"


def test_an_answer_with_odd_characters_is_printed(routing: Cli) -> None:
    """A paid answer is not lost because a terminal cannot show a part of it."""
    assert _route(routing, "classify", "odd text").out == "billing ?\n"
    assert _route(routing, "classify", "odd text", "--json").json["text"] == "billing \ud800"


# --- audit


@pytest.fixture
def ledger(home: Path) -> Path:
    """Traffic with realistic names: accepted, escalated and failed calls, one without a price, over two days."""
    clock = SimulatedClock(START_S)
    scripts: dict[str, Script] = {
        "small": [Reply("yes", USAGE), Reply("maybe", USAGE), Failure(Fault.SERVER_ERROR), Failure(Fault.SERVER_ERROR)],
        "large": [Reply("no", USAGE), Failure(Fault.BAD_REQUEST), Reply("no", None)],
    }
    policy = make_policy({"answer": {"choice": ["yes", "no"]}, "retry": {"attempts": 2, "max_wait_s": 0}})
    models = ScriptedModels({**scripts, "free": "yes"}, clock=clock)
    task = policy.tasks["t"]
    policy = replace(
        policy,
        models={**policy.models, "free": Model(litellm="my/own")},
        tasks={"classify-ticket": task, "answer-question": replace(task, ladder=("free",))},
    )
    with Router(policy, backend=models, world=World(clock=clock)) as router:
        router.route("classify-ticket", "hi", feature="inbox", user="ann", tenant="acme")
        router.route("classify-ticket", "hi", feature="inbox", user="ben", tenant="acme")
        with pytest.raises(RequestRefused):
            router.route("classify-ticket", "hi", feature="search [bold]", user="ann")
        clock.sleep(7200)
        router.route("answer-question", "hi", feature="search [bold]")
    return home


def _table(text: str) -> list[list[str]]:
    """The cells of a printed table, header and footer included."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return [line for line in lines if len(line) > 2]


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("task", ["classify-ticket", "answer-question"]),
        ("model", ["free", "small", "large"]),
        ("feature", ["inbox", "search [bold]"]),
        ("tenant", ["acme", "(none)"]),
        ("day", ["2023-11-14", "2023-11-15"]),
        ("hour", ["2023-11-14T22:00Z", "2023-11-15T00:00Z"]),
    ],
)
def test_an_audit_by_each_dimension(by: str, keys: list[str], ledger: Path, cli: Cli) -> None:
    """One row for each group and a total, in text and in JSON."""
    done = cli("audit", "--by", by)
    header, *rows, total = _table(done.out)
    saved = [] if by == "model" else ["saved"]
    assert header == [by, "calls", "escalated", "failed", "cost", "marginal", *saved]
    assert [row[0] for row in rows] == keys
    assert total[:6] == ["total", "4", "2 (50%)", "1", "$0.000030800", "$0.000028000"]
    data = cli("audit", "--by", by, "--json").json
    assert (data["by"], [row["key"] for row in data["rows"]], data["total"]["calls"]) == (by, keys, 4)
    assert (done.code, done.err) == (0, "")


def test_rows_that_do_not_add_up_say_why(ledger: Path, cli: Cli) -> None:
    """By model they count what each model did, and the total counts calls."""
    why = "as failed only without an answer, so rows need not add up to it"
    assert why in cli("audit", "--by", "model").out
    assert why not in cli("audit", "--by", "task").out


def test_an_audit_by_user_shows_fingerprints(ledger: Path, cli: Cli) -> None:
    """No id is printed; `--user` takes the id that the application knows."""
    rows = _table(cli("audit", "--by", "user").out)[1:-1]
    assert [bool(re.fullmatch("[0-9a-f]{16}", row[0])) for row in rows] == [True, True, False]
    assert cli("audit", "--user", "ann", "--json").json["total"]["calls"] == 2
    assert cli("audit", "--user", "", "--json").json["total"]["calls"] == 0


def test_an_audit_says_what_it_does_not_know(ledger: Path, cli: Cli) -> None:
    """Calls without a price and requests that may have been billed are told below the table."""
    lines = cli("audit").out.splitlines()
    assert _table("\n".join(lines))[1:3] == [
        ["classify-ticket", "3", "2 (67%)", "1", "$0.000030800", "$0.000028000", "$0.000025200"],
        ["answer-question", "1", "0 (0%)", "0", "unknown", "unknown", "unknown"],
    ]
    assert lines[-2:] == [
        "not in the costs: 1 call of a model whose price is unknown",
        "not settled: 2 requests, up to $0.000038800 more",
    ]


@pytest.mark.parametrize(
    ("flags", "calls"),
    [
        (("--task", "classify-ticket"), 3),
        (("--feature", "inbox"), 2),
        (("--tenant", "acme"), 2),
        (("--since", "2023-11-15"), 1),
        (("--until", "2023-11-15"), 3),
        (("--since", "2023-11-14T23:30:00-01:00"), 1),
        (("--since", "24h"), 0),
        (("--since", "365d", "--until", "0h"), 0),
        (("--since", "2023-11-14", "--until", "2023-11-15", "--feature", "inbox"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_filters_of_an_audit(flags: tuple[str, ...], calls: int, ledger: Path, cli: Cli) -> None:
    """By task, feature, tenant and time; a moment without a zone is UTC."""
    assert cli("audit", "--json", *flags).json["total"]["calls"] == calls


@pytest.mark.parametrize("moment", ["yesterday", "", "7", "-3d", "²d", "99999999999d", "2026-13-01"])
@pytest.mark.parametrize("option", ["--since", "--until"])
def test_a_moment_that_is_none_is_a_wrong_call(option: str, moment: str, cli: Cli) -> None:
    """The message shows the forms that work."""
    done = cli("audit", f"{option}={moment}")
    assert (done.code, done.out) == (2, "")
    assert f"Invalid value for {option}: {moment!r} is no moment; give 24h, 7d, or a date like 2026-11-20" in done.err


@pytest.mark.parametrize("by", ["task", "model"])
def test_an_audit_of_an_empty_ledger(by: str, cli: Cli, home: Path) -> None:
    """There is nothing to show, and that is no error; nothing is made."""
    done = cli("audit", "--by", by)
    assert (done.code, done.out) == (0, "the ledger holds no calls here; ROUTER_HOME or --home names its folder\n")
    assert cli("audit", "--json").json["rows"] == []
    assert not home.exists()


def test_an_audit_reports_damage(ledger: Path, cli: Cli) -> None:
    """A line that cannot be read is named, once, with its place; the rest is summed."""
    (segment,) = (ledger / "segments").iterdir()
    content = segment.read_bytes()
    segment.write_bytes(b"x" + content[1:] + b'00000000 {"kind"')
    lines = cli("audit").out.splitlines()
    assert lines[-2:] == [
        f"ledger: torn last line in {segment.name}; nothing else of it is lost",
        f"ledger: unreadable line in {segment.name}:0; nothing else of it is lost",
    ]
    assert cli("audit", "--json").json["ledger"]["corrupt"] == []


def test_an_audit_reports_rows_that_were_lost(home: Path, cli: Cli) -> None:
    """What could not be written is told by its number."""
    router = Router(make_policy(), backend=ScriptedModels({"small": "yes"}))
    home.write_text("in the way")
    with pytest.warns(RouterWarning, match="the ledger cannot be written"):
        router.route("t", "hi")
    home.unlink()
    router.route("t", "hi")
    router.close()
    assert cli("audit").out.splitlines()[-1] == "ledger: up to 3 rows could not be written, or were deleted since"


def test_an_audit_of_a_ledger_that_cannot_be_read(ledger: Path, cli: Cli) -> None:
    """The error names the file and the remedy: exit code 1."""
    (ledger / "ledger.db").write_bytes(b"no database" * 100)
    done = cli("audit")
    assert (done.code, done.out) == (1, "")
    assert re.search(r"^error: .*ledger\.db: the read model cannot be used .* delete it", done.err)


def test_names_from_outside_cannot_forge_the_output(home: Path, cli: Cli) -> None:
    """A feature is whatever a caller gave: no markup of it is drawn, and no escape code of it reaches the terminal."""
    names = ["[red]x[/red]", "[/]", "a\nb", "\x1b[31mred", ":smile:"]
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router:
        for name in names:
            router.route("t", "hi", feature=name)
    keys = [row[0] for row in _table(cli("audit", "--by", "feature").out)[1:-1]]
    assert sorted(keys) == sorted(["[red]x[/red]", "[/]", "a\ufffdb", "\ufffd[31mred", ":smile:"])


# --- terminals


def test_no_color_output_has_no_escape_codes(ledger: Path) -> None:
    """NO_COLOR means plain text, bold included, even on a terminal; without it there is some."""
    plain = in_terminal("audit", styled=False)
    styled = in_terminal("audit")
    assert [line for line in plain if "\x1b" in line] == []
    assert [line for line in styled if "\x1b" in line] != []
    assert [unstyled(line).rstrip() for line in styled] == plain


def test_shipped_templates_fit_80_columns_in_one_line_each(cli: Cli) -> None:
    """Realistic names are neither folded nor cut: one line for each rung of each task."""
    cli("init")
    lines = [line for line in in_terminal("check", styled=False) if not line.startswith("note: ")]
    assert max(map(len, lines)) <= 80
    policy = load_policy()
    rungs = [name for task in policy.tasks.values() for name in task.ladder]
    limits = [line for line in lines if line.startswith("limits of ")]
    assert len(limits) == len(policy.tasks)
    # Limits with an amount of money go on in a second line.
    assert len(lines) == 2 + len(rungs) + len(limits) + 1 + 1
    names = [model.litellm for model in policy.models.values() if any(model.litellm in line for line in lines)]
    assert len(names) == len(set(rungs))


@pytest.mark.parametrize("by", ["task", "model", "hour"])
def test_an_audit_fits_80_columns(by: str, ledger: Path) -> None:
    """The same for the audit, with amounts of every size: rows are one line each."""
    text = in_terminal("audit", "--by", by, styled=False)
    assert max(map(len, text)) <= 80
    table = _table("\n".join(text))
    assert {len(row) for row in table} == {6 if by == "model" else 7}


def test_a_narrow_terminal_folds_names_and_never_cuts_numbers(ledger: Path) -> None:
    """A name that does not fit goes on in the next line; a number is whole, even where the line gets too long."""
    text = "\n".join(in_terminal("audit", columns=40, styled=False))
    assert "…" not in text
    folded = re.search(r"^(classify\S*) .*\n(\S+)$", text, re.MULTILINE)
    assert folded is not None
    assert folded[1] + folded[2] == "classify-ticket"
    assert {"$0.000030800", "$0.000028000", "$0.000025200"} <= set(text.split())


def test_a_long_name_is_one_line_where_no_terminal_is(home: Path, cli: Cli) -> None:
    """Output that goes to a file or a pipe can be searched: each row is one line, whatever COLUMNS says."""
    name = "feature-" + "x" * 200
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router:
        router.route("t", "hi", feature=name)
    _, row, _ = _table(cli("audit", "--by", "feature").out)
    assert row[0] == name


@pytest.mark.parametrize(
    ("command", "columns"),
    [(command, columns) for command in ("check", "models", "audit", "distill") for columns in (80, 120)],
    ids=lambda value: str(value),
)
def test_long_names_and_sentences_fit_the_terminal(command: str, columns: int, cli: Cli, home: Path) -> None:
    """Names of any length fold at a dash or a slash, sentences between two words, and nothing is too wide."""
    name, wide = "classify-" + "ticket-" * 12 + "end", "受信トレイ" * 9
    Path("policies").mkdir()
    policy = POLICY.replace("classify:", f"{name}:").replace("openai/large", "bedrock/" + "large-model/" * 9)
    Path("policies/p.yml").write_text(policy + "  other: {ladder: [large, small]}\n")
    labelled = [("text {} paid,billing\n", "text {} broke,bug\n")[n % 2].format(n) for n in range(60)]
    Path("labels.csv").write_text("text,label\n" + "".join(labelled))
    with Router("policies", backend=ScriptedModels({"small": "billing"})) as router:
        router.route(name, "hi", feature=wide)
    arguments = {
        "audit": ("--by", "feature"),
        "distill": (name, "--from", "labels.csv", "--name", "small-rung"),
    }.get(command, ())
    lines = [unstyled(line) for line in in_terminal(command, *arguments, columns=columns, codes=(0, 1))]
    # A name in YAML or in a path is copied as it is, so it stays whole.
    assert [line for line in lines if columns_of(line) > columns and len(line.split()) > 1 and name not in line] == []
    if command == "check":
        folded = [line.split()[0] for line in lines if re.match("classify-|(?:ticket-)+", line)]
        assert "".join(folded) == name
        assert {piece[-1] for piece in folded[:-1]} <= {"-"}
    if command == "distill" and columns == 120:
        assert [line for line in lines if line.startswith(" " * 19)] != []
    if command == "audit":
        assert "".join(re.findall("[受信トレイ]", "".join(lines))) == wide


@pytest.mark.parametrize(
    ("nusd", "text"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (1, "$0.000000001"),
        (1_400, "$0.000001400"),
        (100_000, "$0.000100"),
        (112_345, "$0.000112"),
        (9_999_999, "$0.010000"),
        (12_345_678, "$0.0123"),
        (1_234_567_890_123, "$1,234.57"),
        (-26_600, "-$0.000026600"),
    ],
)
def test_small_amounts_are_not_rounded_away(nusd: int | None, text: str) -> None:
    """An amount has as many decimals as it needs; unknown is never $0.00."""
    assert dollars(nusd) == text


def test_counts_and_shares_are_written_for_people() -> None:
    """One thing is singular, and a share is a percentage."""
    assert [counted(0, "call"), counted(1, "call"), counted(1234, "call")] == ["0 calls", "1 call", "1,234 calls"]
    assert percent(0.1234) == "12.3%"


# --- a shell without input or output


def _shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = command.replace("router", ROUTER, 1)
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize("arguments", ["check", "check --json", "--help", "audit --json"])
def test_a_full_output_is_one_message(arguments: str, routing: Cli) -> None:
    """Where nothing can be written the command says so on standard error, without a traceback, and exits 1."""
    done = _shell(f"router {arguments} > /dev/full", Path.cwd())
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be used (No space left on device)\n")


def test_a_closed_input_is_a_usage_error(routing: Cli) -> None:
    """A prompt that shall come from a closed standard input is none."""
    done = _shell("router route classify - --replay r.jsonl <&-", Path.cwd())
    assert (done.returncode, done.stderr) == (
        2,
        "error: prompt: standard input is closed; give the prompt itself\n",
    )


def test_an_empty_recording_name_asks_no_real_model(routing: Cli) -> None:
    """`--replay ""`, from an unset variable perhaps, is a usage error and never a paid request."""
    done = routing("route", "classify", "charged twice", "--replay", "")
    assert (done.code, done.out) == (2, "")
    assert "Is a directory" in done.err


def test_a_model_that_nobody_can_be_asked_for_is_a_finding(routing: Cli) -> None:
    """`router check` says before the first call that a name begins with no provider."""
    path = Path("policies/p.yml")
    path.write_text(path.read_text().replace("openai/small", "my-model"))
    done = routing("check")
    assert done.code == 1
    assert (
        "finding: task 'classify': nobody knows whom to ask for 'my-model'; begin its name with a provider" in done.out
    )


def test_a_missing_key_has_a_next_step(tmp_path: Path) -> None:
    """Who has no key is told once which to set, with the command that shows all; an empty one is none."""
    policy = "version: 1\nmodels: {a: {litellm: openai/x, api_key_env: FIRST_KEY}}\ntasks: {t: {ladder: [a]}}\n"
    (tmp_path / "p.yml").write_text(policy)
    done = subprocess.run(
        [ROUTER, "route", "t", "hi", "-p", "p.yml"],
        cwd=tmp_path,
        env={**os.environ, "FIRST_KEY": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("FIRST_KEY is not set") == 1
    assert done.stderr.endswith("next: set a key, or look with `router models` which are missing\n")
