"""The evaluations under conf/: their tasks, metrics and filters are ones that this lm-eval has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.config import PROJECT_ROOT, EvalSettings, Settings
from pipeline.errors import ConfigError
from pipeline.tasks import lm_eval_tasks

NAMES = sorted(path.stem for path in (PROJECT_ROOT / "conf" / "eval").glob("*.yaml"))
STUDY = {"C-Eval": 5, "MMLU": 4, "GSM8K": 5, "HumanEval": 0}


def leaves(index: Any, name: str) -> list[Any]:
    """The task files behind a name, through groups."""
    entry = index[name]
    members = (entry.cfg or {}).get("task") or []
    if entry.kind.name == "GROUP":
        return [leaf for member in members for leaf in leaves(index, member)]
    if entry.kind.name == "TAG":
        return [leaf for member in entry.tags for leaf in leaves(index, member)]
    return [entry]


@pytest.mark.parametrize("name", NAMES)
def test_tasks_metrics_and_filters_exist(name: str, settings: Callable[..., Settings]) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    chosen = settings(f"eval={name}").eval
    assert chosen.name == name
    for label, wanted in chosen.tasks.items():
        index = lm_eval_tasks.manager_with(label, wanted.task, chosen.include_path).task_index
        found = leaves(index, wanted.task)
        assert found
        for entry in found[:3]:
            task = load_yaml(entry.yaml_path, resolve_func=False)
            filters = [item["name"] for item in task.get("filter_list") or [{"name": "none"}]]
            assert wanted.filter in filters
            metrics = [str(item["metric"]) for item in task["metric_list"]]
            assert wanted.metric in metrics or any("pass_at" in metric for metric in metrics)


def test_the_studys_settings_and_what_others_change_of_them(settings: Callable[..., Settings]) -> None:
    def chosen(name: str) -> EvalSettings:
        return settings(f"eval={name}", "model=qwen3_8b").eval

    study, zero, chat, quick = (chosen(name) for name in ("study", "zero_shot", "chat", "quick"))
    assert {label: task.num_fewshot for label, task in study.tasks.items()} == STUDY
    assert not study.chat_template and study.limit is None and study.max_gen_toks == 256
    assert {task.num_fewshot for task in zero.tasks.values()} == {0}
    assert chat.chat_template and chat.enable_thinking is False and chat.max_gen_toks == 1024
    assert chat.tasks["HumanEval"].task == "humaneval_instruct"
    assert quick.tasks == study.tasks and quick.limit == 400


def test_the_templates_switch_needs_the_template(settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match=r"enable_thinking=False is a chat-template option"):
        settings("eval.enable_thinking=false")
