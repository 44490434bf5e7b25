"""The documentation is true: generated parts are current, links resolve, and every example runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import router.default
import router.errors
from docs.figures import demo as measured
from docs.figures import evaluated
from router import Router, load_policy
from router.cli.app import app
from router.testing import ScriptedModels, no_network

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIGURES = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
DATA = Path(os.environ.get("ROUTER_TEST_DATA") or ROOT.parent / "shared" / "data")

_FENCE = re.compile(r"(?P<mark><!-- not run: [^\n]+ -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# Written so that this file does not name what it looks for.
_HOSTS = re.compile(r"py[p]i\.org|pythonhoste[d]\.org|registry\.npm[j]s|conda\.anacond[a]\.org")
_MACHINE_PATHS = re.compile(r"(?<![\w./:~-])/(?:home|root|work|farm|mnt|Users)/[\w.]")


class Block(NamedTuple):
    """A block of code in a page."""

    page: Path
    line: int
    code: str
    is_run: bool


def _blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("code")) + 1, found["code"], found["mark"] is None)
        for found in _FENCE.finditer(text)
        if found["language"] == language
    ]


def _name(value: Any) -> str:
    page, line = (value.page, f":{value.line}") if isinstance(value, Block) else (value, "")
    return f"{page.relative_to(ROOT)}{line}"


def _all(language: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks(page, language)]


def _policies() -> list[Block]:
    return [block for block in _all("yaml") if re.search("^version:", block.code, re.M)]


def test_generated_parts_are_current() -> None:
    """What `python -m docs.generate` would write is what the pages hold."""
    command = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_names_a_page_that_is_not_current(tmp_path: Path) -> None:
    """`--check` exits 1 with the name of the stale file, and the next run without it mends that file."""
    copy = shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    page = copy / "faults.md"
    good = page.read_text(encoding="utf-8")
    page.write_text(good.replace("| `auth` | no |", "| `auth` | yes |"), encoding="utf-8")
    script = [sys.executable, str(copy / "generate.py")]
    checked = subprocess.run([*script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert checked.stderr.startswith("docs/faults.md: is not current")
    subprocess.run(script, capture_output=True, check=True)
    assert page.read_text(encoding="utf-8") == good


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded answers are not in {DATA}")
@pytest.mark.parametrize("number", range(len(FIGURES["evals"])))
def test_figures_of_evals_are_those_of_the_runner(number: int) -> None:
    """Each run of `evals/runs.txt` comes to what docs/figures.json holds, to the last digit."""
    line = (ROOT / "evals" / "runs.txt").read_text(encoding="utf-8").splitlines()[number]
    assert FIGURES["evals"][number] == {"arguments": line, **evaluated(line, DATA)}


def test_figures_of_the_demo_are_those_of_its_tickets() -> None:
    """Accuracy and share escalated are those of a run here, within what another scikit-learn may change."""
    found, told = measured(), FIGURES["demo"]
    assert [line["name"] for line in found["lines"]] == [line["name"] for line in told["lines"]]
    for one, other in zip(found["lines"], told["lines"], strict=True):
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.02)
        assert one["escalated"] == pytest.approx(other["escalated"], abs=0.04)
    for name, rung in found["rungs"].items():
        assert rung["calibration_error"] == pytest.approx(told["rungs"][name]["calibration_error"], abs=0.02)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_resolve(page: Path) -> None:
    """Each link to a file of the repository finds it, and each anchor a heading of that file."""
    dead = []
    for link in _LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            dead.append(link)
    assert dead == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_names_every_page() -> None:
    """Each page below docs/ has its line in the index."""
    index = ROOT / "docs" / "README.md"
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]} - {"README.md"}
    assert pages - set(_LINK.findall(index.read_text(encoding="utf-8"))) == set()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the policies of `router init`, and no way to the network."""

    def refuse(*_: object) -> None:
        raise AssertionError("an example opens a connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(router.default, "_default", None)
    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    with no_network():
        yield tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "python")], ids=_name)
def test_python_examples_run(page: Path, offline: Path) -> None:
    """The Python blocks of a page run in order in one namespace; those that define tests pass under pytest."""
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in _blocks(page, "python"):
        if not block.is_run:
            continue
        if re.search(r"^(?:async )?def test_", block.code, re.M):
            _run_pytest(block, offline)
        else:
            # Empty lines in front give tracebacks the page's own line numbers.
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)


def _run_pytest(block: Block, folder: Path) -> None:
    (folder / "test_example.py").write_text(block.code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", _policies(), ids=_name)
def test_policy_examples_load(block: Block, tmp_path: Path) -> None:
    """Each YAML block with a version is a policy without a fault."""
    path = tmp_path / "policy.yml"
    path.write_text(block.code, encoding="utf-8")
    assert load_policy(path).tasks


def test_the_first_example_of_limits_runs(offline: Path) -> None:
    """On scripted models with a price, held to the budgets of the page's policy."""
    page = ROOT / "docs" / "limits.md"
    (offline / "limits.yml").write_text(_blocks(page, "yaml")[0].code, encoding="utf-8")
    exec(compile(_blocks(page, "python")[0].code, str(page), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("block", _all("json"), ids=_name)
def test_json_examples_parse(block: Block) -> None:
    """Each JSON block is JSON."""
    json.loads(block.code)


def test_the_tuned_file_of_the_docs_is_used(offline: Path) -> None:
    """The example of a tuned file loads, and its calibrator gives the confidence."""
    (block,) = _blocks(ROOT / "docs" / "signals.md", "json")
    path = offline / "policies" / "tuned" / f"{json.loads(block.code)['task']}.json"
    path.parent.mkdir()
    path.write_text(block.code, encoding="utf-8")
    with Router("policies", backend=ScriptedModels({"luna": "billing", "opus": "billing"})) as answering:
        step = answering.route("classify-ticket", "I was charged twice").steps[0]
    assert step.confidence_source is not None
    assert re.fullmatch(r"tuned:[0-9a-f]{12}", step.confidence_source)


def test_every_error_is_documented() -> None:
    """docs/errors.md says of each public error when it comes and what to do."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    errors = [name for name, value in vars(router.errors).items() if isinstance(value, type) and name[0] != "_"]
    public = [name for name in errors if issubclass(getattr(router.errors, name), Exception) and name != "RouterError"]
    assert [name for name in public if f"\n| `{name}` |" not in text] == []


def _repository_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_machine() -> None:
    """No file of the repository has the host of a package registry or the path of somebody's machine."""
    found = []
    for path in _repository_files():
        text = path.read_bytes().decode("utf-8", "replace")
        hits = [hit[0] for rule in (_HOSTS, _MACHINE_PATHS) for hit in rule.finditer(text)]
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert found == []
