"""An engine's own environment appears whole or not at all; its worker is reported by name and never outlives us."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ConfigError, StageError
from pipeline.stages.quantize.isolated import environment


class Said:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.details: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text.strip())

    def detail(self, text: str) -> None:
        self.details.append(text)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory):
    """An engine `stub` with an empty lock, in a cache of its own, for the tests that only call it."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "stub.txt").write_text("# nothing\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "LOCKS", folder)
        patch.setenv(environment.CACHE, str(folder / "cache"))
        yield folder


@pytest.fixture
def fresh(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with nothing installed."""
    monkeypatch.setenv(environment.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def call(ready: Path, tmp_path: Path):
    """Runs a worker of the given source; returns its answer."""

    def run(source: str, progress: Said | None = None, **request) -> dict:
        script = tmp_path / "worker.py"
        script.write_text(source)
        return environment.call("stub", script, request, tmp_path / "worker.log", progress or Said())

    return run


def test_an_environment_is_made_once_with_torch_and_nothing_else_of_ours(fresh: Path) -> None:
    said = Said()
    python = environment.environment("stub", said)
    assert environment.environment("stub", said) == python
    assert said.lines == ["installing stub (once)"]
    assert python.is_relative_to(fresh)
    look = "import importlib.util as u; print(*(bool(u.find_spec(n)) for n in ('torch', 'transformers', 'pipeline')))"
    assert subprocess.check_output([python, "-I", "-c", look], text=True).split() == ["True", "False", "False"]


def test_a_half_made_environment_is_never_used(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = environment._build

    def stopped(name: str, lock: Path, folder: Path, progress: Said) -> None:
        build(name, lock, folder, progress)
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "_build", stopped)
    with pytest.raises(KeyboardInterrupt):
        environment.environment("stub", Said())
    assert not environment.folder_of("stub").exists()
    monkeypatch.setattr(environment, "_build", build)
    assert environment.environment("stub", Said()).exists()
    assert not list(fresh.rglob("half"))
    assert [path.name for path in fresh.iterdir() if path.is_dir()] == [environment.folder_of("stub").name]


def test_a_kill_while_it_is_made_leaves_nothing_that_looks_finished(fresh: Path, ready: Path) -> None:
    source = f"""
import time
from pathlib import Path
from pipeline.stages.quantize.isolated import environment as isolated
class Told:
    def say(self, text): print(text, flush=True)
    def detail(self, text): pass
isolated.LOCKS = Path({str(ready)!r})
isolated._link_torch = lambda site: (print("half", flush=True), time.sleep(600))
isolated.environment("stub", Told())
"""
    caller = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    assert [caller.stdout.readline().strip() for _ in range(2)] == ["installing stub (once)", "half"]
    caller.kill()
    caller.communicate(timeout=30)
    (half,) = [path for path in fresh.iterdir() if path.is_dir()]
    assert (half / "bin" / "python").exists()
    assert half.name.startswith(".")
    assert not environment.folder_of("stub").exists()
    assert environment.environment("stub", Said()).exists()
    assert [path.name for path in fresh.iterdir() if path.is_dir()] == [environment.folder_of("stub").name]


def test_a_worker_gets_no_secret(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    found = call("import os\ndef work(request, progress): return dict(os.environ)")
    assert "HF_TOKEN" not in found and found["MALLOC_ARENA_MAX"] == "7"


def test_an_environment_that_lost_its_interpreter_is_made_again(fresh: Path) -> None:
    python = environment.environment("stub", Said())
    python.unlink()
    assert environment.environment("stub", Said()).exists()


def test_those_who_come_at_the_same_time_wait(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(name: str, lock: Path, folder: Path, progress: Said) -> None:
        built.append(name)
        time.sleep(0.5)
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(environment, "_build", build)
    said = [Said() for _ in range(3)]
    threads = [threading.Thread(target=environment.environment, args=("stub", each)) for each in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["stub"]
    assert sorted(line for each in said for line in each.lines + each.details) == [
        "installing stub (once)",
        *["waiting for another run that installs stub"] * 2,
    ]


@pytest.fixture
def locked(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An engine whose lock names one wheel; `locked(hash)` writes the lock."""
    wheel = tmp_path / "tiny_engine-1-py3-none-any.whl"
    about = "tiny_engine-1.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny_engine.py", "VALUE = 3\n")
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-engine\nVersion: 1\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", f"tiny_engine.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    monkeypatch.setattr(environment, "LOCKS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()

    def lock(name: str = "tiny-engine", value: str = digest) -> None:
        (tmp_path / "stub.txt").write_text(f"{name}==1 --hash=sha256:{value}\n")

    return lock


def test_what_the_lock_names_is_installed(locked) -> None:
    locked()
    python = environment.environment("stub", Said())
    assert subprocess.check_output([python, "-Ic", "import tiny_engine; print(tiny_engine.VALUE)"], text=True) == "3\n"


@pytest.mark.parametrize(
    ("lock", "reason"),
    [
        ({"value": "0" * 64}, "DO NOT MATCH THE HASHES"),
        ({"name": "not-there"}, "No matching distribution found for not-there==1"),
    ],
)
def test_what_cannot_be_installed_is_said_and_leaves_nothing(locked, lock: dict[str, str], reason: str) -> None:
    locked(**lock)
    with pytest.raises(StageError, match=reason) as caught:
        environment.environment("stub", Said())
    assert "choose another engine" in caught.value.remedy
    assert not environment.folder_of("stub").exists()


def test_an_unknown_engine_is_named(ready: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine=nobody has no environment of its own.*has: stub"):
        environment.environment("nobody", Said())


def test_a_worker_answers_and_says_what_it_does(call, tmp_path: Path) -> None:
    said = Said()
    source = """
import os
def work(request, progress):
    print("a library's remark")
    os.system("echo and its child")
    progress("layer 1/2")
    return {"sum": request["a"] + request["b"]}
"""
    assert call(source, said, a=1, b=2) == {"sum": 3}
    assert said.details == ["layer 1/2"]
    assert {"a library's remark", "and its child"} <= set((tmp_path / "worker.log").read_text().splitlines())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no such layer')", r"stub failed with exit code 1: ValueError: no such layer\."),
        ("import sys; sys.exit(7)", r"stub failed with exit code 7\."),
        ("import os; os.kill(os.getpid(), 9)", r"stub was ended by SIGKILL \(out of memory\?\)\."),
        ("import os; os.abort()", r"stub was ended by SIGABRT\."),
        ("import os; os._exit(0)", r"stub ended without an answer\."),
        ("return 'words'", r"stub answered '\"words\"', which is no JSON object\."),
        ("return {1, 2}", r"stub failed with exit code 1: TypeError: Object of type set is not JSON serializable\."),
    ],
)
def test_a_worker_that_fails_is_reported_by_name(call, body: str, reason: str) -> None:
    with pytest.raises(StageError, match=reason) as caught:
        call(f"def work(request, progress):\n    {body}\n")
    assert "worker.log" in caught.value.remedy


def test_a_script_that_is_no_worker_is_reported(call) -> None:
    with pytest.raises(StageError, match="KeyError: 'work'"):
        call("x = 1\n")


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


SLEEPER = """
import subprocess, sys, time
def work(request, progress):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    import os
    progress(f"{os.getpid()} {child.pid}")
    if request.get("fails"):
        os._exit(3)
    time.sleep(600)
"""


def test_what_a_crashed_worker_started_ends_with_it(call) -> None:
    said = Said()
    with pytest.raises(StageError, match="exit code 3"):
        call(SLEEPER, said, fails=True)
    assert all(gone(int(pid)) for pid in said.details[0].split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_one_who_asked(ready: Path, tmp_path: Path, number: signal.Signals) -> None:
    environment.environment("stub", Said())
    (tmp_path / "worker.py").write_text(SLEEPER)
    source = f"""
import signal
# A shell that runs the tests in the background has told all below it to ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from pipeline.stages.quantize.isolated import environment as isolated
class Told:
    def say(self, text): pass
    def detail(self, text): print(text, flush=True)
isolated.LOCKS = Path({str(ready)!r})
isolated.call("stub", Path("worker.py"), {{}}, Path("worker.log"), Told())
"""
    caller = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert caller.stdout is not None
    pids = [int(pid) for pid in caller.stdout.readline().split()]
    assert len(pids) == 2
    os.kill(caller.pid, number)
    _, errors = caller.communicate(timeout=30)
    assert all(gone(pid) for pid in pids)
    assert (number is signal.SIGINT) == ("KeyboardInterrupt" in errors)
