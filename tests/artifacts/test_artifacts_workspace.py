"""An artifact is whole or not there, its key is what it depends on, and a rerun redoes what changed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.artifacts.keys import Digests, canonical, changed_fields, key_of
from pipeline.artifacts.locks import holder, locked
from pipeline.artifacts.manifest import DamagedManifest
from pipeline.artifacts.workspace import Artifact, Workspace
from pipeline.errors import InputError, NotApplicable, ServerError, StageError, StorageError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Said(BaseModel):
    text: str
    left_out: str = "not written"


def make(workspace: Workspace, payload: dict, text: str = "x"):
    artifact = workspace.artifact("bench", "demo", "awq", payload)
    with workspace.making(artifact, {}) as draft:
        (draft.folder / "result.txt").write_text(text)
        draft.results = Said(text=text)
    return artifact


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_a_key_depends_on_content_and_not_on_order(payload: dict) -> None:
    shuffled = dict(reversed(list(payload.items())))
    assert key_of(payload) == key_of(shuffled)
    assert key_of(json.loads(canonical(payload))) == key_of(payload)


@given(st.dictionaries(st.text(min_size=1), PLAIN, max_size=4), st.text(min_size=1), st.integers())
def test_another_value_gives_another_key_and_is_named(payload: dict, field: str, value: int) -> None:
    changed = {**payload, field: [value, "changed"]}
    if canonical(payload) != canonical(changed):
        assert key_of(payload) != key_of(changed)
        assert changed_fields(payload, changed)


def test_values_are_written_as_settings_have_them():
    assert changed_fields({"a": None, "b": True, "c": 1}, {"a": 2, "b": False, "c": None}) == [
        "a null -> 2",
        "b true -> false",
        "c 1 -> null",
    ]


def test_a_changed_list_is_told_by_what_came_and_went():
    assert changed_fields({"checks": ["a", "b"]}, {"checks": ["a", "c", "d"]}) == ["checks b -> c, d"]
    assert changed_fields({"checks": ["a"]}, {"checks": ["a", "b"]}) == ["checks nothing -> b"]
    assert changed_fields({"order": ["a", "b"]}, {"order": ["b", "a"]}) == ["order ['a', 'b'] -> ['b', 'a']"]


@pytest.mark.parametrize("value", [Path("/tmp/x"), object(), {1, 2}, lambda: 0, b"bytes"])
def test_a_key_refuses_what_has_no_identity(value: object) -> None:
    with pytest.raises(TypeError):
        key_of({"field": value})


def test_what_is_made_is_not_made_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    artifact = make(workspace, {"prompts": 100})
    assert workspace.why(artifact) is None
    manifest = artifact.manifest()
    assert manifest is not None
    assert manifest.results == {"text": "x"}
    assert set(manifest.files) == {"result.txt"}


def test_a_changed_setting_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    make(workspace, {"bench": {"prompts": 100}})
    other = workspace.artifact("bench", "demo", "awq", {"bench": {"prompts": 200}})
    assert workspace.why(other) == "bench.prompts 100 -> 200"


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_a_damaged_artifact_is_made_again(tmp_path: Path, damage: str) -> None:
    workspace = Workspace(tmp_path)
    artifact = make(workspace, {})
    path = artifact.folder / "result.txt"
    path.unlink() if damage == "remove" else path.write_text("")
    assert workspace.why(artifact) is not None


def test_a_failure_is_recorded_with_its_reason_and_made_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("quantize", "demo", "awq", {})
    with pytest.raises(StageError), workspace.making(artifact, {}):
        raise StageError("the engine stopped.", "Try another.")
    manifest = artifact.manifest()
    assert manifest is not None
    assert (manifest.status, manifest.reason) == ("failed", "the engine stopped. Try another.")
    assert workspace.why(artifact) == "failed before"


def test_not_applicable_is_a_result(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("bench", "demo", "awq", {})
    with pytest.raises(NotApplicable), workspace.making(artifact, {}):
        raise NotApplicable("needs a GPU.")
    manifest = artifact.manifest()
    assert manifest is not None
    assert manifest.status == "not_applicable"
    assert workspace.why(artifact) == workspace.why(artifact, "needs AVX-512.") == "not_applicable before"
    assert workspace.why(artifact, "needs a GPU.") is None, "recorded already"


def test_an_unexpected_error_leaves_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("bench", "demo", "awq", {})
    with pytest.raises(ZeroDivisionError), workspace.making(artifact, {}):
        raise ZeroDivisionError
    assert not artifact.folder.exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("bench", "demo", "awq", {})
    with pytest.raises(StageError, match="outputs="), workspace.making(artifact, {}):
        # Linux has a device that is always full: the real error, without filling a disk.
        with open("/dev/full", "w") as full:
            full.write("x" * 10_000)
    assert not artifact.folder.exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"outputs=.* no space is left \(\d.*GiB free\)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota is used up .*raise the quota"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/elsewhere"), "/tmp/elsewhere cannot be written"),
        (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), "no space is left"),
        (ValueError("Disk quota exceeded"), "the quota is used up"),
    ],
    ids=["full", "quota", "read-only", "elsewhere", "by a number in the text", "by the text"],
)
def test_storage_that_cannot_be_written_is_named_however_it_is_reported(
    tmp_path: Path, error: Exception, said: str
) -> None:
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("quantize", "demo", "awq", {})
    with pytest.raises(StorageError, match=said), workspace.making(artifact, {}):
        raise error
    assert not artifact.folder.exists(), "the storage is at fault, not the variant"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: 9 bytes."),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
    ids=["python", "system", "torch", "gpu"],
)
@pytest.mark.parametrize(("stage", "setting"), [("calibrate", "calibration.layerwise=always"), ("eval", "serve.")])
def test_memory_that_ran_out_names_the_stage_and_what_to_change(
    tmp_path: Path, error: Exception, stage: str, setting: str
) -> None:
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact(stage, "demo", "awq", {})
    with pytest.raises(StageError, match=f"{stage} awq: memory ran out.*{setting}"), workspace.making(artifact, {}):
        raise error
    manifest = artifact.manifest()
    assert manifest is not None and manifest.status == "failed"


@pytest.mark.parametrize(
    ("cause", "kind", "said"),
    [
        (RuntimeError("I/O error: No space left on device (os error 28)"), StorageError, "outputs=.* no space is left"),
        (MemoryError(), StageError, "could not make it.*log.*If memory ran out: Lower calibration"),
    ],
    ids=["storage", "memory"],
)
def test_a_shortage_within_an_engine_is_told(tmp_path: Path, cause: Exception, kind: type, said: str) -> None:
    artifact = Workspace(tmp_path).artifact("quantize", "demo", "awq", {})
    with pytest.raises(kind, match=said), Workspace(tmp_path).making(artifact, {}):
        try:
            raise cause
        except Exception as error:
            raise StageError("The engine could not make it.", "Its log is here.") from error


def test_a_server_that_the_kernel_killed_has_the_way_out_for_memory(tmp_path: Path) -> None:
    artifact = Workspace(tmp_path).artifact("eval", "demo", "awq", {})
    with pytest.raises(ServerError, match="serve.cpu_kv_cache_gib"), Workspace(tmp_path).making(artifact, {}):
        raise ServerError("vLLM exited with code -9:", "The whole log is here.")
    manifest = artifact.manifest()
    assert manifest is not None and manifest.reason is not None and "serve.cpu_kv_cache_gib" in manifest.reason


@pytest.mark.parametrize(("free", "kind", "recorded"), [(0, StorageError, False), (2**30, ServerError, True)])
def test_a_server_that_ends_on_a_full_disk_is_no_failure_of_the_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kind: type, recorded: bool
) -> None:
    artifact = Workspace(tmp_path).artifact("bench", "demo", "awq", {})
    monkeypatch.setattr("pipeline.artifacts.shortages.free_bytes", lambda path: free)
    with pytest.raises(kind), Workspace(tmp_path).making(artifact, {}):
        raise ServerError("vLLM's benchmark exited with code 1:\n", "Its log is here.")
    assert (artifact.manifest() is not None) == recorded


def test_a_failure_whose_record_finds_no_space_is_one_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    artifact = Workspace(tmp_path).artifact("bench", "demo", "awq", {})
    with pytest.raises(StorageError), Workspace(tmp_path).making(artifact, {}):
        monkeypatch.setattr("pipeline.artifacts.workspace._write", full)
        raise StageError("vLLM ended, since its log could not be written.")
    assert not list(tmp_path.rglob("*.tmp"))


def test_content_that_changed_under_the_same_size_is_noticed_on_request(tmp_path: Path) -> None:
    artifact = make(Workspace(tmp_path), {})
    (artifact.folder / "result.txt").write_text("y")
    assert Workspace(tmp_path).why(artifact) is None
    assert Workspace(tmp_path, hashes=True).why(artifact) == "result.txt has changed: its SHA-256 is another"


def test_partial_work_goes_with_the_run_after_its_artifact_was_published(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    published, due = make(workspace, {"seed": 0}), workspace.artifact("bench", "demo", "awq", {"seed": 1})
    for artifact in (published, due):
        workspace.kept(artifact).mkdir()
    assert workspace.sweep("demo") == []
    assert not workspace.kept(published).exists() and workspace.kept(due).exists()


def test_an_artifact_that_links_to_what_is_gone_is_made_again(tmp_path: Path) -> None:
    model, outputs = tmp_path / "model", Workspace(tmp_path / "outputs")
    model.mkdir()
    artifact = outputs.artifact("quantize", "demo", "bf16", {})
    with outputs.making(artifact, {}) as draft:
        (draft.folder / "checkpoint").symlink_to(model, target_is_directory=True)
        draft.results = Said(text="x")
    assert outputs.why(artifact) is None
    model.rmdir()
    assert outputs.why(artifact) == f"checkpoint is a link to {model}, which is gone"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}', "[" * 100_000, "\xff"])
def test_a_manifest_that_cannot_be_read_has_its_artifact_made_again(tmp_path: Path, content: str) -> None:
    workspace = Workspace(tmp_path)
    artifact = make(workspace, {})
    (artifact.folder / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"manifest\.json"):
        artifact.manifest()
    other = workspace.artifact("bench", "demo", "awq", {"other": 1})
    if content != "{}":
        assert workspace.why(artifact) == "manifest.json cannot be read"
        assert workspace.why(other) == "not there yet"
        make(workspace, {})
        assert workspace.why(artifact) is None


def test_a_whole_artifact_is_not_replaced_where_no_lock_keeps_two_runs_apart(tmp_path: Path) -> None:
    """Of two runs the later one finds the other's artifact when it comes to publish, and a server may be using it."""
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("bench", "demo", "awq", {})
    with workspace.making(artifact, {}) as draft:
        (draft.folder / "result.txt").write_text("mine")
        # The lock is reentrant in this thread, as a lock that does not hold is.
        make(workspace, {}, "theirs")
        served = (artifact.folder / "result.txt").stat().st_ino
        draft.folder.mkdir(exist_ok=True)
    assert (artifact.folder / "result.txt").read_text() == "theirs"
    assert (artifact.folder / "result.txt").stat().st_ino == served
    assert not list(tmp_path.rglob("*.tmp"))


class Overtaken(Workspace):
    """A workspace in which another run acts right after this one has seen that it may publish."""

    act: Callable[[], object] | None = None

    def why(self, artifact: Artifact, absent: str = "") -> str | None:
        found = super().why(artifact, absent)
        act, self.act = self.act, None
        if act is not None:
            act()
        return found


@pytest.mark.parametrize("stays", ["theirs", "mine"])
def test_of_two_runs_that_replace_a_failed_artifact_the_first_stays(tmp_path: Path, stays: str) -> None:
    workspace = Overtaken(tmp_path / "outputs")
    artifact = workspace.artifact("bench", "demo", "awq", {})
    with pytest.raises(StageError), workspace.making(artifact, {}):
        raise StageError("it failed.")
    theirs = make(Workspace(tmp_path / "elsewhere"), {}, "theirs").folder

    def publish() -> None:
        shutil.rmtree(artifact.folder)
        # Between the two renamings of another run nothing is there.
        if stays == "theirs":
            theirs.rename(artifact.folder)

    with workspace.making(artifact, {}) as draft:
        (draft.folder / "result.txt").write_text("mine")
        served = (theirs / "result.txt").stat().st_ino
        workspace.act = publish
    assert (artifact.folder / "result.txt").read_text() == stays
    assert ((artifact.folder / "result.txt").stat().st_ino == served) is (stays == "theirs")
    assert not list((tmp_path / "outputs").rglob("*.tmp"))


@pytest.mark.parametrize("name", ["../other/file", "/etc/passwd", "a/../../b", "..", "", "a\0b"])
def test_a_manifest_of_others_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    workspace = Workspace(tmp_path)
    artifact = make(workspace, {})
    path = artifact.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["files"] = {name: {"size": 1, "sha256": "0" * 64}}
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedManifest, match="files: .*is no file of that folder"):
        artifact.manifest()
    assert workspace.why(artifact) == "manifest.json cannot be read"


def test_a_manifest_whose_payload_has_no_key_is_refused(tmp_path: Path) -> None:
    artifact = make(Workspace(tmp_path), {})
    path = artifact.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"payload": {"x": float("nan")}}))
    with pytest.raises(DamagedManifest, match="payload"):
        artifact.manifest()


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_storage_without_locks_has_files_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def unsupported(*_) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", unsupported)
    path = tmp_path / ".quantize-1.lock"
    with locked(path), locked(path):
        assert holder(path) == f"process {os.getpid()}"
    # A killed process on this host left this one.
    with subprocess.Popen(["true"]) as ended:
        pass
    with locked(path):
        (lock,) = tmp_path.glob(".quantize-1.*lock") if number == errno.ENOSYS else tmp_path.glob("*.softlock")
        record = lock.read_text().replace(str(os.getpid()), str(ended.pid), 1)
    lock.write_text("\n".join(record.split("\n")[:2]) + "\n")
    said: list[str] = []
    with locked(path, said.append):
        pass
    assert said in ([], [f"process {ended.pid}"])


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    artifact = make(workspace, {})
    path = artifact.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 999}))
    with pytest.raises(InputError, match="schema version 999"):
        artifact.manifest()


def test_a_process_that_waited_finds_what_another_one_made(tmp_path: Path) -> None:
    maker = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from pydantic import BaseModel
        from pipeline.artifacts.workspace import Workspace

        class Made(BaseModel):
            made_by: str

        workspace = Workspace(Path(sys.argv[1]))
        artifact = workspace.artifact("calibrate", "demo", None, {})
        with workspace.claim(artifact), workspace.making(artifact, {}) as draft:
            print("locked", flush=True)
            sys.stdin.readline()
            draft.results = Made(made_by="the other process")
        """
    )
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("calibrate", "demo", None, {})
    command = [sys.executable, "-c", maker, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert workspace.why(artifact) == "not there yet"

        def waiting(holder: str) -> None:
            assert holder == f"process {process.pid}"
            process.stdin.write("go on\n")
            process.stdin.flush()

        with workspace.claim(artifact, waiting) as why:
            assert why is None
    manifest = artifact.manifest()
    assert manifest is not None
    assert manifest.results == {"made_by": "the other process"}


def test_kill_leaves_nothing_that_looks_finished_and_the_next_run_sweeps(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from pydantic import BaseModel
        from pipeline.artifacts.workspace import Workspace

        class Made(BaseModel):
            made_by: str
        workspace = Workspace(Path(sys.argv[1]))
        with workspace.making(workspace.artifact("bench", "demo", "awq", {}), {}) as draft:
            (draft.folder / "result.txt").write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """)
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("bench", "demo", "awq", {})
    assert artifact.manifest() is None
    assert list(workspace.manifests("demo")) == []
    assert list(tmp_path.rglob("*.tmp"))
    make(workspace, {})
    assert workspace.why(artifact) is None
    assert not list(tmp_path.rglob("*.tmp"))


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("one")
    digests = Digests(tmp_path / "digests.json")
    first = digests.of(path)
    assert Digests(tmp_path / "digests.json").of(path) == first
    path.write_text("three")
    assert digests.of(path) != first
