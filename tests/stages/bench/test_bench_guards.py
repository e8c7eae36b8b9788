"""Guards look at what was recorded; counters and watch record it."""

import subprocess
import sys
import time

import pytest

from pipeline.results.bench import Conditions
from pipeline.stages.bench import counters, guards, memory_bandwidth, monitor

METRICS = """
# HELP vllm:num_preemptions Cumulative number of preemption from the engine.
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0",model_name="model"} 3.0
vllm:num_preemptions_total{engine="1",model_name="model"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="model"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="model"} 0.25
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3"} 10.0
vllm:request_queue_time_seconds_count{engine="0"} 10.0
vllm:request_queue_time_seconds_sum{engine="0"} 2.5
"""


def conditions(**changes) -> Conditions:
    counted = {"prefix_queries": 100.0, "prefix_hits": 0.0, "preemptions": 0.0, "queue_s": 2.0, "queued": 10.0}
    found = {
        "seconds": 10.0,
        "load_average": {"before": 1.0, "after": 1.5},
        "foreign_cpu_share": 0.01,
        "counters": counted | changes.pop("counters", {}),
        "kv_cache_usage_max": 0.4,
        "waiting_max": 0.0,
        "peak_memory_bytes": 1,
    }
    return Conditions.model_validate(found | changes)


def verdicts(*each: Conditions, failed: int = 0) -> dict[str, bool | None]:
    return {guard.name: guard.passed for guard in guards.check("load", each, failed, 20)}


def test_counters_of_all_engines_add_up_and_their_usage_is_a_mean() -> None:
    first = counters.parse(METRICS)
    assert first.values["preemptions"] == 4
    assert first.values["kv_cache_usage"] == 0.375
    grown = counters.parse(METRICS.replace(" 3.0", " 5.0")).since(first)
    assert grown["preemptions"] == 2
    assert grown["queue_s"] == 0
    assert grown["prefix_hits"] is None


def test_what_is_not_a_metrics_page_is_refused() -> None:
    with pytest.raises(ValueError):
        counters.parse("<html>not found</html>")


def test_a_clean_load_passes_every_guard() -> None:
    found = verdicts(conditions(), conditions())
    assert all(passed is not False for passed in found.values())
    assert found["requests"] and found["prefix cache"] and found["preemptions"] and found["other processes"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"counters": {"prefix_hits": 16.0}}, "prefix cache"),
        ({"counters": {"preemptions": 1.0}}, "preemptions"),
        ({"foreign_cpu_share": 0.2}, "other processes"),
        ({"gpu": {"sm_mhz": {"min": 100, "max": 1500}}, "foreign_gpu_processes": [42]}, "GPU processes"),
        ({"gpu": {"sm_mhz": {"min": 900, "max": 1980}, "temperature_c": {"min": 60, "max": 90}}}, "GPU clock"),
    ],
)
def test_each_contamination_fails_its_guard_in_any_repeat(change: dict, name: str) -> None:
    assert verdicts(conditions(), conditions(**change))[name] is False


def test_a_clock_that_falls_between_repeats_is_marked() -> None:
    fast, slow = ({"sm_mhz": {"min": 300, "max": mhz}} for mhz in (1980, 1500))
    assert verdicts(conditions(gpu=fast), conditions(gpu=slow))["GPU clock"] is False
    assert verdicts(conditions(gpu=fast), conditions(gpu=fast))["GPU clock"] is True


def test_a_server_that_tells_nothing_is_not_called_clean() -> None:
    blind = conditions(counters={"prefix_hits": None, "preemptions": None}, foreign_cpu_share=None)
    found = verdicts(blind)
    assert found["prefix cache"] is None and found["preemptions"] is None
    assert "other processes" not in found
    hidden = conditions(gpu={"sm_mhz": {"min": 1, "max": 1}}, foreign_gpu_processes=None)
    assert verdicts(hidden)["GPU processes"] is None


def test_failed_requests_fail_their_guard() -> None:
    assert verdicts(conditions(), failed=1)["requests"] is False


def test_warm_up_ends_when_two_rounds_agree() -> None:
    assert not guards.steady([100.0], 0.1)
    assert not guards.steady([100.0, 120.0], 0.1)
    assert guards.steady([50.0, 100.0, 105.0], 0.1)
    assert guards.warm_up([100.0, 101.0], 0.1, 16).passed is True
    assert guards.warm_up([100.0, 50.0, 100.0], 0.1, 16).passed is False
    assert guards.warm_up([], 0.1, 0).passed is False


@pytest.mark.alone
def test_watching_sees_foreign_work_and_not_its_own() -> None:
    import os

    spin = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
    with monitor.Watch("http://127.0.0.1:9", os.getpid(), on_gpu=False) as quiet:
        subprocess.run([sys.executable, "-c", spin], check=True)
    # In a session of its own, and no child of this process.
    with monitor.Watch("http://127.0.0.1:9", os.getpid(), on_gpu=False) as loud:
        subprocess.run(["bash", "-c", f'setsid {sys.executable} -c "{spin}" & disown'], check=True)
        time.sleep(1.8)
    own, foreign = (each.conditions.foreign_cpu_share for each in (quiet, loud))
    assert foreign > 0.2
    assert foreign - own > 0.1, "others keep this machine busy"
    assert loud.conditions.counters == {}
    assert loud.conditions.peak_memory_bytes > 2**20


def test_memory_is_read_at_a_rate_that_a_machine_can_have() -> None:
    rate = memory_bandwidth.measured("cpu")
    assert rate is not None
    assert 1e8 < rate < 1e13
    assert memory_bandwidth.measured("no such device") is None
