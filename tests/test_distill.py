"""Distilling: figures that hold on unseen texts, faults of label files by line, and a rung that works as advised."""

from __future__ import annotations

import gzip
import json
import math
import os
import pty
import re
import signal
import subprocess
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router
from router.core.calibration import Calibrator
from router.core.checks import build_check
from router.core.policy import AnswerKind
from router.core.text_features import SIZES, Size
from router.errors import RecordingError, TuningError
from router.models.local import load
from router.spec import ModelCalibrators, load_policy, write_tuned
from router.testing import no_network
from router.tuning import Distilled, LabelledText, distill, read_labels
from router.tuning.tables import MAX_BYTES
from tests.support import ROUTER, Cli

WORDS = {
    "billing": ["invoice", "charge", "card", "tax", "payment", "price"],
    "bug": ["crash", "error", "broken", "freeze", "fails", "blank"],
    "how-to": ["how", "where", "export", "change", "setting", "find"],
}
ALL_WORDS = [word for words in WORDS.values() for word in words]
CHECK = build_check(AnswerKind(choice=tuple(WORDS)))


def rows(
    labels: Sequence[str] = tuple(WORDS),
    count: int = 30,
    *,
    noise: int = 4,
    split: bool = False,
    seed: int = 1,
) -> list[LabelledText]:
    """So many texts of each label: two words of the label, some of any label, and one of the text's own."""
    dice = np.random.default_rng(seed)
    found = []
    for number in range(count * len(labels)):
        label = labels[number % len(labels)]
        words = [*dice.choice(WORDS[label], 2), *dice.choice(ALL_WORDS, noise), marker(number)]
        found.append(LabelledText(" ".join(words), label, ("test" if number % 4 == 0 else "train") if split else None))
    return found


def marker(number: int) -> str:
    """A word that only one text has."""
    return f"q{number:04}"


def is_trained(found: Distilled, text: str) -> bool:
    """Whether a text was trained on: then each of its n-grams is known, those of its own word among them."""
    return bool(found.classifier.rarity[list(SIZES["large"].counts(text))].all())


def same(one: Distilled, other: Distilled) -> bool:
    """Whether two fits gave identical numbers."""
    arrays = all(
        np.array_equal(getattr(one.classifier, name), getattr(other.classifier, name))
        for name in ("weights", "rarity", "bias")
    )
    return arrays and (one.classifier.labels, one.calibrator) == (other.classifier.labels, other.calibrator)


@pytest.fixture(scope="module")
def fitted() -> Distilled:
    """A classifier of three labels with a split by chance, neither perfect nor hopeless."""
    return distill(rows(count=60), seed=3, source="labels.csv")


# --- fitting


def test_what_can_be_learnt_is_learnt(fitted: Distilled) -> None:
    """On unseen texts it is far better than the commonest label, and says where its numbers come from."""
    assert fitted.accuracy > fitted.majority_accuracy + 0.3
    assert fitted.classifier.labels == tuple(sorted(WORDS))
    expected = {"source": "labels.csv", "train_rows": 126, "test_rows": 54, "seed": 3}
    provenance = dict(fitted.classifier.provenance)
    assert {name: provenance.pop(name) for name in expected} == expected
    assert set(provenance) == {"inverse_regularisation", "scikit_learn", "cascade_router"}
    assert fitted.microseconds > 0


def test_the_figures_are_what_they_say(fitted: Distilled) -> None:
    """Accuracy, Brier score and calibration error follow from the confidence and correctness of each held-out text."""
    p, right = np.array(fitted.confidences), np.array(fitted.right)
    assert (fitted.train_rows, fitted.test_rows) == (126, len(p))
    assert fitted.accuracy == pytest.approx(right.mean())
    assert fitted.brier == pytest.approx(((p - right) ** 2).mean())
    bins = np.array_split(np.argsort(p, kind="stable"), 10)
    error = sum(abs(p[part].mean() - right[part].mean()) * len(part) for part in bins) / len(p)
    assert fitted.calibration_error == pytest.approx(error)
    # Held-out figures that a coin gives: 0.25 for a Brier score, 0.5 for the error.
    assert fitted.brier < 0.25
    assert fitted.calibration_error < 0.2


@given(threshold=st.floats(0, 1))
def test_what_is_kept_at_a_threshold(fitted: Distilled, threshold: float) -> None:
    """The share at or above it and the accuracy among them, or none where nothing is."""
    confidences, right = (0.9, 0.6, 0.6, 0.2), (True, True, False, False)
    found = replace(fitted, confidences=confidences, right=right)
    kept = [hit for p, hit in zip(confidences, right, strict=True) if p >= threshold]
    assert found.accepted_at(threshold) == (len(kept) / 4, sum(kept) / len(kept) if kept else None)


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_seed_gives_identical_numbers(size: Size) -> None:
    """The same rows and seed give the same weights, calibrator and figures; another seed another split."""
    first, again, other = (distill(rows(), size=size, seed=seed) for seed in (7, 7, 8))
    assert same(first, again)
    assert (first.confidences, first.right) == (again.confidences, again.right)
    assert not same(first, other)


@pytest.mark.parametrize("by_column", [True, False], ids=["column", "chance"])
def test_held_out_texts_are_never_trained_on(by_column: bool) -> None:
    """Other texts in the place of the held-out ones change nothing that was learnt, calibrator included."""
    data = rows(split=by_column)
    found = distill(data, size="large", seed=2)
    held = [row.split == "test" if by_column else not is_trained(found, row.text) for row in data]
    assert sum(held) == found.test_rows
    assert len(data) - sum(held) == found.train_rows
    changed = [
        row._replace(text=f"crash error {marker(5000 + number)}") if is_held else row
        for number, (row, is_held) in enumerate(zip(data, held, strict=True))
    ]
    again = distill(changed, size="large", seed=2)
    assert same(found, again)
    assert found.confidences != again.confidences


def test_a_text_that_is_trained_on_counts(fitted: Distilled) -> None:
    """What the test above rests on: another text among those trained on does change the numbers."""
    data = rows(split=True)
    number = next(number for number, row in enumerate(data) if row.split == "train")
    changed = [*data[:number], data[number]._replace(text="crash error"), *data[number + 1 :]]
    assert not same(distill(data), distill(changed))


def test_chance_takes_the_same_share_of_each_label() -> None:
    """Three of ten texts of each label are held out, of a rare label at least one."""
    data = [*rows(("billing", "bug"), 40), *rows(("how-to",), 4)]
    data = [row._replace(text=f"{row.text} {marker(number)}") for number, row in enumerate(data)]
    found = distill(data, size="large")
    held = Counter(row.label for row in data if not is_trained(found, row.text))
    assert held == {"billing": 12, "bug": 12, "how-to": 1}


def test_a_copy_of_a_text_is_never_on_both_sides() -> None:
    """Real traffic repeats itself: a held-out text that was trained on would flatter every figure."""
    data = rows(count=40)
    copied = [*data, *data[::2]]
    found = distill(copied, size="large", seed=4)
    held = [row for row in copied if not is_trained(found, row.text)]
    assert len(held) == found.test_rows > 10
    assert found.train_rows == len(copied) - len(held)


def test_figures_are_not_flattered_by_copies() -> None:
    """Labels that follow from nothing cannot be guessed, though each text has copies that could be remembered."""
    dice = np.random.default_rng(0)
    texts = [f"{marker(number)} {marker(number + 500)}" for number in range(200)]
    data = [LabelledText(text, label, None) for text in texts for label in [str(dice.choice(["a", "b"]))] * 2]
    assert distill(data).accuracy < 0.75


FITS: dict[str, Callable[[], Distilled]] = {
    "plain": lambda: distill(rows()),
    "two_labels": lambda: distill(rows(("bug", "billing"))),
    "always_right": lambda: distill(rows(noise=0)),
    "nothing_to_learn": lambda: distill(
        [LabelledText(f"{marker(number)} x", "ab"[number % 2], None) for number in range(60)]
    ),
    "large": lambda: distill(rows(), size="large"),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS.keys())
def test_a_calibrator_is_a_probability_that_only_climbs(fit: Callable[[], Distilled]) -> None:
    """A likelier label never looks worse, and every confidence is a probability, at the far ends too."""
    calibrator = fit().calibrator
    assert calibrator.signals == ("lp_first",)
    lps = [-1e6, -100.0, *np.linspace(-20, 0, 200)]
    found = [calibrator.probability({"lp_first": float(lp)}) for lp in lps]
    assert all(p is not None and 0 <= p <= 1 for p in found)
    known = [p for p in found if p is not None]
    assert known == sorted(known)


def test_confidence_tells_right_from_wrong(fitted: Distilled) -> None:
    """Among unseen texts the right answers have the higher confidence on average."""
    right = [p for p, hit in zip(fitted.confidences, fitted.right, strict=True) if hit]
    wrong = [p for p, hit in zip(fitted.confidences, fitted.right, strict=True) if not hit]
    assert sum(right) / len(right) > sum(wrong) / len(wrong) + 0.1


# From 67 on: seeds at which a fold that is drawn by chance alone holds every text of the rare label.
@pytest.mark.parametrize("seed", [0, 1, 2, 67, 99, 101, 122])
def test_two_labels_work_even_where_one_is_rare(seed: int) -> None:
    """Four texts of the second label are enough to fit, whichever of them chance holds out."""
    data = [*rows(("billing",), 40, seed=seed), *rows(("bug",), 4, seed=seed)]
    found = distill(data, seed=seed)
    assert found.classifier.labels == ("billing", "bug")
    assert found.classifier.weights.shape == (1024, 2)
    assert math.isclose(sum(map(math.exp, found.classifier.log_probabilities("crash").values())), 1)


BAD_ROWS: dict[str, tuple[list[LabelledText], int, str]] = {
    "none": ([], 40, "0 labelled texts are too few; at least 40 are needed"),
    "five": (rows(count=2)[:5], 40, "5 labelled texts are too few; at least 40 are needed"),
    "one_label": (rows(("bug",), 50), 2, "all 50 texts have the label 'bug'; two labels are needed"),
    "rare_label": (
        [*rows(("bug", "billing")), *rows(("how-to",), 3)],
        4,
        "label 'how-to' has 3 texts; 4 of each are needed",
    ),
    "half_a_split": (
        [*rows(split=True)[:45], *rows()[45:]],
        90,
        "`split` must say train or test for every text, and both must occur",
    ),
    "other_split": (
        [row._replace(split="dev") for row in rows()],
        90,
        "`split` must say train or test for every text, and both must occur",
    ),
    "nothing_held_out": (
        [row._replace(split="train") for row in rows()],
        90,
        "`split` must say train or test for every text, and both must occur",
    ),
    "one_label_to_train_on": (
        [row._replace(split="train" if row.label == "bug" else "test") for row in rows(("bug", "billing"))],
        2,
        "label 'billing' has 0 texts to train on; 2 of each are needed",
    ),
    "copies": (
        [LabelledText("hi", "bug", None), LabelledText("hello", "billing", None)] * 30,
        40,
        "the 60 texts are copies of 2; at least 40 different ones are needed",
    ),
}


@pytest.mark.parametrize(("data", "needed", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_rows_that_cannot_carry_a_fit_say_how_many_would(data: list[LabelledText], needed: int, message: str) -> None:
    """The error says what is there, what is needed, and holds the number."""
    with pytest.raises(TuningError, match=f"^{re.escape(message)}$") as caught:
        distill(data)
    assert caught.value.needed == needed


# --- label files


def csv_text(data: Sequence[LabelledText]) -> str:
    """Labelled texts as a CSV file."""
    return "text,label\n" + "".join(f'"{row.text}",{row.label}\n' for row in data)


def json_lines(data: Sequence[LabelledText]) -> str:
    """Labelled texts as JSON lines."""
    return "".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in data)


def recording(data: Sequence[LabelledText], model: str = "openai/large") -> str:
    """The same as answers that a model gave to the texts."""
    return "".join(json.dumps({"model": model, "prompt": row.text, "response": row.label}) + "\n" for row in data)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("l.csv", csv_text),
        ("l.jsonl", json_lines),
        ("l.jsonl.gz", json_lines),
        ("r.jsonl", recording),
        ("r.jsonl.gz", recording),
    ],
    ids=["csv", "jsonl", "jsonl.gz", "recording", "recording.gz"],
)
def test_each_form_of_file_gives_the_same_texts(
    name: str, written: Callable[[Sequence[LabelledText]], str], bom: bytes, tmp_path: Path
) -> None:
    """CSV, JSON lines and recordings, gzipped or with a byte order mark, are read alike."""
    content = bom + written(rows()).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_labels(tmp_path / name, check=CHECK) == rows()


def test_a_split_column_and_other_columns(tmp_path: Path) -> None:
    """`split` is kept, an empty one is none, and columns of other names do not matter."""
    (tmp_path / "l.csv").write_text("id,split,label,text\n1,train,bug,a\n2,,bug,b\n\n3,test,billing,c\n")
    (tmp_path / "l.jsonl").write_text(
        '{"text": "a", "label": "bug", "split": "train", "id": 1}\n{"text": "b", "label": "bug"}\n\n'
        '{"text": "c", "label": "billing", "split": "test"}\n'
    )
    expected = [LabelledText("a", "bug", "train"), LabelledText("b", "bug", None), LabelledText("c", "billing", "test")]
    assert read_labels(tmp_path / "l.csv", check=CHECK) == expected
    assert read_labels(tmp_path / "l.jsonl", check=CHECK) == expected


def test_a_label_is_what_the_tasks_own_check_finds(tmp_path: Path) -> None:
    """Upper case and marks around a label are no other label, and texts keep commas, quotes and lines."""
    (tmp_path / "l.csv").write_text('text,label\n"a, ""b""\nc",Bug\nx,**billing**\n')
    assert read_labels(tmp_path / "l.csv", check=CHECK) == [
        LabelledText('a, "b"\nc', "bug", None),
        LabelledText("x", "billing", None),
    ]


def test_a_text_or_label_that_is_named_like_a_column_is_no_recording(tmp_path: Path) -> None:
    """Only a key `prompt` makes a recording, not the word in a text."""
    (tmp_path / "l.jsonl").write_text('{"text": "prompt", "label": "bug"}\n')
    assert read_labels(tmp_path / "l.jsonl", check=CHECK) == [LabelledText("prompt", "bug", None)]


def test_of_a_recording_the_model_says_whose_answers_are_labels(tmp_path: Path) -> None:
    """Answers of other models and errors are left out, and a chat is read as the rung will read it."""
    chat = [{"role": "user", "content": "old"}, {"role": "user", "content": "crash"}]
    lines = [
        {"model": "a/small", "prompt": "hello", "response": "nonsense"},
        {"model": "a/large", "prompt": "hello", "response": "billing"},
        {"model": "a/large", "prompt": "down", "error": {"fault": "timeout"}},
        {"model": "a/large", "prompt": chat, "response": "bug", "system": "label it"},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_labels(tmp_path / "r.jsonl", check=CHECK, model="a/large")
    assert found == [LabelledText("hello", "billing", None), LabelledText("crash", "bug", None)]


_TWO_MODELS = recording(rows()[:2], "a/one") + recording(rows()[:2], "a/two")
_GOOD = '{"text": "a", "label": "bug"}\n'

BAD_FILES: dict[str, tuple[str, bytes | None, int | None, str]] = {
    "missing": ("l.csv", None, None, ": cannot be read: No such file or directory"),
    "unknown_label_csv": (
        "l.csv",
        b"text,label\na,bug\nb,refund\n",
        3,
        ":3: the label 'refund' names none of the 3 labels of the task; mend it, or add it to `answer: {choice",
    ),
    "unknown_label_jsonl": ("l.jsonl", f'{_GOOD}\n{{"text": "b", "label": "x"}}'.encode(), 3, ":3: the label 'x' "),
    "unknown_label_recording": (
        "r.jsonl",
        (recording(rows()[:1]) + recording([LabelledText("a", "hm", None)])).encode(),
        2,
        ":2: the label 'hm' names none of the 3 labels of the task",
    ),
    "label_of_three": (
        "l.csv",
        b"text,label\na,bug or billing\n",
        2,
        ":2: the label 'bug or billing' names 2 of",
    ),
    "label_is_long": ("l.csv", b"text,label\na," + b"x" * 99 + b"\n", 2, f":2: the label '{'x' * 60}' names none of"),
    "no_text_column": (
        "l.csv",
        b"body,label\na,bug\n",
        1,
        ":1: has no column 'text'; the first line names",
    ),
    "no_label_column": ("l.csv", b"text,class\na,bug\n", 1, ":1: has no column 'label'; the first line names"),
    "empty_csv": ("l.csv", b"", 1, ":1: has no column 'label'; the first line names the columns"),
    "semicolons": ("l.csv", b"text;label\na;bug\n", 1, ":1: has no column 'label'; the first line names the columns"),
    "empty_text": ("l.csv", b"text,label\na,bug\n,bug\n", 3, ":3: has no 'text'; add it or delete the line"),
    "blank_text": ("l.csv", b"text,label\n  ,bug\n", 2, ":2: has no 'text'; add it or delete the line"),
    "short_line": ("l.csv", b"text,label\na\n", 2, ":2: has no 'label'; add it or delete the line"),
    "null_text": ("l.jsonl", b'{"text": null, "label": "bug"}', 1, ":1: has no 'text'; add it or delete the line"),
    "text_is_a_list": ("l.jsonl", b'{"text": ["a"], "label": "bug"}', 1, ":1: has no 'text'; add it"),
    "no_text_key": ("l.jsonl", b'{"body": "a", "label": "bug"}', 1, ":1: has no 'text'; add it or delete the line"),
    "no_label_key": ("l.jsonl", b'{"text": "a"}', 1, ":1: has no 'label'; add it or delete the line"),
    "latin_1": ("l.csv", "text,label\nStraße,bug\n".encode("latin-1"), 1, ": is not UTF-8 after line 1; save it as"),
    "latin_1_jsonl": (
        "l.jsonl",
        _GOOD.encode() + '{"text": "Straße", "label": "bug"}'.encode("latin-1"),
        2,
        ":2: this line is no JSON in UTF-8; mend or delete it",
    ),
    "utf_16": ("l.csv", "text,label\na,bug\n".encode("utf-16"), 1, ": is not UTF-8 after line 1; save it as UTF-8"),
    "broken_json": (
        "l.jsonl",
        f'{_GOOD}{{"text": '.encode(),
        2,
        ":2: this line is no JSON in UTF-8; mend or delete it",
    ),
    "deep_json": ("l.jsonl", b"[" * 100_000, 1, ":1: this line is no JSON in UTF-8; mend or delete it"),
    "json_list": ("l.jsonl", b'["a", "bug"]\n', 1, ":1: is no JSON object; mend or delete it"),
    "binary": ("l.jsonl", bytes(range(256)), 1, ":1: this line is no JSON in UTF-8; mend or delete it"),
    "long_field": ("l.csv", b"text,label\n" + b"a" * 200_000 + b",bug\n", 1, ":1: is no CSV (field larger than"),
    "no_gzip": ("l.jsonl.gz", _GOOD.encode(), None, ": cannot be read: Not a gzipped file"),
    "broken_recording": (
        "r.jsonl",
        recording(rows()[:1]).encode() + b"{}\n",
        2,
        ":2: this line lacks 'model'",
    ),
    "two_models": ("r.jsonl", _TWO_MODELS.encode(), None, ": holds answers of a/one, a/two; --model names the"),
    "only_errors": (
        "r.jsonl",
        b'{"model": "a/b", "prompt": "a", "error": "timeout"}\n',
        None,
        ": holds no answer of any model; --model names the recording's model whose answers are the labels",
    ),
}


@pytest.mark.parametrize(("name", "content", "line", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_fault_of_a_label_file_is_located(
    name: str, content: bytes | None, line: int | None, message: str, tmp_path: Path
) -> None:
    """Which file, which line, what is wrong and what to do; never another exception."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        read_labels(path, check=CHECK)
    assert str(caught.value).startswith(f"{path}{message}")
    assert (caught.value.path, caught.value.line) == (str(path), line)


@pytest.mark.parametrize("written", [json_lines, recording])
def test_half_an_archive_is_a_fault(written: Callable[[Sequence[LabelledText]], str], tmp_path: Path) -> None:
    """A gzipped file that was cut short is refused, however much of it could be read."""
    path = tmp_path / "l.jsonl.gz"
    path.write_bytes(gzip.compress(written(rows()).encode())[:-9])
    with pytest.raises(RecordingError, match=rf"^{path}: cannot be read after line \d+"):
        read_labels(path, check=CHECK)


def test_an_answer_of_another_model_is_no_label(tmp_path: Path) -> None:
    """A model that the recording does not know is named in the error."""
    (tmp_path / "r.jsonl").write_text(recording(rows()))
    with pytest.raises(RecordingError, match="holds no answer of a/none; --model names"):
        read_labels(tmp_path / "r.jsonl", check=CHECK, model="a/none")


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "l.jsonl.gz"])
def test_a_folder_is_no_label_file(name: str, tmp_path: Path) -> None:
    """The error says so instead of a traceback."""
    (tmp_path / name).mkdir()
    with pytest.raises(RecordingError, match=r"cannot be read: Is a directory"):
        read_labels(tmp_path / name, check=CHECK)


def huge(path: Path) -> Path:
    """A file of two gigabytes that takes no room on the disk."""
    path.touch()
    os.truncate(path, 2 * 1024**3)
    return path


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "r.jsonl.gz"])
def test_a_file_that_is_too_large_is_refused_unread(name: str, tmp_path: Path) -> None:
    """The error has both sizes and what to do."""
    path = huge(tmp_path / name)
    message = f"{path}: has 2,147,483,648 bytes, more than {MAX_BYTES:,}; take a sample of it"
    with pytest.raises(RecordingError, match=f"^{re.escape(message)}$"):
        read_labels(path, check=CHECK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all files of a property."""
    return tmp_path_factory.mktemp("labels")


_PIECES = [
    b"text",
    b"label",
    b",",
    b'"',
    b"\n",
    b"{",
    b"}",
    b":",
    b"[",
    b"bug",
    b"prompt",
    b"model",
    b"\xff",
    b"1",
]


@given(
    content=st.binary(max_size=50) | st.lists(st.sampled_from([*_PIECES, b"text,label\n"]), max_size=20).map(b"".join),
    name=st.sampled_from(["l.csv", "l.jsonl", "l.jsonl.gz"]),
)
def test_any_bytes_are_labels_or_a_located_error(folder: Path, content: bytes, name: str) -> None:
    """Whatever a file holds, it is read or refused with its path."""
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    try:
        assert all(row.text and row.label in WORDS for row in read_labels(path, check=CHECK))
    except RecordingError as error:
        assert error.path == str(path)
        assert str(error).startswith(str(path))


# --- the command

POLICY = """\
version: 1
models:
  small: {litellm: openai/small, price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}}
  large: {litellm: openai/large, price: {input_usd_per_mtok: 2, output_usd_per_mtok: 8}}
tasks:
  classify:
    ladder: [small, large]
    answer: {choice: [billing, bug, how-to]}
    max_output_tokens: 8
  write:
    ladder: [small]
"""


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """The same, with a policy and labels."""
    Path("policies").mkdir()
    Path("policies/p.yml").write_text(POLICY)
    Path("labels.csv").write_text(csv_text(rows(count=40)))
    return cli


def tree() -> dict[str, bytes]:
    """Every file below the folder of the policies, with its content."""
    return {str(path): path.read_bytes() for path in sorted(Path("policies").rglob("*")) if path.is_file()}


def test_a_rung_and_its_calibrator_are_written(cli: Cli) -> None:
    """Both files stand beside the policy, with a report of the figures on the held-out texts, and nothing else."""
    done = cli("distill", "classify", "--from", "labels.csv", "--seed", "5")
    written = ["policies/local/classify-small.npz", "policies/tuned/classify.json"]
    assert (done.code, done.err) == (0, "")
    assert sorted(tree()) == sorted([*written, "policies/p.yml"])
    expected = distill(rows(count=40), seed=5, source="labels.csv")
    classifier = load(Path(written[0]))
    assert np.array_equal(classifier.weights, expected.classifier.weights)
    assert classifier.provenance == expected.classifier.provenance
    (entry,) = json.loads(Path(written[1]).read_text())["models"]
    assert (entry["model"], entry["litellm"]) == ("classify-small", "local/classify-small")
    (calibrator,) = entry["calibrators"]
    assert calibrator["weights"] == list(expected.calibrator.weights)
    kept, accuracy = expected.accepted_at(0.8)
    assert accuracy is not None
    for figure in (f"{expected.accuracy:.1%} of 36 texts", f"{kept:.1%} of the calls", f"right in {accuracy:.1%}"):
        assert figure in done.out
    assert f"wrote {written[0]}\nwrote {written[1]}\nnext: " in done.out
    assert max(map(len, done.out.partition("next:")[0].splitlines())) <= 80


def test_the_report_for_programs(cli: Cli) -> None:
    """`--json` is one document with the figures, sizes and paths."""
    done = cli("distill", "classify", "--from", "labels.csv", "--size", "large", "--name", "mine", "--json")
    report = json.loads(done.out)
    path = Path("policies/local/mine.npz")
    assert (done.code, done.err) == (0, "")
    expected = {"model": "mine", "bytes": path.stat().st_size, "train_rows": 84, "test_rows": 36, "threshold": 0.8}
    assert {name: report[name] for name in expected} == expected
    assert report["written"] == [str(path), "policies/tuned/classify.json"]
    shares = ("accuracy", "majority_accuracy", "brier", "calibration_error", "would_answer", "accuracy_there")
    assert all(0 <= report[name] <= 1 for name in shares)
    assert load(path).size == "large"


def advised(out: str) -> str:
    """The lines of YAML that the command says to write."""
    return textwrap.dedent(out.partition("next: ")[2].partition("\n")[2])


@pytest.mark.parametrize("threshold", ["", "threshold: 0.6", "threshold: [0.7]"], ids=["default", "one", "list"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_the_rung_works_as_advised(size: str, threshold: str, cli: Cli, home: Path) -> None:
    """The advice, copied as it stands into an overlay, makes the rung answer first, calibrated and priced."""
    Path("policies/p.yml").write_text(POLICY.replace("max_output_tokens: 8", f"{threshold or 'max_output_tokens: 8'}"))
    before = load_policy().tasks["classify"]
    done = cli("distill", "classify", "--from", "labels.csv", "--size", size)
    report = f"at a threshold of {before.thresholds()[0]:.1%} it answers"
    assert report in done.out
    Path("policies/local.yml").write_text(f"version: 1\nenvironment: local\n{advised(done.out)}")
    task = load_policy(environment="local").tasks["classify"]
    assert task.ladder == (f"classify-{size}", "small", "large")
    assert task.thresholds() == (before.thresholds()[0], *before.thresholds())
    text = "invoice charge card payment tax price"
    checked = cli("check", "--env", "local", "--json")
    (first, *_), *_ = [one["rungs"] for one in json.loads(checked.out)["tasks"] if one["task"] == "classify"]
    assert (checked.code, first["model"], first["priced"]) == (0, f"classify-{size}", True)
    assert first["confidence_source"].startswith("tuned:")
    with no_network(), Router(environment="local") as router:
        answer = router.route("classify", text)
    assert (answer.text, answer.model, answer.escalated) == ("billing", f"classify-{size}", False)
    assert answer.confidence_source == first["confidence_source"]
    scores = load(Path(f"policies/local/classify-{size}.npz")).log_probabilities(text)
    calibrator = distill(rows(count=40), size="large" if size == "large" else "small").calibrator
    assert answer.confidence == pytest.approx(calibrator.probability({"lp_first": scores["billing"]}))
    assert answer.cost_nusd is not None


def test_until_it_is_in_a_ladder_nothing_changes(cli: Cli) -> None:
    """A rung that was written but is not used yet disturbs neither the task nor another distilling."""
    before = cli("check", "--json")
    assert cli("distill", "classify", "--from", "labels.csv").code == 0
    after = cli("check", "--json")
    plans = [[one["rungs"] for one in json.loads(done.out)["tasks"]] for done in (before, after)]
    assert (before.code, after.code) == (0, 0)
    assert plans[0] == plans[1]
    assert cli("distill", "classify", "--from", "labels.csv", "--size", "large").code == 0
    tuned = json.loads(Path("policies/tuned/classify.json").read_text())
    assert [entry["model"] for entry in tuned["models"]] == ["classify-small", "classify-large"]


def test_distilling_again_advises_the_same_ladder(cli: Cli) -> None:
    """A rung that is in the ladder already is not named twice, and what it saves is told of the rung above it."""
    first = cli("distill", "classify", "--from", "labels.csv")
    Path("policies/local.yml").write_text(f"version: 1\nenvironment: local\n{advised(first.out)}")
    again = cli("distill", "classify", "--from", "labels.csv", "--force", "--env", "local")
    assert advised(again.out) == advised(first.out)
    assert "'small' is then asked for the other" in again.out


@pytest.mark.parametrize("source", ["labels.csv", "none.csv"])
def test_a_model_that_is_there_is_not_overwritten(source: str, cli: Cli) -> None:
    """The file stays as it is, whatever the labels, until `--force`."""
    assert cli("distill", "classify", "--from", "labels.csv").code == 0
    before = tree()
    done = cli("distill", "classify", "--from", source, "--seed", "1")
    message = (
        "error: policies/local/classify-small.npz is there already; nothing was written. Use --force to overwrite\n"
    )
    assert (done.code, done.out, done.err) == (1, "", message)
    assert tree() == before
    assert cli("distill", "classify", "--from", "labels.csv", "--seed", "1", "--force").code == 0
    assert [name for name, content in tree().items() if before[name] != content] == [
        "policies/local/classify-small.npz",
        "policies/tuned/classify.json",
    ]


def test_calibrators_of_other_models_stay(cli: Cli) -> None:
    """Only the distilled model's own entry of the artefact is replaced."""
    calibrator = Calibrator(("lp_mean",), (0.5,), (2.0,), (1.5,), 0.25)
    write_tuned(Path("policies"), "classify", ModelCalibrators("large", "openai/large", (calibrator,)), {"run": 1})
    kept = json.loads(Path("policies/tuned/classify.json").read_text())["models"]
    for seed in (1, 2):
        assert cli("distill", "classify", "--from", "labels.csv", "--seed", seed, "--force").code == 0
        found = json.loads(Path("policies/tuned/classify.json").read_text())["models"]
        assert found[:1] == kept
        assert [entry["model"] for entry in found] == ["large", "classify-small"]
    plan = Router("policies").plan("classify")
    assert [rung.calibrators for rung in plan.rungs] == [(), (calibrator,)]


def _labels(content: str) -> Callable[[], object]:
    return lambda: Path("labels.csv").write_text(content)


def _broken_artefact() -> None:
    Path("policies/tuned").mkdir()
    Path("policies/tuned/classify.json").write_text("{")


FAULTS: dict[str, tuple[Callable[[], object], tuple[str, ...], int, str]] = {
    "no_choice": (
        lambda: None,
        ("write",),
        2,
        "error: task 'write' has no `answer: {choice: [...]}`; only labels can be distilled\n",
    ),
    "unknown_task": (lambda: None, ("clasify",), 2, "error: unknown task 'clasify'; did you mean 'classify'?\n"),
    "unknown_size": (lambda: None, ("classify", "--size", "huge"), 2, "'huge' is neither of small, large"),
    "no_source": (lambda: Path("labels.csv").unlink(), ("classify",), 2, "labels.csv: cannot be read: No such file"),
    "name_with_a_path": (lambda: None, ("classify", "--name", "../x"), 2, "a local model has a plain name"),
    "unknown_label": (_labels("text,label\na,x\n"), ("classify",), 2, "error: labels.csv:2: the label 'x' names none"),
    "five_rows": (_labels(csv_text(rows()[:5])), ("classify",), 2, "error: 5 labelled texts are too few; at least 40"),
    "one_label": (_labels(csv_text(rows(("bug",), 50))), ("classify",), 2, "error: all 50 texts have the label 'bug'"),
    "too_large": (lambda: huge(Path("labels.csv")), ("classify",), 2, "error: labels.csv: has 2,147,483,648 bytes"),
    "encoding": (
        lambda: Path("labels.csv").write_bytes("text,label\nStraße,bug\n".encode("latin-1")),
        ("classify",),
        2,
        "error: labels.csv: is not UTF-8 after line 1; save it as UTF-8\n",
    ),
    "broken_artefact": (
        _broken_artefact,
        ("classify",),
        2,
        "error: policies/tuned/classify.json: ",
    ),
    "no_room": (
        lambda: Path("policies/local").write_text("in the way"),
        ("classify",),
        1,
        "error: policies/local: cannot be written (",
    ),
}


@pytest.mark.parametrize(("prepare", "arguments", "code", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_on_any_fault_nothing_is_written(
    prepare: Callable[[], object], arguments: tuple[str, ...], code: int, message: str, cli: Cli
) -> None:
    """A message on standard error, an exit code, and a folder that is as it was."""
    prepare()
    before = tree()
    done = cli("distill", *arguments, "--from", "labels.csv")
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "Traceback" not in done.err
    assert tree() == before


def test_answers_of_a_recorded_model_can_be_distilled(cli: Cli) -> None:
    """A recording with several models needs to be told whose answers count."""
    Path("r.jsonl").write_text(recording(rows(count=40)) + recording(rows(count=40), "openai/small"))
    refused = cli("distill", "classify", "--from", "r.jsonl")
    assert (refused.code, refused.out) == (2, "")
    assert "holds answers of openai/large, openai/small; --model names" in refused.err
    done = cli("distill", "classify", "--from", "r.jsonl", "--model", "openai/large", "--json")
    assert (done.code, json.loads(done.out)["test_rows"]) == (0, 36)


# --- what is others' stays


def test_the_line_of_a_recorded_fault_is_that_of_the_file(cli: Cli) -> None:
    """Blank lines count: an editor's line number finds the row."""
    good = recording(rows(count=1)).splitlines()[0]
    bad = json.dumps({**json.loads(good), "response": "none"})
    Path("r.jsonl").write_text(f"\n{good}\n\n\n{bad}\n")
    done = cli("distill", "classify", "--from", "r.jsonl")
    assert done.code == 2
    assert done.err.startswith("error: r.jsonl:5: the label 'none' ")


def test_provenance_of_others_stays(cli: Cli) -> None:
    """Where the numbers of each model come from is kept by model, and what somebody else wrote there is not touched."""
    calibrator = Calibrator(("lp_mean",), (0.5,), (2.0,), (1.5,), 0.25)
    write_tuned(Path("policies"), "classify", ModelCalibrators("large", "openai/large", (calibrator,)), {"run": 1})
    for size in ("small", "large"):
        assert cli("distill", "classify", "--from", "labels.csv", "--size", size).code == 0
    found = json.loads(Path("policies/tuned/classify.json").read_text())["provenance"]
    assert list(found) == ["large", "classify-small", "classify-large"]
    assert found["large"] == {"run": 1}
    assert found["classify-small"]["source"] == "labels.csv"


def test_two_at_once_both_count(cli: Cli) -> None:
    """Processes that distill rungs of one task at the same time lose none of them."""
    names = ["one", "two", "three"]
    command = [ROUTER, "distill", "classify", "--from", "labels.csv", "--name"]
    running = [subprocess.Popen([*command, name], stdout=subprocess.DEVNULL) for name in names]
    assert [one.wait(120) for one in running] == [0, 0, 0]
    tuned = json.loads(Path("policies/tuned/classify.json").read_text())
    assert sorted(entry["model"] for entry in tuned["models"]) == sorted(tuned["provenance"]) == sorted(names)
    assert sorted(tree()) == sorted(
        ["policies/p.yml", "policies/tuned/classify.json", *(f"policies/local/{name}.npz" for name in names)]
    )


@pytest.mark.parametrize("force", [False, True], ids=["first", "again"])
def test_half_a_rung_is_never_left(force: bool, cli: Cli) -> None:
    """Where the calibrator cannot be written, the classifier is as it was before, so that a next try starts clean."""
    if force:
        assert cli("distill", "classify", "--from", "labels.csv").code == 0
        Path("policies/tuned/classify.json").unlink()
    Path("policies/tuned").mkdir(exist_ok=True)
    before = tree()
    # A folder in the file's place: even a user who may write everywhere cannot.
    Path(f"policies/tuned/.classify.json.{os.getpid()}").mkdir()
    done = cli("distill", "classify", "--from", "labels.csv", "--seed", "7", "--force")
    assert (done.code, done.out) == (1, "")
    assert "cannot be written" in done.err
    assert tree() == before


def test_an_interrupted_distilling_leaves_nothing(cli: Cli) -> None:
    """Ctrl-C while it trains: no traceback, nothing written, and the exit code that shells know."""
    Path("labels.csv").write_text(csv_text(rows(count=2_000, noise=40)))
    command = [ROUTER, "distill", "classify", "--from", "labels.csv", "--size", "large"]
    before = tree()
    terminal, its_side = pty.openpty()
    # Whoever runs the tests in the background has SIGINT ignored, and a child inherits that.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its_side)
    finally:
        signal.signal(signal.SIGINT, inherited)
    os.close(its_side)
    told = b""
    while b"training on" not in told:
        told += os.read(terminal, 4096)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    os.close(terminal)
    assert (running.returncode, out) == (130, b"")
    assert b"Traceback" not in told
    assert tree() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.tsv", "text\tlabel\nhi\tbug\n", "labels.tsv: is neither .csv nor .jsonl; save it as one of them"),
        ("labels.csv.gz", "", "labels.csv.gz: is neither .csv nor .jsonl"),
        ("semicolons.csv", "text;label\nhi;bug\n", "has no column 'label'; the first line names the columns `text`"),
        ("list.jsonl", '{"text": "hi", "label": ["bug"]}\n', "list.jsonl:1: the label is of type list; give one label"),
    ],
)
def test_a_file_of_another_kind_is_told_so(name: str, content: str, message: str, cli: Cli) -> None:
    """What people have at hand is named for what it is, not for the line where reading it failed."""
    Path(name).write_text(content)
    done = cli("distill", "classify", "--from", name)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize("task", ["to+be@sorted", "t" * 100], ids=["signs", "long"])
def test_any_task_has_a_name_for_its_rung(task: str, cli: Cli) -> None:
    """What a task may be called that a file may not becomes a dash, and the advice is a policy that loads."""
    Path("policies/p.yml").write_text(POLICY.replace("classify:", f"{task}:"))
    done = cli("distill", task, "--from", "labels.csv")
    assert done.code == 0
    Path("policies/local.yml").write_text(f"version: 1\nenvironment: local\n{advised(done.out)}")
    first = load_policy(environment="local").tasks[task].ladder[0]
    assert first in ("to-be-sorted-small", "t" * 90 + "-small")


def test_a_rung_that_keeps_nothing_says_so(cli: Cli) -> None:
    """A rung that is never sure enough only costs: that is said in place of what it would save."""
    Path("policies/p.yml").write_text(POLICY.replace("max_output_tokens: 8", "threshold: 1.0"))
    done = cli("distill", "classify", "--from", "labels.csv")
    assert done.code == 0
    assert "it answers 0.0% of the calls itself" in done.out
    assert "so it would only add its own draft: label more texts, or lower the threshold" in done.out
    assert "is then asked" not in done.out
