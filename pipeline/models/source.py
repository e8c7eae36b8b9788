"""Sources of the BF16 checkpoint: a local folder, the hub at a pinned commit, or random weights of its shape.

Only small files are read here (`config.json`, headers of safetensors files), without torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.artifacts.drafts import made_once
from pipeline.artifacts.keys import Digests, Payload, key_of
from pipeline.config import ModelSettings
from pipeline.errors import InputError, hub_unreachable
from pipeline.json_files import read_json_object
from pipeline.models import baseline
from pipeline.models.architecture import CONFIG, default_context, longest_context
from pipeline.models.config_types import check_types
from pipeline.models.contents import QUANTIZATION_FILES, Contents, check, refuse_another, require_weights
from pipeline.models.safetensors import (
    COMPANIONS,
    INDEX,
    MODEL,
    WEIGHTS,
    TensorInfo,
    check_safetensors,
    chosen,
    companions,
    copy_companions,
    read_index,
    safetensors_files,
    tensor_infos,
)

# The model card, whose metadata name the licence.
CARD = "README.md"
# What is fetched from the hub before the weights.
_COMMIT = re.compile(r"[0-9a-f]{40}")
SMALL = (CONFIG, INDEX, CARD, *QUANTIZATION_FILES, *COMPANIONS)


class ModelSource:
    """A model as the user named it, resolved to a local folder on demand."""

    def __init__(self, settings: ModelSettings, cache: Path, digests: Digests) -> None:
        """Create a source that stores checkpoints of its own (random weights, casts) under `cache`."""
        self.settings = settings
        self.cache = cache
        self.digests = digests

    @property
    def setting(self) -> str:
        """The setting that names the model, for messages."""
        return f"model={self.settings.name}"

    @property
    def is_random(self) -> bool:
        """True if the weights are drawn, and none are read."""
        return self.settings.weights == "random"

    @cached_property
    def shape_folder(self) -> Path:
        """Local folder with config and tokenizer; weights may be missing.

        Raises:
            InputError: when the folder has no config.json or the hub cannot be reached.
        """
        path = self.settings.path
        if path is None:
            return self.hub_folder
        if not path.is_dir():
            fault = "is a file" if path.exists() else "there is no such folder"
            raise InputError(f"model.path={path}: {fault}.", "Name the folder that holds config.json.")
        if not (path / CONFIG).is_file():
            raise InputError(
                f"model.path={path} has no config.json.",
                "Name the folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer files).",
            )
        return path

    @cached_property
    def hub_folder(self) -> Path:
        """Folder of the hub's cache with the small files; from here on the repository is that of their commit."""
        folder = self._download(SMALL)
        if _COMMIT.fullmatch(folder.name):
            self.settings = self.settings.model_copy(update={"revision": folder.name})
        return folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of config.json, its known fields of the types that they are read as.

        Raises:
            InputError: naming the field that is of another, or that stands for another model.
        """
        found = content(self.shape_folder / CONFIG)
        check_types(found, self.settings.source)
        refuse_another(self.settings.source, found)
        return found

    @cached_property
    def outline(self) -> Contents:
        """Contents by the small files alone: what is known before weights are downloaded or read.

        Raises:
            InputError: naming the fault and the way out.
        """
        folder = self.shape_folder
        files = frozenset(path.name for path in folder.iterdir())
        index = None if self.is_random else read_index(folder)
        found = Contents(self.settings.source, self.config, files, dict.fromkeys(index or ()))
        check(found)
        return found

    @cached_property
    def stored(self) -> Path:
        """Local folder with the weights as they came, downloaded on first access: whole, and those of its config.

        Raises:
            InputError: naming the fault and the way out.
        """
        is_local = self.settings.path is not None
        folder = self.shape_folder if is_local else self._download((*SMALL, *self.hub_weights))
        weights = safetensors_files(folder)
        require_weights(self.settings.source, (path.name for path in folder.iterdir()), map(str, weights))
        for path in weights:
            check_safetensors(path)
        tensors = tensor_infos(folder)
        if absent := [name for name in read_index(folder) or () if name not in tensors]:
            raise InputError(
                f"{folder / INDEX} names {absent[0]}, which is in none of its files.", "Fetch the checkpoint again."
            )
        check(Contents(self.settings.source, self.config, self.outline.files, tensors))
        return folder

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """Header of each tensor as it came."""
        return tensor_infos(self.stored)

    @property
    def names(self) -> Iterable[str]:
        """Names of the tensors, as far as they are known by now: those of the index before a download."""
        is_here = "stored" in vars(self) or (self.settings.path is not None and not self.is_random)
        return self.tensors if is_here else self.outline.tensors

    @cached_property
    def difference(self) -> baseline.Difference:
        """Differences between the folder as it came and the BF16 checkpoint."""
        return baseline.difference(self.stored)

    @cached_property
    def folder(self) -> Path:
        """Folder of the BF16 checkpoint, which every stage reads; cast or generated on first access."""
        if self._own is None:
            return self.stored
        made_once(self._own, self._make)
        return self._own

    @cached_property
    def _own(self) -> Path | None:
        """Folder of the BF16 checkpoint where it is not the source as it came; it need not exist."""
        if self.is_random:
            return self.cache / f"{self.settings.name}-random-{key_of(self.identity())[:8]}"
        if not self.difference:
            return None
        # Links to weights name a place.
        key = key_of({"model": self.identity(), "place": str(self.stored.resolve())})
        return self.cache / f"{self.settings.name}-bf16-{key[:8]}"

    @property
    def lacks_copy(self) -> bool:
        """True if all weights are yet to be written in BF16: drawn, or cast. Before a download config.json's word."""
        if not self.is_random and self.settings.path is None and "stored" not in vars(self):
            return bool(self.cast_from) and not any(self.cache.glob(f"{self.settings.name}-bf16-*"))
        return bool(self.is_random or self.difference.dtype) and self._own is not None and not self._own.is_dir()

    @property
    def cast_from(self) -> str:
        """Type that the weights are cast to BF16 from; empty if they are not. Before a download config.json's word."""
        if self.is_random:
            return ""
        return self.difference.dtype if "stored" in vars(self) else baseline.other_dtype(self.config)

    @property
    def note(self) -> str:
        """Differences of the BF16 checkpoint from what was named, for the user; empty if there are none."""
        if "stored" in vars(self):
            return self.difference.text
        cast = self.cast_from if self.settings.path is None else ""
        return f"config.json names {cast}: cast to BF16 once for every variant, bf16 included" if cast else ""

    def identity(self) -> Payload:
        """Return the identity of the checkpoint's content: hashes for a folder, the commit for the hub."""
        if self.is_random:
            return {"random": self.config, "seed": self.settings.seed}
        if self.settings.path is None:
            # The config tells the commit.
            dtype = baseline.other_dtype(self.config)
            return _cast({"hub_id": self.settings.hub_id, "revision": self.settings.revision}, dtype)
        parts = [self.stored / CONFIG, *companions(self.stored), *safetensors_files(self.stored)]
        files = {path.name: self.digests.of(path) for path in parts}
        return _cast({"files": files}, self.difference.dtype or self.difference.declares)

    def context(self, asked: int | None) -> int | None:
        """Return the context in tokens: as requested, or less if the model's is shorter; None if neither is known."""
        longest = longest_context(self.config)
        return default_context(self.config) if asked is None else min(asked, longest or asked)

    @cached_property
    def hub_weights(self) -> list[str]:
        """Names of the weight files on the hub: those of the index, or of the repository's list.

        Raises:
            InputError: if there are pickled weights only.
        """
        from huggingface_hub import HfApi

        index, settings = read_index(self.shape_folder), self.settings
        try:
            listed = [] if index else HfApi().list_repo_files(str(settings.hub_id), revision=settings.revision)
        except Exception:
            # Offline, with the files in the hub's cache.
            listed = [MODEL]
        weights = chosen([name for name in listed if "/" not in name], index)
        require_weights(settings.source, listed, weights)
        return weights

    def _download(self, patterns: tuple[str, ...]) -> Path:
        from huggingface_hub import snapshot_download

        hub_id, revision = str(self.settings.hub_id), self.settings.revision
        try:
            # Folders hold other sets of weights (original/, onnx/), and a pattern's star matches a slash.
            folder = snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns), ignore_patterns="*/*")
        except Exception as error:
            if (found := _cached(hub_id, revision, patterns)) is None:
                raise hub_unreachable(self.setting, hub_id, "model.path", error) from error
            return found
        return Path(folder)

    def _make(self, folder: Path) -> None:
        """Write the BF16 checkpoint into an empty folder."""
        if self.is_random:
            self._draw(folder)
        else:
            baseline.make(self.stored, folder, self.difference)

    def _draw(self, folder: Path) -> None:
        """Write a checkpoint of the config's shape with seeded random weights."""
        import torch
        from transformers import AutoConfig

        from pipeline.models.loading import model_class, quiet

        quiet()
        trust = self.settings.trust_remote_code
        config = AutoConfig.from_pretrained(self.shape_folder, trust_remote_code=trust)
        torch.manual_seed(self.settings.seed)
        # Billions of random numbers take minutes on a CPU.
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            create = model_class(self.config).from_config
            model = create(config, dtype=torch.bfloat16, trust_remote_code=trust)
        model.save_pretrained(folder)
        # The repository's own config may carry fields that a round trip through transformers drops.
        baseline.write_config(self.config, folder)
        copy_companions(self.shape_folder, folder)


def _cached(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path | None:
    """Return the folder of the hub's cache, if it holds the files; the hub's client asks for a list of them first."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except Exception:
        return None
    needed = (name for name in patterns if name == CONFIG or name.endswith(WEIGHTS))
    return folder if all((folder / name).is_file() for name in needed) else None


def _cast(identity: Payload, dtype: str) -> Payload:
    """Return the identity of what is cast: releases that did not cast made something else of the same files."""
    return {**identity, "cast_from": dtype} if dtype else identity


def content(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        InputError: if it holds no JSON object.
    """
    return read_json_object(path, remedy="Fetch the checkpoint again.")
