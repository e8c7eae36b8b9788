"""Log-probabilities of the canary's texts from a checkpoint's dequantized weights, computed by transformers.

They hold what rounding weights and activations does to the answers, so that only kernels separate them from those of
the served checkpoint (see `canary`). They are computed in float32, with the inputs of quantized Linears rounded as the
format rounds them. A server rounds to BF16 in between. What that does to a model's answers is a matter of the model: a
trained one may damp it, or have activations so large that a last bit moves others across a step of their format. So it
is measured: the answers are computed again with every module's output rounded to BF16, and the distance of the two is
the noise of a faultless server. One computation is one draw of that noise: of a model of 135 million parameters with
four-bit weights, draws were 0.02 to 0.05 apart. So there are several, by stochastic rounding, which errs twice as much
in squares as rounding to nearest, as a server does that rounds within modules too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipeline.errors import InputError, MissingTensor, PipelineError
from pipeline.hardware.probe import probe
from pipeline.models.activations import activation_scheme, is_known, rounded_inputs
from pipeline.models.dequantize import Tensors, Weights
from pipeline.models.forward import fits
from pipeline.models.headers import by_module, quantization_config
from pipeline.models.loading import load_model, release_memory
from pipeline.models.tokenizer import load_tokenizer
from pipeline.results.verify import CanaryAnswers
from pipeline.stages.verify.outcomes import NotCompared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.hardware.probe import Hardware
    from pipeline.job import Job
    from pipeline.models.headers import SchemeConfig


# Computations with rounding to BF16, whose rms distance is the noise.
DRAWS = 4
# Bits of a float32 behind those of a BF16.
DROPPED_BITS = 16


class Dequantized(NamedTuple):
    """Answers in float32, and draws of those of the same weights with every module's output rounded to BF16."""

    answers: CanaryAnswers
    rounded: tuple[CanaryAnswers, ...]


def reference(job: Job, texts: Sequence[str]) -> Dequantized:
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
    places = (job.hardware, probe("cpu"))
    place = next((each for each in places if fits(job.model.folder, each, torch.float32)), None)
    if place is None:
        raise NotCompared("the model does not fit into the free memory in float32")
    try:
        return _both(job, texts, place)
    except (MissingTensor, InputError) as error:
        raise NotCompared(error.problem) from error
    except (NotCompared, PipelineError):
        raise
    # Whatever transformers fails with is no fault of the checkpoint, which is served by vLLM.
    except Exception as error:
        raise NotCompared(f"transformers does not run it ({type(error).__name__})") from error
    finally:
        release_memory()


def _both(job: Job, texts: Sequence[str], place: Hardware) -> Dequantized:
    trust = job.settings.model.trust_remote_code
    tokenizer = load_tokenizer(job.checkpoint, trust_remote_code=trust)
    model = load_model(job.model.folder, place, trust_remote_code=trust, dtype=torch.float32, linear_experts=True)
    images, stored = Weights(job.checkpoint, place.device), Tensors(job.checkpoint, place.device)
    _set_weights(model, images, stored)
    _round_inputs(job, model, images, stored)
    sequences = [tokenizer(text).input_ids for text in texts]
    answers = _answers(model, sequences)
    generator = torch.Generator(model.device).manual_seed(0)

    def to_bf16(module: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(to_bf16(module, inputs, each) for each in output)
        is_rounded = isinstance(output, torch.Tensor) and output.dtype == torch.float32
        return rounded_stochastically(output, generator) if is_rounded else output

    for module in model.modules():
        if module is not model:
            module.register_forward_hook(to_bf16)
    return Dequantized(answers, tuple(_answers(model, sequences) for _ in range(DRAWS)))


def rounded_stochastically(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return float32 values on a neighbour of BF16 each, the nearer with the greater probability (unbiased)."""
    noise = torch.randint(1 << DROPPED_BITS, values.shape, generator=generator, dtype=torch.int32, device=values.device)
    return (values.contiguous().view(torch.int32) + noise >> DROPPED_BITS << DROPPED_BITS).view(torch.float32)


def _answers(model: Any, sequences: Sequence[list[int]]) -> CanaryAnswers:
    tokens: list[int] = []
    logprobs: list[float] = []
    with torch.inference_mode():
        for sequence in sequences:
            ids = torch.tensor([sequence], device=model.device)
            found = model(ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            tokens += ids[0, 1:].tolist()
            logprobs += found.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return CanaryAnswers(tokens=tuple(tokens), logprobs=tuple(logprobs))


def _round_inputs(job: Job, model: Any, images: Weights, stored: Tensors) -> None:
    """Let the quantized Linears round their inputs as the format does, where that is known."""
    config, modules = by_module(quantization_config(job.checkpoint)), dict(model.named_modules())
    for name in images.modules:
        scheme = activation_scheme(config(name))
        if scheme is None or not is_known(scheme):
            continue
        scale = stored[f"{name}.input_scale"].float() if f"{name}.input_scale" in stored else None

        def rounded(
            _: Any, inputs: tuple[torch.Tensor], scheme: SchemeConfig = scheme, scale: torch.Tensor | None = scale
        ) -> tuple[torch.Tensor]:
            flat = inputs[0].reshape(-1, inputs[0].shape[-1])
            return (rounded_inputs(flat, scheme, scale).view_as(inputs[0]),)

        modules[name].register_forward_pre_hook(rounded)


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
