"""The blocks of a benchmark in the report: merged repeat by repeat, each with its block and device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.synthetic_results import STUDY, Run

from pipeline.config import Stage
from pipeline.results.bench import BenchResult, Goodput, Guard, LoadResult, Metric
from pipeline.results.records import Speed
from pipeline.stages import report
from pipeline.stages.report.collect.artifacts import sources
from pipeline.stages.report.collect.blocks import merged
from pipeline.stages.report.collect.records import record_of

PAIR = {name: STUDY[name] for name in ("bf16", "gptq")}


def load(*values: float, name: str = "rate inf", seed: int = 0, errors: tuple[float, ...] = ()) -> LoadResult:
    number = len(values)
    return LoadResult(
        name=name,
        num_prompts=8,
        request_rate="inf",
        max_concurrency=4,
        seeds=tuple(range(seed, seed + number)),
        asked=8 * number,
        completed=8 * number - 1,
        failed=1,
        input_tokens=(100,) * number,
        output_tokens=(200,) * number,
        analysed=(6,) * number,
        in_flight=tuple(3.0 + seed + index for index in range(number)),
        metrics={"total_token_throughput": Metric(unit="tok/s", values=values, errors=errors)},
    )


def block(index: int, *loads: LoadResult, device: str = "GPU-a", **more: object) -> BenchResult:
    headline = loads[-1]
    shown = {name: getattr(headline, name) for name in ("asked", "completed", "failed", "output_tokens", "metrics")}
    return BenchResult.model_validate(
        {"protocol": "p", "block": index, "device": device, "headline": headline.name, "loads": loads, **shown, **more}
    )


def speed(run: Run, name: str) -> Speed:
    record = record_of(next(source for source in sources(run.jobs, run.failures) if source.name == name))
    assert isinstance(record.speed, Speed)
    return record.speed


def test_a_load_has_the_repeats_of_all_blocks_each_with_its_block_seed_and_device() -> None:
    found = merged([block(1, load(110, 112, seed=2), device="GPU-b"), block(0, load(100, 101))])
    (one,) = found.loads
    assert one.metrics["total_token_throughput"].values == (100, 101, 110, 112)
    assert one.blocks == (0, 0, 1, 1)
    assert one.devices == ("GPU-a", "GPU-a", "GPU-b", "GPU-b")
    assert one.seeds == (0, 1, 2, 3)
    assert one.output_tokens == (200,) * 4
    assert (one.analysed, one.in_flight) == ((6,) * 4, (3.0, 4.0, 5.0, 6.0))
    assert (one.asked, one.completed, one.failed) == (32, 30, 2)
    assert (found.asked, found.completed, found.failed) == (32, 30, 2)
    assert found.metrics == one.metrics
    assert found.device == "", "its blocks ran on two devices"


def test_a_single_block_stays_as_it_is() -> None:
    one = block(0, load(100, 101), device="")
    assert merged([one]) == one
    assert merged([block(0, load(100, 101))]).loads[0].devices == ("GPU-a", "GPU-a")
    # A block is told by its number where the first one is missing, so that its repeats meet BF16's of that block.
    assert merged([block(1, load(100, 101))]).loads[0].blocks == (1, 1)


def test_an_unknown_device_error_or_seed_of_one_block_shifts_no_repeat() -> None:
    early = load(100, 101).model_copy(update={"seeds": ()})
    (one,) = merged([block(0, early, device=""), block(1, load(110, 112, errors=(1.0, 2.0)))]).loads
    assert one.devices == () and one.seeds == ()
    assert one.metrics["total_token_throughput"].errors == (None, None, 1.0, 2.0)


def test_a_level_that_one_block_left_out_is_not_the_headline() -> None:
    low, high = load(50, 51, name="concurrency 1"), load(100, 101, name="concurrency 2")
    found = merged([block(0, low, high), block(1, low, left_out=("concurrency 2",))])
    assert found.headline == "concurrency 1"
    assert len(found.metrics["total_token_throughput"].values) == 4
    assert [(each.name, each.blocks) for each in found.loads] == [
        ("concurrency 1", (0, 0, 1, 1)),
        ("concurrency 2", ()),
    ]
    assert found.left_out == ("concurrency 2",)


def test_guards_name_their_block_and_goodput_is_the_bracket_of_both() -> None:
    def measured(index: int, met: float | None, unmet: float | None) -> BenchResult:
        guard = Guard(name="clock", passed=not index, text="1980 MHz", load="rate inf")
        search = {"met_confirmed": not index, "unmet_confirmed": True, "monotone": None if index else True}
        goodput = Goodput(slo={"ttft_ms": 100.0}, met=met, unmet=unmet, probes=(), **search)
        return block(index, load(100, 101), guards=(guard,), goodput=goodput)

    found = merged([measured(0, 5.0, 6.0), measured(1, 4.0, 4.5)])
    assert [(guard.name, guard.passed, guard.text) for guard in found.guards] == [
        ("clock", True, "block 1: 1980 MHz"),
        ("clock", False, "block 2: 1980 MHz"),
    ]
    assert found.goodput is not None and (found.goodput.met, found.goodput.unmet) == (4.0, 6.0)
    assert (found.goodput.met_confirmed, found.goodput.unmet_confirmed, found.goodput.monotone) == (False, True, None)
    none = merged([measured(0, None, 6.0), measured(1, 4.0, None)])
    assert none.goodput is not None and (none.goodput.met, none.goodput.unmet) == (None, None)


def test_the_report_reads_both_blocks_of_each_variant(tmp_path: Path) -> None:
    run = Run(tmp_path, PAIR, blocks=2, formats=("json",), devices={"bf16": "GPU-a", "gptq": "GPU-b"})
    for name in PAIR:
        found = speed(run, name)
        assert found.block_count == 2
        assert all(each.blocks == (0, 0, 0, 1, 1, 1) and len(set(each.seeds)) == 6 for each in found.loads)
        stored = [each.artifact(Stage.BENCH).manifest().results for each in run.job(name).blocks]
        values = [value for result in stored for value in result["metrics"]["mean_ttft_ms"]["values"]]
        assert list(found.metrics["mean_ttft_ms"].values) == values
    report.make(run.jobs, run.failures)
    content = json.loads((run.outputs / "tiny" / "report" / "report.json").read_text())
    assert content["setup"]["Blocks"] == "2, each with a start of every variant's server"
    assert content["setup"]["Device"] == "GPU-a: BF16; GPU-b: GPTQ"
    assert content["devices"] == {"bf16": ["GPU-a"], "gptq": ["GPU-b"]}


@pytest.mark.parametrize("recorded", [False, True])
def test_a_report_of_one_variant_finds_both_blocks_of_the_others(tmp_path: Path, recorded: bool) -> None:
    run = Run(tmp_path, PAIR, blocks=2)
    run.single, run.recorded = "gptq", recorded
    assert speed(run, "bf16").block_count == 2
    run.blocks = 1
    assert speed(run, "bf16").block_count == (2 if recorded else 1)


def test_a_variant_that_failed_in_one_block_keeps_the_other_and_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, PAIR, blocks=2, formats=("json",))
    path = run.job("gptq").artifact(Stage.BENCH).folder / "manifest.json"
    manifest = json.loads(path.read_text()) | {"status": "failed", "reason": "the server died", "results": {}}
    path.write_text(json.dumps(manifest))
    found = speed(run, "gptq")
    assert found.loads[0].blocks == (1, 1, 1)
    assert found.guards[-1] == Guard(name="blocks", passed=None, text="block 1 has no results: the server died")
    report.make(run.jobs, run.failures)
    content = json.loads((run.outputs / "tiny" / "report" / "report.json").read_text())
    assert content["setup"]["Blocks"].endswith("; GPTQ has 1")
    assert "interval" in content["comparison"]["rows"][1]["speed"]["mean_ttft_ms"]["change"]
