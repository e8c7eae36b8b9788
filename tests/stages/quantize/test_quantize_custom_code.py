"""A checkpoint with code of its own, for config, model and tokenizer, through every engine that can make it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import custom_code
from support.settings import variants_of

from pipeline.errors import InputError
from pipeline.runner import Runner
from pipeline.stages.quantize.support import why_not_made
from pipeline.stages.verify import gate

SMALL = (
    *("calibration.num_samples=6", "calibration.algorithm_samples=6", "calibration.max_seq_length=96"),
    "quant.group_size=32",
)
TRUST = "model.trust_remote_code=true"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("custom")
    with custom_code.modules_in(folder / "modules"):
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


# Its MLP reads the norm in front of the attention, under Llama's names.
PARALLEL = """
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

class ParallelLayer(LlamaDecoderLayer):
    def forward(self, hidden_states, **others):
        read = self.input_layernorm(hidden_states)
        return hidden_states + self.self_attn(hidden_states=read, **others)[0] + self.mlp(read)

def parallel(layers):
    for layer in layers:
        layer.__class__ = ParallelLayer
"""


def test_a_mapping_that_makes_another_model_of_it_is_not_applicable(tmp_path: Path) -> None:
    with custom_code.modules_in(tmp_path / "modules"):
        folder = custom_code.write(tmp_path / "mine")
        code = custom_code.CODE["modeling_mine.py"].replace(
            "        self.post_init()", "        parallel(self.model.layers)"
        )
        (folder / "modeling_mine.py").write_text(PARALLEL + code)
        run = run_of(folder, tmp_path / "out", "awq,gptq", TRUST)
        assert run.execute() == 0, run.failures
    assert run.not_applicable.keys() == {"awq"}
    assert "makes another model of this one" in run.not_applicable["awq"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["bnb_nf4", "gptq_int4", "gptq_autoround"])
def test_another_engine_makes_it(engine: str, source: Path, tmp_path: Path) -> None:
    run = run_of(source, tmp_path, engine, TRUST)
    assert run.execute() == 0, {name: str(error) for name, error in run.failures.items()}
    assert run.not_applicable == {}
    check(run, source)


@pytest.mark.parametrize("engine", ["awq_autoawq", "gptq_autogptq", "gguf_q8_0"])
def test_an_engine_with_code_for_each_type_is_not_applicable(engine: str, settings: Any) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}}
    reason = why_not_made(settings(f"quant={engine}", TRUST), config)
    assert reason.startswith("quant.engine=") and "mine is the checkpoint's own" in reason
    assert why_not_made(settings("quant=gptq", TRUST), config) == ""
