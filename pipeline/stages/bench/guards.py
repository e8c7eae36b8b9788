"""Validity checks of a load: each guard examines the recorded data and passes, fails, or is undecided.

A failing guard marks the result and hides nothing. Guards that need two variants are in `compare.contamination`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.results.bench import Conditions, Guard

# Beyond these a figure is marked.
FOREIGN_CPU = 0.1
CLOCK_DROP = 0.1
HOT_C = 85.0


def check(load: str, conditions: Sequence[Conditions], failed: int, asked: int) -> list[Guard]:
    """Return the guards of one load over all of its repeats.

    Args:
        load: its name.
        conditions: of each repeat, as `monitor.Watch` recorded them.
        failed: requests without a whole answer.
        asked: requests sent.
    """
    checks: dict[str, Callable[[Sequence[Conditions]], tuple[bool | None, str]]] = {
        "prefix cache": _prefix_cache,
        "preemptions": _preemptions,
        "queue": _queue,
        "KV cache": _kv_cache,
        "other processes": _foreign,
        "GPU clock": _clock,
        "GPU processes": _gpu_processes,
    }
    guards = [Guard(name="requests", passed=not failed, text=f"{failed} of {asked} requests failed", load=load)]
    for name, look in checks.items():
        passed, text = look(conditions)
        if text:
            guards.append(Guard(name=name, passed=passed, text=text, load=load))
    return guards


def warm_up(rounds: Sequence[float], tolerance: float, asked: int) -> Guard:
    """Check that throughput had settled before measurement started.

    Args:
        rounds: tokens per second of each round.
        tolerance: change that counts as none.
        asked: requests of a round.
    """
    if not asked:
        return Guard(name="warm-up", passed=False, text="nothing was sent before the first measured request", load=None)
    shown = ", ".join(f"{rate:.0f}" for rate in rounds)
    text = f"{len(rounds)} rounds of {asked} distinct prompts: {shown} tok/s"
    return Guard(name="warm-up", passed=steady(rounds, tolerance), text=text, load=None)


def steady(rounds: Sequence[float], tolerance: float) -> bool:
    """Return whether the last round was as fast as the one before it."""
    return len(rounds) > 1 and abs(rounds[-1] / rounds[-2] - 1) <= tolerance


def _counted(conditions: Sequence[Conditions], name: str) -> float | None:
    """Return a counter's growth over all repeats; None if one of them lacks it."""
    found = [each.counters.get(name) for each in conditions]
    known = [value for value in found if value is not None]
    return sum(known) if found and len(known) == len(found) else None


def _prefix_cache(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    queries, hits = _counted(conditions, "prefix_queries"), _counted(conditions, "prefix_hits")
    if queries is None or hits is None:
        return None, "the server does not tell how much came from its prefix cache"
    return hits == 0, f"{hits:.0f} of {queries:.0f} tokens looked up in the prefix cache were there"


def _preemptions(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    number = _counted(conditions, "preemptions")
    if number is None:
        return None, "the server does not count preemptions"
    return number == 0, f"{number:.0f} requests were preempted and computed anew"


def _queue(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    """Report the queue; waiting is part of a load without a limit, so it is never a failure."""
    seconds, requests = _counted(conditions, "queue_s"), _counted(conditions, "queued")
    if not requests or seconds is None:
        return None, ""
    return None, f"a request waited {1000 * seconds / requests:.0f} ms on average before the engine took it"


def _kv_cache(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    seen = [usage for each in conditions if (usage := each.kv_cache_usage_max) is not None]
    return None, f"at most {100 * max(seen):.0f} % of the KV cache was in use" if seen else ""


def _foreign(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    shares = [share for each in conditions if (share := each.foreign_cpu_share) is not None]
    if not shares:
        return None, ""
    loads = [each.load_average.after for each in conditions if each.load_average is not None]
    text = (
        f"other processes took up to {100 * max(shares):.0f} % of the CPU (load average {max(loads, default=0.0):.1f})"
    )
    return max(shares) <= FOREIGN_CPU, text


def _clock(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    """Check for throttling: a clock that falls under load, or a hot GPU; a clock idle between requests is not."""
    seen = [gpu for each in conditions if (gpu := each.gpu) and "sm_mhz" in gpu]
    if not seen:
        return None, ""
    # The highest clock of each repeat: the lowest may be that of a pause.
    clocks = [gpu["sm_mhz"].max for gpu in seen]
    hottest = max((gpu["temperature_c"].max for gpu in seen if "temperature_c" in gpu), default=0.0)
    text = f"{min(clocks):.0f} to {max(clocks):.0f} MHz, at most {hottest:.0f} °C"
    return min(clocks) >= (1 - CLOCK_DROP) * max(clocks) and hottest < HOT_C, text


def _gpu_processes(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    on_gpu = [each.foreign_gpu_processes for each in conditions if each.gpu is not None]
    if not on_gpu:
        return None, ""
    found = [pids for pids in on_gpu if pids is not None]
    if len(found) < len(on_gpu):
        return None, "whose processes the GPU runs cannot be seen from here"
    number = len({pid for pids in found for pid in pids})
    return not number, f"{number} processes of others on the GPU"
