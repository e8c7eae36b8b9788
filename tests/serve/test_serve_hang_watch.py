"""A server that computes nothing while requests wait is noticed; one that is idle or tells nothing is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ServerError
from pipeline.hardware.probe import Hardware
from pipeline.progress import Progress
from pipeline.serve import counters, hang_watch
from pipeline.serve.hang_watch import HANG_S, LOOK_S, HangWatch
from pipeline.serve.server import Serving

BUSY = {"generation_tokens": 5.0, "running": 2.0, "waiting": 0.0}
GONE = None


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hang_watch, "time", clock)
    return clock


def look_for_an_hour(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, readings: Iterator[dict[str, float] | None], answers: Iterator[Any]
) -> float | None:
    """The second at which the server was found to hang."""

    def read(url: str, key_variable: str | None = None) -> counters.Reading | None:
        values = next(readings)
        return None if values is None else counters.Reading(values)

    monkeypatch.setattr(counters, "read", read)
    watch = HangWatch("http://127.0.0.1:1")
    while clock.now < 3600:
        clock.now += LOOK_S
        try:
            watch.look(next(answers))
        except ServerError as error:
            assert "hangs" in str(error)
            return clock.now
    return None


def always(value: Any) -> Iterator[Any]:
    while True:
        yield value


def growing() -> Iterator[dict[str, float]]:
    for tokens in range(10**6):
        yield {**BUSY, "generation_tokens": float(tokens)}


def stops_answering() -> Iterator[dict[str, float] | None]:
    yield from [BUSY, BUSY]
    yield from always(GONE)


@pytest.mark.parametrize(
    ("readings", "answers", "hangs"),
    [
        (always(BUSY), always(None), True),
        (stops_answering(), always(None), True),
        (always({"generation_tokens": 5.0}), always(None), True),
        (always(GONE), always(7), True),
        (always({**BUSY, "running": 0.0}), always(None), False),
        (always({**BUSY, "running": 0.0, "waiting": 3.0}), always(None), True),
        (growing(), always(None), False),
        (always(BUSY), iter(range(10**6)), False),
        # Other servers tell nothing.
        (always(GONE), always(None), False),
        (always({}), always(None), False),
    ],
)
def test_a_hang_is_no_progress_while_requests_wait(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    readings: Iterator[dict[str, float] | None],
    answers: Iterator[Any],
    hangs: bool,
) -> None:
    found = look_for_an_hour(clock, monkeypatch, readings, answers)
    assert (found is not None) == hangs
    assert found is None or HANG_S < found <= HANG_S + 3 * LOOK_S <= 600


def test_a_benchmark_of_a_server_that_hangs_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hang_watch, "LOOK_S", 0.1)
    monkeypatch.setattr(hang_watch, "HANG_S", 0.5)
    monkeypatch.setattr(counters, "read", lambda *_: counters.Reading(BUSY))
    stopped: list[int] = []
    launcher = SimpleNamespace(
        start=lambda *_: 7, exit_code=lambda pid: None, stop=lambda pid, grace_s: stopped.append(pid)
    )
    server: Any = SimpleNamespace(
        launcher=launcher, url="http://127.0.0.1:1", key_variable=None, client_environment={}, check_alive=lambda: None
    )
    serving = Serving(Hardware(device="cpu", name="Imaginary", cores=2, memory_gib=8.0), tmp_path, Progress())
    with pytest.raises(ServerError, match="The server hangs"):
        serving.benchmark(server, [], tmp_path / "client.log", timeout_s=3600)
    assert stopped == [7]
