"""A run that is killed still says in which stage, and what to change if memory ran out."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal
from pipeline.artifacts import kill_notice
with kill_notice.during("quantize awq", "quantize"):
    pass
if {inside}:
    with kill_notice.during("calibrate", "calibrate"):
        os.kill(os.getpid(), signal.{number})
os.kill(os.getpid(), signal.{number})
"""


@pytest.mark.parametrize(
    ("inside", "number", "said"), [(True, "SIGKILL", True), (False, "SIGKILL", False), (True, "SIGCONT", False)]
)
def test_a_killed_run_names_the_stage_that_it_was_in(inside: bool, number: str, said: bool) -> None:
    script = SCRIPT.format(inside=inside, number=number)
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert answer.returncode == (-signal.SIGKILL if number == "SIGKILL" else 0)
    assert ("calibrate: the run was killed" in answer.stderr) is said
    assert ("If memory ran out: Set calibration.layerwise=always" in answer.stderr) is said
    assert "quantize" not in answer.stderr


def test_without_a_shell_nothing_is_missing_but_the_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.artifacts import kill_notice

    def refused(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    kill_notice._shell.cache_clear()
    monkeypatch.setattr(subprocess, "Popen", refused)
    with kill_notice.during("bench awq", "bench"):
        pass
