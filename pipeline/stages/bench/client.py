"""vLLM's own load generator as the client: its command line, a run of it, and the results."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import BenchSettings
from pipeline.errors import ServerError
from pipeline.results.metrics import LATENCIES, PERCENTILES
from pipeline.serve.server import Serving, Target
from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.requests import Requests, summary_of

ENDPOINTS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
DYING_S = 4.0
# vLLM's line where a data set has fewer prompts than requests (`BenchmarkDataset.maybe_oversample_requests`).
OVERSAMPLED = "Oversampled requests"


@dataclass(frozen=True)
class Run:
    """One run of the client: vLLM's summary, the timings of each request, and whether any prompt was sent twice."""

    summary: dict[str, Any]
    requests: Requests
    repeats_prompts: bool = False

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.json` and `<name>.npz`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(self.summary, indent=1))
        self.requests.save(folder / f"{name}.npz")


@dataclass(frozen=True)
class Client:
    """Client of one server, which sends it loads.

    Attributes:
        serving: the servers, whose launcher runs the client.
        server: target of the requests.
        settings: settings of the benchmark.
        prompts: ShareGPT file; None for random prompts.
        scratch: folder for the client's own files.
        logs: folder for its log.
        trust_remote_code: whether it may run the code of a tokenizer.
    """

    serving: Serving
    server: Target
    settings: BenchSettings
    prompts: Path | None
    scratch: Path
    logs: Path
    trust_remote_code: bool = False

    def send(self, load: Load, seed: int) -> Run:
        """Send a load to the server and wait until every request is answered.

        Raises:
            ServerError: when the server or the client ends early or hangs, or no request succeeds.
        """
        result = self.scratch / "result.json"
        result.unlink(missing_ok=True)
        log = self.logs / f"client-{load.slug}-{seed}.log"
        self.serving.benchmark(self.server, self.arguments(load, seed, result), log, self.settings.timeout_s)
        if not result.is_file():
            raise ServerError("vLLM's load generator left no result.", f"Its log is {log}.")
        content = json.loads(result.read_text())
        result.unlink()
        run = Run(summary_of(content), Requests.of(content), OVERSAMPLED in log.read_text(errors="replace"))
        # A server that the user runs has no process to check.
        if not run.requests.good.all() and self.server.pid is not None:
            self._check_alive()
        if not content["completed"]:
            lines = [line for error in run.summary["first_errors"][:1] for line in error.splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else "no reason given"
            raise ServerError(
                f"None of {load.num_prompts} requests succeeded: {reason[:300]}.", f"See {self.server.log or log}."
            )
        return run

    def _check_alive(self) -> None:
        """Check the server after failed requests; it exits only some seconds after its engine."""
        deadline = time.monotonic() + DYING_S
        while time.monotonic() < deadline:
            self.server.check_alive()
            time.sleep(0.2)

    def arguments(self, load: Load, seed: int, result: Path) -> list[str]:
        """Return the command line of `vllm bench serve`: the study's, plus the seed and all percentiles."""
        settings = self.settings
        options: dict[str, object] = {
            "--backend": settings.endpoint,
            "--endpoint": ENDPOINTS[settings.endpoint],
            "--base-url": self.server.url,
            "--model": self.server.model,
            "--tokenizer": self.server.checkpoint,
            "--num-prompts": load.num_prompts,
            "--request-rate": load.request_rate,
            "--max-concurrency": load.max_concurrency,
            "--seed": seed,
            "--temperature": settings.temperature,
            "--percentile-metrics": ",".join(LATENCIES),
            "--metric-percentiles": ",".join(str(percent) for percent in PERCENTILES),
            "--result-dir": result.parent,
            "--result-filename": result.name,
            # vLLM's own check would send the first prompt once more.
            "--ready-check-timeout-sec": 0,
        }
        if settings.prompts == "random":
            options |= {"--dataset-name": "random", "--random-input-len": settings.input_len}
            options |= {"--random-output-len": settings.output_len}
        else:
            options |= {"--dataset-name": "sharegpt", "--dataset-path": self.prompts}
            options |= {"--sharegpt-output-len": settings.output_len}
        if settings.output_len is not None:
            # Qwen3 has two end-of-sequence tokens, and `ignore_eos` knows one of them; other servers know it alone.
            options["--extra-body"] = json.dumps({"min_tokens": settings.output_len, "ignore_eos": True})
        flags = ["--save-result", "--save-detailed", "--disable-tqdm"]
        flags += ["--trust-remote-code"] if self.trust_remote_code else []
        given = [(name, value) for name, value in options.items() if value is not None]
        return [str(part) for option in given for part in option] + flags
