"""Terms and methods of the report, and the setup of the run."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.stages.report.blocks import PAGE, Block, Columns, Facts, Heading, Prose, Section
from pipeline.stages.report.document import Report

SPEED = (
    "Throughput counts prompt and generated tokens per second under the load below. TTFT is the time until the "
    "first token of an answer, TPOT the time for each further one. Each is the mean over repeats of the whole "
    "benchmark against one running server, each repeat with its own requests. Differences are ratios of means, "
    "with an interval by the delta method on the logarithm and Welch's degrees of freedom. Few repeats make "
    "wide intervals. What differs between two starts of a server is not in them."
)
ACCURACY = (
    "The share of items answered correctly, with Wilson's interval. The difference from BF16 is taken item by "
    "item: only items that one of the two has right and the other has not count, which is why its interval is "
    "narrower than the two shares' own. It is the adjusted Wald interval of Bonett and Price, the p-value is "
    "McNemar's exact one. Within noise does not mean equal: the interval says how large a loss the items leave "
    "possible."
)
DIVERGENCE = (
    "Every variant reads the same held-out conversations, and at each token of the replies its distribution "
    "over the next one is compared with BF16's: the Kullback-Leibler divergence in nats per token. It sees "
    "changes that no few hundred answers show, and says nothing about whether they do harm. Only the likeliest "
    "tokens are known, the others count as one outcome, so the figure is a lower bound. Its interval is a "
    "bootstrap over whole conversations. BF16 is asked twice: what it differs from itself by, in the table "
    "below the accuracies, is the floor under which nothing can be told apart; it is zero where a server's sums "
    "do not depend on which requests share a batch."
)
LATENCIES = (
    "A percentile is uncertain in itself: each repeat's has a standard error from a bootstrap over its "
    "requests, and the interval over the repeats is never narrower than those errors alone would make it. Every "
    "load has repeats and intervals of its own, and is compared with BF16 under the same load."
)
FRONTIER = (
    "Off: another variant is clearly better on one axis and clearly no worse on the other. On: against each "
    "other variant it is clearly better on at least one. Undecided: neither was shown; more items or repeats "
    "are needed to decide. Clearly means that the 95 % interval of the difference says so, for each comparison "
    "by itself."
)
ROOFLINE = (
    "A step takes at least as long as its bytes need at the memory's bandwidth, and at least as long as its "
    "products need at the peak of the arithmetic. What kernels, launches and scheduling add is not in it, so "
    "predictions for other hardware are bounds and not measurements. Its error is stated against the study's "
    "tables."
)
EMULATED = (
    "Where a machine has no arithmetic for a format, the products are computed exactly in another one. The "
    "answers are those of the format; the speed is not, and says nothing about hardware that has it. Such "
    "figures are shown, never ranked."
)
LIMITS = (
    "Results hold for this model, machine, load and software. Another GPU, longer prompts or fewer requests in "
    "flight can turn the order around: formats that quantize weights only save memory traffic but pay for "
    "decompression, those that quantize activations too also compute faster where the hardware can."
)


def section(report: Report) -> Section:
    """The terms of what was measured, and the setup."""
    blocks: list[Block] = []
    if report.comparison.is_measured:
        terms = [[Heading(title), Prose(text)] for title, text in _terms(report)]
        blocks.append(Columns(terms, "prose", media=PAGE))
    return Section("reading", "How to read this", "Reading", [*blocks, Heading("Setup"), Facts(report.setup)])


def _terms(report: Report) -> Iterator[tuple[str, str]]:
    yield "Throughput, TTFT, TPOT", SPEED
    yield "Accuracy", ACCURACY
    yield "KL from BF16", DIVERGENCE
    yield "Intervals of the latencies", LATENCIES
    if report.frontiers:
        yield "On the frontier, off it, undecided", FRONTIER
    if report.rooflines:
        yield "The roofline", ROOFLINE
    yield "Emulated", EMULATED
    yield "What this does not say", LIMITS
