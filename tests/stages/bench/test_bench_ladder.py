"""The loads of a ladder derive from BF16's throughput, for every variant."""

from pathlib import Path

import pytest
from support.settings import variants_of
from support.synthetic_results import STUDY, Run

from pipeline.config import Stage
from pipeline.errors import StageError
from pipeline.results.bench import LoadResult, Metric
from pipeline.runner import Runner
from pipeline.stages.bench.ladder import answer_s, reference_of, saturation

LADDER = "bench=ladder"


def level(slots: int | None, rate: float | str, throughput: tuple[float, ...], **latencies: float) -> LoadResult:
    metrics = {"request_throughput": Metric(unit="req/s", values=throughput)}
    metrics |= {name: Metric(unit="ms", values=(value,)) for name, value in latencies.items()}
    return LoadResult(
        name=f"{slots} {rate}",
        num_prompts=9,
        request_rate=rate,
        max_concurrency=slots,
        asked=9,
        completed=9,
        failed=0,
        metrics=metrics,
    )


def test_saturation_is_the_mean_of_the_best_closed_level() -> None:
    loads = [level(4, "inf", (8.0, 9.0)), level(16, "inf", (20.0, 24.0, 22.0)), level(None, 40.0, (40.0,))]
    assert saturation(loads) == pytest.approx(22.0), "not the best of three, nor a rate that was offered"
    assert saturation(loads[2:]) == 40.0


def test_an_answer_takes_as_long_as_at_the_level_that_reaches_the_rate() -> None:
    loads = [
        level(4, "inf", (8.0,), mean_e2el_ms=500.0),
        level(16, "inf", (20.0,), mean_e2el_ms=800.0, p99_e2el_ms=2000.0),
    ]
    assert answer_s(loads, 5.0) == pytest.approx(1.5)
    assert answer_s(loads, 10.0) == pytest.approx(2.0)
    assert answer_s(loads, 30.0) == pytest.approx(2.0)


def runner(tmp_path: Path, *overrides: str) -> Runner:
    given = ["stage=bench", f"outputs={tmp_path}", *overrides]
    return Runner(variants_of(*given), given)


def test_every_variant_refers_to_bf16_under_the_same_protocol(tmp_path: Path) -> None:
    run = runner(tmp_path, "variants=[fp8_static,bf16,awq]", "protocols=[ladder,quick]")
    for job in run.jobs:
        reference = job.reference
        if job.settings.is_baseline:
            assert reference is None
        else:
            assert reference is not None and reference.settings.is_baseline
            assert reference.settings.bench.name == job.settings.bench.name
    keys = {
        (str(job.variant), job.settings.bench.name): job.artifact(Stage.BENCH).payload.get("reference")
        for job in run.jobs
    }
    (bf16,) = (job for job in run.jobs if job.settings.is_baseline and job.settings.bench.name == "ladder")
    assert keys["awq", "ladder"] == keys["fp8_static", "ladder"] == bf16.artifact(Stage.BENCH).key
    assert keys["awq", "quick"] is None, "the loads of a protocol without a ladder depend on nothing measured"
    benches = [str(job.variant) for job, stage in run._steps() if stage is Stage.BENCH]
    assert benches[0] == "bf16"


def test_a_variant_alone_has_its_own_saturation_and_another_key(tmp_path: Path) -> None:
    alone = runner(tmp_path, "quant=awq", LADDER).jobs[0]
    _, beside = runner(tmp_path, "variants=[bf16,awq]", LADDER).jobs
    assert alone.reference is None and reference_of(alone) is None
    assert alone.artifact(Stage.BENCH).key != beside.artifact(Stage.BENCH).key


def test_without_bf16s_result_a_ladder_is_refused(tmp_path: Path) -> None:
    _, job = runner(tmp_path, "variants=[bf16,awq]", LADDER).jobs
    with pytest.raises(StageError, match="ladder of awq needs the benchmark of bf16, which has not finished"):
        reference_of(job)


def test_bf16s_finished_result_is_the_reference(tmp_path: Path) -> None:
    made = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "awq")})
    baseline, job = made.jobs
    job.reference = baseline
    job.settings = job.settings.model_copy(
        update={"bench": job.settings.bench.model_copy(update={"ladder": variants_of(LADDER)[0].bench.ladder})}
    )
    found = reference_of(job)
    assert found is not None and found.loads[0].name == "concurrency 1"


def test_blocks_of_a_ladder_differ_in_the_block_alone(tmp_path: Path, server_cpu: None) -> None:
    """The report finds the blocks that belong together by their payloads; all are sent the loads of the first."""
    for job in runner(tmp_path, "variants=[bf16,awq]", LADDER, "bench.blocks=2").jobs:
        first, second = (each.artifact(Stage.BENCH).payload for each in job.blocks)
        assert second == {**first, "block": 1}
        assert job.blocks[1].reference is (job.reference or job)


def test_the_smallest_level_that_reaches_a_rate_says_how_long_an_answer_takes() -> None:
    loads = [
        level(1, "inf", (2.0, 4.0), mean_e2el_ms=100.0),
        level(2, "inf", (7.0, 9.0), mean_e2el_ms=200.0, p99_e2el_ms=450.0),
        level(4, "inf", (12.0,), mean_e2el_ms=400.0, p99_e2el_ms=900.0),
        level(None, 20.0, (20.0,), mean_e2el_ms=5000.0, p99_e2el_ms=9000.0),
    ]
    # Means over the repeats of 3, 8 and 12 requests a second; a level reaches its own.
    assert [answer_s(loads, rate) for rate in (2.9, 3.0)] == pytest.approx([0.3, 0.3])
    assert [answer_s(loads, rate) for rate in (3.1, 8.0)] == pytest.approx([0.45, 0.45])
    assert answer_s(loads, 8.1) == pytest.approx(0.9)
    assert answer_s(loads, 99.0) == pytest.approx(0.9), "the fastest, where none reaches it"
    assert answer_s([loads[2], loads[0]], 99.0) == pytest.approx(0.9)
