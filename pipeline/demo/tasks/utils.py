"""Functions of the task files: load a test set of this folder, run a completion's unit tests.

lm-eval imports this file by its path, from any working directory, and nothing comes from a hub.
"""

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent / "data"


def load(task: str, **_: Any) -> Any:
    """Return the test set of a task as a `datasets.DatasetDict`.

    lm-eval adds the task's metadata to the arguments; it is not used.
    """
    from datasets import Dataset, DatasetDict

    text = (DATA / f"{task}.jsonl").read_text(encoding="utf-8")
    return DatasetDict({"test": Dataset.from_list([json.loads(row) for row in text.split("\n") if row])})


def build_predictions(responses: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """Put each completion behind its prompt, as HumanEval's task does."""
    return [[doc["prompt"] + response for response in answers] for answers, doc in zip(responses, docs, strict=True)]


def pass_at_1(references: list[str], predictions: list[list[str]], **_: Any) -> dict[str, float]:
    """Return the share of programs that pass their unit tests.

    Args:
        references: The unit tests with the call that runs them.
        predictions: For each, the completed programs, of which the first counts.
    """
    from pipeline.tasks.sandbox.sandbox import run_program

    passed = [
        bool(run_program(f"{programs[0]}\n{tests}\n").passed)
        for tests, programs in zip(references, predictions, strict=True)
    ]
    return {"pass@1": sum(passed) / len(passed)}
