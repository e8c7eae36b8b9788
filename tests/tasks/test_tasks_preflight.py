"""An evaluation that would fail late is refused before any work; lm-eval is asked about foreign tasks only."""

from pathlib import Path

import pytest

from pipeline.config.names import choices
from pipeline.errors import ConfigError, InputError
from pipeline.tasks import preflight
from pipeline.tasks.sandbox import sandbox


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("lm-eval was asked")

    monkeypatch.setattr(preflight, "manager_with", asked)


@pytest.mark.parametrize("name", choices("eval"))
def test_tasks_of_the_project_are_known_without_lm_eval(name: str, settings, no_index: None) -> None:
    preflight.check(settings(f"eval={name}").eval)


def test_a_machine_that_isolates_nothing_is_told_before_the_benchmark(
    settings, no_index: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.choose.cache_clear()
    monkeypatch.setattr(sandbox.Sandbox, "trouble", "not permitted")
    with pytest.raises(ConfigError, match=r"cannot be isolated on this machine .*eval.unsafe_code=true"):
        preflight.check(settings("eval=study").eval)
    preflight.check(settings("eval=study", "eval.unsafe_code=true").eval)
    preflight.check(settings("eval=study", "~eval.tasks.HumanEval").eval)
    sandbox.choose.cache_clear()


def test_a_folder_has_the_benchmarks_that_are_asked_for(settings, no_index: None, tmp_path: Path) -> None:
    for name in ("mmlu", "ceval", "gsm8k"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"eval.data_dir=.*: there is no folder humaneval in it"):
        preflight.check(settings("eval=study", f"eval.data_dir={tmp_path}").eval)
    preflight.check(settings("eval=study", f"eval.data_dir={tmp_path}", "~eval.tasks.HumanEval").eval)


def test_a_task_file_of_the_users_is_read(settings, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: own_capitals\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n")
    given = [f"eval.include_path={tmp_path}", "~eval.tasks.HumanEval"]
    preflight.check(settings(*given, "+eval.tasks.Mine={task: own_capitals, metric: acc_norm}").eval)
    with pytest.raises(ConfigError, match=r"eval.tasks.Mine.metric=accuracy: .*acc, acc_norm"):
        preflight.check(settings(*given, "+eval.tasks.Mine={task: own_capitals, metric: accuracy}").eval)
    with pytest.raises(
        ConfigError, match=r"eval.tasks.Mine.task=own_capitols: lm-eval has no such task; did you mean own_capitals"
    ):
        preflight.check(settings(*given, "+eval.tasks.Mine={task: own_capitols, metric: acc}").eval)
