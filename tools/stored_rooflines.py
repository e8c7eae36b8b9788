"""Roofline and KV cache of the stored benchmarks, as tables of `docs/results/README.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.compare.roofline.batching import RooflineLoad
from pipeline.compare.roofline.device import Device, Footprint
from pipeline.compare.roofline.memory_fit import kv_tokens
from pipeline.compare.roofline.model import Entry, MeasuredSpeed, Roofline, RooflineRow, roofline
from pipeline.compare.statements import signed
from pipeline.compare.stats.repeats import Change
from pipeline.config import Variant
from pipeline.hardware.gpus import gpu_of
from pipeline.results.base import Missing
from pipeline.results.metrics import THROUGHPUT, TPOT
from pipeline.stages.report.collect.footprints import of_config
from pipeline.stages.report.collect.published import protocols
from tools.stored_results import (
    FOLDER,
    HOST_A,
    HOSTS,
    LABELS,
    LADDER,
    STREAM,
    STUDY,
    against_bf16,
    between,
    cell,
    compared,
    mark,
    row,
    speed,
)

UTILIZATION = 0.9


def _footprint(variant: str) -> Footprint:
    found = of_config(protocols()[0][0].config, Variant.parse(variant))
    assert not isinstance(found, Missing)
    return found


def _roofline(host: str, variants: Sequence[str], protocol: str = STUDY) -> Roofline:
    """Return the roofline of a host, with its own memory and the memory bandwidth that BF16's benchmark measured."""
    bf16 = speed(host, "bf16", protocol)
    assert bf16 is not None and bf16.memory_bandwidth is not None
    (shown,) = (load for load in bf16.loads if load.name == bf16.headline)
    gpu = gpu_of(bf16.machine)
    assert gpu is not None
    device = Device.of(gpu).model_copy(update={"bandwidth_gb_s": bf16.memory_bandwidth / 1e9, "source": "measured"})
    load = RooflineLoad(
        requests=shown.num_prompts,
        mean_input=sum(shown.input_tokens) / shown.completed,
        mean_output=sum(shown.output_tokens) / shown.completed,
        source="mean lengths",
    )
    entries = [
        Entry(name=v, label=LABELS[v], footprint=_footprint(v), is_weight_only=v in ("awq", "w4a16")) for v in variants
    ]
    seen = {variant: _seen(host, variant, protocol) for variant in variants}
    return roofline(device, entries, load, UTILIZATION, 1, seen)


def _seen(host: str, variant: str, protocol: str) -> MeasuredSpeed:
    found = row(host, variant, protocol).speed[THROUGHPUT.name]
    assert not isinstance(found, Missing)
    own = found.change if isinstance(found.change, Change) else None
    alone = cell(host, variant, TPOT.name, LADDER, "concurrency 1") if protocol == STUDY else None
    return MeasuredSpeed(
        throughput_tok_s=found.measured.mean,
        gain_percent=Missing(reason="baseline") if own is None else own.percent,
        gain_interval=None if own is None else own.interval,
        tpot_ms_alone=Missing(reason="not measured") if alone is None else alone.measured.mean,
    )


def rooflines() -> Iterator[tuple[str, ...]]:
    """Yield the roofline of each variant beside its measurement."""
    yield (
        "H200",
        "decode bound, ms",
        "over measured TPOT",
        "simulated, tok/s",
        "predicted gain",
        "measured gain",
        "measured over simulated",
    )
    hosts = {host: [each.name for each in compared(host, STUDY).rows] for host in HOSTS}
    for host, name in HOSTS.items():
        for each in _roofline(host, hosts[host]).rows:
            yield _roofline_row(each, f"{each.label}, host {name}", host, STUDY)
    each = _roofline(HOST_A, ["bf16", "fp8_static"], STREAM).rows[1]
    yield _roofline_row(each, "FP8 static, host A, eight tokens at a time", HOST_A, STREAM)


def _roofline_row(each: RooflineRow, title: str, host: str, protocol: str) -> tuple[str, ...]:
    best, bound, gain = each.best, each.decode_ms, each.gain_percent
    assert not isinstance(best, Missing) and not isinstance(bound, Missing) and not isinstance(gain, Missing)
    alone = "not measured"
    if not isinstance(each.decode_share, Missing):
        alone = f"{100 * each.decode_share:.0f} %{mark(host, (each.name,), LADDER, 'concurrency 1')}"
    share = "" if isinstance(each.throughput_share, Missing) else f"{100 * each.throughput_share:.0f} %"
    predicted, measured = "", ""
    if each.name != "bf16":
        predicted = f"{'≤ ' if each.is_weight_only else ''}{signed(gain, 0)} %"
        measured = against_bf16(host, each.name, THROUGHPUT.name, protocol)
    return (title, f"{bound:.2f}", alone, f"{best.throughput_tok_s:,.0f}", predicted, measured, share)


def kv_cache() -> Iterator[tuple[str, ...]]:
    """Yield the KV cache that vLLM printed in each stored benchmark, and the predicted one."""
    yield ("benchmark", "printed by vLLM, tokens", "predicted", "error")
    for name, printed, predicted in _kv_tokens():
        yield (name, f"{printed:,}", f"{predicted:,}", f"{signed(100 * (predicted / printed - 1), 2)} %")


def _kv_tokens() -> Iterator[tuple[str, int, int]]:
    for path in sorted(FOLDER.glob("qwen3_8b_*/*/*/manifest.json")):
        host, variant, protocol = path.parts[-4:-1]
        found = speed(host, variant, protocol)
        assert found is not None and found.memory is not None and found.memory.kv_cache_tokens is not None
        gpu = gpu_of(found.machine)
        assert gpu is not None
        predicted = kv_tokens(_footprint(variant), Device.of(gpu), UTILIZATION)
        assert not isinstance(predicted, Missing)
        yield f"`{host}/{variant}/{protocol}`", found.memory.kv_cache_tokens, predicted


def kv_error(gpu: str) -> str:
    """Format the errors of the predicted KV cache on one kind of GPU, in percent."""
    return between([100 * (ours / printed - 1) for name, printed, ours in _kv_tokens() if gpu in name], 1)


def printed_tokens(variant: str) -> str:
    """Format the KV cache that vLLM printed on host A, in tokens."""
    found = speed(HOST_A, variant, STUDY)
    assert found is not None and found.memory is not None
    return f"{found.memory.kv_cache_tokens:,}"
