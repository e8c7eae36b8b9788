"""The runner over one outputs folder: shared artifacts are made once, and a benchmark runs in blocks."""

import json
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from support.settings import variants_of
from support.tiny_sources import write_source

from pipeline.artifacts.workspace import Draft
from pipeline.config import Stage
from pipeline.errors import ConfigError, NotApplicable, ServerError, StageError
from pipeline.feasibility import OFFLINE
from pipeline.hardware.rules import NO_SPEED
from pipeline.job import Job
from pipeline.runner import Runner
from pipeline.serve.server import Serving
from pipeline.stages import bench, calibrate, quantize, verify
from pipeline.stages import eval as eval_stage

pytestmark = pytest.mark.usefixtures("server_cpu")
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


def test_a_name_with_brackets_is_printed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(job, draft) -> None:
        raise StageError("no [luck]")

    monkeypatch.setattr(quantize, "make", fail)
    given = ["stage=quantize", "variants=['w4a16(ignore=[lm_head])']", f"outputs={tmp_path}"]
    Runner(variants_of(*given), given).execute()
    assert "w4a16(ignore=[lm_head]) failed: no [luck]" in capsys.readouterr().err


SIX = "variants=[bf16,gptq,awq,w4a16,int8_dynamic,bf16+fp8_e4m3]"


def steps(tmp_path: Path, *overrides: str) -> list[tuple[str, Stage, int]]:
    given = ["stage=all", SIX, f"outputs={tmp_path}", *overrides]
    return [(str(job.variant), stage, job.block) for job, stage in Runner(variants_of(*given), given)._steps()]


def test_each_block_measures_every_variant_once_in_a_seeded_random_order(tmp_path: Path) -> None:
    found = steps(tmp_path, "bench.blocks=3")
    orders = [[name for name, stage, block in found if (stage, block) == (Stage.BENCH, index)] for index in range(3)]
    assert all(len(order) == len(set(order)) == 6 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert (orders[0][0], orders[2][-1]) == ("bf16", "bf16"), "its starts span the run"
    assert steps(tmp_path, "bench.blocks=3") == found
    assert steps(tmp_path, "bench.blocks=3", "bench.seed=1") != found
    # The first block serves each variant for all of its stages; the others only measure.
    served = [(name, stage) for name, stage, block in found if block == 0 and stage not in OFFLINE]
    assert served == [(name, stage) for name in orders[0] for stage in (Stage.VERIFY, Stage.BENCH, Stage.EVAL)]
    assert {stage for _, stage, block in found if block} == {Stage.BENCH}
    assert [block for _, _, block in found] == sorted(block for _, _, block in found)


def test_one_checkpoint_serves_any_number_of_gpus(tmp_path: Path) -> None:
    given = ["stage=all", "variants=[bf16@tp2,bf16,awq+fp8_e4m3@tp2,awq+fp8_e4m3]", f"outputs={tmp_path}"]
    two, one, awq_two, awq_one = Runner(variants_of(*given), given).jobs
    for first, second in ((one, two), (awq_one, awq_two)):
        assert first.artifact(Stage.QUANTIZE) == second.artifact(Stage.QUANTIZE)
        assert first.artifact(Stage.CALIBRATE) == second.artifact(Stage.CALIBRATE)
        for stage in (Stage.VERIFY, Stage.BENCH, Stage.EVAL):
            assert first.artifact(stage).folder != second.artifact(stage).folder
    assert awq_two.artifact(Stage.BENCH).folder.parent.name == "awq+fp8_e4m3@tp2"
    # All are sent the loads of the BF16 that takes the fewest GPUs.
    assert [job.reference for job in (two, one, awq_two, awq_one)] == [one, None, one, one]


def test_a_server_of_one_gpu_keeps_the_identity_that_it_had(tmp_path: Path) -> None:
    one, two = (
        Runner(variants_of(*given), given).jobs[0].artifact(Stage.BENCH).payload["serve"]
        for given in (
            ["quant=bf16", f"outputs={tmp_path}"],
            ["quant=bf16", "serve.tensor_parallel=2", f"outputs={tmp_path}"],
        )
    )
    assert two == one | {"tensor_parallel": 2}
    assert "data_parallel" not in one


class Made:
    """Stages that only note what was asked of them, and the starts of servers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, str, int]] = []
        self.stops = 0
        self.fails: set[tuple[str, str, int]] = set()
        for stage in (quantize, verify, bench, eval_stage):
            monkeypatch.setattr(stage, "make", partial(self._make, stage.__name__.rpartition(".")[2]))
        monkeypatch.setattr(Serving, "stop", self._stop)

    def _make(self, stage: str, job: Job, draft: Draft) -> None:
        step = (str(job.variant), stage, job.block)
        self.steps.append(step)
        if step in self.fails:
            raise ServerError("it died.")

    def _stop(self) -> None:
        self.stops += 1

    def run(self, tmp_path: Path, *overrides: str) -> int:
        given = ["stage=bench", "variants=[bf16,w4a16]", f"outputs={tmp_path}", *overrides]
        self.steps, self.stops = [], 0
        return Runner(variants_of(*given), given).execute()


def test_a_second_block_is_added_to_the_results_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(monkeypatch)
    assert made.run(tmp_path) == 0
    assert [step for step in made.steps if step[1] == "bench"] == [("bf16", "bench", 0), ("w4a16", "bench", 0)]
    assert made.run(tmp_path, "bench.blocks=2") == 0
    assert made.steps == [("w4a16", "bench", 1), ("bf16", "bench", 1)]
    assert made.stops == 2, "between the blocks, and at the end"
    assert made.run(tmp_path, "bench.blocks=2") == 0
    assert not made.steps


def test_an_emulated_format_is_scored_and_sent_no_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(monkeypatch)
    asked = ("stage=[bench,eval]", "variants=[bf16,fp8_dynamic]", "bench.blocks=2")
    assert made.run(tmp_path, *asked) == 0
    assert {(stage, block) for name, stage, block in made.steps if name == "fp8_dynamic"} == {
        ("quantize", 0),
        ("verify", 0),
        ("eval", 0),
    }
    assert "bench fp8_dynamic                n/a" in capsys.readouterr().err
    records = {path: path.read_bytes() for path in tmp_path.rglob("manifest.json")}
    benches = [json.loads(records[path]) for path in tmp_path.glob("demo/fp8_dynamic/bench-*/manifest.json")]
    assert {(each["status"], each["reason"]) for each in benches} == {("not_applicable", NO_SPEED)}
    assert made.run(tmp_path, *asked) == 0 and not made.steps
    assert {path: path.read_bytes() for path in tmp_path.rglob("manifest.json")} == records


def test_what_has_no_speed_by_its_server_is_scored_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tried = Made(monkeypatch), []

    def refuse(job: Job, draft: Draft) -> None:
        tried.append((str(job.variant), job.block))
        raise NotApplicable(NO_SPEED)

    monkeypatch.setattr(bench, "make", refuse)
    assert made.run(tmp_path, "stage=[bench,eval]", "variants=[bf16]", "bench.blocks=2") == 0
    assert tried == [("bf16", 0)] and ("bf16", "eval", 0) in made.steps


def test_the_identity_of_a_block_has_its_number_and_not_the_number_of_blocks(tmp_path: Path) -> None:
    payloads = []
    for blocks in (1, 2):
        given = ["quant=bf16", f"bench.blocks={blocks}", f"outputs={tmp_path}"]
        (job,) = Runner(variants_of(*given), given).jobs
        payloads.append([each.artifact(Stage.BENCH).payload for each in job.blocks])
        names = [each.artifact(Stage.BENCH).name for each in job.blocks]
    assert payloads[1] == [*payloads[0], payloads[0][0] | {"block": 1}]
    assert "block" not in payloads[0][0] and "blocks" not in payloads[0][0]["bench"]
    assert "device_id" not in payloads[0][0]["hardware"]
    assert names == ["bench bf16", "bench bf16, block 2"]


NORMS = "quant.algorithm=awq on a model of type glm4: llm-compressor has no mapping of its norms"


def glm4(tmp_path: Path) -> Path:
    """A GLM-4 by its config and the shapes of its tensors."""
    return write_source(tmp_path / "glm4", architectures=["Glm4ForCausalLM"], model_type="glm4")


def test_what_an_engine_cannot_make_is_not_applicable_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(monkeypatch)
    calibrated: list[str] = []
    monkeypatch.setattr(calibrate, "make", lambda job, draft: calibrated.append(str(job.variant)))
    given = ["stage=bench", "variants=[bf16,awq,w4a16]", f"model.path={glm4(tmp_path)}", f"outputs={tmp_path / 'out'}"]
    run = Runner(variants_of(*given), given)
    assert run.execute() == 0
    assert calibrated == []
    assert {name for name, _, _ in made.steps} == {"bf16", "w4a16"}
    assert run.not_applicable.keys() == {"awq"} and run.not_applicable["awq"].startswith(NORMS)
    manifests = [path for path in (tmp_path / "out").rglob("manifest.json") if "awq" in str(path)]
    (record,) = [json.loads(path.read_text()) for path in manifests]
    assert (record["stage"], record["status"]) == ("quantize", "not_applicable")
    assert record["reason"].startswith(NORMS)


def test_a_dry_run_says_what_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["stage=bench", "variants=[w4a16,awq]", f"model.path={glm4(tmp_path)}", f"outputs={tmp_path}"]
    assert Runner(variants_of(*given), given).plan() == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if "awq" in line and "n/a" in line] == [
        f"{stage}: awq n/a" for stage in ("quantize", "verify", "bench")
    ]
    (reason,) = [line for line in lines if line.startswith("left out")]
    assert reason.startswith("left out awq: quant.algorithm=awq on a model of type")


def test_a_run_of_which_nothing_can_be_made_is_refused(tmp_path: Path) -> None:
    given = ["stage=bench", "quant=awq", f"model.path={glm4(tmp_path)}", f"outputs={tmp_path}"]
    with pytest.raises(ConfigError, match=rf"awq cannot be made: {NORMS}.*choose quant.algorithm=gptq or rtn"):
        Runner(variants_of(*given), given)


@pytest.mark.parametrize(
    ("failing", "still"),
    [
        (("w4a16", "bench", 0), {("w4a16", "bench", 1)}),
        (("w4a16", "verify", 0), set()),
        (("w4a16", "bench", 1), {("w4a16", "bench", 1), ("bf16", "bench", 1)}),
    ],
)
def test_a_failure_in_one_block_loses_no_other_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, str, int], still: set[tuple[str, str, int]]
) -> None:
    made = Made(monkeypatch)
    made.fails = {failing}
    assert made.run(tmp_path, "bench.blocks=2") == ServerError.exit_code
    assert {step for step in made.steps if step[2] == 1} == still | {("bf16", "bench", 1)}


def test_a_dry_run_shows_the_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["stage=bench", "variants=[bf16,w4a16]", f"outputs={tmp_path}", "bench.blocks=2", "dry_run=true"]
    assert Runner(variants_of(*given), given).plan() == 0
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines[-1].split("  ") == ["bench, block 2: w4a16, bf16", "run: not there yet"]
