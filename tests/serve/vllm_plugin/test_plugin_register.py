"""What is promised to readers of a log, and to processes that are not vLLM on a CPU."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from pipeline.serve import server_log, vllm_plugin
from pipeline.serve.vllm_plugin import install, log_lines

NAMES = [
    log_lines.FP8_STATIC,
    log_lines.FP8_DYNAMIC,
    log_lines.INT8_STATIC,
    log_lines.INT8_DYNAMIC,
    log_lines.KV_CACHE_E4M3,
    log_lines.KV_CACHE_E5M2,
    log_lines.integer_weights(4),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_pattern_finds_the_line(name: str) -> None:
    line = "(Worker pid=12) INFO 01-02 03:04:05 [announce.py:21] " + log_lines.EMULATION_LOG_TEMPLATE % name
    found = re.search(log_lines.EMULATION_LOG_PATTERN, line)
    assert found is not None
    assert found["what"] == name


def test_a_log_names_each_emulation_once() -> None:
    lines = [log_lines.EMULATION_LOG_TEMPLATE % name for name in ("w4a16", "fp8_w8a8_static", "w4a16")]
    log = "\n".join(["starting", *lines, "pipeline: float32 products for bfloat16 on cpu", "ready"])
    assert server_log.emulated(log) == ["fp8_w8a8_static", "w4a16"]
    assert server_log.emulated("nothing here") == []


def test_importing_the_package_is_light() -> None:
    program = (
        "import sys; import pipeline.serve.vllm_plugin, pipeline.serve.vllm_plugin.install;"
        "heavy = {'torch', 'vllm', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=True, timeout=60)


def fake_vllm(monkeypatch: pytest.MonkeyPatch, is_cpu: bool) -> None:
    platforms = types.ModuleType("vllm.platforms")
    platforms.current_platform = types.SimpleNamespace(is_cpu=lambda: is_cpu)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(install, "_installed", False)


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm(monkeypatch, is_cpu=False)
    monkeypatch.setattr(install, "_guarded", lambda *_: pytest.fail("a step ran"))
    vllm_plugin.register()


def test_on_a_cpu_each_step_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm(monkeypatch, is_cpu=True)
    steps: list[str] = []
    monkeypatch.setattr(install, "_guarded", lambda what, step: steps.append(what))
    vllm_plugin.register()
    vllm_plugin.register()
    assert len(steps) == len(set(steps)) > 1


def test_a_failing_step_warns_and_lets_vllm_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[tuple[str, str]] = []
    announce = types.ModuleType("announce")
    announce.not_patched = lambda what, why: warnings.append((what, why))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.serve.vllm_plugin.announce", announce)
    monkeypatch.setattr(vllm_plugin, "announce", announce, raising=False)

    def step() -> None:
        raise AttributeError("module 'linear' has no attribute '_POSSIBLE_FP8_KERNELS'")

    install._guarded("FP8 linear layers", step)
    assert warnings == [
        ("FP8 linear layers", "AttributeError: module 'linear' has no attribute '_POSSIBLE_FP8_KERNELS'")
    ]
