"""Peak memory of the passes: by headers, as measured, and independent of the number of layers."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from support.mixtures import QWEN3_30B_A3B, tensors_of
from support.settings import settings_of

from pipeline.demo import CHECKPOINT
from pipeline.hardware.probe import Hardware
from pipeline.models.forward import Layerwise
from pipeline.models.safetensors import copy_companions
from pipeline.runner import Runner
from pipeline.stages.calibrate import histograms, memory
from pipeline.stages.calibrate.observers import Observers, checkpoints

MIB = 2**20
BF16 = Hardware(device="cpu", name="a CPU", cores=2, memory_gib=8, cpu_features=("avx512_bf16",))


def test_qwen3_30b_a3b_is_calibrated_layer_by_layer_in_24_gib() -> None:
    settings = settings_of("calibration.num_samples=512", "calibration.max_seq_length=2048").calibration
    found = memory.peaks(tensors_of(QWEN3_30B_A3B), QWEN3_30B_A3B, settings, itemsize=2)
    whole, layerwise = found["whole"], found["layer by layer"]
    # 30.5 billion weights in two bytes; one layer of 48 and the embedding.
    assert whole.device > 2 * 30.5e9
    assert 2 * (0.62e9 + 0.31e9) < layerwise.device < 6 * memory.GIB
    assert layerwise.device + layerwise.host < 24 * memory.GIB
    assert "GiB of GPU memory" in layerwise.text(on_gpu=True) and "GPU" not in layerwise.text(on_gpu=False)


def test_the_peak_of_a_pass_does_not_depend_on_the_number_of_layers() -> None:
    settings = settings_of("calibration.num_samples=8").calibration
    sizes = []
    for layers in (2, 8):
        config = {**QWEN3_30B_A3B, "num_hidden_layers": layers}
        sizes.append(memory.peaks(tensors_of(config), config, settings, 2)["layer by layer"].device)
    assert sizes[0] == sizes[1]


def test_a_sketch_is_as_large_as_predicted() -> None:
    settings = settings_of("calibration.num_samples=100").calibration
    copies = 1 + len(checkpoints(100))
    assert memory.HISTOGRAM_BYTES == histograms.BINS * 8
    assert copies <= memory._sketch(settings) / memory.HISTOGRAM_BYTES < copies + 8


# 25 MB of weights in each layer.
WIDE = {
    **QWEN3_30B_A3B,
    "hidden_size": 512,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
}
LAYER = 2 * 8 * 3 * 512 * 1024


def written(folder: Path, layers: int) -> Path:
    config = {**WIDE, "num_hidden_layers": layers}
    copy_companions(CHECKPOINT, folder)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, (_, shape) in tensors_of(config).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def used_by(folder: Path, out: Path) -> int:
    """Return the most memory in use between two sequences, but for what the observers keep."""
    given = ["stage=calibrate", f"model.path={folder}", "quant=fp8_static", f"outputs={out}"]
    job, seen = Runner([settings_of(*given)], given).jobs[0], [0]
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    decoding = Layerwise(job.model, BF16, lambda _: None)
    observers = Observers(decoding.model, job.settings.calibration, 2)
    decoding.run([list(range(32))] * 2, observers, lambda _: seen.append(process.memory_info().rss))
    sketches = sum(site.sketch.histogram.nbytes * (1 + len(site.sketch.snapshots)) for site in observers)
    return max(seen) - before - sketches


@pytest.mark.slow
def test_memory_in_use_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    folders = {layers: tmp_path / f"of {layers}" for layers in (2, 8)}
    for layers, folder in folders.items():
        folder.mkdir()
        written(folder, layers)
    # What is imported on first use counts for none of them.
    used_by(folders[2], tmp_path / "out")
    few, many = (used_by(folder, tmp_path / "out") for folder in folders.values())
    assert many - few < LAYER, f"{few / MIB:.0f} and {many / MIB:.0f} MiB"
    assert many < 4 * LAYER


@pytest.mark.parametrize("layerwise", ["auto", "always"])
def test_the_plan_says_the_peak(layerwise: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["stage=calibrate", "quant=fp8_static", f"outputs={tmp_path}", f"calibration.layerwise={layerwise}"]
    assert Runner([settings_of(*given)], given).plan() == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "layer by layer: peak of about" in said and ("whole: peak" in said) == (layerwise == "auto")


def test_a_config_without_its_numbers_has_no_estimate(tmp_path: Path) -> None:
    given = ["stage=calibrate", "quant=fp8_static", f"outputs={tmp_path}"]
    job = Runner([settings_of(*given)], given).jobs[0]
    assert memory.said(job)
    config = json.loads((CHECKPOINT / "config.json").read_text())
    del config["num_hidden_layers"]
    job.model.__dict__["config"] = config
    assert memory.said(job) == ""
