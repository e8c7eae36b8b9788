"""A card for each variant: recipe, checks, answers, artifacts and files."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.stages.report.blocks import (
    PAGE,
    Block,
    CheckOutcome,
    Code,
    Columns,
    Details,
    Facts,
    Heading,
    Outcomes,
    Prose,
    Section,
    Table,
    Tag,
    lead,
)
from pipeline.stages.report.document import Card, Report, Step
from pipeline.stages.report.number_format import duration

DEMO = "demo"


def section(report: Report) -> Section:
    """Return the recorded data of each variant."""
    cards = [
        Details(card.label, list(_inside(card, report.model)), "card", card.name, list(_tags(card)), media=PAGE)
        for card in report.cards
    ]
    words = "Recipe, checks, versions and files of each variant."
    return Section("variants", "The variants", "Variants", [lead(words), *cards], is_expert=True)


def _tags(card: Card) -> Iterator[Tag]:
    for step in card.steps:
        if step.status in ("failed", "not_applicable"):
            yield Tag(f"{step.stage}: {'n/a' if step.status == 'not_applicable' else 'failed'}", is_warning=True)
    if card.emulated:
        yield Tag("emulated")
    if card.checks:
        passed = sum(check.ok is True for check in card.checks)
        yield Tag(f"{passed} of {len(card.checks)} checks", is_warning=passed < len(card.checks))


def _inside(card: Card, model: str) -> Iterator[Block]:
    if card.failure:
        yield Code([card.failure], "failure")
    yield Columns(list(_columns(card)))
    if card.command:
        yield Heading("Server arguments")
        yield Code([card.command])
    if card.checks:
        yield Heading("Checks")
        yield Outcomes([CheckOutcome(check.name, check.ok, check.detail) for check in card.checks])
    if card.answers:
        yield Heading("Canary answers")
        if model == DEMO:
            yield Prose(
                "The demo model knows its own four tasks only: to other questions it babbles, in BF16 too.", "source"
            )
        yield from (Code([canary.prompt, canary.answer], "canary") for canary in card.answers)
    yield Heading("Artifacts")
    steps = [_step(step) for step in card.steps]
    head = ("Stage", "Status", "Key", "Started (UTC)", "Took")
    yield Table(head, steps, f"Artifacts of {card.label}", "left", ("", "", "code", "", ""))
    if card.files:
        yield Heading("Files of the checkpoint")
        files = [(file.name, f"{file.bytes:,}", file.sha256) for file in card.files]
        yield Table(("File", "Bytes", "SHA-256"), files, f"Files of {card.label}", "left", ("", "figure", "code"))


def _columns(card: Card) -> Iterator[list[Block]]:
    groups = {
        "Recipe": card.recipe,
        "Calibration": card.calibration,
        "Versions": card.versions,
        "Machine": card.machine,
    }
    for title, facts in groups.items():
        if facts or title == "Recipe":
            yield [Heading(title), Facts(facts)]
    served = {
        "kernels": ", ".join(card.kernels) or "none named in the log",
        "emulated": ", ".join(card.emulated) or "nothing",
        **({"log": card.log} if card.log else {}),
    }
    yield [Heading("Serving"), Facts({**card.serving, **served}, code=("log",))]


def _step(step: Step) -> tuple[str, ...]:
    status = step.status.replace("_", " ") + (f": {step.reason}" if step.reason else "")
    took = "" if step.seconds is None else duration(step.seconds)
    return (step.stage, status, step.key, step.started, took)
