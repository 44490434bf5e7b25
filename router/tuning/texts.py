"""The words of prompts and drafts as signals: fitted on hashed words, each row scored by a fit that left it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.core.views import WORD_FEATURES, View, form_of
from router.core.word_scores import FORMS, PROMPT_WORDS, Words, WordSignal
from router.tuning.features import Floats
from router.tuning.fit import log_loss, weighted
from router.tuning.runs import EvalRun

# With fewer rows a thousand words say nothing.
MIN_ROWS = 200
# Strengths of the fit that are tried; the one that says more of held-out rows is kept.
_STRENGTHS = (0.01, 0.03, 0.1)
# How much less a word is held back than a signal: a text's words have the length 1 in all, a signal's spread is 1.
_LOOSER = 3.0
# How much of a prompt's part is a model's own and not shared by all: its weights count half, so they are held back four
# times as much. The level of each model is free. Chosen, not measured.
_OWN, _FREE = 0.5, 10.0


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
        logit = fitted.intercept + hashed(texts) @ np.asarray(fitted.weights)
        if fitted.form:
            logit = logit + forms(texts) @ np.asarray(fitted.form)
        if name in PROMPT_WORDS and run.group is not None:
            logit = logit + np.array([fitted.groups.get(str(one), 0.0) for one in run.group.tolist()])
        found[name] = _sigmoid(logit)
    return found


def texts_of(run: EvalRun, model: int, name: WordSignal) -> NDArray[np.object_] | None:
    """The texts that a word signal is read off."""
    if name in PROMPT_WORDS:
        return run.prompts
    return None if run.drafts is None else run.drafts[:, model]


def hashed(texts: Sequence[Any] | NDArray[np.object_]) -> Any:
    """Texts by hashed words, the weights of each row of length 1; a sparse matrix."""
    from scipy.sparse import csr_matrix

    rows = [_row(text or "") for text in texts]
    indices, values = (np.concatenate([row[at] for row in rows] or [np.empty(0)]) for at in (0, 1))
    ends = np.cumsum([0, *(len(row[0]) for row in rows)])
    table = csr_matrix((values, indices, ends), shape=(len(rows), WORD_FEATURES.buckets))
    table.sum_duplicates()
    return table


# Tuning reads the same texts once for every fold, target and plan.
@lru_cache(maxsize=20_000)
def _row(text: str) -> tuple[NDArray[np.int32], Floats]:
    buckets, weights, length = View(text).hashed
    return np.array(buckets, np.int32), np.array(weights, float) / max(length, 1e-12)


def forms(texts: Sequence[Any] | NDArray[np.object_]) -> Floats:
    """The form of each text, a column for each part of it."""
    return np.array([form_of(text or "") for text in texts], dtype=float).reshape(len(texts), FORMS)


def fit_words(table: Any, outcome: Floats, folds: NDArray[np.intp], beside: Floats | None = None) -> WordFit:
    """Fit the chance of an outcome from hashed words.

    Parameters
    ----------
    table
        Hashed words, a row for each text.
    outcome
        0 to 1.
    folds
        The fold of each row.
    beside
        Other signals, a column each, that are fitted together with the words but are not part of their chance: so the
        words tell only what the signals do not.
    """
    from scipy.sparse import csr_matrix, hstack

    parts = [table * _LOOSER]
    if beside is not None and beside.shape[1]:
        spread = beside.std(axis=0)
        parts.append(csr_matrix((beside - beside.mean(axis=0)) / np.where(spread > 0, spread, 1.0)))
    whole = hstack(parts).tocsr()
    alone = np.zeros(len(outcome), np.intp)
    weights, intercept, chances = _whole_and_held_out(whole, outcome, folds, alone, table.shape[1])
    return WordFit(Words(tuple((weights[: table.shape[1]] * _LOOSER).tolist()), intercept), chances)


def fit_prompts(
    prompts: NDArray[np.object_], quality: Floats, folds: NDArray[np.intp], groups: NDArray[np.object_] | None = None
) -> list[WordFit]:
    """Fit each model's chance from the words, the form and the group of a prompt, all models together.

    What is hard for one model is mostly hard for the others. So the weights of a model are what all share and a part
    of its own, which is held back more: few labels of each then tell as much as many of one.

    Parameters
    ----------
    prompts
        The texts.
    quality
        A row for each prompt, a column for each model, 0 to 1.
    folds
        The fold of each row.
    groups
        The group of each row, where calls have one.
    """
    from scipy.sparse import csr_matrix, hstack

    form = forms(prompts)
    parts, names = [hashed(prompts) * _LOOSER, csr_matrix(form - form.mean(axis=0))], []
    if groups is not None:
        known, codes = np.unique(groups.astype(str), return_inverse=True)
        names = known.tolist()
        ones = (np.full(len(codes), _LOOSER), (np.arange(len(codes)), codes))
        parts.append(csr_matrix(ones, shape=(len(codes), len(names))))
    own = hstack(parts).tocsr()
    models, columns = quality.shape[1], own.shape[1]
    whole = _shared(own, models)
    outcome, fold = quality.T.ravel(), np.tile(folds, models)
    which = np.repeat(np.arange(models), len(folds))
    weights, intercept, chances = _whole_and_held_out(whole, outcome, fold, which, whole.shape[1])
    found = []
    for model in range(models):
        part = weights[:columns] + _OWN * weights[columns * (model + 1) : columns * (model + 2)]
        level = intercept + _FREE * float(weights[columns * (models + 1) + model])
        told, formed, grouped = np.split(part, [WORD_FEATURES.buckets, WORD_FEATURES.buckets + FORMS])
        words = Words(
            tuple((_LOOSER * told).tolist()),
            level - float(form.mean(axis=0) @ formed),
            dict(zip(names, (_LOOSER * grouped).tolist(), strict=True)),
            tuple(formed.tolist()),
        )
        found.append(WordFit(words, chances[model * len(folds) : (model + 1) * len(folds)]))
    return found


def _shared(table: Any, models: int) -> Any:
    """The rows once for each model: columns that all models share, then those of each, then a level for each."""
    from scipy.sparse import csr_matrix, eye, hstack, kron

    level = kron(eye(models) * _FREE, np.ones((table.shape[0], 1)))
    return hstack([kron(np.ones((models, 1)), table), kron(eye(models), table * _OWN), csr_matrix(level)]).tocsr()


def _whole_and_held_out(
    table: Any, outcome: Floats, folds: NDArray[np.intp], model: NDArray[np.intp], own_columns: int
) -> tuple[Floats, float, Floats]:
    """Weights and intercept of the strength with the lowest held-out loss, and the held-out chances.

    The chances are by the words' own columns. The level of each fold's fit is how well the other folds went, so it is
    high where its own went badly, and a calibrator would read from the chances which fold a row is in. So they stand at
    one level for each model, which is that of the whole fit.
    """

    def told(weights: Floats) -> tuple[Floats, Floats]:
        logit = table[:, :own_columns] @ weights[:own_columns]
        level = np.bincount(model, weights=logit) / np.bincount(model)
        return logit - level[model], level[model]

    tried = []
    for strength in _STRENGTHS:
        found, apart = np.empty(len(outcome)), np.empty(len(outcome))
        for fold in range(int(folds.max()) + 1):
            own, others = folds == fold, folds != fold
            weights, intercept = _fitted(table[others], outcome[others], strength)
            found[own] = _sigmoid(intercept + table[own] @ weights)
            apart[own] = told(weights)[0][own]
        tried.append((log_loss(found, outcome), strength, apart))
    _, strength, apart = min(tried, key=lambda one: one[0])
    weights, intercept = _fitted(table, outcome, strength)
    return weights, intercept, _sigmoid(intercept + told(weights)[1] + apart)


def _fitted(table: Any, outcome: Floats, strength: float) -> tuple[Floats, float]:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    if not len(outcome) or outcome.min() == outcome.max():
        p = (outcome.sum() + 1.0) / (len(outcome) + 2.0)  # Laplace's rule, as for calibrators.
        return np.zeros(table.shape[1]), float(np.log(p / (1.0 - p)))
    rows, right, weight = weighted(outcome)
    # The solver's steps are so short that threads mostly wait for each other.
    with threadpool_limits(1):
        model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(table[rows], right, sample_weight=weight)
    return model.coef_[0], float(model.intercept_[0])


def _sigmoid(logit: Any) -> Floats:
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0 / (1.0 + small), small / (1.0 + small)))
