"""End to end: vLLM loads the plugin by its entry point, serves what is said that this CPU serves, and refuses the rest.

One process imports vLLM once and serves a tiny checkpoint of each format; bitsandbytes' and GGUF's are served in
`tests/stages/quantize/test_quantize_served.py`.
"""

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_checkpoints

from pipeline.formats.schemes import SCHEMES
from pipeline.hardware import rules
from pipeline.hardware.probe import probe
from pipeline.hardware.rules import Capability, ServingRequest
from pipeline.serve import server_log
from pipeline.serve.vllm_plugin import log_lines

REPOSITORY = Path(__file__).parents[3]
HERE = probe("cpu")
# What is served -> its scheme, and what vLLM computes in. Quantized activations meet the reference in float32 alone.
FORMATS = {
    "fp8": ("FP8", "float32"),
    "fp8_dynamic": ("FP8_DYNAMIC", "float32"),
    "w8a8": ("W8A8", "float32"),
    "w8a8_static": ("W8A8_STATIC", "float32"),
    "w4a16": ("W4A16", "bfloat16"),
    "w4a16_asym": ("W4A16_ASYM", "bfloat16"),
    "w8a16": ("W8A16", "bfloat16"),
    "awq": ("W4A16_ASYM", "bfloat16"),
    "gptq4": ("W4A16", "bfloat16"),
    "gptq8": ("W8A16", "bfloat16"),
}
# Served by GPUs, and one by AMX; their values do not matter.
OF_ONES = {
    scheme.lower(): (scheme, "bfloat16") for scheme in ("NVFP4", "NVFP4A16", "MXFP4", "MXFP8", "FP8_BLOCK", "W4AFP8")
}
FORMATS |= OF_ONES
# The same checkpoints otherwise: with another KV cache, by another kernel.
OTHERWISE = {
    "cache_e4m3": ("w4a16", {"kv_cache": "fp8_e4m3"}),
    "cache_e5m2": ("w4a16", {"kv_cache": "fp8_e5m2"}),
    "torch": ("fp8_dynamic", {"kernel": "torch"}),
}
ELSEWHERE = {"NF4", "LLM_INT8", "Q4_K_M", "Q8_0"}


@dataclass
class Served:
    """What one process served, and what each checkpoint should have computed."""

    answer: dict[str, Any]
    output: str
    references: dict[str, torch.Tensor]
    in_float64: dict[str, torch.Tensor]
    unquantized: torch.Tensor


def rms(values: torch.Tensor) -> float:
    return float(values.pow(2).mean().sqrt())


def written(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tiny checkpoint of each format below `folder`; returns the references."""
    for name, (scheme, _) in OF_ONES.items():
        tiny_checkpoints.of_ones(folder / name, scheme)
    return {
        "fp8_dynamic": tiny_checkpoints.fp8_dynamic(folder / "fp8_dynamic"),
        "w8a8": tiny_checkpoints.w8a8(folder / "w8a8"),
        "w8a8_static": tiny_checkpoints.w8a8(folder / "w8a8_static", static=True),
        "w4a16": tiny_checkpoints.wna16(folder / "w4a16"),
        "w4a16_asym": tiny_checkpoints.wna16(folder / "w4a16_asym", zero_points=True),
        "w8a16": tiny_checkpoints.wna16(folder / "w8a16", bits=8),
        "awq": tiny_checkpoints.native_awq(folder / "awq"),
        "gptq4": tiny_checkpoints.native_gptq(folder / "gptq4", 4),
        "gptq8": tiny_checkpoints.native_gptq(folder / "gptq8", 8),
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("served")
    rng = random.Random(3)
    prompts = [[rng.randrange(tiny_checkpoints.CONFIG["vocab_size"]) for _ in range(40)] for _ in range(3)]
    unquantized = tiny_checkpoints.log_probabilities(tiny_checkpoints.base_model(), prompts)
    with pytest.MonkeyPatch.context() as patch:
        models = written(folder, patch)
        references = {name: tiny_checkpoints.log_probabilities(model, prompts) for name, model in models.items()}
        in_float64 = {
            name: tiny_checkpoints.log_probabilities(models[name].double(), prompts) for name in ("w8a8", "w8a8_static")
        }
        # Last: its attention rounds keys and values from now on.
        fp8 = tiny_checkpoints.fp8_static_with_fp8_cache(folder / "fp8", patch)
        references["fp8"] = tiny_checkpoints.log_probabilities(fp8, prompts)

    entry_points = folder / "site" / "plugin_under_test-0.dist-info" / "entry_points.txt"
    entry_points.parent.mkdir(parents=True)
    entry_points.write_text("[vllm.general_plugins]\npipeline = pipeline.serve.vllm_plugin:register\n")
    jobs = [
        {"name": name, "checkpoint": str(folder / name), "dtype": dtype} for name, (_, dtype) in FORMATS.items()
    ] + [
        {"name": name, "checkpoint": str(folder / checkpoint), "dtype": FORMATS[checkpoint][1], **how}
        for name, (checkpoint, how) in OTHERWISE.items()
    ]
    (folder / "request.json").write_text(json.dumps({"jobs": jobs, "prompts": prompts}))
    path = os.pathsep.join([str(folder / "site"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).parents[2] / "support" / "serve_tiny.py",
            folder / "request.json",
            folder / "answer.json",
        ],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return Served(json.loads((folder / "answer.json").read_text()), done.stdout, references, in_float64, unquantized)


@pytest.mark.vllm
def test_the_kernels_are_registered_where_they_belong(served: Served) -> None:
    kernels = served.answer["kernels"]
    assert kernels["quantize_op"]
    assert all(kernels["products"].values()), kernels["products"]
    names = kernels["names"]
    assert all(len(set(of_kind)) == len(of_kind) for of_kind in names.values())  # registered once
    fp8_names = names["fp8"]
    assert fp8_names.index("EmulatedFp8LinearKernel") < fp8_names.index("PerTensorTorchFP8ScaledMMLinearKernel")
    # On AMX, vLLM's own kernel knows no static scale and no float32.
    assert names["int8"].index("OneDnnInt8LinearKernel") < names["int8"].index("CPUInt8ScaledMMLinearKernel")
    refused = [case for case, accepted in kernels["given_to_onednn"].items() if not accepted]
    assert refused == ["torch.bfloat16 dynamic"]
    ours, native = (names["weight_only"].index(n) for n in ("DequantizedLinearKernel", "CPUWNA16LinearKernel"))
    assert (native < ours) == kernels["weight_only_native"]


@pytest.mark.vllm
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_said_to_be_served_is_and_the_rest_is_refused(name: str, served: Served) -> None:
    said = rules.of_scheme(FORMATS[name][0], HERE)
    assert (name in served.answer["refused"]) == (said.support == "no"), served.answer["refused"].get(name)
    found = [what for what in served.answer["emulated"][name] if not what.startswith("kv_cache")]
    assert bool(found) == (said.support == "emulated"), found


@pytest.mark.vllm
@pytest.mark.parametrize("dtype", ["fp8_e4m3", "fp8_e5m2"])
def test_an_fp8_cache_is_served_as_it_is_said(dtype: str, served: Served) -> None:
    assert rules.of_kv_cache(dtype, with_features(())).support == "emulated"
    emulated = served.answer["emulated"]
    # The weights' format is emulated beside it where the CPU has no kernel for that either.
    assert set(emulated[f"cache_{dtype.removeprefix('fp8_')}"]) == {*emulated["w4a16"], f"kv_cache_{dtype}"}


def with_features(features: tuple[str, ...]) -> Any:
    """This machine with other CPU features: the cache is emulated in that process wherever it runs."""
    return HERE.model_copy(update={"cpu_features": features})


@pytest.mark.vllm
def test_the_kernel_asked_for_is_the_one_that_ran(served: Served) -> None:
    assert rules.of_scheme("FP8_DYNAMIC", HERE, asked=ServingRequest("torch")) == Capability("native", "torch")
    assert served.answer["emulated"]["torch"] == []
    assert "ChannelWiseTorchFP8ScaledMMLinearKernel" in server_log.kernels(served.output)


def test_every_scheme_is_served_or_refused_in_a_test() -> None:
    assert {scheme for scheme, _ in FORMATS.values()} | ELSEWHERE == set(SCHEMES)


@pytest.mark.vllm
def test_served_probabilities_are_the_formats(served: Served) -> None:
    # vLLM has no kernel for 8-bit weights on any CPU, so they are emulated wherever this runs.
    kernels = served.answer["kernels"]
    expected = {
        log_lines.FP8_STATIC,
        log_lines.FP8_DYNAMIC,
        log_lines.KV_CACHE_E4M3,
        log_lines.KV_CACHE_E5M2,
        log_lines.integer_weights(8),
    }
    if not kernels["weight_only_native"]:
        expected.add(log_lines.integer_weights(4))
    if not kernels["int8_native"]:
        expected |= {log_lines.INT8_DYNAMIC, log_lines.INT8_STATIC}
    assert set(server_log.emulated(served.output)) == expected

    # In float32 nothing but the order of sums differs from the reference, and the emulations meet it to
    # some 1e-6 unless a sum falls so close to a tie that an activation goes to the next grid value. The
    # finer grid of INT8 has more ties and less of an effect: there the reference itself, summed in float64, is about
    # half of the effect away, and a server may be as far. What is served in BF16 carries BF16's roundings too, as
    # large as what 8-bit weights do and 0.12 of what 4-bit weights do; a zero point that is off by one would make 3.6
    # times the effect.
    bounds = {
        "fp8": (0.05, 0.2),
        "fp8_dynamic": (0.05, 0.2),
        "w4a16": (0.05, 0.1),
        "w4a16_asym": (0.05, 0.15),
        "w8a8": (0.01, 0.5),
        "w8a8_static": (0.01, 0.5),
        "w8a16": (0.001, 2.0),
        "awq": (0.05, 0.15),
        "gptq4": (0.05, 0.1),
        "gptq8": (0.001, 2.0),
    }
    for name, (least, tolerance) in bounds.items():
        effect = rms(served.references[name] - served.unquantized)
        distance = rms(torch.tensor(served.answer[name]) - served.references[name])
        other_sums = rms(served.in_float64.get(name, served.references[name]) - served.references[name])
        print(f"{name}: effect {effect:.4f}, from the reference {distance / effect:.4f} of it")
        assert effect > least, name
        assert distance < max(tolerance * effect, 1.5 * other_sums), name
