"""Files of a checkpoint on disk, and the storage of its weights, read from headers only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast

from pipeline.errors import InputError
from pipeline.formats import unpack_gguf
from pipeline.formats.layouts import FP8, MARKS, Stored
from pipeline.formats.recognition import recognize
from pipeline.models.architecture import read_config
from pipeline.models.modules import matched
from pipeline.models.safetensors import TensorInfo, safetensors_files, tensor_infos


class SchemeConfig(TypedDict):
    """Quantization parameters in compressed-tensors' terms; only the fields used here."""

    num_bits: int
    type: str
    strategy: str
    group_size: NotRequired[int | None]
    dynamic: NotRequired[bool | Literal["local"] | None]
    symmetric: NotRequired[bool]


class Group(TypedDict):
    """Group of modules with the same quantization parameters."""

    weights: SchemeConfig
    input_activations: NotRequired[SchemeConfig | None]
    targets: NotRequired[list[str]]
    # Where groups are stored differently.
    format: NotRequired[str | None]


class Quantization(TypedDict, total=False):
    """The `quantization_config` of a config.json, only the fields used here; each format has its own."""

    quant_method: str
    # compressed-tensors; a GGUF file.
    format: str
    config_groups: dict[str, Group]
    ignore: list[str]
    kv_cache_scheme: SchemeConfig | None
    # AWQ and GPTQ.
    bits: int
    group_size: int
    checkpoint_format: str
    dynamic: dict[str, object]
    modules_to_not_convert: list[str] | None
    # DeepSeek's FP8.
    weight_block_size: list[int] | None
    # bitsandbytes.
    llm_int8_skip_modules: list[str] | None


class Description(TypedDict):
    """Properties of a checkpoint that the report shows."""

    bytes: int
    quantized_layers: int
    format: str
    ignore: list[str]


def headers(folder: Path) -> dict[str, TensorInfo]:
    """Return the `dtype`, `shape` and `data_offsets` of every tensor of a checkpoint, without reading any."""
    if blocks := gguf_file(folder):
        return cast(dict[str, TensorInfo], unpack_gguf.headers(blocks))
    return tensor_infos(folder)


def stored_tensors(folder: Path) -> Stored:
    """Return the type and shape of every tensor of a checkpoint."""
    return as_stored(headers(folder))


def as_stored(infos: Mapping[str, TensorInfo]) -> Stored:
    """Return the type and shape of every tensor of headers."""
    return {name: (str(item["dtype"]), tuple(item["shape"])) for name, item in infos.items()}


def gguf_file(folder: Path) -> Path | None:
    """Return the file of a checkpoint in llama.cpp's format; None for other formats."""
    path = folder / unpack_gguf.FILE
    return path if path.is_file() else None


def weight_files(folder: Path) -> list[Path]:
    """Return all files that hold weights."""
    path = gguf_file(folder)
    return safetensors_files(folder) if path is None else [path]


def weight_bytes(folder: Path) -> int:
    """Return the total bytes of all weight files."""
    return sum(path.stat().st_size for path in weight_files(folder))


def quantization_config(folder: Path) -> Quantization:
    """Return the `quantization_config` of a checkpoint, from config.json or the GGUF header; empty for BF16."""
    if path := gguf_file(folder):
        return {"quant_method": "gguf", "format": f"gguf {unpack_gguf.file_type(path)}"}
    found: Quantization = read_config(folder).get("quantization_config") or Quantization()
    return found


def by_module(config: Quantization) -> Callable[[str], Quantization]:
    """Return a function for what a `quantization_config` says of a module: of several groups, that which names it.

    A module is named by its own name, else by a pattern `re:...`, else as any `Linear`, as vLLM looks it up.
    """
    groups = config.get("config_groups") or {}
    if len(groups) < 2:
        return lambda _: config
    named = {target: group for group in reversed(groups.values()) for target in group.get("targets", ())}

    def of(module: str) -> Quantization:
        fitting = (target for target in (module, *named) if target in named and matched([module], [target]))
        group = named.get(next(fitting, "Linear"))
        own: Quantization = {**config, "config_groups": {} if group is None else {"own": group}}
        if group is not None and (form := group.get("format")):
            own["format"] = form
        return own

    return of


def check_quantization(config: Quantization, source: str) -> None:
    """Refuse a `quantization_config` that neither this module nor `recognize` can read.

    Args:
        config: the config, of a checkpoint that others quantized.
        source: setting and value that name the checkpoint.

    Raises:
        InputError: with the reason.
    """
    module = "model.layers.0.mlp.up_proj"
    try:
        groups = (config.get("config_groups") or {}).values()
        matched([module], [target for group in groups for target in group.get("targets", ())])
        own = by_module(config)(module)
        _ = recognize(config), layout_name(own), packed_bits(own), set(ignored(config))
    except (TypeError, LookupError, AttributeError, ValueError, ArithmeticError, re.error) as error:
        raise InputError(
            f"{source}: its quantization_config cannot be read ({type(error).__name__}: {error}).",
            "Fetch config.json again.",
        ) from None


def layout_name(config: Quantization) -> str:
    """Return the name of the storage layout in a `quantization_config`, see `formats.layouts`."""
    method = str(config.get("quant_method"))
    if method == "compressed-tensors":
        return str(config["format"])
    if method == "fp8" and not config.get("weight_block_size"):
        return FP8.name
    return str(config.get("checkpoint_format") or method) if method == "gptq" else method


def packed_bits(config: Quantization) -> int:
    """Return the bits of a weight that is packed into integers; 0 if the format does not name them."""
    groups = config.get("config_groups")
    return int(next(iter(groups.values()))["weights"]["num_bits"] if groups else config.get("bits", 0))


def quantized_modules(folder: Path) -> set[str]:
    """Return the names of modules with a weight scale, or whose weights are blocks with embedded scales."""
    if gguf_file(folder):
        rounded = (name for name, item in headers(folder).items() if item["dtype"] not in unpack_gguf.UNQUANTIZED)
        return {name.removesuffix(".weight") for name in rounded}
    return {name.removesuffix(mark) for name in headers(folder) for mark in MARKS if name.endswith(mark)}


def describe(folder: Path) -> Description:
    """Describe a checkpoint by its headers and config.json."""
    config = quantization_config(folder)
    return {
        "bytes": weight_bytes(folder),
        "quantized_layers": len(quantized_modules(folder)),
        "format": config.get("format") or config.get("quant_method") or "bf16",
        "ignore": ignored(config),
    }


def ignored(config: Quantization) -> list[str]:
    """Return the modules that a `quantization_config` lists as not quantized."""
    if config.get("quant_method") == "gptq":
        # Its rules are patterns, here one per module; lm_head is excluded without one.
        rules = [rule for rule in config.get("dynamic") or {} if rule.startswith("-:")]
        return [re.sub(r"\\(.)", r"\1", rule.removeprefix("-:^").removesuffix("$")) for rule in rules]
    lists = (config.get("ignore"), config.get("llm_int8_skip_modules"), config.get("modules_to_not_convert"))
    return list(next((names for names in lists if names), []))
