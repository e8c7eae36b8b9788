"""The study's tables as data, its arithmetic done again, and its figures beside measured ones."""

import copy
import math
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.compare_records import anything, record

from pipeline.compare import compare
from pipeline.compare.published.reproduction import reproduce
from pipeline.compare.published.tables import PublishedRow, published_differences, recompute
from pipeline.config import PROJECT_ROOT, Variant
from pipeline.errors import InputError
from pipeline.hardware.gpus import GPUS
from pipeline.results.base import Missing
from pipeline.results.bench import Guard
from pipeline.stages.report.collect.footprints import of_config
from pipeline.stages.report.collect.published import FOLDER, comparable_tables, protocols, published_tables, read

TABLES = {table.name: table for table in published_tables()}
SPEED = [table for table in TABLES.values() if table.kind == "speed"]
ACCURACY = TABLES["angelslim_qwen3_8b"]
SEED = PROJECT_ROOT.parent / "shared" / "seeds" / "impact-of-quantization-on-vllm.txt"


def slips():
    return [(table.name, check) for table in TABLES.values() for check in recompute(table) if check.is_slip]


def test_every_figure_is_in_the_document(data_dir):
    """Each number of conf/reference, digit by digit, in the row of its label."""
    document = data_dir.parent / "seeds" / "impact-of-quantization-on-vllm.txt"
    if not document.is_file():
        pytest.skip(f"{document} is not there")
    lines = document.read_text().splitlines()
    for table in TABLES.values():
        for row in table.rows:
            candidates = [line for line in lines if line.strip().startswith(row.label)]
            printed = [*row.figures.values()]
            assert any(
                all(value in [float(n) for n in re.findall(r"\d+\.?\d*", line)] for value in printed)
                and all(f"({percent:+}%)" in line for percent in row.printed_percent.values())
                for line in candidates
            ), (table.name, row.label)


def test_the_gpus_and_variants_are_ones_we_know():
    formats = {path.stem for path in (PROJECT_ROOT / "conf" / "quant").glob("*.yaml")}
    caches = {path.stem for path in (PROJECT_ROOT / "conf" / "kv_cache").glob("*.yaml")}
    for table in TABLES.values():
        assert table.kind == "accuracy" or table.gpu in {gpu.name for gpu in GPUS}
        for row in table.rows:
            for variant in row.variants:
                weights, _, cache = variant.partition("@")[0].partition("+")
                assert weights in formats and (not cache or cache in caches)


def test_the_one_slip_is_found_by_arithmetic():
    assert [(table, check.label, check.metric, check.printed) for table, check in slips()] == [
        ("study_h100", "FP8 Static", "total_token_throughput", 26.7)
    ]
    assert round(slips()[0][1].recomputed, 1) == 23.7
    text = " ".join(s.text for s in reproduce(TABLES["study_h100"], compare([], ()), None).statements)
    assert "FP8 Static: the study prints +26.7 % for throughput, its own figures give +23.7 %." in text


def test_published_accuracies_are_mostly_noise():
    found = published_differences(ACCURACY)
    assert len(found) == 20
    real = {(d.label, d.task) for d in found if not d.within_noise}
    assert real == {("INT4-GPTQ", "MMLU"), ("INT4-AWQ", "MMLU")}
    assert all((abs(d.z) < 1.96) == d.within_noise for d in found)
    humaneval = next(d for d in found if (d.label, d.task) == ("INT8-Dynamic", "HumanEval"))
    assert humaneval.items == 6 and humaneval.within_noise


@pytest.mark.parametrize(("ours", "theirs"), [(30.0, 25.0), (25.0, 30.0), (80.0, 75.0), (0.0001, 100.0)])
def test_a_published_difference_has_the_interval_of_two_independent_samples(ours, theirs):
    """Of 1000 items each: the root of p (1 - p) / n + q (1 - q) / n, times 1.96."""
    rows = tuple(
        PublishedRow(label=label, variants=(label,), figures={"MMLU": share})
        for label, share in (("bf16", theirs), ("gptq", ours))
    )
    (found,) = published_differences(ACCURACY.model_copy(update={"rows": rows, "items": {"MMLU": 1000}}))
    p, q = round(10 * ours) / 1000, round(10 * theirs) / 1000
    error = math.sqrt((p * (1 - p) + q * (1 - q)) / 1000)
    assert (found.n, found.items, found.points) == (1000, round(1000 * (p - q)), pytest.approx(100 * (p - q)))
    assert found.interval.low == pytest.approx(100 * (p - q - 1.959964 * error))
    assert found.interval.high == pytest.approx(100 * (p - q + 1.959964 * error))
    assert found.z == pytest.approx((p - q) / error if error else 0.0)


@given(printed=st.floats(-90, 90), digits=st.integers(1, 2), noise=st.floats(-1, 1))
def test_rounding_is_no_slip_and_a_wrong_digit_is(printed, digits, noise):
    """A percentage rounded as printed is never a slip; one that is off by two units of its last digit always is."""
    unit = 10**-digits
    data = yaml.safe_load((FOLDER / "study_kv_cache.yaml").read_text())
    figures = data["rows"][1]["figures"]
    base = data["rows"][0]["figures"]["mean_ttft_ms"]
    figures["mean_ttft_ms"] = base * (1 + (round(printed, digits) + 0.499 * unit * noise) / 100)
    for wrong in (0, 2):
        data["rows"][1]["printed_percent"] = {"mean_ttft_ms": round(round(printed, digits) + wrong * unit, digits)}
        value = data["rows"][1]["printed_percent"]["mean_ttft_ms"]
        if len(repr(value).partition(".")[2]) != digits:
            continue  # a last digit of zero is not written
        (check,) = recompute(type(TABLES["study_kv_cache"]).model_validate(data))
        assert check.is_slip == bool(wrong)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    anything(variants=("fp8_static", "gptq", "awq", "int8_dynamic")),
    st.sampled_from(sorted(TABLES)),
    st.sampled_from(["H100 SXM", None]),
)
def test_what_is_said_of_a_study_rests_on_intervals(records, table, gpu):
    """No published difference within noise is called real, and agreement is told only where an interval holds it."""
    found = reproduce(TABLES[table], compare(records, ("MMLU", "GSM8K")), gpu)
    for sentence in found.statements:
        for claim in sentence.claims:
            assert not claim.interval.low <= 0 <= claim.interval.high
        if "beyond" in sentence.text:
            named = {(d.label, d.task) for d in found.differences if f"{d.label} on {d.task} (" in sentence.text}
            assert named == {(claim.variant, claim.column) for claim in sentence.claims}
            assert all(d.interval.low > 0 or d.interval.high < 0 for d in found.differences if not d.within_noise)
        told = [cell for cell in found.cells if cell.agrees is not None]
        if " agree, " in sentence.text:
            counts = [sum(cell.agrees == word for cell in told) for word in ("yes", "no", "too wide to tell")]
            assert [int(number) for number in re.findall(r"\d+", sentence.text)[:4]] == [len(told), *counts]
        if found.kind == "speed":
            for cell in told:
                compared = cell.published if found.basis == "figures" else cell.published_change
                assert cell.prediction.contains(compared) == (cell.agrees != "no")
    for cell in found.cells:
        if cell.agrees is not None:
            assert (cell.prediction or cell.measured_change_interval) is not None


def measured(**throughput):
    return compare([record(name.replace("__", "+"), value) for name, value in throughput.items()], ("MMLU", "GSM8K"))


def test_on_the_same_model_and_gpu_figures_are_compared():
    found = reproduce(TABLES["study_h100"], measured(bf16=13305.38, fp8_static=15000), "H100 SXM")
    assert found.basis == "figures"
    cells = {(cell.label, cell.metric): cell for cell in found.cells}
    assert cells["BF16", "total_token_throughput"].agrees == "yes"
    static = cells["FP8 Static", "total_token_throughput"]
    assert static.agrees == "no" and static.ratio == pytest.approx(15000 / 16452.52)
    assert cells["FP8 Dynamic", "mean_ttft_ms"].measured == Missing(reason="not among these results")
    assert cells["GPTQ", "mean_ttft_ms"].published == Missing(reason="GPTQ implementation is broken, see vLLM issue.")


def test_elsewhere_changes_against_bf16_are_compared():
    found = reproduce(TABLES["study_h100"], measured(bf16=100, fp8_static=123.7), None)
    assert found.basis == "changes" and "measured on other hardware" in found.why
    cells = {(cell.label, cell.metric): cell for cell in found.cells}
    static = cells["FP8 Static", "total_token_throughput"]
    assert static.agrees == "yes" and static.ratio is None
    assert static.published_change == pytest.approx(100 * (16452.52 / 13305.38 - 1))
    assert cells["BF16", "total_token_throughput"].agrees is None


def test_a_published_run_agrees_if_one_more_run_could_give_it():
    """Repeats within 1 % of their mean: a run 3.5 % above is outside the mean's interval, inside one more run's."""
    found = reproduce(TABLES["study_h100"], measured(bf16=13305.38 / 1.035, fp8_static=15000), "H100 SXM")
    cells = {(cell.label, cell.metric): cell for cell in found.cells}
    bf16 = cells["BF16", "total_token_throughput"]
    assert not bf16.measured_interval.contains(bf16.published)
    assert bf16.agrees == "yes" and bf16.prediction.contains(bf16.published)
    assert bf16.prediction.high / bf16.prediction.low > bf16.measured_interval.high / bf16.measured_interval.low


def test_an_interval_that_is_wider_than_the_published_effect_agrees_with_nothing():
    """+23.7 % lies in -20 to +100 %, as +2 % and +90 % would."""
    noisy = [record("bf16", 100, noise=(0.8, 1.0, 1.2)), record("fp8_static", 120, noise=(0.9, 1.1, 1.0))]
    found = reproduce(TABLES["study_h100"], compare(noisy, ("MMLU",)), None)
    cells = {(cell.label, cell.metric): cell for cell in found.cells}
    static = cells["FP8 Static", "total_token_throughput"]
    assert static.prediction.contains(static.published_change) and static.agrees == "too wide to tell"
    assert "0 agree, 0 do not, and 3 cannot be told" in " ".join(sentence.text for sentence in found.statements)


QWEN3_8B = protocols()[0][0].config


def footprint(**changes):
    return of_config({**QWEN3_8B, **changes}, Variant.parse("fp8_static"))


def test_accuracies_of_another_model_of_the_shape_are_not_compared():
    def kinds(hub_id):
        found = comparable_tables([footprint()], "H100 SXM", is_random=False, hub_id=hub_id)
        return {table.kind for table in found}

    assert kinds("Qwen/Qwen3-8B") == kinds(None) == {"speed", "accuracy"}
    assert kinds("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B") == {"speed"}


@pytest.mark.parametrize(
    ("gpu", "is_random", "names"),
    [
        ("H100 SXM", False, {"angelslim_qwen3_8b", "study_h100", "study_kv_cache"}),
        ("H200", True, {"study_h100", "study_kv_cache"}),
        ("A100 80GB PCIe", True, {"study_a100"}),
        (None, True, set()),
    ],
)
def test_a_study_is_compared_where_shape_and_class_of_gpu_are_its_own(gpu, is_random, names):
    assert {table.name for table in comparable_tables([footprint()], gpu, is_random=is_random)} == names


def test_a_study_is_not_compared_with_another_model_of_its_name():
    other = footprint(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, tie_word_embeddings=True)
    assert comparable_tables([Missing(reason="gone"), other], "H100 SXM", is_random=False) == ()
    assert comparable_tables([], "H100 SXM", is_random=False) == ()


def test_figures_whose_guards_failed_are_unreliable():
    guard = Guard(name="warm-up", passed=False, text="not steady")
    plain = record("fp8_static", 900).speed
    marked = record("fp8_static", 900, speed=plain.model_copy(update={"guards": (guard,)}))
    found = reproduce(TABLES["study_h100"], compare([record("bf16"), marked], ("MMLU",)), None)
    cells = {cell.label: cell for cell in found.cells}
    assert cells["FP8 Static"].is_unreliable and not cells["BF16"].is_unreliable
    assert "A guard failed for 3 of them." in " ".join(sentence.text for sentence in found.statements)


def test_accuracy_differences_agree_within_both_noises():
    comparison = compare([record("bf16"), record("gptq", wrong=40)], ("MMLU", "GSM8K"))
    cells = {(c.label, c.metric): c for c in reproduce(ACCURACY, comparison, "L4").cells}
    assert cells["INT4-GPTQ", "MMLU"].agrees == "no"
    assert isinstance(cells["INT4-GPTQ", "HumanEval"].measured, Missing)
    close = compare([record("bf16"), record("gptq", wrong=2)], ("MMLU", "GSM8K"))
    cells = {(c.label, c.metric): c for c in reproduce(ACCURACY, close, "L4").cells}
    assert cells["INT4-GPTQ", "MMLU"].agrees != "no" and not math.isnan(cells["INT4-GPTQ", "MMLU"].measured)


def test_accuracy_differences_agree_up_to_both_noises_and_no_further():
    """The distance of the centres against the root of the squared half widths, on both sides of the limit."""
    (theirs,) = [d for d in published_differences(ACCURACY) if (d.label, d.task) == ("INT4-GPTQ", "MMLU")]
    seen = set()
    for wrong in range(40):
        comparison = compare([record("bf16"), record("gptq", wrong=wrong)], ("MMLU", "GSM8K"))
        cells = {(c.label, c.metric): c for c in reproduce(ACCURACY, comparison, "L4").cells}
        cell = cells["INT4-GPTQ", "MMLU"]
        ours = cell.measured_change_interval
        apart = abs((ours.low + ours.high) / 2 - theirs.points)
        limit = math.hypot((ours.high - ours.low) / 2, (theirs.interval.high - theirs.interval.low) / 2)
        assert (cell.agrees != "no") == (apart <= limit), wrong
        seen.add(cell.agrees)
    assert seen == {"too wide to tell", "no"}


def test_without_a_difference_of_ours_or_of_theirs_nothing_agrees():
    """BF16 has no difference from itself, and one that was scored on other items has none from BF16."""
    comparison = compare([record("bf16"), record("gptq", n=401)], ("MMLU",))
    cells = {(c.label, c.metric): c for c in reproduce(ACCURACY, comparison, "L4").cells}
    for label in ("BF16", "INT4-GPTQ"):
        cell = cells[label, "MMLU"]
        assert cell.measured == pytest.approx(100) and cell.measured_change is cell.agrees is None


def test_published_differences_beyond_their_noise_are_counted_and_named():
    """AngelSlim prints 20 differences; 74.78 to 73.26 and to 73.59 of 14,042 items are beyond a point of noise."""
    found = reproduce(ACCURACY, measured(bf16=100), None)
    (noise,) = [sentence for sentence in found.statements if sentence.kind == "quality"]
    assert noise.text == (
        "2 of 20 published accuracy differences from BF16 are beyond their items' noise: "
        "INT4-GPTQ on MMLU (−1.52 points) and INT4-AWQ on MMLU (−1.19 points)."
    )
    assert [(claim.variant, claim.against, claim.column) for claim in noise.claims] == [
        ("INT4-GPTQ", "bf16", "MMLU"),
        ("INT4-AWQ", "bf16", "MMLU"),
    ]
    # A table of speeds has none, and nothing that was not measured agrees with anything.
    statements = reproduce(TABLES["study_a100"], measured(awq=100), None).statements
    assert [sentence for sentence in statements if sentence.kind != "caveat"] == []


def test_accuracy_is_compared_in_points_and_speed_in_percent():
    records = [record("bf16", wrong=20), record("gptq", 1500, wrong=40)]
    cells = {(c.label, c.metric): c for c in reproduce(ACCURACY, compare(records, ("MMLU",)), "L4").cells}
    cell = cells["INT4-GPTQ", "MMLU"]
    assert (cell.measured, cell.measured_change) == (pytest.approx(90), pytest.approx(-5))
    assert cell.published_change == pytest.approx(73.26 - 74.78) and cell.ratio == pytest.approx(90 / 73.26)
    assert cell.measured_change_interval.high - cell.measured_change_interval.low == pytest.approx(4.6, abs=0.3)
    assert cells["BF16", "MMLU"].published_change is cells["BF16", "MMLU"].measured_change is None
    speeds = reproduce(TABLES["study_rtx4090"], compare([record("bf16"), record("awq", 1500)], ("MMLU",)), None).cells
    cell = {(c.label, c.metric): c for c in speeds}["AWQ", "total_token_throughput"]
    assert cell.published_change == pytest.approx(100 * (5653.4 / 3869.3 - 1))
    assert cell.measured_change == pytest.approx(50) and cell.ratio is None and cell.agrees == "yes"


BAD = {
    "no baseline": lambda d: d["rows"].pop(0),
    "two baselines": lambda d: d["rows"].append({**copy.deepcopy(d["rows"][0]), "label": "again"}),
    "no figures and no reason": lambda d: d["rows"][1].pop("figures"),
    "an unknown field": lambda d: d.update(hardwear="L4"),
    "a percentage without its figure": lambda d: d["rows"][1].update(printed_percent={"speed": 1.0}),
    "a figure of zero": lambda d: d["rows"][1]["figures"].update(mean_ttft_ms=0),
    "a figure below zero": lambda d: d["rows"][1]["figures"].update(mean_ttft_ms=-1),
    "no source": lambda d: d.pop("source"),
    "another kind": lambda d: d.update(kind="power"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_no_table_is_named(what, tmp_path):
    data = yaml.safe_load((FOLDER / "study_rtx4090.yaml").read_text())
    BAD[what](data)
    path = tmp_path / "study_rtx4090.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=re.escape(str(path))):
        read(path)


def test_a_share_that_is_no_number_of_items_is_refused(tmp_path):
    data = yaml.safe_load((FOLDER / "angelslim_qwen3_8b.yaml").read_text())
    data["rows"][3]["figures"]["HumanEval"] = 67.00
    path = tmp_path / "angelslim_qwen3_8b.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match="whole number of items"):
        read(path)


def test_a_task_without_items_is_refused_by_name(tmp_path):
    data = yaml.safe_load((FOLDER / "angelslim_qwen3_8b.yaml").read_text())
    del data["items"]["HumanEval"]
    path = tmp_path / "angelslim_qwen3_8b.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match="the number of items of HumanEval is not given"):
        read(path)
