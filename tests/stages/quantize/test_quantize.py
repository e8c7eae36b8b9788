"""Schemes become llm-compressor's recipes; what was never observed gets no invented scale."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.demo import CHECKPOINT
from pipeline.errors import StageError
from pipeline.hardware.probe import Hardware
from pipeline.models.headers import describe, headers, quantized_modules
from pipeline.stages.calibrate import artifact
from pipeline.stages.calibrate.histograms import Sketch
from pipeline.stages.calibrate.observers import ObservedSite
from pipeline.stages.quantize.engines.llmcompressor import batch_tokens, padded, recipe, set_input_scales
from pipeline.stages.quantize.support import why_not_made


@pytest.mark.parametrize(
    ("override", "kinds"),
    [
        ("quant=fp8_static", ["QuantizationModifier"]),
        ("quant=w4a16", ["QuantizationModifier"]),
        ("quant=gptq", ["GPTQModifier"]),
        ("quant=awq", ["AWQModifier", "QuantizationModifier"]),
        ("quant=int8_dynamic", ["GPTQModifier"]),
        ("quant.algorithm=smoothquant quant=int8_dynamic", ["SmoothQuantModifier", "QuantizationModifier"]),
        ("quant.algorithm=smoothquant_gptq quant=int8_dynamic", ["SmoothQuantModifier", "GPTQModifier"]),
    ],
)
def test_a_scheme_becomes_a_recipe(override: str, kinds: list[str], settings) -> None:
    modifiers = recipe(settings(*override.split()).quant)
    assert [type(modifier).__name__ for modifier in modifiers] == kinds
    assert list(modifiers[-1].ignore) == ["lm_head"]


def test_settings_of_smoothing_and_of_gptq_reach_their_modifiers(settings) -> None:
    given = ("quant.algorithm=smoothquant_gptq", "quant.smoothing_strength=0.8", "quant.dampening=0.02")
    first, second = recipe(settings("quant=int8_dynamic", *given).quant)
    assert first.smoothing_strength == 0.8
    assert second.dampening_frac == 0.02


@pytest.mark.parametrize("algorithm", ["smoothquant", "smoothquant_gptq"])
def test_smoothing_is_refused_where_it_changes_the_model(algorithm: str, settings) -> None:
    chosen = settings("quant=int8_dynamic", f"quant.algorithm={algorithm}")
    reason = why_not_made(chosen, {"model_type": "gemma3_text"})
    assert reason.startswith(f"quant.algorithm={algorithm} on a model of type gemma3_text")
    assert not why_not_made(chosen, {"model_type": "llama"})


@pytest.mark.parametrize("quant", ["fp8_dynamic", "gptq", "gptq_int4"])
def test_a_model_of_other_modules_than_linears_is_not_applicable(quant: str, settings) -> None:
    assert "its matrices are Conv1D modules" in why_not_made(settings(f"quant={quant}"), {"model_type": "gpt2"})
    assert why_not_made(settings("quant=bf16"), {"model_type": "gpt2"}) == ""


def test_batches_hold_every_token_once_beside_their_padding() -> None:
    sequences = [torch.arange(100 * n, 100 * n + length)[None] for n, length in enumerate((5, 60, 7, 30, 6))]
    batches = padded(sequences, 64)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(3, 7), (1, 30), (1, 60)]
    for batch in batches:
        assert batch["attention_mask"].all()
        assert batch["input_ids"].numel() <= 64
    kept = [row[mask.bool()] for b in batches for row, mask in zip(b["input_ids"], b["loss_mask"], strict=True)]
    assert sorted(map(list, (row.tolist() for row in kept))) == sorted(ids[0].tolist() for ids in sequences)


def test_a_batch_holds_no_more_scores_of_attention_than_a_gpu_has_room_for() -> None:
    sequences = [torch.ones(1, length, dtype=torch.long) for length in (2048, 2048, 2048, 2048, 2048, 8192, 8192)]
    shapes = [tuple(batch["input_ids"].shape) for batch in padded(sequences, 16384)]
    assert shapes == [(4, 2048), (1, 2048), (1, 8192), (1, 8192)]


@pytest.mark.parametrize(
    ("device", "memory_gib", "vocabulary", "tokens"),
    [
        ("cpu", 512, 50_000, 4096),
        ("cuda", 140, 49_152, 16_384),
        # The logits of a token of Qwen3 take 912 kB: 8.75 GiB hold those of 10,306, and 1.5 GiB those of 1,766.
        ("cuda", 140, 151_936, 10_306),
        ("cuda", 24, 151_936, 4096),
    ],
)
def test_the_batches_of_awq_have_room_for_their_logits(
    device: Any, memory_gib: float, vocabulary: int, tokens: int
) -> None:
    hardware = Hardware(device=device, name="x", memory_gib=memory_gib, cores=8)
    assert batch_tokens(hardware, vocabulary) == tokens


@pytest.mark.slow
def test_awq_chooses_the_same_factors_in_batches(settings, tmp_path: Path, monkeypatch) -> None:
    from pipeline.runner import Runner
    from pipeline.stages.quantize.engines import llmcompressor

    def norms(folder: Path) -> dict[str, torch.Tensor]:
        given = ("stage=quantize", "quant=awq", f"outputs={folder}", "calibration.num_samples=12")
        run = Runner([settings(*given)], list(given))
        assert run.execute() == 0
        made = load_file(run.jobs[0].checkpoint / "model.safetensors")
        return {name: tensor.float() for name, tensor in made.items() if name.endswith("layernorm.weight")}

    together = norms(tmp_path / "together")
    # Each conversation is a batch of its own.
    monkeypatch.setattr(llmcompressor, "BATCH_TOKENS", 1)
    alone = norms(tmp_path / "alone")
    assert len(alone) == 8
    for name, tensor in alone.items():
        assert torch.allclose(together[name], tensor, rtol=2**-6), name


def test_the_group_size_reaches_the_scheme(settings) -> None:
    (modifier,) = recipe(settings("quant=w4a16", "quant.group_size=64").quant)
    assert modifier.config_groups["group_0"].weights.group_size == 64


class Observed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.linear.register_parameter("input_scale", torch.nn.Parameter(torch.zeros(1), requires_grad=False))


def calibration(folder: Path, settings, name: str, *values: float) -> None:
    """A calibration that has seen one tensor at the input of one module."""
    sketch = Sketch()
    sketch.update(torch.tensor([values]))
    sketch.commit()
    artifact.write(folder, [[1, 2]], [ObservedSite(name, sketch, [name])], settings().calibration)


@pytest.mark.parametrize(("number", "largest"), [("fp8_e4m3", 448), ("int8", 127)])
def test_the_scale_is_the_largest_magnitude_over_the_formats_largest_number(
    tmp_path: Path, settings, number: str, largest: float
) -> None:
    calibration(tmp_path, settings, "linear", -8.96, 4.48)
    model = Observed()
    set_input_scales(model, tmp_path, settings().calibration, number)
    assert float(model.linear.input_scale) == pytest.approx(8.96 / largest)


@pytest.mark.parametrize(("name", "value"), [("other", 1.0), ("linear", 0.0)])
def test_a_layer_that_saw_nothing_is_named(tmp_path: Path, settings, name: str, value: float) -> None:
    calibration(tmp_path, settings, name, value)
    with pytest.raises(StageError, match="linear saw no activation"):
        set_input_scales(Observed(), tmp_path, settings().calibration, "fp8_e4m3")


def test_static_int8_has_one_scale_for_all_tokens(settings) -> None:
    (modifier,) = recipe(settings("quant=int8_static", "quant.algorithm=rtn").quant)
    activations = modifier.config_groups["group_0"].input_activations
    assert (activations.num_bits, activations.strategy, activations.dynamic) == (8, "tensor", False)


def test_a_bf16_checkpoint_is_described_from_its_headers() -> None:
    described = describe(CHECKPOINT)
    assert described["format"] == "bf16"
    assert quantized_modules(CHECKPOINT) == set()
    assert {item["dtype"] for item in headers(CHECKPOINT).values()} == {"BF16"}


def test_no_model_outlives_its_quantizing(tmp_path: Path, settings) -> None:
    """What llm-compressor's global session keeps would stay in the memory of the GPU that serves next."""
    import gc

    from pipeline.runner import Runner

    def models() -> list[object]:
        return [found for found in gc.get_objects() if type(found).__name__ == "Qwen3ForCausalLM"]

    # Other tests of this process may hold theirs.
    before = models()
    given = ("stage=quantize", "quant=fp8_dynamic", f"outputs={tmp_path}")
    # The next variant's model is loaded whether the collector has run by itself or not.
    gc.disable()
    try:
        assert Runner([settings(*given)], list(given)).execute() == 0
        assert not [model for model in models() if not any(model is other for other in before)]
    finally:
        gc.enable()
