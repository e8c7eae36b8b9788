"""Validity checks of a load: each guard examines the recorded data and passes, fails, or is undecided.

A failing guard marks the result and hides nothing. Guards that need two variants are in `compare.load_guards`, those of
trends over time in `trends`. docs/benchmark.md has the reason for each limit.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.results.bench import BOTTLENECK, Busy, Conditions, Guard

# Beyond these a figure is marked: shares of all cores, foreign tasks per core, relative differences, degrees.
FOREIGN_CPU = 0.1
FOREIGN_TASKS = 0.5
CLOCK_DROP = 0.1
HOT_C = 85.0
REPLY_LENGTH = 0.02
# A process that uses this share of a core has no time left; a GPU or engine below this share of its time waits for it.
FULL_CORE = 0.95
BUSY = 0.9
# An API server, an engine and a load generator each fill one, and the driver's threads and this process need some.
FEW_CORES = 4
# Requests running on average, of which a GPU always has some: of a Poisson number with this mean 0.03 % are zero.
NEVER_EMPTY = 8
# Reasons of a lower clock that a load alone does not bring about, and the share of samples from which they count.
FAULTS = ("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake")
SLOWED = 0.05
REASONS_SHOWN = ("software power cap", *FAULTS)


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
        BOTTLENECK: _bottleneck,
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


def _counted(conditions: Sequence[Conditions], name: str) -> float | None:
    """Return a counter's growth over all repeats; None if one of them lacks it."""
    found = [each.counters.get(name) for each in conditions]
    known = [value for value in found if value is not None]
    return sum(known) if found and len(known) == len(found) else None


def _prefix_cache(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    queries, hits = _counted(conditions, "prefix_queries"), _counted(conditions, "prefix_hits")
    if queries is None or hits is None:
        return None, "the server does not tell how much came from its prefix cache"
    text = f"{hits:.0f} of {queries:.0f} tokens looked up in the prefix cache were there"
    if outside := _counted(conditions, "external_prefix_hits"):
        text += f", and {outside:.0f} in the cache outside the engine"
    return hits == 0 and not outside, text


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


def reply_length(load: str, lengths: Sequence[NDArray[np.int64]], requested: int) -> Guard:
    """Check that a server generated the tokens that were requested: one may ignore `min_tokens` or the limit.

    It fails if the replies are off by more than 2 % of all tokens, too long and too short ones added up.

    Args:
        load: its name.
        lengths: generated tokens of the answered requests of each repeat.
        requested: exact tokens of every reply.
    """
    replies = np.concatenate([*lengths, np.empty(0, np.int64)])
    wanted = requested * len(replies)
    other = int((replies != requested).sum())
    text = (
        f"{int(replies.sum())} tokens generated of {wanted} requested; {other} of {len(replies)} replies are not exact"
    )
    # Servers that report no usage have their text counted by the client, which may be off by a token.
    passed = np.abs(replies - requested).sum() <= REPLY_LENGTH * wanted if wanted else None
    return Guard(name="reply length", passed=None if passed is None else bool(passed), text=text, load=load)


def _bottleneck(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    """Check that the GPU (without one, the engine), not a process on the CPU, limited the load in every repeat."""
    verdicts = [(_limited_by(busy, each.running_mean), busy) for each in conditions if (busy := each.busy) is not None]
    if not verdicts:
        return None, ""
    limits = [(who, busy) for who, busy in verdicts if who]
    (who, busy), number = limits[0] if limits else verdicts[-1], len(limits)
    place = "" if len(conditions) == 1 or not number else f" in {number} of {len(conditions)} repeats"
    facts = ", ".join([*_use(busy), *_queues(conditions), *(_cores(conditions) if busy.gpu is not None else [])])
    if who:
        engine = "GPU" if busy.gpu is not None else "engine"
        return False, f"the {who}, not the {engine}, limited this load{place}: {facts}"
    known = busy.api_server is not None and (busy.gpu if busy.gpu is not None else busy.engine) is not None
    return (True if known else None), facts


def _limited_by(busy: Busy, running: float | None) -> str | None:
    """Return the name of the process that had no time left while the engine waited; None if there is none.

    A GPU that waits while requests run, and nothing in front of the engine is full, waits for the engine itself: for
    the kernels that it launches one by one where no CUDA graph covers the batch, or for its scheduler.
    """
    engine = busy.gpu if busy.gpu is not None else busy.engine
    if engine is not None and engine >= BUSY:
        return None
    if busy.client is not None and busy.client >= FULL_CORE:
        return "load generator"
    if engine is not None and busy.api_server is not None and busy.api_server >= FULL_CORE:
        return "front end"
    if busy.gpu is not None and running is not None and running >= NEVER_EMPTY:
        return "engine's CPU side"
    return None


def _use(busy: Busy) -> list[str]:
    named = {"API server": busy.api_server, "load generator": busy.client}
    cores = [f"{name} {100 * share:.0f} % of a core" for name, share in named.items() if share is not None]
    if busy.gpu is not None:
        return [*cores, f"GPU busy {100 * busy.gpu:.0f} % of the time"]
    return cores if busy.engine is None else [*cores, f"engine busy {100 * busy.engine:.0f} % of the time"]


def _cores(conditions: Sequence[Conditions]) -> list[str]:
    """Say how few cores there were, where processes of a server and its clients must have shared them."""
    fewest = min((each.cores for each in conditions if each.cores is not None), default=FEW_CORES)
    return [f"on {fewest} cores"] if fewest < FEW_CORES else []


def _queues(conditions: Sequence[Conditions]) -> list[str]:
    found = []
    for name, values in (
        ("running", [each.running_mean for each in conditions if each.running_mean is not None]),
        ("waiting", [each.waiting_mean for each in conditions if each.waiting_mean is not None]),
    ):
        found += [f"{statistics.mean(values):.0f} requests {name}"] if values else []
    total, *engine = (_counted(conditions, name) for name in ("latency_s", "inference_s", "queue_s"))
    if total and engine[0] is not None and engine[1] is not None:
        found.append(
            f"{100 * max(0.0, 1 - (engine[0] + engine[1]) / total):.0f} % of a request's time outside the engine"
        )
    return found


def _foreign(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    """Check that others took little CPU time and kept few tasks runnable, whether or not these got a core."""
    shares = [share for each in conditions if (share := each.foreign_cpu_share) is not None]
    tasks = [number for each in conditions if (number := each.foreign_runnable) is not None]
    loads = [each.load_average.after for each in conditions if each.load_average is not None]
    load = f"load average {max(loads, default=0.0):.1f}"
    if not shares and not tasks:
        return None, f"the CPU time of other processes is unknown ({load})" if loads else ""
    parts = [f"took up to {100 * max(shares):.0f} % of the CPU"] if shares else []
    parts += [f"had up to {max(tasks):.1f} runnable tasks per core"] if tasks else []
    passed = max(shares, default=0.0) <= FOREIGN_CPU and max(tasks, default=0.0) <= FOREIGN_TASKS
    return passed, f"other processes {' and '.join(parts)} ({load})"


def _clock(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    """Check the clock under load: its median falls between repeats, heat or hardware holds it back, or the GPU is hot.

    The software power cap holds the clock of any heavy load back; `compare.load_guards` compares it between variants.
    """
    seen = [each for each in conditions if each.gpu]
    if not seen:
        return None, ""
    hottest = max(
        (each.gpu["temperature_c"].max for each in seen if each.gpu and "temperature_c" in each.gpu), default=0.0
    )
    loads = [each.gpu_load for each in seen if each.gpu_load is not None]
    clocks = [load.sm_mhz for load in loads if load.sm_mhz is not None]
    slowed = (
        {name: max((load.slowed or {}).get(name, 0.0) for load in loads) for name in REASONS_SHOWN} if loads else {}
    )
    shown = ", ".join(f"{name} in {100 * share:.0f} % of the samples" for name, share in slowed.items() if share)
    heat = f"at most {hottest:.0f} °C" + (f"; {shown}" if shown else "")
    is_faulty = hottest >= HOT_C or any(slowed.get(name, 0.0) > SLOWED for name in FAULTS)
    if not clocks:
        return (False if is_faulty else None), f"the GPU drew less than half of its power limit; {heat}"
    drops = min(clocks) < (1 - CLOCK_DROP) * max(clocks)
    spread = f"{min(clocks):.0f} MHz" if min(clocks) == max(clocks) else f"{min(clocks):.0f} to {max(clocks):.0f} MHz"
    return not (is_faulty or drops), f"median under load {spread}, {heat}"


def _gpu_processes(conditions: Sequence[Conditions]) -> tuple[bool | None, str]:
    on_gpu = [each.foreign_gpu_processes for each in conditions if each.gpu is not None]
    if not on_gpu:
        return None, ""
    found = [pids for pids in on_gpu if pids is not None]
    if len(found) < len(on_gpu):
        return None, "whose processes the GPU runs cannot be seen from here"
    number = len({pid for pids in found for pid in pids})
    return not number, f"{number} processes of others on the GPU"
