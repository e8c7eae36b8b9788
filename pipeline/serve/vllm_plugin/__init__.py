"""A vLLM plugin that lets a CPU serve, exactly and fast enough, what it has no kernel for.

vLLM loads the entry point `vllm.general_plugins: pipeline = pipeline.serve.vllm_plugin:register` in
each of its processes. On any platform but the CPU it does nothing. There it adds what is missing:
FP8 W8A8 (static and dynamic) linear layers, integer weight-only layers on processors without
AVX-512, INT8 W8A8 layers where the processor's own integer products saturate, an FP8 KV cache where
the attention kernel has none, GGUF layers, and fast BF16 products where oneDNN has none. The results are those
of the formats; the speed is not, and so each thing that is emulated says so, once per process, in a
line of the server's log:

    pipeline: emulated fp8_w8a8_static on cpu (no speed claim)

`EMULATION_LOG_PATTERN` finds these lines. This module imports neither torch nor vLLM, so whoever
reads a log can import it for free.

Environment variables, all optional:
    PIPELINE_EMULATE_KV_CACHE: `auto` (default: where the processor has no FP8 KV cache), `always`
        or `never`.
    PIPELINE_FLOAT32_PRODUCTS: `auto` (default: where oneDNN has no BF16 product) or `never`.
"""

import re

# Raised whenever what is computed here changes: results of another revision are made anew.
REVISION = 2

# One line for each emulated thing: `what` is one of the names below, possibly of a later version.
EMULATION_LOG_PATTERN = r"pipeline: emulated (?P<what>[a-z0-9_]+) on cpu \(no speed claim\)"
EMULATION_LOG_TEMPLATE = "pipeline: emulated %s on cpu (no speed claim)"

FP8_STATIC = "fp8_w8a8_static"
FP8_DYNAMIC = "fp8_w8a8_dynamic"
INT8_STATIC = "int8_w8a8_static"
INT8_DYNAMIC = "int8_w8a8_dynamic"
KV_CACHE_E4M3 = "kv_cache_fp8_e4m3"
KV_CACHE_E5M2 = "kv_cache_fp8_e5m2"
GGUF = "gguf"

# Not an emulation of a format: products of BF16 (or FP16) values are taken in float32, with the
# result rounded once, which is the same arithmetic with more memory. All formats profit alike.
PRODUCTS_LOG_PATTERN = r"pipeline: float32 products for (?P<dtype>[a-z0-9]+) on cpu"
PRODUCTS_LOG_TEMPLATE = "pipeline: float32 products for %s on cpu"


def integer_weights(bits: int) -> str:
    """Return the name of the emulation of weight-only integers, such as `w4a16`."""
    return f"w{bits}a16"


def emulated_in(log: str) -> list[str]:
    """Return what a server's log says was emulated, in order of appearance, each once."""
    return list(dict.fromkeys(re.findall(EMULATION_LOG_PATTERN, log)))


def register() -> None:
    """Install the emulations in this vLLM process; called by vLLM, any number of times."""
    from pipeline.serve.vllm_plugin.install import install

    install()
