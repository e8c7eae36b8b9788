"""What people type: taken as it is meant, or refused with the words to type instead."""

import re
import subprocess
from pathlib import Path

import pytest
from support.settings import command_of

from pipeline.config import PROJECT_ROOT, Stage
from pipeline.config.command_line import quoted, split, translated
from pipeline.config.names import choices
from pipeline.config.presets import choice
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, PipelineError
from pipeline.hardware.probe import Hardware
from pipeline.runner import Runner

STUDY = ["bf16", "fp8_static", "fp8_dynamic", "int8_dynamic", "w4a16", "awq", "gptq", "bf16+fp8_e4m3"]
SHAREGPT = "anon8231489123/ShareGPT_Vicuna_unfiltered"


def names(*words: str) -> list[str]:
    return [str(each.variant) for each in command_of(*words)]


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["model=meta-llama/Llama-3.1-8B"], ("Llama-3.1-8B", None, "meta-llama/Llama-3.1-8B")),
        (["model.hub_id=meta-llama/Llama-3.1-8B"], ("Llama-3.1-8B", None, "meta-llama/Llama-3.1-8B")),
        (["model.hub_id=meta-llama/Llama-3.1-8B", "model.name=mine"], ("mine", None, "meta-llama/Llama-3.1-8B")),
        (["model=qwen3_8b", "model.hub_id=some/Qwen3-8B-tuned"], ("Qwen3-8B-tuned", None, "some/Qwen3-8B-tuned")),
        (["model=qwen3_8b", "model.path=/data/Qwen3-8B"], ("qwen3_8b", "/data/Qwen3-8B", "Qwen/Qwen3-8B")),
        (["model=/data/Llama 3.2 1B"], ("Llama-3.2-1B", "/data/Llama 3.2 1B", None)),
        (["model.path=/data/a,b=c[1](2)/模型"], ("模型", "/data/a,b=c[1](2)/模型", None)),
        (["model.path=~/m"], ("m", str(Path("~/m").expanduser()), None)),
        (["model=~/m/"], ("m", str(Path("~/m").expanduser()), None)),
        (["experiment=study", "model.path=/data/mine"], ("mine", "/data/mine", None)),
        (["model=Qwen3-8B"], ("qwen3_8b", None, "Qwen/Qwen3-8B")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_folder_or_a_hub_id_names_the_model(words, model):
    found = command_of(*words)[0].model
    assert (found.name, None if found.path is None else str(found.path), found.hub_id) == model


def test_another_repository_has_no_commit_of_the_choice_s():
    pinned, other = command_of("model=qwen3_8b")[0], command_of("model=qwen3_8b", "model.hub_id=some/tuned")[0]
    assert pinned.model.revision and other.model.revision is None


def test_a_folder_here_is_a_model(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(command_of("model=mine")[0].model.path) == "mine"


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    here = Hardware(device=request.param, name="this machine", cores=2, memory_gib=16)
    monkeypatch.setattr("pipeline.config.command_line.probe", lambda asked: here)
    return str(request.param)


@pytest.mark.parametrize("words", [["model=some/model"], ["model.path=/data/mine"], ["model.hub_id=some/model"]])
def test_a_model_of_ones_own_is_measured_at_the_size_of_the_machine(words, device):
    own = command_of(*words)[0]
    sizes = (own.calibration.name, own.bench.name, own.eval.name)
    assert sizes == (("laptop", "laptop", "laptop") if device == "cpu" else ("sharegpt", "study", "study"))
    assert own.calibration.dataset.hub_id == own.bench.dataset.hub_id == SHAREGPT


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (["model=some/model", "eval=study", "bench=ladder"], ("laptop", "ladder", "study")),
        (["model=some/model", "calibration.num_samples=8"], ("laptop", "laptop", "laptop")),
        (["model=some/model", "hardware.gpu=L40S"], ("sharegpt", "study", "study")),
        (["model=some/model", "hardware.device=cuda"], ("sharegpt", "study", "study")),
        (["model=qwen3_8b", "model.path=/data/mine"], ("sharegpt", "study", "study")),
        (["model=some/model", "protocols=[study,ladder]"], ("laptop", "study", "laptop")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_what_is_asked_for_is_not_made_smaller(words, sizes, device):
    own = command_of(*words)[0]
    assert (own.calibration.name, own.bench.name, own.eval.name) == sizes


@pytest.mark.parametrize(
    ("words", "loads"),
    [
        ([], ["study", "ladder_quick"]),
        # What is said of a load is said of one.
        (["bench=latency"], ["latency"]),
        (["bench.blocks=3"], ["study"]),
        (["protocols=latency"], ["latency"]),
        (["variants=[bf16,awq]", "eval.budget_minutes=60"], ["study"]),
    ],
)
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_on_a_gpu_a_model_of_ones_own_meets_few_users_too(words, loads, device):
    found = command_of("model=some/model", "variants=[bf16,awq]", *words)
    assert list(dict.fromkeys(each.bench.name for each in found)) == loads


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("words", [["model=some/model"], ["model.path=/data/mine"], ["model.hub_id=some/model"]])
def test_nothing_of_the_demo_is_left(words, device):
    own, study = command_of(*words)[0], command_of("model=qwen3_8b")[0]
    assert (own.calibration, own.bench, own.eval) == (study.calibration, study.bench, study.eval)
    assert own.calibration.dataset.hub_id == SHAREGPT


def test_a_choice_of_the_users_goes_before_those_of_the_model():
    (found,) = command_of("model=some/model", "bench=ladder", "calibration=ultrachat", "quant=bf16")
    assert (found.bench.name, found.calibration.name) == ("ladder", "ultrachat")


@pytest.mark.parametrize("model", ["model=demo", "model=qwen3_8b"])
@pytest.mark.parametrize("setting", ["calibration.dataset", "bench.dataset", "eval.divergence.dataset"])
def test_another_data_set_keeps_nothing_of_the_former_one(model, setting):
    given = [f"{setting}.hub_id=some/data", f"{setting}.hub_file=all.json"]
    (found,) = command_of(model, "quant=bf16", *given)
    dataset = found
    for name in setting.split("."):
        dataset = getattr(dataset, name)
    kept = {"path", "hub_id", "hub_file", "revision"}
    assert dataset.model_dump(include=kept) == {
        "path": None, "hub_id": "some/data", "hub_file": "all.json", "revision": None
    }  # fmt: skip


@pytest.mark.parametrize("setting", ["calibration.dataset", "bench.dataset", "eval.divergence.dataset"])
def test_a_path_alone_is_a_data_set(setting):
    said = command_of("model=some/model", "quant=bf16", f"{setting}.path=my file.jsonl")
    assert command_of("model=some/model", "quant=bf16", f"{setting}=my file.jsonl") == said


def test_a_split_of_the_hub_is_calibrated_with():
    """The line of the README."""
    (found,) = command_of(
        "model=qwen3_8b", "quant=bf16", "calibration.dataset.hub_id=some/data", "calibration.dataset.split=train"
    )
    dataset = found.calibration.dataset
    assert (dataset.hub_id, dataset.split, dataset.hub_file, dataset.revision) == ("some/data", "train", None, None)


def test_the_study_is_the_default_and_bf16_is_added_to_what_is_compared():
    assert names("model=some/model") == names("stage=bench") == STUDY
    assert names("stage=all", "quant=awq") == ["bf16", "awq"]
    assert names("stage=report", "quant=awq", "kv_cache=fp8_e4m3", "serve.kernel=marlin")[0] == "bf16"
    assert names("stage=eval", "variants=awq@marlin,gptq", "serve.kernel=machete")[0] == "bf16"
    assert names("variants=gptq,bf16") == ["gptq", "bf16"]
    assert names("stage=bench", "quant=awq", "protocols=quick,ladder") == ["bf16", "bf16", "awq", "awq"]
    assert names("stage=quantize,verify", "quant=awq") == ["awq"]
    assert names("stage=bench", "quant=awq", "add_bf16=false") == ["awq"]
    assert names("stage=bench", "quant=awq", "serve.url=localhost:8000") == ["awq"]
    assert names("stage=capabilities") == ["fp8_static"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("variants=bf16,awq", ["bf16", "awq"]),
        ("variants=awq", ["bf16", "awq"]),
        ("variants=[bf16, AWQ, Fp8-Dynamic+FP8-E4M3]", ["bf16", "awq", "fp8_dynamic+fp8_e4m3"]),
        ("variants=[bf16,w4a16(group_size=64)]", ["bf16", "w4a16(group_size=64)"]),
        ("variants=bf16,gptq(ignore=[lm_head,re:.*down_proj])", ["bf16", "gptq(ignore=[lm_head,re:.*down_proj])"]),
    ],
)
def test_variants_are_a_list_however_it_is_written(word, value):
    assert names(word) == value


def test_lists_and_texts_need_no_quotes_of_hydras(tmp_path):
    found, *_ = command_of(
        "stage=quantize,bench,report", "quant=FP8-dynamic", "add_bf16=false", "report.formats=html",
        "report.runs=~/a b.json,/x/y=z", "serve.extra_args=[--x=8,--y]", "report.title=Wozu? (neu): 模型",
        "hardware.gpu=4090", "model.hub_id=some/model", "model.revision=0123456", "report.what_if=L40S",
        "report.constraints.max_loss_points=1",
    )  # fmt: skip
    assert found.stage == (Stage.QUANTIZE, Stage.BENCH, "report")
    assert (found.quant.name, found.report.formats, found.report.title) == (
        "fp8_dynamic",
        ("html",),
        "Wozu? (neu): 模型",
    )
    assert found.report.runs == (Path("~/a b.json").expanduser(), Path("/x/y=z"))
    assert found.serve.extra_args == ("--x=8", "--y")
    assert (found.hardware.gpu.name, found.model.revision, found.report.what_if[0].name) == (
        "RTX 4090",
        "0123456",
        "L40S",
    )
    assert found.report.constraints.max_loss_points == dict.fromkeys(found.eval.tasks, 1.0)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"]
)
def test_a_server_is_named_by_what_people_paste(url):
    (found,) = command_of("stage=bench", "quant=bf16", f"serve.url={url}")
    assert found.serve.url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_commas_stay_a_sweep_s(device):
    assert translated(["-m", "stage=quantize,bench", "quant=awq,FP8-static", "model=a/b,c/d"]) == [
        "-m", "protocols=[study,ladder_quick]", "++model.path=null", "++model.revision=null", "++model.name=null",
        "stage=quantize,bench", "quant=awq,fp8_static", "model=custom", "model.hub_id=a/b,c/d",
    ]  # fmt: skip
    assert translated(["-m", "variants=[bf16,awq],[gptq]"])[-1] == "variants=[bf16,awq],[gptq]"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["compare", "MODEL=some/model", "HARDWARE=cuda"], ["'model=some/model'", "'stage=all'"]),
        (["compare", "MODEL=/data/a model", "HARDWARE=cpu"], ["'model=/data/a model'", "'stage=all'"]),
        (["compare", "HARDWARE=cpu"], ["-m pipeline   'stage=all'"]),
        (
            ["quantize", "bench", "eval", "MODEL=some/model"],
            ["'model=some/model'", "'stage=[quantize,bench,eval,report]'"],
        ),
        (["gate", "BASELINE=x", "EXPERIMENT=formats"], ["experiment=formats", "stage=gate report.baseline=x"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_make_passes_the_model_on(asked, words):
    answer = subprocess.run(["make", "-n", *asked], capture_output=True, text=True, cwd=PROJECT_ROOT)
    assert answer.returncode == 0, answer.stderr
    (line,) = [line for line in answer.stdout.splitlines() if "-m pipeline" in line]
    assert all(word in line for word in words), line


@pytest.mark.parametrize("text", ["it's", "a\\", "a\\'b", "\\\\x\\", "a,b=[c]", '"x"'])
def test_hydra_reads_what_was_quoted(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"a={quoted(text)}").value() == text


def test_commas_in_brackets_and_quotes_divide_nothing():
    assert split("a, b(c=1,d=[e,f]) ,'g,h'") == ["a", "b(c=1,d=[e,f])", "'g,h'"]


def refusal(*words: str) -> str:
    """The message that the command would print, by the checks before any work."""
    with pytest.raises(PipelineError) as caught:
        Runner(command_of(*words), list(words))
    return str(caught.value)


# Each mistake, and what its message must have: the setting, the fault, and what to type.
MISTAKES = [
    (["quant=fp8"], ["quant=fp8: there is no such choice", "fp8_static", "fp8_dynamic", "--help quant"]),
    (["quant=aqw"], ["did you mean awq"]),
    (["model=llama"], ["model=llama: there is no such choice", "model=<owner/name of the hub>", "model=<folder>"]),
    (["model.path=README.md"], ["model.path=README.md: is a file", "Name the folder that holds config.json"]),
    (["model.path=/tmp"], ["has no config.json", "Name the folder of a Hugging Face checkpoint"]),
    (["model=demo", "model.path=/data/mine"], ["model=demo and model.path=/data/mine name two models"]),
    (["model=qwen3_8b", f"model.path={CHECKPOINT}"], ["is Qwen3ForCausalLM with hidden_size=", "Leave out model="]),
    (["model.name=Llama-3.1/8B", "model=a/b"], ["model.name: Llama-3.1/8B", "Llama-3.1-8B can"]),
    (["stage=quantise"], ["stage: quantise is unknown (did you mean quantize?)", "calibrate, quantize, verify"]),
    (["stage=quantize", "bench"], ["bench: settings are written name=value", "stage=quantize,bench"]),
    (["stage=[quantize,", "bench]"], ["the shell split the value", "'stage=[quantize, bench]'"]),
    (["variants=[bf16,", "awq]"], ["the shell split the value", "'variants=[bf16, awq]'"]),
    (["report.constraints.max_loss_points={MMLU:", "1}"], ["'report.constraints.max_loss_points={MMLU: 1}'"]),
    (["variants=[bf16"], ["variants=[bf16: a bracket is not closed"]),
    (["quant=awq,gptq"], ["quant=awq,gptq", "variants=awq,gptq", "-m quant=awq,gptq"]),
    (["variants=[bf16,aqw]"], ["variants: aqw: ", "did you mean awq"]),
    (["variants=[]"], ["variants=", "empty"]),
    (["variants=[awq@machete+fp8_e4m3]"], ["the cache comes before what serves it: awq+fp8_e4m3@machete"]),
    (["variants=[awq@cutlass]"], ["serve.kernel=cutlass", "known are auto, machete"]),
    (["kv_cache=fp8"], ["kv_cache=fp8: there is no such choice", "did you mean fp8_e4m3 or fp8_e5m2"]),
    *(([word], [word, "hardware=auto", "hardware.gpu=h100_sxm"]) for word in ("hardware=h100", "hardware=cuda")),
    (["bench.num_promts=10"], ["There is no setting bench.num_promts; did you mean bench.num_prompts"]),
    (["memory_gb=24"], ["did you mean report.constraints.memory_gib"]),
    (["dry-run=true"], ["did you mean dry_run"]),
    (["--dry-run"], ["--dry-run: there is no such option", "dry_run=true"]),
    (["--model", "llama"], ["--model: there is no such option", "model=llama"]),
    (["+bench.repeats=5"], ["bench.repeats has a value already", "without +"]),
    (["+bench.num_promts=5"], ["There is no setting bench.num_promts; did you mean bench.num_prompts"]),
    (["eval.limit=all"], ["eval.limit='all': not a whole number", "null: all"]),
    (["eval.limit=0.1"], ["eval.limit=0.1: not a whole number", "null: all"]),
    (["eval.limit=-5"], ["eval.limit=-5: input should be greater than 0"]),
    (["report.constraints.memory_gib=24GB"], ["memory_gib='24GB': not a number", "without GB", "GiB"]),
    (["bench.slo.ttft_ms=500ms"], ["bench.slo.ttft_ms='500ms': not a number", "without ms"]),
    (["serve.max_model_len=8k"], ["serve.max_model_len='8k': not a whole number", "without k"]),
    (["report.constraints.max_loss_points={mmlu: 1}"], ["max_loss_points=mmlu", "C-Eval, MMLU, GSM8K, HumanEval"]),
    (["hardware.gpu=H100"], ["hardware.gpu: H100 is several GPUs", "h100_sxm", "h100_pcie"]),
    (["hardware.gpu=MI300X"], ["hardware.gpu: MI300X is unknown", "known are t4"]),
    (["serve.url=http://127.0.0.1:8000/chat", "stage=bench", "quant=bf16"], ["serve.url: ", "write http://host:port"]),
    (["serve.url=http://127.0.0.1:8000", "stage=bench"], ["serve.url=http://127.0.0.1:8000", "quant=bf16"]),
    (["serve.tensor_parallel_size=2"], ["no setting serve.tensor_parallel_size; did you mean serve.tensor_parallel"]),
    (["serve.block_size=32"], ["no setting serve.block_size", "[--block-size="]),
    (["quant=awq", "quant.group_size=100"], ["group size 100 does not divide"]),
    (["quant=awq", "quant.engine=autogptq"], ["engine=autogptq does not make W4A16_ASYM", "can"]),
    (["eval=[study,chat]"], ["eval=[study,chat]: eval takes one choice"]),
    (["+eval.tasks.ARC={task: arc_challenge}"], ["eval.tasks.ARC.metric is not set (lm-eval metric"]),
    (["eval.tasks=[hellaswag]"], ["eval.tasks=[hellaswag]: tasks have names", "+eval.tasks.", "~eval.tasks."]),
    (["eval.tasks={X: {task: hellaswag, metric: acc_norm}}"], ["tasks have names", "+eval.tasks.", "~eval.tasks."]),
    (["report.constraints=24"], ["report.constraints=24: not a mapping"]),
    (["quants=awq,gptq"], ["There is no setting quants; did you mean quant"]),
    (["variants=all"], ["variants: all: quant=all: there is no such choice", "--help quant"]),
    (["--data-dir", "mine"], ["data_dir=mine"]),
    (["model=README.md"], ["model.path=README.md: is a file"]),
    (["bench.ladder.level_s=5"], ["bench.ladder is null here", "--help bench"]),
    (["bench=studdy"], ["bench=studdy: there is no such choice; did you mean study"]),
    (["fp8_static"], ["did you mean quant=fp8_static?"]),
    (["publish.base_model={x"], ["publish.base_model"]),
    (["calibration.columns.prompt=a"], ["There is no setting calibration.columns"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "fragments"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_named_with_what_to_type(words, fragments):
    message = refusal(*words)
    lost = [fragment for fragment in fragments if fragment.lower() not in message.lower()]
    assert not lost, message
    assert not re.search(r"HYDRA_FULL_ERROR|search path|no viable|pkg://|LexerNo", message)
    assert len(message) < 900, message


def test_every_choice_is_its_own_nearest_name():
    for name in choices("quant"):
        assert choice("quant", name) is not None
        assert names("stage=quantize", f"quant={name.upper().replace('_', '-')}") == [name]


def test_a_word_that_no_rule_reads_is_shown_with_its_quotes():
    with pytest.raises(
        ConfigError, match=r"""calibration.mix: the value \{zh: \{path: 模型\}\} cannot be read.*'calibration.mix="""
    ):
        command_of("calibration.mix={zh: {path: 模型}}")
