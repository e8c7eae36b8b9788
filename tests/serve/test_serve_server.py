"""What served results depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Settings
from pipeline.hardware.probe import Hardware
from pipeline.progress import Progress
from pipeline.serve import vllm_plugin
from pipeline.serve.server import Serving


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
