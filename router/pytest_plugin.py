"""The pytest plugin: one fixture, `scripted_router`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from router.api import Router
    from router.core.policy import Policy
    from router.testing import Script


@pytest.fixture
def scripted_router(tmp_path: Path) -> Iterator[Callable[..., Router]]:
    """A function that makes a `Router` on scripted models, with a ledger of its own and no way to the network.

    `scripted_router({"small": ["billing"], "large": "bug"}, policies="policies")`; in place of the scripts it takes
    a `ScriptedModels`, for a test that looks at its history.
    """
    from router.api import Router
    from router.testing import ScriptedModels, no_network

    with ExitStack() as stack:
        stack.enter_context(no_network())

        def make(
            scripts: Mapping[str, Script] | ScriptedModels, policies: str | Path | Policy | None = None, **options: Any
        ) -> Router:
            backend = scripts if isinstance(scripts, ScriptedModels) else ScriptedModels(scripts)
            made = Router(policies, backend=backend, **{"home": tmp_path / "router-home", **options})
            return stack.enter_context(made)

        yield make
