"""Mixtures of experts through the runner: what this machine cannot serve is n/a, and judged by its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import families
from support.mixtures import QWEN3_30B_A3B, tensors_of
from support.settings import variants_of
from support.tiny_sources import write_header

from pipeline.config import Stage
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, NotApplicable
from pipeline.hardware import rules
from pipeline.hardware.gpus import GPUS
from pipeline.hardware.probe import Hardware
from pipeline.hardware.rules import ServingRequest
from pipeline.models.safetensors import copy_companions
from pipeline.results.base import read
from pipeline.results.verify import CHECKS, VerifyResult
from pipeline.runner import Runner
from pipeline.stages.publish import card
from pipeline.stages.verify import gate
from pipeline.stages.verify.gate import OF_FILES
from pipeline.stages.verify.outcomes import Failed

EXPERTS = ServingRequest(experts=True)
AMX = ("avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
H100 = next(gpu for gpu in GPUS if gpu.name == "H100 SXM")
ON_GPUS = "on NVIDIA GPUs"


def cpu(*features: str) -> Hardware:
    return Hardware(device="cpu", name="a CPU", cores=2, memory_gib=8, cpu_features=features)


@pytest.mark.parametrize(
    ("scheme", "features", "support"),
    [
        (None, (), "native"),
        ("W4A16", ("avx512f",), "no"),
        ("W4A16", AMX, "native"),
        ("W4A16_ASYM", AMX, "no"),
        ("W8A8", ("avx512_vnni",), "no"),
        ("W8A8", AMX, "native"),
        ("FP8_DYNAMIC", AMX, "no"),
        ("FP8_BLOCK", AMX, "native"),
        ("W8A16", AMX, "no"),
    ],
)
def test_a_cpu_serves_quantized_experts_by_amx_alone(
    scheme: str | None, features: tuple[str, ...], support: str
) -> None:
    found = rules.of_scheme(scheme, cpu(*features), asked=EXPERTS)
    assert found.support == support
    assert (ON_GPUS in found.reason) == (support == "no")


def test_static_int8_experts_are_served_nowhere() -> None:
    assert rules.of_scheme("W8A8_STATIC", H100).support == "native"
    found = rules.of_scheme("W8A8_STATIC", H100, asked=EXPERTS)
    assert found.support == "no" and "for each token" in found.reason
    assert rules.of_scheme("W8A8", H100, asked=EXPERTS).support == "native"


@pytest.fixture
def without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, as a CPU with AVX-512 alone."""
    monkeypatch.setattr("pipeline.runner.probe", lambda _: cpu("avx2", "avx512f", "avx512_bf16"))


SMALL = {
    **QWEN3_30B_A3B,
    "hidden_size": 128,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "vocab_size": 4096,
}


def given(tmp_path: Path, stages: str, *overrides: str) -> list[str]:
    """Overrides for a mixture of experts whose weights are zeros."""
    folder = tmp_path / "model"
    folder.mkdir()
    copy_companions(CHECKPOINT, folder)
    (folder / "config.json").write_text(json.dumps(SMALL))
    write_header(folder / "model.safetensors", tensors_of(SMALL))
    return [f"stage=[{stages}]", f"model.path={folder}", f"outputs={tmp_path / 'out'}", *overrides]


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that serves nothing."""
    no = rules.Capability("no", reason="no such products here")
    monkeypatch.setattr("pipeline.serve.support.of_settings", lambda *_: no)


def demo(tmp_path: Path, stages: str) -> Runner:
    asked = [f"stage=[{stages}]", "variants=[bf16]", f"outputs={tmp_path}"]
    return Runner(variants_of(*asked), asked)


@pytest.mark.usefixtures("unserved")
def test_what_is_not_served_here_is_judged_by_its_files(tmp_path: Path) -> None:
    run = demo(tmp_path, "quantize,verify,bench")
    assert run.execute() == 0
    (job,) = run.jobs
    judged, bench = (job.artifact(stage).manifest() for stage in (Stage.VERIFY, Stage.BENCH))
    assert judged.status == "ok"
    assert (bench.status, bench.reason) == ("not_applicable", "no such products here")
    checks = read(VerifyResult, judged).checks
    assert [check.name for check in checks] == list(CHECKS)
    assert all(check.ok for check in checks if check.name in OF_FILES and check.name != "activation scales")
    others = [check for check in checks if check.name not in OF_FILES]
    assert {(check.ok, check.detail) for check in others} == {(None, "not served here: no such products here")}
    with pytest.raises(NotApplicable, match="cannot be loaded here"):
        card.write(job, None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unserved")
def test_a_bad_checkpoint_fails_the_gate_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(*_: object) -> str:
        raise Failed("one row is zero")

    monkeypatch.setattr(gate, "untouched", bad)
    run = demo(tmp_path, "verify")
    assert run.execute() != 0
    assert "one row is zero" in str(run.failures["bf16"])


@pytest.mark.usefixtures("unserved")
def test_the_plan_says_what_is_judged_by_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(tmp_path, "verify,bench").plan() == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert any(line.startswith("verify: bf16 run:") and line.endswith("; by the files alone") for line in lines)
    assert "bench: bf16 n/a" in lines and any(line.endswith(": no such products here") for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("without_amx")
def test_a_mixture_that_is_not_served_here_is_made_and_judged(tmp_path: Path) -> None:
    folder = families.write("qwen3_moe", tmp_path / "model")
    asked = ["stage=[quantize,verify,bench]", f"model.path={folder}", f"outputs={tmp_path / 'out'}"]
    asked += ["variants=[w4a16]", "add_bf16=false", "quant.group_size=32"]
    run = Runner(variants_of(*asked), asked)
    assert run.execute() == 0
    (job,) = run.jobs
    assert read(VerifyResult, job.artifact(Stage.VERIFY).manifest()).weight_errors
    assert ON_GPUS in job.artifact(Stage.BENCH).manifest().reason


@pytest.mark.usefixtures("without_amx")
def test_a_benchmark_alone_makes_nothing_of_what_is_not_served(tmp_path: Path) -> None:
    asked = given(tmp_path, "bench", "add_bf16=false", "variants=[w4a16]")
    run = Runner(variants_of(*asked), asked)
    assert ON_GPUS in run.jobs[0].unserved
    assert run.execute() == 0
    assert run.jobs[0].artifact(Stage.QUANTIZE).manifest() is None
    assert run.jobs[0].artifact(Stage.VERIFY).manifest().status == "not_applicable"


@pytest.mark.usefixtures("without_amx")
def test_experts_that_stay_in_bf16_are_served(tmp_path: Path) -> None:
    asked = given(tmp_path, "bench", "variants=[bf16,w4a16]", "quant.ignore=[lm_head,re:.*experts.*]")
    assert not any(job.unserved for job in Runner(variants_of(*asked), asked).jobs)


@pytest.mark.parametrize("quant", ["awq_autoawq", "bnb_nf4", "gguf_q8_0"])
def test_an_engine_that_leaves_experts_alone_is_refused_before_any_work(quant: str, tmp_path: Path) -> None:
    asked = given(tmp_path, "quantize", f"variants=[{quant}]")
    with pytest.raises(ConfigError, match=rf"{quant} cannot be made: quant.engine=\w+ on a mixture of experts"):
        Runner(variants_of(*asked), asked)
    assert not (tmp_path / "out" / "model").exists()
