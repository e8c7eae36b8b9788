"""One evaluation of tiny tasks; as a script in a process of its own, for a test to kill, with its options as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.artifacts.workspace import Workspace
from pipeline.config import EvalSettings
from pipeline.stages.eval.harness import evaluate


def evaluate_toy(options: dict[str, Any]) -> Path:
    """The folder of the finished evaluation; of a share of the items, it is a part of the whole one."""
    settings = EvalSettings.model_validate(options["eval"])
    workspace = Workspace(Path(options["outputs"]))
    whole = workspace.artifact("eval", "toy", "bf16", {})
    is_part = settings.share < 1
    artifact = workspace.artifact("eval", "toy", "bf16", {"part": f"{settings.share}"}) if is_part else whole
    served = SimpleNamespace(url=options["url"], check_alive=lambda: None, facts=dict)
    job: Any = SimpleNamespace(
        settings=SimpleNamespace(
            eval=settings, model=SimpleNamespace(trust_remote_code=False), is_baseline=options["is_baseline"]
        ),
        checkpoint=Path(options["checkpoint"]),
        workspace=workspace,
        whole=SimpleNamespace(artifact=lambda stage: whole) if is_part else None,
        server=lambda **_: served,
        progress=SimpleNamespace(detail=lambda _: None, say=lambda _: None, say_once=lambda _: None),
    )
    with workspace.making(artifact, {}) as draft:
        evaluate(job, draft)
    return artifact.folder


if __name__ == "__main__":
    evaluate_toy(json.loads(sys.argv[1]))
