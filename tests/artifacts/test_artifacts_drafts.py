"""A folder that several processes need is made once, and appears when it is whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifacts.drafts import made_once
from pipeline.artifacts.workspace import Workspace

MAKER = """
import sys, time
from pathlib import Path
from pipeline.artifacts.drafts import made_once

def make(folder):
    (folder / "first").touch()
    print("making", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "second").touch()

made_once(Path(sys.argv[1]), make)
print(*sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


def begun(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", MAKER, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True)


def begins(child: subprocess.Popen[str]) -> bool:
    assert child.stdout is not None
    return child.stdout.readline() == "making\n"


def test_one_process_makes_it_and_the_other_waits(tmp_path: Path) -> None:
    processes = [begun(tmp_path / "model", 1), begun(tmp_path / "model", 1)]
    said = "".join(process.communicate(timeout=60)[0] for process in processes)
    assert said.count("making") == 1 and said.count("first second") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.lock"}


def test_what_a_kill_left_is_removed_by_the_next_process(tmp_path: Path) -> None:
    child = begun(tmp_path / "model", 60)
    assert begins(child)
    child.kill()
    child.wait()
    assert not (tmp_path / "model").exists() and list(tmp_path.glob(".model.*.tmp"))
    made_once(tmp_path / "model", lambda folder: (folder / "second").touch())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["second"]
    assert not list(tmp_path.glob(".model.*.tmp"))


def test_a_run_sweeps_the_cache_but_not_what_another_one_makes_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    dead = workspace.cache / ".m-bf16-12345678.4242.tmp"
    dead.mkdir(parents=True)
    child = begun(workspace.cache / "other", 60)
    try:
        assert begins(child)
        assert workspace.sweep("m") == ["m-bf16-12345678"]
        assert not dead.exists() and list(workspace.cache.glob(".other.*.tmp"))
    finally:
        child.kill()
        child.wait()


def test_nothing_is_left_of_what_is_interrupted(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "first").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "model", make)
    assert {path.name for path in tmp_path.iterdir()} <= {".model.lock"}


def test_the_first_stays_where_no_lock_keeps_two_apart(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "mine").touch()
        # Another process, as far as this one can tell.
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "theirs").touch()

    made_once(tmp_path / "model", make)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["theirs"]
    assert not list(tmp_path.glob(".model.*.tmp"))
