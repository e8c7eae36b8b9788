"""Checkpoints that others quantized: where they lie, what they are, and whether they were made of this model.

Known from small files alone, before weights are downloaded: the format by config.json, and that architecture, widths
and tokens are those of the BF16 model. What only the weights show is the gate's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pipeline.artifacts.keys import Payload
from pipeline.config import ExistingSettings, ModelSettings, QuantSettings, Settings, why_no_kernel
from pipeline.config.existing import FOLDER, GGUF, HUB, folder_of, title_of
from pipeline.config.file_names import file_name
from pipeline.errors import ConfigError, InputError
from pipeline.formats.recognition import recognize
from pipeline.models import mix
from pipeline.models.architecture import CONFIG, read_config, text_config
from pipeline.models.contents import (
    LAYERS,
    QUANTIZATION,
    QUANTIZATION_FILES,
    VOCABULARY,
    WIDTH,
    numbers,
    require_weights,
)
from pipeline.models.headers import (
    Quantization,
    check_quantization,
    layout_name,
    quantized_modules,
    stored_tensors,
)
from pipeline.models.modules import decoder_linears
from pipeline.models.safetensors import INDEX, WEIGHTS, check_safetensors, companions, safetensors_files
from pipeline.models.source import SMALL, ModelSource
from pipeline.models.tokens import first_difference

# Numbers of a decoder that are those of the model it was made of.
SHAPE = (
    *(*WIDTH, *LAYERS, *VOCABULARY, "intermediate_size", "moe_intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "num_experts", "num_local_experts"),
)
CODE = "*.py"
# Weights stay in BF16 in the modules that a checkpoint's own settings name.
_OUTPUT = "lm_head"


class _Named(ModelSettings):
    """Source of a checkpoint, named as the variant that it is."""

    checkpoint: str

    @property
    def source(self) -> str:
        """The setting that names the checkpoint, with its value."""
        return f"variants={self.checkpoint}"


class ExistingCheckpoint(ModelSource):
    """A checkpoint that others quantized, as the user named it, resolved to a local folder on demand."""

    def __init__(self, quant: ExistingSettings, model: ModelSource) -> None:
        """Create the source of a checkpoint beside the model that it is compared with."""
        is_local = quant.checkpoint.startswith(FOLDER)
        named = _Named(
            name=file_name(quant.name),
            path=folder_of(quant.checkpoint) if is_local else None,
            hub_id=None if is_local else quant.checkpoint.removeprefix(HUB),
            revision=quant.revision,
            checkpoint=quant.checkpoint,
        )
        super().__init__(named, model.cache, model.digests)
        self.model = model

    @property
    def setting(self) -> str:
        """The setting that names the checkpoint, for messages."""
        return self.settings.source

    def _download(self, patterns: tuple[str, ...]) -> Path:
        try:
            return super()._download(patterns)
        except InputError as error:
            # A local copy is a variant, not the model.
            raise InputError(error.problem, error.remedy.replace("model.path=", f"variants={FOLDER}")) from error

    @cached_property
    def shape_folder(self) -> Path:
        """Local folder with the small files; from the hub at one commit, whatever branch it was named by.

        Raises:
            InputError: if there is no such folder, or the hub cannot be reached.
        """
        path = self.settings.path
        if path is not None and not path.is_dir():
            raise InputError(f"{self.settings.source}: there is no folder {path}.", "Name a checkpoint's folder.")
        return self.hub_folder if path is None else path

    @cached_property
    def stored(self) -> Path:
        """Local folder with the weights, downloaded on first access, and whole.

        Raises:
            InputError: if a file is missing, or cut off.
        """
        is_local = self.settings.path is not None
        folder = self.shape_folder if is_local else self._download((*SMALL, *self.hub_weights))
        weights = safetensors_files(folder)
        require_weights(self.settings.source, (path.name for path in folder.iterdir()), map(str, weights))
        for path in weights:
            check_safetensors(path)
        return folder

    @cached_property
    def is_gguf(self) -> bool:
        """True if its weights are llama.cpp's files alone."""
        if (self.shape_folder / CONFIG).is_file() and self.settings.path is None:
            return False
        names = self._names()
        return any(name.endswith(f".{GGUF}") for name in names) and not any(name.endswith(WEIGHTS) for name in names)

    def _names(self) -> list[str]:
        if self.settings.path is not None:
            return [path.name for path in self.shape_folder.iterdir()]
        from huggingface_hub import HfApi

        try:
            return list(HfApi().list_repo_files(str(self.settings.hub_id), revision=self.settings.revision))
        except Exception:
            # Offline, with the small files in the hub's cache.
            return []

    @cached_property
    def quantization(self) -> Quantization:
        """Its `quantization_config`; empty if it has none."""
        for part in (self.config, text_config(self.config)):
            for name in QUANTIZATION:
                if isinstance(found := part.get(name), Mapping) and found:
                    return cast(Quantization, dict(found))
        file = next((name for name in QUANTIZATION_FILES if (self.shape_folder / name).is_file()), None)
        return Quantization(quant_method=QUANTIZATION_FILES[file]) if file else Quantization()

    def identity(self) -> Payload:
        """Return the identity of its content: the hub's commit, or hashes of a folder's files."""
        if self.settings.path is None:
            return {"hub_id": self.settings.hub_id, "revision": self.settings.revision}
        return {"files": {path.name: self.digests.of(path) for path in self.files()}}

    def files(self) -> list[Path]:
        """Return its files: weights, settings, tokenizer and terms. Code is not taken from those who quantized."""
        folder, code = self.stored, set(self.stored.glob(CODE))
        settings = (folder / name for name in (CONFIG, INDEX, *QUANTIZATION_FILES))
        found = [*settings, *safetensors_files(folder), *companions(folder)]
        return [path for path in found if path.is_file() and path not in code]

    def described(self, quant: ExistingSettings) -> ExistingSettings:
        """Return the settings with what the checkpoint's own files say.

        Raises:
            InputError: if it is not quantized, or not made of the model.
        """
        if self.is_gguf:
            return _titled(quant, described="GGUF", stored_as=GGUF)
        if not (self.shape_folder / CONFIG).is_file():
            raise InputError(f"{self.settings.source} has no config.json.", "Name a Hugging Face checkpoint.")
        if not self.quantization:
            raise InputError(
                f"{self.settings.source} is not quantized: its config.json has no quantization_config.",
                "A BF16 checkpoint is named by model.path or model.hub_id.",
            )
        check_same_model(self, self.model)
        check_quantization(self.quantization, self.settings.source)
        found = recognize(self.quantization)
        return _titled(
            quant,
            scheme=found.scheme,
            described=found.described,
            algorithm=found.algorithm,
            group_size=found.group,
            double_quant=found.nested,
            stored_as=layout_name(self.quantization),
            revision=self.settings.revision,
        )


def _titled(quant: ExistingSettings, **read: Any) -> ExistingSettings:
    complete = quant.model_copy(update=read)
    return complete.model_copy(update={"title": title_of(complete.model_dump())})


def resolve(variants: Sequence[Settings], model: ModelSource) -> list[tuple[Settings, ExistingCheckpoint | None]]:
    """Return the settings of each variant, with what checkpoints of others are, and these checkpoints.

    Raises:
        InputError: if a checkpoint cannot be read, or was not made of this model.
        ConfigError: on a setting that does not go with it.
    """
    known: dict[str, ExistingCheckpoint] = {}
    found: list[tuple[Settings, ExistingCheckpoint | None]] = []
    for settings in variants:
        quant = settings.quant
        if not isinstance(quant, ExistingSettings):
            found.append((settings, None))
            continue
        if model.is_random:
            raise ConfigError(
                f"model.weights=random: {quant.name} is not made of random weights.", "Leave one of them out."
            )
        checkpoint = known.setdefault(quant.name, ExistingCheckpoint(quant, model))
        found.append((_resolved(settings, checkpoint.described(quant), checkpoint), checkpoint))
    return found


def _resolved(settings: Settings, quant: ExistingSettings, checkpoint: ExistingCheckpoint) -> Settings:
    if reason := why_no_kernel(settings.serve.kernel, quant):
        raise ConfigError(f"{reason}.", "A hub commit is written in parentheses: hub:<owner>/<name>(revision=...).")
    cache = settings.kv_cache
    if quant.stored_as != GGUF and checkpoint.quantization.get("kv_cache_scheme"):
        if cache.dtype != "fp8_e4m3":
            raise ConfigError(
                f"{settings.variant}: the checkpoint brings an FP8 KV cache with scales, which vLLM then uses.",
                f"Name it as what it is: {quant.name}+fp8_e4m3.",
            )
        # Its scales are its own; none are made here.
        cache = cache.model_copy(update={"scales": "one"})
    return settings.model_copy(update={"quant": quant, "kv_cache": cache})


def check_same_model(theirs: ExistingCheckpoint, model: ModelSource) -> None:
    """Compare a checkpoint's config, code and tokens with those of the BF16 model.

    Raises:
        InputError: naming both, and the first difference.
    """
    own, original = theirs.config, model.config
    mine, yours = numbers(own, SHAPE), numbers(original, SHAPE)
    differences = [
        *_different("architecture", own.get("architectures"), original.get("architectures")),
        *(
            f"{name}={mine[name]}, not {yours[name]}"
            for name in sorted(mine.keys() & yours)
            if mine[name] != yours[name]
        ),
        *_different("code (auto_map)", own.get("auto_map"), original.get("auto_map")),
    ]
    if not differences and (difference := first_difference(theirs.shape_folder, model.shape_folder)):
        differences.append(difference)
    if differences:
        raise InputError(
            f"{theirs.settings.source} was not made of {model.settings.source}: it has {differences[0]}.",
            "Name the BF16 model that it was made of, or leave it out.",
        )


def _different(what: str, own: Any, original: Any) -> Iterable[str]:
    if own != original:
        yield f"{what} {own}, not {original}"


def as_stored(quant: QuantSettings, folder: Path, source: Path) -> QuantSettings:
    """Return a format's settings as a finished checkpoint has them: what others left in BF16, what a mix chose.

    Args:
        quant: the settings; those of one format that is made here are returned as they are.
        folder: the checkpoint.
        source: the BF16 checkpoint.
    """
    if quant.is_mixed:
        return mix.chosen(quant, folder)
    if not quant.is_existing:
        return quant
    rounded = quantized_modules(folder)
    linears = decoder_linears(stored_tensors(source), read_config(source))
    kept = [name for name in linears if name not in rounded]
    return quant.model_copy(update={"ignore": (*kept, *(() if _OUTPUT in rounded else (_OUTPUT,)))})
