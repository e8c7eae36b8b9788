"""The setup states the results' own loads, repeats and items, not those of the command that makes the report."""

from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult
from pipeline.stages.report.collect.setup import setup_of


def loaded(name, repeats, **changes):
    """A record with one load and that many repeats."""
    made = record(name, noise=tuple(1 + 0.01 * index for index in range(repeats)))
    load = LoadResult(
        name="rate inf",
        num_prompts=1000,
        request_rate="inf",
        max_concurrency=None,
        asked=1000 * repeats,
        completed=1000 * repeats,
        failed=0,
        metrics=made.speed.metrics,
        **changes,
    )
    speed = made.speed.model_copy(update={"loads": (load,), "headline": load.name, "warm_up": (9.0,)})
    return made.model_copy(update={"speed": speed})


def test_repeats_prompts_and_items_are_those_of_the_results() -> None:
    records = [loaded("bf16", 5), loaded("a", 3)]
    found = setup_of([], records, compare(records, TASKS))
    assert found["Load"] == "1,000 prompts a repeat, request rate inf, requests in flight: no limit"
    assert found["Repeats"] == "3 to 5 of each variant, after 1 of warm-up"
    assert found["Scoring"] == "MMLU: t (acc), 400 items; GSM8K: t (acc), 400 items"
    assert found["KL from BF16"] == "not measured"
    assert "Blocks" not in found


def test_what_was_not_measured_has_no_setup() -> None:
    gone = Missing(reason="gone")
    records = [record("bf16", speed=gone, tasks=gone)]
    found = setup_of([], records, compare(records, TASKS))
    assert (found["Load"], found["Scoring"]) == ("nothing was measured", "nothing was scored")
    assert "Repeats" not in found


def test_several_devices_are_named_with_their_variants() -> None:
    records = [loaded("bf16", 2, devices=("GPU-1", "GPU-1")), loaded("a", 2, devices=("GPU-2", "GPU-2"))]
    assert setup_of([], records, compare(records, TASKS))["Device"] == "GPU-1: BF16; GPU-2: A"
