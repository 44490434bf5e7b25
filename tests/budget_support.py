"""What tests of budgets share."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from router import Policy
from router.spec import adopt
from router.state import InUse, SharedBudgets
from router.world import World
from tests.support import make_policy


def policy_with(
    budgets: Mapping[str, Any], task: Mapping[str, Any] | None = None, *, api_base: str | None = None
) -> Policy:
    """The test policy with shared limits; its answers are yes or no."""
    base = make_policy({"answer": {"choice": ["yes", "no"]}, **(task or {})}, api_base=api_base)
    return _adapter().validate_json(json.dumps({**adopt(base).document.data, "budgets": dict(budgets)}))


@functools.cache
def _adapter() -> TypeAdapter[Policy]:
    return TypeAdapter(Policy)


def in_use(home: Path, world: World | None = None) -> dict[str, InUse]:
    """Every budget in use, by name; by the machine's clock unless a world is given."""
    return {one.name: one for one in SharedBudgets(home / "state", world or World()).in_use()}
