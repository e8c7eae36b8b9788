"""A device and a variant as the roofline needs them, and vLLM's default batch limits on a device."""

from __future__ import annotations

import math

from pydantic import Field

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

    `weight_bytes` is the total, `step_bytes` the part that a step of one token reads: all but the embedding, of which
    it reads one row, and the routed experts that it does not choose. `products` are those of the Linear layers per
    token, computed in `activations`, `bf16_products` those of layers that stay in BF16; `head_products` those of the
    output layer; `attention_products` those of a token with one token of its context. `context` is the model's maximum
    context in tokens; 0 if unknown. The widths of the residual stream, of the MLPs that a token passes, and of the
    vocabulary decide the activations of a step; 0 if unknown. A layer has that many `experts`, of which a token chooses
    `chosen`; `expert_bytes` are those of all experts of all layers. `kv_heads` are the heads of one layer that keys and
    values are cached of; 0 if unknown. Of a mix of formats, `other_products` are those in further types than
    `activations`.
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
    bf16_products: float = 0
    experts: int = 0
    chosen: int = 0
    expert_bytes: float = 0
    kv_heads: int = 0
    other_products: dict[Activations, float] = Field({})

    def divided(self, gpus: int) -> Footprint:
        """Return the part of one GPU where several share each layer (tensor parallelism).

        Each has its part of the weights, and of the heads with their keys and values; fewer key-value heads than GPUs
        are copied. The residual stream and the logits are on all of them. What GPUs send to each other is left out.
        """
        if gpus == 1:
            return self
        shared = ("weight_bytes", "step_bytes", "products", "head_products", "attention_products", "bf16_products")
        parts = {name: getattr(self, name) / gpus for name in (*shared, "expert_bytes")}
        others = {kind: products / gpus for kind, products in self.other_products.items()}
        cached = self.kv_bytes_per_token / min(gpus, self.kv_heads or gpus)
        return self.model_copy(
            update=parts
            | {
                "kv_bytes_per_token": cached,
                "intermediate": math.ceil(self.intermediate / gpus),
                "other_products": others,
            }
        )

    def bytes_read(self, tokens: int) -> float:
        """Return the bytes of weights that a step of that many tokens reads.

        If each token chooses k of E experts with equal chances and whatever the others choose, an expert is passed over
        by all B tokens with probability (1 - k/E)^B, so that E (1 - (1 - k/E)^B) experts are expected to be read (the
        occupancy problem: W. Feller, An Introduction to Probability Theory and Its Applications, vol. 1, chapter IV;
        for experts: Z. Huang et al., MoESD, 2025). Unequal chances lower the expectation.
        """
        if not self.experts:
            return self.step_bytes
        missed = 1 - self.chosen / self.experts
        return self.step_bytes + self.expert_bytes * (missed - missed**tokens)


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
