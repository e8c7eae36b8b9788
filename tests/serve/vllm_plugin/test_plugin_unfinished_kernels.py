"""Half-made kernels are removed, and nothing else."""

import _ctypes
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.locks import locked
from pipeline.serve.vllm_plugin.unfinished_kernels import is_whole, remove_from

LIBRARY = Path(_ctypes.__file__).read_bytes()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with a library and the header that it was made with."""
    (tmp_path / "wi").mkdir()
    (tmp_path / "wi" / "whole.main.so").write_bytes(LIBRARY)
    headers = tmp_path / "precompiled_headers"
    headers.mkdir()
    (headers / "used.h.gch").write_bytes(b"gpch")
    os.utime(headers / "used.h.gch", (1, 1))
    return tmp_path


def left(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*") if path.suffix in (".so", ".gch")}


@given(share=st.floats(0, 1, exclude_max=True))
def test_no_beginning_of_a_library_is_whole(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("part") / "a.so"
    path.write_bytes(LIBRARY[: int(share * len(LIBRARY))])
    assert not is_whole(path)
    path.write_bytes(LIBRARY)
    assert is_whole(path)


@pytest.mark.parametrize("content", [b"", LIBRARY[:-1], bytes(len(LIBRARY))], ids=["empty", "cut", "zeros"])
def test_what_a_killed_compiler_left_is_removed(cache: Path, content: bytes) -> None:
    (cache / "wi" / "half.main.so").write_bytes(content)
    (cache / "wi" / "half.main.cpp").write_text("source")
    (cache / "precompiled_headers" / "new.h.gch").write_bytes(b"gp")
    remove_from(cache)
    assert left(cache) == {"whole.main.so", "used.h.gch"}
    assert (cache / "wi" / "half.main.cpp").is_file()


def test_what_is_being_made_stays(cache: Path) -> None:
    (cache / "wi" / "half.main.so").write_bytes(b"")
    (cache / "locks").mkdir()
    child = os.fork()
    if not child:
        with locked(cache / "locks" / "half.lock"):
            (cache / "held").touch()
            while not (cache / "over").exists():
                pass
        os._exit(0)
    while not (cache / "held").exists():
        pass
    remove_from(cache)
    (cache / "over").touch()
    os.waitpid(child, 0)
    assert left(cache) == {"whole.main.so", "used.h.gch", "half.main.so"}
    remove_from(cache)
    assert left(cache) == {"whole.main.so", "used.h.gch"}


def test_an_empty_cache_is_left_alone(tmp_path: Path) -> None:
    remove_from(tmp_path)
    assert not left(tmp_path)
