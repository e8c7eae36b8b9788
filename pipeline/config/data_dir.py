"""`data_dir`: one folder of the user's in place of all sets of the hub, told apart by their names in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ConfigError

DATA_DIR = "data_dir"
# Sets by the name of their file, without suffixes. Calibration has its own: the divergence is of held-out text.
FILES = {
    "calibration": ("calibration.dataset",),
    "conversations": ("bench.dataset", "eval.divergence.dataset"),
}
BENCHMARKS = ("mmlu", "ceval", "gsm8k", "humaneval")
HOLDS = (
    "It may hold calibration.jsonl (calibration), conversations.jsonl (load and divergence), and the folders "
    f"{', '.join(BENCHMARKS)} (tasks, as published by their authors); files also as .json, .parquet, .csv, .txt or .gz."
)


def settings_for(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each setting that the folder's content answers for, with its path.

    Raises:
        ConfigError: if there is no such folder, nothing in it is read, or two files are one set.
    """
    if not folder.is_dir():
        raise ConfigError(f"{DATA_DIR}={folder}: there is no such folder.", HOLDS)
    found = {name: [path for path in sorted(folder.glob(f"{name}.*")) if path.is_file()] for name in FILES}
    has_tasks = any((folder / name).is_dir() for name in BENCHMARKS)
    if not (has_tasks or any(found.values())):
        raise ConfigError(f"{DATA_DIR}={folder}: nothing in it is read.", HOLDS)
    for name, paths in found.items():
        if len(paths) > 1:
            raise ConfigError(
                f"{DATA_DIR}={folder}: {' and '.join(path.name for path in paths)} are one set.", "Leave one of them."
            )
        yield from ((f"{dataset}.path", path) for path in paths for dataset in FILES[name])
    if has_tasks:
        yield "eval.data_dir", folder
