"""llm-compressor's mappings by the names of a checkpoint's tensors: what they rescale leaves the answers alike."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from compressed_tensors.utils import match_modules_set
from llmcompressor.modeling.moe.linearize import linearize_moe
from llmcompressor.modifiers.transform.awq import dynamic_mappings as awq
from llmcompressor.modifiers.transform.awq.base import _check_layers_are_compatible
from llmcompressor.modifiers.transform.smoothquant import dynamic_mappings as smoothquant
from safetensors.torch import save_file
from support import families
from support.families import FAMILIES, TOWERS
from support.packed import write_packed
from support.rescaled_families import logits, pairs_of, rescaled, tensors_of

from pipeline.errors import UnknownFormat
from pipeline.models.architecture import read_config
from pipeline.models.headers import stored_tensors
from pipeline.models.loading import model_class, stored_names
from pipeline.models.mappings import LLAMA, decoder_mappings, rescaled_by, why_unmapped
from pipeline.models.modules import decoder_linears
from pipeline.stages.quantize.support import why_not_made
from pipeline.stages.verify.weights import changed, compare

LAYER = "model.layers.1"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory):
    """Writes the BF16 checkpoint of a family, once."""
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = families.write(name, tmp_path_factory.mktemp("family") / "model")
        return made[name]

    return write


def written(folder: Path, source: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder


def engines_pairs(folder: Path, algorithm: str) -> dict[str, str]:
    """What llm-compressor itself pairs in the model, as its modifiers do; by the checkpoint's names."""
    model = model_class(read_config(folder)).from_pretrained(folder)
    linearize_moe(model)
    stored = stored_names(model)
    names = {module: stored(f"{name}.weight").removesuffix(".weight") for name, module in model.named_modules()}
    own = decoder_mappings(model, algorithm)
    if algorithm == "awq":
        found = own or awq.get_layer_mappings_from_model(model)
        mappings = [(each.smooth_layer, *each.balance_layers) for each in found]
    else:
        found = own or smoothquant.get_layer_mappings_from_model(model)
        mappings = [(front, *behind) for behind, front in found]
    pairs: dict[str, str] = {}
    for mapping in mappings:
        for (front,), *behind in match_modules_set(model, mapping):
            modules = [module for each in behind for module in each]
            if algorithm == "smoothquant" or _check_layers_are_compatible(
                front, names[front], modules, [names[module] for module in modules]
            ):
                pairs |= {names[module]: names[front] for module in modules}
    return pairs


@pytest.mark.parametrize("algorithm", ["awq", "smoothquant"])
@pytest.mark.parametrize("name", [*FAMILIES, *TOWERS])
def test_a_mapping_is_the_engines_and_leaves_the_answers_alike_or_is_refused(
    name: str, algorithm: str, source, tmp_path: Path, settings
) -> None:
    folder = source(name)
    chosen = ("quant=awq",) if algorithm == "awq" else ("quant=int8_dynamic", "quant.algorithm=smoothquant")
    reason = why_not_made(settings(*chosen), read_config(folder), tensors_of(folder))
    assert reason == "" or reason.startswith(f"quant.algorithm={algorithm} on a model of type")
    try:
        theirs = engines_pairs(folder, algorithm)
    except ValueError:
        assert reason
        return
    pairs = pairs_of(folder, algorithm)
    before, after = logits(folder), logits(written(tmp_path / "rescaled", folder, rescaled(folder, pairs)))
    off = float((after - before).norm() / before.norm())
    # Mixtral's experts have other names in the file than in the engine's model.
    assert bool(reason) is not (pairs == theirs and off < 1e-3)


LLAMAS = [f"{LAYER}.{module}.weight" for module in LLAMA]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), ""),
        (LLAMAS, ""),
        ([*LLAMAS, f"{LAYER}.self_attn.q_norm.weight", f"{LAYER}.self_attn.rotary_emb.inv_freq", "mtp.fc.weight"], ""),
        ([*LLAMAS, f"{LAYER}.mlp.gate.weight"], "its layers have mlp.gate beside"),
        ([*LLAMAS, f"{LAYER}.layer_scalar"], "its layers have layer_scalar beside"),
        (LLAMAS[1:], "its layers have no input_layernorm"),
    ],
)
@pytest.mark.parametrize("algorithm", ["awq", "smoothquant"])
def test_an_architecture_that_the_engine_does_not_know_is_mapped_where_its_layers_are_llamas(
    algorithm: str, names: Sequence[str], says: str
) -> None:
    config = {"architectures": ["OtherForCausalLM"], "num_hidden_layers": 2}
    reason = why_unmapped(config, names, algorithm)
    assert reason.endswith(says) and bool(reason) is bool(says)
    assert why_unmapped(config | {"architectures": ["Qwen2MoeForCausalLM"]}, names, algorithm) == ""


@pytest.mark.parametrize(
    ("name", "module", "maker"),
    [
        ("llama", "self_attn.o_proj", "self_attn.v_proj"),
        ("qwen3", "self_attn.o_proj", None),  # several query heads share a value head
        ("phi3", "self_attn.qkv_proj", "input_layernorm"),
        ("phi3", "self_attn.o_proj", "self_attn.qkv_proj"),
        ("phi3", "mlp.down_proj", "mlp.gate_up_proj"),
        ("cohere2", "mlp.gate_proj", "input_layernorm"),
        ("gemma2", "mlp.up_proj", "pre_feedforward_layernorm"),
        ("gemma3", "self_attn.q_proj", None),
        ("qwen3_moe", "mlp.gate", "post_attention_layernorm"),
        ("qwen3_moe", "mlp.experts.3.up_proj", "post_attention_layernorm"),
        ("qwen3_moe", "mlp.experts.3.down_proj", "mlp.experts.3.up_proj"),
    ],
)
def test_each_family_has_its_own_layers_in_front(name: str, module: str, maker: str | None, source) -> None:
    expected = None if maker is None else f"{LAYER}.{maker}"
    assert pairs_of(source(name), "awq").get(f"{LAYER}.{module}") == expected


# Those whose layers the mapping names, all of them.
UNNAMED = ("glm4", "olmo2", "starcoder2", "gpt_neox", "qwen3_next", "phi", "deepseek_v2", "olmoe", "exaone4", "olmo")
AWQ = [name for name in FAMILIES if name not in UNNAMED]


@pytest.mark.parametrize("name", AWQ)
def test_what_awq_rescales_is_compared_in_every_family(name: str, source, tmp_path: Path, settings) -> None:
    folder = source(name)
    tensors = rescaled(folder, pairs_of(folder, "awq"))
    modules = set(decoder_linears(stored_tensors(folder), read_config(folder)))
    made, quant = (
        write_packed(tmp_path / "made", folder, tensors, modules),
        settings("quant=awq", "quant.group_size=32").quant,
    )
    found = compare(made, folder, quant)
    assert {each.module for each in found} == modules
    assert {each.module: each.excess for each in found if each.excess > 1} == {}
    assert changed(made, folder, quant) == []


def test_a_router_that_was_not_multiplied_with_its_norms_factors_is_found(source, tmp_path: Path, settings) -> None:
    folder, router = source("qwen3_moe"), f"{LAYER}.mlp.gate.weight"
    tensors = rescaled(folder, pairs_of(folder, "awq"))
    tensors[router] = tensors_of(folder)[router].float()
    modules = {key.removesuffix(".weight") for key in tensors if key.endswith("_proj.weight")}
    made = write_packed(tmp_path / "made", folder, tensors, modules)
    assert changed(made, folder, settings("quant=awq", "quant.group_size=32").quant) == [router]


def test_a_channel_that_its_norm_keeps_at_zero_is_left_out_for_algorithms_with_data(
    source, tmp_path: Path, settings
) -> None:
    """GPTQ sets its column to zero: nothing ever reaches it."""
    folder, module = tmp_path / "model", f"{LAYER}.mlp.up_proj"
    tensors = tensors_of(source("gemma3"))
    tensors[f"{LAYER}.pre_feedforward_layernorm.weight"][5] = -1
    written(folder, source("gemma3"), tensors)
    changed_too = {name: tensor.clone() for name, tensor in tensors.items()}
    changed_too[f"{module}.weight"][:, 5] = 0
    modules = {key.removesuffix(".weight") for key in tensors if key.endswith("_proj.weight")}
    made = write_packed(tmp_path / "made", folder, changed_too, modules)

    def wrong(*given: str) -> set[str]:
        found = compare(made, folder, settings(*given).quant)
        return {each.module for each in found if not each.error < 1.1 * (each.nearest or 0)}

    asymmetric = ("quant=w4a16", "quant.scheme=W4A16_ASYM", "quant.group_size=32")
    assert wrong(*asymmetric) == {module}
    assert wrong(*asymmetric, "quant.algorithm=gptq") == set()


def test_another_engines_mapping_is_known_where_llm_compressor_lists_the_architecture(source) -> None:
    folder = source("llama")
    shapes = {n.removesuffix(".weight"): tuple(t.shape) for n, t in tensors_of(folder).items()}
    config = json.loads((folder / "config.json").read_text())
    assert rescaled_by(config, shapes, "awq", "autoawq") == rescaled_by(config, shapes, "awq", "llmcompressor")
    with pytest.raises(UnknownFormat, match="OtherForCausalLM"):
        rescaled_by(config | {"architectures": ["OtherForCausalLM"]}, shapes, "awq", "autoawq")
