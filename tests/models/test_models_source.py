"""A model that cannot work is refused by name before anything heavy starts."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from support import custom_code

from pipeline.artifacts.keys import Digests
from pipeline.config import ModelSettings, Stage
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, InputError
from pipeline.models import preflight
from pipeline.models.safetensors import check_safetensors, read_index
from pipeline.models.source import ModelSource


def source(folder: Path, tmp_path: Path, **settings: object) -> ModelSource:
    model = ModelSettings.model_validate({"name": "m", "path": folder, **settings})
    return ModelSource(model, tmp_path / "cache", Digests(tmp_path / "digests.json"))


def edit(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_demo_is_accepted_by_every_format(tmp_path: Path, settings) -> None:
    for quant in ("bf16", "fp8_static", "fp8_dynamic", "int8_dynamic", "w4a16", "awq", "gptq"):
        preflight.check(source(CHECKPOINT, tmp_path), settings(f"quant={quant}"), tuple(Stage))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no config.json"):
        _ = source(tmp_path, tmp_path).config


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        _ = source(tmp_path / "nowhere", tmp_path).config


def test_a_config_that_is_not_json_is_refused(broken_model: Path, tmp_path: Path) -> None:
    (broken_model / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        _ = source(broken_model, tmp_path).config


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LINEAR = {"type": "linear", "factor": 4.0}
LONG = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("rope", "default", "longest"),
    [
        ({}, 2048, 2048),
        ({"rope_scaling": None}, 2048, 2048),
        # The config counts YaRN's scaling already, and not that of the first kinds.
        ({"rope_scaling": YARN}, 2048, 2048),
        ({"rope_scaling": LINEAR}, 8192, 8192),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}}, 8192, 8192),
        ({"rope_scaling": LINEAR, "model_type": "gemma3_text"}, 2048, 2048),
        ({"rope_scaling": LONG, "original_max_position_embeddings": 512}, 512, 2048),
    ],
)
def test_the_context_is_that_of_the_scaled_positions_as_vllm_reads_them(
    rope: dict[str, Any], default: int, longest: int, broken_model: Path, tmp_path: Path
) -> None:
    edit(broken_model, max_position_embeddings=2048, **rope)
    # vLLM reads the tokenizer's limit for embeddings alone.
    (broken_model / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    found = source(broken_model, tmp_path)
    assert (found.context(None), found.context(256), found.context(10**6)) == (default, 256, longest)


def test_a_context_without_any_limit_is_not_known(broken_model: Path, tmp_path: Path) -> None:
    path = broken_model / "config.json"
    config = json.loads(path.read_text())
    del config["max_position_embeddings"]
    path.write_text(json.dumps(config))
    assert source(broken_model, tmp_path).context(None) is None
    assert source(broken_model, tmp_path).context(256) == 256


def test_weights_are_needed_unless_random(broken_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights=random"):
        _ = source(broken_model, tmp_path).folder


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_a_truncated_safetensors_file_is_refused(broken_model: Path, tmp_path: Path, keep: int) -> None:
    whole = (CHECKPOINT / "model.safetensors").read_bytes()
    (broken_model / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(InputError, match="model.safetensors"):
        _ = source(broken_model, tmp_path).folder


def test_a_whole_safetensors_file_is_accepted() -> None:
    check_safetensors(CHECKPOINT / "model.safetensors")


@pytest.mark.parametrize("header", ['{"": {}}', '{"": null}', '{"w": {"dtype": "F32"}}', '{"w": []}'])
def test_a_header_entry_of_any_name_is_checked(header: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(InputError, match="describes '.*' in another way"):
        check_safetensors(path)


def write_floats(path: Path, *tensors: tuple[list[int], list[int]]) -> None:
    header = json.dumps(
        {str(n): {"dtype": "F32", "shape": shape, "data_offsets": at} for n, (shape, at) in enumerate(tensors)}
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(max(at[1] for _, at in tensors)))


@pytest.mark.parametrize("shape", [[3], [2**40, 2**40], [2**4000] * 60, [1] * 100, []], ids=len)
def test_a_header_has_as_many_bytes_as_its_shapes(shape: list[int], tmp_path: Path) -> None:
    write_floats(tmp_path / "model.safetensors", (shape, [0, 8]))
    with pytest.raises(InputError, match="describes '0' in another way"):
        check_safetensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize("spans", [[[0, 8], [4, 12]], [[0, 8], [16, 24]], [[8, 16]]])
def test_tensors_follow_each_other(spans: list[list[int]], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_floats(path, *(([2], at) for at in spans))
    with pytest.raises(InputError, match="its tensors overlap, or there is something between them"):
        check_safetensors(path)
    write_floats(path, ([2], [8, 16]), ([0], [8, 8]), ([2], [0, 8]))
    check_safetensors(path)


@pytest.mark.parametrize("name", ["", "../other.safetensors", "a/b.safetensors", "weights.bin"])
def test_an_index_names_safetensors_files_of_its_folder_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(InputError, match="no safetensors file of that folder"):
        read_index(tmp_path)


def test_a_config_that_stands_for_another_model_is_refused(broken_model: Path, tmp_path: Path) -> None:
    verifier = {"name_or_path": "/home/somebody/model"}
    edit(broken_model, speculators_config={"algorithm": "eagle", "verifier": verifier})
    with pytest.raises(InputError, match="speculators_config.*which vLLM would serve instead"):
        _ = source(broken_model, tmp_path).config


@pytest.mark.parametrize("classes", [5, [5, None], {"AutoTokenizer": 5}, {"AutoTokenizer": [["x"]]}])
def test_names_of_code_that_are_no_names_are_passed_over(classes: object, tmp_path: Path, settings) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(CHECKPOINT, copy)
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": classes}))
    preflight.check(source(copy, tmp_path, trust_remote_code=True), settings("quant=bf16"), tuple(Stage))


def test_an_unknown_architecture_is_refused(broken_model: Path, tmp_path: Path, settings) -> None:
    edit(broken_model, architectures=["NoSuchModelForCausalLM"])
    with pytest.raises(InputError, match="NoSuchModelForCausalLM"):
        preflight.check(source(broken_model, tmp_path), settings("quant=bf16"), ())


def test_a_width_that_the_group_size_does_not_divide_is_refused(broken_model: Path, tmp_path: Path, settings) -> None:
    edit(broken_model, intermediate_size=800)
    with pytest.raises(ConfigError, match=r"group size 128 does not divide intermediate_size=800.*quant.group_size"):
        preflight.check(source(broken_model, tmp_path), settings("quant=awq"), ())
    preflight.check(source(broken_model, tmp_path), settings("quant=fp8_dynamic"), ())


def test_identity_follows_content_and_not_place(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(CHECKPOINT, copy)
    assert source(copy, tmp_path).identity() == source(CHECKPOINT, tmp_path).identity()
    edit(copy, rope_theta=5)
    assert source(copy, tmp_path).identity() != source(CHECKPOINT, tmp_path).identity()


def test_an_unreachable_hub_says_what_to_do_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A port of this machine where nothing listens stands for a hub that cannot be reached.
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = ModelSettings(name="m", hub_id="Qwen/Qwen3-8B", revision="0" * 40)
    unreachable = ModelSource(model, tmp_path, Digests(tmp_path / "digests.json"))
    with pytest.raises(InputError, match=r"model.path=<the copy>.*model=demo"):
        _ = unreachable.config


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen3-8b"])
def test_the_published_shapes_fit_every_format(name: str, data_dir: Path, tmp_path: Path, settings) -> None:
    folder = tmp_path / "shape"
    folder.mkdir()
    shutil.copyfile(data_dir / "qwen3" / f"config.{name}.json", folder / "config.json")
    for quant in ("fp8_static", "awq", "gptq", "int8_dynamic"):
        preflight.check(source(folder, tmp_path, weights="random"), settings(f"quant={quant}"), ())


def test_random_weights_have_the_shape_and_the_seed(broken_model: Path, tmp_path: Path) -> None:
    first = source(broken_model, tmp_path, weights="random")
    made = check_random(first)
    again = check_random(source(broken_model, tmp_path / "other", weights="random"))
    other = check_random(source(broken_model, tmp_path / "third", weights="random", seed=1))
    assert made == again
    assert made != other


def check_random(model: ModelSource) -> bytes:
    path = model.folder / "model.safetensors"
    check_safetensors(path)
    return path.read_bytes()


CODE = """
from transformers import Qwen3Config, Qwen3ForCausalLM

class MineConfig(Qwen3Config):
    model_type = "mine"

class MineForCausalLM(Qwen3ForCausalLM):
    config_class = MineConfig
"""


def test_random_weights_of_custom_code_are_drawn_where_it_is_trusted(broken_model: Path, tmp_path: Path) -> None:
    (broken_model / "mine.py").write_text(CODE)
    classes = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    edit(broken_model, model_type="mine", architectures=["MineForCausalLM"], auto_map=classes, dtype="float16")
    with custom_code.modules_in(tmp_path / "modules"):
        made = source(broken_model, tmp_path, weights="random", trust_remote_code=True).folder
    assert (made / "mine.py").read_text() == CODE
    config = json.loads((made / "config.json").read_text())
    assert (config["auto_map"], config["dtype"]) == (classes, "bfloat16")
