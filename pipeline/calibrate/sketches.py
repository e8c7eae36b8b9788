"""What remains of an activation: streaming statistics of fixed size, no activation kept.

A sketch counts every magnitude at the resolution of BF16 over 32 octaves, so for a BF16 model the counts are the exact
distribution; they are integers, so they do not depend on the order of addition and are the same bits in every run.
Beside them it keeps exact extremes: of each channel, and of each group (a tensor, or an attention head) in each sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

MANTISSA_BITS = 7
OCTAVES = 32
BINS = OCTAVES << MANTISSA_BITS
# The BF16 pattern of 2^-16: smaller magnitudes are counted as zero; those from 2^16 on in the last bin.
_FIRST = (127 - 16) << MANTISSA_BITS


def codes(values: torch.Tensor) -> torch.Tensor:
    """The bin of each value, int16, of the shape of `values`; its magnitude is rounded to the nearest BF16 number."""
    # abs() has made a copy, so that working in place changes no activation.
    return values.abs().to(torch.bfloat16).view(torch.int16).sub_(_FIRST).clamp_(0, BINS - 1)


def magnitudes() -> torch.Tensor:
    """The BF16 number that each bin counts, float64, of shape (BINS,); zero for the first."""
    patterns = torch.arange(BINS, dtype=torch.int32).add(_FIRST).to(torch.int16)
    values = patterns.view(torch.bfloat16).double()
    values[0] = 0
    return values


def edges() -> torch.Tensor:
    """Where the bins meet, float64, of shape (BINS + 1,): halfway between neighbouring BF16 numbers."""
    values = magnitudes()
    middle = (values[1:] + values[:-1]) / 2
    return torch.cat([values.new_zeros(1), middle, values[-1:] + (values[-1:] - middle[-1:])])


@dataclass
class Sketch:
    """Statistics of one observed tensor.

    Attributes:
        groups: what gets a range of its own: 1 for a whole tensor, the number of heads for keys and values.
        averaging_constant: weight of a new sample in the moving averages.
        histogram_tokens: tokens of a sample that are counted, evenly spaced; None for all. Extremes see every token.
        snapshots_at: numbers of samples after which the counts so far are set aside.
        histogram: int64, (groups, BINS).
        snapshots: int64, (BINS,) each: all groups together.
    """

    groups: int = 1
    averaging_constant: float = 0.01
    histogram_tokens: int | None = None
    snapshots_at: frozenset[int] = frozenset()
    histogram: torch.Tensor | None = None
    snapshots: dict[int, torch.Tensor] = field(default_factory=dict)
    # Minima are kept with their sign turned, so that one maximum serves both: (2, channels), and (2, groups) a sample.
    _current: torch.Tensor | None = None
    _range: torch.Tensor | None = None
    _average: torch.Tensor | None = None
    _extremes: list[torch.Tensor] = field(default_factory=list)

    def update(self, values: torch.Tensor) -> None:
        """Takes in one tensor of the current sample, of shape (..., channels): every leading index is a token."""
        tokens = values.detach().reshape(-1, values.shape[-1])
        if not tokens.shape[0]:
            return
        # amin and amax propagate NaN, so a bad activation stays visible until the sample is committed.
        seen = torch.stack([tokens.amin(0).neg_(), tokens.amax(0)])
        self._current = seen if self._current is None else torch.maximum(self._current, seen)
        stride = 1 if self.histogram_tokens is None else -(-tokens.shape[0] // self.histogram_tokens)
        self._count(tokens[::stride])

    def _count(self, tokens: torch.Tensor) -> None:
        found = codes(tokens)
        if self.groups > 1:
            offsets = torch.arange(self.groups, dtype=torch.int32, device=found.device) * BINS
            found = found.view(tokens.shape[0], self.groups, -1) + offsets[:, None]
        counts = torch.bincount(found.flatten(), minlength=self.groups * BINS).view(self.groups, BINS)
        self.histogram = counts if self.histogram is None else self.histogram.add_(counts)

    def commit(self) -> torch.Tensor | None:
        """Ends the current sample; its extremes, of shape (2, groups), or None where nothing came in."""
        current, self._current = self._current, None
        if current is None:
            return None
        current = current.float()
        if self._range is None or self._average is None:
            self._range, self._average = current.clone(), current.clone()
        else:
            torch.maximum(self._range, current, out=self._range)
            self._average.lerp_(current, self.averaging_constant)
        extreme = current.view(2, self.groups, -1).amax(2)
        self._extremes.append(extreme)
        if len(self._extremes) in self.snapshots_at and self.histogram is not None:
            self.snapshots[len(self._extremes)] = self.histogram.sum(0)
        return extreme

    @property
    def samples(self) -> int:
        """Samples committed."""
        return len(self._extremes)

    @property
    def extremes(self) -> torch.Tensor:
        """Minimum and maximum of each sample and group, float32, (samples, groups, 2)."""
        return _signed(torch.stack(self._extremes, dim=1))

    @property
    def channel_range(self) -> torch.Tensor:
        """Minimum and maximum of each channel, float32, (channels, 2)."""
        return _signed(self._range)

    @property
    def channel_average(self) -> torch.Tensor:
        """Moving averages of each channel's minimum and maximum in each sample, float32, (channels, 2)."""
        return _signed(self._average)


def _signed(pair: torch.Tensor | None) -> torch.Tensor:
    """From negated minima and maxima, stacked in front, to minima and maxima as the last dimension."""
    if pair is None:
        raise ValueError("nothing was observed")
    return torch.stack([-pair[0], pair[1]], dim=-1)
