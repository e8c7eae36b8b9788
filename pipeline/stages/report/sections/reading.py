"""Terms and methods of the report."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.compare.words import MEANINGS
from pipeline.stages.report.blocks import PAGE, Block, Columns, Facts, Heading, Prose, Section
from pipeline.stages.report.document import Report

SPEED = (
    "Throughput counts prompt and generated tokens per second under the load below. TTFT is the time until the "
    "first token of an answer, TPOT the time for each further one. Each is the mean over repeats of the whole "
    "benchmark, each repeat with its own requests; its interval is on the logarithmic scale. Differences from BF16 are "
    "those of the model log(figure) = variant + seed + block: repeats with the same prompts are compared with each "
    "other, the noise is estimated from all variants together, and the intervals hold for all of them at once "
    "(Dunnett). Where each server was started in several blocks, the noise is that between starts; where it was "
    "started once, that noise is not known, and every interval is widened by report.tolerance_percent."
)
ACCURACY = (
    "The share of items answered correctly, with Wilson's interval. The difference from BF16 is computed item by "
    "item: only items that exactly one of the two answers correctly count, so its interval is narrower than those "
    "of the two shares. It is the adjusted Wald interval of Bonett and Price, the p-value is McNemar's exact one. "
    "One criterion decides on a loss everywhere in this report: no worse, if a loss of the task's margin is ruled out "
    "by Tango's score test at 5 % one-sided; worse, if a loss of more than the margin is shown at 5 % after Holm's "
    "correction for the table; cannot tell otherwise. No worse holds for each variant by itself."
)
DIVERGENCE = (
    "Every variant reads the same held-out conversations, and at each token of the replies its next-token "
    "distribution is compared with BF16's: the Kullback-Leibler divergence in nats per token. It detects changes "
    "too small for a few hundred answers, and does not tell if they are harmful. Only the likeliest tokens are "
    "known, the others count as one outcome, so the figure is a lower bound, and a close one if these tokens hold "
    "nearly all probability. Its interval is a studentized bootstrap over whole conversations; with 24 of them a "
    "nominal 95 % covers 90 to 95 %. BF16 is measured twice: its divergence from itself, in the table below the "
    "accuracies, is the noise floor; it is zero if a server's results do not depend on which requests share a batch."
)
LATENCIES = (
    "The percentile of each repeat has a standard error from a bootstrap over its requests, and the interval over "
    "the repeats is never narrower than those errors imply. Every load has its own repeats and intervals, and is "
    "compared with BF16 under the same load."
)
FRONTIER = (
    "Off: another variant is clearly better on one axis and clearly no worse on the other. On: against each "
    "other variant it is clearly better on at least one. Cannot tell: neither was shown; more items or repeats "
    "are needed to decide. Clearly better is corrected for all pairs and axes: of identical variants, any is off in at "
    "most 5 % of reports. No worse in accuracy is the criterion above, for each pair and corrected for the others that "
    "could put a variant off."
)
ROOFLINE = (
    "A step takes at least as long as its bytes need at the memory bandwidth, and at least as long as its "
    "products need at peak arithmetic throughput. The overhead of kernels, launches and scheduling is not included. "
    "The times are lower bounds; the gain of one format over another is a ratio of two bounds, which is none: it ranks "
    "formats. Its error on the study's tables is shown beside that of predicting no gain at all."
)
EMULATED = (
    "If a machine has no arithmetic for a format, the products are computed exactly in another one. The accuracy is "
    "that of the format; a speed would not be, and is not measured."
)
LIMITS = (
    "Results hold for this model, machine, load and software. Another GPU, longer prompts or fewer requests in "
    "flight can reverse the order: formats that quantize only weights save memory traffic but need decompression; "
    "those that also quantize activations compute faster on hardware that supports it."
)


def section(report: Report) -> Section:
    """Return the words of the results, and their terms."""
    blocks: list[Block] = [Facts({str(word): meaning for word, meaning in MEANINGS.items()}, "words")]
    if report.comparison.is_measured:
        terms = [[Heading(title), Prose(text)] for title, text in _terms(report)]
        blocks.append(Columns(terms, "prose", media=PAGE))
    return Section("reading", "How to read this", "Reading", blocks, is_expert=True)


def _terms(report: Report) -> Iterator[tuple[str, str]]:
    yield "Throughput, TTFT, TPOT", SPEED
    yield "Accuracy", ACCURACY
    yield "KL from BF16", DIVERGENCE
    yield "Intervals of the latencies", LATENCIES
    if report.frontiers:
        yield "On the frontier, off it, cannot tell", FRONTIER
    if report.rooflines:
        yield "The roofline", ROOFLINE
    yield "Emulated", EMULATED
    yield "Limits of these results", LIMITS
