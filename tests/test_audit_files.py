"""The audit and files: a provider's bill beside the ledger, units and revenue, and exports that lose nothing."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import Router
from router.audit import Filters, audit, export, margins, read_units, reconcile
from router.audit.usage_export import plain_model, read_export
from router.core.call import Call, Failure, Reply, Usage
from router.core.faults import Fault
from router.errors import InvalidCall, InvalidFile, LadderExhausted
from router.testing import ScriptedModels, SimulatedClock
from router.world import World
from tests.support import Cli, make_policy, read_table

START_S = 1_700_000_000.0  # 2023-11-14, 22:13 UTC.
# 1,000 tokens in, 200 of them cached, and 100 out: 125,000 nano-dollars from the small model.
USAGE = Usage(input_tokens=800, cached_read_tokens=200, output_tokens=100)
SMALL = 800 * 100 + 200 * 25 + 100 * 400
BOUND = 34 * 100 + 40 * 400

OPENAI = "start_time_iso,model,num_model_requests,input_tokens,output_tokens,input_cached_tokens,amount_value"
DAY_1 = "2023-11-14T00:00:00+00:00,small-2023-06-13,6,6000,600,1200,0.00075"
DAY_2 = "2023-11-15T00:00:00+00:00,small,4,4000,400,800,0.0005"


def _small(call: Call) -> Any:
    return Failure(Fault.TIMEOUT) if call.messages[0]["content"] == "t" else Reply("yes", USAGE)


@pytest.fixture
def ledger(home: Path) -> Path:
    """Six calls on one day and four on the next, all of the small model."""
    _route(home, 10)
    return home


def _route(home: Path, calls: int, *, prompt: str = "hi", clock: SimulatedClock | None = None) -> None:
    clock = clock or SimulatedClock(START_S)
    policy = make_policy({"ladder": ["small"], "retry": {"attempts": 1, "max_wait_s": 0}})
    with Router(policy, home=home, backend=ScriptedModels({"small": _small}), world=World(clock=clock)) as router:
        for number in range(calls):
            try:
                router.route("t", prompt, feature=("inbox", "search")[number % 2])
            except LadderExhausted:
                assert prompt == "t"
            clock.sleep(1200)


@pytest.fixture
def bill(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of some lines."""

    def write(*lines: str, name: str = "bill.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


Bill = Callable[..., Path]


# --- reconciliation


def test_a_bill_that_agrees_says_so(ledger: Path, bill: Bill, cli: Cli) -> None:
    """To the nano-dollar, the token and the request; columns that are not used are named."""
    path = bill(f"{OPENAI},project_id", f"{DAY_1},p", f"{DAY_2},p")
    report = reconcile(ledger, path)
    assert report.agrees
    assert [(row.day, row.reasons) for row in report.rows] == [("2023-11-14", ()), ("2023-11-15", ())]
    done = cli("audit", "reconcile", path, "--home", ledger)
    assert (done.code, done.out.splitlines()[-1]) == (0, "the bill agrees with the ledger")
    assert "columns that were not used: project_id" in done.out
    assert cli("audit", "reconcile", path, "--home", ledger, "--json").json["agrees"] is True


def test_columns_may_stand_in_any_order_and_style(ledger: Path, bill: Bill) -> None:
    """Anthropic's names, a semicolon between cells, capitals, and columns that the caller names."""
    anthropic = bill(
        "usage_output_tokens;model_version;Usage_Input_Tokens_No_Cache;usage_input_tokens_cache_read;usage_date_utc",
        "600;small;4800;1200;2023-11-14",
        "400;small;3200;800;2023-11-15",
    )
    assert reconcile(ledger, anthropic).agrees
    own = bill("Total,When,Deployment", "0.00075,2023-11-14,small", "$0.0005,1700006400,openai/small")
    assert reconcile(ledger, own, columns={"day": "When", "model": "deployment", "cost_usd": "Total"}).agrees
    lines = bill("start_time,line_item,amount_value", '1700006400,"small-2023-06-13, input",0.0005')
    (row,) = reconcile(ledger, lines).rows
    assert (row.model, row.agrees) == ("small", True)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((DAY_1.replace(",6,", ",9,"), DAY_2), "3 requests on the bill that the ledger does not have"),
        ((DAY_1.replace(",6,", ",5,"), DAY_2), "1 requests of the ledger are not on the bill"),
        ((DAY_1.replace(",600,", ",650,"), DAY_2), "output: 50 tokens more on the bill"),
        ((DAY_1.replace(",1200,", ",1000,"), DAY_2), "200 input tokens are plain on the bill alone"),
        ((DAY_1.replace("0.00075", "0.0015"), DAY_2), "the same tokens at 200.00% of the ledger's price"),
        ((DAY_1.replace("0.00075", "0.0005"), DAY_2), "the same tokens at 66.67% of the ledger's price"),
        ((DAY_2,), ""),
        ((DAY_1, DAY_2, "2023-11-15,gpt-9,1,1,1,0,0.5"), "not in the ledger"),
        ((DAY_1, DAY_2, "2023-11-13,small,1,1,1,0,0.5"), "not in the ledger"),
        ((DAY_1, DAY_2, "2023-11-16,small,0,0,0,0,-0.5"), "not in the ledger"),
    ],
    ids=["more", "fewer", "tokens", "cache", "dearer", "cheaper", "days-outside", "model", "day", "credit"],
)
def test_each_planted_difference_is_found(lines: tuple[str, ...], reason: str, ledger: Path, bill: Bill) -> None:
    """It is on its day and model with its cause; days before and after the bill are not asked for."""
    report = reconcile(ledger, bill(OPENAI, *lines))
    reasons = [one for row in report.rows for one in row.reasons]
    assert report.agrees or reason
    assert bool(reasons) == bool(reason)
    assert all(one.startswith(reason) for one in reasons), reasons


def test_a_name_on_a_bill_gives_a_terminal_no_orders(ledger: Path, bill: Bill, cli: Cli) -> None:
    """Control characters of a file are shown as what they are."""
    path = bill(OPENAI, DAY_1, DAY_2, "2023-11-15,\x1b[31mred,1,1,1,0,0.5")
    out = cli("audit", "reconcile", path, "--home", ledger).out
    assert "\x1b" not in out
    assert out.count("\ufffd[31mred") == 2


def test_a_model_that_is_missing_on_the_bill_is_found(ledger: Path, bill: Bill) -> None:
    """A day of a model of the same provider that the bill leaves out is a difference."""
    report = reconcile(ledger, bill(OPENAI, DAY_1, "2023-11-15,other,0,0,0,0,0"))
    assert [(row.day, row.model, row.agrees) for row in report.rows] == [
        ("2023-11-14", "small", True),
        ("2023-11-15", "other", True),
        ("2023-11-15", "small", False),
    ]
    assert report.rows[-1].reasons[0].startswith("not on the bill")


def test_uncertain_requests_leave_a_range(ledger: Path, bill: Bill, cli: Cli) -> None:
    """A timeout that was billed after all is within it; what is above its bound is not."""
    _route(ledger, 1, prompt="t")
    inside = bill(OPENAI, DAY_1.replace(",6,", ",7,").replace("0.00075", f"{(6 * SMALL + 15_000) / 1e9:.9f}"), DAY_2)
    report = reconcile(ledger, inside)
    assert report.agrees
    assert report.rows[0].reasons[0] == "1 of 1 uncertain requests were billed"
    outside = bill(OPENAI, DAY_1.replace("0.00075", "0.0019"), DAY_2, name="b.csv")
    done = cli("audit", "reconcile", outside, "--home", ledger)
    assert (done.code, done.out.splitlines()[-1]) == (1, "1 line of 2 differ")


USAGE_ONLY = "start_time_iso,model,num_model_requests,input_tokens,output_tokens,input_cached_tokens"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("6,6000,600,1200", None),
        ("7,6030,610,1200", None),
        ("7,9994394,600,1200", "uncertain requests do not explain these tokens"),
        ("6,6030,600,1200", "uncertain requests do not explain these tokens"),
        ("455,6000,600,1200", "448 requests on the bill that the ledger does not have"),
        ("5,6000,600,1200", "1 requests of the ledger are not on the bill"),
        ("6,5000,600,1200", "input: 1,000 tokens fewer on the bill"),
    ],
)
def test_a_bill_without_dollars_is_held_to_the_same_range(
    line: str, reason: str | None, ledger: Path, bill: Bill
) -> None:
    """One uncertain request explains one request and the tokens that its bound pays for, and nothing else."""
    _route(ledger, 1, prompt="t")
    report = reconcile(ledger, bill(USAGE_ONLY, f"2023-11-14,small,{line}"))
    assert report.agrees is (reason is None)
    assert reason is None or reason in report.rows[0].reasons


def test_tokens_that_nothing_bounds_cannot_be_told(home: Path, bill: Bill) -> None:
    """A day that has an uncertain request alone says what its tokens cost neither."""
    _route(home, 1, prompt="t")
    report = reconcile(home, bill(USAGE_ONLY, "2023-11-14,small,1,30,10,0"))
    assert (report.agrees, report.rows[0].reasons[-1]) == (
        False,
        "whether uncertain requests explain these tokens cannot be told: nothing bounds them",
    )


def test_a_repeated_line_counts_once_and_is_told(ledger: Path, bill: Bill, cli: Cli) -> None:
    """An export that was pasted twice does not double the bill."""
    path = bill(OPENAI, DAY_1, DAY_2, DAY_1)
    assert reconcile(ledger, path).export.repeated == ((4, 2),)
    assert "line 4 repeats line 2 sign by sign: it counts once" in cli("audit", "reconcile", path, "--home", ledger).out


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((), "is empty"),
        (("model,cost_usd", "small,1"), r":1: no column is known to be the day; there is model, cost_usd"),
        (("day,model", "2023-11-14,small"), ":1: no column is known to be the cost_usd"),
        (("day,model,cost", "2023-11-14,small"), ":2: has 2 cells and the header has 3"),
        (("day,model,cost,COST", "2023-11-14,small,1,1"), "two columns are called 'cost'"),
        (("day,model,cost,currency", "2023-11-14,small,1,eur"), ":2: currency: is 'eur'; the ledger is in US dollars"),
        (("day,model,cost", "2023-11-14,small,€1"), ":2: cost: '€1' is no number"),
        (("day,model,cost", "2023-11-14,small,NaN"), ":2: cost: 'NaN' is no number"),
        (("day,model,cost", "2023-11-14,small,1e999"), ":2: cost: '1e999' is no number"),
        (("day,model,requests", "2023-11-14,small,-1"), ":2: requests: is -1, and cannot be negative"),
        (("day,model,requests", "2023-11-14,small,1.5"), ":2: requests: is 1.5, and must be a whole number"),
        (("day,model,cost", "14.11.2023,small,1"), ":2: day: '14.11.2023' is no date"),
        (("day,model,cost", "0999-01-01,small,1"), ":2: day: '0999-01-01' is no date"),
        (("day,model,cost", "0001-01-01T00:00+05:00,small,1"), r":2: day: '0001-01-01T00:00\+05:00' is no date"),
        (("day,model,cost", "2023-11-14,,1"), ":2: model: is empty"),
        (
            ("day,model,input_tokens,input_cached_tokens", "2023-11-14,small,1,2"),
            ":2: input_cached_tokens: is more than input_tokens",
        ),
        (("day,model,cost", '2023-11-14,"small,1'), "is no CSV"),
    ],
)
def test_a_bill_that_cannot_be_is_refused_with_its_line(
    lines: tuple[str, ...], problem: str, ledger: Path, bill: Bill, cli: Cli
) -> None:
    """Nothing is compared: exit code 2."""
    path = bill(*lines)
    with pytest.raises(InvalidFile, match=problem):
        reconcile(ledger, path)
    assert cli("audit", "reconcile", path, "--home", ledger).code == 2


def test_a_bill_that_cannot_be_read_is_refused(ledger: Path, tmp_path: Path, bill: Bill, cli: Cli) -> None:
    """No file, no text, no such column."""
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name, problem in (("none.csv", "cannot be read"), ("binary.csv", "is no UTF-8")):
        with pytest.raises(InvalidFile, match=problem):
            reconcile(ledger, tmp_path / name)
    with pytest.raises(InvalidFile, match="there is no column 'colour'; there is day, model, cost"):
        read_export(bill("day,model,cost", "2023-11-14,small,1"), {"model": "colour"})
    with pytest.raises(InvalidFile, match="'colour' is none of day, model"):
        read_export(bill("day,model,cost", "2023-11-14,small,1"), {"colour": "model"})
    assert cli("audit", "reconcile", "x.csv", "--columns", "day").code == 2


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 10**9), st.integers(-(10**12), 10**12))))
def test_nothing_of_a_bill_is_lost(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, int, int]]) -> None:
    """Requests and money of all lines are in the cells, whatever their order."""
    path = tmp_path_factory.mktemp("bill") / "bill.csv"
    rows = [f"2023-11-14,{model},{n},{Decimal(nusd) / 10**9:f},{i}" for i, (model, n, nusd) in enumerate(lines)]
    path.write_text("\n".join(["day,model,requests,cost,id", *rows]))
    cells = read_export(path).cells.values()
    assert sum(cell.requests or 0 for cell in cells) == sum(count for _, count, _ in lines)
    assert sum(cell.cost_nusd or 0 for cell in cells) == sum(nusd for _, _, nusd in lines)


def test_models_are_compared_without_provider_and_date() -> None:
    """As a bill and a ledger agree on them."""
    names = ["openai/gpt-5-2026-01-02", "gpt-5", "GPT-5-20260102", "azure/eu/gpt-5@20260102"]
    assert {plain_model(name) for name in names} == {"gpt-5"}


# --- units


def test_cost_per_unit_and_margin(ledger: Path, bill: Bill, cli: Cli) -> None:
    """Lines of one group add up; a group of the file alone is told and no row; no revenue, no margin."""
    path = bill("units,feature,revenue_usd", "4,inbox,1", "1,inbox,0.5", "10,search,", "3,gone,2")
    found = {one.key: one for one in margins(audit(ledger, by="feature").rows, read_units(path, "feature"))}
    assert (found["inbox"].unit_cost_nusd, found["inbox"].margin_nusd) == (SMALL, 1_500_000_000 - 5 * SMALL)
    assert (found["search"].unit_cost_nusd, found["search"].margin_nusd) == (SMALL // 2, None)
    assert "gone" not in found
    done = cli("audit", "--by", "feature", "--units", path, "--home", ledger, "--top", "1")
    assert "cost per unit" in done.out
    assert "1 line of the file matches no group of these calls" in done.out
    assert "search" in done.out
    assert cli("audit", "--by", "feature", "--units", path, "--home", ledger, "--json").json["margins"][0]["units"]


def test_units_of_users_are_found_by_their_ids(home: Path, bill: Bill, cli: Cli) -> None:
    """The file has the ids of the application, the ledger their fingerprints."""
    with Router(make_policy(), backend=ScriptedModels({"small": Reply("yes", USAGE)})) as router:
        router.route("t", "hi", user="ann")
        router.route("t", "hi", user="ben")
    path = bill("user,units,revenue_usd", "ann,4,1", "zoe,3,1")
    found = cli("audit", "--by", "user", "--units", path, "--home", home, "--json").json
    assert sorted(one["units"] or "" for one in found["margins"]) == ["", "4"]
    assert found["unmatched_lines"] == 1


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("feature,count", "inbox,1"), "there is no column 'units'"),
        (("task,units", "inbox,1"), "there is no column 'feature'"),
        (("feature,units", "inbox,-1"), ":2: units: is -1"),
        (("feature,units", "inbox,1", "inbox,1"), ":3: repeats line 2"),
        (("feature,units", "inbox,many"), ":2: units: 'many' is no number"),
    ],
)
def test_units_that_cannot_be_are_refused(lines: tuple[str, ...], problem: str, bill: Bill) -> None:
    """With file and line."""
    with pytest.raises(InvalidFile, match=problem):
        read_units(bill(*lines), "feature")


# --- export


@pytest.mark.parametrize(("what", "table"), [("attempts", "attempts"), ("calls", "routes"), ("steps", "steps")])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_export_holds_every_row_and_column(what: str, table: str, form: str, ledger: Path, tmp_path: Path) -> None:
    """What the read model has is what the file has."""
    path = tmp_path / f"out.{form}"
    assert export(ledger, path, what=what) == 10
    rows = read_table(ledger, table)
    if form == "csv":
        with path.open(newline="") as file:
            found = list(csv.DictReader(file))
        expected = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        found, expected = parquet.read_table(path).to_pylist(), rows
    assert sorted(found, key=str) == sorted(({name: row[name] for name in found[0]} for row in expected), key=str)
    assert [one.name for one in tmp_path.iterdir() if one.name.endswith(".part")] == []


def test_an_export_can_be_of_a_part(ledger: Path, tmp_path: Path) -> None:
    """By period and by every filter of the audit."""
    path = tmp_path / "out.csv"
    assert export(ledger, path, filters=Filters(feature="inbox")) == 5
    assert export(ledger, path, what="steps", filters=Filters(since_s=START_S + 1200 * 5), force=True) == 5
    assert export(ledger, path, filters=Filters(origin="eval"), force=True) == 0
    assert path.read_text().startswith("route_id,")


def test_no_cell_is_a_formula(home: Path, tmp_path: Path) -> None:
    """What a spreadsheet would run gets an apostrophe; numbers stay numbers."""
    names = ["=1+1", "+1", "-1", "@a", "\t=1", "plain", "a=1"]
    with Router(make_policy(), backend=ScriptedModels({"small": "yes"})) as router:
        for name in names:
            router.route("t", "hi", feature=name)
    export(home, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        found = sorted(row["feature"] for row in csv.DictReader(file))
    assert found == sorted(["'=1+1", "'+1", "'-1", "'@a", "'\t=1", "plain", "a=1"])


def test_exports_that_cannot_be_are_refused(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """No such rows, no such form, no such folder, no pyarrow: the message says what to do."""
    with pytest.raises(InvalidCall, match="'rows' is none of attempts, calls, steps"):
        export(ledger, tmp_path / "a.csv", what="rows")
    with pytest.raises(InvalidCall, match=r"ends with neither \.csv nor \.parquet"):
        export(ledger, tmp_path / "a.xlsx")
    with pytest.raises(InvalidFile, match="cannot be written"):
        export(ledger, tmp_path / "none" / "a.csv")
    (tmp_path / "there.csv").write_text("mine")
    assert "is there already" in cli("audit", "export", tmp_path / "there.csv", "--home", ledger).err
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert cli("audit", "export", tmp_path / "there.csv", "--force", "--home", ledger).code == 0
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidCall, match=r"pip install 'cascade-router\[parquet\]'"):
        export(ledger, tmp_path / "a.parquet")
    assert list(tmp_path.glob("*.parquet")) == []
    done = cli("audit", "export", tmp_path / "a.csv", "--what", "attempts", "--home", ledger)
    assert done.out.endswith("a.csv: 10 rows of attempts\n")
