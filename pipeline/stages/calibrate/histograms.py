"""Streaming statistics of activations, of fixed size; no activation is kept.

A sketch counts every magnitude at the resolution of BF16 over 32 octaves, so for a BF16 model the counts are the exact
distribution; they are integers, so they do not depend on the order of addition and are the same bits in every run.
Beside them it keeps exact extremes: of each channel, and of each group (a tensor, or an attention head) in each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch

MANTISSA_BITS = 7
OCTAVES = 32
BINS = OCTAVES << MANTISSA_BITS
# The BF16 pattern of 2^-16: smaller magnitudes are counted as zero; those from 2^16 on in the last bin.
_FIRST = (127 - 16) << MANTISSA_BITS


def codes(values: torch.Tensor) -> torch.Tensor:
    """Return the bin of each value, int16, in the shape of `values`; magnitudes round to the nearest BF16 number."""
    return _patterns(values).sub_(_FIRST)


def _patterns(values: torch.Tensor) -> torch.Tensor:
    """Return the bits of the magnitudes as BF16, clamped to the counted range."""
    # abs() has made a copy, so that working in place changes no activation.
    return values.abs().to(torch.bfloat16).view(torch.int16).clamp_(_FIRST, _FIRST + BINS - 1)


def magnitudes() -> torch.Tensor:
    """Return the BF16 number that each bin counts, float64, of shape (BINS,); zero for the first."""
    patterns = torch.arange(BINS, dtype=torch.int32).add(_FIRST).to(torch.int16)
    values = patterns.view(torch.bfloat16).double()
    values[0] = 0
    return values


def edges() -> torch.Tensor:
    """Return the edges of the bins, float64, of shape (BINS + 1,): halfway between neighbouring BF16 numbers."""
    values = magnitudes()
    middle = (values[1:] + values[:-1]) / 2
    return torch.cat([values.new_zeros(1), middle, values[-1:] + (values[-1:] - middle[-1:])])


@dataclass
class Sketch:
    """Statistics of one observed tensor.

    Attributes:
        groups: number of separate ranges: 1 for a whole tensor, the number of heads for keys and values.
        averaging_constant: weight of a new sample in the moving averages.
        histogram_tokens: tokens of a sample that are counted, evenly spaced, from another first one in each
            sample; None for all. Extremes see every token.
        snapshots_at: numbers of samples after which the counts are copied to `snapshots`.
        histogram: int64, (groups, BINS).
        snapshots: int64, (BINS,) each: all groups together.
    """

    groups: int = 1
    averaging_constant: float = 0.01
    histogram_tokens: int | None = None
    snapshots_at: frozenset[int] = frozenset()
    histogram: torch.Tensor | None = None
    snapshots: dict[int, torch.Tensor] = field(default_factory=dict)
    # Minima are kept with their sign turned, so that one maximum serves both. The current samples have (samples, 2,
    # channels), a finished one (2, groups).
    _current: torch.Tensor | None = None
    _range: torch.Tensor | None = None
    _average: torch.Tensor | None = None
    _extremes: list[torch.Tensor] = field(default_factory=list)
    _lengths: list[int] = field(default_factory=list)

    def update(self, *samples: torch.Tensor) -> None:
        """Add tensors of the current samples, in their order.

        Args:
            samples: each of shape (..., channels): every leading index is a token. Samples of a batch come together.
        """
        tokens = [values.detach().reshape(-1, values.shape[-1]) for values in samples]
        if not tokens[0].shape[0]:
            return
        # Extremes propagate NaN, so a bad activation stays visible until the sample is committed.
        seen = torch.stack([torch.stack([low.neg_(), high]) for low, high in map(_extremes, tokens)])
        self._current = seen if self._current is None else torch.maximum(self._current, seen)
        counted = [self._spaced(part, self.samples + place) for place, part in enumerate(tokens)]
        self._count(counted[0] if len(counted) == 1 else torch.cat(counted))

    def _spaced(self, tokens: torch.Tensor, sample: int) -> torch.Tensor:
        """Return the tokens of a sample that are counted."""
        stride = 1 if self.histogram_tokens is None else -(-tokens.shape[0] // self.histogram_tokens)
        # From another token in each sample: the first token of a text has the largest values of all.
        return tokens[sample % stride :: stride]

    def _count(self, tokens: torch.Tensor) -> None:
        if self.groups > 1:
            tokens = tokens.view(tokens.shape[0], self.groups, -1)
        counts = _counts(_patterns(tokens), self.groups)
        self.histogram = counts.long() if self.histogram is None else self.histogram.add_(counts)

    def commit(self) -> torch.Tensor | None:
        """End the current samples; see `commit_all`."""
        return commit_all([self])[0]

    def _take(self) -> torch.Tensor:
        """Return the current samples' negated minima and their maxima, flat, and reset them."""
        assert self._current is not None
        current, self._current = self._current, None
        ended, _, channels = current.shape
        self._lengths = [channels // self.groups] * (2 * self.groups * ended)
        return current.flatten()

    def _end(self, maxima: torch.Tensor | None) -> torch.Tensor | None:
        if maxima is None:
            return None
        extremes = maxima.view(-1, 2, self.groups)
        self._extremes += extremes.unbind()
        if len(self._extremes) in self.snapshots_at and self.histogram is not None:
            self.snapshots[len(self._extremes)] = self.histogram.sum(0)
        return extremes

    def settle(self) -> None:
        """Move everything to host memory; a later sample would have to be there, too."""
        if self.histogram is not None:
            self.histogram = self.histogram.cpu()
        self.snapshots = {number: counts.cpu() for number, counts in self.snapshots.items()}
        self._range, self._average = (None if each is None else each.cpu() for each in (self._range, self._average))
        if self._extremes:
            self._extremes = list(torch.stack(self._extremes).cpu())

    @property
    def samples(self) -> int:
        """Number of committed samples."""
        return len(self._extremes)

    @property
    def extremes(self) -> torch.Tensor:
        """Minimum and maximum of each sample and group, float32, (samples, groups, 2)."""
        return _signed(torch.stack(self._extremes, dim=1))

    @property
    def channel_range(self) -> torch.Tensor:
        """Minimum and maximum of each channel, float32, (channels, 2)."""
        return _signed(None if self._range is None else self._range.view(2, -1))

    @property
    def channel_average(self) -> torch.Tensor:
        """Moving averages of each channel's minimum and maximum in each sample, float32, (channels, 2)."""
        return _signed(None if self._average is None else self._average.view(2, -1))


def commit_all(sketches: Sequence[Sketch]) -> list[torch.Tensor | None]:
    """End the current samples of several sketches at once; those of a batch one after another.

    Returns:
        For each the samples' negated minima and their maxima, of shape (samples, 2, groups), or None without data.
    """
    seen = [sketch for sketch in sketches if sketch._current is not None]
    ended: dict[int, torch.Tensor] = {}
    if seen:
        # Few kernels for all sketches: each launch costs a GPU more than the few numbers in it.
        flat = torch.cat([sketch._take() for sketch in seen]).float()
        lengths = [length for sketch in seen for length in sketch._lengths]
        spans = torch.tensor(lengths, device=flat.device)
        maxima = torch.segment_reduce(flat, "max", lengths=spans, unsafe=True)
        parts = torch.split(flat, [sum(sketch._lengths) for sketch in seen])
        number = len(seen[0]._lengths) // (2 * seen[0].groups)
        samples = list(zip(*(part.view(number, -1).unbind() for part in parts), strict=True))
        for sketch, first in zip(seen, samples[0], strict=True):
            if sketch._range is None:
                sketch._range, sketch._average = first.clone(), first.clone()
        ranges = cast(list[torch.Tensor], [sketch._range for sketch in seen])
        averages = cast(list[torch.Tensor], [sketch._average for sketch in seen])
        for currents in samples:
            torch._foreach_maximum_(ranges, currents)
            torch._foreach_lerp_(averages, currents, [sketch.averaging_constant for sketch in seen])
        ends = torch.split(maxima, [len(sketch._lengths) for sketch in seen])
        ended = {id(sketch): end for sketch, end in zip(seen, ends, strict=True)}
    return [sketch._end(ended.get(id(sketch))) for sketch in sketches]


def _extremes(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return minimum and maximum of each channel."""
    if tokens.is_cuda:
        low, high = torch.aminmax(tokens, dim=0)
        return low, high
    # Two passes are several times faster than aminmax over the first dimension of a tensor on a CPU.
    return tokens.amin(0), tokens.amax(0)


def _counts(patterns: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the counts of the bins, of shape (groups, BINS); several groups are the second dimension of `patterns`."""
    found = patterns.int() if patterns.is_cuda or groups > 1 else patterns
    if groups > 1:
        found.add_(torch.arange(groups, dtype=torch.int32, device=found.device).mul_(BINS)[:, None])
    if patterns.is_cuda:
        # bincount would read the largest value, which synchronizes the GPU.
        return torch.histc(found, bins=groups * BINS, min=_FIRST, max=_FIRST + groups * BINS).view(groups, BINS)
    return torch.bincount(found.flatten().sub_(_FIRST), minlength=groups * BINS).view(groups, BINS)


def _signed(pair: torch.Tensor | None) -> torch.Tensor:
    """Convert negated minima and maxima, stacked in front, to minima and maxima as the last dimension."""
    if pair is None:
        raise ValueError("nothing was observed")
    return torch.stack([-pair[0], pair[1]], dim=-1)
