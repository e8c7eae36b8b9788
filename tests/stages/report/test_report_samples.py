"""Scores of single items are read where the evaluation stores them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.file_names import file_name
from pipeline.stages.report.collect.records import samples_of


@pytest.mark.parametrize("label", ["MMLU", "GSM8K (5-shot)", "C-Eval/physics"])
def test_a_task_of_any_label_keeps_its_items(label: str, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    name = f"samples/{file_name(label)}.jsonl"
    (tmp_path / name).write_text("\n".join(json.dumps({"doc_hash": str(n), "score": n}) for n in (0, 1)))
    manifest: Any = SimpleNamespace(files={name: None})
    assert samples_of(manifest, tmp_path, label)["scores"] == (("0", 0.0), ("1", 1.0))
