"""Guards look at what was recorded; counters and watch record it."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from support.openai_server import OpenAIServer

from pipeline.results.bench import Conditions
from pipeline.serve import counters
from pipeline.stages.bench import guards, memory_bandwidth, monitor, processes
from pipeline.stages.bench.requests import Requests

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
        ({"foreign_runnable": 1.75, "foreign_cpu_share": 0.06}, "other processes"),
        ({"busy": {"api_server": 0.97, "gpu": 0.8}}, "bottleneck"),
        ({"busy": {"api_server": 0.97, "engine": 0.7}}, "bottleneck"),
        ({"busy": {"api_server": 0.5, "client": 0.99, "gpu": 0.8}}, "bottleneck"),
    ],
)
def test_each_contamination_fails_its_guard_in_any_repeat(change: dict, name: str) -> None:
    assert verdicts(conditions(), conditions(**change))[name] is False


def gpu(mhz: float | None, reasons: dict[str, float] | None = None) -> dict:
    """Conditions of a GPU whose highest clock is always the same, as in every stored run."""
    load = {"samples": 15, "sm_mhz": mhz, "power_w": 698.0, "power_limit_w": 700.0, "slowed": reasons or {}}
    return {"gpu": {"sm_mhz": {"min": 345, "max": 1980}, "temperature_c": {"min": 40, "max": 63}}, "gpu_load": load}


def test_a_clock_that_falls_between_repeats_is_marked() -> None:
    assert verdicts(conditions(**gpu(1980)), conditions(**gpu(1500)))["GPU clock"] is False
    assert verdicts(conditions(**gpu(1500)), conditions(**gpu(1980)))["GPU clock"] is False
    assert verdicts(conditions(**gpu(1500)), conditions(**gpu(1400)))["GPU clock"] is True


def test_a_clock_held_back_by_heat_is_marked_and_one_held_back_by_power_is_reported() -> None:
    for fault in guards.FAULTS:
        assert verdicts(conditions(**gpu(1500, {fault: 0.06})))["GPU clock"] is False
        assert verdicts(conditions(**gpu(1500, {fault: 0.05})))["GPU clock"] is True
        assert verdicts(conditions(**gpu(None, {fault: 0.06})))["GPU clock"] is False
    (capped,) = (
        guard
        for guard in guards.check("load", [conditions(**gpu(1320, {"software power cap": 0.9}))], 0, 20)
        if guard.name == "GPU clock"
    )
    assert capped.passed is True
    assert capped.text == "median under load 1320 MHz, at most 63 °C; software power cap in 90 % of the samples"


def test_a_clock_that_nothing_loaded_is_not_judged() -> None:
    assert verdicts(conditions(**gpu(None)))["GPU clock"] is None
    assert verdicts(conditions(gpu={"sm_mhz": {"min": 345, "max": 1980}}))["GPU clock"] is None


def bottleneck(cores: int | None = None, **busy: float) -> tuple[bool | None, str]:
    found = guards.check("load", [conditions(busy=busy, running_mean=600, waiting_mean=0, cores=cores)], 0, 20)
    return next((guard.passed, guard.text) for guard in found if guard.name == "bottleneck")


def test_the_front_end_is_named_where_it_limits_a_load() -> None:
    passed, text = bottleneck(api_server=0.99, client=0.6, engine=1.0, gpu=0.7)
    assert passed is False
    assert text == (
        "the front end, not the GPU, limited this load: API server 99 % of a core, load generator 60 % of a core, "
        "GPU busy 70 % of the time, 600 requests running, 0 requests waiting"
    )
    assert bottleneck(api_server=0.96, engine=0.5)[1].startswith("the front end, not the engine, limited this load")
    assert bottleneck(api_server=0.99, client=0.97, gpu=0.7)[1].startswith("the load generator, not the GPU")


def test_processes_that_share_few_cores_before_a_gpu_are_told() -> None:
    """Pinned to two cores by mistake, a server kept its GPU waiting, and nothing on the page said why."""
    passed, text = bottleneck(2, api_server=0.36, client=0.18, engine=0.61, gpu=0.82)
    assert passed is False and text.startswith("the engine's CPU side") and text.endswith(", on 2 cores")
    assert "cores" not in bottleneck(16, api_server=0.36, gpu=0.95)[1]
    assert "cores" not in bottleneck(2, api_server=0.36, engine=0.95)[1]


@pytest.mark.parametrize(
    ("busy", "passed"),
    [
        ({"api_server": 0.95, "gpu": 0.89}, False),
        ({"api_server": 0.94, "gpu": 0.90}, True),
        ({"api_server": 0.95, "gpu": 0.90}, True),  # Both are at their limit: the GPU has no time left either.
        ({"api_server": 0.95, "engine": 1.0, "gpu": 0.89}, False),  # The engine's thread spins while it waits.
        ({"api_server": 0.95, "engine": 0.95}, True),
        ({"api_server": 0.95}, None),
        ({"client": 0.5}, None),
        ({"client": 0.95}, False),
    ],
)
def test_a_bottleneck_needs_a_full_core_and_an_engine_that_waits(busy: dict, passed: bool | None) -> None:
    assert bottleneck(**busy)[0] is passed


@pytest.mark.parametrize(
    ("busy", "running", "passed"),
    [
        # BF16 of Qwen3-8B's shape on an H200, CUDA graphs to 512 requests and to 1024 (docs/results).
        ({"api_server": 0.17, "engine": 0.78, "client": 0.14, "gpu": 0.75}, 600, False),
        ({"api_server": 0.36, "engine": 0.65, "client": 0.17, "gpu": 1.0}, 600, True),
        # Too few requests to keep a GPU busy, by rate: it waits for them.
        ({"api_server": 0.17, "engine": 0.78, "gpu": 0.5}, 3, True),
        ({"api_server": 0.17, "engine": 0.78, "gpu": 0.5}, None, True),
        # Without a GPU the engine's own thread is what is asked.
        ({"api_server": 0.17, "engine": 0.5}, 600, True),
    ],
)
def test_an_engine_that_leaves_the_gpu_waiting_is_named(
    busy: dict[str, float], running: float | None, passed: bool
) -> None:
    found = guards.check("load", [conditions(busy=busy, running_mean=running)], 0, 20)
    guard = next(guard for guard in found if guard.name == "bottleneck")
    assert guard.passed is passed
    assert guard.text.startswith("the engine's CPU side, not the GPU, limited this load") is not passed


def test_a_bottleneck_in_some_repeats_says_in_how_many() -> None:
    both = [conditions(busy={"api_server": share, "gpu": 0.5}) for share in (0.99, 0.5)]
    text = next(guard.text for guard in guards.check("load", both, 0, 20) if guard.name == "bottleneck")
    assert "the front end, not the GPU, limited this load in 1 of 2 repeats" in text


def test_time_outside_the_engine_is_what_its_counters_leave() -> None:
    counted = {"latency_s": 100.0, "inference_s": 60.0, "queue_s": 10.0}
    found = guards.check("load", [conditions(busy={"api_server": 0.5, "gpu": 1.0}, counters=counted)], 0, 20)
    assert next(guard.text for guard in found if guard.name == "bottleneck").endswith(
        "30 % of a request's time outside the engine"
    )


@pytest.mark.parametrize(
    ("lengths", "passed"),
    [
        ([[128] * 8, [128] * 8], True),
        ([[128] * 8, [127] * 8], True),  # Counted by the client from text.
        ([[128] * 8, [128] * 4 + [64] * 4], False),  # `min_tokens` is ignored.
        ([[160] * 8, [160] * 8], False),  # The limit is ignored.
        ([[128] * 4 + [64] * 4, [128] * 4 + [192] * 4], False),  # As many in total, by chance.
        ([[], []], None),
    ],
)
def test_generated_tokens_are_held_against_those_requested(lengths: list[list[int]], passed: bool | None) -> None:
    guard = guards.reply_length("load", [np.asarray(each, np.int64) for each in lengths], 128)
    assert guard.passed is passed
    assert guard.name == "reply length" and guard.load == "load"
    replies = [length for each in lengths for length in each]
    assert f"{sum(replies)} tokens generated of {128 * len(replies)} requested" in guard.text
    assert f"{sum(length != 128 for length in replies)} of {len(replies)} replies are not exact" in guard.text


def test_a_server_that_tells_nothing_is_not_called_clean() -> None:
    blind = conditions(counters={"prefix_hits": None, "preemptions": None}, foreign_cpu_share=None)
    found = verdicts(blind)
    assert found["prefix cache"] is None and found["preemptions"] is None
    assert found["other processes"] is None
    hidden = conditions(gpu={"sm_mhz": {"min": 1, "max": 1}}, foreign_gpu_processes=None)
    assert verdicts(hidden)["GPU processes"] is None


def test_failed_requests_fail_their_guard() -> None:
    assert verdicts(conditions(), failed=1)["requests"] is False


SPIN = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"


def stats(monkeypatch: pytest.MonkeyPatch, busy: list[dict[str, float]]) -> None:
    """Replaces the machine's counters: each call returns the next, of one core."""
    given = iter(busy)
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")

    class Core:
        def __init__(self, values: dict[str, float]) -> None:
            for name in names:
                setattr(self, name, values.get(name, 0.0))

    monkeypatch.setattr(processes.psutil, "cpu_times", lambda percpu: [Core(next(given))])
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0})


@pytest.mark.parametrize("kind", ["user", "nice", "system", "irq", "softirq", "steal"])
def test_every_kind_of_foreign_work_is_busy_time(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    stats(monkeypatch, [{kind: 1.0, "idle": 5.0}, {kind: 4.0, "idle": 9.0, "iowait": 3.0, "guest": 2.0}])
    assert processes.busy_s() == [1.0]
    assert processes.busy_s() == [4.0]


def watched(monkeypatch: pytest.MonkeyPatch, machine: float, ours: float) -> Conditions:
    """Conditions of a second in which one core was busy for a time, of which our processes used a part."""
    stats(monkeypatch, [{"user": 10.0}, {"user": 10.0 + machine}])
    used = iter([5.0, 5.0 + ours])
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(monitor, "cpu_s", lambda _: next(used))
    monkeypatch.setattr(monitor.time, "monotonic", lambda: next(clock, 1.0))
    monkeypatch.setattr(monitor, "CPU_INTERVAL_S", 60.0)
    with monitor.Watch("http://127.0.0.1:9", os.getpid(), ()) as watch:
        pass
    return watch.conditions


def test_watching_sees_foreign_work_and_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, machine=0.9, ours=0.5).foreign_cpu_share == pytest.approx(0.4)
    assert watched(monkeypatch, machine=0.5, ours=0.5).foreign_cpu_share == 0
    # A machine that reports less than our processes used does not report them: nothing is known of others.
    assert watched(monkeypatch, machine=0.0, ours=0.5).foreign_cpu_share is None


def test_a_real_machine_reports_our_work_as_ours() -> None:
    with monitor.Watch("http://127.0.0.1:9", os.getpid(), ()) as watch:
        before = processes.cpu_s(processes.family(os.getpid()))
        busy = sum(processes.busy_s())
        subprocess.run([sys.executable, "-c", SPIN], check=True)
        ours = processes.cpu_s(processes.family(os.getpid())) - before
        busy = sum(processes.busy_s()) - busy
    # However little of a core this process got: the machine counted it, and the rest is foreign.
    assert 0 < ours <= busy + 0.2
    found, cores = watch.conditions, len(processes.busy_s())
    assert found.foreign_cpu_share == pytest.approx(max(0.0, busy - ours) / cores / found.seconds, abs=0.1)
    assert found.counters == {}
    assert found.peak_memory_bytes > 2**20


def test_tasks_of_other_cores_are_not_foreign_to_a_process_that_has_a_part_of_them() -> None:
    code = (
        "import os; from pipeline.stages.bench import processes as p; before = p.has_part_of_the_cores(), "
        "p.foreign_runnable([]); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "print(before[0] == (before[1] is None), p.has_part_of_the_cores(), p.foreign_runnable([]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", str((os.cpu_count() or 1) > 1), "None"]


@pytest.mark.skipif(processes.has_part_of_the_cores(), reason="cannot tell whose tasks compete with this process")
def test_tasks_that_run_are_ours_or_foreign() -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN.replace("1.5", "30")])
    try:
        time.sleep(0.2)
        all_foreign, less_ours = [], []
        for _ in range(50):
            all_foreign.append(processes.foreign_runnable([]))
            less_ours.append(processes.foreign_runnable([os.getpid(), child.pid]))
        assert None not in all_foreign
        assert np.mean(all_foreign) - np.mean(less_ours) > 0.5
    finally:
        child.kill()
        child.wait()


def test_shares_are_those_of_the_time_in_which_requests_were_in_flight() -> None:
    usage = processes.Usage([0.0, 2.0, 4.0, 6.0], [0.0, 0.0, 2.0, 2.0])
    assert usage.share(2.0, 4.0) == 1.0
    assert usage.share(3.0, 5.0) == 0.5
    assert usage.share(0.0, 6.0) == pytest.approx(1 / 3)
    assert usage.share(5.0, 8.0) == 0


def test_the_time_of_requests_is_the_clients_if_it_lies_in_the_load() -> None:
    watch = monitor.Watch("http://127.0.0.1:9", None, ())
    watch._started = 100.0

    def requests(start: list[float], good: list[bool]) -> Requests:
        count = len(start)
        empty, integers = np.empty(0), np.zeros(count, np.int64)
        return Requests(
            *(integers, integers, np.asarray(good), np.full(count, 0.5), np.full(count, 2.0), np.asarray(start)),
            *(empty, integers),
        )

    assert watch._window(120.0) == (100.0, 120.0)
    watch.requests = requests([103.0, 104.0, 101.0], [True, True, False])
    assert watch._window(120.0) == (103.0, 106.0)
    # Another clock.
    watch.requests = requests([3.0, 4.0], [True, True])
    assert watch._window(120.0) == (100.0, 120.0)
    watch.requests = requests([103.0], [False])
    assert watch._window(120.0) == (100.0, 120.0)


def test_the_processes_of_a_server_have_roles(tmp_path) -> None:
    # `sleep` under another name, as `setproctitle` would write it.
    script = (
        'bash -c "exec -a VLLM::EngineCore sleep 60" & '
        'bash -c "exec -a resource_tracker sleep 60" & '
        'bash -c "exec -a VLLM::ApiServer_1 sleep 60" & wait'
    )
    server = subprocess.Popen(["bash", "-c", script])
    try:
        deadline = time.monotonic() + 10
        while (
            sum(
                "sleep" in " ".join(each.cmdline()) or "60" in each.cmdline()
                for each in processes.family(server.pid)[1:]
            )
            < 3
        ):
            assert time.monotonic() < deadline
        time.sleep(0.3)
        found = processes.roles(server.pid)
        assert found[server.pid] == "api_server"
        assert sorted(found.values()) == ["api_server", "api_server", "engine"]
    finally:
        for each in processes.family(server.pid)[::-1]:
            each.kill()
        server.wait()


@pytest.mark.alone
def test_a_client_without_a_core_left_is_recorded() -> None:
    page = 'vllm:num_requests_running{engine="0"} 7.0\nvllm:num_requests_waiting{engine="0"} 3.0\n'
    server = OpenAIServer(metrics=page)
    client = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        with monitor.Watch(server.url, os.getpid(), (), lambda: client.pid) as watch:
            client.wait()
    finally:
        server.close()
    found = watch.conditions
    assert found.busy.client > 0.05
    assert found.busy.api_server is not None and found.busy.gpu is None
    assert (found.running_mean, found.waiting_mean, found.waiting_max) == (7.0, 3.0, 3.0)
    assert (found.foreign_runnable is None) == processes.has_part_of_the_cores()


def test_memory_is_read_at_a_rate_that_a_machine_can_have() -> None:
    rate = memory_bandwidth.measured("cpu")
    assert rate is not None
    assert 1e8 < rate < 1e13
    assert memory_bandwidth.measured("no such device") is None


def said_of(name: str, *each: Conditions) -> tuple[bool | None, str]:
    found = {guard.name: guard for guard in guards.check("load", each, 0, 20)}
    return (found[name].passed, found[name].text) if name in found else (None, "")


def bare(**fields) -> Conditions:
    """Conditions that have these fields alone."""
    return Conditions.model_validate(fields)


def test_only_what_was_observed_is_said() -> None:
    assert [guard.name for guard in guards.check("load", [bare()], 0, 20)] == [
        *("requests", "prefix cache", "preemptions"),
    ]
    (requests, *_) = guards.check("load", [bare()], 3, 20)
    assert (requests.text, requests.load, requests.passed) == ("3 of 20 requests failed", "load", False)


def test_hits_of_a_prefix_cache_are_added_up_over_the_repeats() -> None:
    counted = {"prefix_queries": 100.0, "prefix_hits": 0.0}
    clean, warm = bare(counters=counted), bare(counters=counted | {"prefix_hits": 7.0})
    assert said_of("prefix cache", clean, clean) == (True, "0 of 200 tokens looked up in the prefix cache were there")
    assert said_of("prefix cache", clean, warm) == (False, "7 of 200 tokens looked up in the prefix cache were there")
    outside = bare(counters=counted | {"external_prefix_hits": 4.0})
    assert said_of("prefix cache", outside) == (
        *(False, "0 of 100 tokens looked up in the prefix cache were there, and 4 in the cache outside the engine"),
    )
    unknown = (None, "the server does not tell how much came from its prefix cache")
    for name in counted:
        assert said_of("prefix cache", clean, bare(counters=counted | {name: None})) == unknown


def test_preemptions_and_queues_are_told_in_numbers() -> None:
    some = bare(counters={"preemptions": 2.0, "queue_s": 1.5, "queued": 6.0})
    assert said_of("preemptions", some, some) == (False, "4 requests were preempted and computed anew")
    assert said_of("preemptions", bare()) == (None, "the server does not count preemptions")
    assert said_of("queue", some) == (None, "a request waited 250 ms on average before the engine took it")
    for counters_ in ({"queue_s": 1.5, "queued": 0.0}, {"queue_s": 1.5}, {"queued": 6.0}):
        assert said_of("queue", bare(counters=counters_)) == (None, "")


def test_the_largest_use_of_the_kv_cache_is_told() -> None:
    assert said_of("KV cache", bare(kv_cache_usage_max=0.4), bare(kv_cache_usage_max=0.92), bare()) == (
        *(None, "at most 92 % of the KV cache was in use"),
    )


LOADED = {"before": 9.0, "after": 1.5}


@pytest.mark.parametrize(
    ("fields", "passed", "text"),
    [
        ({"foreign_cpu_share": 0.1}, True, "other processes took up to 10 % of the CPU (load average 0.0)"),
        ({"foreign_cpu_share": 0.11}, False, "other processes took up to 11 % of the CPU (load average 0.0)"),
        ({"foreign_runnable": 0.5}, True, "other processes had up to 0.5 runnable tasks per core (load average 0.0)"),
        ({"foreign_runnable": 0.6}, False, "other processes had up to 0.6 runnable tasks per core (load average 0.0)"),
        (
            {"foreign_cpu_share": 0.02, "foreign_runnable": 0.6, "load_average": LOADED},
            False,
            "other processes took up to 2 % of the CPU and had up to 0.6 runnable tasks per core (load average 1.5)",
        ),
        ({"load_average": LOADED}, None, "the CPU time of other processes is unknown (load average 1.5)"),
        ({}, None, ""),
    ],
)
def test_other_processes_are_judged_by_what_is_known_of_them(fields: dict, passed: bool | None, text: str) -> None:
    assert said_of("other processes", bare(**fields)) == (passed, text)
    # The worst of the repeats counts.
    assert said_of("other processes", bare(**fields), bare()) == (passed, text)
    if text:
        assert said_of("other processes", bare(), bare(**fields)) == (passed, text)


def test_the_worst_repeat_of_other_processes_is_told() -> None:
    each = [
        bare(foreign_cpu_share=share, load_average={"before": 0, "after": load}) for share, load in ((0.3, 1), (0.2, 4))
    ]
    assert said_of("other processes", *each) == (False, "other processes took up to 30 % of the CPU (load average 4.0)")


def test_a_bottleneck_is_told_with_the_use_of_every_process() -> None:
    busy = {"api_server": 0.5, "client": 0.25, "engine": 0.75}
    text = "API server 50 % of a core, load generator 25 % of a core, engine busy 75 % of the time"
    assert said_of("bottleneck", bare(busy=busy)) == (True, text)
    assert said_of("bottleneck", bare(busy={"client": 0.25})) == (None, "load generator 25 % of a core")
    # Nothing was observed of a process in one repeat; the last that was is shown.
    assert said_of("bottleneck", bare(busy={"api_server": 0.1, "engine": 0.2}), bare(busy=busy), bare()) == (True, text)
    queues = [bare(busy=busy, running_mean=running, waiting_mean=2.0) for running in (4.0, 8.0)]
    assert said_of("bottleneck", *queues)[1] == f"{text}, 6 requests running, 2 requests waiting"
    assert said_of("bottleneck", bare()) == (None, "")


@pytest.mark.parametrize(
    ("counted", "share"),
    [
        ({"latency_s": 100.0, "inference_s": 60.0, "queue_s": 10.0}, "30"),
        ({"latency_s": 100.0, "inference_s": 95.0, "queue_s": 10.0}, "0"),
        ({"latency_s": 100.0, "inference_s": 0.0, "queue_s": 0.0}, "100"),
        ({"latency_s": 100.0, "inference_s": 60.0, "queue_s": None}, None),
        ({"latency_s": 100.0, "inference_s": None, "queue_s": 10.0}, None),
        ({"latency_s": 0.0, "inference_s": 0.0, "queue_s": 0.0}, None),
        ({}, None),
    ],
)
def test_time_outside_the_engine_is_what_all_repeats_leave(counted: dict, share: str | None) -> None:
    _, text = said_of("bottleneck", *[bare(busy={"api_server": 0.5, "gpu": 1.0}, counters=counted)] * 2)
    told = f", {share} % of a request's time outside the engine" if share else ""
    assert text == f"API server 50 % of a core, GPU busy 100 % of the time{told}"


@pytest.mark.parametrize(("cores", "told"), [((3, 16), ", on 3 cores"), ((4, 16), ""), ((None, 2), ", on 2 cores")])
def test_fewer_than_four_cores_before_a_gpu_are_told(cores: tuple[int | None, ...], told: str) -> None:
    each = [bare(busy={"api_server": 0.5, "gpu": 1.0}, cores=number) for number in cores]
    assert said_of("bottleneck", *each)[1] == f"API server 50 % of a core, GPU busy 100 % of the time{told}"


@pytest.mark.parametrize(("running", "name"), [(8.0, "engine's CPU side"), (7.9, None), (None, None)])
def test_a_gpu_that_waits_beside_eight_requests_waits_for_the_engine(running: float | None, name: str | None) -> None:
    passed, text = said_of("bottleneck", bare(busy={"api_server": 0.5, "gpu": 0.89}, running_mean=running))
    assert passed is (name is None)
    assert text.startswith(f"the {name}, not the GPU, limited this load: ") is (name is not None)


def clock(**fields) -> Conditions:
    """A GPU at most 63 °C warm, of which nothing was sampled under load unless given."""
    heat = fields.pop("heat", 63)
    return bare(gpu={"sm_mhz": {"min": 345, "max": 1980}, "temperature_c": {"min": 40, "max": heat}}, **fields)


def under(mhz: float | None, **slowed: float) -> dict:
    return {
        "gpu_load": {
            "samples": 9,
            "sm_mhz": mhz,
            "slowed": {name.replace("_", " "): each for name, each in slowed.items()},
        }
    }


@pytest.mark.parametrize(
    ("each", "passed", "text"),
    [
        ([clock(**under(1500)), clock(**under(1500))], True, "median under load 1500 MHz, at most 63 °C"),
        ([clock(**under(1980)), clock(**under(1782))], True, "median under load 1782 to 1980 MHz, at most 63 °C"),
        ([clock(**under(1980)), clock(**under(1781))], False, "median under load 1781 to 1980 MHz, at most 63 °C"),
        ([clock(**under(1500), heat=84), clock()], True, "median under load 1500 MHz, at most 84 °C"),
        ([clock(), clock(**under(1500), heat=85)], False, "median under load 1500 MHz, at most 85 °C"),
        ([clock()], None, "the GPU drew less than half of its power limit; at most 63 °C"),
        ([clock(heat=85)], False, "the GPU drew less than half of its power limit; at most 85 °C"),
        (
            [
                clock(**under(1500, sync_boost=0.9, hardware_slowdown=0.02)),
                clock(**under(1500, software_power_cap=1.0)),
            ],
            True,
            "median under load 1500 MHz, at most 63 °C; software power cap in 100 % of the samples, "
            "hardware slowdown in 2 % of the samples",
        ),
        ([clock(gpu_load={"samples": 0})], None, "the GPU drew less than half of its power limit; at most 63 °C"),
        ([bare()], None, ""),
    ],
)
def test_clocks_are_told_and_judged(each: list[Conditions], passed: bool | None, text: str) -> None:
    assert said_of("GPU clock", *each) == (passed, text)
    # A repeat of which nothing was sampled changes nothing.
    assert said_of("GPU clock", *each, bare()) == (passed, text)


def test_a_gpu_that_tells_no_temperature_is_not_hot() -> None:
    own = bare(gpu={"sm_mhz": {"min": 345, "max": 1980}}, **under(1500))
    assert said_of("GPU clock", own) == (True, "median under load 1500 MHz, at most 0 °C")


def test_processes_of_others_on_a_gpu_are_counted_once() -> None:
    def seen(*pids: int) -> Conditions:
        return clock(foreign_gpu_processes=list(pids))

    assert said_of("GPU processes", seen(), seen()) == (True, "0 processes of others on the GPU")
    assert said_of("GPU processes", seen(7, 8), seen(8, 9)) == (False, "3 processes of others on the GPU")
    assert said_of("GPU processes", seen(), clock()) == (None, "whose processes the GPU runs cannot be seen from here")
    assert said_of("GPU processes", bare(foreign_gpu_processes=[7])) == (None, "")


def test_a_reply_may_be_off_by_a_fiftieth_of_all_tokens() -> None:
    for wrong, passed in ((2, True), (3, False)):
        guard = guards.reply_length("load", [np.array([100 - wrong])], 100)
        assert guard.passed is passed
        assert guard.text == f"{100 - wrong} tokens generated of 100 requested; 1 of 1 replies are not exact"
