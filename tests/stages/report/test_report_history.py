"""Earlier runs beside this one, and the gate: through stored report.json files, as a user keeps them."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from support.synthetic_results import STUDY, Run

from pipeline.config import PROJECT_ROOT
from pipeline.config.file_names import file_name
from pipeline.errors import ConfigError, InputError, Regression, StageError, Undecided
from pipeline.stages import report
from pipeline.stages.report import mlflow
from pipeline.stages.report.collect.past_runs import read
from pipeline.stages.report.document import Report

THREE = {name: STUDY[name] for name in ("bf16", "fp8_static", "gptq")}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The outputs of a first run."""
    run = Run(tmp_path_factory.mktemp("first"), THREE, formats=("json",))
    report.make(run.jobs, {})
    return run.outputs


def second(tmp_path, stored, stage=("gate",), **changed):
    run = Run(tmp_path, THREE | changed, formats=("json",))
    run.stage, run.report = list(stage), {"baseline": str(stored)}
    return run


def test_a_stored_report_reads_back_as_it_was(stored):
    text = (stored / "tiny" / "report" / "report.json").read_text()
    assert Report.model_validate_json(text).model_dump_json(indent=1) == text


def test_an_unchanged_run_passes_the_gate(tmp_path, stored):
    run = second(tmp_path, stored)
    assert report.make(run.jobs, {}) == {}
    assert (
        " unchanged" in run.shown.getvalue()
        and "worse" not in run.shown.getvalue()
        and not (run.outputs / "tiny" / "report").exists()
    )


def test_a_variant_that_became_worse_fails_the_gate_by_name(tmp_path, stored, capsys):
    slow = replace(STUDY["gptq"], throughput=STUDY["gptq"].throughput * 0.7, lost=90)
    run = second(tmp_path, stored, gptq=slow)
    worse = report.make(run.jobs, {})
    assert list(worse) == ["gptq"] and isinstance(worse["gptq"], Regression) and worse["gptq"].exit_code == 5
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {r["variant"] for r in line["regressions"]} == {"gptq"} and line["figures"]["worse"] == len(
        line["regressions"]
    )
    assert "Throughput −30" in worse["gptq"].problem and "MMLU −" in worse["gptq"].problem


def without_answers(content):
    del content["answers"]
    for row in content["comparison"]["rows"]:
        if "by_sequence" in row["divergence"]:
            del row["divergence"]["by_sequence"]


def test_a_loss_is_found_in_pairs_by_the_answers_of_a_stored_report(tmp_path, stored):
    """10 of 200 items in each task: independent shares differ by 5 points, which is within their noise."""
    loses = replace(STUDY["gptq"], lost=24, gained=9)
    run = second(tmp_path, stored / "tiny" / "report" / "report.json", gptq=loses)
    assert "All tasks −5" in report.make(run.jobs, {})["gptq"].problem
    (tmp_path / "old").mkdir()
    old = second(tmp_path / "old", spoiled(stored, tmp_path, without_answers), gptq=loses)
    assert report.make(old.jobs, {}) == {}
    shown = " ".join(old.shown.getvalue().split())
    assert "14 figures were compared as independent samples, which detects less" in shown


def test_the_samples_of_an_outputs_folder_stand_in_for_answers(tmp_path, stored):
    outputs = tmp_path / "kept"
    shutil.copytree(stored, outputs)
    file = outputs / "tiny" / "report" / "report.json"
    before = Report.model_validate_json(file.read_text())
    content = json.loads(file.read_text())
    without_answers(content)
    file.write_text(json.dumps(content))
    for path in (outputs, file):
        assert read("report.baseline", path, "tiny").answers == before.answers != {}
    # A name that leaves the folder, a key that is not there, and a manifest of another release.
    content["cards"][0]["name"] = "../tiny/bf16"
    content["cards"][1]["steps"][-1]["key"] = "feedfacecafe"
    file.write_text(json.dumps(content))
    (broken,) = (outputs / "tiny" / content["cards"][2]["name"]).glob("eval-*")
    (broken / "manifest.json").write_text("{}")
    found = read("report.baseline", file, "tiny").answers
    assert not any(found.values()) and "../tiny/bf16" not in found


def test_samples_are_found_by_the_name_of_a_variants_folder_and_never_outside(tmp_path, stored):
    outputs, name = tmp_path / "kept", "gptq(group_size=64)"
    shutil.copytree(stored, outputs)
    (outputs / "tiny" / "gptq").rename(outputs / "tiny" / file_name(name))
    shutil.copytree(outputs / "tiny" / "bf16", outputs, dirs_exist_ok=True)
    file = outputs / "tiny" / "report" / "report.json"
    content = json.loads(file.read_text())
    without_answers(content)
    for card in content["cards"]:
        card["name"] = {"gptq": name, "bf16": ".."}.get(card["name"], card["name"])
    file.write_text(json.dumps(content))
    found = read("report.baseline", file, "tiny").answers
    assert found[name] and ".." not in found


def test_undecided_figures_pass_unless_they_are_to_fail(tmp_path, stored):
    unsure = replace(STUDY["gptq"], throughput=STUDY["gptq"].throughput * 0.97, noise=0.03)
    run = second(tmp_path, stored, gptq=unsure)
    assert report.make(run.jobs, {}) == {} and " cannot tell (BF16 itself varied by " in run.shown.getvalue()
    run.report["fail_on_undecided"] = True
    failed = report.make(run.jobs, {})
    assert isinstance(failed["gptq"], Undecided) and failed["gptq"].exit_code == 1
    assert "not shown to be as good as" in failed["gptq"].problem and "Throughput" in failed["gptq"].problem


def test_what_became_worse_fails_as_worse_whatever_else_is_undecided(tmp_path, stored):
    slow = replace(STUDY["gptq"], throughput=STUDY["gptq"].throughput * 0.7, noise=0.03)
    run = second(tmp_path, stored, gptq=slow)
    run.report["fail_on_undecided"] = True
    assert report.make(run.jobs, {})["gptq"].exit_code == 5


def test_a_variant_that_is_gone_fails_the_gate(tmp_path, stored):
    run = second(tmp_path, stored, gptq=replace(STUDY["gptq"], missing={"bench": "it does not start"}))
    assert "Throughput is gone (it does not start)" in report.make(run.jobs, {})["gptq"].problem


def test_nothing_that_could_be_compared_is_no_pass(tmp_path, stored):
    def elsewhere(content):
        content |= {"model": "another", "weights": "of another"}

    run = second(tmp_path, spoiled(stored, tmp_path, elsewhere))
    with pytest.raises(StageError, match="no figure of this run can be compared.*another model"):
        report.make(run.jobs, {})


def test_the_report_has_all_runs_side_by_side(tmp_path, stored, capsys):
    run = second(tmp_path, stored, stage=("report",), gptq=replace(STUDY["gptq"], throughput=3000))
    run.report = {"runs": [str(stored), str(stored / "tiny" / "report" / "report.json")]}
    report.make(run.jobs, {})
    found = Report.model_validate_json((run.outputs / "tiny" / "report" / "report.json").read_text()).history
    assert [r.name for r in found.runs][-1] == "this run" and len(found.runs) == 3
    gptq = next(c for c in found.results if (c.variant, c.column) == ("gptq", "total_token_throughput"))
    assert gptq.movement == "better" and len(gptq.figures) == 3


def spoiled(stored, tmp_path, change):
    content = json.loads((stored / "tiny" / "report" / "report.json").read_text())
    change(content)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(schema_version=99), "schema version 99, this release reads 4"),
        (lambda content: content.pop("schema_version"), "is not a report"),
        (lambda content: content.pop("comparison"), "is not a report of this release (comparison: Field required)"),
    ],
)
def test_a_report_of_another_release_is_refused(stored, tmp_path, change, message):
    with pytest.raises(InputError) as caught:
        read("report.baseline", spoiled(stored, tmp_path, change), "tiny")
    assert message in str(caught.value) and str(caught.value).startswith("report.baseline=")


def test_a_run_that_is_not_there_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match=r"report.runs.0=.*there is no report.json of model=tiny.*stage=report"):
        read("report.runs.0", tmp_path, "tiny")


def test_the_gate_needs_something_to_hold_a_run_against(compose, settings):
    with pytest.raises(ConfigError, match="stage=gate needs report.baseline"):
        settings("stage=gate")


def test_the_command_refuses_a_baseline_before_anything_runs(tmp_path):
    """And with the exit code of a bad input."""
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "stage=gate",
        f"report.baseline={tmp_path}",
        f"outputs={tmp_path / 'o'}",
    ]
    answer = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 3 and "there is no report.json" in answer.stdout + answer.stderr


def test_figures_and_files_are_tracked(tmp_path, stored, capsys):
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed (pip install mlflow-skinny)")
    run = Run(tmp_path, THREE, formats=("json", "csv"))
    uri = (tmp_path / "mlruns").as_uri()
    run.report = {"mlflow": uri}
    report.make(run.jobs, {})
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    by_variant = {r.data.tags["variant"]: r for r in runs if "variant" in r.data.tags}
    assert set(by_variant) == set(THREE) and len(runs) == 4
    kept = json.loads((run.outputs / "tiny" / "report" / "report.json").read_text())["comparison"]["rows"][0]
    mean = kept["speed"]["total_token_throughput"]["measured"]["mean"]
    assert by_variant["bf16"].data.metrics["throughput_tok_s"] == pytest.approx(mean)
    assert by_variant["gptq"].data.params["recipe.scheme"] == "W4A16"
    (parent,) = [r for r in runs if "variant" not in r.data.tags]
    assert {a.path for a in client.list_artifacts(parent.info.run_id, "report")} == {
        "report/report.json",
        "report/report.csv",
        "report/report_long.csv",
    }


def test_tracking_without_mlflow_names_the_command(monkeypatch):
    monkeypatch.setattr(mlflow, "PACKAGES", ("no-such-package",))
    with pytest.raises(ConfigError, match="report.mlflow=file:x: MLflow is not installed.*pip install mlflow-skinny"):
        mlflow.check("file:x")
