"""What the engines share: where their logs go, what is made of their failures, the data that they are shown.

Engines that write a format of their own (`quant_method` awq, gptq) leave it to `settle` to make the folder one of ours.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from pipeline.artifacts.workspace import Draft
from pipeline.config import QuantSettings, Stage
from pipeline.errors import ConfigError, PipelineError, StageError
from pipeline.formats.layouts import AWQ
from pipeline.models.safetensors import COMPANIONS, WEIGHTS, copy_companions

if TYPE_CHECKING:
    import torch

    from pipeline.job import Job


class Engine(Protocol):
    """What each module of this folder is: an engine, imported without its library.

    Attributes:
        TITLE: as people call it, and as its failures name it.
        REQUIRES: distributions that have to be installed beside this project.
        NOTE: what to know before choosing it.
    """

    TITLE: str
    REQUIRES: tuple[str, ...]
    NOTE: str

    def check(self, quant: QuantSettings) -> None:
        """Refuses, before anything is made, what the engine cannot be asked for.

        Raises:
            ConfigError: naming the setting.
        """

    def make(self, job: Job, draft: Draft) -> dict[str, str] | None:
        """Writes `checkpoint/` into the draft's folder; versions, where the engine has an environment of its own."""


class _Log:
    """The log of the engine at work. Handlers keep a stream for good, so this one outlives the files behind it."""

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
    """Sends what a library prints to the draft's `quantize.log`, and makes a StageError of what it throws.

    Raises:
        StageError: naming the library and the copy of its log that is kept.
    """
    log = draft.folder / "quantize.log"
    with log.open("w") as file, contextlib.redirect_stderr(_LOG), contextlib.redirect_stdout(_LOG):
        _LOG.file = file
        _route_loguru()
        try:
            yield
        except PipelineError:
            raise
        # Whatever an engine throws is that variant's failure, not the run's; one of them leaves by exit().
        except (Exception, SystemExit) as error:
            import traceback

            traceback.print_exc(file=file)
            kept = job.workspace.root / "logs" / f"quantize-{job.variant}.log"
            file.flush()
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, kept)
            raise StageError(
                f"{library} could not make {job.variant}: {type(error).__name__}: {error}.", f"Its log is {kept}."
            ) from error
        finally:
            _LOG.file = None


def _route_loguru() -> None:
    """llm-compressor logs by loguru, whose handler is bound to the stream of its import."""
    from loguru import logger

    logger.remove()
    logger.add(_LOG, level="INFO")


def load(job: Job, dtype: torch.dtype | None = None) -> Any:
    """Load the job's BF16 model, ready to be quantized."""
    from pipeline.models.loading import load_model

    trust = job.settings.model.trust_remote_code
    return load_model(job.model.folder, job.hardware, trust_remote_code=trust, dtype=dtype)


def sequences(job: Job) -> list[torch.Tensor]:
    """The token sequences that algorithms are shown, each of shape (1, length), int64: those of the calibration."""
    from pipeline.stages.calibrate.artifact import read_tokens

    return read_tokens(job.artifact(Stage.CALIBRATE).folder)[: job.settings.calibration.algorithm_samples]


def seed(number: int) -> None:
    """Makes what an engine draws at random the same each time."""
    import random

    import numpy
    import torch

    random.seed(number)
    numpy.random.seed(number)  # engines use the global generator
    torch.manual_seed(number)


def linears(model: Any) -> list[str]:
    """The names of a decoder's Linear modules, in order, lm_head included."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def only_lm_head(quant: QuantSettings, says: str, way_out: str) -> None:
    """Refuses to leave other modules than lm_head in BF16, for engines that cannot.

    Args:
        quant: the settings.
        says: why, as the end of the sentence.
        way_out: what to set instead.

    Raises:
        ConfigError: naming the setting.
    """
    if quant.ignore != ("lm_head",):
        raise ConfigError(f"quant.ignore={list(quant.ignore)}: {says}.", way_out)


def accept(quant: QuantSettings) -> None:
    """The check of an engine that makes whatever its schemes can be set to."""


def excluded(kept: list[str]) -> dict[str, dict[str, Any]] | None:
    """The rules by which GPTQ's format leaves modules alone; lm_head is left alone without one."""
    return {f"-:^{re.escape(name)}$": {} for name in kept if name != "lm_head"} or None


def configuration(quant: QuantSettings, kept: list[str]) -> dict[str, Any]:
    """The `quantization_config` of the format that engines write as GPTQ's and AWQ's own tools do.

    Args:
        quant: the settings; the engine's layout decides.
        kept: modules that are left in BF16.
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
        "bits": quant.bits,
        "group_size": quant.effective_group_size,
        "sym": True,
        "desc_act": False,
        "lm_head": "lm_head" not in kept,
        # Stored zero points are one too small, as in the first GPTQ tools.
        "checkpoint_format": "gptq",
        **({"dynamic": rules} if rules else {}),
    }


def settle(source: Path, folder: Path, quantization: dict[str, Any]) -> None:
    """Makes an engine's folder a checkpoint: its weights, and everything else as in the original.

    What was not rounded is stored in BF16, whatever it was computed in. Embeddings and lm_head are the original's: no
    engine touches them, and some have them in float16, which loses the smallest numbers.

    Args:
        source: the BF16 checkpoint.
        folder: what the engine wrote.
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
                # vLLM takes groups as runs of inputs, and would multiply with the wrong scales without a word.
                raise StageError(f"{name}: the groups are not runs of inputs, which vLLM cannot serve.")
            # The formats' own scales are float16, as every loader expects them.
            if name in original and ".layers." not in name:
                tensors[name] = original[name]
            elif tensor.is_floating_point() and not name.endswith(".scales"):
                tensors[name] = tensor.to(torch.bfloat16)
        save_file(tensors, path, metadata={"format": "pt"})
    for path in {path for pattern in COMPANIONS for path in folder.glob(pattern)}:
        path.unlink()
    copy_companions(source, folder)
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
