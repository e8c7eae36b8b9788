"""A calibration as text: its verdicts in sentences, the card of its set, and the tables beneath its charts."""

from __future__ import annotations

from pipeline.results.calibration import Lengths, Overlap
from pipeline.stages.report.charts.calibration import drawn_ranges
from pipeline.stages.report.charts.outliers import outliers
from pipeline.stages.report.document import Calibration, Seen, TechniqueFinding
from pipeline.stages.report.number_format import figure, number
from pipeline.stages.report.tables.twins import Twin

NAMED = 3
USERS = "Used by"


def verdict_of(finding: TechniqueFinding) -> str:
    """A technique and what became of its ranges."""
    return f"{finding.technique}{' ' if finding.stable_after is not None else ': '}{finding.text}"


def headline(calibration: Calibration) -> str:
    """One line: the set, and the verdict on the techniques that rows rest on, else on all."""
    seen = calibration.seen
    if not isinstance(seen, Seen):
        return f"calibration: n/a: {seen.reason}"
    findings = [finding for finding in seen.techniques if finding.used_by]
    if findings:
        verdicts = "; ".join(verdict_of(finding) for finding in findings)
    else:
        settled = [f"{f.technique} after {f.stable_after}" for f in seen.techniques if f.stable_after is not None]
        moving = [f.technique for f in seen.techniques if f.stable_after is None]
        told = [f"stable to {percent(seen.tolerance)}: {', '.join(settled)} samples" if settled else ""]
        told.append(f"not stable: {', '.join(moving)}" if moving else "")
        verdicts = "; ".join(part for part in told if part)
    return f"calibration {seen.card.name}: {seen.conversations:,} conversations, {seen.tokens:,} tokens; {verdicts}"


def moving_sites(finding: TechniqueFinding) -> str:
    """The first few sites whose ranges had not settled, but for those that the verdict names itself."""
    others = [name for name in finding.moving if name not in finding.text]
    rest = len(others) - NAMED
    return ", ".join(others[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def users(calibration: Calibration) -> str:
    """The rows that rest on it, each with its technique."""
    told = [
        f"{use.label} ({use.technique or 'tokens only'}{f' {use.setting}' if use.setting else ''})"
        for use in calibration.used_by
    ]
    return ", ".join(told) or "no variant shown"


def facts(calibration: Calibration, seen: Seen) -> dict[str, str]:
    """The card of the set, but for its sources and overlaps."""
    card = seen.card
    template = card.template
    thinking = {None: "as the template does by itself", True: "on", False: "off"}[template.enable_thinking]
    lengths = card.lengths
    found = {
        USERS: users(calibration),
        "Conversations": f"{seen.conversations:,}",
        "Tokens": f"{card.tokens:,}; {lengths.min:,} to {lengths.max:,} a conversation, "
        f"median {figure(lengths.median)}, mean {figure(lengths.mean)}",
        "Forward passes in": seen.dtype,
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
        found["Left out or cut"] = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in card.counts.items())
    return found


def source_figures(seen: Seen) -> Twin:
    """Where the conversations came from."""
    rows = tuple(
        (each.source, each.identity, f"{each.weight:g}", f"{each.read:,}", f"{each.taken:,}")
        for each in seen.card.sources
    )
    return Twin(("Source", "Identity", "Weight", "Read", "Taken"), rows)


def overlap_figures(seen: Seen) -> Twin:
    """What the set shares with each evaluation."""
    rows = tuple((each.evaluation, each.task, overlap_text(each)) for each in seen.card.overlap)
    return Twin(("Evaluation", "Task", "Items that share a run of words with the set"), rows)


def overlap_text(overlap: Overlap) -> str:
    """How many items of an evaluation the set may have given away."""
    if overlap.overlapping is None or overlap.items is None:
        return f"n/a: {overlap.reason or 'not recorded'}"
    share = "" if overlap.share is None else f" ({percent(overlap.share)})"
    runs = f", runs of {overlap.ngram} words" if overlap.ngram else ""
    return f"{overlap.overlapping:,} of {overlap.items:,}{share}{runs}"


def range_figures(seen: Seen) -> Twin:
    """The largest magnitude by layer, a column for each kind."""
    items = drawn_ranges(seen)
    kinds = list(dict.fromkeys(item.kind for item in items))
    found = {(item.layer, item.kind): item.largest for item in items}
    rows = []
    for at in sorted({item.layer for item in items}):
        cells = (figure(found[at, kind]) if (at, kind) in found else "" for kind in kinds)
        rows.append((f"{at}", *cells))
    return Twin(("Layer", *kinds), tuple(rows))


def clip_figures(seen: Seen, names: set[str] | None = None) -> Twin:
    """What each site saw and where each technique clips it; of the sites of these names, or of all."""
    sites = [site for site in seen.sites if names is None or site.name in names]
    columns = _clip_columns(seen)
    rows = []
    for site in sites:
        channels = ", ".join(f"{each.channel}: {figure(each.absmax)}" for each in site.outlier_channels)
        clips = (
            figure(site.clip[form][technique]) if technique in site.clip.get(form, {}) else "n/a"
            for technique, form, _ in columns
        )
        ends = (figure(site.minimum), figure(site.maximum), figure(site.outlier_ratio))
        rows.append((site.name, site.kind, *ends, *clips, channels))
    heads = tuple(f"{technique}, {form}" if only else technique for technique, form, only in columns)
    return Twin(("Site", "Kind", "Minimum", "Maximum", "Outlier ratio", *heads, "Largest channels"), tuple(rows))


def _clip_columns(seen: Seen) -> list[tuple[str, str, bool]]:
    """Technique, format, and whether the format has to be said: one column where all formats clip alike."""
    formats = list(dict.fromkeys(form for site in seen.sites for form in site.clip))
    columns = []
    for finding in seen.techniques:
        name = finding.technique
        clips = [[site.clip.get(form, {}).get(name) for site in seen.sites] for form in formats]
        differ = any(each != clips[0] for each in clips)
        columns += [(name, form, differ) for form in (formats if differ else formats[:1])]
    return columns


def outlier_names(seen: Seen) -> set[str]:
    """The sites whose histograms are drawn."""
    return {item.site.name for item in outliers(seen)}


def histogram_figures(seen: Seen) -> list[tuple[str, Twin]]:
    """The bins of each histogram."""
    found = []
    for item in outliers(seen):
        edges, counts = item.histogram.edges, item.histogram.counts
        rows = [("zero, or less than below", f"{item.histogram.zeros:,}")]
        rows += [
            (f"{figure(low)} to {figure(high)}", f"{count:,}")
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
        ]
        found.append((item.site.name, Twin(("Magnitude", "Values"), tuple(rows))))
    return found


def settling_figures(seen: Seen) -> Twin:
    """The clip points in percent of the final ones."""
    rows = [
        (finding.technique, f"{p.samples:,}", *(number(100 * v, 2) for v in (p.median, p.low, p.high)), f"{p.sites:,}")
        for finding in seen.techniques
        for p in seen.convergence.get(finding.technique, ())
    ]
    return Twin(("Technique", "Samples", "Median (%)", "5th percentile", "95th percentile", "Sites"), tuple(rows))


def stability_figures(seen: Seen) -> Twin:
    """From how many samples on each site's range stays within the tolerance."""
    names = [finding.technique for finding in seen.techniques]
    rows = []
    for site in seen.sites:
        after = (site.stable_after.get(name) for name in names)
        rows.append((site.name, *("still moves" if count is None else f"{count:,}" for count in after)))
    return Twin(("Site", *names), tuple(rows))


def length_figures(lengths: Lengths) -> Twin:
    """The bins of the lengths."""
    bins = zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False)
    return Twin(("Tokens", "Conversations"), tuple((f"{figure(a)} to {figure(b)}", f"{n:,}") for a, b, n in bins))


def percent(share: float) -> str:
    """A share in percent, with as many decimals as it needs."""
    return f"{100 * share:.3g} %"
