"""Families of decoders through calibration, llm-compressor and the gate's checks of files, on tiny random models."""

from pathlib import Path

import pytest
from support import families
from support.settings import variants_of

from pipeline.config import Stage
from pipeline.job import Job
from pipeline.runner import Runner
from pipeline.stages.verify import gate

# Norms of one plus the weight; experts. The others are slow.
KINDS = ("gemma3", "qwen3_moe")
FORMATS = ("fp8_static", "int8_dynamic", "w4a16", "gptq", "bf16+fp8_e4m3")
SMALL = (
    "calibration.num_samples=6",
    "calibration.algorithm_samples=6",
    "calibration.max_seq_length=96",
    "quant.group_size=32",
)


def jobs_of(family: str, tmp_path: Path, *formats: str) -> list[Job]:
    """Return the jobs of finished checkpoints."""
    folder = families.write(family, tmp_path / family)
    given = ["stage=quantize", f"model.name={family}", f"model.path={folder}", f"outputs={tmp_path / 'out'}", *SMALL]
    given.append(f"variants=[{','.join(formats)}]")
    run = Runner(variants_of(*given), given)
    assert run.execute() == 0, {name: str(error) for name, error in run.failures.items()}
    return run.jobs


def check_files(job: Job) -> None:
    """Run the gate's checks that need no server."""
    folder, source, found = job.checkpoint, job.model.folder, gate.Findings()
    gate.files(folder, source)
    gate.layers(folder, source, job)
    gate.size(folder, source, job, found)
    gate.scales(folder)
    gate.untouched(folder, source, job)
    gate.weights(job, found)


# Of the others only the mapping of AWQ and SmoothQuant is tested, in tests/models.
MADE = [family for family in families.FAMILIES if family not in ("gemma4", "qwen2_moe", "glm4_moe")]
# What llm-compressor can rescale, and the gate compares by its mapping.
AWQ = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "granite", "cohere2", "smollm3", "qwen3_moe")


@pytest.mark.parametrize(
    "family", [family if family == "gemma3" else pytest.param(family, marks=pytest.mark.slow) for family in AWQ]
)
def test_awq_of_a_family_passes_the_checks(family: str, tmp_path: Path) -> None:
    (job,) = jobs_of(family, tmp_path, "awq")
    check_files(job)


# One of each kind that vLLM's CPU build serves.
@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("family", ["gemma3", "phi3", "smollm3"])
def test_a_family_passes_the_whole_gate_on_a_real_server(family: str, tmp_path: Path) -> None:
    folder = families.write(family, tmp_path / family)
    given = ["stage=verify", f"model.path={folder}", "model.weights=trained", f"outputs={tmp_path / 'out'}", *SMALL]
    given.append("variants=[bf16,fp8_static,w4a16]")
    run = Runner(variants_of(*given), given)
    assert run.execute() == 0, {name: str(error) for name, error in run.failures.items()}


@pytest.mark.parametrize(
    "family",
    [family if family in KINDS else pytest.param(family, marks=pytest.mark.slow) for family in MADE],
)
def test_a_family_is_calibrated_made_and_passes_the_checks(family: str, tmp_path: Path) -> None:
    for job in jobs_of(family, tmp_path, *FORMATS):
        check_files(job)
        recipe = job.checkpoint / "recipe.yaml"
        assert not recipe.is_file() or "Modifier" in recipe.read_text()


def test_layer_by_layer_calibrates_experts_to_the_same_ranges(tmp_path: Path) -> None:
    folder = families.write("qwen3_moe", tmp_path / "moe")
    given = ["stage=calibrate", "model.name=moe", f"model.path={folder}", "quant=fp8_static", *SMALL[:3]]
    contents = []
    for layerwise in ("never", "always"):
        own = [*given, f"calibration.layerwise={layerwise}", f"outputs={tmp_path / layerwise}"]
        run = Runner(variants_of(*own), own)
        assert run.execute() == 0, run.failures
        contents.append((run.jobs[0].artifact(Stage.CALIBRATE).folder / "ranges.safetensors").read_bytes())
    assert contents[0] == contents[1]
