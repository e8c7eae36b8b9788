"""Output errors of the Linears of experts: each measured on the tokens that the router sends to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import families
from support.settings import variants_of

from pipeline.hardware.probe import probe
from pipeline.job import Job
from pipeline.models.architecture import read_config
from pipeline.models.dequantize import Weights
from pipeline.models.headers import stored_tensors
from pipeline.models.loading import load_model
from pipeline.models.modules import decoder_linears
from pipeline.results.eval import LayerErrors
from pipeline.runner import Runner
from pipeline.stages.eval.divergence import Text
from pipeline.stages.eval.layers import measure, snr_db

LENGTH = 48


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    """The job of a checkpoint in W4A16 of a family."""
    jobs: dict[str, Job] = {}

    def job(family: str) -> Job:
        if family not in jobs:
            folder = tmp_path_factory.mktemp("made")
            model = families.write(family, folder / "model")
            given = ["stage=quantize", f"model.path={model}", f"outputs={folder / 'out'}", "quant.group_size=32"]
            given.append("variants=[w4a16]")
            run = Runner(variants_of(*given), given)
            assert run.execute() == 0, run.failures
            (jobs[family],) = run.jobs
        return jobs[family]

    return job


def texts(number: int) -> list[Text]:
    drawn = torch.randint(0, 4096, (number, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    return [Text(tokens=tuple(row), counted=tuple(range(1, LENGTH))) for row in drawn]


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "qwen3_next", "phi3"])
def test_every_quantized_linear_of_the_list_is_measured(
    family: str, made: Callable[[str], Job], tmp_path: Path
) -> None:
    job = made(family)
    found = measure(job, texts(3), 3 * LENGTH, tmp_path)
    assert isinstance(found, LayerErrors)
    names = {each["module"] for each in json.loads((tmp_path / found.file).read_text())}
    assert names == set(decoder_linears(stored_tensors(job.model.folder), read_config(job.model.folder)))
    assert found.unrouted == 0


def test_an_expert_is_measured_on_the_tokens_of_its_router(made: Callable[[str], Job], tmp_path: Path) -> None:
    job, expert, asked = made("qwen3_moe"), 2, texts(2)
    found = measure(job, asked, 10**6, tmp_path)
    errors = {each["module"]: each for each in json.loads((tmp_path / found.file).read_text())}
    model = load_model(job.model.folder, probe("cpu"), dtype=torch.float32)
    block, seen = model.model.layers[1].mlp, []
    block.register_forward_pre_hook(lambda _, entered: seen.append(entered[0].reshape(-1, 128)))
    routes: list[torch.Tensor] = []
    block.gate.register_forward_hook(lambda _, __, made: routes.append(made[2]))
    with torch.inference_mode():
        for text in asked:
            model(torch.tensor([text.tokens]))
    rows = torch.cat([x[1:][(chosen[1:] == expert).any(1)] for x, chosen in zip(seen, routes, strict=True)])
    assert 0 < len(rows) < 2 * (LENGTH - 1)
    name = f"model.layers.1.mlp.experts.{expert}.up_proj"
    weight = block.experts.gate_up_proj[expert, 128:].float()
    signal = rows @ weight.T
    expected = snr_db(signal, rows @ Weights(job.checkpoint)[name].T)
    assert errors[name]["snr_db"] == pytest.approx(expected, abs=0.2)


def test_experts_without_a_token_are_counted(made: Callable[[str], Job], tmp_path: Path) -> None:
    found = measure(made("qwen3_moe"), texts(1), 1, tmp_path)
    # One token passes two of four experts in each of three layers.
    assert (found.modules, found.unrouted) == (3 * (4 + 2 * 3), 3 * 2 * 3)
