"""Rooflines, constraints and frontiers of a report, from real checkpoints' headers and a benchmark's own figures."""

import json
import shutil

import pytest
from support.synthetic_results import STUDY, Run

from pipeline.config import Stage, Variant
from pipeline.config.quant import EXISTING
from pipeline.demo import CHECKPOINT
from pipeline.hardware.gpus import gpu_of
from pipeline.hardware.rules import NO_SPEED
from pipeline.results.base import Missing
from pipeline.stages import report
from pipeline.stages.bench.requests import Requests
from pipeline.stages.report.collect.artifacts import Source
from pipeline.stages.report.collect.rooflines import unserved
from pipeline.stages.report.document import Report

NAMES = ("bf16", "fp8_static", "gptq")
BANDWIDTH, TPOT = 20e9, 2.0


def load(name, concurrency, tpot):
    return {
        "name": name,
        "request_rate": "inf",
        "max_concurrency": concurrency,
        "num_prompts": 50,
        "metrics": {"mean_tpot_ms": {"unit": "ms", "values": [tpot, tpot]}},
        "asked": 100,
        "completed": 100,
        "failed": 0,
        "input_tokens": [5000, 5000],
        "output_tokens": [2000, 2000],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three variants; the demo model's own files stand for each checkpoint."""
    made = Run(tmp_path_factory.mktemp("run"), {name: STUDY[name] for name in NAMES}, formats=("json",))
    for name in NAMES:
        checkpoint = made.job(name).artifact(Stage.QUANTIZE).folder / "checkpoint"
        for part in ("config.json", "model.safetensors"):
            shutil.copyfile(CHECKPOINT / part, checkpoint / part)
        path = made.job(name).artifact(Stage.BENCH).folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["results"] |= {
            "protocol": "ladder",
            "headline": "16 at once",
            "loads": [load("1 at once", 1, TPOT), load("16 at once", 16, 9.0)],
            "memory_bandwidth": BANDWIDTH,
        }
        path.write_text(json.dumps(manifest))
    return made


def reported(run, **settings):
    run.report = settings
    report.make(run.jobs, {})
    return Report.model_validate_json((run.outputs / "tiny" / "report" / "report.json").read_text())


def test_the_machine_that_measured_comes_first_with_the_share_of_its_floor(run, capsys):
    here, *there = reported(run, what_if=["L4", "H100 SXM"]).rooflines
    assert not here.predicted and here.device.bandwidth_gb_s == BANDWIDTH / 1e9
    assert (here.load.mean_input, here.load.mean_output, here.load.max_concurrency) == (100, 40, 16)
    bf16, emulated, gptq = here.rows
    # The whole file is read for a token (the embedding is tied), and the keys and values of its context.
    context = 100 + 40 // 2
    moved = bf16.footprint.step_bytes + context * bf16.footprint.kv_bytes_per_token
    assert bf16.decode_ms == pytest.approx(1000 * moved / BANDWIDTH)
    assert gptq.decode_share == pytest.approx(gptq.decode_ms / TPOT)
    assert emulated.decode_ms == emulated.decode_share == Missing(reason=NO_SPEED)
    assert any("memory alone" in note for note in here.notes)
    assert [(roofline.device.name, roofline.predicted) for roofline in there] == [("L4", True), ("H100 SXM", True)]
    assert there[0].rows[0].best.throughput_tok_s > 0 and there[0].rows[0].gain_percent == 0


def test_a_gpu_that_no_catalogue_has_is_predicted_by_its_figures(run, capsys):
    own = {"name": "RTX 4080", "compute_capability": 8.9, "memory_mib": 16_376, "bandwidth_gb_s": 717}
    found = reported(run, what_if=[own, "L4"], constraints={"hardware": own})
    _, mine, l4 = found.rooflines
    assert (mine.device.name, mine.device.source) == ("RTX 4080", "as given in the settings")
    # Of the same files a token takes as long as the bandwidth says.
    assert mine.rows[0].decode_ms / l4.rows[0].decode_ms == pytest.approx(300 / 717)
    assert "BF16 is served on RTX 4080." in str(found.recommendation)


def test_constraints_are_held_against_the_files_and_the_catalogue(run, capsys):
    found = reported(run, constraints={"memory_gib": 0.001, "hardware": "A100 80GB SXM"}).recommendation
    checks = {c.constraint: c for c in found.candidates[0].checks}
    assert checks["memory_gib"].status == "broken" and checks["hardware"].status == "met"
    assert (
        "(weights, the KV cache of 2,048 tokens and the activations of a step, in 0.9 of the GPU's memory)"
        in checks["memory_gib"].statement.text
    )
    assert found.recommended is None and found.answer.text.startswith("No variant is known to meet the constraints")


def test_a_memory_that_is_large_enough_is_met(run, capsys):
    found = reported(run, constraints={"memory_gib": 8}).recommendation
    assert {c.status for candidate in found.candidates for c in candidate.checks if c.constraint == "memory_gib"} == {
        "met"
    }


def altered(run, name, change):
    """Alter a benchmark's manifest."""
    folder = run.job(name).artifact(Stage.BENCH).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def store_lengths(manifest, folder, prompts=100, replies=40):
    """Store the requests of both repeats; of each, the last one failed."""
    place = folder / "loads" / "16-at-once"
    place.mkdir(parents=True, exist_ok=True)
    for index in range(2):
        result = {"input_lens": [prompts] * 51, "output_lens": [replies] * 50 + [0], "ttfts": [0.1] * 51}
        Requests.of({**result, "itls": [[]] * 51, "errors": [""] * 50 + ["gone"]}).save(place / f"repeat-{index}.npz")
        name = f"loads/16-at-once/repeat-{index}.npz"
        manifest["files"][name] = {"size": 1, "sha256": "0" * 64, "link": None}


def test_recorded_lengths_replace_the_assumed_ones(run, capsys):
    """Equal lengths fill the batch to its end, so a device serves more than under exponential ones."""
    assumed = reported(run, what_if=["L4"]).rooflines
    assert "exponential" in assumed[0].load.source
    before = (run.job("bf16").artifact(Stage.BENCH).folder / "manifest.json").read_text()
    altered(run, "bf16", store_lengths)
    recorded = reported(run, what_if=["L4"]).rooflines
    assert recorded[0].load.source == "the recorded lengths of each of the benchmark's requests"
    there, then = recorded[1].rows[0].best, assumed[1].rows[0].best
    assert there.throughput_tok_s > then.throughput_tok_s
    # 50 answered requests of 16 at once take four rounds of 40 steps, the first token in a prompt's step.
    assert there.concurrency == pytest.approx(50 / 4, rel=0.1)
    text = (run.outputs / "tiny" / "report" / "report.json").read_text()
    assert "recorded" not in json.loads(text)["rooflines"][0]["load"]
    broken = run.job("bf16").artifact(Stage.BENCH).folder / "loads" / "16-at-once" / "repeat-1.npz"
    broken.write_bytes(b"no arrays")
    assert "exponential" in reported(run).rooflines[0].load.source
    (broken.parents[2] / "manifest.json").write_text(before)


def test_the_measured_gpu_has_its_own_memory_and_bandwidth(run, capsys):
    paths = {name: run.job(name).artifact(Stage.BENCH).folder / "manifest.json" for name in NAMES}
    before = {name: path.read_text() for name, path in paths.items()}

    def on_an_h200(manifest, _):
        manifest["hardware"] |= {"device": "cuda", "name": "NVIDIA H200", "memory_gib": 139.0}
        manifest["results"]["memory_bandwidth"] = 4358e9

    for name in NAMES:
        altered(run, name, on_an_h200)
    (here, *_) = reported(run, what_if=["H200", "L4"]).rooflines
    assert (here.device.name, here.device.bandwidth_gb_s, here.device.memory_mib) == ("H200", 4358, 139 * 1024)
    assert here.device.source == "bandwidth measured by the benchmark; data sheet: 4,800 GB/s"
    assert here.device.tflops["bf16"] == 989.4

    def with_the_drivers_total(manifest, _):
        gpu = {"total_mib": {"min": 143771, "max": 143771}}
        manifest["results"]["loads"][0]["conditions"] = [{"gpu": gpu}]
        manifest["results"]["server"]["kv_cache_tokens"] = 123_456
        manifest["results"]["memory"] = {
            "weights_bytes": 1,
            "kv_bytes_per_token": 1,
            "kv_cache_tokens": 123_456,
            "kv_cache_bytes": 1,
            "peak_bytes": 1,
        }

    altered(run, "bf16", with_the_drivers_total)
    found = reported(run, formats=["json", "md"])
    assert found.rooflines[0].device.memory_mib == 143_771
    assert found.rooflines[0].rows[0].printed_kv_tokens == 123_456
    page = (run.outputs / "tiny" / "report" / "report.md").read_text()
    assert found.rooflines[0].rows[2].is_weight_only and "| ≤ " in page
    assert "Starts on RTX 4090 (24,564 MiB)" in page and "tokens of KV cache for a context of 2,048" in page
    assert "123,456" in page and "Median error of no gain (points)" in page
    for name, path in paths.items():
        path.write_text(before[name])


def test_the_memory_constraint_and_the_memory_table_give_one_answer(run, capsys):
    """The table's GPU is an RTX 4090; its memory as a constraint decides the same, at any context."""
    found = reported(run, constraints={"memory_gib": 24564 / 1024})
    assert {fit.device for fit in found.fits.values()} == {"RTX 4090"}
    for candidate in found.recommendation.candidates:
        (check,) = [check for check in candidate.checks if check.constraint == "memory_gib"]
        assert (check.status == "met") == found.fits[candidate.name].fits
        assert found.fits[candidate.name].context == 2048


def test_frontiers_are_there_whatever_was_measured_and_the_study_is_not(run, capsys):
    found = reported(run)
    # A model of another shape, on a CPU.
    assert found.reproductions == ()
    assert [f.cost.name for f in found.frontiers][-1] == "size" and found.roofline_check.errors
    assert "fp8_static" in found.frontiers[0].absent


def test_a_checkpoint_that_is_gone_or_broken_is_missing_with_its_reason(run, capsys):
    folder = run.job("gptq").artifact(Stage.QUANTIZE).folder / "checkpoint"
    whole = (folder / "model.safetensors").read_bytes()
    for content in (b"", b"\xff" * 64):
        (folder / "model.safetensors").write_bytes(content)
        row = reported(run).rooflines[0].rows[2]
        assert "is no safetensors file" in row.footprint.reason and row.decode_ms == row.footprint
    (folder / "model.safetensors").unlink()
    assert reported(run).rooflines[0].rows[2].footprint.reason == "the checkpoint is gone"
    (folder / "model.safetensors").write_bytes(whole)


@pytest.mark.parametrize(
    ("stored_as", "scheme", "said"),
    [
        ("pack-quantized", "W4A16", "groups of 64, 128"),
        ("awq", "W4A16_ASYM", "none for W4A16_ASYM in this layout"),
        ("hqq", None, "in no table"),
    ],
)
def test_a_gpu_serves_what_others_quantized_by_its_format(stored_as: str, scheme: str | None, said: str) -> None:
    quant = {"engine": EXISTING, "stored_as": stored_as, "scheme": scheme, "group_size": 256}
    gpu = gpu_of("h100_sxm")
    assert gpu is not None
    source = Source(Variant(quant="folder:/x", kernel="machete"), "x", quant, "auto")
    assert said in unserved(source, Missing(reason="gone"), gpu)
