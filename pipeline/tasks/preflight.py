"""Checks of an evaluation before any work: its folders, tasks, metrics and filters, and the isolation of programs.

Tasks of `conf/eval/` are known to exist. lm-eval, which takes seconds to import, is asked about others only, and no
data is fetched.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import EvalSettings, TaskSettings
from pipeline.config.names import did_you_mean, nearest
from pipeline.config.presets import CONF
from pipeline.errors import ConfigError
from pipeline.tasks import local_files, scorers
from pipeline.tasks.lm_eval_tasks import manager_with, no_such_metric, no_such_task, written_names
from pipeline.tasks.sandbox import sandbox

# Metrics of programs that the model writes, which are run.
PROGRAMS = "pass@"


def check(settings: EvalSettings) -> None:
    """Refuse an evaluation that would fail on its settings or on this machine.

    Raises:
        ConfigError: naming the setting.
        InputError: if `eval.data_dir` lacks a benchmark.
    """
    if settings.include_path is not None and not settings.include_path.is_dir():
        raise ConfigError(f"eval.include_path={settings.include_path}: no such folder.", "Name a folder of task files.")
    local_files.check(settings.data_dir, [task.task for task in settings.tasks.values()])
    for label, wanted in settings.tasks.items():
        if (wanted.task, wanted.metric, wanted.filter) not in _shipped():
            _check_task(f"eval.tasks.{label}", wanted, settings)
    if any(task.metric.startswith(PROGRAMS) for task in settings.tasks.values()):
        sandbox.choose(unsafe=settings.unsafe_code)


@cache
def _shipped() -> frozenset[tuple[str, str, str]]:
    """Return task, metric and filter of every task in `conf/eval/`."""
    names = (path.stem for path in (CONF / "eval").glob("*.yaml"))
    tasks = (task for name in names for task in _tasks_of(name).values())
    return frozenset((task["task"], task["metric"], task.get("filter", "none")) for task in tasks)


def _tasks_of(name: str) -> dict[str, dict[str, Any]]:
    """Return the tasks of a file of `conf/eval/`, with those of the files that it derives from."""
    content = yaml.safe_load((CONF / "eval" / f"{name}.yaml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {}
    parents = [each for each in content.get("defaults", ()) if isinstance(each, str) and each != "_self_"]
    for tasks in (*map(_tasks_of, parents), content.get("tasks", {})):
        found |= {label: {**found.get(label, {}), **own} for label, own in tasks.items()}
    return found


def _check_task(setting: str, wanted: TaskSettings, settings: EvalSettings) -> None:
    """Look a task up in lm-eval's index, and its metric and filter in its file, as far as that names them."""
    _check_name(setting, wanted.task, settings.include_path)
    index = manager_with(setting, wanted.task, settings.include_path).task_index
    if scorers.checked(setting, wanted.task, index, unsafe=settings.unsafe_code) == "sandbox":
        sandbox.choose(unsafe=settings.unsafe_code)
    content: Mapping[str, Any] = index[wanted.task].cfg or {}
    metrics = [str(each["metric"]) for each in _listed(content.get("metric_list")) if "metric" in each]
    # A function's path instead of a name says nothing of the metrics that it returns.
    if metrics and not any("/" in name for name in metrics) and wanted.metric not in metrics:
        raise no_such_metric(setting, wanted.metric, wanted.task, metrics)
    filters = [str(each["name"]) for each in _listed(content.get("filter_list")) if "name" in each]
    if filters and wanted.filter not in filters:
        meant = did_you_mean(nearest(wanted.filter, filters))
        raise ConfigError(
            f"{setting}.filter={wanted.filter}: {wanted.task} has no such filter{f'; {meant}' if meant else '.'}",
            f"It has {', '.join(filters)}.",
        )


def _check_name(setting: str, name: str, own: Path | None) -> None:
    """Refuse a name that no task file has a word for: lm-eval's index of all its files takes many seconds."""
    library = importlib.util.find_spec("lm_eval")
    if library is None or library.origin is None:
        return
    folders = (Path(library.origin).parent / "tasks", *([own] if own is not None else []))
    known = frozenset[str]().union(*map(written_names, folders))
    if name not in known:
        raise no_such_task(setting, name, known)


def _listed(value: Any) -> Iterable[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
