"""The fit of a variant into a GPU: one rule for the roofline, the memory table and the `memory_gib` constraint.

vLLM takes `gpu_memory_utilization` of the total memory, subtracts the weights and the peak of a profiling step, and
uses the rest for the KV cache (`Worker.determine_available_memory`, `memory_profiling` of vLLM 0.32). It does not
start if that holds less than one request of `max_model_len` tokens (`_check_enough_kv_cache_memory` in
`v1/core/kv_cache_utils.py`).

The profiling step has `max_num_batched_tokens` tokens and samples one token for each of `max_num_seqs` sequences. Its
activations in BF16 peak either in the MLP, which holds residual and hidden state (2 x hidden), the gate and up
projections (2 x intermediate) and their product (intermediate) of each token, or in the output layer, which holds the
hidden state of each token and the logits of each sequence:

    activations = 2 bytes x max(tokens x (2 hidden + 3 intermediate), tokens x hidden + sequences x vocabulary)

Memory that the driver reserves for itself, CUDA graphs and the workspaces of libraries are not included, as no
formula for them is published; the predicted KV cache is therefore larger than what vLLM prints (on H100 and H200 by
0.7 to 2.3 %, `tests/compare/roofline/test_compare_memory_fit.py`).
"""

from __future__ import annotations

from pipeline.compare.roofline.batching import BatchLimits
from pipeline.compare.roofline.device import Device, Footprint, limits_of
from pipeline.results.base import Frozen, Missing

MIB = 2**20
BF16_BYTES = 2


class Fit(Frozen):
    """The KV cache of a variant on a device.

    Attributes:
        device: name of the GPU.
        memory_mib: total memory that its driver reports.
        kv_tokens: tokens that fit the KV cache; 0 if the weights and activations alone do not fit.
        context: tokens that the KV cache must hold for vLLM to start, `max_model_len`.
    """

    device: str
    memory_mib: float
    kv_tokens: int
    context: int

    @property
    def fits(self) -> bool:
        """True if vLLM starts: the KV cache holds one request of the full context."""
        return self.kv_tokens >= self.context


def activation_bytes(footprint: Footprint, limits: BatchLimits) -> float:
    """Return the peak of the activations in vLLM's profiling step."""
    tokens, hidden = limits.max_num_batched_tokens, footprint.hidden
    mlp = tokens * (2 * hidden + 3 * footprint.intermediate)
    head = tokens * hidden + limits.max_num_seqs * footprint.vocabulary
    return float(BF16_BYTES * max(mlp, head))


def kv_tokens(
    footprint: Footprint, device: Device, utilization: float, max_num_seqs: int | None = None
) -> int | Missing:
    """Return the tokens of KV cache beside weights and activations; 0 if these alone do not fit.

    Args:
        footprint: the variant's.
        device: the GPU.
        utilization: the share of its memory that the server may use.
        max_num_seqs: sequences in a batch; None for vLLM's default.
    """
    if device.memory_mib is None:
        return Missing(reason="the memory of this machine is not known")
    limits = limits_of(device.name, device.memory_mib, max_num_seqs)
    free = utilization * device.memory_mib * MIB - footprint.weight_bytes - activation_bytes(footprint, limits)
    return max(0, int(free / footprint.kv_bytes_per_token))


def required_bytes(footprint: Footprint, limits: BatchLimits, context: int, utilization: float) -> float:
    """Return the total memory of the smallest GPU on which vLLM starts with that context."""
    needed = footprint.weight_bytes + activation_bytes(footprint, limits) + context * footprint.kv_bytes_per_token
    return needed / utilization


def fit(
    footprint: Footprint | Missing, device: Device, utilization: float, context: int, max_num_seqs: int | None = None
) -> Fit | Missing:
    """Return the fit of a variant into a GPU.

    Args:
        footprint: the variant's, or why it is unknown.
        device: the GPU.
        utilization: the share of its memory that the server may use.
        context: `max_model_len`; 0 if unknown.
        max_num_seqs: sequences in a batch; None for vLLM's default.
    """
    if isinstance(footprint, Missing):
        return footprint
    if not context:
        return Missing(reason="the model's context is not known")
    tokens = kv_tokens(footprint, device, utilization, max_num_seqs)
    if isinstance(tokens, Missing):
        return tokens
    assert device.memory_mib is not None
    return Fit(device=device.name, memory_mib=device.memory_mib, kv_tokens=tokens, context=context)
