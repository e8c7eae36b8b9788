"""Formatting of figures and settings as text.

Negative numbers have a minus sign (U+2212), thousands have commas, and zero has no sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.compare.stats.intervals import Interval
from pipeline.results.text import clean

MINUS = "−"


def number(value: float, digits: int) -> str:
    """Format a figure with that many decimals."""
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    """Format a difference with its sign; one that rounds to zero has none."""
    text = number(value, digits)
    return text if text.startswith(MINUS) or float(text.replace(",", "")) == 0 else f"+{text}"


def decimals(values: Iterable[float]) -> int:
    """Return the number of decimals that gives a column's figures about four digits."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return 1
    return min(4, max(0, 3 - math.floor(math.log10(largest))))


def size_unit(sizes: Iterable[int]) -> tuple[str, float]:
    """Return the unit for a column of file sizes, and its number of bytes."""
    largest = max(sizes, default=0)
    return ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6) if largest >= 1e5 else ("kB", 1e3)


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain(value: Any) -> str:
    """Format a setting as text."""
    if isinstance(value, dict):
        return ", ".join(f"{clean(name)} {plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else clean(value)


def figure(value: float) -> str:
    """Format a magnitude to about four digits; very small or large ones with a power of ten."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return number(value, min(decimals([value]), 0 if value == round(value) else 4))


def format_interval(interval: Interval | None, show: Callable[[float], str]) -> str:
    """Format an interval, each end by `show`."""
    return "n/a" if interval is None else f"{show(interval.low)} to {show(interval.high)}"
