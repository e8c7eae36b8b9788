"""Every command of README and docs is one that this command line, this Makefile and this configuration know.

Each line behind a `$`, and each whole command in the text, is planned (`dry_run`) with stand-ins for the reader's
files, a sweep by its first and its last job. Lines that need what a test does not have are composed and checked as
settings; other programs are listed with the reason why they are not run.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hydra
import pytest
from hydra.errors import HydraException

from pipeline.config import PROJECT_ROOT, Settings
from pipeline.config.command_line import split, translated
from pipeline.config.compose import compose_variants
from pipeline.config.help import answer
from pipeline.config.names import field_at
from pipeline.demo import CHECKPOINT
from pipeline.runner import Runner

PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])
PAGES = [path for path in PAGES if path.name not in ("CHANGELOG.md", "report.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PIPELINE = ("python -m pipeline", ".venv/bin/python -m pipeline", "quantization-pipeline")
# Programs that are not run here, with the reason.
NOT_RUN = {
    "source": "changes the reader's shell",
    "pip install": "installs gigabytes; tests/e2e/test_installed_wheel.py installs the wheel",
    "python -m pip wheel": "tests/e2e/test_installed_wheel.py makes the wheel",
    "hf download": "needs the hub",
    "docker": "needs a Docker daemon",
    ".venv/bin/pre-commit install": "changes the reader's git configuration",
}
# Settings that only the hub, a server or a former run can answer: the command is composed, not planned.
COMPOSED = {
    "model=[A-Za-z][\\w-]*/[\\w.-]+$": "the hub has the model",
    "model=qwen3_8b": "the hub has the model",
    "hub:|folder:": "others quantized it",
    "dataset.hub_id=": "the hub has the data set",
    "serve.url=": "a server runs there",
    "report.baseline=": "a report was stored",
    "report.runs=": "a report was stored",
}


class Line(NamedTuple):
    page: Path
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT_ROOT)}: {self.text}"


def lines_of(page: Path) -> Iterator[Line]:
    """Commands of fenced blocks, continued lines joined, comments cut; and commands in the text without an ellipsis."""
    text = page.read_text(encoding="utf-8")
    for code in INLINE.findall(FENCE.sub("", text)):
        if re.match(r"python -m pipeline |make ", code) and not re.search(r"\.\.\.|<", code):
            yield Line(page, code)
    for kind, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            is_typed = line.startswith(("$ ", "python -m ", "make ")) and kind in ("", "console", "bash", "sh")
            if is_typed:
                yield Line(page, re.sub(r"\s+# .*", "", line.removeprefix("$ ")).strip())


LINES = list(dict.fromkeys(line for page in PAGES for line in lines_of(page)))


def pipeline_words(text: str) -> list[str] | None:
    """The words behind the command, which variables and `timeout` may precede; None for another program."""
    bare = re.sub(r"^([A-Z_]+=\S+ )+|^timeout \S+ \S+ ", "", text)
    for name in PIPELINE:
        if bare == name or bare.startswith(f"{name} "):
            return shlex.split(os.path.expandvars(bare.removeprefix(name)))
    return None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who has the files that the pages name."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("my-llama", "model", "Qwen3-8B"):
        (folder / name).symlink_to(CHECKPOINT)
    for name in ("mine.jsonl", "zh.jsonl"):
        rows = (f'{{"prompt": "Question {n}?", "response": "Answer {n}."}}\n' for n in range(2000))
        (folder / name).write_text("".join(rows))
    local = folder / "local"
    for name in ("mmlu", "ceval", "gsm8k", "humaneval"):
        (local / name).mkdir(parents=True)
    for name in ("calibration.jsonl", "conversations.jsonl"):
        (local / name).symlink_to(folder / "mine.jsonl")
    (folder / "mine" / "quant").mkdir(parents=True)
    for name in ("mine", "w4a16_g64"):
        (folder / "mine" / "quant" / f"{name}.yaml").write_text(
            f"name: {name}\ntitle: Mine\nscheme: W4A16\ngroup_size: 64\n"
        )
    return folder


def planned(words: list[str], place: Path) -> None:
    """Plan a command in this process."""
    words = [word.replace("/data/", f"{place}/") for word in words]
    if answer(words) is not None:
        return
    if "-m" in words:
        jobs = [[word.split("=", 1) for word in words if word != "-m"]] * 2
        for job, end in zip(jobs, (0, -1), strict=True):
            planned([f"{name}={split(value)[end]}" for name, value in job], place)
        return
    if {"--config-dir=mine", "quant=w4a16_g64", "--cfg"} & set(words):
        given = [*dict.fromkeys(["--config-dir=mine", *words]), "dry_run=true", f"outputs={place / 'outputs'}"]
        command = [sys.executable, "-m", "pipeline", *given]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    overrides = translated(words)
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base=None):
        given = [*overrides, f"outputs={place / 'outputs'}"]
        variants = compose_variants(hydra.compose("config", given), given)
    if not any(re.search(pattern, word) for pattern in COMPOSED for word in words):
        assert Runner(variants, given).plan() == 0


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_command_is_one_that_there_is(line: Line, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    words = pipeline_words(line.text)
    if words is not None:
        planned(words, place)
    elif line.text.startswith("make"):
        target = shlex.split(line.text)[1:]
        done = subprocess.run(["make", "-n", "-C", str(PROJECT_ROOT), *target], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for made in done.stdout.splitlines():
            if (words := pipeline_words(made.strip())) is not None:
                planned(words, place)
    else:
        assert subprocess.run(["bash", "-n", "-c", line.text], check=False).returncode == 0
        assert any(line.text.startswith(name) for name in NOT_RUN), "say in NOT_RUN why it is not run"


def test_every_exception_is_needed() -> None:
    texts = [line.text for line in LINES]
    unused = [name for name in NOT_RUN if not any(text.startswith(name) for text in texts)]
    words = [word for text in texts for word in text.split()]
    unused += [pattern for pattern in COMPOSED if not any(re.search(pattern, word) for word in words)]
    assert not unused


def test_a_command_that_is_not_there_is_seen(place: Path) -> None:
    for typed in ("stage=all quant=fp8_statik", "bench.num_promts=3", "stage=quantize model=/data/nobody"):
        with pytest.raises(Exception) as caught:
            planned(typed.split(), place)
        assert isinstance(caught.value, HydraException) or type(caught.value).__module__ == "pipeline.errors"


def dotted(page: Path) -> Iterator[str]:
    """Settings with a dot that a page names in its text."""
    for code in INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        for word in code.split():
            found = re.match(r"['\"]?\+{0,2}([a-z]+(?:\.[a-z_0-9]+)+)=", word)
            if found and found[1].partition(".")[0] in Settings.model_fields:
                yield found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_in_the_text_is_one(page: Path) -> None:
    unknown = [name for name in dotted(page) if field_at(Settings, name.split("."))[1] is None]
    assert not unknown
