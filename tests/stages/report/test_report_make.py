"""What the report makes of finished, failed and half-finished runs."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from support.synthetic_results import MACHINE, STAGES, STUDY, FakeModel, Figures, Run

from pipeline.artifacts.workspace import Workspace
from pipeline.compare.words import MEANINGS
from pipeline.config import Stage
from pipeline.errors import ServerError, StageError
from pipeline.hardware.rules import NO_SPEED
from pipeline.stages import report
from pipeline.stages.report.build import build
from pipeline.stages.report.collect.artifacts import sources

NO_KERNEL = "vLLM 0.99 has no kernel for this (needs AVX-512)."


def written(run, name):
    return (run.outputs / "tiny" / "report" / name).read_text()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Eight variants, one of which this machine cannot serve; the report, and its last line."""
    variants = {**STUDY, "awq": replace(STUDY["awq"], missing={"verify": NO_KERNEL})}
    run = Run(tmp_path_factory.mktemp("study"), variants)
    stdout, sys.stdout = sys.stdout, io.StringIO()
    try:
        report.make(run.jobs, run.failures)
        run.line = json.loads(sys.stdout.getvalue().splitlines()[-1])
    finally:
        sys.stdout = stdout
    return run


def test_every_format_has_every_variant(study):
    content = json.loads(written(study, "report.json"))
    table = list(csv.DictReader(io.StringIO(written(study, "report.csv"))))
    names = list(STUDY)
    assert content["schema_version"] == 4
    assert [row["name"] for row in content["comparison"]["rows"]] == names
    assert [row["variant"] for row in table] == names
    assert [row["variant"] for row in study.line["variants"]] == names
    for text in (written(study, "index.html"), written(study, "report.md"), study.shown.getvalue()):
        for label in ("BF16", "FP8 static", "INT8 dynamic", "GPTQ", "FP8 KV"):
            assert label in text
        assert "emulated" in text and "not measured" in text
    assert "BF16 + FP8 KV (E4M3)" in written(study, "index.html")


def test_variants_on_different_numbers_of_gpus_are_compared_per_gpu(tmp_path):
    variants = {
        "bf16@tp2": Figures(2000, 300, 30.0, lost=0, gained=0, bytes=21_433_344),
        "fp8_static": Figures(1300, 402, 38.0, lost=0, gained=0, bytes=12_890_112),
        "int8_dynamic@dp2": Figures(2500, 402, 38.0, lost=0, gained=0, bytes=12_890_112),
    }
    run = Run(tmp_path, variants)
    report.make(run.jobs, run.failures)
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(written(run, "report.csv")))}
    assert [rows[name]["gpus"] for name in variants] == ["2", "1", "2"]
    assert float(rows["fp8_static"]["throughput_tok_s"]) == pytest.approx(1300, rel=0.02)
    assert float(rows["bf16@tp2"]["throughput_per_gpu_tok_s"]) == pytest.approx(1000, rel=0.02)
    assert float(rows["int8_dynamic@dp2"]["throughput_per_gpu_tok_s"]) == pytest.approx(1250, rel=0.02)
    assert float(rows["fp8_static"]["throughput_per_gpu_change_percent"]) == pytest.approx(30, abs=2)
    assert (rows["fp8_static"]["throughput_verdict"], rows["fp8_static"]["throughput_per_gpu_verdict"]) == (
        "worse",
        "better",
    )
    text = written(run, "report.md")
    assert "FP8 static on 1 GPU or BF16, TP 2 on 2 GPUs? FP8 static serves more per GPU" in text
    assert "Throughput per GPU" in text and "1: FP8 static; 2: BF16, TP 2, INT8 dynamic, DP 2" in text
    assert "BF16 that others are compared with is BF16, TP 2, on 2 GPUs." in text


def test_the_smallest_bf16_with_results_is_the_baseline(tmp_path):
    variants = {
        "bf16@tp4": Figures(3000, lost=0, gained=0),
        "bf16": Figures(missing={"bench": "no room", "eval": "no room"}),
        "bf16@tp2": Figures(2000, lost=0, gained=0),
    }
    run = Run(tmp_path, variants)
    found = sources(run.jobs, run.failures)
    assert (found[0].name, found[0].is_baseline) == ("bf16@tp2", True)
    assert sum(source.is_baseline for source in found) == 1
    assert {source.family for source in found} == {"baseline"}


def test_the_csv_for_people_has_words_and_few_columns_and_the_long_one_every_figure(study):
    table = {row["variant"]: row for row in csv.DictReader(io.StringIO(written(study, "report.csv")))}
    int8 = table["int8_dynamic"]
    assert len(int8) == 21 and int8["decision"] == "deploy" and float(int8["ttft_p99_ms"]) > 0
    assert (int8["throughput_verdict"], int8["quality_verdict"]) == ("better", "no worse")
    assert (table["fp8_static"]["throughput_verdict"], table["w4a16"]["quality_verdict"]) == ("not measured", "worse")
    assert table["awq"]["quality_verdict"] == "not measured" and table["awq"]["note"].startswith("vLLM 0.99")
    long = list(csv.DictReader(io.StringIO(written(study, "report_long.csv"))))
    assert {row["verdict"] for row in long} <= {"", *MEANINGS}
    loads = {row["load"] for row in long if row["variant"] == "gptq" and row["metric"] == "p99_ttft_ms"}
    assert loads == {"concurrency 16", *(f"ladder: concurrency {slots}" for slots in (1, 2, 4, 8))}
    mmlu = next(row for row in long if (row["variant"], row["metric"]) == ("w4a16", "MMLU"))
    assert float(mmlu["change"]) < 0 and mmlu["change_unit"] == "points" and mmlu["verdict"] == "worse"


def test_a_check_that_could_not_be_made_is_neither_passed_nor_failed(study):
    page = written(study, "index.html")
    assert "<span>not compared</span> <b>weights</b> not known here: how Q5_0 rounds" in page
    assert "<span>passed</span> <b>weights</b>" not in page and "<span>failed</span>" not in page
    assert "3 of 4 checks" in page


def test_figures_come_from_the_result_files(study):
    values = study.job("int8_dynamic").artifact(Stage.BENCH).manifest().results["metrics"]["total_token_throughput"]
    mean = sum(values["values"]) / len(values["values"])
    row = json.loads(written(study, "report.json"))["comparison"]["rows"][3]
    assert row["speed"]["total_token_throughput"]["measured"]["mean"] == pytest.approx(mean)
    assert f"{mean:,.0f}" in written(study, "index.html") and f"{mean:,.0f}" in written(study, "report.md")
    assert study.line["variants"][3]["throughput_tok_s"] == pytest.approx(mean, rel=1e-5)


def test_a_card_says_what_making_the_checkpoint_took(study):
    cards = {card["name"]: card for card in json.loads(written(study, "report.json"))["cards"]}
    assert cards["gptq"]["recipe"]["peak GPU memory"] == "17.2 GB"
    assert cards["gptq"]["recipe"]["made in"].endswith(" s")
    assert "made in" not in cards["bf16"]["recipe"]


def test_verdict_leads_and_names_machine_and_model(study):
    page = written(study, "index.html")
    assert page.index("Deploy INT8 dynamic.") < page.index("<table")
    assert f"Measured with tiny on {MACHINE.name}" in page
    assert study.line["recommended"] == "int8_dynamic"
    assert "Report:" in study.shown.getvalue() and study.line["report"].endswith("index.html")


def test_the_speed_of_an_emulated_variant_is_not_measured_and_the_report_says_why(study):
    row = json.loads(written(study, "report.json"))["comparison"]["rows"][1]
    assert row["name"] == "fp8_static" and row["emulated"] == ["fp8_w8a8_static"]
    assert all(cell == {"reason": NO_SPEED} for cell in row["speed"].values()) and "accuracy" in row["tasks"]["MMLU"]
    page, text, shown = written(study, "index.html"), written(study, "report.md"), study.shown.getvalue()
    for document in (html.unescape(page), text):
        assert f"FP8 static and FP8 dynamic: {NO_SPEED}." in document
    assert f"FP8 static, FP8 dynamic not measured: {NO_SPEED}" in " ".join(shown.split())
    assert " ".join(shown.split()).count(NO_SPEED) == 1
    # What another stage's server said of its cache is shown.
    assert row["kv_cache_tokens"] == 131_072
    assert re.search(r"\| FP8 static \| [\d.]+ \| n/a \| 131,072 \| n/a \| n/a \| no benchmark \|", text)


def test_a_speed_of_the_emulation_that_an_earlier_release_measured_is_not_shown(tmp_path, capsys):
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "gptq")}, formats=("json",))
    path = run.job("gptq").artifact(Stage.BENCH).folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["results"]["server"]["emulated"] = ["w4a16"]
    path.write_text(json.dumps(manifest))
    report.make(run.jobs, {})
    row = json.loads(written(run, "report.json"))["comparison"]["rows"][1]
    assert row["speed"]["mean_ttft_ms"] == {"reason": NO_SPEED} and not row["details"] and not row["benchmarks"]


def test_a_variant_without_result_says_why(study):
    row = json.loads(written(study, "report.json"))["comparison"]["rows"][5]
    assert row["name"] == "awq"
    assert row["speed"]["mean_ttft_ms"] == {"reason": NO_KERNEL}
    assert row["tasks"]["MMLU"] == {"reason": NO_KERNEL}
    assert row["size"]["bytes"] == STUDY["awq"].bytes


def test_no_path_of_this_machine_is_shown_but_in_the_commands_to_copy(study):
    for name in ("index.html", "report.md", "report.csv", "report_long.csv", "report.json"):
        text = re.sub(r"<code>vllm serve .*?</code>", "", written(study, name))
        assert str(study.outputs) not in text
    assert f"vllm serve {study.outputs.resolve()}/tiny/int8_dynamic/" in written(study, "index.html")
    assert study.line["serve"].startswith(f"vllm serve {study.outputs.resolve()}/tiny/int8_dynamic/")
    assert "outputs/logs/serve-" in written(study, "index.html").replace("<wbr>", "")


def test_failures_of_this_run_are_rows(tmp_path, capsys):
    run = Run(tmp_path, {"bf16": STUDY["bf16"], "gptq": Figures(missing={"bench": "failed: the server died"})})
    assert isinstance(run.failures["gptq"], StageError)
    # A stage that was not reached leaves no manifest: only the failure is there.
    run.variants = {**run.variants, "w4a16": Figures()}
    run.failures["w4a16"] = ServerError("vLLM ended with exit code 1:\n    last words", "See the log.")
    report.make(run.jobs, run.failures)
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["variants"]
    assert [row["note"] for row in rows[1:]] == ["failed: the server died", "vLLM ended with exit code 1:"]
    assert "last words" in written(run, "index.html")


@pytest.mark.parametrize("count", range(len(STAGES)))
def test_half_a_run_is_rendered(tmp_path, capsys, count):
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "gptq")}, stages=STAGES[:count])
    report.make(run.jobs, run.failures)
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["variants"]
    assert [row["variant"] for row in rows] == ["bf16", "gptq"]
    assert "eval has not run" in rows[0]["note"]
    assert "No " in written(run, "index.html") and "not measured" in written(run, "index.html")


@pytest.mark.parametrize("left_out", [Stage.QUANTIZE, Stage.VERIFY, Stage.BENCH])
def test_a_missing_stage_in_between_is_rendered(tmp_path, capsys, left_out):
    stages = tuple(stage for stage in STAGES if stage is not left_out)
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "int8_dynamic")}, stages=stages, formats=("html",))
    report.make(run.jobs, run.failures)
    assert "INT8 dynamic" in written(run, "index.html")


def test_one_variant_stands_among_its_peers(tmp_path, capsys):
    variants = {name: STUDY[name] for name in ("gptq", "bf16+fp8_e4m3", "bf16", "w4a16")}
    variants["w4a16"] = replace(variants["w4a16"], missing={"bench": NO_KERNEL})
    run = Run(tmp_path, variants, formats=("json",))
    run.single = "gptq"
    report.make(run.jobs, {})
    rows = json.loads(written(run, "report.json"))["comparison"]["rows"]
    # The one without any finished result is no peer; the baseline leads.
    assert [row["name"] for row in rows] == ["bf16", "gptq", "bf16+fp8_e4m3"]
    assert rows[2]["label"] == "BF16 + FP8 KV (E4M3)"
    assert "interval" in rows[1]["speed"]["mean_ttft_ms"]["change"]


def test_peers_of_other_settings_are_left_out(tmp_path, capsys):
    run = Run(tmp_path, {name: STUDY[name] for name in ("gptq", "bf16")}, formats=("json",))
    run.single, run.tasks = "gptq", {"MMLU": run.tasks["MMLU"]}
    run.dataset.write_text("[1]")
    report.make(run.jobs, {})
    rows = json.loads(written(run, "report.json"))["comparison"]["rows"]
    assert [row["name"] for row in rows] == ["gptq"]


def test_what_was_recorded_of_another_model_of_the_name_is_left_out(tmp_path, capsys):
    run = Run(tmp_path, {"bf16": STUDY["bf16"]})
    was = FakeModel.identity
    try:
        FakeModel.identity = lambda self: {"files": {"model.safetensors": "1" * 64}}
        later = Run(tmp_path, {"awq": STUDY["awq"]})
    finally:
        FakeModel.identity = was
    later.single, later.recorded = "bf16", True
    assert [row.name for row in build(later.jobs, {}).comparison.rows] == ["bf16"]
    assert build(run.jobs, {}).weights


def test_what_was_recorded_is_shown_whatever_the_settings_are_now(tmp_path, capsys):
    variants = {name: STUDY[name] for name in ("gptq", "bf16+fp8_e4m3", "bf16", "w4a16")}
    variants["w4a16"] = replace(variants["w4a16"], missing={"bench": NO_KERNEL})
    run = Run(tmp_path, variants, formats=("json",))
    # Another conversation set here, and by it other keys: nothing of the run itself is found under them.
    run.single, run.recorded = "bf16", True
    run.dataset.write_text("[1]")
    report.make(run.jobs, {})
    rows = json.loads(written(run, "report.json"))["comparison"]["rows"]
    assert [row["name"] for row in rows] == ["bf16", "gptq", "bf16+fp8_e4m3", "w4a16"]
    assert "interval" in rows[1]["speed"]["mean_ttft_ms"]["change"]
    assert rows[3]["speed"]["mean_ttft_ms"] == {"reason": NO_KERNEL}


def test_of_several_recorded_protocols_the_one_asked_for_is_in_the_main_table(tmp_path, capsys):
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "gptq")}, formats=("json",))
    run.single, run.recorded = "bf16", True
    asked = run.settings("bf16").bench.name
    for name in ("bf16", "gptq"):
        folder = run.job(name).artifact(Stage.BENCH).folder
        shutil.copytree(folder, folder.with_name("bench-ffffffff"))
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["results"]["protocol"] != asked
        manifest["results"]["protocol"], manifest["started"] = asked, "1999-01-01T00:00:00.000+00:00"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    found = sources(run.jobs, {})
    assert [source.finished(Stage.BENCH).results["protocol"] for source in found] == [asked] * 2
    assert [[blocks[0].results["protocol"] for blocks in source.benchmarks] for source in found] == [
        [asked, "ladder"]
    ] * 2


def test_results_that_cannot_be_read_are_not_applicable(tmp_path, capsys):
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "gptq")}, formats=("html", "json"))
    bench, scores = (run.job("gptq").artifact(stage).folder for stage in (Stage.BENCH, Stage.EVAL))
    manifest = json.loads((bench / "manifest.json").read_text())
    manifest["results"]["metrics"]["mean_ttft_ms"]["values"] = ["fast"]
    (bench / "manifest.json").write_text(json.dumps(manifest))
    (scores / "samples" / "MMLU.jsonl").write_text("{")
    report.make(run.jobs, {})
    row = json.loads(written(run, "report.json"))["comparison"]["rows"][1]
    assert row["speed"]["mean_tpot_ms"] == {"reason": "the benchmark's manifest cannot be read"}
    assert row["tasks"]["MMLU"]["change"] == {"reason": "the samples cannot be read"}
    assert "difference" in row["tasks"]["GSM8K"]["change"]


def test_only_the_formats_asked_for_are_there(tmp_path, capsys):
    run = Run(tmp_path, {"bf16": STUDY["bf16"]})
    folder = run.outputs / "tiny" / "report"
    report.make(run.jobs, {})
    assert sorted(path.name for path in folder.iterdir()) == [
        "index.html",
        "report.csv",
        "report.json",
        "report.md",
        "report_long.csv",
    ]
    run.formats = ("csv",)
    report.make(run.jobs, {})
    assert sorted(path.name for path in folder.iterdir()) == ["report.csv", "report_long.csv"]


def test_what_a_killed_run_was_writing_goes_with_the_next_report(tmp_path):
    run = Run(tmp_path, {"bf16": STUDY["bf16"]}, formats=("csv",))
    folder = run.outputs / "tiny" / "report"
    (folder / "charts").mkdir(parents=True)
    for name in (".index.html.4242.tmp", "charts/.size.png.4242.tmp"):
        (folder / name).write_text("half")
    # It is none of a run that would start anew.
    assert Workspace(run.outputs).sweep("tiny") == []
    report.make(run.jobs, {})
    assert sorted(path.name for path in folder.iterdir()) == ["report.csv", "report_long.csv"]


def test_charts_for_slides(tmp_path, capsys):
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "fp8_static", "gptq")}, formats=("png",))
    report.make(run.jobs, {})
    folder = run.outputs / "tiny" / "report"
    pictures = {path.name: path.read_bytes() for path in (folder / "charts").iterdir()}
    assert {"quality.png", "forest.png", "size.png"} <= set(pictures)
    for content in pictures.values():
        assert content.startswith(b"\x89PNG") and int.from_bytes(content[16:20]) > 1200
    (folder / "charts" / "mine.txt").write_text("kept")
    run.formats = ("csv",)
    report.make(run.jobs, {})
    assert [path.name for path in (folder / "charts").iterdir()] == ["mine.txt"]


class Terminal(io.StringIO):
    """Standard output as a user sees it."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("wanted", "out", "is_there"),
    [(None, io.StringIO, True), (None, Terminal, False), (True, Terminal, True), (False, io.StringIO, False)],
)
def test_the_line_of_json_is_for_programs(tmp_path, monkeypatch, wanted, out, is_there):
    run = Run(tmp_path, {"bf16": STUDY["bf16"]}, formats=("csv",))
    run.report = {"json_line": wanted}
    monkeypatch.setattr(sys, "stdout", out())
    report.make(run.jobs, {})
    assert sys.stdout.getvalue().startswith('{"schema_version": 4') is is_there


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    run = Run(tmp_path, {"bf16": STUDY["bf16"]}, formats=("csv",))
    (run.outputs / "tiny" / "report").write_text("a file")
    with pytest.raises(StageError, match="set outputs=<a folder"):
        report.make(run.jobs, {})


def test_neither_torch_nor_vllm_nor_a_plotting_library_is_imported():
    code = (
        "import sys, pipeline.compare, pipeline.stages.report, pipeline.stages.report.build\n"
        "import pipeline.stages.report.renderers.html\n"
        "heavy = {'torch', 'vllm', 'transformers', 'altair', 'scipy.stats', 'lm_eval', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
