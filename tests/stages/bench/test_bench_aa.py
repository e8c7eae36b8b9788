"""The same variant twice: what differs then is noise, and an interval has to say so."""

from pathlib import Path

import pytest
from support.settings import variants_of

from pipeline.artifacts.manifest import read_manifest
from pipeline.compare.speed_models import SpeedModels
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing, read
from pipeline.results.bench import BenchResult
from pipeline.results.records import Record, Speed
from pipeline.runner import Runner
from pipeline.stages.report.collect.blocks import merged

BLOCKS = 20
# Four blocks in a row are the two blocks of two variants, in both orders that have each variant early and late.
PARTITIONS = (((0, 3), (1, 2)), ((0, 2), (1, 3)))
METRICS = (
    *("total_token_throughput", "request_throughput", "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms"),
    *("mean_tpot_ms", "median_tpot_ms", "p99_tpot_ms", "median_itl_ms", "p99_itl_ms", "median_e2el_ms", "p99_e2el_ms"),
)


def record(name: str, results: list[BenchResult]) -> Record:
    speed = Speed(
        machine="here", **dict(merged([each.model_copy(update={"block": i}) for i, each in enumerate(results)]))
    )
    missing = Missing(reason="not measured")
    kinds = {"family": "baseline", "is_baseline": name == "one", "emulated": ()}
    return Record(name=name, label=name, size=missing, tasks=missing, speed=speed, protocols={"quick": speed}, **kinds)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(5400)
def test_a_variant_differs_from_itself_by_less_than_its_interval_in_nine_of_ten_pairs(tmp_path: Path) -> None:
    """Twenty starts of one server, each benchmarked with the same prompts: ten pairs of two blocks each.

    Of all intervals of a change, over pairs and metrics, nine of ten hold zero, and so do those of each metric.
    """
    given = ["stage=bench", "quant=bf16", f"outputs={tmp_path}", "bench.num_prompts=100", f"bench.blocks={BLOCKS}"]
    assert Runner(variants_of(*given), given).execute() == 0
    blocks = {}
    for path in tmp_path.glob("demo/bf16/bench-*/"):
        manifest = read_manifest(path)
        assert manifest is not None
        result = read(BenchResult, manifest)
        assert isinstance(result, BenchResult)
        blocks[manifest.payload.get("block", 0)] = result
    assert sorted(blocks) == list(range(BLOCKS))
    inside = dict.fromkeys(METRICS, 0)
    pairs = [(start, parts) for start in range(0, BLOCKS, 4) for parts in PARTITIONS]
    for start, parts in pairs:
        records = [
            record(name, [blocks[start + each] for each in part])
            for name, part in zip(("one", "other"), parts, strict=True)
        ]
        models = SpeedModels(records)
        for metric in METRICS:
            change = models.against_baseline(models.headline("one"), metric, "other")
            assert isinstance(change, Change) and change.interval is not None, (metric, change)
            inside[metric] += not change.is_clear
            ends = f"{change.interval.low:+.1f} to {change.interval.high:+.1f} %"
            print(f"{metric:<24} blocks {start:>2} {parts}: {change.percent:+6.1f} % ({ends})")
    print(inside)
    assert min(inside.values()) >= 0.9 * len(pairs), inside
