"""What the recommendation and the frontiers rest on, as text."""

from __future__ import annotations

from pipeline.compare.comparison import Comparison
from pipeline.compare.decide.frontier import Frontier
from pipeline.compare.decide.recommendation import Recommendation
from pipeline.compare.statements import within_text
from pipeline.stages.report.document import Report
from pipeline.stages.report.tables.twins import Twin


def constraint_figures(recommendation: Recommendation) -> Twin:
    """Each variant under each constraint."""
    names = list(dict.fromkeys(check.constraint for each in recommendation.candidates for check in each.checks))
    rows = []
    for candidate in recommendation.candidates:
        checks = {check.constraint: check for check in candidate.checks}
        cells = (f"{checks[name].status}: {checks[name].statement.text}" if name in checks else "" for name in names)
        rows.append((candidate.label, candidate.standing, *cells))
    return Twin(("Variant", "Standing", *(name.replace("_", " ") for name in names)), tuple(rows))


def standing_figures(report: Report) -> Twin:
    """Where each variant stands: accuracy against each cost."""
    names = [frontier.cost.title for frontier in report.frontiers]
    rows = []
    for row in report.comparison.rows:
        places = [{place.name: place.standing for place in frontier.places} for frontier in report.frontiers]
        rows.append((row.label, *(standings.get(row.name, "n/a") for standings in places)))
    return Twin(("Variant", *(f"Accuracy against {within_text(name)}" for name in names)), tuple(rows))


def frontier_figures(frontier: Frontier, comparison: Comparison) -> Twin:
    """Where each variant stands, and why."""
    labels = {row.name: row.label for row in comparison.rows}
    rows: list[tuple[str, ...]] = [(place.label, place.standing, place.statement.text) for place in frontier.places]
    rows += [(labels.get(name, name), "n/a", reason) for name, reason in frontier.absent.items()]
    return Twin(("Variant", "Standing", "Why"), tuple(rows))
