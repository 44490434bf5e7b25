"""The wheel: everything it needs inside, nothing else, and it works far from the repository."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True, capture_output=True, timeout=120)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Every file of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", target, wheel], check=True, capture_output=True, timeout=120)
    return target


@pytest.fixture
def installed(site: Path, tmp_path: Path) -> Run:
    """Runs Python code in an empty folder with the installed wheel in front of everything else."""
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(tmp_path)}
    environment.pop("ROUTER_HOME", None)

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(
            command, cwd=empty, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


COMMAND = "import sys; from router.cli import main; sys.argv[0] = 'router'; main()"


def _project(field: str) -> str:
    found = re.search(rf'^{field} = "(.+)"$', PYPROJECT, re.MULTILINE)
    assert found is not None
    return found[1]


def test_every_module_and_every_data_file_is_inside(names: set[str]) -> None:
    """All of the package as it is tracked, with templates, schema, tickets and the mark of types."""
    tracked = [path.relative_to(ROOT) for path in (ROOT / "router").rglob("*") if path.is_file()]
    package = {str(path) for path in tracked if path.suffix not in (".pyc", ".pyo")}
    templates = {f"router/templates/{path.name}" for path in (ROOT / "policies").iterdir() if path.is_file()}
    assert {"router/py.typed", "router/demo/tickets.jsonl", "router/demo/README.md"} <= package
    assert "router/templates/policy.schema.json" in templates
    assert "router/templates/models.yml" in templates
    inside = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert inside == package | templates


def test_nothing_else_is_inside(names: set[str]) -> None:
    """No tests, no evaluations, no docs, no path file, nothing that was compiled or left behind."""
    assert {name.split("/")[0] for name in names} == {"router", f"cascade_router-{_project('version')}.dist-info"}
    assert [name for name in names if re.search(r"\.(pth|pyc|npz|db|env)$|__pycache__|/tests?/|/evals/", name)] == []


def test_the_files_are_those_of_the_checkout(wheel: Path) -> None:
    """Corpus, schema and templates are the very bytes of the repository."""
    pairs = {"router/demo/tickets.jsonl": "router/demo/tickets.jsonl"}
    pairs |= {f"router/templates/{path.name}": f"policies/{path.name}" for path in (ROOT / "policies").glob("*.*")}
    with zipfile.ZipFile(wheel) as archive:
        for packed, source in pairs.items():
            assert archive.read(packed) == (ROOT / source).read_bytes(), packed


def test_the_metadata_is_the_projects(wheel: Path) -> None:
    """Name, version, Python, licence, dependencies and extras as pyproject.toml has them, and the README as page."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == (_project("name"), _project("version"))
    assert (metadata["Requires-Python"], metadata["License-Expression"]) == (_project("requires-python"), "Apache-2.0")
    assert metadata["Description-Content-Type"] == "text/markdown"
    needed = metadata.get_all("Requires-Dist") or []
    listed = PYPROJECT.partition("dependencies = [")[2].partition("\n]")[0]
    names = {name.replace(".", "-") for name in re.findall(r'^  "([\w.-]+)', listed, re.MULTILINE)}
    assert {re.split(r"[^\w-]", one)[0] for one in needed if "extra ==" not in one} == names
    assert metadata.get_all("Provides-Extra") == re.findall(
        r"^(\w+) = \[$", PYPROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0], re.MULTILINE
    )


def test_the_command_and_the_plugin_are_registered(wheel: Path) -> None:
    """`router` on the command line, and the plugin for the tests of those who use it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        points = configparser.ConfigParser()
        points.read_string(archive.read(name).decode())
    assert dict(points["console_scripts"]) == {"router": "router.cli:main"}
    assert dict(points["pytest11"]) == {"router": "router.pytest_plugin"}


def test_the_installed_package_is_the_one_that_runs(installed: Run, site: Path) -> None:
    """What the tests below run is the wheel, not this checkout, and its version is the project's."""
    done = installed("import router; print(router.__file__); print(router.__version__)")
    assert done.stdout.splitlines() == [str(site / "router" / "__init__.py"), _project("version")]
    assert done.stderr == ""


def test_init_and_check_work_outside_the_repository(installed: Run, tmp_path: Path) -> None:
    """A new user's first two commands: templates and schema come from the wheel, and have no finding."""
    written = installed(COMMAND, "init")
    assert (written.returncode, written.stderr) == (0, "")
    assert written.stdout.splitlines()[-1].startswith("next: edit policies/")
    folder = tmp_path / "empty" / "policies"
    for source in (ROOT / "policies").iterdir():
        assert (folder / source.name).read_bytes() == source.read_bytes()
    checked = installed(COMMAND, "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.splitlines()[-1] == "no findings"


def test_the_version_command_works_outside_the_repository(installed: Run) -> None:
    """`router --version` is the wheel's."""
    done = installed(COMMAND, "--version")
    assert (done.returncode, done.stdout) == (0, f"cascade-router {_project('version')}\n")


def test_the_demos_tickets_are_found_outside_the_repository(installed: Run) -> None:
    """`router demo` reads its corpus from wherever the package was installed."""
    done = installed("from router.demo import tickets; print(len(tickets()), len({row.label for row in tickets()}))")
    rows = (ROOT / "router" / "demo" / "tickets.jsonl").read_text(encoding="utf-8").count("\n")
    assert done.stdout.split() == [str(rows), "9"]


def test_a_call_works_outside_the_repository(installed: Run) -> None:
    """With a template and scripted models, as the README's first block does it."""
    assert installed(COMMAND, "init", "classification").returncode == 0
    done = installed(
        "from router import Router, load_policy\n"
        "from router.testing import ScriptedModels\n"
        "task, rung = next((n, t.ladder[0]) for n, t in load_policy().tasks.items())\n"
        "with Router(backend=ScriptedModels({rung: 'billing'})) as router:\n"
        "    print(router.route(task, 'I was charged twice').text)\n"
    )
    assert (done.stdout, done.stderr) == ("billing\n", "")
