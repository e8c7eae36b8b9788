"""KV cache and fit by vLLM's rule, held against what vLLM printed in every stored result."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare.roofline.batching import BatchLimits
from pipeline.compare.roofline.device import Device, Footprint, limits_of
from pipeline.compare.roofline.memory_fit import Fit, activation_bytes, fit, kv_tokens, required_bytes
from pipeline.config import PROJECT_ROOT, Variant
from pipeline.hardware.gpus import GPUS, gpu_of
from pipeline.results.base import Missing
from pipeline.stages.report.collect.footprints import of_config
from pipeline.stages.report.collect.published import protocols

STORED = sorted((PROJECT_ROOT / "docs" / "results").glob("qwen3_8b_*/*/*/manifest.json"))
QWEN3_8B = protocols()[0][0].config
SHAPE = Footprint(
    weight_bytes=16.4e9,
    step_bytes=15e9,
    kv_bytes_per_token=147456,
    products=7e9,
    head_products=6e8,
    attention_products=3e5,
    activations="bf16",
    context=40960,
    hidden=4096,
    intermediate=12288,
    vocabulary=151936,
)


def device(mib: float, name: str = "a GPU") -> Device:
    return Device(name=name, memory_mib=mib, bandwidth_gb_s=1000, tflops={"bf16": 100}, source="a test")


@pytest.mark.parametrize("path", STORED, ids=lambda path: "/".join(path.parts[-4:-1]))
def test_the_kv_cache_is_predicted_as_vllm_printed_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 3 %, and never less: CUDA graphs and what the driver reserves are left out."""
    manifest = json.loads(path.read_text())
    printed = manifest["results"]["memory"]["kv_cache_tokens"]
    total = manifest["results"]["loads"][0]["conditions"][0]["gpu"]["total_mib"]["max"]
    gpu = gpu_of(manifest["hardware"]["name"])
    assert gpu is not None and gpu.memory_mib == total
    footprint = of_config(QWEN3_8B, Variant.parse(manifest["variant"]))
    assert not isinstance(footprint, Missing)
    assert footprint.weight_bytes == pytest.approx(manifest["results"]["memory"]["weights_bytes"], rel=1e-3)
    found = kv_tokens(footprint, Device.of(gpu), 0.9)
    assert isinstance(found, int)
    with capsys.disabled():
        print(f"\n  {'/'.join(path.parts[-4:-1])}: {found:,} for {printed:,}, {100 * (found / printed - 1):+.2f} %")
    assert 1 <= found / printed < 1.03


def test_the_stored_results_are_there() -> None:
    assert len([path for path in STORED if "h200" in path.parts[-4]]) == 13


def test_activations_are_the_larger_of_the_mlp_and_the_output_layer() -> None:
    # 8192 x (2 x 4096 + 3 x 12288) BF16 numbers.
    assert activation_bytes(SHAPE, BatchLimits(max_num_seqs=1024, max_num_batched_tokens=8192)) == 738_197_504
    # Few tokens and a large vocabulary: 256 rows of logits.
    small = SHAPE.model_copy(update={"hidden": 256, "intermediate": 512})
    limits = BatchLimits(max_num_seqs=256, max_num_batched_tokens=256)
    assert activation_bytes(small, limits) == 2 * (256 * 256 + 256 * 151936)


def test_vllm_starts_where_one_full_context_fits() -> None:
    """An RTX 4090 holds thousands of tokens beside BF16's weights, and vLLM refuses Qwen3-8B's 40,960."""
    footprint = SHAPE.model_copy(update={"weight_bytes": 17.2e9})
    gpu = gpu_of("RTX 4090")
    assert gpu is not None and gpu.memory_mib == 24_564
    found = fit(footprint, Device.of(gpu), 0.9, 40_960)
    assert isinstance(found, Fit) and found.kv_tokens > 30_000 and not found.fits
    shorter = fit(footprint, Device.of(gpu), 0.9, 8_192)
    assert isinstance(shorter, Fit) and shorter.fits


def test_the_memory_of_24_gigabytes_is_the_drivers() -> None:
    """24e9 bytes would leave 8,545 tokens beside 20.34e9 bytes of weights and nothing else."""
    footprint = SHAPE.model_copy(update={"weight_bytes": 20.34e9, "hidden": 0, "intermediate": 0, "vocabulary": 0})
    found = kv_tokens(footprint, device(24_564), 0.9)
    assert found == int((0.9 * 24_564 * 2**20 - 20.34e9) / 147456) == 19_270


def test_weights_that_are_larger_than_the_gpu_leave_nothing() -> None:
    found = fit(SHAPE.model_copy(update={"weight_bytes": 30e9}), device(24_564), 0.9, 1)
    assert isinstance(found, Fit) and found.kv_tokens == 0 and not found.fits


def test_unknown_footprints_contexts_and_memories_have_a_reason() -> None:
    gone = Missing(reason="gone")
    assert fit(gone, device(24_564), 0.9, 100) == gone
    assert fit(SHAPE, device(24_564), 0.9, 0) == Missing(reason="the model's context is not known")
    unknown = device(1).model_copy(update={"memory_mib": None})
    assert isinstance(fit(SHAPE, unknown, 0.9, 100), Missing)


@given(st.floats(1e9, 4e10), st.integers(1, 50_000), st.sampled_from(GPUS), st.floats(0.5, 1), st.integers(1, 2000))
def test_required_memory_and_fit_are_one_rule(weights, context, gpu, utilization, sequences) -> None:
    footprint = SHAPE.model_copy(update={"weight_bytes": weights})
    limits = limits_of(gpu.name, gpu.memory_mib, sequences)
    needed = required_bytes(footprint, limits, context, utilization) / 2**20
    found = fit(footprint, Device.of(gpu), utilization, context, sequences)
    assert isinstance(found, Fit)
    if abs(needed - gpu.memory_mib) > 1:
        assert found.fits == (needed < gpu.memory_mib)


@given(st.floats(1e9, 4e10), st.floats(8e3, 6e4), st.floats(8e3, 6e4))
def test_a_larger_gpu_never_holds_less(weights: float, one: float, other: float) -> None:
    small, large = sorted((one, other))
    footprint = SHAPE.model_copy(update={"weight_bytes": weights})
    less, more = kv_tokens(footprint, device(small), 0.9), kv_tokens(footprint, device(large), 0.9)
    assert isinstance(less, int) and isinstance(more, int) and less <= more
