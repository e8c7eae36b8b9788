"""A checkpoint with code of its own, for config, model and tokenizer, through every engine that can make it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import custom_code
from support.settings import variants_of

from pipeline.errors import InputError
from pipeline.runner import Runner
from pipeline.stages.verify import gate

SMALL = (
    *("calibration.num_samples=6", "calibration.algorithm_samples=6", "calibration.max_seq_length=96"),
    "quant.group_size=32",
)
TRUST = "model.trust_remote_code=true"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("custom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder / "modules"))
        yield custom_code.write(folder / "mine")


def run_of(source: Path, tmp_path: Path, formats: str, *given: str) -> Runner:
    asked = ["stage=quantize", f"model.path={source}", f"outputs={tmp_path}", *SMALL, *given, f"variants=[{formats}]"]
    return Runner(variants_of(*asked), asked)


def check(run: Runner, source: Path) -> None:
    """Require the gate's checks of files, and that the code has travelled."""
    for job in run.jobs:
        if str(job.variant) in run.not_applicable:
            continue
        folder = job.checkpoint
        gate.files(folder, source)
        gate.layers(folder, source, job)
        gate.size(folder, source, job, gate.Findings())
        gate.untouched(folder, source, job)
        gate.weights(job, gate.Findings())
        for name in (*custom_code.CODE, "tokenizer_mine.json"):
            assert (folder / name).read_bytes() == (source / name).read_bytes()
        assert json.loads((folder / "config.json").read_text())["auto_map"]


def test_without_the_switch_it_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MineForCausalLM.*code of its own.*model\.trust_remote_code=true"):
        run_of(source, tmp_path, "fp8_dynamic")
    assert not list(tmp_path.iterdir())


def test_its_code_is_part_of_its_identity(source: Path, tmp_path: Path) -> None:
    (job,) = run_of(source, tmp_path, "bf16", TRUST).jobs
    assert set(custom_code.CODE) <= job.model.identity()["files"].keys()


def test_llm_compressor_makes_every_format_of_it(source: Path, tmp_path: Path) -> None:
    run = run_of(source, tmp_path, "fp8_static,fp8_dynamic,int8_dynamic,w4a16,gptq,awq,bf16+fp8_e4m3", TRUST)
    assert run.execute() == 0, {name: str(error) for name, error in run.failures.items()}
    assert run.not_applicable == {}
    check(run, source)


@pytest.mark.slow
def test_other_engines_make_it_or_say_why_not(source: Path, tmp_path: Path) -> None:
    by_type = ("gptq_int4", "awq_autoawq", "gguf_q8_0")
    run = run_of(source, tmp_path, ",".join(("gptq_autoround", "bnb_nf4", *by_type)), TRUST)
    assert run.execute() == 0, {name: str(error) for name, error in run.failures.items()}
    assert {variant.partition("(")[0] for variant in run.not_applicable} == set(by_type)
    assert all("mine" in reason for reason in run.not_applicable.values())
    check(run, source)
