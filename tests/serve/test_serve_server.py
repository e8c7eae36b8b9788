"""What served results depend on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import Settings
from pipeline.hardware.probe import Hardware
from pipeline.progress import Progress
from pipeline.serve import vllm_plugin
from pipeline.serve.server import Server, Serving


@pytest.mark.parametrize(("device", "differs"), [("cpu", True), ("cuda", False)])
def test_what_the_plugin_computes_counts_where_it_computes(
    device: str, differs: bool, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware = Hardware(device=device, name="Imaginary", cores=2, memory_gib=8.0)
    serving, chosen = Serving(hardware, tmp_path, Progress()), settings()
    assert isinstance(chosen, Settings)
    before = serving.identity(chosen)
    monkeypatch.setattr(vllm_plugin, "REVISION", vllm_plugin.REVISION + 1)
    assert (serving.identity(chosen) != before) == differs


@pytest.mark.parametrize(("temperature", "source"), [("0", "vllm"), ("0.7", "vllm"), ("null", "auto")])
def test_the_generation_config_counts_only_where_a_benchmark_leaves_sampling_to_it(
    temperature: str, source: str, settings: Any, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    named = {"temperature": 0.6, "repetition_penalty": 1.05}
    (checkpoint / "generation_config.json").write_text(json.dumps({**named, "eos_token_id": 1}))
    hardware = Hardware(device="cuda", name="Imaginary", cores=2, memory_gib=8.0)
    serving = Serving(hardware, tmp_path, Progress())
    argv = serving._arguments(checkpoint, settings(f"bench.temperature={temperature}"), False)
    assert argv[argv.index("--generation-config") + 1] == source
    log = tmp_path / "serve.log"
    log.write_text("")
    launcher: Any = SimpleNamespace(versions={})
    facts = Server(launcher, 1, "http://127.0.0.1:1", log, checkpoint, argv).facts()
    assert facts.generation_config == named
    assert facts.sampling == (named if source == "auto" else {})
