"""Checkpoints in the format that GPTQ's own tools share (`quant_method: gptq`), made by auto-gptq.

Its last release needs transformers 4, so it runs in its own environment.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.workspace import Draft
from pipeline.config import QuantSettings, Stage
from pipeline.config.file_names import file_name
from pipeline.errors import ConfigError, NotApplicable
from pipeline.models.architecture import read_config
from pipeline.models.safetensors import copy_companions
from pipeline.results.calibration import TOKENS
from pipeline.stages.quantize.engines import base
from pipeline.stages.quantize.isolated import environment

if TYPE_CHECKING:
    from pipeline.job import Job

TITLE = "auto-gptq"
# Nothing in the project's environment: it has its own, created on first use.
REQUIRES: tuple[str, ...] = ()
NOTE = "Python 3.11; its environment is made when it is first asked for"
ENGINE = "autogptq"
WORKER = Path(__file__).parents[1] / "isolated" / "autogptq_worker.py"
# auto-gptq has wheels for no newer Python, and torch can be shared only with the same one.
PYTHON = (3, 11)


def make(job: Job, draft: Draft) -> dict[str, str]:
    """Write `checkpoint/` with INT4 or INT8 weights in symmetric groups, in input order; return package versions."""
    quant = job.settings.quant
    check(quant)
    folder, log = (
        draft.folder / "checkpoint",
        job.workspace.root / "logs" / f"quantize-{file_name(str(job.variant))}.log",
    )
    folder.mkdir()
    request = {
        "model": str(job.model.folder.resolve()),
        "tokens": str((job.artifact(Stage.CALIBRATE).folder / TOKENS).resolve()),
        "samples": job.settings.calibration.algorithm_samples,
        "checkpoint": str(folder.resolve()),
        "device": "cuda:0" if job.hardware.device == "cuda" else "cpu",
        "bits": quant.whole_bits,
        "group_size": quant.effective_group_size,
        "dampening": quant.dampening,
    }
    answer = environment.call(ENGINE, WORKER, request, log, job.progress)
    if "refused" in answer:
        raise NotApplicable(
            f"quant={quant.name} on model={job.settings.model.name}: {answer['refused']}.",
            "Choose quant.engine=gptqmodel, which makes the same format.",
        )
    shutil.copyfile(log, draft.folder / "quantize.log")
    write_config(job.model.folder, folder, quant)
    copy_companions(job.model.folder, folder)
    versions: dict[str, str] = answer["versions"]
    return versions


def check(quant: QuantSettings) -> None:
    """Reject settings that auto-gptq does not support.

    Raises:
        ConfigError: naming the setting.
    """
    if sys.version_info[:2] != PYTHON:
        raise ConfigError(
            f"quant.engine={ENGINE} needs Python 3.11, this is {sys.version_info[0]}.{sys.version_info[1]}.",
            "Install with `make PYTHON3=python3.11 install`, or choose quant.engine=gptqmodel.",
        )
    says = f"{ENGINE} leaves out lm_head and nothing else"
    base.only_lm_head(quant, says, "Choose quant.engine=gptqmodel or llmcompressor.")


def write_config(source: Path, target: Path, quant: QuantSettings) -> None:
    """Write config.json: the original's, with the `quantization_config`."""
    config = read_config(source)
    config["quantization_config"] = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": quant.whole_bits,
        "group_size": quant.effective_group_size,
        "damp_percent": quant.dampening,
        "desc_act": False,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "lm_head": False,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2))
