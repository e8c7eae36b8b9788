"""The answer: what to deploy, its command and one table; below that, what the answer rests on."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.compare.decide.constraints import Candidate, ConstraintCheck
from pipeline.compare.decide.objective import Objective, under
from pipeline.compare.decide.recommendation import Recommendation
from pipeline.compare.statements import within_text
from pipeline.results.text import capitalized
from pipeline.stages.report.blocks import (
    EVERYWHERE,
    HERE,
    Block,
    Copy,
    Details,
    Heading,
    Point,
    Points,
    Prose,
    Section,
    Table,
)
from pipeline.stages.report.document import Report
from pipeline.stages.report.sections.summary import summary_table

KINDS = {"speed": "Speed", "quality": "Accuracy", "size": "Size", "caveat": "Caveats", "scope": "Scope"}
# Headings of the constraints, by their settings.
CONSTRAINTS = {
    "memory_gib": "memory",
    "hardware": "served there",
    "ttft_p99_ms": "p99 TTFT",
    "tpot_p99_ms": "p99 TPOT",
    "mean_loss": "mean loss",
    "measurement": "measurement",
}
STATUS = {"met": "✓ met", "broken": "✗ broken", "open": "? open"}


def section(report: Report) -> Section:
    """Return the decision with its command and the table of all formats, then reasons and constraints."""
    chosen, decision = report.recommendation, report.decision
    blocks: list[Block] = [
        Prose(decision.title, "answer", media=EVERYWHERE),
        Prose(decision.text, "reason", media=EVERYWHERE),
        *_commands(report),
        summary_table(report),
    ]
    reasons = [Point("Answer", [report.verdict.answer.text])]
    if chosen and report.comparison.is_measured:
        reasons.append(Point("Objective", [_objective(report, chosen)]))
    if chosen and chosen.reasons:
        reasons.append(Point("Why", [sentence.text for sentence in chosen.reasons]))
    if chosen and chosen.settle:
        reasons.append(Point("Still open", chosen.open_points))
    if chosen and not chosen.constraints.is_empty:
        blocks += [Heading("Under your constraints"), constraint_table(chosen), _statements_of(chosen)]
    blocks += [Heading("What this rests on"), Points([*reasons, *_statements(report)])]
    return Section("verdict", "Verdict", "Verdict", blocks)


def _commands(report: Report) -> Iterator[Block]:
    """Yield the command that serves what is recommended, and the one that decides what is open."""
    if command := report.serve.get(report.decision.variant or ""):
        yield Copy("Serve", command, media=HERE)
    if report.next_command:
        yield Copy("Next", report.next_command, media=EVERYWHERE)


def _objective(report: Report, chosen: Recommendation) -> str:
    """Name the objective, and the load that it is judged at."""
    objective = Objective(report.comparison, chosen.objective)
    at = f" {under(objective.load)}" if objective.load else ""
    return f"{capitalized(within_text(objective.noun))}{at} (report.objective={objective.name})."


def _statements(report: Report) -> list[Point]:
    """Return the verdict's statements, grouped by subject."""
    by_kind = {name: [p.text for p in report.verdict.points if p.kind == kind] for kind, name in KINDS.items()}
    return [Point(name, texts) for name, texts in by_kind.items() if texts]


def constraint_table(recommendation: Recommendation) -> Table:
    """Return each variant's status under each constraint, in a word or two."""
    names = list(dict.fromkeys(check.constraint for each in recommendation.candidates for check in each.checks))
    rows = []
    for candidate in recommendation.candidates:
        checks = {check.constraint: check for check in candidate.checks}
        cells = (STATUS[checks[name].status] if name in checks else "" for name in names)
        rows.append((candidate.label, candidate.standing, *cells))
    head = ("Format", "Standing", *(_heading(name, recommendation) for name in names))
    return Table(head, rows, "Formats under the constraints", "left")


def _heading(name: str, recommendation: Recommendation) -> str:
    """Return a constraint with its limit."""
    setting, _, task = name.partition(".")
    limits = recommendation.constraints
    if setting == "max_loss_points":
        limit = limits.max_loss_points.get(task)
        return f"{task} loss" if limit is None else f"{task} loss ≤ {limit:g}"
    if setting == "cut_answers":
        return f"{task} cut answers"
    limit = getattr(limits, setting, None)
    if setting == "hardware":
        return f"served on {limit}"
    unit = "GiB" if setting == "memory_gib" else "ms"
    title = CONSTRAINTS.get(setting, setting)
    return title if limit is None else f"{title} ≤ {limit:g} {unit}"


def _statements_of(recommendation: Recommendation) -> Details:
    """Return the sentence behind each status that is not met."""
    rows = [
        (candidate.label, STATUS[check.status], check.statement.text.removeprefix(f"{candidate.label}: "))
        for candidate, check in _in_order(recommendation)
    ]
    return Details("The reason for each status", [Table(("Format", "Status", "Why"), rows, "Reasons", "left")])


def _in_order(recommendation: Recommendation) -> Iterator[tuple[Candidate, ConstraintCheck]]:
    for candidate in recommendation.candidates:
        yield from ((candidate, check) for check in candidate.checks)
