"""The environment of the image, without Docker: a user without a name, and a project that is read-only."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import PROJECT_ROOT

DOCKERFILE = (PROJECT_ROOT / "Dockerfile").read_text(encoding="utf-8")
# Whoever docker run --user may name.
NOBODY = "54321"


def environment(home: Path) -> dict[str, str]:
    """The variables of the image, with a folder of this machine as the home."""
    (line,) = re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)
    given = dict(word.split("=") for word in line.split())
    return {**given, "HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(PROJECT_ROOT)}


def inside(study: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing but the folder that is mounted can be written."""
    options = ["--unshare-user", "--uid", NOBODY, "--gid", NOBODY, "--ro-bind", "/", "/", "--dev", "/dev"]
    options += ["--proc", "/proc", "--tmpfs", "/tmp", "--ro-bind", str(PROJECT_ROOT), str(PROJECT_ROOT)]
    options += ["--bind", str(study), str(study), "--chdir", str(study)]
    options += ["--clearenv", *(part for item in environment(study).items() for part in ("--setenv", *item))]
    return subprocess.run(["bwrap", *options, *words], capture_output=True, text=True, timeout=600)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder that outputs go to."""
    if shutil.which("bwrap") is None or inside(tmp_path, "true").returncode:
        pytest.skip("bubblewrap cannot make namespaces here")
    return tmp_path


def test_a_format_is_made_by_whoever_runs_the_image(study: Path) -> None:
    done = inside(
        study, sys.executable, "-m", "pipeline", "stage=quantize", "quant=fp8_static", "calibration.num_samples=8"
    )
    assert done.returncode == 0, done.stderr
    assert list(study.glob("outputs/demo/fp8_static/quantize-*/checkpoint/model.safetensors"))


def test_what_runs_in_the_image_is_what_is_installed_there() -> None:
    (entry,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', DOCKERFILE, re.MULTILINE)
    (copied,) = re.findall(r"^COPY \. (\S+)$", DOCKERFILE, re.MULTILINE)
    script = (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert entry.startswith(f"{copied}/.venv/bin/") and f'{Path(entry).name} = "pipeline.__main__:main"' in script
    assert f"make -C {copied} install" in DOCKERFILE
