"""auto-gptq in its own environment: what it writes is what the layers hold; what it cannot do is named."""

import contextlib
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import PROJECT_ROOT, Stage
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError
from pipeline.models.headers import quantization_config
from pipeline.progress import Progress
from pipeline.runner import Runner
from pipeline.stages.quantize.engines import autogptq
from pipeline.stages.quantize.isolated import environment
from pipeline.stages.verify.weights import compare

WORKER = runpy.run_path(str(autogptq.WORKER))
NEEDS_3_11 = pytest.mark.skipif(sys.version_info[:2] != autogptq.PYTHON, reason="auto-gptq has wheels for 3.11 alone")


def is_installed() -> bool:
    return sys.version_info[:2] == autogptq.PYTHON and environment.folder_of(autogptq.ENGINE).exists()


INSTALLED = pytest.mark.skipif(not is_installed(), reason="its environment is made by `make test-slow` or first use")


def dequantized(tensors: dict[str, torch.Tensor], name: str, bits: int) -> torch.Tensor:
    """A layer's weights; integers lie along the inputs, and a stored zero point is one less than it means."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    packed, zeros = tensors[f"{name}.qweight"], tensors[f"{name}.qzeros"]
    integers = ((packed[:, None, :] >> shifts[None, :, None]) & (2**bits - 1)).reshape(-1, packed.shape[1])
    points = ((zeros[:, :, None] >> shifts) & (2**bits - 1)).reshape(zeros.shape[0], -1) + 1
    groups = tensors[f"{name}.g_idx"].long()
    return ((integers - points[groups]) * tensors[f"{name}.scales"].float()[groups]).T


def rounded(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Rounding to nearest on the same grid."""
    parts = weight.reshape(weight.shape[0], -1, group)
    scale = parts.abs().amax(-1, keepdim=True) * 2 / (2**bits - 1)
    scale = torch.where(scale == 0, 1, scale)
    return ((parts / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale).reshape(weight.shape)


def check(settings, outputs: Path, scheme: str, bits: int) -> None:
    given = (
        *("stage=quantize", "quant=gptq_autogptq", f"quant.scheme={scheme}", f"outputs={outputs}"),
        *("calibration.num_samples=16", "calibration.max_seq_length=256"),
    )
    run = Runner([settings(*given)], list(given))
    assert run.execute() == 0
    artifact = run.jobs[0].artifact(Stage.QUANTIZE)
    folder = artifact.folder / "checkpoint"
    tensors, original = load_file(folder / "model.safetensors"), load_file(CHECKPOINT / "model.safetensors")
    names = {name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")}
    assert len(names) == 28
    for name in names:
        weight = original[f"{name}.weight"].float()
        error = (dequantized(tensors, name, bits) - weight).norm()
        # Compensation moves weights further than rounding does, by a small factor; a wrong grid by far more.
        assert 0 < error < 3.5 * (rounded(weight, bits, 128) - weight).norm()
    rest = {name for name in original if name.removesuffix(".weight") not in names}
    assert all(torch.equal(tensors[name], original[name]) for name in rest)
    config = quantization_config(folder)
    assert (config["quant_method"], config["bits"], config["group_size"], config["desc_act"]) == (
        "gptq",
        bits,
        128,
        False,
    )
    written = json.loads((folder / "config.json").read_text())
    del written["quantization_config"]
    assert written == json.loads((CHECKPOINT / "config.json").read_text())
    manifest = artifact.manifest()
    assert manifest is not None
    assert manifest.results["engine"]["auto-gptq"] == "0.7.1"
    assert (artifact.folder / "quantize.log").is_file()


@INSTALLED
@pytest.mark.parametrize(("scheme", "bits"), [("W4A16", 4), pytest.param("W8A16", 8, marks=pytest.mark.slow)])
def test_the_weights_are_right(settings, tmp_path: Path, scheme: str, bits: int) -> None:
    check(settings, tmp_path, scheme, bits)


@INSTALLED
def test_the_gate_finds_8_bits_that_were_made_from_bfloat16(settings, tmp_path: Path) -> None:
    """auto-gptq computes integers with scales of the model's type: the worker takes float16 for this reason."""
    worker = tmp_path / "worker.py"
    text = autogptq.WORKER.read_text()
    assert text.count("torch_dtype=torch.float16") == 1
    worker.write_text(text.replace("torch_dtype=torch.float16", "torch_dtype=torch.bfloat16"))
    ids = torch.arange(1, 257, dtype=torch.int32).repeat(4)
    save_file({"input_ids": ids, "lengths": torch.full((8,), 128, dtype=torch.int32)}, tmp_path / "tokens.safetensors")
    quant = settings("quant=gptq_autogptq", "quant.scheme=W8A16").quant
    for script, right in ((autogptq.WORKER, True), (worker, False)):
        folder = tmp_path / script.stem
        folder.mkdir()
        request = {"model": str(CHECKPOINT), "tokens": str(tmp_path / "tokens.safetensors"), "samples": None}
        request |= {"bits": 8, "group_size": 128, "dampening": 0.01, "checkpoint": str(folder), "device": "cpu"}
        assert environment.call("autogptq", script, request, tmp_path / "log", Progress())["layers"] == 28
        autogptq.write_config(CHECKPOINT, folder, quant)
        found = compare(folder, CHECKPOINT, quant)
        assert len(found) == 28
        assert all((item.excess <= 1) == right for item in found)


def worker_of(process: psutil.Process) -> psutil.Process | None:
    """The engine's own process below the command, once it is there."""
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if str(autogptq.WORKER) in child.cmdline():
                return child
    return None


@INSTALLED
@pytest.mark.slow
def test_a_worker_that_is_killed_is_its_variants_failure_and_no_others(tmp_path: Path) -> None:
    small = ("calibration.num_samples=8", "calibration.max_seq_length=128", f"outputs={tmp_path}")
    asked = [sys.executable, "-m", "pipeline", "stage=quantize", "variants=[gptq_autogptq,bnb_nf4]", *small]
    command = psutil.Popen(asked, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while (worker := worker_of(command)) is None and command.poll() is None:
        time.sleep(0.02)
    assert worker is not None
    worker.kill()
    _, said = command.communicate(timeout=300)
    assert command.returncode == 1
    told = " ".join(said.split())
    assert "gptq_autogptq failed: autogptq was ended by SIGKILL (out of memory?). Its log is" in told
    records = {
        path.parts[-3]: json.loads(path.read_text()) for path in tmp_path.glob("demo/*/quantize-*/manifest.json")
    }
    assert {name: record["status"] for name, record in records.items()} == {"gptq_autogptq": "failed", "bnb_nf4": "ok"}
    assert not list(tmp_path.glob("demo/gptq_autogptq/quantize-*/checkpoint/*.safetensors"))
    again = subprocess.run(asked, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr


@NEEDS_3_11
@pytest.mark.slow
def test_its_environment_installs_from_the_lock(
    settings, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.CACHE, str(tmp_path_factory.mktemp("engines")))
    check(settings, tmp_path, "W4A16", 4)


@INSTALLED
def test_an_architecture_that_it_does_not_know_is_named(broken_model: Path, settings, tmp_path: Path) -> None:
    path = broken_model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "phi3"}))
    answer = environment.call("autogptq", autogptq.WORKER, {"model": str(broken_model)}, tmp_path / "log", Progress())
    assert answer["refused"].startswith("auto-gptq does not know models of type phi3, but ")
    assert {"qwen3", "llama", "mistral"} <= set(answer["refused"].replace(",", "").split())


def test_positions_are_told_as_transformers_4_reads_them() -> None:
    convert: Callable[[dict], dict] = WORKER["config_for_transformers_4"]
    plain = convert({"dtype": "bfloat16", "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}})
    assert plain == {"torch_dtype": "bfloat16", "rope_theta": 1e6, "rope_scaling": None}
    yarn = convert({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}})
    assert (yarn["rope_theta"], yarn["rope_scaling"]) == (1e6, {"rope_type": "yarn", "factor": 4.0})
    old = {"torch_dtype": "float16", "rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert convert(old) == old


@pytest.mark.parametrize("rope", [{"partial_rotary_factor": 0.5}, {"full_attention": {"rope_type": "default"}}])
def test_positions_that_transformers_4_would_ignore_are_refused(rope: dict) -> None:
    with pytest.raises(Exception, match=f"rope_parameters \\({next(iter(rope))}\\)") as caught:
        WORKER["config_for_transformers_4"]({"rope_parameters": rope})
    assert caught.type.__name__ == "Refused"


def test_weights_under_other_names_are_refused(tmp_path: Path) -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for part in ("qweight", "qzeros", "scales", "g_idx"):
                self.register_buffer(part, torch.zeros(1))

    save_file({"prefix.layer.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(Exception, match=r"calls layer\.weight otherwise"):
        WORKER["write"](torch.nn.ModuleDict({"layer": Layer()}), tmp_path, tmp_path)


def test_what_it_cannot_be_asked_for_is_refused_by_name(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    quant = settings("quant=gptq_autogptq", "quant.ignore=[lm_head,model.layers.0.mlp.down_proj]").quant
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    with pytest.raises(ConfigError, match=r"quant\.ignore=\['lm_head', 'model\.layers\.0\.mlp\.down_proj'\]"):
        autogptq.check(quant)
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    with pytest.raises(ConfigError, match=r"quant\.engine=autogptq needs Python 3\.11, this is 3\.12"):
        autogptq.check(quant)
