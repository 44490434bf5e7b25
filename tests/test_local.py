"""Local rungs: files that cannot be tampered with, true log-probabilities, and answers that cost their seconds."""

from __future__ import annotations

import asyncio
import io
import json
import math
import multiprocessing
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router import Router, RouterWarning
from router.core.call import Call, Failure, Reply
from router.core.faults import Fault
from router.core.policy import Model
from router.core.text_features import SIZES, Size
from router.errors import LadderExhausted, PolicyError
from router.models.local import Classifier, LocalModels, classifier_path, load, save
from router.testing import no_network
from router.tuning import LabelledText, distill
from tests.upstream import Upstream

LABELS = ("billing", "bug", "how-to")
REMEDY = "it was changed after it was written; run `router distill` again"
TEXTS = ["I was charged twice", "the app crashes on start", "how do I export my data", "invoice broken", "", "!?"]

# A dollar for a millisecond, so that an amount shows each microsecond.
POLICY = """\
version: 1
models:
  tiny: {litellm: local/tiny, price: {gpu_second_usd: 1000}}
  large: {litellm: openai/large, api_base: "API_BASE", price: {input_usd_per_mtok: 2, output_usd_per_mtok: 8}}
tasks:
  one: {ladder: [tiny], answer: {choice: [billing, bug, how-to]}}
  both: {ladder: [tiny, large], threshold: 0.0, answer: {choice: [billing, bug, how-to]}, retry: {attempts: 1}}
"""

any_text = st.text(st.characters(exclude_categories=()), max_size=80)


def made(size: Size = "small", labels: tuple[str, ...] = LABELS, seed: int = 0) -> Classifier:
    """A classifier of random numbers, as good as any for what a file must keep."""
    dice = np.random.default_rng(seed)
    buckets = SIZES[size].buckets
    return Classifier(
        size,
        labels,
        dice.normal(size=(buckets, len(labels))).astype(np.float32),
        dice.uniform(1, 5, size=buckets).astype(np.float32),
        dice.normal(size=len(labels)).astype(np.float32),
        {"source": "labels.csv", "seed": seed, "rows": 12},
    )


def same(one: Classifier, other: Classifier) -> bool:
    """Whether two classifiers are equal in every part."""
    return (one.size, one.labels, one.provenance) == (other.size, other.labels, other.provenance) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("weights", "rarity", "bias")
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A saved classifier."""
    path = tmp_path / "local" / "tiny.npz"
    save(made(), path)
    return path


# --- files


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("labels", [("no", "yes"), LABELS, ("ä", "\ud800", "a b")], ids=len)
def test_a_classifier_survives_its_file(size: Size, labels: tuple[str, ...], tmp_path: Path) -> None:
    """What was saved is what is loaded, to the last bit, and nothing else is left in the folder."""
    before = made(size, labels)
    save(before, tmp_path / "deep" / "er" / "m.npz")
    after = load(tmp_path / "deep" / "er" / "m.npz")
    assert same(before, after)
    assert [after.log_probabilities(text) for text in TEXTS] == [before.log_probabilities(text) for text in TEXTS]
    assert [one.name for one in (tmp_path / "deep" / "er").iterdir()] == ["m.npz"]


def test_saving_replaces_what_was_there(path: Path) -> None:
    """The second classifier of a name takes the place of the first."""
    save(made(seed=1), path)
    assert same(load(path), made(seed=1))


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    """The first error that a new user of a local rung meets says what to run."""
    with pytest.raises(PolicyError) as caught:
        load(tmp_path / "none.npz")
    assert caught.value.path == str(tmp_path / "none.npz")
    assert str(caught.value).endswith("none.npz: is not there; run `router distill TASK --from LABELS` to make it")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


def contents(path: Path) -> dict[str, Any]:
    """The arrays of an archive, by name."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def rewrite(path: Path, **arrays: Any) -> None:
    """The archive with other arrays, written by NumPy itself, so that every checksum of the container is right."""
    kept = {name: array for name, array in {**contents(path), **arrays}.items() if array is not None}
    with path.open("wb") as file:
        np.savez_compressed(file, **kept)


def retell(path: Path, **changes: Any) -> None:
    """The archive with other words about itself; `None` takes one away."""
    about = {**json.loads(contents(path)["about"].tobytes()), **changes}
    told = {name: value for name, value in about.items() if value is not None}
    rewrite(path, about=np.frombuffer(json.dumps(told).encode(), dtype=np.uint8))


@pytest.mark.parametrize("name", ["weights", "rarity", "bias", "about"])
def test_an_archive_with_a_pickle_is_refused_and_not_executed(name: str, path: Path, tmp_path: Path) -> None:
    """An object array in any place of the archive is a fault, and what it holds never runs."""
    proof = tmp_path / "executed"
    bomb = np.empty(1, dtype=object)
    bomb[0] = Bomb(proof)
    rewrite(path, **{name: bomb})
    with pytest.raises(PolicyError, match="run `router distill` again"):
        load(path)
    assert not proof.exists()
    with np.load(path, allow_pickle=True) as archive:  # The bomb is live: who allows pickles sets it off.
        archive[name]
    assert proof.exists()


def test_a_bare_pickle_is_refused_and_not_executed(path: Path, tmp_path: Path) -> None:
    """A pickle under the name of a model is a fault, and never runs."""
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(PolicyError, match="run `router distill` again"):
        load(path)
    assert not (tmp_path / "executed").exists()


def _changed(array: Any, value: float = 1.5) -> Any:
    array = array.copy()
    array.flat[array.size // 2] = value
    return array


def _bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("about", "weights", "rarity", "bias"):
            archive.writestr(f"{name}.npy", content)


def _promise(path: Path) -> None:
    """Members that promise more numbers than any machine holds."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,), }\n"
    _zip(path, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def _not_finite(path: Path) -> None:
    """NaN that was there from the start, so that the checksum is right."""
    broken = made()
    broken.weights[7, 1] = math.nan
    save(broken, path)


def _about(path: Path, text: bytes) -> None:
    rewrite(path, about=np.frombuffer(text, dtype=np.uint8))


CHANGES: dict[str, Callable[[Path], object]] = {
    "another_weight": lambda path: rewrite(path, weights=_changed(contents(path)["weights"])),
    "another_rarity": lambda path: rewrite(path, rarity=_changed(contents(path)["rarity"])),
    "another_bias": lambda path: rewrite(path, bias=_changed(contents(path)["bias"])),
    "nan_weight": lambda path: rewrite(path, weights=_changed(contents(path)["weights"], math.nan)),
    "nan_from_the_start": _not_finite,
    "more_precise_weights": lambda path: rewrite(path, weights=contents(path)["weights"].astype(np.float64)),
    "weights_of_text": lambda path: rewrite(path, weights=np.array(["a"])),
    "weights_transposed": lambda path: rewrite(path, weights=contents(path)["weights"].T),
    "fewer_buckets": lambda path: rewrite(path, weights=contents(path)["weights"][:512]),
    "no_weights": lambda path: rewrite(path, weights=None),
    "no_about": lambda path: rewrite(path, about=None),
    "about_is_a_number": lambda path: rewrite(path, about=np.float32(1)),
    "about_is_no_json": lambda path: _about(path, b"{"),
    "about_is_no_utf8": lambda path: _about(path, b"\xff\xfe\xff"),
    "about_is_a_list": lambda path: _about(path, b"[]"),
    "about_is_too_deep": lambda path: _about(path, b"[" * 100_000),
    "labels_swapped": lambda path: retell(path, labels=["bug", "billing", "how-to"]),
    "label_renamed": lambda path: retell(path, labels=["billing", "bug", "refund"]),
    "label_twice": lambda path: retell(path, labels=["billing", "bug", "bug"]),
    "label_missing": lambda path: retell(path, labels=["billing", "bug"]),
    "label_is_a_number": lambda path: retell(path, labels=["billing", "bug", 3]),
    "labels_are_text": lambda path: retell(path, labels="abc"),
    "labels_are_a_number": lambda path: retell(path, labels=3),
    "no_labels": lambda path: retell(path, labels=None),
    "other_size": lambda path: retell(path, size="large"),
    "unknown_size": lambda path: retell(path, size="huge"),
    "size_is_a_list": lambda path: retell(path, size=["small"]),
    "other_format": lambda path: retell(path, format=2),
    "other_provenance": lambda path: retell(path, provenance={"source": "gold.csv"}),
    "provenance_is_text": lambda path: retell(path, provenance="me"),
    "other_checksum": lambda path: retell(path, sha256="0" * 64),
    "no_checksum": lambda path: retell(path, sha256=None),
    "cut_in_half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut_by_a_byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "without_its_first_byte": lambda path: path.write_bytes(path.read_bytes()[1:]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights: 3\n", encoding="utf-8"),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "bare_array": _bare_array,
    "zip_of_text": lambda path: _zip(path, b"weights"),
    "zip_of_promises": _promise,
}


def refusal(path: Path) -> PolicyError:
    """The error of loading a changed file; any other exception fails the test."""
    with pytest.raises(PolicyError) as caught:
        load(path)
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(REMEDY)
    return caught.value


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_file_that_was_changed_by_hand_is_refused(change: Callable[[Path], object], path: Path) -> None:
    """Whatever was changed, the error names the file and the remedy."""
    change(path)
    refusal(path)


def test_the_same_content_in_another_container_is_no_change(path: Path) -> None:
    """What the changes above are measured against: the arrays written again as they are can be loaded."""
    rewrite(path)
    assert same(load(path), made())


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """The same error for what is no file at all."""
    (tmp_path / "m.npz").mkdir()
    refusal(tmp_path / "m.npz")


def test_a_flipped_byte_is_refused_or_changes_nothing(path: Path) -> None:
    """One wrong byte, anywhere: an error with path and remedy, or exactly what was written, and never anything else."""
    whole = path.read_bytes()
    expected = made()
    # Every byte of the container's own records at the end, and a sample of all others.
    offsets = {*range(200), *range(0, len(whole), 23), *range(len(whole) - 500, len(whole))}
    refused = 0
    for offset in sorted(offsets):
        for mask in (0x01, 0x80):
            broken = bytearray(whole)
            broken[offset] ^= mask
            path.write_bytes(broken)
            try:
                assert same(load(path), expected), offset
            except PolicyError as error:
                refused += 1
                assert (error.path, str(error).endswith(REMEDY)) == (str(path), True), offset
    # What is left are the times and versions in the container's records, which nobody reads.
    assert refused > 0.7 * 2 * len(offsets)


# --- names


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../b", "/etc/passwd", "..", ".hidden", "", "a b", "a\\b", "a\n", "ä", "a" * 101, "a/b", "~"],
    ids=repr,
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    """A local model has a plain name: no path, no hidden file, nothing outside of `local/`."""
    with pytest.raises(PolicyError, match="a local model has a plain name"):
        classifier_path(tmp_path, name)
    with pytest.raises(PolicyError, match="a local model has a plain name"):
        LocalModels(tmp_path).facts(Model(f"local/{name}"))


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_a_plain_name_stays_in_its_folder(name: str) -> None:
    """Every accepted name is a file directly in `local/`, dots and all."""
    path = classifier_path(Path("/policies"), name)
    assert path.parent == Path("/policies/local")
    assert Path("/policies/local") in path.resolve().parents


# --- numbers


@settings(deadline=None)
@given(text=any_text, size=st.sampled_from(["small", "large"]), seed=st.integers(0, 3))
@example(text="", size="large", seed=0)
@example(text="\ud800 \udfff", size="large", seed=0)
@example(text="charged twice, the invoice is wrong. " * 2800, size="small", seed=0)
@example(text="x" * 100_000, size="large", seed=0)
def test_probabilities_sum_to_one(text: str, size: Size, seed: int) -> None:
    """Whatever the text, each label has a log-probability of at most 0 and the probabilities sum to 1."""
    scores = made(size, seed=seed).log_probabilities(text)
    assert tuple(scores) == LABELS
    assert all(math.isfinite(score) and score <= 0 for score in scores.values())
    assert math.isclose(sum(map(math.exp, scores.values())), 1, abs_tol=1e-12)


def test_extreme_weights_do_not_overflow() -> None:
    """Scores far beyond what `exp` can take still give finite log-probabilities that sum to 1."""
    classifier = made()
    classifier.bias[:] = [-3e38, 0, 3e38]
    scores = classifier.log_probabilities("")
    assert scores["how-to"] == 0
    assert all(map(math.isfinite, scores.values()))


WORDS = {
    "billing": ["invoice", "charge", "card", "tax", "payment", "price"],
    "bug": ["crash", "error", "broken", "freeze", "fails", "blank"],
    "how-to": ["how", "where", "export", "change", "setting", "find"],
}
ALL_WORDS = [word for words in WORDS.values() for word in words]


def rows(labels: Sequence[str], count: int = 30) -> list[LabelledText]:
    """Texts of some words of their label and some of all, in a fixed order."""
    dice = np.random.default_rng(5)
    found = []
    for number in range(count * len(labels)):
        label = labels[number % len(labels)]
        words = [*dice.choice(WORDS[label], 2), *dice.choice(ALL_WORDS, 3), f"n{number % 17}"]
        found.append(LabelledText(" ".join(words), label, "train" if number % 4 else "test"))
    return found


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:2]], ids=["three", "two"])
def test_log_probabilities_are_scikit_learns(labels: tuple[str, ...], size: Size) -> None:
    """The same features weighted and fitted by scikit-learn's own pipeline give the same numbers, but for float32."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    data = rows(labels)
    classifier = distill(data, size=size).classifier
    strength = classifier.provenance["inverse_regularisation"]
    pipeline = make_pipeline(DictVectorizer(), TfidfTransformer(), LogisticRegression(C=strength, tol=1e-3))
    count = SIZES[size].counts
    train = [row for row in data if row.split == "train"]
    pipeline.fit([count(row.text) for row in train], [row.label for row in train])
    texts = [row.text for row in data] + ["", "\ud800", "never seen before"]
    expected = pipeline.predict_log_proba([count(text) for text in texts])
    found = [list(classifier.log_probabilities(text).values()) for text in texts]
    assert tuple(pipeline.classes_) == classifier.labels
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(deadline=None)
@given(st.lists(any_text | st.lists(st.sampled_from(ALL_WORDS), max_size=9).map(" ".join), max_size=5))
def test_log_probabilities_are_scikit_learns_for_any_text(texts: list[str]) -> None:
    """The same weights in scikit-learn's own classifier, on the same matrix, give the same log-probabilities."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    classifier = made()
    twin = LogisticRegression()
    twin.classes_ = np.array(classifier.labels)
    twin.coef_, twin.intercept_ = classifier.weights.T.astype(float), classifier.bias.astype(float)
    counts = [classifier.features.counts(text) for text in ["", *texts]]
    dense = np.zeros((len(counts), classifier.features.buckets))
    for row, count in zip(dense, counts, strict=True):
        row[list(count)] = list(count.values())
    expected = twin.predict_log_proba(csr_matrix(normalize(dense * classifier.rarity)))
    found = [list(classifier.log_probabilities(text).values()) for text in ["", *texts]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- answers


def _call(*messages: Mapping[str, Any]) -> Call:
    return Call("tiny", Model("local/tiny"), messages)


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A folder with a policy and the classifier that it names."""
    folder = tmp_path / "policies"
    save(made(), classifier_path(folder, "tiny"))
    (folder / "p.yml").write_text(POLICY, encoding="utf-8")
    return folder


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_the_backend_answers_with_the_likeliest_label_and_its_log_probability(text: str, policies: Path) -> None:
    """One token, whose log-probability is that of the label; the response holds those of all labels."""
    scores = made().log_probabilities(text)
    label = max(scores, key=scores.__getitem__)
    reply = LocalModels(policies).send(_call(_user(text)), None)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.logprobs, reply.response) == (label, (scores[label],), scores)
    assert (reply.model_served, reply.finish_reason) == ("local/tiny", "stop")
    assert reply.usage is not None
    assert reply.usage.output_tokens == 1
    assert reply.latency_ms is not None
    assert reply.latency_ms > 0


@pytest.mark.parametrize(
    "messages",
    [
        [_user("crash")],
        [{"role": "system", "content": "label it"}, _user("crash")],
        [_user("invoice"), {"role": "assistant", "content": "billing"}, _user("crash")],
        [_user("crash"), {"role": "assistant", "content": "invoice"}],
        [_user([{"type": "text", "text": "crash"}])],
    ],
    ids=["one", "system", "several", "answered", "parts"],
)
def test_the_last_user_message_is_what_is_labelled(messages: list[dict[str, Any]], policies: Path) -> None:
    """What stands before or after it, and who else said something, changes nothing."""
    reply = LocalModels(policies).send(_call(*messages), None)
    assert isinstance(reply, Reply)
    assert reply.response == made().log_probabilities("crash")
    assert reply.response != made().log_probabilities("invoice")


def test_text_parts_of_a_message_are_read_together(policies: Path) -> None:
    """Content in parts counts whole."""
    parts = [{"type": "text", "text": "crash"}, {"type": "text", "text": "invoice"}]
    reply = LocalModels(policies).send(_call(_user(parts)), None)
    assert isinstance(reply, Reply)
    assert reply.response == made().log_probabilities("crash invoice")


def test_without_a_user_message_there_is_nothing_to_label(policies: Path) -> None:
    """It is a fault that is told in words, not an exception and not a guess."""
    outcome = LocalModels(policies).send(_call({"role": "system", "content": "crash"}), None)
    assert outcome == Failure(Fault.UNSUPPORTED, detail="a local classifier needs a user message")


def test_a_call_without_a_user_message_climbs(policies: Path, upstream: Upstream) -> None:
    """The rung above, which can read such a conversation, answers it; where there is none the call says so."""
    text = POLICY.replace("API_BASE", upstream.url)
    (policies / "p.yml").write_text(text, encoding="utf-8")
    upstream.reset("say=billing")
    prompt = [{"role": "assistant", "content": "your invoice"}]
    with Router(policies) as router:
        with pytest.warns(RouterWarning, match="rung 'tiny' cannot be used .*needs a user message"):
            answer = router.route("both", prompt)
        with (
            pytest.warns(RouterWarning),
            pytest.raises(LadderExhausted, match="a local classifier needs a user message"),
        ):
            router.route("one", prompt)
    assert (answer.text, answer.model, answer.escalated) == ("billing", "large", True)
    assert [(step.model, step.action) for step in answer.steps] == [("tiny", "fail"), ("large", "accept")]
    assert answer.attempts[0].fault is Fault.UNSUPPORTED
    assert answer.cost_nusd == answer.marginal_cost_nusd == sum(row.cost_nusd for row in upstream.bill())


@pytest.mark.parametrize("is_async", [False, True], ids=["route", "aroute"])
def test_an_answer_costs_its_seconds(is_async: bool, policies: Path) -> None:
    """Seconds of its own work times the price of a second, in both doors, without any network."""
    with no_network(), Router(policies) as router:
        answer = asyncio.run(router.aroute("one", TEXTS[0])) if is_async else router.route("one", TEXTS[0])
    scores = made().log_probabilities(TEXTS[0])
    (attempt,) = answer.attempts
    assert (answer.text, answer.parsed) == (max(scores, key=scores.__getitem__),) * 2
    assert answer.steps[0].signals["lp_first"] == max(scores.values())
    assert 0 < attempt.latency_ms <= answer.latency_ms
    assert answer.cost_nusd == pytest.approx(attempt.latency_ms / 1000 * 1000 * 1e9, abs=1)
    assert answer.marginal_cost_nusd == 0


def test_a_router_whose_file_is_missing_says_what_to_run(policies: Path) -> None:
    """The fault shows before the first call of the task, not in the middle of one."""
    classifier_path(policies, "tiny").unlink()
    with Router(policies) as router, pytest.raises(PolicyError, match="run `router distill TASK --from LABELS`"):
        router.plan("one")


# --- writers


def write_often(path: str, seed: int, together: Barrier) -> None:
    """Save one of two classifiers again and again, from the moment when the other writer does so too."""
    classifier = made(seed=seed)
    together.wait(60)
    for _ in range(40):
        save(classifier, Path(path))


def test_two_writers_never_leave_half_a_file(path: Path) -> None:
    """While two processes write the same name, a reader finds one or the other, whole, and at the end only one file."""
    either = [made(seed=1), made(seed=2)]
    save(either[0], path)
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    writers = [context.Process(target=write_often, args=(str(path), seed, together)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    seen: set[int] = set()
    while any(writer.is_alive() for writer in writers):
        found = load(path)
        seen |= {index for index, one in enumerate(either) if same(found, one)}
        assert same(found, either[0]) or same(found, either[1])
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == {0, 1}
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_an_archive_is_plain_arrays(path: Path) -> None:
    """Anybody can read the numbers with NumPy alone, and there is nothing else inside."""
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["about.npy", "bias.npy", "rarity.npy", "weights.npy"]
        arrays = [np.load(io.BytesIO(archive.read(name)), allow_pickle=False) for name in archive.namelist()]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32), np.dtype(np.uint8)}


def test_a_long_text_does_not_hold_up_the_event_loop(path: Path) -> None:
    """While a classifier reads half a megabyte, other tasks go on; the answer is that of the blocking call."""
    backend = LocalModels(path.parent.parent)

    def call(text: str) -> Call:
        return Call("tiny", Model("local/tiny"), ({"role": "user", "content": text},))

    async def asked(text: str) -> tuple[Any, int]:
        reading = asyncio.create_task(backend.asend(call(text), None))
        turns = 0
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        return await reading, turns

    text = "word " * 100_000
    found, turns = asyncio.run(asked(text))
    expected = backend.send(call(text), None)
    assert isinstance(expected, Reply)
    assert (found.text, found.logprobs) == (expected.text, expected.logprobs)
    assert turns > 2
    assert asyncio.run(asked("short"))[1] <= 2
