"""Summaries of calibrations of models of stated size, and sweeps over calibrations: what the tests of the report read.

The figures are invented. Nothing here is shipped, and nothing here is a measurement.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from support.synthetic_results import MACHINE, VERSIONS, Figures, Run, write_scores

from pipeline.artifacts.keys import key_of
from pipeline.config import Stage

TECHNIQUES = ("minmax", "moving_average", "percentile", "mse", "entropy")
# How much of the largest magnitude a technique keeps, and over how many samples its ranges settle.
KEPT = {
    "minmax": (1.0, 30),
    "moving_average": (0.8, 90),
    "percentile": (0.55, 12),
    "mse": (0.9, 25),
    "entropy": (0.4, 8),
}
KINDS = {"q/k/v_proj": 9.0, "o_proj": 3.0, "gate/up_proj": 14.0, "down_proj": 90.0, "K": 22.0, "V": 2.5}
SAMPLES_AT = [1, 2, 4, 8, 16, 20, 32, 40, 60, 64, 80, 100, 120, 128, 140, 160, 180, 200]


def summary(layers: int = 36, seed: int = 0) -> dict[str, Any]:
    """What the stage would write for a model of that many layers."""
    dice = random.Random(seed)
    sites = [_site(dice, kind, layer, layers) for layer in range(layers) for kind in KINDS]
    worst = sorted((s for s in sites if s["modules"]), key=lambda s: -s["outlier_ratio"])[:10]
    lengths = [round(dice.lognormvariate(4.2, 0.35)) for _ in range(200)]
    edges = [min(lengths) + i * (max(lengths) - min(lengths)) / 24 for i in range(25)]
    counts = [0] * 24
    for length in lengths:
        counts[min(23, int((length - edges[0]) / (edges[1] - edges[0])))] += 1
    return {
        "schema_version": 1,
        "conversations": 200,
        "tokens": sum(lengths),
        "dtype": "bfloat16" if layers > 8 else "float32",
        "tolerance": 0.01,
        "techniques": list(TECHNIQUES),
        "samples_at": SAMPLES_AT,
        "sites": sites,
        "worst": [_histogram(dice, site) for site in worst],
        "verdict": {name: _verdict(sites, name) for name in TECHNIQUES},
        "card": {
            "name": "demo",
            "sources": [
                {"source": "en.json", "identity": f"sha256 {'ab12' * 16}", "weight": 1.0, "read": 512, "taken": 160},
                {"source": "zh.jsonl", "identity": f"sha256 {'cd34' * 16}", "weight": 0.25, "read": 100, "taken": 40},
            ],
            "template": {"applied": True, "sha256": "26334ac1" * 8, "enable_thinking": None},
            "counts": {"no_conversation": 3, "duplicates": 2, "too_short": 0, "too_long": 0, "cut": 1},
            "tokens": sum(lengths),
            "lengths": {
                "min": min(lengths),
                "median": float(sorted(lengths)[100]),
                "mean": sum(lengths) / 200,
                "max": max(lengths),
                "edges": edges,
                "counts": counts,
            },
            "languages": {"en": 0.785, "zh": 0.19, "?": 0.025},
            "overlap": [
                {"evaluation": "MMLU", "task": "demo_mmlu", "items": 600, "overlapping": 3, "ngram": 13, "share": 0.005,
                 "example": "a run of words"},
                {"evaluation": "C-Eval", "task": "ceval-valid", "reason": "the data of ceval-valid cannot be reached"},
            ],
        },
    }  # fmt: skip


def _site(dice: random.Random, kind: str, layer: int, layers: int) -> dict[str, Any]:
    largest = KINDS[kind] * (1 + 2 * layer / layers) * dice.lognormvariate(0, 0.2)
    if kind == "down_proj" and layer in (1, layers - 1):
        largest *= 40
    ratio = 1 + largest / KINDS[kind] * dice.lognormvariate(0, 0.5)
    module = {"q/k/v_proj": "self_attn.q_proj", "o_proj": "self_attn.o_proj", "gate/up_proj": "mlp.gate_proj"}
    name = f"model.layers.{layer}.{module.get(kind, 'mlp.down_proj' if kind == 'down_proj' else f'self_attn.{kind}')}"
    clip = {technique: largest * share for technique, (share, _) in KEPT.items()}
    curves = {name: _curve(dice, clip[name], scale) for name, (_, scale) in KEPT.items()}
    return {
        "name": name,
        "modules": [] if kind in ("K", "V") else [name],
        "layer": layer,
        "kind": kind,
        "minimum": -largest * 0.8,
        "maximum": largest,
        "clip": {"fp8_e4m3": clip, "int8": {**clip, "mse": clip["mse"] * 0.5, "entropy": clip["entropy"] * 0.9}},
        "outlier_ratio": ratio,
        "outlier_channels": [{"channel": dice.randrange(4096), "absmax": largest * 0.9**i} for i in range(5)],
        "convergence": curves,
        "stable_after": {name: _stable_after(curve) for name, curve in curves.items()},
    }


def _curve(dice: random.Random, final: float, scale: float) -> list[float]:
    start = dice.uniform(0.3, 0.7)
    curve = [final * (1 - (1 - start) * math.exp(-count / scale)) for count in SAMPLES_AT]
    return [*curve[:-1], final]


def _stable_after(curve: list[float]) -> int | None:
    first = next(n for i, n in enumerate(SAMPLES_AT) if all(abs(v / curve[-1] - 1) <= 0.01 for v in curve[i:]))
    return first if first <= 150 else None


def _verdict(sites: list[dict[str, Any]], technique: str) -> dict[str, Any]:
    moving = [site["name"] for site in sites if site["stable_after"][technique] is None]
    if moving:
        text = f"{len(sites) - len(moving)} of {len(sites)} ranges are stable to 1 %; {moving[0]} still moves: use more"
        return {"stable_after": None, "moving": moving, "text": text}
    after = max(site["stable_after"][technique] for site in sites)
    return {"stable_after": after, "moving": [], "text": f"stable to 1 % after {after} of 200 samples"}


def _histogram(dice: random.Random, site: dict[str, Any]) -> dict[str, Any]:
    low, high = site["maximum"] / 1e5, site["maximum"]
    edges = [low * (high / low) ** (i / 64) for i in range(65)]
    counts = [int(2e6 * math.exp(-(((i - 30) / 9) ** 2)) * dice.uniform(0.7, 1.3)) for i in range(64)]
    counts[58], counts[63] = 40, 1
    return {"site": site["name"], "edges": edges, "counts": counts, "zeros": 12}


def write_summary(run: Run, variant: str = "fp8_static", content: Any = None, layers: int = 36) -> Path:
    """Puts a summary into the calibration of that variant."""
    path = run.job(variant).artifact(Stage.CALIBRATE).folder / "summary.json"
    path.write_text(
        content if isinstance(content, str) else json.dumps(summary(layers) if content is None else content)
    )
    return path


def write_choice(
    run: Run,
    variant: str,
    technique: str,
    samples: int,
    lost: int = 4,
    parameter: float = 99.99,
    quant: dict[str, Any] | None = None,
    calibrate: dict[str, Any] | None = None,
    evaluate: dict[str, Any] | None = None,
    divergence: float | None = None,
) -> None:
    """One variant calibrated with another technique or number of samples, and its scores."""
    job = run.job(variant)
    context = {"versions": VERSIONS, "hardware": MACHINE.model_dump(), "provenance": {"commit": None, "dirty": False}}

    def make(stage: Stage, owner: str | None, payload: dict[str, Any], fill: Any) -> str:
        artifact = run.workspace.artifact(stage.value, "tiny", owner, payload)
        if artifact.manifest() is None:
            with run.workspace.making(artifact, context) as draft:
                fill(draft)
        return artifact.key

    payload = {**job.artifact(Stage.CALIBRATE).payload, "num_samples": samples, **(calibrate or {})}
    make(Stage.CALIBRATE, None, payload, lambda draft: None)
    # A checkpoint does not depend on the evaluations that its calibration was held against.
    calibration = key_of({name: value for name, value in payload.items() if name != "checked_against"})
    observer = {"technique": technique, "percentile": parameter, "averaging_constant": 0.01}
    payload = {**job.artifact(Stage.QUANTIZE).payload, "calibrate": calibration, "observer": observer, **(quant or {})}
    checkpoint = make(Stage.QUANTIZE, variant, payload, lambda draft: None)
    payload = {**job.artifact(Stage.EVAL).payload, "quantize": checkpoint, **(evaluate or {})}
    figures = Figures(lost=lost, gained=2, divergence=divergence)
    make(Stage.EVAL, variant, payload, lambda draft: write_scores(run, job, figures, draft))
