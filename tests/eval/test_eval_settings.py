"""The evaluations under conf/: their tasks, metrics and filters are ones that this lm-eval has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import PROJECT_ROOT, EvalSettings
from pipeline.eval import tasks

FILES = sorted((PROJECT_ROOT / "conf" / "eval").glob("*.yaml"))


def settings_of(path: Path) -> EvalSettings:
    text = re.sub(r"\$\{project:([^}]+)\}", rf"{PROJECT_ROOT}/\1", path.read_text())
    return EvalSettings.model_validate(yaml.safe_load(text))


def leaves(index: Any, name: str) -> list[Any]:
    """The task files behind a name, through groups."""
    entry = index[name]
    members = (entry.cfg or {}).get("task") or []
    if entry.kind.name == "GROUP":
        return [leaf for member in members for leaf in leaves(index, member)]
    if entry.kind.name == "TAG":
        return [leaf for member in entry.tags for leaf in leaves(index, member)]
    return [entry]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_tasks_metrics_and_filters_exist(path: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    settings = settings_of(path)
    for label, wanted in settings.tasks.items():
        index = tasks._manager_with(label, wanted.task, settings.include_path).task_index
        found = leaves(index, wanted.task)
        assert found
        for entry in found[:3]:
            task = load_yaml(entry.yaml_path, resolve_func=False)
            filters = [item["name"] for item in task.get("filter_list") or [{"name": "none"}]]
            assert wanted.filter in filters
            metrics = [str(item["metric"]) for item in task["metric_list"]]
            assert wanted.metric in metrics or any("pass_at" in metric for metric in metrics)
