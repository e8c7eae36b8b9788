"""One GPU or several: a quantized variant on fewer GPUs against BF16 on more, by what each GPU serves."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.compare.comparison import Comparison, Row, SpeedCell
from pipeline.compare.decide.differences import mean_throughput, speed_between
from pipeline.compare.statements import Claim, Sentence, count, listing, percent_range, signed
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.metrics import THROUGHPUT, TPOT


def divided(comparison: Comparison) -> Iterator[Sentence]:
    """Yield an answer for each BF16 on several GPUs: against the fastest quantized variant on fewer, per GPU.

    A variant that was measured while a guard failed is asked about only if all were.
    """
    for row in comparison.rows:
        changed = (each for each in comparison.rows if each.family != "baseline")
        fewer = [each for each in changed if each.gpus < row.gpus and mean_throughput(each)]
        if row.family == "baseline" and mean_throughput(row) and fewer:
            reliable = [each for each in fewer if not each.marks]
            yield _answer(comparison, max(reliable or fewer, key=mean_throughput), row)


def _answer(comparison: Comparison, ours: Row, theirs: Row) -> Sentence:
    """Return which of two variants on different numbers of GPUs serves more with each GPU."""
    question = f"{_placed(ours)} or {_placed(theirs)}? "
    # The fastest of several was chosen by this very figure, so that the interval must hold for any of them.
    change = speed_between(comparison, comparison.throughput.name, ours.name, theirs.name, comparisons="all")
    if isinstance(change, Missing):
        return Sentence(kind="speed", text=f"{question}Not known: {change.reason}.")
    if marked := [row.label for row in (ours, theirs) if row.marks]:
        return Sentence(kind="speed", text=f"{question}Not known: a guard failed for {listing(marked)}. Measure again.")
    figures = f"{_each(ours)}, {_each(theirs)}{_latency(ours, theirs)}"
    if not change.is_clear or change.interval is None:
        around = f" ({percent_range(change)} %)" if change.interval else ""
        return Sentence(
            kind="speed",
            text=f"{question}Cannot tell what serves more per GPU: {signed(change.percent)} %{around}; {figures}.",
        )
    first, second = (ours, theirs) if change.percent > 0 else (theirs, ours)
    claims = (
        Claim(variant=ours.name, against=theirs.name, column=comparison.throughput.name, interval=change.interval),
    )
    text = f"{question}{first.label} serves more per GPU than {second.label}: {_difference(ours, change)}; {figures}."
    return Sentence(kind="speed", text=text, claims=claims)


def _placed(row: Row) -> str:
    return f"{row.label} on {count(row.gpus, 'GPU')}"


def _difference(ours: Row, change: Change) -> str:
    return f"{ours.label} {signed(change.percent)} % per GPU ({percent_range(change)} %)"


def _each(row: Row) -> str:
    """Return the throughput of one GPU and of all."""
    total = row.speed[THROUGHPUT.name]
    together = f", {total.measured.mean:,.0f} together" if isinstance(total, SpeedCell) and row.gpus > 1 else ""
    return f"{row.label} {mean_throughput(row):,.0f} tok/s per GPU{together}"


def _latency(ours: Row, theirs: Row) -> str:
    """Return the time per output token of both, which more GPUs shorten."""
    cells = [row.speed[TPOT.name] for row in (ours, theirs)]
    means = [cell.measured.mean for cell in cells if isinstance(cell, SpeedCell)]
    return f"; a token takes {means[0]:.1f} ms and {means[1]:.1f} ms" if len(means) == len(cells) else ""
