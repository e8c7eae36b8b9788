"""Every YAML composes; what is unknown, of the wrong type or impossible is refused by name."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config import PROJECT_ROOT, Command, Stage, Variant, validate
from pipeline.errors import ConfigError

CONF = PROJECT_ROOT / "conf"
CHOICES = sorted(
    path.relative_to(CONF)
    for path in CONF.rglob("*.yaml")
    if path.name != "config.yaml" and path.parts[-2] != "reference"
)


@pytest.mark.parametrize("path", CHOICES, ids=str)
def test_every_choice_composes_and_is_valid(path: Path, settings) -> None:
    composed = settings(f"{path.parent.name}={path.stem}")
    section = getattr(composed, path.parent.name, None)
    if section is not None:
        assert section.name == path.stem


def test_every_field_is_described_or_obvious_from_yaml(compose) -> None:
    assert set(compose()) >= {
        "model",
        "calibration",
        "quant",
        "kv_cache",
        "serve",
        "bench",
        "eval",
        "hardware",
        "report",
    }


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("calibration.num_samples=many", "calibration.num_samples='many'"),
        ("calibration.num_samples=0", "calibration.num_samples=0"),
        ("bench.request_rate=-1", "bench.request_rate"),
        ("serve.host=0.0.0.0", "serve.host='0.0.0.0'"),
        ("stage=train", "stage: train is unknown; known are calibrate"),
        ("+quant.bits=3", "quant.bits"),
        ("quant.algorithm=awq", "algorithm=awq"),
        ("quant.group_size=64", "group_size=64"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(override: str, named: str, compose) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        validate(compose(override))


def test_all_errors_come_at_once(compose) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(compose("calibration.num_samples=0", "bench.repeats=0"))
    assert "calibration.num_samples" in str(caught.value)
    assert "bench.repeats" in str(caught.value)


def test_stage_takes_one_many_or_all(settings) -> None:
    assert settings("stage=bench").stage == (Stage.BENCH,)
    assert settings("stage=[quantize,eval]").stage == (Stage.QUANTIZE, Stage.EVAL)
    assert settings("stage=all").stage == (*Stage, Command.REPORT)


def test_a_model_brings_the_sets_that_fit_it_and_the_user_still_decides(settings) -> None:
    assert settings("model=qwen3_8b").bench.name == "study"
    assert settings("model=qwen3_8b", "bench=quick").bench.name == "quick"


@pytest.mark.parametrize("text", ["awq", "bf16+fp8_e4m3"])
def test_a_variant_reads_as_it_is_written(text: str) -> None:
    assert str(Variant.parse(text)) == text


@pytest.mark.alone
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_the_command_answers_without_heavy_imports(arguments: list[str]) -> None:
    script = (
        "import sys, runpy\n"
        f"sys.argv = ['pipeline', *{arguments!r}]\n"
        "try: runpy.run_module('pipeline', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('HEAVY', {'torch', 'transformers', 'vllm', 'lm_eval', 'datasets'} & set(sys.modules))\n"
    )
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert "HEAVY set()" in answer.stdout, answer.stderr
    # About a second on a desktop; the bound leaves room for a slow machine.
    assert time.monotonic() - started < 3


def test_a_gpu_has_one_name_however_it_is_written_and_others_are_refused(compose, settings) -> None:
    assert settings("report.what_if=[h100_sxm, L40S]").report.what_if == ("H100 SXM", "L40S")
    assert settings("hardware.gpu=h100_sxm").hardware.gpu == "H100 SXM"
    with pytest.raises(ConfigError, match=r"report.what_if.*H100: the catalogue has no GPU of that name, .*h100_sxm"):
        validate(compose("report.what_if=[H100]"))


def test_constraints_name_tasks_and_gpus_that_there_are(compose, settings) -> None:
    limits = settings("report.constraints.max_loss_points={MMLU: 1, GSM8K: 2.5}").report.constraints.max_loss_points
    assert limits == {"MMLU": 1.0, "GSM8K": 2.5}
    with pytest.raises(ConfigError, match=r"max_loss_points=ARC: eval=demo has C-Eval, MMLU"):
        validate(compose("report.constraints.max_loss_points={ARC: 1}"))
    with pytest.raises(ConfigError, match=r"report.constraints.hardware: H100: the catalogue has"):
        validate(compose("report.constraints.hardware=H100"))
    with pytest.raises(ConfigError, match=r"report.constraints.ttft_p99_ms"):
        validate(compose("report.constraints.ttft_p99_ms=-1"))


@pytest.mark.parametrize("engine", ["llmcompressor", "autoawq", "gptqmodel", "autoround"])
def test_one_override_chooses_the_engine_of_awq(engine: str, settings) -> None:
    quant = settings("quant=awq", f"quant.engine={engine}").quant
    assert (quant.engine, quant.scheme) == (engine, "W4A16_ASYM")
    assert quant.algorithm == ("signround" if engine == "autoround" else "awq")
