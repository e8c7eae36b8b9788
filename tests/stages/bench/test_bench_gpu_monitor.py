"""Lines of `nvidia-smi` as drivers write them, and the summary of samples under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.stages.bench import gpu_monitor
from pipeline.stages.bench.gpu_monitor import GpuSample, parse, spans, under_load, utilization

# SM clock and its maximum, temperature, power and its limit, utilization, memory in use and in total, reasons.
H200 = "1320, 1980, 62, 698.41, 700.00, 100, 131551, 143771, 0x0000000000000004"
IDLE = "345, 1980, 30, 78.20, 700.00, 0, 4, 143771, 0x0000000000000001"
GEFORCE = "2520, 3105, 71, [N/A], [N/A], 97, 20480, 24564, 0x0000000000000000"
UNIFIED = "2411, 3003, 58, 35.1, [N/A], 96, [N/A], [N/A], [Not Supported]"


def test_a_line_is_read_as_the_driver_writes_it() -> None:
    sample = parse(H200, 1.0)
    assert sample.values["sm_mhz"] == 1320 and sample.values["power_limit_w"] == 700
    assert sample.values["memory_mib"] == 131551
    assert sample.reasons == ("software power cap",)
    assert sample.is_loaded
    assert parse(IDLE, 1.0).reasons == () and not parse(IDLE, 1.0).is_loaded


def test_values_that_a_gpu_does_not_report_are_left_out() -> None:
    assert "power_w" not in parse(GEFORCE, 1.0).values and parse(GEFORCE, 1.0).is_loaded
    assert parse(GEFORCE, 1.0).reasons == ()
    unified = parse(UNIFIED, 1.0)
    assert "memory_mib" not in unified.values and unified.reasons is None and unified.is_loaded
    assert parse(H200.rpartition(",")[0], 1.0).reasons is None
    assert not parse("[Unknown Error]", 1.0).is_loaded


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [
        (0x8, ("hardware slowdown",)),
        (0x20, ("software thermal slowdown",)),
        (0x48, ("hardware slowdown", "hardware thermal slowdown")),
        (0x84, ("software power cap", "hardware power brake")),
        (0x103, ()),
    ],
)
def test_reasons_are_the_bits_of_nvml(mask: int, reasons: tuple[str, ...]) -> None:
    assert parse(H200.replace("0x0000000000000004", f"0x{mask:016x}"), 0.0).reasons == reasons


def sample(mhz: float, watt: float, reasons: tuple[str, ...] | None = (), busy: float = 100) -> GpuSample:
    return GpuSample(0.0, {"sm_mhz": mhz, "power_w": watt, "power_limit_w": 700.0, "busy_percent": busy}, reasons)


def test_the_clock_is_the_median_under_load() -> None:
    cap = ("software power cap",)
    loaded = [sample(1245, 699, cap), sample(1320, 699, cap), sample(1440, 691, cap), sample(1980, 360)]
    pauses = [sample(1980, 120, busy=0), sample(345, 80, busy=0), sample(1980, 350)]
    found = under_load([*loaded, *pauses])
    assert (found.samples, found.sm_mhz, found.power_limit_w) == (4, 1380, 700)
    assert found.slowed == {"software power cap": 0.75}
    assert spans([*loaded, *pauses])["sm_mhz"].min == 345
    assert utilization([*loaded, *pauses]) == pytest.approx(5 / 7, abs=1e-4)
    assert utilization([]) is None


def test_nothing_under_load_has_no_clock() -> None:
    found = under_load([sample(1980, 120)])
    assert (found.samples, found.sm_mhz, found.slowed) == (0, None, None)
    assert under_load([sample(1980, 600, None)]).slowed is None


# Fails as a whole for a field that it does not know, as the real one.
STAND_IN = """#!/bin/sh
echo "$1" >> {calls}
case "$1" in
  *{unknown}*) echo 'Field "{unknown}" is not a valid field to query.'; exit 2;;
  *pid*) printf '17\\n[N/A]\\n42\\n';;
  *reasons*) echo "{line}";;
  *) echo "{bare}";;
esac
"""


@pytest.mark.parametrize(
    ("unknown", "reasons"),
    [
        ("nothing", ("software power cap",)),
        ("clocks_event_reasons.active", ("software power cap",)),
        ("reasons.active", None),
    ],
)
def test_the_field_is_the_one_that_the_driver_has(
    unknown: str, reasons: tuple[str, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, program = tmp_path / "calls", tmp_path / "nvidia-smi"
    bare = H200.rpartition(",")[0]
    program.write_text(STAND_IN.format(calls=calls, unknown=unknown, line=H200, bare=bare))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    sampler = gpu_monitor.GpuSampler("0")
    assert [sampler.sample(0.0).reasons for _ in range(3)] == [reasons] * 3
    tried = {"nothing": 0, "clocks_event_reasons.active": 1, "reasons.active": 2}[unknown]
    assert len(calls.read_text().splitlines()) == 3 + tried
    assert gpu_monitor.processes(["0"]) == {17, 42}


def test_without_a_gpu_there_is_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_monitor.GpuSampler("0").sample(0.0) is None


def test_a_sample_of_the_first_second_tells_what_was_before_the_load() -> None:
    idle, busy = {"busy_percent": 0.0}, {"busy_percent": 98.0}
    samples = [GpuSample(20.4, idle, None), *(GpuSample(20.4 + 2 * n, busy, None) for n in range(1, 8))]
    assert utilization(samples, began=20.0) == 0.98
    assert utilization(samples, began=19.4) == pytest.approx(7 / 8 * 0.98, abs=1e-4)
    # A load of less than a second has no other.
    assert utilization(samples[:1], began=20.0) == 0.0
