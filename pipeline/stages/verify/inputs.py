"""Inputs of Linears in the BF16 model, for texts: what errors of weights are weighed by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import torch

    from pipeline.job import Job


def of_texts(job: Job, texts: Sequence[str], modules: set[str]) -> Mapping[str, torch.Tensor]:
    """Return the inputs of modules at every token, float32, (tokens, in); none where the model cannot be run.

    Args:
        job: of a variant.
        texts: read from their first token on, at which a few activations are huge.
        modules: names of Linears.
    """
    import torch

    from pipeline.models.layer_inputs import inputs_at
    from pipeline.models.loading import release_memory
    from pipeline.models.tokenizer import load_tokenizer

    job.progress.detail("inputs of layers whose weights moved far")
    try:
        tokenizer = load_tokenizer(job.model.folder, trust_remote_code=job.settings.model.trust_remote_code)
        sequences = [list(tokenizer(text).input_ids) for text in texts]
        chosen = [torch.arange(len(sequence)) for sequence in sequences]
        layerwise = job.settings.calibration.layerwise
        found = inputs_at(chosen, sequences, modules, job.model, job.hardware, layerwise, job.progress.detail)
    except (PipelineError, RuntimeError):
        return {}
    finally:
        release_memory()
    return {name: torch.cat(parts) for name, parts in found.items()}
