"""Results are read by the class that wrote them, and what no class of this release wrote is refused by name."""

import copy
import json
import random
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.synthetic_calibration import summary
from support.synthetic_results import STUDY, Run

from pipeline.artifacts.manifest import Manifest
from pipeline.config import Stage
from pipeline.results.base import Missing, read
from pipeline.results.bench import BenchResult, Guard
from pipeline.results.calibration import Summary
from pipeline.results.eval import EvalResult
from pipeline.results.quantize import QuantizeResult
from pipeline.results.text import clean
from pipeline.results.verify import VerifyResult
from pipeline.stages import report

DOCS = Path(__file__).parents[2] / "docs" / "results"
CLASSES = {"bench": BenchResult, "quantize": QuantizeResult, "verify": VerifyResult, "eval": EvalResult}
STORED = [
    path
    for path in sorted(DOCS.glob("**/*.json"))
    if (content := json.loads(path.read_bytes())).get("stage") in CLASSES and content["status"] == "ok"
]


def manifest(stage: str, results: object) -> Manifest:
    return Manifest(
        stage=stage, model="m", variant=None, status="ok", key="0", payload={}, started="", seconds=1, results=results
    )


def stored(stage: str) -> dict:
    contents = (json.loads(path.read_text()) for path in STORED)
    return next(each["results"] for each in contents if each["stage"] == stage)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_results_of_earlier_releases_are_read_and_written_alike(path: Path) -> None:
    content = json.loads(path.read_text())
    result = read(CLASSES[content["stage"]], manifest(content["stage"], content["results"]))
    assert not isinstance(result, Missing)
    assert result.model_dump(mode="json", exclude_unset=True) == {"schema_version": 1, **content["results"]}


@pytest.mark.parametrize("version", [0, 2, 99, "1", None, True, 1.0])
@pytest.mark.parametrize("stage", ["bench", "quantize", "verify"])
def test_another_version_is_refused_by_name(stage: str, version: object) -> None:
    found = read(CLASSES[stage], manifest(stage, {**stored(stage), "schema_version": version}))
    assert found == Missing(reason=f"{CLASSES[stage].SOURCE} has schema version {version}, this release reads 1")


def damaged(content: object, dice: random.Random) -> object:
    """The same with one value replaced somewhere below."""
    if isinstance(content, dict) and content:
        name = dice.choice(sorted(content))
        return {**content, name: damaged(content[name], dice)}
    if isinstance(content, list) and content:
        place = dice.randrange(len(content))
        return [*content[:place], damaged(content[place], dice), *content[place + 1 :]]
    return dice.choice([None, "\x1b[31m", -1, [], {}, {"a": [1]}, float("nan"), 10**400])


@pytest.mark.parametrize("stage", ["bench", "quantize", "verify"])
def test_whatever_stands_there_is_read_or_refused(stage: str) -> None:
    dice, refused = random.Random(stage), 0
    for _ in range(300):
        content = damaged(copy.deepcopy(stored(stage)), dice)
        found = read(CLASSES[stage], manifest(stage, content))
        if isinstance(found, Missing):
            refused += 1
            version = content.get("schema_version") if isinstance(content, dict) else None
            assert found.reason in (
                f"{CLASSES[stage].SOURCE} cannot be read",
                f"{CLASSES[stage].SOURCE} has schema version {clean(version, 40)}, this release reads 1",
            )
    assert refused > 30


@pytest.mark.parametrize("cls", CLASSES.values())
def test_nothing_at_all_is_refused(cls: type) -> None:
    assert read(cls, manifest("any", {})) == Missing(reason=f"{cls.SOURCE} cannot be read")


def test_a_field_of_a_later_release_is_passed_over_and_none_is_made_up() -> None:
    content = stored("bench")
    content["loads"][0]["later"] = content["later"] = 1
    assert isinstance(read(BenchResult, manifest("bench", content)), BenchResult)
    with pytest.raises(ValidationError, match="later"):
        BenchResult(asked=1, completed=1, metrics={}, later=1)


def test_the_version_is_written_and_what_was_left_out_is_not() -> None:
    result = QuantizeResult(bytes=1, quantized_layers=0)
    assert result.model_dump(mode="json", exclude_unset=True) == {
        "schema_version": 1,
        "bytes": 1,
        "quantized_layers": 0,
    }
    with pytest.raises(ValidationError, match="frozen"):
        result.bytes = 2


def test_a_class_of_a_later_version_reads_what_it_writes_and_nothing_older() -> None:
    class Later(QuantizeResult):
        schema_version: int = 2

    later = Later(bytes=1, quantized_layers=0)
    written = later.model_dump(mode="json", exclude_unset=True)
    assert written == {"schema_version": 2, "bytes": 1, "quantized_layers": 0}
    assert read(Later, manifest("quantize", written)) == later
    reason = f"{Later.SOURCE} has schema version 1, this release reads 2"
    assert read(Later, manifest("quantize", {"bytes": 1, "quantized_layers": 0})) == Missing(reason=reason)


def test_text_from_elsewhere_is_cleaned() -> None:
    guard = Guard(name="a\x1b[31m" + "b" * 99, passed=None, text="\u202e" + "x" * 400)
    # A name has at most 60 characters, a sentence 300.
    assert (guard.name, guard.text) == ("a[31m" + "b" * 54 + "…", "x" * 299 + "…")
    whole = Guard(name="b" * 60, passed=None, text="x" * 300)
    assert (whole.name, whole.text) == ("b" * 60, "x" * 300)


def test_a_version_is_told_in_at_most_forty_characters() -> None:
    for version, told in (("9" * 40, "9" * 40), ("9" * 50, "9" * 39 + "…")):
        found = read(BenchResult, manifest("bench", {**stored("bench"), "schema_version": version}))
        assert found.reason == f"{BenchResult.SOURCE} has schema version {told}, this release reads 1"


def test_the_summary_of_a_calibration_comes_back_as_it_was_written() -> None:
    written = Summary.model_validate(summary(2)).model_dump(mode="json", exclude_unset=True)
    assert written == summary(2)


@pytest.mark.parametrize("stage", [Stage.BENCH, Stage.EVAL])
def test_the_report_shows_why_a_result_is_not_there(tmp_path: Path, capsys, stage: Stage) -> None:
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "gptq")}, formats=("json",))
    path = run.job("gptq").artifact(stage).folder / "manifest.json"
    content = json.loads(path.read_text())
    assert content["results"]["schema_version"] == 1
    content["results"]["schema_version"] = 2
    path.write_text(json.dumps(content))
    report.make(run.jobs, {})
    shown = json.loads((run.outputs / "tiny" / "report" / "report.json").read_text())
    rows = {row["name"]: row for row in shown["comparison"]["rows"]}
    reason = {"reason": f"{CLASSES[stage.value].SOURCE} has schema version 2, this release reads 1"}
    cell = rows["gptq"]["speed"]["mean_ttft_ms"] if stage is Stage.BENCH else rows["gptq"]["tasks"]["MMLU"]
    assert cell == reason
    assert "reason" not in rows["bf16"]["speed"]["mean_ttft_ms"]
