"""Local rungs: a linear text classifier on this machine that answers with a label and its true log-probability.

A file is a NumPy archive of plain arrays, read with pickling forbidden: `weights` and `bias` in float32, and
`about`, the JSON of the labels, the features and where it all comes from, with a checksum over everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import struct
import time
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.core.call import Call, Failure, Message, Outcome, Reply, Usage, input_tokens_estimate, texts
from router.core.faults import Fault
from router.core.policy import Model
from router.core.text_features import SIZES, Features, Size
from router.errors import PolicyError
from router.models import About, Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREFIX = "local/"
FOLDER = "local"
_FORMAT = 1
_LONG_TEXT_CHARS = 4000  # About the milliseconds that an event loop can spare, on the large rung.

# What NumPy and zipfile raise at an archive that was changed by hand.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class Classifier:
    """A fitted classifier: plain numbers, ready to score."""

    size: Size
    labels: tuple[str, ...]
    weights: NDArray[np.float32]
    """Shape (buckets, labels)."""
    rarity: NDArray[np.float32]
    """How much an n-gram of a bucket tells, by how few texts have it; shape (buckets,)."""
    bias: NDArray[np.float32]
    """Shape (labels,)."""
    provenance: Mapping[str, Any]

    @property
    def features(self) -> Features:
        """How it reads a text."""
        return SIZES[self.size]

    def log_probabilities(self, text: str) -> dict[str, float]:
        """The natural log-probability of each label; they sum to 1 as probabilities."""
        counts = self.features.counts(text)
        scores = self.bias.astype("float64")
        if counts:
            buckets = list(counts)
            values = self.rarity[buckets] * list(counts.values())
            length = math.sqrt(float(values @ values)) or 1.0
            scores = scores + (values / length) @ self.weights[buckets]
        top = float(scores.max())
        total = top + math.log(sum(math.exp(float(score) - top) for score in scores))
        return {label: float(score) - total for label, score in zip(self.labels, scores, strict=True)}


def save(classifier: Classifier, path: Path) -> None:
    """Write a classifier: whole or not at all, so that a reader never sees half a file."""
    import numpy as np

    about: dict[str, Any] = {
        "format": _FORMAT,
        "size": classifier.size,
        "labels": classifier.labels,
        "provenance": dict(classifier.provenance),
    }
    about["sha256"] = _digest(about, classifier.weights, classifier.rarity, classifier.bias)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez_compressed(
                file,
                weights=classifier.weights,
                rarity=classifier.rarity,
                bias=classifier.bias,
                about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load(path: Path) -> Classifier:
    """Read a classifier.

    Raises
    ------
    PolicyError
        There is no such file, or it is not what `router distill` wrote.
    """
    import numpy as np

    try:
        # NumPy leaves a file open that it opened and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            about = json.loads(archive["about"].tobytes())
            weights, rarity, bias = archive["weights"], archive["rarity"], archive["bias"]
    except FileNotFoundError:
        raise PolicyError("is not there; run `router distill TASK --from LABELS` to make it", path=str(path)) from None
    except _UNREADABLE as error:
        raise PolicyError(_changed(f"cannot be read ({type(error).__name__})"), path=str(path)) from error
    if not _is_about(about):
        raise PolicyError(_changed("has another format"), path=str(path))
    shape = (SIZES[about["size"]].buckets, len(about["labels"]))
    arrays = (weights, rarity, bias)
    shapes = [(np.float32, shape), (np.float32, shape[:1]), (np.float32, shape[1:])]
    if [(getattr(array, "dtype", None), getattr(array, "shape", None)) for array in arrays] != shapes:
        raise PolicyError(_changed("has arrays of another shape than its labels"), path=str(path))
    if about.pop("sha256", None) != _digest(about, *arrays) or not all(np.isfinite(array).all() for array in arrays):
        raise PolicyError(_changed("has another content than was written"), path=str(path))
    return Classifier(about["size"], tuple(about["labels"]), weights, rarity, bias, about["provenance"])


def _is_about(about: Any) -> bool:
    if not isinstance(about, dict) or about.get("format") != _FORMAT or not isinstance(about.get("provenance"), dict):
        return False
    size, labels = about.get("size"), about.get("labels")
    return (
        isinstance(size, str)
        and size in SIZES
        and isinstance(labels, list)
        and all(isinstance(label, str) for label in labels)
        and len(set(labels)) == len(labels) > 0
    )


def _changed(problem: str) -> str:
    return f"{problem}: it was changed after it was written; run `router distill` again"


def _digest(about: Mapping[str, Any], *arrays: NDArray[np.float32]) -> str:
    told = json.dumps(about, sort_keys=True).encode()
    return hashlib.sha256(b"".join([told, *(array.tobytes() for array in arrays)])).hexdigest()


class LocalModels:
    """A backend for the models named `local/NAME`: `FOLDER/local/NAME.npz` beside the policies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[str, Classifier] = {}

    def facts(self, model: Model) -> Facts:
        """No price: a local model is priced by the second, in the policy. Loads the file, so that faults show early."""
        self._classifier(model.litellm)
        return Facts()

    def about(self, model: Model) -> About:
        """A local classifier needs no key and knows how sure it is."""
        return About(("logprobs",), "none needed")

    def count_tokens(self, call: Call) -> int:
        return input_tokens_estimate(call.messages)

    def send(self, call: Call, timeout_s: float | None) -> Outcome:
        """The likeliest label of the last user message, with its log-probability as its only token's."""
        classifier = self._classifier(call.model.litellm)
        asked = last_user_text(call.messages)
        if asked is None:
            return Failure(Fault.UNSUPPORTED, detail="a local classifier needs a user message")
        started = time.thread_time()
        scores = classifier.log_probabilities(asked)
        seconds = time.thread_time() - started
        label = max(scores, key=scores.__getitem__)
        usage = Usage(input_tokens=input_tokens_estimate([{"content": asked}]), output_tokens=1)
        return Reply(
            label,
            usage,
            model_served=call.model.litellm,
            logprobs=(scores[label],),
            latency_ms=seconds * 1000,  # Of the processor: waiting for other programs is not this answer's cost.
            response=scores,
        )

    async def asend(self, call: Call, timeout_s: float | None) -> Outcome:
        # Mostly microseconds of arithmetic: only for a long text is a thread worth what it costs.
        if sum(map(len, texts(call.messages))) > _LONG_TEXT_CHARS:
            return await asyncio.to_thread(self.send, call, timeout_s)
        return self.send(call, timeout_s)

    def _classifier(self, name: str) -> Classifier:
        known = self._loaded.get(name)
        if known is None:
            known = self._loaded[name] = load(classifier_path(self._folder, name.removeprefix(PREFIX)))
        return known


def last_user_text(messages: Sequence[Message]) -> str | None:
    """What a classifier reads of a prompt, in training as in use; `None` when nobody asks anything."""
    asked = [message for message in messages if message["role"] == "user"]
    return "\n".join(texts(asked[-1:])) if asked else None


def classifier_path(folder: Path, name: str) -> Path:
    """The file of a local model beside the policies.

    Raises
    ------
    PolicyError
        The name is no plain name: it may not lead out of the folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise PolicyError(f"{PREFIX}{name}: a local model has a plain name of letters, digits, dots and dashes")
    return folder / FOLDER / f"{name}.npz"
