"""The card of a calibration set: its provenance, so that a checkpoint's scales can be traced to their data."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.results.calibration import EXPERTS_SHOWN, ExpertLayer, Lengths, Overlap, SetCard, SetSource, Template
from pipeline.results.text import in_markdown
from pipeline.stages.calibrate.contamination import words
from pipeline.stages.calibrate.conversations import Drawn, lengths_of
from pipeline.tasks.chat_templates import ChatTemplate

if TYPE_CHECKING:
    from pipeline.job import Job

LENGTH_BINS = 24
# Shorter texts say too little about their language.
FEWEST_WORDS = 3


def card_of(job: Job, drawn: Sequence[Drawn], tokenizer: Any, overlap: Sequence[Overlap]) -> SetCard:
    """Return the card as data."""
    settings = job.settings.calibration
    lengths = lengths_of(drawn)
    counts, edges = np.histogram(lengths, bins=min(LENGTH_BINS, max(1, max(lengths) - min(lengths))))
    template = ChatTemplate(tokenizer)
    return SetCard(
        name=settings.name,
        sources=tuple(_source(job, each) for each in drawn),
        template=Template(
            applied=settings.apply_chat_template,
            sha256=hashlib.sha256(template.source.encode()).hexdigest() if template.source else None,
            enable_thinking=settings.enable_thinking,
            date=template.date if settings.apply_chat_template else None,
        ),
        counts=dict(sum((each.counts for each in drawn), Counter[str]()).most_common()),
        tokens=sum(lengths),
        lengths=Lengths(
            min=min(lengths),
            median=float(np.median(lengths)),
            mean=float(np.mean(lengths)),
            max=max(lengths),
            edges=edges.tolist(),
            counts=counts.tolist(),
        ),
        languages=languages([text for each in drawn for text in each.texts]),
        overlap=tuple(overlap),
    )


def _source(job: Job, drawn: Drawn) -> SetSource:
    dataset = job.settings.calibration.sets[drawn.setting.removeprefix("calibration.")]
    if dataset.path is not None:
        source, identity = dataset.path.name, f"sha256 {job.digests.of(dataset.path)}"
    else:
        part = dataset.hub_file or "/".join(filter(None, (dataset.subset, dataset.split)))
        source, identity = f"{dataset.hub_id} ({part})", f"revision {dataset.revision or 'not pinned'}"
    return SetSource(
        source=source, identity=identity, weight=dataset.weight, read=drawn.read, taken=len(drawn.sequences)
    )


def languages(texts: Sequence[str]) -> dict[str, float]:
    """Return the share of texts in each language (ISO 639-1, by py3langid), most frequent first; `?` if too short."""
    from py3langid import classify

    found = Counter(classify(text)[0] if len(words(text)) >= FEWEST_WORDS else "?" for text in texts)
    return {language: count / len(texts) for language, count in found.most_common()}


def to_markdown(card: SetCard, experts: Sequence[ExpertLayer] = ()) -> str:
    """Return the card as Markdown; of a mixture of experts with the tokens that each expert was sent."""
    template, lengths = card.template, card.lengths
    thinking = {None: "as the template does by itself", True: "on", False: "off"}[template.enable_thinking]
    lines = [
        f"# Calibration set: {in_markdown(card.name)}",
        "",
        "| source | identity | weight | rows | taken |",
        "|---|---|---|---|---|",
    ]
    named = ((in_markdown(each.source), in_markdown(each.identity), each) for each in card.sources)
    lines += [f"| {name} | {identity} | {s.weight:g} | {s.read} | {s.taken} |" for name, identity, s in named]
    dated = f", on {template.date}" if template.date else ""
    applied = f"applied (sha256 {template.sha256}), thinking {thinking}{dated}" if template.applied else "not applied"
    lines += ["", f"Chat template: {applied}."]
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in card.counts.items())
    lines += ["", f"Passed over or changed: {counts or 'nothing'}."]
    lines += [
        "",
        f"{card.tokens:,} tokens; {lengths.min} to {lengths.max} a conversation, median {lengths.median:g}.",
    ]
    mix = ", ".join(f"{name} {share:.1%}" for name, share in card.languages.items())
    lines += [
        "",
        f"Languages: {mix}.",
        "",
        "| evaluation | items | share a run of words with this set |",
        "|---|---|---|",
    ]
    for entry in card.overlap:
        seen = entry.reason or f"{entry.overlapping} ({entry.share:.2%}, runs of {entry.ngram} words)"
        items = "n/a" if entry.items is None else entry.items
        lines.append(f"| {in_markdown(f'{entry.evaluation} ({entry.task})')} | {items} | {in_markdown(seen)} |")
    return "\n".join([*lines, *_coverage(experts)]) + "\n"


def _coverage(experts: Sequence[ExpertLayer]) -> Iterator[str]:
    """Yield the lines on the experts of each layer."""
    if not experts:
        return
    yield from ("", "## Expert coverage", "", EXPERTS_SHOWN, "")
    yield "| layer | experts | fewest tokens | median | most | experts without tokens |"
    yield "|---|---|---|---|---|---|"
    for each in experts:
        figures = f"{min(each.tokens):,} | {each.median:,.0f} | {max(each.tokens):,}"
        yield f"| {each.layer} | {len(each.tokens)} | {figures} | {each.unrouted_text} |"
