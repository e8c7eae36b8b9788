"""The output error of each quantized Linear: its value, the planted bad layer, activations, and what was rescaled."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import Settings
from pipeline.demo import BENCHMARK, CHECKPOINT
from pipeline.errors import MissingTensor
from pipeline.results.base import Missing
from pipeline.stages.eval.divergence import Text, read_texts
from pipeline.stages.eval.layers import activation_scheme, is_known, measure, rounded_inputs, snr_db

BAD = "model.layers.2.mlp.up_proj"
NORM = "model.layers.1.input_layernorm.weight"
BEHIND = tuple(f"model.layers.1.self_attn.{name}_proj" for name in "qkv")
DYNAMIC = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
STATIC = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    from transformers import AutoTokenizer

    from pipeline.config import DivergenceSettings

    settings = DivergenceSettings(dataset={"path": BENCHMARK}, num_sequences=4, max_seq_length=128)
    return read_texts(settings, AutoTokenizer.from_pretrained(CHECKPOINT))


def made(folder: Path, change: Change, activations: dict[str, Any] | None, before: Change = lambda _: None) -> Path:
    """A checkpoint of the demo with 8-bit weights, a scale a row, as compressed-tensors lays it out."""
    shutil.copytree(CHECKPOINT, folder)
    tensors = load_file(CHECKPOINT / "model.safetensors")
    before(tensors)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors[name].float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors[name] = (weight / scale).round().to(torch.int8)
        tensors[f"{name}_scale"] = scale
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    group = {"weights": {"num_bits": 8, "type": "int"}, "input_activations": activations, "targets": ["Linear"]}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": group},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measured(settings: Settings, checkpoint: Path, texts: list[Text], tokens: int = 256) -> dict[str, dict[str, float]]:
    job: Any = SimpleNamespace(
        settings=settings,
        checkpoint=checkpoint,
        model=SimpleNamespace(folder=CHECKPOINT, settings=SimpleNamespace(trust_remote_code=False)),
        hardware=SimpleNamespace(device="cpu", has_native_bf16=False),
        progress=SimpleNamespace(detail=lambda _: None),
    )
    facts = measure(job, texts, tokens, checkpoint)
    found = json.loads((checkpoint / facts.file).read_text())
    assert facts.modules == len(found) == 28
    assert [each.model_dump() for each in facts.worst] == found[:5] and facts.median_db == found[14]["snr_db"]
    assert [entry["snr_db"] for entry in found] == sorted(entry["snr_db"] for entry in found)
    return {entry["module"]: entry for entry in found}


def test_the_error_is_that_of_the_layers_own_outputs(
    settings: Callable[..., Settings], tmp_path: Path, texts: list[Text]
) -> None:
    from transformers import AutoModelForCausalLM

    checkpoint = made(tmp_path / "c", lambda _: None, None)
    found = measured(settings("quant=w4a16"), checkpoint, texts, tokens=10**6)
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    tensors = load_file(checkpoint / "model.safetensors")
    image = tensors[f"{BAD}.weight"].float() * tensors[f"{BAD}.weight_scale"]
    signal = noise = 0.0
    places: tuple[int, ...] = ()

    def watch(_: Any, entered: tuple[torch.Tensor, ...], left: torch.Tensor) -> None:
        nonlocal signal, noise
        rows = list(places)
        signal += float(left[0, rows].square().sum())
        noise += float((entered[0] @ image.T - left)[0, rows].square().sum())

    model.get_submodule(BAD).register_forward_hook(watch)
    with torch.inference_mode():
        for text in texts:
            places = text.counted
            model(torch.tensor([text.tokens]))
    assert found[BAD]["snr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=0.01)
    assert found[BAD]["snr_db"] == found[BAD]["weights_db"]


def test_a_bad_layer_is_named(settings: Callable[..., Settings], tmp_path: Path, texts: list[Text]) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{BAD}.weight_scale"] *= 1.1

    found = measured(settings("quant=w4a16"), made(tmp_path / "c", spoil, None), texts)
    assert next(iter(found)) == BAD
    # A tenth too large in everything: -20 dB of the signal.
    assert found[BAD]["snr_db"] == pytest.approx(20, abs=0.5)
    assert all(entry["snr_db"] > 35 for name, entry in found.items() if name != BAD)


def test_static_activations_that_clip_are_told_from_bad_weights(
    settings: Callable[..., Settings], tmp_path: Path, texts: list[Text]
) -> None:
    def clip(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")]:
            tensors[f"{name}.input_scale"] = torch.tensor(1e-4 if name == BAD else 0.1)

    found = measured(settings("quant=fp8_static"), made(tmp_path / "c", clip, STATIC), texts)
    assert next(iter(found)) == BAD
    assert found[BAD]["snr_db"] < 10 and found[BAD]["weights_db"] > 35


def test_what_was_rescaled_is_seen_as_it_acts(
    settings: Callable[..., Settings], tmp_path: Path, texts: list[Text]
) -> None:
    def rescale(tensors: dict[str, torch.Tensor]) -> None:
        factors = torch.linspace(0.5, 2, len(tensors[NORM]))
        tensors[NORM] = (tensors[NORM].float() / factors).to(tensors[NORM].dtype)
        for module in BEHIND:
            name = f"{module}.weight"
            tensors[name] = (tensors[name].float() * factors).to(tensors[name].dtype)

    checkpoint = made(tmp_path / "c", lambda _: None, DYNAMIC, rescale)
    found = measured(settings("quant=int8_dynamic", "quant.algorithm=smoothquant"), checkpoint, texts)
    # Factors are known to BF16's eight bits.
    assert all(found[module]["snr_db"] > 30 for module in BEHIND)
    plain = measured(settings("quant=int8_dynamic", "quant.algorithm=rtn"), checkpoint, texts)
    assert all(plain[module]["snr_db"] < 10 for module in BEHIND)


def test_why_there_is_none(settings: Callable[..., Settings], tmp_path: Path, texts: list[Text]) -> None:
    job: Any = SimpleNamespace(settings=settings("quant=bf16"), progress=SimpleNamespace(detail=lambda _: None))
    assert measure(job, texts, 8, tmp_path) == Missing(reason="no Linear is quantized")
    assert not list(tmp_path.iterdir())


def test_decibels() -> None:
    signal = torch.full((10, 10), 2.0)
    assert snr_db(signal, signal * 1.01) == pytest.approx(40, abs=1e-3)
    assert snr_db(signal, signal) == 200
    assert snr_db(signal, signal * float("nan")) == -200


def test_inputs_are_rounded_as_they_are_served() -> None:
    x = torch.tensor([[0.1, -1.0, 0.5], [10.0, 3.0, -200.0]])
    ints = rounded_inputs(x, DYNAMIC, None)
    assert (
        torch.allclose(ints, x, atol=100 / 127)
        and torch.equal(ints[0, 1], x[0, 1])
        and torch.equal(ints[1, 2], x[1, 2])
    )
    floats = rounded_inputs(x, STATIC, torch.tensor(0.25))
    assert floats[1].tolist() == [10.0, 3.0, -112.0]  # 448 times the scale
    assert is_known(DYNAMIC) and is_known(STATIC)
    assert not is_known({**DYNAMIC, "num_bits": 4}) and not is_known({**DYNAMIC, "strategy": "group"})
    assert activation_scheme({}) is None
    assert activation_scheme({"config_groups": {"a": {"input_activations": STATIC}}}) == STATIC


def test_a_missing_tensor_is_named_and_not_taken_for_an_unknown_format(
    settings: Callable[..., Settings], tmp_path: Path, texts: list[Text]
) -> None:
    checkpoint = made(tmp_path / "c", lambda tensors: tensors.pop(f"{BAD}.weight"), DYNAMIC)
    with pytest.raises(MissingTensor, match=f"{BAD}.weight"):
        measured(settings("quant=int8_dynamic", "quant.algorithm=rtn"), checkpoint, texts, tokens=8)
