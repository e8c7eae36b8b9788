"""Each fault of a source, in a folder of its own, is refused with the setting, its value and the way out."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import tiny_tokenizers
from support.tiny_sources import CONFIG, tensors_of, write_header, write_index, write_source

from pipeline.artifacts.keys import Digests
from pipeline.config import Settings, Stage
from pipeline.errors import ConfigError, InputError, PipelineError
from pipeline.models import preflight
from pipeline.models.source import ModelSource
from pipeline.models.tokenizer import load_tokenizer
from pipeline.tasks.chat_templates import ChatTemplate

WHOLE = tensors_of(CONFIG)
ALL = frozenset(Stage)


def check(folder: Path, settings: Callable[..., Settings], *overrides: str, due: frozenset[Stage] = ALL) -> ModelSource:
    # Composing takes half a second, and is kept by the overrides.
    composed = settings(*overrides)
    asked = composed.model_copy(update={"model": composed.model.model_copy(update={"path": folder})})
    source = ModelSource(asked.model, folder.parent / "cache", Digests(folder.parent / "digests.json"))
    preflight.check(source, asked, due)
    return source


def without(*names: str) -> dict[str, Any]:
    return {name: each for name, each in WHOLE.items() if not name.endswith(names)}


class Fault(NamedTuple):
    """A source, the settings it is asked with, and what the message names: setting and value, fault, way out."""

    tensors: dict[str, Any] | None
    config: dict[str, Any]
    overrides: tuple[str, ...]
    says: tuple[str, ...]


PATH = "model.path="
Q = "model.layers.0.self_attn.q_proj"
FAULTS = {
    "fp8 config": Fault(
        None,
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        (),
        (PATH, "quantized already (fp8, quantization_config in config.json)", "original BF16 checkpoint"),
    ),
    "compressed-tensors, old name": Fault(
        None, {"compression_config": {"quant_method": "compressed-tensors"}}, (), (PATH, "compressed-tensors", "BF16")
    ),
    "quantized text model": Fault(
        None, {"text_config": {**CONFIG, "quantization_config": {"quant_method": "mxfp4"}}}, (), (PATH, "mxfp4", "BF16")
    ),
    "fp8 tensors, silent config": Fault(
        {**WHOLE, f"{Q}.weight_scale_inv": ("F32", (4, 2))}, {}, (), (PATH, "fp8 in blocks", f"{Q}.weight_scale_inv")
    ),
    "gptq tensors, silent config": Fault(
        {**without("0.self_attn.q_proj.weight"), f"{Q}.qweight": ("I32", (32, 512))},
        {},
        (),
        (PATH, "awq or gptq", f"{Q}.qweight", "BF16"),
    ),
    "fp8 weights, no scale": Fault(
        {**WHOLE, f"{Q}.weight": ("F8_E4M3", (512, 256))}, {}, (), (PATH, "F8_E4M3", f"{Q}.weight", "BF16")
    ),
    "vocabulary": Fault(None, {"vocab_size": 65}, (), (PATH, "64 rows", "vocab_size=65", "Fetch the checkpoint again")),
    "width": Fault(None, {"hidden_size": 512}, (), (PATH, "256 columns", "hidden_size=512", "config.json")),
    "fewer layers": Fault(
        None, {"num_hidden_layers": 3}, (), (PATH, "num_hidden_layers=3", "model.layers.2 first", "Fetch")
    ),
    "no head": Fault(
        without("lm_head.weight"), {}, (), (PATH, "tie_word_embeddings=false", "no lm_head.weight", "=true")
    ),
    "encoder-decoder": Fault(None, {"is_encoder_decoder": True}, (), ("Qwen3ForCausalLM", "is_encoder_decoder=true")),
    "embedding model": Fault(
        None, {"architectures": ["BertModel"]}, (), ("architecture BertModel", "an embedding model", "serve.python")
    ),
    "reward model": Fault(
        None, {"architectures": ["Qwen2ForRewardModel"]}, (), ("Qwen2ForRewardModel", "a reward model", "Choose")
    ),
    "dropped by vLLM": Fault(
        None, {"architectures": ["MPTForCausalLM"]}, (), ("MPTForCausalLM", "last served by vLLM 0.", "serve.python")
    ),
    "custom code, not trusted": Fault(
        None,
        {"architectures": ["MineForCausalLM"], "auto_map": {"AutoModelForCausalLM": "mine.MineForCausalLM"}},
        (),
        ("MineForCausalLM", "code of its own", "model.trust_remote_code=true"),
    ),
    "a config's own code, not trusted": Fault(
        None,
        {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig"}},
        (),
        ("Qwen3ForCausalLM", "code of its own (AutoConfig)", "model.trust_remote_code=true"),
    ),
    "custom code, not there": Fault(
        None,
        {"architectures": ["MineForCausalLM"], "auto_map": {"AutoModelForCausalLM": "mine.MineForCausalLM"}},
        ("model.trust_remote_code=true",),
        (PATH, "mine.py", "Fetch the *.py files"),
    ),
    "latent attention": Fault(
        None,
        {"kv_lora_rank": 512},
        ("kv_cache=fp8_e4m3", "kv_cache.scales=calibrated"),
        ("kv_cache.scales=calibrated", "kv_lora_rank=512", "kv_cache.scales=one"),
    ),
    "experts' width": Fault(
        {**WHOLE, "model.layers.1.mlp.experts.0.down_proj.weight": ("BF16", (256, 96))},
        {"moe_intermediate_size": 96},
        ("quant=awq",),
        ("quant=awq", "group size 128 does not divide moe_intermediate_size=96", "quant.group_size to a divisor of 32"),
    ),
    "fp8 blocks across k and v": Fault(
        tensors_of({**CONFIG, "num_key_value_heads": 1}),
        {"num_key_value_heads": 1},
        ("quant=fp8_block",),
        (
            "quant=fp8_block",
            "block size 128 does not divide num_key_value_heads*head_dim=64",
            "Choose a format without",
        ),
    ),
    "fp8 blocks on one of two GPUs": Fault(
        tensors_of({**CONFIG, "intermediate_size": 640}),
        {"intermediate_size": 640},
        ("quant=fp8_block", "serve.tensor_parallel=2"),
        (
            "block size 128 does not divide intermediate_size/2=320.",
            "Set serve.tensor_parallel=1, or choose",
        ),
    ),
    "groups on one of four GPUs": Fault(
        None,
        {},
        ("quant=w4a16", "serve.tensor_parallel=4"),
        (
            "group size 128 does not divide intermediate_size/4=192",
            "Set serve.tensor_parallel=1 or 2",
            "to a divisor of 64",
        ),
    ),
    "experts on one of two GPUs": Fault(
        {**WHOLE, "model.layers.1.mlp.experts.0.down_proj.weight": ("BF16", (256, 128))},
        {"moe_intermediate_size": 128},
        ("quant=awq", "serve.tensor_parallel=2"),
        ("group size 128 does not divide moe_intermediate_size/2=64", "serve.tensor_parallel=1"),
    ),
    "experts that GPUs cannot share": Fault(
        {**WHOLE, "model.layers.1.mlp.experts.0.down_proj.weight": ("BF16", (256, 132))},
        {"moe_intermediate_size": 132},
        ("serve.tensor_parallel=8",),
        ("serve.tensor_parallel=8 does not divide moe_intermediate_size=132", "1, 2, 4,"),
    ),
    "tensor parallel": Fault(
        None,
        {},
        ("serve.tensor_parallel=3",),
        (
            "serve.tensor_parallel=3",
            "num_attention_heads=8, num_key_value_heads=4",
            "1, 2, 4, 8, for one variant as fp8_static@tp8",
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_with_setting_value_and_way_out(
    name: str, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    fault = FAULTS[name]
    folder = write_source(tmp_path / "model", fault.tensors, **fault.config)
    with pytest.raises(PipelineError) as caught:
        check(folder, settings, *fault.overrides)
    for part in fault.says:
        assert part in str(caught.value)


def test_the_whole_source_is_accepted_by_every_format(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    for quant in ("bf16", "fp8_static", "fp8_block", "int8_dynamic", "w4a16", "awq", "gptq", "nvfp4", "mxfp4"):
        assert not check(folder, settings, f"quant={quant}").note


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        ({**WHOLE, "model.layers.2.input_layernorm.weight": ("BF16", (256,))}, {}),
        ({**WHOLE, "mtp.layers.0.norm.weight": ("BF16", (256,))}, {}),
        (without("lm_head.weight"), {"tie_word_embeddings": True}),
        (without("lm_head.weight"), {"tie_word_embeddings": None}),
        (None, {"tie_word_embeddings": True}),
        (None, {"intermediate_size": [768, 768]}),
        (None, {"moe_intermediate_size": 96}),  # a width that no tensor has
    ],
    ids=["layers beyond", "MTP", "tied", "tied by class", "tied and stored", "widths by layer", "unused width"],
)
def test_what_loads_is_accepted(
    tensors: dict[str, Any] | None, config: dict[str, Any], tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    check(write_source(tmp_path / "model", tensors, **config), settings, "quant=awq")


def test_a_missing_shard_is_named(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    names = list(WHOLE)
    halves = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    write_index(folder, {shard: {name: WHOLE[name] for name in part} for shard, part in halves.items()})
    check(folder, settings)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"index.json names 2 files, and model-00002-of-00002.*Fetch model-00002"):
        check(folder, settings)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    write_index(folder, {"model.safetensors": WHOLE})
    write_header(folder / "model.safetensors", without("norm.weight"))
    with pytest.raises(InputError, match=r"norm.weight, which is in none of its files.*again"):
        check(folder, settings)


def test_pickled_weights_are_refused_with_the_conversion(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model.path=.*pickled weights only \(pytorch_model.bin\).*save_pretrained"):
        check(folder, settings)


@pytest.mark.parametrize("file", ["hf_quant_config.json", "quantize_config.json"])
def test_a_file_of_quantization_settings_is_enough(
    file: str, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    folder = write_source(tmp_path / "model")
    (folder / file).write_text("{}")
    with pytest.raises(InputError, match=f"quantized already.*{file}.*BF16"):
        check(folder, settings)


@pytest.mark.parametrize(
    "files",
    [("tokenizer.json",), ("tokenizer.model",), ("tiktoken.model",), ("vocab.json", "merges.txt")],
)
def test_any_tokenizer_will_do(files: tuple[str, ...], tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    for file in files:
        with pytest.raises(InputError, match=r"model.path=.*no tokenizer.*Copy the tokenizer"):
            check(folder, settings)
        (folder / file).write_text("{}")
    check(folder, settings)


@pytest.mark.parametrize("file", ["qwen.tiktoken", "spiece.model"])
def test_a_tokenizer_that_only_code_reads_needs_the_code(
    file: str, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "tokenizer.json").rename(folder / file)
    with pytest.raises(InputError, match=rf"{file} is read by code of its own alone.*Put a tokenizer.json"):
        check(folder, settings)
    config = {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}, "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"its tokenizer is code of its own.*set model.trust_remote_code=true"):
        check(folder, settings)
    (folder / "mine.py").write_text("")
    check(folder, settings, "model.trust_remote_code=true")


@pytest.mark.parametrize(("file", "needs"), [("tokenizer.model", "sentencepiece"), ("tiktoken.model", "tiktoken")])
def test_the_library_of_a_tokenizer_is_named_where_it_is_missing(
    file: str, needs: str, tmp_path: Path, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "tokenizer.json").rename(folder / file)
    monkeypatch.setattr(preflight, "installed", lambda names: dict.fromkeys(set(names) - {needs}, "1"))
    with pytest.raises(InputError, match=rf"{file} is read with {needs}, not installed here.*Install {needs}, or"):
        check(folder, settings)


@pytest.mark.parametrize(
    ("overrides", "due", "setting", "instead"),
    [
        (
            ("quant=awq",),
            Stage.CALIBRATE,
            "calibration.apply_chat_template=true",
            "calibration.apply_chat_template=false",
        ),
        ((), Stage.BENCH, "bench.endpoint=openai-chat", "bench.endpoint=openai"),
        (("eval.chat_template=true",), Stage.EVAL, "eval.chat_template=true", "eval.chat_template=false"),
    ],
)
def test_a_template_is_needed_where_it_is_used(
    overrides: tuple[str, ...],
    due: Stage,
    setting: str,
    instead: str,
    tmp_path: Path,
    settings: Callable[..., Settings],
) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match=f"model.path=.*no chat template, which {setting} needs.*set {instead} "):
        check(folder, settings, *overrides, due=frozenset({due}))
    check(folder, settings, *overrides, instead, due=frozenset({due}))
    check(folder, settings, *overrides, due=frozenset({Stage.VERIFY}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    check(folder, settings, *overrides, due=frozenset({due}))


def test_trusted_code_serves_an_architecture_of_its_own(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    code = {"AutoModelForCausalLM": "mine.MineForCausalLM", "AutoConfig": "theirs/code--their.Config"}
    folder = write_source(tmp_path / "model", architectures=["MineForCausalLM"], auto_map=code)
    (folder / "mine.py").write_text("")
    check(folder, settings, "model.trust_remote_code=true")


def test_a_tokenizer_of_its_own_code_is_refused_where_it_is_not_trusted(
    tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    folder = write_source(tmp_path / "model")
    own = {"chat_template": "{{ messages }}", "auto_map": {"AutoTokenizer": ["tokens.MineTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    check(folder, settings)
    (folder / "tokenizer.json").rename(folder / "mine.tiktoken")
    with pytest.raises(InputError, match=r"model.path=.*tokenizer is code of its own.*trust_remote_code=true"):
        check(folder, settings)
    with pytest.raises(InputError, match=r"tokenizer_config.json names code in tokens.py, which is not there"):
        check(folder, settings, "model.trust_remote_code=true")
    (folder / "tokens.py").write_text("")
    check(folder, settings, "model.trust_remote_code=true")


def test_a_report_needs_no_weights(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    check(folder, settings, due=frozenset())
    with pytest.raises(InputError, match="no .*safetensors"):
        check(folder, settings)


def test_key_value_heads_may_be_copied_to_more_gpus(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    check(folder, settings, "serve.tensor_parallel=8")
    with pytest.raises(ConfigError, match="num_attention_heads=8 of"):
        check(folder, settings, "serve.tensor_parallel=16")


MEASURE = """
import sys, time
started = time.monotonic()
from pathlib import Path
from support.settings import settings_of
import pipeline.__main__
from pipeline.artifacts.keys import Digests
from pipeline.config import Stage
from pipeline.models import preflight
from pipeline.models.source import ModelSource
asked = settings_of("model=qwen3_8b", f"model.path={sys.argv[1]}", "quant=awq")
source = ModelSource(asked.model, Path(sys.argv[1]) / "cache", Digests(Path(sys.argv[1]) / "digests.json"))
started = time.monotonic()
preflight.check(source, asked, set(Stage))
print(time.monotonic() - started)
heavy = {"torch", "transformers", "vllm", "llmcompressor"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_files_of_qwen3_8b_are_checked_in_two_seconds(data_dir: Path, tmp_path: Path) -> None:
    published = data_dir / "qwen3"
    config = json.loads((published / "config.qwen3-8b.json").read_text())
    folder = tmp_path / "Qwen3-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copyfile(published / file, folder / file)
    tensors = tensors_of(config)
    shards = 5
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    parts: dict[str, dict[str, Any]] = {name: {} for name in names}
    for number, (name, each) in enumerate(tensors.items()):
        parts[names[number * shards // len(tensors)]][name] = each
    write_index(folder, parts)
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) > 16e9
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout) < 2


def test_a_gguf_file_is_no_source(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    folder = write_source(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "q4_k_m.gguf")
    with pytest.raises(InputError, match=r"model.path=.*quantized already \(gguf, q4_k_m.gguf\).*original BF16"):
        check(folder, settings)


def test_mistrals_own_tokenizer_is_converted_by_the_command_of_the_message(
    tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    folder = write_source(tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    tiny_tokenizers.tekken(folder)
    with pytest.raises(InputError, match=r"tekken.json alone names neither.*run: python -c") as caught:
        check(folder, settings)
    command = shlex.split(caught.value.remedy.removeprefix("In its folder run: ").removesuffix("."))
    subprocess.run([sys.executable, *command[1:]], cwd=folder, check=True, capture_output=True)
    check(folder, settings)
    tokenizer = load_tokenizer(folder)
    text = ChatTemplate(tokenizer).render([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert text == "<s>[INST]hi[/INST]" and tokenizer.eos_token == "</s>"
