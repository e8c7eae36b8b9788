"""Servers of the pipeline's own that misbehave: each ends in an answer, or in a ServerError with the reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import stub_vllm
from support.settings import settings_of, variants_of

from pipeline.config import PROJECT_ROOT, Settings
from pipeline.errors import ServerError
from pipeline.hardware.probe import Hardware
from pipeline.progress import Progress
from pipeline.runner import Runner
from pipeline.serve import launcher
from pipeline.serve.server import Serving

GPU = Hardware(device="cuda", name="Imaginary", cores=2, memory_gib=8.0)
SECRETS = {
    "HF_TOKEN": "hf_secret",
    "HUGGING_FACE_HUB_TOKEN": "hf_secret",
    "OPENAI_API_KEY": "sk_secret",
    "VLLM_API_KEY": "vk_secret",
    "AWS_SECRET_ACCESS_KEY": "aws_secret",
    "DATABASE_PASSWORD": "db_secret",
}
# What a user may have set for servers of another kind.
UNFIT = {
    "VLLM_PLUGINS": "none",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_HOST_IP": "10.0.0.1",
    "VLLM_PORT": "1",
    "PROMETHEUS_MULTIPROC_DIR": "/no/such/folder",
}


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    found = Serving(GPU, tmp_path / "logs", Progress())
    yield found
    found.stop()
    launcher.close_launchers()


def settings(python: str, **changes: Any) -> Settings:
    chosen = settings_of("quant=bf16")
    serve = chosen.serve.model_copy(update={"python": python, "start_timeout_s": 30.0, **changes})
    return chosen.model_copy(update={"serve": serve})


@pytest.mark.parametrize(
    ("behaviour", "ends"),
    [
        ("well", ["word"]),
        ("dies at start", "vLLM exited with code 3 because of ValueError: no room for the cache"),
        ("hangs at start", "vLLM was not ready in time"),
        ("dies in the middle", "vLLM exited with code 9"),
        ("garbage", "vLLM did not answer as asked .JSONDecodeError"),
        ("500", "vLLM did not answer as asked .HTTPStatusError: Server error '500"),
        ("cannot be imported", "vLLM cannot be imported by .*No module named 'module_that_is_not_there'"),
    ],
)
def test_each_ends_in_an_answer_or_the_reason(
    behaviour: str, ends: list[str] | str, serving: Serving, tmp_path: Path
) -> None:
    python, _ = stub_vllm.make(tmp_path, behaviour)
    chosen = settings(python, start_timeout_s=2.0 if behaviour == "hangs at start" else 30.0)

    def answered() -> list[str]:
        server = serving.serve(tmp_path, chosen, "bf16")
        try:
            return server.complete(["question"], 1)
        except ServerError:
            # The launcher looks for the end of its children five times a second.
            time.sleep(1)
            server.check_alive()
            raise

    if isinstance(ends, list):
        assert answered() == ends
        return
    with pytest.raises(ServerError, match=ends):
        answered()


def test_a_vllm_that_cannot_be_imported_is_tried_once(serving: Serving, tmp_path: Path) -> None:
    python, _ = stub_vllm.make(tmp_path, "cannot be imported")
    for variant in ("bf16", "fp8_dynamic", "awq"):
        with pytest.raises(ServerError, match="cannot be imported"):
            serving.serve(tmp_path, settings(python), variant)
    assert stub_vllm.starts(python) == 1


def test_a_vllm_that_cannot_be_imported_is_found_before_anything_is_made(tmp_path: Path) -> None:
    python, _ = stub_vllm.make(tmp_path, "cannot be imported")
    outputs = tmp_path / "outputs"
    given = ["stage=[quantize,verify]", "variants=[fp8_dynamic,int8_dynamic]", f"serve.python={python}"]
    run = Runner(variants_of(*given, f"outputs={outputs}"), given)
    with pytest.raises(ServerError, match="vLLM cannot be imported"):
        run.execute()
    assert not list(outputs.rglob("manifest.json"))
    # Once to read versions, once to import.
    assert stub_vllm.starts(python) == 2
    launcher.close_launchers()


def test_servers_and_clients_get_neither_secrets_nor_what_is_meant_for_others(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SECRETS, **UNFIT, "VLLM_ATTENTION_BACKEND": "FLASHINFER"}.items():
        monkeypatch.setenv(name, value)
    python, seen = stub_vllm.make(tmp_path, "well")
    server = serving.serve(tmp_path, settings(python), "bf16")
    environment = json.loads(seen.read_text())
    assert not environment.keys() & (SECRETS.keys() | UNFIT.keys())
    assert not set(environment.values()) & set(SECRETS.values())
    assert environment["VLLM_ATTENTION_BACKEND"] == "FLASHINFER"
    # A client gets the key of the server that it is sent to, and of no other.
    server.client_environment = {"OPENAI_API_KEY": "theirs"}
    client = tmp_path / "client.json"
    serving.benchmark(server, ["--seen", str(client)], tmp_path / "client.log", 30)
    assert json.loads(client.read_text())["OPENAI_API_KEY"] == "theirs"
    assert "theirs" not in (tmp_path / "client.log").read_text()
    words = [" ".join(process.cmdline()) for process in psutil.Process(server.launcher._process.pid).children()]
    assert not any("theirs" in each for each in words)


def test_a_launcher_that_is_gone_is_stopped_already_and_started_anew(serving: Serving, tmp_path: Path) -> None:
    python, _ = stub_vllm.make(tmp_path, "well")
    server = serving.serve(tmp_path, settings(python), "bf16")
    os.kill(server.launcher._process.pid, signal.SIGKILL)
    wait_for(lambda: not server.launcher.is_running())
    with pytest.raises(ServerError, match="The vLLM launcher exited"):
        server.check_alive()
    serving.stop()
    assert serving.serve(tmp_path, settings(python), "bf16").complete(["question"], 1) == ["word"]
    assert stub_vllm.starts(python) == 2


def sockets_of(seen: Path) -> Path:
    return Path(json.loads(seen.read_text())["VLLM_RPC_BASE_PATH"])


def test_no_sockets_of_a_server_are_left(serving: Serving, tmp_path: Path) -> None:
    python, seen = stub_vllm.make(tmp_path, "well")
    serving.serve(tmp_path, settings(python), "bf16")
    folder = sockets_of(seen)
    assert (folder / "socket").exists()
    assert len(str(folder / ("x" * 36))) < 100, "of 107 bytes that a socket's path may have"
    launcher.close_launchers()
    assert not folder.exists()


KILLED = """
import sys, time
from pathlib import Path
from pipeline.config import ServeSettings
from pipeline.progress import Progress
from pipeline.serve.server import Serving
from test_serve_misbehaving import GPU, settings
folder = Path(sys.argv[1])
Serving(GPU, folder / "logs", Progress()).serve(folder, settings(sys.argv[2]), "bf16")
(folder / "ready").touch()
time.sleep(600)
"""


def test_no_sockets_are_left_by_a_pipeline_that_is_killed(tmp_path: Path) -> None:
    python, seen = stub_vllm.make(tmp_path, "well")
    paths = [str(PROJECT_ROOT), str(Path(__file__).parent), str(PROJECT_ROOT / "tests")]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), python],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        wait_for(lambda: (tmp_path / "ready").exists())
        folder = sockets_of(seen)
        family = psutil.Process(child.pid).children(recursive=True)
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: not folder.exists())
        assert not psutil.wait_procs(family, timeout=20)[1]
    finally:
        child.kill()
        child.wait()


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
