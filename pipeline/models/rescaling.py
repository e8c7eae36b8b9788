"""Rescaling factors of AWQ and SmoothQuant, recovered from the layer in front of each weight.

Both leave the model's function as it was: they multiply the columns of a weight by s, one factor an input channel, and
divide what makes those channels by the same s (Lin et al., "AWQ", 2023, section 3.2; Xiao et al., "SmoothQuant", 2022,
section 4). So s is in the checkpoint a second time, and a weight is compared with BF16's by dividing its columns by it:

* behind a norm, s is the norm's BF16 weight over its new one, exact up to the rounding of both to BF16 (2^-8 each);
* behind a Linear (v_proj in front of o_proj, up_proj in front of down_proj), which is quantized itself, s is the least
  squares factor between a row of BF16's weight and the row that is stored. Its relative error is that of the row over
  the square root of the row's length: below a tenth of a weight's own error from 100 inputs on. Where the Linear is
  fused (Phi-3's qkv_proj, gate_up_proj), its last rows make the inputs.

A factor that was forgotten on either side, or put on another channel, is therefore an error of the weight behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipeline.models.architecture import text_config

# Models whose norms multiply by one plus the stored weight.
OFFSET_NORMS = (
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "muse_glimmer",
    "muse_glimmer_text",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
)

# Rounded to BF16 up to four times: the norm before and after, one of Gemma's on its way, the product.
REROUNDED = 2.0**-6
# Largest relative error of a number that is rounded to BF16: half a unit of its seven bits behind the first.
HALF_UNIT = 2.0**-8
# Factors of a Linear are fitted, to the error of a row over the square root of its length.
FITTED = 2.0**-4

Read = Callable[[str], torch.Tensor]


def norm_offset(config: Mapping[str, Any]) -> float:
    """Return what a model's norms add to their stored weight."""
    return 1.0 if text_config(config).get("model_type") in OFFSET_NORMS else 0.0


class Factors:
    """Factors of the input channels of each weight of a rescaled checkpoint."""

    def __init__(self, pairs: Mapping[str, str], offset: float, original: Read, stored: Read, weight: Read) -> None:
        """Compute factors on access.

        Args:
            pairs: module whose columns were multiplied -> the one in front that was divided.
            offset: what the norms add to their stored weight.
            original: a tensor of the BF16 checkpoint by name, float32.
            stored: a tensor of the quantized checkpoint by name, float32.
            weight: a module's dequantized weight by the module's name, float32 of shape (out, in).
        """
        self.pairs, self._offset, self._original, self._stored, self._weight = pairs, offset, original, stored, weight
        self.divided = frozenset(pairs.values())

    def of(self, module: str) -> torch.Tensor | float:
        """Return the factor of each weight of a module, of shape (out, in); 1 if it was not rescaled."""
        if module not in self.pairs and module not in self.divided:
            return 1.0
        return self.inputs(module) * self.outputs(module)[:, None]

    def inputs(self, module: str) -> torch.Tensor:
        """Return the factor of each input channel, of shape (in,): 1 if nothing in front of it was divided."""
        width = self._original(f"{module}.weight").shape[-1]
        maker = self.pairs.get(module)
        return 1 / self.outputs(maker)[-width:] if maker else self._original(f"{module}.weight").new_ones(width)

    def outputs(self, module: str) -> torch.Tensor:
        """Return the factor of each output channel, of shape (out,): 1 if nothing behind it was multiplied."""
        original = self._original(f"{module}.weight")
        if module not in self.divided:
            return original.new_ones(len(original))
        if original.dim() == 1:
            before, after = original + self._offset, self._stored(f"{module}.weight") + self._offset
            # A channel that is zero stays zero, whatever it is divided by.
            return torch.where(before == after, torch.ones_like(before), after / before)
        # Fit the rescaled weights, as they were rounded: there every input has the same error.
        moved = original * self.inputs(module)
        return (self._weight(module) * moved).sum(1) / moved.square().sum(1).clamp_min(1e-30)

    def is_norm(self, module: str) -> bool:
        """Return whether a module multiplies its channels one by one."""
        return self._original(f"{module}.weight").dim() == 1

    def precision(self, module: str) -> float:
        """Return the largest relative error of a divided module's factors, and of a BF16 tensor multiplied by them."""
        return REROUNDED if self.is_norm(module) else FITTED

    def noise(self, module: str) -> torch.Tensor | float:
        """Return the relative error of a module's input factors behind a norm; 0 behind a Linear, whose rows tell it.

        A norm with an offset is stored without it: half a unit of its weight is more of a small `offset + weight`.
        """
        maker = self.pairs.get(module)
        if maker is None or not self.is_norm(maker) or not self._offset:
            return 0.0
        weight = self._stored(f"{maker}.weight")
        return HALF_UNIT * weight.abs() / (weight + self._offset).abs()
