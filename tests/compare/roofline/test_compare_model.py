"""Durations of steps, lower bounds and gains on figures that can be worked out by hand."""

from __future__ import annotations

import pytest

from pipeline.compare.roofline.batching import BatchStep, RooflineLoad, Served
from pipeline.compare.roofline.device import Device, Footprint
from pipeline.compare.roofline.model import Entry, MeasuredSpeed, decode_ms, prefill_ms, roofline, step_seconds
from pipeline.compare.stats.intervals import Interval
from pipeline.results.base import Missing

DEVICE = Device(name="d", memory_mib=80_000, bandwidth_gb_s=1000, tflops={"bf16": 200.0, "fp8": 400.0}, source="")
# 1e9 products of weights and 1e8 of the output layer a token; 1e14 products and 1e12 bytes a second.
BF16 = Footprint(
    weight_bytes=2.4e9,
    step_bytes=2.2e9,
    kv_bytes_per_token=1e5,
    products=1e9,
    head_products=1e8,
    attention_products=1e5,
    activations="bf16",
)
FP8 = BF16.model_copy(update={"step_bytes": 1.2e9, "activations": "fp8"})
LOAD = RooflineLoad(requests=10, mean_input=1000, mean_output=100, spread="equal", source="a test")


def test_a_step_of_few_tokens_takes_as_long_as_its_bytes() -> None:
    seconds = step_seconds(BF16, DEVICE)
    # 2.0 GB of layers, 0.2 GB of output layer, and 50,000 tokens of context of 100 kB.
    assert seconds(BatchStep(10, 50_000, 0, 0.0, 0)) == pytest.approx(2e-3 + 0.2e-3 + 5e-3)
    # Without a sampled token the output layer is not read.
    assert seconds(BatchStep(0, 0, 100, 0.0, 0)) == pytest.approx(2e-3)
    assert seconds(BatchStep(0, 0, 100, 0.0, 1)) == pytest.approx(2.2e-3)


def test_a_step_of_many_tokens_takes_as_long_as_its_products() -> None:
    seconds = step_seconds(BF16, DEVICE)
    # 1000 prompt tokens and 200 decoding: 1200e9 products, 500 sampled with 1e8, pairs of tokens with 1e5.
    assert seconds(BatchStep(200, 1000, 1000, 5e8, 300)) == pytest.approx(12e-3 + 500e8 / 1e14 + 5.00001e8 * 1e5 / 1e14)
    # FP8 products are twice as fast; attention and the output layer are in BF16.
    assert step_seconds(FP8, DEVICE)(BatchStep(0, 0, 4000, 0.0, 0)) == pytest.approx(20e-3)
    mixed = FP8.model_copy(update={"bf16_products": 1e9})
    assert step_seconds(mixed, DEVICE)(BatchStep(0, 0, 4000, 0.0, 0)) == pytest.approx(60e-3)


def test_products_of_further_types_take_their_own_time() -> None:
    """4000 tokens: 1e9 products in FP8 at 2e14 a second, 3e9 in INT8 at 4e14, and 1e9 at BF16's 1e14 without units."""
    device = DEVICE.model_copy(update={"tflops": {**DEVICE.tflops, "int8": 800.0}})
    mixed = FP8.model_copy(update={"other_products": {"int8": 3e9, "fp4": 1e9}})
    assert step_seconds(mixed, device)(BatchStep(0, 0, 4000, 0.0, 0)) == pytest.approx(20e-3 + 30e-3 + 40e-3)


def test_a_gpu_of_several_has_its_part_of_what_they_share() -> None:
    """Of the residual stream and the logits it has all; two heads of keys and values are copied to four GPUs."""
    update = {"bf16_products": 4e8, "expert_bytes": 8e9, "experts": 8, "chosen": 2, "other_products": {"int8": 1e8}}
    whole = BF16.model_copy(update={**update, "hidden": 64, "intermediate": 129, "vocabulary": 1000, "kv_heads": 2})
    part = whole.divided(4)
    for name in ("weight_bytes", "step_bytes", "products", "head_products", "attention_products", "bf16_products"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name) / 4), name
    assert (part.expert_bytes, part.other_products, part.intermediate) == (2e9, {"int8": 2.5e7}, 33)
    assert (part.hidden, part.vocabulary, part.experts, part.chosen) == (64, 1000, 8, 2)
    assert part.kv_bytes_per_token == whole.kv_bytes_per_token / 2
    assert whole.model_copy(update={"kv_heads": 8}).divided(4).kv_bytes_per_token == whole.kv_bytes_per_token / 4
    # Where the heads are not known, they are taken to be enough.
    assert whole.model_copy(update={"kv_heads": 0}).divided(4).kv_bytes_per_token == whole.kv_bytes_per_token / 4


def test_a_copy_of_the_model_has_its_part_of_the_requests() -> None:
    recorded = (((1, 2), (3, 4), (5, 6)), ((7, 8),))
    load = LOAD.model_copy(update={"requests": 11, "max_concurrency": 7, "recorded": recorded})
    (one,) = entries(bf16=BF16)
    two = one.model_copy(update={"data_parallel": 2, "tensor_parallel": 4})
    found = two.share(load)
    assert (found.requests, found.max_concurrency) == (6, 4)
    assert found.recorded == (((1, 2), (5, 6)), ((7, 8),)) and found.mean_input == load.mean_input
    assert two.share(LOAD).max_concurrency is None and one.share(load) is load
    served = Served(throughput_tok_s=100.0, mean_ttft_ms=1.0, mean_tpot_ms=2.0, concurrency=3.0)
    assert two.of_one(served) == served.model_copy(update={"throughput_tok_s": 25.0}) and one.of_one(served) == served


def test_equal_steps_add_their_tokens_to_the_context() -> None:
    """Five steps of ten sequences: contexts of 1000, 1010, 1020, 1030 and 1040 tokens."""
    seconds = step_seconds(BF16, DEVICE)
    each = [seconds(BatchStep(10, 1000 + 10 * i, 0, 0.0, 0)) for i in range(5)]
    assert seconds(BatchStep(10, 1000, 0, 0.0, 0), 5) == pytest.approx(sum(each))


def test_lower_bounds_of_a_token_and_of_a_prompt() -> None:
    assert decode_ms(BF16, DEVICE, 1, 0) == pytest.approx(2.2)
    assert decode_ms(BF16, DEVICE, 8, 1000) == pytest.approx(2.2 + 0.8)
    # 4000 tokens: 4e12 products, one of the output layer by its bytes, 8,002,000 pairs.
    assert prefill_ms(BF16, DEVICE, 4000) == pytest.approx(40 + 0.2 + 8_002_000 * 1e5 / 1e11)
    unknown = DEVICE.model_copy(update={"tflops": {}})
    assert decode_ms(BF16, unknown, 1000, 0) == pytest.approx(2.2)
    assert prefill_ms(BF16, unknown, 10) == Missing(reason="products per second of this machine are not known")


def entries(**footprints: Footprint | Missing) -> list[Entry]:
    return [Entry(name=name, label=name.upper(), footprint=each) for name, each in footprints.items()]


def test_gains_are_ratios_of_simulated_throughputs() -> None:
    bf16, fp8, gone = roofline(DEVICE, entries(bf16=BF16, fp8=FP8, gone=Missing(reason="no shape")), LOAD, 0.9, 1).rows
    assert bf16.gain_percent == 0
    assert fp8.gain_percent == pytest.approx(
        100 * (fp8.best.throughput_tok_s - bf16.best.throughput_tok_s) / (bf16.best.throughput_tok_s)
    )
    assert 50 < fp8.gain_percent < 100
    assert gone.gain_percent == gone.best == gone.decode_ms == Missing(reason="no shape")


def test_what_was_measured_stands_beside_its_bound() -> None:
    seen = MeasuredSpeed(
        throughput_tok_s=500.0, gain_percent=7.0, gain_interval=Interval(low=5, high=9), tpot_ms_alone=4.4, kv_tokens=9
    )
    found = roofline(DEVICE, entries(bf16=BF16, fp8=FP8), LOAD, 0.9, 0, {"bf16": seen})
    bf16, fp8 = found.rows
    assert not found.predicted and (found.context, found.device) == (0, DEVICE)
    assert bf16.decode_share == pytest.approx(0.5)
    assert bf16.throughput_share == pytest.approx(500 / bf16.best.throughput_tok_s)
    assert (bf16.measured_gain, bf16.measured_gain_interval, bf16.printed_kv_tokens) == (7.0, seen.gain_interval, 9)
    nothing = Missing(reason="nothing was measured on this device")
    assert fp8.decode_share == fp8.throughput_share == fp8.measured_gain == fp8.printed_kv_tokens == nothing
    assert fp8.measured_gain_interval is None
    assert roofline(DEVICE, entries(bf16=BF16), LOAD, 0.9, 0).predicted
    assert roofline(DEVICE, [], LOAD, 0.9, 0).rows == ()


def test_notes_say_what_limits_the_figures() -> None:
    def notes(footprint: Footprint, device: Device = DEVICE) -> tuple[str, ...]:
        return roofline(device, entries(bf16=footprint), LOAD, 0.9, 0).notes

    assert notes(BF16) == ()
    # The bound of 0.3 ms is that of a hundred launches.
    small = BF16.model_copy(update={"step_bytes": 0.299e9})
    assert [note.startswith("The lower bound per token is 0.3 ms, less than") for note in notes(small)] == [True]
    assert notes(BF16.model_copy(update={"step_bytes": 0.301e9})) == ()
    unknown = DEVICE.model_copy(update={"tflops": {}})
    assert notes(BF16, unknown) == (
        "Products per second are not known, so the lower bounds are those of memory alone.",
    )
    mixture = BF16.model_copy(update={"experts": 128, "chosen": 8, "expert_bytes": 1e9})
    assert [note.startswith("A token passes 8 of 128 experts in each layer.") for note in notes(mixture)] == [True]
    silent = DEVICE.model_copy(update={"bandwidth_gb_s": None, "tflops": {}})
    assert notes(BF16, silent) == ()


def test_assumed_lengths_are_noted_only_where_something_was_measured() -> None:
    seen = {"bf16": MeasuredSpeed(throughput_tok_s=500.0, gain_percent=7.0, gain_interval=None, tpot_ms_alone=4.4)}
    assumed = LOAD.model_copy(update={"spread": "exponential"})
    spread = roofline(DEVICE, entries(bf16=BF16), assumed, 0.9, 0, seen)
    equal = roofline(DEVICE, entries(bf16=BF16), LOAD, 0.9, 0)
    assert spread.notes == (
        "The lengths of the requests were not stored, so they are assumed (exponential). If all had the mean lengths, "
        f"the simulated throughput of BF16 would be {equal.rows[0].best.throughput_tok_s:,.0f} instead of "
        f"{spread.rows[0].best.throughput_tok_s:,.0f} tok/s.",
    )
    assert roofline(DEVICE, entries(bf16=BF16), assumed, 0.9, 0).notes == ()
    assert roofline(DEVICE, entries(bf16=Missing(reason="no shape")), assumed, 0.9, 0, seen).notes == ()
    recorded = assumed.model_copy(update={"recorded": (((1000, 100),) * 10,)})
    assert roofline(DEVICE, entries(bf16=BF16), recorded, 0.9, 0, seen).notes == ()


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (DEVICE.model_copy(update={"bandwidth_gb_s": None}), "the memory bandwidth of this machine was not measured"),
        (DEVICE.model_copy(update={"tflops": {}}), "products per second of this machine are not known"),
        (DEVICE.model_copy(update={"memory_mib": 1000.0}), "the weights do not fit into 1,000 MiB"),
    ],
)
def test_without_a_figure_of_the_device_nothing_is_simulated(device: Device, reason: str) -> None:
    (row,) = roofline(device, entries(bf16=BF16), LOAD, 0.9, 0).rows
    assert row.best == Missing(reason=reason)
