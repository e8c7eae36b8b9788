"""The machine of a benchmark, in words."""

from typing import Any

import pytest

from pipeline.artifacts.manifest import Manifest
from pipeline.results.bench import BenchResult, machine_of


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        ({"name": "EPYC", "device": "cpu", "cores": 16}, "EPYC, 16 cores"),
        # The cores of a GPU's host say little of it.
        ({"name": "H100", "device": "cuda", "cores": 16}, "H100"),
        ({"name": "EPYC", "device": "cpu"}, "EPYC"),
        ({"name": "EPYC", "cores": 16}, "EPYC"),
        ({}, "an unknown machine"),
        ({"name": "a\x1b[31m" + "b" * 99, "device": "cuda"}, "a[31m" + "b" * 74 + "…"),
    ],
)
def test_a_cpu_is_told_with_its_cores(hardware: dict[str, Any], expected: str) -> None:
    rest: dict[str, Any] = {"model": "m", "variant": None, "status": "ok", "key": "0", "payload": {}, "started": ""}
    assert machine_of(Manifest(stage="bench", seconds=1, hardware=hardware, results={}, **rest)) == expected


def test_what_an_earlier_release_left_out_is_the_first_block_and_no_failure() -> None:
    found = BenchResult(asked=3, completed=3, metrics={})
    assert (found.block, found.failed, found.protocol, found.headline, found.temperature) == (0, 0, "", None, None)
    assert found.load(None) is found.load("concurrency 1") is None
