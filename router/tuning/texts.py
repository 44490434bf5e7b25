"""The words of prompts and drafts as signals: fitted on hashed words, each row scored by a fit that left it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.word_scores import WORD_FEATURES, Words, WordSignal, word_counts
from router.tuning.features import Floats
from router.tuning.fit import FOLDS, log_loss, weighted
from router.tuning.runs import EvalRun

# With fewer rows a thousand words say nothing.
MIN_ROWS = 200
# Strengths of the fit that are tried; the one that says more of held-out rows is kept.
_STRENGTHS = (0.01, 0.03, 0.1)
# How much less a word is held back than a signal: a text's words have the length 1 in all, a signal's spread is 1.
_LOOSER = 3.0


class WordFit(NamedTuple):
    """What words say, and what that is for each row when the row is left out."""

    words: Words
    out_of_fold: Floats


def word_columns(run: EvalRun, model: int, words: Mapping[WordSignal, Words]) -> dict[str, Floats]:
    """The word signals of every row, as `route` reads them; those that the run has already are left as they are."""
    there = run.signals.get(run.models[model], {})
    found: dict[str, Floats] = {}
    for name, fitted in words.items():
        texts = texts_of(run, model, name)
        if name in there or texts is None:
            continue
        table = hashed(texts)
        logit = fitted.intercept + table @ np.asarray(fitted.weights)
        if name == "prompt_words" and run.group is not None:
            logit = logit + np.array([fitted.groups.get(str(one), 0.0) for one in run.group.tolist()])
        found[name] = _sigmoid(logit)
    return found


def texts_of(run: EvalRun, model: int, name: WordSignal) -> NDArray[np.object_] | None:
    """The texts that a word signal is read off."""
    if name == "prompt_words":
        return run.prompts
    return None if run.drafts is None else run.drafts[:, model]


def hashed(texts: Sequence[Any] | NDArray[np.object_]) -> Any:
    """Texts by hashed words, each row of length 1; a sparse matrix."""
    from scipy.sparse import csr_matrix

    indices: list[int] = []
    values: list[float] = []
    ends = [0]
    for text in texts:
        counts = word_counts(text or "")
        row = np.fromiter(counts.values(), float, len(counts))
        indices += counts.keys()
        values += (row / max(float(np.sqrt(row @ row)), 1e-12)).tolist()
        ends.append(len(indices))
    return csr_matrix((values, indices, ends), shape=(len(ends) - 1, WORD_FEATURES.buckets))


def fit_words(
    table: Any,
    outcome: Floats,
    folds: NDArray[np.intp],
    *,
    groups: NDArray[np.object_] | None = None,
    beside: Floats | None = None,
) -> WordFit:
    """Fit the chance of an outcome from hashed words, and from the group of a row where it has one.

    Parameters
    ----------
    table
        Hashed words, a row for each text.
    outcome
        0 to 1.
    folds
        The fold of each row.
    groups
        The group of each row; its part is in the words' chance.
    beside
        Other signals, a column each, that are fitted together with the words but are not part of their chance: so the
        words tell only what the signals do not.
    """
    from scipy.sparse import csr_matrix, hstack

    names: list[str] = []
    parts = [table * _LOOSER]
    if groups is not None:
        known, codes = np.unique(groups.astype(str), return_inverse=True)
        names = known.tolist()
        ones = (np.full(len(codes), _LOOSER), (np.arange(len(codes)), codes))
        parts.append(csr_matrix(ones, shape=(len(codes), len(names))))
    size = WORD_FEATURES.buckets
    own = size + len(names)
    if beside is not None and beside.shape[1]:
        spread = beside.std(axis=0)
        parts.append(csr_matrix((beside - beside.mean(axis=0)) / np.where(spread > 0, spread, 1.0)))
    whole = hstack(parts).tocsr()
    _, strength, chances = min(
        (_held_out(whole, outcome, folds, strength, own) for strength in _STRENGTHS), key=lambda one: one[0]
    )
    weights, intercept = _fitted(whole, outcome, strength)
    weights = (weights * _LOOSER).tolist()
    by_group = dict(zip(names, weights[size:own], strict=True))
    return WordFit(Words(tuple(weights[:size]), intercept, by_group), chances)


def _held_out(
    table: Any, outcome: Floats, folds: NDArray[np.intp], strength: float, own_columns: int
) -> tuple[float, float, Floats]:
    """The held-out loss of a strength, the strength, and the held-out chances by the words' own columns."""
    found, chances = np.empty(len(outcome)), np.empty(len(outcome))
    for fold in range(FOLDS):
        own, others = folds == fold, folds != fold
        weights, intercept = _fitted(table[others], outcome[others], strength)
        found[own] = _sigmoid(intercept + table[own] @ weights)
        chances[own] = _sigmoid(intercept + table[own][:, :own_columns] @ weights[:own_columns])
    return log_loss(found, outcome), strength, chances


def _fitted(table: Any, outcome: Floats, strength: float) -> tuple[Floats, float]:
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    if outcome.min() == outcome.max():
        p = (outcome.sum() + 1.0) / (len(outcome) + 2.0)  # Laplace's rule, as for calibrators.
        return np.zeros(table.shape[1]), float(np.log(p / (1.0 - p)))
    twice, right, weight = weighted(np.arange(len(outcome), dtype=float), outcome)
    rows = table if len(twice) == len(outcome) else vstack([table, table])
    # The solver's steps are so short that threads mostly wait for each other.
    with threadpool_limits(1):
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(rows, right, sample_weight=weight)
    return model.coef_[0], float(model.intercept_[0])


def _sigmoid(logit: Any) -> Floats:
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0 / (1.0 + small), small / (1.0 + small)))
