"""Lower bounds of times by a device's memory and arithmetic, and throughput simulated with steps of those durations.

The roofline of S. Williams, A. Waterman and D. Patterson (Comm. ACM 52, 2009): work that moves bytes and computes
products takes at least the longer of the two times. It is applied to three kinds of work, one after another: the Linear
layers (each weight is read once per step, and multiplied with each token; of routed experts those that are expected to
be chosen, see `Footprint.bytes_read`), the output layer (in BF16, for sampled tokens), and attention (keys and values
of all contexts are read; products are in BF16).

It does not model kernels: unpacking of weights, rounding of activations, launches, sampling and scheduling are left
out, and what GPUs that share a layer send each other. So a step takes longer than its bound, in particular with kernels
that unpack weights. Of a variant on several GPUs all figures are those of one of them. The gain of a format over
BF16 is a ratio of two simulated throughputs, each too high by an unknown factor: it bounds nothing. Only for
weight-only formats the direction of its error is known, as unpacking is left out of the numerator alone: their gain is
at most this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pipeline.compare.roofline.batching import BatchStep, RooflineLoad, Served, ServerLimits, serve
from pipeline.compare.roofline.device import Device, Footprint, limits_of
from pipeline.compare.roofline.memory_fit import kv_tokens
from pipeline.compare.statements import listing
from pipeline.compare.stats.intervals import Interval
from pipeline.formats.schemes import Activations
from pipeline.results.base import Frozen, Missing

Figure = TypeVar("Figure", int, float)
# A hundred launches of a few microseconds.
LAUNCHES_MS = 0.3
UNKNOWN_ARITHMETIC = Missing(reason="products per second of this machine are not known")
UNKNOWN_BANDWIDTH = Missing(reason="the memory bandwidth of this machine was not measured")


class RooflineRow(Frozen):
    """One variant on one device.

    Attributes:
        name: the variant.
        label: its title.
        footprint: its bytes and products.
        is_weight_only: its kernels unpack weights, which is not modelled: its gain is at most `gain_percent`.
        kv_tokens: tokens that fit the KV cache by `memory_fit`.
        printed_kv_tokens: those that vLLM printed on this device.
        decode_ms: lower bound of one token at concurrency 1 after `context` tokens.
        prefill_ms: lower bound of a prompt of `context` tokens.
        best: the simulated performance under the load.
        gain_percent: its throughput against BF16's.
        measured_gain: measured throughput against BF16's.
        measured_gain_interval: its 95 % interval.
        decode_share: decode_ms over the measured mean TPOT at concurrency 1.
        throughput_share: measured throughput over the simulated one.
    """

    name: str
    label: str
    footprint: Footprint | Missing
    is_weight_only: bool = False
    kv_tokens: int | Missing
    printed_kv_tokens: int | Missing
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
    kv_tokens: int | Missing = Missing(reason="the server printed no size of its KV cache")


class Entry(Frozen):
    """A variant with its footprint; `unserved` is the reason why the device cannot serve it, empty if it can.

    `tensor_parallel` GPUs share each layer, and `data_parallel` copies of the model share the requests.
    """

    name: str
    label: str
    footprint: Footprint | Missing
    is_weight_only: bool = False
    unserved: str = ""
    tensor_parallel: int = 1
    data_parallel: int = 1

    @property
    def on_one(self) -> Entry:
        """The part of one GPU."""
        if isinstance(self.footprint, Missing):
            return self
        return self.model_copy(update={"footprint": self.footprint.divided(self.tensor_parallel)})

    def share(self, load: RooflineLoad) -> RooflineLoad:
        """Return the load of one copy of the model."""
        if self.data_parallel == 1:
            return load
        limit = load.max_concurrency and math.ceil(load.max_concurrency / self.data_parallel)
        recorded = tuple(repeat[:: self.data_parallel] for repeat in load.recorded)
        requests = math.ceil(load.requests / self.data_parallel)
        return load.model_copy(update={"requests": requests, "max_concurrency": limit, "recorded": recorded})

    def of_one(self, served: Served) -> Served:
        """Return the performance of one copy with the throughput of one of its GPUs."""
        return served.model_copy(update={"throughput_tok_s": served.throughput_tok_s / self.tensor_parallel})


def roofline(
    device: Device,
    entries: Sequence[Entry],
    load: RooflineLoad,
    utilization: float,
    context: int,
    measured: Mapping[str, MeasuredSpeed] | None = None,
    max_num_seqs: int | None = None,
) -> Roofline:
    """Compute the roofline of all entries on one device, the first of them BF16.

    Args:
        device: the GPU or CPU, one of as many as a variant takes.
        entries: the variants; the gain is against the first.
        load: the requests that throughput is predicted for.
        utilization: the share of the memory that the server may use.
        context: tokens of context for the lower bounds of one token and of a prompt.
        measured: results on this device, by variant; None for a prediction.
        max_num_seqs: sequences in a batch; None for vLLM's default.
    """
    entries = [entry.on_one for entry in entries]

    def simulated(entry: Entry, load: RooflineLoad = load) -> Served | Missing:
        best = _best(entry, device, entry.share(load), utilization, max_num_seqs)
        return best if isinstance(best, Missing) else entry.of_one(best)

    best = {entry.name: simulated(entry) for entry in entries}
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
                is_weight_only=entry.is_weight_only,
                kv_tokens=_of(footprint, lambda f: kv_tokens(f, device, utilization, max_num_seqs)),
                printed_kv_tokens=result.kv_tokens if result else _NOT_MEASURED,
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
        notes=(
            *_notes(device, rows),
            *_of_several(entries),
            *(_of_lengths(entries[0], load, simulated) if measured and entries else ()),
        ),
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


def step_seconds(footprint: Footprint, device: Device) -> Callable[..., float]:
    """Return a function for the shortest duration of a number of equal steps, each adding its tokens to the context."""
    assert device.bandwidth_gb_s is not None
    bytes_s = device.bandwidth_gb_s * 1e9
    # Without a figure for arithmetic a product takes no time: the bound is that of memory.
    kinds: tuple[Activations, ...] = ("bf16", footprint.activations, *footprint.other_products)
    took = {kind: 1 / rate if (rate := device.products_s(kind)) else 0.0 for kind in kinds}
    bf16, head_bytes = took["bf16"], 2 * footprint.head_products  # BF16, one product per weight
    products = footprint.products * took[footprint.activations] + footprint.bf16_products * bf16
    products += sum(number * took[kind] for kind, number in footprint.other_products.items())

    def seconds(step: BatchStep, steps: int = 1) -> float:
        tokens, sampled = step.decoding + step.prompt_tokens, step.decoding + step.prompts_done
        # Time is proportional to the context, so the middle step is the mean of all.
        context = step.context + step.decoding * (steps - 1) / 2
        pairs = context + step.prompt_pairs
        layers = max((footprint.bytes_read(tokens) - head_bytes) / bytes_s, tokens * products)
        head = max(head_bytes / bytes_s, sampled * footprint.head_products * bf16) if sampled else 0.0
        read = context * footprint.kv_bytes_per_token / bytes_s
        return steps * (layers + head + max(read, pairs * footprint.attention_products * bf16))

    return seconds


def _notes(device: Device, rows: Sequence[RooflineRow]) -> Iterable[str]:
    """Yield the assumptions and limitations of these figures."""
    floors = [row.decode_ms for row in rows if not isinstance(row.decode_ms, Missing)]
    if floors and min(floors) < LAUNCHES_MS:
        yield (
            f"The lower bound per token is {min(floors):.2g} ms, less than launching the kernels of its layers takes: "
            "the model is too small for the roofline to be meaningful."
        )
    footprints = [row.footprint for row in rows if not isinstance(row.footprint, Missing)]
    if mixture := next((each for each in footprints if each.experts), None):
        yield (
            f"A token passes {mixture.chosen} of {mixture.experts} experts in each layer. A step of several tokens is "
            "taken to read as many as tokens that choose evenly and independently would; a router that prefers some "
            "experts reads fewer."
        )
    if floors and device.products_s("bf16") is None:
        yield "Products per second are not known, so the lower bounds are those of memory alone."


def _of_several(entries: Sequence[Entry]) -> Iterable[str]:
    """Yield what the figures of variants on several GPUs are of."""
    if several := [entry.label for entry in entries if entry.tensor_parallel * entry.data_parallel > 1]:
        yield (
            f"Figures of {listing(several)} are those of one GPU, with its part of the weights and of the requests; "
            "what GPUs that share a layer send each other is left out."
        )


def _of_lengths(
    baseline: Entry, load: RooflineLoad, simulated: Callable[[Entry, RooflineLoad], Served | Missing]
) -> Iterable[str]:
    """Yield the dependence of the baseline's throughput on the spread of lengths, where these were not recorded."""
    if load.recorded:
        return
    spread, equal = simulated(baseline, load), simulated(baseline, load.model_copy(update={"spread": "equal"}))
    if not isinstance(spread, Missing) and not isinstance(equal, Missing):
        yield (
            f"The lengths of the requests were not stored, so they are assumed ({load.spread}). If all had the mean "
            f"lengths, the simulated throughput of {baseline.label} would be {equal.throughput_tok_s:,.0f} instead of "
            f"{spread.throughput_tok_s:,.0f} tok/s."
        )


_NOT_MEASURED = Missing(reason="nothing was measured on this device")


def _best(
    entry: Entry, device: Device, load: RooflineLoad, utilization: float, max_num_seqs: int | None
) -> Served | Missing:
    footprint = entry.footprint
    if entry.unserved:
        return Missing(reason=entry.unserved)
    if isinstance(footprint, Missing):
        return footprint
    if device.bandwidth_gb_s is None:
        return UNKNOWN_BANDWIDTH
    if device.products_s("bf16") is None:
        return UNKNOWN_ARITHMETIC
    room = kv_tokens(footprint, device, utilization, max_num_seqs)
    if isinstance(room, Missing):
        return room
    assert device.memory_mib is not None
    memory = f"{device.memory_mib:,.0f} MiB"
    if not room:
        return Missing(reason=f"the weights do not fit into {memory}")
    limits = limits_of(device.name, device.memory_mib, max_num_seqs)
    served = serve(load, ServerLimits(**dict(limits), kv_tokens=room), step_seconds(footprint, device))
    return served or Missing(reason=f"the longest request does not fit beside the weights into {memory}")


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
