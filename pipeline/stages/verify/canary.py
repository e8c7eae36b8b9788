"""Log-probabilities of a few fixed texts: the served checkpoint against the BF16 model served alike.

Weights can be right and answers wrong: a kernel that reads another order, a scale that the loader drops, a config that
turns positions otherwise. So the log-probability of each token of the texts is requested, and the distance

    d = rms(l - l_BF16) / std(l_BF16)

is compared with a limit for the format. Let e be the relative error of a product in that format, with independent
errors in every layer. A branch of a decoder layer (attention, MLP) is about three products deep, so that its output is
off by sqrt(3) e of its length, and by what its input is off. With u the squared relative error of the residual stream
and H its squared length, each branch adds dH of its own: d(u H) = (u + 3 e^2) dH, so u = 3 e^2 (1 + ln(H / H_0)), and
H / H_0 = 2 L + 1 after L layers whose branches are as long as the embedding. A logit is off by sqrt(u) of the logits'
spread, and a log-probability, a logit less their mean under the softmax, by at most sqrt(2) of that:

    d <= sqrt(6 (1 + ln(2 L + 1))) e

Errors of weights, activations, keys and values, and of BF16 itself add up in squares. That of weights is the format's
own, of rounding to nearest: data-aware rounding errs more in weights and less in answers, and a wrong weight must not
raise its own bound. Queries, which some kernels round with an FP8 cache, are left out: they add little.
Trained models damp what is added (the demo model stays below half of the bound in every format); random weights do
not, and are at 0.6 to 1.2 of it from 4 to 28 layers and at 2.1 with 36, so they have a margin. Unrelated answers are
at 1 to 1.4.
Four bits in 36 layers of random weights are there, too (1.08 was seen), and FP8 is halfway (.54): where these explain
as much as the cap, the check is inconclusive.

What rounding does to answers, transformers computes from the dequantized checkpoint (`dequantized`), where the model
fits into memory. The distance of the served answers from those is the kernels' alone: a kernel that reads another
order or drops a scale is seen in four bits as well as in eight. Its bound has no error of weights. But a server rounds
a branch to BF16 about eight times (norm, products, rotation, softmax, gate, residual) where the formula counts its
three products; and the image of a weight is rounded, and its scale, so that e^2 is (8 / 3 + 2) times BF16's. What
rounding to BF16 was measured to do to this model's answers may be more: with a few huge activations in eight bits, a
model of 135 million parameters moves by 0.24, and its server by 0.29, where the formula has 0.20.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.artifacts.keys import key_of
from pipeline.artifacts.workspace import Artifact
from pipeline.config import KVCacheSettings, Settings
from pipeline.errors import PipelineError, ServerError
from pipeline.formats.elements import ELEMENTS
from pipeline.formats.schemes import SCHEMES
from pipeline.results.verify import CanaryAnswers, ReferenceResult

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.serve.server import Server

# Prose, Chinese, arithmetic and code: no format should degrade only one of them.
TEXTS = (
    "The river rises in the mountains, crosses a wide plain with small towns on both banks, and reaches the sea after "
    "nine hundred kilometres. In spring, when the snow melts, it carries three times as much water as in autumn.",
    "图书馆每天早上九点开门，晚上八点关门。读者可以借五本书，借期是三十天；如果还没有看完，可以再续借一次。",
    "A train leaves at 8:15 and arrives at 10:45. It stops for 10 minutes on the way. How long does it move? From 8:15 "
    "to 10:45 are 150 minutes. 150 - 10 = 140. The answer is 140 minutes.",
    "def count_words(text):\n    counts = {}\n    for word in text.split():\n"
    "        counts[word] = counts.get(word, 0) + 1\n    return counts\n",
)
# Largest magnitude over rms of the values that share an INT8 scale: 4 for Gaussian noise, tens with outlier channels.
CREST = 32
# Upper cap of the permitted distance, and the margin factor of the bound.
CAP = 0.7
MARGIN = {"trained": 1.0, "random": 3.0}
# Squared roundings to BF16 of a product by a server, in units of one: see above.
OTHER_CODE = 8 / 3 + 2
# A server's distance, as a multiple of the rms of computations that round to BF16.
OF_NOISE = 2.0
SHARED_STAGE = "reference"
# Reason why the BF16 model could not be served, by the reference's key: it is tried once per run.
_unserved: dict[str, str] = {}


def relative_rounding(number: str) -> float:
    """Return the rms relative error of rounding to numbers of one kind, a key of `ELEMENTS`.

    With m bits of mantissa, rounding to nearest errs by at most 2^-(m+1), and by 1 / sqrt(3) of that as rms; integers
    have a scale for values of which one is an outlier.
    """
    element = ELEMENTS[number]
    if element.mantissa is None:
        return CREST / (element.largest * math.sqrt(12))
    return 2.0 ** -(element.mantissa + 1) / math.sqrt(3)


def allowed(settings: Settings, layers: int, weight_errors: Sequence[float], reference: Sequence[float]) -> float:
    """Return the largest distance from BF16 that a variant's formats explain.

    Args:
        settings: settings of the variant.
        layers: decoder layers of the model.
        weight_errors: relative error of each quantized weight rounded to nearest, whatever is in the checkpoint: a
            wrong one must not raise its own bound; empty if weights are unchanged.
        reference: BF16's log-probabilities.
    """
    errors = [math.sqrt(2) * relative_rounding("bf16")]
    if weight_errors:
        errors.append(math.sqrt(sum(error**2 for error in weight_errors) / len(weight_errors)))
    return _bound(settings, layers, errors, reference)


def allowed_of_kernels(
    settings: Settings, layers: int, reference: Sequence[float], rounded: Sequence[Sequence[float]]
) -> float:
    """Return the largest distance from the dequantized weights' answers that kernels and activations explain.

    Args:
        settings: settings of the variant.
        layers: decoder layers of the model.
        reference: log-probabilities of the dequantized weights, by transformers.
        rounded: the same, with every module's output rounded to BF16, in several draws.
    """
    by_formula = _bound(settings, layers, [math.sqrt(OTHER_CODE) * relative_rounding("bf16")], reference)
    noise = math.sqrt(statistics.fmean(distance(reference, each) ** 2 for each in rounded))
    return max(by_formula, min(CAP, OF_NOISE * noise))


def _bound(settings: Settings, layers: int, errors: list[float], reference: Sequence[float]) -> float:
    """Return the bound for these relative errors of a product, and those of activations and of the KV cache."""
    # Of a mix, the coarsest of its formats bounds them all.
    numbers = {SCHEMES[scheme].activations for scheme in settings.quant.schemes} - {"bf16"}
    errors += [max(map(relative_rounding, numbers))] if numbers else []
    if settings.kv_cache.dtype != "auto":
        errors.append(relative_rounding(settings.kv_cache.dtype))
    product = math.sqrt(sum(error**2 for error in errors))
    # Both servers round logits to BF16; these are about as large as the smallest log-probability.
    logits = math.sqrt(2) * relative_rounding("bf16") * max(map(abs, reference)) / spread(reference)
    bound = math.hypot(math.sqrt(6 * (1 + math.log(2 * layers + 1))) * product, logits)
    return min(CAP, MARGIN[settings.model.weights] * bound)


def distance(reference: Sequence[float], seen: Sequence[float]) -> float:
    """Return the rms difference of two texts' log-probabilities, in standard deviations of the reference's."""
    squares = [(one - other) ** 2 for one, other in zip(reference, seen, strict=True)]
    found = math.sqrt(sum(squares) / len(squares)) / spread(reference)
    return found if math.isfinite(found) else math.inf


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation, never 0."""
    mean = sum(values) / len(values)
    return max(math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)), 1e-6)


def ask(server: Server) -> CanaryAnswers:
    """Request the texts' tokens and their log-probabilities."""
    found = [pair for text in server.prompt_logprobs(list(TEXTS)) for pair in text]
    return CanaryAnswers(tokens=tuple(token for token, _ in found), logprobs=tuple(value for _, value in found))


def reference(job: Job) -> CanaryAnswers:
    """Return BF16's answers, stored for all variants of the model; serve the model if they are missing.

    Raises:
        ServerError: if the BF16 model cannot be served here, such as for lack of memory.
    """
    artifact = _artifact(job)
    if job.workspace.why(artifact) is not None:
        if artifact.key in _unserved:
            raise ServerError(_unserved[artifact.key])
        try:
            with job.workspace.claim(artifact) as why:
                if why is not None:
                    _make_reference(job, artifact)
        except PipelineError as error:
            _unserved[artifact.key] = error.problem
            raise
    return CanaryAnswers.model_validate_json((artifact.folder / "canary.json").read_text())


def _make_reference(job: Job, artifact: Artifact) -> None:
    from pipeline.artifacts import provenance

    job.progress.detail("log-probabilities of the BF16 model")
    context = provenance.context(job.settings, job.hardware, job.overrides)
    with job.workspace.making(artifact, context) as draft:
        server = job.server() if job.settings.is_baseline else _baseline_server(job)
        (draft.folder / "canary.json").write_text(json.dumps(ask(server).model_dump()))
        draft.results = ReferenceResult(server=server.facts())


def _artifact(job: Job) -> Artifact:
    """Return the artifact of a model, a vLLM and a precision, whatever the server's other settings."""
    serving = job.serving.identity(job.settings)
    payload = {
        "model": job.model.identity(),
        "vllm": serving["vllm"],
        "dtype": job.settings.serve.dtype,
        "texts": key_of({"texts": TEXTS}),
    }
    return job.workspace.artifact(SHARED_STAGE, job.settings.model.name, None, payload)


def _baseline_server(job: Job) -> Server:
    serve = job.settings.serve.model_copy(update={"kernel": "auto"})
    settings = job.settings.model_copy(update={"kv_cache": KVCacheSettings(name="auto", dtype="auto"), "serve": serve})
    return job.serving.serve(job.model.folder, settings, "bf16-reference")
