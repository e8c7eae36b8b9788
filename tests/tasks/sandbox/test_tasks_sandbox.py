"""The sandbox under attack: every way out is tried for real, and good programs pass."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.config import PROJECT_ROOT
from pipeline.errors import ConfigError
from pipeline.tasks.sandbox import sandbox
from pipeline.tasks.sandbox.sandbox import Sandbox, cores, run_program
from pipeline.tasks.sandbox.supervisor import GONE_TIMEOUT_S, WALL_PER_CPU, Outcome
from pipeline.tasks.sandbox.visible import visible

DATA = Path(os.environ.get("PIPELINE_DATA_DIR", PROJECT_ROOT.parent / "shared" / "data"))
HUMANEVAL = DATA / "humaneval" / "HumanEval.jsonl"


def run_programs(sources: list[str], timeout_s: float | None = None, *, at_once: int = 0) -> list[Outcome]:
    """Runs programs side by side, so many or one on each core; the outcomes in their order."""
    with ThreadPoolExecutor(at_once or cores()) as pool:
        return list(pool.map(lambda source: run_program(source, timeout_s=timeout_s), sources))


@pytest.fixture(params=["namespaces", "bubblewrap"])
def box(request: pytest.FixtureRequest) -> Sandbox:
    """Each way of isolation that works on this machine."""
    found = Sandbox(request.param)
    if found.trouble is not None:
        pytest.skip(f"{request.param}: {found.trouble}")
    return found


def run(box: Sandbox, source: str, timeout_s: float = 2) -> Outcome:
    started = time.monotonic()
    outcome = box.run(source, timeout_s=timeout_s)
    # Nothing that a program does may hold the evaluation up for much longer than its wall time.
    assert time.monotonic() - started < WALL_PER_CPU * timeout_s + GONE_TIMEOUT_S + 10
    return outcome


GOOD = {
    "arithmetic": "assert 1 + 1 == 2",
    "standard library": "import math, re, collections, itertools, hashlib, json, random, decimal, datetime, zoneinfo",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nassert P(1).x == 1",
    "unicode": "assert '答案'[0] == '答'",
    "temporary file": "open('/tmp/a', 'w').write('b')\nassert open('a').read() == 'b'",
    "threads": "from concurrent.futures import ThreadPoolExecutor as T\nassert sum(T(4).map(abs, [-1, 2])) == 3",
    "processes": "from multiprocessing import Pool\nassert Pool(2).map(abs, [-1]) == [1]",
    "a subprocess": "import subprocess, sys\nassert subprocess.run([sys.executable, '-c', 'print(1)']).returncode == 0",
    "numpy": "import numpy\nassert numpy.linalg.inv(numpy.eye(3)).sum() == 3",
    "recursion": "def f(n):\n    return n and f(n - 1)\nf(900)",
    "much memory, but not too much": "assert len(bytearray(300 * 2**20))",
    "output": "print('x' * 10_000)",
    "input is empty": "import sys\nassert sys.stdin.read() == ''",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_programs_pass(box: Sandbox, name: str) -> None:
    assert run(box, GOOD[name]) == Outcome(True, "passed")


BAD = {
    "a failed test": ("def f(x):\n    return x\nassert f(1) == 2", "AssertionError (line 3: assert f(1) == 2)"),
    "a syntax error": ("def f(:", "SyntaxError"),
    "a package that is not for programs": ("import torch", "ModuleNotFoundError"),
    "leaving early": ("raise SystemExit(0)", "SystemExit"),
    "leaving without a trace": ("import os\nos._exit(0)", "exited early with code 0"),
    "a crash": ("import ctypes\nctypes.string_at(0)", "exited early with code 139"),
    "a child that passes": ("import os\nif os.fork():\n    os.wait()\n    assert False", "AssertionError"),
    "an endless loop": ("while True: pass", "timed out"),
    "sleep": ("import time\ntime.sleep(1000)", "timed out"),
    "endless output": ("while True: print('x' * 1000)", "wrote more than 1 MiB"),
    "10 GB": ("x = bytearray(10 * 2**30)", "MemoryError"),
    "a file of 1 GB": ("f = open('/tmp/x', 'wb')\nfor _ in range(1024): f.write(bytes(2**20))", "File too large"),
    "many files": ("for i in range(100): open(f'/tmp/{i}', 'wb').write(bytes(2**23))", "No space left"),
    "deep recursion": ("def f(): f()\nf()", "RecursionError"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_programs_fail_and_say_why(box: Sandbox, name: str) -> None:
    source, detail = BAD[name]
    outcome = run(box, source, timeout_s=1)
    assert not outcome.passed
    assert detail in outcome.detail


def test_memory_of_all_processes_counts_together(box: Sandbox) -> None:
    hog = "import os, time\nfor _ in range(8):\n    if not os.fork(): break\nx = b'x' * (400 * 2**20)\ntime.sleep(60)"
    outcome = run(box, hog, timeout_s=5)
    assert not outcome.passed
    assert "memory" in outcome.detail.lower()


def test_a_fork_bomb_is_stopped_and_leaves_nothing(box: Sandbox) -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert not run(box, bomb, timeout_s=1).passed
    assert not any("RLIMIT_NPROC" in line for line in command_lines())


def test_packages_below_tmp_are_there_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Sandbox("namespaces")
    if box.trouble is not None:
        pytest.skip(f"namespaces: {box.trouble}")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        (Path(folder) / "module.txt").write_text("here")
        Path(folder).chmod(0o755)
        seen = visible()
        monkeypatch.setattr(sandbox, "visible", lambda: seen._replace(paths=[*seen.paths, folder]))
        program = f"""
assert open("{folder}/module.txt").read() == "here"
open("/tmp/own", "w").write("x")
try:
    open("{folder}/other", "w")
except OSError:
    pass
else:
    raise AssertionError("written")
"""
        assert box.run(program) == Outcome(True, "passed")


def test_what_a_program_started_dies_with_it(box: Sandbox) -> None:
    seconds = 6_000 + os.getpid() % 1000
    daemon = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(__import__("sys").executable, ["python", "-c", "import time; time.sleep({seconds})"])
    os._exit(0)
time.sleep(0.3)
"""
    assert run(box, daemon).passed
    assert not any(f"time.sleep({seconds})" in line for line in command_lines())


SECRETS = {
    "the home": str(Path.home()),
    "root's home": "/root",
    "the homes": "/home",
    "the project": str(PROJECT_ROOT),
    "the environment": sys.prefix,
    "passwords": "/etc/passwd",
    "processes": "/proc/1/environ",
    "the working folder": os.getcwd(),
    "devices": "/dev/mem",
}


@pytest.mark.parametrize("name", SECRETS)
def test_the_users_files_are_out_of_sight(box: Sandbox, name: str) -> None:
    path = SECRETS[name]
    allowed = visible().paths
    source = f"""
import os
def walk(path):
    if any(path == a or path.startswith(a + "/") for a in {allowed!r}):
        return
    if os.path.isdir(path):
        for name in os.listdir(path):
            walk(os.path.join(path, name))
    elif os.path.lexists(path):
        raise SystemExit("sees " + path)
walk({path!r})
"""
    assert run(box, source) == Outcome(True, "passed")


def test_a_file_in_the_home_cannot_be_read(box: Sandbox, tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".sandbox-test-") as private:
        private.write(b"secret")
        private.flush()
        for path in (private.name, os.path.join("/tmp", "..", private.name.lstrip("/"))):
            assert "FileNotFoundError" in run(box, f"open({path!r}).read()").detail


def test_nothing_can_be_written_outside_the_temporary_folder(box: Sandbox, tmp_path: Path) -> None:
    places = [
        *(p for p in visible().paths if os.path.isdir(p)),
        "/",
        "/dev",
        "/usr",
        "/etc",
        str(tmp_path),
        str(Path.home()),
    ]
    source = f"""
import os
for place in {places!r}:
    try:
        open(os.path.join(place, "sandbox-was-here"), "w")
    except OSError:
        continue
    raise SystemExit("wrote to " + place)
os.makedirs("/tmp/deep/er")
"""
    assert run(box, source) == Outcome(True, "passed")
    assert not list(tmp_path.iterdir())


def test_two_programs_share_no_folder(box: Sandbox) -> None:
    assert run(box, "open('/tmp/left', 'w').write('x')").passed
    assert run(box, "import os\nassert os.listdir('/tmp') == []").passed


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_no_socket_reaches_the_machine(box: Sandbox, listener: int) -> None:
    for address in (("127.0.0.1", listener), ("192.0.2.1", 80)):
        assert "PermissionError" in run(box, f"import socket\nsocket.create_connection({address}, 1)").detail


def test_unix_sockets_of_the_machine_are_out_of_reach(box: Sandbox) -> None:
    name = f"\0sandbox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        source = f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})"
        assert "ConnectionRefusedError" in run(box, source).detail


def test_the_environment_is_not_the_users(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    assert run(box, f"import os\nassert not set(os.environ) - {set(sandbox.ENVIRONMENT) | {'PWD'}!r}").passed


def test_no_process_outside_can_be_killed(box: Sandbox) -> None:
    victim = subprocess.Popen(["sleep", "600"])
    try:
        attack = f"""
import os, signal
for pid in ({victim.pid}, {os.getpid()}, os.getppid(), 1, -1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""
        run(box, attack)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_no_privilege_is_left(box: Sandbox) -> None:
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert os.getuid() != 0
assert libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1
assert libc.chroot(b"/tmp") == -1
assert libc.sethostname(b"x", 1) == -1
for path in ("/", "/usr/lib"):
    assert libc.mount(b"none", path.encode(), None, 32 | 4096, None) == -1
try:
    os.setuid(0)
    raise SystemExit("became root")
except OSError:
    pass
"""
    assert run(box, source) == Outcome(True, "passed")


def test_the_order_of_sets_is_the_same_each_time(box: Sandbox) -> None:
    source = "raise SystemExit(''.join({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))"
    assert len({run(box, source).detail for _ in range(4)}) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user")
@pytest.mark.parametrize("kind", ["namespaces", "bubblewrap"])
def test_an_ordinary_user_is_isolated_too(kind: str) -> None:
    """With another interpreter: that user may not be able to reach the one that runs this test.

    Packages are installed below /tmp, which the program has a folder of its own for.
    """
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no interpreter that another user can run")
    script = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pipeline.tasks.sandbox.sandbox import Sandbox
box = Sandbox(sys.argv[2])
print(json.dumps(box.trouble))
for source in json.loads(sys.argv[3]) if box.trouble is None else ():
    print(json.dumps(box.run(source, timeout_s=1).detail))
"""
    attacks = ["while True: pass", "import os\nwhile True: os.fork()", "open('/etc/passwd')", "import os\nos._exit(3)"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        package = Path(folder, "pipeline", "tasks", "sandbox")
        package.mkdir(parents=True)
        shutil.copy(PROJECT_ROOT / "pipeline" / "errors.py", Path(folder, "pipeline"))
        for name in ("sandbox.py", "supervisor.py", "syscalls.py", "visible.py", "_jail.py", "_runner.py"):
            shutil.copy(PROJECT_ROOT / "pipeline" / "tasks" / "sandbox" / name, package / name)
        for place in (package, *package.parents[:2]):
            (place / "__init__.py").touch()
        Path(folder, "numpy").mkdir()
        Path(folder, "numpy", "__init__.py").write_text("FOUND = True")
        os.chmod(folder, 0o755)
        answer = subprocess.run(
            [python, "-c", script, folder, kind, json.dumps(["import numpy\nassert numpy.FOUND", *attacks])],
            cwd="/",
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
        )
    if "SyntaxError" in answer.stderr or "ImportError" in answer.stderr:
        pytest.skip(f"{python} is too old")
    assert answer.returncode == 0, answer.stderr
    trouble, *details = map(json.loads, answer.stdout.splitlines())
    assert "No such file" not in (trouble or "") or shutil.which("bwrap") is None, trouble
    if trouble is not None:
        pytest.skip(f"{kind}: {trouble}")
    assert details[0] == "passed"
    assert "timed out" in details[1]
    assert "BlockingIOError" in details[2]
    assert "FileNotFoundError" in details[3]
    assert details[4] == "exited early with code 3"


def test_without_isolation_running_programs_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sandbox, "trouble", "not allowed here")
    sandbox.choose.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"cannot be isolated.*not allowed here") as caught:
            run_program("pass")
        assert "eval.unsafe_code=true" in caught.value.remedy
        with sandbox.policy(unsafe=True, timeout_s=2):
            assert run_program("assert True").passed
            assert run_program("while True: pass", timeout_s=1).detail.startswith("timed out")
            assert not run_program("x = bytearray(10 * 2**30)").passed
    finally:
        sandbox.choose.cache_clear()


def test_without_a_filter_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "filter_for", lambda: None)
    assert Sandbox("namespaces").trouble == f"no system-call filter for {os.uname().machine}"
    outcome = Sandbox("namespaces").run("pass")
    assert not outcome.passed
    assert outcome.detail.startswith("did not start")


def test_programs_run_side_by_side_in_order() -> None:
    outcomes = run_programs([f"assert {i} % 3" for i in range(12)], timeout_s=5)
    assert [outcome.passed for outcome in outcomes] == [bool(i % 3) for i in range(12)]


def test_threads_of_many_programs_do_not_limit_each_other() -> None:
    threads = GOOD["threads"].replace("T(4)", "T(8)")
    outcomes = run_programs([threads] * cores() * 8, timeout_s=10, at_once=cores() * 8)
    assert [outcome for outcome in outcomes if not outcome.passed] == []


def solutions() -> Iterator[tuple[str, str]]:
    """HumanEval's solutions with their tests, each with a broken twin."""
    for line in HUMANEVAL.read_text().splitlines():
        problem = json.loads(line)
        tests = f"\n{problem['test']}\ncheck({problem['entry_point']})"
        yield tuple(problem["prompt"] + body + tests for body in (problem["canonical_solution"], BROKEN))


BROKEN = "    return object()\n"


@pytest.mark.slow
@pytest.mark.skipif(not HUMANEVAL.is_file(), reason=f"{HUMANEVAL} is not there")
@pytest.mark.parametrize("at_once", [cores(), 24])
def test_humanevals_solutions_pass_and_their_broken_twins_fail(at_once: int) -> None:
    right, wrong = zip(*solutions(), strict=True)
    assert len(right) == 164
    assert [o for o in run_programs(list(right), at_once=at_once) if not o.passed] == []
    assert [o for o in run_programs(list(wrong), at_once=at_once) if o.passed] == []


def command_lines() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found
