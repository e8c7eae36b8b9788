"""vLLM serves what bitsandbytes and GGUF checkpoints stand for: their log-probabilities against torch's."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.engine_on_demo import made

from pipeline.config import PROJECT_ROOT
from pipeline.demo import CHECKPOINT
from pipeline.formats import unpack_bitsandbytes, unpack_gguf
from pipeline.hardware.probe import probe
from pipeline.models import headers as disk
from pipeline.serve import server_log, support
from pipeline.serve.vllm_plugin import log_lines

SERVE = PROJECT_ROOT / "tests" / "support" / "serve_tiny.py"
THRESHOLD = 6.0  # of LLM.int8: inputs with larger values are multiplied in 16 bits
SQUARE = 6.200124e-05  # what bitsandbytes writes for 1 / 127^2; another last digit tips other values over


def demo_model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


def with_weights(weights: dict[str, torch.Tensor]) -> Any:
    model = demo_model()
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    return model


def by_gguf(folder: Path) -> Any:
    return with_weights(dict(unpack_gguf.weights(folder / "model.gguf")))


def by_nf4(folder: Path) -> Any:
    tensors = load_file(folder / "model.safetensors")
    names = disk.quantized_modules(folder)
    return with_weights(
        {f"{name}.weight": unpack_bitsandbytes.dequantize(name, tensors).bfloat16().float() for name in names}
    )


def by_int8(folder: Path) -> Any:
    """LLM.int8 (Dettmers et al., 2022), section 3: rows of activations to INT8, but for inputs with outliers."""
    tensors = load_file(folder / "model.safetensors")
    model = demo_model()
    for name in disk.quantized_modules(folder):
        module = model.get_submodule(name)
        module.forward = int8_linear(tensors[f"{name}.weight"].float(), tensors[f"{name}.SCB"])
    return model


def int8_linear(integers: torch.Tensor, scale: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = unpack_bitsandbytes.dequantize_int8(integers, scale).bfloat16().float()

    def forward(x: torch.Tensor) -> torch.Tensor:
        inputs = x[0].bfloat16().float()
        rows = inputs.half().float()
        large = (rows.abs() >= THRESHOLD).any(dim=0)
        regular = rows.masked_fill(rows.abs() >= THRESHOLD, 0)
        largest = regular.abs().amax(dim=1, keepdim=True)
        grid = (regular * (127 / largest)).round().masked_fill(large, 0)
        result = (grid @ integers.t() * (largest * scale) * SQUARE).bfloat16().float()
        return (result + inputs[:, large] @ weight[:, large].t()).bfloat16().float()[None]

    return forward


def log_probabilities(model: Any, prompt: list[int]) -> torch.Tensor:
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits.float()
    return logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None]).flatten()


def rms(values: torch.Tensor) -> float:
    return math.sqrt(float(values.square().mean()))


# Quant -> engine, reference, what vLLM computes in, how far it may be from the reference, of the format's own effect.
# vLLM loads NF4 into 16-bit models only, which round after each layer. INT8 rounds activations to a grid, where
# another order of sums tips values over; random tokens enlarge that, and the effect itself is small.
CASES: dict[str, tuple[str, Callable[[Path], Any], str, float]] = {
    "gguf_q4_k_m": ("gguf", by_gguf, "float32", 1e-3),
    "gguf_q8_0": ("gguf", by_gguf, "float32", 1e-3),
    "bnb_nf4": ("bitsandbytes", by_nf4, "bfloat16", 0.15),
    "bnb_int8": ("bitsandbytes", by_int8, "float32", 0.7),
}


@pytest.mark.vllm
@pytest.mark.slow
def test_served_probabilities_are_those_of_the_dequantized_weights(settings, tmp_path: Path) -> None:
    import importlib

    for package in ("vllm", "bitsandbytes", "gguf", "auto_round", "vllm_bnb_plugin"):
        pytest.importorskip(package)
    tokens = random.Random(3)
    prompt = [tokens.randrange(3, 3072) for _ in range(60)]
    jobs, references = [{"name": "bf16", "checkpoint": str(CHECKPOINT), "dtype": "bfloat16"}], {}
    for quant, (engine, reference, dtype, _) in CASES.items():
        (tmp_path / quant).mkdir()
        module = importlib.import_module(f"pipeline.stages.quantize.engines.{engine}")
        folder = made(module, settings(f"quant={quant}"), tmp_path / quant)
        references[quant] = log_probabilities(reference(folder), prompt)
        path = disk.gguf_file(folder) or folder
        jobs += [{"name": f"{quant} {kind}", "checkpoint": str(path), "dtype": kind} for kind in {dtype, "bfloat16"}]
    (tmp_path / "request.json").write_text(json.dumps({"jobs": jobs, "prompts": [prompt]}))
    done = subprocess.run(
        [sys.executable, SERVE, tmp_path / "request.json", tmp_path / "answer.json"],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert log_lines.GGUF in server_log.emulated(done.stdout)
    assert "inputs will be cast" not in done.stdout
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert not answer["refused"]
    here = probe("cpu")
    for name, emulated in answer["emulated"].items():
        asked = settings(f"quant={name.split()[0]}")
        found = [what for what in emulated if not what.startswith("kv_cache")]
        assert bool(found) == (support.of_settings(asked, here).support == "emulated"), name
    unquantized = log_probabilities(demo_model(), prompt)
    for quant, (_, _, dtype, tolerance) in CASES.items():
        effect = rms(references[quant] - unquantized)
        exact = rms(torch.tensor(answer[f"{quant} {dtype}"]) - references[quant])
        served = torch.tensor(answer[f"{quant} bfloat16"])
        correlation = float(torch.corrcoef(torch.stack([served, torch.tensor(answer["bf16"])]))[0, 1])
        print(f"{quant}: effect {effect:.2e}, from the reference {exact:.2e}, correlation {correlation:.5f}")
        assert exact < tolerance * effect, quant
        assert correlation > 0.95, quant
