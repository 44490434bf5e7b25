"""litellm's price map as it was shipped, read from its file: no import of a second, and nobody has changed it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_FILE = "model_prices_and_context_window_backup.json"


@functools.cache
def price_map() -> Mapping[str, Mapping[str, Any]]:
    """Every entry by its name."""
    found = find_spec("litellm")
    path = Path(next(iter(found.submodule_search_locations or ()), "")) / _FILE if found else Path(_FILE)
    if not path.is_file():  # litellm keeps it elsewhere now.
        from router.models.litellm_library import library

        entries: Mapping[str, Mapping[str, Any]] = library().model_cost
        return entries
    loaded: dict[str, Mapping[str, Any]] = json.loads(path.read_bytes())
    return loaded


@functools.cache
def map_name() -> str:
    """Which map it is, for the record of a price."""
    return f"litellm {version('litellm')}"
