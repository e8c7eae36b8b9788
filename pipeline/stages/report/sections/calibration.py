"""Calibrations: the data set and its card, the observed ranges, and their convergence."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.results.calibration import EXPERTS_SHOWN, Overlap
from pipeline.stages.report.blocks import (
    MARKDOWN,
    PAGE,
    Block,
    Details,
    Facts,
    Heading,
    Point,
    Points,
    Prose,
    Section,
    Table,
    lead,
)
from pipeline.stages.report.document import Calibration, CalibrationFindings, Report, TechniqueFinding
from pipeline.stages.report.number_format import figure
from pipeline.stages.report.sections.activation_ranges import clip_table, range_blocks
from pipeline.stages.report.sections.convergence import settling_blocks, stability_table
from pipeline.stages.report.sections.conversation_lengths import length_blocks
from pipeline.stages.report.sections.outliers import outlier_blocks

NAMED = 3
USERS = "Used by"


def section(report: Report) -> Section | None:
    """Return each calibration used by the rows."""
    if not report.calibrations:
        return None
    blocks: list[Block] = []
    for index, calibration in enumerate(report.calibrations):
        if len(report.calibrations) > 1:
            blocks.append(Heading(users(calibration), style="which"))
        blocks.append(Prose(headline(calibration), media=MARKDOWN))
        if isinstance(seen := calibration.seen, CalibrationFindings):
            blocks += _blocks(calibration, seen, index)
        else:
            blocks.append(Prose(f"n/a: {seen.reason}.", "empty", media=PAGE))
    return Section("calibration", "Calibration data and ranges", "Calibration", blocks, is_expert=True)


def _blocks(calibration: Calibration, seen: CalibrationFindings, index: int) -> Iterator[Block]:
    """Yield one calibration; its index makes the names of its charts unique."""
    yield lead(
        f"The BF16 model read {seen.conversations:,} conversations; these are the magnitudes at the inputs of its "
        "linear layers and in its keys and values. A range is stable if further samples change its clip point by less "
        f"than {percent(seen.tolerance)}."
    )
    yield Points([_point(finding) for finding in seen.techniques], "findings")
    yield Heading(f"The calibration set: {seen.card.name}")
    yield Facts(facts(calibration, seen), "set")
    yield source_table(seen)
    if seen.card.overlap:
        yield Heading("Overlap with the evaluation sets", media=PAGE)
        yield overlap_table(seen)
    if seen.experts:
        yield Heading("Expert coverage")
        yield lead(EXPERTS_SHOWN)
        yield expert_table(seen)
    yield from length_blocks(seen.card.lengths, f"lengths-{index}")
    yield from range_blocks(seen, f"ranges-{index}")
    yield from outlier_blocks(seen, f"outliers-{index}")
    yield from settling_blocks(seen, f"settling-{index}")
    count = f"All {seen.site_count} sites"
    if seen.site_count > len(seen.sites):
        count = f"The {len(seen.sites)} of {seen.site_count:,} sites with the largest outliers"
    clips = clip_table(seen, "Ranges and clip points of the sites")
    yield Details(f"{count}: ranges and clip points", [clips], media=PAGE)
    samples = "Samples after which the range of each site was stable"
    yield Details(samples, [stability_table(seen)], media=PAGE)


def _point(finding: TechniqueFinding) -> Point:
    used = f" Used by {', '.join(finding.used_by)}." if finding.used_by else ""
    moving = moving_sites(finding)
    more = f"Also not stable: {moving}." if moving else ""
    return Point(finding.technique, [f"{finding.text}.{used}"], "in use" if finding.used_by else "", more)


def verdict_of(finding: TechniqueFinding) -> str:
    """Return a technique with the verdict on its ranges."""
    return f"{finding.technique}{' ' if finding.stable_after is not None else ': '}{finding.text}"


def headline(calibration: Calibration) -> str:
    """Return one line: the data set, and the verdict on the techniques in use, else on all."""
    seen = calibration.seen
    if not isinstance(seen, CalibrationFindings):
        return f"calibration: n/a: {seen.reason}"
    findings = [finding for finding in seen.techniques if finding.used_by]
    if findings:
        verdicts = "; ".join(verdict_of(finding) for finding in findings)
    else:
        settled = [f"{f.technique} after {f.stable_after}" for f in seen.techniques if f.stable_after is not None]
        moving = [f.technique for f in seen.techniques if f.stable_after is None]
        parts = [f"stable to {percent(seen.tolerance)}: {', '.join(settled)} samples" if settled else ""]
        parts.append(f"not stable: {', '.join(moving)}" if moving else "")
        verdicts = "; ".join(part for part in parts if part)
    return f"calibration {seen.card.name}: {seen.conversations:,} conversations, {seen.tokens:,} tokens; {verdicts}"


def moving_sites(finding: TechniqueFinding) -> str:
    """Return the first few sites with unstable ranges, except those named in the verdict."""
    others = [name for name in finding.moving if name not in finding.text]
    rest = len(others) - NAMED
    return ", ".join(others[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def users(calibration: Calibration) -> str:
    """Return the rows that use it, each with its technique."""
    labels = [
        f"{use.label} ({use.technique or 'tokens only'}{f' {use.setting}' if use.setting else ''})"
        for use in calibration.used_by
    ]
    return ", ".join(labels) or "no variant shown"


def facts(calibration: Calibration, seen: CalibrationFindings) -> dict[str, str]:
    """Return the card of the data set, without its sources and overlaps."""
    card = seen.card
    template = card.template
    thinking = {None: "the template's default", True: "on", False: "off"}[template.enable_thinking]
    lengths = card.lengths
    found = {
        USERS: users(calibration),
        "Conversations": f"{seen.conversations:,}",
        "Tokens": f"{card.tokens:,}; {lengths.min:,} to {lengths.max:,} per conversation, "
        f"median {figure(lengths.median)}, mean {figure(lengths.mean)}",
        "Precision of forward passes": seen.dtype,
        "Chat template": (f"applied, sha256 {template.sha256}" if template.sha256 else "applied")
        if template.applied
        else "not applied",
    }
    if template.applied:
        found["Thinking"] = thinking
    if card.languages:
        found["Languages"] = ", ".join(
            f"{'undetermined' if name == '?' else name} {percent(share)}"
            for name, share in sorted(card.languages.items(), key=lambda item: -item[1])
        )
    if card.counts:
        found["Skipped or repaired"] = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in card.counts.items())
    return found


def source_table(seen: CalibrationFindings) -> Table:
    """Return the sources of the conversations."""
    rows = [
        (each.source, each.identity, f"{each.weight:g}", f"{each.read:,}", f"{each.taken:,}")
        for each in seen.card.sources
    ]
    head = ("Source", "Identity", "Weight", "Read", "Taken")
    return Table(head, rows, "Sources of the calibration set", "left")


def overlap_table(seen: CalibrationFindings) -> Table:
    """Return the overlap of the data set with each evaluation."""
    rows = [(each.evaluation, each.task, overlap_text(each)) for each in seen.card.overlap]
    head = ("Evaluation", "Task", "Items that share an n-gram with the set")
    return Table(head, rows, "Overlap of the calibration set with the evaluation sets", "left")


def expert_table(seen: CalibrationFindings) -> Table:
    """Return the tokens that the experts of each layer were sent."""
    rows = [
        (
            "n/a" if each.layer is None else str(each.layer),
            f"{len(each.tokens):,}",
            f"{min(each.tokens):,}",
            figure(each.median),
            f"{max(each.tokens):,}",
            each.unrouted_text,
        )
        for each in seen.experts
    ]
    head = ("Layer", "Experts", "Fewest tokens", "Median", "Most", "Experts without tokens")
    return Table(head, rows, "Calibration tokens that the router sent to the experts of each layer")


def overlap_text(overlap: Overlap) -> str:
    """Return the number of overlapping items of an evaluation."""
    if overlap.overlapping is None or overlap.items is None:
        return f"n/a: {overlap.reason or 'not recorded'}"
    share = "" if overlap.share is None else f" ({percent(overlap.share)})"
    ngrams = f", {overlap.ngram}-grams of words" if overlap.ngram else ""
    return f"{overlap.overlapping:,} of {overlap.items:,}{share}{ngrams}"


def percent(share: float) -> str:
    """Format a share in percent, with three significant digits."""
    return f"{100 * share:.3g} %"
