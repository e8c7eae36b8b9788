"""What a device's memory and arithmetic allow at best, and how much of it was reached.

The roofline of S. Williams, A. Waterman and D. Patterson (Comm. ACM 52, 2009): a piece of work that moves so many bytes
and makes so many products takes at least the longer of the two times. It knows no kernels: the unpacking of weights,
launches, sampling and scheduling are left out, so floors are lower than what is reached, by more for formats whose
kernels unpack weights on the way.
"""

from __future__ import annotations

from pipeline.compare.estimates import Frozen, Interval, Missing
from pipeline.schemes import Activations


class Device(Frozen):
    """A GPU or CPU; products per second in TFLOP/s (or TOP/s), dense, by the format of activations.

    `predicted` where nothing was measured on it.
    """

    name: str
    memory_gb: float | None
    bandwidth_gb_s: float | None
    tflops: dict[Activations, float | None]
    source: str


class Footprint(Frozen):
    """What one variant moves and computes.

    `weight_bytes` are all of them, `step_bytes` those that one step reads (not the embedding's rows);
    `kv_bytes_per_token` are of one token of context; `flops_per_token` are of the Linear layers (two per weight),
    `head_flops` of the output layer, once per sequence and step; `attention_flops` are per token and token of context.
    """

    weight_bytes: float
    step_bytes: float
    kv_bytes_per_token: float
    flops_per_token: float
    head_flops: float
    attention_flops: float
    products: Activations


class Load(Frozen):
    """The load that throughput is predicted for: all requests at once, lengths in tokens; `source` says whence."""

    requests: int
    mean_input: float
    mean_output: float
    source: str


class Serving(Frozen):
    """What a device reaches at best under a load, in the study's units."""

    throughput_tok_s: float
    mean_ttft_ms: float
    mean_tpot_ms: float
    concurrency: float


class RooflineRow(Frozen):
    """One variant on one device.

    `decode_ms` is the floor of one token at concurrency 1 and `context` tokens, `prefill_ms` that of a prompt of so
    many. `gain_percent` is the predicted gain in throughput over BF16, beside what was measured.
    `share` is decode_ms over the measured TPOT at concurrency 1.
    """

    name: str
    label: str
    footprint: Footprint | Missing
    fits: bool | None
    kv_tokens: int | Missing
    decode_ms: float | Missing
    prefill_ms: float | Missing
    best: Serving | Missing
    gain_percent: float | Missing
    measured_gain: float | Missing
    measured_gain_interval: Interval | None
    measured_tpot_ms: float | Missing
    share: float | Missing


class Roofline(Frozen):
    """All variants on one device; `predicted`: a what-if on a device where nothing was measured."""

    device: Device
    predicted: bool
    load: Load
    context: int
    rows: tuple[RooflineRow, ...]
    notes: tuple[str, ...]


class ModelCell(Frozen):
    """One published figure beside what the roofline says about it; gains over BF16 in percent.

    `beyond_floor`: the published figure is better than the device's peak allows under the assumed load.
    """

    table: str
    label: str
    metric: str
    published: float
    floor: float
    published_gain: float | None
    predicted_gain: float | None
    beyond_floor: bool


class ModelError(Frozen):
    """How well the roofline tells the published gains of one metric: Spearman's rank correlation, absolute errors."""

    metric: str
    cells: int
    rank_correlation: float
    median_error_points: float
    worst_error_points: float
    worst: str


class RooflineCheck(Frozen):
    """The roofline against all published tables."""

    cells: tuple[ModelCell, ...]
    errors: tuple[ModelError, ...]
    assumptions: tuple[str, ...]
