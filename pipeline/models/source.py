"""Sources of the BF16 checkpoint: a local folder, the hub at a pinned commit, or random weights of its shape.

Only small files are read here (`config.json`, headers of safetensors files), without torch.
"""

from __future__ import annotations

import json
import math
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.artifacts.keys import Digests, Payload
from pipeline.config import ModelSettings, QuantSettings
from pipeline.errors import ConfigError, InputError, hub_unreachable
from pipeline.hardware.architectures import served_architectures
from pipeline.models.architecture import text_config
from pipeline.models.safetensors import COMPANIONS, WEIGHTS, check_safetensors, companions


class ModelSource:
    """A model as the user named it, resolved to a local folder on demand."""

    def __init__(self, settings: ModelSettings, cache: Path, digests: Digests) -> None:
        """Create a source that stores generated checkpoints (random weights) under `cache`."""
        self.settings = settings
        self.cache = cache
        self.digests = digests

    @cached_property
    def shape_folder(self) -> Path:
        """Local folder with config and tokenizer; weights may be missing.

        Raises:
            InputError: when the folder has no config.json or the hub cannot be reached.
        """
        path = self.settings.path
        if path is None:
            return self._download(("config.json", *COMPANIONS))
        if not path.is_dir():
            raise InputError(f"model.path={path}: there is no such folder.", "Name a checkpoint's folder.")
        if not (path / "config.json").is_file():
            raise InputError(
                f"model.path={path} has no config.json.",
                "Name the folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer files).",
            )
        return path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of config.json."""
        return _content(self.shape_folder / "config.json")

    @cached_property
    def folder(self) -> Path:
        """Local folder with the weights, downloaded or generated on first access."""
        if self.settings.weights == "random":
            return self._random()
        if self.settings.path is None:
            return self._download(("config.json", *COMPANIONS, f"*{WEIGHTS}", f"*{WEIGHTS}.index.json"))
        weights = sorted(self.shape_folder.glob(f"*{WEIGHTS}"))
        if not weights:
            raise InputError(
                f"model.path={self.shape_folder} has no *{WEIGHTS} file.",
                "Fetch the weights, or set model.weights=random to measure speed alone.",
            )
        for path in weights:
            check_safetensors(path)
        return self.shape_folder

    def identity(self) -> Payload:
        """Return the identity of the checkpoint's content: hashes for a folder, the commit for the hub."""
        settings = self.settings
        if settings.weights == "random":
            return {"random": self.config, "seed": settings.seed}
        if settings.path is None:
            return {"hub_id": settings.hub_id, "revision": settings.revision}
        weights = sorted(self.folder.glob(f"*{WEIGHTS}"))
        parts = [self.folder / "config.json", *companions(self.folder), *weights]
        return {"files": {path.name: self.digests.of(path) for path in parts}}

    def context(self, asked: int | None) -> int | None:
        """Return the longest context in tokens: as requested, or less if config or tokenizer have a lower limit."""
        config = text_config(self.config)
        path = self.shape_folder / "tokenizer_config.json"
        limit = _content(path).get("model_max_length") if path.is_file() else None
        known = (asked, config.get("max_position_embeddings"), limit)
        return min((int(length) for length in known if length), default=None)

    def check(self, quant: QuantSettings) -> None:
        """Reject, from config.json alone, a model that cannot be served or quantized.

        Raises:
            InputError: if vLLM does not support the architecture.
            ConfigError: if the group size does not divide a width.
        """
        names = self.config.get("architectures") or []
        known = served_architectures()
        if known and not set(names) & known:
            raise InputError(
                f"model={self.settings.name}: architecture {', '.join(names) or '(none named)'} in config.json "
                "is not one that this vLLM serves as a decoder LLM.",
                "Choose a model of vLLM's list of text-generation models, or a newer vLLM with serve.python.",
            )
        group = quant.effective_group_size
        divisor = max(group or 1, quant.format.divisor if quant.format else 1)
        widths = self._input_widths()
        wrong = {name: width for name, width in widths.items() if width % divisor}
        if wrong:
            listing = ", ".join(f"{name}={width}" for name, width in wrong.items())
            what = "group size" if group else "block size"
            way_out = "choose a format without groups or blocks (fp8_dynamic, int8_dynamic)."
            if quant.format is not None and quant.format.group_is_free:
                way_out = f"set quant.group_size to a divisor of {math.gcd(*widths.values())}, or {way_out}"
            raise ConfigError(
                f"quant={quant.name} on model={self.settings.name}: {what} {divisor} does not divide {listing}.",
                way_out[0].upper() + way_out[1:],
            )

    def _input_widths(self) -> dict[str, int]:
        """Return the input features of a decoder layer's Linear modules, by the name of the setting."""
        config = text_config(self.config)
        heads = config.get("num_attention_heads")
        head_dim = config.get("head_dim") or (config["hidden_size"] // heads if heads else 0)
        widths = {
            "hidden_size": config.get("hidden_size"),
            "intermediate_size": config.get("intermediate_size"),
            "num_attention_heads*head_dim": heads * head_dim if heads else None,
        }
        return {name: width for name, width in widths.items() if width}

    def _download(self, patterns: tuple[str, ...]) -> Path:
        from huggingface_hub import snapshot_download

        settings = self.settings
        try:
            return Path(
                snapshot_download(str(settings.hub_id), revision=settings.revision, allow_patterns=list(patterns))
            )
        except Exception as error:
            raise hub_unreachable(f"model={settings.name}", str(settings.hub_id), "model.path", error) from error

    def _random(self) -> Path:
        """Return a checkpoint of the config's shape with seeded random weights, generated once."""
        from pipeline.artifacts.keys import key_of

        folder = self.cache / f"{self.settings.name}-random-{key_of(self.identity())[:8]}"
        if not (folder / "config.json").is_file():
            import torch
            from transformers import AutoConfig, AutoModelForCausalLM

            from pipeline.models.loading import quiet

            quiet()
            config = AutoConfig.from_pretrained(self.shape_folder)
            torch.manual_seed(self.settings.seed)
            partial = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(partial, ignore_errors=True)
            # Billions of random numbers take minutes on a CPU.
            with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
                model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            model.save_pretrained(partial)
            # The repository's own config may carry fields that a round trip through transformers drops.
            for path in [self.shape_folder / "config.json", *companions(self.shape_folder)]:
                shutil.copyfile(path, partial / path.name)
            partial.rename(folder)
        return folder


def _content(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.", "Fetch the checkpoint again.") from None
