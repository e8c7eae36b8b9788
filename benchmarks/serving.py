r"""Checks of the serving benchmark: `python benchmarks/serving.py client|table ...`.

* `client`: the pipeline's client adds no overhead. vLLM's own command, run by hand, alternates with `bench=study`
  against one server; throughput and TTFT of both, and the difference between two runs of the pipeline.
* `table`: BF16, INT8-dynamic, W4A16, GPTQ and AWQ of one shape with random weights, at concurrency 1: TPOT with its
  interval, and reading the weights as a share of this machine's measured memory bandwidth.

Each prints a table, and the same as one JSON line at the end. At the shape of Qwen3-0.6B, with the real tokenizer and
a few real conversations, which suffice for speed:

    mkdir qwen3-0.6b; cp $DATA/qwen3/*.json* qwen3-0.6b/; cp $DATA/qwen3/config.qwen3-0.6b.json qwen3-0.6b/config.json
    python benchmarks/serving.py table model=qwen3_0_6b model.path=qwen3-0.6b eval.data_dir=$DATA \
        calibration.dataset.path=$DATA/sharegpt/sharegpt_gpt4_256.jsonl calibration.num_samples=16 \
        calibration.max_seq_length=256 calibration.max_overlap=1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.compare.stats.repeats import Change, Repeated, relative_change, summarize
from pipeline.config import RESOURCES
from pipeline.demo import CHECKPOINT
from pipeline.models.safetensors import safetensors_header

FORMATS = ("bf16", "int8_dynamic", "w4a16", "gptq", "awq")
BY_HAND = """
import argparse, sys
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def pipeline(outputs: Path, *arguments: str) -> None:
    """Run the pipeline's command and show its output."""
    subprocess.run([sys.executable, "-m", "pipeline", *arguments, f"outputs={outputs}"], cwd=RESOURCES, check=True)


def results(outputs: Path, variant: str) -> list[dict[str, Any]]:
    """Return the results of a variant's benchmarks, oldest first; none of a format that this machine emulates."""
    found = [json.loads(path.read_text()) for path in outputs.glob(f"*/{variant}/bench-*/manifest.json")]
    return [each["results"] for each in sorted(found, key=lambda each: each["started"]) if each["status"] == "ok"]


def client(outputs: Path, rounds: int, prompts: int, overrides: list[str]) -> None:
    """Alternate the pipeline's client and vLLM's command against one server, given by its URL."""
    dataset = RESOURCES / "calibration_data" / "demo" / "benchmark.json"
    checkpoint = CHECKPOINT
    port, log = 18_765, outputs / "server.log"
    outputs.mkdir(parents=True, exist_ok=True)
    serve = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), "--port", str(port)),
        *("--host", "127.0.0.1", "--served-model-name", "model", "--no-enable-prefix-caching", "--enforce-eager"),
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as out:
        server = subprocess.Popen(serve, stdout=out, stderr=out, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, server)
        ours: list[dict[str, float]] = []
        theirs: list[dict[str, float]] = []
        names = ("total_token_throughput", "mean_ttft_ms", "median_ttft_ms")

        def by_us(seed: int) -> None:
            shared = [f"bench.dataset.path={dataset}", f"bench.num_prompts={prompts}", "bench.repeats=1"]
            pipeline(
                outputs / "ours",
                *("stage=bench", "quant=bf16", "bench=study", f"serve.url={url}", f"bench.seed={seed}"),
                *("bench.warmup_prompts=16", "bench.warmup_rounds=2", *shared, *overrides),
            )
            values = results(outputs / "ours", "bf16")[-1]["metrics"]
            ours.append({name: values[name]["values"][0] for name in names})

        def by_hand(seed: int) -> None:
            file = outputs / f"theirs-{seed}.json"
            command = [
                *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", url),
                *("--model", "model", "--tokenizer", str(checkpoint), "--dataset-name", "sharegpt"),
                *("--dataset-path", str(dataset), "--num-prompts", str(prompts), "--seed", str(seed)),
                *("--temperature", "0", "--save-result", "--result-dir", str(outputs), "--result-filename", file.name),
            ]
            subprocess.run([sys.executable, "-c", BY_HAND, *command], check=True, capture_output=True)
            content = json.loads(file.read_text())
            theirs.append({name: float(content[name]) for name in names})

        for index in range(rounds):
            # The order alternates, too.
            for send in (by_us, by_hand) if index % 2 == 0 else (by_hand, by_us):
                send(index)
    finally:
        server.terminate()
        server.wait(60)
    found = {name: _side_by_side([each[name] for each in ours], [each[name] for each in theirs]) for name in names}
    for name, figures in found.items():
        print(
            f"{name}: ours {figures['ours']:.1f}, by hand {figures['by_hand']:.1f}, {figures['change_percent']:+.1f} % "
            f"({figures['low']:+.1f} to {figures['high']:+.1f} %), "
            f"{'DIFFERENT' if figures['differs'] else 'no difference shown'}; "
            f"ours against ours, every other round: {figures['ours_against_ours_percent']:+.1f} %"
        )
    print(json.dumps({"rounds": rounds, "prompts": prompts, "load_average": os.getloadavg()[0], **found}))


def _side_by_side(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return one metric of both clients over all rounds."""
    change, halves = relative_change(ours, theirs), relative_change(ours[::2], ours[1::2])
    assert isinstance(change, Change) and isinstance(halves, Change) and change.interval is not None
    return {
        "ours": median(ours),
        "by_hand": median(theirs),
        "change_percent": change.percent,
        "low": change.interval.low,
        "high": change.interval.high,
        "differs": change.is_clear,
        "ours_against_ours_percent": halves.percent,
    }


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    import httpx

    while True:
        if server.poll() is not None:
            raise SystemExit("the server ended; see server.log")
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)


def decode_bytes(checkpoint: Path) -> int:
    """Return the bytes of weights read per decoded token: all but the embedding, of which one row is read.

    A tied embedding is read whole, as the output layer.
    """
    tied = bool(json.loads((checkpoint / "config.json").read_text()).get("tie_word_embeddings"))
    total = 0
    for path in checkpoint.glob("*.safetensors"):
        for name, entry in safetensors_header(path).items():
            if (tied or "embed_tokens" not in name) and not (tied and "lm_head" in name):
                start, end = entry["data_offsets"]
                total += end - start
    return total


def table(outputs: Path, overrides: list[str]) -> None:
    """Measure the formats at concurrency 1, with the share of the memory bandwidth."""
    pipeline(
        outputs,
        *("stage=bench", f"variants=[{','.join(FORMATS)}]", "model.weights=random", "bench=latency"),
        *("bench.prompts=random", "bench.input_len=32", "bench.output_len=32", "bench.endpoint=openai"),
        *("bench.num_prompts=4", "bench.repeats=3", "bench.warmup_prompts=2", "bench.warmup_rounds=3"),
        *("serve.max_model_len=2048", *overrides),
    )
    base = results(outputs, FORMATS[0])[-1]
    found = [_decoding(outputs, variant, base) for variant in FORMATS if results(outputs, variant)]
    shown = Table("Format", "TPOT (ms)", "95 %", "against BF16", "read a token (MB)", "share of bandwidth")
    for row in found:
        shown.add_row(
            row["variant"],
            f"{row['tpot_ms']:.1f}",
            f"{row['tpot_low']:.1f} to {row['tpot_high']:.1f}",
            row["against_bf16"],
            f"{row['read_bytes'] / 1e6:.0f}",
            f"{100 * row['share_of_bandwidth']:.0f} %",
        )
    Console(width=150).print(shown)
    print(json.dumps({"memory_bandwidth": base["memory_bandwidth"], "rows": found}))


def _decoding(outputs: Path, variant: str, base: dict[str, Any]) -> dict[str, Any]:
    """Return one format's TPOT, its ratio to BF16's, and the share of the measured bandwidth."""
    found = results(outputs, variant)[-1]
    values, reference = found["metrics"]["median_tpot_ms"], base["metrics"]["median_tpot_ms"]
    measured = summarize("ms", values["values"], values["errors"])
    assert isinstance(measured, Repeated) and measured.interval is not None
    change = relative_change(values["values"], reference["values"], values["errors"], reference["errors"])
    against = "baseline"
    if variant != FORMATS[0] and isinstance(change, Change) and change.interval is not None:
        word = "" if change.is_clear else ", no difference shown"
        against = f"{change.percent:+.1f} % ({change.interval.low:+.1f} to {change.interval.high:+.1f}{word})"
    read = decode_bytes(next(outputs.glob(f"*/{variant}/quantize-*/checkpoint")))
    return {
        "variant": variant,
        "tpot_ms": measured.mean,
        "tpot_low": measured.interval.low,
        "tpot_high": measured.interval.high,
        "against_bf16": against,
        "read_bytes": read,
        "share_of_bandwidth": read / (measured.mean / 1000) / found["memory_bandwidth"],
        "marked": [guard["text"] for guard in found["guards"] if guard["passed"] is False],
    }


def main() -> None:
    """Run the benchmark named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["client", "table"])
    parser.add_argument("--outputs", type=Path, default=Path("outputs/benchmarks/serving"))
    parser.add_argument("--rounds", type=int, default=6, help="of client: each is one of ours and one by hand")
    parser.add_argument("--prompts", type=int, default=200, help="of client: requests of each")
    parser.add_argument("overrides", nargs="*", help="further settings, as model=qwen3_0_6b model.path=...")
    # Settings and options may be mixed.
    given = parser.parse_intermixed_args()
    outputs = given.outputs.resolve()
    if given.what == "client":
        client(outputs, given.rounds, given.prompts, given.overrides)
    else:
        table(outputs, given.overrides)


if __name__ == "__main__":
    main()
