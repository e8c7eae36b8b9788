"""docs/command_line.md has the exit codes of the code, and its commands are read by the command line."""

import re

import pytest

from pipeline import errors, interruption
from pipeline.config import PROJECT_ROOT
from pipeline.config.command_line import translated

PAGE = (PROJECT_ROOT / "docs" / "command_line.md").read_text()
CODES = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)}
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.PipelineError) and "exit_code" in vars(kind)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_exit_code_is_in_the_table(kind: type[errors.PipelineError]) -> None:
    assert f"`{kind.__name__}`" in CODES[kind.exit_code]


def test_the_table_has_no_other_codes() -> None:
    signals = {128 + number for number in interruption.SIGNALS}
    assert {kind.exit_code for kind in KINDS} | {0, *signals} == set(CODES)


@pytest.mark.parametrize("line", re.findall(r"`python -m pipeline ([^`]*)`", PAGE))
def test_a_command_in_the_text_is_read(line: str) -> None:
    assert translated(line.split())
