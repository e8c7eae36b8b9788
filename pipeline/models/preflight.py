"""The preflight: refuse, from config.json, file names and headers alone, what a stage would refuse after its work.

Each rule names the setting with its value, the fault, and the way out. Nothing is imported or downloaded for it, except
a hub model's small files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatch
from typing import Any, NamedTuple

from pipeline.config import QuantSettings, Settings, Stage
from pipeline.errors import ConfigError, InputError
from pipeline.hardware.architectures import decoder_types, registry
from pipeline.hardware.installed import installed
from pipeline.models.architecture import has_experts, longest_context, text_config
from pipeline.models.headers import as_stored
from pipeline.models.modules import check_ignore, decoder_linears, matched
from pipeline.models.safetensors import TensorInfo
from pipeline.models.shapes import LATENT, check_shapes
from pipeline.models.source import ModelSource, content


class TokenizerFiles(NamedTuple):
    """Files that a tokenizer is read from: one of each pattern, by distributions; or why not, and the way out."""

    patterns: tuple[str, ...]
    distributions: tuple[str, ...] = ()
    fault: str = ""
    way_out: str = "Put a tokenizer.json beside it"


_CONVERT = "from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer as read"
_BY_CODE = "is read by code of its own alone, which tokenizer_config.json does not name (auto_map) or is not trusted"
# In the order in which transformers looks for them.
TOKENIZERS = (
    TokenizerFiles(("tokenizer.json",)),
    TokenizerFiles(("vocab.json", "merges.txt")),
    TokenizerFiles(("tekken.json", "tokenizer_config.json")),
    TokenizerFiles(
        ("tekken.json",),
        fault="alone names neither the tokens around a text nor a template to vLLM, which leaves out Mistral's library",
        way_out=f"In its folder run: python -c \"{_CONVERT}; read('tekken.json').save_pretrained('.')\"",
    ),
    TokenizerFiles(("tokenizer.model",), ("sentencepiece", "protobuf")),
    TokenizerFiles(("tiktoken.model",), ("tiktoken",)),
    # Without its code, transformers makes a tokenizer of no words out of these.
    TokenizerFiles(("*.model",), fault=_BY_CODE),
    TokenizerFiles(("*.tiktoken",), fault=_BY_CODE),
)
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
_TRUST = "Read its *.py files, and set model.trust_remote_code=true if you trust them."


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
    _check_shape(source)
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
    if tensors and settings.quant.scheme is not None and not settings.quant.is_existing:
        linears = decoder_linears(as_stored(tensors), source.config)
        check_ignore(list(linears), settings.quant.ignore, str(settings.variant))
    _check_cache(source, settings)
    _check_length(source, settings)
    if due:
        _check_tokenizer(source)
        _check_template(source, settings, due)


def _check_shape(source: ModelSource) -> None:
    """Refuse another model under the name of a choice of `conf/model`."""
    settings, config = source.settings, text_config(source.config)
    wrong = {name: config.get(name) for name, value in settings.shape.items() if config.get(name) != value}
    if wrong:
        kind = " ".join(source.config.get("architectures") or ["a model"])
        has = ", ".join(f"{name}={value}" for name, value in wrong.items())
        wanted = ", ".join(f"{name}={settings.shape[name]}" for name in wrong)
        raise InputError(
            f"{settings.source} is {kind} with {has}; {settings.name} has {wanted}.",
            f"Leave out model={settings.name}: {settings.source} alone names a model of your own.",
        )


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
        _check_code(source, "config.json", custom)
        return
    is_served = not known.decoders or bool(set(names) & known.decoders)
    if custom and not (is_served and config.get("model_type") in decoder_types()):
        raise InputError(f"{said} comes with code of its own ({', '.join(sorted(map(str, custom)))}).", _TRUST)
    if not is_served:
        reason = next((known.former[name] for name in names if name in known.former), "")
        raise InputError(f"{said} {reason or 'is in none of the tables of decoders that this vLLM serves'}.", way_out)


def _check_code(source: ModelSource, file: str, custom: Mapping[str, Any]) -> None:
    """Look for the files of the classes that come with a checkpoint."""
    classes = [each for value in custom.values() for each in (value if isinstance(value, list) else [value])]
    # A class of another repository is written `owner/name--module.Class`.
    files = {f"{each.partition('.')[0]}.py" for each in classes if isinstance(each, str) and each and "--" not in each}
    if missing := sorted(files - source.outline.files):
        raise InputError(
            f"{source.settings.source}: {file} names code in {missing[0]}, which is not there (auto_map).",
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


def _check_length(source: ModelSource, settings: Settings) -> None:
    """Refuse a longer context than the model has; vLLM does so after its start."""
    longest, asked = longest_context(source.config), settings.serve.max_model_len
    if asked is not None and longest is not None and asked > longest and settings.serve.url is None:
        raise ConfigError(
            f"serve.max_model_len={asked}: model={source.settings.name} has a context of {longest} tokens.",
            f"Set it to {longest} or less.",
        )


def _check_tokenizer(source: ModelSource) -> None:
    """Look for a tokenizer that transformers reads, which vLLM, its load generator and all stages do it with."""
    files, setting = source.outline.files, source.settings.source
    own = _tokenizer_config(source).get("auto_map")
    if own and source.settings.trust_remote_code:
        _check_code(source, TOKENIZER_CONFIG, own if isinstance(own, dict) else {"AutoTokenizer": own})
        return
    found = next((kind for kind in TOKENIZERS if all(_first(files, pattern) for pattern in kind.patterns)), None)
    if own and (found is None or found.fault):
        raise InputError(
            f"{setting}: its tokenizer is code of its own (auto_map in {TOKENIZER_CONFIG}), and there is no "
            "tokenizer.json to read it without.",
            _TRUST,
        )
    if found is None:
        raise InputError(
            f"{setting} has no tokenizer (tokenizer.json, tokenizer.model, tekken.json, tiktoken.model, or vocab.json "
            "and merges.txt).",
            "Copy the tokenizer's files of the model that it was made of beside its config.json.",
        )
    if found.fault:
        raise InputError(f"{setting}: {_first(files, found.patterns[0])} {found.fault}.", f"{found.way_out}.")
    if missing := sorted(set(found.distributions) - installed([*found.distributions]).keys()):
        raise InputError(
            f"{setting}: {found.patterns[0]} is read with {' and '.join(missing)}, not installed here.",
            f"Install {' '.join(missing)}, or put a tokenizer.json beside it.",
        )


def _first(files: Iterable[str], pattern: str) -> str:
    return min((file for file in files if fnmatch(file, pattern)), default="")


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
    return TEMPLATE in source.outline.files or bool(_tokenizer_config(source).get("chat_template"))


def _tokenizer_config(source: ModelSource) -> dict[str, Any]:
    path = source.shape_folder / TOKENIZER_CONFIG
    return content(path) if path.is_file() else {}
