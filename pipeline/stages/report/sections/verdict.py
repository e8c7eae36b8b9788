"""The answer: the variant to deploy, its figures, and the statements that the answer rests on."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.compare.decide.objective import Objective, under
from pipeline.compare.decide.recommendation import Recommendation
from pipeline.compare.stats.accuracy import Mean
from pipeline.stages.report.blocks import (
    PAGE,
    TERMINAL,
    Block,
    Heading,
    Point,
    Points,
    Prose,
    Section,
    Table,
    Tile,
    Tiles,
)
from pipeline.stages.report.document import Report
from pipeline.stages.report.number_format import signed
from pipeline.stages.report.sections.results import Results

KINDS = {"speed": "Speed", "quality": "Accuracy", "size": "Size", "caveat": "Caveats", "scope": "Scope"}


def section(report: Report) -> Section:
    """Return the answer, then its figures and reasons, then each variant under the constraints."""
    chosen, verdict = report.recommendation, report.verdict
    blocks: list[Block] = [Prose((chosen or verdict).answer.text, "answer")]
    if chosen and report.comparison.is_measured:
        blocks.append(Prose(_objective(report, chosen), "source"))
    if tiles := list(_tiles(report)):
        blocks.append(Tiles(tiles, media=PAGE))
    statements = _statements(report)
    reasons = []
    if chosen and chosen.reasons:
        reasons.append(Point("Why", [sentence.text for sentence in chosen.reasons]))
    if chosen and chosen.settle:
        reasons.append(Point("Still open", chosen.open_points))
    blocks.append(Points([*reasons, *statements]))
    # The terminal shows only the measured statements; constraints are in the files.
    blocks += [Prose(verdict.answer.text, "answer", media=TERMINAL), Points(_in_order(report), media=TERMINAL)]
    if chosen and not chosen.constraints.is_empty:
        blocks += [Heading("Under your constraints", media=PAGE), constraint_table(chosen)]
    return Section("verdict", "Verdict", "Verdict", blocks)


def _objective(report: Report, chosen: Recommendation) -> str:
    """Name the objective, and the load that it is judged at."""
    objective = Objective(report.comparison, chosen.objective)
    at = f" {under(objective.load)}" if objective.load else ""
    return f"Objective: {objective.noun}{at} (report.objective={objective.name})."


def _statements(report: Report) -> list[Point]:
    """Return the verdict's statements, grouped by subject."""
    by_kind = {name: [p.text for p in report.verdict.points if p.kind == kind] for kind, name in KINDS.items()}
    return [Point(name, texts) for name, texts in by_kind.items() if texts]


def _in_order(report: Report) -> list[Point]:
    return [Point(KINDS[point.kind], [point.text]) for point in report.verdict.points]


def _tiles(report: Report) -> Iterator[Tile]:
    """Yield speed and size of the recommended variant, and the change of its accuracy."""
    results = Results.of(report.comparison)
    chosen = report.recommendation.recommended if report.recommendation else report.verdict.recommended
    index = next((i for i, row in enumerate(results.rows) if row.name == chosen), None)
    if index is None:
        return
    for column, cell in zip(results.columns, results.rows[index].cells, strict=True):
        if column.kind in ("speed", "size") and not cell.missing:
            value = f"{cell.value} {column.unit}"
            yield Tile(column.title, value, f"{cell.change}{cell.star}", cell.is_clear, cell.is_gain)
    row = report.comparison.rows[index]
    if isinstance(change := row.mean_change, Mean):
        around = change.interval
        interval_text = f"{signed(100 * around.low)} to {signed(100 * around.high)}" if around else ""
        yield Tile("Mean accuracy", f"{signed(100 * change.value)} points", interval_text, False, False)


def constraint_table(recommendation: Recommendation) -> Table:
    """Return each variant's status under each constraint."""
    names = list(dict.fromkeys(check.constraint for each in recommendation.candidates for check in each.checks))
    rows = []
    for candidate in recommendation.candidates:
        checks = {check.constraint: check for check in candidate.checks}
        cells = (f"{checks[name].status}: {checks[name].statement.text}" if name in checks else "" for name in names)
        rows.append((candidate.label, candidate.standing, *cells))
    head = ("Variant", "Standing", *(name.replace("_", " ") for name in names))
    return Table(head, rows, "Variants under the constraints", "left")
