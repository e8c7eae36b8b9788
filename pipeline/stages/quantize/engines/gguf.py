"""GGUF checkpoints, llama.cpp's format: one `model.gguf` beside the config and the tokenizer that vLLM reads.

AutoRound brings llama.cpp's converter and its block formats in torch. Without parameters of AutoRound's own (an empty
`layer_config`) these are llama.cpp's roundings, byte for byte, and nothing is asked of the hub.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.workspace import Draft
from pipeline.errors import NotApplicable, StageError
from pipeline.formats.unpack_gguf import FILE
from pipeline.models.safetensors import copy_companions
from pipeline.stages.quantize.engines import base

if TYPE_CHECKING:
    from pipeline.config import QuantSettings
    from pipeline.job import Job

TITLE = "AutoRound"
REQUIRES: tuple[str, ...] = ("gguf", "auto-round")
NOTE = "widths that 256 divides (32 for Q8_0)"
# llama.cpp's name for an unknown pre-tokenizer; vLLM reads the tokenizer's own files instead.
UNKNOWN_PRE_TOKENIZER = "default"


def make(job: Job, draft: Draft) -> None:
    """Write `checkpoint/` with `model.gguf`."""
    check(job.settings.quant)
    with base.captured(job, draft, TITLE):
        _make(job, draft)


def _make(job: Job, draft: Draft) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.models.loading import quiet

    quiet()
    source, folder, parts = job.model.folder, draft.folder / "checkpoint", draft.folder / "gguf"
    with converter(source) as save:
        job.progress.detail("loading the model")
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16, trust_remote_code=job.settings.model.trust_remote_code
        )
        job.progress.detail("rounding")
        backend = f"gguf:{str(job.settings.quant.scheme).lower()}"
        with _frozen():
            save(parts, model=model, backend=backend, layer_config={}, device=job.hardware.device)
    written = sorted(parts.glob("*.gguf"))
    if len(written) != 1:
        raise StageError(f"the converter wrote {len(written)} files, not one.", "Choose another quant.scheme.")
    folder.mkdir()
    written[0].rename(folder / FILE)
    parts.rmdir()
    shutil.copyfile(source / "config.json", folder / "config.json")
    copy_companions(source, folder)


def check(quant: QuantSettings) -> None:
    """Reject settings that the format does not support.

    Raises:
        ConfigError: naming the setting.
    """
    says = f"{quant.scheme} itself says which layers keep more bits"
    base.only_lm_head(quant, says, "Leave quant.ignore out, or choose another engine.")


@contextlib.contextmanager
def converter(source: Path) -> Iterator[Any]:
    """Patch AutoRound's export to run with the released `gguf` and with tokenizers unknown to llama.cpp.

    Raises:
        NotApplicable: if llama.cpp does not know the architecture, or vLLM would serve it wrongly without an error.
    """
    import gguf

    if not hasattr(gguf.MODEL_ARCH, "DFLASH"):
        # The converter's file for Qwen names a newer architecture when it is imported; any other member will do.
        gguf.MODEL_ARCH.DFLASH = gguf.MODEL_ARCH.QWEN3

    from auto_round.export.export_to_gguf.export import save_quantized_as_gguf
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    try:
        conversion = get_conversion(source)
        architecture = conversion.get_model_architecture(
            conversion.ModelBase.load_hparams(source, False), conversion.ModelType.TEXT
        )
        kind = conversion.get_model_class(architecture)
    except NotImplementedError as error:
        raise NotApplicable(
            f"llama.cpp's converter does not know this architecture ({str(error).partition('. ')[0]}).",
            "Choose another engine for this model.",
        ) from None
    if getattr(kind, "undo_permute", False):
        # Measured with a Llama of random weights, vLLM 0.32 and its plugin 0.0.5: correlation 0.09 with the original.
        raise NotApplicable(
            f"llama.cpp reorders the queries and keys of {architecture}, and vLLM does not order them back.",
            "Choose another engine for this model.",
        )
    recognize = kind.get_vocab_base_pre

    def pre_tokenizer(self: Any, tokenizer: Any) -> str:
        try:
            return str(recognize(self, tokenizer))
        except NotImplementedError:
            return UNKNOWN_PRE_TOKENIZER

    kind.get_vocab_base_pre = pre_tokenizer
    try:
        yield save_quantized_as_gguf
    finally:
        kind.get_vocab_base_pre = recognize


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Exclude existing objects from the garbage collection that AutoRound runs after every tensor (0.5 s each)."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
