"""The load is the study's command, and its figures are kept repeat by repeat."""

import itertools
from pathlib import Path

import pytest

from pipeline.bench.load import UNITS, arguments, summarize, usable
from pipeline.config import PROJECT_ROOT
from pipeline.serve.server import Server


def repeat(value: float, completed: int = 10, failed: int = 0) -> dict:
    return {
        "completed": completed,
        "failed": failed,
        "total_output_tokens": 100,
        **{name: value for name in UNITS if not name.startswith("std_")},
    }


def test_every_repeat_is_kept_and_failures_are_counted(settings) -> None:
    summary = summarize([repeat(1.0), repeat(3.0, completed=9, failed=1)], settings("bench.num_prompts=10").bench)
    assert summary["metrics"]["mean_ttft_ms"] == {"unit": "ms", "values": [1.0, 3.0]}
    assert (summary["asked"], summary["completed"], summary["failed"]) == (20, 19, 1)
    assert "std_ttft_ms" not in summary["metrics"]


def test_the_study_preset_is_the_studys_command(settings) -> None:
    bench = settings("model=qwen3_8b").bench
    server = Server(None, 0, "http://127.0.0.1:1", Path("log"), Path("checkpoint"), [])  # type: ignore[arg-type]
    given = arguments(bench, server, Path("sharegpt.json"), Path("out"), bench.num_prompts, 0, "r.json")
    pairs = dict(itertools.pairwise(given))
    assert pairs["--backend"] == "openai-chat"
    assert pairs["--endpoint"] == "/v1/chat/completions"
    assert pairs["--dataset-name"] == "sharegpt"
    assert pairs["--num-prompts"] == "1000"
    assert pairs["--request-rate"] == "inf"
    assert "--max-concurrency" not in given


def test_the_demo_set_has_enough_usable_conversations(settings) -> None:
    bench = settings().bench
    assert usable(PROJECT_ROOT / "calibration_data" / "demo" / "benchmark.json") >= bench.num_prompts


def test_a_file_of_prompts_alone_has_none(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n")
    assert usable(path) == 0


@pytest.mark.parametrize("name", ["calibration/sharegpt_gpt4-qwen3_a22B_output.jsonl"])
def test_a_real_set_is_usable(name: str, data_dir: Path) -> None:
    # Some of its answers are empty.
    assert usable(data_dir / name) >= 200
