"""Contents of a source checkpoint by config.json, file names, index and headers, and the faults that these show.

No tensor is read: a model of any size takes a second, and what the hub has not sent yet is judged by its index.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.models.architecture import text_config
from pipeline.models.safetensors import TensorInfo

# Settings of a quantized checkpoint, in config.json and in files of their own.
QUANTIZATION = ("quantization_config", "compression_config")
QUANTIZATION_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
# Ends of tensors' names that mark a method where config.json is silent; the first that fits counts.
MARKS = {
    ".weight_scale_inv": "fp8 in blocks",
    ".qweight": "awq or gptq",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "fp8 or int8 with scales",
    "_proj_blocks": "mxfp4",
    ".weight.absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".codebooks": "aqlm",
    ".W_q": "hqq",
}
# Types of weights that are not quantized, by safetensors' name.
FLOATS = ("BF16", "F16", "F32", "F64")
GGUF = ".gguf"
PICKLES = (".bin", ".pt", ".pth")

# Field of a config.json that names the model which a small one drafts tokens for.
SPECULATOR = "speculators_config"
EMBEDDINGS = {"embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings"}
HEADS = {"lm_head", "embed_out", "output_layer", "output"}
# Names of one number in the configs of different families.
VOCABULARY = ("vocab_size", "padded_vocab_size")
WIDTH = ("hidden_size", "n_embd", "word_embed_proj_dim", "embedding_size")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")

_AGAIN = "Fetch the checkpoint again, or correct its config.json."
_MADE_OF = "every format is made of the BF16 model"
_ORIGINAL = (
    "Name the original BF16 checkpoint, which its model card calls the base model; this one is then a variant: "
    "'variants=[bf16,hub:<owner>/<name>]', or folder:<path>."
)


@dataclass(frozen=True)
class Contents:
    """A checkpoint as far as it is known without its weights.

    Attributes:
        setting: the setting that names it, with its value.
        config: content of config.json.
        files: names of its files.
        tensors: header of each tensor; None where the index alone names it, empty where nothing does.
    """

    setting: str
    config: Mapping[str, Any]
    files: frozenset[str]
    tensors: Mapping[str, TensorInfo | None]

    @property
    def embedding(self) -> str | None:
        """Name of the decoder's embedding; None if not exactly one tensor is called so."""
        found = [
            name
            for name in self.tensors
            if name.endswith(".weight") and name.split(".")[-2] in EMBEDDINGS and not _is_in_layer(name)
        ]
        return found[0] if len(found) == 1 else None


def refuse_another(setting: str, config: Mapping[str, Any]) -> None:
    """Refuse a config.json for which vLLM would load another model, from any folder or repository.

    Source: `maybe_override_with_speculators` of vLLM's `transformers_utils/config.py`.

    Raises:
        InputError: naming the field.
    """
    if config.get(SPECULATOR):
        raise InputError(
            f"{setting}: config.json drafts tokens for another model ({SPECULATOR}), which vLLM would serve instead.",
            "Name that model.",
        )


def numbers(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return those of several settings that the decoder's config has as a number."""
    decoder = text_config(config)
    return {name: decoder[name] for name in names if isinstance(decoder.get(name), int)}


def check(contents: Contents) -> None:
    """Refuse a checkpoint that no BF16 baseline can be made of.

    Raises:
        InputError: naming the setting, the fault and the way out.
    """
    for rule in (_is_quantized, _has_shapes, _has_layers, _has_head):
        rule(contents)


def require_weights(setting: str, files: Iterable[str], weights: Iterable[str]) -> None:
    """Refuse a checkpoint without safetensors files.

    Raises:
        InputError: with the command that converts pickled weights.
    """
    if any(weights):
        return
    names = sorted(files)
    if blocks := [name for name in names if name.endswith(GGUF)]:
        raise InputError(f"{setting} is quantized already (gguf, {blocks[0]}): {_MADE_OF}.", _ORIGINAL)
    pickled = [name for name in names if name.endswith(PICKLES)]
    if pickled:
        raise InputError(
            f"{setting} has pickled weights only ({pickled[0]}), which run code when they are read.",
            "Convert them to safetensors where you trust them: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(copy), with the tokenizer's files beside.",
        )
    raise InputError(
        f"{setting} has no *.safetensors file.",
        "Fetch the weights, or set model.weights=random to measure speed alone.",
    )


def _is_quantized(contents: Contents) -> None:
    if method := _method(contents):
        raise InputError(
            f"{contents.setting} is quantized already ({method}): {_MADE_OF}.",
            _ORIGINAL,
        )


def _method(contents: Contents) -> str:
    """Return the method that a checkpoint is quantized by, and where that is said; empty if it is not."""
    for config in (contents.config, text_config(contents.config)):
        for name in QUANTIZATION:
            if isinstance(found := config.get(name), Mapping) and found:
                method = found.get("quant_method") or found.get("quant_algo") or found.get("format") or "not named"
                return f"{method}, {name} in config.json"
    for file, method in QUANTIZATION_FILES.items():
        if file in contents.files:
            return f"{method}, {file}"
    for mark, method in MARKS.items():
        for name in contents.tensors:
            if name.endswith(mark):
                return f"{method}, tensor {name}"
    for name, info in contents.tensors.items():
        if info is not None and name.endswith("weight") and len(info["shape"]) > 1 and info["dtype"] not in FLOATS:
            return f"{info['dtype']}, tensor {name}"
    return ""


def _has_shapes(contents: Contents) -> None:
    """Compare the embedding with the config's vocabulary and width."""
    name = contents.embedding
    info = contents.tensors[name] if name else None
    if info is None or len(info["shape"]) != 2:
        return
    sizes = (("rows", info["shape"][0], VOCABULARY), ("columns", info["shape"][1], WIDTH))
    for what, size, settings in sizes:
        stated = numbers(contents.config, settings)
        if stated and size not in stated.values():
            listing = ", ".join(f"{setting}={number}" for setting, number in stated.items())
            raise InputError(
                f"{contents.setting}: {name} has {size} {what}, and config.json says {listing}.",
                _AGAIN,
            )


def _has_layers(contents: Contents) -> None:
    """Look for each decoder layer; others beyond, such as those that predict several tokens, are fine."""
    stated = numbers(contents.config, LAYERS)
    if not stated or contents.embedding is None:
        return
    setting, number = min(stated.items(), key=lambda item: item[1])
    prefix = contents.embedding.rpartition(".")[0].rpartition(".")[0]
    pattern = re.compile(rf"{re.escape(f'{prefix}.' if prefix else '')}(\w+)\.(\d+)\.")
    found: defaultdict[str, set[int]] = defaultdict(set)
    for name in contents.tensors:
        if match := pattern.match(name):
            found[match[1]].add(int(match[2]))
    if not found:
        return
    container, indices = max(found.items(), key=lambda item: len(item[1]))
    if missing := sorted(set(range(number)) - indices):
        raise InputError(
            f"{contents.setting}: config.json says {setting}={number}, and {len(missing)} of these layers have no "
            f"weights, {prefix}{'.' if prefix else ''}{container}.{missing[0]} first.",
            _AGAIN,
        )


def _has_head(contents: Contents) -> None:
    """Look for the output layer, where the config says that the embedding is not used for it."""
    stated = {part.get("tie_word_embeddings") for part in (contents.config, text_config(contents.config))}
    if True in stated or False not in stated or contents.embedding is None:
        return
    if not any(HEADS & set(name.split(".")) and not _is_in_layer(name) for name in contents.tensors):
        raise InputError(
            f"{contents.setting}: config.json says tie_word_embeddings=false, and there is no lm_head.weight.",
            "Fetch the checkpoint again, or set tie_word_embeddings=true in its config.json if the output layer is the "
            "embedding.",
        )


def _is_in_layer(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))
