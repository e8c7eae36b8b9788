"""Log lines by which the server's plugin tells which formats it emulates."""

from __future__ import annotations

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
PRODUCTS_LOG_TEMPLATE = "pipeline: float32 products for %s on cpu"


def integer_weights(bits: int) -> str:
    """Return the name of the emulation of weight-only integers, such as `w4a16`."""
    return f"w{bits}a16"
