"""A study with a budget: what is measured of whom, that it resumes, and what its report says.

Stages write invented figures; the rule, the runner, the artifacts and the report are the real ones.
"""

import json
import math
import random
from functools import partial
from pathlib import Path

import pytest
from support.settings import variants_of
from support.synthetic_results import write_logprobs

from pipeline.artifacts.workspace import Draft
from pipeline.config import Stage
from pipeline.errors import ConfigError, ServerError
from pipeline.hardware.rules import NO_SPEED
from pipeline.job import Job
from pipeline.results.bench import BenchResult
from pipeline.results.eval import EvalResult
from pipeline.runner import Runner
from pipeline.serve.server import Serving
from pipeline.stages import bench, calibrate, quantize, verify
from pipeline.stages import eval as eval_stage
from pipeline.tasks.sampling import nested

pytestmark = pytest.mark.usefixtures("server_cpu")
ITEMS = 400
# True change in throughput, and share of the items that is lost.
TRUTH = {"bf16": (0.0, 0.0), "int8_dynamic": (0.30, 0.0), "w4a16": (0.45, 0.2), "awq": (0.12, 0.0), "gptq": (-0.3, 0.0)}
NAMES = f"variants=[{','.join(TRUTH)}]"
BUDGET = ("bench.budget_minutes=600", "eval.budget_minutes=600")


class Invented:
    """Stages that write results of the stated truth, and note what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str, int, str]] = []
        self.fails: set[tuple[str, str]] = set()
        for stage in (calibrate, quantize, verify):
            monkeypatch.setattr(stage, "make", lambda job, draft: None)
        monkeypatch.setattr(bench, "make", partial(self._note, "bench", self._bench))
        monkeypatch.setattr(eval_stage, "make", partial(self._note, "eval", self._eval))
        monkeypatch.setattr(Serving, "stop", lambda serving: None)

    def run(self, tmp_path: Path, *overrides: str) -> int:
        self.made = []
        stages = "stage=[calibrate,quantize,verify,bench,eval,report]"
        given = [stages, NAMES, f"outputs={tmp_path}", "report.formats=[json,md]", "report.margin_points=3", *overrides]
        return Runner(variants_of(*given), given).execute()

    def parts(self, variant: str, stage: str) -> list[tuple[int, str]]:
        return [(block, part) for name, kind, block, part in self.made if (name, kind) == (variant, stage)]

    def _note(self, kind, write, job: Job, draft: Draft) -> None:
        self.made.append((str(job.variant), kind, job.block, job.part))
        if (str(job.variant), job.part) in self.fails:
            raise ServerError("it died.")
        write(job, draft)

    @staticmethod
    def _bench(job: Job, draft: Draft) -> None:
        name, repeats = str(job.variant), job.settings.bench.repeats
        dice = random.Random(f"{name} {job.block} {job.part}")
        speed = 1000 * math.exp(TRUTH[name][0])
        values = [speed * dice.gauss(1, 0.01) for _ in range(repeats)]
        figures = {"total_token_throughput": {"unit": "tok/s", "values": values}}
        load = {"name": "all at once", "num_prompts": 64, "request_rate": "inf", "max_concurrency": 16}
        counts = {"asked": 64 * repeats, "completed": 64 * repeats, "failed": 0, "metrics": figures}
        sizes = {"input_tokens": [900] * repeats, "output_tokens": [900] * repeats, "seeds": list(range(repeats))}
        found = {"protocol": job.settings.bench.name, "block": job.block, "headline": load["name"], **counts}
        found |= {"output_tokens": sizes["output_tokens"], "loads": [{**load, **counts, **sizes}]}
        draft.results = BenchResult.model_validate(found)

    @staticmethod
    def _eval(job: Job, draft: Draft) -> None:
        name, settings = str(job.variant), job.settings.eval
        items = [("t", index) for index in range(ITEMS)]
        asked = nested([(item, item[1] % 4) for item in items], settings.share, 0)
        tasks = {}
        for label, task in settings.tasks.items() if asked else ():
            right = [random.Random(f"{label} {i}").random() < 0.7 for _, i in asked]
            lost = [random.Random(f"{label} {name} {i}").random() < TRUTH[name][1] for _, i in asked]
            rows = [
                {"doc_hash": f"{label}-{i}", "score": float(ok and not gone)}
                for (_, i), ok, gone in zip(asked, right, lost, strict=True)
            ]
            path = draft.folder / "samples" / f"{label}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            value = math.fsum(row["score"] for row in rows) / len(rows)
            tasks[label] = {"task": task.task, "metric": task.metric, "value": value, "n": len(rows)}
        draft.results = EvalResult.model_validate(
            {
                "tasks": tasks,
                "sizes": dict.fromkeys(settings.tasks, ITEMS),
                "seconds": dict.fromkeys(tasks, 30.0),
                "divergence": write_logprobs(draft.folder, 0.0 if name == "bf16" else 0.1, name),
            }
        )


def report_in(tmp_path: Path) -> dict:
    (path,) = tmp_path.glob("*/report/report.json")
    return json.loads(path.read_text())


def test_the_answer_alone_is_measured_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Invented(monkeypatch)
    assert made.run(tmp_path, *BUDGET, "bench.blocks=2") == 0
    for name in TRUTH:
        assert made.parts(name, "bench")[0] == (0, "screen")
        assert made.parts(name, "eval")[0] == (0, "screen")
    # Clearly slower in the screen: never measured again.
    assert made.parts("gptq", "bench") == [(0, "screen")] and made.parts("gptq", "eval") == [(0, "screen")]
    # The fastest loses a fifth of the answers, which a part of the items shows.
    assert made.parts("w4a16", "eval")[-1] in [(0, "10 % of the items"), (0, "30 % of the items")]
    # The answer has all blocks and items; slower ones are not scored.
    assert len([block for block, part in made.parts("int8_dynamic", "bench") if not part]) == 2
    assert made.parts("int8_dynamic", "eval")[-1] == (0, "")
    assert made.parts("awq", "eval") == [(0, "screen")]
    # Once the price of an item is known, BF16 answers all at once, before the variant, whose server stays.
    assert made.parts("bf16", "eval") == [(0, "screen"), (0, "10 % of the items"), (0, "")]
    scored = [(name, part) for name, kind, _, part in made.made if kind == "eval" and part != "screen"]
    assert [name for name, _ in scored[:2]] == ["bf16", "w4a16"]
    rest = [name for name, _ in scored[2:]]
    assert rest == sorted(rest, key=["bf16", "w4a16", "int8_dynamic"].index)
    report = report_in(tmp_path)
    rows = {row["name"]: row for row in report["spending"]["rows"]}
    assert rows["int8_dynamic"]["outcome"] == "the answer: measured in full"
    assert rows["gptq"]["outcome"].startswith("slower than BF16")
    assert "would not rule out a loss" in rows["w4a16"]["outcome"]
    assert rows["awq"]["outcome"] == "not faster than int8_dynamic, which loses no accuracy"
    assert rows["int8_dynamic"]["items"] == 4 * ITEMS == rows["int8_dynamic"]["items_of"]
    assert report["recommendation"]["recommended"] == "int8_dynamic"
    page = next(tmp_path.glob("*/report/report.md")).read_text()
    assert "Where the minutes were spent" in page
    assert "not measured further: slower than BF16" in page


def test_nothing_is_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Invented(monkeypatch)
    made.run(tmp_path, *BUDGET)
    first = report_in(tmp_path)["spending"]
    assert made.run(tmp_path, *BUDGET) == 0
    assert not made.made
    assert report_in(tmp_path)["spending"] == first


def test_the_whole_of_a_part_is_that_of_a_run_without_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Invented(monkeypatch)
    made.run(tmp_path, *BUDGET)
    answered = {name for name in TRUTH if (0, "") in made.parts(name, "eval")}
    assert answered == {"bf16", "int8_dynamic"}
    assert made.run(tmp_path) == 0
    assert {name for name, kind, _, _ in made.made if kind == "eval"} == set(TRUTH) - answered
    assert not any(part for *_, part in made.made)


def test_a_variant_that_fails_is_left_out_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Invented(monkeypatch)
    made.fails = {("w4a16", "screen"), ("awq", "")}
    assert made.run(tmp_path, *BUDGET) == ServerError.exit_code
    assert len(made.parts("w4a16", "bench")) + len(made.parts("w4a16", "eval")) <= 2
    rows = {row["name"]: row for row in report_in(tmp_path)["spending"]["rows"]}
    assert rows["int8_dynamic"]["outcome"] == "the answer: measured in full"
    assert rows["w4a16"]["outcome"] == "a stage of it failed"
    # A report of its own knows the failures by what they left.
    made.run(tmp_path, *BUDGET, "stage=report")
    again = {row["name"]: row for row in report_in(tmp_path)["spending"]["rows"]}
    assert {name: row["outcome"] for name, row in again.items()} == {n: row["outcome"] for n, row in rows.items()}


def test_an_emulated_variant_is_screened_by_its_answers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Invented(monkeypatch)
    monkeypatch.setitem(TRUTH, "fp8_dynamic", (0.5, 0.0))
    asked = (*BUDGET, "variants=[bf16,int8_dynamic,fp8_dynamic]")
    assert made.run(tmp_path, *asked) == 0
    assert not made.parts("fp8_dynamic", "bench") and made.parts("fp8_dynamic", "eval") == [(0, "screen")]
    rows = {row["name"]: row for row in report_in(tmp_path)["spending"]["rows"]}
    assert rows["fp8_dynamic"]["outcome"] == NO_SPEED
    assert rows["int8_dynamic"]["outcome"] == "the answer: measured in full"


def test_a_budget_that_is_spent_leaves_the_rest_undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Invented(monkeypatch)
    assert made.run(tmp_path, "eval.budget_minutes=1e-9") == 0
    # What was never measured has no known cost, and the first round is always affordable.
    assert {part for name, kind, _, part in made.made if kind == "eval"} == {"screen"}
    rows = {row["name"]: row for row in report_in(tmp_path)["spending"]["rows"]}
    assert rows["w4a16"]["outcome"] == "cannot tell: the budget does not allow another round"


def test_a_dry_run_shows_the_first_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["stage=[bench,eval]", NAMES, f"outputs={tmp_path}", *BUDGET]
    assert Runner(variants_of(*given), given).plan() == 0
    shown = capsys.readouterr().err
    assert "  bench, screen: " in shown and "  eval, screen: " in shown and "block 2" not in shown
    assert "Further blocks and items follow from these results" in shown


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("stage=all", "quant=awq"), r"bench\.budget_minutes is divided among variants: set variants="),
        (("stage=bench", NAMES), r"bench\.budget_minutes with stage=bench: speed and accuracy decide together"),
        (("stage=all", NAMES, "bench=ladder"), r"a ladder is not divided among variants"),
        (("stage=all", NAMES, "report.objective=size"), r"follows throughput, and report\.objective=size does not"),
        (("stage=all", NAMES, "eval.divergence=null", "eval.budget_minutes=5"), r"needs the divergence"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_way_out(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        variants_of(*overrides, "bench.budget_minutes=5")


def test_parts_of_an_evaluation_keep_their_answers_for_the_whole(tmp_path: Path) -> None:
    given = ["stage=[bench,eval]", NAMES, f"outputs={tmp_path}", *BUDGET]
    job = Runner(variants_of(*given), given).jobs[0]
    whole = job.artifact(Stage.EVAL)
    parts = [job.screen, job.scored(0.1), job.scored(0.3)]
    assert len({part.artifact(Stage.EVAL).folder for part in parts} | {whole.folder}) == 4
    assert {job.workspace.kept(part.whole.artifact(Stage.EVAL)) for part in parts} == {job.workspace.kept(whole)}
    assert job.scored(1.0) is job
