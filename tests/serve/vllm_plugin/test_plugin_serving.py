"""End to end: vLLM loads the plugin by its entry point and serves what a CPU has no kernel for."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_checkpoints  # beside this file
import torch

from pipeline.serve import vllm_plugin

REPOSITORY = Path(__file__).parents[3]


def rms(values: torch.Tensor) -> float:
    return float(values.pow(2).mean().sqrt())


@pytest.mark.vllm
def test_served_probabilities_are_the_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    rng = random.Random(3)
    prompts = [[rng.randrange(tiny_checkpoints.CONFIG["vocab_size"]) for _ in range(40)] for _ in range(3)]
    unquantized = tiny_checkpoints.log_probabilities(tiny_checkpoints.base_model(), prompts)
    references = {
        "w4a16": tiny_checkpoints.log_probabilities(tiny_checkpoints.w4a16(tmp_path / "w4a16"), prompts),
        "w8a8": tiny_checkpoints.log_probabilities(tiny_checkpoints.w8a8(tmp_path / "w8a8"), prompts),
    }
    native = {
        "awq": tiny_checkpoints.native_awq(tmp_path / "awq"),
        "gptq4": tiny_checkpoints.native_gptq(tmp_path / "gptq4", 4),
        "gptq8": tiny_checkpoints.native_gptq(tmp_path / "gptq8", 8),
    }
    references |= {name: tiny_checkpoints.log_probabilities(model, prompts) for name, model in native.items()}
    fp8 = tiny_checkpoints.fp8_static_with_fp8_cache(tmp_path / "fp8", monkeypatch)
    references["fp8"] = tiny_checkpoints.log_probabilities(fp8, prompts)

    entry_points = tmp_path / "site" / "plugin_under_test-0.dist-info" / "entry_points.txt"
    entry_points.parent.mkdir(parents=True)
    entry_points.write_text("[vllm.general_plugins]\npipeline = pipeline.serve.vllm_plugin:register\n")
    jobs = [
        {"name": "fp8", "checkpoint": str(tmp_path / "fp8"), "dtype": "float32"},
        {"name": "w8a8", "checkpoint": str(tmp_path / "w8a8"), "dtype": "float32"},
        {"name": "w4a16", "checkpoint": str(tmp_path / "w4a16"), "dtype": "bfloat16"},
        *({"name": name, "checkpoint": str(tmp_path / name), "dtype": "bfloat16"} for name in native),
    ]
    (tmp_path / "request.json").write_text(json.dumps({"jobs": jobs, "prompts": prompts}))
    path = os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    program = Path(__file__).with_name("serve_tiny.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path / "request.json", tmp_path / "answer.json"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    answer = json.loads((tmp_path / "answer.json").read_text())

    kernels = answer["kernels"]
    assert kernels["quantize_op"]
    assert all(kernels["products"].values()), kernels["products"]
    names = kernels["names"]
    assert all(len(set(of_kind)) == len(of_kind) for of_kind in names.values())  # registered once
    fp8_names = names["fp8"]
    assert fp8_names.index("EmulatedFp8LinearKernel") < fp8_names.index("PerTensorTorchFP8ScaledMMLinearKernel")
    ours, native = (names["weight_only"].index(n) for n in ("DequantizedLinearKernel", "CPUWNA16LinearKernel"))
    assert (native < ours) == kernels["weight_only_native"]

    # vLLM has no kernel for 8-bit weights on any CPU, so they are emulated wherever this runs.
    expected = {vllm_plugin.FP8_STATIC, vllm_plugin.KV_CACHE_E4M3, vllm_plugin.integer_weights(8)}
    if not kernels["weight_only_native"]:
        expected.add(vllm_plugin.integer_weights(4))
    if not kernels["int8_native"]:
        expected.add(vllm_plugin.INT8_DYNAMIC)
    assert set(vllm_plugin.emulated_in(done.stdout)) == expected

    # In float32 nothing but the order of sums differs from the reference, and the emulations meet it to
    # some 1e-6 unless a sum falls so close to a tie that an activation goes to the next grid value. The
    # finer grid of INT8 has more ties and less of an effect. What is served in BF16 carries BF16's roundings too, as
    # large as what 8-bit weights do; a zero point that is off by one would make 3.6 times of that.
    bounds = {"fp8": (0.05, 0.2), "w4a16": (0.05, 0.1), "w8a8": (0.01, 0.5), "awq": (0.05, 0.1), "gptq4": (0.05, 0.1)}
    for name, (least, tolerance) in {**bounds, "gptq8": (0.001, 2.0)}.items():
        effect = rms(references[name] - unquantized)
        assert effect > least, name
        assert rms(torch.tensor(answer[name]) - references[name]) < tolerance * effect, name
