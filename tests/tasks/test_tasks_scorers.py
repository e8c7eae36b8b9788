"""Tasks whose answers would be executed on this machine are found by their files, and refused."""

from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from support.tiny_tasks import make

from pipeline.config import EvalSettings, TaskSettings
from pipeline.errors import ConfigError
from pipeline.tasks import lm_eval_tasks, preflight
from pipeline.tasks.scorers import Place, checked, scorer_of

LIBRARY = Path(lm_eval.tasks.__file__).parent
# The tasks of lm-eval whose scorers execute answers on the machine, by folder.
ON_THE_HOST = {"cruxeval", "leaderboard", "longproc", "minerva_math", "putnam_axiom", "score", "unitxt"}
IN_THE_SANDBOX = {"humaneval", "humaneval_infilling", "mbpp"}
TASK = "task: {name}\noutput_type: generate_until\n{more}\nprocess_results: !function {function}\n"


def place_of(folder: Path, name: str) -> Place:
    return scorer_of(TaskManager(include_path=[str(folder)], include_defaults=False).task_index, name).place


@pytest.mark.parametrize(
    ("folder", "name", "place"),
    [
        ("cruxeval", "cruxeval_output", "host"),
        ("longproc", "longproc_countdown", "host"),
        ("longproc", "longproc_pseudo_to_code_2k", "host"),
        ("minerva_math", "minerva_math_algebra", "host"),
        ("score", "score_robustness_math", "host"),
        ("unitxt", "ag_news", "host"),
        ("humaneval", "humaneval_plus", "sandbox"),
        ("mbpp", "mbpp_instruct", "sandbox"),
        ("gsm8k", "gsm8k", "nowhere"),
        ("ifeval", "ifeval", "nowhere"),
        ("drop", "drop", "nowhere"),
    ],
)
def test_lm_evals_own_tasks(folder: str, name: str, place: Place) -> None:
    assert place_of(LIBRARY / folder, name) == place


@pytest.mark.slow
def test_every_task_of_lm_eval() -> None:
    index = TaskManager().task_index
    found: dict[Place, set[str]] = {"host": set(), "sandbox": set(), "nowhere": set()}
    for name, entry in index.items():
        if entry.yaml_path is not None and entry.kind.name != "GROUP":
            found[scorer_of(index, name).place].add(entry.yaml_path.relative_to(LIBRARY).parts[0])
    assert found["host"] == ON_THE_HOST
    assert found["sandbox"] == IN_THE_SANDBOX
    assert len(index) > 10_000
    assert scorer_of(index, "minerva_math").place == scorer_of(index, "leaderboard").place == "host"


SCORERS = {
    "eval": "def score(doc, results):\n    return {'acc': eval(results[0]) == doc['answer']}",
    "exec by another name": "run = exec\ndef score(doc, results):\n    run(results[0])",
    "a process": "import subprocess\ndef score(doc, results):\n    subprocess.run(['python', '-c', results[0]])",
    "a shell": "import os\ndef score(doc, results):\n    os.system(results[0])",
    "a shell imported by name": "def score(doc, results):\n    from os import system\n    system(results[0])",
    "sympy": "from sympy.parsing.sympy_parser import parse_expr\ndef score(doc, results):\n    parse_expr(results[0])",
    "pickle": "import pickle\ndef score(doc, results):\n    pickle.loads(results[0])",
    "a module beside it": "from helpers import score",
    "a module beside it, relative": "from .helpers import score",
    "code that is no Python": "def score(:",
}


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_that_executes_answers_is_refused_with_the_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCORERS[name])
    (tmp_path / "helpers.py").write_text(SCORERS["eval"])
    (tmp_path / "own.yaml").write_text(TASK.format(name="own_task", more="", function="own.score"))
    (tmp_path / "group.yaml").write_text("group: own_group\ntask: [own_task]\n")
    index = TaskManager(include_path=[str(tmp_path)], include_defaults=False).task_index
    for asked in ("own_task", "own_group"):
        with pytest.raises(ConfigError, match=rf"eval.tasks.Own.task={asked}: .*own_task: .*\.py, line \d") as caught:
            checked("eval.tasks.Own", asked, index, unsafe=False)
        assert "eval.unsafe_code=true" in caught.value.remedy
        assert checked("eval.tasks.Own", asked, index, unsafe=True) == "host"


def test_a_marked_task_without_the_sandbox_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def score(doc, results):\n    return {}")
    for name, more in (("marked", "unsafe_code: true"), ("plain", "")):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=f"own_{name}", more=more, function="own.score"))
    assert place_of(tmp_path, "own_marked") == "host"
    assert place_of(tmp_path, "own_plain") == "nowhere"


def test_the_projects_metric_is_the_sandbox(tmp_path: Path) -> None:
    assert place_of(make(tmp_path), "tiny_code") == "sandbox"
    assert place_of(tmp_path, "tiny_group") == "nowhere"


def test_a_task_is_refused_before_its_modules_are_imported(settings, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nrun = exec\ndef score(*_): ...")
    (tmp_path / "own.yaml").write_text(
        TASK.format(name="own_task", more="metric_list: [{metric: acc}]", function="own.score")
    )
    wanted = TaskSettings(task="own_task", metric="acc")
    with pytest.raises(ConfigError, match="outside the sandbox"):
        lm_eval_tasks.load("Own", wanted, EvalSettings(name="own", include_path=tmp_path, tasks={"Own": wanted}))
    given = settings(
        f"eval.include_path={tmp_path}", "~eval.tasks.HumanEval", "+eval.tasks.Own={task: own_task, metric: acc}"
    )
    with pytest.raises(ConfigError, match="outside the sandbox"):
        preflight.check(given.eval)
    assert not (tmp_path / "imported").exists()
