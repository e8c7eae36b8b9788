"""The checks: files, sizes, layers, scales, weights against BF16's; then loaded in vLLM, canaries against BF16's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.keys import sha256_of
from pipeline.artifacts.workspace import Draft
from pipeline.config import QuantSettings, Settings
from pipeline.errors import InputError, PipelineError, ServerError, StageError, UnknownFormat
from pipeline.formats import unpack_gguf
from pipeline.formats.layouts import Scales, layout_of, possible
from pipeline.models import headers as disk
from pipeline.models import tokens
from pipeline.models.architecture import read_config, text_config
from pipeline.models.existing import as_stored
from pipeline.models.layout import fields
from pipeline.models.mix import FILE
from pipeline.models.modules import Linear, decoder_linears, matched
from pipeline.models.safetensors import TensorInfo, check_safetensors, companions
from pipeline.results.server import ServerFacts
from pipeline.results.verify import (
    CHECKS,
    CanaryAnswer,
    CanaryAnswers,
    CanaryDistance,
    Check,
    VerifyResult,
    WeightError,
)
from pipeline.stages.verify import activation_scales, canary, file_sizes
from pipeline.stages.verify.inputs import of_texts
from pipeline.stages.verify.outcomes import Broken, Failed, NotCompared
from pipeline.stages.verify.weights import changed, compare, nearest_errors

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.stages.verify.dequantized import Dequantized

CANARIES = (
    "The capital of France is",
    "Question: What is 7 plus 5?\nAnswer:",
    "def add(a, b):\n",
)
CANARY_TOKENS = 16
# Findings that are no results.
KEPT = ("dequantized", "reference")
SIZE_TOLERANCE = 0.01
# Fields of config.json that an engine may write anew.
UNRELATED = {"_name_or_path", "dtype", "quantization_config", "torch_dtype", "transformers_version", "use_cache"}
# Beside those of the layout: scales of the KV cache and of inputs.
OTHER_SCALES: Mapping[str, Scales] = dict.fromkeys((".q_scale", ".k_scale", ".v_scale", ".input_scale"), "positive")


@dataclass
class Findings:
    """Findings of the checks so far, by the names of `VerifyResult`; None if not reached."""

    checks: list[Check] = field(default_factory=list)
    predicted_bytes: int | None = None
    weight_errors: list[WeightError] | None = None
    canary: list[CanaryAnswer] | None = None
    canary_logprobs: CanaryDistance | None = None
    canary_kernels: CanaryDistance | None = None
    server: ServerFacts | None = None
    # Answers of the dequantized weights; None if they were not computed. BF16's; None if it was not served.
    dequantized: Dequantized | None = None
    reference: CanaryAnswers | None = None


def verify(job: Job, draft: Draft) -> None:
    """Run the checks in order and stop at the first that fails; what cannot be served is judged by its files alone.

    What others quantized is measured though a check fails, unless there is nothing to measure: people choose among such
    checkpoints, and the report says what is wrong with theirs.

    Raises:
        StageError: naming the check, with the observation.
    """
    folder, source = job.checkpoint, job.model.folder
    size, baseline = disk.weight_bytes(folder), disk.weight_bytes(source)
    layers = len(disk.quantized_modules(folder))
    found = Findings()
    try:
        _run(job, found)
        if not job.unserved:
            found.server = job.server().facts()
    finally:
        draft.results = VerifyResult(
            bytes=size,
            baseline_bytes=baseline,
            quantized_layers=layers,
            size_ratio=size / baseline,
            **{name: value for name, value in vars(found).items() if value is not None and name not in KEPT},
        )


def _run(job: Job, found: Findings) -> None:
    folder, source = job.checkpoint, job.model.folder
    is_existing = job.settings.quant.is_existing
    checks: dict[str, Callable[[], str]] = {
        "files": lambda: files(folder, source, is_theirs=is_existing),
        "layers": lambda: layers(folder, source, job),
        "size": lambda: size(folder, source, job, found),
        "scales": lambda: scales(folder),
        "activation scales": lambda: activation_scales.check(job),
        "untouched": lambda: untouched(folder, source, job),
        "weights": lambda: weights(job, found),
        "dequantized reference": lambda: _dequantized(job, found),
        "BF16 reference": lambda: _reference(job, found),
        "loads in vLLM": lambda: _loads(job),
        "canary prompts": lambda: _canaries(job, found),
        "canary log-probabilities": lambda: log_probabilities(job, found, canary.ask(job.server())),
    }
    for name in CHECKS:
        job.progress.detail(name)
        goes_on = is_existing
        try:
            if job.unserved and name not in OF_FILES:
                raise NotCompared(f"not served here: {job.unserved}")
            outcome = Check(name=name, ok=True, detail=checks[name]())
        except UnknownFormat as error:
            outcome = Check(name=name, ok=None, detail=f"not known here: {error.problem}")
        except NotCompared as reason:
            outcome = Check(name=name, ok=None, detail=str(reason))
        except Failed as seen:
            goes_on = is_existing and not isinstance(seen, Broken)
            outcome = Check(name=name, ok=False, detail=str(seen))
        except InputError as error:
            # A file that cannot be read is the checkpoint's fault; what the server refuses is the user's setting.
            if name not in OF_FILES:
                raise
            outcome = Check(name=name, ok=False, detail=error.problem)
        found.checks.append(outcome)
        if outcome.ok is False and not goes_on:
            remedy = _THEIR_REMEDY if is_existing else _REMEDY
            raise StageError(f"{job.variant} did not pass the gate: {name}: {outcome.detail}.", remedy)


# The checks that need no server.
OF_FILES = CHECKS[: CHECKS.index("dequantized reference")]
_THEIR_REMEDY = "Others made this checkpoint: fetch it again, or tell them."
_REMEDY = "Its checkpoint is kept for a look; make it again with another engine, algorithm or calibration."


def files(folder: Path, source: Path, *, is_theirs: bool = False) -> str:
    """Check that weight files are complete, and tokenizer, generation config and shape those of the BF16 checkpoint."""
    weights = disk.weight_files(folder)
    if not weights or not (folder / "config.json").is_file():
        raise Broken("config.json or the weights are missing")
    for path in weights:
        try:
            (unpack_gguf.check if path.suffix == ".gguf" else check_safetensors)(path)
        except PipelineError as error:
            raise Broken(error.problem) from None
    changed = [
        path.name
        for path in companions(source)
        if not (folder / path.name).is_file() or sha256_of(folder / path.name) != sha256_of(path)
    ]
    other = _other_fields(read_config(folder), read_config(source))
    if is_theirs:
        return _their_files(folder, source, changed, other)
    if changed:
        raise Failed(f"not as in the BF16 checkpoint: {', '.join(sorted(changed))}")
    if other:
        raise Failed(f"config.json is another model's: {', '.join(other)}")
    return f"{len(weights)} weight file(s), tokenizer unchanged"


def _their_files(folder: Path, source: Path, changed: list[str], fields: list[str]) -> str:
    """Judge files that others may have written anew: their tokens are compared before, the rest is told."""
    said = "the tokens are BF16's" if tokens.is_compared(folder, source) else "no tokenizer.json to compare"
    if fields:
        raise Failed(f"config.json says {', '.join(fields)}; {said}")
    if changed:
        raise NotCompared(f"{said}; written anew: {', '.join(sorted(changed))}")
    return f"{said}, and all other files"


def _other_fields(config: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    """Return the fields that both configs have a number, text or truth value for, and not the same."""
    found = []
    for name in sorted(config.keys() & source.keys() - UNRELATED):
        own, original = config[name], source[name]
        if isinstance(own, Mapping) and isinstance(original, Mapping):
            found += [f"{name}.{inner}" for inner in _other_fields(own, original)]
        elif own != original and isinstance(own, str | float | int) and isinstance(original, str | float | int):
            found.append(f"{name}={own}, not {original}")
    return found


def size(folder: Path, source: Path, job: Job, found: Findings) -> str:
    """Check that the weight files have the size predicted from the scheme and the shapes, to 1 %."""
    expected = file_sizes.predicted(
        source,
        as_stored(job.settings.quant, folder, source),
        job.settings.kv_cache.needs_data,
        in_float32=not job.hardware.has_native_bf16,
    )
    found.predicted_bytes = promised = sum(expected.values())
    seen = disk.weight_bytes(folder)
    said = f"{seen:,} bytes, {promised:,} predicted ({seen / promised - 1:+.2%})"
    if abs(seen / promised - 1) > SIZE_TOLERANCE:
        other = file_sizes.differences(expected, folder)
        raise Failed(f"{said}; {other[0] if other else 'beside the tensors'}")
    return said


def layers(folder: Path, source: Path, job: Job) -> str:
    """Check that every Linear of the decoder is quantized or ignored, and nothing else is quantized."""
    found, quant = disk.headers(folder), as_stored(job.settings.quant, folder, source)
    linears = decoder_linears(disk.stored_tensors(source), read_config(source))
    quantized = disk.quantized_modules(folder)
    if quant.is_existing and not quantized:
        raise NotCompared(f"how {quant.title} stores quantized layers is not known")
    ignored = set(linears) if quant.engine == "none" else set(matched(linears, quant.ignore))
    expected = set(linears) - ignored
    if missing := expected - quantized:
        raise Failed(f"{len(missing)} layers were not quantized, {sorted(missing)[0]} first")
    # llama.cpp's mixtures quantize the embeddings and the output layer as well.
    beyond = {"model.embed_tokens", "lm_head"} if disk.gguf_file(folder) else set()
    if extra := quantized - expected - beyond:
        raise Failed(f"{len(extra)} layers should not be quantized, {sorted(extra)[0]} first")
    if unlisted := quantized & set(disk.ignored(disk.quantization_config(folder))):
        raise Failed(f"config.json says that {sorted(unlisted)[0]} is not quantized, and it is")
    unrounded = ("BF16", "F16", "F32")
    wide = [name for name in sorted(quantized) if (own := found.get(f"{name}.weight")) and own["dtype"] in unrounded]
    if wide:
        raise Failed(f"{wide[0]} has a scale, and its weight is still {found[wide[0] + '.weight']['dtype']}")
    if quant.is_mixed and (other := _in_other_formats(found, linears, expected, quant)):
        raise Failed(f"{len(other)} layers are not stored in the format of {FILE}, {other[0]} first")
    others = "quantized too" if quantized & beyond else "left alone"
    return f"{len(quantized - beyond)} of {len(linears)} decoder Linears quantized, lm_head and embeddings {others}"


def _in_other_formats(
    found: Mapping[str, TensorInfo], linears: Mapping[str, Linear], modules: set[str], quant: QuantSettings
) -> list[str]:
    """Return the modules whose weight does not have the type and shape of its format in a mix."""
    wrong = []
    for module in sorted(modules):
        own, (kind, shape) = next(iter(fields(linears[module].shape, quant.of(module)).items()))
        seen = found.get(f"{module}.{own}")
        if seen is None or (seen["dtype"], tuple(seen["shape"])) != (kind, shape):
            wrong.append(module)
    return wrong


def untouched(folder: Path, source: Path, job: Job) -> str:
    """Check that norms, embeddings and all else that the scheme does not quantize are BF16's."""
    quant = job.settings.quant
    if quant.is_existing and not disk.quantized_modules(folder):
        raise NotCompared(f"which tensors {quant.title} quantizes is not known")
    if other := changed(folder, source, quant):
        raise Failed(f"{len(other)} tensors are not BF16's though nothing rounds them, {other[0]} first")
    return "what no scheme rounds is BF16's, bit for bit"


def weights(job: Job, found: Findings) -> str:
    """Check that every weight is as close to BF16's as its format allows (see `rounding`)."""
    quant = job.settings.quant
    if quant.engine == "none":
        return "as they were"
    found.weight_errors = errors = compare(
        job.checkpoint, job.model.folder, quant, partial(of_texts, job, canary.TEXTS)
    )
    worst = max(errors, key=lambda each: each.excess, default=None)
    if worst is None:
        raise Failed("no quantized weight could be compared")
    said = (
        f"{worst.module} is {worst.error:.4f} of its norm away, {worst.allowed:.4f} would be explained; "
        f"its groups' factors {worst.factor_error:.4f} from 1, {worst.allowed_factor_error:.4f} would be"
    )
    part = max(worst.parts, key=lambda each: each.excess, default=None)
    if part is not None:
        said += f"; its {part.place} {part.error:.4f} away, {part.allowed:.4f} would be"
    if worst.excess > 1:
        raise Failed(said)
    return f"{len(errors)} compared with BF16; worst: {said}"


def _explained(job: Job, found: Findings) -> list[float]:
    """Return each quantized weight's error of rounding to nearest, which no error of the checkpoint's own can raise.

    Raises:
        NotCompared: if rounding in the format is not known.
    """
    quant = _as_stored(job).quant
    if quant.engine == "none":
        return []
    if found.weight_errors is not None:
        return [each.nearest for each in found.weight_errors if each.nearest is not None]
    try:
        return nearest_errors(job.model.folder, disk.quantized_modules(job.checkpoint), quant)
    except UnknownFormat as error:
        raise NotCompared(f"not known here: {error.problem}") from None


def log_probabilities(job: Job, found: Findings, answers: CanaryAnswers) -> str:
    """Check that log-probabilities of fixed texts are as close to BF16's as the formats allow (see `canary`).

    And as close to those of the dequantized weights as kernels and activations allow, where these are known.
    """
    layers = int(text_config(job.model.config)["num_hidden_layers"])
    beside_weights = _beside_weights(job, found, answers, layers)
    reference = found.reference
    if reference is None:
        return beside_weights or _not_compared("the BF16 model was not served")
    if answers.tokens != reference.tokens:
        raise Failed("the server cuts the texts into other tokens than BF16's")
    seen = canary.distance(reference.logprobs, answers.logprobs)
    try:
        explained = _explained(job, found)
    except NotCompared as reason:
        raise NotCompared(f"{seen:.4f} of their spread away from BF16's; {reason}") from None
    limit = canary.allowed(_as_stored(job), layers, explained, reference.logprobs)
    found.canary_logprobs = CanaryDistance(distance=seen, allowed=limit, tokens=len(answers.tokens))
    said = f"{seen:.4f} of their spread away from BF16's, {limit:.4f} would be explained"
    if job.settings.model.weights == "random" and limit >= canary.CAP and math.isfinite(seen):
        said += ", and random weights this deep in so few bits answer like another model's"
        return f"{beside_weights}; {said}" if beside_weights else _not_compared(said)
    if not seen <= limit:
        # Weights within their bounds, served as they are: the rest is what the format does to this model.
        if not (beside_weights and found.weight_errors and math.isfinite(seen)):
            raise Failed(said)
        said += ", and is what its rounded weights answer"
    return "; ".join(filter(None, (f"{len(answers.tokens)} tokens", said, beside_weights)))


def _as_stored(job: Job) -> Settings:
    """Return the settings of a variant with its formats as its checkpoint has them."""
    quant = as_stored(job.settings.quant, job.checkpoint, job.model.folder)
    return job.settings.model_copy(update={"quant": quant})


def _not_compared(reason: str) -> str:
    raise NotCompared(reason)


def _beside_weights(job: Job, found: Findings, answers: CanaryAnswers, layers: int) -> str:
    """Compare the served answers with those of the dequantized weights; empty if these are not known."""
    if found.dequantized is None or answers.tokens != found.dequantized.answers.tokens:
        return ""
    reference, rounded = found.dequantized
    draws = [each.logprobs for each in rounded]
    limit = canary.allowed_of_kernels(_as_stored(job), layers, reference.logprobs, draws)
    seen = canary.distance(reference.logprobs, answers.logprobs)
    found.canary_kernels = CanaryDistance(distance=seen, allowed=limit, tokens=len(answers.tokens))
    said = f"{seen:.4f} away from those of the dequantized weights, {limit:.4f} would be explained by kernels"
    if not seen <= limit:
        raise Failed(said)
    return said


def scales(folder: Path) -> str:
    """Check that every scale is finite, and of a sign that its format permits."""
    count = 0
    if path := disk.gguf_file(folder):
        for name, weight in unpack_gguf.weights(path):
            if not bool(weight.isfinite().all()):
                raise Failed(f"{name} holds a value that is not finite")
            count += weight.numel()
        return f"{count:,} weights of blocks with scales in them finite"
    kinds = _scales(folder)
    for name, tensor in _tensors(folder, kinds.__contains__):
        kind = kinds[name]
        if not bool(possible(kind, tensor).all()):
            raise Failed(f"{name} holds a value that no scale can have")
        count += tensor.numel()
    return f"{count:,} scales finite and in range"


def _scales(folder: Path) -> Mapping[str, Scales]:
    """Return the permitted values of a checkpoint's scales, by their names."""
    config, names = disk.by_module(disk.quantization_config(folder)), disk.headers(folder)
    found = {name: kind for name in names for end, kind in OTHER_SCALES.items() if name.endswith(end)}
    for module in disk.quantized_modules(folder):
        stored = layout_of(disk.layout_name(config(module))).scales
        found |= {name: kind for own, kind in stored.items() if (name := f"{module}.{own}") in names}
    return found


def _tensors(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    for path in disk.weight_files(folder):
        with safe_open(path, framework="pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys() if wanted(name))  # noqa: SIM118


def _dequantized(job: Job, found: Findings) -> str:
    from pipeline.stages.verify import dequantized

    found.dequantized = dequantized.reference(job, canary.TEXTS)
    return "log-probabilities of the canary's texts by transformers"


def _reference(job: Job, found: Findings) -> str:
    """Store the BF16 reference; if this machine cannot serve the model, the variant does not fail."""
    try:
        found.reference = canary.reference(job)
    except ServerError as error:
        if job.settings.is_baseline:
            raise
        raise NotCompared(f"the BF16 model could not be served: {error.problem.splitlines()[0]}") from None
    return "log-probabilities of the same texts"


def _loads(job: Job) -> str:
    server = job.server()
    return f"ready after {server.ready_s:.1f} s"


def _canaries(job: Job, found: Findings) -> str:
    answers = job.server().complete(list(CANARIES), CANARY_TOKENS)
    found.canary = [
        CanaryAnswer(prompt=prompt, answer=answer) for prompt, answer in zip(CANARIES, answers, strict=True)
    ]
    # Broken kernels answer `!!!!`, token 0 repeatedly, or nothing visible.
    if all(len(set(answer.strip())) <= 1 for answer in answers):
        raise Broken(f"no answer holds more than one character: {answers[0]!r}")
    return f"{len(answers)} prompts answered"
