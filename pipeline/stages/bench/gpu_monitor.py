"""Samples of a GPU by `nvidia-smi`: clock and what holds it back, power, temperature, memory, utilization."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.hardware.probe import nvidia_smi
from pipeline.results.bench import GpuLoad, Span

FIELDS = {
    "sm_mhz": "clocks.sm",
    "max_sm_mhz": "clocks.max.sm",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
    "power_limit_w": "enforced.power.limit",
    "busy_percent": "utilization.gpu",
    "memory_mib": "memory.used",
    "total_mib": "memory.total",
}
# The driver renamed the field with release 535; a query with an unknown field fails as a whole.
REASON_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active", None)
# Bits of the mask: nvml.h, nvmlClocksEventReasons. Idle and set clocks (0x1, 0x2, 0x100) do not slow a load down.
REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
# A sample counts as under load above this share of the power limit, or of utilization where no power is reported.
LOADED = 0.5
# The longest period that `utilization.gpu` is the mean of.
SAMPLE_PERIOD_S = 1.0


@dataclass(frozen=True)
class GpuSample:
    """One sample: the values of `FIELDS` that the GPU reports, and the reasons of a lower clock, if reported."""

    at: float
    values: Mapping[str, float]
    reasons: tuple[str, ...] | None

    @property
    def is_loaded(self) -> bool:
        """True if the GPU draws more than half of its power limit, or is busy where that is not reported."""
        power, limit = self.values.get("power_w"), self.values.get("power_limit_w")
        if power is not None and limit:
            return power > LOADED * limit
        return self.values.get("busy_percent", 0.0) > 100 * LOADED


class GpuSampler:
    """Sampler of one GPU."""

    def __init__(self, gpu: str) -> None:
        """Query nothing yet; the first sample finds the field of the reasons that this driver has."""
        self._gpu = gpu
        self._fields = list(REASON_FIELDS)

    def sample(self, at: float) -> GpuSample | None:
        """Return a sample; None if `nvidia-smi` finds no GPU or does not answer."""
        for field in list(self._fields):
            names = [*FIELDS.values(), *([field] if field else [])]
            if lines := nvidia_smi(f"--query-gpu={','.join(names)}", gpu=self._gpu):
                self._fields = [field]
                return parse(lines[0], at)
        return None


def parse(line: str, at: float) -> GpuSample:
    """Parse a line of `FIELDS`, and of the mask of reasons if there is one more column.

    A value that the GPU does not report reads `[N/A]`, `[Not Supported]` or `[Unknown Error]`, and is left out.
    """
    columns = [column.strip() for column in line.split(",")]
    values = {}
    for name, text in zip(FIELDS, columns, strict=False):
        try:
            values[name] = float(text)
        except ValueError:
            continue
    try:
        mask = int(columns[len(FIELDS)], 16)
    except (IndexError, ValueError):
        return GpuSample(at, values, None)
    return GpuSample(at, values, tuple(name for bit, name in REASONS.items() if mask & bit))


def spans(samples: Sequence[GpuSample]) -> dict[str, Span]:
    """Return the smallest and largest value of each field."""
    found = {name: [each.values[name] for each in samples if name in each.values] for name in FIELDS}
    return {name: Span(min=min(values), max=max(values)) for name, values in found.items() if values}


def under_load(samples: Sequence[GpuSample]) -> GpuLoad:
    """Return the medians and the reasons of a lower clock of the samples under load."""
    loaded = [each for each in samples if each.is_loaded]
    told = [each.reasons for each in loaded if each.reasons is not None]
    counts = Counter(reason for reasons in told for reason in reasons)
    return GpuLoad(
        samples=len(loaded),
        sm_mhz=_median(loaded, "sm_mhz"),
        power_w=_median(loaded, "power_w"),
        power_limit_w=_median(loaded, "power_limit_w"),
        slowed={name: round(number / len(told), 4) for name, number in sorted(counts.items())} if told else None,
    )


def utilization(samples: Sequence[GpuSample], began: float = -math.inf) -> float | None:
    """Return the mean share of time in which a kernel ran, in a load that began then; None if it is not reported.

    A sample reports the last sixth of a second to second (`nvidia-smi --help-query-gpu`): one that is taken within the
    first second counts what was before the load, unless there is no other.
    """
    known = [each for each in samples if "busy_percent" in each.values]
    later = [each for each in known if each.at >= began + SAMPLE_PERIOD_S]
    values = [each.values["busy_percent"] for each in later or known]
    return round(statistics.mean(values) / 100, 4) if values else None


def _median(samples: Sequence[GpuSample], name: str) -> float | None:
    values = [each.values[name] for each in samples if name in each.values]
    return statistics.median(values) if values else None


def processes(gpus: Iterable[str]) -> set[int]:
    """Return the pids of all processes that compute on these GPUs."""
    lines = (line.strip() for gpu in gpus for line in nvidia_smi("--query-compute-apps=pid", gpu=gpu))
    return {int(line) for line in lines if line.isdigit()}
