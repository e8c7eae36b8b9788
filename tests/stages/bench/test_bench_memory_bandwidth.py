"""The measured read bandwidth: what a process of its own prints, and what it is made of."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.stages.bench import memory_bandwidth


def stand_in(folder: Path, *lines: str) -> str:
    """A Python that writes down its words and prints these lines."""
    program = folder / "python"
    printed = "".join(f"echo '{line}'\n" for line in lines)
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/words\necho noise >&2\n{printed}')
    program.chmod(0o755)
    return str(program)


def test_the_last_line_of_a_process_of_its_own_is_the_result(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "a warning", "2.5e9")
    assert memory_bandwidth.measured("cuda", python) == 2.5e9
    assert (tmp_path / "words").read_text().split() == ["-P", memory_bandwidth.__file__, "cuda"]
    (tmp_path / "words").unlink()
    assert memory_bandwidth.measured("cuda", python) == 2.5e9
    assert not (tmp_path / "words").exists(), "measured once in a run"


@pytest.mark.parametrize("lines", [(), ("", "none")])
def test_a_process_that_prints_no_number_has_measured_nothing(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert memory_bandwidth.measured("cpu", stand_in(tmp_path, *lines)) is None
    assert memory_bandwidth.measured("cpu", str(tmp_path / "missing")) is None


def test_the_fastest_read_counts_and_the_first_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        # The first read brings the pages in; three are measured.
        for seconds in (0.001, 0.5, 0.25, 0.4):
            yield now
            now += seconds
            yield now

    ticks = clock()
    monkeypatch.setattr(memory_bandwidth.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(memory_bandwidth, "ARRAY_BYTES", {"cpu": 4096})
    monkeypatch.setattr(memory_bandwidth, "ROUNDS", {"cpu": 3})
    memory_bandwidth.main("cpu")
    assert float(capsys.readouterr().out) == pytest.approx(4096 / 0.25)


def test_the_program_measures_the_device_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def ones(count: int, device: str) -> torch.Tensor:
        asked.append(device)
        return torch.zeros(8)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(sys, "argv", [memory_bandwidth.__file__, "cpu"])
    runpy.run_path(memory_bandwidth.__file__, run_name="__main__")
    assert asked == ["cpu"] and float(capsys.readouterr().out) > 0


def test_arrays_are_several_times_as_large_as_caches() -> None:
    """Of a desktop or a server's socket, and of a B200 (126 MB); and fit where a model fits."""
    assert 4 * 96e6 < memory_bandwidth.ARRAY_BYTES["cpu"] < 2e9
    assert 10 * 126e6 < memory_bandwidth.ARRAY_BYTES["cuda"] < 8e9
    assert all(10 <= number <= 50 for number in memory_bandwidth.ROUNDS.values())
