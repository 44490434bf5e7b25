"""Every test starts from a clean environment; one fault upstream serves all of them."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from router.cli import main
from router.testing import no_network
from tests.support import Cli, Done
from tests.upstream import Upstream


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger folder of the test's own, and none of the developer's settings."""
    for name in ("ROUTER_POLICIES", "ROUTER_ENV", "ROUTER_SECRET", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    folder = tmp_path / "router-home"
    monkeypatch.setenv("ROUTER_HOME", str(folder))
    return folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process, in a folder of its own, with no way to a real model unless it is `online`."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*arguments: object, stdin: bytes = b"", online: bool = False) -> Done:
        monkeypatch.setattr(sys, "argv", ["router", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended, nullcontext() if online else no_network():
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def _upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(_upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """An OpenAI-compatible server on loopback that misbehaves on request, with an empty bill."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    _upstream.reset()
    return _upstream


@pytest.fixture(scope="session", autouse=True)
def _loop() -> Iterator[None]:
    # A blocking litellm call makes an event loop where its thread has none, and never closes it.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()
