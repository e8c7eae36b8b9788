"""Sizes of a decoder's Linears by the settings that state them, and what formats, kernels and GPUs need of them.

vLLM divides a layer among GPUs (tensor parallelism): the outputs of q, k, v, gate and up, the inputs of o and down. It
loads q, k and v as one weight, and gate and up, so squares of weights that share a scale must end where a part does
(vLLM's `validate_fp8_block_shape`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.config import QuantSettings, Settings
from pipeline.errors import ConfigError, InputError
from pipeline.formats.schemes import SCHEMES
from pipeline.models.architecture import DecoderShape
from pipeline.models.contents import numbers
from pipeline.models.headers import as_stored
from pipeline.models.modules import decoder_linears, fusion_group
from pipeline.models.safetensors import TensorInfo

if TYPE_CHECKING:
    from pipeline.models.source import ModelSource

HEADS, KV_HEADS, LATENT = "num_attention_heads", "num_key_value_heads", "kv_lora_rank"
QUERIES, KEYS = f"{HEADS}*head_dim", f"{KV_HEADS}*head_dim"
EXPERTS = "moe_intermediate_size"
# vLLM then gives each GPU whole experts.
EXPERT_PARALLEL = ("--enable-expert-parallel", "--enable_expert_parallel", "-ep")


class Role(NamedTuple):
    """Role of a size in a decoder layer.

    Attributes:
        is_input: some Linear has as many inputs.
        is_output: some Linear has as many outputs, and is divided among GPUs or loaded with others as one weight.
        is_divided: GPUs share it.
    """

    is_input: bool
    is_output: bool
    is_divided: bool


# By the setting that states the size, in the configs of different families.
ROLES: Mapping[str, Role] = {
    "hidden_size": Role(is_input=True, is_output=False, is_divided=False),
    "intermediate_size": Role(is_input=True, is_output=True, is_divided=True),
    EXPERTS: Role(is_input=True, is_output=True, is_divided=True),
    "shared_expert_intermediate_size": Role(is_input=True, is_output=True, is_divided=True),
    "q_lora_rank": Role(is_input=True, is_output=True, is_divided=False),
    LATENT: Role(is_input=True, is_output=False, is_divided=False),
    QUERIES: Role(is_input=True, is_output=True, is_divided=True),
    KEYS: Role(is_input=False, is_output=True, is_divided=True),
}
# Linears whose inputs are divided among GPUs, by the last components of their names.
ROWS = ("o_proj", "out_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "w2")
# Group sizes that vLLM's kernels have, below a scheme's own, the best first.
SMALLER_GROUPS = (64, 32)
NO_GROUPS = "choose a format without groups or blocks (fp8_dynamic, int8_dynamic)"


def sizes(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Return the sizes of a decoder layer's Linears, by the name of the setting.

    Args:
        config: content of config.json.
        tensors: headers of the weights, if they are known: some configs state sizes that no tensor has.
    """
    stated = numbers(config, (*ROLES, HEADS, KV_HEADS, "head_dim", "v_head_dim"))
    found = {name: stated[name] for name in ROLES if stated.get(name)}
    if heads := stated.get(HEADS):
        width = stated.get("v_head_dim") or stated.get("head_dim") or found.get("hidden_size", 0) // heads
        found[QUERIES] = heads * width
        if LATENT not in found:
            found[KEYS] = (stated.get(KV_HEADS) or heads) * width
    # Experts that are one tensor have their inputs in either of the last two dimensions.
    seen = {width for info in tensors.values() if len(info["shape"]) > 1 for width in info["shape"][-1:0:-1]}
    if not seen & {found[name] for name in found if ROLES[name].is_input}:
        return found
    there = {name: size for name, size in found.items() if size in seen or not ROLES[name].is_input}
    return there if QUERIES in there else {name: size for name, size in there.items() if name != KEYS}


def kv_heads(config: Mapping[str, Any]) -> int:
    """Return the heads that a layer caches keys and values of; 1 for a latent, which all heads share, 0 if unknown."""
    stated = numbers(config, (LATENT, KV_HEADS, HEADS))
    return 1 if stated.get(LATENT) else stated.get(KV_HEADS) or stated.get(HEADS) or 0


def kv_parts(config: Mapping[str, Any], gpus: int) -> int:
    """Return the parts of keys and values among GPUs that share each layer: fewer heads than GPUs are copied."""
    return min(gpus, kv_heads(config) or gpus)


def with_group_size(source: ModelSource, settings: Settings) -> Settings:
    """Return the settings with a group size where none was asked for: the scheme's, or a smaller one that fits.

    Where none fits it is the scheme's, which `check_shapes` refuses. All formats of a mix share it.
    """
    quant = settings.quant
    if quant.is_mixed:
        free = next((quant.candidate(name) for name in quant.candidates if SCHEMES[name].group_is_free), quant)
        size = quant.group_size if free is quant else with_group_size(source, _with(settings, free)).quant.group_size
        return _with(settings, quant.model_copy(update={"group_size": size}))
    if quant.format is None or not quant.format.group_is_free or quant.group_size is not None or quant.is_existing:
        return settings
    own = quant.model_copy(update={"group_size": quant.effective_group_size})
    smaller = [
        quant.model_copy(update={"group_size": size, "title": f"{quant.title}, group_size={size}"})
        for size in SMALLER_GROUPS
    ]
    ways = [_with(settings, each) for each in (own, *smaller)]
    return next((way for way in ways if fits(source, way)), ways[0])


def fits(source: ModelSource, settings: Settings) -> bool:
    """Return whether groups and blocks of a format divide the sizes of a model's Linears."""
    if _fits(source.config, {}, settings):
        return True
    # Some configs state sizes that no tensor has.
    has_tensors = source.settings.path is not None and not source.is_random
    return has_tensors and _fits(source.config, source.tensors, settings)


def _with(settings: Settings, quant: QuantSettings) -> Settings:
    return settings.model_copy(update={"quant": quant})


def check_shapes(model: str, settings: Settings, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Compare the sizes of the decoder's Linears with groups, blocks, and the number of GPUs that share them.

    Args:
        model: name of the model.
        settings: those of a variant.
        config: content of config.json.
        tensors: headers of the weights, if they are known.

    Raises:
        ConfigError: naming the sizes that do not fit, with the way out.
    """
    layer, gpus = _layer_of(config, tensors, settings), settings.serve.tensor_parallel
    if uneven := layer.uneven(gpus):
        even = [n for n in range(1, numbers(config, (HEADS,))[HEADS] + 1) if not layer.uneven(n)]
        raise ConfigError(
            f"serve.tensor_parallel={gpus} does not divide {_listing(uneven)} of model={model}.",
            f"Use one of {', '.join(map(str, even))}, for one variant as {settings.quant.name}@tp{even[-1]}.",
        )
    wrong = layer.misfits(gpus)
    if not wrong:
        return
    quant = settings.quant
    ways = [NO_GROUPS]
    if quant.format is not None and quant.format.group_is_free:
        ways.insert(0, f"set quant.group_size to a divisor of {layer.common_divisor(gpus)}")
    if fitting := [str(n) for n in range(1, gpus) if not layer.uneven(n) and not layer.misfits(n)]:
        ways.insert(0, f"set serve.tensor_parallel={' or '.join(fitting)}")
    way_out = ", or ".join(ways)
    what = "group size" if quant.effective_group_size else "block size"
    raise ConfigError(
        f"quant={quant.name} on model={model}: {what} {layer.multiple} does not divide {_listing(wrong)}.",
        f"{way_out[0].upper()}{way_out[1:]}.",
    )


class _Layer:
    """Sizes of a decoder layer with the multiples that a format needs."""

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, TensorInfo],
        quant: QuantSettings,
        whole_experts: bool,
    ) -> None:
        self.sizes = sizes(config, tensors)
        self.heads = numbers(config, (HEADS, KV_HEADS))
        scheme = quant.format
        self.multiple = math.lcm(quant.effective_group_size or 1, scheme.divisor if scheme else 1)
        self.outputs = scheme.block or 1 if scheme else 1
        self.whole_experts = whole_experts

    def uneven(self, gpus: int) -> dict[str, int]:
        """Return the sizes that so many GPUs cannot share."""
        heads, shared = self.heads.get(HEADS), self.heads.get(KV_HEADS) or self.heads.get(HEADS)
        if not heads or not shared:
            return {}
        found = {HEADS: heads} if heads % gpus else {}
        # Fewer key-value heads than GPUs are copied to several.
        if max(shared, gpus) % min(shared, gpus):
            found[KV_HEADS] = shared
        counted = (QUERIES, KEYS)
        return found | {n: size for n, size in self.sizes.items() if n not in counted and size % self._parts(n, gpus)}

    def misfits(self, gpus: int) -> dict[str, int]:
        """Return the sizes of which one GPU's share is no multiple of what the format needs, as they are written."""
        found = {}
        for name, size in self.sizes.items():
            parts, role = self._parts(name, gpus), ROLES[name]
            needed = math.lcm(self.multiple if role.is_input else 1, self.outputs if role.is_output else 1)
            if size // parts % needed:
                found[f"{name}/{parts}" if parts > 1 else name] = size // parts
        return found

    def common_divisor(self, gpus: int) -> int:
        """Return the largest group size that fits."""
        return math.gcd(*(s // self._parts(n, gpus) for n, s in self.sizes.items() if ROLES[n].is_input))

    def _parts(self, name: str, gpus: int) -> int:
        """Return the number of parts that a size is divided into."""
        if not ROLES[name].is_divided or (name == EXPERTS and self.whole_experts):
            return 1
        return min(gpus, self.heads.get(KV_HEADS) or gpus) if name == KEYS else gpus


def _layer_of(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], settings: Settings) -> _Layer:
    whole_experts = any(word in EXPERT_PARALLEL for word in _words(settings.serve.extra_args))
    return _Layer(config, tensors, settings.quant, whole_experts)


def _fits(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], settings: Settings) -> bool:
    return not _layer_of(config, tensors, settings).misfits(settings.serve.tensor_parallel)


def _listing(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in found.items())


def _words(arguments: Iterable[str]) -> list[str]:
    return [word for argument in arguments for word in argument.replace("=", " ").split()]


def served_shapes(source: ModelSource, settings: Settings) -> frozenset[tuple[int, int]]:
    """Return the shapes (in, out) of a model's weights as one GPU loads them, as far as they are known by now."""
    tensors = source.tensors if "stored" in vars(source) else {}
    return loaded_shapes(source.config, tensors, settings.serve.tensor_parallel)


def loaded_shapes(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], gpus: int = 1
) -> frozenset[tuple[int, int]]:
    """Return the shapes (in, out) of a decoder's dense Linears as vLLM loads them on one of several GPUs.

    Args:
        config: content of config.json.
        tensors: headers of the weights; without them the sizes of the config decide, if it is that of a dense decoder.
        gpus: tensor-parallel size.
    """
    if tensors:
        found = {
            each.name: each.shape for each in decoder_linears(as_stored(tensors), config).values() if each.is_dense
        }
    else:
        try:
            found = DecoderShape.of(config).linears
        except InputError:
            found = {}
    heads = numbers(config, (HEADS, KV_HEADS))
    shared = min(gpus, heads.get(KV_HEADS) or heads.get(HEADS) or gpus)
    inputs, outputs = dict[str, int](), dict[str, int]()
    for name, (out, width) in found.items():
        own, group = name.rpartition(".")[2], fusion_group(name)
        inputs[group] = width // gpus if own in ROWS else width
        parts = 1 if own in ROWS else shared if own in ("k_proj", "v_proj") else gpus
        outputs[group] = outputs.get(group, 0) + out // parts
    return frozenset((inputs[group], outputs[group]) for group in inputs)
