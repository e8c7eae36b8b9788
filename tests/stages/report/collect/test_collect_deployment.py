"""Commands to copy: what serves a variant, and what would decide what is open."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.machines import SERVER_CPU
from support.settings import command_of

from pipeline.compare.decide.decision import FRONT_END_ARGS, Decision
from pipeline.config import Stage, Variant
from pipeline.config.command_line import translated
from pipeline.stages.report.collect.deployment import next_command, serve_commands
from pipeline.stages.report.collect.labels import task_label


def source(name: str, folder: Path, engine: str = "llmcompressor", kv_dtype: str = "auto") -> SimpleNamespace:
    variant = Variant.parse(name)
    return SimpleNamespace(
        name=name, variant=variant, quant={"engine": engine}, kv_dtype=kv_dtype, folders={Stage.QUANTIZE: folder}
    )


def test_a_checkpoint_is_served_by_its_absolute_path_and_what_its_format_needs(settings, tmp_path, monkeypatch):
    (tmp_path / "awq" / "checkpoint").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    asked = settings("serve.max_model_len=4096", 'serve.extra_args=["--stream-interval=8"]')
    found = serve_commands(asked, [source("awq@marlin", Path("awq"), kv_dtype="fp8_e4m3"), source("gone", Path("no"))])
    checkpoint = tmp_path.resolve() / "awq" / "checkpoint"
    assert found == {
        "awq@marlin": f"vllm serve {checkpoint} --kv-cache-dtype fp8_e4m3 --max-model-len 4096 "
        "--linear-backend marlin --stream-interval=8"
    }
    assert not {"--host", "--seed", "--served-model-name", "--enforce-eager"} & set(found["awq@marlin"].split())


def test_bf16_is_served_as_the_user_named_it(settings, tmp_path):
    hub = settings("model=qwen3_8b")
    assert serve_commands(hub, [source("bf16", tmp_path, "none")]) == {"bf16": f"vllm serve {hub.model.hub_id}"}
    local = settings(f"model.path={tmp_path}")
    assert serve_commands(local, [source("bf16", tmp_path, "none")]) == {"bf16": f"vllm serve {tmp_path.resolve()}"}


def test_random_weights_are_nothing_to_serve(settings, tmp_path):
    asked = settings("model=qwen3_8b", "model.weights=random")
    assert serve_commands(asked, [source("bf16", tmp_path, "none")]) == {}


@pytest.mark.parametrize(
    ("stages", "needs_items", "expected", "absent"),
    [
        (("bench",), False, ["stage=[bench,report]", "bench.blocks=2"], "eval"),
        (("eval",), True, ["stage=[eval,report]", "eval=demo", "eval.limit=null"], "bench"),
        (("bench", "eval"), False, ["stage=[bench,eval,report]"], "limit"),
    ],
)
def test_the_next_command_runs_what_is_missing(settings, stages, needs_items, expected, absent):
    asked = settings("bench=quick", "eval.limit=300")
    decision = Decision(kind="measure", title="", text="", stages=stages, needs_items=needs_items)
    command = shlex.split(next_command(asked, decision, ["bf16", "awq"]))
    assert command[:4] == ["python", "-m", "pipeline", "model=demo"] and "variants=[bf16,awq]" in command
    assert set(expected) <= set(command) and not any(part.startswith(f"{absent}") for part in command)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["model=qwen3_8b"], ["model=qwen3_8b"]),
        (["model=qwen3_8b", "model.path=/data/q"], ["model=qwen3_8b", "model.path=/data/q"]),
        # Another model, whatever its folder is called.
        (["model=/data/qwen3_8b"], ["model.path=/data/qwen3_8b"]),
        (["model=/data/demo"], ["model.path=/data/demo"]),
        (["model=/data/mine", "model.name=qwen3_8b"], ["model.path=/data/mine", "model.name=qwen3_8b"]),
        (["model=some/Model"], ["model.hub_id=some/Model"]),
    ],
)
def test_the_next_command_names_the_model_as_its_user_did(asked, words):
    (bf16, *_) = command_of(*asked, "quant=bf16", "add_bf16=false")
    command = next_command(bf16, Decision(kind="measure", title="", text="", stages=("bench",)), ["bf16"])
    assert [word for word in shlex.split(command) if word.startswith("model")] == words


def test_the_next_command_keeps_what_the_user_gave():
    words = [
        "model=/data/my model", "bench.dataset.path=my prompts.jsonl", "bench.num_prompts=8", "outputs=elsewhere",
        "serve.max_model_len=4096",
        "report.constraints.memory_gib=24", "report.formats=html", "dry_run=false", "quant=awq", "add_bf16=false",
    ]  # fmt: skip
    (asked,) = command_of(*words)
    decision = Decision(kind="measure", title="", text="", stages=("bench",))
    found = shlex.split(next_command(asked, decision, ["bf16", "awq"], translated(words)))[3:]
    assert {"bench.num_prompts=8", "serve.max_model_len=4096", "outputs=elsewhere"} <= set(found)
    assert "report.constraints.memory_gib=24" in found and "bench.blocks=2" in found
    names = [word.partition("=")[0] for word in found]
    assert len(names) == len(set(names)) and not {"report.formats", "dry_run", "quant", "add_bf16"} & set(names)
    # It is a command, of the same model, load and data.
    again = command_of(*found)[-1]
    assert (again.model, again.bench.dataset, again.outputs) == (asked.model, asked.bench.dataset, asked.outputs)
    assert again.bench.blocks == asked.bench.blocks + 1 and again.variants == ("bf16", "awq")


def test_what_the_next_command_implies_is_not_said(monkeypatch):
    monkeypatch.setattr("pipeline.config.command_line.probe", lambda asked: SERVER_CPU)
    words = ["model=/data/mine", "calibration.dataset.path=mine.jsonl", "bench.num_prompts=8"]
    decision = Decision(kind="measure", title="", text="", stages=("bench", "eval"))
    (asked, *_) = command_of(*words)
    command = next_command(asked, decision, ["bf16", "awq"], translated(words))
    assert shlex.split(command)[3:] == [
        "model.path=/data/mine", "calibration.dataset.path=mine.jsonl", "bench.num_prompts=8", "variants=[bf16,awq]",
        "stage=[bench,eval,report]", "bench.blocks=2",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "is_kept"), [("study", False), ("formats", True)])
def test_an_experiment_stays_unless_it_is_the_default(name, is_kept):
    words = [f"experiment={name}", "model=demo"]
    decision = Decision(kind="measure", title="", text="", stages=("bench",))
    command = next_command(command_of(*words)[0], decision, ["bf16", "awq"], translated(words))
    assert (f"experiment={name}" in shlex.split(command)) is is_kept


def test_both_loads_of_a_gpu_are_measured_further():
    words = ["model=some/Model", "protocols=[study,ladder_quick]", "variants=[bf16,awq]"]
    decision = Decision(kind="measure", title="", text="", stages=("bench",))
    found = shlex.split(next_command(command_of(*words)[0], decision, ["bf16", "awq"], translated(words)))[3:]
    assert "protocols=[study,ladder_quick]" in found and not any(word.startswith("bench=") for word in found)
    assert {each.bench.name for each in command_of(*found)} == {"study", "ladder_quick"}


def test_a_load_that_the_front_end_limited_is_measured_with_more_of_it(settings):
    asked = settings("bench.blocks=2", "serve.extra_args=['--stream-interval=4']")
    decision = Decision(kind="measure", title="", text="", stages=("bench",), serve_args=FRONT_END_ARGS)
    command = shlex.split(next_command(asked, decision, ["bf16"]))
    assert 'serve.extra_args=["--stream-interval=4","--api-server-count=4"]' in command
    # Other servers: what was measured is none of their blocks.
    assert not any(word.startswith("bench.blocks") for word in command)


def test_random_weights_have_no_quality_to_score(settings):
    asked = settings("model=qwen3_8b", "model.weights=random")
    for stages, shown in ((("bench", "eval"), "stage=[bench,report]"), (("eval",), "")):
        command = next_command(asked, Decision(kind="measure", title="", text="", stages=stages), ["bf16"])
        assert shown in command and "eval" not in command and bool(command) == bool(shown)


def test_nothing_is_run_where_nothing_is_open(settings):
    assert next_command(settings(), Decision(kind="deploy", title="", text=""), ["bf16"]) == ""


def test_tasks_of_the_demo_are_called_so():
    assert task_label("MMLU", "demo_mmlu") == "demo-MMLU" and task_label("MMLU", "mmlu") == "MMLU"
    assert task_label("demo MMLU", "demo_mmlu") == "demo MMLU"
