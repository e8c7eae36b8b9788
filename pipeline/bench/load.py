"""The load: vLLM's own serving benchmark as the client, one warm-up and several seeded repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import BenchSettings
from pipeline.datasets import local_file, read_conversations
from pipeline.errors import InputError, ServerError
from pipeline.serve.server import SERVED_NAME, Server
from pipeline.workspace import Draft

if TYPE_CHECKING:
    from pipeline.job import Job

# Far from the repeats' seeds, so that the warm-up sends other prompts than the measured ones.
WARMUP_SEED = 10_000
ENDPOINTS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
STATISTICS = ("mean", "median", "std", "p90", "p99")
LATENCIES = ("ttft", "tpot", "itl", "e2el")
UNITS = {
    "total_token_throughput": "tok/s",
    "output_throughput": "tok/s",
    "request_throughput": "req/s",
    **{f"{statistic}_{latency}_ms": "ms" for latency in LATENCIES for statistic in STATISTICS},
}


def bench(job: Job, draft: Draft) -> None:
    """Writes `repeat-<i>.json`, as vLLM made them, and their figures into the manifest.

    Raises:
        InputError: when the data set has too few conversations that vLLM would send.
        ServerError: when the server or the client ends early, or no request succeeds.
    """
    settings = job.settings.bench
    dataset = local_file(settings.dataset, "bench.dataset")
    job.progress.detail("starting the server")
    server = job.server()
    if settings.warmup_prompts:
        job.progress.detail("warming up")
        _run(job, draft.folder, server, dataset, settings.warmup_prompts, settings.seed + WARMUP_SEED, "warmup")
        (draft.folder / "warmup.json").unlink()
    repeats = []
    for index in range(settings.repeats):
        job.progress.detail(f"repeat {index + 1} of {settings.repeats}")
        repeats.append(
            _run(job, draft.folder, server, dataset, settings.num_prompts, settings.seed + index, f"repeat-{index}")
        )
    draft.results = {**summarize(repeats, settings), "server": server.facts()}


def summarize(repeats: list[dict[str, Any]], settings: BenchSettings) -> dict[str, Any]:
    """The figures of all repeats, by metric; `values` has one entry a repeat."""
    return {
        "asked": settings.num_prompts * len(repeats),
        "completed": sum(int(repeat["completed"]) for repeat in repeats),
        "failed": sum(int(repeat.get("failed", 0)) for repeat in repeats),
        "output_tokens": [int(repeat["total_output_tokens"]) for repeat in repeats],
        "metrics": {
            name: {"unit": unit, "values": [float(repeat[name]) for repeat in repeats]}
            for name, unit in UNITS.items()
            if all(name in repeat for repeat in repeats)
        },
    }


def usable(path: Path) -> int:
    """Conversations whose first two turns vLLM's ShareGPT sampler can use."""
    return sum(
        len(conversation) >= 2 and conversation[0]["role"] == "user" and conversation[1]["role"] == "assistant"
        for conversation in read_conversations(path)
    )


def _run(
    job: Job, folder: Path, server: Server, dataset: Path, num_prompts: int, seed: int, name: str
) -> dict[str, Any]:
    settings = job.settings.bench
    argv = arguments(settings, server, dataset, folder, num_prompts, seed, f"{name}.json")
    log = job.serving.logs / f"bench-{job.variant}-{name}.log"
    job.serving.benchmark(server, argv, log)
    path = folder / f"{name}.json"
    if not path.is_file():
        raise InputError(
            f"bench.dataset={dataset.name}: vLLM's benchmark found no prompt to send ({usable(dataset)} usable).",
            "Name a ShareGPT file whose conversations have a question and an answer.",
        )
    result = dict(json.loads(path.read_text()))
    if not result["completed"]:
        raise ServerError(f"None of {num_prompts} requests succeeded.", f"See {server.log}.")
    return result


def arguments(
    settings: BenchSettings, server: Server, dataset: Path, folder: Path, num_prompts: int, seed: int, name: str
) -> list[str]:
    """The command line of `vllm bench serve`: the study's, with seed, warm-up and percentiles added."""
    options = {
        "--backend": settings.endpoint,
        "--endpoint": ENDPOINTS[settings.endpoint],
        "--base-url": server.url,
        "--model": SERVED_NAME,
        "--tokenizer": server.checkpoint,
        "--dataset-name": "sharegpt",
        "--dataset-path": dataset,
        "--num-prompts": num_prompts,
        "--request-rate": settings.request_rate,
        "--seed": seed,
        "--percentile-metrics": ",".join(LATENCIES),
        "--metric-percentiles": "50,90,99",
        "--result-dir": folder,
        "--result-filename": name,
    }
    if settings.max_concurrency is not None:
        options["--max-concurrency"] = settings.max_concurrency
    flags = ["--save-result", "--save-detailed", "--disable-tqdm"]
    return [str(part) for option in options.items() for part in option] + flags
