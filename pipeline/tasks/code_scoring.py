"""Scoring that runs programs, and a local replacement for the metric that lm-eval would fetch from the hub.

lm-eval's code tasks call `evaluate.load("code_eval")` when they are imported, which downloads a script and runs model
code in this process. While tasks are loaded, the module `evaluate` is replaced: it has only `code_eval`, which runs
programs in the sandbox, and refuses every other name.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypedDict

from pipeline.errors import ConfigError
from pipeline.tasks.sandbox.sandbox import cores, run_program
from pipeline.tasks.sandbox.supervisor import Outcome

# The line of a program at the end of an outcome's detail.
PLACE = re.compile(r" \(line \d+: .*\)$")


class ProgramOutcome(TypedDict):
    """A candidate program's outcome, as the original metric has it."""

    task_id: int
    passed: bool
    result: str
    completion_id: int


class CodeEval:
    """Metric `code_eval` with the project's sandbox: pass@k over candidate programs."""

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100), **_: Any
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, ProgramOutcome]]]]:
        """Run each candidate with its tests.

        Returns:
            pass@k for each k with enough candidates, and each program's outcome, in the original's format.
        """
        details: dict[int, list[tuple[int, ProgramOutcome]]] = {}
        for task, (tests, candidates) in enumerate(zip(references, predictions, strict=True)):
            outcomes = [run_program(f"{candidate}\n{tests}") for candidate in candidates]
            details[task] = [
                (index, {"task_id": task, "passed": outcome.passed, "result": outcome.detail, "completion_id": index})
                for index, outcome in enumerate(outcomes)
            ]
        counts = [(len(runs), sum(run["passed"] for _, run in runs)) for runs in details.values()]
        scores = {
            f"pass@{size}": sum(pass_at_k(n, correct, size) for n, correct in counts) / len(counts)
            for size in k
            if counts and all(n >= size for n, _ in counts)
        }
        return scores, details


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the probability that k candidates drawn from n contain a correct one.

    Source: Chen et al., Evaluating Large Language Models Trained on Code (2021), equation 1.
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


@contextmanager
def local_metrics() -> Iterator[None]:
    """Replace the hub's metrics by local ones for tasks imported within the block.

    Raises:
        ConfigError: at the end of the block, if a task requested a metric that only the hub has.
    """
    refused: list[str] = []

    def load(name: str, *_: Any, **__: Any) -> CodeEval:
        if name == "code_eval":
            return CodeEval()
        refused.append(name)
        raise LookupError(f"the metric {name} is fetched from the hub at run time, which this pipeline does not do")

    module = ModuleType("evaluate")
    module.__dict__["load"] = load
    before = sys.modules.get("evaluate")
    sys.modules["evaluate"] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules["evaluate"]
        else:
            sys.modules["evaluate"] = before
        if refused:
            raise ConfigError(
                f"A task needs the metric {refused[0]}, a program that is fetched from the hub at run time.",
                "Choose a task that lm-eval scores without it.",
            )


def shared_error(outcomes: Sequence[Outcome]) -> tuple[str, int] | None:
    """Return the error by which more than half of the programs ended, and their number; None without one.

    A failed test is the model's; another error of so many may be the sandbox's or the task's. What a program wrote into
    it is shown without control characters.
    """
    errors = Counter(
        "".join(filter(str.isprintable, PLACE.sub("", outcome.detail)))[:200]
        for outcome in outcomes
        if not outcome.passed
    )
    error, count = max(errors.items(), key=lambda each: each[1], default=("", 0))
    return (error, count) if 2 * count > len(outcomes) and not error.startswith("AssertionError") else None


def scores_by_function(task: Any) -> bool:
    """Return whether a function supplied with the task scores its answers, which may be slow."""
    metrics = [entry.get("metric") for entry in task.get_config("metric_list") or []]
    return callable(task.get_config("process_results")) or any(callable(metric) for metric in metrics)


def score_side_by_side(task: Any) -> None:
    """Make a task score all its answers in parallel when lm-eval requests the first score."""
    filter_answers, score = task.apply_filters, task.process_results
    known: dict[str, Mapping[str, float]] = {}

    def fingerprint(doc: Any, answers: Any) -> str:
        return json.dumps([doc, answers], sort_keys=True, default=str)

    def apply_filters() -> Any:
        instances = filter_answers()
        by_item: dict[Any, list[Any]] = defaultdict(list)
        for instance in task.instances:
            by_item[instance.doc_id].append(instance)
        work = [
            (group[0].doc, [i.filtered_resps[name] for i in sorted(group, key=lambda i: int(i.idx))])
            for group in by_item.values()
            for name in group[0].filtered_resps
        ]
        with ThreadPoolExecutor(cores()) as pool:
            scores = pool.map(lambda item: score(*item), work)
            known.update(zip((fingerprint(*item) for item in work), scores, strict=True))
        return instances

    def process_results(doc: Any, answers: Any) -> Any:
        mark = fingerprint(doc, answers)
        return known[mark] if mark in known else score(doc, answers)

    task.apply_filters, task.process_results = apply_filters, process_results
