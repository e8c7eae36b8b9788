"""The table and the sentences, on stated figures and on everything that hypothesis comes up with."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from support.compare_records import TASKS, anything, record

from pipeline.compare import compare, judge
from pipeline.compare.comparison import SpeedCell, TaskCell
from pipeline.compare.decide.differences import by_throughput
from pipeline.compare.stats.accuracy import PairedDifference
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.repeats import Change
from pipeline.hardware.rules import NO_SPEED
from pipeline.results.base import Missing
from pipeline.results.bench import Metric
from pipeline.results.records import Speed, TaskScores

CLAIM = re.compile(
    r"more tokens per second than BF16|Lower throughput than BF16|scores (lower|higher) than BF16|% throughput|"
    r"% mean T|loses accuracy|is worse than BF16 by|is no worse on"
)


def judged(*records):
    return judge(compare(records, TASKS), "tiny", "a machine")


def rows(*records):
    return {row.name: row for row in compare(records, TASKS).rows}


def test_clear_gain_without_loss_is_recommended():
    verdict = judged(record("bf16"), record("fast", 1300), record("faster", 1500, wrong=30))
    assert verdict.recommended == "fast"
    assert verdict.answer.text.startswith("FAST serves 30.0 % more tokens per second than BF16 (95 % interval")
    lost = "FASTER is worse than BF16 by more than the margin on MMLU (−7.5 points"
    assert any(point.text.startswith(lost) for point in verdict.points)


def test_no_worse_is_said_to_hold_for_each_variant_by_itself() -> None:
    table = compare([record("bf16"), *(record(f"v{i}", 1100) for i in range(7))], TASKS)
    texts = [point.text for point in judge(table, "tiny", "a machine").points]
    assert any("of 7 that lose just their margin, 0.35 would be called no worse by chance" in text for text in texts)


def test_only_what_is_slower_is_said_to_be():
    """A gain of half a percent, and a loss of as much, both clear."""
    exact = {"noise": (1.0, 1.0001, 0.9999)}
    records = [record("bf16", **exact), record("a", 1005, **exact), record("b", 995, **exact)]
    verdict = judge(compare(records, TASKS, tolerance_percent=0.0), "tiny", "a machine")
    (slower,) = [point.text for point in verdict.points if point.text.startswith("Lower throughput")]
    assert slower == "Lower throughput than BF16: B (−0.5 %)."


def test_equals_of_the_fastest_are_named():
    verdict = judged(record("bf16"), record("one", 1301), record("two", 1300))
    assert "cannot be told from that of TWO" in verdict.answer.text


def test_only_gains_that_may_be_claimed_are_recommended():
    """A gain is claimed by its simultaneous interval, whatever the figure."""
    comparison = compare([record("bf16"), record("lucky", 1200), record("sure", 1150)], TASKS)
    lucky = comparison.rows[1]
    cell = lucky.speed["total_token_throughput"]
    doubtful = cell.model_copy(update={"change": Change(percent=20.0, interval=Interval(low=-3, high=50), p_value=0.1)})
    changed = lucky.model_copy(update={"speed": {**lucky.speed, "total_token_throughput": doubtful}})
    rows = (comparison.rows[0], changed, comparison.rows[2])
    verdict = judge(comparison.model_copy(update={"rows": rows}), "tiny", "a machine")
    assert verdict.recommended == "sure"
    assert any(point.text == "Cannot tell from BF16 in throughput: LUCKY." for point in verdict.points)


NOISY = (0.93, 1.0, 1.07)


def test_a_gain_among_many_variants_is_claimed_for_all_of_them_together():
    """A gain of 15 % between noisy repeats is clear alone, and not among eight."""
    alone = judged(record("bf16"), record("lucky", 1150, noise=NOISY))
    assert alone.recommended == "lucky" and "one start of each server, widened by 2 %" in alone.answer.text
    others = [record(f"same{index}", 1001, noise=NOISY) for index in range(7)]
    among = judged(record("bf16"), record("lucky", 1150, noise=NOISY), *others)
    assert among.recommended is None and not among.answer.claims
    texts = [point.text for point in among.points]
    assert "The intervals of 8 throughput differences hold together at 95 % (Dunnett's comparisons with BF16)." in texts
    assert any(text.startswith("Each server was started once") and "beyond 2 %" in text for text in texts)


def test_the_fastest_comes_first():
    records = [record("bf16"), *(record(name, speed) for name, speed in (("slow", 900), ("fast", 1500), ("mid", 1200)))]
    assert [row.name for row in by_throughput(compare(records, TASKS))] == ["fast", "mid", "slow"]


def test_noise_is_called_noise():
    verdict = judged(record("bf16"), record("same", 1002, wrong=1))
    assert verdict.recommended is None and not verdict.answer.claims
    assert "No throughput gain over BF16 was shown" in verdict.answer.text
    assert any(point.text == "Cannot tell from BF16 in throughput: SAME." for point in verdict.points)


def test_marked_speed_is_a_caveat_and_that_of_bf16_one_of_every_change():
    comparison = compare([record("bf16"), record("int8", 1100), record("awq", 1000)], TASKS)

    def caveats(*marked):
        chosen = [row.model_copy(update={"marks": ("m",) if row.name in marked else ()}) for row in comparison.rows]
        verdict = judge(comparison.model_copy(update={"rows": tuple(chosen)}), "tiny", "a machine")
        return [point.text for point in verdict.points if "guard" in point.text]

    assert caveats() == []
    (caveat,) = caveats("int8", "awq")
    assert caveat == "A guard failed while measuring the speed of INT8 and AWQ, so it is unreliable."
    (caveat,) = caveats("bf16")
    assert caveat.startswith("A guard failed while measuring the speed of BF16") and "repeat that measurement" in caveat


@pytest.mark.parametrize("marked", [("fast", "slow", "same"), ("bf16",)])
def test_no_difference_is_claimed_that_was_measured_while_a_guard_failed(marked):
    """The page named a gain of 75 % per GPU beside the words that the figure is unreliable."""
    records = record("bf16"), record("fast", 1300), record("slow", 800), record("same", 1001), record("sound", 1200)
    comparison = compare(records, TASKS)
    chosen = [row.model_copy(update={"marks": ("m",) if row.name in marked else ()}) for row in comparison.rows]
    verdict = judge(comparison.model_copy(update={"rows": tuple(chosen)}), "tiny", "a machine")
    said = [point.text for point in verdict.points if re.match("[A-Z0-9]+: [+−]|Lower|Cannot tell from", point.text)]
    claimed = {claim.variant for point in verdict.points for claim in point.claims}
    if "bf16" in marked:
        assert said == [] and claimed == set()
    else:
        (gain,) = said
        assert gain.startswith("SOUND: +20.0 % throughput") and claimed == {"sound"}


def test_the_reason_for_missing_figures_is_said_once_for_all_variants_that_have_it():
    emulated = [record(name, emulated=("fp8",)) for name in ("fp8", "gguf")]
    verdict = judged(record("bf16"), record("int8", 1100), *emulated, record("c", speed=Missing(reason="it crashed.")))
    assert verdict.recommended == "int8"
    caveats = [point.text for point in verdict.points if point.kind == "caveat"]
    assert caveats[-2:] == [f"FP8 and GGUF: {NO_SPEED}.", "C: it crashed."]


def test_without_a_baseline_there_is_no_verdict():
    found = rows(record("fast", 2000))
    assert found["fast"].speed["mean_ttft_ms"].change == Missing(reason="no BF16 baseline among the results")
    assert judged(record("fast", 2000)).answer.text.startswith("No verdict: without a BF16 result")
    assert judged(record("bf16")).answer.text.startswith("No verdict: BF16 is the only variant")


def test_other_machines_and_other_items_are_not_compared():
    some = {task: scores.model_copy(update={"asked": 400}) for task, scores in record("short", n=90).tasks.items()}
    found = rows(record("bf16"), record("far", 2000, machine="elsewhere"), record("short", tasks=some))
    assert "another machine (box)" in found["far"].speed["mean_ttft_ms"].change.reason
    assert "items differ" in found["short"].tasks["MMLU"].change.reason
    assert isinstance(found["short"].mean_change, Missing)


def test_a_part_of_the_items_is_compared_with_the_same_part():
    change = rows(record("bf16", wrong=10), record("part", wrong=30, n=90))["part"].tasks["MMLU"].change
    assert (change.n, change.gained, change.lost) == (90, 0, 20)


def test_missing_results_keep_their_row_and_reason():
    gone = record("gone", speed=Missing(reason="no kernel"), tasks=Missing(reason="no kernel"))
    comparison = compare([gone, record("bf16")], TASKS)
    assert [row.name for row in comparison.rows] == ["bf16", "gone"]
    assert comparison.rows[1].speed["mean_ttft_ms"] == comparison.rows[1].tasks["MMLU"] == Missing(reason="no kernel")
    verdict = judge(comparison, "tiny", "a machine")
    assert any(point.text == "GONE: no kernel." for point in verdict.points)


def test_other_units_do_not_enter_the_column():
    seconds = Speed(
        machine="box",
        metrics={"mean_ttft_ms": Metric(unit="s", values=(1.0, 2.0))},
        asked=1,
        completed=1,
        failed=0,
    )
    assert rows(record("bf16"), record("odd", speed=seconds))["odd"].speed["mean_ttft_ms"] == Missing(
        reason="measured in s, not ms"
    )


def test_what_was_lost_on_the_way_is_noted():
    partly = {"MMLU": TaskScores(task="t", metric="acc", value=0.9, n=8, asked=10, scores=(("a", 1.0),))}
    notes = " ".join(compare([record("bf16"), record("part", tasks=partly)], TASKS).notes)
    assert "Items of MMLU that were scored: PART 8 of 10." in notes and "its items average 100.00 %" in notes


def test_a_figure_that_its_items_average_to_is_not_noted():
    items = tuple((f"item {i}", float(i < 3)) for i in range(4))
    whole = {"MMLU": TaskScores(task="t", metric="acc", value=0.75, n=4, asked=4, scores=items)}
    assert not any("average" in note for note in compare([record("bf16", tasks=whole)], TASKS).notes)


def texts(*records, start=""):
    return [point.text for point in judged(*records).points if point.text.startswith(start)]


def test_the_smallest_checkpoint_is_one_that_is_smaller_than_bf16():
    records = record("bf16", size=100), record("a", size=40), record("b", size=60), record("c", size=40)
    unmade = record("d").model_copy(update={"size": Missing(reason="not made")})
    assert texts(*records, unmade, start="Smallest") == ["Smallest checkpoint: A and C, 0.40 of BF16's bytes."]
    assert texts(*records[:1], record("b", size=100), record("c", size=120), unmade, start="Smallest") == []
    assert texts(*records[1:], start="Smallest") == []


def test_slower_and_undecided_variants_are_named_apart():
    records = record("bf16"), record("slow", 800), record("same", 1002), record("slower", 700), record("fast", 1300)
    assert texts(*records, start="Lower") == ["Lower throughput than BF16: SLOW (−20.0 %) and SLOWER (−30.0 %)."]
    assert texts(*records, start="Cannot tell from") == ["Cannot tell from BF16 in throughput: SAME."]
    single = record("single", 1002, noise=(1.0,))
    assert texts(record("bf16"), single, start="Lower") == texts(record("bf16"), single, start="Cannot tell from") == []
    (faster,) = texts(*records, start="FAST")
    assert faster.startswith("FAST: +30.0 % throughput (+") and faster.endswith(
        ", −23.1 % mean TTFT, −23.1 % mean TPOT."
    )


def test_the_quality_of_all_variants_is_told_apart():
    records = record("bf16", wrong=60), record("better", wrong=20), record("lossy", wrong=100), record("same", wrong=60)
    said = texts(*records)
    assert any(text.startswith("BETTER scores higher than BF16 on MMLU (+10.0 points, ") for text in said)
    assert any(text.startswith("LOSSY is worse than BF16 by more than the margin on MMLU (−10.0 ") for text in said)
    assert "No worse than BF16 on every task: BETTER and SAME." in said
    assert any(text.startswith("Losses beyond the margin are corrected") and "of 3 that lose" in text for text in said)
    open_ones = texts(record("bf16"), record("few", wrong=2), start="Not known")
    assert open_ones == ["Not known to be no worse on every task: FEW."]
    assert not texts(record("bf16"), record("few", wrong=2), start="Losses beyond")


def test_the_limits_of_one_start_are_told_once():
    start = "Each server was started once"
    (one,) = texts(record("bf16"), record("a", 1300), start=start)
    assert "differences in speed are claimed only beyond 2 %." in one
    assert not texts(record("bf16"), record("a", 1300), start="The intervals of")
    assert texts(record("bf16"), record("a", noise=(1.0,)), start=start) == []
    assert (
        texts(record("bf16"), record("a", 1300, tasks=Missing(reason="it crashed")), start="A:")[-1] == "A: it crashed."
    )


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything())
def test_no_sentence_claims_what_the_interval_does_not(records):
    comparison = compare(records, TASKS)
    found = {row.name: row for row in comparison.rows}
    verdict = judge(comparison, "tiny", "a machine")
    for sentence in (verdict.answer, *verdict.points):
        assert bool(sentence.claims) == bool(CLAIM.search(sentence.text)), sentence
        for claim in sentence.claims:
            assert not claim.interval.low <= 0 <= claim.interval.high
            row = found[claim.variant]
            if claim.against == "limit":
                # The distance of the margin from what the test leaves of the loss.
                loss = row.tasks[claim.column].loss
                assert loss.kind == "no worse"
                assert claim.interval.low == pytest.approx(100 * (loss.interval.low + loss.margin))
                continue
            cell = row.tasks[claim.column] if claim.column in TASKS else row.speed[claim.column]
            assert isinstance(cell, SpeedCell | TaskCell)
            assert isinstance(cell.change, Change | PairedDifference)
            assert cell.change.interval == claim.interval
    if verdict.recommended:
        best = found[verdict.recommended]
        assert not best.is_baseline
        for cell in best.tasks.values():
            assert isinstance(cell, TaskCell) and isinstance(cell.change, PairedDifference)
            assert cell.loss.kind == "no worse" and cell.loss.p_no_worse <= 0.05
