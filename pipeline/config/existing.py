"""Variants that others quantized: `hub:<owner>/<name>` and `folder:<path>`, served as they are.

What they are is not configured: it is read from the checkpoint's own config.json (`models.existing`) before anything
runs, and until then a variant has no scheme.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.config.quant import EXISTING, QuantSettings
from pipeline.formats.layouts import LAYOUTS, WeightLayout
from pipeline.formats.schemes import UNKNOWN

HUB, FOLDER = "hub:", "folder:"
# The GPUs of a variant: `@tp2`, `@dp2`, `@tp2@dp2`.
GPUS = r"(?P<gpus>(?:@[td]p\d+)*)"
# Paths hold any character, so a cache, a kernel and GPUs are told by their names.
WRITTEN = re.compile(
    rf"(?P<quant>(?:{HUB}|{FOLDER}).+?(?:\([^()]*\))?)"
    rf"(?:\+(?P<kv_cache>auto|fp8_\w+))?(?:@(?P<kernel>[a-z_]+))?{GPUS}"
)
_NAMED = re.compile(rf"{HUB}[\w.-]+/[\w.-]+|{FOLDER}.+")
_OPTION = "revision="
# llama.cpp's files, which name neither their layers nor their tokenizer as other checkpoints do.
GGUF = "gguf"


class ExistingSettings(QuantSettings):
    """A checkpoint that others quantized."""

    engine: Literal["existing"] = Field(EXISTING, description="none of this project's")
    algorithm: str = Field(UNKNOWN, description="how weights were rounded, if the format says so")
    checkpoint: str = Field(description="hub:<owner>/<name>, or folder:<path>")
    revision: str | None = Field(None, description="pinned hub commit")
    described: str = Field("", description="the number format in words; empty until it is read")
    stored_as: str = Field("", description="storage layout of the weights, as checkpoints' configs have it")

    @property
    def is_existing(self) -> bool:
        """True."""
        return True

    @property
    def static_activations(self) -> str | None:
        """None: no scale is calibrated here."""
        return None

    @property
    def takes_tokens(self) -> bool:
        """False: nothing is calibrated here."""
        return False

    @property
    def layout(self) -> WeightLayout | None:
        """The storage layout of a weight; None if it is not known."""
        return LAYOUTS.get(self.stored_as)


def is_existing(variant: str) -> bool:
    """Return whether a variant is written as a checkpoint that others quantized."""
    return variant.startswith((HUB, FOLDER))


def settings_of(quant: str) -> ExistingSettings | str:
    """Return the settings of a checkpoint as a variant names it, or the error text instead.

    Args:
        quant: the variant without its cache, kernel and GPUs, e.g. `hub:RedHatAI/Qwen3-8B-FP8-dynamic(revision=main)`.
    """
    found = re.fullmatch(r"(?P<checkpoint>.+?)(?:\((?P<option>\w+=[^()]*)\))?", quant)
    checkpoint, option = (found["checkpoint"], found["option"]) if found else (quant, None)
    if not _NAMED.fullmatch(checkpoint):
        return f"{quant}: write {HUB}<owner>/<name> or {FOLDER}<path>"
    if option and not (option.startswith(_OPTION) and checkpoint.startswith(HUB)):
        return f"{quant}: others made this checkpoint; its only setting is {HUB}<owner>/<name>({_OPTION}<commit>)"
    revision = option.removeprefix(_OPTION) if option else None
    return ExistingSettings(name=quant, title=source_of(checkpoint), checkpoint=checkpoint, revision=revision)


def source_of(checkpoint: str) -> str:
    """Return the repository of a checkpoint, or the name of its folder."""
    if checkpoint.startswith(HUB):
        return checkpoint.removeprefix(HUB)
    return folder_of(checkpoint).name


def folder_of(checkpoint: str) -> Path:
    """Return the folder of a local checkpoint."""
    return Path(checkpoint.removeprefix(FOLDER)).expanduser().resolve()


def title_of(quant: Mapping[str, Any]) -> str:
    """Return the row label of a checkpoint by its settings, or those in a manifest: its source and its format."""
    described = f" ({quant['described']})" if quant.get("described") else ""
    return f"{source_of(str(quant['checkpoint']))}{described}"
