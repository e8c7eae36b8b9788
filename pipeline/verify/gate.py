"""The checks: files, sizes, every layer accounted for, sane scales, loads in vLLM, answers canary prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError, StageError
from pipeline.models import check_safetensors, companions
from pipeline.quantize import checkpoint as disk
from pipeline.quantize import packing_gguf
from pipeline.verify.weights import RESCALING, compare
from pipeline.workspace import Draft, sha256_of

if TYPE_CHECKING:
    from pipeline.job import Job

CANARIES = (
    "The capital of France is",
    "Question: What is 7 plus 5?\nAnswer:",
    "def add(a, b):\n",
)
CANARY_TOKENS = 16


class Failed(Exception):
    """A check that did not hold, with what was seen."""


def verify(job: Job, draft: Draft) -> None:
    """Runs the checks in order; cheap ones first, so that a broken checkpoint is not served."""
    folder, source = job.checkpoint, job.model.folder
    draft.results = {
        "checks": [],
        "bytes": disk.weight_bytes(folder),
        "baseline_bytes": disk.weight_bytes(source),
        "quantized_layers": len(disk.quantized_modules(folder)),
    }
    draft.results["size_ratio"] = draft.results["bytes"] / draft.results["baseline_bytes"]
    checks: dict[str, Callable[[], str]] = {
        "files": lambda: files(folder, source),
        "size": lambda: size(job, draft.results["size_ratio"]),
        "layers": lambda: layers(folder, source, job),
        "scales": lambda: scales(folder),
        "weights": lambda: weights(job, draft.results),
        "loads in vLLM": lambda: _loads(job),
        "canary prompts": lambda: _canaries(job, draft.results),
    }
    for name, check in checks.items():
        job.progress.detail(name)
        try:
            outcome = {"name": name, "ok": True, "detail": check()}
        except Failed as seen:
            outcome = {"name": name, "ok": False, "detail": str(seen)}
        draft.results["checks"].append(outcome)
        if not outcome["ok"]:
            raise StageError(f"{job.variant} did not pass the gate: {name}: {outcome['detail']}.", _REMEDY)
    draft.results["server"] = job.server().facts()


_REMEDY = "Its checkpoint is kept for a look; make it again with another engine, algorithm or calibration."


def files(folder: Path, source: Path) -> str:
    """Weights whole, tokenizer and generation config as in the BF16 checkpoint."""
    weights = disk.weight_files(folder)
    if not weights or not (folder / "config.json").is_file():
        raise Failed("config.json or the weights are missing")
    for path in weights:
        try:
            (packing_gguf.check if path.suffix == ".gguf" else check_safetensors)(path)
        except PipelineError as error:
            raise Failed(error.problem) from None
    changed = [
        path.name
        for path in companions(source)
        if not (folder / path.name).is_file() or sha256_of(folder / path.name) != sha256_of(path)
    ]
    if changed:
        raise Failed(f"not as in the BF16 checkpoint: {', '.join(sorted(changed))}")
    return f"{len(weights)} weight file(s), tokenizer unchanged"


def size(job: Job, ratio: float) -> str:
    """A quantized checkpoint is smaller than BF16; the baseline is exactly as large."""
    quantized = job.settings.quant.scheme is not None
    if quantized and not ratio < 0.95:
        raise Failed(f"{ratio:.3f} of the BF16 size")
    return f"{ratio:.3f} of the BF16 size"


def layers(folder: Path, source: Path, job: Job) -> str:
    """Every Linear of the decoder is quantized or on the ignore list, and nothing else is quantized."""
    found = disk.headers(folder)
    linears = {
        name.removesuffix(".weight")
        for name in disk.headers(source)
        if name.endswith("_proj.weight") and ".layers." in name
    }
    quantized = disk.quantized_modules(folder)
    if job.settings.quant.scheme is None:
        expected: set[str] = set()
    else:
        ignored = set(disk.ignored(disk.quantization_config(folder)))
        expected = {name for name in linears if name not in ignored}
    if missing := expected - quantized:
        raise Failed(f"{len(missing)} layers were not quantized, {sorted(missing)[0]} first")
    # llama.cpp's mixtures round the embeddings and the output layer as well.
    beyond = {"model.embed_tokens", "lm_head"} if disk.gguf_file(folder) else set()
    if extra := quantized - expected - beyond:
        raise Failed(f"{len(extra)} layers should not be quantized, {sorted(extra)[0]} first")
    unrounded = ("BF16", "F16", "F32")
    wide = [name for name in sorted(quantized) if found.get(f"{name}.weight", {}).get("dtype") in unrounded]
    if wide:
        raise Failed(f"{wide[0]} has a scale, and its weight is still {found[wide[0] + '.weight']['dtype']}")
    others = "quantized too" if quantized & beyond else "left alone"
    return f"{len(quantized - beyond)} of {len(linears)} decoder Linears quantized, lm_head and embeddings {others}"


def weights(job: Job, results: dict[str, Any]) -> str:
    """Every weight is as near to BF16's as its format allows (see `rounding`)."""
    quant = job.settings.quant
    if quant.scheme is None:
        return "as they were"
    if quant.algorithm in RESCALING:
        return f"not compared: {quant.algorithm} scales them with their activations"
    try:
        found = compare(job.checkpoint, job.model.folder, quant)
    except KeyError as error:
        return f"not compared: the numbers of the format {error} are not known"
    results["weight_errors"] = found
    worst = max(found, key=lambda item: item["error"] / (item["allowed"] or 1e-9), default=None)
    if worst is None:
        raise Failed("no quantized weight could be compared")
    said = f"{worst['module']} is {worst['error']:.4f} of its norm away, {worst['allowed']:.4f} would be explained"
    if not worst["error"] <= worst["allowed"]:
        raise Failed(said)
    return f"{len(found)} compared with BF16; worst: {said}"


def scales(folder: Path) -> str:
    """Every scale is finite and positive."""
    count = 0
    if path := disk.gguf_file(folder):
        for name, weight in packing_gguf.weights(path):
            if not bool(weight.isfinite().all()):
                raise Failed(f"{name} holds a value that is not finite")
            count += weight.numel()
        return f"{count:,} weights of blocks with scales in them finite"
    largest = (".SCB", "absmax")
    for name, tensor in _tensors(folder, lambda name: name.endswith(("_scale", ".scales", *largest))):
        values = tensor.float()
        # bitsandbytes stores the largest magnitude (or a code of it), which is 0 where all weights are.
        sane = values >= 0 if name.endswith(largest) else values > 0
        if not bool((sane & values.isfinite()).all()):
            raise Failed(f"{name} holds a value that is not finite and positive")
        count += tensor.numel()
    return f"{count:,} scales finite and positive"


def _tensors(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys() if wanted(name))  # noqa: SIM118


def _loads(job: Job) -> str:
    server = job.server()
    return f"ready after {server.ready_s:.1f} s"


def _canaries(job: Job, results: dict[str, Any]) -> str:
    answers = job.server().complete(list(CANARIES), CANARY_TOKENS)
    results["canary"] = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(CANARIES, answers, strict=True)]
    # Broken kernels answer `!!!!`, token 0 over and over, or nothing that can be seen.
    if all(len(set(answer.strip())) <= 1 for answer in answers):
        raise Failed(f"no answer holds more than one character: {answers[0]!r}")
    return f"{len(answers)} prompts answered"
