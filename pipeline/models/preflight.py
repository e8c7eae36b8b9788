"""The preflight: refuse, from config.json, file names and headers alone, what a stage would refuse after its work.

Each rule names the setting with its value, the fault, and the way out. Nothing is imported or downloaded for it, except
a hub model's small files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatch
from itertools import pairwise
from typing import Any, NamedTuple

from pipeline.config import QuantSettings, Settings, Stage
from pipeline.errors import ConfigError, InputError
from pipeline.hardware.architectures import registry
from pipeline.models import contents
from pipeline.models.architecture import has_experts, text_config
from pipeline.models.headers import as_stored
from pipeline.models.modules import check_ignore, decoder_linears, matched
from pipeline.models.safetensors import TensorInfo
from pipeline.models.source import ModelSource, content

# Files that hold a tokenizer; of several patterns in one row, all.
TOKENIZERS = (("tokenizer.json",), ("*.model",), ("tekken.json",), ("*.tiktoken",), ("vocab.json", "merges.txt"))
# Mistral's own tokenizer has its template built in.
TEMPLATES = ("chat_template.jinja", "tekken.json")
LATENT = "kv_lora_rank"
# Inputs of a decoder's Linears by the settings that state them, in the configs of different families.
WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "q_lora_rank",
    LATENT,
)
HEADS, KV_HEADS = "num_attention_heads", "num_key_value_heads"
TENSOR_PARALLEL = ("--tensor-parallel-size", "--tensor_parallel_size", "-tp")


def check(source: ModelSource, settings: Settings, due: Collection[Stage]) -> None:
    """Refuse a model that cannot be served, or that a variant or a requested stage cannot be made of.

    Args:
        source: the model.
        settings: those of a variant.
        due: the stages that are requested, with those that they need.

    Raises:
        InputError: on a fault of the model.
        ConfigError: on a setting that does not go with it.
    """
    _check_architecture(source)
    _ = source.outline
    tensors: Mapping[str, TensorInfo] = {}
    if due and settings.serve.url is None and not source.is_random:
        if source.settings.path is not None:
            _ = source.difference
            tensors = source.tensors
        else:
            _ = source.hub_weights
    _check_widths(source, settings.quant, tensors)
    if tensors and settings.quant.scheme is not None:
        linears = decoder_linears(as_stored(tensors), source.config)
        check_ignore(list(linears), settings.quant.ignore, str(settings.variant))
    _check_cache(source, settings)
    _check_parallel(source, settings)
    if due:
        _check_tokenizer(source)
        _check_template(source, settings, due)


def rounds_experts(source: ModelSource, quant: QuantSettings) -> bool:
    """Return whether a format quantizes the experts of a mixture; as long as no tensor is known, if it may."""
    if quant.scheme is None or not has_experts(source.config):
        return False
    if source.is_random or source.settings.path is None:
        return True
    found = decoder_linears(as_stored(source.tensors), source.config)
    experts = [name for name, linear in found.items() if linear.expert is not None]
    return not experts or len(matched(experts, quant.ignore)) < len(experts)


def _check_architecture(source: ModelSource) -> None:
    """Look for the architecture in vLLM's tables; custom code may bring its own."""
    config, known = source.config, registry()
    names = list(config.get("architectures") or [])
    custom = config.get("auto_map") or {}
    said = f"model={source.settings.name}: architecture {', '.join(names) or '(none named)'} in config.json"
    way_out = "Choose a model of vLLM's list of text-generation models, or a vLLM that serves it with serve.python."
    if config.get("is_encoder_decoder"):
        raise InputError(f"{said} is an encoder-decoder (is_encoder_decoder=true), not a decoder LLM.", way_out)
    if kind := next((known.others[name] for name in names if name in known.others), ""):
        raise InputError(f"{said} is {kind}.", way_out)
    if custom and source.settings.trust_remote_code:
        _check_custom_code(source, custom)
    elif known.decoders and not set(names) & known.decoders:
        if custom:
            raise InputError(
                f"{said} comes with code of its own ({', '.join(sorted(map(str, custom)))}).",
                "Read its *.py files, and set model.trust_remote_code=true if you trust them.",
            )
        reason = next((known.former[name] for name in names if name in known.former), "")
        raise InputError(f"{said} {reason or 'is in none of the tables of decoders that this vLLM serves'}.", way_out)


def _check_custom_code(source: ModelSource, custom: Mapping[str, Any]) -> None:
    classes = [each for value in custom.values() for each in (value if isinstance(value, list) else [value]) if each]
    # A class of another repository is written `owner/name--module.Class`.
    files = {f"{each.partition('.')[0]}.py" for each in classes if "--" not in each}
    if missing := sorted(files - source.outline.files):
        raise InputError(
            f"{source.settings.source}: config.json names code in {missing[0]}, which is not there (auto_map).",
            "Fetch the *.py files beside config.json.",
        )


def _check_widths(source: ModelSource, quant: QuantSettings, tensors: Mapping[str, TensorInfo]) -> None:
    """Compare groups and blocks with the inputs of the decoder's Linears."""
    group = quant.effective_group_size
    divisor = max(group or 1, quant.format.divisor if quant.format else 1)
    widths = input_widths(source.config, tensors)
    wrong = {name: width for name, width in widths.items() if width % divisor}
    if not wrong:
        return
    listing = ", ".join(f"{name}={width}" for name, width in wrong.items())
    what = "group size" if group else "block size"
    way_out = "choose a format without groups or blocks (fp8_dynamic, int8_dynamic)."
    if quant.format is not None and quant.format.group_is_free:
        way_out = f"set quant.group_size to a divisor of {math.gcd(*widths.values())}, or {way_out}"
    raise ConfigError(
        f"quant={quant.name} on model={source.settings.name}: {what} {divisor} does not divide {listing}.",
        way_out[0].upper() + way_out[1:],
    )


def input_widths(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Return the input features of a decoder layer's Linear modules, by the name of the setting.

    Args:
        config: content of config.json.
        tensors: headers of the weights, if they are known: some configs state widths that no tensor has.
    """
    stated = contents.numbers(config, (*WIDTHS, HEADS, "head_dim", "v_head_dim"))
    widths = {name: stated[name] for name in WIDTHS if stated.get(name)}
    if heads := stated.get(HEADS):
        size = stated.get("v_head_dim") or stated.get("head_dim") or widths.get("hidden_size", 0) // heads
        widths[f"{HEADS}*head_dim"] = heads * size
    # Experts that are one tensor have their inputs in either of the last two dimensions.
    found = {width for info in tensors.values() if len(info["shape"]) > 1 for width in info["shape"][-1:0:-1]}
    return {name: width for name, width in widths.items() if width in found} if found & {*widths.values()} else widths


def _check_cache(source: ModelSource, settings: Settings) -> None:
    """Refuse scales of a cache of latents, which keys and values share."""
    if settings.kv_cache.needs_data and (rank := text_config(source.config).get(LATENT)):
        raise ConfigError(
            f"kv_cache.scales=calibrated on model={source.settings.name}: its attention caches one latent of {LATENT}="
            f"{rank} for keys and values, and scales of either would be wrong.",
            "Set kv_cache.scales=one.",
        )


def _check_parallel(source: ModelSource, settings: Settings) -> None:
    """Compare the number of GPUs that share a layer with the heads that they share."""
    size = tensor_parallel_size(settings.serve.extra_args)
    stated = contents.numbers(source.config, (HEADS, KV_HEADS))
    heads = stated.get(HEADS)
    if size is None or not heads:
        return
    shared = stated.get(KV_HEADS) or heads
    wrong = {}
    if heads % size:
        wrong[HEADS] = heads
    # Fewer key-value heads than GPUs are copied to several.
    if max(shared, size) % min(shared, size):
        wrong[KV_HEADS] = shared
    if wrong:
        listing = ", ".join(f"{name}={number}" for name, number in wrong.items())
        sizes = [n for n in range(1, heads + 1) if not heads % n and not max(shared, n) % min(shared, n)]
        raise ConfigError(
            f"serve.extra_args: a tensor-parallel size of {size} does not divide {listing} of "
            f"model={source.settings.name}.",
            f"Use one of {', '.join(map(str, sizes))}.",
        )


def tensor_parallel_size(arguments: Iterable[str]) -> int | None:
    """Return the tensor-parallel size among vLLM's arguments; None if there is none."""
    words = [word for argument in arguments for word in argument.replace("=", " ").split()]
    for name, value in pairwise(words):
        if name in TENSOR_PARALLEL and value.isdigit() and int(value):
            return int(value)
    return None


def _check_tokenizer(source: ModelSource) -> None:
    files = source.outline.files
    if any(all(any(fnmatch(file, pattern) for file in files) for pattern in row) for row in TOKENIZERS):
        return
    own = _tokenizer_config(source).get("auto_map")
    if own and source.settings.trust_remote_code:
        return
    raise InputError(
        f"{source.settings.source} has no tokenizer (tokenizer.json, *.model, tekken.json, *.tiktoken, or vocab.json "
        f"and merges.txt){', and code for one that is not trusted' if own else ''}.",
        "Copy the tokenizer's files of the model that it was made of beside its config.json"
        f"{', or set model.trust_remote_code=true' if own else ''}.",
    )


class _Use(NamedTuple):
    """Use of the chat template: the stage, whether the settings ask for it, as which setting, and the way without."""

    stage: Stage
    is_asked: bool
    setting: str
    instead: str


def _check_template(source: ModelSource, settings: Settings, due: Collection[Stage]) -> None:
    calibration, bench, evaluation = settings.calibration, settings.bench, settings.eval
    # The user's own server has a template or not; one may be given to ours as an argument.
    is_served = settings.serve.url is not None or any("--chat-template" in part for part in settings.serve.extra_args)
    uses = (
        _Use(
            Stage.CALIBRATE,
            calibration.apply_chat_template and calibration.artifact is None,
            "calibration.apply_chat_template=true",
            "calibration.apply_chat_template=false",
        ),
        _Use(
            Stage.BENCH,
            bench.endpoint == "openai-chat" and not is_served,
            "bench.endpoint=openai-chat",
            "bench.endpoint=openai",
        ),
        _Use(Stage.EVAL, evaluation.chat_template, "eval.chat_template=true", "eval.chat_template=false"),
    )
    needed = [use for use in uses if use.stage in due and use.is_asked]
    if not needed or _has_template(source):
        return
    raise InputError(
        f"{source.settings.source} has no chat template, which {' and '.join(use.setting for use in needed)} needs.",
        "Put its chat_template.jinja beside the tokenizer, or set "
        f"{' '.join(use.instead for use in needed)} (a base model reads plain text).",
    )


def _has_template(source: ModelSource) -> bool:
    return bool(source.outline.files & set(TEMPLATES) or _tokenizer_config(source).get("chat_template"))


def _tokenizer_config(source: ModelSource) -> dict[str, Any]:
    path = source.shape_folder / "tokenizer_config.json"
    return content(path) if path.is_file() else {}
