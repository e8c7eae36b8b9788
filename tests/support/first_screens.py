"""Pages of the three kinds of answer: a clear winner, a machine too noisy for one, and formats that lose accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.synthetic_results import STUDY, Run

from pipeline.stages import report

CASES = {
    "winner": {name: STUDY[name] for name in ("bf16", "int8_dynamic", "w4a16")},
    "noise": {name: replace(STUDY[name], noise=0.35) for name in ("bf16", "int8_dynamic", "w4a16")},
    "loss": {
        "bf16": STUDY["bf16"],
        "int8_dynamic": replace(STUDY["int8_dynamic"], lost=70),
        "w4a16": replace(STUDY["w4a16"], lost=80),
    },
}


def make(case: str, folder: Path) -> tuple[Run, Path]:
    """Return the run of a case, and its page."""
    run = Run(folder, CASES[case])
    # Where BF16 is the answer, it is served from here.
    run.model_path = folder / "model"
    run.model_path.mkdir()
    report.make(run.jobs, {})
    return run, run.outputs / "tiny" / "report" / "index.html"
