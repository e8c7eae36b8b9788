"""Docstrings say what a thing is or does: in the imperative or as a noun phrase, the subject first."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPENINGS = {"What", "Whether", "Which", "Of", "How", "Where", "Who", "Whose", "Whoever", "That", "As", "When", "Why"}


def openings(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the first word of each docstring of a module that opens with a relative pronoun or the like."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].rstrip(",:") in OPENINGS:
                yield getattr(node, "lineno", 1), " ".join(words[:6])


@pytest.mark.parametrize("package", ["pipeline", "tools"])
def test_a_docstring_opens_with_its_subject(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, words in openings(path)
    ]
    assert not found, "\n".join(found)
