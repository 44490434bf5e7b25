"""The house: imports look down, one door for each library, small modules, names that are exported on purpose."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import router
from router.options import Options

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "router"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The one module or folder that may import each library.
DOORS: dict[str, str | tuple[str, ...]] = {
    "litellm": "models/litellm",
    "openai": "shapes/openai_client.py",
    "tenacity": "models/retry.py",
    "structlog": "events.py",
    "pydantic": "spec/",
    "ruamel": "spec/",
    "jsonschema": "spec/",
    "genai_prices": "models/price_history.py",
    "sklearn": "tuning/",
    "typer": "cli/",
    "rich": "cli/",
    "pyarrow": "audit/parquet.py",
    "sqlite3": ("ledger/", "state/", "audit/"),
    "pytest": "pytest_plugin.py",
}


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.split(".")[0] for name in names}


def _place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=_place)
def test_each_library_has_one_door(path: Path) -> None:
    """A third-party library is imported by its door only, inside functions included."""
    through = {library for library, door in DOORS.items() if library in _imports(path) and not _is_door(path, door)}
    assert through == set()


def _is_door(path: Path, door: str | tuple[str, ...]) -> bool:
    return _place(path).startswith(door)


def test_imports_only_look_down() -> None:
    """The floors of the house hold, and the core imports the standard library only."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=_place)
def test_modules_and_functions_stay_small(path: Path) -> None:
    """A module has at most 400 lines and a function at most 60 without its docstring."""
    source = path.read_text()
    assert source.count("\n") <= 400
    long = [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _body_lines(node) > 60
    ]
    assert long == []


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    start = node.body[min(1, len(node.body) - 1)].lineno if ast.get_docstring(node) else first.lineno
    return (node.end_lineno or start) - start + 1


@pytest.mark.parametrize("path", MODULES, ids=_place)
def test_every_module_says_what_it_is(path: Path) -> None:
    """Each module opens with a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_exports_are_few_sorted_and_there() -> None:
    """`__all__` is sorted, at most fifteen names, and each of them resolves."""
    assert router.__all__ == sorted(router.__all__)
    assert len(router.__all__) <= 15
    assert [name for name in router.__all__ if getattr(router, name) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = router.nothing


def test_importing_router_loads_nothing_heavy() -> None:
    """`import router` and building a Router load neither litellm nor scikit-learn, and open no socket or file."""
    code = """
import sys
seen = []
def watch(event, arguments):
    if event.startswith("socket.") or event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
        seen.append(f"{event} {arguments[0]}")
sys.addaudithook(watch)
import router
first = sorted(sys.modules)
opened = list(seen)
from router import Router
import json
print(json.dumps([first, sorted(sys.modules), opened]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after_import, after_router, opened = (set(names) for names in json.loads(done.stdout))
    assert opened == set()
    heavy = {"litellm", "sklearn", "numpy", "openai", "httpx", "typer", "rich"}
    assert after_import & (heavy | {"pydantic", "structlog", "tenacity", "ruamel.yaml", "asyncio"}) == set()
    assert after_router & (heavy - {"rich"}) == set()  # structlog loads rich where it is installed.


def _parameters(function: Any) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in parameters if one.name != "self"]


def test_route_and_aroute_are_twins() -> None:
    """The four entry points have one signature and one docstring, and the docstring names every option."""
    twins: list[Any] = [router.route, router.aroute, router.Router.route, router.Router.aroute]
    assert [_parameters(twin) for twin in twins] == [_parameters(router.route)] * 4
    assert {twin.__doc__ for twin in twins} == {router.Router.route.__doc__}
    parameters = str(router.Router.route.__doc__).partition("Returns")[0]
    assert [name for name in Options.__annotations__ if name not in parameters] == []
