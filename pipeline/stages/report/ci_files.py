"""Files of `stage=gate` that a CI shows: JUnit XML, and a job summary in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from xml.etree import ElementTree

from pipeline.config import Settings
from pipeline.errors import StageError
from pipeline.results.text import clean, in_markdown

T = TypeVar("T")
HEAD = ("Variant", "Figure", "before", "now", "change", "")


@dataclass(frozen=True)
class Case:
    """One figure of one variant, in words; `outcome` is that of a test, `word` that of the comparison."""

    variant: str
    figure: str
    before: str
    now: str
    change: str
    word: str
    outcome: Literal["passed", "failed", "skipped"]

    @property
    def is_shown(self) -> bool:
        """True if the figure moved, or may have, by more than is a change."""
        return self.outcome != "passed" or self.word != "unchanged"


def write(cases: Sequence[Case], baseline: str, settings: Settings) -> None:
    """Write the files that `report.junit` and `report.job_summary` name.

    Args:
        cases: of all variants.
        baseline: name of the stored run.
        settings: of the command.

    Raises:
        StageError: if a file cannot be written.
    """
    files = settings.report
    if files.junit:
        _put("report.junit", files.junit, Path.write_bytes, junit(cases))
    if files.job_summary:
        _put("report.job_summary", files.job_summary, _append, markdown(cases, baseline))


def junit(cases: Sequence[Case]) -> bytes:
    """Return JUnit XML with a suite for each variant and a case for each of its figures."""
    root = ElementTree.Element("testsuites", {"name": "stage=gate", **_counts(cases)})
    for variant in dict.fromkeys(case.variant for case in cases):
        of_variant = [case for case in cases if case.variant == variant]
        suite = ElementTree.SubElement(root, "testsuite", {"name": clean(variant), **_counts(of_variant)})
        for case in of_variant:
            place = {"classname": clean(variant), "name": clean(case.figure)}
            element = ElementTree.SubElement(suite, "testcase", place)
            said = clean(": ".join(filter(None, (case.word, case.change))))
            if case.outcome == "failed":
                failure = ElementTree.SubElement(element, "failure", message=said, type=clean(case.word))
                failure.text = clean(f"before {case.before}, now {case.now}")
            elif case.outcome == "skipped":
                ElementTree.SubElement(element, "skipped", message=said)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


def markdown(cases: Sequence[Case], baseline: str) -> str:
    """Return the result, the number of figures of each kind, and a table of what is not unchanged, failures first."""
    counts = Counter(case.word for case in cases)
    summary = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    failed = sorted({case.variant for case in cases if case.outcome == "failed"})
    result = f"failed: {', '.join(failed)}" if failed else "passed"
    lines = [f"### Gate {in_markdown(result)}", "", f"Against {in_markdown(baseline)}: {in_markdown(summary)}."]
    shown = sorted((case for case in cases if case.is_shown), key=lambda case: case.outcome != "failed")
    if shown:
        lines += ["", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
        for case in shown:
            cells = (case.variant, case.figure, case.before, case.now, case.change)
            word = in_markdown(case.word)
            row = [*map(in_markdown, cells), f"**{word}**" if case.outcome == "failed" else word]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    outcomes = [case.outcome for case in cases]
    failures, skipped = outcomes.count("failed"), outcomes.count("skipped")
    return {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}


def _append(path: Path, text: str) -> None:
    """Append, as the steps of one job share a summary."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _put(setting: str, path: Path, put: Callable[[Path, T], object], content: T) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content)
    except OSError as error:
        raise StageError(f"{setting}={path}: {error.strerror}.", "Name a file that can be written.") from None
