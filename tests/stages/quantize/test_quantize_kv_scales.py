"""Calibrated KV-cache scales are added beside the weights, which stay the same files."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from support.settings import settings_of

from pipeline.config import Stage
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError
from pipeline.hardware.gpus import GPUS
from pipeline.hardware.probe import probe
from pipeline.models.headers import headers, quantization_config
from pipeline.runner import Runner
from pipeline.serve import support
from pipeline.stages.verify import gate

H100 = next(gpu for gpu in GPUS if gpu.name == "H100 SXM")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint; all share one calibration."""
    outputs = tmp_path_factory.mktemp("outputs")

    def made(*overrides: str) -> Path:
        given = ("stage=quantize", f"outputs={outputs}", "calibration.num_samples=8", *overrides)
        run = Runner([settings_of(*given)], list(given))
        assert run.execute() == 0
        return run.jobs[0].artifact(Stage.QUANTIZE).folder / "checkpoint"

    return made


def test_bf16_weights_are_linked_and_scales_are_a_file_of_their_own(quantized: Callable[..., Path]) -> None:
    folder = quantized("quant=bf16", "kv_cache=fp8_e4m3")
    assert (folder / "model.safetensors").resolve() == (CHECKPOINT / "model.safetensors").resolve()
    scales = load_file(folder / "kv_scales.safetensors")
    assert set(scales) == {f"model.layers.{n}.self_attn.{x}_scale" for n in range(4) for x in "kv"}
    assert all(float(scale) > 0 for scale in scales.values())
    config = quantization_config(folder)
    assert config["kv_cache_scheme"]["type"] == "float"
    assert config["config_groups"] == {}
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(headers(folder))
    assert not quantization_config(CHECKPOINT)


@pytest.mark.parametrize("quant", ["fp8_static", "int8_dynamic", "w4a16", "mxfp4"])
def test_quantized_weights_keep_their_own_scheme(quant: str, quantized: Callable[..., Path], settings) -> None:
    folder = quantized(f"quant={quant}", "quant.algorithm=rtn", "kv_cache=fp8_e4m3")
    config = quantization_config(folder)
    assert config["config_groups"]["group_0"]["weights"]["num_bits"] == settings(f"quant={quant}").quant.whole_bits
    assert config["kv_cache_scheme"]["num_bits"] == 8
    scales = load_file(folder / "kv_scales.safetensors")
    assert len(scales) == 8
    assert set(scales) < set(headers(folder))
    found = gate.Findings()
    composed = settings(f"quant={quant}", "quant.algorithm=rtn", "kv_cache=fp8_e4m3")
    job = SimpleNamespace(settings=composed, hardware=probe(composed.hardware.device))
    assert "predicted" in gate.size(folder, CHECKPOINT, job, found)
    assert "finite and in range" in gate.scales(folder)


def test_a_scale_of_one_needs_no_calibration_and_no_copy(quantized: Callable[..., Path], tmp_path: Path) -> None:
    folder = quantized("quant=bf16", "kv_cache=fp8_e4m3", "kv_cache.scales=one", f"outputs={tmp_path}")
    assert folder.is_symlink()
    assert not list(folder.parents[2].glob("calibrate-*"))


def test_formats_without_calibrated_scales_are_refused_by_name(settings) -> None:
    with pytest.raises(ConfigError, match=r"kv_cache: scales=calibrated goes with dtype fp8_e4m3, not fp8_e5m2"):
        settings("kv_cache=fp8_e5m2", "kv_cache.scales=calibrated")


@pytest.mark.parametrize("quant", ["awq_autoawq", "gptq_int4", "bnb_nf4", "gguf_q8_0"])
def test_a_format_without_a_place_for_scales_is_not_applicable_before_work(
    quant: str, settings, tmp_path: Path
) -> None:
    asked = settings(f"quant={quant}", "kv_cache=fp8_e4m3")
    found = support.of_settings(asked, H100)
    assert found.support == "no"
    assert "kv_cache.scales=one" in found.reason
    assert ("quant.engine=llmcompressor" in found.reason) == (quant in ("awq_autoawq", "gptq_int4"))
    unscaled = settings(f"quant={quant}", "kv_cache=fp8_e4m3", "kv_cache.scales=one")
    assert support.of_settings(unscaled, H100).support == "native"
    given = (
        "stage=quantize",
        f"quant={quant}",
        "kv_cache=fp8_e4m3",
        f"outputs={tmp_path}",
        "calibration.num_samples=2",
    )
    run = Runner([settings(*given)], list(given))
    run.execute()
    assert "compressed-tensors" in next(iter(run.not_applicable.values()))
    assert not list(tmp_path.glob("demo/*/quantize-*/checkpoint"))


def test_vllm_gives_attention_layers_scales_in_one_of_the_formats_made_here() -> None:
    """What `why_no_kv_scales` says, read from the installed vLLM."""
    import importlib.util

    (root,) = importlib.util.find_spec("vllm").submodule_search_locations
    methods = Path(root, "model_executor", "layers", "quantization")
    named = {path.name for path in methods.rglob("*.py") if "(BaseKVCacheMethod)" in path.read_text()}
    assert "compressed_tensors.py" in named
    assert not named & {"auto_awq.py", "auto_gptq.py"}
    for plugin in ("vllm_bnb_plugin", "vllm_gguf_plugin"):
        spec = importlib.util.find_spec(plugin)
        if spec is not None:
            texts = [path.read_text() for path in Path(spec.submodule_search_locations[0]).rglob("*.py")]
            assert not any("BaseKVCacheMethod" in text for text in texts)
