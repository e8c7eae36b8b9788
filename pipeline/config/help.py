"""Help texts: the main commands, the choices of every group, and the choices and settings of one."""

from __future__ import annotations

import importlib.metadata
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic_core import PydanticUndefined

from pipeline.config.base import Command, Stage
from pipeline.config.names import choices, fields_of, groups, nearest, section_of, spelled
from pipeline.config.presets import CONF
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError

DISTRIBUTION = "quantization-pipeline"
TITLE = """\
Which quantization should I deploy?
From a BF16 checkpoint to quantized variants, served with vLLM, benchmarked, scored and weighed in one report."""
# Each task with the words that follow `python -m pipeline`.
TASKS = (
    ("BF16 and the study's formats of your model, one report", "model=<owner/name of the hub, or a folder>"),
    ("what that would make, need and take", "model=<...> dry_run=true"),
    ("the same with your own data, or without a network", "model=<...> data_dir=<folder>"),
    ("the same for the small model that comes with the project", "model=demo"),
    ("some formats only", "model=<...> variants=bf16,fp8_dynamic,awq"),
    ("one stage of one format, and what it needs", "stage=calibrate,report quant=fp8_static"),
    ("loads from one user to saturation", "stage=bench,report bench=ladder"),
    ("a server that runs already", "stage=bench,report quant=bf16 serve.url=http://localhost:8000"),
    ("what a GPU serves, installed or not", "stage=capabilities hardware.gpu=L40S"),
    ("the same results under constraints", "stage=report report.constraints.memory_gib=24"),
    ("fail if a format became worse (CI)", "stage=gate report.baseline=monday/report.json"),
    ("model cards, and an upload on request", "stage=publish publish.repo_id=me/{model}-{variant}"),
    ("a job for each combination", "-m stage=quantize quant=awq,gptq quant.group_size=64,128"),
)
# Column of the tasks; a longer command goes beyond.
WIDTH = 48
FOOTER = f"""\
Stages: {" -> ".join([*Stage, Command.REPORT])}. Each makes what it needs and is missing.
`--help <group>` describes choices and settings, `--cfg job` prints every setting with its value, `dry_run=true` what
would run and why. Paths, lists and texts: docs/command_line.md."""


def answer(words: Sequence[str]) -> str | None:
    """Return the text that the words ask for: no word, `--help`, `--help <group>`, `--version`; None for others.

    Raises:
        ConfigError: if there is no such group.
    """
    if not words:
        return f"{TITLE}\n\n{_tasks()}\n\n`python -m pipeline --help` lists all choices."
    if "--version" in words:
        return f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}"
    if not {"--help", "-h"} & set(words):
        return None
    folders = [Path(words[at + 1]) for at, word in enumerate(words[:-1]) if word in ("--config-dir", "-cd")]
    named = [word.partition("=")[0] for word in words if not word.startswith("-") and Path(word) not in folders]
    if not named:
        lines = (f"{group}: {', '.join(choices(group, folders))}" for group in groups())
        listing = "\n".join(textwrap.fill(line, 118, subsequent_indent="    ") for line in lines)
        return f"{TITLE}\n\n{_tasks()}\n\nChoices, group=choice:\n\n{listing}\n\n{FOOTER}"
    group = spelled(named[0], groups())
    if group not in groups():
        meant = nearest(group, groups())
        raise ConfigError(f"--help {named[0]}: there is no such group.", f"Groups: {', '.join(meant or groups())}.")
    return "\n".join(_of_group(group, folders))


def _tasks() -> str:
    return "\n".join(f"  python -m pipeline {words.ljust(WIDTH)}  {task}" for task, words in TASKS)


def _of_group(group: str, folders: Sequence[Path]) -> Iterator[str]:
    """Yield the choices of a group with their first comments, and its settings."""
    field = Settings.model_fields.get(group)
    yield f"{group}=<choice>{f': {field.description}' if field is not None else ''}"
    yield ""
    names = choices(group, folders)
    width = max(map(len, names))
    for name in names:
        paths = (folder / group / f"{name}.yaml" for folder in (*folders, CONF))
        yield f"  {name.ljust(width)}  {next(_comment(path) for path in paths if path.is_file())}".rstrip()
    section = section_of(field) if field is not None else None
    if section is None:
        return
    yield "\nSettings:\n"
    settings = [(name, each) for name, each in fields_of(section, f"{group}.") if section_of(each) is None]
    width = max(len(name) for name, _ in settings)
    for name, each in settings:
        default = "" if each.default is PydanticUndefined or each.is_required() else f" [{_shown(each.default)}]"
        yield f"  {name.ljust(width)}  {each.description}{default}"


def _comment(path: Path) -> str:
    """Return the first comment of a file of conf/, without the full stop."""
    lines = (line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    return next((line.rstrip(".") for line in lines if not line.startswith("@package")), "")


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
