"""What a benchmark of several loads looks like in the report."""

import json
from dataclasses import replace

import pytest
from support.synthetic_results import LADDER, STUDY, Run

from pipeline.compare.benchmarks import Benchmark
from pipeline.results.bench import Goodput, Guard, Probe
from pipeline.stages import report
from pipeline.stages.report.blocks import Legend, Table, walk
from pipeline.stages.report.build import build
from pipeline.stages.report.sections import speed
from pipeline.stages.report.sections.loads import _bracket, _doubts, load_tables

VARIANTS = {name: replace(STUDY[name], disturbed=True) for name in ("bf16", "awq", "w4a16", "int8_dynamic")}
# As fast as BF16.
VARIANTS["w4a16"] = replace(VARIANTS["w4a16"], throughput=STUDY["bf16"].throughput, noise=0.03)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = Run(tmp_path_factory.mktemp("loads"), VARIANTS)
    report.make(made.jobs, {})
    return made


@pytest.fixture(scope="module")
def tables(run):
    blocks = walk(speed.section(build(run.jobs, {})).blocks)
    return {block.caption: block for block in blocks if isinstance(block, Table)}


def test_each_load_has_every_variant_and_its_percentiles(tables):
    loads = tables["Loads of ladder"]
    assert [row[0] for row in loads.rows] == [f"concurrency {slots}" for slots in LADDER for _ in VARIANTS]
    assert [row[1] for row in loads.rows][:2] == ["BF16", "AWQ"]
    assert {"Throughput (tok/s)", "P50 TTFT (ms)", "P99 TTFT (ms)", "P99 TPOT (ms)"} <= set(loads.head)
    assert not any("Goodput" in title for title in loads.head), "a metric that nobody measured has no column"
    assert all(len(row) == len(loads.head) for row in loads.rows)


def test_each_table_of_loads_says_what_gain_it_could_have_shown(run):
    blocks = walk(speed.section(build(run.jobs, {})).blocks)
    lines = [line for block in blocks if isinstance(block, Legend) for line in block.lines]
    (gains,) = (line for line in lines if "could have shown a gain in throughput" in line)
    assert all(f"concurrency {slots} " in gains for slots in LADDER)


def test_what_speaks_against_a_figure_stands_beside_it(tables):
    marked = {row[:2]: row[-1] for row in tables["Loads of ladder"].rows}
    assert marked["concurrency 4", "BF16"] == "other processes" and marked["concurrency 1", "BF16"] == ""
    assert marked["concurrency 4", "AWQ"] == "other processes" and marked["concurrency 1", "AWQ"] == ""
    failed = tables["Guards that failed"].rows
    assert len(failed) == len(VARIANTS)
    assert failed[0][1:4] == ("ladder", "concurrency 4", "other processes")


def test_a_guard_over_all_variants_is_listed_once(tables):
    over_all = [row for row in tables["Guards"].rows if row[0] == "all"]
    assert [row[:4] for row in over_all] == [("all", "all", "all", "first repeat")] * len(over_all)
    assert any("series of ladder" in row[-1] for row in over_all)


def test_a_change_has_its_interval(tables):
    change = {row[:2]: row[3] for row in tables["Loads of ladder"].rows}
    assert change["concurrency 1", "BF16"] == "baseline"
    assert change["concurrency 1", "W4A16"].endswith("; cannot tell)")
    assert (
        change["concurrency 1", "INT8 dynamic"].startswith("+") and " to +" in change["concurrency 1", "INT8 dynamic"]
    )


def test_goodput_is_a_bracket(tables):
    (first, *others) = tables["Goodput"].rows
    assert first == ("BF16", "ladder", "TTFT 500 ms, E2EL 4000 ms", "5", "6", "4", "")
    assert len(others) == 3


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ({"met": 30.5, "unmet": None}, ("30.5", "no upper end found", "short probes, ends not repeated")),
        ({"met": None, "unmet": 2.0, "unmet_confirmed": True, "monotone": True}, ("no rate met it", "2", "")),
        (
            {"met": 3.0, "unmet": 4.0, "met_confirmed": True, "unmet_confirmed": False, "monotone": False},
            ("3", "4", "upper end not confirmed, a rate met the SLO above one that did not"),
        ),
    ],
)
def test_a_search_without_an_end_or_a_repeat_says_so(found, shown):
    """Stored results of earlier versions have a lower end that one short probe met, and nothing above it."""
    goodput = Goodput(slo={"ttft_ms": 500.0}, probes=(), **found)
    met, unmet = _bracket(goodput)
    assert (met, unmet) == shown[:2]
    doubts = [*_doubts(searched(goodput), goodput)]
    assert ", ".join(doubts).startswith(shown[2]) and bool(doubts) is bool(shown[2])


def searched(goodput, *failed):
    """A benchmark with this search, and a failed guard for each name and load."""
    guards = tuple(Guard(name=name, passed=False, text="seen", load=load) for name, load in failed)
    nothing = {"headline": None, "loads": (), "memory": None, "memory_bandwidth": None, "left_out": ()}
    return Benchmark(protocol="ladder", guards=guards, goodput=goodput, **nothing)


def test_probes_that_were_disturbed_are_a_doubt_about_the_highest_rate():
    probes = tuple(Probe(rate=rate, load=f"probe {rate}", met=rate < 5, seen={}) for rate in (4, 5, 6))
    found = Goodput(slo={"ttft_ms": 500.0}, met=4, unmet=5, probes=probes, monotone=True).model_copy(
        update={"met_confirmed": True, "unmet_confirmed": True}
    )
    failed = ("other processes", "probe 5"), ("other processes", "probe 6"), ("preemptions", "rate inf")
    assert [*_doubts(searched(found, *failed), found)] == ["other processes in 2 of 3 probes"]
    # What is wrong with the whole benchmark is wrong with every probe.
    assert [*_doubts(searched(found, ("same server", None)), found)] == ["same server in 3 of 3 probes"]
    assert [*_doubts(searched(found), found)] == []


def test_the_kind_of_a_load_and_its_requests_in_flight_are_shown(tables):
    loads = tables["Loads of ladder"]
    assert loads.head[-3:] == ("Kind of load", "In flight", "Unreliable")
    assert {row[-3:-1] for row in loads.rows} == {("closed", "n/a")}


def test_page_and_markdown_show_them(run):
    folder = run.outputs / "tiny" / "report"
    page, markdown = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    for text in ("Loads of ladder", "concurrency 16", "Guards that failed", "TTFT 500 ms, E2EL 4000 ms"):
        assert text in page and text in markdown
    loads = json.loads((folder / "report.json").read_text())["comparison"]["rows"][0]["benchmarks"]["ladder"]["loads"]
    assert [load["name"] for load in loads] == [f"concurrency {slots}" for slots in LADDER]


def test_a_result_without_loads_has_no_such_table(tmp_path):
    old = Run(tmp_path, {name: replace(STUDY[name], ladder=False) for name in ("bf16", "w4a16")})
    assert load_tables(build(old.jobs, {}).comparison) == []
