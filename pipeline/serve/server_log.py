"""What a vLLM server's log says: how far its start is, and by which kernels it serves.

The formats are those of vLLM 0.26 to 0.32, and of 0.9 where it had the line already.
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
# The engine's process logs its exception line by line; the API server then ends with one that says nothing.
CAUSE = re.compile(
    r"^\((?:EngineCore|Worker)[^)]*\) ERROR [^\n]*\] ([A-Z]\w*(?:Error|Exception): [^\n]+)", re.MULTILINE
)
# vLLM's progress bars of the two steps that take long.
BARS = (
    re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)%"),
    re.compile(r"Capturing CUDA graphs[^:\n]*:\s+(\d+)%"),
)
KV_CACHE_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
# "Using MarlinLinearKernel for CompressedTensorsWNA16", "Selected CutlassFP8ScaledMMLinearKernel for
# CompressedTensorsW8A8Fp8", "Using FlashInferCutlassNvFp4LinearKernel for NVFP4 GEMM": every class is a ...Kernel.
LINEAR = re.compile(r"\b(?:Using|Selected) (\w+Kernel) for [\w-]+")
# What takes another path than those classes.
ELSEWHERE = {
    # FP8 weights where there are no FP8 products; no class is named.
    re.compile(r"Weight-only FP8 compression will be used leveraging the Marlin kernel"): (
        "MarlinFP8ScaledMMLinearKernel"
    ),
    re.compile(r"is not supported by (?:AutoAWQMarlin|AWQMarlin)\. Falling back to unoptimized AWQ kernels"): "AWQ",
    # Neither plugin logs: the engine's own line, "Initializing a V1 LLM engine (...) with config: ...", names them.
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
    """The kernels of the quantized layers, by vLLM's names, each once."""
    found = {match[1] for match in LINEAR.finditer(text)}
    return sorted(found | {name for pattern, name in ELSEWHERE.items() if pattern.search(text)})


def attention(text: str) -> str | None:
    """The attention backend, by vLLM's name; None where the log names none, as on a CPU."""
    found, version = ATTENTION.search(text), FLASH_VERSION.search(text)
    return None if found is None else found[1] + (f" {version[1]}" if version else "")


def kv_cache_tokens(text: str) -> int | None:
    """How many tokens fit into the KV cache."""
    found = KV_CACHE_TOKENS.search(text)
    return int(found[1].replace(",", "")) if found else None


def emulated(text: str) -> list[str]:
    """Return what the project's plugin emulated, by name."""
    return sorted(set(re.findall(EMULATION_LOG_PATTERN, text)))


def doing(text: str) -> str:
    """What a starting server is at, with how much of it is done where the log says so."""
    reached = [(mark, label) for mark, label in MILESTONES.items() if mark in text]
    if not reached:
        return "starting vLLM"
    mark, label = reached[-1]
    bars = [match for pattern in BARS for match in pattern.finditer(text, text.index(mark))]
    return f"{label}, {max(bars, key=lambda bar: bar.start())[1]} %" if bars else label


def read(log: Path) -> str:
    """A log's text; empty while there is none."""
    return log.read_text(errors="replace") if log.is_file() else ""


def cause(log: Path) -> str:
    """Why the engine did not start, in its own words; its process says it long before the last lines; else empty."""
    found = CAUSE.search(read(log))
    return found[1][:500] if found else ""


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log that say something."""
    if not log.is_file():
        return "(no log)"
    found = [line for line in read(log).splitlines() if line.strip()]
    return "\n".join(f"    {line[:220]}" for line in found[-lines:])
