"""What watches an activation while the model runs: a streaming statistic, no activation kept."""

from __future__ import annotations

from typing import Any

import torch


class MinMaxObserver:
    """Smallest and largest value seen at the input of a module, over all tokens and channels."""

    def __init__(self) -> None:
        """Has seen nothing."""
        self.minimum = torch.tensor(float("inf"))
        self.maximum = torch.tensor(float("-inf"))

    def hook(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """A forward pre-hook; `inputs[0]` has shape (..., in_features)."""
        low, high = torch.aminmax(inputs[0].detach())
        # torch.minimum propagates NaN, so a bad activation stays visible.
        self.minimum = torch.minimum(self.minimum, low.float().cpu())
        self.maximum = torch.maximum(self.maximum, high.float().cpu())

    def is_finite(self) -> bool:
        """Whether everything seen so far was finite (or nothing was seen)."""
        if bool(self.minimum > self.maximum):
            return True
        return bool(torch.isfinite(self.minimum) & torch.isfinite(self.maximum))

    def range(self) -> torch.Tensor:
        """Shape (2,): minimum and maximum, float32; zeros where the module never ran."""
        seen = torch.stack([self.minimum, self.maximum])
        return seen if bool(self.minimum <= self.maximum) else torch.zeros(2)
