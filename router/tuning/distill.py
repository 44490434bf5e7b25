"""Fit a local classifier to labelled texts, and say honestly what it is worth on texts it has not seen."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from router.core.calibration import Calibrator
from router.core.text_features import SIZES, Size
from router.errors import TuningError
from router.models.local import Classifier
from router.tuning.labels import LabelledText

# With fewer rows the held-out figures say nothing: chosen, not measured.
MIN_ROWS = 40
MIN_ROWS_PER_LABEL = 4
_FOLDS = 3
_MIN_TRAIN_PER_LABEL = 2  # So that each part of the cross-validation has one.
_TEST_SHARE = 0.3
_STRENGTHS = (3.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Distilled:
    """A fitted classifier and its figures on held-out texts."""

    classifier: Classifier
    calibrator: Calibrator
    """Turns the classifier's log-probability into the probability that its label is right."""
    train_rows: int
    test_rows: int
    accuracy: float
    """Share of the held-out texts whose label it finds."""
    majority_accuracy: float
    """What always answering the commonest label would reach."""
    brier: float
    """Mean squared error of the calibrated confidence, 0 to 1."""
    calibration_error: float
    """Mean distance between confidence and share of right answers over ten bins of equal count."""
    microseconds: float
    """Median processor time of one answer."""
    confidences: tuple[float, ...]
    """Calibrated confidence of each held-out text."""
    right: tuple[bool, ...]
    """Whether its label was right."""

    def accepted_at(self, threshold: float) -> tuple[float, float | None]:
        """Share of the held-out texts that it would keep at a threshold, and its accuracy among them."""
        kept = [right for p, right in zip(self.confidences, self.right, strict=True) if p >= threshold]
        return len(kept) / len(self.right), sum(kept) / len(kept) if kept else None


def distill(rows: Sequence[LabelledText], *, size: Size = "small", seed: int = 0, source: str = "") -> Distilled:
    """Fit a classifier on the training texts and measure it on the others.

    The strength of the regularisation and the calibrator are chosen by cross-validation on the training texts alone.

    Raises
    ------
    TuningError
        Too few rows, or only one label: says how many are needed.
    """
    train, test = _split(rows, seed)
    labels = tuple(sorted({row.label for row in train}))
    targets = np.array([labels.index(row.label) for row in train])
    matrix, columns = _matrix([row.text for row in train], size)
    folds = _folds(targets, seed)
    strength, held_out = min(
        ((strength, _cross_validated(matrix, targets, folds, strength, len(labels))) for strength in _STRENGTHS),
        key=lambda fitted: -float(np.log(np.maximum(fitted[1][np.arange(len(train)), targets], 1e-12)).mean()),
    )
    calibrator = _calibrator(held_out, targets)
    weights, rarity, bias = _fit(matrix, targets, strength, columns, SIZES[size].buckets)
    about = _provenance(train, test, seed, strength, source)
    classifier = Classifier(size, labels, weights, rarity, bias, about)
    return _measure(classifier, calibrator, train, test)


def _split(rows: Sequence[LabelledText], seed: int) -> tuple[list[LabelledText], list[LabelledText]]:
    """By the rows' own `split` where they have one, else by chance within each label."""
    counts = Counter(row.label for row in rows)
    if len(rows) < MIN_ROWS:
        raise TuningError(f"{len(rows)} labelled texts are too few; at least {MIN_ROWS} are needed", needed=MIN_ROWS)
    if len(counts) < 2:
        raise TuningError(
            f"all {len(rows)} texts have the label {next(iter(counts))!r}; two labels are needed", needed=2
        )
    rare = [label for label, count in counts.items() if count < MIN_ROWS_PER_LABEL]
    if rare:
        raise TuningError(
            f"label {rare[0]!r} has {counts[rare[0]]} texts; {MIN_ROWS_PER_LABEL} of each are needed",
            needed=MIN_ROWS_PER_LABEL,
        )
    if any(row.split for row in rows):
        train, test = ([row for row in rows if row.split == name] for name in ("train", "test"))
        if len(train) + len(test) != len(rows) or not train or not test:
            raise TuningError("`split` must say train or test for every text, and both must occur", needed=len(rows))
        trained = Counter(row.label for row in train)
        if scarce := [label for label in counts if trained[label] < _MIN_TRAIN_PER_LABEL]:
            has = f"label {scarce[0]!r} has {trained[scarce[0]]} texts to train on"
            raise TuningError(f"{has}; {_MIN_TRAIN_PER_LABEL} of each are needed", needed=_MIN_TRAIN_PER_LABEL)
        return train, test
    return _split_by_chance(rows, seed)


def _split_by_chance(rows: Sequence[LabelledText], seed: int) -> tuple[list[LabelledText], list[LabelledText]]:
    """The same share of each label; a text that occurs twice is never on both sides."""
    dice = np.random.default_rng(seed)
    train: list[LabelledText] = []
    test: list[LabelledText] = []
    for label in sorted({row.label for row in rows}):
        of_label = [row for row in rows if row.label == label]
        cut = max(1, round(_TEST_SHARE * len(of_label)))
        order = dice.permutation(len(of_label))
        test += [of_label[index] for index in order[:cut]]
        train += [of_label[index] for index in order[cut:]]
    seen = {row.text for row in train}
    train += [row for row in test if row.text in seen]
    test = [row for row in test if row.text not in seen]
    if not test:
        different = len({row.text for row in rows})
        raise TuningError(
            f"the {len(rows)} texts are copies of {different}; at least {MIN_ROWS} different ones are needed",
            needed=MIN_ROWS,
        )
    return train, test


def _folds(targets: Any, seed: int) -> Any:
    """A fold for each text: those of one label are dealt out in turn, so that no fold holds all of them."""
    order = np.random.default_rng(seed).permutation(len(targets))
    folds = np.empty(len(targets), dtype=int)
    folds[order[np.argsort(targets[order], kind="stable")]] = np.arange(len(targets)) % _FOLDS
    return folds


def _matrix(texts: Sequence[str], size: Size) -> tuple[Any, Any]:
    """Texts by features, weighted by rarity, and the bucket and weight of each column; empty buckets are left out."""
    from scipy.sparse import csr_matrix, diags_array

    features = SIZES[size]
    indices: list[int] = []
    values: list[float] = []
    ends = [0]
    for text in texts:
        counts = features.counts(text)
        indices += counts.keys()
        values += counts.values()
        ends.append(len(indices))
    buckets, positions = np.unique(indices, return_inverse=True)
    matrix = csr_matrix((values, positions, ends), shape=(len(texts), len(buckets)))
    rarity = np.log((1 + len(texts)) / (1 + matrix.getnnz(axis=0))) + 1
    weighted = matrix.multiply(rarity).tocsr()
    lengths = np.sqrt(weighted.multiply(weighted).sum(axis=1)).A1
    return diags_array(1 / np.maximum(lengths, 1e-12)) @ weighted, (buckets, rarity)


def _logistic(matrix: Any, targets: Any, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # The solver's steps are so short that threads mostly wait for each other: one is up to six times as fast.
    with threadpool_limits(1):
        # Held-out figures do not change with a tighter tolerance, the time does.
        return LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(matrix, targets)


def _cross_validated(matrix: Any, targets: Any, folds: Any, strength: float, labels: int) -> Any:
    """Probabilities of each training text from a model that has not seen it; shape (texts, labels)."""
    held_out = np.zeros((len(targets), labels))
    for fold in range(_FOLDS):
        inside = folds == fold
        model = _logistic(matrix[~inside], targets[~inside], strength)
        held_out[np.ix_(inside, model.classes_)] = model.predict_proba(matrix[inside])
    return held_out


def _calibrator(held_out: Any, targets: Any) -> Calibrator:
    """From the log-probability of the likeliest label to the probability that it is right."""
    from sklearn.linear_model import LogisticRegression

    lp = np.log(np.maximum(held_out.max(axis=1), 1e-9))
    right = held_out.argmax(axis=1) == targets
    center, scale = float(lp.mean()), float(lp.std()) or 1.0
    if right.all() or not right.any():  # Nothing to learn from: as good as the smoothed share says.
        p = (right.sum() + 1) / (len(right) + 2)
        return Calibrator(("lp_first",), (center,), (scale,), (0.0,), float(math.log(p / (1 - p))))
    model = LogisticRegression(C=1e6).fit(((lp - center) / scale)[:, None], right)
    weight = max(0.0, float(model.coef_[0, 0]))  # A likelier label must not look worse.
    return Calibrator(("lp_first",), (center,), (scale,), (weight,), float(model.intercept_[0]))


def _fit(matrix: Any, targets: Any, strength: float, columns: Any, buckets: int) -> tuple[Any, Any, Any]:
    """Weights by bucket and label, the rarity of each bucket, and the bias of each label."""
    model = _logistic(matrix, targets, strength)
    coefficients, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two labels.
        coefficients, bias = np.vstack([np.zeros_like(coefficients), coefficients]), np.array([0.0, bias[0]])
    weights = np.zeros((buckets, len(bias)), dtype=np.float32)
    rarity = np.zeros(buckets, dtype=np.float32)  # An n-gram that no training text has tells nothing.
    weights[columns[0]], rarity[columns[0]] = coefficients.T, columns[1]
    return weights, rarity, bias.astype(np.float32)


def _provenance(train: Any, test: Any, seed: int, strength: float, source: str) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "source": source,
        "train_rows": len(train),
        "test_rows": len(test),
        "seed": seed,
        "inverse_regularisation": strength,
        "scikit_learn": version("scikit-learn"),
        "cascade_router": version("cascade-router"),
    }


def _measure(
    classifier: Classifier, calibrator: Calibrator, train: list[LabelledText], test: list[LabelledText]
) -> Distilled:
    confidences, right, times = [], [], []
    for row in test:
        started = time.thread_time()
        scores = classifier.log_probabilities(row.text)
        times.append(time.thread_time() - started)
        label = max(scores, key=scores.__getitem__)
        confidences.append(calibrator.probability({"lp_first": max(-20.0, scores[label])}) or 0.0)
        right.append(label == row.label)
    common = Counter(row.label for row in train).most_common(1)[0][0]
    return Distilled(
        classifier,
        calibrator,
        len(train),
        len(test),
        sum(right) / len(right),
        sum(row.label == common for row in test) / len(test),
        sum((p - hit) ** 2 for p, hit in zip(confidences, right, strict=True)) / len(right),
        _calibration_error(confidences, right),
        median(times) * 1e6,
        tuple(confidences),
        tuple(right),
    )


def _calibration_error(confidences: list[float], right: list[bool]) -> float:
    order = np.argsort(confidences, kind="stable")
    bins = [part for part in np.array_split(order, 10) if len(part)]
    gaps = [abs(np.take(confidences, part).mean() - np.take(right, part).mean()) * len(part) for part in bins]
    return float(sum(gaps) / len(right))
