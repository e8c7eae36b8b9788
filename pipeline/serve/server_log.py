"""Parser of a vLLM server's log: progress of the start, kernels, attention backend, KV-cache size.

The line formats are those of vLLM 0.26 to 0.32, and of 0.9 for lines that existed there.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.serve.vllm_plugin.log_lines import EMULATION_LOG_PATTERN

MILESTONES = {
    "Starting to load model": "loading the weights",
    "Loading weights took": "preparing the engine",
    "KV cache size": "warming up",
    "Application startup complete": "ready",
}
# The engine's process logs its exception line by line; the API server then exits with an uninformative one.
CAUSE = re.compile(
    r"^\((?:EngineCore|Worker)[^)]*\) ERROR [^\n]*\] ([A-Z]\w*(?:Error|Exception): [^\n]+)", re.MULTILINE
)
# vLLM imports a model's module in a process apart, and logs what that one wrote, its exception last.
INSPECTION = re.compile(r"\[registry\.py:\d+\] (\w+(?:Error|Exception)): ([^\n]+)")
# vLLM's progress bars of the two slow steps.
BARS = (
    re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)%"),
    re.compile(r"Capturing CUDA graphs[^:\n]*:\s+(\d+)%"),
)
KV_CACHE_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
# "Using MarlinLinearKernel for CompressedTensorsWNA16", "Selected CutlassFP8ScaledMMLinearKernel for
# CompressedTensorsW8A8Fp8", "Using FlashInferCutlassNvFp4LinearKernel for NVFP4 GEMM": every class is a ...Kernel.
LINEAR = re.compile(r"\b(?:Using|Selected) (\w+Kernel) for [\w-]+")
# Kernels outside those classes.
ELSEWHERE = {
    # FP8 weights without FP8 products; no class is named.
    re.compile(r"Weight-only FP8 compression will be used leveraging the Marlin kernel"): (
        "MarlinFP8ScaledMMLinearKernel"
    ),
    re.compile(r"is not supported by (?:AutoAWQMarlin|AWQMarlin)\. Falling back to unoptimized AWQ kernels"): "AWQ",
    # These plugins log nothing; the engine's line "Initializing a V1 LLM engine (...) with config: ..." names them.
    re.compile(r"\bquantization=gguf\b"): "GGUF",
    re.compile(r"\bquantization=bitsandbytes\b"): "bitsandbytes",
}
# "Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', ...].", where one was asked for "Using
# AttentionBackendEnum.FLASHINFER backend.", and of old "Using Flash Attention backend on V1 engine."
ATTENTION = re.compile(
    r"\bUsing (?:AttentionBackendEnum\.)?([A-Z]\w*(?: Attention)?)"
    r"(?: attention backend out of| backend out of| backend on V1| backend\.| backend \(selected)"
)
FLASH_VERSION = re.compile(r"\bUsing FlashAttention version (\d)")


def kernels(text: str) -> list[str]:
    """Return the kernels of the quantized layers, by vLLM's names, without duplicates."""
    found = {match[1] for match in LINEAR.finditer(text)}
    return sorted(found | {name for pattern, name in ELSEWHERE.items() if pattern.search(text)})


def attention(text: str) -> str | None:
    """Return the attention backend, by vLLM's name; None if the log names none, as on a CPU."""
    found, version = ATTENTION.search(text), FLASH_VERSION.search(text)
    return None if found is None else found[1] + (f" {version[1]}" if version else "")


def kv_cache_tokens(text: str) -> int | None:
    """Return the number of tokens that fit into the KV cache."""
    found = KV_CACHE_TOKENS.search(text)
    return int(found[1].replace(",", "")) if found else None


def emulated(text: str) -> list[str]:
    """Return what the project's plugin emulated, by name."""
    return sorted(set(re.findall(EMULATION_LOG_PATTERN, text)))


def doing(text: str) -> str:
    """Return the current step of a starting server, with its percentage if the log has one."""
    reached = [(mark, label) for mark, label in MILESTONES.items() if mark in text]
    if not reached:
        return "starting vLLM"
    mark, label = reached[-1]
    bars = [match for pattern in BARS for match in pattern.finditer(text, text.index(mark))]
    return f"{label}, {max(bars, key=lambda bar: bar.start())[1]} %" if bars else label


def read(log: Path) -> str:
    """Return the log's text; empty if the file does not exist."""
    return log.read_text(errors="replace") if log.is_file() else ""


def cause(log: Path) -> str:
    """Return the exception that stopped the engine, or an empty string; the log has it long before its last lines."""
    found = CAUSE.search(read(log))
    return found[1][:500] if found else ""


def missing_import(text: str) -> str:
    """Return the failed import for which vLLM cannot load the model's architecture; empty if there is none."""
    found = INSPECTION.findall(text)
    return found[-1][1] if found and found[-1][0] in ("ModuleNotFoundError", "ImportError") else ""


def tail(log: Path, lines: int = 12) -> str:
    """Return the last nonempty lines of a log."""
    if not log.is_file():
        return "(no log)"
    found = [line for line in read(log).splitlines() if line.strip()]
    return "\n".join(f"    {line[:220]}" for line in found[-lines:])
