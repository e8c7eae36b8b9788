"""Evaluation tasks as lm-eval defines them: located, loaded, checked and sampled before a server is started."""

from __future__ import annotations

import logging
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.keys import Digests
from pipeline.config import EvalSettings, TaskSettings
from pipeline.config.names import did_you_mean, nearest
from pipeline.errors import ConfigError, InputError
from pipeline.tasks import local_files, scorers
from pipeline.tasks.code_scoring import local_metrics, score_side_by_side, scores_by_function
from pipeline.tasks.sampling import nested, stratified

if TYPE_CHECKING:
    from lm_eval.api.task import Task

# The lines of a task file that have names of tasks, groups or tags: `task: name`, `tag: [one, two]`, `- name`.
NAMING = re.compile(r"^\s*(?:-|(?:-\s*)?(?:task|group|tag)\s*:)\s*(.+)$", re.MULTILINE)


MEANS = "Choose a metric that is a mean over items, like acc, exact_match or pass@1."


@dataclass
class TaskSample:
    """Sample of evaluation items behind one column of the report, with their lm-eval tasks."""

    label: str
    settings: TaskSettings
    tasks: dict[str, Task]
    groups: dict[str, object]
    items: dict[str, list[int]]
    subjects: dict[str, list[str] | None]
    available: int
    # Where scoring executes what the model wrote.
    executes: scorers.Place = "nowhere"
    # Items of the limit, of which a share is asked.
    whole: int = 0

    @property
    def count(self) -> int:
        """Number of items in the sample."""
        return sum(len(indices) for indices in self.items.values())

    def subject(self, task: str, index: int) -> str | None:
        """Return the subject of an item: its field `subject`, else the subtask of a group."""
        subjects = self.subjects[task]
        return subjects[index] if subjects is not None else task if self.groups else None


def load(label: str, wanted: TaskSettings, settings: EvalSettings) -> TaskSample:
    """Load the task of one column with its data, and draw the sample.

    Raises:
        ConfigError: on an unknown task, metric or filter, or if scoring executes answers on this machine.
        InputError: if the task's data cannot be read or has no items.
    """
    setting = f"eval.tasks.{label}"
    random.seed(settings.seed)
    manager = manager_with(setting, wanted.task, settings.include_path)
    executes = scorers.checked(setting, wanted.task, manager.task_index, unsafe=settings.unsafe_code)
    loaded = _load(setting, wanted.task, settings, manager)
    tasks, groups = dict(loaded["tasks"]), dict(loaded.get("groups") or {})
    for task in tasks.values():
        _check(setting, wanted, task, settings)
        if wanted.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=wanted.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=settings.seed)
        if executes != "nowhere" or scores_by_function(task):
            score_side_by_side(task)
    subjects = {name: _subjects(task) for name, task in tasks.items()}
    sizes = {name: len(task.eval_docs) for name, task in tasks.items()}
    asked = TaskSample(label, wanted, tasks, groups, {}, subjects, sum(sizes.values()), executes)
    strata = [((name, index), asked.subject(name, index)) for name, size in sizes.items() for index in range(size)]
    if not strata:
        raise InputError(f"{setting}: the data of {wanted.task} has no items.", "Check the task's data files.")
    drawn = stratified(strata, settings.limit, settings.seed)
    asked.whole = len(drawn)
    if settings.share < 1:
        stratum_of = dict(strata)
        drawn = nested([(item, stratum_of[item]) for item in drawn], settings.share, settings.seed)
    for name, index in drawn:
        asked.items.setdefault(name, []).append(index)
    # lm-eval reads an empty list of items as all items.
    asked.tasks = {name: task for name, task in tasks.items() if name in asked.items}
    for name, task in asked.tasks.items():
        if len(asked.items[name]) < sizes[name] and hasattr(task, "sampler"):
            task.sampler = ExamplesOfTheFullRun(task.sampler, task.eval_docs, asked.items[name])
    return asked


class ExamplesOfTheFullRun:
    """Sampler of few-shot examples that gives each item of a sample those that it has when all items are asked.

    lm-eval draws examples for one item after another, so those of the items in between are drawn and discarded. A
    prompt is then the same in samples of any size, and their scores can be paired.
    """

    def __init__(self, sampler: Any, docs: Sequence[Any], items: Iterable[int]) -> None:
        """Draw by `sampler` for these items of the documents; lm-eval asks in their order."""
        self._sampler, self._docs, self._items, self._next = sampler, docs, iter(sorted(items)), 0

    def sample(self, n: int, eval_doc: Any = None) -> Any:
        """Return the examples of the next item; `eval_doc` is the item if the examples come from the same split."""
        item = next(self._items)
        for skipped in range(self._next, item):
            self._sampler.sample(n=n, eval_doc=None if eval_doc is None else self._docs[skipped])
        self._next = item + 1
        return self._sampler.sample(n=n, eval_doc=eval_doc)


def _check(setting: str, wanted: TaskSettings, task: Any, settings: EvalSettings) -> None:
    """Refuse an unknown filter, an unknown metric or one that is no mean, and thinking where no text is generated.

    Raises:
        ConfigError: with the known names.
    """
    if settings.enable_thinking and task.OUTPUT_TYPE != "generate_until":
        raise ConfigError(
            f"eval.enable_thinking=true: {task.task_name} compares options at the first token of the reply, before "
            "a thinking model has begun to think.",
            "Set eval.enable_thinking=false, or choose only tasks with generated answers.",
        )
    filters = [ensemble.name for ensemble in getattr(task, "_filters", [])]
    if filters and wanted.filter not in filters:
        raise ConfigError(
            f"{setting}.filter={wanted.filter}: {task.task_name} has no such filter.",
            f"It has {', '.join(filters)}.",
        )
    metrics = list(task.aggregation())
    # Metric names of a function are known only from its results (pass_at_k: pass@1).
    if metrics and not scores_by_function(task) and wanted.metric not in metrics:
        raise no_such_metric(setting, wanted.metric, task.task_name, metrics)
    if wanted.metric in metrics and not _is_mean(task.aggregation()[wanted.metric]):
        raise ConfigError(
            f"{setting}.metric={wanted.metric}: {task.task_name} does not average it over items, which are compared "
            "one by one.",
            MEANS,
        )


def _is_mean(aggregation: Callable[[list[float]], Any]) -> bool:
    """Return whether a function averages the scores of items, by trying it."""
    try:
        return math.isclose(float(aggregation([0.0, 1.0, 1.0])), 2 / 3)
    # It takes something else than a score of each item.
    except Exception:
        return False


def no_such_metric(setting: str, metric: str, task: str, known: list[str]) -> ConfigError:
    """Return the error for a metric that a task does not report."""
    return ConfigError(
        f"{setting}.metric={metric}: {task} has no such metric.", f"It has {', '.join(dict.fromkeys(known))}."
    )


def _subjects(task: Any) -> list[str] | None:
    """Return the subject of each item, or None if an item has none."""
    docs = task.eval_docs
    names = getattr(docs, "column_names", None)
    if names is not None:
        return [str(value) for value in docs["subject"]] if "subject" in names else None
    subjects = [doc.get("subject") if isinstance(doc, dict) else None for doc in docs]
    return None if None in subjects else [str(subject) for subject in subjects]


def _load(setting: str, name: str, settings: EvalSettings, manager: Any) -> Any:
    try:
        with quiet(), local_metrics(), local_files.from_folder(settings.data_dir):
            return manager.load([name])
    except (ConfigError, InputError):
        raise
    except Exception as error:
        if _is_about_data(error):
            raise InputError(
                f"{setting}: the data of {name} cannot be reached ({_first_line(error)}).",
                "Offline, set eval.data_dir to a folder with the benchmarks' files; or run it once on a machine that "
                "reaches the hub, copy that machine's Hugging Face cache and set HF_HOME to the copy and "
                "HF_HUB_OFFLINE=1; or use the embedded tasks, eval=demo.",
            ) from error
        raise InputError(
            f"{setting}: lm-eval cannot load {name} ({_first_line(error)}).",
            "Check its task file, or choose another task.",
        ) from error


def manager_with(setting: str, name: str, include_path: Path | None) -> Any:
    """Return the smallest task index that has `name`, since reading all of lm-eval's files takes many seconds."""
    if include_path is not None and not include_path.is_dir():
        raise ConfigError(f"eval.include_path={include_path}: no such folder.", "Name a folder of task files.")
    import lm_eval.tasks

    user_paths = (str(include_path),) if include_path is not None else ()
    library = Path(lm_eval.tasks.__file__).parent
    likely = dict.fromkeys((name, name.split("-")[0], name.split("_")[0]))
    steps = [
        user_paths,
        *((str(library / folder), *user_paths) for folder in likely if folder and (library / folder).is_dir()),
    ]
    for paths in filter(None, steps):
        manager = _manager(paths)
        if name in manager.task_index:
            return manager
    manager = _manager((str(library), *user_paths))
    if name not in manager.task_index:
        raise no_such_task(setting, name, manager.all_tasks)
    return manager


def no_such_task(setting: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a task that lm-eval does not have."""
    meant = did_you_mean(nearest(name, known))
    return ConfigError(
        f"{setting}.task={name}: lm-eval has no such task{f'; {meant}' if meant else '.'}",
        "`python -m lm_eval ls tasks` lists them; set eval.include_path for your own task files.",
    )


@cache
def written_names(folder: Path) -> frozenset[str]:
    """Return every word of lm-eval's task files that may be a task's name, without importing lm-eval."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*.yaml"))
    return frozenset(name for text in texts for line in NAMING.findall(text) for name in re.findall(r"[\w.-]+", line))


@cache
def _manager(paths: tuple[str, ...]) -> Any:
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager(include_path=list(paths), include_defaults=False)


def _is_about_data(error: BaseException | None) -> bool:
    """Return whether an error of `datasets` or the hub's client means that a data set could not be fetched or found."""
    while error is not None:
        origin = type(error).__module__.split(".")[0]
        if isinstance(error, (ConnectionError, FileNotFoundError, TimeoutError)) or origin in (
            "huggingface_hub",
            "datasets",
            "requests",
            "httpx",
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence lm-eval's logging below errors and all foreign progress bars within the block."""
    import datasets
    import lm_eval.api.task

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval.api.task.tqdm
    had_bars = datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda iterable, **_: iterable
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if not had_bars:
            datasets.enable_progress_bars()


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Keep lm-eval's compiled prompt templates within the block; it compiles each anew for every item and example."""
    from lm_eval.utils import env

    compile_anew = env.from_string
    env.from_string = lru_cache(maxsize=1024)(compile_anew)
    try:
        yield
    finally:
        env.from_string = compile_anew


def task_files(settings: EvalSettings, digests: Digests) -> dict[str, str]:
    """Return the SHA-256 of every file in `include_path` by its path, and one of the content of `data_dir`."""
    folder, data = settings.include_path, local_files.identity(settings.data_dir)
    hashes = digests.of_folder(folder) if folder is not None and folder.is_dir() else {}
    return hashes if data is None else {**hashes, "data_dir": data}
