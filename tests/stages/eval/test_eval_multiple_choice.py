"""The speed that one request a question is for: the benchmark's own script, on the demo model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipeline.config import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "benchmarks" / "multiple_choice.py"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("column", ["MMLU", "C-Eval"])
def test_five_times_the_questions_per_second_and_the_same_choices(column: str) -> None:
    command = [sys.executable, str(SCRIPT), "--column", column, "--questions", "200"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(answer.stdout)
    found = json.loads(answer.stdout.splitlines()[-1])
    assert (found["questions"], found["requests"], found["asked_by_echo"]) == (200, 800, 0)
    assert found["speed_ratio"] >= 5
    assert found["same_choice"] >= 0.995
    assert found["same_choice_asked_again"] == 1
    assert len(found["disagreements"]) == round(200 * (1 - found["same_choice"]))
