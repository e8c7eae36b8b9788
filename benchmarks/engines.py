"""Overhead of the pipeline over its engines: time and memory, compared with each engine's README example.

    python benchmarks/engines.py [--pairs 3] [--cases gptq,awq] [--output FOLDER] [overrides, like model=qwen3_0_6b]

Separate processes in alternation (pipeline, by hand, by hand, pipeline, ...), so that other load on the machine slows
both. Time is from the start of loading the model to the written checkpoint, without imports on both sides: wall time,
and CPU time, which a busy machine hardly changes. Memory is the peak of the process. For an engine in a separate
environment the pipeline has one more process, whose imports, time and memory (plus the pipeline's own) count; so the
imports by hand count there too. Both get the same conversations, those that the pipeline passes to an engine
(`calibration.algorithm_samples`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import by_hand  # beside this file
from rich import box
from rich.console import Console
from rich.table import Table

BY_HAND = Path(__file__).with_name("by_hand.py")
# Case, a file of conf/quant -> imports of the engine's example, done before the clock starts on both sides.
TRANSFORMERS = ("transformers.AutoModelForCausalLM", "transformers.AutoTokenizer", "loguru.logger")
LLMCOMPRESSOR = (
    "llmcompressor.oneshot",
    "llmcompressor.modifiers.gptq.GPTQModifier",
    "llmcompressor.modifiers.quantization.QuantizationModifier",
    "llmcompressor.modifiers.transform.awq.AWQModifier",
    "llmcompressor.modifiers.transform.smoothquant.SmoothQuantModifier",
)
IMPORTS: dict[str, tuple[str, ...]] = {
    "fp8_dynamic": LLMCOMPRESSOR,
    "gptq": LLMCOMPRESSOR,
    "awq": LLMCOMPRESSOR,
    "awq_autoawq": ("awq.AutoAWQForCausalLM",),
    "gptq_int4": ("gptqmodel.GPTQModel",),
    "gptq_autoround": ("auto_round.AutoRound",),
    "bnb_nf4": ("transformers.BitsAndBytesConfig",),
    "gguf_q4_k_m": ("auto_round.AutoRound", "auto_round.export.export_to_gguf.conversion.get_model_architecture"),
    "gptq_autogptq": (),
}
ISOLATED = "gptq_autogptq"
SHOWN = "shown.safetensors"
MEASURED = {"seconds": "s", "cpu_seconds": "cores' s", "mib": "MiB"}
LIMIT = 1.1


def job_of(case: str, outputs: Path, overrides: list[str]) -> Any:
    """Return the pipeline's job for a case, with its calibration in `outputs`."""
    import hydra

    from pipeline.config import RESOURCES
    from pipeline.config.compose import compose_variants
    from pipeline.runner import Runner

    asked = ["stage=quantize", f"quant={case}", f"outputs={outputs}", *overrides]
    with hydra.initialize_config_dir(str(RESOURCES / "conf"), version_base=None):
        return Runner(compose_variants(hydra.compose("config", asked), asked), asked).jobs[0]


def ours(case: str, outputs: Path, overrides: list[str]) -> dict[str, float]:
    """Measure the pipeline's time for a checkpoint, and the peak memory (MiB) of worker and pipeline together."""
    from pipeline.stages import quantize
    from pipeline.stages.quantize.isolated import environment

    call, beside = environment.call, 0.0

    def watched(*arguments: Any) -> dict[str, Any]:
        nonlocal beside
        try:
            return call(*arguments)
        finally:
            beside = by_hand.peak_mib()

    setattr(environment, "call", watched)  # noqa: B010

    job = job_of(case, outputs, overrides)
    folder = job.model.folder
    for path in (*TRANSFORMERS, *IMPORTS[case]) if case != ISOLATED else ():
        module, _, name = path.rpartition(".")
        getattr(importlib.import_module(module), name)
    assert folder.is_dir()
    with tempfile.TemporaryDirectory(dir=outputs) as scratch:
        started = by_hand.now()
        quantize.make(job, SimpleNamespace(folder=Path(scratch), results={}))  # type: ignore[arg-type]
        found = by_hand.since(started)
    if case == ISOLATED:
        worker = resource.getrusage(resource.RUSAGE_CHILDREN)
        found["cpu_seconds"] += worker.ru_utime + worker.ru_stime
        found["mib"] = max(found["mib"], worker.ru_maxrss / 1024 + beside)
    return found


def measure(command: list[str], log: Path, with_imports: bool) -> dict[str, float]:
    """Return the figures that one process reports; with imports: measured from its start to its exit."""
    started = time.perf_counter()
    # Without this, the first to compile would compile for the other.
    with log.open("a") as errors, tempfile.TemporaryDirectory(dir=log.parent) as compiled:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": compiled}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed; see {log}")
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    if with_imports:
        found |= {"seconds": time.perf_counter() - started, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    return found


def command_of(side: str, case: str, outputs: Path, scratch: Path, overrides: list[str]) -> list[str]:
    """Return the command that runs a case on one side."""
    if side == "ours":
        return [sys.executable, __file__, "--only", case, "--output", str(outputs), *overrides]
    job = job_of(case, outputs, overrides)
    python = sys.executable
    if case == ISOLATED:
        from pipeline.stages.quantize.isolated import environment

        python = str(environment.environment("autogptq", job.progress))
    return [python, str(BY_HAND), case, str(job.model.folder.resolve()), str(outputs / SHOWN), str(scratch)]


def keep_shown(outputs: Path, overrides: list[str]) -> None:
    """Write the sequences that the pipeline passes to its engines, out of the calibration's."""
    import torch
    from safetensors.torch import save_file

    from pipeline.stages.quantize.engines import base

    found = [ids[0].int() for ids in base.sequences(job_of("gptq", outputs, overrides))]
    lengths = torch.tensor([len(ids) for ids in found], dtype=torch.int32)
    save_file({"input_ids": torch.cat(found), "lengths": lengths}, outputs / SHOWN)


def main() -> None:
    """Measure the cases; print a table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(IMPORTS))
    parser.add_argument("--output", type=Path, help="keeps the calibration and the logs")
    parser.add_argument("--only", choices=IMPORTS, help="ours, once, in this process")
    options, overrides = parser.parse_known_args()
    if options.only:
        channel, sys.stdout = sys.stdout, sys.stderr
        print(json.dumps(ours(options.only, options.output, overrides)), file=channel)
        return
    outputs = options.output or Path(tempfile.mkdtemp(prefix="engines-"))
    outputs.mkdir(parents=True, exist_ok=True)
    calibrate = ["stage=calibrate", "quant=gptq", f"outputs={outputs}", *overrides]
    subprocess.run([sys.executable, "-m", "pipeline", *calibrate], check=True, stdout=subprocess.DEVNULL)
    keep_shown(outputs, overrides)
    rows = []
    for case in options.cases:
        found: dict[str, list[dict[str, float]]] = {"ours": [], "by hand": []}
        for number in range(options.pairs):
            for side in ("ours", "by hand") if number % 2 == 0 else ("by hand", "ours"):
                with tempfile.TemporaryDirectory(dir=outputs) as scratch:
                    command = command_of(side, case, outputs, Path(scratch), overrides)
                    log = outputs / f"{case}-{side.replace(' ', '-')}.log"
                    found[side].append(measure(command, log, case == ISOLATED and side == "by hand"))
        rows.append(row(case, found))
        print(json.dumps(rows[-1]), file=sys.stderr)
    show(rows)
    print(json.dumps({"load": os.getloadavg()[0], "cores": os.cpu_count(), "cases": rows}))


def row(case: str, found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the medians of both sides, and the medians of the pairs' ratios."""
    result: dict[str, Any] = {"case": case}
    for what in MEASURED:
        mine, theirs = ([each[what] for each in found[side]] for side in ("ours", "by hand"))
        result |= {f"ours_{what}": round(statistics.median(mine), 2)}
        result |= {f"by_hand_{what}": round(statistics.median(theirs), 2)}
        ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
        result[f"ratio_{what}"] = round(statistics.median(ratios), 3)
    return result


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", title="ours against each engine by hand, medians")
    table.add_column("case")
    for unit in MEASURED.values():
        for name in (f"ours / by hand, {unit}", "ratio"):
            table.add_column(name, justify="right")
    for each in rows:
        cells = [each["case"]]
        for what in MEASURED:
            over = each[f"ratio_{what}"] > LIMIT
            cells.append(f"{each[f'ours_{what}']:.1f} / {each[f'by_hand_{what}']:.1f}")
            cells.append(f"[red]{each[f'ratio_{what}']:.2f}[/]" if over else f"{each[f'ratio_{what}']:.2f}")
        table.add_row(*cells)
    Console(stderr=True, width=110).print(table)


if __name__ == "__main__":
    main()
