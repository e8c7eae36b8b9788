"""Cost of observers: tokens per second and peak memory of the calibration pass, with and without all observers.

    python benchmarks/calibration.py [--chunks 10] [overrides, like model=qwen3_8b calibration.num_samples=4]

Speed: both passes in one process, alternating over the same batches of the same chunks of the sequences, so that other
load on the machine slows both. Memory: each pass in a separate process; the peak is that of the process's own pages
(mapped files do not count), or of the GPU. The model is loaded before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PASSES = ("bare", "observed")


def anonymous_mib() -> float:
    """Return the current memory of the process's own pages, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Peak:
    """Largest memory observed by a sampling thread."""

    def __init__(self) -> None:
        """Start sampling."""
        self.mib = anonymous_mib()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.mib = max(self.mib, anonymous_mib())

    def stop(self) -> float:
        """Stop sampling; return the peak, in MiB."""
        self._stop.set()
        self._thread.join()
        return self.mib


class Unobserved:
    """A recorder of the same batches that records nothing."""

    def __init__(self, observers: Any) -> None:
        """Take the batches of these observers."""
        self.batches = observers.batches

    def begin(self, lengths: Sequence[int]) -> None:
        """Note nothing."""

    def cache(self) -> None:
        """Leave keys and values where they are."""

    def commit(self, first: int) -> None:
        """Note nothing."""

    def settle(self) -> None:
        """Move nothing."""


class Bench:
    """A model and the sequences passed through it."""

    def __init__(self, overrides: list[str]) -> None:
        """Load the model and the sequences."""
        import hydra
        from transformers import AutoTokenizer

        from pipeline.config import RESOURCES
        from pipeline.config.compose import compose_variants
        from pipeline.models.forward import decoder
        from pipeline.runner import Runner
        from pipeline.stages.calibrate.conversations import draw

        with hydra.initialize_config_dir(str(RESOURCES / "conf"), version_base=None):
            config = hydra.compose("config", ["stage=calibrate", "quant=fp8_static", *overrides])
            self.job = Runner(compose_variants(config, overrides), overrides).jobs[0]
        tokenizer = AutoTokenizer.from_pretrained(self.job.model.folder)
        self.sequences = [sequence for each in draw(self.job, tokenizer) for sequence in each.sequences]
        job, calibration = self.job, self.job.settings.calibration
        self.decoder = decoder(job.model, job.hardware, calibration.layerwise, lambda _: None)
        self.is_gpu = self.job.hardware.device == "cuda"
        if self.is_gpu:
            # The first pass on a GPU chooses and loads kernels.
            self.seconds("observed", self.sequences[:2])

    def seconds(self, kind: str, sequences: list[list[int]]) -> float:
        """Return the duration of one pass."""
        import torch

        from pipeline.stages.calibrate.observers import Observers

        settings = self.job.settings.calibration
        watching = Observers(self.decoder.model, settings, len(sequences))
        if kind == "bare":
            watching.detach()
        started = time.perf_counter()
        self.decoder.run(sequences, watching if kind == "observed" else Unobserved(watching), lambda _: None)
        if self.is_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        watching.detach()
        return seconds

    def speed(self, chunks: int) -> dict[str, Any]:
        """Return the tokens per second of both passes."""
        total = dict.fromkeys(PASSES, 0.0)
        for number in range(chunks):
            chunk = self.sequences[number::chunks]
            for kind in PASSES if number % 2 == 0 else PASSES[::-1]:
                total[kind] += self.seconds(kind, chunk)
        tokens = sum(len(sequence) for sequence in self.sequences)
        return {
            "model": self.job.settings.model.name,
            "how": type(self.decoder).__name__.lower(),
            "machine": self.job.hardware.name,
            "sequences": len(self.sequences),
            "tokens": tokens,
            **{f"{kind}_tokens_per_second": round(tokens / total[kind], 1) for kind in PASSES},
            "speed_ratio": round(total["bare"] / total["observed"], 3),
        }

    def peak(self, kind: str) -> float:
        """Return the peak memory of one pass, in MiB."""
        import torch

        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        peak = Peak()
        self.seconds(kind, self.sequences)
        own = peak.stop()
        return torch.cuda.max_memory_allocated() / 2**20 if self.is_gpu else own


def main() -> None:
    """Measure speed and memory; print them as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--only", choices=("speed", *PASSES), help="one measurement in this process")
    options, overrides = parser.parse_known_args()
    if options.only == "speed":
        print(json.dumps(Bench(overrides).speed(options.chunks)))
    elif options.only:
        print(json.dumps(Bench(overrides).peak(options.only)))
    else:
        found = {}
        for only in ("speed", *PASSES):
            command = [sys.executable, __file__, "--only", only, "--chunks", str(options.chunks), *overrides]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[only] = json.loads(answer.stdout.splitlines()[-1])
        memory = {
            "memory_above_bare_mib": round(found["observed"] - found["bare"], 1),
            "peak_mib": round(found["observed"], 1),
        }
        print(json.dumps({**found["speed"], **memory}))


if __name__ == "__main__":
    main()
