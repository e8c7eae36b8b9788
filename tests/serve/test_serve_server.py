"""What served results depend on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import Settings
from pipeline.errors import ServerError
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


@pytest.mark.parametrize(
    ("line", "is_logged", "agrees"),
    [
        ("Selected HummingFP8ScaledMMLinearKernel for CompressedTensorsW8A8Fp8", True, True),
        ("Selected CutlassFP8ScaledMMLinearKernel for CompressedTensorsW8A8Fp8", True, False),
        ("nothing of kernels", True, False),
        ("nothing of kernels", False, True),
        ("Weight-only FP8 compression will be used leveraging the Marlin kernel.", False, False),
    ],
)
def test_a_kernel_that_vllm_does_not_log_is_not_missed(
    line: str, is_logged: bool, agrees: bool, tmp_path: Path
) -> None:
    log = tmp_path / "serve.log"
    log.write_text(f"INFO 11-25 03:04:05 [__init__.py:759] {line}\n")
    server = Server(None, 0, "", log, tmp_path, [])  # type: ignore[arg-type]
    if agrees:
        server.check_kernel("humming", is_logged=is_logged)
        return
    with pytest.raises(ServerError, match="serve.kernel=humming was requested"):
        server.check_kernel("humming", is_logged=is_logged)


@pytest.mark.parametrize("gib", [4.4, 0.2, 2.0])
def test_the_kv_cache_of_a_cpu_may_be_a_fraction_of_a_gib(gib: float, settings: Any, tmp_path: Path) -> None:
    serving = Serving(Hardware(device="cpu", name="Imaginary", cores=2, memory_gib=8.0), tmp_path, Progress())
    chosen = settings(f"serve.cpu_kv_cache_gib={gib}")
    argv, environment = serving._arguments(tmp_path, chosen, False), serving._environment(chosen)
    # vLLM takes whole numbers in the variable, and prefers it.
    space = environment.get("VLLM_CPU_KVCACHE_SPACE")
    given = int(argv[argv.index("--kv-cache-memory-bytes") + 1]) if space is None else int(space) * 2**30
    assert given == int(gib * 2**30)


@pytest.mark.parametrize(
    ("given", "arguments", "cores"),
    [
        ((), (), "0-7"),
        (("serve.tensor_parallel=2",), ("--tensor-parallel-size", "2"), "0-3|4-7"),
        (("serve.tensor_parallel=1", "serve.data_parallel=2"), ("--data-parallel-size", "2"), "0-3|4-7"),
        (("serve.tensor_parallel=2", "serve.cpu_cores=0-1|2-3"), ("--tensor-parallel-size", "2"), "0-1|2-3"),
    ],
)
def test_a_server_is_divided_as_the_settings_say(
    given: tuple[str, ...], arguments: tuple[str, ...], cores: str, settings: Any, tmp_path: Path
) -> None:
    serving = Serving(Hardware(device="cpu", name="Imaginary", cores=8, memory_gib=8.0), tmp_path, Progress())
    argv = serving._arguments(tmp_path, settings(*given), False)
    at = next((index for index, word in enumerate(argv) if "parallel" in word), len(argv))
    assert tuple(argv[at : at + 2 if arguments else None]) == arguments
    assert serving._environment(settings(*given))["VLLM_CPU_OMP_THREADS_BIND"] == cores


@pytest.mark.parametrize(("temperature", "source"), [("0", "vllm"), ("0.7", "vllm"), ("null", "auto")])
def test_the_generation_config_counts_only_where_a_benchmark_leaves_sampling_to_it(
    temperature: str, source: str, settings: Any, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    named = {"temperature": 0.6, "repetition_penalty": 1.05}
    more = {"eos_token_id": 1, "max_new_tokens": 32}
    (checkpoint / "generation_config.json").write_text(json.dumps({**named, **more}))
    hardware = Hardware(device="cuda", name="Imaginary", cores=2, memory_gib=8.0)
    serving = Serving(hardware, tmp_path, Progress())
    argv = serving._arguments(checkpoint, settings(f"bench.temperature={temperature}"), False)
    assert argv[argv.index("--generation-config") + 1] == source
    # It would limit replies of any length, and refuse fixed lengths above it.
    assert ('{"max_new_tokens": null}' in argv) == (source == "auto")
    log = tmp_path / "serve.log"
    log.write_text("")
    launcher: Any = SimpleNamespace(versions={})
    facts = Server(launcher, 1, "http://127.0.0.1:1", log, checkpoint, argv).facts()
    assert facts.generation_config == named
    assert facts.sampling == (named if source == "auto" else {})
