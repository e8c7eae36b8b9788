"""Families of decoders through calibration, llm-compressor and the gate, on tiny random models."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import families
from support.settings import variants_of

from pipeline.config import Stage
from pipeline.job import Job
from pipeline.models.modules import is_beside
from pipeline.runner import Runner
from pipeline.stages.quantize.support import why_not_made
from pipeline.stages.verify import activation_scales, gate
from pipeline.stages.verify.outcomes import NotCompared

# Norms of one plus the weight; experts. The others are slow.
KINDS = ("gemma3", "qwen3_moe")
FORMATS = ("fp8_static", "int8_dynamic", "w4a16", "gptq", "bf16+fp8_e4m3")
SMALL = (
    "calibration.num_samples=6",
    "calibration.algorithm_samples=6",
    "calibration.max_seq_length=96",
    "quant.group_size=32",
)


def jobs_of(name: str, folder: Path, tmp_path: Path, *formats: str) -> list[Job]:
    """Return the jobs of finished checkpoints."""
    given = ["stage=quantize", f"model.name={name}", f"model.path={folder}", f"outputs={tmp_path / 'out'}", *SMALL]
    given.append(f"variants=[{','.join(formats)}]")
    run = Runner(variants_of(*given), given)
    assert run.execute() == 0, {name: str(error) for name, error in run.failures.items()}
    assert run.not_applicable == {}
    return run.jobs


def check_files(job: Job) -> None:
    """Run the gate's checks that need no server."""
    folder, source, found = job.checkpoint, job.model.folder, gate.Findings()
    gate.files(folder, source)
    gate.layers(folder, source, job)
    gate.size(folder, source, job, found)
    gate.scales(folder)
    try:
        activation_scales.check(job)
    except NotCompared as reason:
        assert "no calibrated scale" in str(reason)
    gate.untouched(folder, source, job)
    gate.weights(job, found)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, whatever file they are in."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


# A cache of latents has no scales of keys and values.
MADE = [family for family in families.FAMILIES if family != "deepseek_v2"]
# What llm-compressor can rescale, and the gate compares by its mapping.
AWQ = (
    *("llama", "mistral", "ministral3", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "granite", "cohere2", "smollm3"),
    *("olmo", "exaone4", "qwen3_moe", "qwen3_5"),
)


@pytest.mark.parametrize(
    "family", [family if family == "gemma3" else pytest.param(family, marks=pytest.mark.slow) for family in AWQ]
)
def test_awq_of_a_family_passes_the_checks(family: str, tmp_path: Path) -> None:
    (job,) = jobs_of(family, families.write(family, tmp_path / family), tmp_path, "awq")
    check_files(job)


@pytest.mark.parametrize(
    "family",
    [family if family in KINDS else pytest.param(family, marks=pytest.mark.slow) for family in MADE],
)
def test_a_family_is_calibrated_made_and_passes_the_checks(family: str, tmp_path: Path) -> None:
    for job in jobs_of(family, families.write(family, tmp_path / family), tmp_path, *FORMATS):
        check_files(job)
        recipe = job.checkpoint / "recipe.yaml"
        assert not recipe.is_file() or "Modifier" in recipe.read_text()


def renamed(folder: Path) -> Path:
    """Name a multimodal checkpoint's tensors as transformers 4.52 did, which are the names of today's modules."""
    from pipeline.models.architecture import read_config
    from pipeline.models.loading import model_class

    model = model_class(read_config(folder)).from_pretrained(folder)
    own = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    if not model.config.tie_word_embeddings:
        own["lm_head.weight"] = model.state_dict()["lm_head.weight"].contiguous()
    assert own.keys() != tensors_of(folder).keys()
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# Its tower has Linears of the decoder's names. The others are slow.
@pytest.mark.parametrize("names", ["as published", pytest.param("of transformers 4.52", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "family",
    [family if family == "qwen2_5_vl" else pytest.param(family, marks=pytest.mark.slow) for family in families.TOWERS],
)
def test_a_tower_stays_as_it_is_in_every_format(family: str, names: str, tmp_path: Path) -> None:
    folder = families.write(family, tmp_path / family)
    if names != "as published":
        if family == "qwen3_vl":
            pytest.skip("its names are those of its modules")
        renamed(folder)
    formats = ("fp8_static", "fp8_dynamic", "int8_dynamic", "w4a16", "gptq", "awq", "bf16+fp8_e4m3")
    before = {name: tensor for name, tensor in tensors_of(folder).items() if is_beside(name)}
    assert len(before) > 20
    for job in jobs_of(family, folder, tmp_path, *formats):
        check_files(job)
        after = tensors_of(job.checkpoint)
        assert [name for name, tensor in before.items() if not torch.equal(after[name], tensor)] == []
        for file in families.PROCESSOR_FILES:
            assert (job.checkpoint / file).read_text() == (folder / file).read_text()


def test_a_tower_has_its_published_config(tmp_path: Path) -> None:
    """Qwen2.5-VL's is flat, and Qwen3-VL's tower has the type of the whole, which transformers would rewrite."""
    folder = families.write("qwen2_5_vl", tmp_path / "flat")
    config = json.loads((folder / "config.json").read_text())
    decoder = config.pop("text_config")
    tower = {**config["vision_config"], "dtype": "bfloat16", "model_type": "qwen2_5_vl"}
    flat = {**decoder, **config, "vision_config": tower}
    (folder / "config.json").write_text(json.dumps(flat))
    (job,) = jobs_of("flat", folder, tmp_path, "fp8_dynamic")
    check_files(job)
    made = json.loads((job.checkpoint / "config.json").read_text())
    assert made.pop("quantization_config")["quant_method"] == "compressed-tensors"
    assert made == flat


def test_layers_that_draft_tokens_are_carried(tmp_path: Path) -> None:
    folder = families.write("qwen3", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    drafts = {
        "mtp.fc.weight": torch.randn(128, 256).bfloat16(),
        "mtp.layers.0.mlp.up_proj.weight": torch.randn(256, 128).bfloat16(),
        "model.layers.3.mlp.up_proj.weight": torch.randn(256, 128).bfloat16(),
    }
    save_file({**tensors, **drafts}, folder / "model.safetensors", metadata={"format": "pt"})
    for job in jobs_of("drafts", folder, tmp_path, "fp8_static", "bf16+fp8_e4m3", "fp8_dynamic+fp8_e4m3"):
        check_files(job)
        made = tensors_of(job.checkpoint)
        assert all(torch.equal(made[name], tensor) for name, tensor in drafts.items())
    ignored = json.loads((job.checkpoint / "config.json").read_text())["quantization_config"]["ignore"]
    assert {"mtp.layers.0.mlp.up_proj", "model.layers.3.mlp.up_proj"} <= set(ignored)


@pytest.mark.parametrize(
    "family",
    ["qwen3_moe", "qwen2_5_vl", *(pytest.param(each, marks=pytest.mark.slow) for each in ("mixtral", "gemma3_vision"))],
)
def test_layer_by_layer_calibrates_to_the_same_ranges(family: str, tmp_path: Path) -> None:
    folder = families.write(family, tmp_path / "model")
    given = ["stage=calibrate", "model.name=layers", f"model.path={folder}", "quant=fp8_static", *SMALL[:3]]
    contents = []
    for layerwise in ("never", "always"):
        own = [*given, f"calibration.layerwise={layerwise}", f"outputs={tmp_path / layerwise}"]
        run = Runner(variants_of(*own), own)
        assert run.execute() == 0, run.failures
        contents.append((run.jobs[0].artifact(Stage.CALIBRATE).folder / "ranges.safetensors").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("engine", ["gptq_int4", "awq_autoawq", "bnb_nf4", "gguf_q8_0"])
def test_other_engines_make_nothing_of_a_model_with_towers(engine: str, settings) -> None:
    reason = why_not_made(settings(f"quant={engine}"), {"model_type": "gemma3", "vision_config": {"hidden_size": 8}})
    assert reason.startswith("quant.engine=") and "towers" in reason and reason.endswith("quant.engine=llmcompressor")
