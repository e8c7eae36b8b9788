"""Number formats of checkpoints that others quantized, by the `quantization_config` of their config.json.

A format that is exactly one of `SCHEMES` is called by that name, and every rule of the scheme applies. Any other is
described in words, and what nothing is known of is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.formats.schemes import AWQ, GPTQ, ROUND, SCHEMES, UNKNOWN

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Recognized:
    """A number format as a config tells it.

    Attributes:
        scheme: a key of `SCHEMES`; None if none of them is exactly this format.
        described: the scheme with its group size, or the format in words.
        algorithm: how weights were rounded; `UNKNOWN` where no format says so.
        group: input channels that share a scale, where the scheme leaves that open.
        nested: whether scales are quantized too.
    """

    scheme: str | None
    described: str
    algorithm: str = UNKNOWN
    group: int | None = None
    nested: bool = False


class Numbers(NamedTuple):
    """Numbers of weights or activations, in compressed-tensors' terms; `dynamic`: scales are computed while serving."""

    kind: str
    strategy: str
    symmetric: bool = True
    dynamic: bool = False

    @property
    def words(self) -> str:
        """The numbers in words."""
        name = {"float": "FP", "int": "INT"}.get(self.kind.rstrip("0123456789"), "")
        bits = self.kind.lstrip("abcdefghijklmnopqrstuvwxyz")
        return f"{name}{bits} per {self.strategy.replace('_', ' ')}{'' if self.symmetric else ', asymmetric'}"


_FP8, _INT8, _FP4 = "float8", "int8", "float4"
# The numbers of weights and activations of each scheme that compressed-tensors stores.
NUMBERS: Mapping[str, tuple[Numbers, Numbers | None]] = {
    "FP8": (Numbers(_FP8, "tensor"), Numbers(_FP8, "tensor")),
    "FP8_DYNAMIC": (Numbers(_FP8, "channel"), Numbers(_FP8, "token", dynamic=True)),
    "FP8_BLOCK": (Numbers(_FP8, "block"), Numbers(_FP8, "group", dynamic=True)),
    "W8A8": (Numbers(_INT8, "channel"), Numbers(_INT8, "token", dynamic=True)),
    "W8A8_STATIC": (Numbers(_INT8, "channel"), Numbers(_INT8, "tensor")),
    "W4AFP8": (Numbers("int4", "group"), Numbers(_FP8, "token", dynamic=True)),
    "W4A16": (Numbers("int4", "group"), None),
    "W4A16_ASYM": (Numbers("int4", "group", symmetric=False), None),
    "W8A16": (Numbers(_INT8, "group"), None),
    "NVFP4": (Numbers(_FP4, "tensor_group"), Numbers(_FP4, "tensor_group", dynamic=True)),
    "NVFP4A16": (Numbers(_FP4, "tensor_group"), None),
    "MXFP8": (Numbers(_FP8, "group"), Numbers(_FP8, "group", dynamic=True)),
    "MXFP4": (Numbers(_FP4, "group"), Numbers(_FP4, "group", dynamic=True)),
}


def recognize(config: Config) -> Recognized:
    """Return the number format that a `quantization_config` describes."""
    method = str(config.get("quant_method") or config.get("quant_algo") or "a format that it does not name")
    read = _METHODS.get(method)
    return Recognized(None, method) if read is None else read(config)


def _scheme(name: str, algorithm: str = UNKNOWN, group: int | None = None, nested: bool = False) -> Recognized:
    own = group if SCHEMES[name].group_is_free else None
    said = f", groups of {own}" if own and own != SCHEMES[name].group else ""
    return Recognized(name, f"{name}{said}", algorithm, own, nested)


def _compressed_tensors(config: Config) -> Recognized:
    groups = [group for group in (config.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    found = {(_numbers(group.get("weights")), _numbers(group.get("input_activations"))) for group in groups}
    words = "; ".join(sorted(_words(weights, inputs) for weights, inputs in found)) or "compressed-tensors"
    beyond = {
        "pruned": (config.get("sparsity_config") or {}).get("format", "dense") != "dense",
        "rotated": bool((config.get("transform_config") or {}).get("config_groups")),
    }
    if len(found) != 1 or any(beyond.values()):
        return Recognized(None, ", ".join([words, *(name for name, is_so in beyond.items() if is_so)]))
    name = next((name for name, numbers in NUMBERS.items() if numbers in found), None)
    if name is None:
        return Recognized(None, words)
    weights = [group["weights"] for group in groups]
    sizes = {(own.get("group_size"), tuple(own.get("block_structure") or ())) for own in weights}
    group, block = next(iter(sizes))
    return _scheme(name, group=group) if len(sizes) == 1 and _has_sizes(name, group, block) else Recognized(None, words)


def _has_sizes(name: str, group: int | None, block: tuple[int, ...]) -> bool:
    scheme = SCHEMES[name]
    if scheme.block is not None:
        return block == (scheme.block, scheme.block)
    return scheme.group is None or group == scheme.group or (scheme.group_is_free and (group or 0) > 0)


def _numbers(own: Config | None) -> Numbers | None:
    if not own:
        return None
    group = own.get("group_size")
    implied = "tensor" if group is None else "group" if group > 0 else "channel"
    return Numbers(
        kind=f"{own.get('type', 'int')}{own.get('num_bits', 8)}",
        strategy=str(own.get("strategy") or implied),
        symmetric=bool(own.get("symmetric", True)),
        dynamic=bool(own.get("dynamic", False)),
    )


def _words(weights: Numbers | None, inputs: Numbers | None) -> str:
    if weights is None:
        return "compressed-tensors without numbers of weights"
    return f"weights {weights.words}" + (f", activations {inputs.words}" if inputs else "")


def _awq(config: Config) -> Recognized:
    bits, group = config.get("bits", config.get("w_bit")), config.get("group_size", config.get("q_group_size"))
    if bits == 4 and (group or 0) > 0 and config.get("zero_point", True) and config.get("version", "gemm") == "gemm":
        return _scheme("W4A16_ASYM", AWQ, group)
    return Recognized(None, f"awq {config.get('version', 'gemm')}, {bits} bits, groups of {group}", AWQ)


def _gptq(config: Config) -> Recognized:
    bits, group = config.get("bits"), config.get("group_size")
    own_bits = [rule for rule in config.get("dynamic") or {} if not str(rule).startswith("-:")]
    is_plain = config.get("sym", True) and config.get("checkpoint_format", "gptq") in ("gptq", "gptq_v2")
    name = {4: "W4A16", 8: "W8A16"}.get(bits or 0)
    if name and (group or 0) > 0 and is_plain and not own_bits:
        return _scheme(name, GPTQ, group)
    symmetric = "" if config.get("sym", True) else ", asymmetric"
    return Recognized(None, f"gptq, {bits} bits, groups of {group}{symmetric}{', mixed' if own_bits else ''}", GPTQ)


def _fp8(config: Config) -> Recognized:
    block, scheme = config.get("weight_block_size"), config.get("activation_scheme", "dynamic")
    if list(block or ()) == [128, 128] and scheme == "dynamic":
        return _scheme("FP8_BLOCK", ROUND)
    if not block and scheme == "static":
        return _scheme("FP8", ROUND)
    return Recognized(None, f"fp8, {f'blocks of {block}' if block else 'per tensor'}, activations {scheme}", ROUND)


def _bitsandbytes(config: Config) -> Recognized:
    if config.get("load_in_8bit"):
        return _scheme("LLM_INT8", ROUND)
    kind, nested = config.get("bnb_4bit_quant_type", "fp4"), bool(config.get("bnb_4bit_use_double_quant"))
    if kind == "nf4" and config.get("bnb_4bit_quant_storage", "uint8") == "uint8":
        return _scheme("NF4", ROUND, nested=nested)
    return Recognized(None, f"bitsandbytes {kind}", ROUND)


_METHODS: Mapping[str, Callable[[Config], Recognized]] = {
    "compressed-tensors": _compressed_tensors,
    "awq": _awq,
    "gptq": _gptq,
    "fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
}
