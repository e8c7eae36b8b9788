"""Tokens that the router of the BF16 model sends to each expert during calibration.

Every expert is shown every token, so that none is without data, whatever the router chooses. The counts say how much of
that data is what an expert sees in use: ranges and rounding of an expert that no token chooses rest on others' tokens.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from pipeline.models.loading import linear_experts, watch_routing
from pipeline.results.calibration import ExpertLayer

_LAYER = re.compile(r"\.(\d+)\.")


class ExpertCoverage:
    """Counts of a model's experts, and the hooks that feed them; empty for a dense model."""

    def __init__(self, model: Any) -> None:
        """Attach to `model`, whose experts are Linear modules."""
        self._experts = {name: int(module.num_experts) for name, module in linear_experts(model).items()}
        # Of each sample, as every sample passes a layer once and in order.
        self._counts: dict[str, list[torch.Tensor]] = {}
        self._handles = watch_routing(model, self._see)

    def _see(self, name: str, chosen: torch.Tensor) -> None:
        counts = torch.zeros(self._experts[name], dtype=torch.int64, device=chosen.device)
        indices = chosen.flatten().long()
        counts.index_add_(0, indices, torch.ones_like(indices))
        self._counts.setdefault(name, []).append(counts)

    def detach(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()

    def layers(self) -> tuple[ExpertLayer, ...]:
        """Return the counts of each layer whose router was seen, in the order of the model."""
        return tuple(_layer(name, torch.stack(self._counts[name])) for name in self._experts if name in self._counts)


def _layer(name: str, counts: torch.Tensor) -> ExpertLayer:
    """Return one layer's, by its counts of shape (samples, experts)."""
    number, is_sent = _LAYER.search(name), counts > 0
    first = zip(is_sent.any(0).tolist(), is_sent.int().argmax(0).tolist(), strict=True)
    return ExpertLayer(
        name=name,
        layer=int(number[1]) if number else None,
        tokens=tuple(counts.sum(0).tolist()),
        since=tuple(sample if found else None for found, sample in first),
    )
