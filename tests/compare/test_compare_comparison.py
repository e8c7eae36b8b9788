"""The table: what is best in each column, what could have been shown, sizes, means, and the notes on single cells."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.compare.comparison import DIVERGENCE, SIZE, Comparison
from pipeline.compare.speed_models import group_of
from pipeline.results.base import Missing
from pipeline.results.bench import Guard, LoadResult, Metric
from pipeline.results.metrics import HEADLINE
from pipeline.results.records import Logprobs, Record, Size, TaskScores

THROUGHPUT, TTFT, TPOT = (metric.name for metric in HEADLINE)


def marked(made: Record, text: str = "not steady", name: str = "warm-up") -> Record:
    guards = (*made.speed.guards, Guard(name=name, passed=False, text=text))
    return made.model_copy(update={"speed": made.speed.model_copy(update={"guards": guards})})


def test_a_table_is_read_as_it_was_stored() -> None:
    table = compare([record("bf16"), record("a", 1500, wrong=3)], TASKS)
    text = table.model_dump_json()
    # Without the fits behind it.
    assert "models" not in json.loads(text)
    assert Comparison.model_validate_json(text).rows == table.rows


def best(*records: Record) -> dict[str, tuple[str, ...]]:
    return compare(records, TASKS).best


def test_the_best_of_each_column_is_the_one_that_is_better_than_bf16() -> None:
    """Of throughput the largest, of latency and size the smallest."""
    found = best(record("bf16", size=100), record("a", 1500, size=80), record("b", 1200, size=50))
    assert found == {THROUGHPUT: ("a",), TTFT: ("a",), TPOT: ("a",), SIZE: ("b",)}


def test_nothing_is_best_where_bf16_is_or_where_nothing_is_shown() -> None:
    assert best(record("bf16", size=50), record("a", 800, size=80)) == {}
    assert best(record("bf16"), record("a", 1001)) == {}
    assert best(record("bf16")) == {}


def test_a_higher_accuracy_is_best_where_it_is_shown() -> None:
    assert best(record("bf16", wrong=60), record("a", wrong=20), record("b", wrong=40)) == dict.fromkeys(TASKS, ("a",))
    assert best(record("bf16", wrong=2), record("a", wrong=1)) == {}
    # What is not shown to be a gain hides one that is smaller.
    assert best(record("bf16", wrong=60), record("a", wrong=60)) == {}


def test_equals_are_best_together() -> None:
    records = record("bf16"), record("a", 1500, size=50), record("b", 1500, size=50), record("c", 1200, size=60)
    assert best(*records)[SIZE] == best(*records)[THROUGHPUT] == ("a", "b")


def test_what_is_unreliable_is_not_ranked() -> None:
    bf16, fast = record("bf16"), record("fast", 1200)
    assert best(bf16, fast, marked(record("a", 1500)))[THROUGHPUT] == ("fast",)
    assert THROUGHPUT not in best(marked(bf16), fast)


def logprobs(scale: float, sequences: int = 12, length: int = 8) -> Logprobs:
    rows = sequences * length
    logits = 2 * np.random.default_rng(0).normal(size=(rows, 10))
    noise = np.random.default_rng(1).normal(size=logits.shape)
    logits += scale * noise
    values = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    return Logprobs(
        sequence=np.repeat(np.arange(sequences, dtype=np.int32), length),
        position=np.tile(np.arange(length, dtype=np.int32), sequences),
        token=np.zeros(rows, np.int32),
        logprob=values[:, 0],
        top_ids=np.tile(np.arange(10, dtype=np.int32), (rows, 1)),
        top_logprobs=values,
    )


def diverging(name: str, scale: float, again: bool = False) -> Record:
    update = {"divergence": logprobs(scale)} | ({"divergence_again": logprobs(scale)} if again else {})
    return record(name).model_copy(update=update)


def test_the_least_divergence_is_best_where_its_interval_is_apart() -> None:
    bf16 = diverging("bf16", 0.0, again=True)
    table = compare([bf16, diverging("far", 1.0), diverging("near", 0.1)], TASKS)
    assert table.best == {DIVERGENCE: ("near",)}
    assert table.rows[0].divergence.kl.value == 0 < table.rows[2].divergence.kl.value
    assert compare([bf16, diverging("one", 0.5), diverging("two", 0.5)], TASKS).best == {}
    assert compare([bf16, diverging("one", 0.5)], TASKS).best == {}


def test_a_divergence_needs_that_of_bf16() -> None:
    (alone,) = compare([diverging("a", 0.1)], TASKS).rows
    assert alone.divergence == Missing(reason="no BF16 baseline among the results")
    assert alone.perplexity is not None
    rows = compare([record("bf16"), diverging("a", 0.1)], TASKS).rows
    assert rows[1].divergence == Missing(reason="BF16: not measured") and rows[0].perplexity is None
    assert rows[0].divergence == Missing(reason="not measured")


def under_loads(made: Record) -> Record:
    """Give a record the ladder of two loads, of which the second is that of the table."""
    loads = tuple(
        LoadResult(
            name=f"concurrency {slots}",
            num_prompts=100,
            request_rate="inf",
            max_concurrency=slots,
            asked=300,
            completed=300,
            failed=0,
            metrics={
                name: Metric(unit=metric.unit, values=tuple(value * factor for value in metric.values))
                for name, metric in made.speed.metrics.items()
            },
        )
        for slots, factor in ((1, 0.1), (16, 1.0))
    )
    update = {"protocol": "ladder", "loads": loads, "headline": "concurrency 16", "metrics": loads[1].metrics}
    speed = made.speed.model_copy(update=update)
    return made.model_copy(update={"speed": speed, "protocols": {"ladder": speed}})


def test_a_load_has_the_guards_that_failed_under_it() -> None:
    made = under_loads(record("bf16"))
    failed = [Guard(name=n, passed=False, text="x", load=at) for n, at in (("queue", "concurrency 1"), ("trend", None))]
    guards = (*failed, Guard(name="clock", passed=None, text="x", load="concurrency 1"))
    speed = made.speed.model_copy(update={"guards": guards})
    (row,) = compare([made.model_copy(update={"speed": speed, "protocols": {"ladder": speed}})], TASKS).rows
    assert row.marks == row.marks_at(None) == row.marks_at("concurrency 16") == ("trend: x",)
    assert row.marks_at("concurrency 1") == ("queue: x", "trend: x") and row.marks_at("rate 5/s") == ()


def test_the_smallest_gains_are_those_of_the_models() -> None:
    records = [under_loads(record("bf16")), under_loads(record("a", 1500)), under_loads(record("b", noise=(1, 1.1, 1)))]
    table = compare(records, TASKS)
    speed = records[0].speed
    assert table.smallest_gains == {
        name: table.models.smallest_gain(group_of(speed, "concurrency 16"), name) for name in (THROUGHPUT, TTFT, TPOT)
    }
    assert table.smallest_gains_by_load == {
        "ladder": {
            load: table.models.smallest_gain(group_of(speed, load), THROUGHPUT)
            for load in ("concurrency 1", "concurrency 16")
        }
    }
    assert all(gain > 2 for gain in table.smallest_gains.values()) and table.starts is None
    # One start of each server: a gain is to be shown beyond the tolerance.
    assert compare(records, TASKS, tolerance_percent=5.0).smallest_gains[THROUGHPUT] > table.smallest_gains[THROUGHPUT]


def test_without_noise_or_bf16_no_smallest_gain_is_known() -> None:
    for records in (
        [under_loads(record("bf16"))],
        [under_loads(record("a")), under_loads(record("b"))],
        [record("bf16", speed=Missing(reason="gone")), record("a")],
        [under_loads(record("bf16", noise=(1.0,))), under_loads(record("a", noise=(1.0,)))],
    ):
        table = compare(records, TASKS)
        assert table.smallest_gains == {} and table.smallest_gains_by_load == {}


def test_a_size_is_held_against_bf16_or_what_the_gate_saw() -> None:
    def ratio(*records: Record) -> object:
        return compare(records, TASKS).rows[-1].size.ratio

    seen = record("a").model_copy(update={"size": Size(bytes=60, baseline_bytes=120)})
    assert ratio(record("bf16", size=100), record("a", size=60)) == pytest.approx(0.6)
    assert ratio(record("bf16", size=100), seen) == pytest.approx(0.6)
    assert ratio(seen) == pytest.approx(0.5)
    unmade = record("bf16").model_copy(update={"size": Missing(reason="not made")})
    assert ratio(unmade, seen) == pytest.approx(0.5)
    assert ratio(unmade, record("a")) == Missing(reason="the size of BF16 is not known")
    assert compare([unmade], TASKS).rows[0].size == Missing(reason="not made")


def test_means_are_over_all_tasks_or_none() -> None:
    half = record("half").model_copy(update={"tasks": {"MMLU": record("half", wrong=40).tasks["MMLU"]}})
    bf16, a, other = compare([record("bf16", wrong=20), record("a", wrong=60), half], TASKS).rows
    assert a.mean_accuracy.value == pytest.approx(340 / 400) and a.mean_change.value == pytest.approx(-0.1)
    assert a.mean_accuracy.tasks == 2
    gone = Missing(reason="not every task has a figure")
    assert other.mean_accuracy == other.mean_change == bf16.mean_change == gone
    assert bf16.mean_loss == Missing(reason="the baseline itself")
    assert other.tasks["GSM8K"] == Missing(reason="GSM8K was not scored")


def test_bf16_is_first_and_other_rows_keep_their_order() -> None:
    table = compare([record("b"), record("bf16"), record("a")], TASKS)
    assert [row.name for row in table.rows] == ["bf16", "b", "a"] and table.baseline == "bf16"
    assert compare([record("b")], TASKS).baseline is None


def test_differences_are_those_with_an_interval_that_may_be_claimed() -> None:
    gone = Missing(reason="gone")
    records = [
        record("bf16"),
        record("a", 1500),
        record("single", 1500, noise=(1.0,), tasks=gone),
        record("scored", speed=gone),
    ]
    found = [(name, column) for name, column, _ in compare(records, TASKS).differences]
    speeds = [("a", column) for column in (THROUGHPUT, TTFT, TPOT)]
    assert found == [*speeds, *((name, task) for name in ("a", "scored") for task in TASKS)]
    assert all(change.interval is not None for _, _, change in compare(records, TASKS).differences)


def test_something_was_measured_if_any_cell_has_a_figure() -> None:
    gone = Missing(reason="gone")
    assert not compare([record("bf16", speed=gone, tasks=gone)], TASKS).is_measured
    assert compare([record("bf16", tasks=gone)], TASKS).is_measured
    assert compare([record("bf16", speed=gone)], TASKS).is_measured


def task(**changes: object) -> TaskScores:
    return record("bf16").tasks["MMLU"].model_copy(update=changes)


def test_a_limitation_of_several_variants_is_one_note() -> None:
    cut = [record(name, tasks={"MMLU": task(unfinished=5)}) for name in ("bf16", "a", "b")]
    assert compare(cut, ["MMLU"]).notes == (
        "Answers of MMLU that reached the token limit: BF16 5 of 400, A 5 of 400, B 5 of 400.",
    )


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"n": 390}, "Items of MMLU that were scored: A 390 of 400."),
        ({"truncated": 3}, "Prompts of MMLU that lost their beginning in the context: A 3 of 400."),
        ({"unfinished": 5}, "Answers of MMLU that reached the token limit: A 5 of 400."),
        (
            {"asked_again": 50, "differing": 2},
            "A: 2 of 50 greedy answers of MMLU differed when repeated, which the format does not explain.",
        ),
        ({"asked_again": 50}, "A: all 50 greedy answers of MMLU were identical when repeated."),
        (
            {"value": 0.5},
            "A: MMLU is recorded as 50.00 %, its items average 100.00 %; "
            "the difference from BF16 is computed from the items.",
        ),
    ],
)
def test_a_cell_with_a_limitation_is_noted(changes: dict[str, object], note: str) -> None:
    assert compare([record("bf16"), record("a", tasks={"MMLU": task(**changes)})], ["MMLU"]).notes == (note,)


def test_what_is_whole_has_no_note() -> None:
    fine = {"MMLU": task(value=0.99955), "GSM8K": task(scores=Missing(reason="not stored"), value=0.5)}
    records = [record("bf16"), record("a", tasks=fine), record("b", tasks=Missing(reason="gone"))]
    assert compare(records, TASKS).notes == ()


def test_faults_and_failed_requests_are_noted() -> None:
    speed = record("a").speed.model_copy(update={"failed": 2, "asked": 30})
    made = record("a", speed=speed).model_copy(update={"faults": ("no scales", "an odd file")})
    assert compare([record("bf16"), made], TASKS).notes == (
        "A was quantized by others, and the gate found in it: no scales; an odd file.",
        "A: 2 of 30 benchmark requests failed.",
    )


def test_failed_guards_are_noted_once_with_their_variants() -> None:
    bf16, a, b = record("bf16"), record("a"), record("b")
    assert compare([bf16, marked(a), marked(b)], TASKS).notes == ("A and B, unreliable: warm-up: not steady.",)
    assert compare([bf16, marked(a, "one"), marked(b, "two")], TASKS).notes == (
        "A and B, unreliable: warm-up: each as in the table of guards.",
    )
    assert compare([bf16, marked(marked(a, "one"), "two")], TASKS).notes == ("A, unreliable: warm-up: one; two.",)
    assert compare([bf16, marked(a), marked(b, "short", "queue")], TASKS).notes == (
        "A, unreliable: warm-up: not steady.",
        "B, unreliable: queue: short.",
    )
