"""The end of the launcher, and of what it started."""

import os
import subprocess
import sys
import time

from support import stub_vllm

from pipeline.serve.launcher import LAUNCHER

# The grandchild has ended in the group of the child, and its new parent, this process, never asks for it.
ENDED_GRANDCHILD = """
import ctypes, os, time
from pipeline.serve import vllm_host
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
child = os.fork()
if not child:
    os.setsid()
    if not os.fork():
        time.sleep(0.2)
    os._exit(0)
while vllm_host.is_running(child):
    time.sleep(0.01)
vllm_host.reap(child)
os.killpg(child, 0)
began = time.monotonic()
vllm_host.stop(child, grace=5)
print(time.monotonic() - began)
"""
RUNNING_GRANDCHILD = """
import os, signal, time
from pipeline.serve import vllm_host
read, write = os.pipe()
child = os.fork()
if not child:
    os.setsid()
    if not os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(write, b"ready")
        time.sleep(60)
    time.sleep(60)
os.read(read, 5)
assert vllm_host.is_running(child)
vllm_host.stop(child, grace=0.5)
print(vllm_host.is_running(child))
"""


def said(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_an_ended_process_that_nobody_asks_for_is_not_waited_for() -> None:
    assert float(said(ENDED_GRANDCHILD)) < 1


def test_one_that_ignores_sigterm_is_killed_with_its_group() -> None:
    assert said(RUNNING_GRANDCHILD) == "False"


def test_the_launcher_of_a_killed_pipeline_does_not_import_vllm_to_the_end(tmp_path) -> None:
    python, _ = stub_vllm.make(tmp_path, "imports slowly")
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    launcher = subprocess.Popen(
        [python, str(LAUNCHER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "VLLM_RPC_BASE_PATH": str(sockets)},
    )
    try:
        time.sleep(1)
        assert launcher.poll() is None
        # The kernel closes it likewise for a process that is killed.
        launcher.stdin.close()
        assert launcher.wait(5) == 1
        assert not sockets.exists() and launcher.stdout.read() == b""
    finally:
        launcher.kill()
