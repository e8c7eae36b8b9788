"""Common parts of the engines: capture of logs, conversion of failures, calibration data.

`settle` converts the output of engines with their own format (`quant_method` awq, gptq) to a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from pipeline.artifacts.workspace import Draft
from pipeline.config import QuantSettings, Stage
from pipeline.config.file_names import file_name
from pipeline.errors import ConfigError, PipelineError, StageError
from pipeline.formats.layouts import AWQ
from pipeline.models.architecture import read_config, text_config
from pipeline.models.modules import is_beside, is_decoder_linear, matched
from pipeline.models.safetensors import (
    COMPANIONS,
    WEIGHTS,
    copy_companions,
    safetensors_files,
    tensor_files,
    write_index,
)

if TYPE_CHECKING:
    import torch

    from pipeline.job import Job


# File of tensors that an engine leaves out and the source has.
CARRIED = f"model-carried{WEIGHTS}"


class Engine(Protocol):
    """Interface of each module of this folder: an engine, imported without its library.

    Attributes:
        TITLE: display name, also used in error messages.
        REQUIRES: distributions required beside this project.
        NOTE: a remark for the user.
    """

    TITLE: str
    REQUIRES: tuple[str, ...]
    NOTE: str

    def check(self, quant: QuantSettings) -> None:
        """Reject, before any work, settings that the engine does not support.

        Raises:
            ConfigError: naming the setting.
        """

    def make(self, job: Job, draft: Draft) -> dict[str, str] | None:
        """Write `checkpoint/` into the draft's folder; return versions if the engine has its own environment."""


class _Log:
    """Log stream of the running engine. Handlers keep their stream, so it outlives the files behind it."""

    file: IO[str] | None = None

    def write(self, text: str) -> int:
        if self.file is not None:
            self.file.write(text)
        return len(text)

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()

    def isatty(self) -> bool:
        return False


_LOG: Any = _Log()


@contextlib.contextmanager
def captured(job: Job, draft: Draft, library: str) -> Iterator[None]:
    """Redirect a library's output to the draft's `quantize.log`, and convert its exceptions to StageError.

    Raises:
        StageError: naming the library and the saved copy of its log.
    """
    log = draft.folder / "quantize.log"
    with log.open("w") as file, contextlib.redirect_stderr(_LOG), contextlib.redirect_stdout(_LOG):
        _LOG.file = file
        _route_loguru()
        try:
            yield
        except PipelineError:
            raise
        # Any exception of an engine fails the variant, not the run; one engine calls exit().
        except (Exception, SystemExit) as error:
            import traceback

            traceback.print_exc(file=file)
            kept = job.workspace.root / "logs" / f"quantize-{file_name(str(job.variant))}.log"
            file.flush()
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, kept)
            raise StageError(
                f"{library} could not make {job.variant}: {type(error).__name__}: {error}.", f"Its log is {kept}."
            ) from error
        finally:
            _LOG.file = None


def _route_loguru() -> None:
    """Redirect loguru, used by llm-compressor: its handler is bound to the stream of its import."""
    from loguru import logger

    logger.remove()
    logger.add(_LOG, level="INFO")


def load(job: Job, dtype: torch.dtype | None = None, *, linear_experts: bool = False) -> Any:
    """Load the job's BF16 model, ready to be quantized; see `load_model`."""
    from pipeline.models.loading import load_model

    trust = job.settings.model.trust_remote_code
    return load_model(
        job.model.folder, job.hardware, trust_remote_code=trust, dtype=dtype, linear_experts=linear_experts
    )


def sequences(job: Job) -> list[torch.Tensor]:
    """Return the token sequences of the calibration, each of shape (1, length), int64."""
    from pipeline.stages.calibrate.artifact import read_tokens

    return read_tokens(job.artifact(Stage.CALIBRATE).folder)[: job.settings.calibration.algorithm_samples]


def seed(number: int) -> None:
    """Seed the random number generators of an engine."""
    import random

    import numpy
    import torch

    random.seed(number)
    numpy.random.seed(number)  # engines use the global generator
    torch.manual_seed(number)


def kept(model: Any, patterns: Sequence[str] = ()) -> list[str]:
    """Return the Linear modules of a model that stay in BF16: those outside the decoder's list, and ignored ones.

    Args:
        model: the model, by transformers.
        patterns: `quant.ignore`, which the names in the checkpoint are matched with.
    """
    import torch

    from pipeline.models.loading import stored_names

    layers, stored = getattr(model.config.get_text_config(), "num_hidden_layers", None), stored_names(model)
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    called = {name: stored(f"{name}.weight").removesuffix(".weight") for name in linears}
    ignored = {*matched(linears, patterns), *matched(called.values(), patterns)}
    return [name for name in linears if {name, called[name]} & ignored or not is_decoder_linear(name, layers)]


def carry(source: Path, folder: Path) -> None:
    """Copy the tensors that transformers has no module for, such as layers that draft tokens, bit for bit.

    Args:
        source: the BF16 checkpoint.
        folder: the checkpoint made of it.
    """
    from safetensors.torch import save_file

    from pipeline.models.dequantize import Tensors

    original, own = Tensors(source), tensor_files(folder)
    layers = text_config(read_config(source)).get("num_hidden_layers")
    missing = [name for name in original.files if name not in own and is_beside(name, layers)]
    if missing:
        files = [path.name for path in safetensors_files(folder)]
        save_file({name: original[name] for name in missing}, folder / CARRIED, metadata={"format": "pt"})
        write_index(folder, [*files, CARRIED])


def only_lm_head(quant: QuantSettings, says: str, way_out: str) -> None:
    """Reject ignored modules other than lm_head, for engines that cannot leave them in BF16.

    Args:
        quant: quantization settings.
        says: the reason, as the end of the sentence.
        way_out: setting to use instead.

    Raises:
        ConfigError: naming the setting.
    """
    if quant.ignore != ("lm_head",):
        raise ConfigError(f"quant.ignore={list(quant.ignore)}: {says}.", way_out)


def accept(quant: QuantSettings) -> None:
    """Accept all settings, for engines that support all those of their schemes."""


def excluded(kept: list[str]) -> dict[str, dict[str, Any]] | None:
    """Return the rules that exclude modules in GPTQ's format; lm_head needs none."""
    return {f"-:^{re.escape(name)}$": {} for name in kept if name != "lm_head"} or None


def configuration(quant: QuantSettings, kept: list[str]) -> dict[str, Any]:
    """Return the `quantization_config` of GPTQ's and AWQ's own formats.

    Args:
        quant: quantization settings; the engine's layout decides.
        kept: modules left in BF16.
    """
    if quant.format is not None and quant.format.layouts[quant.engine] is AWQ:
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": quant.effective_group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": kept,
        }
    rules = excluded(kept)
    return {
        "quant_method": "gptq",
        "bits": quant.whole_bits,
        "group_size": quant.effective_group_size,
        "sym": True,
        "desc_act": False,
        "lm_head": "lm_head" not in kept,
        # Stored zero points are one too small, as in the first GPTQ tools.
        "checkpoint_format": "gptq",
        **({"dynamic": rules} if rules else {}),
    }


def settle(source: Path, folder: Path, quantization: dict[str, Any]) -> None:
    """Convert an engine's folder to a checkpoint: its weights, and everything else as in the original.

    Tensors that are not quantized are stored in BF16, whatever they were computed in. Embeddings and lm_head are copied
    from the original: no engine changes them, and some write them in float16, which loses the smallest numbers.

    Args:
        source: the BF16 checkpoint.
        folder: output folder of the engine.
        quantization: the `quantization_config` of config.json.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from pipeline.models.dequantize import Tensors

    original = Tensors(source)
    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        tensors = {name: tensor.contiguous() for name, tensor in load_file(path).items()}
        for name, tensor in tensors.items():
            if name.endswith(".g_idx") and bool((tensor.diff() < 0).any()):
                # vLLM assumes groups of consecutive inputs, and would silently use the wrong scales.
                raise StageError(f"{name}: the groups are not runs of inputs, which vLLM cannot serve.")
            # The formats' own scales are float16, as every loader expects them.
            if name in original and ".layers." not in name:
                tensors[name] = original[name]
            elif tensor.is_floating_point() and not name.endswith(".scales"):
                tensors[name] = tensor.to(torch.bfloat16)
        save_file(tensors, path, metadata={"format": "pt"})
    for path in {path for pattern in COMPANIONS for path in folder.glob(pattern)}:
        path.unlink()
    carry(source, folder)
    copy_companions(source, folder)
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
