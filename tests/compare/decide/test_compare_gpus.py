"""FP8 on one GPU or BF16 on two: what each GPU serves decides, and totals stand beside."""

from support.compare_records import TASKS, record

from pipeline.compare import compare, judge
from pipeline.compare.decide.decision import decide
from pipeline.compare.decide.differences import speed_between
from pipeline.compare.decide.gpus import divided
from pipeline.compare.decide.recommendation import recommend
from pipeline.compare.statements import percent_range
from pipeline.compare.stats.repeats import Change
from pipeline.results.metrics import HEADLINE, THROUGHPUT, THROUGHPUT_PER_GPU
from pipeline.results.records import Record


def placed(made: Record, gpus: int, family: str = "other") -> Record:
    return made.model_copy(update={"gpus": gpus, "family": family})


def test_what_each_gpu_serves_answers_the_question() -> None:
    # 1900 tok/s of two GPUs are 950 of each.
    records = [placed(record("bf16", 1900.0), 2, "baseline"), placed(record("fp8", 1300.0), 1)]
    found = compare([each.per_gpu() for each in records], TASKS)
    fp8 = found.rows[1]
    total, each = fp8.speed[THROUGHPUT.name].change, fp8.speed[THROUGHPUT_PER_GPU.name].change
    assert isinstance(total, Change) and round(total.percent, 1) == -31.6
    assert isinstance(each, Change) and round(each.percent, 1) == 36.8
    (answer,) = divided(found)
    assert answer.text.startswith(
        "FP8 on 1 GPU or BF16 on 2 GPUs? FP8 serves more per GPU than BF16: FP8 +36.8 % per GPU ("
    )
    figures = "FP8 1,300 tok/s per GPU, BF16 950 tok/s per GPU, 1,900 together"
    assert answer.text.endswith(f"{figures}; a token takes 769.2 ms and 526.3 ms.")
    assert [claim.column for claim in answer.claims] == [THROUGHPUT_PER_GPU.name]
    assert found.notes[0] == "BF16 that others are compared with is BF16, on 2 GPUs."
    # It is deployed for what it serves per GPU, and the words say so.
    decision = decide(found, recommend(found))
    assert (decision.kind, decision.variant) == ("deploy", "fp8")
    assert "+36.8 % tokens per second per GPU against BF16" in decision.text
    assert "36.8 % more tokens per second per GPU than BF16" in judge(found, "m", "box").answer.text


def test_bf16_on_two_gpus_may_serve_more_with_each() -> None:
    records = [placed(record("bf16", 3000.0), 2, "baseline"), placed(record("fp8", 1300.0), 1)]
    (answer,) = divided(compare([each.per_gpu() for each in records], TASKS))
    assert "? BF16 serves more per GPU than FP8: FP8 −13.3 % per GPU (−" in answer.text
    (claimed,) = answer.claims
    assert (claimed.variant, claimed.against) == ("fp8", "bf16") and claimed.interval.high < 0


def test_bf16_on_two_gpus_is_compared_with_bf16_on_one() -> None:
    records = [
        placed(record("bf16", 1000.0), 1, "baseline"),
        placed(record("bf16@tp2", 1900.0), 2, "baseline"),
        placed(record("fp8", 1300.0), 1),
        placed(record("int8", 1200.0), 1),
    ]
    found = compare([each.per_gpu() for each in records], TASKS)
    assert found.baseline == "bf16"
    (answer,) = divided(found)
    assert answer.text.startswith("FP8 on 1 GPU or BF16@TP2 on 2 GPUs? FP8 serves more per GPU")
    assert recommend(found).recommended == "fp8"


def test_the_fastest_of_several_is_held_against_bf16_by_an_interval_for_all_pairs() -> None:
    """Six formats of one true speed and BF16 on two GPUs: the fastest is ahead of it by chance."""
    noise = ((1.0, 1.02, 0.97), (1.03, 0.98, 1.0), (0.99, 1.01, 1.04), (0.97, 0.99, 1.0), (1.0, 0.98, 1.01))
    formats = [placed(record(f"v{i}", 1000.0, noise=each), 1) for i, each in enumerate(noise)]
    two = placed(record("bf16", 1900.0, noise=(1.0, 0.99, 1.01)), 2, "baseline")
    found = compare([each.per_gpu() for each in (two, *formats)], TASKS)
    (answer,) = divided(found)
    (claimed,) = [speed_between(found, THROUGHPUT_PER_GPU.name, "v2", "bf16", comparisons="all")]
    alone = speed_between(found, THROUGHPUT_PER_GPU.name, "v2", "bf16")
    assert alone.is_clear and not claimed.is_clear
    assert answer.text.startswith("V2 on 1 GPU or BF16 on 2 GPUs? Cannot tell what serves more per GPU: +")
    assert f"({percent_range(claimed)} %)" in answer.text and not answer.claims


def test_what_was_measured_while_a_guard_failed_is_no_answer() -> None:
    records = [
        placed(record("bf16", 1900.0), 2, "baseline"),
        placed(record("fp8", 1300.0), 1),
        placed(record("int8", 1200.0), 1),
    ]
    found = compare([each.per_gpu() for each in records], TASKS)

    def answered(*marked: str) -> str:
        rows = (row.model_copy(update={"marks": ("m",) if row.name in marked else ()}) for row in found.rows)
        (answer,) = divided(found.model_copy(update={"rows": tuple(rows)}))
        assert bool(answer.claims) is ("serves more" in answer.text)
        return answer.text.partition("? ")[2]

    assert answered().startswith("FP8 serves more per GPU")
    # The fastest that was measured soundly is asked about.
    assert answered("fp8").startswith("INT8 serves more per GPU")
    assert answered("bf16") == "Not known: a guard failed for BF16. Measure again."
    assert answered("fp8", "int8") == "Not known: a guard failed for FP8. Measure again."
    assert answered("fp8", "int8", "bf16") == "Not known: a guard failed for FP8 and BF16. Measure again."


def test_what_is_within_noise_is_not_answered() -> None:
    records = [placed(record("bf16", 2000.0), 2, "baseline"), placed(record("fp8", 1005.0), 1)]
    (answer,) = divided(compare([each.per_gpu() for each in records], TASKS))
    assert "? Cannot tell what serves more per GPU: +0.5 %" in answer.text and not answer.claims


def test_of_one_gpu_each_there_is_no_question() -> None:
    found = compare([record("bf16"), record("fp8", 1300.0)], TASKS)
    assert found.metrics == HEADLINE and not list(divided(found))
    assert found.throughput == THROUGHPUT and "per GPU" not in judge(found, "m", "box").answer.text
