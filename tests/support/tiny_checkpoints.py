"""Tiny Qwen3 checkpoints in the layouts of llm-compressor, and what each should compute, in float32.

The reference is transformers' own model with the checkpoint's dequantized weights, its activations
rounded by torch's FP8 conversion before each linear layer, and its keys and values before attention.
All linear layers share one FP8 weight scale, so vLLM's requantization of fused layers changes
nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import preset_name_to_scheme
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3 import modeling_qwen3

from pipeline.formats.schemes import SCHEMES

GROUP = 32
TORCH_TYPES = {
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F8_E4M3": torch.float8_e4m3fn,
}
INPUT_SCALE, KEY_SCALE, VALUE_SCALE = 0.02, 0.011, 0.013
STATIC_SCALE = 0.03125  # of INT8 activations
CONFIG: dict[str, Any] = {
    "vocab_size": 192,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "initializer_range": 0.08,
    "attn_implementation": "eager",
}
_TENSOR: dict[str, Any] = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
_DYNAMIC: dict[str, Any] = {"strategy": "token", "dynamic": True}
_GROUP: dict[str, Any] = {**_TENSOR, "num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}


def base_model(**changes: int) -> Any:
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(Qwen3Config(**{**CONFIG, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # not the buffers: rotary frequencies stay float32
            parameter.copy_(parameter.to(torch.bfloat16))
    return model


def linear_layers(model: Any) -> dict[str, Any]:
    modules = dict(model.named_modules())
    return {n: m for n, m in modules.items() if isinstance(m, torch.nn.Linear) and n != "lm_head"}


def round_to(values: torch.Tensor, scale: float) -> torch.Tensor:
    inverse = torch.tensor(scale, dtype=torch.float32).reciprocal()
    return (values * inverse).clamp(-448, 448).to(torch.float8_e4m3fn).to(values.dtype) * scale


def _write(folder: Path, model: Any, replaced: dict[str, torch.Tensor], quantization: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    state = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.state_dict().items()}
    for name in linear_layers(model):
        del state[f"{name}.weight"]
    save_file({**state, **replaced}, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["Qwen3ForCausalLM"], "dtype": "bfloat16"}
    ours = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "ignore": ["lm_head"]}
    config["quantization_config"] = quantization if "quant_method" in quantization else {**ours, **quantization}
    (folder / "config.json").write_text(json.dumps(config))


def fp8_static_with_fp8_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write an FP8 W8A8 static checkpoint with calibrated FP8 cache scales; return its reference."""
    model = base_model()
    layers = linear_layers(model)
    largest = max(layer.weight.abs().max().item() for layer in layers.values())
    weight_scale = float(torch.tensor(largest / 448).to(torch.bfloat16))
    replaced: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, layer in layers.items():
            stored = (layer.weight / weight_scale).clamp(-448, 448).to(torch.float8_e4m3fn)
            replaced[f"{name}.weight"] = stored
            replaced[f"{name}.weight_scale"] = torch.tensor([weight_scale], dtype=torch.float32)
            replaced[f"{name}.input_scale"] = torch.tensor([INPUT_SCALE], dtype=torch.float32)
            layer.weight.copy_(stored.to(torch.float32) * weight_scale)
            layer.register_forward_pre_hook(lambda _, inputs: (round_to(inputs[0], INPUT_SCALE),))
    for index in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{index}.self_attn"
        replaced[f"{prefix}.k_scale"] = torch.tensor([KEY_SCALE], dtype=torch.float32)
        replaced[f"{prefix}.v_scale"] = torch.tensor([VALUE_SCALE], dtype=torch.float32)
    group = {"targets": ["Linear"], "weights": _TENSOR, "input_activations": _TENSOR}
    quantization = {"format": "float-quantized", "config_groups": {"group_0": group}, "kv_cache_scheme": _TENSOR}
    _write(folder, model, replaced, quantization)

    attend: Callable[..., Any] = modeling_qwen3.eager_attention_forward

    def with_fp8_cache(module: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        return attend(module, query, round_to(key, KEY_SCALE), round_to(value, VALUE_SCALE), *args, **kwargs)

    monkeypatch.setattr(modeling_qwen3, "eager_attention_forward", with_fp8_cache)
    return model


def wna16(folder: Path, bits: int = 4, zero_points: bool = False) -> Any:
    """Write a weight-only checkpoint of integers, with zero points or symmetric; return its reference."""
    model = base_model()
    replaced: dict[str, torch.Tensor] = {}
    half = 2 ** (bits - 1)
    with torch.no_grad():
        for name, layer in linear_layers(model).items():
            grouped = layer.weight.reshape(layer.out_features, -1, GROUP)
            low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
            width = (
                (high - low) / (2 * half - 1) if zero_points else grouped.abs().amax(-1, keepdim=True) / (half - 0.5)
            )
            scale = width.to(torch.bfloat16)
            zero = (-half - low / scale).round().clamp(-half, half - 1) if zero_points else torch.zeros_like(low)
            stored = ((grouped / scale.float()).round() + zero).clamp(-half, half - 1)
            layer.weight.copy_(((stored - zero).to(torch.bfloat16) * scale).float().reshape_as(layer.weight))
            replaced[f"{name}.weight_packed"] = pack_to_int32(stored.to(torch.int8).reshape_as(layer.weight), bits)
            replaced[f"{name}.weight_scale"] = scale[..., 0].contiguous()
            replaced[f"{name}.weight_shape"] = torch.tensor(layer.weight.shape)
            if zero_points:
                packed = pack_to_int32(zero[..., 0].to(torch.int8), bits, packed_dim=0)
                replaced[f"{name}.weight_zero_point"] = packed.contiguous()
    weights = {**_GROUP, "num_bits": bits, "symmetric": not zero_points}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    _write(folder, model, replaced, {"format": "pack-quantized", "config_groups": {"group_0": group}})
    return model


def fp8_dynamic(folder: Path) -> Any:
    """Write an FP8 W8A8 checkpoint with a scale per channel and per token; return its reference."""
    model = base_model()
    replaced: dict[str, torch.Tensor] = {}

    def round_rows(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        scale = inputs[0].abs().amax(-1, keepdim=True) / 448
        return ((inputs[0] / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale,)

    with torch.no_grad():
        for name, layer in linear_layers(model).items():
            scale = layer.weight.abs().amax(-1, keepdim=True) / 448
            stored = (layer.weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
            layer.weight.copy_(stored.float() * scale)
            layer.register_forward_pre_hook(round_rows)
            replaced[f"{name}.weight"], replaced[f"{name}.weight_scale"] = stored, scale
    weights = {**_TENSOR, "strategy": "channel"}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": {**_TENSOR, **_DYNAMIC}}
    _write(folder, model, replaced, {"format": "float-quantized", "config_groups": {"group_0": group}})
    return model


def of_ones(folder: Path, scheme: str) -> None:
    """Write a checkpoint of a preset of llm-compressor whose values do not matter, since few machines serve it."""
    # Squares of 128 weights divide each part of q, k and v.
    model = base_model(num_key_value_heads=2)
    layout, packing = SCHEMES[scheme].layouts["llmcompressor"], SCHEMES[scheme].packing(SCHEMES[scheme].group)
    replaced: dict[str, torch.Tensor] = {}
    for name, layer in linear_layers(model).items():
        for own, (kind, shape) in layout.fields(tuple(layer.weight.shape), packing).items():
            replaced[f"{name}.{own}"] = torch.ones(shape).to(TORCH_TYPES[kind])
        if f"{name}.weight_shape" in replaced:
            replaced[f"{name}.weight_shape"] = torch.tensor(layer.weight.shape)
    group = {**preset_name_to_scheme(scheme, ["Linear"]).model_dump(mode="json"), "format": layout.name}
    _write(folder, model, replaced, {"format": layout.name, "config_groups": {"group_0": group}})


def _packed(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack integers along the last dimension, the first in the lowest bits."""
    shifts = torch.arange(0, 32, bits)
    grouped = values.long().reshape(*values.shape[:-1], -1, 32 // bits)
    return (grouped << shifts).sum(-1).to(torch.int32).contiguous()


def native_awq(folder: Path) -> Any:
    """Write a 4-bit checkpoint in AWQ's own format, with zero points; return its reference."""
    model = base_model()
    replaced: dict[str, torch.Tensor] = {}
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    with torch.no_grad():
        for name, layer in linear_layers(model).items():
            grouped = layer.weight.reshape(layer.out_features, -1, GROUP)
            low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
            scale = ((high - low) / 15).to(torch.bfloat16)  # exact in float16 too: no weight here is that small
            zero = (-low / scale).round().clamp(0, 15)
            stored = ((grouped / scale.float()).round() + zero).clamp(0, 15)
            layer.weight.copy_(((stored - zero).to(torch.bfloat16) * scale).float().reshape_as(layer.weight))
            columns = stored.reshape_as(layer.weight).t(), zero[..., 0].t()
            mixed = [each.reshape(each.shape[0], -1, 8)[..., order].flatten(1) for each in columns]
            replaced[f"{name}.qweight"], replaced[f"{name}.qzeros"] = (_packed(each, 4) for each in mixed)
            replaced[f"{name}.scales"] = scale[..., 0].t().to(torch.float16).contiguous()
    quantization = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    _write(folder, model, replaced, {**quantization, "modules_to_not_convert": ["lm_head"]})
    return model


def native_gptq(folder: Path, bits: int) -> Any:
    """Write a symmetric checkpoint in GPTQ's own format; return its reference."""
    model = base_model()
    replaced: dict[str, torch.Tensor] = {}
    half = 2 ** (bits - 1)
    with torch.no_grad():
        for name, layer in linear_layers(model).items():
            grouped = layer.weight.reshape(layer.out_features, -1, GROUP)
            scale = (grouped.abs().amax(-1, keepdim=True) / (half - 0.5)).to(torch.bfloat16)
            stored = (grouped / scale.float()).round().clamp(-half, half - 1)
            layer.weight.copy_((stored.to(torch.bfloat16) * scale).float().reshape_as(layer.weight))
            replaced[f"{name}.qweight"] = _packed(stored.reshape_as(layer.weight) + half, bits).t().contiguous()
            groups = grouped.shape[1]
            replaced[f"{name}.qzeros"] = _packed(torch.full((groups, layer.out_features), half - 1), bits)
            replaced[f"{name}.scales"] = scale[..., 0].t().to(torch.float16).contiguous()
            replaced[f"{name}.g_idx"] = torch.arange(layer.in_features, dtype=torch.int32) // GROUP
    quantization = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": True, "desc_act": False}
    _write(folder, model, replaced, {**quantization, "checkpoint_format": "gptq", "lm_head": False})
    return model


def w8a8(folder: Path, static: bool = False) -> Any:
    """Write an INT8 W8A8 checkpoint; return its reference."""
    model = base_model()
    replaced: dict[str, torch.Tensor] = {}

    def round_rows(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        if static:
            return ((inputs[0] / STATIC_SCALE).round().clamp(-128, 127) * STATIC_SCALE,)
        largest = inputs[0].abs().amax(-1, keepdim=True)
        return ((inputs[0] * torch.div(127.0, largest)).round() * (largest / 127),)

    with torch.no_grad():
        for name, layer in linear_layers(model).items():
            scale = layer.weight.abs().amax(-1, keepdim=True) / 127
            stored = (layer.weight / scale).round().to(torch.int8)
            layer.weight.copy_(stored * scale)
            layer.register_forward_pre_hook(round_rows)
            replaced[f"{name}.weight"] = stored
            replaced[f"{name}.weight_scale"] = scale
            if static:
                replaced[f"{name}.input_scale"] = torch.tensor([STATIC_SCALE])
    weights = {**_TENSOR, "type": "int", "strategy": "channel"}
    activations = {**_TENSOR, "type": "int", **({} if static else _DYNAMIC)}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    _write(folder, model, replaced, {"format": "int-quantized", "config_groups": {"group_0": group}})
    return model


def log_probabilities(model: Any, prompts: list[list[int]]) -> torch.Tensor:
    """Return the log-probability of each prompt token but the first."""
    tokens = torch.tensor(prompts)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits.to(torch.float32)
    return logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0].flatten()
