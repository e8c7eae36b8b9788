"""Log-probabilities of the canary's texts from a checkpoint's dequantized weights, computed by transformers.

They hold what rounding the weights does to the answers, so that only kernels and the rounding of activations separate
them from those of the served checkpoint (see `canary`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import InputError, MissingTensor, PipelineError
from pipeline.models.dequantize import Tensors, Weights
from pipeline.models.forward import fits
from pipeline.models.loading import load_model, release_memory
from pipeline.models.tokenizer import load_tokenizer
from pipeline.results.verify import CanaryAnswers
from pipeline.stages.verify.outcomes import NotCompared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.job import Job


def reference(job: Job, texts: Sequence[str]) -> CanaryAnswers:
    """Return the tokens of the texts and their log-probabilities.

    Raises:
        NotCompared: if the weights are BF16's, or the model cannot be run here.
        UnknownFormat: if the format cannot be decoded.
    """
    if job.settings.quant.scheme is None:
        raise NotCompared("the weights are BF16's")
    if job.hardware.device == "cuda":
        # Of the variant before; this one's is started next.
        job.serving.stop()
        release_memory()
    if not fits(job.model.folder, job.hardware):
        raise NotCompared("the model does not fit into the free memory beside the server")
    try:
        return _answers(job, texts)
    except (MissingTensor, InputError) as error:
        raise NotCompared(error.problem) from error
    except (NotCompared, PipelineError):
        raise
    # Whatever transformers fails with is no fault of the checkpoint, which is served by vLLM.
    except Exception as error:
        raise NotCompared(f"transformers does not run it ({type(error).__name__})") from error
    finally:
        release_memory()


def _answers(job: Job, texts: Sequence[str]) -> CanaryAnswers:
    trust = job.settings.model.trust_remote_code
    tokenizer = load_tokenizer(job.checkpoint, trust_remote_code=trust)
    model = load_model(job.model.folder, job.hardware, trust_remote_code=trust, linear_experts=True)
    _set_weights(model, Weights(job.checkpoint, job.hardware.device), Tensors(job.checkpoint, job.hardware.device))
    tokens: list[int] = []
    logprobs: list[float] = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer(text).input_ids], device=job.hardware.device)
            found = model(ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            tokens += ids[0, 1:].tolist()
            logprobs += found.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return CanaryAnswers(tokens=tuple(tokens), logprobs=tuple(logprobs))


def _set_weights(model: Any, images: Weights, stored: Tensors) -> None:
    """Replace the BF16 weights by the dequantized ones, and by what an algorithm rescaled beside them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if unknown := [module for module in images.modules if f"{module}.weight" not in parameters]:
        raise NotCompared(f"transformers has no {unknown[0]}")
    quantized = {f"{module}.weight" for module in images.modules}
    with torch.no_grad():
        for module in images.modules:
            parameters[f"{module}.weight"].copy_(images[module])
        for name in stored.files:
            if name in parameters and name not in quantized:
                parameters[name].copy_(stored[name])
