"""Upper bounds by a device's memory and arithmetic, and the share of them that was reached.

The roofline of S. Williams, A. Waterman and D. Patterson (Comm. ACM 52, 2009): work that moves bytes and computes
products takes at least the longer of the two times. It is applied to three kinds of work, one after another: the Linear
layers (each weight is read once per step, and multiplied with each token), the output layer (in BF16, for sampled
tokens), and attention (keys and values of all contexts are read; products are in BF16).

It does not model kernels: unpacking of weights, rounding of activations, launches, sampling and scheduling are left
out. Actual performance is lower, in particular for formats whose kernels unpack weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pipeline.compare.roofline.batching import BatchStep, RooflineLoad, Served, ServerLimits, serve
from pipeline.compare.stats.intervals import Interval
from pipeline.formats.schemes import Activations
from pipeline.hardware.gpus import Gpu
from pipeline.results.base import Frozen, Missing

Figure = TypeVar("Figure", int, float)
# A hundred launches of a few microseconds.
LAUNCHES_MS = 0.3
UNKNOWN_ARITHMETIC = Missing(reason="products per second of this machine are not known")
UNKNOWN_BANDWIDTH = Missing(reason="the memory bandwidth of this machine was not measured")


class Device(Frozen):
    """A GPU or CPU; products per second in TFLOP/s (or TOP/s), dense, by the format of activations."""

    name: str
    memory_gb: float | None
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
            memory_gb=gpu.memory_gb,
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
    maximum context in tokens; 0 if unknown.
    """

    weight_bytes: float
    step_bytes: float
    kv_bytes_per_token: float
    products: float
    head_products: float
    attention_products: float
    activations: Activations
    context: int = 0


class RooflineRow(Frozen):
    """One variant on one device.

    `decode_ms` is the lower bound of one token at concurrency 1 after `context` tokens, `prefill_ms` that of a prompt
    of `context` tokens; `kv_tokens` fit beside the weights. `best` is the upper bound under the load, `gain_percent`
    its throughput against BF16's. `decode_share` is decode_ms over the measured mean TPOT at concurrency 1,
    `throughput_share` the measured throughput over the best.
    """

    name: str
    label: str
    footprint: Footprint | Missing
    kv_tokens: int | Missing
    decode_ms: float | Missing
    prefill_ms: float | Missing
    best: Served | Missing
    gain_percent: float | Missing
    measured_gain: float | Missing
    measured_gain_interval: Interval | None
    decode_share: float | Missing
    throughput_share: float | Missing


class Roofline(Frozen):
    """All variants on one device; `predicted`: nothing was measured on it."""

    device: Device
    predicted: bool
    load: RooflineLoad
    context: int
    rows: tuple[RooflineRow, ...]
    notes: tuple[str, ...] = ()


class MeasuredSpeed(Frozen):
    """Measured performance of a variant, to compare with the roofline."""

    throughput_tok_s: float | Missing
    gain_percent: float | Missing
    gain_interval: Interval | None
    tpot_ms_alone: float | Missing


class Entry(Frozen):
    """A variant with its footprint; `unserved` is the reason why the device cannot serve it, empty if it can."""

    name: str
    label: str
    footprint: Footprint | Missing
    unserved: str = ""


def roofline(
    device: Device,
    entries: Sequence[Entry],
    load: RooflineLoad,
    utilization: float,
    context: int,
    measured: Mapping[str, MeasuredSpeed] | None = None,
) -> Roofline:
    """Compute the roofline of all entries on one device, the first of them BF16.

    Args:
        device: the GPU or CPU.
        entries: the variants; the gain is against the first.
        load: the requests that throughput is predicted for.
        utilization: the share of the memory that the server may use.
        context: tokens of context for the lower bounds of one token and of a prompt.
        measured: results on this device, by variant; None for a prediction.
    """
    best = {c.name: _best(c, device, load, utilization) for c in entries}
    reference = best[entries[0].name] if entries else UNKNOWN_ARITHMETIC
    rows = []
    for entry in entries:
        ours, result = best[entry.name], (measured or {}).get(entry.name)
        footprint = Missing(reason=entry.unserved) if entry.unserved else entry.footprint
        decode = _of(footprint, lambda f: decode_ms(f, device, 1, context))
        rows.append(
            RooflineRow(
                name=entry.name,
                label=entry.label,
                footprint=entry.footprint,
                kv_tokens=_of(footprint, lambda f: kv_tokens(f, device, utilization)),
                decode_ms=decode,
                prefill_ms=_of(footprint, lambda f: prefill_ms(f, device, context)),
                best=ours,
                gain_percent=_gain(ours, reference),
                measured_gain=result.gain_percent if result else _NOT_MEASURED,
                measured_gain_interval=result.gain_interval if result else None,
                decode_share=_ratio(decode, result.tpot_ms_alone if result else _NOT_MEASURED),
                throughput_share=_ratio(
                    result.throughput_tok_s if result else _NOT_MEASURED,
                    ours if isinstance(ours, Missing) else ours.throughput_tok_s,
                ),
            )
        )
    return Roofline(
        device=device,
        predicted=measured is None,
        load=load,
        context=context,
        rows=tuple(rows),
        notes=tuple(_notes(device, rows)),
    )


def decode_ms(footprint: Footprint, device: Device, batch: int, context: float) -> float | Missing:
    """Return the lower bound of TPOT for a batch with `context` tokens each; by memory alone if compute is unknown."""
    if device.bandwidth_gb_s is None:
        return UNKNOWN_BANDWIDTH
    return 1000 * step_seconds(footprint, device)(BatchStep(batch, round(batch * context), 0, 0.0, 0))


def prefill_ms(footprint: Footprint, device: Device, tokens: int) -> float | Missing:
    """Return the lower bound of TTFT for a prompt of that length, alone on the device."""
    if device.bandwidth_gb_s is None:
        return UNKNOWN_BANDWIDTH
    if device.products_s("bf16") is None:
        return UNKNOWN_ARITHMETIC
    return 1000 * step_seconds(footprint, device)(BatchStep(0, 0, tokens, tokens * (tokens + 1) / 2, 1))


def kv_tokens(footprint: Footprint, device: Device, utilization: float) -> int | Missing:
    """Return the tokens of KV cache that fit beside the weights; 0 if the weights alone do not fit.

    Memory of activations and CUDA graphs is not counted.
    """
    if device.memory_gb is None:
        return Missing(reason="the memory of this machine is not known")
    free = utilization * device.memory_gb * 1e9 - footprint.weight_bytes
    return max(0, int(free / footprint.kv_bytes_per_token))


def step_seconds(footprint: Footprint, device: Device) -> Callable[..., float]:
    """Return a function for the shortest duration of a number of equal steps, each adding its tokens to the context."""
    assert device.bandwidth_gb_s is not None
    bytes_s = device.bandwidth_gb_s * 1e9
    # Without a figure for arithmetic a product takes no time: the bound is that of memory.
    linear = 1 / rate if (rate := device.products_s(footprint.activations)) else 0.0
    bf16 = 1 / rate if (rate := device.products_s("bf16")) else 0.0
    head_bytes = 2 * footprint.head_products  # BF16, one product per weight
    layer_bytes = footprint.step_bytes - head_bytes

    def seconds(step: BatchStep, steps: int = 1) -> float:
        tokens, sampled = step.decoding + step.prompt_tokens, step.decoding + step.prompts_done
        # Time is proportional to the context, so the middle step is the mean of all.
        context = step.context + step.decoding * (steps - 1) / 2
        pairs = context + step.prompt_pairs
        layers = max(layer_bytes / bytes_s, tokens * footprint.products * linear)
        head = max(head_bytes / bytes_s, sampled * footprint.head_products * bf16) if sampled else 0.0
        read = context * footprint.kv_bytes_per_token / bytes_s
        return steps * (layers + head + max(read, pairs * footprint.attention_products * bf16))

    return seconds


def limits_of(device: Device, kv: int) -> ServerLimits:
    """Return the defaults of vLLM's OpenAI server, from `EngineArgs.get_batch_defaults` of vLLM 0.32."""
    gib = (device.memory_gb or 0) * 1e9 / 2**30
    if gib >= 160:
        return ServerLimits(max_num_seqs=1024, max_num_batched_tokens=16384, kv_tokens=kv)
    if gib >= 70 and "A100" not in device.name:
        return ServerLimits(max_num_seqs=1024, max_num_batched_tokens=8192, kv_tokens=kv)
    return ServerLimits(max_num_seqs=256, max_num_batched_tokens=2048, kv_tokens=kv)


def _notes(device: Device, rows: Sequence[RooflineRow]) -> Iterable[str]:
    """Yield the limitations of these figures."""
    floors = [row.decode_ms for row in rows if not isinstance(row.decode_ms, Missing)]
    if floors and min(floors) < LAUNCHES_MS:
        yield (
            f"The lower bound per token is {min(floors):.2g} ms, less than launching the kernels of its layers takes: "
            "the model is too small for the roofline to be meaningful."
        )
    if floors and device.products_s("bf16") is None:
        yield "Products per second are not known, so the lower bounds are those of memory alone."


_NOT_MEASURED = Missing(reason="nothing was measured on this device")


def _best(entry: Entry, device: Device, load: RooflineLoad, utilization: float) -> Served | Missing:
    footprint = entry.footprint
    if entry.unserved:
        return Missing(reason=entry.unserved)
    if isinstance(footprint, Missing):
        return footprint
    if device.bandwidth_gb_s is None:
        return UNKNOWN_BANDWIDTH
    if device.products_s("bf16") is None:
        return UNKNOWN_ARITHMETIC
    room = kv_tokens(footprint, device, utilization)
    if isinstance(room, Missing):
        return room
    if not room:
        return Missing(reason=f"the weights do not fit into {device.memory_gb:g} GB")
    served = serve(load, limits_of(device, room), step_seconds(footprint, device))
    return served or Missing(reason=f"the longest request does not fit beside the weights into {device.memory_gb:g} GB")


def _of(value: Footprint | Missing, compute: Callable[[Footprint], Figure | Missing]) -> Figure | Missing:
    return value if isinstance(value, Missing) else compute(value)


def _gain(ours: Served | Missing, reference: Served | Missing) -> float | Missing:
    if isinstance(ours, Missing):
        return ours
    if isinstance(reference, Missing):
        return Missing(reason=f"BF16: {reference.reason}")
    return 100 * (ours.throughput_tok_s / reference.throughput_tok_s - 1)


def _ratio(ours: float | Missing, best: float | Missing) -> float | Missing:
    if isinstance(ours, Missing):
        return ours
    return best if isinstance(best, Missing) else ours / best
