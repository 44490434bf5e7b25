"""A tuned file that was changed by hand is noticed: its numbers are no longer those that were measured."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router import Router
from router.core.tuned import TunedPlan
from router.errors import PolicyError, RouterWarning
from router.spec import ModelCalibrators, load, load_tuned, write_tuned
from tests.support import Cli
from tests.test_standing import PAIR, STRICT_PAIR, SURE, asked, folder_of
from tests.tuning_support import recorded, write_policy, write_rows

Place = tuple[str | int, ...]


def tuned_file(folder: Path) -> Path:
    """The file that the tuner writes."""
    return folder / "tuned" / "colours.json"


def edit(folder: Path, change: Any) -> None:
    """Change the file as somebody with an editor would."""
    content = json.loads(tuned_file(folder).read_text())
    change(content)
    tuned_file(folder).write_text(json.dumps(content, indent=2))


def loosen(content: Any) -> None:
    """Keep nearly every draft of the first rung."""
    content["plan"]["rungs"][0]["threshold"] = 0.1


def is_edited(folder: Path) -> bool:
    """Whether loading the file notices an edit."""
    found = load_tuned(folder, "colours", load(folder).policy)
    assert found is not None
    return found.edited


def numbers(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where there are numbers in a document."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(one, (*at, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield at


def replaced(document: Any, at: Place, value: float) -> Any:
    """The document with another number in one place."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return copy


def laid_out(value: Any, draw: Any) -> Any:
    """The same document with its keys in another order, and whole numbers written the other way."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: laid_out(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [laid_out(one, draw) for one in value]
    if isinstance(value, float) and value.is_integer() and draw(st.booleans()):
        return int(value)
    return value


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies with a tuned file as the tuner wrote it."""
    provenance = {"run": "runs/colours.jsonl", "rows": 800, "served": {"small": ["small-1"]}}
    return folder_of(tmp_path_factory.mktemp("written"), PAIR, provenance=provenance)


LAW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@LAW
@given(data=st.data())
def test_any_other_number_anywhere_is_noticed(written: Path, data: st.DataObject) -> None:
    """Threshold, coefficient, bound, rows: whichever it is, and however little it differs."""
    original = tuned_file(written).read_bytes()
    document = json.loads(original)
    at = data.draw(st.sampled_from(sorted(numbers(document), key=str)))
    before: Any = document
    for key in at:
        before = before[key]
    near = st.sampled_from([before + 1, before - 1, before * (1 + 1e-15) + 1e-15])
    value = data.draw((near | st.floats(allow_nan=False, allow_infinity=False)).filter(lambda one: one != before))
    tuned_file(written).write_text(json.dumps(replaced(document, at, value)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert is_edited(written)
    except PolicyError:
        pass  # A number that no such file can have is refused outright.
    finally:
        tuned_file(written).write_bytes(original)


@LAW
@given(data=st.data())
def test_another_layout_is_not_an_edit(written: Path, data: st.DataObject) -> None:
    """White space, the order of keys and 1.0 for 1 are what formatters change."""
    original = tuned_file(written).read_bytes()
    document = laid_out(json.loads(original), data.draw)
    indent = data.draw(st.none() | st.integers(0, 8))
    tuned_file(written).write_text(json.dumps(document, indent=indent, ensure_ascii=data.draw(st.booleans())) + "\n\n")
    try:
        assert not is_edited(written)
    finally:
        tuned_file(written).write_bytes(original)


def test_calls_of_an_edited_plan_ask_the_top(tmp_path: Path) -> None:
    """The draft that a lowered threshold would keep is not asked for; one warning says what to do."""
    folder = folder_of(tmp_path, STRICT_PAIR)
    assert asked(folder) == ["small", "large"]
    edit(folder, loosen)
    assert asked(folder) == ["large"]
    with Router(folder) as router, pytest.warns(RouterWarning, match="edited after") as told:
        assert router.plan("colours").standing.stale
    assert "run `router tune colours --write`; until then every call asks the top rung" in str(told[0].message)


@pytest.mark.parametrize(("on_stale", "rungs"), [("top", ["large"]), ("keep", ["small"])])
def test_an_edit_is_treated_as_stale(tmp_path: Path, on_stale: str, rungs: list[str]) -> None:
    """`on_stale` says what then happens; with `keep` the edited numbers are followed."""
    folder = folder_of(tmp_path, STRICT_PAIR, now={"on_stale": on_stale})
    edit(folder, loosen)
    assert asked(folder) == rungs


def test_an_edit_can_refuse_calls(tmp_path: Path) -> None:
    """With `on_stale: refuse` nothing is answered by numbers that nobody measured."""
    folder = folder_of(tmp_path, now={"on_stale": "refuse"})
    edit(folder, loosen)
    with pytest.raises(PolicyError, match=r"edited after .*`on_stale: refuse` stops calls"):
        asked(folder)


def test_tuning_again_redoes_an_edited_file(cli: Cli) -> None:
    """The remedy works, whatever `on_stale` says, and asks nothing new of the rows."""
    write_policy(Path("policies"), on_stale="refuse")
    write_rows(Path("runs/colours.jsonl"), recorded(900))
    assert cli("tune", "colours", "--write").code == 0
    written = tuned_file(Path("policies")).read_bytes()
    edit(Path("policies"), loosen)
    assert "edited after" in cli("tune", "--check").out
    done = cli("tune", "colours", "--write")
    assert (done.code, "Look 1 at these rows" in done.out) == (0, True)
    assert tuned_file(Path("policies")).read_bytes() == written


def test_edited_calibrators_without_a_plan_are_noticed_too(tmp_path: Path) -> None:
    """What `router distill` wrote is no longer what it measured; its own command is named."""
    folder = folder_of(tmp_path)
    tuned_file(folder).unlink()
    write_tuned(folder, "colours", ModelCalibrators("small", "x/small", (SURE,)), {"rows": 3})
    assert not is_edited(folder)
    edit(folder, lambda content: content["models"][0]["calibrators"][0].update(intercept=9.0))
    with Router(folder) as router, pytest.warns(RouterWarning, match="run `router distill colours`"):
        assert router.plan("colours").standing.force == "top"


def test_nothing_is_added_to_an_edited_file(tmp_path: Path) -> None:
    """A new digest would pass the edit off as measured."""
    folder = folder_of(tmp_path)
    edit(folder, loosen)
    before = tuned_file(folder).read_bytes()
    with pytest.raises(PolicyError, match="was edited by hand, so nothing was written"):
        write_tuned(folder, "colours", ModelCalibrators("tiny", "x/tiny", (SURE,)), {})
    assert tuned_file(folder).read_bytes() == before


def test_a_file_without_a_digest_is_followed_and_noted(cli: Cli, tmp_path: Path) -> None:
    """It may be older than digests: it works as before, and `router check` says what it cannot tell."""
    folder = folder_of(tmp_path)
    edit(folder, lambda content: content.pop("digest"))
    assert asked(folder) == ["small"]
    result = cli("check", "--policies", folder)
    assert "written before tuned files carried a digest" in " ".join(result.out.split())


def test_check_shows_an_edit_as_a_finding(cli: Cli, tmp_path: Path) -> None:
    """So that a user's CI fails on it."""
    folder = folder_of(tmp_path)
    edit(folder, loosen)
    result = cli("check", "--policies", folder)
    assert result.code == 1
    assert "was edited after it was written" in " ".join(result.out.split())


def test_the_digest_is_of_what_was_written(tmp_path: Path) -> None:
    """Two files of the same content have the same, whatever was there before."""
    one, two = (folder_of(tmp_path / name, PAIR) for name in ("one", "two"))
    other = folder_of(tmp_path / "three", TunedPlan(PAIR.rungs[1:]))
    digests = [json.loads(tuned_file(folder).read_text())["digest"] for folder in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]
