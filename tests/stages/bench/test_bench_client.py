"""What vLLM's load generator is told: for `bench=study`, the study's own command."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.stages.bench import plan
from pipeline.stages.bench.client import Client

STUDY = (
    "vllm bench serve --model Qwen/Qwen3-8B --endpoint-type openai-chat --endpoint /v1/chat/completions "
    "--dataset-name sharegpt --dataset-path ShareGPT_V3_unfiltered_cleaned_split.json --num-prompts 1000"
)
# What vLLM 0.9.2 called by another name.
RENAMED = {"--endpoint-type": "--backend"}
# Which server, whose tokenizer, what is written down, and how it is waited for: none of it changes what is sent.
ELSEWHERE = {
    *("--base-url", "--tokenizer", "--percentile-metrics", "--metric-percentiles", "--result-dir"),
    *("--result-filename", "--save-result", "--save-detailed", "--disable-tqdm", "--ready-check-timeout-sec"),
}


def options(words: list[str]) -> dict[str, str]:
    """Each option with its value, as an empty text where it is a flag."""
    found: dict[str, str] = {}
    for word in words:
        if word.startswith("--"):
            found[word] = ""
        else:
            found[list(found)[-1]] = word
    return found


def asked(settings: Any, load: plan.Load, seed: int = 0) -> dict[str, str]:
    server: Any = SimpleNamespace(url="http://127.0.0.1:8000", model="Qwen/Qwen3-8B", checkpoint=Path("/model"))
    serving: Any = None
    name = settings.dataset.hub_file or "prompts.json"
    client = Client(serving, server, settings, Path(name), Path("/scratch"), Path("/logs"))
    return options(client.arguments(load, seed, Path("/scratch/result.json")))


def test_the_studys_command_to_the_letter(settings: Any, data_dir: Path) -> None:
    document = data_dir.parent / "seeds" / "impact-of-quantization-on-vllm.txt"
    if document.is_file():
        assert STUDY in document.read_text()
    bench = settings("model=qwen3_8b", "bench=study").bench
    load = plan.single(bench)
    ours = asked(bench, load, load.seed(bench, 0))
    theirs = {RENAMED.get(name, name): value for name, value in options(shlex.split(STUDY)[3:]).items()}
    assert {name: ours[name] for name in theirs} == theirs
    added = {name: value for name, value in ours.items() if name not in theirs and name not in ELSEWHERE}
    # An infinite rate and seed 0 are the client's defaults; a greedy reply was that of its release.
    assert added == {"--request-rate": "inf", "--seed": "0", "--temperature": "0.0"}


def test_a_tokenizers_own_code_is_run_where_it_is_trusted(settings: Any) -> None:
    bench, unused = settings("bench=latency").bench, Path("/scratch")
    server: Any = SimpleNamespace(url="http://127.0.0.1:8000", model="model", checkpoint=Path("/model"))
    for trusted in (False, True):
        serving: Any = None
        client = Client(serving, server, bench, None, unused, unused, trusted)
        asked = client.arguments(plan.single(bench), 0, unused / "result.json")
        assert ("--trust-remote-code" in asked) is trusted


@pytest.mark.parametrize("protocol", ["study", "latency", "throughput"])
def test_every_load_is_told_its_seed_and_its_limits(settings: Any, protocol: str) -> None:
    bench = settings(f"bench={protocol}", "bench.max_concurrency=3", "bench.request_rate=2").bench
    told = asked(bench, plan.single(bench), seed=7)
    assert (told["--seed"], told["--max-concurrency"], told["--request-rate"]) == ("7", "3", "2.0")
    assert ("--extra-body" in told) == (bench.output_len is not None)


def test_a_temperature_that_is_left_out_is_the_checkpoints(settings: Any) -> None:
    bench = settings("bench.temperature=null").bench
    assert "--temperature" not in asked(bench, plan.single(bench))
