"""A full disk stops a run, a failed step keeps no memory, and space is estimated before work begins."""

import errno
import shutil
import weakref
from pathlib import Path

import pytest
from support.settings import variants_of
from support.tiny_sources import CONFIG, write_source

from pipeline.artifacts.workspace import Draft
from pipeline.errors import InputError, StageError, StorageError
from pipeline.job import Job
from pipeline.models.source import ModelSource
from pipeline.runner import Runner
from pipeline.stages import quantize


def runner(tmp_path: Path, *overrides: str) -> Runner:
    given = ["stage=quantize", "variants=[w4a16,fp8_dynamic]", f"outputs={tmp_path}", *overrides]
    return Runner(variants_of(*given), given)


def test_a_full_disk_stops_the_run_with_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other variant would find more space, and each may take an hour until it needs it."""
    asked = []

    def make(job: Job, draft: Draft) -> None:
        asked.append(str(job.variant))
        if len(asked) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(quantize, "make", make)
    with pytest.raises(StorageError, match="no space is left"):
        runner(tmp_path, "variants=[w4a16,fp8_dynamic,int8_dynamic,fp8_block]", "calibration=demo").execute()
    assert len(asked) == 2
    assert len(list(tmp_path.glob("demo/*/quantize-*/manifest.json"))) == 1


def test_a_failed_step_keeps_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        pass

    held: list[weakref.ref[Model]] = []

    def make(job: Job, draft: Draft) -> None:
        if held:
            assert held[0]() is None, "the next variant needs the memory"
            return
        model = Model()
        held.append(weakref.ref(model))
        try:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        except RuntimeError as error:
            raise StageError(f"{model} could not be made.") from error

    monkeypatch.setattr(quantize, "make", make)
    run = runner(tmp_path)
    assert run.execute() == 1
    (error,) = run.failures.values()
    assert "calibration.max_seq_length" in error.remedy
    assert len(list(tmp_path.glob("demo/*/quantize-*/manifest.json"))) == 2


def test_checkpoints_that_do_not_fit_are_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.plan.free_bytes", lambda path: 10**6)
    with pytest.raises(InputError, match=r"outputs=.* take \d.*0.001 GB are free"):
        runner(tmp_path).execute()
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_changed_file_is_noticed_by_its_content_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(job: Job, draft: Draft) -> None:
        made.append(str(job.variant))
        (draft.folder / "weights").write_text("x")

    monkeypatch.setattr(quantize, "make", make)
    assert runner(tmp_path).execute() == 0
    (weights, _) = tmp_path.glob("demo/*/quantize-*/weights")
    weights.write_text("y")
    made.clear()
    assert runner(tmp_path).execute() == 0 and not made
    assert runner(tmp_path, "verify=full").execute() == 0 and len(made) == 1


@pytest.mark.parametrize(("outputs", "hub", "said"), [(10**6, 10**12, "outputs="), (10**12, 10**6, "HF_HOME: ")])
def test_downloads_and_copies_that_do_not_fit_are_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: int, hub: int, said: str
) -> None:
    repository = write_source(tmp_path / "repository", **{**CONFIG, "dtype": "float32"})
    snapshot = Path(shutil.copytree(repository, tmp_path / "snapshot", ignore=shutil.ignore_patterns("*.safetensors")))
    monkeypatch.setattr(ModelSource, "_download", lambda *_: snapshot)
    monkeypatch.setattr(ModelSource, "hub_weights", ["model.safetensors"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    free = {tmp_path / "outputs": outputs, tmp_path / "hub": hub}
    monkeypatch.setattr("pipeline.plan.free_bytes", free.__getitem__)
    monkeypatch.setattr("pipeline.plan._device", list(free).index)
    given = ["stage=quantize", "quant=fp8_dynamic", "model.path=null", "model.hub_id=some/model", "add_bf16=false"]
    run = Runner(variants_of(*given, f"outputs={tmp_path / 'outputs'}"), given)
    with pytest.raises(InputError, match=said):
        run.execute()
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_defect_in_one_variant_is_shown_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(job: Job, draft: Draft) -> None:
        if job.settings.quant.name == "w4a16":
            raise KeyError("no such \x1b[31m tensor")
        (draft.folder / "weights").write_text("x")

    monkeypatch.setattr(quantize, "make", make)
    run = runner(tmp_path)
    assert run.execute() == 1
    assert list(run.failures) == ["w4a16"] and "KeyError" in run.failures["w4a16"].problem
    said = capsys.readouterr().err
    assert "Traceback" in said and "\x1b" not in said and "w4a16 failed:" in said
    assert [path.parts[-3] for path in tmp_path.glob("demo/*/quantize-*/manifest.json")] == ["fp8_dynamic"]
