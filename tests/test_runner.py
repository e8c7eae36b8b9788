"""The runner over one outputs folder: several runs at once make a shared artifact once."""

import threading
import time
from pathlib import Path

import pytest

from pipeline.runner import Runner
from pipeline.stages import calibrate

VARIANTS = (
    ("quant=fp8_static",),
    ("quant=bf16", "kv_cache=fp8_e4m3"),
    ("quant=gptq",),
    ("quant=awq",),
    ("quant=int8_dynamic",),
)


def test_runs_that_waited_for_a_shared_artifact_take_it(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def make(job, draft) -> None:
        made.append(str(job.variant))
        time.sleep(0.5)
        (draft.folder / "ranges").write_text("x")

    monkeypatch.setattr(calibrate, "make", make)
    runners = []
    for overrides in VARIANTS:
        given = ("stage=calibrate", *overrides, f"outputs={tmp_path}")
        runners.append(Runner([settings(*given)], list(given)))
    together = threading.Barrier(len(runners))
    codes = []

    def execute(runner: Runner) -> None:
        together.wait()
        codes.append(runner.execute())

    threads = [threading.Thread(target=execute, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * len(VARIANTS)
    assert len(made) == 1
    assert capsys.readouterr().err.count("made by another run") == len(VARIANTS) - 1
