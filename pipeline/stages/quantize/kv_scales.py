"""Calibrated scales of an FP8 KV cache, added to a finished checkpoint of any weights.

vLLM reads `kv_cache_scheme` and `<attention>.k_scale`, `.v_scale` in the compressed-tensors format (variants that
cannot have them: `serve.support.why_no_kv_scales`). The scales are a separate file, so weights are linked or unchanged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.workspace import Draft
from pipeline.config import Stage
from pipeline.errors import StageError
from pipeline.models.architecture import read_config
from pipeline.models.safetensors import WEIGHTS, safetensors_files, write_index

if TYPE_CHECKING:
    from pipeline.job import Job

FILE = f"kv_scales{WEIGHTS}"
SCHEME = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
METHOD = "compressed-tensors"


def add_scales(job: Job, draft: Draft) -> int:
    """Write the scales of every attention layer, listed in config.json and the index; return their number.

    Raises:
        StageError: if an attention layer was never observed.
    """
    import torch
    from safetensors.torch import save_file

    from pipeline.stages.calibrate.artifact import read_scales

    folder = draft.folder / "checkpoint"
    number = job.settings.kv_cache.dtype
    scales = read_scales(job.artifact(Stage.CALIBRATE).folder, job.settings.calibration, number)
    found = {name: value for name, value in scales.items() if name.endswith((".k", ".v"))}
    if not found or min(found.values()) <= 0:
        raise StageError("Calibration saw no keys and values.", "Set kv_cache.scales=one.")
    tensors = {f"{name}_scale": torch.tensor(value, dtype=torch.float32) for name, value in found.items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    write_index(folder, [*(path.name for path in safetensors_files(folder) if path.name != FILE), FILE])
    _write_config(folder)
    return len(tensors)


def _write_config(folder: Path) -> None:
    path = folder / "config.json"
    config = read_config(folder)
    unquantized = {"quant_method": METHOD, "format": "dense", "config_groups": {}, "ignore": []}
    config["quantization_config"] = {**(config.get("quantization_config") or unquantized), "kv_cache_scheme": SCHEME}
    # The baseline's is a link to the source's.
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(config, indent=2))
