"""The words of prompts and drafts as signals: equal to scikit-learn, found where they pay, and the same on the path."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from router import Router, load_policy
from router.core.effects import Request
from router.core.views import MOST_CHARS, WORD_FEATURES, form_of
from router.core.word_scores import Words
from router.errors import PolicyError
from router.models.replay import Replay
from router.spec import load_tuned
from router.tuning import Tuner, load_run, simulate, tune_task
from router.tuning.features import first_score
from router.tuning.runs import EvalRun
from router.tuning.table import prepare
from router.tuning.texts import MIN_ROWS, fit_prompts, fit_words, hashed, word_columns
from tests.tuning_support import Row, recorded, write_policy, write_rows

any_text = st.text(st.characters(exclude_categories=()), max_size=120)
WORDS = ["red", "green", "blue", "dusk", "item", "seen"]


def _fitted(seed: int) -> tuple[LogisticRegression, Words]:
    """A fit by scikit-learn on hashed words, and the same as plain numbers."""
    dice = Random(seed)
    texts = [" ".join(dice.choices(WORDS, k=6)) for _ in range(100)]
    right = np.array([("dusk" in text) != (dice.random() < 0.2) for text in texts])
    model = LogisticRegression(C=5.0).fit(hashed(texts), right)
    return model, Words(tuple(model.coef_[0].tolist()), float(model.intercept_[0]))


FITTED = [_fitted(seed) for seed in range(3)]


@given(any_text | st.lists(st.sampled_from(WORDS)).map(" ".join), st.sampled_from(range(3)))
def test_a_chance_equals_scikit_learn(text: str, seed: int) -> None:
    """For any text, to 1e-12."""
    model, words = FITTED[seed]
    theirs = model.predict_proba(hashed([text]))[0, 1]
    assert words.chance(text) == pytest.approx(theirs, abs=1e-12)


def test_a_group_adds_its_own_part() -> None:
    """A group that the fit saw moves the chance, another one and none do not."""
    words = replace(FITTED[0][1], groups={"law": 1.0})
    plain = FITTED[0][1].chance("red")
    assert words.chance("red") == words.chance("red", "art") == plain
    odds = math.log(words.chance("red", "law") / (1 - words.chance("red", "law")))
    assert odds == pytest.approx(math.log(plain / (1 - plain)) + 1.0)


def test_a_prompt_is_read_once_and_anew_where_it_changes() -> None:
    """All rungs of a call share what was found in its prompt; a request made of it with other messages has its own."""
    request = Request("r", ({"role": "user", "content": "red"},), 3)
    words = FITTED[0][1]
    assert request.prompt is request.prompt
    assert words.chance_of(request.prompt) == words.chance("red")
    other = replace(request, messages=({"role": "user", "content": "dusk"},))
    assert words.chance_of(other.prompt) == words.chance("dusk") != words.chance("red")


def test_a_huge_text_is_read_at_both_ends() -> None:
    """The middle of a text beyond the limit does not count."""
    words = FITTED[0][1]
    begin, end = "red " * (MOST_CHARS // 8), "dusk " * (MOST_CHARS // 10)
    assert words.chance(begin + "green " * 10_000 + end) == words.chance(begin + "blue " * 10_000 + end)


def test_a_group_has_a_base_rate_of_its_own() -> None:
    """The same words are worth what their group mostly is: nearly all in a large group, less in one of four rows."""
    shares = {"good": [1.0] * 9 + [0.0], "bad": [1.0] + [0.0] * 9, "other": [0.0, 1.0] * 5}
    groups = np.array([name for name in shares for _ in range(400)] + ["rare"] * 4, dtype=object)
    outcome = np.r_[np.concatenate([np.tile(share, 40) for share in shares.values()]), np.zeros(4)]
    order = np.random.default_rng(0).permutation(len(groups))
    texts = np.full(len(groups), "red", dtype=object)
    fitted = fit_prompts(texts, outcome[order, None], np.arange(len(groups)) % 5, groups[order])[0].words
    chance = {name: fitted.chance("red", name) for name in ("good", "bad", "rare", "other", "unseen", None)}
    assert chance["good"] == pytest.approx(0.9, abs=0.03)
    assert chance["bad"] == pytest.approx(0.1, abs=0.03)
    assert chance["unseen"] == chance[None] == pytest.approx(0.5, abs=0.1)
    assert 0.2 < chance["rare"] < chance["unseen"]


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"weights": (0.0,) * 3}, "weights has 3 numbers"),
        ({"weights": (math.nan,) * WORD_FEATURES.buckets}, "not finite"),
        ({"intercept": math.inf}, "not finite"),
        ({"groups": {"law": math.nan}}, "not finite"),
        ({"form": (1.0,)}, "form has 1 numbers"),
        ({"form": (math.nan,) * 4}, "not finite"),
    ],
)
def test_numbers_that_no_fit_gives_are_refused(parts: dict[str, Any], problem: str) -> None:
    """Broken numbers are named where they are made, not met in a call."""
    with pytest.raises(ValueError, match=problem):
        replace(FITTED[0][1], **parts)


@given(any_text)
def test_the_form_of_a_text_adds_its_own_part(text: str) -> None:
    """Each part of the form by its weight; without weights it does not count."""
    plain = FITTED[0][1]
    formed = replace(plain, form=(0.1, -0.2, 0.3, 0.4))
    odds = [math.log(one.chance(text) / (1 - one.chance(text))) for one in (plain, formed)]
    told = sum(weight * part for weight, part in zip(formed.form, form_of(text), strict=True))
    assert odds[1] - odds[0] == pytest.approx(told, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_whole_columns_equal_single_calls(seed: int, graded: bool) -> None:
    """What tuning scores at once is what a call scores, form and groups included, to 1e-12."""
    dice = np.random.default_rng(seed)
    texts = np.array([" ".join(dice.choice([*WORDS, "7\n"], 5)) for _ in range(60)], dtype=object)
    groups = dice.choice(["law", "art"], 60).astype(object)
    quality = dice.random((60, 2)) if graded else dice.integers(0, 2, (60, 2)).astype(float)
    small, large = (one.words for one in fit_prompts(texts, quality, dice.permutation(60) % 5, groups))
    run = load_columns_of(texts, groups)
    found = word_columns(run, 0, {"prompt_words": small, "last_words": large})
    for fitted, column in zip((small, large), found.values(), strict=True):
        single = [fitted.chance(text, group) for text, group in zip(texts, groups, strict=True)]
        assert column == pytest.approx(single, abs=1e-12)


def test_models_fitted_together_share_what_is_hard() -> None:
    """Where one model's labels say little, the other's tell which of its prompts are hard."""
    dice = np.random.default_rng(5)
    hard = np.arange(240) % 2 == 0
    texts = np.array([f"{'dusk' if one else 'red'} {dice.choice(WORDS[1:3])}" for one in hard], dtype=object)
    told = (dice.random(240) < np.where(hard, 0.1, 0.9)).astype(float)
    noise = (dice.random(240) < np.where(hard, 0.5, 0.6)).astype(float)
    together = fit_prompts(texts, np.column_stack([told, noise]), np.arange(240) % 5)[1].words
    alone = fit_prompts(texts, noise[:, None], np.arange(240) % 5)[0].words
    gaps = [words.chance("red green") - words.chance("dusk green") for words in (together, alone)]
    assert gaps[0] > gaps[1]


def load_columns_of(texts: Any, groups: Any) -> EvalRun:
    """A run of one model on these prompts."""
    n = len(texts)
    return EvalRun("t", ("a",), texts, np.ones((n, 1)), np.ones((n, 1)), prompts=texts, group=groups)


def telling(count: int, *, told: bool) -> list[Row]:
    """Rows without log-probabilities whose drafts say "surely" when they are right, if they tell at all."""
    rows = recorded(count, seed=3)
    for row in rows:
        right = bool(row["correct"])
        row.pop("logprob")
        row["response"] = f"{'surely' if told and right else 'well'} it is {row['response']}"
    return rows


def _policy(folder: Path) -> Path:
    return write_policy(folder, answer={"text": {}}, target={"max_quality_loss": 0.04, "at_confidence": 0.9})


def test_words_that_tell_are_found_and_followed_on_the_path(tmp_path: Path) -> None:
    """The artefact holds the words, `route` keeps and climbs as tuning computed, and so does the simulation."""
    folder, rows = _policy(tmp_path / "policies"), telling(1200, told=True)
    tuned = tune_task("colours", write_rows(tmp_path / "run.jsonl", rows), policies=folder)
    assert tuned.tuning.certified, tuned.tuning.refusal
    assert "draft_words" in tuned.tuning.fitted.models["small"].words
    tuned.write()
    unseen = telling(300, told=True)
    run = load_run(write_rows(tmp_path / "unseen.jsonl", unseen), "colours", policies=folder)
    expected = tuned.tuning.apply(run)
    with Router(folder, backend=Replay(unseen)) as router:
        plan = router.plan("colours")
        first = {row["prompt"]: row for row in reversed(unseen)}
        answers = {prompt: router.route("colours", prompt) for prompt in first}
    assert run.prompts is not None
    models = [answers[prompt].model for prompt in run.prompts]
    assert models == [run.models[at] for at in expected.answered]
    assert simulate(plan, run).model.tolist() == expected.answered.tolist()
    assert {"draft_words"} <= answers[run.prompts[0]].steps[0].signals.keys()


def test_what_does_not_tell_is_not_computed(tmp_path: Path) -> None:
    """Where closer reading says nothing of right and wrong, hardly any calibrator names it."""
    folder, rows = _policy(tmp_path / "policies"), telling(1200, told=False)
    run = load_run(write_rows(tmp_path / "run.jsonl", rows), "colours", policies=folder)
    kept = 0
    for seed in range(8):
        quality = np.random.default_rng(seed).integers(0, 2, run.quality.shape).astype(float)
        names = set(Tuner(replace(run, quality=quality)).trained.confidence(0).calibrator.signals)
        kept += sum(name in names for name in ("words_shared", "lines", "numbers_new", "prompt_words", "draft_words"))
    assert kept <= 10  # Of 40: a standard error lets one in six of what is noise pass.


def test_too_few_rows_fit_no_words(tmp_path: Path) -> None:
    """With fewer rows than `MIN_ROWS` to train on no words are fitted at all."""
    folder = _policy(tmp_path / "policies")
    run = load_run(write_rows(tmp_path / "run.jsonl", telling(MIN_ROWS, told=True)), "colours", policies=folder)
    assert Tuner(run).trained.words == [{}, {}]


def test_a_row_left_out_does_not_know_its_own_outcome(tmp_path: Path) -> None:
    """On outcomes drawn by chance the held-out word signal is worth nothing, as it must be."""
    folder = _policy(tmp_path / "policies")
    run = load_run(write_rows(tmp_path / "run.jsonl", telling(600, told=False)), "colours", policies=folder)
    rng = np.random.default_rng(1)
    quality = rng.integers(0, 2, run.quality.shape).astype(float)
    table = prepare(replace(run, quality=quality))
    assert run.drafts is not None
    found = fit_words(hashed(run.drafts[:, 0]), table.quality[:, 0], rng.permutation(table.rows) % 5)
    right = table.quality[:, 0] > 0.5
    assert abs(found.out_of_fold[right].mean() - found.out_of_fold[~right].mean()) < 0.03


def test_a_calibrator_without_its_words_is_refused(tmp_path: Path) -> None:
    """An artefact whose calibrator names words that it does not hold is named, with the remedy."""
    folder, rows = _policy(tmp_path / "policies"), telling(1200, told=True)
    path = tune_task("colours", write_rows(tmp_path / "run.jsonl", rows), policies=folder).write()
    broken = json.loads(Path(path).read_text())
    for entry in broken["models"]:
        entry.pop("words", None)
    Path(path).write_text(json.dumps(broken))
    with pytest.raises(PolicyError, match=r"'draft_words', which `words` does not have"):
        load_tuned(folder, "colours", load_policy(folder))


def test_old_files_still_work(tmp_path: Path) -> None:
    """A run whose rows carry the signals of before gets what is new from its texts, where they are recorded."""
    folder = _policy(tmp_path / "policies")
    rows = [{**row, "signals": {"invalid": 0.0, "output_chars": 5.0}} for row in telling(60, told=True)]
    run = load_run(write_rows(tmp_path / "run.jsonl", rows), "colours", policies=folder)
    assert {"output_chars", "words_shared", "lines"} <= run.signals["small"].keys()
    score = first_score((), run.signals["small"], run.rows)
    assert np.isnan(score).all()
