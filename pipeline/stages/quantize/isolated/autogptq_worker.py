"""Worker for auto-gptq: a BF16 checkpoint and tokens -> integers, zero points and scales in its own format.

It runs with auto-gptq 0.7.1, which lacks Qwen3, and transformers 4.51.3, which cannot read configs of transformers 5.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

# Keys of `rope_scaling` that transformers 4 reads; it would ignore others.
ROPE_SCALING = {
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
    "mscale",
    "mscale_all_dim",
}


class Refused(Exception):
    """Request that this engine does not support, with a reason for the user."""


class Request(TypedDict):
    """Fields written by `pipeline/stages/quantize/engines/autogptq.py`; paths are absolute."""

    model: str
    tokens: str
    samples: int
    checkpoint: str
    device: str
    bits: int
    group_size: int
    dampening: float


class Answer(TypedDict, total=False):
    """Quantized layers and versions of packages, or the reason why this engine refused."""

    layers: int
    versions: dict[str, str]
    refused: str


def work(request: Request, progress: Callable[[str], None]) -> Answer:
    """Quantize a checkpoint.

    Returns:
        `layers` and `versions`, or `refused` with the reason.
    """
    try:
        return _work(request, progress)
    except Refused as reason:
        return {"refused": str(reason)}


def _work(request: Request, progress: Callable[[str], None]) -> Answer:
    from importlib.metadata import version

    import torch
    import transformers
    from auto_gptq import BaseQuantizeConfig

    folder = Path(request["model"])
    content = json.loads((folder / "config.json").read_text())
    wrapper = wrapper_of(content.get("model_type", ""))
    config = transformers.AutoConfig.for_model(**config_for_transformers_4(content))
    progress("loading the model")
    # float16: with bfloat16, the 8-bit integers are computed from scales of 8 bits and are wrong.
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, torch_dtype=torch.float16)
    settings = BaseQuantizeConfig(
        bits=request["bits"],
        group_size=request["group_size"],
        damp_percent=request["dampening"],
        desc_act=False,
        sym=True,
    )
    sequences = read_tokens(Path(request["tokens"]))[: request["samples"]]
    _use_device(request["device"])
    _report_layers(progress)
    quantized = wrapper(model.eval(), False, settings)
    quantized.quantize([{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in sequences])
    progress("writing the checkpoint")
    layers = write(quantized.model, folder, Path(request["checkpoint"]))
    names = ("auto-gptq", "transformers", "torch", "numpy")
    return {"layers": layers, "versions": {name: version(name) for name in names}}


def wrapper_of(model_type: str) -> Any:
    """Return auto-gptq's class for a model: its Linear modules and the order of their quantization."""
    from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
    from auto_gptq.modeling.qwen2 import Qwen2GPTQForCausalLM

    class Qwen3GPTQForCausalLM(Qwen2GPTQForCausalLM):  # type: ignore[misc]
        """Qwen3: the same Linear modules and names; the norms of queries and keys are unchanged."""

        layer_type = "Qwen3DecoderLayer"

    known = {**GPTQ_CAUSAL_LM_MODEL_MAP, "qwen3": Qwen3GPTQForCausalLM}
    if model_type not in known:
        raise Refused(f"auto-gptq does not know models of type {model_type}, but {', '.join(sorted(known))}")
    return known[model_type]


def config_for_transformers_4(content: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json as transformers 4 reads it: `rope_theta`, `rope_scaling` and `torch_dtype` at the top.

    Raises:
        Refused: if transformers 4 would misread the position encoding.
    """
    found = {key: value for key, value in content.items() if key not in ("rope_parameters", "dtype")}
    found.setdefault("torch_dtype", content.get("dtype"))
    rope = dict(content.get("rope_parameters") or {})
    if not rope:
        return found
    kind, theta = rope.pop("rope_type", "default"), rope.pop("rope_theta", None)
    if unknown := sorted(set(rope) - ROPE_SCALING):
        raise Refused(f"transformers 4 cannot be told the model's rope_parameters ({', '.join(unknown)})")
    if theta is not None:
        found["rope_theta"] = theta
    found["rope_scaling"] = None if kind == "default" else {"rope_type": kind, **rope}
    return found


def read_tokens(path: Path) -> list[Any]:
    """Return the sequences of a calibration, each of shape (1, length)."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    return [part.long()[None] for part in tensors["input_ids"].split(tensors["lengths"].tolist())]


def write(model: Any, source: Path, target: Path) -> int:
    """Write the quantized layers, and the rest as in the BF16 checkpoint; return the number of quantized layers."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors = {}
    quantized = {name for name, module in model.named_modules() if hasattr(module, "qweight")}
    for name in quantized:
        module = model.get_submodule(name)
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"{name}.{part}"] = getattr(module, part).cpu().contiguous()
    replaced = {f"{name}.weight" for name in quantized}
    found: set[str] = set()
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= set(file.keys())
            tensors |= {name: file.get_tensor(name) for name in file.keys() if name not in replaced}  # noqa: SIM118
    if missing := sorted(replaced - found):
        raise Refused(f"the checkpoint calls {missing[0]} otherwise than transformers 4")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return len(quantized)


def _use_device(device: str) -> None:
    """Enable auto-gptq to compute on a CPU, which it supports for loading only."""
    import torch
    from auto_gptq.modeling import _base

    _base.CUDA_0 = torch.device(device)
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_: None


def _report_layers(progress: Callable[[str], None]) -> None:
    """Forward auto-gptq's log lines about layers."""

    class Layers(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text.startswith("Start quantizing "):
                progress(text.removeprefix("Start quantizing "))
            elif text.startswith("Packing"):
                progress("packing the weights")

    logging.getLogger("auto_gptq").addHandler(Layers(logging.INFO))
    for module in ("_base", "_utils"):
        logging.getLogger(f"auto_gptq.modeling.{module}").setLevel(logging.INFO)
