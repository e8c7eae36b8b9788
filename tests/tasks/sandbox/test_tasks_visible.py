"""The files that a program may read: the interpreter's libraries wherever they are, and of the packages numpy alone."""

import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tasks.sandbox import visible as module
from pipeline.tasks.sandbox.sandbox import Sandbox
from pipeline.tasks.sandbox.supervisor import Outcome


@pytest.fixture
def again() -> Iterator[None]:
    """Looks for the visible paths anew."""
    module.visible.cache_clear()
    yield
    module.visible.cache_clear()


def test_all_that_the_standard_library_is_linked_with_is_visible() -> None:
    found = module.visible()
    assert all(map(found.holds, module._libraries(found.packages)))
    assert found.holds(module.interpreter())
    assert found.holds(os.path.realpath(os.path.dirname(importlib.import_module("numpy").__file__ or "")))
    assert not found.holds(found.packages)
    assert not [path for path in found.paths if path.startswith("/dev/zero")]


def test_libraries_of_an_interpreter_are_found_by_all_their_names(again: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As conda's, which lie in a folder beside many others."""
    with tempfile.TemporaryDirectory(dir=Path.home(), prefix=".sandbox-test-") as name:
        folder = Path(name).resolve()
        (folder / "libown.so.1.2").write_text("a library")
        (folder / "libown.so.1").symlink_to("libown.so.1.2")
        (folder / "libown.so").symlink_to("libown.so.1")
        (folder / "other.so").write_text("another")
        monkeypatch.setattr(module, "_libraries", lambda _: [str(folder / "libown.so.1.2")])
        found = module.visible()
        source = f"""
import os
assert sorted(os.listdir({str(folder)!r})) == ["libown.so", "libown.so.1", "libown.so.1.2"]
assert open({str(folder / "libown.so")!r}).read() == "a library"
"""
        box = Sandbox("namespaces")
        if box.trouble is not None:
            pytest.skip(box.trouble)
        assert found.links[str(folder / "libown.so")] == "libown.so.1.2"
        assert box.run(source) == Outcome(True, "passed")
