"""The setup of the measurements, and the command that serves each format."""

from __future__ import annotations

from pipeline.stages.report.blocks import PAGE, Block, Copy, Facts, Heading, Section, lead
from pipeline.stages.report.document import Report


def section(report: Report) -> Section:
    """Return the setup, then a command for each variant whose checkpoint can be served from here."""
    blocks: list[Block] = [Facts(report.setup)]
    if report.serve:
        labels = {row.name: row.label for row in report.comparison.rows}
        blocks += [
            Heading("Serve it", media=PAGE),
            lead("Only the arguments that a deployment needs; those of the measurement are in its card."),
            *(Copy(labels.get(name, name), command, media=PAGE) for name, command in report.serve.items()),
        ]
    return Section("run", "Setup and commands", "Run it", blocks)
