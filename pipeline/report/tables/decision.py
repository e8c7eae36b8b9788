"""What the recommendation and the frontiers rest on, as text."""

from __future__ import annotations

from pipeline.compare.frontier import Frontier
from pipeline.compare.recommendation import Recommendation
from pipeline.report.tables.twins import Twin


def constraint_figures(recommendation: Recommendation) -> Twin:
    """Each variant under each constraint."""
    names = list(dict.fromkeys(check.constraint for each in recommendation.candidates for check in each.checks))
    rows = []
    for candidate in recommendation.candidates:
        checks = {check.constraint: check for check in candidate.checks}
        cells = (f"{checks[name].status}: {checks[name].statement.text}" if name in checks else "" for name in names)
        rows.append((candidate.label, candidate.standing, *cells))
    return Twin(("Variant", "Standing", *(name.replace("_", " ") for name in names)), tuple(rows))


def frontier_figures(frontier: Frontier) -> Twin:
    """Where each variant stands, and why."""
    rows: list[tuple[str, ...]] = [(place.label, place.standing, place.statement.text) for place in frontier.places]
    rows += [(name, "n/a", reason) for name, reason in frontier.absent.items()]
    return Twin(("Variant", "Standing", "Why"), tuple(rows))
