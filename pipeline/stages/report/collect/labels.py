"""Names of tasks in the report: those of the demo model are called the demo's, lest they be taken for the real ones."""

from __future__ import annotations

from pipeline.config import Settings
from pipeline.results.text import clean

DEMO = "demo"


def task_label(label: str, task: str) -> str:
    """Return the name of a task, given its label and lm-eval's name: `demo-MMLU` for `demo_mmlu`."""
    name = clean(label, 60)
    return f"{DEMO}-{name}" if task.startswith(f"{DEMO}_") and not name.startswith(DEMO) else name


def label_in(settings: Settings, label: str) -> str:
    """Return the name of a task of the settings, by its label there."""
    configured = settings.eval.tasks.get(label)
    return task_label(label, "" if configured is None else configured.task)
