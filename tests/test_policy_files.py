"""Policy files: what loads, how several files merge, and what each fault is told as."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import Router
from router.core.limits import Allowance, Budgets
from router.core.policy import AnswerKind, Budget, Model, Policy, Price, Task
from router.errors import PolicyError
from router.spec import adopt, load, load_policy
from router.spec.document import Document, merge
from router.spec.load import Loaded
from router.testing import ScriptedModels
from tests.strategies import json_values, policies, yaml_text, yamlish

BASE = """\
version: 1
models:
  small: {litellm: a/small}
  large: {litellm: a/large}
tasks:
  t:
    ladder: [small, large]
"""
TASK_LINE = 8
"""Where `task_key` puts its first line."""


def task_key(text: str) -> str:
    """The base policy with more keys in its task."""
    return BASE + "".join(f"    {line}\n" for line in text.splitlines())


def model_key(text: str) -> str:
    """The base policy with more keys in its first model."""
    return BASE.replace("{litellm: a/small}", "{litellm: a/small, " + text + "}")


def ladder(text: str) -> str:
    """The base policy with another ladder."""
    return BASE.replace("[small, large]", text)


CHOICE = task_key("answer: {choice: [a, b]}")
THREE = BASE.replace("  large:", "  other: {litellm: a/other}\n  large:")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for policies."""
    path = tmp_path / "policies"
    path.mkdir()
    return path


def load_text(folder: Path, text: str | bytes) -> Loaded:
    """Load one file with this content."""
    path = folder / "p.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path)


def refusal(folder: Path, text: str | bytes) -> PolicyError:
    """The error that this content leads to."""
    with pytest.raises(PolicyError) as caught:
        load_text(folder, text)
    return caught.value


# What loads


def test_the_smallest_policy_loads(folder: Path) -> None:
    """Version and models are enough, and everything else has its documented default."""
    policy = load_text(folder, BASE).policy
    assert policy == Policy(1, {"small": Model("a/small"), "large": Model("a/large")}, {"t": Task(("small", "large"))})
    assert policy.tasks["t"].thresholds() == (0.8,)


def test_a_policy_that_is_only_a_version_loads(folder: Path) -> None:
    """A policy without tasks is a policy."""
    assert load_text(folder, "version: 1\n").policy == Policy(1)


def test_every_built_field_of_a_task_is_read(folder: Path) -> None:
    """Each value of the file arrives in the field of its name."""
    text = task_key(
        "threshold: [0.25]\nanswer: {choice: [a, b]}\nsystem: Be brief.\nparams: {temperature: 0}\n"
        "max_input_tokens: 100\nmax_output_tokens: 8\ndeadline_s: 4\nretry: {attempts: 2, max_wait_s: 1.5}\n"
        "on_filter: climb\nbudget: {usd_per_call: 0.01}\ntemplate_version: v2"
    )
    task = load_text(folder, text).policy.tasks["t"]
    assert task.thresholds() == (0.25,)
    assert task.answer == AnswerKind(choice=("a", "b"))
    assert (task.system, task.params, task.template_version) == ("Be brief.", {"temperature": 0}, "v2")
    assert (task.max_input_tokens, task.max_output_tokens, task.deadline_s) == (100, 8, 4.0)
    assert (task.retry.attempts, task.retry.max_wait_s, task.on_filter) == (2, 1.5, "climb")
    assert str(task.budget.usd_per_call) == "0.01"


@pytest.mark.parametrize("written", ["0.1", "'0.1'"], ids=["number", "text"])
def test_a_price_is_the_decimal_that_was_written(folder: Path, written: str) -> None:
    """0.1 is one tenth and not the nearest binary fraction."""
    price = load_text(folder, model_key(f"price: {{input_usd_per_mtok: {written}}}")).policy.models["small"].price
    assert str(price.input_usd_per_mtok) == "0.1"


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "1:30"])
def test_words_that_yaml_1_1_read_as_something_else_are_text(folder: Path, word: str) -> None:
    """Files are YAML 1.2, where only `true` and `false` are truth values and nothing counts in sixties."""
    assert load_text(folder, task_key(f"system: {word}")).policy.tasks["t"].system == word


@pytest.mark.parametrize(("written", "value"), [("010", 10), ("0o10", 8), ("0x10", 16)])
def test_numbers_are_those_of_yaml_1_2(folder: Path, written: str, value: int) -> None:
    """A leading zero does not make a number octal."""
    assert load_text(folder, task_key(f"max_output_tokens: {written}")).policy.tasks["t"].max_output_tokens == value


def test_labels_that_look_like_truth_values_are_labels(folder: Path) -> None:
    """`[yes, no]` needs no quotes."""
    answer = load_text(folder, task_key("answer: {choice: [yes, no]}")).policy.tasks["t"].answer
    assert answer.choice == ("yes", "no")


def test_an_alias_stands_for_its_value(folder: Path) -> None:
    """Aliases may save typing, an anchor that is set twice included."""
    text = "version: 1\nmodels:\n  a: &m {litellm: x/a}\n  b: *m\n  c: &m {litellm: x/c}\n  d: *m\n"
    models = load_text(folder, text).policy.models
    assert [model.litellm for model in models.values()] == ["x/a", "x/a", "x/c", "x/c"]


@pytest.mark.parametrize("text", ["\ufeff" + BASE, BASE.replace("\n", "\r\n")], ids=["byte_order_mark", "crlf"])
def test_files_of_other_editors_load(folder: Path, text: str) -> None:
    """A byte order mark and Windows line ends change nothing."""
    assert load_text(folder, text).policy == load_text(folder, BASE).policy


@pytest.mark.parametrize("answer", ["{number: {min: 1, max: 1}}", "{text: {min_chars: 1, max_chars: 1}}"])
def test_bounds_that_leave_one_value_load(folder: Path, answer: str) -> None:
    """A range of one is a range."""
    assert "t" in load_text(folder, task_key(f"answer: {answer}")).policy.tasks


# Where policies are looked for


def test_the_argument_wins_over_the_variable_and_that_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies come from the argument, `ROUTER_POLICIES`, else `./policies`."""
    for name in ("argument", "variable", "policies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.yml").write_text(f"version: 1\nmodels: {{{name}: {{litellm: a/b}}}}\n")
    monkeypatch.chdir(tmp_path)
    assert list(load_policy().models) == ["policies"]
    monkeypatch.setenv("ROUTER_POLICIES", str(tmp_path / "variable"))
    assert list(load_policy().models) == ["variable"]
    assert list(load_policy("argument").models) == ["argument"]


@pytest.mark.parametrize(("name", "says"), [("nowhere", "is not there"), ("", "holds no policy (*.yml)")])
def test_a_place_without_policies_names_router_init(folder: Path, name: str, says: str) -> None:
    """A missing folder and one without policies tell how to get a policy."""
    (folder / "notes.txt").write_text("version: 1")
    with pytest.raises(PolicyError) as caught:
        load(folder / name)
    assert str(caught.value) == (
        f"{folder / name}: {says}; run `router init` to write one from a template, or set ROUTER_POLICIES"
    )


def test_a_folder_in_place_of_a_file_is_told(folder: Path) -> None:
    """What cannot be read is a PolicyError too."""
    (folder / "odd.yml").mkdir()
    with pytest.raises(PolicyError, match=r"cannot be read .* check the name and its rights"):
        load(folder)


def test_the_folder_of_tuned_files_stands_beside_the_policy(folder: Path) -> None:
    """A single file and its folder lead to the same `tuned/`."""
    assert load_text(folder, BASE).folder == folder
    assert load(folder).folder == folder


# Several files


def write(folder: Path, **files: str) -> None:
    """Write policy files by name."""
    for name, text in files.items():
        (folder / f"{name}.yml").write_text(text)


def test_the_files_of_a_folder_are_one_policy(folder: Path) -> None:
    """Models and tasks may stand in files of their own."""
    write(folder, a="version: 1\nmodels: {m: {litellm: a/b}}\n", b="version: 1\ntasks: {t: {ladder: [m]}}\n")
    loaded = load(folder)
    assert loaded.policy == Policy(1, {"m": Model("a/b")}, {"t": Task(("m",))})
    assert loaded.files == (folder / "a.yml", folder / "b.yml")


def test_a_model_that_two_files_define_is_refused(folder: Path) -> None:
    """Which one counts would hang on the files' names."""
    write(folder, a=BASE, b="version: 1\n\nmodels:\n  other: {litellm: a/b}\n  large: {litellm: a/b}\n")
    with pytest.raises(PolicyError) as caught:
        load(folder)
    assert (caught.value.path, caught.value.line, caught.value.where) == (str(folder / "b.yml"), 5, "models.large")
    assert str(caught.value).endswith(
        f"is defined in {folder / 'a.yml'}:4 too; keep one, or mark this file as an overlay with `environment:`"
    )


def test_each_file_has_a_version_of_this_grammar(folder: Path) -> None:
    """A file of another version is refused although the next one has the right one."""
    write(folder, a="version: 2\nmodels: {m: {litellm: a/b}}\n", b="version: 1\n")
    with pytest.raises(PolicyError) as caught:
        load(folder)
    assert str(caught.value) == f"{folder / 'a.yml'}:1: version: should be 1, found 2"


def test_an_overlay_applies_only_when_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its values nor its faults count unless the argument or `ROUTER_ENV` names it."""
    write(folder, a=BASE, prod="environment: prod\ntasks: {t: {threshold: 0.9}}\n", test="environment: test\nodd: 1\n")
    assert load(folder).policy.tasks["t"].threshold == 0.8
    assert load(folder, environment="prod").policy.tasks["t"].threshold == 0.9
    monkeypatch.setenv("ROUTER_ENV", "prod")
    assert load(folder).policy.tasks["t"].threshold == 0.9
    assert load(folder).files == (folder / "a.yml", folder / "prod.yml")
    with pytest.raises(PolicyError, match="unknown key 'odd'"):
        load(folder, environment="test")


def test_an_overlay_merges_mappings_and_replaces_the_rest(folder: Path) -> None:
    """Mappings merge key by key at every depth; lists, texts and numbers are replaced."""
    write(
        folder,
        a=task_key("params: {temperature: 0, top_p: 0.5}\nanswer: {choice: [a, b, c]}"),
        b="environment: prod\nmodels: {big: {litellm: a/big}, large: {api_base: http://x}}\n"
        "tasks: {t: {ladder: [big], params: {top_p: 1}, answer: {choice: [x, y]}}}\n",
    )
    policy = load(folder, environment="prod").policy
    assert policy.models["large"] == Model("a/large", api_base="http://x")
    assert policy.tasks["t"].params == {"temperature": 0, "top_p": 1}
    assert policy.tasks["t"].answer.choice == ("x", "y")
    assert policy.tasks["t"].ladder == ("big",)


def test_an_unknown_environment_is_refused(folder: Path) -> None:
    """A mistyped environment must not run with the base policy."""
    write(folder, a=BASE, prod="environment: prod\n", test="environment: test\n")
    with pytest.raises(PolicyError) as caught:
        load(folder, environment="prd")
    assert str(caught.value) == f"{folder}: no file says `environment: prd`; there is prod, test"


def test_an_environment_without_any_overlay_is_refused(folder: Path) -> None:
    """The message says that there is no overlay at all."""
    write(folder, a=BASE)
    with pytest.raises(PolicyError, match="there is no overlay"):
        load(folder, environment="prod")


def test_an_overlay_alone_is_no_policy(folder: Path) -> None:
    """A single overlay says what it lacks."""
    write(folder, prod="environment: prod\n" + BASE)
    with pytest.raises(PolicyError) as caught:
        load(folder / "prod.yml")
    assert str(caught.value) == (
        f"{folder / 'prod.yml'}: is an overlay for environment 'prod'; "
        "give the folder that has the file it changes, too"
    )


@pytest.mark.parametrize(
    ("overlay", "file", "line"),
    [
        ("tasks:\n  t:\n    threshold: 7\n", "b.yml", 4),
        ("tasks:\n  t:\n    ladder:\n    - small\n    - lage\n", "b.yml", 6),
        ("tasks:\n  t:\n    deadline_s: 5\n", "a.yml", 8),
    ],
    ids=["value_of_overlay", "list_of_overlay", "value_of_base"],
)
def test_a_fault_is_located_in_the_file_that_holds_it(folder: Path, overlay: str, file: str, line: int) -> None:
    """After a merge each value still knows its own file and line."""
    faulty = "max_output_tokens: 0" if file == "a.yml" else "max_output_tokens: 1"
    write(folder, a=task_key(faulty), b="environment: prod\n" + overlay)
    with pytest.raises(PolicyError) as caught:
        load(folder, environment="prod")
    assert (caught.value.path, caught.value.line) == (str(folder / file), line)


def test_a_merge_changes_neither_of_its_documents() -> None:
    """Merging is a function of two values."""
    base, over = Document({"a": {"b": 1, "c": [1]}}, {("a",): ("x", 1)}), Document({"a": {"b": 2}}, {("a",): ("y", 2)})
    before = copy.deepcopy((base.data, base.marks, over.data, over.marks))
    assert merge(base, over).data == {"a": {"b": 2, "c": [1]}}
    assert (base.data, base.marks, over.data, over.marks) == before


# The hash


def test_the_hash_changes_with_values_only(folder: Path) -> None:
    """Comments and order do not count; any value does."""
    one = load_text(folder, BASE).policy_hash
    swapped = BASE.replace("  small: {litellm: a/small}\n", "") + "# note\n"
    swapped = swapped.replace("tasks:", "  small: {litellm: a/small}\ntasks:")
    assert load_text(folder, swapped).policy_hash == one
    assert load_text(folder, task_key("threshold: 0.9")).policy_hash != one


# Every fault


@dataclass(frozen=True)
class Bad:
    """A file that is refused, where, and in which words."""

    text: str | bytes
    says: str
    where: str = ""
    line: int | None = TASK_LINE


NO_RUNG = (
    "a rung is the name of a model, or `{panel: [a, b]}` of two to eight, each a model or one question such as "
    "`{judge: c}`; fallbacks are part of the grammar but not built yet"
)
NOT_BUILT = "is part of the grammar but not built yet; remove it"
KINDS = "name exactly one kind of choice, number, json, pattern, text; found "
BOMB = "".join(
    f"{name}: &{name} [{','.join([f'*{inner}'] * 9)}]\n" for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TOO_MANY = "grows beyond 20,000 values; write its aliases out"
TOO_DEEP = "is nested deeper than 32 levels; a policy needs about six"
NO_TAG = "is not one that a policy may use; remove it"

BAD = {
    # Keys
    "unknown_key": Bad(
        task_key("treshold: 0.5"), "unknown key 'treshold'; did you mean 'threshold'?", "tasks.t.treshold"
    ),
    "unknown_key_at_the_top": Bad(BASE + "modles: {}\n", "unknown key 'modles'; did you mean 'models'?", "modles"),
    "unknown_key_of_a_model": Bad(
        model_key("api_bse: x"), "unknown key 'api_bse'; did you mean 'api_base'?", "models.small.api_bse", 3
    ),
    "unknown_key_of_a_price": Bad(
        model_key("price: {input_usd: 1}"),
        "unknown key 'input_usd'; did you mean 'input_usd_per_mtok'? "
        "Prices are US dollars, those of tokens per million.",
        "models.small.price.input_usd",
        3,
    ),
    "unknown_key_of_an_answer": Bad(
        task_key("answer:\n  choise: [a, b]"),
        "unknown key 'choise'; did you mean 'choice'?",
        "tasks.t.answer.choise",
        TASK_LINE + 1,
    ),
    "unknown_key_like_no_other": Bad(
        task_key("retry: {zzz: 1}"), "unknown key 'zzz'; there is 'attempts', 'max_wait_s'", "tasks.t.retry.zzz"
    ),
    "key_in_a_file": Bad(
        model_key("api_key: sk-1"),
        "unknown key 'api_key': a key has no place in a file; use `api_key_env:` of the model",
        "models.small.api_key",
        3,
    ),
    "key_in_place_of_its_variable": Bad(
        model_key("api_key_env: sk-1"),
        "is no name of an environment variable; give a name like OPENAI_API_KEY, never the key",
        "models.small.api_key_env",
        3,
    ),
    "duplicate_key": Bad(task_key("ladder: [small]"), "the key 'ladder' stands twice; keep one", "tasks.t"),
    "key_that_is_no_text": Bad("version: 1\n? [a, b]\n: 1\n", "a key must be plain text", "", 2),
    "merge_key": Bad(
        "version: 1\nmodels:\n  a: &a {litellm: x/y}\n  b: {litellm: z, <<: *a}\n",
        "unknown key '<<'; there is 'api_base', 'api_key_env', 'capabilities', 'context_tokens', 'headers', "
        "'image_tokens', 'litellm', 'max_output_tokens', 'params', 'price'",
        "models.b.<<",
        4,
    ),
    "missing_key": Bad("version: 1\nmodels: {a: {}}\n", "'litellm' is missing; add it", "models.a", 2),
    "task_name": Bad(
        BASE.replace("  t:", "  'my task':"),
        "is no name; use letters, digits and any of ._@+- (a letter or digit first, at most 100 characters)",
        "tasks.my task",
        6,
    ),
    # The version
    "version_2": Bad(BASE.replace("version: 1", "version: 2"), "should be 1, found 2", "version", 1),
    "version_text": Bad(BASE.replace("version: 1", "version: '1'"), "should be 1, found '1'", "version", 1),
    "version_true": Bad(BASE.replace("version: 1", "version: true"), "should be 1, found True", "version", 1),
    "version_missing": Bad(BASE.replace("version: 1\n", ""), "'version' is missing; add it", "", 1),
    # The ladder
    "unknown_model": Bad(ladder("[smal, large]"), "unknown model 'smal'; did you mean 'small'?", "tasks.t.ladder.0", 7),
    "unknown_model_like_no_other": Bad(
        ladder("[small, gpt]"), "unknown model 'gpt'; there is 'large', 'small'", "tasks.t.ladder.1", 7
    ),
    "model_twice": Bad(
        ladder("[small, small]"),
        "model 'small' stands twice in the ladder; name each rung once",
        "tasks.t.ladder.1",
        7,
    ),
    "ladder_empty": Bad(ladder("[]"), "should have at least 1 item, not 0", "tasks.t.ladder", 7),
    "ladder_too_long": Bad(ladder(f"[{'small, ' * 9}]"), "should have at most 8 items, not 9", "tasks.t.ladder", 7),
    "ladder_is_text": Bad(ladder("small"), "should be a valid array, found 'small'", "tasks.t.ladder", 7),
    "ladder_holds_a_number": Bad(ladder("[5]"), NO_RUNG, "tasks.t.ladder.0", 7),
    # Thresholds
    "threshold_nan": Bad(
        task_key("threshold: .nan"), ".nan is no number that a policy may use; give a finite one", "tasks.t.threshold"
    ),
    "threshold_inf": Bad(
        task_key("threshold: -.inf"), "-.inf is no number that a policy may use; give a finite one", "tasks.t.threshold"
    ),
    "threshold_overflows": Bad(
        task_key("threshold: 1e999"), "1e999 is no number that a policy may use; give a finite one", "tasks.t.threshold"
    ),
    "threshold_too_high": Bad(
        task_key("threshold: 1.5"), "should be less than or equal to 1, found 1.5", "tasks.t.threshold"
    ),
    "threshold_too_low": Bad(
        task_key("threshold: -0.5"), "should be greater than or equal to 0, found -0.5", "tasks.t.threshold"
    ),
    "threshold_in_a_list_too_high": Bad(
        task_key("threshold: [1.5]"), "should be less than or equal to 1, found 1.5", "tasks.t.threshold.0"
    ),
    "threshold_is_text": Bad(
        task_key("threshold: '0.8'"), "should be a valid number, found '0.8'", "tasks.t.threshold"
    ),
    "threshold_is_true": Bad(task_key("threshold: true"), "should be a valid number, found True", "tasks.t.threshold"),
    "thresholds_too_many": Bad(
        task_key("threshold: [0.1, 0.2]"),
        "threshold lists 2 numbers for 2 rungs; give one number, or one for each rung but the last",
        "tasks.t",
        6,
    ),
    # Other values
    "deadline_with_unit": Bad(task_key("deadline_s: 4s"), "should be a valid number, found '4s'", "tasks.t.deadline_s"),
    "no_attempts": Bad(
        task_key("retry: {attempts: 0}"), "should be greater than or equal to 1, found 0", "tasks.t.retry.attempts"
    ),
    "unknown_word": Bad(
        task_key("on_filter: maybe"), "should be 'raise' or 'climb', found 'maybe'", "tasks.t.on_filter"
    ),
    "price_nan": Bad(
        model_key("price: {request_usd: 'NaN'}"),
        "should be a finite number, found 'NaN'",
        "models.small.price.request_usd",
        3,
    ),
    "price_beyond_all_prices": Bad(
        model_key("price: {request_usd: '1e1000000'}"),
        "should be less than or equal to 1000000000, found '1e1000000'",
        "models.small.price.request_usd",
        3,
    ),
    "header_value_is_not_repeated": Bad(
        model_key("headers: {X-Team: 12345}"), "should be a valid string", "models.small.headers.X-Team", 3
    ),
    "number_beyond_64_bits": Bad(
        task_key("max_output_tokens: 0x" + "f" * 10_000),
        "is too large a number; give a smaller one",
        "tasks.t.max_output_tokens",
    ),
    "date": Bad(
        task_key("template_version: 2024-01-02"),
        "'2024-01-02' reads as a date; put it in quotes",
        "tasks.t.template_version",
    ),
    "half_a_character": Bad(
        task_key('system: "\\ud800"'),
        "holds half of a surrogate pair, which is no character; remove it",
        "tasks.t.system",
    ),
    "model_is_text": Bad("version: 1\nmodels: {a: x/y}\n", "should be an object, found 'x/y'", "models.a", 2),
    "models_without_a_value": Bad("version: 1\nmodels:\n", "should be an object", "models", 2),
    "environment_is_a_number": Bad(BASE + "environment: 5\n", "should be a valid string, found 5", "environment"),
    # Parameters
    **{
        f"parameter_{name}": Bad(
            task_key(f"params: {{{name}: 1}}"), f"'{name}' cannot be a parameter: {remedy}", f"tasks.t.params.{name}"
        )
        for name, remedy in {
            "api_key": "a key has no place in a file; use `api_key_env:` of the model",
            "max_tokens": "use `max_output_tokens:` of the task",
            "n": "one answer is one decision",
            "stream": "it is the caller's to choose: `route(stream=True)`",
            "timeout": "use `deadline_s:` of the task",
            "fallbacks": "the ladder is the fallback",
        }.items()
    },
    "parameter_of_a_model": Bad(
        model_key("params: {input_cost_per_token: 1}"),
        "'input_cost_per_token' cannot be a parameter: use `price:` of the model",
        "models.small.params.input_cost_per_token",
        3,
    ),
    # Answers
    "answer_of_two_kinds": Bad(
        task_key("answer: {choice: [a, b], number: {}}"), KINDS + "['choice', 'number']", "tasks.t.answer"
    ),
    "answer_of_no_kind": Bad(task_key("answer: {}"), KINDS + "none", "tasks.t.answer"),
    "one_label": Bad(task_key("answer: {choice: [a]}"), "should have at least 2 items, not 1", "tasks.t.answer.choice"),
    "labels_alike": Bad(
        task_key("answer: {choice: [Bug, other, bug]}"),
        "two labels are the same but for upper and lower case; keep one",
        "tasks.t.answer.choice",
    ),
    "label_blank": Bad(
        task_key("answer: {choice: [a, ' ']}"),
        "a label is blank, so that no answer can name it; remove it",
        "tasks.t.answer.choice",
    ),
    "label_is_a_number": Bad(
        task_key("answer: {choice: [1, a]}"), "should be a valid string, found 1", "tasks.t.answer.choice.0"
    ),
    "bounds_swapped": Bad(
        task_key("answer: {number: {min: 5, max: 1}}"),
        "min is above max, so that no answer can fit; swap them",
        "tasks.t.answer.number",
    ),
    "lengths_swapped": Bad(
        task_key("answer: {text: {min_chars: 5, max_chars: 1}}"),
        "min_chars is above max_chars, so that no answer can fit; swap them",
        "tasks.t.answer.text",
    ),
    "pattern_broken": Bad(
        task_key("answer: {pattern: '('}"),
        "is no regular expression: missing ), unterminated subpattern at position 0",
        "tasks.t.answer.pattern",
    ),
    "pattern_repeats_too_often": Bad(
        task_key("answer: {pattern: 'a{99999999999999}'}"),
        "is no regular expression: the repetition number is too large",
        "tasks.t.answer.pattern",
    ),
    "schema_broken": Bad(
        task_key("answer: {json: {type: strin}}"),
        "is no JSON Schema: 'strin' is not valid under any of the given schemas",
        "tasks.t.answer.json",
    ),
    "schema_refers_to_nothing": Bad(
        task_key("answer: {json: {items: {$ref: '#/$defs/a'}}}"),
        "is no JSON Schema: its $ref '#/$defs/a' is not in the schema; put the definition into `$defs`",
        "tasks.t.answer.json",
    ),
    "schema_refers_to_the_network": Bad(
        task_key("answer: {json: {$ref: 'http://127.0.0.1:9/x'}}"),
        "is no JSON Schema: its $ref 'http://127.0.0.1:9/x' is not in the schema; put the definition into `$defs`",
        "tasks.t.answer.json",
    ),
    "schema_that_refers_to_no_schema": Bad(
        task_key("answer: {json: {$ref: '#/x', x: {type: 5}}}"),
        "is no JSON Schema: 5 is not valid under any of the given schemas",
        "tasks.t.answer.json",
    ),
    "schema_that_refers_to_an_impossible_pattern": Bad(
        task_key("answer: {json: {items: {$ref: '#/x/y'}, x: {y: {pattern: '('}}}}"),
        "is no JSON Schema: '(' is not a 'regex'",
        "tasks.t.answer.json",
    ),
    "schema_that_refers_to_nothing_by_a_detour": Bad(
        task_key("answer: {json: {$ref: '#/x', x: {$ref: '#/y'}, y: {$ref: '#/z'}}}"),
        "is no JSON Schema: its $ref '#/z' is not in the schema; put the definition into `$defs`",
        "tasks.t.answer.json",
    ),
    "schema_with_an_impossible_pattern": Bad(
        task_key("answer: {json: {pattern: 'a{99999999999999}'}}"),
        "is no JSON Schema: the repetition number is too large",
        "tasks.t.answer.json",
    ),
    # Parts that are not built
    "fallback": Bad(ladder("[{fallback: [small, large]}]"), NO_RUNG, "tasks.t.ladder.0", 7),
    # Panels
    "panel_of_one": Bad(ladder("[{panel: [small]}, large]"), NO_RUNG, "tasks.t.ladder.0", 7),
    "panel_at_the_end": Bad(
        CHOICE.replace("[small, large]", "[{panel: [small, large]}]"),
        "a panel cannot be the last rung: what it is worth is measured against one model; put a model above it",
        "tasks.t.ladder.0",
        7,
    ),
    "panel_that_cannot_agree": Bad(
        THREE.replace("[small, large]", "[{panel: [small, other]}, large]"),
        "answers in free text are hardly ever equal, so that a panel could never agree; give the task an `answer:` of "
        "kind choice, number, json or pattern",
        "tasks.t.ladder.0",
        8,
    ),
    "panel_of_a_stranger": Bad(
        CHOICE.replace("[small, large]", "[{panel: [small, smal]}, large]"),
        "unknown model 'smal'; did you mean 'small'?",
        "tasks.t.ladder.0.panel.1",
        7,
    ),
    "panel_with_another_rung": Bad(
        CHOICE.replace("[small, large]", "[{panel: [small, large]}, large]"),
        "model 'large' stands twice in the ladder; name each rung once",
        "tasks.t.ladder.1",
        7,
    ),
    "panel_of_one_answer": Bad(
        CHOICE.replace("[small, large]", "[{panel: [small, small]}, large]\n    params: {temperature: 0}"),
        "asks 'small' 2 times, and it gives the same answer each time; give it a `temperature` above 0, or ask another "
        "model",
        "tasks.t.ladder.0",
        7,
    ),
    "question_before_any_draft": Bad(
        THREE.replace("[small, large]", "[{panel: [{judge: other}, small]}, large]"),
        "a panel begins with a model that drafts; a question is about the draft of the first member",
        "tasks.t.ladder.0.panel.0",
        8,
    ),
    "question_to_a_stranger": Bad(
        THREE.replace("[small, large]", "[{panel: [small, {judge: othr}]}, large]"),
        "unknown model 'othr'; did you mean 'other'?",
        "tasks.t.ladder.0.panel.1",
        8,
    ),
    "judge_of_its_own_answers": Bad(
        THREE.replace("[small, large]", "[{panel: [small, {judge: large}]}, large]"),
        "'large' is 'large' of the ladder, and would judge its own answers; ask another",
        "tasks.t.ladder.0.panel.1",
        8,
    ),
    "judge_of_its_own_answers_by_another_name": Bad(
        THREE.replace("[small, large]", "[{panel: [small, {judge: other}]}, large]").replace("a/other", "a/small"),
        "'other' is 'small' of the ladder, and would judge its own answers; ask another",
        "tasks.t.ladder.0.panel.1",
        8,
    ),
    "two_judges": Bad(
        THREE.replace("[small, large]", "[{panel: [small, {stated: other}, {stated: small}]}, large]"),
        "the panel asks 'stated' twice, which is one signal; ask one model",
        "tasks.t.ladder.0.panel.2",
        8,
    ),
    "question_in_two_panels": Bad(
        THREE.replace(
            "[small, large]", "[{panel: [small, {stated: other}]}, {panel: [other, {stated: other}]}, large]"
        ),
        "'stated: other' stands twice in the ladder; ask it in one panel",
        "tasks.t.ladder.1.panel.1",
        8,
    ),
    "question_of_two_kinds": Bad(
        THREE.replace("[small, large]", "[{panel: [small, {judge: other, stated: other}]}, large]"),
        NO_RUNG,
        "tasks.t.ladder.0",
        8,
    ),
    "agree_on_without_json": Bad(
        CHOICE + "    agree_on: [answer]\n",
        "names fields of a JSON answer, and the answer kind is another one; remove it",
        "tasks.t.agree_on",
        9,
    ),
    "panel_mistyped": Bad(ladder("[{panl: [small, large]}]"), NO_RUNG, "tasks.t.ladder.0", 7),
    # Limits that calls share
    "budgets_of_an_unknown_kind": Bad(
        BASE + "budgets: {team: {default: {usd_per_day: 5}}}\n",
        "unknown key 'team'; did you mean 'tenant'?",
        "budgets.team",
    ),
    "budgets_of_an_unknown_window": Bad(
        BASE + "budgets: {user: {default: {usd_per_week: 5}}}\n",
        "unknown key 'usd_per_week'; did you mean 'usd_per_day'?",
        "budgets.user.default.usd_per_week",
    ),
    "budgets_of_an_unknown_task": Bad(
        BASE + "budgets: {task: {u: {usd_per_day: 5}}}\n", "unknown task 'u'; there is 't'", "budgets.task.u"
    ),
    "budgets_without_a_limit": Bad(
        BASE + "budgets: {user: {default: {at_limit: wait}}}\n",
        "sets no limit; give one, such as usd_per_day or escalations_per_day",
        "budgets.user.default",
    ),
    "budgets_in_an_unknown_time_zone": Bad(
        BASE + "budgets: {time_zone: Europe/Berlim}\n",
        "unknown time zone 'Europe/Berlim'; did you mean 'Europe/Berlin'?",
        "budgets.time_zone",
    ),
    "a_budget_in_an_unknown_time_zone": Bad(
        BASE + "budgets: {user: {default: {usd_per_day: 1, time_zone: utc}}}\n",
        "unknown time zone 'utc'; did you mean 'UTC'?",
        "budgets.user.default.time_zone",
    ),
    "a_place_in_no_country": Bad(
        BASE + "budgets: {time_zone: Mars/Olympus}\n",
        "unknown time zone 'Mars/Olympus'; give one like UTC or Europe/Berlin",
        "budgets.time_zone",
    ),
    "a_budget_below_nothing": Bad(
        BASE + "budgets: {user: {default: {usd_per_day: -1}}}\n",
        "should be greater than or equal to 0, found -1",
        "budgets.user.default.usd_per_day",
    ),
    "a_part_of_an_escalation": Bad(
        BASE + "budgets: {user: {default: {escalations_per_day: 0.5}}}\n",
        "should be a valid integer, found 0.5",
        "budgets.user.default.escalations_per_day",
    ),
    "at_limit": Bad(
        BASE + "budgets: {at_limit: stop}\n",
        "should be 'first_rung', 'refuse' or 'wait', found 'stop'",
        "budgets.at_limit",
    ),
    "usd_per_day_twice": Bad(
        task_key("budget: {usd_per_day: 5}") + "budgets: {task: {t: {usd_per_day: 4}}}\n",
        "stands in budgets.task.t too; keep one",
        "tasks.t.budget.usd_per_day",
    ),
    "store_content": Bad(BASE + "ledger: {store_content: false}\n", NOT_BUILT, "ledger.store_content"),
    **{
        line.split(":")[0]: Bad(task_key(line), NOT_BUILT, f"tasks.t.{line.split(':')[0]}")
        for line in (
            "cache: {ttl_s: 60}",
            "prompt_cache: system",
            "shadow_rate: 0.0",
        )
    },
    # The file
    "empty": Bad("", "'version' is missing; add it", "", 1),
    "only_a_comment": Bad("# nothing\n", "'version' is missing; add it", "", 1),
    "a_list": Bad("- 1\n", "a policy is a mapping with the key `version:`", "", 1),
    "a_text": Bad("hello\n", "a policy is a mapping with the key `version:`", "", 1),
    "two_documents": Bad(
        BASE + "---\nversion: 1\n",
        "is no YAML: expected a single document in the stream, but found another document",
    ),
    "tab": Bad(
        "version: 1\nmodels:\n\tsmall: {}\n",
        "is no YAML: while scanning for the next token, found character '\\t' that cannot start any token; "
        "indent with spaces",
        "",
        3,
    ),
    "bracket_left_open": Bad(
        "version: 1\nmodels: {a\n",
        "is no YAML: while parsing a flow mapping, expected ',' or '}', but got '<stream end>'",
        "",
        3,
    ),
    "two_colons": Bad("version: 1: 2\n", "is no YAML: mapping values are not allowed here", "", 1),
    "control_character": Bad(
        "version: 1\nmodels: \x00\n", "is no YAML: it holds a character that YAML does not allow", "", None
    ),
    "escape_beyond_unicode": Bad(
        'version: "\\UFFFFFFFF"\n',
        "is no YAML: it has an escape or a %YAML line that cannot be read; write the character itself",
        "",
        None,
    ),
    "not_utf_8": Bad(b"version: \xff\n", "is not UTF-8 at byte 9; save it as UTF-8", "", None),
    "utf_16": Bad("version: 1".encode("utf-16"), "is not UTF-8 at byte 0; save it as UTF-8", "", None),
    "too_large": Bad(
        "version: 1\n#" + "x" * 256_000, "is larger than 256,000 bytes; split it into several files", "", None
    ),
    "unknown_alias": Bad("version: *x\n", "is no YAML: found undefined alias 'x'", "", 1),
    "alias_bomb": Bad("a: &a [x]\n" + BOMB, TOO_MANY, "", 1),
    "too_many_aliases": Bad(
        "a: &a 1\nb: [" + "*a, " * 101 + "]\n", "has more than 100 aliases; write the values out", "", 2
    ),
    "alias_of_itself": Bad("version: 1\nmodels: &m {a: *m}\n", TOO_MANY, "", 2),
    "brackets": Bad("version: " + "[" * 5000, TOO_DEEP, "", 1),
    "braces": Bad("{a: " * 5000, TOO_DEEP, "", 1),
    "nested_lists": Bad("- " * 5000, TOO_DEEP, "", 1),
    "python_object": Bad(
        model_key("params: !!python/object:os.system {a: b}"),
        f"the tag 'tag:yaml.org,2002:python/object:os.system' {NO_TAG}",
        "models.small.params",
        3,
    ),
    "python_call": Bad(
        "version: !!python/object/apply:os.system ['true']\n",
        f"the tag 'tag:yaml.org,2002:python/object/apply:os.system' {NO_TAG}",
        "version",
        1,
    ),
    "python_name": Bad(
        task_key("system: !!python/name:os.system x"),
        f"the tag 'tag:yaml.org,2002:python/name:os.system' {NO_TAG}",
        "tasks.t.system",
    ),
    "own_tag": Bad(ladder("!mine [small]"), f"the tag '!mine' {NO_TAG}", "tasks.t.ladder", 7),
    "set": Bad(ladder("!!set {small, large}"), f"the tag 'tag:yaml.org,2002:set' {NO_TAG}", "tasks.t.ladder", 7),
    "binary": Bad(task_key("system: !!binary aGk="), f"the tag 'tag:yaml.org,2002:binary' {NO_TAG}", "tasks.t.system"),
    "truth_value_that_is_none": Bad(
        task_key("system: !!bool x"),
        "the value 'x' has a form that a policy may not use; put it in quotes",
        "tasks.t.system",
    ),
}


@pytest.mark.parametrize("bad", [pytest.param(bad, id=name) for name, bad in BAD.items()])
def test_a_fault_is_told_with_file_line_path_and_remedy(folder: Path, bad: Bad) -> None:
    """The whole message is asserted: place, dotted path, what is wrong, what to do."""
    error = refusal(folder, bad.text)
    place = str(folder / "p.yml") + ("" if bad.line is None else f":{bad.line}")
    assert str(error) == ": ".join(part for part in (place, bad.where, bad.says) if part)
    assert (error.path, error.line, error.where) == (str(folder / "p.yml"), bad.line, bad.where)
    assert error.others == ()


def test_a_file_of_the_largest_size_loads(folder: Path) -> None:
    """The limit is part of the range."""
    assert load_text(folder, "version: 1\n#" + "x" * (256_000 - 12)).policy == Policy(1)


@pytest.mark.parametrize(("levels", "says"), [(31, "unknown key 'x'"), (32, TOO_DEEP)], ids=["deep", "too_deep"])
def test_a_file_may_nest_32_levels(folder: Path, levels: int, says: str) -> None:
    """The top mapping is the first of them."""
    assert says in str(refusal(folder, "version: 1\nx: " + "[" * levels + "]" * levels))


def test_a_pattern_that_nests_too_deep_is_refused(folder: Path) -> None:
    """Python's own limit of recursion does not come through."""
    error = refusal(folder, task_key("answer: {pattern: '" + "(" * 3000 + ")" * 3000 + "'}"))
    assert error.where == "tasks.t.answer.pattern"
    assert "is no regular expression" in str(error)


def test_several_faults_are_told_at_once_in_the_order_of_the_file(folder: Path) -> None:
    """One run of `router check` shows everything that the types can find."""
    error = refusal(folder, task_key("treshold: 0.5\ndeadline_s: -1\non_filter: maybe"))
    place = str(folder / "p.yml")
    assert str(error).splitlines() == [
        f"{place}:8: tasks.t.treshold: unknown key 'treshold'; did you mean 'threshold'?",
        f"{place}:9: tasks.t.deadline_s: should be greater than 0, found -1",
        f"{place}:10: tasks.t.on_filter: should be 'raise' or 'climb', found 'maybe'",
    ]
    assert error.others == tuple(str(error).splitlines()[1:])
    assert (error.line, error.where) == (8, "tasks.t.treshold")


def test_several_faults_between_models_and_tasks_are_told_at_once(folder: Path) -> None:
    """So are those that only a look across the file finds."""
    error = refusal(
        folder,
        model_key("params: {n: 2}").replace("[small, large]", "[smal, lage]") + "ledger: {store_content: true}\n",
    )
    assert [line.split(": ")[1] for line in str(error).splitlines()] == [
        "models.small.params.n",
        "tasks.t.ladder.0",
        "tasks.t.ladder.1",
        "ledger.store_content",
    ]


def test_a_part_that_is_not_built_may_be_null(folder: Path) -> None:
    """`null` means that a key is not set."""
    assert load_text(folder, task_key("cache: null")).policy.tasks["t"].cache is None


# Policies built in Python


def test_a_policy_built_in_python_is_checked_like_a_file() -> None:
    """The same rules, with the dotted path as the only place."""
    policy = Policy(1, {"small": Model("a/b")}, {"t": Task(("smal",))})
    with pytest.raises(PolicyError) as caught:
        adopt(policy)
    assert str(caught.value) == "tasks.t.ladder.0: unknown model 'smal'; did you mean 'small'?"


def test_a_policy_built_in_python_keeps_its_values() -> None:
    """Nulls inside parameters and schemas are values, not gaps."""
    answer = AnswerKind(json={"properties": {"a": {"const": None}}})
    policy = Policy(1, {"m": Model("a/b", params={"stop": None})}, {"t": Task(("m",), answer=answer)})
    assert adopt(policy).policy == policy


@pytest.mark.parametrize(
    "params", [{"x": object()}, {"x": b"\xff"}, {"x": 10**5000}], ids=["object", "bytes", "huge_number"]
)
def test_a_value_that_no_file_could_hold_is_refused(params: dict[str, Any]) -> None:
    """What cannot be written down cannot be hashed or recorded."""
    with pytest.raises(PolicyError, match="holds a value that no file could"):
        adopt(Policy(1, {"m": Model("a/b", params=params)}))


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
def test_a_figure_without_end_is_no_limit_that_was_left_out(figure: Any) -> None:
    """Wherever it stands in a policy that was built in Python."""
    base = {"m": Model("a/b")}
    price, task, user = Price(request_usd=figure), Budget(usd_per_day=figure), Allowance(figure, figure, usd_per_day=1)  # type: ignore[arg-type]
    for policy, place in [
        (Policy(1, {"m": Model("a/b", price=price)}), "models.m.price.request_usd"),
        (Policy(1, base, {"t": Task(("m",), budget=task)}), "tasks.t.budget.usd_per_day"),
        (Policy(1, base, budgets=Budgets(user={"ann": user})), "budgets.user.ann.usd_per_minute"),
    ]:
        with pytest.raises(PolicyError, match=f"{place}: should be a finite number, found {figure}"):
            adopt(policy)


def test_a_policy_of_wrong_types_is_refused() -> None:
    """Dataclasses check nothing themselves."""
    with pytest.raises(PolicyError, match=r"models\.m\.litellm: should be a valid string, found 5"):
        adopt(Policy(1, {"m": Model(5)}))  # type: ignore[arg-type]


# Laws


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all examples of a law share."""
    return tmp_path_factory.mktemp("law")


def load_or_refuse(place: Path, text: bytes) -> Loaded | PolicyError:
    """Load, or the one error that may come."""
    try:
        return load_text(place, text)
    except PolicyError as error:
        return error


@given(policies())
@settings(max_examples=40, deadline=None)
def test_a_valid_policy_loads_and_survives_a_round_trip(place: Path, data: dict[str, Any]) -> None:
    """A policy under the grammar loads, and adopting what was loaded changes nothing."""
    loaded = load_text(place, yaml_text(data))
    assert loaded.document.data == data
    assert adopt(loaded.policy).policy == loaded.policy


def closed_mappings(data: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the mappings whose keys the grammar names, rather than the user."""
    if where not in (("models",), ("tasks",)):
        yield where
    for key, value in data.items():
        if isinstance(value, dict) and key not in ("params", "headers", "json"):
            yield from closed_mappings(value, (*where, key))


@given(policies(), st.data())
@settings(max_examples=40, deadline=None)
def test_an_unknown_key_at_any_level_is_refused(place: Path, data: dict[str, Any], draw: st.DataObject) -> None:
    """Wherever the grammar names the keys, another one is an error at its own line."""
    where = draw.draw(st.sampled_from(sorted(closed_mappings(data))))
    owner = data
    for part in where:
        owner = owner[part]
    owner["zz_unknown"] = draw.draw(json_values())
    text = yaml_text(data)
    with pytest.raises(PolicyError, match="unknown key 'zz_unknown'") as caught:
        load_text(place, text)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if '"zz_unknown"' in line)
    assert (caught.value.where, caught.value.line) == (".".join((*where, "zz_unknown")), line)


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=60, deadline=None)
def test_any_bytes_load_or_are_refused(place: Path, text: bytes) -> None:
    """No file raises anything but PolicyError."""
    assert isinstance(load_or_refuse(place, text), Loaded | PolicyError)


@given(yamlish())
@settings(max_examples=200, deadline=None)
def test_any_yaml_loads_or_is_refused(place: Path, text: str) -> None:
    """Nor does a file from the pieces of YAML."""
    assert isinstance(load_or_refuse(place, text.encode()), Loaded | PolicyError)


@given(policies(), json_values(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_value_in_any_place_loads_or_is_refused(
    place: Path, data: dict[str, Any], value: Any, draw: st.DataObject
) -> None:
    """Nor does a good policy with one value replaced, whose fault is located in the file."""
    owner: Any = data
    while True:
        keys = range(len(owner)) if isinstance(owner, list) else sorted(owner)
        if not keys:
            break
        key = draw.draw(st.sampled_from(keys))
        if not isinstance(owner[key], dict | list) or draw.draw(st.booleans()):
            owner[key] = value
            break
        owner = owner[key]
    result = load_or_refuse(place, yaml_text(data).encode())
    assert isinstance(result, Loaded) or result.path == str(place / "p.yml")


# Sizes


@pytest.mark.parametrize("name", ["p.yml", "tuned/t.json"])
def test_a_huge_file_is_refused_unread(folder: Path, name: str) -> None:
    """Only as much is read as may be: a huge file by mistake does not fill the memory."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    (folder / "m.yml").write_text("version: 1\nmodels: {m: {litellm: x}}\ntasks: {t: {ladder: [m]}}\n")
    path.touch()
    os.truncate(path, 10**11)  # A hole of a hundred gigabytes.
    with pytest.raises(PolicyError, match=r"is larger than [\d,]+ bytes"):
        Router(folder if name.startswith("tuned") else path, backend=ScriptedModels({})).plan("t")


@pytest.mark.parametrize(
    "text",
    [
        f"version: 1\n{'k' * 100_000}: 1\n",
        f"version: 1\ntasks: {{t: {{ladder: ['{'m' * 100_000}']}}}}\nmodels: {{m: {{litellm: x}}}}\n",
        f"version: 1\nmodels: {{{'m' * 100_000}: {{}}}}\n",
        f"version: 1\nmodels: !{'t' * 100_000} x\n",
        f"version: 1\n? {'k' * 60_000}\n: 1\n? {'k' * 60_000}\n: 2\n",
        f"version: 1\nmodels: {{m: {{litellm: x, x: {'9' * 100_000}.5e999999}}}}\n",
        f"version: 1\nmodels: {{{', '.join(f'm{n}: {{}}' for n in range(5000))}}}\n",
        f"version: 1\nmodels: {{{', '.join(f'm{n}: {{litellm: x}}' for n in range(5000))}}}\n"
        "tasks: {t: {ladder: [zzz]}}\n",
        task_key(f"answer: {{pattern: '({'a' * 9999}'}}"),
        task_key(f"answer: {{json: {{type: {'a' * 9999}}}}}"),
    ],
    ids=["key", "rung", "name", "tag", "twice", "number", "many_faults", "many_names", "pattern", "schema"],
)
def test_a_message_stays_readable_however_large_the_value(folder: Path, text: str) -> None:
    """Huge keys and values are cut, and of many faults the first are told with the number of the others."""
    assert len(str(refusal(folder, text))) < 4000
