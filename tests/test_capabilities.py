"""What is said to be served where, and that a variant that is not is a result and not an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import capabilities
from pipeline.__main__ import Run, compose_variants
from pipeline.catalogue import GPUS
from pipeline.config import PROJECT_ROOT, Stage, Variant
from pipeline.hardware import Hardware
from pipeline.schemes import ENGINES, SCHEMES

BY_NAME = {gpu.name: gpu for gpu in GPUS}
CPU = Hardware(device="cpu", name="a CPU", cores=2, memory_gib=8, cpu_features=("avx2",))
SERVER_CPU = CPU.model_copy(update={"cpu_features": ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8")})


@pytest.mark.parametrize("machine", [*GPUS, CPU, SERVER_CPU], ids=lambda machine: machine.name)
@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_every_format_has_an_answer_everywhere(scheme: str | None, machine: capabilities.Machine) -> None:
    found = capabilities.of_scheme(scheme, machine)
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
    ],
)
def test_known_facts(scheme: str, gpu: str, support: str, said: str) -> None:
    found = capabilities.of_scheme(scheme, BY_NAME[gpu])
    assert found.support == support
    assert said in found.reason


def test_an_fp8_kv_cache_needs_ada_or_a_cpu() -> None:
    assert capabilities.of_kv_cache("fp8_e4m3", BY_NAME["A100 80GB SXM"]).support == "no"
    assert capabilities.of_kv_cache("fp8_e4m3", BY_NAME["L4"]).support == "native"
    assert capabilities.of_kv_cache("fp8_e4m3", CPU).support == "emulated"
    assert capabilities.of_kv_cache("fp8_e4m3", SERVER_CPU).support == "native"


def test_the_weaker_of_weights_and_cache_decides(settings) -> None:
    found = settings("quant=fp8_dynamic", "kv_cache=fp8_e4m3")
    assert capabilities.of_settings(found, BY_NAME["A100 80GB SXM"]).support == "no"
    assert capabilities.of_settings(found, BY_NAME["H100 SXM"]).support == "native"


def test_engines_and_schemes_fit_together() -> None:
    assert {engine for scheme in SCHEMES.values() for engine in scheme.engines} == set(ENGINES) - {"none"}
    assert all(algorithms for scheme in SCHEMES.values() for algorithms in scheme.engines.values())


@pytest.mark.parametrize("text", ["awq", "awq+fp8_e4m3", "awq@marlin", "bf16+fp8_e5m2@triton"])
def test_a_variant_is_named_as_it_is_read(text: str) -> None:
    assert str(Variant.parse(text)) == text
    assert "@" not in str(Variant.parse(text).checkpoint)


def test_one_checkpoint_under_two_kernels_is_made_once(settings, tmp_path: Path) -> None:
    jobs = [
        Run([settings("quant=w4a16", f"serve.kernel={kernel}", f"outputs={tmp_path}")], []).jobs[0]
        for kernel in ("marlin", "machete")
    ]
    made = [job.artifact(Stage.QUANTIZE) for job in jobs]
    assert made[0] == made[1]
    assert jobs[0].artifact(Stage.BENCH).folder != jobs[1].artifact(Stage.BENCH).folder


def test_the_matrix_is_printed_for_this_machine_and_the_catalogue() -> None:
    command = [sys.executable, "-m", "pipeline", "stage=capabilities"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, env={"COLUMNS": "160"})
    assert answer.returncode == 0, answer.stderr
    for word in ("H100 SXM", "FP8_DYNAMIC", "NVFP4", "emulated"):
        assert word in answer.stderr


def test_what_is_not_served_here_is_a_result_with_its_reason(settings, tmp_path: Path, monkeypatch) -> None:
    no = capabilities.Capability("no", reason="no such products here")
    monkeypatch.setattr("pipeline.capabilities.of_settings", lambda *_: no)
    run = Run([settings("stage=bench", "quant=w4a16", f"outputs={tmp_path}")], [])
    assert run.execute() == 0
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("manifest.json")]
    assert {(record["stage"], record["status"], record["reason"]) for record in records} == {
        ("verify", "not_applicable", "no such products here")
    }


def test_variants_of_several_kernels_are_composed() -> None:
    import hydra

    with hydra.initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base=None):
        overrides = ["variants=[awq@marlin,awq@machete]"]
        found = compose_variants(hydra.compose("config", overrides), overrides)
    assert [settings.serve.kernel for settings in found] == ["marlin", "machete"]
    assert [str(settings.variant) for settings in found] == ["awq@marlin", "awq@machete"]
