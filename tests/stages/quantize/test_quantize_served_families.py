"""Families of decoders served by a real vLLM: each passes the whole gate and answers a few items of an evaluation."""

import json
from pathlib import Path

import pytest
from support import custom_code, families
from support.settings import variants_of

from pipeline.models.architecture import has_experts, has_towers, read_config
from pipeline.runner import Runner

SMALL = (
    *("calibration.num_samples=6", "calibration.algorithm_samples=6", "calibration.max_seq_length=96"),
    *("quant.group_size=32", "eval.limit=4", "eval.divergence.num_sequences=4"),
)
FORMATS = ("bf16", "fp8_static", "w4a16")
# vLLM's CPU build has no kernel for quantized experts.
OF_EXPERTS = ("bf16", "bf16+fp8_e4m3")
# Architectures that vLLM's CPU build does not serve, each with the reason that it states.
NOT_HERE: dict[str, str] = {}
ITEM = (
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "granite", "cohere2", "glm4", "olmo2"),
    *("smollm3", "starcoder2", "gpt_neox", "qwen3_moe", "mixtral", "qwen3_next", "qwen3_5"),
)


def measured(folder: Path, tmp_path: Path, *given: str) -> Runner:
    """Run gate and evaluation of a checkpoint in its formats."""
    config = read_config(folder)
    formats = OF_EXPERTS if has_experts(config) else FORMATS
    # A text server needs no processor of images.
    towers = ["serve.extra_args=[--language-model-only]"] if has_towers(config) else []
    asked = ["stage=[verify,eval]", f"model.path={folder}", f"outputs={tmp_path / 'out'}", *SMALL, *towers, *given]
    run = Runner(variants_of(*asked, f"variants=[{','.join(formats)}]"), asked)
    assert run.execute() == 0, {name: str(error) for name, error in run.failures.items()}
    assert run.not_applicable == {}
    return run


def check_scores(run: Runner, tmp_path: Path) -> None:
    """Require the figures of every variant."""
    for job in run.jobs:
        (path,) = tmp_path.glob(f"out/*/{job.variant}/eval-*/manifest.json")
        record = json.loads(path.read_text())
        assert record["status"] == "ok"
        assert {label: task["n"] for label, task in record["results"]["tasks"].items()} == dict.fromkeys(
            ("C-Eval", "MMLU", "GSM8K", "HumanEval"), 4
        )
        assert record["results"]["divergence"]["tokens"] > 0


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("family", [*ITEM, *families.TOWERS])
def test_a_family_passes_the_whole_gate_and_is_scored(family: str, tmp_path: Path) -> None:
    folder = families.write(family, tmp_path / family)
    check_scores(measured(folder, tmp_path), tmp_path)


@pytest.mark.slow
@pytest.mark.vllm
def test_custom_code_passes_the_whole_gate_and_is_scored(tmp_path: Path) -> None:
    folder = custom_code.write(tmp_path / "mine")
    check_scores(measured(folder, tmp_path, "model.trust_remote_code=true"), tmp_path)
