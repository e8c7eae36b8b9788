"""KL divergences from the unquantized model that are known for a number format, to set a measured one beside.

They are not limits: the divergence of one format differs by model, text and rounding algorithm. Small models lose more.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.compare.comparison import Row
from pipeline.compare.stats.kl_divergence import DivergenceCell


class KnownDivergence(NamedTuple):
    """One figure in nats per token, and its model and source."""

    kl: float
    of: str


# llama.cpp, tools/perplexity/README.md, "LLaMA 3 8b Scoreboard" (revision f364eb6f, Wikitext-2, without importance
# matrix); docs/results/smollm2_h200/report.json. Q4_0 rounds to 4 bits in groups of 32, as W4A16 does in larger groups.
LLAMA = "Llama 3 8B, llama.cpp"
SMOLLM2 = "SmolLM2-135M, docs/results"
KNOWN: dict[str, tuple[KnownDivergence, ...]] = {
    "Q8_0": (KnownDivergence(0.001355, LLAMA),),
    "Q4_K_M": (KnownDivergence(0.031273, LLAMA),),
    # Rounded to nearest; by GPTQ 0.267.
    "W4A16": (KnownDivergence(0.071940, f"{LLAMA}'s Q4_0"), KnownDivergence(0.367, SMOLLM2)),
    "W4A16_ASYM": (KnownDivergence(0.167, f"{SMOLLM2}, AWQ"),),
    "W8A8": (KnownDivergence(0.0316, f"{SMOLLM2}, GPTQ"),),
    "FP8": (KnownDivergence(0.0390, SMOLLM2),),
    "FP8_DYNAMIC": (KnownDivergence(0.0309, SMOLLM2),),
}


def divergence_text(row: Row) -> str:
    """Describe a variant's divergence beside those known for its format; empty if it was not measured."""
    cell = row.divergence
    if not isinstance(cell, DivergenceCell):
        return ""
    known = ", ".join(f"{1000 * each.kl:.3g} ({each.of})" for each in KNOWN.get(row.scheme, ()))
    return f"{row.label} {1000 * cell.kl.value:.3g} (known for this format: {known or 'n/a'})"
