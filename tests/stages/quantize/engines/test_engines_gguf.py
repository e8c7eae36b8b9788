"""GGUF files hold llama.cpp's formats under llama.cpp's names, and are read back under the original ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.engine_on_demo import error, made, original

from pipeline.artifacts.keys import Digests
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, NotApplicable
from pipeline.formats import unpack_gguf
from pipeline.formats.blocks import q4_k_m
from pipeline.models import headers as disk
from pipeline.models import preflight
from pipeline.models.source import ModelSource
from pipeline.stages.verify import file_sizes, gate
from pipeline.stages.verify.weights import compare

gguf = pytest.importorskip("gguf")
pytest.importorskip("auto_round")


@pytest.fixture(scope="module", params=["gguf_q4_k_m", "gguf_q8_0"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {}


@pytest.fixture
def folder(variant: str, folders: dict[str, Path], settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each made once."""
    from pipeline.stages.quantize.engines import gguf as engine

    if variant not in folders:
        folders[variant] = made(engine, settings(f"quant={variant}"), tmp_path_factory.mktemp(variant))
    return folders[variant]


def test_a_checkpoint_passes_the_gate(folder: Path, variant: str, settings) -> None:
    class Asked:
        def __init__(self) -> None:
            self.settings = settings(f"quant={variant}")

    assert "1 weight file" in gate.files(folder, CHECKPOINT)
    assert "28 of 28" in gate.layers(folder, CHECKPOINT, Asked())
    assert "finite" in gate.scales(folder)
    assert sum(file_sizes.predicted(CHECKPOINT, settings(f"quant={variant}").quant, False).values()) == pytest.approx(
        disk.weight_bytes(folder), rel=0.001
    )
    assert all(item.excess <= 1 for item in compare(folder, CHECKPOINT, settings(f"quant={variant}").quant))
    assert disk.describe(folder)["format"] == variant.replace("_", " ", 1).replace("q", "Q").replace("k_m", "K_M")
    assert {path.name for path in folder.iterdir()} >= {"model.gguf", "config.json", "tokenizer.json"}


def test_the_gate_finds_scales_of_other_blocks(folder: Path, variant: str, settings, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = {
        unpack_gguf.original_name(tensor.name): tensor
        for tensor in gguf.GGUFReader(tmp_path / "model.gguf", "r+").tensors
    }
    damaged = tensors["model.layers.1.mlp.up_proj.weight"]
    # A block begins with its scale (Q8_0), or with its scale and that of its minima (Q4_K), in float16.
    size, scales = (34, 2) if variant == "gguf_q8_0" else (144, 4)
    blocks = damaged.data.reshape(-1, size)
    blocks[:, :scales] = blocks[::-1, :scales].copy()
    found = compare(tmp_path, CHECKPOINT, settings(f"quant={variant}").quant)
    wrong = [item.module for item in found if item.excess > 1]
    assert wrong == ["model.layers.1.mlp.up_proj"]


def test_every_tensor_has_its_original_name_shape_and_nearly_its_values(folder: Path, variant: str) -> None:
    weights = original()
    found = dict(unpack_gguf.weights(folder / "model.gguf"))
    assert set(found) == set(weights)
    for name, weight in found.items():
        assert weight.dtype == torch.float32
        assert weight.shape == weights[name].shape
        assert error(weight, weights[name]) < (0.09 if variant == "gguf_q4_k_m" else 0.007), name


def test_the_mixture_is_llama_cpps(folder: Path, variant: str) -> None:
    kinds = {name: item["dtype"] for name, item in disk.headers(folder).items()}
    if variant == "gguf_q8_0":
        assert {kind for name, kind in kinds.items() if "norm" not in name} == {"Q8_0"}
    else:
        assert kinds["model.layers.0.self_attn.q_proj.weight"] == "Q4_K"
        assert kinds["lm_head.weight"] == "Q6_K"
        assert set(kinds.values()) == {"F32", "Q4_K", "Q6_K"}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"F32"}


def test_the_predicted_mixture_is_llama_cpps_at_every_depth() -> None:
    from auto_round.export.export_to_gguf.gguf_dtype import _use_more_bits

    for layers in range(1, 100):
        for index in range(layers):
            more = "Q6_K" if _use_more_bits(index, layers) else "Q4_K"
            assert q4_k_m(f"model.layers.{index}.mlp.down_proj.weight", layers) == more


def test_8_bits_are_rounded_as_llama_cpp_rounds_them(settings, folders: dict[str, Path], tmp_path: Path) -> None:
    from pipeline.stages.quantize.engines import gguf as engine

    folder = folders.get("gguf_q8_0") or made(engine, settings("quant=gguf_q8_0"), tmp_path)
    weights = original()
    for tensor in gguf.GGUFReader(folder / "model.gguf").tensors:
        weight = weights[unpack_gguf.original_name(tensor.name)].numpy()
        assert (gguf.quants.quantize(weight, tensor.tensor_type) == tensor.data).all(), tensor.name


@pytest.mark.parametrize("kept", [0.5, 0.99, 0.0001])
def test_a_truncated_file_is_named(folder: Path, tmp_path: Path, kept: float) -> None:
    whole = (folder / "model.gguf").read_bytes()
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.gguf").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(gate.Failed, match="truncated"):
        gate.files(tmp_path, CHECKPOINT)


@pytest.mark.parametrize(
    ("quant", "overrides", "width"),
    [("gguf_q4_k_m", {"hidden_size": 384}, "384"), ("gguf_q8_0", {"intermediate_size": 720}, "720")],
)
def test_widths_that_blocks_do_not_divide_are_refused(
    quant: str, overrides: dict[str, int], width: str, broken_model: Path, settings, tmp_path: Path
) -> None:
    config = broken_model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | overrides))
    asked = settings(f"quant={quant}", f"model.path={broken_model}")
    source = ModelSource(asked.model, tmp_path / "cache", Digests(tmp_path / "digests"))
    with pytest.raises(ConfigError, match=f"does not divide.*{width}.*Choose a format without groups"):
        preflight.check(source, asked, ())


@pytest.mark.parametrize("quant", ["gguf_q4_k_m", "gguf_q8_0"])
def test_the_demos_widths_are_divided(quant: str, settings, tmp_path: Path) -> None:
    asked = settings(f"quant={quant}")
    preflight.check(ModelSource(asked.model, tmp_path / "cache", Digests(tmp_path / "digests")), asked, ())


def test_a_list_of_what_to_leave_alone_is_refused(settings, tmp_path: Path) -> None:
    from pipeline.stages.quantize.engines import gguf as engine

    with pytest.raises(ConfigError, match=r"quant\.ignore.*Q8_0 itself says"):
        made(engine, settings("quant=gguf_q8_0", "quant.ignore=[lm_head,model.layers.0.mlp.up_proj]"), tmp_path)


def test_what_vllm_would_serve_wrongly_is_not_made(tmp_path: Path) -> None:
    from pipeline.stages.quantize.engines import gguf as engine

    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotApplicable, match="reorders the queries and keys of LlamaForCausalLM"):
        with engine.converter(tmp_path):
            pass


def test_an_architecture_that_the_converter_does_not_know_is_not_applicable(tmp_path: Path) -> None:
    from pipeline.stages.quantize.engines import gguf as engine

    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["OtherForCausalLM"], "model_type": "other"}))
    with pytest.raises(NotApplicable, match="does not know this architecture .*OtherForCausalLM"):
        with engine.converter(tmp_path):
            pass


def test_names_outside_the_table_stay() -> None:
    assert unpack_gguf.original_name("blk.3.ffn_gate_exps.weight") == "blk.3.ffn_gate_exps.weight"
    assert unpack_gguf.original_name("rope_freqs.weight") == "rope_freqs.weight"
    assert unpack_gguf.original_name("blk.11.attn_q.bias") == "model.layers.11.self_attn.q_proj.bias"
