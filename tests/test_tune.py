"""Tuning as a whole: what it promises, what it refuses, and that a plan does on rows what calls would do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.worlds import WORLDS, World
from router.core.calibration import Calibrator
from router.core.tuned import Certificate, TunedPlan, TunedRung
from router.core.views import WORD_FEATURES
from router.core.word_scores import Words
from router.errors import TuningError
from router.tuning.certify import Test as LossTest
from router.tuning.certify import Tried, saves, walk
from router.tuning.compare import compare
from router.tuning.crossfit import on_scale
from router.tuning.fit import FOLDS, MAX_ROWS
from router.tuning.least import MIN_TRAIN_ROWS, certify_least, least_units
from router.tuning.plans import Family, Fitted, Heads, apply_rungs
from router.tuning.runs import EvalRun
from router.tuning.search import MAX_SETTINGS, between, chain_of, choose, needed_rows
from router.tuning.table import folds_of, prepare, split
from router.tuning.tune import Tuner, require_rows, tune
from router.tuning.words import certificate_words, rungs_words

PAIR, GRADED, CLUSTERED, GROUPED, THREE = (WORLDS[at] for at in (0, 8, 9, 10, 6))


def draw(world: World = PAIR, rows: int = 800, seed: int = 0) -> EvalRun:
    """Rows of a made-up world."""
    return world.draw(np.random.default_rng(seed), rows)


def tiny(**fields: Any) -> EvalRun:
    """A run of four rows and two models."""
    parts: dict[str, Any] = {
        "task": "t",
        "models": ("small", "large"),
        "row_ids": np.array(["a", "b", "c", "d"], dtype=object),
        "quality": np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
        "cost_nusd": np.array([[1.0, 10.0]] * 4),
    }
    return EvalRun(**{**parts, **fields})


# Runs


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"quality": np.ones((3, 2))}, "quality: has the shape (3, 2), not (4, 2)"),
        ({"quality": np.full((4, 2), 1.5)}, "quality: 1.5 of 'small' in row 0 is not within 0 to 1"),
        ({"cost_nusd": np.full((4, 2), -1.0)}, "cost_nusd: -1.0 of 'small' in row 0"),
        ({"signals": {"small": {"lp_mean": np.full(4, -np.inf)}}}, "signals.small.lp_mean: is infinite in row 0"),
        ({"signals": {"other": {}}}, "signals: 'other' is no model of the run (small, large)"),
        ({"models": ("small", "small")}, "models: ['small', 'small'] must name at least one model, each once"),
        ({"group": np.array(["x"], dtype=object)}, "group: has the shape (1,), not (4,)"),
    ],
)
def test_a_run_that_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    """The message names the column, and the row where one is at fault."""
    with pytest.raises(TuningError) as caught:
        tiny(**fields)
    assert str(caught.value).startswith(says)


def test_a_run_can_be_cut_to_models_and_rows() -> None:
    """Everything that belongs to a model or a row goes with it."""
    run = replace(tiny(), signals={"small": {"a": np.arange(4.0)}, "large": {}}, latency_ms=np.ones((4, 2)))
    cut = run.of(["large"]).take(np.array([1, 3]))
    assert (cut.models, cut.rows, dict(cut.signals)) == (("large",), 2, {"large": {}})
    assert cut.quality.tolist() == [[1.0], [0.0]]
    with pytest.raises(TuningError, match="'gone' is no model of the run"):
        run.of(["gone"])


# Bad input


def labels_gone(run: EvalRun, share: float) -> EvalRun:
    """The run without the top model's labels in its first rows."""
    quality = run.quality.copy()
    quality[: int(share * run.rows), -1] = np.nan
    return replace(run, quality=quality)


def test_missing_labels_are_named_with_the_remedy() -> None:
    """A tenth of the labels gone is too much to go on."""
    with pytest.raises(TuningError, match=r"'m1' has no label in 80 of 800 rows; ask it for all rows") as caught:
        tune(labels_gone(draw(), 0.1), target=0.05)
    assert caught.value.needed == 80


def test_no_labels_at_all_are_refused() -> None:
    """Nothing is graded."""
    with pytest.raises(TuningError, match="no row has a label; grade the answers first"):
        tune(replace(draw(), quality=np.full((800, 2), np.nan)), target=0.05)


def test_a_few_failed_answers_count_against_the_plan() -> None:
    """A lower rung that failed is wrong, a top rung that failed is right."""
    run = draw()
    quality = run.quality.copy()
    quality[:8, 0] = np.nan
    quality[8:16, 1] = np.nan
    table = prepare(replace(run, quality=quality))
    assert table.quality[:8, 0].max() == 0.0
    assert table.quality[8:16, 1].min() == 1.0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_labels_that_are_all_the_same_are_refused(value: float) -> None:
    """One class only, in every model: there is nothing to tell apart."""
    with pytest.raises(TuningError, match=rf"is {value:g} for every model in all 800 rows") as caught:
        tune(replace(draw(), quality=np.full((800, 2), value)), target=0.05)
    assert caught.value.needed == 801


def test_a_model_that_is_always_right_is_no_fault() -> None:
    """One class only in one model gives a constant confidence, and direct is the plan."""
    run = draw()
    found = tune(replace(run, quality=np.column_stack([np.ones(800), run.quality[:, 1]])), target=0.05)
    assert found.plan == TunedPlan((TunedRung("m0"),))


@pytest.mark.parametrize("rows", [1, 12, 20, 30, 57, 58, 109])
def test_few_rows_are_refused_with_one_number_that_does(rows: int) -> None:
    """However few there are, the number is the same; a look that spends everything needs fewer."""
    with pytest.raises(TuningError, match="even if no answer were ever worse; 110 are the least") as caught:
        Tuner(draw(rows=rows)).goal(0.05, look=1)
    assert caught.value.needed == 110
    assert str(caught.value).startswith(f"{rows} labelled row{'s' if rows > 1 else ''} cannot show a loss")
    why = "(0.95 asked; a first look leaves room for others, --only-look spends all)"
    assert f"at 0.975 confidence {why}" in str(caught.value)
    Tuner(draw(rows=110)).goal(0.05, look=1)
    if rows < 90:
        with pytest.raises(TuningError, match=r"at 0\.95 confidence, even if no answer were ever worse; 90 are"):
            Tuner(draw(rows=rows)).goal(0.05)


@pytest.mark.parametrize(("only_look", "method"), [(False, "split"), (True, "split"), (False, "crossfit")])
def test_what_is_said_before_asking_is_what_tuning_says(only_look: bool, method: Any) -> None:
    """The least number of rows is one number, before they are paid for and after."""
    with pytest.raises(TuningError) as before:
        require_rows(21, 0.05, 0.95, method=method, only_look=only_look)
    with pytest.raises(TuningError) as after:
        Tuner(draw(rows=21), method=method).goal(0.05, look=None if only_look else 1)
    assert (str(before.value), before.value.needed) == (str(after.value), after.value.needed)
    require_rows(before.value.needed, 0.05, 0.95, method=method, only_look=only_look)


def test_a_later_look_and_groups_say_why_they_need_more() -> None:
    """What the confidence is spent on stands behind it."""
    run = replace(draw(rows=100), group=np.array(["a", "b"] * 50, dtype=object))
    told = r"at 0.99375 confidence \(0.95 asked; look 2 has what earlier ones left; 2 groups share it\)"
    with pytest.raises(TuningError, match=told):
        Tuner(run).goal(0.05, look=2, group="letter")


@given(
    target=st.floats(0.001, 0.9),
    budget=st.floats(0.0001, 0.5),
    share=st.floats(0.05, 0.9),
)
def test_the_least_is_what_the_split_makes_of_it(target: float, budget: float, share: float) -> None:
    """So many rows give both parts enough, and one fewer does not."""
    least = least_units(target, budget, share)

    def enough(rows: int) -> bool:
        train, certify = split(np.arange(rows), share, MAX_ROWS, 0)
        return len(train) >= MIN_TRAIN_ROWS and len(certify) >= certify_least(target, budget)

    assert enough(least)
    assert not enough(least - 1)


def test_a_model_without_prices_is_refused() -> None:
    """Cheaper cannot be shown without costs."""
    run = draw()
    cost = run.cost_nusd.copy()
    cost[:, 0] = np.nan
    with pytest.raises(TuningError, match=r"'m0' has no known cost in 800 of 800 rows; give the model a `price:`"):
        tune(replace(run, cost_nusd=cost), target=0.05)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": 0.0}, "target: 0.0 is not between 0 and 1"),
        ({"target": math.nan}, "target: nan is not between 0 and 1"),
        ({"target": 0.05, "at_confidence": 1.0}, "at_confidence: 1.0 is not between 0 and 1"),
        ({"target": 0.05, "look": 0}, "look: 0 is below 1"),
        ({"target": 0.05, "group": "tier"}, "group: the run has no 'tier' for its rows"),
        ({"target": 0.05, "at_confidence": 1 - 1e-15}, "at_confidence: .* is above 0.999999"),
        ({"target": 0.05, "method": "magic"}, "method: 'magic' is neither split nor crossfit"),
        ({"target": 0.05, "seed": -1}, "seed: -1 is below 0"),
        ({"target": 0.05, "train_share": 1.0}, "train_share: 1.0 is not between 0 and 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], says: str) -> None:
    """The message names the argument."""
    with pytest.raises(TuningError, match=says):
        tune(draw(), **arguments)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_row_without_a_cluster_is_refused(missing: Any) -> None:
    """It would be one with the others that have none, or a cluster of its own."""
    cluster = np.array([*range(799), missing], dtype=object)
    with pytest.raises(TuningError, match="cluster: is missing in row 799"):
        tune(replace(draw(), cluster=cluster), target=0.05)


def test_a_ladder_of_one_cannot_be_tuned() -> None:
    """There is nothing to climb from."""
    with pytest.raises(TuningError, match="'m1' is alone"):
        tune(draw().of(["m1"]), target=0.05)


def test_a_run_of_other_models_is_refused() -> None:
    """A plan is not followed on models it was not tuned for."""
    found = tune(draw(), target=0.05)
    with pytest.raises(TuningError, match="tuned for m0, m1, but the run has m0, m1, m2"):
        found.apply(draw(THREE))


def test_signals_that_are_nan_are_missing_signals() -> None:
    """They cost confidence, not correctness."""
    run = draw()
    lp = run.signals["m0"]["lp_mean"].copy()
    lp[::2] = np.nan
    assert tune(replace(run, signals={"m0": {"lp_mean": lp}}), target=0.1, at_confidence=0.9).certified


# Splits


@given(st.lists(st.integers(0, 30), min_size=10, max_size=120), st.integers(0, 5), st.floats(0.1, 0.9))
def test_units_never_straddle_a_split_or_a_fold(units: list[int], seed: int, share: float) -> None:
    """Every row lands on one side, and all rows of a unit on the same."""
    unit = np.array(units)
    train, certify = split(unit, share, 10**6, seed)
    assert sorted([*train, *certify]) == list(range(len(units)))
    assert not set(unit[train]) & set(unit[certify])
    folds = folds_of(unit, 5, seed)
    assert all(len(set(folds[unit == one])) == 1 for one in set(units))


def test_copies_of_a_row_are_left_out() -> None:
    """So that none can be trained on in one split and certified on in another."""
    run = draw(rows=400)
    twice = run.take(np.r_[np.arange(400), np.arange(400)])
    assert prepare(twice).dropped == 400
    found = tune(twice, target=0.05, at_confidence=0.9)
    assert found.plan == tune(run, target=0.05, at_confidence=0.9).plan


# Certificates


def loss_test() -> LossTest:
    """A test of right-or-wrong losses."""
    return LossTest("signed", "exact", np.arange(1000), 0)


def tried(worse: int) -> Tried:
    """A setting that loses so many rows of a thousand."""
    loss = np.zeros(1000)
    loss[:worse] = 1.0
    return Tried(np.ones(1000), loss, np.zeros(1000, bool))


@given(st.lists(st.integers(0, 120), max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_chain_stops_at_its_first_failure(worse: list[int]) -> None:
    """What comes after a failure is never tested, however good it is."""
    walked = walk(len(worse), lambda at: tried(worse[at]), loss_test(), 0.05, 0.05)
    count = len(walked.passed)
    assert walked.passed == tuple(range(count))
    assert all(p <= 0.05 for p in walked.p_values[:count])
    assert walked.finished is (count == len(worse))
    assert walked.finished or walked.p_values[-1] > 0.05


def test_a_plan_that_does_not_save_is_refused_by_the_guard() -> None:
    """The same cost is no saving, nor is one that chance explains."""
    cost = np.full(100, 10.0)
    loss, more, each = np.zeros(100), np.zeros(100, bool), np.arange(100)
    assert not saves(Tried(cost, loss, more), cost, each)
    assert saves(Tried(cost * 0.9, loss, more), cost, each)
    noisy = cost + np.where(np.arange(100) % 2, 8.0, -8.2)
    assert not saves(Tried(noisy, loss, more), cost, each)


def test_the_guard_knows_that_rows_of_a_cluster_cost_alike() -> None:
    """A hundred rows that save are proof, and little when they are of three customers."""
    cost = np.full(100, 10.0)
    customer = np.repeat(np.arange(4), 25).astype(np.intp)
    tried = Tried(cost - np.array([4.0, 4.0, -3.0, -1.0])[customer], np.zeros(100), np.zeros(100, bool))
    assert saves(tried, cost, np.arange(100))
    assert not saves(tried, cost, customer)


def test_a_certificate_says_what_was_done() -> None:
    """Rows, budget, test, method, look."""
    found = tune(draw(rows=1000), target=0.05, at_confidence=0.9, seed=3, look=2)
    assert found.certificate is not None
    said, one = found.certificate, found.certificate.statements["all"]
    assert (said.test, said.method, said.guarantee, said.look, said.open_ended, said.seed) == (
        "exact",
        "split",
        "guaranteed",
        2,
        True,
        3,
    )
    assert said.train_rows + one.rows == 1000
    assert one.share <= 0.1 / 4
    assert one.p_value <= one.share
    assert one.loss < one.loss_upper <= 0.05
    assert one.cost_interval[0] < one.cost < one.cost_interval[1] < 1


@pytest.mark.parametrize(("world", "kind"), [(PAIR, "exact"), (GRADED, "betting"), (CLUSTERED, "betting")])
def test_the_test_fits_the_rows(world: World, kind: str) -> None:
    """Grades and clusters are beyond the exact test."""
    found = tune(draw(world, 3000), target=0.08, at_confidence=0.9)
    assert found.certificate is not None
    assert found.certificate.test == kind


def test_a_certificate_of_clusters_counts_each_once() -> None:
    """It says so, with how many there are, and so do its words."""
    found = tune(draw(CLUSTERED, 3000), target=0.08, at_confidence=0.9)
    assert found.certificate is not None
    one = found.certificate.statements["all"]
    assert one.clusters is not None
    assert one.clusters < one.rows
    said = " ".join(certificate_words(found.certificate, "m1"))
    assert f"rows in {one.clusters:,} clusters" in said
    assert "Each cluster counts once" in said
    assert "luster" not in " ".join(certificate_words(plain(found.certificate), "m1"))


@pytest.mark.parametrize(
    ("loss", "upper", "said"),
    [
        (0.01, 0.02, "lost 1 point (at most 2 points)"),
        (-0.0164, 0.005, "gained 1.64 points (a loss of at most 0.5 points)"),
        (-0.0164, -0.005, "gained 1.64 points (at least 0.5 points)"),
        (-4e-18, 0.005, "lost 0 points (at most 0.5 points)"),
        (-0.0164, -1e-9, "gained 1.64 points (a loss of at most 0 points)"),
    ],
)
def test_a_loss_below_nothing_is_called_a_gain(loss: float, upper: float, said: str) -> None:
    """Nobody has to read what it means to lose minus two points."""
    certificate = tune(draw(CLUSTERED, 3000), target=0.08, at_confidence=0.9).certificate
    assert certificate is not None
    one = replace(certificate.statements["all"], loss=loss, loss_upper=upper)
    assert said in " ".join(certificate_words(replace(certificate, statements={"all": one}), "m1"))


def test_a_split_counts_clusters_not_rows() -> None:
    """Whatever the sizes, each cluster is as likely as any other to certify: else the largest would rarely do."""
    units = np.repeat(np.arange(101), [1] * 100 + [900])
    held = [np.isin(100, units[split(units, 0.35, 10_000, seed)[1]]) for seed in range(400)]
    assert 0.58 < np.mean(held) < 0.72
    train, certify = split(units, 0.35, 10_000, 0)
    assert len(np.unique(units[train])) == 35
    assert not set(units[train]) & set(units[certify])


def test_with_clusters_it_is_clusters_that_must_do() -> None:
    """Ten thousand rows of ten customers are ten: refused, with the number that counts."""
    run = replace(draw(PAIR, 1000), cluster=(np.arange(1000) % 10).astype(object))
    with pytest.raises(TuningError, match=r"1000 labelled rows \(in 10 clusters, each of which counts once\)"):
        tune(run, target=0.05, at_confidence=0.9)


def plain(certificate: Certificate) -> Certificate:
    """The same as of rows that were drawn one by one."""
    alone = {name: replace(one, clusters=None) for name, one in certificate.statements.items()}
    return replace(certificate, statements=alone)


def test_never_worse_is_stricter_than_the_signed_loss() -> None:
    """It gives no credit."""
    run = draw(rows=3000)
    signed, strict = (tune(run, target=0.05, at_confidence=0.9, never_worse=one).apply(run) for one in (False, True))
    assert (strict.loss > 0).mean() < (signed.loss > 0).mean()
    assert strict.cost_change > signed.cost_change


def test_crossfit_does_not_call_itself_guaranteed() -> None:
    """No theorem stands behind rows that were fitted on."""
    found = tune(draw(), target=0.05, at_confidence=0.9, method="crossfit")
    assert found.certificate is not None
    assert found.certificate.guarantee == "simulation-checked"
    assert found.certificate.statements["all"].rows == found.certificate.train_rows == 800


def test_crossfit_scores_a_row_by_fits_that_never_saw_it() -> None:
    """Turning a row's own labels around changes nothing that is certified of it, whatever was selected."""
    run = draw(rows=300)
    family = Family((0, 1), ("confidence",), (True,))
    tuner = Tuner(run, method="crossfit")
    folds = folds_of(tuner.table.unit, FOLDS, 0)
    turned = run.quality.copy()
    turned[folds == 2] = 1.0 - turned[folds == 2]
    other = Tuner(replace(run, quality=turned), method="crossfit")
    one, two = (each.left_out.read(lambda fit, rows: fit.confidence_of(rows, 0)) for each in (tuner, other))
    assert (one[folds == 2] == two[folds == 2]).all()
    assert (one[folds != 2] != two[folds != 2]).any()
    assert len(tuner.left_out.scores(family, tuner.trained.scores(family)).draft[0]) == 300


@given(st.sets(st.integers(0, 1000), min_size=2, max_size=30), st.floats(0.1, 5.0), st.floats(-1.0, 1.0))
def test_a_score_stands_on_another_scale_where_it_stood_on_its_own(own: set[int], wide: float, shift: float) -> None:
    """Stretched and moved scores are stretched and moved back; what has no score gets none."""
    known = np.array(sorted(own)) / 1000.0
    assert on_scale(known, known, wide * known + shift) == pytest.approx(wide * known + shift, abs=1e-9)
    assert np.isnan(on_scale(np.array([np.nan]), known, known)).all()


def test_ties_on_another_scale_stay_ties() -> None:
    """Three scores in other shares are still three scores in the same order, those beyond all seen included."""
    own, wanted = np.repeat([0.2, 0.5, 0.9], [30, 40, 30]), np.repeat([0.3, 0.6, 0.8], [33, 38, 29])
    assert on_scale(np.array([0.2, 0.5, 0.9]), own, wanted) == pytest.approx([0.3, 0.6, 0.8])
    below, above = on_scale(np.array([0.1, 1.0]), own, wanted)
    assert below < 0.3
    assert above > 0.8


def test_groups_have_statements_of_their_own_and_unseen_ones_get_the_top_rung() -> None:
    """The error budget is split among them, unless each is to hold alone."""
    run = draw(GROUPED, 3000)
    together = tune(run, target=0.05, at_confidence=0.9, group="tier")
    alone = tune(run, target=0.05, at_confidence=0.9, group="tier", each_alone=True)
    assert together.certificate is not None
    assert alone.certificate is not None
    for name, one in together.certificate.statements.items():
        assert one.share <= 0.1 / 3 + 1e-12
        assert alone.certificate.statements[name].share <= 0.1 + 1e-12
    strange = replace(run, group=np.full(run.rows, "unseen", dtype=object))
    assert together.plan.rungs == (TunedRung("m1"),)
    assert (together.apply(strange).answered == 1).all()
    assert (together.apply(run).answered == 0).any()


def test_an_artefact_says_nothing_of_groups_without_a_plan() -> None:
    """What words say of them serves nobody: their calls ask the top rung alone. Without groups all is kept."""
    words = Words((0.0,) * WORD_FEATURES.buckets, 0.0, {"free": 0.5, "strange": 1.0})
    found = tune(draw(GROUPED, 3000), target=0.05, at_confidence=0.9, group="tier")
    plan = replace(found.plan, groups={"free": (TunedRung("m1"),)})
    fitted = Fitted({"m0": replace(HEADS["m0"], words={"prompt_words": words})}, {})
    for own, groups in ((plan, {"free": 0.5}), (TunedPlan((TunedRung("m1"),)), words.groups)):
        (entry,) = replace(found, plan=own, fitted=fitted).artefact({"m0": "a/m0"}).models
        assert entry.words["prompt_words"] == replace(words, groups=groups)


def test_what_cannot_be_shown_is_refused_with_the_number_that_could_do() -> None:
    """Always the top rung, nothing to write, and a number that grows as the target falls."""
    found = tune(draw(rows=420, seed=1), target=0.011, at_confidence=0.9)
    assert not found.certified
    assert found.plan == TunedPlan((TunedRung("m1"),))
    assert found.needed_rows is None or found.needed_rows > 420
    with pytest.raises(TuningError, match="nothing to write"):
        found.artefact({"m0": "a/m0", "m1": "a/m1"})
    tuner = Tuner(draw(rows=2000))
    counts = [
        needed_rows(tuner.trained, choose(tuner.trained, one, 0.1, 1000), one, 0.1) or 10**9
        for one in (0.05, 0.02, 0.01)
    ]
    assert counts == sorted(counts)


def test_the_same_run_and_seed_give_the_same_tuning() -> None:
    """Nothing is left to chance that is not seeded."""
    assert tune(draw(), target=0.05) == tune(draw(), target=0.05)


def test_certify_rows_have_no_part_in_choosing_the_chain() -> None:
    """Whatever their labels, the settings that are tested are the same."""
    run = draw(rows=900)
    tuner = Tuner(run)
    spoiled = run.quality.copy()
    spoiled[tuner.certify] = 1.0 - spoiled[tuner.certify]
    other = Tuner(replace(run, quality=spoiled))
    chains = []
    for one in (tuner, other):
        best = choose(one.trained, 0.05, 0.1, len(one.certify))
        chains.append(chain_of(best, best.scores, len(one.certify)))
    assert chains[0] == chains[1]
    assert 1 <= len(chains[0].settings) <= MAX_SETTINGS


@given(st.lists(st.integers(0, 50).map(lambda n: n / 50), min_size=1, max_size=60))
def test_thresholds_lie_between_scores(scores: list[float]) -> None:
    """So that a rounding error moves no draft across one; strict to loose, the last below every score."""
    known = np.sort(np.array(scores))
    thresholds = between(known, known)
    assert np.all(np.diff(thresholds) < 0)
    assert not set(thresholds.tolist()) & set(scores)
    assert thresholds[-1] < known[0]


# Plans


@st.composite
def plans(draw_: st.DrawFn) -> tuple[TunedRung, ...]:
    """Any plan over three models."""
    models = sorted(draw_(st.sets(st.sampled_from(["m0", "m1", "m2"]), min_size=1)))
    share = st.none() | st.floats(0.1, 0.95)
    climbing = [
        TunedRung(name, draw_(share), draw_(st.sampled_from(["confidence", "gain"])), draw_(share) if not at else None)
        for at, name in enumerate(models[:-1])
    ]
    return (*climbing, TunedRung(models[-1]))


def heads() -> Heads:
    """Calibrators of one model: with and without an earlier draft, of the last rung, and of the prompt."""
    compared = Calibrator(("lp_mean", "agreement"), (-1.0, 0.5), (1.0, 0.5), (2.0, 1.0), 0.3)
    alone = Calibrator(("lp_mean",), (-1.0,), (1.0,), (2.0,), 0.1)
    last = Calibrator(("lp_mean",), (-1.0,), (1.0,), (0.5,), 0.8)
    return Heads((compared, alone), (last,), (Calibrator(("input_chars",), (50.0,), (20.0,), (-1.0,), 0.2),))


HEADS = {name: heads() for name in ("m0", "m1", "m2")}


def by_hand(run: EvalRun, rungs: tuple[TunedRung, ...], row: int) -> tuple[int, float]:
    """Follow one row as the flow does: who answers and what it costs."""
    cost, held, before = 0.0, None, None
    for at, rung in enumerate(rungs):
        model = run.models.index(rung.model)
        known = {name: float(run.signals[rung.model][name][row]) for name in ("lp_mean", "invalid")}
        chars = {"input_chars": float(run.prompt_signals["input_chars"][row])}
        gate = HEADS[rung.model].prompt[0].probability(chars)
        if rung.gate is not None and gate is not None and gate < rung.gate:
            before = run.answers[row, model] if run.answers is not None else None
            continue
        cost += float(run.cost_nusd[row, model])
        usable = known["invalid"] < 0.5
        if at == len(rungs) - 1:
            return (model if usable or held is None else held), cost
        if before is not None and run.answers is not None:
            known["agreement"] = float(run.answers[row, model] is not None and run.answers[row, model] == before)
        before = run.answers[row, model] if run.answers is not None else None
        heads = HEADS[rung.model]
        score = next((p for one in heads.confidence if (p := one.probability(known)) is not None), None)
        if score is not None and rung.by == "gain":
            last = heads.last[0].probability(known)
            score = None if last is None else 1.0 - (1.0 + last - score) / 2.0
        if usable and rung.threshold is not None and score is not None and score >= rung.threshold:
            return model, cost
        held = model if usable else held
    raise AssertionError("the last rung answers")


@given(plans(), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_a_plan_does_on_columns_what_it_does_call_by_call(rungs: tuple[TunedRung, ...], seed: int) -> None:
    """Gates, thresholds, gains, unusable drafts, comparison and held drafts; answers and costs are equal."""
    random = np.random.default_rng(seed)
    run = draw(THREE, 40, seed)
    signals = {
        model: {"lp_mean": -random.random(40) * 3, "invalid": (random.random(40) < 0.2).astype(float)}
        for model in run.models
    }
    run = replace(run, signals=signals, prompt_signals={"input_chars": random.integers(0, 100, 40).astype(float)})
    found = apply_rungs(prepare(run), rungs, Fitted(HEADS, {}))
    expected = [by_hand(run, rungs, row) for row in range(40)]
    assert found.answered.tolist() == [model for model, _ in expected]
    assert found.cost.tolist() == pytest.approx([cost for _, cost in expected])


def test_comparing_names_every_choice_on_one_cost_axis() -> None:
    """The oracle pays for its drafts, and the best single model is within the target."""
    run = draw(THREE, 2000)
    found = tune(run, target=0.05, at_confidence=0.9)
    choices = {one.name: one for one in compare(found, run, 0.05)}
    assert {"m0", "m1", "m2", "random", "oracle", "plan"} < set(choices)
    assert choices["m2"].cost == pytest.approx(1.0)
    assert choices["m2"].loss == 0.0
    assert choices["oracle"].cost > choices["m0"].cost
    assert choices["oracle"].loss < 0.0
    best = next(one for name, one in choices.items() if name.startswith("best alone"))
    assert best.loss <= 0.05


def test_a_tuning_says_how_good_its_confidences_are() -> None:
    """For every model, on rows that it is given."""
    run = draw(rows=1500)
    found = tune(run, target=0.05).calibration(draw(rows=3000, seed=9))
    assert set(found) == {"m0", "m1"}
    assert found["m0"].auroc.low > 0.7
    assert found["m1"].auroc.value == pytest.approx(0.5)


def test_an_artefact_holds_what_calls_need() -> None:
    """Plan, calibrators by model, certificate with what it binds to."""
    found = tune(draw(), target=0.05, at_confidence=0.9)
    artefact = found.artefact({"m0": "a/m0", "m1": "a/m1"}, binds_to={"system": "x"}, issued="2026-01-01")
    assert artefact.plan == found.plan
    assert {entry.model: entry.litellm for entry in artefact.models} == {"m0": "a/m0", "m1": "a/m1"}
    assert artefact.certificate is not None
    assert (artefact.certificate.binds_to, artefact.certificate.issued) == ({"system": "x"}, "2026-01-01")


@pytest.mark.parametrize("clusters", [1, 2, 3, 12])
@pytest.mark.parametrize("method", ["split", "crossfit"])
def test_few_clusters_end_in_a_plan_or_in_words(clusters: int, method: Any) -> None:
    """However loose the target: never in an error that says nothing."""
    run = draw()
    cluster = np.array([at % clusters for at in range(len(run.row_ids))], dtype=object)
    group = np.array([f"g{at % 2}" for at in range(len(run.row_ids))], dtype=object)
    for target, confidence in ((0.4, 0.5), (0.9, 0.2)):
        try:
            found = tune(replace(run, cluster=cluster), target=target, at_confidence=confidence, method=method)
            assert found.plan.rungs
            tuner = Tuner(replace(run, cluster=cluster, group=group), method=method)
            tuner.tune(target, at_confidence=confidence, group="g", each_alone=True)
        except TuningError as error:
            assert "clusters" in str(error)


def test_where_rows_should_have_done_and_did_not_half_as_many_again_are_advised() -> None:
    """The rows to train on were too hopeful, so what they forecast says nothing of how many rows would do."""
    run = draw()
    quality = run.quality.copy()
    quality[Tuner(run).certify, 0] = 0.0
    found = Tuner(replace(run, quality=quality)).tune(0.05, at_confidence=0.9)
    assert (found.certified, found.needed_rows) == (False, 1200)
    assert "about 1200 labelled rows in all would do, against 800 now" in found.refusal


@pytest.mark.parametrize(("threshold", "share"), [(0.4, "60.0%"), (-0.001, "100.0%"), (1.002, "0.0%")])
def test_a_plan_by_gain_says_how_often_it_would_be_beaten(threshold: float, share: str) -> None:
    """A threshold beyond every score is no share above all calls or below none."""
    words = rungs_words((TunedRung("small", threshold, by="gain"), TunedRung("large")))
    assert f"keep its draft where large would beat it in at most {share} of such calls" in words
