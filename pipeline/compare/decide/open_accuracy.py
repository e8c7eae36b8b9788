"""Open questions about a variant's accuracy, in words: the items needed, tasks that cannot tell, cut answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.compare.comparison import Row
from pipeline.compare.decide.constraints import Candidate, Constraints, cut_text
from pipeline.compare.decide.known_divergences import divergence_text
from pipeline.compare.decide.losses import mean_loss_at, scored, verdict_at
from pipeline.compare.statements import listing
from pipeline.compare.stats.noninferiority import LossVerdict, MeanLoss, points

LOSS = "max_loss_points."


def blind_tasks(rows: Iterable[Row]) -> list[str]:
    """Return the tasks that cannot show a loss, since BF16 itself is near chance."""
    return list(
        dict.fromkeys(
            task
            for row in rows
            for task, cell in scored(row).items()
            if isinstance(cell.loss, LossVerdict) and cell.loss.blind
        )
    )


def needs(row: Row, candidate: Candidate, constraints: Constraints) -> str:
    """Return what would decide a variant's accuracy, as clauses; empty if nothing about it is open."""
    return "; ".join(_clauses(row, candidate, constraints))


def _clauses(row: Row, candidate: Candidate, constraints: Constraints, *, name_blind: bool = True) -> Iterable[str]:
    cells, near_chance = scored(row), blind_tasks([row])
    tasks = [c.constraint.removeprefix(LOSS) for c in candidate.open if c.constraint.startswith(LOSS)]
    items, unscored = [], []
    for task in tasks:
        loss = verdict_at(cells[task], constraints.loss_limits.get(task)) if task in cells else None
        if loss is None:
            unscored.append(task)
        elif not loss.blind and loss.items is not None:
            items.append(loss.items.text(f"items of {task}"))
    if items:
        yield f"needs {listing(items)}"
    if unscored:
        yield f"{listing(unscored)} must be scored on the same items as BF16"
    if name_blind and (blind := [task for task in tasks if task in near_chance]):
        yield f"{listing(blind)} cannot tell, since BF16 itself is near chance there"
    mean = mean_loss_at(row, constraints.loss_limits)
    if not items and isinstance(mean, MeanLoss) and not mean.is_within:
        yield f"a mean loss of {points(mean.margin)} over all tasks is not ruled out"
    for task, cell in cells.items():
        if cell.cut is not None and cell.cut.is_more:
            yield cut_text(row, task, cell.cut).removeprefix(f"{row.label} ")


def is_unclear(row: Row) -> bool:
    """Return True if tasks cannot tell, or its answers run on: then its divergence is the better evidence."""
    return bool(blind_tasks([row])) or any(cell.cut is not None and cell.cut.is_more for cell in scored(row).values())


def divergences(rows: Sequence[Row]) -> str:
    """Return the divergence of variants whose tasks cannot tell, beside those known for their formats."""
    found = [text for row in rows if is_unclear(row) and (text := divergence_text(row))]
    if not found:
        return ""
    return f" KL from BF16 in 10⁻³ nats per token: {'; '.join(found)}."


def accuracy_summary(rows: Sequence[Row], candidates: dict[str, Candidate], constraints: Constraints) -> str:
    """Return what is known of the accuracy of variants without a speed figure."""
    text = ""
    if blind := blind_tasks(rows):
        text += f" {listing(blind)} cannot tell whether accuracy is kept: BF16 itself is near chance there."
    costly = [row.label for row in rows if candidates[row.name].standing == "excluded"]
    if costly and constraints.is_empty:
        text += f" Worse than BF16 on at least one task: {listing(costly)}."
    lines = [
        f"{row.label} ({clauses})"
        for row in rows
        if candidates[row.name].standing == "open"
        and (clauses := "; ".join(_clauses(row, candidates[row.name], constraints, name_blind=False)))
    ]
    if lines:
        text += f" Accuracy open: {', '.join(lines)}."
    return text + divergences(rows)
