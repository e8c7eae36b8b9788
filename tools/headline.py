"""The measured figures of `README.md`, `docs/benchmark.md` and `docs/results/README.md`, from the stored result files.

`make docs` writes each figure between `<!-- figure: NAME -->` and `<!-- end -->`, and each table between
`<!-- measured: NAME -->` and `<!-- end -->`; the text around them is written by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import pairwise, zip_longest
from typing import Any

from pipeline.artifacts.manifest import MANIFEST, Manifest
from pipeline.compare.published.tables import SpeedTable, percent_change
from pipeline.compare.statements import signed
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.prediction import one_more_change
from pipeline.compare.stats.repeats import relative_change
from pipeline.results.base import Missing
from pipeline.results.eval import EvalResult
from pipeline.results.metrics import THROUGHPUT, TPOT, TTFT
from pipeline.results.quantize import QuantizeResult
from pipeline.stages.report.collect.published import published_tables
from tools.derived import rewrite
from tools.stored_results import (
    ALL_CORES,
    DEMO,
    FAILED,
    FLOATS,
    FOLDER,
    GRAPHS,
    H100,
    HOST_A,
    HOST_B,
    HOSTS,
    INTEGERS,
    LABELS,
    LADDER,
    MORE_FORMATS,
    SMALL_GRAPHS,
    STREAM,
    STUDY,
    TRITON,
    TWO_GPUS,
    against_bf16,
    between,
    blocks_of,
    both_hosts,
    by_start,
    cell,
    change,
    compared,
    failed_guards,
    mark,
    over_starts,
    percent,
    results_of,
    span,
    speed,
    start_changes,
    values,
)
from tools.stored_rooflines import kv_cache, kv_error, printed_tokens, rooflines

ROOT = FOLDER.parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmark.md", FOLDER / "README.md")
FIGURE = re.compile(r"(<!-- figure: (?P<name>[^>]+?) -->).*?(<!-- end -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- measured: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
METRICS = (THROUGHPUT.name, TTFT.name, TPOT.name)
IN_FLIGHT = (1, 4, 16, 64, 256)
# One trained model: its quality and its speed.
TRAINED = "smollm2_h200"


def page(text: str) -> str:
    """Return the page with every figure and table rendered again."""
    text = TABLE.sub(lambda found: found[1] + TABLES[found["name"]]() + found[3], text)
    return FIGURE.sub(lambda found: found[1] + FIGURES[found["name"]]() + found[3], text)


def _by_stream_interval(variant: str) -> str:
    """Format the change of a variant's throughput by --stream-interval=8, on host A."""
    found = relative_change(*(values(HOST_A, variant, THROUGHPUT.name, protocol) for protocol in (STREAM, STUDY)))
    assert not isinstance(found, Missing)
    return percent(found)


def _by_kernel(variant: str) -> str:
    """Format the change of a variant's throughput by Triton's attention instead of FlashAttention's."""
    found = relative_change(*(values(host, variant, THROUGHPUT.name) for host in (TRITON, MORE_FORMATS)))
    assert not isinstance(found, Missing)
    return percent(found)


def _goodput(host: str, variant: str) -> str:
    found = speed(host, variant, LADDER)
    assert found is not None and found.goodput is not None and found.goodput.met is not None
    return f"{found.goodput.met:.1f}"


def _spread() -> str:
    """Format the distance between the highest and the lowest repeat of each variant of host A, over their mean."""
    repeats = [values(HOST_A, each.name, THROUGHPUT.name) for each in compared(HOST_A, STUDY).rows]
    return between([100 * (max(each) - min(each)) * len(each) / sum(each) for each in repeats], 0)


def _minutes(host: str) -> str:
    """Format the minutes from the first checkpoint to the last benchmark of a host."""
    spans = []
    for path in (*(FOLDER / host).glob("*/quantize.json"), *(FOLDER / host).glob(f"*/*/{MANIFEST}")):
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        start = datetime.fromisoformat(manifest.started)
        spans.append((start, start + timedelta(seconds=manifest.seconds)))
    minutes = (max(end for _, end in spans) - min(start for start, _ in spans)) / timedelta(minutes=1)
    return f"{minutes:.0f}"


def _making_gib() -> str:
    """Format the most GPU memory that making a checkpoint of Qwen3-8B's shape took, GiB."""
    peaks = []
    for path in FOLDER.glob("*/*/quantize.json"):
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        if manifest.model == "qwen3_8b":
            peaks.append(QuantizeResult.model_validate(manifest.results).peak_gpu_bytes or 0)
    return f"{max(peaks) / 2**30:.1f}"


def _few(load: str) -> str:
    """Format the change of FP8 static's TPOT with few requests in flight, on all cores."""
    return against_bf16(ALL_CORES, "fp8_static", TPOT.name, LADDER, load)


def _each_start(metric: str) -> str:
    """Format FP8 static's change in each start of the servers with all cores; a start alone has no interval."""
    return " and ".join(
        f"{signed(100 * math.expm1(ratio))} %" for ratio in start_changes(ALL_CORES, "fp8_static", metric)
    )


def _three_starts(metric: str) -> str:
    """Format FP8 static's change over the three starts with CUDA graphs to 1024 and unpinned cores, on two GPUs."""
    hosts = (ALL_CORES, GRAPHS)
    marks = (mark(host, ("fp8_static", "bf16"), STUDY) for host in hosts)
    return percent(over_starts(hosts, "fp8_static", metric)) + next(filter(None, marks), "")


def _second_start(variant: str) -> str:
    """Format how much more tokens a second a variant's second start made than its first."""
    first, second = (_mean(repeats) for repeats in by_start(ALL_CORES, variant, THROUGHPUT.name))
    return f"{signed(100 * (second / first - 1))} %"


def _failed_of_all_cores() -> str:
    """Name the failed guards of the benchmarks with all cores."""
    loads = ((STUDY, "rate inf"), (LADDER, "concurrency 1"), (LADDER, "concurrency 16"))
    found = [
        f"`{guard}` of {LABELS[variant]} ({load})"
        for variant in ("bf16", "fp8_static")
        for protocol, load in loads
        for guard in failed_guards(ALL_CORES, variant, protocol, load) or ()
    ]
    return ", ".join(found) or "none"


def _ready(host: str, start: int) -> str:
    """Format the seconds until a server was ready in a run on two GPUs, at each variant's first or second start."""
    found: list[float] = []
    for folder in (FOLDER / host).glob(f"*/{STUDY}"):
        blocks = sorted(blocks_of(folder), key=lambda each: each.started)
        found += [each.server.ready_s for each in results_of(blocks[start : start + 1]) if each.server.ready_s]
    return f"{min(found):.0f} to {max(found):.0f}"


def _contrast() -> str:
    """Format the difference between the two hosts' changes of FP8 static's throughput."""
    hosts = [change(host, "fp8_static", THROUGHPUT.name) for host in HOSTS]
    return f"{hosts[0].percent - hosts[1].percent:.0f}"


def _demo_decision() -> str:
    """Return the head of the demo's page."""
    decision = json.loads((FOLDER / DEMO / "report.json").read_text(encoding="utf-8"))["decision"]
    return f"{decision['title']} {decision['text']}"


FIGURES: Mapping[str, Callable[[], str]] = {
    "demo, decision": _demo_decision,
    **{
        f"{variant} throughput, two GPUs": partial(against_bf16, TWO_GPUS, variant, THROUGHPUT.name)
        for variant in ("fp8_static", "int8_dynamic", "w4a16", "awq", "bf16@tp2")
    },
    **{
        f"{variant} throughput, more formats": partial(against_bf16, MORE_FORMATS, variant, THROUGHPUT.name)
        for variant in ("fp8_dynamic", "gptq", "bnb_nf4", "bf16+fp8_e4m3")
    },
    "FP8 KV throughput, Triton": partial(against_bf16, TRITON, "bf16+fp8_e4m3", THROUGHPUT.name),
    "BF16 throughput, Triton against FlashAttention": lambda: _by_kernel("bf16"),
    "first starts, two GPUs": partial(_ready, TWO_GPUS, 0),
    "second starts, two GPUs": partial(_ready, TWO_GPUS, 1),
    "first starts, more formats": partial(_ready, MORE_FORMATS, 0),
    "second starts, more formats": partial(_ready, MORE_FORMATS, 1),
    "minutes of four variants": lambda: _minutes(FLOATS),
    "memory of making": lambda: _making_gib(),
    "fp8 static throughput, all cores": lambda: against_bf16(ALL_CORES, "fp8_static", THROUGHPUT.name),
    "fp8 static throughput, each start": lambda: _each_start(THROUGHPUT.name),
    "fp8 static throughput, three starts": lambda: _three_starts(THROUGHPUT.name),
    "fp8 static TPOT, all cores": lambda: against_bf16(ALL_CORES, "fp8_static", TPOT.name),
    "fp8 static TPOT, three starts": lambda: _three_starts(TPOT.name),
    "fp8 static TPOT, one in flight": lambda: _few("concurrency 1"),
    "fp8 static TPOT, 16 in flight": lambda: _few("concurrency 16"),
    "failed guards, all cores": lambda: _failed_of_all_cores(),
    "bf16, second start": lambda: _second_start("bf16"),
    "fp8 static, second start": lambda: _second_start("fp8_static"),
    "fp8 static throughput, two blocks": lambda: against_bf16(FLOATS, "fp8_static", THROUGHPUT.name),
    "int8 throughput, two blocks": lambda: against_bf16(INTEGERS, "int8_dynamic", THROUGHPUT.name),
    "fp8 static throughput, graphs to 1024": lambda: against_bf16(GRAPHS, "fp8_static", THROUGHPUT.name),
    "fp8 static throughput, both hosts": lambda: percent(both_hosts("fp8_static", THROUGHPUT.name)),
    "fp8 static throughput, host A": lambda: against_bf16(HOST_A, "fp8_static", THROUGHPUT.name),
    "fp8 static throughput, host B": lambda: against_bf16(HOST_B, "fp8_static", THROUGHPUT.name),
    "fp8 static throughput, stream interval 8": lambda: against_bf16(HOST_A, "fp8_static", THROUGHPUT.name, STREAM),
    "fp8 static throughput, 256 in flight, host B": lambda: against_bf16(
        HOST_B, "fp8_static", THROUGHPUT.name, LADDER, "concurrency 256"
    ),
    "bf16 by stream interval": lambda: _by_stream_interval("bf16"),
    "fp8 static by stream interval": lambda: _by_stream_interval("fp8_static"),
    "points between the hosts": _contrast,
    "awq throughput": lambda: against_bf16(HOST_A, "awq", THROUGHPUT.name),
    "spread of repeats": _spread,
    "kv tokens bf16": lambda: printed_tokens("bf16"),
    "kv tokens fp8 cache": lambda: printed_tokens("bf16+fp8_e4m3"),
    "kv error h200": lambda: kv_error("h200"),
    "kv error h100": lambda: kv_error("h100"),
    "study agreement": lambda: _agreement(),
    "trained model, order": lambda: _trained_order(),
    "trained model, seconds of bf16": lambda: _trained_seconds(is_baseline=True),
    "trained model, seconds of the others": lambda: _trained_seconds(is_baseline=False),
    "trained model, seconds of calibration": lambda: _trained_calibration(),
    "highest rate bf16, host A": lambda: _goodput(HOST_A, "bf16"),
    "highest rate bf16, host B": lambda: f"{_goodput(HOST_B, 'bf16')}{FAILED}",
    "highest rate fp8 static, host B": lambda: f"{_goodput(HOST_B, 'fp8_static')}{FAILED}",
}


def _fp8_static() -> Iterator[tuple[str, ...]]:
    """Yield FP8 static against BF16: each host, both, with the other stream interval, and as published."""
    yield ("FP8 static against BF16", "repeats", "throughput", "TTFT", "TPOT")
    for host, name in HOSTS.items():
        repeats = len(values(host, "fp8_static", THROUGHPUT.name))
        changes = [against_bf16(host, "fp8_static", metric) for metric in METRICS]
        yield (f"study's protocol, host {name}", f"{repeats}", *changes)
    yield ("study's protocol, both hosts together", "", *(percent(both_hosts("fp8_static", m)) for m in METRICS))
    repeats = len(values(HOST_A, "fp8_static", THROUGHPUT.name, STREAM))
    changes = [against_bf16(HOST_A, "fp8_static", metric, STREAM) for metric in METRICS]
    yield ('host A with `serve.extra_args=["--stream-interval=8"]`', f"{repeats}", *changes)
    published = [f"{signed(_published('FP8 Static', metric))} %" for metric in METRICS]
    yield ("published, on an H100", "1", *published)
    for host, name in HOSTS.items():
        within = [_within(host, metric) for metric in METRICS]
        yield (f"the published change lies in one more run of host {name}, 95 %", "", *within)


def _agreement() -> str:
    """Count the published changes of FP8 static that lie in the prediction intervals of both hosts."""
    found = [_within(host, metric).startswith("yes") for host in HOSTS for metric in METRICS]
    return f"{sum(found)} of {len(found)}"


def _published(label: str, metric: str) -> float:
    """Return a change against BF16 that the study published for an H100."""
    table = next(each for each in published_tables() if each.name == "study_h100")
    assert isinstance(table, SpeedTable)
    found = next(each for each in table.rows if each.label == label)
    return percent_change(found.figures[metric], table.baseline.figures[metric])


def _within(host: str, metric: str) -> str:
    """Say if FP8 static's published change lies in the prediction interval of one more run of each, and give that."""
    around = one_more_change(values(host, "fp8_static", metric), values(host, "bf16", metric))
    assert around is not None
    inside = around.contains(_published("FP8 Static", metric))
    return f"{'yes' if inside else 'no'} ({span(around)})"


def _study(host: str) -> Iterator[tuple[str, ...]]:
    """Yield every variant of a host under the study's protocol."""
    yield ("variant", "total tok/s of each repeat", "throughput against BF16", "TTFT", "TPOT")
    for each in compared(host, STUDY).rows:
        repeats = ", ".join(f"{value:,.0f}" for value in values(host, each.name, THROUGHPUT.name))
        if each.is_baseline:
            means = [f"{sum(v) / len(v):,.0f} ms" for m in METRICS[1:] if (v := values(host, each.name, m))]
            yield (each.label, repeats, "", *means)
        else:
            yield (each.label, repeats, *(against_bf16(host, each.name, metric) for metric in METRICS))


def _ladder() -> Iterator[tuple[str, ...]]:
    """Yield the ladder of host A: time per token and throughput by requests in flight."""
    yield ("in flight", "TPOT, ms: BF16", "FP8 static", "change", "throughput")
    for count in IN_FLIGHT:
        load = f"concurrency {count}"
        ours, theirs = (cell(HOST_A, variant, TPOT.name, LADDER, load) for variant in ("fp8_static", "bf16"))
        assert theirs is not None
        shown = "not reached in time" if ours is None else f"{ours.measured.mean:.3g}"
        changes = [against_bf16(HOST_A, "fp8_static", metric, LADDER, load) for metric in (TPOT.name, THROUGHPUT.name)]
        yield (f"{count}", f"{theirs.measured.mean:.3g}", shown, *changes)


def _h100_to_h200() -> Iterator[tuple[str, ...]]:
    """Yield BF16's time per token on both GPUs, one repeat each."""
    yield ("BF16 in flight", "TPOT on an H100, ms", "on an H200 (host B), ms", "difference")
    for count in IN_FLIGHT:
        load = f"concurrency {count}"
        found = {host: cell(host, "bf16", TPOT.name, LADDER, load) for host in (H100, HOST_B)}
        means = {host: each.measured.mean for host, each in found.items() if each is not None}
        if len(means) == 2:
            shown = [f"{mean:.2f}{mark(host, ('bf16',), LADDER, load)}" for host, mean in means.items()]
            yield (f"{count}", *shown, f"{means[H100] - means[HOST_B]:.2f}")


def _guards() -> Iterator[tuple[str, ...]]:
    """Yield the benchmarks and loads with failed guards, or without any recorded."""
    yield ("benchmark", "load", "failed guards")
    for path in sorted(path for path in FOLDER.glob("qwen3_8b_*/*/*") if path.is_dir()):
        host, variant, protocol = path.parts[-3:]
        found = speed(host, variant, protocol)
        if found is None:
            continue
        name = f"`{host}/{variant}/{protocol}`"
        if not found.guards:
            yield (name, "all", "not recorded: the benchmark was not finished")
        for load in dict.fromkeys(guard.load for guard in found.guards if guard.passed is False):
            failed = [guard.name for guard in found.guards if guard.load == load and guard.passed is False]
            yield (name, load or "all", ", ".join(failed))


def _graphs() -> Iterator[tuple[str, ...]]:
    """Yield BF16 and FP8 static with CUDA graphs to 1024 requests, and BF16 with graphs to 512."""
    yield ("", "BF16, graphs to 512", "BF16, to 1024", "FP8 static, to 1024", "FP8 static against BF16, to 1024")
    shown = (("bf16", SMALL_GRAPHS), ("bf16", STUDY), ("fp8_static", STUDY))
    repeats = (", ".join(f"{each:,.0f}" for each in values(GRAPHS, v, THROUGHPUT.name, p)) for v, p in shown)
    yield ("total tok/s of each repeat", *repeats, against_bf16(GRAPHS, "fp8_static", THROUGHPUT.name))
    for metric, title, digits in ((TTFT.name, "TTFT, ms", 0), (TPOT.name, "TPOT, ms", 1)):
        means = (f"{_mean(values(GRAPHS, v, metric, p)):,.{digits}f}" for v, p in shown)
        yield (title, *means, against_bf16(GRAPHS, "fp8_static", metric))
    for role, title in (("gpu", "GPU busy, %"), ("api_server", "busiest API server, % of a core")):
        yield (title, *(_busy(GRAPHS, v, p, role) for v, p in shown), "")
    for load in ("concurrency 1", "concurrency 16"):
        means = (f"{_at(GRAPHS, variant, load):.2f}" for variant in ("bf16", "fp8_static"))
        found = against_bf16(GRAPHS, "fp8_static", TPOT.name, LADDER, load)
        yield (f"TPOT with {load.split()[1]} in flight, ms", "not measured", *means, found)


def _two_blocks() -> Iterator[tuple[str, ...]]:
    """Yield the formats of the two GPUs that were measured in two blocks, each against BF16 on its own GPU."""
    yield ("", "GPU", "total tok/s", "throughput", "TTFT", "TPOT", "TPOT with 1 in flight", "TPOT with 16 in flight")
    for host, gpu in ((FLOATS, "1"), (INTEGERS, "2")):
        for each in compared(host, STUDY).rows:
            mean = f"{_mean(values(host, each.name, THROUGHPUT.name)):,.0f}"
            if each.is_baseline:
                yield (each.label, gpu, mean, *["baseline"] * 5)
                continue
            changes = (against_bf16(host, each.name, metric) for metric in (THROUGHPUT.name, TTFT.name, TPOT.name))
            levels = (against_bf16(host, each.name, TPOT.name, LADDER, f"concurrency {number}") for number in (1, 16))
            yield (each.label, gpu, mean, *changes, *levels)


def _two_gpus(host: str) -> Iterator[tuple[str, ...]]:
    """Yield the formats of a run that divided its blocks between two GPUs."""
    yield ("", "total tok/s of each repeat, GPU 1", "GPU 2", "throughput", "TTFT", "TPOT")
    for each in compared(host, STUDY).rows:
        starts = [
            ", ".join(f"{value:,.0f}" for value in repeats) for repeats in by_start(host, each.name, THROUGHPUT.name)
        ]
        metrics = (THROUGHPUT.name, TTFT.name, TPOT.name)
        changes = (against_bf16(host, each.name, metric) for metric in metrics)
        yield (each.label, *[*starts, "both"][:2], *(["baseline"] * 3 if each.is_baseline else changes))


def _all_cores() -> Iterator[tuple[str, ...]]:
    """Yield BF16 and FP8 static in two blocks with all cores, beside what was published."""
    shown = ("bf16", "fp8_static")
    yield ("", "BF16", "FP8 static", "FP8 static against BF16", "published, on an H100")
    changes = start_changes(ALL_CORES, "fp8_static", THROUGHPUT.name)
    for start, ratio in enumerate(changes):
        repeats = (by_start(ALL_CORES, variant, THROUGHPUT.name)[start] for variant in shown)
        cells = (", ".join(f"{each:,.0f}" for each in found) for found in repeats)
        yield (f"total tok/s of each repeat, start {start + 1}", *cells, f"{signed(100 * math.expm1(ratio))} %", "")
    for metric, title, digits in (
        (THROUGHPUT.name, "total tok/s, both starts", 0),
        (TTFT.name, "TTFT, ms", 0),
        (TPOT.name, "TPOT, ms", 1),
    ):
        means = (f"{_mean(values(ALL_CORES, variant, metric)):,.{digits}f}" for variant in shown)
        published = f"{signed(_published('FP8 Static', metric))} %"
        yield (title, *means, against_bf16(ALL_CORES, "fp8_static", metric), published)
    for load in ("concurrency 1", "concurrency 16"):
        means = (f"{_at(ALL_CORES, variant, load):.2f}" for variant in shown)
        yield (f"TPOT with {load.split()[1]} in flight, ms", *means, _few(load), "")
    for start in range(len(changes)):
        shares = (_busy(ALL_CORES, variant, STUDY, "gpu", start) for variant in shown)
        yield (f"GPU busy, %, start {start + 1}", *shares, "", "")
    for role, title in (("api_server", "API server, % of a core"), ("client", "load generator, % of a core")):
        yield (title, *(_busy(ALL_CORES, variant, STUDY, role) for variant in shown), "", "")
    for name, title in (("sm_mhz", "median clock under load, MHz"), ("power_w", "median power under load, W")):
        yield (title, *(_under_load(variant, name) for variant in shown), "", "")


def _under_load(variant: str, name: str) -> str:
    """Return the least and the largest median of a GPU's reading over the repeats of the study's load."""
    found = speed(ALL_CORES, variant, STUDY)
    assert found is not None
    loads = [each.gpu_load for load in found.loads for each in load.conditions if each.gpu_load is not None]
    medians = [getattr(each, name) for each in loads]
    return f"{min(medians):,.0f} to {max(medians):,.0f}"


def _trained() -> Iterator[tuple[str, ...]]:
    """Yield the variants of the trained model, the closest to BF16 first: what it took to make them, and divergence."""
    head = ("size", "gate", "made in, s", "peak GPU memory, MB", "perplexity", "KL from BF16, 10⁻³ nats per token")
    yield ("", *head, "same first token, %")
    for row in _trained_rows():
        cell = row["divergence"]
        made = _trained_manifest(row["name"], "quantize.json")
        result = QuantizeResult.model_validate(made.results)
        kl = cell["kl"]
        yield (
            f"{row['label']}, asked twice" if row["is_baseline"] else row["label"],
            f"{row['size']['ratio']:.2f}",
            "passed" if _trained_manifest(row["name"], f"verify/{MANIFEST}").status == "ok" else "failed",
            "linked" if row["is_baseline"] else f"{made.seconds:.1f}",
            "" if result.peak_gpu_bytes is None else f"{result.peak_gpu_bytes / 1e6:,.0f}",
            f"{row['perplexity']:.2f}",
            f"{1e3 * kl['value']:.1f} ({1e3 * kl['interval']['low']:.1f} to {1e3 * kl['interval']['high']:.1f})",
            f"{100 * cell['agreement']['value']:.1f}",
        )


def _trained_tasks() -> Iterator[tuple[str, ...]]:
    """Yield the scores of the trained model's variants, each with its paired difference and verdict, and what was cut.

    The verdict is on the loss, corrected for all comparisons of the table; so is the p of answers that were cut.
    """
    tasks = list(_trained_rows()[0]["tasks"])
    generated = [task for task in tasks if any(row["tasks"][task]["cut"] for row in _trained_rows())]
    yield ("", *(f"{task}, %" for task in tasks), *(f"cut, {task}" for task in generated))
    for row in _trained_rows():
        cells = [row["tasks"][task] for task in tasks]
        yield (row["label"], *map(_score, cells), *(_cut(row, task) for task in generated))


def _trained_speed() -> Iterator[tuple[str, ...]]:
    """Yield the trained model's throughput under the study's load, and who was busy meanwhile."""
    yield ("", "tokens per second", "against BF16, %", "GPU busy, %", "API server, % of a core")
    for row in _trained_rows():
        cell = row["speed"][THROUGHPUT.name]
        change = cell["change"]
        yield (
            row["label"],
            f"{cell['measured']['mean']:,.0f}",
            "" if row["is_baseline"] else f"{signed(change['percent'])} ({span(Interval(**change['interval']))})",
            _busy(TRAINED, row["name"], STUDY, "gpu"),
            _busy(TRAINED, row["name"], STUDY, "api_server"),
        )


def _score(cell: Mapping[str, Any]) -> str:
    score, change = f"{100 * cell['accuracy']['value']:.2f}", cell["change"]
    if "difference" not in change:
        return score
    low, high = (signed(100 * change["interval"][end], 2) for end in ("low", "high"))
    return f"{score} ({low} to {high}), {cell['loss']['kind']}"


def _cut(row: Mapping[str, Any], task: str) -> str:
    """Format the answers of a task that ended at their budget of tokens, with the p of the pairs with BF16's."""
    asked = _trained_manifest(row["name"], f"eval/{MANIFEST}").results["tasks"][task]
    cell = row["tasks"][task]["cut"]
    return f"{asked['unfinished']} of {asked['n']:,}" + (f" (p {_p(cell['p_holm'])})" if cell else "")


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.2g}"


@cache
def _trained_rows() -> list[dict[str, Any]]:
    """Return the rows of the trained model's stored report, the closest to BF16 first."""
    report = json.loads((FOLDER / TRAINED / "report.json").read_text(encoding="utf-8"))
    return sorted(report["comparison"]["rows"], key=lambda row: float(row["divergence"]["kl"]["value"]))


def _trained_manifest(variant: str, path: str) -> Manifest:
    return Manifest.model_validate_json((FOLDER / TRAINED / variant / path).read_text(encoding="utf-8"))


def _trained_order() -> str:
    """Name the variants in the order of their divergence, with an equals sign where the intervals overlap."""
    rows = [row for row in _trained_rows() if not row["is_baseline"]]
    text = str(rows[0]["label"])
    for near, far in pairwise(rows):
        apart = near["divergence"]["kl"]["interval"]["high"] < far["divergence"]["kl"]["interval"]["low"]
        text += f" {'<' if apart else '≈'} {far['label']}"
    return text


def _trained_seconds(*, is_baseline: bool) -> str:
    """Format the seconds of each part of BF16's evaluation, or the least and the most of the others'."""
    variants = [row["name"] for row in _trained_rows() if row["is_baseline"] is is_baseline]
    results = [EvalResult.model_validate(_trained_manifest(each, f"eval/{MANIFEST}").results) for each in variants]
    digits = 1 if len(results) == 1 else 0
    parts = [f"{task} {between([each.seconds[task] for each in results], digits)}" for task in results[0].seconds]
    seconds = [each.divergence.seconds for each in results if each.divergence and each.divergence.seconds]
    return f"{', '.join(parts)} and divergence {between(seconds, digits)}"


def _trained_calibration() -> str:
    """Format the seconds of the trained model's calibration."""
    return f"{_trained_manifest('calibrate', MANIFEST).seconds:.1f}"


def _mean(repeats: Sequence[float]) -> float:
    return sum(repeats) / len(repeats)


def _busy(host: str, variant: str, protocol: str, role: str, start: int | None = None) -> str:
    """Return the least and the largest use of the GPU or a process over repeats of the study's load, in percent."""
    found = speed(host, variant, protocol)
    assert found is not None
    shares = [
        getattr(each.busy, role)
        for load in found.loads
        for block, each in zip_longest(load.blocks, load.conditions)
        if each.busy and start in (None, block)
    ]
    low, high = round(100 * min(shares)), round(100 * max(shares))
    return f"{low}" if low == high else f"{low} to {high}"


def _at(host: str, variant: str, load: str) -> float:
    """Return the mean TPOT of a level of the ladder."""
    found = speed(host, variant, LADDER)
    level = found.load(load) if found is not None else None
    assert level is not None
    return _mean(level.metrics[TPOT.name].values)


def _table(rows: Callable[[], Iterator[tuple[str, ...]]]) -> Callable[[], str]:
    def rendered() -> str:
        head, *lines = ("| " + " | ".join(line) + " |" for line in rows())
        rule = "|" + "---|" * (head.count("|") - 1)
        return "\n".join([head, rule, *lines]).replace("|  |", "| |") + "\n"

    return rendered


TABLES: Mapping[str, Callable[[], str]] = {
    "fp8 static": _table(_fp8_static),
    "study, host A": _table(lambda: _study(HOST_A)),
    "study, host B": _table(lambda: _study(HOST_B)),
    "ladder": _table(_ladder),
    "h100 to h200": _table(_h100_to_h200),
    "roofline": _table(rooflines),
    "kv cache": _table(kv_cache),
    "guards": _table(_guards),
    "graphs": _table(_graphs),
    "two blocks": _table(_two_blocks),
    "all cores": _table(_all_cores),
    "two GPUs": _table(lambda: _two_gpus(TWO_GPUS)),
    "more formats": _table(lambda: _two_gpus(MORE_FORMATS)),
    "Triton attention": _table(lambda: _two_gpus(TRITON)),
    "trained model": _table(_trained),
    "trained model, speed": _table(_trained_speed),
    "trained model, tasks": _table(_trained_tasks),
}


def main() -> None:
    """Rewrite the pages; print which changed."""
    for each in PAGES:
        rewrite(each, page)


if __name__ == "__main__":
    main()
