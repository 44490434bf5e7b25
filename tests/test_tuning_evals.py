"""The runners behind the tables of docs/evals.md: they run on any folder and any world."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evals import routellm, signals, validity
from evals.worlds import EVERY, HEAVY_CLUSTERS, World
from router.core.evidence import BLOCKS, EVIDENCE
from router.core.signals import FREE_SIGNALS
from router.core.word_scores import WORD_SIGNALS
from router.tuning.table import prepare
from router.tuning.units import unit_losses


@pytest.mark.parametrize("world", EVERY, ids=lambda world: world.name)
def test_every_world_can_be_tuned_and_measured(world: World) -> None:
    """One pipeline, the same each time."""
    first = validity.pipeline(world, 1, 0)
    assert first == validity.pipeline(world, 1, 0)
    false, certified, cost = first
    assert certified or (not false and cost == 0.0)
    assert cost <= 0.0


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts that are kept are not made again."""
    out = tmp_path / "counts.json"
    done = {"pipelines": 2.0, "false": 0.0, "certified": 1.0, "cost_change": -0.5}
    kept = {world.name: done for world in EVERY}
    out.write_text(json.dumps({"seed": validity.SEED, "worlds": kept}))
    assert validity.main(["--pipelines", "2", "--jobs", "1", "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["pipelines"], row["certified"], row["cost_change"]) for row in rows} == {(2, 0.5, -0.25)}


def test_chosen_worlds_are_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Part of a name is enough; the others' counts stay; a name that no world has is told."""
    out = tmp_path / "counts.json"
    done = {"pipelines": 9.0, "false": 0.0, "certified": 1.0, "cost_change": -0.5}
    out.write_text(json.dumps({"seed": validity.SEED, "worlds": {EVERY[0].name: done}}))
    run = ["--pipelines", "1", "--jobs", "1", "--out", str(out), "--json"]
    assert validity.main([*run, "--worlds", "unlike sizes"]) == 0
    assert [row["world"] for row in json.loads(capsys.readouterr().out)["rows"]] == [HEAVY_CLUSTERS.name]
    kept = json.loads(out.read_text())["worlds"]
    assert kept[EVERY[0].name] == done
    assert kept[HEAVY_CLUSTERS.name]["pipelines"] == 1
    with pytest.raises(SystemExit, match="no world has 'moon' in its name"):
        validity.main([*run, "--worlds", "moon"])


def test_the_time_of_every_signal_is_measured() -> None:
    """Each block reads its own signals beside the free ones, and all together is all that a call can read."""
    found = {name: read(signals.asked()) for name, read in signals.reads().items()}
    free = FREE_SIGNALS.keys()
    assert found.pop("free").keys() == free
    assert found.pop("all").keys() == free | BLOCKS.keys() | WORD_SIGNALS.keys()
    of_block: dict[str, set[str]] = {block: set(names) for block, names in EVIDENCE.items()}
    of_block |= {name: {name} for name in WORD_SIGNALS}
    assert {name: read.keys() - free for name, read in found.items()} == of_block


def test_heavy_clusters_are_measured_by_cluster() -> None:
    """A small model that does badly in short documents only loses little by row and much by cluster."""
    run = HEAVY_CLUSTERS.draw(np.random.default_rng(0), 100_000)
    assert run.cluster is not None
    cluster = run.cluster.astype(np.intp)
    sizes = np.bincount(cluster)
    lost = run.quality[:, 1] - run.quality[:, 0]
    assert sizes.max() > 50 * sizes.mean()
    assert lost.mean() < HEAVY_CLUSTERS.target < unit_losses(lost, cluster).mean()
    whole = np.bincount(cluster, weights=run.quality[:, 0]) / sizes
    assert set(np.unique(whole)) == {0.0, 1.0}


def test_routers_are_measured_as_routellm_does() -> None:
    """Where one call in two gains, the best order gets half of it from a quarter of the calls; chance from half."""
    random = np.random.default_rng(0)
    quality = np.column_stack([np.arange(2000.0) % 2.0, np.ones(2000)]).astype(np.float64)
    run = HEAVY_CLUSTERS.draw(random, 2000).take(np.arange(2000))
    table = prepare(replace(run, quality=quality, cluster=None))
    chance = random.random(2000)
    best = routellm.curve(table, quality[:, 0] + 0.01 * chance, None)
    assert best.apgr == pytest.approx(0.75, abs=0.01)
    assert best.cpt50 == pytest.approx(0.25, abs=0.01)
    assert routellm.curve(table, chance, None).apgr == pytest.approx(0.5, abs=0.1)
    measured = routellm.curve(table, chance, None)
    apgr, cpt50 = routellm.intervals([(table, chance), (table, chance)])
    assert apgr[0] < measured.apgr < apgr[1]
    assert cpt50[0] < measured.cpt50 < cpt50[1]


def test_certified_savings_runs_on_any_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records in the same columns and a file of pairs are all it needs; a set that is absent is named."""
    from evals import certified_savings

    random = np.random.default_rng(0)
    folder = tmp_path / "made_up"
    folder.mkdir()
    with gzip.open(folder / "records.jsonl.gz", "wt") as file:
        for row in range(700):
            sure = random.random()
            for model, cost, right in (("small", 1e-5, random.random() < sure), ("large", 1e-3, True)):
                record = {
                    "task": "t",
                    "prompt_id": str(row),
                    "prompt": f"question {row}",
                    "model": model,
                    "response": "yes",
                    "correct": int(right),
                    "cost_usd": cost,
                    "conf": sure,
                }
                file.write(json.dumps(record) + "\n")
    pairs = tmp_path / "pairs.jsonl"
    known: dict[str, object] = {"set": "made_up", "task": None, "cheap": "small", "top": "large", "peers": []}
    pairs.write_text(json.dumps(known) + "\n" + json.dumps({**known, "set": "gone"}) + "\n")
    arguments = ["--data", str(tmp_path), "--pairs", str(pairs), "--seeds", "2", "--jobs", "1"]
    assert certified_savings.main([*arguments, "--json"]) == 0
    shown = capsys.readouterr()
    summaries = json.loads(shown.out)["summary"]
    assert set(summaries) == {"split", "crossfit"}
    for of_method in summaries.values():
        assert [one["target"] for one in of_method] == [0.01, 0.02, 0.03, 0.05]
        assert of_method[-1]["cost_change"] < -0.1
    assert "gone holds no such answers" in shown.err
    assert certified_savings.main([*arguments, "--seeds", "1", "--levers", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["summary"]) == {one.name for one in certified_savings.LEVERS}
