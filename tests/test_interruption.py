"""A signal ends the command within ten seconds, with its own exit code, and is no failure of the step that it meets."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from pipeline import interruption

# The command with other work: a step that says when it has begun, and then does `BODY`.
COMMAND = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
import pipeline.__main__ as command
from pipeline import interruption
from pipeline.artifacts.workspace import Workspace
from pipeline.errors import ServerError

def ready():
    print("ready", flush=True)

def work(words):
    workspace = Workspace(Path(sys.argv[1]))
    artifact = workspace.artifact("bench", "demo", "awq", {})
    with workspace.making(artifact, {}) as draft:
        (draft.folder / "half").write_text("x")
BODY
    return 0

command._command = work
command.main()
"""


def _as_a_shell_starts_it() -> None:
    """Undo what `nohup` or a background job leaves ignored, which a command respects."""
    for number in interruption.SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def begun(tmp_path: Path, body: str, **options) -> subprocess.Popen:
    script = COMMAND.replace("BODY", textwrap.indent(textwrap.dedent(body), " " * 8))
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **{"preexec_fn": _as_a_shell_starts_it, **options},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


CLEANUP_FAILS = """
    try:
        ready()
        time.sleep(60)
    finally:
        raise ServerError("The vLLM launcher exited.")
"""
SWALLOWED = """
    ready()
    for _ in range(2):
        try:
            time.sleep(60)
        except BaseException:
            break
    raise ServerError("no answer.")
"""


@pytest.mark.parametrize("body", [CLEANUP_FAILS, SWALLOWED], ids=["cleanup fails", "swallowed"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["int", "term", "hup"]
)
def test_what_fails_after_a_signal_is_no_failure(tmp_path: Path, body: str, number: signal.Signals, code: int) -> None:
    child = begun(tmp_path, body)
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == code
    assert b"interrupted; finished artifacts are kept" in errors
    assert left(tmp_path) == []


def test_a_server_that_the_same_signal_ends_first_is_no_failure(tmp_path: Path) -> None:
    body = """
        ready()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise ServerError("it ended.")
    """
    child = begun(tmp_path, body)
    child.communicate(timeout=30)
    assert child.returncode == 143
    assert left(tmp_path) == []


def test_a_failure_without_a_signal_is_recorded(tmp_path: Path) -> None:
    child = begun(tmp_path, 'ready()\nraise ServerError("it ended.")')
    child.communicate(timeout=30)
    (manifest,) = tmp_path.glob("demo/awq/bench-*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "failed"


def test_a_second_signal_does_not_disturb_the_cleanup(tmp_path: Path) -> None:
    body = """
        try:
            ready()
            time.sleep(60)
        finally:
            time.sleep(1.5)
            Path(sys.argv[1], "cleaned").touch()
    """
    child = begun(tmp_path, body)
    for _ in range(2):
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    child.communicate(timeout=30)
    assert child.returncode == 143
    assert left(tmp_path) == ["cleaned"]


@pytest.mark.parametrize("obstacle", ["hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", "time.sleep(60)"])
def test_what_does_not_end_is_ended_with_its_descendants(tmp_path: Path, obstacle: str) -> None:
    body = f"""
        import hashlib
        interruption.GRACE_S = 1.0
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        Path(sys.argv[1], "pid").write_text(str(child.pid))
        ready()
        try:
            time.sleep(0.2 if "hashlib" in {obstacle!r} else 60)
        finally:
            {obstacle}
    """
    child = begun(tmp_path, body)
    time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    began = time.monotonic()
    child.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert child.returncode == 143
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_taking_the_interpreter_apart_does_not_delay_the_end(tmp_path: Path) -> None:
    """No thread of Python runs while it does, so that nothing would end it."""
    body = """
        class Slow:
            def __del__(self, sleep=time.sleep):
                sleep(20)
        sys.modules["kept"] = Slow()
        import atexit
        atexit.register(Path(sys.argv[1], "registered").touch)
        ready()
        time.sleep(60)
    """
    child = begun(tmp_path, body)
    child.send_signal(signal.SIGTERM)
    began = time.monotonic()
    child.communicate(timeout=30)
    assert child.returncode == 143 and time.monotonic() - began < 8
    assert left(tmp_path) == ["registered"]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    child = begun(tmp_path, "ready()\ntime.sleep(1)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    child.send_signal(signal.SIGHUP)
    child.communicate(timeout=30)
    assert child.returncode == 0


def test_a_signal_to_a_forked_child_concerns_the_child_alone(tmp_path: Path) -> None:
    body = """
        interruption.GRACE_S = 0.5
        child = os.fork()
        if not child:
            time.sleep(60)
        time.sleep(0.3)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        ready()
        time.sleep(1.5)
    """
    child = begun(tmp_path, body)
    child.communicate(timeout=30)
    assert child.returncode == 0


def test_drafts_of_killed_runs_are_swept_and_those_in_the_making_are_not(tmp_path: Path) -> None:
    from pipeline.artifacts.workspace import Workspace

    workspace = Workspace(tmp_path)
    child = begun(tmp_path, "ready()\ntime.sleep(60)")
    dead = tmp_path / "demo" / "gptq" / ".quantize-12345678.4242.tmp"
    retired = tmp_path / "demo" / "gptq" / ".quantize-12345678.4242.old.tmp"
    for folder in (dead, retired):
        (folder / "checkpoint").mkdir(parents=True)
    assert workspace.sweep("demo") == ["quantize-12345678"]
    assert not dead.exists() and not retired.exists()
    assert left(tmp_path) == ["half"]
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert len(workspace.sweep("demo")) == 1
    assert left(tmp_path) == []
