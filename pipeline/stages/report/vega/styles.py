"""Styles of series: colour with shape or dash, never colour alone.

Colours are variables of the page's style, with tested contrast; the palette is distinguishable for colour-blind readers
(M. Okabe, K. Ito, Color Universal Design, 2008), darkened for text-like marks on white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.results.records import Family
from pipeline.results.text import capitalized

FAMILY_COLOURS: Mapping[Family, str] = {
    "baseline": "var(--c-baseline)",
    "weights and activations": "var(--c-both)",
    "weights only": "var(--c-weights)",
    "KV cache": "var(--c-kv)",
    "other": "var(--c-other)",
}
FAMILY_SHAPES: Mapping[Family, str] = {
    "baseline": "diamond",
    "weights and activations": "circle",
    "weights only": "triangle-up",
    "KV cache": "square",
    "other": "cross",
}
WORDS = {"triangle-up": "triangle", "triangle-down": "triangle pointing down"}
COLOURS = tuple(f"var(--s-{index})" for index in range(1, 9))
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "circle", "square")
DASHES = ("1 0", "7 3", "2 2", "8 2 2 2", "4 4", "10 3 2 3 2 3", "1 3", "12 4")


@dataclass(frozen=True)
class Style:
    """The style of one series: a kind of site, a technique or a variant."""

    colour: str
    shape: str
    dash: str


BASELINE = Style("var(--c-baseline)", "diamond", "1 0")


def assign_styles(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for each name."""
    # When colours repeat, shapes and dashes differ.
    return {
        name: Style(COLOURS[i % 8], SHAPES[(i + 3 * (i // 8)) % 8], DASHES[(i + 3 * (i // 8)) % 8])
        for i, name in enumerate(names)
    }


def described(shapes: Mapping[str, str]) -> str:
    """Describe the shape of each name in words, for charts without a key."""
    marks = ", ".join(f"{name}: {WORDS.get(shape, shape)}" for name, shape in shapes.items())
    return f"{capitalized(marks)}."
