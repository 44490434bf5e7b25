"""The default backend: local classifiers for names that begin with `local/`, litellm for every other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from router.core.call import Call, Chunk, Outcome
from router.core.policy import Model
from router.models import About, Facts, aparts, parts
from router.models.litellm import LiteLLM
from router.models.local import PREFIX, LocalModels


class RealModels:
    """Every model that really works on a prompt, wherever it runs."""

    def __init__(self, folder: Path) -> None:
        self._local = LocalModels(folder)
        self._remote = LiteLLM()

    def _of(self, model: Model) -> LocalModels | LiteLLM:
        return self._local if model.litellm.startswith(PREFIX) else self._remote

    def about(self, model: Model) -> About:
        """Capabilities of a model and whether its key is there."""
        return self._of(model).about(model)

    def facts(self, model: Model) -> Facts:
        return self._of(model).facts(model)

    def count_tokens(self, call: Call) -> int:
        return self._of(call.model).count_tokens(call)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        return self._of(call.model).send(call, timeout_s)

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        return await self._of(call.model).asend(call, timeout_s)

    def stream(self, call: Call, timeout_s: float | None) -> Iterator[Chunk | Outcome]:
        return parts(self._of(call.model), call, timeout_s)

    def astream(self, call: Call, timeout_s: float | None) -> AsyncIterator[Chunk | Outcome]:
        return aparts(self._of(call.model), call, timeout_s)
