"""A context that the KV cache cannot hold is refused before anything is made for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.keys import Digests
from pipeline.errors import ConfigError
from pipeline.hardware.probe import Hardware
from pipeline.models.source import ModelSource
from pipeline.serve.kv_capacity import check_context

CPU = Hardware(device="cpu", name="Imaginary", cores=2, memory_gib=8.0)


@pytest.fixture
def model(settings: Any, tmp_path: Path, data_dir: Path) -> ModelSource:
    """Qwen3-0.6B: 112 KiB of keys and values a token, 40,960 tokens of context."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copyfile(data_dir / "qwen3" / "config.qwen3-0.6b.json", folder / "config.json")
    shutil.copyfile(data_dir / "qwen3" / "tokenizer_config.json", folder / "tokenizer_config.json")
    chosen = settings("model=qwen3_0_6b", f"model.path={folder}").model
    return ModelSource(chosen, tmp_path / "cache", Digests(tmp_path / "digests.json"))


def test_a_context_that_does_not_fit_is_refused_with_one_that_does(settings: Any, model: ModelSource) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_context(settings("model=qwen3_0_6b"), model, CPU)
    assert "serve.cpu_kv_cache_gib=1 on model=qwen3_0_6b" in refusal.value.problem
    assert "9,362 tokens of 112 KiB, and the context is 40,960" in refusal.value.problem
    assert refusal.value.remedy == "Set serve.max_model_len=9344, or serve.cpu_kv_cache_gib=4.4."
    # What it names is accepted.
    for way_out in ("serve.max_model_len=9344", "serve.cpu_kv_cache_gib=4.4"):
        check_context(settings(way_out), model, CPU)


@pytest.mark.parametrize(
    "overrides",
    [
        ["kv_cache=fp8_e4m3", "serve.max_model_len=18688"],
        # Two processes, each with the keys and values of half of the heads.
        ["serve.tensor_parallel=2", "serve.max_model_len=18688"],
        ["quant=bf16", "stage=bench", "serve.url=http://127.0.0.1:8000"],
        ['serve.extra_args=["--max-model-len=2048"]'],
    ],
)
def test_what_fits_or_is_decided_elsewhere_is_not_refused(
    settings: Any, model: ModelSource, overrides: list[str]
) -> None:
    check_context(settings(*overrides), model, CPU)


def test_a_gpu_has_its_own_room(settings: Any, model: ModelSource) -> None:
    check_context(settings(), model, Hardware(device="cuda", name="Imaginary", cores=2, memory_gib=8.0))


def test_layers_with_windows_are_left_to_vllm(settings: Any, model: ModelSource) -> None:
    path = model.shape_folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": 4096, "use_sliding_window": True}))
    check_context(settings(), model, CPU)
