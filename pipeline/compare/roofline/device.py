"""A device and a variant as the roofline needs them, and vLLM's default batch limits on a device."""

from __future__ import annotations

from pipeline.compare.roofline.batching import BatchLimits
from pipeline.formats.schemes import Activations
from pipeline.hardware.gpus import Gpu
from pipeline.results.base import Frozen


class Device(Frozen):
    """A GPU or CPU; products per second in TFLOP/s (or TOP/s), dense, by the format of activations.

    `memory_mib` is the total that the driver reports; None if unknown, and on a CPU, where the KV cache is a setting.
    """

    name: str
    memory_mib: float | None
    bandwidth_gb_s: float | None
    tflops: dict[Activations, float | None]
    source: str

    @classmethod
    def of(cls, gpu: Gpu) -> Device:
        """A GPU of the catalogue."""
        peaks: dict[Activations, float | None] = {
            "bf16": gpu.bf16_tflops,
            "fp8": gpu.fp8_tflops,
            "int8": gpu.int8_tops,
            "fp4": gpu.fp4_tflops,
        }
        return cls(
            name=gpu.name,
            memory_mib=gpu.memory_mib,
            bandwidth_gb_s=gpu.bandwidth_gb_s,
            tflops=peaks,
            source=gpu.source,
        )

    def products_s(self, activations: Activations) -> float | None:
        """Return products per second (two operations each); those in BF16 if the device has no units for the format."""
        tflops = self.tflops.get(activations) or self.tflops.get("bf16")
        return None if tflops is None else tflops * 1e12 / 2


class Footprint(Frozen):
    """Storage, memory traffic and compute of one variant.

    `weight_bytes` is the total, `step_bytes` the part that a step reads: all but the embedding, of which it reads one
    row per token. `products` are those of the Linear layers per token, computed in `activations`; `head_products` those
    of the output layer; `attention_products` those of a token with one token of its context. `context` is the model's
    maximum context in tokens; 0 if unknown. The widths of the residual stream, the MLP and the vocabulary decide the
    activations of a step; 0 if unknown.
    """

    weight_bytes: float
    step_bytes: float
    kv_bytes_per_token: float
    products: float
    head_products: float
    attention_products: float
    activations: Activations
    context: int = 0
    hidden: int = 0
    intermediate: int = 0
    vocabulary: int = 0


def limits_of(name: str, memory_mib: float, max_num_seqs: int | None = None) -> BatchLimits:
    """Return the defaults of vLLM's OpenAI server, from `EngineArgs.get_batch_defaults` of vLLM 0.32.

    Args:
        name: name of the device; an A100 has a smaller default than its memory suggests.
        memory_mib: total memory of the device.
        max_num_seqs: the setting, if there is one.
    """
    gib = memory_mib / 1024
    if gib >= 160:
        sequences, tokens = 1024, 16384
    elif gib >= 70 and "A100" not in name:
        sequences, tokens = 1024, 8192
    else:
        sequences, tokens = 256, 2048
    return BatchLimits(max_num_seqs=max_num_seqs or sequences, max_num_batched_tokens=tokens)
