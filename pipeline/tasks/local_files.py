"""The study's four benchmarks from local files, as the rows that lm-eval would get from the hub.

A task of lm-eval loads a data set of the hub by name. Within `from_folder` it gets the files' rows, with the hub's
columns in the hub's order; prompt, few-shot examples and score remain lm-eval's. The folder holds

    mmlu/{dev,test}/<subject>_<split>.csv    no header: question, four options, the answer's letter
    ceval/{dev,val}/<subject>_<split>.csv    header: id, question, A, B, C, D, answer, perhaps explanation
    gsm8k/{train,test}.jsonl                 question, answer
    humaneval/HumanEval.jsonl                task_id, prompt, entry_point, canonical_solution, test

as published by their authors; only the requested benchmarks need be present.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.artifacts.keys import key_of, sha256_of
from pipeline.config.data_dir import BENCHMARKS
from pipeline.errors import InputError
from pipeline.json_files import parse_json

SETTING = "eval.data_dir"
LETTERS = "ABCD"
NEEDED = "Name a folder with mmlu/, ceval/, gsm8k/ and humaneval/, as published by their authors."
PATTERNS = ("mmlu/*/*.csv", "ceval/*/*.csv", "gsm8k/*.jsonl", "humaneval/*.jsonl")
Row = dict[str, object]
# Splits of one data set and subject, each with its rows.
Splits = dict[str, list[Row]]


def identity(folder: Path | None) -> str | None:
    """Return one hash over every file that a task may read; None without a folder."""
    if folder is None:
        return None
    paths = sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
    return key_of({path.relative_to(folder).as_posix(): sha256_of(path) for path in paths})


def check(folder: Path | None, tasks: Sequence[str]) -> None:
    """Refuse a folder that is missing, or that lacks the benchmark of a task.

    Args:
        folder: `eval.data_dir`; None: nothing to check.
        tasks: names of lm-eval's tasks.

    Raises:
        InputError: naming the folder.
    """
    if folder is None:
        return
    if not folder.is_dir():
        raise InputError(f"{SETTING}={folder}: there is no such folder.", NEEDED)
    for name in BENCHMARKS:
        if any(task.partition("-")[0].partition("_")[0] == name for task in tasks) and not (folder / name).is_dir():
            raise InputError(
                f"{SETTING}={folder}: there is no folder {name} in it.",
                NEEDED,
            )


@contextmanager
def from_folder(folder: Path | None) -> Iterator[None]:
    """Make tasks load data sets from `folder` instead of the hub within the block; None changes nothing.

    Raises:
        InputError: from within lm-eval, if the folder lacks the data set, or a file is empty or unlabelled.
    """
    if folder is None:
        yield
        return
    import datasets

    def load_dataset(path: str, name: str | None = None, **_: Any) -> Any:
        reader = READERS.get(path)
        if reader is None:
            raise InputError(
                f"{SETTING}={folder} cannot hold {path}, only {', '.join(READERS)}.",
                f"Run other tasks separately with {SETTING}=null.",
            )
        splits = reader(folder, name or "")
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in splits.items()})

    hub = datasets.load_dataset
    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = hub


def mmlu(folder: Path, subject: str) -> Splits:
    """Read one subject of cais/mmlu, whose answer is the option's index."""

    def read(split: str) -> list[Row]:
        path = folder / "mmlu" / split / f"{subject}_{split}.csv"
        found = []
        for number, row in enumerate(_csv(path), 1):
            if len(row) != 6:
                raise _malformed(path, number, f"{len(row)} columns instead of 6: question, four options, answer")
            answer = LETTERS.index(_label(path, number, row[5]))
            found.append({"question": row[0], "subject": subject, "choices": row[1:5], "answer": answer})
        return found

    return {split: read(split) for split in ("test", "dev")}


def ceval(folder: Path, subject: str) -> Splits:
    """Read one subject of ceval/ceval-exam, without its test split, whose labels are not public."""

    def read(split: str) -> list[Row]:
        path = folder / "ceval" / split / f"{subject}_{split}.csv"
        header, *rows = _csv(path)
        if missing := {"id", "question", *LETTERS, "answer"} - set(header):
            raise _malformed(path, 1, f"no column {', '.join(sorted(missing))}")
        if not rows:
            raise _empty(path)
        found = []
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise _malformed(path, number, f"{len(row)} columns instead of {len(header)}")
            item = dict(zip(header, row, strict=True))
            _label(path, number, item["answer"])
            texts = {name: item[name] for name in ("question", *LETTERS, "answer")}
            if not re.fullmatch(r"\d{1,18}", item["id"]):
                raise _malformed(path, number, f"the id {item['id'][:40]!r}, which is no number")
            found.append({"id": int(item["id"]), **texts, "explanation": item.get("explanation", "")})
        return found

    return {split: read(split) for split in ("val", "dev")}


def gsm8k(folder: Path, _: str) -> Splits:
    """Read openai/gsm8k, whose answers end in `#### ` and the number."""

    def read(split: str) -> list[Row]:
        path = folder / "gsm8k" / f"{split}.jsonl"
        rows = _jsonl(path, ("question", "answer"))
        for number, row in enumerate(rows, 1):
            if "####" not in (answer := str(row["answer"])):
                raise _unlabelled(path, number, answer[-40:], "a solution that ends in `#### ` and a number")
        return rows

    return {split: read(split) for split in ("train", "test")}


def humaneval(folder: Path, _: str) -> Splits:
    """Read openai/openai_humaneval, which has only a test split."""
    columns = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
    return {"test": _jsonl(folder / "humaneval" / "HumanEval.jsonl", columns)}


READERS: dict[str, Callable[[Path, str], Splits]] = {
    "cais/mmlu": mmlu,
    "ceval/ceval-exam": ceval,
    "openai/gsm8k": gsm8k,
    "openai/openai_humaneval": humaneval,
}


def _csv(path: Path) -> list[list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{SETTING}: {path} is not CSV ({error}).", "Use the files as published.") from None
    if not rows:
        raise _empty(path)
    return rows


def _jsonl(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the requested columns of each line, in order."""
    rows = []
    # Not splitlines(): strings may hold U+2028, which it would split at.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise _malformed(path, number, f"not JSON ({error})") from None
        if not isinstance(row, dict) or (missing := [name for name in columns if not isinstance(row.get(name), str)]):
            raise _malformed(path, number, f"no text under {', '.join(missing if isinstance(row, dict) else columns)}")
        rows.append({name: row[name] for name in columns})
    if not rows:
        raise _empty(path)
    return rows


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise InputError(
            f"{SETTING}: {path} does not exist.",
            "Name a folder with mmlu/, ceval/, gsm8k/ and humaneval/ (pipeline/tasks/local_files.py lists the files).",
        ) from None
    except OSError as error:
        raise InputError(f"{SETTING}: {path} cannot be read ({error.strerror}).", "Name a folder of files.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{SETTING}: {path} is not UTF-8 text ({error}).", "Save it as UTF-8.") from None


def _label(path: Path, number: int, answer: str) -> str:
    if answer not in LETTERS or len(answer) != 1:
        raise _unlabelled(path, number, answer, "one of A, B, C, D")
    return answer


def _unlabelled(path: Path, number: int, answer: str, expected: str) -> InputError:
    return InputError(
        f"{SETTING}: row {number} of {path} has the answer {answer!r}, not {expected}.",
        "Use a split whose answers are public: C-Eval's test split has none, its val split has.",
    )


def _malformed(path: Path, number: int, problem: str) -> InputError:
    return InputError(
        f"{SETTING}: row {number} of {path} has {problem}.", "Use the files as published by their authors."
    )


def _empty(path: Path) -> InputError:
    return InputError(f"{SETTING}: {path} has no items.", "Use the files as published by their authors.")
