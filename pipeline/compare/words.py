"""The words for what is known of a difference: one vocabulary for page, Markdown, CSV, JSON, terminal and gate.

Against BF16 a figure has one of `MEANINGS`; against an earlier run *unchanged* takes the place of *no worse*
(`history`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pipeline.compare.comparison import Comparison, Row, SpeedCell, TaskCell
from pipeline.compare.stats.noninferiority import LossVerdict
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.metrics import Direction

Word = Literal["better", "no worse", "worse", "cannot tell", "unreliable", "not measured"]

MEANINGS: Mapping[Word, str] = {
    "better": "a gain over BF16 is shown",
    "no worse": "a loss of the margin or more is ruled out",
    "worse": "a loss is shown; of accuracy, one of more than the margin",
    "cannot tell": "neither is shown: more repeats or items would decide",
    "unreliable": "a guard failed while it or BF16 was measured: measure again",
    "not measured": "there is no figure, or none that may be compared",
}
# Beside each word, so that it is not told by its colour alone.
SYMBOLS: Mapping[Word, str] = {
    "better": "▲",
    "no worse": "✓",
    "worse": "▼",
    "cannot tell": "?",
    "unreliable": "!",
    "not measured": "–",
}


def legend(found: Iterable[str]) -> str:
    """Return the meanings of the words that occur, as one line."""
    wanted = set(found)
    return "; ".join(f"{SYMBOLS[word]} {word}: {meaning}" for word, meaning in MEANINGS.items() if word in wanted)


def speed_word(cell: SpeedCell | Missing, better: Direction, *, is_reliable: bool) -> Word:
    """Return the word for a speed against BF16's.

    Args:
        cell: the figure with its change.
        better: the better direction.
        is_reliable: False if a guard failed while the variant or BF16 was measured.
    """
    if not isinstance(cell, SpeedCell) or not isinstance(cell.change, Change):
        return "not measured"
    if not is_reliable:
        return "unreliable"
    if not cell.change.is_clear:
        return "cannot tell"
    return "better" if (cell.change.percent > 0) == (better == "higher") else "worse"


def task_word(cell: TaskCell | Missing) -> Word:
    """Return the word for a task's accuracy against BF16's."""
    if not isinstance(cell, TaskCell) or not isinstance(cell.loss, LossVerdict):
        return "not measured"
    return "better" if cell.is_gain else cell.loss.kind


def is_reliable(comparison: Comparison, row: Row) -> bool:
    """Return True if no guard failed while the variant or BF16 was measured under the load of the tables."""
    return not row.marks and not any(other.marks for other in comparison.rows if other.is_baseline)


def quality_words(comparison: Comparison) -> dict[Word, int]:
    """Count the words of all variants on all tasks."""
    counts: dict[Word, int] = dict.fromkeys(MEANINGS, 0)
    for row in comparison.rows:
        if not row.is_baseline:
            for cell in row.tasks.values():
                counts[task_word(cell)] += 1
    return {word: number for word, number in counts.items() if number}
