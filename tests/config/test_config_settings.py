"""Every YAML composes; what is unknown, of the wrong type or impossible is refused by name."""

import importlib
import pkgutil
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline import config
from pipeline.config import PROJECT_ROOT, Command, Stage, Variant, validate
from pipeline.config.command_line import CUSTOM
from pipeline.errors import ConfigError

CONF = PROJECT_ROOT / "conf"
CHOICES = sorted(
    path.relative_to(CONF)
    for path in CONF.rglob("*.yaml")
    if path.name != "config.yaml" and path.parts[-2] != "reference"
)


@pytest.mark.parametrize("path", CHOICES, ids=str)
def test_every_choice_composes_and_is_valid(path: Path, settings) -> None:
    group = "dataset@bench.dataset" if path.parent.name == "dataset" else path.parent.name
    # A checkpoint of the user's has its own name.
    own = ["model.hub_id=some/model"] if path.stem == CUSTOM else []
    composed = settings(f"{group}={path.stem}", *own)
    section = getattr(composed, path.parent.name, None)
    if section is not None and not own:
        assert section.name == path.stem


CLASSES = sorted(
    {
        kind
        for module in pkgutil.iter_modules(config.__path__, "pipeline.config.")
        for kind in vars(importlib.import_module(module.name)).values()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__.startswith("pipeline.config")
    },
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_is_described_in_a_phrase(kind: type[BaseModel]) -> None:
    for name, field in kind.model_fields.items():
        said = field.description or ""
        assert said.strip(), f"{kind.__name__}.{name} has no description"
        assert "\n" not in said and not said.endswith("."), f"{kind.__name__}.{name}: {said!r} is no phrase"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("calibration.num_samples=many", "calibration.num_samples='many'"),
        ("calibration.num_samples=0", "calibration.num_samples=0"),
        ("bench.request_rate=-1", "bench.request_rate"),
        ("serve.host=0.0.0.0", "serve.host='0.0.0.0'"),
        ("stage=train", "stage: train is unknown; known are calibrate"),
        ("+quant.width=3", "quant.width"),
        ("quant.bits=3", "bits=3.0 goes with scheme MIXED, not FP8"),
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
        "print('HEAVY', {'torch', 'transformers', 'vllm', 'lm_eval', 'datasets', 'scipy'} & set(sys.modules))\n"
    )
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert "HEAVY set()" in answer.stdout, answer.stderr
    # About a second on a desktop; the bound leaves room for a slow machine.
    assert time.monotonic() - started < 3
