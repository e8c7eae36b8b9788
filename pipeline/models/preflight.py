"""The preflight: refuse, from config.json, file names and headers alone, what a stage would refuse after its work.

Each rule names the setting with its value, the fault, and the way out. Nothing is imported or downloaded for it, except
a hub model's small files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from pipeline.config import Settings, Stage
from pipeline.errors import ConfigError, InputError
from pipeline.hardware.architectures import registry
from pipeline.models.architecture import text_config
from pipeline.models.headers import as_stored
from pipeline.models.modules import check_ignore, decoder_linears
from pipeline.models.safetensors import TensorInfo
from pipeline.models.shapes import LATENT, check_shapes
from pipeline.models.source import ModelSource, content

# Files that hold a tokenizer; of several patterns in one row, all.
TOKENIZERS = (("tokenizer.json",), ("*.model",), ("tekken.json",), ("*.tiktoken",), ("vocab.json", "merges.txt"))
# Mistral's own tokenizer has its template built in.
TEMPLATES = ("chat_template.jinja", "tekken.json")


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
    check_shapes(source.settings.name, settings, source.config, tensors)
    if tensors and settings.quant.scheme is not None:
        linears = decoder_linears(as_stored(tensors), source.config)
        check_ignore(list(linears), settings.quant.ignore, str(settings.variant))
    _check_cache(source, settings)
    if due:
        _check_tokenizer(source)
        _check_template(source, settings, due)


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


def _check_cache(source: ModelSource, settings: Settings) -> None:
    """Refuse scales of a cache of latents, which keys and values share."""
    if settings.kv_cache.needs_data and (rank := text_config(source.config).get(LATENT)):
        raise ConfigError(
            f"kv_cache.scales=calibrated on model={source.settings.name}: its attention caches one latent of {LATENT}="
            f"{rank} for keys and values, and scales of either would be wrong.",
            "Set kv_cache.scales=one.",
        )


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
