"""What the serving benchmark promises, measured: `python benchmarks/serving.py client|table ...`.

* `client`: our client adds nothing. vLLM's own command, run by hand as a user would, against the server that
  `bench=study` measured, in turns with it; throughput and TTFT of both, and what two of ours differ by.
* `table`: BF16, INT8-dynamic, W4A16, GPTQ and AWQ of one shape with random weights, at concurrency 1: TPOT with its
  interval, and the share of this machine's measured memory bandwidth that reading the weights takes.
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

from pipeline.compare.repeats import Change, Repeated, relative_change, summarize
from pipeline.config import PROJECT_ROOT
from pipeline.models import safetensors_header

FORMATS = ("bf16", "int8_dynamic", "w4a16", "gptq", "awq")
BY_HAND = """
import argparse, sys
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def pipeline(outputs: Path, *arguments: str) -> None:
    """Runs the command, its output shown."""
    subprocess.run([sys.executable, "-m", "pipeline", *arguments, f"outputs={outputs}"], cwd=PROJECT_ROOT, check=True)


def results(outputs: Path, variant: str) -> list[dict[str, Any]]:
    """The results of a variant's benchmarks, oldest first."""
    found = [json.loads(path.read_text()) for path in outputs.glob(f"*/{variant}/bench-*/manifest.json")]
    return [each["results"] for each in sorted(found, key=lambda each: each["started"])]


def client(outputs: Path, rounds: int, prompts: int, overrides: list[str]) -> None:
    """Ours and vLLM's command in turns against one server, attached by its address."""
    dataset = PROJECT_ROOT / "calibration_data" / "demo" / "benchmark.json"
    checkpoint = PROJECT_ROOT / "pipeline" / "demo" / "checkpoint"
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
        for index in range(rounds):
            shared = [f"bench.dataset.path={dataset}", f"bench.num_prompts={prompts}", "bench.repeats=1"]
            pipeline(
                outputs / "ours",
                *("stage=bench", "quant=bf16", "bench=study", f"serve.url={url}", f"bench.seed={index}"),
                *("bench.warmup_prompts=16", "bench.warmup_rounds=2", *shared, *overrides),
            )
            values = results(outputs / "ours", "bf16")[-1]["metrics"]
            ours.append({name: values[name]["values"][0] for name in names})
            file = outputs / f"theirs-{index}.json"
            command = [
                *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", url),
                *("--model", "model", "--tokenizer", str(checkpoint), "--dataset-name", "sharegpt"),
                *("--dataset-path", str(dataset), "--num-prompts", str(prompts), "--seed", str(index)),
                *("--temperature", "0", "--save-result", "--result-dir", str(outputs), "--result-filename", file.name),
            ]
            subprocess.run([sys.executable, "-c", BY_HAND, *command], check=True, stdout=subprocess.DEVNULL)
            content = json.loads(file.read_text())
            theirs.append({name: float(content[name]) for name in names})
    finally:
        server.terminate()
        server.wait(60)
    for name in names:
        one, other = [each[name] for each in ours], [each[name] for each in theirs]
        change = relative_change(one, other)
        halves = relative_change(one[::2], one[1::2])
        assert isinstance(change, Change)
        spread = f"{halves.percent:+.1f} %" if isinstance(halves, Change) else "n/a"
        ends = f"{change.interval.low:+.1f} to {change.interval.high:+.1f} %" if change.interval else "no interval"
        verdict = "DIFFERENT" if change.is_clear else "no difference shown"
        print(
            f"{name}: ours {median(one):.1f}, by hand {median(other):.1f}, {change.percent:+.1f} % ({ends}), {verdict}"
        )
        print(f"  ours against ours, every other round: {spread}")


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
    """Bytes of weights that one decoded token reads: all but the embedding, of which it reads a row.

    A tied embedding is read whole, as the head.
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
    """The formats at concurrency 1, with the share of the bandwidth."""
    pipeline(
        outputs,
        *("stage=bench", f"variants=[{','.join(FORMATS)}]", "model.weights=random", "bench=latency"),
        *("bench.prompts=random", "bench.input_len=32", "bench.output_len=32", "bench.endpoint=openai"),
        *("bench.num_prompts=4", "bench.repeats=3", "bench.warmup_prompts=2", "bench.warmup_rounds=3", *overrides),
    )
    shown = Table("Format", "TPOT (ms)", "95 %", "against BF16", "read a token (MB)", "share of bandwidth", "note")
    base = None
    for variant in FORMATS:
        found = results(outputs, variant)[-1]
        values = found["metrics"]["median_tpot_ms"]
        measured = summarize("ms", values["values"], values.get("errors", ()))
        assert isinstance(measured, Repeated)
        base = base or values
        change = relative_change(values["values"], base["values"], values["errors"], base["errors"])
        read = decode_bytes(next(outputs.glob(f"*/{variant}/quantize-*/checkpoint")))
        share = read / (measured.mean / 1000) / found["memory_bandwidth"]
        emulated, ends = found["server"]["emulated"], measured.interval
        assert ends is not None
        against = "baseline"
        if values is not base and isinstance(change, Change) and change.interval:
            word = "" if change.is_clear else ", no difference shown"
            against = f"{change.percent:+.1f} % ({change.interval.low:+.1f} to {change.interval.high:+.1f}{word})"
        shown.add_row(
            variant,
            f"{measured.mean:.1f}",
            f"{ends.low:.1f} to {ends.high:.1f}",
            against,
            f"{read / 1e6:.0f}",
            f"{100 * share:.0f} %",
            "emulated: no speed claim" if emulated else "",
        )
        print(variant, "memory bandwidth", f"{found['memory_bandwidth'] / 1e9:.1f} GB/s", found["left_out"] or "")
    Console(width=150).print(shown)


def main() -> None:
    """Reads the command line and runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["client", "table"])
    parser.add_argument("--outputs", type=Path, default=Path("outputs/benchmarks/serving"))
    parser.add_argument("--rounds", type=int, default=6, help="of client: each is one of ours and one by hand")
    parser.add_argument("--prompts", type=int, default=200, help="of client: requests of each")
    parser.add_argument("overrides", nargs="*", help="further settings, as model=qwen3_0_6b model.path=...")
    given = parser.parse_args()
    outputs = given.outputs.resolve()
    if given.what == "client":
        client(outputs, given.rounds, given.prompts, given.overrides)
    else:
        table(outputs, given.overrides)


if __name__ == "__main__":
    main()
